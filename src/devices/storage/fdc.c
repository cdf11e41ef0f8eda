/* fdc.c - see fdc.h.
 *
 * Locks and calls out: registers change under the device's lock. `work` takes what a running command wants next: a sector from or to the
 * block layer, or bytes by DMA. It calls out without the lock; `busy` makes one thread the caller and `again` has it look once more.
 * `epoch` says whether the command that asked is still the one that runs. The line is set by `sync` (edge_line.h).
 * Invariants: phase is EXECUTION exactly while exec is not X_NONE. In exec X_READ, X_WRITE and X_FORMAT_WRITE the block layer is asked
 * (or will be, after resume), in the others the host computer is.
 */
#include "devices/edge_line.h"
#include "devices/storage/fdc.h"

#include <sched.h>

#include "devices/intc/dma8237.h"

enum { SECTOR = 512, SIZE_CODE = 2, UNITS = 4, FIFO = 16 };
#define START_NS 50000   /* from a command's last byte to its execution */
#define ID_NS 1000000    /* until a sector passes */
#define RESET_NS 20000
#define SEEK_NS 100000   /* and for each step */
#define STEP_NS 20000

enum { PORT_SRA, PORT_SRB, PORT_DOR, PORT_TDR, PORT_MSR, PORT_DSR = PORT_MSR, PORT_FIFO, PORTS };
enum { DOR_SELECT = 3, DOR_RUN = 4, DOR_DMAGATE = 8 };
enum { MSR_BUSY = 0x10, MSR_NONDMA = 0x20, MSR_DIO = 0x40, MSR_RQM = 0x80 };
enum { DSR_RATE = 3, DSR_RESET = 0x80, DIR_CHANGE = 0x80 };
enum { ST0_SEEK_END = 0x20, ST0_EQUIPMENT = 0x10, ST0_ABNORMAL = 0x40, ST0_INVALID = 0x80, ST0_POLLING = 0xc0 };
enum { ST1_MISSING_MARK = 1, ST1_NOT_WRITABLE = 2, ST1_NO_DATA = 4, ST1_DATA_ERROR = 0x20, ST1_END = 0x80 };
enum { ST2_DATA_ERROR = 0x20, ST2_CONTROL_MARK = 0x40 };
enum { ST3_ALWAYS = 0x28 /* ready, two sides */, ST3_TRACK0 = 0x10, ST3_PROTECTED = 0x40 };
enum { SPECIFY_NONDMA = 1, CONFIG_EIS = 0x40, CONFIG_EFIFO = 0x20, CONFIG_THRESHOLD = 0x0f,
       CONFIG_INITIAL = CONFIG_EFIFO };
enum { OPTION_MT = 0x80, OPTION_MFM = 0x40, OPTION_SK = 0x20 };
enum { /* commands, without their options */
    READ_TRACK = 0x02, SPECIFY, SENSE_DRIVE, WRITE, READ, RECALIBRATE, SENSE_INTERRUPT, WRITE_DELETED, READ_ID, READ_DELETED = 0x0c, FORMAT,
    DUMPREG, SEEK, VERSION, PERPENDICULAR = 0x12, CONFIGURE, LOCK, VERIFY = 0x16, COMMANDS = 0x20
};
enum { PHASE_COMMAND, PHASE_EXECUTION, PHASE_RESULT };
enum { X_NONE, X_START, X_READ, X_WRITE, X_TO_HOST, X_FROM_HOST, X_FORMAT_ID, X_FORMAT_WRITE, X_COUNT };
enum { DUE_SEEK /* of four units */, DUE_START = UNITS, DUE_RESET, DUES };

/* Bytes of a command with its parameters, and the options it may carry. What is not here is invalid. */
static const struct { uint8_t length, options; } commands[COMMANDS] = {
    [READ_TRACK] = {9, OPTION_MFM | OPTION_SK}, [SPECIFY] = {3, 0}, [SENSE_DRIVE] = {2, 0}, [WRITE] = {9, OPTION_MT | OPTION_MFM},
    [READ] = {9, OPTION_MT | OPTION_MFM | OPTION_SK}, [RECALIBRATE] = {2, 0}, [SENSE_INTERRUPT] = {1, 0},
    [WRITE_DELETED] = {9, OPTION_MT | OPTION_MFM}, [READ_ID] = {2, OPTION_MFM}, [READ_DELETED] = {9, OPTION_MT | OPTION_MFM | OPTION_SK},
    [FORMAT] = {6, OPTION_MFM}, [DUMPREG] = {1, 0}, [SEEK] = {3, 0xc0 /* relative, direction */}, [VERSION] = {1, 0},
    [PERPENDICULAR] = {2, 0}, [CONFIGURE] = {4, 0}, [LOCK] = {1, 0x80}, [VERIFY] = {9, OPTION_MT | OPTION_MFM | OPTION_SK},
};

struct fdc_regs {
    uint8_t dor, tdr, rate;
    uint8_t phase;
    uint8_t fifo[FIFO], at, length;         /* the command as far as it came, or its result as far as it was read */
    uint8_t specify[2], config, pretrack, perpendicular, last_eot;
    bool lock, interrupt;
    uint8_t cylinder[UNITS];                /* PCN, where the head is */
    uint8_t seeking, target[UNITS];
    uint8_t sense, sense_st0[UNITS];        /* seeks that ended, for SENSE INTERRUPT */
    uint8_t reset_sense;                    /* SENSE INTERRUPTs that a reset still wants */
    uint8_t changed;                        /* disk change, a bit per drive */
    uint8_t due_armed;
    uint64_t due[DUES];
    /* the command that is executed */
    uint8_t exec, command, options, unit, head;
    uint8_t c, h, r, n, eot, count, filler; /* count: sectors left to VERIFY or FORMAT */
    bool counted, terminal;                 /* VERIFY by count; TC came */
    uint8_t id;                             /* the sector that READ ID met last */
    uint16_t position;
    uint8_t buffer[SECTOR];
};

struct drive {
    struct dp_block *medium;
    struct dp_fdc_geometry geometry;        /* of the medium */
    enum dp_fdc_type type;
    uint64_t wanted;                        /* property: 0 auto, else type + 1 */
};

struct fdc {
    struct dp_device device;
    struct fdc_regs regs;
    struct drive drive[DP_FDC_DRIVES];
    struct dp_edge_line line;
    struct dp_device *dma;
    unsigned channel;
    struct dp_timer timer;
    bool running, busy, again;
    bool in_flight, changing;               /* io is in the block layer; nothing goes there */
    uint32_t epoch, io_epoch;
    struct dp_block_request io;
    struct iovec iov;
    uint8_t io_data[SECTOR];
};

/* ---- the line ---- */

static bool irq_level(const struct fdc_regs *r)
{
    return r->interrupt && (r->dor & (DOR_RUN | DOR_DMAGATE)) == (DOR_RUN | DOR_DMAGATE);
}

/* Lock held. */
static void set_interrupt(struct fdc *f, bool level)
{
    f->regs.interrupt = level;
    dp_edge_line_note(&f->line, level);
}

/* No lock held. */
static void sync(struct fdc *f)
{
    pthread_mutex_lock(&f->device.lock);
    dp_edge_line_note(&f->line, irq_level(&f->regs));
    while (f->running && dp_edge_line_drive(&f->line, &f->device.lock, irq_level(&f->regs)))
        ;
    pthread_mutex_unlock(&f->device.lock);
}

/* ---- time; lock held ---- */

static void arm(struct fdc *f)
{
    uint64_t first = UINT64_MAX;
    for (unsigned i = 0; i < DUES; i++)
        if (f->regs.due_armed >> i & 1)
            first = DP_MIN(first, f->regs.due[i]);
    if (f->regs.due_armed)
        dp_timer_arm(&f->timer, first);
    else
        dp_timer_disarm(&f->timer);
}

static void due_in(struct fdc *f, unsigned what, uint64_t ns)
{
    f->regs.due[what] = dp_clock_now(f->device.env->clock) + ns;
    f->regs.due_armed |= (uint8_t)(1u << what);
    arm(f);
}

/* ---- media; lock held ---- */

static struct drive *drive_of(struct fdc *f, unsigned unit)
{
    return unit < DP_FDC_DRIVES && f->drive[unit].type != DP_FDC_NONE ? &f->drive[unit] : NULL;
}

/* The medium of the running command's drive, if it can be read at this rate. */
static struct drive *readable(struct fdc *f)
{
    const struct fdc_regs *r = &f->regs;
    struct drive *d = drive_of(f, r->unit);
    return d && d->medium && d->geometry.rate == r->rate && (r->options & OPTION_MFM) ? d : NULL;
}

static unsigned last_cylinder(const struct drive *d) { return d->type == DP_FDC_360K ? 41 : 83; }

/* ---- results; lock held ---- */

static void become_idle(struct fdc_regs *r)
{
    r->phase = PHASE_COMMAND;
    r->exec = X_NONE;
    r->at = r->length = 0;
}

static void result(struct fdc_regs *r, unsigned length)
{
    r->phase = PHASE_RESULT;
    r->exec = X_NONE;
    r->at = 0;
    r->length = (uint8_t)length;
}

static void result_byte(struct fdc_regs *r, uint8_t byte)
{
    r->fifo[0] = byte;
    result(r, 1);
}

static void finish(struct fdc *f, unsigned st1, unsigned st2)
{
    struct fdc_regs *r = &f->regs;
    uint8_t st0 = (uint8_t)((st1 || (st2 & ~ST2_CONTROL_MARK) ? ST0_ABNORMAL : 0) | r->head << 2 | r->unit);
    const uint8_t bytes[] = {st0, (uint8_t)st1, (uint8_t)st2, r->c, r->h, r->r, r->n};
    memcpy(r->fifo, bytes, sizeof(bytes));
    result(r, sizeof(bytes));
    r->reset_sense = 0;
    set_interrupt(f, true);
}

/* ---- data commands; lock held ---- */

static bool is_write(const struct fdc_regs *r) { return r->command == WRITE || r->command == WRITE_DELETED; }
static bool dma_mode(const struct fdc_regs *r) { return !(r->specify[1] & SPECIFY_NONDMA); }

/* The next of the states in which the other side of the FIFO is asked. */
static void ask_host(struct fdc *f, unsigned exec)
{
    f->regs.exec = (uint8_t)exec;
    f->regs.position = 0;
    if (!dma_mode(&f->regs))
        set_interrupt(f, true);
}

/* Is there such a sector, and may it be written? If not the command ends. */
static void next_sector(struct fdc *f)
{
    struct fdc_regs *r = &f->regs;
    const struct drive *d = readable(f);
    if (!d)
        finish(f, ST1_MISSING_MARK, 0);
    else if (is_write(r) && dp_block_readonly(d->medium))
        finish(f, ST1_NOT_WRITABLE, 0);
    else if (r->n != SIZE_CODE || r->h != r->head || r->c >= d->geometry.tracks || r->head >= d->geometry.heads || !r->r ||
             r->r > d->geometry.sectors)
        finish(f, ST1_NO_DATA, 0);
    else if (is_write(r))
        ask_host(f, X_FROM_HOST);
    else
        r->exec = X_READ;
}

/* The address of the sector after this one, as the result phase tells it. True: it is on the same track or, with MT, cylinder. */
static bool advance(struct fdc_regs *r)
{
    if (r->r != r->eot) {
        r->r++;
        return true;
    }
    r->r = 1;
    if ((r->options & OPTION_MT) && r->command != READ_TRACK) {
        r->h ^= 1;
        if (r->h)
            return true;
    }
    r->c++;
    return false;
}

static void sector_done(struct fdc *f)
{
    struct fdc_regs *r = &f->regs;
    bool more = advance(r);
    bool verify = r->command == VERIFY;
    if (r->command == READ_DELETED) {
        finish(f, 0, ST2_CONTROL_MARK); /* there are no deleted sectors: this one was of the other kind */
    } else if (r->terminal || (verify && r->counted && !--r->count)) {
        finish(f, 0, 0);
    } else if (!more) {
        finish(f, verify && !r->counted ? 0 : ST1_END, 0);
    } else {
        r->head = r->h;
        next_sector(f);
    }
}

/* The host computer took or gave all the bytes of the state, or ended it by TC. */
static void host_done(struct fdc *f)
{
    struct fdc_regs *r = &f->regs;
    unsigned bytes = r->position;
    r->position = 0;
    switch (r->exec) {
    case X_TO_HOST: sector_done(f); break;
    case X_FROM_HOST:
        memset(r->buffer + bytes, 0, SECTOR - bytes);
        r->exec = X_WRITE;
        break;
    case X_FORMAT_ID: {
        const struct drive *d = readable(f);
        if (bytes < 4) { /* TC in the midst of an address */
            finish(f, 0, 0);
            break;
        }
        r->c = r->buffer[0];
        r->h = r->buffer[1];
        r->r = r->buffer[2];
        r->n = r->buffer[3];
        if (!d || r->n != SIZE_CODE || r->h != r->head || r->c >= d->geometry.tracks || r->head >= d->geometry.heads || !r->r ||
            r->r > d->geometry.sectors) {
            dp_trace_guest(f->device.env->trace, "%s: sector %u/%u/%u of size code %u has no place in the image", f->device.id, r->c, r->h,
                           r->r, r->n);
            finish(f, ST1_NO_DATA, 0);
            break;
        }
        r->exec = X_FORMAT_WRITE;
        break;
    }
    }
}

static void formatted(struct fdc *f)
{
    struct fdc_regs *r = &f->regs;
    if (!--r->count || r->terminal)
        finish(f, 0, 0);
    else
        ask_host(f, X_FORMAT_ID);
}

static void io_over(struct fdc *f, bool failed)
{
    struct fdc_regs *r = &f->regs;
    if (failed) {
        finish(f, ST1_DATA_ERROR, ST2_DATA_ERROR);
        return;
    }
    switch (r->exec) {
    case X_READ:
        memcpy(r->buffer, f->io_data, SECTOR);
        if (r->command == VERIFY)
            sector_done(f);
        else
            ask_host(f, X_TO_HOST);
        break;
    case X_WRITE: sector_done(f); break;
    case X_FORMAT_WRITE: formatted(f); break;
    }
}

static void start(struct fdc *f)
{
    struct fdc_regs *r = &f->regs;
    const struct drive *d = readable(f);
    if (r->command == READ_ID) {
        unsigned track = d ? r->cylinder[r->unit] / d->geometry.steps : 0;
        if (!d || track >= d->geometry.tracks || r->head >= d->geometry.heads) {
            finish(f, ST1_MISSING_MARK, 0);
            return;
        }
        r->c = (uint8_t)track;
        r->h = r->head;
        r->r = r->id = (uint8_t)(r->id % d->geometry.sectors + 1);
        r->n = SIZE_CODE;
        finish(f, 0, 0);
    } else if (r->command == FORMAT) {
        if (!d)
            finish(f, ST1_MISSING_MARK, 0);
        else if (dp_block_readonly(d->medium))
            finish(f, ST1_NOT_WRITABLE, 0);
        else if (!r->count)
            finish(f, 0, 0);
        else
            ask_host(f, X_FORMAT_ID);
    } else {
        next_sector(f);
    }
}

/* ---- what a command wants from others ---- */

static void work(struct fdc *f);

static void io_done(struct dp_block_request *io, int rc)
{
    struct fdc *f = io->opaque;
    pthread_mutex_lock(&f->device.lock);
    f->in_flight = false;
    unsigned exec = f->regs.exec;
    if (f->io_epoch == f->epoch && (exec == X_READ || exec == X_WRITE || exec == X_FORMAT_WRITE))
        io_over(f, rc);
    pthread_mutex_unlock(&f->device.lock);
    work(f);
}

/* Lock held, let go between. True: the state is another. */
static bool ask_block(struct fdc *f)
{
    struct fdc_regs *r = &f->regs;
    if (f->in_flight || f->changing)
        return false;
    const struct drive *d = readable(f);
    uint64_t sector = d ? ((uint64_t)r->c * d->geometry.heads + r->head) * d->geometry.sectors + r->r - 1 : 0;
    /* A restored state may be of another medium, and an image shorter than its disk. */
    if (!d || !r->r || r->r > d->geometry.sectors || r->c >= d->geometry.tracks || r->head >= d->geometry.heads ||
        (sector + 1) * SECTOR > dp_block_size(d->medium)) {
        io_over(f, true);
        return true;
    }
    if (r->exec == X_FORMAT_WRITE)
        memset(f->io_data, r->filler, SECTOR);
    else if (r->exec == X_WRITE)
        memcpy(f->io_data, r->buffer, SECTOR);
    f->iov = (struct iovec){f->io_data, SECTOR};
    f->io = (struct dp_block_request){
        .op = r->exec == X_READ ? DP_BLOCK_READ : DP_BLOCK_WRITE, .offset = sector * SECTOR, .size = SECTOR, .iov = &f->iov, .iov_count = 1,
        .done = io_done, .opaque = f,
    };
    f->in_flight = true;
    f->io_epoch = f->epoch;
    struct dp_block *medium = d->medium;
    pthread_mutex_unlock(&f->device.lock);
    dp_block_submit(medium, &f->io);
    pthread_mutex_lock(&f->device.lock);
    return false;
}

static bool ask_dma(struct fdc *f)
{
    struct fdc_regs *r = &f->regs;
    if (!dma_mode(r) || !f->dma || !(r->dor & DOR_DMAGATE))
        return false;
    uint8_t bytes[SECTOR];
    uint32_t epoch = f->epoch, at = r->position, size = (r->exec == X_FORMAT_ID ? 4 : SECTOR) - at;
    bool to_memory = r->exec == X_TO_HOST, terminal;
    if (to_memory)
        memcpy(bytes, r->buffer + at, size);
    pthread_mutex_unlock(&f->device.lock);
    uint32_t n = dp_dma_transfer(f->dma, f->channel, bytes, size, to_memory, &terminal);
    pthread_mutex_lock(&f->device.lock);
    if (epoch != f->epoch)
        return true;
    if (!to_memory)
        memcpy(r->buffer + at, bytes, n);
    r->position = (uint16_t)(at + n);
    r->terminal |= terminal;
    if (n == size || terminal)
        host_done(f);
    return n;
}

/* No lock held: goes on with the running command as far as it gets. */
static void work(struct fdc *f)
{
    pthread_mutex_lock(&f->device.lock);
    for (bool more = true; more && f->running;) {
        f->again = true;
        if (f->busy)
            break;
        f->busy = true;
        f->again = false;
        switch (f->regs.exec) {
        case X_READ: case X_WRITE: case X_FORMAT_WRITE: more = ask_block(f); break;
        case X_TO_HOST: case X_FROM_HOST: case X_FORMAT_ID: more = ask_dma(f); break;
        default: more = false; break;
        }
        f->busy = false;
        more |= f->again;
    }
    pthread_mutex_unlock(&f->device.lock);
    sync(f);
}

static void dma_ready(void *opaque, unsigned n, bool level) { work(opaque); }

/* ---- seeks and reset; lock held ---- */

static void seek(struct fdc *f, unsigned unit, unsigned target)
{
    struct fdc_regs *r = &f->regs;
    const struct drive *d = drive_of(f, unit);
    target = DP_MIN(target, d ? last_cylinder(d) : 255u);
    unsigned from = r->cylinder[unit], steps = from > target ? from - target : target - from;
    r->target[unit] = (uint8_t)target;
    r->seeking |= (uint8_t)(1u << unit);
    due_in(f, DUE_SEEK + unit, SEEK_NS + steps * STEP_NS);
    become_idle(r);
}

static void seek_end(struct fdc *f, unsigned unit)
{
    struct fdc_regs *r = &f->regs;
    const struct drive *d = drive_of(f, unit);
    bool recalibrate = r->target[unit] == 0;
    r->seeking &= (uint8_t)~(1u << unit);
    r->cylinder[unit] = r->target[unit];
    if (d && d->medium)
        r->changed &= (uint8_t)~(1u << unit);
    r->sense |= (uint8_t)(1u << unit);
    /* Without a drive track 0 never comes. */
    r->sense_st0[unit] = (uint8_t)(ST0_SEEK_END | unit | (recalibrate && !d ? ST0_ABNORMAL | ST0_EQUIPMENT : 0));
    r->reset_sense = 0;
    set_interrupt(f, true);
}

/* What DOR and DSR do. */
static void stop(struct fdc *f)
{
    struct fdc_regs *r = &f->regs;
    f->epoch++;
    become_idle(r);
    r->seeking = r->sense = r->reset_sense = 0;
    r->due_armed = 0;
    arm(f);
    memset(r->cylinder, 0, sizeof(r->cylinder));
    r->perpendicular &= 0x3c;
    r->config = r->lock ? r->config & (CONFIG_EFIFO | CONFIG_THRESHOLD) : CONFIG_INITIAL;
    r->pretrack = r->lock ? r->pretrack : 0;
    set_interrupt(f, false);
}

static void timer_due(void *opaque)
{
    struct fdc *f = opaque;
    struct fdc_regs *r = &f->regs;
    pthread_mutex_lock(&f->device.lock);
    uint64_t now = dp_clock_now(f->device.env->clock);
    for (unsigned i = 0; i < DUES && f->running; i++) {
        if (!(r->due_armed >> i & 1) || now < r->due[i])
            continue;
        r->due_armed &= (uint8_t)~(1u << i);
        if (i < UNITS) {
            seek_end(f, i);
        } else if (i == DUE_RESET) {
            r->reset_sense = UNITS;
            set_interrupt(f, true);
        } else if (r->exec == X_START) {
            start(f);
        }
    }
    if (f->running)
        arm(f);
    pthread_mutex_unlock(&f->device.lock);
    work(f);
}

/* ---- commands; lock held, all parameters are in the FIFO ---- */

static void sense_interrupt(struct fdc *f)
{
    struct fdc_regs *r = &f->regs;
    unsigned unit = 0;
    uint8_t st0;
    if (r->reset_sense) {
        unit = UNITS - r->reset_sense--;
        st0 = (uint8_t)(ST0_POLLING | unit);
        set_interrupt(f, false);
    } else if (r->sense) {
        unit = (unsigned)__builtin_ctz(r->sense);
        st0 = r->sense_st0[unit];
        r->sense &= (uint8_t)(r->sense - 1);
        set_interrupt(f, false);
        set_interrupt(f, r->sense);
    } else {
        result_byte(r, ST0_INVALID);
        return;
    }
    r->fifo[0] = st0;
    r->fifo[1] = r->cylinder[unit];
    result(r, 2);
}

static void sense_drive(struct fdc *f)
{
    struct fdc_regs *r = &f->regs;
    unsigned unit = r->fifo[1] & 3;
    const struct drive *d = drive_of(f, unit);
    bool protected = d && d->medium && dp_block_readonly(d->medium);
    result_byte(r, (uint8_t)(ST3_ALWAYS | (r->fifo[1] & 7) | (d && !r->cylinder[unit] ? ST3_TRACK0 : 0) | (protected ? ST3_PROTECTED : 0)));
}

static void dump_registers(struct fdc_regs *r)
{
    memcpy(r->fifo, r->cylinder, UNITS);
    r->fifo[4] = r->specify[0];
    r->fifo[5] = r->specify[1];
    r->fifo[6] = r->last_eot;
    r->fifo[7] = (uint8_t)(r->lock << 7 | (r->perpendicular & 0x3f));
    r->fifo[8] = r->config;
    r->fifo[9] = r->pretrack;
    result(r, 10);
}

static void begin_data(struct fdc *f)
{
    struct fdc_regs *r = &f->regs;
    const uint8_t *p = r->fifo;
    r->unit = p[1] & 3;
    r->head = p[1] >> 2 & 1;
    r->terminal = r->counted = false;
    r->count = 0;
    r->position = 0;
    if (r->command == FORMAT) {
        r->n = p[2];
        r->count = r->last_eot = p[3];
        r->filler = p[5];
        r->c = r->cylinder[r->unit];
        r->h = r->head;
        r->r = 1;
    } else if (r->command != READ_ID) {
        r->c = p[2];
        r->h = p[3];
        r->r = r->command == READ_TRACK ? 1 : p[4];
        r->n = p[5];
        r->eot = r->last_eot = p[6];
        r->counted = r->command == VERIFY && (p[1] & 0x80);
        r->count = r->counted ? p[8] : 0;
        if ((r->config & CONFIG_EIS) && r->unit < DP_FDC_DRIVES && f->drive[r->unit].medium)
            r->cylinder[r->unit] = (uint8_t)DP_MIN((unsigned)p[2] * f->drive[r->unit].geometry.steps, last_cylinder(&f->drive[r->unit]));
    } else {
        r->c = r->h = r->r = r->n = 0;
    }
    r->phase = PHASE_EXECUTION;
    r->exec = X_START;
    due_in(f, DUE_START, r->command == READ_ID ? ID_NS : START_NS);
}

static void relative_seek(struct fdc *f)
{
    struct fdc_regs *r = &f->regs;
    unsigned unit = r->fifo[1] & 3;
    int target = r->cylinder[unit] + (r->options & 0x40 ? r->fifo[2] : -(int)r->fifo[2]);
    seek(f, unit, (unsigned)(target < 0 ? 0 : target));
}

static void execute(struct fdc *f)
{
    struct fdc_regs *r = &f->regs;
    const uint8_t *p = r->fifo;
    r->command = p[0] & (COMMANDS - 1);
    r->options = p[0] & (uint8_t)~(COMMANDS - 1);
    DP_TRACE(f->device.env->trace, DP_TRACE_IO, "%s: command %02x %02x %02x %02x %02x %02x %02x", f->device.id, p[0], p[1], p[2], p[3],
             p[4], p[5], p[6]);
    switch (r->command) {
    case SPECIFY:
        r->specify[0] = p[1];
        r->specify[1] = p[2];
        become_idle(r);
        break;
    case SENSE_DRIVE: sense_drive(f); break;
    case RECALIBRATE: seek(f, p[1] & 3, 0); break;
    case SEEK:
        if (r->options & 0x80)
            relative_seek(f);
        else
            seek(f, p[1] & 3, p[2]);
        break;
    case SENSE_INTERRUPT: sense_interrupt(f); break;
    case DUMPREG: dump_registers(r); break;
    case VERSION: result_byte(r, 0x90); break;
    case PERPENDICULAR:
        r->perpendicular = p[1] & 0x80 ? p[1] & 0x3f : (r->perpendicular & 0x3c) | (p[1] & 3); /* OW: drives too */
        become_idle(r);
        break;
    case CONFIGURE:
        r->config = p[2] & 0x7f;
        r->pretrack = p[3];
        become_idle(r);
        break;
    case LOCK:
        r->lock = r->options & 0x80;
        result_byte(r, (uint8_t)(r->lock << 4));
        break;
    default: begin_data(f); break;
    }
}

/* ---- ports ---- */

static uint8_t main_status(const struct fdc_regs *r)
{
    if (!(r->dor & DOR_RUN))
        return 0;
    uint8_t v = r->seeking;
    if (r->phase == PHASE_RESULT)
        return v | MSR_RQM | MSR_DIO | MSR_BUSY;
    if (r->phase == PHASE_COMMAND)
        return v | MSR_RQM | (r->at ? MSR_BUSY : 0);
    v |= MSR_BUSY;
    if (!dma_mode(r)) {
        v |= MSR_NONDMA;
        if (r->exec == X_TO_HOST)
            v |= MSR_RQM | MSR_DIO;
        else if (r->exec == X_FROM_HOST || r->exec == X_FORMAT_ID)
            v |= MSR_RQM;
    }
    return v;
}

static uint8_t read_fifo(struct fdc *f)
{
    struct fdc_regs *r = &f->regs;
    uint8_t v = 0;
    if (r->phase == PHASE_RESULT) {
        if (!r->at && !r->sense && !r->reset_sense)
            set_interrupt(f, false);
        v = r->fifo[r->at++];
        if (r->at == r->length)
            become_idle(r);
    } else if (r->exec == X_TO_HOST && !dma_mode(r)) {
        set_interrupt(f, false);
        v = r->buffer[r->position++];
        if (r->position == SECTOR)
            host_done(f);
    } else {
        dp_trace_guest(f->device.env->trace, "%s: the FIFO is read with nothing in it", f->device.id);
    }
    return v;
}

static void write_fifo(struct fdc *f, uint8_t v)
{
    struct fdc_regs *r = &f->regs;
    if (!(r->dor & DOR_RUN))
        return;
    if (r->phase == PHASE_COMMAND) {
        if (!r->at) {
            unsigned command = v & (COMMANDS - 1), options = v & ~(COMMANDS - 1u);
            if (!commands[command].length || (options & ~(unsigned)commands[command].options)) {
                result_byte(r, ST0_INVALID);
                return;
            }
            r->length = commands[command].length;
        }
        r->fifo[r->at++] = v;
        if (r->at == r->length)
            execute(f);
    } else if ((r->exec == X_FROM_HOST || r->exec == X_FORMAT_ID) && !dma_mode(r)) {
        set_interrupt(f, false);
        r->buffer[r->position++] = v;
        if (r->position == (r->exec == X_FORMAT_ID ? 4 : SECTOR))
            host_done(f);
    } else {
        dp_trace_guest(f->device.env->trace, "%s: 0x%02x is written to the FIFO while a result waits", f->device.id, v);
    }
}

static void write_dor(struct fdc *f, uint8_t v)
{
    struct fdc_regs *r = &f->regs;
    bool ran = r->dor & DOR_RUN;
    r->dor = v;
    if (ran && !(v & DOR_RUN))
        stop(f);
    else if (!ran && (v & DOR_RUN))
        due_in(f, DUE_RESET, RESET_NS);
}

static uint64_t fdc_read(void *opaque, uint64_t offset, unsigned size)
{
    struct fdc *f = opaque;
    struct fdc_regs *r = &f->regs;
    uint8_t v = 0xff; /* SRA and SRB are not there in AT mode */
    pthread_mutex_lock(&f->device.lock);
    switch (offset) {
    case PORT_DOR: v = r->dor; break;
    case PORT_TDR: v = r->tdr; break;
    case PORT_MSR: v = main_status(r); break;
    case PORT_FIFO: v = read_fifo(f); break;
    }
    pthread_mutex_unlock(&f->device.lock);
    if (offset == PORT_FIFO)
        work(f);
    return v;
}

static void fdc_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct fdc *f = opaque;
    struct fdc_regs *r = &f->regs;
    uint8_t v = (uint8_t)value;
    pthread_mutex_lock(&f->device.lock);
    switch (offset) {
    case PORT_DOR: write_dor(f, v); break;
    case PORT_TDR: r->tdr = v & 3; break;
    case PORT_DSR:
        r->rate = v & DSR_RATE;
        if ((v & DSR_RESET) && (r->dor & DOR_RUN)) {
            stop(f);
            due_in(f, DUE_RESET, RESET_NS);
        }
        break;
    case PORT_FIFO: write_fifo(f, v); break;
    }
    pthread_mutex_unlock(&f->device.lock);
    work(f);
}

static uint64_t dir_read(void *opaque, uint64_t offset, unsigned size)
{
    struct fdc *f = opaque;
    const struct fdc_regs *r = &f->regs;
    pthread_mutex_lock(&f->device.lock);
    unsigned unit = r->dor & DOR_SELECT;
    const struct drive *d = drive_of(f, unit);
    uint8_t v = d && (!d->medium || (r->changed >> unit & 1)) ? DIR_CHANGE : 0;
    pthread_mutex_unlock(&f->device.lock);
    return v;
}

static void ccr_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct fdc *f = opaque;
    pthread_mutex_lock(&f->device.lock);
    f->regs.rate = value & DSR_RATE;
    pthread_mutex_unlock(&f->device.lock);
}

/* ---- state ---- */

static const struct dp_field fields[] = {
    DP_FIELD_U8(struct fdc_regs, dor, 1, DOR_RUN | DOR_DMAGATE, 0),
    DP_FIELD_U8(struct fdc_regs, tdr, 2, 0, 3),
    DP_FIELD_U8(struct fdc_regs, rate, 3, 2, DSR_RATE),
    DP_FIELD_U8(struct fdc_regs, phase, 4, PHASE_COMMAND, 3),
    DP_FIELD_BYTES(struct fdc_regs, fifo, 5),
    DP_FIELD_U8(struct fdc_regs, at, 6, 0, 0x0f),
    DP_FIELD_U8(struct fdc_regs, length, 7, 0, 0x0f),
    DP_FIELD_BYTES(struct fdc_regs, specify, 8),
    DP_FIELD_U8(struct fdc_regs, config, 9, CONFIG_INITIAL, 0x7f),
    DP_FIELD_U8(struct fdc_regs, pretrack, 10, 0, 0),
    DP_FIELD_U8(struct fdc_regs, perpendicular, 11, 0, 0x3f),
    DP_FIELD_U8(struct fdc_regs, last_eot, 12, 0, 0),
    DP_FIELD_BOOL(struct fdc_regs, lock, 13, false),
    DP_FIELD_BOOL(struct fdc_regs, interrupt, 14, false),
    DP_FIELD_BYTES(struct fdc_regs, cylinder, 15),
    DP_FIELD_U8(struct fdc_regs, seeking, 16, 0, 0x0f),
    DP_FIELD_BYTES(struct fdc_regs, target, 17),
    DP_FIELD_U8(struct fdc_regs, sense, 18, 0, 0x0f),
    DP_FIELD_BYTES(struct fdc_regs, sense_st0, 19),
    DP_FIELD_U8(struct fdc_regs, reset_sense, 20, 0, 7),
    DP_FIELD_U8(struct fdc_regs, changed, 21, 3, 3),
    DP_FIELD_U8(struct fdc_regs, due_armed, 22, 0, (1 << DUES) - 1),
    DP_FIELD_ARRAY(struct fdc_regs, due, 23, DP_KIND_U64, 0, 0),
    DP_FIELD_U8(struct fdc_regs, exec, 24, X_NONE, 0x0f),
    DP_FIELD_U8(struct fdc_regs, command, 25, 0, COMMANDS - 1),
    DP_FIELD_U8(struct fdc_regs, options, 26, 0, (uint8_t)~(COMMANDS - 1)),
    DP_FIELD_U8(struct fdc_regs, unit, 27, 0, 3),
    DP_FIELD_U8(struct fdc_regs, head, 28, 0, 1),
    DP_FIELD_U8(struct fdc_regs, c, 29, 0, 0),
    DP_FIELD_U8(struct fdc_regs, h, 30, 0, 0),
    DP_FIELD_U8(struct fdc_regs, r, 31, 0, 0),
    DP_FIELD_U8(struct fdc_regs, n, 32, 0, 0),
    DP_FIELD_U8(struct fdc_regs, eot, 33, 0, 0),
    DP_FIELD_U8(struct fdc_regs, count, 34, 0, 0),
    DP_FIELD_U8(struct fdc_regs, filler, 35, 0, 0),
    DP_FIELD_BOOL(struct fdc_regs, counted, 36, false),
    DP_FIELD_BOOL(struct fdc_regs, terminal, 37, false),
    DP_FIELD_U8(struct fdc_regs, id, 38, 0, 0),
    DP_FIELD_U16(struct fdc_regs, position, 39, 0, 0x3ff),
    DP_FIELD_BYTES(struct fdc_regs, buffer, 40),
};

/* How many bytes a state's position may not reach. */
static unsigned position_end(const struct fdc_regs *r) { return r->exec == X_FORMAT_ID ? 4 : SECTOR; }

static int fdc_check(const void *regs, struct dp_error *e)
{
    const struct fdc_regs *r = regs;
    bool idle = !r->at && !r->length;
    if (r->phase > PHASE_RESULT || r->exec >= X_COUNT || (r->phase == PHASE_EXECUTION) != (r->exec != X_NONE) ||
        (r->phase != PHASE_EXECUTION && r->at >= r->length && !(r->phase == PHASE_COMMAND && idle)) || r->reset_sense > UNITS ||
        (r->phase == PHASE_COMMAND && !idle && (!r->at || r->length != commands[r->fifo[0] & (COMMANDS - 1)].length)) ||
        r->position >= position_end(r))
        return dp_error_set(e, -EINVAL, "fdc: no command gets into this state (phase %u, execution %u, byte %u of %u)", r->phase, r->exec,
                            r->at, r->length);
    return 0;
}

static void fdc_clamp(void *regs)
{
    struct fdc_regs *r = regs;
    r->phase %= PHASE_RESULT + 1;
    r->exec = r->phase == PHASE_EXECUTION ? (uint8_t)(1 + r->exec % (X_COUNT - 1)) : X_NONE;
    r->reset_sense %= UNITS + 1;
    r->position = (uint16_t)(r->position % position_end(r));
    if (r->phase == PHASE_RESULT) {
        r->length = r->length ? r->length : 1;
        r->at %= r->length;
    } else if (r->phase == PHASE_COMMAND) {
        r->length = commands[r->fifo[0] & (COMMANDS - 1)].length;
        r->at = r->length > 1 ? (uint8_t)(1 + r->at % (r->length - 1)) : 0;
        r->length = r->at ? r->length : 0;
    }
}

static const struct dp_state_table state = DP_STATE_TABLE(struct fdc_regs, "fdc", fields, .check = fdc_check, .clamp = fdc_clamp);

/* ---- drives and life ---- */

static const char *const drive_names[] = {"auto", "none", "360K", "1.2M", "720K", "1.44M", "2.88M", NULL};
static const struct dp_property properties[] = {
    {"drive0", "kind of the first floppy drive; auto: one that takes its disk", DP_PROP_ENUM,
     offsetof(struct fdc, drive[0].wanted), 0, 0, 0, drive_names},
    {"drive1", "kind of the second floppy drive; auto: one that takes its disk", DP_PROP_ENUM,
     offsetof(struct fdc, drive[1].wanted), 0, 0, 0, drive_names},
};

void dp_fdc_wire(struct dp_device *d, struct dp_irq irq, struct dp_device *dma, unsigned channel)
{
    struct fdc *f = (struct fdc *)d;
    f->line.irq = irq;
    f->dma = dma;
    f->channel = channel;
    if (dma)
        dp_dma_listen(dma, channel, (struct dp_irq){dma_ready, f, 0});
}

void dp_fdc_attach(struct dp_device *d, unsigned n, struct dp_block *medium)
{
    if (n < DP_FDC_DRIVES)
        ((struct fdc *)d)->drive[n].medium = medium;
}

unsigned dp_fdc_drive_type(struct dp_device *d, unsigned n) { return n < DP_FDC_DRIVES ? ((struct fdc *)d)->drive[n].type : DP_FDC_NONE; }

/* Lock held, let go between; nothing of ours is in the block layer or on its way to memory when it returns. The caller has seen to it
 * that nothing new gets there. */
static void wait_for_io(struct fdc *f)
{
    while (f->in_flight || f->busy) {
        struct dp_block *busy[DP_FDC_DRIVES] = {f->drive[0].medium, f->drive[1].medium};
        pthread_mutex_unlock(&f->device.lock);
        for (unsigned i = 0; i < DP_FDC_DRIVES; i++)
            if (busy[i])
                dp_block_drain(busy[i]);
        sched_yield();
        pthread_mutex_lock(&f->device.lock);
    }
}

int dp_fdc_change_medium(struct dp_device *device, unsigned n, struct dp_block *medium, struct dp_error *e)
{
    struct fdc *f = (struct fdc *)device;
    struct dp_fdc_geometry g = {0};
    if (n >= DP_FDC_DRIVES || f->drive[n].type == DP_FDC_NONE)
        return dp_error_set(e, -EINVAL, "%s has no drive %u", device->id, n);
    int rc = medium ? dp_fdc_geometry(dp_block_size(medium), f->drive[n].type, &g, e) : 0;
    if (rc)
        return dp_error_prefix(e, rc, "%s, drive %u", device->id, n);
    pthread_mutex_lock(&device->lock);
    f->changing = true;
    wait_for_io(f);
    f->drive[n].medium = medium;
    f->drive[n].geometry = g;
    f->regs.changed |= (uint8_t)(1u << n);
    f->changing = false;
    pthread_mutex_unlock(&device->lock);
    work(f);
    return 0;
}

static int fdc_init(struct dp_device *device, struct dp_error *e)
{
    struct fdc *f = (struct fdc *)device;
    for (unsigned i = 0; i < DP_FDC_DRIVES; i++) {
        struct drive *d = &f->drive[i];
        d->type = d->wanted ? (enum dp_fdc_type)(d->wanted - 1) : DP_FDC_NONE;
        if (!d->medium)
            continue;
        if (d->wanted && d->type == DP_FDC_NONE)
            return dp_error_set(e, -EINVAL, "drive%u is none, but has a disk", i);
        int rc = dp_fdc_geometry(dp_block_size(d->medium), d->type, &d->geometry, e);
        if (rc)
            return dp_error_prefix(e, rc, "drive%u", i);
        if (!d->wanted)
            d->type = d->geometry.drive;
    }
    dp_edge_line_forget(&f->line);
    dp_timer_init(&f->timer, device->env->clock, timer_due, f);
    return 0;
}

static void pause_(struct dp_device *d)
{
    struct fdc *f = (struct fdc *)d;
    pthread_mutex_lock(&d->lock);
    f->running = false;
    wait_for_io(f);
    pthread_mutex_unlock(&d->lock);
}

static void fdc_fini(struct dp_device *d)
{
    struct fdc *f = (struct fdc *)d;
    pause_(d);
    dp_timer_fini(&f->timer);
}

/* The registers are others. */
static void replaced(struct dp_device *d)
{
    struct fdc *f = (struct fdc *)d;
    pthread_mutex_lock(&d->lock);
    f->epoch++;
    dp_edge_line_forget(&f->line);
    arm(f);
    pthread_mutex_unlock(&d->lock);
    work(f);
}

static void resume(struct dp_device *d)
{
    struct fdc *f = (struct fdc *)d;
    pthread_mutex_lock(&d->lock);
    f->running = true;
    arm(f); /* it may have fired in vain */
    pthread_mutex_unlock(&d->lock);
    work(f);
}

static const struct dp_window_ops ops = {.name = "fdc", .read = fdc_read, .write = fdc_write, .min_size = 1, .max_size = 1};
static const struct dp_window_ops dir_ops = {.name = "fdc-dir", .read = dir_read, .write = ccr_write, .min_size = 1, .max_size = 1};
static const struct dp_window_spec windows[] = {
    [DP_FDC_WINDOW] = {"registers", PORTS, &ops, true},
    [DP_FDC_WINDOW_DIR] = {"dir", 1, &dir_ops, true},
};

const struct dp_device_class dp_fdc_class = {
    .name = "fdc",
    .summary = "82077AA floppy disk controller",
    .size = sizeof(struct fdc),
    .regs_offset = offsetof(struct fdc, regs),
    .state = &state,
    .properties = properties,
    .property_count = DP_ARRAY_LEN(properties),
    .windows = windows,
    .window_count = DP_ARRAY_LEN(windows),
    .init = fdc_init,
    .fini = fdc_fini,
    .reset = replaced,
    .pause = pause_,
    .resume = resume,
    .post_load = replaced,
};
