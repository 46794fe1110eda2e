/* The convolution of each channel with taps of its own, a shift and SiLU behind it. Included behind
 * floats.h, where `sigmoid` is that of a vector.
 */

/* Frames and channels of a stretch: their rows, which lie as far apart as a frame has channels, are
 * brought together where they stay in the first cache. */
enum { STRETCH = 64, CHANNELS = 64, MOST_TAPS = 31 };

INLINE void convolve_stretch(const Convolution *job, const ConvolutionOf *of, int64_t channel,
                             int64_t start, int64_t width) {
    float rows[(STRETCH + MOST_TAPS + 2) * CHANNELS];
    const int64_t frames = at_most(STRETCH, job->frames - start), before = job->taps / 2;
    for (int64_t t = 0; t < frames + job->taps + 2; t++) {
        const int64_t frame = start + t - before;
        if (frame >= 0 && frame < job->frames) {
            memcpy(rows + t * CHANNELS, of->x + frame * job->channels + channel,
                   (size_t)width * sizeof *rows);
        } else {
            memset(rows + t * CHANNELS, 0, (size_t)width * sizeof *rows);
        }
    }
    for (int64_t c = 0; c < width; c += LANES) {
        const float *taps = of->taps + channel + c;
        const Vector shift = load(of->shift + channel + c);
        for (int64_t t = 0; t < frames; t += 4) { /* those behind the last one are not stored */
            Vector sum[4] = {shift, shift, shift, shift};
            const float *from = rows + t * CHANNELS + c;
            for (int64_t k = 0; k < job->taps; k++) {
                const Vector tap = load(taps + k * job->channels);
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++) {
                    sum[i] += tap * load(from + (k + i) * CHANNELS);
                }
            }
            for (int64_t i = 0; i < at_most(4, frames - t); i++) {
                store(of->y + (start + t + i) * job->channels + channel + c,
                      sum[i] * (Vector)sigmoid(sum[i]));
            }
        }
    }
}

/* Stretches `first` to `end` of all channels, those of the same frames one after another. */
TARGET static void convolve(const Convolution *job, const ConvolutionOf *all, int64_t first,
                            int64_t end) {
    const int64_t parts = blocks_of(job->channels, CHANNELS);
    const int64_t stretches = blocks_of(job->frames, STRETCH);
    for (int64_t n = first; n < end; n++) {
        const int64_t channel = n % parts * CHANNELS, start = n / parts % stretches * STRETCH;
        const int64_t batch = n / parts / stretches * job->frames * job->channels;
        const ConvolutionOf of = {all->x + batch, all->taps, all->shift, all->y + batch};
        convolve_stretch(job, &of, channel, start, at_most(CHANNELS, job->channels - channel));
    }
}

#define CONVOLVE                                                                                   \
    .convolve = convolve, .convolve_frames = STRETCH, .convolve_channels = CHANNELS
