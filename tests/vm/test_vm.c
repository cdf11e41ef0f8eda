/* test_vm.c - life cycle on the null engine: two machines in one process and one loop, phases, requests by ports, reset, time limit; and
 * the machine's wiring as a guest sees it. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "console/console.h"
#include "machine/acpi.h"
#include "machine/pvclock.h"
#include "tests/unit/test.h"
#include "tests/vm/images.h"
#include "vm/vm.h"

struct world {
    struct dp_loop *loop;
    struct dp_error e;
    struct dp_console *console[2];
    char kernel[64], disk[64];
    int ended[2];
};

static void write_file(char *path, const void *data, size_t size)
{
    strcpy(path, "/tmp/doppel-vm-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, size), size);
    close(fd);
}

static int setup(void **state)
{
    static uint8_t sectors[65536];
    struct world *w = calloc(1, sizeof *w);
    struct image i = image_multiboot_flat();
    assert_ok(dp_loop_create(&w->loop, &w->e), w->e);
    for (int n = 0; n < 2; n++)
        assert_ok(dp_console_open_memory(&w->console[n], &w->e), w->e);
    write_file(w->kernel, i.data, i.size);
    write_file(w->disk, sectors, sizeof sectors);
    free(i.data);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    for (int n = 0; n < 2; n++)
        dp_console_close(w->console[n]);
    dp_loop_destroy(w->loop);
    unlink(w->kernel);
    unlink(w->disk);
    free(w);
    return 0;
}

static void ended(void *opaque) { ++*(int *)opaque; }

static struct dp_vm_config config(struct world *w, int n)
{
    return (struct dp_vm_config){.memory = 16 << 20,
                                 .cpus = 2,
                                 .engine = "null",
                                 .kernel = w->kernel,
                                 .serial = {w->console[n]},
                                 .loop = w->loop,
                                 .ended = ended,
                                 .opaque = &w->ended[n]};
}

static struct dp_vm *make(struct world *w, const struct dp_vm_config *c)
{
    struct dp_vm *vm = NULL;
    assert_ok(dp_vm_create(c, &vm, &w->e), w->e);
    return vm;
}

static void poll_until(struct world *w, const int *flag)
{
    for (int i = 0; i < 500 && !*flag; i++)
        dp_loop_poll(w->loop, 10);
    assert_true(*flag);
}

static void out(struct dp_vm *vm, uint16_t port, uint32_t value, unsigned size) { dp_space_store(dp_vm_ports(vm), port, value, size); }
static uint32_t in(struct dp_vm *vm, uint16_t port, unsigned size) { return (uint32_t)dp_space_load(dp_vm_ports(vm), port, size); }

static void assert_refused(struct world *w, const struct dp_vm_config *c, const char *words)
{
    struct dp_vm *vm;
    w->e = (struct dp_error){0};
    if (dp_vm_create(c, &vm, &w->e) >= 0)
        fail_msg("made, expected: %s", words);
    if (!strstr(w->e.text, words))
        fail_msg("'%s' does not say '%s'", w->e.text, words);
}

static void test_two_machines(void **state)
{
    struct world *w = *state;
    struct dp_vm *vm[2];
    for (int n = 0; n < 2; n++) {
        struct dp_vm_config c = config(w, n);
        vm[n] = make(w, &c);
        assert_int_equal(dp_vm_phase(vm[n]), DP_VM_NEW);
        assert_ok(dp_vm_start(vm[n], &w->e), w->e);
        assert_int_equal(dp_vm_phase(vm[n]), DP_VM_RUNNING);
    }
    /* Same address, different memories; same port, different consoles. */
    dp_space_store(dp_vm_memory(vm[0]), 0x200000, 0x1111, 4);
    dp_space_store(dp_vm_memory(vm[1]), 0x200000, 0x2222, 4);
    assert_int_equal(dp_space_load(dp_vm_memory(vm[0]), 0x200000, 4), 0x1111);
    out(vm[0], 0x3f8, 'a', 1);
    out(vm[1], 0x3f8, 'b', 1);
    for (int i = 0; i < 20; i++)
        dp_loop_poll(w->loop, 1);
    assert_int_equal(dp_console_output(w->console[0])->data[0], 'a');
    assert_int_equal(dp_console_output(w->console[1])->data[0], 'b');
    /* One ends by itself, the other runs on. */
    out(vm[0], 0xf4, 21, 1);
    poll_until(w, &w->ended[0]);
    assert_int_equal(dp_vm_phase(vm[0]), DP_VM_STOPPED);
    assert_int_equal(dp_vm_result(vm[0])->end, DP_END_EXIT);
    assert_int_equal(dp_vm_result(vm[0])->status, 43);
    assert_int_equal(dp_vm_phase(vm[1]), DP_VM_RUNNING);
    dp_vm_stop(vm[1], 7, "the test ends it");
    dp_vm_stop(vm[1], 8, "too late");
    poll_until(w, &w->ended[1]);
    assert_int_equal(dp_vm_result(vm[1])->end, DP_END_STOPPED);
    assert_int_equal(dp_vm_result(vm[1])->status, 7);
    assert_string_equal(dp_vm_result(vm[1])->reason, "the test ends it");
    assert_int_equal(w->ended[0] + w->ended[1], 2);
    dp_vm_destroy(vm[0]);
    dp_vm_destroy(vm[1]);
}

static void test_kernel_is_loaded(void **state)
{
    struct world *w = *state;
    struct dp_vm_config c = config(w, 0);
    struct x86_state s;
    struct dp_vm *vm = make(w, &c);
    assert_string_equal(dp_vm_boot_protocol(vm), "Multiboot");
    dp_vm_cpu_state(vm, 0, &s);
    assert_int_equal(s.r[X86_RIP], IMAGE_FLAT_LOAD + 0x60);
    assert_int_equal(s.run_state, X86_RUNNING);
    dp_vm_cpu_state(vm, 1, &s);
    assert_int_equal(s.run_state, X86_WAIT_SIPI);
    /* RSDP where systems look for it; the EBDA as the BIOS data area says. */
    assert_int_equal(dp_space_load(dp_vm_memory(vm), DP_ACPI_BASE, 8), dp_ld64("RSD PTR "));
    assert_int_equal(dp_space_load(dp_vm_memory(vm), 0x40e, 2), 0x9fc0);
    assert_int_equal(dp_space_load(dp_vm_memory(vm), 0x400, 2), 0x3f8);
    dp_vm_destroy(vm);
}

static void test_pause_resume_reset(void **state)
{
    struct world *w = *state;
    struct dp_vm_config c = config(w, 0);
    struct x86_state s;
    struct dp_vm *vm = make(w, &c);
    assert_ok(dp_vm_start(vm, &w->e), w->e);
    assert_true(dp_vm_start(vm, &w->e) < 0);
    for (int i = 0; i < 20; i++) {
        dp_vm_pause(vm);
        assert_int_equal(dp_vm_phase(vm), DP_VM_PAUSED);
        uint64_t then = dp_vm_uptime_ns(vm);
        usleep(200);
        assert_int_equal(dp_vm_uptime_ns(vm), then); /* time stands still */
        dp_vm_pause(vm);
        dp_vm_resume(vm);
        dp_vm_resume(vm);
        assert_int_equal(dp_vm_phase(vm), DP_VM_RUNNING);
    }
    /* The guest overwrites its kernel and resets: it is loaded anew. */
    dp_space_store(dp_vm_memory(vm), IMAGE_FLAT_LOAD + 0x60, 0, 8);
    out(vm, 0xcf9, 6, 1);
    for (int i = 0; i < 50; i++)
        dp_loop_poll(w->loop, 1);
    assert_int_equal(dp_vm_phase(vm), DP_VM_RUNNING);
    uint8_t code[sizeof image_code];
    assert_int_equal(dp_space_read(dp_vm_memory(vm), IMAGE_FLAT_LOAD + 0x60, code, sizeof code), 0);
    assert_memory_equal(code, image_code, sizeof code);
    dp_vm_pause(vm);
    dp_vm_cpu_state(vm, 0, &s);
    assert_int_equal(s.r[X86_RIP], IMAGE_FLAT_LOAD + 0x60);
    assert_ok(dp_vm_reset(vm, &w->e), w->e);
    assert_int_equal(dp_vm_phase(vm), DP_VM_PAUSED); /* a reset keeps the phase */
    /* A kernel that has gone bad meanwhile ends the machine with a reason. */
    dp_vm_resume(vm);
    assert_int_equal(truncate(w->kernel, 4), 0);
    out(vm, 0xcf9, 0, 1);
    out(vm, 0xcf9, 6, 1);
    poll_until(w, &w->ended[0]);
    assert_int_equal(dp_vm_result(vm)->end, DP_END_ERROR);
    assert_int_equal(dp_vm_result(vm)->status, 125);
    dp_vm_destroy(vm);
}

static void test_poweroff_and_no_reboot(void **state)
{
    struct world *w = *state;
    struct dp_vm_config c = config(w, 0);
    struct dp_vm *vm = make(w, &c);
    assert_ok(dp_vm_start(vm, &w->e), w->e);
    out(vm, 0x520, 5, 1);
    out(vm, 0x604, 5 << 10 | 1 << 13, 2); /* SLP_TYP S5, SLP_EN */
    poll_until(w, &w->ended[0]);
    assert_int_equal(dp_vm_result(vm)->end, DP_END_POWEROFF);
    assert_int_equal(dp_vm_result(vm)->status, 5);
    dp_vm_destroy(vm);

    c = config(w, 1);
    c.no_reboot = true;
    vm = make(w, &c);
    assert_ok(dp_vm_start(vm, &w->e), w->e);
    out(vm, 0xcf9, 6, 1);
    poll_until(w, &w->ended[1]);
    assert_int_equal(dp_vm_result(vm)->end, DP_END_RESET);
    dp_vm_destroy(vm);
}

static void test_timeout(void **state)
{
    struct world *w = *state;
    struct dp_vm_config c = config(w, 0);
    c.timeout_ms = 30;
    struct dp_vm *vm = make(w, &c);
    assert_ok(dp_vm_start(vm, &w->e), w->e);
    poll_until(w, &w->ended[0]);
    assert_int_equal(dp_vm_result(vm)->end, DP_END_TIMEOUT);
    assert_int_equal(dp_vm_result(vm)->status, 124);
    dp_vm_destroy(vm);
}

static void *stopper(void *opaque)
{
    dp_vm_stop(opaque, 1, "from another thread");
    return NULL;
}

/* Requests at any moment of a life: none is lost, none comes after the end. */
static void test_races(void **state)
{
    struct world *w = *state;
    for (int round = 0; round < 30; round++) {
        struct dp_vm_config c = config(w, 0);
        c.cpus = 4;
        w->ended[0] = 0;
        struct dp_vm *vm = make(w, &c);
        pthread_t t;
        if (round % 3 == 0)
            assert_int_equal(pthread_create(&t, NULL, stopper, vm), 0);
        assert_ok(dp_vm_start(vm, &w->e), w->e);
        if (round % 3 == 1)
            assert_int_equal(pthread_create(&t, NULL, stopper, vm), 0);
        dp_vm_pause(vm);
        dp_vm_resume(vm);
        if (round % 3 == 2)
            assert_int_equal(pthread_create(&t, NULL, stopper, vm), 0);
        if (round % 2)
            (void)!dp_vm_reset(vm, &w->e);
        assert_int_equal(pthread_join(t, NULL), 0);
        if (round % 5) { /* else destroyed with the request still posted */
            poll_until(w, &w->ended[0]);
            assert_int_equal(dp_vm_result(vm)->status, 1);
        }
        dp_vm_destroy(vm);
    }
}

static void test_refusals(void **state)
{
    struct world *w = *state;
    struct dp_vm_config c;
#define CASE(words, ...)                                                                                                                   \
    do {                                                                                                                                   \
        c = config(w, 0);                                                                                                                  \
        __VA_ARGS__;                                                                                                                       \
        assert_refused(w, &c, words);                                                                                                      \
    } while (0)
    CASE("No such file", c.kernel = "/nonexistent");
    CASE("a directory", c.kernel = "/tmp");
    CASE("device or a pipe", c.kernel = "/dev/null");
    CASE("No such file", {
        c.initrd[0] = "/nonexistent";
        c.initrd_count = 1;
    });
    CASE("/nonexistent", {
        c.disk[0].path = "/nonexistent";
        c.disk_count = 1;
    });
    CASE("at most 255", c.cpus = 256);
    CASE("did you mean", c.memory = 512);
    CASE("multiple of 4K", c.memory = (16 << 20) + 1);
    CASE("at most", c.memory = 1ull << 60);
    CASE("engine", c.engine = "warp");
    CASE("warp", c.cpu_model = "warp");
    CASE("memory", c.memory = 512ull << 30); /* more than any test host has */
#undef CASE
}

/* Every PCI function got addresses that answer, inside the windows and apart from each other. */
static void test_pci(void **state)
{
    struct world *w = *state;
    struct dp_vm_config c = config(w, 0);
    c.virtio_console = true;
    for (int i = 0; i < 3; i++)
        c.disk[c.disk_count++] = (struct dp_vm_disk){.path = w->disk, .readonly = true};
    struct dp_vm *vm = make(w, &c);
    struct dp_space *m = dp_vm_memory(vm);
    unsigned functions = 0;
    uint64_t last = 0xc0000000;
    for (unsigned slot = 0; slot < 32; slot++) {
        uint64_t config_at = 0xe0000000 + (slot << 15);
        uint32_t id = (uint32_t)dp_space_load(m, config_at, 4);
        out(vm, 0xcf8, 0x80000000 | slot << 11, 4);
        assert_int_equal(in(vm, 0xcfc, 4), id); /* both ways lead to the same */
        if (id == 0xffffffff)
            continue;
        functions++;
        if (!slot)
            continue;
        assert_int_equal(id & 0xffff, 0x1af4);
        assert_int_equal(dp_space_load(m, config_at + 4, 2) & 2, 2);
        assert_in_range(dp_space_load(m, config_at + 0x3c, 1), 16, 23);
        for (unsigned bar = 0; bar < 6; bar++) {
            uint32_t v = (uint32_t)dp_space_load(m, config_at + 0x10 + 4 * bar, 4);
            if (!(v & ~0xfu))
                continue;
            assert_in_range(v & ~0xfu, last, 0xdfffffff);
            last = (v & ~0xfu) + 1;
            struct dp_range r;
            assert_true(dp_space_find(m, v & ~0xfu, &r));
            assert_non_null(r.ops);
        }
    }
    assert_int_equal(functions, 1 + 1 + 1 + 1 + 3); /* bridge, rng, balloon, console, disks */
    /* After a reset everything has its address again. */
    assert_ok(dp_vm_reset(vm, &w->e), w->e);
    assert_int_equal(dp_space_load(m, 0xe0000000 + (1 << 15) + 4, 2) & 2, 2);
    dp_vm_destroy(vm);
}

/* A listening socket of 127.0.0.1 on *port, or on one that is free; -1: somebody has it. */
static int listen_on(uint16_t *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(*port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&a, n) || listen(fd, 1) || getsockname(fd, (struct sockaddr *)&a, &n)) {
        close(fd);
        return -1;
    }
    *port = ntohs(a.sin_port);
    return fd;
}

/* Cards and networks of two machines in one process, through pause, reset and end. */
static void test_networks(void **state)
{
    struct world *w = *state;
    struct dp_vm *vm[2];
    uint16_t port[2] = {0};
    for (int n = 0; n < 2; n++) {
        struct dp_vm_config c = config(w, n);
        int fd = listen_on(&port[n]);
        assert_true(fd >= 0);
        close(fd);
        c.name = n ? "two" : "one";
        c.nic_count = 3;
        for (unsigned i = 0; i < 2; i++)
            assert_ok(dp_net_parse_nic(i ? "user,mac=52:54:00:00:00:01" : "user", &c.nic[i].net, &w->e), w->e);
        assert_ok(dp_net_parse_nic("none", &c.nic[2].net, &w->e), w->e);
        char forward[40];
        snprintf(forward, sizeof forward, "127.0.0.1:%u:80", port[n]);
        assert_ok(dp_net_parse_publish(forward, &c.nic[0].net.user, &w->e), w->e);
        vm[n] = make(w, &c);
        assert_refused(w, &c, "another program listens there");
        strcpy(c.nic[1].net.model, "ne3000");
        c.nic[0].net.user.forwards = 0;
        assert_refused(w, &c, "there is no network card 'ne3000': possible are virtio");
    }
    uint64_t mac[2];
    for (int n = 0; n < 2; n++) {
        struct dp_space *m = dp_vm_memory(vm[n]);
        unsigned cards = 0;
        for (unsigned slot = 31; slot; slot--)
            if (dp_space_load(m, 0xe0000000 + (slot << 15), 4) == 0x10411af4) {
                uint32_t bar = (uint32_t)dp_space_load(m, 0xe0000000 + (slot << 15) + 0x10, 4) & ~15u;
                mac[n] = dp_space_load(m, bar + 0x2000, 8) & 0xffffffffffff;
                assert_int_equal(dp_space_load(m, bar + 0x2006, 2), 1); /* the link is up */
                assert_true(cards++ || mac[n] == 0x010000005452);
            }
        assert_int_equal(cards, 2);
        assert_ok(dp_vm_start(vm[n], &w->e), w->e);
        dp_vm_pause(vm[n]);
        dp_loop_poll(w->loop, 0);
        dp_vm_resume(vm[n]);
        assert_ok(dp_vm_reset(vm[n], &w->e), w->e);
    }
    assert_true(mac[0] != mac[1]); /* by name */
    for (int n = 0; n < 2; n++) {
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port[n]), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
        for (unsigned i = 0; i < 5; i++)
            dp_loop_poll(w->loop, 1);
        dp_vm_destroy(vm[n]);
        close(fd);
        fd = listen_on(&port[n]);
        assert_true(fd >= 0); /* given back */
        close(fd);
    }
}

static void test_pvclock_scale(void **state)
{
    static const uint32_t khz[] = {1000000, 1, 1000, 999999, 1000001, 2400000, 3000000, 4294967295u};
    for (size_t i = 0; i < DP_ARRAY_LEN(khz); i++) {
        uint32_t mul;
        int8_t shift;
        dp_pvclock_scale(khz[i], &mul, &shift);
        uint64_t tsc = (uint64_t)khz[i] * 100000; /* 100 s */
        unsigned __int128 scaled = shift >= 0 ? (unsigned __int128)tsc << shift : tsc >> -shift;
        uint64_t ns = (uint64_t)(scaled * mul >> 32);
        assert_in_range(ns, 100000000000 - 100, 100000000000);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_two_machines),
        TEST(test_kernel_is_loaded),
        TEST(test_pause_resume_reset),
        TEST(test_poweroff_and_no_reboot),
        TEST(test_timeout),
        TEST(test_races),
        TEST(test_refusals),
        TEST(test_pci),
        TEST(test_networks),
        cmocka_unit_test(test_pvclock_scale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
