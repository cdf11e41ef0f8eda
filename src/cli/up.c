/* cli/up.c - `doppel up`, `down` and `config`: what doppel.yaml (config.h) describes is started, stopped, checked and shown.
 *
 * A VM or a network is a process of its own, `doppel run --name NAME ...` or `doppel network create NAME ...`, started by this program with
 * the file's folder as its working directory, so that relative names are relative to the file. Networks come first and go last. Nothing is
 * remembered: what runs is found by its name, so `up` starts only what is not there.
 * A VM's messages and its first serial port go to a file in the folder of running VMs, .NAME.log.
 */
#include <fcntl.h>
#include <json.h>
#include <libgen.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/config.h"
#include "control/rundir.h"

enum { NAMES = 16, START_MS = 60000, STOP_MS = 30000, END_MS = 15000, STEP_MS = 20 };

struct up_options {
    const char *file, *name[NAMES];
    uint64_t timeout_ms;
    bool force, json;
};
#define NAME_OPERAND(i)                                                                                                                    \
    {                                                                                                                                      \
        "NAME", offsetof(struct up_options, name) + (i) * sizeof(const char *), true                                                       \
    }
static const struct cli_operand names[NAMES] = {NAME_OPERAND(0),  NAME_OPERAND(1),  NAME_OPERAND(2),  NAME_OPERAND(3),
                                                NAME_OPERAND(4),  NAME_OPERAND(5),  NAME_OPERAND(6),  NAME_OPERAND(7),
                                                NAME_OPERAND(8),  NAME_OPERAND(9),  NAME_OPERAND(10), NAME_OPERAND(11),
                                                NAME_OPERAND(12), NAME_OPERAND(13), NAME_OPERAND(14), NAME_OPERAND(15)};
#define OPTION_FILE                                                                                                                        \
    {                                                                                                                                      \
        "file", 'f', "FILE", CLI_STRING, offsetof(struct up_options, file), .help = "what to read (doppel.yaml)"                           \
    }

static int fail(const struct dp_error *e)
{
    fprintf(stderr, "doppel: %s\n", e->text);
    return EXIT_STATUS_ERROR;
}

static const char *file_of(const struct up_options *o) { return o->file ? o->file : "doppel.yaml"; }

static void pause_ms(unsigned ms) { nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000l}, NULL); }

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- which of them ---- */

static struct cli_config_thing *find(struct cli_config_thing *const *all, unsigned count, const char *name)
{
    for (unsigned i = 0; i < count; i++)
        if (!strcmp(all[i]->name, name))
            return all[i];
    return NULL;
}

/* Does a VM have a card in this network? */
static bool needs(const struct cli_config_thing *vm, const char *network)
{
    static const char nic[] = "--nic=network=";
    for (unsigned i = 0; i < vm->count; i++) {
        const char *text = vm->argument[i].text;
        size_t n = strcspn(text, ",");
        if (!strncmp(text, nic, sizeof nic - 1) && n - (sizeof nic - 1) == strlen(network) &&
            !strncmp(text + sizeof nic - 1, network, strlen(network)))
            return true;
    }
    return false;
}

struct chosen {
    bool vm[CLI_CONFIG_THINGS], network[CLI_CONFIG_THINGS];
};

/* All, or those named; with those that they need if asked for. */
static int choose(const struct up_options *o, const struct cli_config *c, bool with_networks, struct chosen *out, struct dp_error *e)
{
    *out = (struct chosen){0};
    for (unsigned i = 0; i < NAMES && o->name[i]; i++)
        if (!find(c->vm, c->vms, o->name[i]) && !find(c->network, c->networks, o->name[i]))
            return dp_error_set(e, -ENOENT, "%s: there is no VM and no network '%s'", c->file, o->name[i]);
    for (unsigned i = 0; i < c->vms; i++) {
        out->vm[i] = !o->name[0];
        for (unsigned k = 0; k < NAMES && o->name[k]; k++)
            out->vm[i] |= !strcmp(o->name[k], c->vm[i]->name);
    }
    for (unsigned i = 0; i < c->networks; i++) {
        out->network[i] = !o->name[0];
        for (unsigned k = 0; k < NAMES && o->name[k]; k++)
            out->network[i] |= !strcmp(o->name[k], c->network[i]->name);
        for (unsigned k = 0; with_networks && k < c->vms; k++)
            out->network[i] |= out->vm[k] && needs(c->vm[k], c->network[i]->name);
    }
    return 0;
}

/* ---- those that run ---- */

static void place_of(char *to, size_t size, bool network, const char *name) { snprintf(to, size, "%s%s", network ? "@" : "", name); }

/* A connection to its control socket; -1: it does not run. */
static int reach(bool network, const char *name)
{
    char place[DP_RUNDIR_NAME_MAX + 2];
    struct dp_error e;
    int fd;
    place_of(place, sizeof place, network, name);
    return cli_connect(place, &fd, &e) ? -1 : fd;
}

static bool command(bool network, const char *name, const char *what)
{
    struct dp_error e;
    int fd = reach(network, name);
    if (fd < 0)
        return false;
    struct json_object *o = cli_ask(fd, what, &e);
    close(fd);
    json_object_put(o);
    return o;
}

static bool runs(const char *vm)
{
    struct dp_error e;
    int fd = reach(false, vm);
    if (fd < 0)
        return false;
    struct json_object *o = cli_ask(fd, "query-status", &e);
    const char *phase = json_object_get_string(json_object_object_get(o, "phase"));
    bool yes = phase && (!strcmp(phase, "running") || !strcmp(phase, "paused"));
    json_object_put(o);
    close(fd);
    return yes;
}

/* ---- starting ---- */

/* The file that a VM's messages go to, in a folder that is the user's own. */
static int log_path(const char *name, char *to, size_t size, struct dp_error *e)
{
    int rc = dp_rundir_socket(name, to, size - 16, e);
    if (rc)
        return rc;
    for (unsigned i = 0; i < 2; i++)
        *strrchr(to, '/') = 0; /* NAME/control */
    struct stat st;
    if ((mkdir(to, 0700) && errno != EEXIST) || lstat(to, &st))
        return dp_error_set(e, -errno, "%s: %s", to, strerror(errno));
    if (!S_ISDIR(st.st_mode) || st.st_uid != geteuid() || st.st_mode & 077)
        return dp_error_set(e, -EPERM, "%s is not a folder of yours alone: remove it, or set XDG_RUNTIME_DIR to another place", to);
    size_t n = strlen(to);
    return snprintf(to + n, size - n, "/.%s.log", name) < (int)(size - n) ? 0
                                                                          : dp_error_set(e, -ENAMETOOLONG, "XDG_RUNTIME_DIR is too long");
}

/* The last line of a text, which a program that ended said. */
static void last_words(int fd, char *to, size_t size)
{
    char text[400];
    off_t end = lseek(fd, 0, SEEK_END);
    ssize_t n = pread(fd, text, sizeof text - 1, end > (off_t)sizeof text ? end - (off_t)sizeof text + 1 : 0);
    text[n > 0 ? n : 0] = 0;
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == '\r'))
        text[--n] = 0;
    const char *line = strrchr(text, '\n');
    line = line ? line + 1 : text;
    snprintf(to, size, "%s", !strncmp(line, "doppel: ", 8) ? line + 8 : *line ? line : "it said nothing");
}

/* Runs this program in the file's folder; stdout and stderr go to `out`. -1: not. */
static pid_t start(const struct cli_config *c, const char *const *argv, int out)
{
    pid_t child = fork();
    if (child)
        return child;
    char *file = strdup(c->file);
    int null = open("/dev/null", O_RDWR);
    setsid();
    if (file && null >= 0 && !chdir(dirname(file)) && dup2(null, 0) == 0 && dup2(out, 1) == 1 && dup2(out, 2) == 2)
        execv("/proc/self/exe", (char *const *)argv);
    dprintf(out, "doppel: cannot start in the folder of %s: %s\n", c->file, strerror(errno));
    _exit(EXIT_STATUS_ERROR);
}

/* words, the thing's options, and its operands. */
static void make_argv(const struct cli_config_thing *t, const char *const *words, const char **argv)
{
    unsigned n = 0;
    while (*words)
        argv[n++] = *words++;
    for (unsigned i = 0; i < t->count; i++)
        if (t->argument[i].text[0] == '-')
            argv[n++] = t->argument[i].text;
    argv[n++] = "--";
    for (unsigned i = 0; i < t->count; i++)
        if (t->argument[i].text[0] != '-')
            argv[n++] = t->argument[i].text;
    argv[n] = NULL;
}

static int start_vm(const struct cli_config *c, const struct cli_config_thing *t, struct dp_error *e)
{
    const char *argv[CLI_CONFIG_ARGUMENTS + 8];
    char log[DP_RUNDIR_PATH_MAX + 64], words[400];
    int status, rc = log_path(t->name, log, sizeof log, e);
    if (runs(t->name)) {
        printf("%s runs already\n", t->name);
        return 0;
    }
    int fd = rc ? -1 : open(log, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (rc || fd < 0)
        return rc ? rc : dp_error_set(e, -errno, "%s: %s", log, strerror(errno));
    make_argv(t, (const char *const[]){"doppel", "run", "--name", t->name, NULL}, argv);
    pid_t child = start(c, argv, fd);
    uint64_t end = now_ms() + START_MS;
    rc = child < 0 ? dp_error_set(e, -errno, "cannot start a process: %s", strerror(errno)) : -EAGAIN;
    while (rc == -EAGAIN) {
        if (waitpid(child, &status, WNOHANG) == child) {
            last_words(fd, words, sizeof words);
            rc = WIFEXITED(status) && !WEXITSTATUS(status)
                     ? 0
                     : dp_error_set(e, -ECHILD, "%s:%u: vms.%s: %s", c->file, t->line, t->name, words);
            if (!rc)
                printf("%s has ended already, with status 0 (%s)\n", t->name, log);
        } else if (runs(t->name)) {
            rc = 0;
            printf("%s runs (%s)\n", t->name, log);
        } else if (now_ms() > end) {
            rc = dp_error_set(e, -ETIMEDOUT, "%s:%u: vms.%s: it does not come up; see %s", c->file, t->line, t->name, log);
        } else {
            pause_ms(STEP_MS);
        }
    }
    close(fd);
    return rc;
}

static bool has_port(struct json_object *about, const char *name, size_t size)
{
    struct json_object *ports = json_object_object_get(about, "ports");
    for (size_t i = 0; i < json_object_array_length(ports); i++) {
        const char *one = json_object_get_string(json_object_object_get(json_object_array_get_idx(ports, i), "name"));
        if (one && strlen(one) == size && !strncmp(one, name, size))
            return true;
    }
    return false;
}

/* A network that runs gets the ports and groups that the file has, and the uplinks that it lacks. */
static int update_network(const struct cli_config *c, const struct cli_config_thing *t, int fd, struct dp_error *e)
{
    static const struct {
        const char *option, *command, *name, *value;
    } kinds[] = {
        {"--group=", "group", "group", "rules"}, {"--port=", "declare", "port", "options"}, {"--uplink=", "uplink", "port", "what"}};
    struct json_object *about = cli_ask(fd, "inspect", e);
    int rc = about ? 0 : -EIO;
    for (unsigned k = 0; k < DP_ARRAY_LEN(kinds); k++)
        for (unsigned i = 0; !rc && i < t->count; i++) {
            const struct cli_config_argument *a = &t->argument[i];
            size_t skip = strlen(kinds[k].option);
            char name[64];
            const char *value = strncmp(a->text, kinds[k].option, skip) ? NULL : strchr(a->text + skip, '=');
            if (!value || (size_t)(value - a->text) - skip >= sizeof name ||
                (k == 2 && has_port(about, a->text + skip, (size_t)(value - a->text) - skip)))
                continue;
            snprintf(name, sizeof name, "%.*s", (int)(value - a->text - (ptrdiff_t)skip), a->text + skip);
            struct json_object *o =
                cli_ask_list(fd, kinds[k].command, (const char *const[]){kinds[k].name, name, kinds[k].value, value + 1, NULL}, e);
            if (!o)
                rc = dp_error_prefix(e, -EINVAL, "%s:%u: networks.%s.%ss.%s", c->file, a->line, t->name, k ? kinds[k].option + 2 : "group",
                                     name);
            json_object_put(o);
        }
    json_object_put(about);
    return rc;
}

static int start_network(const struct cli_config *c, const struct cli_config_thing *t, struct dp_error *e)
{
    const char *argv[CLI_CONFIG_ARGUMENTS + 8];
    char said[4096], *words = said;
    int out[2], status, fd = reach(true, t->name), rc;
    if (fd >= 0) {
        rc = update_network(c, t, fd, e);
        close(fd);
        if (!rc)
            printf("network %s runs already\n", t->name);
        return rc;
    }
    if (pipe2(out, O_CLOEXEC))
        return dp_error_set(e, -errno, "no pipe: %s", strerror(errno));
    make_argv(t, (const char *const[]){"doppel", "network", "create", NULL}, argv);
    unsigned n = 0;
    while (argv[n])
        n++;
    argv[n] = t->name;
    argv[n + 1] = NULL;
    pid_t child = start(c, argv, out[1]);
    close(out[1]);
    size_t size = 0;
    ssize_t got;
    while (child > 0 && size < sizeof said - 1 && (got = read(out[0], said + size, sizeof said - 1 - size)) > 0)
        size += (size_t)got;
    close(out[0]);
    said[size] = 0;
    said[strcspn(said, "\n")] = 0;
    words += strncmp(words, "doppel: ", 8) ? 0 : 8;
    if (child < 0 || waitpid(child, &status, 0) < 0 || !WIFEXITED(status) || WEXITSTATUS(status))
        return dp_error_set(e, -ECHILD, "%s:%u: networks.%s: %.400s", c->file, t->line, t->name,
                            *words ? words : "it could not be started");
    printf("network %s runs\n", t->name);
    return 0;
}

static int up(int argc, char **argv)
{
    struct up_options o = {0};
    struct dp_error e = {0};
    struct cli_config *c = NULL;
    struct chosen what;
    int status = cli_begin(&cli_up, argc, argv, &o);
    if (status >= 0)
        return status;
    if (cli_config_read(file_of(&o), &cli_run, &cli_network_create, &c, &e) || choose(&o, c, true, &what, &e)) {
        cli_config_destroy(c);
        fail(&e);
        return EXIT_STATUS_USAGE;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    int rc = 0;
    for (unsigned i = 0; !rc && i < c->networks; i++)
        if (what.network[i])
            rc = start_network(c, c->network[i], &e);
    for (unsigned i = 0; !rc && i < c->vms; i++)
        if (what.vm[i])
            rc = start_vm(c, c->vm[i], &e);
    cli_config_destroy(c);
    return rc ? fail(&e) : 0;
}

/* ---- stopping ---- */

/* Waits until none of them can be reached; how many still can. */
static unsigned wait_gone(bool network, struct cli_config_thing *const *all, unsigned count, bool *which, uint64_t ms)
{
    uint64_t end = now_ms() + ms;
    for (;;) {
        unsigned left = 0;
        for (unsigned i = 0; i < count; i++) {
            int fd = which[i] ? reach(network, all[i]->name) : -1;
            which[i] = fd >= 0;
            left += which[i];
            if (fd >= 0)
                close(fd);
        }
        if (!left || now_ms() >= end)
            return left;
        pause_ms(STEP_MS * 5);
    }
}

static int down(int argc, char **argv)
{
    struct up_options o = {.timeout_ms = STOP_MS};
    struct dp_error e = {0};
    struct cli_config *c = NULL;
    struct chosen what;
    int status = cli_begin(&cli_down, argc, argv, &o);
    if (status >= 0)
        return status;
    if (cli_config_read(file_of(&o), &cli_run, &cli_network_create, &c, &e) || choose(&o, c, false, &what, &e)) {
        cli_config_destroy(c);
        fail(&e);
        return EXIT_STATUS_USAGE;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    bool ran[CLI_CONFIG_THINGS], ran_network[CLI_CONFIG_THINGS];
    for (unsigned i = 0; i < c->vms; i++)
        what.vm[i] = what.vm[i] && command(false, c->vm[i]->name, o.force ? "quit" : "powerdown");
    memcpy(ran, what.vm, sizeof ran);
    unsigned left = wait_gone(false, c->vm, c->vms, what.vm, o.force ? END_MS : o.timeout_ms);
    for (unsigned i = 0; left && i < c->vms; i++)
        if (what.vm[i] && command(false, c->vm[i]->name, "quit"))
            printf("%s did not end by itself\n", c->vm[i]->name);
    left = left ? wait_gone(false, c->vm, c->vms, what.vm, END_MS) : 0;
    for (unsigned i = 0; i < c->vms; i++)
        if (ran[i] && !what.vm[i])
            printf("%s has ended\n", c->vm[i]->name);
    for (unsigned i = 0; i < c->networks; i++)
        what.network[i] = what.network[i] && command(true, c->network[i]->name, "quit");
    memcpy(ran_network, what.network, sizeof ran_network);
    left += wait_gone(true, c->network, c->networks, what.network, END_MS);
    for (unsigned i = 0; i < c->networks; i++)
        if (ran_network[i] && !what.network[i])
            printf("network %s has ended\n", c->network[i]->name);
    cli_config_destroy(c);
    if (left) {
        dp_error_set(&e, -EBUSY, "%u of them did not end; see `doppel list` and `doppel network ls`", left);
        return fail(&e);
    }
    return 0;
}

/* ---- check and show ---- */

static void print_word(const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=./,:+@%";
    if (*word && strspn(word, plain) == strlen(word)) {
        printf(" %s", word);
        return;
    }
    printf(" '");
    for (; *word; word++)
        printf(*word == '\'' ? "'\\''" : "%c", *word);
    printf("'");
}

static void show_one(const struct cli_config_thing *t, const char *const *words, const char *last)
{
    const char *argv[CLI_CONFIG_ARGUMENTS + 8];
    make_argv(t, words, argv);
    printf("%s", argv[0]);
    for (unsigned i = 1; argv[i]; i++)
        if (strcmp(argv[i], "--") || argv[i + 1])
            print_word(argv[i]);
    if (last)
        print_word(last);
    printf("\n");
}

static struct json_object *things_json(struct cli_config_thing *const *all, unsigned count)
{
    struct json_object *list = json_object_new_array();
    for (unsigned i = 0; i < count; i++) {
        struct json_object *o = json_object_new_object(), *arguments = json_object_new_array();
        json_object_object_add(o, "name", json_object_new_string(all[i]->name));
        json_object_object_add(o, "line", json_object_new_int64(all[i]->line));
        for (unsigned k = 0; k < all[i]->count; k++) {
            struct json_object *a = json_object_new_object();
            json_object_object_add(a, "text", json_object_new_string(all[i]->argument[k].text));
            json_object_object_add(a, "line", json_object_new_int64(all[i]->argument[k].line));
            json_object_array_add(arguments, a);
        }
        json_object_object_add(o, "arguments", arguments);
        json_object_array_add(list, o);
    }
    return list;
}

static const struct cli_option check_option[] = {OPTION_FILE};
static const struct cli_option show_option[] = {
    OPTION_FILE,
    {"json", 0, NULL, CLI_FLAG, offsetof(struct up_options, json),
     .help = "one JSON object: each argument with the line that it came from"},
};

static int config_check(int argc, char **argv);
static int config_show(int argc, char **argv);
static const struct cli_verb verb_check = {.name = "config check",
                                           .summary = "says whether doppel.yaml is good, and if not, where",
                                           .usage = "[-f FILE]",
                                           .examples = "  doppel config check\n  doppel config check -f lab.yaml\n",
                                           .options = check_option,
                                           .option_count = DP_ARRAY_LEN(check_option),
                                           .run = config_check};
static const struct cli_verb verb_show = {.name = "config show",
                                          .summary = "shows what `doppel up` would call",
                                          .usage = "[-f FILE] [--json]",
                                          .examples = "  doppel config show\n  doppel config show --json -f lab.yaml\n",
                                          .options = show_option,
                                          .option_count = DP_ARRAY_LEN(show_option),
                                          .run = config_show};

/* -1: go on. */
static int begin(const struct cli_verb *verb, int argc, char **argv, struct up_options *o, struct cli_config **c)
{
    struct dp_error e = {0};
    int status = cli_begin(verb, argc, argv, o);
    if (status >= 0)
        return status;
    if (!cli_config_read(file_of(o), &cli_run, &cli_network_create, c, &e))
        return -1;
    fail(&e);
    return EXIT_STATUS_USAGE;
}

static int config_check(int argc, char **argv)
{
    struct up_options o = {0};
    struct cli_config *c = NULL;
    int status = begin(&verb_check, argc, argv, &o, &c);
    if (status >= 0)
        return status;
    printf("%s: good: %u VM%s, %u network%s\n", c->file, c->vms, c->vms == 1 ? "" : "s", c->networks, c->networks == 1 ? "" : "s");
    cli_config_destroy(c);
    return 0;
}

static int config_show(int argc, char **argv)
{
    struct up_options o = {0};
    struct cli_config *c = NULL;
    int status = begin(&verb_show, argc, argv, &o, &c);
    if (status >= 0)
        return status;
    if (o.json) {
        struct json_object *all = json_object_new_object();
        json_object_object_add(all, "file", json_object_new_string(c->file));
        json_object_object_add(all, "networks", things_json(c->network, c->networks));
        json_object_object_add(all, "vms", things_json(c->vm, c->vms));
        printf("%s\n", json_object_to_json_string_ext(all, JSON_C_TO_STRING_PLAIN));
        json_object_put(all);
    } else {
        for (unsigned i = 0; i < c->networks; i++)
            show_one(c->network[i], (const char *const[]){"doppel", "network", "create", NULL}, c->network[i]->name);
        for (unsigned i = 0; i < c->vms; i++)
            show_one(c->vm[i], (const char *const[]){"doppel", "run", "--name", c->vm[i]->name, NULL}, NULL);
    }
    cli_config_destroy(c);
    return 0;
}

static const struct cli_verb *const config_verbs[] = {&verb_check, &verb_show};
static int config(int argc, char **argv) { return cli_family(&cli_config_verb, config_verbs, DP_ARRAY_LEN(config_verbs), argc, argv); }

const struct cli_verb cli_config_verb = {
    .name = "config",
    .summary = "checks and shows doppel.yaml",
    .usage = "check|show [OPTION]...",
    .examples = "  doppel config check\n  doppel config show\n",
    .run = config,
};

static void about_file(FILE *to)
{
    fprintf(to, "\ndoppel.yaml: keys are the options of `doppel run` and `doppel network create`.\n"
                "  networks:\n"
                "    lan:\n"
                "      ports: {db: {vlan: 20, isolated: true}}\n"
                "  vms:\n"
                "    web:\n"
                "      file: web.qcow2                     # relative to this file\n"
                "      memory: 1G\n"
                "      disks: [{file: data.qcow2, format: qcow2, cache: none}]\n"
                "      nics: [{network: lan, vlan: 10}]\n");
}

static const struct cli_option up_option[] = {OPTION_FILE};
const struct cli_verb cli_up = {
    .name = "up",
    .summary = "starts the networks and VMs that doppel.yaml describes",
    .usage = "[-f FILE] [NAME]...",
    .examples = "  doppel up                       all of doppel.yaml that does not run yet\n"
                "  doppel up web db                two of its VMs, and the networks that they need\n"
                "  doppel up -f lab.yaml\n",
    .options = up_option,
    .option_count = DP_ARRAY_LEN(up_option),
    .operands = names,
    .operand_count = NAMES,
    .more_help = about_file,
    .run = up,
};

static const struct cli_option down_option[] = {
    OPTION_FILE,
    {"timeout", 't', "SECONDS", CLI_SECONDS, offsetof(struct up_options, timeout_ms),
     .help = "how long guests may take to end by themselves, after their power button was pressed (30)"},
    {"force", 0, NULL, CLI_FLAG, offsetof(struct up_options, force), .help = "guests are not asked"},
};
const struct cli_verb cli_down = {
    .name = "down",
    .summary = "stops the VMs and networks that doppel.yaml describes",
    .usage = "[OPTION]... [NAME]...",
    .examples = "  doppel down                     guests are asked to end, then made to\n  doppel down -t 120 db\n  doppel down --force\n",
    .options = down_option,
    .option_count = DP_ARRAY_LEN(down_option),
    .operands = names,
    .operand_count = NAMES,
    .run = down,
};
