/* triple.S - Multiboot: an empty IDT and an undefined instruction: #UD -> #DF -> shutdown. */
#include "guest.h"
_start:
    lidt empty
    ud2
    .section .rodata
empty: .word 0
    .long 0
