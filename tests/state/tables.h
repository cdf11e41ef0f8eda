/* tables.h - every state table of the tree. A new device adds its class here (and its lines to schema.txt: run the
 * test with DP_UPDATE_SCHEMA=1); a table that is no device's adds itself.
 */
#ifndef DP_TESTS_TABLES_H
#define DP_TESTS_TABLES_H

#include "devices/char/debug_exit.h"
#include "devices/char/debugcon.h"
#include "devices/char/parallel.h"
#include "devices/char/test_device.h"
#include "devices/char/uart.h"
#include "devices/firmware/fw_cfg.h"
#include "devices/firmware/pflash.h"
#include "devices/display/vga.h"
#include "devices/firmware/pm.h"
#include "devices/input/i8042.h"
#include "devices/intc/coprocessor.h"
#include "devices/intc/dma8237.h"
#include "devices/intc/ioapic.h"
#include "devices/intc/lapic.h"
#include "devices/intc/pic.h"
#include "devices/pci/hotplug.h"
#include "devices/pci/ich9.h"
#include "devices/pci/piix.h"
#include "devices/net/e1000.h"
#include "devices/net/ne2k.h"
#include "devices/net/rtl8139.h"
#include "devices/timer/hpet.h"
#include "devices/storage/ahci.h"
#include "devices/storage/ide.h"
#include "devices/storage/fdc.h"
#include "devices/timer/pit.h"
#include "devices/timer/rtc.h"
#include "devices/usb/xhci.h"
#include "devices/virtio/virtio.h"
#include "devices/virtio/virtio_balloon.h"
#include "devices/virtio/virtio_gpu.h"
#include "devices/virtio/virtio_input.h"
#include "isa/x86/state.h"
#include "machine/pvclock.h"
#include "tests/state/sample.h"

static const struct dp_device_class *const state_classes[] = {
    &dp_acpi_pm_class,     &dp_exit_status_class, &dp_ioapic_class,     &dp_lapic_class,         &dp_pci_host_class,
    &dp_pic_class,         &dp_pit_class,         &dp_pvclock_class,    &dp_rtc_class,           &dp_uart_class,
    &dp_virtio_blk_class,  &dp_virtio_scsi_class, &dp_virtio_pci_class,  &dp_virtio_rng_class, &dp_virtio_console_class, &dp_test_device_class,
    &dp_fw_cfg_class,      &dp_debugcon_class,    &dp_parallel_class,   &dp_pflash_class,     &dp_hpet_class,
    &dp_ahci_class,        &dp_ide_class,         &dp_vga_class,         &dp_piix_isa_class,   &dp_piix_pm_class,    &dp_ich9_lpc_class,
    &dp_i8042_class,       &dp_dma_class,        &dp_fdc_class,
    &dp_coprocessor_class,
    &dp_e1000_class,      &dp_rtl8139_class,     &dp_ne2k_isa_class,   &dp_ne2k_pci_class,
    &dp_virtio_net_class,
    &dp_virtio_gpu_class,  &dp_virtio_input_class,
    &dp_xhci_class,
    &dp_virtio_balloon_class,
    &dp_pci_hotplug_class,
};

static const struct dp_state_table *const state_plain_tables[] = {
    &sample_table,
    &x86_state_table,
};

static inline unsigned state_table_count(void) { return DP_ARRAY_LEN(state_plain_tables) + DP_ARRAY_LEN(state_classes); }

static inline const struct dp_state_table *state_table(unsigned i)
{
    return i < DP_ARRAY_LEN(state_plain_tables) ? state_plain_tables[i] : state_classes[i - DP_ARRAY_LEN(state_plain_tables)]->state;
}

#endif
