/* block/vhdx.h - between vhdx.c (reading, writing, checking) and vhdx_open.c (headers, regions, metadata, the log, making).
 *
 * Model: two headers of which the valid one with the larger sequence number counts; a region table that says where the block allocation
 * table (BAT) and the metadata are; blocks at multiples of 1 MiB. Each chunk of BAT entries is followed by one for a bitmap, which only
 * images with a parent use (these are refused). The log has changes of tables that a crash interrupted: who opens for writing carries
 * them out, who only reads sees the file through them (`patch`), in memory. We write no log: an entry of the BAT is 8 bytes of one sector,
 * so after a power cut it is the old or the new one, and its block was on the disk before (table.h); nothing else changes but a header, in
 * the place of the other one, as the specification wants it. Invariants: regions and the log lie at multiples of 1 MiB, inside the file,
 * and do not overlap; a block over one of them is refused. The log is at most VHDX_LOG_MAX bytes.
 * Source: [MS-VHDX] 2.2 "Header Section" to 2.6 "Metadata Region", 2.3 "Log" (2.3.3 "Log Replay").
 */
#ifndef DP_BLOCK_VHDX_H
#define DP_BLOCK_VHDX_H

#include "block/table.h"

enum { VHDX_MIB = 1 << 20, VHDX_LOG_MAX = 16 << 20, VHDX_PAGE = 4096, VHDX_STATE = 7, VHDX_HEADER_1 = 65536, VHDX_HEADER_2 = 131072 };
enum { VHDX_NOT_PRESENT = 0, VHDX_ZERO = 2, VHDX_FULLY_PRESENT = 6, VHDX_PARTIALLY_PRESENT = 7 };

struct vhdx {
    struct dp_image image;
    struct dp_table table;
    uint8_t header[VHDX_PAGE];
    bool second, marked; /* second: the header that counts; marked: that somebody writes it now */
    uint64_t bat, bat_length, metadata, metadata_length, log;
    uint32_t log_length, block, sector;
    uint64_t blocks, chunk; /* chunk: blocks between two entries for bitmaps */
    uint8_t *log_data;
    struct dp_table_patch *patch; /* data points into log_pages, or to zeros */
    uint8_t *log_pages;
};

static inline struct vhdx *vhdx_of(struct dp_image *i) { return (struct vhdx *)i; }

bool vhdx_probe(const uint8_t *head, const uint8_t *tail, uint64_t length);
int vhdx_open(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e);
void vhdx_close(struct dp_image *i);
int vhdx_create(const struct dp_image_create *o, struct dp_error *e);
int vhdx_mark(struct vhdx *v); /* before the first change: new GUIDs in the header */
/* May a block be there? */
bool vhdx_is_room(const struct vhdx *v, uint64_t at);
int vhdx_replay(struct vhdx *v, struct dp_error *e);
extern const struct dp_image_option vhdx_create_options[];

#endif
