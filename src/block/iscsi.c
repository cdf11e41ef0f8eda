/* iscsi.c - disks of iSCSI targets (iscsi://HOST[:PORT]/TARGET/LUN), as a protocol of images, by libiscsi.
 *
 * Model: one session, one SCSI command at a time (remote.h), of whole blocks of the target.
 * Names and passwords are not taken from addresses, which are shown: libiscsi reads them from LIBISCSI_CHAP_USERNAME and _PASSWORD.
 * Invariants: what the target says of its size is checked; it never gives more than was asked for. libiscsi's own waiting functions are
 * not used: after an error they leave commands behind that point into a frame of the stack which is gone. Here a command that was given
 * up is only freed after its session. Source: SBC-4 (READ(16), WRITE(16), SYNCHRONIZE CACHE(10), UNMAP), RFC 7143; libiscsi's headers.
 */
#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>
#include <poll.h>
#include <stdlib.h>

#include "block/image_internal.h"
#include "block/remote.h"

enum { COMMAND_MAX = 1 << 20, BLOCK_MAX = 64 << 10, UNMAP_MAX = 1 << 16, LOGOUT_SECONDS = 2, AGAIN = 3 };

struct iscsi_image {
    struct dp_remote remote;
    struct iscsi_context *session; /* NULL: there is none */
    int lun;
    bool protected, can_unmap;
    bool done; /* what is waited for; and its status */
    int status;
};

static struct iscsi_image *of(struct dp_image *i) { return (struct iscsi_image *)i; }
static struct iscsi_image *of_remote(struct dp_remote *r) { return (struct iscsi_image *)r; }

static void disconnect(struct dp_remote *r)
{
    struct iscsi_image *s = of_remote(r);
    if (s->session)
        iscsi_destroy_context(s->session);
    s->session = NULL;
}

/* ---- waiting ---- */

static void finished(struct iscsi_context *c, int status, void *data, void *opaque)
{
    struct iscsi_image *s = opaque;
    s->done = true;
    s->status = status;
}

/* Until it is done. After an error what was begun is still the session's. */
static int await(struct iscsi_image *s, unsigned patience)
{
    int64_t end = dp_remote_now_ms() + patience * 1000ll;
    while (!s->done) {
        struct pollfd p = {iscsi_get_fd(s->session), (short)iscsi_which_events(s->session), 0};
        if (poll(&p, 1, 500) < 0 && errno != EINTR)
            return -errno;
        if (iscsi_service(s->session, p.revents) < 0)
            return -ENOTCONN;
        if (!s->done && dp_remote_now_ms() >= end)
            return -ETIMEDOUT;
    }
    return 0;
}

static int digest(const struct scsi_task *t, bool read)
{
    if (t->status == SCSI_STATUS_GOOD) /* a target that gives less than was asked for is broken */
        return read && t->residual_status == SCSI_RESIDUAL_UNDERFLOW ? -EIO : 0;
    if (t->status == SCSI_STATUS_TIMEOUT)
        return -ETIMEDOUT;
    if (t->status != SCSI_STATUS_CHECK_CONDITION)
        return t->status == SCSI_STATUS_BUSY || t->status == SCSI_STATUS_TASK_SET_FULL ? -EBUSY : -ENOTCONN;
    return t->sense.key == SCSI_SENSE_UNIT_ATTENTION ? -EAGAIN : t->sense.key == SCSI_SENSE_DATA_PROTECTION ? -EROFS : -EIO;
}

/* Waits for a command that was begun (s->done is false), and gives its task, for the caller to free, with what it says: NULL, and rc,
 * if the session ended with it. */
static struct scsi_task *take(struct iscsi_image *s, struct scsi_task *t, unsigned patience, bool read, int *rc)
{
    *rc = t ? await(s, patience) : -ENOTCONN;
    if (!*rc) {
        *rc = digest(t, read);
        return t;
    }
    disconnect(&s->remote);
    if (t)
        scsi_free_scsi_task(t);
    return NULL;
}

/* ---- connections ---- */

/* What the disk is. -EINVAL: the target does not say. */
static int ask(struct iscsi_image *s, unsigned seconds)
{
    int rc;
    s->done = false;
    struct scsi_task *t = take(s, iscsi_readcapacity16_task(s->session, s->lun, finished, s), seconds, false, &rc);
    struct scsi_readcapacity16 *c = !rc ? scsi_datain_unmarshall(t) : NULL;
    if (t && (!c || c->block_length < 512 || c->block_length > BLOCK_MAX || c->returned_lba >= INT64_MAX / BLOCK_MAX))
        rc = rc ? rc : -EINVAL;
    if (!rc) {
        s->remote.block = c->block_length;
        s->remote.most = COMMAND_MAX;
        s->remote.image.size = (c->returned_lba + 1) * c->block_length;
        s->can_unmap = c->lbpme;
    }
    if (t)
        scsi_free_scsi_task(t);
    if (rc)
        return rc;
    s->done = false;
    t = iscsi_modesense6_task(s->session, s->lun, 1, SCSI_MODESENSE_PC_CURRENT, SCSI_MODEPAGE_RETURN_ALL_PAGES, 0, 255, finished, s);
    t = take(s, t, seconds, false, &rc);
    struct scsi_mode_sense *m = t && !rc ? scsi_datain_unmarshall(t) : NULL;
    s->protected = m && m->device_specific_parameter & 0x80;
    if (!t)
        return rc;
    scsi_free_scsi_task(t);
    return 0; /* a target need not have mode pages */
}

static int log_in(struct iscsi_image *s, const struct iscsi_url *u, unsigned seconds)
{
    s->lun = u->lun;
    iscsi_set_session_type(s->session, ISCSI_SESSION_NORMAL);
    iscsi_set_header_digest(s->session, ISCSI_HEADER_DIGEST_NONE_CRC32C);
    iscsi_set_targetname(s->session, u->target);
    iscsi_set_noautoreconnect(s->session, 1);
    s->done = false;
    if ((u->user[0] && iscsi_set_initiator_username_pwd(s->session, u->user, u->passwd)) ||
        iscsi_full_connect_async(s->session, u->portal, u->lun, finished, s))
        return -EIO;
    int rc = await(s, seconds);
    return rc == -ENOTCONN || (!rc && s->status != SCSI_STATUS_GOOD) ? -EIO : rc;
}

static int connect_(struct dp_remote *r, unsigned seconds, struct dp_error *e)
{
    struct iscsi_image *s = of_remote(r);
    const char *name = r->image.name;
    int rc = 0;
    if (!(s->session = iscsi_create_context("iqn.2026-11.org.doppel:client")))
        return dp_error_set(e, -ENOMEM, "disk %s: out of memory", name);
    struct iscsi_url *u = iscsi_parse_full_url(s->session, name);
    if (!u) {
        rc = dp_error_set(e, -EINVAL, "disk %s: an address is iscsi://HOST[:PORT]/TARGET/LUN", name);
    } else if ((rc = log_in(s, u, seconds))) {
        const char *why = iscsi_get_error(s->session);
        bool silent = rc == -ETIMEDOUT || !why || !*why;
        dp_error_set(e, rc, "disk %.150s: %.*s", name, silent ? 99 : (int)strcspn(why, "\n"), silent ? "the target does not answer" : why);
    } else if ((rc = ask(s, seconds))) {
        dp_error_set(e, rc, "disk %s: the target does not say its size, or has blocks of none that can be used", name);
    }
    if (u)
        iscsi_destroy_url(u);
    if (rc)
        disconnect(r);
    return rc;
}

/* ---- commands ---- */

static struct scsi_task *send_(struct iscsi_image *s, const struct dp_remote_command *c, struct scsi_iovec *v)
{
    uint64_t lba = c->offset / s->remote.block;
    uint32_t size = (uint32_t)c->size;
    int block = (int)s->remote.block;
    struct unmap_list unmap = {lba, (uint32_t)(c->size / s->remote.block)};
    s->done = false;
    switch (c->op) {
    case DP_REMOTE_READ:
        return iscsi_read16_iov_task(s->session, s->lun, lba, size, block, 0, 0, 0, 0, 0, finished, s, v, 1);
    case DP_REMOTE_WRITE:
        return iscsi_write16_iov_task(s->session, s->lun, lba, NULL, size, block, 0, 0, 0, 0, 0, finished, s, v, 1);
    case DP_REMOTE_DISCARD:
        return iscsi_unmap_task(s->session, s->lun, 0, 0, &unmap, 1, finished, s);
    case DP_REMOTE_FLUSH:
        return iscsi_synchronizecache10_task(s->session, s->lun, 0, 0, 0, 0, finished, s);
    case DP_REMOTE_ZERO:
    case DP_REMOTE_EXTENT:
        break;
    }
    return NULL;
}

static int run(struct dp_remote *r, const struct dp_remote_command *c)
{
    struct iscsi_image *s = of_remote(r);
    struct scsi_iovec v = {c->data, c->size};
    int rc = -EAGAIN;
    for (unsigned n = 0; rc == -EAGAIN && n < AGAIN; n++) {
        if (!s->session)
            return -ENOTCONN;
        struct scsi_task *t = take(s, send_(s, c, &v), DP_REMOTE_PATIENCE, c->op == DP_REMOTE_READ, &rc);
        if (t)
            scsi_free_scsi_task(t);
    }
    return rc == -EAGAIN ? -EIO : rc;
}

static const struct dp_remote_driver driver = {connect_, disconnect, run};

static int open_(struct dp_image *i, const struct dp_image_options *o, struct dp_error *e)
{
    if (strchr(i->name, '@') || strchr(i->name, '%'))
        return dp_error_set(e, -EINVAL, "disk address with a name or password: put those into LIBISCSI_CHAP_USERNAME and "
                                        "LIBISCSI_CHAP_PASSWORD, addresses are shown to others");
    int rc = dp_remote_open(&of(i)->remote, &driver, e);
    if (!rc && of(i)->protected && !i->readonly)
        rc = dp_error_set(e, -EROFS, "disk %s: the target lets nobody write: add ,ro", i->name);
    return rc;
}

static void close_(struct dp_image *i)
{
    struct iscsi_image *s = of(i);
    s->done = false;
    if (s->session && iscsi_is_logged_in(s->session) && !iscsi_logout_async(s->session, finished, s))
        (void)!await(s, LOGOUT_SECONDS);
    dp_remote_close(&s->remote);
}

/* What is unmapped need not read as zeros: zeros are written. */
static int zero(struct dp_image *i, uint64_t offset, uint64_t size, unsigned flags)
{
    struct iscsi_image *s = of(i);
    if (!(flags & DP_ZERO_DISCARD) || !s->can_unmap)
        return -ENOTSUP;
    return dp_remote_discard(&s->remote, offset, size, (uint64_t)UNMAP_MAX * s->remote.block);
}

const struct dp_image_format dp_image_iscsi = {
    .name = "iscsi",
    .summary = "a disk of an iSCSI target",
    .instance_size = sizeof(struct iscsi_image),
    .scheme = "iscsi",
    .open = open_,
    .close = close_,
    .read = dp_remote_read,
    .write = dp_remote_write,
    .zero = zero,
    .flush = dp_remote_flush,
    .resize = dp_remote_resize,
};
