/* cli/lockstep.c - `doppel lockstep`: boots one guest on two engines side by side and tells where they first differ. For those who work on
 * engines; see vm/lockstep.h.
 *
 * Exit status: 0 equal as far as it went, 1 they differ, 125 doppel's error, 2 usage.
 */
#include "cli/options.h"

#include <inttypes.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "engine/engines.h"
#include "vm/lockstep.h"
#include "vm/vm.h"

struct lockstep_options {
    const char *engines, *kernel, *append, *cpu, *ignore;
    struct cli_list initrd, disk;
    uint64_t memory, timeout_ms, instructions, skip, step, slice, every, ps;
    bool all_flags, single, once, quiet;
};

#define FIELD(member) offsetof(struct lockstep_options, member)
static const struct cli_option options[] = {
    {"engines", 'e', "A,B", CLI_STRING, FIELD(engines), .help = "the engine that leads and the one that follows (translate,interp)"},
    {"kernel", 'k', "FILE", CLI_STRING, FIELD(kernel), .help = "what to boot, as in `doppel run`"},
    {"initrd", 'i', "FILE", CLI_LIST, FIELD(initrd), .max = DP_LOCKSTEP_INITRDS, .help = "initial RAM disk; may be repeated"},
    {"append", 'a', "STRING", CLI_STRING, FIELD(append), .help = "kernel command line"},
    {"memory", 'm', "SIZE", CLI_SIZE, FIELD(memory), .min = DP_VM_MEMORY_MIN, .help = "memory of each machine (256M)"},
    {"disk", 'd', "FILE", CLI_LIST, FIELD(disk), .max = DP_LOCKSTEP_DISKS,
     .help = "a virtio disk; both machines write to copies of their own"},
    {"cpu", 0, "MODEL", CLI_STRING, FIELD(cpu), .help = "processor the guest sees, without RDRAND and RDSEED (x86-64-v2)"},
    {"instructions", 'n', "N", CLI_UINT, FIELD(instructions), .help = "stop after so many (when the guest ends)"},
    {"timeout", 't', "SECONDS", CLI_SECONDS, FIELD(timeout_ms), .help = "stop after this time; what is equal until then counts as equal"},
    {"skip", 0, "N", CLI_UINT, FIELD(skip),
     .help = "the engine that follows runs so many alone, then the other's machine becomes a copy (0)"},
    {"step", 0, "N", CLI_UINT, FIELD(step),
     .help = "instructions between comparisons of the processors; 0: a block of the engine that leads (0)"},
    {"slice", 0, "N", CLI_UINT, FIELD(slice), .help = "instructions after which time moves and interrupts arrive (1000)"},
    {"every", 0, "N", CLI_UINT, FIELD(every), .help = "instructions between comparisons of RAM and devices (10000000)"},
    {"ps", 0, "N", CLI_UINT, FIELD(ps), .help = "the machines' time for an instruction, in picoseconds (1000)"},
    {"ignore", 0, "FIELD,...", CLI_STRING, FIELD(ignore), .help = "fields of the processor's state that may differ: fpu.fip,fpu.fdp ..."},
    {"all-flags", 0, NULL, CLI_FLAG, FIELD(all_flags), .help = "flags must agree also where they are undefined or never read"},
    {"single", 0, NULL, CLI_FLAG, FIELD(single), .help = "the engine that follows runs instructions one by one"},
    {"once", 0, NULL, CLI_FLAG, FIELD(once), .help = "no second run that finds the exact step"},
    {"quiet", 'q', NULL, CLI_FLAG, FIELD(quiet), .help = "the guest's serial output is not shown"},
};

static void output(void *opaque, const uint8_t *data, size_t size)
{
    (void)opaque;
    fwrite(data, 1, size, stdout);
    fflush(stdout);
}

/* "A,B" into engines. */
static int find_engines(const char *text, const struct dp_engine *engine[2], struct dp_error *e)
{
    const char *comma = strchr(text, ',');
    if (!comma || strchr(comma + 1, ','))
        return dp_error_set(e, -EINVAL, "--engines %s: give two, such as translate,interp", text);
    for (unsigned i = 0; i < 2; i++) {
        char name[40], why[300];
        if (i)
            snprintf(name, sizeof name, "%s", comma + 1);
        else
            snprintf(name, sizeof name, "%.*s", (int)DP_MIN(comma - text, 39), text);
        if (!(engine[i] = dp_engine_choose(name, why, sizeof why, e)))
            return dp_error_prefix(e, -EINVAL, "--engines");
    }
    return 0;
}

static int run(int argc, char **argv)
{
    struct lockstep_options o = {.engines = "translate,interp"};
    struct dp_lockstep_result r = {0};
    struct dp_error e = {0};
    switch (cli_parse(&cli_lockstep, argc, argv, &o, &e)) {
    case CLI_HELP:
        cli_help(&cli_lockstep, stdout);
        return 0;
    case CLI_USAGE:
        fprintf(stderr, "doppel: %s\n", e.text);
        return EXIT_STATUS_USAGE;
    }
    struct dp_lockstep_config c = {
        .memory = o.memory,
        .cpu_model = o.cpu,
        .kernel = o.kernel,
        .cmdline = o.append,
        .initrd_count = o.initrd.count,
        .disk_count = o.disk.count,
        .instructions = o.instructions,
        .timeout_ms = o.timeout_ms,
        .skip = o.skip,
        .step = o.step,
        .slice = o.slice,
        .every = o.every,
        .ps = o.ps,
        .all_flags = o.all_flags,
        .single = o.single,
        .once = o.once,
        .ignore = o.ignore,
        .output = o.quiet ? NULL : output,
    };
    memcpy(c.initrd, o.initrd.value, sizeof *c.initrd * o.initrd.count);
    memcpy(c.disk, o.disk.value, sizeof *c.disk * o.disk.count);
    int rc = o.kernel ? find_engines(o.engines, c.engine, &e) : dp_error_set(&e, -EINVAL, "nothing to boot: give --kernel FILE");
    if (rc) {
        fprintf(stderr, "doppel: %s\n", e.text);
        return EXIT_STATUS_USAGE;
    }
    struct timespec from, to;
    clock_gettime(CLOCK_MONOTONIC, &from);
    rc = dp_lockstep_run(&c, &r, &e);
    clock_gettime(CLOCK_MONOTONIC, &to);
    if (rc) {
        fprintf(stderr, "doppel: %s\n", e.text);
        dp_buffer_fini(&r.report);
        return EXIT_STATUS_ERROR;
    }
    double seconds = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
    fprintf(stderr, "doppel: %s: %s; %" PRIu64 " instructions in %" PRIu64 " steps, %.1f s", o.engines,
            r.end == DP_LOCKSTEP_DIVERGED ? "DIFFERENT" : "equal", r.instructions, r.steps, seconds);
    if (r.undefined_flags)
        fprintf(stderr, "; dead or undefined flags differed %" PRIu64 " times", r.undefined_flags);
    if (r.accessed_bits)
        fprintf(stderr, "; accessed bits %" PRIu64 " times", r.accessed_bits);
    fprintf(stderr, "; %s\n", r.reason);
    fwrite(r.report.data, 1, r.report.size, stderr);
    dp_buffer_fini(&r.report);
    return r.end == DP_LOCKSTEP_DIVERGED;
}

const struct cli_verb cli_lockstep = {
    .name = "lockstep",
    .summary = "runs one system on two engines and compares them (for work on engines)",
    .usage = "--kernel FILE [OPTION]...",
    .examples = "  doppel lockstep -k vmlinuz -i initrd.img -n 200000000          the translator against the interpreter\n"
                "  doppel lockstep -e interp,interp -k kernel.elf -t 30           is the interpreter the same with every budget?\n",
    .options = options,
    .option_count = DP_ARRAY_LEN(options),
    .run = run,
};
