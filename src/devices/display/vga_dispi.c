/* devices/display/vga_dispi.c - the Bochs display interface: ports 0x1ce-0x1d0, and the register BAR, which shows VGA ports and DISPI
 * registers.
 *
 * Model: eleven 16-bit registers. Enabling clears the memory of the screen (unless told not to) and makes virtual width and offsets
 * follow the mode; while it is enabled each write is brought to something possible, which software reads back. What pictures and the
 * window at 0xa0000 use is worked out from the registers anew each time (vga_dispi_mode), because a loaded state may hold anything.
 * The data register at port 0x1cf has an odd address, so that a word there arrives as two bytes: the first is kept until the second
 * comes.
 * The register BAR: 0 the monitor's EDID (zeros: none), 0x400 VGA ports from 0x3c0, 0x500 DISPI registers as words, 0x600 QEMU's
 * extensions: size and byte order (little, fixed).
 * Source: Bochs vbe_display_api.txt; QEMU docs/specs/standard-vga.rst.
 */
#include "devices/display/vga_internal.h"

enum { MMIO_PORTS = 0x400, MMIO_DISPI = 0x500, MMIO_EXTENSIONS = 0x600, MMIO_EXTENSIONS_END = 0x608 };
#define BYTE_ORDER_LITTLE 0x1e1e1e1e00000008ull /* after the extensions' size, 8 bytes */

/* ---- what the registers mean ---- */

/* Bytes of a line of so many pixels; an even number of groups is not needed. */
static uint32_t line_bytes(uint32_t pixels, uint32_t bpp) { return bpp == 4 ? pixels / 8 * 4 : pixels * ((bpp + 7) / 8); }

static bool bpp_exists(unsigned bpp) { return bpp == 4 || bpp == 8 || bpp == 15 || bpp == 16 || bpp == 24 || bpp == 32; }

bool vga_dispi_mode(const struct vga_screen_regs *s, struct vga_mode *out)
{
    const uint16_t *d = s->dispi;
    if (!(d[DISPI_ENABLE] & DISPI_ENABLED))
        return false;
    struct vga_mode m = {.bpp = bpp_exists(d[DISPI_BPP]) ? d[DISPI_BPP] : 8};
    m.width = DP_MAX(8u, DP_MIN((uint32_t)d[DISPI_XRES], (uint32_t)MAX_DIMENSION));
    if (m.bpp == 4)
        m.width &= ~7u;
    uint32_t line = DP_MAX((uint32_t)d[DISPI_VIRT_WIDTH], m.width);
    if (m.bpp == 4)
        line &= ~7u;
    m.pitch = line_bytes(line, m.bpp);
    uint32_t lines = DP_VGA_MEMORY_SIZE / m.pitch; /* at least 64: a pitch is below 2^18 */
    m.height = DP_MAX(1u, DP_MIN(DP_MIN((uint32_t)d[DISPI_YRES], (uint32_t)MAX_DIMENSION), lines));
    uint32_t x = DP_MIN((uint32_t)d[DISPI_X_OFFSET], line - m.width), y = DP_MIN((uint32_t)d[DISPI_Y_OFFSET], lines - m.height);
    m.start = y * m.pitch + line_bytes(x, m.bpp);
    *out = m;
    return true;
}

/* Lines that memory has room for at the present pitch. */
static uint32_t virtual_height(const struct vga_screen_regs *s)
{
    struct vga_mode m;
    return vga_dispi_mode(s, &m) ? DP_MIN(DP_VGA_MEMORY_SIZE / m.pitch, 0xffffu) : 0;
}

/* Makes the registers say what they do. */
static void settle(struct vga_screen_regs *s)
{
    uint16_t *d = s->dispi;
    struct vga_mode m;
    if (!vga_dispi_mode(s, &m))
        return;
    uint32_t line = m.bpp == 4 ? m.pitch / 4 * 8 : m.pitch / ((m.bpp + 7) / 8);
    d[DISPI_BPP] = (uint16_t)m.bpp;
    d[DISPI_XRES] = (uint16_t)m.width;
    d[DISPI_YRES] = (uint16_t)m.height;
    d[DISPI_VIRT_WIDTH] = (uint16_t)line;
    d[DISPI_X_OFFSET] = (uint16_t)DP_MIN((uint32_t)d[DISPI_X_OFFSET], line - m.width);
    d[DISPI_Y_OFFSET] = (uint16_t)DP_MIN((uint32_t)d[DISPI_Y_OFFSET], DP_VGA_MEMORY_SIZE / m.pitch - m.height);
}

/* ---- registers; lock held ---- */

uint16_t vga_dispi_read(struct vga *v, unsigned index)
{
    const struct vga_screen_regs *s = &v->regs.s;
    if (s->dispi[DISPI_ENABLE] & DISPI_GETCAPS)
        switch (index) {
        case DISPI_XRES: case DISPI_YRES: return MAX_DIMENSION;
        case DISPI_BPP: return 32;
        }
    switch (index) {
    case DISPI_VIRT_HEIGHT: return (uint16_t)virtual_height(s);
    case DISPI_VIDEO_MEMORY_64K: return DP_VGA_MEMORY_SIZE / BANK_SIZE;
    }
    return index < DISPI_COUNT ? s->dispi[index] : 0;
}

static struct vga_touched enable(struct vga *v, uint16_t value)
{
    struct vga_screen_regs *s = &v->regs.s;
    struct vga_touched t = {0};
    bool was = s->dispi[DISPI_ENABLE] & DISPI_ENABLED;
    s->dispi[DISPI_ENABLE] = value & DISPI_ENABLE_KEPT;
    if (!(value & DISPI_ENABLED)) {
        s->dispi[DISPI_BANK] = 0;
    } else if (!was) {
        struct vga_mode m;
        s->dispi[DISPI_VIRT_WIDTH] = s->dispi[DISPI_X_OFFSET] = s->dispi[DISPI_Y_OFFSET] = s->dispi[DISPI_BANK] = 0;
        settle(s);
        if (!(value & DISPI_NOCLEARMEM) && vga_dispi_mode(s, &m)) {
            t.size = m.pitch * m.height;
            memset(v->ram->host, 0, t.size);
        }
    }
    return t;
}

struct vga_touched vga_dispi_write(struct vga *v, unsigned index, uint16_t value)
{
    struct vga_screen_regs *s = &v->regs.s;
    switch (index) {
    case DISPI_ID:
        if (value >= DISPI_ID0 && value <= DISPI_ID5)
            s->dispi[DISPI_ID] = value;
        break;
    case DISPI_ENABLE: return enable(v, value);
    case DISPI_BANK: s->dispi[DISPI_BANK] = value % (DP_VGA_MEMORY_SIZE / BANK_SIZE); break;
    case DISPI_XRES: case DISPI_YRES: case DISPI_BPP: case DISPI_VIRT_WIDTH: case DISPI_X_OFFSET: case DISPI_Y_OFFSET:
        s->dispi[index] = value;
        settle(s);
        break;
    }
    return (struct vga_touched){0};
}

/* ---- ports ---- */

enum { INDEX = 0, DATA_LOW = 1, DATA_HIGH = 2 };

static uint64_t dispi_read(void *opaque, uint64_t offset, unsigned size)
{
    struct vga *v = opaque;
    uint64_t value = dp_mask_bytes(size);
    pthread_mutex_lock(&v->device.lock);
    uint16_t data = vga_dispi_read(v, v->regs.dispi_index);
    if (offset == INDEX)
        value = v->regs.dispi_index;
    else if (offset == DATA_LOW || (offset == DATA_HIGH && size == 2))
        value = data;
    else if (offset == DATA_HIGH)
        value = data >> 8;
    pthread_mutex_unlock(&v->device.lock);
    return value & dp_mask_bytes(size);
}

static void dispi_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct vga *v = opaque;
    struct vga_touched t = {0};
    pthread_mutex_lock(&v->device.lock);
    if (offset == INDEX)
        v->regs.dispi_index = (uint16_t)value;
    else if (offset == DATA_LOW)
        v->regs.dispi_low = (uint8_t)value;
    else if (offset == DATA_HIGH)
        t = vga_dispi_write(v, v->regs.dispi_index, (uint16_t)(size == 2 ? value : v->regs.dispi_low | value << 8));
    bool stale = vga_direct_is_stale(v);
    pthread_mutex_unlock(&v->device.lock);
    vga_report(v, t);
    if (stale)
        vga_direct_update(v, true);
}

/* ---- the register BAR ---- */

static uint64_t mmio_read(void *opaque, uint64_t offset, unsigned size)
{
    struct vga *v = opaque;
    uint64_t value = 0;
    if (offset + size <= sizeof(v->edid)) {
        memcpy(&value, v->edid + offset, size);
        return value;
    }
    pthread_mutex_lock(&v->device.lock);
    if (offset >= MMIO_PORTS && offset < MMIO_PORTS + 0x20)
        for (unsigned i = 0; i < size; i++)
            value |= (uint64_t)vga_port_read(v, DP_VGA_PORT_VGA + (unsigned)(offset - MMIO_PORTS) + i) << i * 8;
    else if (offset >= MMIO_DISPI && offset < MMIO_DISPI + DISPI_COUNT * 2)
        for (unsigned i = 0; i < size; i += 2)
            value |= (uint64_t)(vga_dispi_read(v, (unsigned)(offset - MMIO_DISPI + i) / 2) >> (offset & 1) * 8) << i * 8;
    else if (offset >= MMIO_EXTENSIONS && offset < MMIO_EXTENSIONS_END)
        value = BYTE_ORDER_LITTLE >> (offset - MMIO_EXTENSIONS) * 8;
    pthread_mutex_unlock(&v->device.lock);
    return value & dp_mask_bytes(size);
}

static void mmio_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct vga *v = opaque;
    struct vga_touched t[2] = {{0}};
    pthread_mutex_lock(&v->device.lock);
    if (offset >= MMIO_PORTS && offset < MMIO_PORTS + 0x20)
        for (unsigned i = 0; i < size; i++)
            vga_port_write(v, DP_VGA_PORT_VGA + (unsigned)(offset - MMIO_PORTS) + i, (uint8_t)(value >> i * 8));
    else if (offset >= MMIO_DISPI && offset < MMIO_DISPI + DISPI_COUNT * 2 && size >= 2)
        for (unsigned i = 0; i < size; i += 2)
            t[i / 2] = vga_dispi_write(v, (unsigned)(offset - MMIO_DISPI + i) / 2, (uint16_t)(value >> i * 8));
    bool stale = vga_direct_is_stale(v);
    pthread_mutex_unlock(&v->device.lock);
    vga_report(v, t[0]);
    vga_report(v, t[1]);
    if (stale)
        vga_direct_update(v, true);
}

/* ---- the VGA BIOS ---- */

static uint64_t rom_read(void *opaque, uint64_t offset, unsigned size)
{
    const struct vga *v = opaque;
    uint64_t value = 0;
    memcpy(&value, v->rom + offset, size);
    return value;
}

const struct dp_window_ops vga_dispi_ops = {"vga-dispi", dispi_read, dispi_write, 1, 2};
const struct dp_window_ops vga_mmio_ops = {"vga-mmio", mmio_read, mmio_write, 1, 4};
const struct dp_window_ops vga_rom_ops = {.name = "vga-rom", .read = rom_read, .min_size = 1, .max_size = 8};
