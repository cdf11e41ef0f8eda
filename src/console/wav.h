/* console/wav.h - a sound as a file: 16-bit mono PCM in a RIFF WAVE container.
 *
 * Model: samples are put at positions, in any order; what is never put is silence (a hole in the file, which takes no room on the disk).
 * The header is right after each put, so the file can be played while it grows and after a kill. What lies beyond a GiB of file is dropped.
 * Source: Microsoft/IBM "Multimedia Programming Interface and Data Specifications 1.0" (1991), "Waveform Audio File Format".
 */
#ifndef DP_WAV_H
#define DP_WAV_H

#include "base/base.h"

#define DP_SOUND_HZ 22050
/* Who listens to a device: samples at DP_SOUND_HZ, position 0 being VM time 0. Any thread; what is not played is silence. */
struct dp_sound {
    void (*play)(void *opaque, uint64_t position, const int16_t *samples, unsigned count);
    void *opaque;
};

struct dp_wav;
int dp_wav_open(const char *path, uint32_t rate, struct dp_wav **out, struct dp_error *e) DP_MUST_CHECK; /* an existing file is replaced */
void dp_wav_put(struct dp_wav *w, uint64_t position, const int16_t *samples, unsigned count);            /* any thread */
struct dp_sound dp_wav_sound(struct dp_wav *w);
/* 0, or the first error of a put, which e tells. NULL is fine. */
int dp_wav_close(struct dp_wav *w, struct dp_error *e);

#endif
