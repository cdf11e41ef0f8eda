/* rom.c - rom-run ENGINE ROM [REFERENCE]: runs a processor test that is a BIOS ROM, as test386.asm is, on one engine.
 *
 * Model: the ROM lies below 1 MiB and below 4 GiB, RAM below it, and there are two ports: POST codes to 0x190 (or 0x80), text to 0xe9. The
 * ROM halts when a test failed or all are done; POST 0xff says all are done. The text is compared with REFERENCE line by line, where there
 * is one.
 * Assembling the ROM: docs/conformance.md. Ends with 0 when all is well, 1 on a failure, 77 when there is no ROM (DOPPEL_TEST386 names the
 * folder of test386.bin and test386-EE-reference.txt when no path is given).
 */
#include "rig.h"

struct rom_run {
    unsigned post;
    bool started;
    struct dp_buffer text;
};

static void rom_out(struct rig *g, unsigned port, uint32_t value, unsigned size)
{
    struct rom_run *r = g->opaque;
    if (port == 0x190 || port == 0x80) {
        r->post = value & 0xff;
        r->started = true;
    } else if (port == 0xe9) {
        dp_buffer_printf(&r->text, "%c", (char)value);
    }
}

static uint8_t *read_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    if (!f)
        return NULL;
    size_t have = 0, room = 1 << 16;
    uint8_t *data = malloc(room + 1);
    for (size_t n; data && (n = fread(data + have, 1, room - have, f)) > 0;) {
        have += n;
        if (have == room)
            data = realloc(data, (room *= 2) + 1);
    }
    fclose(f);
    if (!data)
        exit(2);
    data[have] = 0;
    *size = have;
    return data;
}

/* Lines that differ, without regard to CR and trailing blanks; tells of the first ten. */
static unsigned compare(const char *got, const char *want)
{
    unsigned differ = 0, line = 0;
    while (*got || *want) {
        size_t g = strcspn(got, "\n"), w = strcspn(want, "\n"), gl = g, wl = w;
        while (gl && (got[gl - 1] == '\r' || got[gl - 1] == ' '))
            gl--;
        while (wl && (want[wl - 1] == '\r' || want[wl - 1] == ' '))
            wl--;
        line++;
        if ((gl != wl || memcmp(got, want, gl)) && differ++ < 10)
            printf("line %u:\n  got  %.*s\n  want %.*s\n", line, (int)gl, got, (int)wl, want);
        got += g + (got[g] == '\n');
        want += w + (want[w] == '\n');
    }
    printf("%u lines compared, %u differ\n", line, differ);
    return differ;
}

int main(int argc, char **argv)
{
    const char *engine = argc > 1 ? argv[1] : "interp", *folder = getenv("DOPPEL_TEST386");
    char rom_path[4096], reference_path[4096];
    snprintf(rom_path, sizeof rom_path, "%s%s", argc > 2 ? argv[2] : folder ? folder : "", argc > 2 ? "" : "/test386.bin");
    snprintf(reference_path, sizeof reference_path, "%s%s", argc > 3 ? argv[3] : folder && argc < 3 ? folder : "",
             argc > 2 ? "" : "/test386-EE-reference.txt");
    if (argc < 3 && !folder) {
        printf("rom-run: NOT RUN: no ROM. Assemble test386.asm (docs/conformance.md) and set DOPPEL_TEST386 to its folder.\n");
        return 77;
    }
    size_t size, reference_size;
    uint8_t *rom = read_file(rom_path, &size), *reference = *reference_path ? read_file(reference_path, &reference_size) : NULL;
    if (!rom || size < 0x10000 || size > 0x40000 || (size & 0xfff)) {
        fprintf(stderr, "rom-run: %s: not a ROM of 64 to 256 KiB\n", rom_path);
        return 2;
    }
    struct rom_run r = { 0 };
    struct rig g = { .out = rom_out, .opaque = &r };
    rig_init(&g, engine);
    rig_map_rom(&g, rom, size);
    struct x86_state s;
    x86_state_reset(&s, true);
    g.engine->push(g.cpu, &s);
    struct dp_exit exit = { 0 };
    g.engine->run(g.cpu, 400000000, &exit); /* some 30 million are enough: a ROM that does not come to an end ends here */
    g.engine->pull(g.cpu, &s);
    bool good = exit.kind == DP_EXIT_HALT && r.started && r.post == 0xff;
    printf("%s: POST 0x%02x, %s at %04x:%08llx\n", engine, r.post,
           exit.kind == DP_EXIT_HALT ? "halted" : exit.kind == DP_EXIT_SHUTDOWN ? "triple fault" : "did not end", s.seg[X86_CS].sel,
           (unsigned long long)s.r[X86_RIP]);
    if (!good) {
        struct dp_buffer b = { 0 };
        x86_state_print(&s, &b);
        printf("%.*s%.*s", (int)exit.text.size, (const char *)exit.text.data, (int)b.size, (const char *)b.data);
        dp_buffer_fini(&b);
    } else if (reference && r.text.size) {
        dp_buffer_append(&r.text, "", 1);
        good = !compare((const char *)r.text.data, (const char *)reference);
    }
    dp_buffer_fini(&exit.text);
    dp_buffer_fini(&r.text);
    rig_fini(&g);
    free(rom);
    free(reference);
    return !good;
}
