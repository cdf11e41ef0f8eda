/* devices/net/rtl8139.c - an RTL8139C+'s registers, EEPROM, PHY and timer; model and source in rtl8139.h, frames in rtl8139_rings.c.
 *
 * Registers have sizes of 1, 2 and 4 bytes, and drivers access parts of one as well as several at once: an access is cut at the
 * registers it touches, and a part of one is written into what it is. Reading has no side effect.
 * Invariants: TCTR is derived from its start; timer_at is when it will be TimerInt.
 */
#include "devices/net/rtl8139_internal.h"

enum {
    IDR0 = 0x00,
    IDR4 = 0x04,
    MAR0 = 0x08,
    MAR4 = 0x0c,
    TSD0 = 0x10,
    DTCCR = 0x10,
    TSAD0 = 0x20,
    TNPDS = 0x20,
    RBSTART = 0x30,
    ERBCR = 0x34,
    ERSR = 0x36,
    CR = 0x37,
    CAPR = 0x38,
    CBR = 0x3a,
    IMR = 0x3c,
    ISR = 0x3e,
    TCR = 0x40,
    RCR = 0x44,
    TCTR = 0x48,
    MPC = 0x4c,
    CR9346 = 0x50,
    CONFIG0 = 0x51,
    CONFIG1 = 0x52,
    TIMER_INT = 0x54,
    MSR = 0x58,
    CONFIG3 = 0x59,
    CONFIG4 = 0x5a,
    MULINT = 0x5c,
    RERID = 0x5e,
    TSAD = 0x60,
    BMCR = 0x62,
    BMSR = 0x64,
    ANAR = 0x66,
    ANLPAR = 0x68,
    ANER = 0x6a,
    DIS = 0x6c,
    FCSC = 0x6e,
    NWAYTR = 0x70,
    REC = 0x72,
    CSCR = 0x74,
    PHY1_PARM = 0x78,
    TW_PARM = 0x7c,
    PHY2_PARM = 0x80,
    CONFIG5 = 0xd8,
    TPPOLL = 0xd9,
    CPCR = 0xe0,
    MITIGATION = 0xe2,
    RDSAR = 0xe4,
    ETTHR = 0xec,
    SIZE = 0x100
};
enum { EEDO = 1, EEDI = 2, EESK = 4, EECS = 8, EEM = 0xc0, EEM_NORMAL = 0, EEM_AUTOLOAD = 0x40, EEM_PROGRAM = 0x80, EEM_UNLOCK = 0xc0 };
enum { DTCCR_DUMP = 8 };
enum { TPPOLL_HPQ = 0x80, TPPOLL_NPQ = 0x40, TPPOLL_FSWINT = 1 };
enum { MSR_LINKB = 4, BMCR_RESET = 0x8000, BMCR_RESTART = 0x0200, BMCR_INITIAL = 0x3100 };
#define TCR_HWVERID 0x74800000u /* 8139C+ */
#define TCR_KEPT 0x0307f7f1u
#define RCR_KEPT 0x0f03ffffu
#define TIMER_MHZ 33

static struct rtl8139 *of(struct dp_device *d) { return DP_CONTAINER_OF(d, struct rtl8139, device); }

/* ---- state ---- */

static const struct dp_field tally_fields[] = {
    DP_FIELD_U64(struct rtl8139_tally, tx_ok, 1, 0, 0),           DP_FIELD_U64(struct rtl8139_tally, rx_ok, 2, 0, 0),
    DP_FIELD_U64(struct rtl8139_tally, tx_error, 3, 0, 0),        DP_FIELD_U64(struct rtl8139_tally, rx_ok_physical, 4, 0, 0),
    DP_FIELD_U64(struct rtl8139_tally, rx_ok_broadcast, 5, 0, 0), DP_FIELD_U32(struct rtl8139_tally, rx_error, 6, 0, 0),
    DP_FIELD_U32(struct rtl8139_tally, rx_ok_multicast, 7, 0, 0), DP_FIELD_U16(struct rtl8139_tally, missed, 8, 0, 0),
};
static const struct dp_state_table tally_table = DP_STATE_TABLE(struct rtl8139_tally, "rtl8139-tally", tally_fields);

#define REG8(name, tag, initial, mask) DP_FIELD_U8(struct rtl8139_regs, name, tag, initial, mask)
#define REG16(name, tag, initial, mask) DP_FIELD_U16(struct rtl8139_regs, name, tag, initial, mask)
#define REG32(name, tag, initial, mask) DP_FIELD_U32(struct rtl8139_regs, name, tag, initial, mask)
static const struct dp_field rtl8139_fields[] = {
    DP_FIELD_STRUCT(struct rtl8139_regs, pci, 1, &dp_pci_regs_table),
    DP_FIELD_STRUCT(struct rtl8139_regs, eeprom, 2, &nic_eeprom_table),
    DP_FIELD_STRUCT(struct rtl8139_regs, tally, 3, &tally_table),
    DP_FIELD_BYTES(struct rtl8139_regs, idr, 4),
    DP_FIELD_BYTES(struct rtl8139_regs, mar, 5),
    DP_FIELD_ARRAY(struct rtl8139_regs, tsd, 6, DP_KIND_U32, TSD_OWN, 0),
    DP_FIELD_ARRAY(struct rtl8139_regs, tsad, 7, DP_KIND_U32, 0, 0),
    REG32(dtccr_low, 8, 0, 0),
    REG32(dtccr_high, 9, 0, 0),
    REG32(rbstart, 10, 0, 0),
    REG32(tcr, 11, 0, TCR_KEPT),
    REG32(rcr, 12, 0, RCR_KEPT),
    REG32(mpc, 13, 0, 0xffffff),
    REG32(timer_int, 14, 0, 0),
    REG32(rdsar_low, 15, 0, 0),
    REG32(rdsar_high, 16, 0, 0),
    REG32(phy1_parm, 17, 0, 0),
    REG32(tw_parm, 18, 0, 0),
    REG16(capr, 19, 0xfff0, 0),
    REG16(cbr, 20, 0, 0),
    REG16(imr, 21, 0, ISR_ALL),
    REG16(isr, 22, 0, ISR_ALL),
    REG16(mulint, 23, 0, 0),
    REG16(bmcr, 24, BMCR_INITIAL, 0),
    REG16(anar, 25, 0x05e1, 0),
    REG16(cscr, 26, 0, 0),
    REG16(nwaytr, 27, 0, 0),
    REG16(cpcr, 28, 0, 0x006b),
    REG16(mitigation, 29, 0, 0),
    REG8(cr, 30, 0, CR_TE | CR_RE),
    REG8(cr9346, 31, 0, 0xce),
    REG8(config0, 32, 0, 0),
    REG8(config1, 33, 0x0c, 0),
    REG8(config3, 34, 0, 0),
    REG8(config4, 35, 0, 0),
    REG8(config5, 36, 0, 0),
    REG8(etthr, 37, 0, 0),
    REG8(phy2_parm, 38, 0, 0),
    REG8(tx_current, 39, 0, TSDS - 1),
    REG8(cp_tx, 40, 0, CP_RING - 1),
    REG8(cp_rx, 41, 0, CP_RING - 1),
    DP_FIELD_BOOL(struct rtl8139_regs, cp_poll, 42, false),
    DP_FIELD_BOOL(struct rtl8139_regs, link, 43, false),
    DP_FIELD_U64(struct rtl8139_regs, timer_start, 44, 0, 0),
    DP_FIELD_U64(struct rtl8139_regs, timer_at, 45, 0, 0),
};
static const struct dp_state_table rtl8139_table = DP_STATE_TABLE(struct rtl8139_regs, "rtl8139", rtl8139_fields);

/* ---- EEPROM ---- */

static void eeprom_fill(struct rtl8139 *c)
{
    uint16_t *w = c->regs.eeprom.word;
    memset(w, 0, sizeof(c->regs.eeprom.word));
    w[0] = 0x8129; /* the ID that makes the chip load the rest */
    w[1] = w[3] = 0x10ec;
    w[2] = w[4] = 0x8139;
    w[5] = 0x2040; /* MXLAT, MNGNT */
    for (unsigned i = 0; i < 3; i++)
        w[7 + i] = dp_ld16(c->nic.mac + 2 * i);
    w[11] = 0x0c; /* CONFIG1 */
}

static void load_address(struct rtl8139_regs *r)
{
    for (unsigned i = 0; i < 3; i++)
        dp_st16(r->idr + 2 * i, r->eeprom.word[7 + i]);
    dp_st16(r->idr + 6, 0);
}

static void write_9346(struct rtl8139_regs *r, uint8_t v)
{
    r->cr9346 = v & (EEM | EECS | EESK | EEDI);
    switch (v & EEM) {
    case EEM_PROGRAM: nic_eeprom_lines(&r->eeprom, v & EECS, v & EESK, v & EEDI); break;
    case EEM_AUTOLOAD:
        load_address(r);
        r->cr9346 = 0;
        break;
    default: nic_eeprom_lines(&r->eeprom, false, false, false); break;
    }
}

static bool unlocked(const struct rtl8139_regs *r) { return (r->cr9346 & EEM) == EEM_UNLOCK; }

/* ---- timer ---- */

static uint64_t timer_ticks(struct rtl8139 *c, uint64_t now)
{
    return now > c->regs.timer_start ? (now - c->regs.timer_start) * TIMER_MHZ / 1000 : 0;
}

/* Finds the next time that TCTR is TimerInt. */
static void timer_schedule(struct rtl8139 *c)
{
    struct rtl8139_regs *r = &c->regs;
    uint64_t now = dp_clock_now(c->device.env->clock);
    r->timer_start = DP_MIN(r->timer_start, now); /* a loaded state may say anything */
    uint64_t ticks = timer_ticks(c, now), at = (ticks & ~0xffffffffull) | r->timer_int;
    if (at <= ticks)
        at += 1ull << 32;
    r->timer_at = r->timer_int ? r->timer_start + (at * 1000 + TIMER_MHZ - 1) / TIMER_MHZ : 0;
}

static void timer_arm(struct rtl8139 *c)
{
    if (c->regs.timer_at)
        dp_timer_arm(&c->timer, c->regs.timer_at);
    else
        dp_timer_disarm(&c->timer);
}

static void timer_set(struct rtl8139 *c)
{
    timer_schedule(c);
    timer_arm(c);
}

static void timer_due(void *opaque)
{
    struct rtl8139 *c = opaque;
    nic_enter(&c->nic);
    if (c->nic.running && c->regs.timer_at && c->regs.timer_at <= dp_clock_now(c->device.env->clock)) {
        c->regs.isr |= ISR_TIMEOUT;
        timer_set(c);
    }
    nic_leave(&c->nic);
}

/* ---- reset, link, interrupt ---- */

static void soft_reset(struct rtl8139 *c)
{
    struct rtl8139_regs *r = &c->regs, old = *r;
    dp_state_reset(&rtl8139_table, r);
    r->pci = old.pci;
    r->eeprom = old.eeprom;
    r->link = old.link;
    memcpy(r->idr, old.idr, sizeof(r->idr));
    r->bmcr = old.bmcr;
    r->anar = old.anar;
    r->cr9346 = old.cr9346;
    r->config1 = old.config1;
    r->config3 = old.config3;
    r->config4 = old.config4;
    r->config5 = old.config5;
    r->timer_start = dp_clock_now(c->device.env->clock);
    timer_arm(c);
    nic_abort(&c->nic);
}

static bool irq_level(struct nic *n)
{
    const struct rtl8139_regs *r = &rtl8139_of(n)->regs;
    return r->isr & r->imr;
}

static void link_changed(struct nic *n, bool up)
{
    struct rtl8139_regs *r = &rtl8139_of(n)->regs;
    if (r->link == up)
        return;
    r->link = up;
    r->isr |= ISR_LINK;
}

/* ---- registers, each whole; lock held ---- */

static const struct { uint8_t at, size;
} layout[] = {
    {IDR0, 4},   {IDR4, 4},      {MAR0, 4},       {MAR4, 4},       {TSD0, 4},      {TSD0 + 4, 4}, {TSD0 + 8, 4},  {TSD0 + 12, 4},
    {TSAD0, 4},  {TSAD0 + 4, 4}, {TSAD0 + 8, 4},  {TSAD0 + 12, 4}, {RBSTART, 4},   {ERBCR, 2},    {ERSR, 1},      {CR, 1},
    {CAPR, 2},   {CBR, 2},       {IMR, 2},        {ISR, 2},        {TCR, 4},       {RCR, 4},      {TCTR, 4},      {MPC, 4},
    {CR9346, 1}, {CONFIG0, 1},   {CONFIG1, 1},    {TIMER_INT, 4},  {MSR, 1},       {CONFIG3, 1},  {CONFIG4, 1},   {MULINT, 2},
    {RERID, 1},  {TSAD, 2},      {BMCR, 2},       {BMSR, 2},       {ANAR, 2},      {ANLPAR, 2},   {ANER, 2},      {DIS, 2},
    {FCSC, 2},   {NWAYTR, 2},    {REC, 2},        {CSCR, 2},       {PHY1_PARM, 4}, {TW_PARM, 4},  {PHY2_PARM, 1}, {CONFIG5, 1},
    {TPPOLL, 1}, {CPCR, 2},      {MITIGATION, 2}, {RDSAR, 4},      {RDSAR + 4, 4}, {ETTHR, 1},
};

static bool cp_mode(const struct rtl8139_regs *r) { return r->cpcr & (CPCR_TX | CPCR_RX); }

static uint32_t read_tsad_summary(const struct rtl8139_regs *r)
{
    uint32_t v = 0;
    for (unsigned i = 0; i < TSDS; i++)
        v |= (r->tsd[i] & TSD_OWN ? 1u : 0) << i | (r->tsd[i] & TSD_TABT ? 0x10u : 0) << i | (r->tsd[i] & TSD_TUN ? 0x100u : 0) << i |
             (r->tsd[i] & TSD_TOK ? 0x1000u : 0) << i;
    return v;
}

static uint32_t read_reg(struct rtl8139 *c, unsigned at)
{
    const struct rtl8139_regs *r = &c->regs;
    switch (at) {
    case IDR0:
    case IDR4: return dp_ld32(r->idr + at);
    case MAR0:
    case MAR4: return dp_ld32(r->mar + (at - MAR0));
    case TSD0: return cp_mode(r) ? r->dtccr_low : r->tsd[0];
    case TSD0 + 4: return cp_mode(r) ? r->dtccr_high : r->tsd[1];
    case TSD0 + 8:
    case TSD0 + 12: return r->tsd[(at - TSD0) / 4];
    case TSAD0:
    case TSAD0 + 4:
    case TSAD0 + 8:
    case TSAD0 + 12: return r->tsad[(at - TSAD0) / 4];
    case RBSTART: return r->rbstart;
    case CR: return r->cr | (rtl8139_ring_used(r) ? 0 : CR_BUFE);
    case CAPR: return r->capr;
    case CBR: return r->cbr;
    case IMR: return r->imr;
    case ISR: return r->isr;
    case TCR: return r->tcr | TCR_HWVERID;
    case RCR: return r->rcr;
    case TCTR: return (uint32_t)timer_ticks(c, dp_clock_now(c->device.env->clock));
    case MPC: return r->mpc;
    case CR9346: return r->cr9346 | ((r->cr9346 & EEM) == EEM_PROGRAM && nic_eeprom_output(&r->eeprom) ? EEDO : 0);
    case CONFIG0: return r->config0;
    case CONFIG1: return r->config1;
    case CONFIG3: return r->config3;
    case CONFIG4: return r->config4;
    case CONFIG5: return r->config5;
    case TIMER_INT: return r->timer_int;
    case MSR: return r->link ? 0xd0 : 0xd0 | MSR_LINKB; /* flow control, 100 Mb/s */
    case MULINT: return r->mulint;
    case RERID: return 0x10;
    case TSAD: return read_tsad_summary(r);
    case BMCR: return r->bmcr;
    case BMSR: return r->link ? 0x782d : 0x7809;
    case ANAR: return r->anar;
    case ANLPAR: return r->link ? 0x45e1 : 0;
    case ANER: return r->link ? 1 : 0;
    case NWAYTR: return r->nwaytr;
    case CSCR: return (r->cscr & ~8u) | (r->link ? 8 : 0);
    case PHY1_PARM: return r->phy1_parm;
    case TW_PARM: return r->tw_parm;
    case PHY2_PARM: return r->phy2_parm;
    case CPCR: return r->cpcr;
    case MITIGATION: return r->mitigation;
    case RDSAR: return r->rdsar_low;
    case RDSAR + 4: return r->rdsar_high;
    case ETTHR: return r->etthr;
    default: return 0;
    }
}

static void write_cr(struct rtl8139 *c, uint8_t v)
{
    struct rtl8139_regs *r = &c->regs;
    if (v & CR_RST) {
        soft_reset(c);
        return;
    }
    if (v & ~r->cr & CR_TE)
        r->tx_current = 0;
    if (v & ~r->cr & CR_RE)
        r->cp_rx = 0;
    r->cr = v & (CR_TE | CR_RE);
    nic_kick(&c->nic);
    nic_room(&c->nic);
}

static void write_tsd(struct rtl8139 *c, unsigned i, uint32_t v)
{
    struct rtl8139_regs *r = &c->regs;
    if (cp_mode(r) && i < 2) {
        *(i ? &r->dtccr_high : &r->dtccr_low) = i ? v : v & ~(uint32_t)DTCCR_DUMP;
        if (!i && (v & DTCCR_DUMP))
            rtl8139_tally(&c->nic, (uint64_t)r->dtccr_high << 32 | (v & ~63u));
        return;
    }
    r->tsd[i] = v & (TSD_SIZE | TSD_OWN | 0x003f0000); /* the rest is what the chip says */
    nic_kick(&c->nic);
}

static void write_cpcr(struct rtl8139_regs *r, uint16_t v)
{
    if (v & ~r->cpcr & CPCR_TX)
        r->cp_tx = 0;
    if (v & ~r->cpcr & CPCR_RX)
        r->cp_rx = 0;
    r->cpcr = v & 0x006b;
}

/* In C+ mode a driver gives descriptors back without telling, but where it tells other things it has often done so. */
static void descriptors_free(struct rtl8139 *c)
{
    if (c->regs.cpcr & CPCR_RX)
        nic_room(&c->nic);
}

static void write_reg(struct rtl8139 *c, unsigned at, uint32_t v)
{
    struct rtl8139_regs *r = &c->regs;
    switch (at) {
    case IDR0: dp_st32(r->idr, v); break;
    case IDR4: dp_st16(r->idr + 4, (uint16_t)v); break;
    case MAR0:
    case MAR4: dp_st32(r->mar + (at - MAR0), v); break;
    case TSD0:
    case TSD0 + 4:
    case TSD0 + 8:
    case TSD0 + 12: write_tsd(c, (at - TSD0) / 4, v); break;
    case TSAD0:
    case TSAD0 + 4:
    case TSAD0 + 8:
    case TSAD0 + 12:
        r->tsad[(at - TSAD0) / 4] = v;
        if (at == TNPDS)
            r->cp_tx = 0;
        break;
    case RBSTART:
        r->rbstart = v;
        r->cbr = 0;
        break;
    case CR: write_cr(c, (uint8_t)v); break;
    case CAPR:
        r->capr = (uint16_t)v;
        if (rtl8139_ring_used(r) <= rtl8139_ring_size(r) / 4) /* room for several frames: worth waking who sends */
            nic_room(&c->nic);
        break;
    case IMR:
        r->imr = v & ISR_ALL;
        descriptors_free(c);
        break;
    case ISR:
        r->isr &= ~v;
        descriptors_free(c);
        break;
    case TCR: r->tcr = v & TCR_KEPT; break;
    case RCR:
        r->rcr = v & RCR_KEPT;
        nic_room(&c->nic);
        break;
    case TCTR:
        r->timer_start = dp_clock_now(c->device.env->clock);
        timer_set(c);
        break;
    case MPC: r->mpc = 0; break;
    case CR9346: write_9346(r, (uint8_t)v); break;
    case CONFIG0: break; /* the EEPROM's alone */
    case CONFIG1: r->config1 = unlocked(r) ? (uint8_t)((v & 0xf3) | 0x0c) : r->config1; break; /* both BARs are there */
    case CONFIG3: r->config3 = unlocked(r) ? (uint8_t)v : r->config3; break;
    case CONFIG4: r->config4 = unlocked(r) ? (uint8_t)v : r->config4; break;
    case CONFIG5: r->config5 = (uint8_t)v; break;
    case TIMER_INT:
        r->timer_int = v;
        timer_set(c);
        break;
    case MULINT: r->mulint = v & 0xfff; break;
    case BMCR:
        r->bmcr = v & BMCR_RESET ? BMCR_INITIAL : v & ~(uint32_t)BMCR_RESTART;
        break;
    case ANAR: r->anar = (uint16_t)v; break;
    case NWAYTR: r->nwaytr = (uint16_t)v; break;
    case CSCR: r->cscr = (uint16_t)v; break;
    case PHY1_PARM: r->phy1_parm = v; break;
    case TW_PARM: r->tw_parm = v; break;
    case PHY2_PARM: r->phy2_parm = (uint8_t)v; break;
    case TPPOLL:
        r->isr |= v & TPPOLL_FSWINT ? ISR_SWINT : 0;
        if (v & TPPOLL_NPQ) {
            r->cp_poll = true;
            nic_kick(&c->nic);
        }
        break;
    case CPCR: write_cpcr(r, (uint16_t)v); break;
    case MITIGATION: r->mitigation = (uint16_t)v; break;
    case RDSAR:
        r->rdsar_low = v;
        r->cp_rx = 0;
        break;
    case RDSAR + 4: r->rdsar_high = v; break;
    case ETTHR: r->etthr = (uint8_t)v; break;
    }
}

/* ---- accesses ---- */

static uint64_t window_read(void *opaque, uint64_t offset, unsigned size)
{
    struct rtl8139 *c = of(opaque);
    uint64_t value = 0;
    nic_enter(&c->nic);
    for (unsigned i = 0; i < DP_ARRAY_LEN(layout); i++) {
        unsigned at = layout[i].at, n = layout[i].size;
        if (at >= offset + size || at + n <= offset)
            continue;
        uint64_t reg = read_reg(c, at) & dp_mask_bytes(n);
        value |= at >= offset ? reg << (at - offset) * 8 : reg >> (offset - at) * 8;
    }
    nic_leave(&c->nic);
    return value & dp_mask_bytes(size);
}

static void window_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct rtl8139 *c = of(opaque);
    nic_enter(&c->nic);
    for (unsigned i = 0; i < DP_ARRAY_LEN(layout); i++) {
        unsigned at = layout[i].at, n = layout[i].size;
        if (at >= offset + size || at + n <= offset)
            continue;
        uint64_t mask = dp_mask_bytes(size), bits = value & mask;
        if (at >= offset) {
            bits >>= (at - offset) * 8;
            mask >>= (at - offset) * 8;
        } else {
            bits <<= (offset - at) * 8;
            mask <<= (offset - at) * 8;
        }
        mask &= dp_mask_bytes(n);
        bool acts = at == ISR || at == TPPOLL; /* ones act: what was not written is 0 */
        write_reg(c, at, (uint32_t)((bits & mask) | (acts ? 0 : read_reg(c, at) & ~mask)));
    }
    nic_leave(&c->nic);
}

/* ---- life ---- */

static const struct dp_window_ops window_ops = {"rtl8139", window_read, window_write, 1, 4};
static const struct dp_window_spec rtl8139_windows[] = {
    [DP_RTL8139_WINDOW_PORTS] = {"ports", SIZE, &window_ops, true},
    [DP_RTL8139_WINDOW_MEMORY] = {"memory", SIZE, &window_ops, false},
};
static const struct nic_ops rtl8139_nic_ops = {
    .tx_next = rtl8139_tx_next, .tx_done = rtl8139_tx_done, .rx = rtl8139_rx, .irq_level = irq_level, .link = link_changed,
};

static struct nic *nic_of(struct dp_device *d)
{
    static const uint8_t nobody[NIC_MAC] = {0x02};
    struct nic *n = &of(d)->nic;
    if (!n->ops)
        nic_wire(n, d, &rtl8139_nic_ops, nobody);
    return n;
}

void dp_rtl8139_wire(struct dp_device *d, const uint8_t mac[6]) { nic_wire(&of(d)->nic, d, &rtl8139_nic_ops, mac); }
struct dp_net_port *dp_rtl8139_port(struct dp_device *d) { return &nic_of(d)->port; }
struct dp_pci_function *dp_rtl8139_function(struct dp_device *d) { return &of(d)->nic.function; }

void dp_rtl8139_rom(struct dp_device *d, const void *data, size_t size)
{
    of(d)->nic.rom_source = data;
    of(d)->nic.rom_source_size = data ? size : 0;
}

static int rtl8139_init(struct dp_device *d, struct dp_error *err)
{
    struct rtl8139 *c = of(d);
    struct nic *n = nic_of(d);
    static const struct dp_pci_id id = {
        .vendor = 0x10ec,
        .device = 0x8139,
        .subsystem_vendor = 0x10ec,
        .subsystem = 0x8139,
        .revision = 0x20,
        .class_code = 0x020000,
        .interrupt_pin = 1,
    };
    int rc = nic_init(n, err);
    if (rc)
        return rc;
    dp_timer_init(&c->timer, d->env->clock, timer_due, c);
    if ((rc = nic_pci_init(n, &c->regs.pci, &id, err))) {
        dp_timer_fini(&c->timer);
        nic_fini(n);
        return rc;
    }
    dp_pci_add_bar(&n->function, DP_RTL8139_BAR_PORTS, SIZE, true, false, &window_ops, c);
    dp_pci_add_bar(&n->function, DP_RTL8139_BAR_MEMORY, SIZE, false, false, &window_ops, c);
    return 0;
}

static void rtl8139_fini(struct dp_device *d)
{
    nic_quiesce(&of(d)->nic);
    dp_timer_fini(&of(d)->timer);
    nic_fini(&of(d)->nic);
}

static void rtl8139_reset(struct dp_device *d)
{
    struct rtl8139 *c = of(d);
    nic_reset_begin(&c->nic);
    eeprom_fill(c);
    load_address(&c->regs);
    c->regs.timer_start = dp_clock_now(d->env->clock);
    timer_arm(c);
    nic_reset_end(&c->nic);
}

static void rtl8139_pause(struct dp_device *d) { nic_quiesce(&of(d)->nic); }

static void rtl8139_resume(struct dp_device *d)
{
    struct rtl8139 *c = of(d);
    nic_enter(&c->nic);
    timer_arm(c);
    pthread_mutex_unlock(&d->lock);
    nic_resume(&c->nic);
}

static void rtl8139_post_load(struct dp_device *d) { nic_post_load(&of(d)->nic); }

const struct dp_device_class dp_rtl8139_class = {
    .name = "rtl8139",
    .summary = "Realtek RTL8139C+ fast Ethernet",
    .size = sizeof(struct rtl8139),
    .regs_offset = offsetof(struct rtl8139, regs),
    .state = &rtl8139_table,
    .windows = rtl8139_windows,
    .window_count = DP_ARRAY_LEN(rtl8139_windows),
    .init = rtl8139_init,
    .fini = rtl8139_fini,
    .reset = rtl8139_reset,
    .pause = rtl8139_pause,
    .resume = rtl8139_resume,
    .post_load = rtl8139_post_load,
};
