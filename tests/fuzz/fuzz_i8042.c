/* fuzz_i8042.c - the keyboard controller: any bytes at its ports, keys and movements from outside, time, pause, reset and restored
 * states.
 *
 * Input: an operation byte and its operands, see `operation`. Invariants checked: a byte that is announced belongs to the line that
 * announces it, and scan codes of set 2 that come from the keyboard undisturbed are never torn (tests/device/test_i8042.c has the
 * exact ones).
 */
#include <stdlib.h>

#include "devices/input/i8042.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x) do { if (x) abort(); } while (0)
enum { OPERATIONS_MAX = 2000 };

struct input { const uint8_t *at, *end; };
struct world { struct dp_clock *clock; struct dp_device_env env; struct dp_device *d; bool reset, irq[2]; };

static uint8_t take(struct input *in) { return in->at < in->end ? *in->at++ : 0; }
static void request(void *opaque, enum dp_vm_request r, int status) { ((struct world *)opaque)->reset = true; }
static void irq_set(void *opaque, unsigned n, bool level) { ((struct world *)opaque)->irq[n] = level; }

static void restore(struct world *w, struct input *in)
{
    struct dp_buffer image = {0};
    struct dp_error e = {0};
    dp_device_pause(w->d);
    dp_device_save(w->d, &image);
    for (unsigned n = take(in) % 8; n; n--) {
        unsigned at = take(in) | take(in) << 8;
        image.data[at % image.size] ^= take(in);
    }
    if (dp_device_load(w->d, image.data, image.size, NULL, &e))
        MUST(!e.text[0]);
    dp_buffer_fini(&image);
    dp_device_resume(w->d);
}

static void operation(struct world *w, struct input *in)
{
    static const uint16_t ports[] = {0x60, 0x64, 0x92};
    struct dp_input_sink sink = dp_i8042_sink(w->d);
    uint8_t code = take(in), a;
    switch (code & 7) {
    case 0: dp_space_store(w->env.ports, 0x60, take(in), 1); break;
    case 1: dp_space_store(w->env.ports, 0x64, take(in), 1); break;
    case 2: {
        uint8_t status = (uint8_t)dp_space_load(w->env.ports, 0x64, 1);
        MUST(w->irq[0] && (status & 0x21) != 1);
        MUST(w->irq[1] && (status & 0x21) != 0x21);
        dp_space_load(w->env.ports, ports[code >> 3 & 1 ? 0 : (code >> 4) % 3], 1);
        break;
    }
    case 3: sink.key(sink.opaque, take(in), code >> 3 & 1); break;
    case 4:
        a = take(in);
        sink.motion(sink.opaque, (int8_t)a * (1 << (code >> 6)), (int8_t)take(in) * (1 << (code >> 6)), (int8_t)take(in), code >> 3 & 7);
        break;
    case 5: dp_clock_advance(w->clock, (uint64_t)take(in) << (code >> 3)); break;
    case 6: /* to the mouse */
        dp_space_store(w->env.ports, 0x64, 0xd4, 1);
        dp_space_store(w->env.ports, 0x60, take(in), 1);
        break;
    case 7:
        if (code >> 3 == 0)
            dp_space_store(w->env.ports, 0x92, take(in), 1);
        else if (code >> 3 < 8)
            restore(w, in);
        else if (code >> 3 == 8)
            w->reset = true;
        else
            sink.key(sink.opaque, code | (unsigned)take(in) << 8, true);
        break;
    }
    if (w->reset) {
        dp_device_reset(w->d);
        w->reset = false;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {0};
    struct input in = {data, data + size};
    MUST(dp_clock_create_manual(&w.clock, NULL));
    w.env.clock = w.clock;
    w.env.vm = (struct dp_vm_sink){request, &w};
    MUST(dp_space_create("ports", 0x10000, NULL, &w.env.ports, NULL));
    MUST(!(w.d = dp_device_alloc(&dp_i8042_class, "i8042", &w.env)));
    dp_i8042_wire(w.d, (struct dp_irq){irq_set, &w, 0}, (struct dp_irq){irq_set, &w, 1}, (struct dp_irq){0});
    MUST(dp_device_init(w.d, NULL));
    MUST(dp_device_map(w.d, DP_I8042_WINDOW_DATA, 0x60, NULL) || dp_device_map(w.d, DP_I8042_WINDOW_COMMAND, 0x64, NULL) ||
         dp_device_map(w.d, DP_I8042_WINDOW_PORT92, 0x92, NULL));
    dp_device_resume(w.d);
    for (unsigned n = 0; n < OPERATIONS_MAX && in.at < in.end; n++)
        operation(&w, &in);
    dp_device_free(w.d);
    dp_space_destroy(w.env.ports);
    dp_clock_destroy(w.clock);
    return 0;
}
