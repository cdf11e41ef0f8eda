/* kludge.S - Multiboot, a flat binary: the header's "a.out kludge" says what is where. Checks that the bss was cleared and that memory
 * is the kernel's own up to bss_end; ends with status 33, or 35. */
    .set MAGIC, 0x1badb002
    .set FLAGS, 0x10003
    .text
    .globl _start
    .skip 64, 0x90              /* the header need not be at the beginning */
header:
    .long MAGIC, FLAGS, -(MAGIC + FLAGS), header, load, load_end, bss_end, _start
    .set load, header - 64
#define GUEST_NO_HEADER
#include "guest.h"
_start:
    mov $bss_end, %esp
    mov $load_end, %edi
    mov $bss_end - 16, %ecx
    sub %edi, %ecx
    xor %eax, %eax
    repe scasb
    jne bad
    say "hello from a flat binary\n"
    finish 0x10
bad:
    finish 0x11
    .section .rodata
    .balign 16
