/* net/offload.c - see offload.h. */
#include "net/offload.h"

enum { IP_SIZE = 20, IP6_SIZE = 40, TCP_SIZE = 20, UDP_SIZE = 8, VLAN_SIZE = 4, VLANS_MAX = 2, EXTENSIONS_MAX = 8 };
enum {
    IP_LENGTH = 2,
    IP_ID = 4,
    IP_FRAGMENT = 6,
    IP_PROTOCOL = 9,
    IP_CHECKSUM = 10,
    IP_SOURCE = 12,
    IP6_LENGTH = 4,
    IP6_NEXT = 6,
    IP6_SOURCE = 8
};
enum { TCP_SEQUENCE = 4, TCP_OFFSET = 12, TCP_FLAGS = 13, TCP_CHECKSUM = 16, TCP_FIN = 0x01, TCP_PSH = 0x08, TCP_CWR = 0x80 };
enum { FRAGMENT_MORE = 0x2000, FRAGMENT_OFFSET = 0x1fff };
enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, DESTINATION = 60 };
enum { ETHERTYPE_AT = 12, ETHERTYPE_QINQ = 0x88a8, TSO = DP_NET_TSO4 | DP_NET_TSO6 };

/* ---- headers ---- */

static bool parse_ip(const uint8_t *p, uint32_t size, struct dp_net_layout *l)
{
    const uint8_t *ip = p + l->network;
    uint32_t room = size - l->network, header = room ? (ip[0] & 15) * 4u : 0;
    if (room < IP_SIZE || ip[0] >> 4 != 4 || header < IP_SIZE)
        return false;
    uint32_t length = dp_net_ld16(ip + IP_LENGTH);
    if (length < header || length > room)
        return false;
    l->end = l->network + length;
    l->transport = l->network + header;
    l->protocol = dp_net_ld16(ip + IP_FRAGMENT) & FRAGMENT_OFFSET ? 0 : ip[IP_PROTOCOL];
    return true;
}

static bool parse_ip6(const uint8_t *p, uint32_t size, struct dp_net_layout *l)
{
    const uint8_t *ip = p + l->network;
    uint32_t room = size - l->network;
    if (room < IP6_SIZE || ip[0] >> 4 != 6 || dp_net_ld16(ip + IP6_LENGTH) > room - IP6_SIZE)
        return false;
    l->end = l->network + IP6_SIZE + dp_net_ld16(ip + IP6_LENGTH);
    l->transport = l->network + IP6_SIZE;
    l->protocol = ip[IP6_NEXT];
    for (unsigned n = 0; n < EXTENSIONS_MAX; n++) {
        const uint8_t *h = p + l->transport;
        bool fragment = l->protocol == FRAGMENT;
        if (!fragment && l->protocol != HOP_BY_HOP && l->protocol != ROUTING && l->protocol != DESTINATION)
            return true;
        if (l->end - l->transport < 8)
            return false;
        uint32_t length = fragment ? 8 : (h[1] + 1u) * 8;
        if (length > l->end - l->transport)
            return false;
        l->transport += length;
        l->protocol = h[0];
        if (fragment && dp_net_ld16(h + 2) >> 3) {
            l->protocol = 0;
            return true;
        }
    }
    return false;
}

/* The network header, behind VLAN tags. */
static bool find_network(const uint8_t *p, uint32_t size, struct dp_net_layout *l)
{
    *l = (struct dp_net_layout){.network = DP_NET_HEADER, .transport = DP_NET_HEADER, .payload = DP_NET_HEADER, .end = size};
    if (size < DP_NET_HEADER)
        return false;
    l->ethertype = dp_net_ld16(p + ETHERTYPE_AT);
    for (unsigned n = 0; n < VLANS_MAX && (l->ethertype == DP_NET_ETHERTYPE_VLAN || l->ethertype == ETHERTYPE_QINQ); n++) {
        if (size - l->network < VLAN_SIZE)
            return false;
        l->ethertype = dp_net_ld16(p + l->network + 2);
        l->network += VLAN_SIZE;
    }
    l->transport = l->payload = l->network;
    return true;
}

bool dp_net_parse(const uint8_t *p, uint32_t size, struct dp_net_layout *l)
{
    if (!find_network(p, size, l))
        return false;
    bool ip6 = l->ethertype == DP_NET_ETHERTYPE_IP6;
    if (!ip6 && l->ethertype != DP_NET_ETHERTYPE_IP)
        return true;
    if (!(ip6 ? parse_ip6 : parse_ip)(p, size, l))
        return false;
    l->payload = l->transport;
    if (l->protocol == DP_NET_PROTOCOL_TCP) {
        uint32_t room = l->end - l->transport, header = room < TCP_SIZE ? 0 : (p[l->transport + TCP_OFFSET] >> 4) * 4u;
        if (header < TCP_SIZE || header > room)
            return false;
        l->payload = l->transport + header;
    }
    return l->protocol != DP_NET_PROTOCOL_UDP || l->end - l->transport >= UDP_SIZE;
}

uint32_t dp_net_flow(const struct dp_net_frame *f)
{
    enum { PORTS = 4, ROOM = DP_NET_HEADER + VLANS_MAX * VLAN_SIZE + 60 + PORTS };
    uint8_t h[ROOM];
    struct dp_net_frame start = {.part = f->part, .parts = f->parts, .size = DP_MIN(f->size, (uint32_t)ROOM)};
    struct dp_net_layout l;
    dp_net_gather(&start, h);
    if (!find_network(h, start.size, &l))
        return 0;
    const uint8_t *ip = h + l.network, *a;
    uint32_t room = start.size - l.network, width, ports;
    uint8_t protocol;
    if (l.ethertype == DP_NET_ETHERTYPE_IP && room >= IP_SIZE) {
        a = ip + IP_SOURCE;
        width = 4;
        ports = (ip[0] & 15) * 4u;
        protocol = dp_net_ld16(ip + IP_FRAGMENT) & (FRAGMENT_MORE | FRAGMENT_OFFSET) ? 0 : ip[IP_PROTOCOL]; /* only the first has ports */
    } else if (l.ethertype == DP_NET_ETHERTYPE_IP6 && room >= IP6_SIZE) {
        a = ip + IP6_SOURCE;
        width = 16;
        ports = IP6_SIZE;
        protocol = ip[IP6_NEXT];
    } else {
        return 0;
    }
    uint32_t n = protocol; /* what is the same when source and destination change places */
    for (uint32_t i = 0; i < width; i += 4)
        n = (n ^ dp_ld32(a + i) ^ dp_ld32(a + width + i)) * 0x9e3779b1u;
    if ((protocol == DP_NET_PROTOCOL_TCP || protocol == DP_NET_PROTOCOL_UDP) && ports >= IP_SIZE && ports + PORTS <= room)
        n = (n ^ dp_net_ld16(ip + ports) ^ dp_net_ld16(ip + ports + 2)) * 0x9e3779b1u;
    n ^= n >> 15;
    return n ? n : 1;
}

/* ---- sums ---- */

uint64_t dp_net_sum(const uint8_t *p, size_t size)
{
    uint64_t sum = 0;
    for (; size >= 4; size -= 4, p += 4)
        sum += dp_ld32(p);
    if (size >= 2) {
        sum += dp_ld16(p);
        p += 2;
    }
    return size & 1 ? sum + *p : sum; /* padded with a zero behind, which is above in memory order */
}

uint16_t dp_net_fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

uint64_t dp_net_pseudo_sum(const uint8_t *frame, const struct dp_net_layout *l, uint32_t bytes)
{
    bool ip6 = l->ethertype == DP_NET_ETHERTYPE_IP6;
    uint8_t tail[8] = {bytes >> 24, bytes >> 16, bytes >> 8, bytes, 0, 0, 0, l->protocol};
    return dp_net_sum(tail, sizeof tail) + dp_net_sum(frame + l->network + (ip6 ? IP6_SOURCE : IP_SOURCE), ip6 ? 32 : 8);
}

static void set_transport_checksum(uint8_t *frame, const struct dp_net_layout *l, uint32_t end)
{
    uint8_t *at = frame + l->transport + TCP_CHECKSUM;
    dp_st16(at, 0);
    dp_st16(at, dp_net_fold(dp_net_pseudo_sum(frame, l, end - l->transport) + dp_net_sum(frame + l->transport, end - l->transport)));
}

static bool set_plain_checksum(uint8_t *frame, const struct dp_net_frame *f)
{
    uint32_t at = (uint32_t)f->checksum_start + f->checksum_offset;
    if (f->checksum_start < DP_NET_HEADER || at + 2 > f->size)
        return false;
    uint16_t sum = dp_net_fold(dp_net_sum(frame + f->checksum_start, f->size - f->checksum_start));
    dp_st16(frame + at, sum ? sum : 0xffff); /* the same number, and 0 would mean "none" in UDP */
    return true;
}

void dp_net_gather(const struct dp_net_frame *f, uint8_t *to)
{
    size_t left = f->size;
    for (unsigned i = 0; i < f->parts && left; i++) {
        size_t n = DP_MIN(f->part[i].iov_len, left);
        memcpy(to, f->part[i].iov_base, n);
        to += n;
        left -= n;
    }
}

/* ---- segmentation ---- */

static void set_ip_checksum(uint8_t *ip, uint32_t size)
{
    dp_st16(ip + IP_CHECKSUM, 0);
    dp_st16(ip + IP_CHECKSUM, dp_net_fold(dp_net_sum(ip, size)));
}

bool dp_net_whole_tso(const struct dp_net_frame *f, uint8_t *bytes, struct dp_net_layout *l)
{
    if (!find_network(bytes, f->size, l) || !f->segment_size)
        return false;
    uint8_t *ip = bytes + l->network;
    uint32_t length = f->size - l->network;
    if (l->ethertype == DP_NET_ETHERTYPE_IP && (f->work & DP_NET_TSO4)) {
        if (length < IP_SIZE || length > UINT16_MAX)
            return false;
        dp_net_st16(ip + IP_LENGTH, (uint16_t)length);
        if (!dp_net_parse(bytes, f->size, l) || dp_net_ld16(ip + IP_FRAGMENT) & FRAGMENT_MORE)
            return false;
        set_ip_checksum(ip, l->transport - l->network);
    } else if (l->ethertype == DP_NET_ETHERTYPE_IP6 && (f->work & DP_NET_TSO6)) {
        if (length < IP6_SIZE || length - IP6_SIZE > UINT16_MAX)
            return false;
        dp_net_st16(ip + IP6_LENGTH, (uint16_t)(length - IP6_SIZE));
        if (!dp_net_parse(bytes, f->size, l))
            return false;
    } else {
        return false;
    }
    return l->protocol == DP_NET_PROTOCOL_TCP;
}

/* Piece n, whose payload is [at, at + bytes), to `to`. Returns its size. */
static uint32_t make_segment(const uint8_t *in, const struct dp_net_layout *l, uint32_t n, uint32_t at, uint32_t bytes, uint8_t *to)
{
    uint32_t size = l->payload + bytes, sequence_at = l->transport + TCP_SEQUENCE;
    bool last = at + bytes == l->end;
    memcpy(to, in, l->payload);
    memcpy(to + l->payload, in + at, bytes);
    uint8_t *ip = to + l->network;
    if (l->ethertype == DP_NET_ETHERTYPE_IP6) {
        dp_net_st16(ip + IP6_LENGTH, (uint16_t)(size - l->network - IP6_SIZE));
    } else {
        dp_net_st16(ip + IP_LENGTH, (uint16_t)(size - l->network));
        dp_net_st16(ip + IP_ID, (uint16_t)(dp_net_ld16(ip + IP_ID) + n));
        set_ip_checksum(ip, l->transport - l->network);
    }
    uint32_t sequence = __builtin_bswap32(dp_ld32(to + sequence_at)) + (at - l->payload);
    dp_st32(to + sequence_at, __builtin_bswap32(sequence));
    to[l->transport + TCP_FLAGS] &= ~((n ? TCP_CWR : 0) | (last ? 0 : TCP_FIN | TCP_PSH));
    set_transport_checksum(to, l, size);
    return size;
}

bool dp_net_finish_checksum(const struct dp_net_frame *f, uint8_t *bytes)
{
    struct dp_net_layout l;
    if (f->work & TSO) {
        if (!dp_net_whole_tso(f, bytes, &l))
            return false;
        set_transport_checksum(bytes, &l, l.end);
        return true;
    }
    return !(f->work & DP_NET_CHECKSUM) || set_plain_checksum(bytes, f);
}

static bool sound(const struct dp_net_frame *f)
{
    return f->size >= DP_NET_FRAME_MIN && f->size <= DP_NET_FRAME_MAX && !(f->work & DP_NET_UFO);
}

unsigned dp_net_complete(const struct dp_net_frame *f, uint32_t first, struct dp_net_scratch *s)
{
    struct dp_net_layout l;
    if (!sound(f))
        return 0;
    if (!(f->work & TSO)) {
        if (first)
            return 0;
        dp_net_gather(f, s->output);
        s->part[0] = (struct iovec){s->output, f->size};
        s->frame[0] = (struct dp_net_frame){.part = s->part, .parts = 1, .size = f->size};
        return dp_net_finish_checksum(f, s->output);
    }
    dp_net_gather(f, s->input);
    if (!dp_net_whole_tso(f, s->input, &l))
        return 0;
    uint32_t payload = l.end - l.payload, pieces = payload ? (payload + f->segment_size - 1) / f->segment_size : 1;
    unsigned count = 0;
    uint8_t *to = s->output, *limit = s->output + sizeof s->output;
    for (uint32_t n = first; n < pieces && count < DP_NET_BATCH; n++, count++) {
        uint32_t at = l.payload + n * f->segment_size, bytes = DP_MIN((uint32_t)f->segment_size, l.end - at);
        if ((size_t)(limit - to) < l.payload + bytes)
            break;
        uint32_t size = make_segment(s->input, &l, n, at, bytes, to);
        s->part[count] = (struct iovec){to, size};
        s->frame[count] = (struct dp_net_frame){.part = &s->part[count], .parts = 1, .size = size};
        to += size;
    }
    return count;
}

/* ---- sending ---- */

/* One frame's pieces, from *progress on. True when none is left. */
static bool send_pieces(struct dp_net_port *p, const struct dp_net_frame *f, uint32_t *progress, struct dp_net_scratch *s)
{
    for (unsigned n; (n = dp_net_complete(f, *progress, s));) {
        unsigned sent = dp_net_send(p, s->frame, n);
        *progress += sent;
        if (sent < n)
            return false;
    }
    *progress = 0;
    return true;
}

unsigned dp_net_send_complete(struct dp_net_port *p, const struct dp_net_frame *frame, unsigned count, uint32_t *progress,
                              struct dp_net_scratch *s)
{
    uint32_t accepts = dp_net_peer_accepts(p);
    unsigned done = 0;
    while (done < count) {
        unsigned n = 0; /* of frames that go as they are */
        while (done + n < count && !*progress && sound(&frame[done + n]) && !(frame[done + n].work & ~accepts))
            n++;
        if (n) {
            unsigned sent = dp_net_send(p, frame + done, n);
            done += sent;
            if (sent < n)
                break;
        } else {
            if (!send_pieces(p, &frame[done], progress, s))
                break;
            done++;
        }
    }
    return done;
}
