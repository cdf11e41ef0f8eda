/* devices/net/e1000_internal.h - the registers of an e1000; e1000.c has them, e1000_rings.c the two rings. All with the device's lock.
 */
#ifndef DP_E1000_INTERNAL_H
#define DP_E1000_INTERNAL_H

#include "devices/net/e1000.h"
#include "devices/net/nic.h"

/* Names and numbers are the manual's (chapter 13). */
enum {
    CTRL = 0x0000,
    STATUS = 0x0008,
    EECD = 0x0010,
    EERD = 0x0014,
    CTRL_EXT = 0x0018,
    FLA = 0x001c,
    MDIC = 0x0020,
    FCAL = 0x0028,
    FCAH = 0x002c,
    FCT = 0x0030,
    VET = 0x0038,
    ICR = 0x00c0,
    ITR = 0x00c4,
    ICS = 0x00c8,
    IMS = 0x00d0,
    IMC = 0x00d8,
    RCTL = 0x0100,
    FCTTV = 0x0170,
    TXCW = 0x0178,
    RXCW = 0x0180,
    TCTL = 0x0400,
    TIPG = 0x0410,
    AIFS = 0x0458,
    LEDCTL = 0x0e00,
    PBA = 0x1000,
    FCRTL = 0x2160,
    FCRTH = 0x2168,
    RDFH = 0x2410,
    RDFPC = 0x2430,
    RDBAL = 0x2800,
    RDBAH = 0x2804,
    RDLEN = 0x2808,
    RDH = 0x2810,
    RDT = 0x2818,
    RDTR = 0x2820,
    RXDCTL = 0x2828,
    RADV = 0x282c,
    RSRPD = 0x2c00,
    TXDMAC = 0x3000,
    TDFH = 0x3410,
    TDFPC = 0x3430,
    TDBAL = 0x3800,
    TDBAH = 0x3804,
    TDLEN = 0x3808,
    TDH = 0x3810,
    TDT = 0x3818,
    TIDV = 0x3820,
    TXDCTL = 0x3828,
    TADV = 0x382c,
    TSPMT = 0x3830,
    STATISTICS = 0x4000,
    STATISTICS_END = 0x4100,
    RXCSUM = 0x5000,
    MTA = 0x5200,
    MTA_END = 0x5400,
    RA = 0x5400,
    RA_END = 0x5480,
    VFTA = 0x5600,
    VFTA_END = 0x5800,
    WUC = 0x5800,
    WUFC = 0x5808,
    WUS = 0x5810,
    MANC = 0x5820,
    IPAV = 0x5838,
    IP4AT = 0x5840,
    IP4AT_END = 0x5860,
    IP6AT = 0x5880,
    IP6AT_END = 0x5890,
    WUPL = 0x5900,
    REGISTERS = 0x20000
};
enum { CTRL_FD = 1, CTRL_LRST = 8, CTRL_SLU = 0x40, CTRL_SPEED_1000 = 0x200, CTRL_RST = 1 << 26, CTRL_VME = 1 << 30 };
#define CTRL_PHY_RST (1u << 31)
enum { STATUS_FD = 1, STATUS_LU = 2, STATUS_SPEED_1000 = 0x80, STATUS_ASDV_1000 = 0x200 };
enum {
    RCTL_EN = 2,
    RCTL_UPE = 8,
    RCTL_MPE = 0x10,
    RCTL_LPE = 0x20,
    RCTL_LBM = 0xc0,
    RCTL_RDMTS_SHIFT = 8,
    RCTL_MO_SHIFT = 12,
    RCTL_BAM = 0x8000,
    RCTL_BSIZE_SHIFT = 16,
    RCTL_VFE = 1 << 18,
    RCTL_BSEX = 1 << 25,
    RCTL_SECRC = 1 << 26
};
enum { TCTL_EN = 2 };
enum {
    ICR_TXDW = 1,
    ICR_TXQE = 2,
    ICR_LSC = 4,
    ICR_RXDMT0 = 0x10,
    ICR_RXO = 0x40,
    ICR_RXT0 = 0x80,
    ICR_MDAC = 0x200,
    ICR_PHYINT = 0x1000,
    ICR_ALL = 0x1ffff
};
/* Statistics, as indices of words from 4000h. */
enum {
    MPC = 4,
    PRC64 = 23,
    GPRC = 29,
    BPRC,
    MPRC,
    GPTC = 32,
    GORC = 34,
    GOTC = 36,
    RNBC = 40,
    RUC,
    RFC,
    ROC,
    RJC,
    TOR = 48,
    TOT = 50,
    TPR = 52,
    TPT,
    PTC64,
    MPTC = 60,
    BPTC,
    TSCTC,
    TSCTFC,
    STATISTICS_COUNT
};
enum { DESCRIPTOR = 16 };

struct e1000_context {          /* of the transmitter, as context descriptors set it */
    uint8_t ipcss, ipcso, tucss, tucso, hdrlen, tucmd;
    uint16_t ipcse, tucse, mss;
};

struct e1000_regs {
    struct dp_pci_regs pci;
    struct nic_eeprom_regs eeprom;
    struct e1000_context context[2]; /* for packets of DEXT without and with TSE */
    uint32_t ctrl, ctrl_ext, eecd, eerd, mdic, fcal, fcah, fct, vet, icr, itr, ims, rctl, fcttv, txcw, tctl, tipg, aifs, ledctl, pba, fcrtl,
        fcrth;
    uint32_t rdbal, rdbah, rdlen, rdh, rdt, rdtr, rxdctl, radv, txdmac, tdbal, tdbah, tdlen, tdh, tdt, tidv, txdctl, tadv, tspmt, rxcsum,
        wuc, wufc, manc, ipav, wupl;
    uint32_t statistic[STATISTICS_COUNT];
    uint32_t mta[128], ra[32], vfta[128], ip4at[8], ip6at[4];
    uint16_t phy[32];
    uint32_t ioaddr;
    bool link;
    bool asserted;              /* INTx, after mitigation */
    uint64_t quiet_until;       /* VM time: ITR, since the last interrupt */
    uint64_t rx_due, rx_last_due, tx_due, tx_last_due; /* of what RDTR, RADV, TIDV and TADV hold back; 0: nothing */
};

struct e1000 {
    struct dp_device device;
    struct e1000_regs regs;
    struct nic nic;
    struct dp_timer timer;
    uint32_t tx_head;           /* where the packet on its way ends */
    bool tx_report, tx_delay;   /* some descriptor of it wants to be reported; later */
};

static inline struct e1000 *e1000_of(struct nic *n) { return DP_CONTAINER_OF(n, struct e1000, nic); }

/* ---- e1000.c ---- */

void e1000_count(struct e1000_regs *r, unsigned index, uint32_t n); /* sticks at its maximum */
void e1000_count64(struct e1000_regs *r, unsigned index, uint32_t n);
/* The timer follows the deadlines. */
void e1000_arm(struct e1000 *e);

/* ---- e1000_rings.c ---- */

bool e1000_tx_next(struct nic *n, struct nic_packet *p);
void e1000_tx_done(struct nic *n, const struct nic_packet *p);
enum nic_rx e1000_rx(struct nic *n, const uint8_t *data, uint32_t size);

#endif
