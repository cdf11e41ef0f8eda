/* cli/run.c - `doppel run`: makes one VM from options, lends it this terminal, runs it to its end, passes on its status.
 *
 * Exit status: the guest's own (isa-debug-exit, the power-off latch), 124 time limit, 125 doppel's error, 2 usage, 128+n after signal n.
 * The main thread runs the event loop; signals that end the program are blocked everywhere and read from a signalfd there, so an end by
 * signal is an ordinary end: processors stopped, disks flushed, terminal restored.
 */
#include "cli/options.h"

#include <fcntl.h>
#include <inttypes.h>
#include <json.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/board.h"
#include "cli/disk.h"
#include "cli/guard.h"
#include "cli/media.h"
#include "console/console.h"
#include "display/options.h"
#include "vm/control.h"
#include "control/rundir.h"
#include "vm/vm.h"

struct run_options {
    const char *kernel, *append, *engine, *cpu, *name, *trace, *dump_blocks, *virtio_console, *file, *machine, *firmware, *boot, *firmware_log, *display, *printer, *nvram;
    const char *video, *input;
    struct cli_list initrd, disk, serial, cdrom, floppy, usb, nic, publish;
    struct cli_board board;
    uint64_t memory, cpus, timeout_ms, json_fd;
    bool no_reboot, json, no_rng, no_balloon, test_device, perf_map;
};

/* Checks of single values, for doppel.yaml; all of them are checked again, together, when the VM is made. */
static int check_disk_on(const char *option, const char *text, enum dp_vm_bus bus, struct dp_error *e)
{
    struct dp_vm_disk d = {0};
    int rc = cli_disk_parse(option, text, bus, &d, e);
    free((char *)d.path);
    return rc;
}
static int check_disk(const char *text, struct dp_error *e) { return check_disk_on("disk", text, DP_VM_VIRTIO, e); }
static int check_cdrom(const char *text, struct dp_error *e) { return check_disk_on("cdrom", text, DP_VM_CDROM, e); }
static int check_floppy(const char *text, struct dp_error *e) { return check_disk_on("floppy", text, DP_VM_FLOPPY, e); }
static int check_nic(const char *text, struct dp_error *e)
{
    struct dp_net_nic nic;
    return dp_net_parse_nic(text, &nic, e);
}
static int check_publish(const char *text, struct dp_error *e)
{
    struct dp_net_user_options o = {0};
    return dp_net_parse_publish(text, &o, e);
}
static int check_display(const char *text, struct dp_error *e)
{
    struct dp_display_options o = {0};
    return dp_display_parse(text, &o, e);
}

#define FIELD(member) offsetof(struct run_options, member)
static const struct cli_option options[] = {
    {"kernel", 'k', "FILE", CLI_STRING, FIELD(kernel), .help = "what to boot: Linux bzImage or vmlinux, Multiboot 1, ELF with a PVH note"},
    {"initrd", 'i', "FILE", CLI_LIST, FIELD(initrd), .max = DP_VM_INITRDS,
     .help = "initial RAM disk; again: concatenated (Linux) or further modules"},
    {"append", 'a', "STRING", CLI_STRING, FIELD(append), .help = "kernel command line (Linux, PVH: \"console=ttyS0\" if not given)"},
    {"machine", 0, "MODEL", CLI_STRING, FIELD(machine), .choices = "pc|q35|microvm",
     .help = "pc: with firmware, IDE, VGA and the like; q35: the same with PCI Express and SATA; microvm: without (microvm with --kernel, else pc)"},
    {"firmware", 0, "bios|uefi|FILE", CLI_STRING, FIELD(firmware), .help = "what a pc starts with: bios (SeaBIOS), uefi (OVMF), or an image of one's own (bios)"},
    {"nvram", 0, "FILE", CLI_STRING, FIELD(nvram), .help = "with uefi: keep its variables in this file, made if it is not there"},
    {"cdrom", 0, "FILE", CLI_LIST, FIELD(cdrom), .max = DP_VM_SATA_DRIVES, .help = "a CD in an IDE drive (q35: SATA; ,bus=scsi: SCSI); none: an empty drive", .check = check_cdrom, .first = "=file"},
    {"floppy", 0, "FILE[,ro]", CLI_LIST, FIELD(floppy), .max = DP_VM_FLOPPIES, .help = "a floppy disk in a drive; none: an empty 1.44M drive", .check = check_floppy, .first = "=file"},
    {"boot", 0, "KIND[,KIND]...", CLI_STRING, FIELD(boot), .help = "what firmware boots from, in order: floppy, cd, disk, usb, net, menu"},
    {"firmware-log", 0, "stdio|none|file:PATH", CLI_STRING, FIELD(firmware_log), .help = "where firmware's debug messages go (none)"},
    {"display", 0, "none|text|vnc[=ADDRESS]", CLI_STRING, FIELD(display),
     .help = "the screen: text on this terminal, or VNC on unix:PATH or HOST:PORT (with ,password-file=FILE) (none)", .check = check_display},
    {"video", 0, "vga|virtio|virtio-only|none[,WIDTHxHEIGHT]", CLI_STRING, FIELD(video),
     .help = "graphics: vga, or virtio (a pc shows its VGA, unless virtio-only, until the guest's driver is there), and the size the monitor prefers (a pc: vga, else none)"},
    {"input", 0, "ps2|virtio", CLI_STRING, FIELD(input), .choices = "ps2|virtio",
     .help = "keyboard and pointer: virtio ones are used when the guest has drivers (a pc: ps2, else virtio if there is a screen)"},
    {"printer", 0, "file:PATH", CLI_STRING, FIELD(printer), .help = "where a pc's parallel port prints to (none)"},
    {"uuid", 0, "UUID", CLI_STRING, FIELD(board.uuid), .help = "a pc's UUID, which SMBIOS tells (none)"},
    {"vmgenid", 0, "UUID|auto", CLI_STRING, FIELD(board.vmgenid), .help = "a pc's generation id, for guests that must notice to be copies (none)"},
    {"fw-cfg", 0, "name=opt/...,file=F|string=S", CLI_LIST, FIELD(board.fw_cfg), .max = DP_VM_FW_CFG_FILES,
     .help = "a file for a pc's guest, in /sys/firmware/qemu_fw_cfg; again: more", .first = "name"},
    {"speaker", 0, "file:PATH", CLI_STRING, FIELD(board.speaker), .help = "record what a pc's speaker plays, as WAV (none)"},
    {"memory", 'm', "SIZE", CLI_SIZE, FIELD(memory), .min = DP_VM_MEMORY_MIN, .help = "memory: 512M, 2G ... (512M)"},
    {"cpus", 'c', "N", CLI_UINT, FIELD(cpus), .min = 1, .max = DP_VM_CPUS_MAX, .help = "processors, 1 to 255 (1)"},
    {"disk", 'd', "FILE|volume=[POOL/]NAME[,format=raw|qcow2|...][,backing=any][,secret=FILE][,ro][,bus=virtio|ide|sata|scsi]", CLI_LIST, FIELD(disk), .max = DP_VM_DISKS,
     .help = "a disk (virtio: vda, vdb ...), or its address: http://, nbd:// ...; also serial=, block=512|4096, queues=N, copy=FILE (of what comes by "
             "HTTP) and fill=on; a comma in the name is written twice",
     .check = check_disk, .first = "=file"},
    {"nic", 0, DP_NET_NIC_HELP, CLI_LIST, FIELD(nic), .max = DP_VM_NICS,
     .help = "a network card (virtio, e1000, rtl8139, ne2k). user: a network of its own, by this host; also mtu=N, queues=N, restrict, no-host, hostname=, tftp=, "
             "bootfile=. network=NAME or switch=PATH: one of `doppel network`, with its options (vlan=N ...). tap=, macvtap=, packet=IF, udp=LOCAL/REMOTE: "
             "straight there (none)", .check = check_nic, .first = "user|network|switch|tap|macvtap|packet|udp|none"},
    {"publish", 'p', "[ADDR:]PORT:PORT[/udp]|unix:PATH:PORT", CLI_LIST, FIELD(publish), .max = DP_NET_FORWARDS,
     .help = "a port (or unix socket) of this host leads to one of the guest; makes a network card if there is none", .check = check_publish},
    {"usb", 0, "tablet|keyboard|mouse|storage=FILE[,ro]", CLI_LIST, FIELD(usb), .max = DP_VM_USB_DEVICES,
     .help = "a USB device (with a controller, xHCI): a pointer that follows the viewer's, a keyboard, a mouse, a disk", .first = "tablet|keyboard|mouse|storage"},
    {"engine", 'e', "NAME", CLI_STRING, FIELD(engine), .help = "what executes the guest: auto, or a name of `doppel doctor` (auto)"},
    {"cpu", 0, "MODEL", CLI_STRING, FIELD(cpu), .choices = "x86-64-v3|x86-64-v2|x86-64-v1",
     .help = "processor the guest sees: x86-64-v3, x86-64-v2 or x86-64-v1 (the highest that this host can run)"},
    {"timeout", 't', "SECONDS", CLI_SECONDS, FIELD(timeout_ms), .help = "end after this time with status 124"},
    {"serial", 's', "stdio|none|file:PATH", CLI_LIST, FIELD(serial), .max = DP_VM_SERIALS,
     .help = "first serial port (stdio); again: a second one"},
    {"virtio-console", 0, "[=stdio|none|file:PATH]", CLI_OPTIONAL, FIELD(virtio_console), .help = "add a virtio console, hvc0 (none)"},
    {"no-rng", 0, NULL, CLI_FLAG, FIELD(no_rng), .help = "no virtio entropy device"},
    {"no-balloon", 0, NULL, CLI_FLAG, FIELD(no_balloon), .help = "no balloon: the host keeps what the guest does not need any more"},
    {"test-device", 0, NULL, CLI_FLAG, FIELD(test_device), .help = "registers and interrupt lines for test kernels"},
    {"no-reboot", 0, NULL, CLI_FLAG, FIELD(no_reboot), .help = "end when the guest resets the machine"},
    {"name", 'n', "NAME", CLI_STRING, FIELD(name), .help = "name it, for `doppel list`, `stats` and `control` to reach it while it runs"},
    {"trace", 0, "CATEGORIES[,file=PATH]", CLI_STRING, FIELD(trace),
     .help = "say what happens inside: cpu, irq, pci, virtio, boot ... or all"},
    {"perf-map", 0, NULL, CLI_FLAG, FIELD(perf_map), .help = "name translated code for perf(1), in /tmp/perf-PID.map"},
    {"dump-blocks", 0, "FILE", CLI_STRING, FIELD(dump_blocks), .help = "write each translated block beside its guest code"},
    {"json", 0, NULL, CLI_FLAG, FIELD(json), .help = "at the end one JSON object on stderr: result, status, reason, counters"},
    {"json-fd", 0, "N", CLI_UINT, FIELD(json_fd), .max = 65535, .help = "the same to this file descriptor"},
};

static const struct cli_operand operands[] = {{"FILE", FIELD(file), .optional = true}};

enum { KEPT_MAX = 16384 }; /* bytes of messages that wait for the screen to go */
struct session {
    struct run_options o;
    struct dp_loop *loop;
    struct dp_trace trace;
    FILE *trace_file;
    struct dp_rundir rundir; /* with a name: its folder */
    struct dp_vm *vm;
    struct dp_control *control;
    struct dp_console *consoles[DP_VM_SERIALS + 4];
    struct dp_display_options display;
    struct dp_display_viewer viewer;
    struct cli_board_storage board;
    struct dp_wav *speaker;
    struct dp_console *screen; /* the terminal's, for --display text */
    pthread_mutex_t kept_lock; /* of the two below */
    bool keep_lines;
    struct dp_buffer kept;
    unsigned console_count;
    bool stdio_taken;
    int signal_fd;
};

/* One line on stderr; a terminal in raw mode needs the carriage return. */
static void say(const char *format, ...) DP_PRINTF(1, 2);
static void say(const char *format, ...)
{
    char text[1000];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    fprintf(stderr, "doppel: %s%s", text, isatty(STDERR_FILENO) ? "\r\n" : "\n");
}

/* Libraries also tell, unasked, what a user must know (a disk that fails): those lines are of categories that --trace did not name. */
static bool is_notice(const struct session *s, const char *line)
{
    size_t n = strcspn(line, ":");
    for (unsigned c = 0; c < DP_TRACE_COUNT; c++)
        if (strlen(dp_trace_name(c)) == n && !strncmp(dp_trace_name(c), line, n))
            return !dp_trace_on(&s->trace, c);
    return false;
}

/* While the guest's screen is on the terminal nothing else may write there: lines are kept for the end. False: write it now. */
static bool keep_line(struct session *s, const char *line)
{
    pthread_mutex_lock(&s->kept_lock);
    bool keep = s->keep_lines;
    if (keep && s->kept.size < KEPT_MAX)
        dp_buffer_printf(&s->kept, "%s%s\n", is_notice(s, line) ? "doppel: " : "",
                         is_notice(s, line) ? line + strcspn(line, ":") + strlen(": ") : line);
    pthread_mutex_unlock(&s->kept_lock);
    return keep;
}

static void stop_keeping(struct session *s)
{
    pthread_mutex_lock(&s->kept_lock);
    s->keep_lines = false;
    if (s->kept.size && !s->kept.failed)
        fprintf(stderr, "%.*s%s", (int)s->kept.size, (const char *)s->kept.data,
                s->kept.size >= KEPT_MAX ? "doppel: ... and more of these\n" : "");
    dp_buffer_fini(&s->kept);
    pthread_mutex_unlock(&s->kept_lock);
}

static void trace_line(void *opaque, const char *line)
{
    struct session *s = opaque;
    if ((is_notice(s, line) || !s->trace_file) && keep_line(s, line))
        return;
    if (is_notice(s, line))
        say("%s", line + strcspn(line, ":") + strlen(": "));
    else if (s->trace_file)
        fprintf(s->trace_file, "%s\n", line);
    else
        fprintf(stderr, "%s%s", line, isatty(STDERR_FILENO) ? "\r\n" : "\n");
}

/* ---- values with parts ---- */

static int parse_usb(const struct run_options *o, struct dp_vm_config *c, struct dp_error *e)
{
    static const char storage[] = "storage=";
    int rc = 0;
    for (unsigned i = 0; !rc && i < o->usb.count; i++) {
        const char *what = o->usb.value[i];
        if (!strcmp(what, "tablet"))
            c->usb_tablets++;
        else if (!strcmp(what, "keyboard"))
            c->usb_keyboards++;
        else if (!strcmp(what, "mouse"))
            c->usb_mice++;
        else if (strncmp(what, storage, sizeof storage - 1))
            rc = dp_error_set(e, -EINVAL, "--usb %s: possible are tablet, keyboard, mouse and storage=FILE", what);
        else if (c->disk_count == DP_VM_DISKS)
            rc = dp_error_set(e, -EINVAL, "at most %d disks are possible", DP_VM_DISKS);
        else
            rc = cli_disk_parse("usb", what + sizeof storage - 1, DP_VM_USB, &c->disk[c->disk_count++], e);
    }
    return rc;
}

/* All disks, in the order of their drives: the operand first. */
static int parse_disks(const struct run_options *o, struct dp_vm_config *c, struct dp_error *e)
{
    const struct {
        const char *option;
        const struct cli_list *list;
        enum dp_vm_bus bus;
    } lists[] = {{"disk", &o->disk, DP_VM_VIRTIO}, {"cdrom", &o->cdrom, DP_VM_CDROM}, {"floppy", &o->floppy, DP_VM_FLOPPY}};
    int rc = 0;
    if (o->file) {
        static const enum dp_vm_bus buses[] = {[CLI_MEDIA_DISK] = DP_VM_IDE, [CLI_MEDIA_CDROM] = DP_VM_CDROM, [CLI_MEDIA_FLOPPY] = DP_VM_FLOPPY};
        enum cli_media kind;
        char *path = strdup(o->file);
        if (!path)
            return dp_error_set(e, -ENOMEM, "no memory");
        c->disk[c->disk_count++] = (struct dp_vm_disk){.path = path};
        if ((rc = cli_media_kind(o->file, &kind, e)))
            return rc;
        c->disk[0].bus = kind == CLI_MEDIA_DISK && c->q35 ? DP_VM_SATA : buses[kind];
        c->disk[0].readonly = kind == CLI_MEDIA_CDROM;
    }
    for (size_t k = 0; k < DP_ARRAY_LEN(lists); k++)
        for (unsigned i = 0; !rc && i < lists[k].list->count; i++) {
            if (c->disk_count == DP_VM_DISKS)
                return dp_error_set(e, -EINVAL, "at most %d disks are possible", DP_VM_DISKS);
            rc = cli_disk_parse(lists[k].option, lists[k].list->value[i], lists[k].bus, &c->disk[c->disk_count++], e);
        }
    return rc ? rc : parse_usb(o, c, e);
}

/* In the order of parse_disks. */
static int recheck_disks(const struct run_options *o, const struct dp_vm_config *c, struct dp_error *e)
{
    const struct cli_list *lists[] = {&o->disk, &o->cdrom, &o->floppy, &o->usb};
    static const char storage[] = "storage=";
    unsigned at = o->file != NULL;
    int rc = 0;
    for (size_t k = 0; k < DP_ARRAY_LEN(lists); k++)
        for (unsigned i = 0; !rc && i < lists[k]->count; i++) {
            const char *text = lists[k]->value[i];
            bool usb = lists[k] == &o->usb, is_disk = !usb || !strncmp(text, storage, sizeof storage - 1);
            if (is_disk)
                rc = cli_disk_recheck(text + (usb ? sizeof storage - 1 : 0), &c->disk[at++], e);
        }
    return rc;
}

/* The cards. Published ports are the first one's that has a network. */
static int parse_nics(const struct run_options *o, bool uefi, struct dp_vm_config *c, struct dp_error *e)
{
    struct dp_net_nic *published = NULL;
    char names[200];
    int rc;
    for (; c->nic_count < o->nic.count; c->nic_count++) {
        struct dp_net_nic *n = &c->nic[c->nic_count].net;
        if ((rc = dp_net_parse_nic(o->nic.value[c->nic_count], n, e)))
            return dp_error_prefix(e, rc, "--nic %s", o->nic.value[c->nic_count]);
        if (!dp_vm_nic_model(n->model, names, sizeof names))
            return dp_error_set(e, -EINVAL, "--nic: there is no network card '%s': possible are %s", n->model, names);
        if (!published && n->kind == DP_NET_USER)
            published = n;
    }
    if (o->publish.count && !o->nic.count) {
        published = &c->nic[c->nic_count++].net;
        published->kind = DP_NET_USER;
    }
    for (unsigned i = 0; i < o->publish.count; i++) {
        if (!published)
            return dp_error_set(e, -EINVAL, "--publish %s: there is no network card: give --nic user", o->publish.value[i]);
        if ((rc = dp_net_parse_publish(o->publish.value[i], &published->user, e)))
            return dp_error_prefix(e, rc, "--publish");
    }
    for (unsigned i = 0; i < c->nic_count && c->firmware; i++)
        c->nic[i].rom = cli_nic_rom(c->nic[i].net.model, uefi);
    return 0;
}

/* "cd,disk" into letters of struct dp_pc_firmware. */
static int parse_boot(const char *text, char *letters, size_t size, bool *menu, struct dp_error *e)
{
    static const struct {
        const char *name;
        char letter;
    } kinds[] = {{"floppy", 'a'}, {"disk", 'c'}, {"cd", 'd'}, {"net", 'n'}, {"usb", 'u'}, {"menu", 0}};
    size_t count = 0;
    for (const char *p = text;; p++) {
        size_t n = strcspn(p, ","), k = 0;
        while (k < DP_ARRAY_LEN(kinds) && (strlen(kinds[k].name) != n || strncmp(kinds[k].name, p, n)))
            k++;
        if (k == DP_ARRAY_LEN(kinds) || count + 1 >= size)
            return dp_error_set(e, -EINVAL, "--boot %s: '%.*s' is not known: possible are floppy, cd, disk, usb, net and menu", text, (int)DP_MIN(n, (size_t)40), p);
        if (kinds[k].letter)
            letters[count++] = kinds[k].letter;
        else
            *menu = true;
        p += n;
        if (!*p)
            break;
    }
    letters[count] = 0;
    return 0;
}

/* "virtio,1920x1080". After choose_machine. */
static int parse_video(const struct run_options *o, struct dp_vm_config *c, struct dp_error *e)
{
    const char *video = o->video ? o->video : "", *size = strchr(video, ',');
    size_t n = strcspn(video, ",");
    bool only = n == 11 && !strncmp(video, "virtio-only", n), virtio = only || (n == 6 && !strncmp(video, "virtio", n)), vga = n == 3 && !strncmp(video, "vga", n), none = n == 4 && !strncmp(video, "none", n);
    int end = 0;
    if (o->video && !virtio && !vga && !none)
        return dp_error_set(e, -EINVAL, "--video %s: possible are vga, virtio, virtio-only (all with a size: virtio,1280x800) and none", video);
    if (vga && !c->firmware)
        return dp_error_set(e, -EINVAL, "--video vga is for --machine pc: a microvm has virtio or none");
    if (size && (none || sscanf(size, ",%4ux%4u%n", &c->screen_width, &c->screen_height, &end) != 2 || size[end] || c->screen_width < 64 ||
                 c->screen_width > 4080 || c->screen_height < 64 || c->screen_height > 4080))
        return dp_error_set(e, -EINVAL, "--video %s: a size is from 64x64 to 4080x4080: virtio,1920x1080", video);
    c->virtio_gpu = virtio;
    c->no_vga = none || only;
    c->virtio_input = o->input && !strcmp(o->input, "virtio");
    if (o->input && !c->virtio_input && !c->firmware)
        return dp_error_set(e, -EINVAL, "--input ps2 is for --machine pc");
    if (o->display && !virtio && (none || !c->firmware) && strcmp(o->display, "none"))
        return dp_error_set(e, -EINVAL, "--display %s: there is no screen without %s", o->display, none ? "--video vga or virtio" : "--video virtio");
    if (o->display && (!c->firmware || only) && !strncmp(o->display, "text", 4))
        return dp_error_set(e, -EINVAL, "--display text is for --video vga: virtio's screen is a picture, use --display vnc");
    return 0;
}

/* Which board, and what is in its ROM. */
static int choose_machine(const struct run_options *o, struct dp_vm_config *c, char *boot_order, size_t size, struct dp_error *e)
{
    c->q35 = o->machine && !strcmp(o->machine, "q35");
    bool pc = o->machine ? c->q35 || !strcmp(o->machine, "pc") : !o->kernel;
    if (pc && o->kernel)
        return dp_error_set(e, -EINVAL, "--machine pc and q35 start firmware, which boots from disks: --kernel is for --machine microvm");
    if (!pc && (o->firmware || o->boot || o->firmware_log || o->printer || o->nvram))
        return dp_error_set(e, -EINVAL, "--firmware, --nvram, --firmware-log, --boot and --printer are for --machine pc and q35");
    if (!pc)
        return o->kernel ? 0 : dp_error_set(e, -EINVAL, "nothing to boot: give --kernel FILE");
    if (!o->machine && !o->firmware && !o->file && !o->disk.count && !o->cdrom.count && !o->floppy.count && !o->usb.count && !(o->nic.count && o->boot))
        return dp_error_set(e, -EINVAL, "nothing to boot: give a disk, CD or floppy image, or --kernel FILE");
    c->firmware = cli_firmware(o->firmware ? o->firmware : "bios", &c->variables, e);
    c->vga_bios = cli_vga_bios();
    if (!c->firmware)
        return e->code;
    if (o->nvram && !c->variables)
        return dp_error_set(e, -EINVAL, "--nvram is for --firmware uefi");
    if (o->nvram) {
        int rc = cli_make_variables(o->nvram, c->variables, e);
        if (rc)
            return rc;
        c->variables = o->nvram;
        c->keep_variables = true;
    }
    if (o->boot) {
        c->boot_order = boot_order;
        return parse_boot(o->boot, boot_order, size, &c->boot_menu, e);
    }
    return 0;
}

static int parse_trace(struct session *s, struct dp_error *e)
{
    unsigned mask;
    char *categories = strdup(s->o.trace);
    if (!categories)
        return dp_error_set(e, -ENOMEM, "no memory");
    char *file = strstr(categories, ",file=");
    if (file) {
        *file = 0;
        file += strlen(",file=");
    }
    int rc = dp_trace_parse(categories, &mask, e);
    if (rc)
        dp_error_prefix(e, rc, "--trace");
    if (!rc && file && !(s->trace_file = fopen(file, "we")))
        rc = dp_error_set(e, -errno, "--trace: file %s: %s", file, strerror(errno));
    if (!rc)
        atomic_store(&s->trace.mask, mask);
    if (s->trace_file)
        setvbuf(s->trace_file, NULL, _IOLBF, 0);
    free(categories);
    return rc;
}

static void quit_escape(void *opaque) { dp_vm_stop(((struct session *)opaque)->vm, 0, "ended from the console (C-a x)"); }

static void status_escape(void *opaque, struct dp_buffer *out)
{
    struct session *s = opaque;
    struct dp_engine_counters c;
    dp_vm_counters(s->vm, &c);
    dp_buffer_printf(out, "%s, engine %s, up %.1f s, %" PRIu64 " %s, %" PRIu64 " interrupts\n",
                     dp_vm_phase_name(dp_vm_phase(s->vm)), dp_vm_engine_name(s->vm), (double)dp_vm_uptime_ns(s->vm) / 1e9,
                     c.instructions ? c.instructions : c.interpreted, c.instructions ? "instructions" : "instructions interpreted", c.interrupts);
}

/* "stdio", "none" or "file:PATH": *out is NULL for none. */
static int open_console(struct session *s, const char *option, const char *where, struct dp_console **out, struct dp_error *e)
{
    int rc = 0;
    *out = NULL;
    if (!strcmp(where, "stdio")) {
        const struct dp_console_escapes escapes = {quit_escape, status_escape, s};
        if (s->stdio_taken)
            return dp_error_set(e, -EINVAL, "--%s stdio: another console is there already: use file:PATH or none", option);
        s->stdio_taken = true;
        rc = dp_console_open_stdio(s->loop, &escapes, out, e);
    } else if (!strncmp(where, "file:", 5) && where[5]) {
        rc = dp_console_open_file(s->loop, where + 5, out, e);
    } else if (strcmp(where, "none")) {
        return dp_error_set(e, -EINVAL, "--%s %s: give stdio, none or file:PATH", option, where);
    }
    if (rc)
        return dp_error_prefix(e, rc, "--%s %s", option, where);
    if (*out)
        s->consoles[s->console_count++] = *out;
    return 0;
}

/* ---- signals and the end ---- */

static void on_signal(void *opaque, int fd, uint32_t events)
{
    struct session *s = opaque;
    struct signalfd_siginfo info;
    char reason[64];
    if (read(fd, &info, sizeof info) != sizeof info)
        return;
    snprintf(reason, sizeof reason, "ended by signal %u (SIG%s)", info.ssi_signo, sigabbrev_np((int)info.ssi_signo));
    dp_vm_stop(s->vm, 128 + (int)info.ssi_signo, reason);
}

static void on_ended(void *opaque) { dp_loop_stop(((struct session *)opaque)->loop); }

static int open_signals(struct session *s, struct dp_error *e)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN); /* a reader of our output may go away */
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signal_fd < 0)
        return dp_error_set(e, -errno, "cannot receive signals: %s", strerror(errno));
    return dp_loop_watch(s->loop, s->signal_fd, EPOLLIN, on_signal, s) ? dp_error_set(e, -EIO, "cannot watch for signals") : 0;
}

/* What is told at the end, taken while there is still a VM to ask. */
struct summary {
    const char *result, *engine, *protocol; /* constant strings; engine NULL: no VM was made */
    char reason[500];
    int status;
    double seconds;
    struct dp_engine_counters counters;
    struct dp_buffer report;
};

static void summarize(struct session *s, struct summary *sum)
{
    const struct dp_vm_result *r = dp_vm_result(s->vm);
    sum->result = dp_vm_end_name(r->end);
    sum->status = r->status & 0xff;
    snprintf(sum->reason, sizeof sum->reason, "%s", r->reason);
    dp_buffer_append(&sum->report, r->report.data, r->report.size);
    sum->engine = dp_vm_engine_name(s->vm);
    sum->protocol = dp_vm_boot_protocol(s->vm);
    sum->seconds = (double)dp_vm_uptime_ns(s->vm) / 1e9;
    dp_vm_counters(s->vm, &sum->counters);
}

static void print_json(int fd, const struct summary *sum)
{
    struct json_object *o = json_object_new_object();
    json_object_object_add(o, "version", json_object_new_string(DOPPEL_VERSION));
    json_object_object_add(o, "result", json_object_new_string(sum->result));
    json_object_object_add(o, "status", json_object_new_int(sum->status));
    json_object_object_add(o, "reason", json_object_new_string(sum->reason));
    if (sum->engine) {
        struct json_object *counters = json_object_new_object();
        for (unsigned i = 0; i < DP_ENGINE_COUNTER_COUNT; i++)
            json_object_object_add(counters, dp_engine_counter_list[i].name,
                                   json_object_new_uint64(dp_engine_counter_value(&sum->counters, i)));
        json_object_object_add(o, "engine", json_object_new_string(sum->engine));
        json_object_object_add(o, "protocol", json_object_new_string(sum->protocol));
        json_object_object_add(o, "seconds", json_object_new_double(sum->seconds));
        json_object_object_add(o, "counters", counters);
    }
    dprintf(fd, "%s\n", json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN));
    json_object_put(o);
}

/* ---- the verb ---- */

static int serve(struct session *s, struct dp_error *e)
{
    char path[DP_RUNDIR_PATH_MAX];
    int rc = dp_rundir_socket(s->o.name, path, sizeof path, e);
    if (!rc)
        rc = dp_control_create(s->loop, s->vm, s->o.name, &s->control, e);
    return rc ? rc : dp_control_listen(s->control, path, e);
}

/* Options into a VM. *usage: the error is the caller's way of asking, not this host's. */
static int make(struct session *s, bool *usage, struct dp_error *e)
{
    struct run_options *o = &s->o;
    struct dp_vm_config c = {
        .memory = o->memory,
        .cpus = (unsigned)o->cpus,
        .cpu_model = o->cpu,
        .engine = o->engine,
        .kernel = o->kernel,
        .name = o->name,
        .cmdline = o->append,
        .no_rng = o->no_rng,
        .no_balloon = o->no_balloon,
        .test_device = o->test_device,
        .no_reboot = o->no_reboot,
        .virtio_console = o->virtio_console,
        .perf_map = o->perf_map,
        .dump_path = o->dump_blocks,
        .timeout_ms = o->timeout_ms,
        .trace = &s->trace,
        .ended = on_ended,
        .opaque = s,
        .initrd_count = o->initrd.count,
    };
    char boot_order[16];
    *usage = true;
    memcpy(c.initrd, o->initrd.value, sizeof *c.initrd * o->initrd.count);
    int rc = choose_machine(o, &c, boot_order, sizeof boot_order, e);
    if (!rc)
        rc = parse_video(o, &c, e);
    if (!rc)
        rc = parse_disks(o, &c, e);
    if (!rc)
        rc = cli_board_parse(&o->board, c.firmware, &c, &s->board, e);
    if (!rc)
        rc = parse_nics(o, c.variables, &c, e);
    if (!rc && o->display)
        rc = dp_display_parse(o->display, &s->display, e);
    if (!rc && o->trace)
        rc = parse_trace(s, e);
    if (!rc && o->name && (rc = dp_rundir_check_name(o->name, e)))
        dp_error_prefix(e, rc, "--name");
    if (!rc) {
        *usage = false;
        rc = dp_loop_create(&s->loop, e);
        c.loop = s->loop;
    }
    if (!rc)
        rc = open_signals(s, e);
    if (!rc && o->name)
        rc = dp_rundir_claim(o->name, &s->rundir, e);
    if (!o->serial.count)
        o->serial.value[o->serial.count++] = s->display.kind == DP_DISPLAY_TEXT ? "none" : "stdio";
    for (unsigned i = 0; !rc && i < o->serial.count; i++)
        rc = open_console(s, "serial", o->serial.value[i], &c.serial[i], e);
    if (!rc && o->virtio_console)
        rc = open_console(s, "virtio-console", *o->virtio_console ? o->virtio_console : "none", &c.virtio_console_backend, e);
    if (!rc && o->firmware_log)
        rc = open_console(s, "firmware-log", o->firmware_log, &c.debug, e);
    if (!rc && o->printer)
        rc = open_console(s, "printer", o->printer, &c.printer, e);
    if (!rc && o->board.speaker && !(rc = cli_board_speaker(o->board.speaker, &s->speaker, e)))
        c.speaker = dp_wav_sound(s->speaker);
    if (!rc && s->display.kind == DP_DISPLAY_TEXT)
        rc = open_console(s, "display", "stdio", &s->screen, e);
    if (!rc)
        rc = dp_vm_create(&c, &s->vm, e);
    if (!rc)
        rc = recheck_disks(o, &c, e);
    for (unsigned i = 0; i < c.disk_count; i++)
        free((char *)c.disk[i].path);
    cli_board_fini(&s->board);
    if (!rc && o->name)
        rc = serve(s, e);
    return rc;
}

/* After all that is said on the terminal: the screen may be shown there. */
static int show(struct session *s, struct cli_guard *guard, struct dp_error *e)
{
    const struct dp_vm_screen *screen = dp_vm_screen(s->vm);
    char path[DP_RUNDIR_PATH_MAX + 8], line[400];
    if (s->display.kind == DP_DISPLAY_NONE)
        return 0;
    snprintf(path, sizeof path, "%s/vnc", s->rundir.path);
    int rc = dp_display_open(&s->viewer, &s->display, s->loop, s->screen, s->o.name ? path : NULL, s->o.name, &screen->source, &screen->sink, e);
    if (rc)
        return rc;
    if (s->display.kind == DP_DISPLAY_TEXT) {
        cli_guard_screen(guard);
        s->keep_lines = isatty(STDERR_FILENO);
    }
    dp_display_describe(&s->viewer, line, sizeof line);
    if (*line)
        say("%s", line);
    return 0;
}

static void announce(const struct session *s)
{
    uint64_t memory = s->o.memory ? s->o.memory : DP_VM_MEMORY_DEFAULT;
    const char *why = dp_vm_engine_why(s->vm), *protocol = dp_vm_boot_protocol(s->vm);
    say("PC with %u processor%s, %" PRIu64 "M; engine %s%s%s%s; %s", (unsigned)s->o.cpus, s->o.cpus == 1 ? "" : "s", memory >> 20,
        dp_vm_engine_name(s->vm), *why ? " (" : "", why, *why ? ")" : "", *protocol ? protocol : "started by firmware");
    if (s->stdio_taken && isatty(STDIN_FILENO))
        say("keys: C-a x ends, C-a c tells the status, C-a h helps, C-a a sends C-a");
}

static int run(int argc, char **argv)
{
    struct session s = {.signal_fd = -1, .o = {.cpus = 1}, .kept_lock = PTHREAD_MUTEX_INITIALIZER};
    struct summary sum = {.result = "error"};
    struct dp_error e = {0};
    struct cli_guard guard;
    switch (cli_parse(&cli_run, argc, argv, &s.o, &e)) {
    case CLI_HELP:
        cli_help(&cli_run, stdout);
        return 0;
    case CLI_USAGE:
        say("%s", e.text);
        return EXIT_STATUS_USAGE;
    }
    s.trace.sink = trace_line;
    s.trace.opaque = &s;

    bool usage;
    cli_guard_start(&guard);
    int rc = make(&s, &usage, &e);
    if (!rc) {
        announce(&s);
        rc = show(&s, &guard, &e);
    }
    if (!rc)
        rc = dp_vm_start(s.vm, &e);
    if (!rc) {
        dp_loop_run(s.loop);
        summarize(&s, &sum);
    } else {
        sum.status = usage ? EXIT_STATUS_USAGE : EXIT_STATUS_ERROR;
        snprintf(sum.reason, sizeof sum.reason, "%s", e.text);
    }

    /* Devices leave their consoles, consoles flush and restore the terminal, and only then something is said on it. */
    dp_control_destroy(s.control);
    dp_display_close(&s.viewer);
    dp_vm_destroy(s.vm);
    struct dp_error lost[DP_ARRAY_LEN(s.consoles)] = {0}, sound_lost = {0};
    if (dp_wav_close(s.speaker, &sound_lost) && !sum.status)
        sum.status = EXIT_STATUS_ERROR;
    for (unsigned i = 0; i < s.console_count; i++) {
        dp_console_drain(s.consoles[i]);
        /* A guest that ended well is no success when what it said is lost; a reader that went away wanted no more. */
        int code = dp_console_error(s.consoles[i], &lost[i]);
        if (code && code != -EPIPE && !sum.status)
            sum.status = EXIT_STATUS_ERROR;
        dp_console_close(s.consoles[i]);
    }
    cli_guard_stop(&guard);
    stop_keeping(&s);
    if (strcmp(sum.result, "poweroff") && strcmp(sum.result, "exit"))
        say("%s", sum.reason);
    if (sum.report.size)
        fprintf(stderr, "%.*s%s", (int)sum.report.size, (const char *)sum.report.data,
                sum.report.data[sum.report.size - 1] == '\n' ? "" : "\n");
    dp_buffer_fini(&sum.report);
    for (unsigned i = 0; i < s.console_count; i++)
        if (lost[i].code)
            say("%s", lost[i].text);
    if (sound_lost.code)
        say("--speaker: %s", sound_lost.text);
    if (s.o.json || s.o.json_fd)
        print_json(s.o.json_fd ? (int)s.o.json_fd : STDERR_FILENO, &sum);
    if (s.signal_fd >= 0) {
        dp_loop_unwatch(s.loop, s.signal_fd);
        close(s.signal_fd);
    }
    dp_rundir_release(&s.rundir);
    dp_loop_destroy(s.loop);
    if (s.trace_file)
        fclose(s.trace_file);
    return sum.status;
}

const struct cli_verb cli_run = {
    .name = "run",
    .summary = "runs a system in a virtual machine",
    .usage = "FILE|--kernel FILE [OPTION]...",
    .examples = "  doppel run disk.img                                               what the disk holds, by its BIOS boot loader\n"
                "  doppel run debian.iso --disk disk.img,bus=ide -m 2G                a CD, and a disk to install on\n"
                "  doppel run --kernel /boot/vmlinuz --initrd initrd.img              Linux, serial console on this terminal\n"
                "  doppel run -k vmlinuz -i initrd.img -a 'console=ttyS0 quiet' -m 1G -c 2 -d disk.raw\n"
                "  doppel run -k kernel.elf --timeout 10 --serial file:log.txt        Multiboot kernel; its exit status becomes doppel's\n"
                "  doppel run debian.img -m 1G -p 2222:22                             with a network; ssh -p 2222 localhost reaches it\n"
                "  doppel run -k vmlinuz -i initrd.img --json </dev/null              for programs\n"
                "  doppel run -k vmlinuz -i initrd.img --name web                     with a name: see `doppel stats --help`\n",
    .options = options,
    .option_count = DP_ARRAY_LEN(options),
    .operands = operands,
    .operand_count = DP_ARRAY_LEN(operands),
    .run = run,
};
