/* test_pflash.c - flash as OVMF's QemuFlashFvbServices drives it: detection, erase, program, read; the file behind it; CFI and identity as
 * Linux probes them; buffered writes; read-only chips; conformance.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "devices/firmware/pflash.h"
#include "tests/device/conformance.h"

#define BASE 0xffc00000ull
enum { SIZE = 16 * DP_PFLASH_BLOCK };

struct rig { struct conformance_world w; struct dp_device *d; };

static void rig_new(struct rig *r, const struct dp_pflash_options *o)
{
    struct dp_error e = {0};
    conformance_world_init(&r->w);
    r->d = dp_device_alloc(&dp_pflash_class, "pflash0", &r->w.env);
    dp_pflash_wire(r->d, o);
    assert_ok(dp_device_init(r->d, &e), e);
    assert_ok(dp_pflash_map(r->d, BASE, &e), e);
    dp_device_resume(r->d);
}

static void rig_free(struct rig *r)
{
    dp_device_free(r->d);
    conformance_world_fini(&r->w);
}

static uint8_t get(struct rig *r, uint32_t at) { return (uint8_t)dp_space_load(r->w.env.memory, BASE + at, 1); }
static void put(struct rig *r, uint32_t at, uint8_t v) { dp_space_store(r->w.env.memory, BASE + at, v, 1); }
static bool direct(struct rig *r)
{
    struct dp_range range;
    dp_space_find(r->w.env.memory, BASE + 0x123, &range);
    return range.ram != NULL;
}

/* A file with the contents of a fresh variable store: a header, then erased. Returns its path, "/proc/self/fd/N". */
static int file_new(char path[40])
{
    uint8_t bytes[SIZE];
    int fd = memfd_create("vars", MFD_CLOEXEC);
    memset(bytes, 0xff, sizeof(bytes));
    memset(bytes, 0, 16);
    memcpy(bytes + 16, "_FVH", 4);
    assert_int_equal(write(fd, bytes, sizeof(bytes)), sizeof(bytes));
    snprintf(path, 40, "/proc/self/fd/%d", fd);
    return fd;
}

/* QemuFlashDetected. */
static bool ovmf_detects(struct rig *r)
{
    uint32_t at = 0;
    while (get(r, at) == 0x50 || get(r, at) == 0x70 || get(r, at) == 0)
        at++;
    uint8_t original = get(r, at);
    put(r, at, 0x50);
    uint8_t probe = get(r, at);
    if (original != 0x50 && probe == 0x50)
        return false; /* RAM */
    put(r, at, 0x70);
    probe = get(r, at);
    if (probe == original || probe == 0x70 || probe != 0)
        return false;
    put(r, at, 0xff);
    return get(r, at) == original;
}

static void ovmf_write(struct rig *r, uint32_t at, const void *data, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        put(r, at + i, 0x10);
        put(r, at + i, ((const uint8_t *)data)[i]);
    }
    put(r, at + n - 1, 0xff);
}

static void ovmf(void **state)
{
    struct rig r;
    char path[40];
    uint8_t b[SIZE];
    int fd = file_new(path);
    rig_new(&r, &(struct dp_pflash_options){.path = path});
    assert_int_equal(dp_pflash_size(r.d), SIZE);
    assert_true(ovmf_detects(&r));
    assert_true(direct(&r));
    ovmf_write(&r, 0x1080, "variable", 8);
    assert_true(direct(&r));
    assert_int_equal(dp_space_read(r.w.env.memory, BASE + 0x107f, b, 10), 0);
    assert_memory_equal(b, "\xffvariable\xff", 10);
    assert_int_equal(pread(fd, b, 10, 0x107f), 10);
    assert_memory_equal(b, "\xffvariable\xff", 10);
    ovmf_write(&r, 0x1080, "V", 1);
    assert_int_equal(get(&r, 0x1080), 'V');

    /* EraseBlock: stays with status until the array is asked for. */
    ovmf_write(&r, 0x2000, "next", 4);
    put(&r, 0x1000, 0x20);
    assert_false(direct(&r));
    put(&r, 0x1000, 0xd0);
    assert_int_equal(get(&r, 0x1000), 0x80);
    put(&r, 0x1000, 0xff);
    for (uint32_t at = 0x1000; at < 0x2000; at++)
        assert_int_equal(get(&r, at), 0xff);
    assert_int_equal(get(&r, 0x2000), 'n');
    assert_int_equal(get(&r, 0xfff), 0xff);
    /* Without its confirmation an erase is none. */
    put(&r, 0x2000, 0x20);
    put(&r, 0x2000, 0x10);
    assert_int_equal(get(&r, 0), 0xb0);
    put(&r, 0x2000, 0x50);
    put(&r, 0x2000, 0x70);
    assert_int_equal(get(&r, 0), 0);
    put(&r, 0x2000, 0x20);
    put(&r, 0x2000, 0xff);
    assert_int_equal(get(&r, 0x2000), 'n');

    /* Reset: array mode, same contents; they are there for the next one that opens the file. */
    put(&r, 0, 0x90);
    assert_int_equal(get(&r, 0), 0x89);
    assert_int_equal(get(&r, 1), 0x18);
    assert_int_equal(get(&r, 0x1002), 0);
    dp_device_reset(r.d);
    assert_true(direct(&r));
    rig_free(&r);
    rig_new(&r, &(struct dp_pflash_options){.path = path});
    assert_int_equal(dp_space_read(r.w.env.memory, BASE + 0x2000, b, 4), 0);
    assert_memory_equal(b, "next", 4);
    rig_free(&r);
    close(fd);
}

static void linux_probe(void **state)
{
    struct rig r;
    static uint8_t data[SIZE];
    rig_new(&r, &(struct dp_pflash_options){.data = data, .size = SIZE});
    put(&r, 0, 0xf0);
    put(&r, 0, 0xff);
    put(&r, 0x55, 0x98);
    assert_int_equal(get(&r, 0x10), 'Q');
    assert_int_equal(get(&r, 0x11), 'R');
    assert_int_equal(get(&r, 0x12), 'Y');
    assert_int_equal(get(&r, 0x13) | get(&r, 0x14) << 8, 1);
    unsigned extended = get(&r, 0x15);
    assert_int_equal(get(&r, extended), 'P');
    assert_int_equal(get(&r, extended + 3), '1');
    assert_int_equal(1u << get(&r, 0x27), SIZE);
    assert_int_equal(1u << get(&r, 0x2a), 256);
    assert_int_equal(get(&r, 0x2c), 1);
    assert_int_equal((get(&r, 0x2d) | get(&r, 0x2e) << 8) + 1, SIZE / 4096);
    assert_int_equal((get(&r, 0x2f) | get(&r, 0x30) << 8) * 256, 4096);
    put(&r, 0, 0xff);
    assert_int_equal(get(&r, 0x10), 0);
    /* Unlocking is accepted. */
    put(&r, 0x3000, 0x60);
    put(&r, 0x3000, 0xd0);
    assert_int_equal(get(&r, 0x3000), 0x80);

    /* Buffered: 4 bytes at 0x3102. */
    put(&r, 0x3102, 0xe8);
    assert_int_equal(get(&r, 0x3102), 0x80);
    put(&r, 0x3102, 3);
    for (unsigned i = 0; i < 4; i++)
        put(&r, 0x3102 + i, (uint8_t)(i + 1));
    assert_int_equal(dp_pflash_ram(r.d)->host[0x3102], 0);
    put(&r, 0x3102, 0xd0);
    assert_int_equal(get(&r, 0x3102), 0x80);
    put(&r, 0, 0xff);
    assert_int_equal(dp_space_load(r.w.env.memory, BASE + 0x3101, 8), 0x04030201ull << 8);
    /* A whole one; one that leaves its buffer; one that is not confirmed. */
    put(&r, 0x3000, 0xe8);
    put(&r, 0x3000, 255);
    for (unsigned i = 0; i < 256; i++)
        put(&r, 0x3000 + i, (uint8_t)~i);
    put(&r, 0x3000, 0xd0);
    put(&r, 0x3000, 0xe8);
    put(&r, 0x3000, 1);
    put(&r, 0x30ff, 7);
    put(&r, 0x3100, 7);
    put(&r, 0x3000, 0xd0);
    assert_int_equal(get(&r, 0), 0xb0);
    put(&r, 0, 0x50);
    put(&r, 0x3000, 0xe8);
    put(&r, 0x3000, 0);
    put(&r, 0x3000, 7);
    put(&r, 0x3000, 0x12);
    assert_int_equal(get(&r, 0), 0xb0);
    put(&r, 0, 0xff);
    for (unsigned i = 0; i < 256; i++)
        assert_int_equal(get(&r, 0x3000 + i), (uint8_t)~i);
    assert_int_equal(get(&r, 0x3100), 0);
    /* A wider access is its bytes: status, then array. */
    dp_space_store(r.w.env.memory, BASE, 0x00700070, 4);
    assert_true(direct(&r));
    rig_free(&r);
}

static void read_only(void **state)
{
    struct rig r;
    char path[40];
    struct dp_error e = {0};
    int fd = file_new(path);
    rig_new(&r, &(struct dp_pflash_options){.path = path, .readonly = true});
    assert_true(ovmf_detects(&r));
    put(&r, 0x20, 0x40);
    put(&r, 0x20, 1);
    assert_int_equal(get(&r, 0), 0x92);
    put(&r, 0, 0x50);
    put(&r, 0, 0x20);
    put(&r, 0, 0xd0);
    assert_int_equal(get(&r, 0), 0xa2);
    put(&r, 0, 0xff);
    assert_int_equal(get(&r, 16), '_');
    assert_int_equal(get(&r, 0x20), 0xff);

    /* Two may read one file, none write it meanwhile. */
    struct dp_device *other = dp_device_alloc(&dp_pflash_class, "pflash1", &r.w.env);
    dp_pflash_wire(other, &(struct dp_pflash_options){.path = path, .readonly = true});
    assert_ok(dp_device_init(other, &e), e);
    dp_device_free(other);
    other = dp_device_alloc(&dp_pflash_class, "pflash1", &r.w.env);
    dp_pflash_wire(other, &(struct dp_pflash_options){.path = path});
    assert_int_equal(dp_device_init(other, &e), -EBUSY);
    dp_device_free(other);
    rig_free(&r);
    close(fd);
}

static void refused(void **state)
{
    struct conformance_world w;
    struct dp_error e = {0};
    char path[40];
    int fd = file_new(path);
    conformance_world_init(&w);
    const struct { const char *path; uint64_t size; int result; } cases[] = {
        {"/nonexistent/vars", 0, -ENOENT}, {"/dev/null", 0, -EINVAL}, {path, 4097, -EINVAL}, {path, 0, -EINVAL},
        {path, DP_PFLASH_MAX + 4096ull, -EINVAL},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(cases); i++) {
        if (cases[i].path == path)
            assert_int_equal(ftruncate(fd, (off_t)cases[i].size), 0);
        struct dp_device *d = dp_device_alloc(&dp_pflash_class, "pflash0", &w.env);
        dp_pflash_wire(d, &(struct dp_pflash_options){.path = cases[i].path});
        assert_int_equal(dp_device_init(d, &e), cases[i].result);
        dp_device_free(d);
    }
    conformance_world_fini(&w);
    close(fd);
}

/* A host that cannot write: the operation fails, nothing changes, one line tells. */
static void count_lines(void *opaque, const char *line) { *(unsigned *)opaque += strstr(line, "cannot write") != NULL; }

static void host_error(void **state)
{
    struct rig r;
    unsigned lines = 0;
    struct dp_trace trace = {.sink = count_lines, .opaque = &lines};
    /* A seal makes writing fail. */
    int sealed = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    uint8_t b[SIZE] = {0};
    assert_int_equal(write(sealed, b, SIZE), SIZE);
    char sealed_path[40];
    snprintf(sealed_path, sizeof(sealed_path), "/proc/self/fd/%d", sealed);
    rig_new(&r, &(struct dp_pflash_options){.path = sealed_path});
    r.w.env.trace = &trace;
    assert_int_equal(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE), 0);
    put(&r, 5, 0x10);
    put(&r, 5, 1);
    assert_int_equal(get(&r, 0), 0x90);
    put(&r, 0x1000, 0x20);
    put(&r, 0x1000, 0xd0);
    assert_int_equal(get(&r, 0), 0xb0);
    put(&r, 0, 0xff);
    assert_int_equal(get(&r, 5), 0);
    assert_int_equal(get(&r, 0x1000), 0);
    assert_int_equal(lines, 1);
    rig_free(&r);
    close(sealed);
}

/* Two processors at once: whatever they do, the window before the RAM goes when the array is back. */
static void *hammer(void *opaque)
{
    struct rig *r = opaque;
    static const uint8_t commands[] = {0x70, 0xff, 0x90, 0x10, 0xff, 0x20, 0xd0, 0x50};
    for (unsigned i = 0; i < 2000; i++) {
        put(r, i * 77 % SIZE, commands[i * 5 % 8]);
        get(r, i * 31 % SIZE);
    }
    return NULL;
}

static void processors(void **state)
{
    struct rig r;
    static uint8_t data[SIZE];
    pthread_t other;
    rig_new(&r, &(struct dp_pflash_options){.data = data, .size = SIZE});
    assert_int_equal(pthread_create(&other, NULL, hammer, &r), 0);
    hammer(&r);
    pthread_join(other, NULL);
    put(&r, 0, 0x70);
    put(&r, 0, 0xff);
    put(&r, 0, 0x70);
    assert_false(direct(&r));
    put(&r, 0, 0xff);
    assert_true(direct(&r));
    rig_free(&r);
}

struct places { unsigned n; };

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct places *p = opaque;
    struct dp_error e = {0};
    char id[20];
    uint8_t data[2 * DP_PFLASH_BLOCK];
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 7);
    unsigned n = p->n++ % 8;
    snprintf(id, sizeof(id), "%u", n);
    struct dp_device *d = dp_device_alloc(&dp_pflash_class, id, env);
    dp_pflash_wire(d, &(struct dp_pflash_options){.data = data, .size = sizeof(data)});
    assert_ok(dp_device_init(d, &e), e);
    assert_ok(dp_pflash_map(d, BASE + n * sizeof(data), &e), e);
    return d;
}

static uint64_t poke(struct dp_device *d, struct dp_random *r)
{
    static const uint8_t commands[] = {0x10, 0x20, 0x40, 0x50, 0x60, 0x70, 0x90, 0x98, 0xd0, 0xe8, 0xff, 2, 1, 0x2f, 0xd0, 0xe8};
    uint64_t v = dp_random_next(r), base = BASE + 2 * DP_PFLASH_BLOCK * (uint64_t)atoi(d->id);
    uint64_t at = base + (v >> 8 & (v & 1 ? 0x1fff : 0xff));
    if (v & 2)
        return dp_space_load(d->env->memory, at, 1);
    dp_space_store(d->env->memory, at, v & 4 ? v >> 40 : commands[v >> 40 & 15], 1);
    return dp_space_load(d->env->memory, base + (v >> 48 & 0x1fff), 1);
}

static void conformance(void **state)
{
    struct places p = {0};
    const struct conformance c = {.make = make, .opaque = &p, .poke = poke};
    conformance_check(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ovmf),       cmocka_unit_test(linux_probe), cmocka_unit_test(read_only), cmocka_unit_test(refused),
        cmocka_unit_test(host_error), cmocka_unit_test(processors),  cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("pflash", tests, NULL, NULL);
}
