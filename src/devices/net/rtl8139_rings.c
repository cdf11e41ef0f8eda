/* devices/net/rtl8139_rings.c - frames of an RTL8139C+ in both of its modes. Model in rtl8139.h and nic.h.
 *
 * Source: RTL8139C(L) data sheet 5.2-5.4 (TSD, ring, RCR), 6.1 (packet header); RTL8139C+ data sheet 5.33, 6.2-6.3 (descriptors), 6.5
 * (tally counters).
 */
#include "devices/net/rtl8139_internal.h"

enum { HEADER = 4, FRAME_LONG = 4096 - NIC_FCS, DESCRIPTOR = 16 };
enum { RX_ROK = 1, RX_BAR = 0x2000, RX_PAM = 0x4000, RX_MAR = 0x8000 };
#define RETRY_NS 5000000
/* C+ descriptors, first word. */
#define CP_OWN (1u << 31)
#define CP_EOR (1u << 30)
#define CP_FS (1u << 29)
#define CP_LS (1u << 28)
enum {
    CP_LGSEN = 1 << 27,
    CP_MSS_SHIFT = 16,
    CP_MSS = 0x7ff,
    CP_IPCS = 1 << 18,
    CP_UDPCS = 1 << 17,
    CP_TCPCS = 1 << 16,
    CP_TX_SIZE = 0xffff
};
enum { CP_RX_MAR = 1 << 26, CP_RX_PAM = 1 << 25, CP_RX_BAR = 1 << 24, CP_RX_PID_SHIFT = 16, CP_PID_TCP = 1, CP_PID_UDP = 2, CP_PID_IP = 3,
       CP_RX_IPF = 1 << 15, CP_RX_UDPF = 1 << 14, CP_RX_TCPF = 1 << 13, CP_RX_SIZE = 0x1fff };
enum { CP_VLAN = 1 << 16, CP_TX_VLAN = 1 << 17, TPID = 0x8100 };

static uint16_t swapped(uint16_t v) { return (uint16_t)(v << 8 | v >> 8); }

/* ---- transmitting ---- */

static bool loops_back(const struct rtl8139_regs *r) { return (r->tcr & TCR_LBK) == TCR_LBK; }

static bool c_next(struct nic *n, struct nic_packet *p)
{
    struct rtl8139_regs *r = &rtl8139_of(n)->regs;
    uint32_t tsd = r->tsd[r->tx_current];
    if (tsd & TSD_OWN)
        return false;
    p->size = tsd & TSD_SIZE;
    nic_dma_read(n, r->tsad[r->tx_current], p->data, p->size);
    return true;
}

static uint64_t tx_descriptor(const struct rtl8139_regs *r, unsigned i)
{
    return ((uint64_t)r->tsad[1] << 32 | (r->tsad[0] & ~255u)) + i * DESCRIPTOR;
}

static void offload(struct rtl8139 *c, struct nic_packet *p, uint32_t word)
{
    struct dp_net_layout l;
    if (word & CP_LGSEN) {
        if (!nic_tso_prepare(p, word >> CP_MSS_SHIFT & CP_MSS))
            dp_trace_guest(c->device.env->trace, "%s: a packet of %u bytes is no TCP to be segmented", c->device.id, p->size);
        return;
    }
    if (!(word & (CP_IPCS | CP_TCPCS | CP_UDPCS)) || !dp_net_parse(p->data, p->size, &l))
        return;
    if (word & CP_IPCS)
        nic_ip_checksum(p->data, &l);
    if ((word & CP_TCPCS && l.protocol == DP_NET_PROTOCOL_TCP) || (word & CP_UDPCS && l.protocol == DP_NET_PROTOCOL_UDP))
        nic_l4_prepare(p, &l);
    if (p->size < NIC_FRAME_MIN && p->work) { /* padding would go into no sum */
        nic_put_checksum(p->data, p->size, p->checksum_start, p->checksum_offset);
        p->work = 0;
    }
}

/* Gives descriptors back to the guest. */
static void release(struct nic *n, unsigned from, unsigned to)
{
    struct rtl8139_regs *r = &rtl8139_of(n)->regs;
    unsigned budget = CP_RING;
    do {
        uint32_t word = 0;
        nic_dma_read(n, tx_descriptor(r, from), &word, sizeof(word));
        uint32_t done = word & (CP_EOR | CP_FS | CP_LS | CP_TX_SIZE); /* the rest is errors and collisions now */
        nic_dma_write(n, tx_descriptor(r, from), &done, sizeof(done));
        from = word & CP_EOR ? 0 : (from + 1) % CP_RING;
    } while (from != to && --budget);
}

static bool cp_next(struct nic *n, struct nic_packet *p)
{
    struct rtl8139 *c = rtl8139_of(n);
    struct rtl8139_regs *r = &c->regs;
    for (unsigned lost = 0; r->cp_poll; lost++) {
        unsigned at = r->cp_tx, used = 0;
        uint8_t d[DESCRIPTOR];
        uint32_t first = 0, word = 0, vlan = 0;
        bool too_long = false;
        p->size = p->work = 0;
        for (; used < CP_RING; used++) {
            if (!nic_dma_read(n, tx_descriptor(r, at), d, sizeof(d)))
                break;
            word = dp_ld32(d);
            if (!(word & CP_OWN))
                break;
            if (!used) {
                first = word;
                vlan = dp_ld32(d + 4);
            }
            uint32_t size = word & CP_TX_SIZE;
            if (size > DP_NET_FRAME_MAX - NIC_VLAN - p->size)
                too_long = true;
            else
                nic_dma_read(n, dp_ld64(d + 8), p->data + p->size, size);
            p->size += too_long ? 0 : size;
            at = word & CP_EOR ? 0 : (at + 1) % CP_RING;
            if (word & CP_LS)
                break;
        }
        if (used == CP_RING || too_long) {
            dp_trace_guest(c->device.env->trace, "%s: a packet of more than %u descriptors or %u bytes is lost", c->device.id, used,
                           p->size);
            release(n, r->cp_tx, at);
            r->cp_tx = (uint8_t)at;
            r->isr |= ISR_TER;
            if (used == CP_RING || lost == CP_RING) /* more packets than there are descriptors: they are in ROM, or filled all the time */
                r->cp_poll = false;
            continue;
        }
        if (!(word & CP_OWN) || !(word & CP_LS)) { /* nothing, or the rest is to come */
            r->cp_poll = false;
            if (!used)
                r->isr |= ISR_TDU;
            return false;
        }
        offload(c, p, first | (word & (CP_LGSEN | CP_IPCS | CP_TCPCS | CP_UDPCS)));
        if (vlan & CP_TX_VLAN)
            nic_insert_vlan(p, TPID, swapped((uint16_t)vlan));
        c->cp_tx_next = (uint8_t)at;
        return true;
    }
    return false;
}

bool rtl8139_tx_next(struct nic *n, struct nic_packet *p)
{
    struct rtl8139_regs *r = &rtl8139_of(n)->regs;
    p->loopback = loops_back(r);
    if (!(r->cr & CR_TE) || !nic_bus_master(n))
        return false;
    return r->cpcr & CPCR_TX ? cp_next(n, p) : c_next(n, p);
}

void rtl8139_tx_done(struct nic *n, const struct nic_packet *p)
{
    struct rtl8139 *c = rtl8139_of(n);
    struct rtl8139_regs *r = &c->regs;
    r->tally.tx_ok++;
    r->isr |= ISR_TOK;
    if (r->cpcr & CPCR_TX) {
        release(n, r->cp_tx, c->cp_tx_next);
        r->cp_tx = c->cp_tx_next;
        return;
    }
    r->tsd[r->tx_current] |= TSD_OWN | TSD_TOK;
    r->tx_current = (r->tx_current + 1) % TSDS;
}

/* ---- receiving ---- */

/* The bits of a C mode header that say why; 0: not for us. */
static unsigned passes(const struct rtl8139_regs *r, const uint8_t *data)
{
    bool mine = !memcmp(data, r->idr, NIC_MAC);
    if (nic_is_broadcast(data))
        return r->rcr & RCR_AB ? RX_ROK | RX_BAR : 0;
    if (nic_is_multicast(data)) {
        unsigned hash = nic_multicast_hash(data);
        return (r->rcr & RCR_AM) && (r->mar[hash / 8] >> hash % 8 & 1) ? RX_ROK | RX_MAR : 0;
    }
    if (mine && (r->rcr & (RCR_APM | RCR_AAP)))
        return RX_ROK | RX_PAM;
    return r->rcr & RCR_AAP ? RX_ROK : 0;
}

/* Bytes go into the ring from an offset on; past its end they go on behind it or at its start. */
static void ring_put(struct nic *n, uint32_t at, const uint8_t *data, uint32_t size, bool wraps)
{
    const struct rtl8139_regs *r = &rtl8139_of(n)->regs;
    uint32_t length = rtl8139_ring_size(r), here = wraps && at < length ? DP_MIN(size, length - at) : size;
    if (wraps && at >= length) {
        at -= length;
        here = size;
    }
    nic_dma_write(n, (uint64_t)r->rbstart + at, data, here);
    nic_dma_write(n, r->rbstart, data + here, size - here);
}

static enum nic_rx c_receive(struct nic *n, const uint8_t *data, uint32_t size, unsigned why)
{
    struct rtl8139_regs *r = &rtl8139_of(n)->regs;
    uint32_t length = rtl8139_ring_size(r), need = DP_ALIGN_UP(HEADER + size + NIC_FCS, 4u), at = r->cbr % length;
    bool wraps = !(r->rcr & RCR_WRAP) || length == 65536;
    if (need >= length - rtl8139_ring_used(r))
        return NIC_FULL;
    uint8_t header[HEADER], fcs[NIC_FCS];
    dp_st16(header, (uint16_t)why);
    dp_st16(header + 2, (uint16_t)(size + NIC_FCS));
    dp_st32(fcs, nic_fcs(n, data, size));
    ring_put(n, at + HEADER, data, size, wraps);
    ring_put(n, at + HEADER + size, fcs, NIC_FCS, wraps);
    ring_put(n, at, header, HEADER, wraps);
    r->cbr = (uint16_t)((at + need) % length);
    return NIC_TAKEN;
}

static uint32_t cp_checksums(const uint8_t *data, uint32_t size)
{
    struct dp_net_layout l;
    unsigned seen = nic_checksums(data, size, &l);
    uint32_t pid = 0, failed = seen & NIC_IP_BAD ? CP_RX_IPF : 0;
    if (!(seen & NIC_IP_SEEN)) /* it knows IPv4 only */
        return 0;
    pid = CP_PID_IP;
    if ((seen & NIC_L4_SEEN) && l.protocol == DP_NET_PROTOCOL_TCP) {
        pid = CP_PID_TCP;
        failed |= seen & NIC_L4_BAD ? CP_RX_TCPF : 0;
    } else if (seen & NIC_L4_SEEN) {
        pid = CP_PID_UDP;
        failed |= seen & NIC_L4_BAD ? CP_RX_UDPF : 0;
    }
    return pid << CP_RX_PID_SHIFT | failed;
}

static enum nic_rx cp_receive(struct nic *n, const uint8_t *data, uint32_t size, unsigned why)
{
    struct rtl8139_regs *r = &rtl8139_of(n)->regs;
    uint64_t at = ((uint64_t)r->rdsar_high << 32 | (r->rdsar_low & ~255u)) + r->cp_rx * DESCRIPTOR;
    uint8_t d[DESCRIPTOR], fcs[NIC_FCS];
    if (!nic_dma_read(n, at, d, sizeof(d)))
        return NIC_TAKEN; /* the ring is nowhere */
    uint32_t word = dp_ld32(d), tag = 0, skip = 0;
    if (!(word & CP_OWN)) {
        r->isr |= ISR_RXOVW;
        nic_retry(n, RETRY_NS);
        return NIC_FULL;
    }
    uint64_t buffer = dp_ld64(d + 8);
    if ((r->cpcr & CPCR_RX_VLAN) && data[12] == TPID >> 8 && data[13] == (TPID & 0xff)) {
        tag = CP_VLAN | data[14] | data[15] << 8;
        skip = NIC_VLAN;
    }
    uint32_t total = size - skip + NIC_FCS;
    if (total > (word & CP_RX_SIZE)) {
        dp_trace_guest(n->device->env->trace, "%s: a frame of %u bytes is lost, its buffer has %u", n->device->id, total,
                       word & CP_RX_SIZE);
        r->tally.missed++;
        r->isr |= ISR_RER;
        return NIC_TAKEN;
    }
    dp_st32(fcs, nic_fcs(n, data, size));
    nic_dma_write(n, buffer, data, skip ? 12 : size);
    if (skip)
        nic_dma_write(n, buffer + 12, data + 16, size - 16);
    nic_dma_write(n, buffer + size - skip, fcs, NIC_FCS);
    uint32_t result = (word & CP_EOR) | CP_FS | CP_LS | total | (r->cpcr & CPCR_RX_CHECKSUM ? cp_checksums(data, size) : 0) |
                      (why & RX_MAR ? CP_RX_MAR : why & RX_BAR ? CP_RX_BAR : why & RX_PAM ? CP_RX_PAM : 0);
    nic_dma_write(n, at + 4, &tag, sizeof(tag));
    atomic_thread_fence(memory_order_release);
    nic_dma_write(n, at, &result, sizeof(result));
    r->cp_rx = word & CP_EOR ? 0 : (r->cp_rx + 1) % CP_RING;
    return NIC_TAKEN;
}

enum nic_rx rtl8139_rx(struct nic *n, const uint8_t *data, uint32_t size)
{
    struct rtl8139_regs *r = &rtl8139_of(n)->regs;
    unsigned why;
    if (!(r->cr & CR_RE) || !nic_bus_master(n) || size > FRAME_LONG || !(why = passes(r, data)))
        return NIC_TAKEN;
    enum nic_rx result = r->cpcr & CPCR_RX ? cp_receive(n, data, size, why) : c_receive(n, data, size, why);
    if (result == NIC_FULL)
        return result;
    r->isr |= ISR_ROK;
    r->tally.rx_ok++;
    r->tally.rx_ok_physical += why & RX_PAM ? 1 : 0;
    r->tally.rx_ok_broadcast += why & RX_BAR ? 1 : 0;
    r->tally.rx_ok_multicast += why & RX_MAR ? 1 : 0;
    return result;
}

/* ---- tally counters ---- */

void rtl8139_tally(struct nic *n, uint64_t address)
{
    const struct rtl8139_tally *t = &rtl8139_of(n)->regs.tally;
    uint8_t b[TALLY_SIZE] = {0};
    dp_st64(b, t->tx_ok);
    dp_st64(b + 8, t->rx_ok);
    dp_st64(b + 16, t->tx_error);
    dp_st32(b + 24, t->rx_error);
    dp_st16(b + 28, t->missed);
    dp_st64(b + 40, t->rx_ok_physical);
    dp_st64(b + 48, t->rx_ok_broadcast);
    dp_st32(b + 56, t->rx_ok_multicast);
    if (nic_bus_master(n))
        nic_dma_write(n, address, b, sizeof(b));
}
