/* isa/x86/xsave.h - the areas of FXSAVE and XSAVE, to and from struct x86_state.
 *
 * Model: pure functions between the canonical state and an area in the caller's buffer. The caller reaches guest memory: for a save it
 * writes the pieces the image lists and nothing else; for a restore it reads the area once, as far as x86_xrstor_size says, and hands
 * in the copy. Components are x87 (0), SSE (1) and AVX (2); as AVX is the only extended one it stands at the same place in the standard
 * and the compacted format. An area is hostile: a header that is not a legal one, or a bad MXCSR, is refused (#GP(0)) and then the
 * state is untouched. The state must be whole: MXCSR flags and x87 status that an engine keeps elsewhere are to be brought in before,
 * and taken out after.
 * Source: Intel SDM vol. 1 ch. 10.5, 13.4-13.10. Where the manuals leave a choice it is AMD's (APM vol. 2 11.4, 11.5): the SSE
 * component always counts as in use, and the last x87 instruction and operand are saved as zeros unless an unmasked x87 exception is
 * pending.
 */
#ifndef DP_ISA_X86_XSAVE_H
#define DP_ISA_X86_XSAVE_H

#include "isa/x86/state.h"

enum {
    X86_FXSAVE_SIZE = 512,
    X86_XSAVE_HEADER = 512,
    X86_XSAVE_AVX = 576,
    X86_XSAVE_AVX_SIZE = 256,
    X86_XSAVE_MAX = X86_XSAVE_AVX + X86_XSAVE_AVX_SIZE,
};
enum x86_xsave_form { X86_FXSAVE, X86_XSAVE, X86_XSAVEOPT, X86_XSAVEC };
/* How the instruction was encoded. */
enum { X86_XSAVE_REX_W = 1 /* 64-bit FIP and FDP instead of selectors */, X86_XSAVE_CODE64 = 2 /* all sixteen vector registers */ };

/* Bytes of an area with these components. */
static inline unsigned x86_xsave_size(uint64_t states) { return states & X86_XSTATE_AVX ? X86_XSAVE_MAX : X86_XSAVE_AVX; }
/* Components that are not in their initial state (XINUSE). */
uint64_t x86_xsave_in_use(const struct x86_state *s);

struct x86_xsave_image {
    uint8_t bytes[X86_XSAVE_MAX];
    unsigned count;
    struct {
        uint16_t at, size;
    } piece[6]; /* of bytes, to be written; ascending */
};
/* What the instruction writes. states: those asked for in EDX:EAX that XCR0 has (FXSAVE: ignored). old: the area's XSTATE_BV as it was
 * (XSAVE and XSAVEOPT keep the other components' bits; else ignored). */
void x86_xsave_build(const struct x86_state *s, enum x86_xsave_form form, uint64_t states, unsigned flags, uint64_t old,
                     struct x86_xsave_image *image);

/* FXRSTOR. false: #GP(0). */
bool x86_fxrstor(struct x86_state *s, unsigned flags, const uint8_t area[X86_FXSAVE_SIZE]) DP_MUST_CHECK;
/* XRSTOR reads legacy region and header, and the AVX component only if it is both asked for and there: bytes of area needed, 0: #GP(0)
 * already. compaction: the processor has XSAVEC. */
unsigned x86_xrstor_size(const struct x86_state *s, uint64_t states, bool compaction, const uint8_t header[64]) DP_MUST_CHECK;
/* What it checks the segment's limit for: of the standard format components asked for, in use or not, of the compacted those in use. */
unsigned x86_xrstor_span(uint64_t states, const uint8_t header[64]);
/* XRSTOR of an area of x86_xrstor_size bytes whose header was given there (the same bytes: check what is used). false: #GP(0). */
bool x86_xrstor(struct x86_state *s, uint64_t states, bool compaction, unsigned flags, const uint8_t *area) DP_MUST_CHECK;

#endif
