/* test_memory.c - flat views, accesses of all sizes, concurrent remapping, pins, dirty clients, code marks, impossible sizes. */
#include <pthread.h>
#include <stdlib.h>

#include "memory/memory.h"
#include "tests/unit/test.h"

static struct dp_space *new_space(uint64_t size)
{
    struct dp_space *s = NULL;
    struct dp_error e = {0};
    assert_ok(dp_space_create("test", size, NULL, &s, &e), e);
    return s;
}

static struct dp_ram *new_ram(uint64_t size)
{
    struct dp_ram *r = NULL;
    struct dp_error e = {0};
    assert_ok(dp_ram_create("ram", size, &r, &e), e);
    return r;
}

static uint32_t map_ram(struct dp_space *s, uint64_t base, struct dp_ram *r, uint64_t offset, uint64_t size, bool ro, int priority)
{
    uint32_t id = 0;
    struct dp_error e = {0};
    assert_ok(dp_space_map_ram(s, base, r, offset, size, ro, priority, &id, &e), e);
    return id;
}

/* A window that logs its accesses; reads give offset-dependent bytes. */
struct log { char text[1000]; uint8_t bytes[64]; };

static uint64_t log_read(void *opaque, uint64_t offset, unsigned size)
{
    struct log *l = opaque;
    assert_int_equal(offset % size, 0);
    assert_true(offset + size <= sizeof(l->bytes));
    sprintf(l->text + strlen(l->text), "r%u@%u ", size, (unsigned)offset);
    uint64_t v = 0xaaaaaaaaaaaaaaaa; /* rubbish above size must not leak */
    memcpy(&v, l->bytes + offset, size);
    return v;
}

static void log_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct log *l = opaque;
    assert_int_equal(offset % size, 0);
    assert_true(offset + size <= sizeof(l->bytes));
    sprintf(l->text + strlen(l->text), "w%u@%u=%llx ", size, (unsigned)offset, (unsigned long long)(value & dp_mask_bytes(size)));
    memcpy(l->bytes + offset, &value, size);
}

static const struct dp_window_ops ops_any = {.name = "any", .read = log_read, .write = log_write};
static const struct dp_window_ops ops_byte = {.name = "byte", .read = log_read, .write = log_write, .min_size = 1, .max_size = 1};
static const struct dp_window_ops ops_dword = {.name = "dword", .read = log_read, .write = log_write, .min_size = 4, .max_size = 4};

static uint32_t map_window(struct dp_space *s, uint64_t base, uint64_t size, const struct dp_window_ops *ops, void *opaque, int priority)
{
    uint32_t id = 0;
    struct dp_error e = {0};
    assert_ok(dp_space_map_window(s, base, size, ops, opaque, priority, &id, &e), e);
    return id;
}

static void ram_and_holes(void **state)
{
    struct dp_space *s = new_space(1ull << 40);
    struct dp_ram *r = new_ram(0x10000);
    struct dp_range range;
    assert_false(dp_space_find(s, 0, &range));
    assert_true(range.base == 0 && range.size == UINT64_MAX);

    map_ram(s, 0x100000, r, 0x1000, 0x3000, false, 0);
    assert_true(dp_space_find(s, 0x102345, &range));
    assert_true(range.base == 0x100000 && range.size == 0x3000 && range.ram == r && range.ram_offset == 0x1000);
    assert_false(dp_space_find(s, 0xfffff, &range));
    assert_true(range.base == 0 && range.size == 0x100000);
    assert_false(dp_space_find(s, 0x103000, &range));
    assert_true(range.base == 0x103000 && range.size == 0 - 0x103000ull);
    assert_false(dp_space_find(s, UINT64_MAX, &range));

    for (unsigned size = 1; size <= 8; size *= 2)
        for (uint64_t at = 0x100000; at < 0x100010; at++) {
            dp_space_store(s, at, 0x1122334455667788, size);
            assert_true(dp_space_load(s, at, size) == (0x1122334455667788 & dp_mask_bytes(size)));
        }
    assert_int_equal(r->host[0x1000], 0x88);

    /* Half in, half out. */
    dp_space_store(s, 0x102ffe, 0xaabbccdd, 4);
    assert_true(dp_space_load(s, 0x102ffe, 4) == 0xffffccdd);
    uint8_t data[16];
    assert_int_equal(dp_space_read(s, 0x102ff8, data, 16), -EFAULT);
    assert_int_equal(data[15], 0xff);
    assert_int_equal(data[7], 0xcc);
    assert_int_equal(dp_space_write(s, 0xffff8, data, 16), -EFAULT);
    assert_int_equal(r->host[0x1007], 0xff);

    /* What passes 2^64 is nothing, not address 0. */
    map_ram(s, 0, r, 0, 0x1000, false, 0);
    assert_true(dp_space_load(s, UINT64_MAX - 3, 8) == ~0ull);
    assert_true(dp_space_load(s, UINT64_MAX, 8) == ~0ull);
    dp_space_store(s, UINT64_MAX - 3, 0, 8);
    assert_int_equal(dp_space_read(s, UINT64_MAX - 7, data, 16), -EFAULT);
    assert_int_equal(dp_space_read(s, UINT64_MAX - 7, data, 0), 0);
    dp_space_destroy(s);
    dp_ram_destroy(r);
}

static void bad_mappings(void **state)
{
    struct dp_space *s = new_space(0x10000);
    struct dp_ram *r = new_ram(0x2000);
    struct dp_error e = {0};
    struct log l = {0};
    assert_int_equal(dp_space_map_window(s, 0xffff, 2, &ops_any, &l, 0, NULL, &e), -EINVAL);
    assert_int_equal(dp_space_map_window(s, 0x10000, 1, &ops_any, &l, 0, NULL, &e), -EINVAL);
    assert_int_equal(dp_space_map_window(s, UINT64_MAX - 1, 4, &ops_any, &l, 0, NULL, &e), -EINVAL);
    assert_int_equal(dp_space_map_window(s, 0, 0, &ops_any, &l, 0, NULL, &e), -EINVAL);
    assert_int_equal(dp_space_map_window(s, 0, 6, &ops_dword, &l, 0, NULL, &e), -EINVAL);
    assert_int_equal(dp_space_map_ram(s, 0, r, 0x1000, 0x2000, false, 0, NULL, &e), -EINVAL);
    assert_int_equal(dp_space_map_ram(s, 0, r, UINT64_MAX - 0xfff, 0x2000, false, 0, NULL, &e), -EINVAL);
    assert_int_equal(dp_space_map_ram(s, 0xf800, r, 0, 0x1000, false, 0, NULL, &e), -EINVAL);
    dp_space_unmap(s, 12345);
    struct dp_range range;
    assert_false(dp_space_find(s, 0, &range));
    dp_space_destroy(s);
    dp_ram_destroy(r);
}

static void priorities(void **state)
{
    struct dp_space *s = new_space(1ull << 32);
    struct dp_ram *low = new_ram(0x10000), *high = new_ram(0x1000);
    struct log l = {0};
    struct dp_range r;
    map_ram(s, 0, low, 0, 0x10000, false, 0);
    uint32_t over = map_ram(s, 0x4000, high, 0, 0x1000, false, 1);
    uint32_t window = map_window(s, 0x4ff0, 0x40, &ops_any, &l, 2);
    assert_true(dp_space_find(s, 0x3fff, &r) && r.ram == low && r.size == 0x4000);
    assert_true(dp_space_find(s, 0x4000, &r) && r.ram == high && r.size == 0xff0);
    assert_true(dp_space_find(s, 0x5000, &r) && r.ops == &ops_any && r.window_offset == 0 && r.base == 0x4ff0);
    assert_true(dp_space_find(s, 0x5030, &r) && r.ram == low && r.ram_offset == 0x5030 && r.size == 0x10000 - 0x5030);
    dp_space_unmap(s, over);
    assert_true(dp_space_find(s, 0x4000, &r) && r.ram == low && r.base == 0 && r.size == 0x4ff0);
    dp_space_unmap(s, window);
    assert_true(dp_space_find(s, 0x5000, &r) && r.ram == low && r.size == 0x10000);

    /* A window under a part of RAM shows in two pieces with the right offsets; of equals the later wins. */
    map_window(s, 0x20000, 0x40, &ops_any, &l, 0);
    map_window(s, 0x20010, 0x10, &ops_byte, &l, 0);
    assert_true(dp_space_find(s, 0x20010, &r) && r.ops == &ops_byte && r.window_offset == 0 && r.size == 0x10);
    assert_true(dp_space_find(s, 0x20028, &r) && r.ops == &ops_any && r.base == 0x20020 && r.window_offset == 0x20);

    /* Nothing shows before commit. */
    dp_space_begin(s);
    uint32_t id = map_ram(s, 0x100000, high, 0, 0x1000, false, 0);
    assert_false(dp_space_find(s, 0x100000, &r));
    for (unsigned i = 0; i < 500; i++) /* outgrow the buffers meanwhile */
        map_window(s, 0x200000 + i * 0x100, 0x40, &ops_any, &l, 0);
    assert_false(dp_space_find(s, 0x100000, &r));
    assert_true(dp_space_find(s, 0x3000, &r) && r.ram == low);
    dp_space_commit(s);
    assert_true(dp_space_find(s, 0x100000, &r) && r.ram == high);
    for (unsigned i = 0; i < 500; i++) {
        assert_true(dp_space_find(s, 0x200000 + i * 0x100 + 0x3f, &r) && r.base == 0x200000 + i * 0x100);
        assert_false(dp_space_find(s, 0x200000 + i * 0x100 + 0x40, &r));
    }
    dp_space_unmap(s, id);
    assert_false(dp_space_find(s, 0x100000, &r));
    dp_space_destroy(s);
    dp_ram_destroy(low);
    dp_ram_destroy(high);
}

/* Random mappings against a byte-wise model. */
static void random_views(void **state)
{
    enum { SIZE = 256, SLOTS = 24 };
    struct dp_space *s = new_space(SIZE);
    struct log l[SLOTS];
    struct { uint32_t id; unsigned base, size; int priority; unsigned order; } m[SLOTS] = {0};
    struct dp_random r;
    dp_random_seed(&r, 5);
    for (unsigned round = 1; round < 3000; round++) {
        unsigned i = dp_random_next(&r) % SLOTS;
        if (m[i].id) {
            dp_space_unmap(s, m[i].id);
            m[i].id = 0;
        } else {
            m[i].base = dp_random_next(&r) % SIZE;
            m[i].size = 1 + dp_random_next(&r) % (SIZE - m[i].base);
            m[i].priority = (int)(dp_random_next(&r) % 5) - 2;
            m[i].order = round;
            m[i].id = map_window(s, m[i].base, m[i].size, &ops_any, &l[i], m[i].priority);
        }
        for (unsigned a = 0; a < SIZE; a++) {
            int best = -1;
            for (int k = 0; k < SLOTS; k++)
                if (m[k].id && a - m[k].base < m[k].size &&
                    (best < 0 || m[k].priority > m[best].priority || (m[k].priority == m[best].priority && m[k].order > m[best].order)))
                    best = k;
            struct dp_range range;
            assert_int_equal(dp_space_find(s, a, &range), best >= 0);
            assert_true(a - range.base < range.size);
            if (best >= 0) {
                assert_ptr_equal(range.opaque, &l[best]);
                assert_int_equal(range.window_offset + (a - range.base), a - m[best].base);
            }
        }
    }
    dp_space_destroy(s);
}

static const char *take(struct log *l)
{
    static char text[1000]; /* the test's only thread */
    strcpy(text, l->text);
    l->text[0] = 0;
    return text;
}

static void windows(void **state)
{
    struct dp_space *s = new_space(0x10000);
    struct log l = {0};
    for (unsigned i = 0; i < 64; i++)
        l.bytes[i] = (uint8_t)(i + 1);
    map_window(s, 0x100, 64, &ops_any, &l, 0);
    map_window(s, 0x200, 64, &ops_byte, &l, 0);
    map_window(s, 0x300, 64, &ops_dword, &l, 0);

    assert_true(dp_space_load(s, 0x100, 8) == 0x0807060504030201);
    assert_string_equal(take(&l), "r8@0 ");
    assert_true(dp_space_load(s, 0x102, 2) == 0x0403);
    assert_string_equal(take(&l), "r2@2 ");
    assert_true(dp_space_load(s, 0x101, 4) == 0x05040302); /* not aligned: natural pieces */
    assert_string_equal(take(&l), "r1@1 r2@2 r1@4 ");
    assert_true(dp_space_load(s, 0x204, 4) == 0x08070605); /* split */
    assert_string_equal(take(&l), "r1@4 r1@5 r1@6 r1@7 ");
    assert_true(dp_space_load(s, 0x306, 1) == 0x07); /* widened */
    assert_string_equal(take(&l), "r4@4 ");
    assert_true(dp_space_load(s, 0x303, 4) == 0x07060504);
    assert_string_equal(take(&l), "r4@0 r4@4 ");
    assert_true(dp_space_load(s, 0x300, 8) == 0x0807060504030201);
    assert_string_equal(take(&l), "r4@0 r4@4 ");
    dp_space_store(s, 0x308, 0x1122334455667788, 8);
    assert_string_equal(take(&l), "w4@8=55667788 w4@12=11223344 ");
    dp_space_store(s, 0x30a, 0xabcd, 2);
    assert_string_equal(take(&l), "w4@8=abcd0000 ");
    dp_space_store(s, 0x201, 0xabcd, 2);
    assert_string_equal(take(&l), "w1@1=cd w1@2=ab ");
    assert_true(dp_space_load(s, 0x13e, 4) == 0xffff403f); /* the window's end */
    assert_string_equal(take(&l), "r2@62 ");
    dp_space_destroy(s);
}

static void readonly_and_pins(void **state)
{
    struct dp_space *s = new_space(1ull << 32);
    struct dp_ram *r = new_ram(0x4000);
    struct log l = {0};
    map_ram(s, 0, r, 0, 0x3000, false, 0);
    map_ram(s, 0x10000, r, 0x3000, 0x1000, true, 0);
    map_window(s, 0x20000, 64, &ops_any, &l, 0);
    r->host[0x3000] = 0x42;
    dp_space_store(s, 0x10000, 0x55, 1);
    assert_int_equal(dp_space_load(s, 0x10000, 1), 0x42);
    assert_int_equal(dp_space_write(s, 0x10000, "x", 1), 0);

    struct dp_pin p;
    assert_false(dp_space_pin(s, 0x20000, 4, false, &p));
    assert_false(dp_space_pin(s, 0x40000, 4, false, &p));
    assert_false(dp_space_pin(s, 0x10000, 4, true, &p));
    assert_true(dp_space_pin(s, 0x10800, 0x10000, false, &p) && p.size == 0x800 && p.host == r->host + 0x3800);
    dp_space_unpin(s, &p, 0);

    struct dp_error e = {0};
    assert_ok(dp_space_dirty_start(s, 0, &e), e);
    uint64_t bitmap[1];
    assert_int_equal(dp_space_dirty_harvest(s, 0, r, bitmap), 4);
    assert_true(dp_space_pin(s, 0xfff, 0x1001, true, &p) && p.size == 0x1001);
    memset(p.host, 1, 2);
    dp_space_unpin(s, &p, 2);
    assert_int_equal(dp_space_dirty_harvest(s, 0, r, bitmap), 2);
    assert_int_equal(bitmap[0], 3);
    dp_space_destroy(s);
    dp_ram_destroy(r);
}

/* Reads are RAM's, writes the device's, with offsets that count from the mapping's base also where a part is hidden. */
static void flash(void **state)
{
    struct dp_space *s = new_space(1ull << 32);
    struct dp_ram *r = new_ram(0x4000);
    struct log l = {0};
    struct dp_error e = {0};
    uint32_t id;
    assert_int_equal(dp_space_map_flash(s, 0x10000, r, 0x2000, 0x3000, &ops_byte, &l, 0, &id, &e), -EINVAL);
    assert_ok(dp_space_map_flash(s, 0x10000, r, 0x1000, 0x3000, &ops_byte, &l, 0, &id, &e), e);
    map_window(s, 0x10010, 16, &ops_any, &l, 1);
    r->host[0x1005] = 0x42;
    r->host[0x1024] = 0x43;
    assert_int_equal(dp_space_load(s, 0x10005, 1), 0x42);
    assert_int_equal(dp_space_load(s, 0x10024, 1), 0x43);
    assert_string_equal(take(&l), "");
    dp_space_store(s, 0x10004, 0x1234, 2);
    assert_string_equal(take(&l), "w1@4=34 w1@5=12 ");
    dp_space_store(s, 0x10024, 0x99, 1);
    assert_string_equal(take(&l), "w1@36=99 ");
    assert_int_equal(r->host[0x1005], 0x42);
    struct dp_pin p;
    assert_false(dp_space_pin(s, 0x10000, 4, true, &p));
    assert_true(dp_space_pin(s, 0x10000, 4, false, &p));
    dp_space_unpin(s, &p, 0);
    struct dp_range range;
    assert_true(dp_space_find(s, 0x10800, &range));
    assert_true(range.ram == r && range.readonly && range.ops == &ops_byte && range.base == 0x10020 && range.window_offset == 0x20 &&
                range.ram_offset == 0x1020);
    dp_space_destroy(s);
    dp_ram_destroy(r);
}

static void count_cleared(void *opaque, struct dp_ram *r) { ++*(unsigned *)opaque; }

static void dirty_clients(void **state)
{
    struct dp_space *s = new_space(1ull << 32);
    struct dp_ram *r = new_ram(100 * DP_PAGE_SIZE);
    struct dp_error e = {0};
    unsigned cleared = 0;
    const struct dp_listener l = {.dirty_cleared = count_cleared, .opaque = &cleared};
    assert_int_equal(dp_space_listen(s, &l), 0);
    map_ram(s, 0, r, 0, 100 * DP_PAGE_SIZE, false, 0);
    assert_true(dp_ram_write_is_free(r, 5));
    assert_ok(dp_space_dirty_start(s, 1, &e), e);
    assert_true(dp_ram_write_is_free(r, 5)); /* all is dirty at the start */
    uint64_t bitmap[2];
    assert_int_equal(dp_space_dirty_harvest(s, 1, r, bitmap), 100);
    assert_int_equal(cleared, 1);
    assert_false(dp_ram_write_is_free(r, 5));
    dp_space_store(s, 5 * DP_PAGE_SIZE, 1, 1);
    assert_true(dp_ram_write_is_free(r, 5));
    assert_ok(dp_space_dirty_start(s, 7, &e), e);
    dp_space_store(s, 70 * DP_PAGE_SIZE - 1, 0xffff, 2);
    assert_int_equal(dp_space_dirty_harvest(s, 1, r, bitmap), 3);
    assert_true(bitmap[0] == 1ull << 5 && bitmap[1] == 3ull << 5);
    assert_int_equal(dp_space_dirty_harvest(s, 1, r, bitmap), 0);
    assert_int_equal(dp_space_dirty_harvest(s, 7, r, bitmap), 100); /* clients are independent */
    dp_space_dirty_stop(s, 1);
    dp_space_dirty_stop(s, 7);
    assert_true(dp_ram_write_is_free(r, 9));
    assert_int_equal(dp_space_dirty_start(s, DP_DIRTY_CLIENTS, &e), -EINVAL);

    /* RAM that is mapped while a client is active joins in, dirty. */
    assert_ok(dp_space_dirty_start(s, 0, &e), e);
    struct dp_ram *later = new_ram(DP_PAGE_SIZE);
    map_ram(s, 0x1000000, later, 0, DP_PAGE_SIZE, false, 0);
    assert_int_equal(dp_space_dirty_harvest(s, 0, later, bitmap), 1);
    dp_ram_mark_dirty(later, 0xfff, UINT64_MAX); /* clamped */
    dp_ram_mark_dirty(later, 0x1000, 1);
    assert_int_equal(dp_space_dirty_harvest(s, 0, later, bitmap), 1);
    dp_space_unlisten(s, &cleared);
    dp_space_destroy(s);
    dp_ram_destroy(later);
    dp_ram_destroy(r);
}

static void code_marks(void **state)
{
    struct dp_space *s = new_space(1ull << 32);
    struct dp_ram *r = new_ram(4 * DP_PAGE_SIZE);
    map_ram(s, 0, r, 0, 4 * DP_PAGE_SIZE, false, 0);
    uint32_t g = dp_ram_code_mark(r, 1);
    assert_false(dp_ram_write_is_free(r, 1));
    assert_true(dp_ram_write_is_free(r, 0));
    dp_space_store(s, 0x10, 1, 1);
    assert_int_equal(atomic_load(&r->code_generation[1]), g);
    dp_space_store(s, 0xfff, 0x1234, 2); /* reaches into the page of code */
    assert_int_equal(atomic_load(&r->code_generation[1]), g + 1);
    assert_true(dp_ram_write_is_free(r, 1));
    dp_space_store(s, 0x1000, 1, 1); /* no longer tracked */
    assert_int_equal(atomic_load(&r->code_generation[1]), g + 1);
    assert_int_equal(dp_ram_code_mark(r, 1), g + 1);
    dp_space_destroy(s);
    dp_ram_destroy(r);
}

static void discard(void **state)
{
    struct dp_space *s = new_space(1ull << 32);
    struct dp_ram *r = new_ram(8 * DP_PAGE_SIZE), *next = new_ram(4 * DP_PAGE_SIZE);
    struct dp_error e = {0};
    uint64_t bitmap[1];
    map_ram(s, 0, r, 0, 8 * DP_PAGE_SIZE, false, 0);
    map_ram(s, 8 * DP_PAGE_SIZE, next, DP_PAGE_SIZE, 2 * DP_PAGE_SIZE, false, 0);
    map_ram(s, 16 * DP_PAGE_SIZE, next, 0, DP_PAGE_SIZE, true, 0);
    memset(r->host, 1, r->size);
    memset(next->host, 2, next->size);
    uint32_t g = dp_ram_code_mark(r, 7);
    assert_ok(dp_space_dirty_start(s, 0, &e), e);
    dp_space_dirty_harvest(s, 0, r, bitmap);
    assert_int_equal(dp_space_discard(s, 6 * DP_PAGE_SIZE, 3 * DP_PAGE_SIZE), 0); /* across two */
    assert_int_equal(r->host[6 * DP_PAGE_SIZE - 1], 1);
    assert_int_equal(r->host[6 * DP_PAGE_SIZE], 0);
    assert_int_equal(r->host[8 * DP_PAGE_SIZE - 1], 0);
    assert_int_equal(next->host[DP_PAGE_SIZE - 1], 2);
    assert_int_equal(next->host[DP_PAGE_SIZE], 0);
    assert_int_equal(next->host[2 * DP_PAGE_SIZE], 2);
    assert_int_equal(atomic_load(&r->code_generation[7]), g + 1);
    assert_int_equal(dp_space_dirty_harvest(s, 0, r, bitmap), 2);
    assert_int_equal(bitmap[0], 0xc0);
    /* All or nothing. */
    assert_int_equal(dp_space_discard(s, 0, 0), -EINVAL);
    assert_int_equal(dp_space_discard(s, 1, DP_PAGE_SIZE), -EINVAL);
    assert_int_equal(dp_space_discard(s, 0, DP_PAGE_SIZE - 1), -EINVAL);
    assert_int_equal(dp_space_discard(s, 16 * DP_PAGE_SIZE, DP_PAGE_SIZE), -EFAULT);
    assert_int_equal(dp_space_discard(s, 9 * DP_PAGE_SIZE, 2 * DP_PAGE_SIZE), -EFAULT);
    assert_int_equal(dp_space_discard(s, 0, -DP_PAGE_SIZE), -EFAULT);
    assert_int_equal(dp_space_discard(s, -DP_PAGE_SIZE, 2 * DP_PAGE_SIZE), -EFAULT);
    assert_int_equal(r->host[0], 1);
    assert_int_equal(next->host[2 * DP_PAGE_SIZE], 2);
    dp_space_destroy(s);
    dp_ram_destroy(r);
    dp_ram_destroy(next);
}

/* One thread changes a byte of "code" and marks; another decodes it whenever its copy's generation is old. A copy whose generation
 * is current after a write was completed must hold what was written. */
struct coherence { struct dp_space *s; struct dp_ram *r; atomic_uint written; atomic_bool stop, stale; };

static void *decode(void *opaque)
{
    struct coherence *c = opaque;
    uint32_t generation = 0, copy = 0;
    bool have = false;
    while (!atomic_load(&c->stop)) {
        uint32_t completed = atomic_load(&c->written);
        if (!have || atomic_load(&c->r->code_generation[0]) != generation) {
            generation = dp_ram_code_mark(c->r, 0);
            copy = (uint32_t)dp_space_load(c->s, 0, 4);
            have = true;
        }
        if ((int32_t)(copy - completed) < 0)
            atomic_store(&c->stale, true);
    }
    return NULL;
}

static void code_coherence(void **state)
{
    struct coherence c = {.s = new_space(0x10000), .r = new_ram(DP_PAGE_SIZE)};
    map_ram(c.s, 0, c.r, 0, DP_PAGE_SIZE, false, 0);
    pthread_t t[2];
    for (unsigned i = 0; i < 2; i++)
        pthread_create(&t[i], NULL, decode, &c);
    for (uint32_t i = 1; i < 200000; i++) {
        dp_space_store(c.s, 0, i, 4);
        atomic_store(&c.written, i);
    }
    atomic_store(&c.stop, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    assert_false(atomic_load(&c.stale));
    dp_space_destroy(c.s);
    dp_ram_destroy(c.r);
}

/* Readers while a "BAR" moves in a tight loop: what they find is always consistent, and fixed neighbours never vanish. A fixed
 * window's opaque is its base; the moving one's is NULL. */
struct race { struct dp_space *s; atomic_bool stop; atomic_uint wrong; atomic_ullong finds; };

static const struct dp_window_ops race_ops = {.name = "race"};

static void *race_reader(void *opaque)
{
    struct race *k = opaque;
    struct dp_random r;
    dp_random_seed(&r, (uintptr_t)&r);
    uint64_t finds = 0;
    unsigned wrong = 0;
    while (!atomic_load_explicit(&k->stop, memory_order_relaxed)) {
        struct dp_range range;
        uint64_t a = dp_random_next(&r) % 0x100000;
        bool found = dp_space_find(k->s, a, &range);
        bool fixed = a / 0x1000 % 2 == 0 && a >= 0x2000 && a < 0x40000;
        wrong += a - range.base >= range.size || (fixed && !found);
        if (found && range.opaque)
            wrong += range.base != (uintptr_t)range.opaque || range.size != 0x1000 || range.window_offset;
        else if (found)
            wrong += range.size != 0x800 || range.base < 0x80000;
        finds++;
    }
    atomic_fetch_add(&k->finds, finds);
    atomic_fetch_add(&k->wrong, wrong);
    return NULL;
}

static void concurrent_remap(void **state)
{
    struct race k = {.s = new_space(0x100000)};
    for (uint64_t base = 0x2000; base < 0x40000; base += 0x2000)
        map_window(k.s, base, 0x1000, &race_ops, (void *)(uintptr_t)base, 0);
    pthread_t t[3];
    for (unsigned i = 0; i < DP_ARRAY_LEN(t); i++)
        pthread_create(&t[i], NULL, race_reader, &k);
    struct dp_random r;
    dp_random_seed(&r, 9);
    uint32_t id = map_window(k.s, 0x80000, 0x800, &race_ops, NULL, 0);
    for (unsigned i = 0; i < 50000; i++) {
        dp_space_begin(k.s);
        dp_space_unmap(k.s, id);
        id = map_window(k.s, 0x80000 + dp_random_next(&r) % 0x7f000, 0x800, &race_ops, NULL, 0);
        dp_space_commit(k.s);
    }
    atomic_store(&k.stop, true);
    for (unsigned i = 0; i < DP_ARRAY_LEN(t); i++)
        pthread_join(t[i], NULL);
    assert_int_equal(atomic_load(&k.wrong), 0);
    assert_true(atomic_load(&k.finds) > 0);
    dp_space_destroy(k.s);
}

static void count_changed(void *opaque, struct dp_space *s)
{
    struct dp_range r;
    dp_space_find(s, 0, &r); /* callbacks may use the space */
    ++*(unsigned *)opaque;
}

static void listeners(void **state)
{
    struct dp_space *s = new_space(0x10000);
    struct log l = {0};
    unsigned changes = 0;
    const struct dp_listener listener = {.changed = count_changed, .opaque = &changes};
    assert_int_equal(dp_space_listen(s, &listener), 0);
    uint32_t id = map_window(s, 0, 64, &ops_any, &l, 0);
    assert_int_equal(changes, 1);
    dp_space_begin(s);
    dp_space_begin(s);
    dp_space_unmap(s, id);
    map_window(s, 0x40, 64, &ops_any, &l, 0);
    dp_space_commit(s);
    assert_int_equal(changes, 1);
    dp_space_commit(s);
    assert_int_equal(changes, 2);
    dp_space_begin(s);
    dp_space_commit(s); /* nothing changed */
    assert_int_equal(changes, 2);
    dp_space_unlisten(s, &changes);
    map_window(s, 0x80, 64, &ops_any, &l, 0);
    assert_int_equal(changes, 2);
    dp_space_destroy(s);
}

/* A space over another: its own mappings first, the other's pieces in its holes, cut to them; a processors' mask; listeners below hear of both. */
static void over(void **state)
{
    enum { PAGES = 64, P = DP_PAGE_SIZE };
    struct dp_error e = {0};
    struct dp_random random;
    dp_random_seed(&random, 5);
    struct dp_ram *own = new_ram(PAGES * P), *other = new_ram(PAGES * P);
    for (unsigned round = 0; round < 40; round++) {
        struct dp_space *below = new_space(1ull << 40), *alone = new_space(1ull << 40), *s;
        unsigned changes = 0;
        assert_ok(dp_space_create_over("over", below, &s, &e), e);
        assert_int_equal(dp_space_listen(below, &(struct dp_listener){.changed = count_changed, .opaque = &changes}), 0);
        for (unsigned i = 0; i < 8; i++) {
            uint64_t at = dp_random_next(&random) % PAGES, n = 1 + dp_random_next(&random) % (PAGES - at);
            if (i & 1 && n > 4)
                n = 4;
            map_ram(i & 1 ? s : below, at * P, i & 1 ? own : other, 0, n * P, false, (int)i);
            if (i & 1)
                map_ram(alone, at * P, own, 0, n * P, false, (int)i);
        }
        assert_int_equal(changes, 8);
        for (uint64_t page = 0; page < PAGES + 2; page++) {
            struct dp_range r, want;
            uint64_t at = page * P + 5;
            bool found = dp_space_find(s, at, &r);
            assert_true(at - r.base < r.size);
            for (unsigned k = 0; k < 3; k++) { /* the whole range is of one piece */
                uint64_t a = k == 0 ? r.base : k == 1 ? at : r.base + DP_MIN(r.size, (uint64_t)PAGES * 2 * P) - 1;
                struct dp_range mine;
                bool here = dp_space_find(alone, a, &mine), there = dp_space_find(below, a, &want);
                want = here ? mine : want;
                assert_int_equal(found, here || there);
                assert_ptr_equal(r.ram, found ? want.ram : NULL);
                if (found)
                    assert_int_equal(r.ram_offset + (a - r.base), want.ram_offset + (a - want.base));
            }
        }
        assert_true(dp_space_cpu_mask(below) == UINT64_MAX);
        dp_space_set_cpu_mask(below, ~0x100000ull);
        dp_space_set_cpu_mask(below, ~0x100000ull);
        assert_int_equal(changes, 9);
        dp_space_destroy(s);
        dp_space_destroy(alone);
        dp_space_destroy(below);
    }
    dp_ram_destroy(own);
    dp_ram_destroy(other);
}

static void impossible_ram(void **state)
{
    struct dp_ram *r = NULL;
    struct dp_error e = {0};
    assert_int_equal(dp_ram_create("ram", 0, &r, &e), -EINVAL);
    assert_int_equal(dp_ram_create("ram", 4097, &r, &e), -EINVAL);
    assert_int_equal(dp_ram_create("ram", 1ull << 50, &r, &e), -ENOMEM);
    assert_non_null(strstr(e.text, "MiB"));
    assert_int_equal(dp_ram_create("ram", UINT64_MAX - 0xfff, &r, &e), -EINVAL);
    assert_null(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ram_and_holes),     cmocka_unit_test(bad_mappings),     cmocka_unit_test(priorities),
        cmocka_unit_test(random_views),      cmocka_unit_test(windows),          cmocka_unit_test(readonly_and_pins),
        cmocka_unit_test(flash),
        cmocka_unit_test(dirty_clients),     cmocka_unit_test(code_marks), cmocka_unit_test(discard),       cmocka_unit_test(code_coherence),
        cmocka_unit_test(concurrent_remap),  cmocka_unit_test(listeners),         cmocka_unit_test(over),        cmocka_unit_test(impossible_ram),
    };
    return cmocka_run_group_tests_name("memory", tests, NULL, NULL);
}
