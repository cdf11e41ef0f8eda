/* program_diff.c - the command: random programs on the host and on an engine; what differs is cut down and shown.
 *
 * Model: each program runs once on the host and four times on the engine (struct prog_how): fresh, again with whatever the engine cached,
 * and in small pieces. Cutting down removes ranges of instructions while what is left still assembles, still defines what it reads, still
 * ends, and still differs. Exit status: 0 all equal, 1 mismatches, 2 usage, 77 (meson: skipped) where the host cannot run the native side.
 */
#include <getopt.h>
#include <sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "program.h"

struct run {
    struct prog_native *native, *native2;
    struct prog_guest *guest, *reference;
    struct prog_forms *forms[3];
    uint64_t seed, programs, mismatches, lost, endless, insns, faults[256];
    unsigned show, stop;
    bool verbose, whole, ymm, dead, kicks, direct; /* direct: user code runs in a process of its own, which it does only without a budget */
};
/* One program in all its shapes; big, so not on the stack. */
struct trial {
    struct prog_image image;
    uint16_t at[PROG_MAX_INSNS + 1];
    uint32_t undefined[PROG_MAX_INSNS];
    struct prog_result native, engine;
    uint32_t live[PROG_MAX_INSNS + 1];
    bool ymm;  /* the engine has the upper halves */
    bool dead; /* it need not keep flags that nobody reads */
};

static bool many_stores(unsigned op)
{
    switch (op) { /* a fault among several stores: which were done is the processor's choice */
    case X86_OP_ENTER:
    case X86_OP_PUSHA:
    case X86_OP_FXSAVE:
    case X86_OP_CALL:
    case X86_OP_FBSTP:
        return true;
    default:
        return false;
    }
}

/* FXSAVE's pointers, which AMD writes only with an exception pending, and its MXCSR_MASK. */
static bool host_only(unsigned offset)
{
    unsigned fx = (unsigned)prog_page[PROG_OWN].frame * 4096u + PROG_OWN_FX;
    return (offset >= fx + FX_FOP && offset < fx + FX_MXCSR) || (offset >= fx + FX_MXCSR_MASK && offset < fx + FX_ST);
}

static unsigned compare(const struct program *p, const struct trial *t, struct dp_buffer *out)
{
    static struct cpu_result n, e;
    static struct cpu_case c;
    n = t->native.r, e = t->engine.r;
    memset(n.data, 0, sizeof n.data), memset(e.data, 0, sizeof e.data);
    /* A case of the single-instruction test: the one that stopped the program. */
    c = (struct cpu_case){.mode = p->mode};
    c.in.rip = n.out.rip;
    uint64_t stopped = n.out.rip - t->image.in.rip - (n.vector == X86_BP);
    uint32_t undefined = X86_ARITH;
    unsigned op = X86_OP_INVALID;
    for (unsigned i = 0; i < p->count; i++) {
        if (t->at[i] != stopped)
            continue;
        undefined = t->undefined[i] | (t->dead && n.vector != X86_BP && n.vector != X86_DB ? ~t->live[i] & X86_ARITH : 0);
        struct x86_insn insn;
        if (n.vector == X86_BP || n.vector == X86_DB || x86_decode(t->image.code + t->at[i], p->insn[i].length, p->mode, &insn) <= 0)
            break;
        op = insn.op;
        memcpy(c.code, t->image.code + t->at[i], p->insn[i].length);
        c.code_size = p->insn[i].length, c.insn_count = 1;
    }
    n.out.rflags &= ~(uint64_t)undefined, e.out.rflags &= ~(uint64_t)undefined;
    if (!t->ymm)
        memcpy(e.out.ymm_high, n.out.ymm_high, sizeof e.out.ymm_high);
    unsigned count = cpu_compare(&c, &n, &e, out);
    if (count || n.vector != e.vector)
        return count;
    unsigned shown = 0;
    for (unsigned i = 0; i < PROG_MEMORY && shown < 6 && !many_stores(op); i++)
        if (t->native.memory[i] != t->engine.memory[i] && !host_only(i)) {
            count++, shown++;
            dp_buffer_printf(out, "  memory, frame %u +%#x:", i / 4096, i % 4096);
            for (unsigned page = 0; page < PROG_PAGES; page++)
                if (prog_page[page].frame == (int)(i / 4096))
                    dp_buffer_printf(out, " %#llx", (unsigned long long)PROG_DATA + page * 4096 + i % 4096);
            dp_buffer_printf(out, ": native ");
            for (unsigned k = 0; k < 8 && i + k < PROG_MEMORY; k++)
                dp_buffer_printf(out, "%02x", t->native.memory[i + k]);
            dp_buffer_printf(out, ", engine ");
            for (unsigned k = 0; k < 8 && i + k < PROG_MEMORY; k++)
                dp_buffer_printf(out, "%02x", t->engine.memory[i + k]);
            dp_buffer_printf(out, " (as bytes)\n");
            i += 7;
        }
    return count;
}

/* Kicks while programs run: whatever an engine is doing, it stops at an instruction's beginning with everything done that stands before it. */
static struct {
    struct prog_guest *guest;
    atomic_bool on, stop;
} kicker;
static void *kick_on(void *opaque)
{
    for (unsigned n = 0;; n++) {
        if (!atomic_load(&kicker.on))
            usleep(50);
        else
            prog_guest_kick(kicker.guest);
        for (unsigned wait = 20 + n * 7919 % 509; wait--;) /* long enough for some of the program to run between two */
            __builtin_ia32_pause();
    }
    return opaque;
}

/* The watchdog: first it asks the engine to stop, then it tells what hangs and ends the test. */
static struct {
    struct prog_guest *guest;
    char text[96];
    unsigned ticks;
} watched;
static void on_alarm(int sig)
{
    if (++watched.ticks == 1) {
        atomic_store(&kicker.stop, true);
        prog_guest_kick(watched.guest);
        alarm(5);
        return;
    }
    ssize_t n = write(2, watched.text, strlen(watched.text));
    _exit(n < 0 ? 4 : 3);
}
static void run_engine(struct run *u, const struct program *p, const struct prog_how *how, struct trial *t)
{
    watched.guest = u->guest, watched.ticks = 0;
    snprintf(watched.text, sizeof watched.text, "prog-diff: HANG, does not react to kick(): --seed %llu --mode %s --index %llu\n",
             (unsigned long long)p->seed, p->mode == X86_MODE64 ? "64" : "32", (unsigned long long)p->index);
    alarm(60); /* in pieces some take seconds of a processor, and the host may be busy */
    atomic_store(&kicker.stop, false);
    atomic_store(&kicker.on, how->stop);
    struct prog_how late = *how; /* a kick may come late, in the next run */
    late.stop = u->kicks ? &kicker.stop : NULL;
    prog_guest_run(u->guest, &t->image, &late, &t->engine);
    atomic_store(&kicker.on, false);
    alarm(0);
}

/* Runs the engine in every way; compares with t->native. Returns the number of differences of the first way that differs. */
static unsigned against_engine(struct run *u, const struct program *p, struct trial *t, struct dp_buffer *out)
{
    const struct prog_how hows[] = {
        {0}, {.again = true}, {.again = true}, {.again = true, .free = true}, {.again = true, .free = true},
        {.again = true, .free = true, .stop = &kicker.stop}, {.again = true, .budget = 1 + (uint32_t)(p->index % 9), .roundtrip = p->index % 2}};
    static const char *const name[] = {"", "when run again", "when run a third time", "without a budget", "without a budget, again", "with kicks", "in pieces"};
    for (unsigned i = 0, kicked = 0; i < (u->guest ? DP_ARRAY_LEN(hows) : 1); i += !hows[i].stop || !u->kicks || ++kicked >= 20) {
        if (hows[i].free && p->index % 4 && !u->direct)
            continue; /* going there and back costs the translator its code */
        if ((hows[i].stop && !u->kicks) || (hows[i].budget && u->kicks)) /* what a kick cuts short would count as a whole piece */
            continue;
        if (u->guest) {
            run_engine(u, p, &hows[i], t);
        } else {
            struct dp_error e;
            if (prog_native_run(u->native2, &t->image, &t->engine, 1, &e))
                return 0;
        }
        if (hows[i].budget && t->engine.r.vector == CPU_TIMEOUT)
            continue; /* too long for small pieces */
        size_t before = out->size;
        if (i)
            dp_buffer_printf(out, "  (only %s)\n", name[i]);
        unsigned n = compare(p, t, out);
        if (n)
            return n;
        out->size = before;
    }
    return 0;
}

static bool run_native(struct run *u, struct trial *t)
{
    struct dp_error e;
    return !prog_native_run(u->native, &t->image, &t->native, 1, &e) && t->native.r.vector != CPU_TIMEOUT && t->native.r.vector != CPU_DIED;
}

/* Does it (still) fail? Twice, because a task switch can lose x87 pointers. */
static bool fails(struct run *u, const struct program *p, struct trial *t, struct dp_buffer *out)
{
    out->size = 0;
    if (!prog_assemble(p, &t->image, t->at) || !prog_check(p, &t->image, t->at, t->undefined))
        return false;
    prog_live(p, &t->image, t->at, t->live);
    for (unsigned attempt = 0; attempt < 2; attempt++) {
        out->size = 0;
        if (!run_native(u, t) || !against_engine(u, p, t, out))
            return false;
    }
    return true;
}

static void without(const struct program *p, unsigned from, unsigned n, struct program *out)
{
    *out = *p;
    memmove(&out->insn[from], &p->insn[from + n], (p->count - from - n) * sizeof p->insn[0]);
    out->count = (uint16_t)(p->count - n);
    for (unsigned i = 0; i < out->count; i++)
        if (out->insn[i].target > (int)from)
            out->insn[i].target = (int16_t)DP_MAX((int)from, out->insn[i].target - (int)n);
    for (unsigned i = 0; i < out->table_count; i++)
        if (out->table[i] > (int)from)
            out->table[i] = (int16_t)DP_MAX((int)from, out->table[i] - (int)n);
}

static void cut_down(struct run *u, struct program *p, struct trial *t, struct dp_buffer *out)
{
    static struct program smaller;
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (unsigned size = p->count / 2; size; size = size > 1 ? size / 2 : 0) {
        bool again = true;
        while (again) {
            again = false;
            for (unsigned from = 0; from + size <= p->count;) {
                without(p, from, size, &smaller);
                if (fails(u, &smaller, t, out))
                    *p = smaller, again = size == 1;
                else
                    from += size;
                clock_gettime(CLOCK_MONOTONIC, &t1);
                if (t1.tv_sec - t0.tv_sec > 30)
                    return;
            }
        }
    }
}

static void report(struct run *u, const struct program *p, struct trial *t)
{
    struct dp_buffer diff = {0}, text = {0};
    static struct program small;
    u->mismatches++;
    if (u->mismatches > u->show) {
        printf("MISMATCH --seed %llu --mode %s --index %llu\n", (unsigned long long)p->seed, p->mode == X86_MODE64 ? "64" : "32",
               (unsigned long long)p->index);
        return;
    }
    small = *p;
    if (!u->whole)
        cut_down(u, &small, t, &diff);
    prog_describe(&small, &text);
    bool still = fails(u, &small, t, &diff);
    printf("MISMATCH %.*s%.*s%s  (the host: vector %d error %#x rip %#llx cr2 %#llx)\n\n", (int)text.size, (const char *)text.data,
           (int)diff.size, (const char *)diff.data, still ? "" : "  not reproduced\n", t->native.r.vector, t->native.r.error,
           (unsigned long long)t->native.r.out.rip, (unsigned long long)t->native.r.cr2);
    fflush(stdout);
    dp_buffer_fini(&diff), dp_buffer_fini(&text);
}

/* --everywhere: no host needed, the interpreter tells. */
static int one_everywhere(struct run *u, const struct program *p, const struct prog_image *image)
{
    struct dp_buffer text = {0};
    watched.guest = u->guest, watched.ticks = 0;
    snprintf(watched.text, sizeof watched.text, "prog-diff: HANG: --everywhere --seed %llu --mode %s --index %llu\n", (unsigned long long)p->seed,
             p->mode == X86_MODE64 ? "64" : "32", (unsigned long long)p->index);
    alarm(120);
    u->programs++, u->insns += p->count;
    for (unsigned i = 0; i < 3; i++) {
        if (!prog_guest_probe(u->guest, u->reference, image, p->seed + p->index * 3 + i, &text)) /* odd and even ones */
            continue;
        printf("MISMATCH --everywhere --seed %llu --mode %s --index %llu\n%.*s", (unsigned long long)p->seed, p->mode == X86_MODE64 ? "64" : "32",
               (unsigned long long)p->index, (int)text.size, (const char *)text.data);
        u->mismatches++;
        if (u->mismatches <= u->show) {
            text.size = 0;
            prog_describe(p, &text);
            printf("%.*s\n", (int)text.size, (const char *)text.data);
        }
        break;
    }
    alarm(0);
    dp_buffer_fini(&text);
    return 0;
}

static int one(struct run *u, enum x86_mode mode, uint64_t index)
{
    static struct program p;
    static struct trial t;
    t.ymm = u->ymm, t.dead = u->dead;
    prog_generate(u->forms[mode], mode, u->seed, index, &p);
    if (!prog_assemble(&p, &t.image, t.at) || !prog_check(&p, &t.image, t.at, t.undefined)) {
        fprintf(stderr, "prog-diff: program %llu is not well-formed\n", (unsigned long long)index);
        return 2;
    }
    if (u->reference)
        return one_everywhere(u, &p, &t.image);
    prog_live(&p, &t.image, t.at, t.live);
    struct dp_error e;
    if (prog_native_run(u->native, &t.image, &t.native, 1, &e)) {
        fprintf(stderr, "prog-diff: %s\n", e.text);
        return e.code == -ENOENT ? 2 : 77;
    }
    if (u->verbose && u->stop == 1) {
        struct dp_buffer text = {0};
        prog_describe(&p, &text);
        printf("%.*s", (int)text.size, (const char *)text.data);
        dp_buffer_fini(&text);
    }
    u->programs++, u->insns += p.count, u->faults[t.native.r.vector]++;
    if (t.native.r.vector == CPU_DIED || t.native.r.vector == CPU_TIMEOUT) {
        if (u->verbose)
            printf("  %s: --mode %s --index %llu\n", t.native.r.vector == CPU_DIED ? "lost" : "endless", mode == X86_MODE64 ? "64" : "32",
                   (unsigned long long)index);
        u->lost += t.native.r.vector == CPU_DIED, u->endless += t.native.r.vector == CPU_TIMEOUT;
        return 0;
    }
    struct dp_buffer diff = {0};
    if (against_engine(u, &p, &t, &diff)) {
        if (u->kicks) /* it may never come again */
            printf("--seed %llu --mode %s --index %llu, as first seen:\n%.*s", (unsigned long long)u->seed, mode == X86_MODE64 ? "64" : "32",
                   (unsigned long long)index, (int)diff.size, (const char *)diff.data);
        if (fails(u, &p, &t, &diff))
            report(u, &p, &t);
        else if (u->kicks)
            u->mismatches++;
    }
    dp_buffer_fini(&diff);
    return 0;
}

static int usage(FILE *f, int status)
{
    fprintf(f,
            "usage: prog-diff [--engine NAME|native] [--model NAME] [--seed N] [--count K] [--mode 64|32|all] [--index N] [--show N] "
            "[--stop N]\n"
            "                 [--dead-flags] [--kicks|--everywhere] [--whole] [--verbose]\n"
            "  --engine native compares the host with itself: a check of this harness\n"
            "  --index runs one program (with --verbose: and prints it); --show: so many mismatches in full; --stop: after so many end;\n"
            "  --dead-flags: a fault's frame may have any value in flags that are overwritten before anybody reads them\n"
            "  --kicks: also with another thread that kicks the engine all the time\n"
            "  --everywhere: kicks after every few host instructions; each finds the processor in a state that the interpreter was in, too\n"
            "  --whole: do not cut them down\n");
    return status;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"engine", 1, 0, 'e'},
                                            {"seed", 1, 0, 's'},
                                            {"mode", 1, 0, 'm'},
                                            {"count", 1, 0, 'c'},
                                            {"index", 1, 0, 'i'},
                                            {"show", 1, 0, 'w'},
                                            {"model", 1, 0, 'M'},
                                            {"stop", 1, 0, 't'},
                                            {"whole", 0, 0, 'W'},
                                            {"dead-flags", 0, 0, 'd'},
                                            {"kicks", 0, 0, 'k'},
                                            {"everywhere", 0, 0, 'E'},
                                            {"verbose", 0, 0, 'v'},
                                            {"help", 0, 0, 'h'},
                                            {0}};
    const char *engine = "interp", *mode = "all", *model_name = NULL;
    struct run u = {.seed = 1, .show = 3, .stop = 20};
    uint64_t count = 1000, first = 0;
    bool everywhere = false;
    for (int o; (o = getopt_long(argc, argv, "", options, NULL)) != -1;)
        switch (o) {
        case 'e':
            engine = optarg;
            break;
        case 's':
            u.seed = strtoull(optarg, NULL, 0);
            break;
        case 'm':
            mode = optarg;
            break;
        case 'c':
            count = strtoull(optarg, NULL, 0);
            break;
        case 'i':
            first = strtoull(optarg, NULL, 0), count = 1, u.stop = 1;
            break;
        case 'w':
            u.show = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'M':
            model_name = optarg;
            break;
        case 't':
            u.stop = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'd':
            u.dead = true;
            break;
        case 'k':
            u.kicks = true;
            break;
        case 'E':
            everywhere = true;
            break;
        case 'W':
            u.whole = true;
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
    signal(SIGALRM, on_alarm);
    setvbuf(stdout, NULL, _IOLBF, 0);
    struct dp_error e;
    struct x86_cpuid_model model;
    bool self = !strcmp(engine, "native");
    u.direct = !strcmp(engine, "translate-direct");
    int err = x86_cpuid_model(model_name ? model_name : "x86-64-v3", &model, &e);
    if (err && !model_name)
        err = x86_cpuid_model("x86-64-v2", &model, &e);
    if (!err)
        err = everywhere ? prog_guest_create("interp", &model, &u.reference, &e) : prog_native_create(&u.native, &e);
    if (!err)
        err = self ? prog_native_create(&u.native2, &e) : prog_guest_create(engine, &model, &u.guest, &e);
    for (unsigned m = X86_MODE32; m <= X86_MODE64 && !err; m++)
        if (!strcmp(mode, "all") || !strcmp(mode, m == X86_MODE64 ? "64" : "32"))
            err = prog_forms_create((enum x86_mode)m, &model, &u.forms[m], &e);
    if (err) {
        fprintf(stderr, "prog-diff: %s\n", e.text);
        return 2;
    }
    kicker.guest = u.guest;
    pthread_t thread;
    if (u.kicks && u.guest && pthread_create(&thread, NULL, kick_on, NULL))
        return 2;
    u.ymm = x86_has(&model, X86_FEATURE_AVX);
    struct timespec t0, t1;
    clock_gettime(CLOCK_MONOTONIC, &t0);
    for (uint64_t i = first; i < first + count && !err && u.mismatches < u.stop; i++)
        for (unsigned m = X86_MODE32; m <= X86_MODE64 && !err; m++)
            if (u.forms[m] && (m == X86_MODE64 || i % 3 == 0 || strcmp(mode, "all"))) /* of both modes: mostly 64-bit programs */
                err = one(&u, (enum x86_mode)m, i);
    clock_gettime(CLOCK_MONOTONIC, &t1);
    double s = (double)(t1.tv_sec - t0.tv_sec) + (double)(t1.tv_nsec - t0.tv_nsec) / 1e9;
    printf("%llu programs (%llu instructions, %s) in %.1f s, %llu mismatches; %llu endless, %llu lost to wild stores\n",
           (unsigned long long)u.programs, (unsigned long long)u.insns, model.name, s, (unsigned long long)u.mismatches,
           (unsigned long long)u.endless, (unsigned long long)u.lost);
    for (unsigned i = 0; i < 256 && u.verbose; i++)
        if (u.faults[i])
            printf("  vector %3u: %llu\n", i, (unsigned long long)u.faults[i]);
    for (unsigned m = 0; m < 3; m++)
        prog_forms_destroy(u.forms[m]);
    prog_guest_destroy(u.guest);
    prog_guest_destroy(u.reference);
    prog_native_destroy(u.native), prog_native_destroy(u.native2);
    return err ? err : u.mismatches != 0;
}
