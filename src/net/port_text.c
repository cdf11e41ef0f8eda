/* port_text.c - options of a switch's port as text, see network.h. */
#include <arpa/inet.h>
#include <stdlib.h>

#include "net/network.h"
#include "net/options.h"

static bool number(const char *p, const char **end, unsigned long max, unsigned long *out)
{
    char *stop;
    if (*p < '0' || *p > '9')
        return false;
    errno = 0;
    *out = strtoul(p, &stop, 10);
    if (errno || *out > max)
        return false;
    *end = stop;
    return true;
}

static bool whole(const char *p, unsigned long max, unsigned long *out)
{
    const char *end;
    return number(p, &end, max, out) && !*end;
}

static bool is_vlan(unsigned long v) { return v >= 1 && v <= DP_SWITCH_VLAN_MAX; }

static int parse_trunk(const char *p, struct dp_switch_port_options *o, struct dp_error *e)
{
    o->mode = DP_SWITCH_TRUNK;
    if (!strcmp(p, "all")) {
        for (unsigned v = 1; v <= DP_SWITCH_VLAN_MAX; v++)
            dp_switch_allow(o, v);
        return 0;
    }
    for (const char *at = p;; at++) {
        unsigned long first, last;
        if (!number(at, &at, DP_SWITCH_VLAN_MAX, &first) || !is_vlan(first))
            break;
        last = first;
        if (*at == '-' && (!number(at + 1, &at, DP_SWITCH_VLAN_MAX, &last) || last < first))
            break;
        for (; first <= last; first++)
            dp_switch_allow(o, (unsigned)first);
        if (!*at)
            return 0;
        if (*at != '+')
            break;
    }
    return dp_error_set(e, -EINVAL, "trunk=%.60s: give VLANs 1 to %d, joined by +, ranges by -, such as 10+20-29, or all", p,
                        DP_SWITCH_VLAN_MAX);
}

static int parse_rate(const char *key, const char *p, struct dp_switch_rate *r, struct dp_error *e)
{
    static const char units[] = "KMG";
    unsigned long v;
    const char *end, *unit;
    if (number(p, &end, UINT32_MAX, &v) && v && (!*end || ((unit = strchr(units, *end)) && !end[1]))) {
        r->bytes_per_second = v << (*end ? 10 * (unit - units + 1) : 0);
        return 0;
    }
    return dp_error_set(e, -EINVAL, "%s=%.20s: give bytes a second, such as 500K or 10M", key, p);
}

static int parse_ip(const char *p, struct dp_switch_port_options *o, struct dp_error *e)
{
    if (o->ip4s < DP_SWITCH_ADDRESSES && inet_pton(AF_INET, p, o->ip4[o->ip4s]) == 1)
        return o->ip4s++, 0;
    if (o->ip6s < DP_SWITCH_ADDRESSES && inet_pton(AF_INET6, p, o->ip6[o->ip6s]) == 1)
        return o->ip6s++, 0;
    return dp_error_set(e, -EINVAL, "ip=%.50s: give an address, at most %d of a kind", p, DP_SWITCH_ADDRESSES);
}

static int parse_mac(const char *p, struct dp_switch_port_options *o, struct dp_error *e)
{
    struct dp_net_nic nic;
    char text[40];
    snprintf(text, sizeof text, "user,mac=%.18s", p);
    if (o->macs == DP_SWITCH_ADDRESSES)
        return dp_error_set(e, -E2BIG, "mac=: at most %d addresses", DP_SWITCH_ADDRESSES);
    int rc = dp_net_parse_nic(text, &nic, e);
    if (!rc)
        memcpy(o->mac[o->macs++], nic.mac, DP_NET_MAC);
    return rc;
}

static int parse_groups(const char *p, struct dp_switch_port_options *o, struct dp_error *e)
{
    while (*p) {
        size_t n = strcspn(p, "+");
        if (!n || n >= sizeof o->group[0] || o->groups == DP_SWITCH_PORT_GROUPS)
            return dp_error_set(e, -EINVAL, "group=%.40s: give 1 to %d names, joined by +", p, DP_SWITCH_PORT_GROUPS);
        memcpy(o->group[o->groups], p, n);
        o->group[o->groups++][n] = 0;
        p += n + (p[n] == '+');
    }
    return 0;
}

static int parse_flag(const char *key, struct dp_switch_port_options *o, struct dp_error *e)
{
    const struct {
        const char *name;
        bool *to;
    } flags[] = {{"force-pcp", &o->force_pcp}, {"own-tag", &o->own_tag},   {"isolated", &o->isolated},
                 {"uplink", &o->uplink},       {"guard-ip", &o->guard_ip}, {"no-server", &o->no_server}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(flags); i++)
        if (!strcmp(key, flags[i].name))
            return *flags[i].to = true, 0;
    return dp_error_set(e, -EINVAL, "'%.40s' is no option of a port: possible are %s", key, DP_NETWORK_PORT_HELP);
}

static int parse_number(const char *key, const char *value, struct dp_switch_port_options *o, struct dp_error *e)
{
    unsigned long v;
    const struct {
        const char *name;
        uint32_t *to;
    } limits[] = {{"broadcasts", &o->broadcasts}, {"multicasts", &o->multicasts}, {"unknowns", &o->unknowns}, {"mac-limit", &o->mac_limit}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(limits); i++)
        if (!strcmp(key, limits[i].name)) {
            if (!whole(value, UINT32_MAX, &v) || !v)
                return dp_error_set(e, -EINVAL, "%s=%.20s: give a number from 1 on", key, value);
            *limits[i].to = (uint32_t)v;
            return 0;
        }
    if (!strcmp(key, "pcp")) {
        if (!whole(value, 7, &v))
            return dp_error_set(e, -EINVAL, "pcp=%.20s: possible are 0 to 7", value);
        o->pcp = (uint8_t)v;
        return 0;
    }
    if (!strcmp(key, "vlan") || !strcmp(key, "native")) {
        if (!whole(value, DP_SWITCH_VLAN_MAX, &v) || !v)
            return dp_error_set(e, -EINVAL, "%s=%.20s: possible are 1 to %d", key, value, DP_SWITCH_VLAN_MAX);
        o->vlan = (uint16_t)v;
        return 0;
    }
    return parse_flag(key, o, e);
}

int dp_network_parse_port(const char *text, struct dp_switch_port_options *o, struct dp_error *e)
{
    char name[sizeof o->name], *copy = strdup(text), *rest = NULL;
    bool access = false, native = false;
    int rc = copy ? 0 : dp_error_set(e, -ENOMEM, "no memory");
    memcpy(name, o->name, sizeof name);
    *o = (struct dp_switch_port_options){0};
    memcpy(o->name, name, sizeof name);
    for (char *p = copy ? strtok_r(copy, ",", &rest) : NULL; p && !rc; p = strtok_r(NULL, ",", &rest)) {
        char *value = strchr(p, '=');
        if (!value) {
            rc = parse_flag(p, o, e);
            continue;
        }
        *value++ = 0;
        access |= !strcmp(p, "vlan");
        native |= !strcmp(p, "native");
        rc = !strcmp(p, "trunk")      ? parse_trunk(value, o, e)
             : !strcmp(p, "rate-in")  ? parse_rate(p, value, &o->in, e)
             : !strcmp(p, "rate-out") ? parse_rate(p, value, &o->out, e)
             : !strcmp(p, "ip")       ? parse_ip(value, o, e)
             : !strcmp(p, "group")    ? parse_groups(value, o, e)
             : !strcmp(p, "mac")      ? parse_mac(value, o, e)
                                      : parse_number(p, value, o, e);
    }
    free(copy);
    if (!rc && (o->mode == DP_SWITCH_TRUNK ? access : native))
        rc = dp_error_set(e, -EINVAL, "a port is access (vlan=) or trunk (trunk=, native=), not both");
    return rc;
}
