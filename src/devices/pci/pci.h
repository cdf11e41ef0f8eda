/* devices/pci/pci.h - PCI functions, their configuration space, BARs and MSI-X; the host bridge.
 *
 * Model: a function is a struct embedded in an adapter device (virtio-pci). Its 256 (4096 with ECAM) bytes of configuration space are plain state with a
 * write mask. BARs point at windows; the host bridge maps and unmaps them as the guest programs them. Interrupts: INTx by four lines per bus, or MSI-X.
 * Source: PCI Local Bus 3.0 ch. 6; PCI Express Base 3.0 ch. 7 (ECAM).
 * Invariants: no BAR decode that wraps or exceeds the space; MSI-X table accesses are checked against its size.
 */
#ifndef DP_PCI_H
#define DP_PCI_H

#include "devices/device.h"

#define DP_PCI_BARS 6
#define DP_PCI_CONFIG_SIZE 4096
#define DP_PCI_MSIX_MAX 64

struct dp_pci_regs {                   /* guest-visible, part of the owner's state table (dp_pci_regs_table) */
    uint8_t config[DP_PCI_CONFIG_SIZE];
    struct { uint64_t address; uint32_t data, control; } msix[DP_PCI_MSIX_MAX]; /* control bit 0: masked */
    uint64_t msix_pending;             /* bit per vector */
    bool intx;                         /* level the function drives */
};
extern const struct dp_state_table dp_pci_regs_table;

struct dp_pci_bar { uint64_t size; bool io, is64, prefetchable; const struct dp_window_ops *ops; void *opaque; uint32_t mapping; uint64_t mapped_at; };

struct dp_pci_function {
    struct dp_pci_regs *regs;
    uint8_t write_mask[DP_PCI_CONFIG_SIZE];
    struct dp_pci_bar bar[DP_PCI_BARS];
    uint8_t device, function;          /* on bus 0 */
    uint8_t msix_cap;                  /* offset, 0 when none */
    unsigned msix_vectors;
    struct dp_pci_host *host;
    pthread_mutex_t *lock;             /* the owner's */
    const struct dp_device_env *env;
    /* Called without lock after a configuration write changed something (bus master, MSI-X enable); may be NULL. */
    void (*config_changed)(struct dp_pci_function *f);
};

struct dp_pci_id { uint16_t vendor, device, subsystem_vendor, subsystem; uint8_t revision; uint32_t class_code; /* 24 bits */ uint8_t interrupt_pin; };
/* Fills the header; then add BARs and capabilities, then plug. */
void dp_pci_function_init(struct dp_pci_function *f, struct dp_pci_regs *regs, const struct dp_pci_id *id, const struct dp_device_env *env, pthread_mutex_t *lock);
void dp_pci_add_bar(struct dp_pci_function *f, unsigned n, uint64_t size, bool io, bool is64, const struct dp_window_ops *ops, void *opaque);
/* Returns the offset of the capability; size includes the two header bytes; 0 when the space is full. */
unsigned dp_pci_add_capability(struct dp_pci_function *f, uint8_t id, unsigned size);
/* MSI-X table and PBA in BAR n, which the function owns wholly. */
void dp_pci_add_msix(struct dp_pci_function *f, unsigned bar, unsigned vectors);
bool dp_pci_msix_enabled(const struct dp_pci_function *f);
/* Any thread, no lock held. Sends, or sets pending while masked. */
void dp_pci_msix_send(struct dp_pci_function *f, unsigned vector);
void dp_pci_intx(struct dp_pci_function *f, bool level);
bool dp_pci_bus_master(const struct dp_pci_function *f);
/* After load: remap BARs, re-drive INTx. */
void dp_pci_function_post_load(struct dp_pci_function *f);
void dp_pci_function_reset(struct dp_pci_function *f); /* BARs, command, MSI-X back to power-on */

/* The host bridge: a device (class dp_pci_host_class): ports 0xcf8-0xcff, ECAM window of one bus (1 MiB), INTx routing to GSIs 16-23 ((device + pin) & 7 style, told to ACPI). */
extern const struct dp_device_class dp_pci_host_class;
int dp_pci_plug(struct dp_pci_host *h, struct dp_pci_function *f, unsigned device, struct dp_error *e) DP_MUST_CHECK; /* device 1-31, function 0 */
void dp_pci_unplug(struct dp_pci_function *f);
/* Wires, set before init: gsi[n] for INTx routing, the spaces come from env. */
void dp_pci_host_wire(struct dp_device *host, const struct dp_irq gsi[8]);
/* GSI of a device's pin (1 = INTA): what the DSDT's _PRT says. */
unsigned dp_pci_gsi(unsigned device, unsigned pin);
enum { DP_PCI_WINDOW_PORTS, DP_PCI_WINDOW_ECAM }; /* windows of dp_pci_host_class */

#endif
