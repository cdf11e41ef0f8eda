/* parallel.c - a parallel port with a printer; model and source in parallel.h.
 *
 * Locks and calls out: print and irq_sync (edge_line.h) call out without the lock, one thread at a time, which looks again after each call.
 */
#include "devices/char/parallel.h"

#include "devices/edge_line.h"

enum { REG_DATA, REG_STATUS, REG_CONTROL, REGS };
enum { STATUS_NERROR = 8, STATUS_SELECTED = 0x10, STATUS_NACK = 0x40, STATUS_NBUSY = 0x80 };
enum { CONTROL_STROBE = 1, CONTROL_NINIT = 4, CONTROL_SELECT = 8, CONTROL_IRQ = 0x10, CONTROL_REVERSE = 0x20, CONTROL_KEPT = 0x3f,
       CONTROL_ONES = 0xc0 };

struct parallel_regs {
    uint8_t data, control;
    uint8_t latch;     /* the character the printer has not yet taken */
    bool busy;         /* there is one */
    bool ack;          /* nACK went low and nobody has read the status since */
    bool irq_pending;  /* the same for the interrupt */
};

struct parallel {
    struct dp_device device;
    struct parallel_regs regs;
    struct dp_edge_line line;
    struct dp_console *console;
    bool running;
    bool print_busy;           /* some thread is calling the console */
    unsigned epoch;            /* counts what drops the character otherwise than by printing */
};

static const struct dp_field fields[] = {
    DP_FIELD_U8(struct parallel_regs, data, 1, 0, 0),
    DP_FIELD_U8(struct parallel_regs, control, 2, CONTROL_NINIT | CONTROL_SELECT, CONTROL_KEPT),
    DP_FIELD_U8(struct parallel_regs, latch, 3, 0, 0),
    DP_FIELD_BOOL(struct parallel_regs, busy, 4, false),
    DP_FIELD_BOOL(struct parallel_regs, ack, 5, false),
    DP_FIELD_BOOL(struct parallel_regs, irq_pending, 6, false),
};
static const struct dp_state_table state = DP_STATE_TABLE(struct parallel_regs, "parallel", fields);

static bool irq_level(const struct parallel_regs *r) { return r->irq_pending && (r->control & CONTROL_IRQ); }

/* ---- calls out; no lock held ---- */

static void irq_sync(struct parallel *p)
{
    pthread_mutex_lock(&p->device.lock);
    while (p->running && dp_edge_line_drive(&p->line, &p->device.lock, irq_level(&p->regs)))
        ;
    pthread_mutex_unlock(&p->device.lock);
}

static void print(struct parallel *p)
{
    struct parallel_regs *r = &p->regs;
    pthread_mutex_lock(&p->device.lock);
    while (p->running && !p->print_busy && r->busy) {
        uint8_t v = r->latch;
        unsigned epoch = p->epoch;
        p->print_busy = true;
        pthread_mutex_unlock(&p->device.lock);
        bool taken = !p->console || dp_console_write(p->console, &v, 1) == 1;
        pthread_mutex_lock(&p->device.lock);
        p->print_busy = false;
        if (epoch != p->epoch) /* dropped meanwhile, and maybe followed by another */
            continue;
        if (!taken)
            break;
        r->busy = false;
        r->ack = r->irq_pending = p->line.fell = true;
    }
    pthread_mutex_unlock(&p->device.lock);
    irq_sync(p);
}

static size_t no_room(void *opaque) { return 0; }
static void no_input(void *opaque, const uint8_t *data, size_t n) { }
static void writable(void *opaque) { print(opaque); }

/* ---- registers ---- */

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    struct parallel *p = opaque;
    struct parallel_regs *r = &p->regs;
    uint8_t v = 0;
    pthread_mutex_lock(&p->device.lock);
    switch (offset) {
    case REG_DATA: v = r->control & CONTROL_REVERSE ? 0xff : r->data; break;
    case REG_STATUS:
        v = STATUS_NERROR | STATUS_SELECTED;
        if (!r->ack)
            v |= STATUS_NACK;
        if (!r->busy && (r->control & CONTROL_NINIT))
            v |= STATUS_NBUSY;
        r->ack = r->irq_pending = false;
        break;
    case REG_CONTROL: v = r->control | CONTROL_ONES; break;
    }
    dp_edge_line_note(&p->line, irq_level(r));
    pthread_mutex_unlock(&p->device.lock);
    irq_sync(p);
    return v;
}

/* Lock held. */
static void write_control(struct parallel *p, uint8_t v)
{
    struct parallel_regs *r = &p->regs;
    uint8_t rose = v & ~r->control;
    r->control = v & CONTROL_KEPT;
    if (!(v & CONTROL_NINIT)) {
        r->busy = r->ack = r->irq_pending = false;
        p->epoch++;
    } else if ((rose & CONTROL_STROBE) && (v & CONTROL_SELECT)) {
        if (r->busy) {
            dp_trace_guest(p->device.env->trace, "%s: character 0x%02x sent to a busy printer is lost", p->device.id, r->data);
        } else {
            r->latch = r->data;
            r->busy = true;
        }
    }
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct parallel *p = opaque;
    pthread_mutex_lock(&p->device.lock);
    if (offset == REG_DATA)
        p->regs.data = (uint8_t)value;
    else if (offset == REG_CONTROL)
        write_control(p, (uint8_t)value);
    dp_edge_line_note(&p->line, irq_level(&p->regs));
    pthread_mutex_unlock(&p->device.lock);
    print(p);
}

static const struct dp_window_ops ops = {.name = "parallel", .read = port_read, .write = port_write, .min_size = 1, .max_size = 1};
static const struct dp_window_spec windows[] = {[DP_PARALLEL_WINDOW] = {"registers", REGS, &ops, true}};

/* ---- life ---- */

void dp_parallel_wire(struct dp_device *d, struct dp_irq irq, struct dp_console *console)
{
    struct parallel *p = (struct parallel *)d;
    p->line.irq = irq;
    p->console = console;
}

static int init(struct dp_device *d, struct dp_error *e)
{
    struct parallel *p = (struct parallel *)d;
    dp_edge_line_forget(&p->line);
    if (p->console) {
        struct dp_console_client client = {no_room, no_input, writable, NULL, p};
        dp_console_attach(p->console, &client);
    }
    return 0;
}

static void fini(struct dp_device *d)
{
    struct parallel *p = (struct parallel *)d;
    if (p->console)
        dp_console_attach(p->console, NULL);
}

/* Registers were replaced. */
static void replaced(struct dp_device *d)
{
    struct parallel *p = (struct parallel *)d;
    pthread_mutex_lock(&d->lock);
    p->epoch++;
    dp_edge_line_forget(&p->line);
    pthread_mutex_unlock(&d->lock);
    print(p);
}

static void pause_(struct dp_device *d)
{
    struct parallel *p = (struct parallel *)d;
    pthread_mutex_lock(&d->lock);
    p->running = false;
    pthread_mutex_unlock(&d->lock);
}

static void resume(struct dp_device *d)
{
    struct parallel *p = (struct parallel *)d;
    pthread_mutex_lock(&d->lock);
    p->running = true;
    pthread_mutex_unlock(&d->lock);
    print(p);
}

const struct dp_device_class dp_parallel_class = {
    .name = "parallel",
    .summary = "parallel port with a printer",
    .size = sizeof(struct parallel),
    .regs_offset = offsetof(struct parallel, regs),
    .state = &state,
    .windows = windows,
    .window_count = DP_ARRAY_LEN(windows),
    .init = init,
    .fini = fini,
    .reset = replaced,
    .pause = pause_,
    .resume = resume,
    .post_load = replaced,
};
