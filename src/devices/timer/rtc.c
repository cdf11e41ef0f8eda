/* rtc.c - see rtc.h. Seconds are counted from 0000-01-01 in the proleptic Gregorian calendar, modulo ten thousand years. */
#include "devices/timer/rtc.h"

enum {
    REG_SECOND,
    REG_SECOND_ALARM,
    REG_MINUTE,
    REG_MINUTE_ALARM,
    REG_HOUR,
    REG_HOUR_ALARM,
    REG_WEEKDAY,
    REG_DAY,
    REG_MONTH,
    REG_YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    REG_NVRAM,
};
#define A_UIP 0x80
#define B_SET 0x80
#define B_PIE 0x40
#define B_AIE 0x20
#define B_UIE 0x10
#define B_BINARY 0x04
#define B_24H 0x02
#define C_IRQ 0x80
#define C_PERIODIC 0x40
#define C_ALARM 0x20
#define C_UPDATE 0x10
#define C_FLAGS (C_PERIODIC | C_ALARM | C_UPDATE)
#define D_VALID 0x80

#define SECOND_NS 1000000000ull
#define UPDATE_NS 2228000u
#define DAY 86400u
#define TEN_MILLENNIA (25 * 146097ull * DAY)
#define UNIX_EPOCH 62167219200ull /* 1970-01-01 */

struct rtc_regs {
    uint8_t cmos[128]; /* alarms and NVRAM; the time's bytes count only while it stands */
    uint8_t index, a, b, c;
    uint64_t offset;  /* seconds to add to the host's */
    uint32_t phase;   /* ns to add: when in the host's second ours begins */
    uint64_t checked; /* VM time up to which flags were looked for */
};

struct rtc {
    struct dp_device device;
    struct rtc_regs regs;
    struct dp_timer timer;
    struct dp_irq irq;
    uint8_t nvram[128]; /* after reset */
    bool running;
};

struct calendar {
    unsigned second, minute, hour, weekday, day, month, year;
};

/* ---- calendar ---- */

static bool leap(unsigned y) { return y % 4 == 0 && (y % 100 || y % 400 == 0); }
static uint64_t days_before_year(uint64_t y) { return 365 * y + (y + 3) / 4 - (y + 99) / 100 + (y + 399) / 400; }

static unsigned days_in_month(unsigned month, unsigned year)
{
    static const uint8_t days[12] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    return days[month - 1] + (month == 2 && leap(year));
}

static struct calendar to_calendar(uint64_t seconds)
{
    uint64_t day = seconds / DAY, rest = seconds % DAY, year = day * 400 / 146097;
    while (days_before_year(year) > day)
        year--;
    while (days_before_year(year + 1) <= day)
        year++;
    struct calendar c = {rest % 60, rest / 60 % 60, rest / 3600, (day + 6) % 7 + 1, 0, 1, year}; /* 0000-01-01 was a Saturday */
    unsigned in_year = day - days_before_year(year);
    while (in_year >= days_in_month(c.month, c.year))
        in_year -= days_in_month(c.month++, c.year);
    c.day = in_year + 1;
    return c;
}

/* Fields a guest wrote: each brought into its range, days beyond the month run on into the next. */
static uint64_t from_calendar(const struct calendar *c)
{
    uint64_t day = days_before_year(c->year % 10000);
    unsigned month = (c->month + 11) % 12 + 1;
    for (unsigned m = 1; m < month; m++)
        day += days_in_month(m, c->year % 10000);
    day += c->day ? c->day - 1 : 0;
    return (day * DAY + c->hour % 24 * 3600 + c->minute % 60 * 60 + c->second % 60) % TEN_MILLENNIA;
}

static uint8_t encode(uint8_t b, unsigned v) { return b & B_BINARY ? v : v / 10 << 4 | v % 10; }
static unsigned decode(uint8_t b, uint8_t v) { return b & B_BINARY ? v : (v >> 4) * 10u + (v & 15); }

static uint8_t encode_hour(uint8_t b, unsigned h)
{
    if (b & B_24H)
        return encode(b, h);
    return encode(b, h % 12 ? h % 12 : 12) | (h >= 12 ? 0x80 : 0);
}

static unsigned decode_hour(uint8_t b, uint8_t v)
{
    if (b & B_24H)
        return decode(b, v);
    return decode(b, v & 0x7f) % 12 + (v & 0x80 ? 12 : 0);
}

/* ---- the running time ---- */

static bool divider_reset(const struct rtc_regs *r) { return (r->a & 0x60) == 0x60; }
static bool stands(const struct rtc_regs *r) { return (r->b & B_SET) || divider_reset(r); }

/* The divider chain: ns since the epoch, our seconds beginning at its multiples of a second. */
static uint64_t chain_at(struct rtc *d, uint64_t vm_ns) { return dp_clock_wall_base(d->device.env->clock) + vm_ns + d->regs.phase; }
static uint64_t vm_time_of(struct rtc *d, uint64_t chain)
{
    uint64_t zero = chain_at(d, 0);
    return chain > zero ? chain - zero : 0;
}
static uint64_t seconds_of(const struct rtc_regs *r, uint64_t chain)
{
    return (UNIX_EPOCH + chain / SECOND_NS + r->offset) % TEN_MILLENNIA;
}

static void put_fields(uint8_t b, uint8_t *cmos, uint64_t seconds)
{
    struct calendar c = to_calendar(seconds);
    cmos[REG_SECOND] = encode(b, c.second);
    cmos[REG_MINUTE] = encode(b, c.minute);
    cmos[REG_HOUR] = encode_hour(b, c.hour);
    cmos[REG_WEEKDAY] = encode(b, c.weekday);
    cmos[REG_DAY] = encode(b, c.day);
    cmos[REG_MONTH] = encode(b, c.month);
    cmos[REG_YEAR] = encode(b, c.year % 100);
    cmos[DP_RTC_CENTURY] = encode(b, c.year / 100);
}

static uint64_t get_fields(uint8_t b, const uint8_t *cmos)
{
    struct calendar c = {
        .second = decode(b, cmos[REG_SECOND]),
        .minute = decode(b, cmos[REG_MINUTE]),
        .hour = decode_hour(b, cmos[REG_HOUR]),
        .day = decode(b, cmos[REG_DAY]),
        .month = decode(b, cmos[REG_MONTH]),
        .year = decode(b, cmos[DP_RTC_CENTURY]) % 100 * 100 + decode(b, cmos[REG_YEAR]) % 100,
    };
    return from_calendar(&c);
}

static void set_seconds(struct rtc *d, uint64_t now, uint64_t seconds)
{
    d->regs.offset = 0;
    d->regs.offset = (seconds + TEN_MILLENNIA - seconds_of(&d->regs, chain_at(d, now))) % TEN_MILLENNIA;
}

static bool is_time(unsigned reg)
{
    return reg == DP_RTC_CENTURY || (reg <= REG_YEAR && reg != REG_SECOND_ALARM && reg != REG_MINUTE_ALARM && reg != REG_HOUR_ALARM);
}

/* ---- flags ---- */

/* Ticks of 32768 Hz from one periodic interrupt to the next; 0: none. */
static unsigned periodic_ticks(const struct rtc_regs *r)
{
    unsigned rate = r->a & 15;
    if (!rate || divider_reset(r))
        return 0;
    return 1u << ((rate < 3 ? rate + 7 : rate) - 1);
}

static uint64_t periodic_edges(uint64_t chain, unsigned ticks) { return (uint64_t)((unsigned __int128)chain * 32768 / SECOND_NS) / ticks; }

static bool alarm_matches(uint8_t alarm, uint8_t now) { return alarm >= 0xc0 || alarm == now; }

/* Seconds from `seconds` until the alarm, 1 to a day; more when it never comes. */
static unsigned until_alarm(const struct rtc_regs *r, uint64_t seconds)
{
    unsigned d = 1;
    while (d <= DAY) {
        unsigned tod = (seconds + d) % DAY;
        if (!alarm_matches(r->cmos[REG_HOUR_ALARM], encode_hour(r->b, tod / 3600)))
            d += 3600 - tod % 3600;
        else if (!alarm_matches(r->cmos[REG_MINUTE_ALARM], encode(r->b, tod / 60 % 60)))
            d += 60 - tod % 60;
        else if (!alarm_matches(r->cmos[REG_SECOND_ALARM], encode(r->b, tod % 60)))
            d++;
        else
            return d;
    }
    return DAY + 1;
}

/* Under the lock, before anything is read or changed: what happened since the last look? */
static uint64_t look(struct rtc *d)
{
    struct rtc_regs *r = &d->regs;
    uint64_t now = dp_clock_now(d->device.env->clock);
    if (now > r->checked) {
        uint64_t from = chain_at(d, r->checked), to = chain_at(d, now), passed = to / SECOND_NS - from / SECOND_NS;
        unsigned ticks = periodic_ticks(r);
        if (ticks && periodic_edges(from, ticks) != periodic_edges(to, ticks))
            r->c |= C_PERIODIC;
        if (!stands(r) && passed) {
            r->c |= C_UPDATE;
            if (until_alarm(r, seconds_of(r, from)) <= passed)
                r->c |= C_ALARM;
        }
    }
    r->checked = now;
    r->c = (r->c & C_FLAGS) | (r->c & r->b & C_FLAGS ? C_IRQ : 0);
    return now;
}

/* Under the lock: arms the timer for the next interrupt that is enabled and not yet flagged. */
static void plan(struct rtc *d, uint64_t now)
{
    struct rtc_regs *r = &d->regs;
    uint64_t chain = chain_at(d, now), at = UINT64_MAX;
    unsigned wanted = r->b & ~r->c & C_FLAGS, ticks = periodic_ticks(r);
    r->c = (r->c & C_FLAGS) | (r->c & r->b & C_FLAGS ? C_IRQ : 0);
    if (!d->running || !wanted) {
        dp_timer_disarm(&d->timer);
        return;
    }
    if ((wanted & C_PERIODIC) && ticks) {
        unsigned __int128 edge = (unsigned __int128)(periodic_edges(chain, ticks) + 1) * ticks;
        at = (uint64_t)((edge * SECOND_NS + 32767) / 32768);
    }
    if (!stands(r)) {
        uint64_t second = chain / SECOND_NS;
        if (wanted & C_UPDATE)
            at = DP_MIN(at, (second + 1) * SECOND_NS);
        if (wanted & C_ALARM) {
            unsigned n = until_alarm(r, seconds_of(r, chain));
            if (n <= DAY)
                at = DP_MIN(at, (second + n) * SECOND_NS);
        }
    }
    if (at == UINT64_MAX)
        dp_timer_disarm(&d->timer);
    else
        dp_timer_arm(&d->timer, vm_time_of(d, at));
}

/* fell: the line, an ISA one where the edge counts, was let go; another thread may have raised the level again since. */
static void drive(struct rtc *d, bool fell)
{
    if (fell)
        dp_irq_set(&d->irq, false);
    for (bool first = true, level = false;; first = false) {
        pthread_mutex_lock(&d->device.lock);
        bool now = d->regs.c & C_IRQ;
        pthread_mutex_unlock(&d->device.lock);
        if (!first && now == level)
            return;
        level = now;
        dp_irq_set(&d->irq, level);
    }
}

static void fired(void *opaque)
{
    struct rtc *d = opaque;
    pthread_mutex_lock(&d->device.lock);
    bool running = d->running;
    if (running)
        plan(d, look(d));
    pthread_mutex_unlock(&d->device.lock);
    if (running)
        drive(d, false);
}

/* ---- registers ---- */

static uint8_t read_register(struct rtc *d, unsigned reg, uint64_t now)
{
    struct rtc_regs *r = &d->regs;
    uint64_t chain = chain_at(d, now);
    uint8_t v;
    switch (reg) {
    case REG_A:
        return r->a | (!stands(r) && SECOND_NS - chain % SECOND_NS <= UPDATE_NS ? A_UIP : 0);
    case REG_B:
        return r->b;
    case REG_C:
        v = r->c;
        r->c = 0;
        return v;
    case REG_D:
        return D_VALID;
    }
    if (!is_time(reg) || stands(r))
        return r->cmos[reg];
    uint8_t fields[128];
    put_fields(r->b, fields, seconds_of(r, chain));
    return fields[reg];
}

/* SET and the divider's reset make the time stand, and its bytes memory; when it goes on, it does from these bytes. */
static void write_ab(struct rtc *d, unsigned reg, uint8_t v, uint64_t now)
{
    struct rtc_regs *r = &d->regs;
    bool stood = stands(r), held = divider_reset(r);
    if (reg == REG_A)
        r->a = v & 0x7f;
    else
        r->b = v & B_SET ? v & ~B_UIE : v;
    if (!stood && stands(r))
        put_fields(r->b, r->cmos, seconds_of(r, chain_at(d, now)));
    if (held && !divider_reset(r)) {
        /* The first update comes half a second after the divider is released. */
        uint64_t part = (chain_at(d, now) - r->phase) % SECOND_NS;
        r->phase = (SECOND_NS + SECOND_NS / 2 - part) % SECOND_NS;
    }
    if (stood && !stands(r))
        set_seconds(d, now, get_fields(r->b, r->cmos));
}

static void write_register(struct rtc *d, unsigned reg, uint8_t v, uint64_t now)
{
    struct rtc_regs *r = &d->regs;
    if (reg == REG_A || reg == REG_B) {
        write_ab(d, reg, v, now);
    } else if (is_time(reg) && !stands(r)) {
        uint8_t fields[128];
        put_fields(r->b, fields, seconds_of(r, chain_at(d, now)));
        fields[reg] = v;
        set_seconds(d, now, get_fields(r->b, fields));
    } else if (reg != REG_C && reg != REG_D) {
        r->cmos[reg] = v;
    }
}

static uint64_t read(void *opaque, uint64_t offset, unsigned size)
{
    struct rtc *d = opaque;
    if (!offset)
        return 0xff;
    pthread_mutex_lock(&d->device.lock);
    uint8_t before = d->regs.c;
    uint64_t now = look(d);
    uint8_t v = read_register(d, d->regs.index, now);
    plan(d, now);
    bool fell = before & ~d->regs.c & C_IRQ;
    pthread_mutex_unlock(&d->device.lock);
    drive(d, fell);
    return v;
}

static void write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct rtc *d = opaque;
    pthread_mutex_lock(&d->device.lock);
    uint8_t before = d->regs.c;
    if (!offset) {
        d->regs.index = value & 0x7f;
    } else {
        uint64_t now = look(d);
        write_register(d, d->regs.index, (uint8_t)value, now);
        plan(d, now);
    }
    bool fell = before & ~d->regs.c & C_IRQ;
    pthread_mutex_unlock(&d->device.lock);
    if (offset)
        drive(d, fell);
}

static const struct dp_window_ops ops = {.name = "rtc", .read = read, .write = write, .min_size = 1, .max_size = 1};
static const struct dp_window_spec windows[] = {{"cmos", 2, &ops, true}};

/* ---- life ---- */

static int check(const void *regs, struct dp_error *e)
{
    const struct rtc_regs *r = regs;
    if (r->phase >= SECOND_NS || r->offset >= TEN_MILLENNIA)
        return dp_error_set(e, -EINVAL, "rtc: the saved time is out of range; the state is damaged");
    return 0;
}

static void clamp(void *regs)
{
    struct rtc_regs *r = regs;
    r->phase %= SECOND_NS;
    r->offset %= TEN_MILLENNIA;
}

static const struct dp_field fields[] = {
    DP_FIELD_BYTES(struct rtc_regs, cmos, 1),
    DP_FIELD_U8(struct rtc_regs, index, 2, 0, 0x7f),
    DP_FIELD_U8(struct rtc_regs, a, 3, 0x26, 0x7f), /* 32768 Hz, 1024 Hz periodic */
    DP_FIELD_U8(struct rtc_regs, b, 4, B_24H, 0),
    DP_FIELD_U8(struct rtc_regs, c, 5, 0, C_IRQ | C_FLAGS),
    DP_FIELD_U64(struct rtc_regs, offset, 6, 0, 0),
    DP_FIELD_U32(struct rtc_regs, phase, 7, 0, 0),
    DP_FIELD_U64(struct rtc_regs, checked, 8, 0, (1ull << 62) - 1),
};
static const struct dp_state_table state = DP_STATE_TABLE(struct rtc_regs, "rtc", fields, .check = check, .clamp = clamp);

void dp_rtc_wire(struct dp_device *d, struct dp_irq irq8) { ((struct rtc *)d)->irq = irq8; }

void dp_rtc_set_nvram(struct dp_device *d, uint8_t index, uint8_t value)
{
    if (index >= REG_NVRAM && index < 128)
        ((struct rtc *)d)->nvram[index] = value;
}

static void set_word(struct dp_device *d, uint8_t index, uint64_t value)
{
    value = DP_MIN(value, 0xffffu);
    dp_rtc_set_nvram(d, index, (uint8_t)value);
    dp_rtc_set_nvram(d, index + 1, (uint8_t)(value >> 8));
}

void dp_rtc_set_memory(struct dp_device *d, uint64_t below_4g, uint64_t above_4g)
{
    uint64_t extended = below_4g > 1 << 20 ? below_4g - (1 << 20) : 0, above_16m = below_4g > 16 << 20 ? below_4g - (16 << 20) : 0;
    set_word(d, 0x15, DP_MIN(below_4g, 640u << 10) >> 10); /* KiB of base memory */
    set_word(d, 0x17, extended >> 10);                     /* KiB above 1 MiB, twice */
    set_word(d, 0x30, extended >> 10);
    set_word(d, 0x34, above_16m >> 16);                 /* 64 KiB units above 16 MiB */
    uint64_t units = DP_MIN(above_4g >> 16, 0xffffffu); /* 64 KiB units above 4 GiB */
    for (unsigned i = 0; i < 3; i++)
        dp_rtc_set_nvram(d, 0x5b + i, (uint8_t)(units >> i * 8));
}

static int init(struct dp_device *dev, struct dp_error *e)
{
    struct rtc *d = (struct rtc *)dev;
    dp_timer_init(&d->timer, dev->env->clock, fired, d);
    return 0;
}

static void fini(struct dp_device *dev) { dp_timer_fini(&((struct rtc *)dev)->timer); }

static void reset(struct dp_device *dev)
{
    struct rtc *d = (struct rtc *)dev;
    pthread_mutex_lock(&dev->lock);
    memcpy(d->regs.cmos, d->nvram, sizeof(d->regs.cmos));
    d->regs.checked = dp_clock_now(dev->env->clock);
    plan(d, d->regs.checked);
    pthread_mutex_unlock(&dev->lock);
    drive(d, false);
}

static void set_running(struct dp_device *dev, bool running)
{
    struct rtc *d = (struct rtc *)dev;
    pthread_mutex_lock(&dev->lock);
    d->running = running;
    plan(d, running ? look(d) : d->regs.checked);
    pthread_mutex_unlock(&dev->lock);
    if (running)
        drive(d, false);
}

static void pause_(struct dp_device *dev) { set_running(dev, false); }
static void resume(struct dp_device *dev) { set_running(dev, true); }
static void post_load(struct dp_device *dev) { drive((struct rtc *)dev, false); }

const struct dp_device_class dp_rtc_class = {
    .name = "rtc",
    .summary = "MC146818 real-time clock and CMOS memory",
    .size = sizeof(struct rtc),
    .regs_offset = offsetof(struct rtc, regs),
    .state = &state,
    .windows = windows,
    .window_count = DP_ARRAY_LEN(windows),
    .init = init,
    .fini = fini,
    .reset = reset,
    .pause = pause_,
    .resume = resume,
    .post_load = post_load,
};
