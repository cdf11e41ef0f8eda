/* vm/vm.h - one virtual machine: configuration, life cycle, processors' threads.
 *
 * Model: a VM owns a machine (machine/pc.h), an engine's state and one thread per processor. It lives in the caller's event loop, which the
 * caller runs; phases: NEW (made, kernel loaded) -> PAUSED <-> RUNNING -> STOPPED (for good, with a result). Reset keeps the phase.
 * Threads: create, start, pause, resume, reset and destroy belong to the loop's thread. Requests from devices and dp_vm_stop may come from
 * any thread: they stop the processors at once and take effect in the loop's thread. `ended` is called there, once, when the VM is STOPPED.
 * Counters: engines count in plain memory of the processor's thread, which costs them nothing; who asks kicks the processors out of run()
 * and each copies its own on the way. dp_vm_stats and dp_vm_counters therefore belong to the loop's thread, never to a processor's.
 * Invariants: pausing stops processors first, then devices, then the clock; resuming goes the other way. A processor that sleeps is woken
 * by every interrupt that arrives after it decided to sleep. Nothing here is global: VMs in one process, or one loop, do not meet.
 */
#ifndef DP_VM_H
#define DP_VM_H

#include "block/block.h"
#include "console/wav.h"
#include "display/display.h"
#include "display/input.h"
#include "engine/engine.h"
#include "net/options.h"

struct dp_console;
struct dp_vm;

/* Where a disk is. All but virtio, SCSI (on a virtio controller) and USB need firmware's board; IDE is the i440FX's, SATA the Q35's, and CDs
 * are on what there is. */
enum dp_vm_bus { DP_VM_VIRTIO, DP_VM_IDE, DP_VM_SATA, DP_VM_CDROM, DP_VM_FLOPPY, DP_VM_USB, DP_VM_SCSI };
struct dp_vm_disk {
    const char *path, *format; /* path NULL: of a CD or floppy drive: there is none in it yet */
    const char *copy;          /* as in struct dp_block_options; and fill */
    bool fill;
    bool readonly, backing_anywhere; /* the latter: as in struct dp_block_options */
    bool of_volume;            /* as in struct dp_block_options */
    const char *secret_file;   /* whose first line is the passphrase; NULL: none */
    bool empty;                /* of a CD or floppy drive: path does not matter, there is none in it yet */
    enum dp_vm_bus bus;
    bool scsi;                 /* a CD-ROM drive on the SCSI controller */
    const char *serial;        /* NULL: a made-up one. virtio, IDE, SATA: 20 characters; SCSI: 36 */
    unsigned block;            /* bytes of a logical block, 512 or 4096 (virtio, SCSI); 0: 512 */
    enum dp_block_cache cache; /* and what follows: as in struct dp_block_options */
    bool discard_ignored;
    enum dp_block_detect detect_zeroes;
    struct dp_throttle_limits limits;
    unsigned queues;           /* of a virtio disk; 0: as many as processors, 4 at most */
};

/* A file of firmware's configuration device (fw_cfg): the bytes of a file, or a text. */
struct dp_vm_file {
    const char *name, *path, *text;
};

struct dp_vm_nic {
    struct dp_net_nic net; /* without a MAC: dp_net_default_mac of the VM's name; NONE is passed over */
    const char *rom;       /* a file with what firmware boots from it with; NULL: none */
};

enum { DP_VM_FW_CFG_FILES = 32, DP_VM_NICS = 4, DP_VM_NIC_NAME = 32, DP_VM_DISK_NAME = 16, DP_VM_USB_DEVICES = 8 };
enum { DP_VM_SERIALS = 2, DP_VM_IDE_DRIVES = 4, DP_VM_SATA_DRIVES = 6, DP_VM_FLOPPIES = 2, DP_VM_DISKS = 24, DP_VM_INITRDS = 16,
       DP_VM_CPUS_MAX = 255 };
#define DP_VM_MEMORY_DEFAULT (512ull << 20)
#define DP_VM_MEMORY_MIN (2ull << 20)

struct dp_vm_config {      /* strings are copied */
    uint64_t memory;       /* bytes, 0 means the default */
    unsigned cpus;         /* 0 means 1 */
    const char *cpu_model; /* NULL: the highest of x86-64-v3, -v2 and -v1 that the host can run */
    const char *engine;    /* NULL: auto */
    const char *kernel;    /* NULL: nothing is loaded, processor 0 starts at the reset vector */
    const char *firmware;  /* a file: this is in the board's ROM (see q35). NULL: a PC without firmware. Not with a kernel */
    bool q35;              /* with firmware: the board is a Q35's, with PCI Express configuration space and SATA */
    const char *vga_bios;  /* with firmware; NULL: none */
    const char *variables; /* a file with UEFI variables; NULL: none */
    bool keep_variables;   /* changes go to that file; else they are lost */
    const char *boot_order; /* letters, see struct dp_pc_firmware; NULL: firmware's own */
    bool boot_menu;
    struct dp_console *debug;   /* what firmware logs; NULL: dropped */
    struct dp_console *printer; /* what the printer prints; NULL: dropped */
    struct dp_sound speaker;    /* what the speaker plays; no function: nobody listens */
    const char *name;           /* what firmware's tables call the machine, and where cards' default addresses come from; NULL: nothing */
    uint8_t uuid[16];           /* likewise, in the order of its text; all zeros: none */
    bool vmgenid;               /* a device that tells the generation of the machine's state: */
    uint8_t generation[16];
    struct dp_vm_file fw_cfg[DP_VM_FW_CFG_FILES];
    unsigned fw_cfg_count;
    const char *initrd[DP_VM_INITRDS];
    unsigned initrd_count;
    const char *cmdline; /* NULL: what the boot protocol has as default */
    struct dp_vm_disk disk[DP_VM_DISKS];
    unsigned disk_count;
    struct dp_vm_nic nic[DP_VM_NICS];
    unsigned nic_count;
    unsigned usb_tablets, usb_keyboards, usb_mice;
    bool no_rng, no_balloon, virtio_console;
    bool no_vga, virtio_gpu, virtio_input;    /* see struct dp_pc_config */
    unsigned screen_width, screen_height;     /* see struct dp_pc_config */
    bool test_device;                         /* registers and interrupt lines for test kernels */
    bool no_reboot;                           /* a guest's reset ends the VM */
    bool perf_map;                            /* see struct dp_engine_vm */
    const char *dump_path;                    /* likewise; NULL: none */
    uint64_t timeout_ms;                      /* of running, by the host's clock; 0: none */
    struct dp_console *serial[DP_VM_SERIALS]; /* not owned; NULL for the first: output is dropped; for others: no such port */
    struct dp_console *virtio_console_backend;
    struct dp_loop *loop;
    struct dp_trace *trace;      /* may be NULL */
    void (*ended)(void *opaque); /* may be NULL */
    void *opaque;
};

enum dp_vm_phase { DP_VM_NEW, DP_VM_PAUSED, DP_VM_RUNNING, DP_VM_STOPPED };

enum dp_vm_end {
    DP_END_NONE,
    DP_END_POWEROFF, /* the guest switched off; status is its latch's */
    DP_END_RESET,    /* it reset under no_reboot */
    DP_END_EXIT,     /* isa-debug-exit */
    DP_END_TIMEOUT,
    DP_END_TRIPLE_FAULT, /* report: registers and the chain of exceptions */
    DP_END_ERROR,        /* the engine or the reset failed */
    DP_END_STOPPED,      /* dp_vm_stop */
};
enum { DP_STATUS_TIMEOUT = 124, DP_STATUS_ERROR = 125 };

struct dp_vm_cpu_stats {
    struct dp_engine_counters counters;
    uint64_t cpu_ns; /* of host processor time its thread has used */
    bool halted;     /* sleeps until an interrupt (or stands still with the VM) */
};

struct dp_vm_result {
    enum dp_vm_end end;
    int status;
    char reason[240];
    struct dp_buffer report;
};

/* What people see of the machine and type into it: its display's and its keyboard controller's. */
struct dp_vm_screen {
    bool present;
    struct dp_display_source source;
    struct dp_input_sink sink;
};

/* Is there such a model of network card ("" is the default)? names: all of them, for people. */
bool dp_vm_nic_model(const char *model, char *names, size_t size);
int dp_vm_create(const struct dp_vm_config *c, struct dp_vm **out, struct dp_error *e) DP_MUST_CHECK;
void dp_vm_destroy(struct dp_vm *vm);                                /* stops it first; NULL is fine */
int dp_vm_start(struct dp_vm *vm, struct dp_error *e) DP_MUST_CHECK; /* NEW -> RUNNING */
void dp_vm_pause(struct dp_vm *vm);
void dp_vm_resume(struct dp_vm *vm);
int dp_vm_reset(struct dp_vm *vm, struct dp_error *e) DP_MUST_CHECK; /* devices reset, the kernel is read and loaded anew */
/* Any thread; the first reason to stop wins. */
void dp_vm_stop(struct dp_vm *vm, int status, const char *reason);

enum dp_vm_phase dp_vm_phase(const struct dp_vm *vm);            /* any thread */
const struct dp_vm_result *dp_vm_result(const struct dp_vm *vm); /* once STOPPED */
const char *dp_vm_phase_name(enum dp_vm_phase phase);
const char *dp_vm_end_name(enum dp_vm_end end);
const char *dp_vm_engine_name(const struct dp_vm *vm);
const char *dp_vm_engine_why(const struct dp_vm *vm);    /* "" or why this engine was chosen */
const char *dp_vm_boot_protocol(const struct dp_vm *vm); /* "" without a kernel */
uint64_t dp_vm_uptime_ns(const struct dp_vm *vm);        /* VM time */
unsigned dp_vm_cpu_count(const struct dp_vm *vm);
uint64_t dp_vm_memory_size(const struct dp_vm *vm);
void dp_vm_stats(struct dp_vm *vm, struct dp_vm_cpu_stats *cpus);      /* of all processors: room for dp_vm_cpu_count */
void dp_vm_counters(struct dp_vm *vm, struct dp_engine_counters *sum); /* over all processors */

/* Of a machine that has one; copied. The loop's thread, as is all use of it. */
void dp_vm_set_screen(struct dp_vm *vm, const struct dp_vm_screen *screen);
const struct dp_vm_screen *dp_vm_screen(const struct dp_vm *vm); /* never NULL */

/* Drives whose media can be changed: CD and floppy drives, each kind numbered from 0. The loop's thread. */
struct dp_vm_drive {
    char name[16];    /* "cdrom0", "floppy1" */
    const char *file; /* what is in it, as long as that is so; NULL: nothing */
    bool readonly;
};
bool dp_vm_drive(const struct dp_vm *vm, unsigned n, struct dp_vm_drive *d); /* the n-th; false: there are no more */
/* Puts a file into a drive, in place of what is there, or takes that out (file NULL). When it fails nothing has changed: the file cannot
 * be opened, there is no such drive or it does not take a disk of this size, or (-EBUSY) the guest has locked the drive; it is then asked
 * to let go. */
int dp_vm_change_medium(struct dp_vm *vm, const char *drive, const char *file, bool readonly, struct dp_error *e) DP_MUST_CHECK;

/* Network cards, those of the configuration ("net0", "net1") and those plugged since. The loop's thread. */
struct dp_vm_card {
    const char *name, *model; /* constant as long as the card is there */
    const char *network;      /* what its cable leads to: "user", "network=lan" */
    uint8_t mac[DP_NET_MAC];
    unsigned slot;            /* on PCI bus 0 */
    bool link;                /* it has a carrier */
    bool leaving;             /* the guest was asked to let go of it */
};
bool dp_vm_card(struct dp_vm *vm, unsigned n, struct dp_vm_card *c); /* the n-th; false: there are no more */
/* Plugs another one into the machine, whether it runs or not. name NULL: the first of net0, net1... that is free; out (may be NULL) says
 * which. nic->rom is for firmware, from the next reset on. */
int dp_vm_add_nic(struct dp_vm *vm, const struct dp_vm_nic *nic, const char *name, struct dp_vm_card *out, struct dp_error *e) DP_MUST_CHECK;
/* Takes one out: asks the guest to let go of it, and it is gone as soon as that has, or at the next reset. force: at once, whatever the
 * guest does with it. */
int dp_vm_remove_nic(struct dp_vm *vm, const char *name, bool force, struct dp_error *e) DP_MUST_CHECK;

/* Disks, the n-th of those whose medium does not change: its name ("disk0") and its block, for live.h. NULL: there are no more. */
struct dp_block *dp_vm_disk(const struct dp_vm *vm, unsigned n, char name[DP_VM_DISK_NAME]);
/* Plugs another virtio disk into the machine, as dp_vm_add_nic does. name NULL: the first of disk0, disk1... that is free; as says which. */
int dp_vm_attach_disk(struct dp_vm *vm, const struct dp_vm_disk *d, const char *name, char as[DP_VM_DISK_NAME], struct dp_error *e) DP_MUST_CHECK;
/* Takes a virtio disk out, as dp_vm_remove_nic does. -EBUSY: one of its jobs is not over (force: it is cancelled). */
int dp_vm_detach_disk(struct dp_vm *vm, const char *name, bool force, struct dp_error *e) DP_MUST_CHECK;

/* The balloon; -ENODEV: the machine has none. The loop's thread. target is what the guest shall have to use, at most all its memory. */
struct dp_balloon_status;
int dp_vm_balloon(struct dp_vm *vm, struct dp_balloon_status *s, struct dp_error *e) DP_MUST_CHECK;
int dp_vm_set_balloon(struct dp_vm *vm, uint64_t target, struct dp_error *e) DP_MUST_CHECK;

/* Asks the guest to end, by the power button. Any thread. */
void dp_vm_power_button(struct dp_vm *vm);

/* For tests and tools, while the processors do not run: spaces as the processors see them, and states. */
struct dp_space *dp_vm_memory(struct dp_vm *vm);
struct dp_space *dp_vm_ports(struct dp_vm *vm);
void dp_vm_cpu_state(struct dp_vm *vm, unsigned cpu, struct x86_state *out);

#endif
