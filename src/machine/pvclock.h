/* machine/pvclock.h - the paravirtual clock that KVM's guests know: two MSRs per processor name guest memory that describes time.
 *
 * Model: system time is the VM clock and the TSC is the VM clock scaled plus the processor's offset, so one constant pair (TSC = offset at time 0)
 * describes time for ever; structures are written when the guest asks, when it moves its TSC, and again after each pause, with the mark that the
 * guest was stopped.
 * Source: Linux Documentation/virt/kvm/x86/msr.rst, cpuid.rst (KVM_FEATURE_CLOCKSOURCE, _CLOCKSOURCE2, _STABLE_BIT).
 * Invariants: a structure's version is odd while it is being written. Addresses are the guest's: writes that meet no RAM vanish.
 */
#ifndef DP_MACHINE_PVCLOCK_H
#define DP_MACHINE_PVCLOCK_H

#include "devices/device.h"

#define DP_PVCLOCK_CPUS 256
enum {
    DP_MSR_KVM_WALL_CLOCK = 0x11,
    DP_MSR_KVM_SYSTEM_TIME = 0x12,
    DP_MSR_KVM_WALL_CLOCK_NEW = 0x4b564d00,
    DP_MSR_KVM_SYSTEM_TIME_NEW = 0x4b564d01
};

extern const struct dp_device_class dp_pvclock_class;
/* Before init: the TSC frequency guests see. */
void dp_pvclock_wire(struct dp_device *d, uint32_t tsc_khz);
/* A processor wrote one of the MSRs above; false: #GP(0). opaque is the device; fits struct dp_x86_bus. */
bool dp_pvclock_msr_write(void *opaque, unsigned cpu, uint32_t msr, uint64_t value);
/* The processor's TSC is the VM's + offset from now on. */
void dp_pvclock_tsc_moved(struct dp_device *d, unsigned cpu, int64_t offset);
/* ns = ((tsc << shift) * mul) >> 32 (shift < 0: right) for a TSC of that frequency; for tests too. */
void dp_pvclock_scale(uint32_t tsc_khz, uint32_t *mul, int8_t *shift);

#endif
