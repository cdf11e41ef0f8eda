/* devices/net/rtl8139_internal.h - the registers of an RTL8139C+; rtl8139.c has them, rtl8139_rings.c moves frames. All with the device's
 *
 * lock held.
 */
#ifndef DP_RTL8139_INTERNAL_H
#define DP_RTL8139_INTERNAL_H

#include "devices/net/nic.h"
#include "devices/net/rtl8139.h"

enum { CR_BUFE = 1, CR_TE = 4, CR_RE = 8, CR_RST = 0x10 };
enum {
    ISR_ROK = 1,
    ISR_RER = 2,
    ISR_TOK = 4,
    ISR_TER = 8,
    ISR_RXOVW = 0x10,
    ISR_LINK = 0x20,
    ISR_FOVW = 0x40,
    ISR_TDU = 0x80,
    ISR_SWINT = 0x100,
    ISR_TIMEOUT = 0x4000,
    ISR_SERR = 0x8000,
    ISR_ALL = 0xe1ff
};
enum { TSD_SIZE = 0x1fff, TSD_OWN = 0x2000, TSD_TUN = 0x4000, TSD_TOK = 0x8000, TSD_TABT = 1 << 30 };
enum { TCR_LBK = 3 << 17 };
enum { RCR_AAP = 1, RCR_APM = 2, RCR_AM = 4, RCR_AB = 8, RCR_WRAP = 0x80, RCR_RBLEN_SHIFT = 11 };
enum { CPCR_TX = 1, CPCR_RX = 2, CPCR_RX_CHECKSUM = 0x20, CPCR_RX_VLAN = 0x40 };
enum { TSDS = 4, CP_RING = 64, TALLY_SIZE = 64 };

struct rtl8139_tally {          /* C+ counts, and DTCCR has them written to memory */
    uint64_t tx_ok, rx_ok, tx_error, rx_ok_physical, rx_ok_broadcast;
    uint32_t rx_error, rx_ok_multicast;
    uint16_t missed;
};

struct rtl8139_regs {
    struct dp_pci_regs pci;
    struct nic_eeprom_regs eeprom;
    struct rtl8139_tally tally;
    uint8_t idr[8], mar[8];
    uint32_t tsd[TSDS], tsad[TSDS]; /* the latter is TNPDS and THPDS in C+ mode */
    uint32_t dtccr_low, dtccr_high;
    uint32_t rbstart, tcr, rcr, mpc, timer_int, rdsar_low, rdsar_high, phy1_parm, tw_parm;
    uint16_t capr, cbr, imr, isr, mulint, bmcr, anar, cscr, nwaytr, cpcr, mitigation;
    uint8_t cr, cr9346, config0, config1, config3, config4, config5, etthr, phy2_parm;
    uint8_t tx_current;         /* which of the four is next */
    uint8_t cp_tx, cp_rx;       /* next descriptors of the rings */
    bool cp_poll;               /* TPPoll: the ring is to be looked at */
    bool link;
    uint64_t timer_start, timer_at; /* VM time of TCTR's 0, and of the next TimeOut (0: none) */
};

struct rtl8139 {
    struct dp_device device;
    struct rtl8139_regs regs;
    struct nic nic;
    struct dp_timer timer;
    uint8_t cp_tx_next;         /* where the packet on its way ends */
};

static inline struct rtl8139 *rtl8139_of(struct nic *n) { return DP_CONTAINER_OF(n, struct rtl8139, nic); }
static inline uint32_t rtl8139_ring_size(const struct rtl8139_regs *r) { return 8192u << (r->rcr >> RCR_RBLEN_SHIFT & 3); }
/* Bytes of the receive ring that the guest has not read yet. */
static inline uint32_t rtl8139_ring_used(const struct rtl8139_regs *r) { return (r->cbr - (uint32_t)r->capr - 16) % rtl8139_ring_size(r); }

bool rtl8139_tx_next(struct nic *n, struct nic_packet *p);
void rtl8139_tx_done(struct nic *n, const struct nic_packet *p);
enum nic_rx rtl8139_rx(struct nic *n, const uint8_t *data, uint32_t size);
void rtl8139_tally(struct nic *n, uint64_t address);

#endif
