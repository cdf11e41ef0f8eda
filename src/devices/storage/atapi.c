/* atapi.c - the commands of ATAPI CD-ROM drives.
 *
 * Model: PACKET takes twelve bytes, then the packet's command runs. What it answers lies in the buffer, or it is sectors of the image;
 * either goes to the host by PIO, in blocks of at most what the byte count registers said, or by DMA (feature bit 0). A disc is one
 * data track of 2048-byte sectors. It is a CD-ROM or, when longer than any CD, a DVD-ROM. No audio, no raw sectors. Sense data are of
 * the last command, and kept for REQUEST SENSE. A changed medium is told once by a unit attention (6/28/00).
 * Invariants: a reply is no longer than the allocation length of its packet. What the packet says is used from one copy, in the
 * registers.
 * Source: ATA/ATAPI-6 8.23, 9.8, 9.9 (protocol), SFF-8020i 2.6 ch. 10, MMC-3 (T10 1363D) ch. 6, SPC-2 (sense data).
 */
#include "devices/storage/drive.h"

enum { NOP = 0x00, PACKET = 0xa0, IDENTIFY_PACKET = 0xa1, READ_SECTORS = 0x20, STANDBY_IMMEDIATE = 0xe0, IDLE_IMMEDIATE = 0xe1,
       CHECK_POWER = 0xe5, SLEEP = 0xe6, FLUSH_CACHE = 0xe7, IDENTIFY = 0xec, SET_FEATURES = 0xef };
enum { FEATURE_DMA = 1, FEATURE_OVERLAP = 2, FEATURE_TRANSFER_MODE = 0x03, FEATURE_NO_REVERT = 0x66, FEATURE_REVERT = 0xcc };
enum { /* packets */
    TEST_UNIT_READY = 0x00, REQUEST_SENSE = 0x03, INQUIRY = 0x12, MODE_SELECT_6 = 0x15, MODE_SENSE_6 = 0x1a, START_STOP = 0x1b,
    PREVENT_ALLOW = 0x1e, READ_CAPACITY = 0x25, READ_10 = 0x28, SEEK_10 = 0x2b, READ_SUB_CHANNEL = 0x42, READ_TOC = 0x43,
    READ_HEADER = 0x44, GET_CONFIGURATION = 0x46, GET_EVENT = 0x4a, STOP_PLAY = 0x4e, READ_DISC_INFORMATION = 0x51,
    READ_TRACK_INFORMATION = 0x52, MODE_SELECT_10 = 0x55, MODE_SENSE_10 = 0x5a, READ_12 = 0xa8, READ_CD_MSF = 0xb9, SET_SPEED = 0xbb,
    MECHANISM_STATUS = 0xbd, READ_CD = 0xbe
};
enum { KEY_NOT_READY = 2, KEY_MEDIUM = 3, KEY_ILLEGAL = 5, KEY_ATTENTION = 6 };
enum { ASC_UNRECOVERED = 0x11, ASC_COMMAND = 0x20, ASC_RANGE = 0x21, ASC_FIELD = 0x24, ASC_CHANGED = 0x28, ASC_NO_SAVING = 0x39,
       ASC_NO_MEDIUM = 0x3a, ASC_PREVENTED = 0x53, ASC_TRACK_MODE = 0x64 };
enum { PROFILE_CD = 0x08, PROFILE_DVD = 0x10, LEAD_OUT = 0xaa, MSF_OFFSET = 150, CD_SECTORS_MAX = 450000 /* 100 minutes */ };

static uint32_t be16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static uint32_t be32(const uint8_t *p) { return be16(p) << 16 | be16(p + 2); }
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

static bool has_medium(struct ata_drive *d) { return drive_capacity(d) && !d->regs->tray_open; }
static uint32_t disc_sectors(struct ata_drive *d) { return (uint32_t)DP_MIN(drive_capacity(d), (uint64_t)UINT32_MAX); }

/* ---- endings ---- */

void atapi_complete(struct ata_drive *d)
{
    d->regs->count[0] = REASON_IO | REASON_CD;
    drive_complete(d);
}

void atapi_sense(struct ata_drive *d, uint8_t key, uint8_t asc, uint8_t ascq)
{
    struct ata_drive_regs *r = d->regs;
    atapi_complete(d);
    r->sense_key = key;
    r->asc = asc;
    r->ascq = ascq;
    r->error = (uint8_t)(key << 4 | ABRT);
    r->status |= ERR;
}

static void no_medium(struct ata_drive *d) { atapi_sense(d, KEY_NOT_READY, ASC_NO_MEDIUM, d->regs->tray_open ? 2 : 1); }
static void bad_field(struct ata_drive *d) { atapi_sense(d, KEY_ILLEGAL, ASC_FIELD, 0); }

void atapi_io_error(struct ata_drive *d)
{
    if (!has_medium(d))
        no_medium(d);
    else if (d->regs->lba >= drive_capacity(d))
        atapi_sense(d, KEY_ILLEGAL, ASC_RANGE, 0);
    else
        atapi_sense(d, KEY_MEDIUM, ASC_UNRECOVERED, 0);
}

void atapi_medium_changed(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    bool was = r->phase == PHASE_READ || r->phase == PHASE_DMA_READ;
    r->tray_open = false;
    r->locked &= d->block != NULL;
    r->attention = d->block != NULL;
    r->event = d->block ? DRIVE_EVENT_NEW : DRIVE_EVENT_REMOVED;
    if (!was)
        return;
    if (d->block) {
        r->attention = false;
        atapi_sense(d, KEY_ATTENTION, ASC_CHANGED, 0);
    } else {
        no_medium(d);
    }
}

/* ---- data ---- */

static void show_block(struct ata_drive *d, enum drive_phase phase, uint32_t bytes, uint8_t reason)
{
    struct ata_drive_regs *r = d->regs;
    r->stop = r->at + bytes;
    r->mid[0] = (uint8_t)bytes;
    r->high[0] = (uint8_t)(bytes >> 8);
    r->count[0] = reason;
    r->phase = phase;
    r->status = DRDY | DSC | DRQ;
    drive_raise(d);
}

/* A block that is not the last must be even; whole sectors where the limit allows them. */
static void offer(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint32_t left = r->length - r->at, n = DP_MIN(DP_MAX(r->unit & ~1u, 2u), left);
    if (n < left && n > DRIVE_CD_SECTOR)
        n -= n % DRIVE_CD_SECTOR;
    show_block(d, PHASE_IN, n, REASON_IO);
}

void atapi_advance(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint32_t fill = r->careful ? DRIVE_CD_SECTOR : DRIVE_BUFFER;
    if (r->phase != PHASE_READ) {
        atapi_complete(d);
        return;
    }
    if (r->sectors && r->length + DRIVE_CD_SECTOR <= fill)
        drive_busy(d, PHASE_READ);
    else
        offer(d);
}

void atapi_block_done(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    if (r->phase == PHASE_IN && r->at < r->length) {
        offer(d);
    } else if (r->phase == PHASE_IN && r->sectors) {
        r->at = r->stop = r->length = 0;
        drive_busy(d, PHASE_READ);
    } else if (r->command != PACKET) { /* IDENTIFY: a PIO data-in command, with nothing more to tell */
        r->phase = PHASE_IDLE;
        r->status = DRDY | DSC;
    } else { /* what a MODE SELECT sends changes nothing here */
        atapi_complete(d);
    }
}

/* The buffer's first bytes are the answer. */
static void reply(struct ata_drive *d, uint32_t bytes, uint32_t allocated)
{
    struct ata_drive_regs *r = d->regs;
    r->at = r->stop = 0;
    r->length = DP_MIN(bytes, allocated);
    if (!r->length)
        atapi_complete(d);
    else if (r->feature[0] & FEATURE_DMA)
        drive_dma(d, PHASE_DMA_BUFFER);
    else
        offer(d);
}

static void receive(struct ata_drive *d, uint32_t bytes)
{
    struct ata_drive_regs *r = d->regs;
    if (!bytes) {
        atapi_complete(d);
    } else if ((r->feature[0] & FEATURE_DMA) || bytes > DRIVE_BUFFER || bytes > r->unit) {
        bad_field(d);
    } else {
        r->at = 0;
        r->length = bytes;
        show_block(d, PHASE_OUT, bytes, 0);
    }
}

static void read_sectors(struct ata_drive *d, uint32_t lba, uint32_t n)
{
    struct ata_drive_regs *r = d->regs;
    uint32_t sectors = disc_sectors(d);
    if (lba > sectors || n > sectors - lba) {
        atapi_sense(d, KEY_ILLEGAL, ASC_RANGE, 0);
        return;
    }
    if (!n) {
        atapi_complete(d);
        return;
    }
    r->lba = lba;
    r->sectors = n;
    r->at = r->stop = r->length = 0;
    if (r->feature[0] & FEATURE_DMA)
        drive_dma(d, PHASE_DMA_READ);
    else
        drive_busy(d, PHASE_READ);
}

/* ---- answers ---- */

static void request_sense(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint8_t *b = r->buffer;
    if (!r->sense_key && r->attention) {
        r->sense_key = KEY_ATTENTION;
        r->asc = ASC_CHANGED;
        r->attention = false;
    }
    memset(b, 0, 18);
    b[0] = 0x70;
    b[2] = r->sense_key;
    b[7] = 10;
    b[12] = r->asc;
    b[13] = r->ascq;
    r->sense_key = r->asc = r->ascq = 0;
    reply(d, 18, r->packet[4]);
}

static void inquiry(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint8_t *b = r->buffer;
    if (r->packet[1] & 1) { /* vital product data */
        bad_field(d);
        return;
    }
    memset(b, 0, 36);
    b[0] = 5;    /* CD-ROM */
    b[1] = 0x80; /* removable medium */
    b[3] = 0x21; /* ATAPI, format 1 */
    b[4] = 31;
    memcpy(b + 8, "DOPPEL  CD-ROM          1.0 ", 28);
    reply(d, 36, r->packet[4]);
}

static unsigned page_capabilities(struct ata_drive *d, uint8_t *b)
{
    memset(b, 0, 22);
    b[0] = 0x2a;
    b[1] = 20;
    b[2] = 0x0b;  /* reads CD-R, CD-RW, DVD-ROM */
    b[4] = 0x10;  /* mode 2 form 1 */
    b[6] = 0x29 | (d->regs->locked ? 2 : 0); /* tray, can eject, can lock */
    put16(b + 8, 706); /* kB/s */
    put16(b + 10, 2);
    put16(b + 12, 512);
    put16(b + 14, 706);
    return 22;
}

static unsigned mode_page(struct ata_drive *d, unsigned page, uint8_t *b)
{
    switch (page) {
    case 0x01: /* error recovery */
        memset(b, 0, 8);
        b[0] = 0x01;
        b[1] = 6;
        b[3] = 5;
        return 8;
    case 0x0e: /* audio: two channels at full volume */
        memset(b, 0, 16);
        b[0] = 0x0e;
        b[1] = 14;
        b[2] = 4;
        b[8] = 1;
        b[10] = 2;
        b[9] = b[11] = 0xff;
        return 16;
    case 0x2a: return page_capabilities(d, b);
    default: return 0;
    }
}

static void mode_sense(struct ata_drive *d, unsigned header, uint32_t allocated)
{
    static const uint8_t all[] = { 0x01, 0x0e, 0x2a };
    struct ata_drive_regs *r = d->regs;
    uint8_t *b = r->buffer;
    unsigned page = r->packet[2] & 0x3f, control = r->packet[2] >> 6, size = header;
    if (control == 3) {
        atapi_sense(d, KEY_ILLEGAL, ASC_NO_SAVING, 0);
        return;
    }
    for (unsigned i = 0; i < DP_ARRAY_LEN(all); i++) {
        if (page != 0x3f && page != all[i])
            continue;
        unsigned n = mode_page(d, all[i], b + size);
        if (control == 1)
            memset(b + size + 2, 0, n - 2); /* nothing can be changed */
        size += n;
    }
    if (size == header) {
        bad_field(d);
        return;
    }
    memset(b, 0, header);
    unsigned type = r->tray_open ? 0x71 : has_medium(d) ? 0x01 : 0x70;
    if (header == 8) {
        put16(b, size - 2);
        b[2] = type;
    } else {
        b[0] = size - 1;
        b[1] = type;
    }
    reply(d, size, allocated);
}

static void put_address(uint8_t *b, uint32_t lba, bool msf)
{
    if (!msf) {
        put32(b, lba);
        return;
    }
    lba += MSF_OFFSET;
    b[0] = 0;
    b[1] = (uint8_t)DP_MIN(lba / (75 * 60), 255u);
    b[2] = lba / 75 % 60;
    b[3] = lba % 75;
}

static uint8_t *toc_track(uint8_t *b, uint8_t track, uint32_t lba, bool msf)
{
    b[0] = b[3] = 0;
    b[1] = 0x14; /* a data track */
    b[2] = track;
    put_address(b + 4, lba, msf);
    return b + 8;
}

static uint8_t *toc_raw(uint8_t *b, uint8_t point, uint8_t m, uint8_t s, uint8_t f)
{
    memset(b, 0, 11);
    b[0] = 1; /* session */
    b[1] = 0x14;
    b[3] = point;
    b[8] = m;
    b[9] = s;
    b[10] = f;
    return b + 11;
}

static void read_toc(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint8_t *b = r->buffer, *end = b + 4, lead_out[4];
    bool msf = r->packet[1] & 2;
    unsigned format = r->packet[2] & 15 ? r->packet[2] & 15 : r->packet[9] >> 6, track = r->packet[6]; /* SFF-8020i has the format there */
    b[2] = b[3] = 1;
    switch (format) {
    case 0:
        if (track > 1 && track != LEAD_OUT) {
            bad_field(d);
            return;
        }
        if (track <= 1)
            end = toc_track(end, 1, 0, msf);
        end = toc_track(end, LEAD_OUT, disc_sectors(d), msf);
        break;
    case 1: end = toc_track(end, 1, 0, msf); break;
    case 2:
        put_address(lead_out, disc_sectors(d), true);
        end = toc_raw(end, 0xa0, 1, 0, 0);
        end = toc_raw(end, 0xa1, 1, 0, 0);
        end = toc_raw(end, 0xa2, lead_out[1], lead_out[2], lead_out[3]);
        end = toc_raw(end, 1, 0, 2, 0);
        break;
    default: bad_field(d); return;
    }
    put16(b, (uint32_t)(end - b) - 2);
    reply(d, (uint32_t)(end - b), be16(r->packet + 7));
}

static void read_sub_channel(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint8_t *b = r->buffer;
    unsigned format = r->packet[3], data = 0;
    memset(b, 0, 24);
    b[1] = 0x15; /* no audio status */
    if (r->packet[2] & 0x40) {
        if (format < 1 || format > 3) {
            bad_field(d);
            return;
        }
        data = format == 1 ? 12 : 20;
        b[4] = format;
        if (format == 1) { /* the position: where the track begins */
            b[5] = 0x14;
            b[6] = b[7] = 1;
            put_address(b + 8, 0, r->packet[1] & 2);
        }
    }
    put16(b + 2, data);
    reply(d, 4 + data, be16(r->packet + 7));
}

static unsigned profile(struct ata_drive *d)
{
    return !has_medium(d) ? 0 : drive_capacity(d) > CD_SECTORS_MAX ? PROFILE_DVD : PROFILE_CD;
}

static void get_configuration(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    unsigned now = profile(d), first = be16(r->packet + 2), which = r->packet[1] & 3, size = 8;
    const struct { uint16_t code; uint8_t version; bool persistent, current; uint8_t bytes, data[8]; } features[] = {
        { 0x0000, 0, true, true, 8, { 0, PROFILE_CD, now == PROFILE_CD, 0, 0, PROFILE_DVD, now == PROFILE_DVD, 0 } },
        { 0x0001, 0, true, true, 4, { 0, 0, 0, 2 } },                       /* core: by ATAPI */
        { 0x0002, 0, true, true, 4, { 0 } },                                /* morphing */
        { 0x0003, 0, true, true, 4, { 0x29 } },                             /* removable medium: tray, eject, lock */
        { 0x0010, 0, false, now, 8, { 0, 0, 8, 0, 0, 16, 0, 0 } },          /* random readable: 2048 bytes, 16 blocks */
        { 0x001e, 0, false, now == PROFILE_CD, 4, { 0 } },                  /* CD read */
        { 0x001f, 0, false, now == PROFILE_DVD, 4, { 0 } },                 /* DVD read */
        { 0x0100, 0, true, true, 0, { 0 } },                                /* power management */
    };
    uint8_t *b = r->buffer;
    if (which == 3) {
        bad_field(d);
        return;
    }
    for (unsigned i = 0; i < DP_ARRAY_LEN(features); i++) {
        if (which == 2 ? features[i].code != first : features[i].code < first || (which == 1 && !features[i].current))
            continue;
        put16(b + size, features[i].code);
        b[size + 2] = features[i].version << 2 | features[i].persistent << 1 | features[i].current;
        b[size + 3] = features[i].bytes;
        memcpy(b + size + 4, features[i].data, features[i].bytes);
        size += 4 + features[i].bytes;
    }
    memset(b, 0, 8);
    put32(b, size - 4);
    put16(b + 6, now);
    reply(d, size, be16(r->packet + 7));
}

static void get_event(struct ata_drive *d)
{
    enum { POLLED = 1, CLASS_MEDIA = 4, NONE = 0x80 };
    struct ata_drive_regs *r = d->regs;
    uint8_t *b = r->buffer;
    if (!(r->packet[1] & POLLED)) { /* no queueing here */
        bad_field(d);
        return;
    }
    bool media = r->packet[4] & 1 << CLASS_MEDIA;
    unsigned size = media ? 8 : 4;
    memset(b, 0, 8);
    put16(b, size - 2);
    b[2] = media ? CLASS_MEDIA : NONE;
    b[3] = 1 << CLASS_MEDIA;
    if (media) {
        b[4] = r->event;
        b[5] = (r->tray_open ? 1 : 0) | (has_medium(d) ? 2 : 0);
        if (be16(r->packet + 7) > 4)
            r->event = DRIVE_EVENT_NONE;
    }
    reply(d, size, be16(r->packet + 7));
}

static void read_disc_information(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint8_t *b = r->buffer;
    memset(b, 0, 34);
    put16(b, 32);
    b[2] = 0x0e; /* complete, and so is its last session */
    b[3] = b[4] = b[5] = b[6] = 1;
    b[7] = 0x20; /* unrestricted use */
    reply(d, 34, be16(r->packet + 7));
}

/* By address or by number; there is one track, and the lead-out has none. */
static void read_track_information(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint8_t *b = r->buffer;
    uint32_t what = be32(r->packet + 2);
    unsigned by = r->packet[1] & 3;
    if (by == 3 || (by ? what != 1 : what >= disc_sectors(d))) {
        bad_field(d);
        return;
    }
    memset(b, 0, 36);
    put16(b, 34);
    b[2] = b[3] = 1; /* track, session */
    b[5] = 4;        /* data */
    b[6] = 1;        /* mode 1 */
    put32(b + 24, disc_sectors(d));
    reply(d, 36, be16(r->packet + 7));
}

static void read_header(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint32_t lba = be32(r->packet + 2);
    if (lba >= disc_sectors(d)) {
        atapi_sense(d, KEY_ILLEGAL, ASC_RANGE, 0);
        return;
    }
    memset(r->buffer, 0, 8);
    r->buffer[0] = 1; /* mode 1 */
    put_address(r->buffer + 4, lba, r->packet[1] & 2);
    reply(d, 8, be16(r->packet + 7));
}

static void start_stop(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    bool start = r->packet[4] & 1, load_eject = r->packet[4] & 2;
    if (load_eject && !(r->packet[4] >> 4)) {
        if (!start && r->locked && !r->tray_open) {
            atapi_sense(d, KEY_ILLEGAL, ASC_PREVENTED, 2);
            return;
        }
        if (start && r->tray_open) {
            r->tray_open = false;
            r->attention = d->block != NULL;
            r->event = d->block ? DRIVE_EVENT_NEW : DRIVE_EVENT_NONE;
        } else if (!start && !r->tray_open) {
            r->tray_open = true;
            r->attention = false;
            r->event = DRIVE_EVENT_REMOVED;
        }
    }
    atapi_complete(d);
}

static void read_cd(struct ata_drive *d, uint32_t lba, uint32_t n)
{
    const uint8_t *p = d->regs->packet;
    unsigned type = p[1] >> 2 & 7, what = p[9] & 0xf8;
    if (type != 0 && type != 2)
        atapi_sense(d, KEY_ILLEGAL, ASC_TRACK_MODE, 0);
    else if (what == 0x10 && !(p[9] & 6) && !(p[10] & 7)) /* user data, no error flags, no sub-channels */
        read_sectors(d, lba, n);
    else if (what || (p[9] & 6) || (p[10] & 7))
        bad_field(d);
    else
        atapi_complete(d);
}

static void read_cd_msf(struct ata_drive *d)
{
    const uint8_t *p = d->regs->packet;
    uint32_t from = (p[3] * 60u + p[4]) * 75 + p[5], to = (p[6] * 60u + p[7]) * 75 + p[8];
    if (from < MSF_OFFSET || to < from)
        bad_field(d);
    else
        read_cd(d, from - MSF_OFFSET, to - from);
}

/* ---- packets ---- */

static bool tolerates_attention(uint8_t command)
{
    return command == INQUIRY || command == REQUEST_SENSE || command == GET_CONFIGURATION || command == GET_EVENT;
}

static bool needs_medium(uint8_t command)
{
    switch (command) {
    case TEST_UNIT_READY: case READ_CAPACITY: case READ_10: case SEEK_10: case READ_SUB_CHANNEL: case READ_TOC: case READ_DISC_INFORMATION:
    case READ_HEADER: case READ_TRACK_INFORMATION:
    case READ_12: case READ_CD_MSF: case READ_CD: return true;
    default: return false;
    }
}

static void read_capacity(struct ata_drive *d)
{
    uint8_t *b = d->regs->buffer;
    put32(b, disc_sectors(d) - 1);
    put32(b + 4, DRIVE_CD_SECTOR);
    reply(d, 8, 8);
}

static void mechanism_status(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    memset(r->buffer, 0, 8);
    r->buffer[1] = r->tray_open ? 0x10 : 0;
    r->buffer[5] = 1; /* slot */
    reply(d, 8, be16(r->packet + 8));
}

void atapi_packet(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    const uint8_t *p = r->packet;
    memcpy(r->packet, r->buffer, DRIVE_PACKET);
    r->at = r->stop = r->length = 0;
    DP_TRACE(d->owner->env->trace, DP_TRACE_BLOCK, "%s: drive %u: packet %02x %02x%02x%02x%02x %02x%02x%02x%02x",
             d->owner->id, d->n, p[0], p[2], p[3], p[4], p[5], p[6], p[7], p[8], p[9]);
    if (r->attention && !tolerates_attention(p[0])) {
        r->attention = false;
        atapi_sense(d, KEY_ATTENTION, ASC_CHANGED, 0);
        return;
    }
    if (p[0] != REQUEST_SENSE)
        r->sense_key = r->asc = r->ascq = 0;
    if (needs_medium(p[0]) && !has_medium(d)) {
        no_medium(d);
        return;
    }
    switch (p[0]) {
    case TEST_UNIT_READY: case STOP_PLAY: case SET_SPEED: atapi_complete(d); break;
    case REQUEST_SENSE: request_sense(d); break;
    case INQUIRY: inquiry(d); break;
    case MODE_SELECT_6: receive(d, p[4]); break;
    case MODE_SELECT_10: receive(d, be16(p + 7)); break;
    case MODE_SENSE_6: mode_sense(d, 4, p[4]); break;
    case MODE_SENSE_10: mode_sense(d, 8, be16(p + 7)); break;
    case START_STOP: start_stop(d); break;
    case PREVENT_ALLOW:
        r->locked = p[4] & 1;
        atapi_complete(d);
        break;
    case READ_CAPACITY: read_capacity(d); break;
    case READ_10: read_sectors(d, be32(p + 2), be16(p + 7)); break;
    case READ_12: read_sectors(d, be32(p + 2), be32(p + 6)); break;
    case READ_CD: read_cd(d, be32(p + 2), (uint32_t)p[6] << 16 | be16(p + 7)); break;
    case READ_CD_MSF: read_cd_msf(d); break;
    case SEEK_10:
        if (be32(p + 2) < disc_sectors(d))
            atapi_complete(d);
        else
            atapi_sense(d, KEY_ILLEGAL, ASC_RANGE, 0);
        break;
    case READ_SUB_CHANNEL: read_sub_channel(d); break;
    case READ_TOC: read_toc(d); break;
    case GET_CONFIGURATION: get_configuration(d); break;
    case GET_EVENT: get_event(d); break;
    case READ_HEADER: read_header(d); break;
    case READ_DISC_INFORMATION: read_disc_information(d); break;
    case READ_TRACK_INFORMATION: read_track_information(d); break;
    case MECHANISM_STATUS: mechanism_status(d); break;
    default:
        DP_TRACE(d->owner->env->trace, DP_TRACE_BLOCK, "%s: drive %u: unknown packet 0x%02x", d->owner->id, d->n, p[0]);
        atapi_sense(d, KEY_ILLEGAL, ASC_COMMAND, 0);
        break;
    }
}

/* ---- commands ---- */

static void identify_packet(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint8_t *b = r->buffer;
    char serial[21];
    memset(b, 0, DRIVE_SECTOR);
    dp_st16(b + 2 * 0, 0x85c0); /* ATAPI CD-ROM, removable, ready for a packet within 50 us without an interrupt, packets of 12 bytes */
    snprintf(serial, sizeof(serial), "DPL%05u", d->n + 1);
    drive_string(b + 2 * 10, serial, 20);
    dp_st16(b + 2 * 20, 3);
    dp_st16(b + 2 * 21, DRIVE_BUFFER / DRIVE_SECTOR);
    drive_string(b + 2 * 23, "1.0", 8);
    drive_string(b + 2 * 27, "DOPPEL CD-ROM", 40);
    drive_identify_modes(d, b);
    dp_st16(b + 2 * 82, 0x0210); /* packets, DEVICE RESET */
    dp_st16(b + 2 * 83, 0x4000);
    dp_st16(b + 2 * 84, 0x4000);
    dp_st16(b + 2 * 85, 0x0210);
    dp_st16(b + 2 * 87, 0x4000);
    drive_integrity(b);
    r->at = 0;
    r->length = DRIVE_SECTOR;
    r->unit = DRIVE_SECTOR;
    r->stop = DRIVE_SECTOR;
    r->phase = PHASE_IN;
    r->status = DRDY | DSC | DRQ;
    drive_raise(d);
}

static void packet(struct ata_drive *d)
{
    struct ata_drive_regs *r = d->regs;
    uint32_t limit = r->mid[0] | (uint32_t)r->high[0] << 8;
    if (r->feature[0] & FEATURE_OVERLAP) {
        ata_fail(d, ABRT);
        return;
    }
    r->unit = !limit || limit == 0xffff ? 0xfffe : limit;
    r->at = 0;
    r->stop = r->length = DRIVE_PACKET;
    r->count[0] = REASON_CD;
    r->phase = PHASE_PACKET;
    r->status = DRDY | DSC | DRQ;
}

void atapi_command(struct ata_drive *d, uint8_t command)
{
    struct ata_drive_regs *r = d->regs;
    switch (command) {
    case PACKET: packet(d); break;
    case IDENTIFY_PACKET: identify_packet(d); break;
    case IDENTIFY: case READ_SECTORS: /* how software finds out that this is a packet device */
        drive_signature(d);
        ata_fail(d, ABRT);
        break;
    case SET_FEATURES:
        if (r->feature[0] == FEATURE_TRANSFER_MODE)
            drive_feature_transfer_mode(d, r->count[0]);
        else if (r->feature[0] == FEATURE_NO_REVERT || r->feature[0] == FEATURE_REVERT)
            drive_complete(d);
        else
            ata_fail(d, ABRT);
        break;
    case CHECK_POWER: r->count[0] = 0xff; drive_complete(d); break;
    case STANDBY_IMMEDIATE: case IDLE_IMMEDIATE: case SLEEP: case FLUSH_CACHE: drive_complete(d); break;
    case NOP:
    default: ata_fail(d, ABRT); break;
    }
}
