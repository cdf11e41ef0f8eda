/* test_lockstep.c - lock-step runs of the interpreter against itself, plain and with faults put in by engines that wrap it: each is found, at
 * its instruction.
 */
#include <stdlib.h>
#include <unistd.h>

#include "engine/interp/interp.h"
#include "tests/unit/test.h"
#include "tests/vm/images.h"
#include "vm/lockstep.h"

/* 20,000 rounds of 10 instructions that leave their results in 2 MiB of memory from 2 MiB on, then "ok" and the end. */
enum { ROUND = 10, ROUNDS = 20000, PROLOGUE = 2, LOOP = IMAGE_FLAT_LOAD + 0x60 + 10, AFTER_IMUL = LOOP + 5, AFTER_XOR = LOOP + 11 };
static const uint8_t guest_code[] = {
    0xb9, 0x20, 0x4e, 0x00, 0x00,       /* mov ecx, 20000 */
    0xbf, 0x00, 0x00, 0x20, 0x00,       /* mov edi, 0x200000 */
    0x01, 0xc8,                         /* add eax, ecx */
    0x6b, 0xd8, 0x07,                   /* imul ebx, eax, 7 */
    0x72, 0x00,                         /* jc +0: reads a flag that IMUL defines */
    0x89, 0x07,                         /* mov [edi], eax */
    0x31, 0xd8,                         /* xor eax, ebx */
    0x8d, 0x7f, 0x04,                   /* lea edi, [edi + 4] */
    0x81, 0xe7, 0xfc, 0xff, 0x3f, 0x00, /* and edi, 0x3ffffc */
    0x81, 0xcf, 0x00, 0x00, 0x20, 0x00, /* or edi, 0x200000 */
    0x49, 0x75, 0xe3,                   /* dec ecx; jnz loop */
};

/* ---- engines with faults ---- */

enum { FAULT_AT = 100000 };

struct dp_engine_state {
    struct dp_engine_vm vm;
    struct dp_engine_state *inner;
};
struct dp_cpu {
    struct dp_engine_state *engine;
    struct dp_cpu *inner;
    bool done;
};
static const struct dp_engine *const real = &dp_engine_interp;

static int probe(struct dp_error *e) { return real->probe(e); }
static int vm_init(const struct dp_engine_vm *vm, struct dp_engine_state **out, struct dp_error *e)
{
    struct dp_engine_state *s = calloc(1, sizeof *s);
    s->vm = *vm;
    *out = s;
    return real->vm_init(vm, &s->inner, e);
}
static void vm_fini(struct dp_engine_state *s)
{
    real->vm_fini(s->inner);
    free(s);
}
static int cpu_init(struct dp_engine_state *s, unsigned index, const struct dp_x86_bus *bus, struct dp_cpu **out, struct dp_error *e)
{
    struct dp_cpu *c = calloc(1, sizeof *c);
    c->engine = s;
    *out = c;
    return real->cpu_init(s->inner, index, bus, &c->inner, e);
}
static void cpu_fini(struct dp_cpu *c)
{
    real->cpu_fini(c->inner);
    free(c);
}
static void kick(struct dp_cpu *c) { real->kick(c->inner); }
static void interrupt(struct dp_cpu *c, enum dp_line line, unsigned value) { real->interrupt(c->inner, line, value); }
static void pull(struct dp_cpu *c, struct x86_state *out) { real->pull(c->inner, out); }
static void push(struct dp_cpu *c, const struct x86_state *in) { real->push(c->inner, in); }
static void counters(struct dp_cpu *c, struct dp_engine_counters *out) { real->counters(c->inner, out); }

static uint64_t instructions(struct dp_cpu *c)
{
    struct dp_engine_counters n;
    counters(c, &n);
    return n.instructions;
}

/* Runs up to FAULT_AT instructions, and the first time that those are reached says true. */
static bool run_to_fault(struct dp_cpu *c, uint64_t budget, struct dp_exit *exit)
{
    uint64_t had = instructions(c);
    if (!c->done && had + budget > FAULT_AT)
        budget = FAULT_AT - had;
    real->run(c->inner, budget, exit);
    return !c->done && (c->done = instructions(c) == FAULT_AT);
}
static void flip(struct dp_cpu *c, uint64_t *where, uint64_t bits, struct x86_state *s)
{
    *where ^= bits;
    push(c, s);
}

static void run_bad_register(struct dp_cpu *c, uint64_t budget, struct dp_exit *exit)
{
    struct x86_state s;
    if (!run_to_fault(c, budget, exit))
        return;
    pull(c, &s);
    flip(c, &s.r[X86_RSI], 0x100, &s);
}
/* A byte that the guest never reads. */
static void run_bad_store(struct dp_cpu *c, uint64_t budget, struct dp_exit *exit)
{
    if (run_to_fault(c, budget, exit))
        dp_space_write(c->engine->vm.memory, 0x654321, "x", 1);
}
static void run_hidden_store(struct dp_cpu *c, uint64_t budget, struct dp_exit *exit)
{
    struct dp_range r;
    if (run_to_fault(c, budget, exit) && dp_space_find(c->engine->vm.memory, 0, &r))
        r.ram->host[0x654321] = 'x';
}
/* IMUL leaves AF and ZF undefined; another processor may leave something else there. */
static void run_other_flags(struct dp_cpu *c, uint64_t budget, struct dp_exit *exit)
{
    struct x86_state s;
    real->run(c->inner, budget, exit);
    pull(c, &s);
    if (s.r[X86_RIP] == AFTER_IMUL)
        flip(c, &s.rflags, X86_AF | X86_ZF, &s);
}
/* XOR defines all that AND writes again. */
static void run_dead_flags(struct dp_cpu *c, uint64_t budget, struct dp_exit *exit)
{
    struct x86_state s;
    real->run(c->inner, budget, exit);
    pull(c, &s);
    if (s.r[X86_RIP] == AFTER_XOR)
        flip(c, &s.rflags, X86_CF | X86_SF | X86_ZF, &s);
}
/* IMUL defines CF, which is read. */
static void run_bad_flag(struct dp_cpu *c, uint64_t budget, struct dp_exit *exit)
{
    struct x86_state s;
    real->run(c->inner, budget, exit);
    pull(c, &s);
    if (s.r[X86_RIP] == AFTER_IMUL && instructions(c) > FAULT_AT)
        flip(c, &s.rflags, X86_CF, &s);
}
static void run_too_far(struct dp_cpu *c, uint64_t budget, struct dp_exit *exit)
{
    real->run(c->inner, budget + (instructions(c) + budget > FAULT_AT), exit);
}
static void run_not(struct dp_cpu *c, uint64_t budget, struct dp_exit *exit)
{
    (void)c;
    (void)budget;
    *exit = (struct dp_exit){.kind = DP_EXIT_BUDGET};
}

#define ENGINE(run_function)                                                                                                               \
    static const struct dp_engine engine_##run_function = {                                                                                \
        .name = #run_function, .summary = "faulty", .probe = probe, .vm_init = vm_init, .vm_fini = vm_fini, .cpu_init = cpu_init,          \
        .cpu_fini = cpu_fini, .run = run_function, .kick = kick, .interrupt = interrupt, .pull = pull, .push = push, .counters = counters, \
    }
ENGINE(run_bad_register);
ENGINE(run_bad_store);
ENGINE(run_hidden_store);
ENGINE(run_other_flags);
ENGINE(run_dead_flags);
ENGINE(run_bad_flag);
ENGINE(run_too_far);
ENGINE(run_not);

/* ---- the runs ---- */

struct world {
    char kernel[64];
    struct dp_buffer output;
    struct dp_lockstep_result r;
};

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof *w);
    struct image i = image_multiboot_flat();
    assert_true(0x60 + sizeof guest_code + sizeof image_code <= i.size);
    memcpy(i.data + 0x60, guest_code, sizeof guest_code);
    memcpy(i.data + 0x60 + sizeof guest_code, image_code, sizeof image_code);
    strcpy(w->kernel, "/tmp/doppel-lockstep-XXXXXX");
    int fd = mkstemp(w->kernel);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, i.data, i.size), i.size);
    close(fd);
    free(i.data);
    *state = w;
    return 0;
}
static int teardown(void **state)
{
    struct world *w = *state;
    unlink(w->kernel);
    dp_buffer_fini(&w->output);
    dp_buffer_fini(&w->r.report);
    free(w);
    return 0;
}

static void keep(void *opaque, const uint8_t *data, size_t size) { dp_buffer_append(&((struct world *)opaque)->output, data, size); }

static struct dp_lockstep_config config(struct world *w, const struct dp_engine *leader, const struct dp_engine *follower)
{
    return (struct dp_lockstep_config){
        .step = 1,
        .engine = {leader, follower}, .memory = 16 << 20, .kernel = w->kernel, .output = keep, .opaque = w, .every = 1000000};
}

static void run(struct world *w, const struct dp_lockstep_config *c, enum dp_lockstep_end end)
{
    struct dp_error e = {0};
    assert_ok(dp_lockstep_run(c, &w->r, &e), e);
    if (w->r.end != end)
        fail_msg("end %d, not %d: %s\n%.*s", w->r.end, end, w->r.reason, (int)w->r.report.size, (const char *)w->r.report.data);
}

static void assert_says(struct world *w, const char *words)
{
    dp_buffer_append(&w->r.report, "", 1);
    if (!strstr((const char *)w->r.report.data, words))
        fail_msg("the report does not say '%s':\n%s", words, (const char *)w->r.report.data);
    w->r.report.size--;
}

static void test_equal(void **state)
{
    struct world *w = *state;
    uint64_t all = 0;
    static const struct {
        uint64_t step, slice;
        bool single;
    } way[] = {{0, 1000, false}, {1, 1000, false}, {1000, 1000, false}, {1000, 1000, true}, {7, 100, false}, {64, 13, true}};
    for (unsigned i = 0; i < DP_ARRAY_LEN(way); i++) {
        struct dp_lockstep_config c = config(w, real, real);
        c.step = way[i].step;
        c.slice = way[i].slice;
        c.single = way[i].single;
        dp_buffer_fini(&w->output);
        w->output = (struct dp_buffer){0};
        run(w, &c, DP_LOCKSTEP_ENDED);
        assert_non_null(strstr(w->r.reason, "status 43"));
        assert_int_equal(w->output.size, 3);
        assert_memory_equal(w->output.data, "ok\n", 3);
        assert_int_equal(w->r.undefined_flags, 0);
        /* The run ends with the slice or the step that asked for it. */
        assert_in_range(w->r.instructions, PROLOGUE + ROUND * ROUNDS + 9, PROLOGUE + ROUND * ROUNDS + 9 + way[i].step);
        if (way[i].step == 1 && all)
            assert_int_equal(w->r.instructions, all);
        all = w->r.instructions;
    }
}

static void test_limits(void **state)
{
    struct world *w = *state;
    struct dp_lockstep_config c = config(w, real, real);
    c.instructions = 50000;
    run(w, &c, DP_LOCKSTEP_LIMIT);
    assert_int_equal(w->r.instructions, 50000);
    assert_int_equal(w->r.steps, 50000);
    c.skip = 20000;
    run(w, &c, DP_LOCKSTEP_LIMIT);
    assert_int_equal(w->r.instructions, 50000);
    assert_int_equal(w->r.steps, 30000);
}

/* Leader or follower, each block or seldom: the same instruction is named. */
static void assert_register_found(struct world *w, bool leads, uint64_t step, uint64_t skip)
{
    struct dp_lockstep_config c = config(w, leads ? &engine_run_bad_register : real, leads ? real : &engine_run_bad_register);
    c.step = step;
    c.skip = skip;
    run(w, &c, DP_LOCKSTEP_DIVERGED);
    assert_int_equal(w->r.instructions, FAULT_AT + skip);
    assert_says(w, leads ? "differing fields (run_bad_register != interp):\n  rsi: 0x100 != 0x0\ncode"
                         : "differing fields (interp != run_bad_register):\n  rsi: 0x0 != 0x100\ncode");
    assert_says(w, "code of the step (1 instruction run)");
    assert_says(w, skip ? "      149999  " : "       99999  ");
    dp_buffer_fini(&w->r.report);
}
static void test_register(void **state)
{
    assert_register_found(*state, true, 1, 0);
    assert_register_found(*state, false, 1, 0);
    assert_register_found(*state, true, 1000, 0);
    assert_register_found(*state, false, 300, 0);
    assert_register_found(*state, true, 1, 50000);
}

static void test_once(void **state)
{
    struct world *w = *state;
    struct dp_lockstep_config c = config(w, &engine_run_bad_register, real);
    c.step = 1000;
    c.slice = 30000;
    c.once = true;
    run(w, &c, DP_LOCKSTEP_DIVERGED);
    assert_in_range(w->r.instructions, FAULT_AT, FAULT_AT + 1000);
}

static void test_ignored_field(void **state)
{
    struct world *w = *state;
    struct dp_lockstep_config c = config(w, &engine_run_bad_register, real);
    static const char *const lists[] = {"fpu,r[6]", "rsi", "vec,r"};
    for (unsigned i = 0; i < DP_ARRAY_LEN(lists); i++) {
        c.ignore = lists[i];
        run(w, &c, DP_LOCKSTEP_ENDED);
    }
    c.ignore = "rs,rsil,r[60],fpu";
    run(w, &c, DP_LOCKSTEP_DIVERGED);
}

static void test_store(void **state)
{
    struct world *w = *state;
    struct dp_lockstep_config c = config(w, &engine_run_bad_store, real);
    run(w, &c, DP_LOCKSTEP_DIVERGED);
    assert_int_equal(w->r.instructions, FAULT_AT);
    assert_says(w, "RAM differs at guest-physical 0x654321");
    assert_says(w, "0x654320: 00 78 00");
    assert_says(w, "found by a second run");
    dp_buffer_fini(&w->r.report);
    c.engine[0] = &engine_run_hidden_store;
    run(w, &c, DP_LOCKSTEP_DIVERGED);
    assert_int_equal(w->r.instructions, FAULT_AT);
    assert_says(w, "neither engine said");
}

static void test_flags(void **state)
{
    struct world *w = *state;
    struct dp_lockstep_config c = config(w, &engine_run_other_flags, real);
    run(w, &c, DP_LOCKSTEP_ENDED);
    assert_int_equal(w->r.undefined_flags, ROUNDS);
    c.all_flags = true;
    run(w, &c, DP_LOCKSTEP_DIVERGED);
    assert_int_equal(w->r.instructions, PROLOGUE + 2);
    assert_says(w, "rflags: ");
    assert_says(w, "imul ");
    dp_buffer_fini(&w->r.report);
    c = config(w, &engine_run_dead_flags, real);
    run(w, &c, DP_LOCKSTEP_ENDED);
    assert_int_equal(w->r.undefined_flags, ROUNDS);
    c = config(w, &engine_run_bad_flag, real);
    run(w, &c, DP_LOCKSTEP_DIVERGED);
    assert_in_range(w->r.instructions, FAULT_AT, FAULT_AT + ROUND);
    assert_int_equal(w->r.undefined_flags, 0);
}

static void test_bad_engines(void **state)
{
    struct world *w = *state;
    struct dp_error e = {0};
    struct dp_lockstep_config c = config(w, real, &engine_run_too_far);
    run(w, &c, DP_LOCKSTEP_DIVERGED);
    assert_int_equal(w->r.instructions, FAULT_AT + 1);
    assert_says(w, "interp ran 100001 instructions and took 0 exceptions and 0 interrupts, run_too_far 100002, 0 and 0");
    dp_buffer_fini(&w->r.report);
    c = config(w, real, &engine_run_not);
    run(w, &c, DP_LOCKSTEP_DIVERGED);
    assert_int_equal(w->r.instructions, 1);
    dp_buffer_fini(&w->r.report);
    c = config(w, &engine_run_not, real);
    assert_int_equal(dp_lockstep_run(&c, &w->r, &e), -EIO);
    assert_non_null(strstr(e.text, "no progress"));
}

static void test_bad_files(void **state)
{
    struct world *w = *state;
    struct dp_error e = {0};
    struct dp_lockstep_config c = config(w, real, real);
    c.kernel = "/nonexistent";
    assert_int_equal(dp_lockstep_run(&c, &w->r, &e), -ENOENT);
    assert_string_equal(e.text, "kernel /nonexistent: No such file or directory");
    c.kernel = w->kernel;
    c.disk_count = 1;
    c.disk[0] = "/tmp";
    assert_int_equal(dp_lockstep_run(&c, &w->r, &e), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_equal, setup, teardown),         cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_register, setup, teardown),      cmocka_unit_test_setup_teardown(test_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ignored_field, setup, teardown), cmocka_unit_test_setup_teardown(test_store, setup, teardown),
        cmocka_unit_test_setup_teardown(test_flags, setup, teardown),         cmocka_unit_test_setup_teardown(test_bad_engines, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_files, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
