/* http_tool.c ADDRESS COPY|- WORD... - a disk's user for test_http.py: `fill` (first), `read OFFSET SIZE`, `all` (reads it), `whole` (waits
 * until the copy has all), `wait` (says so, and waits for a line). Status 1: something failed, the reason is on stdout. */
#include <stdlib.h>
#include <time.h>

#include "block/http.h"
#include "block/image.h"

static void say(void *opaque, const char *line) { puts(line); }

static int read_range(struct dp_image *i, uint64_t offset, uint64_t size)
{
    char *data = malloc(size);
    int rc = data ? dp_image_pread(i, data, size, offset) : -ENOMEM;
    free(data);
    return rc;
}

int main(int argc, char **argv)
{
    struct dp_error e = {0};
    struct dp_trace trace = {.sink = say};
    struct dp_image *i;
    if (argc < 3)
        return 2;
    int n = 3;
    struct dp_image_options o = {.name = argv[1], .readonly = true, .copy = strcmp(argv[2], "-") ? argv[2] : NULL, .trace = &trace};
    if (n < argc && !strcmp(argv[n], "fill"))
        n++, o.fill = true;
    int rc = dp_image_open(&o, &i, &e);
    if (rc) {
        puts(e.text);
        return 1;
    }
    for (; !rc && n < argc; n++) {
        if (!strcmp(argv[n], "read") && n + 2 < argc) {
            rc = read_range(i, strtoull(argv[n + 1], NULL, 0), strtoull(argv[n + 2], NULL, 0));
            n += 2;
        } else if (!strcmp(argv[n], "all")) {
            for (uint64_t at = 0; !rc && at < i->size; at += 1 << 20)
                rc = read_range(i, at, 1 << 20);
        } else if (!strcmp(argv[n], "wait")) {
            puts("waiting");
            fflush(stdout);
            getchar();
        } else if (!strcmp(argv[n], "whole")) {
            for (int k = 0; k < 600; k++) { /* another reader sees what is committed */
                FILE *f = fopen(o.copy, "re");
                uint8_t map[16] = {0};
                uint64_t blocks = (i->size + DP_HTTP_BLOCK - 1) / DP_HTTP_BLOCK, have = 0;
                if (f && !fseek(f, (long)DP_ALIGN_UP(i->size, 4096ull), SEEK_SET) && fread(map, 1, sizeof map, f) == sizeof map)
                    for (uint64_t b = 0; b < blocks && b < 128; b++)
                        have += map[b / 8] >> b % 8 & 1;
                if (f)
                    fclose(f);
                if (have == blocks)
                    break;
                nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
            }
        }
    }
    dp_image_close(i);
    if (rc)
        puts(strerror(-rc));
    return rc != 0;
}
