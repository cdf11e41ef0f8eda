/* ide.c - the channels, the bus master and the life of the controller; model and sources in ide.h and drive.h.
 *
 * Locks and calls out: registers change under the device's lock; settle(), called at the end of every entry without it, starts what
 * the drives wait for (dp_block_submit) and drives the interrupt lines. The lines are ISA ones, where the edge counts, so a fall is
 * kept until it was driven (edge_line.h). Guest memory is reached by pins only.
 * Bus master: a region table entry is fetched when the one before is used up. A request takes whole sectors; what is left of a region
 * stays in the registers. The table ending too early clears BM_ACTIVE without an interrupt (SFF-8038i 3.1); a table or region that is
 * no RAM sets BM_ERROR and aborts the drive's command, which stands for the target abort.
 */
#include "devices/edge_line.h"
#include "devices/storage/ide.h"

#include "devices/storage/drive.h"

enum { REG_DATA, REG_ERROR, REG_FEATURE = REG_ERROR, REG_COUNT, REG_LOW, REG_MID, REG_HIGH, REG_DEVICE, REG_STATUS,
       REG_COMMAND = REG_STATUS, REGS };
enum { FLOATING = 0x7f, FLOATING_DATA = 0xff7f };
enum { CMD_DEVICE_RESET = 0x08, CMD_DIAGNOSTIC = 0x90 };
/* Bus master command and status */
enum { BM_START = 0x01, BM_READ = 0x08, BM_ACTIVE = 0x01, BM_ERROR = 0x02, BM_INTR = 0x04, BM_CAPABLE = 0x60 };
enum { BM_SIZE = 16, BM_REG_COMMAND = 0, BM_REG_STATUS = 2, BM_REG_PRD = 4, PRD_SIZE = 8 };
#define PRD_END 0x80000000u
/* PIIX3 configuration registers: timings, kept for who wrote them. The ports are decoded always; so the enable bits are set from the
 * start, which firmware would do and drivers (Linux) look at. */
enum { PCI_IDETIM = 0x40, PCI_IDETIM_SIZE = 5 };
#define IDETIM_ENABLED 0x80008000u

/* ---- state ---- */

struct ide_channel_regs {
    uint8_t device;  /* as last written: its DEV bit selects */
    uint8_t control; /* NIEN, SRST, HOB */
    uint8_t bm_command, bm_status;
    uint32_t bm_prd;
    /* the bus master's place: next table entry, and the rest of the region it is in */
    uint32_t prd_next, region, region_left;
    bool prd_end;    /* that region is the last */
};

struct ide_regs {
    struct dp_pci_regs pci;
    struct ide_channel_regs channel[2];
    struct ata_drive_regs drive[DP_IDE_DRIVES];
};

struct ide_channel {
    struct dp_edge_line line;
    uint32_t bm_epoch;            /* counts starts of the bus master */
};

struct ide {
    struct dp_device device;
    struct ide_regs regs;
    struct dp_pci_function function;
    struct ide_channel channel[2];
    struct ata_drive drive[DP_IDE_DRIVES];
    struct { /* of each drive, when its request was made */
        uint32_t epoch;           /* of the channel */
        struct ide_channel_regs before;
    } bm[DP_IDE_DRIVES];
    bool running;
};

static const struct dp_field channel_fields[] = {
    DP_FIELD_U8(struct ide_channel_regs, device, 1, 0, 0),
    DP_FIELD_U8(struct ide_channel_regs, control, 2, 0, 0),
    DP_FIELD_U8(struct ide_channel_regs, bm_command, 3, 0, BM_START | BM_READ),
    DP_FIELD_U8(struct ide_channel_regs, bm_status, 4, 0, BM_ACTIVE | BM_ERROR | BM_INTR | BM_CAPABLE),
    DP_FIELD_U32(struct ide_channel_regs, bm_prd, 5, 0, ~3u),
    DP_FIELD_U32(struct ide_channel_regs, prd_next, 6, 0, ~3u),
    DP_FIELD_U32(struct ide_channel_regs, region, 7, 0, 0),
    DP_FIELD_U32(struct ide_channel_regs, region_left, 8, 0, 0x1ffff),
    DP_FIELD_BOOL(struct ide_channel_regs, prd_end, 9, false),
};
static const struct dp_state_table channel_table = DP_STATE_TABLE(struct ide_channel_regs, "ide-channel", channel_fields);

static const struct dp_field ide_fields[] = {
    DP_FIELD_STRUCT(struct ide_regs, pci, 1, &dp_pci_regs_table),
    DP_FIELD_STRUCTS(struct ide_regs, channel, 2, &channel_table),
    DP_FIELD_STRUCTS(struct ide_regs, drive, 3, &drive_table),
};

/* A table's load calls its own check only. */
static int ide_check(const void *regs, struct dp_error *e)
{
    const struct ide_regs *r = regs;
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++) {
        int code = drive_check(&r->drive[i], e);
        if (code)
            return code;
    }
    return 0;
}

static void ide_clamp(void *regs)
{
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++)
        drive_clamp(&((struct ide_regs *)regs)->drive[i]);
}

static const struct dp_state_table ide_table = DP_STATE_TABLE(struct ide_regs, "ide", ide_fields, .check = ide_check, .clamp = ide_clamp);

/* ---- interrupts ---- */

static struct ide *ide_of(struct dp_device *d) { return DP_CONTAINER_OF(d, struct ide, device); }
static struct ide *ide_by(const struct ata_drive *d) { return ide_of(d->owner); }
static struct ide_channel_regs *channel_regs(struct ata_drive *d) { return &ide_by(d)->regs.channel[d->n / 2]; }

static struct ata_drive *selected(struct ide *ide, unsigned c)
{
    return &ide->drive[c * 2 + !!(ide->regs.channel[c].device & DEVICE_DEV)];
}

static bool line_level(struct ide *ide, unsigned c)
{
    struct ata_drive *d = selected(ide, c);
    return !(ide->regs.channel[c].control & NIEN) && d->kind && d->regs->intrq;
}

/* After anything that may have moved the line. */
static void line_moved(struct ide *ide, unsigned c, bool before)
{
    bool level = line_level(ide, c);
    dp_edge_line_note(&ide->channel[c].line, level);
    if (level && !before)
        ide->regs.channel[c].bm_status |= BM_INTR;
}

static void raise_line(struct ata_drive *d)
{
    d->regs->intrq = true;
    line_moved(ide_by(d), d->n / 2, false);
}

static void lower(struct ata_drive *d)
{
    d->regs->intrq = false;
    line_moved(ide_by(d), d->n / 2, true);
}

/* No lock held. */
static void irq_sync(struct ide *ide, unsigned c)
{
    pthread_mutex_lock(&ide->device.lock);
    while (ide->running && dp_edge_line_drive(&ide->channel[c].line, &ide->device.lock, line_level(ide, c)))
        ;
    pthread_mutex_unlock(&ide->device.lock);
}

/* ---- the bus master ---- */

static bool bm_ready(struct ata_drive *d)
{
    const struct ide_channel_regs *c = channel_regs(d);
    const struct ata_drive *other = &ide_by(d)->drive[d->n ^ 1];
    uint8_t other_phase = other->regs->phase;
    bool other_dma = other->kind && other_phase >= PHASE_DMA_READ && other_phase <= PHASE_DMA_BUFFER;
    bool taken = other_dma && (other->in_flight || selected(ide_by(d), d->n / 2) == other);
    return (c->bm_command & BM_START) && (c->bm_status & BM_ACTIVE) && !taken &&
           (dp_ld16(ide_by(d)->regs.pci.config + DP_PCI_COMMAND) & DP_PCI_COMMAND_MASTER);
}

/* Has c->region_left, or says why not. */
static enum gather bm_region(struct ide *ide, struct ide_channel_regs *c)
{
    struct dp_pin p;
    uint32_t entry[2];
    if (c->region_left)
        return GATHERED;
    if (c->prd_end)
        return TABLE_SHORT;
    if (!dp_space_pin(ide->device.env->memory, c->prd_next, PRD_SIZE, false, &p))
        return TABLE_BAD;
    bool whole = p.size >= PRD_SIZE;
    if (whole)
        memcpy(entry, p.host, PRD_SIZE);
    dp_space_unpin(ide->device.env->memory, &p, 0);
    if (!whole)
        return TABLE_BAD;
    c->prd_next += PRD_SIZE;
    c->region = entry[0] & ~1u;
    c->region_left = (entry[1] & 0xfffe) ? entry[1] & 0xfffe : 0x10000;
    c->prd_end = entry[1] & PRD_END;
    return GATHERED;
}

static void bm_move(struct ide_channel_regs *c, uint32_t bytes)
{
    c->region += bytes;
    c->region_left -= bytes;
}

static bool bm_pin(struct ide *ide, const struct ide_channel_regs *c, uint64_t want, bool for_write, struct dp_pin *p)
{
    want = DP_MIN(want, DP_MIN((uint64_t)c->region_left, (1ull << 32) - c->region));
    if (!dp_space_pin(ide->device.env->memory, c->region, want, for_write, p))
        return false;
    p->size = DP_MIN(p->size, want);
    return p->size;
}

static enum gather bm_gather(struct ata_drive *d, uint64_t want, bool for_write, uint64_t *size)
{
    struct ide *ide = ide_by(d);
    struct ide_channel_regs *c = channel_regs(d), whole = *c;
    uint32_t sector = drive_sector_size(d);
    enum gather result = GATHERED;
    unsigned whole_pins = 0;
    uint64_t total = 0;
    *size = 0;
    d->pin_count = 0;
    ide->bm[d->n].before = *c;
    ide->bm[d->n].epoch = ide->channel[d->n / 2].bm_epoch;
    while (total < want && (result = bm_region(ide_by(d), c)) == GATHERED) {
        uint64_t piece = DP_MIN((uint64_t)c->region_left, want - total), part = total % sector;
        piece = part || piece < sector ? DP_MIN(piece, sector - part) : piece - piece % sector; /* so that sectors end where pins do */
        if (d->pin_count == DRIVE_PINS || !bm_pin(ide_by(d), c, piece, for_write, &d->pin[d->pin_count])) {
            result = TABLE_BAD;
            break;
        }
        total += d->pin[d->pin_count].size;
        bm_move(c, (uint32_t)d->pin[d->pin_count++].size);
        if (total % sector == 0) {
            whole = *c;
            whole_pins = d->pin_count;
            *size = total;
        }
    }
    drive_unpin(d, whole_pins, false);
    *c = whole;
    return *size ? GATHERED : result;
}

static bool bm_same(struct ata_drive *d) { return ide_by(d)->bm[d->n].epoch == ide_by(d)->channel[d->n / 2].bm_epoch; }

static bool bm_rewind(struct ata_drive *d)
{
    struct ide_channel_regs *c = channel_regs(d);
    const struct ide_channel_regs *before = &ide_by(d)->bm[d->n].before;
    if (!bm_same(d))
        return false;
    c->prd_next = before->prd_next;
    c->region = before->region;
    c->region_left = before->region_left;
    c->prd_end = before->prd_end;
    return true;
}

static void bm_end(struct ata_drive *d)
{
    struct ide_channel_regs *c = channel_regs(d);
    if (c->prd_end && !c->region_left)
        c->bm_status &= ~BM_ACTIVE;
}

static void bm_failed(struct ata_drive *d, enum gather why)
{
    struct ide_channel_regs *c = channel_regs(d);
    c->bm_status &= ~BM_ACTIVE;
    dp_trace_guest(d->owner->env->trace, "%s: drive %u: DMA table at 0x%x %s", d->owner->id, d->n, c->bm_prd,
                   why == TABLE_SHORT ? "is shorter than the transfer" : "leads to what is no RAM");
    if (why == TABLE_SHORT)
        return; /* the drive waits for ever, as it would */
    c->bm_status |= BM_ERROR;
    if (d->kind == DRIVE_CDROM)
        atapi_sense(d, 0x0b, 0, 0); /* aborted command */
    else
        ata_fail(d, ABRT);
}

/* Data that are not sectors of an image, at once. */
static void bm_copy_buffer(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    struct ide_channel_regs *c = channel_regs(d);
    while (r->at < r->length) {
        enum gather g = bm_region(ide_by(d), c);
        struct dp_pin p;
        if (g == GATHERED && !bm_pin(ide_by(d), c, r->length - r->at, true, &p))
            g = TABLE_BAD;
        if (g != GATHERED) {
            bm_failed(d, g);
            return;
        }
        uint32_t n = (uint32_t)p.size;
        memcpy(p.host, r->buffer + r->at, n);
        dp_space_unpin(ide_by(d)->device.env->memory, &p, n);
        bm_move(c, n);
        r->at += n;
        r->stop = DP_MAX(r->stop, r->at);
    }
    bm_end(d);
    if (d->kind == DRIVE_CDROM)
        atapi_complete(d);
    else
        drive_complete(d);
}

static void bm_sectors_end(struct ata_drive *d)
{
    if (bm_same(d))
        bm_end(d);
}

static bool held_in_reset(struct ata_drive *d) { return channel_regs(d)->control & SRST; }

/* No lock held: starts what can be started, then drives the lines. */
static void settle(struct ide *ide)
{
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++) {
        struct ata_drive *d = &ide->drive[i];
        pthread_mutex_lock(&ide->device.lock);
        bool submit = drive_step(d);
        struct dp_block *block = d->block;
        pthread_mutex_unlock(&ide->device.lock);
        if (submit)
            dp_block_submit(block, &d->io);
    }
    irq_sync(ide, 0);
    irq_sync(ide, 1);
}

static void settle_owner(struct dp_device *owner) { settle(ide_of(owner)); }

static const struct drive_host ide_host = {
    .raise = raise_line,
    .dma_ready = bm_ready,
    .dma_gather = bm_gather,
    .dma_rewind = bm_rewind,
    .dma_failed = bm_failed,
    .dma_buffer = bm_copy_buffer,
    .dma_end = bm_sectors_end,
    .in_reset = held_in_reset,
    .settle = settle_owner,
};

/* ---- the command block; lock held ---- */

static void reset_drive(struct ata_drive *d)
{
    if (!d->kind)
        return;
    drive_reset(d);
    lower(d);
}

static uint8_t read_register(struct ide *ide, unsigned c, unsigned reg)
{
    struct ata_drive *d = selected(ide, c), *answers = d;
    unsigned hob = ide->regs.channel[c].control & HOB ? 1 : 0;
    if (!d->kind && d->n % 2)
        answers = &ide->drive[d->n ^ 1];
    if (!answers->kind)
        return FLOATING;
    struct ata_drive_regs *r = answers->regs;
    if (reg == REG_STATUS) {
        if (answers != d)
            return 0;
        lower(d);
        return r->status;
    }
    if (r->status & BSY)
        return r->status;
    switch (reg) {
    case REG_ERROR: return r->error;
    case REG_COUNT: return r->count[hob];
    case REG_LOW: return r->low[hob];
    case REG_MID: return r->mid[hob];
    case REG_HIGH: return r->high[hob];
    default: return (r->device & ~DEVICE_DEV) | (ide->regs.channel[c].device & DEVICE_DEV) | DEVICE_OBSOLETE;
    }
}

static uint8_t alternate_status(struct ide *ide, unsigned c)
{
    struct ata_drive *d = selected(ide, c);
    return d->kind ? d->regs->status : d->n % 2 && ide->drive[d->n ^ 1].kind ? 0 : FLOATING;
}

static void push(uint8_t fifo[2], uint8_t v)
{
    fifo[1] = fifo[0];
    fifo[0] = v;
}

static void diagnostic(struct ide *ide, unsigned c)
{
    ide->regs.channel[c].device = 0;
    for (unsigned i = 0; i < 2; i++) {
        struct ata_drive *d = &ide->drive[c * 2 + i];
        if (d->in_flight)
            reset_drive(d);
        else if (d->kind)
            drive_signature(d);
        if (d->kind)
            lower(d);
    }
    if (ide->drive[c * 2].kind)
        raise_line(&ide->drive[c * 2]);
}

static void write_command(struct ide *ide, unsigned c, uint8_t v)
{
    struct ata_drive *d = selected(ide, c);
    struct ata_drive_regs *r = d->regs;
    if (d->kind == DRIVE_CDROM && v == CMD_DEVICE_RESET) { /* busy or not */
        reset_drive(d);
        return;
    }
    bool busy = d->kind && (r->status & BSY);
    if (!busy && v == CMD_DIAGNOSTIC && (ide->drive[c * 2].kind || ide->drive[c * 2 + 1].kind)) {
        diagnostic(ide, c);
        return;
    }
    if (!d->kind)
        return;
    if (busy) {
        dp_trace_guest(ide->device.env->trace, "%s: drive %u: command 0x%02x while busy with 0x%02x", ide->device.id, d->n, v, r->command);
        return;
    }
    lower(d);
    drive_command(d, v);
}

static void write_register(struct ide *ide, unsigned c, unsigned reg, uint8_t v)
{
    struct ide_channel_regs *ch = &ide->regs.channel[c];
    ch->control &= ~HOB;
    if (reg == REG_COMMAND) {
        write_command(ide, c, v);
        return;
    }
    bool before = line_level(ide, c);
    if (reg == REG_DEVICE)
        ch->device = v;
    for (unsigned i = 0; i < 2; i++) {
        struct ata_drive_regs *r = &ide->regs.drive[c * 2 + i];
        if (!ide->drive[c * 2 + i].kind || (r->status & BSY))
            continue;
        switch (reg) {
        case REG_FEATURE: push(r->feature, v); break;
        case REG_COUNT: push(r->count, v); break;
        case REG_LOW: push(r->low, v); break;
        case REG_MID: push(r->mid, v); break;
        case REG_HIGH: push(r->high, v); break;
        default: r->device = v; break;
        }
    }
    line_moved(ide, c, before);
}

static void write_control(struct ide *ide, unsigned c, uint8_t v)
{
    struct ide_channel_regs *ch = &ide->regs.channel[c];
    bool before = line_level(ide, c), reset = v & ~ch->control & SRST;
    ch->control = v;
    if (reset) {
        ch->device = 0;
        reset_drive(&ide->drive[c * 2]);
        reset_drive(&ide->drive[c * 2 + 1]);
    }
    line_moved(ide, c, before);
}

/* The data port. *done: the block is, and things go on. */
static uint32_t read_data(struct ide *ide, unsigned c, unsigned size, bool *done)
{
    struct ata_drive *d = selected(ide, c);
    struct ata_drive_regs *r = d->regs;
    uint32_t value = 0;
    if (!d->kind)
        return ide->drive[d->n ^ 1].kind && d->n % 2 ? 0 : FLOATING_DATA;
    if (r->phase != PHASE_IN || d->in_flight)
        return 0;
    uint32_t n = DP_MIN(size, r->stop - r->at);
    memcpy(&value, r->buffer + r->at, n);
    r->at += n;
    *done = r->at == r->stop;
    if (*done)
        drive_block_done(d);
    return value;
}

static void write_data(struct ide *ide, unsigned c, uint32_t value, unsigned size, bool *done)
{
    struct ata_drive *d = selected(ide, c);
    struct ata_drive_regs *r = d->regs;
    if (!d->kind || d->in_flight || (r->phase != PHASE_OUT && r->phase != PHASE_PACKET))
        return;
    uint32_t n = DP_MIN(size, r->stop - r->at);
    memcpy(r->buffer + r->at, &value, n);
    r->at += n;
    *done = r->at == r->stop;
    if (*done)
        drive_block_done(d);
}

/* ---- ports; no lock held ---- */

static uint64_t command_block_read(struct ide *ide, unsigned c, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    bool work = false;
    pthread_mutex_lock(&ide->device.lock);
    if (offset == REG_DATA) {
        value = read_data(ide, c, size, &work);
    } else {
        bool before = line_level(ide, c);
        for (unsigned i = 0; i < size && offset + i < REGS; i++)
            value |= (uint64_t)read_register(ide, c, offset + i) << i * 8;
        work = before && !line_level(ide, c);
    }
    pthread_mutex_unlock(&ide->device.lock);
    if (work)
        settle(ide);
    return value;
}

static void command_block_write(struct ide *ide, unsigned c, uint64_t offset, uint64_t value, unsigned size)
{
    bool work = false;
    pthread_mutex_lock(&ide->device.lock);
    if (offset == REG_DATA) {
        write_data(ide, c, (uint32_t)value, size, &work);
    } else {
        for (unsigned i = 0; i < size && offset + i < REGS; i++)
            write_register(ide, c, offset + i, (uint8_t)(value >> i * 8));
        work = offset + size > REG_DEVICE;
    }
    pthread_mutex_unlock(&ide->device.lock);
    if (work)
        settle(ide);
}

static uint64_t control_read(struct ide *ide, unsigned c)
{
    pthread_mutex_lock(&ide->device.lock);
    uint8_t v = alternate_status(ide, c);
    pthread_mutex_unlock(&ide->device.lock);
    return v;
}

static void control_write(struct ide *ide, unsigned c, uint64_t value)
{
    pthread_mutex_lock(&ide->device.lock);
    write_control(ide, c, (uint8_t)value);
    pthread_mutex_unlock(&ide->device.lock);
    settle(ide);
}

static uint64_t primary_read(void *o, uint64_t offset, unsigned size) { return command_block_read(o, 0, offset, size); }
static uint64_t secondary_read(void *o, uint64_t offset, unsigned size) { return command_block_read(o, 1, offset, size); }
static void primary_write(void *o, uint64_t offset, uint64_t v, unsigned size) { command_block_write(o, 0, offset, v, size); }
static void secondary_write(void *o, uint64_t offset, uint64_t v, unsigned size) { command_block_write(o, 1, offset, v, size); }
static uint64_t primary_control_read(void *o, uint64_t offset, unsigned size) { return control_read(o, 0); }
static uint64_t secondary_control_read(void *o, uint64_t offset, unsigned size) { return control_read(o, 1); }
static void primary_control_write(void *o, uint64_t offset, uint64_t v, unsigned size) { control_write(o, 0, v); }
static void secondary_control_write(void *o, uint64_t offset, uint64_t v, unsigned size) { control_write(o, 1, v); }

static uint64_t bm_read(void *opaque, uint64_t offset, unsigned size)
{
    struct ide *ide = opaque;
    uint64_t value = 0;
    pthread_mutex_lock(&ide->device.lock);
    for (unsigned i = 0; i < size && offset + i < BM_SIZE; i++) {
        const struct ide_channel_regs *c = &ide->regs.channel[(offset + i) / 8];
        unsigned reg = (offset + i) % 8;
        uint8_t v = reg == BM_REG_COMMAND ? c->bm_command : reg == BM_REG_STATUS ? c->bm_status
                    : reg >= BM_REG_PRD ? c->bm_prd >> (reg - BM_REG_PRD) * 8 : 0;
        value |= (uint64_t)v << i * 8;
    }
    pthread_mutex_unlock(&ide->device.lock);
    return value;
}

static void bm_write_command(struct ide *ide, unsigned n, uint8_t v)
{
    struct ide_channel_regs *c = &ide->regs.channel[n];
    bool was = c->bm_command & BM_START;
    c->bm_command = v & (BM_START | BM_READ);
    if (!(v & BM_START)) {
        c->bm_status &= ~BM_ACTIVE;
    } else if (!was) {
        c->bm_status |= BM_ACTIVE;
        c->prd_next = c->bm_prd;
        c->region_left = 0;
        c->prd_end = false;
        ide->channel[n].bm_epoch++;
    }
}

static void bm_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct ide *ide = opaque;
    pthread_mutex_lock(&ide->device.lock);
    for (unsigned i = 0; i < size && offset + i < BM_SIZE; i++) {
        struct ide_channel_regs *c = &ide->regs.channel[(offset + i) / 8];
        unsigned reg = (offset + i) % 8, shift = (reg % 4) * 8;
        uint8_t v = (uint8_t)(value >> i * 8);
        if (reg == BM_REG_COMMAND)
            bm_write_command(ide, (offset + i) / 8, v);
        else if (reg == BM_REG_STATUS)
            c->bm_status = (c->bm_status & (BM_ACTIVE | ((BM_ERROR | BM_INTR) & ~v))) | (v & BM_CAPABLE);
        else if (reg >= BM_REG_PRD)
            c->bm_prd = ((c->bm_prd & ~(0xffu << shift)) | (uint32_t)v << shift) & ~3u;
    }
    pthread_mutex_unlock(&ide->device.lock);
    settle(ide);
}

static const struct dp_window_ops primary_ops = { "ide-primary", primary_read, primary_write, 1, 4 };
static const struct dp_window_ops secondary_ops = { "ide-secondary", secondary_read, secondary_write, 1, 4 };
static const struct dp_window_ops primary_control_ops = { "ide-primary-control", primary_control_read, primary_control_write, 1, 1 };
static const struct dp_window_ops secondary_control_ops = { "ide-secondary-control", secondary_control_read, secondary_control_write,
                                                            1, 1 };
static const struct dp_window_ops bm_ops = { "ide-bus-master", bm_read, bm_write, 1, 4 };

static const struct dp_window_spec ide_windows[] = {
    [DP_IDE_WINDOW_PRIMARY] = { "primary", REGS, &primary_ops, true },
    [DP_IDE_WINDOW_PRIMARY_CONTROL] = { "primary-control", 1, &primary_control_ops, true },
    [DP_IDE_WINDOW_SECONDARY] = { "secondary", REGS, &secondary_ops, true },
    [DP_IDE_WINDOW_SECONDARY_CONTROL] = { "secondary-control", 1, &secondary_control_ops, true },
    [DP_IDE_WINDOW_BUS_MASTER] = { "bus-master", BM_SIZE, &bm_ops, true },
};

/* ---- life ---- */

static void config_changed(struct dp_pci_function *f) { settle(DP_CONTAINER_OF(f, struct ide, function)); }

static int ide_init(struct dp_device *device, struct dp_error *e)
{
    struct ide *ide = ide_of(device);
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++) {
        struct ata_drive *d = &ide->drive[i];
        d->host = &ide_host;
        d->owner = device;
        d->running = &ide->running;
        d->regs = &ide->regs.drive[i];
        d->n = i;
        int code = drive_init(d, e);
        if (code) {
            while (i)
                drive_fini(&ide->drive[--i]);
            return code;
        }
    }
    for (unsigned c = 0; c < 2; c++)
        dp_edge_line_forget(&ide->channel[c].line);
    const struct dp_pci_id id = { .vendor = 0x8086, .device = 0x7010, .class_code = 0x010180, .subsystem_vendor = 0x1af4,
                                  .subsystem = 0x1100 };
    dp_pci_function_init(&ide->function, &ide->regs.pci, &id, device->env, &device->lock);
    dp_pci_set_config(&ide->function, DP_PCI_STATUS, 0x0280, 2); /* medium DEVSEL timing, fast back-to-back */
    dp_pci_add_bar(&ide->function, DP_IDE_BAR, BM_SIZE, true, false, &bm_ops, ide);
    dp_pci_set_config(&ide->function, PCI_IDETIM, IDETIM_ENABLED, 4);
    memset(ide->function.write_mask + PCI_IDETIM, 0xff, PCI_IDETIM_SIZE);
    ide->function.config_changed = config_changed;
    return 0;
}

static void ide_pause(struct dp_device *device)
{
    struct ide *ide = ide_of(device);
    pthread_mutex_lock(&device->lock);
    ide->running = false;
    pthread_mutex_unlock(&device->lock);
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++)
        drive_drain(&ide->drive[i]);
}

static void ide_resume(struct dp_device *device)
{
    struct ide *ide = ide_of(device);
    pthread_mutex_lock(&device->lock);
    ide->running = true;
    pthread_mutex_unlock(&device->lock);
    settle(ide);
}

static void ide_fini(struct dp_device *device)
{
    struct ide *ide = ide_of(device);
    dp_pci_unplug(&ide->function);
    ide_pause(device); /* nothing may come back to us after this */
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++)
        drive_fini(&ide->drive[i]);
}

static void ide_reset(struct dp_device *device)
{
    struct ide *ide = ide_of(device);
    pthread_mutex_lock(&device->lock);
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++)
        ide->drive[i].stale = ide->drive[i].in_flight;
    pthread_mutex_unlock(&device->lock);
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++)
        drive_drain(&ide->drive[i]);
    pthread_mutex_lock(&device->lock);
    dp_state_reset(&ide_table, &ide->regs);
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++)
        drive_power_on(&ide->drive[i]);
    for (unsigned c = 0; c < 2; c++)
        dp_edge_line_forget(&ide->channel[c].line);
    pthread_mutex_unlock(&device->lock);
    dp_pci_function_reset(&ide->function);
}

static void ide_post_load(struct dp_device *device)
{
    struct ide *ide = ide_of(device);
    pthread_mutex_lock(&device->lock);
    for (unsigned c = 0; c < 2; c++)
        dp_edge_line_forget(&ide->channel[c].line);
    pthread_mutex_unlock(&device->lock);
    dp_pci_function_post_load(&ide->function);
    settle(ide);
}

const struct dp_device_class dp_ide_class = {
    .name = "ide-piix3",
    .summary = "IDE controller (PIIX3) with disks and CD-ROM drives",
    .size = sizeof(struct ide),
    .regs_offset = offsetof(struct ide, regs),
    .state = &ide_table,
    .windows = ide_windows,
    .window_count = DP_ARRAY_LEN(ide_windows),
    .init = ide_init,
    .fini = ide_fini,
    .reset = ide_reset,
    .pause = ide_pause,
    .resume = ide_resume,
    .post_load = ide_post_load,
};

/* ---- wiring ---- */

void dp_ide_wire(struct dp_device *d, const struct dp_irq irq[2])
{
    ide_of(d)->channel[0].line.irq = irq[0];
    ide_of(d)->channel[1].line.irq = irq[1];
}

static void attach(struct dp_device *device, unsigned n, enum drive_kind kind, struct dp_block *block, const char *serial)
{
    struct ata_drive *d = &ide_of(device)->drive[n];
    d->kind = kind;
    d->block = block;
    d->serial = serial;
}

void dp_ide_attach_disk(struct dp_device *d, unsigned n, struct dp_block *block, const char *serial)
{
    attach(d, n, DRIVE_DISK, block, serial);
}

void dp_ide_attach_cdrom(struct dp_device *d, unsigned n, struct dp_block *block) { attach(d, n, DRIVE_CDROM, block, NULL); }
struct dp_pci_function *dp_ide_function(struct dp_device *d) { return &ide_of(d)->function; }

int dp_ide_change_medium(struct dp_device *device, unsigned n, struct dp_block *block, struct dp_error *e)
{
    struct ide *ide = ide_of(device);
    if (n >= DP_IDE_DRIVES || ide->drive[n].kind != DRIVE_CDROM)
        return dp_error_set(e, -EINVAL, "%s: drive %u is no CD-ROM drive", device->id, n);
    return drive_change_medium(&ide->drive[n], block, e);
}

bool dp_ide_tray_open(struct dp_device *device, unsigned n)
{
    pthread_mutex_lock(&device->lock);
    bool open = n < DP_IDE_DRIVES && ide_of(device)->regs.drive[n].tray_open;
    pthread_mutex_unlock(&device->lock);
    return open;
}
