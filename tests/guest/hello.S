/* hello.S - Multiboot: checks the magic and the memory map, echoes its command line on serial, ends with status (0x10 << 1) | 1 = 33; 35
 * on a wrong magic. */
#include "guest.h"
_start:
    mov $stack, %esp
    mov %ebx, info
    cmp $0x2badb002, %eax
    jne bad
    say "hello from multiboot\n"
    mov info, %ebx
    testl $1, (%ebx)      /* mem_lower, mem_upper valid */
    jz bad
    testl $4, (%ebx)      /* cmdline valid */
    jz bad
    mov 16(%ebx), %esi
    call puts
    say "\n"
    finish 0x10
bad:
    say "bad\n"
    finish 0x11
    .bss
info: .long 0
    .skip 4096
stack:
