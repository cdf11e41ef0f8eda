/* test_state.c - the codec on the sample table; then what holds for every table of the tree; then the schema lock. */
#include <stdlib.h>

#include "tests/state/tables.h"
#include "tests/unit/test.h"

/* ---- codec ---- */

static void reset(void **state)
{
    struct sample s;
    memset(&s, 0xee, sizeof(s));
    dp_state_reset(&sample_table, &s);
    assert_true(s.on && s.index == 1 && s.word == 0x1234 && s.masked == 0x10 && s.big == 0x8000000000000001);
    assert_true(s.array[0] == 7 && s.array[2] == 7 && s.bytes[4] == 0);
    assert_true(s.one.count == 0xffff && s.many[1].count == 0xffff && s.many[1].gate && s.many[1].mode == 0);
}

static void json_and_diff(void **state)
{
    struct sample a, b;
    dp_state_reset(&sample_table, &a);
    a.bytes[0] = 0xab;
    b = a;
    struct dp_buffer out = {0};
    dp_state_json(&sample_table, &a, &out);
    assert_string_equal((char *)out.data,
        "{\"on\":true,\"index\":1,\"word\":4660,\"masked\":16,\"big\":\"0x8000000000000001\",\"array\":[7,7,7],\"bytes\":\"ab00000000\","
        "\"one\":{\"count\":65535,\"mode\":0,\"gate\":true},"
        "\"many\":[{\"count\":65535,\"mode\":0,\"gate\":true},{\"count\":65535,\"mode\":0,\"gate\":true}]}");
    dp_buffer_fini(&out);
    assert_int_equal(dp_state_diff(&sample_table, &a, &b, &out), 0);
    assert_int_equal(out.size, 0);
    b.word = 1;
    b.array[2] = 9;
    b.bytes[1] = 1;
    b.many[1].mode = 3;
    assert_int_equal(dp_state_diff(&sample_table, &a, &b, NULL), 4);
    assert_int_equal(dp_state_diff(&sample_table, &a, &b, &out), 4);
    assert_string_equal((char *)out.data, "word: 0x1234 != 0x1\narray[2]: 0x7 != 0x9\nbytes[1]: 0x0 != 0x1\nmany[1].mode: 0x0 != 0x3\n");
    dp_buffer_fini(&out);
}

/* Builds streams by hand. */
static uint32_t hash_of(const struct dp_state_table *t)
{
    struct dp_buffer b = {0};
    void *regs = calloc(1, t->size);
    dp_state_save(t, regs, &b);
    uint32_t h = dp_ld32(b.data + 4);
    dp_buffer_fini(&b);
    free(regs);
    return h;
}

static void record(struct dp_buffer *b, uint16_t tag, uint16_t kind, const void *data, uint32_t size)
{
    dp_buffer_append(b, &tag, 2);
    dp_buffer_append(b, &kind, 2);
    dp_buffer_append(b, &size, 4);
    dp_buffer_append(b, data, size);
}

static int load_records(const struct dp_buffer *records, struct sample *s, struct dp_error *e)
{
    struct dp_buffer b = {0};
    const uint32_t head[3] = {0x54535044, hash_of(&sample_table), (uint32_t)records->size};
    dp_buffer_append(&b, head, sizeof(head));
    dp_buffer_append(&b, records->data, records->size);
    dp_buffer_append(&b, "more", 4); /* what follows an image is not the image's business */
    size_t used = 0;
    int r = dp_state_load(&sample_table, s, b.data, b.size, &used, e);
    if (!r)
        assert_int_equal(used, b.size - 4);
    dp_buffer_fini(&b);
    return r;
}

static void streams(void **state)
{
    struct dp_error e = {0};
    struct sample s, fresh;
    struct dp_buffer b = {0};
    dp_state_reset(&sample_table, &fresh);

    memset(&s, 0x11, sizeof(s));
    assert_ok(load_records(&b, &s, &e), e); /* empty: all defaults */
    assert_int_equal(dp_state_diff(&sample_table, &s, &fresh, NULL), 0);

    const uint16_t word = 0xbeef;
    record(&b, 999, 77, "from the future", 15); /* unknown tag: skipped */
    record(&b, 3, DP_KIND_U16, &word, 2);
    assert_ok(load_records(&b, &s, &e), e);
    assert_int_equal(s.word, 0xbeef);
    fresh.word = 0xbeef;
    assert_int_equal(dp_state_diff(&sample_table, &s, &fresh, NULL), 0);

    /* Each of these is refused, and changes nothing. */
    static const struct { uint16_t tag, kind; const char *bytes; uint32_t size; const char *says; } bad[] = {
        {3, DP_KIND_U32, "\1\0\0\0", 4, "kind"},             {3, DP_KIND_U16, "\1", 1, "1 bytes"},
        {3, DP_KIND_U16, "\1\0\0", 3, "3 bytes"},            {3, DP_KIND_U16, "", 0, "0 bytes"},
        {4, DP_KIND_U32, "\1\0\0\0", 4, "cannot be set"},    {1, DP_KIND_BOOL, "\2", 1, "cannot be set"},
        {2, DP_KIND_U8, "\3", 1, "out of range"},            {6, DP_KIND_U32, "\1\0\0\0\2\0\0\0", 8, "8 bytes"},
        {7, DP_KIND_BYTES, "abcd", 4, "4 bytes"},            {8, DP_KIND_STRUCT, "DPST", 4, "sample-channel"},
        {8, DP_KIND_STRUCT, "DPST\0\0\0\0\0\0\0\0", 12, "something else"},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(bad); i++) {
        struct dp_buffer one = {0};
        struct sample before = s;
        record(&one, bad[i].tag, bad[i].kind, bad[i].bytes, bad[i].size);
        assert_int_equal(load_records(&one, &s, &e), -EINVAL);
        if (!strstr(e.text, bad[i].says))
            fail_msg("case %u says \"%s\", not \"%s\"", i, e.text, bad[i].says);
        assert_memory_equal(&s, &before, sizeof(s));
        dp_buffer_fini(&one);
    }
    record(&b, 3, DP_KIND_U16, &word, 2); /* twice */
    assert_int_equal(load_records(&b, &s, &e), -EINVAL);
    dp_buffer_fini(&b);
}

/* ---- every table ---- */

static void check_fields(const struct dp_state_table *t)
{
    uint8_t *taken = calloc(1, t->size);
    for (unsigned i = 0; i < t->field_count; i++) {
        const struct dp_field *f = &t->fields[i];
        static const uint32_t sizes[] = {0, 1, 1, 2, 4, 8, 1};
        bool known = f->kind >= DP_KIND_BOOL && f->kind <= DP_KIND_STRUCT;
        if (!known || !f->tag || !f->count || !f->name)
            fail_msg("%s: field %u has no name, tag, kind or count", t->name, i);
        uint32_t size = f->kind == DP_KIND_STRUCT ? f->sub->size : sizes[f->kind];
        if (f->stride != size || (uint64_t)f->offset + (uint64_t)f->count * f->stride > t->size)
            fail_msg("%s.%s: kind, stride and struct do not agree", t->name, f->name);
        if (f->kind < DP_KIND_BYTES && f->mask && (f->initial & ~f->mask))
            fail_msg("%s.%s: the initial value is outside the mask", t->name, f->name);
        if (f->kind < DP_KIND_BYTES && ((f->initial | f->mask) & ~dp_mask_bytes(size)))
            fail_msg("%s.%s: initial value or mask is wider than the field", t->name, f->name);
        for (unsigned k = 0; k < i; k++)
            if (t->fields[k].tag == f->tag || !strcmp(t->fields[k].name, f->name))
                fail_msg("%s: %s and %s have the same tag or name", t->name, f->name, t->fields[k].name);
        for (uint32_t k = 0; k < f->count * f->stride; k++)
            if (taken[f->offset + k]++)
                fail_msg("%s.%s overlaps another field", t->name, f->name);
        if (f->kind == DP_KIND_STRUCT)
            check_fields(f->sub);
    }
    free(taken);
}

static void tables_are_sound(void **state)
{
    for (unsigned i = 0; i < state_table_count(); i++) {
        const struct dp_state_table *t = state_table(i);
        struct dp_error e = {0};
        check_fields(t);
        for (unsigned k = 0; k < i; k++)
            if (!strcmp(state_table(k)->name, t->name))
                fail_msg("two tables are called %s", t->name);
        void *regs = calloc(1, t->size);
        dp_state_reset(t, regs);
        if (t->check)
            assert_ok(t->check(regs, &e), e);
        free(regs);
    }
}

static void tables_round_trip(void **state)
{
    struct dp_random r;
    dp_random_seed(&r, 11);
    for (unsigned i = 0; i < state_table_count(); i++) {
        const struct dp_state_table *t = state_table(i);
        void *a = calloc(1, t->size), *b = calloc(1, t->size);
        for (unsigned round = 0; round < 100; round++) {
            struct dp_error e = {0};
            struct dp_buffer image = {0}, text = {0};
            dp_state_random(t, a, &r);
            if (t->check && t->check(a, &e))
                fail_msg("%s: random fill does not pass the check: %s", t->name, e.text);
            dp_state_save(t, a, &image);
            size_t used = 0;
            memset(b, 0x77, t->size);
            assert_ok(dp_state_load(t, b, image.data, image.size, &used, &e), e);
            assert_int_equal(used, image.size);
            if (dp_state_diff(t, a, b, &text))
                fail_msg("%s: %s", t->name, (char *)text.data);
            dp_state_json(t, a, &text);
            assert_true(!text.failed && text.data[0] == '{' && text.data[text.size - 1] == '}');

            /* Every truncation is refused and changes nothing (of long images, some). */
            memcpy(b, a, t->size);
            for (size_t cut = 0; cut < image.size; cut += 1 + image.size / 300) {
                uint8_t *exact = malloc(cut ? cut : 1);
                memcpy(exact, image.data, cut);
                assert_true(dp_state_load(t, b, exact, cut, NULL, &e) < 0);
                assert_memory_equal(a, b, t->size);
                free(exact);
            }
            dp_buffer_fini(&image);
            dp_buffer_fini(&text);
        }
        free(a);
        free(b);
    }
}

/* ---- schema lock ----
 * schema.txt holds a line per field ever released, "table.tag name kind count"; one that left the tree stays as "retired table.tag ...", so
 * that its tag is not used again. DP_UPDATE_SCHEMA=1 adds new lines and retires vanished ones, but never changes what a tag means. */

enum { MAX_LINES = 4000 };
struct lines { char *line[MAX_LINES]; unsigned n; };

static bool has_line(const struct lines *l, const char *line)
{
    for (unsigned i = 0; i < l->n; i++)
        if (!strcmp(l->line[i], line))
            return true;
    return false;
}

static void split(struct lines *l, char *text)
{
    for (char *save, *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
        if (!has_line(l, line) && l->n < MAX_LINES)
            l->line[l->n++] = line;
}

/* Is the table.tag of line in l? Returns that line. */
static const char *same_tag(const struct lines *l, const char *line)
{
    size_t n = strcspn(line, " ") + 1;
    for (unsigned i = 0; i < l->n; i++)
        if (!strncmp(l->line[i], line, n))
            return l->line[i];
    return NULL;
}

static int compare_lines(const void *a, const void *b)
{
    const char *x = *(char *const *)a, *y = *(char *const *)b;
    return strverscmp(x, y);
}

static void schema_lock(void **state)
{
    const char *path = getenv("DP_SCHEMA");
    assert_non_null(path);
    struct dp_buffer now_text = {0}, file_text = {0}, out = {0};
    for (unsigned i = 0; i < state_table_count(); i++)
        dp_state_schema(state_table(i), &now_text);
    static struct lines now, file; /* large */
    FILE *f = fopen(path, "re");
    char piece[4096];
    for (size_t n; f && (n = fread(piece, 1, sizeof(piece), f));)
        dp_buffer_append(&file_text, piece, n);
    if (f)
        fclose(f);
    dp_buffer_append(&file_text, "", 1);
    split(&now, (char *)now_text.data);
    split(&file, (char *)file_text.data);

    static struct lines keep;
    bool update = getenv("DP_UPDATE_SCHEMA") != NULL;
    for (unsigned i = 0; i < file.n; i++) {
        const char *line = file.line[i];
        bool retired = !strncmp(line, "retired ", 8);
        const char *current = same_tag(&now, retired ? line + 8 : line);
        if (retired && current)
            fail_msg("tag reused: \"%s\" was retired, take another tag for \"%s\"", line + 8, current);
        if (!retired && current && strcmp(current, line))
            fail_msg("a tag changed its meaning: \"%s\" became \"%s\": give the new field a new tag", line, current);
        if (!retired && !current && !update)
            fail_msg("\"%s\" left the tree: run this test with DP_UPDATE_SCHEMA=1 to retire its tag", line);
        dp_buffer_printf(&out, "%s%s\n", retired || current ? "" : "retired ", line);
    }
    for (unsigned i = 0; i < now.n; i++)
        if (!has_line(&file, now.line[i])) {
            if (!update)
                fail_msg("new field \"%s\": run this test with DP_UPDATE_SCHEMA=1 and commit schema.txt", now.line[i]);
            dp_buffer_printf(&out, "%s\n", now.line[i]);
        }
    if (update) {
        split(&keep, (char *)out.data);
        qsort(keep.line, keep.n, sizeof(keep.line[0]), compare_lines);
        f = fopen(path, "we");
        assert_non_null(f);
        for (unsigned i = 0; i < keep.n; i++)
            fprintf(f, "%s\n", keep.line[i]);
        fclose(f);
    }
    dp_buffer_fini(&now_text);
    dp_buffer_fini(&file_text);
    dp_buffer_fini(&out);
}

/* DP_MAKE_CORPUS=folder writes seeds for fuzz_state: per table a reset and a random image. */
static void make_corpus(void **state)
{
    const char *folder = getenv("DP_MAKE_CORPUS");
    struct dp_random r;
    dp_random_seed(&r, 4);
    for (unsigned i = 0; folder && i < 2 * state_table_count(); i++) {
        const struct dp_state_table *t = state_table(i / 2);
        void *regs = calloc(1, t->size);
        struct dp_buffer b = {0};
        char path[4096];
        const uint8_t pick = (uint8_t)(i / 2);
        if (i % 2)
            dp_state_random(t, regs, &r);
        else
            dp_state_reset(t, regs);
        dp_buffer_append(&b, &pick, 1);
        dp_state_save(t, regs, &b);
        snprintf(path, sizeof(path), "%s/%s-%s", folder, t->name, i % 2 ? "random" : "reset");
        FILE *f = b.size < 2000 ? fopen(path, "we") : NULL; /* small ones are enough and keep the tree small */
        if (f) {
            fwrite(b.data, 1, b.size, f);
            fclose(f);
        }
        dp_buffer_fini(&b);
        free(regs);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reset),            cmocka_unit_test(json_and_diff),     cmocka_unit_test(streams),
        cmocka_unit_test(tables_are_sound), cmocka_unit_test(tables_round_trip), cmocka_unit_test(schema_lock),
        cmocka_unit_test(make_corpus),
    };
    return cmocka_run_group_tests_name("state", tests, NULL, NULL);
}
