/* devices/intc/lapic.h - the local APIC of one processor (xAPIC and x2APIC) and the bus that joins all of them.
 *
 * Model: one device per vCPU. IRR, TMR and whatever decides where a message goes are atomics in regs: any thread posts an interrupt without
 * a lock. ISR, TPR and the timer belong to the device's lock, which is never held while the processor, the PIC or another APIC is called.
 * The processor sees one level, DP_LAPIC_INTR: "interrupt_ack would return something". Invariants: after any change the last value given to
 * sink.line(DP_LAPIC_INTR) is the truth (lapic_sync in lapic.c says why). A message that races with INIT or a software disable of its
 * target counts as having arrived after it. Source: Intel SDM vol. 3 ch. 11 (APIC; 10 in older editions): registers 11.4, messages 11.6,
 * local sources 11.5, acceptance 11.8, MSI 11.11, x2APIC 11.12.
 */
#ifndef DP_LAPIC_H
#define DP_LAPIC_H

#include "devices/device.h"

#define DP_APIC_MAX_CPUS 256
#define DP_APIC_DEFAULT_BASE 0xfee00000u

/* ---- towards the processor ---- */

/* The same meaning as enum dp_line of engine.h, which devices may not include: the machine translates. */
enum dp_lapic_line { DP_LAPIC_INTR, DP_LAPIC_NMI, DP_LAPIC_SMI, DP_LAPIC_INIT, DP_LAPIC_SIPI };

/* Called with no lock held, from any thread, the processor's own (inside the callbacks below) included. */
struct dp_lapic_cpu_sink {
    void (*line)(void *opaque, enum dp_lapic_line line, unsigned value);
    void *opaque;
};

struct dp_apic_bus;

struct dp_lapic_wires {
    struct dp_apic_bus *bus;
    struct dp_lapic_cpu_sink cpu;
    uint32_t id; /* initial APIC id, unique on the bus; the processor's index for the fastest delivery */
    bool bsp;
    /* Come out of reset as firmware leaves the first processor (SDM 11.5.1, MP spec 3.6.2.2): software-enabled, LINT0 = ExtINT,
     * LINT1 = NMI. For machines that boot a kernel without firmware. */
    bool virtual_wire;
    uint32_t physical_bits; /* of guest-physical addresses, for IA32_APIC_BASE; 0 means 40 */
    uint64_t bus_hz;        /* the timer's clock; 0 means 1 GHz, which CPUID leaf 0x40000010 tells */
    /* The processor's TSC now, and its rate. Any thread; called with the device's lock held, so it must not call back. */
    uint64_t (*tsc)(void *opaque);
    void *tsc_opaque;
    uint32_t tsc_khz;
    /* INTA cycle of the 8259 pair: its vector. NULL when there is none. */
    int (*pic_ack)(void *opaque);
    void *pic_opaque;
};

extern const struct dp_device_class dp_lapic_class;

/* Before dp_device_init, which also puts the APIC on the bus. */
void dp_lapic_wire(struct dp_device *lapic, const struct dp_lapic_wires *w);

/* ---- callbacks of struct dp_x86_bus: apic is the struct dp_device. Only the processor's own thread ---- */

int dp_lapic_interrupt_ack(void *apic);
bool dp_lapic_interrupt_pending(void *apic); /* lock-free; any thread */
uint64_t dp_lapic_read(void *apic, uint64_t offset, unsigned size);
void dp_lapic_write(void *apic, uint64_t offset, uint64_t value, unsigned size);
uint8_t dp_lapic_tpr_read(void *apic); /* the 8-bit register: CR8 is its upper half */
void dp_lapic_tpr_write(void *apic, uint8_t tpr);
/* 0x1b IA32_APIC_BASE, 0x6e0 IA32_TSC_DEADLINE, 0x800-0x8ff; false: #GP(0). */
bool dp_lapic_msr_read(void *apic, uint32_t msr, uint64_t *value);
bool dp_lapic_msr_write(void *apic, uint32_t msr, uint64_t value);

/* ---- others ---- */

/* LINT0 and LINT1 inputs, as dp_irq.set (n is 0 or 1; level: asserted). Any thread. */
void dp_lapic_lint(void *apic, unsigned n, bool level);
/* The processor's TSC jumped (WRMSR to TSC or TSC_ADJUST): a pending deadline is computed anew. */
void dp_lapic_tsc_changed(struct dp_device *lapic);

/* ---- the bus ---- */

enum dp_apic_mode {
    DP_APIC_FIXED,
    DP_APIC_LOWEST,
    DP_APIC_SMI,
    DP_APIC_RESERVED,
    DP_APIC_NMI,
    DP_APIC_INIT,
    DP_APIC_SIPI,
    DP_APIC_EXTINT,
};

struct dp_apic_message {
    uint32_t destination;
    uint8_t vector;
    uint8_t mode; /* enum dp_apic_mode */
    bool logical;
    bool level; /* trigger mode: sets the target's TMR bit, so that its EOI comes back */
    bool wide;  /* destination has 32 bits (sent by an x2APIC); else 8, where 0xff is everybody */
};

struct dp_lapic;
/* Plain, owned by the machine, zeroed before use; fixed once the processors run. */
struct dp_apic_bus {
    struct dp_lapic *cpu[DP_APIC_MAX_CPUS];
    unsigned count;
    /* A processor ended a level-triggered interrupt: the I/O APIC, which wires itself. */
    void (*eoi)(void *opaque, uint8_t vector);
    void *eoi_opaque;
};

/* Returns how many processors took it. Any thread, no lock held. */
unsigned dp_apic_bus_send(struct dp_apic_bus *bus, const struct dp_apic_message *m);
/* struct dp_msi_sink.send: bus is the struct dp_apic_bus. Writes outside 0xfeexxxxx vanish. */
void dp_apic_bus_msi(void *bus, uint64_t address, uint32_t data);

#endif
