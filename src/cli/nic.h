/* cli/nic.h - network cards of a VM that runs: what `doppel nic` and `doppel network connect` share. */
#ifndef DP_CLI_NIC_H
#define DP_CLI_NIC_H

#include "base/base.h"

struct json_object;

enum { CLI_NIC_PATIENCE_MS = 30000 };

/* The VM's cards, to be put; NULL with e set: it does not run. */
struct json_object *cli_nic_list(const char *vm, struct dp_error *e);
/* Plugs one: what it is, which the caller puts. name may be NULL. */
struct json_object *cli_nic_add(const char *vm, const char *options, const char *name, struct dp_error *e);
/* Takes one out and waits until it is; -ETIMEDOUT: the guest has not let go of it. */
int cli_nic_remove(const char *vm, const char *name, bool force, uint64_t patience_ms, struct dp_error *e) DP_MUST_CHECK;

#endif
