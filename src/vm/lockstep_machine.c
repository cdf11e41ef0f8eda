/* vm/lockstep_machine.c - see lockstep_internal.h. */
#include "vm/lockstep_internal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "devices/virtio/virtio.h"

/* ---- files ---- */

/* The caller frees blob->data. */
static int read_file(const char *what, const char *path, struct dp_boot_blob *blob, struct dp_error *e)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), rc = 0;
    if (fd < 0 || fstat(fd, &st))
        rc = dp_error_set(e, -errno, "%s %s: %s", what, path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = dp_error_set(e, -EINVAL, "%s %s: give a regular file", what, path);
    uint64_t size = rc ? 0 : (uint64_t)st.st_size, done = 0;
    uint8_t *data = rc ? NULL : malloc(size ? size : 1);
    if (!rc && !data)
        rc = dp_error_set(e, -ENOMEM, "%s %s: no memory for its %llu bytes", what, path, (unsigned long long)size);
    while (!rc && done < size) {
        ssize_t n = pread(fd, data + done, size - done, (off_t)done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = dp_error_set(e, -errno, "%s %s: %s", what, path, strerror(errno));
        if (n <= 0)
            break;
        done += (uint64_t)n;
    }
    if (fd >= 0)
        close(fd);
    if (rc) {
        free(data);
        return rc;
    }
    *blob = (struct dp_boot_blob){path, data, done};
    return 0;
}

static int copy_bytes(int from, int to, off_t at, off_t end)
{
    uint8_t buffer[65536];
    while (at < end) {
        ssize_t n = pread(from, buffer, DP_MIN((size_t)(end - at), sizeof buffer), at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : 0;
        for (ssize_t done = 0, w; done < n; done += w)
            if ((w = pwrite(to, buffer + done, (size_t)(n - done), at + done)) < 0) {
                if (errno != EINTR)
                    return -errno;
                w = 0;
            }
        at += n;
    }
    return 0;
}

/* A nameless copy, holes left out: the descriptor, or -errno. */
static int private_copy(const char *path, struct dp_error *e)
{
    const char *folder = getenv("TMPDIR");
    struct stat st;
    int from = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), to = -1, rc = 0;
    if (from < 0 || fstat(from, &st))
        rc = dp_error_set(e, -errno, "disk %s: %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        rc = dp_error_set(e, -EINVAL, "disk %s: lock-step copies each disk, give a regular file", path);
    if (!rc && (to = open(folder && *folder ? folder : "/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600)) < 0)
        rc = dp_error_set(e, -errno, "disk %s: cannot make a copy of it in %s (TMPDIR): %s", path, folder ? folder : "/var/tmp",
                          strerror(errno));
    if (!rc && ftruncate(to, st.st_size))
        rc = -errno;
    for (off_t at = 0, data; !rc && (data = lseek(from, at, SEEK_DATA)) >= 0 && (at = lseek(from, data, SEEK_HOLE)) > data;)
        rc = copy_bytes(from, to, data, at);
    if (rc && to >= 0)
        dp_error_set(e, rc, "disk %s: cannot copy it: %s", path, strerror(-rc));
    if (from >= 0)
        close(from);
    if (rc && to >= 0)
        close(to);
    return rc ? rc : to;
}

static int open_disk(struct lockstep_machine *m, unsigned n, struct dp_error *e)
{
    char name[64];
    int fd = private_copy(m->config->disk[n], e);
    if (fd < 0)
        return fd;
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    struct dp_block_options o = {.path = name, .format = "raw", .trace = m->config->trace};
    int rc = dp_block_open(NULL, &o, &m->disk[n], e);
    m->disk_fd[n] = fd;
    return rc ? dp_error_prefix(e, rc, "the copy of %s", m->config->disk[n]) : 0;
}

/* ---- wires ---- */

static void line(void *opaque, unsigned cpu, enum dp_line line, unsigned value)
{
    struct lockstep_machine *m = opaque;
    (void)cpu;
    m->lines_moved |= 1u << line;
    m->line_value[line] = value;
}

void lockstep_lines(struct lockstep_machine *m)
{
    unsigned moved = m->lines_moved;
    m->lines_moved = 0;
    for (unsigned i = 0; i <= DP_LINE_RESET; i++)
        if (moved >> i & 1)
            m->engine->interrupt(m->cpu, (enum dp_line)i, m->line_value[i]);
}

static void request(void *opaque, enum dp_vm_request what, int status)
{
    static const enum lockstep_request of[] = {
        [DP_VM_POWEROFF] = LOCKSTEP_POWEROFF, [DP_VM_RESET] = LOCKSTEP_RESET, [DP_VM_EXIT] = LOCKSTEP_EXIT};
    struct lockstep_machine *m = opaque;
    if (m->request != LOCKSTEP_NONE)
        return;
    m->request = of[what];
    m->status = status;
}

void lockstep_drain(struct lockstep_machine *m)
{
    for (unsigned i = 0; i < m->config->disk_count; i++)
        dp_block_drain(m->disk[i]);
}

/* ---- memory ---- */

uint64_t lockstep_phys(uint64_t ram_offset)
{
    return ram_offset < DP_PC_LOW_RAM_MAX ? ram_offset : ram_offset - DP_PC_LOW_RAM_MAX + (1ull << 32);
}

static uint64_t load_phys(struct x86_ctx *c, uint64_t phys, unsigned size)
{
    struct lockstep_machine *m = c->opaque;
    uint64_t value = ~0ull;
    struct dp_range r;
    if (dp_space_find(dp_pc_memory(m->pc), phys, &r) && r.ram) /* devices would notice a read */
        dp_space_read(dp_pc_memory(m->pc), phys, &value, size);
    return value;
}

unsigned lockstep_read(struct lockstep_machine *m, const struct x86_state *s, uint64_t linear, uint8_t *data, unsigned size)
{
    struct x86_state copy = *s;
    struct x86_ctx c = {.s = &copy, .model = &m->model, .phys_load = load_phys, .opaque = m};
    unsigned n = 0;
    uint64_t phys;
    for (; n < size && x86_walk_debug(&c, linear + n, &phys); n++)
        data[n] = (uint8_t)load_phys(&c, phys, 1);
    return n;
}

bool lockstep_next_page(const struct lockstep_machine *m, uint64_t *page)
{
    off_t data = lseek(m->ram->fd, (off_t)(*page * DP_PAGE_SIZE), SEEK_DATA);
    if (data < 0)
        return false;
    *page = (uint64_t)data / DP_PAGE_SIZE;
    return *page < m->ram->size / DP_PAGE_SIZE;
}

/* ---- running ---- */

void lockstep_count(struct lockstep_machine *m)
{
    struct dp_engine_counters c;
    m->engine->counters(m->cpu, &c);
    m->instructions = m->instructions_before + c.instructions;
    m->exceptions = m->exceptions_before + c.exceptions;
    m->interrupts = m->interrupts_before + c.interrupts;
}

int lockstep_run(struct lockstep_machine *m, uint64_t budget, enum dp_exit_kind *kind, struct dp_error *e)
{
    struct dp_exit exit = {0};
    m->engine->run(m->cpu, budget, &exit);
    lockstep_count(m);
    *kind = exit.kind;
    int rc = exit.kind == DP_EXIT_ERROR ? dp_error_set(e, -EIO, "engine %s cannot go on: %.*s", m->engine->name,
                                                       (int)DP_MIN(exit.text.size, (size_t)300), (const char *)exit.text.data)
                                        : 0;
    dp_buffer_fini(&exit.text);
    return rc;
}

/* ---- one machine becomes another ---- */

static void copy_page(struct dp_ram *to, const struct dp_ram *from, uint64_t page)
{
    uint8_t *t = to->host + page * DP_PAGE_SIZE;
    const uint8_t *f = from->host + page * DP_PAGE_SIZE;
    if (memcmp(t, f, DP_PAGE_SIZE))
        memcpy(t, f, DP_PAGE_SIZE);
}

static void copy_ram(struct lockstep_machine *to, const struct lockstep_machine *from)
{
    for (uint64_t page = 0; lockstep_next_page(from, &page); page++)
        copy_page(to->ram, from->ram, page);
    for (uint64_t page = 0; lockstep_next_page(to, &page); page++)
        copy_page(to->ram, from->ram, page);
    dp_ram_mark_dirty(to->ram, 0, to->ram->size);
}

static int copy_disk(struct lockstep_machine *to, struct lockstep_machine *from, unsigned n, struct dp_error *e)
{
    off_t size = lseek(from->disk_fd[n], 0, SEEK_END);
    int rc = ftruncate(to->disk_fd[n], 0) || ftruncate(to->disk_fd[n], size) ? -errno : 0;
    for (off_t at = 0, data;
         !rc && (data = lseek(from->disk_fd[n], at, SEEK_DATA)) >= 0 && (at = lseek(from->disk_fd[n], data, SEEK_HOLE)) > data;)
        rc = copy_bytes(from->disk_fd[n], to->disk_fd[n], data, at);
    return rc ? dp_error_set(e, rc, "disk %s: cannot copy it: %s", to->config->disk[n], strerror(-rc)) : 0;
}

/* Both get the state anew, so that what a device makes of that is the same in both. */
static int copy_device(struct dp_device *to, struct dp_device *from, struct dp_error *e)
{
    struct dp_buffer image = {0};
    dp_device_save(from, &image);
    int rc = image.failed ? dp_error_set(e, -ENOMEM, "no memory") : dp_device_load(to, image.data, image.size, NULL, e);
    if (!rc)
        rc = dp_device_load(from, image.data, image.size, NULL, e);
    dp_buffer_fini(&image);
    return rc;
}

int lockstep_copy(struct lockstep_machine *to, struct lockstep_machine *from, struct dp_error *e)
{
    int rc = 0;
    dp_pc_pause(to->pc);
    dp_pc_pause(from->pc);
    for (unsigned i = 0; !rc && i < to->config->disk_count; i++)
        rc = copy_disk(to, from, i, e);
    copy_ram(to, from);
    dp_clock_set(to->clock, dp_clock_now(from->clock));
    from->engine->pull(from->cpu, &from->state);
    to->bus.tsc_moved(to->bus.board, 0, from->state.tsc_offset);
    from->bus.tsc_moved(from->bus.board, 0, from->state.tsc_offset);
    unsigned moved = from->lines_moved | 1u << DP_LINE_INTR;
    unsigned values[DP_ARRAY_LEN(from->line_value)];
    memcpy(values, from->line_value, sizeof values);
    for (unsigned i = 0; !rc && i < to->device_count; i++)
        rc = copy_device(to->device[i], from->device[i], e);
    dp_pc_resume(to->pc);
    dp_pc_resume(from->pc);
    copy_ram(to, from); /* the paravirtual clock has written to each */
    values[DP_LINE_INTR] = from->line_value[DP_LINE_INTR];
    to->lines_moved = from->lines_moved = moved;
    memcpy(to->line_value, values, sizeof values);
    memcpy(from->line_value, values, sizeof values);
    to->engine->push(to->cpu, &from->state);
    from->engine->push(from->cpu, &from->state);
    to->engine->pull(to->cpu, &to->state);
    from->engine->pull(from->cpu, &from->state);
    lockstep_count(to);
    to->instructions_before += from->instructions - to->instructions;
    to->exceptions_before += from->exceptions - to->exceptions;
    to->interrupts_before += from->interrupts - to->interrupts;
    lockstep_count(to);
    to->ps_left = from->ps_left;
    return rc;
}

/* ---- life ---- */

static void list_devices(struct lockstep_machine *m)
{
    for (unsigned n = 0; n < dp_pc_device_count(m->pc) && m->device_count + 2 <= DP_ARRAY_LEN(m->device); n++) {
        struct dp_device *d = dp_pc_device(m->pc, n);
        if (d->class->state)
            m->device[m->device_count++] = d;
        if (d->class == &dp_virtio_pci_class)
            m->device[m->device_count++] = dp_virtio_pci_child(d);
    }
}

int lockstep_boot(struct lockstep_machine *m, struct dp_error *e)
{
    const struct dp_lockstep_config *c = m->config;
    struct dp_boot_blob kernel = {0}, initrd[DP_LOCKSTEP_INITRDS] = {{0}};
    int rc = read_file("kernel", c->kernel, &kernel, e);
    for (unsigned i = 0; !rc && i < c->initrd_count; i++)
        rc = read_file("initrd", c->initrd[i], &initrd[i], e);
    if (!rc) {
        struct dp_pc_kernel k = {kernel, initrd, c->initrd_count, c->cmdline};
        m->request = LOCKSTEP_NONE;
        dp_pc_pause(m->pc);
        dp_pc_reset(m->pc);
        x86_state_reset(&m->state, true);
        rc = dp_pc_boot(m->pc, &k, &m->state, NULL, e);
    }
    if (!rc) {
        dp_pc_firmware_state(m->pc, &m->state);
        m->engine->push(m->cpu, &m->state);
        m->engine->pull(m->cpu, &m->state);
        dp_pc_resume(m->pc);
    }
    free((void *)kernel.data);
    for (unsigned i = 0; i < c->initrd_count; i++)
        free((void *)initrd[i].data);
    return rc;
}

int lockstep_machine_init(struct lockstep_machine *m, const struct dp_lockstep_config *c, const struct dp_engine *engine,
                          struct dp_error *e)
{
    m->config = c;
    m->engine = engine;
    int rc = x86_cpuid_model(c->cpu_model ? c->cpu_model : "x86-64-v2", &m->model, e);
    if (rc)
        return rc;
    m->model.cpu_count = 1;
    static const enum x86_feature random[] = {X86_FEATURE_RDRAND, X86_FEATURE_RDSEED};
    for (unsigned i = 0; i < DP_ARRAY_LEN(random); i++)
        m->model.features[random[i] / 64] &= ~(1ull << (random[i] % 64));
    uint64_t max = dp_pc_memory_max(&m->model);
    if (c->memory > max || c->memory % DP_PAGE_SIZE)
        return dp_error_set(e, -EINVAL, "memory of %llu bytes: give a multiple of 4K, at most %lluM", (unsigned long long)c->memory,
                            (unsigned long long)max >> 20);
    rc = dp_clock_create_manual(&m->clock, e);
    if (!rc)
        rc = dp_console_open_memory(&m->serial, e);
    for (unsigned i = 0; !rc && i < c->disk_count; i++)
        rc = open_disk(m, i, e);
    if (rc)
        return rc;
    struct dp_pc_config p = {
        .memory = c->memory,
        .cpus = 1,
        .model = &m->model,
        .clock = m->clock,
        .trace = c->trace,
        .vm = {request, m},
        .line = line,
        .opaque = m,
        .serial = {m->serial},
        .disk_count = c->disk_count,
    };
    for (unsigned i = 0; i < c->disk_count; i++)
        p.disk[i].block = m->disk[i];
    if ((rc = dp_pc_create(&p, &m->pc, e)))
        return rc;
    list_devices(m);
    struct dp_range low;
    dp_space_find(dp_pc_memory(m->pc), 0, &low);
    m->ram = low.ram;
    struct dp_engine_vm ev = {
        .memory = dp_pc_memory(m->pc),
        .ports = dp_pc_ports(m->pc),
        .clock = m->clock,
        .trace = c->trace,
        .model = &m->model,
        .cpu_count = 1,
    };
    if ((rc = engine->vm_init(&ev, &m->engine_state, e)))
        return rc;
    dp_pc_bus(m->pc, 0, &m->bus);
    return engine->cpu_init(m->engine_state, 0, &m->bus, &m->cpu, e);
}

void lockstep_machine_fini(struct lockstep_machine *m)
{
    if (m->pc)
        dp_pc_pause(m->pc);
    if (m->cpu)
        m->engine->cpu_fini(m->cpu);
    if (m->engine_state)
        m->engine->vm_fini(m->engine_state);
    dp_pc_destroy(m->pc);
    for (unsigned i = 0; i < DP_LOCKSTEP_DISKS; i++) {
        dp_block_close(m->disk[i]);
        if (m->disk_fd[i] > 0)
            close(m->disk_fd[i]);
    }
    if (m->serial)
        dp_console_close(m->serial);
    dp_clock_destroy(m->clock);
}
