/* pflash.c - flash with Intel's command set; model and source in pflash.h.
 *
 * Locks: the registers change under the device's lock, the file is written under it too (only processors that use this chip wait). The
 * window that hides the RAM comes and goes without the lock, one thread at a time, which looks again after each change.
 * Invariants: contents change only by program and erase_block, within the chip, and are in the file first.
 */
#include "devices/firmware/pflash.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ARRAY = 0, PROGRAM = 0x10, ERASE = 0x20, PROGRAM2 = 0x40, CLEAR = 0x50, LOCK = 0x60, STATUS = 0x70, ID = 0x90, CFI = 0x98,
       CONFIRM = 0xd0, BUFFER = 0xe8, AMD_RESET = 0xf0, READ = 0xff };
enum { LOCK_SET = 0x01, LOCK_DOWN = 0x2f };
enum { READY = 0x80, ERASE_ERROR = 0x20, PROGRAM_ERROR = 0x10, LOCKED = 0x02, SEQUENCE_ERROR = ERASE_ERROR | PROGRAM_ERROR };
enum { BUFFER_SHIFT = 8, BUFFER_SIZE = 1 << BUFFER_SHIFT, MANUFACTURER = 0x89, DEVICE = 0x18, HIDING_PRIORITY = 1 };
/* What the next write is. */
enum { CYCLE_COMMAND, CYCLE_SECOND, CYCLE_BUFFER, CYCLE_CONFIRM };

struct pflash_regs {
    uint8_t command;           /* the last one; what reads give follows from it */
    uint8_t cycle;
    uint8_t status;
    uint8_t buffer[BUFFER_SIZE];
    uint64_t filled[BUFFER_SIZE / 64]; /* bit per byte of the buffer */
    uint32_t buffer_base;      /* in the chip */
    uint16_t left;             /* bytes still to come into the buffer */
    bool based, stray;         /* buffer_base is known; a byte lay outside of its buffer */
};

struct pflash {
    struct dp_device device;
    struct pflash_regs regs;
    struct dp_pflash_options options;
    struct dp_ram *ram;
    uint64_t size;
    int fd;                    /* -1: none */
    bool failed;               /* the file could not be written, and somebody was told */
    uint64_t base;
    bool mapped, hidden, remapping; /* hidden: the window lies before the RAM */
    uint32_t mapping, window;
};

/* ---- contents; lock held ---- */

static bool persist(struct pflash *f, const void *data, uint32_t at, uint32_t size)
{
    for (uint32_t done = 0; f->fd >= 0 && done < size;) {
        ssize_t n = pwrite(f->fd, (const uint8_t *)data + done, size - done, at + done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            if (!f->failed && f->device.env->trace)
                dp_trace_emit(f->device.env->trace, DP_TRACE_BLOCK, "%s: cannot write %s: %s", f->device.id, f->options.path,
                              n ? strerror(errno) : "no room");
            f->failed = true;
            return false;
        }
        done += (uint32_t)n;
    }
    return true;
}

static void change(struct pflash *f, const uint8_t *data, uint32_t at, uint32_t size, uint8_t error)
{
    f->regs.status |= READY;
    if (f->options.readonly) {
        f->regs.status |= error | LOCKED;
        dp_trace_guest(f->device.env->trace, "%s: change of a read-only flash at 0x%x", f->device.id, at);
    } else if (!persist(f, data, at, size)) {
        f->regs.status |= error;
    } else {
        memcpy(f->ram->host + at, data, size);
        dp_ram_mark_dirty(f->ram, at, size);
    }
}

static void erase_block(struct pflash *f, uint64_t offset)
{
    uint8_t blank[DP_PFLASH_BLOCK];
    memset(blank, 0xff, sizeof(blank));
    change(f, blank, (uint32_t)DP_ALIGN_DOWN(offset, (uint64_t)DP_PFLASH_BLOCK), sizeof(blank), ERASE_ERROR);
}

static void program_buffer(struct pflash *f)
{
    struct pflash_regs *r = &f->regs;
    uint32_t base = r->buffer_base & ~(uint32_t)(BUFFER_SIZE - 1);
    if (!r->based || r->stray || base >= f->size) {
        r->status |= READY | SEQUENCE_ERROR;
        return;
    }
    for (unsigned i = 0, n; i < BUFFER_SIZE; i += n) {
        bool filled = r->filled[i / 64] >> i % 64 & 1;
        for (n = 1; i + n < BUFFER_SIZE && (bool)(r->filled[(i + n) / 64] >> (i + n) % 64 & 1) == filled; n++) {
        }
        if (filled)
            change(f, r->buffer + i, base + i, n, PROGRAM_ERROR);
    }
}

/* ---- the command interface; lock held ---- */

static void to_array(struct pflash *f) { f->regs.command = f->regs.cycle = 0; }

static void first_cycle(struct pflash *f, uint8_t v)
{
    struct pflash_regs *r = &f->regs;
    r->command = v;
    switch (v) {
    case STATUS: case ID: case CFI: break;
    case PROGRAM: case PROGRAM2: case ERASE: case LOCK: r->cycle = CYCLE_SECOND; break;
    case BUFFER:
        r->status |= READY; /* a buffer is free */
        r->cycle = CYCLE_SECOND;
        break;
    case CLEAR:
        r->status = 0;
        to_array(f);
        break;
    default:
        dp_trace_guest(f->device.env->trace, "%s: unknown flash command 0x%02x", f->device.id, v);
        /* fall through */
    case ARRAY: case AMD_RESET: case READ: case CONFIRM: to_array(f); break;
    }
}

static void second_cycle(struct pflash *f, uint64_t offset, uint8_t v)
{
    struct pflash_regs *r = &f->regs;
    r->cycle = CYCLE_COMMAND;
    switch (r->command) {
    case PROGRAM: case PROGRAM2: change(f, &v, (uint32_t)offset, 1, PROGRAM_ERROR); return;
    case ERASE:
        if (v == CONFIRM) {
            erase_block(f, offset);
            return;
        }
        break;
    case LOCK:
        if (v == CONFIRM || v == LOCK_SET || v == LOCK_DOWN) { /* nothing is ever locked: accepted */
            r->status |= READY;
            return;
        }
        break;
    case BUFFER:
        r->left = v + 1;
        r->based = r->stray = false;
        memset(r->filled, 0, sizeof(r->filled));
        r->cycle = CYCLE_BUFFER;
        return;
    }
    if (v == READ) {
        to_array(f);
        return;
    }
    dp_trace_guest(f->device.env->trace, "%s: flash command 0x%02x cannot be followed by 0x%02x", f->device.id, r->command, v);
    r->status |= READY | SEQUENCE_ERROR;
}

static void buffer_cycle(struct pflash *f, uint64_t offset, uint8_t v)
{
    struct pflash_regs *r = &f->regs;
    uint32_t at = offset % BUFFER_SIZE, base = (uint32_t)(offset - at);
    if (!r->based) {
        r->based = true;
        r->buffer_base = base;
    }
    if (base != r->buffer_base) {
        r->stray = true;
    } else {
        r->buffer[at] = v;
        r->filled[at / 64] |= 1ull << at % 64;
    }
    if (r->left)
        r->left--;
    if (!r->left)
        r->cycle = CYCLE_CONFIRM;
}

static void confirm_cycle(struct pflash *f, uint8_t v)
{
    struct pflash_regs *r = &f->regs;
    r->cycle = CYCLE_COMMAND;
    if (v == CONFIRM)
        program_buffer(f);
    else if (v == READ)
        to_array(f);
    else
        r->status |= READY | SEQUENCE_ERROR;
}

/* ---- CFI: "QRY", command set 1, geometry, and an empty extended table ---- */

static uint8_t cfi(const struct pflash *f, unsigned at)
{
    uint32_t blocks = (uint32_t)(f->size / DP_PFLASH_BLOCK);
    const uint8_t table[0x40] = {
        [0x10] = 'Q', 'R', 'Y', 0x01, 0x00, 0x31, 0x00,          /* Intel's command set; its table */
        [0x1b] = 0x45, 0x55, 0, 0, 7, 7, 10, 0, 4, 4, 4, 0,      /* volts; typical and longest times, as powers of two */
        [0x27] = (uint8_t)(63 - __builtin_clzll(f->size)),       /* size, rounded down to a power of two */
        [0x28] = 0, 0, BUFFER_SHIFT, 0, 1,                       /* 8 bits; buffer; one region of: */
        [0x2d] = (uint8_t)(blocks - 1), (uint8_t)((blocks - 1) >> 8), DP_PFLASH_BLOCK >> 8 & 0xff, DP_PFLASH_BLOCK >> 16,
        [0x31] = 'P', 'R', 'I', '1', '0',
    };
    return at < sizeof(table) ? table[at] : 0;
}

static uint8_t identity(const struct pflash *f, uint64_t offset) /* 2 in each block: not locked */
{
    return offset == 0 ? MANUFACTURER : offset == 1 ? DEVICE : 0;
}

/* ---- the mapping; no lock held ---- */

static uint64_t flash_read(void *opaque, uint64_t offset, unsigned size);
static void flash_write(void *opaque, uint64_t offset, uint64_t value, unsigned size);
static const struct dp_window_ops ops = {.name = "pflash", .read = flash_read, .write = flash_write, .min_size = 1, .max_size = 1};

static void remap(struct pflash *f)
{
    struct dp_space *s = f->device.env->memory;
    pthread_mutex_lock(&f->device.lock);
    while (f->mapped && !f->remapping && f->hidden != (f->regs.command != ARRAY)) {
        bool hide = f->hidden = !f->hidden;
        f->remapping = true;
        pthread_mutex_unlock(&f->device.lock);
        struct dp_error e;
        if (!hide)
            dp_space_unmap(s, f->window);
        else if (dp_space_map_window(s, f->base, f->size, &ops, f, HIDING_PRIORITY, &f->window, &e)) {
            f->window = 0; /* no memory: the guest reads the array where it expects a status */
            DP_TRACE(f->device.env->trace, DP_TRACE_MEMORY, "%s: %s", f->device.id, e.text);
        }
        pthread_mutex_lock(&f->device.lock);
        f->remapping = false;
    }
    pthread_mutex_unlock(&f->device.lock);
}

static uint64_t flash_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pflash *f = opaque;
    uint8_t v;
    pthread_mutex_lock(&f->device.lock);
    switch (f->regs.command) {
    case ARRAY: v = f->ram->host[offset]; break; /* the window is about to go */
    case ID: v = identity(f, offset % DP_PFLASH_BLOCK); break;
    case CFI: v = cfi(f, offset & 0xff); break;
    default: v = f->regs.status; break;
    }
    pthread_mutex_unlock(&f->device.lock);
    return v;
}

static void flash_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pflash *f = opaque;
    uint8_t v = (uint8_t)value;
    pthread_mutex_lock(&f->device.lock);
    switch (f->regs.cycle) {
    case CYCLE_COMMAND: first_cycle(f, v); break;
    case CYCLE_SECOND: second_cycle(f, offset, v); break;
    case CYCLE_BUFFER: buffer_cycle(f, offset, v); break;
    case CYCLE_CONFIRM: confirm_cycle(f, v); break;
    }
    pthread_mutex_unlock(&f->device.lock);
    remap(f);
}

int dp_pflash_map(struct dp_device *d, uint64_t base, struct dp_error *e)
{
    struct pflash *f = (struct pflash *)d;
    int r = dp_space_map_flash(d->env->memory, base, f->ram, 0, f->size, &ops, f, 0, &f->mapping, e);
    if (r)
        return dp_error_prefix(e, r, "%s", d->id);
    pthread_mutex_lock(&d->lock);
    f->base = base;
    f->mapped = true;
    pthread_mutex_unlock(&d->lock);
    remap(f);
    return 0;
}

uint64_t dp_pflash_size(const struct dp_device *d) { return ((const struct pflash *)d)->size; }
struct dp_ram *dp_pflash_ram(struct dp_device *d) { return ((struct pflash *)d)->ram; }

/* ---- life ---- */

static int check(const void *regs, struct dp_error *e)
{
    const struct pflash_regs *r = regs;
    if (r->left > BUFFER_SIZE || (r->command == ARRAY && r->cycle))
        return dp_error_set(e, -EINVAL, "pflash: command 0x%02x in cycle %u with %u bytes to come cannot be", r->command, r->cycle,
                            r->left);
    return 0;
}

static void clamp(void *regs)
{
    struct pflash_regs *r = regs;
    r->left %= BUFFER_SIZE + 1;
    if (r->command == ARRAY)
        r->cycle = 0;
}

static const struct dp_field fields[] = {
    DP_FIELD_U8(struct pflash_regs, command, 1, ARRAY, 0),
    DP_FIELD_U8(struct pflash_regs, cycle, 2, 0, 3),
    DP_FIELD_U8(struct pflash_regs, status, 3, 0, 0),
    DP_FIELD_BYTES(struct pflash_regs, buffer, 4),
    DP_FIELD_ARRAY(struct pflash_regs, filled, 5, DP_KIND_U64, 0, 0),
    DP_FIELD_U32(struct pflash_regs, buffer_base, 6, 0, 0),
    DP_FIELD_U16(struct pflash_regs, left, 7, 0, 0x1ff),
    DP_FIELD_BOOL(struct pflash_regs, based, 8, false),
    DP_FIELD_BOOL(struct pflash_regs, stray, 9, false),
};
static const struct dp_state_table state = DP_STATE_TABLE(struct pflash_regs, "pflash", fields, .check = check, .clamp = clamp);

void dp_pflash_wire(struct dp_device *d, const struct dp_pflash_options *o) { ((struct pflash *)d)->options = *o; }

static int open_file(struct pflash *f, struct dp_error *e)
{
    const char *path = f->options.path;
    struct stat st;
    f->fd = open(path, (f->options.readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (f->fd < 0)
        return dp_error_set(e, -errno, "cannot open flash image %s: %s", path, strerror(errno));
    if (fstat(f->fd, &st) || !S_ISREG(st.st_mode))
        return dp_error_set(e, -EINVAL, "flash image %s is no regular file", path);
    struct flock range = {.l_type = f->options.readonly ? F_RDLCK : F_WRLCK, .l_whence = SEEK_SET};
    if (fcntl(f->fd, F_OFD_SETLK, &range) && (errno == EAGAIN || errno == EACCES))
        return dp_error_set(e, -EBUSY, "flash image %s is in use by another virtual machine; give each its own copy", path);
    f->size = (uint64_t)st.st_size;
    return 0;
}

static int read_file(struct pflash *f, struct dp_error *e)
{
    for (uint64_t done = 0; done < f->size;) {
        ssize_t n = pread(f->fd, f->ram->host + done, f->size - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return dp_error_set(e, n ? -errno : -EIO, "cannot read flash image %s: %s", f->options.path, n ? strerror(errno) : "it shrank");
        done += (uint64_t)n;
    }
    return 0;
}

static void fini(struct dp_device *d)
{
    struct pflash *f = (struct pflash *)d;
    if (f->hidden)
        dp_space_unmap(d->env->memory, f->window);
    if (f->mapped)
        dp_space_unmap(d->env->memory, f->mapping);
    if (f->ram)
        dp_ram_destroy(f->ram);
    if (f->fd >= 0)
        close(f->fd);
    f->ram = NULL;
    f->fd = -1;
}

static int init(struct dp_device *d, struct dp_error *e)
{
    struct pflash *f = (struct pflash *)d;
    f->fd = -1;
    f->size = f->options.size;
    int r = f->options.path ? open_file(f, e) : 0;
    if (!r && (!f->size || f->size % DP_PFLASH_BLOCK || f->size > DP_PFLASH_MAX))
        r = dp_error_set(e, -EINVAL, "flash image %s has %llu bytes; it must be a multiple of %u, at most %u MiB",
                         f->options.path ? f->options.path : "in memory", (unsigned long long)f->size, DP_PFLASH_BLOCK,
                         DP_PFLASH_MAX >> 20);
    if (!r)
        r = dp_ram_create(d->id, f->size, &f->ram, e);
    if (!r && f->options.path)
        r = read_file(f, e);
    else if (!r)
        memcpy(f->ram->host, f->options.data, f->size);
    if (r) {
        fini(d);
        return r;
    }
    f->options.data = NULL;
    return 0;
}

static void remap_device(struct dp_device *d) { remap((struct pflash *)d); }

const struct dp_device_class dp_pflash_class = {
    .name = "pflash",
    .summary = "NOR flash with Intel's command set",
    .size = sizeof(struct pflash),
    .regs_offset = offsetof(struct pflash, regs),
    .state = &state,
    .init = init,
    .fini = fini,
    .reset = remap_device,
    .post_load = remap_device,
};
