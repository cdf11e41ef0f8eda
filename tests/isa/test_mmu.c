/* test_mmu.c - page walks against a brute-force model of SDM vol. 3 4.5-4.7, written from the rules' text and not from mmu.c. */
#include "tests/isa/fake.h"

enum { ROOT = 0x10000, LEVEL_STEP = 0x1000, PAGE = 0x80000 };
#define NX (1ull << 63)
enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };

enum mode { MODE_4LEVEL, MODE_PAE, MODE_2LEVEL, MODES };
static const uint64_t linear_of[MODES] = {0x0000123456789abcull & 0x00007fffffffffffull, 0xc0765432, 0x8abcd123};

/* The path of entries from the root to the leaf; every level's table page holds one used entry. */
struct path { unsigned levels, size; uint64_t address[4]; };

static struct path build_path(struct fake *f, enum mode mode, uint64_t linear)
{
    static const unsigned shifts[MODES][4] = {{39, 30, 21, 12}, {21, 12}, {22, 12}};
    struct path p = {.levels = mode == MODE_4LEVEL ? 4 : 2, .size = mode == MODE_2LEVEL ? 4 : 8};

    f->s.cr0 = X86_CR0_PE | X86_CR0_PG;
    f->s.cr4 = mode == MODE_2LEVEL ? 0 : X86_CR4_PAE;
    f->s.efer = mode == MODE_4LEVEL ? X86_EFER_LME | X86_EFER_LMA : 0;
    f->s.cr3 = ROOT;
    memset(f->s.pdpte, 0, sizeof f->s.pdpte);
    if (mode == MODE_PAE)
        f->s.pdpte[linear >> 30 & 3] = ROOT | P;
    for (unsigned i = 0; i < p.levels; i++)
        p.address[i] = ROOT + i * LEVEL_STEP + (linear >> shifts[mode][i] & (mode == MODE_2LEVEL ? 0x3ff : 0x1ff)) * p.size;
    return p;
}
static uint64_t next_table(const struct path *p, unsigned level) { return level + 1 < p->levels ? ROOT + (level + 1) * LEVEL_STEP : PAGE; }
static void put_entry(struct fake *f, const struct path *p, unsigned level, uint64_t e) { memcpy(f->ram + p->address[level], &e, p->size); }
static uint64_t get_entry(struct fake *f, const struct path *p, unsigned level)
{
    return p->size == 8 ? get64(f, p->address[level]) : get32(f, p->address[level]);
}

/* ---- the model ---- */

struct expect { bool ok; uint32_t error; uint64_t phys, page; unsigned leaf; bool writable, user, exec, global; };

static bool reserved_bits(const struct fake *f, enum mode mode, uint64_t e, unsigned level_from_leaf, bool large)
{
    unsigned maxphy = f->m.physical_bits;

    if (mode == MODE_2LEVEL) /* only 4 MiB pages have any: 21 and, beyond the width, 13-20 */
        return large && (e & 1 << 21);
    for (unsigned bit = maxphy; bit < 52; bit++)
        if (e >> bit & 1)
            return true;
    if (mode == MODE_PAE && (e >> 52 & 0x7ff))
        return true;
    if ((e & NX) && !(f->s.efer & X86_EFER_NXE))
        return true;
    if (level_from_leaf == 3 && (e & PS))
        return true;
    if (large)
        for (unsigned bit = 13; bit < 12 + 9 * level_from_leaf; bit++)
            if (e >> bit & 1)
                return true;
    return false;
}

static struct expect model(struct fake *f, enum mode mode, uint64_t linear, const uint64_t *entry, unsigned levels, enum x86_access a, bool user, bool ac)
{
    struct expect x = {0};
    uint32_t code = (a == X86_ACCESS_WRITE ? 2 : 0) | (user ? 4 : 0);
    bool nxe = f->s.efer & X86_EFER_NXE, smep = f->s.cr4 & X86_CR4_SMEP, smap = f->s.cr4 & X86_CR4_SMAP, wp = f->s.cr0 & X86_CR0_WP;
    bool every_w = true, every_u = true, any_nx = false, denied;

    if (a == X86_ACCESS_FETCH && (smep || (nxe && mode != MODE_2LEVEL)))
        code |= 16;
    for (unsigned i = 0; i < levels; i++) {
        uint64_t e = entry[i];
        unsigned up = levels - 1 - i;
        bool large = up && (e & PS) && (mode != MODE_2LEVEL || (f->s.cr4 & X86_CR4_PSE));

        if (!(e & P)) {
            x.error = code;
            return x;
        }
        if (reserved_bits(f, mode, e, up, large)) {
            x.error = code | 1 | 8;
            return x;
        }
        every_w = every_w && (e & W);
        every_u = every_u && (e & U);
        any_nx = any_nx || (e & NX);
        if (large || !up) {
            x.leaf = i;
            x.page = mode == MODE_2LEVEL ? (up ? 4u << 20 : 4096) : 4096ull << (9 * up);
            x.phys = mode == MODE_2LEVEL && up ? (e & 0xffc00000) | (e >> 13 & 0xff) << 32 : (e & 0x000ffffffffff000ull) / x.page * x.page;
            x.phys += linear % x.page;
            x.global = (e & G) && (f->s.cr4 & X86_CR4_PGE);
            break;
        }
    }
    x.writable = every_w;
    x.user = every_u;
    x.exec = !any_nx;
    /* SDM 4.6.1, sentence by sentence. */
    if (!user) {
        if (a == X86_ACCESS_FETCH)
            denied = any_nx || (every_u && smep);
        else if (every_u && smap && !ac)
            denied = true;
        else
            denied = a == X86_ACCESS_WRITE && wp && !every_w;
    } else if (a == X86_ACCESS_FETCH) {
        denied = !every_u || any_nx;
    } else {
        denied = !every_u || (a == X86_ACCESS_WRITE && !every_w);
    }
    x.ok = !denied;
    if (denied)
        x.error = code | 1;
    return x;
}

static void check(struct fake *f, enum mode mode, const struct path *p, const uint64_t *entry, enum x86_access a, bool user, bool ac)
{
    uint64_t linear = linear_of[mode];
    struct expect x = model(f, mode, linear, entry, p->levels, a, user, ac);
    struct x86_translation t;
    int r;

    for (unsigned i = 0; i < p->levels; i++)
        put_entry(f, p, i, entry[i]);
    r = x86_walk(&f->c, linear, a, user, ac, &t);
    if (x.ok != (r == 0) || (r && f->c.fault.error != x.error))
        fail_msg("mode %d access %d user %d ac %d cr0 %llx cr4 %llx efer %llx entries %llx %llx %llx %llx: want ok %d error %x, got %d error %x", mode, a, user,
                 ac, (long long)f->s.cr0, (long long)f->s.cr4, (long long)f->s.efer, (long long)entry[0], (long long)entry[1], (long long)entry[2],
                 (long long)entry[3], x.ok, x.error, r, f->c.fault.error);
    if (r) {
        assert_int_equal(f->c.fault.vector, X86_PF_);
        assert_true(f->c.fault.cr2 == linear);
    } else {
        assert_true(t.phys == x.phys);
        assert_true(t.page_size == x.page);
        assert_true(t.writable == x.writable && t.user == x.user && t.executable == x.exec && t.global == x.global);
        assert_true(t.dirty == (a == X86_ACCESS_WRITE || (entry[x.leaf] & D)));
    }
    for (unsigned i = 0; i < p->levels; i++) { /* A and D exactly where a translation was used */
        uint64_t want = entry[i];
        if (x.ok && i <= x.leaf)
            want |= A | (i == x.leaf && a == X86_ACCESS_WRITE ? D : 0);
        assert_true(get_entry(f, p, i) == want);
    }
    uint64_t phys;
    bool mapped = x86_walk_debug(&f->c, linear, &phys);
    if (x.ok)
        assert_true(mapped && phys == x.phys);
}

static void set_bits(struct fake *f, unsigned bits)
{
    f->s.cr0 = (f->s.cr0 & ~(uint64_t)X86_CR0_WP) | (bits & 1 ? X86_CR0_WP : 0);
    f->s.cr4 = (f->s.cr4 & X86_CR4_PAE) | (bits & 2 ? X86_CR4_SMEP : 0) | (bits & 4 ? X86_CR4_SMAP : 0) | (bits & 16 ? X86_CR4_PGE : 0) |
               (bits & 32 ? X86_CR4_PSE : 0);
    f->s.efer = (f->s.efer & ~(uint64_t)X86_EFER_NXE) | (bits & 8 ? X86_EFER_NXE : 0);
}

/* All of W, U and NX at every level, times WP, SMEP, SMAP, NXE, times the kinds of access. */
static void test_rights(void **state)
{
    struct fake *f = fake_new();
    unsigned long cases = 0;

    for (enum mode mode = 0; mode < MODES; mode++) {
        struct path p = build_path(f, mode, linear_of[mode]);
        unsigned per_level = mode == MODE_2LEVEL ? 2 : 3;
        for (unsigned bits = 0; bits < 16; bits++) {
            set_bits(f, bits);
            for (unsigned pattern = 0; pattern < 1u << (per_level * p.levels); pattern++) {
                uint64_t entry[4] = {0};
                for (unsigned i = 0; i < p.levels; i++) {
                    unsigned v = pattern >> (per_level * i);
                    entry[i] = next_table(&p, i) | P | (v & 1 ? W : 0) | (v & 2 ? U : 0) | (per_level == 3 && (v & 4) ? NX : 0);
                }
                for (unsigned kind = 0; kind < 12; kind++, cases++)
                    check(f, mode, &p, entry, kind % 3, kind / 3 & 1, kind / 6);
            }
        }
    }
    assert_true(cases > 700000);
    free(f);
}

/* Every other bit of entries at random: P, A, D, G, large pages, reserved and ignored bits. */
static void test_random_entries(void **state)
{
    struct fake *f = fake_new();
    struct dp_random rnd;

    dp_random_seed(&rnd, 1);
    for (unsigned n = 0; n < 400000; n++) {
        enum mode mode = n % MODES;
        struct path p = build_path(f, mode, linear_of[mode]);
        uint64_t entry[4] = {0};

        set_bits(f, (unsigned)dp_random_next(&rnd) & 63);
        for (unsigned i = 0; i < p.levels; i++) {
            uint64_t r = dp_random_next(&rnd), noise = dp_random_next(&rnd);
            bool large = i + 1 < p.levels && r % 4 == 0;

            entry[i] = (large ? (mode == MODE_2LEVEL ? 0x40000000ull : mode == MODE_4LEVEL && i == 1 ? 0x80000000ull : 0x40200000ull) : next_table(&p, i)) |
                       P | W | U | (large ? PS : 0) | (noise & (A | D | G | 0xe00));
            if (i + 1 < p.levels && !large)
                entry[i] &= ~(uint64_t)PS;
            if (r >> 8 & 1)
                entry[i] &= ~(uint64_t)(r >> 9 & (P | W | U)) | (r >> 12 & 3 ? P : 0);
            if (mode == MODE_2LEVEL) {
                if (large && !(f->s.cr4 & X86_CR4_PSE)) /* then the bit means nothing and a table follows */
                    entry[i] = (entry[i] & 0xfff) | next_table(&p, i);
                else if (large)
                    entry[i] |= (r >> 20 & 0x1fe000) /* high address bits */ | ((r >> 50) % 8 == 0 ? 1 << 21 : 0);
                continue;
            }
            if (r >> 16 & 1)
                entry[i] |= NX;
            if (mode == MODE_4LEVEL)
                entry[i] |= (r >> 20 & 0x7ff) << 52; /* ignored there */
            else if (r >> 32 & 1)
                entry[i] |= 1ull << (52 + (r >> 33) % 11);
            if ((r >> 48) % 8 == 0)
                entry[i] |= 1ull << (f->m.physical_bits + (r >> 52) % 12);
            if (large && (r >> 40) % 4 == 0)
                entry[i] |= 1ull << (13 + (r >> 42) % 8);
        }
        uint64_t r = dp_random_next(&rnd);
        check(f, mode, &p, entry, r % 3, r >> 8 & 1, r >> 9 & 1);
    }
    free(f);
}

static void test_reserved_large(void **state)
{
    struct fake *f = fake_new();
    struct path p = build_path(f, MODE_4LEVEL, linear_of[0]);
    uint64_t entry[4] = {next_table(&p, 0) | 7, 0x80000000ull | PS | 7, 0, 0};

    check(f, MODE_4LEVEL, &p, entry, X86_ACCESS_READ, true, false); /* 1 GiB page */
    f->m.features[X86_FEATURE_PDPE1GB / 64] &= ~(1ull << X86_FEATURE_PDPE1GB % 64);
    struct x86_translation t;
    assert_int_equal(x86_walk(&f->c, linear_of[0], X86_ACCESS_READ, true, false, &t), -1);
    assert_int_equal(f->c.fault.error, X86_PF_P | X86_PF_U | X86_PF_RSVD);

    p = build_path(f, MODE_4LEVEL, linear_of[0]);
    put_entry(f, &p, 0, next_table(&p, 0) | 7 | PS);
    assert_int_equal(x86_walk(&f->c, linear_of[0], X86_ACCESS_WRITE, false, false, &t), -1);
    assert_int_equal(f->c.fault.error, X86_PF_P | X86_PF_W | X86_PF_RSVD);

    p = build_path(f, MODE_2LEVEL, linear_of[2]);
    f->s.cr4 |= X86_CR4_PSE;
    f->m.physical_bits = 36; /* bits 17-21 become reserved */
    put_entry(f, &p, 0, 0x40000000 | PS | 7 | 1 << 17);
    assert_int_equal(x86_walk(&f->c, linear_of[2], X86_ACCESS_READ, false, false, &t), -1);
    assert_int_equal(f->c.fault.error, X86_PF_P | X86_PF_RSVD);
    put_entry(f, &p, 0, 0x40000000 | PS | 7 | 1 << 16);
    assert_int_equal(x86_walk(&f->c, linear_of[2], X86_ACCESS_READ, false, false, &t), 0);
    assert_true(t.phys == (8ull << 32 | 0x40000000 | (linear_of[2] & 0x3fffff)));
    free(f);
}

static void test_modes(void **state)
{
    struct fake *f = fake_new();
    struct x86_translation t;

    f->s.cr0 = X86_CR0_PE;
    assert_int_equal(x86_walk(&f->c, 0x123456789ull, X86_ACCESS_WRITE, true, false, &t), 0);
    assert_true(t.phys == 0x23456789 && t.page_size == 4096 && t.writable && t.user && t.executable && t.dirty && !t.global);

    build_path(f, MODE_4LEVEL, 0);
    assert_int_equal(x86_walk(&f->c, 0x0000800000000000ull, X86_ACCESS_READ, false, false, &t), -1);
    assert_int_equal(f->c.fault.vector, X86_GP);
    assert_int_equal(f->c.fault.error, 0);
    assert_true(x86_canonical(&f->s, 0xffff800000000000ull));
    assert_false(x86_canonical(&f->s, 0xffff7fffffffffffull));

    build_path(f, MODE_PAE, 0); /* absent PDPTE */
    f->s.pdpte[0] = 0;
    assert_int_equal(x86_walk(&f->c, 0x1000, X86_ACCESS_READ, true, false, &t), -1);
    assert_int_equal(f->c.fault.error, X86_PF_U);

    struct path p = build_path(f, MODE_2LEVEL, linear_of[2]); /* linear addresses wrap at 4 GiB */
    put_entry(f, &p, 0, next_table(&p, 0) | 7);
    put_entry(f, &p, 1, PAGE | 7);
    assert_int_equal(x86_walk(&f->c, linear_of[2] | 1ull << 32, X86_ACCESS_READ, true, false, &t), 0);
    assert_true(t.phys == (PAGE | (linear_of[2] & 0xfff)));
    free(f);
}

static void test_memory_type(void **state)
{
    struct fake *f = fake_new();
    struct path p = build_path(f, MODE_4LEVEL, linear_of[0]);
    struct x86_translation t;

    for (unsigned type = 0; type < 8; type++) {
        for (unsigned i = 0; i < 4; i++)
            put_entry(f, &p, i, next_table(&p, i) | 7 | (i == 3 ? (type & 3) << 3 | (type & 4) << 5 : 0));
        assert_int_equal(x86_walk(&f->c, linear_of[0], X86_ACCESS_READ, true, false, &t), 0);
        assert_int_equal(t.memory_type, type);
        put_entry(f, &p, 2, 0x40000000 | PS | 7 | (type & 3) << 3 | (type & 4) << 10);
        assert_int_equal(x86_walk(&f->c, linear_of[0], X86_ACCESS_READ, true, false, &t), 0);
        assert_int_equal(t.memory_type, type);
    }
    free(f);
}

static uint64_t changed_to;
static void take_page_away(struct fake *f, uint64_t phys)
{
    f->before_exchange = NULL;
    put64(f, phys, changed_to);
}

static void test_races(void **state)
{
    struct fake *f = fake_new();
    struct path p = build_path(f, MODE_4LEVEL, linear_of[0]);
    struct x86_translation t;

    for (unsigned i = 0; i < 4; i++)
        put_entry(f, &p, i, next_table(&p, i) | 7 | (i < 3 ? A : 0));
    changed_to = 0; /* unmapped by another processor just before A is set */
    f->before_exchange = take_page_away;
    assert_int_equal(x86_walk(&f->c, linear_of[0], X86_ACCESS_READ, true, false, &t), -1);
    assert_int_equal(f->c.fault.error, X86_PF_U);

    put_entry(f, &p, 3, PAGE | 7);
    changed_to = (PAGE + 0x1000) | 7 | A; /* remapped */
    f->before_exchange = take_page_away;
    assert_int_equal(x86_walk(&f->c, linear_of[0], X86_ACCESS_WRITE, true, false, &t), 0);
    assert_true(t.phys >> 12 == (PAGE + 0x1000) >> 12);
    assert_true(get_entry(f, &p, 3) == ((PAGE + 0x1000) | 7 | A | D));

    put_entry(f, &p, 3, PAGE | 7); /* tables that cannot be written do not hang the processor */
    f->no_exchange = true;
    f->exchanges = 0;
    assert_int_equal(x86_walk(&f->c, linear_of[0], X86_ACCESS_WRITE, true, false, &t), 0);
    assert_in_range(f->exchanges, 1, 1000);
    assert_false(t.dirty);
    free(f);
}

static void test_pdptes(void **state)
{
    struct fake *f = fake_new();
    struct x86_translation t;

    /* CR3 write loads the registers; a later change in memory does not matter until the next one. */
    f->s.cr0 = X86_CR0_PE | X86_CR0_PG;
    f->s.cr4 = X86_CR4_PAE;
    put64(f, ROOT + 0x20, 0x20001);
    put64(f, 0x20000, 0x200000 | PS | 7);
    assert_int_equal(x86_write_cr(&f->c, 3, ROOT + 0x20), 0);
    put64(f, ROOT + 0x20, 0);
    assert_int_equal(x86_walk(&f->c, 0x1234, X86_ACCESS_READ, true, false, &t), 0);
    assert_true(t.phys == 0x201234);
    /* Reserved bits in a present one: #GP and nothing loaded. */
    for (unsigned bit = 1; bit < 64; bit++) {
        bool bad = bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= f->m.physical_bits;
        put64(f, ROOT + 0x40, 0x20001 | 1ull << bit);
        uint64_t old = f->s.pdpte[0], old_cr3 = f->s.cr3;
        assert_int_equal(x86_write_cr(&f->c, 3, ROOT + 0x40), bad ? -1 : 0);
        if (bad) {
            assert_int_equal(f->c.fault.vector, X86_GP);
            assert_true(f->s.pdpte[0] == old && f->s.cr3 == old_cr3);
        }
    }
    put64(f, ROOT + 0x40, ~1ull); /* absent: anything goes */
    assert_int_equal(x86_write_cr(&f->c, 3, ROOT + 0x40), 0);
    free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rights), cmocka_unit_test(test_random_entries), cmocka_unit_test(test_reserved_large), cmocka_unit_test(test_modes),
        cmocka_unit_test(test_memory_type), cmocka_unit_test(test_races), cmocka_unit_test(test_pdptes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
