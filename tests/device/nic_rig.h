/* nic_rig.h - a network card between a driver in a test and the other end of its cable.
 *
 * The wire is a port that keeps what it is given (as many frames as it has room for) and sends what a test says.
 */
#ifndef DP_TESTS_NIC_RIG_H
#define DP_TESTS_NIC_RIG_H

#include "devices/pci/pci.h"
#include "net/net.h"
#include "tests/device/conformance.h"

enum { WIRE_FRAMES = 64, WIRE_BYTES = 66000 };

struct wire_frame { uint8_t *data; uint32_t size, work; uint16_t checksum_start, checksum_offset, header_size, segment_size; };
struct wire {
    struct dp_net_port port;
    struct wire_frame frame[WIRE_FRAMES];
    unsigned count, room, ready;
    void (*meanwhile)(void *opaque); /* what another processor does while a frame is on its way; once */
    void *opaque;
};

static unsigned wire_receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct wire *w = opaque;
    unsigned i = 0;
    void (*meanwhile)(void *) = w->meanwhile;
    w->meanwhile = NULL;
    if (meanwhile)
        meanwhile(w->opaque);
    for (; i < count && w->room && w->count < WIRE_FRAMES; i++, w->room--) {
        struct wire_frame *f = &w->frame[w->count++];
        *f = (struct wire_frame){malloc(frame[i].size), frame[i].size, frame[i].work, frame[i].checksum_start, frame[i].checksum_offset,
                                 frame[i].header_size, frame[i].segment_size};
        uint32_t at = 0;
        for (unsigned k = 0; k < frame[i].parts; k++) {
            memcpy(f->data + at, frame[i].part[k].iov_base, frame[i].part[k].iov_len);
            at += (uint32_t)frame[i].part[k].iov_len;
        }
        assert_int_equal(at, f->size);
    }
    return i;
}

static void wire_ready(void *opaque) { ((struct wire *)opaque)->ready++; }
static const struct dp_net_end wire_end = {wire_receive, wire_ready, NULL};

static inline void wire_clear(struct wire *w)
{
    for (unsigned i = 0; i < w->count; i++)
        free(w->frame[i].data);
    w->count = 0;
}

static inline void wire_init(struct wire *w, struct dp_net_port *card)
{
    struct dp_error e = {0};
    memset(w, 0, sizeof(*w));
    w->room = 1000;
    dp_net_port_init(&w->port, &wire_end, w, 0);
    assert_ok(dp_net_connect(&w->port, card, &e), e);
}

/* One frame to the card: whether it took it. */
static inline bool wire_send(struct wire *w, const void *data, uint32_t size)
{
    const struct iovec part = {(void *)data, size};
    const struct dp_net_frame f = {.part = &part, .parts = 1, .size = size};
    return dp_net_send(&w->port, &f, 1) == 1;
}

static const uint8_t rig_mac[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
static const uint8_t rig_other[6] = {0x52, 0x54, 0x00, 0xaa, 0xbb, 0xcc};
static const uint8_t rig_broadcast[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
static const uint8_t rig_multicast[6] = {0x33, 0x33, 0x00, 0x00, 0x00, 0x01};

/* Some frame of that size: addresses, type 88b5 (local experiments), then bytes that tell where they are. */
static inline void rig_frame(uint8_t *f, const uint8_t to[6], uint32_t size)
{
    for (uint32_t i = 0; i < size; i++)
        f[i] = (uint8_t)(i * 7 + (i >> 8));
    memcpy(f, to, 6);
    memcpy(f + 6, rig_other, 6);
    f[12] = 0x88;
    f[13] = 0xb5;
}

/* An IPv4 TCP packet with that payload; checksums as a driver leaves them for its card: pseudo header's sum or nothing. */
static inline uint32_t rig_tcp(uint8_t *f, uint32_t payload)
{
    static const uint8_t headers[54] = {
        0x52, 0x54, 0x00, 0xaa, 0xbb, 0xcc, 0x52, 0x54, 0x00, 0x12, 0x34, 0x56, 0x08, 0x00,                          /* Ethernet */
        0x45, 0,    0,    0,    0x12, 0x34, 0x40, 0,    64,   6,    0,    0,    10,   0,    2,    15,   10, 0, 2, 2, /* IP */
        0x04, 0x00, 0,    80,   0x10, 0x20, 0x30, 0x40, 0x01, 0x02, 0x03, 0x04, 0x50, 0x19, 0x20, 0x00, 0,  0, 0, 0, /* TCP, FIN PSH ACK */
    };
    memcpy(f, headers, 54);
    f[16] = (uint8_t)((40 + payload) >> 8);
    f[17] = (uint8_t)(40 + payload);
    for (uint32_t i = 0; i < payload; i++)
        f[54 + i] = (uint8_t)(i * 13 + (i >> 8));
    return 54 + payload;
}

/* By the book, a word at a time: independent of what the cards use. */
static inline uint16_t rig_sum(const uint8_t *p, uint32_t n, uint32_t sum)
{
    for (uint32_t i = 0; i + 1 < n; i += 2)
        sum += (uint32_t)p[i] << 8 | p[i + 1];
    if (n & 1)
        sum += (uint32_t)p[n - 1] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)sum;
}
static inline bool rig_ip_good(const uint8_t *f) { return rig_sum(f + 14, 20, 0) == 0xffff; }
static inline bool rig_tcp_good(const uint8_t *f, uint32_t size)
{
    uint32_t length = (uint32_t)(f[16] << 8 | f[17]) - 20;
    return length <= size - 34 && rig_sum(f + 34, length, rig_sum(f + 26, 8, 6 + length)) == 0xffff;
}
static inline void rig_tcp_complete(uint8_t *f, uint32_t size)
{
    uint16_t v = (uint16_t)~rig_sum(f + 14, 20, 0);
    f[24] = (uint8_t)(v >> 8);
    f[25] = (uint8_t)v;
    v = (uint16_t)~rig_sum(f + 34, size - 34, rig_sum(f + 26, 8, 6 + size - 34));
    f[50] = (uint8_t)(v >> 8);
    f[51] = (uint8_t)v;
}

static inline uint32_t rig_crc32(const uint8_t *p, uint32_t n)
{
    uint32_t crc = ~0u;
    for (uint32_t i = 0; i < n; i++)
        for (unsigned b = 0; b < 8; b++)
            crc = crc >> 1 ^ ((crc ^ p[i] >> b) & 1 ? 0xedb88320 : 0);
    return ~crc;
}

static inline bool rig_irq(struct dp_pci_function *f) { return dp_pci_config_read(f, DP_PCI_STATUS, 2) & 8; }

/* A word of a 93C46 by its lines; set drives CS, SK, DI and get reads DO. */
static inline uint16_t rig_eeprom(void *opaque, void (*set)(void *, bool cs, bool sk, bool di), bool (*get)(void *), unsigned address)
{
    unsigned command = 6u << 6 | address;
    uint16_t v = 0;
    set(opaque, true, false, false);
    for (int i = 8; i >= 0; i--) {
        bool bit = command >> i & 1;
        set(opaque, true, false, bit);
        set(opaque, true, true, bit);
    }
    assert_false(get(opaque)); /* the dummy bit */
    for (unsigned i = 0; i < 16; i++) {
        set(opaque, true, false, false);
        set(opaque, true, true, false);
        v = (uint16_t)(v << 1 | get(opaque));
    }
    set(opaque, false, false, false);
    return v;
}

#endif
