/* ata.c - the commands of ATA disks.
 *
 * Model: a command that is over at once completes in its handler; one with data sets lba, sectors and unit and a phase, and comes back
 * through ata_advance (image and buffer agree) and ata_block_done (the host moved a DRQ block). Reading fills the whole buffer
 * ahead, writing goes to the image block by block. With the write cache off, and for the FUA commands, a flush comes before the
 * completion.
 * Addresses: by the current translation (CHS), 28 or 48 bits. After an error they tell the sector that failed. Serial drives have the
 * general purpose log, where READ LOG EXT finds out about the queued command that failed (the controller's work: ahci.c).
 * Source: ATA/ATAPI-6 (T13 1410D r3b) ch. 8 and 9; logs: ATA/ATAPI-7 vol. 1 A.4, Serial ATA 2.6 13.7; CHS translation: ATA-5 6.2;
 * opcodes that ATA-6 calls retired or obsolete: ATA-3.
 */
#include "devices/storage/drive.h"

enum {
    NOP = 0x00, RECALIBRATE = 0x10, READ_SECTORS = 0x20, READ_SECTORS_ONCE = 0x21, READ_SECTORS_EXT = 0x24, READ_DMA_EXT = 0x25,
    READ_NATIVE_MAX_EXT = 0x27, READ_MULTIPLE_EXT = 0x29, READ_LOG_EXT = 0x2f, WRITE_SECTORS = 0x30, WRITE_SECTORS_ONCE = 0x31,
    WRITE_SECTORS_EXT = 0x34,
    WRITE_DMA_EXT = 0x35, WRITE_MULTIPLE_EXT = 0x39, WRITE_VERIFY = 0x3c, WRITE_DMA_FUA_EXT = 0x3d, READ_VERIFY = 0x40,
    READ_VERIFY_ONCE = 0x41, READ_VERIFY_EXT = 0x42, READ_LOG_DMA_EXT = 0x47, SEEK = 0x70, INITIALIZE_PARAMETERS = 0x91,
    READ_MULTIPLE = 0xc4, WRITE_MULTIPLE = 0xc5,
    SET_MULTIPLE = 0xc6, READ_DMA = 0xc8, READ_DMA_ONCE = 0xc9, WRITE_DMA = 0xca, WRITE_DMA_ONCE = 0xcb, WRITE_MULTIPLE_FUA_EXT = 0xce,
    STANDBY_IMMEDIATE = 0xe0, IDLE_IMMEDIATE = 0xe1, STANDBY = 0xe2, IDLE = 0xe3, CHECK_POWER = 0xe5, SLEEP = 0xe6,
    FLUSH_CACHE = 0xe7, FLUSH_CACHE_EXT = 0xea, IDENTIFY = 0xec, SET_FEATURES = 0xef, READ_NATIVE_MAX = 0xf8,
    /* the same of ATA-1 to 3 */
    OLD_STANDBY_IMMEDIATE = 0x94, OLD_IDLE_IMMEDIATE = 0x95, OLD_STANDBY = 0x96, OLD_IDLE = 0x97, OLD_CHECK_POWER = 0x98, OLD_SLEEP = 0x99
};
enum { FEATURE_CACHE_ON = 0x02, FEATURE_TRANSFER_MODE = 0x03, FEATURE_AHEAD_OFF = 0x55, FEATURE_NO_REVERT = 0x66, FEATURE_CACHE_OFF = 0x82,
       FEATURE_AHEAD_ON = 0xaa, FEATURE_REVERT = 0xcc };
enum { CYLINDERS_MAX = 16383, HEADS = 16, TRACK = 63 };
#define LBA28_MAX 0x0fffffffu

/* The default translation: 16 heads and 63 sectors, smaller for disks of less than that. */
void ata_identify_geometry(struct ata_drive *d)
{
    uint64_t capacity = drive_capacity(d), cylinders;
    d->sectors_track = (uint8_t)DP_MIN(capacity, (uint64_t)TRACK);
    d->heads = (uint8_t)DP_MIN(capacity / d->sectors_track, (uint64_t)HEADS);
    cylinders = capacity / (d->heads * d->sectors_track);
    d->cylinders = (uint16_t)DP_MIN(cylinders, (uint64_t)CYLINDERS_MAX);
}

/* ---- addresses ---- */

/* What the registers say; false when no such CHS address exists. */
static bool address(const struct ata_drive_regs *r, bool ext, uint64_t *lba)
{
    if (ext) {
        *lba = r->low[0] | (uint32_t)r->mid[0] << 8 | (uint32_t)r->high[0] << 16 | (uint64_t)r->low[1] << 24 | (uint64_t)r->mid[1] << 32 |
               (uint64_t)r->high[1] << 40;
        return true; /* whether the LBA bit is set or not */
    }
    uint32_t cylinder = r->mid[0] | (uint32_t)r->high[0] << 8, head = r->device & 15, sector = r->low[0];
    if (r->device & DEVICE_LBA) {
        *lba = sector | cylinder << 8 | head << 24;
        return true;
    }
    *lba = ((uint64_t)cylinder * r->heads + head) * r->sectors_track + sector - 1;
    return sector && sector <= r->sectors_track && head < r->heads;
}

static void show_address(struct ata_drive_regs *r, uint64_t lba, bool ext)
{
    uint64_t track = r->sectors_track ? lba / r->sectors_track : 0;
    if (!ext && !(r->device & DEVICE_LBA) && r->heads) {
        lba = (lba % DP_MAX(r->sectors_track, 1) + 1) | (track / r->heads & 0xffff) << 8 | track % r->heads << 24;
    }
    r->low[0] = (uint8_t)lba;
    r->mid[0] = (uint8_t)(lba >> 8);
    r->high[0] = (uint8_t)(lba >> 16);
    if (ext) {
        r->low[1] = (uint8_t)(lba >> 24);
        r->mid[1] = (uint8_t)(lba >> 32);
        r->high[1] = (uint8_t)(lba >> 40);
    } else {
        r->device = (r->device & 0xf0) | (lba >> 24 & 15);
    }
}

static void show_count(struct ata_drive_regs *r, uint32_t n, bool ext)
{
    r->count[0] = (uint8_t)n;
    if (ext)
        r->count[1] = (uint8_t)(n >> 8);
}

/* ---- endings ---- */

void ata_fail(struct ata_drive *d, uint8_t error)
{
    struct ata_drive_regs *r = d->regs;
    drive_complete(d);
    r->error = error;
    r->status |= ERR;
}

void ata_io_error(struct ata_drive *d, bool write)
{
    struct ata_drive_regs *r = d->regs;
    bool transfer = r->phase != PHASE_FLUSH;
    bool beyond = r->lba >= drive_capacity(d);
    if (transfer) {
        show_address(r, r->lba, r->ext);
        show_count(r, r->sectors, r->ext);
    }
    ata_fail(d, transfer && beyond ? IDNF : write || !transfer ? ABRT : UNC);
    if (!(transfer && beyond) && (write || !transfer))
        r->status |= DF; /* the medium is well, the drive is not */
}

static void sectors_done(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    if (r->flush_after) {
        r->flush_after = false;
        drive_busy(d, PHASE_FLUSH);
        return;
    }
    show_count(r, 0, r->ext);
    drive_complete(d);
}

/* ---- data ---- */

static void offer_block(struct ata_drive *d, enum drive_phase phase, bool interrupt)
{
    struct ata_drive_regs *r = d->regs;
    r->stop = r->at + DP_MIN(DP_MAX(r->unit, (uint32_t)DRIVE_SECTOR), r->length - r->at);
    r->phase = phase;
    r->status = DRDY | DSC | DRQ;
    if (interrupt)
        drive_raise(d);
}

static void want_block(struct ata_drive *d, bool interrupt)
{
    struct ata_drive_regs *r = d->regs;
    r->at = 0;
    uint32_t unit = DP_MIN(DP_MAX(r->unit, (uint32_t)DRIVE_SECTOR), (uint32_t)DRIVE_BUFFER);
    r->length = DP_MIN(r->sectors, unit / DRIVE_SECTOR) * DRIVE_SECTOR;
    offer_block(d, PHASE_OUT, interrupt);
}

void ata_advance(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint32_t fill = r->careful ? DP_MIN(r->unit, (uint32_t)DRIVE_BUFFER) : DRIVE_BUFFER;
    switch (r->phase) {
    case PHASE_READ:
        if (r->sectors && r->length + DRIVE_SECTOR <= fill)
            drive_busy(d, PHASE_READ);
        else
            offer_block(d, PHASE_IN, true);
        break;
    case PHASE_VERIFY:
        if (r->sectors)
            drive_busy(d, PHASE_VERIFY);
        else
            sectors_done(d);
        break;
    case PHASE_WRITE:
        if (r->at < r->length)
            drive_busy(d, PHASE_WRITE);
        else if (r->sectors)
            want_block(d, true);
        else
            sectors_done(d);
        break;
    default: sectors_done(d); break;
    }
}

void ata_block_done(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    if (r->phase == PHASE_OUT || r->phase == PHASE_PACKET) {
        r->at = 0;
        drive_busy(d, PHASE_WRITE);
    } else if (r->at < r->length) {
        offer_block(d, PHASE_IN, true);
    } else if (r->sectors) {
        r->at = r->stop = r->length = 0;
        drive_busy(d, PHASE_READ);
    } else { /* the last block was read: nothing more to tell */
        show_count(r, 0, r->ext);
        r->phase = PHASE_IDLE;
        r->status = DRDY | DSC;
    }
}

/* Sets lba and sectors from the registers; else the command has failed. */
static bool take_range(struct ata_drive *d, bool ext)
{
    struct ata_drive_regs *r = d->regs;
    uint32_t n = ext ? r->count[0] | (uint32_t)r->count[1] << 8 : r->count[0];
    uint64_t capacity = drive_capacity(d), lba;
    r->ext = ext;
    n = n ? n : ext ? 0x10000 : 0x100;
    if (!address(r, ext, &lba) || lba >= capacity || n > capacity - lba) {
        dp_trace_guest(d->owner->env->trace, "%s: drive %u: command 0x%02x beyond the end of the disk", d->owner->id, d->n,
                       r->command);
        ata_fail(d, IDNF);
        return false;
    }
    r->lba = lba;
    r->sectors = n;
    r->unit = DRIVE_SECTOR;
    return true;
}

static void read_write(struct ata_drive *d, bool ext, bool multiple, bool write)
{
    struct ata_drive_regs *r = d->regs;
    if ((multiple && !r->multiple) || (write && dp_block_readonly(d->block))) {
        ata_fail(d, multiple && !r->multiple ? ABRT : ABRT | WP);
        return;
    }
    if (!take_range(d, ext))
        return;
    r->unit = multiple ? DP_MIN(r->multiple, DRIVE_MULTIPLE_MAX) * DRIVE_SECTOR : DRIVE_SECTOR;
    r->flush_after = write && (!r->write_cache || r->command == WRITE_MULTIPLE_FUA_EXT);
    if (write)
        want_block(d, false);
    else
        drive_busy(d, PHASE_READ);
}

static void dma(struct ata_drive *d, bool ext, bool write)
{
    struct ata_drive_regs *r = d->regs;
    if (write && dp_block_readonly(d->block)) {
        ata_fail(d, ABRT | WP);
        return;
    }
    if (!take_range(d, ext))
        return;
    r->flush_after = write && (!r->write_cache || r->command == WRITE_DMA_FUA_EXT);
    drive_dma(d, write ? PHASE_DMA_WRITE : PHASE_DMA_READ);
}

/* ---- identify ---- */

static void identify(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint8_t *b = r->buffer;
    char serial[21];
    uint64_t capacity = drive_capacity(d);
    uint32_t track = (uint32_t)r->heads * r->sectors_track;
    uint32_t cylinders = track ? (uint32_t)DP_MIN(capacity / track, (uint64_t)65535) : 0;
    if (cylinders > CYLINDERS_MAX && r->heads == HEADS && r->sectors_track == TRACK)
        cylinders = CYLINDERS_MAX;
    memset(b, 0, DRIVE_SECTOR);
    dp_st16(b + 2 * 0, 0x0040); /* a fixed device */
    dp_st16(b + 2 * 1, d->cylinders);
    dp_st16(b + 2 * 3, d->heads);
    dp_st16(b + 2 * 4, DRIVE_SECTOR * d->sectors_track);
    dp_st16(b + 2 * 5, DRIVE_SECTOR);
    dp_st16(b + 2 * 6, d->sectors_track);
    snprintf(serial, sizeof(serial), "DPL%05u", d->n + 1);
    drive_string(b + 2 * 10, d->serial && *d->serial ? d->serial : serial, 20);
    dp_st16(b + 2 * 20, 3); /* a buffer with read cache */
    dp_st16(b + 2 * 21, DRIVE_BUFFER / DRIVE_SECTOR);
    dp_st16(b + 2 * 22, 4);
    drive_string(b + 2 * 23, "1.0", 8);
    drive_string(b + 2 * 27, "DOPPEL HARDDISK", 40);
    dp_st16(b + 2 * 47, 0x8000 | DRIVE_MULTIPLE_MAX);
    dp_st16(b + 2 * 48, 1); /* doubleword I/O */
    dp_st16(b + 2 * 50, 0x4000);
    dp_st16(b + 2 * 52, 0x0200);
    drive_identify_modes(d, b);
    dp_st16(b + 2 * 54, (uint16_t)cylinders);
    dp_st16(b + 2 * 55, r->heads);
    dp_st16(b + 2 * 56, r->sectors_track);
    dp_st32(b + 2 * 57, cylinders * track);
    dp_st16(b + 2 * 59, r->multiple ? 0x0100 | r->multiple : 0);
    dp_st32(b + 2 * 60, (uint32_t)DP_MIN(capacity, (uint64_t)LBA28_MAX));
    dp_st16(b + 2 * 82, 0x4068);                                    /* NOP, look-ahead, write cache, power management */
    dp_st16(b + 2 * 83, 0x7400);                                    /* FLUSH CACHE (EXT), 48-bit addresses */
    dp_st16(b + 2 * 84, 0x4040);                                    /* FUA */
    dp_st16(b + 2 * 85, r->write_cache ? 0x4068 : 0x4048);
    dp_st16(b + 2 * 86, 0x3400);
    dp_st16(b + 2 * 87, 0x4040);
    if (d->sata) {
        dp_st16(b + 2 * 75, DRIVE_QUEUE - 1);
        dp_st16(b + 2 * 84, 0x4060); /* general purpose logs, too */
        dp_st16(b + 2 * 87, 0x4060);
    }
    dp_st64(b + 2 * 100, capacity);
    drive_integrity(b);
    r->at = 0;
    r->unit = r->length = DRIVE_SECTOR;
    offer_block(d, PHASE_IN, true);
}

/* ---- logs ---- */

static void read_log(struct ata_drive *d, bool by_dma)
{
    enum { LOG_DIRECTORY = 0x00, LOG_QUEUED_ERROR = 0x10, NOT_QUEUED = 0x80 };
    struct ata_drive_regs *r = d->regs;
    uint8_t *b = r->buffer;
    unsigned log = r->low[0], page = r->mid[0] | (unsigned)r->mid[1] << 8, pages = r->count[0] | (unsigned)r->count[1] << 8;
    if (!d->sata || pages != 1 || page || (log != LOG_DIRECTORY && log != LOG_QUEUED_ERROR)) {
        ata_fail(d, ABRT);
        return;
    }
    memset(b, 0, DRIVE_SECTOR);
    if (log == LOG_DIRECTORY) {
        dp_st16(b, 1);
        dp_st16(b + 2 * LOG_QUEUED_ERROR, 1); /* pages of it */
    } else {
        b[0] = r->log_valid ? r->log_tag : NOT_QUEUED;
        if (r->log_valid) {
            b[2] = r->log_status;
            b[3] = r->log_error;
            for (unsigned i = 0; i < 3; i++) {
                b[4 + i] = (uint8_t)(r->log_lba >> 8 * i);
                b[8 + i] = (uint8_t)(r->log_lba >> 8 * (i + 3));
            }
            b[7] = DEVICE_LBA;
            dp_st16(b + 12, r->log_count);
        }
        r->log_valid = false;
        drive_checksum(b);
    }
    r->at = r->stop = 0;
    r->unit = r->length = DRIVE_SECTOR;
    if (by_dma)
        drive_dma(d, PHASE_DMA_BUFFER);
    else
        offer_block(d, PHASE_IN, true);
}

/* ---- commands without data ---- */

static void set_features(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    switch (r->feature[0]) {
    case FEATURE_CACHE_ON:
        r->write_cache = true;
        drive_complete(d);
        break;
    case FEATURE_CACHE_OFF: /* what is cached goes to the medium first */
        r->write_cache = false;
        drive_busy(d, PHASE_FLUSH);
        break;
    case FEATURE_TRANSFER_MODE: drive_feature_transfer_mode(d, r->count[0]); break;
    case FEATURE_AHEAD_OFF: case FEATURE_AHEAD_ON: case FEATURE_NO_REVERT: case FEATURE_REVERT: drive_complete(d); break;
    default: ata_fail(d, ABRT); break;
    }
}

static void set_multiple(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint8_t n = r->count[0];
    if (n > DRIVE_MULTIPLE_MAX || (n & (n - 1))) {
        ata_fail(d, ABRT);
        return;
    }
    r->multiple = n;
    drive_complete(d);
}

static void initialize_parameters(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    if (!r->count[0]) {
        ata_fail(d, ABRT);
        return;
    }
    r->heads = (r->device & 15) + 1;
    r->sectors_track = r->count[0];
    drive_complete(d);
}

static void seek(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint64_t lba;
    if (address(r, false, &lba) && lba < drive_capacity(d))
        drive_complete(d);
    else
        ata_fail(d, IDNF);
}

static void native_max(struct ata_drive *d, bool ext)
{
    struct ata_drive_regs *r = d->regs;
    uint64_t last = drive_capacity(d) - 1;
    if (!(r->device & DEVICE_LBA)) {
        ata_fail(d, ABRT);
        return;
    }
    show_address(r, ext ? last : DP_MIN(last, (uint64_t)LBA28_MAX), ext);
    drive_complete(d);
}

void ata_command(struct ata_drive *d, uint8_t command)
{
    struct ata_drive_regs *r = d->regs;
    if (command >= RECALIBRATE && command < RECALIBRATE + 16) { /* the low bits were step rates */
        drive_complete(d);
        return;
    }
    switch (command) {
    case READ_SECTORS: case READ_SECTORS_ONCE: read_write(d, false, false, false); break;
    case READ_SECTORS_EXT: read_write(d, true, false, false); break;
    case READ_MULTIPLE: read_write(d, false, true, false); break;
    case READ_MULTIPLE_EXT: read_write(d, true, true, false); break;
    case WRITE_SECTORS: case WRITE_SECTORS_ONCE: case WRITE_VERIFY: read_write(d, false, false, true); break;
    case WRITE_SECTORS_EXT: read_write(d, true, false, true); break;
    case WRITE_MULTIPLE: read_write(d, false, true, true); break;
    case WRITE_MULTIPLE_EXT: case WRITE_MULTIPLE_FUA_EXT: read_write(d, true, true, true); break;
    case READ_DMA: case READ_DMA_ONCE: dma(d, false, false); break;
    case READ_DMA_EXT: dma(d, true, false); break;
    case WRITE_DMA: case WRITE_DMA_ONCE: dma(d, false, true); break;
    case WRITE_DMA_EXT: case WRITE_DMA_FUA_EXT: dma(d, true, true); break;
    case READ_VERIFY: case READ_VERIFY_ONCE: case READ_VERIFY_EXT:
        if (take_range(d, command == READ_VERIFY_EXT))
            drive_busy(d, PHASE_VERIFY);
        break;
    case FLUSH_CACHE: case FLUSH_CACHE_EXT: drive_busy(d, PHASE_FLUSH); break;
    case IDENTIFY: identify(d); break;
    case READ_LOG_EXT: case READ_LOG_DMA_EXT: read_log(d, command == READ_LOG_DMA_EXT); break;
    case SET_FEATURES: set_features(d); break;
    case SET_MULTIPLE: set_multiple(d); break;
    case INITIALIZE_PARAMETERS: initialize_parameters(d); break;
    case SEEK: seek(d); break;
    case READ_NATIVE_MAX: native_max(d, false); break;
    case READ_NATIVE_MAX_EXT: native_max(d, true); break;
    case CHECK_POWER: case OLD_CHECK_POWER: r->count[0] = 0xff; drive_complete(d); break; /* active */
    case STANDBY_IMMEDIATE: case IDLE_IMMEDIATE: case STANDBY: case IDLE: case SLEEP: case OLD_STANDBY_IMMEDIATE: case OLD_IDLE_IMMEDIATE:
    case OLD_STANDBY: case OLD_IDLE: case OLD_SLEEP: drive_complete(d); break;
    case NOP:
    default:
        if (command != NOP)
            DP_TRACE(d->owner->env->trace, DP_TRACE_BLOCK, "%s: drive %u: unknown command 0x%02x", d->owner->id, d->n, command);
        ata_fail(d, ABRT);
        break;
    }
}
