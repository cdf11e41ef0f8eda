/* ahci.c - the registers, interrupts and life of the AHCI controller; model and sources in ahci.h and ahci_internal.h.
 *
 * Locks and calls out: registers change under the device's lock; ahci_settle(), called at the end of every entry without it, submits what
 * the ports
 * have to submit and drives INTx or sends the message. IS latches a port's bit as long as the port has an enabled event; a message is due
 * whenever a
 * bit of it appears, and again when software clears bits and some remain or come back.
 */
#include <stdlib.h>

#include "devices/storage/ahci_internal.h"

enum { CAP = 0x00, GHC = 0x04, IS = 0x08, PI = 0x0c, VS = 0x10, PORTS = 0x100, PORT_SIZE = 0x80, WINDOW_SIZE = 0x1000 };
enum { PX_CLB = 0x00, PX_CLBU = 0x04, PX_FB = 0x08, PX_FBU = 0x0c, PX_IS = 0x10, PX_IE = 0x14, PX_CMD = 0x18, PX_TFD = 0x20, PX_SIG = 0x24,
       PX_SSTS = 0x28, PX_SCTL = 0x2c, PX_SERR = 0x30, PX_SACT = 0x34, PX_CI = 0x38 };
#define CAP_VALUE ((DP_AHCI_PORTS - 1) | 31u << 8 /* NCS */ | 1u << 15 /* PMD */ | 1u << 18 /* SAM */ | 2u << 20 /* ISS: 3 Gb/s */ | \
                   1u << 24 /* SCLO */ | 1u << 30 /* SNCQ */ | 1u << 31 /* S64A */)
#define GHC_HR (1u << 0)
#define GHC_IE (1u << 1)
#define GHC_AE (1u << 31)
#define VERSION 0x00010300u
#define CMD_FIXED 0x00000006u /* SUD, POD */
#define CMD_CLO (1u << 3)
#define CMD_FR (1u << 14)
#define CMD_CR (1u << 15)
#define CMD_WRITABLE 0x03000011u /* DLAE, ATAPI, FRE, ST */
#define IE_MASK 0xfdc000ffu
#define IS_WRITABLE (IE_MASK & ~(IS_PCS | IS_PRCS))
#define SCTL_MASK 0x00000fffu
#define SERR_MASK 0x07ff0f03u
#define SERR_N (1u << 16)
#define SERR_X (1u << 26)
#define NO_SIGNATURE 0xffffffffu
#define TFD_NO_DEVICE 0x7fu
enum { DET_OFFLINE = 4 };
/* Configuration registers of the ICH9: mode (AHCI), ports that are enabled. */
enum { PCI_MAP = 0x90, PCI_MAP_AHCI = 0x40, PCI_PCS = 0x92 };

/* ---- state ---- */

static const struct dp_field slot_fields[] = {
    DP_FIELD_U64(struct ahci_slot_regs, table, 1, 0, ~0x7full),
    DP_FIELD_U64(struct ahci_slot_regs, region, 2, 0, 0),
    DP_FIELD_U32(struct ahci_slot_regs, region_left, 3, 0, AHCI_REGION_MAX * 2 - 1),
    DP_FIELD_U32(struct ahci_slot_regs, prd_next, 4, 0, 0xffff),
    DP_FIELD_U32(struct ahci_slot_regs, prd_count, 5, 0, 0xffff),
    DP_FIELD_U32(struct ahci_slot_regs, done, 6, 0, 0),
    DP_FIELD_U64(struct ahci_slot_regs, lba, 7, 0, (1ull << 48) - 1),
    DP_FIELD_U32(struct ahci_slot_regs, sectors, 8, 0, 0x1ffff),
    DP_FIELD_U16(struct ahci_slot_regs, count, 9, 0, 0),
    DP_FIELD_U8(struct ahci_slot_regs, phase, 10, 0, 3),
    DP_FIELD_BOOL(struct ahci_slot_regs, write, 11, false),
    DP_FIELD_BOOL(struct ahci_slot_regs, fua, 12, false),
    DP_FIELD_BOOL(struct ahci_slot_regs, careful, 13, false),
    DP_FIELD_BOOL(struct ahci_slot_regs, dps, 14, false),
};
static const struct dp_state_table slot_table = DP_STATE_TABLE(struct ahci_slot_regs, "ahci-slot", slot_fields);

static const struct dp_field port_fields[] = {
    DP_FIELD_U64(struct ahci_port_regs, clb, 1, 0, ~0x3ffull),
    DP_FIELD_U64(struct ahci_port_regs, fb, 2, 0, ~0xffull),
    DP_FIELD_U32(struct ahci_port_regs, is, 3, 0, IS_WRITABLE),
    DP_FIELD_U32(struct ahci_port_regs, ie, 4, 0, IE_MASK),
    DP_FIELD_U32(struct ahci_port_regs, cmd, 5, CMD_CCS_NONE, CMD_WRITABLE | CMD_CCS_NONE),
    DP_FIELD_U32(struct ahci_port_regs, tfd, 6, TFD_NO_DEVICE, 0xffff),
    DP_FIELD_U32(struct ahci_port_regs, sig, 7, NO_SIGNATURE, 0),
    DP_FIELD_U32(struct ahci_port_regs, ssts, 8, 0, 0xfff),
    DP_FIELD_U32(struct ahci_port_regs, sctl, 9, 0, SCTL_MASK),
    DP_FIELD_U32(struct ahci_port_regs, serr, 10, 0, SERR_MASK),
    DP_FIELD_U32(struct ahci_port_regs, sact, 11, 0, 0),
    DP_FIELD_U32(struct ahci_port_regs, ci, 12, 0, 0),
    DP_FIELD_U8(struct ahci_port_regs, current, 13, AHCI_NO_SLOT, 0x3f),
    DP_FIELD_BOOL(struct ahci_port_regs, busy, 14, false),
    DP_FIELD_BOOL(struct ahci_port_regs, halted, 15, false),
    DP_FIELD_BOOL(struct ahci_port_regs, srst, 16, false),
    DP_FIELD_BOOL(struct ahci_port_regs, announce, 17, false),
    DP_FIELD_STRUCTS(struct ahci_port_regs, slot, 18, &slot_table),
};
static const struct dp_state_table port_table = DP_STATE_TABLE(struct ahci_port_regs, "ahci-port", port_fields);

static const struct dp_field ahci_fields[] = {
    DP_FIELD_STRUCT(struct ahci_regs, pci, 1, &dp_pci_regs_table),
    DP_FIELD_U32(struct ahci_regs, ghc, 2, 0, GHC_IE),
    DP_FIELD_U32(struct ahci_regs, is, 3, 0, (1u << DP_AHCI_PORTS) - 1),
    DP_FIELD_STRUCTS(struct ahci_regs, port, 4, &port_table),
    DP_FIELD_STRUCTS(struct ahci_regs, drive, 5, &drive_table),
};

/* A table's load calls its own check only. */
static int ahci_check(const void *regs, struct dp_error *e)
{
    const struct ahci_regs *r = regs;
    for (unsigned i = 0; i < DP_AHCI_PORTS; i++) {
        int code = drive_check(&r->drive[i], e);
        if (code)
            return code;
        bool ok = r->port[i].current <= AHCI_NO_SLOT;
        for (unsigned n = 0; n < AHCI_SLOTS; n++)
            ok &= r->port[i].slot[n].phase < SLOT_PHASES && r->port[i].slot[n].region_left <= AHCI_REGION_MAX;
        if (!ok)
            return dp_error_set(e, -EINVAL, "ahci: port %u is at a command that cannot be", i);
    }
    return 0;
}

static void ahci_clamp(void *regs)
{
    struct ahci_regs *r = regs;
    for (unsigned i = 0; i < DP_AHCI_PORTS; i++) {
        drive_clamp(&r->drive[i]);
        r->port[i].current %= AHCI_NO_SLOT + 1;
        for (unsigned n = 0; n < AHCI_SLOTS; n++) {
            r->port[i].slot[n].phase %= SLOT_PHASES;
            r->port[i].slot[n].region_left %= AHCI_REGION_MAX + 1;
        }
    }
}

static const struct dp_state_table ahci_table =
    DP_STATE_TABLE(struct ahci_regs, "ahci", ahci_fields, .check = ahci_check, .clamp = ahci_clamp);

static struct ahci *ahci_of(struct dp_device *d) { return DP_CONTAINER_OF(d, struct ahci, device); }

/* ---- interrupts ---- */

/* PxIS: two of its bits show PxSERR. */
static uint32_t port_is(const struct ahci_port_regs *r)
{
    return r->is | (r->serr & SERR_X ? IS_PCS : 0) | (r->serr & SERR_N ? IS_PRCS : 0);
}

/* Lock held: latches ports' events. */
static void latch(struct ahci *a)
{
    uint32_t is = a->regs.is;
    for (unsigned i = 0; i < DP_AHCI_PORTS; i++)
        if (port_is(&a->regs.port[i]) & a->regs.port[i].ie)
            is |= 1u << i;
    a->msi_due |= is & ~a->regs.is;
    a->regs.is = is;
    a->irq_generation++;
}

/* No lock held. */
static void irq_sync(struct ahci *a)
{
    pthread_mutex_lock(&a->device.lock);
    uint32_t generation = a->irq_generation - 1;
    while (a->running && generation != a->irq_generation) {
        bool level = (a->regs.ghc & GHC_IE) && a->regs.is, message = level && a->msi_due;
        if (a->irq_busy && level)
            break;
        if (a->irq_busy) { /* or the guest, which has taken the cause away, sees the line up until the other thread runs */
            pthread_cond_wait(&a->irq_idle, &a->device.lock);
            continue;
        }
        generation = a->irq_generation;
        if (message)
            a->msi_due = false;
        if (!message && level == a->irq_driven)
            continue;
        a->irq_driven = level;
        a->irq_busy = true;
        pthread_mutex_unlock(&a->device.lock);
        dp_pci_intx(&a->function, level);
        if (message)
            dp_pci_msi_send(&a->function);
        pthread_mutex_lock(&a->device.lock);
        a->irq_busy = false;
        pthread_cond_broadcast(&a->irq_idle);
    }
    pthread_mutex_unlock(&a->device.lock);
}

void ahci_settle(struct ahci *a)
{
    for (unsigned i = 0; i < DP_AHCI_PORTS; i++) {
        struct ahci_port *p = &a->port[i];
        for (;;) {
            struct dp_block *block;
            pthread_mutex_lock(&a->device.lock);
            struct dp_block_request *request = ahci_next(p, &block);
            if (!request && a->running)
                latch(a);
            pthread_mutex_unlock(&a->device.lock);
            if (!request)
                break;
            dp_block_submit(block, request);
        }
    }
    irq_sync(a);
}

/* ---- ports; lock held ---- */

/* What the link says when nothing holds it down. */
static void link_up(struct ahci_port *p)
{
    struct ahci_port_regs *r = p->regs;
    unsigned limit = r->sctl >> 4 & 15;
    r->ssts = p->drive.kind ? 0x103 | (limit == 1 ? 1 : 2) << 4 : 0;
    if (p->drive.kind)
        r->serr |= SERR_X | SERR_N;
}

static void port_reset(struct ahci_port *p)
{
    struct ahci_port_regs *r = p->regs;
    ahci_stop(p);
    ahci_reset_device(p);
    r->srst = false;
    r->sig = NO_SIGNATURE;
    r->tfd = p->drive.kind ? BSY | TFD_NO_DEVICE : TFD_NO_DEVICE;
}

static void write_sctl(struct ahci_port *p, uint32_t value)
{
    struct ahci_port_regs *r = p->regs;
    unsigned was = r->sctl & 15, now = value & 15;
    r->sctl = value & SCTL_MASK;
    if (now == was)
        return;
    port_reset(p);
    if (!now)
        link_up(p);
    else
        r->ssts = now == DET_OFFLINE ? DET_OFFLINE : 0;
}

static void write_cmd(struct ahci_port *p, uint32_t value)
{
    struct ahci_port_regs *r = p->regs;
    uint32_t was = r->cmd;
    r->cmd = (was & ~CMD_WRITABLE) | (value & CMD_WRITABLE);
    if (value & CMD_CLO)
        r->tfd &= ~(uint32_t)(BSY | DRQ);
    if (was & ~r->cmd & CMD_ST)
        ahci_stop(p);
    if (r->cmd & ~was & CMD_FRE && r->announce)
        ahci_announce(p);
}

static uint32_t port_read(const struct ahci_port *p, unsigned reg)
{
    const struct ahci_port_regs *r = p->regs;
    switch (reg) {
    case PX_CLB: return (uint32_t)r->clb;
    case PX_CLBU: return (uint32_t)(r->clb >> 32);
    case PX_FB: return (uint32_t)r->fb;
    case PX_FBU: return (uint32_t)(r->fb >> 32);
    case PX_IS: return port_is(r);
    case PX_IE: return r->ie;
    case PX_CMD:
        return (r->cmd & (r->cmd & CMD_ST ? ~0u : ~CMD_CCS_NONE)) | CMD_FIXED | (r->cmd & CMD_FRE ? CMD_FR : 0) |
               (r->cmd & CMD_ST || ahci_stale(p) ? CMD_CR : 0);
    case PX_TFD: return r->tfd;
    case PX_SIG: return r->sig;
    case PX_SSTS: return r->ssts;
    case PX_SCTL: return r->sctl;
    case PX_SERR: return r->serr;
    case PX_SACT: return r->sact;
    case PX_CI: return r->ci;
    default: return 0;
    }
}

static void port_write(struct ahci_port *p, unsigned reg, uint32_t value)
{
    struct ahci_port_regs *r = p->regs;
    switch (reg) {
    case PX_CLB: r->clb = (r->clb & ~0xffffffffull) | (value & ~0x3ffu); break;
    case PX_CLBU: r->clb = (uint32_t)r->clb | (uint64_t)value << 32; break;
    case PX_FB: r->fb = (r->fb & ~0xffffffffull) | (value & ~0xffu); break;
    case PX_FBU: r->fb = (uint32_t)r->fb | (uint64_t)value << 32; break;
    case PX_IS: r->is &= ~value; break;
    case PX_IE: r->ie = value & IE_MASK; break;
    case PX_CMD: write_cmd(p, value); break;
    case PX_SCTL: write_sctl(p, value); break;
    case PX_SERR: r->serr &= ~value; break;
    case PX_SACT: r->sact |= r->cmd & CMD_ST ? value : 0; break;
    case PX_CI: r->ci |= r->cmd & CMD_ST ? value : 0; break;
    default: break;
    }
}

/* GHC.HR: all but where the lists are. */
static void hba_reset(struct ahci *a)
{
    a->regs.ghc = a->regs.is = 0;
    for (unsigned i = 0; i < DP_AHCI_PORTS; i++) {
        struct ahci_port_regs *r = a->port[i].regs;
        r->ie = r->is = r->serr = r->sctl = 0;
        r->cmd = CMD_CCS_NONE;
        port_reset(&a->port[i]);
        link_up(&a->port[i]);
    }
}

/* ---- the window; no lock held ---- */

static uint64_t window_read(void *opaque, uint64_t offset, unsigned size)
{
    struct ahci *a = opaque;
    uint32_t value = 0;
    pthread_mutex_lock(&a->device.lock);
    if (offset >= PORTS && offset < PORTS + DP_AHCI_PORTS * PORT_SIZE)
        value = port_read(&a->port[(offset - PORTS) / PORT_SIZE], offset % PORT_SIZE);
    else if (offset == CAP)
        value = CAP_VALUE;
    else if (offset == GHC)
        value = a->regs.ghc | GHC_AE;
    else if (offset == IS)
        value = a->regs.is;
    else if (offset == PI)
        value = (1u << DP_AHCI_PORTS) - 1;
    else if (offset == VS)
        value = VERSION;
    pthread_mutex_unlock(&a->device.lock);
    return value;
}

static void window_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct ahci *a = opaque;
    pthread_mutex_lock(&a->device.lock);
    if (offset >= PORTS && offset < PORTS + DP_AHCI_PORTS * PORT_SIZE) {
        port_write(&a->port[(offset - PORTS) / PORT_SIZE], offset % PORT_SIZE, (uint32_t)value);
    } else if (offset == GHC && (value & GHC_HR)) {
        hba_reset(a);
    } else if (offset == GHC) {
        a->msi_due |= value & ~a->regs.ghc & GHC_IE;
        a->regs.ghc = value & GHC_IE;
    } else if (offset == IS) {
        a->regs.is &= ~(uint32_t)value;
        a->msi_due |= a->regs.is != 0;
    }
    pthread_mutex_unlock(&a->device.lock);
    ahci_settle(a);
}

static const struct dp_window_ops ahci_ops = {"ahci", window_read, window_write, 4, 4};
static const struct dp_window_spec ahci_windows[] = {[DP_AHCI_WINDOW] = {"registers", WINDOW_SIZE, &ahci_ops, false}};

/* ---- life ---- */

static void config_changed(struct dp_pci_function *f)
{
    struct ahci *a = DP_CONTAINER_OF(f, struct ahci, function);
    pthread_mutex_lock(&a->device.lock);
    a->msi_due |= a->regs.is != 0; /* MSI may be on now */
    pthread_mutex_unlock(&a->device.lock);
    ahci_settle(a);
}

static void release(struct ahci *a)
{
    for (unsigned i = 0; i < DP_AHCI_PORTS; i++) {
        drive_fini(&a->port[i].drive);
        free(a->port[i].slot);
        a->port[i].slot = NULL;
    }
}

static int port_init(struct ahci *a, unsigned n, struct dp_error *e)
{
    struct ahci_port *p = &a->port[n];
    struct ata_drive *d = &p->drive;
    p->ahci = a;
    p->n = n;
    p->regs = &a->regs.port[n];
    d->host = &ahci_host;
    d->owner = &a->device;
    d->running = &a->running;
    d->regs = &a->regs.drive[n];
    d->n = n;
    d->sata = true;
    int code = drive_init(d, e);
    if (code || d->kind != DRIVE_DISK)
        return code;
    if (!(p->slot = calloc(AHCI_SLOTS, sizeof *p->slot)))
        return dp_error_set(e, -ENOMEM, "out of memory");
    for (unsigned i = 0; i < AHCI_SLOTS; i++) {
        p->slot[i].port = p;
        p->slot[i].n = i;
    }
    return 0;
}

static int ahci_init(struct dp_device *device, struct dp_error *e)
{
    struct ahci *a = ahci_of(device);
    pthread_cond_init(&a->irq_idle, NULL);
    for (unsigned i = 0; i < DP_AHCI_PORTS; i++) {
        int code = port_init(a, i, e);
        if (code) {
            release(a);
            return code;
        }
    }
    const struct dp_pci_id id = {.vendor = 0x8086, .device = 0x2922, .revision = 2, .class_code = 0x010601, .subsystem_vendor = 0x1af4,
                                 .subsystem = 0x1100, .interrupt_pin = 1};
    dp_pci_function_init(&a->function, &a->regs.pci, &id, device->env, &device->lock);
    dp_pci_add_bar(&a->function, DP_AHCI_BAR, WINDOW_SIZE, false, false, &ahci_ops, a);
    dp_pci_add_msi(&a->function);
    dp_pci_set_config(&a->function, PCI_MAP, PCI_MAP_AHCI, 1);
    dp_pci_set_config(&a->function, PCI_PCS, (1u << DP_AHCI_PORTS) - 1, 1);
    a->function.config_changed = config_changed;
    return 0;
}

/* No lock held: nothing new is started. */
static void drain(struct ahci *a)
{
    for (unsigned i = 0; i < DP_AHCI_PORTS; i++) {
        drive_drain(&a->port[i].drive);
        ahci_queue_drain(&a->port[i]);
    }
}

static void ahci_pause(struct dp_device *device)
{
    struct ahci *a = ahci_of(device);
    pthread_mutex_lock(&device->lock);
    a->running = false;
    pthread_mutex_unlock(&device->lock);
    drain(a);
}

static void ahci_resume(struct dp_device *device)
{
    struct ahci *a = ahci_of(device);
    pthread_mutex_lock(&device->lock);
    a->running = true;
    pthread_mutex_unlock(&device->lock);
    ahci_settle(a);
}

static void ahci_fini(struct dp_device *device)
{
    struct ahci *a = ahci_of(device);
    dp_pci_unplug(&a->function);
    ahci_pause(device); /* nothing may come back to us after this */
    release(a);
    pthread_cond_destroy(&a->irq_idle);
}

static void ahci_reset(struct dp_device *device)
{
    struct ahci *a = ahci_of(device);
    pthread_mutex_lock(&device->lock);
    bool running = a->running;
    a->running = false; /* what comes back meanwhile starts nothing */
    for (unsigned i = 0; i < DP_AHCI_PORTS; i++) {
        a->port[i].drive.stale = a->port[i].drive.in_flight;
        ahci_queue_drop(&a->port[i]);
    }
    pthread_mutex_unlock(&device->lock);
    drain(a);
    pthread_mutex_lock(&device->lock);
    dp_state_reset(&ahci_table, &a->regs);
    for (unsigned i = 0; i < DP_AHCI_PORTS; i++) {
        drive_power_on(&a->port[i].drive);
        link_up(&a->port[i]);
        if (a->port[i].drive.kind)
            ahci_announce(&a->port[i]);
    }
    a->irq_driven = a->msi_due = false;
    a->running = running;
    pthread_mutex_unlock(&device->lock);
    dp_pci_function_reset(&a->function);
}

static void ahci_post_load(struct dp_device *device)
{
    struct ahci *a = ahci_of(device);
    pthread_mutex_lock(&device->lock);
    a->irq_driven = a->regs.pci.intx;
    a->msi_due = a->regs.is != 0;
    pthread_mutex_unlock(&device->lock);
    dp_pci_function_post_load(&a->function);
    ahci_settle(a);
}

const struct dp_device_class dp_ahci_class = {
    .name = "ahci",
    .summary = "SATA controller (ICH9, AHCI) with disks and CD-ROM drives",
    .size = sizeof(struct ahci),
    .regs_offset = offsetof(struct ahci, regs),
    .state = &ahci_table,
    .windows = ahci_windows,
    .window_count = DP_ARRAY_LEN(ahci_windows),
    .init = ahci_init,
    .fini = ahci_fini,
    .reset = ahci_reset,
    .pause = ahci_pause,
    .resume = ahci_resume,
    .post_load = ahci_post_load,
};

/* ---- wiring ---- */

static void attach(struct dp_device *device, unsigned n, enum drive_kind kind, struct dp_block *block, const char *serial)
{
    struct ata_drive *d = &ahci_of(device)->port[n].drive;
    d->kind = kind;
    d->block = block;
    d->serial = serial;
}

void dp_ahci_attach_disk(struct dp_device *d, unsigned port, struct dp_block *block, const char *serial)
{
    attach(d, port, DRIVE_DISK, block, serial);
}

void dp_ahci_attach_cdrom(struct dp_device *d, unsigned port, struct dp_block *block) { attach(d, port, DRIVE_CDROM, block, NULL); }
struct dp_pci_function *dp_ahci_function(struct dp_device *d) { return &ahci_of(d)->function; }

int dp_ahci_change_medium(struct dp_device *device, unsigned port, struct dp_block *block, struct dp_error *e)
{
    if (port >= DP_AHCI_PORTS || ahci_of(device)->port[port].drive.kind != DRIVE_CDROM)
        return dp_error_set(e, -EINVAL, "%s: port %u has no CD-ROM drive", device->id, port);
    return drive_change_medium(&ahci_of(device)->port[port].drive, block, e);
}

bool dp_ahci_tray_open(struct dp_device *device, unsigned port)
{
    pthread_mutex_lock(&device->lock);
    bool open = port < DP_AHCI_PORTS && ahci_of(device)->regs.drive[port].tray_open;
    pthread_mutex_unlock(&device->lock);
    return open;
}
