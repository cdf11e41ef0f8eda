/* devices/display/vga_ports.c - the VGA's register ports.
 *
 * Model: index and data registers of sequencer, graphics controller, CRTC and attribute controller (one port for both, with a
 * flip-flop), the DAC's palette, and a few registers of their own. The CRTC and input status 1 answer at 0x3bx or 0x3dx, as
 * miscellaneous output bit 0 says.
 * Retrace bits follow the VM clock and the CRTC's timing, so that software that waits for them, or measures them, goes on at a monitor's
 * pace.
 * Source: IBM PS/2 Video Subsystems, section 2: general registers, sequencer, CRT controller, graphics controller, attribute controller,
 * DAC.
 */
#include "devices/display/vga_internal.h"

enum {
    PORT_ATTR = 0x3c0, PORT_ATTR_READ, PORT_MISC, PORT_ENABLE, PORT_SEQ_INDEX, PORT_SEQ, PORT_DAC_MASK, PORT_DAC_READ, PORT_DAC_WRITE,
    PORT_DAC, PORT_FEATURE_READ, PORT_MISC_READ = 0x3cc, PORT_GC_INDEX = 0x3ce, PORT_GC
};
enum { CRTC_INDEX = 4, CRTC_DATA = 5, STATUS1 = 10 }; /* from 0x3b0 or 0x3d0 */
enum { STATUS1_BLANK = 1, STATUS1_RETRACE = 8, DAC_STATE_READ = 3 };
#define NS 1000000000ull

static const uint8_t seq_masks[SEQ_COUNT] = {0x03, 0x3d, 0x0f, 0x3f, 0x0e};
static const uint8_t gc_masks[GC_COUNT] = {0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff};

/* ---- timing ---- */

/* Where the beam is, from the VM's time. */
static uint8_t input_status_1(const struct vga *v)
{
    const struct vga_screen_regs *s = &v->regs.s;
    struct vga_timing t;
    vga_crtc_timing(s, &t);
    uint64_t hz = (s->misc >> 2 & 3) == 1 ? 28322000 : 25175000;
    if (s->seq[SEQ_CLOCKING] & CLOCKING_HALF)
        hz /= 2;
    uint64_t line = t.line_dots * NS / hz, frame = line * t.lines, at = frame ? dp_clock_now(v->device.env->clock) % frame : 0;
    if (frame < NS / 1000 || frame > NS / 4 || t.retrace_start >= t.lines) {
        /* No monitor's timing: nobody set one, or DISPI software cared for the size only. A plain 60 Hz, so that waiting ends. */
        frame = NS / 60;
        line = frame / 525;
        t = (struct vga_timing){.line_dots = 800, .display_dots = 640, .lines = 525, .display_lines = 480};
        t.retrace_start = 490, t.retrace_end = 492;
        at = dp_clock_now(v->device.env->clock) % frame;
    }
    uint64_t y = at / line, dot = at % line * t.line_dots / line;
    if (y >= t.retrace_start && y < t.retrace_end)
        return STATUS1_BLANK | STATUS1_RETRACE;
    return y >= t.display_lines || dot >= t.display_dots ? STATUS1_BLANK : 0;
}

/* ---- DAC ---- */

static void dac_store(struct vga *v, uint8_t value)
{
    struct vga_regs *r = &v->regs;
    r->dac_latch[r->dac_part] = r->s.dispi[DISPI_ENABLE] & DISPI_8BIT_DAC ? value : value & 0x3f;
    if (r->dac_part < 2) {
        r->dac_part++;
        return;
    }
    memcpy(r->s.palette + r->dac_write * 3, r->dac_latch, 3);
    r->dac_part = 0;
    r->dac_write++;
}

static uint8_t dac_fetch(struct vga *v)
{
    struct vga_regs *r = &v->regs;
    uint8_t value = r->s.palette[r->dac_read * 3 + r->dac_part];
    if (r->dac_part < 2) {
        r->dac_part++;
    } else {
        r->dac_part = 0;
        r->dac_read++;
    }
    return value;
}

/* ---- CRTC and attribute controller ---- */

static void crtc_write(struct vga *v, uint8_t value)
{
    struct vga_regs *r = &v->regs;
    unsigned n = r->crtc_index;
    if (n >= CRTC_COUNT)
        return;
    if (n <= CRTC_OVERFLOW && (r->s.crtc[CRTC_V_RETRACE_END] & CRTC_PROTECT)) {
        if (n == CRTC_OVERFLOW) /* but for bit 8 of the line compare */
            r->s.crtc[n] = (r->s.crtc[n] & ~0x10) | (value & 0x10);
        return;
    }
    r->s.crtc[n] = value;
}

static void attribute_write(struct vga *v, uint8_t value)
{
    struct vga_regs *r = &v->regs;
    unsigned n = r->s.attr_index & 0x1f;
    if (!r->attr_data)
        r->s.attr_index = value & 0x3f;
    else if (n < ATTR_COUNT)
        r->s.attr[n] = n < 16 || n == ATTR_PLANE_ENABLE ? value & 0x3f : n >= ATTR_PANNING ? value & 0x0f : value;
    r->attr_data = !r->attr_data;
}

/* ---- ports; lock held ---- */

static bool is_crtc_port(const struct vga *v, unsigned port) { return port >> 4 == (v->regs.s.misc & MISC_COLOR ? 0x3d : 0x3b); }

uint8_t vga_port_read(struct vga *v, unsigned port)
{
    struct vga_regs *r = &v->regs;
    if (is_crtc_port(v, port)) {
        switch (port & 15) {
        case CRTC_INDEX: return r->crtc_index;
        case CRTC_DATA: return r->crtc_index < CRTC_COUNT ? r->s.crtc[r->crtc_index] : 0;
        case STATUS1: r->attr_data = false; return input_status_1(v);
        }
        return 0xff;
    }
    switch (port) {
    case PORT_ATTR: return r->s.attr_index;
    case PORT_ATTR_READ: return (r->s.attr_index & 0x1f) < ATTR_COUNT ? r->s.attr[r->s.attr_index & 0x1f] : 0;
    case PORT_MISC: return 0; /* input status 0: no interrupt, no sense */
    case PORT_SEQ_INDEX: return r->seq_index;
    case PORT_SEQ: return r->seq_index < SEQ_COUNT ? r->s.seq[r->seq_index] : 0;
    case PORT_DAC_MASK: return r->s.dac_mask;
    case PORT_DAC_READ: return r->dac_reading ? DAC_STATE_READ : 0;
    case PORT_DAC_WRITE: return r->dac_write;
    case PORT_DAC: return dac_fetch(v);
    case PORT_FEATURE_READ: return r->feature;
    case PORT_MISC_READ: return r->s.misc;
    case PORT_GC_INDEX: return r->gc_index;
    case PORT_GC: return r->gc_index < GC_COUNT ? r->s.gc[r->gc_index] : 0;
    }
    return 0xff;
}

void vga_port_write(struct vga *v, unsigned port, uint8_t value)
{
    struct vga_regs *r = &v->regs;
    if (is_crtc_port(v, port)) {
        switch (port & 15) {
        case CRTC_INDEX: r->crtc_index = value; break;
        case CRTC_DATA: crtc_write(v, value); break;
        case STATUS1: r->feature = value & 0x0b; break;
        }
        return;
    }
    switch (port) {
    case PORT_ATTR: case PORT_ATTR_READ: attribute_write(v, value); break; /* EGA software may use either */
    case PORT_MISC: r->s.misc = value & 0xef; break;
    case PORT_SEQ_INDEX: r->seq_index = value & 7; break;
    case PORT_SEQ:
        if (r->seq_index < SEQ_COUNT)
            r->s.seq[r->seq_index] = value & seq_masks[r->seq_index];
        break;
    case PORT_DAC_MASK: r->s.dac_mask = value; break;
    case PORT_DAC_READ:
        r->dac_read = value;
        r->dac_part = 0;
        r->dac_reading = true;
        break;
    case PORT_DAC_WRITE:
        r->dac_write = value;
        r->dac_part = 0;
        r->dac_reading = false;
        break;
    case PORT_DAC: dac_store(v, value); break;
    case PORT_GC_INDEX: r->gc_index = value & 15; break;
    case PORT_GC:
        if (r->gc_index < GC_COUNT)
            r->s.gc[r->gc_index] = value & gc_masks[r->gc_index];
        break;
    }
}

/* An index and its data are often written as one word. */
static uint64_t ports_read(struct vga *v, unsigned port, unsigned size)
{
    uint64_t value = 0;
    pthread_mutex_lock(&v->device.lock);
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)vga_port_read(v, port + i) << i * 8;
    pthread_mutex_unlock(&v->device.lock);
    return value;
}

static void ports_write(struct vga *v, unsigned port, uint64_t value, unsigned size)
{
    pthread_mutex_lock(&v->device.lock);
    for (unsigned i = 0; i < size; i++)
        vga_port_write(v, port + i, (uint8_t)(value >> i * 8));
    bool stale = vga_direct_is_stale(v);
    pthread_mutex_unlock(&v->device.lock);
    if (stale)
        vga_direct_update(v, true);
}

static uint64_t mono_read(void *opaque, uint64_t offset, unsigned size)
{
    return ports_read(opaque, DP_VGA_PORT_MONO + (unsigned)offset, size);
}
static void mono_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    ports_write(opaque, DP_VGA_PORT_MONO + (unsigned)offset, value, size);
}
static uint64_t vga_read(void *opaque, uint64_t offset, unsigned size)
{
    return ports_read(opaque, DP_VGA_PORT_VGA + (unsigned)offset, size);
}
static void vga_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    ports_write(opaque, DP_VGA_PORT_VGA + (unsigned)offset, value, size);
}

const struct dp_window_ops vga_mono_ops = {"vga-mono", mono_read, mono_write, 1, 4};
const struct dp_window_ops vga_ports_ops = {"vga", vga_read, vga_write, 1, 4};
