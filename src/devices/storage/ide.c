/* ide.c - the channels, the bus master and the life of the controller; model and sources in ide.h and ide_internal.h.
 *
 * Locks and calls out: registers change under the device's lock; settle(), called at the end of every entry without it, starts what
 * the drives wait for (dp_block_submit) and drives the interrupt lines. The lines are ISA ones, where the edge counts, so a fall is
 * kept until it was driven (irq_fell, as in uart.c). Guest memory is reached by pins only.
 * Bus master: a region table entry is fetched when the one before is used up. A request takes whole sectors; what is left of a region
 * stays in the registers. The table ending too early clears BM_ACTIVE without an interrupt (SFF-8038i 3.1); a table or region that is
 * no RAM sets BM_ERROR and aborts the drive's command, which stands for the target abort.
 */
#include "devices/storage/ide_internal.h"

#include <sched.h>
#include <stdlib.h>

enum { REG_DATA, REG_ERROR, REG_FEATURE = REG_ERROR, REG_COUNT, REG_LOW, REG_MID, REG_HIGH, REG_DEVICE, REG_STATUS,
       REG_COMMAND = REG_STATUS, REGS };
enum { FLOATING = 0x7f, FLOATING_DATA = 0xff7f };
enum { CMD_DEVICE_RESET = 0x08, CMD_DIAGNOSTIC = 0x90 };
enum { BM_SIZE = 16, BM_REG_COMMAND = 0, BM_REG_STATUS = 2, BM_REG_PRD = 4, PRD_SIZE = 8 };
#define PRD_END 0x80000000u
/* PIIX3 configuration registers: timings, kept for who wrote them. The ports are decoded always; so the enable bits are set from the
 * start, which firmware would do and drivers (Linux) look at. */
enum { PCI_IDETIM = 0x40, PCI_IDETIM_SIZE = 5 };
#define IDETIM_ENABLED 0x80008000u

/* ---- state ---- */

static const struct dp_field drive_fields[] = {
    DP_FIELD_ARRAY(struct ide_drive_regs, feature, 1, DP_KIND_U8, 0, 0),
    DP_FIELD_ARRAY(struct ide_drive_regs, count, 2, DP_KIND_U8, 0, 0),
    DP_FIELD_ARRAY(struct ide_drive_regs, low, 3, DP_KIND_U8, 0, 0),
    DP_FIELD_ARRAY(struct ide_drive_regs, mid, 4, DP_KIND_U8, 0, 0),
    DP_FIELD_ARRAY(struct ide_drive_regs, high, 5, DP_KIND_U8, 0, 0),
    DP_FIELD_U8(struct ide_drive_regs, device, 6, 0, 0),
    DP_FIELD_U8(struct ide_drive_regs, status, 7, 0, 0),
    DP_FIELD_U8(struct ide_drive_regs, error, 8, 0, 0),
    DP_FIELD_U8(struct ide_drive_regs, command, 9, 0, 0),
    DP_FIELD_BOOL(struct ide_drive_regs, intrq, 10, false),
    DP_FIELD_U8(struct ide_drive_regs, multiple, 11, IDE_MULTIPLE_MAX, 0x1f),
    DP_FIELD_U8(struct ide_drive_regs, heads, 12, 16, 0x1f),
    DP_FIELD_U8(struct ide_drive_regs, sectors_track, 13, 63, 0),
    DP_FIELD_U8(struct ide_drive_regs, transfer_mode, 14, 0, 0),
    DP_FIELD_BOOL(struct ide_drive_regs, write_cache, 15, true),
    DP_FIELD_U8(struct ide_drive_regs, sense_key, 16, 0, 0x0f),
    DP_FIELD_U8(struct ide_drive_regs, asc, 17, 0, 0),
    DP_FIELD_U8(struct ide_drive_regs, ascq, 18, 0, 0),
    DP_FIELD_BOOL(struct ide_drive_regs, attention, 19, false),
    DP_FIELD_BOOL(struct ide_drive_regs, tray_open, 20, false),
    DP_FIELD_BOOL(struct ide_drive_regs, locked, 21, false),
    DP_FIELD_U8(struct ide_drive_regs, event, 22, 0, 7),
    DP_FIELD_U8(struct ide_drive_regs, phase, 23, 0, 0x0f),
    DP_FIELD_BOOL(struct ide_drive_regs, ext, 24, false),
    DP_FIELD_BOOL(struct ide_drive_regs, careful, 25, false),
    DP_FIELD_BOOL(struct ide_drive_regs, flush_after, 26, false),
    DP_FIELD_U64(struct ide_drive_regs, lba, 27, 0, (1ull << 48) - 1),
    DP_FIELD_U32(struct ide_drive_regs, sectors, 28, 0, 0),
    DP_FIELD_U32(struct ide_drive_regs, unit, 29, 0, 0xffff),
    DP_FIELD_U32(struct ide_drive_regs, at, 30, 0, 0xffff),
    DP_FIELD_U32(struct ide_drive_regs, stop, 31, 0, 0xffff),
    DP_FIELD_U32(struct ide_drive_regs, length, 32, 0, 0xffff),
    DP_FIELD_BYTES(struct ide_drive_regs, packet, 33),
    DP_FIELD_BYTES(struct ide_drive_regs, buffer, 34),
};

static int drive_check(const void *regs, struct dp_error *e)
{
    const struct ide_drive_regs *r = regs;
    if (r->phase >= PHASES || r->at > r->stop || r->stop > r->length || r->length > IDE_BUFFER)
        return dp_error_set(e, -EINVAL, "ide: a drive at phase %u, place %u of %u of %u bytes", r->phase, r->at, r->stop, r->length);
    return 0;
}

static void drive_clamp(void *regs)
{
    struct ide_drive_regs *r = regs;
    r->phase %= PHASES;
    r->length %= IDE_BUFFER + 1;
    r->stop %= r->length + 1;
    r->at %= r->stop + 1;
}

static const struct dp_state_table drive_table =
    DP_STATE_TABLE(struct ide_drive_regs, "ide-drive", drive_fields);

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
static struct ide_channel_regs *channel_regs(struct ide_drive *d) { return &d->ide->regs.channel[d->n / 2]; }

static struct ide_drive *selected(struct ide *ide, unsigned c)
{
    return &ide->drive[c * 2 + !!(ide->regs.channel[c].device & DEVICE_DEV)];
}

static bool line_level(struct ide *ide, unsigned c)
{
    struct ide_drive *d = selected(ide, c);
    return !(ide->regs.channel[c].control & NIEN) && d->kind && ide_regs_of(d)->intrq;
}

/* After anything that may have moved the line. */
static void line_moved(struct ide *ide, unsigned c, bool before)
{
    bool level = line_level(ide, c);
    ide->channel[c].irq_fell |= !level;
    if (level && !before)
        ide->regs.channel[c].bm_status |= BM_INTR;
}

void ide_raise(struct ide_drive *d)
{
    ide_regs_of(d)->intrq = true;
    line_moved(d->ide, d->n / 2, false);
}

static void lower(struct ide_drive *d)
{
    ide_regs_of(d)->intrq = false;
    line_moved(d->ide, d->n / 2, true);
}

/* No lock held. */
static void irq_sync(struct ide *ide, unsigned c)
{
    struct ide_channel *ch = &ide->channel[c];
    pthread_mutex_lock(&ide->device.lock);
    while (ide->running && !ch->irq_busy) {
        bool level = line_level(ide, c) && !(ch->irq_fell && ch->irq_driven);
        if (level == ch->irq_driven)
            break;
        ch->irq_fell = false;
        ch->irq_driven = level;
        ch->irq_busy = true;
        pthread_mutex_unlock(&ide->device.lock);
        dp_irq_set(&ch->irq, level);
        pthread_mutex_lock(&ide->device.lock);
        ch->irq_busy = false;
    }
    pthread_mutex_unlock(&ide->device.lock);
}

/* ---- phases ---- */

static void drop_transfer(struct ide_drive_regs *r)
{
    r->phase = PHASE_IDLE;
    r->ext = r->careful = r->flush_after = false;
    r->sectors = r->at = r->stop = r->length = 0;
}

void ide_complete(struct ide_drive *d)
{
    struct ide_drive_regs *r = ide_regs_of(d);
    drop_transfer(r);
    r->status = DRDY | DSC;
    ide_raise(d);
}

void ide_busy(struct ide_drive *d, enum ide_phase phase)
{
    ide_regs_of(d)->phase = phase;
    ide_regs_of(d)->status = BSY | DRDY | DSC;
}

void ide_dma(struct ide_drive *d, enum ide_phase phase)
{
    ide_regs_of(d)->phase = phase;
    ide_regs_of(d)->status = DRDY | DSC | DRQ;
}

void ide_signature(struct ide_drive *d)
{
    struct ide_drive_regs *r = ide_regs_of(d);
    bool packet = d->kind == IDE_CDROM;
    drop_transfer(r);
    r->feature[0] = r->feature[1] = 0;
    r->count[0] = r->low[0] = 1;
    r->mid[0] = packet ? 0x14 : 0;
    r->high[0] = packet ? 0xeb : 0;
    r->count[1] = r->low[1] = r->mid[1] = r->high[1] = 0;
    r->device = 0;
    r->error = 1; /* diagnostics passed */
    r->status = packet ? 0 : DRDY | DSC;
}

/* A reset by software, with which requests in flight must be waited for. */
static void reset_drive(struct ide_drive *d)
{
    if (!d->kind)
        return;
    drop_transfer(ide_regs_of(d));
    ide_busy(d, PHASE_RESET);
    lower(d);
}

static void advance(struct ide_drive *d)
{
    if (d->kind == IDE_CDROM)
        ide_atapi_advance(d);
    else
        ide_ata_advance(d);
}

static void io_error(struct ide_drive *d, bool write)
{
    if (d->kind == IDE_CDROM)
        ide_atapi_io_error(d);
    else
        ide_ata_io_error(d, write);
}

/* ---- the bus master ---- */

enum gather { GATHERED, TABLE_SHORT, TABLE_BAD };

static bool bm_ready(struct ide_drive *d)
{
    const struct ide_channel_regs *c = channel_regs(d);
    const struct ide_drive *other = &d->ide->drive[d->n ^ 1];
    uint8_t other_phase = ide_regs_of((struct ide_drive *)other)->phase;
    bool other_dma = other->kind && other_phase >= PHASE_DMA_READ && other_phase <= PHASE_DMA_BUFFER;
    bool taken = other_dma && (other->in_flight || selected(d->ide, d->n / 2) == other);
    return (c->bm_command & BM_START) && (c->bm_status & BM_ACTIVE) && !taken &&
           (dp_ld16(d->ide->regs.pci.config + DP_PCI_COMMAND) & DP_PCI_COMMAND_MASTER);
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

static void unpin_from(struct ide_drive *d, unsigned first, bool written)
{
    for (unsigned i = first; i < d->pin_count; i++)
        dp_space_unpin(d->ide->device.env->memory, &d->pin[i], written ? d->pin[i].size : 0);
    d->pin_count = first;
}

/* Pins as many whole sectors of the regions as possible, `want` bytes at most, and moves the bus master past them. */
static enum gather bm_gather(struct ide_drive *d, uint64_t want, bool for_write, uint64_t *size)
{
    struct ide_channel_regs *c = channel_regs(d), whole = *c;
    uint32_t sector = ide_sector_size(d);
    enum gather result = GATHERED;
    unsigned whole_pins = 0;
    uint64_t total = 0;
    *size = 0;
    d->pin_count = 0;
    while (total < want && (result = bm_region(d->ide, c)) == GATHERED) {
        uint64_t piece = DP_MIN((uint64_t)c->region_left, want - total), part = total % sector;
        piece = part || piece < sector ? DP_MIN(piece, sector - part) : piece - piece % sector; /* so that sectors end where pins do */
        if (d->pin_count == IDE_PINS || !bm_pin(d->ide, c, piece, for_write, &d->pin[d->pin_count])) {
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
    unpin_from(d, whole_pins, false);
    *c = whole;
    return *size ? GATHERED : result;
}

static void bm_end(struct ide_drive *d)
{
    struct ide_channel_regs *c = channel_regs(d);
    if (c->prd_end && !c->region_left)
        c->bm_status &= ~BM_ACTIVE;
}

static void bm_failed(struct ide_drive *d, enum gather why)
{
    struct ide_channel_regs *c = channel_regs(d);
    c->bm_status &= ~BM_ACTIVE;
    dp_trace_guest(d->ide->device.env->trace, "%s: drive %u: DMA table at 0x%x %s", d->ide->device.id, d->n, c->bm_prd,
                   why == TABLE_SHORT ? "is shorter than the transfer" : "leads to what is no RAM");
    if (why == TABLE_SHORT)
        return; /* the drive waits for ever, as it would */
    c->bm_status |= BM_ERROR;
    if (d->kind == IDE_CDROM)
        ide_atapi_sense(d, 0x0b, 0, 0); /* aborted command */
    else
        ide_ata_fail(d, ABRT);
}

/* Data that are not sectors of an image, at once. */
static void bm_copy_buffer(struct ide_drive *d)
{
    struct ide_drive_regs *r = ide_regs_of(d);
    struct ide_channel_regs *c = channel_regs(d);
    while (r->at < r->length) {
        enum gather g = bm_region(d->ide, c);
        struct dp_pin p;
        if (g == GATHERED && !bm_pin(d->ide, c, r->length - r->at, true, &p))
            g = TABLE_BAD;
        if (g != GATHERED) {
            bm_failed(d, g);
            return;
        }
        uint32_t n = (uint32_t)p.size;
        memcpy(p.host, r->buffer + r->at, n);
        dp_space_unpin(d->ide->device.env->memory, &p, n);
        bm_move(c, n);
        r->at += n;
        r->stop = DP_MAX(r->stop, r->at);
    }
    bm_end(d);
    if (d->kind == IDE_CDROM)
        ide_atapi_complete(d);
    else
        ide_complete(d);
}

/* ---- requests ---- */

static void io_done(struct dp_block_request *io, int result);

static bool start(struct ide_drive *d, enum dp_block_op op, uint64_t sectors)
{
    struct ide_drive_regs *r = ide_regs_of(d);
    uint64_t unit = ide_sector_size(d);
    d->io = (struct dp_block_request){ .op = op, .done = io_done };
    d->io_sectors = (uint32_t)sectors;
    if (op != DP_BLOCK_FLUSH) {
        d->io.offset = r->lba * unit;
        d->io.size = sectors * unit;
        d->io.iov = d->iov;
        d->io.iov_count = d->pin_count ? d->pin_count : 1;
        if (!d->pin_count)
            d->iov[0] = (struct iovec){ d->bounce, d->io.size };
        for (unsigned i = 0; i < d->pin_count; i++)
            d->iov[i] = (struct iovec){ d->pin[i].host, d->pin[i].size };
    }
    DP_TRACE(d->ide->device.env->trace, DP_TRACE_BLOCK, "%s: drive %u: request %d, %llu sectors at %llu", d->ide->device.id, d->n, op,
             (unsigned long long)sectors, (unsigned long long)r->lba);
    d->in_flight = true;
    r->status = BSY | DRDY | DSC;
    return true;
}

/* Does the image have these sectors (still: the command was checked)? If not, that is an error of the drive. */
static bool in_image(struct ide_drive *d, uint64_t sectors, bool write)
{
    struct ide_drive_regs *r = ide_regs_of(d);
    uint64_t capacity = ide_capacity(d);
    if (sectors && r->lba <= capacity && sectors <= capacity - r->lba && !(d->kind == IDE_CDROM && (r->tray_open || write)))
        return true;
    io_error(d, write);
    return false;
}

static bool start_dma(struct ide_drive *d)
{
    struct ide_drive_regs *r = ide_regs_of(d);
    struct ide_channel_regs before = *channel_regs(d);
    bool write = r->phase == PHASE_DMA_WRITE;
    uint64_t want = DP_MIN((uint64_t)r->sectors * ide_sector_size(d), (uint64_t)(r->careful ? ide_sector_size(d) : IDE_DMA_MAX)), size;
    if (!bm_ready(d) || !in_image(d, want / ide_sector_size(d), write))
        return false;
    enum gather g = bm_gather(d, want, !write, &size);
    if (g != GATHERED) {
        bm_failed(d, g);
        return false;
    }
    d->bm_before = before;
    d->bm_epoch = d->ide->channel[d->n / 2].bm_epoch;
    return start(d, write ? DP_BLOCK_WRITE : DP_BLOCK_READ, size / ide_sector_size(d));
}

/* Does what the drive's phase asks for. Returns true when d->io is to be submitted. */
static bool step(struct ide_drive *d)
{
    struct ide_drive_regs *r = ide_regs_of(d);
    uint32_t unit = ide_sector_size(d), room;
    uint64_t sectors;
    if (!d->kind || d->in_flight || !d->ide->running || d->changing)
        return false;
    if (r->phase == PHASE_RESET) {
        if (!(channel_regs(d)->control & SRST))
            ide_signature(d);
        return false;
    }
    if (r->phase == PHASE_DMA_BUFFER) {
        if (bm_ready(d))
            bm_copy_buffer(d);
        return false;
    }
    d->pin_count = 0;
    switch (r->phase) {
    case PHASE_DMA_READ: case PHASE_DMA_WRITE: return start_dma(d);
    case PHASE_READ: case PHASE_VERIFY:
        room = r->phase == PHASE_VERIFY ? IDE_BUFFER : IDE_BUFFER - r->length;
        sectors = DP_MIN((uint64_t)r->sectors, r->careful ? 1u : room / unit);
        return in_image(d, room >= unit ? sectors : 0, false) && start(d, DP_BLOCK_READ, sectors);
    case PHASE_WRITE:
        sectors = r->careful ? 1 : (r->length - r->at) / unit;
        if (r->length - r->at < unit || !in_image(d, sectors, true)) {
            if (r->phase == PHASE_WRITE) /* less than a sector: only a strange loaded state has that */
                io_error(d, true);
            return false;
        }
        memcpy(d->bounce, r->buffer + r->at, sectors * unit);
        return start(d, DP_BLOCK_WRITE, sectors);
    case PHASE_FLUSH:
        if (!d->block) {
            io_error(d, true);
            return false;
        }
        return start(d, DP_BLOCK_FLUSH, 0);
    default: return false;
    }
}

/* No lock held: starts what can be started, then drives the lines. */
static void settle(struct ide *ide)
{
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++) {
        struct ide_drive *d = &ide->drive[i];
        pthread_mutex_lock(&ide->device.lock);
        bool submit = step(d);
        struct dp_block *block = d->block;
        pthread_mutex_unlock(&ide->device.lock);
        if (submit)
            dp_block_submit(block, &d->io);
    }
    irq_sync(ide, 0);
    irq_sync(ide, 1);
}

/* Lock held: the request in flight went well. */
static void moved(struct ide_drive *d)
{
    struct ide_drive_regs *r = ide_regs_of(d);
    uint32_t n = DP_MIN(d->io_sectors, r->sectors), bytes = d->io_sectors * ide_sector_size(d);
    r->lba += n;
    r->sectors -= n;
    switch (r->phase) {
    case PHASE_READ:
        bytes = DP_MIN(bytes, IDE_BUFFER - r->length);
        memcpy(r->buffer + r->length, d->bounce, bytes);
        r->length += bytes;
        break;
    case PHASE_WRITE:
        r->at += DP_MIN(bytes, r->length - r->at);
        r->stop = DP_MAX(r->stop, r->at);
        break;
    case PHASE_DMA_READ: case PHASE_DMA_WRITE:
        if (r->sectors) {
            ide_dma(d, r->phase);
            return;
        }
        if (d->bm_epoch == d->ide->channel[d->n / 2].bm_epoch)
            bm_end(d);
        break;
    default: break;
    }
    advance(d);
}

/* Lock held. */
static void not_moved(struct ide_drive *d)
{
    struct ide_drive_regs *r = ide_regs_of(d);
    bool dma = r->phase == PHASE_DMA_READ || r->phase == PHASE_DMA_WRITE, write = d->io.op != DP_BLOCK_READ;
    if (d->io_sectors > 1 && !r->careful && (!dma || d->bm_epoch == d->ide->channel[d->n / 2].bm_epoch)) {
        r->careful = true; /* once more, to learn which sector it is */
        if (dma) {
            struct ide_channel_regs *c = channel_regs(d);
            c->prd_next = d->bm_before.prd_next;
            c->region = d->bm_before.region;
            c->region_left = d->bm_before.region_left;
            c->prd_end = d->bm_before.prd_end;
            ide_dma(d, r->phase);
        }
        return;
    }
    io_error(d, write);
}

static void io_done(struct dp_block_request *io, int result)
{
    struct ide_drive *d = DP_CONTAINER_OF(io, struct ide_drive, io);
    struct ide *ide = d->ide;
    unpin_from(d, 0, io->op == DP_BLOCK_READ); /* a read that failed may have written some; nobody else uses pins of a drive in flight */
    pthread_mutex_lock(&ide->device.lock);
    uint8_t phase = ide_regs_of(d)->phase;
    d->in_flight = false;
    if (!d->stale && phase != PHASE_RESET && phase != PHASE_IDLE) {
        if (result)
            not_moved(d);
        else
            moved(d);
    }
    d->stale = false;
    pthread_mutex_unlock(&ide->device.lock);
    settle(ide);
}

/* No lock held: waits until nothing of the drive is in flight, with whatever the device's state starts meanwhile. */
static void drain(struct ide_drive *d)
{
    for (bool again = d->block; again;) {
        dp_block_drain(d->block);
        pthread_mutex_lock(&d->ide->device.lock);
        again = d->in_flight; /* a request may be on its way to the block layer */
        pthread_mutex_unlock(&d->ide->device.lock);
        if (again)
            sched_yield();
    }
}

/* ---- the command block; lock held ---- */

static uint8_t read_register(struct ide *ide, unsigned c, unsigned reg)
{
    struct ide_drive *d = selected(ide, c), *answers = d;
    unsigned hob = ide->regs.channel[c].control & HOB ? 1 : 0;
    if (!d->kind && d->n % 2)
        answers = &ide->drive[d->n ^ 1];
    if (!answers->kind)
        return FLOATING;
    struct ide_drive_regs *r = ide_regs_of(answers);
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
    struct ide_drive *d = selected(ide, c);
    return d->kind ? ide_regs_of(d)->status : d->n % 2 && ide->drive[d->n ^ 1].kind ? 0 : FLOATING;
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
        struct ide_drive *d = &ide->drive[c * 2 + i];
        if (d->in_flight)
            reset_drive(d);
        else if (d->kind)
            ide_signature(d);
        if (d->kind)
            lower(d);
    }
    if (ide->drive[c * 2].kind)
        ide_raise(&ide->drive[c * 2]);
}

static void write_command(struct ide *ide, unsigned c, uint8_t v)
{
    struct ide_drive *d = selected(ide, c);
    struct ide_drive_regs *r = ide_regs_of(d);
    if (d->kind == IDE_CDROM && v == CMD_DEVICE_RESET) { /* busy or not */
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
    DP_TRACE(ide->device.env->trace, DP_TRACE_BLOCK, "%s: drive %u: command 0x%02x", ide->device.id, d->n, v);
    lower(d);
    drop_transfer(r);
    r->command = v;
    r->error = 0;
    r->status = DRDY | DSC;
    if (d->kind == IDE_CDROM)
        ide_atapi_command(d, v);
    else
        ide_ata_command(d, v);
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
        struct ide_drive_regs *r = &ide->regs.drive[c * 2 + i];
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
    struct ide_drive *d = selected(ide, c);
    struct ide_drive_regs *r = ide_regs_of(d);
    uint32_t value = 0;
    if (!d->kind)
        return ide->drive[d->n ^ 1].kind && d->n % 2 ? 0 : FLOATING_DATA;
    if (r->phase != PHASE_IN || d->in_flight)
        return 0;
    uint32_t n = DP_MIN(size, r->stop - r->at);
    memcpy(&value, r->buffer + r->at, n);
    r->at += n;
    *done = r->at == r->stop;
    if (*done) {
        if (d->kind == IDE_CDROM)
            ide_atapi_block_done(d);
        else
            ide_ata_block_done(d);
    }
    return value;
}

static void write_data(struct ide *ide, unsigned c, uint32_t value, unsigned size, bool *done)
{
    struct ide_drive *d = selected(ide, c);
    struct ide_drive_regs *r = ide_regs_of(d);
    if (!d->kind || d->in_flight || (r->phase != PHASE_OUT && r->phase != PHASE_PACKET))
        return;
    uint32_t n = DP_MIN(size, r->stop - r->at);
    memcpy(r->buffer + r->at, &value, n);
    r->at += n;
    *done = r->at == r->stop;
    if (!*done)
        return;
    if (d->kind != IDE_CDROM)
        ide_ata_block_done(d);
    else if (r->phase == PHASE_PACKET)
        ide_atapi_packet(d);
    else
        ide_atapi_block_done(d);
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

/* ---- what both kinds of drive share ---- */

void ide_feature_transfer_mode(struct ide_drive *d, uint8_t mode)
{
    unsigned kind = mode >> 3, n = mode & 7;
    bool known = (kind == 0 && n < 2) || (kind == 1 && n < 5) || (kind == 4 && n < 3) || (kind == 8 && n < 6);
    if (!known) {
        ide_ata_fail(d, ABRT);
        return;
    }
    ide_regs_of(d)->transfer_mode = mode;
    ide_complete(d);
}

void ide_string(uint8_t *out, const char *text, unsigned size)
{
    memset(out, ' ', size);
    for (unsigned i = 0; i < size && text[i]; i++)
        out[i ^ 1] = (uint8_t)text[i];
}

void ide_identify_modes(struct ide_drive *d, uint8_t *data)
{
    const struct ide_drive_regs *r = ide_regs_of(d);
    unsigned kind = r->transfer_mode >> 3, active = 0x100u << (r->transfer_mode & 7);
    dp_st16(data + 2 * 49, 0x0f00);  /* IORDY, LBA, DMA */
    dp_st16(data + 2 * 51, 0x0200);
    dp_st16(data + 2 * 53, 7);       /* words 54-58, 64-70 and 88 are valid */
    dp_st16(data + 2 * 63, 0x07 | (kind == 4 ? active : 0));
    dp_st16(data + 2 * 64, 3);       /* PIO 3 and 4 */
    for (unsigned word = 65; word <= 68; word++)
        dp_st16(data + 2 * word, 120);
    dp_st16(data + 2 * 80, 0x007e);  /* ATA-1 to ATA/ATAPI-6 */
    dp_st16(data + 2 * 88, 0x3f | (kind == 8 ? active : 0));
    dp_st16(data + 2 * 93, 0x6000 | (d->n % 2 ? 0x0300 : 0x000b)); /* 80-conductor cable; how the number was found */
}

void ide_integrity(uint8_t *data)
{
    uint8_t sum = 0;
    data[510] = 0xa5;
    for (unsigned i = 0; i < 511; i++)
        sum += data[i];
    data[511] = -sum;
}

/* ---- life ---- */

static void config_changed(struct dp_pci_function *f) { settle(DP_CONTAINER_OF(f, struct ide, function)); }

static int ide_init(struct dp_device *device, struct dp_error *e)
{
    struct ide *ide = ide_of(device);
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++) {
        struct ide_drive *d = &ide->drive[i];
        d->ide = ide;
        d->n = i;
        if (!d->kind)
            continue;
        if (d->kind == IDE_DISK && (!d->block || !dp_block_size(d->block)))
            return dp_error_set(e, -EINVAL, "IDE disk %u needs an image of at least one sector", i);
        if (d->serial && strlen(d->serial) > 20)
            return dp_error_set(e, -EINVAL, "serial number '%s' of IDE drive %u is too long; 20 characters fit", d->serial, i);
    }
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++) {
        struct ide_drive *d = &ide->drive[i];
        if (!d->kind)
            continue;
        d->bounce = malloc(IDE_BUFFER);
        if (!d->bounce) {
            for (unsigned n = 0; n < i; n++) {
                free(ide->drive[n].bounce);
                ide->drive[n].bounce = NULL;
            }
            return dp_error_set(e, -ENOMEM, "out of memory");
        }
        if (d->kind == IDE_DISK)
            ide_ata_identify_geometry(d);
    }
    ide->channel[0].irq_driven = ide->channel[1].irq_driven = -1;
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
        drain(&ide->drive[i]);
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
        free(ide->drive[i].bounce);
}

static void ide_reset(struct dp_device *device)
{
    struct ide *ide = ide_of(device);
    pthread_mutex_lock(&device->lock);
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++)
        ide->drive[i].stale = ide->drive[i].in_flight;
    pthread_mutex_unlock(&device->lock);
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++)
        drain(&ide->drive[i]);
    pthread_mutex_lock(&device->lock);
    dp_state_reset(&ide_table, &ide->regs);
    for (unsigned i = 0; i < DP_IDE_DRIVES; i++) {
        struct ide_drive *d = &ide->drive[i];
        if (!d->kind)
            continue;
        if (d->kind == IDE_DISK) {
            ide->regs.drive[i].heads = d->heads;
            ide->regs.drive[i].sectors_track = d->sectors_track;
        }
        ide_signature(d);
    }
    ide->channel[0].irq_driven = ide->channel[1].irq_driven = -1;
    ide->channel[0].irq_fell = ide->channel[1].irq_fell = false;
    pthread_mutex_unlock(&device->lock);
    dp_pci_function_reset(&ide->function);
}

static void ide_post_load(struct dp_device *device)
{
    struct ide *ide = ide_of(device);
    pthread_mutex_lock(&device->lock);
    for (unsigned c = 0; c < 2; c++) {
        ide->channel[c].irq_driven = -1;
        ide->channel[c].irq_fell = false;
    }
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
    ide_of(d)->channel[0].irq = irq[0];
    ide_of(d)->channel[1].irq = irq[1];
}

static void attach(struct dp_device *device, unsigned n, enum ide_kind kind, struct dp_block *block, const char *serial)
{
    struct ide_drive *d = &ide_of(device)->drive[n];
    d->kind = kind;
    d->block = block;
    d->serial = serial;
}

void dp_ide_attach_disk(struct dp_device *d, unsigned n, struct dp_block *block, const char *serial)
{
    attach(d, n, IDE_DISK, block, serial);
}

void dp_ide_attach_cdrom(struct dp_device *d, unsigned n, struct dp_block *block) { attach(d, n, IDE_CDROM, block, NULL); }
struct dp_pci_function *dp_ide_function(struct dp_device *d) { return &ide_of(d)->function; }

int dp_ide_change_medium(struct dp_device *device, unsigned n, struct dp_block *block, struct dp_error *e)
{
    struct ide *ide = ide_of(device);
    if (n >= DP_IDE_DRIVES || ide->drive[n].kind != IDE_CDROM)
        return dp_error_set(e, -EINVAL, "%s: drive %u is no CD-ROM drive", device->id, n);
    struct ide_drive *d = &ide->drive[n];
    struct ide_drive_regs *r = ide_regs_of(d);
    pthread_mutex_lock(&device->lock);
    bool locked = r->locked && !r->tray_open && d->block, busy = d->changing;
    if (locked)
        r->event = IDE_EVENT_EJECT;
    d->changing |= !locked;
    pthread_mutex_unlock(&device->lock);
    if (locked)
        return dp_error_set(e, -EBUSY, "%s: the guest has locked CD-ROM drive %u; it was asked to eject", device->id, n);
    if (busy)
        return dp_error_set(e, -EBUSY, "%s: the medium of drive %u is being changed already", device->id, n);
    drain(d);
    pthread_mutex_lock(&device->lock);
    d->block = block;
    d->changing = false;
    ide_atapi_medium_changed(d);
    pthread_mutex_unlock(&device->lock);
    settle(ide);
    return 0;
}

bool dp_ide_tray_open(struct dp_device *device, unsigned n)
{
    pthread_mutex_lock(&device->lock);
    bool open = n < DP_IDE_DRIVES && ide_of(device)->regs.drive[n].tray_open;
    pthread_mutex_unlock(&device->lock);
    return open;
}
