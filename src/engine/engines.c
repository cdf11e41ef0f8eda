/* engines.c - the list of engines and the choice among them.
 *
 * Model: an explicit array, best first. "auto" takes the first whose probe succeeds, never null, which runs nothing.
 * Engines of the design that this version does not have are named, so that the start message can say why they are not used.
 */
#include "engine/engines.h"
#include "engine/interp/interp.h"
#include "engine/translate/translate.h"

const struct dp_engine *const dp_engines[] = {
    &dp_engine_translate,
    &dp_engine_interp,
    &dp_engine_null,
    NULL,
};

const struct dp_engine_counter_info dp_engine_counter_list[DP_ENGINE_COUNTER_COUNT] = {
#define ROW(name, help) {#name, help},
    DP_ENGINE_COUNTERS(ROW)
#undef ROW
};

void dp_engine_counters_add(struct dp_engine_counters *sum, const struct dp_engine_counters *c)
{
#define ADD(name, help) sum->name += c->name;
    DP_ENGINE_COUNTERS(ADD)
#undef ADD
}

static const struct { const char *name, *title; } absent[] = {
    {"kvm", "KVM engine"},
};

const struct dp_engine *dp_engine_find(const char *name)
{
    for (unsigned i = 0; dp_engines[i]; i++)
        if (!strcmp(dp_engines[i]->name, name))
            return dp_engines[i];
    return NULL;
}

static void append(char *text, size_t size, const char *format, ...) DP_PRINTF(3, 4);
static void append(char *text, size_t size, const char *format, ...)
{
    size_t n = strlen(text);
    va_list ap;
    va_start(ap, format);
    vsnprintf(text + n, size - n, format, ap);
    va_end(ap);
}

static const struct dp_engine *choose_auto(char *why, size_t why_size, struct dp_error *e)
{
    char reasons[400] = "";
    for (unsigned i = 0; i < DP_ARRAY_LEN(absent); i++)
        if (!dp_engine_find(absent[i].name))
            append(reasons, sizeof(reasons), "%s%s", *reasons ? " and " : "", absent[i].title);
    if (*reasons)
        append(reasons, sizeof(reasons), " are not part of this version; ");
    for (unsigned i = 0; dp_engines[i]; i++) {
        struct dp_error unusable = {0};
        if (dp_engines[i] == &dp_engine_null)
            continue;
        if (!dp_engines[i]->probe(&unusable)) {
            snprintf(why, why_size, "%susing %s", reasons, dp_engines[i]->name);
            return dp_engines[i];
        }
        append(reasons, sizeof(reasons), "%s: %s; ", dp_engines[i]->name, unusable.text);
    }
    dp_error_set(e, -ENODEV, "no engine can run here: %ssee doppel doctor", reasons);
    return NULL;
}

const struct dp_engine *dp_engine_choose(const char *name, char *why, size_t why_size, struct dp_error *e)
{
    if (why_size)
        *why = 0;
    if (!name || !strcmp(name, "auto"))
        return choose_auto(why, why_size, e);
    const struct dp_engine *engine = dp_engine_find(name);
    if (engine) {
        struct dp_error unusable = {0};
        int r = engine->probe(&unusable);
        if (!r) {
            snprintf(why, why_size, "as asked for");
            return engine;
        }
        dp_error_set(e, r, "engine %s cannot be used here: %s", name, unusable.text);
        return NULL;
    }
    char known[200] = "auto";
    for (unsigned i = 0; dp_engines[i]; i++)
        append(known, sizeof(known), ", %s", dp_engines[i]->name);
    for (unsigned i = 0; i < DP_ARRAY_LEN(absent); i++)
        if (!strcmp(name, absent[i].name)) {
            dp_error_set(e, -ENOTSUP, "the %s is not part of this version: use one of %s", absent[i].title, known);
            return NULL;
        }
    dp_error_set(e, -ENOENT, "there is no engine \"%.40s\": use one of %s", name, known);
    return NULL;
}
