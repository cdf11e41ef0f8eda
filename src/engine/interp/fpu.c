/* engine/interp/fpu.c - the host's floating-point units as the guest's: control words, exact x87 execution.
 *
 * Model: see interp_x87.h and interp_sse.h. MXCSR flags accumulate in the host's register; s.mxcsr has the guest's masks and, after
 * interp_fpu_save, all flags. x87 flags are always current in s.fpu.
 */
#include <xmmintrin.h>

#include "engine/interp/interp_sse.h"
#include "engine/interp/interp_x87.h"

/* ---- control words ---- */
void sse_set_mxcsr(struct icpu *c, uint32_t v)
{
    c->s.mxcsr = v & MXCSR_VALID;
    c->xm_unmasked = ~v & MXCSR_MASKS;
    sse_host_set_mxcsr(c->s.mxcsr | MXCSR_MASKS);
}

static void x87_host_load_control(const struct icpu *c)
{
    uint16_t fcw = c->s.fpu.fcw | X87_FLAGS;
    __asm__ volatile("fldcw %0" : : "m"(fcw));
}

void x87_host_load(const struct icpu *c)
{
    __asm__ volatile("fnclex");
    x87_host_load_control(c);
}

void x87_set_control(struct icpu *c, uint16_t fcw, uint16_t fsw)
{
    c->s.fpu.fcw = (uint16_t)((fcw & X87_FCW_USED) | X87_FCW_ONE);
    fsw &= (uint16_t) ~(X87_ES | X87_B);
    if (fsw & ~fcw & X87_FLAGS)
        fsw |= X87_ES | X87_B;
    c->s.fpu.fsw = fsw;
    x87_host_load(c);
}

void x87_init(struct icpu *c)
{
    c->s.fpu.ftw = c->s.fpu.fop = c->s.fpu.fcs = c->s.fpu.fds = 0;
    c->s.fpu.fip = c->s.fpu.fdp = 0;
    x87_set_control(c, X87_FCW_INIT, 0);
}

/* ---- entering and leaving the run loop ---- */
void interp_fpu_save(struct icpu *c) { c->s.mxcsr |= sse_host_mxcsr() & MXCSR_FLAGS; }

void interp_fpu_load(struct icpu *c)
{
    sse_set_mxcsr(c, c->s.mxcsr);
    x87_set_control(c, c->s.fpu.fcw, c->s.fpu.fsw);
}

void interp_fpu_enter(struct icpu *c)
{
    c->mxcsr_host = sse_host_mxcsr();
    __asm__ volatile("fnstcw %0" : "=m"(c->fcw_host));
    interp_fpu_load(c);
}

void interp_fpu_leave(struct icpu *c)
{
    interp_fpu_save(c);
    __asm__ volatile("fnclex\n\tfldcw %0" : : "m"(c->fcw_host));
    sse_host_set_mxcsr(c->mxcsr_host);
}

uint64_t fpu_linear(struct icpu *c, const struct iop *o, unsigned size, unsigned natural, bool write)
{
    uint64_t linear = interp_linear(c, o, size, write);
    if ((c->mode & IMODE_CODE) == X86_MODE64 && (!x86_canonical(&c->s, linear) || !x86_canonical(&c->s, linear + size - 1)))
        interp_fault_code(c, o, o->seg == X86_SS ? X86_SS_ : X86_GP, 0);
    if (c->align_check && linear & (natural - 1))
        interp_fault_code(c, o, X86_AC_, 0);
    return linear;
}

void fpu_probe_write(struct icpu *c, const struct iop *o, uint64_t linear, unsigned size) { (void)interp_rmw_host(c, o, linear, size); }

static void touch(struct icpu *c, const struct iop *o, uint64_t linear, bool write)
{
    if (write)
        fpu_probe_write(c, o, linear, 1);
    else
        (void)interp_load8(c, o, linear);
}

uint64_t fpu_linear_series(struct icpu *c, const struct iop *o, const struct fpu_series *s)
{
    uint64_t linear = fpu_linear(c, o, s->first, s->natural, s->write);
    if (s->required && linear & (s->required - 1))
        interp_fault_code(c, o, X86_GP, 0);
    if (s->ends != FPU_LAST)
        touch(c, o, linear, s->write);
    (void)interp_linear(c, o, s->size, s->write);
    uint64_t last = linear + s->size - 1, page = last & ~0xfffull;
    if (s->ends != FPU_FIRST_THEN_PAGE)
        touch(c, o, last, s->write);
    else if (page > linear)
        touch(c, o, page, s->write);
    return linear;
}

void fpu_store_raced(struct icpu *c, const struct iop *o)
{
    struct fpu_memory m;
    fpu_reach(c, o, o->size, false, &m); /* stores change no address register */
    interp_store_raced(c, o, m.host, o->size);
    INTERP_NEXT(c, o);
}

/* ---- exact execution ---- */
void x87_get_stack(const struct icpu *c, uint8_t st[8][16])
{
    for (unsigned i = 0; i < 8; i++)
        memcpy(st[i], c->s.fpu.st[x87_phys(c, i)], 16);
}

void x87_set_stack(struct icpu *c, const uint8_t st[8][16])
{
    for (unsigned i = 0; i < 8; i++) {
        uint8_t *to = c->s.fpu.st[x87_phys(c, i)];
        memcpy(to, st[i], 10);
        memset(to + 10, 0, 6);
    }
}

/* Every x87 instruction there is, each followed by RET in a slot of 4 bytes: register forms by opcode and ModRM, memory forms (on [rdi]) by
 * opcode and ModRM.reg. Only those run that the decoder let through. */
__asm__(".pushsection .text\n .p2align 5\n"
        "x87_register_kernel:\n .set x87_i, 0\n .rept 512\n"
        " .byte 0xd8 + (x87_i >> 6), 0xc0 + (x87_i & 63), 0xc3, 0xcc\n .set x87_i, x87_i + 1\n .endr\n"
        "x87_memory_kernel:\n .set x87_i, 0\n .rept 64\n"
        " .byte 0xd8 + (x87_i >> 3), 0x07 + ((x87_i & 7) << 3), 0xc3, 0xcc\n .set x87_i, x87_i + 1\n .endr\n .popsection");
extern const char x87_register_kernel[] __attribute__((visibility("hidden")));
extern const char x87_memory_kernel[] __attribute__((visibility("hidden")));

void x87_get_image(struct icpu *c, struct x87_image *image)
{
    struct x86_fpu *f = &c->s.fpu;
    *image = (struct x87_image){.fcw = f->fcw, .fsw = f->fsw};
    for (unsigned i = 0; i < 8; i++) {
        image->tags |= (uint16_t)(f->ftw >> i & 1 ? 0 : 3 << 2 * i); /* not empty will do, FRSTOR looks itself */
        image->st[i] = *x87_st(c, i);
    }
}

void x87_set_image(struct icpu *c, const struct x87_image *image)
{
    struct x86_fpu *f = &c->s.fpu;
    f->fsw = image->fsw;
    f->ftw = 0;
    for (unsigned i = 0; i < 8; i++) {
        f->ftw |= (uint16_t)((image->tags >> 2 * i & 3) != 3) << i;
        *x87_st(c, i) = image->st[i];
    }
}

static __attribute__((noinline)) void run_exact(struct icpu *c, const struct iop *o)
{
    struct x87_image image;
    uint8_t memory[16] = {0};
    uint64_t linear = 0;
    bool store = o->extra & X87_EXTRA_STORE;
    x87_wait(c, o);
    if (o->size) {
        linear = o->size == 10 ? fpu_linear_series(c, o, &(struct fpu_series){10, 8, 8, 0, store, FPU_FIRST_THEN_PAGE})
                               : fpu_linear(c, o, o->size, o->size, store);
        if (!store)
            interp_load_bytes(c, o, linear, memory, o->size);
    }
    x87_get_image(c, &image);

    unsigned opcode = o->imm >> 8 & 7, modrm = o->imm & 0xff;
    const char *kernel =
        modrm >= 0xc0 ? x87_register_kernel + (opcode << 6 | (modrm & 63)) * 4 : x87_memory_kernel + (opcode << 3 | (modrm >> 3 & 7)) * 4;
    uint64_t flags = (interp_flags(c) & 0xff) << 8 | interp_of(c); /* AH for SAHF; AL makes OF by an addition */
    /* FNSAVE does not wait for the exception there may be now, and leaves the unit initialised. */
    __asm__ volatile("addb $0x7f, %%al\n\tsahf\n\tfrstor %[image]\n\tcall *%[kernel]\n\tfnsave %[image]\n\tlahf\n\tseto %%al"
                     : "+a"(flags), [image] "+m"(image), "+m"(memory)
                     : [kernel] "r"(kernel), "D"(memory)
                     : "cc", "memory");
    x87_host_load_control(c);

    /* An unmasked exception other than precision keeps a memory destination as it was; it must be writable all the same. */
    if (store && image.fsw & ~image.fcw & X87_FLAGS & ~X87_PE)
        fpu_probe_write(c, o, linear, o->size);
    else if (store)
        interp_store_bytes(c, o, linear, memory, o->size);
    x87_set_image(c, &image);
    if (o->extra & X87_EXTRA_FLAGS)
        interp_set_arith(c, (flags >> 8 & 0xff) | (flags & 1 ? X86_OF : 0));
    if (o->size)
        x87_note_memory(c, o, linear - c->segbase[o->seg]);
    else
        x87_note(c, o);
}

void x87_exact(struct icpu *c, const struct iop *o)
{
    run_exact(c, o);
    INTERP_NEXT(c, o);
}
