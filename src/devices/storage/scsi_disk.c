/* scsi_disk.c - the model, see scsi_disk.h. Commands stand in one table, which REPORT SUPPORTED OPERATION CODES tells, too. */
#include "devices/storage/scsi_disk.h"

#include <stdlib.h>

#include "base/base.h"

enum { KEY_NONE = 0, KEY_NOT_READY = 2, KEY_MEDIUM = 3, KEY_ILLEGAL = 5, KEY_ATTENTION = 6, KEY_PROTECT = 7, KEY_MISCOMPARE = 0xe };
enum {
    ASC_STOPPED = 0x04,
    ASC_WRITE_ERROR = 0x0c,
    ASC_READ_ERROR = 0x11,
    ASC_LIST_LENGTH = 0x1a,
    ASC_MISCOMPARE = 0x1d,
    ASC_COMMAND = 0x20,
    ASC_RANGE = 0x21,
    ASC_FIELD = 0x24,
    ASC_NO_UNIT = 0x25,
    ASC_LIST_FIELD = 0x26,
    ASC_PROTECTED = 0x27,
    ASC_MODE_CHANGED = 0x2a,
    ASC_NO_SAVING = 0x39
};
enum { ASCQ_NEEDS_START = 0x02, ASCQ_NO_SPACE = 0x07, ASCQ_MODE_CHANGED = 0x01 };
enum { INQUIRY = 0x12, REQUEST_SENSE = 0x03, REPORT_LUNS = 0xa0 };
enum { TYPE_DISK = 0x00, TYPE_CDROM = 0x05, NO_UNIT = 0x7f };
enum { UNMAP_RANGES_MAX = 255, UNMAP_HEADER = 8, UNMAP_RANGE = 16, SERIAL_MAX = 36 };
enum { PAGE_RECOVERY = 0x01, PAGE_CACHING = 0x08, PAGE_CONTROL = 0x0a, PAGE_ALL = 0x3f, WCE = 4 };
enum {
    CDB_EVPD = 1,
    CDB_DBD = 8,
    CDB_FUA = 8,
    CDB_LLBAA = 0x10,
    CDB_PF = 0x10,
    CDB_SP = 1,
    CDB_NDOB = 1,
    CDB_SAME_UNMAP = 8,
    CDB_ANCHOR = 1
};
enum { BYTCHK = 3, RWPROTECT = 0xe0 };
enum { PHYSICAL_BLOCK = 4096 }; /* the host's file system works in pages: aligned writes need no read */
#define UNMAP_SECTORS_MAX (1u << 22)
#define SAME_BYTES_MAX (128ull << 20)

enum { WORK_NONE, WORK_MEDIUM, WORK_RANGES, WORK_ZERO, WORK_PATTERN, WORK_VERIFY, WORK_COMPARE };

static uint32_t be16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static uint32_t be32(const uint8_t *p) { return be16(p) << 16 | be16(p + 2); }
static uint64_t be64(const uint8_t *p) { return (uint64_t)be32(p) << 32 | be32(p + 4); }
static void put16(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}
static void put32(uint8_t *p, uint32_t v)
{
    put16(p, v >> 16);
    put16(p + 2, v);
}
static void put64(uint8_t *p, uint64_t v)
{
    put32(p, (uint32_t)(v >> 32));
    put32(p + 4, (uint32_t)v);
}

static const struct dp_field unit_fields[] = {
    DP_FIELD_U8(struct scsi_unit_regs, attention, 1, 0, 0),
    DP_FIELD_U8(struct scsi_unit_regs, attention_ascq, 2, 0, 0),
    DP_FIELD_BOOL(struct scsi_unit_regs, write_cache, 3, true),
    DP_FIELD_BOOL(struct scsi_unit_regs, stopped, 4, false),
};
const struct dp_state_table scsi_unit_table = DP_STATE_TABLE(struct scsi_unit_regs, "scsi-unit", unit_fields);

/* ---- endings ---- */

void scsi_fail(struct scsi_task *t, uint8_t key, uint8_t asc, uint8_t ascq)
{
    t->status = SCSI_CHECK_CONDITION;
    t->key = key;
    t->asc = asc;
    t->ascq = ascq;
    t->data = SCSI_DATA_NONE;
    t->length = 0;
    t->work = WORK_NONE;
    t->flush = false;
}

/* Names the byte, and its highest bit, that is wrong: in the command (SPC-4 4.5.2.4.2), or in the parameters. */
static void bad_byte(struct scsi_task *t, uint8_t asc, unsigned byte, int bit)
{
    scsi_fail(t, KEY_ILLEGAL, asc, 0);
    t->specific[0] = (uint8_t)(0x80 | (asc == ASC_FIELD ? 0x40 : 0) | (bit >= 0 ? 8 | bit : 0));
    put16(t->specific + 1, byte);
}
static void bad_field(struct scsi_task *t, unsigned byte, int bit) { bad_byte(t, ASC_FIELD, byte, bit); }
static void bad_parameter(struct scsi_task *t, unsigned byte, int bit) { bad_byte(t, ASC_LIST_FIELD, byte, bit); }

static void reply(struct scsi_task *t, uint32_t size, uint32_t allocated)
{
    t->data = SCSI_DATA_REPLY;
    t->length = DP_MIN(size, allocated);
}

static void parameters(struct scsi_task *t, uint32_t size)
{
    t->data = size ? SCSI_DATA_PARAMETERS : SCSI_DATA_NONE;
    t->length = size;
}

void scsi_sense(const struct scsi_task *t, uint8_t s[SCSI_SENSE])
{
    memset(s, 0, SCSI_SENSE);
    s[0] = 0x70 | (t->has_information ? 0x80 : 0);
    s[2] = t->key;
    put32(s + 3, t->information);
    s[7] = SCSI_SENSE - 8;
    s[12] = t->asc;
    s[13] = t->ascq;
    memcpy(s + 15, t->specific, 3);
}

void scsi_attention(struct scsi_unit *u, uint8_t asc, uint8_t ascq)
{
    if (u->regs->attention == SCSI_ATTENTION_RESET && asc != SCSI_ATTENTION_RESET)
        return;
    u->regs->attention = asc;
    u->regs->attention_ascq = ascq;
}

void scsi_reset(struct scsi_unit *u)
{
    *u->regs = (struct scsi_unit_regs){.write_cache = u->write_cache};
    scsi_attention(u, SCSI_ATTENTION_RESET, 0);
}

/* ---- what the unit is ---- */

static uint64_t blocks(const struct scsi_unit *u) { return dp_block_size(u->block) / u->sector; }
static unsigned physical_exponent(const struct scsi_unit *u) { return u->sector < PHYSICAL_BLOCK ? 3 : 0; }

static const char *product(const struct scsi_unit *u) { return !u ? "TARGET" : u->cdrom ? "CD-ROM" : "DISK"; }

static void text(uint8_t *to, const char *from, unsigned size)
{
    memset(to, ' ', size);
    for (unsigned i = 0; i < size && from[i]; i++)
        to[i] = (uint8_t)from[i];
}

/* One designator, by which systems name the disk: vendor, product and serial number (SPC-4 7.8.6.4). */
static unsigned page_identification(const struct scsi_unit *u, uint8_t *b)
{
    unsigned serial = (unsigned)strlen(u->serial);
    b[4] = 2; /* ASCII */
    b[5] = 1; /* of the unit, by T10 vendor */
    b[7] = (uint8_t)(24 + serial);
    text(b + 8, "DOPPEL", 8);
    text(b + 16, product(u), 16);
    memcpy(b + 32, u->serial, serial);
    return 32 + serial;
}

static unsigned page_limits(const struct scsi_unit *u, uint8_t *b)
{
    unsigned granularity = DP_MAX(PHYSICAL_BLOCK / u->sector, 1u);
    b[4] = 1; /* WSNZ: WRITE SAME of no blocks does not mean all of them */
    put16(b + 6, granularity);
    put32(b + 8, (uint32_t)(SCSI_TRANSFER_MAX / u->sector));
    put32(b + 20, UNMAP_SECTORS_MAX);
    put32(b + 24, UNMAP_RANGES_MAX);
    put32(b + 28, granularity);
    put32(b + 32, 1u << 31); /* alignment 0 is meant */
    put64(b + 36, SAME_BYTES_MAX / u->sector);
    return 64;
}

static void inquiry_page(struct scsi_unit *u, struct scsi_task *t, uint8_t *b)
{
    static const uint8_t pages[] = {0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2};
    unsigned page = t->cdb[2], serial = (unsigned)strlen(u->serial), n = 4;
    memset(b, 0, 256);
    b[0] = u->cdrom ? TYPE_CDROM : TYPE_DISK;
    b[1] = (uint8_t)page;
    switch (u->cdrom && page >= 0xb0 ? 0xff : page) {
    case 0x00:
        n += u->cdrom ? 3 : DP_ARRAY_LEN(pages);
        memcpy(b + 4, pages, n - 4);
        break;
    case 0x80:
        memcpy(b + 4, u->serial, serial);
        n += serial;
        break;
    case 0x83:
        n = page_identification(u, b);
        break;
    case 0xb0:
        n = page_limits(u, b);
        break;
    case 0xb1:
        put16(b + 4, 1); /* does not rotate */
        n = 64;
        break;
    case 0xb2:
        b[5] = 0xe0; /* UNMAP, WRITE SAME (16) and (10) with UNMAP; what is unmapped need not read as zeros */
        b[6] = 2;    /* thin */
        n = 8;
        break;
    default:
        bad_field(t, 2, 7);
        return;
    }
    put16(b + 2, n - 4);
    reply(t, n, be16(t->cdb + 3));
}

static void inquiry(struct scsi_unit *u, struct scsi_task *t, uint8_t *b)
{
    if (t->cdb[1] & CDB_EVPD && u) {
        inquiry_page(u, t, b);
        return;
    }
    if (t->cdb[1] & CDB_EVPD || t->cdb[2]) {
        bad_field(t, t->cdb[2] ? 2 : 1, t->cdb[2] ? 7 : 0);
        return;
    }
    memset(b, 0, 96);
    b[0] = !u ? NO_UNIT : u->cdrom ? TYPE_CDROM : TYPE_DISK;
    b[1] = u && u->cdrom ? 0x80 : 0; /* removable medium */
    b[2] = 6;                        /* SPC-4 */
    b[3] = 0x12;                     /* HISUP, format of this */
    b[4] = 96 - 5;
    b[7] = 2; /* CMDQUE */
    text(b + 8, "DOPPEL", 8);
    text(b + 16, product(u), 16);
    text(b + 32, "1.0", 4);
    put16(b + 58, 0x00a0);                           /* SAM-5 */
    put16(b + 60, 0x0460);                           /* SPC-4 */
    put16(b + 62, u && !u->cdrom ? 0x04c0 : 0x02a0); /* SBC-3, MMC-3 */
    reply(t, 96, be16(t->cdb + 3));
}

static void report_luns(struct scsi_task *t, const struct scsi_luns *luns, uint8_t *b)
{
    unsigned n = 8, count = t->cdb[2] == 1 ? 0 : luns->count; /* 01h: only well-known units, of which there are none */
    if (t->cdb[2] > 2) {
        bad_field(t, 2, 7);
        return;
    }
    memset(b, 0, 8 + 8 * SCSI_UNITS_MAX);
    for (unsigned i = 0; i < DP_MIN(count, (unsigned)SCSI_UNITS_MAX); i++, n += 8)
        put16(b + n, luns->lun[i] < 256 ? luns->lun[i] : 0x4000u | luns->lun[i]); /* peripheral, or flat space addressing */
    put32(b, n - 8);
    reply(t, n, be32(t->cdb + 6));
}

/* What is to be told and no command has told yet; else that there is nothing. Autosense told of all failed commands. */
static void request_sense(struct scsi_unit *u, struct scsi_task *t, uint8_t *b)
{
    struct scsi_task said = {0};
    if (!u) {
        scsi_fail(&said, KEY_ILLEGAL, ASC_NO_UNIT, 0);
    } else if (u->regs->attention) {
        scsi_fail(&said, KEY_ATTENTION, u->regs->attention, u->regs->attention_ascq);
        u->regs->attention = u->regs->attention_ascq = 0;
    } else if (u->regs->stopped) {
        scsi_fail(&said, KEY_NOT_READY, ASC_STOPPED, ASCQ_NEEDS_START);
    }
    if (t->cdb[1] & 1) { /* descriptor format */
        memset(b, 0, 8);
        memcpy(b, (const uint8_t[]){0x72, said.key, said.asc, said.ascq}, 4);
        reply(t, 8, t->cdb[4]);
    } else {
        scsi_sense(&said, b);
        reply(t, SCSI_SENSE, t->cdb[4]);
    }
}

static void read_capacity_10(struct scsi_unit *u, struct scsi_task *t, uint8_t *b)
{
    if (be32(t->cdb + 2)) {
        bad_field(t, 2, -1);
        return;
    }
    put32(b, (uint32_t)DP_MIN(blocks(u) - 1, (uint64_t)UINT32_MAX));
    put32(b + 4, u->sector);
    reply(t, 8, 8);
}

static void read_capacity_16(struct scsi_unit *u, struct scsi_task *t, uint8_t *b)
{
    memset(b, 0, 32);
    put64(b, blocks(u) - 1);
    put32(b + 8, u->sector);
    b[13] = (uint8_t)physical_exponent(u);
    b[14] = 0x80; /* LBPME: blocks can be unmapped */
    reply(t, 32, be32(t->cdb + 10));
}

/* ---- modes ---- */

static unsigned mode_page(const struct scsi_unit *u, unsigned page, bool changeable, uint8_t *b)
{
    static const uint8_t sizes[] = {[PAGE_RECOVERY] = 12, [PAGE_CACHING] = 20, [PAGE_CONTROL] = 12};
    memset(b, 0, sizes[page]);
    b[0] = (uint8_t)page;
    b[1] = (uint8_t)(sizes[page] - 2);
    if (page == PAGE_CACHING)
        b[2] = changeable || u->regs->write_cache ? WCE : 0;
    if (page == PAGE_RECOVERY && !changeable)
        b[2] = 0x80; /* AWRE: the host's disk does that */
    if (page == PAGE_CONTROL && !changeable)
        b[3] = 0x10; /* unrestricted reordering */
    return sizes[page];
}

static void mode_sense(struct scsi_unit *u, struct scsi_task *t, uint8_t *b, unsigned header, uint32_t allocated)
{
    static const uint8_t pages[] = {PAGE_RECOVERY, PAGE_CACHING, PAGE_CONTROL};
    unsigned page = t->cdb[2] & 0x3f, control = t->cdb[2] >> 6, n = header, descriptor = 0;
    if (control == 3) {
        scsi_fail(t, KEY_ILLEGAL, ASC_NO_SAVING, 0);
        return;
    }
    if (t->cdb[3] && !(page == PAGE_ALL && t->cdb[3] == 0xff)) {
        bad_field(t, 3, 7);
        return;
    }
    memset(b, 0, 128);
    if (!(t->cdb[1] & CDB_DBD)) {
        bool wide = header == 8 && t->cdb[1] & CDB_LLBAA;
        descriptor = wide ? 16 : 8;
        if (wide) {
            put64(b + n, blocks(u));
            put32(b + n + 12, u->sector);
            b[4] = 1; /* LONGLBA */
        } else {
            put32(b + n, (uint32_t)DP_MIN(blocks(u), (uint64_t)UINT32_MAX));
            put32(b + n + 4, u->sector); /* its first byte is reserved, and 0 */
        }
        n += descriptor;
    }
    unsigned first = n;
    for (unsigned i = 0; i < DP_ARRAY_LEN(pages); i++)
        if (page == PAGE_ALL || page == pages[i])
            n += mode_page(u, pages[i], control == 1, b + n);
    if (n == first) {
        bad_field(t, 2, 5);
        return;
    }
    uint8_t specific = 0x10 | (dp_block_readonly(u->block) ? 0x80 : 0); /* DPOFUA, WP */
    if (header == 4) {
        b[0] = (uint8_t)(n - 1);
        b[2] = specific;
        b[3] = (uint8_t)descriptor;
    } else {
        put16(b, n - 2);
        b[3] = specific;
        put16(b + 6, descriptor);
    }
    reply(t, n, allocated);
}

static void mode_select(struct scsi_task *t, uint32_t size)
{
    if (!(t->cdb[1] & CDB_PF) && size)
        bad_field(t, 1, 4);
    else if (t->cdb[1] & CDB_SP)
        bad_field(t, 1, 0);
    else if (size > SCSI_BUFFER)
        bad_field(t, 7, -1);
    else
        parameters(t, size);
}

/* All or nothing: what differs from now in a bit that cannot be changed is an error. */
static void take_modes(struct scsi_unit *u, struct scsi_task *t, const uint8_t *b, uint32_t size)
{
    unsigned header = t->cdb[0] == 0x15 ? 4 : 8;
    if (size < header) {
        scsi_fail(t, KEY_ILLEGAL, ASC_LIST_LENGTH, 0);
        return;
    }
    unsigned descriptor = header == 4 ? b[3] : be16(b + 6), at = header + descriptor;
    bool cache = u->regs->write_cache;
    if (descriptor && descriptor != 8 && !(descriptor == 16 && header == 8 && b[4] & 1)) {
        bad_parameter(t, header == 4 ? 3 : 6, -1);
        return;
    }
    if (at > size) {
        scsi_fail(t, KEY_ILLEGAL, ASC_LIST_LENGTH, 0);
        return;
    }
    if (descriptor && (be32(b + at - 4) & 0xffffff) != u->sector) {
        bad_parameter(t, at - 3, -1);
        return;
    }
    while (at < size) {
        uint8_t now[32], changeable[32];
        unsigned page = b[at] & 0x7f;
        if (page != PAGE_RECOVERY && page != PAGE_CACHING && page != PAGE_CONTROL) {
            bad_parameter(t, at, 6);
            return;
        }
        unsigned n = mode_page(u, page, false, now);
        mode_page(u, page, true, changeable);
        if (n > size - at) {
            scsi_fail(t, KEY_ILLEGAL, ASC_LIST_LENGTH, 0);
            return;
        }
        if (b[at + 1] != now[1]) {
            bad_parameter(t, at + 1, 7);
            return;
        }
        for (unsigned i = 2; i < n; i++)
            if ((b[at + i] ^ now[i]) & ~changeable[i]) {
                bad_parameter(t, at + i, -1);
                return;
            }
        if (page == PAGE_CACHING)
            cache = b[at + 2] & WCE;
        at += n;
    }
    t->flush = u->regs->write_cache && !cache && !dp_block_readonly(u->block);
    u->regs->write_cache = cache;
}

/* ---- the medium ---- */

static bool in_range(struct scsi_unit *u, struct scsi_task *t, uint64_t lba, uint64_t count)
{
    if (lba <= blocks(u) && count <= blocks(u) - lba)
        return true;
    scsi_fail(t, KEY_ILLEGAL, ASC_RANGE, 0);
    return false;
}

static bool writable(struct scsi_unit *u, struct scsi_task *t)
{
    if (!dp_block_readonly(u->block))
        return true;
    scsi_fail(t, KEY_PROTECT, ASC_PROTECTED, 0);
    return false;
}

/* Address and number of blocks, wherever a command of this length has them. */
struct extent {
    uint64_t lba, count;
    unsigned count_at; /* byte of the command */
};
static struct extent extent(const struct scsi_task *t)
{
    const uint8_t *c = t->cdb;
    switch (c[0] >> 5) {
    case 0:
        return (struct extent){be32(c) & 0x1fffff, c[4] ? c[4] : 256, 4};
    case 4:
        return (struct extent){be64(c + 2), be32(c + 10), 10};
    case 5:
        return (struct extent){be32(c + 2), be32(c + 6), 6};
    default:
        return (struct extent){be32(c + 2), be16(c + 7), 7};
    }
}

static bool small(struct scsi_unit *u, struct scsi_task *t, const struct extent *e, uint64_t most)
{
    if (e->count <= most / u->sector)
        return true;
    bad_field(t, e->count_at, -1);
    return false;
}

static void begin(struct scsi_unit *u, struct scsi_task *t, unsigned work, const struct extent *e)
{
    t->work = e->count ? (uint8_t)work : WORK_NONE;
    t->offset = e->lba * u->sector;
    t->left = e->count * u->sector;
}

static bool not_protected(struct scsi_task *t)
{
    if (t->cdb[0] >> 5 == 0 || !(t->cdb[1] & RWPROTECT))
        return true;
    bad_field(t, 1, 7); /* no protection information here */
    return false;
}

static void move(struct scsi_unit *u, struct scsi_task *t, bool write)
{
    struct extent e = extent(t);
    if (!not_protected(t) || (write && !writable(u, t)) || !in_range(u, t, e.lba, e.count) || !small(u, t, &e, SCSI_TRANSFER_MAX))
        return;
    begin(u, t, WORK_MEDIUM, &e);
    t->data = !e.count ? SCSI_DATA_NONE : write ? SCSI_DATA_OUT : SCSI_DATA_IN;
    t->length = e.count * u->sector;
    bool verify = t->cdb[0] == 0x2e || t->cdb[0] == 0x8e || t->cdb[0] == 0xae;
    t->flush = write && ((t->cdb[0] >> 5 && t->cdb[1] & CDB_FUA) || verify || !u->regs->write_cache);
}

/* Memory for what no initiator's buffer has; false: the task is over. */
static bool take_bounce(struct scsi_unit *u, struct scsi_task *t, uint64_t size)
{
    t->bounce_size = (uint32_t)DP_MIN(size, (uint64_t)SCSI_BOUNCE);
    if (u->bounces < SCSI_BOUNCES && (t->bounce = malloc(t->bounce_size))) {
        u->bounces++;
        return true;
    }
    t->status = SCSI_TASK_SET_FULL; /* later, please */
    t->data = SCSI_DATA_NONE;
    t->length = 0;
    t->work = WORK_NONE;
    return false;
}

static void verify(struct scsi_unit *u, struct scsi_task *t)
{
    struct extent e = extent(t);
    unsigned check = t->cdb[1] >> 1 & BYTCHK;
    if (!not_protected(t))
        return;
    if (check > 1) {
        bad_field(t, 1, 2);
        return;
    }
    if (!in_range(u, t, e.lba, e.count) || !small(u, t, &e, SCSI_TRANSFER_MAX) || !e.count || !take_bounce(u, t, e.count * u->sector))
        return;
    begin(u, t, check ? WORK_COMPARE : WORK_VERIFY, &e);
    t->data = check ? SCSI_DATA_OUT : SCSI_DATA_NONE;
    t->length = check ? t->left : 0;
}

/* All that was written goes to the host's disk, as no one can say which part of it is where. */
static void synchronize(struct scsi_unit *u, struct scsi_task *t)
{
    struct extent e = extent(t);
    if (in_range(u, t, e.lba, e.count))
        t->flush = !dp_block_readonly(u->block);
}

static void same_ready(struct scsi_unit *u, struct scsi_task *t, const uint8_t *block)
{
    struct extent e = extent(t);
    bool zero = true;
    for (unsigned i = 0; block && i < u->sector; i++)
        zero = zero && !block[i];
    begin(u, t, zero ? WORK_ZERO : WORK_PATTERN, &e);
    t->unmap = t->cdb[1] & CDB_SAME_UNMAP;
    t->flush = !u->regs->write_cache;
    if (zero || !take_bounce(u, t, t->left))
        return;
    for (unsigned i = 0; i < t->bounce_size; i += u->sector)
        memcpy(t->bounce + i, block, u->sector);
}

static void write_same(struct scsi_unit *u, struct scsi_task *t)
{
    struct extent e = extent(t);
    bool none = t->cdb[0] == 0x93 && t->cdb[1] & CDB_NDOB;
    if (!not_protected(t))
        return;
    if (t->cdb[1] & 0x10) { /* ANCHOR: what is unmapped here cannot be anchored */
        bad_field(t, 1, 4);
        return;
    }
    if (!writable(u, t) || !in_range(u, t, e.lba, e.count))
        return;
    if (!e.count) { /* WSNZ */
        bad_field(t, e.count_at, -1);
        return;
    }
    if (!small(u, t, &e, SAME_BYTES_MAX))
        return;
    if (none)
        same_ready(u, t, NULL);
    else
        parameters(t, u->sector);
}

static void unmap(struct scsi_unit *u, struct scsi_task *t)
{
    if (t->cdb[1] & CDB_ANCHOR)
        bad_field(t, 1, 0);
    else if (be16(t->cdb + 7) > SCSI_BUFFER)
        bad_field(t, 7, -1);
    else if (writable(u, t))
        parameters(t, be16(t->cdb + 7));
}

/* SBC-3 5.28: nothing is unmapped unless all ranges are right. */
static void take_ranges(struct scsi_unit *u, struct scsi_task *t, const uint8_t *b, uint32_t size)
{
    if (size < UNMAP_HEADER) {
        scsi_fail(t, KEY_ILLEGAL, ASC_LIST_LENGTH, 0);
        return;
    }
    unsigned count = DP_MIN(be16(b + 2), size - UNMAP_HEADER) / UNMAP_RANGE;
    uint64_t all = 0;
    if (count > UNMAP_RANGES_MAX) {
        bad_parameter(t, 2, -1);
        return;
    }
    if (!count)
        return;
    if (!(t->range = malloc(count * sizeof(*t->range)))) {
        t->status = SCSI_TASK_SET_FULL;
        return;
    }
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *p = b + UNMAP_HEADER + i * UNMAP_RANGE;
        uint64_t lba = be64(p), n = be32(p + 8);
        if (!in_range(u, t, lba, n))
            return;
        if (n)
            t->range[t->range_count++] = (struct scsi_range){lba * u->sector, n * u->sector};
        all += n;
    }
    if (all > UNMAP_SECTORS_MAX) {
        bad_parameter(t, UNMAP_HEADER + 8, -1);
        return;
    }
    t->work = t->range_count ? WORK_RANGES : WORK_NONE;
}

static void start_stop(struct scsi_unit *u, struct scsi_task *t)
{
    if (t->cdb[4] >> 4) /* a power condition: they are all the same */
        return;
    if (t->cdb[4] & 2) { /* LOEJ: nothing to load or eject */
        bad_field(t, 4, 1);
        return;
    }
    t->flush = !(t->cdb[4] & 1) && !(t->cdb[4] & 4) && !dp_block_readonly(u->block); /* unless NO_FLUSH */
    u->regs->stopped = !(t->cdb[4] & 1);
}

/* ---- the table ---- */

enum { NEEDS_READY = 1, HAS_ACTION = 2 };
struct command {
    uint8_t operation, action, flags, size;
    uint8_t usage[SCSI_CDB]; /* bits of the command that are looked at (SPC-4 6.35.3) */
};
/* RDPROTECT, DPO and FUA are looked at; DPO makes no difference. */
#define LBA4 0xff, 0xff, 0xff, 0xff
#define LBA8 LBA4, LBA4
static const struct command commands[] = {
    {0x00, 0, NEEDS_READY, 6, {0x00, 0, 0, 0, 0, 4}},                                             /* TEST UNIT READY */
    {0x03, 0, 0, 6, {0x03, 1, 0, 0, 0xff, 4}},                                                    /* REQUEST SENSE */
    {0x08, 0, NEEDS_READY, 6, {0x08, 0x1f, 0xff, 0xff, 0xff, 4}},                                 /* READ (6) */
    {0x0a, 0, NEEDS_READY, 6, {0x0a, 0x1f, 0xff, 0xff, 0xff, 4}},                                 /* WRITE (6) */
    {0x12, 0, 0, 6, {0x12, 1, 0xff, 0xff, 0xff, 4}},                                              /* INQUIRY */
    {0x15, 0, 0, 6, {0x15, 0x11, 0, 0, 0xff, 4}},                                                 /* MODE SELECT (6) */
    {0x1a, 0, 0, 6, {0x1a, 8, 0xff, 0xff, 0xff, 4}},                                              /* MODE SENSE (6) */
    {0x1b, 0, 0, 6, {0x1b, 1, 0, 0, 0xf7, 4}},                                                    /* START STOP UNIT */
    {0x1d, 0, 0, 6, {0x1d, 4, 0, 0, 0, 4}},                                                       /* SEND DIAGNOSTIC: the self-test */
    {0x25, 0, NEEDS_READY, 10, {0x25, 0, LBA4, 0, 0, 0, 4}},                                      /* READ CAPACITY (10) */
    {0x28, 0, NEEDS_READY, 10, {0x28, 0xf8, LBA4, 0, 0xff, 0xff, 4}},                             /* READ (10) */
    {0x2a, 0, NEEDS_READY, 10, {0x2a, 0xf8, LBA4, 0, 0xff, 0xff, 4}},                             /* WRITE (10) */
    {0x2e, 0, NEEDS_READY, 10, {0x2e, 0xf2, LBA4, 0, 0xff, 0xff, 4}},                             /* WRITE AND VERIFY (10) */
    {0x2f, 0, NEEDS_READY, 10, {0x2f, 0xf6, LBA4, 0, 0xff, 0xff, 4}},                             /* VERIFY (10) */
    {0x35, 0, NEEDS_READY, 10, {0x35, 2, LBA4, 0, 0xff, 0xff, 4}},                                /* SYNCHRONIZE CACHE (10) */
    {0x41, 0, NEEDS_READY, 10, {0x41, 0xf8, LBA4, 0, 0xff, 0xff, 4}},                             /* WRITE SAME (10) */
    {0x42, 0, NEEDS_READY, 10, {0x42, 1, 0, 0, 0, 0, 0, 0xff, 0xff, 4}},                          /* UNMAP */
    {0x55, 0, 0, 10, {0x55, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 4}},                                 /* MODE SELECT (10) */
    {0x5a, 0, 0, 10, {0x5a, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 4}},                           /* MODE SENSE (10) */
    {0x88, 0, NEEDS_READY, 16, {0x88, 0xf8, LBA8, LBA4, 0, 4}},                                   /* READ (16) */
    {0x8a, 0, NEEDS_READY, 16, {0x8a, 0xf8, LBA8, LBA4, 0, 4}},                                   /* WRITE (16) */
    {0x8e, 0, NEEDS_READY, 16, {0x8e, 0xf2, LBA8, LBA4, 0, 4}},                                   /* WRITE AND VERIFY (16) */
    {0x8f, 0, NEEDS_READY, 16, {0x8f, 0xf6, LBA8, LBA4, 0, 4}},                                   /* VERIFY (16) */
    {0x91, 0, NEEDS_READY, 16, {0x91, 2, LBA8, LBA4, 0, 4}},                                      /* SYNCHRONIZE CACHE (16) */
    {0x93, 0, NEEDS_READY, 16, {0x93, 0xf9, LBA8, LBA4, 0, 4}},                                   /* WRITE SAME (16) */
    {0x9e, 0x10, NEEDS_READY | HAS_ACTION, 16, {0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, LBA4, 0, 4}}, /* READ CAPACITY (16) */
    {0xa0, 0, 0, 12, {0xa0, 0, 0xff, 0, 0, 0, LBA4, 0, 4}},                                       /* REPORT LUNS */
    {0xa3, 0x0c, HAS_ACTION, 12, {0xa3, 0x0c, 0x87, 0xff, 0xff, 0xff, LBA4, 0, 4}},               /* REPORT SUPPORTED OPERATION CODES */
    {0xa8, 0, NEEDS_READY, 12, {0xa8, 0xf8, LBA4, LBA4, 0, 4}},                                   /* READ (12) */
    {0xaa, 0, NEEDS_READY, 12, {0xaa, 0xf8, LBA4, LBA4, 0, 4}},                                   /* WRITE (12) */
    {0xae, 0, NEEDS_READY, 12, {0xae, 0xf2, LBA4, LBA4, 0, 4}},                                   /* WRITE AND VERIFY (12) */
    {0xaf, 0, NEEDS_READY, 12, {0xaf, 0xf6, LBA4, LBA4, 0, 4}},                                   /* VERIFY (12) */
};

static const struct command *find(uint8_t operation, uint16_t action)
{
    for (unsigned i = 0; i < DP_ARRAY_LEN(commands); i++)
        if (commands[i].operation == operation && (!(commands[i].flags & HAS_ACTION) || commands[i].action == action))
            return &commands[i];
    return NULL;
}

static bool has_actions(uint8_t operation)
{
    for (unsigned i = 0; i < DP_ARRAY_LEN(commands); i++)
        if (commands[i].operation == operation)
            return commands[i].flags & HAS_ACTION;
    return false;
}

static void all_operations(struct scsi_task *t, bool timeouts, uint8_t *b)
{
    unsigned n = 4;
    for (unsigned i = 0; i < DP_ARRAY_LEN(commands); i++) {
        memset(b + n, 0, 20);
        b[n] = commands[i].operation;
        put16(b + n + 2, commands[i].action);
        b[n + 5] = (uint8_t)((commands[i].flags & HAS_ACTION ? 1 : 0) | (timeouts ? 2 : 0));
        put16(b + n + 6, commands[i].size);
        n += 8;
        if (timeouts) { /* a descriptor that says nothing */
            put16(b + n, 10);
            n += 12;
        }
    }
    put32(b, n - 4);
    reply(t, n, be32(t->cdb + 6));
}

static void report_operations(struct scsi_task *t, uint8_t *b)
{
    enum { ALL, OPERATION, ACTION, EITHER, NOT_SUPPORTED = 1, SUPPORTED = 3 };
    bool timeouts = t->cdb[2] & 0x80;
    unsigned options = t->cdb[2] & 7, n = 4;
    uint8_t operation = t->cdb[3];
    if (options > EITHER || (options == OPERATION && has_actions(operation)) ||
        (options == ACTION && find(operation, (uint16_t)be16(t->cdb + 4)) && !has_actions(operation))) {
        bad_field(t, 2, 2);
        return;
    }
    if (options == ALL) {
        all_operations(t, timeouts, b);
        return;
    }
    const struct command *c = find(operation, (uint16_t)be16(t->cdb + 4));
    memset(b, 0, 4 + SCSI_CDB + 12);
    b[1] = c ? SUPPORTED : NOT_SUPPORTED;
    if (c) {
        put16(b + 2, c->size);
        memcpy(b + 4, c->usage, c->size);
        n += c->size;
        if (timeouts) {
            b[1] |= 0x80;
            put16(b + n, 10);
            n += 12;
        }
    }
    reply(t, n, be32(t->cdb + 6));
}

/* ---- the life of a task ---- */

static void dispatch(struct scsi_unit *u, struct scsi_task *t, uint8_t *b)
{
    const uint8_t *c = t->cdb;
    switch (c[0]) {
    case 0x00:
        break;
    case 0x1d: /* nothing to test fails */
        if (be16(c + 3))
            bad_field(t, 3, -1);
        break;
    case 0x15:
        mode_select(t, c[4]);
        break;
    case 0x55:
        mode_select(t, be16(c + 7));
        break;
    case 0x1a:
        mode_sense(u, t, b, 4, c[4]);
        break;
    case 0x5a:
        mode_sense(u, t, b, 8, be16(c + 7));
        break;
    case 0x1b:
        start_stop(u, t);
        break;
    case 0x25:
        read_capacity_10(u, t, b);
        break;
    case 0x9e:
        read_capacity_16(u, t, b);
        break;
    case 0x08:
    case 0x28:
    case 0xa8:
    case 0x88:
        move(u, t, false);
        break;
    case 0x0a:
    case 0x2a:
    case 0xaa:
    case 0x8a:
    case 0x2e:
    case 0xae:
    case 0x8e:
        move(u, t, true);
        break;
    case 0x2f:
    case 0xaf:
    case 0x8f:
        verify(u, t);
        break;
    case 0x35:
    case 0x91:
        synchronize(u, t);
        break;
    case 0x41:
    case 0x93:
        write_same(u, t);
        break;
    case 0x42:
        unmap(u, t);
        break;
    case 0xa3:
        report_operations(t, b);
        break;
    default:
        break;
    }
}

void scsi_begin(struct scsi_unit *u, struct scsi_task *t, const struct scsi_luns *luns, uint8_t *b)
{
    const uint8_t *c = t->cdb;
    switch (c[0]) { /* these answer in all states, of units that are not there, too (SAM-5 5.14, SPC-4 6.4.1) */
    case INQUIRY:
        inquiry(u, t, b);
        return;
    case REPORT_LUNS:
        report_luns(t, luns, b);
        return;
    case REQUEST_SENSE:
        if (u && u->cdrom && !u->regs->attention)
            break;
        request_sense(u, t, b);
        return;
    default:
        break;
    }
    if (!u) {
        scsi_fail(t, KEY_ILLEGAL, ASC_NO_UNIT, 0);
        return;
    }
    if (u->regs->attention) {
        scsi_fail(t, KEY_ATTENTION, u->regs->attention, u->regs->attention_ascq);
        u->regs->attention = u->regs->attention_ascq = 0;
        return;
    }
    if (u->cdrom) {
        t->data = SCSI_DATA_DRIVE;
        return;
    }
    const struct command *command = find(c[0], c[1] & 0x1f);
    if (!command) {
        if (has_actions(c[0])) {
            bad_field(t, 1, 4);
        } else {
            DP_TRACE(u->trace, DP_TRACE_BLOCK, "%s: unknown SCSI command 0x%02x", u->id, c[0]);
            scsi_fail(t, KEY_ILLEGAL, ASC_COMMAND, 0);
        }
        return;
    }
    if (command->flags & NEEDS_READY && u->regs->stopped)
        scsi_fail(t, KEY_NOT_READY, ASC_STOPPED, ASCQ_NEEDS_START);
    else
        dispatch(u, t, b);
}

void scsi_parameters(struct scsi_unit *u, struct scsi_task *t, const uint8_t *b, uint64_t size)
{
    if (size < t->length && t->cdb[0] != 0x42) {
        scsi_fail(t, KEY_ILLEGAL, ASC_LIST_LENGTH, 0);
        return;
    }
    switch (t->cdb[0]) {
    case 0x15:
    case 0x55:
        take_modes(u, t, b, (uint32_t)size);
        break;
    case 0x41:
    case 0x93:
        same_ready(u, t, b);
        break;
    case 0x42:
        take_ranges(u, t, b, (uint32_t)size);
        break;
    default:
        break;
    }
}

bool scsi_next(struct scsi_unit *u, struct scsi_task *t, struct scsi_io *io)
{
    uint64_t chunk = DP_MIN(t->left, (uint64_t)t->bounce_size);
    switch (t->work) {
    case WORK_MEDIUM:
        *io = (struct scsi_io){t->data == SCSI_DATA_OUT ? DP_BLOCK_WRITE : DP_BLOCK_READ, false, t->offset, t->left, NULL};
        return true;
    case WORK_ZERO:
        *io = (struct scsi_io){DP_BLOCK_WRITE_ZEROES, t->unmap, t->offset, t->left, NULL};
        return true;
    case WORK_RANGES:
        *io = (struct scsi_io){DP_BLOCK_DISCARD, true, t->range[t->range_at].offset, t->range[t->range_at].size, NULL};
        return true;
    case WORK_PATTERN:
        *io = (struct scsi_io){DP_BLOCK_WRITE, false, t->offset, chunk, t->bounce};
        return true;
    case WORK_VERIFY:
    case WORK_COMPARE:
        *io = (struct scsi_io){DP_BLOCK_READ, false, t->offset, chunk, t->bounce};
        return true;
    default:
        break;
    }
    if (!t->flush || t->status)
        return false;
    *io = (struct scsi_io){.op = DP_BLOCK_FLUSH};
    return true;
}

/* Where, within n bytes, the data from byte `at` on differ; n: nowhere. */
static uint64_t difference(const uint8_t *bounce, uint64_t n, const struct iovec *data, unsigned count, uint64_t at)
{
    uint64_t done = 0;
    for (unsigned i = 0; i < count && done < n; i++) {
        if (at >= data[i].iov_len) {
            at -= data[i].iov_len;
            continue;
        }
        const uint8_t *p = (const uint8_t *)data[i].iov_base + at;
        uint64_t take = DP_MIN(data[i].iov_len - at, n - done);
        at = 0;
        for (uint64_t k = 0; memcmp(bounce + done, p, take) && k < take; k++) /* the guest may change it meanwhile */
            if (bounce[done + k] != p[k])
                return done + k;
        done += take;
    }
    return n;
}

void scsi_done(struct scsi_unit *u, struct scsi_task *t, int result, const struct iovec *data, unsigned count)
{
    bool reads = (t->work == WORK_MEDIUM && t->data == SCSI_DATA_IN) || t->work == WORK_VERIFY || t->work == WORK_COMPARE;
    if (result) {
        uint64_t moved = t->moved;
        if (result == -ENOSPC || result == -EDQUOT)
            scsi_fail(t, KEY_PROTECT, ASC_PROTECTED, ASCQ_NO_SPACE);
        else if (result == -EROFS)
            scsi_fail(t, KEY_PROTECT, ASC_PROTECTED, 0);
        else
            scsi_fail(t, KEY_MEDIUM, reads ? ASC_READ_ERROR : ASC_WRITE_ERROR, 0);
        t->moved = moved;
        return;
    }
    uint64_t n = t->left;
    switch (t->work) {
    case WORK_NONE:
        t->flush = false;
        return;
    case WORK_RANGES:
        t->work = ++t->range_at < t->range_count ? WORK_RANGES : WORK_NONE;
        return;
    case WORK_PATTERN:
    case WORK_VERIFY:
    case WORK_COMPARE:
        n = DP_MIN(n, (uint64_t)t->bounce_size);
        break;
    default:
        break;
    }
    if (t->work == WORK_COMPARE) {
        uint64_t at = difference(t->bounce, n, data, count, t->moved);
        if (at < n) {
            scsi_fail(t, KEY_MISCOMPARE, ASC_MISCOMPARE, 0);
            t->has_information = true;
            t->information = (uint32_t)(t->moved + at);
            return;
        }
    }
    t->moved += n;
    t->offset += n;
    t->left -= n;
    if (!t->left)
        t->work = WORK_NONE;
}

void scsi_end(struct scsi_unit *u, struct scsi_task *t)
{
    if (t->bounce)
        u->bounces--;
    free(t->bounce);
    free(t->range);
    t->bounce = NULL;
    t->range = NULL;
}
