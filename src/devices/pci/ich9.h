/* devices/pci/ich9.h - the south bridge of a Q35's board: the LPC function of an ICH9.
 *
 * Model: function 0 of PCI device 31 (8086:2918; function 2 is the SATA controller, devices/storage/ahci.h). PIRQA-H go to the ISA
 * interrupt that their
 * routing register names, if it enables that, and always to pins 16-23 of the I/O APIC: systems use one or the other. The ACPI registers
 * are at PMBASE
 * while ACPI_CNTL enables it (south.h). RCBA places the root complex's registers: 16 KiB of which the chipset configuration (3000-3FFF) is
 * kept as
 * written and the rest reads as 0; none of them does anything. Port 0xcf9 (RST_CNT) is the PCI host's. There is no SMBus, no GPIO, no TCO
 * timer.
 * Source: Intel ICH9 datasheet (316972) 10.1 (RCBA), 13.1 (configuration registers), 5.8 (interrupts).
 */
#ifndef DP_PCI_ICH9_H
#define DP_PCI_ICH9_H

#include "devices/pci/pci.h"

enum { DP_ICH9_PIRQS = 8 };
extern const struct dp_device_class dp_ich9_lpc_class;
struct dp_pci_function *dp_ich9_lpc_function(struct dp_device *lpc);
/* Before init: the 16 ISA interrupt lines, pins 16-23 of the I/O APIC, the device of class dp_acpi_pm_class. Afterwards PIRQn is an input.
 * */
void dp_ich9_lpc_wire(struct dp_device *lpc, const struct dp_irq irq[16], const struct dp_irq apic[DP_ICH9_PIRQS], struct dp_device *pm);
struct dp_irq dp_ich9_lpc_pirq(struct dp_device *lpc, unsigned n);

#endif
