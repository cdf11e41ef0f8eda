/* cli/network.c - `doppel network`: networks, their ports, captures. One that runs is asked by its control socket. */
#include "cli/network.h"

#include <fcntl.h>
#include <inttypes.h>
#include <json.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/nic.h"
#include "control/rundir.h"
#include "net/capture.h"
#include "net/network.h"

/* A command to a network; its result, or NULL after telling why not. */
static struct json_object *ask(const char *network, const char *command, const char *const *arguments)
{
    char name[DP_RUNDIR_NAME_MAX + 2];
    struct dp_error e = {0};
    struct json_object *result = NULL;
    int fd;
    if (!dp_rundir_check_name(network, &e)) {
        snprintf(name, sizeof name, "%c%s", DP_RUNDIR_NETWORK, network);
        if (!cli_connect(name, &fd, &e)) {
            result = cli_ask_list(fd, command, arguments, &e);
            close(fd);
        }
    }
    if (!result)
        fprintf(stderr, "doppel: %s\n", e.text);
    return result;
}

static int tell(const char *network, const char *command, const char *const *arguments)
{
    struct json_object *o = ask(network, command, arguments);
    json_object_put(o);
    return o ? 0 : EXIT_STATUS_ERROR;
}

static void print_json(struct json_object *o) { printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN)); }

static const char *text(struct json_object *o, const char *key)
{
    const char *s = json_object_get_string(json_object_object_get(o, key));
    return s ? s : "";
}

/* ---- ls ---- */

struct json_flag {
    bool json;
};
static const struct cli_option json_option[] = {
    {"json", 0, NULL, CLI_FLAG, offsetof(struct json_flag, json), .help = "JSON on stdout"},
};

static void add_one(void *opaque, const char *name)
{
    char place[DP_RUNDIR_NAME_MAX + 2];
    struct dp_error e;
    int fd;
    snprintf(place, sizeof place, "%c%s", DP_RUNDIR_NETWORK, name);
    if (cli_connect(place, &fd, &e)) /* it may end, or not serve yet, while we look */
        return;
    struct json_object *o = cli_ask(fd, "inspect", &e);
    if (o)
        json_object_array_add(opaque, o);
    close(fd);
}

static int ls(int argc, char **argv);
static const struct cli_verb verb_ls = {.name = "network ls",
                                        .summary = "networks of this user",
                                        .usage = "[--json]",
                                        .examples = "  doppel network ls\n",
                                        .options = json_option,
                                        .option_count = DP_ARRAY_LEN(json_option),
                                        .run = ls};

static int ls(int argc, char **argv)
{
    struct json_flag o = {0};
    struct dp_error e = {0};
    int status = cli_begin(&verb_ls, argc, argv, &o);
    if (status >= 0)
        return status;
    struct json_object *all = json_object_new_array();
    if (dp_rundir_each(true, add_one, all, &e)) {
        fprintf(stderr, "doppel: %s\n", e.text);
        json_object_put(all);
        return EXIT_STATUS_ERROR;
    }
    size_t count = json_object_array_length(all);
    if (o.json)
        print_json(all);
    else if (count)
        printf("%-20s %8s %6s %6s\n", "NAME", "PROCESS", "PORTS", "MTU");
    for (size_t i = 0; i < count && !o.json; i++) {
        struct json_object *n = json_object_array_get_idx(all, i);
        printf("%-20s %8s %6zu %6s\n", text(n, "name"), text(n, "pid"), json_object_array_length(json_object_object_get(n, "ports")),
               text(n, "mtu"));
    }
    json_object_put(all);
    return 0;
}

/* ---- inspect ---- */

struct inspect_options {
    struct json_flag json;
    const char *name;
};
static const struct cli_operand inspect_operands[] = {{"NAME", offsetof(struct inspect_options, name)}};

static int inspect(int argc, char **argv);
static const struct cli_verb verb_inspect = {.name = "network inspect",
                                             .summary = "a network's ports, their options and counters",
                                             .usage = "[--json] NAME",
                                             .examples = "  doppel network inspect lan\n",
                                             .options = json_option,
                                             .option_count = DP_ARRAY_LEN(json_option),
                                             .operands = inspect_operands,
                                             .operand_count = DP_ARRAY_LEN(inspect_operands),
                                             .run = inspect};

static void print_port(struct json_object *p)
{
    printf("%-24s %-8s %-5s %12s %12s  %s\n", text(p, "name"), text(p, "kind"), text(p, "link"), text(p, "in-frames"),
           text(p, "out-frames"), text(p, "options"));
    struct json_object *drops = json_object_object_get(p, "drops");
    bool any = false;
    if (drops) {
        json_object_object_foreach(drops, key, value)
        {
            printf("%s%s %s", any ? ", " : "    dropped: ", key, json_object_get_string(value));
            any = true;
        }
    }
    if (any)
        printf("\n");
}

static int inspect(int argc, char **argv)
{
    struct inspect_options o = {0};
    int status = cli_begin(&verb_inspect, argc, argv, &o);
    if (status >= 0)
        return status;
    struct json_object *n = ask(o.name, "inspect", (const char *const[]){NULL}), *ports = json_object_object_get(n, "ports");
    if (!n)
        return EXIT_STATUS_ERROR;
    if (o.json.json) {
        print_json(n);
    } else {
        printf("network %s, process %s, MTU %s\n%-24s %-8s %-5s %12s %12s  %s\n", text(n, "name"), text(n, "pid"), text(n, "mtu"), "PORT",
               "KIND", "LINK", "FRAMES IN", "OUT", "OPTIONS");
        for (size_t i = 0; i < json_object_array_length(ports); i++)
            print_port(json_object_array_get_idx(ports, i));
    }
    json_object_put(n);
    return 0;
}

/* ---- ports ---- */

struct port_options {
    const char *name, *port, *what;
    bool force, port_only;
    uint64_t timeout_ms;
};
static const struct cli_operand port_operands[] = {{"NETWORK", offsetof(struct port_options, name)},
                                                   {"PORT", offsetof(struct port_options, port)},
                                                   {"WHAT", offsetof(struct port_options, what)}};

static const struct cli_operand connect_operands[] = {{"NETWORK", offsetof(struct port_options, name)},
                                                      {"VM|PORT", offsetof(struct port_options, port)},
                                                      {"WHAT", offsetof(struct port_options, what), .optional = true}};

static int connect_(int argc, char **argv);
static const struct cli_verb verb_connect = {
    .name = "network connect",
    .summary = "plugs a card that leads there into a VM that runs; or declares a port's options, changes them, or adds a way out",
    .usage = "NETWORK VM | NETWORK PORT WHAT",
    .examples = "  doppel network connect lan web                                     another card for the VM web (see also doppel nic)\n"
                "  doppel network connect lan web vlan=10,mac=52:54:00:12:34:56\n"
                "  doppel network connect lan out tap=tap0,bridge=br0,trunk=all\n",
    .operands = connect_operands,
    .operand_count = 3,
    .run = connect_};

static bool is_uplink(const char *what)
{
    static const char *const kinds[] = {"tap=", "macvtap=", "packet=", "udp=", "tcp=", "vxlan="};
    for (unsigned i = 0; i < DP_ARRAY_LEN(kinds); i++)
        if (!strncmp(what, kinds[i], strlen(kinds[i])))
            return true;
    return false;
}

static int plug(const struct port_options *o)
{
    struct dp_error e = {0};
    char options[DP_RUNDIR_NAME_MAX + 16];
    struct json_object *card = NULL;
    snprintf(options, sizeof options, "network=%s", o->name);
    if (!dp_rundir_check_name(o->name, &e))
        card = cli_nic_add(o->port, options, NULL, &e);
    if (!card) {
        fprintf(stderr, "doppel: %s\n", e.text);
        return EXIT_STATUS_ERROR;
    }
    printf("%s\n", text(card, "nic"));
    json_object_put(card);
    return 0;
}

static int connect_(int argc, char **argv)
{
    struct port_options o = {0};
    int status = cli_begin(&verb_connect, argc, argv, &o);
    if (status >= 0)
        return status;
    if (!o.what)
        return plug(&o);
    return is_uplink(o.what) ? tell(o.name, "uplink", (const char *const[]){"port", o.port, "what", o.what, NULL})
                             : tell(o.name, "declare", (const char *const[]){"port", o.port, "options", o.what, NULL});
}

static int disconnect(int argc, char **argv);
static const struct cli_option disconnect_options[] = {
    {"port", 0, NULL, CLI_FLAG, offsetof(struct port_options, port_only), .help = "only the port: its VM keeps the card, and never has a carrier"},
    {"force", 'f', NULL, CLI_FLAG, offsetof(struct port_options, force), .help = "of a VM: takes the card out without asking the guest"},
    {"timeout", 't', "SECONDS", CLI_SECONDS, offsetof(struct port_options, timeout_ms), .help = "how long to wait for the guest (30)"},
};
static const struct cli_operand disconnect_operands[] = {{"NETWORK", offsetof(struct port_options, name)},
                                                         {"VM|PORT", offsetof(struct port_options, port)}};
static const struct cli_verb verb_disconnect = {.name = "network disconnect",
                                                .summary = "takes the cards that lead there out of a VM that runs; or a port away",
                                                .usage = "[--force] [--timeout SECONDS] NETWORK VM | [--port] NETWORK PORT",
                                                .examples = "  doppel network disconnect lan web           the guest of the VM web lets go of its card first\n"
                                                            "  doppel network disconnect lan out\n",
                                                .options = disconnect_options,
                                                .option_count = DP_ARRAY_LEN(disconnect_options),
                                                .operands = disconnect_operands,
                                                .operand_count = 2,
                                                .run = disconnect};

/* Takes out of a VM what leads to the network: how many cards; negative: e says why not. No such VM: none. */
static int unplug(const struct port_options *o, struct dp_error *e)
{
    char way[DP_RUNDIR_NAME_MAX + 16];
    int n = snprintf(way, sizeof way, "network=%s", o->name), count = 0, rc = 0;
    struct dp_error none;
    if (dp_rundir_check_name(o->name, &none) || dp_rundir_check_name(o->port, &none))
        return 0;
    struct json_object *list = cli_nic_list(o->port, &none), *nics = json_object_object_get(list, "nics");
    for (size_t i = 0; list && !rc && i < json_object_array_length(nics); i++) {
        struct json_object *card = json_object_array_get_idx(nics, i);
        const char *to = text(card, "network");
        if (strncmp(to, way, (size_t)n) || (to[n] && to[n] != ','))
            continue;
        rc = cli_nic_remove(o->port, text(card, "nic"), o->force, o->timeout_ms, e);
        count++;
    }
    json_object_put(list);
    return rc ? rc : count;
}

static int disconnect(int argc, char **argv)
{
    struct port_options o = {.timeout_ms = CLI_NIC_PATIENCE_MS};
    struct dp_error e = {0};
    int status = cli_begin(&verb_disconnect, argc, argv, &o);
    if (status >= 0)
        return status;
    int cards = o.port_only ? 0 : unplug(&o, &e);
    if (cards < 0) {
        fprintf(stderr, "doppel: %s\n", e.text);
        return EXIT_STATUS_ERROR;
    }
    return cards ? 0 : tell(o.name, "remove", (const char *const[]){"port", o.port, NULL});
}

static int link_(int argc, char **argv);
static const struct cli_verb verb_link = {.name = "network link",
                                          .summary = "pulls a port's cable, or puts it in again",
                                          .usage = "NETWORK PORT up|down",
                                          .examples = "  doppel network link lan web down\n",
                                          .operands = port_operands,
                                          .operand_count = 3,
                                          .run = link_};

static int link_(int argc, char **argv)
{
    struct port_options o = {0};
    int status = cli_begin(&verb_link, argc, argv, &o);
    return status >= 0 ? status : tell(o.name, "link", (const char *const[]){"port", o.port, "state", o.what, NULL});
}

static int group(int argc, char **argv);
static const struct cli_verb verb_group = {.name = "network group",
                                           .summary = "gives a security group its rules",
                                           .usage = "NETWORK GROUP RULES",
                                           .examples = "  doppel network group shop web 'in tcp 80; in tcp 443; in icmp'\n",
                                           .operands = port_operands,
                                           .operand_count = 3,
                                           .run = group};

static int group(int argc, char **argv)
{
    struct port_options o = {0};
    int status = cli_begin(&verb_group, argc, argv, &o);
    return status >= 0 ? status : tell(o.name, "group", (const char *const[]){"group", o.port, "rules", o.what, NULL});
}

static int rm(int argc, char **argv);
static const struct cli_verb verb_rm = {.name = "network rm",
                                        .summary = "ends a network",
                                        .usage = "NETWORK",
                                        .examples = "  doppel network rm lan\n",
                                        .operands = port_operands,
                                        .operand_count = 1,
                                        .run = rm};

static int rm(int argc, char **argv)
{
    struct port_options o = {0};
    int status = cli_begin(&verb_rm, argc, argv, &o);
    return status >= 0 ? status : tell(o.name, "quit", (const char *const[]){NULL});
}

/* ---- capture ---- */

struct capture_options {
    const char *name, *port, *file;
    uint64_t snap, limit, ms;
    bool both;
};
static const struct cli_option capture_option[] = {
    {"write", 'w', "FILE", CLI_STRING, offsetof(struct capture_options, file),
     .help = "to FILE; -: to stdout (default), for wireshark -k -i -"},
    {"snap", 's', "BYTES", CLI_UINT, offsetof(struct capture_options, snap), 14, 65550, .help = "of each frame"},
    {"limit", 0, "SIZE", CLI_SIZE, offsetof(struct capture_options, limit), .help = "of the file"},
    {"both", 'b', NULL, CLI_FLAG, offsetof(struct capture_options, both),
     .help = "of all ports also what they are sent (a frame is there once for each port that it passes), not only what they send"},
    {"timeout", 't', "SECONDS", CLI_SECONDS, offsetof(struct capture_options, ms), .help = "ends after so long"},
};
static const struct cli_operand capture_operands[] = {{"NETWORK", offsetof(struct capture_options, name)},
                                                      {"PORT", offsetof(struct capture_options, port), true}};

static int capture(int argc, char **argv);
static const struct cli_verb verb_capture = {
    .name = "network capture",
    .summary = "frames as pcapng: of a port, or all that come into the switch",
    .usage = "[OPTION]... NETWORK [PORT]",
    .examples = "  doppel network capture lan | wireshark -k -i -\n  doppel network capture lan web -w web.pcapng\n",
    .options = capture_option,
    .option_count = DP_ARRAY_LEN(capture_option),
    .operands = capture_operands,
    .operand_count = DP_ARRAY_LEN(capture_operands),
    .run = capture};

static void stop(void *opaque) { dp_loop_stop(opaque); }
static void on_signal(void *opaque, int fd, uint32_t events) { dp_loop_stop(opaque); }

static int run_capture(const struct capture_options *o, struct dp_loop *loop, struct dp_clock *clock, int fd, struct dp_error *e)
{
    char name[DP_RUNDIR_NAME_MAX + 2], path[DP_RUNDIR_PATH_MAX];
    struct dp_net_link link;
    struct dp_net_datagram *d = NULL;
    struct dp_capture *c = NULL;
    struct dp_timer timer;
    snprintf(name, sizeof name, "%c%s", DP_RUNDIR_NETWORK, o->name);
    int rc = dp_rundir_socket(name, path, sizeof path, e);
    if (!rc) {
        strcpy(strrchr(path, '/') + 1, "ports"); /* shorter than "control" */
        rc = dp_network_join_capture(path, o->port ? o->port : "*", o->both, &link, e);
    }
    if (rc) {
        close(fd);
        return rc;
    }
    dp_timer_init(&timer, clock, stop, loop);
    if (o->ms)
        dp_timer_arm(&timer, dp_clock_now(clock) + o->ms * 1000000);
    struct dp_capture_options how = {.interface = o->port ? o->port : o->name, .snap = (uint32_t)o->snap, .limit = o->limit};
    if ((rc = dp_capture_create(clock, fd, &how, &c, e)))
        close(fd);
    if ((!rc || (close(link.fd), false)) && !(rc = dp_net_datagram_create(loop, &link, stop, loop, &d, e)) &&
        !(rc = dp_net_connect(dp_net_datagram_port(d), dp_capture_port(c), e)))
        dp_loop_run(loop);
    dp_timer_fini(&timer);
    dp_net_datagram_destroy(d);
    dp_capture_destroy(c);
    return rc;
}

static int capture(int argc, char **argv)
{
    struct capture_options o = {0};
    struct dp_error e = {0};
    struct dp_loop *loop = NULL;
    struct dp_clock *clock = NULL;
    sigset_t set;
    int status = cli_begin(&verb_capture, argc, argv, &o);
    if (status >= 0)
        return status;
    bool to_stdout = !o.file || !strcmp(o.file, "-");
    if (to_stdout && isatty(1)) {
        fprintf(stderr, "doppel: a capture is not for a terminal: give -w FILE, or pipe it to wireshark -k -i -\n");
        return EXIT_STATUS_USAGE;
    }
    int fd = to_stdout ? dup(1) : open(o.file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), signal_fd = -1;
    if (fd < 0) {
        fprintf(stderr, "doppel: %s: %s\n", to_stdout ? "stdout" : o.file, strerror(errno));
        return EXIT_STATUS_ERROR;
    }
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    int rc = dp_loop_create(&loop, &e);
    if (!rc && (signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK)) >= 0)
        rc = dp_loop_watch(loop, signal_fd, EPOLLIN, on_signal, loop);
    if (!rc && !(rc = dp_clock_create_vm(loop, &clock, &e))) {
        dp_clock_resume(clock);
        rc = run_capture(&o, loop, clock, fd, &e);
    } else {
        close(fd);
    }
    if (rc)
        fprintf(stderr, "doppel: %s\n", e.text);
    if (signal_fd >= 0) {
        dp_loop_unwatch(loop, signal_fd);
        close(signal_fd);
    }
    if (clock)
        dp_clock_destroy(clock);
    if (loop)
        dp_loop_destroy(loop);
    return rc ? EXIT_STATUS_ERROR : 0;
}

/* ---- the family ---- */

static const struct cli_verb *const verbs[] = {&cli_network_create, &verb_ls,   &verb_inspect, &verb_connect, &verb_disconnect,
                                               &verb_group,         &verb_link, &verb_capture, &verb_rm};

static int network(int argc, char **argv) { return cli_family(&cli_network, verbs, DP_ARRAY_LEN(verbs), argc, argv); }

const struct cli_verb cli_network = {
    .name = "network",
    .summary = "makes, shows and changes networks that VMs join",
    .usage = "VERB [OPTION]...",
    .examples = "  doppel network create lan\n"
                "  doppel run --nic network=lan,vlan=10 disk.img\n"
                "  doppel network capture lan | wireshark -k -i -\n",
    .run = network,
};
