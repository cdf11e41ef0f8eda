/* guest.h - for the test kernels in assembly: Multiboot header (unless GUEST_NO_HEADER), serial output, exit. 32-bit protected mode as
 * Multiboot 1 and PVH leave it. */
#ifndef GUEST_NO_HEADER
    .set MAGIC, 0x1badb002
    .set FLAGS, 3
    .text
    .align 4
    .long MAGIC, FLAGS, -(MAGIC + FLAGS)
#endif
    .text
    .globl _start
/* esi: NUL-terminated text; to the UART at 0x3f8, waiting for room as drivers do */
puts:
    mov $0x3fd, %dx
1:  in %dx, %al
    test $0x20, %al
    jz 1b
    lodsb
    test %al, %al
    jz 2f
    mov $0x3f8, %dx
    out %al, %dx
    jmp puts
2:  ret
/* esi: text of ecx bytes */
put_bytes:
    jecxz 2f
    mov $0x3fd, %dx
1:  in %dx, %al
    test $0x20, %al
    jz 1b
    lodsb
    mov $0x3f8, %dx
    out %al, %dx
    loop put_bytes
2:  ret
    .macro say text
    .section .rodata
99: .asciz "\text"
    .text
    mov $99b, %esi
    call puts
    .endm
/* isa-debug-exit: doppel ends with (value << 1) | 1 */
    .macro finish value
    mov $\value, %eax
    mov $0xf4, %dx
    out %eax, %dx
98: hlt
    jmp 98b
    .endm
