/* isa/x86/xsave.c - the areas of FXSAVE and XSAVE, to and from struct x86_state.
 *
 * Model, invariants, source: see xsave.h.
 */
#include "isa/x86/xsave.h"

enum {
    AREA_FCW = 0,
    AREA_FSW = 2,
    AREA_FTW = 4,
    AREA_FOP = 6,
    AREA_FIP = 8,
    AREA_FCS = 12,
    AREA_FDP = 16,
    AREA_FDS = 20,
    AREA_MXCSR = 24,
    AREA_MXCSR_MASK = 28,
    AREA_ST = 32,
    AREA_XMM = 160,
    AREA_XSTATE_BV = X86_XSAVE_HEADER,
    AREA_XCOMP_BV = X86_XSAVE_HEADER + 8,
    AREA_RESERVED = X86_XSAVE_HEADER + 16,
};
enum {
    FCW_USED = 0x1f3f,
    FCW_ONE = 0x40,
    FCW_INIT = 0x37f,
    FSW_FLAGS = 0x3f,
    FSW_ES = 0x80,
    FSW_B = 0x8000,
    MXCSR_INIT = 0x1f80,
    MXCSR_VALID = 0xffff, /* no misaligned-SSE mode: it is not advertised */
};
#define COMPACTED (1ull << 63)

static unsigned vectors(unsigned flags) { return flags & X86_XSAVE_CODE64 ? 16 : 8; }

/* ---- saving ---- */

uint64_t x86_xsave_in_use(const struct x86_state *s)
{
    static const uint8_t zero[16];
    const struct x86_fpu *f = &s->fpu;
    uint64_t used = X86_XSTATE_SSE;

    if (f->fcw != FCW_INIT || f->fsw || f->ftw || f->fop || f->fip || f->fdp)
        used |= X86_XSTATE_X87;
    for (unsigned i = 0; i < 8; i++)
        if (memcmp(f->st[i], zero, 10))
            used |= X86_XSTATE_X87;
    for (unsigned i = 0; i < 16; i++)
        if (memcmp(s->vec[i] + 16, zero, 16))
            used |= X86_XSTATE_AVX;
    return used;
}

static void put_x87(const struct x86_state *s, unsigned flags, uint8_t *area)
{
    const struct x86_fpu *f = &s->fpu;
    bool pending = f->fsw & FSW_ES;

    dp_st16(area + AREA_FCW, f->fcw);
    dp_st16(area + AREA_FSW, f->fsw);
    area[AREA_FTW] = (uint8_t)f->ftw;
    if (pending) {
        dp_st16(area + AREA_FOP, f->fop);
        dp_st64(area + AREA_FIP, f->fip);
        dp_st64(area + AREA_FDP, f->fdp);
        if (!(flags & X86_XSAVE_REX_W)) {
            dp_st32(area + AREA_FCS, f->fcs);
            dp_st32(area + AREA_FDS, f->fds);
        }
    }
    for (unsigned i = 0; i < 8; i++)
        memcpy(area + AREA_ST + 16 * i, f->st[((f->fsw >> 11) + i) & 7], 10);
}

static void put_mxcsr(const struct x86_state *s, uint8_t *area)
{
    dp_st32(area + AREA_MXCSR, s->mxcsr);
    dp_st32(area + AREA_MXCSR_MASK, MXCSR_VALID);
}

/* Pieces that touch become one. */
static void piece(struct x86_xsave_image *image, unsigned at, unsigned size)
{
    unsigned n = image->count;

    if (n && image->piece[n - 1].at + image->piece[n - 1].size == at) {
        image->piece[n - 1].size = (uint16_t)(image->piece[n - 1].size + size);
        return;
    }
    image->piece[n].at = (uint16_t)at;
    image->piece[n].size = (uint16_t)size;
    image->count = n + 1;
}

void x86_xsave_build(const struct x86_state *s, enum x86_xsave_form form, uint64_t states, unsigned flags, uint64_t old,
                     struct x86_xsave_image *image)
{
    uint64_t used = form == X86_FXSAVE ? 0 : x86_xsave_in_use(s) & states, written, mxcsr;

    if (form == X86_FXSAVE)
        states = X86_XSTATE_X87 | X86_XSTATE_SSE;
    written = form == X86_XSAVEOPT || form == X86_XSAVEC ? used : states;
    /* Of the standard format MXCSR is a part that SSE and AVX share; of the compacted one it is SSE's. */
    mxcsr = form == X86_XSAVEC ? written & X86_XSTATE_SSE : states & (X86_XSTATE_SSE | X86_XSTATE_AVX);
    memset(image, 0, sizeof *image);
    if (written & X86_XSTATE_X87) {
        put_x87(s, flags, image->bytes);
        piece(image, 0, AREA_MXCSR);
    }
    if (mxcsr) {
        put_mxcsr(s, image->bytes);
        piece(image, AREA_MXCSR, 8);
    }
    if (written & X86_XSTATE_X87)
        piece(image, AREA_ST, 128);
    if (written & X86_XSTATE_SSE) {
        for (unsigned i = 0; i < vectors(flags); i++)
            memcpy(image->bytes + AREA_XMM + 16 * i, s->vec[i], 16);
        piece(image, AREA_XMM, 16 * vectors(flags));
    }
    if (form == X86_FXSAVE)
        return;
    dp_st64(image->bytes + AREA_XSTATE_BV, form == X86_XSAVEC ? used : (old & ~states) | used);
    if (form == X86_XSAVEC)
        dp_st64(image->bytes + AREA_XCOMP_BV, states | COMPACTED);
    piece(image, AREA_XSTATE_BV, form == X86_XSAVEC ? 16 : 8);
    if (written & X86_XSTATE_AVX) {
        for (unsigned i = 0; i < vectors(flags); i++)
            memcpy(image->bytes + X86_XSAVE_AVX + 16 * i, s->vec[i] + 16, 16);
        piece(image, X86_XSAVE_AVX, 16 * vectors(flags));
    }
}

/* ---- restoring ---- */

static void get_x87(struct x86_state *s, unsigned flags, const uint8_t *area)
{
    struct x86_fpu *f = &s->fpu;
    uint16_t fsw = dp_ld16(area + AREA_FSW) & (uint16_t) ~(FSW_ES | FSW_B);

    f->fcw = (dp_ld16(area + AREA_FCW) & FCW_USED) | FCW_ONE;
    if (fsw & ~f->fcw & FSW_FLAGS)
        fsw |= FSW_ES | FSW_B;
    f->fsw = fsw;
    f->ftw = area[AREA_FTW];
    f->fop = dp_ld16(area + AREA_FOP) & 0x7ff;
    f->fip = flags & X86_XSAVE_REX_W ? dp_ld64(area + AREA_FIP) : dp_ld32(area + AREA_FIP);
    f->fdp = flags & X86_XSAVE_REX_W ? dp_ld64(area + AREA_FDP) : dp_ld32(area + AREA_FDP);
    f->fcs = flags & X86_XSAVE_REX_W ? 0 : dp_ld16(area + AREA_FCS);
    f->fds = flags & X86_XSAVE_REX_W ? 0 : dp_ld16(area + AREA_FDS);
    memset(f->st, 0, sizeof f->st);
    for (unsigned i = 0; i < 8; i++)
        memcpy(f->st[((fsw >> 11) + i) & 7], area + AREA_ST + 16 * i, 10);
}

static void get_xmm(struct x86_state *s, unsigned flags, const uint8_t *area)
{
    for (unsigned i = 0; i < vectors(flags); i++)
        memcpy(s->vec[i], area + AREA_XMM + 16 * i, 16);
}

bool x86_fxrstor(struct x86_state *s, unsigned flags, const uint8_t area[X86_FXSAVE_SIZE])
{
    uint32_t mxcsr = dp_ld32(area + AREA_MXCSR);

    if (mxcsr & ~(uint32_t)MXCSR_VALID)
        return false;
    get_x87(s, flags, area);
    get_xmm(s, flags, area);
    s->mxcsr = mxcsr;
    return true;
}

/* SDM vol. 1 13.8. */
static bool header_legal(const struct x86_state *s, bool compaction, const uint8_t *header)
{
    uint64_t present = dp_ld64(header), compacted = dp_ld64(header + 8);

    if (!(compacted & COMPACTED))
        return !(present & ~s->xcr0) && !compacted && !dp_ld64(header + 16);
    if (!compaction || (compacted & ~COMPACTED & ~s->xcr0) || (present & ~compacted) || (present & COMPACTED))
        return false;
    for (unsigned at = 16; at < 64; at += 8)
        if (dp_ld64(header + at))
            return false;
    return true;
}

unsigned x86_xrstor_size(const struct x86_state *s, uint64_t states, bool compaction, const uint8_t header[64])
{
    return header_legal(s, compaction, header) ? x86_xsave_size(states & dp_ld64(header)) : 0;
}

unsigned x86_xrstor_span(uint64_t states, const uint8_t header[64])
{
    return x86_xsave_size(dp_ld64(header + 8) & COMPACTED ? states & dp_ld64(header) : states);
}

bool x86_xrstor(struct x86_state *s, uint64_t states, bool compaction, unsigned flags, const uint8_t *area)
{
    uint64_t present = dp_ld64(area + AREA_XSTATE_BV);
    uint32_t mxcsr = dp_ld32(area + AREA_MXCSR);
    bool compacted = dp_ld64(area + AREA_XCOMP_BV) & COMPACTED;
    /* As in saving: in the standard format MXCSR is loaded even when the component is absent. */
    bool load_mxcsr = compacted ? states & present & X86_XSTATE_SSE : states & (X86_XSTATE_SSE | X86_XSTATE_AVX);

    if (!header_legal(s, compaction, area + X86_XSAVE_HEADER) || (load_mxcsr && (mxcsr & ~(uint32_t)MXCSR_VALID)))
        return false;
    if (states & X86_XSTATE_X87) {
        if (present & X86_XSTATE_X87)
            get_x87(s, flags, area);
        else
            s->fpu = (struct x86_fpu){.fcw = FCW_INIT};
    }
    if (load_mxcsr)
        s->mxcsr = mxcsr;
    else if (states & X86_XSTATE_SSE)
        s->mxcsr = MXCSR_INIT;
    if (states & X86_XSTATE_SSE) {
        if (present & X86_XSTATE_SSE)
            get_xmm(s, flags, area);
        else
            for (unsigned i = 0; i < vectors(flags); i++)
                memset(s->vec[i], 0, 16);
    }
    if (states & X86_XSTATE_AVX) {
        for (unsigned i = 0; i < vectors(flags); i++) {
            if (present & X86_XSTATE_AVX)
                memcpy(s->vec[i] + 16, area + X86_XSAVE_AVX + 16 * i, 16);
            else
                memset(s->vec[i] + 16, 0, 16);
        }
    }
    return true;
}
