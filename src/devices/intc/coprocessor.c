/* coprocessor.c - see coprocessor.h. */
#include "devices/intc/coprocessor.h"

#include "devices/edge_line.h"

enum { CLEAR_ERROR = 0, PORTS = 2 };

struct coprocessor_regs {
    bool error;
};

struct coprocessor {
    struct dp_device device;
    struct coprocessor_regs regs;
    struct dp_edge_line line;
    bool running;  /* between resume and pause */
};

static const struct dp_field fields[] = {DP_FIELD_BOOL(struct coprocessor_regs, error, 1, false)};
static const struct dp_state_table state = DP_STATE_TABLE(struct coprocessor_regs, "coprocessor", fields);

static struct coprocessor *coprocessor_of(struct dp_device *d) { return (struct coprocessor *)d; }

static void sync(struct coprocessor *c)
{
    pthread_mutex_lock(&c->device.lock);
    while (c->running && dp_edge_line_drive(&c->line, &c->device.lock, c->regs.error))
        ;
    pthread_mutex_unlock(&c->device.lock);
}

static void set_error(struct coprocessor *c, bool error)
{
    pthread_mutex_lock(&c->device.lock);
    c->regs.error = error;
    dp_edge_line_note(&c->line, error);
    pthread_mutex_unlock(&c->device.lock);
    sync(c);
}

void dp_coprocessor_wire(struct dp_device *d, struct dp_irq irq13) { coprocessor_of(d)->line.irq = irq13; }
void dp_coprocessor_ferr(struct dp_device *d) { set_error(coprocessor_of(d), true); }

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    if (offset == CLEAR_ERROR)
        set_error(opaque, false);
}

static const struct dp_window_ops ops = {.name = "coprocessor", .write = port_write, .min_size = 1, .max_size = 1};
static const struct dp_window_spec windows[] = {[DP_COPROCESSOR_WINDOW] = {"error", PORTS, &ops, true}};

static int init(struct dp_device *d, struct dp_error *e)
{
    dp_edge_line_forget(&coprocessor_of(d)->line);
    return 0;
}

static void reset(struct dp_device *d) { set_error(coprocessor_of(d), false); }

static void pause_(struct dp_device *d)
{
    pthread_mutex_lock(&d->lock);
    coprocessor_of(d)->running = false;
    pthread_mutex_unlock(&d->lock);
}

static void resume(struct dp_device *d)
{
    pthread_mutex_lock(&d->lock);
    coprocessor_of(d)->running = true;
    pthread_mutex_unlock(&d->lock);
    sync(coprocessor_of(d));
}

/* Who listens has the levels of the save, whatever was driven here before. */
static void post_load(struct dp_device *d)
{
    pthread_mutex_lock(&d->lock);
    dp_edge_line_forget(&coprocessor_of(d)->line);
    pthread_mutex_unlock(&d->lock);
    sync(coprocessor_of(d));
}

const struct dp_device_class dp_coprocessor_class = {
    .name = "coprocessor",
    .summary = "x87 exceptions by interrupt 13",
    .size = sizeof(struct coprocessor),
    .regs_offset = offsetof(struct coprocessor, regs),
    .state = &state,
    .windows = windows,
    .window_count = DP_ARRAY_LEN(windows),
    .init = init,
    .reset = reset,
    .pause = pause_,
    .resume = resume,
    .post_load = post_load,
};
