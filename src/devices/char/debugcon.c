/* debugcon.c - the debug console port; model and source in debugcon.h. */
#include "devices/char/debugcon.h"

enum { PRESENT = 0xe9, LINE = 200 };

struct debugcon_regs {
    uint8_t line[LINE], length; /* of the line in progress; none with a console */
};

struct debugcon {
    struct dp_device device;
    struct debugcon_regs regs;
    struct dp_console *console;
    enum dp_trace_category category;
};

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size) { return PRESENT; }

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct debugcon *c = opaque;
    struct debugcon_regs *r = &c->regs;
    uint8_t v = (uint8_t)value;
    if (c->console) {
        if (!dp_console_write(c->console, &v, 1))
            dp_trace_guest(c->device.env->trace, "%s: the console is full, the log loses bytes", c->device.id);
        return;
    }
    uint8_t line[LINE];
    unsigned n = 0;
    pthread_mutex_lock(&c->device.lock);
    if (v >= ' ' || v == '\t')
        r->line[r->length++] = v;
    if (v == '\n' || r->length == LINE) {
        n = r->length;
        memcpy(line, r->line, n);
        r->length = 0;
    }
    pthread_mutex_unlock(&c->device.lock);
    if (n)
        DP_TRACE(c->device.env->trace, c->category, "%s: %.*s", c->device.id, (int)n, (const char *)line);
}

static const struct dp_window_ops ops = {.name = "debugcon", .read = port_read, .write = port_write, .min_size = 1, .max_size = 1};
static const struct dp_window_spec windows[] = {[DP_DEBUGCON_WINDOW] = {"port", 1, &ops, true}};

static int check(const void *regs, struct dp_error *e)
{
    const struct debugcon_regs *r = regs;
    return r->length < LINE ? 0 : dp_error_set(e, -EINVAL, "debugcon: a line of %u characters", r->length);
}

static void clamp(void *regs) { ((struct debugcon_regs *)regs)->length %= LINE; }

static const struct dp_field fields[] = {
    DP_FIELD_BYTES(struct debugcon_regs, line, 1),
    DP_FIELD_U8(struct debugcon_regs, length, 2, 0, 0),
};
static const struct dp_state_table state = DP_STATE_TABLE(struct debugcon_regs, "debugcon", fields, .check = check, .clamp = clamp);

void dp_debugcon_wire(struct dp_device *d, struct dp_console *console, enum dp_trace_category category)
{
    struct debugcon *c = (struct debugcon *)d;
    c->console = console;
    c->category = category;
}

const struct dp_device_class dp_debugcon_class = {
    .name = "debugcon",
    .summary = "debug console port of firmware",
    .size = sizeof(struct debugcon),
    .regs_offset = offsetof(struct debugcon, regs),
    .state = &state,
    .windows = windows,
    .window_count = DP_ARRAY_LEN(windows),
};
