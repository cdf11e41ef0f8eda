/* rig.h - one processor of an engine with RAM and ports, and nothing else: for suites made by others that bring their own expectations
 * (rom.c, moo.c).
 *
 * Model: 16 MiB of RAM at 0; the test maps ROMs; every port is answered by the test's `out` and `in`. Failures of the rig itself end the
 * program with status 2: it is a test. No controller of interrupts: INTR is never raised.
 */
#ifndef TESTS_CPU_RIG_H
#define TESTS_CPU_RIG_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "hot.h"

enum { RIG_RAM = 16 << 20 };

struct rig {
    const struct dp_engine *engine;
    struct dp_ram *ram, *rom;
    struct dp_space *memory, *ports;
    struct dp_clock *clock;
    struct x86_cpuid_model model;
    struct dp_engine_vm vm;
    struct dp_engine_state *state;
    struct dp_cpu *cpu;
    void (*out)(struct rig *, unsigned port, uint32_t value, unsigned size);
    uint32_t (*in)(struct rig *, unsigned port, unsigned size);
    void *opaque;
};

static void rig_check(int r, const struct dp_error *e)
{
    if (r) {
        fprintf(stderr, "rig: %s\n", e->text);
        exit(2);
    }
}
static void rig_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct rig *g = opaque;
    if (g->out)
        g->out(g, (unsigned)offset, (uint32_t)value, size);
}
static uint64_t rig_read(void *opaque, uint64_t offset, unsigned size)
{
    struct rig *g = opaque;
    return g->in ? g->in(g, (unsigned)offset, size) : ~0ull;
}
static const struct dp_window_ops rig_ports = { "rig ports", rig_read, rig_write, 1, 4 };

static bool rig_msr_read(void *apic, uint32_t msr, uint64_t *value) { return false; }
static bool rig_msr_write(void *apic, uint32_t msr, uint64_t value) { return false; }

static void rig_init(struct rig *g, const char *engine)
{
    struct dp_error e = { 0 };
    uint32_t id;
    g->engine = hot_find(engine);
    if (!g->engine) {
        fprintf(stderr, "rig: no engine named %s\n", engine);
        exit(2);
    }
    rig_check(x86_cpuid_model("x86-64-v2", &g->model, &e), &e);
    g->model.cpu_count = 1;
    rig_check(dp_ram_create("rig", RIG_RAM, &g->ram, &e), &e);
    rig_check(dp_space_create("memory", 1ull << 40, NULL, &g->memory, &e), &e);
    rig_check(dp_space_create("ports", 0x10000, NULL, &g->ports, &e), &e);
    rig_check(dp_space_map_ram(g->memory, 0, g->ram, 0, RIG_RAM, false, 0, &id, &e), &e);
    rig_check(dp_space_map_window(g->ports, 0, 0x10000, &rig_ports, g, 0, &id, &e), &e);
    rig_check(dp_clock_create_manual(&g->clock, &e), &e);
    g->vm = (struct dp_engine_vm){ .memory = g->memory, .ports = g->ports, .clock = g->clock, .model = &g->model, .cpu_count = 1 };
    rig_check(g->engine->vm_init(&g->vm, &g->state, &e), &e);
    hot_set(engine, g->state);
    const struct dp_x86_bus bus = { .msr_read = rig_msr_read, .msr_write = rig_msr_write };
    rig_check(g->engine->cpu_init(g->state, 0, &bus, &g->cpu, &e), &e);
}
/* A ROM of `size` bytes at the end of the first MiB and at the end of 4 GiB. */
static inline void rig_map_rom(struct rig *g, const uint8_t *data, uint64_t size)
{
    struct dp_error e = { 0 };
    uint32_t id;
    rig_check(dp_ram_create("rom", size, &g->rom, &e), &e);
    memcpy(g->rom->host, data, size);
    rig_check(dp_space_map_ram(g->memory, (1 << 20) - size, g->rom, 0, size, true, 1, &id, &e), &e);
    rig_check(dp_space_map_ram(g->memory, (1ull << 32) - size, g->rom, 0, size, true, 1, &id, &e), &e);
}
static void rig_fini(struct rig *g)
{
    g->engine->cpu_fini(g->cpu);
    g->engine->vm_fini(g->state);
    dp_clock_destroy(g->clock);
    dp_space_destroy(g->memory);
    dp_space_destroy(g->ports);
    dp_ram_destroy(g->ram);
    if (g->rom)
        dp_ram_destroy(g->rom);
}

#endif
