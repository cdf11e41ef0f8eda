/* fuzz_decode.c - the x86 decoder and printer. Input: one byte for the mode, then code, decoded instruction after instruction.
 * Checked: no byte beyond the given ones counts, results are within bounds, fewer bytes ask for more. */
#include <stdlib.h>

#include "isa/x86/insn.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool condition)
{
    if (!condition)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    enum x86_mode mode = (enum x86_mode)(data[0] % 3);
    for (size_t at = 1; at < size;) {
        struct x86_insn insn, again;
        char text[120];
        size_t avail = DP_MIN(size - at, (size_t)15);
        uint8_t *exact = malloc(avail); /* so that a sanitizer sees reads beyond */
        must(exact);
        memcpy(exact, data + at, avail);
        int n = x86_decode(exact, avail, mode, &insn);
        must((n >= 1 && (size_t)n <= avail) || n == X86_DECODE_UD || n == X86_DECODE_MORE || n == X86_DECODE_LONG);
        must(n != X86_DECODE_LONG || avail == 15);
        must(n != X86_DECODE_MORE || avail < 15);
        if (n > 0) {
            must(insn.length == n && insn.op > X86_OP_INVALID && insn.op < X86_OP_COUNT && insn.operand_count <= 4);
            must(insn.base < X86_GPR_SLOTS && insn.index < X86_GPR_SLOTS && insn.scale < 4);
            must(insn.seg < X86_SEGS && insn.seg_override <= X86_SEGS);
            for (unsigned k = 0; k < insn.operand_count; k++) {
                const struct x86_operand *o = &insn.operand[k];
                must(o->kind > X86_NONE && o->kind <= X86_FAR && o->reg < 16 && o->size <= 32);
            }
            x86_print_insn(&insn, at, text, sizeof(text));
            must(text[0] && strlen(text) < sizeof(text) - 1);
            must(x86_decode(exact, (size_t)n, mode, &again) == n && !memcmp(&insn, &again, sizeof(insn)));
            must(x86_decode(exact, (size_t)n - 1, mode, &again) == X86_DECODE_MORE);
        }
        free(exact);
        at += n > 0 ? (size_t)n : 1;
    }
    return 0;
}
