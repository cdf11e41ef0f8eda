/* devices/net/nic.c - a card's threads and calls out; model and invariants in nic.h. */
#include "devices/net/nic.h"

#include <stdlib.h>

enum { ROM_MIN = 2048, ROM_MAX = 512 << 10, TX_BUDGET = 512 /* packets at once */ };

/* ---- memory ---- */

bool nic_dma_read(struct nic *n, uint64_t address, void *to, uint32_t size)
{
    uint8_t *out = to;
    while (size) {
        struct dp_pin p;
        if (address > UINT64_MAX - size || !dp_space_pin(n->device->env->memory, address, size, false, &p) || !p.size) {
            dp_trace_guest(n->device->env->trace, "%s: read of 0x%llx, where no RAM is", n->device->id, (unsigned long long)address);
            memset(out, 0xff, size);
            return false;
        }
        uint32_t some = (uint32_t)DP_MIN(p.size, size);
        memcpy(out, p.host, some);
        dp_space_unpin(n->device->env->memory, &p, 0);
        out += some;
        address += some;
        size -= some;
    }
    return true;
}

bool nic_dma_write(struct nic *n, uint64_t address, const void *from, uint32_t size)
{
    const uint8_t *in = from;
    while (size) {
        struct dp_pin p;
        if (address > UINT64_MAX - size || !dp_space_pin(n->device->env->memory, address, size, true, &p) || !p.size) {
            dp_trace_guest(n->device->env->trace, "%s: write to 0x%llx, where no RAM is", n->device->id, (unsigned long long)address);
            return false;
        }
        uint32_t some = (uint32_t)DP_MIN(p.size, size);
        memcpy(p.host, in, some);
        dp_space_unpin(n->device->env->memory, &p, some);
        in += some;
        address += some;
        size -= some;
    }
    return true;
}

/* ---- sending; no lock held ---- */

static bool send_packet(struct nic *n, const struct nic_packet *p)
{
    static const uint8_t zeros[NIC_FRAME_MIN];
    if (p->size < DP_NET_FRAME_MIN || p->size > DP_NET_FRAME_MAX) {
        dp_trace_guest(n->device->env->trace, "%s: a frame of %u bytes is not sent", n->device->id, p->size);
        return true;
    }
    bool pad = p->size < NIC_FRAME_MIN && !p->work;
    const struct iovec part[2] = {{p->data, p->size}, {(void *)zeros, pad ? NIC_FRAME_MIN - p->size : 0}};
    const struct dp_net_frame f = {.part = part, .parts = pad ? 2 : 1, .size = pad ? NIC_FRAME_MIN : p->size, .work = p->work,
                                   .checksum_start = p->checksum_start, .checksum_offset = p->checksum_offset,
                                   .header_size = p->header_size, .segment_size = p->segment_size};
    return dp_net_send_complete(&n->port, &f, 1, &n->progress, n->scratch) == 1;
}

/* What goes to the receiver instead: lock held. */
static void loop_back(struct nic *n, struct nic_packet *p)
{
    if (p->size < DP_NET_FRAME_MIN || p->size > DP_NET_FRAME_MAX)
        return;
    if (p->work & DP_NET_CHECKSUM)
        nic_put_checksum(p->data, p->size, p->checksum_start, p->checksum_offset);
    if (p->size < NIC_FRAME_MIN) {
        memset(p->data + p->size, 0, NIC_FRAME_MIN - p->size);
        p->size = NIC_FRAME_MIN;
    }
    n->ops->rx(n, p->data, p->size);
}

static void transmit(struct nic *n)
{
    struct nic_packet p;
    unsigned budget = TX_BUDGET;
    nic_enter(n);
    n->tx_again = true;
    if (n->tx_busy) {
        pthread_mutex_unlock(&n->device->lock);
        return;
    }
    n->tx_busy = true;
    while (n->tx_again) {
        n->tx_again = n->tx_kick = false;
        while (n->running && (p = (struct nic_packet){.data = n->tx_buffer}, n->ops->tx_next(n, &p))) {
            if (!budget) {
                dp_timer_arm(&n->more, dp_clock_now(n->device->env->clock));
                break;
            }
            budget--;
            uint32_t epoch = n->tx_epoch;
            bool went = true;
            if (p.loopback) {
                loop_back(n, &p);
            } else {
                pthread_mutex_unlock(&n->device->lock);
                went = send_packet(n, &p);
                nic_enter(n);
            }
            if (epoch != n->tx_epoch) {
                n->progress = 0;
                n->tx_again = true;
                continue;
            }
            if (!went)
                break;
            n->progress = 0;
            n->ops->tx_done(n, &p);
        }
        if (!n->running)
            break;
    }
    n->tx_busy = false;
    pthread_cond_broadcast(&n->idle);
    pthread_mutex_unlock(&n->device->lock);
}

/* ---- the line, and the port's `ready`; no lock held ---- */

static void tell_ready(struct nic *n)
{
    nic_enter(n);
    while (n->running && n->rx_refused && n->rx_room && !n->ready_busy) {
        n->rx_refused = n->rx_room = false;
        n->ready_busy = true;
        pthread_mutex_unlock(&n->device->lock);
        dp_net_ready(&n->port);
        nic_enter(n);
        n->ready_busy = false;
    }
    pthread_cond_broadcast(&n->idle);
    pthread_mutex_unlock(&n->device->lock);
}

/* Who lowers the line waits for whoever is driving it: a guest that has read the cause away and still sees the line up takes the interrupt
 * again and again, until the other thread runs, and Linux gives up a line like that. Who raises it leaves that to the other. */
static void irq_sync(struct nic *n)
{
    nic_enter(n);
    while (n->running) {
        bool level = n->ops->irq_level(n) && !(n->irq_fell && n->irq_driven);
        if (n->irq_busy && !level) {
            pthread_cond_wait(&n->idle, &n->device->lock);
            continue;
        }
        if (n->irq_busy || level == n->irq_driven)
            break;
        n->irq_fell = false;
        n->irq_driven = level;
        n->irq_busy = true;
        pthread_mutex_unlock(&n->device->lock);
        if (n->ops->irq_set)
            n->ops->irq_set(n, level);
        else
            dp_pci_intx(&n->function, level);
        nic_enter(n);
        n->irq_busy = false;
        pthread_cond_broadcast(&n->idle);
    }
    pthread_mutex_unlock(&n->device->lock);
}

void nic_leave(struct nic *n)
{
    bool level = n->ops->irq_level(n);
    n->irq_fell |= !level;
    bool send = n->tx_kick && n->running, ready = n->rx_refused && n->rx_room && n->running;
    bool line = n->running && (level != n->irq_driven || (n->irq_fell && n->irq_driven) || (n->irq_busy && !level));
    pthread_mutex_unlock(&n->device->lock);
    if (send) {
        transmit(n);
        line = true;
    }
    if (line)
        irq_sync(n);
    if (ready)
        tell_ready(n);
}

static void more_due(void *opaque)
{
    struct nic *n = opaque;
    nic_enter(n);
    nic_kick(n);
    nic_leave(n);
}

static void retry_due(void *opaque)
{
    struct nic *n = opaque;
    nic_enter(n);
    n->rx_retried = true;
    nic_room(n);
    nic_leave(n);
}

void nic_retry(struct nic *n, uint64_t ns) { dp_timer_arm(&n->retry, dp_clock_now(n->device->env->clock) + ns); }

/* ---- the port ---- */

static unsigned port_receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct nic *n = opaque;
    unsigned i = 0;
    nic_enter(n);
    n->rx_call++;
    for (; i < count; i++) {
        const struct dp_net_frame *f = &frame[i];
        if (!n->running)
            break;
        if (f->size < DP_NET_FRAME_MIN || f->size > DP_NET_FRAME_MAX)
            continue;
        const uint8_t *data = f->part[0].iov_base;
        uint32_t size = f->size;
        if (f->parts > 1 || size < NIC_FRAME_MIN) {
            uint32_t at = 0;
            for (unsigned k = 0; k < f->parts && at < size; k++) {
                uint32_t some = (uint32_t)DP_MIN(f->part[k].iov_len, size - at);
                memcpy(n->rx_buffer + at, f->part[k].iov_base, some);
                at += some;
            }
            for (; at < NIC_FRAME_MIN; at++)
                n->rx_buffer[at] = 0;
            data = n->rx_buffer;
            size = at;
        }
        if (n->ops->rx(n, data, size) == NIC_FULL) {
            n->rx_room = false;
            break;
        }
    }
    n->rx_refused |= i < count;
    n->rx_retried = false;
    nic_leave(n);
    return i;
}

static void port_ready(void *opaque)
{
    struct nic *n = opaque;
    nic_enter(n);
    nic_kick(n);
    nic_leave(n);
}

static void port_link(void *opaque, bool up)
{
    struct nic *n = opaque;
    if (!n->device->initialised)
        return;
    nic_enter(n);
    if (n->running)
        n->ops->link(n, up);
    nic_leave(n);
}

static const struct dp_net_end port_end = {port_receive, port_ready, port_link};

/* ---- PCI ---- */

static uint64_t rom_read(void *opaque, uint64_t offset, unsigned size)
{
    const struct nic *n = opaque;
    uint64_t v = 0;
    memcpy(&v, n->rom + offset, size);
    return v;
}

static const struct dp_window_ops rom_ops = {.name = "rom", .read = rom_read};

static void config_changed(struct dp_pci_function *f)
{
    struct nic *n = DP_CONTAINER_OF(f, struct nic, function);
    nic_enter(n);
    nic_kick(n);
    nic_room(n);
    nic_leave(n);
}

/* An image for several cards may name none of them, and firmware runs only what names the card it is in. The image's sum stays what it was:
 * byte 6, which means nothing, makes up for the change. Source: PCI Firmware 3.0 5.1.2 (data structure), 5.1.3 (sum). */
static void rom_name(struct nic *n, const struct dp_pci_id *id)
{
    enum { POINTER = 0x18, VENDOR = 4, DEVICE = 6, PCIR_SIZE = 0x18, SPARE = 6 };
    uint32_t at = n->rom[0] == 0x55 && n->rom[1] == 0xaa ? dp_ld16(n->rom + POINTER) : 0;
    if (!at || at + PCIR_SIZE > n->rom_size || memcmp(n->rom + at, "PCIR", 4))
        return;
    for (unsigned i = 0; i < 4; i++)
        n->rom[SPARE] += n->rom[at + VENDOR + i];
    dp_st16(n->rom + at + VENDOR, id->vendor);
    dp_st16(n->rom + at + DEVICE, id->device);
    for (unsigned i = 0; i < 4; i++)
        n->rom[SPARE] -= n->rom[at + VENDOR + i];
}

int nic_pci_init(struct nic *n, struct dp_pci_regs *regs, const struct dp_pci_id *id, struct dp_error *e)
{
    struct dp_device *d = n->device;
    n->pci = regs;
    dp_pci_function_init(&n->function, regs, id, d->env, &d->lock);
    n->function.config_changed = config_changed;
    if (!n->rom_source_size)
        return 0;
    if (n->rom_source_size > ROM_MAX)
        return dp_error_set(e, -EFBIG, "a boot ROM of %zu bytes is too large: %d are possible", n->rom_source_size, ROM_MAX);
    for (n->rom_size = ROM_MIN; n->rom_size < n->rom_source_size;)
        n->rom_size *= 2;
    n->rom = calloc(1, n->rom_size);
    if (!n->rom)
        return dp_error_set(e, -ENOMEM, "no memory for the boot ROM");
    memcpy(n->rom, n->rom_source, n->rom_source_size);
    rom_name(n, id);
    dp_pci_add_rom(&n->function, n->rom_size, &rom_ops, n);
    return 0;
}

/* ---- life ---- */

void nic_wire(struct nic *n, struct dp_device *d, const struct nic_ops *ops, const uint8_t mac[NIC_MAC])
{
    if (!n->ops) /* once: there may be a cable in it */
        dp_net_port_init(&n->port, &port_end, n, 0);
    n->device = d;
    n->ops = ops;
    memcpy(n->mac, mac, NIC_MAC);
}

static void crc_tables(struct nic *n)
{
    for (unsigned i = 0; i < 256; i++) {
        uint32_t c = i;
        for (unsigned bit = 0; bit < 8; bit++)
            c = c >> 1 ^ (c & 1 ? 0xedb88320 : 0);
        n->crc[0][i] = c;
    }
    for (unsigned k = 1; k < 8; k++)
        for (unsigned i = 0; i < 256; i++)
            n->crc[k][i] = n->crc[k - 1][i] >> 8 ^ n->crc[0][n->crc[k - 1][i] & 0xff];
}

static void wait_idle(struct nic *n)
{
    while (n->tx_busy || n->irq_busy || n->ready_busy)
        pthread_cond_wait(&n->idle, &n->device->lock);
}

void nic_quiesce(struct nic *n)
{
    nic_enter(n);
    n->running = false;
    wait_idle(n);
    pthread_mutex_unlock(&n->device->lock);
}

int nic_init(struct nic *n, struct dp_error *e)
{
    n->tx_buffer = malloc(NIC_BUFFER);
    n->rx_buffer = malloc(NIC_BUFFER);
    n->crc = malloc(8 * sizeof(*n->crc));
    n->scratch = malloc(sizeof(*n->scratch));
    pthread_cond_init(&n->idle, NULL);
    dp_timer_init(&n->more, n->device->env->clock, more_due, n);
    dp_timer_init(&n->retry, n->device->env->clock, retry_due, n);
    n->irq_driven = -1;
    if (!n->tx_buffer || !n->rx_buffer || !n->crc || !n->scratch) {
        nic_fini(n);
        return dp_error_set(e, -ENOMEM, "no memory for a network card's buffers");
    }
    crc_tables(n);
    return 0;
}

void nic_fini(struct nic *n)
{
    nic_quiesce(n);
    if (n->pci)
        dp_pci_unplug(&n->function);
    dp_net_disconnect(&n->port);
    dp_timer_fini(&n->more);
    dp_timer_fini(&n->retry);
    pthread_cond_destroy(&n->idle);
    free(n->tx_buffer);
    free(n->rx_buffer);
    free(n->crc);
    free(n->scratch);
    free(n->rom);
}

void nic_resume(struct nic *n)
{
    nic_enter(n);
    n->running = true;
    n->ops->link(n, dp_net_link(&n->port));
    nic_kick(n);
    nic_room(n);
    nic_leave(n);
}

void nic_abort(struct nic *n)
{
    n->tx_epoch++;
    n->progress = 0;
}

void nic_reset_begin(struct nic *n)
{
    nic_enter(n);
    nic_abort(n);
    wait_idle(n);
    dp_state_reset(n->device->class->state, dp_device_regs(n->device)); /* again: who was on its way has written to it */
    n->irq_driven = -1;
    n->irq_fell = false;
}

void nic_reset_end(struct nic *n)
{
    n->ops->link(n, dp_net_link(&n->port));
    nic_room(n);
    pthread_mutex_unlock(&n->device->lock);
    if (n->pci)
        dp_pci_function_reset(&n->function);
    nic_enter(n);
    nic_leave(n);
}

void nic_post_load(struct nic *n)
{
    nic_enter(n);
    nic_abort(n);
    n->irq_driven = -1;
    n->irq_fell = false;
    n->tx_kick = true;
    nic_room(n);
    pthread_mutex_unlock(&n->device->lock);
    if (n->pci)
        dp_pci_function_post_load(&n->function);
    nic_enter(n);
    nic_leave(n);
}
