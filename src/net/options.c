/* net/options.c - see options.h. */
#include "net/options.h"

#include <arpa/inet.h>
#include <stdlib.h>

static int bad(struct dp_error *e, const char *text, const char *why) { return dp_error_set(e, -EINVAL, "%s: %s", text, why); }

/* Copies n characters and ends them; false: no room. */
static bool take(char *to, size_t room, const char *from, size_t n)
{
    if (n >= room)
        return false;
    memcpy(to, from, n);
    to[n] = 0;
    return true;
}

static bool parse_port(const char *p, size_t n, uint16_t *port)
{
    unsigned long v = 0;
    for (size_t i = 0; i < n; i++) {
        if (p[i] < '0' || p[i] > '9' || v > UINT16_MAX)
            return false;
        v = v * 10 + (unsigned)(p[i] - '0');
    }
    *port = (uint16_t)v;
    return n && v && v <= UINT16_MAX;
}

/* Cuts an IPv4 address and a colon from the front; an empty address is one, too. (libslirp forwards no IPv6 connection to a guest's IPv4
 * address.) */
static bool take_address(const char **p, const char *end, char *to, size_t room)
{
    struct in_addr binary;
    const char *colon = memchr(*p, ':', (size_t)(end - *p));
    if (!colon || !take(to, room, *p, (size_t)(colon - *p)) || (*to && inet_pton(AF_INET, to, &binary) != 1))
        return false;
    *p = colon + 1;
    return true;
}

static unsigned colons(const char *p, const char *end)
{
    unsigned n = 0;
    for (; p < end; p++)
        n += *p == ':';
    return n;
}

static struct dp_net_forward *add(struct dp_net_user_options *o, struct dp_error *e)
{
    if (o->forwards < DP_NET_FORWARDS)
        return &o->forward[o->forwards];
    dp_error_set(e, -E2BIG, "at most %d ports can be forwarded", DP_NET_FORWARDS);
    return NULL;
}

/* "PATH:PORT" of a guest. */
static int parse_unix(const char *p, size_t size, struct dp_net_user_options *o, struct dp_error *e)
{
    struct dp_net_forward *f = add(o, e);
    const char *colon = memrchr(p, ':', size);
    if (!f)
        return e ? e->code : -E2BIG;
    *f = (struct dp_net_forward){0};
    if (!colon || colon == p || !take(f->path, sizeof f->path, p, (size_t)(colon - p)) ||
        !parse_port(colon + 1, (size_t)(p + size - colon - 1), &f->guest_port))
        return dp_error_set(e, -EINVAL, "unix:%.*s: give unix:PATH:GUEST-PORT, with a path of at most %d characters",
                            (int)DP_MIN(size, (size_t)120), p, DP_NET_SOCKET_PATH - 1);
    o->forwards++;
    return 0;
}

/* "tcp:ADDRESS:PORT-unix:PATH" */
static int parse_guestfwd(const char *p, size_t size, struct dp_net_user_options *o, struct dp_error *e)
{
    static const char protocol[] = "tcp:", way[] = "-unix:";
    const char *middle = memmem(p, size, way, sizeof way - 1), *at = p + sizeof protocol - 1, *path = middle ? middle + sizeof way - 1 : p;
    struct dp_net_service *s = &o->service[o->services];
    if (o->services == DP_NET_SERVICES)
        return dp_error_set(e, -E2BIG, "at most %d services of this host can be led to the guest", DP_NET_SERVICES);
    *s = (struct dp_net_service){0};
    if (!middle || middle < at || strncmp(p, protocol, sizeof protocol - 1) || !take_address(&at, middle, s->guest, sizeof s->guest) ||
        !*s->guest || !parse_port(at, (size_t)(middle - at), &s->port) || path == p + size ||
        !take(s->path, sizeof s->path, path, (size_t)(p + size - path)))
        return dp_error_set(e, -EINVAL, "guestfwd=%.*s: give guestfwd=tcp:10.0.2.N:PORT-unix:PATH", (int)DP_MIN(size, (size_t)120), p);
    o->services++;
    return 0;
}

int dp_net_parse_publish(const char *text, struct dp_net_user_options *o, struct dp_error *e)
{
    const char *usage = "give [ADDRESS:]HOST-PORT:GUEST-PORT[/tcp|/udp], such as 8080:80 or 127.0.0.1:5353:53/udp, or unix:PATH:GUEST-PORT",
               *p = text, *end = strrchr(text, '/');
    if (!strncmp(text, "unix:", 5))
        return parse_unix(text + 5, strlen(text) - 5, o, e);
    struct dp_net_forward *f = add(o, e);
    if (!f)
        return e ? e->code : -E2BIG;
    *f = (struct dp_net_forward){0};
    if (end && strcmp(end, "/tcp") && strcmp(end, "/udp"))
        return bad(e, text, usage);
    f->udp = end && end[1] == 'u';
    end = end ? end : text + strlen(text);
    unsigned n = colons(p, end);
    if (n < 1 || n > 2 || (n == 2 && !take_address(&p, end, f->host, sizeof f->host)))
        return bad(e, text, usage);
    const char *colon = memchr(p, ':', (size_t)(end - p));
    if (!colon || !parse_port(p, (size_t)(colon - p), &f->host_port) || !parse_port(colon + 1, (size_t)(end - colon - 1), &f->guest_port))
        return bad(e, text, usage);
    o->forwards++;
    return 0;
}

/* "tcp:[ADDR:]PORT:[ADDR:]PORT" and QEMU's "tcp:[ADDR]:PORT-[ADDR]:PORT". */
static int parse_hostfwd(const char *p, size_t size, struct dp_net_user_options *o, struct dp_error *e)
{
    char text[160];
    struct dp_net_forward *f = add(o, e);
    if (!f)
        return e ? e->code : -E2BIG;
    *f = (struct dp_net_forward){0};
    if (!take(text, sizeof text, p, size))
        return dp_error_set(e, -EINVAL, "hostfwd=%.40s...: too long", p);
    const char *usage = "give hostfwd=tcp:[ADDRESS:]HOST-PORT:[ADDRESS:]GUEST-PORT (or udp:)", *at = text + 4, *end = text + size,
               *middle = strchr(text, '-');
    f->udp = !strncmp(text, "udp:", 4);
    if (size < 4 || (!f->udp && strncmp(text, "tcp:", 4)))
        return bad(e, text, usage);
    if (middle) { /* both sides have an address, perhaps an empty one */
        if (!take_address(&at, middle, f->host, sizeof f->host) || !parse_port(at, (size_t)(middle - at), &f->host_port))
            return bad(e, text, usage);
        at = middle + 1;
        if (!take_address(&at, end, f->guest, sizeof f->guest))
            return bad(e, text, usage);
    } else {
        unsigned n = colons(at, end);
        bool guest = n == 3 || (n == 2 && !memchr(at, '.', strcspn(at, ":")));
        if (n < 1 || n > 3 || ((n == 3 || (n == 2 && !guest)) && !take_address(&at, end, f->host, sizeof f->host)))
            return bad(e, text, usage);
        const char *colon = memchr(at, ':', (size_t)(end - at));
        if (!colon || !parse_port(at, (size_t)(colon - at), &f->host_port))
            return bad(e, text, usage);
        at = colon + 1;
        if (guest && !take_address(&at, end, f->guest, sizeof f->guest))
            return bad(e, text, usage);
    }
    if (!parse_port(at, (size_t)(end - at), &f->guest_port))
        return bad(e, text, usage);
    o->forwards++;
    return 0;
}

static bool parse_mac(const char *p, size_t n, uint8_t mac[DP_NET_MAC])
{
    if (n != 17)
        return false;
    for (unsigned i = 0; i < DP_NET_MAC; i++) {
        char digits[3] = {p[3 * i], p[3 * i + 1], 0}, *end;
        mac[i] = (uint8_t)strtoul(digits, &end, 16);
        if (end != digits + 2 || digits[0] == '+' || digits[0] == '-' || digits[0] == ' ' || (i < 5 && p[3 * i + 2] != ':'))
            return false;
    }
    return !(mac[0] & 1) && memcmp(mac, (const uint8_t[DP_NET_MAC]){0}, DP_NET_MAC);
}

static bool is(const char *p, size_t n, const char *name) { return n == strlen(name) && !strncmp(p, name, n); }

static int parse_key(const char *p, size_t n, struct dp_net_nic *nic, struct dp_error *e)
{
    const char *equals = memchr(p, '=', n), *value = equals ? equals + 1 : NULL;
    size_t key = equals ? (size_t)(equals - p) : n, size = equals ? n - key - 1 : 0;
    struct dp_net_user_options *u = &nic->user;
    const struct {
        const char *name;
        char *to;
        size_t room;
    } texts[] = {{"model", nic->model, sizeof nic->model},
                 {"hostname", u->hostname, sizeof u->hostname},
                 {"tftp", u->tftp, sizeof u->tftp},
                 {"bootfile", u->bootfile, sizeof u->bootfile}};
    size_t known = nic->kind == DP_NET_WAY ? 1 : DP_ARRAY_LEN(texts);
    for (size_t i = 0; value && i < known; i++)
        if (is(p, key, texts[i].name))
            return size && take(texts[i].to, texts[i].room, value, size)
                       ? 0
                       : dp_error_set(e, -EINVAL, "%s=: give 1 to %zu characters", texts[i].name, texts[i].room - 1);
    if (value && is(p, key, "mac")) {
        nic->has_mac = true;
        return parse_mac(value, size, nic->mac) ? 0
                                                : dp_error_set(e, -EINVAL, "mac=%.*s: give one card's address, such as 52:54:00:12:34:56",
                                                               (int)DP_MIN(size, (size_t)40), value);
    }
    if (value && is(p, key, "mtu")) {
        uint16_t mtu;
        if (!parse_port(value, size, &mtu) || mtu < 68)
            return dp_error_set(e, -EINVAL, "mtu=%.*s: possible are 68 to 65535", (int)DP_MIN(size, (size_t)40), value);
        nic->mtu = mtu;
        return 0;
    }
    if (value && is(p, key, "queues")) {
        uint16_t queues;
        if (!parse_port(value, size, &queues) || queues > DP_NET_QUEUES)
            return dp_error_set(e, -EINVAL, "queues=%.*s: possible are 1 to %d", (int)DP_MIN(size, (size_t)40), value, DP_NET_QUEUES);
        nic->queues = queues;
        return 0;
    }
    if (nic->kind == DP_NET_WAY) { /* what the network is asked for */
        size_t at = strlen(nic->way);
        return snprintf(nic->way + at, sizeof nic->way - at, ",%.*s", (int)n, p) < (int)(sizeof nic->way - at)
                   ? 0
                   : dp_error_set(e, -E2BIG, "the options are too long");
    }
    if (value && is(p, key, "hostfwd") && !strncmp(value, "unix:", DP_MIN(size, (size_t)5)) && size > 5)
        return parse_unix(value + 5, size - 5, u, e);
    if (value && is(p, key, "guestfwd"))
        return parse_guestfwd(value, size, u, e);
    if (value && is(p, key, "hostfwd"))
        return parse_hostfwd(value, size, u, e);
    if (is(p, n, "restrict"))
        return u->restricted = true, 0;
    if (is(p, n, "no-host"))
        return u->no_host = true, 0;
    return dp_error_set(e, -EINVAL,
                        "'%.*s' is not known: possible are model=, mac=, mtu=, queues=, hostfwd=, guestfwd=, restrict, no-host, hostname=, tftp= and "
                        "bootfile=",
                        (int)DP_MIN(n, (size_t)40), p);
}

int dp_net_parse_nic(const char *text, struct dp_net_nic *nic, struct dp_error *e)
{
    size_t n = strcspn(text, ",");
    bool way = memchr(text, '=', n);
    *nic = (struct dp_net_nic){.kind = is(text, n, "user") ? DP_NET_USER : way ? DP_NET_WAY : DP_NET_NONE};
    if (way && !take(nic->way, sizeof nic->way, text, n))
        return dp_error_set(e, -E2BIG, "'%.40s...' is too long", text);
    if (nic->kind == DP_NET_NONE && !is(text, n, "none"))
        return dp_error_set(
            e, -EINVAL,
            "'%.*s' is no network: possible are user, network=NAME, switch=PATH, tap=, macvtap=, packet=, udp= and none (no card)",
            (int)DP_MIN(n, (size_t)40), text);
    if (nic->kind == DP_NET_NONE && text[n])
        return dp_error_set(e, -EINVAL, "none is no card, which has no '%.40s'", text + n + 1);
    for (const char *p = text + n; *p; p += n) {
        n = strcspn(++p, ",");
        int rc = parse_key(p, n, nic, e);
        if (rc)
            return rc;
    }
    return 0;
}

void dp_net_default_mac(const char *vm, unsigned n, uint8_t mac[DP_NET_MAC])
{
    uint32_t hash = 2166136261; /* FNV-1a */
    for (const char *p = vm ? vm : ""; *p; p++)
        hash = (hash ^ (uint8_t)*p) * 16777619;
    hash = (hash ^ n) * 16777619;
    memcpy(mac, (const uint8_t[DP_NET_MAC]){0x52, 0x54, 0x00, hash >> 16, hash >> 8, hash}, DP_NET_MAC);
}
