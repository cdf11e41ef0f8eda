/* network.c - see network.h.
 *
 * A port is in the list from its declaration, its joining or its making on, until it is removed or, if it was not declared, its joiner
 * goes. Kinds: DECLARED (nobody is there), JOINED, UPLINK, CAPTURE (a mirror). Who has connected and not yet said what he wants is a guest.
 */
#include "net/network.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <json.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "control/rundir.h"
#include "net/tunnel.h"
#include "net/uplink.h"
#include "net/user.h"
#include "net/vxlan.h"

enum { GUESTS_MAX = 16, LISTENERS_MAX = 4, PORTS_MAX = DP_SWITCH_PORTS, PATIENCE_MS = 5000, BUFFER = 1 << 20 };
#define JOIN_WORK (DP_NET_CHECKSUM | DP_NET_TSO4 | DP_NET_TSO6 | DP_NET_ECN)

enum kind { DECLARED, JOINED, UPLINK, CAPTURE };

struct port {
    struct dp_network *network;
    enum kind kind;
    char name[sizeof((struct dp_switch_port_options *)0)->name];
    char *declared;              /* options; NULL: not declared */
    char *text;                  /* options or uplink, as they are now */
    struct dp_switch_port *port; /* NULL: nobody is there */
    struct dp_net_datagram *datagram;
    struct dp_net_vxlan *vxlan;
    struct dp_net_tunnel *tunnel;
    struct dp_net_user *nat;
    struct dp_net_names *names; /* nat's */
    uint32_t subnet;            /* likewise */
    unsigned prefix, vlan;
    uid_t user;
    bool down;
    bool both; /* a capture of all ports: also what they are sent */
};

struct guest {
    struct dp_network *network;
    int fd;
    uid_t user;
};

struct dp_network {
    struct dp_network_options o;
    struct dp_switch *sw;
    struct port *port[PORTS_MAX];
    unsigned ports;
    struct guest guest[GUESTS_MAX]; /* network NULL: free */
    int listener[LISTENERS_MAX];
    unsigned listeners;
    int reserve_fd; /* for when there are no others */
    char *guests; /* options of undeclared ports of others; NULL: refused */
};

/* ---- ports ---- */

static struct port *find(struct dp_network *n, const char *name)
{
    for (unsigned i = 0; i < n->ports; i++)
        if (!strcmp(n->port[i]->name, name))
            return n->port[i];
    return NULL;
}

static bool name_ok(const char *name)
{
    size_t size = strlen(name);
    for (const char *p = name; *p; p++)
        if (*p <= ' ' || *p == 0x7f || strchr("\"'\\/,=*", *p))
            return false;
    return size && size < sizeof((struct port *)0)->name;
}

static int add(struct dp_network *n, const char *name, enum kind kind, struct port **out, struct dp_error *e)
{
    if (!name_ok(name))
        return dp_error_set(e, -EINVAL, "'%.40s' is no name for a port: up to %zu characters without spaces, quotes, / , = *", name,
                            sizeof((struct port *)0)->name - 1);
    if (n->ports == PORTS_MAX)
        return dp_error_set(e, -E2BIG, "network %s has %d ports already", n->o.name, PORTS_MAX);
    struct port *p = calloc(1, sizeof *p);
    if (!p)
        return dp_error_set(e, -ENOMEM, "no memory");
    p->network = n;
    p->kind = kind;
    strcpy(p->name, name);
    n->port[n->ports++] = p;
    *out = p;
    return 0;
}

static void unplug(struct port *p)
{
    dp_switch_port_destroy(p->port);
    dp_net_datagram_destroy(p->datagram);
    dp_net_vxlan_destroy(p->vxlan);
    dp_net_tunnel_destroy(p->tunnel);
    dp_net_user_destroy(p->nat);
    dp_net_names_destroy(p->names);
    p->port = NULL;
    p->datagram = NULL;
    p->vxlan = NULL;
    p->tunnel = NULL;
    p->nat = NULL;
    p->names = NULL;
}

static void drop(struct port *p)
{
    struct dp_network *n = p->network;
    unplug(p);
    for (unsigned i = 0; i < n->ports; i++)
        if (n->port[i] == p) {
            memmove(n->port + i, n->port + i + 1, (n->ports - i - 1) * sizeof *n->port);
            n->ports--;
            break;
        }
    free(p->declared);
    free(p->text);
    free(p);
}

static void gone(void *opaque)
{
    struct port *p = opaque;
    if (!p->declared) {
        drop(p);
        return;
    }
    unplug(p);
    p->kind = DECLARED;
}

static struct dp_net_port *wire(struct port *p)
{
    return p->nat ? dp_net_user_port(p->nat) : p->vxlan ? dp_net_vxlan_port(p->vxlan) : p->tunnel ? dp_net_tunnel_port(p->tunnel) : dp_net_datagram_port(p->datagram);
}

/* Has a capture see a port, if it is one of those that it watches. What comes in from all ports is all there is, unless both ways are asked
 * for; of one port also what it gets. */
static int watch(struct port *p, struct port *capture, struct dp_error *e)
{
    bool all = !strcmp(capture->text, "*");
    if (!p->port || p->kind == CAPTURE || (!all && strcmp(capture->text, p->name)))
        return 0;
    return dp_switch_mirror(p->port, capture->port, true, !all || capture->both, e);
}

/* The switch's side of a port whose other side is there. */
static int plug(struct port *p, const char *text, struct dp_error *e)
{
    struct dp_switch_port_options o = {0};
    strcpy(o.name, p->name);
    int rc = dp_network_parse_port(text, &o, e);
    if (p->kind == CAPTURE)
        o.mode = DP_SWITCH_MIRROR;
    if (p->kind == UPLINK)
        o.uplink = true;
    p->vlan = o.vlan ? o.vlan : 1;
    if (!rc && p->nat && o.mode != DP_SWITCH_ACCESS)
        return dp_error_set(e, -EINVAL, "NAT is for one VLAN: give it vlan=N, no trunk");
    if (rc || (rc = dp_switch_port_create(p->network->sw, &o, &p->port, e)) || (rc = dp_switch_port_connect(p->port, wire(p), e)))
        return rc;
    dp_net_set_link(wire(p), !p->down);
    struct dp_network *n = p->network;
    for (unsigned i = 0; !rc && i < n->ports; i++)
        if (n->port[i]->kind == CAPTURE && n->port[i]->port)
            rc = watch(p, n->port[i], e);
    return rc;
}

static int set_text(char **to, const char *text, struct dp_error *e)
{
    char *copy = text ? strdup(text) : NULL;
    if (text && !copy)
        return dp_error_set(e, -ENOMEM, "no memory");
    free(*to);
    *to = copy;
    return 0;
}

int dp_network_declare(struct dp_network *n, const char *port, const char *options, struct dp_error *e)
{
    struct dp_switch_port_options o = {0};
    struct port *p;
    int rc = dp_network_parse_port(options, &o, e);
    if (rc)
        return rc;
    if (!strcmp(port, "*"))
        return set_text(&n->guests, options, e);
    p = find(n, port);
    if (p && (p->kind == UPLINK || p->kind == CAPTURE))
        return dp_error_set(e, -EBUSY, "port %s of network %s is not one that is joined", port, n->o.name);
    if (!p && (rc = add(n, port, DECLARED, &p, e)))
        return rc;
    strcpy(o.name, p->name);
    if (p->port && (rc = dp_switch_port_set(p->port, &o, e)))
        return rc;
    rc = set_text(&p->declared, options, e);
    return rc ? rc : set_text(&p->text, options, e);
}

int dp_network_set_group(struct dp_network *n, const char *group, const char *rules, struct dp_error *e)
{
    return dp_switch_set_group(n->sw, group, rules, e);
}

int dp_network_remove(struct dp_network *n, const char *port, struct dp_error *e)
{
    struct port *p = find(n, port);
    if (!p)
        return dp_error_set(e, -ENOENT, "network %s has no port '%.40s'", n->o.name, port);
    if (p->kind == JOINED && p->datagram)
        dp_net_datagram_dismiss(p->datagram); /* or it would join again */
    drop(p);
    return 0;
}

int dp_network_set_link(struct dp_network *n, const char *port, bool up, struct dp_error *e)
{
    struct port *p = find(n, port);
    if (!p)
        return dp_error_set(e, -ENOENT, "network %s has no port '%.40s'", n->o.name, port);
    p->down = !up;
    if (p->port)
        dp_net_set_link(wire(p), up);
    return 0;
}

/* ---- uplinks ---- */

static int open_vxlan(struct port *p, const char *vni, char *rest, struct dp_error *e)
{
    char local[80], flag[8], remote[DP_VXLAN_REMOTES][80], *end;
    struct dp_net_vxlan_options o = {.clock = p->network->o.switching.clock, .vni = (uint32_t)strtoul(vni, &end, 10)};
    if (!*vni || *end)
        return dp_error_set(e, -EINVAL, "vxlan=%.20s: give a VNI, a number", vni);
    o.local = dp_net_take_option(rest, "local", local, sizeof local);
    o.learn = dp_net_take_option(rest, "learn", flag, sizeof flag);
    while (o.remotes < DP_VXLAN_REMOTES && dp_net_take_option(rest, "remote", remote[o.remotes], sizeof remote[0])) {
        o.remote[o.remotes] = remote[o.remotes];
        o.remotes++;
    }
    return dp_net_vxlan_create(p->network->o.loop, &o, &p->vxlan, e);
}

/* The name of the port whose MAC that is. */
static const char *port_of(void *opaque, const uint8_t mac[6])
{
    struct port *nat = opaque;
    struct dp_network *n = nat->network;
    struct dp_switch_port *s = dp_switch_find(n->sw, nat->vlan, mac);
    for (unsigned i = 0; s && i < n->ports; i++)
        if (n->port[i]->port == s)
            return n->port[i]->name;
    return NULL;
}

static bool is_joined(void *opaque, const char *port)
{
    struct port *p = find(((struct port *)opaque)->network, port);
    return p && p->port && p->kind != CAPTURE;
}

/* "[ADDR:]HOST:NAME:GUEST[/tcp|/udp]" */
static int publish(struct port *p, const char *text, struct dp_net_user_options *o, struct dp_error *e)
{
    char plain[80], name[sizeof p->name];
    const char *guest = strrchr(text, ':'), *at = guest;
    while (at && at > text && at[-1] != ':')
        at--;
    size_t size = at && at > text ? (size_t)(guest - at) : 0;
    struct in_addr address;
    if (!size || size >= sizeof name || strlen(text) >= sizeof plain)
        return dp_error_set(e, -EINVAL, "publish=%.60s: give [ADDRESS:]PORT:NAME:PORT[/udp], such as 8080:web:80", text);
    snprintf(name, sizeof name, "%.*s", (int)size, at);
    snprintf(plain, sizeof plain, "%.*s%s", (int)(at - 1 - text), text, guest);
    int rc = name_ok(name) ? dp_net_parse_publish(plain, o, e) : dp_error_set(e, -EINVAL, "publish=%.60s: '%s' is no name of a port", text, name);
    if (rc || (rc = dp_net_names_reserve(p->names, name, &address.s_addr, e)))
        return rc;
    address.s_addr = htonl(address.s_addr);
    inet_ntop(AF_INET, &address, o->forward[o->forwards - 1].guest, sizeof o->forward[0].guest);
    return 0;
}

static int open_nat(struct port *p, char *rest, struct dp_error *e)
{
    char value[80];
    struct dp_network *n = p->network;
    struct dp_net_user_options *o = calloc(1, sizeof *o);
    if (!o)
        return dp_error_set(e, -ENOMEM, "no memory");
    if (!dp_net_take_option(rest, "subnet", value, sizeof value))
        strcpy(value, "10.1.0.0/24");
    o->restricted = dp_net_take_option(rest, "internal", (char[8]){0}, 8);
    o->no_host = dp_net_take_option(rest, "no-host", (char[8]){0}, 8);
    int rc = dp_net_names_parse_subnet(value, &p->subnet, &p->prefix, e);
    o->network = p->subnet;
    o->prefix = p->prefix;
    struct dp_net_names_options names = {.clock = n->o.switching.clock, .network = p->subnet, .prefix = p->prefix, .domain = n->o.name,
                                         .mtu = n->o.switching.mtu, .internal = o->restricted, .port_of = port_of, .is_joined = is_joined,
                                         .opaque = p};
    rc = rc ? rc : dp_net_names_create(&names, &p->names, e);
    while (!rc && dp_net_take_option(rest, "publish", value, sizeof value))
        rc = publish(p, value, o, e);
    if (!rc && !(rc = dp_net_user_create(n->o.loop, n->o.switching.clock, n->o.switching.trace, o, &p->nat, e)))
        dp_net_user_set_names(p->nat, p->names);
    free(o);
    return rc;
}

/* Opens what text says; what is left of it are options of the port. */
static int open_uplink(struct port *p, char *text, struct dp_error *e)
{
    char vni[32];
    struct dp_net_link link;
    struct dp_net_tunnel_options tunnel;
    if (dp_net_take_option(text, "nat", vni, sizeof vni))
        return open_nat(p, text, e);
    if (dp_net_take_option(text, "vxlan", vni, sizeof vni))
        return open_vxlan(p, vni, text, e);
    int rc = dp_net_tunnel_parse(text, &tunnel, e);
    if (rc < 0)
        return rc;
    if (rc) {
        tunnel.clock = p->network->o.switching.clock;
        return dp_net_tunnel_create(p->network->o.loop, &tunnel, &p->tunnel, e);
    }
    rc = dp_net_open_uplink(text, &link, e);
    return rc ? rc : dp_net_datagram_create(p->network->o.loop, &link, gone, p, &p->datagram, e);
}

int dp_network_add_uplink(struct dp_network *n, const char *port, const char *what, struct dp_error *e)
{
    struct port *p = NULL;
    if (find(n, port))
        return dp_error_set(e, -EEXIST, "network %s has a port '%.40s' already", n->o.name, port);
    char *rest = strdup(what);
    int rc = rest ? add(n, port, UPLINK, &p, e) : dp_error_set(e, -ENOMEM, "no memory");
    if (!rc && !(rc = open_uplink(p, rest, e)) && !(rc = plug(p, rest, e)))
        rc = set_text(&p->text, what, e);
    if (rc && p)
        drop(p);
    free(rest);
    return rc;
}

/* ---- joining ---- */

static int reply(int fd, struct json_object *result, const struct dp_error *e)
{
    struct json_object *o = json_object_new_object();
    if (result)
        json_object_object_add(o, "result", result);
    else
        json_object_object_add(o, "error", json_object_new_string(e->text));
    const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
    ssize_t n = send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT);
    json_object_put(o);
    return n < 0 ? -errno : 0;
}

static const char *text_of(struct json_object *o, const char *key)
{
    struct json_object *v;
    if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_string))
        return NULL;
    const char *s = json_object_get_string(v);
    return strlen(s) == (size_t)json_object_get_string_len(v) ? s : NULL;
}

static struct dp_net_link link_of(int fd)
{
    dp_net_set_buffers(fd, BUFFER);
    return (struct dp_net_link){.fd = fd, .header = true, .is_socket = true, .accepts = JOIN_WORK};
}

static bool is_own(uid_t user) { return user == geteuid() || !user; }

/* The port that a guest joins, and with which options. */
static int choose(struct dp_network *n, const struct guest *g, const char *name, const char *asked, struct port **out, const char **options,
                  struct dp_error *e)
{
    struct port *p = find(n, name);
    if (p && p->kind != DECLARED)
        return dp_error_set(e, -EBUSY, "network %s has a port '%.40s' already", n->o.name, name);
    if (p && asked && *asked && strcmp(asked, p->declared))
        return dp_error_set(e, -EACCES, "port %.40s of network %s is declared with '%s': leave its options away", name, n->o.name,
                            p->declared);
    *options = p ? p->declared : is_own(g->user) ? (asked ? asked : "") : n->guests;
    if (!*options)
        return dp_error_set(e, -EACCES, "network %s of another user has no port '%.40s' for you: ask its owner to declare it", n->o.name,
                            name);
    if (!p && !is_own(g->user) && asked && *asked && strcmp(asked, n->guests))
        return dp_error_set(e, -EACCES, "network %s is another user's, who chooses its ports' options: leave them away", n->o.name);
    *out = p;
    return p ? 0 : add(n, name, JOINED, out, e);
}

static int join(struct dp_network *n, struct guest *g, const char *name, const char *asked, struct dp_error *e)
{
    struct port *p;
    const char *options = NULL;
    int fd = g->fd, rc = choose(n, g, name, asked, &p, &options, e);
    if (rc)
        return rc;
    bool is_new = !p->declared;
    p->kind = JOINED;
    p->user = g->user;
    struct dp_net_link link = link_of(fd);
    link.fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (link.fd < 0)
        rc = dp_error_set(e, -errno, "no descriptor: %s", strerror(errno));
    if (!rc && !(rc = dp_net_datagram_create(n->o.loop, &link, gone, p, &p->datagram, e)) && !(rc = plug(p, options, e)))
        rc = set_text(&p->text, options, e);
    if (rc && is_new) {
        drop(p);
    } else if (rc) {
        unplug(p);
        p->kind = DECLARED;
    }
    return rc;
}

static int capture(struct dp_network *n, struct guest *g, const char *which, bool both, struct dp_error *e)
{
    char name[32];
    struct port *p, *from = strcmp(which, "*") ? find(n, which) : NULL;
    if (!is_own(g->user))
        return dp_error_set(e, -EACCES, "only its owner captures on network %s", n->o.name);
    if (strcmp(which, "*") && (!from || !from->port || from->kind == CAPTURE))
        return dp_error_set(e, -ENOENT, "network %s has no port '%.40s' in use", n->o.name, which);
    unsigned number = 1;
    do
        snprintf(name, sizeof name, "capture-%u", number++);
    while (find(n, name));
    int rc = add(n, name, CAPTURE, &p, e);
    if (rc)
        return rc;
    p->user = g->user;
    p->both = both;
    struct dp_net_link link = link_of(g->fd);
    link.fd = fcntl(g->fd, F_DUPFD_CLOEXEC, 3);
    if (link.fd < 0)
        rc = dp_error_set(e, -errno, "no descriptor: %s", strerror(errno));
    if (!rc && !(rc = set_text(&p->text, which, e)) && !(rc = dp_net_datagram_create(n->o.loop, &link, gone, p, &p->datagram, e)))
        rc = plug(p, "", e);
    for (unsigned i = 0; !rc && i < n->ports; i++)
        rc = watch(n->port[i], p, e);
    if (rc)
        drop(p);
    return rc;
}

static void dismiss(struct guest *g)
{
    dp_loop_unwatch(g->network->o.loop, g->fd);
    close(g->fd);
    *g = (struct guest){0};
}

static void on_guest(void *opaque, int fd, uint32_t events)
{
    struct guest *g = opaque;
    struct dp_network *n = g->network;
    char text[DP_NETWORK_HELLO_MAX + 1];
    struct dp_error e = {0};
    ssize_t size = recv(fd, text, DP_NETWORK_HELLO_MAX, MSG_DONTWAIT | MSG_TRUNC);
    if (size < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (size <= 0 || size > DP_NETWORK_HELLO_MAX) {
        dismiss(g);
        return;
    }
    text[size] = 0;
    struct json_object *o = json_tokener_parse(text);
    const char *name = text_of(o, "join"), *which = text_of(o, "capture");
    int rc = name    ? join(n, g, name, text_of(o, "options"), &e)
             : which ? capture(n, g, which, json_object_get_boolean(json_object_object_get(o, "both")), &e)
                     : dp_error_set(&e, -EINVAL, "say {\"join\":\"NAME\"}");
    json_object_put(o);
    struct json_object *result = NULL;
    if (!rc) {
        result = json_object_new_object();
        json_object_object_add(result, "network", json_object_new_string(n->o.name));
        json_object_object_add(result, "mtu", json_object_new_int64(n->o.switching.mtu));
    }
    rc = reply(fd, result, &e); /* frames may follow at once, but not come before: this is the loop's thread */
    (void)rc;                   /* who does not listen is gone */
    dismiss(g);
}

static void on_connect(void *opaque, int fd, uint32_t events)
{
    struct dp_network *n = opaque;
    struct guest *g = n->guest;
    struct ucred who;
    socklen_t size = sizeof who;
    int client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0 && (errno == EMFILE || errno == ENFILE)) {
        /* Without a descriptor the connection would stay and keep the loop busy: take it with the one kept for that, and drop it. */
        close(n->reserve_fd);
        client = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (client >= 0)
            close(client);
        n->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        return;
    }
    if (client < 0)
        return;
    while (g < n->guest + GUESTS_MAX && g->network)
        g++;
    if (g == n->guest + GUESTS_MAX) { /* somebody connects and says nothing: the first of them makes room */
        dismiss(n->guest);
        g = n->guest;
    }
    if (getsockopt(client, SOL_SOCKET, SO_PEERCRED, &who, &size)) {
        close(client);
        return;
    }
    *g = (struct guest){n, client, who.uid};
    if (dp_loop_watch(n->o.loop, client, EPOLLIN, on_guest, g)) {
        close(client);
        *g = (struct guest){0};
    }
}

int dp_network_listen(struct dp_network *n, const char *path, unsigned mode, struct dp_error *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return dp_error_set(e, -ENAMETOOLONG, "%s is too long for a socket's name", path);
    if (n->listeners == LISTENERS_MAX)
        return dp_error_set(e, -E2BIG, "at most %d sockets", LISTENERS_MAX);
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || chmod(path, mode) || listen(fd, GUESTS_MAX) ||
        dp_loop_watch(n->o.loop, fd, EPOLLIN, on_connect, n)) {
        int rc = dp_error_set(e, errno ? -errno : -EIO, "cannot serve the socket %s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    n->listener[n->listeners++] = fd;
    return 0;
}

/* ---- what it says about itself ---- */

static struct json_object *tunnel_json(struct dp_net_tunnel *t)
{
    struct json_object *o = json_object_new_object();
    struct dp_net_tunnel_stats s;
    dp_net_tunnel_stats(t, &s);
    json_object_object_add(o, "up", json_object_new_boolean(s.up));
    if (*s.why)
        json_object_object_add(o, "why", json_object_new_string(s.why));
    json_object_object_add(o, "in", json_object_new_uint64(s.in));
    json_object_object_add(o, "out", json_object_new_uint64(s.out));
    json_object_object_add(o, "lost", json_object_new_uint64(s.lost));
    json_object_object_add(o, "malformed", json_object_new_uint64(s.malformed));
    json_object_object_add(o, "connections", json_object_new_uint64(s.connections));
    json_object_object_add(o, "failed", json_object_new_uint64(s.failed));
    json_object_object_add(o, "refused", json_object_new_uint64(s.refused));
    return o;
}

static void add_text_address(struct json_object *o, const char *key, uint32_t address, const char *more)
{
    char text[40];
    snprintf(text, sizeof text, "%u.%u.%u.%u%s", address >> 24, address >> 16 & 255, address >> 8 & 255, address & 255, more);
    json_object_object_add(o, key, json_object_new_string(text));
}

static struct json_object *nat_json(const struct port *p)
{
    struct json_object *o = json_object_new_object(), *leases = json_object_new_array();
    struct dp_net_names_stats s;
    struct dp_net_lease l;
    char text[20];
    dp_net_names_stats(p->names, &s);
    snprintf(text, sizeof text, "/%u", p->prefix);
    add_text_address(o, "subnet", p->subnet, text);
    add_text_address(o, "gateway", p->subnet + DP_NET_NAMES_GATEWAY, "");
    add_text_address(o, "name-server", p->subnet + DP_NET_NAMES_SERVER, "");
    json_object_object_add(o, "answered", json_object_new_uint64(s.answered));
    json_object_object_add(o, "leased", json_object_new_uint64(s.leased));
    json_object_object_add(o, "spoofed", json_object_new_uint64(s.spoofed));
    json_object_object_add(o, "refused", json_object_new_uint64(s.refused));
    for (unsigned i = 0; dp_net_names_lease(p->names, &i, &l);) {
        struct json_object *x = json_object_new_object();
        add_text_address(x, "address", l.address, "");
        snprintf(text, sizeof text, "%02x:%02x:%02x:%02x:%02x:%02x", l.mac[0], l.mac[1], l.mac[2], l.mac[3], l.mac[4], l.mac[5]);
        json_object_object_add(x, "mac", json_object_new_string(text));
        json_object_object_add(x, "name", json_object_new_string(l.port));
        json_object_object_add(x, "joined", json_object_new_boolean(is_joined((void *)p, l.port)));
        json_object_array_add(leases, x);
    }
    json_object_object_add(o, "leases", leases);
    return o;
}

static struct json_object *port_json(const struct port *p)
{
    static const char *const kinds[] = {"declared", "joined", "uplink", "capture"};
    struct json_object *o = json_object_new_object();
    struct dp_switch_stats s;
    json_object_object_add(o, "name", json_object_new_string(p->name));
    json_object_object_add(o, "kind", json_object_new_string(kinds[p->kind]));
    json_object_object_add(o, "options", json_object_new_string(p->text ? p->text : ""));
    json_object_object_add(o, "link", json_object_new_string(p->down ? "down" : "up"));
    if (!p->port)
        return o;
    dp_switch_port_stats(p->port, &s);
    json_object_object_add(o, "user", json_object_new_int64(p->user));
    json_object_object_add(o, "in-frames", json_object_new_uint64(s.in_frames));
    json_object_object_add(o, "in-bytes", json_object_new_uint64(s.in_bytes));
    json_object_object_add(o, "out-frames", json_object_new_uint64(s.out_frames));
    json_object_object_add(o, "out-bytes", json_object_new_uint64(s.out_bytes));
    json_object_object_add(o, "macs", json_object_new_int64(s.macs));
    json_object_object_add(o, "blocked", json_object_new_boolean(s.blocked));
    struct json_object *drops = json_object_new_object();
    for (unsigned i = 0; i < DP_SWITCH_DROP_COUNT; i++)
        if (s.drop[i])
            json_object_object_add(drops, dp_switch_drop_name(i), json_object_new_uint64(s.drop[i]));
    json_object_object_add(o, "drops", drops);
    if (p->datagram) {
        struct dp_net_datagram_stats d;
        dp_net_datagram_stats(p->datagram, &d);
        json_object_object_add(o, "malformed", json_object_new_uint64(d.dropped));
    }
    if (p->nat)
        json_object_object_add(o, "nat", nat_json(p));
    if (p->tunnel)
        json_object_object_add(o, "tunnel", tunnel_json(p->tunnel));
    if (p->vxlan) {
        struct dp_net_vxlan_stats v;
        struct json_object *x = json_object_new_object();
        dp_net_vxlan_stats(p->vxlan, &v);
        json_object_object_add(x, "in", json_object_new_uint64(v.in));
        json_object_object_add(x, "out", json_object_new_uint64(v.out));
        json_object_object_add(x, "malformed", json_object_new_uint64(v.malformed));
        json_object_object_add(x, "other-vni", json_object_new_uint64(v.other_vni));
        json_object_object_add(x, "stranger", json_object_new_uint64(v.stranger));
        json_object_object_add(x, "lost", json_object_new_uint64(v.lost));
        json_object_object_add(x, "remotes", json_object_new_int64(v.remotes));
        json_object_object_add(o, "vxlan", x);
    }
    return o;
}

struct json_object *dp_network_json(struct dp_network *n)
{
    struct json_object *o = json_object_new_object(), *ports = json_object_new_array();
    json_object_object_add(o, "name", json_object_new_string(n->o.name));
    json_object_object_add(o, "pid", json_object_new_int(getpid()));
    json_object_object_add(o, "mtu", json_object_new_int64(n->o.switching.mtu));
    json_object_object_add(o, "snooping", json_object_new_boolean(n->o.switching.snooping));
    if (n->guests)
        json_object_object_add(o, "guests", json_object_new_string(n->guests));
    for (unsigned i = 0; i < n->ports; i++)
        json_object_array_add(ports, port_json(n->port[i]));
    json_object_object_add(o, "ports", ports);
    struct json_object *groups = json_object_new_object();
    char *rules;
    const char *name;
    for (unsigned i = 0; (name = dp_switch_group_name(n->sw, i, &rules)); i++) {
        json_object_object_add(groups, name, json_object_new_string(rules ? rules : ""));
        free(rules);
    }
    json_object_object_add(o, "groups", groups);
    return o;
}

/* ---- life ---- */

int dp_network_create(const struct dp_network_options *o, struct dp_network **out, struct dp_error *e)
{
    struct dp_network *n = calloc(1, sizeof *n);
    if (!n)
        return dp_error_set(e, -ENOMEM, "no memory");
    n->o = *o;
    n->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    int rc = dp_switch_create(&o->switching, &n->sw, e);
    if (rc) {
        close(n->reserve_fd);
        free(n);
    }
    if (!rc)
        *out = n;
    return rc;
}

void dp_network_destroy(struct dp_network *n)
{
    if (!n)
        return;
    for (unsigned i = 0; i < n->listeners; i++) {
        dp_loop_unwatch(n->o.loop, n->listener[i]);
        close(n->listener[i]);
    }
    for (unsigned i = 0; i < GUESTS_MAX; i++)
        if (n->guest[i].network)
            dismiss(&n->guest[i]);
    while (n->ports)
        drop(n->port[n->ports - 1]);
    dp_switch_destroy(n->sw);
    if (n->reserve_fd >= 0)
        close(n->reserve_fd);
    free(n->guests);
    free(n);
}

/* ---- the other side ---- */

static int hello(const char *path, struct json_object *request, unsigned ms, struct dp_net_link *out, uint32_t *mtu, struct dp_error *e)
{
    struct timeval patience = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000}; /* connecting waits, too, where many do */
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char answer[DP_NETWORK_HELLO_MAX + 1];
    const char *text = json_object_to_json_string_ext(request, JSON_C_TO_STRING_PLAIN);
    if (strlen(path) >= sizeof address.sun_path)
        return dp_error_set(e, -ENAMETOOLONG, "%s is too long for a socket's name", path);
    strcpy(address.sun_path, path);
    int rc = 0, fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) ||
        connect(fd, (struct sockaddr *)&address, sizeof address) || send(fd, text, strlen(text), MSG_NOSIGNAL) < 0)
        rc = dp_error_set(e, -errno, "cannot join the network at %s: %s; is it there (doppel network ls)?", path, strerror(errno));
    ssize_t size = -1;
    if (!rc && poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, (int)ms) == 1)
        size = recv(fd, answer, DP_NETWORK_HELLO_MAX, 0);
    if (!rc && size <= 0)
        rc = dp_error_set(e, -EPIPE, "the network at %s does not answer", path);
    struct json_object *o = NULL, *v;
    if (!rc) {
        answer[size] = 0;
        o = json_tokener_parse(answer);
        if (json_object_object_get_ex(o, "error", &v))
            rc = dp_error_set(e, -EACCES, "%s", json_object_get_string(v));
        else if (!json_object_object_get_ex(o, "result", &v))
            rc = dp_error_set(e, -EPROTO, "what serves %s is no network of doppel", path);
        else if (mtu)
            *mtu = (uint32_t)json_object_get_int64(json_object_object_get(v, "mtu"));
    }
    json_object_put(o);
    if (!rc && fcntl(fd, F_SETFL, O_NONBLOCK))
        rc = dp_error_set(e, -errno, "%s: %s", path, strerror(errno));
    if (!rc)
        *out = link_of(fd);
    else if (fd >= 0)
        close(fd);
    return rc;
}

static int join_within(const char *path, const char *port, const char *options, unsigned ms, struct dp_net_link *out, uint32_t *mtu,
                       struct dp_error *e)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "join", json_object_new_string(port));
    if (options && *options)
        json_object_object_add(o, "options", json_object_new_string(options));
    int rc = hello(path, o, ms, out, mtu, e);
    json_object_put(o);
    return rc;
}

int dp_network_join(const char *path, const char *port, const char *options, struct dp_net_link *out, uint32_t *mtu, struct dp_error *e)
{
    return join_within(path, port, options, PATIENCE_MS, out, mtu, e);
}

int dp_net_open_way(const char *way, const char *port, unsigned ms, struct dp_net_link *out, uint32_t *mtu, struct dp_error *e)
{
    char *rest = strdup(way), name[DP_RUNDIR_NAME_MAX + 2] = {DP_RUNDIR_NETWORK}, path[DP_RUNDIR_PATH_MAX], own[64];
    int rc = 0;
    *mtu = 0;
    if (!rest)
        return dp_error_set(e, -ENOMEM, "no memory");
    bool network = dp_net_take_option(rest, "network", name + 1, sizeof name - 1);
    if (network && !(rc = dp_rundir_socket(name, path, sizeof path, e)))
        strcpy(strrchr(path, '/') + 1, "ports"); /* shorter than "control" */
    if (network || dp_net_take_option(rest, "switch", path, sizeof path)) {
        if (dp_net_take_option(rest, "port", own, sizeof own))
            port = own;
        rc = rc ? rc : join_within(path, port, rest, ms ? ms : PATIENCE_MS, out, mtu, e);
    } else if (!(rc = dp_net_open_uplink(rest, out, e)) && *rest) {
        close(out->fd);
        rc = dp_error_set(e, -EINVAL, "'%s' is an option of a switch's port: join a network (doppel network)", rest);
    }
    free(rest);
    return rc;
}

int dp_network_join_capture(const char *path, const char *port, bool both, struct dp_net_link *out, struct dp_error *e)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "capture", json_object_new_string(port));
    if (both)
        json_object_object_add(o, "both", json_object_new_boolean(true));
    int rc = hello(path, o, PATIENCE_MS, out, NULL, e);
    json_object_put(o);
    return rc;
}
