/* qcow2_pack.c - compressing clusters of a qcow2 image, and the way back, in any thread.
 *
 * Model: a packer belongs to one thread and knows nothing of the image but its cluster size and method, so several work at once
 * (image_copy.c); the image has one of its own. Compressed clusters are raw deflate streams (RFC 1951) of a window of 4 KiB, as other
 * readers expect, or zstd frames. What is to be unpacked may be anything; more bytes than the stream's may follow it.
 * Source: QEMU's docs/interop/qcow2.txt, "Compressed Clusters Descriptor".
 */
#include <stdlib.h>
#include <zlib.h>
#include <zstd.h>

#include "block/qcow2.h"

struct packer {
    size_t cluster;
    bool zstd, deflates, inflates; /* those streams are ready */
    z_stream deflate, inflate;
    ZSTD_CCtx *compress;
    ZSTD_DCtx *decompress;
};

void *qcow2_packer(const struct dp_image *i)
{
    const struct qcow2 *q = (const struct qcow2 *)i;
    struct packer *p = calloc(1, sizeof *p);
    if (p) {
        p->cluster = q->cluster;
        p->zstd = q->zstd;
    }
    return p;
}

void qcow2_packer_free(void *packer)
{
    struct packer *p = packer;
    if (!p)
        return;
    if (p->deflates)
        deflateEnd(&p->deflate);
    if (p->inflates)
        inflateEnd(&p->inflate);
    ZSTD_freeCCtx(p->compress);
    ZSTD_freeDCtx(p->decompress);
    free(p);
}

size_t qcow2_pack(void *packer, const uint8_t *plain, uint8_t *packed)
{
    struct packer *p = packer;
    size_t room = p->cluster - 1;
    if (p->zstd) {
        if (!p->compress && !(p->compress = ZSTD_createCCtx()))
            return 0;
        size_t n = ZSTD_compressCCtx(p->compress, packed, room, plain, p->cluster, ZSTD_CLEVEL_DEFAULT);
        return ZSTD_isError(n) ? 0 : n;
    }
    if (!p->deflates)
        p->deflates = deflateInit2(&p->deflate, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) == Z_OK;
    if (!p->deflates || deflateReset(&p->deflate) != Z_OK)
        return 0;
    p->deflate.next_in = (uint8_t *)plain;
    p->deflate.avail_in = p->cluster;
    p->deflate.next_out = packed;
    p->deflate.avail_out = room;
    return deflate(&p->deflate, Z_FINISH) == Z_STREAM_END ? room - p->deflate.avail_out : 0;
}

static bool unpack_zlib(struct packer *p, const uint8_t *packed, size_t n, uint8_t *plain)
{
    if (!p->inflates)
        p->inflates = inflateInit2(&p->inflate, -15) == Z_OK;
    if (!p->inflates || inflateReset(&p->inflate) != Z_OK)
        return false;
    p->inflate.next_in = (uint8_t *)packed;
    p->inflate.avail_in = n;
    p->inflate.next_out = plain;
    p->inflate.avail_out = p->cluster;
    int rc = inflate(&p->inflate, Z_FINISH);
    return !p->inflate.avail_out && (rc == Z_STREAM_END || rc == Z_BUF_ERROR || rc == Z_OK);
}

static bool unpack_zstd(struct packer *p, const uint8_t *packed, size_t n, uint8_t *plain)
{
    if (!p->decompress && !(p->decompress = ZSTD_createDCtx()))
        return false;
    ZSTD_DCtx_reset(p->decompress, ZSTD_reset_session_only);
    ZSTD_inBuffer in = {packed, n, 0};
    ZSTD_outBuffer out = {plain, p->cluster, 0};
    while (out.pos < out.size) {
        size_t before = in.pos + out.pos, rc = ZSTD_decompressStream(p->decompress, &out, &in);
        if (ZSTD_isError(rc) || in.pos + out.pos == before)
            return false;
    }
    return true;
}

bool qcow2_unpack(void *packer, const uint8_t *packed, size_t n, uint8_t *plain)
{
    struct packer *p = packer;
    return p->zstd ? unpack_zstd(p, packed, n, plain) : unpack_zlib(p, packed, n, plain);
}
