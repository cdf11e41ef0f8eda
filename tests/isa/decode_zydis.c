/* decode_zydis.c - the decoder against Zydis: every opcode of every map under the prefixes that matter, and random bytes.
 *
 * Compared for each instruction: length, operand kinds, registers, sizes, accesses, memory operand (segment, base, index, scale,
 * displacement), immediates, EFLAGS read, written and undefined. A difference is a failure unless meant[] names it and gives the reason.
 */
#include <Zydis/Zydis.h>

#include "isa/x86/x86.h"
#include "tests/isa/decode_zydis.h"

struct comparer {
    ZydisDecoder decoder[3];
    struct decode_report *report;
};

static const char *text_of(const uint8_t *bytes, char out[48])
{
    for (int i = 0; i < 15; i++)
        snprintf(out + i * 3, 4, "%02x ", bytes[i]);
    return out;
}

/* Instruction sets we do not decode: decode_table.c's head names them. */
static bool foreign(const ZydisDecodedInstruction *z)
{
    static const char *const sets[] = {
        "AMD3DNOW", "AMD_INVLPGB", "AMX_BF16", "AMX_INT8", "AMX_TILE", "AVX512BW_KOP", "AVX512DQ_KOP", "AVX512F_KOP", "AVX_GFNI",
        "AVX_VNNI", "CET", "CLZERO", "ENQCMD", "FMA4", "GFNI", "HRESET", "KEYLOCKER", "KEYLOCKER_WIDE", "KNCE", "KNCJKBR", "KNCV",
        "MCOMMIT", "MONITORX", "MOVDIR", "PADLOCK_ACE", "PADLOCK_PHE", "PADLOCK_PMM", "PADLOCK_RNG", "PCONFIG", "PKU", "PT", "RDPRU", "RTM",
        "SERIALIZE", "SGX", "SGX_ENCLV", "SMX", "SNP", "SSE4A", "SVM", "TBM", "TDX", "TSX_LDTRK", "UINTR", "VAES", "VMFUNC", "VPCLMULQDQ",
        "VTX", "WAITPKG", "XOP",
    };
    const char *set = ZydisISASetGetString(z->meta.isa_set);
    for (unsigned i = 0; i < DP_ARRAY_LEN(sets); i++)
        if (!strcmp(sets[i], set))
            return true;
    return z->encoding == ZYDIS_INSTRUCTION_ENCODING_EVEX || z->encoding == ZYDIS_INSTRUCTION_ENCODING_MVEX;
}

/* Differences that are meant: what is compared, of which instructions, and why ours stays as it is. */
static const struct { const char *what, *mnemonics, *why; } meant[] = {
    { "flags written", "shl shr sar rol ror rcl rcr shld shrd",
        "OF is both written and undefined, by the count (insn.h); Zydis knows one of them" },
    { "flags undefined", "shl shr sar rol ror rcl rcr shld shrd", "the same" },
    { "flags written", "sbb", "SBB sets AF (SDM); Zydis calls it undefined" },
    { "flags undefined", "sbb", "the same" },
    { "flags written", "vptest vtestps vtestpd", "they clear OF, SF, AF and PF (SDM)" },
    { "flags written", "bextr", "it clears CF and OF (SDM)" },
    { "flags undefined", "bextr", "the same" },
    { "flags written", "vmcall", "Zydis means VMXON's error flags; a hypercall changes none" },
    { "flags read", "cmpsb cmpsw cmpsd cmpsq scasb scasw scasd scasq", "REPE and REPNE test the ZF of their own comparison" },
    { "flags read", "syscall", "it saves RFLAGS in R11" },
    { "access", "movsb movsw movsd movsq stosb stosw stosd stosq insb insw insd insq",
        "REP may write nothing; each element is written, not read" },
    { "access", "bsf bsr", "the destination stays when the source is 0" },
    { "access", "cvtsi2ss cvtsi2sd", "partly written vector registers keep the rest (insn.h)" },
    { "access", "nop invlpg clflush clflushopt clwb prefetch prefetchw prefetchwt1 prefetchnta prefetcht0 prefetcht1 prefetcht2 ffree "
      "ffreep", "only an address or name" },
    { "operand size of memory",
      "lea invlpg sgdt sidt lgdt lidt fldenv fnstenv frstor fnsave fxsave fxrstor xsave xrstor xsaveopt xsavec xsaves xrstors "
      "fxsave64 fxrstor64 xsave64 xrstor64 xsaveopt64 xsavec64 xsaves64 xrstors64", "memory of other shape has size 0" },
    { "operand size of memory", "prefetch prefetchw prefetchwt1 prefetchnta prefetcht0 prefetcht1 prefetcht2 clflush clflushopt clwb nop",
        "not accessed" },
    { "operand size of memory", "movsxd", "66 63 reads 16 bits by the SDM, 32 by AMD and Zydis" },
    { "displacement", "mov", "moffs is an address: zero-extended" },
    { "register", "lar lsl", "the selector has 16 bits" },
    { "register", "movmskps movmskpd", "32 bits are written whatever REX.W says" },
    { "register", "nop", "hint NOPs: Zydis shows ModRM.reg instead" },
    { "privilege", "lgdt", "Zydis forgot it" },
    { "privilege", "monitor mwait clac stac", "#UD, not #GP(0), outside CPL 0" },
    { "branch", "syscall sysret sysenter sysexit ud0 ud1 ud2 rsm int int1 int3 into iret iretd iretq hlt mwait",
        "they leave the straight path, too" },
    { "SIMD exceptions", "cvtpi2ps cvtps2pi cvttps2pi cvtpd2pi cvttpd2pi vcvtph2ps vcvtps2ph", "classes of their own in the SDM" },
    { "alignment", "movups movupd movdqu lddqu pcmpestrm pcmpestri pcmpistrm pcmpistri", "class 4, yet not checked" },
    { "alignment", "fxsave fxrstor fxsave64 fxrstor64 cmpxchg16b cvtpd2pi cvttpd2pi", "checked without being in class 1, 2 or 4" },
    { "operand size", "cmpxchg8b cmpxchg16b invpcid clwb clflushopt nop adcx adox rdpid", "operand_size plays no part" },
    { "operand size", "in out", "REX.W does not widen ports" },
    { "operand size", "syscall sysret", "66 plays no part" },
};

static bool is_meant(const char *what, const char *mnemonic)
{
    size_t n = strlen(mnemonic);
    for (unsigned i = 0; i < DP_ARRAY_LEN(meant); i++) {
        if (strcmp(meant[i].what, what))
            continue;
        for (const char *p = strstr(meant[i].mnemonics, mnemonic); p; p = strstr(p + 1, mnemonic))
            if ((p == meant[i].mnemonics || p[-1] == ' ') && (p[n] == ' ' || !p[n]))
                return true;
    }
    return false;
}

static void differ(struct comparer *c, enum x86_mode mode, const uint8_t *bytes, const char *what, const char *name, long ours, long theirs)
{
    struct decode_report *r = c->report;
    if (is_meant(what, name))
        return;
    char key[96];
    snprintf(key, sizeof(key), "%s: %s", name, what);
    for (unsigned i = 0; i < r->kinds; i++)
        if (!strcmp(r->kind[i].key, key)) {
            r->kind[i].count++;
            return;
        }
    if (r->kinds == DP_ARRAY_LEN(r->kind))
        return;
    char hex[48];
    struct decode_difference *d = &r->kind[r->kinds++];
    snprintf(d->key, sizeof(d->key), "%s", key);
    snprintf(d->example, sizeof(d->example), "mode %d: %s ours %lx Zydis %lx", mode == X86_MODE64 ? 64 : mode == X86_MODE32 ? 32 : 16,
        text_of(bytes, hex), ours, theirs);
    d->count = 1;
}

static bool same_register(const struct x86_operand *o, ZydisRegister reg)
{
    ZydisRegisterClass class = ZydisRegisterGetClass(reg);
    int id = ZydisRegisterGetId(reg);
    switch (o->reg_class) {
    case X86_RC_GPR8H: return reg == (ZydisRegister)(ZYDIS_REGISTER_AH + o->reg);
    case X86_RC_GPR:
        switch (o->size) {
        case 1: return (int)reg == (o->reg < 4 ? (int)ZYDIS_REGISTER_AL + o->reg : (int)ZYDIS_REGISTER_SPL + o->reg - 4);
        case 2: return class == ZYDIS_REGCLASS_GPR16 && id == o->reg;
        case 4: return class == ZYDIS_REGCLASS_GPR32 && id == o->reg;
        default: return class == ZYDIS_REGCLASS_GPR64 && id == o->reg;
        }
    case X86_RC_SEG: return class == ZYDIS_REGCLASS_SEGMENT && id == o->reg;
    case X86_RC_CR: return class == ZYDIS_REGCLASS_CONTROL && id == o->reg;
    case X86_RC_DR: return class == ZYDIS_REGCLASS_DEBUG && id == o->reg;
    case X86_RC_ST: return class == ZYDIS_REGCLASS_X87 && id == o->reg;
    case X86_RC_MMX: return class == ZYDIS_REGCLASS_MMX && id == o->reg;
    case X86_RC_XMM: return class == ZYDIS_REGCLASS_XMM && id == o->reg;
    default: return class == ZYDIS_REGCLASS_YMM && id == o->reg;
    }
}

static unsigned slot_of(ZydisRegister reg)
{
    if (reg == ZYDIS_REGISTER_NONE)
        return X86_ZERO;
    if (reg == ZYDIS_REGISTER_RIP || reg == ZYDIS_REGISTER_EIP)
        return X86_RIP;
    return ZydisRegisterGetId(reg);
}

static void compare_operands(struct comparer *c, enum x86_mode mode, const uint8_t *bytes, const struct x86_insn *i,
    const ZydisDecodedInstruction *z,
                             const ZydisDecodedOperand *zo)
{
    const char *name = ZydisMnemonicGetString(z->mnemonic);
    unsigned count = z->operand_count_visible;
    const struct x86_operand *ours[4];
    const ZydisDecodedOperand *theirs[4];
    if (count == i->operand_count) {
        for (unsigned n = 0; n < count; n++)
            ours[n] = &i->operand[n], theirs[n] = &zo[n];
    } else { /* one side shows operands that the other implies: only memory can be matched */
        unsigned n = 0;
        count = 0;
        for (unsigned k = 0; k < i->operand_count; k++) {
            if (i->operand[k].kind != X86_MEM)
                continue;
            unsigned reg = i->operand[k].reg;
            while (n < z->operand_count && (zo[n].type != ZYDIS_OPERAND_TYPE_MEMORY || (reg && slot_of(zo[n].mem.base) != reg)))
                n++;
            if (n == z->operand_count) {
                differ(c, mode, bytes, "no such memory operand", name, k, 0);
                continue;
            }
            ours[count] = &i->operand[k];
            theirs[count++] = &zo[n];
            n = i->operand[0].reg == X86_RDI || i->operand[0].reg == X86_RSI ? 0 : n + 1;
        }
    }
    for (unsigned n = 0; n < count; n++) {
        const struct x86_operand *o = ours[n];
        const ZydisDecodedOperand *q = theirs[n];
        ZydisOperandType want = o->kind == X86_REG ? ZYDIS_OPERAND_TYPE_REGISTER : o->kind == X86_MEM ? ZYDIS_OPERAND_TYPE_MEMORY
                              : o->kind == X86_FAR ? ZYDIS_OPERAND_TYPE_POINTER : ZYDIS_OPERAND_TYPE_IMMEDIATE;
        if (q->type != want) {
            differ(c, mode, bytes, "operand kind", name, o->kind, q->type);
            continue;
        }
        unsigned access = (q->actions & ZYDIS_OPERAND_ACTION_MASK_READ ? X86_READ : 0) |
                          (q->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE ? X86_WRITE : 0);
        if (q->actions & ZYDIS_OPERAND_ACTION_CONDWRITE)
            access |= X86_READ;
        if (q->type == ZYDIS_OPERAND_TYPE_MEMORY && q->mem.type == ZYDIS_MEMOP_TYPE_AGEN)
            access = 0;
        if (access != o->access)
            differ(c, mode, bytes, "access", name, o->access, access);
        switch (q->type) {
        case ZYDIS_OPERAND_TYPE_REGISTER:
            if (!same_register(o, q->reg.value))
                differ(c, mode, bytes, "register", name, o->reg_class << 8 | o->reg, q->reg.value);
            break;
        case ZYDIS_OPERAND_TYPE_MEMORY: {
            if (o->size * 8 != q->size)
                differ(c, mode, bytes, "operand size of memory", name, o->size, q->size / 8);
            unsigned base = o->reg ? o->reg : i->base, index = o->reg && !i->vex ? X86_ZERO : i->index,
            seg = o->reg == X86_RDI && i->row->flags & X86_F_REP ? X86_ES : i->seg;
            /* SIB base 5 with mod 0 is no base whatever REX.B says (the processor here agrees); Zydis makes it R13D and loses the
             * displacement */
            if (q->mem.base == ZYDIS_REGISTER_R13D && i->mod == 0)
                break;
            if (base != slot_of(q->mem.base))
                differ(c, mode, bytes, "base", name, base, slot_of(q->mem.base));
            if (index != slot_of(q->mem.index))
                differ(c, mode, bytes, "index", name, index, slot_of(q->mem.index));
            if ((q->mem.index ? 1u << i->scale : 0) != q->mem.scale)
                differ(c, mode, bytes, "scale", name, i->scale, q->mem.scale);
            if (q->mem.disp.value != i->disp)
                differ(c, mode, bytes, "displacement", name, i->disp, q->mem.disp.value);
            if (q->mem.type != ZYDIS_MEMOP_TYPE_AGEN && ZydisRegisterGetId(q->mem.segment) != (int)seg)
                differ(c, mode, bytes, "segment", name, seg, ZydisRegisterGetId(q->mem.segment));
            break;
        }
        case ZYDIS_OPERAND_TYPE_POINTER:
            if (q->ptr.segment != i->imm2 || q->ptr.offset != i->imm)
                differ(c, mode, bytes, "far pointer", name, i->imm, q->ptr.offset);
            break;
        default: {
            uint64_t mask = dp_mask_bytes(o->kind == X86_REL ? 8 : o->size),
            imm = n && i->operand[n - 1].kind == X86_IMM ? i->imm2 : i->imm;
            if ((q->imm.value.u & mask) != (imm & mask))
                differ(c, mode, bytes, "immediate", name, imm, q->imm.value.u);
        }
        }
    }
}

static void compare_flags(struct comparer *c, enum x86_mode mode, const uint8_t *bytes, const struct x86_insn *i,
    const ZydisDecodedInstruction *z)
{
    const char *name = ZydisMnemonicGetString(z->mnemonic);
    static const ZydisAccessedFlags none;
    const ZydisAccessedFlags *f = z->cpu_flags ? z->cpu_flags : &none;
    const uint32_t mask = X86_ARITH | X86_DF;
    uint32_t written = (f->modified | f->set_0 | f->set_1) & mask;
    if ((i->row->flags_read & mask) != (f->tested & mask))
        differ(c, mode, bytes, "flags read", name, i->row->flags_read & mask, f->tested & mask);
    if ((i->row->flags_written & mask) != written)
        differ(c, mode, bytes, "flags written", name, i->row->flags_written & mask, written);
    if ((i->row->flags_undefined & mask) != (f->undefined & mask))
        differ(c, mode, bytes, "flags undefined", name, i->row->flags_undefined & mask, f->undefined & mask);
}

/* What the row says of privilege, branches, alignment, SIMD exceptions and features. */
static void compare_row(struct comparer *c, enum x86_mode mode, const uint8_t *bytes, const struct x86_insn *i,
    const ZydisDecodedInstruction *z, const ZydisDecodedOperand *zo)
{
    const char *name = ZydisMnemonicGetString(z->mnemonic);
    uint32_t flags = i->row->flags;
    ZydisExceptionClass e = z->meta.exception_class;
    bool fp = e == ZYDIS_EXCEPTION_CLASS_SSE2 || e == ZYDIS_EXCEPTION_CLASS_SSE3 ||
              e == ZYDIS_EXCEPTION_CLASS_AVX2 || e == ZYDIS_EXCEPTION_CLASS_AVX3;
    bool memory16 = false;
    for (unsigned n = 0; n < z->operand_count_visible; n++)
        memory16 |= zo[n].type == ZYDIS_OPERAND_TYPE_MEMORY && zo[n].size >= 128;
    bool align = memory16 && (e == ZYDIS_EXCEPTION_CLASS_SSE1 || e == ZYDIS_EXCEPTION_CLASS_SSE2 ||
                              e == ZYDIS_EXCEPTION_CLASS_SSE4 || e == ZYDIS_EXCEPTION_CLASS_AVX1);
    if (!!(z->attributes & ZYDIS_ATTRIB_IS_PRIVILEGED) != !!(flags & X86_F_CPL0))
        differ(c, mode, bytes, "privilege", name, !!(flags & X86_F_CPL0), 0);
    if ((z->meta.branch_type != ZYDIS_BRANCH_TYPE_NONE) != !!(flags & X86_F_BRANCH))
        differ(c, mode, bytes, "branch", name, !!(flags & X86_F_BRANCH), 0);
    if (fp != !!(flags & X86_F_FP))
        differ(c, mode, bytes, "SIMD exceptions", name, !!(flags & X86_F_FP), e);
    if (memory16 && align != !!(flags & X86_F_ALIGN))
        differ(c, mode, bytes, "alignment", name, !!(flags & X86_F_ALIGN), e);
}

static void compare(struct comparer *c, enum x86_mode mode, const uint8_t *bytes, size_t avail)
{
    struct x86_insn insn;
    ZydisDecodedInstruction z;
    ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
    int length = x86_decode(bytes, avail, mode, &insn);
    ZyanStatus status = ZydisDecoderDecodeFull(&c->decoder[mode], bytes, avail, &z, zo);
    c->report->compared++;
    if (ZYAN_SUCCESS(status) != (length > 0)) {
        if (length > 0)
            differ(c, mode, bytes, "only ours decodes", x86_op_name(insn.op), length, 0);
        else if (!foreign(&z))
            differ(c, mode, bytes, ZydisISASetGetString(z.meta.isa_set), ZydisMnemonicGetString(z.mnemonic), length, z.length);
        return;
    }
    if (length < 0)
        return;
    c->report->valid++;
    if (length != z.length) {
        differ(c, mode, bytes, "length", ZydisMnemonicGetString(z.mnemonic), length, z.length);
        return;
    }
    if (insn.address_size * 8 != z.address_width)
        differ(c, mode, bytes, "address size", ZydisMnemonicGetString(z.mnemonic), insn.address_size, z.address_width / 8);
    struct x86_insn shorter;
    if (x86_decode(bytes, length - 1, mode, &shorter) != X86_DECODE_MORE)
        differ(c, mode, bytes, "one byte less is not MORE", ZydisMnemonicGetString(z.mnemonic), length, 0);
    if (z.operand_width != 8 && !(insn.row->flags & (X86_F_SSE | X86_F_MMX)) && insn.operand_size * 8 != z.operand_width)
        differ(c, mode, bytes, "operand size", ZydisMnemonicGetString(z.mnemonic), insn.operand_size, z.operand_width / 8);
    compare_row(c, mode, bytes, &insn, &z, zo);
    compare_operands(c, mode, bytes, &insn, &z, zo);
    compare_flags(c, mode, bytes, &insn, &z);
}

static void comparer_init(struct comparer *c, struct decode_report *r)
{
    c->report = r;
    ZydisDecoderInit(&c->decoder[X86_MODE16], ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16);
    ZydisDecoderInit(&c->decoder[X86_MODE32], ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32);
    ZydisDecoderInit(&c->decoder[X86_MODE64], ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    for (int m = 0; m < 3; m++) {
        ZydisDecoderEnableMode(&c->decoder[m], ZYDIS_DECODER_MODE_MPX, ZYAN_FALSE);
        ZydisDecoderEnableMode(&c->decoder[m], ZYDIS_DECODER_MODE_CET, ZYAN_FALSE);
        ZydisDecoderEnableMode(&c->decoder[m], ZYDIS_DECODER_MODE_KNC, ZYAN_FALSE);
        ZydisDecoderEnableMode(&c->decoder[m], ZYDIS_DECODER_MODE_CLDEMOTE, ZYAN_FALSE);
    }
}

void decode_compare_legacy(struct decode_report *r)
{
    static const struct { uint8_t n, b[3]; } sets[] = {
        { 0 }, { 1, { 0x66 } }, { 1, { 0xf3 } }, { 1, { 0xf2 } }, { 2, { 0x66, 0xf3 } }, { 2, { 0xf2, 0x66 } }, { 1, { 0x67 } },
        { 1, { 0x48 } }, { 1, { 0x45 } },
        { 2, { 0x66, 0x4f } }, { 2, { 0xf3, 0x49 } }, { 1, { 0xf0 } }, { 2, { 0x64, 0x42 } }, { 1, { 0x2e } }, { 2, { 0x4f, 0x67 } },
    };
    static const struct { uint8_t n, b[2]; } maps[4] = { { 0 }, { 1, { 0x0f } }, { 2, { 0x0f, 0x38 } }, { 2, { 0x0f, 0x3a } } };
    struct comparer c;
    comparer_init(&c, r);
    for (int mode = 0; mode < 3; mode++)
        for (unsigned s = 0; s < DP_ARRAY_LEN(sets); s++)
            for (int m = 0; m < 4; m++)
                for (unsigned op = 0; op < 256; op++)
                    for (unsigned modrm = 0; modrm < 256; modrm++) {
                        uint8_t bytes[15] = { 0 };
                        unsigned n = 0;
                        for (unsigned k = 0; k < sets[s].n; k++)
                            bytes[n++] = sets[s].b[k];
                        for (unsigned k = 0; k < maps[m].n; k++)
                            bytes[n++] = maps[m].b[k];
                        bytes[n++] = op;
                        bytes[n++] = modrm;
                        bytes[n++] = (uint8_t)(modrm * 37 + op); /* SIB, displacement or immediate */
                        for (uint8_t k = 0x81; n < 15; k += 0x13)
                            bytes[n++] = k;
                        compare(&c, mode, bytes, 15);
                    }
}

void decode_compare_vex(struct decode_report *r)
{
    struct comparer c;
    comparer_init(&c, r);
    for (int mode = 1; mode < 3; mode++)
        for (unsigned map = 0; map < 5; map++)
            for (unsigned op = 0; op < 256; op++)
                for (unsigned p1 = 0; p1 < 256; p1++) {
                    unsigned vvvv = p1 >> 3 & 15;
                    if (vvvv != 15 && vvvv != 14 && vvvv != 3)
                        continue;
                    for (unsigned modrm = 0; modrm < 256; modrm += (modrm & 7) == 2 ? 2 : (modrm & 7) == 5 ? 3 : 1) { /* rm 0, 1, 2, 4, 5 */
                        uint8_t p0 = (uint8_t)((op * 5 + modrm * 11) << 5 & 0xe0) | map;
                        if (mode == 1)
                            p0 |= 0xc0;
                        uint8_t bytes[15] = { 0xc4, p0, p1, op, modrm, (uint8_t)(modrm * 37 + op), 0x81, 0x94, 0xa7, 0xba, 0xcd, 0xe0,
                            0xf3, 6, 0x19 };
                        compare(&c, mode, bytes, 15);
                        if (map == 1) {
                            uint8_t two[15] = { 0xc5, (p0 & 0x80) | (p1 & 0x7f) | (mode == 1 ? 0xc0 : 0), op, modrm,
                                (uint8_t)(modrm * 37 + op), 0x81, 0x94, 0xa7, 0xba, 0xcd, 0xe0 };
                            compare(&c, mode, two, 15);
                        }
                    }
                }
}

void decode_compare_random(struct decode_report *r, uint64_t seed, unsigned count)
{
    static const uint8_t likely[] = { 0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x36, 0x64, 0x65, 0x40, 0x48, 0x4c, 0x0f, 0x0f, 0xc4, 0xc5 };
    struct comparer c;
    struct dp_random random;
    comparer_init(&c, r);
    dp_random_seed(&random, seed);
    for (unsigned k = 0; k < count; k++) {
        uint8_t bytes[16];
        dp_st64(bytes, dp_random_next(&random));
        dp_st64(bytes + 8, dp_random_next(&random));
        unsigned prefixes = bytes[15] & 3; /* 0-3 likely first bytes */
        for (unsigned n = 0; n < prefixes; n++)
            bytes[n] = likely[bytes[n] % sizeof(likely)];
        compare(&c, k % 3, bytes, 15);
    }
}
