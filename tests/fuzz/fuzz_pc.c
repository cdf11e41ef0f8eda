/* fuzz_pc.c - a whole PC without processors, hammered: ports, every MMIO range, PCI configuration with BARs moved anywhere, virtio rings
 * pointed anywhere, local APICs and their MSRs, the I/O APIC, time that passes, resets and restored states in between.
 *
 * Input: the first byte says how many processors; then a byte per operation and its operands (see `operation`). Addresses and ports are
 * steered towards what exists. The manual clock makes a run repeatable. What devices ask of the VM is done as vm/ does it: a reset resets
 * devices and does the firmware's work again.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "block/block.h"
#include "console/console.h"
#include "devices/pci/pci.h"
#include "machine/pc.h"
#include "tests/fuzz/input.h"

#define RAM_SIZE (4u << 20)
#define RINGS 0x200000u /* slot i has its rings at RINGS + i * 0x8000 */
#define ECAM 0xe0000000u
#define IOAPIC 0xfec00000u
#define LAPIC 0xfee00000u
#define MMIO32 0xc0000000u
#define MMIO64 0x100000000ull
enum { OPERATIONS_MAX = 400, CPUS_MAX = 3, SLOTS = 5, DISKS = 2, CONSOLES = 3 };

struct world {
    struct x86_cpuid_model model;
    struct dp_clock *clock;
    struct dp_pc *pc;
    struct dp_space *memory, *ports;
    struct dp_block *disk[DISKS];
    struct dp_console *console[CONSOLES];
    struct dp_x86_bus bus[CPUS_MAX];
    unsigned cpus;
    bool reset_requested;
};

static void request(void *opaque, enum dp_vm_request r, int status) { ((struct world *)opaque)->reset_requested |= r == DP_VM_RESET; }
static void line(void *opaque, unsigned cpu, enum dp_line l, unsigned value) { MUST(cpu >= ((struct world *)opaque)->cpus); }

static void boot(struct world *w)
{
    struct x86_state s = {0};
    const char *protocol = NULL;
    MUST(dp_pc_boot(w->pc, NULL, &s, &protocol, NULL));
}

static void world_init(struct world *w, unsigned cpus)
{
    memset(w, 0, sizeof *w);
    w->cpus = cpus;
    MUST(x86_cpuid_model("x86-64-v2", &w->model, NULL));
    MUST(dp_clock_create_manual(&w->clock, NULL));
    struct dp_pc_config c = {
        .memory = RAM_SIZE,
        .cpus = cpus,
        .model = &w->model,
        .clock = w->clock,
        .vm = {request, w},
        .line = line,
        .opaque = w,
        .rng = true,
        .balloon = true,
        .virtio_console = true,
        .disk_count = DISKS,
    };
    for (unsigned i = 0; i < CONSOLES; i++)
        MUST(dp_console_open_memory(&w->console[i], NULL));
    c.serial[0] = w->console[0];
    c.serial[1] = w->console[1];
    c.virtio_console_backend = w->console[2];
    for (unsigned i = 0; i < DISKS; i++) {
        char path[40];
        int fd = memfd_create("disk", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        MUST(fd < 0 || ftruncate(fd, 1 << 20));
        MUST(dp_block_open(NULL, &(struct dp_block_options){.path = path, .readonly = i == 1, .io = DP_BLOCK_IO_THREADS}, &w->disk[i],
                           NULL));
        close(fd);
        c.disk[i].block = w->disk[i];
    }
    MUST(dp_pc_create(&c, &w->pc, NULL));
    w->memory = dp_pc_memory(w->pc);
    w->ports = dp_pc_ports(w->pc);
    for (unsigned i = 0; i < cpus; i++)
        dp_pc_bus(w->pc, i, &w->bus[i]);
    dp_pc_reset(w->pc);
    boot(w);
    dp_pc_resume(w->pc);
}

static void world_fini(struct world *w)
{
    dp_pc_pause(w->pc);
    dp_pc_destroy(w->pc);
    for (unsigned i = 0; i < DISKS; i++)
        dp_block_close(w->disk[i]);
    for (unsigned i = 0; i < CONSOLES; i++)
        dp_console_close(w->console[i]);
    dp_clock_destroy(w->clock);
}

/* As vm/vm.c does it. */
static void reset(struct world *w)
{
    dp_pc_pause(w->pc);
    dp_pc_reset(w->pc);
    boot(w);
    dp_pc_resume(w->pc);
    w->reset_requested = false;
}

static uint64_t config_of(unsigned slot) { return ECAM + ((uint64_t)slot << 15); }

/* Where BAR n of a slot is now. */
static uint64_t bar_of(struct world *w, unsigned slot, unsigned n)
{
    uint64_t at = config_of(slot) + DP_PCI_BAR0 + 4 * n, v = dp_space_load(w->memory, at, 4);
    return (v & 6) == 4 ? (v & ~15u) | dp_space_load(w->memory, at + 4, 4) << 32 : v & ~15u;
}

/* An address the input wants to point at something. */
static uint64_t place(struct world *w, struct input *in)
{
    unsigned kind = (unsigned)take(in, 1);
    uint64_t low = take(in, 3);
    switch (kind & 15) {
    case 0:
        return LAPIC + low % 0x1008;
    case 1:
        return IOAPIC + low % 0x1008;
    case 2:
        return ECAM + low % 0x100010;
    case 3:
        return MMIO32 + low;
    case 4:
        return MMIO64 + (low << (kind >> 4));
    case 5:
        return RAM_SIZE - low % 64;
    case 6:
        return ~0ull - low;
    case 7:
        return low << 28;
    case 8:
        return 0x9f000 + low % 0x62000;
    case 9:
        return bar_of(w, 1 + low % SLOTS, 0) + (low >> 8) % 0x4100;
    case 10:
        return bar_of(w, 1 + low % SLOTS, 2) + (low >> 8) % 0x1100;
    default:
        return low % RAM_SIZE;
    }
}

/* A port, mostly one of a device's. */
static uint16_t port_of(struct input *in)
{
    static const uint16_t base[] = {0x20, 0x40, 0x60, 0x70, 0xa0, 0xf0, 0x2f8, 0x3f8, 0x4d0, 0x520, 0x600, 0x608, 0xcf8, 0xcfc};
    uint16_t v = (uint16_t)take(in, 2);
    return v & 0x8000 ? v : base[v % DP_ARRAY_LEN(base)] + (v >> 8) % 8;
}

/* An ordinary initialisation of a device, up to DRIVER_OK: features as the input says, its queues where the input wants them. */
static void bring_up(struct world *w, struct input *in, unsigned slot)
{
    struct dp_space *m = w->memory;
    uint64_t bar = bar_of(w, slot, 0);
    uint32_t features = (uint32_t)take(in, 4);
    unsigned elsewhere = (unsigned)take(in, 1);
    dp_space_store(m, config_of(slot) + DP_PCI_COMMAND, 7, 2);
    dp_space_store(m, bar + 20, 0, 1);
    dp_space_store(m, bar + 20, 3, 1);
    for (unsigned k = 0; k < 2; k++) {
        dp_space_store(m, bar, k, 4);
        uint64_t offered = dp_space_load(m, bar + 4, 4);
        dp_space_store(m, bar + 8, k, 4);
        dp_space_store(m, bar + 12, k ? 1 : offered & features, 4);
    }
    dp_space_store(m, bar + 20, 11, 1);
    for (unsigned q = 0; q < 2; q++) {
        uint64_t at = RINGS + slot * 0x8000 + q * 0x4000;
        dp_space_store(m, bar + 22, q, 2);
        dp_space_store(m, bar + 24, 16, 2);
        dp_space_store(m, bar + 26, q + 1, 2);
        dp_space_store(m, bar + 32, elsewhere & 1 ? place(w, in) : at, 8);
        dp_space_store(m, bar + 40, elsewhere & 2 ? place(w, in) : at + 0x1000, 8);
        dp_space_store(m, bar + 48, elsewhere & 4 ? place(w, in) : at + 0x2000, 8);
        dp_space_store(m, bar + 28, 1, 2);
    }
    dp_space_store(m, bar + 20, 15, 1);
}

/* A descriptor, its head offered, the queue notified. */
static void offer(struct world *w, struct input *in, unsigned slot, unsigned queue)
{
    struct dp_space *m = w->memory;
    uint64_t rings = RINGS + slot * 0x8000 + queue * 0x4000;
    unsigned n = (unsigned)take(in, 1) % 16, head = (unsigned)take(in, 1) % 17;
    dp_space_store(m, rings + n * 16, place(w, in), 8);
    dp_space_store(m, rings + n * 16 + 8, take(in, 2), 4);
    dp_space_store(m, rings + n * 16 + 12, take(in, 1) & 7, 2);
    dp_space_store(m, rings + n * 16 + 14, take(in, 1) % 17, 2);
    unsigned index = (unsigned)dp_space_load(m, rings + 0x1002, 2);
    dp_space_store(m, rings + 0x1004 + index % 16 * 2, head, 2);
    dp_space_store(m, rings + 0x1002, index + 1, 2);
    dp_space_store(m, bar_of(w, slot, 0) + 0x3000 + queue * 4, queue, 2);
}

/* Saves a device and loads what was saved again, damaged or not; refusing is fine. */
static void save_and_load(struct world *w, struct input *in)
{
    struct dp_device *d = dp_pc_device(w->pc, (unsigned)take(in, 1) % dp_pc_device_count(w->pc));
    struct dp_buffer image = {0};
    struct dp_error e = {0};
    size_t used;
    if (!d->class->state)
        return;
    dp_pc_pause(w->pc);
    dp_device_save(d, &image);
    for (unsigned n = (unsigned)take(in, 1) % 8; n && image.size; n--)
        image.data[take(in, 2) % image.size] ^= take(in, 1);
    if (dp_device_load(d, image.data, image.size, &used, &e))
        MUST(!e.text[0]);
    dp_buffer_fini(&image);
    dp_pc_resume(w->pc);
}

static void operation(struct world *w, struct input *in)
{
    unsigned code = (unsigned)take(in, 1), cpu = (code >> 4) % w->cpus, slot = 1 + (code >> 4) % SLOTS, size;
    const struct dp_x86_bus *bus = &w->bus[cpu];
    uint64_t at, value;
    switch (code & 15) {
    case 0:
        at = port_of(in);
        dp_space_store(w->ports, at, take(in, 4), 1u << (code >> 4) % 3);
        break;
    case 1:
        dp_space_load(w->ports, port_of(in), 1u << (code >> 4) % 3);
        break;
    case 2:
        at = place(w, in);
        dp_space_store(w->memory, at, take(in, 8), 1u << (code >> 4) % 4);
        break;
    case 3:
        dp_space_load(w->memory, place(w, in), 1u << (code >> 4) % 4);
        break;
    case 4: { /* bytes over borders */
        uint8_t bytes[40] = {0};
        at = place(w, in);
        size = (unsigned)take(in, 1) % sizeof bytes;
        if (code & 0x80 ? dp_space_read(w->memory, at, bytes, size) : dp_space_write(w->memory, at, bytes, size)) {
        }
        break;
    }
    case 5: /* PCI configuration by ports */
        value = take(in, 2);
        dp_space_store(w->ports, 0xcf8, 0x80000000 | (value & 0x7f) % (SLOTS + 2) << 11 | (value >> 8), 4);
        if (code & 0x80)
            dp_space_store(w->ports, 0xcfc + (code >> 4 & 3), take(in, 4), 1u << (code >> 6 & 1));
        else
            dp_space_load(w->ports, 0xcfc + (code >> 4 & 3), 1u << (code >> 6 & 1));
        break;
    case 6: /* a BAR anywhere */
        at = config_of(slot) + DP_PCI_BAR0 + 4 * (take(in, 1) % 6);
        value = place(w, in);
        dp_space_store(w->memory, at, value & 0xffffffff, 4);
        dp_space_store(w->memory, at + 4, value >> 32, 4);
        dp_space_store(w->memory, config_of(slot) + DP_PCI_COMMAND, take(in, 1) & 7, 2);
        break;
    case 7:
        bring_up(w, in, slot);
        break;
    case 8:
        offer(w, in, slot, take(in, 1) & 1);
        break;
    case 9:
        dp_clock_advance(w->clock, take(in, code >> 4 & 1 ? 4 : 2) % 100000000);
        break;
    case 10: /* the local APIC's page, as a processor reaches it */
        at = take(in, 1) << 4 | (code & 0x40 ? take(in, 1) & 15 : 0);
        size = 1u << (code >> 4 & 3);
        at -= at % size;
        if (code & 0x80)
            bus->apic_read(bus->apic, at, size);
        else
            bus->apic_write(bus->apic, at, take(in, 4), size);
        break;
    case 11: { /* MSRs */
        static const uint32_t other[] = {0x1b, 0x6e0, 0x11, 0x12, 0x4b564d00, 0x4b564d01};
        unsigned n = (unsigned)take(in, 1);
        uint32_t msr = code & 0x40 ? 0x800 + n : other[n % DP_ARRAY_LEN(other)];
        if (n % DP_ARRAY_LEN(other) >= 2 && !(code & 0x40))
            bus->pv_msr_write(bus->pv, cpu, msr, code & 0x20 ? place(w, in) | 1 : take(in, 8));
        else if (code & 0x80)
            bus->msr_read(bus->apic, msr, &value);
        else
            bus->msr_write(bus->apic, msr, take(in, 8));
        break;
    }
    case 12: /* what a processor does between instructions */
        if (bus->interrupt_pending(bus->apic) && (code & 0x80))
            MUST(bus->interrupt_ack(bus->apic) > 255);
        if (code & 0x40)
            bus->tpr_write(bus->apic, (uint8_t)take(in, 1) & 15);
        bus->tpr_read(bus->apic);
        break;
    case 13: { /* the other ends */
        struct dp_console *c = w->console[(code >> 4) % CONSOLES];
        uint8_t text[32];
        memset(text, code, sizeof text);
        if (code & 0x80)
            dp_console_limit(c, take(in, 1));
        else
            dp_console_feed(c, text, take(in, 1) % sizeof text);
        if (code & 0x40)
            dp_block_drain(w->disk[code >> 4 & 1]);
        break;
    }
    case 14:
        if (code < 0x40)
            reset(w);
        dp_pc_pause(w->pc);
        dp_pc_resume(w->pc);
        break;
    case 15:
        save_and_load(w, in);
        break;
    }
    if (w->reset_requested)
        reset(w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w;
    struct input in = {data, data + size};
    world_init(&w, 1 + (unsigned)take(&in, 1) % CPUS_MAX);
    for (unsigned n = 0; n < OPERATIONS_MAX && in.at < in.end; n++)
        operation(&w, &in);
    world_fini(&w);
    return 0;
}
