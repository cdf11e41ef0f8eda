/* devices/net/nic.h - what the network cards have in common: port, sending, interrupt line, PCI shell, serial EEPROM, checksums.
 *
 * Model: a card is registers and rings; everything that calls out is here. A card says which packet is next (tx_next) and is told when
 * it went (tx_done); until then its rings do not move, so that a packet that the other end does not take, or that a pause or a saved
 * state interrupts, is read from the ring again. It takes one frame at a time (rx), or says that its ring is full; then the port takes
 * no more until the card has noticed that the guest gave it room (nic_room). What the card's offload engine has promised is left to the
 * other end, or to net/offload.h if that does not take it.
 * Invariants: registers change under the device's lock; frames, the interrupt line and the port's `ready` go out without it, from one
 * thread at a time (tx_busy, irq_busy, ready_busy): who finds the flag set leaves its change for that thread, which looks again. Guest
 * memory is reached by pins, RAM only, which calls nobody and is done under the lock. After nic_quiesce nobody is in a frame and
 * nothing goes out until nic_resume.
 * Link: the level the guest knows is the card's (regs); it follows the port while the device runs, and at reset.
 * Source: IEEE 802.3-2018 3.2, 3.3 (frame, FCS); RFC 1071; serial EEPROMs: Microchip DS21749 (93C46/56/66).
 */
#ifndef DP_NIC_H
#define DP_NIC_H

#include "devices/device.h"
#include "devices/pci/pci.h"
#include "net/net.h"
#include "net/offload.h"

enum { NIC_MAC = 6, NIC_FRAME_MIN = 60, NIC_FRAME_STANDARD = 1514, NIC_VLAN = 4, NIC_FCS = 4, NIC_BUFFER = DP_NET_FRAME_MAX + NIC_FCS };

/* ---- serial EEPROM (Microwire), 16 bits wide ---- */

enum { NIC_EEPROM_WORDS = 64 }; /* 93C46; cards that have more have it empty */
struct nic_eeprom_regs {
    uint16_t word[NIC_EEPROM_WORDS];
    uint16_t shift;
    uint8_t phase, count, address;
    bool cs, sk, output, write_enabled;
};
extern const struct dp_state_table nic_eeprom_table;
/* The three lines into it, as they are from now on. */
void nic_eeprom_lines(struct nic_eeprom_regs *p, bool cs, bool sk, bool di);
/* The one out of it: DO. */
static inline bool nic_eeprom_output(const struct nic_eeprom_regs *p) { return p->output; }

/* ---- frames ---- */

struct nic_packet {             /* bytes at nic.tx_buffer, or wherever data points to: stable until tx_done */
    uint8_t *data;
    uint32_t size;
    uint32_t work;              /* DP_NET_...: what the card has promised to do */
    uint16_t checksum_start, checksum_offset, header_size, segment_size;
    bool loopback;              /* comes back to the receiver instead */
};

/* The checksum field of TCP or UDP gets the sum of the pseudo header: the work that is left is DP_NET_CHECKSUM. False without such headers.
 */
bool nic_l4_prepare(struct nic_packet *p, const struct dp_net_layout *l);
/* Makes a TCP packet one that is left to be segmented: lengths and sums of its headers become those of the whole. False: it is none. */
bool nic_tso_prepare(struct nic_packet *p, uint16_t segment_size);
void nic_ip_checksum(uint8_t *data, const struct dp_net_layout *l); /* of IPv4, else nothing */
/* How a received frame's checksums are. */
enum { NIC_IP_SEEN = 1, NIC_IP_BAD = 2, NIC_L4_SEEN = 4, NIC_L4_BAD = 8 };
unsigned nic_checksums(const uint8_t *data, uint32_t size, struct dp_net_layout *l);
void nic_put_checksum(uint8_t *data, uint32_t size, uint16_t start, uint16_t offset);
void nic_insert_vlan(struct nic_packet *p, uint16_t tpid, uint16_t tci);
/* Bits 31-26 of the CRC over an address: the multicast hash of National's and Realtek's cards. */
unsigned nic_multicast_hash(const uint8_t mac[NIC_MAC]);
static inline bool nic_is_multicast(const uint8_t *frame) { return frame[0] & 1; }
bool nic_is_broadcast(const uint8_t *frame);

/* ---- the card ---- */

enum nic_rx { NIC_TAKEN /* or dropped */, NIC_FULL };
struct nic;
struct nic_ops {                /* all with the device's lock held, but irq_set */
    bool (*tx_next)(struct nic *n, struct nic_packet *p);
    void (*tx_done)(struct nic *n, const struct nic_packet *p);
    enum nic_rx (*rx)(struct nic *n, const uint8_t *data, uint32_t size); /* size >= NIC_FRAME_MIN */
    bool (*irq_level)(struct nic *n);
    void (*irq_set)(struct nic *n, bool level);  /* NULL: the PCI function's pin */
    void (*link)(struct nic *n, bool up);        /* it may have changed */
};

struct nic {
    struct dp_device *device;
    const struct nic_ops *ops;
    struct dp_net_port port;
    uint8_t mac[NIC_MAC];
    struct dp_pci_function function;  /* of the PCI ones */
    struct dp_pci_regs *pci;          /* NULL: no PCI card */
    uint8_t *rom;
    const void *rom_source;           /* not owned, until init */
    size_t rom_source_size;
    uint32_t rom_size;

    bool running;                     /* between resume and pause */
    bool tx_busy, tx_again, irq_busy, ready_busy;
    bool tx_kick;                     /* there may be something to send */
    bool rx_refused;                  /* the other end has frames that we did not take */
    bool rx_room;                     /* and now we may */
    bool rx_retried;                  /* it was told so by nic_retry's timer */
    unsigned rx_call;                 /* counts groups of frames that were given together, which the guest sees together */
    int irq_driven;                   /* level last given to the line; -1: unknown */
    bool irq_fell;                    /* see uart.c */
    uint32_t tx_epoch;                /* counts resets: what was on its way then is of the past */
    uint32_t progress;                /* pieces of the packet on its way that went */
    struct dp_net_scratch *scratch;   /* of the sending thread */
    pthread_cond_t idle;              /* nobody is calling out */
    struct dp_timer more;             /* goes on sending: one thread sends so much at once only */
    struct dp_timer retry;            /* see nic_retry */
    uint8_t *tx_buffer, *rx_buffer;   /* NIC_BUFFER each */
    uint32_t (*crc)[256];             /* 8 tables */
};

/* Before init; the port is valid from the first time on. */
void nic_wire(struct nic *n, struct dp_device *d, const struct nic_ops *ops, const uint8_t mac[NIC_MAC]);
int nic_init(struct nic *n, struct dp_error *e) DP_MUST_CHECK;
/* Makes the function; BARs are added after it. */
int nic_pci_init(struct nic *n, struct dp_pci_regs *regs, const struct dp_pci_id *id, struct dp_error *e) DP_MUST_CHECK;
void nic_fini(struct nic *n);
void nic_quiesce(struct nic *n);  /* pause */
void nic_resume(struct nic *n);
/* Around what a device's reset does beyond the table's. The first forgets what was on its way, resets by the table once more and returns
 * with the lock, which the second gives back. */
void nic_reset_begin(struct nic *n);
void nic_reset_end(struct nic *n);
void nic_post_load(struct nic *n);

static inline void nic_enter(struct nic *n) { pthread_mutex_lock(&n->device->lock); }
/* Unlocks, and lets out what there is to let out. Every entry point ends with it. */
void nic_leave(struct nic *n);
/* Lock held. */
static inline void nic_kick(struct nic *n) { n->tx_kick = true; }
static inline void nic_room(struct nic *n) { n->rx_room = true; }
/* The ring is full, and the guest need not touch a register when it makes room: look again after a while. Lock held. */
void nic_retry(struct nic *n, uint64_t ns);
void nic_abort(struct nic *n); /* a reset by the guest: the packet on its way is none of this ring's */
static inline bool nic_bus_master(const struct nic *n)
{
    return !n->pci || (dp_ld16(n->pci->config + DP_PCI_COMMAND) & DP_PCI_COMMAND_MASTER);
}
/* RAM only; what is none reads as ones, writes to it vanish, and both return false. */
bool nic_dma_read(struct nic *n, uint64_t address, void *to, uint32_t size);
bool nic_dma_write(struct nic *n, uint64_t address, const void *from, uint32_t size);
uint32_t nic_fcs(const struct nic *n, const uint8_t *data, uint32_t size);

#endif
