/* iscsi.c - disks of iSCSI targets (iscsi://HOST[:PORT]/TARGET/LUN), as a protocol of images, by libiscsi.
 *
 * Model: one session, one SCSI command at a time, each for TIMEOUT seconds. The target takes whole blocks: pieces of them are read,
 * changed and written. A session that breaks is made anew once and the command repeated, if the target still has the same disk; if
 * something was written and not flushed, the next flush then says -EIO, once, for the target may have lost it.
 * Names and passwords are not taken from addresses, which are shown: libiscsi reads them from LIBISCSI_CHAP_USERNAME and _PASSWORD.
 * Invariants: what the target says of its size is checked; it never gives more than was asked for. Source: SBC-4 (READ(16), WRITE(16),
 * SYNCHRONIZE CACHE(10), UNMAP), RFC 7143; libiscsi's headers.
 */
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <stdlib.h>

#include "block/image_internal.h"

enum { TIMEOUT = 30, COMMAND_MAX = 1 << 20, BLOCK_MAX = 64 << 10, UNMAP_MAX = 1 << 16 };

struct iscsi_image {
    struct dp_image image;
    struct iscsi_context *session; /* NULL: it broke */
    int lun;
    uint32_t block;
    bool protected, can_unmap;
    bool unflushed, lost; /* something is written; and the target may have lost it */
    uint8_t *bounce;      /* one block */
};

static struct iscsi_image *of(struct dp_image *i) { return (struct iscsi_image *)i; }

static void disconnect(struct iscsi_image *s)
{
    if (s->session)
        iscsi_destroy_context(s->session);
    s->session = NULL;
}

/* What the disk is. False: the target does not say. */
static bool ask(struct iscsi_image *s, uint64_t *size, uint32_t *block)
{
    struct scsi_task *t = iscsi_readcapacity16_sync(s->session, s->lun);
    struct scsi_readcapacity16 *c = t && t->status == SCSI_STATUS_GOOD ? scsi_datain_unmarshall(t) : NULL;
    bool good = c && c->block_length >= 512 && c->block_length <= BLOCK_MAX && !(c->block_length & (c->block_length - 1)) &&
                c->returned_lba < INT64_MAX / BLOCK_MAX;
    if (good) {
        *block = c->block_length;
        *size = (c->returned_lba + 1) * c->block_length;
        s->can_unmap = c->lbpme;
    }
    if (t)
        scsi_free_scsi_task(t);
    t = iscsi_modesense6_sync(s->session, s->lun, 1, SCSI_MODESENSE_PC_CURRENT, SCSI_MODEPAGE_RETURN_ALL_PAGES, 0, 255);
    struct scsi_mode_sense *m = t && t->status == SCSI_STATUS_GOOD ? scsi_datain_unmarshall(t) : NULL;
    s->protected = m && m->device_specific_parameter & 0x80;
    if (t)
        scsi_free_scsi_task(t);
    return good;
}

static int connect_(struct iscsi_image *s, struct dp_error *e)
{
    const char *name = s->image.name;
    uint64_t size = 0;
    uint32_t block = 0;
    int rc = 0;
    if (!(s->session = iscsi_create_context("iqn.2026-11.org.doppel:client")))
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", name);
    struct iscsi_url *u = iscsi_parse_full_url(s->session, name);
    if (!u)
        rc = dp_error_set(e, -EINVAL, "disk %s: an address is iscsi://HOST[:PORT]/TARGET/LUN", name);
    if (!rc) {
        s->lun = u->lun;
        iscsi_set_session_type(s->session, ISCSI_SESSION_NORMAL);
        iscsi_set_header_digest(s->session, ISCSI_HEADER_DIGEST_NONE_CRC32C);
        iscsi_set_targetname(s->session, u->target);
        iscsi_set_timeout(s->session, TIMEOUT);
        iscsi_set_noautoreconnect(s->session, 1);
        if ((u->user[0] && iscsi_set_initiator_username_pwd(s->session, u->user, u->passwd)) ||
            iscsi_full_connect_sync(s->session, u->portal, u->lun))
            rc = dp_error_set(e, -EIO, "disk %.150s: %.*s", name, (int)strcspn(iscsi_get_error(s->session), "\n"),
                              iscsi_get_error(s->session));
        else if (!ask(s, &size, &block))
            rc = dp_error_set(e, -EINVAL, "disk %s: the target does not say its size, or has blocks of none that can be used", name);
    }
    if (!rc && s->block && (size != s->image.size || block != s->block)) /* not the first session */
        rc = dp_error_set(e, -ESTALE, "disk %s: the target has another disk now", name);
    if (u)
        iscsi_destroy_url(u);
    if (rc) {
        disconnect(s);
        return rc;
    }
    s->image.size = size;
    s->block = block;
    return 0;
}

static int open_(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    struct iscsi_image *s = of(i);
    if (strchr(i->name, '@') || strchr(i->name, '%'))
        return dp_error_set(e, -EINVAL, "disk address with a name or password: put those into LIBISCSI_CHAP_USERNAME and "
                                        "LIBISCSI_CHAP_PASSWORD, addresses are shown to others");
    int rc = connect_(s, e);
    if (!rc && s->protected && !i->readonly)
        rc = dp_error_set(e, -EROFS, "disk %s: the target lets nobody write: add ,ro", i->name);
    if (!rc && !(s->bounce = malloc(s->block)))
        rc = dp_error_set(e, -ENOMEM, "disk %s: out of memory", i->name);
    return rc;
}

static void close_(struct dp_image *i)
{
    struct iscsi_image *s = of(i);
    if (s->session && iscsi_is_logged_in(s->session))
        iscsi_logout_sync(s->session);
    disconnect(s);
    free(s->bounce);
}

/* ---- commands ---- */

enum kind { READ, WRITE, UNMAP, FLUSH };

static struct scsi_task *send_(struct iscsi_image *s, enum kind kind, uint8_t *data, uint64_t offset, uint64_t size)
{
    uint64_t lba = offset / s->block;
    struct scsi_iovec v = {data, size};
    struct unmap_list unmap = {lba, (uint32_t)(size / s->block)};
    switch (kind) {
    case READ:
        return iscsi_read16_iov_sync(s->session, s->lun, lba, (uint32_t)size, (int)s->block, 0, 0, 0, 0, 0, &v, 1);
    case WRITE:
        return iscsi_write16_sync(s->session, s->lun, lba, data, (uint32_t)size, (int)s->block, 0, 0, 0, 0, 0);
    case UNMAP:
        return iscsi_unmap_sync(s->session, s->lun, 0, 0, &unmap, 1);
    case FLUSH:
        return iscsi_synchronizecache10_sync(s->session, s->lun, 0, 0, 0, 0);
    }
    return NULL;
}

static int digest(const struct scsi_task *t, enum kind kind)
{
    if (t->status == SCSI_STATUS_GOOD) /* a target that gives less than was asked for is broken */
        return kind == READ && t->residual_status == SCSI_RESIDUAL_UNDERFLOW ? -EIO : 0;
    if (t->status != SCSI_STATUS_CHECK_CONDITION)
        return t->status == SCSI_STATUS_BUSY || t->status == SCSI_STATUS_TASK_SET_FULL ? -EBUSY : -ENOTCONN;
    return t->sense.key == SCSI_SENSE_UNIT_ATTENTION ? -EAGAIN : t->sense.key == SCSI_SENSE_DATA_PROTECTION ? -EROFS : -EIO;
}

static int command(struct iscsi_image *s, enum kind kind, uint8_t *data, uint64_t offset, uint64_t size)
{
    int rc = -EIO;
    for (unsigned attempt = 0; attempt < 3; attempt++) {
        if (!s->session && (rc = connect_(s, NULL)))
            break;
        struct scsi_task *t = send_(s, kind, data, offset, size);
        rc = t ? digest(t, kind) : -ENOTCONN;
        if (t)
            scsi_free_scsi_task(t);
        if (rc != -ENOTCONN && rc != -EAGAIN)
            break;
        if (rc == -ENOTCONN) {
            disconnect(s);
            s->lost = s->lost || s->unflushed;
        }
    }
    if (kind == WRITE || kind == UNMAP)
        s->unflushed = true;
    return rc == -ENOTCONN || rc == -EAGAIN ? -EIO : rc;
}

static int piece(struct iscsi_image *s, struct dp_cursor *c, bool write, uint64_t offset, uint64_t size)
{
    uint64_t at = DP_ALIGN_DOWN(offset, (uint64_t)s->block);
    int rc = write && size == s->block ? 0 : command(s, READ, s->bounce, at, s->block);
    if (rc)
        return rc;
    if (!write) {
        dp_cursor_put(c, s->bounce + (offset - at), size);
        return 0;
    }
    dp_cursor_get(c, s->bounce + (offset - at), size);
    return command(s, WRITE, s->bounce, at, s->block);
}

static int transfer(struct dp_image *i, struct dp_cursor *c, bool write, uint64_t offset, uint64_t size)
{
    struct iscsi_image *s = of(i);
    int rc = 0;
    if (offset > i->size || size > i->size - offset)
        return -ENOSPC;
    for (uint64_t k; !rc && size; offset += k, size -= k) {
        struct dp_cursor ahead = *c;
        struct iovec v = dp_cursor_take(&ahead, DP_MIN(size, (uint64_t)COMMAND_MAX));
        k = DP_ALIGN_DOWN((uint64_t)v.iov_len, (uint64_t)s->block);
        if (offset % s->block || !k) {
            k = DP_MIN(size, s->block - offset % s->block);
            rc = piece(s, c, write, offset, k);
        } else if (!(rc = command(s, write ? WRITE : READ, v.iov_base, offset, k))) {
            dp_cursor_skip(c, k);
        }
    }
    return rc;
}

static int read_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) { return transfer(i, c, false, offset, size); }
static int write_(struct dp_image *i, struct dp_cursor *c, uint64_t offset, uint64_t size) { return transfer(i, c, true, offset, size); }

/* What is unmapped need not read as zeros: zeros are written. */
static int zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    struct iscsi_image *s = of(i);
    if (!(flags & DP_ZERO_DISCARD) || !s->can_unmap)
        return -ENOTSUP;
    if (offset > i->size || size > i->size - offset)
        return -ENOSPC;
    uint64_t end = DP_ALIGN_DOWN(offset + size, (uint64_t)s->block);
    int rc = 0;
    offset = DP_ALIGN_UP(offset, (uint64_t)s->block);
    for (uint64_t k; !rc && offset < end; offset += k) {
        k = DP_MIN(end - offset, (uint64_t)UNMAP_MAX * s->block);
        rc = command(s, UNMAP, NULL, offset, k);
    }
    return rc;
}

static int flush(struct dp_image *i)
{
    struct iscsi_image *s = of(i);
    int rc = command(s, FLUSH, NULL, 0, 0);
    if (rc)
        return rc;
    bool lost = s->lost;
    s->unflushed = s->lost = false;
    if (lost && i->trace)
        dp_trace_emit(i->trace, DP_TRACE_BLOCK, "disk %s: the session broke; what was written before and not flushed may be lost", i->name);
    return lost ? -EIO : 0;
}

static int resize(struct dp_image *i, uint64_t size, struct dp_error *e)
{
    return size <= i->size ? 0 : dp_error_set(e, -ENOSPC, "%s has %llu bytes: its size cannot be changed here", i->name,
                                              (unsigned long long)i->size);
}

const struct dp_image_format dp_image_iscsi = {
    .name = "iscsi",
    .summary = "a disk of an iSCSI target",
    .instance_size = sizeof(struct iscsi_image),
    .scheme = "iscsi",
    .open = open_,
    .close = close_,
    .read = read_,
    .write = write_,
    .zero = zero,
    .flush = flush,
    .resize = resize,
};
