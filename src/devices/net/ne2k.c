/* devices/net/ne2k.c - the DP8390 and the two cards around it; model and source in ne2k.h.
 *
 * Invariants: ring pages are checked when a frame comes, not when they are written. Every access to the card's memory goes through
 * byte_at and put_byte, which know what is there.
 */
#include "devices/net/ne2k.h"

#include "devices/net/nic.h"

enum {
    PROM_SIZE = 32,
    MEMORY_START = 0x4000,
    MEMORY_SIZE = 0x4000,
    MEMORY_END = MEMORY_START + MEMORY_SIZE,
    PAGE = 256,
    HEADER = 4,
    FIFO = 8,
    GROUP = 8
};
#define RETRY_NS 20000000
enum { PORT_DATA = 0x10, PORT_RESET = 0x18 };
enum {
    CR_STP = 1,
    CR_STA = 2,
    CR_TXP = 4,
    CR_RD = 0x38,
    CR_READ = 0x08,
    CR_WRITE = 0x10,
    CR_SEND = 0x18,
    CR_ABORT = 0x20,
    CR_PAGE_SHIFT = 6
};
enum { ISR_PRX = 1, ISR_PTX = 2, ISR_CNT = 0x20, ISR_RDC = 0x40, ISR_RST = 0x80 };
enum { DCR_WTS = 1, TCR_LB = 6, TSR_PTX = 1, RSR_PRX = 1, RSR_CRC = 2, RSR_PHY = 0x20 };
enum { RCR_AB = 4, RCR_AM = 8, RCR_PRO = 0x10, RCR_MON = 0x20 };
/* Registers of page 0, write; of page 0, read; of page 1. */
enum { CR, PSTART, PSTOP, BNRY, TPSR, TBCR0, TBCR1, ISR, RSAR0, RSAR1, RBCR0, RBCR1, RCR, TCR, DCR, IMR };
enum { CLDA0 = 1, CLDA1, TSR = 4, NCR, FIFO_REG, CRDA0 = 8, CRDA1, ID0, ID1, RSR, CNTR0, CNTR1, CNTR2 };
enum { PAR0 = 1, CURR = 7, MAR0 = 8 };

struct dp8390_regs {
    uint8_t cr, pstart, pstop, bnry, tpsr, tsr, isr, rsr, rcr, tcr, dcr, imr, curr, fifo_at;
    uint8_t cntr[3], par[NIC_MAC], mar[8], fifo[FIFO], config[16];
    uint16_t tbcr, rsar, rbcr;
    uint8_t prom[PROM_SIZE];
    uint8_t memory[MEMORY_SIZE];
};
struct ne2k_isa_regs { struct dp8390_regs core; };
struct ne2k_pci_regs { struct dp_pci_regs pci; struct dp8390_regs core; };

struct ne2k {
    struct dp_device device;
    struct nic nic;
    struct dp8390_regs *core;
    struct dp_irq irq;
    bool realtek;
    unsigned group_call, group; /* frames that came together last; see welcome */
};
struct ne2k_isa { struct ne2k card; struct ne2k_isa_regs regs; };
struct ne2k_pci { struct ne2k card; struct ne2k_pci_regs regs; };

static struct ne2k *of(struct dp_device *d) { return DP_CONTAINER_OF(d, struct ne2k, device); }
static struct ne2k *card_of(struct nic *n) { return DP_CONTAINER_OF(n, struct ne2k, nic); }

/* ---- state ---- */

#define REG8(name, tag, initial, mask) DP_FIELD_U8(struct dp8390_regs, name, tag, initial, mask)
static const struct dp_field core_fields[] = {
    REG8(cr, 1, CR_STP | CR_ABORT, 0),
    REG8(pstart, 2, 0, 0),
    REG8(pstop, 3, 0, 0),
    REG8(bnry, 4, 0, 0),
    REG8(tpsr, 5, 0, 0),
    REG8(tsr, 6, 0, 0),
    REG8(isr, 7, ISR_RST, 0),
    REG8(rsr, 8, 0, 0),
    REG8(rcr, 9, 0, 0x3f),
    REG8(tcr, 10, 0, 0x1f),
    REG8(dcr, 11, 0, 0x7f),
    REG8(imr, 12, 0, 0x7f),
    REG8(curr, 13, 0, 0),
    REG8(fifo_at, 14, 0, FIFO - 1),
    DP_FIELD_BYTES(struct dp8390_regs, cntr, 15),
    DP_FIELD_BYTES(struct dp8390_regs, par, 16),
    DP_FIELD_BYTES(struct dp8390_regs, mar, 17),
    DP_FIELD_BYTES(struct dp8390_regs, fifo, 18),
    DP_FIELD_BYTES(struct dp8390_regs, config, 19),
    DP_FIELD_U16(struct dp8390_regs, tbcr, 20, 0, 0),
    DP_FIELD_U16(struct dp8390_regs, rsar, 21, 0, 0),
    DP_FIELD_U16(struct dp8390_regs, rbcr, 22, 0, 0),
    DP_FIELD_BYTES(struct dp8390_regs, prom, 23),
    DP_FIELD_BYTES(struct dp8390_regs, memory, 24),
};
static const struct dp_state_table core_table = DP_STATE_TABLE(struct dp8390_regs, "dp8390", core_fields);
static const struct dp_field isa_fields[] = {DP_FIELD_STRUCT(struct ne2k_isa_regs, core, 1, &core_table)};
static const struct dp_state_table isa_table = DP_STATE_TABLE(struct ne2k_isa_regs, "ne2k-isa", isa_fields);
static const struct dp_field pci_fields[] = {
    DP_FIELD_STRUCT(struct ne2k_pci_regs, pci, 1, &dp_pci_regs_table),
    DP_FIELD_STRUCT(struct ne2k_pci_regs, core, 2, &core_table),
};
static const struct dp_state_table pci_table = DP_STATE_TABLE(struct ne2k_pci_regs, "ne2k-pci", pci_fields);

/* ---- the card's memory ---- */

static uint8_t byte_at(const struct dp8390_regs *r, uint32_t at)
{
    at &= 0xffff;
    if (at < MEMORY_START)
        return r->prom[at % PROM_SIZE];
    return at < MEMORY_END ? r->memory[at - MEMORY_START] : 0xff;
}

static void put_byte(struct dp8390_regs *r, uint32_t at, uint8_t v)
{
    at &= 0xffff;
    if (at >= MEMORY_START && at < MEMORY_END)
        r->memory[at - MEMORY_START] = v;
}

/* Free pages of the receive ring, of so many. 0 of 0: it is none. BNRY = CURR means empty. */
static unsigned ring_room(const struct dp8390_regs *r, unsigned *ring)
{
    *ring = 0;
    if (r->pstart < MEMORY_START / PAGE || r->pstop > MEMORY_END / PAGE || r->pstart >= r->pstop || r->curr < r->pstart ||
        r->curr >= r->pstop)
        return 0;
    *ring = r->pstop - r->pstart;
    return r->bnry >= r->pstart && r->bnry < r->pstop ? (r->bnry - r->curr + *ring - 1) % *ring + 1 : *ring;
}

/* BNRY moved. Who sends is told only when there is room for several frames, which waking it is worth. */
static void boundary_moved(struct ne2k *c)
{
    unsigned ring, room = ring_room(c->core, &ring);
    if (room >= ring / 2)
        nic_room(&c->nic);
}

/* ---- remote DMA ---- */

static void remote_done(struct ne2k *c)
{
    struct dp8390_regs *r = c->core;
    r->rbcr = 0;
    r->isr |= ISR_RDC;
    if ((r->cr & CR_RD) == CR_SEND) { /* one packet of the ring: on to the next */
        r->bnry = byte_at(r, r->bnry * PAGE + 1u);
        boundary_moved(c);
    }
}

static void remote_step(struct ne2k *c, unsigned bytes)
{
    struct dp8390_regs *r = c->core;
    r->rsar += bytes;
    if (r->rsar == r->pstop * PAGE)
        r->rsar = (uint16_t)(r->pstart * PAGE);
    if (r->rbcr <= bytes)
        remote_done(c);
    else
        r->rbcr -= bytes;
}

static uint32_t data_read(struct ne2k *c, unsigned size)
{
    struct dp8390_regs *r = c->core;
    unsigned unit = r->dcr & DCR_WTS ? 2 : 1;
    uint32_t v = 0;
    for (unsigned i = 0; i < size; i += unit) {
        for (unsigned k = 0; k < unit; k++)
            v |= i + k < 4 ? (uint32_t)byte_at(r, r->rsar + k) << (i + k) * 8 : 0;
        remote_step(c, unit);
    }
    return v;
}

static void data_write(struct ne2k *c, uint32_t v, unsigned size)
{
    struct dp8390_regs *r = c->core;
    unsigned unit = r->dcr & DCR_WTS ? 2 : 1;
    for (unsigned i = 0; i < size; i += unit) {
        if (!r->rbcr) /* nothing is programmed: nothing is overwritten */
            return;
        for (unsigned k = 0; k < unit; k++)
            put_byte(r, r->rsar + k, (uint8_t)(v >> (i + k) * 8));
        remote_step(c, unit);
    }
}

/* ---- transmitting ---- */

/* Received into the FIFO alone: the frame's last byte, its FCS, its length. */
static void loopback(struct ne2k *c, const struct nic_packet *p)
{
    static const uint8_t status[] = {0, 0x53, 0x43, 0x03}; /* by TCR's LB: what is missing of the wire */
    struct dp8390_regs *r = c->core;
    uint32_t length = p->size + NIC_FCS;
    r->fifo[0] = p->size ? p->data[p->size - 1] : 0;
    dp_st32(r->fifo + 1, nic_fcs(&c->nic, p->data, p->size));
    r->fifo[5] = (uint8_t)length;
    r->fifo[6] = r->fifo[7] = (uint8_t)(length >> 8);
    r->fifo_at = 0;
    r->tsr = status[(r->tcr & TCR_LB) >> 1];
    r->rsr = RSR_CRC;
    r->isr |= ISR_PTX;
    r->cr &= ~CR_TXP;
}

static bool tx_next(struct nic *n, struct nic_packet *p)
{
    struct ne2k *c = card_of(n);
    struct dp8390_regs *r = c->core;
    if (!(r->cr & CR_TXP) || (r->cr & CR_STP))
        return false;
    p->size = r->tbcr;
    for (uint32_t i = 0; i < p->size; i++)
        p->data[i] = byte_at(r, r->tpsr * PAGE + i);
    if (!(r->tcr & TCR_LB))
        return true;
    loopback(c, p);
    return false;
}

static void tx_done(struct nic *n, const struct nic_packet *p)
{
    struct dp8390_regs *r = card_of(n)->core;
    r->tsr = TSR_PTX;
    r->isr |= ISR_PTX;
    r->cr &= ~CR_TXP;
}

/* ---- receiving ---- */

static bool passes(const struct dp8390_regs *r, const uint8_t *data)
{
    if (nic_is_broadcast(data))
        return r->rcr & RCR_AB;
    if (nic_is_multicast(data)) {
        unsigned hash = nic_multicast_hash(data);
        return (r->rcr & RCR_AM) && (r->mar[hash / 8] >> hash % 8 & 1);
    }
    return (r->rcr & RCR_PRO) || !memcmp(data, r->par, NIC_MAC);
}

static void count(struct dp8390_regs *r, unsigned i)
{
    r->cntr[i] += r->cntr[i] < 0xff;
    if (r->cntr[i] & 0x80)
        r->isr |= ISR_CNT;
}

/* Drivers take what the ring has and acknowledge PRX afterwards: a frame that comes between the two has no interrupt. On a real wire the
 * next frame helps; here the sender would wait for an answer. So frames come in groups, as many as such drivers take at once, and the next
 * group when PRX was acknowledged; or after a while, for those who do it otherwise. Who has no interrupt polls, and misses nothing. */
static bool welcome(struct ne2k *c)
{
    const struct dp8390_regs *r = c->core;
    if (!(r->imr & ISR_PRX))
        return true;
    return c->group_call == c->nic.rx_call ? c->group < GROUP : !(r->isr & ISR_PRX) || c->nic.rx_retried;
}

static enum nic_rx rx(struct nic *n, const uint8_t *data, uint32_t size)
{
    struct ne2k *c = card_of(n);
    struct dp8390_regs *r = c->core;
    if ((r->cr & (CR_STP | CR_STA)) != CR_STA || (r->tcr & TCR_LB) || size > NIC_FRAME_STANDARD + NIC_VLAN || !passes(r, data))
        return NIC_TAKEN;
    if (r->rcr & RCR_MON) {
        count(r, 2);
        return NIC_TAKEN;
    }
    unsigned pages = (HEADER + size + NIC_FCS + PAGE - 1) / PAGE, ring, room = ring_room(r, &ring);
    if (!ring) {
        dp_trace_guest(n->device->env->trace, "%s: pages %02x-%02x, current %02x are no ring; a frame is lost", n->device->id, r->pstart,
                       r->pstop, r->curr);
        return NIC_TAKEN;
    }
    if (!welcome(c)) {
        nic_retry(n, RETRY_NS);
        return NIC_FULL;
    }
    if (pages >= room)
        return pages >= ring ? NIC_TAKEN : NIC_FULL;
    uint8_t header[HEADER], fcs[NIC_FCS];
    unsigned next = r->curr + pages;
    next -= next >= r->pstop ? ring : 0;
    r->rsr = RSR_PRX | (nic_is_multicast(data) ? RSR_PHY : 0);
    header[0] = r->rsr;
    header[1] = (uint8_t)next;
    dp_st16(header + 2, (uint16_t)(HEADER + size));
    dp_st32(fcs, nic_fcs(n, data, size));
    uint32_t at = r->curr * PAGE, end = r->pstop * PAGE;
    for (uint32_t i = 0; i < HEADER + size + NIC_FCS; i++) {
        put_byte(r, at, i < HEADER ? header[i] : i < HEADER + size ? data[i - HEADER] : fcs[i - HEADER - size]);
        at = at + 1 == end ? r->pstart * PAGE : at + 1;
    }
    c->group = c->group_call == n->rx_call ? c->group + 1 : 1;
    c->group_call = n->rx_call;
    r->curr = (uint8_t)next;
    r->isr |= ISR_PRX;
    return NIC_TAKEN;
}

/* ---- registers; lock held ---- */

static void stop(struct ne2k *c) /* reset, by the port: registers keep what they are */
{
    c->core->cr = CR_STP | CR_ABORT;
    c->core->isr = ISR_RST;
    nic_abort(&c->nic);
}

static void write_cr(struct ne2k *c, uint8_t v)
{
    struct dp8390_regs *r = c->core;
    uint8_t was = r->cr, pending = v & CR_STP ? 0 : was & CR_TXP; /* the guest cannot clear it */
    uint8_t state = v & CR_STP ? CR_STP : v & CR_STA ? CR_STA : was & (CR_STP | CR_STA); /* a command that says neither changes neither */
    r->cr = (uint8_t)((v & ~(CR_STP | CR_STA)) | state | pending);
    if (v & CR_STP) {
        r->isr |= ISR_RST;
        r->cr &= ~CR_TXP;
        nic_abort(&c->nic);
    } else if (v & CR_STA) {
        r->isr &= ~ISR_RST;
    }
    if ((v & CR_RD) == CR_SEND) {
        r->rsar = (uint16_t)(r->bnry * PAGE);
        r->rbcr = (uint16_t)(byte_at(r, r->rsar + 2u) | byte_at(r, r->rsar + 3u) << 8);
    }
    if (!(v & CR_ABORT) && (v & CR_RD) && !r->rbcr)
        remote_done(c);
    if (v & CR_TXP)
        nic_kick(&c->nic);
    if ((was ^ r->cr) & (CR_STP | CR_STA))
        nic_room(&c->nic);
}

static uint8_t read_page0(struct dp8390_regs *r, unsigned at, bool realtek)
{
    uint8_t v;
    switch (at) {
    case CLDA0: return 0;
    case CLDA1: return r->curr;
    case BNRY: return r->bnry;
    case TSR: return r->tsr;
    case NCR: return 0;
    case FIFO_REG:
        v = r->fifo[r->fifo_at];
        r->fifo_at = (r->fifo_at + 1) % FIFO;
        return v;
    case ISR: return r->isr;
    case CRDA0: return (uint8_t)r->rsar;
    case CRDA1: return (uint8_t)(r->rsar >> 8);
    case ID0: return realtek ? 'P' : 0xff;
    case ID1: return realtek ? 'C' : 0xff;
    case RSR: return r->rsr;
    case CNTR0:
    case CNTR1:
    case CNTR2:
        v = r->cntr[at - CNTR0];
        r->cntr[at - CNTR0] = 0;
        return v;
    default: return 0xff;
    }
}

static uint8_t read_reg(struct ne2k *c, unsigned at)
{
    struct dp8390_regs *r = c->core;
    if (at == CR)
        return r->cr;
    switch (r->cr >> CR_PAGE_SHIFT) {
    case 0: return read_page0(r, at, c->realtek);
    case 1: return at < CURR ? r->par[at - PAR0] : at == CURR ? r->curr : r->mar[at - MAR0];
    case 2:
        switch (at) { /* what page 0 only takes */
        case PSTART: return r->pstart;
        case PSTOP: return r->pstop;
        case TPSR: return r->tpsr;
        case RCR: return r->rcr | 0xc0;
        case TCR: return r->tcr | 0xe0;
        case DCR: return r->dcr | 0x80;
        case IMR: return r->imr | 0x80;
        default: return 0xff;
        }
    default: return c->realtek ? at == 14 ? 0x29 : at == 15 ? 0x80 : r->config[at] : 0xff;
    }
}

static void write_page0(struct ne2k *c, unsigned at, uint8_t v)
{
    struct dp8390_regs *r = c->core;
    switch (at) {
    case PSTART: r->pstart = v; break;
    case PSTOP: r->pstop = v; break;
    case BNRY:
        r->bnry = v;
        boundary_moved(c);
        break;
    case TPSR: r->tpsr = v; break;
    case TBCR0: r->tbcr = (uint16_t)((r->tbcr & 0xff00) | v); break;
    case TBCR1: r->tbcr = (uint16_t)((r->tbcr & 0xff) | v << 8); break;
    case ISR:
        r->isr &= ~(v & 0x7f); /* RST is a state */
        boundary_moved(c);
        break;
    case RSAR0: r->rsar = (uint16_t)((r->rsar & 0xff00) | v); break;
    case RSAR1: r->rsar = (uint16_t)((r->rsar & 0xff) | v << 8); break;
    case RBCR0: r->rbcr = (uint16_t)((r->rbcr & 0xff00) | v); break;
    case RBCR1: r->rbcr = (uint16_t)((r->rbcr & 0xff) | v << 8); break;
    case RCR:
        r->rcr = v & 0x3f;
        nic_room(&c->nic);
        break;
    case TCR:
        r->tcr = v & 0x1f;
        nic_room(&c->nic);
        break;
    case DCR: r->dcr = v & 0x7f; break;
    case IMR:
        r->imr = v & 0x7f;
        boundary_moved(c);
        break;
    }
}

static void write_reg(struct ne2k *c, unsigned at, uint8_t v)
{
    struct dp8390_regs *r = c->core;
    if (at == CR) {
        write_cr(c, v);
        return;
    }
    switch (r->cr >> CR_PAGE_SHIFT) {
    case 0: write_page0(c, at, v); break;
    case 1:
        *(at < CURR ? &r->par[at - PAR0] : at == CURR ? &r->curr : &r->mar[at - MAR0]) = v;
        nic_room(&c->nic);
        break;
    case 3:
        if (c->realtek)
            r->config[at] = v;
        break;
    }
}

static uint64_t ports_read(void *opaque, uint64_t offset, unsigned size)
{
    struct ne2k *c = of(opaque);
    uint64_t v = 0;
    nic_enter(&c->nic);
    if (offset >= PORT_RESET)
        stop(c);
    else if (offset >= PORT_DATA)
        v = data_read(c, size);
    else
        for (unsigned i = 0; i < size; i++)
            v |= (uint64_t)read_reg(c, (unsigned)offset + i) << i * 8;
    nic_leave(&c->nic);
    return v & dp_mask_bytes(size);
}

static void ports_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct ne2k *c = of(opaque);
    nic_enter(&c->nic);
    if (offset >= PORT_RESET)
        ; /* the second half of a reset */
    else if (offset >= PORT_DATA)
        data_write(c, (uint32_t)value, size);
    else
        for (unsigned i = 0; i < size; i++)
            write_reg(c, (unsigned)offset + i, (uint8_t)(value >> i * 8));
    nic_leave(&c->nic);
}

/* ---- life ---- */

static bool irq_level(struct nic *n) { return card_of(n)->core->isr & card_of(n)->core->imr; }
static void isa_irq_set(struct nic *n, bool level) { dp_irq_set(&card_of(n)->irq, level); }
static void link_changed(struct nic *n, bool up) {} /* the wire does not tell */

static const struct nic_ops isa_ops = {
    .tx_next = tx_next, .tx_done = tx_done, .rx = rx, .irq_level = irq_level, .irq_set = isa_irq_set, .link = link_changed};
static const struct nic_ops pci_ops = {.tx_next = tx_next, .tx_done = tx_done, .rx = rx, .irq_level = irq_level, .link = link_changed};

static const struct dp_window_ops ports_ops = {"ne2k", ports_read, ports_write, 1, 4};
static const struct dp_window_spec ne2k_windows[] = {[DP_NE2K_WINDOW] = {"ports", DP_NE2K_PORTS, &ports_ops, true}};

static struct nic *nic_of(struct dp_device *d)
{
    static const uint8_t nobody[NIC_MAC] = {0x02};
    struct nic *n = &of(d)->nic;
    if (!n->ops)
        nic_wire(n, d, d->class == &dp_ne2k_pci_class ? &pci_ops : &isa_ops, nobody);
    return n;
}

void dp_ne2k_isa_wire(struct dp_device *d, const uint8_t mac[6], struct dp_irq irq)
{
    nic_wire(&of(d)->nic, d, &isa_ops, mac);
    of(d)->irq = irq;
}

void dp_ne2k_pci_wire(struct dp_device *d, const uint8_t mac[6]) { nic_wire(&of(d)->nic, d, &pci_ops, mac); }
struct dp_net_port *dp_ne2k_isa_port(struct dp_device *d) { return &nic_of(d)->port; }
struct dp_net_port *dp_ne2k_pci_port(struct dp_device *d) { return &nic_of(d)->port; }
struct dp_pci_function *dp_ne2k_pci_function(struct dp_device *d) { return &of(d)->nic.function; }

void dp_ne2k_pci_rom(struct dp_device *d, const void *data, size_t size)
{
    of(d)->nic.rom_source = data;
    of(d)->nic.rom_source_size = data ? size : 0;
}

static int isa_init(struct dp_device *d, struct dp_error *e)
{
    struct ne2k_isa *c = DP_CONTAINER_OF(of(d), struct ne2k_isa, card);
    c->card.core = &c->regs.core;
    return nic_init(nic_of(d), e);
}

static int pci_init(struct dp_device *d, struct dp_error *e)
{
    struct ne2k_pci *c = DP_CONTAINER_OF(of(d), struct ne2k_pci, card);
    struct nic *n = nic_of(d);
    static const struct dp_pci_id id = {
        .vendor = 0x10ec, .device = 0x8029, .subsystem_vendor = 0x10ec, .subsystem = 0x8029, .class_code = 0x020000, .interrupt_pin = 1,
    };
    c->card.core = &c->regs.core;
    c->card.realtek = true;
    int rc = nic_init(n, e);
    if (rc)
        return rc;
    if ((rc = nic_pci_init(n, &c->regs.pci, &id, e))) {
        nic_fini(n);
        return rc;
    }
    dp_pci_add_bar(&n->function, DP_NE2K_BAR, DP_NE2K_PORTS, true, false, &ports_ops, d);
    return 0;
}

static void ne2k_fini(struct dp_device *d) { nic_fini(&of(d)->nic); }
static void ne2k_pause(struct dp_device *d) { nic_quiesce(&of(d)->nic); }
static void ne2k_resume(struct dp_device *d) { nic_resume(&of(d)->nic); }
static void ne2k_post_load(struct dp_device *d) { nic_post_load(&of(d)->nic); }

static void ne2k_reset(struct dp_device *d)
{
    struct ne2k *c = of(d);
    nic_reset_begin(&c->nic);
    for (unsigned i = 0; i < PROM_SIZE; i++)
        c->core->prom[i] = i / 2 < NIC_MAC ? c->nic.mac[i / 2] : i / 2 >= 14 ? 'W' : 0;
    nic_reset_end(&c->nic);
}

const struct dp_device_class dp_ne2k_isa_class = {
    .name = "ne2k-isa",
    .summary = "NE2000 Ethernet (ISA)",
    .size = sizeof(struct ne2k_isa),
    .regs_offset = offsetof(struct ne2k_isa, regs),
    .state = &isa_table,
    .windows = ne2k_windows,
    .window_count = DP_ARRAY_LEN(ne2k_windows),
    .init = isa_init,
    .fini = ne2k_fini,
    .reset = ne2k_reset,
    .pause = ne2k_pause,
    .resume = ne2k_resume,
    .post_load = ne2k_post_load,
};

const struct dp_device_class dp_ne2k_pci_class = {
    .name = "ne2k-pci",
    .summary = "NE2000 Ethernet (PCI, Realtek RTL8029)",
    .size = sizeof(struct ne2k_pci),
    .regs_offset = offsetof(struct ne2k_pci, regs),
    .state = &pci_table,
    .windows = ne2k_windows,
    .window_count = DP_ARRAY_LEN(ne2k_windows),
    .init = pci_init,
    .fini = ne2k_fini,
    .reset = ne2k_reset,
    .pause = ne2k_pause,
    .resume = ne2k_resume,
    .post_load = ne2k_post_load,
};
