/* base.c - errors, large memory, trace points, the growing buffer, test randomness and size parsing.
 *
 * Model: see base.h. Nothing here keeps state of its own; everything belongs to the caller's objects.
 * Source of the generator: Blackman and Vigna, "Scrambled linear pseudorandom number generators" (xoshiro256**), seeded by splitmix64.
 */
#include "base/base.h"

#include <ctype.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

/* ---- errors ---- */

int dp_error_set(struct dp_error *e, int code, const char *format, ...)
{
    if (e) {
        va_list ap;
        va_start(ap, format);
        e->code = code;
        vsnprintf(e->text, sizeof(e->text), format, ap);
        va_end(ap);
    }
    return code;
}

int dp_error_prefix(struct dp_error *e, int code, const char *format, ...)
{
    if (!e)
        return code;
    char old[sizeof(e->text)];
    memcpy(old, e->text, sizeof(old));
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(e->text, sizeof(e->text), format, ap);
    va_end(ap);
    if (n >= 0 && (size_t)n < sizeof(e->text))
        snprintf(e->text + n, sizeof(e->text) - n, ": %s", old);
    if (!e->code)
        e->code = code;
    return e->code;
}

/* ---- memory ---- */

#define HUGE_PAGE (2ull << 20)
void *dp_reserve_huge(size_t size)
{
    uint8_t *p = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    uint8_t *start = (uint8_t *)DP_ALIGN_UP((uintptr_t)p, (uintptr_t)HUGE_PAGE);
    if (start > p)
        munmap(p, (size_t)(start - p));
    munmap(start + size, (size_t)(p + HUGE_PAGE - start));
    madvise(start, size, MADV_HUGEPAGE);
    return start;
}

/* ---- trace points ---- */

enum { GUEST_LINES_PER_SECOND = 20 };

const char *dp_trace_name(enum dp_trace_category c)
{
    static const char *const names[DP_TRACE_COUNT] = {
        [DP_TRACE_CPU] = "cpu",     [DP_TRACE_MMU] = "mmu",             [DP_TRACE_EXCEPTION] = "exception",
        [DP_TRACE_IRQ] = "irq",     [DP_TRACE_TIMER] = "timer",         [DP_TRACE_MEMORY] = "memory",
        [DP_TRACE_IO] = "io",       [DP_TRACE_PCI] = "pci",             [DP_TRACE_VIRTIO] = "virtio",
        [DP_TRACE_BLOCK] = "block", [DP_TRACE_CONSOLE] = "console",     [DP_TRACE_BOOT] = "boot",
        [DP_TRACE_VM] = "vm",       [DP_TRACE_TRANSLATE] = "translate", [DP_TRACE_EXITS] = "exits",
        [DP_TRACE_TABLES] = "tables", [DP_TRACE_SMC] = "smc",           [DP_TRACE_GUEST] = "guest",
    };
    return (unsigned)c < DP_TRACE_COUNT ? names[c] : "?";
}

int dp_trace_parse(const char *list, unsigned *mask, struct dp_error *e)
{
    unsigned m = 0;
    for (const char *p = list;;) {
        size_t n = strcspn(p, ",");
        unsigned c = 0;
        while (c < DP_TRACE_COUNT && (strlen(dp_trace_name(c)) != n || strncmp(dp_trace_name(c), p, n)))
            c++;
        if (c < DP_TRACE_COUNT) {
            m |= 1u << c;
        } else if (n == 3 && !strncmp(p, "all", 3)) {
            m |= (1u << DP_TRACE_COUNT) - 1;
        } else {
            struct dp_buffer known = {0};
            for (unsigned i = 0; i < DP_TRACE_COUNT; i++)
                dp_buffer_printf(&known, "%s, ", dp_trace_name(i));
            dp_error_set(e, -EINVAL, "\"%.*s\" is no trace category: use %sall", (int)DP_MIN(n, 40u), p,
                         known.data ? (char *)known.data : "");
            dp_buffer_fini(&known);
            return -EINVAL;
        }
        if (!p[n])
            break;
        p += n + 1;
    }
    *mask = m;
    return 0;
}

static void DP_PRINTF(3, 0) emit(struct dp_trace *t, enum dp_trace_category c, const char *format, va_list ap)
{
    if (!t->sink)
        return;
    char line[1000];
    int n = snprintf(line, sizeof(line), "%s: ", dp_trace_name(c));
    vsnprintf(line + n, sizeof(line) - n, format, ap);
    t->sink(t->opaque, line);
}

void dp_trace_emit(struct dp_trace *t, enum dp_trace_category c, const char *format, ...)
{
    if (!t)
        return;
    va_list ap;
    va_start(ap, format);
    emit(t, c, format, ap);
    va_end(ap);
}

/* guest_window is second << 16 | lines shown in it, so that one compare-and-swap settles who may still speak. */
static bool guest_line_allowed(struct dp_trace *t)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    unsigned long long second = (unsigned long long)now.tv_sec, old = atomic_load(&t->guest_window), new;
    do {
        if (old >> 16 != second)
            new = second << 16 | 1;
        else if ((old & 0xffff) < GUEST_LINES_PER_SECOND)
            new = old + 1;
        else
            return false;
    } while (!atomic_compare_exchange_weak(&t->guest_window, &old, new));
    return true;
}

void dp_trace_guest(struct dp_trace *t, const char *format, ...)
{
    if (!t)
        return;
    if (!dp_trace_on(t, DP_TRACE_GUEST) || !guest_line_allowed(t)) {
        atomic_fetch_add_explicit(&t->guest_dropped, 1, memory_order_relaxed);
        return;
    }
    va_list ap;
    va_start(ap, format);
    emit(t, DP_TRACE_GUEST, format, ap);
    va_end(ap);
}

/* ---- buffer ---- */

/* Room for extra more bytes; false and failed when memory or arithmetic does not allow it. */
static bool buffer_reserve(struct dp_buffer *b, size_t extra)
{
    if (b->failed)
        return false;
    if (extra <= b->capacity - b->size)
        return true;
    size_t want;
    if (__builtin_add_overflow(b->size, extra, &want) || want > SIZE_MAX / 2) {
        b->failed = true;
        return false;
    }
    want = DP_MAX(want, DP_MAX(b->capacity * 2, (size_t)64));
    uint8_t *data = realloc(b->data, want);
    if (!data) {
        b->failed = true;
        return false;
    }
    b->data = data;
    b->capacity = want;
    return true;
}

void dp_buffer_append(struct dp_buffer *b, const void *data, size_t size)
{
    if (!size || !buffer_reserve(b, size))
        return;
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

void dp_buffer_printf(struct dp_buffer *b, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(NULL, 0, format, ap);
    va_end(ap);
    /* One byte more than counted: vsnprintf ends with a NUL, which lets callers print data as a string. */
    if (n < 0 || !buffer_reserve(b, (size_t)n + 1))
        return;
    va_start(ap, format);
    vsnprintf((char *)b->data + b->size, (size_t)n + 1, format, ap);
    va_end(ap);
    b->size += (size_t)n;
}

void dp_buffer_fini(struct dp_buffer *b)
{
    free(b->data);
    *b = (struct dp_buffer){0};
}

/* ---- random numbers ---- */

void dp_random_seed(struct dp_random *r, uint64_t seed)
{
    for (unsigned i = 0; i < 4; i++) {
        seed += 0x9e3779b97f4a7c15;
        uint64_t z = seed;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        r->s[i] = z ^ z >> 31;
    }
}

static uint64_t rotate_left(uint64_t x, unsigned n) { return x << n | x >> (64 - n); }

uint64_t dp_random_next(struct dp_random *r)
{
    uint64_t *s = r->s, result = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

/* ---- sizes ---- */

int dp_parse_size(const char *text, uint64_t *bytes, struct dp_error *e)
{
    uint64_t v = 0;
    bool overflow = false;
    const char *p = text;
    for (; isdigit((unsigned char)*p); p++)
        overflow |= __builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *p - '0', &v);
    bool digits = p > text;
    unsigned shift = 0;
    switch (*p) {
    case 'K': case 'k': shift = 10; break;
    case 'M': case 'm': shift = 20; break;
    case 'G': case 'g': shift = 30; break;
    case 'T': case 't': shift = 40; break;
    }
    if (shift)
        p++;
    if (!digits || *p)
        return dp_error_set(e, -EINVAL, "\"%.60s\" is not a size: write a whole number with K, M, G, T or nothing after it, such as 512M",
                            text);
    if (overflow || v > UINT64_MAX >> shift)
        return dp_error_set(e, -ERANGE, "the size %.60s is too large for 64 bits", text);
    *bytes = v << shift;
    return 0;
}
