/* ram.c - guest RAM: a memfd mapping, dirty bitmaps and the marks of pages that hold decoded code.
 *
 * Model: see memory.h. Dirty bitmaps, once made, live as long as the RAM, so that writers need no lock to use them; dirty_active tells
 * which count.
 * Invariants: code_lock makes "bump the generation, clear has_code" and "set has_code, read the generation" atomic to each other. A writer
 * that sees has_code clear without the lock is right: either the bump came before, or the decoder that marks later reads the new bytes
 * (a full fence parts the write of the bytes from the look at has_code). A discard is such a write: the hole is there in every mapping of
 * the file, other processes' too, when it is marked.
 * Source of the limits: Linux Documentation/filesystems/proc.rst (MemAvailable), admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst.
 */
#include "memory/memory_internal.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* instructions run unmarked until it may be marked again: that costs as much as some thousands of them. 16 bits */
#define CODE_PATIENCE 60000

struct ram {
    struct dp_ram ram;
    pthread_mutex_t code_lock;
};

/* ---- how much the host can give ---- */

/* The number at the start of a file; UINT64_MAX when there is none ("max", no such file). */
static uint64_t file_number(const char *path)
{
    FILE *f = fopen(path, "re");
    unsigned long long v = UINT64_MAX;
    if (f) {
        if (fscanf(f, "%llu", &v) != 1)
            v = UINT64_MAX;
        fclose(f);
    }
    return v;
}

/* Sum of the lines "key value" of a file whose key is one of two. */
static uint64_t file_keys(const char *path, const char *a, const char *b)
{
    FILE *f = fopen(path, "re");
    uint64_t sum = 0;
    char key[64];
    unsigned long long v;
    while (f && fscanf(f, "%63s %llu%*[^\n]", key, &v) == 2)
        if (!strcmp(key, a) || !strcmp(key, b))
            sum += v;
    if (f)
        fclose(f);
    return sum;
}

/* What one control group still allows: its limit less what it uses and could not drop. */
static uint64_t cgroup_room(const char *folder, const char *limit_name, const char *usage_name, const char *a, const char *b)
{
    char path[4400];
    snprintf(path, sizeof(path), "%s/%s", folder, limit_name);
    uint64_t limit = file_number(path);
    if (limit == UINT64_MAX)
        return UINT64_MAX;
    snprintf(path, sizeof(path), "%s/%s", folder, usage_name);
    uint64_t usage = file_number(path);
    if (usage == UINT64_MAX)
        return limit;
    snprintf(path, sizeof(path), "%s/memory.stat", folder);
    uint64_t cache = DP_MIN(file_keys(path, a, b), usage);
    return limit > usage - cache ? limit - (usage - cache) : 0;
}

/* The least room from our control group up to the root. A path that does not exist (we see only our own subtree) costs nothing. */
static uint64_t cgroups_room(void)
{
    uint64_t least = UINT64_MAX;
    char line[4096];
    FILE *f = fopen("/proc/self/cgroup", "re");
    while (f && fgets(line, sizeof(line), f)) {
        line[strcspn(line, "\n")] = 0;
        char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        bool v2 = !strncmp(line, "0", 2), v1 = strstr(controllers, "memory") != NULL;
        if (!v1 && !v2)
            continue;
        for (;;) {
            char folder[4200];
            snprintf(folder, sizeof(folder), "/sys/fs/cgroup%s%s", v1 ? "/memory" : "", path);
            uint64_t room;
            if (v1)
                room = cgroup_room(folder, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file");
            else
                room = cgroup_room(folder, "memory.max", "memory.current", "inactive_file", "active_file");
            least = DP_MIN(least, room);
            char *slash = strrchr(path, '/');
            if (!slash || !*path)
                break;
            *slash = 0;
        }
    }
    if (f)
        fclose(f);
    return least;
}

static int check_host_room(const char *name, uint64_t size, struct dp_error *e)
{
    uint64_t available = UINT64_MAX, group = cgroups_room();
    char key[64];
    unsigned long long v;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fscanf(f, "%63s %llu%*[^\n]", key, &v) == 2)
        if (!strcmp(key, "MemAvailable:"))
            available = v * 1024;
    if (f)
        fclose(f);
    if (size > available || size > group)
        return dp_error_set(e, -ENOMEM, "%s wants %llu MiB but %s has %llu MiB left: give the guest less (-m) or free memory", name,
                            (unsigned long long)(size >> 20), group < available ? "the control group" : "the host",
                            (unsigned long long)(DP_MIN(available, group) >> 20));
    /* Beyond this limit ftruncate would kill the process by SIGXFSZ. */
    struct rlimit limit;
    if (!getrlimit(RLIMIT_FSIZE, &limit) && limit.rlim_cur != RLIM_INFINITY && size > limit.rlim_cur)
        return dp_error_set(e, -EFBIG, "%s wants %llu MiB but the limit of file sizes is %llu MiB: raise it (ulimit -f)", name,
                            (unsigned long long)(size >> 20), (unsigned long long)(limit.rlim_cur >> 20));
    return 0;
}

/* ---- life ---- */

int dp_ram_create(const char *name, uint64_t size, struct dp_ram **out, struct dp_error *e)
{
    if (!size || size % DP_PAGE_SIZE || size > INT64_MAX)
        return dp_error_set(e, -EINVAL, "%s has a size of %llu bytes: it must be a multiple of 4096 and not 0", name,
                            (unsigned long long)size);
    int r = check_host_room(name, size, e);
    if (r)
        return r;
    struct ram *m = calloc(1, sizeof(*m));
    if (!m)
        return dp_error_set(e, -ENOMEM, "no memory for %s", name);
    uint64_t pages = size / DP_PAGE_SIZE;
    m->ram = (struct dp_ram){.size = size, .name = name, .host = MAP_FAILED};
    m->ram.has_code = calloc(pages, sizeof(*m->ram.has_code));
    m->ram.code_generation = calloc(pages, sizeof(*m->ram.code_generation));
    m->ram.code_hits = calloc(pages, sizeof(*m->ram.code_hits));
    m->ram.fd = memfd_create(name, MFD_CLOEXEC);
    errno = m->ram.fd < 0 || (m->ram.has_code && m->ram.code_generation && m->ram.code_hits) ? errno : ENOMEM;
    if (m->ram.fd >= 0 && m->ram.has_code && m->ram.code_generation && m->ram.code_hits && !ftruncate(m->ram.fd, (off_t)size))
        m->ram.host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, m->ram.fd, 0);
    if (m->ram.host == MAP_FAILED) {
        r = dp_error_set(e, -errno, "cannot get %llu MiB for %s: %s (give the guest less with -m, see ulimit -v)",
                         (unsigned long long)(size >> 20), name, strerror(errno));
        if (m->ram.fd >= 0)
            close(m->ram.fd);
        free((void *)m->ram.has_code);
        free((void *)m->ram.code_generation);
        free((void *)m->ram.code_hits);
        free(m);
        return r;
    }
    madvise(m->ram.host, size, MADV_HUGEPAGE); /* a wish; many hosts do not do it for shared memory */
    madvise(m->ram.host, size, MADV_DONTDUMP);
    pthread_mutex_init(&m->code_lock, NULL);
    *out = &m->ram;
    return 0;
}

void dp_ram_destroy(struct dp_ram *r)
{
    if (!r)
        return;
    struct ram *m = DP_CONTAINER_OF(r, struct ram, ram);
    munmap(r->host, r->size);
    close(r->fd);
    free((void *)r->has_code);
    free((void *)r->code_generation);
    free((void *)r->code_hits);
    for (unsigned i = 0; i < DP_DIRTY_CLIENTS; i++)
        free((void *)r->dirty[i]);
    pthread_mutex_destroy(&m->code_lock);
    free(m);
}

/* ---- dirty and code marks ---- */

/* Counts only what follows within some milliseconds: a kernel that patches itself now and then is no reason to stop caching. */
static void note_overwritten(struct dp_ram *r, uint64_t page)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    uint32_t now = (uint32_t)(t.tv_sec * 250 + t.tv_nsec / 4000000) << 16,
             hits = atomic_load_explicit(&r->code_hits[page], memory_order_relaxed);
    if ((hits & 0xffff0000u) != now)
        hits = now;
    if ((hits & 0xffff) < DP_CODE_VOLATILE)
        hits++;
    atomic_store_explicit(&r->code_hits[page], hits, memory_order_relaxed);
}

void dp_ram_mark_dirty(struct dp_ram *r, uint64_t offset, uint64_t size)
{
    if (!size || offset >= r->size)
        return;
    uint64_t first = offset / DP_PAGE_SIZE, last = (offset + DP_MIN(size, r->size - offset) - 1) / DP_PAGE_SIZE;
    atomic_thread_fence(memory_order_seq_cst);
    unsigned active = atomic_load_explicit(&r->dirty_active, memory_order_acquire);
    for (uint64_t page = first; page <= last; page++) {
        for (unsigned i = 0; DP_UNLIKELY(active >> i); i++) {
            uint64_t bit = 1ull << page % 64;
            if ((active >> i & 1) && !(atomic_load_explicit(&r->dirty[i][page / 64], memory_order_relaxed) & bit))
                atomic_fetch_or(&r->dirty[i][page / 64], bit);
        }
        if (DP_UNLIKELY(atomic_load_explicit(&r->has_code[page], memory_order_acquire))) {
            struct ram *m = DP_CONTAINER_OF(r, struct ram, ram);
            pthread_mutex_lock(&m->code_lock);
            bool had = atomic_load_explicit(&r->has_code[page], memory_order_relaxed);
            if (had) {
                atomic_fetch_add(&r->code_generation[page], 1);
                atomic_store_explicit(&r->has_code[page], 0, memory_order_release);
                note_overwritten(r, page);
            }
            pthread_mutex_unlock(&m->code_lock);
            if (had && r->code_written)
                r->code_written(r->code_opaque, r, page);
        }
    }
}

int ram_discard(struct dp_ram *r, uint64_t offset, uint64_t size)
{
    int rc = fallocate(r->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)size) ? -errno : 0;
    dp_ram_mark_dirty(r, offset, size);
    return rc;
}

bool dp_ram_code_volatile(struct dp_ram *r, uint64_t page)
{
    uint32_t hits = atomic_load_explicit(&r->code_hits[page], memory_order_relaxed);
    if (DP_LIKELY((hits & 0xffff) < DP_CODE_VOLATILE))
        return false;
    /* Not atomic together: to lose a count does no harm. */
    atomic_store_explicit(&r->code_hits[page], (hits & 0xffff) < DP_CODE_VOLATILE + CODE_PATIENCE ? hits + 1 : 0, memory_order_relaxed);
    return true;
}

void dp_ram_watch_code(struct dp_ram *r, void (*fn)(void *opaque, struct dp_ram *r, uint64_t page), void *opaque)
{
    r->code_written = fn;
    r->code_opaque = opaque;
}

uint32_t dp_ram_code_mark(struct dp_ram *r, uint64_t page)
{
    struct ram *m = DP_CONTAINER_OF(r, struct ram, ram);
    pthread_mutex_lock(&m->code_lock);
    atomic_store(&r->has_code[page], 1);
    uint32_t generation = atomic_load(&r->code_generation[page]);
    pthread_mutex_unlock(&m->code_lock);
    return generation;
}

static uint64_t bitmap_words(const struct dp_ram *r) { return (r->size / DP_PAGE_SIZE + 63) / 64; }

int ram_dirty_start(struct dp_ram *r, unsigned client, struct dp_error *e)
{
    uint64_t words = bitmap_words(r), pages = r->size / DP_PAGE_SIZE;
    if (!r->dirty[client]) {
        r->dirty[client] = calloc(words, sizeof(*r->dirty[client]));
        if (!r->dirty[client])
            return dp_error_set(e, -ENOMEM, "no memory to track changes of %s", r->name);
    }
    for (uint64_t i = 0; i < words; i++)
        atomic_store(&r->dirty[client][i], i == words - 1 && pages % 64 ? (1ull << pages % 64) - 1 : ~0ull);
    atomic_fetch_or(&r->dirty_active, 1u << client);
    return 0;
}

void ram_dirty_stop(struct dp_ram *r, unsigned client) { atomic_fetch_and(&r->dirty_active, ~(1u << client)); }

uint64_t ram_dirty_harvest(struct dp_ram *r, unsigned client, uint64_t *bitmap)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < bitmap_words(r); i++) {
        bitmap[i] = r->dirty[client] ? atomic_exchange(&r->dirty[client][i], 0) : 0;
        n += (unsigned)__builtin_popcountll(bitmap[i]);
    }
    return n;
}
