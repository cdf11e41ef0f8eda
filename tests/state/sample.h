/* sample.h - a table with every kind of field, for the tests of the codec itself. */
#ifndef DP_TESTS_SAMPLE_H
#define DP_TESTS_SAMPLE_H

#include "state/state.h"

struct sample_channel { uint16_t count; uint8_t mode; bool gate; };
struct sample {
    bool on;
    uint8_t index;
    uint16_t word;
    uint32_t masked;
    uint64_t big;
    uint32_t array[3];
    uint8_t bytes[5];
    struct sample_channel one, many[2];
};

static const struct dp_field sample_channel_fields[] = {
    DP_FIELD_U16(struct sample_channel, count, 1, 0xffff, 0),
    DP_FIELD_U8(struct sample_channel, mode, 2, 0, 7),
    DP_FIELD_BOOL(struct sample_channel, gate, 3, true),
};
static const struct dp_state_table sample_channel_table = DP_STATE_TABLE(struct sample_channel, "sample-channel", sample_channel_fields);

static const struct dp_field sample_fields[] = {
    DP_FIELD_BOOL(struct sample, on, 1, true),
    DP_FIELD_U8(struct sample, index, 2, 1, 0),
    DP_FIELD_U16(struct sample, word, 3, 0x1234, 0),
    DP_FIELD_U32(struct sample, masked, 4, 0x10, 0xf0f0),
    DP_FIELD_U64(struct sample, big, 5, 0x8000000000000001, 0),
    DP_FIELD_ARRAY(struct sample, array, 6, DP_KIND_U32, 7, 0),
    DP_FIELD_BYTES(struct sample, bytes, 7),
    DP_FIELD_STRUCT(struct sample, one, 8, &sample_channel_table),
    DP_FIELD_STRUCTS(struct sample, many, 9, &sample_channel_table),
};

static int sample_check(const void *regs, struct dp_error *e)
{
    const struct sample *s = regs;
    return s->index < DP_ARRAY_LEN(s->array) ? 0 : dp_error_set(e, -EINVAL, "sample: index %u is out of range", s->index);
}

static void sample_clamp(void *regs)
{
    struct sample *s = regs;
    s->index %= DP_ARRAY_LEN(s->array);
}

static const struct dp_state_table sample_table =
    DP_STATE_TABLE(struct sample, "sample", sample_fields, .check = sample_check, .clamp = sample_clamp);

#endif
