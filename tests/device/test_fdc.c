/* test_fdc.c - the floppy controller as SeaBIOS, DOS and Linux drive it, on the manual clock, with the real DMA controller and images
 * in memfds: reset
 * and its four SENSE INTERRUPTs, probing, reading and writing by DMA and by FIFO, all ends of a transfer, formatting, disk change,
 * errors of the host, pause with I/O under way, and what every device must do.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "devices/intc/dma8237.h"
#include "devices/storage/fdc.h"
#include "tests/device/conformance.h"

enum { DOR = 0x3f2, MSR = 0x3f4, FIFO = 0x3f5, DIR = 0x3f7, CCR = 0x3f7 };
enum { RQM = 0x80, DIO = 0x40, NDM = 0x20, CB = 0x10, K = 1024, PLACE = 0x20000, DATA_MAX = 64 * K };

struct rig {
    struct conformance_world w;
    struct dp_device *d, *dma;
    struct dp_block *disk[2];
    int fd[2];
    bool irq;
    unsigned rises;
    uint8_t st[10];
};

static void irq_set(void *opaque, unsigned n, bool level)
{
    struct rig *r = opaque;
    assert_int_equal(n, 6);
    r->rises += level && !r->irq;
    r->irq = level;
}

static uint8_t pattern(unsigned at) { return (uint8_t)(at * 5 + at / 512 * 3 + at / 9216); }

static struct dp_block *image(unsigned size, bool readonly, int *fd)
{
    struct dp_error e = {0};
    struct dp_block *b;
    char path[40];
    uint8_t *bytes = malloc(size);
    for (unsigned i = 0; i < size; i++)
        bytes[i] = pattern(i);
    *fd = memfd_create("floppy", MFD_CLOEXEC);
    assert_int_equal(write(*fd, bytes, size), size);
    free(bytes);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", *fd);
    assert_ok(dp_block_open(NULL, &(struct dp_block_options){.path = path, .readonly = readonly, .io = DP_BLOCK_IO_THREADS}, &b, &e), e);
    return b;
}

/* sizes of 0: no disk. */
static void rig_new(struct rig *r, unsigned size0, bool readonly, unsigned size1, const char *kind1)
{
    struct dp_error e = {0};
    memset(r, 0, sizeof(*r));
    conformance_world_init(&r->w);
    r->dma = dp_device_alloc(&dp_dma_class, "dma", &r->w.env);
    r->d = dp_device_alloc(&dp_fdc_class, "fdc", &r->w.env);
    dp_fdc_wire(r->d, (struct dp_irq){irq_set, r, 6}, r->dma, 2);
    r->fd[0] = r->fd[1] = -1;
    if (size0)
        dp_fdc_attach(r->d, 0, r->disk[0] = image(size0, readonly, &r->fd[0]));
    if (size1)
        dp_fdc_attach(r->d, 1, r->disk[1] = image(size1, false, &r->fd[1]));
    if (kind1)
        assert_ok(dp_device_set(r->d, "drive1", kind1, &e), e);
    assert_ok(dp_device_init(r->dma, &e), e);
    assert_ok(dp_device_init(r->d, &e), e);
    assert_ok(dp_device_map(r->dma, DP_DMA_WINDOW_FIRST, 0x00, &e), e);
    assert_ok(dp_device_map(r->dma, DP_DMA_WINDOW_PAGES, 0x80, &e), e);
    assert_ok(dp_device_map(r->d, DP_FDC_WINDOW, 0x3f0, &e), e);
    assert_ok(dp_device_map(r->d, DP_FDC_WINDOW_DIR, 0x3f7, &e), e);
    dp_device_resume(r->d);
}

static void rig_free(struct rig *r)
{
    dp_device_free(r->d);
    dp_device_free(r->dma);
    for (unsigned i = 0; i < 2; i++) {
        dp_block_close(r->disk[i]);
        if (r->fd[i] >= 0)
            close(r->fd[i]);
    }
    conformance_world_fini(&r->w);
}

static uint8_t inb(struct rig *r, unsigned port) { return (uint8_t)dp_space_load(r->w.env.ports, port, 1); }
static void outb(struct rig *r, unsigned port, uint8_t v) { dp_space_store(r->w.env.ports, port, v, 1); }

/* Time passes, as do requests. */
static void pass(struct rig *r)
{
    dp_clock_advance(r->w.env.clock, 20000);
    for (unsigned i = 0; i < 2; i++)
        if (r->disk[i])
            dp_block_drain(r->disk[i]);
}

static bool wait_irq(struct rig *r)
{
    for (unsigned i = 0; i < 200 && !r->irq; i++)
        pass(r);
    return r->irq;
}

static void command(struct rig *r, const char *hex)
{
    unsigned byte;
    int used;
    for (; sscanf(hex, "%x%n", &byte, &used) == 1; hex += used) {
        assert_int_equal(inb(r, MSR) & (RQM | DIO), RQM);
        outb(r, FIFO, (uint8_t)byte);
    }
}

static unsigned results(struct rig *r)
{
    unsigned n = 0;
    while ((inb(r, MSR) & (RQM | DIO | CB)) == (RQM | DIO | CB) && n < sizeof(r->st))
        r->st[n++] = inb(r, FIFO);
    return n;
}

static void answer(struct rig *r, const char *send, const char *hex)
{
    unsigned byte, n = 0;
    int used;
    command(r, send);
    unsigned got = results(r);
    for (; sscanf(hex, "%x%n", &byte, &used) == 1; hex += used)
        assert_int_equal(r->st[n++], byte);
    assert_int_equal(got, n);
    assert_int_equal(inb(r, MSR) & 0xf0, RQM);
}

/* A command that ends with an interrupt and seven bytes. */
static void data(struct rig *r, const char *send, const char *hex)
{
    unsigned byte, n = 0;
    int used;
    command(r, send);
    assert_int_equal(inb(r, MSR) & (RQM | CB), CB);
    assert_true(wait_irq(r));
    assert_int_equal(results(r), 7);
    assert_false(r->irq);
    for (; sscanf(hex, "%x%n", &byte, &used) == 1; hex += used, n++)
        if (r->st[n] != byte)
            fail_msg("%s: result %u is 0x%02x, not 0x%02x", send, n, r->st[n], byte);
}

static void reset(struct rig *r)
{
    outb(r, DOR, 0x00);
    assert_int_equal(inb(r, MSR), 0);
    outb(r, DOR, 0x1c);
    assert_true(wait_irq(r));
    unsigned rises = r->rises;
    answer(r, "8", "c0 0");
    answer(r, "8", "c1 0");
    answer(r, "8", "c2 0");
    answer(r, "8", "c3 0");
    answer(r, "8", "80");
    assert_false(r->irq);
    assert_int_equal(r->rises, rises); /* one interrupt for all four */
    outb(r, CCR, 0);
    command(r, "3 af 2");
}

static void seek(struct rig *r, const char *send, const char *hex)
{
    command(r, send);
    assert_true(inb(r, MSR) & 0x0f); /* the drive is busy, the controller not */
    assert_int_equal(inb(r, MSR) & 0xf0, RQM);
    assert_true(wait_irq(r));
    answer(r, "8", hex);
    assert_false(r->irq);
}

static void dma(struct rig *r, unsigned count, bool to_memory)
{
    outb(r, 0x0a, 0x06);
    outb(r, 0x0c, 0);
    outb(r, 0x04, (uint8_t)PLACE);
    outb(r, 0x04, (uint8_t)(PLACE >> 8));
    outb(r, 0x05, (uint8_t)(count - 1));
    outb(r, 0x05, (uint8_t)((count - 1) >> 8));
    outb(r, 0x0b, to_memory ? 0x46 : 0x4a);
    outb(r, 0x81, PLACE >> 16);
    outb(r, 0x0a, 0x02);
}

static void same(struct rig *r, unsigned at, unsigned size)
{
    uint8_t bytes[DATA_MAX];
    assert_int_equal(dp_space_read(r->w.env.memory, PLACE, bytes, size), 0);
    for (unsigned i = 0; i < size; i++)
        if (bytes[i] != pattern(at + i))
            fail_msg("byte %u of %u at %u: 0x%02x is not 0x%02x", i, size, at, bytes[i], pattern(at + i));
}

/* SeaBIOS: reset, rate, recalibrate, READ ID, then the boot sector and what follows. */
static void bios_reads(void **state)
{
    struct rig r;
    rig_new(&r, 1440 * K, false, 0, NULL);
    assert_int_equal(dp_fdc_drive_type(r.d, 0), 4);
    assert_int_equal(dp_fdc_drive_type(r.d, 1), 0);
    assert_int_equal(inb(&r, MSR), RQM);
    assert_int_equal(inb(&r, DOR), 0x0c); /* it runs: no reset of its own */
    outb(&r, DOR, 0x1c);
    seek(&r, "7 0", "20 0");
    outb(&r, CCR, 0);
    data(&r, "4a 0", "0 0 0 0 0 1 2");
    outb(&r, DOR, 0x18); /* INT 13h, function 0: one SENSE INTERRUPT only */
    outb(&r, DOR, 0x1c);
    assert_true(wait_irq(&r));
    answer(&r, "8", "c0 0");
    seek(&r, "7 0", "20 0");
    dp_device_reset(r.d);
    reset(&r);
    assert_int_equal(inb(&r, DIR), 0x80);
    seek(&r, "7 0", "20 0");
    assert_int_equal(inb(&r, DIR), 0);
    data(&r, "4a 0", "0 0 0 0 0 1 2");
    data(&r, "4a 4", "4 0 0 0 1 2 2");
    dma(&r, 512, true);
    data(&r, "e6 0 0 0 1 2 12 1b ff", "0 0 0 0 0 2 2"); /* TC ends it */
    same(&r, 0, 512);
    dma(&r, 36 * 512, true); /* a cylinder, both heads */
    data(&r, "e6 0 0 0 1 2 12 1b ff", "4 0 0 1 0 1 2");
    same(&r, 0, 36 * 512);
    seek(&r, "f 4 28", "20 28");
    data(&r, "4a 0", "0 0 0 28 0 3 2");
    dma(&r, 3 * 512, true);
    data(&r, "46 4 28 1 7 2 12 1b ff", "4 0 0 28 1 a 2");
    same(&r, ((40 * 2 + 1) * 18 + 6) * 512, 3 * 512);
    dma(&r, 700, true); /* TC in the midst of a sector */
    data(&r, "46 0 28 0 1 2 12 1b ff", "0 0 0 28 0 3 2");
    same(&r, 40 * 36 * 512, 700);
    dma(&r, 20 * 512, true); /* the track ends first */
    data(&r, "46 0 28 0 11 2 12 1b ff", "40 80 0 29 0 1 2");
    same(&r, (40 * 36 + 16) * 512, 2 * 512);
    rig_free(&r);
}

static void errors(void **state)
{
    struct rig r;
    rig_new(&r, 1440 * K, true, 0, "1.44M");
    assert_int_equal(dp_fdc_drive_type(r.d, 1), 4);
    reset(&r);
    dma(&r, 512, true);
    data(&r, "e6 0 0 0 13 2 24 1b ff", "40 4 0 0 0 13 2"); /* no 19th sector */
    data(&r, "e6 0 50 0 1 2 12 1b ff", "40 4 0 50 0 1 2");
    data(&r, "e6 0 0 1 1 2 12 1b ff", "40 4 0 0 1 1 2"); /* heads disagree */
    data(&r, "e6 0 0 0 1 3 12 1b ff", "40 4 0 0 0 1 3");
    data(&r, "a6 0 0 0 1 2 12 1b ff", "40 1 0 0 0 1 2"); /* FM */
    data(&r, "c5 0 0 0 1 2 12 1b ff", "40 2 0 0 0 1 2"); /* read only */
    data(&r, "4d 0 2 12 54 f6", "40 2 0");
    answer(&r, "4 0", "78");
    outb(&r, CCR, 2);
    data(&r, "4a 0", "40 1 0");
    outb(&r, CCR, 0);
    data(&r, "4a 1", "41 1 0"); /* no medium */
    data(&r, "e6 1 0 0 1 2 12 1b ff", "41 1 0 0 0 1 2");
    data(&r, "4a 2", "42 1 0"); /* no drive */
    seek(&r, "7 2", "72 0");
    seek(&r, "7 1", "21 0");
    outb(&r, DOR, 0x2d);
    assert_int_equal(inb(&r, DIR), 0x80); /* still no disk */
    answer(&r, "1f", "80");
    answer(&r, "18", "80");
    answer(&r, "83", "80");
    answer(&r, "4 1", "39");

    /* The host's errors: the image got shorter than the disk. */
    rig_free(&r);
    rig_new(&r, 20 * 512, false, 0, NULL);
    assert_int_equal(dp_fdc_drive_type(r.d, 0), 4);
    reset(&r);
    dma(&r, 512, true);
    data(&r, "e6 0 0 1 2 2 12 1b ff", "40 4 0");
    data(&r, "e6 4 0 1 2 2 12 1b ff", "4 0 0 0 1 3 2");
    same(&r, 19 * 512, 512);
    dma(&r, 512, true);
    data(&r, "e6 4 0 1 3 2 12 1b ff", "44 20 20 0 1 3 2");
    rig_free(&r);
}

static void writes(void **state)
{
    struct rig r;
    uint8_t bytes[4 * 512], back[4 * 512];
    rig_new(&r, 720 * K, false, 0, NULL);
    assert_int_equal(dp_fdc_drive_type(r.d, 0), 4);
    reset(&r);
    outb(&r, CCR, 2);
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 11);
    assert_int_equal(dp_space_write(r.w.env.memory, PLACE, bytes, sizeof(bytes)), 0);
    dma(&r, 4 * 512, false);
    data(&r, "c5 0 5 0 8 2 9 1b ff", "4 0 0 5 1 3 2"); /* 8, 9, then the other head */
    assert_int_equal(pread(r.fd[0], back, sizeof(back), (5 * 18 + 7) * 512), sizeof(back));
    assert_memory_equal(back, bytes, sizeof(bytes));
    dma(&r, 100, false); /* the rest of the sector becomes zeros */
    data(&r, "45 0 6 0 1 2 9 1b ff", "0 0 0 6 0 2 2");
    assert_int_equal(pread(r.fd[0], back, 512, 6 * 18 * 512), 512);
    assert_memory_equal(back, bytes, 100);
    assert_int_equal(back[100] | back[511], 0);

    uint8_t ids[9][4];
    for (unsigned i = 0; i < 9; i++)
        memcpy(ids[i], (uint8_t[]){7, 1, (uint8_t)(1 + i * 2 % 9), 2}, 4);
    assert_int_equal(dp_space_write(r.w.env.memory, PLACE, ids, sizeof(ids)), 0);
    dma(&r, sizeof(ids), false);
    seek(&r, "f 4 7", "20 7");
    data(&r, "4d 4 2 9 50 f6", "4 0 0");
    for (unsigned i = 0; i < 9; i++) {
        assert_int_equal(pread(r.fd[0], back, 512, ((7 * 2 + 1) * 9 + i) * 512), 512);
        assert_true(back[0] == 0xf6 && back[511] == 0xf6);
    }
    assert_int_equal(pread(r.fd[0], back, 1, 8 * 18 * 512), 1);
    assert_int_equal(back[0], pattern(8 * 18 * 512));
    data(&r, "56 0 0 0 1 2 9 1b ff", "0 0 0 1 0 1 2"); /* VERIFY a track, */
    data(&r, "d6 80 0 0 1 2 9 1b c", "4 0 0 0 1 4 2"); /* 12 sectors of a cylinder */
    dma(&r, 9 * 512, true);
    data(&r, "42 0 3 0 1 2 9 1b ff", "0 0 0 4 0 1 2"); /* READ TRACK */
    same(&r, 3 * 18 * 512, 9 * 512);
    dma(&r, 512, true);
    data(&r, "4c 0 3 0 1 2 9 1b ff", "0 0 40");
    rig_free(&r);
}

/* get_fdc_version and fdc_configure of Linux, then its way to tell formats apart: by rate. */
static void linux_probe(void **state)
{
    struct rig r;
    rig_new(&r, 360 * K, false, 720 * K, NULL);
    assert_int_equal(dp_fdc_drive_type(r.d, 0), 1);
    reset(&r);
    answer(&r, "e", "0 0 0 0 af 2 0 0 20 0");
    command(&r, "13 0 1a 0");
    command(&r, "12 80");
    answer(&r, "14", "0");
    answer(&r, "94", "10");
    answer(&r, "18", "80"); /* a 82077AA */
    answer(&r, "10", "90");
    answer(&r, "e", "0 0 0 0 af 2 0 80 1a 0");
    reset(&r);
    answer(&r, "e", "0 0 0 0 af 2 0 80 a 0"); /* what LOCK keeps */
    static const uint8_t rates[] = {0, 3, 1, 2};
    for (unsigned i = 0; i < 4; i++) {
        outb(&r, CCR, rates[i]);
        data(&r, "4a 1", i < 3 ? "41 1 0" : "1 0 0 0 0 1 2");
    }
    seek(&r, "8f 1 5", "21 0"); /* relative, outwards: stays at 0 */
    seek(&r, "cf 1 5", "21 5");

    /* Two seeks at once. */
    command(&r, "f 0 a");
    command(&r, "f 1 14");
    assert_int_equal(inb(&r, MSR), RQM | 3);
    assert_true(wait_irq(&r));
    answer(&r, "8", "20 a");
    assert_true(wait_irq(&r));
    answer(&r, "8", "21 14");
    answer(&r, "8", "80");
    rig_free(&r);
}

/* Without DMA: a byte at a time, an interrupt for a sector, no TC. */
static void by_fifo(void **state)
{
    struct rig r;
    uint8_t back[512];
    rig_new(&r, 1440 * K, false, 0, NULL);
    reset(&r);
    command(&r, "3 af 3");
    command(&r, "46 0 1 0 5 2 6 1b ff");
    for (unsigned i = 0; i < 2 * 512; i++) {
        if (i % 512 == 0)
            assert_true(wait_irq(&r));
        assert_int_equal(inb(&r, MSR), RQM | DIO | NDM | CB);
        assert_int_equal(inb(&r, FIFO), pattern((36 + 4) * 512 + i));
        assert_false(r.irq && i % 512 != 511);
    }
    assert_true(wait_irq(&r));
    assert_int_equal(results(&r), 7);
    assert_int_equal(r.st[0], 0x40);
    assert_int_equal(r.st[1], 0x80);
    command(&r, "45 0 1 0 5 2 5 1b ff");
    assert_true(wait_irq(&r));
    for (unsigned i = 0; i < 512; i++) {
        assert_int_equal(inb(&r, MSR), RQM | NDM | CB);
        outb(&r, FIFO, (uint8_t)(i + 9));
    }
    assert_true(wait_irq(&r));
    assert_int_equal(results(&r), 7);
    assert_int_equal(pread(r.fd[0], back, 512, 40 * 512), 512);
    assert_true(back[0] == 9 && back[511] == (uint8_t)(511 + 9));
    inb(&r, FIFO); /* nothing there: a guest's mistake */
    rig_free(&r);
}

static void media(void **state)
{
    struct rig r;
    struct dp_error e = {0};
    static const struct { unsigned kib; unsigned type; } sizes[] = {
        {160, 1}, {180, 1}, {320, 1}, {360, 1}, {1200, 2}, {720, 4}, {1440, 4}, {1680, 4}, {1722, 4}, {2880, 5}, {1, 4},
    };
    for (unsigned i = 0; i < DP_ARRAY_LEN(sizes); i++) {
        struct dp_fdc_geometry g;
        assert_ok(dp_fdc_geometry(sizes[i].kib * K, DP_FDC_NONE, &g, &e), e);
        assert_int_equal(g.drive, sizes[i].type);
        assert_true(sizes[i].kib == 1 || g.tracks * g.heads * g.sectors == sizes[i].kib * 2);
    }
    struct dp_fdc_geometry g;
    assert_int_equal(dp_fdc_geometry(10 << 20, DP_FDC_NONE, &g, &e), -EINVAL);
    assert_int_equal(dp_fdc_geometry(0, DP_FDC_NONE, &g, NULL), -EINVAL);
    assert_int_equal(dp_fdc_geometry(2880 * K, DP_FDC_1440K, &g, NULL), -EINVAL);
    assert_ok(dp_fdc_geometry(360 * K, DP_FDC_1200K, &g, &e), e);
    assert_true(g.steps == 2 && g.rate == 1);

    rig_new(&r, 1440 * K, false, 0, "1.2M");
    reset(&r);
    seek(&r, "7 0", "20 0");
    assert_int_equal(inb(&r, DIR), 0);
    struct dp_block *old = r.disk[0];
    int fd = r.fd[0];
    command(&r, "46 0 0 0 1 2 12 1b ff"); /* DMA is masked: it hangs there */
    pass(&r);
    pass(&r);
    pass(&r);
    assert_ok(dp_fdc_change_medium(r.d, 0, NULL, &e), e);
    dp_block_close(old);
    close(fd);
    assert_int_equal(inb(&r, DIR), 0x80);
    r.disk[0] = image(720 * K, false, &r.fd[0]);
    assert_ok(dp_fdc_change_medium(r.d, 0, r.disk[0], &e), e);
    assert_int_equal(dp_fdc_drive_type(r.d, 0), 4);
    reset(&r);
    assert_int_equal(inb(&r, DIR), 0x80);
    seek(&r, "f 0 1", "20 1");
    assert_int_equal(inb(&r, DIR), 0);
    outb(&r, CCR, 2);
    data(&r, "4a 0", "0 0 0 1 0 1 2");
    r.disk[1] = image(360 * K, false, &r.fd[1]);
    assert_int_equal(dp_fdc_change_medium(r.d, 2, r.disk[1], &e), -EINVAL);
    assert_int_equal(dp_fdc_change_medium(r.d, 0, r.disk[1], &e), -EINVAL);
    assert_ok(dp_fdc_change_medium(r.d, 1, r.disk[1], &e), e);
    outb(&r, CCR, 1);
    seek(&r, "f 1 14", "21 14");
    data(&r, "4a 1", "1 0 0 a 0 2 2"); /* 20 steps are 10 tracks */
    rig_free(&r);
}

static void pause_and_restore(void **state)
{
    struct rig r, s;
    struct dp_buffer saved = {0};
    struct dp_error e = {0};
    rig_new(&r, 1440 * K, false, 0, NULL);
    rig_new(&s, 1440 * K, false, 0, NULL);
    reset(&r);
    dma(&r, 2 * 512, true);
    dma(&s, 2 * 512, true);
    command(&r, "46 0 0 0 1 2 12 1b ff");
    dp_clock_advance(r.w.env.clock, 60000); /* the first sector is on its way */
    dp_device_pause(r.d);
    assert_false(r.irq);
    dp_device_save(r.d, &saved);
    dp_device_pause(s.d);
    assert_ok(dp_device_load(s.d, saved.data, saved.size, NULL, &e), e);
    dp_device_resume(s.d);
    dp_device_resume(r.d);
    struct rig *both[] = {&r, &s};
    for (unsigned i = 0; i < 2; i++) {
        assert_true(wait_irq(both[i]));
        assert_int_equal(results(both[i]), 7);
        assert_int_equal(both[i]->st[0], 0);
        assert_int_equal(both[i]->st[5], 3);
        same(both[i], 0, 1024);
    }

    /* Reset with a request under way: what it brings is forgotten, and the next command works. */
    dma(&r, 512, true);
    command(&r, "46 0 0 0 1 2 12 1b ff");
    dp_clock_advance(r.w.env.clock, 60000);
    outb(&r, DOR, 0x18);
    outb(&r, DOR, 0x1c);
    assert_true(wait_irq(&r));
    answer(&r, "8", "c0 0");
    dma(&r, 512, true);
    data(&r, "46 0 2 0 1 2 12 1b ff", "0 0 0 2 0 2 2");
    same(&r, 2 * 36 * 512, 512);
    command(&r, "46 0 0 0 1 2 12 1b ff");
    dp_clock_advance(r.w.env.clock, 60000);
    dp_device_reset(r.d);
    pass(&r);
    assert_int_equal(inb(&r, MSR), RQM);
    assert_false(r.irq);
    dp_buffer_fini(&saved);
    rig_free(&r);
    rig_free(&s);
}

/* A processor's thread against the loop's, in real time: a track at a time, each answer awaited by its interrupt as a driver does. */
static void irq_count(void *opaque, unsigned n, bool level)
{
    if (level)
        atomic_fetch_add((atomic_uint *)opaque, 1);
}

struct cpu { struct rig *r; atomic_uint irqs; atomic_bool over; };

static bool await(struct cpu *c, unsigned *seen)
{
    for (unsigned i = 0; i < 20000; i++) {
        if (atomic_load(&c->irqs) != *seen) {
            ++*seen;
            return true;
        }
        usleep(500);
    }
    return false;
}

static void *cpu_thread(void *opaque)
{
    struct cpu *c = opaque;
    struct rig *r = c->r;
    unsigned seen = 0;
    outb(r, DOR, 0x18);
    outb(r, DOR, 0x1c);
    assert_true(await(c, &seen));
    for (unsigned i = 0; i < 4; i++) {
        outb(r, FIFO, 8);
        assert_int_equal(results(r), 2);
    }
    outb(r, CCR, 0);
    for (unsigned i = 0; i < 20; i++) {
        char send[60];
        dma(r, 36 * 512, true);
        snprintf(send, sizeof(send), "e6 0 %x 0 1 2 12 1b ff", i * 4);
        command(r, send);
        assert_true(await(c, &seen));
        assert_int_equal(results(r), 7);
        assert_int_equal(r->st[0], 4);
        same(r, i * 4 * 36 * 512, 36 * 512);
    }
    assert_int_equal(atomic_load(&c->irqs), seen);
    atomic_store(&c->over, true);
    return NULL;
}

static void threads(void **state)
{
    struct rig r = {0};
    struct cpu c = {.r = &r};
    struct dp_error e = {0};
    struct dp_clock *manual;
    char path[40];
    pthread_t t;
    conformance_world_init(&r.w);
    manual = r.w.env.clock;
    assert_ok(dp_loop_create(&r.w.env.loop, &e), e);
    assert_ok(dp_clock_create_vm(r.w.env.loop, &r.w.env.clock, &e), e);
    dp_block_close(image(1440 * K, false, &r.fd[0]));
    snprintf(path, sizeof(path), "/proc/self/fd/%d", r.fd[0]);
    assert_ok(dp_block_open(r.w.env.loop, &(struct dp_block_options){.path = path}, &r.disk[0], &e), e);
    r.dma = dp_device_alloc(&dp_dma_class, "dma", &r.w.env);
    r.d = dp_device_alloc(&dp_fdc_class, "fdc", &r.w.env);
    dp_fdc_wire(r.d, (struct dp_irq){irq_count, &c.irqs, 6}, r.dma, 2);
    dp_fdc_attach(r.d, 0, r.disk[0]);
    assert_ok(dp_device_init(r.dma, &e), e);
    assert_ok(dp_device_init(r.d, &e), e);
    assert_ok(dp_device_map(r.dma, DP_DMA_WINDOW_FIRST, 0x00, &e), e);
    assert_ok(dp_device_map(r.dma, DP_DMA_WINDOW_PAGES, 0x80, &e), e);
    assert_ok(dp_device_map(r.d, DP_FDC_WINDOW, 0x3f0, &e), e);
    assert_ok(dp_device_map(r.d, DP_FDC_WINDOW_DIR, 0x3f7, &e), e);
    dp_device_resume(r.d);
    dp_clock_resume(r.w.env.clock);
    pthread_create(&t, NULL, cpu_thread, &c);
    while (!atomic_load(&c.over))
        dp_loop_poll(r.w.env.loop, 10);
    pthread_join(t, NULL);
    dp_device_pause(r.d);
    dp_device_free(r.d);
    dp_device_free(r.dma);
    dp_block_close(r.disk[0]);
    close(r.fd[0]);
    dp_clock_destroy(r.w.env.clock);
    dp_loop_destroy(r.w.env.loop);
    r.w.env.clock = manual;
    conformance_world_fini(&r.w);
}

/* Each device has an image of its own: draining one's must not hurry another's. */
struct images { struct dp_block *block[400]; int fd[400]; unsigned count; };

static struct dp_device *make(const struct dp_device_env *env, void *opaque)
{
    struct images *v = opaque;
    struct dp_error e = {0};
    struct dp_device *d = dp_device_alloc(&dp_fdc_class, "fdc", env);
    assert_true(v->count < DP_ARRAY_LEN(v->block));
    v->block[v->count] = image(160 * K, false, &v->fd[v->count]);
    dp_fdc_attach(d, 0, v->block[v->count++]);
    assert_ok(dp_device_init(d, &e), e);
    return d;
}

static uint64_t poke(struct dp_device *d, struct dp_random *r)
{
    const struct dp_window_ops *o = d->class->windows[DP_FDC_WINDOW].ops;
    static const uint8_t first[] = {0x46, 0xe6, 0x45, 0x4a, 0x07, 0x0f, 0x08, 0x4d, 0x56};
    uint64_t v = dp_random_next(r);
    if (v & 1)
        o->write(d, 5, v >> 1 & 1 ? first[(v >> 8) % sizeof(first)] : v >> 8 & 3, 1);
    else
        return o->read(d, 5, 1);
    return 0;
}

static void conformance(void **state)
{
    static struct images v;
    const struct conformance c = {.make = make, .poke = poke, .opaque = &v, .rounds = 25};
    conformance_check(&c);
    for (unsigned i = 0; i < v.count; i++) {
        dp_block_close(v.block[i]);
        close(v.fd[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bios_reads), cmocka_unit_test(errors), cmocka_unit_test(writes), cmocka_unit_test(linux_probe),
        cmocka_unit_test(by_fifo), cmocka_unit_test(media), cmocka_unit_test(pause_and_restore), cmocka_unit_test(threads),
        cmocka_unit_test(conformance),
    };
    return cmocka_run_group_tests_name("fdc", tests, NULL, NULL);
}
