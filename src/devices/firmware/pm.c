/* pm.c - see pm.h. */
#include "devices/firmware/pm.h"

/* PM1 status and enable have the same bits. */
#define PM1_TIMER (1u << 0)
#define PM1_GLOBAL (1u << 5)
#define PM1_POWER_BUTTON (1u << 8)
#define PM1_SLEEP_BUTTON (1u << 9)
#define PM1_RTC (1u << 10)
#define PM1_ENABLES (PM1_TIMER | PM1_GLOBAL | PM1_POWER_BUTTON | PM1_SLEEP_BUTTON | PM1_RTC)

#define CONTROL_SCI_ENABLE (1u << 0)
#define CONTROL_WRITABLE 0x1c02u /* SLP_TYP, BM_RLD */
#define CONTROL_SLEEP_TYPE(v) ((v) >> 10 & 7)
#define CONTROL_SLEEP (1u << 13)
#define PIIX4_SOFT_OFF 0 /* what firmware's APM writes, knowing the chip rather than our tables */

#define GPE_EVENTS (1u << DP_ACPI_GPE_PCI)

#define RESET_CPU (1u << 2)
#define RESET_WRITABLE 0xeu

struct pm_regs {
    uint16_t status, enable, control;
    uint8_t reset_control;
    uint16_t gpe_status, gpe_enable;
    uint64_t carries; /* how often the PM timer's top bit had changed at the last look */
};

struct pm {
    struct dp_device device;
    struct pm_regs regs;
    struct dp_timer timer;
    struct dp_irq sci;
    bool timer32, running;
};

typedef unsigned __int128 u128;

static uint64_t ticks_now(struct pm *p) { return (uint64_t)((u128)dp_clock_now(p->device.env->clock) * DP_ACPI_PM_TIMER_HZ / 1000000000); }
static unsigned carry_shift(const struct pm *p) { return p->timer32 ? 31 : 23; }

/* Under the lock: notices a carry and plans the next interrupt. */
static void look(struct pm *p)
{
    struct pm_regs *r = &p->regs;
    uint64_t carries = ticks_now(p) >> carry_shift(p);
    if (carries != r->carries)
        r->status |= PM1_TIMER;
    r->carries = carries;
    if (p->running && (r->enable & ~r->status & PM1_TIMER)) {
        u128 tick = (u128)(carries + 1) << carry_shift(p);
        dp_timer_arm(&p->timer, (uint64_t)((tick * 1000000000 + DP_ACPI_PM_TIMER_HZ - 1) / DP_ACPI_PM_TIMER_HZ));
    } else {
        dp_timer_disarm(&p->timer);
    }
}

static void drive(struct pm *p)
{
    for (bool first = true, level = false;; first = false) {
        pthread_mutex_lock(&p->device.lock);
        bool now = (p->regs.status & p->regs.enable) | (p->regs.gpe_status & p->regs.gpe_enable);
        pthread_mutex_unlock(&p->device.lock);
        if (!first && now == level)
            return;
        level = now;
        dp_irq_set(&p->sci, level);
    }
}

static void fired(void *opaque)
{
    struct pm *p = opaque;
    pthread_mutex_lock(&p->device.lock);
    bool running = p->running;
    if (running)
        look(p);
    pthread_mutex_unlock(&p->device.lock);
    if (running)
        drive(p);
}

void dp_acpi_pm_power_button(struct dp_device *d)
{
    struct pm *p = (struct pm *)d;
    pthread_mutex_lock(&d->lock);
    p->regs.status |= PM1_POWER_BUTTON;
    bool running = p->running;
    pthread_mutex_unlock(&d->lock);
    if (running)
        drive(p);
}

void dp_acpi_pm_gpe(struct dp_device *d, unsigned n)
{
    struct pm *p = (struct pm *)d;
    pthread_mutex_lock(&d->lock);
    p->regs.gpe_status |= (uint16_t)(1u << n & GPE_EVENTS);
    bool running = p->running;
    pthread_mutex_unlock(&d->lock);
    if (running)
        drive(p);
}

/* ---- ports: four registers of 32 bits, accessed in naturally aligned parts ---- */

static uint64_t read(void *opaque, uint64_t offset, unsigned size)
{
    struct pm *p = opaque;
    struct pm_regs *r = &p->regs;
    uint32_t v = 0;
    bool event = false;
    pthread_mutex_lock(&p->device.lock);
    switch (offset & ~3ull) {
    case DP_ACPI_PM_EVENT:
        look(p);
        event = true;
        v = r->status | (uint32_t)r->enable << 16;
        break;
    case DP_ACPI_PM_CONTROL:
        v = r->control | CONTROL_SCI_ENABLE;
        break;
    case DP_ACPI_PM_TIMER:
        v = (uint32_t)(ticks_now(p) & (p->timer32 ? 0xffffffff : 0xffffff));
        break;
    case DP_ACPI_PM_GPE0:
        v = r->gpe_status | (uint32_t)r->gpe_enable << 16;
        break;
    }
    pthread_mutex_unlock(&p->device.lock);
    if (event)
        drive(p);
    return v >> (offset & 3) * 8 & dp_mask_bytes(size);
}

static void write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pm *p = opaque;
    struct pm_regs *r = &p->regs;
    unsigned shift = (offset & 3) * 8;
    uint32_t v = (uint32_t)value << shift, mask = (uint32_t)dp_mask_bytes(size) << shift;
    bool off = false;
    v &= mask;
    pthread_mutex_lock(&p->device.lock);
    switch (offset & ~3ull) {
    case DP_ACPI_PM_EVENT:
        look(p);
        r->status &= ~v;
        r->enable = ((r->enable & ~(mask >> 16)) | v >> 16) & PM1_ENABLES;
        look(p);
        break;
    case DP_ACPI_PM_CONTROL:
        r->control = ((r->control & ~mask) | v) & CONTROL_WRITABLE;
        off =
            (v & CONTROL_SLEEP) && (CONTROL_SLEEP_TYPE(r->control) == DP_ACPI_S5_TYPE || CONTROL_SLEEP_TYPE(r->control) == PIIX4_SOFT_OFF);
        if ((v & CONTROL_SLEEP) && !off)
            dp_trace_guest(p->device.env->trace, "%s: no sleep state has type %u", p->device.id, CONTROL_SLEEP_TYPE(r->control));
        break;
    case DP_ACPI_PM_GPE0:
        r->gpe_status &= (uint16_t)~v;
        r->gpe_enable = ((r->gpe_enable & ~(mask >> 16)) | v >> 16) & GPE_EVENTS;
        break;
    }
    pthread_mutex_unlock(&p->device.lock);
    drive(p);
    if (off && p->device.env->vm.request)
        p->device.env->vm.request(p->device.env->vm.opaque, DP_VM_POWEROFF, 0);
}

static uint64_t read_reset(void *opaque, uint64_t offset, unsigned size)
{
    struct pm *p = opaque;
    pthread_mutex_lock(&p->device.lock);
    uint8_t v = p->regs.reset_control;
    pthread_mutex_unlock(&p->device.lock);
    return v;
}

/* RST_CPU going from 0 to 1 resets; which kind is all one to a virtual machine. */
static void write_reset(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pm *p = opaque;
    pthread_mutex_lock(&p->device.lock);
    bool reset = value & ~(uint64_t)p->regs.reset_control & RESET_CPU;
    p->regs.reset_control = value & RESET_WRITABLE;
    pthread_mutex_unlock(&p->device.lock);
    if (reset && p->device.env->vm.request)
        p->device.env->vm.request(p->device.env->vm.opaque, DP_VM_RESET, 0);
}

static const struct dp_window_ops ops = {.name = "acpi-pm", .read = read, .write = write, .min_size = 1, .max_size = 4};
static const struct dp_window_ops reset_ops = {.name = "reset", .read = read_reset, .write = write_reset, .min_size = 1, .max_size = 1};
static const struct dp_window_spec windows[] = {{"pm", DP_ACPI_PM_SIZE, &ops, true}, {"reset", 1, &reset_ops, true}};

/* ---- life ---- */

static const struct dp_field fields[] = {
    DP_FIELD_U16(struct pm_regs, status, 1, 0, 0x8731),
    DP_FIELD_U16(struct pm_regs, enable, 2, 0, PM1_ENABLES),
    DP_FIELD_U16(struct pm_regs, control, 3, 0, CONTROL_WRITABLE),
    DP_FIELD_U8(struct pm_regs, reset_control, 4, 0, RESET_WRITABLE),
    DP_FIELD_U64(struct pm_regs, carries, 5, 0, 0),
    DP_FIELD_U16(struct pm_regs, gpe_status, 6, 0, GPE_EVENTS),
    DP_FIELD_U16(struct pm_regs, gpe_enable, 7, 0, GPE_EVENTS),
};
static const struct dp_state_table state = DP_STATE_TABLE(struct pm_regs, "acpi-pm", fields);

static const struct dp_property properties[] = {
    {"timer32", "PM timer of 32 bits instead of 24", DP_PROP_BOOL, offsetof(struct pm, timer32), 1, 0, 1, NULL},
};

void dp_acpi_pm_wire(struct dp_device *d, struct dp_irq sci) { ((struct pm *)d)->sci = sci; }

static int init(struct dp_device *d, struct dp_error *e)
{
    struct pm *p = (struct pm *)d;
    dp_timer_init(&p->timer, d->env->clock, fired, p);
    return 0;
}

static void fini(struct dp_device *d) { dp_timer_fini(&((struct pm *)d)->timer); }

static void reset(struct dp_device *d)
{
    struct pm *p = (struct pm *)d;
    pthread_mutex_lock(&d->lock);
    p->regs.carries = ticks_now(p) >> carry_shift(p); /* the timer does not stop for a reset */
    dp_timer_disarm(&p->timer);
    pthread_mutex_unlock(&d->lock);
    drive(p);
}

static void pause_(struct dp_device *d)
{
    struct pm *p = (struct pm *)d;
    pthread_mutex_lock(&d->lock);
    p->running = false;
    dp_timer_disarm(&p->timer);
    pthread_mutex_unlock(&d->lock);
}

static void resume(struct dp_device *d)
{
    struct pm *p = (struct pm *)d;
    pthread_mutex_lock(&d->lock);
    p->running = true;
    look(p);
    pthread_mutex_unlock(&d->lock);
    drive(p);
}

static void post_load(struct dp_device *d) { drive((struct pm *)d); }

const struct dp_device_class dp_acpi_pm_class = {
    .name = "acpi-pm",
    .summary = "ACPI power management block",
    .size = sizeof(struct pm),
    .regs_offset = offsetof(struct pm, regs),
    .state = &state,
    .properties = properties,
    .property_count = DP_ARRAY_LEN(properties),
    .windows = windows,
    .window_count = DP_ARRAY_LEN(windows),
    .init = init,
    .fini = fini,
    .reset = reset,
    .pause = pause_,
    .resume = resume,
    .post_load = post_load,
};
