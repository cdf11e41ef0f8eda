/* devices/pci/pci.h - PCI functions, their configuration space, BARs, MSI and MSI-X; the host bridge.
 *
 * Model: a function is a struct embedded in an adapter device (virtio-pci). Its 256 (4096 with ECAM) bytes of configuration space are plain
 * state with a write mask. BARs point at windows; the host bridge maps and unmaps them as the guest programs them. Interrupts: INTx by four
 * lines per bus, MSI with one message, or MSI-X. A BAR may also be RAM (a frame buffer), which processors then reach without any call
 * here; the expansion ROM's
 * base register is a seventh BAR with an enable bit of its own.
 * Source: PCI Local Bus 3.0 ch. 6 (6.2.5.2 expansion ROM); PCI Express Base 3.0 ch. 7 (ECAM).
 * Invariants: no BAR decode that wraps or exceeds the space; MSI-X table accesses are checked against its size. Nothing here trusts the
 * bytes of configuration space: a loaded state may hold any.
 */
#ifndef DP_PCI_H
#define DP_PCI_H

#include "devices/device.h"

#define DP_PCI_BARS 6
#define DP_PCI_FUNCTIONS 8
#define DP_PCI_ROM DP_PCI_BARS /* index of the expansion ROM among the BARs */
#define DP_PCI_CONFIG_SIZE 4096
#define DP_PCI_MSIX_MAX 64
/* BARs are mapped below everything a machine maps (0): a guest that programs a BAR over RAM or the APIC finds RAM and the APIC. */
#define DP_PCI_BAR_PRIORITY (-1)

/* Registers of the header, and bits, that others name. */
enum { DP_PCI_COMMAND = 0x04, DP_PCI_STATUS = 0x06, DP_PCI_BAR0 = 0x10, DP_PCI_ROM_ADDRESS = 0x30, DP_PCI_CAPABILITIES = 0x34,
       DP_PCI_INTERRUPT_LINE = 0x3c, DP_PCI_INTERRUPT_PIN = 0x3d };
enum { DP_PCI_COMMAND_IO = 1, DP_PCI_COMMAND_MEMORY = 2, DP_PCI_COMMAND_MASTER = 4, DP_PCI_COMMAND_INTX_DISABLE = 0x400 };

struct dp_pci_msix_entry { uint64_t address; uint32_t data, control; }; /* control bit 0: masked */
struct dp_pci_regs {                   /* guest-visible, part of the owner's state table (dp_pci_regs_table) */
    uint8_t config[DP_PCI_CONFIG_SIZE];
    struct dp_pci_msix_entry msix[DP_PCI_MSIX_MAX];
    uint64_t msix_pending;             /* bit per vector */
    bool intx;                         /* level the function drives */
};
extern const struct dp_state_table dp_pci_regs_table;

struct dp_pci_bar {
    uint64_t size;
    bool io, is64, prefetchable;
    const struct dp_window_ops *ops;
    void *opaque;
    struct dp_ram *ram;         /* instead of ops; not owned, outlives the function */
    uint32_t mapping;
    uint64_t mapped_at;
    bool mapped;
};

struct dp_pci_host;
struct dp_pci_function {
    struct dp_pci_regs *regs;
    uint8_t initial[DP_PCI_CONFIG_SIZE]; /* as after power-on */
    uint8_t write_mask[DP_PCI_CONFIG_SIZE];
    struct dp_pci_bar bar[DP_PCI_BARS + 1]; /* the last is the expansion ROM */
    uint8_t device, function;          /* on bus 0 */
    uint8_t msix_cap, msi_cap;         /* offsets, 0 when none */
    uint8_t last_cap;                  /* offset of the last capability, 0 when none */
    uint16_t cap_end;                  /* where the next one goes */
    unsigned msix_vectors;
    struct dp_pci_host *host;          /* NULL while not plugged */
    pthread_mutex_t *lock;             /* the owner's */
    const struct dp_device_env *env;
    bool mapping_busy, mapping_again;  /* one thread at a time maps BARs, with no lock held */
    uint32_t intx_generation;          /* counts what changes the INTx level */
    /* Called without lock after a configuration write changed something (bus master, MSI or MSI-X enable, or a byte from watch_first to
     * watch_last); may be NULL. opaque is the owner's. */
    void (*config_changed)(struct dp_pci_function *f);
    uint16_t watch_first, watch_last; /* 0: none */
    void *opaque;
    /* For registers that are more than bytes (virtio's configuration access capability): called without lock before an access of 1, 2 or 4
     * bytes; true when it did the access itself. May be NULL. */
    bool (*config_access)(struct dp_pci_function *f, unsigned offset, unsigned size, uint32_t *value, bool write);
};

struct dp_pci_id {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint8_t revision;
    uint32_t class_code; /* 24 bits */
    uint8_t interrupt_pin;
};
/* Fills the header; then add BARs and capabilities, then plug. */
void dp_pci_function_init(struct dp_pci_function *f, struct dp_pci_regs *regs, const struct dp_pci_id *id, const struct dp_device_env *env,
                          pthread_mutex_t *lock);
void dp_pci_add_bar(struct dp_pci_function *f, unsigned n, uint64_t size, bool io, bool is64, const struct dp_window_ops *ops,
                    void *opaque);
/* A memory BAR that is RAM, all of it; its size is a power of two. */
void dp_pci_add_ram_bar(struct dp_pci_function *f, unsigned n, struct dp_ram *ram, bool is64, bool prefetchable);
/* The expansion ROM: size is a power of two, at least 2 KiB. Decodes while its enable bit and the command register's memory bit are set. */
void dp_pci_add_rom(struct dp_pci_function *f, uint64_t size, const struct dp_window_ops *ops, void *opaque);
/* Returns the offset of the capability; size includes the two header bytes; 0 when the space is full. */
unsigned dp_pci_add_capability(struct dp_pci_function *f, uint8_t id, unsigned size);
/* Fixed bytes of configuration space, part of the power-on image. */
void dp_pci_set_config(struct dp_pci_function *f, unsigned offset, uint32_t value, unsigned size);
/* MSI-X table and PBA in BAR n, which the function owns wholly. */
void dp_pci_add_msix(struct dp_pci_function *f, unsigned bar, unsigned vectors);
bool dp_pci_msix_enabled(const struct dp_pci_function *f);
/* Any thread, no lock held. Sends, or sets pending while masked. */
void dp_pci_msix_send(struct dp_pci_function *f, unsigned vector);
void dp_pci_intx(struct dp_pci_function *f, bool level);
/* MSI with one vector and a 64-bit address. While it is enabled INTx is silent. */
void dp_pci_add_msi(struct dp_pci_function *f);
bool dp_pci_msi_enabled(const struct dp_pci_function *f);
/* Any thread, no lock held. Nothing happens while MSI is not enabled or the function may not master the bus. */
void dp_pci_msi_send(struct dp_pci_function *f);
bool dp_pci_bus_master(const struct dp_pci_function *f);
/* After load: remap BARs, re-drive INTx. Does not call config_changed. */
void dp_pci_function_post_load(struct dp_pci_function *f);
void dp_pci_function_reset(struct dp_pci_function *f); /* BARs, command, MSI-X back to power-on */
/* One access to configuration space by either mechanism; size 1, 2 or 4 within the 4096 bytes. No lock held. */
uint32_t dp_pci_config_read(struct dp_pci_function *f, unsigned offset, unsigned size);
void dp_pci_config_write(struct dp_pci_function *f, unsigned offset, uint32_t value, unsigned size);

/* The host bridge: a device (class dp_pci_host_class): ports 0xcf8-0xcff, ECAM window of one bus (1 MiB), INTx routing to GSIs 16-23
 * ((device + pin) & 7 style, told to ACPI).
 * Port 0xcf9 lies within the window and is therefore here, too: the reset control register, which asks env->vm for a reset. */
extern const struct dp_device_class dp_pci_host_class;
struct dp_pci_host *dp_pci_host_of(struct dp_device *host);
/* The bridge's own function, to be made a certain chipset's between init and the first access. */
struct dp_pci_function *dp_pci_host_bridge(struct dp_device *host);
/* device 1-31, function 0; the other takes any function. */
int dp_pci_plug_function(struct dp_pci_host *h, struct dp_pci_function *f, unsigned device, unsigned function,
                         struct dp_error *e) DP_MUST_CHECK;
int dp_pci_plug(struct dp_pci_host *h, struct dp_pci_function *f, unsigned device, struct dp_error *e) DP_MUST_CHECK;
uint32_t dp_pci_slots_taken(struct dp_pci_host *h); /* a bit per slot; slot 0 is the bridge's */
void dp_pci_unplug(struct dp_pci_function *f); /* not plugged is fine */
/* Wires, set before init: gsi[n] for INTx routing, the spaces come from env. */
void dp_pci_host_wire(struct dp_device *host, const struct dp_irq gsi[8]);
/* Or four lines, as the i440FX's boards have them: PIRQA-D. */
void dp_pci_host_wire_pirqs(struct dp_device *host, const struct dp_irq pirq[4]);
/* Or up to eight lines, and which of them a pin (1 = INTA) pulls. */
void dp_pci_host_wire_lines(struct dp_device *host, const struct dp_irq *line, unsigned count,
                            unsigned (*route)(unsigned device, unsigned pin));
/* GSI of a device's pin (1 = INTA): what the DSDT's _PRT says. Number of its PIRQ (0 = PIRQA). */
unsigned dp_pci_gsi(unsigned device, unsigned pin);
unsigned dp_pci_pirq(unsigned device, unsigned pin);
/* pci.c to host.c: the level of one function's INTx pin. Idempotent; any thread, no lock held. */
void dp_pci_host_intx(struct dp_pci_host *h, unsigned device, unsigned function, unsigned pin, bool level);
enum { DP_PCI_WINDOW_PORTS, DP_PCI_WINDOW_ECAM }; /* windows of dp_pci_host_class */
/* The ECAM window's functions, for bridges that place it themselves and for more than bus 0, beyond which there is nothing. opaque: the
 * struct dp_pci_host. */
extern const struct dp_window_ops dp_pci_ecam_ops;

#endif
