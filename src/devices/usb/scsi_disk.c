/* scsi_disk.c - SCSI commands of a disk on USB: what they answer, and which part of the medium they move.
 *
 * Model: a command is looked at when its wrapper comes. Short answers go into the buffer; reads and writes name a part of the medium, which
 * the transport moves; all that must reach the host's disk sets `flush`. Sense data of a command that failed stay until the next command.
 * Source: SPC-4 (INQUIRY, MODE SENSE, REQUEST SENSE, REPORT LUNS, 4.5 sense data), SBC-3 (READ, WRITE, READ CAPACITY, SYNCHRONIZE CACHE,
 * VERIFY, 6.5 pages); MMC-3 (READ FORMAT CAPACITIES, which Windows sends to all USB storage).
 */
#include "devices/usb/usb.h"

enum { TEST_UNIT_READY = 0x00, REQUEST_SENSE = 0x03, READ_6 = 0x08, WRITE_6 = 0x0a, INQUIRY = 0x12, MODE_SELECT_6 = 0x15,
       MODE_SENSE_6 = 0x1a, START_STOP = 0x1b, SEND_DIAGNOSTIC = 0x1d, PREVENT_ALLOW = 0x1e, READ_FORMAT_CAPACITIES = 0x23,
       READ_CAPACITY_10 = 0x25, READ_10 = 0x28, WRITE_10 = 0x2a, SEEK_10 = 0x2b, WRITE_VERIFY_10 = 0x2e, VERIFY_10 = 0x2f,
       SYNCHRONIZE_10 = 0x35, MODE_SELECT_10 = 0x55, MODE_SENSE_10 = 0x5a, READ_16 = 0x88, WRITE_16 = 0x8a, VERIFY_16 = 0x8f,
       SYNCHRONIZE_16 = 0x91, SERVICE_IN_16 = 0x9e, REPORT_LUNS = 0xa0, READ_12 = 0xa8, WRITE_12 = 0xaa, VERIFY_12 = 0xaf };
enum { SERVICE_READ_CAPACITY_16 = 0x10 };
enum { KEY_MEDIUM = 3, KEY_ILLEGAL = 5, KEY_PROTECT = 7 };
enum { ASC_WRITE_ERROR = 0x0c, ASC_READ_ERROR = 0x11, ASC_COMMAND = 0x20, ASC_RANGE = 0x21, ASC_FIELD = 0x24, ASC_PROTECTED = 0x27 };
enum { PAGE_CACHING = 0x08, PAGE_ALL = 0x3f, CACHING_SIZE = 20, WCE = 4 };
enum { CDB_FUA = 8, BYTE_CHECK = 6, VPD = 1, DBD = 8 };

static uint32_t be16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static uint32_t be32(const uint8_t *p) { return be16(p) << 16 | be16(p + 2); }
static uint64_t be64(const uint8_t *p) { return (uint64_t)be32(p) << 32 | be32(p + 4); }
static void put32(uint8_t *p, uint32_t v)
{
    for (unsigned i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

void usb_scsi_sense(struct usb_storage_regs *r, uint8_t key, uint8_t asc, uint8_t ascq)
{
    r->sense_key = key;
    r->asc = asc;
    r->ascq = ascq;
    r->status = key ? 1 : 0;
}

void usb_scsi_medium_error(struct usb_storage_regs *r, bool write)
{
    usb_scsi_sense(r, KEY_MEDIUM, write ? ASC_WRITE_ERROR : ASC_READ_ERROR, 0);
}

static void illegal(struct usb_storage_regs *r, uint8_t asc) { usb_scsi_sense(r, KEY_ILLEGAL, asc, 0); }

/* `size` bytes are in the buffer; the command has room for `allocated`. */
static void reply(struct usb_storage_regs *r, uint32_t size, uint32_t allocated)
{
    r->source = USB_STORAGE_BUFFER;
    r->length = DP_MIN(size, allocated);
}

static uint64_t sectors(const struct usb_device *d) { return dp_block_size(d->block) / SCSI_SECTOR; }

static void text(uint8_t *to, const char *from, unsigned size)
{
    memset(to, ' ', size);
    memcpy(to, from, strnlen(from, size));
}

static void inquiry(struct usb_device *d, const uint8_t *c)
{
    struct usb_storage_regs *r = &d->regs->storage;
    uint8_t *b = r->buffer;
    unsigned serial = (unsigned)strlen(d->serial), n = 4;
    memset(b, 0, 256);
    if (c[1] & VPD) {
        b[1] = c[2];
        switch (c[2]) {
        case 0x00:
            memcpy(b + 4, (const uint8_t[]){0x00, 0x80, 0x83}, 3);
            n += 3;
            break;
        case 0x80:
            memcpy(b + 4, d->serial, serial);
            n += serial;
            break;
        case 0x83: /* one designator: vendor and serial number, ASCII (T10) */
            b[4] = 2;
            b[5] = 1;
            b[7] = (uint8_t)(8 + serial);
            text(b + 8, "DOPPEL", 8);
            memcpy(b + 16, d->serial, serial);
            n += 12 + serial;
            break;
        default: illegal(r, ASC_FIELD); return;
        }
        b[3] = (uint8_t)(n - 4);
        reply(r, n, be16(c + 3));
        return;
    }
    if (c[2]) {
        illegal(r, ASC_FIELD);
        return;
    }
    b[2] = 6;      /* SPC-4 */
    b[3] = 2;      /* format of this */
    b[4] = 36 - 5;
    text(b + 8, "DOPPEL", 8);
    text(b + 16, "USB STORAGE", 16);
    text(b + 32, "1.0", 4);
    reply(r, 36, be16(c + 3));
}

static void request_sense(struct usb_storage_regs *r, const uint8_t *c)
{
    uint8_t *b = r->buffer;
    memset(b, 0, 18);
    b[0] = 0x70;
    b[2] = r->sense_key;
    b[7] = 10;
    b[12] = r->asc;
    b[13] = r->ascq;
    r->sense_key = r->asc = r->ascq = 0;
    reply(r, 18, c[4]);
}

static void mode_sense(struct usb_device *d, const uint8_t *c, unsigned header, uint32_t allocated)
{
    struct usb_storage_regs *r = &d->regs->storage;
    uint8_t *b = r->buffer;
    unsigned page = c[2] & 0x3f, n = header;
    bool changeable = c[2] >> 6 == 1;
    memset(b, 0, 64);
    if ((page != PAGE_CACHING && page != PAGE_ALL && page) || c[2] >> 6 == 3) {
        illegal(r, ASC_FIELD);
        return;
    }
    if (!(c[1] & DBD)) { /* one block descriptor */
        put32(b + n, (uint32_t)DP_MIN(sectors(d), (uint64_t)UINT32_MAX));
        put32(b + n + 4, SCSI_SECTOR);
        n += 8;
    }
    if (page) {
        b[n] = PAGE_CACHING;
        b[n + 1] = CACHING_SIZE - 2;
        b[n + 2] = changeable ? 0 : WCE;
        n += CACHING_SIZE;
    }
    uint8_t specific = 0x10 | (dp_block_readonly(d->block) ? 0x80 : 0); /* FUA is known; write-protected */
    if (header == 4) {
        b[0] = (uint8_t)(n - 1);
        b[2] = specific;
        b[3] = c[1] & DBD ? 0 : 8;
    } else {
        b[1] = (uint8_t)(n - 2);
        b[3] = specific;
        b[7] = c[1] & DBD ? 0 : 8;
    }
    reply(r, n, allocated);
}

static bool in_range(struct usb_device *d, uint64_t lba, uint64_t count)
{
    if (lba <= sectors(d) && count <= sectors(d) - lba)
        return true;
    illegal(&d->regs->storage, ASC_RANGE);
    return false;
}

static void move(struct usb_device *d, uint64_t lba, uint32_t count, bool write, bool fua, bool *to_host)
{
    struct usb_storage_regs *r = &d->regs->storage;
    *to_host = !write;
    if (write && dp_block_readonly(d->block)) {
        usb_scsi_sense(r, KEY_PROTECT, ASC_PROTECTED, 0);
        return;
    }
    if (!in_range(d, lba, count))
        return;
    if ((uint64_t)count * SCSI_SECTOR > UINT32_MAX) { /* more than a wrapper can say */
        illegal(r, ASC_FIELD);
        return;
    }
    r->source = USB_STORAGE_MEDIUM;
    r->offset = lba * SCSI_SECTOR;
    r->length = count * SCSI_SECTOR;
    r->flush = write && fua;
}

static void read_capacity_16(struct usb_device *d, const uint8_t *c)
{
    struct usb_storage_regs *r = &d->regs->storage;
    uint8_t *b = r->buffer;
    if ((c[1] & 31) != SERVICE_READ_CAPACITY_16) {
        illegal(r, ASC_FIELD);
        return;
    }
    memset(b, 0, 32);
    put32(b, (uint32_t)((sectors(d) - 1) >> 32));
    put32(b + 4, (uint32_t)(sectors(d) - 1));
    put32(b + 8, SCSI_SECTOR);
    reply(r, 32, be32(c + 10));
}

static void read_format_capacities(struct usb_device *d, const uint8_t *c)
{
    uint8_t *b = d->regs->storage.buffer;
    memset(b, 0, 12);
    b[3] = 8;
    put32(b + 4, (uint32_t)DP_MIN(sectors(d), (uint64_t)UINT32_MAX));
    put32(b + 8, 2u << 24 | SCSI_SECTOR); /* formatted */
    reply(&d->regs->storage, 12, be16(c + 7));
}

/* What is written is flushed as far as anybody asks; the range does not matter. */
static void synchronize(struct usb_device *d, uint64_t lba, uint64_t count)
{
    if (in_range(d, lba, count))
        d->regs->storage.flush = !dp_block_readonly(d->block);
}

static void verify(struct usb_device *d, const uint8_t *c, uint64_t lba, uint64_t count)
{
    if (c[1] & BYTE_CHECK)
        illegal(&d->regs->storage, ASC_FIELD);
    else
        in_range(d, lba, count);
}

void usb_scsi_command(struct usb_device *d, const uint8_t *cdb, unsigned size, bool *to_host)
{
    struct usb_storage_regs *r = &d->regs->storage;
    uint8_t c[16] = {0};
    memcpy(c, cdb, DP_MIN(size, 16u));
    if (c[0] != REQUEST_SENSE)
        r->sense_key = r->asc = r->ascq = 0;
    switch (c[0]) {
    case TEST_UNIT_READY: case PREVENT_ALLOW: case SEND_DIAGNOSTIC: break;
    case START_STOP: r->flush = !(c[4] & 1) && !dp_block_readonly(d->block); break;
    case REQUEST_SENSE: request_sense(r, c); break;
    case INQUIRY: inquiry(d, c); break;
    case MODE_SENSE_6: mode_sense(d, c, 4, c[4]); break;
    case MODE_SENSE_10: mode_sense(d, c, 8, be16(c + 7)); break;
    case MODE_SELECT_6: case MODE_SELECT_10: /* taken and forgotten: nothing is changeable */
        *to_host = false;
        reply(r, c[0] == MODE_SELECT_6 ? c[4] : DP_MIN(be16(c + 7), sizeof(r->buffer)), sizeof(r->buffer));
        break;
    case READ_FORMAT_CAPACITIES: read_format_capacities(d, c); break;
    case READ_CAPACITY_10:
        put32(r->buffer, (uint32_t)DP_MIN(sectors(d) - 1, (uint64_t)UINT32_MAX));
        put32(r->buffer + 4, SCSI_SECTOR);
        reply(r, 8, 8);
        break;
    case SERVICE_IN_16: read_capacity_16(d, c); break;
    case REPORT_LUNS:
        memset(r->buffer, 0, 16);
        r->buffer[3] = 8;
        reply(r, 16, be32(c + 6));
        break;
    case READ_6: case WRITE_6: move(d, be32(c) & 0x1fffff, c[4] ? c[4] : 256, c[0] == WRITE_6, false, to_host); break;
    case READ_10: case WRITE_10: case WRITE_VERIFY_10:
        move(d, be32(c + 2), be16(c + 7), c[0] != READ_10, c[1] & CDB_FUA || c[0] == WRITE_VERIFY_10, to_host);
        break;
    case READ_12: case WRITE_12: move(d, be32(c + 2), be32(c + 6), c[0] == WRITE_12, c[1] & CDB_FUA, to_host); break;
    case READ_16: case WRITE_16: move(d, be64(c + 2), be32(c + 10), c[0] == WRITE_16, c[1] & CDB_FUA, to_host); break;
    case SEEK_10: in_range(d, be32(c + 2), 0); break;
    case VERIFY_10: verify(d, c, be32(c + 2), be16(c + 7)); break;
    case VERIFY_12: verify(d, c, be32(c + 2), be32(c + 6)); break;
    case VERIFY_16: verify(d, c, be64(c + 2), be32(c + 10)); break;
    case SYNCHRONIZE_10: synchronize(d, be32(c + 2), be16(c + 7)); break;
    case SYNCHRONIZE_16: synchronize(d, be64(c + 2), be32(c + 10)); break;
    default:
        DP_TRACE(d->env->trace, DP_TRACE_BLOCK, "%s: unknown SCSI command 0x%02x", d->id, c[0]);
        illegal(r, ASC_COMMAND);
        break;
    }
}
