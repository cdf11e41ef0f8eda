/* devices/display/vga_memory.c - the legacy window at 0xa0000: how an access becomes bytes of the four planes.
 *
 * Model: the graphics controller says where the window shows memory (64 KiB or 128 KiB at 0xa0000, 32 KiB at 0xb0000 or 0xb8000).
 * Chain-4 and DISPI modes of 8 bits and more: a byte is a byte, if the map mask lets it through. Odd/even: the lowest address bit
 * chooses planes. Else each address is a byte in all planes, and goes through rotation, set/reset, logic unit and bit mask on the four
 * at once, which here is arithmetic on 32 bits. Reads fill the latches there.
 * An access of several bytes is done under one lock. In chain-4 with all planes let through, and in DISPI modes but for 4 bits, the
 * window is bytes of video memory in their order (vga_is_linear, locate): it is mapped as RAM then (vga_direct.c). Text could not be: a
 * character and its attribute are two bytes of every four.
 * Source: IBM PS/2 Video Subsystems, section 2: graphics controller (write modes 0-3, read modes 0-1), sequencer memory mode.
 */
#include "devices/display/vga_internal.h"

enum { MASK = DP_VGA_MEMORY_SIZE - 1, GROUPS = DP_VGA_MEMORY_SIZE / 4, VGA_GROUPS = 0x10000 };

/* Four bits, one for each plane, to a byte for each. */
static uint32_t spread(unsigned planes)
{
    static const uint32_t bytes[16] = {0x00000000, 0x000000ff, 0x0000ff00, 0x0000ffff, 0x00ff0000, 0x00ff00ff, 0x00ffff00, 0x00ffffff,
                                       0xff000000, 0xff0000ff, 0xff00ff00, 0xff00ffff, 0xffff0000, 0xffff00ff, 0xffffff00, 0xffffffff};
    return bytes[planes & 15];
}

struct vga_place vga_window(const struct vga_screen_regs *s)
{
    static const struct vga_place maps[4] = {{0, 0x20000, 0}, {0, 0x10000, 0}, {0x10000, 0x8000, 0}, {0x18000, 0x8000, 0}};
    struct vga_place p = maps[s->gc[GC_MISC] >> 2 & 3];
    if (!(s->misc & MISC_RAM))
        p.size = 0;
    if (s->dispi[DISPI_ENABLE] & DISPI_ENABLED)
        p.at = (uint32_t)s->dispi[DISPI_BANK] * BANK_SIZE;
    return p;
}

/* What the window shows at an offset from 0xa0000; false: nothing. */
static bool locate(const struct vga_screen_regs *s, uint32_t offset, uint32_t *at)
{
    const struct vga_place p = vga_window(s);
    *at = p.at + (offset - p.start);
    return offset - p.start < p.size;
}

bool vga_is_linear(const struct vga_screen_regs *s)
{
    if (s->dispi[DISPI_ENABLE] & DISPI_ENABLED)
        return s->dispi[DISPI_BPP] != 4;
    return s->seq[SEQ_MEMORY_MODE] & MEMORY_MODE_CHAIN4;
}

/* The group of four bytes at n; a VGA has 64 Ki of them, DISPI all. */
static uint32_t group(const struct vga_screen_regs *s, uint32_t n)
{
    return (n & (s->dispi[DISPI_ENABLE] & DISPI_ENABLED ? GROUPS - 1 : VGA_GROUPS - 1)) * 4;
}

/* ---- writing; lock held ---- */

/* What the graphics controller makes of a byte for the four planes. */
static uint32_t compose(const struct vga_screen_regs *s, uint32_t latch, uint8_t value)
{
    const uint8_t *gc = s->gc;
    unsigned mode = gc[GC_MODE] & GC_MODE_WRITE, rotate = gc[GC_ROTATE] & 7;
    uint8_t rotated = (uint8_t)(value >> rotate | value << (8 - rotate));
    uint32_t data, bits = gc[GC_BIT_MASK] * 0x01010101u, reset;
    switch (mode) {
    case 0:
        reset = spread(gc[GC_ENABLE_SET_RESET]);
        data = ((rotated * 0x01010101u) & ~reset) | (spread(gc[GC_SET_RESET]) & reset);
        break;
    case 1: return latch;
    case 2: data = spread(value); break;
    default:
        data = spread(gc[GC_SET_RESET]);
        bits &= rotated * 0x01010101u;
        break;
    }
    switch (gc[GC_ROTATE] >> 3 & 3) {
    case 1: data &= latch; break;
    case 2: data |= latch; break;
    case 3: data ^= latch; break;
    }
    return (data & bits) | (latch & ~bits);
}

static struct vga_touched linear_write(struct vga *v, uint32_t at, uint64_t value, unsigned size)
{
    const struct vga_screen_regs *s = &v->regs.s;
    at &= MASK & ~(size - 1);
    unsigned planes = s->dispi[DISPI_ENABLE] & DISPI_ENABLED ? 15 : s->seq[SEQ_MAP_MASK];
    if (planes == 15)
        memcpy(v->ram->host + at, &value, size);
    else
        for (unsigned i = 0; i < size; i++)
            if (planes >> ((at + i) & 3) & 1)
                v->ram->host[at + i] = (uint8_t)(value >> i * 8);
    return (struct vga_touched){at, size};
}

static struct vga_touched planar_write(struct vga *v, uint32_t at, uint64_t value, unsigned size)
{
    const struct vga_screen_regs *s = &v->regs.s;
    bool sequential = s->seq[SEQ_MEMORY_MODE] & MEMORY_MODE_SEQUENTIAL || s->dispi[DISPI_ENABLE] & DISPI_ENABLED;
    struct vga_touched t = {.at = group(s, sequential ? at : at >> 1)};
    for (unsigned i = 0; i < size; i++) {
        unsigned planes = s->seq[SEQ_MAP_MASK];
        uint32_t to = group(s, sequential ? at + i : (at + i) >> 1);
        if (!sequential)
            planes &= (at + i) & 1 ? 0x0a : 0x05;
        uint32_t allowed = spread(planes), result = compose(s, v->regs.latch, (uint8_t)(value >> i * 8));
        dp_st32(v->ram->host + to, (dp_ld32(v->ram->host + to) & ~allowed) | (result & allowed));
        t.size = to + 4 - t.at;
    }
    return t;
}

static void memory_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct vga *v = opaque;
    struct vga_touched t = {0};
    uint32_t at;
    pthread_mutex_lock(&v->device.lock);
    if (locate(&v->regs.s, (uint32_t)offset, &at))
        t = vga_is_linear(&v->regs.s) ? linear_write(v, at, value, size) : planar_write(v, at, value, size);
    bool hot = vga_direct_counts(v);
    pthread_mutex_unlock(&v->device.lock);
    vga_report(v, t);
    if (hot)
        vga_direct_update(v, false);
}

/* ---- reading; lock held ---- */

static uint8_t planar_read(struct vga *v, uint32_t at)
{
    struct vga_regs *r = &v->regs;
    const uint8_t *gc = r->s.gc;
    bool odd_even = (gc[GC_MODE] & GC_MODE_ODD_EVEN) && !(r->s.dispi[DISPI_ENABLE] & DISPI_ENABLED);
    r->latch = dp_ld32(v->ram->host + group(&r->s, odd_even ? at >> 1 : at));
    if (odd_even)
        return (uint8_t)(r->latch >> ((gc[GC_READ_MAP] & 2) | (at & 1)) * 8);
    if (!(gc[GC_MODE] & GC_MODE_COMPARE))
        return (uint8_t)(r->latch >> (gc[GC_READ_MAP] & 3) * 8);
    uint32_t differs = (r->latch ^ spread(gc[GC_COLOR_COMPARE])) & spread(gc[GC_COLOR_DONT_CARE]);
    differs |= differs >> 16;
    return (uint8_t)~(differs | differs >> 8);
}

static uint64_t memory_read(void *opaque, uint64_t offset, unsigned size)
{
    struct vga *v = opaque;
    uint64_t value = 0;
    uint32_t at;
    pthread_mutex_lock(&v->device.lock);
    if (!locate(&v->regs.s, (uint32_t)offset, &at)) {
        value = ~0ull;
    } else if (vga_is_linear(&v->regs.s)) { /* the latches are of no use there, and not filled: see vga_direct.c */
        at &= MASK & ~(size - 1);
        memcpy(&value, v->ram->host + at, size);
    } else {
        for (unsigned i = 0; i < size; i++)
            value |= (uint64_t)planar_read(v, at + i) << i * 8;
    }
    bool hot = vga_direct_counts(v);
    pthread_mutex_unlock(&v->device.lock);
    if (hot)
        vga_direct_update(v, false);
    return value;
}

const struct dp_window_ops vga_memory_ops = {"vga-memory", memory_read, memory_write, 1, 8};
