/* cli/main.c - the command `doppel`: finds the verb. One file per verb. */
#include "cli/options.h"

#include <fcntl.h>
#include <unistd.h>

static const struct cli_verb *const verbs[] = {&cli_run, &cli_up, &cli_down, &cli_config_verb, &cli_list, &cli_stats, &cli_control, &cli_screenshot, &cli_type, &cli_key,
                                               &cli_media_verb, &cli_image, &cli_volume, &cli_disk, &cli_balloon, &cli_network, &cli_nic, &cli_doctor, &cli_lockstep};

static void help(FILE *to)
{
    fprintf(to, "doppel - runs unmodified x86-64 systems in a virtual machine of its own\n\n"
                "Examples:\n"
                "  doppel run --kernel vmlinuz --initrd initrd.img          boots Linux, its console on this terminal\n"
                "  doppel run --kernel kernel.elf --timeout 10              runs a Multiboot kernel, its status becomes doppel's\n"
                "  doppel up                                                starts what doppel.yaml describes, virtual machines and networks\n"
                "  doppel doctor                                            says which engines work here\n\n"
                "Usage: doppel VERB [OPTION]...\n\nVerbs:\n");
    for (unsigned i = 0; i < DP_ARRAY_LEN(verbs); i++)
        fprintf(to, "  %-10s %s\n", verbs[i]->name, verbs[i]->summary);
    fprintf(to, "  %-10s %s\n\nOptions:\n  %-10s %s\n  %-10s %s\n\n`doppel VERB --help` tells about one verb, doppel(1) everything.\n",
            "help", "this text, or a verb's: doppel help run", "-h, --help", "this text", "--version", "version and licence");
}

static const struct cli_verb *find(const char *name)
{
    for (unsigned i = 0; i < DP_ARRAY_LEN(verbs); i++)
        if (!strcmp(verbs[i]->name, name))
            return verbs[i];
    return NULL;
}

/* Whoever starts us may have closed stdin, stdout or stderr: their numbers must not become those of a disk, which messages would then be
 * written to. */
static void fill_standard_descriptors(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2);
    if (fd > 2)
        close(fd);
}

int main(int argc, char **argv)
{
    fill_standard_descriptors();
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        fprintf(stderr, "doppel: no verb given: try `doppel run --kernel FILE` or `doppel --help`\n");
        return EXIT_STATUS_USAGE;
    }
    if (!strcmp(name, "--version") || !strcmp(name, "-V") || !strcmp(name, "version")) {
        printf("doppel %s\nMIT licence. No warranty.\n", DOPPEL_VERSION);
        return 0;
    }
    if (!strcmp(name, "--help") || !strcmp(name, "-h") || (!strcmp(name, "help") && argc == 2)) {
        help(stdout);
        return 0;
    }
    bool wants_help = !strcmp(name, "help");
    if (wants_help)
        name = argv[2];
    const struct cli_verb *verb = find(name);
    if (!verb) {
        const char *names[DP_ARRAY_LEN(verbs) + 1] = {"help"};
        for (unsigned i = 0; i < DP_ARRAY_LEN(verbs); i++)
            names[i + 1] = verbs[i]->name;
        const char *near = cli_nearest(name + strspn(name, "-"), names, DP_ARRAY_LEN(names));
        fprintf(stderr, "doppel: unknown verb '%s': %s%s%s\n", name, near ? "did you mean `doppel " : "see `doppel --help`",
                near ? near : "", near ? "`?" : "");
        return EXIT_STATUS_USAGE;
    }
    if (wants_help)
        return verb->run(1, (char *[]){"--help", NULL});
    return verb->run(argc - 2, argv + 2);
}
