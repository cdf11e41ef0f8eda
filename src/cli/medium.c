/* cli/medium.c - `doppel media`: what is in a named VM's CD and floppy drives, and another medium for one, through its control socket. */
#include "cli/options.h"

#include <json.h>
#include <stdlib.h>
#include <unistd.h>

#include "cli/client.h"

struct media_options {
    const char *name, *drive, *file;
    bool readonly;
};
static const struct cli_operand operands[] = {
    {"NAME", offsetof(struct media_options, name)},
    {"DRIVE", offsetof(struct media_options, drive), .optional = true},
    {"FILE", offsetof(struct media_options, file), .optional = true},
};
static const struct cli_option options[] = {
    {"ro", 'r', NULL, CLI_FLAG, offsetof(struct media_options, readonly), .help = "the guest cannot write to the floppy disk"},
};

static const char *text_of(struct json_object *o, const char *name)
{
    struct json_object *part;
    return json_object_object_get_ex(o, name, &part) && part ? json_object_get_string(part) : NULL;
}

static void print_drives(struct json_object *result)
{
    struct json_object *drives;
    if (!json_object_object_get_ex(result, "drives", &drives) || !json_object_is_type(drives, json_type_array))
        return;
    for (size_t i = 0; i < json_object_array_length(drives); i++) {
        struct json_object *d = json_object_array_get_idx(drives, i);
        const char *name = text_of(d, "drive"), *file = text_of(d, "file"), *readonly = text_of(d, "readonly");
        bool protected = file && readonly && !strcmp(readonly, "true");
        printf("%-8s %s%s\n", name ? name : "?", file ? file : "empty", protected ? " (read-only)" : "");
    }
}

static int media(int argc, char **argv)
{
    struct media_options o = {0};
    struct dp_error e = {0};
    struct json_object *result = NULL;
    int fd, status = cli_begin(&cli_media_verb, argc, argv, &o);
    if (status >= 0)
        return status;
    if (o.drive && !o.file) {
        fprintf(stderr, "doppel: FILE is missing: doppel media %s\n", cli_media_verb.usage);
        return EXIT_STATUS_USAGE;
    }
    bool eject = o.file && !strcmp(o.file, "eject");
    char *path = o.file && !eject ? realpath(o.file, NULL) : NULL; /* the VM runs elsewhere */
    if (o.file && !eject && !path) {
        dp_error_set(&e, -errno, "%s: %s", o.file, strerror(errno));
    } else if (!cli_connect(o.name, &fd, &e)) {
        const char *mode = path && o.readonly ? "ro" : NULL;
        const char *const arguments[] = {"drive", o.drive, "file", path, "mode", mode, NULL};
        result = cli_ask_list(fd, !o.drive ? "media" : eject ? "eject" : "insert", arguments, &e);
        close(fd);
    }
    free(path);
    if (!result) {
        fprintf(stderr, "doppel: %s\n", e.text);
        return EXIT_STATUS_ERROR;
    }
    print_drives(result);
    json_object_put(result);
    return 0;
}

const struct cli_verb cli_media_verb = {
    .name = "media",
    .summary = "changes what is in a named VM's CD or floppy drive",
    .usage = "NAME [DRIVE FILE|eject]",
    .examples = "  doppel media dos                                  which drives there are, and what is in them\n"
                "  doppel media dos floppy0 disk2.img\n"
                "  doppel media win cdrom0 drivers.iso\n"
                "  doppel media win cdrom0 eject\n",
    .options = options,
    .option_count = DP_ARRAY_LEN(options),
    .operands = operands,
    .operand_count = DP_ARRAY_LEN(operands),
    .run = media,
};
