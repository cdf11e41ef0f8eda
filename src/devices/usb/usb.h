/* devices/usb/usb.h - USB devices as their host controller sees them: descriptors, standard requests, endpoints.
 *
 * Model: a device is a struct usb_device inside its controller, which lends it the lock, the registers (a part of the controller's state
 * table) and, for storage, the way to the block layer. A transfer is one TD: whole, with its buffers behind usb_transfer_put/get. A
 * device answers at once: done, NAK (nothing to say yet: the controller asks again when input came), stall, or busy: then it has filled
 * `io`, which the controller submits once the lock is released, and goes on in usb_storage_io_done.
 * Invariants: a device's registers change only when a transfer is over, so a transfer that was cut off (pause, reset, Stop Endpoint) can
 * be done again from its beginning. At most one request per device is in the block layer.
 * Locks: the controller's is held in every function here.
 * Source: USB 2.0 ch. 8.5, 9.4, 9.6; USB 3.2 9.6.2 (BOS), 9.6.7 (SuperSpeed endpoint companion).
 */
#ifndef DP_USB_H
#define DP_USB_H

#include "block/block.h"
#include "devices/device.h"
#include "devices/usb/xhci.h"

enum usb_speed { USB_SPEED_FULL = 1, USB_SPEED_LOW, USB_SPEED_HIGH, USB_SPEED_SUPER }; /* as xHCI and descriptors of it count */

enum { USB_DIR_IN = 0x80, USB_TYPE_MASK = 0x60, USB_TYPE_STANDARD = 0x00, USB_TYPE_CLASS = 0x20, USB_RECIPIENT_MASK = 0x1f,
       USB_RECIPIENT_DEVICE = 0, USB_RECIPIENT_INTERFACE = 1, USB_RECIPIENT_ENDPOINT = 2 };
enum { USB_GET_STATUS = 0, USB_CLEAR_FEATURE = 1, USB_SET_FEATURE = 3, USB_SET_ADDRESS = 5, USB_GET_DESCRIPTOR = 6,
       USB_GET_CONFIGURATION = 8, USB_SET_CONFIGURATION = 9, USB_GET_INTERFACE = 10, USB_SET_INTERFACE = 11, USB_SET_SEL = 48,
       USB_SET_ISOCH_DELAY = 49 };
enum { USB_DT_DEVICE = 1, USB_DT_CONFIG = 2, USB_DT_STRING = 3, USB_DT_INTERFACE = 4, USB_DT_ENDPOINT = 5, USB_DT_QUALIFIER = 6,
       USB_DT_OTHER_SPEED = 7, USB_DT_BOS = 15, USB_DT_CAPABILITY = 16, USB_DT_HID = 0x21, USB_DT_REPORT = 0x22,
       USB_DT_COMPANION = 48 };

#define USB_CONTROL_MAX 4096u /* bytes of a control transfer's data that are looked at */

/* ---- state ---- */

enum { USB_HID_QUEUE = 32 };
struct usb_hid_regs {
    uint8_t protocol;             /* 0 boot, 1 report */
    uint8_t idle;                 /* in 4 ms; 0: only changes are reported */
    uint8_t leds;
    uint8_t buttons;              /* of a pointer, as last heard */
    uint64_t queue[USB_HID_QUEUE]; /* reports, finished, first byte lowest */
    uint8_t head, count;
    uint64_t last;                /* the report that was given last */
    uint64_t idle_at;             /* VM time of the next repetition */
    uint8_t pressed[32];          /* a bit per key usage */
};

enum usb_storage_phase { USB_STORAGE_COMMAND, USB_STORAGE_DATA, USB_STORAGE_STATUS, USB_STORAGE_BROKEN, USB_STORAGE_PHASES };
enum usb_storage_source { USB_STORAGE_NOTHING, USB_STORAGE_BUFFER, USB_STORAGE_MEDIUM, USB_STORAGE_SOURCES };
struct usb_storage_regs {
    uint8_t phase, source;
    bool in;                      /* direction that the host expects */
    bool flush;                   /* before the status is told */
    uint8_t status;               /* of the CSW */
    uint32_t tag;
    uint32_t host_length;         /* dCBWDataTransferLength */
    uint32_t length;              /* what the command moves, at most host_length */
    uint32_t done;                /* bytes moved of host_length */
    uint64_t offset;              /* in the medium */
    uint8_t sense_key, asc, ascq;
    uint8_t buffer[512];          /* what a command answers; of a write, the sector that is not yet whole */
};

struct usb_regs {
    uint8_t configuration;
    uint32_t halted;              /* bit n: OUT endpoint n, 16 + n: IN */
    struct usb_hid_regs hid;
    struct usb_storage_regs storage;
};
extern const struct dp_state_table usb_regs_table;
/* A table's load calls its own check only: the controller calls these for each device. */
int usb_regs_check(const struct usb_regs *r, struct dp_error *e) DP_MUST_CHECK;
void usb_regs_clamp(struct usb_regs *r);

/* ---- devices ---- */

enum usb_result { USB_DONE, USB_NAK, USB_STALL, USB_BABBLE, USB_FAULT /* a buffer is no RAM */, USB_GONE /* nobody answers */, USB_BUSY };
enum usb_io { USB_IO_NONE, USB_IO_DUE, USB_IO_FLYING };

struct usb_transfer {
    unsigned endpoint;
    bool in;
    uint32_t length, actual;
    /* The controller's: moves bytes of the TD's buffers; false when they are no RAM. */
    bool (*move)(struct usb_transfer *t, uint32_t offset, void *data, uint32_t size, bool to_guest);
};

struct usb_device {
    enum dp_usb_kind kind;
    enum usb_speed speed;
    const struct usb_class *class;
    struct usb_regs *regs;
    const struct dp_device_env *env;
    const char *id;                /* of the controller, for what is said */
    char serial[21];               /* hexadecimal digits, 12 or more: Bulk-Only Transport 4.1.1 */
    /* storage */
    struct dp_block *block;
    uint8_t *bounce;               /* USB_STORAGE_CHUNK bytes */
    struct dp_block_request request;
    struct iovec iov;
    enum usb_io io;
    bool stale;                    /* what flies is not wanted any more */
    uint32_t chunk_at, chunk_size; /* of the transfer: what the request is about */
    uint32_t chunk_skip;           /* bytes of the bounce buffer before it */
};

struct usb_setup {
    uint8_t type, request;
    uint16_t value, index, length;
};

struct usb_class {
    const uint8_t *device, *config, *bos;                  /* descriptors, complete */
    const char *const *strings;                            /* 1...; the last is the serial number: NULL here */
    unsigned string_count;
    /* Requests that are not standard, and descriptors of an interface. *size: in: bytes there are (OUT) or room (IN); out: bytes given. */
    enum usb_result (*control)(struct usb_device *d, const struct usb_setup *s, uint8_t *data, uint32_t *size);
    enum usb_result (*transfer)(struct usb_device *d, struct usb_transfer *t);
    void (*reset)(struct usb_device *d);
    void (*endpoint_cleared)(struct usb_device *d, unsigned endpoint, bool in); /* a halt was cleared; may be NULL */
};
extern const struct usb_class usb_tablet_class, usb_keyboard_class, usb_mouse_class, usb_storage_class;

int usb_device_init(struct usb_device *d, enum dp_usb_kind kind, struct usb_regs *regs, const struct dp_device_env *env, const char *id,
                    struct dp_error *e) DP_MUST_CHECK;
void usb_device_fini(struct usb_device *d);
void usb_device_reset(struct usb_device *d); /* bus reset, or power */
/* One control transfer, its data of USB_CONTROL_MAX bytes at most. */
enum usb_result usb_control(struct usb_device *d, const struct usb_setup *s, uint8_t *data, uint32_t *size);
enum usb_result usb_transfer(struct usb_device *d, struct usb_transfer *t);
static inline bool usb_put(struct usb_transfer *t, uint32_t at, const void *data, uint32_t n)
{
    return t->move(t, at, (void *)data, n, true);
}
static inline bool usb_get(struct usb_transfer *t, uint32_t at, void *data, uint32_t n) { return t->move(t, at, data, n, false); }

/* HID: true when there is something new to say. dx, dy: of a mouse. */
bool usb_hid_key(struct usb_device *d, unsigned code, bool down);
bool usb_hid_pointer(struct usb_device *d, int x, int y, int wheel, unsigned buttons);
/* When the device will say something although nothing happens; false: never. */
bool usb_hid_next(const struct usb_device *d, uint64_t *at);

#define USB_STORAGE_CHUNK (128u << 10)
/* Goes on with the transfer that was busy: result is the block layer's. */
enum usb_result usb_storage_io_done(struct usb_device *d, struct usb_transfer *t, int result);

/* ---- SCSI (scsi_disk.c) ---- */

/* Does what a command block asks for; sets source, length, offset, status, flush, sense and the buffer. */
void usb_scsi_command(struct usb_device *d, const uint8_t *cdb, unsigned size, bool *to_host);
void usb_scsi_sense(struct usb_storage_regs *r, uint8_t key, uint8_t asc, uint8_t ascq);
void usb_scsi_medium_error(struct usb_storage_regs *r, bool write);
enum { SCSI_SECTOR = 512 };

#endif
