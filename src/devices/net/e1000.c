/* devices/net/e1000.c - an e1000's registers, EEPROM, PHY and interrupts; model and source in e1000.h, rings in e1000_rings.c.
 *
 * Invariants: the interrupt line follows `asserted`, which irq_level brings up to date: it falls with the cause, and rises when ITR
 * lets it. One timer serves all that waits: ITR and what RDTR, RADV, TIDV and TADV hold back. Statistics clear when read; of the two
 * halves of a 64-bit one the upper clears both.
 */
#include "devices/net/e1000_internal.h"

enum {
    EECD_SK = 1,
    EECD_CS = 2,
    EECD_DI = 4,
    EECD_DO = 8,
    EECD_REQ = 0x40,
    EECD_GNT = 0x80,
    EECD_PRES = 0x100,
    EECD_KEPT = EECD_SK | EECD_CS | EECD_DI | EECD_REQ
};
enum { EERD_START = 1, EERD_DONE = 0x10 };
enum { CTRL_EXT_EE_RST = 0x2000 };
enum { MDIC_OP_WRITE = 1, MDIC_OP_READ = 2, MDIC_READY = 1 << 28, MDIC_I = 1 << 29, MDIC_ERROR = 1 << 30, PHY_ADDRESS = 1 };
enum {
    PHY_CTRL,
    PHY_STATUS,
    PHY_ID1,
    PHY_ID2,
    PHY_ANA,
    PHY_LPA,
    PHY_ANE,
    PHY_NEXT_PAGE,
    PHY_LP_NEXT,
    PHY_1000_CTRL,
    PHY_1000_STATUS,
    PHY_EXT_STATUS = 15,
    PHY_SPECIFIC_CTRL,
    PHY_SPECIFIC_STATUS,
    PHY_INTERRUPT_ENABLE,
    PHY_INTERRUPT_STATUS,
    PHY_EXT_CTRL
};
enum { PHY_CTRL_RESET = 0x8000, PHY_CTRL_AUTO = 0x1000, PHY_CTRL_RESTART = 0x0200, PHY_CTRL_INITIAL = 0x1140 };
enum { IO_SIZE = 64, IOADDR = 0, IODATA = 4 };
#define ITR_UNIT 256ull /* ns */
#define RAH_AV (1u << 31)

static struct e1000 *of(struct dp_device *d) { return DP_CONTAINER_OF(d, struct e1000, device); }

/* ---- state ---- */

static const struct dp_field context_fields[] = {
    DP_FIELD_U8(struct e1000_context, ipcss, 1, 0, 0),  DP_FIELD_U8(struct e1000_context, ipcso, 2, 0, 0),
    DP_FIELD_U8(struct e1000_context, tucss, 3, 0, 0),  DP_FIELD_U8(struct e1000_context, tucso, 4, 0, 0),
    DP_FIELD_U8(struct e1000_context, hdrlen, 5, 0, 0), DP_FIELD_U8(struct e1000_context, tucmd, 6, 0, 7),
    DP_FIELD_U16(struct e1000_context, ipcse, 7, 0, 0), DP_FIELD_U16(struct e1000_context, tucse, 8, 0, 0),
    DP_FIELD_U16(struct e1000_context, mss, 9, 0, 0),
};
static const struct dp_state_table context_table = DP_STATE_TABLE(struct e1000_context, "e1000-context", context_fields);

#define REG(name, tag, initial, mask) DP_FIELD_U32(struct e1000_regs, name, tag, initial, mask)
static const struct dp_field e1000_fields[] = {
    DP_FIELD_STRUCT(struct e1000_regs, pci, 1, &dp_pci_regs_table),
    DP_FIELD_STRUCT(struct e1000_regs, eeprom, 2, &nic_eeprom_table),
    DP_FIELD_STRUCTS(struct e1000_regs, context, 3, &context_table),
    REG(ctrl, 4, CTRL_FD | CTRL_SLU | CTRL_SPEED_1000, 0),
    REG(ctrl_ext, 5, 0, 0),
    REG(eecd, 6, 0, EECD_KEPT),
    REG(eerd, 7, 0, 0),
    REG(mdic, 8, 0, 0),
    REG(fcal, 9, 0, 0),
    REG(fcah, 10, 0, 0),
    REG(fct, 11, 0, 0),
    REG(vet, 12, 0x8100, 0),
    REG(icr, 13, 0, ICR_ALL),
    REG(itr, 14, 0, 0xffff),
    REG(ims, 15, 0, ICR_ALL),
    REG(rctl, 16, 0, 0),
    REG(fcttv, 17, 0, 0),
    REG(txcw, 18, 0, 0),
    REG(tctl, 19, 0, 0),
    REG(tipg, 20, 0x00602008, 0),
    REG(aifs, 21, 0, 0),
    REG(ledctl, 22, 0x07061302, 0),
    REG(pba, 23, 0x00100030, 0),
    REG(fcrtl, 24, 0, 0),
    REG(fcrth, 25, 0, 0),
    REG(rdbal, 26, 0, ~15u),
    REG(rdbah, 27, 0, 0),
    REG(rdlen, 28, 0, 0xfff80),
    REG(rdh, 29, 0, 0xffff),
    REG(rdt, 30, 0, 0xffff),
    REG(rdtr, 31, 0, 0xffff),
    REG(rxdctl, 32, 0, 0),
    REG(radv, 33, 0, 0xffff),
    REG(txdmac, 34, 0, 0),
    REG(tdbal, 35, 0, ~15u),
    REG(tdbah, 36, 0, 0),
    REG(tdlen, 37, 0, 0xfff80),
    REG(tdh, 38, 0, 0xffff),
    REG(tdt, 39, 0, 0xffff),
    REG(tidv, 40, 0, 0xffff),
    REG(txdctl, 41, 0, 0),
    REG(tadv, 42, 0, 0xffff),
    REG(tspmt, 43, 0, 0),
    REG(rxcsum, 44, 0, 0x7ff),
    REG(wuc, 45, 0, 0),
    REG(wufc, 46, 0, 0),
    REG(manc, 47, 0, 0),
    REG(ipav, 48, 0, 0),
    REG(wupl, 49, 0, 0),
    DP_FIELD_ARRAY(struct e1000_regs, statistic, 50, DP_KIND_U32, 0, 0),
    DP_FIELD_ARRAY(struct e1000_regs, mta, 51, DP_KIND_U32, 0, 0),
    DP_FIELD_ARRAY(struct e1000_regs, ra, 52, DP_KIND_U32, 0, 0),
    DP_FIELD_ARRAY(struct e1000_regs, vfta, 53, DP_KIND_U32, 0, 0),
    DP_FIELD_ARRAY(struct e1000_regs, ip4at, 54, DP_KIND_U32, 0, 0),
    DP_FIELD_ARRAY(struct e1000_regs, ip6at, 55, DP_KIND_U32, 0, 0),
    DP_FIELD_ARRAY(struct e1000_regs, phy, 56, DP_KIND_U16, 0, 0),
    REG(ioaddr, 57, 0, 0),
    DP_FIELD_BOOL(struct e1000_regs, link, 58, false),
    DP_FIELD_BOOL(struct e1000_regs, asserted, 59, false),
    DP_FIELD_U64(struct e1000_regs, quiet_until, 60, 0, 0),
    DP_FIELD_U64(struct e1000_regs, rx_due, 61, 0, 0),
    DP_FIELD_U64(struct e1000_regs, rx_last_due, 62, 0, 0),
    DP_FIELD_U64(struct e1000_regs, tx_due, 63, 0, 0),
    DP_FIELD_U64(struct e1000_regs, tx_last_due, 64, 0, 0),
};
static const struct dp_state_table e1000_table = DP_STATE_TABLE(struct e1000_regs, "e1000", e1000_fields);

/* Registers that are memory: what is written (of the field's mask) is read again. */
static const struct { uint32_t offset, field, mask; } plain[] = {
#define PLAIN(OFFSET, name, mask) {OFFSET, offsetof(struct e1000_regs, name), mask}
    PLAIN(TDT, tdt, 0xffff),   PLAIN(RDT, rdt, 0xffff),      PLAIN(IMS, ims, ~0u), /* the most used first */
    PLAIN(FCAL, fcal, ~0u),    PLAIN(FCAH, fcah, 0xffff),    PLAIN(FCT, fct, 0xffff),    PLAIN(VET, vet, 0xffff),
    PLAIN(ITR, itr, 0xffff),   PLAIN(FCTTV, fcttv, 0xffff),  PLAIN(TXCW, txcw, ~0u),     PLAIN(TIPG, tipg, ~0u),
    PLAIN(AIFS, aifs, 0xffff), PLAIN(LEDCTL, ledctl, ~0u),   PLAIN(PBA, pba, ~0u),       PLAIN(FCRTL, fcrtl, ~0u),
    PLAIN(FCRTH, fcrth, ~0u),  PLAIN(RDBAL, rdbal, ~15u),    PLAIN(RDBAH, rdbah, ~0u),   PLAIN(RDLEN, rdlen, 0xfff80),
    PLAIN(RDH, rdh, 0xffff),   PLAIN(RDTR, rdtr, 0xffff),    PLAIN(RXDCTL, rxdctl, ~0u), PLAIN(RADV, radv, 0xffff),
    PLAIN(TXDMAC, txdmac, 1),  PLAIN(TDBAL, tdbal, ~15u),    PLAIN(TDBAH, tdbah, ~0u),   PLAIN(TDLEN, tdlen, 0xfff80),
    PLAIN(TDH, tdh, 0xffff),   PLAIN(TIDV, tidv, 0xffff),    PLAIN(TXDCTL, txdctl, ~0u), PLAIN(TADV, tadv, 0xffff),
    PLAIN(TSPMT, tspmt, ~0u),  PLAIN(RXCSUM, rxcsum, 0x7ff), PLAIN(WUC, wuc, ~0u),       PLAIN(WUFC, wufc, ~0u),
    PLAIN(MANC, manc, ~0u),    PLAIN(IPAV, ipav, ~0u),       PLAIN(WUPL, wupl, ~0u),     PLAIN(RCTL, rctl, ~0u),
    PLAIN(TCTL, tctl, ~0u),
};
static const struct { uint32_t from, to; uint32_t field; } arrays[] = {
    {MTA, MTA_END, offsetof(struct e1000_regs, mta)},
    {RA, RA_END, offsetof(struct e1000_regs, ra)},
    {VFTA, VFTA_END, offsetof(struct e1000_regs, vfta)},
    {IP4AT, IP4AT_END, offsetof(struct e1000_regs, ip4at)},
    {IP6AT, IP6AT_END, offsetof(struct e1000_regs, ip6at)},
};

/* The word behind an offset, and its mask; NULL: no memory. */
static uint32_t *storage(struct e1000_regs *r, uint32_t offset, uint32_t *mask)
{
    *mask = ~0u;
    for (unsigned i = 0; i < DP_ARRAY_LEN(arrays); i++)
        if (offset >= arrays[i].from && offset < arrays[i].to)
            return (uint32_t *)((char *)r + arrays[i].field + (offset - arrays[i].from));
    for (unsigned i = 0; i < DP_ARRAY_LEN(plain); i++)
        if (plain[i].offset == offset) {
            *mask = plain[i].mask;
            return (uint32_t *)((char *)r + plain[i].field);
        }
    return NULL;
}

/* ---- statistics ---- */

void e1000_count(struct e1000_regs *r, unsigned index, uint32_t n)
{
    uint32_t *p = &r->statistic[index];
    *p = *p > ~0u - n ? ~0u : *p + n;
}

void e1000_count64(struct e1000_regs *r, unsigned index, uint32_t n)
{
    uint64_t v = r->statistic[index] | (uint64_t)r->statistic[index + 1] << 32;
    v = v > ~0ull - n ? ~0ull : v + n;
    r->statistic[index] = (uint32_t)v;
    r->statistic[index + 1] = (uint32_t)(v >> 32);
}

static uint32_t read_statistic(struct e1000_regs *r, uint32_t index)
{
    if (index >= STATISTICS_COUNT)
        return 0;
    uint32_t v = r->statistic[index];
    bool low = index == GORC || index == GOTC || index == TOR || index == TOT;
    bool high = index && (index - 1 == GORC || index - 1 == GOTC || index - 1 == TOR || index - 1 == TOT);
    if (!low)
        r->statistic[index] = 0;
    if (high)
        r->statistic[index - 1] = 0;
    return v;
}

/* ---- interrupts ---- */

void e1000_arm(struct e1000 *e)
{
    const struct e1000_regs *r = &e->regs;
    const uint64_t dues[] = {r->rx_due, r->rx_last_due, r->tx_due, r->tx_last_due, (r->icr & r->ims) && !r->asserted ? r->quiet_until : 0};
    uint64_t first = 0;
    for (unsigned i = 0; i < DP_ARRAY_LEN(dues); i++)
        if (dues[i] && (!first || dues[i] < first))
            first = dues[i];
    if (first)
        dp_timer_arm(&e->timer, first);
    else
        dp_timer_disarm(&e->timer);
}

static bool irq_level(struct nic *n)
{
    struct e1000 *e = e1000_of(n);
    struct e1000_regs *r = &e->regs;
    if (!n->running) /* nothing is decided while paused; what is said now does not matter */
        return r->asserted;
    if (!(r->icr & r->ims)) {
        r->asserted = false;
    } else if (!r->asserted) {
        uint64_t now = r->itr ? dp_clock_now(e->device.env->clock) : 0;
        if (!r->itr || now >= r->quiet_until || r->quiet_until - now > 0xffff * ITR_UNIT) {
            r->asserted = true;
            r->quiet_until = r->itr ? now + r->itr * ITR_UNIT : 0;
        } else {
            e1000_arm(e);
        }
    }
    return r->asserted;
}

static void receive_due(struct e1000_regs *r)
{
    r->rx_due = r->rx_last_due = 0;
    r->icr |= ICR_RXT0;
}

static void transmit_due(struct e1000_regs *r)
{
    r->tx_due = r->tx_last_due = 0;
    r->icr |= ICR_TXDW;
}

static bool is_due(uint64_t due, uint64_t now) { return due && due <= now; }

static void timer_due(void *opaque)
{
    struct e1000 *e = opaque;
    struct e1000_regs *r = &e->regs;
    nic_enter(&e->nic);
    if (e->nic.running) {
        uint64_t now = dp_clock_now(e->device.env->clock);
        if (is_due(r->rx_due, now) || is_due(r->rx_last_due, now))
            receive_due(r);
        if (is_due(r->tx_due, now) || is_due(r->tx_last_due, now))
            transmit_due(r);
        irq_level(&e->nic);
        e1000_arm(e);
    }
    nic_leave(&e->nic);
}

/* ---- PHY ---- */

static void phy_reset(struct e1000_regs *r)
{
    memset(r->phy, 0, sizeof(r->phy));
    r->phy[PHY_CTRL] = PHY_CTRL_INITIAL;
    r->phy[PHY_ID1] = 0x0141; /* Marvell 88E1011 */
    r->phy[PHY_ID2] = 0x0c20;
    r->phy[PHY_ANA] = 0x0de1; /* all speeds, pause */
    r->phy[PHY_NEXT_PAGE] = 0x2001;
    r->phy[PHY_1000_CTRL] = 0x0e00;
    r->phy[PHY_EXT_STATUS] = 0x3000;
    r->phy[PHY_SPECIFIC_CTRL] = 0x0360;
    r->phy[PHY_EXT_CTRL] = 0x0d60;
}

static uint16_t phy_read(const struct e1000_regs *r, unsigned n)
{
    bool up = r->link;
    switch (n) {
    case PHY_STATUS: return (uint16_t)(0x7949 | (up ? 0x24 : 0)); /* abilities; autonegotiation complete, link */
    case PHY_LPA: return up ? 0x45e1 : 0;
    case PHY_ANE: return up ? 0x0003 : 0;
    case PHY_1000_STATUS: return up ? 0x3c00 : 0;
    case PHY_SPECIFIC_STATUS: return up ? 0xac00 : 0x0000; /* 1000 Mb/s, full duplex, resolved, link */
    default: return r->phy[n];
    }
}

static void phy_write(struct e1000 *e, unsigned n, uint16_t v)
{
    struct e1000_regs *r = &e->regs;
    switch (n) {
    case PHY_CTRL:
        if (v & PHY_CTRL_RESET)
            phy_reset(r);
        else
            r->phy[PHY_CTRL] = v & ~(PHY_CTRL_RESTART | 0x3f);
        if ((v & PHY_CTRL_RESET) || (v & (PHY_CTRL_AUTO | PHY_CTRL_RESTART)) == (PHY_CTRL_AUTO | PHY_CTRL_RESTART))
            r->icr |= r->link ? ICR_LSC : 0; /* negotiated again, at once */
        break;
    case PHY_STATUS:
    case PHY_ID1:
    case PHY_ID2:
    case PHY_LPA:
    case PHY_ANE:
    case PHY_1000_STATUS:
    case PHY_EXT_STATUS:
    case PHY_SPECIFIC_STATUS:
    case PHY_INTERRUPT_STATUS: break;
    default: r->phy[n] = v; break;
    }
}

static void write_mdic(struct e1000 *e, uint32_t v)
{
    struct e1000_regs *r = &e->regs;
    unsigned n = v >> 16 & 31, address = v >> 21 & 31, op = v >> 26 & 3;
    uint32_t result = (v & ~(uint32_t)(MDIC_ERROR)) | MDIC_READY;
    if (address != PHY_ADDRESS || (op != MDIC_OP_READ && op != MDIC_OP_WRITE))
        result |= MDIC_ERROR;
    else if (op == MDIC_OP_READ)
        result = (result & ~0xffffu) | phy_read(r, n);
    else
        phy_write(e, n, (uint16_t)v);
    r->mdic = result;
    if (v & MDIC_I)
        r->icr |= ICR_MDAC;
}

static void link_changed(struct nic *n, bool up)
{
    struct e1000_regs *r = &e1000_of(n)->regs;
    if (r->link == up)
        return;
    r->link = up;
    r->icr |= ICR_LSC;
}

/* ---- EEPROM ---- */

static void eeprom_fill(struct e1000 *e)
{
    uint16_t *w = e->regs.eeprom.word;
    const uint8_t *mac = e->nic.mac;
    memset(w, 0, sizeof(e->regs.eeprom.word)); /* words that only other members of the family, or nobody, reads */
    for (unsigned i = 0; i < 3; i++)
        w[i] = dp_ld16(mac + 2 * i);
    w[0x05] = 0xffff; /* version: none */
    w[0x08] = w[0x09] = 0xffff;
    w[0x0a] = 0x4408 | 3;  /* signature; vendor and subsystem IDs are from here */
    w[0x0b] = 0x001e;
    w[0x0c] = w[0x0e] = 0x8086;
    w[0x0d] = 0x100e;
    w[0x0f] = 0x3040;
    uint16_t sum = 0xbaba;
    for (unsigned i = 0; i < 63; i++)
        sum -= w[i];
    w[63] = sum;
}

static uint32_t read_eecd(const struct e1000_regs *r)
{
    return r->eecd | EECD_PRES | (r->eecd & EECD_REQ ? EECD_GNT : 0) | (nic_eeprom_output(&r->eeprom) ? EECD_DO : 0);
}

static void write_eecd(struct e1000_regs *r, uint32_t v)
{
    r->eecd = v & EECD_KEPT;
    nic_eeprom_lines(&r->eeprom, v & EECD_CS, v & EECD_SK, v & EECD_DI);
}

static void write_eerd(struct e1000_regs *r, uint32_t v)
{
    unsigned address = v >> 8 & 0xff;
    r->eerd = v & 0xff00;
    if (v & EERD_START)
        r->eerd |= EERD_DONE | (uint32_t)(address < NIC_EEPROM_WORDS ? r->eeprom.word[address] : 0xffff) << 16;
}

/* ---- resets ---- */

/* RAL0 and RAH0 come from the EEPROM. */
static void load_address(struct e1000_regs *r)
{
    r->ra[0] = r->eeprom.word[0] | (uint32_t)r->eeprom.word[1] << 16;
    r->ra[1] = r->eeprom.word[2] | RAH_AV;
}

/* CTRL.RST: everything but PCI's configuration, the EEPROM, the PHY and the link. */
static void soft_reset(struct e1000 *e)
{
    struct e1000_regs *r = &e->regs, old = *r;
    dp_state_reset(&e1000_table, r);
    r->pci = old.pci;
    memcpy(r->eeprom.word, old.eeprom.word, sizeof(r->eeprom.word));
    memcpy(r->phy, old.phy, sizeof(r->phy));
    r->link = old.link;
    r->ioaddr = old.ioaddr;
    r->icr = r->link ? ICR_LSC : 0; /* the MAC finds its link anew */
    load_address(r);
    nic_abort(&e->nic);
    e1000_arm(e);
}

static void write_ctrl(struct e1000 *e, uint32_t v)
{
    struct e1000_regs *r = &e->regs;
    if (v & CTRL_RST) {
        soft_reset(e);
        return;
    }
    if (v & CTRL_PHY_RST) {
        phy_reset(r);
        r->icr |= r->link ? ICR_LSC : 0;
    }
    r->ctrl = v & ~CTRL_PHY_RST;
}

/* ---- registers; lock held ---- */

static uint32_t read_icr(struct e1000_regs *r)
{
    uint32_t v = r->icr;
    r->icr = 0;
    return v;
}

static uint32_t read_reg(struct e1000 *e, uint32_t offset)
{
    struct e1000_regs *r = &e->regs;
    uint32_t mask, *p;
    switch (offset) {
    case CTRL: return r->ctrl;
    case STATUS: return STATUS_FD | STATUS_SPEED_1000 | STATUS_ASDV_1000 | (r->link ? STATUS_LU : 0);
    case EECD: return read_eecd(r);
    case EERD: return r->eerd;
    case CTRL_EXT: return r->ctrl_ext;
    case MDIC: return r->mdic;
    case ICR: return read_icr(r);
    case ICS:
    case IMC: return 0;
    }
    if (offset >= STATISTICS && offset < STATISTICS_END)
        return read_statistic(r, (offset - STATISTICS) / 4);
    p = storage(r, offset, &mask);
    return p ? *p : 0;
}

static void write_reg(struct e1000 *e, uint32_t offset, uint32_t v)
{
    struct e1000_regs *r = &e->regs;
    uint32_t mask, *p;
    switch (offset) {
    case CTRL: write_ctrl(e, v); return;
    case STATUS: return;
    case EECD: write_eecd(r, v); return;
    case EERD: write_eerd(r, v); return;
    case CTRL_EXT:
        r->ctrl_ext = v & ~(uint32_t)CTRL_EXT_EE_RST;
        if (v & CTRL_EXT_EE_RST)
            load_address(r);
        return;
    case MDIC: write_mdic(e, v); return;
    case ICR: r->icr &= ~v; return;
    case ICS: r->icr |= v & ICR_ALL; return;
    case IMS: r->ims |= v & ICR_ALL; return;
    case IMC: r->ims &= ~v; return;
    }
    p = storage(r, offset, &mask);
    if (!p)
        return;
    *p = v & mask;
    switch (offset) {
    case RDTR:
        if ((v & 1u << 31) && r->rx_due) /* FPD: flush what waits */
            receive_due(r);
        break;
    case TIDV:
        if ((v & 1u << 31) && r->tx_due)
            transmit_due(r);
        break;
    case ITR:
        r->quiet_until = 0;
        break;
    case TDBAL:
    case TDBAH:
    case TDLEN:
    case TDH: nic_abort(&e->nic); break; /* a packet that is on its way, without the lock, is none of this ring's */
    case TDT:
    case TCTL: nic_kick(&e->nic); break;
    case RDT:
    case RDH:
    case RDLEN:
    case RCTL: nic_room(&e->nic); break;
    }
}

static uint64_t memory_read(void *opaque, uint64_t offset, unsigned size)
{
    struct e1000 *e = of(opaque);
    nic_enter(&e->nic);
    uint32_t v = read_reg(e, (uint32_t)offset);
    nic_leave(&e->nic);
    return v;
}

static void memory_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct e1000 *e = of(opaque);
    nic_enter(&e->nic);
    write_reg(e, (uint32_t)offset, (uint32_t)value);
    nic_leave(&e->nic);
}

static uint64_t ports_read(void *opaque, uint64_t offset, unsigned size)
{
    struct e1000 *e = of(opaque);
    nic_enter(&e->nic);
    uint32_t at = e->regs.ioaddr, v = offset == IOADDR ? at : offset == IODATA && at < REGISTERS ? read_reg(e, at & ~3u) : 0;
    nic_leave(&e->nic);
    return v;
}

static void ports_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct e1000 *e = of(opaque);
    nic_enter(&e->nic);
    if (offset == IOADDR)
        e->regs.ioaddr = (uint32_t)value;
    else if (offset == IODATA && e->regs.ioaddr < REGISTERS)
        write_reg(e, e->regs.ioaddr & ~3u, (uint32_t)value);
    nic_leave(&e->nic);
}

/* ---- life ---- */

static const struct dp_window_ops memory_ops = {"e1000", memory_read, memory_write, 4, 4};
static const struct dp_window_ops ports_ops = {"e1000-ports", ports_read, ports_write, 4, 4};
static const struct dp_window_spec e1000_windows[] = {
    [DP_E1000_WINDOW_MEMORY] = {"registers", REGISTERS, &memory_ops, false},
    [DP_E1000_WINDOW_PORTS] = {"ports", IO_SIZE, &ports_ops, true},
};
static const struct nic_ops e1000_nic_ops = {
    .tx_next = e1000_tx_next, .tx_done = e1000_tx_done, .rx = e1000_rx, .irq_level = irq_level, .link = link_changed,
};

static struct nic *nic_of(struct dp_device *d)
{
    static const uint8_t nobody[NIC_MAC] = {0x02};
    struct nic *n = &of(d)->nic;
    if (!n->ops)
        nic_wire(n, d, &e1000_nic_ops, nobody);
    return n;
}

void dp_e1000_wire(struct dp_device *d, const uint8_t mac[6]) { nic_wire(&of(d)->nic, d, &e1000_nic_ops, mac); }
struct dp_net_port *dp_e1000_port(struct dp_device *d) { return &nic_of(d)->port; }
struct dp_pci_function *dp_e1000_function(struct dp_device *d) { return &of(d)->nic.function; }

void dp_e1000_rom(struct dp_device *d, const void *data, size_t size)
{
    of(d)->nic.rom_source = data;
    of(d)->nic.rom_source_size = data ? size : 0;
}

static int e1000_init(struct dp_device *d, struct dp_error *err)
{
    struct e1000 *e = of(d);
    struct nic *n = nic_of(d);
    static const struct dp_pci_id id = {
        .vendor = 0x8086,
        .device = 0x100e,
        .subsystem_vendor = 0x8086,
        .subsystem = 0x001e,
        .revision = 3,
        .class_code = 0x020000,
        .interrupt_pin = 1,
    };
    int rc = nic_init(n, err);
    if (rc)
        return rc;
    dp_timer_init(&e->timer, d->env->clock, timer_due, e);
    if ((rc = nic_pci_init(n, &e->regs.pci, &id, err))) {
        dp_timer_fini(&e->timer);
        nic_fini(n);
        return rc;
    }
    dp_pci_add_bar(&n->function, DP_E1000_BAR_MEMORY, REGISTERS, false, false, &memory_ops, e);
    dp_pci_add_bar(&n->function, DP_E1000_BAR_PORTS, IO_SIZE, true, false, &ports_ops, e);
    return 0;
}

static void e1000_fini(struct dp_device *d)
{
    nic_quiesce(&of(d)->nic);
    dp_timer_fini(&of(d)->timer);
    nic_fini(&of(d)->nic);
}

static void e1000_reset(struct dp_device *d)
{
    struct e1000 *e = of(d);
    nic_reset_begin(&e->nic);
    eeprom_fill(e);
    phy_reset(&e->regs);
    load_address(&e->regs);
    e1000_arm(e);
    nic_reset_end(&e->nic);
}

static void e1000_pause(struct dp_device *d) { nic_quiesce(&of(d)->nic); }

static void e1000_resume(struct dp_device *d)
{
    struct e1000 *e = of(d);
    nic_enter(&e->nic);
    e1000_arm(e);
    pthread_mutex_unlock(&d->lock);
    nic_resume(&e->nic);
}

static void e1000_post_load(struct dp_device *d) { nic_post_load(&of(d)->nic); }

const struct dp_device_class dp_e1000_class = {
    .name = "e1000",
    .summary = "Intel 82540EM gigabit Ethernet",
    .size = sizeof(struct e1000),
    .regs_offset = offsetof(struct e1000, regs),
    .state = &e1000_table,
    .windows = e1000_windows,
    .window_count = DP_ARRAY_LEN(e1000_windows),
    .init = e1000_init,
    .fini = e1000_fini,
    .reset = e1000_reset,
    .pause = e1000_pause,
    .resume = e1000_resume,
    .post_load = e1000_post_load,
};
