/* usb_storage.c - a disk on USB: the Bulk-Only Transport under SCSI commands (scsi_disk.c), on an image.
 *
 * Model: a command wrapper (CBW) comes in by bulk OUT, then data either way, then a status wrapper (CSW) goes out by bulk IN. Whatever
 * waits for the image (data, a flush) does so within the TD that it belongs to; data move in chunks through a bounce buffer of whole
 * sectors, since TDs may begin and end anywhere. A command that gives less than the host asks for ends the data phase by a short packet,
 * if necessary an empty one, never by a stall, which drivers need not know how to clear. A wrong CBW stalls both pipes until Bulk-Only
 * Mass Storage Reset. An image that fails is a MEDIUM ERROR. Written data are in the image when the CSW says so; they are on the host's
 * disk after SYNCHRONIZE CACHE or a write with FUA.
 * Invariants: registers change when a TD is over, not before, so a TD may be done again. done <= host_length, length <= host_length.
 * Source: USB Mass Storage Class Bulk-Only Transport 1.0 (5: wrappers, 6.6: errors, 6.7: the thirteen cases).
 */
#include "devices/usb/usb.h"

enum { BOT_RESET = 0xff, BOT_GET_MAX_LUN = 0xfe };
enum { CBW_SIZE = 31, CSW_SIZE = 13, CBW_TAG = 4, CBW_LENGTH = 8, CBW_FLAGS = 12, CBW_LUN = 13, CBW_CDB_SIZE = 14, CBW_CDB = 15 };
enum { CSW_GOOD = 0, CSW_FAILED = 1, CSW_PHASE_ERROR = 2 };
#define CBW_SIGNATURE 0x43425355u /* "USBC" */
#define CSW_SIGNATURE 0x53425355u
enum { ENDPOINT_IN = 1, ENDPOINT_OUT = 2 };

static const uint8_t storage_device[] = {
    18, USB_DT_DEVICE, 0x00, 0x03, 0, 0, 0, 9 /* 512 */, 0x09, 0x12, 0x04, 0xd0, 0x00, 0x01, 1, 2, 3, 1};
static const uint8_t storage_config[] = {
    9, USB_DT_CONFIG, 44, 0, 1, 1, 0, 0xc0, 2,            /* self-powered */
    9, USB_DT_INTERFACE, 0, 0, 2, 8, 6, 0x50, 0,          /* mass storage, SCSI transparent, bulk-only */
    7, USB_DT_ENDPOINT, USB_DIR_IN | ENDPOINT_IN, 2, 0x00, 0x04, 0,
    6, USB_DT_COMPANION, 15, 0, 0, 0,
    7, USB_DT_ENDPOINT, ENDPOINT_OUT, 2, 0x00, 0x04, 0,
    6, USB_DT_COMPANION, 15, 0, 0, 0,
};
static const uint8_t storage_bos[] = {
    5, USB_DT_BOS, 22, 0, 2,
    7, USB_DT_CAPABILITY, 2, 0, 0, 0, 0,                  /* USB 2.0 extension */
    10, USB_DT_CAPABILITY, 3, 0, 0x08, 0, 3, 0, 0, 0,     /* SuperSpeed: only 5 Gb/s */
};
static const char *const storage_strings[] = {"doppel", "USB storage", NULL};

static void finish(struct usb_storage_regs *r) { r->phase = r->done < r->host_length ? USB_STORAGE_DATA : USB_STORAGE_STATUS; }

/* ---- the command ---- */

static enum usb_result command(struct usb_device *d, struct usb_transfer *t)
{
    struct usb_storage_regs *r = &d->regs->storage;
    uint8_t cbw[CBW_SIZE];
    if (t->length < CBW_SIZE || !usb_get(t, 0, cbw, CBW_SIZE))
        return t->length < CBW_SIZE ? USB_STALL : USB_FAULT;
    unsigned size = cbw[CBW_CDB_SIZE] & 31;
    if (t->length != CBW_SIZE || dp_ld32(cbw) != CBW_SIGNATURE || (cbw[CBW_LUN] & 15) || size < 1 || size > 16) {
        dp_trace_guest(d->env->trace, "%s: a command wrapper of %u bytes, signature 0x%08x, unit %u, %u bytes of command", d->id, t->length,
                       dp_ld32(cbw), cbw[CBW_LUN], size);
        r->phase = USB_STORAGE_BROKEN;
        d->regs->halted |= 1u << (16 + ENDPOINT_IN) | 1u << ENDPOINT_OUT;
        return USB_STALL;
    }
    t->actual = CBW_SIZE;
    r->tag = dp_ld32(cbw + CBW_TAG);
    r->host_length = dp_ld32(cbw + CBW_LENGTH);
    r->in = cbw[CBW_FLAGS] & 0x80;
    r->done = r->length = 0;
    r->source = USB_STORAGE_NOTHING;
    r->flush = false;
    r->status = CSW_GOOD;
    bool to_host = true;
    usb_scsi_command(d, cbw + CBW_CDB, size, &to_host);
    if (r->length && (!r->host_length || to_host != r->in || (r->source == USB_STORAGE_MEDIUM && r->length > r->host_length))) {
        r->status = CSW_PHASE_ERROR; /* cases 2, 3, 7, 8, 10, 13 */
        r->source = USB_STORAGE_NOTHING;
        r->length = 0;
    }
    r->length = DP_MIN(r->length, r->host_length);
    DP_TRACE(d->env->trace, DP_TRACE_BLOCK, "%s: command %02x %02x%02x%02x%02x %02x%02x%02x, host %s %u, device %u, status %u", d->id,
             cbw[CBW_CDB], cbw[CBW_CDB + 2], cbw[CBW_CDB + 3], cbw[CBW_CDB + 4], cbw[CBW_CDB + 5], cbw[CBW_CDB + 6], cbw[CBW_CDB + 7],
             cbw[CBW_CDB + 8], r->in ? "reads" : "writes", r->host_length, r->length, r->status);
    finish(r);
    return USB_DONE;
}

/* ---- data ---- */

/* A request for the sectors that hold [at, at + n) of the command's data, the buffer beginning with the first of them. */
static enum usb_result start(struct usb_device *d, enum dp_block_op op, uint64_t offset, uint32_t size)
{
    d->request =
        (struct dp_block_request){.op = op, .offset = offset, .size = size, .iov = &d->iov, .iov_count = op == DP_BLOCK_FLUSH ? 0 : 1};
    d->iov = (struct iovec){d->bounce, size};
    d->io = USB_IO_DUE;
    return USB_BUSY;
}

static enum usb_result data_failed(struct usb_device *d, struct usb_transfer *t, bool write)
{
    struct usb_storage_regs *r = &d->regs->storage;
    usb_scsi_medium_error(r, write);
    r->status = CSW_FAILED;
    r->source = USB_STORAGE_NOTHING;
    r->length = r->done + (write ? 0 : d->chunk_at);
    t->actual = write ? DP_MIN(t->length, r->host_length - r->done) : d->chunk_at;
    r->done += t->actual;
    if (write)
        finish(r);
    else
        r->phase = USB_STORAGE_STATUS; /* it came short */
    return USB_DONE;
}

/* The medium may have become another since (a state that was loaded). */
static bool on_medium(const struct usb_device *d, uint64_t offset, uint64_t size)
{
    uint64_t whole = dp_block_size(d->block);
    return offset <= whole && size <= whole - offset;
}

/* The next chunk of a read, from t->actual = d->chunk_at on. */
static enum usb_result read_chunk(struct usb_device *d, struct usb_transfer *t, uint32_t want)
{
    struct usb_storage_regs *r = &d->regs->storage;
    uint64_t from = r->offset + r->done + d->chunk_at, first = DP_ALIGN_DOWN(from, (uint64_t)SCSI_SECTOR);
    d->chunk_skip = (uint32_t)(from - first);
    d->chunk_size = DP_MIN(want - d->chunk_at, USB_STORAGE_CHUNK - d->chunk_skip);
    uint32_t size = DP_ALIGN_UP(d->chunk_skip + d->chunk_size, (uint32_t)SCSI_SECTOR);
    return on_medium(d, first, size) ? start(d, DP_BLOCK_READ, first, size) : data_failed(d, t, false);
}

/* The next chunk of a write: what is over from the TD before, then the TD's bytes. Whole sectors are written. */
static enum usb_result write_chunk(struct usb_device *d, struct usb_transfer *t, uint32_t want)
{
    struct usb_storage_regs *r = &d->regs->storage;
    uint32_t at = r->done + d->chunk_at, carry = d->chunk_at ? 0 : at % SCSI_SECTOR;
    d->chunk_skip = carry;
    d->chunk_size = DP_MIN(want - d->chunk_at, USB_STORAGE_CHUNK - carry);
    if (!d->chunk_at)
        memcpy(d->bounce, r->buffer, carry);
    if (!usb_get(t, d->chunk_at, d->bounce + carry, d->chunk_size))
        return USB_FAULT;
    uint32_t size = DP_ALIGN_DOWN(carry + d->chunk_size, (uint32_t)SCSI_SECTOR);
    uint64_t first = r->offset + at - carry;
    if (!size)
        return USB_DONE;
    return on_medium(d, first, size) && !dp_block_readonly(d->block) ? start(d, DP_BLOCK_WRITE, first, size) : data_failed(d, t, true);
}

/* How much of the TD is the command's. */
static uint32_t wanted(const struct usb_storage_regs *r, const struct usb_transfer *t)
{
    return r->done < r->length ? DP_MIN(t->length, r->length - r->done) : 0;
}

static enum usb_result write_over(struct usb_device *d, struct usb_transfer *t)
{
    struct usb_storage_regs *r = &d->regs->storage;
    uint32_t total = d->chunk_skip + d->chunk_size, rest = total % SCSI_SECTOR;
    memcpy(r->buffer, d->bounce + total - rest, rest);
    t->actual = DP_MIN(t->length, r->host_length - r->done);
    r->done += t->actual;
    finish(r);
    return USB_DONE;
}

static enum usb_result data(struct usb_device *d, struct usb_transfer *t)
{
    struct usb_storage_regs *r = &d->regs->storage;
    uint32_t want = wanted(r, t);
    d->chunk_at = 0;
    if (t->in != r->in)
        return USB_STALL;
    if (want && r->source == USB_STORAGE_MEDIUM) {
        enum usb_result result = t->in ? read_chunk(d, t, want) : write_chunk(d, t, want);
        return !t->in && result == USB_DONE && r->source == USB_STORAGE_MEDIUM ? write_over(d, t) : result;
    }
    if (!t->in) { /* not wanted: taken and dropped */
        t->actual = DP_MIN(t->length, r->host_length - r->done);
        r->done += t->actual;
        finish(r);
        return USB_DONE;
    }
    if (want && !usb_put(t, 0, r->buffer + DP_MIN(r->done, sizeof(r->buffer) - want), want))
        return USB_FAULT;
    t->actual = want;
    r->done += want;
    /* Short: the host takes it for the end. */
    r->phase = t->actual < t->length || r->done == r->host_length ? USB_STORAGE_STATUS : USB_STORAGE_DATA;
    return USB_DONE;
}

/* ---- status ---- */

static enum usb_result status(struct usb_device *d, struct usb_transfer *t)
{
    struct usb_storage_regs *r = &d->regs->storage;
    uint8_t csw[CSW_SIZE];
    if (r->flush) {
        d->chunk_at = 0;
        return start(d, DP_BLOCK_FLUSH, 0, 0);
    }
    dp_st32(csw, CSW_SIGNATURE);
    dp_st32(csw + 4, r->tag);
    dp_st32(csw + 8, r->host_length - DP_MIN(r->done, r->length));
    csw[12] = r->status;
    if (t->length < CSW_SIZE)
        return USB_BABBLE;
    if (!usb_put(t, 0, csw, CSW_SIZE))
        return USB_FAULT;
    t->actual = CSW_SIZE;
    r->phase = USB_STORAGE_COMMAND;
    return USB_DONE;
}

static enum usb_result storage_transfer(struct usb_device *d, struct usb_transfer *t)
{
    struct usb_storage_regs *r = &d->regs->storage;
    if (d->io != USB_IO_NONE) /* of a transfer that is gone */
        return USB_NAK;
    switch (r->phase) {
    case USB_STORAGE_COMMAND: return t->in ? USB_NAK : command(d, t);
    case USB_STORAGE_DATA: return t->in == r->in ? data(d, t) : USB_NAK;
    case USB_STORAGE_STATUS: return t->in ? status(d, t) : USB_NAK;
    default: return USB_STALL;
    }
}

enum usb_result usb_storage_io_done(struct usb_device *d, struct usb_transfer *t, int result)
{
    struct usb_storage_regs *r = &d->regs->storage;
    if (r->phase != (d->request.op == DP_BLOCK_FLUSH ? USB_STORAGE_STATUS : USB_STORAGE_DATA))
        return USB_NAK; /* a reset took the command away: the TD waits for another */
    if (d->request.op == DP_BLOCK_FLUSH) {
        r->flush = false;
        if (result) {
            usb_scsi_medium_error(r, true);
            r->status = CSW_FAILED;
        }
        return status(d, t);
    }
    uint32_t want = wanted(r, t);
    if (result)
        return data_failed(d, t, d->request.op == DP_BLOCK_WRITE);
    if (d->request.op == DP_BLOCK_READ && !usb_put(t, d->chunk_at, d->bounce + d->chunk_skip, d->chunk_size))
        return USB_FAULT;
    if (d->chunk_at + d->chunk_size < want) {
        /* A chunk ends with a sector except at the end of the TD: the buffer's size less the carry is what was taken. */
        d->chunk_at += d->chunk_size;
        enum usb_result next = t->in ? read_chunk(d, t, want) : write_chunk(d, t, want);
        return !t->in && next == USB_DONE && r->source == USB_STORAGE_MEDIUM ? write_over(d, t) : next;
    }
    if (!t->in)
        return write_over(d, t);
    t->actual = want;
    r->done += want;
    r->phase = t->actual < t->length || r->done == r->host_length ? USB_STORAGE_STATUS : USB_STORAGE_DATA;
    return USB_DONE;
}

/* ---- requests ---- */

static enum usb_result storage_control(struct usb_device *d, const struct usb_setup *s, uint8_t *data, uint32_t *size)
{
    if (s->type == (USB_TYPE_CLASS | USB_RECIPIENT_INTERFACE) && s->request == BOT_RESET) {
        struct usb_storage_regs *r = &d->regs->storage;
        r->phase = USB_STORAGE_COMMAND;
        r->source = USB_STORAGE_NOTHING;
        r->flush = false;
        return USB_DONE;
    }
    if (s->type == (USB_DIR_IN | USB_TYPE_CLASS | USB_RECIPIENT_INTERFACE) && s->request == BOT_GET_MAX_LUN) {
        *size = DP_MIN(*size, 1u);
        memset(data, 0, *size);
        return USB_DONE;
    }
    return USB_STALL;
}

/* Until the reset that a wrong wrapper asks for, clearing a halt does not help (5.3.4, 6.6.1). */
static void storage_cleared(struct usb_device *d, unsigned endpoint, bool in)
{
    if (d->regs->storage.phase == USB_STORAGE_BROKEN)
        d->regs->halted |= in ? 1u << (16 + endpoint) : 1u << endpoint;
}

const struct usb_class usb_storage_class = {
    .device = storage_device,
    .config = storage_config,
    .bos = storage_bos,
    .strings = storage_strings,
    .string_count = DP_ARRAY_LEN(storage_strings),
    .control = storage_control,
    .transfer = storage_transfer,
    .endpoint_cleared = storage_cleared,
};
