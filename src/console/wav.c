/* console/wav.c - see wav.h. */
#include "console/wav.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

enum { HEADER = 44, BYTES = 2 /* per sample */ };
#define SAMPLES_MAX (((1ull << 30) - HEADER) / BYTES)

struct dp_wav {
    int fd, error;
    char *path;
    uint32_t rate;
    uint64_t samples; /* the header tells */
    pthread_mutex_t lock;
};

static bool put_all(int fd, const void *data, size_t size, uint64_t at)
{
    const uint8_t *p = data;
    while (size) {
        ssize_t n = pwrite(fd, p, size, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        at += (uint64_t)n;
        size -= (size_t)n;
    }
    return true;
}

static bool put_header(const struct dp_wav *w)
{
    enum { PCM = 1, MONO = 1, FORMAT_SIZE = 16 };
    uint8_t h[HEADER] = "RIFF";
    uint32_t size = (uint32_t)(w->samples * BYTES);
    dp_st32(h + 4, HEADER - 8 + size);
    memcpy(h + 8, "WAVEfmt ", 8);
    dp_st32(h + 16, FORMAT_SIZE);
    dp_st16(h + 20, PCM);
    dp_st16(h + 22, MONO);
    dp_st32(h + 24, w->rate);
    dp_st32(h + 28, w->rate * BYTES);
    dp_st16(h + 32, BYTES);
    dp_st16(h + 34, 8 * BYTES);
    memcpy(h + 36, "data", 4);
    dp_st32(h + 40, size);
    return put_all(w->fd, h, sizeof h, 0);
}

int dp_wav_open(const char *path, uint32_t rate, struct dp_wav **out, struct dp_error *e)
{
    struct dp_wav *w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(path))) {
        free(w);
        return dp_error_set(e, -ENOMEM, "no memory");
    }
    w->rate = rate;
    pthread_mutex_init(&w->lock, NULL);
    w->fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK, 0666);
    if (w->fd < 0 || !put_header(w)) {
        int rc = dp_error_set(e, -errno, "%s: %s", path, errno == ESPIPE ? "a sound needs a regular file" : strerror(errno));
        w->error = 0;
        dp_wav_close(w, NULL);
        return rc;
    }
    *out = w;
    return 0;
}

void dp_wav_put(struct dp_wav *w, uint64_t position, const int16_t *samples, unsigned count)
{
    if (position >= SAMPLES_MAX)
        return;
    count = (unsigned)DP_MIN((uint64_t)count, SAMPLES_MAX - position);
    pthread_mutex_lock(&w->lock);
    bool longer = position + count > w->samples;
    errno = 0;
    if (!w->error && !put_all(w->fd, samples, count * BYTES, HEADER + position * BYTES))
        w->error = errno ? errno : EIO;
    if (!w->error && longer) {
        w->samples = position + count;
        if (!put_header(w))
            w->error = errno ? errno : EIO;
    }
    pthread_mutex_unlock(&w->lock);
}

static void play(void *opaque, uint64_t position, const int16_t *samples, unsigned count) { dp_wav_put(opaque, position, samples, count); }
struct dp_sound dp_wav_sound(struct dp_wav *w) { return (struct dp_sound){play, w}; }

int dp_wav_close(struct dp_wav *w, struct dp_error *e)
{
    if (!w)
        return 0;
    int rc = w->error ? dp_error_set(e, -w->error, "%s: %s", w->path, strerror(w->error)) : 0;
    if (w->fd >= 0)
        close(w->fd);
    pthread_mutex_destroy(&w->lock);
    free(w->path);
    free(w);
    return rc;
}
