/* fuzz_xsave.c - FXRSTOR and XRSTOR of areas as a guest may make them. Input: one byte of flags (compaction, FXRSTOR, REX.W, 64-bit mode),
 * one of EDX:EAX and XCR0, then the area (what is missing is zeros). Checked: a refused area changes nothing; an accepted one gives a
 * possible state, which saving and restoring gives back. */
#include <stdlib.h>

#include "isa/x86/x86.h"
#include "isa/x86/xsave.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool condition)
{
    if (!condition)
        abort();
}

/* The area in memory of just this size, so that a sanitizer sees reads beyond. */
static uint8_t *copy(const uint8_t *data, size_t size, size_t want)
{
    uint8_t *area = calloc(1, want);
    must(area);
    memcpy(area, data, DP_MIN(size, want));
    return area;
}

static bool restore(struct x86_state *s, const uint8_t *data, size_t size, uint64_t states, bool compaction, unsigned flags)
{
    uint8_t *area = copy(data, size, X86_XSAVE_AVX);
    unsigned want = x86_xrstor_size(s, states, compaction, area + X86_XSAVE_HEADER);
    must(x86_xrstor_span(states, area + X86_XSAVE_HEADER) >= want);
    free(area);
    if (!want)
        return false;
    must(want == X86_XSAVE_AVX || want == X86_XSAVE_MAX);
    area = copy(data, size, want);
    bool taken = x86_xrstor(s, states, compaction, flags, area);
    free(area);
    return taken;
}

static void settled(const struct x86_state *s)
{
    struct dp_error e;
    must(!x86_state_table.check(s, &e) && !(s->mxcsr & ~0xffffu));
    must(!(s->fpu.fsw & ~s->fpu.fcw & 0x3f) == !(s->fpu.fsw & 0x80) && !(s->fpu.fsw & 0x80) == !(s->fpu.fsw & 0x8000));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    unsigned flags = (data[0] & 1 ? X86_XSAVE_REX_W : 0) | (data[0] & 2 ? X86_XSAVE_CODE64 : 0);
    bool compaction = data[0] & 4, fx = data[0] & 8;
    uint64_t xcr0 = (uint64_t[]){1, 3, 7, 7}[data[1] >> 6], states = data[1] & 7 & xcr0;
    struct x86_state s, before, again;
    x86_state_reset(&s, true);
    s.xcr0 = xcr0;
    memset(s.vec, 0x55, sizeof s.vec);
    before = s;
    data += 2, size -= 2;

    if (fx) {
        uint8_t *area = copy(data, size, X86_FXSAVE_SIZE);
        bool taken = x86_fxrstor(&s, flags, area);
        free(area);
        if (!taken) {
            must(!memcmp(&s, &before, sizeof s));
            return 0;
        }
        states = X86_XSTATE_X87 | X86_XSTATE_SSE;
        s.xcr0 |= states;
    } else if (!restore(&s, data, size, states, compaction, flags)) {
        must(!memcmp(&s, &before, sizeof s));
        return 0;
    }
    settled(&s);

    static const enum x86_xsave_form forms[] = {X86_XSAVE, X86_XSAVEOPT, X86_XSAVEC};
    for (unsigned i = 0; i < DP_ARRAY_LEN(forms); i++) {
        struct x86_xsave_image image;
        uint8_t area[X86_XSAVE_MAX] = {0};
        x86_xsave_build(&s, forms[i], states, flags, 0, &image);
        for (unsigned k = 0; k < image.count; k++) {
            must(image.piece[k].at + image.piece[k].size <= x86_xsave_size(states));
            memcpy(area + image.piece[k].at, image.bytes + image.piece[k].at, image.piece[k].size);
        }
        again = s;
        must(restore(&again, area, sizeof area, states, true, flags));
        settled(&again);
        must(!memcmp(again.vec, s.vec, sizeof s.vec) && again.mxcsr == s.mxcsr && again.fpu.fsw == s.fpu.fsw && again.fpu.fcw == s.fpu.fcw);
        must(!memcmp(again.fpu.st, s.fpu.st, sizeof s.fpu.st) && again.fpu.ftw == s.fpu.ftw);
    }
    return 0;
}
