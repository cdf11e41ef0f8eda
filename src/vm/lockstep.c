/* vm/lockstep.c - see lockstep.h. The machines are in lockstep_machine.c; here: leading, following, comparing, reporting. */
#include "vm/lockstep.h"

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>

#include "isa/x86/insn.h"
#include "vm/lockstep_internal.h"

enum { HISTORY = 16, PATH = 256, WATCHED = 16, LOOK_AHEAD = 64, IDLE_TRIES = 100000 };
enum { ONE_BLOCK = 63 }; /* a budget: engines come back after a block */
#define MEMORY_DEFAULT (256ull << 20)
#define EVERY_DEFAULT 10000000

struct range {
    uint32_t offset, size;
};

struct past {
    uint64_t rip, instructions;
};

/* Where a second run has to look: slices first to last, and these pages of RAM. */
struct focus {
    bool active;
    uint64_t first, last;
    uint64_t page[WATCHED];
    unsigned pages;
};

struct lockstep {
    struct dp_lockstep_config config;
    struct dp_lockstep_result *result;
    struct lockstep_machine m[2];
    struct range *range; /* of struct x86_state: what is compared */
    unsigned range_count;
    uint64_t *dirty[2]; /* bitmaps of pages */
    uint64_t dirty_words;
    struct past past[HISTORY];
    uint64_t steps, slices;
    uint64_t before; /* instructions before this step */
    struct x86_state start;
    uint64_t path[PATH]; /* of the follower in this step, when it goes instruction by instruction */
    unsigned path_length;
    uint64_t checked_slice, next_check;
    size_t output_done, output_before; /* of the leader's; the follower's before the leader began */
    struct focus focus, next_focus;
    bool close;    /* this slice is looked at closely */
    bool coarse;   /* this step may have been several blocks */
    bool diverged;
};

static bool is_running(const struct lockstep_machine *m) { return m->state.run_state == X86_RUNNING; }
static uint64_t deliveries(const struct lockstep_machine *m) { return m->exceptions + m->interrupts; }
static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- which fields count ---- */

static const char *gpr_name(unsigned i)
{
    static const char *const name[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8",
                                       "r9",  "r10", "r11", "r12", "r13", "r14", "r15", "rip"};
    return i < DP_ARRAY_LEN(name) ? name[i] : "zero";
}

/* Is the name, or what it begins with before a "." or "[", in the list? */
static bool listed(const char *list, const char *name)
{
    for (const char *p = list; p && *p; p += *p == ',') {
        size_t n = strcspn(p, ",");
        if (n && !strncmp(p, name, n) && (!name[n] || name[n] == '.' || name[n] == '['))
            return true;
        p += n;
    }
    return false;
}

/* Names are the state table's; general registers have their own, too. */
static bool ignored(const struct lockstep *l, const char *name)
{
    unsigned index;
    return listed(l->config.ignore, name) || (sscanf(name, "r[%u]", &index) == 1 && listed(l->config.ignore, gpr_name(index)));
}

static int add_range(struct lockstep *l, uint32_t offset, uint32_t size)
{
    struct range *last = l->range_count ? &l->range[l->range_count - 1] : NULL;
    if (last && last->offset + last->size == offset) {
        last->size += size;
        return 0;
    }
    struct range *more = realloc(l->range, (l->range_count + 1) * sizeof *more);
    if (!more)
        return -ENOMEM;
    l->range = more;
    l->range[l->range_count++] = (struct range){offset, size};
    return 0;
}

static uint32_t size_of(const struct dp_field *f)
{
    switch (f->kind) {
    case DP_KIND_U16: return 2;
    case DP_KIND_U32: return 4;
    case DP_KIND_U64: return 8;
    default: return 1;
    }
}

/* The declared fields as ranges of bytes, so that padding has no say. */
static int make_ranges(struct lockstep *l, const struct dp_state_table *t, uint32_t base, const char *path)
{
    int rc = 0;
    for (unsigned n = 0; !rc && n < t->field_count; n++) {
        const struct dp_field *f = &t->fields[n];
        char name[128];
        snprintf(name, sizeof name, "%s%s", path, f->name);
        for (uint32_t i = 0; !rc && i < f->count; i++) {
            uint32_t at = base + f->offset + i * f->stride;
            char element[160];
            if (f->count > 1)
                snprintf(element, sizeof element, "%s[%u]", name, i);
            else
                snprintf(element, sizeof element, "%s", name);
            if (ignored(l, element))
                continue;
            if (f->kind == DP_KIND_STRUCT) {
                strcat(element, ".");
                rc = make_ranges(l, f->sub, at, element);
            } else {
                rc = add_range(l, at, size_of(f));
            }
        }
    }
    return rc;
}

/* ---- reports ---- */

/* The differing fields, a line each; how many there are. */
static unsigned list_fields(struct lockstep *l, struct dp_buffer *out)
{
    struct dp_buffer all = {0};
    unsigned count = 0;
    dp_state_diff(&x86_state_table, &l->m[0].state, &l->m[1].state, &all);
    dp_buffer_append(&all, "", 1);
    char *line = all.failed ? NULL : (char *)all.data;
    for (char *end; line && (end = strchr(line, '\n')); line = end + 1) {
        unsigned index;
        char name[64];
        *end = 0;
        size_t length = strcspn(line, ":");
        snprintf(name, sizeof name, "%.*s", (int)DP_MIN(length, sizeof name - 1), line);
        if (ignored(l, name))
            continue;
        if (sscanf(line, "r[%u]", &index) == 1)
            snprintf(name, sizeof name, "%s", gpr_name(index));
        else if (sscanf(line, "vec[%u]", &index) == 1)
            snprintf(name, sizeof name, "vec[%u] (ymm%u byte %u)", index, index / 32, index % 32);
        dp_buffer_printf(out, "  %s%s\n", name, line + length);
        count++;
    }
    dp_buffer_fini(&all);
    return count;
}

static enum x86_mode code_mode(const struct x86_state *s)
{
    return x86_code64(s) ? X86_MODE64 : s->seg[X86_CS].attr & X86_ATTR_DB ? X86_MODE32 : X86_MODE16;
}

/* The follower's code at rip as the processor in state s sees it; x86_decode's result. */
static int decode_at(struct lockstep *l, const struct x86_state *s, uint64_t rip, struct x86_insn *insn, uint8_t bytes[15])
{
    uint64_t linear = x86_code64(s) ? rip : (rip + s->seg[X86_CS].base) & 0xffffffff;
    unsigned n = lockstep_read(&l->m[1], s, linear, bytes, 15);
    return x86_decode(bytes, n, code_mode(s), insn);
}

/* One line; the following instruction's address, or 0. */
static uint64_t disassemble(struct lockstep *l, const struct x86_state *s, uint64_t rip, struct dp_buffer *out)
{
    struct x86_insn insn;
    uint8_t bytes[15];
    char text[120], hex[32] = "";
    int n = decode_at(l, s, rip, &insn, bytes);
    if (n <= 0) {
        dp_buffer_printf(out, "  %16" PRIx64 "  (no instruction)\n", rip);
        return 0;
    }
    for (int i = 0; i < n; i++)
        snprintf(hex + 2 * i, sizeof hex - 2 * (size_t)i, "%02x", bytes[i]);
    x86_print_insn(&insn, rip, text, sizeof text);
    dp_buffer_printf(out, "  %16" PRIx64 "  %-22s %s\n", rip, hex, text);
    return rip + (unsigned)n;
}

static void list_code(struct lockstep *l, struct dp_buffer *out)
{
    uint64_t count = l->m[0].instructions - l->before, rip = l->start.r[X86_RIP];
    dp_buffer_printf(out, "code of the step (%" PRIu64 " instruction%s run%s):\n", count, count == 1 ? "" : "s",
                     l->path_length ? "" : ", jumps not followed");
    for (unsigned i = 0; i < l->path_length; i++)
        disassemble(l, &l->start, l->path[i], out);
    for (uint64_t i = 0; !l->path_length && rip && i < DP_MIN(DP_MAX(count, 1u), 70u); i++)
        rip = disassemble(l, &l->start, rip, out);
    for (unsigned i = 0; i < 2; i++) {
        dp_buffer_printf(out, "%s is now at:\n", l->m[i].title);
        rip = l->m[i].state.r[X86_RIP];
        for (unsigned k = 0; rip && k < 8; k++)
            rip = disassemble(l, &l->m[i].state, rip, out);
    }
    dp_buffer_printf(out, "the steps before (instructions run, rip):\n");
    for (uint64_t n = l->steps > HISTORY ? l->steps - HISTORY : 0; n < l->steps; n++)
        dp_buffer_printf(out, "  %12" PRIu64 "  %16" PRIx64 "\n", l->past[n % HISTORY].instructions, l->past[n % HISTORY].rip);
}

static struct dp_buffer *diverged(struct lockstep *l, const char *what, ...) DP_PRINTF(2, 3);
static struct dp_buffer *diverged(struct lockstep *l, const char *what, ...)
{
    struct dp_lockstep_result *r = l->result;
    va_list ap;
    va_start(ap, what);
    vsnprintf(r->reason, sizeof r->reason, what, ap);
    va_end(ap);
    r->end = DP_LOCKSTEP_DIVERGED;
    l->diverged = true;
    dp_buffer_fini(&r->report);
    r->report = (struct dp_buffer){0};
    dp_buffer_printf(&r->report, "step %" PRIu64 ", slice %" PRIu64 ", after %" PRIu64 " instructions: %s\n", l->steps, l->slices,
                     l->m[0].instructions, r->reason);
    return &r->report;
}

static void states_diverged(struct lockstep *l, const char *what)
{
    struct dp_buffer fields = {0};
    list_fields(l, &fields);
    struct dp_buffer *out = diverged(l, "%s", what);
    dp_buffer_printf(out, "differing fields (%s != %s):\n", l->m[0].title, l->m[1].title);
    dp_buffer_append(out, fields.data, fields.size);
    dp_buffer_fini(&fields);
    list_code(l, out);
    l->next_focus = (struct focus){.first = l->slices, .last = l->slices};
}

/* ---- comparing states ---- */

static bool same_state(const struct lockstep *l)
{
    const char *a = (const char *)&l->m[0].state, *b = (const char *)&l->m[1].state;
    for (unsigned i = 0; i < l->range_count; i++)
        if (memcmp(a + l->range[i].offset, b + l->range[i].offset, l->range[i].size))
            return false;
    return true;
}

/* Where the code of a block goes on after an instruction: direct jumps are followed, conditional ones were not taken. */
static bool is_direct_jump(const struct x86_insn *i) { return i->op == X86_OP_JMP && i->operand[0].kind == X86_REL; }
static uint64_t after(const struct x86_insn *i, uint64_t rip) { return rip + i->length + (is_direct_jump(i) ? i->imm : 0); }

/* Which arithmetic flags the instructions of this step leave undefined: they are one block. */
static uint64_t undefined_flags(struct lockstep *l)
{
    uint64_t undefined = 0, rip = l->start.r[X86_RIP];
    for (uint64_t n = l->m[0].instructions - l->before; n; n--) {
        struct x86_insn i;
        uint8_t bytes[15];
        if (decode_at(l, &l->start, rip, &i, bytes) <= 0)
            break;
        if (!(i.row->flags & (X86_F_KEEPS | X86_F_REPCC)))
            undefined &= ~(uint64_t)i.row->flags_written;
        undefined |= i.row->flags_undefined;
        rip = after(&i, rip);
    }
    return undefined & X86_ARITH;
}

/* Which of these flags are written anew before anything reads them, by the code that follows? A translator need not keep those. */
static uint64_t dead_flags(struct lockstep *l, uint64_t flags)
{
    const struct x86_state *s = &l->m[0].state;
    uint64_t dead = 0, rip = s->r[X86_RIP];
    for (unsigned n = 0; n < LOOK_AHEAD && (flags & ~dead); n++) {
        struct x86_insn i;
        uint8_t bytes[15];
        if (decode_at(l, s, rip, &i, bytes) <= 0)
            break;
        flags &= ~(i.row->flags_read & ~dead);
        if (!(i.row->flags & (X86_F_KEEPS | X86_F_REPCC)))
            dead |= flags & (i.row->flags_written | i.row->flags_undefined);
        if ((i.row->flags & X86_F_BRANCH) && !is_direct_jump(&i))
            break;
        rip = after(&i, rip);
    }
    return dead;
}

/* Are the flags all that differs, and may they? Then the follower gets the leader's. */
static bool flags_may_differ(struct lockstep *l)
{
    struct x86_state *a = &l->m[0].state, *b = &l->m[1].state;
    struct x86_state before = *b;
    uint64_t differing = a->rflags ^ b->rflags;
    if (l->config.all_flags || (!differing && a->sti_shadow == b->sti_shadow) || differing & ~(uint64_t)X86_ARITH)
        return false;
    b->rflags = a->rflags;
    b->sti_shadow = a->sti_shadow; /* an engine may leave it out when nothing waits that it would hold back */
    bool others = same_state(l);
    *b = before;
    if (!others || (!l->coarse /* then they may have been so for long */ && differing & ~(undefined_flags(l) | dead_flags(l, differing))))
        return false;
    b->rflags = a->rflags;
    b->sti_shadow = a->sti_shadow;
    l->m[1].engine->push(l->m[1].cpu, b);
    l->result->undefined_flags++;
    return true;
}

/* ---- RAM, devices, output ---- */

static void ram_diverged(struct lockstep *l, uint64_t page, bool unmarked)
{
    const uint8_t *a = l->m[0].ram->host + page * DP_PAGE_SIZE, *b = l->m[1].ram->host + page * DP_PAGE_SIZE;
    unsigned first = 0;
    while (a[first] == b[first])
        first++;
    uint64_t phys = lockstep_phys(page * DP_PAGE_SIZE);
    struct dp_buffer *out = diverged(l, "RAM differs at guest-physical 0x%" PRIx64 "%s", phys + first,
                                     unmarked ? ", in a page that neither engine said it wrote" : "");
    unsigned at = first & ~15u;
    for (unsigned i = 0; i < 2; i++) {
        dp_buffer_printf(out, "  %-12s 0x%" PRIx64 ":", l->m[i].title, phys + at);
        for (unsigned k = at; k < at + 16; k++)
            dp_buffer_printf(out, " %02x", (i ? b : a)[k]);
        dp_buffer_printf(out, "\n");
    }
    if (l->focus.active)
        list_code(l, out);
    else
        dp_buffer_printf(out, "RAM was equal after slice %" PRIu64 ".\n", l->checked_slice);
}

/* Bits that a processor may set in an entry of a page table whenever it likes, as long as it walks there: P and A. */
enum { ENTRY_P = 1, ENTRY_A = 1 << 5 };

/* Pages that differ only in accessed bits of what looks like entries of page tables are made equal:
 * when an engine walks is its own affair. */
static bool same_page(struct lockstep *l, uint64_t page)
{
    uint8_t *a = l->m[0].ram->host + page * DP_PAGE_SIZE, *b = l->m[1].ram->host + page * DP_PAGE_SIZE;
    if (DP_LIKELY(!memcmp(a, b, DP_PAGE_SIZE)))
        return true;
    for (unsigned i = 0; i < DP_PAGE_SIZE; i += 8) {
        uint64_t x = dp_ld64(a + i), y = dp_ld64(b + i);
        if (x != y && ((x ^ y) != ENTRY_A || !(x & ENTRY_P)))
            return false;
    }
    for (unsigned i = 0; i < DP_PAGE_SIZE; i += 8) {
        uint64_t x = dp_ld64(a + i), y = dp_ld64(b + i);
        l->result->accessed_bits += x != y;
        dp_st64(a + i, x | y);
        dp_st64(b + i, x | y);
    }
    return true;
}

/* A page that differs: the first is reported, the first few are remembered for the second run. */
static void note_page(struct lockstep *l, uint64_t page, bool unmarked)
{
    if (!l->diverged) {
        ram_diverged(l, page, unmarked);
        l->next_focus = (struct focus){.first = unmarked ? 0 : l->checked_slice, .last = l->slices};
    }
    if (l->next_focus.pages < WATCHED)
        l->next_focus.page[l->next_focus.pages++] = page;
}

static void compare_written(struct lockstep *l)
{
    for (unsigned i = 0; i < 2; i++)
        dp_space_dirty_harvest(dp_pc_memory(l->m[i].pc), LOCKSTEP_DIRTY_CLIENT, l->m[i].ram, l->dirty[i]);
    for (uint64_t w = 0; w < l->dirty_words; w++)
        for (uint64_t bits = l->dirty[0][w] | l->dirty[1][w]; bits; bits &= bits - 1) {
            uint64_t page = w * 64 + (unsigned)__builtin_ctzll(bits);
            if (!same_page(l, page))
                note_page(l, page, false);
        }
}

/* The follower has loaded an entry of a page table whose accessed bit differed: it gets the leader's registers. */
static bool accessed_may_differ(struct lockstep *l)
{
    struct x86_state *a = &l->m[0].state, *b = &l->m[1].state, before = *b;
    for (unsigned i = 0; i < X86_RIP; i++) {
        if (b->r[i] != a->r[i] && (b->r[i] ^ a->r[i]) != ENTRY_A)
            return false;
        b->r[i] = a->r[i];
    }
    bool others = same_state(l);
    uint64_t harmless = l->result->accessed_bits;
    if (others)
        compare_written(l);
    if (!others || l->diverged || l->result->accessed_bits == harmless) {
        *b = before;
        return false;
    }
    l->m[1].engine->push(l->m[1].cpu, b);
    return true;
}

static void compare_all(struct lockstep *l)
{
    for (unsigned i = 0; i < 2; i++)
        for (uint64_t page = 0; lockstep_next_page(&l->m[i], &page); page++)
            if (!same_page(l, page) && (!l->diverged || l->next_focus.pages < WATCHED))
                note_page(l, page, true);
}

static void compare_devices(struct lockstep *l)
{
    for (unsigned n = 0; n < l->m[0].device_count; n++) {
        struct dp_device *d[2] = {l->m[0].device[n], l->m[1].device[n]};
        struct dp_buffer image[2] = {{0}}, fields = {0};
        for (unsigned i = 0; i < 2; i++)
            dp_device_save(d[i], &image[i]);
        if (image[0].size != image[1].size || memcmp(image[0].data, image[1].data, image[0].size)) {
            dp_state_diff(d[0]->class->state, dp_device_regs(d[0]), dp_device_regs(d[1]), &fields);
            struct dp_buffer *out = diverged(l, "the states of device %s differ", d[0]->id);
            dp_buffer_append(out, fields.data, fields.size);
            if (l->focus.active)
                list_code(l, out);
            l->next_focus = (struct focus){.first = l->checked_slice, .last = l->slices};
        }
        dp_buffer_fini(&image[0]);
        dp_buffer_fini(&image[1]);
        dp_buffer_fini(&fields);
        if (l->diverged)
            return;
    }
}

static void compare_output(struct lockstep *l)
{
    const struct dp_buffer *a = dp_console_output(l->m[0].serial), *b = dp_console_output(l->m[1].serial);
    size_t size = b->size - l->output_before;
    if (a->size != size || (size && memcmp(a->data, b->data + l->output_before, size))) {
        diverged(l, "the guests said different things on their serial ports (%zu and %zu bytes)", a->size, size);
        l->next_focus = (struct focus){.first = l->checked_slice, .last = l->slices};
    }
}

/* ---- leading and following ---- */

/* The leader runs until it did something, even if only to halt. Engines may come back from the midst of a long instruction. */
static int lead(struct lockstep *l, uint64_t budget, struct dp_error *e)
{
    struct lockstep_machine *a = &l->m[0];
    uint64_t instructions = a->instructions, delivered = deliveries(a);
    enum dp_exit_kind kind = DP_EXIT_BUDGET;
    for (unsigned tries = 0; tries < IDLE_TRIES; tries++) {
        int rc = lockstep_run(a, budget, &kind, e);
        if (rc || a->instructions != instructions || deliveries(a) != delivered || (kind != DP_EXIT_BUDGET && kind != DP_EXIT_KICK))
            return rc;
    }
    return dp_error_set(e, -EIO, "engine %s makes no progress at 0x%" PRIx64, a->engine->name, l->start.r[X86_RIP]);
}

static int follow(struct lockstep *l, struct dp_error *e)
{
    struct lockstep_machine *a = &l->m[0], *b = &l->m[1];
    uint64_t instructions = a->instructions, delivered = deliveries(a);
    enum dp_exit_kind kind = DP_EXIT_BUDGET;
    unsigned idle = 0;
    bool single = l->config.single || l->close;
    l->path_length = 0;
    while (idle < 2 && (b->instructions < instructions || (b->instructions == instructions && deliveries(b) < delivered))) {
        uint64_t had = b->instructions, had_delivered = deliveries(b);
        if (l->close) {
            b->engine->pull(b->cpu, &b->state);
            if (l->path_length < PATH && (!l->path_length || l->path[l->path_length - 1] != b->state.r[X86_RIP]))
                l->path[l->path_length++] = b->state.r[X86_RIP];
        }
        int rc = lockstep_run(b, single ? 1 : DP_MAX(instructions - had, 1u), &kind, e);
        if (rc)
            return rc;
        idle = b->instructions == had && deliveries(b) == had_delivered ? idle + 1 : 0;
    }
    return 0;
}

static void compare_step(struct lockstep *l)
{
    struct lockstep_machine *a = &l->m[0], *b = &l->m[1];
    if (a->instructions != b->instructions || deliveries(a) != deliveries(b)) {
        char what[160];
        snprintf(what, sizeof what,
                 "%s ran %" PRIu64 " instructions and took %" PRIu64 " exceptions and %" PRIu64 " interrupts, %s %" PRIu64 ", %" PRIu64
                 " and %" PRIu64,
                 a->title, a->instructions, a->exceptions, a->interrupts, b->title, b->instructions,
                 b->exceptions, b->interrupts);
        states_diverged(l, what);
        return;
    }
    if (a->request != b->request || a->status != b->status) {
        states_diverged(l, "one guest asked for a reset or the machine's end, the other did not");
        return;
    }
    if (!same_state(l) && !flags_may_differ(l) && !accessed_may_differ(l) && !l->diverged) {
        states_diverged(l, "the processors' states differ");
        return;
    }
    for (unsigned i = 0; l->close && !l->diverged && i < l->focus.pages; i++)
        if (!same_page(l, l->focus.page[i]))
            ram_diverged(l, l->focus.page[i], false);
}

/* One step; both states are pulled and compared. */
static int step(struct lockstep *l, uint64_t budget, struct dp_error *e)
{
    l->start = l->m[0].state;
    l->before = l->m[0].instructions;
    l->past[l->steps % HISTORY] = (struct past){l->start.r[X86_RIP], l->before};
    l->steps++;
    l->coarse = budget > ONE_BLOCK;
    int rc = lead(l, budget, e);
    if (!rc)
        rc = follow(l, e);
    if (rc)
        return rc;
    for (unsigned i = 0; i < 2; i++)
        l->m[i].engine->pull(l->m[i].cpu, &l->m[i].state);
    compare_step(l);
    return 0;
}

/* ---- slices ---- */

/* The slice's number of instructions, or up to a halt or a request; then time moves on. It ends at the same
 * instruction whatever the engine's blocks are. */
static int slice(struct lockstep *l, struct dp_error *e)
{
    struct lockstep_machine *a = &l->m[0], *b = &l->m[1];
    uint64_t start = a->instructions, end = start + l->config.slice;
    bool close = l->close = l->focus.active && l->slices >= l->focus.first && l->slices <= l->focus.last;
    for (unsigned i = 0; i < 2; i++)
        lockstep_lines(&l->m[i]);
    do {
        uint64_t left = end - a->instructions;
        uint64_t wanted = l->config.step && !(close && l->config.step > ONE_BLOCK) ? l->config.step : ONE_BLOCK,
                 budget = DP_MIN(wanted, left);
        int rc = step(l, budget, e);
        if (rc || l->diverged)
            return rc;
    } while (a->instructions < end && is_running(a) && is_running(b) && !a->request);

    uint64_t ran = a->instructions - start, ps = ran * l->config.ps + a->ps_left, ns = ps / 1000;
    a->ps_left = ps % 1000;
    for (unsigned i = 0; i < 2; i++)
        dp_clock_advance(l->m[i].clock, ns);
    for (unsigned i = 0; i < 2; i++)
        lockstep_drain(&l->m[i]);
    l->slices++;
    return 0;
}

/* The follower alone runs the first instructions, and the leader begins as what it has become. */
static int skip(struct lockstep *l, struct dp_error *e)
{
    struct lockstep_machine *m = &l->m[1];
    int rc = 0;
    while (!rc && m->instructions < l->config.skip) {
        uint64_t start = m->instructions, end = DP_MIN(start + l->config.slice, l->config.skip), due;
        enum dp_exit_kind kind = DP_EXIT_BUDGET;
        lockstep_lines(m);
        do {
            rc = lockstep_run(m, end - m->instructions, &kind, e);
            m->engine->pull(m->cpu, &m->state);
        } while (!rc && m->instructions < end && is_running(m) && !m->request);
        dp_clock_advance(m->clock, (m->instructions - start) * l->config.ps / 1000);
        lockstep_drain(m);
        bool ended = m->state.run_state == X86_SHUTDOWN || m->request == LOCKSTEP_POWEROFF || m->request == LOCKSTEP_EXIT;
        while (!rc && !ended && !is_running(m) && !m->lines_moved) {
            if ((ended = !dp_clock_next(m->clock, &due)))
                break;
            uint64_t now = dp_clock_now(m->clock);
            dp_clock_advance(m->clock, due > now ? due - now : 0);
            lockstep_drain(m);
        }
        if (!rc && ended)
            rc = dp_error_set(e, -ENODATA, "the guest ended after %" PRIu64 " instructions: --skip less", m->instructions);
        if (!rc && m->request == LOCKSTEP_RESET)
            rc = lockstep_boot(m, e);
    }
    const struct dp_buffer *o = dp_console_output(m->serial);
    if (l->config.output && !l->focus.active)
        l->config.output(l->config.opaque, o->data, o->size);
    l->output_before = o->size;
    return rc ? rc : lockstep_copy(&l->m[0], m, e);
}

enum sleep { AWAKE, ASLEEP_FOR_EVER };
/* Halted processors sleep until a timer makes their lines move. */
static enum sleep skip_halt(struct lockstep *l)
{
    while (!is_running(&l->m[0]) && !l->m[0].lines_moved && !l->m[1].lines_moved) {
        uint64_t due[2] = {0, 0};
        bool armed[2];
        for (unsigned i = 0; i < 2; i++)
            armed[i] = dp_clock_next(l->m[i].clock, &due[i]);
        if (armed[0] != armed[1] || due[0] != due[1]) {
            diverged(l, "the machines' next timers are due at %" PRIu64 " and %" PRIu64 " ns", due[0], due[1]);
            return AWAKE;
        }
        if (!armed[0])
            return ASLEEP_FOR_EVER;
        for (unsigned i = 0; i < 2; i++) {
            uint64_t now = dp_clock_now(l->m[i].clock);
            dp_clock_advance(l->m[i].clock, due[i] > now ? due[i] - now : 0);
            lockstep_drain(&l->m[i]);
        }
    }
    return AWAKE;
}

static void give_output(struct lockstep *l)
{
    const struct dp_buffer *o = dp_console_output(l->m[0].serial);
    if (l->config.output && !l->focus.active && o->size > l->output_done)
        l->config.output(l->config.opaque, o->data + l->output_done, o->size - l->output_done);
    l->output_done = o->size;
}

/* Everything but the processors' states. */
static void check(struct lockstep *l, bool whole)
{
    if (!l->diverged)
        compare_written(l);
    if (!l->diverged && whole)
        compare_all(l);
    if (!l->diverged)
        compare_devices(l);
    if (!l->diverged)
        compare_output(l);
    l->checked_slice = l->slices;
    l->next_check = l->m[0].instructions + l->config.every;
}

static void finish(struct lockstep *l, enum dp_lockstep_end end, const char *format, ...) DP_PRINTF(3, 4);
static void finish(struct lockstep *l, enum dp_lockstep_end end, const char *format, ...)
{
    check(l, true);
    if (l->diverged)
        return;
    va_list ap;
    va_start(ap, format);
    vsnprintf(l->result->reason, sizeof l->result->reason, format, ap);
    va_end(ap);
    l->result->end = end;
}

/* True: the comparison is over. */
static int carry_out(struct lockstep *l, bool *over, struct dp_error *e)
{
    struct lockstep_machine *a = &l->m[0];
    *over = true;
    if (a->state.run_state == X86_SHUTDOWN) {
        finish(l, DP_LOCKSTEP_ENDED, "both guests ended by a triple fault");
        return 0;
    }
    if (a->request == LOCKSTEP_POWEROFF || a->request == LOCKSTEP_EXIT) {
        finish(l, DP_LOCKSTEP_ENDED, "both guests %s with status %d", a->request == LOCKSTEP_EXIT ? "ended" : "powered off", a->status);
        return 0;
    }
    *over = false;
    int rc = 0;
    for (unsigned i = 0; !rc && i < 2 && l->m[0].request == LOCKSTEP_RESET; i++)
        rc = lockstep_boot(&l->m[1 - i], e); /* the leader's request is forgotten last */
    return rc;
}

static int compare(struct lockstep *l, uint64_t stop_ms, struct dp_error *e)
{
    const struct dp_lockstep_config *c = &l->config;
    bool over = false;
    int rc = c->skip ? skip(l, e) : 0;
    if (rc)
        return rc;
    check(l, c->skip);
    while (!over && !l->diverged) {
        rc = slice(l, e);
        give_output(l);
        if (!rc && !l->diverged)
            rc = carry_out(l, &over, e);
        if (rc)
            return rc;
        if (over || l->diverged)
            break;
        if (skip_halt(l) == ASLEEP_FOR_EVER) {
            finish(l, DP_LOCKSTEP_ENDED, "both guests sleep for ever");
            break;
        }
        if (l->diverged)
            break;
        if (c->instructions && l->m[0].instructions >= c->instructions) {
            finish(l, DP_LOCKSTEP_LIMIT, "the number of instructions (--instructions) is reached");
            break;
        }
        if (!l->focus.active && stop_ms && now_ms() >= stop_ms) {
            finish(l, DP_LOCKSTEP_TIMEOUT, "the time limit (--timeout) is over");
            break;
        }
        if (l->focus.active && l->slices > l->focus.last)
            break;
        if (l->close || l->m[0].instructions >= l->next_check)
            check(l, false);
    }
    give_output(l);
    return 0;
}

/* ---- a run ---- */

static void fini(struct lockstep *l)
{
    for (unsigned i = 0; i < 2; i++) {
        lockstep_machine_fini(&l->m[i]);
        free(l->dirty[i]);
    }
    free(l->range);
}

static int init(struct lockstep *l, struct dp_error *e)
{
    struct dp_lockstep_config *c = &l->config;
    int rc = make_ranges(l, &x86_state_table, 0, "") ? dp_error_set(e, -ENOMEM, "no memory") : 0;
    for (unsigned i = 0; !rc && i < 2; i++) {
        struct lockstep_machine *m = &l->m[i];
        const char *name = c->engine[i]->name;
        if (c->engine[0]->name == c->engine[1]->name)
            snprintf(m->title, sizeof m->title, "%.20s#%u", name, i + 1);
        else
            snprintf(m->title, sizeof m->title, "%.20s", name);
        rc = lockstep_machine_init(m, c, c->engine[i], e);
        if (!rc)
            rc = dp_space_dirty_start(dp_pc_memory(m->pc), LOCKSTEP_DIRTY_CLIENT, e);
        if (!rc) {
            l->dirty_words = (m->ram->size / DP_PAGE_SIZE + 63) / 64;
            l->dirty[i] = calloc(l->dirty_words, sizeof **l->dirty);
            rc = l->dirty[i] ? 0 : dp_error_set(e, -ENOMEM, "no memory");
        }
        if (rc)
            break;
        dp_space_dirty_harvest(dp_pc_memory(m->pc), LOCKSTEP_DIRTY_CLIENT, m->ram, l->dirty[i]); /* everything, to begin with */
        rc = lockstep_boot(m, e);
    }
    return rc;
}

/* From power-on, once; a divergence leaves *focus for a second time. */
static int run_once(const struct dp_lockstep_config *c, struct focus *focus, struct dp_lockstep_result *r, struct dp_error *e)
{
    struct lockstep *l = calloc(1, sizeof *l);
    if (!l)
        return dp_error_set(e, -ENOMEM, "no memory");
    l->config = *c;
    l->focus = *focus;
    l->result = r;
    uint64_t stop_ms = c->timeout_ms ? now_ms() + c->timeout_ms : 0;
    int rc = init(l, e);
    if (!rc)
        rc = compare(l, stop_ms, e);
    r->instructions = l->m[0].instructions;
    r->steps = l->steps;
    *focus = l->next_focus;
    fini(l);
    free(l);
    return rc;
}

int dp_lockstep_run(const struct dp_lockstep_config *config, struct dp_lockstep_result *r, struct dp_error *e)
{
    struct dp_lockstep_config c = *config;
    struct focus focus = {0}, closer_focus;
    c.memory = c.memory ? c.memory : MEMORY_DEFAULT;
    c.slice = c.slice ? c.slice : 1000;
    c.every = c.every ? c.every : EVERY_DEFAULT;
    c.ps = c.ps ? c.ps : 1000;
    *r = (struct dp_lockstep_result){0};
    int rc = run_once(&c, &focus, r, e);
    if (rc || r->end != DP_LOCKSTEP_DIVERGED || c.once)
        return rc;

    struct dp_lockstep_result closer = {0};
    focus.active = true;
    closer_focus = focus;
    rc = run_once(&c, &closer_focus, &closer, e);
    if (rc || closer.end != DP_LOCKSTEP_DIVERGED) {
        dp_buffer_printf(&r->report, "A second run from the start did not diverge between slices %" PRIu64 " and %" PRIu64 "%s%s.\n",
                         focus.first, focus.last, rc ? ": " : "", rc ? e->text : "");
        dp_buffer_fini(&closer.report);
        return 0;
    }
    dp_buffer_printf(&closer.report, "This was found by a second run; the first one said:\n");
    dp_buffer_append(&closer.report, r->report.data, r->report.size);
    dp_buffer_fini(&r->report);
    closer.undefined_flags = r->undefined_flags;
    *r = closer;
    return 0;
}
