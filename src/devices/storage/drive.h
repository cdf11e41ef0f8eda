/* devices/storage/drive.h - an ATA disk or ATAPI CD-ROM drive, whatever controller it is on: what drive.c (requests and life), ata.c
 * (commands of disks),
 * atapi.c (packets) and the controllers (ide.c, ahci.c) share.
 *
 * Model: a drive executes one command at a time; `phase` says what it is at. What a phase needs from outside (an image's sectors,
 * guest memory) is started by drive_step() whenever it is possible: while running, with nothing of the drive in flight, and for
 * DMA with the controller ready. So a state loaded in any phase continues by itself, and pausing is no more than not starting and
 * waiting. PIO data pass through `buffer`: [at, stop) is the rest of the block the host is moving (DRQ), [stop, length) follows. DMA
 * of sectors works on pinned guest memory. A controller is a constant table of functions (struct drive_host): where interrupts and DMA go.
 * Queued commands (NCQ) are the controller's own, for they are many at a time; the drive only keeps the log of the one that failed.
 * Invariants: at <= stop <= length <= DRIVE_BUFFER. In flight means BSY, and then only resets change the phase. All functions here are
 * called with the controller's lock held unless said otherwise.
 */
#ifndef DP_DRIVE_H
#define DP_DRIVE_H

#include "block/block.h"
#include "devices/device.h"

enum { DRIVE_SECTOR = 512, DRIVE_CD_SECTOR = 2048, DRIVE_BUFFER = 8192, DRIVE_PINS = 1100, DRIVE_PACKET = 12, DRIVE_MULTIPLE_MAX = 16,
       DRIVE_QUEUE = 32 /* of queued commands */ };
#define DRIVE_DMA_MAX (1u << 20) /* bytes of one request */

/* Status, error, device, device control */
enum { ERR = 0x01, DRQ = 0x08, DSC = 0x10, DF = 0x20, DRDY = 0x40, BSY = 0x80 };
enum { ABRT = 0x04, IDNF = 0x10, UNC = 0x40, WP = 0x40 };
enum { DEVICE_DEV = 0x10, DEVICE_LBA = 0x40, DEVICE_OBSOLETE = 0xa0 };
enum { NIEN = 0x02, SRST = 0x04, HOB = 0x80 };
/* Interrupt reason (sector count register of packet commands) */
enum { REASON_CD = 1, REASON_IO = 2 };

enum { DRIVE_EVENT_NONE, DRIVE_EVENT_EJECT, DRIVE_EVENT_NEW, DRIVE_EVENT_REMOVED }; /* of GET EVENT STATUS NOTIFICATION, class media */

enum drive_kind { DRIVE_NONE, DRIVE_DISK, DRIVE_CDROM };
enum drive_phase {
    PHASE_IDLE,
    PHASE_READ,     /* sectors are to come from the image into the buffer */
    PHASE_IN,       /* the host reads the buffer */
    PHASE_OUT,      /* the host writes the buffer */
    PHASE_WRITE,    /* the buffer is to be written to the image */
    PHASE_FLUSH,
    PHASE_VERIFY,   /* sectors are to be read and forgotten */
    PHASE_DMA_READ, /* sectors to guest memory */
    PHASE_DMA_WRITE,
    PHASE_DMA_BUFFER, /* the buffer to guest memory */
    PHASE_PACKET,   /* the host writes a command packet */
    PHASE_RESET,    /* over when the controller holds the drive in reset no longer and nothing is in flight */
    PHASES
};

/* Registers that are FIFOs of two: [0] the latest, [1] the one before (HOB). */
struct ata_drive_regs {
    uint8_t feature[2], count[2], low[2], mid[2], high[2];
    uint8_t device, status, error, command;
    bool intrq;
    /* what SET FEATURES and the like set */
    uint8_t multiple;             /* sectors of a block; 0: READ MULTIPLE is disabled */
    uint8_t heads, sectors_track; /* current translation */
    uint8_t transfer_mode;        /* by SET FEATURES 03h */
    bool write_cache;
    /* packet devices */
    uint8_t sense_key, asc, ascq;
    bool attention;               /* the medium may have changed, and the host has not been told */
    bool tray_open, locked;
    uint8_t event;                /* for GET EVENT STATUS NOTIFICATION */
    /* the command in execution */
    uint8_t phase;
    bool ext;                     /* it has 48-bit addresses */
    bool careful;                 /* something could not be read or written: sector by sector now, to find out which */
    bool flush_after;
    uint64_t lba;
    uint32_t sectors;             /* still to be read, or written */
    uint32_t unit;                /* bytes of a DRQ block */
    uint32_t at, stop, length;
    uint8_t packet[DRIVE_PACKET];
    uint8_t buffer[DRIVE_BUFFER];
    /* what READ LOG EXT tells of the queued command that failed; log_valid: there is one */
    bool log_valid;
    uint8_t log_tag, log_status, log_error;
    uint64_t log_lba;
    uint16_t log_count;
};

extern const struct dp_state_table drive_table;
/* As the table's check and clamp, which a table that contains it must call itself. */
int drive_check(const void *regs, struct dp_error *e);
void drive_clamp(void *regs);

struct ata_drive;
enum gather { GATHERED, TABLE_SHORT, TABLE_BAD };
/* What a controller does for its drives. */
struct drive_host {
    void (*raise)(struct ata_drive *d); /* INTRQ */
    bool (*dma_ready)(struct ata_drive *d);
    /* Pins as many whole sectors of the guest's memory as possible, `want` bytes at most, into d->pin, and moves on past them. */
    enum gather (*dma_gather)(struct ata_drive *d, uint64_t want, bool for_write, uint64_t *size);
    bool (*dma_rewind)(struct ata_drive *d); /* back to before the last gather; false: that place is no more */
    void (*dma_failed)(struct ata_drive *d, enum gather why);
    void (*dma_buffer)(struct ata_drive *d); /* [at, length) to the guest, then completes */
    void (*dma_end)(struct ata_drive *d);    /* all sectors are moved */
    bool (*in_reset)(struct ata_drive *d);
    void (*reset_done)(struct ata_drive *d); /* may be NULL */
    void (*settle)(struct dp_device *owner); /* no lock held: starts what can be started */
};

struct ata_drive {
    const struct drive_host *host;
    struct dp_device *owner;
    const bool *running;          /* the controller's */
    struct ata_drive_regs *regs;
    unsigned n;
    enum drive_kind kind;
    bool sata;                    /* knows queued commands and logs */
    struct dp_block *block;
    const char *serial;
    uint16_t cylinders;           /* default translation */
    uint8_t heads, sectors_track;
    struct dp_block_request io;
    bool in_flight;
    bool stale;                   /* the request in flight is of a time before a hardware reset */
    bool changing;                /* the medium: nothing may be submitted */
    uint32_t io_sectors;
    uint8_t *bounce;              /* DRIVE_BUFFER */
    unsigned pin_count;
    struct iovec iov[DRIVE_PINS];
    struct dp_pin pin[DRIVE_PINS];
};

static inline unsigned drive_sector_size(const struct ata_drive *d) { return d->kind == DRIVE_CDROM ? DRIVE_CD_SECTOR : DRIVE_SECTOR; }
static inline void drive_raise(struct ata_drive *d) { d->host->raise(d); }
/* Sectors of the image; 0 without one. */
static inline uint64_t drive_capacity(const struct ata_drive *d) { return d->block ? dp_block_size(d->block) / drive_sector_size(d) : 0; }

/* ---- drive.c ---- */

/* After kind, block, serial, host, owner, regs, running and n are set: memory and geometry. */
int drive_init(struct ata_drive *d, struct dp_error *e) DP_MUST_CHECK;
void drive_fini(struct ata_drive *d);
/* After the table's reset: a drive as after power-on. */
void drive_power_on(struct ata_drive *d);
/* Does what the phase asks for. True: d->io is to be submitted to d->block, without lock. */
bool drive_step(struct ata_drive *d);
/* A command from the host, which may be given: not busy. */
void drive_command(struct ata_drive *d, uint8_t command);
/* The host moved what [at, stop) was. */
void drive_block_done(struct ata_drive *d);
/* By software; what is in flight is waited for. */
void drive_reset(struct ata_drive *d);
/* No lock held: waits until nothing of the drive is in flight, with whatever the controller's state starts meanwhile. */
void drive_drain(struct ata_drive *d);
/* No lock held. As dp_ide_change_medium. */
int drive_change_medium(struct ata_drive *d, struct dp_block *block, struct dp_error *e) DP_MUST_CHECK;

/* Phase IDLE with DRDY, and INTRQ. */
void drive_complete(struct ata_drive *d);
/* The phase needs the image: BSY. */
void drive_busy(struct ata_drive *d, enum drive_phase phase);
/* Waits for the controller's DMA. */
void drive_dma(struct ata_drive *d, enum drive_phase phase);
/* A drive's registers as after a reset; what SET FEATURES set remains. */
void drive_signature(struct ata_drive *d);
void drive_feature_transfer_mode(struct ata_drive *d, uint8_t mode);
/* Characters of an ATA string: pairs swapped, padded with spaces. */
void drive_string(uint8_t *out, const char *text, unsigned size);
/* Last byte of identify data and logs, over the rest. */
void drive_checksum(uint8_t *data);
/* Word 255 of identify data, over the rest. */
void drive_integrity(uint8_t *data);
/* The words about transfer modes, which disks and packet devices share. */
void drive_identify_modes(struct ata_drive *d, uint8_t *data);
void drive_unpin(struct ata_drive *d, unsigned first, bool written);

/* ---- ata.c ---- */

void ata_command(struct ata_drive *d, uint8_t command);
void ata_identify_geometry(struct ata_drive *d);
/* Aborts with the given error bits. */
void ata_fail(struct ata_drive *d, uint8_t error);
/* The image failed at r->lba, which goes into the registers. */
void ata_io_error(struct ata_drive *d, bool write);
/* After sectors were moved between image and buffer: the next thing to do. */
void ata_advance(struct ata_drive *d);
/* The host moved a whole DRQ block. */
void ata_block_done(struct ata_drive *d);

/* ---- atapi.c ---- */

void atapi_command(struct ata_drive *d, uint8_t command);
void atapi_packet(struct ata_drive *d);
void atapi_io_error(struct ata_drive *d);
void atapi_advance(struct ata_drive *d);
void atapi_block_done(struct ata_drive *d);
void atapi_sense(struct ata_drive *d, uint8_t key, uint8_t asc, uint8_t ascq);
/* d->block is another. */
void atapi_medium_changed(struct ata_drive *d);
/* All of the command's data are moved. */
void atapi_complete(struct ata_drive *d);

#endif
