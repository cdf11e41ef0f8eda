/* uart.c - the 16550A serial port; model and source in uart.h.
 *
 * Locks and calls out: registers change under the device's lock. The console and the interrupt line are called without it, by the pattern
 * of tx_flush and edge_line.h: a busy flag makes one thread the caller, it looks again after each call, and whoever finds the flag set only
 * leaves its change for that thread. The line is an ISA one, where the edge counts: a driver that has seen IIR_NONE waits for the next.
 * Invariants: THRE, TEMT, DR and the interrupt identification are derived, never stored. A flag in rx_flags belongs to its character, and
 * shows in LSR while that character is the oldest. At most depth() characters are in a FIFO.
 */
#include "devices/char/uart.h"

#include "devices/edge_line.h"

enum { FIFO = 16, CLOCK_BAUD = 115200 /* divisor 1 */, POLLS = 8 };

enum { /* register offsets */ REG_DATA, REG_IER, REG_IIR, REG_FCR = REG_IIR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR, REGS };
enum { IER_RDA = 1, IER_THRE = 2, IER_LINE = 4, IER_MODEM = 8 };
enum { IIR_MODEM = 0, IIR_NONE = 1, IIR_THRE = 2, IIR_RDA = 4, IIR_LINE = 6, IIR_TIMEOUT = 12, IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 1, FCR_CLEAR_RX = 2, FCR_CLEAR_TX = 4, FCR_DMA = 8, FCR_TRIGGER_SHIFT = 6, FCR_KEPT = 0xc9 };
enum { LCR_STOP = 4, LCR_PARITY = 8, LCR_BREAK = 0x40, LCR_DLAB = 0x80 };
enum { MCR_DTR = 1, MCR_RTS = 2, MCR_OUT1 = 4, MCR_OUT2 = 8, MCR_LOOP = 0x10, MCR_KEPT = 0x1f };
enum { LSR_DR = 1, LSR_OE = 2, LSR_PE = 4, LSR_FE = 8, LSR_BI = 0x10, LSR_THRE = 0x20, LSR_TEMT = 0x40, LSR_FIFO = 0x80 };
enum { MSR_DCTS = 1, MSR_DDSR = 2, MSR_TERI = 4, MSR_DDCD = 8, MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80,
       MSR_CONNECTED = MSR_CTS | MSR_DSR | MSR_DCD };

struct uart_regs {
    uint8_t ier, fcr, lcr, mcr, msr, scr;
    uint16_t divisor;
    bool overrun;
    bool thre_pending;               /* THR became empty and nobody has looked at IIR since */
    bool timeout_pending, timeout_armed;
    uint64_t timeout_deadline;       /* VM time */
    uint8_t rx[FIFO], rx_flags[FIFO]; /* LSR_PE | LSR_FE | LSR_BI of each character */
    uint8_t rx_start, rx_count;
    uint8_t tx[FIFO], tx_start, tx_count;
    uint8_t polls;                   /* reads of LSR in a row that told nothing, POLLS at most */
};

struct uart {
    struct dp_device device;
    struct uart_regs regs;
    struct dp_edge_line line;
    struct dp_console *console;
    struct dp_timer timeout;
    bool running;                    /* between resume and pause */
    bool tx_busy;                    /* some thread is calling the console */
    unsigned tx_epoch;               /* counts what empties the transmit FIFO otherwise than by sending */
};

/* ---- state ---- */

static const struct dp_field uart_fields[] = {
    DP_FIELD_U8(struct uart_regs, ier, 1, 0, 0x0f),
    DP_FIELD_U8(struct uart_regs, fcr, 2, 0, FCR_KEPT),
    DP_FIELD_U8(struct uart_regs, lcr, 3, 0, 0),
    DP_FIELD_U8(struct uart_regs, mcr, 4, 0, MCR_KEPT),
    DP_FIELD_U8(struct uart_regs, msr, 5, MSR_CONNECTED, 0),
    DP_FIELD_U8(struct uart_regs, scr, 6, 0, 0),
    DP_FIELD_U16(struct uart_regs, divisor, 7, 12, 0),
    DP_FIELD_BOOL(struct uart_regs, overrun, 8, false),
    DP_FIELD_BOOL(struct uart_regs, thre_pending, 9, false),
    DP_FIELD_BOOL(struct uart_regs, timeout_pending, 10, false),
    DP_FIELD_BOOL(struct uart_regs, timeout_armed, 11, false),
    DP_FIELD_U64(struct uart_regs, timeout_deadline, 12, 0, 0),
    DP_FIELD_BYTES(struct uart_regs, rx, 13),
    DP_FIELD_ARRAY(struct uart_regs, rx_flags, 14, DP_KIND_U8, 0, LSR_PE | LSR_FE | LSR_BI),
    DP_FIELD_U8(struct uart_regs, rx_start, 15, 0, FIFO - 1),
    DP_FIELD_U8(struct uart_regs, rx_count, 16, 0, 0x1f),
    DP_FIELD_BYTES(struct uart_regs, tx, 17),
    DP_FIELD_U8(struct uart_regs, tx_start, 18, 0, FIFO - 1),
    DP_FIELD_U8(struct uart_regs, tx_count, 19, 0, 0x1f),
    DP_FIELD_U8(struct uart_regs, polls, 20, 0, 0),
};

static unsigned depth(const struct uart_regs *r) { return r->fcr & FCR_ENABLE ? FIFO : 1; }

static int uart_check(const void *regs, struct dp_error *e)
{
    const struct uart_regs *r = regs;
    if (r->rx_count > depth(r) || r->tx_count > depth(r))
        return dp_error_set(e, -EINVAL, "uart: more characters than the FIFOs hold (%u, %u)", r->rx_count, r->tx_count);
    return 0;
}

static void uart_clamp(void *regs)
{
    struct uart_regs *r = regs;
    r->rx_count %= depth(r) + 1;
    r->tx_count %= depth(r) + 1;
}

static const struct dp_state_table uart_state =
    DP_STATE_TABLE(struct uart_regs, "uart", uart_fields, .check = uart_check, .clamp = uart_clamp);

/* ---- what is derived; lock held ---- */

static uint8_t line_errors(const struct uart_regs *r)
{
    return (r->overrun ? LSR_OE : 0) | (r->rx_count ? r->rx_flags[r->rx_start] : 0);
}

static uint8_t line_status(const struct uart_regs *r)
{
    uint8_t v = line_errors(r);
    if (r->rx_count)
        v |= LSR_DR;
    if (!r->tx_count)
        v |= LSR_THRE | LSR_TEMT;
    for (unsigned i = 0; i < r->rx_count && (r->fcr & FCR_ENABLE); i++)
        if (r->rx_flags[(r->rx_start + i) % FIFO])
            v |= LSR_FIFO;
    return v;
}

/* IIR bits 3-0: the pending interrupt of the highest priority. */
static uint8_t interrupt_id(const struct uart_regs *r)
{
    static const uint8_t triggers[] = {1, 4, 8, 14};
    unsigned trigger = r->fcr & FCR_ENABLE ? triggers[r->fcr >> FCR_TRIGGER_SHIFT] : 1;
    if ((r->ier & IER_LINE) && line_errors(r))
        return IIR_LINE;
    if ((r->ier & IER_RDA) && r->rx_count >= trigger)
        return IIR_RDA;
    if ((r->ier & IER_RDA) && r->timeout_pending)
        return IIR_TIMEOUT;
    if ((r->ier & IER_THRE) && r->thre_pending)
        return IIR_THRE;
    if ((r->ier & IER_MODEM) && (r->msr & 0x0f))
        return IIR_MODEM;
    return IIR_NONE;
}

/* Whether anybody is there to receive: who raises RTS; who takes interrupts and does not care for modem lines; who asks LSR again and again
 * with nothing else to learn from it. Before, input stays in the console, because drivers that probe and start clear the FIFO. Loopback
 * disconnects the line. */
static bool listening(const struct uart_regs *r)
{
    return !(r->mcr & MCR_LOOP) &&
           ((r->mcr & MCR_RTS) || ((r->mcr & (MCR_OUT2 | MCR_DTR)) == MCR_OUT2 && (r->ier & IER_RDA)) || r->polls >= POLLS);
}

static bool irq_level(const struct uart_regs *r)
{
    return (r->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2 && interrupt_id(r) != IIR_NONE;
}

/* ---- calls out; no lock held ---- */

static void irq_sync(struct uart *u)
{
    pthread_mutex_lock(&u->device.lock);
    while (u->running && dp_edge_line_drive(&u->line, &u->device.lock, irq_level(&u->regs)))
        ;
    pthread_mutex_unlock(&u->device.lock);
}

/* Sends what the console takes; the rest waits for its writable(). */
static void tx_flush(struct uart *u)
{
    struct uart_regs *r = &u->regs;
    pthread_mutex_lock(&u->device.lock);
    while (u->running && !u->tx_busy && r->tx_count && !(r->mcr & MCR_LOOP)) {
        uint8_t bytes[FIFO];
        unsigned n = r->tx_count, epoch = u->tx_epoch;
        for (unsigned i = 0; i < n; i++)
            bytes[i] = r->tx[(r->tx_start + i) % FIFO];
        u->tx_busy = true;
        pthread_mutex_unlock(&u->device.lock);
        unsigned taken = u->console ? (unsigned)dp_console_write(u->console, bytes, n) : n;
        pthread_mutex_lock(&u->device.lock);
        u->tx_busy = false;
        if (epoch != u->tx_epoch) /* the guest emptied the FIFO meanwhile: nothing of it is left to drop */
            continue;
        r->tx_start = (r->tx_start + taken) % FIFO;
        r->tx_count -= taken;
        if (!r->tx_count)
            r->thre_pending = true;
        if (taken < n)
            break;
    }
    pthread_mutex_unlock(&u->device.lock);
}

static void kick_console(struct uart *u)
{
    if (u->console)
        dp_console_kick(u->console);
}

/* ---- receiving; lock held ---- */

static void timeout_restart(struct uart *u)
{
    struct uart_regs *r = &u->regs;
    r->timeout_armed = (r->fcr & FCR_ENABLE) && r->rx_count && !r->timeout_pending;
    if (!r->timeout_armed) {
        dp_timer_disarm(&u->timeout);
        return;
    }
    unsigned half_bits = 2 * (1 + 5 + (r->lcr & 3) + !!(r->lcr & LCR_PARITY) + 1) + (r->lcr & LCR_STOP ? (r->lcr & 3 ? 2 : 1) : 0);
    uint64_t divisor = r->divisor ? r->divisor : 65536, character = divisor * half_bits * 1000000000 / (2 * CLOCK_BAUD);
    r->timeout_deadline = dp_clock_now(u->device.env->clock) + 4 * character;
    dp_timer_arm(&u->timeout, r->timeout_deadline);
}

static void rx_push(struct uart *u, uint8_t data, uint8_t flags)
{
    struct uart_regs *r = &u->regs;
    if (r->rx_count == depth(r)) {
        r->overrun = true;
        if (r->fcr & FCR_ENABLE) /* the FIFO keeps what it has; the single register is overwritten */
            return;
        r->rx_count = 0;
    }
    unsigned at = (r->rx_start + r->rx_count) % FIFO;
    r->rx[at] = data;
    r->rx_flags[at] = flags;
    r->rx_count++;
    timeout_restart(u);
}

static void rx_clear(struct uart *u)
{
    u->regs.rx_start = u->regs.rx_count = 0;
    memset(u->regs.rx, 0, sizeof(u->regs.rx));
    memset(u->regs.rx_flags, 0, sizeof(u->regs.rx_flags));
    u->regs.timeout_pending = false;
    timeout_restart(u);
}

static void tx_clear(struct uart *u)
{
    if (u->regs.tx_count)
        u->regs.thre_pending = true;
    u->regs.tx_start = u->regs.tx_count = 0;
    u->tx_epoch++;
}

static void timeout_due(void *opaque)
{
    struct uart *u = opaque;
    pthread_mutex_lock(&u->device.lock);
    if (u->regs.timeout_armed && dp_clock_now(u->device.env->clock) >= u->regs.timeout_deadline) {
        u->regs.timeout_armed = false;
        u->regs.timeout_pending = true;
    }
    pthread_mutex_unlock(&u->device.lock);
    irq_sync(u);
}

/* ---- the console's side ---- */

static size_t uart_room(void *opaque)
{
    struct uart *u = opaque;
    pthread_mutex_lock(&u->device.lock);
    size_t room = listening(&u->regs) ? depth(&u->regs) - u->regs.rx_count : 0;
    pthread_mutex_unlock(&u->device.lock);
    return room;
}

static void uart_receive(void *opaque, const uint8_t *data, size_t n)
{
    struct uart *u = opaque;
    pthread_mutex_lock(&u->device.lock);
    for (size_t i = 0; i < n; i++)
        rx_push(u, data[i], 0);
    pthread_mutex_unlock(&u->device.lock);
    irq_sync(u);
}

static void uart_break(void *opaque)
{
    struct uart *u = opaque;
    pthread_mutex_lock(&u->device.lock);
    if (!(u->regs.mcr & MCR_LOOP))
        rx_push(u, 0, LSR_BI | LSR_FE); /* a break is also a character without its stop bit */
    pthread_mutex_unlock(&u->device.lock);
    irq_sync(u);
}

static void uart_writable(void *opaque)
{
    tx_flush(opaque);
    irq_sync(opaque);
}

/* ---- registers ---- */

static uint8_t read_data(struct uart *u, bool *kick)
{
    struct uart_regs *r = &u->regs;
    uint8_t v = r->rx[r->rx_start];
    if (r->rx_count) {
        r->rx_flags[r->rx_start] = 0;
        r->rx_start = (r->rx_start + 1) % FIFO;
        *kick = !--r->rx_count;
        r->timeout_pending = false;
        timeout_restart(u);
    }
    return v;
}

static uint64_t uart_read(void *opaque, uint64_t offset, unsigned size)
{
    struct uart *u = opaque;
    struct uart_regs *r = &u->regs;
    bool kick = false;
    uint8_t v = 0;
    pthread_mutex_lock(&u->device.lock);
    bool listened = listening(r);
    if (offset != REG_LSR)
        r->polls = 0;
    switch (offset) {
    case REG_DATA: v = r->lcr & LCR_DLAB ? (uint8_t)r->divisor : read_data(u, &kick); break;
    case REG_IER: v = r->lcr & LCR_DLAB ? (uint8_t)(r->divisor >> 8) : r->ier; break;
    case REG_IIR:
        v = interrupt_id(r);
        if (v == IIR_THRE)
            r->thre_pending = false;
        v |= r->fcr & FCR_ENABLE ? IIR_FIFO : 0;
        break;
    case REG_LCR: v = r->lcr; break;
    case REG_MCR: v = r->mcr; break;
    case REG_LSR:
        v = line_status(r);
        r->polls = v == (LSR_THRE | LSR_TEMT) ? DP_MIN(r->polls + 1, POLLS) : 0;
        r->overrun = false;
        if (r->rx_count)
            r->rx_flags[r->rx_start] = 0;
        break;
    case REG_MSR:
        v = r->msr;
        r->msr &= 0xf0;
        break;
    case REG_SCR: v = r->scr; break;
    }
    kick |= !listened && listening(r);
    dp_edge_line_note(&u->line, irq_level(r));
    pthread_mutex_unlock(&u->device.lock);
    irq_sync(u);
    if (kick)
        kick_console(u);
    return v;
}

static void write_data(struct uart *u, uint8_t value)
{
    struct uart_regs *r = &u->regs;
    r->thre_pending = false;
    if (r->mcr & MCR_LOOP) {
        rx_push(u, value, 0);
        r->thre_pending = !r->tx_count;
    } else if (r->tx_count < depth(r)) {
        r->tx[(r->tx_start + r->tx_count++) % FIFO] = value;
    } else {
        dp_trace_guest(u->device.env->trace, "%s: character 0x%02x written to a full transmitter is lost", u->device.id, value);
    }
}

static void write_fcr(struct uart *u, uint8_t value)
{
    struct uart_regs *r = &u->regs;
    bool switched = (value ^ r->fcr) & FCR_ENABLE;
    r->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
    if (switched || (value & FCR_ENABLE && value & FCR_CLEAR_RX))
        rx_clear(u);
    if (switched || (value & FCR_ENABLE && value & FCR_CLEAR_TX))
        tx_clear(u);
}

static void write_mcr(struct uart *u, uint8_t value)
{
    struct uart_regs *r = &u->regs;
    r->mcr = value & MCR_KEPT;
    uint8_t lines = MSR_CONNECTED;
    if (r->mcr & MCR_LOOP)
        lines = (r->mcr & MCR_RTS ? MSR_CTS : 0) | (r->mcr & MCR_DTR ? MSR_DSR : 0) | (r->mcr & MCR_OUT1 ? MSR_RI : 0) |
                (r->mcr & MCR_OUT2 ? MSR_DCD : 0);
    uint8_t changed = (r->msr ^ lines) & 0xf0, deltas = changed >> 4 & (MSR_DCTS | MSR_DDSR | MSR_DDCD);
    if (changed & ~lines & MSR_RI)
        deltas |= MSR_TERI; /* only the end of ringing */
    r->msr = lines | (r->msr & 0x0f) | deltas;
}

static void uart_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct uart *u = opaque;
    struct uart_regs *r = &u->regs;
    uint8_t v = (uint8_t)value;
    bool kick = false;
    pthread_mutex_lock(&u->device.lock);
    bool listened = listening(r);
    r->polls = 0;
    switch (offset) {
    case REG_DATA:
        if (r->lcr & LCR_DLAB)
            r->divisor = (r->divisor & 0xff00) | v;
        else
            write_data(u, v);
        break;
    case REG_IER:
        if (r->lcr & LCR_DLAB) {
            r->divisor = (uint16_t)((r->divisor & 0xff) | v << 8);
        } else {
            if (v & ~r->ier & IER_THRE)
                r->thre_pending = !r->tx_count;
            r->ier = v & 0x0f;
        }
        break;
    case REG_FCR:
        write_fcr(u, v);
        kick = true;
        break;
    case REG_LCR:
        if ((v & ~r->lcr & LCR_BREAK) && (r->mcr & MCR_LOOP))
            rx_push(u, 0, LSR_BI | LSR_FE);
        r->lcr = v;
        break;
    case REG_MCR: write_mcr(u, v); break;
    case REG_SCR: r->scr = v; break;
    default: break; /* LSR and MSR: factory tests only */
    }
    kick |= !listened && listening(r);
    dp_edge_line_note(&u->line, irq_level(r));
    pthread_mutex_unlock(&u->device.lock);
    tx_flush(u);
    irq_sync(u);
    if (kick)
        kick_console(u);
}

/* ---- life ---- */

void dp_uart_wire(struct dp_device *d, struct dp_irq irq, struct dp_console *console)
{
    struct uart *u = (struct uart *)d;
    u->line.irq = irq;
    u->console = console;
}

static int uart_init(struct dp_device *d, struct dp_error *e)
{
    struct uart *u = (struct uart *)d;
    dp_edge_line_forget(&u->line);
    dp_timer_init(&u->timeout, d->env->clock, timeout_due, u);
    if (u->console) {
        struct dp_console_client client = {uart_room, uart_receive, uart_writable, uart_break, u};
        dp_console_attach(u->console, &client);
    }
    return 0;
}

static void uart_fini(struct dp_device *d)
{
    struct uart *u = (struct uart *)d;
    if (u->console)
        dp_console_attach(u->console, NULL);
    dp_timer_fini(&u->timeout);
}

static void uart_reset(struct dp_device *d)
{
    struct uart *u = (struct uart *)d;
    pthread_mutex_lock(&d->lock);
    dp_timer_disarm(&u->timeout);
    u->tx_epoch++;
    dp_edge_line_forget(&u->line);
    pthread_mutex_unlock(&d->lock);
    irq_sync(u);
    kick_console(u);
}

static void uart_pause(struct dp_device *d)
{
    struct uart *u = (struct uart *)d;
    pthread_mutex_lock(&d->lock);
    u->running = false;
    pthread_mutex_unlock(&d->lock);
}

static void uart_resume(struct dp_device *d)
{
    struct uart *u = (struct uart *)d;
    pthread_mutex_lock(&d->lock);
    u->running = true;
    pthread_mutex_unlock(&d->lock);
    tx_flush(u);
    irq_sync(u);
    kick_console(u);
}

static void uart_post_load(struct dp_device *d)
{
    struct uart *u = (struct uart *)d;
    pthread_mutex_lock(&d->lock);
    if (u->regs.timeout_armed)
        dp_timer_arm(&u->timeout, u->regs.timeout_deadline);
    else
        dp_timer_disarm(&u->timeout);
    u->tx_epoch++;
    dp_edge_line_forget(&u->line);
    pthread_mutex_unlock(&d->lock);
    tx_flush(u);
    irq_sync(u);
    kick_console(u);
}

static const struct dp_window_ops uart_ops = {.name = "uart", .read = uart_read, .write = uart_write, .min_size = 1, .max_size = 1};
static const struct dp_window_spec uart_windows[] = {[DP_UART_WINDOW] = {"registers", REGS, &uart_ops, true}};

const struct dp_device_class dp_uart_class = {
    .name = "uart-16550a",
    .summary = "16550A serial port",
    .size = sizeof(struct uart),
    .regs_offset = offsetof(struct uart, regs),
    .state = &uart_state,
    .windows = uart_windows,
    .window_count = DP_ARRAY_LEN(uart_windows),
    .init = uart_init,
    .fini = uart_fini,
    .reset = uart_reset,
    .pause = uart_pause,
    .resume = uart_resume,
    .post_load = uart_post_load,
};
