/* cli/list.c - `doppel list`: the named VMs of this user that run. */
#include "cli/options.h"

#include <inttypes.h>
#include <json.h>
#include <unistd.h>

#include "cli/client.h"
#include "control/rundir.h"

struct list_options {
    bool json;
};
static const struct cli_option options[] = {
    {"json", 0, NULL, CLI_FLAG, offsetof(struct list_options, json), .help = "one JSON array on stdout"},
};

static void ask(void *opaque, const char *name)
{
    struct dp_error e;
    int fd;
    /* It may end, or not serve yet, while we look: then it is not in the list. */
    if (cli_connect(name, &fd, &e))
        return;
    struct json_object *status = cli_ask(fd, "query-status", &e);
    if (status)
        json_object_array_add(opaque, status);
    close(fd);
}

static const char *text(struct json_object *o, const char *key)
{
    const char *s = json_object_get_string(json_object_object_get(o, key));
    return s ? s : "?";
}

static int list(int argc, char **argv)
{
    struct list_options o = {0};
    struct dp_error e = {0};
    int status = cli_begin(&cli_list, argc, argv, &o);
    if (status >= 0)
        return status;
    struct json_object *all = json_object_new_array();
    if (dp_rundir_each(false, ask, all, &e)) {
        fprintf(stderr, "doppel: %s\n", e.text);
        json_object_put(all);
        return EXIT_STATUS_ERROR;
    }
    size_t count = json_object_array_length(all);
    if (o.json)
        printf("%s\n", json_object_to_json_string_ext(all, JSON_C_TO_STRING_PLAIN));
    else if (count)
        printf("%-20s %8s %-8s %-10s %4s %8s %10s\n", "NAME", "PROCESS", "PHASE", "ENGINE", "CPUS", "MEMORY", "SECONDS");
    for (size_t i = 0; i < count && !o.json; i++) {
        struct json_object *vm = json_object_array_get_idx(all, i);
        printf("%-20s %8s %-8s %-10s %4s %7" PRIu64 "M %10.1f\n", text(vm, "name"), text(vm, "pid"), text(vm, "phase"), text(vm, "engine"),
               text(vm, "cpus"), json_object_get_uint64(json_object_object_get(vm, "memory")) >> 20,
               json_object_get_double(json_object_object_get(vm, "seconds")));
    }
    json_object_put(all);
    return 0;
}

const struct cli_verb cli_list = {
    .name = "list",
    .summary = "shows the named VMs that run",
    .usage = "[--json]",
    .examples = "  doppel list\n  doppel list --json\n",
    .options = options,
    .option_count = DP_ARRAY_LEN(options),
    .run = list,
};
