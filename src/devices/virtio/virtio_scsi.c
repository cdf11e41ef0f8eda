/* devices/virtio/virtio_scsi.c - a SCSI controller: disks (storage/scsi_disk.h) and CD-ROM drives (storage/drive.h) on one virtio device.
 *
 * Model: queue 0 is for task management, 1 for events, the others for commands, which all are alike. A command is taken and looked at under
 * the lock; scsi_disk.c says what it moves, answers are written at once, the medium's data are moved by the block layer on pinned guest
 * memory, one request after the other, submitted in `deferred` with no lock held. A CD-ROM drive does one command at a time, as on IDE:
 * this is then the drive's controller (struct drive_host), the command's buffers are where its DMA goes, and others wait in a list.
 * Task management: what is in the block layer cannot be called back. A command to be aborted ends after the request it is at, with
 * response ABORTED or RESET, and the function that asked for it is answered after the last of them (struct function).
 * Invariants: every command taken is in the list `all` until it is answered. No command's data are longer than SCSI_TRANSFER_MAX. Pause and
 * reset wait for all commands, so nothing in flight is ever saved: a loaded drive is idle.
 * Source: Virtio 1.2 section 5.6.
 */
#include "devices/virtio/virtio_scsi.h"

#include <sched.h>
#include <stdlib.h>

#include "block/block.h"
#include "devices/storage/drive.h"
#include "devices/storage/scsi_disk.h"
#include "devices/virtio/virtio.h"

enum { QUEUE_CONTROL, QUEUE_EVENT, QUEUE_REQUEST, QUEUE_SIZE = 256, REQUEST_QUEUES_MAX = 6 };
enum { F_HOTPLUG = 1, F_CHANGE = 2 };
/* struct virtio_scsi_config */
enum {
    CONFIG_NUM_QUEUES = 0,
    CONFIG_SEG_MAX = 4,
    CONFIG_MAX_SECTORS = 8,
    CONFIG_CMD_PER_LUN = 12,
    CONFIG_EVENT_SIZE = 16,
    CONFIG_SENSE_SIZE = 20,
    CONFIG_CDB_SIZE = 24,
    CONFIG_MAX_CHANNEL = 28,
    CONFIG_MAX_TARGET = 30,
    CONFIG_MAX_LUN = 32,
    CONFIG_SIZE = 36
};
enum { SENSE_SIZE = 96, CDB_SIZE = 32, CDB_SIZE_MAX = 255, SENSE_SIZE_MAX = 65535, LUN_SIZE = 8, EVENT_SIZE = 16 };
/* struct virtio_scsi_req_cmd: lun, id, task_attr, prio, crn, cdb; and its response: sense_len, residual, status_qualifier, status, response
 */
enum { REQUEST_ID = 8, REQUEST_CDB = 19, RESPONSE_RESIDUAL = 4, RESPONSE_STATUS = 10, RESPONSE_RESPONSE = 11, RESPONSE_SENSE = 12 };
enum {
    S_OK = 0,
    S_OVERRUN = 1,
    S_ABORTED = 2,
    S_BAD_TARGET = 3,
    S_RESET = 4,
    S_BUSY = 5,
    S_FAILURE = 9,
    S_FUNCTION_SUCCEEDED = 10,
    S_FUNCTION_REJECTED = 11,
    S_INCORRECT_LUN = 12,
    S_FUNCTION_COMPLETE = 0
};
/* struct virtio_scsi_ctrl_tmf: type, subtype, lun, id; _an: type, lun, event_requested */
enum { T_TMF = 0, T_AN_QUERY = 1, T_AN_SUBSCRIBE = 2, TMF_SUBTYPE = 4, TMF_LUN = 8, TMF_ID = 16, TMF_SIZE = 24, AN_SIZE = 16 };
enum {
    TMF_ABORT_TASK,
    TMF_ABORT_TASK_SET,
    TMF_CLEAR_ACA,
    TMF_CLEAR_TASK_SET,
    TMF_I_T_NEXUS_RESET,
    TMF_LOGICAL_UNIT_RESET,
    TMF_QUERY_TASK,
    TMF_QUERY_TASK_SET
};
enum { ASCQ_RESET_FUNCTION = 0x03, ASCQ_NEXUS_LOSS = 0x07, ASCQ_CAPACITY_CHANGED = 0x09 };
/* struct virtio_scsi_event: event, lun, reason */
enum { EVENT_NONE = 0, EVENT_TRANSPORT_RESET = 1, EVENT_PARAM_CHANGE = 3, REASON_RESCAN = 1, REASON_REMOVED = 2 };
#define EVENTS_MISSED (1u << 31)
enum { FEATURE_DMA = 1, PACKET = 0xa0 }; /* of the ATA PACKET command */

struct scsi_regs {
    struct dp_virtio_regs virtio;
    uint32_t sense_size, cdb_size;
    bool events_missed;
    struct scsi_unit_regs unit[DP_VIRTIO_SCSI_UNITS];
    struct ata_drive_regs cd[DP_VIRTIO_SCSI_CDROMS];
};

struct command;
struct cd {
    struct ata_drive drive;
    struct unit *unit;
    struct command *current, *waiting, **waiting_tail;
    uint64_t at, before; /* of the data: next byte, and where the last gather began */
    bool overrun;        /* they do not fit */
    bool due;            /* the drive's request is to be submitted */
};
struct unit {
    bool present, leaving;
    uint8_t target;
    uint16_t lun;
    struct scsi_unit scsi;
    struct cd *cd; /* NULL: a disk */
    unsigned in_flight;
};

struct command { /* in the block layer, on its way there, or waiting for a drive */
    struct dp_block_request io;
    struct virtio_scsi *scsi;
    struct command *next;          /* of those that are ready, or wait */
    struct command *after, **link; /* of all */
    struct unit *unit;
    uint64_t id, number;
    uint64_t room, moved; /* bytes of the initiator's data buffers; moved */
    uint16_t head, queue;
    bool reads;      /* the pins are written to */
    uint8_t aborted; /* with this response; 0: not */
    struct scsi_task task;
    struct iovec memory;
    unsigned pin_count, segment_count;
    struct dp_pin *pin;
    struct iovec *iov;
    struct dp_virtio_segment segment[]; /* of the response; of a CD-ROM drive's command, of the data behind it, too */
};

struct function { /* task management that waits for commands to end */
    struct function *next;
    struct unit *unit;
    uint64_t id, before, response_address;
    uint8_t kind, target;
    uint16_t head;
};

struct virtio_scsi {
    struct dp_virtio_device base;
    struct scsi_regs regs;
    uint64_t queues; /* property */
    struct unit unit[DP_VIRTIO_SCSI_UNITS];
    struct cd *cd[DP_VIRTIO_SCSI_CDROMS];
    struct command *ready, **ready_tail, *all;
    struct function *functions;
    uint64_t number;                  /* of commands taken */
    struct dp_virtio_request request; /* scratch, under the lock */
    struct dp_pin pin[DP_VIRTIO_PINS];
    uint8_t buffer[SCSI_BUFFER];
};

/* ---- state ---- */

static int scsi_check(const void *regs, struct dp_error *e)
{
    const struct scsi_regs *r = regs;
    for (unsigned i = 0; i < DP_VIRTIO_SCSI_CDROMS; i++) {
        int rc = drive_check(&r->cd[i], e);
        if (rc || r->cd[i].phase != PHASE_IDLE)
            return rc ? rc : dp_error_set(e, -EINVAL, "virtio-scsi: CD-ROM drive %u is at a command (phase %u)", i, r->cd[i].phase);
    }
    return 0;
}

static void scsi_clamp(void *regs)
{
    struct scsi_regs *r = regs;
    for (unsigned i = 0; i < DP_VIRTIO_SCSI_CDROMS; i++) {
        drive_clamp(&r->cd[i]);
        r->cd[i].phase = PHASE_IDLE;
    }
}

static const struct dp_field scsi_fields[] = {
    DP_FIELD_STRUCT(struct scsi_regs, virtio, 1, &dp_virtio_regs_table),
    DP_FIELD_U32(struct scsi_regs, sense_size, 2, SENSE_SIZE, SENSE_SIZE_MAX),
    DP_FIELD_U32(struct scsi_regs, cdb_size, 3, CDB_SIZE, CDB_SIZE_MAX),
    DP_FIELD_BOOL(struct scsi_regs, events_missed, 4, false),
    DP_FIELD_STRUCTS(struct scsi_regs, unit, 5, &scsi_unit_table),
    DP_FIELD_STRUCTS(struct scsi_regs, cd, 6, &drive_table),
};
static const struct dp_state_table scsi_table =
    DP_STATE_TABLE(struct scsi_regs, "virtio-scsi", scsi_fields, .check = scsi_check, .clamp = scsi_clamp);

static const struct dp_property scsi_properties[] = {
    {"queues", "queues for commands, 1 to 6 (as many as processors, 4 at most)", DP_PROP_UINT, offsetof(struct virtio_scsi, queues), 1, 1,
     REQUEST_QUEUES_MAX, NULL},
};

static struct virtio_scsi *scsi_of(struct dp_virtio *v) { return DP_CONTAINER_OF(v, struct virtio_scsi, base.virtio); }
static struct virtio_scsi *scsi_of_device(struct dp_device *d) { return DP_CONTAINER_OF(d, struct virtio_scsi, base.device); }

/* ---- units ---- */

static struct unit *find_unit(struct virtio_scsi *s, unsigned target, unsigned lun)
{
    for (unsigned i = 0; i < DP_VIRTIO_SCSI_UNITS; i++)
        if (s->unit[i].present && !s->unit[i].leaving && s->unit[i].target == target && s->unit[i].lun == lun)
            return &s->unit[i];
    return NULL;
}

/* What is at an address of 8 bytes: 1, the target, and a number (section 5.6.6.1). False: no such target. */
static bool resolve(struct virtio_scsi *s, const uint8_t lun[LUN_SIZE], struct unit **unit, struct scsi_luns *luns)
{
    unsigned number = (lun[2] & 0x3fu) << 8 | lun[3];
    *unit = NULL;
    luns->count = 0;
    if (lun[0] != 1)
        return false;
    for (unsigned i = 0; i < DP_VIRTIO_SCSI_UNITS; i++)
        if (s->unit[i].present && !s->unit[i].leaving && s->unit[i].target == lun[1])
            luns->lun[luns->count++] = s->unit[i].lun;
    bool possible = lun[2] >> 6 <= 1 && !lun[4] && !lun[5] && !lun[6] && !lun[7];
    *unit = possible ? find_unit(s, lun[1], number) : NULL;
    return luns->count;
}

static void put_address(uint8_t lun[LUN_SIZE], const struct unit *u)
{
    memset(lun, 0, LUN_SIZE);
    if (!u)
        return;
    lun[0] = 1;
    lun[1] = u->target;
    lun[2] = (uint8_t)(0x40 | u->lun >> 8);
    lun[3] = (uint8_t)u->lun;
}

/* ---- events; lock held ---- */

static void post_event(struct virtio_scsi *s, uint32_t event, const struct unit *u, uint32_t reason)
{
    struct dp_virtio *v = &s->base.virtio;
    uint8_t data[EVENT_SIZE];
    if (!dp_virtio_has(v, event == EVENT_PARAM_CHANGE ? F_CHANGE : F_HOTPLUG) && event != EVENT_NONE)
        return;
    if (dp_virtio_pop(v, QUEUE_EVENT, &s->request) <= 0) {
        s->regs.events_missed = true;
        return;
    }
    dp_st32(data, event | (s->regs.events_missed ? EVENTS_MISSED : 0));
    put_address(data + 4, u);
    dp_st32(data + 12, reason);
    s->regs.events_missed = false;
    if (s->request.in_bytes < EVENT_SIZE || dp_virtio_write(v, &s->request, 0, data, EVENT_SIZE) < EVENT_SIZE)
        dp_virtio_broken(v, "a buffer for events of %llu bytes", (unsigned long long)s->request.in_bytes);
    dp_virtio_push(v, QUEUE_EVENT, s->request.head, EVENT_SIZE);
}

/* ---- answers; lock held ---- */

static void functions_check(struct virtio_scsi *s);

static void respond(struct virtio_scsi *s, const struct dp_virtio_segment *segment, unsigned count, uint16_t queue, uint16_t head,
                    uint8_t response, const struct scsi_task *t, uint64_t room, uint64_t moved, bool in)
{
    struct dp_virtio *v = &s->base.virtio;
    uint8_t data[RESPONSE_SENSE + SCSI_SENSE] = {0};
    unsigned sense = response == S_OK && t->status == SCSI_CHECK_CONDITION ? DP_MIN((uint32_t)SCSI_SENSE, s->regs.sense_size) : 0;
    dp_st32(data, sense);
    dp_st32(data + RESPONSE_RESIDUAL, (uint32_t)DP_MIN(room - DP_MIN(moved, room), (uint64_t)UINT32_MAX));
    data[RESPONSE_STATUS] = response == S_OK ? t->status : 0;
    data[RESPONSE_RESPONSE] = response;
    if (sense)
        scsi_sense(t, data + RESPONSE_SENSE);
    if (dp_virtio_write_to(v, segment, count, 0, data, RESPONSE_SENSE + sense) < RESPONSE_SENSE + sense)
        dp_virtio_broken(v, "the buffer of a response is not in RAM");
    uint64_t written = (uint64_t)RESPONSE_SENSE + s->regs.sense_size + (in ? moved : 0);
    dp_virtio_push(v, queue, head, (uint32_t)DP_MIN(written, (uint64_t)UINT32_MAX));
}

static void finish(struct virtio_scsi *s, struct command *q, uint8_t response)
{
    response = q->aborted ? q->aborted : response;
    dp_virtio_unpin(&s->base.virtio, q->pin, q->pin_count, q->reads);
    scsi_end(&q->unit->scsi, &q->task);
    q->unit->in_flight--;
    *q->link = q->after;
    if (q->after)
        q->after->link = q->link;
    DP_TRACE(s->base.device.env->trace, DP_TRACE_BLOCK, "%s: %u:%u: command 0x%02x is over: response %u, status %u, sense %x/%02x/%02x",
             s->base.device.id, q->unit->target, q->unit->lun, q->task.cdb[0], response, q->task.status, q->task.key, q->task.asc,
             q->task.ascq);
    respond(s, q->segment, q->segment_count, q->queue, q->head, response, &q->task, q->room, q->moved, q->reads);
    free(q);
    functions_check(s);
}

/* ---- disks ---- */

static void io_done(struct dp_block_request *io, int result);

/* Lock held: the next request of the command is ready to go, or the command is over. */
static void proceed(struct virtio_scsi *s, struct command *q)
{
    struct scsi_io io;
    if (q->aborted || !scsi_next(&q->unit->scsi, &q->task, &io)) {
        finish(s, q, S_OK);
        return;
    }
    q->io = (struct dp_block_request){.op = io.op, .unmap = io.unmap, .offset = io.offset, .size = io.size, .done = io_done};
    if (io.memory) {
        q->memory = (struct iovec){io.memory, io.size};
        q->io.iov = &q->memory;
        q->io.iov_count = 1;
    } else if (io.op == DP_BLOCK_READ || io.op == DP_BLOCK_WRITE) {
        q->io.iov = q->iov;
        q->io.iov_count = q->pin_count;
    }
    q->next = NULL;
    *s->ready_tail = q;
    s->ready_tail = &q->next;
    s->base.virtio.deferred = true;
}

static void io_done(struct dp_block_request *io, int result)
{
    struct command *q = DP_CONTAINER_OF(io, struct command, io);
    struct virtio_scsi *s = q->scsi;
    dp_virtio_lock(&s->base.virtio);
    bool data = q->io.iov == q->iov;
    scsi_done(&q->unit->scsi, &q->task, result, q->iov, q->pin_count);
    if (data && !result)
        q->moved = io->size;
    proceed(s, q);
    dp_virtio_unlock(&s->base.virtio);
}

/* ---- CD-ROM drives ---- */

static struct cd *cd_of(struct ata_drive *d) { return DP_CONTAINER_OF(d, struct cd, drive); }
static struct virtio_scsi *owner_of(struct cd *c) { return scsi_of_device(c->drive.owner); }

static void cd_start(struct cd *c)
{
    struct command *q = c->current;
    struct ata_drive_regs *r = c->drive.regs;
    c->at = c->before = 0;
    c->overrun = false;
    r->command = PACKET;
    r->feature[0] = FEATURE_DMA;
    r->error = 0;
    r->status = DRDY | DSC;
    r->phase = PHASE_PACKET;
    memcpy(r->buffer, q->task.cdb, DRIVE_PACKET);
    atapi_packet(&c->drive);
}

static void cd_finish(struct virtio_scsi *s, struct cd *c)
{
    struct command *q = c->current;
    struct ata_drive_regs *r = c->drive.regs;
    c->current = NULL;
    q->moved = c->at;
    if (r->status & ERR) {
        scsi_fail(&q->task, r->sense_key, r->asc, r->ascq);
        r->sense_key = r->asc = r->ascq = 0; /* they go along with the status */
    }
    finish(s, q, c->overrun ? S_OVERRUN : S_OK);
}

/* Lock held: takes the drive as far as it gets without the image. */
static void cd_run(struct virtio_scsi *s, struct cd *c)
{
    struct ata_drive *d = &c->drive;
    while (!d->in_flight) {
        if (!c->current) {
            if (d->changing || !(c->current = c->waiting))
                return;
            c->waiting = c->current->next;
            if (!c->waiting)
                c->waiting_tail = &c->waiting;
            cd_start(c);
        }
        if (d->regs->phase == PHASE_IDLE || c->current->aborted) {
            if (d->regs->phase != PHASE_IDLE)
                drive_complete(d);
            cd_finish(s, c);
            continue;
        }
        uint8_t phase = d->regs->phase;
        if (drive_step(d)) {
            c->due = true;
            s->base.virtio.deferred = true;
        } else if (d->changing) {
            return;
        } else if (d->regs->phase == phase) {
            atapi_sense(d, 5, 0x20, 0); /* a packet that would wait for what there is not here */
        }
    }
}

static void cd_raise(struct ata_drive *d) { (void)d; }
static bool cd_dma_ready(struct ata_drive *d) { return cd_of(d)->current; }

static enum gather cd_gather(struct ata_drive *d, uint64_t want, bool for_write, uint64_t *size)
{
    struct cd *c = cd_of(d);
    struct virtio_scsi *s = owner_of(c);
    struct command *q = c->current;
    uint64_t left = q->room - c->at, skip = (uint64_t)RESPONSE_SENSE + s->regs.sense_size + c->at;
    want = DP_MIN(want, DP_ALIGN_DOWN(left, (uint64_t)DRIVE_CD_SECTOR));
    if (!want)
        return TABLE_SHORT;
    int pins = dp_virtio_pin(&s->base.virtio, q->segment, q->segment_count, skip, want, for_write, d->pin, DRIVE_PINS);
    if (pins <= 0)
        return TABLE_BAD;
    d->pin_count = (unsigned)pins;
    c->before = c->at;
    c->at += want;
    *size = want;
    return GATHERED;
}

static bool cd_rewind(struct ata_drive *d)
{
    cd_of(d)->at = cd_of(d)->before;
    return true;
}

static void cd_dma_failed(struct ata_drive *d, enum gather why)
{
    if (why == TABLE_BAD)
        dp_virtio_broken(&owner_of(cd_of(d))->base.virtio, "a data buffer is not in RAM");
    cd_of(d)->overrun = true;
    atapi_complete(d);
}

static void cd_dma_buffer(struct ata_drive *d)
{
    struct cd *c = cd_of(d);
    struct virtio_scsi *s = owner_of(c);
    struct command *q = c->current;
    uint64_t n = DP_MIN((uint64_t)(d->regs->length - d->regs->at), q->room);
    c->at = dp_virtio_write_to(&s->base.virtio, q->segment, q->segment_count, (uint64_t)RESPONSE_SENSE + s->regs.sense_size,
                               d->regs->buffer + d->regs->at, n);
    atapi_complete(d);
}

static void cd_dma_end(struct ata_drive *d) { (void)d; }
static bool cd_in_reset(struct ata_drive *d) { return !d; }

static void cd_settle(struct dp_device *owner)
{
    struct virtio_scsi *s = scsi_of_device(owner);
    dp_virtio_lock(&s->base.virtio);
    for (unsigned i = 0; i < DP_VIRTIO_SCSI_CDROMS; i++)
        if (s->cd[i])
            cd_run(s, s->cd[i]);
    dp_virtio_unlock(&s->base.virtio);
}

static const struct drive_host cd_host = {
    .raise = cd_raise,
    .dma_ready = cd_dma_ready,
    .dma_gather = cd_gather,
    .dma_rewind = cd_rewind,
    .dma_failed = cd_dma_failed,
    .dma_buffer = cd_dma_buffer,
    .dma_end = cd_dma_end,
    .in_reset = cd_in_reset,
    .settle = cd_settle,
};
static const bool always = true;

static void cd_queue(struct virtio_scsi *s, struct command *q)
{
    struct cd *c = q->unit->cd;
    q->next = NULL;
    *c->waiting_tail = q;
    c->waiting_tail = &q->next;
    cd_run(s, c);
}

/* Those of the waiting that were aborted need not wait. */
static void cd_sweep(struct virtio_scsi *s, struct cd *c)
{
    for (struct command **at = &c->waiting; *at;) {
        struct command *q = *at;
        if (!q->aborted) {
            at = &q->next;
            continue;
        }
        *at = q->next;
        if (!*at)
            c->waiting_tail = at;
        finish(s, q, S_OK);
    }
}

/* ---- commands; lock held ---- */

/* How many of the segments hold the first `bytes`. */
static unsigned segments_for(const struct dp_virtio_segment *segment, unsigned count, uint64_t bytes)
{
    unsigned n = 0;
    for (uint64_t sum = 0; n < count && sum < bytes;)
        sum += segment[n++].length;
    return n;
}

/* The answer is written, parameters are read, data buffers are pinned: S_OK, or the response. */
static uint8_t bring_data(struct virtio_scsi *s, struct unit *u, struct scsi_task *t, uint64_t out_from, uint64_t in_from, int *pins,
                          uint64_t *moved)
{
    struct dp_virtio *v = &s->base.virtio;
    const struct dp_virtio_request *r = &s->request;
    uint64_t out_room = r->out_bytes - out_from, in_room = r->in_bytes - in_from;
    switch (t->data) {
    case SCSI_DATA_REPLY:
        *moved = dp_virtio_write(v, r, in_from, s->buffer, DP_MIN(t->length, in_room));
        return S_OK;
    case SCSI_DATA_PARAMETERS:
        *moved = dp_virtio_read(v, r, out_from, s->buffer, DP_MIN(t->length, out_room));
        scsi_parameters(&u->scsi, t, s->buffer, *moved);
        return S_OK;
    case SCSI_DATA_IN:
        if (t->length > in_room)
            return S_OVERRUN;
        *pins = dp_virtio_pin(v, r->segment + r->out_count, r->in_count, in_from, t->length, true, s->pin, DP_VIRTIO_PINS);
        break;
    case SCSI_DATA_OUT:
        if (t->length > out_room)
            return S_OVERRUN;
        *pins = dp_virtio_pin(v, r->segment, r->out_count, out_from, t->length, false, s->pin, DP_VIRTIO_PINS);
        break;
    default:
        return S_OK;
    }
    if (*pins >= 0)
        return S_OK;
    *pins = 0;
    dp_virtio_broken(v, "a data buffer is not in RAM");
    return S_FAILURE;
}

static struct command *make_command(struct virtio_scsi *s, unsigned segments, unsigned pins)
{
    const struct dp_virtio_request *r = &s->request;
    struct command *q = malloc(sizeof(*q) + segments * sizeof(q->segment[0]) + pins * (sizeof(struct dp_pin) + sizeof(struct iovec)));
    if (!q)
        return NULL;
    *q = (struct command){
        .scsi = s, .head = r->head, .queue = r->queue, .segment_count = segments, .pin_count = pins, .number = s->number++};
    memcpy(q->segment, r->segment + r->out_count, segments * sizeof(q->segment[0]));
    q->pin = (struct dp_pin *)(q->segment + segments);
    q->iov = (struct iovec *)(q->pin + pins);
    memcpy(q->pin, s->pin, pins * sizeof(*q->pin));
    for (unsigned i = 0; i < pins; i++)
        q->iov[i] = (struct iovec){q->pin[i].host, q->pin[i].size};
    return q;
}

/* One command, which is in s->request. */
static void handle(struct virtio_scsi *s)
{
    struct dp_virtio *v = &s->base.virtio;
    const struct dp_virtio_request *r = &s->request;
    uint64_t out_from = REQUEST_CDB + s->regs.cdb_size, in_from = RESPONSE_SENSE + s->regs.sense_size, moved = 0;
    uint8_t header[REQUEST_CDB + SCSI_CDB] = {0}, response = S_OK;
    unsigned head = REQUEST_CDB + DP_MIN(s->regs.cdb_size, (uint32_t)SCSI_CDB);
    if (r->out_bytes < out_from || r->in_bytes < in_from || dp_virtio_read(v, r, 0, header, head) < head) {
        dp_virtio_broken(v, "a request of %llu bytes with room for a response of %llu", (unsigned long long)r->out_bytes,
                         (unsigned long long)r->in_bytes);
        dp_virtio_push(v, r->queue, r->head, 0);
        return;
    }
    const struct dp_virtio_segment *in = r->segment + r->out_count;
    struct scsi_task t = {0};
    struct scsi_luns luns;
    struct unit *u;
    int pins = 0;
    memcpy(t.cdb, header + REQUEST_CDB, SCSI_CDB);
    if (!resolve(s, header, &u, &luns))
        response = S_BAD_TARGET;
    else if (r->out_bytes > out_from && r->in_bytes > in_from)
        response = S_FAILURE; /* INOUT was not offered */
    else
        scsi_begin(u ? &u->scsi : NULL, &t, &luns, s->buffer);
    DP_TRACE(s->base.device.env->trace, DP_TRACE_BLOCK, "%s: %u:%u%s: command %02x %02x%02x%02x%02x %02x%02x%02x%02x", s->base.device.id,
             header[1], (header[2] & 0x3f) << 8 | header[3], u ? "" : " (not there)", t.cdb[0], t.cdb[2], t.cdb[3], t.cdb[4], t.cdb[5],
             t.cdb[6], t.cdb[7], t.cdb[8], t.cdb[9]);
    if (!response)
        response = bring_data(s, u, &t, out_from, in_from, &pins, &moved);
    bool is_in = r->in_bytes > in_from;
    uint64_t room = is_in ? r->in_bytes - in_from : r->out_bytes - out_from;
    if (response || !u) {
        dp_virtio_unpin(v, s->pin, (unsigned)pins, false);
        if (u)
            scsi_end(&u->scsi, &t);
        respond(s, in, r->in_count, r->queue, r->head, response, &t, room, moved, is_in);
        return;
    }
    bool drive = t.data == SCSI_DATA_DRIVE;
    struct command *q = make_command(s, segments_for(in, r->in_count, drive ? r->in_bytes : in_from), (unsigned)pins);
    if (!q) {
        dp_virtio_unpin(v, s->pin, (unsigned)pins, false);
        scsi_end(&u->scsi, &t);
        respond(s, in, r->in_count, r->queue, r->head, S_BUSY, &t, room, 0, is_in);
        return;
    }
    q->unit = u;
    q->task = t;
    q->id = dp_ld64(header + REQUEST_ID);
    q->reads = is_in;
    q->room = drive && !is_in ? 0 : room;
    q->moved = moved;
    q->after = s->all;
    q->link = &s->all;
    if (s->all)
        s->all->link = &q->after;
    s->all = q;
    u->in_flight++;
    if (drive)
        cd_queue(s, q);
    else
        proceed(s, q);
}

/* ---- task management; lock held ---- */

static bool concerns(const struct function *f, const struct command *q)
{
    if (q->number >= f->before)
        return false;
    switch (f->kind) {
    case TMF_I_T_NEXUS_RESET:
        return q->unit->target == f->target;
    case TMF_ABORT_TASK:
    case TMF_QUERY_TASK:
        return q->unit == f->unit && q->id == f->id;
    default:
        return q->unit == f->unit;
    }
}

static bool concerns_any(struct virtio_scsi *s, const struct function *f)
{
    for (const struct command *q = s->all; q; q = q->after)
        if (concerns(f, q))
            return true;
    return false;
}

static void function_end(struct virtio_scsi *s, const struct function *f, uint8_t response)
{
    struct dp_virtio *v = &s->base.virtio;
    struct dp_virtio_segment at = {f->response_address, 1};
    if (dp_virtio_write_to(v, &at, 1, 0, &response, 1) < 1)
        dp_virtio_broken(v, "the response to a function is not in RAM");
    dp_virtio_push(v, QUEUE_CONTROL, f->head, 1);
}

/* After a command ended: functions that waited for it. */
static void functions_check(struct virtio_scsi *s)
{
    for (struct function **at = &s->functions; *at;) {
        struct function *f = *at;
        if (concerns_any(s, f)) {
            at = &f->next;
            continue;
        }
        *at = f->next;
        function_end(s, f, S_FUNCTION_COMPLETE);
        free(f);
    }
}

static void abort_commands(struct virtio_scsi *s, const struct function *f, uint8_t response)
{
    for (struct command *q = s->all; q; q = q->after)
        if (concerns(f, q) && !q->aborted)
            q->aborted = response;
}

/* Commands that were aborted before they began end now. */
static void sweep(struct virtio_scsi *s)
{
    for (unsigned i = 0; i < DP_VIRTIO_SCSI_CDROMS; i++)
        if (s->cd[i])
            cd_sweep(s, s->cd[i]);
}

static void reset_units(struct virtio_scsi *s, const struct function *f, uint8_t ascq)
{
    for (unsigned i = 0; i < DP_VIRTIO_SCSI_UNITS; i++) {
        struct unit *u = &s->unit[i];
        if (u->present && (f->kind == TMF_I_T_NEXUS_RESET ? u->target == f->target : u == f->unit)) {
            scsi_reset(&u->scsi);
            scsi_attention(&u->scsi, SCSI_ATTENTION_RESET, ascq);
            if (u->cd)
                u->cd->drive.regs->locked = false;
        }
    }
}

static void management(struct virtio_scsi *s, const uint8_t *data, struct function *f)
{
    struct scsi_luns luns;
    bool target = resolve(s, data + TMF_LUN, &f->unit, &luns);
    uint32_t kind = dp_ld32(data + TMF_SUBTYPE);
    f->kind = (uint8_t)kind;
    f->target = data[TMF_LUN + 1];
    f->id = dp_ld64(data + TMF_ID);
    f->before = s->number;
    if (kind > TMF_QUERY_TASK_SET || kind == TMF_CLEAR_ACA) {
        function_end(s, f, S_FUNCTION_REJECTED);
        return;
    }
    if (!target || (!f->unit && kind != TMF_I_T_NEXUS_RESET)) {
        function_end(s, f, target ? S_INCORRECT_LUN : S_BAD_TARGET);
        return;
    }
    bool reset = kind == TMF_LOGICAL_UNIT_RESET || kind == TMF_I_T_NEXUS_RESET;
    if (kind == TMF_QUERY_TASK || kind == TMF_QUERY_TASK_SET) {
        function_end(s, f, concerns_any(s, f) ? S_FUNCTION_SUCCEEDED : S_FUNCTION_COMPLETE);
        return;
    }
    abort_commands(s, f, reset ? S_RESET : S_ABORTED);
    if (reset)
        reset_units(s, f, kind == TMF_LOGICAL_UNIT_RESET ? ASCQ_RESET_FUNCTION : ASCQ_NEXUS_LOSS);
    struct function *waits = malloc(sizeof(*waits));
    if (!waits) {
        function_end(s, f, S_BUSY);
        return;
    }
    *waits = *f;
    waits->next = s->functions;
    s->functions = waits;
    sweep(s);
    functions_check(s);
}

static void control(struct virtio_scsi *s)
{
    struct dp_virtio *v = &s->base.virtio;
    const struct dp_virtio_request *r = &s->request;
    uint8_t data[TMF_SIZE] = {0};
    uint64_t n = dp_virtio_read(v, r, 0, data, sizeof(data));
    uint32_t type = dp_ld32(data);
    if (type == T_TMF && n >= TMF_SIZE && r->in_bytes) {
        struct function f = {.head = r->head, .response_address = r->segment[r->out_count].address};
        management(s, data, &f);
    } else if ((type == T_AN_QUERY || type == T_AN_SUBSCRIBE) && n >= AN_SIZE && r->in_bytes >= 5) {
        dp_virtio_write(v, r, 0, (const uint8_t[5]){0}, 5); /* none of the events can be had */
        dp_virtio_push(v, QUEUE_CONTROL, r->head, 5);
    } else {
        dp_virtio_broken(v, "a control request of type %u, %llu bytes, with room for %llu", type, (unsigned long long)r->out_bytes,
                         (unsigned long long)r->in_bytes);
        dp_virtio_push(v, QUEUE_CONTROL, r->head, 0);
    }
}

/* ---- the virtio side ---- */

static void scsi_notify(struct dp_virtio *v, unsigned queue)
{
    struct virtio_scsi *s = scsi_of(v);
    if (queue == QUEUE_EVENT) {
        if (s->regs.events_missed)
            post_event(s, EVENT_NONE, NULL, 0);
        return;
    }
    for (unsigned budget = dp_virtio_queue_size(v, queue); dp_virtio_pop(v, queue, &s->request) > 0;) {
        if (queue == QUEUE_CONTROL)
            control(s);
        else
            handle(s);
        if (!--budget) {
            dp_virtio_more(v, queue);
            return;
        }
    }
}

static void scsi_deferred(struct dp_virtio *v)
{
    struct virtio_scsi *s = scsi_of(v);
    struct cd *due[DP_VIRTIO_SCSI_CDROMS];
    unsigned count = 0;
    dp_virtio_lock(v);
    struct command *q = s->ready;
    s->ready = NULL;
    s->ready_tail = &s->ready;
    for (unsigned i = 0; i < DP_VIRTIO_SCSI_CDROMS; i++)
        if (s->cd[i] && s->cd[i]->due) {
            s->cd[i]->due = false;
            due[count++] = s->cd[i];
        }
    dp_virtio_unlock(v);
    while (q) {
        struct command *next = q->next; /* q may be done and gone once submitted */
        dp_block_submit(q->unit->scsi.block, &q->io);
        q = next;
    }
    for (unsigned i = 0; i < count; i++)
        dp_block_submit(due[i]->drive.block, &due[i]->drive.io);
}

static void scsi_drain(struct dp_virtio *v)
{
    struct virtio_scsi *s = scsi_of(v);
    for (unsigned i = 0; i < DP_VIRTIO_SCSI_UNITS; i++)
        if (s->unit[i].present && s->unit[i].cd && s->unit[i].cd->drive.block)
            dp_block_drain(s->unit[i].cd->drive.block);
        else if (s->unit[i].present && s->unit[i].scsi.block)
            dp_block_drain(s->unit[i].scsi.block);
}

static uint64_t scsi_features(struct dp_virtio *v)
{
    (void)v;
    return 1ull << F_HOTPLUG | 1ull << F_CHANGE;
}

static void scsi_config(struct virtio_scsi *s, uint8_t c[CONFIG_SIZE])
{
    memset(c, 0, CONFIG_SIZE);
    dp_st32(c + CONFIG_NUM_QUEUES, s->base.virtio.queue_count - QUEUE_REQUEST);
    dp_st32(c + CONFIG_SEG_MAX, QUEUE_SIZE - 2);
    dp_st32(c + CONFIG_MAX_SECTORS, 0xffff);
    dp_st32(c + CONFIG_CMD_PER_LUN, 128);
    dp_st32(c + CONFIG_EVENT_SIZE, EVENT_SIZE);
    dp_st32(c + CONFIG_SENSE_SIZE, s->regs.sense_size);
    dp_st32(c + CONFIG_CDB_SIZE, s->regs.cdb_size);
    dp_st16(c + CONFIG_MAX_TARGET, DP_VIRTIO_SCSI_TARGETS - 1);
    dp_st32(c + CONFIG_MAX_LUN, DP_VIRTIO_SCSI_LUNS - 1);
}

static void scsi_config_read(struct dp_virtio *v, uint32_t offset, void *data, uint32_t size)
{
    uint8_t c[CONFIG_SIZE];
    scsi_config(scsi_of(v), c);
    memcpy(data, c + offset, size);
}

/* The driver may choose two sizes (section 5.6.4.1), not while commands are about that go by them. */
static void scsi_config_write(struct dp_virtio *v, uint32_t offset, const void *data, uint32_t size)
{
    struct virtio_scsi *s = scsi_of(v);
    uint8_t c[CONFIG_SIZE];
    scsi_config(s, c);
    memcpy(c + offset, data, size);
    uint32_t sense = dp_ld32(c + CONFIG_SENSE_SIZE), cdb = dp_ld32(c + CONFIG_CDB_SIZE);
    if (sense > SENSE_SIZE_MAX || cdb > CDB_SIZE_MAX || s->all) {
        dp_trace_guest(s->base.device.env->trace, "%s: %u bytes of command and %u of sense data: not possible%s", s->base.device.id, cdb,
                       sense, s->all ? " with commands under way" : "");
        return;
    }
    s->regs.sense_size = sense;
    s->regs.cdb_size = cdb;
}

/* Nothing is in flight. */
static void scsi_virtio_reset(struct dp_virtio *v)
{
    struct virtio_scsi *s = scsi_of(v);
    s->regs.sense_size = SENSE_SIZE;
    s->regs.cdb_size = CDB_SIZE;
    s->regs.events_missed = false;
    for (unsigned i = 0; i < DP_VIRTIO_SCSI_UNITS; i++)
        if (s->unit[i].present)
            scsi_reset(&s->unit[i].scsi);
    for (unsigned i = 0; i < DP_VIRTIO_SCSI_CDROMS; i++)
        if (s->cd[i])
            drive_power_on(&s->cd[i]->drive);
}

static const struct dp_virtio_class scsi_virtio_class = {
    .device_id = 8,
    .pci_class = 0x010000,
    .queue_count = QUEUE_REQUEST + 1,
    .queue_size = QUEUE_SIZE,
    .config_size = CONFIG_SIZE,
    .features = scsi_features,
    .config_read = scsi_config_read,
    .config_write = scsi_config_write,
    .notify = scsi_notify,
    .reset = scsi_virtio_reset,
    .deferred = scsi_deferred,
    .drain = scsi_drain,
};

/* ---- for machines ---- */

static int make_cd(struct virtio_scsi *s, struct unit *u, struct dp_block *block, struct dp_error *e)
{
    unsigned n = 0;
    while (n < DP_VIRTIO_SCSI_CDROMS && s->cd[n])
        n++;
    if (n == DP_VIRTIO_SCSI_CDROMS)
        return dp_error_set(e, -ENOSPC, "at most %d CD-ROM drives fit a SCSI controller", DP_VIRTIO_SCSI_CDROMS);
    struct cd *c = calloc(1, sizeof(*c));
    if (!c)
        return dp_error_set(e, -ENOMEM, "no memory for a CD-ROM drive");
    dp_state_reset(&drive_table, &s->regs.cd[n]);
    c->unit = u;
    c->waiting_tail = &c->waiting;
    c->drive.host = &cd_host;
    c->drive.owner = &s->base.device;
    c->drive.running = &always;
    c->drive.regs = &s->regs.cd[n];
    c->drive.n = n;
    c->drive.kind = DRIVE_CDROM;
    c->drive.block = block;
    int rc = drive_init(&c->drive, e);
    if (rc) {
        free(c);
        return rc;
    }
    drive_power_on(&c->drive);
    s->cd[n] = u->cd = c;
    return 0;
}

int dp_virtio_scsi_add(struct dp_device *d, const struct dp_virtio_scsi_unit *o, struct dp_error *e)
{
    struct virtio_scsi *s = scsi_of_device(d);
    unsigned n = 0, sector = o->sector ? o->sector : 512;
    if (o->target >= DP_VIRTIO_SCSI_TARGETS || o->lun >= DP_VIRTIO_SCSI_LUNS)
        return dp_error_set(e, -EINVAL, "there is no SCSI target %u, unit %u: %d targets of %d units are possible", o->target, o->lun,
                            DP_VIRTIO_SCSI_TARGETS, DP_VIRTIO_SCSI_LUNS);
    if (find_unit(s, o->target, o->lun))
        return dp_error_set(e, -EEXIST, "SCSI target %u has a unit %u already", o->target, o->lun);
    if (o->serial && strlen(o->serial) >= sizeof(s->unit[0].scsi.serial))
        return dp_error_set(e, -EINVAL, "serial number '%s' is too long; 36 characters fit", o->serial);
    if (sector != 512 && sector != 4096)
        return dp_error_set(e, -EINVAL, "blocks of %u bytes are not possible: 512 and 4096 are", sector);
    if (!o->cdrom && (!o->block || dp_block_size(o->block) < sector))
        return dp_error_set(e, -EINVAL, "a SCSI disk needs an image of at least one block");
    while (n < DP_VIRTIO_SCSI_UNITS && s->unit[n].present)
        n++;
    if (n == DP_VIRTIO_SCSI_UNITS)
        return dp_error_set(e, -ENOSPC, "at most %d units fit a SCSI controller", DP_VIRTIO_SCSI_UNITS);
    struct unit *u = &s->unit[n], fresh = {
                                      .target = (uint8_t)o->target,
                                      .lun = (uint16_t)o->lun,
                                      .scsi = {.regs = &s->regs.unit[n],
                                               .block = o->block,
                                               .trace = d->env->trace,
                                               .id = d->id,
                                               .cdrom = o->cdrom,
                                               .write_cache = !o->write_through,
                                               .sector = sector},
                                  };
    if (o->serial)
        strcpy(fresh.scsi.serial, o->serial);
    else
        snprintf(fresh.scsi.serial, sizeof(fresh.scsi.serial), "DPL%.20s-%u-%u", d->id, o->target % 100, o->lun % 100000);
    dp_virtio_lock(&s->base.virtio);
    int rc = o->cdrom ? make_cd(s, &fresh, o->block, e) : 0;
    if (!rc) {
        *u = fresh;
        if (u->cd)
            u->cd->unit = u;
        u->present = true;
        scsi_reset(&u->scsi);
        post_event(s, EVENT_TRANSPORT_RESET, u, REASON_RESCAN);
    }
    dp_virtio_unlock(&s->base.virtio);
    return rc;
}

static int no_unit(struct virtio_scsi *s, unsigned target, unsigned lun, struct dp_error *e)
{
    return dp_error_set(e, -ENODEV, "%s: there is no such SCSI unit: target %u, unit %u", s->base.device.id, target, lun);
}

int dp_virtio_scsi_remove(struct dp_device *d, unsigned target, unsigned lun, struct dp_error *e)
{
    struct virtio_scsi *s = scsi_of_device(d);
    struct dp_virtio *v = &s->base.virtio;
    dp_virtio_lock(v);
    struct unit *u = find_unit(s, target, lun);
    if (!u) {
        dp_virtio_unlock(v);
        return no_unit(s, target, lun, e);
    }
    struct function f = {.kind = TMF_CLEAR_TASK_SET, .unit = u, .before = s->number};
    u->leaving = true;
    abort_commands(s, &f, S_ABORTED);
    sweep(s);
    post_event(s, EVENT_TRANSPORT_RESET, u, REASON_REMOVED);
    for (bool busy = u->in_flight; busy; busy = u->in_flight) {
        dp_virtio_unlock(v);
        scsi_drain(v);
        sched_yield(); /* a request may be on its way to the block layer */
        dp_virtio_lock(v);
    }
    for (unsigned i = 0; i < DP_VIRTIO_SCSI_CDROMS; i++)
        if (u->cd && s->cd[i] == u->cd)
            s->cd[i] = NULL;
    if (u->cd)
        drive_fini(&u->cd->drive);
    free(u->cd);
    dp_state_reset(&scsi_unit_table, u->scsi.regs);
    *u = (struct unit){0};
    dp_virtio_unlock(v);
    return 0;
}

int dp_virtio_scsi_change_medium(struct dp_device *d, unsigned target, unsigned lun, struct dp_block *block, struct dp_error *e)
{
    struct virtio_scsi *s = scsi_of_device(d);
    struct unit *u = find_unit(s, target, lun);
    if (!u || !u->cd)
        return no_unit(s, target, lun, e);
    return drive_change_medium(&u->cd->drive, block, e);
}

void dp_virtio_scsi_resized(struct dp_device *d, const struct dp_block *block)
{
    struct virtio_scsi *s = scsi_of_device(d);
    dp_virtio_lock(&s->base.virtio);
    for (unsigned i = 0; i < DP_VIRTIO_SCSI_UNITS; i++)
        if (s->unit[i].present && !s->unit[i].cd && s->unit[i].scsi.block == block) {
            scsi_attention(&s->unit[i].scsi, SCSI_ATTENTION_CAPACITY, ASCQ_CAPACITY_CHANGED);
            post_event(s, EVENT_PARAM_CHANGE, &s->unit[i], SCSI_ATTENTION_CAPACITY | ASCQ_CAPACITY_CHANGED << 8);
        }
    dp_virtio_unlock(&s->base.virtio);
}

/* ---- life cycle ---- */

static int scsi_init(struct dp_device *d, struct dp_error *e)
{
    struct virtio_scsi *s = scsi_of_device(d);
    (void)e;
    s->ready_tail = &s->ready;
    dp_virtio_init(&s->base.virtio, &scsi_virtio_class, &s->regs.virtio, d);
    s->base.virtio.queue_count = (uint16_t)(QUEUE_REQUEST + s->queues);
    return 0;
}

static void scsi_fini(struct dp_device *d)
{
    struct virtio_scsi *s = scsi_of_device(d);
    dp_virtio_pause(dp_virtio_of(d)); /* nothing may come back to us after this */
    dp_virtio_fini(dp_virtio_of(d));
    for (unsigned i = 0; i < DP_VIRTIO_SCSI_CDROMS; i++)
        if (s->cd[i]) {
            drive_fini(&s->cd[i]->drive);
            free(s->cd[i]);
        }
}

static void scsi_device_reset(struct dp_device *d) { dp_virtio_reset(dp_virtio_of(d)); }
static void scsi_pause(struct dp_device *d) { dp_virtio_pause(dp_virtio_of(d)); }
static void scsi_resume(struct dp_device *d) { dp_virtio_resume(dp_virtio_of(d)); }
static void scsi_post_load(struct dp_device *d) { dp_virtio_post_load(dp_virtio_of(d)); }

const struct dp_device_class dp_virtio_scsi_class = {
    .name = "virtio-scsi",
    .summary = "SCSI controller with disks and CD-ROM drives (virtio 1.2)",
    .size = sizeof(struct virtio_scsi),
    .regs_offset = offsetof(struct virtio_scsi, regs),
    .state = &scsi_table,
    .properties = scsi_properties,
    .property_count = DP_ARRAY_LEN(scsi_properties),
    .init = scsi_init,
    .fini = scsi_fini,
    .reset = scsi_device_reset,
    .pause = scsi_pause,
    .resume = scsi_resume,
    .post_load = scsi_post_load,
};
