/* test_isolation.c - a guest that reaches for what is not its own gets the fault of the manual and nothing else.
 *
 * Model: a form is a way to access memory at RBX, for an arbitrary value of RBX. Every form runs at CPL 0 and 3 over every address: the edges of
 * mapped, unmapped, protected pages, of RAM, of the canonical halves, and places in every mapping of this very process (heap, stacks, code, the
 * translator's caches and tables, vdso), several rounds each so that what is translated runs, too. One run of the engine does it all: each fault, or the
 * UD2 behind a form, traps to the host, which judges and sends the guest to the next address. What must happen is told by a small model of the
 * tables here; besides, all registers must be those that the interpreter leaves. Canary memory, guest and host, is compared at the end; no mapping may
 * be writable and executable.
 * argv: engine, pattern of names. Source: Intel SDM vol. 1 3.3.7.1, vol. 3 4.7, 6.15; vol. 2 at the instructions.
 */
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bare.h"

#define FS_BASE 0x0000712345678900ull
#define GS_BASE 0xffff900000001000ull
#define WINDOW 0x300000ull    /* physical: what is mapped at ALIAS */
#define NX_PAGE (BARE_ALIAS + 0x8000)

enum { READ = 0, WRITE = 1, STACK = 2, ALIGN16 = 4, ALIGN32 = 8, NARROW = 16 /* 32-bit address */, FAULTS = 32 /* only where it faults: what it reads leads on */,
       AVX = 64, KERNEL = 128, BYTES = 256 /* one after the other */, NOTHING = 512 /* no access */, CANONICAL = 1024 /* only such addresses */,
       BASE = 2048 /* #GP if not canonical, nothing else */, QUADS = 4096 /* 8 bytes after the other */ };

/* X(name, flags, size, setup, instruction) */
#define FORMS(X) \
    X(base, READ, 8, "mov %rbx, %rax", "mov (%rax), %rcx") \
    X(base_store, WRITE, 8, "mov %rbx, %rax", "mov %rcx, (%rax)") \
    X(base_imm, WRITE, 4, "mov %rbx, %rdx", "movl $7, (%rdx)") \
    X(byte, READ, 1, "", "movzbl (%rbx), %ecx") \
    X(word_store, WRITE, 2, "", "mov %cx, (%rbx)") \
    X(disp8, READ, 4, "lea -0x7f(%rbx), %rax", "mov 0x7f(%rax), %ecx") \
    X(disp32, WRITE, 4, "lea 0x7ffffff0(%rbx), %rsi", "mov %ecx, -0x7ffffff0(%rsi)") \
    X(disp32_up, READ, 8, "lea -0x7ffff000(%rbx), %rsi", "add 0x7ffff000(%rsi), %rcx") \
    X(index1, READ, 8, "mov %rbx, %rax\n movabs $0xfedcba9876543210, %rdx\n sub %rdx, %rax", "mov (%rax,%rdx), %rsi") \
    X(index2, READ, 1, "movabs $0x8123456789abcdef, %rdx\n lea (%rdx,%rdx), %rcx\n mov %rbx, %rax\n sub %rcx, %rax", "movsbl (%rax,%rdx,2), %esi") \
    X(index4, WRITE, 2, "movabs $0x7123456789abcdef, %rcx\n lea (,%rcx,4), %rsi\n mov %rbx, %rax\n sub %rsi, %rax", "addw $3, (%rax,%rcx,4)") \
    X(index8, WRITE, 8, "mov $-5, %rdx\n lea 40(%rbx), %rax", "addq $1, (%rax,%rdx,8)") \
    X(index_only, READ, 1, "mov %rbx, %rdx", "mov (,%rdx,1), %al") \
    X(r13, READ, 8, "mov %rbx, %r13", "mov (%r13), %rax") \
    X(r14_r13, WRITE, 8, "mov %rbx, %r14\n sub $0x1000, %r14\n mov $0x1000, %r13d", "mov %r15, (%r14,%r13)") \
    X(r15_disp, WRITE, 4, "lea 0x12345678(%rbx), %r15", "xchg %ecx, -0x12345678(%r15)") \
    X(rcx, READ, 8, "mov %rbx, %rcx", "mov (%rcx), %rcx") \
    X(rcx_index, WRITE, 8, "mov $3, %ecx\n lea -24(%rbx), %r8", "sub %rcx, (%r8,%rcx,8)") \
    X(r12, READ, 8, "lea -8(%rbx), %r12", "cmp 8(%r12), %rax") \
    X(rsp, STACK, 8, "mov %rbx, %rsp", "mov (%rsp), %rax") \
    X(rsp_disp, WRITE | STACK, 8, "lea -64(%rbx), %rsp", "mov %rax, 64(%rsp)") \
    X(rbp, STACK, 4, "lea 8(%rbx), %rbp", "mov -8(%rbp), %eax") \
    X(rbp_index, WRITE | STACK, 1, "mov $0x100, %eax\n lea -0x800(%rbx), %rbp", "movb $9, (%rbp,%rax,8)") \
    X(fs, READ, 8, "movabs $0x0000712345678900, %rcx\n mov %rbx, %rax\n sub %rcx, %rax", "mov %fs:(%rax), %rdx") \
    X(fs_store, WRITE, 4, "movabs $0x0000712345678900, %rcx\n mov %rbx, %rax\n sub %rcx, %rax\n mov $16, %edx\n sub $128, %rax", "incl %fs:(%rax,%rdx,8)") \
    X(gs, READ, 8, "movabs $0xffff900000001000, %rcx\n mov %rbx, %r13\n sub %rcx, %r13", "mov %gs:(%r13), %rdx") \
    X(gs_store, WRITE, 8, "movabs $0xffff900000001000, %rcx\n mov %rbx, %rax\n sub %rcx, %rax", "mov %r14, %gs:(%rax)") \
    X(wrfs, BASE, 0, "", "wrfsbase %rbx") \
    X(wrgs, BASE, 0, "", "wrgsbase %rbx") \
    X(wrfs_load, CANONICAL, 8, "rdfsbase %r9\n wrfsbase %rbx", "mov %fs:0, %rdx") \
    X(wrgs_store, CANONICAL | WRITE, 8, "wrgsbase %rbx", "mov %rdx, %gs:0") \
    X(wrmsr_fs, BASE | KERNEL, 0, "mov %ebx, %eax\n mov %rbx, %rdx\n shr $32, %rdx\n mov $0xc0000100, %ecx", "wrmsr") \
    X(wrmsr_kernel_gs, BASE | KERNEL, 0, "mov %ebx, %eax\n mov %rbx, %rdx\n shr $32, %rdx\n mov $0xc0000102, %ecx", "wrmsr") \
    X(wrmsr_lstar, BASE | KERNEL, 0, "mov %ebx, %eax\n mov %rbx, %rdx\n shr $32, %rdx\n mov $0xc0000082, %ecx", "wrmsr") \
    X(swapgs_load, CANONICAL | KERNEL, 8, "mov %ebx, %eax\n mov %rbx, %rdx\n shr $32, %rdx\n mov $0xc0000102, %ecx\n wrmsr\n swapgs", "mov %gs:0, %rdx") \
    X(a32, NARROW, 4, "mov %rbx, %rax", "mov (%eax), %ecx") \
    X(a32_store, WRITE | NARROW, 4, "lea 0x10(%rbx), %rsi", "mov %ecx, -0x10(%esi)") \
    X(a32_index, WRITE | NARROW, 1, "lea -0x80000000(%rbx), %rax\n mov $0x10000000, %edx", "notb (%eax,%edx,8)") \
    X(lea, NOTHING, 0, "", "lea 0x10(%rbx,%rbx,8), %rax") \
    X(nop, NOTHING, 0, "", "nopw 0x10(%rbx,%rbx,8)") \
    X(prefetch, NOTHING, 0, "", "prefetcht0 (%rbx)") \
    X(invlpg, NOTHING | KERNEL, 0, "", "invlpg (%rbx)") \
    X(push, WRITE | STACK, 8, "lea 8(%rbx), %rsp", "push %rax") \
    X(push_imm, WRITE | STACK, 8, "lea 8(%rbx), %rsp", "push $-2") \
    X(push_r14, WRITE | STACK, 8, "lea 8(%rbx), %rsp", "push %r14") \
    X(push_fs, WRITE | STACK, 8, "lea 8(%rbx), %rsp", "push %fs") \
    X(push16, WRITE | STACK, 2, "lea 2(%rbx), %rsp", "pushw %ax") \
    X(pushf, WRITE | STACK, 8, "lea 8(%rbx), %rsp", "pushf") \
    X(push_mem, READ, 8, "", "pushq (%rbx)") \
    X(pop, STACK, 8, "mov %rbx, %rsp", "pop %rax") \
    X(pop_r13, STACK, 8, "mov %rbx, %rsp", "pop %r13") \
    X(popf, STACK | FAULTS, 8, "mov %rbx, %rsp", "popf") \
    X(pop_mem, WRITE, 8, "push $0", "popq (%rbx)") \
    X(call, WRITE | STACK, 8, "lea 8(%rbx), %rsp", "call form_call_ok") \
    X(call_far_away, WRITE | STACK | FAULTS, 8, "lea 8(%rbx), %rsp", "call . + 0x70000000") \
    X(call_reg, WRITE | STACK, 8, "lea form_call_reg_ok(%rip), %rcx\n lea 8(%rbx), %rsp", "call *%rcx") \
    X(call_mem, FAULTS, 8, "", "call *(%rbx)") \
    X(jmp_mem, FAULTS, 8, "", "jmp *(%rbx)") \
    X(ret, STACK | FAULTS, 8, "mov %rbx, %rsp", "ret") \
    X(ret_imm, STACK | FAULTS, 8, "mov %rbx, %rsp", "ret $24") \
    X(leave, STACK, 8, "mov %rbx, %rbp", "leave") \
    X(enter, WRITE | STACK, 8, "lea 8(%rbx), %rsp", "enter $0, $0") \
    X(lret, STACK | FAULTS | QUADS, 16, "mov %rbx, %rsp", "lretq") \
    X(iret, STACK | FAULTS | QUADS, 40, "mov %rbx, %rsp", "iretq") \
    X(ljmp, FAULTS | QUADS, 10, "", ".byte 0x48, 0xff, 0x2b" /* rex.w ljmp *(%rbx), which clang does not know */) \
    X(lcall, FAULTS | QUADS, 10, "", ".byte 0x48, 0xff, 0x1b" /* rex.w lcall *(%rbx) */) \
    X(lfs, FAULTS | QUADS, 10, "", ".byte 0x48; lfs (%rbx), %ecx") \
    X(lss, FAULTS | QUADS, 10, "", ".byte 0x48; lss (%rbx), %ecx") \
    X(mov_from_seg, WRITE, 2, "", "mov %ss, (%rbx)") \
    X(mov_to_seg, FAULTS, 2, "", "mov (%rbx), %es") \
    X(lods, READ, 1, "mov %rbx, %rsi", "lodsb") \
    X(stos, WRITE, 8, "mov %rbx, %rdi", "stosq") \
    X(stos_down, WRITE, 4, "mov %rbx, %rdi\n std", "stosl") \
    X(movs_from, READ, 8, "lea 0x100(%rsp), %rdi\n mov %rbx, %rsi", "movsq") \
    X(movs_to, WRITE, 2, "lea 0x100(%rsp), %rsi\n mov %rbx, %rdi", "movsw") \
    X(cmps, READ, 4, "lea 0x100(%rsp), %rdi\n mov %rbx, %rsi", "cmpsl") \
    X(scas, READ, 8, "mov %rbx, %rdi", "scasq") \
    X(rep_stos, WRITE | BYTES, 4, "mov %rbx, %rdi\n mov $4, %ecx", "rep stosb") \
    X(rep_movs, BYTES, 20, "lea 0x100(%rsp), %rdi\n mov %rbx, %rsi\n mov $20, %ecx", "rep movsb") \
    X(rep_scas, BYTES, 3, "mov %rbx, %rdi\n mov $3, %ecx\n mov $0xfe, %al", "repne scasb") \
    X(xlat, READ, 1, "lea -5(%rbx), %rbx\n mov $5, %al", "xlat") \
    X(lock_xadd, WRITE, 8, "mov $1, %eax", "lock xadd %rax, (%rbx)") \
    X(lock_cmpxchg, WRITE, 4, "", "lock cmpxchg %ecx, (%rbx)") \
    X(cmpxchg, WRITE, 8, "", "cmpxchg %rcx, (%rbx)") \
    X(cmpxchg8b, WRITE, 8, "mov %rbx, %rsi", "lock cmpxchg8b (%rsi)") \
    X(cmpxchg16b, WRITE | ALIGN16, 16, "mov %rbx, %rsi", "lock cmpxchg16b (%rsi)") \
    X(bts, WRITE, 8, "lea -0x8000(%rbx), %rax\n mov $0x40000, %ecx", "bts %rcx, (%rax)") \
    X(btr_back, WRITE, 4, "lea 0x1000(%rbx), %rax\n mov $-0x8000, %rcx", "lock btr %ecx, (%rax)") \
    X(bt_imm, READ, 4, "", "btl $31, (%rbx)") \
    X(setcc, WRITE, 1, "", "sete (%rbx)") \
    X(shl, WRITE, 4, "mov $3, %ecx", "shll %cl, (%rbx)") \
    X(shld, WRITE, 8, "mov $3, %ecx", "shld %cl, %rdx, (%rbx)") \
    X(rcr, WRITE, 2, "", "rcrw (%rbx)") \
    X(mul, READ, 8, "", "mulq (%rbx)") \
    X(imul, READ, 8, "", "imul $7, (%rbx), %rax") \
    X(div, FAULTS, 8, "", "divq (%rbx)") \
    X(movbe, WRITE, 4, "", "movbe %eax, (%rbx)") \
    X(crc32, READ, 8, "", "crc32q (%rbx), %rax") \
    X(cmov, READ, 8, "cmp %eax, %eax", "cmovne (%rbx), %rcx") \
    X(movnti, WRITE, 8, "", "movnti %rcx, (%rbx)") \
    X(clflush, READ, 1, "", "clflush (%rbx)") \
    X(movups, READ, 16, "", "movups (%rbx), %xmm1") \
    X(movups_store, WRITE, 16, "mov %rbx, %r14", "movups %xmm1, (%r14)") \
    X(movaps, ALIGN16, 16, "", "movaps (%rbx), %xmm1") \
    X(movdqa_store, WRITE | ALIGN16, 16, "lea 16(%rbx), %rax", "movdqa %xmm1, -16(%rax)") \
    X(movntdq, WRITE | ALIGN16, 16, "", "movntdq %xmm1, (%rbx)") \
    X(movq, READ, 8, "", "movq (%rbx), %xmm2") \
    X(movd_store, WRITE, 4, "", "movd %xmm2, (%rbx)") \
    X(movhps, WRITE, 8, "", "movhps %xmm2, (%rbx)") \
    X(lddqu, READ, 16, "", "lddqu (%rbx), %xmm3") \
    X(pshufb, ALIGN16, 16, "", "pshufb (%rbx), %xmm3") \
    X(cvtsi2sd, READ, 8, "", "cvtsi2sdq (%rbx), %xmm3") \
    X(pextrb, WRITE, 1, "", "pextrb $3, %xmm3, (%rbx)") \
    X(pcmpistri, READ, 16, "", "pcmpistri $0, (%rbx), %xmm3") \
    X(maskmovdqu, WRITE | QUADS, 16, "mov %rbx, %rdi\n pcmpeqb %xmm1, %xmm1", "maskmovdqu %xmm1, %xmm0") \
    X(ldmxcsr, FAULTS, 4, "", "ldmxcsr (%rbx)") \
    X(stmxcsr, WRITE, 4, "", "stmxcsr (%rbx)") \
    X(vmovups, READ | AVX, 32, "", "vmovups (%rbx), %ymm1") \
    X(vmovups_store, WRITE | AVX, 32, "mov %rbx, %r13", "vmovups %ymm1, (%r13)") \
    X(vmovaps, AVX | ALIGN32, 32, "", "vmovaps (%rbx), %ymm1") \
    X(vmovdqa_store, WRITE | AVX | ALIGN32, 32, "", "vmovdqa %ymm1, (%rbx)") \
    X(vmovdqu_index, READ | AVX, 16, "lea -0x400(%rbx), %r14\n mov $0x80, %r13d", "vmovdqu (%r14,%r13,8), %xmm1") \
    X(vpaddd, READ | AVX, 32, "", "vpaddd (%rbx), %ymm1, %ymm2") \
    X(vbroadcast, READ | AVX, 4, "", "vbroadcastss (%rbx), %ymm2") \
    X(vextract, WRITE | AVX, 16, "", "vextracti128 $1, %ymm2, (%rbx)") \
    X(mulx, READ | AVX, 8, "", "mulx (%rbx), %rax, %rcx") \
    X(fld, READ, 8, "fninit", "fldl (%rbx)") \
    X(fstp, WRITE, 8, "fninit\n fldz", "fstpl (%rbx)") \
    X(fldt, READ, 10, "fninit", "fldt (%rbx)") \
    X(fstpt, WRITE, 10, "fninit\n fldz", "fstpt (%rbx)") \
    X(fild, READ, 2, "fninit", "filds (%rbx)") \
    X(fnstcw, WRITE, 2, "fninit", "fnstcw (%rbx)") \
    X(fnstenv, WRITE, 28, "fninit", "fnstenv (%rbx)") \
    X(fxsave, WRITE | ALIGN16, 512, "fninit", "fxsave64 (%rbx)") \
    X(fxrstor, FAULTS | ALIGN16, 512, "fninit", "fxrstor64 (%rbx)") \
    X(movq_mmx, WRITE, 8, "fninit", "movq %mm1, (%rbx)") \
    X(smsw, WRITE | KERNEL, 2, "", "smsw (%rbx)") \
    X(sgdt, WRITE | KERNEL, 10, "", "sgdt (%rbx)") \
    X(lgdt, FAULTS | KERNEL, 10, "", "lgdt (%rbx)") \
    X(verr, READ, 2, "", "verr (%rbx)")

#define CODE(name, flags, size, setup, insn)                                                                                                            \
    BARE_ASM(form_##name, "cld\n " setup "\nform_" #name "_at: " insn "\nform_" #name "_ok: ud2");                                                     \
    extern const uint8_t form_##name##_at[], form_##name##_ok[];
FORMS(CODE)
/* What a branch leads to, RBX; at: the branch itself. X(name, flags, bytes pushed, setup, instruction); KERNEL: leads to ring 3. */
#define JUMPS(X) \
    X(jmp, 0, 0, "mov %rbx, %rax", "jmp *%rax") \
    X(jmp_r14, 0, 0, "mov %rbx, %r14", "jmp *%r14") \
    X(jmp_stack, 0, 0, "mov %rbx, -0x100(%rsp)", "jmp *-0x100(%rsp)") \
    X(jcall, 0, -8, "", "call *%rbx") \
    X(jcall_r13, 0, -8, "mov %rbx, %r13", "call *%r13") \
    X(jcall_stack, 0, -8, "mov %rbx, -0x100(%rsp)", "call *-0x100(%rsp)") \
    X(jcall_self, 0, -8, "mov %rbx, -8(%rsp)", "call *-8(%rsp)") \
    X(jret, 0, 0, "push %rbx", "ret") \
    X(jret_imm, 0, 0, "sub $16, %rsp\n push %rbx", "ret $16") \
    X(jlret, 0, 0, "mov %cs, %eax\n push %rax\n push %rbx", "lretq") \
    X(jiret, 0, 0, "mov %ss, %eax\n mov %rsp, %rcx\n push %rax\n push %rcx\n push $2\n mov %cs, %eax\n push %rax\n push %rbx", "iretq") \
    X(jiret_user, KERNEL, 0, "mov %rsp, %rcx\n push $0x23\n push %rcx\n push $2\n push $0x2b\n push %rbx", "iretq") \
    X(jsysret, KERNEL, 0, "mov %rbx, %rcx\n mov $2, %r11d", "sysretq")
JUMPS(CODE)
BARE_ASM(form_warm, "mov $100, %ecx\n1: mov %rcx, (%rdi)\n dec %ecx\n jnz 1b");

struct form { const char *name; unsigned flags; int size; const uint8_t *begin, *end, *at, *ok; };
#define ROW(name, flags, size, setup, insn) { #name, flags, size, form_##name, form_##name##_end, form_##name##_at, form_##name##_ok },
static const struct form forms[] = { FORMS(ROW) }, jumps[] = { JUMPS(ROW) };

/* ---- this process ---- */
struct mapping { uint64_t begin, end; char rights[5]; char name[128]; };
static unsigned read_maps(struct mapping *m, unsigned max)
{
    FILE *f = fopen("/proc/self/maps", "r");
    char line[512];
    unsigned n = 0;
    assert_non_null(f);
    while (n < max && fgets(line, sizeof line, f)) {
        unsigned long long begin, end;
        m[n].name[0] = 0;
        if (sscanf(line, "%llx-%llx %4s %*s %*s %*s %127[^\n]", &begin, &end, m[n].rights, m[n].name) >= 3)
            m[n].begin = begin, m[n].end = end, n++;
    }
    fclose(f);
    return n;
}
enum { MAX_MAPS = 1000, MAX_ADDRESSES = 1200, ROUNDS = 3, CANARY = 3 * 4096 };
static void check_rights(void)
{
    static struct mapping m[MAX_MAPS];
    unsigned n = read_maps(m, MAX_MAPS);
    for (unsigned i = 0; i < n; i++)
        if (strchr(m[i].rights, 'w') && strchr(m[i].rights, 'x'))
            fail_msg("%llx-%llx %s %s is writable and executable", (unsigned long long)m[i].begin, (unsigned long long)m[i].end, m[i].rights, m[i].name);
}
/* Of all that nobody may write: programs, libraries, constants. */
__attribute__((no_sanitize("address"))) /* reads between objects, too */
static uint64_t hash_constants(void)
{
    static struct mapping m[MAX_MAPS];
    unsigned n = read_maps(m, MAX_MAPS);
    uint64_t h = 1;
    for (unsigned i = 0; i < n; i++)
        if (m[i].name[0] == '/' && !strchr(m[i].rights, 'w') && m[i].rights[0] == 'r' && m[i].rights[3] == 'p')
            for (const uint64_t *p = (const uint64_t *)m[i].begin; p < (const uint64_t *)m[i].end; p++)
                h = (h ^ *p) * 0x9e3779b97f4a7c15ull + (h >> 29);
    return h;
}

static uint8_t canary_data[CANARY] = { 1 };
struct world {
    struct bare *reference; /* the interpreter, unless it is what is tested */
    uint8_t *heap, *mapped;
    uint64_t constants;
    uint64_t address[MAX_ADDRESSES];
    unsigned addresses;
};
static struct world w; /* NOLINT: one per process, and on no stack, whose addresses the guest tries */

static void add(uint64_t a)
{
    if (w.addresses < MAX_ADDRESSES)
        w.address[w.addresses++] = a;
}
static void collect(void)
{
    static struct mapping m[MAX_MAPS];
    w.addresses = 0;
    static const uint64_t edges[] = { 0x800000000000, 0xffff800000000000, 0, 1ull << 63, 0x1000000000000, 0xffffffffff600000, BARE_RAM, 1ull << 32, 1ull << 31,
        1ull << 46, 0xfffffffff0000000, 0xdeadbeef00001000, 0x7fffffff0000, 0xff0000000000, 0x4000000000001000, 0xffff7fffffff0000, BARE_MMIO };
    static const int around[] = { 0, -1, -2, -4, -7, -8, -16, -24, -32, -512, 0x7f0 };
    for (unsigned i = 0; i < DP_ARRAY_LEN(edges); i++)
        for (unsigned k = 0; k < DP_ARRAY_LEN(around); k++)
            add(edges[i] + (uint64_t)(int64_t)around[k]);
    for (unsigned page = 0; page < 12; page++)
        for (unsigned k = 0; k < DP_ARRAY_LEN(around); k++)
            add(BARE_ALIAS + page * 4096 + (uint64_t)(int64_t)around[k]);
    for (unsigned k = 48; k < 64; k++) { /* as mapped pages but for one bit */
        add(BARE_ALIAS + 0x100 + (1ull << k));
        add((BARE_ALIAS + 0x100) ^ (1ull << (k - 16)));
    }
    uint8_t on_stack[64];
    const uint8_t *own[] = { canary_data + 4096, w.heap + 4096, w.mapped + 4096, on_stack, (const uint8_t *)collect, (const uint8_t *)&w, (const uint8_t *)environ };
    for (unsigned i = 0; i < DP_ARRAY_LEN(own); i++) {
        add((uint64_t)(uintptr_t)own[i]);
        add((uint64_t)(uintptr_t)own[i] + 4092);
    }
    unsigned n = read_maps(m, MAX_MAPS), step = n / 100 + 1;
    for (unsigned i = 0; i < n; i += strstr(m[i].name, "doppel") || m[i].name[0] == '[' ? 1 : step) {
        add(m[i].begin);
        add((m[i].begin / 2 + m[i].end / 2) & ~0xfull);
        add(m[i].end - 8);
    }
}
static bool is_canary(const uint8_t *p, uint8_t salt)
{
    for (unsigned i = 0; i < CANARY; i++)
        if (p[i] != (uint8_t)(i * 7 + (i >> 8) + salt))
            return false;
    return true;
}
static void fill_canary(uint8_t *p, uint8_t salt)
{
    for (unsigned i = 0; i < CANARY; i++)
        p[i] = (uint8_t)(i * 7 + (i >> 8) + salt);
}

/* ---- the model ---- */
static bool canonical(uint64_t a) { return (uint64_t)((int64_t)(a << 16) >> 16) == a; }
struct want { unsigned vector; uint64_t error, cr2; bool scratch; /* no fault, and it is the window that is accessed */ };
static uint64_t entry_of(struct bare *b, uint64_t a)
{
    if (a < 2 << 20)
        return *bare_pte(b, a);
    if (a < BARE_RAM)
        return 3;
    return a >= BARE_ALIAS && a < BARE_ALIAS + (2 << 20) ? *bare_pte(b, a) : 0;
}
/* Of one page: 0, or the error code + 0x100. */
static unsigned refused(struct bare *b, uint64_t a, bool write, bool user, bool fetch)
{
    uint64_t pte = entry_of(b, a);
    unsigned code = 0x100 | (write ? 2 : 0) | (user ? 4 : 0) | (fetch ? 0x10 : 0);
    if (!(pte & 1))
        return code;
    return (write && !(pte & 2)) || (user && !(pte & 4)) || (fetch && pte >> 63) ? code | 1 : 0;
}
static struct want one_access(struct bare *b, unsigned flags, uint64_t a, unsigned size, bool user)
{
    uint64_t last = a + size - 1;
    if (!canonical(a) || !canonical(last))
        return (struct want){ flags & STACK ? X86_SS_ : X86_GP, 0, 0, false };
    if ((flags & ALIGN16 && a % 16) || (flags & ALIGN32 && a % 32))
        return (struct want){ X86_GP, 0, 0, false };
    for (uint64_t at = a;;) {
        unsigned code = refused(b, at, flags & WRITE, user, false);
        if (code)
            return (struct want){ X86_PF_, code & 0xff, at, false };
        if ((at | 0xfff) == (last | 0xfff))
            break;
        at = (at | 0xfff) + 1;
    }
    return (struct want){ X86_UD, 0, 0, a >= BARE_ALIAS && last < BARE_ALIAS + 0x100000 };
}
static struct want expect(struct bare *b, const struct form *f, uint64_t a, bool user)
{
    if (f->flags & NOTHING)
        return (struct want){ X86_UD, 0, 0, true };
    if (f->flags & BASE)
        return (struct want){ canonical(a) ? X86_UD : X86_GP, 0, 0, true };
    if (f->flags & NARROW)
        a = (uint32_t)a;
    struct want r = { 0 };
    unsigned unit = f->flags & BYTES ? 1 : f->flags & QUADS ? 8 : (unsigned)f->size;
    for (unsigned i = 0; i < (unsigned)f->size; i += unit) {
        r = one_access(b, f->flags, a + i, DP_MIN(unit, (unsigned)f->size - i), user);
        if (r.vector != X86_UD || !r.scratch)
            break;
    }
    return r;
}

/* ---- going through the addresses ---- */
struct tour {
    const struct form *form;
    const uint64_t *address;
    const struct want *want;
    unsigned count, done;        /* addresses; traps so far */
    uint64_t code, stack, fs, gs;
    bool user, jumps;
    struct bare_frame *frame;
    char complaint[256];
};
static void next_address(struct tour *t, struct bare_frame *f)
{
    uint64_t *r = &f->r15;
    for (unsigned i = 0; i < 15; i++) /* R15 ... RAX */
        r[i] = 0x1111111111111111ull * i;
    f->rbx = t->address[t->done % t->count];
    f->rip = t->code;
    f->rsp = t->stack;
    f->rflags = 2;
    f->cs = t->user ? BARE_USER_CS64 : BARE_CS64;
    f->ss = t->user ? BARE_USER_DS : BARE_DS;
}
static void judge(struct tour *t, const struct bare_frame *f)
{
    unsigned i = t->done % t->count;
    const struct want *x = &t->want[i];
    uint64_t rip = t->code + (uint64_t)((x->vector == X86_UD ? t->form->ok : t->form->at) - t->form->begin);
    if (t->jumps && x->vector == X86_PF_)
        rip = t->address[i];
    bool ring3 = t->user || (t->jumps && t->form->flags & KERNEL && x->vector == X86_PF_);
    uint64_t same = !t->jumps && (t->form->size == 28 || t->form->size > 32) ? ~0xfffull : ~0ull; /* images: any byte of the page */
    bool ok = f->vector == x->vector && f->error == x->error && f->rip == rip && (x->vector != X86_PF_ || !((f->cr2 ^ x->cr2) & same)) && (f->cs & 3) == (ring3 ? 3 : 0);
    if (t->jumps && x->vector == X86_PF_ && !(t->form->flags & KERNEL))
        ok &= f->rsp == t->stack + (uint64_t)(int64_t)t->form->size;
    if (!ok && !t->complaint[0])
        snprintf(t->complaint, sizeof t->complaint,
            "%s at 0x%llx, ring %d, try %u: vector %u error 0x%x cr2 0x%llx rip 0x%llx rsp 0x%llx; wanted vector %u error 0x%x cr2 0x%llx rip 0x%llx", t->form->name,
            (unsigned long long)t->address[i], t->user ? 3 : 0, t->done / t->count, (unsigned)f->vector, (unsigned)f->error, (unsigned long long)f->cr2,
            (unsigned long long)f->rip, (unsigned long long)f->rsp, x->vector, (unsigned)x->error, (unsigned long long)x->cr2, (unsigned long long)rip);
}
static void on_trap(struct bare *b, struct bare_frame *f)
{
    struct tour *t = (struct tour *)(uintptr_t)b->arg[0];
    b->traps = 0;
    judge(t, f);
    t->frame[t->done] = *f;
    if (++t->done == t->count * ROUNDS || t->complaint[0])
        b->mem[BARE_MAILBOX + BARE_TR + 8] = 1; /* halt */
    else
        next_address(t, f);
}
static void prepare(struct bare *b)
{
    static const uint64_t pages[] = { WINDOW | 7, 0, (WINDOW + 0x2000) | 5, (WINDOW + 0x3000) | 3, 0, (BARE_RAM - 0x1000) | 7, BARE_RAM | 7, (WINDOW + 0x1000) | 7,
        (WINDOW + 0x5000) | 7 | 1ull << 63, 0, (WINDOW + 0x4000) | 1, WINDOW | 7 };
    for (unsigned i = 0; i < DP_ARRAY_LEN(pages); i++)
        *bare_pte(b, BARE_ALIAS + i * 0x1000) = pages[i];
    for (unsigned i = DP_ARRAY_LEN(pages); i < 512; i++)
        *bare_pte(b, BARE_ALIAS + i * 0x1000) = 0;
    for (unsigned v = X86_UD; v <= X86_PF_; v++)
        b->mem[BARE_IDT + v * 16 + 4] = 1; /* IST: RSP may be anything */
    memset(b->mem + 0x80000, 0x5a, WINDOW - 0x80000);
    memset(b->mem + WINDOW, 0, 0x10000);
    memset(b->mem + WINDOW + 0x10000, 0x5a, BARE_RAM - 0x1000 - (WINDOW + 0x10000));
    memset(b->mem + BARE_RAM - 0x1000, 0, 0x1000);
    b->on_trap = on_trap;
}
static void run_tour(struct bare *b, struct tour *t)
{
    t->done = 0;
    b->arg[0] = (uint64_t)(uintptr_t)t;
    struct x86_state s = bare_long(b, 0, t->code);
    if (t->user)
        bare_user(&s);
    s.cr4 |= X86_CR4_FSGSBASE;
    if (x86_has(&b->model, X86_FEATURE_AVX)) {
        s.cr4 |= X86_CR4_OSXSAVE;
        s.xcr0 = 7;
    }
    s.seg[X86_FS].base = FS_BASE, s.seg[X86_GS].base = GS_BASE;
    t->stack = s.r[X86_RSP];
    bare_put(b, t->code, t->form->begin, t->form->end);
    struct bare_frame f = { 0 };
    next_address(t, &f);
    s.r[X86_RAX] = f.rax, s.r[X86_RCX] = f.rcx, s.r[X86_RDX] = f.rdx, s.r[X86_RBX] = f.rbx, s.r[X86_RBP] = f.rbp, s.r[X86_RSI] = f.rsi, s.r[X86_RDI] = f.rdi;
    s.r[X86_R8] = f.r8, s.r[X86_R9] = f.r9, s.r[X86_R10] = f.r10, s.r[X86_R11] = f.r11, s.r[X86_R12] = f.r12, s.r[X86_R13] = f.r13, s.r[X86_R14] = f.r14;
    s.r[X86_R15] = f.r15;
    bare_run(b, &s);
    assert_int_equal(b->cpu[0].exit.kind, DP_EXIT_HALT);
    if (t->complaint[0])
        fail_msg("%s: %s", b->engine->name, t->complaint);
    assert_int_equal(t->done, t->count * ROUNDS);
}
static bool same_frame(const struct bare_frame *a, const struct bare_frame *b)
{
    struct bare_frame x = *a, y = *b;
    x.dr6 = y.dr6 = 0;
    x.rflags &= ~(uint64_t)X86_ARITH, y.rflags &= ~(uint64_t)X86_ARITH; /* the translator may lose flags that are overwritten unread */
    return !memcmp(&x, &y, sizeof x);
}
static void both(struct bare *b, struct tour *t)
{
    static struct bare_frame frames[2][MAX_ADDRESSES * ROUNDS];
    t->frame = frames[0];
    run_tour(b, t);
    if (!w.reference)
        return;
    t->frame = frames[1];
    run_tour(w.reference, t);
    for (unsigned i = 0; i < t->count * ROUNDS; i++)
        if (!same_frame(&frames[0][i], &frames[1][i])) {
            const uint64_t *x = (const uint64_t *)&frames[0][i], *y = (const uint64_t *)&frames[1][i];
            unsigned k = 1;
            while (x[k] == y[k])
                k++;
            fail_msg("%s at 0x%llx, ring %d, try %u: word %u of the frame is 0x%llx, the interpreter's 0x%llx", t->form->name,
                (unsigned long long)t->address[i % t->count], t->user ? 3 : 0, i / t->count, k, (unsigned long long)x[k], (unsigned long long)y[k]);
        }
}
static void check_memory(struct bare *b)
{
    assert_true(is_canary(canary_data, 1) && is_canary(w.heap, 2) && is_canary(w.mapped, 3));
    for (uint64_t a = 0x80000; a < BARE_RAM - 0x1000; a += 8)
        if ((a < WINDOW || a >= WINDOW + 0x10000) && bare_ld(b, a) != 0x5a5a5a5a5a5a5a5aull)
            fail_msg("guest memory at 0x%llx changed", (unsigned long long)a);
    assert_int_equal(hash_constants(), w.constants);
    check_rights();
}
static void accesses(struct bare *b, bool user)
{
    static uint64_t address[MAX_ADDRESSES];
    static struct want want[MAX_ADDRESSES];
    for (unsigned k = 0; k < DP_ARRAY_LEN(forms); k++) {
        const struct form *f = &forms[k];
        if ((user && f->flags & KERNEL) || (f->flags & AVX && !x86_has(&b->model, X86_FEATURE_AVX)))
            continue;
        struct tour t = { .form = f, .address = address, .want = want, .code = user ? BARE_USER_CODE : BARE_CODE, .user = user };
        for (unsigned i = 0; i < w.addresses; i++) {
            uint64_t last = w.address[i] + (unsigned)f->size - 1;
            if (f->size & (f->size - 1) && canonical(w.address[i]) != canonical(last))
                continue; /* done in pieces, whose order the manual does not tell */
            if ((f->size == 28 || f->size > 32) && (w.address[i] ^ last) >> 12 && !(f->flags & QUADS))
                if (!canonical(w.address[i]) || !canonical(last) || refused(b, w.address[i], f->flags & WRITE, user, false))
                    continue; /* images: either page may be looked at first */
            struct want x = expect(b, f, w.address[i], user);
            bool fine = x.vector == X86_UD;
            if ((fine && (!x.scratch || f->flags & FAULTS)) || (f->flags & CANONICAL && !canonical(w.address[i])))
                continue;
            want[t.count] = x;
            address[t.count++] = w.address[i];
        }
        both(b, &t);
    }
    check_memory(b);
}
static void test_kernel(void **state) { accesses(*state, false); }
static void test_user(void **state) { accesses(*state, true); }

static void branches(struct bare *b, bool user)
{
    static uint64_t address[MAX_ADDRESSES];
    static struct want want[MAX_ADDRESSES];
    for (unsigned k = 0; k < DP_ARRAY_LEN(jumps); k++) {
        const struct form *f = &jumps[k];
        if (user && f->flags & KERNEL)
            continue;
        bool ring3 = user || f->flags & KERNEL;
        struct tour t = { .form = f, .address = address, .want = want, .code = user ? BARE_USER_CODE : BARE_CODE, .user = user, .jumps = true };
        for (unsigned i = 0; i < w.addresses; i++) {
            uint64_t a = w.address[i];
            unsigned code = refused(b, a, false, ring3, true);
            if (canonical(a) && !code)
                continue;
            want[t.count] = canonical(a) ? (struct want){ X86_PF_, code & 0xff, a, false } : (struct want){ X86_GP, 0, 0, false };
            address[t.count++] = a;
        }
        both(b, &t);
    }
    check_memory(b);
}
static void test_branches(void **state) { branches(*state, false); }
static void test_user_branches(void **state) { branches(*state, true); }

/* ---- what is in the process that runs a user program (engine/translate/direct.h) ---- */
static pid_t only_child(void)
{
    char path[64];
    int pid = 0;
    snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)gettid());
    FILE *f = fopen(path, "r");
    if (!f || fscanf(f, "%d", &pid) != 1)
        pid = 0;
    if (f)
        fclose(f);
    return pid;
}
struct span { uint64_t from, to; };
static unsigned own_spans(struct span *s, unsigned most)
{
    unsigned n = 0;
    char line[512];
    unsigned long long from, to;
    FILE *f = fopen("/proc/self/maps", "r");
    assert_non_null(f);
    while (n < most && fgets(line, sizeof line, f))
        if (sscanf(line, "%llx-%llx", &from, &to) == 2 && from >> 32)
            s[n++] = (struct span){from, to};
    fclose(f);
    return n;
}
BARE_ASM(form_runner, "mov $100, %ecx\n 1: mov %rcx, (%rdi)\n dec %ecx\n jnz 1b\n cpuid\n call 2f\n 2: pop %rax\n fld1\n pushf\n int $0x80");
/* Private mappings of its own and pages of the guest, nothing that can be written and executed, no address of ours in any of it; no files but the guest's RAM; few system calls. */
static void test_runner(void **state)
{
    struct bare *b = *state;
    static struct span span[4096];
    static uint8_t page[4096 + 8];
    if (!hot_is_direct(bare_engine))
        skip();
    struct x86_state s = bare_long(b, 0, BARE_USER_CODE);
    bare_user(&s);
    s.r[X86_RDI] = BARE_USER_STACK;
    b->on_trap = NULL;
    bare_put(b, BARE_USER_CODE, form_runner, form_runner_end);
    bare_run(b, &s);
    assert_int_equal(b->trap[0].vector, 0x80);
    pid_t child = only_child();
    assert_true(child > 0);
    unsigned spans = own_spans(span, DP_ARRAY_LEN(span)), pages = 0;
    char path[64], line[512], rights[8], name[256];
    snprintf(path, sizeof path, "/proc/%d/mem", child);
    int memory = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(path, sizeof path, "/proc/%d/maps", child);
    FILE *maps = fopen(path, "r");
    assert_true(memory >= 0 && maps);
    unsigned long long from, to;
    while (fgets(line, sizeof line, maps)) {
        *name = 0;
        assert_true(sscanf(line, "%llx-%llx %7s %*s %*s %*s %255[^\n]", &from, &to, rights, name) >= 3);
        if (!strcmp(name, "[vsyscall]"))
            continue;
        bool guest = strstr(name, "memfd:bare") || strstr(name, "memfd:spare"), own = strstr(name, "memfd:doppel-code") || strstr(name, "memfd:doppel-direct");
        if (!guest && !own)
            fail_msg("the runner has %s", line);
        assert_true(rights[1] != 'w' || rights[2] != 'x');
        assert_true(!guest || (from < 0x100000000ull && rights[2] != 'x'));
        for (; own && from < to; from += 4096) {
            assert_int_equal(pread(memory, page, 4096, (off_t)from), 4096);
            pages++;
            for (unsigned i = 0; i + 8 <= 4096; i++) {
                uint64_t v = dp_ld64(page + i);
                if (v < 0x100000000ull || v >> 47)
                    continue;
                for (unsigned k = 0; k < spans; k++)
                    if (v == span[k].from || (v > span[k].from && v < span[k].to && span[k].to - span[k].from < 1ull << 32)) /* of sparse tables the beginning */
                        fail_msg("at 0x%llx the runner knows our address 0x%llx", from + i, (unsigned long long)v);
            }
        }
    }
    assert_true(pages > 100);
    fclose(maps);
    close(memory);
    snprintf(path, sizeof path, "/proc/%d/status", child);
    FILE *status = fopen(path, "r");
    unsigned found = 0;
    while (fgets(line, sizeof line, status))
        found += !strcmp(line, "Seccomp:\t2\n") + !strcmp(line, "NoNewPrivs:\t1\n");
    fclose(status);
    assert_int_equal(found, 2);
    for (int fd = 0; fd < 64; fd++) {
        snprintf(path, sizeof path, "/proc/%d/fd/%d", child, fd);
        ssize_t n = readlink(path, name, sizeof name - 1);
        name[n > 0 ? n : 0] = 0;
        if (n > 0 && !strstr(name, "memfd:bare") && !strstr(name, "memfd:spare"))
            fail_msg("the runner's descriptor %d is %s", fd, name);
    }
}

static int isolation_setup(void **state)
{
    const char *engine = bare_engine;
    memset(&w, 0, sizeof w);
    bare_setup(state);
    struct bare *b = *state;
    prepare(b);
    if (strcmp(engine, "interp")) {
        void *other;
        bare_engine = "interp";
        bare_setup(&other);
        bare_engine = engine;
        w.reference = other;
        prepare(w.reference);
    }
    w.heap = malloc(CANARY);
    w.mapped = mmap(NULL, CANARY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fill_canary(canary_data, 1);
    fill_canary(w.heap, 2);
    fill_canary(w.mapped, 3);
    bare_do(b, form_warm); /* threads' and lazily made mappings exist from now on */
    prepare(b);
    collect();
    w.constants = hash_constants();
    return 0;
}
static int isolation_teardown(void **state)
{
    free(w.heap);
    munmap(w.mapped, CANARY);
    if (w.reference) {
        void *other = w.reference;
        bare_teardown(&other);
    }
    return bare_teardown(state);
}

int main(int argc, char **argv)
{
    struct x86_cpuid_model model;
    uint64_t host[2];
    if (argc > 1)
        bare_engine = argv[1];
    if (argc > 2)
        cmocka_set_test_filter(argv[2]);
    x86_cpuid_host(host);
    if (!x86_cpuid_model("x86-64-v3", &model, NULL) && !x86_cpuid_fit(&model, host, NULL))
        bare_model = "x86-64-v3";
#define T(f) cmocka_unit_test_setup_teardown(f, isolation_setup, isolation_teardown)
    const struct CMUnitTest tests[] = { T(test_kernel), T(test_user), T(test_branches), T(test_user_branches), T(test_runner) };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
