/* hammer.S - Multiboot: writes and reads random values at random ports and at device memory, for ever; run under --timeout. The machine may power off, reset or
 * exit; doppel must not crash. */
#include "guest.h"
_start:
    mov $stack, %esp
    mov $0x12345678, %ebp
again:
    call random
    mov %ebp, %edx
    shr $7, %edx
    and $0xffff, %edx
    cmp $0xf4, %dx          /* these end the run at once */
    je again
    cmp $0xcf9, %dx
    je again
    cmp $0x604, %dx
    je again
    call random
    mov %ebp, %eax
    test $1, %ebp
    jz 1f
    out %al, %dx
    in %dx, %al
    jmp 2f
1:  out %eax, %dx
    in %dx, %eax
2:  call random
    mov %ebp, %eax
    and $7, %eax
    mov bases(,%eax,4), %edi
    call random
    mov %ebp, %eax
    shr $5, %eax
    and $0xffffc, %eax
    add %eax, %edi
    call random
    mov %ebp, (%edi)
    mov (%edi), %eax
    jmp again
random:
    mov %ebp, %eax
    shl $13, %eax
    xor %eax, %ebp
    mov %ebp, %eax
    shr $17, %eax
    xor %eax, %ebp
    mov %ebp, %eax
    shl $5, %eax
    xor %eax, %ebp
    ret
    .section .rodata
bases: .long 0xfee00000, 0xfec00000, 0xe0000000, 0xc0000000, 0xc0100000, 0xd0000000, 0xfed00000, 0x000a0000
    .bss
    .skip 4096
stack:
