/* net/switch_internal.h - what the parts of the switch share: the tables, token buckets, and the judges of what a frame says. All of it is
 * used under the switch's mutex, or by nobody else. */
#ifndef DP_NET_SWITCH_INTERNAL_H
#define DP_NET_SWITCH_INTERNAL_H

#include "net/switch.h"

#define DP_SWITCH_SECOND 1000000000ull

/* ---- addresses (switch_table.c) ----
 * A chained hash of fixed size; its seed is the host's random number, so that no guest can choose addresses that meet in one chain. */

struct dp_switch_entry {
    uint64_t key;    /* VLAN << 48 | address */
    uint64_t seen;   /* when */
    uint64_t window; /* moves are counted from here */
    uint64_t moved;  /* when it last moved, or came */
    uint32_t next;   /* index + 1 in the chain, or of free entries */
    uint16_t port;
    uint16_t home;   /* where it belongs: it came there first, or has been there for long */
    uint16_t moves;
};
struct dp_switch_table {
    struct dp_switch_entry *entry;
    uint32_t *bucket; /* index + 1 of the first; 0: none */
    uint32_t size, mask, free, used, fresh /* entries from here on were never used */;
    uint64_t seed, age, swept;
    unsigned by_port[DP_SWITCH_PORTS];
};
int dp_switch_table_init(struct dp_switch_table *t, unsigned size, uint64_t age) DP_MUST_CHECK;
void dp_switch_table_fini(struct dp_switch_table *t);
/* NULL: not there, or too old. */
struct dp_switch_entry *dp_switch_table_find(struct dp_switch_table *t, uint64_t key, uint64_t now);
/* A key that is not there. NULL: no room, or the port has `limit` already. */
struct dp_switch_entry *dp_switch_table_add(struct dp_switch_table *t, uint64_t key, unsigned port, unsigned limit, uint64_t now);
void dp_switch_table_move(struct dp_switch_table *t, struct dp_switch_entry *e, unsigned port);
/* Forgets what is on a port, or everything (DP_SWITCH_PORTS). */
void dp_switch_table_flush(struct dp_switch_table *t, unsigned port);

/* ---- token buckets ----
 * What passes when the bucket is not empty is taken out of it whole, if need be into debt: so any frame passes some time, and the rate is
 * right in the long run. */

struct dp_switch_bucket {
    uint64_t rate, burst, last, fraction /* of a token, in 1e-9 */;
    int64_t tokens;
};
void dp_switch_bucket_init(struct dp_switch_bucket *b, uint64_t rate, uint64_t burst, uint64_t now);
bool dp_switch_bucket_take(struct dp_switch_bucket *b, uint64_t amount, uint64_t now);

/* ---- spoofing (switch_guard.c) ---- */

/* May a port with these options send this frame? `network` is where what follows the Ethernet type `type` begins. */
bool dp_switch_guard(const struct dp_switch_port_options *o, const uint8_t *frame, uint32_t size, unsigned type, uint32_t network);

/* ---- multicast groups (switch_snoop.c) ---- */

typedef struct { uint64_t bit[DP_SWITCH_PORTS / 64]; } dp_switch_set;

enum { DP_SWITCH_GROUPS = 1024, DP_SWITCH_GROUP_BUCKETS = 512, DP_SWITCH_ROUTERS = 64 };
struct dp_switch_groups {
    struct {
        uint64_t key, until;
        uint16_t port, next; /* index + 1 */
    } member[DP_SWITCH_GROUPS];
    struct {
        uint64_t until;
        uint16_t vlan, port;
    } router[DP_SWITCH_ROUTERS];
    uint16_t bucket[DP_SWITCH_GROUP_BUCKETS], free, fresh;
    uint64_t seed;
    unsigned by_port[DP_SWITCH_PORTS];
};
void dp_switch_groups_init(struct dp_switch_groups *g);
void dp_switch_groups_flush(struct dp_switch_groups *g, unsigned port); /* DP_SWITCH_PORTS: all */
/* Learns from a multicast frame; where it goes: false: everywhere; true: to the ports of *to. */
bool dp_switch_groups_route(struct dp_switch_groups *g, unsigned port, unsigned vlan, const uint8_t *frame, uint32_t size, unsigned type,
                            uint32_t network, uint64_t now, dp_switch_set *to);

#endif
