/* vm/nics.c - see nics.h. */
#include "vm/nics.h"

#include <stdlib.h>
#include <unistd.h>

#include "net/network.h"
#include "vm/files.h"

enum { JOIN_PAUSE_MS = 250, JOIN_PAUSE_MAX_MS = 8000, JOIN_PATIENCE_MS = 200 /* the loop waits: no longer than it may */,
       PLUG_PATIENCE_MS = 1000 /* somebody asked for it, and the network may yet have to notice that an earlier card of that name went */ };

/* ---- networks of other processes ---- */

static void join_later(struct vm_way *w, uint64_t ms)
{
    w->pause_ns = ms * 1000000;
    dp_timer_arm(&w->again, dp_clock_now(w->nics->clock) + w->pause_ns);
}

static void network_gone(void *opaque)
{
    struct vm_way *w = opaque;
    bool dismissed = dp_net_datagram_dismissed(w->datagram);
    if (w->nics->trace)
        dp_trace_emit(w->nics->trace, DP_TRACE_VM, "the network of card %u %s: it has no carrier%s", w->place,
                      dismissed ? "has thrown this VM out" : "has ended", dismissed ? " any more" : " until that is back");
    if (!dismissed)
        join_later(w, JOIN_PAUSE_MS);
}

static void join_again(void *opaque)
{
    struct vm_way *w = opaque;
    struct dp_net_link link;
    uint32_t mtu; /* the guest was told the first one */
    struct dp_error e;
    int rc = dp_net_open_way(w->nics->nic[w->place].net.way, w->port, JOIN_PATIENCE_MS, &link, &mtu, &e);
    if (!rc)
        rc = dp_net_datagram_reopen(w->datagram, &link, &e);
    if (rc)
        join_later(w, DP_MIN(2 * w->pause_ns / 1000000, (uint64_t)JOIN_PAUSE_MAX_MS));
    else if (w->nics->trace)
        dp_trace_emit(w->nics->trace, DP_TRACE_VM, "card %u has joined its network again", w->place);
}

/* A network of other processes for the card at place i. */
static int make_way(struct vm_nics *n, unsigned i, unsigned patience_ms, struct dp_pc_nic *card, struct dp_error *e)
{
    struct dp_net_link link;
    struct vm_way *w = &n->nic[i].way;
    uint32_t mtu;
    if (*n->vm_name)
        snprintf(w->port, sizeof w->port, i ? "%.40s.%u" : "%.40s", n->vm_name, i);
    else
        snprintf(w->port, sizeof w->port, "vm-%ld.%u", (long)getpid(), i);
    w->nics = n;
    w->place = i;
    dp_timer_init(&w->again, n->clock, join_again, w);
    int rc = dp_net_open_way(n->nic[i].net.way, w->port, patience_ms, &link, &mtu, e);
    if (!card->mtu)
        card->mtu = mtu;
    return rc ? rc : dp_net_datagram_create(n->loop, &link, network_gone, w, &w->datagram, e);
}

/* ---- places ---- */

static int taken(const struct vm_nics *n, const char *name)
{
    for (unsigned i = 0; i < DP_VM_NICS; i++)
        if (n->nic[i].present && !strcmp(n->nic[i].name, name))
            return (int)i;
    return -1;
}

void vm_nics_clear(struct vm_nics *n, unsigned i)
{
    struct vm_nic *nic = &n->nic[i];
    dp_net_user_destroy(nic->network);
    if (nic->way.nics)
        dp_timer_fini(&nic->way.again);
    dp_net_datagram_destroy(nic->way.datagram);
    free((void *)nic->rom.data);
    *nic = (struct vm_nic){0};
}

/* Place i, with its network, and the card that is to be made for it; vm_nics_clear is due also when this fails. */
static int fill(struct vm_nics *n, unsigned i, const struct dp_vm_nic *c, const char *name, unsigned patience_ms, struct dp_pc_nic *card,
                struct dp_error *e)
{
    struct vm_nic *nic = &n->nic[i];
    nic->present = true;
    nic->net = c->net;
    snprintf(nic->name, sizeof nic->name, "%s", name ? name : "");
    for (unsigned k = i; !name; k++) { /* somebody may have called another one so */
        char made_up[DP_VM_NIC_NAME];
        snprintf(made_up, sizeof made_up, "net%u", k);
        if (taken(n, made_up) < 0) {
            strcpy(nic->name, made_up);
            break;
        }
    }
    if (!nic->net.has_mac)
        dp_net_default_mac(*n->vm_name ? n->vm_name : NULL, i, nic->net.mac);
    *card = (struct dp_pc_nic){.model = nic->net.model, .mtu = nic->net.mtu, .queues = nic->net.queues};
    memcpy(card->mac, nic->net.mac, sizeof card->mac);
    int rc = nic->net.kind == DP_NET_WAY ? make_way(n, i, patience_ms, card, e)
                                         : dp_net_user_create(n->loop, n->clock, n->trace, &nic->net.user, &nic->network, e);
    if (rc)
        return rc;
    card->port = nic->net.kind == DP_NET_WAY ? dp_net_datagram_port(nic->way.datagram) : dp_net_user_port(nic->network);
    if (c->rom && (rc = vm_read_whole("network card's ROM", c->rom, &nic->rom, e)))
        return rc;
    card->rom = nic->rom;
    return 0;
}

int vm_nics_init(struct vm_nics *n, const struct dp_vm_config *c, struct dp_clock *clock, struct dp_pc_config *p, struct dp_error *e)
{
    n->loop = c->loop;
    n->clock = clock;
    n->trace = c->trace;
    snprintf(n->vm_name, sizeof n->vm_name, "%s", c->name ? c->name : "");
    for (unsigned i = 0; i < c->nic_count; i++) {
        if (c->nic[i].net.kind == DP_NET_NONE)
            continue;
        n->nic[i].card = p->nic_count;
        int rc = fill(n, i, &c->nic[i], NULL, 0, &p->nic[p->nic_count], e);
        if (rc)
            return rc;
        n->nic[i].card = p->nic_count++;
    }
    return 0;
}

void vm_nics_fini(struct vm_nics *n)
{
    for (unsigned i = 0; i < DP_VM_NICS; i++)
        vm_nics_clear(n, i);
}

/* ---- while it runs ---- */

static int check_name(const struct vm_nics *n, const char *name, struct dp_error *e)
{
    static const char good[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    if (!*name || strlen(name) >= DP_VM_NIC_NAME || name[strspn(name, good)])
        return dp_error_set(e, -EINVAL, "'%.40s' cannot be a card's name: give up to %d letters, digits, -, _ and .", name, DP_VM_NIC_NAME - 1);
    return taken(n, name) < 0 ? 0 : dp_error_set(e, -EEXIST, "this VM has a network card '%s' already", name);
}

int vm_nics_prepare(struct vm_nics *n, const struct dp_vm_nic *c, const char *name, struct dp_pc_nic *card, struct dp_error *e)
{
    unsigned i = 0;
    char names[200];
    int rc = name ? check_name(n, name, e) : 0;
    if (rc)
        return rc;
    if (c->net.kind == DP_NET_NONE)
        return dp_error_set(e, -EINVAL, "none is no network card");
    if (!dp_pc_nic_model(c->net.model, names, sizeof names))
        return dp_error_set(e, -EINVAL, "there is no network card '%s': possible are %s", c->net.model, names);
    while (i < DP_VM_NICS && n->nic[i].present)
        i++;
    if (i == DP_VM_NICS)
        return dp_error_set(e, -ENOSPC, "this VM has %d network cards, no more are possible: take one out first", DP_VM_NICS);
    if (!(rc = fill(n, i, c, name, PLUG_PATIENCE_MS, card, e)))
        return (int)i;
    vm_nics_clear(n, i);
    return rc;
}

int vm_nics_find(const struct vm_nics *n, const char *name, struct dp_error *e)
{
    struct dp_buffer known = {0};
    int place = taken(n, name);
    if (place >= 0)
        return place;
    for (unsigned i = 0; i < DP_VM_NICS; i++)
        if (n->nic[i].present)
            dp_buffer_printf(&known, "%s%s", known.size ? ", " : ": there are ", n->nic[i].name);
    int rc = dp_error_set(e, -ENODEV, "this VM has no network card '%.40s'%s", name, known.data ? (char *)known.data : ", nor any other");
    dp_buffer_fini(&known);
    return rc;
}

void vm_nics_remove(struct vm_nics *n, struct dp_pc *pc, unsigned place, bool running)
{
    DP_TRACE(n->trace, DP_TRACE_VM, "network card %s was taken out", n->nic[place].name);
    dp_pc_unplug(pc, DP_PC_CARD_NIC, n->nic[place].card, running);
    vm_nics_clear(n, place);
}

void vm_nics_remove_slots(struct vm_nics *n, struct dp_pc *pc, uint32_t slots, bool running)
{
    struct dp_pc_card_status s;
    for (unsigned i = 0; i < DP_VM_NICS; i++)
        if (n->nic[i].present && dp_pc_card(pc, DP_PC_CARD_NIC, n->nic[i].card, &s) && (slots >> s.slot & 1))
            vm_nics_remove(n, pc, i, running);
}
