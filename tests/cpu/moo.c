/* moo.c - moo-run ENGINE [FOLDER-OR-FILE...]: single instructions as a real processor executed them, from SingleStepTests' files (.MOO or
 * .MOO.gz).
 *
 * Model: each test gives registers and bytes of memory before and after one instruction in real mode. It is run with a budget of one, so
 * that it ends after the instruction or with the delivery of its exception, and all registers, the flags that are defined, and all bytes
 * named are compared; every 256 tests the rest of memory must be as it was. The processor that gave the vectors is an 80286; what it has
 * otherwise than its successors is in left_out(), with a reason, and counted. Undefined flags are not compared: undefined_flags(), after
 * the instruction pages of the Intel SDM, vol. 2.
 * Format: github.com/dbalsom/moo: chunks of four letters and a length; TEST holds NAME, BYTS, INIT and FINA (with REGS and RAM), EXCP.
 * DOPPEL_MOO names the folder when no path is given; without it this ends with 77. Where to get the files: docs/conformance.md.
 */
#include <dirent.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rig.h"

enum { AX, BX, CX, DX, CS, SS, DS, ES, SP, BP, SI, DI, IP, FLAGS, REGS };
static const char *const reg_names[REGS] = { "ax", "bx", "cx", "dx", "cs", "ss", "ds", "es", "sp", "bp", "si", "di", "ip", "flags" };

struct bytes { const uint8_t *at; uint32_t count; }; /* address (4 bytes), value */
struct vector {
    char name[64];
    const uint8_t *code;
    uint32_t code_size;
    uint16_t before[REGS], after[REGS];
    uint16_t named; /* which of `after` the file gives */
    struct bytes ram_before, ram_after;
    bool exception;
    uint8_t exception_number;
};
struct totals { unsigned long run, failed, left_out; };

/* ---- the files ---- */

/* gzip's output, or the file itself. */
static uint8_t *slurp(const char *path, size_t *size)
{
    int ends[2];
    size_t length = strlen(path), have = 0, room = 1 << 20;
    bool zipped = length > 3 && !strcmp(path + length - 3, ".gz");
    pid_t child = 0;
    FILE *f;

    if (zipped) {
        if (pipe(ends) || (child = fork()) < 0)
            exit(2);
        if (!child) {
            dup2(ends[1], 1);
            close(ends[0]);
            execlp("gzip", "gzip", "-dc", path, (char *)NULL);
            _exit(127);
        }
        close(ends[1]);
    }
    f = zipped ? fdopen(ends[0], "rb") : fopen(path, "rb");
    uint8_t *data = malloc(room);
    for (size_t n; f && data && (n = fread(data + have, 1, room - have, f)) > 0;) {
        have += n;
        if (have == room)
            data = realloc(data, room *= 2);
    }
    if (!f || !data) {
        fprintf(stderr, "moo-run: cannot read %s\n", path);
        exit(2);
    }
    fclose(f);
    if (zipped)
        waitpid(child, NULL, 0);
    *size = have;
    return data;
}

static void read_regs(const uint8_t *p, const uint8_t *end, uint16_t *regs, uint16_t *named)
{
    uint16_t mask = end - p >= 2 ? dp_ld16(p) : 0;
    p += 2;
    *named = 0;
    for (unsigned i = 0; i < REGS && end - p >= 2; i++)
        if (mask >> i & 1) {
            regs[i] = dp_ld16(p);
            *named |= (uint16_t)(1u << i);
            p += 2;
        }
}
static void read_state(const uint8_t *p, const uint8_t *end, uint16_t *regs, uint16_t *named, struct bytes *ram)
{
    while (end - p >= 8) {
        uint32_t size = dp_ld32(p + 4);
        const uint8_t *body = p + 8;
        if (size > (size_t)(end - body))
            return;
        if (!memcmp(p, "REGS", 4))
            read_regs(body, body + size, regs, named);
        else if (!memcmp(p, "RAM ", 4) && size >= 4)
            *ram = (struct bytes){ body + 4, DP_MIN(dp_ld32(body), (size - 4) / 5) };
        p = body + size;
    }
}
static void read_vector(const uint8_t *p, const uint8_t *end, struct vector *v)
{
    uint16_t all;
    memset(v, 0, sizeof *v);
    while (end - p >= 8) {
        uint32_t size = dp_ld32(p + 4);
        const uint8_t *body = p + 8;
        if (size > (size_t)(end - body))
            return;
        if (!memcmp(p, "NAME", 4) && size >= 4) {
            snprintf(v->name, sizeof v->name, "%.*s", (int)DP_MIN(size - 4, dp_ld32(body)), (const char *)body + 4);
        } else if (!memcmp(p, "BYTS", 4) && size >= 4) {
            v->code = body + 4;
            v->code_size = DP_MIN(dp_ld32(body), size - 4);
        } else if (!memcmp(p, "INIT", 4)) {
            read_state(body, body + size, v->before, &all, &v->ram_before);
        } else if (!memcmp(p, "FINA", 4)) {
            memcpy(v->after, v->before, sizeof v->after); /* INIT comes first; FINA has what changed */
            read_state(body, body + size, v->after, &v->named, &v->ram_after);
        } else if (!memcmp(p, "EXCP", 4) && size >= 5) {
            v->exception = true;
            v->exception_number = body[0];
        }
        p = body + size;
    }
}

/* ---- what is compared ---- */

struct shape { unsigned prefixes, opcode, reg; bool lock, rep, many; uint8_t next; };
static struct shape shape_of(const struct vector *v)
{
    struct shape s = { 0 };
    unsigned i = 0, segments = 0;
    for (; i < v->code_size; i++) {
        uint8_t b = v->code[i];
        if (b == 0xf0)
            s.lock = true;
        else if (b == 0xf2 || b == 0xf3)
            s.rep = true;
        else if (b == 0x26 || b == 0x2e || b == 0x36 || b == 0x3e)
            segments++;
        else
            break;
    }
    s.prefixes = i;
    s.many = segments > 1;
    s.opcode = i < v->code_size ? v->code[i] : 0;
    s.next = i + 1 < v->code_size ? v->code[i + 1] : 0;
    s.reg = s.next >> 3 & 7;
    return s;
}

/* Flags that the instruction leaves undefined. */
static uint16_t undefined_flags(const struct vector *v, const struct shape *s)
{
    enum { LOGIC = X86_AF, MUL = X86_SF | X86_ZF | X86_AF | X86_PF, ALL = X86_ARITH };
    unsigned op = s->opcode, count;

    if (op < 0x40 && (op & 7) < 6) /* OR, AND, XOR */
        return (op & 0x38) == 0x08 || (op & 0x38) == 0x20 || (op & 0x38) == 0x30 ? LOGIC : 0;
    switch (op) {
    case 0x27: case 0x2f: return X86_OF;
    case 0x37: case 0x3f: return X86_OF | X86_SF | X86_ZF | X86_PF;
    case 0x69: case 0x6b: return MUL;
    case 0x80: case 0x81: case 0x82: case 0x83: return s->reg == 1 || s->reg == 4 || s->reg == 6 ? LOGIC : 0;
    case 0x84: case 0x85: case 0xa8: case 0xa9: return LOGIC;
    case 0xd4: /* #DE too leaves flags undefined */
    case 0xd5: return X86_OF | X86_AF | X86_CF | (v->exception ? ALL : 0);
    case 0xf6: case 0xf7: return s->reg < 2 ? LOGIC : s->reg == 4 || s->reg == 5 ? MUL : s->reg > 5 ? ALL : 0;
    case 0xc0: case 0xc1: case 0xd0: case 0xd1: case 0xd2: case 0xd3:
        count = (op < 0xd0 ? v->code[v->code_size - 1] : op < 0xd2 ? 1 : v->before[CX]) & 31;
        if (op < 0xd0 && v->code_size > s->prefixes + 3) /* the immediate is followed by the HLT in some files */
            count = (v->code[v->code_size - 1] == 0xf4 ? v->code[v->code_size - 2] : v->code[v->code_size - 1]) & 31;
        if (!count)
            return 0;
        uint16_t f = count > 1 ? X86_OF : 0;
        if (s->reg >= 4)
            f |= X86_AF;
        if (s->reg >= 4 && s->reg != 7 && count >= (op & 1 ? 16 : 8))
            f |= X86_CF;
        return f;
    }
    return 0;
}

/* The offset of a memory operand; false when it is a register. */
static bool operand(const struct vector *v, const struct shape *s, uint16_t *offset)
{
    static const uint8_t base[8] = { BX, BX, BP, BP, SI, DI, BP, BX }, index[4] = { SI, DI, SI, DI };
    const uint8_t *p = v->code + s->prefixes + 2, *end = v->code + v->code_size;
    unsigned mod = s->next >> 6, rm = s->next & 7;

    if (mod == 3)
        return false;
    bool direct = mod == 0 && rm == 6;
    *offset = direct ? 0 : v->before[base[rm]];
    if (rm < 4)
        *offset += v->before[index[rm]];
    if (mod == 1 && end - p >= 1)
        *offset += (uint16_t)(int8_t)p[0];
    else if ((mod == 2 || direct) && end - p >= 2)
        *offset += dp_ld16(p);
    return true;
}

/* Why a vector says nothing about us, or NULL. */
static const char *left_out(const struct vector *v, const struct shape *s)
{
    if (s->lock)
        return "LOCK: the 80286 takes it before any instruction";
    if (v->code_size > 10 && v->exception)
        return "longer than ten bytes: the 80286 refuses it";
    if (v->exception && v->exception_number == X86_UD && s->opcode == 0x0f)
        return "an opcode of later processors";
    if ((s->opcode == 0x8c || s->opcode == 0x8e) && (s->reg == 4 || s->reg == 5))
        return "FS and GS";
    if (s->opcode == 0x8f && v->exception)
        return "the 80286 faults with SP already moved";
    if (s->opcode == 0xc7 && s->reg && v->exception_number == X86_GP)
        return "longer than ten bytes: the 80286 refuses it";
    if (s->opcode == 0xf6 && s->reg == 7 && !v->exception && (v->after[AX] & 0xff) == 0x80)
        return "the 80286 lets some quotients that are too small pass as -128";
    if (v->exception && v->before[SS] != v->before[CS])
        for (uint32_t i = 0; i + 1 < v->ram_after.count; i++)
            if (dp_ld32(v->ram_after.at + 5 * i) == ((uint32_t)v->after[SS] << 4) + (uint16_t)(v->after[SP] + 2) &&
                v->ram_after.at[5 * i + 4] == (uint8_t)v->before[SS] && v->ram_after.at[5 * i + 9] == v->before[SS] >> 8)
                return "a slip of the capture: SS where CS was pushed";
    uint16_t offset;
    bool two_words = s->opcode == 0x62 || s->opcode == 0xc4 || s->opcode == 0xc5 || (s->opcode & 0xf8) == 0xd8 ||
                     (s->opcode == 0xff && (s->reg == 3 || s->reg == 5));
    if (two_words && operand(v, s, &offset) && offset > 0xfffc)
        return "the 80286 lets the second word of an operand wrap";
    return NULL;
}

/* ---- running ---- */

static uint32_t moo_in(struct rig *g, unsigned port, unsigned size) { return ~0u; } /* the bus floats high */

static void poke(struct rig *g, const struct bytes *b, bool zero)
{
    for (uint32_t i = 0; i < b->count; i++) {
        uint32_t at = dp_ld32(b->at + 5 * i);
        uint8_t value = zero ? 0 : b->at[5 * i + 4];
        if (at < RIG_RAM)
            dp_space_write(g->memory, at, &value, 1);
    }
}

static const uint8_t map_regs[] = { X86_RAX, X86_RBX, X86_RCX, X86_RDX, 0, 0, 0, 0, X86_RSP, X86_RBP, X86_RSI, X86_RDI, X86_RIP };
static const uint8_t map_segs[] = { [CS] = X86_CS, [SS] = X86_SS, [DS] = X86_DS, [ES] = X86_ES };

static void set_state(struct x86_state *s, const struct vector *v)
{
    x86_state_reset(s, true);
    for (unsigned i = 0; i < FLAGS; i++)
        if (i >= CS && i <= ES) {
            struct x86_seg *g = &s->seg[map_segs[i]];
            *g = (struct x86_seg){ .sel = v->before[i], .attr = i == CS ? 0x9b : 0x93, .limit = 0xffff };
            g->base = (uint64_t)v->before[i] << 4;
        } else {
            s->r[map_regs[i]] = v->before[i];
        }
    s->idtr.base = 0, s->idtr.limit = 0x3ff;
    s->rflags = (v->before[FLAGS] & 0x0fd5) | 2;
}
static uint16_t get(const struct x86_state *s, unsigned i)
{
    return i == FLAGS ? (uint16_t)s->rflags : i >= CS && i <= ES ? s->seg[map_segs[i]].sel : (uint16_t)s->r[map_regs[i]];
}

/* True: as the processor did it. Otherwise *text says what is not. */
static bool run_vector(struct rig *g, const struct vector *v, const struct shape *shape, struct dp_buffer *text)
{
    struct x86_state s;
    struct dp_exit exit = { 0 };
    uint16_t ignore = undefined_flags(v, shape);
    bool good = true, strings = shape->opcode >= 0x6c && shape->opcode <= 0x6f;
    strings |= shape->opcode >= 0xa4 && shape->opcode <= 0xaf && shape->opcode != 0xa8 && shape->opcode != 0xa9;
    uint32_t flags = ((uint32_t)v->after[SS] << 4) + (uint16_t)(v->after[SP] + 4); /* of the exception's frame */

    poke(g, &v->ram_before, false);
    /* A stack access beyond the limit is #SS since the 80386, and was #GP. */
    if (v->exception && v->exception_number == X86_GP)
        dp_space_write(g->memory, X86_SS_ * 4, g->ram->host + X86_GP * 4, 4);
    set_state(&s, v);
    g->engine->push(g->cpu, &s);
    g->engine->run(g->cpu, 1, &exit);
    g->engine->pull(g->cpu, &s);
    if (exit.kind != DP_EXIT_BUDGET && !(exit.kind == DP_EXIT_HALT && shape->opcode == 0xf4)) {
        dp_buffer_printf(text, " exit %d", exit.kind);
        good = false;
    }
    dp_buffer_fini(&exit.text);
    for (unsigned i = 0; i < REGS; i++) {
        uint16_t got = get(&s, i), want = v->after[i];
        if ((i == SI || i == DI || i == CX) && strings && v->exception)
            continue; /* the 80286 moves them before it faults */
        if (i == IP && shape->opcode != 0xf4)
            want--; /* theirs is after a HLT that ends the test */
        if (i == FLAGS) /* the 80286 has no IOPL and NT in real mode */
            got = (got & ~ignore & 0x0fff) | 2, want = (want & ~ignore & 0x0fff) | 2;
        if (got != want) {
            dp_buffer_printf(text, " %s %04x, want %04x", reg_names[i], got, want);
            good = false;
        }
    }
    for (uint32_t i = 0; i < v->ram_after.count; i++) {
        uint32_t at = dp_ld32(v->ram_after.at + 5 * i);
        uint8_t got = at < RIG_RAM ? g->ram->host[at] : 0, want = v->ram_after.at[5 * i + 4], mask = 0xff;
        if (v->exception && at == flags)
            mask = (uint8_t)~ignore;
        else if (v->exception && at == flags + 1)
            mask = (uint8_t)(~ignore >> 8) & 0x0f;
        if ((got ^ want) & mask) {
            dp_buffer_printf(text, " [%06x] %02x, want %02x", at, got, want);
            good = false;
        }
    }
    /* What is not named after is as before. */
    poke(g, &v->ram_before, true);
    poke(g, &v->ram_after, true);
    dp_space_write(g->memory, X86_SS_ * 4, "\0\0\0", 4);
    return good;
}

static void run_file(struct rig *g, const char *path, struct totals *sum)
{
    size_t size;
    uint8_t *data = slurp(path, &size), *p, *end = data + size;
    struct totals t = { 0 };
    struct vector v;
    unsigned stray = 0;
    const char *base = strrchr(path, '/'), *why = "";

    if (size < 8 || memcmp(data, "MOO ", 4)) {
        fprintf(stderr, "moo-run: %s: not a MOO file\n", path);
        exit(2);
    }
    for (p = data; end - p >= 8;) {
        uint32_t length = dp_ld32(p + 4);
        const uint8_t *body = p + 8;
        if (length > (size_t)(end - body))
            break;
        if (!memcmp(p, "TEST", 4) && length >= 4) {
            struct dp_buffer text = { 0 };
            read_vector(body + 4, body + length, &v);
            struct shape shape = shape_of(&v);
            const char *out = left_out(&v, &shape);
            if (out) {
                t.left_out++;
                why = out;
            } else {
                t.run++;
                if (!run_vector(g, &v, &shape, &text) && t.failed++ < 3) {
                    printf("  ");
                    for (unsigned i = 0; i < v.code_size; i++)
                        printf("%02x", v.code[i]);
                    printf(" %s", v.name);
                    if (v.exception)
                        printf(" (exception %u)", v.exception_number);
                    printf(":%.*s\n", (int)text.size, (const char *)text.data);
                }
                if (t.run % 256 == 0) {
                    for (size_t i = 0; i < RIG_RAM; i += 8)
                        if (dp_ld64(g->ram->host + i)) {
                            stray++;
                            memset(g->ram->host + i, 0, 8);
                        }
                }
            }
            dp_buffer_fini(&text);
        }
        p = (uint8_t *)body + length;
    }
    if (stray) {
        printf("  %u words of memory were written that no test names\n", stray);
        t.failed++;
    }
    printf("%-14s %6lu run, %lu failed, %lu left out%s%s\n", base ? base + 1 : path, t.run, t.failed, t.left_out,
           t.left_out ? "; last: " : "", why);
    fflush(stdout);
    sum->run += t.run;
    sum->failed += t.failed;
    sum->left_out += t.left_out;
    free(data);
}

static int is_moo(const struct dirent *d) { return strstr(d->d_name, ".MOO") != NULL; }

static void run_path(struct rig *g, const char *path, struct totals *sum)
{
    struct dirent **list;
    char file[4096];
    int n = scandir(path, &list, is_moo, alphasort);

    if (n < 0) {
        run_file(g, path, sum);
        return;
    }
    for (int i = 0; i < n; i++) {
        snprintf(file, sizeof file, "%s/%s", path, list[i]->d_name);
        run_file(g, file, sum);
        free(list[i]);
    }
    free(list);
}

int main(int argc, char **argv)
{
    const char *folder = getenv("DOPPEL_MOO");
    struct rig g = { .in = moo_in };
    struct totals sum = { 0 };

    if (argc < 3 && !folder) {
        printf("moo-run: NOT RUN: no vectors. Fetch SingleStepTests/80286 (docs/conformance.md) and set DOPPEL_MOO to its v1_real_mode.\n");
        return 77;
    }
    rig_init(&g, argc > 1 ? argv[1] : "interp");
    if (argc < 3)
        run_path(&g, folder, &sum);
    for (int i = 2; i < argc; i++)
        run_path(&g, argv[i], &sum);
    printf("%lu run, %lu failed, %lu left out\n", sum.run, sum.failed, sum.left_out);
    rig_fini(&g);
    return sum.failed || !sum.run;
}
