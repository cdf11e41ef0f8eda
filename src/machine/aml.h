/* machine/aml.h - writes ACPI Machine Language.
 *
 * Model: a cursor over a growing buffer. Things with a package length (Scope, Device, Method, Package, Buffer, If) are opened and closed;
 * the length, whose own size depends on its value, is put in at closing. Nothing is parsed or optimised: what is written is what comes out.
 * Invariants: names are given padded as ACPI writes them ("_HID", "COM1"); misuse (depth, unbalanced close, lack of memory) sets failed and
 * the whole table is refused at the end. Source: ACPI 6.4 ch. 20 (AML grammar), section 6.4 (resource descriptors).
 */
#ifndef DP_MACHINE_AML_H
#define DP_MACHINE_AML_H

#include "base/base.h"

#define DP_AML_DEPTH 16

struct dp_aml {
    struct dp_buffer *out;
    size_t open[DP_AML_DEPTH]; /* where the package length goes */
    unsigned depth;
    bool failed;
};

void dp_aml_init(struct dp_aml *a, struct dp_buffer *out);
bool dp_aml_done(const struct dp_aml *a); /* balanced and nothing failed */

/* Objects. path: "\\_SB_.PCI0", "COM1": segments of four characters joined by dots, with leading backslash or carets. */
void dp_aml_name(struct dp_aml *a, const char *path); /* NameOp: a data object follows */
void dp_aml_scope(struct dp_aml *a, const char *path);
void dp_aml_device(struct dp_aml *a, const char *path);
void dp_aml_method(struct dp_aml *a, const char *path, unsigned args, bool serialized);
void dp_aml_package(struct dp_aml *a, unsigned elements); /* up to 255 */
/* 32-bit fields at consecutive ports from base on, in a region of that name; count names. */
void dp_aml_ports(struct dp_aml *a, const char *region, uint16_t base, const char *const *fields, unsigned count);
void dp_aml_if(struct dp_aml *a);                         /* a predicate follows */
void dp_aml_else(struct dp_aml *a);
void dp_aml_close(struct dp_aml *a);

/* Data. */
void dp_aml_integer(struct dp_aml *a, uint64_t value); /* the shortest form */
void dp_aml_string(struct dp_aml *a, const char *text);
void dp_aml_eisa_id(struct dp_aml *a, const char *id); /* "PNP0A08" */
void dp_aml_reference(struct dp_aml *a, const char *path);
void dp_aml_bytes(struct dp_aml *a, const void *data, size_t size);  /* raw AML, for opcodes without a function here */
void dp_aml_buffer(struct dp_aml *a, const void *data, size_t size); /* a Buffer with this content */

/* Resource templates: collected in a buffer of their own, then written as one Buffer by dp_aml_resources, which also releases it. */
void dp_aml_res_io(struct dp_buffer *r, uint16_t base, uint8_t length);
void dp_aml_res_irq(struct dp_buffer *r, unsigned irq); /* edge, active high, exclusive */
void dp_aml_res_memory32(struct dp_buffer *r, uint32_t base, uint32_t length);
void dp_aml_res_bus_range(struct dp_buffer *r, uint16_t first, uint16_t last);
void dp_aml_res_io_range(struct dp_buffer *r, uint16_t first, uint16_t last);
void dp_aml_res_memory_range32(struct dp_buffer *r, uint32_t first, uint32_t last);
void dp_aml_res_memory_range64(struct dp_buffer *r, uint64_t first, uint64_t last);
void dp_aml_resources(struct dp_aml *a, struct dp_buffer *r);

#endif
