/* state.c - walks state tables: reset, save, load, JSON, diff, random fill, schema.
 *
 * Model: see state.h. Every operation is one recursive walk over a constant table, so its depth is the nesting of tables, never
 * a property of the stream. An element of DP_KIND_STRUCT is stored as a whole table image of its own.
 * Invariants: the stream is hostile: lengths are checked before use, a tag may come once, bits outside masks are refused.
 */
#include "state/state.h"

#include <stdlib.h>

enum { MAGIC = 0x54535044 /* "DPST" */, IMAGE_HEADER = 12, RECORD_HEADER = 8 };

static unsigned kind_size(unsigned kind)
{
    switch (kind) {
    case DP_KIND_BOOL: case DP_KIND_U8: case DP_KIND_BYTES: return 1;
    case DP_KIND_U16: return 2;
    case DP_KIND_U32: return 4;
    case DP_KIND_U64: return 8;
    default: return 0;
    }
}

static const char *kind_name(unsigned kind)
{
    static const char *const names[] = {"?", "bool", "u8", "u16", "u32", "u64", "bytes", "struct"};
    return kind < DP_ARRAY_LEN(names) ? names[kind] : "?";
}

static uint64_t field_mask(const struct dp_field *f)
{
    if (f->kind == DP_KIND_BOOL)
        return 1; /* any other pattern in a bool would be undefined behaviour */
    return (f->mask ? f->mask : ~0ull) & dp_mask_bytes(kind_size(f->kind));
}

/* FNV-1a of the table's name: tells a wrong table from a damaged one. */
static uint32_t name_hash(const char *name)
{
    uint32_t h = 2166136261u;
    for (; *name; name++)
        h = (h ^ (uint8_t)*name) * 16777619u;
    return h;
}

static void *element(const struct dp_field *f, void *regs, uint32_t i) { return (char *)regs + f->offset + (size_t)i * f->stride; }
static const void *element_const(const struct dp_field *f, const void *regs, uint32_t i)
{
    return (const char *)regs + f->offset + (size_t)i * f->stride;
}

static uint64_t scalar_get(unsigned kind, const void *p)
{
    uint64_t v = 0;
    memcpy(&v, p, kind_size(kind));
    return v;
}

static void scalar_set(unsigned kind, void *p, uint64_t v) { memcpy(p, &v, kind_size(kind)); }

/* ---- reset ---- */

static void reset_fields(const struct dp_state_table *t, void *regs)
{
    for (const struct dp_field *f = t->fields; f < t->fields + t->field_count; f++)
        for (uint32_t i = 0; i < f->count && f->kind != DP_KIND_BYTES; i++) {
            if (f->kind == DP_KIND_STRUCT)
                reset_fields(f->sub, element(f, regs, i));
            else
                scalar_set(f->kind, element(f, regs, i), f->initial);
        }
}

void dp_state_reset(const struct dp_state_table *t, void *regs)
{
    memset(regs, 0, t->size);
    reset_fields(t, regs);
}

/* ---- save ---- */

static void put32(struct dp_buffer *out, uint32_t v) { dp_buffer_append(out, &v, 4); }
static void put16(struct dp_buffer *out, uint16_t v) { dp_buffer_append(out, &v, 2); }

/* Writes the length of what follows the four bytes at position at. */
static void patch_length(struct dp_buffer *out, size_t at)
{
    if (!out->failed)
        dp_st32(out->data + at, (uint32_t)(out->size - at - 4));
}

void dp_state_save(const struct dp_state_table *t, const void *regs, struct dp_buffer *out)
{
    put32(out, MAGIC);
    put32(out, name_hash(t->name));
    size_t image_length = out->size;
    put32(out, 0);
    for (const struct dp_field *f = t->fields; f < t->fields + t->field_count; f++) {
        put16(out, f->tag);
        put16(out, f->kind);
        size_t record_length = out->size;
        put32(out, 0);
        if (f->kind == DP_KIND_BYTES)
            dp_buffer_append(out, element_const(f, regs, 0), f->count);
        else
            for (uint32_t i = 0; i < f->count; i++) {
                if (f->kind == DP_KIND_STRUCT)
                    dp_state_save(f->sub, element_const(f, regs, i), out);
                else
                    dp_buffer_append(out, element_const(f, regs, i), kind_size(f->kind));
            }
        patch_length(out, record_length);
    }
    patch_length(out, image_length);
}

/* ---- load ---- */

static int decode_image(const struct dp_state_table *t, void *regs, const uint8_t *data, size_t size, size_t *used, struct dp_error *e);

static int decode_field(const struct dp_state_table *t, const struct dp_field *f, void *regs, const uint8_t *data, size_t size,
                        struct dp_error *e)
{
    if (f->kind == DP_KIND_STRUCT) {
        for (uint32_t i = 0; i < f->count; i++) {
            size_t used;
            int r = decode_image(f->sub, element(f, regs, i), data, size, &used, e);
            if (r)
                return dp_error_prefix(e, r, "%s.%s[%u]", t->name, f->name, i);
            data += used;
            size -= used;
        }
        if (size)
            return dp_error_set(e, -EINVAL, "saved state of %s.%s has %zu bytes too many", t->name, f->name, size);
        return 0;
    }
    size_t n = kind_size(f->kind);
    if (size != n * f->count)
        return dp_error_set(e, -EINVAL, "saved state of %s.%s has %zu bytes, not %zu", t->name, f->name, size, n * f->count);
    if (f->kind == DP_KIND_BYTES) {
        memcpy(element(f, regs, 0), data, size);
        return 0;
    }
    for (uint32_t i = 0; i < f->count; i++, data += n) {
        uint64_t v = scalar_get(f->kind, data);
        if (v & ~field_mask(f))
            return dp_error_set(e, -EINVAL, "saved state of %s.%s[%u] is 0x%llx, which has bits that cannot be set", t->name, f->name, i,
                                (unsigned long long)v);
        scalar_set(f->kind, element(f, regs, i), v);
    }
    return 0;
}

/* Decodes into regs, which holds defaults already. */
static int decode_image(const struct dp_state_table *t, void *regs, const uint8_t *data, size_t size, size_t *used, struct dp_error *e)
{
    if (size < IMAGE_HEADER || dp_ld32(data) != MAGIC)
        return dp_error_set(e, -EINVAL, "saved state of %s is missing or damaged", t->name);
    if (dp_ld32(data + 4) != name_hash(t->name))
        return dp_error_set(e, -EINVAL, "saved state belongs to something else than %s", t->name);
    size_t left = dp_ld32(data + 8);
    if (left > size - IMAGE_HEADER)
        return dp_error_set(e, -EINVAL, "saved state of %s is cut off", t->name);
    *used = IMAGE_HEADER + left;
    data += IMAGE_HEADER;
    uint64_t seen[1024] = {0}; /* a bit per tag: a repeated one would let a later record undo a checked one */
    while (left) {
        if (left < RECORD_HEADER)
            return dp_error_set(e, -EINVAL, "saved state of %s ends within a record", t->name);
        unsigned tag = dp_ld16(data), kind = dp_ld16(data + 2);
        size_t length = dp_ld32(data + 4);
        if (length > left - RECORD_HEADER)
            return dp_error_set(e, -EINVAL, "saved state of %s: record %u is cut off", t->name, tag);
        if (seen[tag / 64] >> (tag % 64) & 1)
            return dp_error_set(e, -EINVAL, "saved state of %s: record %u comes twice", t->name, tag);
        seen[tag / 64] |= 1ull << (tag % 64);
        for (const struct dp_field *f = t->fields; f < t->fields + t->field_count; f++) {
            if (f->tag != tag)
                continue;
            if (f->kind != kind)
                return dp_error_set(e, -EINVAL, "saved state of %s.%s is of kind %s, not %s", t->name, f->name, kind_name(kind),
                                    kind_name(f->kind));
            int r = decode_field(t, f, regs, data + RECORD_HEADER, length, e);
            if (r)
                return r;
            break;
        }
        data += RECORD_HEADER + length;
        left -= RECORD_HEADER + length;
    }
    return t->check ? t->check(regs, e) : 0;
}

int dp_state_load(const struct dp_state_table *t, void *regs, const void *data, size_t size, size_t *used, struct dp_error *e)
{
    void *copy = malloc(t->size);
    if (!copy)
        return dp_error_set(e, -ENOMEM, "no memory to load the state of %s", t->name);
    dp_state_reset(t, copy);
    size_t n = 0;
    int r = decode_image(t, copy, data, size, &n, e);
    if (!r) {
        memcpy(regs, copy, t->size);
        if (used)
            *used = n;
    }
    free(copy);
    return r;
}

/* ---- JSON ---- */

static void json_value(const struct dp_field *f, const void *regs, uint32_t i, struct dp_buffer *out)
{
    if (f->kind == DP_KIND_STRUCT) {
        dp_state_json(f->sub, element_const(f, regs, i), out);
        return;
    }
    uint64_t v = scalar_get(f->kind, element_const(f, regs, i));
    if (f->kind == DP_KIND_BOOL)
        dp_buffer_printf(out, "%s", v ? "true" : "false");
    else if (f->kind == DP_KIND_U64) /* JSON readers lose integers above 2^53 */
        dp_buffer_printf(out, "\"0x%llx\"", (unsigned long long)v);
    else
        dp_buffer_printf(out, "%llu", (unsigned long long)v);
}

void dp_state_json(const struct dp_state_table *t, const void *regs, struct dp_buffer *out)
{
    dp_buffer_printf(out, "{");
    for (const struct dp_field *f = t->fields; f < t->fields + t->field_count; f++) {
        dp_buffer_printf(out, "%s\"%s\":", f == t->fields ? "" : ",", f->name);
        if (f->kind == DP_KIND_BYTES) {
            dp_buffer_printf(out, "\"");
            for (uint32_t i = 0; i < f->count; i++)
                dp_buffer_printf(out, "%02x", *(const uint8_t *)element_const(f, regs, i));
            dp_buffer_printf(out, "\"");
        } else if (f->count == 1) {
            json_value(f, regs, 0, out);
        } else {
            dp_buffer_printf(out, "[");
            for (uint32_t i = 0; i < f->count; i++) {
                if (i)
                    dp_buffer_printf(out, ",");
                json_value(f, regs, i, out);
            }
            dp_buffer_printf(out, "]");
        }
    }
    dp_buffer_printf(out, "}");
}

/* ---- diff ---- */

static unsigned diff(const struct dp_state_table *t, const void *a, const void *b, const char *path, struct dp_buffer *out)
{
    unsigned differing = 0;
    for (const struct dp_field *f = t->fields; f < t->fields + t->field_count; f++)
        for (uint32_t i = 0; i < f->count; i++) {
            const void *pa = element_const(f, a, i), *pb = element_const(f, b, i);
            char name[256];
            if (f->kind == DP_KIND_STRUCT) {
                if (f->count > 1)
                    snprintf(name, sizeof(name), "%s%s[%u].", path, f->name, i);
                else
                    snprintf(name, sizeof(name), "%s%s.", path, f->name);
                differing += diff(f->sub, pa, pb, name, out);
                continue;
            }
            uint64_t va = scalar_get(f->kind, pa), vb = scalar_get(f->kind, pb);
            if (va == vb)
                continue;
            differing++;
            if (!out)
                continue;
            if (f->count > 1)
                snprintf(name, sizeof(name), "%s%s[%u]", path, f->name, i);
            else
                snprintf(name, sizeof(name), "%s%s", path, f->name);
            dp_buffer_printf(out, "%s: 0x%llx != 0x%llx\n", name, (unsigned long long)va, (unsigned long long)vb);
        }
    return differing;
}

unsigned dp_state_diff(const struct dp_state_table *t, const void *a, const void *b, struct dp_buffer *out)
{
    return diff(t, a, b, "", out);
}

/* ---- random fill ---- */

/* Corner values find more than uniform ones: a quarter are all zeros, all ones or a single bit. */
static uint64_t random_value(struct dp_random *r)
{
    uint64_t how = dp_random_next(r), v = dp_random_next(r);
    switch (how % 16) {
    case 0: return 0;
    case 1: return ~0ull;
    case 2: case 3: return 1ull << (v % 64);
    default: return v;
    }
}

static void random_fields(const struct dp_state_table *t, void *regs, struct dp_random *r)
{
    for (const struct dp_field *f = t->fields; f < t->fields + t->field_count; f++)
        for (uint32_t i = 0; i < f->count; i++) {
            if (f->kind == DP_KIND_STRUCT)
                random_fields(f->sub, element(f, regs, i), r);
            else
                scalar_set(f->kind, element(f, regs, i), random_value(r) & field_mask(f));
        }
    if (t->clamp)
        t->clamp(regs);
}

void dp_state_random(const struct dp_state_table *t, void *regs, struct dp_random *r)
{
    memset(regs, 0, t->size);
    random_fields(t, regs, r);
}

/* ---- schema ---- */

void dp_state_schema(const struct dp_state_table *t, struct dp_buffer *out)
{
    for (const struct dp_field *f = t->fields; f < t->fields + t->field_count; f++) {
        dp_buffer_printf(out, "%s.%u %s %s", t->name, f->tag, f->name, kind_name(f->kind));
        if (f->kind == DP_KIND_STRUCT)
            dp_buffer_printf(out, ":%s", f->sub->name);
        dp_buffer_printf(out, " %u\n", f->count);
    }
    for (const struct dp_field *f = t->fields; f < t->fields + t->field_count; f++) {
        bool printed = false; /* a table used by several fields appears once */
        for (const struct dp_field *g = t->fields; g < f; g++)
            printed |= g->kind == DP_KIND_STRUCT && g->sub == f->sub;
        if (f->kind == DP_KIND_STRUCT && !printed)
            dp_state_schema(f->sub, out);
    }
}
