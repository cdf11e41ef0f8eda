/* devices/storage/scsi_disk.h - a SCSI disk's commands, whatever carries them: the logical unit of a direct access block device.
 *
 * Model: the transport (virtio-scsi) takes a command from an initiator, puts it into a task and calls scsi_begin. The task then says which
 * data it moves (`data`, `length`): none; an answer that lies in the transport's buffer; parameters, which the transport brings there and
 * hands in by scsi_parameters; or the medium's. Then scsi_next gives one request to the block layer after the other, each on the
 * initiator's buffers or on memory of the task, and scsi_done takes its result, until scsi_next says that the task is over. Status and
 * sense data are then the task's. Nothing here waits, locks or knows of guest memory. A CD-ROM drive on such a transport has its own
 * packets (atapi.c); here are the commands that all units answer alike, the rest is SCSI_DATA_DRIVE. State: what outlives commands (unit
 * attentions, the write cache's setting, stopped) is struct scsi_unit_regs. Invariants: a command is used from one copy, in the task.
 * length is what the command would move, whatever room the initiator has; the transport clips answers, and refuses medium data that do not
 * fit (so no part of a write is done). Memory of a task is bounded by SCSI_BOUNCE, that of a unit by SCSI_BOUNCES of them. Source: SAM-5
 * (status, unit attentions 5.14), SPC-4 (INQUIRY, MODE SENSE, REPORT LUNS, sense data 4.5), SBC-3 (all others, 6.5 VPD pages).
 */
#ifndef DP_SCSI_DISK_H
#define DP_SCSI_DISK_H

#include "block/block.h"
#include "state/state.h"

enum {
    SCSI_CDB = 16,
    SCSI_SENSE = 18,
    SCSI_SECTOR_MIN = 512,
    SCSI_BUFFER = 4608,
    SCSI_BOUNCE = 65536,
    SCSI_BOUNCES = 8,
    SCSI_UNITS_MAX = 64 /* that one target can report */
};
#define SCSI_TRANSFER_MAX (256ull << 20) /* bytes that one command moves */
enum { SCSI_GOOD = 0x00, SCSI_CHECK_CONDITION = 0x02, SCSI_BUSY = 0x08, SCSI_TASK_SET_FULL = 0x28 };

struct scsi_unit_regs {
    uint8_t attention, attention_ascq; /* additional sense code to be told; 0: none */
    bool write_cache;                  /* WCE of the caching page */
    bool stopped;                      /* by START STOP UNIT */
};
extern const struct dp_state_table scsi_unit_table;

struct scsi_unit {
    struct scsi_unit_regs *regs;
    struct dp_block *block; /* NULL only of a CD-ROM drive */
    struct dp_trace *trace;
    const char *id; /* for traces */
    bool cdrom;
    bool write_cache; /* after a reset */
    uint32_t sector;  /* bytes of a logical block: 512 or 4096 */
    char serial[37];
    unsigned bounces; /* tasks that have memory */
};

enum scsi_data { SCSI_DATA_NONE, SCSI_DATA_REPLY, SCSI_DATA_PARAMETERS, SCSI_DATA_IN, SCSI_DATA_OUT, SCSI_DATA_DRIVE };

struct scsi_range {
    uint64_t offset, size;
};
struct scsi_task {
    uint8_t cdb[SCSI_CDB];
    /* outcome */
    uint8_t status, key, asc, ascq;
    uint8_t specific[3]; /* sense key specific */
    bool has_information;
    uint32_t information;
    enum scsi_data data;
    uint64_t length; /* of the data, bytes */
    /* private: what is to be done */
    uint8_t work;
    bool flush, unmap;
    uint64_t offset, left; /* bytes of the medium */
    uint64_t moved;
    uint8_t *bounce;
    uint32_t bounce_size;
    struct scsi_range *range;
    unsigned range_count, range_at;
};
/* A request to the block layer. */
struct scsi_io {
    enum dp_block_op op;
    bool unmap;
    uint64_t offset, size;
    void *memory; /* NULL: the initiator's buffers, or no data */
};

/* The units of a task's target, as REPORT LUNS gives them. */
struct scsi_luns {
    unsigned count;
    uint16_t lun[SCSI_UNITS_MAX];
};

/* t->cdb is set, the rest zero. buffer (SCSI_BUFFER bytes) gets a REPLY. u NULL: the target has no such unit. */
void scsi_begin(struct scsi_unit *u, struct scsi_task *t, const struct scsi_luns *luns, uint8_t *buffer);
/* PARAMETERS are in the buffer: size is t->length, or less when the initiator sent less. */
void scsi_parameters(struct scsi_unit *u, struct scsi_task *t, const uint8_t *buffer, uint64_t size);
/* False: the task is over, and scsi_end must follow. */
bool scsi_next(struct scsi_unit *u, struct scsi_task *t, struct scsi_io *io);
/* The initiator's data, for commands that compare; none: NULL. */
void scsi_done(struct scsi_unit *u, struct scsi_task *t, int result, const struct iovec *data, unsigned count);
void scsi_end(struct scsi_unit *u, struct scsi_task *t);
void scsi_fail(struct scsi_task *t, uint8_t key, uint8_t asc, uint8_t ascq);
/* The sense data of a task that ended with CHECK CONDITION, in fixed format. */
void scsi_sense(const struct scsi_task *t, uint8_t sense[SCSI_SENSE]);

enum { SCSI_ATTENTION_RESET = 0x29, SCSI_ATTENTION_CAPACITY = 0x2a };
/* To be told with the next command; a reset outdoes others. */
void scsi_attention(struct scsi_unit *u, uint8_t asc, uint8_t ascq);
/* As by power-on: settings are what they were at first. */
void scsi_reset(struct scsi_unit *u);

#endif
