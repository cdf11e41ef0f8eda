/* switch_security.c - see switch_security.h.
 *
 * A session belongs to the port whose filter let it begin. Its key has the addresses and ports in an order of their own, so that both
 * directions find it. Lengths inside packets are not trusted: nothing is read behind the frame's end.
 */
#include "net/switch_security.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <sys/random.h>

#include "net/offload.h"

enum { SESSIONS = 1 << 16, WAYS = 8, SHARE = SESSIONS / 4, PORTS_MAX = 256, EXTENSIONS_MAX = 8 };
enum { ICMP = 1, IGMP = 2, TCP = 6, UDP = 17, ICMP6 = 58, HOP_BY_HOP = 0, ROUTING = 43, FRAGMENT = 44, DESTINATION = 60 };
enum { IP_SIZE = 20, IP6_SIZE = 40, RARP = 0x8035, EAPOL = 0x888e, FRAGMENT_PORT = 0xffff };
#define SECOND 1000000000ull

struct key {
    uint8_t address[2][16]; /* the lower one first */
    uint16_t port[2];
    uint16_t vlan;
    uint8_t protocol, family;
};

struct session {
    struct key key;
    uint64_t seen;
    uint16_t port; /* whose filter */
    bool used, closing;
};

struct group {
    char name[DP_SECURITY_NAME];
    char *text;
    struct dp_security_rule rule[DP_SECURITY_RULES];
    unsigned rules;
    bool has_out;
};

struct dp_security {
    struct group group[DP_SECURITY_GROUPS];
    unsigned groups;
    uint64_t seed;
    unsigned by_port[PORTS_MAX];
    struct session session[SESSIONS];
};

struct packet {
    uint8_t family, protocol;
    const uint8_t *from, *to, *transport;
    uint32_t left;           /* bytes of transport */
    uint16_t source, target; /* ports */
    bool fragment, later;    /* a part; not the first one */
    uint32_t id;             /* of the fragments */
};

/* ---- groups and their rules ---- */

struct dp_security *dp_security_create(void)
{
    struct dp_security *s = calloc(1, sizeof *s);
    if (s && getrandom(&s->seed, sizeof s->seed, GRND_NONBLOCK) != sizeof s->seed)
        s->seed = (uint64_t)(uintptr_t)s * 0x9e3779b97f4a7c15ull;
    return s;
}

void dp_security_destroy(struct dp_security *s)
{
    for (unsigned i = 0; s && i < s->groups; i++)
        free(s->group[i].text);
    free(s);
}

int dp_security_group(struct dp_security *s, const char *name)
{
    size_t n = strlen(name);
    for (unsigned i = 0; i < s->groups; i++)
        if (!strcmp(s->group[i].name, name))
            return (int)i;
    if (!n || n >= DP_SECURITY_NAME || strpbrk(name, " ,;=/+"))
        return -EINVAL;
    if (s->groups == DP_SECURITY_GROUPS)
        return -ENOSPC;
    strcpy(s->group[s->groups].name, name);
    return (int)s->groups++;
}

const char *dp_security_name(const struct dp_security *s, unsigned group) { return group < s->groups ? s->group[group].name : NULL; }
const char *dp_security_text(const struct dp_security *s, unsigned group) { return s->group[group].text ? s->group[group].text : ""; }

static int bad(struct dp_error *e, const char *word, const char *possible)
{
    return dp_error_set(e, -EINVAL, "security rule: '%.40s': %s", word, possible);
}

static bool parse_number(const char *p, char end, unsigned max, unsigned *out, const char **rest)
{
    char *stop;
    if (*p < '0' || *p > '9')
        return false;
    unsigned long v = strtoul(p, &stop, 10);
    *out = (unsigned)v;
    *rest = stop;
    return v <= max && (*stop == end || !*stop);
}

static int parse_address(char *text, struct dp_security_rule *r, struct dp_error *e)
{
    char *slash = strchr(text, '/');
    unsigned prefix = 0;
    const char *rest;
    if (slash)
        *slash = 0;
    r->family = inet_pton(AF_INET, text, r->address) == 1 ? 4 : inet_pton(AF_INET6, text, r->address) == 1 ? 6 : 0;
    unsigned max = r->family == 4 ? 32 : 128;
    if (!r->family || (slash && (!parse_number(slash + 1, 0, max, &prefix, &rest) || *rest)))
        return bad(e, text, "give an address or a range, such as 10.0.0.0/8, or: group NAME");
    r->prefix = slash ? prefix : max;
    return 0;
}

static int parse_protocol(const char *word, struct dp_security_rule *r, struct dp_error *e)
{
    static const struct {
        const char *name;
        uint8_t number;
    } names[] = {{"any", 0}, {"icmp", ICMP}, {"tcp", TCP}, {"udp", UDP}};
    unsigned number;
    const char *rest;
    for (unsigned i = 0; i < DP_ARRAY_LEN(names); i++)
        if (!strcmp(word, names[i].name))
            return r->protocol = names[i].number, 0;
    if (!parse_number(word, 0, 255, &number, &rest) || *rest)
        return bad(e, word, "protocols are any, tcp, udp, icmp and numbers");
    r->protocol = number == ICMP6 ? ICMP : number;
    return 0;
}

static int parse_ports(const char *word, struct dp_security_rule *r, struct dp_error *e)
{
    unsigned first, last;
    const char *rest;
    bool good = parse_number(word, '-', 65535, &first, &rest);
    last = first;
    if (good && *rest)
        good = parse_number(rest + 1, 0, 65535, &last, &rest) && !*rest;
    if (!good)
        return bad(e, word, "give a port or a range, such as 80 or 8000-8100");
    if (!first || last < first || (r->protocol != TCP && r->protocol != UDP))
        return bad(e, word, "ports are of tcp and udp, 1 to 65535");
    r->first = first;
    r->last = last;
    return 0;
}

/* "in|out PROTOCOL [PORTS] [from|to ADDRESS[/N]|group NAME]" */
static int parse_rule(struct dp_security *s, char *text, struct dp_security_rule *r, struct dp_error *e)
{
    char *rest, *word = strtok_r(text, " \t", &rest);
    *r = (struct dp_security_rule){.peer = -1};
    r->out = !strcmp(word, "out");
    if (!r->out && strcmp(word, "in"))
        return bad(e, word, "a rule begins with in or out");
    if (!(word = strtok_r(NULL, " \t", &rest)))
        return bad(e, r->out ? "out" : "in", "a protocol follows: any, tcp, udp, icmp");
    int rc = parse_protocol(word, r, e);
    word = strtok_r(NULL, " \t", &rest);
    if (!rc && word && *word >= '0' && *word <= '9') {
        rc = parse_ports(word, r, e);
        word = strtok_r(NULL, " \t", &rest);
    }
    if (rc || !word)
        return rc;
    if (strcmp(word, r->out ? "to" : "from"))
        return bad(e, word, r->out ? "expected: to" : "expected: from");
    if (!(word = strtok_r(NULL, " \t", &rest)))
        return bad(e, r->out ? "to" : "from", "an address or group NAME follows");
    if (strcmp(word, "group"))
        rc = parse_address(word, r, e);
    else if (!(word = strtok_r(NULL, " \t", &rest)) || (r->peer = dp_security_group(s, word)) < 0)
        rc = bad(e, word ? word : "group", "there is no room for, or no sense in, a group of this name");
    word = strtok_r(NULL, " \t", &rest);
    return rc ? rc : word ? bad(e, word, "nothing follows") : 0;
}

int dp_security_set(struct dp_security *s, const char *name, const char *rules, struct dp_error *e)
{
    struct dp_security_rule parsed[DP_SECURITY_RULES];
    unsigned count = 0;
    int group = dp_security_group(s, name), rc = 0;
    if (group < 0)
        return dp_error_set(e, group, "'%.40s' cannot be a security group: up to %d of them, names without spaces and ,;=/+", name,
                            DP_SECURITY_GROUPS);
    char *copy = strdup(rules), *text = strdup(rules), *rest;
    if (!copy || !text)
        rc = dp_error_set(e, -ENOMEM, "no memory");
    for (char *p = rc ? NULL : strtok_r(copy, ";", &rest); p && !rc; p = strtok_r(NULL, ";", &rest)) {
        if (!p[strspn(p, " \t")])
            continue;
        if (count == DP_SECURITY_RULES)
            rc = dp_error_set(e, -E2BIG, "security group %s: at most %d rules", name, DP_SECURITY_RULES);
        else
            rc = parse_rule(s, p, &parsed[count++], e);
    }
    free(copy);
    if (rc) {
        free(text);
        return rc;
    }
    struct group *g = &s->group[group];
    free(g->text);
    g->text = text;
    memcpy(g->rule, parsed, count * sizeof *parsed);
    g->rules = count;
    g->has_out = false;
    for (unsigned i = 0; i < count; i++)
        g->has_out |= parsed[i].out;
    return 0;
}

/* ---- packets ---- */

static bool parse_ip4(struct packet *p, const uint8_t *ip, uint32_t size)
{
    uint32_t header = size ? (ip[0] & 15) * 4u : 0;
    if (size < IP_SIZE || ip[0] >> 4 != 4 || header < IP_SIZE || header > size)
        return false;
    unsigned offset = dp_net_ld16(ip + 6);
    *p = (struct packet){.family = 4, .protocol = ip[9], .from = ip + 12, .to = ip + 16, .transport = ip + header, .left = size - header};
    p->fragment = offset & 0x3fff;
    p->later = offset & 0x1fff;
    p->id = dp_net_ld16(ip + 4);
    return true;
}

static bool parse_ip6(struct packet *p, const uint8_t *ip, uint32_t size)
{
    if (size < IP6_SIZE || ip[0] >> 4 != 6)
        return false;
    *p = (struct packet){.family = 6, .protocol = ip[6], .from = ip + 8, .to = ip + 24};
    uint32_t at = IP6_SIZE;
    for (unsigned i = 0; i < EXTENSIONS_MAX; i++) {
        bool skip = p->protocol == HOP_BY_HOP || p->protocol == ROUTING || p->protocol == DESTINATION;
        if ((!skip && p->protocol != FRAGMENT) || p->later)
            break;
        if (size - at < 8)
            return false;
        uint32_t length = skip ? (ip[at + 1] + 1u) * 8 : 8;
        if (p->protocol == FRAGMENT) {
            p->fragment = true;
            p->later = dp_net_ld16(ip + at + 2) & 0xfff8;
            p->id = (uint32_t)dp_net_ld16(ip + at + 4) << 16 | dp_net_ld16(ip + at + 6);
        }
        p->protocol = ip[at];
        if (length > size - at)
            return false;
        at += length;
    }
    p->transport = ip + at;
    p->left = size - at;
    return true;
}

/* Ports, or what serves as such. False: cut off. */
static bool parse_ports_of(struct packet *p)
{
    if (p->later)
        return true;
    if (p->protocol == TCP || p->protocol == UDP) {
        if (p->left < (p->protocol == TCP ? 14u : 4u))
            return false;
        p->source = dp_net_ld16(p->transport);
        p->target = dp_net_ld16(p->transport + 2);
    } else if (p->protocol == ICMP || p->protocol == ICMP6) {
        if (p->left < 8)
            return false;
        p->source = p->target = dp_net_ld16(p->transport + 4); /* the identifier of an echo and its reply */
    }
    return true;
}

static void make_key(const struct packet *p, unsigned vlan, struct key *k)
{
    size_t n = p->family == 4 ? 4 : 16;
    uint16_t a = p->source, b = p->target;
    memset(k, 0, sizeof *k);
    int order = memcmp(p->from, p->to, n);
    bool swap = order > 0 || (!order && a > b);
    memcpy(k->address[swap], p->from, n);
    memcpy(k->address[!swap], p->to, n);
    k->port[swap] = a;
    k->port[!swap] = b;
    k->vlan = (uint16_t)vlan;
    k->protocol = p->protocol == ICMP6 ? ICMP : p->protocol;
    k->family = p->family;
}

/* ---- sessions ---- */

static struct session *bucket(struct dp_security *s, const struct key *k, unsigned port)
{
    uint64_t h = s->seed ^ port;
    const uint8_t *p = (const uint8_t *)k;
    for (size_t i = 0; i + 8 <= sizeof *k; i += 8)
        h = (h ^ dp_ld64(p + i)) * 0x9e3779b97f4a7c15ull, h ^= h >> 29;
    h = (h ^ dp_ld32(p + sizeof *k - 4)) * 0xbf58476d1ce4e5b9ull;
    return &s->session[(h >> 32) % (SESSIONS / WAYS) * WAYS];
}
_Static_assert(sizeof(struct key) == 40, "the hash takes it in words");

static uint64_t age_of(const struct session *x)
{
    if (x->key.port[0] == FRAGMENT_PORT && x->key.port[1] == FRAGMENT_PORT)
        return 30 * SECOND;
    return x->key.protocol == TCP ? (x->closing ? 10 : 3600) * SECOND : x->key.protocol == ICMP ? 30 * SECOND : 120 * SECOND;
}

static bool is_alive(const struct session *x, uint64_t now) { return x->used && now - x->seen < age_of(x); }

static struct session *find(struct dp_security *s, const struct key *k, unsigned port, uint64_t now)
{
    struct session *b = bucket(s, k, port);
    for (unsigned i = 0; i < WAYS; i++)
        if (is_alive(&b[i], now) && b[i].port == port && !memcmp(&b[i].key, k, sizeof *k))
            return &b[i];
    return NULL;
}

static void drop(struct dp_security *s, struct session *x)
{
    if (x->used)
        s->by_port[x->port % PORTS_MAX]--;
    x->used = false;
}

/* A place for one more; NULL: others have all places, or the port has its share and none here. */
static struct session *place(struct dp_security *s, const struct key *k, unsigned port, uint64_t now)
{
    struct session *b = bucket(s, k, port), *own = NULL, *dead = NULL;
    for (unsigned i = 0; i < WAYS; i++) {
        if (!is_alive(&b[i], now))
            dead = &b[i];
        else if (b[i].port == port && (!own || b[i].seen < own->seen))
            own = &b[i];
    }
    return s->by_port[port % PORTS_MAX] < SHARE && dead ? dead : own;
}

static void remember(struct dp_security *s, const struct key *k, unsigned port, uint64_t now)
{
    struct session *x = place(s, k, port, now);
    if (!x)
        return; /* this packet passes; an answer has to be allowed by a rule */
    drop(s, x);
    *x = (struct session){.key = *k, .seen = now, .port = (uint16_t)port, .used = true};
    s->by_port[port % PORTS_MAX]++;
}

void dp_security_forget(struct dp_security *s, unsigned port)
{
    for (unsigned i = 0; i < SESSIONS; i++)
        if (s->session[i].used && s->session[i].port == port)
            drop(s, &s->session[i]);
}

/* ---- judging ---- */

static bool in_range(const uint8_t *address, const uint8_t *range, unsigned prefix)
{
    unsigned bytes = prefix / 8, bits = prefix % 8;
    return !memcmp(address, range, bytes) && (!bits || !((address[bytes] ^ range[bytes]) >> (8 - bits)));
}

static bool matches(const struct dp_security_rule *r, const struct packet *p, const struct dp_security_side *side)
{
    unsigned protocol = p->protocol == ICMP6 ? ICMP : p->protocol;
    if (r->out != side->out || (r->protocol && r->protocol != protocol))
        return false;
    if (r->first && (p->target < r->first || p->target > r->last))
        return false;
    if (r->peer >= 0)
        return side->peers >> r->peer & 1;
    return !r->family || (r->family == p->family && in_range(r->out ? p->to : p->from, r->address, r->prefix));
}

static bool rules_allow(const struct dp_security *s, const struct packet *p, const struct dp_security_side *side)
{
    bool any_out = false;
    for (uint64_t left = side->groups; left; left &= left - 1) {
        const struct group *g = &s->group[__builtin_ctzll(left)];
        any_out |= g->has_out;
        for (unsigned i = 0; i < g->rules; i++)
            if (matches(&g->rule[i], p, side))
                return true;
    }
    return side->out && !any_out;
}

/* What keeps addresses and groups working. */
static bool is_housekeeping(const struct packet *p)
{
    if (p->protocol == IGMP)
        return true;
    if (p->later)
        return false;
    if (p->protocol == UDP)
        return (p->source == 67 && p->target == 68) || (p->source == 68 && p->target == 67) || (p->source == 546 && p->target == 547) ||
               (p->source == 547 && p->target == 546);
    unsigned type = p->protocol == ICMP6 ? p->transport[0] : 0;
    return (type >= 130 && type <= 136) || type == 143; /* MLD, router and neighbour discovery */
}

/* An ICMP error about a connection that is remembered. */
static bool is_related(struct dp_security *s, const struct packet *p, unsigned port, unsigned vlan, uint64_t now)
{
    struct packet inner;
    struct key k;
    bool error = p->protocol == ICMP ? p->transport[0] == 3 || p->transport[0] == 11 || p->transport[0] == 12
                                     : p->protocol == ICMP6 && p->transport[0] >= 1 && p->transport[0] <= 4;
    if (!error || p->left < 8)
        return false;
    if (!(p->family == 4 ? parse_ip4(&inner, p->transport + 8, p->left - 8) : parse_ip6(&inner, p->transport + 8, p->left - 8)) ||
        inner.later)
        return false;
    if ((inner.protocol == TCP || inner.protocol == UDP) && inner.left >= 4) { /* no more than 8 bytes of it need be there */
        inner.source = dp_net_ld16(inner.transport);
        inner.target = dp_net_ld16(inner.transport + 2);
    } else if (!parse_ports_of(&inner)) {
        return false;
    }
    make_key(&inner, vlan, &k);
    return find(s, &k, port, now);
}

/* The key of a packet's fragments. */
static void fragment_key(const struct packet *p, unsigned vlan, struct key *k)
{
    struct packet part = *p;
    part.source = part.target = FRAGMENT_PORT;
    make_key(&part, vlan, k);
    k->vlan = (uint16_t)(vlan ^ (p->id & 0xffff)); /* in place of the ports; a collision lets a fragment through that nobody can use */
}

bool dp_security_pass(struct dp_security *s, const struct dp_security_side *side, unsigned vlan, const uint8_t *frame, uint32_t size,
                      unsigned type, uint32_t network, uint64_t now)
{
    struct packet p;
    struct key k;
    const uint8_t *ip = frame + network;
    uint32_t left = size - network;
    if (type == DP_NET_ETHERTYPE_ARP || type == RARP || type == EAPOL)
        return true;
    if (!(type == DP_NET_ETHERTYPE_IP ? parse_ip4(&p, ip, left) : type == DP_NET_ETHERTYPE_IP6 && parse_ip6(&p, ip, left)) ||
        !parse_ports_of(&p))
        return false;
    if (p.later) {
        fragment_key(&p, vlan, &k);
        return find(s, &k, side->port, now);
    }
    if (is_housekeeping(&p) || is_related(s, &p, side->port, vlan, now))
        return true;
    make_key(&p, vlan, &k);
    struct session *x = find(s, &k, side->port, now);
    if (x) {
        x->seen = now;
        if (p.protocol == TCP && p.transport[13] & 5) /* FIN, RST */
            x->closing = true;
        else if (p.protocol == TCP && (p.transport[13] & 0x12) == 2) /* a new one of the same ports */
            x->closing = false;
    } else if (rules_allow(s, &p, side)) {
        remember(s, &k, side->port, now);
    } else {
        return false;
    }
    if (p.fragment) {
        fragment_key(&p, vlan, &k);
        if (!find(s, &k, side->port, now))
            remember(s, &k, side->port, now);
    }
    return true;
}
