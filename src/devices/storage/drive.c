/* drive.c - requests and life of a drive; model in drive.h.
 *
 * Locks and calls out: registers change under the controller's lock; what drive_step() prepared, the controller submits without it. Guest
 * memory is
 * reached by pins only.
 * A request that fails is repeated sector by sector (careful), to learn which one it is.
 * Source: ATA/ATAPI-6 (T13 1410D) ch. 9; Serial ATA 2.6 13.2 (identify data).
 */
#include "devices/storage/drive.h"

#include <sched.h>
#include <stdlib.h>

/* ---- state ---- */

static const struct dp_field drive_fields[] = {
    DP_FIELD_ARRAY(struct ata_drive_regs, feature, 1, DP_KIND_U8, 0, 0),
    DP_FIELD_ARRAY(struct ata_drive_regs, count, 2, DP_KIND_U8, 0, 0),
    DP_FIELD_ARRAY(struct ata_drive_regs, low, 3, DP_KIND_U8, 0, 0),
    DP_FIELD_ARRAY(struct ata_drive_regs, mid, 4, DP_KIND_U8, 0, 0),
    DP_FIELD_ARRAY(struct ata_drive_regs, high, 5, DP_KIND_U8, 0, 0),
    DP_FIELD_U8(struct ata_drive_regs, device, 6, 0, 0),
    DP_FIELD_U8(struct ata_drive_regs, status, 7, 0, 0),
    DP_FIELD_U8(struct ata_drive_regs, error, 8, 0, 0),
    DP_FIELD_U8(struct ata_drive_regs, command, 9, 0, 0),
    DP_FIELD_BOOL(struct ata_drive_regs, intrq, 10, false),
    DP_FIELD_U8(struct ata_drive_regs, multiple, 11, DRIVE_MULTIPLE_MAX, 0x1f),
    DP_FIELD_U8(struct ata_drive_regs, heads, 12, 16, 0x1f),
    DP_FIELD_U8(struct ata_drive_regs, sectors_track, 13, 63, 0),
    DP_FIELD_U8(struct ata_drive_regs, transfer_mode, 14, 0, 0),
    DP_FIELD_BOOL(struct ata_drive_regs, write_cache, 15, true),
    DP_FIELD_U8(struct ata_drive_regs, sense_key, 16, 0, 0x0f),
    DP_FIELD_U8(struct ata_drive_regs, asc, 17, 0, 0),
    DP_FIELD_U8(struct ata_drive_regs, ascq, 18, 0, 0),
    DP_FIELD_BOOL(struct ata_drive_regs, attention, 19, false),
    DP_FIELD_BOOL(struct ata_drive_regs, tray_open, 20, false),
    DP_FIELD_BOOL(struct ata_drive_regs, locked, 21, false),
    DP_FIELD_U8(struct ata_drive_regs, event, 22, 0, 7),
    DP_FIELD_U8(struct ata_drive_regs, phase, 23, 0, 0x0f),
    DP_FIELD_BOOL(struct ata_drive_regs, ext, 24, false),
    DP_FIELD_BOOL(struct ata_drive_regs, careful, 25, false),
    DP_FIELD_BOOL(struct ata_drive_regs, flush_after, 26, false),
    DP_FIELD_U64(struct ata_drive_regs, lba, 27, 0, (1ull << 48) - 1),
    DP_FIELD_U32(struct ata_drive_regs, sectors, 28, 0, 0),
    DP_FIELD_U32(struct ata_drive_regs, unit, 29, 0, 0xffff),
    DP_FIELD_U32(struct ata_drive_regs, at, 30, 0, 0xffff),
    DP_FIELD_U32(struct ata_drive_regs, stop, 31, 0, 0xffff),
    DP_FIELD_U32(struct ata_drive_regs, length, 32, 0, 0xffff),
    DP_FIELD_BYTES(struct ata_drive_regs, packet, 33),
    DP_FIELD_BYTES(struct ata_drive_regs, buffer, 34),
    DP_FIELD_BOOL(struct ata_drive_regs, log_valid, 35, false),
    DP_FIELD_U8(struct ata_drive_regs, log_tag, 36, 0, DRIVE_QUEUE - 1),
    DP_FIELD_U8(struct ata_drive_regs, log_status, 37, 0, 0),
    DP_FIELD_U8(struct ata_drive_regs, log_error, 38, 0, 0),
    DP_FIELD_U64(struct ata_drive_regs, log_lba, 39, 0, (1ull << 48) - 1),
    DP_FIELD_U16(struct ata_drive_regs, log_count, 40, 0, 0),
};

int drive_check(const void *regs, struct dp_error *e)
{
    const struct ata_drive_regs *r = regs;
    if (r->phase >= PHASES || r->at > r->stop || r->stop > r->length || r->length > DRIVE_BUFFER)
        return dp_error_set(e, -EINVAL, "ide: a drive at phase %u, place %u of %u of %u bytes", r->phase, r->at, r->stop, r->length);
    return 0;
}

void drive_clamp(void *regs)
{
    struct ata_drive_regs *r = regs;
    r->phase %= PHASES;
    r->length %= DRIVE_BUFFER + 1;
    r->stop %= r->length + 1;
    r->at %= r->stop + 1;
}

const struct dp_state_table drive_table =
    DP_STATE_TABLE(struct ata_drive_regs, "ide-drive", drive_fields);

/* ---- phases ---- */

static void drop_transfer(struct ata_drive_regs *r)
{
    r->phase = PHASE_IDLE;
    r->ext = r->careful = r->flush_after = false;
    r->sectors = r->at = r->stop = r->length = 0;
}

void drive_complete(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    drop_transfer(r);
    r->status = DRDY | DSC;
    drive_raise(d);
}

void drive_busy(struct ata_drive *d, enum drive_phase phase)
{
    d->regs->phase = phase;
    d->regs->status = BSY | DRDY | DSC;
}

void drive_dma(struct ata_drive *d, enum drive_phase phase)
{
    d->regs->phase = phase;
    d->regs->status = DRDY | DSC | DRQ;
}

void drive_signature(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    bool packet = d->kind == DRIVE_CDROM;
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

void drive_reset(struct ata_drive *d)
{
    drop_transfer(d->regs);
    drive_busy(d, PHASE_RESET);
}

void drive_command(struct ata_drive *d, uint8_t command)
{
    struct ata_drive_regs *r = d->regs;
    DP_TRACE(d->owner->env->trace, DP_TRACE_BLOCK, "%s: drive %u: command 0x%02x", d->owner->id, d->n, command);
    drop_transfer(r);
    r->command = command;
    r->error = 0;
    r->status = DRDY | DSC;
    if (d->kind == DRIVE_CDROM)
        atapi_command(d, command);
    else
        ata_command(d, command);
}

void drive_block_done(struct ata_drive *d)
{
    if (d->kind != DRIVE_CDROM)
        ata_block_done(d);
    else if (d->regs->phase == PHASE_PACKET)
        atapi_packet(d);
    else
        atapi_block_done(d);
}

static void advance(struct ata_drive *d)
{
    if (d->kind == DRIVE_CDROM)
        atapi_advance(d);
    else
        ata_advance(d);
}

static void io_error(struct ata_drive *d, bool write)
{
    if (d->kind == DRIVE_CDROM)
        atapi_io_error(d);
    else
        ata_io_error(d, write);
}

/* ---- requests ---- */

void drive_unpin(struct ata_drive *d, unsigned first, bool written)
{
    for (unsigned i = first; i < d->pin_count; i++)
        dp_space_unpin(d->owner->env->memory, &d->pin[i], written ? d->pin[i].size : 0);
    d->pin_count = first;
}

static void io_done(struct dp_block_request *io, int result);

static bool start(struct ata_drive *d, enum dp_block_op op, uint64_t sectors)
{
    struct ata_drive_regs *r = d->regs;
    uint64_t unit = drive_sector_size(d);
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
    DP_TRACE(d->owner->env->trace, DP_TRACE_BLOCK, "%s: drive %u: request %d, %llu sectors at %llu", d->owner->id, d->n, op,
             (unsigned long long)sectors, (unsigned long long)r->lba);
    d->in_flight = true;
    r->status = BSY | DRDY | DSC;
    return true;
}

/* Does the image have these sectors (still: the command was checked)? If not, that is an error of the drive. */
static bool in_image(struct ata_drive *d, uint64_t sectors, bool write)
{
    struct ata_drive_regs *r = d->regs;
    uint64_t capacity = drive_capacity(d);
    if (sectors && r->lba <= capacity && sectors <= capacity - r->lba && !(d->kind == DRIVE_CDROM && (r->tray_open || write)))
        return true;
    io_error(d, write);
    return false;
}

static bool start_dma(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    bool write = r->phase == PHASE_DMA_WRITE;
    uint64_t unit = drive_sector_size(d), want = DP_MIN((uint64_t)r->sectors * unit, (uint64_t)(r->careful ? unit : DRIVE_DMA_MAX)), size;
    if (!d->host->dma_ready(d) || !in_image(d, want / unit, write))
        return false;
    enum gather g = d->host->dma_gather(d, want, !write, &size);
    if (g != GATHERED) {
        d->host->dma_failed(d, g);
        return false;
    }
    return start(d, write ? DP_BLOCK_WRITE : DP_BLOCK_READ, size / unit);
}

bool drive_step(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint32_t unit = drive_sector_size(d), room;
    uint64_t sectors;
    if (!d->kind || d->in_flight || !*d->running || d->changing)
        return false;
    if (r->phase == PHASE_RESET) {
        if (!d->host->in_reset(d)) {
            drive_signature(d);
            if (d->host->reset_done)
                d->host->reset_done(d);
        }
        return false;
    }
    if (r->phase == PHASE_DMA_BUFFER) {
        if (d->host->dma_ready(d))
            d->host->dma_buffer(d);
        return false;
    }
    d->pin_count = 0;
    switch (r->phase) {
    case PHASE_DMA_READ: case PHASE_DMA_WRITE: return start_dma(d);
    case PHASE_READ: case PHASE_VERIFY:
        room = r->phase == PHASE_VERIFY ? DRIVE_BUFFER : DRIVE_BUFFER - r->length;
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

/* Lock held: the request in flight went well. */
static void moved(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint32_t n = DP_MIN(d->io_sectors, r->sectors), bytes = d->io_sectors * drive_sector_size(d);
    r->lba += n;
    r->sectors -= n;
    switch (r->phase) {
    case PHASE_READ:
        bytes = DP_MIN(bytes, DRIVE_BUFFER - r->length);
        memcpy(r->buffer + r->length, d->bounce, bytes);
        r->length += bytes;
        break;
    case PHASE_WRITE:
        r->at += DP_MIN(bytes, r->length - r->at);
        r->stop = DP_MAX(r->stop, r->at);
        break;
    case PHASE_DMA_READ: case PHASE_DMA_WRITE:
        if (r->sectors) {
            drive_dma(d, r->phase);
            return;
        }
        d->host->dma_end(d);
        break;
    default: break;
    }
    advance(d);
}

/* Lock held. */
static void not_moved(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    bool dma = r->phase == PHASE_DMA_READ || r->phase == PHASE_DMA_WRITE, write = d->io.op != DP_BLOCK_READ;
    if (d->io_sectors > 1 && !r->careful && (!dma || d->host->dma_rewind(d))) {
        r->careful = true; /* once more, to learn which sector it is */
        if (dma)
            drive_dma(d, r->phase);
        return;
    }
    io_error(d, write);
}

static void io_done(struct dp_block_request *io, int result)
{
    struct ata_drive *d = DP_CONTAINER_OF(io, struct ata_drive, io);
    struct dp_device *owner = d->owner;
    drive_unpin(d, 0, io->op == DP_BLOCK_READ); /* a read that failed may have written some; nobody else uses pins of a drive in flight */
    pthread_mutex_lock(&owner->lock);
    uint8_t phase = d->regs->phase;
    d->in_flight = false;
    if (!d->stale && phase != PHASE_RESET && phase != PHASE_IDLE) {
        if (result)
            not_moved(d);
        else
            moved(d);
    }
    d->stale = false;
    pthread_mutex_unlock(&owner->lock);
    d->host->settle(owner);
}

void drive_drain(struct ata_drive *d)
{
    for (bool again = d->block; again;) {
        dp_block_drain(d->block);
        pthread_mutex_lock(&d->owner->lock);
        again = d->in_flight; /* a request may be on its way to the block layer */
        pthread_mutex_unlock(&d->owner->lock);
        if (again)
            sched_yield();
    }
}

/* ---- what both kinds of drive share ---- */

void drive_feature_transfer_mode(struct ata_drive *d, uint8_t mode)
{
    unsigned kind = mode >> 3, n = mode & 7;
    bool known = (kind == 0 && n < 2) || (kind == 1 && n < 5) || (kind == 4 && n < 3) || (kind == 8 && n < 6);
    if (!known) {
        ata_fail(d, ABRT);
        return;
    }
    d->regs->transfer_mode = mode;
    drive_complete(d);
}

void drive_string(uint8_t *out, const char *text, unsigned size)
{
    memset(out, ' ', size);
    for (unsigned i = 0; i < size && text[i]; i++)
        out[i ^ 1] = (uint8_t)text[i];
}

void drive_identify_modes(struct ata_drive *d, uint8_t *data)
{
    const struct ata_drive_regs *r = d->regs;
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
    if (d->sata) { /* no cable to tell of; first and second generation, and for disks queued commands */
        dp_st16(data + 2 * 76, 0x0006 | (d->kind == DRIVE_DISK ? 0x0100 : 0));
    } else {
        dp_st16(data + 2 * 93, 0x6000 | (d->n % 2 ? 0x0300 : 0x000b)); /* 80-conductor cable; how the number was found */
    }
}

void drive_checksum(uint8_t *data)
{
    uint8_t sum = 0;
    for (unsigned i = 0; i < 511; i++)
        sum += data[i];
    data[511] = -sum;
}

void drive_integrity(uint8_t *data)
{
    data[510] = 0xa5;
    drive_checksum(data);
}

/* ---- life ---- */

int drive_init(struct ata_drive *d, struct dp_error *e)
{
    if (!d->kind)
        return 0;
    if (d->kind == DRIVE_DISK && (!d->block || !dp_block_size(d->block)))
        return dp_error_set(e, -EINVAL, "%s: disk %u needs an image of at least one sector", d->owner->id, d->n);
    if (d->serial && strlen(d->serial) > 20)
        return dp_error_set(e, -EINVAL, "%s: serial number '%s' of drive %u is too long; 20 characters fit", d->owner->id, d->serial, d->n);
    if (!(d->bounce = malloc(DRIVE_BUFFER)))
        return dp_error_set(e, -ENOMEM, "out of memory");
    if (d->kind == DRIVE_DISK)
        ata_identify_geometry(d);
    return 0;
}

void drive_fini(struct ata_drive *d)
{
    free(d->bounce);
    d->bounce = NULL;
}

void drive_power_on(struct ata_drive *d)
{
    if (!d->kind)
        return;
    if (d->kind == DRIVE_DISK) {
        d->regs->heads = d->heads;
        d->regs->sectors_track = d->sectors_track;
    }
    drive_signature(d);
}

int drive_change_medium(struct ata_drive *d, struct dp_block *block, struct dp_error *e)
{
    struct ata_drive_regs *r = d->regs;
    struct dp_device *owner = d->owner;
    pthread_mutex_lock(&owner->lock);
    bool locked = r->locked && !r->tray_open && d->block, busy = d->changing;
    if (locked)
        r->event = DRIVE_EVENT_EJECT;
    d->changing |= !locked;
    pthread_mutex_unlock(&owner->lock);
    if (locked)
        return dp_error_set(e, -EBUSY, "%s: the guest has locked CD-ROM drive %u; it was asked to eject", owner->id, d->n);
    if (busy)
        return dp_error_set(e, -EBUSY, "%s: the medium of drive %u is being changed already", owner->id, d->n);
    drive_drain(d);
    pthread_mutex_lock(&owner->lock);
    d->block = block;
    d->changing = false;
    atapi_medium_changed(d);
    pthread_mutex_unlock(&owner->lock);
    d->host->settle(owner);
    return 0;
}
