/* isa/x86/op.h - enum x86_op, from op.def (which also states the operand conventions). */
#ifndef DP_ISA_X86_OP_H
#define DP_ISA_X86_OP_H

#define X86_OP(name) X86_OP_##name,
enum x86_op {
#include "isa/x86/op.def"
    X86_OP_COUNT
};
#undef X86_OP

#endif
