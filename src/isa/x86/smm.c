/* isa/x86/smm.c - system management mode: the state on entry, the save area, and RSM.
 *
 * Model: the save area is that of AMD64 (revision 0x00020064: SMBASE can be moved, no restart of I/O instructions), the last 512 bytes of
 * the 64 KiB at SMBASE; firmware knows it by its revision. Here it is an image: the engine writes and reads it in memory, and tells the
 * board, which decides what memory processors in this mode see.
 * Invariants: what x86_smm_leave refuses ends in shutdown, as processors do; the state then may be half restored, but is one that an engine
 * runs. Bit 0 of the byte at 0xfeca says that NMIs were blocked; that byte is "NMI mask" in newer manuals and reserved in older ones.
 * Source: AMD64 APM vol. 2 10.2 (table 10-1), 10.3; Intel SDM vol. 3 33.4-33.11.
 */
#include "isa/x86/x86_internal.h"

enum { REVISION = 0x00020064 };
/* Offsets from SMBASE + X86_SMM_SAVE. */
enum {
    ES = 0x00, GDTR = 0x60, LDTR = 0x70, IDTR = 0x80, TR = 0x90, AUTO_HALT = 0xc9, NMI_MASK = 0xca, CPL = 0xcb, EFER = 0xd0,
    REVISION_AT = 0xfc,
    SMBASE = 0x100, CR4 = 0x148, CR3 = 0x150, CR0 = 0x158, DR7 = 0x160, DR6 = 0x168, RFLAGS = 0x170, RIP = 0x178, R15 = 0x180, RDI = 0x1c0,
};
/* In the order they have there from RDI on. */
static const uint8_t low[8] = {X86_RDI, X86_RSI, X86_RBP, X86_RSP, X86_RBX, X86_RDX, X86_RCX, X86_RAX};

static void put_seg(uint8_t *p, const struct x86_seg *g)
{
    dp_st16(p, g->sel);
    dp_st16(p + 2, g->attr & 0xf0ff);
    dp_st32(p + 4, g->limit);
    dp_st64(p + 8, g->base);
}
/* A null selector has no P there. */
static void get_seg(struct x86_seg *g, const uint8_t *p, bool long_mode)
{
    uint32_t attr = dp_ld16(p + 2) & 0xf0ff;
    uint64_t base = dp_ld64(p + 8);

    *g = (struct x86_seg){.sel = dp_ld16(p), .attr = attr & X86_ATTR_P ? attr : attr | X86_ATTR_UNUSABLE, .limit = dp_ld32(p + 4)};
    g->base = long_mode ? base : (uint32_t)base;
}

void x86_smm_enter(struct x86_state *s, uint8_t image[X86_SMM_SIZE])
{
    memset(image, 0, X86_SMM_SIZE);
    for (unsigned i = 0; i < X86_SEGS; i++) /* ES, CS, SS, DS, FS, GS, as we have them */
        put_seg(image + ES + 16 * i, &s->seg[i]);
    dp_st16(image + GDTR + 4, s->gdtr.limit);
    dp_st64(image + GDTR + 8, s->gdtr.base);
    put_seg(image + LDTR, &s->ldtr);
    dp_st16(image + IDTR + 4, s->idtr.limit);
    dp_st64(image + IDTR + 8, s->idtr.base);
    put_seg(image + TR, &s->tr);
    image[AUTO_HALT] = s->run_state == X86_HALTED;
    image[NMI_MASK] = s->nmi_blocked;
    image[CPL] = (uint8_t)x86_cpl(s);
    dp_st64(image + EFER, s->efer);
    dp_st32(image + REVISION_AT, REVISION);
    dp_st32(image + SMBASE, s->smbase);
    dp_st64(image + CR4, s->cr4);
    dp_st64(image + CR3, s->cr3);
    dp_st64(image + CR0, s->cr0);
    dp_st64(image + DR7, s->dr[7]);
    dp_st64(image + DR6, s->dr[6]);
    dp_st64(image + RFLAGS, s->rflags);
    dp_st64(image + RIP, s->r[X86_RIP]);
    for (unsigned i = 0; i < 8; i++) {
        dp_st64(image + R15 + 8 * i, s->r[X86_R15 - i]);
        dp_st64(image + RDI + 8 * i, s->r[low[i]]);
    }

    s->smm = true;
    s->nmi_blocked = true;
    s->run_state = X86_RUNNING;
    s->sti_shadow = s->movss_shadow = false;
    s->cr0 &= ~(uint64_t)(X86_CR0_PE | X86_CR0_EM | X86_CR0_TS | X86_CR0_PG);
    s->cr4 = 0;
    s->efer = 0;
    s->dr[7] = 0x400;
    s->rflags = X86_FLAGS_FIXED;
    s->r[X86_RIP] = 0x8000;
    for (unsigned i = 0; i < X86_SEGS; i++)
        s->seg[i] = (struct x86_seg){.attr = X86_ATTR_G | X86_ATTR_P | X86_ATTR_S | X86_TYPE_DATA_RW_A, .limit = 0xffffffff};
    s->seg[X86_CS].attr = X86_ATTR_G | X86_ATTR_P | X86_ATTR_S | X86_TYPE_CODE_XR_A;
    s->seg[X86_CS].sel = (uint16_t)(s->smbase >> 4);
    s->seg[X86_CS].base = s->smbase;
}

int x86_smm_leave(struct x86_ctx *c, const uint8_t image[X86_SMM_SIZE])
{
    struct x86_state *s = c->s;
    uint64_t cr0 = dp_ld64(image + CR0), cr4 = dp_ld64(image + CR4), efer = dp_ld64(image + EFER), flags = dp_ld64(image + RFLAGS);
    bool pg = cr0 & X86_CR0_PG, pe = cr0 & X86_CR0_PE, long_mode = (efer & X86_EFER_LME) && pg;

    s->smm = false;
    s->run_state = X86_SHUTDOWN; /* until all is found good */
    if (cr0 >> 32 || (pg && !pe) || ((cr0 & X86_CR0_NW) && !(cr0 & X86_CR0_CD)) || (cr4 & ~x86_cr4_writable(c->model)) ||
        (efer & ~(uint64_t)(X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_AUTOIBRS)))
        return -1;
    if ((long_mode && !(cr4 & X86_CR4_PAE)) || ((cr4 & X86_CR4_PCIDE) && !long_mode))
        return -1;
    s->cr0 = (cr0 & X86_CR0_VALID) | X86_CR0_ET;
    s->cr4 = cr4;
    s->cr3 = dp_ld64(image + CR3) & ((1ull << c->model->physical_bits) - 1);
    s->efer = long_mode ? efer | X86_EFER_LMA : efer & ~(uint64_t)X86_EFER_LMA;
    s->rflags = (flags & X86_FLAGS_VALID) | X86_FLAGS_FIXED;
    if (!pe || long_mode)
        s->rflags &= ~(uint64_t)X86_VM;
    if (x86_pae_paging(s) && x86_load_pdptes(c, s->cr3))
        return -1;
    s->dr[6] = (uint32_t)dp_ld64(image + DR6) | 0xffff0ff0;
    s->dr[7] = ((uint32_t)dp_ld64(image + DR7) & 0xffff23ff) | 0x400;
    for (unsigned i = 0; i < X86_SEGS; i++)
        get_seg(&s->seg[i], image + ES + 16 * i, long_mode);
    get_seg(&s->ldtr, image + LDTR, long_mode);
    get_seg(&s->tr, image + TR, long_mode);
    if (x86_code64(s)) { /* as x86_set_cs has it */
        s->seg[X86_CS].base = 0;
        s->seg[X86_CS].limit = 0xffffffff;
    }
    s->gdtr.limit = dp_ld16(image + GDTR + 4);
    s->gdtr.base = dp_ld64(image + GDTR + 8);
    s->idtr.limit = dp_ld16(image + IDTR + 4);
    s->idtr.base = dp_ld64(image + IDTR + 8);
    s->r[X86_RIP] = dp_ld64(image + RIP);
    for (unsigned i = 0; i < 8; i++) {
        s->r[X86_R15 - i] = dp_ld64(image + R15 + 8 * i);
        s->r[low[i]] = dp_ld64(image + RDI + 8 * i);
    }
    if (!x86_code64(s))
        s->r[X86_RIP] = (uint32_t)s->r[X86_RIP];
    s->smbase = dp_ld32(image + SMBASE);
    s->nmi_blocked = image[NMI_MASK] & 1;
    s->run_state = image[AUTO_HALT] & 1 ? X86_HALTED : X86_RUNNING;
    return 0;
}
