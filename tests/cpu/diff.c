/* diff.c - the command: generates cases, runs them on the host and on an engine, reports what differs.
 *
 * Mismatches are grouped by operation, mode and what differs; of each group the first cases are shown in full with the command line that
 * repeats them. Exit status: 0 all equal, 1 mismatches, 2 usage, 77 (meson: skipped) where the host cannot run the native side.
 */
#include <getopt.h>
#include <sched.h>
#include <stdlib.h>
#include <strings.h>
#include <time.h>

#include "cpu.h"
#include "isa/x86/x86.h"

struct group {
    char key[160];
    uint64_t count;
    struct group *next;
};

struct run {
    struct cpu_native *native, *native2;
    struct cpu_guest *guest;
    struct cpu_forms *forms[3];
    struct group *groups;
    uint64_t seed, cases, mismatches, died, faults[256];
    unsigned show;
    bool verbose;
};

/* "rflags CF", "rax", ... : the first words of each line, as a key; numbers of registers and addresses do not matter. */
static void make_key(const struct cpu_case *c, const char *op, const struct dp_buffer *text, char key[160])
{
    size_t n = (size_t)snprintf(key, 160, "%s %s:", op, c->mode == X86_MODE64 ? "64" : c->mode == X86_MODE32 ? "32" : "16");
    const char *p = (const char *)text->data, *end = p + text->size;
    char last[32] = "";
    while (p < end && n < 120) {
        char word[32];
        const char *colon = memchr(p, ':', (size_t)(end - p));
        size_t len = colon ? (size_t)(colon - p) : 0;
        snprintf(word, sizeof word, "%.*s", (int)DP_MIN(len, sizeof word - 1), p);
        if (!strncmp(word, "  memory", 8))
            strcpy(word, "  memory");
        else if (!strncmp(word, "  xmm", 5) || !strncmp(word, "  ymm", 5))
            word[5] = 0;
        else if (!strncmp(word, "  st", 4))
            strcpy(word, "  st");
        else
            for (unsigned i = 0; i < 16; i++)
                if (!strncmp(word, "  r", 3) && strcmp(word, "  rip") && strncmp(word, "  rflags", 8) && strcmp(word, "  rsp"))
                    strcpy(word, "  gpr");
        if (strcmp(word, last))
            n += (size_t)snprintf(key + n, 160 - n, "%s", word + 1);
        strcpy(last, word);
        if (!strcmp(word, "  vector")) {
            const char *eol = memchr(p, '\n', (size_t)(end - p));
            n += (size_t)snprintf(key + n, 160 - n, "%.*s", (int)DP_MIN((size_t)(eol - colon - 1), (size_t)40), colon + 1);
        }
        p = memchr(p, '\n', (size_t)(end - p));
        p = p ? p + 1 : end;
    }
}

static void report(struct run *u, const struct cpu_case *c, const struct cpu_result *n, struct dp_buffer *diff)
{
    char key[160];
    const char *op = c->op == X86_OP_COUNT ? "sequence" : c->op == X86_OP_INVALID ? "undefined" : x86_op_name(c->op);
    make_key(c, op, diff, key);
    u->mismatches++;
    struct group **g = &u->groups;
    while (*g && strcmp((*g)->key, key))
        g = &(*g)->next;
    if (!*g) {
        *g = calloc(1, sizeof **g);
        if (!*g)
            return;
        strcpy((*g)->key, key);
    }
    if ((*g)->count++ >= u->show)
        return;
    struct dp_buffer text = {0};
    cpu_describe(c, &text);
    printf("MISMATCH %s\n%.*s%.*s  (both: vector %d error %#x)\n\n", key, (int)text.size, (const char *)text.data, (int)diff->size,
           (const char *)diff->data, n->vector, n->error);
    dp_buffer_fini(&text);
}

static int run_batch(struct run *u, const struct cpu_case *cases, unsigned count)
{
    static struct cpu_result native[CPU_BATCH], engine[CPU_BATCH];
    struct dp_error e;
    if (!count)
        return 0;
    if (cpu_native_run(u->native, cases, native, count, &e) || (u->native2 && cpu_native_run(u->native2, cases, engine, count, &e))) {
        fprintf(stderr, "cpu-diff: %s\n", e.text);
        return e.code == -ENOENT ? 2 : 77;
    }
    for (unsigned i = 0; i < count; i++) {
        if (u->guest)
            cpu_guest_run(u->guest, &cases[i], &engine[i]);
        u->cases++;
        u->faults[native[i].vector]++;
        u->died += native[i].vector == CPU_DIED;
        if (native[i].vector == CPU_DIED && u->verbose) {
            struct dp_buffer text = {0};
            cpu_describe(&cases[i], &text);
            printf("DIED (signal %u)\n%.*s\n", native[i].error, (int)text.size, (const char *)text.data);
            dp_buffer_fini(&text);
        }
        struct dp_buffer diff = {0};
        /* A task switch in the middle of a case can lose x87 pointers: what is not there the second time was not the engine. */
        for (unsigned attempt = 0; cpu_compare(&cases[i], &native[i], &engine[i], &diff); attempt++) {
            static struct cpu_result again;
            if (attempt == 2 || cpu_native_run(u->native, &cases[i], &again, 1, &e)) {
                report(u, &cases[i], &native[i], &diff);
                break;
            }
            native[i] = again;
            if (!u->guest && cpu_native_run(u->native, &cases[i], &engine[i], 1, &e)) /* the other side may be the one that lost them */
                break;
            dp_buffer_fini(&diff);
            diff = (struct dp_buffer){0};
        }
        dp_buffer_fini(&diff);
    }
    return 0;
}

static int run_op(struct run *u, const struct cpu_forms *f, unsigned op, uint64_t first, uint64_t count)
{
    static struct cpu_case cases[CPU_BATCH];
    unsigned n = 0;
    for (uint64_t i = first; i < first + count; i++) {
        struct cpu_case *c = &cases[n];
        bool ok = op == X86_OP_COUNT     ? cpu_generate_sequence(f, u->seed, i, c)
                  : op == X86_OP_INVALID ? cpu_generate_undefined(f, u->seed, i, c)
                                         : cpu_generate(f, op, u->seed, i, c);
        if (!ok)
            continue;
        if (++n == CPU_BATCH) {
            int err = run_batch(u, cases, n);
            if (err)
                return err;
            n = 0;
        }
    }
    return run_batch(u, cases, n);
}

static void list(struct run *u)
{
    for (unsigned op = 1; op < X86_OP_COUNT; op++) {
        unsigned n[3];
        for (unsigned m = 0; m < 3; m++)
            n[m] = u->forms[m] ? cpu_forms_count(u->forms[m], op) : 0;
        if (!(n[0] + n[1] + n[2]))
            continue;
        const char *why = cpu_op_skipped(op);
        printf("%-16s encodings: 16-bit %u, 32-bit %u, 64-bit %u%s%s\n", x86_op_name(op), n[0], n[1], n[2], why ? "; not compared: " : "",
               why ? why : "");
    }
}

static bool named(const char *names, const char *name)
{
    size_t n = strlen(name);
    for (const char *p = names; p && *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
        if (!strncasecmp(p, name, n) && (!p[n] || p[n] == ','))
            return true;
    return false;
}

static int usage(FILE *f, int status)
{
    fprintf(f, "usage: cpu-diff [--engine NAME|native] [--seed N] [--op NAME,...|all] [--not NAME,...] [--mode 64|32|16|all] [--count K] "
               "[--index N] [--show N] [--list]\n"
               "  --op also takes 'sequence' (snippets of several instructions) and 'undefined' (bytes that are no instruction)\n"
               "  --engine native compares the host with itself: a check of this harness\n");
    return status;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"engine", 1, 0, 'e'}, {"seed", 1, 0, 's'},    {"op", 1, 0, 'o'},    {"not", 1, 0, 'n'},
                                            {"mode", 1, 0, 'm'},   {"count", 1, 0, 'c'},   {"index", 1, 0, 'i'}, {"show", 1, 0, 'w'},
                                            {"list", 0, 0, 'l'},   {"verbose", 0, 0, 'v'}, {"help", 0, 0, 'h'},  {0}};
    const char *engine = "interp", *ops = "all", *not_ops = NULL, *mode = "all";
    struct run u = {.seed = 1, .show = 1};
    uint64_t count = 100, first = 0;
    bool listing = false, one = false;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (o) {
        case 'e':
            engine = optarg;
            break;
        case 's':
            u.seed = strtoull(optarg, NULL, 0);
            break;
        case 'o':
            ops = optarg;
            break;
        case 'n':
            not_ops = optarg;
            break;
        case 'm':
            mode = optarg;
            break;
        case 'c':
            count = strtoull(optarg, NULL, 0);
            break;
        case 'i':
            first = strtoull(optarg, NULL, 0), one = true;
            break;
        case 'w':
            u.show = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'l':
            listing = true;
            break;
        case 'v':
            u.verbose = true;
            break;
        case 'h':
            return usage(stdout, 0);
        default:
            return usage(stderr, 2);
        }
    if (optind < argc)
        return usage(stderr, 2);
    if (one)
        count = 1;
    /* The processor number is visible to LSL: run on processor 0 where we may. */
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(0, &set);
    if (getenv("CPU_DIFF_ANY_CPU") || sched_setaffinity(0, sizeof set, &set))
        fprintf(stderr, "cpu-diff: not bound to processor 0\n");

    struct dp_error e;
    int err = cpu_native_create(&u.native, &e);
    struct x86_cpuid_model model;
    bool self = !strcmp(engine, "native");
    if (!err)
        err = self ? cpu_native_create(&u.native2, &e) : cpu_guest_create(engine, &u.guest, &e);
    if (!err)
        err = cpu_model(&model, &e);
    for (unsigned m = 0; m < 3 && !err; m++)
        if (!strcmp(mode, "all") || !strcmp(mode, m == X86_MODE64 ? "64" : m == X86_MODE32 ? "32" : "16"))
            err = cpu_forms_create((enum x86_mode)m, &model, &u.forms[m], &e);
    if (err) {
        fprintf(stderr, "cpu-diff: %s\n", e.text);
        return 2;
    }
    if (listing) {
        list(&u);
        return 0;
    }
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (unsigned op = 0; op <= X86_OP_COUNT && !err; op++) {
        const char *name = op == X86_OP_COUNT ? "sequence" : op ? x86_op_name(op) : "undefined";
        if ((op && op < X86_OP_COUNT && cpu_op_skipped(op)) || (strcmp(ops, "all") && !named(ops, name)) || named(not_ops, name))
            continue;
        uint64_t k = (op == 0 || op == X86_OP_COUNT) && !one ? count * 20 : count; /* those stand for many */
        for (unsigned m = 0; m < 3 && !err; m++)
            if (u.forms[m])
                err = run_op(&u, u.forms[m], op, first, k);
    }
    clock_gettime(CLOCK_MONOTONIC, &t1);
    for (struct group *g = u.groups; g; g = g->next)
        printf("%8llu x %s\n", (unsigned long long)g->count, g->key);
    double s = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9;
    printf("%llu cases in %.1f s, %llu mismatches; %llu lost to wild stores\n", (unsigned long long)u.cases, s,
           (unsigned long long)u.mismatches, (unsigned long long)u.died);
    if (u.verbose)
        for (unsigned i = 0; i < 256; i++)
            if (u.faults[i])
                printf("  vector %3u: %llu\n", i, (unsigned long long)u.faults[i]);
    for (struct group *g = u.groups, *next; g; g = next)
        next = g->next, free(g);
    for (unsigned m = 0; m < 3; m++)
        cpu_forms_destroy(u.forms[m]);
    cpu_guest_destroy(u.guest);
    cpu_native_destroy(u.native), cpu_native_destroy(u.native2);
    return err ? err : u.mismatches != 0;
}
