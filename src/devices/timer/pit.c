/* pit.c - see pit.h. Times are in ticks of 1193182 Hz since VM time 0.
 *
 * A counter holds the count in use (`active`), the count written last (`reload`), the tick `start` at which the count in use was loaded
 * (one tick after what caused it, as the chip loads on the next clock pulse), and, while its gate stops it, how far it had got (`held`; in
 * mode 1: whether OUT was low when triggered).
 */
#include "devices/timer/pit.h"

#define MIN_EDGE_NS 20000
#define SPEAKER_NS 50000000 /* between looks while something sounds */
#define REFRESH_NS 15085 /* port 0x61 bit 4 toggles at each memory refresh */

#define MODE(c) counter_mode[(c)->control >> 1 & 7]
#define ACCESS(c) ((c)->control >> 4 & 3) /* 1 low byte, 2 high byte, 3 low then high */
#define BCD(c) ((c)->control & 1)
static const uint8_t counter_mode[8] = {0, 1, 2, 3, 4, 5, 2, 3};

struct counter {
    uint8_t control; /* bits 5-0 of the control word */
    bool gate, loaded, counting;
    bool pending; /* reload is not yet active */
    uint16_t reload, active;
    uint64_t start, held;
    uint64_t switch_at; /* modes 2 and 3: when a pending count takes over */
    bool count_latched, status_latched;
    uint16_t latch;
    uint8_t status;
    uint8_t write_low;
    bool write_high, read_high; /* next byte is the high one */
};

struct pit_regs {
    struct counter counter[3];
    uint8_t port61; /* bits 3-0 */
    uint64_t edge;  /* tick of counter 0's next rising OUT; 0: none */
};

struct pit {
    struct dp_device device;
    struct pit_regs regs;
    struct dp_timer timer;
    struct dp_irq irq;
    bool running;
    struct dp_sound speaker;
    struct dp_timer speaker_timer;
    uint64_t played; /* samples up to this one have been made */
};

static uint64_t ticks_now(struct pit *p)
{
    return (uint64_t)((unsigned __int128)dp_clock_now(p->device.env->clock) * DP_PIT_HZ / 1000000000);
}

static uint64_t tick_ns(uint64_t tick)
{
    unsigned __int128 ns = ((unsigned __int128)tick * 1000000000 + DP_PIT_HZ - 1) / DP_PIT_HZ;
    return ns > UINT64_MAX ? UINT64_MAX : (uint64_t)ns;
}

/* ---- counts ---- */

static uint32_t modulus(const struct counter *c) { return BCD(c) ? 10000 : 65536; }

/* A written count as a number; zero is the largest. Digits above 9 count as what they are. */
static uint32_t number(const struct counter *c, uint16_t v)
{
    uint32_t n = v;
    if (BCD(c))
        n = ((v >> 12) * 1000u + (v >> 8 & 15) * 100u + (v >> 4 & 15) * 10u + (v & 15)) % 10000;
    return n ? n : modulus(c);
}

static uint16_t encode(const struct counter *c, uint32_t n)
{
    n %= modulus(c);
    return BCD(c) ? n / 1000 << 12 | n / 100 % 10 << 8 | n / 10 % 10 << 4 | n % 10 : n;
}

static uint64_t elapsed(const struct counter *c, uint64_t t)
{
    if (!c->counting)
        return c->held;
    return (int64_t)(t - c->start) < 0 ? 0 : t - c->start;
}

/* A pending count takes over at the end of a cycle, in mode 3 of a half. */
static void settle(struct counter *c, uint64_t t)
{
    if (!c->pending || !c->counting || (MODE(c) != 2 && MODE(c) != 3) || (int64_t)(t - c->switch_at) < 0)
        return;
    bool at_half = (c->switch_at - c->start) % number(c, c->active) != 0;
    c->active = c->reload;
    c->start = at_half ? c->switch_at - (number(c, c->active) + 1) / 2 : c->switch_at;
    c->pending = false;
}

static uint16_t count(const struct counter *c, uint64_t t)
{
    uint64_t e = elapsed(c, t);
    uint32_t n = number(c, c->active), m = modulus(c), phase = e % n, high = (n + 1) / 2;
    switch (MODE(c)) {
    case 2:
        return encode(c, n - phase);
    case 3: /* by two; an odd count is loaded less one, and the high half is one tick longer */
        return encode(c, (n & ~1u) - 2 * (phase < high ? phase : phase - high));
    default:
        return encode(c, n + m - (uint32_t)(e % m));
    }
}

static bool out(const struct counter *c, uint64_t t)
{
    uint64_t e = elapsed(c, t);
    uint32_t n = number(c, c->active);
    switch (MODE(c)) {
    case 0:
        return c->loaded && e >= n;
    case 1:
        return !c->counting || ((int64_t)(t - c->start) < 0 ? !c->held : e >= n);
    case 2:
        return !c->counting || n == 1 || e % n != n - 1;
    case 3:
        return !c->counting || e % n < (n + 1) / 2;
    default:
        return !c->counting || e != n;
    }
}

/* When OUT rises next after t; 0: never, or not before something changes. */
static uint64_t next_rise(const struct counter *c, uint64_t t)
{
    uint64_t e = elapsed(c, t), n = number(c, c->active), base = (int64_t)(t - c->start) < 0 ? c->start : t - e;
    if (!c->counting)
        return 0;
    switch (MODE(c)) {
    case 0:
        return e < n ? base + n : 0;
    case 2:
    case 3: {
        uint64_t rise = base + (e / n + 1) * n;
        if (c->pending && (int64_t)(c->switch_at - t) > 0 && c->switch_at < rise)
            rise = c->switch_at; /* not a rise yet: look again then */
        return rise;
    }
    case 4:
        return e <= n ? base + n + 1 : 0;
    }
    return 0;
}

/* ---- programming; t is now, the lock is held ---- */

static void start(struct counter *c, uint64_t t)
{
    c->active = c->reload;
    c->pending = false;
    c->start = t + 1;
    c->held = 0;
    c->counting = c->gate;
}

static void set_gate(struct counter *c, bool level, uint64_t t)
{
    if (level == c->gate)
        return;
    settle(c, t);
    c->gate = level;
    if (!c->loaded)
        return;
    switch (MODE(c)) {
    case 0:
    case 4:
        if (level)
            c->start = t - c->held;
        else
            c->held = elapsed(c, t);
        c->counting = level;
        break;
    case 1:
    case 5:
        if (level) {
            bool low = !out(c, t);
            start(c, t);
            c->held = low; /* a shot triggered again stays low until it is loaded */
        }
        break;
    default:
        if (level) {
            start(c, t);
        } else {
            c->held = elapsed(c, t);
            c->counting = false;
        }
    }
}

static void set_count(struct counter *c, uint16_t v, uint64_t t)
{
    settle(c, t);
    bool first = !c->loaded;
    c->reload = v;
    c->loaded = true;
    switch (MODE(c)) {
    case 0:
    case 4:
        start(c, t);
        return;
    case 1:
    case 5:
        c->pending = true; /* until the trigger */
        return;
    }
    if (first || (c->counting && (int64_t)(t - c->start) < 0)) {
        start(c, t);
        return;
    }
    c->pending = true;
    if (c->counting) {
        uint64_t n = number(c, c->active), phase = elapsed(c, t) % n, half = MODE(c) == 3 && phase < (n + 1) / 2 ? (n + 1) / 2 : n;
        c->switch_at = t - phase + half;
    }
}

static void write_counter(struct counter *c, uint8_t v, uint64_t t)
{
    switch (ACCESS(c)) {
    case 1:
        set_count(c, v, t);
        break;
    case 2:
        set_count(c, (uint16_t)(v << 8), t);
        break;
    default:
        if (c->write_high) {
            set_count(c, (uint16_t)(v << 8 | c->write_low), t);
        } else {
            c->write_low = v;
            if (MODE(c) == 0) { /* the first byte stops the count */
                c->loaded = c->counting = false;
                c->held = 0;
            }
        }
        c->write_high = !c->write_high;
    }
}

static uint8_t read_counter(struct counter *c, uint64_t t)
{
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    uint16_t v = c->count_latched ? c->latch : count(c, t);
    bool high = ACCESS(c) == 2 || (ACCESS(c) == 3 && c->read_high);
    if (ACCESS(c) == 3)
        c->read_high = !c->read_high;
    if (ACCESS(c) != 3 || high)
        c->count_latched = false;
    return high ? v >> 8 : (uint8_t)v;
}

static void latch_count(struct counter *c, uint64_t t)
{
    if (c->count_latched)
        return;
    c->count_latched = true;
    c->latch = count(c, t);
}

static void latch_status(struct counter *c, uint64_t t)
{
    if (c->status_latched)
        return;
    bool null_count = !c->loaded || c->pending || (c->counting && (int64_t)(t - c->start) < 0);
    c->status_latched = true;
    c->status = out(c, t) << 7 | null_count << 6 | c->control;
}

static void write_control(struct pit *p, uint8_t v, uint64_t t)
{
    unsigned n = v >> 6;
    if (n == 3) { /* read back */
        for (unsigned i = 0; i < 3; i++) {
            struct counter *c = &p->regs.counter[i];
            if (!(v >> (i + 1) & 1))
                continue;
            settle(c, t);
            if (!(v & 0x20))
                latch_count(c, t);
            if (!(v & 0x10))
                latch_status(c, t);
        }
        return;
    }
    struct counter *c = &p->regs.counter[n];
    settle(c, t);
    if (!(v & 0x30)) {
        latch_count(c, t);
        return;
    }
    *c = (struct counter){.control = v & 0x3f, .gate = c->gate, .reload = c->reload, .active = c->active};
}

/* ---- the interrupt ---- */

/* Under the lock: has counter 0 risen since the last look? Plans the next look. */
static bool look(struct pit *p)
{
    struct counter *c = &p->regs.counter[0];
    uint64_t t = ticks_now(p);
    bool due = p->regs.edge && (int64_t)(t - p->regs.edge) >= 0;
    bool switched = due && c->pending && p->regs.edge == c->switch_at && MODE(c) == 3 && (c->switch_at - c->start) % number(c, c->active);
    settle(c, t);
    p->regs.edge = next_rise(c, t);
    if (!p->running || !p->regs.edge) {
        dp_timer_disarm(&p->timer);
    } else {
        uint64_t at = tick_ns(p->regs.edge), now = dp_clock_now(p->device.env->clock);
        dp_timer_arm(&p->timer, due && at < now + MIN_EDGE_NS ? now + MIN_EDGE_NS : at);
    }
    return due && !switched;
}

/* The line as it rests: see pit.h. */
static bool resting(struct pit *p)
{
    struct counter *c = &p->regs.counter[0];
    return MODE(c) != 0 || out(c, ticks_now(p));
}

static void drive(struct pit *p, bool rose)
{
    if (rose)
        dp_irq_set(&p->irq, false);
    for (bool first = true, level = false;; first = false) {
        pthread_mutex_lock(&p->device.lock);
        bool now = resting(p);
        pthread_mutex_unlock(&p->device.lock);
        if (!first && now == level)
            return;
        level = now;
        dp_irq_set(&p->irq, level);
    }
}

static void fired(void *opaque)
{
    struct pit *p = opaque;
    pthread_mutex_lock(&p->device.lock);
    bool running = p->running, rose = running && look(p);
    pthread_mutex_unlock(&p->device.lock);
    if (running)
        drive(p, rose);
}

/* ---- the speaker ---- */

enum {
    SPEAKER_SAMPLES = 4096, /* 186 ms: what is older when somebody looks is lost */
    LOOKS = 9,              /* at OUT, per sample; odd, so that none falls on the middle */
    AMPLITUDE = 12000,
    SPEAKER_DATA = 2,
};

struct sound {
    uint64_t position;
    unsigned count;
    int16_t sample[SPEAKER_SAMPLES];
};

/* Makes the samples up to now, with the lock held and before anything of counter 2 or port 0x61
 * changes; the caller plays them without it. */
static void sound_make(struct pit *p, struct sound *s)
{
    struct counter *c = &p->regs.counter[2];
    s->count = 0;
    if (!p->speaker.play)
        return;
    uint64_t end = (uint64_t)((unsigned __int128)dp_clock_now(p->device.env->clock) * DP_SOUND_HZ / 1000000000), begin = p->played;
    bool on = p->regs.port61 & SPEAKER_DATA;
    p->played = DP_MAX(begin, end);
    if (!on || end <= begin)
        return;
    s->position = end - begin > SPEAKER_SAMPLES ? end - SPEAKER_SAMPLES : begin;
    for (uint64_t n = s->position; n < end; n++) {
        int high = 0;
        for (unsigned i = 0; i < LOOKS; i++) {
            uint64_t t = (uint64_t)(((unsigned __int128)n * LOOKS + i) * DP_PIT_HZ / (LOOKS * DP_SOUND_HZ));
            settle(c, t);
            high += out(c, t);
        }
        s->sample[s->count++] = (int16_t)((2 * high - LOOKS) * AMPLITUDE / LOOKS);
    }
}

static void sound_play(struct pit *p, const struct sound *s)
{
    if (s->count)
        p->speaker.play(p->speaker.opaque, s->position, s->sample, s->count);
}

/* Lock held: the next look, while there is something to hear. */
static void sound_plan(struct pit *p)
{
    if (!p->speaker.play)
        return;
    if (p->running && (p->regs.port61 & SPEAKER_DATA))
        dp_timer_arm(&p->speaker_timer, dp_clock_now(p->device.env->clock) + SPEAKER_NS);
    else
        dp_timer_disarm(&p->speaker_timer);
}

static void speaker_due(void *opaque)
{
    struct pit *p = opaque;
    struct sound s;
    pthread_mutex_lock(&p->device.lock);
    sound_make(p, &s);
    sound_plan(p);
    pthread_mutex_unlock(&p->device.lock);
    sound_play(p, &s);
}

/* ---- ports ---- */

static uint64_t read(void *opaque, uint64_t offset, unsigned size)
{
    struct pit *p = opaque;
    uint8_t v = 0xff; /* the control word cannot be read */
    bool rose = false;
    struct sound s;
    pthread_mutex_lock(&p->device.lock);
    sound_make(p, &s);
    if (offset < 3) {
        struct counter *c = &p->regs.counter[offset];
        uint64_t t = ticks_now(p);
        /* Counter 0 settles in look, which must see the edge that goes with it. */
        if (offset == 0 && c->pending)
            rose = look(p);
        settle(c, t);
        v = read_counter(c, t);
    }
    pthread_mutex_unlock(&p->device.lock);
    sound_play(p, &s);
    if (rose)
        drive(p, true);
    return v;
}

static void write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pit *p = opaque;
    struct sound s;
    pthread_mutex_lock(&p->device.lock);
    sound_make(p, &s);
    bool rose = look(p);
    uint64_t t = ticks_now(p);
    if (offset < 3)
        write_counter(&p->regs.counter[offset], (uint8_t)value, t);
    else
        write_control(p, (uint8_t)value, t);
    rose |= look(p);
    pthread_mutex_unlock(&p->device.lock);
    sound_play(p, &s);
    drive(p, rose);
}

static uint64_t read61(void *opaque, uint64_t offset, unsigned size)
{
    struct pit *p = opaque;
    struct counter *c = &p->regs.counter[2];
    struct sound s;
    pthread_mutex_lock(&p->device.lock);
    sound_make(p, &s);
    uint64_t t = ticks_now(p);
    settle(c, t);
    uint8_t v = p->regs.port61 | (dp_clock_now(p->device.env->clock) / REFRESH_NS & 1) << 4 | out(c, t) << 5;
    pthread_mutex_unlock(&p->device.lock);
    sound_play(p, &s);
    return v;
}

static void write61(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pit *p = opaque;
    struct sound s;
    pthread_mutex_lock(&p->device.lock);
    sound_make(p, &s);
    p->regs.port61 = value & 0xf;
    set_gate(&p->regs.counter[2], value & 1, ticks_now(p));
    sound_plan(p);
    pthread_mutex_unlock(&p->device.lock);
    sound_play(p, &s);
}

static const struct dp_window_ops counter_ops = {.name = "pit", .read = read, .write = write, .min_size = 1, .max_size = 1};
static const struct dp_window_ops speaker_ops = {.name = "port61", .read = read61, .write = write61, .min_size = 1, .max_size = 1};
static const struct dp_window_spec windows[] = {{"counters", 4, &counter_ops, true}, {"speaker", 1, &speaker_ops, true}};

/* ---- life ---- */

static const struct dp_field counter_fields[] = {
    DP_FIELD_U8(struct counter, control, 1, 0, 0x3f),    DP_FIELD_BOOL(struct counter, gate, 2, 0),
    DP_FIELD_BOOL(struct counter, loaded, 3, 0),         DP_FIELD_BOOL(struct counter, counting, 4, 0),
    DP_FIELD_BOOL(struct counter, pending, 5, 0),        DP_FIELD_U16(struct counter, reload, 6, 0, 0),
    DP_FIELD_U16(struct counter, active, 7, 0, 0),       DP_FIELD_U64(struct counter, start, 8, 0, 0),
    DP_FIELD_U64(struct counter, held, 9, 0, 0),         DP_FIELD_U64(struct counter, switch_at, 10, 0, 0),
    DP_FIELD_BOOL(struct counter, count_latched, 11, 0), DP_FIELD_BOOL(struct counter, status_latched, 12, 0),
    DP_FIELD_U16(struct counter, latch, 13, 0, 0),       DP_FIELD_U8(struct counter, status, 14, 0, 0),
    DP_FIELD_U8(struct counter, write_low, 15, 0, 0),    DP_FIELD_BOOL(struct counter, write_high, 16, 0),
    DP_FIELD_BOOL(struct counter, read_high, 17, 0),
};
static const struct dp_state_table counter_table = DP_STATE_TABLE(struct counter, "8254", counter_fields);
static const struct dp_field fields[] = {
    DP_FIELD_STRUCTS(struct pit_regs, counter, 1, &counter_table),
    DP_FIELD_U8(struct pit_regs, port61, 2, 0, 0xf),
    DP_FIELD_U64(struct pit_regs, edge, 3, 0, 0),
};
static const struct dp_state_table state = DP_STATE_TABLE(struct pit_regs, "pit", fields);

void dp_pit_wire(struct dp_device *d, struct dp_irq irq0) { ((struct pit *)d)->irq = irq0; }
void dp_pit_wire_speaker(struct dp_device *d, struct dp_sound speaker) { ((struct pit *)d)->speaker = speaker; }

static int init(struct dp_device *d, struct dp_error *e)
{
    struct pit *p = (struct pit *)d;
    dp_timer_init(&p->timer, d->env->clock, fired, p);
    dp_timer_init(&p->speaker_timer, d->env->clock, speaker_due, p);
    return 0;
}

static void fini(struct dp_device *d)
{
    dp_timer_fini(&((struct pit *)d)->timer);
    dp_timer_fini(&((struct pit *)d)->speaker_timer);
}

static void reset(struct dp_device *d)
{
    struct pit *p = (struct pit *)d;
    pthread_mutex_lock(&d->lock);
    p->regs.counter[0].gate = p->regs.counter[1].gate = true;
    dp_timer_disarm(&p->timer);
    pthread_mutex_unlock(&d->lock);
    drive(p, false);
}

static void pause_(struct dp_device *d)
{
    struct pit *p = (struct pit *)d;
    struct sound s;
    pthread_mutex_lock(&d->lock);
    sound_make(p, &s);
    p->running = false;
    dp_timer_disarm(&p->timer);
    sound_plan(p);
    pthread_mutex_unlock(&d->lock);
    sound_play(p, &s);
}

static void resume(struct dp_device *d)
{
    struct pit *p = (struct pit *)d;
    pthread_mutex_lock(&d->lock);
    p->running = true;
    p->played = (uint64_t)((unsigned __int128)dp_clock_now(d->env->clock) * DP_SOUND_HZ / 1000000000);
    bool rose = look(p);
    sound_plan(p);
    pthread_mutex_unlock(&d->lock);
    drive(p, rose);
}

static void post_load(struct dp_device *d) { drive((struct pit *)d, false); }

const struct dp_device_class dp_pit_class = {
    .name = "pit",
    .summary = "8254 interval timer and speaker port",
    .size = sizeof(struct pit),
    .regs_offset = offsetof(struct pit, regs),
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
