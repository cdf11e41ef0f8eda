/* device.c - the life of a device instance: allocation, properties, reset, save and load.
 *
 * Model: see device.h. Everything is driven by the class table; regs are touched here only under the device's lock, and the class's
 * functions are called without it.
 */
#include "devices/device.h"

#include <stdlib.h>

static void *property_at(struct dp_device *d, const struct dp_property *p) { return (char *)d + p->offset; }

struct dp_device *dp_device_alloc(const struct dp_device_class *c, const char *id, const struct dp_device_env *env)
{
    struct dp_device *d = calloc(1, c->size);
    if (!d)
        return NULL;
    d->class = c;
    d->env = env;
    snprintf(d->id, sizeof(d->id), "%s", id);
    pthread_mutex_init(&d->lock, NULL);
    for (unsigned i = 0; i < c->property_count; i++) {
        const struct dp_property *p = &c->properties[i];
        switch (p->kind) {
        case DP_PROP_BOOL: *(bool *)property_at(d, p) = p->initial; break;
        case DP_PROP_STRING: *(const char **)property_at(d, p) = NULL; break;
        default: *(uint64_t *)property_at(d, p) = p->initial; break;
        }
    }
    return d;
}

int dp_device_init(struct dp_device *d, struct dp_error *e)
{
    int r = d->class->init ? d->class->init(d, e) : 0;
    if (r)
        return dp_error_prefix(e, r, "%s", d->id);
    d->initialised = true;
    dp_device_reset(d);
    return 0;
}

void dp_device_free(struct dp_device *d)
{
    if (!d)
        return;
    if (d->initialised && d->class->fini)
        d->class->fini(d);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

void dp_device_reset(struct dp_device *d)
{
    if (d->class->state) {
        pthread_mutex_lock(&d->lock);
        dp_state_reset(d->class->state, dp_device_regs(d));
        pthread_mutex_unlock(&d->lock);
    }
    if (d->class->reset)
        d->class->reset(d);
}

void dp_device_pause(struct dp_device *d)
{
    if (d->class->pause)
        d->class->pause(d);
}

void dp_device_resume(struct dp_device *d)
{
    if (d->class->resume)
        d->class->resume(d);
}

void dp_device_save(struct dp_device *d, struct dp_buffer *out)
{
    if (!d->class->state)
        return;
    if (d->class->pre_save)
        d->class->pre_save(d);
    pthread_mutex_lock(&d->lock);
    dp_state_save(d->class->state, dp_device_regs(d), out);
    pthread_mutex_unlock(&d->lock);
}

int dp_device_load(struct dp_device *d, const void *data, size_t size, size_t *used, struct dp_error *e)
{
    if (used)
        *used = 0;
    if (!d->class->state)
        return 0;
    pthread_mutex_lock(&d->lock);
    int r = dp_state_load(d->class->state, dp_device_regs(d), data, size, used, e);
    pthread_mutex_unlock(&d->lock);
    if (r)
        return dp_error_prefix(e, r, "%s", d->id);
    if (d->class->post_load)
        d->class->post_load(d);
    return 0;
}

static int parse_bool(const char *value, bool *out)
{
    static const char *const words[2][4] = {{"off", "no", "false", "0"}, {"on", "yes", "true", "1"}};
    for (unsigned v = 0; v < 2; v++)
        for (unsigned i = 0; i < 4; i++)
            if (!strcmp(value, words[v][i])) {
                *out = v;
                return 0;
            }
    return -EINVAL;
}

static int set_number(struct dp_device *d, const struct dp_property *p, const char *value, struct dp_error *e)
{
    uint64_t v;
    if (p->kind == DP_PROP_SIZE) {
        int r = dp_parse_size(value, &v, e);
        if (r)
            return dp_error_prefix(e, r, "%s.%s", d->id, p->name);
    } else {
        char *end;
        errno = 0;
        v = strtoull(value, &end, 0);
        if (!*value || *end || errno || strchr(value, '-'))
            return dp_error_set(e, -EINVAL, "%s.%s: \"%.60s\" is not a whole number", d->id, p->name, value);
    }
    if (v < p->min || (p->max && v > p->max))
        return dp_error_set(e, -ERANGE, "%s.%s: %.60s is out of range, it goes from %llu to %llu", d->id, p->name, value,
                            (unsigned long long)p->min, (unsigned long long)(p->max ? p->max : UINT64_MAX));
    *(uint64_t *)property_at(d, p) = v;
    return 0;
}

static int set_enum(struct dp_device *d, const struct dp_property *p, const char *value, struct dp_error *e)
{
    char known[300] = "";
    for (unsigned i = 0; p->names[i]; i++) {
        if (!strcmp(p->names[i], value)) {
            *(uint64_t *)property_at(d, p) = i;
            return 0;
        }
        size_t n = strlen(known);
        snprintf(known + n, sizeof(known) - n, "%s%s", i ? ", " : "", p->names[i]);
    }
    return dp_error_set(e, -EINVAL, "%s.%s: \"%.60s\" is not one of %s", d->id, p->name, value, known);
}

int dp_device_set(struct dp_device *d, const char *property, const char *value, struct dp_error *e)
{
    for (unsigned i = 0; i < d->class->property_count; i++) {
        const struct dp_property *p = &d->class->properties[i];
        if (strcmp(p->name, property))
            continue;
        switch (p->kind) {
        case DP_PROP_BOOL:
            if (parse_bool(value, property_at(d, p)))
                return dp_error_set(e, -EINVAL, "%s.%s: \"%.60s\" is neither on nor off", d->id, p->name, value);
            return 0;
        case DP_PROP_STRING: *(const char **)property_at(d, p) = value; return 0;
        case DP_PROP_ENUM: return set_enum(d, p, value, e);
        default: return set_number(d, p, value, e);
        }
    }
    return dp_error_set(e, -ENOENT, "%s (%s) has no property \"%.60s\"", d->id, d->class->name, property);
}

int dp_device_map(struct dp_device *d, unsigned window, uint64_t base, struct dp_error *e)
{
    if (window >= d->class->window_count)
        return dp_error_set(e, -EINVAL, "%s has no window %u", d->id, window);
    const struct dp_window_spec *w = &d->class->windows[window];
    int r = dp_space_map_window(w->ports ? d->env->ports : d->env->memory, base, w->size, w->ops, d, 0, NULL, e);
    return r ? dp_error_prefix(e, r, "%s.%s", d->id, w->name) : 0;
}
