/* machine/pc.h - a PC: which devices there are, where they are mapped, how they are wired. No processors: those are the vm's and its
 * engine's.
 *
 * Model: dp_pc_create makes RAM, spaces and devices from tables in pc.c. Without firmware dp_pc_boot does its work (BIOS data area,
 * PCI addresses, ACPI tables) and loads a kernel. With firmware the board is an i440FX's or a Q35's (chipset.h), processors start at the
 * reset vector, and
 * dp_pc_boot only prepares what firmware asks for. The machine reaches processors by one callback, processors reach it by struct dp_x86_bus
 * and the spaces. Memory map: RAM below 3 GiB (a Q35 with more than 2816 MiB: 2 GiB) and from 4 GiB up, with the hole 0xA0000-0xBFFFF; PCI
 * windows 0xC0000000-0xDFFFFFFF and above
 * RAM; configuration space by memory 0xE0000000; I/O APIC 0xFEC00000; local APICs 0xFEE00000 (inside the engine). Source: Intel 82371
 * (PIIX) for the port layout that PCs kept; ACPI 6.4 section 15 for the memory map.
 */
#ifndef DP_MACHINE_PC_H
#define DP_MACHINE_PC_H

#include "console/wav.h"
#include "devices/device.h"
#include "devices/usb/xhci.h"
#include "display/display.h"
#include "display/input.h"
#include "engine/engine.h"
#include "machine/boot/boot.h"

struct dp_block;
struct dp_console;
struct dp_pc;

enum { DP_PC_SERIALS = 2, DP_PC_DISKS = 24, DP_PC_NICS = 4, DP_PC_USB = DP_XHCI_PORTS, DP_PC_CPUS_MAX = 255 };
#define DP_PC_LOW_RAM_MAX 0xc0000000ull

/* A board with firmware, and everything old that firmware and systems without virtio look for: i440FX and PIIX3 with IDE, or Q35 and ICH9
 * with PCI Express'
 * configuration space and SATA. */
enum dp_pc_board { DP_PC_I440FX, DP_PC_Q35 };
enum { DP_PC_IDE_DRIVES = 4, DP_PC_SATA_DRIVES = 6 };

struct dp_net_port;
struct dp_pc_nic {
    const char *model;        /* see dp_pc_nic_model */
    uint8_t mac[6];
    uint32_t mtu;             /* virtio: told to the guest; 0: not told */
    unsigned queues;          /* virtio: pairs of them; 0: as many as processors, 8 at most */
    struct dp_net_port *port; /* where its cable leads to; not owned, outlives the machine. NULL: no cable */
    struct dp_boot_blob rom;  /* to boot from it; none: size 0 */
};

struct dp_pc_drive {
    struct dp_block *block; /* NULL: of a CD drive: no disc; else: no drive */
    bool cdrom;
    const char *serial;     /* of a disk; NULL: made up; lives as long as the machine */
};
/* A disk on virtio-blk, or a disk or CD-ROM drive on the virtio SCSI controller. */
struct dp_pc_disk {
    struct dp_block *block; /* not owned; NULL: a CD-ROM drive without a disc */
    bool cdrom;             /* SCSI only */
    const char *serial;     /* NULL: made up; lives as long as the machine */
    unsigned sector;        /* bytes of a logical block: 512 (or 0), 4096 */
    bool write_through;     /* the guest's write cache is off at first */
    unsigned queues;        /* virtio-blk only; 0: as many as processors, 4 at most */
};
struct dp_pc_firmware {
    enum dp_pc_board board;
    struct dp_boot_blob bios;     /* ends below 4 GiB; its last 128 KiB are at 0xE0000, too */
    struct dp_boot_blob vga_bios; /* none: size 0 */
    struct dp_boot_blob variables; /* flash for UEFI variables right below the firmware, whose changes are lost; none: size 0 */
    const char *variables_path;   /* the same in a file that keeps them; NULL: none */
    struct dp_console *debug;     /* what firmware logs (port 0x402), may be NULL */
    struct dp_console *printer;   /* what the printer prints, may be NULL */
    struct dp_pc_drive drive[DP_PC_SATA_DRIVES]; /* SATA ports; or the four of IDE: primary master, slave, secondary master, slave */
    struct dp_block *floppy[2];
    bool empty_floppy[2];         /* a 1.44M drive without a disk, where floppy[] is NULL */
    const char *boot_order;       /* letters: a floppy, c disk, d CD, n network; NULL: what firmware thinks */
    bool boot_menu;
    uint8_t uuid[16];             /* of the machine, in the order of its text; all zeros: it has none */
    const char *name;             /* NULL: none */
    struct dp_sound speaker;      /* may be empty */
    bool vmgenid;                 /* a generation id, which is this: */
    uint8_t generation[16];
    const struct dp_boot_blob *file; /* the user's own files of fw_cfg */
    unsigned file_count;
};

struct dp_pc_config {
    const struct dp_pc_firmware *firmware; /* lives as long as the machine; NULL: a PC without firmware, and without all that it serves */
    uint64_t memory; /* bytes, a multiple of the page size */
    unsigned cpus;
    const struct x86_cpuid_model *model; /* lives as long as the machine */
    struct dp_loop *loop;
    struct dp_clock *clock;
    struct dp_trace *trace;
    struct dp_vm_sink vm;
    /* Interrupts and the like for a processor: any thread, no lock held, from dp_pc_create on. */
    void (*line)(void *opaque, unsigned cpu, enum dp_line line, unsigned value);
    /* The guest has let go of cards: dp_pc_ejected is due. A processor's thread, no lock held. May be NULL: they stay. */
    void (*eject)(void *opaque);
    void *opaque;
    struct dp_console *serial[DP_PC_SERIALS]; /* NULL: the first drops its output, others do not exist */
    bool rng, balloon, virtio_console, test_device;
    bool no_vga;       /* with firmware: no VGA */
    bool virtio_gpu;   /* a virtio-gpu; without firmware with virtio_input */
    bool virtio_input; /* virtio's keyboard and tablet */
    unsigned screen_width, screen_height; /* what the monitor prefers; 0: VGA's tells nothing, virtio-gpu's its own idea */
    struct dp_console *virtio_console_backend;
    struct dp_pc_nic nic[DP_PC_NICS];
    unsigned nic_count;
    struct dp_pc_disk disk[DP_PC_DISKS]; /* virtio-blk */
    unsigned disk_count;
    struct dp_pc_disk scsi[DP_PC_DISKS]; /* the n-th is target n; with any of them there is a controller */
    unsigned scsi_count;
    struct {
        enum dp_usb_kind kind;
        struct dp_block *block; /* of storage; not owned */
    } usb[DP_PC_USB];           /* with any of them there is a controller */
    unsigned usb_count;
};
/* The most memory that fits under a processor's physical addresses beside the windows. */
uint64_t dp_pc_memory_max(const struct x86_cpuid_model *model);

/* Is there such a model of network card ("" is the default)? names: all of them, for people. */
bool dp_pc_nic_model(const char *model, char *names, size_t size);

int dp_pc_create(const struct dp_pc_config *c, struct dp_pc **out, struct dp_error *e) DP_MUST_CHECK;
void dp_pc_destroy(struct dp_pc *pc); /* NULL is fine */
void dp_pc_reset(struct dp_pc *pc);   /* processors do not run */
void dp_pc_pause(struct dp_pc *pc);
void dp_pc_resume(struct dp_pc *pc);

struct dp_pc_kernel {
    struct dp_boot_blob kernel;
    const struct dp_boot_blob *initrd;
    unsigned initrd_count;
    const char *cmdline;
};
/* The firmware's part after each reset. k may be NULL: no kernel; then *cpu and *protocol stay as they are. */
int dp_pc_boot(struct dp_pc *pc, const struct dp_pc_kernel *k, struct x86_state *cpu, const char **protocol,
               struct dp_error *e) DP_MUST_CHECK;
/* What firmware leaves in every processor and kernels build on: memory types. On top of a reset or boot state. */
void dp_pc_firmware_state(const struct dp_pc *pc, struct x86_state *s);

struct dp_space *dp_pc_memory(struct dp_pc *pc);
struct dp_space *dp_pc_ports(struct dp_pc *pc);
struct dp_space *dp_pc_smm_memory(struct dp_pc *pc); /* in system management mode; NULL: as always */
void dp_pc_bus(struct dp_pc *pc, unsigned cpu, struct dp_x86_bus *bus);

/* The screen and the keyboard; both live as long as the machine. False: it has no screen. */
bool dp_pc_screen(struct dp_pc *pc, struct dp_display_source *screen, struct dp_input_sink *keys);

/* Another medium for the n-th CD or floppy drive, in the configuration's order, or none (NULL): dp_ide_change_medium,
 * dp_fdc_change_medium. The old one is not in use any more when this returns 0. */
int dp_pc_change_scsi_medium(struct dp_pc *pc, unsigned target, struct dp_block *medium, struct dp_error *e) DP_MUST_CHECK;
int dp_pc_change_medium(struct dp_pc *pc, bool cdrom, unsigned n, struct dp_block *medium, struct dp_error *e) DP_MUST_CHECK;

/* ---- cards that come and go ----
 *
 * All in the loop's thread while no processor runs; `running`: the other devices are resumed. Network cards and virtio disks have numbers below
 * DP_PC_NICS and DP_PC_DISKS, those of the configuration the first ones. */

enum dp_pc_card_kind { DP_PC_CARD_NIC, DP_PC_CARD_DISK };

/* -ENOSPC: all numbers or all slots are taken. The guest is told. */
int dp_pc_plug_nic(struct dp_pc *pc, const struct dp_pc_nic *nic, bool running, unsigned *n, struct dp_error *e) DP_MUST_CHECK;
int dp_pc_plug_disk(struct dp_pc *pc, const struct dp_pc_disk *disk, bool running, unsigned *n, struct dp_error *e) DP_MUST_CHECK;
/* Asks the guest to let go of it. */
void dp_pc_ask(struct dp_pc *pc, enum dp_pc_card_kind kind, unsigned n);
/* Takes it out, whatever the guest does with it. Its port's peer or its block is free then. */
void dp_pc_unplug(struct dp_pc *pc, enum dp_pc_card_kind kind, unsigned n, bool running);
/* Slots, a bit each, whose cards are to be taken out: that the guest has ejected; all: also those that it was only asked for (at a reset, after
 * which it has let go of everything). */
uint32_t dp_pc_ejected(struct dp_pc *pc, bool all);
/* False: there is no such card. asked: the guest has yet to let go of it. link: a network card has a carrier. */
struct dp_pc_card_status {
    unsigned slot;
    bool asked, link;
};
bool dp_pc_card(const struct dp_pc *pc, enum dp_pc_card_kind kind, unsigned n, struct dp_pc_card_status *s);

struct dp_device *dp_pc_balloon(struct dp_pc *pc); /* devices/virtio/virtio_balloon.h; NULL: it has none */
void dp_pc_power_button(struct dp_pc *pc);           /* somebody presses it: what comes of it is the guest's business */

/* All devices, in the order of making (cards that are plugged later: at the end): state conformance tests, snapshots. */
unsigned dp_pc_device_count(const struct dp_pc *pc);
struct dp_device *dp_pc_device(const struct dp_pc *pc, unsigned n);

#endif
