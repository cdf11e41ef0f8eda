/* devices/display/vga_internal.h - what the parts of the VGA adapter share: registers, the instance, what a picture is drawn from. */
#ifndef DP_VGA_INTERNAL_H
#define DP_VGA_INTERNAL_H

#include "devices/display/vga.h"
#include "display/edid.h"

/* Register indices and bits, by the names of IBM's reference. */
enum { SEQ_RESET, SEQ_CLOCKING, SEQ_MAP_MASK, SEQ_CHARACTER_MAP, SEQ_MEMORY_MODE, SEQ_COUNT };
enum { CLOCKING_8_DOTS = 1, CLOCKING_HALF = 8, CLOCKING_SCREEN_OFF = 0x20, MEMORY_MODE_SEQUENTIAL = 4, MEMORY_MODE_CHAIN4 = 8 };
enum {
    GC_SET_RESET, GC_ENABLE_SET_RESET, GC_COLOR_COMPARE, GC_ROTATE, GC_READ_MAP, GC_MODE, GC_MISC, GC_COLOR_DONT_CARE, GC_BIT_MASK, GC_COUNT
};
enum { GC_MODE_WRITE = 3, GC_MODE_COMPARE = 8, GC_MODE_ODD_EVEN = 0x10, GC_MODE_SHIFT_CGA = 0x20, GC_MODE_SHIFT_256 = 0x40 };
enum { GC_MISC_GRAPHICS = 1 };
enum { ATTR_MODE = 0x10, ATTR_OVERSCAN, ATTR_PLANE_ENABLE, ATTR_PANNING, ATTR_COLOR_SELECT, ATTR_COUNT };
enum { ATTR_MODE_LINE_GRAPHICS = 4, ATTR_MODE_BLINK = 8, ATTR_MODE_PANNING_COMPAT = 0x20, ATTR_MODE_COLOR_SELECT = 0x80, ATTR_PAS = 0x20 };
enum {
    CRTC_H_TOTAL, CRTC_H_DISPLAY_END, CRTC_V_TOTAL = 6, CRTC_OVERFLOW, CRTC_PRESET_ROW, CRTC_MAX_SCAN_LINE, CRTC_CURSOR_START,
    CRTC_CURSOR_END, CRTC_START_HIGH, CRTC_START_LOW, CRTC_CURSOR_HIGH, CRTC_CURSOR_LOW, CRTC_V_RETRACE_START, CRTC_V_RETRACE_END,
    CRTC_V_DISPLAY_END, CRTC_OFFSET,
    CRTC_UNDERLINE, CRTC_V_BLANK_START, CRTC_V_BLANK_END, CRTC_MODE, CRTC_LINE_COMPARE, CRTC_COUNT
};
enum { CRTC_PROTECT = 0x80, SCAN_DOUBLE = 0x80, CURSOR_OFF = 0x20, UNDERLINE_DWORD = 0x40 };
enum { CRTC_MODE_RA0 = 1, CRTC_MODE_RA1 = 2, CRTC_MODE_BYTE = 0x40 };
enum { MISC_COLOR = 1, MISC_RAM = 2 };
enum {
    DISPI_ID, DISPI_XRES, DISPI_YRES, DISPI_BPP, DISPI_ENABLE, DISPI_BANK, DISPI_VIRT_WIDTH, DISPI_VIRT_HEIGHT, DISPI_X_OFFSET,
    DISPI_Y_OFFSET, DISPI_VIDEO_MEMORY_64K, DISPI_COUNT
};
enum { DISPI_ENABLED = 1, DISPI_GETCAPS = 2, DISPI_8BIT_DAC = 0x20, DISPI_LFB = 0x40, DISPI_NOCLEARMEM = 0x80, DISPI_ENABLE_KEPT = 0xe3 };
enum { DISPI_ID0 = 0xb0c0, DISPI_ID5 = 0xb0c5, BANK_SIZE = 0x10000, MAX_DIMENSION = DP_DISPLAY_MAX_WIDTH };

/* What pictures are drawn from, apart from video memory; copied whole for that. */
struct vga_screen_regs {
    uint8_t misc, attr_index;   /* with ATTR_PAS: the palette serves the screen */
    uint8_t seq[SEQ_COUNT], gc[GC_COUNT], attr[ATTR_COUNT], crtc[CRTC_COUNT];
    uint8_t dac_mask, palette[768];
    uint16_t dispi[DISPI_COUNT];
};

struct vga_regs {
    struct dp_pci_regs pci;
    struct vga_screen_regs s;
    uint8_t seq_index, gc_index, crtc_index;
    bool attr_data;             /* the flip-flop: the next write to 0x3c0 is data */
    uint8_t feature;
    uint8_t dac_read, dac_write, dac_part; /* part: which of red, green, blue comes next */
    bool dac_reading;           /* 0x3c7 was written last */
    uint8_t dac_latch[3];       /* a colour is stored when its third byte comes */
    uint32_t latch;             /* of the graphics controller: a byte of each plane, plane 0 lowest */
    uint16_t dispi_index;
    uint8_t dispi_low;          /* first byte of a value written by bytes */
};

/* Video memory that the window at 0xa0000 shows: from `start` there, so many bytes from `at` on; size 0: nothing. */
struct vga_place { uint32_t start, size, at; };
struct vga_direct {             /* vga_direct.c; follows from what was accessed, no state */
    struct vga_place now;       /* mapped */
    uint32_t mapping;
    unsigned accesses;
    bool hot, busy, again;
};

struct vga {
    struct dp_device device;
    struct vga_regs regs;
    struct dp_pci_function function;
    struct dp_ram *ram;
    const void *rom_source;
    size_t rom_source_size;
    uint8_t *rom;
    uint64_t rom_size;
    uint64_t generation, seen;  /* see vga_source.c */
    struct vga_direct direct;
    uint64_t xres, yres;        /* properties; 0: there is no EDID */
    uint8_t edid[DP_EDID_SIZE];
};

/* Bytes of video memory that an access changed; to be reported to the RAM when the lock is released. */
struct vga_touched { uint32_t at, size; };
static inline void vga_report(struct vga *v, struct vga_touched t)
{
    if (t.size)
        dp_ram_mark_dirty(v->ram, t.at, t.size);
}

/* vga_ports.c; lock held. Ports by their number, 0x3b0-0x3df. */
uint8_t vga_port_read(struct vga *v, unsigned port);
void vga_port_write(struct vga *v, unsigned port, uint8_t value);
extern const struct dp_window_ops vga_mono_ops, vga_ports_ops;

/* vga_memory.c: the legacy window at 0xa0000. */
extern const struct dp_window_ops vga_memory_ops;
struct vga_place vga_window(const struct vga_screen_regs *s);
bool vga_is_linear(const struct vga_screen_regs *s); /* bytes in their order, as far as the map mask lets them through */

/* vga_direct.c. Lock held: an access by the window's functions; registers were written. True: call update once the lock is released. */
bool vga_direct_counts(struct vga *v);
bool vga_direct_is_stale(const struct vga *v);
/* No lock held. cool: nothing is to be mapped now. */
void vga_direct_update(struct vga *v, bool cool);

/* vga_dispi.c */
struct vga_mode { uint32_t width, height, bpp, pitch, start; }; /* pitch and start in bytes of video memory; bpp 4, 8, 15, 16, 24, 32 */
/* False: disabled. Whatever the registers hold, it lies within video memory. */
bool vga_dispi_mode(const struct vga_screen_regs *s, struct vga_mode *out);
uint16_t vga_dispi_read(struct vga *v, unsigned index);                     /* lock held */
struct vga_touched vga_dispi_write(struct vga *v, unsigned index, uint16_t value); /* lock held */
extern const struct dp_window_ops vga_dispi_ops, vga_mmio_ops, vga_rom_ops;

/* vga_draw.c; no lock: on a copy of the registers. Memory may change meanwhile. */
int vga_draw(const struct vga_screen_regs *s, const uint8_t *memory, struct dp_display_picture *out, struct dp_error *e);
bool vga_text(const struct vga_screen_regs *s, const uint8_t *memory, struct dp_display_text *out);
/* The bytes of video memory that the picture may come from. */
void vga_visible(const struct vga_screen_regs *s, uint32_t *at, uint32_t *size);
/* Lines from one vertical retrace to the next and dots in a line, for timing. */
struct vga_timing { uint32_t line_dots, display_dots, lines, display_lines, retrace_start, retrace_end; };
void vga_crtc_timing(const struct vga_screen_regs *s, struct vga_timing *t);

#endif
