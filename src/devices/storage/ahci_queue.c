/* ahci_queue.c - queued commands (NCQ) of disks; model in ahci_internal.h.
 *
 * A command that is accepted leaves the list (PxCI) with a Device to Host FIS and stays in PxSACT until its data are moved, which a Set
 * Device Bits FIS
 * says. Each slot has a request of its own; a write that must be on the medium is followed by a flush. The first that fails ends all: the
 * drive's log
 * tells which one, the port is halted, and the rest of PxSACT shows what is to be repeated.
 * Source: Serial ATA 2.6 13.6; AHCI 1.3.1 5.6.4 (native queued commands), 6.2.2.2 (error recovery).
 */
#include <sched.h>

#include "devices/storage/ahci_internal.h"

enum { FIS_SDB = 0xa1, FIS_D2H = 0x34, FIS_INTERRUPT = 0x40, SDB_STATUS = 0x77, READ_QUEUED = 0x60, WRITE_QUEUED = 0x61, FUA = 0x80 };

bool ahci_queue_empty(const struct ahci_port *p)
{
    for (unsigned i = 0; i < AHCI_SLOTS; i++)
        if (p->regs->slot[i].phase != SLOT_FREE)
            return false;
    return true;
}

void ahci_queue_drop(struct ahci_port *p)
{
    for (unsigned i = 0; i < AHCI_SLOTS; i++) {
        p->regs->slot[i].phase = SLOT_FREE;
        if (p->slot)
            p->slot[i].stale = p->slot[i].in_flight;
    }
}

static void post_sdb(struct ahci_port *p, uint8_t status, uint8_t error, uint32_t done)
{
    uint8_t fis[8] = {FIS_SDB, FIS_INTERRUPT, status & SDB_STATUS, error};
    dp_st32(fis + 4, done);
    ahci_post(p, AHCI_FIS_SDB, fis, sizeof fis);
    p->regs->tfd = (p->regs->tfd & (BSY | DRQ)) | (status & SDB_STATUS) | (uint32_t)error << 8;
    p->regs->sact &= ~done;
    p->regs->is |= IS_SDBS;
}

static void fail(struct ahci_port *p, unsigned slot, uint8_t status, uint8_t error)
{
    struct ata_drive_regs *r = p->drive.regs;
    const struct ahci_slot_regs *s = &p->regs->slot[slot];
    r->log_valid = true;
    r->log_tag = (uint8_t)slot;
    r->log_status = status;
    r->log_error = error;
    r->log_lba = s->lba;
    r->log_count = s->count;
    ahci_queue_drop(p);
    post_sdb(p, status, error, 0);
    p->regs->is |= IS_TFES;
    p->regs->halted = true;
}

static void complete(struct ahci_port *p, unsigned slot)
{
    struct ahci_slot_regs *s = &p->regs->slot[slot];
    if (s->dps)
        p->regs->is |= IS_DPS;
    s->dps = false;
    s->phase = SLOT_FREE;
    post_sdb(p, DRDY | DSC, 0, 1u << slot);
}

void ahci_queue_take(struct ahci_port *p, unsigned slot, const uint8_t *fis)
{
    struct ahci_slot_regs *s = &p->regs->slot[slot];
    uint64_t capacity = drive_capacity(&p->drive);
    s->write = fis[2] == WRITE_QUEUED;
    s->fua = fis[7] & FUA;
    s->count = fis[3] | (uint16_t)fis[11] << 8;
    s->sectors = s->count ? s->count : 0x10000;
    s->lba = dp_ld32(fis + 4) & 0xffffff;
    s->lba |= (uint64_t)(dp_ld32(fis + 8) & 0xffffff) << 24;
    p->drive.regs->log_valid = false;
    if (fis[12] >> 3 != slot || !(p->regs->sact >> slot & 1)) {
        dp_trace_guest(ahci_env(p)->trace, "%s: port %u: the queued command in slot %u has tag %u and %s in PxSACT", p->ahci->device.id,
                       p->n, slot, fis[12] >> 3, p->regs->sact >> slot & 1 ? "is" : "is not");
        fail(p, slot, DRDY | DSC | ERR, ABRT);
    } else if (s->lba >= capacity || s->sectors > capacity - s->lba) {
        dp_trace_guest(ahci_env(p)->trace, "%s: port %u: a queued command beyond the end of the disk", p->ahci->device.id, p->n);
        fail(p, slot, DRDY | DSC | ERR, IDNF);
    } else if (s->write && dp_block_readonly(p->drive.block)) {
        fail(p, slot, DRDY | DSC | ERR, ABRT | WP);
    } else {
        uint8_t d2h[20] = {FIS_D2H, 0, DRDY | DSC};
        s->phase = SLOT_MOVE;
        p->regs->ci &= ~(1u << slot);
        ahci_set_tfd(p, DRDY | DSC, 0);
        ahci_post(p, AHCI_FIS_D2H, d2h, sizeof d2h);
    }
}

/* ---- requests ---- */

static void io_failed(struct ahci_slot *slot)
{
    struct ahci_slot_regs *s = &slot->port->regs->slot[slot->n];
    if (slot->io.op == DP_BLOCK_READ)
        fail(slot->port, slot->n, DRDY | DSC | ERR, UNC);
    else
        fail(slot->port, slot->n, DRDY | DF | ERR, s->phase == SLOT_FLUSH || s->write ? ABRT : UNC);
}

static void io_done(struct dp_block_request *io, int result)
{
    struct ahci_slot *slot = DP_CONTAINER_OF(io, struct ahci_slot, io);
    struct ahci_port *p = slot->port;
    struct ahci *a = p->ahci;
    struct ahci_slot_regs *s = &p->regs->slot[slot->n];
    for (unsigned i = 0; i < slot->pin_count; i++)
        dp_space_unpin(a->device.env->memory, &slot->pin[i], io->op == DP_BLOCK_READ ? slot->pin[i].size : 0);
    slot->pin_count = 0;
    pthread_mutex_lock(&a->device.lock);
    bool stale = slot->stale || s->phase == SLOT_FREE;
    slot->in_flight = slot->stale = false;
    if (stale) {
        /* its command is no more */
    } else if (result && slot->io_sectors > 1 && !s->careful) {
        *s = slot->before;
        s->careful = true;
    } else if (result) {
        io_failed(slot);
    } else if (s->phase == SLOT_FLUSH) {
        complete(p, slot->n);
    } else {
        s->lba += slot->io_sectors;
        s->sectors -= DP_MIN(slot->io_sectors, s->sectors);
        if (!s->sectors && s->write && (s->fua || !p->drive.regs->write_cache))
            s->phase = SLOT_FLUSH;
        else if (!s->sectors)
            complete(p, slot->n);
    }
    pthread_mutex_unlock(&a->device.lock);
    ahci_settle(a);
}

/* False: the command has failed. */
static bool start(struct ahci_slot *slot)
{
    struct ahci_port *p = slot->port;
    struct ahci_slot_regs *s = &p->regs->slot[slot->n];
    uint64_t capacity = drive_capacity(&p->drive), size = 0;
    slot->io = (struct dp_block_request){.op = DP_BLOCK_FLUSH, .done = io_done};
    slot->io_sectors = 0;
    slot->pin_count = 0;
    if (s->phase == SLOT_MOVE) {
        if (!s->sectors || s->lba > capacity || s->sectors > capacity - s->lba || (s->write && dp_block_readonly(p->drive.block))) {
            fail(p, slot->n, DRDY | DSC | ERR, IDNF); /* only a strange loaded state has that */
            return false;
        }
        uint64_t want = s->careful ? DRIVE_SECTOR : DP_MIN((uint64_t)s->sectors * DRIVE_SECTOR, (uint64_t)DRIVE_DMA_MAX);
        slot->before = *s;
        enum gather g = ahci_gather(p, s, want, DRIVE_SECTOR, !s->write, slot->pin, AHCI_SLOT_PINS, &slot->pin_count, &size);
        if (g != GATHERED) {
            dp_trace_guest(ahci_env(p)->trace, "%s: port %u: the table of slot %u %s", p->ahci->device.id, p->n, slot->n,
                           g == TABLE_SHORT ? "is shorter than the transfer" : "leads to what is no RAM");
            p->regs->is |= g == TABLE_SHORT ? IS_OFS : IS_HBFS;
            fail(p, slot->n, DRDY | DSC | ERR, ABRT);
            return false;
        }
        slot->io.op = s->write ? DP_BLOCK_WRITE : DP_BLOCK_READ;
        slot->io.offset = s->lba * DRIVE_SECTOR;
        slot->io.size = size;
        slot->io.iov = slot->iov;
        slot->io.iov_count = slot->pin_count;
        slot->io_sectors = (uint32_t)(size / DRIVE_SECTOR);
        for (unsigned i = 0; i < slot->pin_count; i++)
            slot->iov[i] = (struct iovec){slot->pin[i].host, slot->pin[i].size};
    }
    DP_TRACE(ahci_env(p)->trace, DP_TRACE_BLOCK, "%s: port %u: slot %u: request %d, %u sectors at %llu", p->ahci->device.id, p->n, slot->n,
             slot->io.op, slot->io_sectors, (unsigned long long)s->lba);
    slot->in_flight = true;
    return true;
}

struct dp_block_request *ahci_queue_next(struct ahci_port *p)
{
    for (unsigned i = 0; p->slot && i < AHCI_SLOTS; i++)
        if (p->regs->slot[i].phase != SLOT_FREE && !p->slot[i].in_flight && start(&p->slot[i]))
            return &p->slot[i].io;
    return NULL;
}

void ahci_queue_drain(struct ahci_port *p)
{
    for (bool again = p->slot; again;) {
        dp_block_drain(p->drive.block);
        again = false;
        pthread_mutex_lock(&p->ahci->device.lock);
        for (unsigned i = 0; i < AHCI_SLOTS; i++)
            again |= p->slot[i].in_flight; /* a request may be on its way to the block layer */
        pthread_mutex_unlock(&p->ahci->device.lock);
        if (again)
            sched_yield();
    }
}
