/* block/vhdx.h - between vhdx.c (reading, writing, checking) and vhdx_open.c (headers, regions, metadata, the log, making).
 *
 * Model: two headers of which the valid one with the larger sequence number counts; a region table that says where the block allocation
 * table (BAT) and the metadata are; blocks at multiples of 1 MiB. Each chunk of BAT entries is followed by one for a bitmap, which only
 * images with a parent use: of a block that is partially present its bits say which sectors are the image's. Such a block becomes the
 * image's as a whole when it is written: what is the parent's is copied, then its entry says so, and the bitmap does not matter any more.
 * The log has changes of tables that a crash interrupted: who opens for writing carries
 * them out, who only reads sees the file through them (`patch`), in memory.
 * We write no log, though 2.3 asks for one for all but headers. It is there for changes that are right only together; ours are not such. A
 * new block is one entry of the BAT: 8 bytes at a multiple of 8, in one sector, which holds entries of payload blocks and sector bitmaps
 * that are each as true as before; the block itself was zeroed and written, and flushed, before (table.h), and lies where nothing else
 * does. After a power cut each entry is the old or the new one, in any mixture. The file's end needs no LastFileOffset, for it was flushed,
 * too. To grow is to write entries of the BAT that were not of the disk, then, when they are flushed, VirtualDiskSize, in one sector.
 * LogGuid is zero while we write, so nobody ever takes what is in the log for newer than the tables. Headers are written each in the place
 * of the other one (2.2.2.1). FileWriteGuid changes before anything else does, DataWriteGuid only before the disk's contents do: it is by
 * that one that a child knows its parent.
 * Invariants: regions and the log lie at multiples of 1 MiB, inside the file, and do not overlap; a block over one of them, or behind the
 * end of the file, is refused. The log is at most VHDX_LOG_MAX bytes.
 * Source: [MS-VHDX] 2.2 "Header Section" to 2.6 "Metadata Region", 2.3 "Log" (2.3.3 "Log Replay").
 */
#ifndef DP_BLOCK_VHDX_H
#define DP_BLOCK_VHDX_H

#include "block/table.h"

enum { VHDX_MIB = 1 << 20, VHDX_LOG_MAX = 16 << 20, VHDX_PAGE = 4096, VHDX_STATE = 7, VHDX_HEADER_1 = 65536, VHDX_HEADER_2 = 131072 };
enum { VHDX_LOCATOR_ROOM = 4096 + 64 };
enum { VHDX_NOT_PRESENT = 0, VHDX_ZERO = 2, VHDX_FULLY_PRESENT = 6, VHDX_PARTIALLY_PRESENT = 7 };

struct vhdx {
    struct dp_image image;
    struct dp_table table;
    uint8_t header[VHDX_PAGE];
    bool second;                                                           /* the header that counts */
    bool marked, contents_marked;                                          /* the GUIDs of this session stand in it */
    bool log_lost;                                                         /* there is to be something in the log, and nothing is valid */
    bool fixed;                                                            /* LeaveBlocksAllocated */
    bool child;                                                            /* HasParent */
    uint8_t disk_id[16];                                                   /* VirtualDiskId: of all images of a chain */
    bool others;                                                           /* there are regions that are not known */
    uint64_t bat, bat_length, metadata, metadata_length, log, regions_end; /* regions_end: of those that are not known, too */
    uint32_t log_length, block, sector;
    uint64_t size_at;       /* VirtualDiskSize in the file */
    uint64_t blocks, chunk; /* chunk: blocks between two entries for bitmaps */
    uint64_t end, free;     /* end: of the file, as the log leaves it; free: where new blocks go; 0: not known yet */
    uint8_t *log_data;
    struct dp_table_patch *patch; /* data points into log_pages, or to zeros */
    uint8_t *log_pages;
};

static inline struct vhdx *vhdx_of(struct dp_image *i) { return (struct vhdx *)i; }

bool vhdx_probe(const uint8_t *head, const uint8_t *tail, uint64_t length);
int vhdx_open(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e);
void vhdx_close(struct dp_image *i);
int vhdx_resize(struct dp_image *i, uint64_t size, struct dp_error *e);
int vhdx_create(const struct dp_image_create *o, struct dp_error *e);
int vhdx_mark(struct vhdx *v, bool contents); /* before the first change, or the first of the disk's contents: new GUIDs */
int vhdx_end_log(struct vhdx *v);             /* all that it had is done */
/* May a block be there? */
bool vhdx_is_room(const struct vhdx *v, uint64_t at);
const uint8_t *vhdx_data_write_guid(const struct vhdx *v);
/* vhdx_parent.c: the locator of a parent, read (and the parent opened), and made; its length, 0 after an error. */
int vhdx_open_parent(struct vhdx *v, uint64_t at, uint64_t length, const struct dp_image_options *o, struct dp_error *e);
uint32_t vhdx_make_locator(const struct dp_image_create *o, uint8_t *out /* VHDX_LOCATOR_ROOM */, struct vhdx *parent, struct dp_error *e);
int vhdx_replay(struct vhdx *v, bool repair, struct dp_error *e);
extern const struct dp_image_option vhdx_create_options[];

#endif
