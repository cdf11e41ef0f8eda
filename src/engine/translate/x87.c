/* engine/translate/x87.c - the guest's x87 and MMX state in the host's x87 unit.
 *
 * Model: translated x87 and MMX instructions are the guest's own, on the guest's whole state: control word with its unmasked
 * exceptions, status, tags. The interpreter wants the unit empty and everything masked (interp_x87.h), so the state is loaded when a
 * block first needs it (tctx.x87_live, tested by every block with such an instruction) and goes back to c->s.fpu when the processor
 * returns to the interpreter's loop. An unmasked exception is the host's #MF, which becomes SIGFPE, at the next waiting instruction:
 * signals.c gives that one to the interpreter, which raises #MF.
 *
 * Pointers: the host's instruction pointer says which translated instruction was the last; the block's map tells the guest's. Page
 * and memory operand are noted by translated code (x87_note_pointers). No address of the host gets into c->s.fpu: what is not a
 * place in this code cache changes nothing there.
 * Source: Intel SDM vol. 1 8.1.8, 8.1.10, 8.7; AMD APM vol. 2 11.4.4.
 */
#include "engine/interp/interp_x87.h"
#include "engine/translate/translate_internal.h"

void x87_prepare(struct tctx *x, const struct tcpu *t, struct x87_image *image)
{
    struct icpu *c = t->c; /* x may be the guest's to write */
    x87_get_image(c, image);
    image->fip = (uint32_t)(uintptr_t)t->rx; /* no instruction's place */
    x->x87_fdp = c->s.fpu.fdp;
    x->x87_seg = X86_SEGS;
    x->x87_fcs = c->s.seg[X86_CS].sel;
    x->x87_live = 1;
}

void x87_enter(struct tctx *x, const struct tcpu *t)
{
    struct x87_image image;
    x87_prepare(x, t, &image);
    __asm__ volatile("frstor %0" : : "m"(image));
}

static void pointers(struct tctx *x, const struct tcpu *t, uint32_t host_fip)
{
    struct x86_fpu *f = &x->c->s.fpu;
    uint64_t base = (uint64_t)(uintptr_t)t->rx, at = host_fip - (uint32_t)base;
    const struct tblock *b = at < CODE_BYTES ? cache_block_at(t, base + at) : NULL;
    const struct tinsn *n = b ? tinsn_at(b, at - b->code) : NULL;
    if (n && n->fop & TINSN_FOP) {
        f->fop = n->fop & 0x7ff;
        f->fip = x->x87_page + n->guest;
        f->fcs = x->x87_fcs;
    }
    f->fdp = x->x87_fdp;
    if (x->x87_seg < X86_SEGS)
        f->fds = x->c->s.seg[x->x87_seg].sel;
}

void x87_take(struct tctx *x, const struct tcpu *t, const struct x87_image *image)
{
    struct icpu *c = x->c;
    x->x87_live = 0;
    c->s.fpu.fcw = (uint16_t)((image->fcw & X87_FCW_USED) | X87_FCW_ONE);
    x87_set_image(c, image);
    x87_host_load(c);
    pointers(x, t, image->fip);
}

void x87_leave(struct tctx *x, const struct tcpu *t)
{
    struct x87_image image;
    if (!x->x87_live)
        return;
    __asm__ volatile("fnsave %0" : "=m"(image)); /* leaves the unit initialised */
    x87_take(x, t, &image);
}
