/* state.h - state is declared once: one constant table of fields serves reset, save, load, JSON, diff and random fill.
 *
 * Model: a struct of plain guest-visible data ("regs") and a table of its fields, each with a stable numeric tag.
 * Stream: a record is { u16 tag, u16 kind, u32 length, bytes }; a table's image is { u32 magic, u32 name hash, u32 length } and its
 * records. Unknown tags are skipped, missing ones take their default, wrong lengths are errors.
 * Invariants: load decodes into a copy, runs the table's check, and only then commits; a failed load changes nothing.
 * tests/state holds the committed schema (tag, name, kind, count per table): reusing a tag fails there.
 */
#ifndef DP_STATE_H
#define DP_STATE_H

#include "base/base.h"

enum dp_kind { DP_KIND_BOOL = 1, DP_KIND_U8, DP_KIND_U16, DP_KIND_U32, DP_KIND_U64, DP_KIND_BYTES, DP_KIND_STRUCT };

struct dp_state_table;

struct dp_field {
    const char *name;
    uint16_t tag;     /* > 0, unique in the table, never reused */
    uint8_t kind;
    uint32_t offset;  /* in the struct */
    uint32_t count;   /* elements; 1 for a scalar; bytes for DP_KIND_BYTES */
    uint32_t stride;  /* bytes from one element to the next */
    uint64_t initial; /* value after reset, each element (not for BYTES and STRUCT: zero, or their own table) */
    uint64_t mask;    /* bits that can ever be set; 0 means all. Load refuses others, random fill stays inside */
    const struct dp_state_table *sub; /* DP_KIND_STRUCT */
};

struct dp_state_table {
    const char *name;
    uint32_t size; /* of the struct */
    const struct dp_field *fields;
    uint32_t field_count;
    /* Is this decoded copy possible? NULL: any value is. Must hold for a freshly reset struct. */
    int (*check)(const void *regs, struct dp_error *e);
    /* Makes a randomly filled struct pass check (clamps indices and the like); NULL when masks suffice. */
    void (*clamp)(void *regs);
};

#define DP_FIELD_(type, member, k, t, init, m) \
    { #member, t, k, offsetof(type, member), 1, sizeof(((type *)0)->member), init, m, NULL }
#define DP_FIELD_BOOL(type, member, tag, init) DP_FIELD_(type, member, DP_KIND_BOOL, tag, init, 1)
#define DP_FIELD_U8(type, member, tag, init, mask) DP_FIELD_(type, member, DP_KIND_U8, tag, init, mask)
#define DP_FIELD_U16(type, member, tag, init, mask) DP_FIELD_(type, member, DP_KIND_U16, tag, init, mask)
#define DP_FIELD_U32(type, member, tag, init, mask) DP_FIELD_(type, member, DP_KIND_U32, tag, init, mask)
#define DP_FIELD_U64(type, member, tag, init, mask) DP_FIELD_(type, member, DP_KIND_U64, tag, init, mask)
/* Arrays of scalars: kind is one of DP_KIND_U8..U64. */
#define DP_FIELD_ARRAY(type, member, tag, kind, init, mask) \
    { #member, tag, kind, offsetof(type, member), DP_ARRAY_LEN(((type *)0)->member), sizeof(((type *)0)->member[0]), init, mask, NULL }
#define DP_FIELD_BYTES(type, member, tag) \
    { #member, tag, DP_KIND_BYTES, offsetof(type, member), sizeof(((type *)0)->member), 1, 0, 0, NULL }
#define DP_FIELD_STRUCT(type, member, tag, table) \
    { #member, tag, DP_KIND_STRUCT, offsetof(type, member), 1, sizeof(((type *)0)->member), 0, 0, table }
#define DP_FIELD_STRUCTS(type, member, tag, table) \
    { #member, tag, DP_KIND_STRUCT, offsetof(type, member), DP_ARRAY_LEN(((type *)0)->member), sizeof(((type *)0)->member[0]), 0, 0, table }

#define DP_STATE_TABLE(type, table_name, field_array, ...) \
    { .name = table_name, .size = sizeof(type), .fields = field_array, .field_count = DP_ARRAY_LEN(field_array), ##__VA_ARGS__ }

void dp_state_reset(const struct dp_state_table *t, void *regs);  /* zeroes the struct, then the fields' initial values */
void dp_state_save(const struct dp_state_table *t, const void *regs, struct dp_buffer *out);
/* Decodes one table image at data; *used (may be NULL) gets its length. All or nothing. */
int dp_state_load(const struct dp_state_table *t, void *regs, const void *data, size_t size, size_t *used,
                  struct dp_error *e) DP_MUST_CHECK;
void dp_state_json(const struct dp_state_table *t, const void *regs, struct dp_buffer *out); /* one JSON object, hex strings for U64 */
/* Appends one line per differing field ("name[i]: 0x1 != 0x2"); returns how many differ. out may be NULL. */
unsigned dp_state_diff(const struct dp_state_table *t, const void *a, const void *b, struct dp_buffer *out);
void dp_state_random(const struct dp_state_table *t, void *regs, struct dp_random *r); /* within masks; then clamp */
/* "table.tag name kind count", a line each, sub-tables included */
void dp_state_schema(const struct dp_state_table *t, struct dp_buffer *out);

#endif
