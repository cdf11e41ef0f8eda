/* engine/interp/avx.c - VEX-encoded vector instructions: AVX, AVX2, FMA, F16C, VEX forms of AES and PCLMULQDQ.
 *
 * Model: what the decoder let through is run as it is, by the host, on copies of the guest's registers, so that results, upper halves,
 * NaNs and MXCSR flags are the hardware's. There is a table of every VEX encoding with fixed registers ("kernels", each followed by
 * RET): ModRM.reg is register 1, VEX.vvvv 0 (which is also how "none" is encoded), ModRM.rm 3, the fourth operand 2. A second set has
 * the encodings with an immediate byte, for each of its values. Lowering leaves the kernel's address in o->imm; few handlers, told
 * apart by where operands come from and go to, do for all instructions. Memory operands are read before (with exactly the bytes the
 * instruction reads) and given in the place of register 3. Moves, insertions and extractions of elements are plain C on the registers'
 * bytes; masked moves and gathers stand in avx_masked.c.
 * Invariants: as in interp_sse.h. No vector register holds anything of the guest between two handlers, and the upper halves are clean
 * (VZEROUPPER), since all other code is legacy SSE. Whether AVX may be used at all was decided before (block.c).
 * Source: Intel SDM vol. 2, in particular 2.3 (VEX) and 2.4 (exception classes).
 */
#include "engine/interp/interp_sse.h"

/* ---- kernels ---- */
enum { KERNEL_SIZE = 8, KERNEL_L = 1 << 8, KERNEL_W = 1 << 9, KERNEL_PP = 10, KERNEL_MAP = 12 };

/* Index: opcode, VEX.L, VEX.W, pp, map - 1 (from bit 0). Only maps 0F and 0F 38; all of 0F 3A have an immediate. */
__asm__(".pushsection .text\n .p2align 5\nvex_kernels:\n .set vex_i, 0\n .rept 0x2000\n"
        " .byte 0xc4, 0xe1 + (vex_i >> 12), ((vex_i >> 9 & 1) << 7) + 0x78 + ((vex_i >> 8 & 1) << 2) + (vex_i >> 10 & 3), vex_i & 255, "
        "0xcb, 0xc3\n"
        " .p2align 3, 0xcc\n .set vex_i, vex_i + 1\n .endr\n .popsection");
extern const char vex_kernels[] __attribute__((visibility("hidden")));

/* With an immediate: name, map, pp, W, opcode, ModRM. Index: immediate, VEX.L. ModRM is register 1 and 3, or an opcode extension and 3. */
/* clang-format off */
#define IMM_OPS(X)                                                                                                                       \
    X(VPSHUFD, 1, 1, 0, 0x70, 0xcb) X(VPSHUFHW, 1, 2, 0, 0x70, 0xcb) X(VPSHUFLW, 1, 3, 0, 0x70, 0xcb)                                     \
    X(VPSRLW, 1, 1, 0, 0x71, 0xd3) X(VPSRAW, 1, 1, 0, 0x71, 0xe3) X(VPSLLW, 1, 1, 0, 0x71, 0xf3) X(VPSRLD, 1, 1, 0, 0x72, 0xd3)            \
    X(VPSRAD, 1, 1, 0, 0x72, 0xe3) X(VPSLLD, 1, 1, 0, 0x72, 0xf3) X(VPSRLQ, 1, 1, 0, 0x73, 0xd3) X(VPSRLDQ, 1, 1, 0, 0x73, 0xdb)           \
    X(VPSLLQ, 1, 1, 0, 0x73, 0xf3) X(VPSLLDQ, 1, 1, 0, 0x73, 0xfb)                                                                        \
    X(VCMPPS, 1, 0, 0, 0xc2, 0xcb) X(VCMPPD, 1, 1, 0, 0xc2, 0xcb) X(VCMPSS, 1, 2, 0, 0xc2, 0xcb) X(VCMPSD, 1, 3, 0, 0xc2, 0xcb)            \
    X(VSHUFPS, 1, 0, 0, 0xc6, 0xcb) X(VSHUFPD, 1, 1, 0, 0xc6, 0xcb)                                                                       \
    X(VPERMQ, 3, 1, 1, 0x00, 0xcb) X(VPERMPD, 3, 1, 1, 0x01, 0xcb) X(VPBLENDD, 3, 1, 0, 0x02, 0xcb) X(VPERMILPS, 3, 1, 0, 0x04, 0xcb)      \
    X(VPERMILPD, 3, 1, 0, 0x05, 0xcb) X(VPERM2F128, 3, 1, 0, 0x06, 0xcb) X(VROUNDPS, 3, 1, 0, 0x08, 0xcb) X(VROUNDPD, 3, 1, 0, 0x09, 0xcb) \
    X(VROUNDSS, 3, 1, 0, 0x0a, 0xcb) X(VROUNDSD, 3, 1, 0, 0x0b, 0xcb) X(VBLENDPS, 3, 1, 0, 0x0c, 0xcb) X(VBLENDPD, 3, 1, 0, 0x0d, 0xcb)    \
    X(VPBLENDW, 3, 1, 0, 0x0e, 0xcb) X(VPALIGNR, 3, 1, 0, 0x0f, 0xcb) X(VINSERTF128, 3, 1, 0, 0x18, 0xcb)                                  \
    X(VEXTRACTF128, 3, 1, 0, 0x19, 0xcb) X(VCVTPS2PH, 3, 1, 0, 0x1d, 0xcb) X(VINSERTPS, 3, 1, 0, 0x21, 0xcb)                               \
    X(VINSERTI128, 3, 1, 0, 0x38, 0xcb) X(VEXTRACTI128, 3, 1, 0, 0x39, 0xcb) X(VDPPS, 3, 1, 0, 0x40, 0xcb) X(VDPPD, 3, 1, 0, 0x41, 0xcb)   \
    X(VMPSADBW, 3, 1, 0, 0x42, 0xcb) X(VPCLMULQDQ, 3, 1, 0, 0x44, 0xcb) X(VPERM2I128, 3, 1, 0, 0x46, 0xcb)                                 \
    X(VBLENDVPS, 3, 1, 0, 0x4a, 0xcb) X(VBLENDVPD, 3, 1, 0, 0x4b, 0xcb) X(VPBLENDVB, 3, 1, 0, 0x4c, 0xcb)                                  \
    X(VPCMPESTRM, 3, 1, 0, 0x60, 0xcb) X(VPCMPESTRI, 3, 1, 0, 0x61, 0xcb) X(VPCMPISTRM, 3, 1, 0, 0x62, 0xcb)                               \
    X(VPCMPISTRI, 3, 1, 0, 0x63, 0xcb) X(VAESKEYGENASSIST, 3, 1, 0, 0xdf, 0xcb)
#define IMM_KERNELS(name, w, map, pp, opcode, modrm)                                                                                     \
    __asm__(".pushsection .text\n .p2align 5\nvex_imm_" #name #w ":\n .set vex_i, 0\n .rept 0x200\n"                                      \
            " .byte 0xc4, 0xe0 + " #map ", (" #w " << 7) + 0x78 + (vex_i >> 8 << 2) + " #pp ", " #opcode ", " #modrm                    \
            ", vex_i & 255, 0xc3\n"                                                                                                       \
            " .p2align 3, 0xcc\n .set vex_i, vex_i + 1\n .endr\n .popsection");                                                           \
    extern const char vex_imm_##name##w[] __attribute__((visibility("hidden")));
/* clang-format on */
#define DEFINE_IMM(name, map, pp, w, opcode, modrm) IMM_KERNELS(name, w, map, pp, opcode, modrm)
IMM_OPS(DEFINE_IMM)
/* The lengths in RAX and RDX. */
IMM_KERNELS(VPCMPESTRM, 1, 3, 1, 0x60, 0xcb)
IMM_KERNELS(VPCMPESTRI, 1, 3, 1, 0x61, 0xcb)
enum { IMM_IS4 = 2 << 4 }; /* the only value in use where the immediate is a register */

/* Loads registers 0-3 from memory, runs the kernel, stores the named register: 32 bytes each. */
#define RUN(kernel, vvvv, reg, fourth, rm, result, to)                                                                                     \
    __asm__ volatile("vmovdqu (%[v_]), %%ymm0\n\tvmovdqu (%[r_]), %%ymm1\n\tvmovdqu (%[f_]), %%ymm2\n\tvmovdqu (%[m_]), %%ymm3\n\t"        \
                     "call *%[k_]\n\tvmovdqu %%" result ", (%[t_])\n\tvzeroupper"                                                          \
                     :                                                                                                                     \
                     : [k_] "r"(kernel), [v_] "r"(vvvv), [r_] "r"(reg), [f_] "r"(fourth), [m_] "r"(rm), [t_] "r"(to)                       \
                     : VECTOR_CLOBBERS, "cc", "memory")
#define VECTOR_CLOBBERS                                                                                                                    \
    "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

/* ---- operands: a is the destination, b the other one of ModRM.reg and rm, extra VEX.vvvv and above it the fourth ---- */
static inline uint8_t *vector(struct icpu *c, unsigned n) { return c->s.vec[n]; }
static inline uint8_t *vvvv(struct icpu *c, const struct iop *o) { return c->s.vec[o->extra & 15]; }
static inline uint8_t *fourth(struct icpu *c, const struct iop *o) { return c->s.vec[o->extra >> 4]; }

/* The long way: every check, any page. Aligned operands are those of moves. */
static DP_COLD void load_long(struct icpu *c, const struct iop *o, void *to, unsigned size, bool align)
{
    if (align && (interp_ea(c, o) + c->segbase[o->seg]) & (size - 1))
        interp_fault_code(c, o, X86_GP, 0);
    interp_load_bytes(c, o, fpu_linear(c, o, size, size, false), to, size);
}
static DP_COLD void store_long(struct icpu *c, const struct iop *o, const void *from, unsigned size, bool align)
{
    if (align && (interp_ea(c, o) + c->segbase[o->seg]) & (size - 1))
        interp_fault_code(c, o, X86_GP, 0);
    interp_store_bytes(c, o, fpu_linear(c, o, size, size, true), from, size);
}
static inline __attribute__((always_inline)) void load(struct icpu *c, const struct iop *o, void *to, unsigned size, bool align)
{
    struct fpu_memory m;
    if (fpu_fast_read(c, o, size, align, &m))
        memcpy(to, fpu_host(&m), size);
    else
        load_long(c, o, to, size, align);
}
static inline __attribute__((always_inline)) void store(struct icpu *c, const struct iop *o, const void *from, unsigned size, bool align)
{
    struct fpu_memory m;
    if (!fpu_fast_write(c, o, size, align, &m)) {
        store_long(c, o, from, size, align);
        return;
    }
    memcpy(fpu_host(&m), from, size);
    if (fpu_raced(&m))
        interp_store_raced(c, o, m.host, size);
}

/* ---- handlers ---- */
/* The work stands apart, since its locals are in memory; and it can be repeated, for sse_precise (instructions without SIMD exceptions come
 * through it unharmed). */
#define VEX_HANDLER(name)                                                                                                                  \
    static __attribute__((noinline)) void name##_work(struct icpu *c, const struct iop *o);                                                \
    static void name(struct icpu *c, const struct iop *o)                                                                                  \
    {                                                                                                                                      \
        if (DP_UNLIKELY(c->xm_unmasked))                                                                                                   \
            sse_precise(c, o, name##_work);                                                                                                \
        else                                                                                                                               \
            name##_work(c, o);                                                                                                             \
        INTERP_NEXT(c, o);                                                                                                                 \
    }                                                                                                                                      \
    static void name##_work(struct icpu *c, const struct iop *o)
/* For each number of bytes a memory operand can have. */
#define EACH_BYTES(X) X(1) X(2) X(4) X(8) X(16) X(32)
#define BY_BYTES(name)                                                                                                                     \
    {                                                                                                                                      \
        [1] = name##1, [2] = name##2, [4] = name##4, [8] = name##8, [16] = name##16, [32] = name##32                                       \
    }

/* Destination ModRM.reg (it may be a source as well). */
VEX_HANDLER(to_reg) { RUN(o->imm, vvvv(c, o), vector(c, o->a), fourth(c, o), vector(c, o->b), "ymm1", vector(c, o->a)); }
/* Destination VEX.vvvv: shifts by an immediate. */
VEX_HANDLER(to_vvvv) { RUN(o->imm, vector(c, o->a), vector(c, o->a), vector(c, o->a), vector(c, o->b), "ymm0", vector(c, o->a)); }
/* Destination ModRM.rm: moves with the store's opcode, extractions. */
VEX_HANDLER(to_rm) { RUN(o->imm, vvvv(c, o), vector(c, o->b), fourth(c, o), vector(c, o->a), "ymm3", vector(c, o->a)); }
#define TO_REG_MEMORY(bytes)                                                                                                               \
    VEX_HANDLER(to_reg_m##bytes)                                                                                                           \
    {                                                                                                                                      \
        uint8_t m[32] __attribute__((aligned(32))) = {0};                                                                                  \
        load(c, o, m, bytes, false);                                                                                                       \
        RUN(o->imm, vvvv(c, o), vector(c, o->a), fourth(c, o), m, "ymm1", vector(c, o->a));                                                \
    }
EACH_BYTES(TO_REG_MEMORY)

/* VCVTPS2PH. A result that is tiny but exact is an underflow if that is unmasked; as MXCSR.FZ means nothing to this instruction,
 * sse_precise cannot find out, and here it is computed: less than 2^-14 and a multiple of 2^-24. o->extra: elements. */
static DP_COLD void narrow_underflow(const uint8_t *source, unsigned elements)
{
    for (unsigned k = 0; k < elements; k++) {
        uint32_t v = dp_ld32(source + 4 * k), exponent = v >> 23 & 0xff, mantissa = (v & 0x7fffff) | 0x800000;
        if (exponent && exponent < 127 - 14 && exponent + (unsigned)__builtin_ctz(mantissa) >= 127 + 23 - 24)
            sse_host_set_mxcsr(sse_host_mxcsr() | MXCSR_UE);
    }
}
static void narrow(struct icpu *c, const struct iop *o, uint8_t *to)
{
    const uint8_t *source = vector(c, o->b);
    if (c->xm_unmasked & MXCSR_UE << 7)
        narrow_underflow(source, o->extra);
    RUN(o->imm, source, source, source, source, "ymm3", to);
}
VEX_HANDLER(narrow_r) { narrow(c, o, vector(c, o->a)); }
/* To memory: the store comes after the exceptions, the check that it can be done before them. */
static void narrow_work(struct icpu *c, const struct iop *o) { narrow(c, o, c->narrowed); }
FPU_CALL_HANDLER(narrow_m)
{
    uint64_t linear = fpu_linear(c, o, o->size, o->size, true);
    interp_probe_store(c, o, linear, o->size);
    if (c->xm_unmasked)
        sse_precise(c, o, narrow_work);
    else
        narrow_work(c, o);
    interp_store_bytes(c, o, linear, c->narrowed, o->size);
}

/* ---- general registers and flags ---- */
/* Destination a general register: sign masks, conversions to integer. */
#define TO_GPR(name, source)                                                                                                               \
    VEX_HANDLER(name)                                                                                                                      \
    {                                                                                                                                      \
        uint64_t r;                                                                                                                        \
        uint8_t m[32] __attribute__((aligned(32)));                                                                                        \
        source;                                                                                                                            \
        __asm__ volatile("vmovdqu (%[m_]), %%ymm3\n\tcall *%[k_]\n\tvzeroupper"                                                            \
                         : "=c"(r)                                                                                                         \
                         : [k_] "r"(o->imm), [m_] "r"(m)                                                                                   \
                         : VECTOR_CLOBBERS, "cc", "memory");                                                                               \
        c->s.r[o->a] = r;                                                                                                                  \
    }
#define MEMORY_SOURCE(bytes)                                                                                                               \
    memset(m, 0, sizeof m);                                                                                                                \
    load(c, o, m, bytes, false)
TO_GPR(to_gpr, memcpy(m, vector(c, o->b), 32))
TO_GPR(to_gpr_m4, MEMORY_SOURCE(4))
TO_GPR(to_gpr_m8, MEMORY_SOURCE(8))

/* VCVTSI2SS, VCVTSI2SD: the source is an integer. */
#define FROM_GPR(name, value)                                                                                                              \
    VEX_HANDLER(name)                                                                                                                      \
    {                                                                                                                                      \
        uint64_t v = value;                                                                                                                \
        __asm__ volatile("vmovdqu (%[v_]), %%ymm0\n\tcall *%[k_]\n\tvmovdqu %%ymm1, (%[t_])\n\tvzeroupper"                                 \
                         :                                                                                                                 \
                         : "b"(v), [k_] "r"(o->imm), [v_] "r"(vvvv(c, o)), [t_] "r"(vector(c, o->a))                                       \
                         : VECTOR_CLOBBERS, "cc", "memory");                                                                               \
    }
FROM_GPR(from_gpr, c->s.r[o->b])
FROM_GPR(from_gpr_m4, sse_load32(c, o))
FROM_GPR(from_gpr_m8, sse_load64(c, o))

/* Comparisons and tests into the flags. String comparisons leave a mask in XMM0 or an index in RCX as well. */
enum { STRING_MASK = 1, STRING_INDEX = 2 }; /* o->extra */
static inline __attribute__((always_inline)) void compare(struct icpu *c, const struct iop *o, const uint8_t *m)
{
    uint64_t flags, rcx = 0;
    uint8_t mask[32];
    __asm__ volatile(
        "vmovdqu (%[r_]), %%ymm1\n\tvmovdqu (%[m_]), %%ymm3\n\tcall *%[k_]\n\tpushfq\n\tpopq %[f_]\n\tvmovdqu %%ymm0, (%[t_])\n\t"
        "vzeroupper"
        : [f_] "=&r"(flags), "+c"(rcx)
        : [k_] "r"(o->imm), [r_] "r"(vector(c, o->a)), [m_] "r"(m), [t_] "r"(mask), "a"(c->s.r[X86_RAX]), "d"(c->s.r[X86_RDX])
        : VECTOR_CLOBBERS, "cc", "memory");
    interp_set_arith(c, flags);
    if (o->extra == STRING_MASK)
        memcpy(vector(c, 0), mask, 32);
    else if (o->extra == STRING_INDEX)
        c->s.r[X86_RCX] = rcx;
}
VEX_HANDLER(compare_r) { compare(c, o, vector(c, o->b)); }
#define COMPARE_MEMORY(bytes)                                                                                                              \
    VEX_HANDLER(compare_m##bytes)                                                                                                          \
    {                                                                                                                                      \
        uint8_t m[32] __attribute__((aligned(32))) = {0};                                                                                  \
        load(c, o, m, bytes, false);                                                                                                       \
        compare(c, o, m);                                                                                                                  \
    }
EACH_BYTES(COMPARE_MEMORY)
/* Not to be repeated: XMM0 may be a source. */
FPU_CALL_HANDLER(string_r) { compare(c, o, vector(c, o->b)); }
FPU_CALL_HANDLER(string_m)
{
    uint8_t m[32] __attribute__((aligned(32))) = {0};
    load(c, o, m, 16, false);
    compare(c, o, m);
}

/* ---- moves: imm is the byte offset in the register, extra VEX.vvvv or for whole moves "aligned" ---- */
/* The rest of the register becomes 0. */
#define MOVES(bytes)                                                                                                                       \
    FPU_CALL_HANDLER(load_m##bytes)                                                                                                        \
    {                                                                                                                                      \
        uint8_t m[32] = {0};                                                                                                               \
        load(c, o, m, bytes, bytes >= 16 && o->extra);                                                                                     \
        memcpy(vector(c, o->a), m, 32);                                                                                                    \
    }                                                                                                                                      \
    FPU_CALL_HANDLER(store_m##bytes) { store(c, o, vector(c, o->a) + o->imm, bytes, bytes >= 16 && o->extra); }
#define FROM_GENERAL(bytes)                                                                                                                \
    static void load_r##bytes(struct icpu *c, const struct iop *o)                                                                         \
    {                                                                                                                                      \
        memset(vector(c, o->a), 0, 32);                                                                                                    \
        memcpy(vector(c, o->a), &c->s.r[o->b], bytes);                                                                                     \
        INTERP_NEXT(c, o);                                                                                                                 \
    }
#define ELEMENTS(bytes)                                                                                                                    \
    static void extract_r##bytes(struct icpu *c, const struct iop *o)                                                                      \
    {                                                                                                                                      \
        uint8_t *p = (uint8_t *)&c->s.r[o->b];                                                                                             \
        memset(p, 0, 8);                                                                                                                   \
        memcpy(p, vector(c, o->a) + o->imm, bytes);                                                                                        \
        INTERP_NEXT(c, o);                                                                                                                 \
    }                                                                                                                                      \
    /* a = VEX.vvvv with one element from elsewhere. */                                                                                    \
    static inline void insert##bytes(struct icpu *c, const struct iop *o, const void *element)                                             \
    {                                                                                                                                      \
        memmove(vector(c, o->a), vvvv(c, o), 16);                                                                                          \
        memset(vector(c, o->a) + 16, 0, 16);                                                                                               \
        memcpy(vector(c, o->a) + o->imm, element, bytes);                                                                                  \
    }                                                                                                                                      \
    static void insert_r##bytes(struct icpu *c, const struct iop *o)                                                                       \
    {                                                                                                                                      \
        insert##bytes(c, o, &c->s.r[o->b]);                                                                                                \
        INTERP_NEXT(c, o);                                                                                                                 \
    }                                                                                                                                      \
    FPU_CALL_HANDLER(insert_m##bytes)                                                                                                      \
    {                                                                                                                                      \
        uint8_t m[bytes];                                                                                                                  \
        load(c, o, m, bytes, false);                                                                                                       \
        insert##bytes(c, o, m);                                                                                                            \
    }
EACH_BYTES(MOVES)
FROM_GENERAL(4)
FROM_GENERAL(8)
ELEMENTS(1)
ELEMENTS(2)
ELEMENTS(4)
ELEMENTS(8)

FPU_CALL_HANDLER(broadcast128)
{
    uint8_t m[16];
    load(c, o, m, 16, false);
    memcpy(vector(c, o->a), m, 16);
    memcpy(vector(c, o->a) + 16, m, 16);
}

/* b: how many registers there are in the mode. */
static void vzeroupper(struct icpu *c, const struct iop *o)
{
    for (unsigned n = 0; n < o->b; n++)
        memset(vector(c, n) + 16, 0, 16);
    INTERP_NEXT(c, o);
}
static void vzeroall(struct icpu *c, const struct iop *o)
{
    memset(c->s.vec, 0, 32 * o->b);
    INTERP_NEXT(c, o);
}

/* ---- lowering ---- */
static bool with_kernel(struct iop *o, const char *table, unsigned index, iop_fn *fn)
{
    o->imm = (uint64_t)(uintptr_t)(table + index * KERNEL_SIZE);
    o->fn = fn;
    return fn != NULL;
}
/* The kernel of an instruction without immediate. w: VEX.W, which only a general register operand lets depend on the mode. */
static bool plain_kernel(const struct x86_insn *i, struct iop *o, bool w, iop_fn *fn)
{
    unsigned index =
        i->opcode | (i->vex_l ? KERNEL_L : 0) | (w ? KERNEL_W : 0) | (unsigned)i->vex_pp << KERNEL_PP | (i->vex_map - 1u) << KERNEL_MAP;
    return i->vex_map <= 2 && with_kernel(o, vex_kernels, index, fn);
}
static bool imm_kernel(const struct x86_insn *i, struct iop *o, unsigned imm, iop_fn *fn)
{
    static const struct {
        uint16_t op;
        const char *table;
    } tables[] = {
#define TABLE(name, map, pp, w, opcode, modrm) {X86_OP_##name, vex_imm_##name##w},
        IMM_OPS(TABLE)
#undef TABLE
    };
    const char *table = i->op == X86_OP_VPCMPESTRM && i->rex_w   ? vex_imm_VPCMPESTRM1
                        : i->op == X86_OP_VPCMPESTRI && i->rex_w ? vex_imm_VPCMPESTRI1
                                                                 : NULL;
    for (unsigned k = 0; k < DP_ARRAY_LEN(tables) && !table; k++)
        if (tables[k].op == i->op)
            table = tables[k].table;
    return table && with_kernel(o, table, imm | (i->vex_l ? KERNEL_L : 0), fn);
}

/* Moves between a vector register and memory or a general register: a is always the vector register, b the general one. */
static bool lower_move(const struct x86_insn *i, struct iop *o)
{
    static iop_fn *const loads[] = BY_BYTES(load_m), *const stores[] = BY_BYTES(store_m),
                         *const from_gpr[] = {[4] = load_r4, [8] = load_r8};
    static iop_fn *const extracts[] = {[1] = extract_r1, [2] = extract_r2, [4] = extract_r4, [8] = extract_r8};
    const struct x86_operand *d = &i->operand[0], *s = &i->operand[1];
    o->extra = (i->row->flags & X86_F_ALIGN) != 0;
    o->imm = 0;
    switch (i->op) {
    case X86_OP_VMOVD:
        if (s->kind == X86_REG && s->reg_class == X86_RC_GPR)
            o->fn = from_gpr[s->size];
        else if (d->kind == X86_REG && d->reg_class == X86_RC_GPR)
            o->fn = extracts[d->size];
        else
            o->fn = d->kind == X86_MEM ? stores[d->size] : loads[s->size];
        return true;
    case X86_OP_VMOVHPS:
    case X86_OP_VMOVHPD:
        o->imm = 8;
        break;
    case X86_OP_VEXTRACTF128:
    case X86_OP_VEXTRACTI128:
        o->imm = (i->imm & 1) * 16;
        break;
    case X86_OP_VEXTRACTPS:
    case X86_OP_VPEXTRB:
    case X86_OP_VPEXTRW:
    case X86_OP_VPEXTRD: {
        unsigned size = i->op == X86_OP_VPEXTRB ? 1 : i->op == X86_OP_VPEXTRW ? 2 : d->size;
        o->imm = i->imm * size & 15;
        if (d->kind == X86_REG) {
            if (i->vex_map == 1) /* VPEXTRW's other encoding has its operands the other way round */
                o->a = i->rm, o->b = i->reg;
            o->fn = extracts[size];
            return true;
        }
        break;
    }
    default:
        break;
    }
    if (d->kind == X86_MEM)
        o->fn = stores[d->size];
    else if (i->operand_count == 2 && s->kind == X86_MEM)
        o->fn = loads[s->size];
    else
        return false;
    return true;
}

static bool lower_insert(const struct x86_insn *i, struct iop *o)
{
    static iop_fn *const from_register[] = {[1] = insert_r1, [2] = insert_r2, [4] = insert_r4, [8] = insert_r8};
    static iop_fn *const from_memory[] = {[1] = insert_m1, [2] = insert_m2, [4] = insert_m4, [8] = insert_m8};
    bool memory = i->operand[2].kind == X86_MEM;
    unsigned size = i->op == X86_OP_VPINSRB ? 1 : i->op == X86_OP_VPINSRW ? 2 : i->operand[2].size;
    o->imm = i->op == X86_OP_VMOVLPS || i->op == X86_OP_VMOVLPD   ? 0
             : i->op == X86_OP_VMOVHPS || i->op == X86_OP_VMOVHPD ? 8
                                                                  : i->imm * size & 15;
    o->fn = memory ? from_memory[size] : from_register[size];
    return true;
}

/* Register forms whose destination is ModRM.rm. */
static bool writes_rm(const struct x86_insn *i)
{
    if (i->vex_map == 1)
        return i->opcode == 0x11 || i->opcode == 0x29 || i->opcode == 0x7f || i->opcode == 0xd6;
    return i->vex_map == 3 && (i->opcode == 0x19 || i->opcode == 0x39);
}

static bool lower_plain(const struct x86_insn *i, struct iop *o, const struct x86_operand *memory)
{
    static iop_fn *const from_memory[] = BY_BYTES(to_reg_m);
    const struct x86_operand *last = &i->operand[i->operand_count - 1];
    iop_fn *fn = memory ? from_memory[memory->size] : to_reg;
    if (writes_rm(i)) {
        o->a = i->rm, o->b = i->reg;
        fn = to_rm;
    }
    if (i->operand_count == 4 && last->kind == X86_REG) { /* the fourth is in the immediate byte */
        o->extra |= (uint8_t)(last->reg << 4);
        return imm_kernel(i, o, IMM_IS4, fn);
    }
    if (last->kind != X86_IMM)
        return plain_kernel(i, o, i->vex_w, fn);
    if ((i->opcode & 0xfc) == 0x70 && i->vex_map == 1 && i->opcode != 0x70) {
        o->a = i->operand[0].reg;
        fn = to_vvvv;
    }
    /* VINSERTPS from memory has no element number: what is loaded is element 0. */
    return imm_kernel(i, o, i->imm & (i->op == X86_OP_VINSERTPS && memory ? 0x3f : 0xff), fn);
}

bool sse_lower_vex(struct icpu *c, const struct x86_insn *i, struct iop *o)
{
    static iop_fn *const compares[] = BY_BYTES(compare_m);
    bool code64 = (c->mode & IMODE_CODE) == X86_MODE64;
    const struct x86_operand *memory = NULL;
    for (unsigned k = 0; k < i->operand_count; k++)
        if (i->operand[k].kind == X86_MEM)
            memory = &i->operand[k];
    o->a = i->reg;
    o->b = i->rm;
    o->extra = i->vvvv & (code64 ? 15 : 7);
    if (memory)
        o->size = memory->size;
    switch (i->op) {
    case X86_OP_VZEROUPPER:
    case X86_OP_VZEROALL:
        o->b = code64 ? 16 : 8;
        o->fn = i->op == X86_OP_VZEROALL ? vzeroall : vzeroupper;
        return true;
    case X86_OP_VCVTPS2PH:
        o->a = i->rm, o->b = i->reg;
        o->extra = i->vex_l ? 8 : 4;
        return imm_kernel(i, o, i->imm & 0xff, memory ? narrow_m : narrow_r);
    case X86_OP_VBROADCASTF128:
    case X86_OP_VBROADCASTI128:
        o->fn = broadcast128;
        return true;
    case X86_OP_VMOVD:
    case X86_OP_VPEXTRB:
    case X86_OP_VPEXTRW:
    case X86_OP_VPEXTRD:
    case X86_OP_VEXTRACTPS:
        return lower_move(i, o);
    case X86_OP_VMOVLPS:
    case X86_OP_VMOVLPD:
    case X86_OP_VMOVHPS:
    case X86_OP_VMOVHPD:
        return i->operand_count == 3 ? lower_insert(i, o) : lower_move(i, o);
    case X86_OP_VPINSRB:
    case X86_OP_VPINSRW:
    case X86_OP_VPINSRD:
        return lower_insert(i, o);
    case X86_OP_VMOVAPS:
    case X86_OP_VMOVAPD:
    case X86_OP_VMOVUPS:
    case X86_OP_VMOVUPD:
    case X86_OP_VMOVDQA:
    case X86_OP_VMOVDQU:
    case X86_OP_VLDDQU:
    case X86_OP_VMOVNTPS:
    case X86_OP_VMOVNTPD:
    case X86_OP_VMOVNTDQ:
    case X86_OP_VMOVNTDQA:
    case X86_OP_VMOVSS:
    case X86_OP_VMOVSD:
    case X86_OP_VMOVQ:
    case X86_OP_VEXTRACTF128:
    case X86_OP_VEXTRACTI128:
        return memory ? lower_move(i, o) : lower_plain(i, o, NULL);
    case X86_OP_VMOVMSKPS:
    case X86_OP_VMOVMSKPD:
    case X86_OP_VPMOVMSKB:
        return plain_kernel(i, o, false, to_gpr);
    case X86_OP_VCVTSS2SI:
    case X86_OP_VCVTTSS2SI:
    case X86_OP_VCVTSD2SI:
    case X86_OP_VCVTTSD2SI:
        return plain_kernel(i, o, i->operand[0].size == 8, !memory ? to_gpr : memory->size == 4 ? to_gpr_m4 : to_gpr_m8);
    case X86_OP_VCVTSI2SS:
    case X86_OP_VCVTSI2SD:
        return plain_kernel(i, o, i->operand[2].size == 8, !memory ? from_gpr : memory->size == 4 ? from_gpr_m4 : from_gpr_m8);
    case X86_OP_VCOMISS:
    case X86_OP_VCOMISD:
    case X86_OP_VUCOMISS:
    case X86_OP_VUCOMISD:
    case X86_OP_VPTEST:
    case X86_OP_VTESTPS:
    case X86_OP_VTESTPD:
        o->extra = 0;
        return plain_kernel(i, o, false, memory ? compares[memory->size] : compare_r);
    case X86_OP_VPCMPESTRM:
    case X86_OP_VPCMPISTRM:
    case X86_OP_VPCMPESTRI:
    case X86_OP_VPCMPISTRI:
        o->extra = i->op == X86_OP_VPCMPESTRM || i->op == X86_OP_VPCMPISTRM ? STRING_MASK : STRING_INDEX;
        return imm_kernel(i, o, i->imm & 0xff, memory ? string_m : string_r);
    default:
        return lower_plain(i, o, memory);
    }
}
