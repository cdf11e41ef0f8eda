/* devices/display/vga.c - the VGA adapter as a device: state, life, PCI function, and what a viewer asks. Model and sources in vga.h.
 *
 * A viewer's picture is drawn without the lock, from a copy of the registers, so that the guest's accesses do not wait for it.
 * generation(): the guest writes the frame buffer as RAM, which nobody hears of. A dirty client of the memory space would cost the guest
 * a slow write for each page of its own RAM, too, each time it is asked; so what is visible is hashed when a viewer asks: 3 MiB are some
 * tenths of a millisecond, less than drawing them.
 */
#include "devices/display/vga_internal.h"

#include <stdlib.h>

enum { BAR_FRAME_BUFFER = 0, BAR_REGISTERS = 2, REGISTERS_SIZE = 0x1000, ROM_MIN = 2048, ROM_MAX = 256 << 10 };
enum { COMMAND_PALETTE_SNOOP = 0x20 };

/* ---- state ---- */

static const struct dp_field screen_fields[] = {
    DP_FIELD_U8(struct vga_screen_regs, misc, 1, 0, 0xef),
    DP_FIELD_U8(struct vga_screen_regs, attr_index, 2, 0, 0x3f),
    DP_FIELD_BYTES(struct vga_screen_regs, seq, 3),
    DP_FIELD_BYTES(struct vga_screen_regs, gc, 4),
    DP_FIELD_BYTES(struct vga_screen_regs, attr, 5),
    DP_FIELD_BYTES(struct vga_screen_regs, crtc, 6),
    DP_FIELD_U8(struct vga_screen_regs, dac_mask, 7, 0xff, 0),
    DP_FIELD_BYTES(struct vga_screen_regs, palette, 8),
    DP_FIELD_ARRAY(struct vga_screen_regs, dispi, 9, DP_KIND_U16, 0, 0),
};
static const struct dp_state_table screen_table = DP_STATE_TABLE(struct vga_screen_regs, "vga-screen", screen_fields);

static const struct dp_field vga_fields[] = {
    DP_FIELD_STRUCT(struct vga_regs, pci, 1, &dp_pci_regs_table),
    DP_FIELD_STRUCT(struct vga_regs, s, 2, &screen_table),
    DP_FIELD_U8(struct vga_regs, seq_index, 3, 0, 0x07),
    DP_FIELD_U8(struct vga_regs, gc_index, 4, 0, 0x0f),
    DP_FIELD_U8(struct vga_regs, crtc_index, 5, 0, 0),
    DP_FIELD_BOOL(struct vga_regs, attr_data, 6, false),
    DP_FIELD_U8(struct vga_regs, feature, 7, 0, 0x0b),
    DP_FIELD_U8(struct vga_regs, dac_read, 8, 0, 0),
    DP_FIELD_U8(struct vga_regs, dac_write, 9, 0, 0),
    DP_FIELD_U8(struct vga_regs, dac_part, 10, 0, 0x03),
    DP_FIELD_BOOL(struct vga_regs, dac_reading, 11, false),
    DP_FIELD_BYTES(struct vga_regs, dac_latch, 12),
    DP_FIELD_U32(struct vga_regs, latch, 13, 0, 0),
    DP_FIELD_U16(struct vga_regs, dispi_index, 14, 0, 0),
    DP_FIELD_U8(struct vga_regs, dispi_low, 15, 0, 0),
};

static int vga_check(const void *regs, struct dp_error *e)
{
    const struct vga_regs *r = regs;
    return r->dac_part > 2 ? dp_error_set(e, -EINVAL, "vga: a colour has no part %u", r->dac_part) : 0;
}

static void vga_clamp(void *regs)
{
    struct vga_regs *r = regs;
    r->dac_part %= 3;
}

static const struct dp_state_table vga_state = DP_STATE_TABLE(struct vga_regs, "vga", vga_fields, .check = vga_check, .clamp = vga_clamp);

static struct vga *vga_of(struct dp_device *d) { return DP_CONTAINER_OF(d, struct vga, device); }

/* ---- the viewer's side ---- */

static void copy_registers(struct vga *v, struct vga_screen_regs *out)
{
    pthread_mutex_lock(&v->device.lock);
    memcpy(out, &v->regs.s, sizeof(*out));
    pthread_mutex_unlock(&v->device.lock);
}

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 32;
}

/* Four chains, so that the multiplications of one do not wait for each other's. */
static uint64_t hash(const uint8_t *p, size_t size, uint64_t seed)
{
    uint64_t h[4] = {seed, seed + 1, seed + 2, seed + 3}, last = 0;
    for (; size >= 32; p += 32, size -= 32)
        for (unsigned i = 0; i < 4; i++)
            h[i] = mix(h[i], dp_ld64(p + i * 8));
    for (; size >= 8; p += 8, size -= 8)
        h[0] = mix(h[0], dp_ld64(p));
    memcpy(&last, p, size);
    return mix(mix(mix(h[0], h[1]), mix(h[2], h[3])), last);
}

static uint64_t source_generation(void *opaque)
{
    struct vga *v = opaque;
    struct vga_screen_regs s;
    uint32_t at, size;
    copy_registers(v, &s);
    vga_visible(&s, &at, &size);
    uint64_t now = hash(v->ram->host + at, size, hash((const uint8_t *)&s, sizeof(s), 0));
    pthread_mutex_lock(&v->device.lock);
    if (now != v->seen)
        v->generation++;
    v->seen = now;
    uint64_t generation = v->generation;
    pthread_mutex_unlock(&v->device.lock);
    return generation;
}

static int source_picture(void *opaque, struct dp_display_picture *out, struct dp_error *e)
{
    struct vga *v = opaque;
    struct vga_screen_regs s;
    copy_registers(v, &s);
    return vga_draw(&s, v->ram->host, out, e);
}

static bool source_text(void *opaque, struct dp_display_text *out)
{
    struct vga *v = opaque;
    struct vga_screen_regs s;
    copy_registers(v, &s);
    return vga_text(&s, v->ram->host, out);
}

struct dp_display_source dp_vga_source(struct dp_device *d)
{
    return (struct dp_display_source){source_generation, source_picture, source_text, vga_of(d)};
}

/* ---- life ---- */

void dp_vga_wire(struct dp_device *d, const void *rom, size_t rom_size)
{
    vga_of(d)->rom_source = rom;
    vga_of(d)->rom_source_size = rom ? rom_size : 0;
}

struct dp_pci_function *dp_vga_function(struct dp_device *d) { return &vga_of(d)->function; }
struct dp_ram *dp_vga_ram(struct dp_device *d) { return vga_of(d)->ram; }

static int load_rom(struct vga *v, struct dp_error *e)
{
    if (!v->rom_source_size)
        return 0;
    if (v->rom_source_size > ROM_MAX)
        return dp_error_set(e, -EFBIG, "a VGA BIOS of %zu bytes is too large: %d are possible", v->rom_source_size, ROM_MAX);
    for (v->rom_size = ROM_MIN; v->rom_size < v->rom_source_size;)
        v->rom_size *= 2;
    v->rom = calloc(1, v->rom_size);
    if (!v->rom)
        return dp_error_set(e, -ENOMEM, "no memory for the VGA BIOS");
    memcpy(v->rom, v->rom_source, v->rom_source_size);
    return 0;
}

static int vga_init(struct dp_device *d, struct dp_error *e)
{
    struct vga *v = vga_of(d);
    static const struct dp_pci_id id = {
        .vendor = 0x1234, .device = 0x1111, .subsystem_vendor = 0x1af4, .subsystem = 0x1100, .revision = 2, .class_code = 0x030000,
    };
    int rc = load_rom(v, e);
    if (v->xres && v->yres)
        dp_display_edid(v->edid, "doppel", (uint32_t)v->xres, (uint32_t)v->yres);
    if (!rc)
        rc = dp_ram_create("vga", DP_VGA_MEMORY_SIZE, &v->ram, e);
    if (rc) {
        free(v->rom);
        return rc;
    }
    struct dp_pci_function *f = &v->function;
    dp_pci_function_init(f, &v->regs.pci, &id, d->env, &d->lock);
    dp_pci_add_ram_bar(f, BAR_FRAME_BUFFER, v->ram, false, true);
    dp_pci_add_bar(f, BAR_REGISTERS, REGISTERS_SIZE, false, false, &vga_mmio_ops, v);
    if (v->rom)
        dp_pci_add_rom(f, v->rom_size, &vga_rom_ops, v);
    f->write_mask[DP_PCI_COMMAND] |= COMMAND_PALETTE_SNOOP | DP_PCI_COMMAND_IO;
    return 0;
}

static void vga_fini(struct dp_device *d)
{
    struct vga *v = vga_of(d);
    dp_pci_unplug(&v->function);
    vga_direct_update(v, true);
    dp_ram_destroy(v->ram);
    free(v->rom);
}

static void vga_reset(struct dp_device *d)
{
    struct vga *v = vga_of(d);
    pthread_mutex_lock(&d->lock);
    v->regs.s.dispi[DISPI_ID] = DISPI_ID5;
    pthread_mutex_unlock(&d->lock);
    vga_direct_update(v, true);
    dp_pci_function_reset(&v->function);
}

static void vga_post_load(struct dp_device *d)
{
    vga_direct_update(vga_of(d), true);
    dp_pci_function_post_load(&vga_of(d)->function);
}

static const struct dp_property vga_properties[] = {
    {"xres", "width that the monitor prefers; 0: it tells nothing", DP_PROP_UINT, offsetof(struct vga, xres), 0, 0, MAX_DIMENSION - 1},
    {"yres", "its height", DP_PROP_UINT, offsetof(struct vga, yres), 0, 0, MAX_DIMENSION - 1},
};

static const struct dp_window_spec vga_windows[] = {
    [DP_VGA_WINDOW_MEMORY] = {"memory", 0x20000, &vga_memory_ops, false},
    [DP_VGA_WINDOW_MONO] = {"mono", 12, &vga_mono_ops, true},
    [DP_VGA_WINDOW_PORTS] = {"ports", 32, &vga_ports_ops, true},
    [DP_VGA_WINDOW_DISPI] = {"dispi", 4, &vga_dispi_ops, true},
};

const struct dp_device_class dp_vga_class = {
    .name = "vga",
    .summary = "VGA adapter with the Bochs display interface",
    .size = sizeof(struct vga),
    .regs_offset = offsetof(struct vga, regs),
    .state = &vga_state,
    .properties = vga_properties,
    .property_count = DP_ARRAY_LEN(vga_properties),
    .windows = vga_windows,
    .window_count = DP_ARRAY_LEN(vga_windows),
    .init = vga_init,
    .fini = vga_fini,
    .reset = vga_reset,
    .post_load = vga_post_load,
};
