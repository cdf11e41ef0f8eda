/* cli/image.c - `doppel image`: finds the verb, and what its verbs share (image.h). */
#include "cli/image.h"

#include <inttypes.h>
#include <json.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "volume/volume.h"

static const struct cli_verb *const verbs[] = {&image_create_verb,  &image_info_verb,   &image_convert_verb,  &image_resize_verb,
                                               &image_check_verb,   &image_repair_verb, &image_map_verb,      &image_compare_verb,
                                               &image_commit_verb,  &image_rebase_verb, &image_snapshot_verb, &image_compact_verb,
                                               &image_measure_verb, &image_serve_verb,  &image_bitmap_verb};

/* ---- words ---- */

int image_fail(const struct dp_error *e)
{
    fprintf(stderr, "doppel: %s\n", e->text);
    return e->code == -EINTR ? IMAGE_STATUS_INTERRUPTED : EXIT_STATUS_ERROR;
}

void image_say(const struct image_common *c, const char *format, ...)
{
    va_list ap;
    if (c->quiet)
        return;
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
}

bool image_wants_json(const struct image_common *c) { return c->json || (c->output && !strcmp(c->output, "json")); }

void image_print_json(struct json_object *o)
{
    printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE));
    json_object_put(o);
}

const char *image_size_text(uint64_t bytes, char text[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double n = bytes;
    unsigned u = 0;
    while (n >= 1000 && u + 1 < DP_ARRAY_LEN(units)) {
        n /= 1024;
        u++;
    }
    snprintf(text, 32, "%.3g %s", n, units[u]);
    return text;
}

uint64_t image_file_size(const char *name)
{
    struct stat st;
    return stat(name, &st) ? 0 : (uint64_t)st.st_blocks * 512;
}

int image_split_options(const struct cli_list *l, const char *option[IMAGE_OPTIONS_MAX + 1], char **copy, struct dp_error *e)
{
    struct dp_buffer b = {0};
    unsigned n = 0;
    for (unsigned i = 0; i < l->count; i++)
        dp_buffer_printf(&b, "%s%s", i ? "," : "", l->value[i]);
    dp_buffer_append(&b, "", 1);
    if (b.failed)
        return dp_error_set(e, -ENOMEM, "out of memory");
    *copy = (char *)b.data;
    for (char *p = *copy, *next; p && *p; p = next) {
        if ((next = strchr(p, ',')))
            *next++ = 0;
        if (n == IMAGE_OPTIONS_MAX)
            return dp_error_set(e, -EINVAL, "more than %d options", IMAGE_OPTIONS_MAX);
        if (*p)
            option[n++] = p;
    }
    option[n] = NULL;
    return 0;
}

bool image_option_help(const struct cli_list *l, const char *format)
{
    bool wanted = false;
    for (unsigned i = 0; i < l->count; i++)
        wanted = wanted || !strcmp(l->value[i], "help") || !strcmp(l->value[i], "?");
    if (!wanted)
        return false;
    const struct dp_image_format *f = dp_image_format_named(format);
    const struct dp_image_option *o = f ? f->create_options : NULL;
    printf("Options of %s images:\n", format);
    for (; o && o->key; o++)
        printf("  %-22s %s\n", o->key, o->help);
    return true;
}

/* ---- opening ---- */

int image_secret(const struct image_common *c, char *secret, struct dp_error *e)
{
    *secret = 0;
    return c->secret_file ? dp_image_read_secret(c->secret_file, secret, e) : 0;
}

int image_open(const struct image_common *c, const char *name, bool write, struct dp_image_options o, struct dp_image **out,
               struct dp_error *e)
{
    char secret[IMAGE_SECRET_MAX];
    o.name = name;
    o.readonly = !write;
    o.unlocked = c->unlocked && !write;
    o.backing_anywhere = c->backing_any;
    if (image_secret(c, secret, e))
        return e->code;
    o.secret = *secret ? secret : NULL;
    if (!o.format && !(o.format = dp_image_guess(name, e)))
        return e->code;
    /* A guest can write the beginning of its raw disk: that must not decide how it is written. */
    else if (write && !c->format && strcmp(o.format, "raw") != 0)
        return dp_error_set(e, -EINVAL, "%s looks like %s: say so with -f %s, or -f raw if it is a raw disk", name, o.format, o.format);
    int rc = dp_image_open(&o, out, e);
    explicit_bzero(secret, sizeof secret);
    return rc;
}

/* ---- progress and Ctrl-C ---- */

static double seconds_between(const struct timespec *a, const struct timespec *b)
{
    return (double)(b->tv_sec - a->tv_sec) + (double)(b->tv_nsec - a->tv_nsec) / 1e9;
}

static void show(struct image_task *t, uint64_t done, uint64_t all, double seconds)
{
    char a[32], b[32], rate[32], left[48] = "";
    double speed = seconds > 0 ? (double)(done - t->first) / seconds : 0;
    if (speed > 0 && done < all) {
        uint64_t s = (uint64_t)((double)(all - done) / speed);
        snprintf(left, sizeof left, ", %" PRIu64 ":%02u left", s / 60, (unsigned)(s % 60));
    }
    fprintf(stderr, "%s%s: %.1f%% of %s, %s, %s/s%s%s", t->terminal ? "\r" : "", t->what, all ? 100.0 * (double)done / (double)all : 100.0,
            image_size_text(all, a), image_size_text(done, b), image_size_text((uint64_t)speed, rate), left, t->terminal ? "\033[K" : "\n");
    t->shown = true;
}

static void progress(void *opaque, uint64_t done, uint64_t all)
{
    struct image_task *t = opaque;
    struct timespec now;
    sigset_t pending;
    sigpending(&pending);
    if (sigismember(&pending, SIGINT) || sigismember(&pending, SIGTERM) || sigismember(&pending, SIGHUP))
        atomic_store(&t->stop, true);
    if (t->common->quiet || (!t->terminal && !t->common->progress))
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (seconds_between(&t->last, &now) < (t->terminal ? 0.2 : 10) && done < all)
        return;
    t->last = now;
    show(t, done, all, seconds_between(&t->began, &now));
}

void image_task_begin(struct image_task *t, const struct image_common *c, const char *what)
{
    sigset_t set;
    *t = (struct image_task){.common = c, .what = what, .terminal = isatty(STDERR_FILENO)};
    t->job = (struct dp_image_job){.progress = progress, .opaque = t, .stop = &t->stop};
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    clock_gettime(CLOCK_MONOTONIC, &t->began);
    t->last = t->began;
}

/* Signals stay blocked: what is left to do is short, and must be done. */
void image_task_end(struct image_task *t)
{
    if (t->shown && t->terminal)
        fprintf(stderr, "\n");
}

/* ---- the verb ---- */

static void more_help(FILE *to)
{
    const struct dp_image_format *f;
    fprintf(to, "\nVerbs of images (`doppel image VERB --help` tells about one):\n");
    for (unsigned i = 0; i < DP_ARRAY_LEN(verbs); i++)
        fprintf(to, "  %-10s %s\n", verbs[i]->name + strlen("image "), verbs[i]->summary);
    fprintf(to, "\nAddresses that FILE may be:\n");
    for (unsigned i = 0; (f = dp_image_format(i)); i++)
        if (f->scheme && strcmp(f->scheme, "file"))
            fprintf(to, "  %s://%*s %s\n", f->scheme, DP_MAX(7 - (int)strlen(f->scheme), 0), "", f->summary);
    fprintf(to, "\nFormats:\n");
    for (unsigned i = 0; (f = dp_image_format(i)); i++)
        if (!f->scheme)
            fprintf(to, "  %-10s %s%s\n", f->name, f->summary, f->create ? "" : f->write ? " (cannot be made)" : " (only read)");
}

/* `volume:[POOL/]NAME[@SNAPSHOT]` as the first operand of a verb is that volume's file, and says its format. What others stand on is for
 * verbs that only read. */
static int run_verb(const struct cli_verb *verb, int argc, char **argv)
{
    enum { WORDS_MAX = 100 };
    static const char prefix[] = "volume:";
    const char *const writing[] = {"create", "resize", "repair", "commit", "rebase", "snapshot", "compact"};
    const char *name = verb->name + strlen("image "), *format = NULL;
    char *words[WORDS_MAX + 2], *path = NULL, f[] = "-f";
    struct dp_error e = {0};
    bool write = false;
    int at = -1;
    for (int i = 0; i < argc && at < 0; i++)
        at = !strncmp(argv[i], prefix, sizeof prefix - 1) ? i : -1;
    if (at < 0 || argc > WORDS_MAX)
        return verb->run(argc, argv);
    for (unsigned i = 0; i < DP_ARRAY_LEN(writing); i++)
        write = write || !strcmp(name, writing[i]);
    for (int i = 0; i < argc; i++)
        write = write || (!strcmp(name, "check") && (!strncmp(argv[i], "-r", 2) || !strncmp(argv[i], "--repair", 8)));
    if (!strcmp(name, "create") || (!strcmp(name, "convert") && at == argc - 1))
        dp_error_set(&e, -EINVAL, "%s: volumes are made by: doppel volume create --from IMAGE NAME", argv[at]);
    else if (!strcmp(name, "commit") || !strcmp(name, "rebase"))
        dp_error_set(&e, -EINVAL, "%s: what a volume stands on is the pool's: see doppel volume rm NAME@SNAPSHOT, or clone --full",
                     argv[at]);
    else if (!dp_volume_resolve(argv[at] + sizeof prefix - 1, write, &path, &format, &e)) {
        words[0] = f;
        words[1] = (char *)format;
        for (int i = 0; i < argc; i++)
            words[i + 2] = i == at ? path : argv[i];
        int status = verb->run(argc + 2, words);
        free(path);
        return status;
    }
    return image_fail(&e);
}

static int image(int argc, char **argv)
{
    struct {
        char unused;
    } o;
    if (argc && (argv[0][0] == '-' || !strcmp(argv[0], "help"))) {
        char help[] = "--help", *words[] = {help};
        if (!strcmp(argv[0], "help"))
            return argc > 1 ? image(2, (char *[]){argv[1], help}) : cli_begin(&cli_image, 1, words, &o);
        int status = cli_begin(&cli_image, argc, argv, &o);
        return status >= 0 ? status : EXIT_STATUS_USAGE;
    }
    const char *names[DP_ARRAY_LEN(verbs)];
    for (unsigned i = 0; i < DP_ARRAY_LEN(verbs); i++) {
        names[i] = verbs[i]->name + strlen("image ");
        if (argc && !strcmp(argv[0], names[i]))
            return run_verb(verbs[i], argc - 1, argv + 1);
    }
    const char *near = argc ? cli_nearest(argv[0], names, DP_ARRAY_LEN(names)) : NULL;
    if (!argc)
        fprintf(stderr, "doppel: image: no verb given: try `doppel image info FILE` or `doppel image --help`\n");
    else
        fprintf(stderr, "doppel: image: unknown verb '%s': %s%s%s\n", argv[0],
                near ? "did you mean `doppel image " : "see `doppel image --help`", near ? near : "", near ? "`?" : "");
    return EXIT_STATUS_USAGE;
}

const struct cli_verb cli_image = {
    .name = "image",
    .summary = "makes, copies, checks and changes disk images",
    .usage = "VERB [OPTION]... FILE...",
    .examples = "  doppel image create -f qcow2 disk.qcow2 20G\n"
                "  doppel image info --backing-chain disk.qcow2\n"
                "  doppel image convert -O qcow2 -c disk.raw small.qcow2\n"
                "  doppel image check -f qcow2 disk.qcow2\n",
    .more_help = more_help,
    .run = image,
};
