/* program.c - programs as data: assembling, the flags the manuals leave undefined, printing. */
#include "program.h"

bool prog_assemble(const struct program *p, struct prog_image *image, uint16_t at[PROG_MAX_INSNS + 1])
{
    unsigned size = 0;
    for (unsigned i = 0; i < p->count; i++)
        at[i] = (uint16_t)size, size += p->insn[i].length;
    at[p->count] = (uint16_t)size;
    if (size > PROG_MAX_CODE || p->code_offset + size > CPU_CODE_SIZE)
        return false;
    image->mode = p->mode, image->code_offset = p->code_offset, image->code_size = size;
    image->in = p->in;
    image->in.rip = CPU_CODE + p->code_offset;
    memcpy(image->memory, p->memory, sizeof image->memory);
    for (unsigned i = 0; i < p->count; i++) {
        const struct prog_insn *k = &p->insn[i];
        uint8_t *bytes = image->code + at[i], *fix = bytes + k->fix_at;
        memcpy(bytes, k->bytes, k->length);
        uint64_t next = image->in.rip + at[i] + k->length, target = image->in.rip + at[DP_MIN(k->target, (int16_t)p->count)];
        int64_t distance = (int64_t)(target - next);
        switch (k->fix) {
        case PROG_FIX_REL8:
            if (distance != (int8_t)distance)
                return false;
            *fix = (uint8_t)distance;
            break;
        case PROG_FIX_REL32:
            dp_st32(fix, (uint32_t)distance);
            break;
        case PROG_FIX_ABS32:
            dp_st32(fix, (uint32_t)target);
            break;
        case PROG_FIX_ABS64:
            dp_st64(fix, target);
            break;
        case PROG_FIX_RIP:
            dp_st32(fix, (uint32_t)((k->target >= 0 ? target : k->linear) - next));
            break;
        }
    }
    unsigned word = p->mode == X86_MODE64 ? 8 : 4;
    for (unsigned i = 0; i < p->table_count; i++) {
        uint64_t v = image->in.rip + at[DP_MIN(p->table[i], (int16_t)p->count)];
        memcpy(image->memory + prog_page[PROG_OWN].frame * 4096 + PROG_OWN_TABLE + i * word, &v, word);
    }
    return true;
}

/* SDM vol. 2: shifts and rotates by 0 leave all flags; OF is defined for a count of 1, AF never after shifts, CF of SHL and SHR not when an
 * 8- or 16-bit operand is shifted by more than its size. */
uint32_t prog_undefined_after(const struct x86_insn *i, uint32_t before)
{
    const struct x86_operand *by = i->operand_count ? &i->operand[i->operand_count - 1] : NULL;
    bool constant = by && by->kind == X86_IMM;
    unsigned count = constant ? (unsigned)i->imm & (i->operand[0].size == 8 ? 63 : 31) : 2;
    uint32_t small = i->operand_count && i->operand[0].size < 4 && count > 1 ? X86_CF : 0;
    switch (i->op) {
    case X86_OP_SHL:
    case X86_OP_SHR:
    case X86_OP_SAR:
        if (constant && count)
            before = 0;
        return !count ? before : before | X86_AF | (count != 1 ? X86_OF : 0) | (i->op == X86_OP_SAR ? 0 : small);
    case X86_OP_SHLD:
    case X86_OP_SHRD:
        if (constant && count)
            before = 0;
        return !count ? before : before | X86_AF | (count != 1 ? X86_OF : 0) | small;
    case X86_OP_ROL:
    case X86_OP_ROR:
    case X86_OP_RCL:
    case X86_OP_RCR:
        if (constant && count)
            before &= ~(uint32_t)X86_CF;
        return !count ? before : count == 1 ? before & ~(uint32_t)X86_OF : before | X86_OF;
    default:
        if (!cpu_flags_may_stay(i))
            before &= ~i->row->flags_written;
        return before | i->row->flags_undefined;
    }
}

bool prog_check(const struct program *p, const struct prog_image *image, const uint16_t at[], uint32_t undefined[PROG_MAX_INSNS])
{
    bool label[PROG_MAX_INSNS + 1] = {false};
    for (unsigned i = 0; i < p->count; i++)
        if (p->insn[i].fix != PROG_FIX_NONE && p->insn[i].target >= 0)
            label[DP_MIN(p->insn[i].target, (int16_t)p->count)] = true;
    for (unsigned i = 0; i < p->table_count; i++)
        label[DP_MIN(p->table[i], (int16_t)p->count)] = true;
    uint32_t now = 0;
    for (unsigned i = 0; i < p->count; i++) {
        struct x86_insn insn;
        undefined[i] = now;
        if (now && label[i])
            return false;
        if (x86_decode(image->code + at[i], p->insn[i].length, p->mode, &insn) != p->insn[i].length)
            return false;
        if (insn.row->flags_read & now)
            return false;
        bool branch = insn.row->flags & X86_F_BRANCH && insn.op != X86_OP_INT3 && insn.op != X86_OP_UD2;
        if (now && branch)
            return false;
        now = insn.op == X86_OP_INT3 || insn.op == X86_OP_JMP || insn.op == X86_OP_RET ? 0 : prog_undefined_after(&insn, now);
    }
    return true;
}

/* Backwards over the control flow; what cannot be followed reads everything. */
void prog_live(const struct program *p, const struct prog_image *image, const uint16_t at[], uint32_t live[PROG_MAX_INSNS + 1])
{
    memset(live, 0, (p->count + 1u) * sizeof live[0]);
    live[p->count] = X86_ARITH;
    for (bool changed = true; changed;) {
        changed = false;
        for (unsigned i = p->count; i-- > 0;) {
            struct x86_insn insn;
            uint32_t after = live[i + 1], in = X86_ARITH;
            if (x86_decode(image->code + at[i], p->insn[i].length, p->mode, &insn) > 0 && insn.op != X86_OP_INT3 && insn.op != X86_OP_UD2) {
                bool branch = insn.row->flags & X86_F_BRANCH, direct = p->insn[i].fix == PROG_FIX_REL8 || p->insn[i].fix == PROG_FIX_REL32;
                if (branch && direct && insn.op != X86_OP_CALL)
                    after = (insn.op == X86_OP_JMP ? 0 : after) | live[DP_MIN(p->insn[i].target, (int16_t)p->count)];
                else if (branch)
                    after = X86_ARITH;
                uint32_t written = cpu_flags_may_stay(&insn) ? 0 : insn.row->flags_written | insn.row->flags_undefined;
                in = (insn.row->flags_read | (after & ~written)) & X86_ARITH;
            }
            changed |= in != live[i];
            live[i] = in;
        }
    }
}

static const char *const reg_name[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                         "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

void prog_describe(const struct program *p, struct dp_buffer *out)
{
    static struct prog_image image;
    uint16_t at[PROG_MAX_INSNS + 1];
    dp_buffer_printf(out, "--seed %llu --mode %s --index %llu (cut down to %u instructions)\n", (unsigned long long)p->seed,
                     p->mode == X86_MODE64 ? "64" : "32", (unsigned long long)p->index, p->count);
    if (!prog_assemble(p, &image, at))
        return;
    bool vector = false, x87 = false;
    for (unsigned i = 0; i < p->count; i++) {
        struct x86_insn insn;
        char text[160] = "(undefined)";
        if (x86_decode(image.code + at[i], p->insn[i].length, p->mode, &insn) > 0) {
            x86_print_insn(&insn, image.in.rip + at[i], text, sizeof text);
            vector |= (insn.row->flags & (X86_F_SSE | X86_F_VEX)) != 0;
            x87 |= (insn.row->flags & (X86_F_X87 | X86_F_X87NW | X86_F_MMX)) != 0;
        }
        dp_buffer_printf(out, "  %#llx: ", (unsigned long long)image.in.rip + at[i]);
        for (unsigned k = 0; k < 15; k++)
            if (k < p->insn[i].length)
                dp_buffer_printf(out, "%02x", image.code[at[i] + k]);
            else if (k < 11)
                dp_buffer_printf(out, "  ");
        dp_buffer_printf(out, " %s\n", text);
    }
    for (unsigned i = 0; i < (p->mode == X86_MODE64 ? 16u : 8u); i++)
        dp_buffer_printf(out, "  %-3s %016llx%s", reg_name[i], (unsigned long long)p->in.r[i], i % 4 == 3 ? "\n" : "");
    dp_buffer_printf(out, "  rflags %llx; fs %x (%llx) gs %x (%llx)\n", (unsigned long long)p->in.rflags, p->in.seg[X86_FS],
                     (unsigned long long)p->in.fs_base, p->in.seg[X86_GS], (unsigned long long)p->in.gs_base);
    const uint8_t *fx = p->in.fx;
    if (vector || x87)
        dp_buffer_printf(out, "  fcw %04x fsw %04x ftw %02x mxcsr %08x\n", dp_ld16(fx + FX_FCW), dp_ld16(fx + FX_FSW), fx[FX_FTW],
                         dp_ld32(fx + FX_MXCSR));
    for (unsigned k = 0; x87 && k < 8; k++)
        dp_buffer_printf(out, "  st%u %04x %016llx%s", k, dp_ld16(fx + FX_ST + k * 16 + 8),
                         (unsigned long long)dp_ld64(fx + FX_ST + k * 16), k % 4 == 3 ? "\n" : "");
    for (unsigned k = 0; vector && k < 16; k++)
        dp_buffer_printf(out, "  ymm%-2u %016llx%016llx:%016llx%016llx\n", k, (unsigned long long)dp_ld64(p->in.ymm_high[k] + 8),
                         (unsigned long long)dp_ld64(p->in.ymm_high[k]), (unsigned long long)dp_ld64(fx + FX_XMM + k * 16 + 8),
                         (unsigned long long)dp_ld64(fx + FX_XMM + k * 16));
}
