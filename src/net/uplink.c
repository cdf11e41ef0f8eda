/* uplink.c - see uplink.h. */
#include "net/uplink.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SIOC_ADD_TO_BRIDGE = 0x89a2 /* SIOCBRADDIF, linux/sockios.h */, BUFFER = 4 << 20 };
#define TAP_WORK (DP_NET_CHECKSUM | DP_NET_TSO4 | DP_NET_TSO6 | DP_NET_ECN)

static int name_of(const char *interface, char to[IFNAMSIZ], struct dp_error *e)
{
    size_t n = strlen(interface);
    if (!n || n >= IFNAMSIZ || strpbrk(interface, "/ :%"))
        return dp_error_set(e, -EINVAL, "'%s' cannot be an interface: a name has 1 to %d characters", interface, IFNAMSIZ - 1);
    memcpy(to, interface, n + 1);
    return 0;
}

static int fail(int fd, struct dp_error *e, const char *interface, const char *what, const char *hint)
{
    int code = errno ? -errno : -EIO;
    if (fd >= 0)
        close(fd);
    return dp_error_set(e, code, "interface %s: %s: %s%s", interface, what, strerror(-code), code == -EPERM || code == -EACCES ? hint : "");
}

/* ---- interfaces ---- */

/* Sets flags of an interface; what it cannot do it leaves to whoever may. */
static void set_up(int s, const char *name)
{
    struct ifreq r = {0};
    strcpy(r.ifr_name, name);
    if (!ioctl(s, SIOCGIFFLAGS, &r) && !(r.ifr_flags & IFF_UP)) {
        r.ifr_flags |= IFF_UP;
        int rc = ioctl(s, SIOCSIFFLAGS, &r);
        (void)rc;
    }
}

static int add_to_bridge(int s, const char *bridge, const char *name, struct dp_error *e)
{
    struct ifreq r = {0};
    int rc = name_of(bridge, r.ifr_name, e);
    if (rc)
        return rc;
    r.ifr_ifindex = (int)if_nametoindex(name);
    if (ioctl(s, SIOC_ADD_TO_BRIDGE, &r) && errno != EBUSY) /* busy: it is a port of one */
        return fail(-1, e, name, "cannot become a port of that bridge", " (needs CAP_NET_ADMIN)");
    return 0;
}

/* Offloads of a tap or macvtap: what the kernel may leave for us to do. */
static void use_header(int fd)
{
    int size = 10, little = 1;
    int rc = ioctl(fd, TUNSETVNETHDRSZ, &size) | ioctl(fd, TUNSETVNETLE, &little) |
             ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN);
    (void)rc; /* an old kernel then leaves nothing to do */
}

int dp_net_open_tap(const char *interface, const char *bridge, struct dp_net_link *out, struct dp_error *e)
{
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int rc = name_of(interface, r.ifr_name, e);
    if (rc)
        return rc;
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fail(fd, e, interface, "cannot open /dev/net/tun", "");
    if (ioctl(fd, TUNSETIFF, &r))
        return fail(fd, e, interface, "cannot be used as a tap", "; as root: ip tuntap add NAME mode tap user USER");
    use_header(fd);
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (s < 0)
        return fail(fd, e, interface, "no socket", "");
    set_up(s, r.ifr_name);
    rc = bridge ? add_to_bridge(s, bridge, r.ifr_name, e) : 0;
    close(s);
    if (rc) {
        close(fd);
        return rc;
    }
    *out = (struct dp_net_link){.fd = fd, .header = true, .accepts = TAP_WORK};
    return 0;
}

int dp_net_open_macvtap(const char *interface, struct dp_net_link *out, struct dp_error *e)
{
    char name[IFNAMSIZ], path[32];
    int rc = name_of(interface, name, e);
    if (rc)
        return rc;
    unsigned index = if_nametoindex(name);
    if (!index)
        return fail(-1, e, name, "is not there", "");
    snprintf(path, sizeof path, "/dev/tap%u", index);
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fail(fd, e, name, "its /dev/tapN cannot be opened (is it a macvtap?)", "; let its device file be yours");
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    strcpy(r.ifr_name, name);
    if (ioctl(fd, TUNSETIFF, &r))
        return fail(fd, e, name, "cannot be used", "");
    use_header(fd);
    *out = (struct dp_net_link){.fd = fd, .header = true, .accepts = TAP_WORK};
    return 0;
}

int dp_net_open_packet(const char *interface, struct dp_net_link *out, struct dp_error *e)
{
    char name[IFNAMSIZ];
    int rc = name_of(interface, name, e);
    if (rc)
        return rc;
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    if (fd < 0)
        return fail(fd, e, name, "no packet socket", " (needs CAP_NET_RAW)");
    struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)if_nametoindex(name)};
    if (!address.sll_ifindex)
        return fail(fd, e, name, "is not there", "");
    struct packet_mreq all = {.mr_ifindex = address.sll_ifindex, .mr_type = PACKET_MR_PROMISC};
    if (setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) ||
        setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all) ||
        setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) || /* what we send would come back */
        bind(fd, (struct sockaddr *)&address, sizeof address))
        return fail(fd, e, name, "cannot be listened to", "");
    dp_net_set_buffers(fd, BUFFER);
    *out = (struct dp_net_link){.fd = fd, .header = true, .is_socket = true, .accepts = TAP_WORK};
    return 0;
}

/* ---- UDP ---- */

int dp_net_parse_address(const char *text, uint16_t port, struct sockaddr_storage *out, unsigned *size, struct dp_error *e)
{
    char host[64];
    const char *end = *text == '[' ? strchr(text, ']') : strrchr(text, ':'), *start = text + (*text == '[');
    unsigned long number = port;
    if (*text != '[' && end && strchr(text, ':') != end) /* an IPv6 address without brackets */
        end = NULL;
    const char *colon = end && *end == ']' ? (end[1] == ':' ? end + 1 : NULL) : end;
    size_t n = end ? (size_t)(end - start) : strlen(start);
    char *rest = NULL;
    if (colon)
        number = strtoul(colon + 1, &rest, 10);
    memset(out, 0, sizeof *out);
    bool brackets = *text != '[' || (end && (!end[1] || end[1] == ':'));
    if (!brackets || n >= sizeof host || (colon && (rest == colon + 1 || *rest)) || !number || number > UINT16_MAX)
        return dp_error_set(e, -EINVAL, "'%s' is no address: give IP:PORT, such as 192.0.2.1:4789 or [2001:db8::1]:4789", text);
    memcpy(host, start, n);
    host[n] = 0;
    struct sockaddr_in *v4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)out;
    if (inet_pton(AF_INET, host, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        v4->sin_port = htons((uint16_t)number);
        *size = sizeof *v4;
    } else if (inet_pton(AF_INET6, host, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        v6->sin6_port = htons((uint16_t)number);
        *size = sizeof *v6;
    } else {
        return dp_error_set(e, -EINVAL, "'%s' is no IP address (names are not looked up)", host);
    }
    return 0;
}

int dp_net_open_udp(const char *local, const char *remote, struct dp_net_link *out, struct dp_error *e)
{
    struct sockaddr_storage from, to;
    unsigned from_size, to_size;
    int rc = dp_net_parse_address(local, 0, &from, &from_size, e);
    if (rc || (rc = dp_net_parse_address(remote, 0, &to, &to_size, e)))
        return rc;
    int fd = socket(from.ss_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&from, from_size) || connect(fd, (struct sockaddr *)&to, to_size)) {
        rc = dp_error_set(e, errno ? -errno : -EIO, "UDP tunnel from %s to %s: %s", local, remote, strerror(errno));
        if (fd >= 0)
            close(fd);
        return rc;
    }
    dp_net_set_buffers(fd, BUFFER);
    *out = (struct dp_net_link){.fd = fd, .is_socket = true};
    return 0;
}

/* ---- as text ---- */

char *dp_net_take_option(char *text, const char *key, char *value, size_t room)
{
    size_t n = strlen(key);
    for (char *p = text; *p; p += strcspn(p, ","), p += *p == ',') {
        size_t size = strcspn(p, ",");
        if (strncmp(p, key, n) || (size != n && p[n] != '='))
            continue;
        size_t length = size == n ? 0 : size - n - 1;
        if (length >= room)
            return NULL;
        memcpy(value, p + n + (size != n), length);
        value[length] = 0;
        memmove(p, p + size + (p[size] == ','), strlen(p + size + (p[size] == ',')) + 1);
        if (!*p && p > text)
            p[-1] = 0;
        return value;
    }
    return NULL;
}

int dp_net_open_uplink(char *text, struct dp_net_link *out, struct dp_error *e)
{
    char name[128], bridge[32];
    if (dp_net_take_option(text, "tap", name, sizeof name))
        return dp_net_open_tap(name, dp_net_take_option(text, "bridge", bridge, sizeof bridge), out, e);
    if (dp_net_take_option(text, "macvtap", name, sizeof name))
        return dp_net_open_macvtap(name, out, e);
    if (dp_net_take_option(text, "packet", name, sizeof name))
        return dp_net_open_packet(name, out, e);
    if (!dp_net_take_option(text, "udp", name, sizeof name))
        return dp_error_set(e, -EINVAL,
                            "'%.60s' is no way out: possible are tap=, macvtap=, packet=, udp= and (of a network) tcp=, vxlan=", text);
    char *slash = strchr(name, '/');
    if (!slash)
        return dp_error_set(e, -EINVAL, "udp=%s: give udp=LOCAL:PORT/REMOTE:PORT", name);
    *slash = 0;
    return dp_net_open_udp(name, slash + 1, out, e);
}
