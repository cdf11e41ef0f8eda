/* devices/storage/ahci_internal.h - what ahci.c (registers, interrupts, life), ahci_command.c (command list, FISes, data) and ahci_queue.c
 * (queued
 * commands) share.
 *
 * Model: ahci_next() does what a port can do and says what is to be submitted to the image; ahci_settle() calls it until nothing is left.
 * A port
 * either runs one command on its drive (busy; current is the slot it came from) or any number of queued ones (slots with a phase), which
 * end in any
 * order. After an error it takes no command before software has stopped it (halted), as the specification wants.
 * Invariants: a slot's place in its table (prd_next, region) is in the registers, so whatever is not in flight continues from a saved
 * state; there is
 * nothing in flight while paused. Requests in flight of commands that were dropped are stale: nothing is taken before they are back, and
 * PxCMD.CR
 * reads as set until then. All functions are called with the device's lock held unless said otherwise.
 */
#ifndef DP_AHCI_INTERNAL_H
#define DP_AHCI_INTERNAL_H

#include "devices/storage/ahci.h"
#include "devices/storage/drive.h"

enum { AHCI_SLOTS = 32, AHCI_NO_SLOT = AHCI_SLOTS, AHCI_SLOT_PINS = 264 };
#define AHCI_REGION_MAX 0x400000u /* bytes of one table entry */

/* PxIS */
#define IS_DHRS (1u << 0)
#define IS_PSS (1u << 1)
#define IS_SDBS (1u << 3)
#define IS_DPS (1u << 5)
#define IS_PCS (1u << 6)
#define IS_PRCS (1u << 22)
#define IS_OFS (1u << 24)
#define IS_IFS (1u << 27)
#define IS_HBFS (1u << 29)
#define IS_TFES (1u << 30)
/* PxCMD */
#define CMD_ST (1u << 0)
#define CMD_FRE (1u << 4)
#define CMD_CCS(v) ((v) >> 8 & 31)
#define CMD_CCS_NONE (31u << 8) /* so that slot 0 is the first; reads as 0 while ST is clear */

enum ahci_slot_phase { SLOT_FREE, SLOT_MOVE, SLOT_FLUSH, SLOT_PHASES };

/* A command that was taken from the list. */
struct ahci_slot_regs {
    uint64_t table;                     /* PxCTBA */
    uint64_t region;                    /* what is left of the table entry at hand */
    uint32_t region_left;
    uint32_t prd_next, prd_count;
    uint32_t done;                      /* bytes moved */
    /* queued ones */
    uint64_t lba;
    uint32_t sectors;                   /* still to be moved */
    uint16_t count;                     /* as the command had it */
    uint8_t phase;
    bool write, fua, careful;           /* careful: see struct ata_drive_regs */
    bool dps;                           /* the entry at hand wants PxIS.DPS */
};

struct ahci_port_regs {
    uint64_t clb, fb;
    uint32_t is, ie, cmd, tfd, sig, ssts, sctl, serr, sact, ci;
    uint8_t current;                    /* slot of the command on the drive */
    bool busy;                          /* the drive has a command whose end was not told */
    bool halted, srst;
    bool announce;                      /* the signature FIS is to be written when FRE lets it */
    struct ahci_slot_regs slot[AHCI_SLOTS];
};

struct ahci_regs {
    struct dp_pci_regs pci;
    uint32_t ghc, is;
    struct ahci_port_regs port[DP_AHCI_PORTS];
    struct ata_drive_regs drive[DP_AHCI_PORTS];
};

struct ahci_port;
struct ahci_slot {
    struct ahci_port *port;
    unsigned n;
    struct dp_block_request io;
    bool in_flight, stale;
    uint32_t io_sectors;
    struct ahci_slot_regs before;       /* the request */
    unsigned pin_count;
    struct iovec iov[AHCI_SLOT_PINS];
    struct dp_pin pin[AHCI_SLOT_PINS];
};

struct ahci;
struct ahci_port {
    struct ahci *ahci;
    unsigned n;
    struct ahci_port_regs *regs;
    struct ata_drive drive;
    struct ahci_slot_regs before;       /* the drive's request */
    uint8_t before_slot;
    struct ahci_slot *slot;             /* of a disk: AHCI_SLOTS */
};

struct ahci {
    struct dp_device device;
    struct ahci_regs regs;
    struct dp_pci_function function;
    struct ahci_port port[DP_AHCI_PORTS];
    bool running;
    bool irq_busy, irq_driven, msi_due;
    pthread_cond_t irq_idle; /* !irq_busy */
    uint32_t irq_generation;
};

static inline struct ahci_port *ahci_port_of(struct ata_drive *d) { return DP_CONTAINER_OF(d, struct ahci_port, drive); }
static inline const struct dp_device_env *ahci_env(const struct ahci_port *p) { return p->ahci->device.env; }

/* ---- ahci.c ---- */

/* No lock held: does all that can be done, then drives the interrupt. */
void ahci_settle(struct ahci *a);

/* ---- ahci_command.c ---- */

extern const struct drive_host ahci_host;
/* Goes on with the port's work. Returns a request to submit (without lock) to *block, or NULL: nothing more can be done now. */
struct dp_block_request *ahci_next(struct ahci_port *p, struct dp_block **block);
/* Is anything of a command that was dropped still in flight? */
bool ahci_stale(const struct ahci_port *p);
/* PxCMD.ST went to 0: the list is forgotten. */
void ahci_stop(struct ahci_port *p);
/* COMRESET or the like begins; the drive leaves it through drive_step(). */
void ahci_reset_device(struct ahci_port *p);
/* The device's answer to a reset, to the registers at once and to memory when FRE is set. */
void ahci_announce(struct ahci_port *p);
/* Status, error and what else a FIS brings. */
enum { AHCI_FIS_PIO = 0x20, AHCI_FIS_D2H = 0x40, AHCI_FIS_SDB = 0x58 };
void ahci_post(struct ahci_port *p, unsigned offset, const void *fis, unsigned size);
void ahci_set_tfd(struct ahci_port *p, uint8_t status, uint8_t error);
/* Guest memory that must be RAM, all of it. */
bool ahci_load(struct ahci_port *p, uint64_t at, void *to, unsigned size);
/* Pins at most `max` pieces of the table's regions: whole units, `want` bytes at most; moves the slot past them. */
enum gather ahci_gather(struct ahci_port *p, struct ahci_slot_regs *s, uint64_t want, uint32_t unit, bool for_write,
                        struct dp_pin *pins, unsigned max, unsigned *count, uint64_t *size);

/* ---- ahci_queue.c ---- */

/* A queued command from the list. */
void ahci_queue_take(struct ahci_port *p, unsigned slot, const uint8_t *fis);
/* A request to submit, or NULL. */
struct dp_block_request *ahci_queue_next(struct ahci_port *p);
bool ahci_queue_empty(const struct ahci_port *p);
void ahci_queue_drop(struct ahci_port *p);
/* No lock held. */
void ahci_queue_drain(struct ahci_port *p);

#endif
