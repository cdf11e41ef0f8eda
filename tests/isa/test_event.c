/* test_event.c - delivery through IVT and IDT in every mode, IRET back, faults within faults, task switches: frames, flags, error codes. */
#include "tests/isa/fake.h"

enum { HANDLER = 0xd000 };
enum { INT16 = 6, TRAP16 = 7, INT32 = 14, TRAP32 = 15 };

static void put_gate(struct fake *f, unsigned vector, uint16_t sel, uint32_t attr)
{
    put64(f, IDT + vector * 8, gate(sel, HANDLER, attr, 0));
}
static void put_gate64(struct fake *f, unsigned vector, uint16_t sel, uint32_t attr, unsigned ist)
{
    put64(f, IDT + vector * 16, gate(sel, HANDLER, attr, ist));
    put64(f, IDT + vector * 16 + 8, 0);
}
#define DELIVER(v, kind) x86_deliver(&f->c, v, kind, false, 0, 0xbb02)

/* ---- real mode ---- */

static void test_real(void **state)
{
    struct fake *f = fake_new();

    f->s.idtr.limit = 0x3ff;
    put16(f, 0x21 * 4, 0x1234);
    put16(f, 0x21 * 4 + 2, 0x5678);
    f->s.seg[X86_SS].base = 0x8000;
    f->s.r[X86_RSP] = 0x100;
    f->s.r[X86_RIP] = 0x4444;
    f->s.rflags = 2 | X86_IF | X86_TF | X86_CF;
    assert_int_equal(DELIVER(0x21, X86_EVENT_SOFTWARE), 0);
    assert_int_equal(f->s.r[X86_RIP], 0x1234);
    assert_int_equal(f->s.seg[X86_CS].base, 0x56780);
    assert_int_equal(f->s.rflags, 2 | X86_CF);
    assert_int_equal(get16(f, 0x80fa), 0xbb02);
    assert_int_equal(get16(f, 0x80fc), 0xf000);
    assert_int_equal(get16(f, 0x80fe), 2 | X86_IF | X86_TF | X86_CF);
    assert_int_equal(x86_iret(&f->c, 2, 0), 0);
    assert_int_equal(f->s.r[X86_RIP], 0xbb02);
    assert_int_equal(f->s.rflags, 2 | X86_IF | X86_TF | X86_CF);
    assert_int_equal(f->s.r[X86_RSP], 0x100);

    f->s.r[X86_RIP] = 0x4444; /* exceptions push no error code, and the faulting address */
    struct x86_fault gp = {.vector = X86_GP, .has_error = true, .error = 0x55};
    assert_int_equal(x86_raise(&f->c, &gp, X86_EVENT_EXCEPTION, 0, NULL), 0);
    assert_int_equal(f->s.r[X86_RSP], 0xfa);
    assert_int_equal(get16(f, 0x80fa), 0x4444);

    f->s.idtr.limit = 0x80;
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_GP, 0x20 * 8 + 3);
    f->s.idtr.limit = 3; /* nothing but vector 0: the machine shuts down */
    struct x86_fault history[4];
    assert_int_equal(x86_raise(&f->c, &gp, X86_EVENT_EXCEPTION, 0, history), 3);
    assert_int_equal(f->s.run_state, X86_SHUTDOWN);
    assert_int_equal(history[2].vector, X86_DF_);
    free(f);
}

/* ---- 16- and 32-bit gates ---- */

static void test_same_level(void **state)
{
    struct fake *f = fake_protected(0);

    put_gate(f, 32, K_CODE, DESC_P | INT32);
    f->s.rflags = 2 | X86_IF | X86_TF | X86_NT | X86_AC;
    assert_int_equal(DELIVER(32, X86_EVENT_EXTERNAL), 0);
    assert_int_equal(f->s.r[X86_RSP], STACK - 12);
    assert_int_equal(get32(f, STACK - 12), CODE);
    assert_int_equal(get32(f, STACK - 8), K_CODE);
    assert_int_equal(get32(f, STACK - 4), 2 | X86_IF | X86_TF | X86_NT | X86_AC);
    assert_int_equal(f->s.rflags, 2 | X86_AC);
    assert_int_equal(f->s.r[X86_RIP], HANDLER);
    f->s.nmi_blocked = true;
    assert_int_equal(x86_iret(&f->c, 4, 0), 0);
    assert_false(f->s.nmi_blocked);
    assert_int_equal(f->s.r[X86_RIP], CODE);
    assert_int_equal(f->s.rflags, 2 | X86_IF | X86_TF | X86_NT | X86_AC);

    f->s.rflags = 2 | X86_IF;
    put_gate(f, 13, K_CODE, DESC_P | TRAP16); /* a trap gate leaves IF; 16-bit frames */
    assert_int_equal(x86_deliver(&f->c, 13, X86_EVENT_EXCEPTION, true, 0x1238, 0), 0);
    assert_int_equal(f->s.r[X86_RSP], STACK - 8);
    assert_int_equal(get16(f, STACK - 8), 0x1238);
    assert_int_equal(get16(f, STACK - 6), CODE);
    assert_int_equal(get16(f, STACK - 2), 2 | X86_IF);
    assert_int_equal(f->s.rflags, 2 | X86_IF);

    put_gate(f, 3, K_CODE, DESC_P | TRAP32); /* INT3: next instruction, no RF */
    assert_int_equal(DELIVER(3, X86_EVENT_SOFTWARE_EXCEPTION), 0);
    assert_int_equal(get32(f, f->s.r[X86_RSP]), 0xbb02);
    assert_false(get32(f, f->s.r[X86_RSP] + 8) & X86_RF);
    put_gate(f, 6, K_CODE, DESC_P | TRAP32); /* a fault: this instruction, with RF */
    assert_int_equal(DELIVER(6, X86_EVENT_EXCEPTION), 0);
    assert_int_equal(get32(f, f->s.r[X86_RSP]), HANDLER);
    assert_true(get32(f, f->s.r[X86_RSP] + 8) & X86_RF);
    put_gate(f, 2, K_CODE, DESC_P | INT32);
    assert_int_equal(DELIVER(2, X86_EVENT_NMI), 0);
    assert_true(f->s.nmi_blocked);
    free(f);
}

static void test_inner_level(void **state)
{
    struct fake *f = fake_protected(3);

    put_gate(f, 14, K_CODE, DESC_P | INT32);
    f->s.rflags = 2 | X86_IF;
    assert_int_equal(x86_deliver(&f->c, 14, X86_EVENT_EXCEPTION, true, 6, 0), 0);
    assert_int_equal(x86_cpl(&f->s), 0);
    assert_int_equal(f->s.seg[X86_SS].sel, K_DATA);
    assert_int_equal(f->s.r[X86_RSP], KSTACK - 24);
    assert_int_equal(get32(f, KSTACK - 24), 6);
    assert_int_equal(get32(f, KSTACK - 20), CODE);
    assert_int_equal(get32(f, KSTACK - 16), U_CODE | 3);
    assert_int_equal(get32(f, KSTACK - 12), 2 | X86_IF | X86_RF);
    assert_int_equal(get32(f, KSTACK - 8), STACK);
    assert_int_equal(get32(f, KSTACK - 4), U_DATA | 3);
    f->s.r[X86_RSP] += 4;
    assert_int_equal(x86_load_segment(&f->c, X86_DS, K_DATA), 0);
    assert_int_equal(x86_iret(&f->c, 4, 0), 0);
    assert_int_equal(x86_cpl(&f->s), 3);
    assert_int_equal(f->s.r[X86_RSP], STACK);
    assert_true(f->s.seg[X86_DS].attr & X86_ATTR_UNUSABLE);

    /* Ring 3 IRET changes neither IF nor IOPL, faultlessly. */
    put32(f, STACK, CODE), put32(f, STACK + 4, U_CODE | 3), put32(f, STACK + 8, 2 | X86_IOPL | X86_CF);
    assert_int_equal(x86_iret(&f->c, 4, 0), 0);
    assert_int_equal(f->s.rflags & (X86_IF | X86_IOPL | X86_CF), X86_IF | X86_CF);
    free(f);
}

static void test_gate_faults(void **state)
{
    struct fake *f = fake_protected(3);

    f->s.idtr.limit = 0x20 * 8 + 6;
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_GP, 0x20 * 8 + 3);
    f->s.idtr.limit = 0x7ff;
    put_gate(f, 0x20, K_CODE, DESC_P | 12);
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_GP, 0x20 * 8 + 3);
    put_gate(f, 0x20, K_CODE, DESC_P | INT32 | DESC_DPL(2));
    assert_fault(f, DELIVER(0x20, X86_EVENT_SOFTWARE), X86_GP, 0x20 * 8 + 2); /* INT n: no EXT */
    assert_fault(f, DELIVER(0x20, X86_EVENT_SOFTWARE_EXCEPTION), X86_GP, 0x20 * 8 + 2);
    assert_int_equal(DELIVER(0x20, X86_EVENT_ICEBP), 0); /* INT1 does not mind */
    fake_level(f, 3);
    put_gate(f, 0x20, K_CODE, INT32 | DESC_DPL(3));
    assert_fault(f, DELIVER(0x20, X86_EVENT_SOFTWARE), X86_NP, 0x20 * 8 + 2);
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_NP, 0x20 * 8 + 3);
    put_gate(f, 0x20, 0, DESC_P | INT32);
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_GP, 1);
    put_gate(f, 0x20, 0x200, DESC_P | INT32);
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_GP, 0x201);
    put_gate(f, 0x20, K_DATA, DESC_P | INT32);
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_GP, K_DATA | 1);
    put_gate(f, 0x20, SEL_FREE, DESC_P | INT32);
    put64(f, GDT + SEL_FREE, desc(0, 0xfffff, (CODE32 | DESC_G) & ~DESC_P));
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_NP, SEL_FREE | 1);
    put64(f, GDT + SEL_FREE, desc(0, HANDLER - 1, CODE32));
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_GP, 1);
    put64(f, GDT + SEL_FREE, desc(0, 0xfffff, CODE32 | DESC_G));
    put16(f, TSS + 8, U_DATA | 3);
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_TS, U_DATA | 1);
    put16(f, TSS + 8, 0);
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_TS, 1);
    put16(f, TSS + 8, K_DATA);
    put64(f, GDT + K_DATA, desc(0, KSTACK - 1, (DATA32) & ~DESC_P));
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_SS_, K_DATA | 1);
    put64(f, GDT + K_DATA, desc(0, KSTACK - 2, DATA32));
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_SS_, K_DATA | 1);
    free(f);
    f = fake_protected(0); /* same level: the current stack, its selector is not named */
    put_gate(f, 0x20, K_CODE, DESC_P | INT32);
    f->s.seg[X86_SS].limit = STACK - 2;
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_SS_, 1);
    put_gate(f, 0x20, U_CODE, DESC_P | INT32); /* outwards: never */
    f->s.seg[X86_SS].limit = ~0u;
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_GP, U_CODE | 1);
    free(f);
}

/* ---- virtual-8086 mode ---- */

static struct fake *fake_v86(unsigned iopl)
{
    struct fake *f = fake_protected(0);

    f->s.rflags = 2 | X86_VM | X86_IF | iopl << 12;
    for (unsigned i = 0; i < X86_SEGS; i++)
        f->s.seg[i] = (struct x86_seg){.sel = (uint16_t)(0x100 * (i + 1)), .attr = 0xf3, .limit = 0xffff, .base = 0x1000 * (i + 1)};
    f->s.r[X86_RSP] = 0x200;
    f->s.r[X86_RIP] = 0x1234;
    return f;
}

static void test_v86(void **state)
{
    struct fake *f = fake_v86(3);
    struct x86_state before = f->s;

    put_gate(f, 0x20, K_CODE, DESC_P | INT32 | DESC_DPL(3));
    assert_int_equal(x86_cpl(&f->s), 3);
    assert_int_equal(DELIVER(0x20, X86_EVENT_EXTERNAL), 0);
    assert_int_equal(x86_cpl(&f->s), 0);
    assert_int_equal(f->s.rflags, 2 | X86_IOPL);
    assert_int_equal(f->s.r[X86_RSP], KSTACK - 36);
    static const uint8_t order[] = {X86_ES, X86_DS, X86_FS, X86_GS};
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(get32(f, KSTACK - 16 + 4 * i), before.seg[order[i]].sel);
        assert_true(f->s.seg[order[i]].attr & X86_ATTR_UNUSABLE);
        assert_int_equal(f->s.seg[order[i]].sel, 0);
    }
    assert_int_equal(get32(f, KSTACK - 36), 0x1234);
    assert_int_equal(get32(f, KSTACK - 28), before.rflags);
    assert_int_equal(get32(f, KSTACK - 24), 0x200);
    assert_int_equal(x86_iret(&f->c, 4, 0), 0); /* and back: everything as before */
    assert_int_equal(dp_state_diff(&x86_state_table, &f->s, &before, NULL), 0);

    assert_int_equal(DELIVER(0x20, X86_EVENT_SOFTWARE), 0); /* IOPL 3 */
    free(f);
    f = fake_v86(2);
    put_gate(f, 0x20, K_CODE, DESC_P | INT32 | DESC_DPL(3));
    assert_fault(f, DELIVER(0x20, X86_EVENT_SOFTWARE), X86_GP, 0);
    assert_fault(f, x86_iret(&f->c, 2, 0), X86_GP, 0);
    put64(f, GDT + K_CODE, desc(0, 0xfffff, CODE32 | DESC_G | DESC_C)); /* handlers must be ring 0 and not conforming */
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_GP, K_CODE | 1);
    free(f);
    f = fake_v86(3);
    f->ram[0x3000 + 0x200] = 0x78, f->ram[0x3000 + 0x201] = 0x56; /* IRET within it */
    put16(f, 0x3202, 0x1111);
    put16(f, 0x3204, 2 | X86_CF);
    assert_int_equal(x86_iret(&f->c, 2, 0), 0);
    assert_int_equal(f->s.seg[X86_CS].base, 0x11110);
    assert_int_equal(f->s.r[X86_RIP], 0x5678);
    assert_int_equal(f->s.rflags, 2 | X86_CF | X86_VM | X86_IOPL);
    assert_int_equal(x86_far_jump(&f->c, 0x2222, 0x10, 2, 0), 0);
    assert_int_equal(f->s.seg[X86_CS].base, 0x22220);
    free(f);
}

/* With VME: the redirection bitmap, and the flags as the program sees them (SDM vol. 3 21.3.3). */
static struct fake *fake_vme(unsigned iopl)
{
    struct fake *f = fake_v86(iopl);

    f->s.cr4 |= X86_CR4_VME;
    f->s.tr.limit = 0x100;
    put16(f, TSS + 102, 0x88); /* redirection bitmap at 0x68 */
    put16(f, 0x20 * 4, 0x4567); /* vector 0x20 of the program */
    put16(f, 0x20 * 4 + 2, 0x0abc);
    put_gate(f, 0x20, K_CODE, DESC_P | INT32 | DESC_DPL(3));
    return f;
}
static void test_vme_int(void **state)
{
    for (unsigned iopl = 0; iopl < 4; iopl++)
        for (unsigned vif = 0; vif < 2; vif++) {
            struct fake *f = fake_vme(iopl);
            f->s.rflags |= X86_TF | X86_CF | (vif ? X86_VIF : 0);
            uint64_t flags = f->s.rflags;
            assert_int_equal(DELIVER(0x20, X86_EVENT_SOFTWARE), 0);
            assert_int_equal(f->s.seg[X86_CS].sel, 0x0abc);
            assert_int_equal(f->s.seg[X86_CS].base, 0xabc0);
            assert_int_equal(f->s.r[X86_RIP], 0x4567);
            assert_int_equal(f->s.r[X86_RSP], 0x200 - 6);
            assert_int_equal(get16(f, 0x3200 - 4), 0x200);
            uint64_t image = iopl == 3 ? flags : (flags | X86_IOPL) & ~(uint64_t)(vif ? 0 : X86_IF);
            assert_int_equal(get16(f, 0x3200 - 2), image & 0xffff);
            assert_int_equal(f->s.rflags, flags & ~(uint64_t)(X86_TF | (iopl == 3 ? X86_IF : X86_VIF)));
            free(f);

            f = fake_vme(iopl); /* the bit is set: the IDT, or the monitor */
            f->ram[TSS + 0x68 + 4] = 1;
            if (iopl < 3) {
                assert_fault(f, DELIVER(0x20, X86_EVENT_SOFTWARE), X86_GP, 0);
            } else {
                assert_int_equal(DELIVER(0x20, X86_EVENT_SOFTWARE), 0);
                assert_int_equal(x86_cpl(&f->s), 0);
            }
            free(f);
        }
    struct fake *f = fake_vme(0);
    f->s.tr.limit = 0x68 + 3; /* the bitmap ends before vector 0x20 */
    assert_fault(f, DELIVER(0x20, X86_EVENT_SOFTWARE), X86_GP, 0);
    f->s.tr.limit = 0x100;
    put16(f, TSS + 102, 31);
    assert_fault(f, DELIVER(0x20, X86_EVENT_SOFTWARE), X86_GP, 0);
    put16(f, TSS + 102, 0x88);
    f->s.r[X86_RSP] = 5; /* no room */
    assert_fault(f, DELIVER(0x20, X86_EVENT_SOFTWARE), X86_SS_, 0);
    f->s.r[X86_RSP] = 0x200;
    assert_int_equal(DELIVER(0x20, X86_EVENT_SOFTWARE_EXCEPTION), 0); /* INT3 and INTO always go to the IDT */
    assert_int_equal(x86_cpl(&f->s), 0);
    free(f);
}
static void test_vme_iret(void **state)
{
    struct fake *f = fake_vme(0);
    struct x86_state before = f->s;

    put16(f, 0x3200, 0x5678);
    put16(f, 0x3202, 0x1111);
    put16(f, 0x3204, 2 | X86_IF | X86_CF);
    assert_fault(f, x86_iret(&f->c, 4, 0), X86_GP, 0);
    assert_int_equal(x86_iret(&f->c, 2, 0), 0);
    assert_int_equal(f->s.seg[X86_CS].base, 0x11110);
    assert_int_equal(f->s.rflags, before.rflags | X86_CF | X86_VIF);
    f->s = before;
    f->s.rflags |= X86_VIF;
    put16(f, 0x3204, 2);
    assert_int_equal(x86_iret(&f->c, 2, 0), 0);
    assert_int_equal(f->s.rflags, before.rflags); /* IF and IOPL are not the program's */
    f->s = before;
    put16(f, 0x3204, 2 | X86_TF);
    assert_fault(f, x86_iret(&f->c, 2, 0), X86_GP, 0);
    put16(f, 0x3204, 2 | X86_IF);
    f->s.rflags |= X86_VIP; /* an interrupt waits for the flag */
    assert_fault(f, x86_iret(&f->c, 2, 0), X86_GP, 0);
    put16(f, 0x3204, 2);
    assert_int_equal(x86_iret(&f->c, 2, 0), 0);
    free(f);
}

/* ---- 64-bit ---- */

static void test_long_same(void **state)
{
    struct fake *f = fake_long(0);

    put_gate64(f, 14, K_CODE, DESC_P | INT32, 0);
    f->s.rflags = 2 | X86_IF | X86_TF;
    f->s.r[X86_RSP] = STACK + 9;
    assert_int_equal(x86_deliver(&f->c, 14, X86_EVENT_EXCEPTION, true, 2, 0), 0);
    assert_int_equal(f->s.r[X86_RSP], STACK - 48); /* aligned first */
    static const uint64_t frame[] = {2, CODE, K_CODE, 2 | X86_IF | X86_TF | X86_RF, STACK + 9, K_DATA};
    assert_memory_equal(f->ram + STACK - 48, frame, sizeof frame);
    assert_int_equal(f->s.rflags, 2);
    assert_int_equal(f->s.seg[X86_SS].sel, K_DATA); /* not touched without a change of level */
    f->s.r[X86_RSP] += 8;
    assert_int_equal(x86_iret(&f->c, 8, 0), 0);
    assert_int_equal(f->s.r[X86_RSP], STACK + 9);
    assert_int_equal(f->s.r[X86_RIP], CODE);
    assert_int_equal(f->s.rflags, frame[3]);

    put_gate64(f, 32, K_CODE, DESC_P | TRAP32, 0); /* no error code */
    f->s.rflags = 2 | X86_IF;
    assert_int_equal(DELIVER(32, X86_EVENT_EXTERNAL), 0);
    assert_int_equal(f->s.r[X86_RSP], STACK - 40);
    static const uint64_t frame2[] = {CODE, K_CODE, 2 | X86_IF, STACK + 9, K_DATA};
    assert_memory_equal(f->ram + STACK - 40, frame2, sizeof frame2);
    assert_int_equal(f->s.rflags, 2 | X86_IF);
    free(f);
}

static void test_long_inner(void **state)
{
    struct fake *f = fake_long(3);

    put64(f, TSS + 4, KSTACK + 8); /* TSS stacks are aligned as well */
    put_gate64(f, 0x80, K_CODE, DESC_P | INT32 | DESC_DPL(3), 0);
    assert_int_equal(DELIVER(0x80, X86_EVENT_SOFTWARE), 0);
    assert_int_equal(x86_cpl(&f->s), 0);
    assert_int_equal(f->s.r[X86_RSP], KSTACK - 40);
    static const uint64_t frame[] = {0xbb02, U_CODE | 3, 2, STACK, U_DATA | 3};
    assert_memory_equal(f->ram + KSTACK - 40, frame, sizeof frame);
    assert_int_equal(f->s.seg[X86_SS].sel, 0);
    assert_true(f->s.seg[X86_SS].attr & X86_ATTR_UNUSABLE);

    put_gate64(f, 2, K_CODE, DESC_P | INT32, 3); /* nested on an IST stack: SS stays null */
    put64(f, TSS + 36 + 2 * 8, 0xc000);
    assert_int_equal(DELIVER(2, X86_EVENT_NMI), 0);
    assert_int_equal(f->s.r[X86_RSP], 0xc000 - 40);
    assert_int_equal(get64(f, 0xc000 - 8), 0);
    assert_int_equal(get64(f, 0xc000 - 16), KSTACK - 40);
    assert_int_equal(x86_iret(&f->c, 8, 0), 0); /* back to ring 0 with a null SS */
    assert_int_equal(f->s.r[X86_RSP], KSTACK - 40);
    assert_int_equal(x86_cpl(&f->s), 0);
    f->s.seg[X86_FS] = (struct x86_seg){.sel = 3, .base = 0x1234, .attr = X86_ATTR_UNUSABLE};
    assert_int_equal(x86_load_segment(&f->c, X86_GS, K_DATA), 0);
    f->s.seg[X86_GS].base = 0x5678;
    assert_int_equal(x86_iret(&f->c, 8, 0), 0);
    assert_int_equal(f->s.seg[X86_FS].sel, 0); /* the one null selector that survives, with its base */
    assert_int_equal(f->s.seg[X86_FS].base, 0x1234);
    assert_int_equal(f->s.seg[X86_GS].sel, 0); /* of ring 0 */
    assert_int_equal(f->s.seg[X86_GS].base, 0x5678);
    assert_int_equal(x86_cpl(&f->s), 3);
    assert_int_equal(f->s.r[X86_RSP], STACK);
    assert_int_equal(f->s.seg[X86_SS].sel, U_DATA | 3);
    free(f);
}

static void test_long_faults(void **state)
{
    struct fake *f = fake_long(3);

    put_gate64(f, 0x20, K_CODE, DESC_P | INT32, 0);
    assert_fault(f, DELIVER(0x20, X86_EVENT_SOFTWARE), X86_GP, 0x20 * 8 + 2);
    put_gate64(f, 0x20, K_CODE, DESC_P | 6, 0);
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_GP, 0x20 * 8 + 3);
    put_gate64(f, 0x20, K_CODE, DESC_P | 5, 0);
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_GP, 0x20 * 8 + 3);
    put_gate64(f, 0x20, K_CODE32, DESC_P | INT32, 0);
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_GP, K_CODE32 | 1);
    put_gate64(f, 0x20, K_CODE, INT32, 0);
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_NP, 0x20 * 8 + 3);
    put_gate64(f, 0x20, K_CODE, DESC_P | INT32, 7);
    f->s.tr.limit = 0x5a;
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_TS, SEL_TSS | 1);
    f->s.tr.limit = 0x67;
    put64(f, TSS + 36 + 6 * 8, 0x0000800000000010ull);
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_SS_, 1);
    put_gate64(f, 0x20, K_CODE, DESC_P | INT32, 0);
    put64(f, IDT + 0x20 * 16 + 8, 0x8000);
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_GP, 1);
    f->s.idtr.limit = 0x20 * 16 + 14;
    assert_fault(f, DELIVER(0x20, X86_EVENT_EXTERNAL), X86_GP, 0x20 * 8 + 3);
    free(f);
}

static void put_frame64(struct fake *f, uint64_t rip, uint64_t cs, uint64_t flags, uint64_t rsp, uint64_t ss)
{
    const uint64_t w[] = {rip, cs, flags, rsp, ss};
    memcpy(f->ram + f->s.r[X86_RSP], w, sizeof w);
}

static void test_long_iret_faults(void **state)
{
    struct fake *f = fake_long(0);

    f->s.rflags |= X86_NT;
    assert_fault(f, x86_iret(&f->c, 8, 0), X86_GP, 0);
    f->s.rflags = 2;
    put_frame64(f, 0x0000800000000000ull, U_CODE | 3, 2, 0, U_DATA | 3);
    assert_fault(f, x86_iret(&f->c, 8, 0), X86_GP, 0);
    put_frame64(f, 0, 0, 2, 0, U_DATA | 3);
    assert_fault(f, x86_iret(&f->c, 8, 0), X86_GP, 0);
    put_frame64(f, 0, U_CODE | 3, 2, 0, 3); /* null SS for ring 3 */
    assert_fault(f, x86_iret(&f->c, 8, 0), X86_GP, 0);
    put_frame64(f, 0, K_CODE, 2, 0, U_DATA | 3);
    assert_fault(f, x86_iret(&f->c, 8, 0), X86_GP, U_DATA);
    put_frame64(f, 0, U_CODE, 2, 0, K_DATA);
    assert_fault(f, x86_iret(&f->c, 8, 0), X86_GP, U_CODE);
    f->s.r[X86_RSP] = 0x0000800000000000ull; /* not canonical */
    assert_fault(f, x86_iret(&f->c, 8, 0), X86_SS_, 0);
    free(f);
    f = fake_long(0); /* 32-bit form, to compatibility mode with a 16-bit stack */
    put64(f, GDT + SEL_FREE, desc(0, 0xffff, CODE32 | DESC_DPL(3)));
    put64(f, GDT + SEL_FREE + 8, desc(0, 0xffff, (DATA32 & ~DESC_DB) | DESC_DPL(3)));
    const uint32_t w[] = {0x1234, SEL_FREE | 3, 2, 0x11115678, (SEL_FREE + 8) | 3};
    memcpy(f->ram + STACK, w, sizeof w);
    assert_int_equal(x86_iret(&f->c, 4, 0), 0);
    assert_int_equal(f->s.r[X86_RIP], 0x1234);
    assert_int_equal(f->s.r[X86_RSP], (STACK & ~0xffff) | 0x5678);
    assert_false(x86_code64(&f->s));
    /* An interrupt from there enters 64-bit code. */
    put_gate64(f, 0x20, K_CODE, DESC_P | INT32, 0);
    assert_int_equal(DELIVER(0x20, X86_EVENT_EXTERNAL), 0);
    assert_true(x86_code64(&f->s));
    assert_int_equal(f->s.r[X86_RSP], KSTACK - 40);
    free(f);
}

/* SMAP and pushes: explicit accesses obey AC, table reads never do. */
static void test_smap(void **state)
{
    struct fake *f = fake_long(0);
    enum { PML4 = 0x40000, PDPT = 0x41000, PD = 0x42000 };

    put64(f, PML4, PDPT | 7);
    put64(f, PDPT, PD | 7);
    put64(f, PD, 0 | 0x87); /* one user page of 2 MiB */
    f->s.cr3 = PML4;
    f->paging = true;
    put_gate64(f, 32, K_CODE, DESC_P | INT32, 0);
    assert_int_equal(DELIVER(32, X86_EVENT_EXTERNAL), 0);
    f->s.cr4 |= X86_CR4_SMAP;
    f->s.rflags |= X86_AC;
    assert_int_equal(DELIVER(32, X86_EVENT_EXTERNAL), -1);
    assert_int_equal(f->c.fault.vector, X86_PF_);
    assert_true(f->c.fault.cr2 == IDT + 32 * 16); /* the IDT read is implicit: AC does not help */
    assert_int_equal(x86_iret(&f->c, 8, 0), -1);
    assert_true(f->c.fault.cr2 == GDT + K_CODE); /* the stack was readable, the GDT is not */
    free(f);
}

/* ---- faults within faults ---- */

static unsigned chain(struct fake *f, unsigned first, struct x86_fault h[4])
{
    struct x86_fault x = {.vector = (uint8_t)first, .has_error = first == X86_GP || first == X86_PF_, .error = 0, .cr2 = 0x777};
    memset(h, 0, 4 * sizeof *h);
    return x86_raise(&f->c, &x, X86_EVENT_EXCEPTION, 0, h);
}

static void test_double_faults(void **state)
{
    /* first, second (0: delivered), double fault? Second: 11 by an absent gate, 14 by an unmapped IDT page. */
    static const struct { uint8_t first; bool page; bool df; } cases[] = {
        {X86_DE, false, true}, {X86_GP, false, true}, {X86_TS, false, true}, {X86_NP, false, true}, {X86_SS_, false, true},
        {X86_UD, false, false}, {X86_DB, false, false}, {X86_MF, false, false}, {X86_AC_, false, false}, {X86_NM, false, false},
        {X86_PF_, false, true}, {X86_GP, true, false}, {X86_PF_, true, true}, {X86_UD, true, false}, {X86_DE, true, false},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(cases); i++) {
        struct fake *f = fake_protected(0);
        struct x86_fault h[4];
        unsigned second = cases[i].page ? X86_PF_ : X86_NP, n;

        for (unsigned v = 0; v < 32; v++)
            put_gate(f, v, K_CODE, DESC_P | INT32);
        put_gate(f, cases[i].first, K_CODE, INT32);
        if (cases[i].page) { /* the handler's code segment lies in an LDT that is not mapped */
            assert_int_equal(x86_load_ldt(&f->c, SEL_LDT), 0);
            put_gate(f, cases[i].first, 0xc, DESC_P | INT32);
            f->bad = LDT;
        }
        if (second == cases[i].first && !cases[i].df)
            fail();
        n = chain(f, cases[i].first, h);
        if (cases[i].first == second && !cases[i].page) { /* #NP's own gate is the absent one */
            assert_int_equal(n, 2);
        }
        assert_int_equal(n, cases[i].df ? 2 : 1);
        assert_int_equal(h[0].vector, cases[i].first);
        assert_int_equal(h[1].vector, second);
        if (cases[i].df) {
            assert_int_equal(h[2].vector, X86_DF_);
            assert_int_equal(get32(f, f->s.r[X86_RSP]), 0);
        } else if (second == X86_NP) {
            assert_int_equal(get32(f, f->s.r[X86_RSP]), cases[i].first * 8 + 3);
        }
        assert_int_equal(f->s.run_state, X86_RUNNING);
        if (cases[i].page)
            assert_int_equal(f->s.cr2, LDT + 8);
        assert_int_equal(get32(f, f->s.r[X86_RSP] + 4), CODE); /* always the first instruction */
        free(f);
    }
}

static void test_triple_fault(void **state)
{
    struct fake *f = fake_protected(0);
    struct x86_fault h[4];

    memset(f->ram + IDT, 0, 0x800);
    assert_int_equal(chain(f, X86_PF_, h), 3);
    assert_int_equal(f->s.run_state, X86_SHUTDOWN);
    assert_int_equal(h[0].vector, X86_PF_);
    assert_int_equal(h[1].vector, X86_GP);
    assert_int_equal(h[2].vector, X86_DF_);
    assert_int_equal(h[3].vector, X86_GP);
    assert_int_equal(h[3].error, 8 * 8 + 3);
    assert_int_equal(f->s.r[X86_RIP], CODE);
    free(f);
    /* An external interrupt without handler is benign first: #GP, then #DF. */
    f = fake_protected(0);
    memset(f->ram + IDT, 0, 0x1000);
    put_gate(f, X86_GP, K_CODE, DESC_P | INT32);
    struct x86_fault irq = {.vector = 0x40};
    assert_int_equal(x86_raise(&f->c, &irq, X86_EVENT_EXTERNAL, 0, h), 1);
    assert_int_equal(get32(f, f->s.r[X86_RSP]), 0x40 * 8 + 3);
    free(f);
}

static void test_debug_exception(void **state)
{
    struct fake *f = fake_protected(0);
    struct x86_fault db = {.vector = X86_DB, .dr6 = 1 << 14};

    put_gate(f, 1, K_CODE, DESC_P | INT32);
    f->s.dr[6] = 0xffff0ff0 | 1 << 13 | 3;
    f->s.dr[7] = 0x400 | 1 << 13;
    f->s.debugctl = 3;
    f->s.rflags |= X86_TF;
    assert_int_equal(x86_raise(&f->c, &db, X86_EVENT_EXCEPTION, 0, NULL), 0);
    assert_int_equal(f->s.dr[6], 0xffff0ff0 | 1 << 13 | 1 << 14);
    assert_int_equal(f->s.dr[7], 0x400);
    assert_int_equal(f->s.debugctl, 0);
    assert_int_equal(get32(f, f->s.r[X86_RSP] + 8), 2 | X86_TF); /* a trap: no RF */
    assert_false(f->s.rflags & X86_TF);
    free(f);
}

/* ---- tasks ---- */

enum { SEL_TASK = SEL_FREE, SEL_GATE = SEL_FREE + 8, TASK_CODE = 0xe000, TASK_STACK = 0xf000 };

static void put_task32(struct fake *f, uint16_t cs, uint16_t ss, uint32_t eflags)
{
    put64(f, GDT + SEL_TASK, desc(TSS2, 0x67, DESC_P | 9));
    put64(f, GDT + SEL_GATE, gate(SEL_TASK, 0, DESC_P | 5 | DESC_DPL(3), 0));
    memset(f->ram + TSS2, 0, 0x68);
    put32(f, TSS2 + 28, 0x5000);
    put32(f, TSS2 + 32, TASK_CODE);
    put32(f, TSS2 + 36, eflags);
    for (unsigned i = 0; i < 8; i++)
        put32(f, TSS2 + 40 + 4 * i, i == X86_RSP ? TASK_STACK : 0x1000 + i);
    for (unsigned i = 0; i < X86_SEGS; i++)
        put16(f, TSS2 + 72 + 4 * i, i == X86_CS ? cs : ss);
}

static void test_task_call_and_return(void **state)
{
    struct fake *f = fake_protected(0);

    put_task32(f, K_CODE, K_DATA, 2 | X86_IF);
    f->s.r[X86_RAX] = 0x12345678;
    f->s.dr[7] = 0x455;
    assert_int_equal(x86_far_call(&f->c, SEL_TASK, 0, 4, 0xbb07), 0);
    assert_int_equal(f->s.tr.sel, SEL_TASK);
    assert_int_equal(f->s.tr.base, TSS2);
    assert_int_equal(f->s.tr.attr, DESC_P | 11);
    assert_int_equal(f->s.r[X86_RIP], TASK_CODE);
    assert_int_equal(f->s.r[X86_RSP], TASK_STACK);
    assert_int_equal(f->s.r[X86_RBX], 0x1003);
    assert_int_equal(f->s.rflags, 2 | X86_IF | X86_NT);
    assert_true(f->s.cr0 & X86_CR0_TS);
    assert_int_equal(f->s.dr[7], 0x400);
    assert_int_equal(f->s.cr3, 0); /* no paging: CR3 is not loaded */
    assert_int_equal(get16(f, TSS2), SEL_TSS); /* the link */
    assert_int_equal(get32(f, TSS + 32), 0xbb07);
    assert_int_equal(get32(f, TSS + 40), 0x12345678);
    assert_int_equal(get32(f, TSS + 76), K_CODE);
    assert_true(f->ram[GDT + SEL_TASK + 5] & 2);
    assert_true(f->ram[GDT + SEL_TSS + 5] & 2); /* the caller stays busy */
    f->s.r[X86_RAX] = 0x9999;
    assert_int_equal(x86_iret(&f->c, 4, 0xe005), 0);
    assert_int_equal(f->s.tr.sel, SEL_TSS);
    assert_int_equal(f->s.r[X86_RIP], 0xbb07);
    assert_int_equal(f->s.r[X86_RAX], 0x12345678);
    assert_int_equal(f->s.r[X86_RSP], STACK);
    assert_int_equal(f->s.rflags, 2);
    assert_false(f->ram[GDT + SEL_TASK + 5] & 2);
    assert_int_equal(get32(f, TSS2 + 32), 0xe005);
    assert_int_equal(get32(f, TSS2 + 36), 2 | X86_IF); /* without NT */
    assert_int_equal(get32(f, TSS2 + 40), 0x9999);
    free(f);
}

static void test_task_jump_through_gate(void **state)
{
    struct fake *f = fake_protected(3);

    put_task32(f, U_CODE | 3, U_DATA | 3, 2);
    assert_fault(f, x86_far_jump(&f->c, SEL_TASK, 0, 4, 0), X86_GP, SEL_TASK); /* privilege of the TSS itself */
    assert_int_equal(x86_far_jump(&f->c, SEL_GATE | 3, 0, 4, 0xbb07), 0);
    assert_int_equal(x86_cpl(&f->s), 3);
    assert_int_equal(f->s.rflags, 2);
    assert_false(f->ram[GDT + SEL_TSS + 5] & 2);
    assert_true(f->ram[GDT + SEL_TASK + 5] & 2);
    assert_int_equal(get16(f, TSS2), 0); /* no link */
    assert_fault(f, x86_far_jump(&f->c, SEL_GATE | 3, 0, 4, 0), X86_GP, SEL_TASK); /* busy */
    free(f);
}

static void test_task_interrupt(void **state)
{
    struct fake *f = fake_protected(3);
    struct x86_fault ts = {.vector = X86_DF_, .has_error = true, .error = 0};

    put_task32(f, K_CODE, K_DATA, 2);
    put64(f, IDT + 8 * 8, gate(SEL_TASK, 0, DESC_P | 5, 0));
    f->s.rflags = 2 | X86_IF;
    assert_int_equal(x86_raise(&f->c, &ts, X86_EVENT_EXCEPTION, 0, NULL), 0);
    assert_int_equal(x86_cpl(&f->s), 0);
    assert_int_equal(f->s.r[X86_RSP], TASK_STACK - 4);
    assert_int_equal(get32(f, TASK_STACK - 4), 0);
    assert_int_equal(f->s.rflags, 2 | X86_NT);
    assert_int_equal(get32(f, TSS + 32), CODE);
    assert_int_equal(get32(f, TSS + 36) & ~(uint32_t)X86_RF, 2 | X86_IF);
    f->s.r[X86_RSP] += 4;
    assert_int_equal(x86_iret(&f->c, 4, 0), 0);
    assert_int_equal(x86_cpl(&f->s), 3);
    assert_int_equal(f->s.r[X86_RIP], CODE);
    free(f);
}

static void test_task_v86_and_16(void **state)
{
    struct fake *f = fake_protected(0);

    put_task32(f, 0x1000, 0x2000, 2 | X86_VM);
    put32(f, TSS2 + 32, 0x123);
    assert_int_equal(x86_far_jump(&f->c, SEL_TASK, 0, 4, 0), 0);
    assert_true(x86_v86(&f->s));
    assert_int_equal(f->s.seg[X86_CS].base, 0x10000);
    assert_int_equal(f->s.seg[X86_FS].base, 0x20000);
    assert_int_equal(x86_cpl(&f->s), 3);
    free(f);

    f = fake_protected(0);
    memset(f->ram + TSS2, 0, 44);
    put64(f, GDT + SEL_TASK, desc(TSS2, 0x2b, DESC_P | 1));
    put16(f, TSS2 + 14, TASK_CODE);
    put16(f, TSS2 + 16, 2 | X86_CF);
    put16(f, TSS2 + 18, 0x1234);
    put16(f, TSS2 + 26, TASK_STACK);
    for (unsigned i = 0; i < 4; i++)
        put16(f, TSS2 + 34 + 2 * i, i == X86_CS ? K_CODE : K_DATA);
    assert_int_equal(x86_far_call(&f->c, SEL_TASK, 0, 4, 0xbb07), 0);
    assert_int_equal(f->s.r[X86_RIP], TASK_CODE);
    assert_int_equal(f->s.r[X86_RAX], 0xffff1234);
    assert_int_equal(f->s.rflags, 2 | X86_CF | X86_NT);
    assert_true(f->s.seg[X86_FS].attr & X86_ATTR_UNUSABLE);
    assert_int_equal(f->s.tr.attr, DESC_P | 3);
    assert_int_equal(x86_iret(&f->c, 2, 0x4444), 0); /* 16-bit TSS is saved, 32-bit one loaded */
    assert_int_equal(get16(f, TSS2 + 14), 0x4444);
    assert_int_equal(f->s.r[X86_RIP], 0xbb07);
    assert_int_equal(f->s.tr.sel, SEL_TSS);
    free(f);
}

static void test_task_faults(void **state)
{
    struct fake *f = fake_protected(0);
    #define SWITCH() x86_far_jump(&f->c, SEL_TASK, 0, 4, 0)
    #define AGAIN() (free(f), f = fake_protected(0), put_task32(f, K_CODE, K_DATA, 2))

    put_task32(f, K_CODE, K_DATA, 2); /* before the switch: the old task runs on */
    put64(f, GDT + SEL_TASK, desc(TSS2, 0x66, DESC_P | 9));
    assert_fault(f, SWITCH(), X86_TS, SEL_TASK);
    put64(f, GDT + SEL_TASK, desc(TSS2, 0x67, 9));
    assert_fault(f, SWITCH(), X86_NP, SEL_TASK);
    put64(f, GDT + SEL_TASK, desc(0x70000, 0x67, DESC_P | 9));
    f->bad = 0x70000;
    assert_fault(f, SWITCH(), X86_PF_, 0);
    f->bad = TSS;
    put64(f, GDT + SEL_TASK, desc(0x60000, 0x67, DESC_P | 9));
    assert_fault(f, SWITCH(), X86_PF_, X86_PF_W); /* the old TSS is not writable */
    assert_true(f->ram[GDT + SEL_TSS + 5] & 2);
    f->bad = 0;
    put64(f, GDT + SEL_GATE, gate(0xc, 0, DESC_P | 5, 0));
    assert_fault(f, x86_far_jump(&f->c, SEL_GATE, 0, 4, 0), X86_GP, 0xc); /* a TSS in the LDT */
    f->s.rflags |= X86_NT; /* IRET to something that is no busy TSS */
    put16(f, TSS, SEL_TASK);
    assert_fault(f, x86_iret(&f->c, 4, 0), X86_TS, SEL_TASK);

    /* After it: the fault is the new task's. */
    static const struct { uint8_t at; uint16_t value; uint8_t vector; uint16_t error; } late[] = {
        {96, K_DATA, X86_TS, K_DATA}, {96, 0xc, X86_TS, 0xc}, {76, 0, X86_TS, 0}, {76, K_DATA, X86_TS, K_DATA}, {76, U_CODE, X86_TS, U_CODE},
        {80, 0, X86_TS, 0}, {80, U_DATA | 3, X86_TS, U_DATA}, {84, 0, 0, 0} /* null is fine */, {84, 0x200, X86_TS, 0x200}, {88, SEL_TSS, X86_TS, SEL_TSS},
        {92, SEL_FREE + 0x18, X86_NP, SEL_FREE + 0x18}, {80, SEL_FREE + 0x18, X86_SS_, SEL_FREE + 0x18}, {76, SEL_FREE + 0x20, X86_NP, SEL_FREE + 0x20},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(late); i++) {
        AGAIN();
        put64(f, GDT + SEL_FREE + 0x18, desc(0, 0xfffff, (DATA32 | DESC_G) & ~DESC_P));
        put64(f, GDT + SEL_FREE + 0x20, desc(0, 0xfffff, (CODE32 | DESC_G) & ~DESC_P));
        put16(f, TSS2 + late[i].at, late[i].value);
        assert_int_equal(SWITCH(), late[i].vector ? -1 : 0);
        if (late[i].vector) {
            assert_int_equal(f->c.fault.vector, late[i].vector);
            assert_int_equal(f->c.fault.error, late[i].error);
        }
        assert_int_equal(f->s.tr.sel, SEL_TASK);
        assert_int_equal(f->s.r[X86_RIP], TASK_CODE);
    }
    AGAIN();
    put16(f, TSS2 + 100, 1); /* T: a trap in the new task */
    assert_int_equal(SWITCH(), -1);
    assert_int_equal(f->c.fault.vector, X86_DB);
    assert_int_equal(f->c.fault.dr6, 1 << 15);
    assert_int_equal(f->s.r[X86_RIP], TASK_CODE);
    #undef SWITCH
    #undef AGAIN
    free(f);
}

static void test_task_paging(void **state)
{
    struct fake *f = fake_protected(0);

    f->s.cr0 |= X86_CR0_PG;
    put_task32(f, K_CODE, K_DATA, 2);
    assert_int_equal(x86_far_jump(&f->c, SEL_TASK, 0, 4, 0), 0);
    assert_int_equal(f->s.cr3, 0x5000);
    assert_int_equal(f->flushes, 1);
    free(f);
}

/* TSS descriptors that refuse the busy bit and have T set must not loop. */
static int (*plain_write)(struct x86_ctx *, uint64_t, const void *, unsigned, bool);
static int write_but_gdt(struct x86_ctx *c, uint64_t linear, const void *data, unsigned size, bool user)
{
    return linear >= GDT && linear < GDT + 0x200 ? 0 : plain_write(c, linear, data, size, user);
}
static void test_endless_traps(void **state)
{
    struct fake *f = fake_protected(0);
    struct x86_fault db = {.vector = X86_DB};

    put_task32(f, K_CODE, K_DATA, 2);
    put16(f, TSS2 + 100, 1);
    put64(f, IDT + 8, gate(SEL_TASK, 0, DESC_P | 5, 0));
    plain_write = f->c.write;
    f->c.write = write_but_gdt;
    assert_in_range(x86_raise(&f->c, &db, X86_EVENT_EXCEPTION, 0, NULL), 1, 100);
    assert_int_equal(f->s.run_state, X86_SHUTDOWN);
    free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real), cmocka_unit_test(test_same_level), cmocka_unit_test(test_inner_level), cmocka_unit_test(test_gate_faults),
        cmocka_unit_test(test_v86), cmocka_unit_test(test_vme_int), cmocka_unit_test(test_vme_iret), cmocka_unit_test(test_long_same),
            cmocka_unit_test(test_long_inner), cmocka_unit_test(test_long_faults),
        cmocka_unit_test(test_long_iret_faults), cmocka_unit_test(test_smap), cmocka_unit_test(test_double_faults), cmocka_unit_test(test_triple_fault),
        cmocka_unit_test(test_debug_exception), cmocka_unit_test(test_task_call_and_return), cmocka_unit_test(test_task_jump_through_gate),
        cmocka_unit_test(test_task_interrupt), cmocka_unit_test(test_task_v86_and_16), cmocka_unit_test(test_task_faults),
        cmocka_unit_test(test_task_paging), cmocka_unit_test(test_endless_traps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
