/* cli/volume.h - between the verbs of `doppel volume`. */
#ifndef DP_CLI_VOLUME_H
#define DP_CLI_VOLUME_H

#include "cli/image.h"
#include "volume/volume.h"

/* A volume or snapshot by "[POOL/]NAME[@SNAPSHOT]", its pool open (to be closed). */
int volume_enter(const char *text, bool change, struct dp_pool *p, struct dp_volume **v, struct dp_error *e) DP_MUST_CHECK;
int volume_fail(const struct dp_error *e); /* prints it; the exit status */

extern const struct cli_verb volume_create_verb, volume_clone_verb, volume_snapshot_verb, volume_revert_verb, volume_rm_verb,
    volume_rename_verb, volume_resize_verb, volume_compact_verb, volume_export_verb, volume_resync_verb; /* volume_change.c */

#endif
