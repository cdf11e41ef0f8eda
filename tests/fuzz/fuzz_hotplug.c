/* fuzz_hotplug.c - a PC without processors into which cards are plugged and taken out again, asked or not, while its registers, their
 * BARs and rings are accessed anywhere, frames come from their wires, time passes, states come back damaged.
 *
 * Input: a byte per operation and its operands (see `operation`). What the guest ejects is taken out as vm/ does it. Checked after each
 * operation: slots, devices and the registers' idea of what may be taken out agree with the cards that are there; an empty slot reads as
 * such.
 */
#include <stdlib.h>

#include "devices/firmware/pm.h"
#include "devices/pci/hotplug.h"
#include "devices/pci/pci.h"
#include "machine/pc.h"
#include "net/net.h"
#include "tests/fuzz/input.h"

#define RAM_SIZE (4u << 20)
#define ECAM 0xe0000000u
#define BARS 0xc0000000u
enum { OPERATIONS_MAX = 300 };

struct wire {
    struct dp_net_port port;
    unsigned room;
    bool echo;
};

struct world {
    struct x86_cpuid_model model;
    struct dp_clock *clock;
    struct dp_pc *pc;
    struct dp_space *memory, *ports;
    struct wire wire[DP_PC_NICS];
    bool reset_requested;
    unsigned devices; /* without cards */
    uint32_t cards;   /* bit per number */
    unsigned slot[DP_PC_NICS];
};

static void request(void *opaque, enum dp_vm_request r, int status) { ((struct world *)opaque)->reset_requested |= r == DP_VM_RESET; }
static void line(void *opaque, unsigned cpu, enum dp_line l, unsigned value) { MUST(cpu); }
static void eject(void *opaque) { MUST(!opaque); }

static unsigned wire_receive(void *opaque, const struct dp_net_frame *frame, unsigned count)
{
    struct wire *w = opaque;
    unsigned n = 0;
    for (; n < count && w->room; n++, w->room--)
        if (w->echo)
            dp_net_send(&w->port, &(struct dp_net_frame){.part = frame[n].part, .parts = frame[n].parts, .size = frame[n].size}, 1);
    return n;
}
static const struct dp_net_end wire_end = {wire_receive, NULL, NULL};

static void boot(struct world *w)
{
    struct x86_state s = {0};
    const char *protocol = NULL;
    MUST(dp_pc_boot(w->pc, NULL, &s, &protocol, NULL));
}

static void plug(struct world *w, struct input *in)
{
    static const char *const models[] = {"virtio", "e1000", "rtl8139", "ne2k"};
    struct dp_error e = {0};
    unsigned kind = (unsigned)take(in, 1), n = 0, i = 0;
    while (i < DP_PC_NICS && w->wire[i].port.peer)
        i++;
    struct dp_pc_nic nic = {.model = models[kind & 3], .mac = {0x52, 0x54, 0, 0, 0, (uint8_t)kind}, .queues = 1 + (kind >> 2 & 3)};
    if (i < DP_PC_NICS && kind < 0xf0) { /* else it has no cable */
        dp_net_port_init(&w->wire[i].port, &wire_end, &w->wire[i], kind & 0x10 ? DP_NET_CHECKSUM | DP_NET_TSO4 : 0);
        w->wire[i].room = kind & 0x20 ? 1000 : 3;
        w->wire[i].echo = kind & 0x40;
        nic.port = &w->wire[i].port;
    }
    if (dp_pc_plug_nic(w->pc, &nic, true, &n, &e)) {
        MUST(w->cards != (1u << DP_PC_NICS) - 1 || !e.text[0]);
        return;
    }
    struct dp_pc_card_status s;
    MUST(n >= DP_PC_NICS || (w->cards >> n & 1) || !dp_pc_card(w->pc, DP_PC_CARD_NIC, n, &s) || s.asked);
    w->cards |= 1u << n;
    w->slot[n] = s.slot;
}

static void unplug(struct world *w, unsigned n, bool running)
{
    if (!(w->cards >> n & 1))
        return;
    dp_pc_unplug(w->pc, DP_PC_CARD_NIC, n, running);
    w->cards &= ~(1u << n);
    MUST(dp_space_load(w->memory, ECAM + ((uint64_t)w->slot[n] << 15), 4) != 0xffffffff);
}

static void take_out(struct world *w, bool all, bool running)
{
    uint32_t slots = dp_pc_ejected(w->pc, all);
    for (unsigned n = 0; n < DP_PC_NICS; n++)
        if ((w->cards >> n & 1) && (slots >> w->slot[n] & 1)) {
            slots &= ~(1u << w->slot[n]);
            unplug(w, n, running);
        }
    MUST(slots);
}

static void reset(struct world *w)
{
    dp_pc_pause(w->pc);
    take_out(w, true, false);
    dp_pc_reset(w->pc);
    boot(w);
    dp_pc_resume(w->pc);
    w->reset_requested = false;
}

static void restore(struct world *w, struct input *in)
{
    struct dp_buffer image = {0};
    struct dp_error e = {0};
    struct dp_device *d = dp_pc_device(w->pc, (unsigned)take(in, 1) % dp_pc_device_count(w->pc));
    if (!strncmp(d->class->name, "lapic", 5) || !strcmp(d->class->name, "pci-host")) /* whose own targets do that */
        return;
    dp_pc_pause(w->pc);
    dp_device_save(d, &image);
    for (unsigned n = (unsigned)take(in, 1) % 8; n && image.size; n--) {
        unsigned at = (unsigned)take(in, 2);
        image.data[at % image.size] ^= (uint8_t)take(in, 1);
    }
    if (image.size && dp_device_load(d, image.data, image.size, NULL, &e))
        MUST(!e.text[0]);
    dp_buffer_fini(&image);
    dp_pc_resume(w->pc);
}

/* As firmware or a system would: BARs somewhere, everything on. */
static void bring_up(struct world *w, unsigned slot, unsigned at)
{
    uint64_t config = ECAM + ((uint64_t)slot << 15);
    for (unsigned bar = 0; bar < DP_PCI_BARS; bar++)
        dp_space_store(w->memory, config + DP_PCI_BAR0 + 4 * bar, bar == 1 && at & 1 ? 0 : BARS + (at % 64 + bar) * 0x20000, 4);
    dp_space_store(w->memory, config + DP_PCI_COMMAND, 7, 2);
}

static void check(struct world *w)
{
    uint32_t slots = 0;
    unsigned count = 0;
    struct dp_pc_card_status s;
    for (unsigned n = 0; n < DP_PC_NICS; n++) {
        bool there = w->cards >> n & 1;
        MUST(there != dp_pc_card(w->pc, DP_PC_CARD_NIC, n, &s));
        if (!there)
            continue;
        MUST(slots >> s.slot & 1 || s.slot != w->slot[n]);
        slots |= 1u << s.slot;
        count++;
    }
    MUST(dp_pc_device_count(w->pc) != w->devices + count);
    dp_space_store(w->ports, DP_PCI_HOTPLUG_PORT + DP_PCI_HOTPLUG_BUS, 0, 4);
    MUST(dp_space_load(w->ports, DP_PCI_HOTPLUG_PORT + DP_PCI_HOTPLUG_REMOVABLE, 4) != slots);
    MUST(dp_space_load(w->ports, DP_PCI_HOTPLUG_PORT + DP_PCI_HOTPLUG_DOWN, 4) & ~slots);
}

static void operation(struct world *w, struct input *in)
{
    static const uint8_t sizes[] = {1, 2, 4, 4};
    uint8_t code = (uint8_t)take(in, 1), data[300];
    unsigned n = code >> 4 & 3, size = sizes[code >> 6];
    uint64_t at;
    switch (code & 15) {
    case 0:
    case 1: plug(w, in); break;
    case 2: unplug(w, n, true); break;
    case 3:
        if (w->cards >> n & 1)
            dp_pc_ask(w->pc, DP_PC_CARD_NIC, n);
        break;
    case 4: dp_space_store(w->ports, DP_PCI_HOTPLUG_PORT + take(in, 1) % (DP_PCI_HOTPLUG_SIZE + 2), take(in, 4), size); break;
    case 5: dp_space_load(w->ports, DP_PCI_HOTPLUG_PORT + take(in, 1) % (DP_PCI_HOTPLUG_SIZE + 2), size); break;
    case 6: /* as _EJ0 does */
        if (w->cards >> n & 1)
            dp_space_store(w->ports, DP_PCI_HOTPLUG_PORT + DP_PCI_HOTPLUG_EJECT, 1u << w->slot[n], 4);
        break;
    case 7: bring_up(w, w->slot[n], (unsigned)take(in, 1)); break;
    case 8: dp_space_store(w->memory, ECAM + ((uint64_t)w->slot[n] << 15) + take(in, 2) % 0x120, take(in, 4), size); break;
    case 9: /* mostly registers */
        at = BARS + (take(in, 1) % 70) * 0x20000 + take(in, 2) % 0x4100;
        dp_space_store(w->memory, at, take(in, 4), size);
        break;
    case 10: dp_space_load(w->memory, BARS + (take(in, 1) % 70) * 0x20000 + take(in, 2) % 0x4100, size); break;
    case 11: dp_space_store(w->ports, DP_ACPI_PM_BASE + take(in, 1) % DP_ACPI_PM_SIZE, take(in, 4), size); break;
    case 12: {
        size_t length = DP_NET_FRAME_MIN + take(in, 1);
        memset(data, code, sizeof data);
        memset(data, 0xff, 6);
        const struct iovec part = {data, length};
        if (w->wire[n].port.end && w->wire[n].port.peer)
            dp_net_send(&w->wire[n].port, &(struct dp_net_frame){.part = &part, .parts = 1, .size = (uint32_t)length}, 1);
        w->wire[n].room = 10;
        if (w->wire[n].port.end)
            dp_net_ready(&w->wire[n].port);
        break;
    }
    case 13: dp_clock_advance(w->clock, take(in, 2) << (code >> 4)); break;
    case 14:
        if (code >> 4 < 3)
            reset(w);
        else
            for (unsigned i = 0; i < 32; i++)
                dp_space_store(w->memory, 0x1000 * (code >> 4) + 8 * i, take(in, 4), 8);
        break;
    case 15: restore(w, in); break;
    }
    take_out(w, false, true);
    if (w->reset_requested)
        reset(w);
    check(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {0};
    struct input in = {data, data + size};
    MUST(x86_cpuid_model("x86-64-v2", &w.model, NULL));
    MUST(dp_clock_create_manual(&w.clock, NULL));
    struct dp_pc_config c = {.memory = RAM_SIZE, .cpus = 1, .model = &w.model, .clock = w.clock, .vm = {request, &w}, .line = line, .eject = eject,
                             .opaque = &w};
    MUST(dp_pc_create(&c, &w.pc, NULL));
    w.memory = dp_pc_memory(w.pc);
    w.ports = dp_pc_ports(w.pc);
    w.devices = dp_pc_device_count(w.pc);
    dp_pc_reset(w.pc);
    boot(&w);
    dp_pc_resume(w.pc);
    for (unsigned n = 0; n < OPERATIONS_MAX && in.at < in.end; n++)
        operation(&w, &in);
    dp_pc_pause(w.pc);
    dp_pc_destroy(w.pc);
    dp_clock_destroy(w.clock);
    return 0;
}
