/* cli/doctor.c - `doppel doctor`: what of doppel works on this host, what does not, and what would help. */
#include "cli/options.h"

#include <fcntl.h>
#include <inttypes.h>
#include <json.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "engine/engine.h"

struct doctor_options {
    bool json;
};
static const struct cli_option options[] = {
    {"json", 0, NULL, CLI_FLAG, offsetof(struct doctor_options, json), .help = "one JSON object on stdout"},
};

/* What /dev/kvm is. doppel has no engine for it in this version; that is told in any case. */
static void describe_kvm(char *text, size_t size)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    const char *state = fd >= 0           ? "can be opened"
                        : errno == ENOENT ? "does not exist (no virtualization here, or the module is not loaded)"
                                          : strerror(errno);
    snprintf(text, size, "/dev/kvm %s; doppel's KVM engine is not in this version", state);
    if (fd >= 0)
        close(fd);
}

static uint64_t meminfo(const char *key)
{
    char line[128];
    uint64_t kib = 0;
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key)) && line[strlen(key)] == ':')
            kib = strtoull(line + strlen(key) + 1, NULL, 10);
    if (f)
        fclose(f);
    return kib >> 10;
}

/* "model name" and those of the flags that engines care about. */
static void cpuinfo(char *model, size_t model_size, char *flags, size_t flags_size)
{
    static const char *const wanted[] = {"ssse3", "sse4_1",  "sse4_2",       "popcnt",      "cx16", "avx2", "bmi2",
                                         "adx",   "invpcid", "constant_tsc", "nonstop_tsc", "vmx",  "svm",  "hypervisor"};
    static const size_t room = 16384;
    char *line = malloc(room);
    FILE *f = fopen("/proc/cpuinfo", "re");
    snprintf(model, model_size, "unknown");
    *flags = 0;
    while (f && line && fgets(line, (int)room, f) && *line != '\n') {
        char *value = strchr(line, ':');
        if (!value)
            continue;
        value += strspn(value, ": ");
        value[strcspn(value, "\n")] = 0;
        if (!strncmp(line, "model name", 10))
            snprintf(model, model_size, "%s", value);
        if (strncmp(line, "flags", 5))
            continue;
        char *rest = value;
        for (char *word; (word = strsep(&rest, " "));)
            for (size_t i = 0; i < DP_ARRAY_LEN(wanted); i++)
                if (!strcmp(word, wanted[i])) {
                    size_t used = strlen(flags);
                    snprintf(flags + used, flags_size - used, "%s%s", used ? " " : "", word);
                }
    }
    if (f)
        fclose(f);
    free(line);
}

static int doctor(int argc, char **argv)
{
    struct doctor_options o = {0};
    struct dp_error e = {0};
    int status = cli_begin(&cli_doctor, argc, argv, &o);
    if (status >= 0)
        return status;
    char kvm[200], model[100], flags[300], why[300] = "";
    struct utsname u;
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t total = meminfo("MemTotal"), available = meminfo("MemAvailable");
    bool in = isatty(STDIN_FILENO), out = isatty(STDOUT_FILENO);
    struct json_object *root = json_object_new_object(), *engines = json_object_new_array();
    describe_kvm(kvm, sizeof kvm);
    cpuinfo(model, sizeof model, flags, sizeof flags);
    uname(&u);
    const struct dp_engine *automatic = dp_engine_choose("auto", why, sizeof why, &e);

    if (!o.json)
        printf("Engines\n");
    for (unsigned i = 0; dp_engines[i]; i++) {
        const struct dp_engine *engine = dp_engines[i];
        struct dp_error no = {0};
        bool usable = engine->probe(&no) == 0;
        const char *detail = usable ? engine->summary : no.text;
        if (!o.json) {
            printf("  %-10s %-4s %s%s\n", engine->name, usable ? "yes" : "no", detail, engine == automatic ? " [auto takes this]" : "");
            continue;
        }
        struct json_object *row = json_object_new_object();
        json_object_object_add(row, "name", json_object_new_string(engine->name));
        json_object_object_add(row, "usable", json_object_new_boolean(usable));
        json_object_object_add(row, "detail", json_object_new_string(detail));
        json_object_object_add(row, "auto", json_object_new_boolean(engine == automatic));
        json_object_array_add(engines, row);
    }
    if (!o.json) {
        printf("  %-10s %-4s %s\n\nHost\n", "kvm", "no", kvm);
        printf("  %-10s Linux %s, %s\n", "kernel", u.release, u.machine);
        printf("  %-10s %ld online, %s\n", "processors", cpus, model);
        printf("  %-10s %s\n", "flags", flags);
        printf("  %-10s %" PRIu64 "M, %" PRIu64 "M available: the most that -m can take now\n", "memory", total, available);
        printf("  %-10s stdin is %s terminal, stdout is %s terminal\n", "console", in ? "a" : "no", out ? "a" : "no");
    } else {
        struct json_object *row = json_object_new_object(), *host = json_object_new_object();
        json_object_object_add(row, "name", json_object_new_string("kvm"));
        json_object_object_add(row, "usable", json_object_new_boolean(false));
        json_object_object_add(row, "detail", json_object_new_string(kvm));
        json_object_object_add(row, "auto", json_object_new_boolean(false));
        json_object_array_add(engines, row);
        json_object_object_add(host, "kernel", json_object_new_string(u.release));
        json_object_object_add(host, "machine", json_object_new_string(u.machine));
        json_object_object_add(host, "processors", json_object_new_int64(cpus));
        json_object_object_add(host, "model", json_object_new_string(model));
        json_object_object_add(host, "flags", json_object_new_string(flags));
        json_object_object_add(host, "memory_mib", json_object_new_int64((int64_t)total));
        json_object_object_add(host, "memory_available_mib", json_object_new_int64((int64_t)available));
        json_object_object_add(host, "stdin_terminal", json_object_new_boolean(in));
        json_object_object_add(host, "stdout_terminal", json_object_new_boolean(out));
        json_object_object_add(root, "version", json_object_new_string(DOPPEL_VERSION));
        json_object_object_add(root, "engines", json_object_get(engines));
        json_object_object_add(root, "host", host);
        printf("%s\n", json_object_to_json_string_ext(root, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED));
    }
    json_object_put(engines);
    json_object_put(root);
    return automatic ? 0 : EXIT_STATUS_ERROR;
}

const struct cli_verb cli_doctor = {
    .name = "doctor",
    .summary = "says which engines are usable on this host, and why others are not",
    .usage = "[--json]",
    .examples = "  doppel doctor\n  doppel doctor --json\n",
    .options = options,
    .option_count = DP_ARRAY_LEN(options),
    .run = doctor,
};
