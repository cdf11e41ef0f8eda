/* vm/vm.c - see vm.h.
 *
 * Processors' threads obey vm->want: RUN, PARK (wait at a safe point) or QUIT. Whoever changes it kicks all engines, which makes run()
 * return soon, or at once if it is entered later, so no thread misses it. A processor that halts sleeps on its own condition until its
 * `wake` flag is set; the flag is cleared before run() and set after the engine was told of an interrupt, so an interrupt is seen either by
 * run() or by the flag.
 *
 * Statistics: whoever asks marks, under the lock, each processor inside run() and kicks it; the processor copies its counters when it comes
 * out. A processor outside run() cannot enter without the lock, so its counters are read directly.
 */
#include "vm/vm.h"

#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "block/block.h"
#include "block/image.h"
#include "block/live.h"
#include "devices/virtio/virtio_balloon.h"
#include "machine/pc.h"
#include "vm/files.h"
#include "vm/nics.h"

/* A vmlinux with debugging information is larger than the memory it runs in. */
#define KERNEL_FILE_MAX (2ull << 30)

enum want { WANT_PARK, WANT_RUN, WANT_QUIT };

struct vcpu {
    struct dp_vm *vm;
    unsigned index;
    struct dp_cpu *cpu;
    pthread_t thread;
    bool started;                       /* the loop's thread */
    bool parked, inside, sample_wanted; /* under vm->lock: waits for want to change; in run(); is to copy its counters */
    struct dp_engine_counters sample;   /* likewise */
    pthread_cond_t wakeup;
    atomic_bool wake;
};

struct dp_vm {
    struct dp_vm_config config;
    struct x86_cpuid_model model;
    const struct dp_engine *engine;
    char engine_why[300];
    struct dp_engine_state *engine_state;
    struct dp_clock *clock;
    struct dp_pc *pc;
    struct dp_block *disk[DP_VM_DISKS];
    struct {
        char name[DP_VM_DISK_NAME]; /* "": a drive whose medium can be changed, or nothing */
        unsigned card;              /* the machine's number, of a virtio disk */
    } place[DP_VM_DISKS];
    struct vm_nics nics;
    char *serial[DP_VM_DISKS];
    char *file[DP_VM_DISKS]; /* of drives whose media can be changed; NULL: no medium */
    struct vm_file kernel, initrd[DP_VM_INITRDS];
    struct dp_pc_firmware firmware;
    char *boot_order, *variables, *name;
    struct dp_boot_blob fw_file[DP_VM_FW_CFG_FILES];
    char *cmdline, *dump_path;
    const char *protocol;
    struct vcpu *vcpu;
    unsigned vcpu_count;
    int timeout_fd;
    struct dp_vm_screen screen;

    pthread_mutex_t lock; /* parked, inside, samples, request */
    pthread_cond_t parked, sampled;
    atomic_int want;
    atomic_int phase;
    bool request_pending, request_posted, eject_posted;
    enum { REQUEST_RESET, REQUEST_END } request;
    struct dp_vm_result result; /* filled when a request to end is recorded */
};

/* ---- processors ---- */

static void vcpu_wake(struct vcpu *v)
{
    if (atomic_exchange(&v->wake, true))
        return; /* whoever set it signals */
    pthread_mutex_lock(&v->vm->lock);
    pthread_cond_signal(&v->wakeup);
    pthread_mutex_unlock(&v->vm->lock);
}

/* The machine's way to a processor; any thread. */
static void vm_line(void *opaque, unsigned cpu, enum dp_line line, unsigned value)
{
    struct dp_vm *vm = opaque;
    struct vcpu *v = cpu < vm->vcpu_count ? &vm->vcpu[cpu] : NULL;
    if (!v || !v->cpu)
        return; /* devices set their lines while the machine is being made */
    vm->engine->interrupt(v->cpu, line, value);
    if (line != DP_LINE_INTR || value)
        vcpu_wake(v);
}

static void set_want(struct dp_vm *vm, enum want want)
{
    atomic_store(&vm->want, want);
    for (unsigned i = 0; want != WANT_RUN && i < vm->vcpu_count; i++)
        if (vm->vcpu[i].cpu)
            vm->engine->kick(vm->vcpu[i].cpu);
    pthread_mutex_lock(&vm->lock);
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        pthread_cond_signal(&vm->vcpu[i].wakeup);
    pthread_mutex_unlock(&vm->lock);
}

/* Waits until every processor stands still. */
static void park(struct dp_vm *vm)
{
    set_want(vm, WANT_PARK);
    pthread_mutex_lock(&vm->lock);
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        while (vm->vcpu[i].started && !vm->vcpu[i].parked)
            pthread_cond_wait(&vm->parked, &vm->lock);
    pthread_mutex_unlock(&vm->lock);
}

static void end_request(struct dp_vm *vm, enum dp_vm_end end, int status, struct dp_buffer *report, const char *format, ...)
    DP_PRINTF(5, 6);

static void *vcpu_main(void *opaque)
{
    struct vcpu *v = opaque;
    struct dp_vm *vm = v->vm;
    for (;;) {
        pthread_mutex_lock(&vm->lock);
        while (atomic_load(&vm->want) == WANT_PARK) {
            v->parked = true;
            pthread_cond_broadcast(&vm->parked);
            pthread_cond_wait(&v->wakeup, &vm->lock);
        }
        v->parked = false;
        v->inside = atomic_load(&vm->want) != WANT_QUIT;
        pthread_mutex_unlock(&vm->lock);
        if (!v->inside)
            return NULL;

        struct dp_exit exit = {0};
        atomic_store(&v->wake, false);
        vm->engine->run(v->cpu, 0, &exit);

        pthread_mutex_lock(&vm->lock);
        v->inside = false;
        if (v->sample_wanted) {
            vm->engine->counters(v->cpu, &v->sample);
            v->sample_wanted = false;
            pthread_cond_broadcast(&vm->sampled);
        }
        bool halted = exit.kind == DP_EXIT_HALT || exit.kind == DP_EXIT_WAIT_SIPI;
        while (halted && !atomic_load(&v->wake) && atomic_load(&vm->want) == WANT_RUN)
            pthread_cond_wait(&v->wakeup, &vm->lock);
        pthread_mutex_unlock(&vm->lock);
        if (exit.kind == DP_EXIT_SHUTDOWN)
            end_request(vm, DP_END_TRIPLE_FAULT, DP_STATUS_ERROR, &exit.text,
                        "processor %u: triple fault: an exception met no working handler, nor did its double fault", v->index);
        else if (exit.kind == DP_EXIT_ERROR)
            end_request(vm, DP_END_ERROR, DP_STATUS_ERROR, &exit.text, "processor %u: engine %s cannot go on", v->index, vm->engine->name);
        /* Other kinds ask for nothing; a breakpoint is stale, for nobody sets any yet. */
        dp_buffer_fini(&exit.text);
    }
}

/* ---- requests ---- */

static void carry_out(void *opaque);
static void remove_slots(struct dp_vm *vm, uint32_t slots, bool running);
static int open_disk(struct dp_vm *vm, unsigned i, const struct dp_vm_disk *d, struct dp_error *e);
static struct dp_pc_disk pc_disk(const struct dp_vm *vm, unsigned i);

/* Records the first request of a round and stops the processors; the rest happens in the loop's thread. A request to end replaces one to
 * reset. */
static void request(struct dp_vm *vm, bool end, const struct dp_vm_result *result)
{
    pthread_mutex_lock(&vm->lock);
    if (vm->result.end != DP_END_NONE || (vm->request_pending && !end)) {
        pthread_mutex_unlock(&vm->lock);
        return;
    }
    vm->request_pending = true;
    vm->request = end ? REQUEST_END : REQUEST_RESET;
    if (end) {
        struct dp_buffer report = vm->result.report;
        vm->result = *result;
        dp_buffer_fini(&report);
    }
    bool post = !vm->request_posted;
    vm->request_posted = true;
    pthread_mutex_unlock(&vm->lock);
    set_want(vm, WANT_PARK);
    if (post)
        dp_loop_post(vm->config.loop, carry_out, vm);
}

static void end_request(struct dp_vm *vm, enum dp_vm_end end, int status, struct dp_buffer *report, const char *format, ...)
{
    struct dp_vm_result r = {.end = end, .status = status};
    va_list ap;
    va_start(ap, format);
    vsnprintf(r.reason, sizeof r.reason, format, ap);
    va_end(ap);
    if (report) {
        dp_buffer_append(&r.report, report->data, report->size);
        dp_buffer_append(&r.report, "", 1);
        r.report.size -= r.report.failed ? 0 : 1;
    }
    request(vm, true, &r);
}

static void device_request(void *opaque, enum dp_vm_request what, int status)
{
    struct dp_vm *vm = opaque;
    switch (what) {
    case DP_VM_POWEROFF:
        end_request(vm, DP_END_POWEROFF, status, NULL, "the guest powered off");
        break;
    case DP_VM_EXIT:
        end_request(vm, DP_END_EXIT, status, NULL, "the guest ended with status %d", status);
        break;
    case DP_VM_RESET:
        if (vm->config.no_reboot)
            end_request(vm, DP_END_RESET, status, NULL, "the guest reset the machine (--no-reboot)");
        else
            request(vm, false, NULL);
        break;
    }
}

void dp_vm_stop(struct dp_vm *vm, int status, const char *reason) { end_request(vm, DP_END_STOPPED, status, NULL, "%s", reason); }

static void stop_devices(struct dp_vm *vm)
{
    dp_pc_pause(vm->pc);
    dp_clock_pause(vm->clock);
}

static void carry_out(void *opaque)
{
    struct dp_vm *vm = opaque;
    pthread_mutex_lock(&vm->lock);
    bool pending = vm->request_pending;
    bool end = vm->request == REQUEST_END;
    vm->request_pending = vm->request_posted = false;
    pthread_mutex_unlock(&vm->lock);
    enum dp_vm_phase phase = dp_vm_phase(vm);
    if (!pending || phase == DP_VM_STOPPED)
        return;
    if (!end) {
        struct dp_error e;
        if (dp_vm_reset(vm, &e))
            end_request(vm, DP_END_ERROR, DP_STATUS_ERROR, NULL, "reset: %.200s", e.text);
        return;
    }
    park(vm);
    if (phase == DP_VM_RUNNING)
        stop_devices(vm);
    atomic_store(&vm->phase, DP_VM_STOPPED);
    DP_TRACE(vm->config.trace, DP_TRACE_VM, "stopped: %s, status %d", vm->result.reason, vm->result.status);
    if (vm->config.ended)
        vm->config.ended(vm->config.opaque);
}

/* ---- cards that come and go ---- */

static int find_disk(const struct dp_vm *vm, const char *name)
{
    for (int i = 0; i < DP_VM_DISKS; i++)
        if (*vm->place[i].name && !strcmp(vm->place[i].name, name))
            return i;
    return -1;
}

/* Makes place i free. */
static void close_disk(struct dp_vm *vm, unsigned i)
{
    if (vm->disk[i])
        dp_block_close(vm->disk[i]);
    free(vm->file[i]);
    free(vm->serial[i]);
    vm->disk[i] = NULL;
    vm->file[i] = vm->serial[i] = NULL;
    *vm->place[i].name = 0;
}

/* Lets processors stand still; whether the VM runs, for go_on. */
static bool quiet(struct dp_vm *vm)
{
    park(vm);
    return dp_vm_phase(vm) == DP_VM_RUNNING;
}

static void go_on(struct dp_vm *vm, bool running)
{
    pthread_mutex_lock(&vm->lock);
    bool go = running && !vm->request_pending; /* carry_out will find the phase as it is */
    pthread_mutex_unlock(&vm->lock);
    if (go)
        set_want(vm, WANT_RUN);
}

static void remove_disk(struct dp_vm *vm, unsigned i, bool running)
{
    DP_TRACE(vm->config.trace, DP_TRACE_VM, "%s was taken out", vm->place[i].name);
    dp_pc_unplug(vm->pc, DP_PC_CARD_DISK, vm->place[i].card, running);
    close_disk(vm, i);
}

static void remove_slots(struct dp_vm *vm, uint32_t slots, bool running)
{
    struct dp_pc_card_status s;
    vm_nics_remove_slots(&vm->nics, vm->pc, slots, running);
    for (unsigned i = 0; i < DP_VM_DISKS; i++)
        if (*vm->place[i].name && vm->config.disk[i].bus == DP_VM_VIRTIO && dp_pc_card(vm->pc, DP_PC_CARD_DISK, vm->place[i].card, &s) &&
            (slots >> s.slot & 1))
            remove_disk(vm, i, running);
}

static void take_out(void *opaque)
{
    struct dp_vm *vm = opaque;
    pthread_mutex_lock(&vm->lock);
    vm->eject_posted = false;
    pthread_mutex_unlock(&vm->lock);
    if (dp_vm_phase(vm) == DP_VM_STOPPED)
        return;
    bool running = quiet(vm);
    remove_slots(vm, dp_pc_ejected(vm->pc, false), running);
    go_on(vm, running);
}

/* The guest has let go of a card. Processors stop, so that it finds the slot empty soon; the rest happens in the loop's thread. */
static void device_ejected(void *opaque)
{
    struct dp_vm *vm = opaque;
    pthread_mutex_lock(&vm->lock);
    bool post = !vm->eject_posted;
    vm->eject_posted = true;
    pthread_mutex_unlock(&vm->lock);
    set_want(vm, WANT_PARK);
    if (post)
        dp_loop_post(vm->config.loop, take_out, vm);
}

bool dp_vm_card(struct dp_vm *vm, unsigned n, struct dp_vm_card *c)
{
    for (unsigned i = 0; i < DP_VM_NICS; i++) {
        const struct vm_nic *nic = &vm->nics.nic[i];
        struct dp_pc_card_status s;
        if (!nic->present || n--)
            continue;
        if (!dp_pc_card(vm->pc, DP_PC_CARD_NIC, nic->card, &s))
            return false;
        *c = (struct dp_vm_card){.name = nic->name, .model = *nic->net.model ? nic->net.model : "virtio", .slot = s.slot, .link = s.link,
                                 .leaving = s.asked, .network = nic->net.kind == DP_NET_WAY ? nic->net.way : "user"};
        memcpy(c->mac, nic->net.mac, sizeof c->mac);
        return true;
    }
    return false;
}

int dp_vm_add_nic(struct dp_vm *vm, const struct dp_vm_nic *nic, const char *name, struct dp_vm_card *out, struct dp_error *e)
{
    if (dp_vm_phase(vm) == DP_VM_STOPPED)
        return dp_error_set(e, -EINVAL, "the VM has stopped");
    struct dp_pc_nic card;
    int place = vm_nics_prepare(&vm->nics, nic, name, &card, e);
    if (place < 0)
        return place;
    bool running = quiet(vm);
    int rc = dp_pc_plug_nic(vm->pc, &card, running, &vm->nics.nic[place].card, e);
    go_on(vm, running);
    if (rc) {
        vm_nics_clear(&vm->nics, (unsigned)place);
        return rc;
    }
    DP_TRACE(vm->config.trace, DP_TRACE_VM, "network card %s was plugged", vm->nics.nic[place].name);
    unsigned n = 0;
    for (int i = 0; i < place; i++)
        n += vm->nics.nic[i].present;
    if (out && !dp_vm_card(vm, n, out))
        *out = (struct dp_vm_card){0};
    return 0;
}

int dp_vm_remove_nic(struct dp_vm *vm, const char *name, bool force, struct dp_error *e)
{
    int place = vm_nics_find(&vm->nics, name, e);
    if (place < 0)
        return place;
    if (dp_vm_phase(vm) == DP_VM_STOPPED)
        return dp_error_set(e, -EINVAL, "the VM has stopped");
    if (!force) {
        dp_pc_ask(vm->pc, DP_PC_CARD_NIC, vm->nics.nic[place].card);
        return 0;
    }
    bool running = quiet(vm);
    vm_nics_remove(&vm->nics, vm->pc, (unsigned)place, running);
    go_on(vm, running);
    return 0;
}

int dp_vm_attach_disk(struct dp_vm *vm, const struct dp_vm_disk *d, const char *name, char as[DP_VM_DISK_NAME], struct dp_error *e)
{
    unsigned i = 0;
    int rc = 0;
    if (dp_vm_phase(vm) == DP_VM_STOPPED)
        return dp_error_set(e, -EINVAL, "the VM has stopped");
    if (d->bus != DP_VM_VIRTIO)
        return dp_error_set(e, -EINVAL, "only virtio disks can be plugged into a VM that runs");
    if (name && (!*name || strlen(name) >= DP_VM_DISK_NAME))
        return dp_error_set(e, -EINVAL, "'%.40s' cannot be a disk's name: give up to %d characters", name, DP_VM_DISK_NAME - 1);
    if (name && find_disk(vm, name) >= 0)
        return dp_error_set(e, -EEXIST, "this VM has a disk '%s' already", name);
    while (i < DP_VM_DISKS && (i < vm->config.disk_count ? vm->config.disk[i].bus != DP_VM_VIRTIO || *vm->place[i].name : *vm->place[i].name))
        i++;
    if (i == DP_VM_DISKS)
        return dp_error_set(e, -ENOSPC, "this VM has %d disks, no more are possible: take one out first", DP_VM_DISKS);
    char made_up[DP_VM_DISK_NAME] = "disk0";
    for (unsigned k = 0; !name && find_disk(vm, made_up) >= 0;)
        snprintf(made_up, sizeof made_up, "disk%u", ++k % 1000);
    vm->config.disk[i] = *d;
    if (!(rc = open_disk(vm, i, d, e))) {
        struct dp_pc_disk disk = pc_disk(vm, i);
        bool running = quiet(vm);
        rc = dp_pc_plug_disk(vm->pc, &disk, running, &vm->place[i].card, e);
        go_on(vm, running);
    }
    /* Strings are the caller's; what is left of them is copied. */
    vm->config.disk[i].path = vm->config.disk[i].format = vm->config.disk[i].copy = vm->config.disk[i].secret_file = vm->config.disk[i].serial = NULL;
    if (rc) {
        close_disk(vm, i);
        return rc;
    }
    strcpy(as, strcpy(vm->place[i].name, name ? name : made_up));
    DP_TRACE(vm->config.trace, DP_TRACE_VM, "%s was plugged", as);
    return 0;
}

int dp_vm_detach_disk(struct dp_vm *vm, const char *name, bool force, struct dp_error *e)
{
    struct dp_job_status *job = malloc(sizeof *job);
    int i = find_disk(vm, name), rc = 0;
    if (i < 0)
        rc = dp_error_set(e, -ENODEV, "this VM has no disk '%.20s' (doppel disk ls)", name);
    else if (vm->config.disk[i].bus != DP_VM_VIRTIO)
        rc = dp_error_set(e, -EINVAL, "%s is no virtio disk: it cannot be taken out of a VM that runs", name);
    else if (dp_vm_phase(vm) == DP_VM_STOPPED)
        rc = dp_error_set(e, -EINVAL, "the VM has stopped");
    else if (!job)
        rc = dp_error_set(e, -ENOMEM, "no memory");
    else if (!force && dp_block_job_status(vm->disk[i], job) && (job->state == DP_JOB_RUNNING || job->state == DP_JOB_READY))
        rc = dp_error_set(e, -EBUSY, "%s has a %s job that is not over: cancel it first", name, dp_job_kind_name[job->kind]);
    else if (!force)
        dp_pc_ask(vm->pc, DP_PC_CARD_DISK, vm->place[i].card);
    free(job);
    if (rc || !force)
        return rc;
    bool running = quiet(vm);
    remove_disk(vm, (unsigned)i, running);
    go_on(vm, running);
    return 0;
}

static void timed_out(void *opaque, int fd, uint32_t events)
{
    struct dp_vm *vm = opaque;
    uint64_t n;
    if (read(fd, &n, sizeof n) < 0)
        return;
    end_request(vm, DP_END_TIMEOUT, DP_STATUS_TIMEOUT, NULL, "the time limit of %g seconds (--timeout) is over",
                (double)vm->config.timeout_ms / 1000);
}

/* ---- the start ---- */

/* The kernel's way into memory and the processors' states at the start. */
static int load(struct dp_vm *vm, struct dp_error *e)
{
    const struct dp_vm_config *c = &vm->config;
    struct dp_boot_blob kernel = {0}, initrd[DP_VM_INITRDS] = {{0}};
    struct x86_state *s = calloc(1, sizeof *s);
    int rc = s ? 0 : dp_error_set(e, -ENOMEM, "no memory");
    if (!rc && c->kernel)
        rc = vm_file_read("kernel", &vm->kernel, DP_MAX(c->memory, KERNEL_FILE_MAX), &kernel, e);
    for (unsigned i = 0; !rc && i < c->initrd_count; i++)
        rc = vm_file_read("initrd", &vm->initrd[i], c->memory, &initrd[i], e);
    if (!rc) {
        x86_state_reset(s, true);
        struct dp_pc_kernel k = {kernel, initrd, c->initrd_count, vm->cmdline};
        rc = dp_pc_boot(vm->pc, c->kernel ? &k : NULL, s, &vm->protocol, e);
    }
    if (!rc && c->kernel)
        dp_pc_firmware_state(vm->pc, s);
    if (!rc)
        vm->engine->push(vm->vcpu[0].cpu, s);
    for (unsigned i = 1; !rc && i < vm->vcpu_count; i++) {
        x86_state_reset(s, false);
        if (c->kernel)
            dp_pc_firmware_state(vm->pc, s);
        vm->engine->push(vm->vcpu[i].cpu, s);
    }
    free((void *)kernel.data);
    for (unsigned i = 0; i < c->initrd_count; i++)
        free((void *)initrd[i].data);
    free(s);
    return rc;
}

/* ---- making ---- */

/* The model asked for, or the highest the host can run. */
static int choose_model(struct dp_vm *vm, struct dp_error *e)
{
    static const char *const models[] = {"x86-64-v3", "x86-64-v2", "x86-64-v1"};
    const char *name = vm->config.cpu_model;
    uint64_t host[2];
    int rc = 0;

    x86_cpuid_host(host);
    for (unsigned i = 0; i < (name ? 1 : DP_ARRAY_LEN(models)); i++) {
        rc = x86_cpuid_model(name ? name : models[i], &vm->model, e);
        if (!rc)
            rc = x86_cpuid_fit(&vm->model, host, e);
        if (!rc)
            break;
    }
    return rc;
}

static int check_config(struct dp_vm *vm, struct dp_error *e)
{
    struct dp_vm_config *c = &vm->config;
    if (!c->memory)
        c->memory = DP_VM_MEMORY_DEFAULT;
    if (!c->cpus)
        c->cpus = 1;
    if (c->cpus > DP_VM_CPUS_MAX)
        return dp_error_set(e, -EINVAL, "%u processors: at most %u are possible", c->cpus, DP_VM_CPUS_MAX);
    if (c->memory < DP_VM_MEMORY_MIN)
        return dp_error_set(e, -EINVAL, "memory of %" PRIu64 " bytes: at least %lluM are needed (did you mean %" PRIu64 "M?)", c->memory,
                            DP_VM_MEMORY_MIN >> 20, c->memory);
    if (c->firmware && c->kernel)
        return dp_error_set(e, -EINVAL, "a kernel file is started without firmware: give one of them");
    if (c->memory % DP_PAGE_SIZE)
        return dp_error_set(e, -EINVAL, "memory of %" PRIu64 " bytes: give a multiple of 4K", c->memory);
    if (c->disk_count > DP_VM_DISKS)
        return dp_error_set(e, -EINVAL, "%u disks: at most %u are possible", c->disk_count, DP_VM_DISKS);
    if (c->nic_count > DP_VM_NICS)
        return dp_error_set(e, -EINVAL, "%u network cards: at most %u are possible", c->nic_count, DP_VM_NICS);
    if (c->initrd_count > DP_VM_INITRDS)
        return dp_error_set(e, -EINVAL, "%u initrds: at most %u are possible", c->initrd_count, DP_VM_INITRDS);
    int rc = choose_model(vm, e);
    if (rc)
        return rc;
    vm->model.cpu_count = c->cpus;
    uint64_t max = dp_pc_memory_max(&vm->model);
    if (c->memory > max)
        return dp_error_set(e, -EINVAL, "memory of %" PRIu64 "M: this machine holds at most %" PRIu64 "M", c->memory >> 20, max >> 20);
    vm->engine = dp_engine_choose(c->engine ? c->engine : "auto", vm->engine_why, sizeof vm->engine_why, e);
    return vm->engine ? 0 : e ? e->code : -ENOTSUP;
}

static int make_processors(struct dp_vm *vm, struct dp_error *e)
{
    struct dp_engine_vm ev = {
        .memory = dp_pc_memory(vm->pc),
        .ports = dp_pc_ports(vm->pc),
        .smm_memory = dp_pc_smm_memory(vm->pc),
        .clock = vm->clock,
        .trace = vm->config.trace,
        .model = &vm->model,
        .cpu_count = vm->config.cpus,
        .perf_map = vm->config.perf_map,
        .dump_path = vm->dump_path,
    };
    int rc = vm->engine->vm_init(&ev, &vm->engine_state, e);
    if (rc)
        return rc;
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        struct dp_x86_bus bus = {0};
        dp_pc_bus(vm->pc, i, &bus);
        if ((rc = vm->engine->cpu_init(vm->engine_state, i, &bus, &vm->vcpu[i].cpu, e)))
            return dp_error_prefix(e, rc, "processor %u", i);
    }
    return 0;
}

static int read_fw_cfg(struct dp_vm *vm, struct dp_error *e)
{
    const struct dp_vm_config *c = &vm->config;
    int rc = 0;
    if (c->fw_cfg_count > DP_VM_FW_CFG_FILES)
        return dp_error_set(e, -EINVAL, "%u files for firmware: at most %u are possible", c->fw_cfg_count, DP_VM_FW_CFG_FILES);
    vm->firmware.file = vm->fw_file;
    for (unsigned i = 0; !rc && i < c->fw_cfg_count; i++) {
        struct dp_boot_blob *b = &vm->fw_file[i];
        const struct dp_vm_file *f = &c->fw_cfg[i];
        if (f->path)
            rc = vm_read_whole("firmware's file", f->path, b, e);
        else if ((b->data = (const uint8_t *)strdup(f->text)))
            b->size = strlen(f->text);
        else
            rc = dp_error_set(e, -ENOMEM, "no memory");
        if (!rc && !(b->name = strdup(f->name)))
            rc = dp_error_set(e, -ENOMEM, "no memory");
        if (rc)
            b->name = NULL; /* a constant text's */
        vm->firmware.file_count++;
    }
    return rc;
}

static int read_firmware(struct dp_vm *vm, struct dp_error *e)
{
    const struct dp_vm_config *c = &vm->config;
    vm->firmware.board = c->q35 ? DP_PC_Q35 : DP_PC_I440FX;
    vm->firmware.debug = c->debug;
    vm->firmware.printer = c->printer;
    vm->firmware.boot_menu = c->boot_menu;
    vm->firmware.speaker = c->speaker;
    vm->firmware.vmgenid = c->vmgenid;
    memcpy(vm->firmware.uuid, c->uuid, sizeof c->uuid);
    memcpy(vm->firmware.generation, c->generation, sizeof c->generation);
    if (c->name && !(vm->firmware.name = vm->name = strdup(c->name)))
        return dp_error_set(e, -ENOMEM, "no memory");
    if (c->boot_order && !(vm->firmware.boot_order = vm->boot_order = strdup(c->boot_order)))
        return dp_error_set(e, -ENOMEM, "no memory");
    int rc = vm_read_whole("firmware", c->firmware, &vm->firmware.bios, e);
    rc = rc ? rc : read_fw_cfg(vm, e);
    if (!rc && c->variables && c->keep_variables)
        rc = (vm->firmware.variables_path = vm->variables = strdup(c->variables)) ? 0 : dp_error_set(e, -ENOMEM, "no memory");
    else if (!rc && c->variables)
        rc = vm_read_whole("variables", c->variables, &vm->firmware.variables, e);
    return rc || !c->vga_bios ? rc : vm_read_whole("VGA BIOS", c->vga_bios, &vm->firmware.vga_bios, e);
}

static int add_usb(struct dp_pc_config *p, enum dp_usb_kind kind, struct dp_block *block, struct dp_error *e)
{
    if (p->usb_count == DP_PC_USB)
        return dp_error_set(e, -EINVAL, "there are %d USB ports: four for disks, four for keyboards and pointers", DP_PC_USB);
    p->usb[p->usb_count].kind = kind;
    p->usb[p->usb_count++].block = block;
    return 0;
}

static int place_usb(const struct dp_vm_config *c, struct dp_pc_config *p, struct dp_error *e)
{
    const struct {
        enum dp_usb_kind kind;
        unsigned count;
    } kinds[] = {{DP_USB_TABLET, c->usb_tablets}, {DP_USB_KEYBOARD, c->usb_keyboards}, {DP_USB_MOUSE, c->usb_mice}};
    int rc = 0;
    for (unsigned k = 0; k < DP_ARRAY_LEN(kinds); k++)
        for (unsigned i = 0; !rc && i < kinds[k].count; i++)
            rc = add_usb(p, kinds[k].kind, NULL, e);
    return rc;
}
/* Drives whose media can be changed have a name. */
static const char *drive_kind(enum dp_vm_bus bus) { return bus == DP_VM_CDROM ? "cdrom" : bus == DP_VM_FLOPPY ? "floppy" : NULL; }

/* Devices that have a write cache to show leave the flushes that writes need then to the guest, which may also want them no more. */
static bool shows_cache(const struct dp_vm_disk *d) { return d->bus == DP_VM_VIRTIO || d->bus == DP_VM_SCSI; }

static struct dp_pc_disk pc_disk(const struct dp_vm *vm, unsigned i)
{
    const struct dp_vm_disk *d = &vm->config.disk[i];
    return (struct dp_pc_disk){
        .block = vm->disk[i],
        .cdrom = d->bus == DP_VM_CDROM,
        .serial = vm->serial[i],
        .sector = d->block,
        .write_through = d->cache == DP_BLOCK_WRITETHROUGH || d->cache == DP_BLOCK_DIRECTSYNC,
        .queues = d->queues,
    };
}

static enum dp_block_cache block_cache(const struct dp_vm_disk *d)
{
    if (!shows_cache(d))
        return d->cache;
    return d->cache == DP_BLOCK_WRITETHROUGH ? DP_BLOCK_WRITEBACK : d->cache == DP_BLOCK_DIRECTSYNC ? DP_BLOCK_NONE : d->cache;
}

/* Each disk to its bus. */
static int place_disks(struct dp_vm *vm, struct dp_pc_config *p, struct dp_error *e)
{
    bool q35 = vm->config.q35;
    unsigned drives = 0, floppies = 0, most = q35 ? DP_VM_SATA_DRIVES : DP_VM_IDE_DRIVES;
    for (unsigned i = 0; i < vm->config.disk_count; i++) {
        enum dp_vm_bus bus = vm->config.disk[i].bus;
        if (bus == DP_VM_VIRTIO) {
            vm->place[i].card = p->disk_count;
            p->disk[p->disk_count++] = pc_disk(vm, i);
        } else if (bus == DP_VM_SCSI || vm->config.disk[i].scsi) {
            p->scsi[p->scsi_count++] = pc_disk(vm, i);
        } else if (bus == DP_VM_USB) {
            if (add_usb(p, DP_USB_STORAGE, vm->disk[i], e))
                return e->code;
        } else if (!vm->config.firmware) {
            return dp_error_set(e, -EINVAL, "%s: IDE and SATA disks, CDs and floppies need --machine pc or q35", vm->config.disk[i].path);
        } else if (bus == DP_VM_FLOPPY) {
            if (floppies == DP_VM_FLOPPIES)
                return dp_error_set(e, -EINVAL, "%s: there are %d floppy drives", vm->config.disk[i].path, DP_VM_FLOPPIES);
            vm->firmware.empty_floppy[floppies] = !vm->disk[i];
            vm->firmware.floppy[floppies++] = vm->disk[i];
        } else {
            if (bus == (q35 ? DP_VM_IDE : DP_VM_SATA))
                return dp_error_set(e, -EINVAL, "%s: there is no %s on this board: use bus=%s, or --machine %s", vm->config.disk[i].path,
                                    q35 ? "IDE" : "SATA", q35 ? "sata" : "ide", q35 ? "pc" : "q35");
            if (drives == most)
                return dp_error_set(e, -EINVAL, "%s: there are %u %s drives, CDs included; make it a virtio disk",
                                    vm->config.disk[i].path, most, q35 ? "SATA" : "IDE");
            vm->firmware.drive[drives++] = (struct dp_pc_drive){vm->disk[i], bus == DP_VM_CDROM, vm->serial[i]};
        }
    }
    return 0;
}

bool dp_vm_nic_model(const char *model, char *names, size_t size) { return dp_pc_nic_model(model, names, size); }

static int open_disk(struct dp_vm *vm, unsigned i, const struct dp_vm_disk *d, struct dp_error *e)
{
    struct dp_block_options o = {
        .path = d->empty ? NULL : d->path, .format = d->format, .backing_anywhere = d->backing_anywhere, .of_volume = d->of_volume, .copy = d->copy,
        .fill = d->fill, .readonly = d->readonly, .cache = block_cache(d), .discard_ignored = d->discard_ignored,
        .detect_zeroes = d->detect_zeroes, .limits = d->limits, .clock = vm->clock, .trace = vm->config.trace};
    char secret[DP_IMAGE_SECRET_MAX] = "";
    int rc = 0;
    if (o.path && d->secret_file && !(rc = dp_image_read_secret(d->secret_file, secret, e)))
        o.secret = secret;
    if (!rc && o.path)
        rc = dp_block_open(vm->config.loop, &o, &vm->disk[i], e);
    explicit_bzero(secret, sizeof secret);
    if (!rc && ((d->serial && !(vm->serial[i] = strdup(d->serial))) || (o.path && drive_kind(d->bus) && !(vm->file[i] = strdup(o.path)))))
        rc = dp_error_set(e, -ENOMEM, "no memory");
    return rc;
}

int dp_vm_create(const struct dp_vm_config *c, struct dp_vm **out, struct dp_error *e)
{
    struct dp_error ignored;
    struct dp_vm *vm = calloc(1, sizeof *vm);
    if (!vm)
        return dp_error_set(e, -ENOMEM, "no memory");
    e = e ? e : &ignored;
    vm->config = *c;
    vm->kernel.fd = vm->timeout_fd = -1;
    for (unsigned i = 0; i < DP_VM_INITRDS; i++)
        vm->initrd[i].fd = -1;
    vm->protocol = "";
    pthread_mutex_init(&vm->lock, NULL);
    pthread_cond_init(&vm->parked, NULL);
    pthread_cond_init(&vm->sampled, NULL);
    int rc = check_config(vm, e);
    if (!rc && c->kernel)
        rc = vm_file_open("kernel", c->kernel, &vm->kernel, e);
    for (unsigned i = 0; !rc && i < c->initrd_count; i++)
        rc = vm_file_open("initrd", c->initrd[i], &vm->initrd[i], e);
    if (!rc && ((c->cmdline && !(vm->cmdline = strdup(c->cmdline))) || (c->dump_path && !(vm->dump_path = strdup(c->dump_path)))))
        rc = dp_error_set(e, -ENOMEM, "no memory");
    if (!rc && c->firmware)
        rc = read_firmware(vm, e);
    if (!rc)
        rc = dp_clock_create_vm(c->loop, &vm->clock, e);
    for (unsigned i = 0, named = 0; !rc && i < c->disk_count; i++) {
        if (!drive_kind(c->disk[i].bus))
            snprintf(vm->place[i].name, sizeof vm->place[i].name, "disk%u", named++);
        rc = open_disk(vm, i, &c->disk[i], e);
    }
    if (!rc) {
        vm->vcpu = calloc(vm->config.cpus, sizeof *vm->vcpu);
        if (!vm->vcpu)
            rc = dp_error_set(e, -ENOMEM, "no memory for %u processors", vm->config.cpus);
        else
            vm->vcpu_count = vm->config.cpus;
        for (unsigned i = 0; i < vm->vcpu_count; i++) {
            vm->vcpu[i].vm = vm;
            vm->vcpu[i].index = i;
            pthread_cond_init(&vm->vcpu[i].wakeup, NULL);
        }
    }
    if (!rc) {
        struct dp_pc_config p = {
            .memory = vm->config.memory,
            .cpus = vm->config.cpus,
            .model = &vm->model,
            .loop = c->loop,
            .clock = vm->clock,
            .trace = c->trace,
            .vm = {device_request, vm},
            .line = vm_line,
            .eject = device_ejected,
            .opaque = vm,
            .rng = !c->no_rng,
            .balloon = !c->no_balloon,
            .virtio_console = c->virtio_console,
            .test_device = c->test_device,
            .no_vga = c->no_vga,
            .virtio_gpu = c->virtio_gpu,
            .virtio_input = c->virtio_input,
            .screen_width = c->screen_width,
            .screen_height = c->screen_height,
            .virtio_console_backend = c->virtio_console_backend,
        };
        memcpy(p.serial, c->serial, sizeof p.serial);
        p.firmware = c->firmware ? &vm->firmware : NULL;
        rc = place_disks(vm, &p, e);
        if (!rc)
            rc = vm_nics_init(&vm->nics, c, vm->clock, &p, e);
        if (!rc)
            rc = place_usb(c, &p, e);
        if (!rc)
            rc = dp_pc_create(&p, &vm->pc, e);
        struct dp_vm_screen screen = {.present = true};
        if (!rc && dp_pc_screen(vm->pc, &screen.source, &screen.sink))
            dp_vm_set_screen(vm, &screen);
    }
    if (!rc)
        rc = make_processors(vm, e);
    if (!rc) {
        dp_pc_reset(vm->pc); /* lines set while there were no processors reach them now */
        rc = load(vm, e);
    }
    if (rc) {
        dp_vm_destroy(vm);
        return rc;
    }
    *out = vm;
    return 0;
}

int dp_vm_start(struct dp_vm *vm, struct dp_error *e)
{
    sigset_t all, old;
    int rc = 0;
    if (dp_vm_phase(vm) != DP_VM_NEW)
        return dp_error_set(e, -EINVAL, "the VM was started before");
    if (vm->config.timeout_ms) {
        struct itimerspec t = {.it_value = {(time_t)(vm->config.timeout_ms / 1000), (long)(vm->config.timeout_ms % 1000 * 1000000)}};
        vm->timeout_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
        if (vm->timeout_fd < 0 || timerfd_settime(vm->timeout_fd, 0, &t, NULL) ||
            dp_loop_watch(vm->config.loop, vm->timeout_fd, EPOLLIN, timed_out, vm))
            return dp_error_set(e, -EIO, "cannot set the time limit: %s", strerror(errno));
    }
    /* Signals are the main thread's. Thread-directed ones that an engine uses it unblocks itself. */
    sigfillset(&all);
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGFPE);
    sigdelset(&all, SIGILL);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (unsigned i = 0; !rc && i < vm->vcpu_count; i++) {
        char name[16];
        rc = -pthread_create(&vm->vcpu[i].thread, NULL, vcpu_main, &vm->vcpu[i]);
        vm->vcpu[i].started = !rc;
        snprintf(name, sizeof name, "vcpu%u", i % 1000);
        if (!rc)
            pthread_setname_np(vm->vcpu[i].thread, name);
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc)
        return dp_error_set(e, rc, "cannot start a thread for each of %u processors: %s (see ulimit -u)", vm->vcpu_count, strerror(-rc));
    atomic_store(&vm->phase, DP_VM_PAUSED);
    dp_vm_resume(vm);
    return 0;
}

void dp_vm_resume(struct dp_vm *vm)
{
    if (dp_vm_phase(vm) != DP_VM_PAUSED)
        return;
    atomic_store(&vm->phase, DP_VM_RUNNING);
    dp_clock_resume(vm->clock);
    dp_pc_resume(vm->pc);
    go_on(vm, true); /* a device may have asked for an end just now */
}

void dp_vm_pause(struct dp_vm *vm)
{
    if (dp_vm_phase(vm) != DP_VM_RUNNING)
        return;
    park(vm);
    stop_devices(vm);
    atomic_store(&vm->phase, DP_VM_PAUSED);
}

int dp_vm_reset(struct dp_vm *vm, struct dp_error *e)
{
    enum dp_vm_phase phase = dp_vm_phase(vm);
    if (phase == DP_VM_STOPPED)
        return dp_error_set(e, -EINVAL, "the VM has stopped");
    DP_TRACE(vm->config.trace, DP_TRACE_VM, "reset");
    park(vm);
    if (phase == DP_VM_RUNNING)
        dp_pc_pause(vm->pc);
    remove_slots(vm, dp_pc_ejected(vm->pc, true), false);
    dp_pc_reset(vm->pc);
    int rc = load(vm, e);
    if (rc)
        return rc;
    if (phase == DP_VM_RUNNING) {
        dp_pc_resume(vm->pc);
        set_want(vm, WANT_RUN);
    }
    return 0;
}

void dp_vm_destroy(struct dp_vm *vm)
{
    if (!vm)
        return;
    if (dp_vm_phase(vm) == DP_VM_RUNNING) {
        park(vm);
        stop_devices(vm);
    }
    set_want(vm, WANT_QUIT);
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        if (vm->vcpu[i].started)
            pthread_join(vm->vcpu[i].thread, NULL);
    if (vm->timeout_fd >= 0) {
        dp_loop_unwatch(vm->config.loop, vm->timeout_fd);
        close(vm->timeout_fd);
    }
    /* A request posted but not carried out would find the VM gone: let the loop reach it. */
    atomic_store(&vm->phase, DP_VM_STOPPED);
    for (;;) {
        pthread_mutex_lock(&vm->lock);
        bool posted = vm->request_posted || vm->eject_posted;
        pthread_mutex_unlock(&vm->lock);
        if (!posted)
            break;
        dp_loop_poll(vm->config.loop, 0);
    }
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        if (vm->vcpu[i].cpu)
            vm->engine->cpu_fini(vm->vcpu[i].cpu);
    unsigned count = vm->vcpu_count;
    vm->vcpu_count = 0; /* from here on lines lead nowhere */
    if (vm->engine_state)
        vm->engine->vm_fini(vm->engine_state);
    dp_pc_destroy(vm->pc);
    vm_nics_fini(&vm->nics);
    for (unsigned i = 0; i < count; i++)
        pthread_cond_destroy(&vm->vcpu[i].wakeup);
    free(vm->vcpu);
    for (unsigned i = 0; i < DP_VM_DISKS; i++)
        close_disk(vm, i);
    if (vm->clock)
        dp_clock_destroy(vm->clock);
    vm_file_close(&vm->kernel);
    for (unsigned i = 0; i < DP_VM_INITRDS; i++)
        vm_file_close(&vm->initrd[i]);
    free((void *)vm->firmware.bios.data);
    free((void *)vm->firmware.vga_bios.data);
    free((void *)vm->firmware.variables.data);
    for (unsigned i = 0; i < DP_VM_FW_CFG_FILES; i++) {
        free((void *)vm->fw_file[i].name);
        free((void *)vm->fw_file[i].data);
    }
    free(vm->name);
    free(vm->boot_order);
    free(vm->variables);
    free(vm->cmdline);
    free(vm->dump_path);
    dp_buffer_fini(&vm->result.report);
    pthread_cond_destroy(&vm->parked);
    pthread_cond_destroy(&vm->sampled);
    pthread_mutex_destroy(&vm->lock);
    free(vm);
}

/* ---- what others ask ---- */

enum dp_vm_phase dp_vm_phase(const struct dp_vm *vm) { return (enum dp_vm_phase)atomic_load(&((struct dp_vm *)vm)->phase); }
const struct dp_vm_result *dp_vm_result(const struct dp_vm *vm) { return &vm->result; }
const char *dp_vm_engine_name(const struct dp_vm *vm) { return vm->engine->name; }
const char *dp_vm_engine_why(const struct dp_vm *vm) { return vm->engine_why; }
const char *dp_vm_boot_protocol(const struct dp_vm *vm) { return vm->protocol; }
uint64_t dp_vm_uptime_ns(const struct dp_vm *vm) { return dp_clock_now(vm->clock); }
struct dp_space *dp_vm_memory(struct dp_vm *vm) { return dp_pc_memory(vm->pc); }
struct dp_space *dp_vm_ports(struct dp_vm *vm) { return dp_pc_ports(vm->pc); }
void dp_vm_cpu_state(struct dp_vm *vm, unsigned cpu, struct x86_state *out) { vm->engine->pull(vm->vcpu[cpu].cpu, out); }

/* ---- media ---- */

/* The n-th drive whose medium can be changed: its place among the disks, and among its own kind; negative: there are no more. */
static int find_drive(const struct dp_vm *vm, unsigned n, unsigned *of_kind)
{
    unsigned count[DP_VM_FLOPPY + 1] = {0};
    for (unsigned i = 0; i < vm->config.disk_count; i++) {
        enum dp_vm_bus bus = vm->config.disk[i].bus;
        if (!drive_kind(bus))
            continue;
        *of_kind = count[bus]++;
        if (!n--)
            return (int)i;
    }
    return -1;
}

bool dp_vm_drive(const struct dp_vm *vm, unsigned n, struct dp_vm_drive *d)
{
    unsigned of_kind;
    int i = find_drive(vm, n, &of_kind);
    if (i < 0)
        return false;
    *d = (struct dp_vm_drive){.file = vm->file[i], .readonly = vm->disk[i] && dp_block_readonly(vm->disk[i])};
    snprintf(d->name, sizeof d->name, "%s%u", drive_kind(vm->config.disk[i].bus), of_kind);
    return true;
}

static int no_drive(const struct dp_vm *vm, const char *name, struct dp_error *e)
{
    struct dp_buffer known = {0};
    struct dp_vm_drive d;
    for (unsigned n = 0; dp_vm_drive(vm, n, &d); n++)
        dp_buffer_printf(&known, "%s%s", n ? ", " : ": there are ", d.name);
    int rc = dp_error_set(e, -ENODEV, "this VM has no drive '%.20s'%s", name,
                          known.data ? (char *)known.data : ", nor any whose medium can be changed");
    dp_buffer_fini(&known);
    return rc;
}

/* SCSI targets are numbered in the order of the disks that are there. */
static unsigned scsi_target(const struct dp_vm *vm, int disk)
{
    unsigned target = 0;
    for (int i = 0; i < disk; i++)
        target += vm->config.disk[i].bus == DP_VM_SCSI || vm->config.disk[i].scsi;
    return target;
}

int dp_vm_change_medium(struct dp_vm *vm, const char *name, const char *file, bool readonly, struct dp_error *e)
{
    struct dp_vm_drive d;
    unsigned n = 0, of_kind = 0;
    while (dp_vm_drive(vm, n, &d) && strcmp(d.name, name))
        n++;
    int i = find_drive(vm, n, &of_kind), rc = 0;
    if (i < 0)
        return no_drive(vm, name, e);
    bool cdrom = vm->config.disk[i].bus == DP_VM_CDROM, scsi = vm->config.disk[i].scsi;
    for (int k = 0; k < i && cdrom && !scsi; k++)
        of_kind -= vm->config.disk[k].scsi; /* of the board's own drives */
    struct dp_block *medium = NULL;
    char *copy = file ? strdup(file) : NULL;
    if (file && !copy)
        return dp_error_set(e, -ENOMEM, "no memory");
    const struct dp_vm_disk *disk = &vm->config.disk[i];
    struct dp_block_options o = {
        .path = file, .readonly = cdrom || readonly, .cache = block_cache(disk), .discard_ignored = disk->discard_ignored,
        .detect_zeroes = disk->detect_zeroes, .limits = disk->limits, .clock = vm->clock, .trace = vm->config.trace};
    if (file)
        rc = dp_block_open(vm->config.loop, &o, &medium, e);
    if (!rc && (rc = scsi ? dp_pc_change_scsi_medium(vm->pc, scsi_target(vm, i), medium, e)
                          : dp_pc_change_medium(vm->pc, cdrom, of_kind, medium, e)) && medium)
        dp_block_close(medium);
    if (rc) {
        free(copy);
        return rc;
    }
    if (vm->disk[i])
        dp_block_close(vm->disk[i]);
    free(vm->file[i]);
    vm->disk[i] = medium;
    vm->file[i] = copy;
    return 0;
}

struct dp_block *dp_vm_disk(const struct dp_vm *vm, unsigned n, char name[DP_VM_DISK_NAME])
{
    for (unsigned i = 0; i < DP_VM_DISKS; i++)
        if (*vm->place[i].name && !n--) {
            strcpy(name, vm->place[i].name);
            return vm->disk[i];
        }
    return NULL;
}

static struct dp_device *find_balloon(struct dp_vm *vm, struct dp_error *e)
{
    struct dp_device *d = dp_pc_balloon(vm->pc);
    if (!d)
        dp_error_set(e, -ENODEV, "this VM has no balloon (start it without --no-balloon)");
    return d;
}

int dp_vm_balloon(struct dp_vm *vm, struct dp_balloon_status *s, struct dp_error *e)
{
    struct dp_device *d = find_balloon(vm, e);
    if (!d)
        return -ENODEV;
    dp_virtio_balloon_status(d, s);
    return 0;
}

int dp_vm_set_balloon(struct dp_vm *vm, uint64_t target, struct dp_error *e)
{
    struct dp_device *d = find_balloon(vm, e);
    if (!d)
        return -ENODEV;
    if (!target || target > vm->config.memory)
        return dp_error_set(e, -EINVAL, "the guest can have up to the %llu MiB it was started with, and not 0",
                            (unsigned long long)(vm->config.memory >> 20));
    dp_virtio_balloon_set(d, vm->config.memory - target);
    return 0;
}

void dp_vm_power_button(struct dp_vm *vm) { dp_pc_power_button(vm->pc); }

void dp_vm_set_screen(struct dp_vm *vm, const struct dp_vm_screen *screen) { vm->screen = *screen; }
const struct dp_vm_screen *dp_vm_screen(const struct dp_vm *vm) { return &vm->screen; }

unsigned dp_vm_cpu_count(const struct dp_vm *vm) { return vm->vcpu_count; }
uint64_t dp_vm_memory_size(const struct dp_vm *vm) { return vm->config.memory; }

const char *dp_vm_phase_name(enum dp_vm_phase phase)
{
    static const char *const name[] = {"new", "paused", "running", "stopped"};
    return name[phase];
}

const char *dp_vm_end_name(enum dp_vm_end end)
{
    static const char *const name[] = {"none", "poweroff", "reset", "exit", "timeout", "triple-fault", "error", "stopped"};
    return name[end];
}

static uint64_t thread_time(const struct vcpu *v)
{
    clockid_t clock;
    struct timespec t;
    if (!v->started || pthread_getcpuclockid(v->thread, &clock) || clock_gettime(clock, &t))
        return 0;
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void dp_vm_stats(struct dp_vm *vm, struct dp_vm_cpu_stats *cpus)
{
    pthread_mutex_lock(&vm->lock);
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        struct vcpu *v = &vm->vcpu[i];
        cpus[i].halted = !v->inside;
        v->sample_wanted = v->inside;
        if (v->inside)
            vm->engine->kick(v->cpu);
        else
            vm->engine->counters(v->cpu, &v->sample);
    }
    for (unsigned i = 0; i < vm->vcpu_count; i++) {
        struct vcpu *v = &vm->vcpu[i];
        while (v->sample_wanted)
            pthread_cond_wait(&vm->sampled, &vm->lock);
        cpus[i].counters = v->sample;
        cpus[i].cpu_ns = thread_time(v);
    }
    pthread_mutex_unlock(&vm->lock);
}

void dp_vm_counters(struct dp_vm *vm, struct dp_engine_counters *sum)
{
    struct dp_vm_cpu_stats cpus[DP_VM_CPUS_MAX];
    *sum = (struct dp_engine_counters){0};
    dp_vm_stats(vm, cpus);
    for (unsigned i = 0; i < vm->vcpu_count; i++)
        dp_engine_counters_add(sum, &cpus[i].counters);
}
