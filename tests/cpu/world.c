/* world.c - the segment descriptors of native and guest side. */
#include "cpu.h"

/* Bases put the data pages at offset 0x4000 of 16-bit segments, so that 16-bit offsets reach them and the holes around them. */
const struct cpu_ldt_entry cpu_ldt[LDT_COUNT] = {
    [LDT_CODE16] = {"code16", CPU_CODE, 0xffff, 2, false},
    [LDT_DATA16] = {"data16", CPU_DATA - 0x4000, 0xffff, 0, false},
    [LDT_SHORT] = {"data32 limit 0x4fff", CPU_DATA - 0x4000, 0x4fff, 0, true},
    [LDT_DOWN16] = {"expand-down16 above 0x4800", CPU_DATA - 0x4000, 0x4800, 1, false},
    [LDT_DOWN32] = {"expand-down32 above 0x4800", CPU_DATA - 0x4000, 0x4800, 1, true},
    [LDT_READONLY] = {"data read-only", CPU_DATA - 0x4000, 0xffff, 0, true, .read_exec_only = true},
    [LDT_CODE_NOREAD] = {"code32 execute-only", 0, 0xfffff, 2, true, .read_exec_only = true, .pages = true},
    [LDT_CODE32] = {"code32", 0, 0xfffff, 2, true, .pages = true},
    [LDT_ABSENT] = {"absent", CPU_DATA - 0x4000, 0xffff, 0, true, .absent = true},
    [LDT_CONFORMING] = {"conforming code32, absent", 0, 0xfffff, 3, true, .pages = true, .absent = true}, /* Linux lets no other in */
    [LDT_CODE16_SHORT] = {"code16 limit 0xfff", CPU_CODE, 0xfff, 2, false},
    [LDT_CODE32_BASE] = {"code32 with base", CPU_CODE - 0x1000, 0xfffff, 2, true},
    [LDT_DATA32_BASE] = {"data32 with base", CPU_DATA - 0x100000, 0xfffff, 0, true, .pages = true},
};

uint64_t cpu_descriptor(const struct cpu_ldt_entry *e)
{
    uint64_t type =
        (e->contents & 2) ? 8 | (e->contents & 1) << 2 | (e->read_exec_only ? 0 : 2) : (e->contents & 1) << 2 | (e->read_exec_only ? 0 : 2);
    uint64_t access = type | 1 /* accessed, as Linux sets it */ | X86_ATTR_S | 3 << X86_ATTR_DPL_SHIFT | (e->absent ? 0 : X86_ATTR_P);
    uint64_t attr = access | (e->big ? X86_ATTR_DB : 0) | (e->pages ? X86_ATTR_G : 0);
    return (e->limit & 0xffffull) | (e->base & 0xffffffull) << 16 | attr << 40 | (uint64_t)(e->limit >> 16 & 0xf) << 48 |
           (uint64_t)(e->base >> 24) << 56;
}

uint64_t cpu_descriptor_of(uint16_t selector)
{
    if (selector & 4)
        return (selector >> 3) < LDT_COUNT ? cpu_descriptor(&cpu_ldt[selector >> 3]) : 0;
    switch (selector & ~3) {
    case 0x20:
        return 0x00cffb000000ffffull; /* code32 */
    case 0x28:
        return 0x00cff3000000ffffull; /* data */
    case 0x30:
        return 0x00affb000000ffffull; /* code64 */
    default:
        return 0;
    }
}
