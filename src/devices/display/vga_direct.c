/* devices/display/vga_direct.c - the legacy window as RAM, while the registers make it that.
 *
 * Model: where the window shows bytes of video memory in their order (chain-4 with all planes let through, as BIOS mode 13h has it; DISPI
 * modes but for 4 bits), an access by vga_memory.c does nothing that RAM would not. After HOT such accesses video memory is mapped over
 * the window, and processors reach it without a call here; a change of the registers that would make it another thing takes the mapping
 * away, and counting begins anew. So what mapping costs (all processors forget translations) is small beside the accesses before it, even
 * where a program changes banks all the time.
 * Which accesses came here is not to be seen in the state: reads in these modes leave the latches alone.
 * Locks: one thread at a time maps, with no lock held, and starts over when another changed registers meanwhile, as pci.c does with BARs.
 */
#include "devices/display/vga_internal.h"

enum { HOT = 512 };

static bool is_same(const struct vga_place *a, const struct vga_place *b)
{
    return a->size == b->size && a->start == b->start && a->at == b->at;
}

/* Video memory the window shows as it is; size 0: none. */
static struct vga_place plain(const struct vga_screen_regs *s)
{
    struct vga_place p = vga_window(s);
    bool dispi = s->dispi[DISPI_ENABLE] & DISPI_ENABLED;
    if (!vga_is_linear(s) || (!dispi && s->seq[SEQ_MAP_MASK] != 15) || p.at > DP_VGA_MEMORY_SIZE || p.size > DP_VGA_MEMORY_SIZE - p.at)
        p.size = 0;
    return p;
}

bool vga_direct_counts(struct vga *v)
{
    struct vga_direct *d = &v->direct;
    if (d->now.size || ++d->accesses < HOT || !plain(&v->regs.s).size)
        return false;
    d->accesses = 0;
    return d->hot = true;
}

bool vga_direct_is_stale(const struct vga *v)
{
    const struct vga_place p = plain(&v->regs.s);
    return v->direct.hot && !is_same(&p, &v->direct.now);
}

void vga_direct_update(struct vga *v, bool cool)
{
    struct vga_direct *d = &v->direct;
    struct dp_space *memory = v->device.env->memory;
    pthread_mutex_lock(&v->device.lock);
    d->hot &= !cool;
    d->again = true;
    if (d->busy) {
        pthread_mutex_unlock(&v->device.lock);
        return;
    }
    d->busy = true;
    while (d->again) {
        d->again = false;
        struct vga_place old = d->now, wanted = d->hot ? plain(&v->regs.s) : (struct vga_place){0};
        if (is_same(&wanted, &old))
            continue;
        pthread_mutex_unlock(&v->device.lock);
        if (old.size)
            dp_space_unmap(memory, d->mapping);
        /* Of the window's own priority: the later one is on top. */
        if (wanted.size &&
            dp_space_map_ram(memory, DP_VGA_MEMORY_BASE + wanted.start, v->ram, wanted.at, wanted.size, false, 0, &d->mapping, NULL))
            wanted = (struct vga_place){0};
        pthread_mutex_lock(&v->device.lock);
        d->now = wanted;
        d->hot &= wanted.size != 0;
    }
    d->busy = false;
    pthread_mutex_unlock(&v->device.lock);
}
