/* base.h - what every module may use: errors, trace points, checked and endian access.
 *
 * Model: a function that can fail returns 0 (or a count) or a negative errno and fills a caller-owned
 * struct dp_error, which may be NULL. Libraries never print and never exit; the trace object is the only
 * way out for diagnostics and belongs to one VM, so two VMs in one process never mix.
 */
#ifndef DP_BASE_H
#define DP_BASE_H

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define DP_MUST_CHECK __attribute__((warn_unused_result))
#define DP_PRINTF(f, a) __attribute__((format(printf, f, a)))
#define DP_COLD __attribute__((cold, noinline))
#define DP_LIKELY(x) __builtin_expect(!!(x), 1)
#define DP_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define DP_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define DP_CONTAINER_OF(p, type, member) ((type *)((char *)(p)-offsetof(type, member)))
#define DP_MIN(a, b) ((a) < (b) ? (a) : (b))
#define DP_MAX(a, b) ((a) > (b) ? (a) : (b))
#define DP_ALIGN_UP(x, a) (((x) + ((a)-1)) & ~((__typeof__(x))(a)-1))
#define DP_ALIGN_DOWN(x, a) ((x) & ~((__typeof__(x))(a)-1))

/* ---- errors ---- */

struct dp_error {
    int code;        /* negative errno, 0 when unset */
    char text[500];  /* one line: what is wrong and what to do about it */
};

/* Fills e (may be NULL) and returns code, so that `return dp_error_set(e, -ENOENT, ...)` reads well. */
int dp_error_set(struct dp_error *e, int code, const char *format, ...) DP_PRINTF(3, 4);
/* Puts "prefix: " before the text already there; returns e's code (or code when e is NULL). */
int dp_error_prefix(struct dp_error *e, int code, const char *format, ...) DP_PRINTF(3, 4);

/* ---- memory ---- */

/* Address space for size bytes (a multiple of 2 MiB) that become memory where they are touched, in huge pages if the
 * host has them: what is filled from its beginning and read here and there then takes neither page faults nor TLB
 * misses. NULL: there is none. Give back with munmap. */
void *dp_reserve_huge(size_t size);

/* ---- trace points ---- */

enum dp_trace_category {
    DP_TRACE_CPU, DP_TRACE_MMU, DP_TRACE_EXCEPTION, DP_TRACE_IRQ, DP_TRACE_TIMER, DP_TRACE_MEMORY, DP_TRACE_IO,
    DP_TRACE_PCI, DP_TRACE_VIRTIO, DP_TRACE_BLOCK, DP_TRACE_CONSOLE, DP_TRACE_BOOT, DP_TRACE_VM,
    DP_TRACE_TRANSLATE, /* each block translated: guest address, sizes */
    DP_TRACE_EXITS,     /* each exit from translated code and why */
    DP_TRACE_TABLES,    /* shadow page tables: misses and flushes */
    DP_TRACE_SMC,       /* code dropped because it was written to */
    DP_TRACE_GUEST, /* guest mistakes: always rate-limited */
    DP_TRACE_COUNT
};

struct dp_trace {
    atomic_uint mask;                                 /* bit per category */
    void (*sink)(void *opaque, const char *line);     /* one line without newline; any thread */
    void *opaque;
    atomic_ullong guest_window;                       /* rate limit of dp_trace_guest: second and count */
    atomic_ullong guest_dropped;
};

/* Category names as --trace takes them ("cpu", "mmu", ...); "all" too. Returns the mask or -EINVAL. */
int dp_trace_parse(const char *list, unsigned *mask, struct dp_error *e) DP_MUST_CHECK;
const char *dp_trace_name(enum dp_trace_category c);
void dp_trace_emit(struct dp_trace *t, enum dp_trace_category c, const char *format, ...) DP_PRINTF(3, 4) DP_COLD;
/* A guest did what it must not. Never an error of the host: it counts, and is shown at most 20 times a second. */
void dp_trace_guest(struct dp_trace *t, const char *format, ...) DP_PRINTF(2, 3) DP_COLD;
static inline bool dp_trace_on(const struct dp_trace *t, enum dp_trace_category c)
{
    return t && DP_UNLIKELY(atomic_load_explicit(&((struct dp_trace *)t)->mask, memory_order_relaxed) >> c & 1);
}
#define DP_TRACE(t, c, ...) do { if (dp_trace_on(t, c)) dp_trace_emit(t, c, __VA_ARGS__); } while (0)

/* ---- little-endian access to unaligned bytes (all guest structures here are little-endian) ---- */

static inline uint16_t dp_ld16(const void *p) { uint16_t v; memcpy(&v, p, 2); return v; }
static inline uint32_t dp_ld32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t dp_ld64(const void *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline void dp_st16(void *p, uint16_t v) { memcpy(p, &v, 2); }
static inline void dp_st32(void *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void dp_st64(void *p, uint64_t v) { memcpy(p, &v, 8); }
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "big-endian hosts need byte swaps in dp_ld and dp_st");

/* Bits size*8 of a value, size 1, 2, 4 or 8. */
static inline uint64_t dp_mask_bytes(unsigned size) { return size >= 8 ? ~0ull : (1ull << (size * 8)) - 1; }

/* ---- a growing byte buffer; append sets failed on lack of memory and then ignores what follows ---- */

struct dp_buffer { uint8_t *data; size_t size, capacity; bool failed; };
void dp_buffer_append(struct dp_buffer *b, const void *data, size_t size);
void dp_buffer_printf(struct dp_buffer *b, const char *format, ...) DP_PRINTF(2, 3);
void dp_buffer_fini(struct dp_buffer *b);

/* ---- deterministic random numbers (xoshiro256**): tests and fuzzing, never secrets ---- */

struct dp_random { uint64_t s[4]; };
void dp_random_seed(struct dp_random *r, uint64_t seed);
uint64_t dp_random_next(struct dp_random *r);

/* "512M", "2G", "4096" (bytes when no suffix; K, M, G, T are powers of 1024). Rejects overflow and rubbish. */
int dp_parse_size(const char *text, uint64_t *bytes, struct dp_error *e) DP_MUST_CHECK;

#endif
