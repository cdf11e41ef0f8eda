/* volume/volume_internal.h - between volume.c and snapshot.c. */
#ifndef DP_VOLUME_VOLUME_INTERNAL_H
#define DP_VOLUME_VOLUME_INTERNAL_H

#include "volume/volume.h"

enum { VOLUME_FILE_MAX = 64 };

struct dp_volume *volume_named(const struct dp_pool *p, uint64_t owner, const char *name); /* NULL: none */
int volume_check_new(const struct dp_pool *p, uint64_t owner, const char *name, struct dp_error *e) DP_MUST_CHECK;
int volume_check_depth(const struct dp_pool *p, const struct dp_volume *v,
                       struct dp_error *e) DP_MUST_CHECK; /* may one more stand on it? */
void volume_file_name(const struct dp_volume *v, char text[VOLUME_FILE_MAX]);
int volume_busy(const struct dp_pool *p, const struct dp_volume *v, int rc, struct dp_error *e);
/* Whatever pool.json says about it. */
int volume_open(const struct dp_pool *p, const struct dp_volume *v, struct dp_image_options o, struct dp_image **out,
                struct dp_error *e) DP_MUST_CHECK;
/* An empty file for v, flushed: sets its file, format and parent. */
int volume_make_file(struct dp_pool *p, struct dp_volume *v, const struct dp_image_format *f, uint64_t size, const struct dp_volume *parent,
                     struct dp_error *e) DP_MUST_CHECK;
void volume_unlink(struct dp_pool *p, const struct dp_volume *v);
int volume_add(struct dp_pool *p, struct dp_volume *v, struct dp_error *e) DP_MUST_CHECK;

#endif
