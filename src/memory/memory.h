/* memory.h - guest RAM and address spaces.
 *
 * Model: a space (guest-physical memory, or the 64 KiB of x86 ports) is a set of mappings, RAM or register windows, each with a
 * priority. Its flat view is an immutable sorted array, built at commit and swapped. RAM has up to 8 dirty clients (migration,
 * display, incremental snapshot, ...) each with its own bitmap, and per-page code tracking for engines that cache decoded or
 * translated code.
 * Invariants: nobody outside memory/ and engine/ holds a host pointer to RAM longer than a pin. unpin and write mark dirty. Reads of
 * nothing give all ones, writes to nothing vanish (counted). Guest-physical arithmetic never wraps: a range that passes 2^64 is nothing.
 */
#ifndef DP_MEMORY_H
#define DP_MEMORY_H

#include "base/base.h"

#define DP_PAGE_SHIFT 12
#define DP_PAGE_SIZE (1ull << DP_PAGE_SHIFT)
#define DP_DIRTY_CLIENTS 8

/* ---- register windows ---- */

/* Called with no lock held; offset + size <= window size; size is 1, 2, 4 or 8 within [min, max] below and offset a multiple of it:
 * other accesses are split or widened by dp_space_load/store (little-endian; a widened write has zeros beside the guest's bytes).
 * A window without read gives all ones, one without write ignores. The window's size is a multiple of min_size. */
struct dp_window_ops {
    const char *name;
    uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
    void (*write)(void *opaque, uint64_t offset, uint64_t value, unsigned size);
    uint8_t min_size, max_size; /* 0 means 1 and 8 */
};

/* ---- RAM ---- */

struct dp_ram {
    uint8_t *host;              /* size bytes, shared anonymous file (memfd) */
    uint64_t size;              /* multiple of the page size */
    int fd;
    const char *name;
    /* Code tracking, see dp_ram_code_mark. One element per page. */
    _Atomic uint8_t *has_code;
    _Atomic uint32_t *code_generation;
    _Atomic uint32_t *code_hits; /* see dp_ram_code_volatile: a time, and in the low 16 bits a count */
    void (*code_written)(void *opaque, struct dp_ram *r, uint64_t page); /* see dp_ram_watch_code */
    void *code_opaque;
    atomic_uint dirty_active;   /* bit per client */
    _Atomic uint64_t *dirty[DP_DIRTY_CLIENTS]; /* bit per page; NULL before a client's first start */
};

/* -ENOMEM with advice when the host has not that much memory (checked against MemAvailable, because overcommit hides it). */
int dp_ram_create(const char *name, uint64_t size, struct dp_ram **out, struct dp_error *e) DP_MUST_CHECK;
void dp_ram_destroy(struct dp_ram *r);
/* Bytes [offset, offset+size) were written by a device or by an engine's slow path: sets the bits of active clients and, on pages
 * with code, bumps the generation and clears has_code. Any thread. */
void dp_ram_mark_dirty(struct dp_ram *r, uint64_t offset, uint64_t size);
/* The engine is about to decode code from this page: from now on writes must come through dp_ram_mark_dirty. Returns the generation that
 * decoded code is valid for. The caller has its fast write paths to the page revoked (listener code_marked) before it reads the bytes. */
uint32_t dp_ram_code_mark(struct dp_ram *r, uint64_t page);

/* Is code of this page overwritten so often that caching it does not pay? Then an engine executes it without marking it, looking at its
 * bytes every time; each call counts, and after some ten thousands the page is given another chance. */
#define DP_CODE_VOLATILE 16 /* times */
static inline bool dp_ram_code_is_volatile(const struct dp_ram *r, uint64_t page)
{
    return (atomic_load_explicit(&r->code_hits[page], memory_order_relaxed) & 0xffff) >= DP_CODE_VOLATILE;
}
bool dp_ram_code_volatile(struct dp_ram *r, uint64_t page);
/* fn is called, in the writer's thread and with no lock held, after code of a page was overwritten and before dp_ram_mark_dirty
 * returns. One watcher; set before processors run. */
void dp_ram_watch_code(struct dp_ram *r, void (*fn)(void *opaque, struct dp_ram *r, uint64_t page), void *opaque);

/* ---- spaces ---- */

struct dp_space;

struct dp_range {               /* one piece of the flat view, by value */
    uint64_t base, size;        /* in the space */
    struct dp_ram *ram;         /* RAM, else NULL */
    uint64_t ram_offset;        /* of base */
    bool readonly;              /* RAM that ignores writes (ROM), or, with ops, gives them to a device (flash) */
    const struct dp_window_ops *ops; /* register window or device of a flash, else NULL */
    void *opaque;
    uint64_t window_offset;     /* of base in its window */
};

struct dp_listener {            /* engines; callbacks in the thread that made the change, no lock held */
    void (*changed)(void *opaque, struct dp_space *s);              /* the flat view is another */
    void (*code_marked)(void *opaque, struct dp_ram *r, uint64_t page);
    void (*dirty_cleared)(void *opaque, struct dp_ram *r);          /* fast write paths must be revoked */
    void *opaque;
};

int dp_space_create(const char *name, uint64_t size, struct dp_trace *t, struct dp_space **out, struct dp_error *e) DP_MUST_CHECK;
/* A space that shows `below`, which outlives it, wherever nothing is mapped in itself. Listeners of `below` are told of both. For another
 * view of the same memory, as processors in system management mode have it. */
int dp_space_create_over(const char *name, struct dp_space *below, struct dp_space **out, struct dp_error *e) DP_MUST_CHECK;
void dp_space_destroy(struct dp_space *s);
/* Higher priority hides lower. *id names the mapping. -EINVAL for ranges that wrap or pass the space's end. Takes effect at once
 * unless within dp_space_begin/commit. The device behind a window outlives the space's last access. */
int dp_space_map_ram(struct dp_space *s, uint64_t base, struct dp_ram *r, uint64_t offset, uint64_t size, bool readonly, int priority,
                     uint32_t *id, struct dp_error *e) DP_MUST_CHECK;
int dp_space_map_window(struct dp_space *s, uint64_t base, uint64_t size, const struct dp_window_ops *ops, void *opaque, int priority,
                        uint32_t *id, struct dp_error *e) DP_MUST_CHECK;
/* Flash: RAM that is read and executed directly, while writes go to ops->write, its offset counted from base. */
int dp_space_map_flash(struct dp_space *s, uint64_t base, struct dp_ram *r, uint64_t offset, uint64_t size, const struct dp_window_ops *ops,
                       void *opaque, int priority, uint32_t *id, struct dp_error *e) DP_MUST_CHECK;
void dp_space_unmap(struct dp_space *s, uint32_t id);
void dp_space_begin(struct dp_space *s);
void dp_space_commit(struct dp_space *s);
int dp_space_listen(struct dp_space *s, const struct dp_listener *l) DP_MUST_CHECK; /* copied */
void dp_space_unlisten(struct dp_space *s, void *opaque);
/* Processors AND each address with this first (a PC's A20 gate); devices' DMA does not. All ones at first.
 * Listeners are told of a change as of another view. */
void dp_space_set_cpu_mask(struct dp_space *s, uint64_t mask);
uint64_t dp_space_cpu_mask(const struct dp_space *s);
/* Has every listener revoke fast write paths to a page of code (engines call it right after dp_ram_code_mark's first mark). */
void dp_space_code_marked(struct dp_space *s, struct dp_ram *r, uint64_t page);

/* The range that holds addr; false when nothing does (then out->base/size is the hole). Any thread, lock-free or nearly. */
bool dp_space_find(struct dp_space *s, uint64_t addr, struct dp_range *out);

/* Bytes, across ranges. Windows are accessed in naturally aligned pieces. Returns -EFAULT when any byte had nothing behind it
 * (reads then give 0xff there). */
int dp_space_read(struct dp_space *s, uint64_t addr, void *data, uint64_t size);
int dp_space_write(struct dp_space *s, uint64_t addr, const void *data, uint64_t size);
/* One CPU access of 1, 2, 4 or 8 bytes, as the bus sees it. */
uint64_t dp_space_load(struct dp_space *s, uint64_t addr, unsigned size);
void dp_space_store(struct dp_space *s, uint64_t addr, uint64_t value, unsigned size);

/* Direct access to RAM for a short time: *size is cut to what is contiguous in one range; NULL when addr is no RAM (or
 * read-only and for_write). unpin tells how many bytes from the start were written. */
struct dp_pin { uint8_t *host; uint64_t size; struct dp_ram *ram; uint64_t ram_offset; };
bool dp_space_pin(struct dp_space *s, uint64_t addr, uint64_t size, bool for_write, struct dp_pin *out);
void dp_space_unpin(struct dp_space *s, struct dp_pin *p, uint64_t written);

/* Gives whole pages back to the host: they read as zeros from then on and cost nothing until they are written. To everybody who looks for
 * writes it is one. All of it must be RAM that can be written, else nothing is done: -EINVAL, -EFAULT. Other errors: the host's refusal,
 * after which the pages may still be there. Any thread. */
int dp_space_discard(struct dp_space *s, uint64_t addr, uint64_t size) DP_MUST_CHECK;

/* ---- dirty clients ---- */

int dp_space_dirty_start(struct dp_space *s, unsigned client, struct dp_error *e) DP_MUST_CHECK; /* all RAM of the space counts as dirty */
void dp_space_dirty_stop(struct dp_space *s, unsigned client);
/* Copies and clears the bitmap of r for client (size/4096 bits, u64 words); returns pages dirty. */
uint64_t dp_space_dirty_harvest(struct dp_space *s, unsigned client, struct dp_ram *r, uint64_t *bitmap);
/* May a fast path write this page without telling? True when it has no code and is dirty for every active client already. */
static inline bool dp_ram_write_is_free(const struct dp_ram *r, uint64_t page)
{
    if (atomic_load_explicit(&r->has_code[page], memory_order_acquire))
        return false;
    unsigned active = atomic_load_explicit(&((struct dp_ram *)r)->dirty_active, memory_order_acquire);
    for (unsigned i = 0; DP_UNLIKELY(active >> i); i++)
        if ((active >> i & 1) && !(atomic_load(&r->dirty[i][page / 64]) >> (page % 64) & 1))
            return false;
    return true;
}

#endif
