/* test_rom.c - what needs a processor and the board's wiring together: small ROMs of real-mode code in place of firmware, on every engine.
 *
 * Model: a ROM of 128 KiB below 1 MiB and below 4 GiB, whose code at F000:0000 leaves what it finds at RESULTS and ends by port 0xf4.
 */
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/test.h"
#include "vm/vm.h"

enum { ROM = 0x20000, CODE = 0x10000, RESULTS = 0x2000, MEMORY = 16 << 20 };

#define ROM_CODE(name, text)                                                                                                             \
    __asm__(".pushsection .rodata\n.code16\n" #name ":\n" text "\n out %al, $0xf4\n hlt\n" #name "_end:\n.code64\n.popsection\n");        \
    extern const uint8_t name[], name##_end[]

/* Segments 0, a stack, RESULTS cleared. */
#define START "cli\n cld\n xor %ax, %ax\n mov %ax, %ds\n mov %ax, %es\n mov %ax, %ss\n mov $0x7c00, %sp\n mov $0x2000, %di\n mov $64, %cx\n rep stosw\n"

static const char *const engines[] = {"interp", "translate"};

static void ended(void *opaque) { ++*(int *)opaque; }

/* Runs a ROM to its end on an engine; results: of RESULTS. */
static void run_rom(const char *engine, unsigned cpus, const uint8_t *code, const uint8_t *end, uint16_t results[64])
{
    static const uint8_t reset_vector[] = {0xea, 0, 0, 0, 0xf0};
    char path[] = "/tmp/doppel-rom-XXXXXX";
    struct dp_error e = {0};
    struct dp_loop *loop;
    struct dp_vm *vm;
    int done = 0, fd = mkstemp(path);
    uint8_t *rom = calloc(1, ROM);
    assert_true(rom && fd >= 0 && end - code < 0xff00);
    memcpy(rom + CODE, code, (size_t)(end - code));
    memcpy(rom + CODE + 0xfff0, reset_vector, sizeof reset_vector);
    assert_int_equal(write(fd, rom, ROM), ROM);
    close(fd);
    free(rom);
    assert_ok(dp_loop_create(&loop, &e), e);
    struct dp_vm_config c = {.memory = MEMORY, .cpus = cpus, .engine = engine, .firmware = path, .timeout_ms = 60000, .loop = loop, .ended = ended, .opaque = &done};
    assert_ok(dp_vm_create(&c, &vm, &e), e);
    assert_ok(dp_vm_start(vm, &e), e);
    while (!done)
        dp_loop_poll(loop, -1);
    if (dp_vm_result(vm)->end != DP_END_EXIT)
        fail_msg("%s: %s", engine, dp_vm_result(vm)->reason);
    assert_int_equal(dp_space_read(dp_vm_memory(vm), RESULTS, results, 128), 0);
    dp_vm_destroy(vm);
    dp_loop_destroy(loop);
    unlink(path);
}

/* The gate by port 0x92, and by the keyboard controller. */
ROM_CODE(rom_a20, START "mov $0xffff, %ax\n mov %ax, %es\n mov $0x2000, %bx\n"
    " movw $0x1111, 0x500\n movw $0x2222, %es:0x510\n mov 0x500, %ax\n mov %ax, (%bx)\n"           /* open, as after a reset */
    " in $0x92, %al\n and $0xfd, %al\n out %al, $0x92\n"
    " mov %es:0x510, %ax\n mov %ax, 2(%bx)\n movw $0x3333, %es:0x510\n mov 0x500, %ax\n mov %ax, 4(%bx)\n"
    " mov $0xd1, %al\n out %al, $0x64\n mov $0xdf, %al\n out %al, $0x60\n"
    " mov %es:0x510, %ax\n mov %ax, 6(%bx)\n in $0x92, %al\n mov %al, 8(%bx)\n");
static void test_a20(void **state)
{
    for (unsigned i = 0; i < DP_ARRAY_LEN(engines); i++) {
        uint16_t r[64];
        run_rom(engines[i], 1, rom_a20, rom_a20_end, r);
        assert_int_equal(r[0], 0x1111);
        assert_int_equal(r[1], 0x1111); /* closed: it is the low word */
        assert_int_equal(r[2], 0x3333);
        assert_int_equal(r[3], 0x2222); /* open again: it was never written */
        assert_int_equal(r[4] & 2, 2);
    }
}

/* 1/0 with CR0.NE = 0: interrupt 13 before the next instruction that waits, told by its handler to port 0xf0; twice. */
ROM_CODE(rom_ferr, START
    " mov $0x11, %al\n out %al, $0x20\n out %al, $0xa0\n mov $8, %al\n out %al, $0x21\n mov $0x70, %al\n out %al, $0xa1\n"
    " mov $4, %al\n out %al, $0x21\n mov $2, %al\n out %al, $0xa1\n mov $1, %al\n out %al, $0x21\n out %al, $0xa1\n"
    " mov $0xfb, %al\n out %al, $0x21\n mov $0xdf, %al\n out %al, $0xa1\n"
    " movw $rom_ferr_handler - rom_ferr, 0x1d4\n movw $0xf000, 0x1d6\n"
    " mov %cr0, %eax\n and $0xffffffd1, %eax\n mov %eax, %cr0\n sti\n"
    " mov $2, %cx\n1: fninit\n movw $0x37b, 0x2020\n fldcw 0x2020\n fld1\n fldz\n fdivrp\n incw 0x2008\n fld1\n incw 0x2000\n loop 1b\n"
    " jmp 2f\nrom_ferr_handler: incw 0x2002\n fnstsw 0x2004\n mov 0x2008, %ax\n mov %ax, 0x2006\n out %al, $0xf0\n fnclex\n mov $0x20, %al\n out %al, $0xa0\n"
    " out %al, $0x20\n iret\n2:");
static void test_ferr(void **state)
{
    for (unsigned i = 0; i < DP_ARRAY_LEN(engines); i++) {
        uint16_t r[64];
        run_rom(engines[i], 1, rom_ferr, rom_ferr_end, r);
        assert_int_equal(r[0], 2);
        assert_int_equal(r[1], 2);
        assert_int_equal(r[2] & 0x84, 0x84); /* ES, ZE */
        assert_int_equal(r[3], 2);           /* at the waiting instruction, not before */
    }
}

/* System management mode as firmware sets it up: SMBASE is moved into SMRAM, which then only the mode sees; the other processor never does. */
ROM_CODE(rom_smm, START
    " mov $0x38000 >> 4, %ax\n mov %ax, %es\n xor %di, %di\n mov $rom_smm_move - rom_smm, %si\n mov $rom_smm_moved - rom_smm_move, %cx\n rep movsb %cs:(%si), %es:(%di)\n"
    " mov $0xcf8, %dx\n mov $0x80000070, %eax\n out %eax, %dx\n mov $0xcfe, %dx\n mov $0x4a, %al\n out %al, %dx\n" /* open */
    " mov $0xa800, %ax\n mov %ax, %es\n xor %di, %di\n mov $rom_smm_moved - rom_smm, %si\n mov $rom_smm_end_ - rom_smm_moved, %cx\n rep movsb %cs:(%si), %es:(%di)\n"
    " mov $0xcf8, %dx\n mov $0x80000b58, %eax\n out %eax, %dx\n mov $0xcfc, %dx\n mov $0x2000000, %eax\n out %eax, %dx\n"
    " mov $1, %al\n out %al, $0xb3\n mov $7, %al\n out %al, $0xb2\n"                                                    /* SMBASE goes to 0xa0000 */
    " mov $0xcf8, %dx\n mov $0x80000070, %eax\n out %eax, %dx\n mov $0xcfe, %dx\n mov $0x1a, %al\n out %al, %dx\n" /* closed, locked */
    " mov %es:0, %ax\n mov %ax, 0x2002\n mov $9, %al\n out %al, $0xb2\n mov %es:0, %ax\n mov %ax, 0x200a\n"
    " mov $0x4a, %al\n out %al, %dx\n mov %es:0, %ax\n mov %ax, 0x200c\n mov %cs:rom_smm_moved - rom_smm, %ax\n mov %ax, 0x200e\n in $0xb3, %al\n mov %al, 0x2010\n"
    " mov $3, %al\n out %al, $0xb2\n jmp rom_smm_end_\n"
    "rom_smm_move: incw 0x2000\n movl $0xa0000, %eax\n .byte 0x67, 0x66, 0xa3\n .long 0x3ff00\n rsm\n"
    "rom_smm_moved: incw 0x2004\n mov $0xa800, %bx\n mov %bx, %es\n mov %es:0, %ax\n mov %ax, 0x2006\n in $0xb2, %al\n mov %al, 0x2008\n xor %al, %al\n out %al, $0xb3\n rsm\n"
    "rom_smm_end_:");
static void test_smm(void **state)
{
    for (unsigned i = 0; i < DP_ARRAY_LEN(engines); i++) {
        uint16_t r[64];
        run_rom(engines[i], 2, rom_smm, rom_smm_end, r);
        assert_int_equal(r[0], 1);
        assert_int_equal(r[2], 2);
        assert_int_equal(r[3], r[7]);     /* the handler sees itself */
        assert_int_not_equal(r[1], r[7]); /* others do not: closed, after it ran, and opened in vain */
        assert_int_not_equal(r[5], r[7]);
        assert_int_not_equal(r[6], r[7]);
        assert_int_equal(r[4] & 0xff, 3); /* the command */
        assert_int_equal(r[8] & 0xff, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a20), cmocka_unit_test(test_ferr), cmocka_unit_test(test_smm)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
