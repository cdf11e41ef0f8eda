/* hammer.S - Multiboot: writes and reads random values at random ports and at device memory, for ever, with interrupts and NMIs taken;
 * run under --timeout. A number as command line is the seed. Ports and registers that end the run at once are spared; should the machine
 * end all the same, that is the guest's own doing: doppel must not crash. */
#include "guest.h"
_start:
    mov $stack, %esp
    mov 16(%ebx), %esi          /* the command line, of digits */
    xor %ebp, %ebp
digit:
    lodsb
    sub $'0', %al
    jb 1f
    movzx %al, %eax
    imul $10, %ebp
    add %eax, %ebp
    jmp digit
1:  xor $0x12345678, %ebp
    mov $16, %ecx               /* vectors from 16 on end their interrupt, NMI returns */
    mov $interrupt, %eax
2:  call gate
    inc %ecx
    cmp $256, %ecx
    jb 2b
    mov $2, %ecx
    mov $return, %eax
    call gate
    lidt idtr
    sti
again:
    call random
    mov %ebp, %edx
    shr $7, %edx
    and $0xffff, %edx
    mov %edx, %eax              /* four-byte accesses reach three ports further */
    and $~7, %eax
    cmp $0xf0, %eax             /* isa-debug-exit */
    je again
    cmp $0xcf8, %eax            /* the reset register; PCI configuration is also at 0xcfc and by memory */
    je again
    cmp $0x600, %eax            /* power-off */
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
    test $1, %ebp               /* often near the beginning */
    jz 3f
    and $0xffc, %eax
3:  add %eax, %edi
    cmp $0xfee00300, %edi       /* an INIT to itself would end it all */
    je again
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
/* ecx: vector, eax: handler */
gate:
    mov %ax, idt(,%ecx,8)
    movw %cs, idt + 2(,%ecx,8)
    movw $0x8e00, idt + 4(,%ecx,8)
    mov %eax, %edx
    shr $16, %edx
    mov %dx, idt + 6(,%ecx,8)
    ret
interrupt:
    movl $0, 0xfee000b0         /* end of interrupt */
return:
    iret
    .section .rodata
bases: .long 0xfee00000, 0xfec00000, 0xe0000000, 0xc0000000, 0xc0100000, 0xd0000000, 0xfed00000, 0x000a0000
idtr:  .word 256 * 8 - 1
    .long idt
    .bss
    .balign 8
idt: .skip 256 * 8
    .skip 4096
stack:
