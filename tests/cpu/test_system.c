/* test_system.c - privileged semantics of an engine: interrupts, traps, counting, the start and end of processors.
 *
 * Each test runs bare-metal code on the bench of bare.h and looks at traps, memory and the state after.
 * Source: Intel SDM vol. 3, sections named at the tests.
 */
#include "system.h"

/* ---- interrupts and shadows (SDM vol. 2 STI, MOV; vol. 3 6.8.3, 6.7.1) ---- */
BARE_ASM(sti_shadow, "mov $0x40, %al\n out %al, $0x81\n sti\n nop\nsti_shadow_after: nop\n cli");
MARK(sti_shadow, after);
static void test_sti_shadow(void **state)
{
    struct bare *b = *state;
    bare_do(b, sti_shadow);
    bare_assert_done(b, sti_shadow, 1);
    assert_int_equal(b->trap[0].vector, 0x40);
    assert_int_equal(b->trap[0].rip, AT(sti_shadow, after));
}
BARE_ASM(sti_cli, "mov $0x40, %al\n out %al, $0x81\n mov $100, %ecx\n1: sti\n cli\n loop 1b");
static void test_sti_cli(void **state)
{
    bare_do(*state, sti_cli);
    bare_assert_done((struct bare *)*state, sti_cli, 0);
}
BARE_ASM(sti_hlt, "mov $0x40, %al\n out %al, $0x81\n sti\n hlt\nsti_hlt_after: cli");
MARK(sti_hlt, after);
static void test_sti_hlt(void **state)
{
    struct bare *b = *state;
    bare_do(b, sti_hlt);
    bare_assert_done(b, sti_hlt, 1);
    assert_int_equal(b->trap[0].rip, AT(sti_hlt, after));
}
BARE_ASM(ss_shadow, "mov $0x40, %al\n out %al, $0x81\n mov %ss, %ebx\n sti\n mov %ebx, %ss\n nop\nss_shadow_after: nop\n cli");
MARK(ss_shadow, after);
static void test_ss_shadow(void **state)
{
    struct bare *b = *state;
    bare_do(b, ss_shadow);
    bare_assert_done(b, ss_shadow, 1);
    assert_int_equal(b->trap[0].rip, AT(ss_shadow, after));
}
BARE_ASM(popf_window, "mov $0x40, %al\n out %al, $0x81\n pushf\n orl $0x200, (%rsp)\n popf\npopf_window_after: nop\n nop\n cli");
MARK(popf_window, after);
static void test_popf_window(void **state)
{
    struct bare *b = *state;
    bare_do(b, popf_window);
    bare_assert_done(b, popf_window, 1);
    assert_int_equal(b->trap[0].rip, AT(popf_window, after));
}
BARE_ASM(iret_window, "mov $0x40, %al\n out %al, $0x81\n mov %rsp, %rax\n push $0x10\n push %rax\n push $0x202\n push $8\n"
    " lea iret_window_after(%rip), %rax\n push %rax\n iretq\n"
                      "iret_window_after: nop\n nop\n cli");
MARK(iret_window, after);
static void test_iret_window(void **state)
{
    struct bare *b = *state;
    bare_do(b, iret_window);
    bare_assert_done(b, iret_window, 1);
    assert_int_equal(b->trap[0].rip, AT(iret_window, after));
}
/* An interrupt that comes while a block runs, and one from a store to a device. */
BARE_ASM(irq_order, "mov $0x40, %al\n out %al, $0x81\n mov $0x51, %al\n out %al, $0x81\n mov $0x45, %al\n out %al, $0x81\n sti\n nop\n"
    " nop\n nop\n nop\n nop\n cli");
static void test_irq_order(void **state)
{
    struct bare *b = *state;
    bare_do(b, irq_order);
    bare_assert_done(b, irq_order, 3);
    assert_int_equal(b->trap[0].vector, 0x51);
    assert_int_equal(b->trap[1].vector, 0x45);
    assert_int_equal(b->trap[2].vector, 0x40);
}
/* Within an NMI's handler the next NMI waits for IRET; a third is lost. */
static void raise_nmi_twice(struct bare *b, struct bare_frame *f)
{
    if (b->traps > 1)
        return;
    b->engine->interrupt(b->cpu[0].cpu, DP_LINE_NMI, 1);
    b->engine->interrupt(b->cpu[0].cpu, DP_LINE_NMI, 1);
}
BARE_ASM(nmi_block, "out %al, $0x82\nnmi_block_after: nop\n nop\n nop");
MARK(nmi_block, after);
static void test_nmi_block(void **state)
{
    struct bare *b = *state;
    b->on_trap = raise_nmi_twice;
    bare_do(b, nmi_block);
    bare_assert_done(b, nmi_block, 2);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(b->trap[i].vector, X86_NMI);
        assert_int_equal(b->trap[i].rip, AT(nmi_block, after)); /* the second comes right after IRET, not within the handler */
        assert_int_equal(b->trap[i].rsp, b->trap[0].rsp);
    }
}
BARE_ASM(hlt_nmi, "cli\n out %al, $0x82\n");
static void test_hlt_nmi(void **state) /* HLT with IF clear wakes for an NMI, not for an interrupt */
{
    struct bare *b = *state;
    bare_put(b, BARE_CODE, hlt_nmi, hlt_nmi_end);
    struct x86_state s = bare_long(b, 0, BARE_CODE + (uint64_t)(hlt_nmi_end - hlt_nmi) - 1), *out = &b->cpu[0].out;
    b->mem[s.r[X86_RIP] + 1] = 0xf4;
    bare_run(b, &s);
    assert_int_equal(out->run_state, X86_HALTED);
    bare_irq(b, 0, 0x40);
    bare_run_cpu(&b->cpu[0]);
    assert_int_equal(out->run_state, X86_HALTED);
    assert_int_equal(b->traps, 0);
    b->engine->interrupt(b->cpu[0].cpu, DP_LINE_NMI, 1);
    bare_run_cpu(&b->cpu[0]);
    assert_int_equal(b->traps, 1);
    assert_int_equal(b->trap[0].vector, X86_NMI);
    assert_int_equal(b->trap[0].rip, s.r[X86_RIP] + 1);
    assert_int_equal(out->r[X86_RIP], s.r[X86_RIP] + 2);
}

/* ---- traps: TF, RF, debug registers (SDM vol. 3 ch. 17) ---- */
#define SET_TF "pushf\n orl $0x100, (%rsp)\n popf\n"
#define CLEAR_TF "pushf\n andl $~0x100, (%rsp)\n popf\n"
BARE_ASM(tf_steps, SET_TF "nop\ntf_steps_1: inc %rbx\ntf_steps_2: mov %rbx, (%rdi)\ntf_steps_3: jmp 1f\n1:\ntf_steps_4: " CLEAR_TF "nop\n"
    " nop");
MARK(tf_steps, 1);
MARK(tf_steps, 2);
MARK(tf_steps, 3);
MARK(tf_steps, 4);
static void test_tf(void **state)
{
    struct bare *b = *state;
    bare_do(b, tf_steps);
    bare_assert_done(b, tf_steps, 7); /* POPF that clears TF still traps */
    const uint64_t want[] = { AT(tf_steps, 1), AT(tf_steps, 2), AT(tf_steps, 3), AT(tf_steps, 4) };
    for (unsigned i = 0; i < 7; i++) {
        assert_int_equal(b->trap[i].vector, X86_DB);
        assert_int_equal(b->trap[i].dr6 & 0xe00f, 0x4000);
        if (i < 4)
            assert_int_equal(b->trap[i].rip, want[i]);
    }
}
BARE_ASM(tf_rep, "mov $3, %ecx\n lea 256(%rdi), %rsi\n" SET_TF "tf_rep_at: rep movsb\ntf_rep_after: " CLEAR_TF);
MARK(tf_rep, at);
MARK(tf_rep, after);
static void test_tf_rep(void **state) /* after each iteration */
{
    struct bare *b = *state;
    bare_do(b, tf_rep);
    bare_assert_done(b, tf_rep, 6);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(b->trap[i].rip, i < 2 ? AT(tf_rep, at) : AT(tf_rep, after));
        assert_int_equal(b->trap[i].rcx, 2 - i);
    }
}
BARE_ASM(tf_ss, "mov %ss, %ebx\n" SET_TF "nop\ntf_ss_1: mov %ebx, %ss\n nop\ntf_ss_2: " CLEAR_TF);
MARK(tf_ss, 1);
MARK(tf_ss, 2);
static void test_tf_ss(void **state) /* MOV SS takes no single-step trap (6.8.3) */
{
    struct bare *b = *state;
    bare_do(b, tf_ss);
    bare_assert_done(b, tf_ss, 5);
    assert_int_equal(b->trap[0].rip, AT(tf_ss, 1));
    assert_int_equal(b->trap[1].rip, AT(tf_ss, 2));
}
BARE_ASM(tf_hlt, SET_TF "hlt\ntf_hlt_after: " CLEAR_TF);
MARK(tf_hlt, after);
static void test_tf_hlt(void **state) /* the trap ends the halt */
{
    struct bare *b = *state;
    bare_do(b, tf_hlt);
    bare_assert_done(b, tf_hlt, 4);
    assert_int_equal(b->trap[0].rip, AT(tf_hlt, after));
}
BARE_ASM(tf_int, SET_TF "int $0x80\ntf_int_after: " CLEAR_TF);
MARK(tf_int, after);
static void test_tf_int(void **state) /* INT n clears TF and takes no trap; IRET brings TF back, the trap follows the next instruction */
{
    struct bare *b = *state;
    bare_do(b, tf_int);
    bare_assert_done(b, tf_int, 4);
    assert_int_equal(b->trap[0].vector, 0x80);
    assert_int_equal(b->trap[0].rip, AT(tf_int, after));
    assert_true(b->trap[0].rflags & X86_TF);
    assert_int_equal(b->trap[1].vector, X86_DB);
    assert_true(b->trap[1].rip > AT(tf_int, after));
}
BARE_ASM(tf_fault, "lea 1f(%rip), %r15\n" SET_TF "ud2\n1: " CLEAR_TF);
static void test_tf_fault(void **state) /* a fault takes no single-step trap */
{
    struct bare *b = *state;
    bare_do(b, tf_fault);
    assert_int_equal(b->trap[0].vector, X86_UD);
    assert_true(b->trap[0].rflags & X86_TF);
    assert_true(b->trap[0].rflags & X86_RF);
    assert_int_equal(b->trap[1].vector, X86_DB);
    assert_int_equal(b->cpu[0].exit.kind, DP_EXIT_HALT);
}
/* SYSCALL looks at TF after FMASK cleared it: no trap in the kernel. SYSRET that sets TF traps before the first instruction of the user. */
BARE_ASM(tf_syscall, "syscall\ntf_syscall_user: nop\n nop\n int $0x80");
BARE_ASM(tf_kernel, "mov $0x102, %r11d\n sysretq\n");
MARK(tf_syscall, user);
static void test_tf_syscall(void **state)
{
    struct bare *b = *state;
    b->on_trap = stop_at_80;
    bare_put(b, BARE_USER_CODE, tf_syscall, tf_syscall_end);
    bare_put(b, BARE_CODE, tf_kernel, tf_kernel_end);
    struct x86_state s = bare_long(b, 0, BARE_USER_CODE);
    bare_user(&s);
    s.lstar = BARE_CODE;
    s.fmask = X86_TF | X86_IF;
    s.rflags |= X86_TF;
    bare_run(b, &s);
    uint64_t user = BARE_USER_CODE + (uint64_t)(tf_syscall_user - tf_syscall);
    assert_int_equal(b->trap[0].vector, X86_DB);
    assert_int_equal(b->trap[0].rip, user);
    assert_int_equal(b->trap[0].cs, BARE_USER_CS64);
    assert_int_equal(b->trap[1].vector, X86_DB);
    assert_int_equal(b->trap[1].rip, user + 1);
    assert_int_equal(b->trap[2].vector, 0x80);
    assert_int_equal(b->traps, 3);
}

BARE_ASM(bp_code, "lea bp_code_at(%rip), %rax\n mov %rax, %dr0\n mov $1, %eax\n mov %rax, %dr7\n mov $3, %ebx\n1: nop\n"
    "bp_code_at: dec %ebx\n jnz 1b\n xor %eax, %eax\n mov %rax, %dr7");
MARK(bp_code, at);
static void set_rf(struct bare *b, struct bare_frame *f) { f->rflags |= X86_RF; }
static void test_bp_code(void **state) /* a fault before the instruction; RF lets it pass once */
{
    struct bare *b = *state;
    b->on_trap = set_rf;
    bare_do(b, bp_code);
    bare_assert_done(b, bp_code, 3);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(b->trap[i].rip, AT(bp_code, at));
        assert_int_equal(b->trap[i].dr6 & 0xe00f, 1);
        assert_int_equal(b->trap[i].rbx, 3 - i);
    }
}
BARE_ASM(bp_rep, "lea bp_rep_at(%rip), %rax\n mov %rax, %dr0\n mov $1, %eax\n mov %rax, %dr7\n mov $20, %ecx\nbp_rep_at: rep stosb\n"
    " xor %eax, %eax\n mov %rax, %dr7");
static void test_bp_rep(void **state) /* RF holds for all iterations */
{
    struct bare *b = *state;
    b->on_trap = set_rf;
    bare_do(b, bp_rep);
    bare_assert_done(b, bp_rep, 1);
}
BARE_ASM(bp_ss, "lea bp_ss_at(%rip), %rax\n mov %rax, %dr0\n mov $1, %eax\n mov %rax, %dr7\n mov %ss, %ebx\n mov %ebx, %ss\n"
    "bp_ss_at: nop\n xor %eax, %eax\n mov %rax, %dr7");
static void test_bp_ss(void **state) /* MOV SS suppresses the breakpoint at what follows */
{
    bare_do(*state, bp_ss);
    bare_assert_done((struct bare *)*state, bp_ss, 0);
}
#define WATCH(control) "lea 16(%rdi), %rax\n mov %rax, %dr1\n mov $" #control ", %eax\n mov %rax, %dr7\n"
#define UNWATCH "xor %eax, %eax\n mov %rax, %dr7"
BARE_ASM(bp_write, WATCH(0x00d00004) "mov (%rdi), %eax\n mov 16(%rdi), %eax\n movb $1, 15(%rdi)\n movb $1, 20(%rdi)\n"
    " mov %eax, 13(%rdi)\nbp_write_1: movups %xmm0, 4(%rdi)\nbp_write_2: incl 19(%rdi)\nbp_write_3: "
                   "push %rdi\n add $12, %rdi\n mov $8, %ecx\n rep stosb\nbp_write_5: pop %rdi\n" UNWATCH);
MARK(bp_write, 1);
MARK(bp_write, 2);
MARK(bp_write, 3);
static void test_bp_write(void **state)
{
    struct bare *b = *state;
    bare_do(b, bp_write);
    bare_assert_done(b, bp_write, 7);
    const uint64_t want[] = { AT(bp_write, 1), AT(bp_write, 2), AT(bp_write, 3) };
    for (unsigned i = 0; i < 7; i++) {
        assert_int_equal(b->trap[i].dr6 & 0xe00f, 2);
        if (i < 3)
            assert_int_equal(b->trap[i].rip, want[i]);
        else
            assert_int_equal(b->trap[i].rcx, 6 - i);
    }
}
BARE_ASM(bp_access, WATCH(0x00f00004) "mov (%rdi), %eax\n mov 16(%rdi), %eax\n movb $1, 15(%rdi)\n mov %eax, 13(%rdi)\n"
    " movups 4(%rdi), %xmm0\n cmpb $0, 19(%rdi)\n" UNWATCH);
static void test_bp_access(void **state)
{
    bare_do(*state, bp_access);
    bare_assert_done((struct bare *)*state, bp_access, 4);
}
BARE_ASM(bp_mov_ss, "mov %ss, 16(%rdi)\n" WATCH(0x00f00004) "mov 16(%rdi), %ss\n nop\nbp_mov_ss_at: nop\n" UNWATCH);
MARK(bp_mov_ss, at);
static void test_bp_mov_ss(void **state) /* the trap of MOV SS's operand comes after the next instruction */
{
    struct bare *b = *state;
    bare_do(b, bp_mov_ss);
    bare_assert_done(b, bp_mov_ss, 1);
    assert_int_equal(b->trap[0].rip, AT(bp_mov_ss, at));
    assert_int_equal(b->trap[0].dr6 & 0xe00f, 2);
}
BARE_ASM(bp_mov_ss_int1, "mov %ss, 16(%rdi)\n" WATCH(0x00f00004) "mov 16(%rdi), %ss\n .byte 0xf1\nbp_mov_ss_int1_at: nop\n" UNWATCH);
MARK(bp_mov_ss_int1, at);
static void test_bp_mov_ss_int1(void **state) /* one #DB for both: a second would overwrite the first one's frame */
{
    struct bare *b = *state;
    bare_do(b, bp_mov_ss_int1);
    bare_assert_done(b, bp_mov_ss_int1, 1);
    assert_int_equal(b->trap[0].rip, AT(bp_mov_ss_int1, at));
    assert_int_equal(b->trap[0].dr6 & 0xe00f, 2);
}
BARE_ASM(bp_io, "mov %cr4, %rax\n or $8, %eax\n mov %rax, %cr4\n mov $0x8c, %eax\n mov %rax, %dr2\n mov $0x02000010, %eax\n"
    " mov %rax, %dr7\n out %al, $0x8b\n out %al, $0x8c\nbp_io_1: in $0x8c, %al\n"
                "bp_io_2: in $0x8d, %al\n" UNWATCH);
MARK(bp_io, 1);
MARK(bp_io, 2);
static void test_bp_io(void **state)
{
    struct bare *b = *state;
    bare_do(b, bp_io);
    bare_assert_done(b, bp_io, 2);
    assert_int_equal(b->trap[0].rip, AT(bp_io, 1));
    assert_int_equal(b->trap[1].rip, AT(bp_io, 2));
    assert_int_equal(b->trap[1].dr6 & 0xe00f, 4);
}
BARE_ASM(gd, "lea 1f(%rip), %r15\n mov $0x2000, %eax\n mov %rax, %dr7\ngd_at: mov %dr0, %rax\n1: mov %dr7, %rbx");
MARK(gd, at);
static void skip_to_r15(struct bare *b, struct bare_frame *f)
{
    f->rip = f->r15;
}
static void test_gd(void **state)
{
    struct bare *b = *state;
    b->on_trap = skip_to_r15;
    const struct x86_state *s = bare_do(b, gd);
    bare_assert_done(b, gd, 1);
    assert_int_equal(b->trap[0].rip, AT(gd, at));
    assert_int_equal(b->trap[0].dr6 & 0xe00f, 0x2000);
    assert_int_equal(s->r[X86_RBX], 0x400); /* GD is off in the handler and stays so */
}

/* ---- start and end of processors ---- */
BARE_CODE_BITS(16, ap_start, "mov %cs, %ax\n mov $0x1234, %bx\n");
static void test_sipi(void **state)
{
    struct bare *b = *state;
    struct bare_cpu *p = &b->cpu[1];
    struct x86_state s;
    x86_state_reset(&s, false);
    bare_put(b, 0x33000, ap_start, ap_start_end);
    b->engine->push(p->cpu, &s);
    bare_run_cpu(p);
    assert_int_equal(p->exit.kind, DP_EXIT_WAIT_SIPI);
    bare_irq(b, 1, 0x40); /* means nothing to a waiting processor */
    b->engine->interrupt(p->cpu, DP_LINE_INIT, 1);
    bare_run_cpu(p);
    assert_int_equal(p->exit.kind, DP_EXIT_WAIT_SIPI);
    b->engine->interrupt(p->cpu, DP_LINE_INIT, 1); /* both at once: in order */
    b->engine->interrupt(p->cpu, DP_LINE_SIPI, 0x33);
    bare_run_cpu(p);
    assert_int_equal(p->exit.kind, DP_EXIT_HALT);
    assert_int_equal(p->out.r[X86_RAX] & 0xffff, 0x3300);
    assert_int_equal(p->out.r[X86_RBX] & 0xffff, 0x1234);
    assert_int_equal(p->out.seg[X86_CS].base, 0x33000);
    b->engine->interrupt(p->cpu, DP_LINE_SIPI, 0x44); /* a running (or halted) one ignores it, and it is not kept */
    bare_run_cpu(p);
    assert_int_equal(p->exit.kind, DP_EXIT_HALT);
    b->engine->interrupt(p->cpu, DP_LINE_INIT, 1);
    bare_run_cpu(p);
    assert_int_equal(p->exit.kind, DP_EXIT_WAIT_SIPI);
    atomic_store(&p->irr[1], 0);
    b->engine->interrupt(p->cpu, DP_LINE_INTR, 0);
}
static void test_sipi_saved(void **state) /* pending INIT, SIPI and NMI travel with the state */
{
    struct bare *b = *state;
    struct bare_cpu *p = &b->cpu[1];
    struct x86_state s;
    x86_state_reset(&s, false);
    bare_put(b, 0x33000, ap_start, ap_start_end);
    b->engine->push(p->cpu, &s);
    b->engine->interrupt(p->cpu, DP_LINE_SIPI, 0x33);
    b->engine->pull(p->cpu, &s);
    assert_true(s.sipi_pending);
    struct x86_state other;
    x86_state_reset(&other, true);
    b->engine->push(p->cpu, &other);
    b->engine->push(p->cpu, &s);
    bare_run_cpu(p);
    assert_int_equal(p->exit.kind, DP_EXIT_HALT);
    assert_int_equal(p->out.seg[X86_CS].base, 0x33000);
}
/* An event in the state itself is delivered first. */
static void test_event_pending(void **state)
{
    struct bare *b = *state;
    b->mem[BARE_CODE] = 0x90, b->mem[BARE_CODE + 1] = 0xf4;
    dp_ram_mark_dirty(b->ram, BARE_CODE, 2);
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    s.event_pending = true;
    s.event_vector = 0x55;
    s.event_kind = X86_EVENT_EXTERNAL;
    bare_run(b, &s);
    assert_int_equal(b->traps, 1);
    assert_int_equal(b->trap[0].vector, 0x55);
    assert_int_equal(b->trap[0].rip, BARE_CODE);
    assert_false(b->cpu[0].out.event_pending);
    s.event_vector = X86_GP;
    s.event_kind = X86_EVENT_EXCEPTION;
    s.event_has_error = true;
    s.event_error = 0x128;
    s.r[X86_R15] = BARE_CODE;
    bare_run(b, &s);
    assert_int_equal(b->traps, 1);
    assert_int_equal(b->trap[0].vector, X86_GP);
    assert_int_equal(b->trap[0].error, 0x128);
}
BARE_ASM(triple, "mov $0x40002000, %ebx\n lidt (%rdi)\n mov (%rbx), %eax\n");
static void test_triple(void **state)
{
    struct bare *b = *state;
    memset(b->mem + D, 0, 16);
    const struct x86_state *s = bare_do(b, triple);
    assert_int_equal(b->cpu[0].exit.kind, DP_EXIT_SHUTDOWN);
    assert_int_equal(s->run_state, X86_SHUTDOWN);
    const char *text = (const char *)b->cpu[0].exit.text.data;
    assert_non_null(strstr(text, "#PF"));
    assert_non_null(strstr(text, "0x40002000"));
    assert_non_null(strstr(text, "#DF"));
    struct bare_cpu *p = &b->cpu[0];
    b->engine->interrupt(p->cpu, DP_LINE_NMI, 1); /* nothing but a reset or INIT wakes it */
    bare_run_cpu(p);
    assert_int_equal(p->exit.kind, DP_EXIT_SHUTDOWN);
}

/* ---- counting ---- */
BARE_ASM(count_loop, "mov $1000, %ecx\n1: nop\n nop\n dec %ecx\n jnz 1b\n");
BARE_ASM(count_rep, "mov $1000, %ecx\n nop\n rep lodsb\n nop\n nop\n");
BARE_ASM(count_fault, "mov $100, %ecx\n1: lea 2f(%rip), %r15\n nop\n ud2\n nop\n nop\n nop\n2: dec %ecx\n jnz 1b\n");
BARE_ASM(count_smc, "mov $1, %eax\n lea 1f(%rip), %rbx\n movb $0x90, (%rbx)\n1: nop\n nop\n nop\n");
static uint64_t counted(struct bare *b, const uint8_t *begin, const uint8_t *end)
{
    struct dp_engine_counters n0, n1;
    b->engine->counters(b->cpu[0].cpu, &n0);
    bare_do_at(b, begin, end);
    b->engine->counters(b->cpu[0].cpu, &n1);
    return n1.instructions - n0.instructions;
}
static void count_only(struct bare *b, struct bare_frame *f)
{
    f->rip = f->r15;
}
static void test_count(void **state)
{
    struct bare *b = *state;
    if (!exact_counts())
        skip();
    assert_int_equal(counted(b, count_loop, count_loop_end), 1 + 4000 + 1);
    assert_int_equal(counted(b, count_smc, count_smc_end), 7);
    if (!b->steps)
        assert_in_range(counted(b, count_rep, count_rep_end), 6, 6);
    b->on_trap = count_only;
    b->traps = 0;
    uint64_t n = counted(b, count_fault, count_fault_end);
    /* 100 rounds of LEA, NOP, DEC, JNZ, UD2 (which does not count) and the bench's handler of 44 to 48 */
    assert_true((n - 2) % 100 == 0);
    assert_in_range((n - 2) / 100, 4 + 40, 4 + 52);
}
static void test_budget(void **state)
{
    struct bare *b = *state;
    if (b->steps || !exact_counts())
        skip();
    b->budget = 100;
    bare_do(b, count_loop);
    bare_assert_done(b, count_loop, 0);
    assert_in_range(b->cpu[0].runs, 10, 100);
    b->cpu[0].runs = 0;
    b->budget = 10; /* below 64 also the end of a block ends it */
    bare_do(b, count_loop);
    assert_in_range(b->cpu[0].runs, 100, 1100);
    b->cpu[0].runs = 0;
    b->budget = 1;
    bare_do(b, count_loop);
    assert_in_range(b->cpu[0].runs, 1000, 4100);
}
/* A kick ends an endless loop, also one inside a REP. */
BARE_ASM(endless, "1: jmp 1b");
BARE_ASM(endless_rep, "mov $-1, %rcx\n mov $0x20000, %esi\n1: mov %rsi, %rsi\n .byte 0xf3, 0xac\n jmp 1b");
static atomic_bool kicked;
static void *run_once(void *opaque)
{
    struct bare_cpu *p = opaque;
    bare_running = p;
    p->b->engine->run(p->cpu, 0, &p->exit);
    atomic_store(&kicked, true);
    return NULL;
}
static void test_kick(void **state)
{
    struct bare *b = *state;
    for (unsigned k = 0; k < 40; k++) {
        bare_put(b, BARE_CODE, endless, endless_end);
        struct x86_state s = bare_long(b, 0, BARE_CODE);
        b->engine->push(b->cpu[0].cpu, &s);
        atomic_store(&kicked, false);
        pthread_t t;
        pthread_create(&t, NULL, run_once, &b->cpu[0]);
        for (unsigned i = 0; i < k * 1000; i++)
            __asm__ volatile("pause");
        b->engine->kick(b->cpu[0].cpu);
        pthread_join(t, NULL);
        assert_int_equal(b->cpu[0].exit.kind, DP_EXIT_KICK);
    }
    /* Kicked before it runs: at once. */
    b->engine->kick(b->cpu[0].cpu);
    run_once(&b->cpu[0]);
    assert_int_equal(b->cpu[0].exit.kind, DP_EXIT_KICK);
}
static void test_endless_rep(void **state) /* STOSB to one page by a count of 2^64 - 1, through RAM's end: a fault or a kick ends it */
{
    struct bare *b = *state;
    bare_put(b, BARE_CODE, endless_rep, endless_rep_end);
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    b->engine->push(b->cpu[0].cpu, &s);
    b->traps = 0;
    pthread_t t;
    pthread_create(&t, NULL, run_once, &b->cpu[0]);
    usleep(2000);
    b->engine->kick(b->cpu[0].cpu);
    pthread_join(t, NULL);
    assert_true(b->cpu[0].exit.kind == DP_EXIT_KICK || b->cpu[0].exit.kind == DP_EXIT_HALT);
}

/* ---- two processors ---- */
BARE_ASM(tlb_reader, "1: mov $0x40000000, %ebx\n mov (%rbx), %eax\n sti\n nop\n cli\n cmpq $0, 0x2f000\n je 1b");
static void test_ipi_storm(void **state) /* every interrupt from another thread arrives, halted or running */
{
    struct bare *b = *state;
    bare_put(b, BARE_CODE, tlb_reader, tlb_reader_end);
    bare_map(b, BARE_ALIAS, D, 3);
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    memset(b->mem + 0x2f000, 0, 8);
    b->engine->push(b->cpu[0].cpu, &s);
    b->traps = 0;
    b->mem[BARE_MAILBOX + BARE_TR + 8] = 0;
    pthread_t t;
    pthread_create(&t, NULL, bare_run_cpu, &b->cpu[0]);
    for (unsigned i = 0; i < 200; i++) {
        bare_irq(b, 0, (uint8_t)(0x40 + i % 64));
        while (atomic_load(&b->cpu[0].irr[1]))
            sched_yield();
    }
    __atomic_store_n((uint64_t *)(b->mem + 0x2f000), 1, __ATOMIC_SEQ_CST);
    pthread_join(t, NULL);
    assert_int_equal(b->traps, 200);
}

/* Interrupts at any place of code that works on the stack they are delivered on: an instruction that is done again after its interrupt (or half done before it) finds what
 * their frames left there. Rounds begin on either alignment; RAX counts what is not as it was left. */
BARE_ASM(stack_storm, "mov %rsp, %r15\n xor %eax, %eax\n mov $0x1111111111111111, %r14\n sti\n"
                      "1: mov %r15, %rsp\n mov %rsi, %rcx\n and $1, %ecx\n lea (%rsp,%rcx,8), %rsp\n mov %rsp, %r13\n inc %rsi\n"
                      " mov %r14, %rbp\n call 2f\n cmp %r14, %rbp\n setne %cl\n movzbl %cl, %ecx\n add %rcx, %rax\n"
                      " cmp %r13, %rsp\n setne %cl\n movzbl %cl, %ecx\n add %rcx, %rax\n"
                      " lea 3f(%rip), %rbx\n mov %rbx, (%rdi)\n push $5\n call *%rbx\n cmp %rsi, %rdx\n setne %cl\n movzbl %cl, %ecx\n add %rcx, %rax\n"
                      " push $7\n call *(%rdi)\n cmp %r13, %rsp\n setne %cl\n movzbl %cl, %ecx\n add %rcx, %rax\n"
                      " enter $24, $0\n mov %rsi, -8(%rbp)\n mov -8(%rbp), %rdx\n leave\n cmp %rsi, %rdx\n setne %cl\n movzbl %cl, %ecx\n add %rcx, %rax\n"
                      " cmp %r14, %rbp\n setne %cl\n movzbl %cl, %ecx\n add %rcx, %rax\n"
                      " cmpq $0, 0x2f000\n je 1b\n cli\n mov %r15, %rsp\n jmp 9f\n"
                      "2: push %rbp\n mov %rsp, %rbp\n push %rbx\n push %r12\n push %rsi\n pushf\n mov %rsi, %r12\n lea 77(%rsi), %rbx\n push %rbx\n xchg %r12, (%rsp)\n"
                      " pop %rdx\n cmp %rsi, %rdx\n setne %cl\n movzbl %cl, %ecx\n add %rcx, %rax\n push 8(%rbp)\n pop %rdx\n cmp 8(%rbp), %rdx\n setne %cl\n"
                      " movzbl %cl, %ecx\n add %rcx, %rax\n popf\n pop %rdx\n cmp %rsi, %rdx\n setne %cl\n movzbl %cl, %ecx\n add %rcx, %rax\n pop %r12\n pop %rbx\n leave\n ret\n"
                      "3: mov %rsi, %rdx\n ret $8\n"
                      ".globl stack_storm_irq\nstack_storm_irq: push %rdx\n xor %edx, %edx\n incq 8(%rdi)\n pop %rdx\n iretq\n"
                      "9: nop");
MARK(stack_storm, irq);
static void test_stack_storm(void **state)
{
    struct bare *b = *state;
    const uint64_t handler = AT(stack_storm, irq);
    bare_put(b, BARE_CODE, stack_storm, stack_storm_end);
    dp_st64(b->mem + BARE_IDT + 0x40 * 16, (handler & 0xffff) | (handler >> 16) << 48 | (uint64_t)BARE_CS64 << 16 | 0x8eull << 40);
    struct x86_state s = bare_long(b, 0, BARE_CODE);
    s.r[X86_RSI] = 0;
    memset(b->mem + 0x2f000, 0, 8);
    memset(b->mem + D, 0, 16);
    b->engine->push(b->cpu[0].cpu, &s);
    b->traps = 0;
    b->mem[BARE_MAILBOX + BARE_TR + 8] = 0;
    pthread_t t;
    pthread_create(&t, NULL, bare_run_cpu, &b->cpu[0]);
    unsigned seed = 1;
    struct timespec now, end;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += 1;
    do {
        if (!hot_is_shaken(bare_engine)) /* which does the same to the stack, and is slow */
            bare_irq(b, 0, 0x40);
        while (atomic_load(&b->cpu[0].irr[1]))
            sched_yield();
        seed = seed * 1103515245 + 12345;
        for (unsigned i = 0; i < (seed >> 16) % 512; i++) /* somewhere else each time */
            __asm__ volatile("pause");
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
    __atomic_store_n((uint64_t *)(b->mem + 0x2f000), 1, __ATOMIC_SEQ_CST);
    pthread_join(t, NULL);
    bare_assert_done(b, stack_storm, 0);
    assert_int_equal(b->cpu[0].out.r[X86_RAX], 0);
    assert_true(dp_ld64(b->mem + D + 8) > 0 || hot_is_shaken(bare_engine));
}

int main(int argc, char **argv)
{
    system_arguments(argc, argv);
    const struct CMUnitTest tests[] = {
        T(test_sti_shadow), T(test_sti_cli), T(test_sti_hlt), T(test_ss_shadow), T(test_popf_window), T(test_iret_window),
        T(test_irq_order), T(test_nmi_block), T(test_hlt_nmi), T(test_tf), T(test_tf_rep), T(test_tf_ss), T(test_tf_hlt), T(test_tf_int),
        T(test_tf_fault), T(test_tf_syscall), T(test_bp_code), T(test_bp_rep), T(test_bp_ss), T(test_bp_write), T(test_bp_access),
        T(test_bp_mov_ss), T(test_bp_mov_ss_int1), T(test_bp_io), T(test_gd), T(test_sipi), T(test_sipi_saved), T(test_event_pending),
        T(test_triple), T(test_count), T(test_budget), T(test_kick), T(test_endless_rep), T(test_ipi_storm), T(test_stack_storm) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
