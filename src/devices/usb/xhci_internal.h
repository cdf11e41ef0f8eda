/* xhci_internal.h - what the files of the controller share: xhci.c (registers, interrupts, life), xhci_port.c (ports), xhci_command.c
 * (the command ring), xhci_ring.c (the event ring, transfer rings, transfers).
 *
 * Locks: all functions here are called with the device's lock; xhci_settle without. Guest memory is reached by pins only, so no access
 * can come back to the controller. What must not be done under the lock (requests, messages, the interrupt pin) is left in the registers
 * or the devices for xhci_settle, which every entry point calls at its end. Names of registers, fields and codes are those of xHCI 1.2: 5
 * (registers), 6 (contexts, TRBs).
 */
#ifndef DP_XHCI_INTERNAL_H
#define DP_XHCI_INTERNAL_H

#include "devices/usb/usb.h"

enum { XHCI_SLOTS = 16, XHCI_INTERRUPTERS = 8, XHCI_ENDPOINTS = 31, XHCI_SEGMENTS = 4, XHCI_USB3_PORTS = 4, XHCI_TD_TRBS = 1024 };

enum { USBCMD_RS = 1, USBCMD_HCRST = 2, USBCMD_INTE = 4, USBCMD_HSEE = 8, USBCMD_CSS = 0x100, USBCMD_CRS = 0x200, USBCMD_EWE = 0x400,
       USBCMD_KEPT = USBCMD_RS | USBCMD_INTE | USBCMD_HSEE | USBCMD_EWE };
enum { USBSTS_HCH = 1, USBSTS_HSE = 4, USBSTS_EINT = 8, USBSTS_PCD = 0x10, USBSTS_SRE = 0x400,
       USBSTS_RW1C = USBSTS_HSE | USBSTS_EINT | USBSTS_PCD | USBSTS_SRE };
enum { CRCR_RCS = 1, CRCR_CS = 2, CRCR_CA = 4, CRCR_CRR = 8 };
enum { IMAN_IP = 1, IMAN_IE = 2, ERDP_DESI = 7, ERDP_EHB = 8 };
enum { LEGSUP_BIOS = 1 << 16, LEGSUP_OS = 1 << 24 };

enum { PLS_U0 = 0, PLS_U3 = 3, PLS_DISABLED = 4, PLS_RXDETECT = 5, PLS_POLLING = 7, PLS_RESUME = 15 };
#define PORTSC_CCS (1u << 0)
#define PORTSC_PED (1u << 1)
#define PORTSC_PR (1u << 4)
#define PORTSC_PLS (15u << 5)
#define PORTSC_PP (1u << 9)
#define PORTSC_SPEED (15u << 10)
#define PORTSC_PIC (3u << 14)
#define PORTSC_LWS (1u << 16)
#define PORTSC_CSC (1u << 17)
#define PORTSC_PEC (1u << 18)
#define PORTSC_WRC (1u << 19)
#define PORTSC_PRC (1u << 21)
#define PORTSC_PLC (1u << 22)
#define PORTSC_CHANGES (0x7fu << 17)
#define PORTSC_WAKE (7u << 25)
#define PORTSC_WPR (1u << 31)

enum { TRB_NORMAL = 1, TRB_SETUP, TRB_DATA, TRB_STATUS, TRB_ISOCH, TRB_LINK, TRB_EVENT_DATA, TRB_NO_OP, TRB_ENABLE_SLOT,
       TRB_DISABLE_SLOT, TRB_ADDRESS_DEVICE, TRB_CONFIGURE_ENDPOINT, TRB_EVALUATE_CONTEXT, TRB_RESET_ENDPOINT, TRB_STOP_ENDPOINT,
       TRB_SET_TR_DEQUEUE, TRB_RESET_DEVICE, TRB_NO_OP_COMMAND = 23, TRB_TRANSFER_EVENT = 32, TRB_COMMAND_COMPLETION = 33,
       TRB_PORT_STATUS_CHANGE = 34 };
enum { TRB_C = 1, TRB_TC = 2, TRB_ISP = 4, TRB_CH = 0x10, TRB_IOC = 0x20, TRB_IDT = 0x40, TRB_BSR = 0x200, TRB_DC = 0x200,
       TRB_TYPE_SHIFT = 10, TRB_DIR = 1 << 16, TRB_ED = 4, TRB_SIZE = 16 };
enum { CC_SUCCESS = 1, CC_BABBLE = 3, CC_TRANSACTION = 4, CC_TRB = 5, CC_STALL = 6, CC_RESOURCE = 7, CC_NO_SLOTS = 9,
       CC_SLOT_DISABLED = 11, CC_ENDPOINT_DISABLED = 12, CC_SHORT = 13, CC_PARAMETER = 17, CC_CONTEXT_STATE = 19, CC_RING_STOPPED = 24,
       CC_STOPPED = 26 };

enum { SLOT_ENABLED, SLOT_DEFAULT, SLOT_ADDRESSED, SLOT_CONFIGURED };
enum { EP_DISABLED, EP_RUNNING, EP_HALTED, EP_STOPPED, EP_ERROR, EP_STATES };
enum { EP_TYPE_ISOCH_OUT = 1, EP_TYPE_BULK_OUT, EP_TYPE_INTERRUPT_OUT, EP_TYPE_CONTROL, EP_TYPE_ISOCH_IN, EP_TYPE_BULK_IN,
       EP_TYPE_INTERRUPT_IN };
enum { CONTEXT_SIZE = 32 };

struct xhci_endpoint_regs {
    uint8_t state, type;
    bool cycle;                 /* consumer cycle state */
    bool active;                /* its first TD has begun and waits: for the device (NAK) or the block layer */
    uint64_t dequeue;
};
struct xhci_slot_regs {
    bool enabled;
    uint8_t state, port;        /* port: 1..., 0: none */
    uint64_t context;           /* of the device, in guest memory */
    struct xhci_endpoint_regs endpoint[XHCI_ENDPOINTS]; /* by DCI - 1 */
};
struct xhci_interrupter_regs {
    uint32_t iman, imod, erstsz;
    uint64_t erstba, erdp;      /* erdp with DESI and EHB */
    /* the ring, from the segment table */
    uint64_t segment_base[XHCI_SEGMENTS];
    uint32_t segment_size[XHCI_SEGMENTS]; /* TRBs; 0: no ring */
    uint8_t segment;            /* enqueue place */
    uint16_t index;
    bool cycle;
};
struct xhci_port_regs { uint32_t portsc, portpmsc; };
struct xhci_regs {
    struct dp_pci_regs pci;
    uint32_t usbcmd, usbsts, dnctrl, config;
    uint64_t crcr;              /* where the command ring goes on, and its cycle state (RCS) */
    bool command_running;       /* CRR */
    uint64_t dcbaap;
    uint64_t started;           /* VM time of frame 0, while running */
    uint64_t frame;             /* microframe at which it stopped */
    uint32_t usblegsup, usblegctlsts;
    uint32_t msi_due;           /* a bit per interrupter whose message waits to be sent */
    bool starved;               /* something waits for room in an event ring */
    struct xhci_interrupter_regs interrupter[XHCI_INTERRUPTERS];
    struct xhci_port_regs port[DP_XHCI_PORTS];
    struct xhci_slot_regs slot[XHCI_SLOTS];
    struct usb_regs usb[DP_XHCI_PORTS];
};

struct xhci_trb {
    uint64_t parameter;
    uint32_t status, control;
};
struct xhci_td {
    struct usb_transfer transfer;
    struct xhci *xhci;
    uint8_t slot, endpoint;     /* DCI */
    bool next_cycle;
    uint64_t next;              /* dequeue pointer once it is over */
    unsigned count;
    struct {
        uint64_t address;
        struct xhci_trb trb;
    } trb[XHCI_TD_TRBS];
};

struct xhci {
    struct dp_device device;
    struct xhci_regs regs;
    struct dp_pci_function function;
    struct xhci_device {
        struct xhci *xhci;
        struct usb_device usb;
        struct xhci_td *busy;   /* storage: the TD that waits for the block layer, valid while has_td */
        bool has_td;
    } dev[DP_XHCI_PORTS];       /* by port - 1; kind NONE: nothing is there */
    struct xhci_td td;          /* scratch */
    unsigned done_trbs;         /* of TDs that are over, since xhci_settle */
    uint8_t control[USB_CONTROL_MAX];
    struct dp_timer more, idle; /* work that was cut; reports that are repeated */
    bool running;               /* between resume and pause */
    bool irq_busy;
    pthread_cond_t irq_idle; /* !irq_busy */
    int irq_driven;             /* level last given to the pin; -1: unknown */
};

static inline unsigned trb_type(const struct xhci_trb *t) { return t->control >> TRB_TYPE_SHIFT & 63; }
static inline struct xhci *xhci_of(struct dp_device *d) { return DP_CONTAINER_OF(d, struct xhci, device); }
/* Does the controller work, and may it reach memory? */
bool xhci_operates(const struct xhci *x);

/* ---- xhci.c ---- */
void xhci_settle(struct xhci *x); /* no lock held */
/* The guest's memory was not there: the controller stops (HSE). */
void xhci_dead(struct xhci *x, const char *why, uint64_t address);
bool xhci_read(struct xhci *x, uint64_t address, void *data, uint32_t size);
bool xhci_write(struct xhci *x, uint64_t address, const void *data, uint32_t size);
void xhci_interrupt(struct xhci *x, unsigned interrupter);
void xhci_later(struct xhci *x); /* go on soon with what was cut */

/* ---- xhci_ring.c ---- */
void xhci_event_ring_init(struct xhci *x, unsigned interrupter);
unsigned xhci_event_room(const struct xhci *x, unsigned interrupter); /* 0, too, when there is no ring */
void xhci_event(struct xhci *x, unsigned interrupter, uint64_t parameter, uint32_t status, uint32_t control);
/* The next TRB of a ring, links followed. 1: there it is; 0: none yet; -1: the ring is broken. */
int xhci_fetch(struct xhci *x, uint64_t *dequeue, bool *cycle, struct xhci_trb *t, uint64_t *address);
void xhci_run_endpoint(struct xhci *x, unsigned slot, unsigned dci);
void xhci_run_device(struct xhci *x, unsigned port); /* all endpoints of the slots on it */
void xhci_run_all(struct xhci *x);
/* Nothing of the endpoint goes on. report: with an event that says Stopped. */
void xhci_stop_endpoint(struct xhci *x, unsigned slot, unsigned dci, bool report);
void xhci_set_endpoint_state(struct xhci *x, unsigned slot, unsigned dci, unsigned state);
void xhci_io_done(struct dp_block_request *request, int result);

/* ---- xhci_command.c ---- */
void xhci_run_commands(struct xhci *x);
void xhci_slot_disable(struct xhci *x, unsigned slot);

/* ---- xhci_port.c ---- */
void xhci_ports_reset(struct xhci *x);
void xhci_port_write(struct xhci *x, unsigned n, uint32_t value);
void xhci_ports_tell(struct xhci *x); /* the changes there are, once the controller runs */

#endif
