/* devices/pci/piix.h - the south bridge of i440FX boards: PIIX3's ISA bridge, with the routing of PCI interrupts to ISA ones, and PIIX4's
 * power management function, which says where the ACPI registers are.
 *
 * Model: functions 0 and 3 of one PCI device (1 is the IDE controller, devices/storage/ide.h). PIRQA-D go to the ISA interrupt that
 * PIRQRC[A:D] names; the ACPI registers are at PMBASE while PMREGMISC enables it. Both are south.h's.
 * Advanced power management control (port 0xb2, with a byte for its callee at 0xb3): a write there is a system management interrupt while
 * DEVACTB.APMC_EN is set; GLBCTL.SMI_EN counts as set.
 * Source: Intel 82371SB (PIIX3) datasheet 2.2 (ISA bridge: PIRQRC 2.2.10), Intel 82371AB (PIIX4) datasheet 7.1 (PMBASE 7.1.11,
 * PMREGMISC 7.1.26, DEVACTB 7.1.20, APMC, APMS 4.3.5).
 */
#ifndef DP_PCI_PIIX_H
#define DP_PCI_PIIX_H

#include "devices/pci/pci.h"

extern const struct dp_device_class dp_piix_isa_class, dp_piix_pm_class;
struct dp_pci_function *dp_piix_isa_function(struct dp_device *isa);
struct dp_pci_function *dp_piix_pm_function(struct dp_device *pm);
/* Before init: the 16 ISA interrupt lines. Afterwards PIRQn is an input. */
void dp_piix_isa_wire(struct dp_device *isa, const struct dp_irq irq[16]);
struct dp_irq dp_piix_isa_pirq(struct dp_device *isa, unsigned n);
/* Before init: the device of class dp_acpi_pm_class that has the registers. */
void dp_piix_pm_wire(struct dp_device *pm, struct dp_device *registers);
enum { DP_PIIX_PM_WINDOW_APM }; /* of dp_piix_pm_class: 2 ports, 0xb2 */
#define DP_PIIX_APM_PORT 0xb2
/* Before init: SMI#, an edge (true) for each interrupt. None: nothing comes of it, and firmware is
 * told that system management is set up. */
void dp_piix_pm_wire_smi(struct dp_device *pm, struct dp_irq smi);

#endif
