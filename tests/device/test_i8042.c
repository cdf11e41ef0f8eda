/* test_i8042.c - the keyboard controller as Linux (i8042, atkbd, psmouse), SeaBIOS and DOS drive it, on the manual clock: probing,
 * interrupts and
 * their edges, scan codes in all sets, full queues, the mouse's protocols, A20 and reset, pause and restore, and what every device
 * must do.
 */
#include <linux/input-event-codes.h>

#include "devices/input/i8042.h"
#include "tests/device/conformance.h"

enum { OBF = 1, SYS = 4, KEYLOCK = 0x10, AUXDATA = 0x20 };
enum { CTR_KBDINT = 1, CTR_AUXINT = 2, CTR_KBDDIS = 0x10, CTR_AUXDIS = 0x20, CTR_XLATE = 0x40 };

struct rig { struct conformance_world w; struct dp_device *d; struct dp_input_sink in; bool irq[2], a20; unsigned rises[2]; };

static void irq_set(void *opaque, unsigned n, bool level)
{
    struct rig *r = opaque;
    unsigned i = n == 12;
    assert_true(n == 1 || n == 12);
    r->rises[i] += level && !r->irq[i];
    r->irq[i] = level;
}

static void a20_set(void *opaque, unsigned n, bool level) { ((struct rig *)opaque)->a20 = level; }

static void rig_new(struct rig *r)
{
    struct dp_error e = {0};
    memset(r, 0, sizeof(*r));
    conformance_world_init(&r->w);
    r->d = dp_device_alloc(&dp_i8042_class, "i8042", &r->w.env);
    dp_i8042_wire(r->d, (struct dp_irq){irq_set, r, 1}, (struct dp_irq){irq_set, r, 12}, (struct dp_irq){a20_set, r, 0});
    assert_ok(dp_device_init(r->d, &e), e);
    assert_ok(dp_device_map(r->d, DP_I8042_WINDOW_DATA, 0x60, &e), e);
    assert_ok(dp_device_map(r->d, DP_I8042_WINDOW_COMMAND, 0x64, &e), e);
    assert_ok(dp_device_map(r->d, DP_I8042_WINDOW_PORT92, 0x92, &e), e);
    r->in = dp_i8042_sink(r->d);
    dp_device_resume(r->d);
}

static void rig_free(struct rig *r)
{
    dp_device_free(r->d);
    conformance_world_fini(&r->w);
}

static uint8_t inb(struct rig *r, unsigned port) { return (uint8_t)dp_space_load(r->w.env.ports, port, 1); }
static void outb(struct rig *r, unsigned port, uint8_t v) { dp_space_store(r->w.env.ports, port, v, 1); }

/* What a driver's loop sees: the next byte, which must come from where it is expected. */
static int next(struct rig *r, bool aux)
{
    for (unsigned i = 0; i < 20; i++) {
        uint8_t s = inb(r, 0x64);
        assert_false(s & 2);
        if (s & OBF) {
            assert_int_equal(!!(s & AUXDATA), aux);
            return inb(r, 0x60);
        }
        dp_clock_advance(r->w.env.clock, 50000);
    }
    return -1;
}

static void expect(struct rig *r, bool aux, const char *hex)
{
    unsigned byte;
    int used;
    for (; sscanf(hex, "%x%n", &byte, &used) == 1; hex += used)
        assert_int_equal(next(r, aux), (int)byte);
    assert_int_equal(next(r, aux), -1);
}

static uint8_t controller(struct rig *r, uint8_t command)
{
    outb(r, 0x64, command);
    assert_true(inb(r, 0x64) & OBF); /* at once */
    return inb(r, 0x60);
}

static void set_ctr(struct rig *r, uint8_t v)
{
    outb(r, 0x64, 0x60);
    outb(r, 0x60, v);
}

static void keyboard(struct rig *r, uint8_t command, const char *answer)
{
    outb(r, 0x60, command);
    expect(r, false, answer);
}

static void mouse(struct rig *r, uint8_t command, const char *answer)
{
    outb(r, 0x64, 0xd4);
    outb(r, 0x60, command);
    expect(r, true, answer);
}

/* drivers/input/serio/i8042.c: i8042_controller_check, _init, i8042_check_aux, the multiplexer test, the interrupt test. */
static void linux_controller(void **state)
{
    struct rig r;
    rig_new(&r);
    assert_int_equal(inb(&r, 0x64) & (OBF | KEYLOCK), KEYLOCK);
    assert_int_equal(controller(&r, 0xaa), 0x55);
    assert_true(inb(&r, 0x64) & SYS);
    uint8_t ctr = controller(&r, 0x20);
    assert_int_equal(ctr, CTR_KBDINT | CTR_AUXINT | SYS | CTR_XLATE);
    set_ctr(&r, (ctr | CTR_KBDDIS | CTR_AUXDIS) & ~(CTR_KBDINT | CTR_AUXINT));
    assert_int_equal(controller(&r, 0x20), SYS | CTR_XLATE | CTR_KBDDIS | CTR_AUXDIS);
    assert_false(r.irq[0]); /* interrupts are off */

    outb(&r, 0x64, 0xd3);
    outb(&r, 0x60, 0x5a);
    assert_int_equal(inb(&r, 0x64) & (OBF | AUXDATA), OBF | AUXDATA);
    assert_int_equal(inb(&r, 0x60), 0x5a);
    outb(&r, 0x64, 0xa7);
    assert_true(controller(&r, 0x20) & CTR_AUXDIS);
    outb(&r, 0x64, 0xa8);
    assert_false(controller(&r, 0x20) & CTR_AUXDIS);
    assert_int_equal(controller(&r, 0xa9), 0);
    assert_int_equal(controller(&r, 0xab), 0);

    static const uint8_t probe[] = {0xf0, 0x56, 0xa4};
    for (unsigned i = 0; i < 3; i++) { /* echoed as they are: no multiplexer */
        outb(&r, 0x64, 0xd3);
        outb(&r, 0x60, probe[i]);
        assert_int_equal(next(&r, true), probe[i]);
    }
    set_ctr(&r, SYS | CTR_XLATE | CTR_AUXINT | CTR_KBDDIS);
    assert_int_equal(r.rises[1], 0);
    outb(&r, 0x64, 0xd3);
    outb(&r, 0x60, 0xa5);
    assert_int_equal(r.rises[1], 1);
    assert_int_equal(controller(&r, 0xd0) & 0x30, 0x20); /* as it was when asked for */
    rig_free(&r);
}

/* atkbd_probe and atkbd_activate; the rest of a keyboard's commands. */
static void linux_keyboard(void **state)
{
    struct rig r;
    rig_new(&r);
    keyboard(&r, 0xff, "fa aa");
    keyboard(&r, 0xf5, "fa");
    r.in.key(r.in.opaque, KEY_A, true); /* not scanning */
    r.in.key(r.in.opaque, KEY_A, false);
    keyboard(&r, 0xf2, "fa ab 41"); /* 83, translated */
    keyboard(&r, 0xed, "fa");
    keyboard(&r, 0x07, "fa");
    keyboard(&r, 0xf3, "fa");
    keyboard(&r, 0x00, "fa");
    keyboard(&r, 0xf0, "fa");
    keyboard(&r, 0x00, "fa 41"); /* 2, translated */
    keyboard(&r, 0xee, "ee");
    keyboard(&r, 0xfe, "ee");
    keyboard(&r, 0xf0, "fa");
    keyboard(&r, 0x09, "fe");
    keyboard(&r, 0x02, "fa");
    keyboard(&r, 0x11, "fe");
    keyboard(&r, 0xed, "fa");
    keyboard(&r, 0xf4, "fa"); /* a command instead of the parameter */
    r.in.key(r.in.opaque, KEY_A, true);
    r.in.key(r.in.opaque, KEY_A, false);
    expect(&r, false, "1e 9e");
    set_ctr(&r, CTR_KBDINT);
    keyboard(&r, 0xf2, "fa ab 83");

    /* Answers come before keys that wait, and a command to the keyboard opens its cable. */
    set_ctr(&r, CTR_KBDDIS);
    r.in.key(r.in.opaque, KEY_B, true);
    assert_int_equal(next(&r, false), -1);
    outb(&r, 0x60, 0xed);
    expect(&r, false, "fa 32");
    assert_false(controller(&r, 0x20) & CTR_KBDDIS);
    rig_free(&r);
}

/* In set 1 the positions of the old keyboard are Linux's own codes. */
static void scan_codes(void **state)
{
    struct rig r;
    rig_new(&r);
    for (unsigned pass = 0; pass < 2; pass++) {
        for (unsigned key = KEY_ESC; key <= KEY_F12; key++) {
            char hex[20];
            if (key == 84 || key == 85) /* 85 is the Zenkaku key, which PC keyboards do not have */
                continue;
            snprintf(hex, sizeof(hex), "%x %x", key, key | 0x80);
            r.in.key(r.in.opaque, key, true);
            r.in.key(r.in.opaque, key, false);
            expect(&r, false, hex);
        }
        static const struct { unsigned key; const char *make, *release; } other[] = {
            {KEY_KPENTER, "e0 1c", "e0 9c"}, {KEY_RIGHTCTRL, "e0 1d", "e0 9d"}, {KEY_KPSLASH, "e0 35", "e0 b5"},
            {KEY_RIGHTALT, "e0 38", "e0 b8"}, {KEY_HOME, "e0 47", "e0 c7"}, {KEY_UP, "e0 48", "e0 c8"}, {KEY_PAGEUP, "e0 49", "e0 c9"},
            {KEY_LEFT, "e0 4b", "e0 cb"}, {KEY_RIGHT, "e0 4d", "e0 cd"}, {KEY_END, "e0 4f", "e0 cf"}, {KEY_DOWN, "e0 50", "e0 d0"},
            {KEY_PAGEDOWN, "e0 51", "e0 d1"}, {KEY_INSERT, "e0 52", "e0 d2"}, {KEY_DELETE, "e0 53", "e0 d3"},
            {KEY_LEFTMETA, "e0 5b", "e0 db"}, {KEY_RIGHTMETA, "e0 5c", "e0 dc"}, {KEY_COMPOSE, "e0 5d", "e0 dd"},
            {KEY_SYSRQ, "e0 2a e0 37", "e0 b7 e0 aa"}, {KEY_PAUSE, "e1 1d 45 e1 9d c5", ""}, {KEY_POWER, "e0 5e", "e0 de"},
            {250, "", ""}, {KEY_MAX, "", ""},
        };
        for (unsigned i = 0; i < DP_ARRAY_LEN(other); i++) {
            r.in.key(r.in.opaque, other[i].key, true);
            expect(&r, false, other[i].make);
            r.in.key(r.in.opaque, other[i].key, false);
            expect(&r, false, other[i].release);
        }
        r.in.key(r.in.opaque, KEY_LEFTCTRL, true);
        r.in.key(r.in.opaque, KEY_PAUSE, true);
        r.in.key(r.in.opaque, KEY_PAUSE, false);
        r.in.key(r.in.opaque, KEY_SYSRQ, true);
        r.in.key(r.in.opaque, KEY_SYSRQ, false);
        r.in.key(r.in.opaque, KEY_LEFTCTRL, false);
        expect(&r, false, "1d e0 46 e0 c6 e0 37 e0 b7 9d");
        r.in.key(r.in.opaque, KEY_LEFTALT, true);
        r.in.key(r.in.opaque, KEY_SYSRQ, true);
        r.in.key(r.in.opaque, KEY_SYSRQ, false);
        r.in.key(r.in.opaque, KEY_LEFTALT, false);
        expect(&r, false, "38 54 d4 b8");
        if (!pass) { /* the same from the keyboard itself, untranslated */
            set_ctr(&r, CTR_KBDINT);
            keyboard(&r, 0xf0, "fa");
            keyboard(&r, 0x01, "fa");
        }
    }
    keyboard(&r, 0xf6, "fa"); /* set 2 */
    r.in.key(r.in.opaque, KEY_F7, true);
    r.in.key(r.in.opaque, KEY_F7, true); /* repeated */
    r.in.key(r.in.opaque, KEY_F7, false);
    r.in.key(r.in.opaque, KEY_F7, false); /* not pressed: nothing */
    r.in.key(r.in.opaque, KEY_UP, true);
    r.in.key(r.in.opaque, KEY_UP, false);
    expect(&r, false, "83 83 f0 83 e0 75 e0 f0 75");
    keyboard(&r, 0xf0, "fa");
    keyboard(&r, 0x03, "fa");
    r.in.key(r.in.opaque, KEY_UP, true);
    r.in.key(r.in.opaque, KEY_UP, false);
    r.in.key(r.in.opaque, KEY_A, true);
    expect(&r, false, "63 f0 63 1c");
    keyboard(&r, 0xf9, "fa"); /* make only */
    r.in.key(r.in.opaque, KEY_A, false);
    expect(&r, false, "");
    rig_free(&r);
}

static void interrupts(void **state)
{
    struct rig r;
    rig_new(&r);
    r.in.key(r.in.opaque, KEY_UP, true);
    assert_false(r.irq[0]); /* a byte takes its time */
    dp_clock_advance(r.w.env.clock, 200000);
    assert_true(r.irq[0]);
    assert_true(controller(&r, 0xd0) & 0x10); /* and the byte is not lost to the reply */
    assert_int_equal(next(&r, false), 0xe0);
    assert_false(r.irq[0]);
    assert_int_equal(inb(&r, 0x60), 0xe0); /* handlers in a chain read it again */
    dp_clock_advance(r.w.env.clock, 200000);
    assert_true(r.irq[0]);
    outb(&r, 0x64, 0xad); /* the BIOS's handler closes the cable first */
    assert_int_equal(inb(&r, 0x60), 0x48);
    r.in.key(r.in.opaque, KEY_UP, false);
    dp_clock_advance(r.w.env.clock, 1000000);
    assert_false(r.irq[0]);
    outb(&r, 0x64, 0xae);
    dp_clock_advance(r.w.env.clock, 200000);
    assert_true(r.irq[0]);

    /* A release whose byte was put back is a release still. */
    assert_int_equal(next(&r, false), 0xe0);
    dp_clock_advance(r.w.env.clock, 200000);
    unsigned rises = r.rises[0];
    assert_int_equal(controller(&r, 0x20), 0x47);
    assert_int_equal(next(&r, false), 0xc8);
    assert_true(r.rises[0] > rises);

    set_ctr(&r, CTR_XLATE);
    r.in.key(r.in.opaque, KEY_A, true);
    dp_clock_advance(r.w.env.clock, 200000);
    assert_true(inb(&r, 0x64) & OBF);
    assert_false(r.irq[0]);
    set_ctr(&r, CTR_XLATE | CTR_KBDINT);
    assert_true(r.irq[0]);
    assert_int_equal(inb(&r, 0x60), 0x1e);

    outb(&r, 0x64, 0xd2);
    outb(&r, 0x60, 0x77);
    assert_true(r.irq[0]);
    assert_int_equal(inb(&r, 0x60), 0x77);
    outb(&r, 0x64, 0x65); /* controller RAM */
    outb(&r, 0x60, 0x99);
    assert_int_equal(controller(&r, 0x25), 0x99);
    outb(&r, 0x64, 0xbb); /* unknown: nothing */
    assert_false(inb(&r, 0x64) & OBF);
    rig_free(&r);
}

/* src/hw/ps2port.c of SeaBIOS: everything off, a command to one device by polling, the keyboard's start. */
static void seabios(void **state)
{
    struct rig r;
    rig_new(&r);
    outb(&r, 0x64, 0xad);
    outb(&r, 0x64, 0xa7);
    assert_int_equal(controller(&r, 0xaa), 0x55);
    assert_int_equal(controller(&r, 0xab), 0x00);
    set_ctr(&r, CTR_KBDDIS | CTR_AUXDIS);
    outb(&r, 0x64, 0xae);
    keyboard(&r, 0xff, "fa aa");
    keyboard(&r, 0xf5, "fa");
    keyboard(&r, 0xf0, "fa");
    keyboard(&r, 0x02, "fa");
    set_ctr(&r, CTR_KBDINT | CTR_XLATE | CTR_AUXDIS);
    keyboard(&r, 0xf4, "fa");
    set_ctr(&r, CTR_KBDDIS | CTR_XLATE);
    mouse(&r, 0xff, "fa aa 0");
    mouse(&r, 0xe8, "fa");
    mouse(&r, 0x03, "fa");
    mouse(&r, 0xf4, "fa");
    assert_int_equal(r.rises[1], 0);
    rig_free(&r);
}

/* Nothing is half dropped, and no key stays pressed. */
static void full_queue(void **state)
{
    struct rig r;
    rig_new(&r);
    r.in.key(r.in.opaque, KEY_LEFTSHIFT, true);
    expect(&r, false, "2a");
    r.in.key(r.in.opaque, KEY_LEFTSHIFT, false); /* will be lost */
    for (unsigned i = 0; i < 500; i++) {
        r.in.key(r.in.opaque, KEY_UP, true);
        r.in.key(r.in.opaque, KEY_UP, false);
    }
    unsigned events = 0;
    bool shift_up = false;
    for (int b; (b = next(&r, false)) >= 0; events++) {
        if (b == 0xaa) {
            shift_up = true;
            continue;
        }
        assert_int_equal(b, 0xe0);
        b = next(&r, false);
        assert_true(b == 0x48 || b == 0xc8);
    }
    assert_true(events >= 100 && events < 200);
    assert_true(shift_up);

    mouse(&r, 0xf4, "fa");
    int x = 0, y = 0;
    for (unsigned i = 0; i < 300; i++)
        r.in.motion(r.in.opaque, 3, -2, 0, i & 1);
    for (int b; (b = next(&r, true)) >= 0;) {
        assert_true(b & 8);
        x += next(&r, true) - (b & 0x10 ? 256 : 0);
        y += next(&r, true) - (b & 0x20 ? 256 : 0);
    }
    assert_int_equal(x, 900);
    assert_int_equal(y, 600);
    for (unsigned i = 0; i < 100; i++) /* a host that does not listen */
        outb(&r, 0x60, 0xf2);
    while (next(&r, false) >= 0)
        ;
    keyboard(&r, 0xff, "fa aa");
    rig_free(&r);
}

/* psmouse: reset, the probes for other makers, the wheel, then packets. */
static void linux_mouse(void **state)
{
    struct rig r;
    rig_new(&r);
    set_ctr(&r, CTR_AUXINT | CTR_KBDINT | CTR_XLATE);
    mouse(&r, 0xf2, "fa 0");
    mouse(&r, 0xf6, "fa");
    for (unsigned i = 0; i < 4; i++) { /* Synaptics: four resolutions, status */
        mouse(&r, 0xe8, "fa");
        mouse(&r, 0x00, "fa");
    }
    mouse(&r, 0xe9, "fa 0 0 64");
    mouse(&r, 0xff, "fa aa 0");
    static const uint8_t wheel[] = {200, 100, 80}, five[] = {200, 200, 80};
    for (unsigned i = 0; i < 3; i++) {
        mouse(&r, 0xf3, "fa");
        mouse(&r, wheel[i], "fa");
    }
    mouse(&r, 0xf2, "fa 3");
    mouse(&r, 0xf4, "fa");
    mouse(&r, 0xe9, "fa 20 2 50");
    r.in.motion(r.in.opaque, 5, 7, 1, DP_INPUT_LEFT);
    expect(&r, true, "29 05 f9 ff");
    r.in.motion(r.in.opaque, -5, -7, -1, DP_INPUT_LEFT | DP_INPUT_RIGHT | DP_INPUT_MIDDLE);
    expect(&r, true, "1f fb 07 01");
    mouse(&r, 0xe9, "fa 27 2 50");
    r.in.motion(r.in.opaque, 0, 0, 0, 0);
    expect(&r, true, "08 0 0 0");
    r.in.motion(r.in.opaque, 0, 0, 0, 0);
    expect(&r, true, "");
    r.in.motion(r.in.opaque, 300, 0, 0, 0); /* in two */
    expect(&r, true, "08 ff 0 0 08 2d 0 0");
    r.in.motion(r.in.opaque, 0, 0, 0, 1); /* a click between two looks is two packets */
    r.in.motion(r.in.opaque, 0, 0, 0, 0);
    expect(&r, true, "09 0 0 0 08 0 0 0");
    for (unsigned i = 0; i < 3; i++) {
        mouse(&r, 0xf3, "fa");
        mouse(&r, five[i], "fa");
    }
    mouse(&r, 0xf2, "fa 4");
    r.in.motion(r.in.opaque, 0, 0, 9, 0);
    expect(&r, true, "08 0 0 09 08 0 0 0e");

    /* A command comes into a packet: the rest of it is gone. */
    r.in.motion(r.in.opaque, 1, 0, 0, 0);
    assert_int_equal(next(&r, true), 0x08);
    mouse(&r, 0xf5, "fa");
    r.in.motion(r.in.opaque, 1, 0, 0, 0);
    expect(&r, true, "");
    rig_free(&r);
}

static void mouse_modes(void **state)
{
    struct rig r;
    rig_new(&r);
    mouse(&r, 0xf0, "fa"); /* remote */
    r.in.motion(r.in.opaque, 100, -100, 0, 0);
    r.in.motion(r.in.opaque, 200, 700, 0, DP_INPUT_RIGHT);
    expect(&r, true, "");
    mouse(&r, 0xeb, "fa ea ff 0"); /* x past 255, y past -256: -600 */
    mouse(&r, 0xeb, "fa 0a 0 0");
    mouse(&r, 0xe9, "fa 41 2 64");
    mouse(&r, 0xee, "fa"); /* wrap */
    mouse(&r, 0x12, "12");
    mouse(&r, 0xf4, "f4");
    mouse(&r, 0xec, "fa");
    mouse(&r, 0xea, "fa"); /* stream */
    mouse(&r, 0xe7, "fa"); /* 2:1 */
    mouse(&r, 0xf4, "fa");
    r.in.motion(r.in.opaque, 4, -10, 0, 0);
    expect(&r, true, "08 06 14");
    mouse(&r, 0xe6, "fa");
    r.in.motion(r.in.opaque, 4, 0, 1, 0); /* no wheel: three bytes */
    expect(&r, true, "08 04 0");
    mouse(&r, 0x00, "fe");
    mouse(&r, 0xfe, "fe");
    mouse(&r, 0xf3, "fa");
    mouse(&r, 0xff, "fa aa 0"); /* RESET is never a parameter */
    outb(&r, 0x64, 0xa7);
    outb(&r, 0x64, 0xd4); /* opens the cable */
    outb(&r, 0x60, 0xf2);
    expect(&r, true, "fa 0");
    rig_free(&r);
}

static void a20_and_reset(void **state)
{
    struct rig r;
    rig_new(&r);
    assert_true(r.a20);
    outb(&r, 0x64, 0xd1);
    outb(&r, 0x60, 0xdd);
    assert_false(r.a20);
    assert_int_equal(inb(&r, 0x92) & 2, 0);
    assert_false(controller(&r, 0xd0) & 2);
    outb(&r, 0x64, 0xd1);
    outb(&r, 0x60, 0xdf);
    assert_true(r.a20);
    assert_true(controller(&r, 0xd0) & 2);
    outb(&r, 0x64, 0xdd);
    assert_false(r.a20);
    outb(&r, 0x64, 0xff); /* HIMEM ends with a null pulse */
    assert_int_equal(r.w.requests, 0);
    outb(&r, 0x92, inb(&r, 0x92) | 2);
    assert_true(r.a20);
    outb(&r, 0x92, 0);
    assert_false(r.a20);
    outb(&r, 0x92, 1);
    assert_int_equal(r.w.requests, 1);
    outb(&r, 0x92, 1); /* no edge */
    assert_int_equal(r.w.requests, 1);
    outb(&r, 0x64, 0xfe);
    assert_int_equal(r.w.requests, 2);
    outb(&r, 0x64, 0xd1);
    outb(&r, 0x60, 0x02);
    assert_int_equal(r.w.requests, 3);
    outb(&r, 0x64, 0xdd);
    dp_device_reset(r.d);
    assert_true(r.a20);
    rig_free(&r);
}

static void pause_and_restore(void **state)
{
    struct rig r, s;
    struct dp_buffer image = {0};
    rig_new(&r);
    rig_new(&s);
    r.in.key(r.in.opaque, KEY_UP, true);
    dp_clock_advance(r.w.env.clock, 200000);
    assert_int_equal(next(&r, false), 0xe0);
    dp_device_pause(r.d);
    r.in.key(r.in.opaque, KEY_UP, false); /* held */
    dp_clock_advance(r.w.env.clock, 1000000);
    assert_false(r.irq[0]);
    outb(&r, 0x64, 0xdd);
    dp_device_save(r.d, &image);
    struct dp_error e = {0};
    dp_device_pause(s.d);
    dp_clock_advance(s.w.env.clock, 5000000);
    assert_ok(dp_device_load(s.d, image.data, image.size, NULL, &e), e);
    dp_device_resume(s.d);
    dp_device_resume(r.d);
    assert_false(s.a20);
    expect(&s, false, "48 e0 c8");
    expect(&r, false, "48 e0 c8");
    dp_device_reset(s.d);
    assert_false(s.irq[0]);
    assert_int_equal(inb(&s, 0x64), SYS | KEYLOCK);
    dp_buffer_fini(&image);
    rig_free(&r);
    rig_free(&s);
}

/* Keys and movements come from threads of their own while a processor reads: nothing is torn, and at the end lines agree with the
 * buffer. */
static void *typist(void *opaque)
{
    struct rig *r = opaque;
    for (unsigned i = 0; i < 20000; i++)
        r->in.key(r->in.opaque, KEY_UP, !(i & 1));
    return NULL;
}

static void *mover(void *opaque)
{
    struct rig *r = opaque;
    for (unsigned i = 0; i < 20000; i++)
        r->in.motion(r->in.opaque, (int)i % 7 - 3, 1, 0, i >> 4 & 7);
    return NULL;
}

static void threads(void **state)
{
    struct rig r;
    pthread_t t[2];
    unsigned quiet = 0, keys = 0, packets = 0, key_at = 0, packet_at = 0;
    rig_new(&r);
    mouse(&r, 0xf4, "fa");
    pthread_create(&t[0], NULL, typist, &r);
    pthread_create(&t[1], NULL, mover, &r);
    for (unsigned i = 0; quiet < 5; i++) {
        if (i == 5000) {
            pthread_join(t[0], NULL);
            pthread_join(t[1], NULL);
        }
        dp_clock_advance(r.w.env.clock, 200000);
        uint8_t status = inb(&r, 0x64);
        quiet = i <= 5000 || status & OBF ? 0 : quiet + 1;
        if (!(status & OBF))
            continue;
        uint8_t byte = inb(&r, 0x60);
        if (status & AUXDATA) {
            assert_true(packet_at % 3 || byte & 8);
            packets += !(packet_at++ % 3);
        } else {
            assert_true(key_at & 1 ? (byte & 0x7f) == 0x48 : byte == 0xe0);
            keys += key_at++ & 1;
        }
    }
    assert_true(keys && packets);
    assert_int_equal(key_at % 2 + packet_at % 3, 0);
    assert_false(r.irq[0] || r.irq[1]);
    rig_free(&r);
}

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_i8042_class, "i8042", env);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static uint64_t poke(struct dp_device *d, struct dp_random *r)
{
    struct dp_input_sink in = dp_i8042_sink(d);
    uint64_t v = dp_random_next(r);
    if (v & 1)
        in.key(in.opaque, v >> 8 & 0xff, v >> 1 & 1);
    else
        in.motion(in.opaque, (int)(v >> 8), (int)(v >> 32), (int)(v >> 4 & 15) - 8, v >> 1 & 7);
    return 0;
}

static void conformance(void **state)
{
    const struct conformance c = {.make = make, .poke = poke};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(linux_controller), cmocka_unit_test(linux_keyboard), cmocka_unit_test(scan_codes), cmocka_unit_test(interrupts),
        cmocka_unit_test(seabios), cmocka_unit_test(full_queue), cmocka_unit_test(linux_mouse), cmocka_unit_test(mouse_modes),
        cmocka_unit_test(a20_and_reset), cmocka_unit_test(pause_and_restore), cmocka_unit_test(threads),
        cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("i8042", tests, NULL, NULL);
}
