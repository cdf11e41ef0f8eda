/* vm/nics.h - a VM's network cards and what their cables lead to, from the start or plugged while it runs. For vm.c.
 *
 * Model: a VM has places for cards, each with a name, the ports that its cable leads to, and the number that the machine knows the card by.
 * All in the loop's thread. Who plugs or unplugs has the processors stand still (machine/pc.h): then nobody is inside a card, or sends to
 * its network, but the loop's thread.
 * Invariants: names are unique; a network is made before its card and ends after it.
 */
#ifndef DP_VM_NICS_H
#define DP_VM_NICS_H

#include "machine/pc.h"
#include "net/datagram.h"
#include "net/user.h"
#include "vm/vm.h"

struct vm_nics;

/* A network of other processes that a card leads to; when it ended it is joined again once it is back. */
struct vm_way {
    struct vm_nics *nics; /* NULL: not used */
    unsigned place;
    struct dp_net_datagram *datagram;
    struct dp_timer again;
    uint64_t pause_ns; /* until the next try */
    char port[64];
};

struct vm_nic {
    bool present;
    char name[DP_VM_NIC_NAME];
    struct dp_net_nic net; /* with the MAC that the card has */
    unsigned card;         /* the machine's number */
    struct dp_net_user *network;
    struct vm_way way;
    struct dp_boot_blob rom;
};

struct vm_nics {
    struct dp_loop *loop;
    struct dp_clock *clock;
    struct dp_trace *trace;
    char vm_name[64]; /* "": none */
    struct vm_nic nic[DP_VM_NICS];
};

/* Networks and cards of the configuration; the latter into p. */
int vm_nics_init(struct vm_nics *n, const struct dp_vm_config *c, struct dp_clock *clock, struct dp_pc_config *p, struct dp_error *e) DP_MUST_CHECK;
void vm_nics_fini(struct vm_nics *n); /* after the machine is gone */

/* Another network and what card is to be plugged for it; returns its place. name NULL: one is made up. */
int vm_nics_prepare(struct vm_nics *n, const struct dp_vm_nic *nic, const char *name, struct dp_pc_nic *card, struct dp_error *e) DP_MUST_CHECK;
/* Ends what a place has beside its card. */
void vm_nics_clear(struct vm_nics *n, unsigned place);
/* The place of a card; negative: e says that there is none. */
int vm_nics_find(const struct vm_nics *n, const char *name, struct dp_error *e) DP_MUST_CHECK;
void vm_nics_remove(struct vm_nics *n, struct dp_pc *pc, unsigned place, bool running);
/* What is in these slots, a bit each. */
void vm_nics_remove_slots(struct vm_nics *n, struct dp_pc *pc, uint32_t slots, bool running);

#endif
