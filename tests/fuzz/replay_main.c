/* replay_main.c - runs a fuzz target without libFuzzer: every file of a corpus folder, then mutants of those files and random bytes.
 *
 * Usage: replay-X CORPUS-FOLDER [ITERATIONS [SEED]]. The seed is fixed, so a failure comes again; the input in progress is left in
 * the file named by DP_FUZZ_KEEP, if set, so that a crash leaves its reproducer.
 */
#include <dirent.h>
#include <stdlib.h>

#include "base/base.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MAX_FILES = 4096, MAX_FILE = 1 << 20, MAX_RANDOM = 4096 };

struct corpus { struct dp_buffer *files; size_t count; };

static void run(const uint8_t *data, size_t size)
{
    const char *keep = getenv("DP_FUZZ_KEEP");
    FILE *f = keep ? fopen(keep, "we") : NULL;
    if (f) {
        fwrite(data, 1, size, f);
        fclose(f);
    }
    /* A copy of exact size lets the address sanitizer see every byte read past the end. */
    uint8_t *exact = malloc(size ? size : 1);
    if (!exact)
        abort();
    memcpy(exact, data, size);
    LLVMFuzzerTestOneInput(exact, size);
    free(exact);
}

static void load(struct corpus *c, const char *folder)
{
    DIR *d = opendir(folder);
    struct dirent *entry;
    while (d && (entry = readdir(d)) && c->count < MAX_FILES) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/%s", folder, entry->d_name);
        FILE *f = entry->d_name[0] == '.' ? NULL : fopen(path, "re");
        if (!f)
            continue;
        struct dp_buffer *b = &c->files[c->count++];
        char piece[4096];
        size_t n;
        while ((n = fread(piece, 1, sizeof(piece), f)) && b->size < MAX_FILE)
            dp_buffer_append(b, piece, n);
        fclose(f);
    }
    if (d)
        closedir(d);
}

/* A few small edits: bits, interesting bytes and words, cuts, doubled pieces, a splice with another file. */
static void mutate(struct dp_buffer *b, const struct corpus *c, struct dp_random *r)
{
    for (unsigned n = 1 + dp_random_next(r) % 8; n--;) {
        if (!b->size)
            dp_buffer_append(b, "\0\0\0\0\0\0\0\0", 8);
        uint64_t v = dp_random_next(r);
        size_t at = dp_random_next(r) % b->size;
        switch (dp_random_next(r) % 8) {
        case 0: case 1: b->data[at] ^= 1u << v % 8; break;
        case 2: b->data[at] = (uint8_t)v; break;
        case 3: b->data[at] = v & 1 ? 0xff : 0; break;
        case 4:
            if (b->size - at >= 4)
                dp_st32(b->data + at, v & 1 ? (uint32_t)-1 << v % 32 : 1u << (v >> 8) % 32);
            break;
        case 5: b->size = at; break;
        case 6: {
            size_t length = DP_MIN(b->size - at, (size_t)(v % 64));
            uint8_t piece[64];
            memcpy(piece, b->data + at, length);
            dp_buffer_append(b, piece, length);
            break;
        }
        case 7: {
            const struct dp_buffer *other = &c->files[v % c->count];
            size_t from = other->size ? (v >> 16) % other->size : 0;
            b->size = at;
            dp_buffer_append(b, other->data + from, other->size - from);
            break;
        }
        }
    }
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: %s CORPUS-FOLDER [ITERATIONS [SEED]]\n", argv[0]);
        return 2;
    }
    unsigned long iterations = argc > 2 ? strtoul(argv[2], NULL, 0) : 5000;
    struct corpus c = {.files = calloc(MAX_FILES, sizeof(struct dp_buffer))};
    struct dp_random r;
    dp_random_seed(&r, argc > 3 ? strtoull(argv[3], NULL, 0) : 1);
    if (!c.files)
        return 1;
    load(&c, argv[1]);
    run((const uint8_t *)"", 0);
    for (size_t i = 0; i < c.count; i++)
        run(c.files[i].data ? c.files[i].data : (const uint8_t *)"", c.files[i].size);
    for (unsigned long i = 0; i < iterations; i++) {
        struct dp_buffer b = {0};
        if (c.count && i % 4) {
            const struct dp_buffer *from = &c.files[dp_random_next(&r) % c.count];
            dp_buffer_append(&b, from->data, from->size);
            mutate(&b, &c, &r);
        } else {
            for (unsigned words = dp_random_next(&r) % (i % 64 ? 32 : MAX_RANDOM / 8); words--;) {
                uint64_t v = dp_random_next(&r);
                dp_buffer_append(&b, &v, 8);
            }
        }
        run(b.data ? b.data : (const uint8_t *)"", b.size);
        dp_buffer_fini(&b);
    }
    printf("%zu files, %lu generated inputs\n", c.count, iterations);
    for (size_t i = 0; i < c.count; i++)
        dp_buffer_fini(&c.files[i]);
    free(c.files);
    return 0;
}
