/* devices/virtio/virtio_gpu.c - see virtio_gpu.h.
 *
 * The memory is handed out in pages, first fit over the table of resources; page 0 to CURSOR_PAGES - 1 hold the cursor's picture. What is
 * given back is punched out of the file, so it costs the host nothing and the next owner finds zeros.
 * A viewer's picture is drawn without the lock, from a copy of the registers that matter; the memory stays mapped whatever the guest does.
 */
#include <sys/mman.h>

#include "devices/virtio/virtio_gpu.h"
#include "display/edid.h"

enum { CONTROL, CURSOR, QUEUES };
enum { F_EDID = 1 };
enum {
    CMD_GET_DISPLAY_INFO = 0x100, CMD_RESOURCE_CREATE_2D, CMD_RESOURCE_UNREF, CMD_SET_SCANOUT, CMD_RESOURCE_FLUSH, CMD_TRANSFER_TO_HOST_2D,
    CMD_RESOURCE_ATTACH_BACKING, CMD_RESOURCE_DETACH_BACKING, CMD_GET_CAPSET_INFO, CMD_GET_CAPSET, CMD_GET_EDID,
    CMD_UPDATE_CURSOR = 0x300, CMD_MOVE_CURSOR,
    RESP_OK_NODATA = 0x1100, RESP_OK_DISPLAY_INFO, RESP_OK_EDID = 0x1104,
    RESP_ERR_UNSPEC = 0x1200, RESP_ERR_OUT_OF_MEMORY, RESP_ERR_INVALID_SCANOUT_ID, RESP_ERR_INVALID_RESOURCE_ID,
    RESP_ERR_INVALID_CONTEXT_ID, RESP_ERR_INVALID_PARAMETER
};
enum { /* names are by the order of bytes in memory */
    FORMAT_B8G8R8A8 = 1, FORMAT_B8G8R8X8 = 2, FORMAT_A8R8G8B8 = 3, FORMAT_X8R8G8B8 = 4, FORMAT_R8G8B8A8 = 67, FORMAT_X8B8G8R8 = 68,
    FORMAT_A8B8G8R8 = 121, FORMAT_R8G8B8X8 = 134
};
enum { FLAG_FENCE = 1 };
enum { EVENTS_READ = 0, EVENTS_CLEAR = 4, NUM_SCANOUTS = 8, CONFIG_SIZE = 16, EVENT_DISPLAY = 1 };
enum { HEADER_SIZE = 24, COMMAND_MAX = 64, ENTRY_SIZE = 16, MODES = 16, MODE_SIZE = 24, DISPLAY_INFO_SIZE = HEADER_SIZE + MODES * MODE_SIZE,
       EDID_AT = HEADER_SIZE + 8, EDID_ROOM = 1024 };
enum { RESOURCES = 128, ENTRIES_MAX = 16384, DIMENSION_MAX = 16384, OFFER_MIN = 64, OFFER_MAX = 4080 };
enum { CURSOR_DOTS = 64, CURSOR_BYTES = CURSOR_DOTS * CURSOR_DOTS * 4, CURSOR_PAGES = CURSOR_BYTES / DP_PAGE_SIZE, PIXEL = 4 };
#define MEMORY_MAX (512ull << 20)
#define COPY_BUDGET (32ull << 20) /* bytes a notification may copy before the rest waits for the loop */

struct resource {
    uint32_t id;             /* 0: the place is free */
    uint32_t format, width, height;
    uint32_t pixels;         /* first page in the memory */
    uint32_t backing, entries; /* first page of the list of the guest's pieces, and how many those are; 0: none attached */
};
struct rect { uint32_t x, y, width, height; };
struct gpu_regs {
    struct dp_virtio_regs virtio;
    uint32_t events;
    uint32_t offer_width, offer_height; /* 0: as the properties say */
    uint32_t scanout_resource;          /* 0: disabled */
    uint32_t scanout_x, scanout_y, scanout_width, scanout_height;
    bool cursor_visible;
    uint32_t cursor_x, cursor_y;        /* two's complement: of its upper left corner */
    uint32_t cursor_hot_x, cursor_hot_y;
    struct resource resource[RESOURCES];
};

struct gpu {
    struct dp_virtio_device base;
    struct gpu_regs regs;
    uint64_t xres, yres, memory; /* properties */
    struct dp_ram *ram;
    uint64_t generation;
    struct dp_virtio_request request; /* scratch, under the lock */
    uint8_t response[EDID_AT + EDID_ROOM];
    uint32_t response_size;
    uint64_t copied;                  /* by this notification */
};

static struct gpu *gpu_of(struct dp_virtio *v) { return DP_CONTAINER_OF(v, struct gpu, base.virtio); }
static struct gpu *gpu_of_device(struct dp_device *d) { return DP_CONTAINER_OF(d, struct gpu, base.device); }

/* ---- state ---- */

static bool is_format(uint32_t format)
{
    switch (format) {
    case FORMAT_B8G8R8A8: case FORMAT_B8G8R8X8: case FORMAT_A8R8G8B8: case FORMAT_X8R8G8B8:
    case FORMAT_R8G8B8A8: case FORMAT_X8B8G8R8: case FORMAT_A8B8G8R8: case FORMAT_R8G8B8X8: return true;
    }
    return false;
}

static uint32_t pages_of(uint64_t bytes) { return (uint32_t)((bytes + DP_PAGE_SIZE - 1) / DP_PAGE_SIZE); }
static uint64_t pixel_bytes(const struct resource *r) { return (uint64_t)r->width * r->height * PIXEL; }
static uint32_t pixel_pages(const struct resource *r) { return pages_of(pixel_bytes(r)); }
static uint32_t backing_pages(const struct resource *r) { return pages_of((uint64_t)r->entries * ENTRY_SIZE); }

static int resource_check(const void *regs, struct dp_error *e)
{
    const struct resource *r = regs;
    bool possible = is_format(r->format) && r->width && r->width <= DIMENSION_MAX && r->height && r->height <= DIMENSION_MAX &&
                    r->entries <= ENTRIES_MAX;
    return !r->id || possible ? 0 : dp_error_set(e, -EINVAL, "virtio-gpu: resource %u is impossible", r->id);
}

static void resource_clamp(void *regs)
{
    static const uint8_t formats[] = {FORMAT_B8G8R8A8, FORMAT_B8G8R8X8, FORMAT_A8R8G8B8, FORMAT_X8R8G8B8,
                                      FORMAT_R8G8B8A8, FORMAT_X8B8G8R8, FORMAT_A8B8G8R8, FORMAT_R8G8B8X8};
    struct resource *r = regs;
    r->format = formats[r->format % DP_ARRAY_LEN(formats)];
    r->width = 1 + r->width % DIMENSION_MAX;
    r->height = 1 + r->height % DIMENSION_MAX;
    r->entries %= ENTRIES_MAX + 1;
}

static const struct dp_field resource_fields[] = {
    DP_FIELD_U32(struct resource, id, 1, 0, 0),
    DP_FIELD_U32(struct resource, format, 2, 0, 0),
    DP_FIELD_U32(struct resource, width, 3, 0, 0),
    DP_FIELD_U32(struct resource, height, 4, 0, 0),
    DP_FIELD_U32(struct resource, pixels, 5, 0, 0),
    DP_FIELD_U32(struct resource, backing, 6, 0, 0),
    DP_FIELD_U32(struct resource, entries, 7, 0, 0),
};
static const struct dp_state_table resource_table =
    DP_STATE_TABLE(struct resource, "virtio-gpu-resource", resource_fields, .check = resource_check, .clamp = resource_clamp);

static int gpu_check(const void *regs, struct dp_error *e)
{
    const struct gpu_regs *r = regs;
    bool possible = r->scanout_width <= DP_DISPLAY_MAX_WIDTH && r->scanout_height <= DP_DISPLAY_MAX_HEIGHT && r->offer_width <= OFFER_MAX &&
                    r->offer_height <= OFFER_MAX;
    return possible ? 0 : dp_error_set(e, -EINVAL, "virtio-gpu: a screen of %ux%u is too large", r->scanout_width, r->scanout_height);
}

static void gpu_clamp(void *regs)
{
    struct gpu_regs *r = regs;
    r->scanout_width %= DP_DISPLAY_MAX_WIDTH + 1;
    r->scanout_height %= DP_DISPLAY_MAX_HEIGHT + 1;
    r->offer_width %= OFFER_MAX + 1;
    r->offer_height %= OFFER_MAX + 1;
}

static const struct dp_field gpu_fields[] = {
    DP_FIELD_STRUCT(struct gpu_regs, virtio, 1, &dp_virtio_regs_table),
    DP_FIELD_U32(struct gpu_regs, events, 2, 0, EVENT_DISPLAY),
    DP_FIELD_U32(struct gpu_regs, offer_width, 3, 0, 0),
    DP_FIELD_U32(struct gpu_regs, offer_height, 4, 0, 0),
    DP_FIELD_U32(struct gpu_regs, scanout_resource, 5, 0, 0),
    DP_FIELD_U32(struct gpu_regs, scanout_x, 6, 0, 0),
    DP_FIELD_U32(struct gpu_regs, scanout_y, 7, 0, 0),
    DP_FIELD_U32(struct gpu_regs, scanout_width, 8, 0, 0),
    DP_FIELD_U32(struct gpu_regs, scanout_height, 9, 0, 0),
    DP_FIELD_BOOL(struct gpu_regs, cursor_visible, 10, false),
    DP_FIELD_U32(struct gpu_regs, cursor_x, 11, 0, 0),
    DP_FIELD_U32(struct gpu_regs, cursor_y, 12, 0, 0),
    DP_FIELD_U32(struct gpu_regs, cursor_hot_x, 13, 0, 0),
    DP_FIELD_U32(struct gpu_regs, cursor_hot_y, 14, 0, 0),
    DP_FIELD_STRUCTS(struct gpu_regs, resource, 15, &resource_table),
};
static const struct dp_state_table gpu_table =
    DP_STATE_TABLE(struct gpu_regs, "virtio-gpu", gpu_fields, .check = gpu_check, .clamp = gpu_clamp);

/* ---- the memory ---- */

static uint32_t memory_pages(const struct gpu *g) { return (uint32_t)(g->ram->size / DP_PAGE_SIZE); }

/* NULL: not within the memory. */
static uint8_t *memory_at(const struct gpu *g, uint32_t page, uint32_t pages)
{
    uint32_t all = memory_pages(g);
    return page <= all && pages <= all - page ? g->ram->host + (uint64_t)page * DP_PAGE_SIZE : NULL;
}

/* Where there are so many pages that are nobody's; 0: nowhere. */
static uint32_t find_room(const struct gpu *g, uint32_t pages)
{
    uint32_t at = CURSOR_PAGES, all = memory_pages(g);
    for (bool moved = true; moved && at < all && pages <= all - at;) {
        moved = false;
        for (unsigned i = 0; i < RESOURCES; i++) {
            const struct resource *r = &g->regs.resource[i];
            const struct { uint32_t page, count; } parts[] = {{r->pixels, pixel_pages(r)}, {r->backing, backing_pages(r)}};
            for (unsigned k = 0; r->id && k < DP_ARRAY_LEN(parts); k++) {
                uint64_t end = (uint64_t)parts[k].page + parts[k].count;
                if (parts[k].count && parts[k].page < (uint64_t)at + pages && end > at) {
                    at = (uint32_t)DP_MIN(end, (uint64_t)all);
                    moved = true;
                }
            }
        }
    }
    return at < all && pages <= all - at ? at : 0;
}

static void give_back(struct gpu *g, uint32_t page, uint32_t pages)
{
    uint8_t *p = memory_at(g, page, pages);
    if (p && pages && madvise(p, (size_t)pages * DP_PAGE_SIZE, MADV_REMOVE))
        memset(p, 0, (size_t)pages * DP_PAGE_SIZE);
    if (p && pages)
        dp_ram_mark_dirty(g->ram, (uint64_t)page * DP_PAGE_SIZE, (uint64_t)pages * DP_PAGE_SIZE);
}

/* ---- resources ---- */

static struct resource *find(struct gpu_regs *regs, uint32_t id)
{
    for (unsigned i = 0; id && i < RESOURCES; i++)
        if (regs->resource[i].id == id)
            return &regs->resource[i];
    return NULL;
}

static bool contains(const struct resource *r, const struct rect *c)
{
    return c->x <= r->width && c->width <= r->width - c->x && c->y <= r->height && c->height <= r->height - c->y;
}

static struct rect rect_at(const uint8_t *p) { return (struct rect){dp_ld32(p), dp_ld32(p + 4), dp_ld32(p + 8), dp_ld32(p + 12)}; }

static void detach(struct gpu *g, struct resource *r)
{
    give_back(g, r->backing, backing_pages(r));
    r->backing = r->entries = 0;
}

static uint32_t create_2d(struct gpu *g, const uint8_t *c)
{
    struct resource made = {.id = dp_ld32(c), .format = dp_ld32(c + 4), .width = dp_ld32(c + 8), .height = dp_ld32(c + 12)}, *place = NULL;
    if (!made.id || find(&g->regs, made.id))
        return RESP_ERR_INVALID_RESOURCE_ID;
    if (!is_format(made.format) || !made.width || !made.height || made.width > DIMENSION_MAX || made.height > DIMENSION_MAX)
        return RESP_ERR_INVALID_PARAMETER;
    for (unsigned i = 0; !place && i < RESOURCES; i++)
        place = g->regs.resource[i].id ? NULL : &g->regs.resource[i];
    if (!place || pixel_bytes(&made) > MEMORY_MAX || !(made.pixels = find_room(g, pixel_pages(&made)))) {
        dp_trace_guest(g->base.device.env->trace, "%s: no memory for a resource of %ux%u", g->base.device.id, made.width, made.height);
        return RESP_ERR_OUT_OF_MEMORY;
    }
    *place = made;
    return RESP_OK_NODATA;
}

static uint32_t unref(struct gpu *g, const uint8_t *c)
{
    struct resource *r = find(&g->regs, dp_ld32(c));
    if (!r)
        return RESP_ERR_INVALID_RESOURCE_ID;
    if (g->regs.scanout_resource == r->id) {
        g->regs.scanout_resource = 0;
        g->generation++;
    }
    detach(g, r);
    give_back(g, r->pixels, pixel_pages(r));
    *r = (struct resource){0};
    return RESP_OK_NODATA;
}

static uint32_t attach_backing(struct gpu *g, const uint8_t *c)
{
    struct dp_virtio *v = &g->base.virtio;
    struct resource *r = find(&g->regs, dp_ld32(c));
    uint32_t entries = dp_ld32(c + 4), bytes = entries * ENTRY_SIZE;
    if (!r)
        return RESP_ERR_INVALID_RESOURCE_ID;
    if (r->entries)
        return RESP_ERR_UNSPEC;
    if (!entries || entries > ENTRIES_MAX || g->request.out_bytes < HEADER_SIZE + 8 + (uint64_t)bytes)
        return RESP_ERR_INVALID_PARAMETER;
    uint32_t at = find_room(g, pages_of(bytes));
    if (!at)
        return RESP_ERR_OUT_OF_MEMORY;
    if (dp_virtio_read(v, &g->request, HEADER_SIZE + 8, memory_at(g, at, pages_of(bytes)), bytes) < bytes) {
        give_back(g, at, pages_of(bytes));
        return RESP_ERR_INVALID_PARAMETER;
    }
    dp_ram_mark_dirty(g->ram, (uint64_t)at * DP_PAGE_SIZE, bytes);
    g->copied += bytes;
    r->backing = at;
    r->entries = entries;
    return RESP_OK_NODATA;
}

static uint32_t detach_backing(struct gpu *g, const uint8_t *c)
{
    struct resource *r = find(&g->regs, dp_ld32(c));
    if (!r)
        return RESP_ERR_INVALID_RESOURCE_ID;
    if (!r->entries)
        return RESP_ERR_UNSPEC;
    detach(g, r);
    return RESP_OK_NODATA;
}

/* ---- copying from the guest ---- */

/* Goes forward only through a list of pieces. */
struct pieces {
    const uint8_t *entry;
    uint32_t left;
    uint64_t base; /* bytes in the pieces before this one */
};

static bool read_backing(struct gpu *g, struct pieces *p, uint64_t offset, uint8_t *to, uint64_t size)
{
    struct dp_space *space = g->base.device.env->memory;
    while (size) {
        while (p->left && offset - p->base >= dp_ld32(p->entry + 8)) {
            p->base += dp_ld32(p->entry + 8);
            p->entry += ENTRY_SIZE;
            p->left--;
        }
        if (!p->left)
            return false;
        uint64_t into = offset - p->base, start = dp_ld64(p->entry), address = start + into;
        uint64_t want = DP_MIN(size, dp_ld32(p->entry + 8) - into);
        struct dp_pin pin;
        if (address < start || !dp_space_pin(space, address, want, false, &pin))
            return false;
        uint64_t n = DP_MIN(want, pin.size);
        memcpy(to, pin.host, n);
        dp_space_unpin(space, &pin, 0);
        to += n;
        offset += n;
        size -= n;
    }
    return true;
}

static uint32_t transfer_to_host(struct gpu *g, const uint8_t *c)
{
    struct rect rect = rect_at(c);
    uint64_t offset = dp_ld64(c + 16);
    struct resource *r = find(&g->regs, dp_ld32(c + 24));
    if (!r)
        return RESP_ERR_INVALID_RESOURCE_ID;
    if (!r->entries)
        return RESP_ERR_UNSPEC;
    uint8_t *pixels = memory_at(g, r->pixels, pixel_pages(r));
    struct pieces pieces = {memory_at(g, r->backing, backing_pages(r)), r->entries, 0};
    if (!contains(r, &rect) || offset >> 40 || !pixels || !pieces.entry)
        return RESP_ERR_INVALID_PARAMETER;
    uint64_t stride = (uint64_t)r->width * PIXEL, line = (uint64_t)rect.width * PIXEL, at = rect.y * stride + (uint64_t)rect.x * PIXEL;
    uint32_t lines = rect.height;
    if (line == stride) { /* all at once */
        line *= lines;
        lines = lines ? 1 : 0;
    }
    bool ok = true;
    for (uint32_t i = 0; ok && line && i < lines; i++)
        ok = read_backing(g, &pieces, offset + i * stride, pixels + at + i * stride, line);
    g->copied += line * lines;
    dp_ram_mark_dirty(g->ram, (uint64_t)r->pixels * DP_PAGE_SIZE + at, lines ? (lines - 1) * stride + line : 0);
    if (!ok)
        dp_trace_guest(g->base.device.env->trace, "%s: a transfer leaves resource %u's backing, or that is not in RAM", g->base.device.id,
                       r->id);
    return ok ? RESP_OK_NODATA : RESP_ERR_INVALID_PARAMETER;
}

/* ---- the screen ---- */

static uint32_t set_scanout(struct gpu *g, const uint8_t *c)
{
    struct rect rect = rect_at(c);
    uint32_t id = dp_ld32(c + 20);
    if (dp_ld32(c + 16))
        return RESP_ERR_INVALID_SCANOUT_ID;
    struct resource *r = find(&g->regs, id);
    if (id && !r)
        return RESP_ERR_INVALID_RESOURCE_ID;
    if (id && (!contains(r, &rect) || !rect.width || !rect.height || rect.width > DP_DISPLAY_MAX_WIDTH ||
               rect.height > DP_DISPLAY_MAX_HEIGHT))
        return RESP_ERR_INVALID_PARAMETER;
    g->regs.scanout_resource = id;
    g->regs.scanout_x = id ? rect.x : 0;
    g->regs.scanout_y = id ? rect.y : 0;
    g->regs.scanout_width = id ? rect.width : 0;
    g->regs.scanout_height = id ? rect.height : 0;
    g->generation++;
    return RESP_OK_NODATA;
}

static uint32_t flush(struct gpu *g, const uint8_t *c)
{
    struct rect rect = rect_at(c);
    struct resource *r = find(&g->regs, dp_ld32(c + 16));
    if (!r)
        return RESP_ERR_INVALID_RESOURCE_ID;
    if (!contains(r, &rect))
        return RESP_ERR_INVALID_PARAMETER;
    if (g->regs.scanout_resource == r->id)
        g->generation++;
    return RESP_OK_NODATA;
}

/* A pixel as 0xAARRGGBB. */
static inline uint32_t argb(uint32_t pixel, uint32_t format)
{
    switch (format) {
    case FORMAT_B8G8R8A8: return pixel;
    case FORMAT_B8G8R8X8: return pixel | 0xff000000;
    case FORMAT_A8R8G8B8: return __builtin_bswap32(pixel);
    case FORMAT_X8R8G8B8: return __builtin_bswap32(pixel) | 0xff000000;
    case FORMAT_R8G8B8A8: return __builtin_bswap32(pixel) >> 8 | (pixel & 0xff000000);
    case FORMAT_R8G8B8X8: return __builtin_bswap32(pixel) >> 8 | 0xff000000;
    case FORMAT_A8B8G8R8: return pixel >> 8 | pixel << 24;
    default: return pixel >> 8 | 0xff000000; /* X8B8G8R8 */
    }
}

static uint32_t update_cursor(struct gpu *g, const uint8_t *c, bool move_only)
{
    struct gpu_regs *regs = &g->regs;
    if (dp_ld32(c))
        return RESP_ERR_INVALID_SCANOUT_ID;
    if (!move_only) {
        uint32_t id = dp_ld32(c + 16);
        struct resource *r = find(regs, id);
        uint8_t *from = r ? memory_at(g, r->pixels, pixel_pages(r)) : NULL;
        if (id && (!r || r->width != CURSOR_DOTS || r->height != CURSOR_DOTS || !from)) {
            dp_trace_guest(g->base.device.env->trace, "%s: resource %u is no cursor", g->base.device.id, id);
            return r ? RESP_ERR_INVALID_PARAMETER : RESP_ERR_INVALID_RESOURCE_ID;
        }
        for (unsigned i = 0; id && i < CURSOR_DOTS * CURSOR_DOTS; i++)
            dp_st32(g->ram->host + i * PIXEL, argb(dp_ld32(from + i * PIXEL), r->format));
        if (id)
            dp_ram_mark_dirty(g->ram, 0, CURSOR_BYTES);
        regs->cursor_visible = id != 0;
        regs->cursor_hot_x = dp_ld32(c + 20);
        regs->cursor_hot_y = dp_ld32(c + 24);
    }
    regs->cursor_x = dp_ld32(c + 4);
    regs->cursor_y = dp_ld32(c + 8);
    g->generation++;
    return RESP_OK_NODATA;
}

/* Alpha is premultiplied, as Linux has it. */
static uint32_t blend(uint32_t over, uint32_t under)
{
    uint32_t result = 0, through = 255 - (over >> 24);
    for (unsigned shift = 0; shift < 24; shift += 8) {
        uint32_t sum = (over >> shift & 0xff) + ((under >> shift & 0xff) * through + 127) / 255;
        result |= DP_MIN(sum, 255u) << shift;
    }
    return result;
}

static void draw_cursor(const uint8_t *image, int32_t left, int32_t top, struct dp_display_picture *out)
{
    for (int64_t y = 0; y < CURSOR_DOTS; y++)
        for (int64_t x = 0; x < CURSOR_DOTS; x++) {
            int64_t to_x = left + x, to_y = top + y;
            if (to_x < 0 || to_y < 0 || to_x >= out->width || to_y >= out->height)
                continue;
            uint32_t *p = &out->pixels[(size_t)to_y * out->width + (size_t)to_x];
            *p = blend(dp_ld32(image + (y * CURSOR_DOTS + x) * PIXEL), *p);
        }
}

static void convert_line(uint32_t *to, const uint8_t *from, uint32_t count, uint32_t format)
{
#define CONVERT(f) \
    case f: \
        for (uint32_t i = 0; i < count; i++) \
            to[i] = argb(dp_ld32(from + i * PIXEL), f) & 0xffffff; \
        break
    switch (format) {
    CONVERT(FORMAT_B8G8R8A8);
    CONVERT(FORMAT_B8G8R8X8);
    CONVERT(FORMAT_A8R8G8B8);
    CONVERT(FORMAT_X8R8G8B8);
    CONVERT(FORMAT_R8G8B8A8);
    CONVERT(FORMAT_R8G8B8X8);
    CONVERT(FORMAT_A8B8G8R8);
    CONVERT(FORMAT_X8B8G8R8);
    }
#undef CONVERT
}

/* ---- the viewer's side ---- */

static uint64_t source_generation(void *opaque)
{
    struct gpu *g = opaque;
    pthread_mutex_lock(&g->base.device.lock);
    uint64_t generation = g->generation;
    pthread_mutex_unlock(&g->base.device.lock);
    return generation;
}

static int source_picture(void *opaque, struct dp_display_picture *out, struct dp_error *e)
{
    struct gpu *g = opaque;
    pthread_mutex_lock(&g->base.device.lock);
    struct gpu_regs *regs = &g->regs;
    struct rect s = {regs->scanout_x, regs->scanout_y, regs->scanout_width, regs->scanout_height};
    struct resource *found = find(regs, regs->scanout_resource), r = found ? *found : (struct resource){0};
    bool cursor = regs->cursor_visible;
    int32_t x = (int32_t)regs->cursor_x, y = (int32_t)regs->cursor_y;
    pthread_mutex_unlock(&g->base.device.lock);

    const uint8_t *pixels = found ? memory_at(g, r.pixels, pixel_pages(&r)) : NULL;
    bool shows = pixels && contains(&r, &s);
    int rc = dp_display_picture_resize(out, shows ? s.width : 0, shows ? s.height : 0, e);
    if (rc || !shows)
        return rc;
    for (uint32_t line = 0; line < s.height && s.width; line++)
        convert_line(out->pixels + (size_t)line * s.width, pixels + ((size_t)(s.y + line) * r.width + s.x) * PIXEL, s.width, r.format);
    if (cursor)
        draw_cursor(g->ram->host, x, y, out);
    return 0;
}

static uint32_t offered_width(const struct gpu *g) { return g->regs.offer_width ? g->regs.offer_width : (uint32_t)g->xres; }
static uint32_t offered_height(const struct gpu *g) { return g->regs.offer_height ? g->regs.offer_height : (uint32_t)g->yres; }

static bool source_resize(void *opaque, uint32_t width, uint32_t height)
{
    struct gpu *g = opaque;
    struct dp_virtio *v = &g->base.virtio;
    width = DP_MAX(DP_MIN(width, (uint32_t)OFFER_MAX), (uint32_t)OFFER_MIN);
    height = DP_MAX(DP_MIN(height, (uint32_t)OFFER_MAX), (uint32_t)OFFER_MIN);
    dp_virtio_lock(v);
    if (width != offered_width(g) || height != offered_height(g)) {
        g->regs.offer_width = width;
        g->regs.offer_height = height;
        g->regs.events |= EVENT_DISPLAY;
        if (!v->paused) /* else at resume */
            dp_virtio_config_changed(v);
    }
    dp_virtio_unlock(v);
    return true;
}

struct dp_display_source dp_virtio_gpu_source(struct dp_device *d)
{
    return (struct dp_display_source){
        .generation = source_generation, .picture = source_picture, .resize = source_resize, .opaque = gpu_of_device(d)};
}

bool dp_virtio_gpu_shows(void *opaque)
{
    struct dp_device *d = opaque;
    struct gpu *g = gpu_of_device(d);
    pthread_mutex_lock(&d->lock);
    bool shows = g->regs.scanout_resource != 0;
    pthread_mutex_unlock(&d->lock);
    return shows;
}

struct dp_ram *dp_virtio_gpu_ram(struct dp_device *d) { return gpu_of_device(d)->ram; }

/* ---- requests; lock held ---- */

static uint32_t display_info(struct gpu *g)
{
    uint8_t *mode = g->response + HEADER_SIZE; /* of scanout 0; there are no others */
    dp_st32(mode + 8, offered_width(g));
    dp_st32(mode + 12, offered_height(g));
    dp_st32(mode + 16, 1);
    g->response_size = DISPLAY_INFO_SIZE;
    return RESP_OK_DISPLAY_INFO;
}

static uint32_t get_edid(struct gpu *g, const uint8_t *c)
{
    if (!dp_virtio_has(&g->base.virtio, F_EDID))
        return RESP_ERR_UNSPEC;
    if (dp_ld32(c))
        return RESP_ERR_INVALID_SCANOUT_ID;
    dp_st32(g->response + HEADER_SIZE, DP_EDID_SIZE);
    dp_display_edid(g->response + EDID_AT, "doppel", offered_width(g), offered_height(g));
    g->response_size = EDID_AT + EDID_ROOM;
    return RESP_OK_EDID;
}

/* c: what follows the header. */
static uint32_t control(struct gpu *g, uint32_t type, const uint8_t *c)
{
    switch (type) {
    case CMD_GET_DISPLAY_INFO: return display_info(g);
    case CMD_RESOURCE_CREATE_2D: return create_2d(g, c);
    case CMD_RESOURCE_UNREF: return unref(g, c);
    case CMD_SET_SCANOUT: return set_scanout(g, c);
    case CMD_RESOURCE_FLUSH: return flush(g, c);
    case CMD_TRANSFER_TO_HOST_2D: return transfer_to_host(g, c);
    case CMD_RESOURCE_ATTACH_BACKING: return attach_backing(g, c);
    case CMD_RESOURCE_DETACH_BACKING: return detach_backing(g, c);
    case CMD_GET_EDID: return get_edid(g, c);
    }
    return RESP_ERR_UNSPEC;
}

static unsigned command_size(uint32_t type)
{
    switch (type) {
    case CMD_RESOURCE_CREATE_2D: return HEADER_SIZE + 16;
    case CMD_RESOURCE_UNREF: case CMD_RESOURCE_ATTACH_BACKING: case CMD_RESOURCE_DETACH_BACKING: return HEADER_SIZE + 8;
    case CMD_GET_EDID: return HEADER_SIZE + 8;
    case CMD_SET_SCANOUT: case CMD_RESOURCE_FLUSH: return HEADER_SIZE + 24;
    case CMD_TRANSFER_TO_HOST_2D: return HEADER_SIZE + 32;
    case CMD_UPDATE_CURSOR: case CMD_MOVE_CURSOR: return HEADER_SIZE + 32;
    }
    return HEADER_SIZE;
}

static void execute(struct gpu *g, unsigned queue)
{
    struct dp_virtio *v = &g->base.virtio;
    struct dp_virtio_request *r = &g->request;
    uint8_t command[COMMAND_MAX] = {0};
    uint64_t size = dp_virtio_read(v, r, 0, command, DP_MIN(r->out_bytes, sizeof command));
    uint32_t type = dp_ld32(command), flags = dp_ld32(command + 4), answer;
    memset(g->response, 0, sizeof g->response);
    g->response_size = HEADER_SIZE;
    if (size < command_size(type))
        answer = RESP_ERR_INVALID_PARAMETER;
    else if (queue == CURSOR)
        answer = type == CMD_UPDATE_CURSOR || type == CMD_MOVE_CURSOR ? update_cursor(g, command + HEADER_SIZE, type == CMD_MOVE_CURSOR)
                                                                        : (uint32_t)RESP_ERR_UNSPEC;
    else
        answer = control(g, type, command + HEADER_SIZE);
    if (answer >= RESP_ERR_UNSPEC) {
        g->response_size = HEADER_SIZE;
        dp_trace_guest(v->device->env->trace, "%s: command 0x%x refused: 0x%x", v->device->id, type, answer);
    }
    dp_st32(g->response, answer);
    if (flags & FLAG_FENCE) {
        dp_st32(g->response + 4, FLAG_FENCE);
        memcpy(g->response + 8, command + 8, 12); /* fence_id, ctx_id */
    }
    uint64_t room = DP_MIN(r->in_bytes, (uint64_t)g->response_size), written = dp_virtio_write(v, r, 0, g->response, room);
    if (written < room)
        dp_virtio_broken(v, "a response's buffer is not in RAM");
    dp_virtio_push(v, queue, r->head, (uint32_t)written);
}

static void gpu_notify(struct dp_virtio *v, unsigned queue)
{
    struct gpu *g = gpu_of(v);
    unsigned budget = dp_virtio_queue_size(v, queue);
    g->copied = 0;
    while (dp_virtio_pop(v, queue, &g->request) > 0) {
        execute(g, queue);
        if (!--budget || g->copied >= COPY_BUDGET) {
            dp_virtio_more(v, queue);
            return;
        }
    }
}

static uint64_t gpu_features(struct dp_virtio *v) { return 1ull << F_EDID; }

static void gpu_config_read(struct dp_virtio *v, uint32_t offset, void *data, uint32_t size)
{
    uint8_t config[CONFIG_SIZE] = {0};
    dp_st32(config + EVENTS_READ, gpu_of(v)->regs.events);
    dp_st32(config + NUM_SCANOUTS, 1);
    memcpy(data, config + offset, size);
}

static void gpu_config_write(struct dp_virtio *v, uint32_t offset, const void *data, uint32_t size)
{
    uint8_t config[CONFIG_SIZE] = {0};
    memcpy(config + offset, data, size);
    gpu_of(v)->regs.events &= ~dp_ld32(config + EVENTS_CLEAR);
}

/* The driver went: so do its resources. What is offered stays. */
static void gpu_driver_reset(struct dp_virtio *v)
{
    struct gpu *g = gpu_of(v);
    uint32_t width = g->regs.offer_width, height = g->regs.offer_height;
    struct dp_virtio_regs virtio = g->regs.virtio;
    dp_state_reset(&gpu_table, &g->regs);
    g->regs.virtio = virtio;
    g->regs.offer_width = width;
    g->regs.offer_height = height;
    give_back(g, 0, memory_pages(g));
    g->generation++;
}

static const struct dp_virtio_class gpu_virtio_class = {
    .device_id = 16, .pci_class = 0x038000, .queue_count = QUEUES, .queue_size = 256, .config_size = CONFIG_SIZE,
    .features = gpu_features, .config_read = gpu_config_read, .config_write = gpu_config_write, .notify = gpu_notify,
    .reset = gpu_driver_reset,
};

/* ---- life cycle ---- */

static int gpu_init(struct dp_device *d, struct dp_error *e)
{
    struct gpu *g = gpu_of_device(d);
    int rc = dp_ram_create(d->id, DP_ALIGN_UP(g->memory, DP_PAGE_SIZE), &g->ram, e);
    if (!rc)
        dp_virtio_init(&g->base.virtio, &gpu_virtio_class, &g->regs.virtio, d);
    return rc;
}

static void gpu_fini(struct dp_device *d)
{
    dp_virtio_fini(dp_virtio_of(d));
    dp_ram_destroy(gpu_of_device(d)->ram);
}

static void gpu_reset(struct dp_device *d) { dp_virtio_reset(dp_virtio_of(d)); }
static void gpu_pause(struct dp_device *d) { dp_virtio_pause(dp_virtio_of(d)); }

static void gpu_resume(struct dp_device *d)
{
    struct dp_virtio *v = dp_virtio_of(d);
    dp_virtio_resume(v);
    dp_virtio_lock(v);
    if (gpu_of(v)->regs.events) /* somebody may have asked for a size meanwhile */
        dp_virtio_config_changed(v);
    dp_virtio_unlock(v);
}

static void gpu_post_load(struct dp_device *d)
{
    struct gpu *g = gpu_of_device(d);
    pthread_mutex_lock(&d->lock);
    g->generation++;
    pthread_mutex_unlock(&d->lock);
    dp_virtio_post_load(&g->base.virtio);
}

static const struct dp_property gpu_properties[] = {
    {"xres", "width of the screen that the guest is offered", DP_PROP_UINT, offsetof(struct gpu, xres), 1280, OFFER_MIN, OFFER_MAX},
    {"yres", "its height", DP_PROP_UINT, offsetof(struct gpu, yres), 800, OFFER_MIN, OFFER_MAX},
    {"memory", "what the guest's pictures may take of the host's memory", DP_PROP_SIZE, offsetof(struct gpu, memory), 128ull << 20,
     1ull << 20, MEMORY_MAX},
};

const struct dp_device_class dp_virtio_gpu_class = {
    .name = "virtio-gpu",
    .summary = "screen with a 2D interface (virtio 1.2)",
    .size = sizeof(struct gpu),
    .regs_offset = offsetof(struct gpu, regs),
    .state = &gpu_table,
    .properties = gpu_properties,
    .property_count = DP_ARRAY_LEN(gpu_properties),
    .init = gpu_init,
    .fini = gpu_fini,
    .reset = gpu_reset,
    .pause = gpu_pause,
    .resume = gpu_resume,
    .post_load = gpu_post_load,
};
