/* cli/board.c - see board.h. */
#include "cli/board.h"

#include <stdlib.h>
#include <sys/random.h>

#include "base/uuid.h"

/* A value that may hold commas, written twice there; *p stands behind it afterwards. NULL: no memory. */
static char *take_value(const char **p, struct cli_board_storage *storage)
{
    const char *from = *p;
    char *text = malloc(strlen(from) + 1), *to = text;
    if (!text)
        return NULL;
    for (; *from && (*from != ',' || from[1] == ','); from++) {
        *to++ = *from;
        from += *from == ',';
    }
    *to = 0;
    *p = from;
    storage->text[storage->count++] = text;
    return text;
}

/* name=NAME,file=FILE|string=TEXT[,force] */
static int parse_file(const char *text, struct dp_vm_file *f, struct cli_board_storage *storage, struct dp_error *e)
{
    bool force = false;
    const char *p = text;
    *f = (struct dp_vm_file){0};
    for (;; p++) {
        const char **value = !strncmp(p, "name=", 5)     ? &f->name
                             : !strncmp(p, "file=", 5)   ? &f->path
                             : !strncmp(p, "string=", 7) ? &f->text : NULL;
        size_t n = strcspn(p, ",");
        if (value) {
            if (*value)
                return dp_error_set(e, -EINVAL, "--fw-cfg %s: '%.*s' says again what was said", text, (int)DP_MIN(n, (size_t)40), p);
            p = strchr(p, '=') + 1;
            if (!(*value = take_value(&p, storage)))
                return dp_error_set(e, -ENOMEM, "no memory");
        } else if (n == 5 && !strncmp(p, "force", n)) {
            force = true;
            p += n;
        } else {
            return dp_error_set(
                e, -EINVAL,
                "--fw-cfg %s: '%.*s' is not known: possible are name=, file=, string= and force (a comma in a value is written twice)",
                text, (int)DP_MIN(n, (size_t)40), p);
        }
        if (!*p)
            break;
    }
    if (!f->name || !*f->name || !f->path == !f->text)
        return dp_error_set(e, -EINVAL, "--fw-cfg %s: give name=NAME, and either file=FILE or string=TEXT", text);
    if (!force && strncmp(f->name, "opt/", 4))
        return dp_error_set(
            e, -EINVAL,
            "--fw-cfg %s: names of one's own begin with opt/, as in opt/org.example/key; all others are firmware's (force allows them)",
            text);
    return 0;
}

int cli_board_parse(const struct cli_board *b, bool pc, struct dp_vm_config *c, struct cli_board_storage *storage, struct dp_error *e)
{
    if (!pc && (b->uuid || b->vmgenid || b->speaker || b->fw_cfg.count))
        return dp_error_set(e, -EINVAL, "--uuid, --vmgenid, --fw-cfg and --speaker are for --machine pc");
    if (b->uuid && !dp_uuid_parse(b->uuid, c->uuid))
        return dp_error_set(e, -EINVAL, "--uuid %s: give one like 12345678-9abc-def0-1234-56789abcdef0", b->uuid);
    if (b->vmgenid) {
        c->vmgenid = true;
        if (!strcmp(b->vmgenid, "auto")) {
            if (getrandom(c->generation, sizeof c->generation, 0) != sizeof c->generation)
                return dp_error_set(e, -EIO, "--vmgenid auto: no random numbers: %s", strerror(errno));
            c->generation[6] = (uint8_t)((c->generation[6] & 0x0f) | 0x40); /* RFC 4122: random */
            c->generation[8] = (uint8_t)((c->generation[8] & 0x3f) | 0x80);
        } else if (!dp_uuid_parse(b->vmgenid, c->generation)) {
            return dp_error_set(e, -EINVAL, "--vmgenid %s: give auto, or one like 12345678-9abc-def0-1234-56789abcdef0", b->vmgenid);
        }
    }
    for (unsigned i = 0; i < b->fw_cfg.count; i++) {
        int rc = parse_file(b->fw_cfg.value[i], &c->fw_cfg[c->fw_cfg_count++], storage, e);
        if (rc)
            return rc;
    }
    return 0;
}

void cli_board_fini(struct cli_board_storage *storage)
{
    while (storage->count)
        free(storage->text[--storage->count]);
}

int cli_board_speaker(const char *where, struct dp_wav **out, struct dp_error *e)
{
    if (strncmp(where, "file:", 5) || !where[5])
        return dp_error_set(e, -EINVAL, "--speaker %s: give file:PATH", where);
    int rc = dp_wav_open(where + 5, DP_SOUND_HZ, out, e);
    return rc ? dp_error_prefix(e, rc, "--speaker") : 0;
}
