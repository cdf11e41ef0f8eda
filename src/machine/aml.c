/* machine/aml.c - see aml.h. */
#include "machine/aml.h"

enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_QWORD = 0x0e,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_METHOD = 0x14,
    OP_DUAL_NAME = 0x2e,
    OP_MULTI_NAME = 0x2f,
    OP_EXT = 0x5b,
    OP_EXT_REGION = 0x80,
    OP_EXT_FIELD = 0x81,
    OP_EXT_DEVICE = 0x82,
    OP_IF = 0xa0,
    OP_ELSE = 0xa1,
};
enum { NAME_SEGMENTS = 8 };

static void byte(struct dp_aml *a, uint8_t v) { dp_buffer_append(a->out, &v, 1); }

void dp_aml_init(struct dp_aml *a, struct dp_buffer *out) { *a = (struct dp_aml){.out = out}; }
bool dp_aml_done(const struct dp_aml *a) { return !a->failed && !a->depth && !a->out->failed; }
void dp_aml_bytes(struct dp_aml *a, const void *data, size_t size) { dp_buffer_append(a->out, data, size); }

static void open_length(struct dp_aml *a)
{
    if (a->depth == DP_AML_DEPTH) {
        a->failed = true;
        return;
    }
    a->open[a->depth++] = a->out->size;
}

void dp_aml_close(struct dp_aml *a)
{
    if (!a->depth || a->out->failed) {
        a->failed = true;
        return;
    }
    /* PkgLength counts its own bytes: 1 for up to 63, else 1 + n with 4 bits in the lead byte and 8 in each other (20.2.4). */
    size_t start = a->open[--a->depth], body = a->out->size - start;
    unsigned extra = body + 1 <= 0x3f ? 0 : body + 2 <= 0xfff ? 1 : body + 3 <= 0xfffff ? 2 : 3;
    size_t length = body + 1 + extra;
    uint8_t lead[4] = {0};
    if (length > 0xfffffff) {
        a->failed = true;
        return;
    }
    if (!extra) {
        lead[0] = (uint8_t)length;
    } else {
        lead[0] = (uint8_t)(extra << 6 | (length & 0xf));
        for (unsigned i = 0; i < extra; i++)
            lead[1 + i] = (uint8_t)(length >> (4 + 8 * i));
    }
    dp_buffer_append(a->out, lead, 1 + extra); /* makes room */
    if (a->out->failed)
        return;
    memmove(a->out->data + start + 1 + extra, a->out->data + start, body);
    memcpy(a->out->data + start, lead, 1 + extra);
}

static void path_string(struct dp_aml *a, const char *path)
{
    const char *p = path;
    while (*p == '\\' || *p == '^')
        byte(a, (uint8_t)*p++);
    size_t length = strlen(p);
    unsigned segments = (unsigned)((length + 1) / 5);
    if (segments > NAME_SEGMENTS || (length && (length + 1) % 5)) {
        a->failed = true;
        return;
    }
    if (segments == 0)
        byte(a, 0);
    else if (segments == 2)
        byte(a, OP_DUAL_NAME);
    else if (segments > 2) {
        byte(a, OP_MULTI_NAME);
        byte(a, (uint8_t)segments);
    }
    for (unsigned i = 0; i < segments; i++)
        dp_aml_bytes(a, p + 5 * i, 4);
}

void dp_aml_name(struct dp_aml *a, const char *path)
{
    byte(a, OP_NAME);
    path_string(a, path);
}

void dp_aml_scope(struct dp_aml *a, const char *path)
{
    byte(a, OP_SCOPE);
    open_length(a);
    path_string(a, path);
}

void dp_aml_device(struct dp_aml *a, const char *path)
{
    byte(a, OP_EXT);
    byte(a, OP_EXT_DEVICE);
    open_length(a);
    path_string(a, path);
}

void dp_aml_ports(struct dp_aml *a, const char *region, uint16_t base, const char *const *fields, unsigned count)
{
    enum { SYSTEM_IO = 1, DWORD_ACCESS = 3, WRITE_AS_ZEROS = 2 << 5, BITS = 32 };
    byte(a, OP_EXT);
    byte(a, OP_EXT_REGION);
    path_string(a, region);
    byte(a, SYSTEM_IO);
    dp_aml_integer(a, base);
    dp_aml_integer(a, count * 4);
    byte(a, OP_EXT);
    byte(a, OP_EXT_FIELD);
    open_length(a);
    path_string(a, region);
    byte(a, DWORD_ACCESS | WRITE_AS_ZEROS);
    for (unsigned i = 0; i < count; i++) {
        path_string(a, fields[i]);
        byte(a, BITS);
    }
    dp_aml_close(a);
}

void dp_aml_method(struct dp_aml *a, const char *path, unsigned args, bool serialized)
{
    byte(a, OP_METHOD);
    open_length(a);
    path_string(a, path);
    byte(a, (uint8_t)((args & 7) | (serialized ? 8 : 0)));
}

void dp_aml_package(struct dp_aml *a, unsigned elements)
{
    byte(a, OP_PACKAGE);
    open_length(a);
    if (elements > 255)
        a->failed = true;
    byte(a, (uint8_t)elements);
}

void dp_aml_if(struct dp_aml *a)
{
    byte(a, OP_IF);
    open_length(a);
}

void dp_aml_else(struct dp_aml *a)
{
    byte(a, OP_ELSE);
    open_length(a);
}

void dp_aml_integer(struct dp_aml *a, uint64_t v)
{
    static const struct {
        uint8_t op, size;
        uint64_t max;
    } form[] = {{OP_BYTE, 1, 0xff}, {OP_WORD, 2, 0xffff}, {OP_DWORD, 4, 0xffffffff}, {OP_QWORD, 8, ~0ull}};
    if (v <= 1) {
        byte(a, v ? OP_ONE : OP_ZERO);
        return;
    }
    unsigned i = 0;
    while (v > form[i].max)
        i++;
    byte(a, form[i].op);
    dp_aml_bytes(a, &v, form[i].size);
}

void dp_aml_string(struct dp_aml *a, const char *text)
{
    byte(a, OP_STRING);
    dp_aml_bytes(a, text, strlen(text) + 1);
}

static unsigned hex(char c) { return c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'A' + 10); }

void dp_aml_eisa_id(struct dp_aml *a, const char *id)
{
    /* Three letters of 5 bits, then four hexadecimal digits, most significant byte first (6.1.5). */
    uint32_t v = (uint32_t)(id[0] - '@') << 26 | (uint32_t)(id[1] - '@') << 21 | (uint32_t)(id[2] - '@') << 16 | hex(id[3]) << 12 |
                 hex(id[4]) << 8 | hex(id[5]) << 4 | hex(id[6]);
    dp_aml_integer(a, __builtin_bswap32(v));
}

void dp_aml_reference(struct dp_aml *a, const char *path) { path_string(a, path); }

void dp_aml_buffer(struct dp_aml *a, const void *data, size_t size)
{
    byte(a, OP_BUFFER);
    open_length(a);
    dp_aml_integer(a, size);
    dp_aml_bytes(a, data, size);
    dp_aml_close(a);
}

/* ---- resources (ACPI 6.4, 6.4.2 and 6.4.3) ---- */

enum { RES_IRQ = 0x22, RES_IO = 0x47, RES_END = 0x79, RES_MEMORY32_FIXED = 0x86, RES_DWORD = 0x87, RES_WORD = 0x88, RES_QWORD = 0x8a };
enum { RANGE_MEMORY, RANGE_IO, RANGE_BUS };
enum { RANGE_FIXED = 1 << 2 | 1 << 3 /* minimum and maximum are fixed; positive decode; producer */, IO_ENTIRE = 3, MEMORY_RW = 1 };

void dp_aml_res_io(struct dp_buffer *r, uint16_t base, uint8_t length)
{
    uint8_t d[8] = {RES_IO, 1 /* decodes 16 bits */, 0, 0, 0, 0, 1, length};
    dp_st16(d + 2, base);
    dp_st16(d + 4, base);
    dp_buffer_append(r, d, sizeof d);
}

void dp_aml_res_irq(struct dp_buffer *r, unsigned irq)
{
    uint8_t d[3] = {RES_IRQ};
    dp_st16(d + 1, (uint16_t)(1u << irq));
    dp_buffer_append(r, d, sizeof d);
}

void dp_aml_res_memory32(struct dp_buffer *r, uint32_t base, uint32_t length)
{
    uint8_t d[12] = {RES_MEMORY32_FIXED, 9, 0, 1 /* writable */};
    dp_st32(d + 4, base);
    dp_st32(d + 8, length);
    dp_buffer_append(r, d, sizeof d);
}

/* The address space descriptors differ only in the width of their five numbers: granularity, minimum, maximum, translation, length. */
static void range(struct dp_buffer *r, uint8_t tag, unsigned width, uint8_t type, uint8_t specific, uint64_t first, uint64_t last)
{
    uint8_t d[46] = {tag};
    const uint64_t numbers[5] = {0, first, last, 0, last - first + 1};
    dp_st16(d + 1, (uint16_t)(3 + 5 * width));
    d[3] = type;
    d[4] = RANGE_FIXED;
    d[5] = specific;
    for (unsigned i = 0; i < 5; i++)
        memcpy(d + 6 + i * width, &numbers[i], width);
    dp_buffer_append(r, d, 6 + 5 * width);
}

void dp_aml_res_bus_range(struct dp_buffer *r, uint16_t first, uint16_t last) { range(r, RES_WORD, 2, RANGE_BUS, 0, first, last); }
void dp_aml_res_io_range(struct dp_buffer *r, uint16_t first, uint16_t last) { range(r, RES_WORD, 2, RANGE_IO, IO_ENTIRE, first, last); }
void dp_aml_res_memory_range32(struct dp_buffer *r, uint32_t first, uint32_t last)
{
    range(r, RES_DWORD, 4, RANGE_MEMORY, MEMORY_RW, first, last);
}
void dp_aml_res_memory_range64(struct dp_buffer *r, uint64_t first, uint64_t last)
{
    range(r, RES_QWORD, 8, RANGE_MEMORY, MEMORY_RW, first, last);
}

void dp_aml_resources(struct dp_aml *a, struct dp_buffer *r)
{
    static const uint8_t end[2] = {RES_END, 0}; /* checksum 0: not given */
    dp_buffer_append(r, end, sizeof end);
    if (r->failed)
        a->failed = true;
    else
        dp_aml_buffer(a, r->data, r->size);
    dp_buffer_fini(r);
    *r = (struct dp_buffer){0};
}
