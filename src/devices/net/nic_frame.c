/* devices/net/nic_frame.c - what a card's offload engine knows of frames: checksums, VLAN tags, the FCS, the multicast hash. See nic.h.
 *
 * Headers and sums are net/offload.h's. A sum of 0 is stored as ffffh, which means the same to everybody and is not UDP's "none".
 */
#include "devices/net/nic.h"

enum { ETHERTYPE = 12, UDP_CHECKSUM = 6, TCP_CHECKSUM = 16, IP_FRAGMENTS = 0x3fff, IP6_HEADER = 40 };

static uint16_t complement(uint64_t sum)
{
    uint16_t v = dp_net_fold(sum);
    return v ? v : 0xffff;
}

void nic_put_checksum(uint8_t *data, uint32_t size, uint16_t start, uint16_t offset)
{
    if (start >= size || (uint32_t)start + offset + 2 > size)
        return;
    dp_st16(data + start + offset, complement(dp_net_sum(data + start, size - start)));
}

void nic_ip_checksum(uint8_t *data, const struct dp_net_layout *l)
{
    uint8_t *ip = data + l->network;
    if (l->ethertype != DP_NET_ETHERTYPE_IP)
        return;
    dp_st16(ip + 10, 0);
    dp_st16(ip + 10, complement(dp_net_sum(ip, l->transport - l->network)));
}

/* Is there a whole TCP or UDP packet, in one piece? */
static bool has_l4(const uint8_t *data, const struct dp_net_layout *l)
{
    if (l->protocol != DP_NET_PROTOCOL_TCP && l->protocol != DP_NET_PROTOCOL_UDP)
        return false;
    if (l->ethertype == DP_NET_ETHERTYPE_IP)
        return !(dp_net_ld16(data + l->network + 6) & IP_FRAGMENTS);
    return l->ethertype == DP_NET_ETHERTYPE_IP6 && l->transport == l->network + IP6_HEADER;
}

bool nic_l4_prepare(struct nic_packet *p, const struct dp_net_layout *l)
{
    if (!has_l4(p->data, l))
        return false;
    p->work |= DP_NET_CHECKSUM;
    p->checksum_start = (uint16_t)l->transport;
    p->checksum_offset = l->protocol == DP_NET_PROTOCOL_TCP ? TCP_CHECKSUM : UDP_CHECKSUM;
    p->size = l->end; /* the sum ends there, and padding comes back by itself */
    dp_st16(p->data + l->transport + p->checksum_offset, (uint16_t)~dp_net_fold(dp_net_pseudo_sum(p->data, l, l->end - l->transport)));
    return true;
}

bool nic_tso_prepare(struct nic_packet *p, uint16_t segment_size)
{
    struct dp_net_frame f = {.size = p->size, .segment_size = segment_size, .work = DP_NET_TSO4};
    struct dp_net_layout l;
    if (!dp_net_whole_tso(&f, p->data, &l)) {
        f.work = DP_NET_TSO6;
        if (!dp_net_whole_tso(&f, p->data, &l))
            return false;
    }
    if (!nic_l4_prepare(p, &l))
        return false;
    if (l.end - l.payload <= segment_size) /* one segment: only its checksum is left */
        return true;
    p->work |= f.work | (p->data[l.transport + 13] & 0x80 ? DP_NET_ECN : 0);
    p->header_size = (uint16_t)l.payload;
    p->segment_size = segment_size;
    return true;
}

unsigned nic_checksums(const uint8_t *data, uint32_t size, struct dp_net_layout *l)
{
    unsigned seen = 0;
    if (!dp_net_parse(data, size, l))
        return 0;
    if (l->ethertype == DP_NET_ETHERTYPE_IP)
        seen |= NIC_IP_SEEN | (dp_net_fold(dp_net_sum(data + l->network, l->transport - l->network)) ? NIC_IP_BAD : 0);
    if (!has_l4(data, l) || (l->protocol == DP_NET_PROTOCOL_UDP && !dp_ld16(data + l->transport + UDP_CHECKSUM)))
        return seen;
    uint32_t length = l->end - l->transport;
    bool bad = dp_net_fold(dp_net_pseudo_sum(data, l, length) + dp_net_sum(data + l->transport, length));
    return seen | NIC_L4_SEEN | (bad ? NIC_L4_BAD : 0);
}

void nic_insert_vlan(struct nic_packet *p, uint16_t tpid, uint16_t tci)
{
    if (p->size < ETHERTYPE || p->size + NIC_VLAN > DP_NET_FRAME_MAX)
        return;
    memmove(p->data + ETHERTYPE + NIC_VLAN, p->data + ETHERTYPE, p->size - ETHERTYPE);
    dp_net_st16(p->data + ETHERTYPE, tpid);
    dp_net_st16(p->data + ETHERTYPE + 2, tci);
    p->size += NIC_VLAN;
    if (p->work) {
        p->checksum_start += NIC_VLAN;
        p->header_size += p->header_size ? NIC_VLAN : 0;
    }
}

/* ---- CRC-32 ---- */

unsigned nic_multicast_hash(const uint8_t mac[NIC_MAC])
{
    uint32_t crc = ~0u;
    for (unsigned i = 0; i < NIC_MAC; i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            bool one = (crc >> 31) ^ (mac[i] >> bit & 1);
            crc = crc << 1 ^ (one ? 0x04c11db7 : 0);
        }
    return crc >> 26;
}

bool nic_is_broadcast(const uint8_t *frame)
{
    static const uint8_t all[NIC_MAC] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    return !memcmp(frame, all, NIC_MAC);
}

uint32_t nic_fcs(const struct nic *n, const uint8_t *data, uint32_t size)
{
    uint32_t crc = ~0u;
    for (; size >= 8; data += 8, size -= 8) {
        uint32_t low = dp_ld32(data) ^ crc, high = dp_ld32(data + 4);
        crc = n->crc[7][low & 0xff] ^ n->crc[6][low >> 8 & 0xff] ^ n->crc[5][low >> 16 & 0xff] ^ n->crc[4][low >> 24] ^
              n->crc[3][high & 0xff] ^ n->crc[2][high >> 8 & 0xff] ^ n->crc[1][high >> 16 & 0xff] ^ n->crc[0][high >> 24];
    }
    for (; size; data++, size--)
        crc = crc >> 8 ^ n->crc[0][(crc ^ *data) & 0xff];
    return ~crc;
}
