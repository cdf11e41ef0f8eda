/* cli/image.h - what the verbs of `doppel image` share: opening, progress, Ctrl-C, words. One verb is one struct cli_verb whose name is two
 * words. Ctrl-C: SIGINT and SIGTERM are blocked while an operation runs and looked for after each piece, so that nothing half done is lost.
 */
#ifndef DP_CLI_IMAGE_H
#define DP_CLI_IMAGE_H

#include <time.h>

#include "block/image_ops.h"
#include "cli/options.h"

struct json_object;

/* The options that most verbs have; each verb's struct begins with it. */
struct image_common {
    const char *format, *output, *secret_file;
    bool quiet, progress, unlocked, backing_any, json;
};
#define IMAGE_FIELD(name) offsetof(struct image_common, name)
#define IMAGE_OPTION_FORMAT                                                                                                                \
    {                                                                                                                                      \
        "format", 'f', "FORMAT", CLI_STRING, IMAGE_FIELD(format), .help = "of FILE; only for reading it is guessed when not said"          \
    }
#define IMAGE_OPTION_QUIET                                                                                                                 \
    {                                                                                                                                      \
        "quiet", 'q', NULL, CLI_FLAG, IMAGE_FIELD(quiet), .help = "says nothing but errors"                                                \
    }
#define IMAGE_OPTION_PROGRESS                                                                                                              \
    {                                                                                                                                      \
        "progress", 'p', NULL, CLI_FLAG, IMAGE_FIELD(progress),                                                                            \
            .help = "bytes, rate and time left on stderr, which on a terminal are shown anyway: elsewhere a line each 10 s"                \
    }
#define IMAGE_OPTION_UNLOCKED                                                                                                              \
    {                                                                                                                                      \
        "force-share", 'U', NULL, CLI_FLAG, IMAGE_FIELD(unlocked), .help = "also while somebody writes it: may be of different moments"    \
    }
#define IMAGE_OPTION_BACKING                                                                                                               \
    {                                                                                                                                      \
        "backing-any", 0, NULL, CLI_FLAG, IMAGE_FIELD(backing_any), .help = "backing files may be in any folder: for images you trust"     \
    }
#define IMAGE_OPTION_SECRET                                                                                                                \
    {                                                                                                                                      \
        "secret-file", 0, "FILE", CLI_STRING, IMAGE_FIELD(secret_file), .help = "whose first line is the passphrase of an encrypted image" \
    }
#define IMAGE_OPTION_JSON                                                                                                                  \
    {"json", 0, NULL, CLI_FLAG, IMAGE_FIELD(json), .help = "JSON on stdout"},                                                              \
    {                                                                                                                                      \
        "output", 0, "human|json", CLI_STRING, IMAGE_FIELD(output), .choices = "human|json", .help = "the same, as others write it"        \
    }

enum { IMAGE_STATUS_INTERRUPTED = 130, IMAGE_SECRET_MAX = DP_IMAGE_SECRET_MAX };

struct image_task {
    struct dp_image_job job;
    const struct image_common *common;
    const char *what; /* "convert" */
    atomic_bool stop;
    bool terminal, shown;
    struct timespec began, last;
    uint64_t first; /* done at the beginning: of an earlier run */
};
void image_task_begin(struct image_task *t, const struct image_common *c, const char *what);
void image_task_end(struct image_task *t);

/* write: the format must have been said unless the file is raw. */
int image_open(const struct image_common *c, const char *name, bool write, struct dp_image_options o, struct dp_image **out,
               struct dp_error *e) DP_MUST_CHECK;
int image_secret(const struct image_common *c, char *secret, struct dp_error *e) DP_MUST_CHECK; /* "" without one */
int image_fail(const struct dp_error *e);                                                       /* prints it; the exit status */
void image_say(const struct image_common *c, const char *format, ...) DP_PRINTF(2, 3);
bool image_wants_json(const struct image_common *c);
void image_print_json(struct json_object *o); /* and gives it up */
const char *image_size_text(uint64_t bytes, char text[32]);
/* "a=1,b=2" of each of l, into option (NULL after the last); *copy is to be freed. */
enum { IMAGE_OPTIONS_MAX = 64 };
int image_split_options(const struct cli_list *l, const char *option[IMAGE_OPTIONS_MAX + 1], char **copy, struct dp_error *e) DP_MUST_CHECK;
/* "-o help": shown, true. */
bool image_option_help(const struct cli_list *l, const char *format);
uint64_t image_file_size(const char *name); /* what it takes on the disk */

extern const struct cli_verb image_create_verb, image_info_verb, image_convert_verb, image_resize_verb, image_check_verb, image_repair_verb,
    image_map_verb, image_compare_verb, image_commit_verb, image_rebase_verb, image_snapshot_verb, image_compact_verb, image_measure_verb,
    image_serve_verb, image_bitmap_verb;

#endif
