/* machine/pvclock.c - see pvclock.h. */
#include "machine/pvclock.h"

enum { FLAG_TSC_STABLE = 1 << 0, FLAG_GUEST_STOPPED = 1 << 1 };
enum { ENABLE = 1 };

struct time_info {
    uint32_t version, pad0;
    uint64_t tsc_timestamp, system_time;
    uint32_t tsc_to_system_mul;
    int8_t tsc_shift;
    uint8_t flags, pad[2];
};
struct wall_clock {
    uint32_t version, sec, nsec;
};
_Static_assert(sizeof(struct time_info) == 32 && sizeof(struct wall_clock) == 12, "fixed by the interface");

struct pvclock_regs {
    uint64_t system_time[DP_PVCLOCK_CPUS]; /* MSR values: address, bit 0 enables */
    uint64_t wall_clock;
    uint64_t tsc_offset[DP_PVCLOCK_CPUS];
};
static const struct dp_field fields[] = {
    DP_FIELD_ARRAY(struct pvclock_regs, system_time, 1, DP_KIND_U64, 0, 0),
    DP_FIELD_U64(struct pvclock_regs, wall_clock, 2, 0, 0),
    DP_FIELD_ARRAY(struct pvclock_regs, tsc_offset, 3, DP_KIND_U64, 0, 0),
};
static const struct dp_state_table state = DP_STATE_TABLE(struct pvclock_regs, "pvclock", fields);

struct pvclock {
    struct dp_device d;
    struct pvclock_regs regs;
    uint32_t tsc_khz;
    bool was_paused;
};

void dp_pvclock_scale(uint32_t tsc_khz, uint32_t *mul, int8_t *shift)
{
    /* The factor 10^6 / khz is normalised into [1/2, 1), so that mul keeps 32 significant bits. */
    uint64_t numerator = 1000000, denominator = tsc_khz ? tsc_khz : 1;
    int s = 0;
    while (numerator >= denominator) {
        denominator <<= 1;
        s++;
    }
    while (numerator * 2 < denominator) {
        numerator <<= 1;
        s--;
    }
    *mul = (uint32_t)((numerator << 32) / denominator);
    *shift = (int8_t)s;
}

/* Version odd, body, version even: a reader in between tries again. */
static void publish(struct dp_space *m, uint64_t at, void *structure, size_t size)
{
    uint32_t version;
    if (dp_space_read(m, at, &version, sizeof version))
        return;
    version = (version | 1) + (version & 1 ? 2 : 0);
    dp_space_write(m, at, &version, sizeof version);
    atomic_thread_fence(memory_order_seq_cst);
    dp_space_write(m, at + sizeof version, (uint8_t *)structure + sizeof version, size - sizeof version);
    atomic_thread_fence(memory_order_seq_cst);
    version++;
    dp_space_write(m, at, &version, sizeof version);
}

static void publish_time(struct pvclock *p, unsigned cpu, bool stopped)
{
    pthread_mutex_lock(&p->d.lock);
    uint64_t msr = p->regs.system_time[cpu], offset = p->regs.tsc_offset[cpu];
    pthread_mutex_unlock(&p->d.lock);
    struct time_info t = {.tsc_timestamp = offset, .flags = FLAG_TSC_STABLE | (stopped ? FLAG_GUEST_STOPPED : 0)};
    if (!(msr & ENABLE))
        return;
    dp_pvclock_scale(p->tsc_khz, &t.tsc_to_system_mul, &t.tsc_shift);
    publish(p->d.env->memory, msr & ~(uint64_t)ENABLE, &t, sizeof t);
}

bool dp_pvclock_msr_write(void *opaque, unsigned cpu, uint32_t msr, uint64_t value)
{
    struct pvclock *p = opaque;
    switch (msr) {
    case DP_MSR_KVM_WALL_CLOCK:
    case DP_MSR_KVM_WALL_CLOCK_NEW: {
        uint64_t base = dp_clock_wall_base(p->d.env->clock);
        struct wall_clock w = {.sec = (uint32_t)(base / 1000000000), .nsec = (uint32_t)(base % 1000000000)};
        pthread_mutex_lock(&p->d.lock);
        p->regs.wall_clock = value;
        pthread_mutex_unlock(&p->d.lock);
        publish(p->d.env->memory, value & ~3ull, &w, sizeof w);
        return true;
    }
    case DP_MSR_KVM_SYSTEM_TIME:
    case DP_MSR_KVM_SYSTEM_TIME_NEW:
        if (cpu >= DP_PVCLOCK_CPUS)
            return false;
        pthread_mutex_lock(&p->d.lock);
        p->regs.system_time[cpu] = value;
        pthread_mutex_unlock(&p->d.lock);
        publish_time(p, cpu, false);
        return true;
    default:
        return false;
    }
}

void dp_pvclock_wire(struct dp_device *d, uint32_t tsc_khz) { ((struct pvclock *)d)->tsc_khz = tsc_khz; }

static void pvclock_pause(struct dp_device *d) { ((struct pvclock *)d)->was_paused = true; }

static void pvclock_resume(struct dp_device *d)
{
    struct pvclock *p = (struct pvclock *)d;
    if (!p->was_paused)
        return;
    p->was_paused = false;
    for (unsigned i = 0; i < DP_PVCLOCK_CPUS; i++)
        publish_time(p, i, true);
}

void dp_pvclock_tsc_moved(struct dp_device *d, unsigned cpu, int64_t offset)
{
    struct pvclock *p = (struct pvclock *)d;
    pthread_mutex_lock(&d->lock);
    p->regs.tsc_offset[cpu] = (uint64_t)offset;
    pthread_mutex_unlock(&d->lock);
    publish_time(p, cpu, false);
}

/* Restored elsewhere counts as having been stopped. */
static void pvclock_post_load(struct dp_device *d) { ((struct pvclock *)d)->was_paused = true; }

const struct dp_device_class dp_pvclock_class = {
    .name = "pvclock",
    .summary = "paravirtual clock (kvmclock)",
    .size = sizeof(struct pvclock),
    .regs_offset = offsetof(struct pvclock, regs),
    .state = &state,
    .pause = pvclock_pause,
    .resume = pvclock_resume,
    .post_load = pvclock_post_load,
};
