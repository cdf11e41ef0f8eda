/* bench_disk.c - how many 4K reads at random a disk gives: build/tests/block/bench_disk FILE FORMAT DEPTH SECONDS [cold|threads]...
 * cold: the host's page cache is emptied of FILE first (and of what is read, by random places, it helps little). threads: without io_uring.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "block/block.h"

enum { DEPTH_MAX = 256, SIZE = 4096 };

static struct {
    struct dp_block *block;
    struct dp_loop *loop;
    struct dp_random random;
    uint64_t done, failed;
    double end;
    unsigned busy;
} all;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void next(struct dp_block_request *r)
{
    r->offset = dp_random_next(&all.random) % (dp_block_size(all.block) / SIZE) * SIZE;
    dp_block_submit(all.block, r);
}

static void done(struct dp_block_request *r, int result)
{
    all.done++;
    all.failed += result != 0;
    if (now() < all.end)
        next(r);
    else if (!--all.busy)
        dp_loop_stop(all.loop);
}

int main(int argc, char **argv)
{
    static struct dp_block_request request[DEPTH_MAX];
    static struct iovec iov[DEPTH_MAX];
    struct dp_error e = {0};
    if (argc < 5)
        return fprintf(stderr, "usage: bench_disk FILE FORMAT DEPTH SECONDS [cold|threads]...\n"), 2;
    struct dp_block_options o = {.path = argv[1], .format = argv[2], .readonly = true, .backing_anywhere = true};
    unsigned depth = DP_MIN((unsigned)atoi(argv[3]), (unsigned)DEPTH_MAX);
    for (int i = 5; i < argc; i++) {
        int fd = strcmp(argv[i], "cold") ? -1 : open(argv[1], O_RDONLY);
        if (fd >= 0 && (fsync(fd) || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)))
            return perror(argv[1]), 1;
        if (fd >= 0)
            close(fd);
        o.io = strcmp(argv[i], "threads") ? o.io : DP_BLOCK_IO_THREADS;
    }
    if (dp_loop_create(&all.loop, &e) || dp_block_open(all.loop, &o, &all.block, &e))
        return fprintf(stderr, "%s\n", e.text), 1;
    dp_random_seed(&all.random, (uint64_t)getpid());
    double start = now();
    all.end = start + atof(argv[4]);
    all.busy = depth;
    for (unsigned i = 0; i < depth; i++) {
        iov[i] = (struct iovec){aligned_alloc(SIZE, SIZE), SIZE};
        request[i] = (struct dp_block_request){.op = DP_BLOCK_READ, .size = SIZE, .iov = &iov[i], .iov_count = 1, .done = done};
        next(&request[i]);
    }
    dp_loop_run(all.loop);
    printf("%s, depth %u: %.0f reads a second, %llu failed\n", dp_block_io_name(all.block), depth, (double)all.done / (now() - start),
           (unsigned long long)all.failed);
    dp_block_close(all.block);
    dp_loop_destroy(all.loop);
    for (unsigned i = 0; i < depth; i++)
        free(iov[i].iov_base);
    return all.failed != 0;
}
