/* machine/boot/boot.c - direct boot: choice of the protocol, ranges of memory, entry states. See boot.h. */
#include "machine/boot/boot_internal.h"

#include <inttypes.h>

#define MiB (UINT64_C(1) << 20)

/* ---- ranges ---- */

/* A memory size, as -m takes it, at which something that ends at `end` would fit with some room left. */
static void advise(char *text, size_t size, uint64_t end)
{
    uint64_t want = DP_ALIGN_UP(end, MiB) / MiB, step = 64;
    while (step < want + want / 4)
        step *= 2;
    snprintf(text, size, "%" PRIu64 "M", step);
}

static bool in_ram(const struct dp_boot_request *r, uint64_t start, uint64_t end)
{
    for (unsigned i = 0; i < r->map_count; i++)
        if (r->map[i].type == DP_E820_RAM && start >= r->map[i].base && end <= r->map[i].base + r->map[i].size)
            return true;
    return false;
}

int boot_claim(struct boot *b, uint64_t start, uint64_t size, const char *what, struct dp_error *e)
{
    const struct dp_boot_request *r = b->r;
    if (!size)
        return 0;
    if (size > UINT64_MAX - start)
        return dp_error_set(
            e, -EINVAL, "kernel %s: %s at 0x%" PRIx64 " of 0x%" PRIx64 " bytes passes the end of the address space: the file is damaged",
            r->kernel.name, what, start, size);
    uint64_t end = start + size;
    if (!in_ram(r, start, end)) {
        if (start >= BOOT_HIGH_START && end < BOOT_4G / 4 * 3 && end > r->memory_size) {
            char more[32];
            advise(more, sizeof more, end + boot_initrd_size(r));
            return dp_error_set(e, -ENOMEM, "kernel %s: %s needs memory up to 0x%" PRIx64 ", the machine has %" PRIu64 "M: try -m %s",
                                r->kernel.name, what, end, r->memory_size / MiB, more);
        }
        return dp_error_set(e, -EINVAL,
                            "kernel %s: %s wants 0x%" PRIx64 "-0x%" PRIx64 ", where this machine (%" PRIu64
                            "M) has no free memory: not a kernel for a PC, or damaged",
                            r->kernel.name, what, start, end - 1, r->memory_size / MiB);
    }
    for (unsigned i = 0; i < b->used_count; i++)
        if (start < b->used[i].end && end > b->used[i].start)
            return dp_error_set(e, -EINVAL, "kernel %s: %s at 0x%" PRIx64 "-0x%" PRIx64 " overlaps another part of it: the file is damaged",
                                r->kernel.name, what, start, end - 1);
    if (b->used_count == DP_ARRAY_LEN(b->used))
        return dp_error_set(e, -E2BIG, "kernel %s: too many pieces (over %zu): the file is damaged", r->kernel.name, DP_ARRAY_LEN(b->used));
    b->used[b->used_count].start = start;
    b->used[b->used_count++].end = end;
    return 0;
}

/* The claimed range that [start, end) meets, or NULL. */
static bool collides(const struct boot *b, uint64_t start, uint64_t end, uint64_t *other_start, uint64_t *other_end)
{
    for (unsigned i = 0; i < b->used_count; i++)
        if (start < b->used[i].end && end > b->used[i].start) {
            *other_start = b->used[i].start;
            *other_end = b->used[i].end;
            return true;
        }
    return false;
}

/* Within one stretch of RAM. Each step passes a claimed range, so it ends after at most used_count steps. */
static bool place_in(const struct boot *b, uint64_t size, uint64_t align, uint64_t low, uint64_t high, bool highest, uint64_t *at)
{
    uint64_t s, t;
    if (high < low || high - low < size)
        return false;
    if (highest) {
        for (uint64_t a = DP_ALIGN_DOWN(high - size, align); a >= low;) {
            if (!collides(b, a, a + size, &s, &t)) {
                *at = a;
                return true;
            }
            if (s < size)
                return false;
            a = DP_ALIGN_DOWN(s - size, align);
        }
        return false;
    }
    for (uint64_t a = DP_ALIGN_UP(low, align); a <= high - size;) {
        if (!collides(b, a, a + size, &s, &t)) {
            *at = a;
            return true;
        }
        a = DP_ALIGN_UP(t, align);
    }
    return false;
}

int boot_place(struct boot *b, uint64_t size, uint64_t align, uint64_t low, uint64_t high, bool highest, const char *what, uint64_t *at,
               struct dp_error *e)
{
    const struct dp_boot_request *r = b->r;
    low = DP_MAX(low, DP_PAGE_SIZE); /* page 0 stays the BIOS's */
    for (unsigned n = 0; n < r->map_count; n++) {
        const struct dp_e820 *m = &r->map[highest ? r->map_count - 1 - n : n];
        if (m->type != DP_E820_RAM)
            continue;
        if (place_in(b, size, align, DP_MAX(low, m->base), DP_MIN(high, m->base + m->size), highest, at))
            return boot_claim(b, *at, size, what, e);
    }
    uint64_t top = 0;
    for (unsigned i = 0; i < b->used_count; i++)
        top = DP_MAX(top, b->used[i].end);
    if (high >= BOOT_HIGH_START && top + size < high) {
        char more[32];
        advise(more, sizeof more, top + size);
        return dp_error_set(e, -ENOMEM, "%s of %" PRIu64 "K does not fit beside the kernel into %" PRIu64 "M of memory: try -m %s", what,
                            (size + 1023) / 1024, r->memory_size / MiB, more);
    }
    return dp_error_set(e, -ENOMEM, "%s of %" PRIu64 "K finds no place below 0x%" PRIx64 ", the kernel's limit for it: make it smaller",
                        what, (size + 1023) / 1024, high);
}

int boot_write(struct boot *b, uint64_t at, const void *data, uint64_t size, struct dp_error *e)
{
    if (size && dp_space_write(b->r->memory, at, data, size) < 0)
        return dp_error_set(e, -EFAULT, "kernel %s: cannot write guest memory at 0x%" PRIx64, b->r->kernel.name, at);
    return 0;
}

int boot_zero(struct boot *b, uint64_t at, uint64_t size, struct dp_error *e)
{
    while (size) {
        struct dp_pin p;
        if (!dp_space_pin(b->r->memory, at, size, true, &p))
            return dp_error_set(e, -EFAULT, "kernel %s: cannot write guest memory at 0x%" PRIx64, b->r->kernel.name, at);
        uint64_t n = p.size;
        memset(p.host, 0, n);
        dp_space_unpin(b->r->memory, &p, n);
        at += n;
        size -= n;
    }
    return 0;
}

int boot_cmdline(struct boot *b, const char *text, uint64_t high, uint64_t *at, struct dp_error *e)
{
    uint64_t size = strlen(text) + 1;
    int rc = boot_place(b, size, 16, 0, high, false, "the command line (--append)", at, e);
    return rc ? rc : boot_write(b, *at, text, size, e);
}

uint64_t boot_initrd_size(const struct dp_boot_request *r)
{
    uint64_t total = 0;
    for (unsigned i = 0; i < r->initrd_count; i++)
        total += DP_ALIGN_UP(r->initrd[i].size, (uint64_t)4);
    return total;
}

/* ---- entry states ---- */

enum { SEL_CODE = 0x10, SEL_DATA = 0x18, SEL_TSS = 0x20 };
enum { ATTR_CODE64 = 0xa09b, ATTR_CODE32 = 0xc09b, ATTR_DATA = 0xc093, ATTR_TSS_BUSY = 0x008b };

/* A flat descriptor (base 0) in memory format. */
static uint64_t descriptor(uint32_t attr, uint32_t limit)
{
    uint32_t l = attr & X86_ATTR_G ? limit >> 12 : limit;
    return (l & 0xffff) | (uint64_t)(l >> 16 & 0xf) << 48 | (uint64_t)(attr & 0xf0ff) << 40;
}

static int enter(struct boot *b, struct x86_state *s, uint64_t rip, uint32_t code_attr, struct dp_error *e)
{
    const uint64_t gdt[] = {0, 0, descriptor(code_attr, ~0u), descriptor(ATTR_DATA, ~0u), descriptor(ATTR_TSS_BUSY, 0x67), 0};
    uint64_t at;
    int rc = boot_place(b, sizeof gdt, 16, 0, BOOT_LOW_END, false, "the GDT", &at, e);
    if (rc || (rc = boot_write(b, at, gdt, sizeof gdt, e)))
        return rc;
    x86_state_reset(s, true);
    s->gdtr.base = at;
    s->gdtr.limit = sizeof gdt - 1;
    s->idtr.base = 0;
    s->idtr.limit = 0;
    for (unsigned i = 0; i < X86_SEGS; i++)
        s->seg[i] = (struct x86_seg){.sel = SEL_DATA, .attr = ATTR_DATA, .limit = ~0u};
    s->seg[X86_CS] = (struct x86_seg){.sel = SEL_CODE, .attr = code_attr, .limit = ~0u};
    s->tr = (struct x86_seg){.sel = SEL_TSS, .attr = ATTR_TSS_BUSY, .limit = 0x67};
    s->ldtr = (struct x86_seg){.attr = X86_ATTR_UNUSABLE};
    for (unsigned i = 0; i < X86_GPR_SLOTS; i++)
        s->r[i] = 0;
    s->r[X86_RIP] = rip;
    s->rflags = 2;
    s->cr0 = X86_CR0_PE | X86_CR0_ET;
    s->cr3 = s->cr4 = 0;
    s->efer = 0;
    return 0;
}

int boot_enter_flat32(struct boot *b, struct x86_state *s, uint64_t rip, struct dp_error *e) { return enter(b, s, rip, ATTR_CODE32, e); }

int boot_enter_long(struct boot *b, struct x86_state *s, uint64_t rip, struct dp_error *e)
{
    enum { PML4, PDPT, PD, PAGES = PD + 4 };
    enum { PRESENT = 1, WRITE = 2, LARGE = 0x80 };
    uint64_t at, table[512];
    int rc = boot_place(b, PAGES * DP_PAGE_SIZE, DP_PAGE_SIZE, 0, BOOT_LOW_END, false, "page tables", &at, e);
    for (unsigned page = 0; !rc && page < PAGES; page++) {
        memset(table, 0, sizeof table);
        if (page == PML4)
            table[0] = (at + PDPT * DP_PAGE_SIZE) | PRESENT | WRITE;
        else if (page == PDPT)
            for (unsigned i = 0; i < 4; i++)
                table[i] = (at + (PD + i) * DP_PAGE_SIZE) | PRESENT | WRITE;
        else
            for (unsigned i = 0; i < 512; i++)
                table[i] = ((uint64_t)(page - PD) << 30 | (uint64_t)i << 21) | PRESENT | WRITE | LARGE;
        rc = boot_write(b, at + page * DP_PAGE_SIZE, table, sizeof table, e);
    }
    if (rc || (rc = enter(b, s, rip, ATTR_CODE64, e)))
        return rc;
    s->cr3 = at + PML4 * DP_PAGE_SIZE;
    s->cr4 = X86_CR4_PAE;
    s->cr0 |= X86_CR0_PG;
    s->efer = X86_EFER_LME | X86_EFER_LMA;
    return 0;
}

/* ---- which protocol ---- */

int dp_boot_load(const struct dp_boot_request *r, struct x86_state *cpu, const char **protocol, struct dp_error *e)
{
    static int (*const loaders[])(struct boot *, struct x86_state *, const char **,
                                  struct dp_error *) = {boot_linux_bzimage, boot_multiboot, boot_pvh, boot_linux_elf};
    const char *name;
    if (!r->kernel.size)
        return dp_error_set(e, -ENOEXEC, "kernel %s is empty", r->kernel.name);
    for (unsigned i = 0; i < DP_ARRAY_LEN(loaders); i++) {
        struct boot b = {.r = r};
        int rc = loaders[i](&b, cpu, protocol ? protocol : &name, e);
        if (rc)
            return rc < 0 ? rc : 0;
    }
    if (boot_is_elf(&r->kernel))
        return dp_error_set(e, -ENOEXEC,
                            "kernel %s is an ELF file without a Multiboot header, a PVH note or a Linux kernel in it: give a kernel image",
                            r->kernel.name);
    return dp_error_set(e, -ENOEXEC, "kernel %s is none of what doppel boots: Linux bzImage or vmlinux, Multiboot 1, ELF with a PVH note",
                        r->kernel.name);
}
