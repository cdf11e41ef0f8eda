/* devices/storage/ide_internal.h - what ide.c (channels, bus master, life), ata.c (disks) and atapi.c (CD-ROM drives) share.
 *
 * Model: a drive executes one command at a time; `phase` says what it is at. What a phase needs from outside (an image's sectors,
 * guest memory) is started by settle() in ide.c whenever it is possible: while running, with nothing of the drive in flight, and for
 * DMA with the bus master started. So a state loaded in any phase continues by itself, and pausing is no more than not starting and
 * waiting. PIO data pass through `buffer`: [at, stop) is the rest of the block the host is moving (DRQ), [stop, length) follows. DMA
 * of sectors works on pinned guest memory.
 * Invariants: at <= stop <= length <= IDE_BUFFER. In flight means BSY, and then only resets change the phase. All functions here are
 * called with the device's lock held unless said otherwise.
 */
#ifndef DP_IDE_INTERNAL_H
#define DP_IDE_INTERNAL_H

#include "devices/storage/ide.h"

enum { IDE_SECTOR = 512, IDE_CD_SECTOR = 2048, IDE_BUFFER = 8192, IDE_PINS = 1100, IDE_PACKET = 12, IDE_MULTIPLE_MAX = 16 };
#define IDE_DMA_MAX (1u << 20) /* bytes of one request */

/* Status, error, device, device control */
enum { ERR = 0x01, DRQ = 0x08, DSC = 0x10, DF = 0x20, DRDY = 0x40, BSY = 0x80 };
enum { ABRT = 0x04, IDNF = 0x10, UNC = 0x40, WP = 0x40 };
enum { DEVICE_DEV = 0x10, DEVICE_LBA = 0x40, DEVICE_OBSOLETE = 0xa0 };
enum { NIEN = 0x02, SRST = 0x04, HOB = 0x80 };
/* Interrupt reason (sector count register of packet commands) */
enum { REASON_CD = 1, REASON_IO = 2 };
/* Bus master command and status */
enum { BM_START = 0x01, BM_READ = 0x08, BM_ACTIVE = 0x01, BM_ERROR = 0x02, BM_INTR = 0x04, BM_CAPABLE = 0x60 };

enum { IDE_EVENT_NONE, IDE_EVENT_EJECT, IDE_EVENT_NEW, IDE_EVENT_REMOVED }; /* of GET EVENT STATUS NOTIFICATION, class media */

enum ide_kind { IDE_NONE, IDE_DISK, IDE_CDROM };
enum ide_phase {
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
    PHASE_RESET,    /* by software; over when SRST is clear and nothing is in flight */
    PHASES
};

/* Registers that are FIFOs of two: [0] the latest, [1] the one before (HOB). */
struct ide_drive_regs {
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
    uint8_t packet[IDE_PACKET];
    uint8_t buffer[IDE_BUFFER];
};

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
    struct ide_drive_regs drive[DP_IDE_DRIVES];
};

struct ide;
struct ide_drive {
    struct ide *ide;
    unsigned n;
    enum ide_kind kind;
    struct dp_block *block;
    const char *serial;
    uint16_t cylinders;           /* default translation */
    uint8_t heads, sectors_track;
    struct dp_block_request io;
    bool in_flight;
    bool stale;                   /* the request in flight is of a time before a hardware reset */
    bool changing;                /* the medium: nothing may be submitted */
    uint32_t io_sectors;
    uint32_t bm_epoch;            /* of the channel, when the request was made */
    struct ide_channel_regs bm_before;
    uint8_t *bounce;              /* IDE_BUFFER */
    unsigned pin_count;
    struct iovec iov[IDE_PINS];
    struct dp_pin pin[IDE_PINS];
};

struct ide_channel {
    struct dp_irq irq;
    bool irq_busy, irq_fell;      /* see uart.c */
    int irq_driven;
    uint32_t bm_epoch;            /* counts starts of the bus master */
};

struct ide {
    struct dp_device device;
    struct ide_regs regs;
    struct dp_pci_function function;
    struct ide_channel channel[2];
    struct ide_drive drive[DP_IDE_DRIVES];
    bool running;
};

static inline struct ide_drive_regs *ide_regs_of(struct ide_drive *d) { return &d->ide->regs.drive[d->n]; }
static inline unsigned ide_sector_size(const struct ide_drive *d) { return d->kind == IDE_CDROM ? IDE_CD_SECTOR : IDE_SECTOR; }
/* Sectors of the image; 0 without one. */
static inline uint64_t ide_capacity(const struct ide_drive *d) { return d->block ? dp_block_size(d->block) / ide_sector_size(d) : 0; }

/* ---- ide.c ---- */

void ide_raise(struct ide_drive *d);
/* Phase IDLE with DRDY, and INTRQ. */
void ide_complete(struct ide_drive *d);
/* The phase needs the image: BSY. */
void ide_busy(struct ide_drive *d, enum ide_phase phase);
/* Waits for the bus master. */
void ide_dma(struct ide_drive *d, enum ide_phase phase);
/* A drive's registers as after a reset; what SET FEATURES set remains. */
void ide_signature(struct ide_drive *d);
void ide_feature_transfer_mode(struct ide_drive *d, uint8_t mode);
/* Characters of an ATA string: pairs swapped, padded with spaces. */
void ide_string(uint8_t *out, const char *text, unsigned size);
/* Word 255 of identify data, over the rest. */
void ide_integrity(uint8_t *data);
/* The words about transfer modes, which disks and packet devices share. */
void ide_identify_modes(struct ide_drive *d, uint8_t *data);

/* ---- ata.c ---- */

void ide_ata_command(struct ide_drive *d, uint8_t command);
void ide_ata_identify_geometry(struct ide_drive *d);
/* Aborts with the given error bits. */
void ide_ata_fail(struct ide_drive *d, uint8_t error);
/* The image failed at r->lba, which goes into the registers. */
void ide_ata_io_error(struct ide_drive *d, bool write);
/* After sectors were moved between image and buffer: the next thing to do. */
void ide_ata_advance(struct ide_drive *d);
/* The host moved a whole DRQ block. */
void ide_ata_block_done(struct ide_drive *d);

/* ---- atapi.c ---- */

void ide_atapi_command(struct ide_drive *d, uint8_t command);
void ide_atapi_packet(struct ide_drive *d);
void ide_atapi_io_error(struct ide_drive *d);
void ide_atapi_advance(struct ide_drive *d);
void ide_atapi_block_done(struct ide_drive *d);
void ide_atapi_sense(struct ide_drive *d, uint8_t key, uint8_t asc, uint8_t ascq);
/* d->block is another. */
void ide_atapi_medium_changed(struct ide_drive *d);
/* All of the command's data are moved. */
void ide_atapi_complete(struct ide_drive *d);

#endif
