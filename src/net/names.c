/* net/names.c - see names.h. */
#include "net/names.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <strings.h>

#include "net/reassembly.h"

enum { FIRST = 15, LEASES_MAX = 4096, LEASE_SECONDS = 3600, OFFER_SECONDS = 60, TTL = 5 };
enum { UDP = 17, UDP_HEADER = 8, PORT_DNS = 53, PORT_DHCP_SERVER = 67, PORT_DHCP_CLIENT = 68 };
enum { IP_SRC = 12, IP_DST = 16, IP6_SRC = 8, IP6_DST = 24 };
enum { DNS_HEADER = 12, DNS_A = 1, DNS_PTR = 12, DNS_ANY = 255, DNS_IN = 1, NOERROR = 0, NXDOMAIN = 3, NAME_MAX_DNS = 253 };
enum { BOOTP_SIZE = 240, B_CIADDR = 12, B_YIADDR = 16, B_SIADDR = 20, B_FLAGS = 10, B_CHADDR = 28, B_COOKIE = 236 };
enum { DISCOVER = 1, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM };
enum { O_MASK = 1, O_ROUTER = 3, O_DNS = 6, O_DOMAIN = 15, O_MTU = 26, O_BROADCAST = 28, O_REQUESTED = 50, O_LEASE = 51, O_TYPE = 53,
       O_SERVER = 54, O_END = 255 };
#define SECOND 1000000000ull

struct lease {
    bool held, reserved;
    uint8_t mac[6];
    char port[DP_NET_NAMES_PORT]; /* of the holder, or whom it is reserved for */
    uint64_t until, number; /* leases are numbered as they are made */
};

struct dp_net_names {
    struct dp_net_names_options o;
    char domain[64];
    struct dp_net_names_stats stats;
    uint64_t made;
    unsigned leases;
    struct lease lease[];
};

static uint16_t be16(const uint8_t *p) { return (uint16_t)(p[0] << 8 | p[1]); }
static uint32_t be32(const uint8_t *p) { return (uint32_t)be16(p) << 16 | be16(p + 2); }
static void put16(uint8_t *p, unsigned v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}

static uint32_t mask(const struct dp_net_names *n) { return ~0u << (32 - n->o.prefix); }
static uint32_t gateway(const struct dp_net_names *n) { return n->o.network + DP_NET_NAMES_GATEWAY; }
static uint32_t server(const struct dp_net_names *n) { return n->o.network + DP_NET_NAMES_SERVER; }
static uint32_t address_of(const struct dp_net_names *n, const struct lease *l) { return n->o.network + FIRST + (uint32_t)(l - n->lease); }

static struct lease *lease_at(struct dp_net_names *n, uint32_t address)
{
    uint32_t i = address - n->o.network - FIRST;
    return i < n->leases ? &n->lease[i] : NULL;
}

/* ---- leases ---- */

static bool same_mac(const uint8_t a[6], const uint8_t b[6]) { return !memcmp(a, b, 6); }
static bool is_joined(const struct dp_net_names *n, const char *port) { return n->o.is_joined(n->o.opaque, port); }

/* Does the switch see its holder where it was leased? */
static bool is_seen(const struct dp_net_names *n, const struct lease *l)
{
    const char *port = n->o.port_of(n->o.opaque, l->mac);
    return port && !strcmp(port, l->port);
}

static bool in_use(const struct dp_net_names *n, const struct lease *l)
{
    return l->held && l->until > dp_clock_now(n->o.clock) && is_joined(n, l->port);
}

static uint32_t place(const struct dp_net_names *n, const uint8_t mac[6])
{
    uint32_t hash = 2166136261; /* FNV-1a */
    for (unsigned i = 0; i < 6; i++)
        hash = (hash ^ mac[i]) * 16777619;
    return (hash ^ hash >> 16) % n->leases;
}

/* A place that nobody has; else one whose holder is gone, for the longest time. */
static struct lease *vacant(struct dp_net_names *n, const uint8_t mac[6])
{
    struct lease *oldest = NULL;
    uint32_t from = place(n, mac);
    for (unsigned i = 0; i < n->leases; i++) {
        struct lease *l = &n->lease[(from + i) % n->leases];
        if (l->reserved)
            continue;
        if (!l->held)
            return l;
        if (!in_use(n, l) && (!oldest || l->until < oldest->until))
            oldest = l;
    }
    return oldest;
}

/* The lease of a MAC at a port, an old or a new one; NULL: it gets none. */
static struct lease *lease_for(struct dp_net_names *n, const uint8_t mac[6], const char *port, uint32_t wanted)
{
    struct lease *own = NULL, *kept = NULL, *expired = NULL;
    uint64_t now = dp_clock_now(n->o.clock);
    unsigned count = 0;
    for (struct lease *l = n->lease; l < n->lease + n->leases; l++) {
        bool at_port = !strcmp(l->port, port);
        if (l->held && same_mac(l->mac, mac))
            own = l;
        if (l->reserved && at_port)
            kept = l;
        count += l->held && at_port;
        if (l->held && at_port && !l->reserved && l->until <= now)
            expired = l;
    }
    if (own && strcmp(own->port, port) && is_joined(n, own->port)) {
        n->stats.spoofed++;
        return NULL;
    }
    if (kept && kept != own && kept->held && is_seen(n, kept))
        kept = NULL; /* for another card of that machine */
    if (own && own->reserved && strcmp(own->port, port)) {
        own->held = false;
        own = NULL;
    }
    struct lease *l = kept ? kept : own;
    if (!l && count >= DP_NET_NAMES_PER_PORT) {
        l = expired;
    } else if (!l) {
        l = lease_at(n, wanted);
        if (!l || l->held || l->reserved)
            l = vacant(n, mac);
    }
    if (!l) {
        n->stats.refused++;
        return NULL;
    }
    if (own && own != l)
        own->held = false;
    if (!l->held || !same_mac(l->mac, mac))
        l->number = ++n->made;
    l->held = true;
    memcpy(l->mac, mac, 6);
    snprintf(l->port, sizeof l->port, "%s", port);
    l->until = DP_MAX(l->until, now + OFFER_SECONDS * SECOND);
    return l;
}

int dp_net_names_reserve(struct dp_net_names *n, const char *port, uint32_t *address, struct dp_error *e)
{
    struct lease *l = n->lease;
    while (l < n->lease + n->leases && !(l->reserved && !strcmp(l->port, port)))
        l++;
    for (unsigned i = 0; l == n->lease + n->leases && i < n->leases; i++)
        if (!n->lease[i].reserved && !n->lease[i].held)
            l = &n->lease[i];
    if (l == n->lease + n->leases || strlen(port) >= sizeof l->port)
        return dp_error_set(e, -ENOSPC, "no address can be kept for port '%.40s': take a larger subnet", port);
    l->reserved = true;
    strcpy(l->port, port);
    *address = address_of(n, l);
    return 0;
}

bool dp_net_names_lease(const struct dp_net_names *n, unsigned *i, struct dp_net_lease *out)
{
    while (*i < n->leases && !n->lease[*i].held)
        ++*i;
    if (*i >= n->leases)
        return false;
    const struct lease *l = &n->lease[(*i)++];
    *out = (struct dp_net_lease){.address = address_of(n, l), .port = l->port};
    memcpy(out->mac, l->mac, 6);
    return true;
}

/* ---- frames ---- */

/* Headers of an answer by UDP with size bytes at payload(); `to` and `mac`: whom it is for. Returns the frame's size. */
static uint32_t finish(uint8_t *f, const uint8_t *frame, const struct dp_net_layout *l, uint32_t size, const uint8_t *mac, const uint8_t *to,
                       const uint8_t *from, unsigned to_port, unsigned from_port)
{
    bool six = l->ethertype == DP_NET_ETHERTYPE_IP6;
    struct dp_net_layout out = {.ethertype = l->ethertype, .protocol = UDP, .network = DP_NET_HEADER, .transport = DP_NET_HEADER + (six ? 40 : 20)};
    uint8_t *ip = f + out.network, *udp = f + out.transport;
    memcpy(f, mac, 6);
    memcpy(f + 6, six ? (const uint8_t *)"\x52\x56\0\0" : (const uint8_t *)"\x52\x55\0\0", 2); /* as libslirp's */
    memcpy(f + 8, six ? from + 12 : from, 4);
    put16(f + 12, l->ethertype);
    memset(ip, 0, out.transport - out.network);
    if (six) {
        ip[0] = 0x60;
        put16(ip + 4, UDP_HEADER + size);
        ip[6] = UDP;
        ip[7] = 64;
        memcpy(ip + IP6_SRC, from, 16);
        memcpy(ip + IP6_DST, to, 16);
    } else {
        ip[0] = 0x45;
        put16(ip + 2, 20 + UDP_HEADER + size);
        ip[8] = 64;
        ip[9] = UDP;
        memcpy(ip + IP_SRC, from, 4);
        memcpy(ip + IP_DST, to, 4);
        dp_st16(ip + 10, dp_net_fold(dp_net_sum(ip, 20)));
    }
    put16(udp, from_port);
    put16(udp + 2, to_port);
    put16(udp + 4, UDP_HEADER + size);
    put16(udp + 6, 0);
    out.payload = out.transport;
    out.end = out.transport + UDP_HEADER + size;
    uint16_t sum = dp_net_fold(dp_net_pseudo_sum(f, &out, UDP_HEADER + size) + dp_net_sum(udp, UDP_HEADER + size));
    dp_st16(udp + 6, sum ? sum : 0xffff);
    return out.end;
}

static uint8_t *payload(uint8_t *f, const struct dp_net_layout *l)
{
    return f + DP_NET_HEADER + (l->ethertype == DP_NET_ETHERTYPE_IP6 ? 40 : 20) + UDP_HEADER;
}

/* ---- DHCP ---- */

/* An option of exactly `size` bytes; NULL: it is not there. */
static const uint8_t *option(const uint8_t *b, uint32_t size, unsigned code, unsigned length)
{
    for (uint32_t i = BOOTP_SIZE; i < size && b[i] != O_END;) {
        if (!b[i]) {
            i++;
            continue;
        }
        if (size - i < 2 || size - i - 2 < b[i + 1])
            return NULL;
        if (b[i] == code)
            return b[i + 1] == length ? b + i + 2 : NULL;
        i += 2u + b[i + 1];
    }
    return NULL;
}

static uint8_t *add_option(uint8_t *p, unsigned code, const void *value, size_t size)
{
    *p++ = (uint8_t)code;
    *p++ = (uint8_t)size;
    memcpy(p, value, size);
    return p + size;
}

static uint8_t *add_number(uint8_t *p, unsigned code, uint32_t value)
{
    uint8_t b[4];
    put32(b, value);
    return add_option(p, code, b, 4);
}

/* What a client is told besides its address. */
static uint8_t *add_settings(const struct dp_net_names *n, uint8_t *p)
{
    p = add_number(p, O_MASK, mask(n));
    if (!n->o.internal)
        p = add_number(p, O_ROUTER, gateway(n));
    p = add_number(p, O_DNS, server(n));
    p = add_option(p, O_DOMAIN, n->domain, strlen(n->domain));
    p = add_number(p, O_BROADCAST, n->o.network | ~mask(n));
    if (n->o.mtu && n->o.mtu <= 0xffff)
        p = add_option(p, O_MTU, (const uint8_t[]){(uint8_t)(n->o.mtu >> 8), (uint8_t)n->o.mtu}, 2);
    return p;
}

static enum dp_net_names_verdict dhcp(struct dp_net_names *n, const uint8_t *frame, const struct dp_net_layout *l, uint8_t *answer,
                                      uint32_t *answer_size)
{
    const uint8_t *b = frame + l->transport + UDP_HEADER;
    uint32_t size = l->end - l->transport - UDP_HEADER, wanted = 0;
    if (size < BOOTP_SIZE || b[0] != 1 || b[1] != 1 || b[2] != 6 || be32(b + B_COOKIE) != 0x63825363)
        return DP_NET_NAMES_DROP;
    const uint8_t *type = option(b, size, O_TYPE, 1), *to = option(b, size, O_SERVER, 4), *asked = option(b, size, O_REQUESTED, 4);
    const char *port = n->o.port_of(n->o.opaque, frame + 6);
    if (!type || !port || (to && be32(to) != gateway(n)))
        return DP_NET_NAMES_DROP;
    if (!same_mac(b + B_CHADDR, frame + 6)) {
        n->stats.spoofed++;
        return DP_NET_NAMES_DROP;
    }
    wanted = asked ? be32(asked) : be32(b + B_CIADDR);
    if (*type != DISCOVER && *type != REQUEST && *type != INFORM)
        return DP_NET_NAMES_DROP; /* a release is not believed: the place is kept */
    struct lease *lease = *type == INFORM ? NULL : lease_for(n, frame + 6, port, wanted);
    if (!lease && *type != INFORM)
        return DP_NET_NAMES_DROP;
    bool nak = *type == REQUEST && address_of(n, lease) != wanted;
    uint8_t *r = payload(answer, l), *p = r + BOOTP_SIZE, from[4], dst[4];
    memset(r, 0, BOOTP_SIZE + 60);
    r[0] = 2;
    r[1] = 1;
    r[2] = 6;
    memcpy(r + 4, b + 4, 4); /* xid */
    memcpy(r + B_FLAGS, b + B_FLAGS, 2);
    memcpy(r + B_CHADDR, b + B_CHADDR, 6);
    put32(r + B_COOKIE, 0x63825363);
    put32(from, gateway(n));
    memset(dst, 0xff, 4);
    p = add_option(p, O_TYPE, &(uint8_t){nak ? NAK : *type == DISCOVER ? OFFER : ACK}, 1);
    p = add_number(p, O_SERVER, gateway(n));
    if (!nak) {
        put32(r + B_SIADDR, gateway(n));
        if (lease) {
            put32(r + B_YIADDR, address_of(n, lease));
            p = add_number(p, O_LEASE, LEASE_SECONDS);
        }
        p = add_settings(n, p);
        if (*type != DISCOVER)
            memcpy(r + B_CIADDR, b + B_CIADDR, 4);
        if (be32(b + B_CIADDR))
            memcpy(dst, b + B_CIADDR, 4);
        else if (!(b[B_FLAGS] & 0x80))
            memcpy(dst, r + B_YIADDR, 4);
    }
    *p++ = O_END;
    if (lease && !nak && *type == REQUEST) {
        lease->until = dp_clock_now(n->o.clock) + LEASE_SECONDS * SECOND;
        n->stats.leased++;
    }
    uint32_t length = DP_MAX((uint32_t)(p - r), (uint32_t)BOOTP_SIZE + 60); /* BOOTP's smallest */
    uint8_t mac[6];
    memset(mac, 0xff, 6);
    if (be32(dst) != 0xffffffff)
        memcpy(mac, frame + 6, 6);
    *answer_size = finish(answer, frame, l, length, mac, dst, from, PORT_DHCP_CLIENT, PORT_DHCP_SERVER);
    return DP_NET_NAMES_ANSWERED;
}

/* ---- DNS ---- */

/* The name of the first question as text; returns where it ends, 0: none that we would know. */
static uint32_t read_name(const uint8_t *d, uint32_t size, char text[NAME_MAX_DNS + 1])
{
    uint32_t at = DNS_HEADER, n = 0;
    for (;;) {
        if (at >= size || d[at] > 63 || d[at] >= size - at) /* no question has to be compressed */
            return 0;
        unsigned length = d[at++];
        if (!length)
            break;
        if (n + length + 1 > NAME_MAX_DNS)
            return 0;
        if (n)
            text[n++] = '.';
        for (; length; length--, at++) {
            if (d[at] <= ' ' || d[at] > '~' || d[at] == '.')
                return 0;
            text[n++] = (char)d[at];
        }
    }
    text[n] = 0;
    return at;
}

/* A name as labels; 0: it is none. */
static uint32_t write_name(uint8_t *p, const char *text)
{
    uint32_t at = 0;
    for (;;) {
        size_t length = strcspn(text, ".");
        if (!length || length > 63)
            return 0;
        p[at++] = (uint8_t)length;
        memcpy(p + at, text, length);
        at += (uint32_t)length;
        text += length;
        if (!*text++)
            break;
    }
    p[at++] = 0;
    return at;
}

/* Who is called so. The same letters are better than the same in other cases, seen better than not; then the first of the seen, or the
 * last of the others (an older one was perhaps this machine with another card). */
static const struct lease *who(const struct dp_net_names *n, const char *name)
{
    const struct lease *best = NULL;
    unsigned best_rank = 0;
    for (const struct lease *l = n->lease; l < n->lease + n->leases; l++) {
        if (!l->held || strcasecmp(l->port, name) || !is_joined(n, l->port))
            continue;
        unsigned rank = 2 * !strcmp(l->port, name) + is_seen(n, l);
        if (!best || rank > best_rank || (rank == best_rank && (rank & 1 ? l->number < best->number : l->number > best->number))) {
            best = l;
            best_rank = rank;
        }
    }
    return best;
}

/* "4.3.2.1.in-addr.arpa" in our subnet. */
static bool backwards(const struct dp_net_names *n, const char *name, uint32_t *address)
{
    unsigned b[4];
    int end = 0;
    if (sscanf(name, "%3u.%3u.%3u.%3u.%n", b, b + 1, b + 2, b + 3, &end) != 4 || !end || strcasecmp(name + end, "in-addr.arpa"))
        return false;
    for (unsigned i = 0; i < 4; i++)
        if (b[i] > 255)
            return false;
    *address = b[3] << 24 | b[2] << 16 | b[1] << 8 | b[0];
    return (*address & mask(n)) == n->o.network;
}

/* What there is to say to a question: false: ask somebody else. data: the record's, of *data_size bytes; 0: none. */
static bool resolve(struct dp_net_names *n, char *name, unsigned type, unsigned *code, unsigned *data_type, uint8_t *data, uint32_t *data_size)
{
    uint32_t address;
    size_t size = strlen(name), domain = strlen(n->domain);
    const struct lease *l;
    *data_size = 0;
    *code = NXDOMAIN;
    if (backwards(n, name, &address)) {
        char full[DP_NET_NAMES_PORT + 65];
        *data_type = DNS_PTR;
        l = lease_at(n, address);
        if (!l || !l->held || !is_joined(n, l->port))
            return true;
        snprintf(full, sizeof full, "%s.%s", l->port, n->domain);
        uint32_t length = write_name(data, full);
        *code = length ? NOERROR : NXDOMAIN;
        *data_size = type == DNS_PTR || type == DNS_ANY ? length : 0;
        return true;
    }
    bool ours = size >= domain && !strcasecmp(name + size - domain, n->domain) && (size == domain || name[size - domain - 1] == '.');
    if (ours && size > domain)
        name[size - domain - 1] = 0;
    l = who(n, name);
    if (!l) {
        *code = ours && size == domain ? NOERROR : NXDOMAIN;
        return ours || n->o.internal;
    }
    *code = NOERROR;
    *data_type = DNS_A;
    if (type == DNS_A || type == DNS_ANY) {
        put32(data, address_of(n, l));
        *data_size = 4;
    }
    return true;
}

static enum dp_net_names_verdict dns(struct dp_net_names *n, const uint8_t *frame, const struct dp_net_layout *l, uint8_t *answer,
                                     uint32_t *answer_size)
{
    const uint8_t *d = frame + l->transport + UDP_HEADER;
    uint32_t size = l->end - l->transport - UDP_HEADER, data_size, end;
    char name[NAME_MAX_DNS + 1];
    unsigned code, data_type;
    uint8_t data[DP_NET_NAMES_PORT + 70], *r = payload(answer, l);
    if (size < DNS_HEADER || d[2] & 0xf8 /* no question, or another operation */ || be16(d + 4) != 1 || be16(d + 6))
        return DP_NET_NAMES_PASS;
    if (!(end = read_name(d, size, name)) || size - end < 4 || be16(d + end + 2) != DNS_IN || !*name)
        return DP_NET_NAMES_PASS;
    if (!resolve(n, name, be16(d + end), &code, &data_type, data, &data_size))
        return DP_NET_NAMES_PASS;
    end += 4;
    memcpy(r, d, end);
    r[2] = 0x84 | (d[2] & 1); /* an answer, with authority */
    r[3] = (uint8_t)(0x80 | code);
    put16(r + 6, data_size ? 1 : 0);
    put32(r + 8, 0);
    if (data_size) {
        put16(r + end, 0xc000 | DNS_HEADER);
        put16(r + end + 2, data_type);
        put16(r + end + 4, DNS_IN);
        put32(r + end + 6, TTL);
        put16(r + end + 10, data_size);
        memcpy(r + end + 12, data, data_size);
        end += 12 + data_size;
    }
    bool six = l->ethertype == DP_NET_ETHERTYPE_IP6;
    const uint8_t *ip = frame + l->network;
    *answer_size = finish(answer, frame, l, end, frame + 6, ip + (six ? IP6_SRC : IP_SRC), ip + (six ? IP6_DST : IP_DST),
                          be16(frame + l->transport), PORT_DNS);
    n->stats.answered++;
    return DP_NET_NAMES_ANSWERED;
}

/* ---- what comes ---- */

static bool is_spoofed(struct dp_net_names *n, const uint8_t *frame, uint32_t from)
{
    const struct lease *l = lease_at(n, from);
    return l && in_use(n, l) && !same_mac(l->mac, frame + 6) && ++n->stats.spoofed;
}

enum dp_net_names_verdict dp_net_names_look(struct dp_net_names *n, const uint8_t *frame, const struct dp_net_layout *l,
                                            uint8_t answer[DP_NET_NAMES_ANSWER], uint32_t *answer_size)
{
    static const uint8_t server6[16] = {0xfe, 0xc0, [15] = DP_NET_NAMES_SERVER};
    const uint8_t *ip = frame + l->network;
    bool four = l->ethertype == DP_NET_ETHERTYPE_IP, six = l->ethertype == DP_NET_ETHERTYPE_IP6;
    /* What the switch floods for want of a better place is for others: libslirp would take it for its own. */
    if (!(frame[0] & 1) && !(frame[0] == 0x52 && (frame[1] == 0x55 || frame[1] == 0x56)))
        return DP_NET_NAMES_DROP;
    if (l->ethertype == DP_NET_ETHERTYPE_ARP)
        return is_spoofed(n, frame, be32(ip + 14)) ? DP_NET_NAMES_DROP : DP_NET_NAMES_PASS;
    uint32_t to = four ? be32(ip + IP_DST) : 0;
    bool udp = l->protocol == UDP && l->end - l->transport >= UDP_HEADER && !dp_net_is_fragment(frame, l);
    unsigned port = udp ? be16(frame + l->transport + 2) : 0;
    if (four && udp && port == PORT_DHCP_SERVER && (to == 0xffffffff || to == gateway(n)))
        return dhcp(n, frame, l, answer, answer_size);
    if (four && (is_spoofed(n, frame, be32(ip + IP_SRC)) || ((to & mask(n)) == n->o.network && to != gateway(n) && to != server(n))))
        return DP_NET_NAMES_DROP;
    if (udp && port == PORT_DNS && ((four && to == server(n)) || (six && !memcmp(ip + IP6_DST, server6, 16))))
        return dns(n, frame, l, answer, answer_size);
    return DP_NET_NAMES_PASS;
}

/* ---- life ---- */

int dp_net_names_parse_subnet(const char *text, uint32_t *network, unsigned *prefix, struct dp_error *e)
{
    char address[32];
    struct in_addr a;
    const char *slash = strchr(text, '/');
    char *end = NULL;
    unsigned long bits = slash && slash[1] >= '0' && slash[1] <= '9' ? strtoul(slash + 1, &end, 10) : 0;
    if (!slash || (size_t)(slash - text) >= sizeof address || bits < 16 || bits > 27 || *end)
        return dp_error_set(e, -EINVAL, "subnet '%.40s': give an address and 16 to 27 bits, such as 10.1.0.0/24", text);
    snprintf(address, sizeof address, "%.*s", (int)(slash - text), text);
    if (inet_pton(AF_INET, address, &a) != 1 || ntohl(a.s_addr) & ~(~0u << (32 - bits)))
        return dp_error_set(e, -EINVAL, "subnet '%.40s': its address is none, or has bits behind the first %lu", text, bits);
    *network = ntohl(a.s_addr);
    *prefix = (unsigned)bits;
    return 0;
}

int dp_net_names_create(const struct dp_net_names_options *o, struct dp_net_names **out, struct dp_error *e)
{
    uint32_t size = ~(~0u << (32 - o->prefix)); /* the last one is for broadcasts */
    unsigned leases = DP_MIN(size - FIRST, (uint32_t)LEASES_MAX);
    struct dp_net_names *n = calloc(1, sizeof *n + leases * sizeof *n->lease);
    if (!n)
        return dp_error_set(e, -ENOMEM, "no memory for a network");
    n->o = *o;
    n->leases = leases;
    snprintf(n->domain, sizeof n->domain, "%s", o->domain);
    n->o.domain = n->domain;
    *out = n;
    return 0;
}

void dp_net_names_destroy(struct dp_net_names *n) { free(n); }
void dp_net_names_stats(const struct dp_net_names *n, struct dp_net_names_stats *out) { *out = n->stats; }
