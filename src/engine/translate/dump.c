/* engine/translate/dump.c - for who looks into the translator: names of generated code for perf(1), and each block beside its guest code.
 *
 * Model: one struct dump for a VM, made only when it was asked for. A block is described once, when it is translated: jumps that are linked
 * later and blocks that die are not shown, and an address of the code cache names different blocks after the cache was emptied. Host code
 * is read with the guest's own decoder; struct tctx, the common stubs and their constants are told by name.
 * Invariants: every processor writes, a whole block at a time, under the lock; what cannot be written (a full disk) is lost in silence, the
 * guest goes on. The perf map's format is that of the kernel's tools/perf/Documentation/jit-interface.txt: "START SIZE name", hexadecimal.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/translate/analyse.h"
#include "engine/translate/dump.h"

struct dump {
    pthread_mutex_t lock;
    int map, blocks; /* file descriptors, -1: not wanted */
};

/* In /tmp a name can be guessed: only a file of our own making is written to. */
static int open_map(struct dp_error *e)
{
    char path[64];
    snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
    unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0644);
    return fd >= 0 ? fd : dp_error_set(e, -errno, "--perf-map: cannot create %s: %s", path, strerror(errno));
}

int dump_open(const struct dp_engine_vm *vm, struct dump **out, struct dp_error *e)
{
    *out = NULL;
    if (!vm->perf_map && !vm->dump_path)
        return 0;
    struct dump *d = malloc(sizeof(*d));
    if (!d)
        return dp_error_set(e, -ENOMEM, "no memory for the translator");
    *d = (struct dump){.map = -1, .blocks = -1};
    pthread_mutex_init(&d->lock, NULL);
    int r = 0;
    if (vm->dump_path && (d->blocks = open(vm->dump_path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0644)) < 0)
        r = dp_error_set(e, -errno, "--dump-blocks: cannot create %s: %s", vm->dump_path, strerror(errno));
    if (!r && vm->perf_map && (d->map = open_map(e)) < 0)
        r = d->map;
    if (r) {
        dump_close(d);
        return r;
    }
    *out = d;
    return 0;
}

void dump_close(struct dump *d)
{
    if (!d)
        return;
    if (d->map >= 0)
        close(d->map);
    if (d->blocks >= 0)
        close(d->blocks);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static void write_out(struct dump *d, int fd, struct dp_buffer *b)
{
    pthread_mutex_lock(&d->lock);
    for (size_t done = 0; !b->failed && done < b->size;) {
        ssize_t n = write(fd, b->data + done, b->size - done);
        if (n < 0 && errno != EINTR)
            break;
        done += n > 0 ? (size_t)n : 0;
    }
    pthread_mutex_unlock(&d->lock);
    dp_buffer_fini(b);
}

void dump_mode(uint32_t mode, char *text, size_t size)
{
    static const char *const code[] = {[X86_MODE16] = "16", [X86_MODE32] = "32", [X86_MODE64] = "64"};
    snprintf(text, size, "%s-cpl%u%s", code[mode & IMODE_CODE], mode >> IMODE_CPL_SHIFT & 3, mode & MODE_UNGROUPED ? "-ungrouped" : "");
}

/* ---- names ---- */

struct stub { uint64_t at; const char *name; };
enum { STUBS = 10 };

/* In order of address; the last is where they end. */
static void stubs_of(const struct tcpu *t, struct stub s[STUBS])
{
    const struct stub all[STUBS] = {
        {t->stub_enter, "enter"}, {t->stub_kick, "kick"}, {t->stub_leave, "leave"}, {t->stub_stale, "stale"}, {t->stub_lookup, "lookup"},
        {t->stub_link, "link"}, {t->stub_slow, "slow"}, {t->stub_far, "far"}, {t->stub_helper, "helper"},
        {(uint64_t)(uintptr_t)t->rx + t->first, NULL},
    };
    unsigned n = 0;
    for (unsigned k = 0; k < STUBS; k++) {
        if (!all[k].at)
            continue;
        unsigned at = n++;
        for (; at && s[at - 1].at > all[k].at; at--)
            s[at] = s[at - 1];
        s[at] = all[k];
    }
    for (; n < STUBS; n++)
        s[n] = (struct stub){0};
}

void dump_stubs(struct tcpu *t)
{
    struct dump *d = t->v->dump;
    if (!d || d->map < 0)
        return;
    struct stub s[STUBS];
    struct dp_buffer b = {0};
    stubs_of(t, s);
    for (unsigned k = 0; k + 1 < STUBS && s[k].name; k++)
        dp_buffer_printf(&b, "%" PRIx64 " %" PRIx64 " doppel:stub-%s[cpu%u]\n", s[k].at, s[k + 1].at - s[k].at, s[k].name, t->c->index);
    write_out(d, d->map, &b);
}

static const char *context_name(uint64_t offset)
{
    static const struct { uint16_t at; const char *name; } fields[] = {
#define F(field) {offsetof(struct tctx, field), #field}
        F(r13), F(r14), F(r15), F(page), F(segbase[0]), F(segbase[1]), F(kernel_gs_base), F(system_flags), F(go), F(undo), F(found),
        F(save_rsp), F(save_r14), F(save_r15), F(rip), F(flags), F(host_rsp), F(c), F(record), F(site), F(reason), F(adjust), F(x87_live),
        F(x87_seg), F(x87_fdp), F(x87_page), F(x87_fcs), F(helper), F(op), F(gs), F(other_table),
#undef F
    };
    for (unsigned k = 0; k < DP_ARRAY_LEN(fields); k++)
        if (fields[k].at == offset)
            return fields[k].name;
    return offset - offsetof(struct tctx, delta) < sizeof(((struct tctx *)0)->delta) ? "delta[]" : NULL;
}

/* What a host instruction at pc means to us; put behind a semicolon. */
static void annotate(struct dp_buffer *b, const struct tcpu *t, const struct tblock *block, const struct x86_insn *i, uint64_t pc)
{
    uint64_t next = pc + i->length, block_at = (uint64_t)(uintptr_t)t->rx + block->code;
    if (i->operand_count && i->operand[0].kind == X86_REL) {
        struct stub s[STUBS];
        uint64_t to = next + i->imm;
        stubs_of(t, s);
        for (unsigned k = 0; k < STUBS && s[k].name; k++)
            if (s[k].at == to)
                dp_buffer_printf(b, "  ; stub %s", s[k].name);
        if (to - block_at < block->size)
            dp_buffer_printf(b, "  ; +%" PRIx64, to - block_at);
        return;
    }
    for (unsigned k = 0; k < i->operand_count; k++) {
        if (i->operand[k].kind != X86_MEM || i->op == X86_OP_LEA)
            continue;
        uint64_t constant = (next + (uint64_t)i->disp - t->constants) / 8;
        const char *field = i->seg == X86_FS ? context_name((uint64_t)i->disp - (uint64_t)ctx_offset()) : NULL;
        if (field)
            dp_buffer_printf(b, "  ; tctx.%s", field);
        else if (i->seg == X86_GS)
            dp_buffer_printf(b, "  ; %s", !i->disp ? "shadow page table" : i->disp < -(int64_t)JUMP_BYTES ? "link cell" : "jump cache");
        else if (i->base == X86_RIP && constant < CONSTANT_SLOT)
            dp_buffer_printf(b, "  ; %s index", constant == CONSTANT_PAGE ? "page" : "jump cache");
        else if (i->base == X86_RIP && constant < CONSTANT_SLOT + 12)
            dp_buffer_printf(b, "  ; place in the page, in units of %u", 1u << (constant - CONSTANT_SLOT));
        return;
    }
}

/* ---- blocks ---- */

static void host_code(struct dp_buffer *b, const struct tcpu *t, const struct tblock *block, unsigned from, unsigned to)
{
    const uint8_t *code = t->rw + block->code;
    while (from < to) {
        struct x86_insn i;
        uint64_t pc = (uint64_t)(uintptr_t)t->rx + block->code + from;
        int length = x86_decode(code + from, DP_MIN(to - from, 15u), X86_MODE64, &i);
        if (length <= 0) { /* cannot be, unless the decoder knows less than the emitter */
            dp_buffer_printf(b, "        +%03x  .byte %02x\n", from, code[from]);
            from++;
            continue;
        }
        char text[160];
        x86_print_insn(&i, pc, text, sizeof(text));
        dp_buffer_printf(b, "        +%03x  %s", from, text);
        annotate(b, t, block, &i, pc);
        dp_buffer_printf(b, "\n");
        from += (unsigned)length;
    }
}

void dump_block(struct tcpu *t, const struct tblock *block, const struct path *p, uint64_t linear)
{
    struct dump *d = t->v->dump;
    uint64_t host = (uint64_t)(uintptr_t)t->rx + block->code;
    char mode[40], text[160];
    if (!d)
        return;
    dump_mode(block->mode, mode, sizeof(mode));
    if (d->map >= 0) {
        struct dp_buffer b = {0};
        dp_buffer_printf(&b, "%" PRIx64 " %x doppel:%" PRIx64 "[%s]\n", host, block->size, linear, mode);
        write_out(d, d->map, &b);
    }
    if (d->blocks < 0)
        return;
    struct dp_buffer b = {0};
    dp_buffer_printf(&b, "block %016" PRIx64 " %s cpu%u: %u instructions, host code at %" PRIx64 ", %u bytes + %u of slow paths\n", linear,
                     mode, t->c->index, block->count, host, block->body, block->size - block->body);
    for (unsigned k = 0; k < block->count; k++) {
        const struct insn_info *n = &p->insn[k];
        uint64_t rip = (linear & PAGE_MASK) + n->offset;
        x86_print_insn(&n->i, rip, text, sizeof(text));
        dp_buffer_printf(&b, "  %016" PRIx64 "  %s\n", rip, text);
        host_code(&b, t, block, block->insn[k].host, block->insn[k + 1].host);
    }
    if (block->insn[block->count].host < block->body) {
        dp_buffer_printf(&b, "  %016" PRIx64 "  (what follows)\n", (uint64_t)(linear & PAGE_MASK) + block->end);
        host_code(&b, t, block, block->insn[block->count].host, block->body);
    }
    if (block->body < block->size) {
        dp_buffer_printf(&b, "  rarely taken\n");
        host_code(&b, t, block, block->body, block->size);
    }
    dp_buffer_printf(&b, "\n");
    write_out(d, d->blocks, &b);
}
