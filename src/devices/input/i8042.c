/* i8042.c - see i8042.h; the devices at the two cables are ps2_keyboard.c and ps2_mouse.c.
 *
 * Locks and calls out: everything changes under the device's lock; lines are set without it by `sync` (edge_line.h). The two
 * interrupts are edges: OBF falls with each read, and that fall is driven even if the next byte is there already (`fell`).
 * Invariants: the timer is armed (byte_due) only while the buffer is empty, or was when it was armed; whoever empties the buffer,
 * opens a cable or gives a device something to say calls `pump`.
 */
#include "devices/input/i8042.h"

#include "devices/edge_line.h"

#include "devices/input/ps2.h"

#define BYTE_NS 100000 /* a real cable takes ten times as long */

enum { STATUS_OBF = 1, STATUS_SYS = 4, STATUS_COMMAND = 8, STATUS_UNLOCKED = 0x10, STATUS_AUXDATA = 0x20 };
enum { CTR_KEYBOARD_INT = 1, CTR_AUX_INT = 2, CTR_SYS = 4, CTR_KEYBOARD_OFF = 0x10, CTR_AUX_OFF = 0x20, CTR_TRANSLATE = 0x40,
       CTR_INITIAL = CTR_KEYBOARD_INT | CTR_AUX_INT | CTR_SYS | CTR_TRANSLATE };
enum { OUTPUT_RUN = 1, OUTPUT_A20 = 2, OUTPUT_KEYBOARD_INT = 0x10, OUTPUT_AUX_INT = 0x20, OUTPUT_IDLE = 0xcc /* clocks and data high */ };
enum { PORT92_RESET = 1, PORT92_A20 = 2 };
enum { INPUT_PORT = 0xa0 /* no lock, no manufacturing jumper */, RAM = 32, SELF_TEST_OK = 0x55, NO_PASSWORD = 0xf1 };
enum { /* commands; those with parameters are kept until it comes */
    READ_RAM = 0x20, WRITE_RAM = 0x60, PASSWORD_TEST = 0xa4, AUX_DISABLE = 0xa7, AUX_ENABLE = 0xa8, AUX_TEST = 0xa9, SELF_TEST = 0xaa,
    KEYBOARD_TEST = 0xab, KEYBOARD_DISABLE = 0xad, KEYBOARD_ENABLE = 0xae, READ_INPUT = 0xc0, READ_OUTPUT = 0xd0, WRITE_OUTPUT = 0xd1,
    WRITE_KEYBOARD_BUFFER = 0xd2, WRITE_AUX_BUFFER = 0xd3, WRITE_AUX = 0xd4, A20_OFF = 0xdd, A20_ON = 0xdf, READ_TEST = 0xe0, PULSE = 0xf0
};
enum { FROM_CONTROLLER, FROM_KEYBOARD, FROM_MOUSE };
enum { WIRE_KEYBOARD, WIRE_MOUSE, WIRE_A20, WIRES };

struct i8042_regs {
    uint8_t ram[RAM];               /* the first is the command byte */
    uint8_t command;                /* waiting for its parameter, 0: none */
    bool last_was_command;
    uint8_t out;                    /* the output buffer, */
    bool full, aux;                 /* OBF, AUXDATA */
    uint8_t from;                   /* who it came from, */
    uint8_t raw;                    /* as what, */
    bool from_reply, after_break;   /* from which queue, and whether an 0xf0 was swallowed for it */
    bool break_seen;                /* translation: the next code is a release */
    bool byte_due;
    uint64_t byte_at;
    bool a20;
    uint8_t port92;                 /* all but A20 */
    struct dp_ps2_keyboard keyboard;
    struct dp_ps2_mouse mouse;
};

struct i8042 {
    struct dp_device device;
    struct i8042_regs regs;
    struct dp_edge_line wire[WIRES];
    struct dp_timer timer;
    bool running;
};

/* ---- lines ---- */

static bool level(const struct i8042_regs *r, unsigned wire)
{
    switch (wire) {
    case WIRE_KEYBOARD: return r->full && !r->aux && (r->ram[0] & CTR_KEYBOARD_INT);
    case WIRE_MOUSE: return r->full && r->aux && (r->ram[0] & CTR_AUX_INT);
    default: return r->a20;
    }
}

/* Lock held, after any change. */
static void note_falls(struct i8042 *c)
{
    for (unsigned i = 0; i < WIRES; i++)
        dp_edge_line_note(&c->wire[i], level(&c->regs, i));
}

/* No lock held. */
static void sync(struct i8042 *c)
{
    pthread_mutex_lock(&c->device.lock);
    for (unsigned i = 0; i < WIRES; i++)
        while (c->running && dp_edge_line_drive(&c->wire[i], &c->device.lock, level(&c->regs, i)))
            ;
    pthread_mutex_unlock(&c->device.lock);
}

/* ---- the output buffer; lock held ---- */

/* A byte of the controller's own. What a device had there goes back to it. */
static void put(struct i8042 *c, uint8_t byte, bool aux)
{
    struct i8042_regs *r = &c->regs;
    if (r->full && r->from == FROM_KEYBOARD) {
        dp_ps2_keyboard_unread(&r->keyboard, r->raw, r->from_reply);
        r->break_seen |= r->after_break;
    } else if (r->full && r->from == FROM_MOUSE) {
        dp_ps2_mouse_unread(&r->mouse, r->raw, r->from_reply);
    }
    for (unsigned i = 0; i < WIRE_A20; i++) /* a new byte is an edge of its own */
        c->wire[i].fell = true;
    r->out = byte;
    r->aux = aux;
    r->full = true;
    r->from = FROM_CONTROLLER;
}

static bool keyboard_open(const struct i8042_regs *r) { return !(r->ram[0] & CTR_KEYBOARD_OFF); }
static bool mouse_open(const struct i8042_regs *r) { return !(r->ram[0] & CTR_AUX_OFF); }

/* A byte of a device into the buffer, the keyboard's first. */
static bool fetch(struct i8042_regs *r)
{
    while (keyboard_open(r) && dp_ps2_keyboard_take(&r->keyboard, &r->raw, &r->from_reply)) {
        bool translate = r->ram[0] & CTR_TRANSLATE;
        if (translate && r->raw == 0xf0) {
            r->break_seen = true;
            continue;
        }
        r->after_break = translate && r->break_seen;
        r->break_seen = false;
        r->out = translate ? dp_ps2_translate(r->raw) | (r->after_break ? 0x80 : 0) : r->raw;
        r->from = FROM_KEYBOARD;
        r->aux = false;
        return r->full = true;
    }
    if (!mouse_open(r) || !dp_ps2_mouse_take(&r->mouse, &r->raw, &r->from_reply))
        return false;
    r->out = r->raw;
    r->from = FROM_MOUSE;
    r->aux = true;
    r->after_break = false;
    return r->full = true;
}

static void pump(struct i8042 *c)
{
    struct i8042_regs *r = &c->regs;
    bool ready = (keyboard_open(r) && dp_ps2_keyboard_ready(&r->keyboard)) || (mouse_open(r) && dp_ps2_mouse_ready(&r->mouse));
    if (!c->running || r->full || r->byte_due || !ready)
        return;
    r->byte_due = true;
    r->byte_at = dp_clock_now(c->device.env->clock) + BYTE_NS;
    dp_timer_arm(&c->timer, r->byte_at);
}

static void byte_arrives(void *opaque)
{
    struct i8042 *c = opaque;
    struct i8042_regs *r = &c->regs;
    pthread_mutex_lock(&c->device.lock);
    if (c->running && r->byte_due && dp_clock_now(c->device.env->clock) >= r->byte_at) {
        r->byte_due = false;
        if (!r->full)
            fetch(r);
        note_falls(c);
    }
    pthread_mutex_unlock(&c->device.lock);
    sync(c);
}

/* ---- ports ---- */

static void reset_machine(struct i8042 *c)
{
    const struct dp_vm_sink *vm = &c->device.env->vm;
    if (vm->request)
        vm->request(vm->opaque, DP_VM_RESET, 0);
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *c = opaque;
    struct i8042_regs *r = &c->regs;
    pthread_mutex_lock(&c->device.lock);
    uint8_t v = r->out;
    r->full = r->aux = false;
    note_falls(c);
    pump(c);
    pthread_mutex_unlock(&c->device.lock);
    sync(c);
    return v;
}

/* True: the machine is to be reset. */
static bool write_output(struct i8042_regs *r, uint8_t value)
{
    r->a20 = value & OUTPUT_A20;
    return !(value & OUTPUT_RUN);
}

static void data_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8042 *c = opaque;
    struct i8042_regs *r = &c->regs;
    uint8_t v = (uint8_t)value;
    bool reset = false;
    pthread_mutex_lock(&c->device.lock);
    uint8_t command = r->command;
    r->command = 0;
    r->last_was_command = false;
    switch (command) {
    case 0: /* for the keyboard, whose cable that opens */
        r->ram[0] &= (uint8_t)~CTR_KEYBOARD_OFF;
        dp_ps2_keyboard_command(&r->keyboard, v);
        break;
    case WRITE_OUTPUT: reset = write_output(r, v); break;
    case WRITE_KEYBOARD_BUFFER: put(c, v, false); break;
    case WRITE_AUX_BUFFER: put(c, v, true); break;
    case WRITE_AUX:
        r->ram[0] &= (uint8_t)~CTR_AUX_OFF;
        dp_ps2_mouse_command(&r->mouse, v);
        break;
    default: r->ram[command % RAM] = v; break;
    }
    note_falls(c);
    pump(c);
    pthread_mutex_unlock(&c->device.lock);
    sync(c);
    if (reset)
        reset_machine(c);
}

static uint64_t status_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *c = opaque;
    const struct i8042_regs *r = &c->regs;
    pthread_mutex_lock(&c->device.lock);
    uint8_t v = (r->full ? STATUS_OBF : 0) | (r->full && r->aux ? STATUS_AUXDATA : 0) | (r->ram[0] & CTR_SYS ? STATUS_SYS : 0) |
                (r->last_was_command ? STATUS_COMMAND : 0) | STATUS_UNLOCKED;
    pthread_mutex_unlock(&c->device.lock);
    return v;
}

static uint8_t output_port(const struct i8042_regs *r)
{
    return OUTPUT_RUN | OUTPUT_IDLE | (r->a20 ? OUTPUT_A20 : 0) | (level(r, WIRE_KEYBOARD) ? OUTPUT_KEYBOARD_INT : 0) |
           (level(r, WIRE_MOUSE) ? OUTPUT_AUX_INT : 0);
}

static void command_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8042 *c = opaque;
    struct i8042_regs *r = &c->regs;
    uint8_t v = (uint8_t)value;
    bool reset = false;
    pthread_mutex_lock(&c->device.lock);
    r->command = 0;
    r->last_was_command = true;
    if (v >= READ_RAM && v < READ_RAM + RAM) {
        put(c, r->ram[v % RAM], false);
    } else if (v >= WRITE_RAM && v < WRITE_RAM + RAM) {
        r->command = v;
    } else if (v >= PULSE) {
        reset = !(v & OUTPUT_RUN); /* the other lines lead nowhere */
    } else {
        switch (v) {
        case PASSWORD_TEST: put(c, NO_PASSWORD, false); break;
        case AUX_DISABLE: r->ram[0] |= CTR_AUX_OFF; break;
        case AUX_ENABLE: r->ram[0] &= (uint8_t)~CTR_AUX_OFF; break;
        case AUX_TEST: case KEYBOARD_TEST: put(c, 0, false); break;
        case SELF_TEST:
            r->ram[0] |= CTR_SYS;
            put(c, SELF_TEST_OK, false);
            break;
        case KEYBOARD_DISABLE: r->ram[0] |= CTR_KEYBOARD_OFF; break;
        case KEYBOARD_ENABLE: r->ram[0] &= (uint8_t)~CTR_KEYBOARD_OFF; break;
        case READ_INPUT: put(c, INPUT_PORT, false); break;
        case READ_OUTPUT: put(c, output_port(r), false); break;
        case READ_TEST: put(c, 0, false); break;
        case WRITE_OUTPUT: case WRITE_KEYBOARD_BUFFER: case WRITE_AUX_BUFFER: case WRITE_AUX: r->command = v; break;
        case A20_OFF: case A20_ON: r->a20 = v == A20_ON; break;
        default: dp_trace_guest(c->device.env->trace, "%s: command 0x%02x is unknown", c->device.id, v); break;
        }
    }
    note_falls(c);
    pump(c);
    pthread_mutex_unlock(&c->device.lock);
    sync(c);
    if (reset)
        reset_machine(c);
}

static uint64_t port92_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *c = opaque;
    pthread_mutex_lock(&c->device.lock);
    uint8_t v = c->regs.port92 | (c->regs.a20 ? PORT92_A20 : 0);
    pthread_mutex_unlock(&c->device.lock);
    return v;
}

static void port92_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8042 *c = opaque;
    struct i8042_regs *r = &c->regs;
    pthread_mutex_lock(&c->device.lock);
    bool reset = value & ~(uint64_t)r->port92 & PORT92_RESET;
    r->port92 = (uint8_t)value & (uint8_t)~PORT92_A20;
    r->a20 = value & PORT92_A20;
    note_falls(c);
    pthread_mutex_unlock(&c->device.lock);
    sync(c);
    if (reset)
        reset_machine(c);
}

/* ---- the user's side ---- */

static void key(void *opaque, unsigned code, bool down)
{
    struct i8042 *c = opaque;
    pthread_mutex_lock(&c->device.lock);
    dp_ps2_keyboard_key(&c->regs.keyboard, code, down);
    pump(c);
    pthread_mutex_unlock(&c->device.lock);
}

static void motion(void *opaque, int dx, int dy, int wheel, unsigned buttons)
{
    struct i8042 *c = opaque;
    pthread_mutex_lock(&c->device.lock);
    dp_ps2_mouse_motion(&c->regs.mouse, dx, dy, wheel, buttons);
    pump(c);
    pthread_mutex_unlock(&c->device.lock);
}

struct dp_input_sink dp_i8042_sink(struct dp_device *d) { return (struct dp_input_sink){.key = key, .motion = motion, .opaque = d}; }

/* ---- state and life ---- */

static const struct dp_field fields[] = {
    DP_FIELD_BYTES(struct i8042_regs, ram, 1),
    DP_FIELD_U8(struct i8042_regs, command, 2, 0, 0),
    DP_FIELD_BOOL(struct i8042_regs, last_was_command, 3, false),
    DP_FIELD_U8(struct i8042_regs, out, 4, 0, 0),
    DP_FIELD_BOOL(struct i8042_regs, full, 5, false),
    DP_FIELD_BOOL(struct i8042_regs, aux, 6, false),
    DP_FIELD_U8(struct i8042_regs, from, 7, FROM_CONTROLLER, 3),
    DP_FIELD_U8(struct i8042_regs, raw, 8, 0, 0),
    DP_FIELD_BOOL(struct i8042_regs, from_reply, 9, false),
    DP_FIELD_BOOL(struct i8042_regs, after_break, 10, false),
    DP_FIELD_BOOL(struct i8042_regs, break_seen, 11, false),
    DP_FIELD_BOOL(struct i8042_regs, byte_due, 12, false),
    DP_FIELD_U64(struct i8042_regs, byte_at, 13, 0, 0),
    DP_FIELD_BOOL(struct i8042_regs, a20, 14, true),
    DP_FIELD_U8(struct i8042_regs, port92, 15, 0, (uint8_t)~PORT92_A20),
    DP_FIELD_STRUCT(struct i8042_regs, keyboard, 16, &dp_ps2_keyboard_table),
    DP_FIELD_STRUCT(struct i8042_regs, mouse, 17, &dp_ps2_mouse_table),
};

static const struct dp_state_table state = DP_STATE_TABLE(struct i8042_regs, "i8042", fields);

void dp_i8042_wire(struct dp_device *d, struct dp_irq keyboard, struct dp_irq mouse, struct dp_irq a20)
{
    struct i8042 *c = (struct i8042 *)d;
    c->wire[WIRE_KEYBOARD].irq = keyboard;
    c->wire[WIRE_MOUSE].irq = mouse;
    c->wire[WIRE_A20].irq = a20;
}

static int init(struct dp_device *d, struct dp_error *e)
{
    struct i8042 *c = (struct i8042 *)d;
    dp_timer_init(&c->timer, d->env->clock, byte_arrives, c);
    return 0;
}

static void fini(struct dp_device *d) { dp_timer_fini(&((struct i8042 *)d)->timer); }

/* Lock held: the registers are others. */
static void replaced(struct i8042 *c)
{
    for (unsigned i = 0; i < WIRES; i++)
        dp_edge_line_forget(&c->wire[i]);
    if (c->regs.byte_due)
        dp_timer_arm(&c->timer, c->regs.byte_at);
    else
        dp_timer_disarm(&c->timer);
    pump(c);
}

static void reset(struct dp_device *d)
{
    struct i8042 *c = (struct i8042 *)d;
    pthread_mutex_lock(&d->lock);
    c->regs.ram[0] = CTR_INITIAL;
    replaced(c);
    pthread_mutex_unlock(&d->lock);
    sync(c);
}

static void post_load(struct dp_device *d)
{
    struct i8042 *c = (struct i8042 *)d;
    pthread_mutex_lock(&d->lock);
    replaced(c);
    pthread_mutex_unlock(&d->lock);
    sync(c);
}

static void pause_(struct dp_device *d)
{
    pthread_mutex_lock(&d->lock);
    ((struct i8042 *)d)->running = false;
    pthread_mutex_unlock(&d->lock);
}

static void resume(struct dp_device *d)
{
    struct i8042 *c = (struct i8042 *)d;
    pthread_mutex_lock(&d->lock);
    c->running = true;
    if (c->regs.byte_due) /* it may have fired in vain */
        dp_timer_arm(&c->timer, c->regs.byte_at);
    pump(c);
    pthread_mutex_unlock(&d->lock);
    sync(c);
}

static const struct dp_window_ops data_ops = {.name = "i8042-data", .read = data_read, .write = data_write, .min_size = 1, .max_size = 1};
static const struct dp_window_ops command_ops = {.name = "i8042-command", .read = status_read, .write = command_write,
    .min_size = 1, .max_size = 1};
static const struct dp_window_ops port92_ops = {.name = "port-92", .read = port92_read, .write = port92_write,
    .min_size = 1, .max_size = 1};
static const struct dp_window_spec windows[] = {
    [DP_I8042_WINDOW_DATA] = {"data", 1, &data_ops, true},
    [DP_I8042_WINDOW_COMMAND] = {"command", 1, &command_ops, true},
    [DP_I8042_WINDOW_PORT92] = {"port92", 1, &port92_ops, true},
};

const struct dp_device_class dp_i8042_class = {
    .name = "i8042",
    .summary = "keyboard controller with PS/2 keyboard and mouse",
    .size = sizeof(struct i8042),
    .regs_offset = offsetof(struct i8042, regs),
    .state = &state,
    .windows = windows,
    .window_count = DP_ARRAY_LEN(windows),
    .init = init,
    .fini = fini,
    .reset = reset,
    .pause = pause_,
    .resume = resume,
    .post_load = post_load,
};
