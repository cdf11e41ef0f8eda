/* cli/stats.c - `doppel stats`: what the engine of a running VM counted, by processor: totals since its start, or rates over intervals.
 *
 * What is counted is the VM's to say: rows come from its reply, so an older or newer doppel can be asked too.
 */
#include "cli/options.h"

#include <inttypes.h>
#include <json.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "cli/client.h"
#include "engine/engine.h"

struct stats_options {
    const char *name;
    bool json;
    uint64_t interval_ms, count;
};
static const struct cli_operand operands[] = {{"NAME", offsetof(struct stats_options, name)}};
static const struct cli_option options[] = {
    {"interval", 'i', "SECONDS", CLI_SECONDS, offsetof(struct stats_options, interval_ms),
     .help = "rates per second, again and again, until the VM ends"},
    {"count", 'c', "N", CLI_UINT, offsetof(struct stats_options, count), .min = 1, .max = UINT32_MAX,
     .help = "with --interval: end after N of them"},
    {"json", 0, NULL, CLI_FLAG, offsetof(struct stats_options, json),
     .help = "JSON on stdout, one object per line; with --interval it has rates too"},
};

enum { COLUMNS = 6, WIDTH = 14 }; /* of processors side by side */

static void more_help(FILE *to)
{
    fprintf(to, "\nCounters (an engine shows those it has):\n");
    for (unsigned i = 0; i < DP_ENGINE_COUNTER_COUNT; i++)
        fprintf(to, "  %-34s %s\n", dp_engine_counter_list[i].name, dp_engine_counter_list[i].help);
}

/* ---- numbers in a reply; what is missing counts as 0 ---- */

static struct json_object *cpu_of(struct json_object *stats, size_t i)
{
    struct json_object *cpus = json_object_object_get(stats, "cpus");
    size_t count = json_object_is_type(cpus, json_type_array) ? json_object_array_length(cpus) : 0;
    return i < count ? json_object_array_get_idx(cpus, i) : i == count ? json_object_object_get(stats, "total") : NULL;
}

static size_t columns_of(struct json_object *stats)
{
    struct json_object *cpus = json_object_object_get(stats, "cpus");
    return 1 + (json_object_is_type(cpus, json_type_array) ? json_object_array_length(cpus) : 0);
}

static struct json_object *number(struct json_object *column, const char *counter)
{
    struct json_object *counters = json_object_object_get(column, counter ? "counters" : "cpu_seconds");
    return counter ? json_object_object_get(counters, counter) : counters;
}

static double rate(struct json_object *now, struct json_object *before, double seconds)
{
    return (json_object_get_double(now) - json_object_get_double(before)) / seconds;
}

/* ---- text ---- */

static void cell(struct json_object *now, struct json_object *before, double seconds)
{
    if (seconds > 0) {
        double r = rate(now, before, seconds);
        printf(" %*.*f", WIDTH, r < 100 ? 2 : 0, r);
    } else if (json_object_is_type(now, json_type_double)) {
        printf(" %*.2f", WIDTH, json_object_get_double(now));
    } else {
        printf(" %*" PRIu64, WIDTH, json_object_get_uint64(now));
    }
}

/* One row over columns first..end; seconds 0: totals. Rows of zeros say nothing and are left out. counter NULL: processor time. */
static void row(struct json_object *stats, struct json_object *before, double seconds, const char *counter, size_t first, size_t end)
{
    bool any = !counter;
    for (size_t i = 0; i < columns_of(stats) && !any; i++) {
        double v = json_object_get_double(number(cpu_of(stats, i), counter));
        any = seconds > 0 ? v != json_object_get_double(number(cpu_of(before, i), counter)) : v != 0;
    }
    if (!any)
        return;
    printf("%-22s", counter ? counter : "cpu_seconds");
    for (size_t i = first; i < end; i++)
        cell(number(cpu_of(stats, i), counter), number(cpu_of(before, i), counter), seconds);
    printf("\n");
}

static void print_text(struct json_object *stats, struct json_object *before, double seconds)
{
    size_t columns = columns_of(stats);
    const char *engine = json_object_get_string(json_object_object_get(stats, "engine"));
    printf("%s: process %d, engine %s, up %.1f s", json_object_get_string(json_object_object_get(stats, "name")),
           json_object_get_int(json_object_object_get(stats, "pid")), engine ? engine : "?",
           json_object_get_double(json_object_object_get(stats, "seconds")));
    if (seconds > 0)
        printf("; per second, over %.2f s", seconds);
    printf("\n");
    for (size_t first = 0; first < columns; first += COLUMNS) {
        size_t end = DP_MIN(columns, first + COLUMNS);
        printf("%-22s", "");
        for (size_t i = first; i < end; i++) {
            char title[32] = "total";
            if (i + 1 < columns)
                snprintf(title, sizeof title, "cpu%zu%s", i,
                         json_object_get_boolean(json_object_object_get(cpu_of(stats, i), "halted")) ? " halted" : "");
            printf(" %*s", WIDTH, title);
        }
        printf("\n");
        row(stats, before, seconds, NULL, first, end);
        struct json_object *total = json_object_object_get(cpu_of(stats, columns - 1), "counters");
        if (json_object_is_type(total, json_type_object)) {
            json_object_object_foreach(total, key, value)
            {
                (void)value;
                row(stats, before, seconds, key, first, end);
            }
        }
    }
    fflush(stdout);
}

/* ---- JSON ---- */

static void add_rates(struct json_object *stats, struct json_object *before, double seconds)
{
    for (size_t i = 0; i < columns_of(stats); i++) {
        struct json_object *column = cpu_of(stats, i), *counters = json_object_object_get(column, "counters");
        struct json_object *rates = json_object_new_object();
        json_object_object_add(rates, "cpu_seconds",
                               json_object_new_double(rate(number(column, NULL), number(cpu_of(before, i), NULL), seconds)));
        if (json_object_is_type(counters, json_type_object)) {
            json_object_object_foreach(counters, key, value)
                json_object_object_add(rates, key, json_object_new_double(rate(value, number(cpu_of(before, i), key), seconds)));
        }
        json_object_object_add(column, "rates", rates);
    }
    json_object_object_add(stats, "interval", json_object_new_double(seconds));
}

static void print_json(struct json_object *stats)
{
    printf("%s\n", json_object_to_json_string_ext(stats, JSON_C_TO_STRING_PLAIN));
    fflush(stdout);
}

/* ---- the verb ---- */

static double host_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Until the VM ends, count is reached, or nobody reads. */
static int repeat(const struct stats_options *o, int fd, struct json_object *before, struct dp_error *e)
{
    double then = host_seconds();
    const struct timespec interval = {(time_t)(o->interval_ms / 1000), (long)(o->interval_ms % 1000) * 1000000};
    for (uint64_t n = 0; !o->count || n < o->count; n++) {
        nanosleep(&interval, NULL);
        struct json_object *stats = cli_ask(fd, "stats", e);
        if (!stats) {
            json_object_put(before);
            return e->code;
        }
        double now = host_seconds();
        if (o->json) {
            struct json_object *shown = NULL;
            json_object_deep_copy(stats, &shown, NULL);
            add_rates(shown, before, now - then);
            print_json(shown);
            json_object_put(shown);
        } else {
            print_text(stats, before, now - then);
        }
        json_object_put(before);
        before = stats;
        then = now;
        if (ferror(stdout))
            break;
    }
    json_object_put(before);
    return 0;
}

static int stats(int argc, char **argv)
{
    struct stats_options o = {0};
    struct dp_error e = {0};
    struct json_object *first = NULL;
    int fd, rc, status = cli_begin(&cli_stats, argc, argv, &o);
    if (status >= 0)
        return status;
    if (o.count && !o.interval_ms) {
        fprintf(stderr, "doppel: --count needs --interval\n");
        return EXIT_STATUS_USAGE;
    }
    rc = cli_connect(o.name, &fd, &e);
    if (!rc) {
        first = cli_ask(fd, "stats", &e);
        rc = first ? 0 : e.code;
        if (!rc && o.interval_ms) {
            rc = repeat(&o, fd, first, &e);
        } else if (!rc) {
            if (o.json)
                print_json(first);
            else
                print_text(first, NULL, 0);
            json_object_put(first);
        }
        close(fd);
    }
    if (rc)
        fprintf(stderr, "doppel: %s\n", e.text);
    return !rc || (rc == -EPIPE && o.interval_ms) ? 0 : EXIT_STATUS_ERROR;
}

const struct cli_verb cli_stats = {
    .name = "stats",
    .summary = "shows what the engine of a named VM counts",
    .usage = "NAME [OPTION]...",
    .examples = "  doppel stats web                          counters since the start, by processor\n"
                "  doppel stats web --interval 1             rates, every second\n"
                "  doppel stats web --json | jq .total\n",
    .options = options,
    .option_count = DP_ARRAY_LEN(options),
    .operands = operands,
    .operand_count = DP_ARRAY_LEN(operands),
    .more_help = more_help,
    .run = stats,
};
