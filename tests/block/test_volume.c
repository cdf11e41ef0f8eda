/* test_volume.c - volumes by their functions: random operations on a pool beside a model of what each volume and snapshot holds. The
 * commands, VMs and kills: tests/vm/test_volume.py.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <stdlib.h>
#include <unistd.h>

#include "volume/volume.h"

enum { SIZE = 1 << 20, MODELS = 24 };

static struct dp_random chance;
static struct model {
    char name[DP_VOLUME_TEXT_MAX]; /* "": free */
    uint8_t *data;
} models[MODELS];

static unsigned pick(unsigned n) { return (unsigned)(dp_random_next(&chance) >> 8) % n; }

static struct model *model_of(const char *name)
{
    for (unsigned i = 0; i < MODELS; i++)
        if (!strcmp(models[i].name, name))
            return &models[i];
    return NULL;
}

static void remember(const char *name, const uint8_t *data)
{
    struct model *m = model_of("");
    if (!m) {
        fail_msg("no room for %s", name);
        return;
    }
    assert_true((size_t)snprintf(m->name, sizeof m->name, "%s", name) < sizeof m->name);
    m->data = malloc(SIZE);
    if (data)
        memcpy(m->data, data, SIZE);
    else
        memset(m->data, 0, SIZE);
}

static void forget(struct model *m)
{
    free(m->data);
    m->data = NULL;
    *m->name = 0;
}

static struct dp_volume *find(const struct dp_pool *p, const char *name)
{
    struct dp_volume_name n;
    assert_int_equal(dp_volume_split(name, &n, NULL), 0);
    return dp_volume_find(p, &n, NULL);
}

static void check(const struct dp_pool *p, const struct model *m)
{
    static uint8_t got[SIZE];
    struct dp_image *i = NULL;
    struct dp_error e = {0};
    struct dp_volume *v = find(p, m->name);
    assert_non_null(v);
    if (dp_volume_open(p, v, false, false, &i, &e))
        fail_msg("%s: %s", m->name, e.text);
    assert_int_equal(dp_image_pread(i, got, SIZE, 0), 0);
    dp_image_close(i);
    if (memcmp(got, m->data, SIZE))
        fail_msg("%s is not what it should be", m->name);
}

static void change(struct dp_pool *p, struct dp_volume *v, struct model *m)
{
    struct dp_image *i = NULL;
    struct dp_error e = {0};
    uint64_t at = pick(SIZE / 512) * 512ull, most = pick(200) * 512ull + 512, n = DP_MIN(most, SIZE - at);
    int rc = dp_volume_open(p, v, true, false, &i, &e);
    assert_int_equal(rc, dp_volume_protected(p, v) ? -EROFS : 0);
    if (rc)
        return;
    memset(m->data + at, (int)pick(256), n);
    assert_int_equal(dp_image_pwrite(i, m->data + at, n, at), 0);
    dp_image_close(i);
}

static void step(struct dp_pool *p, unsigned number)
{
    struct dp_error e = {0};
    struct model *m = &models[pick(MODELS)];
    struct dp_volume *v = *m->name ? find(p, m->name) : NULL, *child;
    char name[DP_VOLUME_TEXT_MAX], text[DP_VOLUME_TEXT_MAX + 8];
    bool room = model_of("");
    unsigned children = v ? dp_pool_children(p, v, &child) : 0;
    snprintf(name, sizeof name, "n%u", number);
    if (!v) {
        assert_int_equal(dp_volume_create(p, name, pick(2) ? "raw" : "qcow2", SIZE, &e), 0);
        remember(name, NULL);
        return;
    }
    switch (pick(6)) {
    case 0:
        if (room) {
            enum dp_volume_clone how = DP_CLONE_BACKING;
            assert_int_equal(dp_volume_clone(p, v, name, &how, &e), 0);
            remember(name, m->data);
        }
        break;
    case 1:
        if (v->owner || !room)
            break;
        assert_int_equal(dp_volume_snapshot(p, v, name, &e), 0);
        snprintf(text, sizeof text, "%s@%.20s", m->name, name);
        remember(text, m->data);
        break;
    case 2: {
        struct dp_volume *owner = v->owner ? dp_pool_by_id(p, v->owner) : NULL;
        if (!owner)
            break;
        bool stood_on = dp_pool_children(p, owner, NULL);
        assert_int_equal(dp_volume_revert(p, owner, v, &e), stood_on ? -EBUSY : 0);
        if (!stood_on)
            memcpy(model_of(owner->name)->data, m->data, SIZE);
        break;
    }
    case 3: {
        bool snapshots = false;
        for (unsigned i = 0; i < p->count; i++)
            snapshots = snapshots || p->volume[i]->owner == v->id;
        bool stays = v->owner ? children > 1 : children || snapshots;
        int rc = dp_volume_remove(p, v, false, NULL, &e);
        if (stays)
            assert_true(rc == -EBUSY || rc == -ENOTEMPTY);
        else if (rc)
            fail_msg("%s: %s", m->name, e.text);
        else
            forget(m);
        break;
    }
    default:
        change(p, v, m);
    }
}

static void test_random(void **state)
{
    for (unsigned round = 0; round < 4; round++) {
        struct dp_pool p;
        struct dp_error e = {0};
        dp_random_seed(&chance, round + 1);
        for (unsigned n = 0; n < 120; n++) {
            assert_int_equal(dp_pool_open("default", true, &p, &e), 0);
            step(&p, round * 1000 + n);
            for (unsigned i = 0; i < MODELS; i++)
                if (*models[i].name && (n % 20 == 19 || pick(8) == 0))
                    check(&p, &models[i]);
            dp_pool_close(&p);
        }
        /* Everything can be removed, what stands on others first. */
        while (!dp_pool_open("default", true, &p, &e) && p.count) {
            int rc = -ENOTEMPTY;
            for (unsigned i = p.count; rc && i-- > 0;)
                if (dp_pool_children(&p, p.volume[i], NULL) <= (p.volume[i]->owner != 0))
                    rc = dp_volume_remove(&p, p.volume[i], false, NULL, &e);
            assert_int_equal(rc, 0);
            dp_pool_close(&p);
        }
        dp_pool_close(&p);
        for (unsigned i = 0; i < MODELS; i++)
            if (*models[i].name)
                forget(&models[i]);
    }
}

static void test_names(void **state)
{
    struct dp_volume_name n;
    static const char *const bad[] = {"", "/", "a/", "/a", "a@", "@a", "a/b/c", "a@b@c", "..", "a/..", ".a", "-a", "a b", "a\n", "a/b@/c"};
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++)
        assert_int_equal(dp_volume_split(bad[i], &n, NULL), -EINVAL);
    assert_int_equal(dp_volume_split("pool/a.b@c-1", &n, NULL), 0);
    assert_string_equal(n.pool, "pool");
    assert_string_equal(n.name, "a.b");
    assert_string_equal(n.snapshot, "c-1");
    assert_int_equal(dp_volume_split("a", &n, NULL), 0);
    assert_string_equal(n.pool, "default");
    char longest[100];
    memset(longest, 'a', sizeof longest);
    longest[DP_VOLUME_NAME_MAX] = 0;
    assert_int_equal(dp_volume_split(longest, &n, NULL), 0);
    longest[DP_VOLUME_NAME_MAX] = 'a';
    longest[DP_VOLUME_NAME_MAX + 1] = 0;
    assert_int_equal(dp_volume_split(longest, &n, NULL), -EINVAL);
}

int main(void)
{
    char folder[] = "/tmp/doppel-volume-XXXXXX", text[100];
    if (!mkdtemp(folder) || setenv("XDG_DATA_HOME", folder, 1))
        return 99;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_names), cmocka_unit_test(test_random)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(text, sizeof text, "rm -r %s", folder);
    return system(text) || failed;
}
