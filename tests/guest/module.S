/* module.S - Multiboot: prints name and text of each module it was given, "NAME: TEXT", and ends with status 33; 35 when there is none
 * or one is not page-aligned. */
#include "guest.h"
_start:
    mov $stack, %esp
    testl $8, (%ebx)            /* mods_count, mods_addr valid */
    jz bad
    mov 20(%ebx), %ebp
    mov 24(%ebx), %edi
    test %ebp, %ebp
    jz bad
next:
    testl $0xfff, (%edi)
    jnz bad
    mov 8(%edi), %esi
    call puts
    say ": "
    mov (%edi), %esi
    mov 4(%edi), %ecx
    sub %esi, %ecx
    call put_bytes
    add $16, %edi
    dec %ebp
    jnz next
    finish 0x10
bad:
    finish 0x11
    .bss
    .skip 4096
stack:
