/* cli/nic.c - `doppel nic`: the network cards of a named VM, which may come and go while it runs, through its control socket.
 *
 * Model: taking a card out is asking the guest for it; the VM's process does the rest, whether somebody waits for that here or not.
 */
#include "cli/nic.h"

#include <json.h>
#include <time.h>
#include <unistd.h>

#include "cli/client.h"
#include "cli/options.h"
#include "net/options.h"

enum { POLL_NS = 20000000 };

struct nic_options {
    const char *vm, *what, *name; /* what: options of a card, or its name */
    uint64_t timeout_ms;
    bool json, force;
};
#define FIELD(name) offsetof(struct nic_options, name)
#define OPTION_JSON                                                                                                                        \
    {                                                                                                                                      \
        "json", 0, NULL, CLI_FLAG, FIELD(json), .help = "JSON on stdout"                                                                   \
    }

static int fail(const struct dp_error *e)
{
    fprintf(stderr, "doppel: %s\n", e->text);
    return EXIT_STATUS_ERROR;
}

static void print_json(struct json_object *o) { printf("%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN)); }

static const char *text(struct json_object *o, const char *key)
{
    const char *s = json_object_get_string(json_object_object_get(o, key));
    return s ? s : "";
}

static bool is_true(struct json_object *o, const char *key) { return json_object_get_boolean(json_object_object_get(o, key)); }

/* arguments as of cli_ask_list. */
static struct json_object *ask(const char *vm, const char *command, const char *const *arguments, struct dp_error *e)
{
    struct json_object *result = NULL;
    int fd;
    if (!cli_connect(vm, &fd, e)) {
        result = cli_ask_list(fd, command, arguments, e);
        close(fd);
    }
    return result;
}

/* ---- what others use, too ---- */

struct json_object *cli_nic_list(const char *vm, struct dp_error *e) { return ask(vm, "nics", (const char *const[]){NULL}, e); }

struct json_object *cli_nic_add(const char *vm, const char *options, const char *name, struct dp_error *e)
{
    return ask(vm, "nic-add", (const char *const[]){"options", options, "nic", name, NULL}, e);
}

/* Whether the VM has such a card; negative: it does not answer. */
static int has(const char *vm, const char *name, struct dp_error *e)
{
    struct json_object *o = cli_nic_list(vm, e), *nics = json_object_object_get(o, "nics");
    int found = o ? 0 : e->code;
    for (size_t i = 0; o && !found && i < json_object_array_length(nics); i++)
        found = !strcmp(text(json_object_array_get_idx(nics, i), "nic"), name);
    json_object_put(o);
    return found;
}

static uint64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int cli_nic_remove(const char *vm, const char *name, bool force, uint64_t patience_ms, struct dp_error *e)
{
    struct json_object *o = ask(vm, "nic-remove", (const char *const[]){"nic", name, "mode", force ? "force" : NULL, NULL}, e);
    if (!o)
        return e->code;
    json_object_put(o);
    for (uint64_t end = now_ms() + patience_ms;;) {
        int found = has(vm, name, e);
        if (found <= 0)
            return found;
        if (now_ms() >= end)
            break;
        nanosleep(&(struct timespec){.tv_nsec = POLL_NS}, NULL);
    }
    return dp_error_set(e, -ETIMEDOUT,
                        "%s: the guest has not let go of %s within %g s: it is still starting, or has no ACPI PCI hotplug. It stays asked, and a "
                        "reset takes the card out, too; --force does so at once, whatever the guest does with it",
                        vm, name, (double)patience_ms / 1000);
}

/* ---- ls ---- */

static int ls(int argc, char **argv);
static const struct cli_option ls_options[] = {OPTION_JSON};
static const struct cli_operand vm_operand[] = {{"VM", FIELD(vm)}};
static const struct cli_verb verb_ls = {.name = "nic ls",
                                        .summary = "a VM's network cards, and what their cables lead to",
                                        .usage = "[--json] VM",
                                        .examples = "  doppel nic ls web\n",
                                        .options = ls_options,
                                        .option_count = DP_ARRAY_LEN(ls_options),
                                        .operands = vm_operand,
                                        .operand_count = DP_ARRAY_LEN(vm_operand),
                                        .run = ls};

static int ls(int argc, char **argv)
{
    struct nic_options o = {0};
    struct dp_error e = {0};
    int status = cli_begin(&verb_ls, argc, argv, &o);
    if (status >= 0)
        return status;
    struct json_object *result = cli_nic_list(o.vm, &e), *nics = json_object_object_get(result, "nics");
    if (!result)
        return fail(&e);
    if (o.json)
        print_json(result);
    else if (json_object_array_length(nics))
        printf("%-12s %-8s %-17s %4s %-5s %s\n", "NAME", "MODEL", "MAC", "SLOT", "LINK", "NETWORK");
    for (size_t i = 0; !o.json && i < json_object_array_length(nics); i++) {
        struct json_object *n = json_object_array_get_idx(nics, i);
        printf("%-12s %-8s %-17s %4s %-5s %s%s\n", text(n, "nic"), text(n, "model"), text(n, "mac"), text(n, "slot"),
               is_true(n, "link") ? "up" : "down", text(n, "network"), is_true(n, "leaving") ? " (the guest is asked to let go of it)" : "");
    }
    json_object_put(result);
    return 0;
}

/* ---- add ---- */

static int add(int argc, char **argv);
static const struct cli_option add_options[] = {
    {"id", 0, "NAME", CLI_STRING, FIELD(name), .help = "what the card is called (the first of net0, net1... that is free)"},
    OPTION_JSON,
};
static const struct cli_operand add_operands[] = {{"VM", FIELD(vm)}, {"NIC", FIELD(what), .optional = true}};
static const struct cli_verb verb_add = {.name = "nic add",
                                         .summary = "plugs a network card into a VM that runs, and says what it is called",
                                         .usage = "[--id NAME] VM [" DP_NET_NIC_HELP "]",
                                         .examples = "  doppel nic add web                            the user network, as --nic user\n"
                                                     "  doppel nic add web network=lan,vlan=10 --id lan\n"
                                                     "  doppel nic add web user,model=e1000\n",
                                         .options = add_options,
                                         .option_count = DP_ARRAY_LEN(add_options),
                                         .operands = add_operands,
                                         .operand_count = DP_ARRAY_LEN(add_operands),
                                         .run = add};

static int add(int argc, char **argv)
{
    struct nic_options o = {.what = "user"};
    struct dp_error e = {0};
    struct dp_net_nic nic;
    int status = cli_begin(&verb_add, argc, argv, &o);
    if (status >= 0)
        return status;
    if (dp_net_parse_nic(o.what, &nic, &e)) {
        fprintf(stderr, "doppel: %s\n", e.text);
        return EXIT_STATUS_USAGE;
    }
    struct json_object *result = cli_nic_add(o.vm, o.what, o.name, &e);
    if (!result)
        return fail(&e);
    if (o.json)
        print_json(result);
    else
        printf("%s\n", text(result, "nic"));
    json_object_put(result);
    return 0;
}

/* ---- rm ---- */

static int rm(int argc, char **argv);
static const struct cli_option rm_options[] = {
    {"force", 'f', NULL, CLI_FLAG, FIELD(force), .help = "at once, without asking the guest, whose driver may not take it well"},
    {"timeout", 't', "SECONDS", CLI_SECONDS, FIELD(timeout_ms), .help = "how long to wait for the guest (30)"},
};
static const struct cli_operand rm_operands[] = {{"VM", FIELD(vm)}, {"NAME", FIELD(what)}};
static const struct cli_verb verb_rm = {.name = "nic rm",
                                        .summary = "takes a network card out of a VM that runs: asks the guest to let go of it, and waits",
                                        .usage = "[--force] [--timeout SECONDS] VM NAME",
                                        .examples = "  doppel nic rm web net1\n  doppel nic rm web net1 --timeout 5 || doppel nic rm web net1 --force\n",
                                        .options = rm_options,
                                        .option_count = DP_ARRAY_LEN(rm_options),
                                        .operands = rm_operands,
                                        .operand_count = DP_ARRAY_LEN(rm_operands),
                                        .run = rm};

static int rm(int argc, char **argv)
{
    struct nic_options o = {.timeout_ms = CLI_NIC_PATIENCE_MS};
    struct dp_error e = {0};
    int status = cli_begin(&verb_rm, argc, argv, &o);
    if (status >= 0)
        return status;
    return cli_nic_remove(o.vm, o.what, o.force, o.timeout_ms, &e) ? fail(&e) : 0;
}

/* ---- the family ---- */

static const struct cli_verb *const verbs[] = {&verb_ls, &verb_add, &verb_rm};

static int nic(int argc, char **argv) { return cli_family(&cli_nic, verbs, DP_ARRAY_LEN(verbs), argc, argv); }

const struct cli_verb cli_nic = {
    .name = "nic",
    .summary = "shows a named VM's network cards, plugs and unplugs them while it runs",
    .usage = "VERB [OPTION]...",
    .examples = "  doppel nic ls web\n"
                "  doppel nic add web network=lan\n"
                "  doppel nic rm web net1\n",
    .run = nic,
};
