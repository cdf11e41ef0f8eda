/* image_copy.c - one image's contents into another: dp_image_copy.
 *
 * Model: a reader thread fills a ring of slots, each a piece of the disk with a mark for each *granule* that is all zeros; the caller's
 * thread takes them in order and writes the runs between. So reading and writing (allocating) overlap, and finding zeros costs the writer
 * nothing. Where clusters are compressed, in the source or in the target, *packers* stand between: threads that take slots as they come
 * from the reader, unpack what it read, find zeros, and pack. A slot goes on when it is ready, in order. A granule is a cluster of the target, where that is larger than the run of zeros asked for: smaller holes
 * would only make it store half clusters. Long zeros are one slot without bytes. Slots are small, so that what was read is still in the
 * processor's cache when it is written.
 */
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "block/file.h"
#include "block/image_ops.h"

enum { SLOTS = 6, PACKERS_MAX = 16, SLOTS_MAX = SLOTS + PACKERS_MAX, IN_SLACK = 64 << 10, GRANULE_MIN = 4096, PIECE_MIN = 512 << 10, GRANULES = DP_IMAGE_PIECE / 512, SLOT_ALIGN = 4096 };

/* A compressed cluster of the source: n bytes of `in` become those of `data` from `to` on. */
struct packed {
    uint32_t from, n, to;
};

struct slot {
    uint64_t offset, size;
    bool zeros; /* all of it: data is not filled */
    bool ready; /* for the writer */
    int rc;     /* why it cannot be unpacked */
    uint8_t *data, *in, *out; /* in: what is to be unpacked; out: what was packed, each granule at its place */
    struct packed *packed;
    uint32_t packed_count, in_size;
    bool zero[GRANULES];
    uint32_t *out_size; /* of each granule; 0: it is to be written plainly */
};

struct pump {
    struct dp_image_copy *c;
    uint32_t granule, piece; /* piece: of a slot */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned head, next, tail; /* the reader fills head, packers take next, the writer takes tail */
    unsigned slots;
    uint32_t cluster; /* of the source, if packers unpack; else 0 */
    bool packing;     /* packers pack for the target */
    pthread_t packer[PACKERS_MAX];
    unsigned packers;
    bool stop, ended;
    int rc; /* why the reader ended */
    uint64_t rc_offset;
    struct slot slot[SLOTS_MAX];
    uint8_t *have; /* what the target has, to be compared */
};

bool dp_is_zero(const void *data, size_t size)
{
    const uint8_t *p = data;
    /* Each byte equals the one before it, and the first is zero. */
    return !size || (!p[0] && (size == 1 || !p[size - 1]) && !memcmp(p, p + 1, size - 1));
}

/* ---- reading ---- */

/* A compressed cluster at `at` of the disk, for packers; 1: it is to be read as all else is. */
static int read_packed(struct pump *p, struct slot *s, uint64_t at, const struct dp_extent *x)
{
    struct dp_image *from = p->c->from;
    uint32_t room = p->piece + IN_SLACK - s->in_size;
    size_t n;
    if (!p->cluster || x->kind != DP_EXTENT_PACKED || x->depth || at % p->cluster || x->size < p->cluster)
        return 1;
    int rc = from->format->read_packed(from, at, s->in + s->in_size, room, &n);
    if (rc)
        return rc == -ENOTSUP ? 1 : rc;
    s->packed[s->packed_count++] = (struct packed){s->in_size, (uint32_t)n, (uint32_t)(at - s->offset)};
    s->in_size += n;
    return 0;
}

static void find_zeros(struct pump *p, struct slot *s)
{
    for (uint64_t n = 0, i = 0; n < s->size; n += p->granule, i++)
        s->zero[i] = p->c->sparse && dp_is_zero(s->data + n, DP_MIN((uint64_t)p->granule, s->size - n));
}

static int read_slot(struct pump *p, struct slot *s, uint64_t offset)
{
    struct dp_image *from = p->c->from;
    uint64_t end = DP_MIN(from->size, DP_ALIGN_DOWN(offset, (uint64_t)p->piece) + p->piece), at = offset;
    struct dp_extent x;
    s->offset = offset;
    s->zeros = s->ready = false;
    s->packed_count = s->in_size = s->rc = 0;
    while (at < end) {
        int rc = dp_image_extent_all(from, at, at == offset ? from->size - at : end - at, &x);
        if (rc)
            return rc;
        if (!x.size)
            return -EIO;
        bool zeros = x.kind == DP_EXTENT_ZEROS || x.kind == DP_EXTENT_UNALLOCATED;
        if (zeros && at == offset && at + x.size >= end && p->c->sparse) {
            s->zeros = s->ready = true;
            s->size = at + x.size < from->size ? DP_ALIGN_DOWN(at + x.size, (uint64_t)p->piece) - at : from->size - at;
            return 0;
        }
        uint64_t n = DP_MIN(x.size, end - at);
        if (zeros)
            memset(s->data + (at - offset), 0, n);
        else if ((rc = read_packed(p, s, at, &x)) == 1)
            rc = dp_image_pread(from, s->data + (at - offset), n, at);
        if (rc)
            return rc;
        at += n;
    }
    s->size = end - offset;
    if (!s->packed_count && !p->packing) { /* while it is still in this processor's cache */
        find_zeros(p, s);
        s->ready = true;
    }
    return 0;
}

static void *reader(void *opaque)
{
    struct pump *p = opaque;
    uint64_t offset = p->c->start;
    int rc = 0;
    pthread_mutex_lock(&p->lock);
    while (!p->stop && !rc && offset < p->c->from->size) {
        if (p->head - p->tail == p->slots) {
            pthread_cond_wait(&p->changed, &p->lock);
            continue;
        }
        struct slot *s = &p->slot[p->head % p->slots];
        pthread_mutex_unlock(&p->lock);
        rc = read_slot(p, s, offset);
        pthread_mutex_lock(&p->lock);
        if (!rc) {
            offset += s->size;
            p->head++;
            pthread_cond_broadcast(&p->changed);
        }
    }
    p->rc = rc;
    p->rc_offset = offset;
    p->ended = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* ---- packing ---- */

static void pack_slot(struct pump *p, struct slot *s, void *unpacker, void *packer)
{
    for (uint32_t i = 0; i < s->packed_count; i++) {
        const struct packed *x = &s->packed[i];
        if (!p->c->from->format->unpack(unpacker, s->in + x->from, x->n, s->data + x->to)) {
            s->rc = -EIO;
            return;
        }
    }
    find_zeros(p, s);
    for (uint64_t n = 0, i = 0; p->packing && n < s->size; n += p->granule, i++) {
        if (s->size - n < p->granule) /* the disk's last cluster */
            memset(s->data + s->size, 0, p->granule - (s->size - n));
        s->out_size[i] = s->zero[i] ? 0 : p->c->to->format->pack(packer, s->data + n, s->out + n);
    }
}

static void *packer(void *opaque)
{
    struct pump *p = opaque;
    const struct dp_image_format *from = p->c->from->format, *to = p->c->to->format;
    void *unpacker = p->cluster ? from->packer(p->c->from) : NULL, *own = p->packing ? to->packer(p->c->to) : NULL;
    bool good = (unpacker || !p->cluster) && (own || !p->packing);
    pthread_mutex_lock(&p->lock);
    while (!p->stop && !(p->ended && p->next == p->head)) {
        if (p->next == p->head) {
            pthread_cond_wait(&p->changed, &p->lock);
            continue;
        }
        if ((int)(p->tail - p->next) > 0) /* what the writer has done was ready without them */
            p->next = p->tail;
        struct slot *s = &p->slot[p->next % p->slots];
        if (p->next == p->head || (p->next++, s->ready))
            continue;
        pthread_mutex_unlock(&p->lock);
        if (good)
            pack_slot(p, s, unpacker, own);
        else
            s->rc = -ENOMEM;
        pthread_mutex_lock(&p->lock);
        s->ready = true;
        pthread_cond_broadcast(&p->changed);
    }
    pthread_mutex_unlock(&p->lock);
    if (unpacker)
        from->packer_free(unpacker);
    if (own)
        to->packer_free(own);
    return NULL;
}

static bool can_pack(const struct dp_image *i) { return i->format->packer && i->format->cluster_size && i->format->cluster_size(i); }

/* Who packs, and how many. Without any packer the reader and the writer do it, as formats that know no packers must. */
static void plan_packers(struct pump *p)
{
    struct dp_image *from = p->c->from, *to = p->c->to;
    cpu_set_t set;
    uint32_t cluster = can_pack(from) ? from->format->cluster_size(from) : 0;
    p->cluster = cluster && cluster <= p->piece ? cluster : 0;
    p->packing = p->c->packed && can_pack(to) && !p->c->same_as_backing; /* most of that is not written */
    unsigned processors = sched_getaffinity(0, sizeof set, &set) ? 1 : (unsigned)CPU_COUNT(&set);
    /* Twice as many as processors: slots are taken in order, and one whose thread others keep from running holds up all behind it. */
    p->packers = p->cluster || p->packing ? DP_MIN(DP_MAX(p->c->threads ? p->c->threads : 2 * processors, 1u), (unsigned)PACKERS_MAX) : 0;
    p->slots = SLOTS + p->packers;
}

/* ---- writing ---- */

/* Whole granules that packers have looked at. */
static int write_prepacked(struct pump *p, struct slot *s, uint64_t n, uint64_t end)
{
    struct dp_image *to = p->c->to;
    int rc = 0;
    for (uint64_t size; !rc && n < end; n += size) {
        uint32_t packed = s->out_size[n / p->granule];
        size = DP_MIN((uint64_t)p->granule, end - n);
        rc = packed ? to->format->write_prepacked(to, s->out + n, packed, s->offset + n) : -EEXIST;
        if (rc == -EEXIST)
            rc = dp_image_pwrite(to, s->data + n, size, s->offset + n);
    }
    return rc;
}

static int write_run(struct pump *p, const uint8_t *data, uint64_t offset, uint64_t size)
{
    struct dp_image *to = p->c->to;
    if (!p->c->packed)
        return dp_image_pwrite(to, data, size, offset);
    int rc = 0;
    while (!rc && size) {
        uint64_t n = DP_MIN(size, (uint64_t)p->granule);
        struct iovec v = {(void *)data, n};
        rc = to->format->write_packed(to, &(struct dp_cursor){&v, 1, 0}, offset, n);
        data += n;
        offset += n;
        size -= n;
    }
    return rc;
}

/* Marks what the target has already; zero granules that it does not have get zeroed. */
static int write_compared(struct pump *p, struct slot *s)
{
    int rc = dp_image_pread(p->c->to, p->have, s->size, s->offset);
    uint64_t run = 0, n = 0; /* run: bytes before n that are to be written */
    for (unsigned i = 0; !rc && n < s->size; i++) {
        uint64_t size = DP_MIN((uint64_t)p->granule, s->size - n);
        bool same = !memcmp(p->have + n, s->data + n, size);
        if (run && (same || s->zero[i])) {
            rc = write_run(p, s->data + n - run, s->offset + n - run, run);
            run = 0;
        }
        if (!same && s->zero[i] && !rc)
            rc = dp_image_zero(p->c->to, s->offset + n, size, DP_ZERO_UNMAP);
        else if (!same)
            run += size;
        n += size;
    }
    return rc || !run ? rc : write_run(p, s->data + n - run, s->offset + n - run, run);
}

int dp_image_clear(struct dp_image *to, uint64_t offset, uint64_t size)
{
    while (size) {
        struct dp_extent x;
        int rc = dp_image_extent_all(to, offset, size, &x);
        if (!rc && !x.size)
            rc = -EIO;
        if (!rc && x.kind != DP_EXTENT_ZEROS && x.kind != DP_EXTENT_UNALLOCATED)
            rc = dp_image_zero(to, offset, x.size, DP_ZERO_UNMAP);
        if (rc)
            return rc;
        offset += x.size;
        size -= DP_MIN(size, x.size);
    }
    return 0;
}

static int write_slot(struct pump *p, struct slot *s)
{
    struct dp_image *to = p->c->to;
    if (s->zeros)
        return p->c->zeroed ? 0 : dp_image_clear(to, s->offset, s->size);
    if (p->c->same_as_backing)
        return write_compared(p, s);
    int rc = 0;
    for (uint64_t n = 0; !rc && n < s->size;) {
        bool zero = s->zero[n / p->granule];
        uint64_t end = n;
        while (end < s->size && s->zero[end / p->granule] == zero)
            end += DP_MIN((uint64_t)p->granule, s->size - end);
        if (!zero)
            rc = p->packing ? write_prepacked(p, s, n, end) : write_run(p, s->data + n, s->offset + n, end - n);
        else if (!p->c->zeroed)
            rc = dp_image_zero(to, s->offset + n, end - n, DP_ZERO_UNMAP);
        n = end;
    }
    return rc;
}

static int writer(struct pump *p, const struct dp_image_job *job, struct dp_error *e)
{
    struct dp_image_copy *c = p->c;
    int rc = 0;
    c->done = c->start;
    while (!rc) {
        pthread_mutex_lock(&p->lock);
        while (p->head == p->tail ? !p->ended : !p->slot[p->tail % p->slots].ready)
            pthread_cond_wait(&p->changed, &p->lock);
        bool none = p->head == p->tail;
        pthread_mutex_unlock(&p->lock);
        if (none)
            break;
        if (job->stop && atomic_load(job->stop))
            return dp_error_set(e, -EINTR, "interrupted");
        struct slot *s = &p->slot[p->tail % p->slots];
        if (s->rc)
            return dp_error_set(e, s->rc, "%s cannot be read near offset %llu: %s", c->from->name, (unsigned long long)s->offset,
                                strerror(-s->rc));
        if ((rc = write_slot(p, s)))
            return dp_error_set(e, rc, "%s cannot be written at offset %llu: %s", c->to->name, (unsigned long long)s->offset,
                                strerror(-rc));
        c->done = s->offset + s->size;
        if (job->progress)
            job->progress(job->opaque, c->done, c->from->size);
        pthread_mutex_lock(&p->lock);
        p->tail++;
        pthread_cond_broadcast(&p->changed);
        pthread_mutex_unlock(&p->lock);
    }
    if (p->rc)
        return dp_error_set(e, p->rc, "%s cannot be read at offset %llu: %s", c->from->name, (unsigned long long)p->rc_offset,
                            strerror(-p->rc));
    return 0;
}

/* ---- files by the kernel ---- */

/* The descriptor of a raw image that is a file; -1: it is none. */
static int raw_file(struct dp_image *i)
{
    return i->file && !i->file->file && !strcmp(i->format->name, "raw") ? dp_image_file_descriptor(i->file) : -1;
}

/* The file system lets both share their blocks, and keeps the holes. */
static bool clone_file(struct dp_image_copy *c, const struct dp_image_job *job)
{
    int from = raw_file(c->from), to = raw_file(c->to);
    if (from < 0 || to < 0 || c->start || !c->zeroed || c->from->size != c->to->size || ioctl(to, FICLONE, from))
        return false;
    c->done = c->from->size;
    if (job->progress)
        job->progress(job->opaque, c->done, c->done);
    return true;
}

/* 1: cannot be done so. */
static int copy_range(struct dp_image_copy *c, const struct dp_image_job *job, struct dp_error *e)
{
    int from = raw_file(c->from), to = raw_file(c->to);
    if (from < 0 || to < 0 || !c->zeroed)
        return 1;
    bool first = true;
    for (c->done = c->start; c->done < c->from->size;) {
        struct dp_extent x;
        int rc = dp_image_extent(c->from, c->done, c->from->size - c->done, &x);
        if (rc)
            return dp_error_set(e, rc, "%s cannot be read: %s", c->from->name, strerror(-rc));
        for (uint64_t end = c->done + x.size; c->done < end;) {
            if (job->stop && atomic_load(job->stop))
                return dp_error_set(e, -EINTR, "interrupted");
            off_t a = c->done, b = c->done;
            ssize_t n = x.kind != DP_EXTENT_DATA ? (ssize_t)(end - c->done)
                                                 : copy_file_range(from, &a, to, &b, DP_MIN(end - c->done, (uint64_t)64 << 20), 0);
            if (n < 0 && first && errno != ENOSPC && errno != EIO)
                return 1;
            if (n <= 0)
                return dp_error_set(e, n ? -errno : -EIO, "%s cannot be copied to %s: %s", c->from->name, c->to->name,
                                    strerror(n ? errno : EIO));
            first = first && x.kind != DP_EXTENT_DATA;
            c->done += n;
            if (job->progress)
                job->progress(job->opaque, c->done, c->from->size);
        }
    }
    return 0;
}

/* ---- ---- */

static int allocate(struct pump *p)
{
    int rc = 0;
    for (unsigned i = 0; !rc && i < p->slots; i++) {
        struct slot *s = &p->slot[i];
        rc = -posix_memalign((void **)&s->data, SLOT_ALIGN, p->piece);
        if (p->cluster && !rc)
            rc = (s->in = malloc(p->piece + IN_SLACK)) && (s->packed = malloc(p->piece / p->cluster * sizeof *s->packed)) ? 0 : -ENOMEM;
        if (p->packing && !rc)
            rc = (s->out = malloc(p->piece)) && (s->out_size = malloc(p->piece / p->granule * sizeof *s->out_size)) ? 0 : -ENOMEM;
    }
    if (!rc && p->c->same_as_backing && !(p->have = aligned_alloc(SLOT_ALIGN, p->piece)))
        rc = -ENOMEM;
    return rc;
}

static void pump_free(struct pump *p)
{
    for (unsigned i = 0; i < p->slots; i++) {
        struct slot *s = &p->slot[i];
        free(s->data);
        free(s->in);
        free(s->out);
        free(s->packed);
        free(s->out_size);
    }
    pthread_mutex_destroy(&p->lock);
    pthread_cond_destroy(&p->changed);
    free(p->have);
    free(p);
}

static int pump(struct pump *p, const struct dp_image_job *job, struct dp_error *e)
{
    pthread_t thread;
    unsigned packers = 0;
    int rc = allocate(p);
    if (!rc)
        rc = -pthread_create(&thread, NULL, reader, p);
    if (rc)
        return dp_error_set(e, rc, "the copy cannot begin: %s", strerror(-rc));
    while (!rc && packers < p->packers)
        if (!(rc = -pthread_create(&p->packer[packers], NULL, packer, p)))
            packers++;
    if (rc && !packers) /* a few are as good */
        dp_error_set(e, rc, "the copy cannot begin: %s", strerror(-rc));
    else
        rc = writer(p, job, e);
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->changed);
    pthread_mutex_unlock(&p->lock);
    pthread_join(thread, NULL);
    while (packers)
        pthread_join(p->packer[--packers], NULL);
    return rc;
}

int dp_image_copy(struct dp_image_copy *c, const struct dp_image_job *job, struct dp_error *e)
{
    static const struct dp_image_job none;
    job = job ? job : &none;
    uint32_t cluster = c->to->format->cluster_size ? c->to->format->cluster_size(c->to) : 0;
    if (c->to->size < c->from->size)
        return dp_error_set(e, -EINVAL, "%s is smaller than %s: make it %llu bytes large", c->to->name, c->from->name,
                            (unsigned long long)c->from->size);
    if (c->packed && (!c->to->format->write_packed || !cluster || cluster > DP_IMAGE_PIECE))
        return dp_error_set(e, -ENOTSUP, "%s images cannot be compressed here: leave -c away, or take another format", c->to->format->name);
    if (c->sparse && clone_file(c, job))
        return 0;
    if (c->range) {
        int rc = copy_range(c, job, e);
        if (rc != 1)
            return rc;
    }
    struct pump *p = calloc(1, sizeof *p);
    if (!p)
        return dp_error_set(e, -ENOMEM, "out of memory");
    p->c = c;
    p->granule = GRANULE_MIN;
    while (p->granule < c->sparse && p->granule < DP_IMAGE_PIECE)
        p->granule *= 2;
    if (cluster <= DP_IMAGE_PIECE)
        p->granule = c->packed ? cluster : DP_MAX(p->granule, cluster);
    p->piece = DP_MAX(p->granule, (uint32_t)PIECE_MIN);
    plan_packers(p);
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    int rc = pump(p, job, e);
    pump_free(p);
    return rc;
}
