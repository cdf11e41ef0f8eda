/* net/reassembly.c - see reassembly.h. */
#include "net/reassembly.h"

#include <stdlib.h>

enum { IP_LENGTH = 2, IP_ID = 4, IP_FRAGMENT = 6, IP_PROTOCOL = 9, IP_CHECKSUM = 10, IP_SOURCE = 12, MORE = 0x2000, OFFSET = 0x1fff };
enum { HEADER_MAX = DP_NET_HEADER + 60 /* the payload is behind as much */, PAYLOAD_MAX = 65535 - 20, UNIT = 8 };
#define PATIENCE_NS 30000000000ull

bool dp_net_is_fragment(const uint8_t *frame, const struct dp_net_layout *l)
{
    return l->ethertype == DP_NET_ETHERTYPE_IP && (dp_net_ld16(frame + l->network + IP_FRAGMENT) & (MORE | OFFSET));
}

static void forget(struct dp_net_datagram *d) { d->used = false; }

/* The packet a fragment is of: one that is known, else a new one in the place of none or of the oldest. */
static struct dp_net_datagram *find(struct dp_net_reassembly *r, const uint8_t *ip, uint64_t now)
{
    struct dp_net_datagram *place = &r->datagram[0];
    uint8_t key[sizeof place->key];
    memcpy(key, ip + IP_SOURCE, 8);
    key[8] = ip[IP_PROTOCOL];
    memcpy(key + 9, ip + IP_ID, 2);
    for (unsigned i = 0; i < DP_NET_REASSEMBLED; i++) {
        struct dp_net_datagram *d = &r->datagram[i];
        d->used &= now - d->since < PATIENCE_NS;
        if (d->used && !memcmp(d->key, key, sizeof key))
            return d;
        if (place->used && (!d->used || d->since < place->since))
            place = d;
    }
    if (!place->bytes)
        place->bytes = malloc(HEADER_MAX + PAYLOAD_MAX);
    if (!place->had)
        place->had = malloc(PAYLOAD_MAX / UNIT / 8 + 1);
    if (!place->bytes || !place->had)
        return NULL; /* networks lose frames */
    memset(place->had, 0, PAYLOAD_MAX / UNIT / 8 + 1);
    memcpy(place->key, key, sizeof key);
    place->used = true;
    place->since = now;
    place->header = place->end = place->received = place->total = 0;
    return place;
}

/* False: some of it was there already. */
static bool mark(struct dp_net_datagram *d, uint32_t offset, uint32_t bytes)
{
    for (uint32_t unit = offset / UNIT; unit < (offset + bytes + UNIT - 1) / UNIT; unit++) {
        uint8_t bit = (uint8_t)(1u << unit % 8);
        if (d->had[unit / 8] & bit)
            return false;
        d->had[unit / 8] |= bit;
    }
    return true;
}

uint8_t *dp_net_reassemble(struct dp_net_reassembly *r, const uint8_t *frame, const struct dp_net_layout *l, uint64_t now, uint32_t *size)
{
    const uint8_t *ip = frame + l->network;
    uint32_t field = dp_net_ld16(ip + IP_FRAGMENT), offset = (field & OFFSET) * UNIT, header = l->network + (ip[0] & 15) * 4u;
    uint32_t bytes = l->end - header, end = offset + bytes;
    bool more = field & MORE;
    if (l->network != DP_NET_HEADER || !bytes || (more && bytes % UNIT) || end > PAYLOAD_MAX)
        return NULL;
    struct dp_net_datagram *d = find(r, ip, now);
    if (!d)
        return NULL;
    if (!mark(d, offset, bytes) || (d->total && (!more || end > d->total)) || (!more && d->end > end)) {
        forget(d);
        return NULL;
    }
    memcpy(d->bytes + HEADER_MAX + offset, frame + header, bytes);
    d->received += bytes;
    d->end = DP_MAX(d->end, end);
    d->total = more ? d->total : end;
    if (!offset) {
        d->header = header;
        memcpy(d->bytes + HEADER_MAX - header, frame, header);
    }
    if (!d->header || !d->total || d->received != d->total)
        return NULL;
    forget(d);
    uint32_t ip_header = d->header - DP_NET_HEADER;
    if (ip_header + d->total > UINT16_MAX)
        return NULL;
    uint8_t *whole = d->bytes + HEADER_MAX - d->header, *out = whole + DP_NET_HEADER;
    dp_net_st16(out + IP_LENGTH, (uint16_t)(ip_header + d->total));
    dp_net_st16(out + IP_FRAGMENT, 0);
    dp_st16(out + IP_CHECKSUM, 0);
    dp_st16(out + IP_CHECKSUM, dp_net_fold(dp_net_sum(out, ip_header)));
    *size = d->header + d->total;
    return whole;
}

void dp_net_reassembly_fini(struct dp_net_reassembly *r)
{
    for (unsigned i = 0; i < DP_NET_REASSEMBLED; i++) {
        free(r->datagram[i].bytes);
        free(r->datagram[i].had);
    }
}
