/* devices/net/e1000_rings.c - the rings of an e1000: receive filters, descriptors both ways, offload. Model in e1000.h and nic.h.
 *
 * A packet's descriptors are read in one pass from TDH each time it is tried, and written back, with TDH moved, when it went. A
 * descriptor is copied once; status bytes alone are written back.
 * Source: the manual's 3.2 (receive), 3.3-3.6 (transmit), 9 (VLAN), 13.4.22 (RCTL), 13.5.1 (MTA).
 */
#include "devices/net/e1000_internal.h"

enum { RX_DD = 1, RX_EOP = 2, RX_IXSM = 4, RX_VP = 8, RX_TCPCS = 0x20, RX_IPCS = 0x40, RX_PIF = 0x80, RX_TCPE = 0x20, RX_IPE = 0x40 };
enum { CMD_EOP = 1, CMD_IC = 4, CMD_TSE = 4, CMD_RS = 8, CMD_RPS = 0x10, CMD_DEXT = 0x20, CMD_VLE = 0x40, CMD_IDE = 0x80, TX_DD = 1 };
enum { TUCMD_TCP = 1, TUCMD_IP = 2, POPTS_IXSM = 1, POPTS_TXSM = 2, DTYP_CONTEXT = 0, DTYP_DATA = 1 };
enum { RXCSUM_IPOFL = 0x100, RXCSUM_TUOFL = 0x200 };
enum { PACKET_DESCRIPTORS = 4096, FRAME_LONG = 16384 - NIC_FCS };
#define RAH_AV (1u << 31)
#define RDTR_UNIT 1024ull /* ns; the others too */

static uint64_t ring(uint32_t low, uint32_t high) { return (uint64_t)high << 32 | (low & ~15u); }

/* ---- transmitting ---- */

static void load_context(struct e1000_regs *r, const uint8_t *d)
{
    uint8_t tucmd = d[11];
    r->context[!!(tucmd & CMD_TSE)] = (struct e1000_context){
        .ipcss = d[0], .ipcso = d[1], .ipcse = dp_ld16(d + 2), .tucss = d[4], .tucso = d[5], .tucse = dp_ld16(d + 6),
        .tucmd = tucmd & (TUCMD_TCP | TUCMD_IP | CMD_TSE), .hdrlen = d[13], .mss = dp_ld16(d + 14)};
}

/* The sum from start to end (its last byte; 0: all) goes to where. It is the other end's work if that is all of it. */
static void insert_sum(struct nic_packet *p, uint32_t start, uint32_t where, uint32_t end, bool leave)
{
    uint32_t size = end && end < p->size ? end + 1 : p->size;
    if (start >= size || where + 2 > size || where < start)
        return;
    if (leave && size == p->size && size > NIC_FRAME_MIN) {
        p->work |= DP_NET_CHECKSUM;
        p->checksum_start = (uint16_t)start;
        p->checksum_offset = (uint16_t)(where - start);
    } else {
        nic_put_checksum(p->data, size, (uint16_t)start, (uint16_t)(where - start));
    }
}

static bool offload(struct e1000 *e, struct nic_packet *p, bool segment, unsigned popts)
{
    const struct e1000_context *c = &e->regs.context[segment];
    if (segment) {
        if ((c->tucmd & TUCMD_TCP) && nic_tso_prepare(p, c->mss))
            return true;
        dp_trace_guest(e->device.env->trace, "%s: a packet that cannot be segmented (header %u, segment %u, size %u) is lost", e->device.id,
                       c->hdrlen, c->mss, p->size);
        return false;
    }
    if (popts & POPTS_IXSM)
        insert_sum(p, c->ipcss, c->ipcso, c->ipcse, false);
    if (popts & POPTS_TXSM)
        insert_sum(p, c->tucss, c->tucso, c->tucse, true);
    return true;
}

static void write_back(struct e1000 *e, uint32_t from, uint32_t to)
{
    struct e1000_regs *r = &e->regs;
    uint64_t base = ring(r->tdbal, r->tdbah);
    uint32_t count = r->tdlen / DESCRIPTOR;
    if (from >= count || to >= count)
        return;
    for (uint32_t i = from; i != to; i = (i + 1) % count) {
        uint8_t d[DESCRIPTOR], status;
        if (!nic_dma_read(&e->nic, base + (uint64_t)i * DESCRIPTOR, d, sizeof(d)))
            continue;
        if (!(d[11] & (CMD_RS | CMD_RPS)))
            continue;
        status = d[12] | TX_DD;
        nic_dma_write(&e->nic, base + (uint64_t)i * DESCRIPTOR + 12, &status, 1);
    }
}

static void report(struct e1000 *e, bool any, bool delay)
{
    struct e1000_regs *r = &e->regs;
    uint64_t now = dp_clock_now(e->device.env->clock);
    if (any && delay && (r->tidv & 0xffff)) {
        r->tx_due = now + (r->tidv & 0xffff) * RDTR_UNIT;
        if ((r->tadv & 0xffff) && !r->tx_last_due)
            r->tx_last_due = now + (r->tadv & 0xffff) * RDTR_UNIT;
        e1000_arm(e);
    } else if (any) {
        r->icr |= ICR_TXDW;
        r->tx_due = r->tx_last_due = 0;
    }
    if (r->tdh == r->tdt)
        r->icr |= ICR_TXQE;
}

static bool loops_back(const struct e1000_regs *r) { return (r->rctl & RCTL_LBM) || (r->phy[0] & 0x4000); }

bool e1000_tx_next(struct nic *n, struct nic_packet *p)
{
    struct e1000 *e = e1000_of(n);
    struct e1000_regs *r = &e->regs;
    uint32_t count = r->tdlen / DESCRIPTOR;
    while ((r->tctl & TCTL_EN) && nic_bus_master(n) && r->tdh != r->tdt) {
        if (r->tdt >= count || r->tdh >= count) {
            dp_trace_guest(e->device.env->trace, "%s: TDH %u or TDT %u is outside the ring of %u", e->device.id, r->tdh, r->tdt, count);
            return false;
        }
        uint32_t at = r->tdh, used = 0;
        bool first = true, whole = false, extended = false, segment = false, vlan = false, too_long = false;
        uint16_t special = 0;
        uint8_t popts = 0, cso = 0, css = 0;
        e->tx_report = e->tx_delay = false;
        p->size = p->work = 0;
        while (!whole && at != r->tdt && used < PACKET_DESCRIPTORS) {
            uint8_t d[DESCRIPTOR];
            nic_dma_read(n, ring(r->tdbal, r->tdbah) + (uint64_t)at * DESCRIPTOR, d, sizeof(d));
            at = (at + 1) % count;
            used++;
            uint8_t command = d[11];
            bool is_extended = command & CMD_DEXT;
            unsigned type = d[10] >> 4;
            e->tx_report |= command & (CMD_RS | (is_extended ? 0 : CMD_RPS));
            e->tx_delay |= command & CMD_IDE;
            if (is_extended && type == DTYP_CONTEXT) {
                load_context(r, d);
                if (first) /* by itself: done */
                    break;
                continue;
            }
            uint32_t length = is_extended ? dp_ld32(d + 8) & 0xfffff : dp_ld16(d + 8);
            if (first) {
                extended = is_extended;
                segment = is_extended && (command & CMD_TSE);
                popts = is_extended ? d[13] : 0;
                first = false;
            }
            if (length > DP_NET_FRAME_MAX - NIC_VLAN - p->size)
                too_long = true;
            else
                nic_dma_read(n, dp_ld64(d), p->data + p->size, length);
            p->size += too_long ? 0 : length;
            if (command & CMD_EOP) {
                whole = true;
                vlan = command & CMD_VLE;
                special = dp_ld16(d + 14);
                if (!extended && (command & CMD_IC)) {
                    cso = d[10];
                    css = d[13];
                }
            }
        }
        if (!whole && !first && at == r->tdt && used < PACKET_DESCRIPTORS)
            return false; /* the rest is to come */
        e->tx_head = at;
        if (whole && !too_long && p->size >= DP_NET_HEADER) {
            if (cso)
                insert_sum(p, css, cso, 0, false);
            if (!extended || offload(e, p, segment, popts)) {
                if (vlan && (r->ctrl & CTRL_VME))
                    nic_insert_vlan(p, (uint16_t)r->vet, special);
                p->loopback = loops_back(r);
                return true;
            }
        } else if (!first) {
            dp_trace_guest(e->device.env->trace, "%s: a packet of %u descriptors and %u%s bytes is lost", e->device.id, used, p->size,
                           too_long ? " or more" : "");
        }
        write_back(e, r->tdh, at);
        r->tdh = at;
        report(e, e->tx_report, e->tx_delay);
    }
    return false;
}

static unsigned size_class(uint32_t size) /* with FCS */
{
    return size <= 64 ? 0 : size <= 127 ? 1 : size <= 255 ? 2 : size <= 511 ? 3 : size <= 1023 ? 4 : 5;
}

void e1000_tx_done(struct nic *n, const struct nic_packet *p)
{
    struct e1000 *e = e1000_of(n);
    struct e1000_regs *r = &e->regs;
    uint32_t frames = 1, size = DP_MAX(p->size, (uint32_t)NIC_FRAME_MIN) + NIC_FCS;
    write_back(e, r->tdh, e->tx_head);
    r->tdh = e->tx_head;
    if (p->work & (DP_NET_TSO4 | DP_NET_TSO6)) {
        frames = (p->size - p->header_size + p->segment_size - 1) / p->segment_size;
        size += (frames - 1) * (p->header_size + NIC_FCS);
        e1000_count(r, TSCTC, 1);
    }
    e1000_count(r, GPTC, frames);
    e1000_count(r, TPT, frames);
    e1000_count(r, PTC64 + size_class(size / frames), frames);
    e1000_count64(r, GOTC, size);
    e1000_count64(r, TOT, size);
    if (nic_is_multicast(p->data))
        e1000_count(r, nic_is_broadcast(p->data) ? BPTC : MPTC, frames);
    report(e, e->tx_report, e->tx_delay);
}

/* ---- receiving ---- */

static bool is_vlan(const struct e1000_regs *r, const uint8_t *data) { return (data[12] << 8 | data[13]) == (int)(r->vet & 0xffff); }

enum pass { PASS_NO, PASS_EXACT, PASS_INEXACT };
static enum pass passes(const struct e1000_regs *r, const uint8_t *data)
{
    bool multicast = nic_is_multicast(data), broadcast = nic_is_broadcast(data);
    if ((r->rctl & RCTL_VFE) && is_vlan(r, data)) {
        unsigned id = (data[14] << 8 | data[15]) & 0xfff;
        if (!(r->vfta[id / 32] >> id % 32 & 1))
            return PASS_NO;
    }
    for (unsigned i = 0; i < DP_ARRAY_LEN(r->ra); i += 2) {
        uint32_t high = r->ra[i + 1];
        if ((high & RAH_AV) && !(high >> 16 & 3) && dp_ld32(data) == r->ra[i] && dp_ld16(data + 4) == (uint16_t)high)
            return PASS_EXACT;
    }
    if ((broadcast && (r->rctl & RCTL_BAM)) || (!multicast && (r->rctl & RCTL_UPE)) || (multicast && (r->rctl & RCTL_MPE)))
        return PASS_EXACT;
    if (!multicast || broadcast)
        return PASS_NO;
    static const uint8_t shifts[] = {4, 3, 2, 0};
    unsigned hash = (dp_ld16(data + 4) >> shifts[r->rctl >> RCTL_MO_SHIFT & 3]) & 0xfff;
    return r->mta[hash / 32] >> hash % 32 & 1 ? PASS_INEXACT : PASS_NO;
}

static uint32_t buffer_size(const struct e1000_regs *r)
{
    unsigned code = r->rctl >> RCTL_BSIZE_SHIFT & 3;
    return r->rctl & RCTL_BSEX && code ? 32768u >> code : 2048u >> code;
}

/* Descriptors that are the card's; 0 for a ring that is none. */
static uint32_t rx_free(const struct e1000_regs *r)
{
    uint32_t count = r->rdlen / DESCRIPTOR;
    return r->rdh >= count || r->rdt >= count ? 0 : (r->rdt + count - r->rdh) % count;
}

static void announce(struct e1000 *e)
{
    struct e1000_regs *r = &e->regs;
    uint64_t now = dp_clock_now(e->device.env->clock);
    if (!(r->rdtr & 0xffff)) {
        r->icr |= ICR_RXT0;
        return;
    }
    r->rx_due = now + (r->rdtr & 0xffff) * RDTR_UNIT;
    if ((r->radv & 0xffff) && !r->rx_last_due)
        r->rx_last_due = now + (r->radv & 0xffff) * RDTR_UNIT;
    e1000_arm(e);
}

static void checksum_status(const struct e1000_regs *r, const uint8_t *data, uint32_t size, uint8_t *status, uint8_t *errors)
{
    struct dp_net_layout l;
    unsigned seen = r->rxcsum & (RXCSUM_IPOFL | RXCSUM_TUOFL) ? nic_checksums(data, size, &l) : 0;
    seen &= (r->rxcsum & RXCSUM_IPOFL ? NIC_IP_SEEN | NIC_IP_BAD : 0) | (r->rxcsum & RXCSUM_TUOFL ? NIC_L4_SEEN | NIC_L4_BAD : 0);
    *status |= (seen & NIC_IP_SEEN ? RX_IPCS : 0) | (seen & NIC_L4_SEEN ? RX_TCPCS : 0) | (seen ? 0 : RX_IXSM);
    *errors = (seen & NIC_IP_BAD ? RX_IPE : 0) | (seen & NIC_L4_BAD ? RX_TCPE : 0);
}

static void count_received(struct e1000_regs *r, const uint8_t *data, uint32_t size)
{
    e1000_count(r, TPR, 1);
    e1000_count(r, GPRC, 1);
    e1000_count(r, PRC64 + size_class(size), 1);
    e1000_count64(r, TOR, size);
    e1000_count64(r, GORC, size);
    if (nic_is_multicast(data))
        e1000_count(r, nic_is_broadcast(data) ? BPRC : MPRC, 1);
}

enum nic_rx e1000_rx(struct nic *n, const uint8_t *data, uint32_t size)
{
    struct e1000 *e = e1000_of(n);
    struct e1000_regs *r = &e->regs;
    enum pass pass;
    if (!(r->rctl & RCTL_EN) || !nic_bus_master(n) || !(pass = passes(r, data)))
        return NIC_TAKEN;
    bool tagged = is_vlan(r, data), strip = tagged && (r->ctrl & CTRL_VME);
    if (size > (r->rctl & RCTL_LPE ? FRAME_LONG : NIC_FRAME_STANDARD + (tagged ? NIC_VLAN : 0))) {
        e1000_count(r, ROC, 1);
        return NIC_TAKEN;
    }
    uint8_t tail[NIC_FCS], status = RX_DD | (pass == PASS_INEXACT ? RX_PIF : 0), errors = 0;
    uint16_t special = 0;
    uint32_t count = r->rdlen / DESCRIPTOR, buffer = buffer_size(r), skip = strip ? NIC_VLAN : 0;
    uint32_t total = size - skip + (r->rctl & RCTL_SECRC ? 0 : NIC_FCS), needed = (total + buffer - 1) / buffer, available = rx_free(r);
    if (needed > available) {
        if (needed < count || !count)
            return NIC_FULL;
        e1000_count(r, MPC, 1); /* it will never fit */
        r->icr |= ICR_RXO;
        return NIC_TAKEN;
    }
    checksum_status(r, data, size, &status, &errors);
    if (strip) {
        status |= RX_VP;
        special = (uint16_t)(data[14] << 8 | data[15]);
    }
    if (!(r->rctl & RCTL_SECRC))
        dp_st32(tail, nic_fcs(n, data, size));
    /* The frame in up to three pieces: addresses, what follows the tag, FCS. */
    const struct {
        const uint8_t *at;
        uint32_t size;
    } piece[] = {{data, strip ? 12 : size}, {data + 16, strip ? size - 16 : 0}, {tail, NIC_FCS}};
    unsigned k = 0;
    uint32_t in_piece = 0;
    uint16_t start = r->rxcsum & 0xff,
             packet_sum = start < size && !strip ? (uint16_t)~dp_net_fold(dp_net_sum(data + start, size - start)) : 0;
    for (uint32_t i = 0, left = total; i < needed; i++) {
        uint8_t d[DESCRIPTOR];
        uint64_t descriptor = ring(r->rdbal, r->rdbah) + (uint64_t)r->rdh * DESCRIPTOR;
        nic_dma_read(n, descriptor, d, 8);
        uint64_t address = dp_ld64(d);
        uint32_t here = DP_MIN(left, buffer);
        for (uint32_t done = 0; done < here;) {
            uint32_t some = DP_MIN(here - done, piece[k].size - in_piece);
            nic_dma_write(n, address + done, piece[k].at + in_piece, some);
            done += some;
            in_piece += some;
            if (in_piece == piece[k].size && k + 1 < DP_ARRAY_LEN(piece)) {
                k++;
                in_piece = 0;
            }
        }
        left -= here;
        dp_st16(d + 8, (uint16_t)here);
        dp_st16(d + 10, left ? 0 : packet_sum);
        d[12] = left ? RX_DD : status | RX_EOP;
        d[13] = left ? 0 : errors;
        dp_st16(d + 14, left ? 0 : special);
        /* The status after what it speaks of: the guest may look already. */
        uint8_t shown = d[12];
        d[12] = 0;
        nic_dma_write(n, descriptor + 8, d + 8, 8);
        atomic_thread_fence(memory_order_release);
        nic_dma_write(n, descriptor + 12, &shown, 1);
        r->rdh = (r->rdh + 1) % count;
    }
    count_received(r, data, size + NIC_FCS);
    uint32_t threshold = count >> ((r->rctl >> RCTL_RDMTS_SHIFT & 3) + 1);
    if (available > threshold && available - needed <= threshold)
        r->icr |= ICR_RXDMT0;
    announce(e);
    return NIC_TAKEN;
}
