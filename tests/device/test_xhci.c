/* test_xhci.c - the USB controller and its devices by their driver (xhci_driver.h): registers, ports, enumeration, commands, control and
 * interrupt transfers, storage with good and bad images, rings that cannot be, pauses and saves in the middle, and what every device must
 * do.
 */
#include <time.h>

#include "tests/device/xhci_driver.h"

static void test_registers(void **state)
{
    struct drv r;
    drv_init(&r, "tks");
    assert_int_equal(drv_in(&r, 0) & 0xff, OP);
    assert_int_equal(drv_in(&r, 0) >> 16, 0x0100);
    assert_int_equal(drv_in(&r, 4), 16 | 8 << 8 | 8 << 24);
    assert_int_equal(drv_in(&r, 0x14), DB);
    assert_int_equal(drv_in(&r, 0x18), RT);
    assert_int_equal(dp_space_load(r.w.env.memory, DRV_BAR, 1), OP); /* SeaBIOS reads one byte */
    /* capabilities: legacy, USB 2, USB 3 */
    unsigned at = (drv_in(&r, 0x10) >> 16) * 4;
    assert_int_equal(drv_in(&r, at) & 0xff, 1);
    drv_out(&r, at, 1 << 16);
    assert_int_equal(drv_in(&r, at) >> 16 & 1, 1); /* firmware's */
    drv_out(&r, at, drv_in(&r, at) | 1 << 24);
    assert_int_equal(drv_in(&r, at) >> 16, 0x100); /* the system has it, firmware has not */
    at += (drv_in(&r, at) >> 8 & 0xff) * 4;
    assert_int_equal(drv_in(&r, at) & 0xff0000ff, 0x02000002);
    assert_int_equal(drv_in(&r, at + 8) & 0xffff, 0x0405);
    at += (drv_in(&r, at) >> 8 & 0xff) * 4;
    assert_int_equal(drv_in(&r, at) & 0xff00ffff, 0x03000002);
    assert_int_equal(drv_in(&r, at + 8) & 0xffff, 0x0401);
    /* state */
    assert_int_equal(drv_in(&r, OP + 4), 1);
    drv_out64(&r, OP + 0x30, 0x123456789abcdef0);
    assert_int_equal(dp_space_load(r.w.env.memory, DRV_BAR + OP + 0x30, 8), 0x123456789abcdec0);
    drv_out(&r, OP, 0x100);
    drv_out(&r, OP, 0x200); /* restore: there is nothing to restore */
    assert_int_equal(drv_in(&r, OP + 4) & 0x400, 0x400);
    drv_out(&r, OP, 2);
    assert_int_equal(drv_in(&r, OP), 0);
    assert_int_equal(drv_in(&r, OP + 4), 1);
    assert_int_equal(dp_space_load(r.w.env.memory, DRV_BAR + OP + 0x30, 8), 0);
    drv_fini(&r);
}

static void test_frames(void **state)
{
    struct drv r;
    drv_init(&r, "t");
    dp_clock_advance(r.w.env.clock, 1000000);
    assert_int_equal(drv_in(&r, RT), 0);
    drv_start(&r);
    dp_clock_advance(r.w.env.clock, 1000000);
    assert_int_equal(drv_in(&r, RT), 8);
    dp_clock_advance(r.w.env.clock, 2048000000);
    assert_int_equal(drv_in(&r, RT), 8);
    drv_out(&r, OP, 0);
    dp_clock_advance(r.w.env.clock, 1000000);
    assert_int_equal(drv_in(&r, RT), 8);
    drv_fini(&r);
}

static void test_ports(void **state)
{
    struct drv r;
    struct drv_event e = {0};
    drv_init(&r, "ts");
    assert_int_equal(drv_in(&r, PORTSC5), 1u | 7 << 5 | 1 << 9 | 3 << 10 | 1 << 17);       /* connected, polling, high speed */
    assert_int_equal(drv_in(&r, PORTSC1), 3u | 0 << 5 | 1 << 9 | 4 << 10 | 1 << 17); /* SuperSpeed enables itself */
    assert_int_equal(drv_in(&r, PORTSC1 + 0x10), 5u << 5 | 1 << 9);
    drv_start(&r);
    for (unsigned i = 0; i < 2; i++) { /* what changed before is told */
        assert_true(drv_event(&r, &e));
        assert_int_equal(e.control >> 10 & 63, E_PORT);
        assert_int_equal(e.parameter >> 24, i ? 5 : 1);
    }
    assert_false(drv_event(&r, &e));
    assert_int_equal(drv_in(&r, OP + 4) & 0x18, 0x18);
    drv_out(&r, PORTSC5, 1 << 9 | 1 << 17);
    assert_int_equal(drv_in(&r, PORTSC5) >> 17, 0);
    drv_out(&r, PORTSC5, 1 << 9 | 1 << 4);
    assert_int_equal(drv_in(&r, PORTSC5), 3u | 1 << 9 | 3 << 10 | 1 << 21);
    assert_true(drv_event(&r, &e));
    assert_int_equal(e.parameter >> 24, 5);
    drv_out(&r, PORTSC5, 1 << 9 | 1 << 21);
    drv_out(&r, PORTSC5, 1 << 9 | 1 << 16 | 3 << 5); /* suspend, and resume by way of Resume */
    assert_int_equal(drv_in(&r, PORTSC5) >> 5 & 15, 3);
    drv_out(&r, PORTSC5, 1 << 9 | 1 << 16 | 15 << 5);
    assert_int_equal(drv_in(&r, PORTSC5) >> 5 & 15, 15);
    drv_out(&r, PORTSC5, 1 << 9 | 1 << 16);
    assert_int_equal(drv_in(&r, PORTSC5), 3u | 1 << 9 | 3 << 10 | 1 << 22);
    drv_out(&r, PORTSC1, 1 << 9 | 1u << 31); /* warm reset */
    assert_int_equal(drv_in(&r, PORTSC1) & (1 << 19 | 1 << 21), 1 << 19 | 1 << 21);
    drv_out(&r, PORTSC5, 1 << 9 | 2); /* off */
    assert_int_equal(drv_in(&r, PORTSC5) & 2, 0);
    drv_fini(&r);
}

static void test_commands(void **state)
{
    struct drv r;
    unsigned slot, port = 5;
    drv_init(&r, "t");
    drv_start(&r);
    assert_int_equal(drv_command(&r, 0, TYPE(C_NO_OP), NULL), OK);
    assert_int_equal(drv_command(&r, 0, TYPE(C_FORCE_HEADER), NULL), TRB_ERROR);
    assert_int_equal(drv_command(&r, 0, TYPE(C_DISABLE) | 3 << 24, NULL), SLOT_OFF);
    for (unsigned i = 1; i <= 16; i++) {
        assert_int_equal(drv_command(&r, 0, TYPE(C_ENABLE), &slot), OK);
        assert_int_equal(slot, i);
    }
    assert_int_equal(drv_command(&r, 0, TYPE(C_ENABLE), &slot), NO_SLOTS);
    for (unsigned i = 2; i <= 16; i++)
        assert_int_equal(drv_command(&r, 0, TYPE(C_DISABLE) | i << 24, NULL), OK);
    /* addresses: a port that is not reset, bad flags, block set address, then for good */
    drv_context(&r, 0, 0, 3, 0);
    drv_context(&r, 1, 1u << 27 | 3 << 20, port << 16, 0);
    drv_context(&r, 2, 0, 4 << 3 | 64 << 16, drv_new_ring(&r, 1, 1)->base | 1);
    assert_int_equal(drv_command(&r, INPUT, TYPE(C_ADDRESS) | 1 << 24, NULL), TRANSACTION);
    drv_out(&r, PORTSC5, 1 << 9 | 1 << 4);
    drv_context(&r, 0, 0, 1, 0);
    assert_int_equal(drv_command(&r, INPUT, TYPE(C_ADDRESS) | 1 << 24, NULL), PARAMETER);
    drv_context(&r, 0, 0, 3, 0);
    assert_int_equal(drv_command(&r, 1ull << 45, TYPE(C_ADDRESS) | 1 << 24, NULL), PARAMETER);
    assert_int_equal(drv_command(&r, INPUT, TYPE(C_ADDRESS) | 1 << 24 | 0x200, NULL), OK);
    uint8_t *context = drv_ram(&r, CONTEXTS + 0x1000);
    assert_int_equal(dp_ld32(context + 12), 1u << 27);
    assert_int_equal(drv_command(&r, INPUT, TYPE(C_ADDRESS) | 1 << 24 | 0x200, NULL), CONTEXT_STATE);
    assert_int_equal(drv_command(&r, INPUT, TYPE(C_ADDRESS) | 1 << 24, NULL), OK);
    assert_int_equal(dp_ld32(context + 12), 2u << 27 | 1);
    assert_int_equal(dp_ld32(context + 32) & 7, 1); /* running */
    /* endpoints that are not there, states */
    assert_int_equal(drv_command(&r, 0, TYPE(C_STOP_EP) | 1 << 24 | 3 << 16, NULL), EP_OFF);
    assert_int_equal(drv_command(&r, 0, TYPE(C_RESET_EP) | 1 << 24 | 1 << 16, NULL), CONTEXT_STATE);
    assert_int_equal(drv_command(&r, 0, TYPE(C_SET_DEQUEUE) | 1 << 24 | 1 << 16, NULL), CONTEXT_STATE);
    assert_int_equal(drv_command(&r, 0, TYPE(C_STOP_EP) | 1 << 24 | 1 << 16, NULL), OK);
    assert_int_equal(dp_ld32(context + 32) & 7, 3);
    assert_int_equal(drv_command(&r, drv_new_ring(&r, 1, 1)->base | 1, TYPE(C_SET_DEQUEUE) | 1 << 24 | 1 << 16, NULL), OK);
    /* configuration: isochronous endpoints and streams are refused, the state follows */
    assert_true(drv_configure(&r, 1, 1, 0, true, 8));
    assert_int_equal(dp_ld32(context + 12) >> 27, 3);
    assert_int_equal(dp_ld32(context) >> 27, 3);
    assert_int_equal(dp_ld32(context + 3 * 32) & 7, 1);
    drv_context(&r, 0, 0, 1 | 1 << 5, 0);
    drv_context(&r, 6, 0, 5 << 3, RINGS | 1);
    assert_int_equal(drv_command(&r, INPUT, TYPE(C_CONFIGURE) | 1 << 24, NULL), 7);
    drv_context(&r, 6, 1 << 10, 6 << 3, RINGS | 1);
    assert_int_equal(drv_command(&r, INPUT, TYPE(C_CONFIGURE) | 1 << 24, NULL), PARAMETER);
    drv_context(&r, 0, 0, 2, 0);
    drv_context(&r, 2, 0, 4 << 3 | 8 << 16, 0);
    assert_int_equal(drv_command(&r, INPUT, TYPE(C_EVALUATE) | 1 << 24, NULL), OK);
    assert_int_equal(dp_ld32(context + 36) >> 16, 8);
    assert_int_equal(drv_command(&r, 0, TYPE(C_CONFIGURE) | 1 << 24 | 0x200, NULL), OK); /* deconfigure */
    assert_int_equal(dp_ld32(context + 12) >> 27, 2);
    assert_int_equal(drv_command(&r, 0, TYPE(C_RESET_DEVICE) | 1 << 24, NULL), OK);
    assert_int_equal(dp_ld32(context + 12), 1u << 27);
    /* stop the ring */
    struct drv_event e = {0};
    assert_int_equal(drv_in(&r, OP + 0x18), 8);
    drv_out(&r, OP + 0x18, 2);
    assert_true(drv_wait(&r, &e));
    assert_int_equal(e.status >> 24, RING_STOPPED);
    assert_int_equal(drv_in(&r, OP + 0x18), 0);
    drv_fini(&r);
}

static void test_descriptors(void **state)
{
    struct drv r;
    drv_init(&r, "tkms");
    drv_start(&r);
    for (unsigned i = 0; i < 4; i++) {
        unsigned slot = drv_address(&r, i < 3 ? i + 5 : 1), size = 18, total;
        assert_int_equal(slot, i + 1);
        uint8_t *b = drv_ram(&r, DATA);
        assert_int_equal(drv_control(&r, slot, 0x80, 6, 0x0100, 0, &size), OK);
        assert_int_equal(size, 18);
        assert_int_equal(b[0], 18);
        assert_int_equal(b[3], i < 3 ? 2 : 3);
        size = 8; /* shorter than it is */
        assert_int_equal(drv_control(&r, slot, 0x80, 6, 0x0100, 0, &size), OK);
        size = 9;
        assert_int_equal(drv_control(&r, slot, 0x80, 6, 0x0200, 0, &size), OK);
        total = dp_ld16(b + 2);
        size = 255; /* longer */
        assert_int_equal(drv_control(&r, slot, 0x80, 6, 0x0200, 0, &size), OK);
        assert_int_equal(size, total);
        unsigned at = 0, endpoints = 0, want = 0;
        for (; at < total && b[at]; at += b[at]) {
            want += b[at + 1] == 4 ? b[at + 4] : 0;
            endpoints += b[at + 1] == 5;
        }
        assert_int_equal(at, total);
        assert_int_equal(endpoints, want);
        for (unsigned s = 0; s <= 4; s++) {
            size = 255;
            assert_int_equal(drv_control(&r, slot, 0x80, 6, 0x0300 | s, s ? 0x409 : 0, &size), s < 4 ? OK : STALL);
            if (s == 4) {
                assert_int_equal(drv_command(&r, 0, TYPE(C_RESET_EP) | slot << 24 | 1 << 16, NULL), OK);
                struct drv_ring *ring = &r.ep[slot][1];
                assert_int_equal(
                    drv_command(&r, (ring->base + 16 * ring->at) | ring->cycle, TYPE(C_SET_DEQUEUE) | slot << 24 | 1 << 16, NULL), OK);
                break;
            }
            assert_int_equal(b[0], size);
            assert_int_equal(b[1], 3);
        }
        size = 5;
        unsigned bos = drv_control(&r, slot, 0x80, 6, 0x0f00, 0, &size);
        assert_int_equal(bos, i < 3 ? STALL : OK);
    }
    drv_fini(&r);
}

static unsigned hid(struct drv *r, unsigned port, unsigned packet)
{
    unsigned slot = drv_address(r, port);
    return slot && drv_configure(r, slot, 1, 0, true, packet) ? slot : 0;
}

static void test_tablet(void **state)
{
    struct drv r;
    struct drv_event e = {0};
    drv_init(&r, "t");
    assert_false(dp_xhci_position(r.d, 1, 2, 0, 0)); /* nobody is there */
    drv_start(&r);
    unsigned slot = hid(&r, 5, 8);
    assert_int_equal(slot, 1);
    assert_true(dp_xhci_listens(r.d, DP_USB_TABLET));
    assert_false(dp_xhci_listens(r.d, DP_USB_KEYBOARD));
    uint8_t *b = drv_ram(&r, DATA);
    memset(b, 0xee, 8);
    uint64_t trb = drv_queue(&r, slot, 3, DATA, 8);
    assert_false(drv_wait(&r, &e)); /* NAK */
    assert_true(dp_xhci_position(r.d, 0x1234, 0x7fff, 0, 1));
    assert_true(drv_wait(&r, &e));
    assert_int_equal(e.parameter, trb);
    assert_int_equal(e.status, SHORT_PACKET << 24 | 2);
    assert_int_equal(e.control >> 16, slot << 8 | 3);
    assert_memory_equal(b, ((uint8_t[]){1, 0x34, 0x12, 0xff, 0x7f, 0, 0xee}), 7);
    /* movements are merged, clicks and the wheel are not */
    dp_xhci_position(r.d, 10, 10, 0, 1);
    dp_xhci_position(r.d, 20, 20, 0, 1);
    dp_xhci_position(r.d, 20, 20, 0, 0);
    dp_xhci_position(r.d, 20, 20, 1, 0);
    dp_xhci_position(r.d, 20, 20, -1, 0);
    static const uint8_t want[4][6] = {{1, 20, 0, 20}, {0, 20, 0, 20}, {0, 20, 0, 20, 0, 1}, {0, 20, 0, 20, 0, 0xff}};
    for (unsigned i = 0; i < 4; i++) {
        drv_queue(&r, slot, 3, DATA, 6);
        assert_true(drv_wait(&r, &e));
        assert_int_equal(e.status >> 24, OK);
        assert_memory_equal(b, want[i], 6);
    }
    drv_queue(&r, slot, 3, DATA, 6);
    dp_xhci_position(r.d, 20, 20, 0, 0); /* as it is: no news */
    assert_false(drv_wait(&r, &e));
    /* Stop Endpoint tells where it was; the TD is done after the doorbell rings again */
    drv_put(&r, &r.commands, 0, 0, TYPE(C_STOP_EP) | slot << 24 | 3 << 16);
    drv_out(&r, DB, 0);
    assert_true(drv_wait(&r, &e));
    assert_int_equal(e.control >> 10 & 63, E_TRANSFER);
    assert_int_equal(e.status, STOPPED << 24 | 6);
    assert_true(drv_wait(&r, &e));
    assert_int_equal(e.status >> 24, OK);
    dp_xhci_position(r.d, 30, 30, 0, 0);
    assert_false(drv_wait(&r, &e));
    drv_doorbell(&r, slot, 3);
    assert_true(drv_wait(&r, &e));
    assert_int_equal(e.status >> 24, OK);
    assert_int_equal(b[1], 30);
    /* too little room */
    dp_xhci_position(r.d, 40, 30, 0, 0);
    drv_queue(&r, slot, 3, DATA, 4);
    assert_true(drv_wait(&r, &e));
    assert_int_equal(e.status >> 24, BABBLE);
    drv_fini(&r);
}

static void test_keyboard(void **state)
{
    struct drv r;
    struct drv_event e = {0};
    unsigned none = 0, size;
    drv_init(&r, "k");
    drv_start(&r);
    unsigned slot = hid(&r, 5, 8);
    uint8_t *b = drv_ram(&r, DATA);
    assert_int_equal(drv_control(&r, slot, 0x21, 11, 0, 0, &none), OK); /* boot protocol */
    assert_true(dp_xhci_key(r.d, 42, true));                           /* shift, a, a up, shift up */
    dp_xhci_key(r.d, 30, true);
    dp_xhci_key(r.d, 30, true);
    dp_xhci_key(r.d, 30, false);
    dp_xhci_key(r.d, 42, false);
    static const uint8_t want[4][8] = {{2}, {2, 0, 4}, {2}, {0}};
    for (unsigned i = 0; i < 4; i++) {
        drv_queue(&r, slot, 3, DATA, 8);
        assert_true(drv_wait(&r, &e));
        assert_int_equal(e.status >> 24, OK);
        assert_memory_equal(b, want[i], 8);
    }
    for (unsigned code = 2; code < 9; code++) { /* seven keys are too many */
        dp_xhci_key(r.d, code, true);
        drv_queue(&r, slot, 3, DATA, 8);
        assert_true(drv_wait(&r, &e));
    }
    assert_memory_equal(b, ((uint8_t[]){0, 0, 1, 1, 1, 1, 1, 1}), 8);
    for (unsigned code = 2; code < 9; code++)
        dp_xhci_key(r.d, code, false);
    size = 8;
    assert_int_equal(drv_control(&r, slot, 0xa1, 1, 0x100, 0, &size), OK); /* GET_REPORT */
    assert_memory_equal(b, ((uint8_t[8]){0}), 8);
    b[0] = 3;
    size = 1;
    assert_int_equal(drv_control(&r, slot, 0x21, 9, 0x200, 0, &size), OK); /* LEDs */
    b[0] = 0;
    assert_int_equal(drv_control(&r, slot, 0xa1, 1, 0x200, 0, &size), OK);
    assert_int_equal(b[0], 3);
    /* the idle rate repeats */
    for (unsigned i = 0; i < 7; i++) {
        drv_queue(&r, slot, 3, DATA, 8);
        assert_true(drv_wait(&r, &e));
    }
    drv_queue(&r, slot, 3, DATA, 8);
    assert_false(drv_wait(&r, &e));
    assert_int_equal(drv_control(&r, slot, 0x21, 10, 8 << 8, 0, &none), OK);
    dp_clock_advance(r.w.env.clock, 31000000);
    assert_false(drv_wait(&r, &e));
    dp_clock_advance(r.w.env.clock, 2000000);
    assert_true(drv_wait(&r, &e));
    drv_fini(&r);
}

static void test_mouse(void **state)
{
    struct drv r;
    struct drv_event e = {0};
    drv_init(&r, "m");
    drv_start(&r);
    unsigned slot = hid(&r, 5, 4);
    dp_xhci_motion(r.d, 100, -100, 0, 0);
    dp_xhci_motion(r.d, 100, -100, 1, 0);
    dp_xhci_motion(r.d, 0, 0, 0, 4);
    static const uint8_t want[][4] = {{0, 127, 0x81, 1}, {0, 73, (uint8_t)-73, 0}, {4, 0, 0, 0}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(want); i++) {
        drv_queue(&r, slot, 3, DATA, 4);
        assert_true(drv_wait(&r, &e));
        assert_memory_equal(drv_ram(&r, DATA), want[i], 4);
    }
    drv_fini(&r);
}

/* ---- storage ---- */

static unsigned storage(struct drv *r)
{
    unsigned slot = drv_address(r, 1);
    return slot && drv_configure(r, slot, 1, 2, false, 1024) ? slot : 0;
}

static void put_be32(uint8_t *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static int rw10(struct drv *r, unsigned slot, bool write, uint32_t lba, unsigned n, uint32_t *residue)
{
    uint8_t c[10] = {write ? 0x2a : 0x28};
    put_be32(c + 2, lba);
    c[7] = (uint8_t)(n >> 8);
    c[8] = (uint8_t)n;
    return drv_scsi(r, slot, c, 10, !write, n * 512, DATA, residue);
}

static void sense(struct drv *r, unsigned slot, unsigned key, unsigned asc)
{
    assert_int_equal(drv_scsi(r, slot, (uint8_t[6]){3, 0, 0, 0, 18}, 6, true, 18, DATA, NULL), 0);
    assert_int_equal(drv_ram(r, DATA)[2], key);
    assert_int_equal(drv_ram(r, DATA)[12], asc);
}

static void test_storage(void **state)
{
    struct drv r;
    uint32_t residue;
    unsigned size = 1;
    drv_init(&r, "s");
    drv_start(&r);
    unsigned slot = storage(&r);
    assert_int_equal(slot, 1);
    uint8_t *b = drv_ram(&r, DATA);
    assert_int_equal(drv_control(&r, slot, 0xa1, 0xfe, 0, 0, &size), OK); /* GET MAX LUN */
    assert_int_equal(b[0], 0);
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[6]){0x12, 0, 0, 0, 36}, 6, true, 36, DATA, &residue), 0);
    assert_int_equal(residue, 0);
    assert_memory_equal(b + 8, "DOPPEL  USB STORAGE", 19);
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[6]){0x12, 1, 0x80, 0, 255}, 6, true, 255, DATA, &residue), 0); /* short */
    assert_int_equal(residue, 255 - 4 - 12);
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[6]){0}, 6, false, 0, 0, NULL), 0);
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[10]){0x25}, 10, true, 8, DATA, NULL), 0);
    assert_memory_equal(b, ((uint8_t[]){0, 0, 7, 0xff, 0, 0, 2, 0}), 8);
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[16]){0x9e, 0x10, [13] = 32}, 16, true, 32, DATA, NULL), 0);
    assert_memory_equal(b, ((uint8_t[]){0, 0, 0, 0, 0, 0, 7, 0xff, 0, 0, 2, 0}), 12);
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[6]){0x1a, 0, 0x3f, 0, 192}, 6, true, 192, DATA, NULL), 0);
    assert_int_equal(b[2], 0x10);
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[10]){0x23, [8] = 12}, 10, true, 12, DATA, NULL), 0);
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[12]){0xa0, [9] = 16}, 12, true, 16, DATA, NULL), 0);
    /* read, write, flush */
    assert_int_equal(rw10(&r, slot, false, 5, 3, &residue), 0);
    assert_int_equal(residue, 0);
    assert_memory_equal(b, r.block.data + 5 * 512, 3 * 512);
    for (unsigned i = 0; i < 60 * 512; i++)
        b[i] = (uint8_t)(i * 7);
    assert_int_equal(rw10(&r, slot, true, 100, 60, &residue), 0);
    assert_memory_equal(r.block.data + 100 * 512, b, 60 * 512);
    assert_int_equal(r.block.flushes, 0);
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[10]){0x35}, 10, false, 0, 0, NULL), 0);
    assert_int_equal(r.block.flushes, 1);
    /* errors: out of range, an unknown command, bad sectors, protection */
    assert_int_equal(rw10(&r, slot, false, 2047, 2, &residue), 1);
    assert_int_equal(residue, 1024);
    sense(&r, slot, 5, 0x21);
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[6]){0xc7}, 6, true, 10, DATA, NULL), 1);
    sense(&r, slot, 5, 0x20);
    sense(&r, slot, 0, 0);
    r.block.bad_from = 200 * 512;
    r.block.bad_to = 201 * 512;
    assert_int_equal(rw10(&r, slot, false, 198, 10, &residue), 1);
    sense(&r, slot, 3, 0x11);
    assert_int_equal(rw10(&r, slot, true, 198, 10, &residue), 1);
    sense(&r, slot, 3, 0x0c);
    r.block.flush_fails = true;
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[10]){0x35}, 10, false, 0, 0, NULL), 1);
    sense(&r, slot, 3, 0x0c);
    r.block.readonly = true;
    assert_int_equal(rw10(&r, slot, true, 1, 1, &residue), 1);
    sense(&r, slot, 7, 0x27);
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[6]){0x1a, 0, 0x3f, 0, 192}, 6, true, 192, DATA, NULL), 0);
    assert_int_equal(b[2], 0x90);
    /* the host and the command disagree: phase errors */
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[10]){0x28, [8] = 2}, 10, true, 512, DATA, &residue), 2);
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[10]){0x28, [8] = 1}, 10, false, 512, DATA, &residue), 2);
    assert_int_equal(rw10(&r, slot, false, 7, 1, &residue), 0);
    assert_memory_equal(b, r.block.data + 7 * 512, 512);
    drv_fini(&r);
}

/* Data in pieces that are no sectors, in TDs of many TRBs, larger than the bounce buffer. */
static void test_storage_pieces(void **state)
{
    struct drv r;
    struct drv_event e = {0};
    drv_init(&r, "s");
    drv_start(&r);
    unsigned slot = storage(&r), total = 600 * 512, done = 0, trbs;
    uint8_t *cbw = drv_ram(&r, DATA + 0x200000);
    for (unsigned write = 0; write < 2; write++) {
        struct drv_ring *ring = &r.ep[slot][write ? 4 : 3];
        memset(cbw, 0, 31);
        memcpy(cbw, "USBC", 4);
        dp_st32(cbw + 8, total);
        cbw[12] = write ? 0 : 0x80;
        cbw[14] = 10;
        memcpy(cbw + 15, (uint8_t[10]){write ? 0x2a : 0x28, [5] = 16, [7] = 600 >> 8, [8] = 600 & 0xff}, 10);
        drv_queue(&r, slot, 4, DATA + 0x200000, 31);
        assert_true(drv_wait(&r, &e));
        if (write)
            for (unsigned i = 0; i < total; i++)
                drv_ram(&r, DATA)[i] = (uint8_t)(i * 13 + i / 256);
        for (done = 0; done < total;) { /* TDs of 1000, 2000, ... bytes in TRBs of 700 at odd places, the last ones large */
            unsigned td = DP_MIN(done < 50000 ? 1000 + done / 10 : 150001, total - done), at = 0;
            for (trbs = 0; at < td; trbs++) {
                unsigned n = DP_MIN(done < 50000 ? 700u : 5000u, td - at);
                bool last = at + n == td;
                drv_put(&r, ring, DATA + done + at, n, TYPE(T_NORMAL) | ISP | (last ? IOC : CHAIN));
                at += n;
            }
            drv_doorbell(&r, slot, write ? 4 : 3);
            dp_block_drain(&r.block);
            assert_true(drv_wait(&r, &e));
            assert_int_equal(e.status, OK << 24);
            done += td;
        }
        drv_queue(&r, slot, 3, DATA + 0x200100, 13);
        assert_true(drv_wait(&r, &e));
        assert_int_equal(drv_ram(&r, DATA + 0x200100)[12], 0);
        assert_memory_equal(drv_ram(&r, DATA), r.block.data + 16 * 512, total);
    }
    drv_fini(&r);
}

/* A wrong wrapper stalls everything until the reset that drivers then make. */
static void test_storage_recovery(void **state)
{
    struct drv r;
    struct drv_event e = {0};
    unsigned none = 0;
    drv_init(&r, "s");
    drv_start(&r);
    unsigned slot = storage(&r);
    memset(drv_ram(&r, DATA), 0x55, 31);
    drv_queue(&r, slot, 4, DATA, 31);
    assert_true(drv_wait(&r, &e));
    assert_int_equal(e.status >> 24, STALL);
    drv_queue(&r, slot, 3, DATA, 13);
    assert_true(drv_wait(&r, &e));
    assert_int_equal(e.status >> 24, STALL);
    assert_int_equal(dp_ld32(drv_ram(&r, CONTEXTS + 0x1000 * slot + 3 * 32)) & 7, 2);
    assert_int_equal(drv_control(&r, slot, 0x21, 0xff, 0, 0, &none), OK);
    for (unsigned dci = 3; dci <= 4; dci++) {
        assert_int_equal(drv_control(&r, slot, 2, 1, 0, dci == 3 ? 0x81 : 2, &none), OK);
        assert_int_equal(drv_command(&r, 0, TYPE(C_RESET_EP) | slot << 24 | dci << 16, NULL), OK);
        struct drv_ring *ring = &r.ep[slot][dci];
        assert_int_equal(drv_command(&r, (ring->base + 16 * ring->at) | ring->cycle, TYPE(C_SET_DEQUEUE) | slot << 24 | dci << 16, NULL),
                         OK);
    }
    assert_int_equal(drv_scsi(&r, slot, (uint8_t[6]){0}, 6, false, 0, 0, NULL), 0);
    drv_fini(&r);
}

/* A read that is in the block layer: the endpoint stops, the port is reset, the machine pauses, is saved and loaded. */
static void test_storage_interrupted(void **state)
{
    struct drv r;
    struct drv_event e = {0};
    for (unsigned way = 0; way < 5; way++) {
        drv_init(&r, "s");
        drv_start(&r);
        unsigned slot = storage(&r);
        uint8_t *cbw = drv_ram(&r, DATA + 0x200000), *b = drv_ram(&r, DATA);
        memcpy(cbw, "USBC", 4);
        dp_st32(cbw + 8, 1024);
        cbw[12] = 0x80;
        cbw[14] = 10;
        memcpy(cbw + 15, (uint8_t[10]){0x28, [5] = 3, [8] = 2}, 10);
        /* all TDs queued beforehand, as firmware may: data and status wait for the wrapper */
        drv_queue(&r, slot, 3, DATA, 1024);
        drv_queue(&r, slot, 3, DATA + 0x200100, 13);
        assert_false(drv_wait(&r, &e));
        drv_queue(&r, slot, 4, DATA + 0x200000, 31);
        assert_true(drv_wait(&r, &e));
        assert_false(drv_wait(&r, &e));
        assert_non_null(r.block.first);
        memset(b, 0, 1024);
        if (way == 0) {
            drv_put(&r, &r.commands, 0, 0, TYPE(C_STOP_EP) | slot << 24 | 3 << 16);
            drv_out(&r, DB, 0);
            assert_true(drv_wait(&r, &e));
            assert_int_equal(e.status, STOPPED << 24 | 1024);
            assert_true(drv_wait(&r, &e));
            assert_true(fake_block_one(&r.block));
            assert_false(drv_wait(&r, &e));
            drv_doorbell(&r, slot, 3);
        } else if (way == 1) {
            dp_device_pause(r.d);
            assert_null(r.block.first);
            dp_device_resume(r.d);
        } else if (way == 2) {
            struct dp_buffer image = {0};
            struct dp_error error = {0};
            dp_device_pause(r.d);
            dp_device_save(r.d, &image);
            dp_device_reset(r.d);
            assert_ok(dp_device_load(r.d, image.data, image.size, NULL, &error), error);
            dp_buffer_fini(&image);
            dp_device_resume(r.d);
        } else if (way == 3) { /* stopped and started while the request flies: it waits for that */
            drv_put(&r, &r.commands, 0, 0, TYPE(C_STOP_EP) | slot << 24 | 3 << 16);
            drv_out(&r, DB, 0);
            drv_doorbell(&r, slot, 3);
            assert_true(drv_wait(&r, &e) && drv_wait(&r, &e));
            assert_true(fake_block_one(&r.block));
        } else {
            drv_out(&r, PORTSC1, 1 << 9 | 1 << 4);
            dp_block_drain(&r.block);
            assert_true(drv_wait(&r, &e)); /* nobody answers to the address any more */
            assert_int_equal(e.status >> 24, TRANSACTION);
            assert_int_equal(b[4], 0);
            drv_fini(&r);
            continue;
        }
        assert_non_null(r.block.first);
        dp_block_drain(&r.block);
        assert_true(drv_wait(&r, &e));
        assert_int_equal(e.status, OK << 24);
        assert_memory_equal(b, r.block.data + 3 * 512, 1024);
        assert_true(drv_wait(&r, &e));
        assert_int_equal(drv_ram(&r, DATA + 0x200100)[12], 0);
        drv_fini(&r);
    }
}

/* Bulk-Only Reset, or a configuration, while a read is in the block layer: the command is no more, and the next one works. */
static void test_storage_reset_in_flight(void **state)
{
    for (unsigned way = 0; way < 2; way++) {
        struct drv r;
        struct drv_event e = {0};
        unsigned none = 0;
        drv_init(&r, "s");
        drv_start(&r);
        unsigned slot = storage(&r);
        uint8_t *cbw = drv_ram(&r, DATA + 0x200000);
        memcpy(cbw, "USBC", 4);
        dp_st32(cbw + 8, 1024);
        cbw[12] = 0x80;
        cbw[14] = 10;
        memcpy(cbw + 15, (uint8_t[10]){0x28, [5] = 3, [8] = 2}, 10);
        drv_queue(&r, slot, 4, DATA + 0x200000, 31);
        assert_true(drv_wait(&r, &e));
        drv_queue(&r, slot, 3, DATA, 1024);
        assert_non_null(r.block.first);
        assert_int_equal(way ? drv_control(&r, slot, 0, 9, 1, 0, &none) : drv_control(&r, slot, 0x21, 0xff, 0, 0, &none), OK);
        dp_block_drain(&r.block);
        assert_false(drv_wait(&r, &e)); /* the TD waits */
        /* the same command again */
        drv_queue(&r, slot, 4, DATA + 0x200000, 31);
        assert_true(drv_wait(&r, &e));
        assert_int_equal(e.status >> 24, OK);
        dp_block_drain(&r.block);
        assert_true(drv_wait(&r, &e));
        assert_int_equal(e.status, OK << 24);
        assert_memory_equal(drv_ram(&r, DATA), r.block.data + 3 * 512, 1024);
        drv_queue(&r, slot, 3, DATA, 13);
        assert_true(drv_wait(&r, &e));
        assert_int_equal(drv_ram(&r, DATA)[12], 0);
        drv_fini(&r);
    }
}

/* ---- rings ---- */

static void test_event_data(void **state)
{
    struct drv r;
    struct drv_event e = {0};
    drv_init(&r, "t");
    drv_start(&r);
    unsigned slot = drv_address(&r, 5);
    struct drv_ring *ring = &r.ep[slot][1];
    /* data stage in two TRBs and an event data TRB, as Windows has it */
    drv_put(&r, ring, 0x0040000001000680, 8, TYPE(T_SETUP) | IDT | 3 << 16);
    drv_put(&r, ring, DATA, 8, TYPE(T_DATA) | CHAIN | 1 << 16);
    drv_put(&r, ring, DATA + 8, 56, TYPE(T_NORMAL) | CHAIN);
    drv_put(&r, ring, 0xfeedface, 0, TYPE(T_EVENT_DATA) | IOC);
    uint64_t status = drv_put(&r, ring, 0, 0, TYPE(T_STATUS) | CHAIN);
    drv_put(&r, ring, 0xcafe, 0, TYPE(T_EVENT_DATA) | IOC);
    drv_doorbell(&r, slot, 1);
    assert_true(drv_wait(&r, &e));
    assert_int_equal(e.parameter, 0xfeedface);
    assert_int_equal(e.status, SHORT_PACKET << 24 | 18);
    assert_int_equal(e.control & 4, 4);
    assert_true(drv_wait(&r, &e));
    assert_int_equal(e.parameter, 0xcafe);
    assert_int_equal(e.status, OK << 24);
    assert_int_equal(drv_ram(&r, DATA)[0], 18);
    (void)status;
    /* no-ops complete; immediate data go out */
    uint64_t at = drv_put(&r, ring, 0, 0, TYPE(T_NO_OP) | IOC);
    drv_doorbell(&r, slot, 1);
    assert_true(drv_wait(&r, &e));
    assert_int_equal(e.parameter, at);
    assert_int_equal(e.status >> 24, OK);
    drv_fini(&r);
}

static void test_bad_rings(void **state)
{
    struct drv r;
    struct drv_event e = {0};
    /* links that go in a circle; a TD without end; TRBs that are none; buffers and rings that are no RAM */
    for (unsigned way = 0; way < 6; way++) {
        drv_init(&r, "t");
        drv_start(&r);
        unsigned slot = hid(&r, 5, 8);
        struct drv_ring *ring = &r.ep[slot][3];
        uint8_t *b = drv_ram(&r, ring->base);
        dp_xhci_position(r.d, 1, 1, 0, 0);
        if (way == 0) {
            dp_st64(b, ring->base);
            dp_st32(b + 12, TYPE(T_LINK) | CYCLE);
        } else if (way == 1) {
            for (unsigned i = 0; i < RING_TRBS - 1; i++)
                dp_st32(b + 16 * i + 12, TYPE(T_NORMAL) | CHAIN | CYCLE);
            dp_st64(b + 16 * (RING_TRBS - 1), ring->base);
            dp_st32(b + 16 * (RING_TRBS - 1) + 12, TYPE(T_LINK) | CYCLE);
        } else if (way == 2) {
            drv_put(&r, ring, 0, 8, TYPE(T_SETUP) | IDT | IOC);
        } else if (way == 3) {
            drv_put(&r, ring, 1ull << 38, 8, TYPE(T_NORMAL) | IOC);
        } else if (way == 4) {
            drv_put(&r, ring, DRV_BAR + OP, 8, TYPE(T_NORMAL) | IOC); /* our own registers */
        } else {
            dp_st64(b, 1ull << 39);
            dp_st32(b + 12, TYPE(T_LINK) | CYCLE);
        }
        drv_doorbell(&r, slot, 3);
        assert_true(drv_wait(&r, &e));
        assert_int_equal(e.status >> 24, TRB_ERROR);
        assert_int_equal(dp_ld32(drv_ram(&r, CONTEXTS + 0x1000 * slot + 3 * 32)) & 7, 4);
        assert_int_equal(drv_command(&r, drv_new_ring(&r, slot, 3)->base | 1, TYPE(C_SET_DEQUEUE) | slot << 24 | 3 << 16, NULL), OK);
        dp_xhci_position(r.d, 2, 2, 0, 0);
        drv_queue(&r, slot, 3, DATA, 8);
        assert_true(drv_wait(&r, &e));
        assert_int_equal(e.status >> 24, SHORT_PACKET);
        drv_fini(&r);
    }
    /* command rings that go in circles end in a host system error; a ring without end is done in portions */
    drv_init(&r, "t");
    drv_start(&r);
    dp_st64(drv_ram(&r, COMMANDS), COMMANDS);
    dp_st32(drv_ram(&r, COMMANDS + 12), TYPE(T_LINK) | CYCLE);
    drv_out(&r, DB, 0);
    assert_int_equal(drv_in(&r, OP + 4) & 5, 5);
    drv_start(&r);
    unsigned slot = drv_address(&r, 5);
    uint8_t *b = drv_ram(&r, r.ep[slot][1].base);
    for (unsigned i = 0; i < RING_TRBS - 1; i++)
        dp_st32(b + 16 * i + 12, TYPE(T_NO_OP) | CYCLE);
    dp_st64(b + 16 * (RING_TRBS - 1), r.ep[slot][1].base);
    dp_st32(b + 16 * (RING_TRBS - 1) + 12, TYPE(T_LINK) | CYCLE);
    drv_doorbell(&r, slot, 1);
    dp_clock_advance(r.w.env.clock, 1000000);
    assert_int_equal(drv_command(&r, 0, TYPE(C_STOP_EP) | slot << 24 | 1 << 16, NULL), OK);
    drv_fini(&r);
}

static double processor_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* All endpoints of all slots have a ring without end, of the longest TDs: a portion of that is small all the same, since it is done with
 * the lock, and in the loop's thread. */
static void test_endless_rings(void **state)
{
    enum { TRBS = 1024 };
    struct drv r;
    drv_init(&r, "t");
    drv_start(&r);
    uint8_t *b = drv_ram(&r, DATA);
    for (unsigned i = 0; i < TRBS; i++)
        dp_st32(b + 16 * i + 12, TYPE(T_NO_OP) | CYCLE | (i + 1 < TRBS ? CHAIN : 0));
    dp_st64(b + 16 * TRBS, DATA);
    dp_st32(b + 16 * TRBS + 12, TYPE(T_LINK) | CYCLE);
    unsigned slot = 0;
    for (unsigned s = 1; s <= 16; s++) {
        assert_true(slot = drv_address(&r, 5));
        drv_context(&r, 0, 0, ~3u, 0);
        for (unsigned e = 2; e <= 31; e++)
            drv_context(&r, e + 1, 0, (e & 1 ? 7u : 3u) << 3 | 8 << 16, DATA | 1);
        assert_int_equal(drv_command(&r, INPUT, TYPE(C_CONFIGURE) | slot << 24, NULL), OK);
    }
    double before = processor_seconds();
    drv_doorbell(&r, slot, 2);
    dp_clock_advance(r.w.env.clock, 50001);
    assert_true(processor_seconds() - before < 0.5);
    assert_int_equal(drv_command(&r, 0, TYPE(C_STOP_EP) | slot << 24 | 2 << 16, NULL), OK);
    drv_fini(&r);
}

/* Events wait until there is room for them, and none is lost. */
static void test_event_room(void **state)
{
    struct drv r;
    struct drv_event e = {0};
    drv_init(&r, "t");
    drv_start(&r);
    unsigned slot = drv_address(&r, 5), seen = 0;
    struct drv_ring *ring = &r.ep[slot][1];
    uint64_t first = 0, at = 0;
    for (unsigned i = 0; i < 50; i++) {
        at = drv_put(&r, ring, 0, 0, TYPE(T_NO_OP) | IOC);
        first = first ? first : at;
    }
    drv_doorbell(&r, slot, 1);
    while (drv_event(&r, &e)) {
        assert_int_equal(e.parameter, first + 16 * seen);
        seen++;
    }
    assert_true(seen >= EVENT_TRBS - 4 && seen < EVENT_TRBS);
    drv_acknowledge(&r);
    while (drv_wait(&r, &e))
        seen++;
    assert_int_equal(seen, 50);
    drv_fini(&r);
}

/* ---- interrupts ---- */

static void test_interrupts(void **state)
{
    struct drv r;
    struct drv_event e = {0};
    drv_init(&r, "t");
    struct dp_pci_function *f = dp_xhci_function(r.d);
    drv_start(&r);
    drv_acknowledge(&r);
    while (drv_event(&r, &e)) /* the port's */
        drv_acknowledge(&r);
    drv_out(&r, OP + 4, 8);
    drv_out(&r, IR0, 3);
    assert_int_equal(dp_pci_config_read(f, DP_PCI_STATUS, 2) & 8, 0);
    drv_put(&r, &r.commands, 0, 0, TYPE(C_NO_OP));
    drv_out(&r, DB, 0);
    assert_int_equal(dp_pci_config_read(f, DP_PCI_STATUS, 2) & 8, 8); /* the pin */
    assert_int_equal(drv_in(&r, OP + 4) & 8, 8);
    assert_int_equal(drv_in(&r, IR0), 3);
    drv_out(&r, IR0, 3);
    assert_int_equal(dp_pci_config_read(f, DP_PCI_STATUS, 2) & 8, 0);
    drv_put(&r, &r.commands, 0, 0, TYPE(C_NO_OP)); /* while the handler is busy: told when it is not */
    drv_out(&r, DB, 0);
    assert_int_equal(dp_pci_config_read(f, DP_PCI_STATUS, 2) & 8, 0);
    assert_true(drv_event(&r, &e));
    drv_acknowledge(&r);
    assert_int_equal(dp_pci_config_read(f, DP_PCI_STATUS, 2) & 8, 8);
    drv_out(&r, IR0, 1);
    assert_true(drv_event(&r, &e));
    drv_acknowledge(&r);
    /* messages */
    unsigned cap = 0x40;
    dp_pci_config_write(f, cap + 2, 0x8000, 2);
    f->regs->msix[0] = (struct dp_pci_msix_entry){0xfee00000, 0x41, 0};
    drv_out(&r, IR0, 2);
    unsigned before = r.w.msis;
    assert_int_equal(drv_command(&r, 0, TYPE(C_NO_OP), NULL), OK);
    assert_int_equal(r.w.msis, before + 1);
    assert_int_equal(drv_in(&r, IR0), 2); /* IP went with the message */
    drv_out(&r, IR0, 0);
    assert_int_equal(drv_command(&r, 0, TYPE(C_NO_OP), NULL), OK);
    assert_int_equal(r.w.msis, before + 1);
    drv_out(&r, IR0, 2); /* still pending */
    assert_int_equal(r.w.msis, before + 2);
    drv_fini(&r);
}

/* ---- what every device must do ---- */

static struct drv shared;

static struct dp_device *conformance_make(const struct dp_device_env *env, void *opaque)
{
    return drv_make(&shared, "tkms", env);
}

static uint64_t conformance_poke(struct dp_device *d, struct dp_random *r)
{
    uint64_t v = dp_random_next(r);
    switch (v >> 60 & 3) {
    case 0: return dp_xhci_key(d, v & 0xff, v >> 8 & 1);
    case 1: return dp_xhci_position(d, v & 0x7fff, v >> 16 & 0x7fff, 0, v >> 32 & 7);
    case 2: return dp_xhci_motion(d, (int8_t)v, (int8_t)(v >> 8), 0, v >> 32 & 7);
    default: dp_pci_config_write(dp_xhci_function(d), (v & 0xff) & ~3u, (uint32_t)(v >> 8), 4); return 0;
    }
}

static void test_conformance(void **state)
{
    fake_block_init(&shared.block, 1 << 20);
    struct conformance c = {.make = conformance_make, .poke = conformance_poke, .rounds = 20};
    conformance_check(&c);
    fake_block_fini(&shared.block);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_registers), cmocka_unit_test(test_frames), cmocka_unit_test(test_ports), cmocka_unit_test(test_commands),
        cmocka_unit_test(test_descriptors), cmocka_unit_test(test_tablet), cmocka_unit_test(test_keyboard), cmocka_unit_test(test_mouse),
        cmocka_unit_test(test_storage), cmocka_unit_test(test_storage_pieces), cmocka_unit_test(test_storage_recovery),
        cmocka_unit_test(test_storage_interrupted), cmocka_unit_test(test_event_data), cmocka_unit_test(test_bad_rings),
        cmocka_unit_test(test_endless_rings), cmocka_unit_test(test_storage_reset_in_flight), cmocka_unit_test(test_event_room),
        cmocka_unit_test(test_interrupts), cmocka_unit_test(test_conformance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
