/* cli/balloon.c - `doppel balloon`: how much memory a named VM's guest has to use, and another amount, through its control socket. */
#include "cli/options.h"

#include <inttypes.h>
#include <json.h>
#include <time.h>
#include <unistd.h>

#include "cli/client.h"

struct balloon_options {
    const char *name, *size;
    bool json;
};
static const struct cli_operand operands[] = {
    {"NAME", offsetof(struct balloon_options, name)},
    {"SIZE", offsetof(struct balloon_options, size), .optional = true},
};
static const struct cli_option options[] = {
    {"json", 0, NULL, CLI_FLAG, offsetof(struct balloon_options, json), .help = "as JSON, sizes in bytes"},
};

static bool is_true(struct json_object *o, const char *name)
{
    struct json_object *part;
    return json_object_object_get_ex(o, name, &part) && json_object_get_boolean(part);
}

static uint64_t mib(struct json_object *o, const char *name)
{
    struct json_object *part;
    return json_object_object_get_ex(o, name, &part) ? json_object_get_uint64(part) >> 20 : 0;
}

/* To be asked for is what makes a guest count: some milliseconds later the numbers are those of now. */
static bool is_stale(struct json_object *result)
{
    struct json_object *stats, *age;
    return json_object_object_get_ex(result, "statistics", &stats) && json_object_object_get_ex(stats, "age", &age) &&
           json_object_get_double(age) > 0.5;
}

static void print(struct json_object *result)
{
    struct json_object *stats;
    printf("memory    %" PRIu64 "M of %" PRIu64 "M, target %" PRIu64 "M\n", mib(result, "actual"), mib(result, "memory"),
           mib(result, "target"));
    printf("returned  %" PRIu64 "M by the balloon, %" PRIu64 "M by reports of free pages\n", mib(result, "inflated"), mib(result, "reported"));
    if (json_object_object_get_ex(result, "statistics", &stats))
        printf("guest     %" PRIu64 "M free, %" PRIu64 "M available, %" PRIu64 "M disk caches, of %" PRIu64 "M\n", mib(stats, "free"),
               mib(stats, "available"), mib(stats, "disk_caches"), mib(stats, "total"));
    if (!is_true(result, "driver"))
        printf("          the guest has no driver for its balloon\n");
}

static int balloon(int argc, char **argv)
{
    struct balloon_options o = {0};
    struct dp_error e = {0};
    struct json_object *result = NULL;
    int fd, status = cli_begin(&cli_balloon, argc, argv, &o);
    if (status >= 0)
        return status;
    uint64_t size;
    if (o.size && dp_parse_size(o.size, &size, &e)) {
        fprintf(stderr, "doppel: SIZE: %s\n", e.text);
        return EXIT_STATUS_USAGE;
    }
    if (!cli_connect(o.name, &fd, &e)) {
        const char *const arguments[] = {"size", o.size, NULL};
        result = cli_ask_list(fd, "balloon", arguments, &e);
        for (unsigned i = 0; result && i < 10 && is_stale(result); i++) {
            nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
            json_object_put(result);
            result = cli_ask(fd, "balloon", &e);
        }
        close(fd);
    }
    if (!result) {
        fprintf(stderr, "doppel: %s\n", e.text);
        return EXIT_STATUS_ERROR;
    }
    if (o.json)
        printf("%s\n", json_object_to_json_string_ext(result, JSON_C_TO_STRING_PLAIN));
    else
        print(result);
    json_object_put(result);
    return 0;
}

const struct cli_verb cli_balloon = {
    .name = "balloon",
    .summary = "shows and sets how much memory a named VM's guest may use",
    .usage = "NAME [SIZE] [--json]",
    .examples = "  doppel balloon web                 what it has, what came back to this host, what the guest says of itself\n"
                "  doppel balloon web 256M            it shall do with this much; the rest comes back as the guest frees it\n"
                "  doppel balloon web --json\n",
    .options = options,
    .option_count = DP_ARRAY_LEN(options),
    .operands = operands,
    .operand_count = DP_ARRAY_LEN(operands),
    .run = balloon,
};
