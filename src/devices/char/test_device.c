/* test_device.c - registers and interrupt lines for test kernels; see test_device.h.
 *
 * Source: the interface of QEMU's pc-testdev, as kvm-unit-tests use it.
 */
#include "devices/char/test_device.h"

enum { MEMORY = 64 << 10 };

struct test_regs { uint8_t port[4], memory[MEMORY]; uint32_t lines; };
struct test_device { struct dp_device device; struct test_regs regs; struct dp_irq irq[DP_TEST_DEVICE_IRQS]; };

static const struct dp_field test_fields[] = {
    DP_FIELD_BYTES(struct test_regs, port, 1),
    DP_FIELD_BYTES(struct test_regs, memory, 2),
    DP_FIELD_U32(struct test_regs, lines, 3, 0, (1u << DP_TEST_DEVICE_IRQS) - 1),
};
static const struct dp_state_table test_table = DP_STATE_TABLE(struct test_regs, "test-device", test_fields);

/* A window's accesses lie within it, whatever their size. */
static uint64_t read_bytes(struct test_device *t, const uint8_t *from, unsigned size)
{
    uint8_t v[8] = {0};
    pthread_mutex_lock(&t->device.lock);
    memcpy(v, from, size);
    pthread_mutex_unlock(&t->device.lock);
    return dp_ld64(v);
}
static void write_bytes(struct test_device *t, uint8_t *to, uint64_t value, unsigned size)
{
    uint8_t v[8];
    dp_st64(v, value);
    pthread_mutex_lock(&t->device.lock);
    memcpy(to, v, size);
    pthread_mutex_unlock(&t->device.lock);
}

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    struct test_device *t = opaque;
    return read_bytes(t, t->regs.port + offset, size);
}
static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct test_device *t = opaque;
    write_bytes(t, t->regs.port + offset, value, size);
}
static uint64_t memory_read(void *opaque, uint64_t offset, unsigned size)
{
    struct test_device *t = opaque;
    return read_bytes(t, t->regs.memory + offset, size);
}
static void memory_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct test_device *t = opaque;
    write_bytes(t, t->regs.memory + offset, value, size);
}

static void flush_write(void *opaque, uint64_t offset, uint64_t value, unsigned size) {}

/* Bytes of a wide write are for a line each. */
static void lines_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct test_device *t = opaque;
    pthread_mutex_lock(&t->device.lock);
    t->regs.lines = (t->regs.lines & ~(1u << offset)) | (uint32_t)(value & 1) << offset;
    pthread_mutex_unlock(&t->device.lock);
    dp_irq_set(&t->irq[offset], value & 1);
}

static void drive_lines(struct dp_device *d)
{
    struct test_device *t = (struct test_device *)d;
    for (unsigned i = 0; i < DP_TEST_DEVICE_IRQS; i++)
        dp_irq_set(&t->irq[i], t->regs.lines >> i & 1);
}

void dp_test_device_wire(struct dp_device *d, unsigned line, struct dp_irq irq) { ((struct test_device *)d)->irq[line] = irq; }

static const struct dp_window_ops port_ops = {.name = "test-port", .read = port_read, .write = port_write, .max_size = 4};
static const struct dp_window_ops flush_ops = {.name = "test-flush", .write = flush_write, .max_size = 4};
static const struct dp_window_ops lines_ops = {.name = "test-lines", .write = lines_write, .max_size = 1};
static const struct dp_window_ops memory_ops = {.name = "test-memory", .read = memory_read, .write = memory_write, .max_size = 8};
static const struct dp_window_spec windows[] = {
    [DP_TEST_DEVICE_PORT] = {"port", 4, &port_ops, true},
    [DP_TEST_DEVICE_FLUSH] = {"flush", 4, &flush_ops, true},
    [DP_TEST_DEVICE_LINES] = {"lines", DP_TEST_DEVICE_IRQS, &lines_ops, true},
    [DP_TEST_DEVICE_MEMORY] = {"memory", MEMORY, &memory_ops, false},
};

const struct dp_device_class dp_test_device_class = {
    .name = "test-device",
    .summary = "registers and interrupt lines for test kernels",
    .size = sizeof(struct test_device),
    .regs_offset = offsetof(struct test_device, regs),
    .state = &test_table,
    .windows = windows,
    .window_count = DP_ARRAY_LEN(windows),
    .reset = drive_lines,
    .post_load = drive_lines,
};
