/* net/options.h - what `--nic` and `--publish` say. Plain data: copies are whole. */
#ifndef DP_NET_OPTIONS_H
#define DP_NET_OPTIONS_H

#include "base/base.h"

enum { DP_NET_FORWARDS = 32, DP_NET_SERVICES = 8, DP_NET_SOCKET_PATH = 108 /* sockaddr_un's */, DP_NET_MAC = 6, DP_NET_QUEUES = 8 };

struct dp_net_forward {
    bool udp;
    char host[16];  /* an IPv4 address of this host; "": all of them */
    char guest[16]; /* "": the address that DHCP gives */
    char path[DP_NET_SOCKET_PATH]; /* a unix socket in the place of host and host_port, made and removed; "": none */
    uint16_t host_port, guest_port;
};

/* The other way: what the guest connects to at an address of its network is a unix socket of this host. */
struct dp_net_service {
    char guest[16];
    uint16_t port;
    char path[DP_NET_SOCKET_PATH];
};

struct dp_net_user_options {
    uint32_t network;   /* its address, as a number; 0: 10.0.2.0 */
    unsigned prefix;    /* of it; 0: 24 */
    bool restricted;    /* the guest reaches nothing but what is forwarded to it */
    bool no_host;       /* the guest does not reach this host's loopback addresses by 10.0.2.2 */
    char hostname[64];  /* told by DHCP; "": none */
    char tftp[1024];    /* a folder; "": no TFTP */
    char bootfile[120]; /* told by DHCP */
    struct dp_net_forward forward[DP_NET_FORWARDS];
    unsigned forwards;
    struct dp_net_service service[DP_NET_SERVICES];
    unsigned services;
};

enum dp_net_kind { DP_NET_NONE, DP_NET_USER, DP_NET_WAY };
struct dp_net_nic {
    enum dp_net_kind kind; /* what its cable leads to; NONE: there is no card */
    char model[16];        /* "": the machine's choice */
    bool has_mac;
    uint8_t mac[DP_NET_MAC];
    uint32_t mtu;  /* 0: 1500, and not told; or the network's */
    unsigned queues; /* pairs of them, of a virtio card; 0: the machine's choice */
    char way[512]; /* WAY: for dp_net_open_way (network.h) */
    struct dp_net_user_options user;
};

/* "user|none|network=NAME|switch=PATH|tap=NAME|macvtap=NAME|packet=NAME|udp=LOCAL/REMOTE[,model=NAME][,mac=ADDRESS][,mtu=N][,queues=N]
 * [,hostfwd=tcp:[ADDR:]PORT:[ADDR:]PORT]...[,hostfwd=unix:PATH:PORT]...[,guestfwd=tcp:ADDR:PORT-unix:PATH]..." */
int dp_net_parse_nic(const char *text, struct dp_net_nic *nic, struct dp_error *e) DP_MUST_CHECK;
/* "[ADDR:]HOST:GUEST[/tcp|/udp]" or "unix:PATH:GUEST" as another forward. */
int dp_net_parse_publish(const char *text, struct dp_net_user_options *o, struct dp_error *e) DP_MUST_CHECK;
/* The address of a VM's n-th card: the same each time, another for another name. */
void dp_net_default_mac(const char *vm, unsigned n, uint8_t mac[DP_NET_MAC]);
#define DP_NET_NIC_HELP "user|network=NAME|tap=IF|...|none[,model=NAME][,mac=MAC][,OPTION]..."

#endif
