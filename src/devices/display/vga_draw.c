/* devices/display/vga_draw.c - from registers and video memory to a picture, or to the characters of a text mode.
 *
 * Model: the CRTC is followed line by line as the hardware does it: an address counter that starts at the start address and moves on by
 * the offset after the last scan line of each row; a row scan counter; the line compare that sets both to 0. In each line the counter
 * fetches a group of four bytes for every character clock, and the serialiser makes 8 (or 9) dots of it: text (character, attribute,
 * font), 2 bits a pixel (CGA), 4 planes, or 4 pixels of 256 colours with two dots each. In modes compatible with the CGA, row scan bits
 * replace address bits. A line that shows what the line before did is copied. DISPI modes are plain frame buffers.
 * Invariants: groups are taken modulo 64 Ki in VGA modes; DISPI modes lie in video memory (vga_dispi_mode). Sizes never exceed what a
 * picture may have. Registers are a copy, but memory changes under our hands: each byte is read once, and no value read is an index
 * unmasked.
 * Source: IBM PS/2 Video Subsystems, section 2: CRT controller, attribute controller, character map select.
 */
#include "devices/display/vga_internal.h"

enum { GROUP_MASK = 0xffff, VGA_BYTES = 0x40000, LINE_DOTS = 257 * 9, FONT_ROWS = 32, TEXT_ROWS = 128 };

/* ---- timing and geometry ---- */

void vga_crtc_timing(const struct vga_screen_regs *s, struct vga_timing *t)
{
    const uint8_t *c = s->crtc;
    unsigned dots = s->seq[SEQ_CLOCKING] & CLOCKING_8_DOTS ? 8 : 9, high = c[CRTC_OVERFLOW];
    t->line_dots = (c[CRTC_H_TOTAL] + 5u) * dots;
    t->display_dots = (c[CRTC_H_DISPLAY_END] + 1u) * dots;
    t->lines = (c[CRTC_V_TOTAL] | (high & 1) << 8 | (high & 0x20) << 4) + 2u;
    t->display_lines = (c[CRTC_V_DISPLAY_END] | (high & 2) << 7 | (high & 0x40) << 3) + 1u;
    t->retrace_start = c[CRTC_V_RETRACE_START] | (high & 4) << 6 | (high & 0x80) << 2;
    unsigned length = (c[CRTC_V_RETRACE_END] - t->retrace_start) & 15;
    t->retrace_end = t->retrace_start + (length ? length : 16);
}

static unsigned line_compare(const struct vga_screen_regs *s)
{
    return s->crtc[CRTC_LINE_COMPARE] | (s->crtc[CRTC_OVERFLOW] & 0x10u) << 4 | (s->crtc[CRTC_MAX_SCAN_LINE] & 0x40u) << 3;
}

static bool is_text(const struct vga_screen_regs *s)
{
    return !(s->dispi[DISPI_ENABLE] & DISPI_ENABLED) && !(s->gc[GC_MISC] & GC_MISC_GRAPHICS);
}

static bool is_blank(const struct vga_screen_regs *s)
{
    return !(s->attr_index & ATTR_PAS) || (!(s->dispi[DISPI_ENABLE] & DISPI_ENABLED) && (s->seq[SEQ_CLOCKING] & CLOCKING_SCREEN_OFF));
}

void vga_visible(const struct vga_screen_regs *s, uint32_t *at, uint32_t *size)
{
    struct vga_mode m;
    *at = 0;
    *size = is_blank(s) ? 0 : VGA_BYTES;
    if (*size && vga_dispi_mode(s, &m)) {
        *at = m.start;
        *size = (m.height - 1) * m.pitch + (m.bpp == 4 ? m.width / 2 : m.width * ((m.bpp + 7) / 8));
    }
}

/* ---- colours ---- */

static uint32_t dac_color(const struct vga_screen_regs *s, unsigned index)
{
    const uint8_t *p = s->palette + (index & s->dac_mask & 0xff) * 3;
    if (s->dispi[DISPI_ENABLE] & DISPI_8BIT_DAC)
        return (uint32_t)p[0] << 16 | (uint32_t)p[1] << 8 | p[2];
    uint32_t v = (uint32_t)(p[0] & 0x3f) << 16 | (uint32_t)(p[1] & 0x3f) << 8 | (p[2] & 0x3f);
    return v << 2 | (v >> 4 & 0x030303);
}

/* A value of four bits through the attribute controller and the DAC. */
static uint32_t attribute_color(const struct vga_screen_regs *s, unsigned value)
{
    unsigned v = s->attr[value & s->attr[ATTR_PLANE_ENABLE] & 15] & 0x3f, select = s->attr[ATTR_COLOR_SELECT];
    if (s->attr[ATTR_MODE] & ATTR_MODE_COLOR_SELECT)
        v = (v & 0x0f) | (select & 3) << 4;
    return dac_color(s, v | (select & 0x0c) << 4);
}

/* ---- scanning: which address and which row scan each line has ---- */

struct scan {
    const struct vga_screen_regs *s;
    unsigned line, row_scan, pan, compare;
    uint32_t counter;
    bool second;      /* of two equal lines */
};

static void scan_first(struct scan *c, const struct vga_screen_regs *s)
{
    unsigned preset = s->crtc[CRTC_PRESET_ROW];
    *c = (struct scan){.s = s, .row_scan = preset & 0x1f, .pan = s->attr[ATTR_PANNING] & 15, .compare = line_compare(s)};
    c->counter = (uint32_t)s->crtc[CRTC_START_HIGH] << 8 | s->crtc[CRTC_START_LOW];
    c->counter += preset >> 5 & 3;
}

/* True: a row begins. */
static bool scan_next(struct scan *c)
{
    const struct vga_screen_regs *s = c->s;
    if (c->line++ == c->compare) {
        c->counter = c->row_scan = 0;
        c->second = false;
        if (s->attr[ATTR_MODE] & ATTR_MODE_PANNING_COMPAT)
            c->pan = 0;
        return true;
    }
    if ((s->crtc[CRTC_MAX_SCAN_LINE] & SCAN_DOUBLE) && !c->second) {
        c->second = true;
        return false;
    }
    c->second = false;
    if (c->row_scan != (s->crtc[CRTC_MAX_SCAN_LINE] & 0x1f)) {
        c->row_scan = (c->row_scan + 1) & 0x1f;
        return false;
    }
    c->row_scan = 0;
    c->counter += s->crtc[CRTC_OFFSET] * 2u;
    return true;
}

/* ---- serialisers: one line of dots ---- */

struct pen {
    const struct vga_screen_regs *s;
    const uint8_t *memory;
    uint32_t color16[16], color256[256];
    unsigned columns, dots; /* dots of a column */
    uint32_t font[2];       /* by attribute bit 3; offsets in plane 2 */
};

static uint32_t cursor_address(const struct vga_screen_regs *s)
{
    return (uint32_t)s->crtc[CRTC_CURSOR_HIGH] << 8 | s->crtc[CRTC_CURSOR_LOW];
}

static bool cursor_shown(const struct vga_screen_regs *s)
{
    unsigned start = s->crtc[CRTC_CURSOR_START], end = s->crtc[CRTC_CURSOR_END] & 0x1f;
    return !(start & CURSOR_OFF) && (start & 0x1f) <= end;
}

/* Map n of character map select: 16 KiB apart, the upper four 8 KiB after the lower. */
static uint32_t font_at(unsigned n) { return (n & 3) * 0x4000 + (n >> 2) * 0x2000; }

static void line_text(const struct pen *p, const struct scan *c, uint32_t *to)
{
    const struct vga_screen_regs *s = p->s;
    bool blink = s->attr[ATTR_MODE] & ATTR_MODE_BLINK, line_graphics = s->attr[ATTR_MODE] & ATTR_MODE_LINE_GRAPHICS;
    unsigned from = s->crtc[CRTC_CURSOR_START] & 0x1f, until = s->crtc[CRTC_CURSOR_END] & 0x1f;
    bool cursor_line = cursor_shown(s) && c->row_scan >= from && c->row_scan <= until;
    bool underline_line = c->row_scan == (s->crtc[CRTC_UNDERLINE] & 0x1fu);
    uint32_t cursor = cursor_address(s) & GROUP_MASK;
    for (unsigned i = 0; i <= p->columns; i++, to += p->dots) {
        uint32_t n = (c->counter + i) & GROUP_MASK;
        unsigned character = p->memory[n * 4], attribute = p->memory[n * 4 + 1];
        uint32_t row = (p->font[attribute >> 3 & 1] + character * FONT_ROWS + c->row_scan) & GROUP_MASK;
        unsigned bits = p->memory[row * 4 + 2] << 1u;
        uint32_t fore = p->color16[attribute & 15], back = p->color16[attribute >> 4 & (blink ? 7 : 15)];
        if (line_graphics && character >= 0xc0 && character <= 0xdf)
            bits |= bits >> 1 & 1;
        if ((cursor_line && n == cursor) || (underline_line && (attribute & 7) == 1))
            bits = 0x1ff;
        for (unsigned k = 0; k < p->dots; k++)
            to[k] = bits >> (8 - k) & 1 ? fore : back;
    }
}

/* The group that the counter fetches, with row scan bits in place of MA13 and MA14 where the mode says so. Words and doublewords are packed
 * here: a step of the counter is a group, so those bits are further down. */
static const uint8_t *fetch(const struct pen *p, const struct scan *c, unsigned i)
{
    const uint8_t *crtc = p->s->crtc;
    uint32_t n = c->counter + i;
    unsigned bit = crtc[CRTC_UNDERLINE] & UNDERLINE_DWORD ? 11 : crtc[CRTC_MODE] & CRTC_MODE_BYTE ? 13 : 12;
    if (!(crtc[CRTC_MODE] & CRTC_MODE_RA0))
        n = (n & ~(1u << bit)) | (c->row_scan & 1u) << bit;
    if (!(crtc[CRTC_MODE] & CRTC_MODE_RA1))
        n = (n & ~(2u << bit)) | (c->row_scan >> 1 & 1u) << (bit + 1);
    return p->memory + (n & GROUP_MASK) * 4;
}

/* Eight bits to eight bytes, the highest bit first. */
static uint64_t bits_to_bytes(uint8_t v) { return (v * 0x8040201008040201ull >> 7) & 0x0101010101010101ull; }

static void group_planar(const uint32_t color[16], const uint8_t *g, uint32_t to[8])
{
    uint64_t v = bits_to_bytes(g[0]) | bits_to_bytes(g[1]) << 1 | bits_to_bytes(g[2]) << 2 | bits_to_bytes(g[3]) << 3;
    for (unsigned k = 0; k < 8; k++, v >>= 8)
        to[k] = color[v & 15];
}

/* Planes 0 and 1 one after the other, two bits a pixel; planes 2 and 3 are two bits more. */
static void group_cga(const uint32_t color[16], const uint8_t *g, uint32_t to[8])
{
    for (unsigned k = 0; k < 4; k++) {
        to[k] = color[(g[0] >> (6 - 2 * k) & 3) | (g[2] >> (6 - 2 * k) & 3) << 2];
        to[k + 4] = color[(g[1] >> (6 - 2 * k) & 3) | (g[3] >> (6 - 2 * k) & 3) << 2];
    }
}

static void line_graphics(const struct pen *p, const struct scan *c, uint32_t *to)
{
    unsigned mode = p->s->gc[GC_MODE];
    for (unsigned i = 0; i <= p->columns; i++, to += 8) {
        const uint8_t *g = fetch(p, c, i);
        if (mode & GC_MODE_SHIFT_256)
            for (unsigned k = 0; k < 4; k++)
                to[2 * k] = to[2 * k + 1] = p->color256[g[k]];
        else if (mode & GC_MODE_SHIFT_CGA)
            group_cga(p->color16, g, to);
        else
            group_planar(p->color16, g, to);
    }
}

/* Dots that panning moves the line to the left. In 9-dot text, 8 means none. */
static unsigned shift_of(const struct pen *p, unsigned pan) { return p->dots == 9 ? pan >= 8 ? 0 : pan + 1 : pan & 7; }

static void pen_colors(struct pen *p, const struct vga_screen_regs *s)
{
    for (unsigned i = 0; i < 16; i++)
        p->color16[i] = attribute_color(s, i);
    for (unsigned i = 0; i < 256; i++)
        p->color256[i] = dac_color(s, i);
}

static void pen_init(struct pen *p, const struct vga_screen_regs *s, const uint8_t *memory)
{
    unsigned map = s->seq[SEQ_CHARACTER_MAP];
    p->s = s;
    p->memory = memory;
    p->columns = s->crtc[CRTC_H_DISPLAY_END] + 1u;
    p->dots = is_text(s) && !(s->seq[SEQ_CLOCKING] & CLOCKING_8_DOTS) ? 9 : 8;
    p->font[0] = font_at((map & 3) | (map >> 4 & 1) << 2);
    p->font[1] = font_at((map >> 2 & 3) | (map >> 5 & 1) << 2);
    pen_colors(p, s);
}

/* ---- pictures ---- */

static int draw_vga(const struct vga_screen_regs *s, const uint8_t *memory, struct dp_display_picture *out, struct dp_error *e)
{
    struct pen p;
    struct scan c, last = {0};
    struct vga_timing t;
    uint32_t dots[LINE_DOTS];
    pen_init(&p, s, memory);
    vga_crtc_timing(s, &t);
    bool doubled = s->seq[SEQ_CLOCKING] & CLOCKING_HALF, text = is_text(s);
    unsigned width = DP_MIN(p.columns * p.dots << doubled, (unsigned)DP_DISPLAY_MAX_WIDTH);
    unsigned relevant = text ? 0x1f : ~s->crtc[CRTC_MODE] & 3; /* bits of the row scan that the line depends on */
    int rc = dp_display_picture_resize(out, width, t.display_lines, e);
    if (rc)
        return rc;
    scan_first(&c, s);
    for (uint32_t y = 0; y < t.display_lines; y++, scan_next(&c)) {
        uint32_t *line = out->pixels + (size_t)y * width;
        if (y && c.counter == last.counter && c.pan == last.pan && !((c.row_scan ^ last.row_scan) & relevant)) {
            memcpy(line, line - width, width * sizeof(*line));
            continue;
        }
        last = c;
        if (text)
            line_text(&p, &c, dots);
        else
            line_graphics(&p, &c, dots);
        const uint32_t *from = dots + shift_of(&p, c.pan);
        if (!doubled)
            memcpy(line, from, width * sizeof(*line));
        else
            for (unsigned x = 0; x < width; x++)
                line[x] = from[x / 2];
    }
    return 0;
}

static uint32_t rgb15(unsigned v)
{
    uint32_t r = v >> 10 & 31, g = v >> 5 & 31, b = v & 31;
    return (r << 3 | r >> 2) << 16 | (g << 3 | g >> 2) << 8 | (b << 3 | b >> 2);
}

static uint32_t rgb16(unsigned v)
{
    uint32_t r = v >> 11 & 31, g = v >> 5 & 63, b = v & 31;
    return (r << 3 | r >> 2) << 16 | (g << 2 | g >> 4) << 8 | (b << 3 | b >> 2);
}

static int draw_dispi(const struct vga_screen_regs *s, const struct vga_mode *m, const uint8_t *memory, struct dp_display_picture *out,
                      struct dp_error *e)
{
    struct pen p;
    int rc = dp_display_picture_resize(out, m->width, m->height, e);
    if (rc)
        return rc;
    pen_colors(&p, s);
    for (uint32_t y = 0; y < m->height; y++) {
        const uint8_t *from = memory + m->start + (size_t)y * m->pitch;
        uint32_t *to = out->pixels + (size_t)y * m->width;
        switch (m->bpp) {
        case 4:
            for (uint32_t x = 0; x < m->width; x += 8)
                group_planar(p.color16, from + x / 2, to + x);
            break;
        case 8:
            for (uint32_t x = 0; x < m->width; x++)
                to[x] = p.color256[from[x]];
            break;
        case 15:
            for (uint32_t x = 0; x < m->width; x++)
                to[x] = rgb15(dp_ld16(from + x * 2));
            break;
        case 16:
            for (uint32_t x = 0; x < m->width; x++)
                to[x] = rgb16(dp_ld16(from + x * 2));
            break;
        case 24:
            for (uint32_t x = 0; x < m->width; x++)
                to[x] = from[x * 3] | (uint32_t)from[x * 3 + 1] << 8 | (uint32_t)from[x * 3 + 2] << 16;
            break;
        default:
            for (uint32_t x = 0; x < m->width; x++)
                to[x] = dp_ld32(from + x * 4) & 0xffffff;
            break;
        }
    }
    return 0;
}

int vga_draw(const struct vga_screen_regs *s, const uint8_t *memory, struct dp_display_picture *out, struct dp_error *e)
{
    struct vga_mode m;
    if (is_blank(s)) {
        out->width = out->height = 0;
        return 0;
    }
    return vga_dispi_mode(s, &m) ? draw_dispi(s, &m, memory, out, e) : draw_vga(s, memory, out, e);
}

/* ---- text ---- */

bool vga_text(const struct vga_screen_regs *s, const uint8_t *memory, struct dp_display_text *out)
{
    struct scan c;
    struct vga_timing t;
    if (is_blank(s) || !is_text(s))
        return false;
    vga_crtc_timing(s, &t);
    out->columns = s->crtc[CRTC_H_DISPLAY_END] + 1u;
    out->rows = out->cursor_column = out->cursor_row = 0;
    out->cursor = false;
    for (unsigned i = 0; i < 16; i++)
        out->palette[i] = attribute_color(s, i);
    scan_first(&c, s);
    bool begins = true;
    for (uint32_t y = 0; y < t.display_lines; y++, begins = scan_next(&c)) {
        if (!begins || out->rows == TEXT_ROWS)
            continue;
        struct dp_display_cell *to = out->cell + (size_t)out->rows * out->columns;
        for (unsigned i = 0; i < out->columns; i++) {
            uint32_t n = (c.counter + i) & GROUP_MASK;
            to[i] = (struct dp_display_cell){memory[n * 4], memory[n * 4 + 1]};
        }
        uint32_t column = (cursor_address(s) - c.counter) & GROUP_MASK;
        if (cursor_shown(s) && !out->cursor && column < out->columns) {
            out->cursor = true;
            out->cursor_column = column;
            out->cursor_row = out->rows;
        }
        out->rows++;
    }
    return true;
}
