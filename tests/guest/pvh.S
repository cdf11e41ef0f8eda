/* pvh.S - an ELF kernel with the PVH entry note: checks hvm_start_info (magic, memory map from 0, RSDP's signature), prints its command
 * line and the text of its module, if there is one; ends with status 33, or 35. */
#define GUEST_NO_HEADER
#include "guest.h"
    .section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18              /* sizes of name and entry, XEN_ELFNOTE_PHYS32_ENTRY */
    .asciz "Xen"
    .long _start
    .text
_start:
    mov $stack, %esp
    cmpl $0x336ec578, (%ebx)
    jne bad
    cmpl $1, 4(%ebx)            /* version 1: there is a memory map */
    jb bad
    cmpl $0, 48(%ebx)           /* memmap_entries */
    je bad
    mov 40(%ebx), %edi
    cmpl $0, (%edi)             /* the first range starts at 0 and is RAM */
    jne bad
    cmpl $1, 16(%edi)
    jne bad
    mov 32(%ebx), %edi
    cmpl $0x20445352, (%edi)    /* "RSD " */
    jne bad
    say "hello from PVH\n"
    mov 24(%ebx), %esi
    call puts
    say "\n"
    cmpl $0, 12(%ebx)           /* nr_modules */
    je 3f
    mov 16(%ebx), %edi
    mov (%edi), %esi
    mov 8(%edi), %ecx
    call put_bytes
3:  finish 0x10
bad:
    finish 0x11
    .bss
    .skip 4096
stack:
