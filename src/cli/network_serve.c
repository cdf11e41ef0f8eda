/* cli/network_serve.c - `doppel network create`: the process that a network is.
 *
 * It stays in the foreground if asked; else it leaves the terminal when all is there, so that who called it sees every error.
 */
#include <fcntl.h>
#include <json.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/network.h"
#include "control/rundir.h"
#include "control/server.h"
#include "net/network.h"

struct create_options {
    const char *name, *socket, *mode;
    uint64_t mtu, table;
    const char *subnet;
    bool snooping, no_loop_guard, foreground, nat, internal;
    struct cli_list port, uplink, group, publish;
};

/* Checks for doppel.yaml. */
static int check_port(const char *text, struct dp_error *e)
{
    struct dp_switch_port_options o = {0};
    const char *equals = strchr(text, '=');
    return equals ? dp_network_parse_port(equals + 1, &o, e) : dp_error_set(e, -EINVAL, "give NAME=OPTIONS");
}

static int check_group(const char *text, struct dp_error *e)
{
    char name[64];
    struct dp_security *s = dp_security_create();
    const char *equals = strchr(text, '=');
    snprintf(name, sizeof name, "%.*s", (int)strcspn(text, "="), text);
    int rc = !s        ? dp_error_set(e, -ENOMEM, "no memory")
             : !equals ? dp_error_set(e, -EINVAL, "give NAME=RULES")
                       : dp_security_set(s, name, equals + 1, e);
    dp_security_destroy(s);
    return rc;
}

static const struct cli_option options[] = {
    {"port", 'p', "NAME=OPTIONS", CLI_LIST, offsetof(struct create_options, port),
     .help = "declares a port: who joins as NAME gets these options (see below); NAME *: of other users who are not declared", .check = check_port},
    {"uplink", 'u', "NAME=WHAT", CLI_LIST, offsetof(struct create_options, uplink),
     .help = "a way out: nat[,subnet=IP/N][,internal][,no-host][,publish=...], tap=IF[,bridge=BR], macvtap=IF, packet=IF, udp=LOCAL/REMOTE[,dtls=DIR|,psk=FILE][,listen], tcp=ADDRESS:PORT[,listen][,tls=DIR|,psk=FILE], vxlan=VNI[,local=IP][,remote=IP]...[,learn]; then a "
             "port's options", .first = "nat|tap|macvtap|packet|udp|tcp|vxlan"},
    {"group", 'g', "NAME=RULES", CLI_LIST, offsetof(struct create_options, group),
     .help =
         "a security group: in|out any|tcp|udp|icmp [PORT[-PORT]] [from|to ADDRESS[/N]|group NAME]; more rules behind ; (ports join it by "
         "group=NAME)", .check = check_group},
    {"nat", 0, NULL, CLI_FLAG, offsetof(struct create_options, nat),
     .help = "a gateway with DHCP, DNS (VMs have their --name) and NAT to where this host can go; short for -u nat=nat"},
    {"subnet", 0, "IP/N", CLI_STRING, offsetof(struct create_options, subnet), .help = "its addresses (10.1.0.0/24); implies --nat"},
    {"internal", 0, NULL, CLI_FLAG, offsetof(struct create_options, internal),
     .help = "addresses and names, and what is published, but no way out; implies --nat"},
    {"publish", 0, "[IP:]PORT:NAME:PORT[/udp]", CLI_LIST, offsetof(struct create_options, publish),
     .help = "a port of this host that leads to the VM called NAME; implies --nat"},
    {"socket", 0, "PATH", CLI_STRING, offsetof(struct create_options, socket), .help = "another socket to join by, for VMs of other users"},
    {"mode", 0, "OCTAL", CLI_STRING, offsetof(struct create_options, mode),
     .help = "permissions of that socket, as of chmod: 660 (default), 666"},
    {"mtu", 0, "BYTES", CLI_UINT, offsetof(struct create_options, mtu), 68, 65535,
     .help = "told to VMs that join; larger frames are dropped"},
    {"snooping", 0, NULL, CLI_FLAG, offsetof(struct create_options, snooping), .help = "multicast goes to members only (IGMP, MLD)"},
    {"no-loop-guard", 0, NULL, CLI_FLAG, offsetof(struct create_options, no_loop_guard),
     .help = "addresses may move between ports as they like"},
    {"table", 0, "N", CLI_UINT, offsetof(struct create_options, table), 16, 1 << 20, .help = "addresses that it remembers (8192)"},
    {"foreground", 0, NULL, CLI_FLAG, offsetof(struct create_options, foreground), .help = "stays on this terminal until it is ended"},
};
static const struct cli_operand operands[] = {{"NAME", offsetof(struct create_options, name)}};

struct process {
    struct create_options o;
    struct dp_loop *loop;
    struct dp_clock *clock;
    struct dp_network *network;
    struct dp_control_server *control;
    struct dp_rundir rundir;
    int signal_fd;
    char *own_socket;
};

/* ---- the control socket ---- */

static const struct dp_control_command commands[] = {
    {"help", "all commands and what they do", {0}, 0},
    {"inspect", "the network, its ports, their options and counters", {0}, 0},
    {"declare", "options of a port that is joined, or will be", {"port", "options"}, 0},
    {"uplink", "adds a way out: what", {"port", "what"}, 0},
    {"remove", "takes a port away", {"port"}, 0},
    {"group", "rules of a security group", {"group", "rules"}, 0},
    {"link", "turns a port's carrier up or down: state", {"port", "state"}, 0},
    {"quit", "ends the network", {0}, 0},
};

static const struct dp_control_command *command(unsigned i) { return i < DP_ARRAY_LEN(commands) ? &commands[i] : NULL; }

static struct json_object *help(void)
{
    struct json_object *o = json_object_new_object();
    for (unsigned i = 0; i < DP_ARRAY_LEN(commands); i++)
        json_object_object_add(o, commands[i].name, json_object_new_string(commands[i].help));
    return o;
}

static struct json_object *run_command(void *opaque, unsigned i, const char *const *argument, struct dp_error *e)
{
    struct process *p = opaque;
    const char *name = commands[i].name;
    int rc = 0;
    if (!strcmp(name, "help"))
        return help();
    if (!strcmp(name, "inspect"))
        return dp_network_json(p->network);
    if (!strcmp(name, "declare"))
        rc = dp_network_declare(p->network, argument[0], argument[1], e);
    else if (!strcmp(name, "uplink"))
        rc = dp_network_add_uplink(p->network, argument[0], argument[1], e);
    else if (!strcmp(name, "group"))
        rc = dp_network_set_group(p->network, argument[0], argument[1], e);
    else if (!strcmp(name, "remove"))
        rc = dp_network_remove(p->network, argument[0], e);
    else if (!strcmp(name, "quit"))
        dp_loop_stop(p->loop);
    else if (strcmp(argument[1], "up") && strcmp(argument[1], "down"))
        rc = dp_error_set(e, -EINVAL, "\"state\" is up or down");
    else
        rc = dp_network_set_link(p->network, argument[0], !strcmp(argument[1], "up"), e);
    return rc ? NULL : json_object_new_object();
}

static const struct dp_control_service service = {command, run_command};

/* ---- the process ---- */

static void on_signal(void *opaque, int fd, uint32_t events)
{
    struct process *p = opaque;
    dp_loop_stop(p->loop);
}

static int watch_signals(struct process *p, struct dp_error *e)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    p->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return p->signal_fd < 0 || dp_loop_watch(p->loop, p->signal_fd, EPOLLIN, on_signal, p)
               ? dp_error_set(e, -EIO, "cannot watch for signals")
               : 0;
}

/* "NAME=REST": cuts it in two. */
static int each(const struct cli_list *list, const char *option,
                int (*fn)(struct dp_network *, const char *, const char *, struct dp_error *), struct dp_network *n, struct dp_error *e)
{
    int rc = 0;
    for (unsigned i = 0; !rc && i < list->count; i++) {
        char name[64];
        const char *equals = strchr(list->value[i], '=');
        if (!equals || (size_t)(equals - list->value[i]) >= sizeof name)
            return dp_error_set(e, -EINVAL, "--%s %s: give NAME=...", option, list->value[i]);
        snprintf(name, sizeof name, "%.*s", (int)(equals - list->value[i]), list->value[i]);
        if ((rc = fn(n, name, equals + 1, e)))
            dp_error_prefix(e, rc, "--%s %s", option, name);
    }
    return rc;
}

/* --nat and what goes with it: the uplink of that name. */
static int make_nat(struct process *p, struct dp_error *e)
{
    char text[2000];
    const struct create_options *o = &p->o;
    if (!o->nat && !o->subnet && !o->internal && !o->publish.count)
        return 0;
    int n = snprintf(text, sizeof text, "nat%s%s%s", o->subnet ? ",subnet=" : "", o->subnet ? o->subnet : "", o->internal ? ",internal" : "");
    for (unsigned i = 0; i < o->publish.count && n < (int)sizeof text; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, ",publish=%s", o->publish.value[i]);
    return n < (int)sizeof text ? dp_network_add_uplink(p->network, "nat", text, e)
                                : dp_error_set(e, -E2BIG, "--subnet and --publish: that is too much text");
}

static int octal(const char *text, unsigned *out, struct dp_error *e)
{
    char *end;
    unsigned long mode = strtoul(text, &end, 8);
    if (*text < '0' || *text > '7' || *end || mode > 0777)
        return dp_error_set(e, -EINVAL, "--mode %s: give an octal number up to 777, such as 660", text);
    *out = (unsigned)mode;
    return 0;
}

static int listen_other(struct process *p, struct dp_error *e)
{
    struct stat st;
    const char *path = p->o.socket;
    unsigned mode = 0;
    int rc = octal(p->o.mode ? p->o.mode : "660", &mode, e);
    if (rc || !path)
        return rc;
    if (!lstat(path, &st) && S_ISSOCK(st.st_mode)) /* of one that died */
        unlink(path);
    rc = dp_network_listen(p->network, path, mode, e);
    if (!rc)
        p->own_socket = realpath(path, NULL);
    return rc;
}

static int make(struct process *p, struct dp_error *e)
{
    char name[DP_RUNDIR_NAME_MAX + 2], path[DP_RUNDIR_PATH_MAX + 16];
    int rc = dp_rundir_check_name(p->o.name, e);
    if (rc || (rc = dp_loop_create(&p->loop, e)) || (rc = watch_signals(p, e)) || (rc = dp_clock_create_vm(p->loop, &p->clock, e)))
        return rc;
    dp_clock_resume(p->clock);
    struct dp_network_options o = {.loop = p->loop,
                                   .name = p->o.name,
                                   .switching = {.clock = p->clock,
                                                 .table_size = (unsigned)p->o.table,
                                                 .snooping = p->o.snooping,
                                                 .no_loop_guard = p->o.no_loop_guard,
                                                 .mtu = (uint32_t)p->o.mtu}};
    snprintf(name, sizeof name, "%c%s", DP_RUNDIR_NETWORK, p->o.name);
    if ((rc = dp_rundir_claim(name, &p->rundir, e)) || (rc = dp_network_create(&o, &p->network, e)) ||
        (rc = each(&p->o.group, "group", dp_network_set_group, p->network, e)) ||
        (rc = each(&p->o.port, "port", dp_network_declare, p->network, e)) ||
        (rc = make_nat(p, e)) || (rc = each(&p->o.uplink, "uplink", dp_network_add_uplink, p->network, e)) ||
        (rc = listen_other(p, e)))
        return rc;
    snprintf(path, sizeof path, "%s/ports", p->rundir.path);
    if ((rc = dp_network_listen(p->network, path, 0600, e)) || (rc = dp_control_server_create(p->loop, &service, p, &p->control, e)))
        return rc;
    snprintf(path, sizeof path, "%s/control", p->rundir.path);
    return dp_control_server_listen(p->control, path, e);
}

static void end(struct process *p)
{
    dp_control_server_destroy(p->control);
    dp_network_destroy(p->network);
    if (p->own_socket)
        unlink(p->own_socket);
    free(p->own_socket);
    dp_rundir_release(&p->rundir);
    if (p->signal_fd >= 0) {
        dp_loop_unwatch(p->loop, p->signal_fd);
        close(p->signal_fd);
    }
    if (p->clock)
        dp_clock_destroy(p->clock);
    if (p->loop)
        dp_loop_destroy(p->loop);
}

/* Runs until it is ended. ready: a descriptor that is told that all is there, or why not; -1: this terminal is. */
static int serve(struct process *p, int ready)
{
    struct dp_error e = {0};
    p->signal_fd = -1;
    int rc = make(p, &e);
    if (ready < 0 && rc)
        fprintf(stderr, "doppel: %s\n", e.text);
    if (ready >= 0) {
        const char *text = rc ? e.text : "";
        ssize_t n = write(ready, text, strlen(text) + 1);
        (void)n;
        close(ready);
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        for (int fd = 0; fd < 3 && null >= 0; fd++)
            dup2(null, fd);
        if (null > 2)
            close(null);
    }
    if (!rc)
        dp_loop_run(p->loop);
    end(p);
    return rc ? EXIT_STATUS_ERROR : 0;
}

static int create(int argc, char **argv)
{
    struct process p = {0};
    char text[sizeof((struct dp_error *)0)->text + 1] = "";
    int pipe_fd[2], status = cli_begin(&cli_network_create, argc, argv, &p.o);
    if (status >= 0)
        return status;
    if (p.o.foreground)
        return serve(&p, -1);
    if (pipe2(pipe_fd, O_CLOEXEC)) {
        fprintf(stderr, "doppel: %s\n", strerror(errno));
        return EXIT_STATUS_ERROR;
    }
    pid_t child = fork();
    if (!child) {
        close(pipe_fd[0]);
        setsid();
        return serve(&p, pipe_fd[1]);
    }
    close(pipe_fd[1]);
    size_t size = 0;
    ssize_t n = 0;
    while (child > 0 && size < sizeof text - 1 && (n = read(pipe_fd[0], text + size, sizeof text - 1 - size)) > 0)
        size += (size_t)n;
    close(pipe_fd[0]);
    if (child > 0 && size && !*text)
        return 0;
    fprintf(stderr, "doppel: %s\n", *text ? text : "the network's process could not be started");
    return EXIT_STATUS_ERROR;
}

static void more_help(FILE *to)
{
    fprintf(to,
            "\nOptions of a port: %s\n"
            "VMs join by `doppel run --nic network=NAME[,vlan=10...]`; a declared port's options are its own.\n",
            DP_NETWORK_PORT_HELP);
}

const struct cli_verb cli_network_create = {
    .name = "network create",
    .summary = "makes a network: a switch that VMs join",
    .usage = "[OPTION]... NAME",
    .examples =
        "  doppel network create lan\n"
        "  doppel network create home --nat --publish 8080:web:80     and: doppel run --name web --nic network=home ...\n"
        "  doppel network create office -p web=vlan=10 -p db=vlan=20,isolated -u out=tap=tap0,trunk=10+20\n"
        "  doppel network create shop -g 'web=in tcp 80; in tcp 443' -g 'db=in tcp 5432 from group web' -p www=group=web -p pg=group=db\n"
        "  doppel network create wide -u other=vxlan=42,remote=192.0.2.7\n"
        "  doppel network create safe -u far=tcp=0.0.0.0:7000,listen,tls=/etc/doppel/tls     and, on the other host,\n"
        "  doppel network create safe -u far=tcp=192.0.2.7:7000,tls=/etc/doppel/tls\n",
    .options = options,
    .option_count = DP_ARRAY_LEN(options),
    .operands = operands,
    .operand_count = DP_ARRAY_LEN(operands),
    .more_help = more_help,
    .run = create,
};
