/* mux.c - see mux.h. */
#include "display/mux.h"

void dp_display_mux_init(struct dp_display_mux *m)
{
    *m = (struct dp_display_mux){0};
    pthread_mutex_init(&m->lock, NULL);
}

void dp_display_mux_fini(struct dp_display_mux *m) { pthread_mutex_destroy(&m->lock); }

bool dp_display_mux_add(struct dp_display_mux *m, const struct dp_display_source *source, bool (*shows)(void *opaque), void *opaque)
{
    if (m->count == DP_DISPLAY_MUX_SOURCES)
        return false;
    m->source[m->count] = *source;
    m->shows[m->count] = shows;
    m->opaque[m->count++] = opaque;
    return true;
}

static unsigned choose(const struct dp_display_mux *m)
{
    for (unsigned i = m->count; i-- > 1;)
        if (!m->shows[i] || m->shows[i](m->opaque[i]))
            return i;
    return 0;
}

static uint64_t mux_generation(void *opaque)
{
    struct dp_display_mux *m = opaque;
    unsigned seen = choose(m);
    uint64_t now = m->source[seen].generation(m->source[seen].opaque);
    pthread_mutex_lock(&m->lock);
    if (seen != m->seen || now != m->seen_generation)
        m->generation++;
    m->seen = seen;
    m->seen_generation = now;
    uint64_t generation = m->generation;
    pthread_mutex_unlock(&m->lock);
    return generation;
}

static int mux_picture(void *opaque, struct dp_display_picture *out, struct dp_error *e)
{
    const struct dp_display_mux *m = opaque;
    const struct dp_display_source *s = &m->source[choose(m)];
    return s->picture(s->opaque, out, e);
}

static bool mux_text(void *opaque, struct dp_display_text *out)
{
    const struct dp_display_mux *m = opaque;
    const struct dp_display_source *s = &m->source[choose(m)];
    return s->text && s->text(s->opaque, out);
}

static bool mux_resize(void *opaque, uint32_t width, uint32_t height)
{
    const struct dp_display_mux *m = opaque;
    const struct dp_display_source *s = &m->source[choose(m)];
    for (unsigned i = m->count; !s->resize && i--;)
        if (m->source[i].resize)
            s = &m->source[i];
    return s->resize && s->resize(s->opaque, width, height);
}

struct dp_display_source dp_display_mux_source(struct dp_display_mux *m)
{
    bool text = false, resize = false;
    for (unsigned i = 0; i < m->count; i++) {
        text |= m->source[i].text != NULL;
        resize |= m->source[i].resize != NULL;
    }
    return (struct dp_display_source){mux_generation, mux_picture, text ? mux_text : NULL, m, resize ? mux_resize : NULL};
}
