/* ahci_command.c - a port's command list and tables, the FISes it writes, and the data of the drive's commands; model in ahci_internal.h.
 *
 * A command goes to the drive as registers (the FIS is just these), and the drive's phases say what is to be done: PHASE_IN and PHASE_OUT
 * are PIO
 * Setup FISes with their data, PHASE_PACKET fetches ACMD, DMA phases use the table through struct drive_host. The end is a Device to Host
 * FIS, or
 * for PIO data-in the E_STATUS of the last PIO Setup FIS.
 * A table that is too short drops what a PIO or a packet command still sends (PxIS.OFS); sectors have no place then, and the command is
 * aborted.
 * Memory that is no RAM is a host bus fatal error (PxIS.HBFS).
 * Source: AHCI 1.3.1 ch. 4 (memory), 5 (data transfer), 6.2 (errors); Serial ATA 2.6 10.3.
 */
#include "devices/storage/ahci_internal.h"

enum { FIS_H2D = 0x27, FIS_D2H = 0x34, FIS_PIO = 0x5f, FIS_INTERRUPT = 0x40, FIS_TO_HOST = 0x20, FIS_COMMAND = 0x80 };
enum { HEADER_SIZE = 32, CFIS_SIZE = 64, ACMD_OFFSET = 0x40, PRDT_OFFSET = 0x80, PRD_SIZE = 16, H2D_SIZE = 20 };
enum { CMD_DEVICE_RESET = 0x08, CMD_READ_QUEUED = 0x60, CMD_WRITE_QUEUED = 0x61, CMD_DIAGNOSTIC = 0x90 };
#define PRD_INTERRUPT 0x80000000u

/* ---- guest memory ---- */

static bool copy(struct ahci_port *p, uint64_t at, uint8_t *bytes, unsigned size, bool to_guest)
{
    struct dp_space *m = ahci_env(p)->memory;
    struct dp_pin pin;
    for (unsigned n; size; at += n, bytes += n, size -= n) {
        if (!dp_space_pin(m, at, size, to_guest, &pin))
            return false;
        n = (unsigned)DP_MIN(pin.size, (uint64_t)size);
        if (n && to_guest)
            memcpy(pin.host, bytes, n);
        else if (n)
            memcpy(bytes, pin.host, n);
        dp_space_unpin(m, &pin, to_guest ? n : 0);
        if (!n)
            return false;
    }
    return true;
}

bool ahci_load(struct ahci_port *p, uint64_t at, void *to, unsigned size) { return copy(p, at, to, size, false); }

static void bus_error(struct ahci_port *p, const char *what, uint64_t at)
{
    dp_trace_guest(ahci_env(p)->trace, "%s: port %u: %s at 0x%llx is no RAM", p->ahci->device.id, p->n, what, (unsigned long long)at);
    p->regs->is |= IS_HBFS;
}

void ahci_post(struct ahci_port *p, unsigned offset, const void *fis, unsigned size)
{
    uint8_t bytes[32];
    if (!(p->regs->cmd & CMD_FRE))
        return;
    memcpy(bytes, fis, size);
    if (!copy(p, p->regs->fb + offset, bytes, size, true))
        bus_error(p, "the received FIS area", p->regs->fb);
}

/* Has s->region_left, or says why not. */
static enum gather region(struct ahci_port *p, struct ahci_slot_regs *s)
{
    uint8_t entry[PRD_SIZE];
    if (s->region_left)
        return GATHERED;
    if (s->dps)
        p->regs->is |= IS_DPS; /* the entry before is used up */
    s->dps = false;
    if (s->prd_next >= s->prd_count)
        return TABLE_SHORT;
    if (!ahci_load(p, s->table + PRDT_OFFSET + (uint64_t)s->prd_next * PRD_SIZE, entry, PRD_SIZE))
        return TABLE_BAD;
    uint32_t count = dp_ld32(entry + 12);
    s->prd_next++;
    s->region = dp_ld64(entry) & ~1ull;
    s->region_left = ((count & (AHCI_REGION_MAX - 1)) | 1) + 1;
    s->dps = count & PRD_INTERRUPT;
    return GATHERED;
}

static void move_on(struct ahci_slot_regs *s, uint64_t bytes)
{
    s->region += bytes;
    s->region_left -= (uint32_t)bytes;
    s->done += (uint32_t)bytes;
}

enum gather ahci_gather(struct ahci_port *p, struct ahci_slot_regs *s, uint64_t want, uint32_t unit, bool for_write,
                        struct dp_pin *pins, unsigned max, unsigned *count, uint64_t *size)
{
    struct dp_space *m = ahci_env(p)->memory;
    struct ahci_slot_regs whole = *s;
    enum gather result = GATHERED;
    unsigned n = 0, whole_pins = 0;
    uint64_t total = 0;
    *size = 0;
    while (total < want && n < max && (result = region(p, s)) == GATHERED) {
        uint64_t piece = DP_MIN((uint64_t)s->region_left, want - total), part = total % unit;
        piece = part || piece < unit ? DP_MIN(piece, unit - part) : piece - piece % unit; /* so that units end where pins do */
        if (!dp_space_pin(m, s->region, piece, for_write, &pins[n])) {
            result = TABLE_BAD;
            break;
        }
        pins[n].size = DP_MIN(pins[n].size, piece);
        if (!pins[n].size) {
            dp_space_unpin(m, &pins[n], 0);
            result = TABLE_BAD;
            break;
        }
        total += pins[n].size;
        move_on(s, pins[n++].size);
        if (total % unit == 0) {
            whole = *s;
            whole_pins = n;
            *size = total;
        }
    }
    for (unsigned i = whole_pins; i < n; i++)
        dp_space_unpin(m, &pins[i], 0);
    *s = whole;
    *count = whole_pins;
    return *size ? GATHERED : result == GATHERED ? TABLE_BAD : result;
}

/* Moves bytes between a buffer and the regions, at once. A short table takes what fits. */
static enum gather move(struct ahci_port *p, struct ahci_slot_regs *s, uint8_t *bytes, uint32_t size, bool to_guest)
{
    while (size) {
        enum gather g = region(p, s);
        if (g != GATHERED)
            return g;
        uint32_t n = DP_MIN(size, s->region_left);
        if (!copy(p, s->region, bytes, n, to_guest))
            return TABLE_BAD;
        move_on(s, n);
        bytes += n;
        size -= n;
    }
    return GATHERED;
}

static struct ahci_slot_regs *current(struct ahci_port *p)
{
    return p->regs->current < AHCI_SLOTS ? &p->regs->slot[p->regs->current] : NULL;
}

/* The header's count of bytes. */
static void write_count(struct ahci_port *p)
{
    uint8_t bytes[4];
    if (!current(p))
        return;
    dp_st32(bytes, current(p)->done);
    if (!copy(p, p->regs->clb + p->regs->current * HEADER_SIZE + 4, bytes, sizeof bytes, true))
        bus_error(p, "the command list", p->regs->clb);
}

/* ---- FISes ---- */

void ahci_set_tfd(struct ahci_port *p, uint8_t status, uint8_t error) { p->regs->tfd = status | (uint32_t)error << 8; }

/* The registers as Device to Host and PIO Setup FISes have them. */
static void registers(const struct ata_drive_regs *r, uint8_t fis[20], uint8_t type, uint8_t flags, uint8_t status)
{
    memset(fis, 0, 20);
    fis[0] = type;
    fis[1] = flags;
    fis[2] = status;
    fis[3] = r->error;
    fis[4] = r->low[0];
    fis[5] = r->mid[0];
    fis[6] = r->high[0];
    fis[7] = r->device;
    fis[8] = r->low[1];
    fis[9] = r->mid[1];
    fis[10] = r->high[1];
    fis[12] = r->count[0];
    fis[13] = r->count[1];
}

static void post_d2h(struct ahci_port *p, bool interrupt)
{
    uint8_t fis[20];
    const struct ata_drive_regs *r = p->drive.regs;
    registers(r, fis, FIS_D2H, interrupt ? FIS_INTERRUPT : 0, r->status);
    ahci_set_tfd(p, r->status, r->error);
    ahci_post(p, AHCI_FIS_D2H, fis, sizeof fis);
    if (interrupt)
        p->regs->is |= IS_DHRS;
}

static void post_pio(struct ahci_port *p, bool to_host, bool interrupt, uint8_t e_status, uint32_t bytes)
{
    uint8_t fis[20];
    registers(p->drive.regs, fis, FIS_PIO, (to_host ? FIS_TO_HOST : 0) | (interrupt ? FIS_INTERRUPT : 0), DRDY | DSC | DRQ);
    fis[15] = e_status;
    dp_st16(fis + 16, (uint16_t)bytes);
    ahci_set_tfd(p, e_status, p->drive.regs->error);
    ahci_post(p, AHCI_FIS_PIO, fis, sizeof fis);
    if (interrupt)
        p->regs->is |= IS_PSS;
}

void ahci_announce(struct ahci_port *p)
{
    const struct ata_drive_regs *r = p->drive.regs;
    p->regs->sig = r->count[0] | (uint32_t)r->low[0] << 8 | (uint32_t)r->mid[0] << 16 | (uint32_t)r->high[0] << 24;
    p->regs->announce = !(p->regs->cmd & CMD_FRE);
    post_d2h(p, false);
}

/* ---- the drive's side ---- */

static void abort_command(struct ahci_port *p)
{
    if (p->drive.kind == DRIVE_CDROM)
        atapi_sense(&p->drive, 0x0b, 0, 0); /* aborted command */
    else
        ata_fail(&p->drive, ABRT);
}

static void raise_intrq(struct ata_drive *d) { d->regs->intrq = true; }

static bool dma_ready(struct ata_drive *d)
{
    struct ahci_port *p = ahci_port_of(d);
    return current(p) && (p->regs->cmd & CMD_ST);
}

static enum gather dma_gather(struct ata_drive *d, uint64_t want, bool for_write, uint64_t *size)
{
    struct ahci_port *p = ahci_port_of(d);
    p->before = *current(p);
    p->before_slot = p->regs->current;
    return ahci_gather(p, current(p), want, drive_sector_size(d), for_write, d->pin, DRIVE_PINS, &d->pin_count, size);
}

static bool dma_rewind(struct ata_drive *d)
{
    struct ahci_port *p = ahci_port_of(d);
    if (p->before_slot != p->regs->current || !current(p))
        return false;
    *current(p) = p->before;
    return true;
}

static void dma_failed(struct ata_drive *d, enum gather why)
{
    struct ahci_port *p = ahci_port_of(d);
    if (why == TABLE_BAD) {
        bus_error(p, "a region or the command table", current(p)->table);
    } else {
        dp_trace_guest(ahci_env(p)->trace, "%s: port %u: the command table is shorter than the transfer", p->ahci->device.id, p->n);
        p->regs->is |= IS_OFS;
    }
    abort_command(p);
}

static void dma_buffer(struct ata_drive *d)
{
    struct ahci_port *p = ahci_port_of(d);
    struct ata_drive_regs *r = d->regs;
    enum gather g = move(p, current(p), r->buffer + r->at, r->length - r->at, true);
    if (g == TABLE_BAD) {
        dma_failed(d, g);
        return;
    }
    if (g == TABLE_SHORT)
        p->regs->is |= IS_OFS;
    if (d->kind == DRIVE_CDROM)
        atapi_complete(d);
    else
        drive_complete(d);
}

static void dma_end(struct ata_drive *d) {}

static bool in_reset(struct ata_drive *d)
{
    const struct ahci_port_regs *r = ahci_port_of(d)->regs;
    return r->srst || (r->sctl & 15);
}

static void reset_done(struct ata_drive *d) { ahci_announce(ahci_port_of(d)); }
static void settle_owner(struct dp_device *owner) { ahci_settle(DP_CONTAINER_OF(owner, struct ahci, device)); }

const struct drive_host ahci_host = {
    .raise = raise_intrq,
    .dma_ready = dma_ready,
    .dma_gather = dma_gather,
    .dma_rewind = dma_rewind,
    .dma_failed = dma_failed,
    .dma_buffer = dma_buffer,
    .dma_end = dma_end,
    .in_reset = in_reset,
    .reset_done = reset_done,
    .settle = settle_owner,
};

/* The drive is done: says so. */
static void tell(struct ahci_port *p)
{
    struct ata_drive_regs *r = p->drive.regs;
    struct ahci_slot_regs *s = current(p);
    write_count(p);
    if (s && s->dps && !s->region_left) {
        p->regs->is |= IS_DPS;
        s->dps = false;
    }
    if (s && !(r->status & ERR))
        p->regs->ci &= ~(1u << p->regs->current);
    if (r->intrq)
        post_d2h(p, true);
    if (r->status & ERR) {
        p->regs->is |= IS_TFES;
        p->regs->halted = true;
    }
    r->intrq = false;
    p->regs->busy = false;
    p->regs->current = AHCI_NO_SLOT;
}

static void data_in(struct ahci_port *p)
{
    struct ata_drive_regs *r = p->drive.regs;
    uint32_t n = r->stop - r->at;
    enum gather g = move(p, current(p), r->buffer + r->at, n, true);
    if (g == TABLE_BAD) {
        dma_failed(&p->drive, g);
        return;
    }
    if (g == TABLE_SHORT)
        p->regs->is |= IS_OFS;
    write_count(p);
    r->at = r->stop;
    r->intrq = false;
    drive_block_done(&p->drive);
    bool over = r->phase == PHASE_IDLE && !r->intrq; /* no Device to Host FIS follows: this one tells the end */
    post_pio(p, true, true, over ? r->status : BSY | DRDY, n);
}

static void data_out(struct ahci_port *p)
{
    struct ata_drive_regs *r = p->drive.regs;
    uint32_t n = r->stop - r->at;
    enum gather g = GATHERED;
    if (r->phase == PHASE_PACKET) {
        if (!ahci_load(p, current(p)->table + ACMD_OFFSET, r->buffer + r->at, n))
            g = TABLE_BAD;
    } else if ((g = move(p, current(p), r->buffer + r->at, n, false)) == TABLE_SHORT && p->drive.kind == DRIVE_CDROM) {
        g = GATHERED; /* a parameter list: what is missing means nothing */
    }
    if (g != GATHERED) {
        dma_failed(&p->drive, g);
        return;
    }
    post_pio(p, false, false, BSY | DRDY, n);
    write_count(p);
    r->at = r->stop;
    r->intrq = false;
    drive_block_done(&p->drive);
}

/* Does what the drive waits for; false: it waits for nothing of the port's. */
static bool serve(struct ahci_port *p)
{
    const struct ata_drive_regs *r = p->drive.regs;
    if (p->drive.in_flight || !p->regs->busy)
        return false;
    switch (r->phase) {
    case PHASE_IDLE: tell(p); return true;
    case PHASE_IN:
        if (!current(p))
            return false;
        data_in(p);
        return true;
    case PHASE_OUT: case PHASE_PACKET:
        if (!current(p))
            return false;
        data_out(p);
        return true;
    default: return false;
    }
}

/* ---- the command list ---- */

bool ahci_stale(const struct ahci_port *p)
{
    for (unsigned i = 0; p->slot && i < AHCI_SLOTS; i++)
        if (p->slot[i].in_flight && p->slot[i].stale)
            return true;
    return p->drive.in_flight && p->regs->current == AHCI_NO_SLOT;
}

void ahci_stop(struct ahci_port *p)
{
    ahci_queue_drop(p);
    p->regs->ci = p->regs->sact = 0;
    p->regs->halted = false;
    p->regs->current = AHCI_NO_SLOT;
    p->regs->cmd |= CMD_CCS_NONE;
}

void ahci_reset_device(struct ahci_port *p)
{
    ahci_queue_drop(p);
    p->regs->busy = p->regs->announce = false;
    p->regs->current = AHCI_NO_SLOT;
    if (!p->drive.kind)
        return;
    drive_reset(&p->drive);
    p->drive.regs->intrq = false;
    p->drive.regs->log_valid = false;
}

/* A FIS that writes the device control register: software reset. */
static void take_control(struct ahci_port *p, uint8_t control)
{
    bool was = p->regs->srst;
    p->regs->srst = control & SRST;
    if (p->regs->srst && !was) {
        ahci_reset_device(p);
        ahci_set_tfd(p, DRDY, 0); /* the second FIS is to be sent */
    } else if (!p->regs->srst && was) {
        ahci_set_tfd(p, BSY, 0);
    }
}

static void take_command(struct ahci_port *p, unsigned slot, const uint8_t *fis)
{
    struct ata_drive_regs *r = p->drive.regs;
    p->regs->current = (uint8_t)slot;
    p->regs->busy = true;
    ahci_set_tfd(p, BSY, 0);
    r->feature[0] = fis[3];
    r->feature[1] = fis[11];
    r->low[0] = fis[4];
    r->low[1] = fis[8];
    r->mid[0] = fis[5];
    r->mid[1] = fis[9];
    r->high[0] = fis[6];
    r->high[1] = fis[10];
    r->count[0] = fis[12];
    r->count[1] = fis[13];
    r->device = fis[7];
    r->intrq = false;
    if (fis[2] == CMD_DIAGNOSTIC || (fis[2] == CMD_DEVICE_RESET && p->drive.kind == DRIVE_CDROM)) {
        drive_signature(&p->drive);
        r->command = fis[2];
        r->intrq = true;
        return;
    }
    drive_command(&p->drive, fis[2]);
}

/* Slots are served in turn, beginning after the one that was last. */
static unsigned choose(const struct ahci_port *p)
{
    unsigned last = CMD_CCS(p->regs->cmd);
    for (unsigned i = 1; i <= AHCI_SLOTS; i++)
        if (p->regs->ci >> ((last + i) % AHCI_SLOTS) & 1)
            return (last + i) % AHCI_SLOTS;
    return AHCI_NO_SLOT;
}

/* Takes the next command of the list, if there is one and it may be. */
static bool take(struct ahci_port *p)
{
    struct ahci_port_regs *r = p->regs;
    uint8_t header[HEADER_SIZE], fis[CFIS_SIZE];
    unsigned slot = choose(p);
    if (slot == AHCI_NO_SLOT || !(r->cmd & CMD_ST) || r->halted || (r->tfd & (BSY | DRQ)) || ahci_stale(p))
        return false;
    uint64_t at = r->clb + slot * HEADER_SIZE, table = 0;
    bool ok = ahci_load(p, at, header, sizeof header);
    if (ok) {
        table = dp_ld64(header + 8) & ~0x7full;
        ok = ahci_load(p, table, fis, sizeof fis);
        at = table;
    }
    if (!ok) {
        bus_error(p, "the command list or a table", at);
        r->halted = true;
        return true;
    }
    uint32_t flags = dp_ld32(header);
    if (fis[0] != FIS_H2D || (flags & 31) * 4 < H2D_SIZE) {
        dp_trace_guest(ahci_env(p)->trace, "%s: port %u: slot %u has a FIS 0x%02x of %u bytes, not a register one", p->ahci->device.id,
                       p->n, slot, fis[0], (flags & 31) * 4);
        r->is |= IS_IFS;
        r->halted = true;
        return true;
    }
    bool command = fis[1] & FIS_COMMAND, queued = command && (fis[2] == CMD_READ_QUEUED || fis[2] == CMD_WRITE_QUEUED) && p->slot;
    if (command && (r->busy || p->drive.regs->phase != PHASE_IDLE || (!queued && !ahci_queue_empty(p))))
        return false; /* when the others are done */
    r->cmd = (r->cmd & ~CMD_CCS_NONE) | slot << 8;
    if (!command) {
        r->ci &= ~(1u << slot);
        take_control(p, fis[15]);
        return true;
    }
    r->slot[slot] = (struct ahci_slot_regs){.table = table, .prd_count = flags >> 16};
    if (queued)
        ahci_queue_take(p, slot, fis);
    else
        take_command(p, slot, fis);
    return true;
}

struct dp_block_request *ahci_next(struct ahci_port *p, struct dp_block **block)
{
    const struct ahci *a = p->ahci;
    *block = p->drive.block;
    if (!a->running || !p->drive.kind || p->drive.changing || !(dp_ld16(a->regs.pci.config + DP_PCI_COMMAND) & DP_PCI_COMMAND_MASTER))
        return NULL;
    for (;;) {
        if (drive_step(&p->drive))
            return &p->drive.io;
        if (serve(p))
            continue;
        struct dp_block_request *queued = ahci_queue_next(p);
        if (queued)
            return queued;
        if (!take(p))
            return NULL;
    }
}
