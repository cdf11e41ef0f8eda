/* devices/firmware/pm.h - ACPI fixed hardware: PM1a events and control, PM timer, a GPE0 block, a reset register.
 *
 * Model: always in ACPI mode (SCI_EN reads as set, there is no SMI command). The PM timer follows the VM clock; its carry is found when
 * somebody looks, and a host timer runs only while the guest wants the interrupt. Writing SLP_EN with the S5 type powers the VM off.
 * GPE0 has 16 bits of status and 16 of enable, of which one exists.
 * Source: ACPI 6.4, 4.8.3 (fixed hardware), 4.8.4.1 (general-purpose events), 4.8.3.6 (reset register).
 */
#ifndef DP_ACPI_PM_H
#define DP_ACPI_PM_H

#include "devices/device.h"

#define DP_ACPI_PM_BASE 0x600
enum { DP_ACPI_PM_EVENT = 0, DP_ACPI_PM_CONTROL = 4, DP_ACPI_PM_TIMER = 8, DP_ACPI_PM_GPE0 = 12, DP_ACPI_PM_SIZE = 16 }; /* offsets */
#define DP_ACPI_PM_TIMER_HZ 3579545
#define DP_ACPI_S5_TYPE 5
#define DP_ACPI_RESET_PORT 0xcf9
#define DP_ACPI_RESET_VALUE 6
enum { DP_ACPI_GPE_PCI = 1 }; /* a card is plugged or shall be taken out (devices/pci/hotplug.h) */

extern const struct dp_device_class dp_acpi_pm_class; /* property timer32 (bool, on): PM timer of 32 bits, not 24; FADT TMR_VAL_EXT */
/* RESET is one port, 0xcf9, for machines whose PCI host does not have it: where it does, a second window would split its dwords. */
enum { DP_ACPI_PM_WINDOW, DP_ACPI_PM_WINDOW_RESET };

void dp_acpi_pm_wire(struct dp_device *pm, struct dp_irq sci); /* before dp_device_init */
/* Any thread; while paused the event is held until resume. */
void dp_acpi_pm_power_button(struct dp_device *pm);
/* General-purpose event n happens. Any thread; likewise. */
void dp_acpi_pm_gpe(struct dp_device *pm, unsigned n);

#endif
