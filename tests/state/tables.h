/* tables.h - every state table of the tree. A new device adds its class here (and its lines to schema.txt: run the
 * test with DP_UPDATE_SCHEMA=1); a table that is no device's adds itself.
 */
#ifndef DP_TESTS_TABLES_H
#define DP_TESTS_TABLES_H

#include "devices/device.h"
#include "isa/x86/state.h"
#include "tests/state/sample.h"

static const struct dp_device_class *const state_classes[] = {
    NULL, /* ends the list */
};

static const struct dp_state_table *const state_plain_tables[] = {
    &sample_table,
    &x86_state_table,
};

static inline unsigned state_table_count(void) { return DP_ARRAY_LEN(state_plain_tables) + DP_ARRAY_LEN(state_classes) - 1; }

static inline const struct dp_state_table *state_table(unsigned i)
{
    return i < DP_ARRAY_LEN(state_plain_tables) ? state_plain_tables[i] : state_classes[i - DP_ARRAY_LEN(state_plain_tables)]->state;
}

#endif
