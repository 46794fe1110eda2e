// What lies between the matrix products of a pass, fused so that activations go through memory once.
//
// Activations are half, [rows, width] and contiguous; what is added up along the layers is float.
// Recordings of a batch are filled up to the same number of rows. HEAD is the width of the heads of
// `attend`, a multiple of 32; TAPS those of the convolution; MOST is 1 for each 1024 of the widest row.

#include <cuda_fp16.h>

constexpr int WARP = 32;
constexpr float LEAST = -3.402823466e+38f;

__device__ __forceinline__ float sum_warp(float v) {
    for (int step = WARP / 2; step; step /= 2) v += __shfl_xor_sync(~0u, v, step);
    return v;
}

__device__ __forceinline__ float max_warp(float v) {
    for (int step = WARP / 2; step; step /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, step));
    return v;
}

// The sum over a block of whole warps, in every thread.
__device__ float sum_block(float v) {
    __shared__ float of_warps[WARP];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    v = sum_warp(v);
    __syncthreads();
    if (!lane) of_warps[warp] = v;
    __syncthreads();
    return sum_warp(lane < blockDim.x / WARP ? of_warps[lane] : 0.0f);
}

__device__ __forceinline__ float sigmoid(float v) { return 1.0f / (1.0f + __expf(-v)); }

// --- Residuals and norms: a block of 256 for each row of width numbers, a multiple of 4.

// MOST times four numbers a thread

struct Row {
    float4 v[MOST];

    template <typename F>
    __device__ void each(int width, F f) {
#pragma unroll
        for (int n = 0; n < MOST; n++) {
            const int at = (n * blockDim.x + threadIdx.x) * 4;
            if (at < width) f(v[n], at);
        }
    }

    __device__ void normalise(int width, const float* gain, const float* shift, float eps, bool rms) {
        float total = 0.0f;
        if (!rms) {
            each(width, [&](float4& x, int) { total += x.x + x.y + x.z + x.w; });
            total = sum_block(total) / width;
        }
        const float mean = total;
        float square = 0.0f;
        each(width, [&](float4& x, int) {
            x.x -= mean, x.y -= mean, x.z -= mean, x.w -= mean;
            square += x.x * x.x + x.y * x.y + x.z * x.z + x.w * x.w;
        });
        const float scale = rsqrtf(sum_block(square) / width + eps);
        each(width, [&](float4& x, int at) {
            const float4 g = *(const float4*)(gain + at);
            x.x *= scale * g.x, x.y *= scale * g.y, x.z *= scale * g.z, x.w *= scale * g.w;
            if (shift) {
                const float4 s = *(const float4*)(shift + at);
                x.x += s.x, x.y += s.y, x.z += s.z, x.w += s.w;
            }
        });
    }
};

// x = norm(x + scale * (y + bias)), out = norm(x), each part left out where there is no pointer.
extern "C" __global__ void residual_norm(
    float* x, const half* y, const float* bias, float scale, const float* post_gain,
    const float* post_shift, float post_eps, const float* gain, const float* shift, float eps,
    int rms, half* out, long long out_row, int width) {
    Row row;
    float* own = x + (long long)blockIdx.x * width;
    const half* added = y ? y + (long long)blockIdx.x * width : nullptr;
    row.each(width, [&](float4& v, int at) {
        v = *(const float4*)(own + at);
        if (!added) return;
        const half2* pair = (const half2*)(added + at);
        const float2 a = __half22float2(pair[0]), b = __half22float2(pair[1]);
        float4 s = make_float4(a.x, a.y, b.x, b.y);
        if (bias) {
            const float4 c = *(const float4*)(bias + at);
            s.x += c.x, s.y += c.y, s.z += c.z, s.w += c.w;
        }
        v.x += scale * s.x, v.y += scale * s.y, v.z += scale * s.z, v.w += scale * s.w;
    });
    if (post_gain) row.normalise(width, post_gain, post_shift, post_eps, false);
    if (y || post_gain) row.each(width, [&](float4& v, int at) { *(float4*)(own + at) = v; });
    if (!out) return;
    row.normalise(width, gain, shift, eps, rms);
    half* to = out + blockIdx.x * out_row;
    row.each(width, [&](float4& v, int at) {
        ((half2*)(to + at))[0] = __floats2half2_rn(v.x, v.y);
        ((half2*)(to + at))[1] = __floats2half2_rn(v.z, v.w);
    });
}

// --- Element by element: eight numbers a thread; widths are multiples of 8.

struct alignas(16) Eight {
    half2 v[4];
};

// y = silu(y + bias)
extern "C" __global__ void silu_bias(half* y, const float* bias, int width, long long eights) {
    const long long n = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (n >= eights) return;
    Eight e = ((Eight*)y)[n];
    const int column = (int)(n * 8 % width);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 f = __half22float2(e.v[i]);
        f.x += bias[column + 2 * i], f.y += bias[column + 2 * i + 1];
        e.v[i] = __floats2half2_rn(f.x * sigmoid(f.x), f.y * sigmoid(f.y));
    }
    ((Eight*)y)[n] = e;
}

// out = (a + bias) * sigmoid(b + bias) of y = [a, b], 0 in rows that fill up.
extern "C" __global__ void glu_bias(
    const half* y, const float* bias, const int* lengths, int rows, int width, half* out,
    long long eights) {
    const long long n = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (n >= eights) return;
    const int column = (int)(n * 8 % width);
    const long long row = n * 8 / width;
    Eight e = {};
    if (row % rows < lengths[row / rows]) {
        const half* own = y + row * 2 * width + column;
        const Eight a = *(const Eight*)own, b = *(const Eight*)(own + width);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const float2 f = __half22float2(a.v[i]), g = __half22float2(b.v[i]);
            const float* c = bias + column + 2 * i;
            e.v[i] = __floats2half2_rn(
                (f.x + c[0]) * sigmoid(g.x + c[width]), (f.y + c[1]) * sigmoid(g.y + c[width + 1]));
        }
    }
    ((Eight*)out)[n] = e;
}

// out = silu(a) * b of y = [a, b].
extern "C" __global__ void swiglu(const half* y, int width, half* out, long long eights) {
    const long long n = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (n >= eights) return;
    const half* own = y + n * 8 / width * 2 * width + n * 8 % width;
    const Eight a = *(const Eight*)own, b = *(const Eight*)(own + width);
    Eight e;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 f = __half22float2(a.v[i]), g = __half22float2(b.v[i]);
        e.v[i] = __floats2half2_rn(f.x * sigmoid(f.x) * g.x, f.y * sigmoid(f.y) * g.y);
    }
    ((Eight*)out)[n] = e;
}

// Frames [recordings, rows, width] into whole windows [recordings, out_rows, width]: gelu(y + bias),
// and 0 where there is no frame.
extern "C" __global__ void gelu_windows(
    const half* y, const float* bias, const int* lengths, int rows, int out_rows, int width,
    half* out, long long eights) {
    const long long n = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (n >= eights) return;
    const int column = (int)(n * 8 % width);
    const long long row = n * 8 / width, recording = row / out_rows;
    const int at = (int)(row % out_rows);
    Eight e = {};
    if (at < lengths[recording]) {
        e = *(const Eight*)(y + (recording * rows + at) * width + column);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 f = __half22float2(e.v[i]);
            f.x += bias[column + 2 * i], f.y += bias[column + 2 * i + 1];
            f.x *= 0.5f * (1.0f + erff(f.x * 0.70710678f));
            f.y *= 0.5f * (1.0f + erff(f.y * 0.70710678f));
            e.v[i] = __floats2half2_rn(f.x, f.y);
        }
    }
    ((Eight*)out)[n] = e;
}

// y = (y + bias) * scale
extern "C" __global__ void scale_bias(
    half* y, const float* bias, float scale, int width, long long eights) {
    const long long n = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (n >= eights) return;
    Eight e = ((Eight*)y)[n];
    const int column = (int)(n * 8 % width);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const float2 f = __half22float2(e.v[i]);
        e.v[i] = __floats2half2_rn(
            (f.x + bias[column + 2 * i]) * scale, (f.y + bias[column + 2 * i + 1]) * scale);
    }
    ((Eight*)y)[n] = e;
}

// --- Convolution: out = silu(conv(x) + shift), channel by channel, zero beyond a recording's rows.
// Two channels a thread, STEPS rows one after another; taps [TAPS, width], an odd number.

constexpr int STEPS = 32;

extern "C" __global__ void conv_silu(
    const half* x, const float* taps, const float* shift, int rows, int width, half* out) {
    const int channel = (blockIdx.x * blockDim.x + threadIdx.x) * 2;
    if (channel >= width) return;
    const long long first = (long long)blockIdx.z * rows;
    const int start = blockIdx.y * STEPS;
    float2 tap[TAPS], seen[TAPS];
    const auto at = [&](int row) {
        if (row < 0 || row >= rows) return make_float2(0.0f, 0.0f);
        return __half22float2(*(const half2*)(x + (first + row) * width + channel));
    };
#pragma unroll
    for (int k = 0; k < TAPS; k++) {
        tap[k] = *(const float2*)(taps + k * width + channel);
        if (k < TAPS - 1) seen[k + 1] = at(start + k - TAPS / 2);
    }
    const float2 add = *(const float2*)(shift + channel);
    for (int row = start; row < min(rows, start + STEPS); row++) {
#pragma unroll
        for (int k = 0; k < TAPS - 1; k++) seen[k] = seen[k + 1];
        seen[TAPS - 1] = at(row + TAPS / 2);
        float2 f = add;
#pragma unroll
        for (int k = 0; k < TAPS; k++) f.x += tap[k].x * seen[k].x, f.y += tap[k].y * seen[k].y;
        *(half2*)(out + (first + row) * width + channel) =
            __floats2half2_rn(f.x * sigmoid(f.x), f.y * sigmoid(f.y));
    }
}

// --- The character head's posterior: a warp for each row; y = softmax(y + bias), 0 in the columns
// that fill up; blank is column 0 of it.
extern "C" __global__ void posterior(
    half* y, const float* bias, int width, int row_width, float* blank, int rows) {
    const int row = (blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (row >= rows) return;
    half* own = y + (long long)row * row_width;
    float most = LEAST, total = 0.0f;
    for (int n = lane; n < width; n += WARP) most = fmaxf(most, __half2float(own[n]) + bias[n]);
    most = max_warp(most);
    for (int n = lane; n < width; n += WARP) total += __expf(__half2float(own[n]) + bias[n] - most);
    total = 1.0f / sum_warp(total);
    for (int n = lane; n < row_width; n += WARP) {
        const float p = n < width ? __expf(__half2float(own[n]) + bias[n] - most) * total : 0.0f;
        own[n] = __float2half(p);
        if (!n) blank[row] = p;
    }
}

// --- Means of `window` frames, each weighted by what is not blank; a block for each window.
extern "C" __global__ void pool(
    const float* x, const float* blank, const int* lengths, int rows, int windows, int window,
    int width, float eps, half* out) {
    const int recording = blockIdx.x / windows, start = blockIdx.x % windows * window;
    const int end = min(start + window, lengths[recording]);
    float total = eps;
    for (int row = start; row < end; row++) total += 1.0f - blank[recording * (long long)rows + row];
    for (int n = threadIdx.x; n < width; n += blockDim.x) {
        float sum = 0.0f;
        for (int row = start; row < end; row++) {
            const long long at = recording * (long long)rows + row;
            sum += x[at * width + n] * (1.0f - blank[at]);
        }
        out[blockIdx.x * (long long)width + n] = __float2half(sum / total);
    }
}

// --- The best of each row of logits [rows, row_width], of which width count; a block for each row.
// Of equal ones the first. probability is that of softmax(scale * logits), NaN where one is.
extern "C" __global__ void best(
    const float* logits, const float* bias, int width, int row_width, float scale, int* ids,
    float* top, float* probability) {
    __shared__ float tops[WARP];
    __shared__ int places[WARP];
    const float* own = logits + (long long)blockIdx.x * row_width;
    float most = LEAST;
    int place = 0x7fffffff;
    for (int n = threadIdx.x; n < width; n += blockDim.x) {
        const float v = own[n] + (bias ? bias[n] : 0.0f);
        if (v > most) most = v, place = n;
    }
    const auto take = [&](float v, int n) {
        if (v > most || (v == most && n < place)) most = v, place = n;
    };
    for (int step = WARP / 2; step; step /= 2)
        take(__shfl_xor_sync(~0u, most, step), __shfl_xor_sync(~0u, place, step));
    if (threadIdx.x % WARP == 0) tops[threadIdx.x / WARP] = most, places[threadIdx.x / WARP] = place;
    __syncthreads();
    for (int n = 0; n < blockDim.x / WARP; n++) take(tops[n], places[n]);
    float total = 0.0f;
    for (int n = threadIdx.x; n < width; n += blockDim.x)
        total += __expf(scale * (own[n] + (bias ? bias[n] : 0.0f) - most));
    total = sum_block(total);
    if (threadIdx.x) return;
    ids[blockIdx.x] = place;
    top[blockIdx.x] = most;
    probability[blockIdx.x] = 1.0f / total;
}

// --- Rows by number, those of one table and behind them those of another: x = factor * row.
extern "C" __global__ void rows_of(
    const half* first, const half* second, int below, const int* numbers, float factor, int width,
    float* x) {
    const int number = numbers[blockIdx.x];
    const half* from = number < below ? first + (long long)number * width
                                      : second + (long long)(number - below) * width;
    for (int n = threadIdx.x; n < width; n += blockDim.x)
        x[blockIdx.x * (long long)width + n] = factor * __half2float(from[n]);
}

// Rows of what is added up, and of its norm.
extern "C" __global__ void some_rows(
    const float* x, const half* h, const int* numbers, int width, float* x_out, half* h_out) {
    const long long from = (long long)numbers[blockIdx.x] * width, to = (long long)blockIdx.x * width;
    for (int n = threadIdx.x; n < width; n += blockDim.x) {
        x_out[to + n] = x[from + n];
        h_out[to + n] = h[from + n];
    }
}

// --- Rotary positions, half against half, of the first heads of each row, in place.
// angles [positions, head / 2]: cosine and sine.
extern "C" __global__ void rope(
    half* y, long long row_width, int heads, int head, const int* positions, const float2* angles,
    long long all) {
    const long long n = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    if (n >= all) return;
    const int i = (int)(n % (head / 2));
    const long long row = n / (head / 2) / heads;
    half* own = y + row * row_width + n / (head / 2) % heads * head + i;
    const float2 turn = angles[(long long)positions[row] * (head / 2) + i];
    const float a = __half2float(own[0]), b = __half2float(own[head / 2]);
    own[0] = __float2half(a * turn.x - b * turn.y);
    own[head / 2] = __float2half(b * turn.x + a * turn.y);
}

// --- Attention: softmax(scale * (k q + relative q)) v, head by head. A warp for 16 queries.
//
// Rows of queries and keys behind the last ones are read, too: they must be there, and finite.
// relative [2 * reach + 1 and 32 more, HEAD], by i - j + reach, or null. counts tells of each
// recording how many keys there are from `start` on, at most `keys`; where there is none, all count.

// c += a b, with a [16, 16] row by row and b [16, 8] column by column. A lane has of a and c the rows
// lane / 4 and 8 more, of b the column lane / 4; and of the other dimension four of the 16 numbers,
// or two of the 8.
//
// Which ones these are does not matter in the dimension that is summed over, if they are the same of
// a and b; and in the columns of b only where they go in the end. So each lane takes numbers that lie
// side by side: eight of 32 in the widths of heads.
__device__ __forceinline__ void multiply(
    float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two half numbers, of the lower or the upper halves of a and b.
__device__ __forceinline__ unsigned lower(unsigned a, unsigned b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ unsigned upper(unsigned a, unsigned b) { return __byte_perm(a, b, 0x7632); }

constexpr int PARTS = HEAD / 32;

// c += the products of 16 queries with 8 rows; each lane is at its row and its eight columns.
__device__ __forceinline__ void score(
    float (&c)[4], const uint4 (&above)[PARTS], const uint4 (&below)[PARTS], const half* rows) {
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        const uint4 b = *(const uint4*)(rows + part * 32), x = above[part], y = below[part];
        const unsigned first[4] = {x.x, y.x, x.y, y.y}, second[4] = {x.z, y.z, x.w, y.w};
        multiply(c, first, b.x, b.y);
        multiply(c, second, b.z, b.w);
    }
}

extern "C" __global__ void attend(
    const half* q, long long q_row, long long q_recording, const half* k, const half* v,
    long long k_row, long long k_recording, int group, int queries, int keys, const int* counts,
    int start, float scale, const half* relative, int reach, half* out, long long out_row,
    long long out_recording, int pitch) {
    extern __shared__ float shared[];
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const int row = lane / 4, two = lane % 4 * 2, eight = lane % 4 * 8;
    const int first = (blockIdx.x * (blockDim.x / WARP) + warp) * 16, head = blockIdx.y;
    if (first >= queries) return;
    float* scores = shared + warp * 16 * pitch;
    q += blockIdx.z * q_recording + (first + row) * q_row + head * HEAD + eight;
    k += blockIdx.z * k_recording + row * k_row + head / group * HEAD + eight;
    v += blockIdx.z * k_recording + two * k_row + head / group * HEAD + row * 4;
    int count = counts ? min(keys, counts[blockIdx.z] - start) : keys;
    count = count > 0 ? count : keys;

    uint4 above[PARTS], below[PARTS];
#pragma unroll
    for (int part = 0; part < PARTS; part++) {
        above[part] = *(const uint4*)(q + part * 32);
        below[part] = *(const uint4*)(q + part * 32 + 8 * q_row);
    }
    for (int j = 0; j < keys; j += 8) {
        float c[4] = {};
        score(c, above, below, k + j * k_row);
        *(float2*)(scores + row * pitch + j + two) = make_float2(c[0], c[1]);
        *(float2*)(scores + (row + 8) * pitch + j + two) = make_float2(c[2], c[3]);
    }
    __syncwarp();
    if (relative) {
        const half* nearest = relative + (first - (keys - 1) + reach + row) * HEAD + eight;
        for (int r = 0; r < keys + 15; r += 8) {
            float c[4] = {};
            score(c, above, below, nearest + r * HEAD);
            // A query's score of a distance goes to the key at that distance.
#pragma unroll
            for (int n = 0; n < 4; n++) {
                const int i = row + n / 2 * 8, j = i + keys - 1 - r - two - n % 2;
                if (0 <= j && j < keys) scores[i * pitch + j] += c[n];
            }
        }
        __syncwarp();
    }
    const int whole = (keys + 15) / 16 * 16;
    for (int i = 0; i < 16; i++) {
        float* own = scores + i * pitch;
        float most = LEAST, total = 0.0f;
        for (int j = lane; j < count; j += WARP) most = fmaxf(most, own[j]);
        most = max_warp(most);
        for (int j = lane; j < count; j += WARP) {
            own[j] = __expf(scale * (own[j] - most));
            total += own[j];
        }
        total = 1.0f / sum_warp(total);
        __syncwarp();
        // As half numbers in the same place: what is overwritten has been read.
        for (int from = 0; from < whole; from += WARP) {
            const int j = from + lane;
            const float p = j < count ? own[j] * total : 0.0f;
            __syncwarp();
            if (j < whole) ((half*)own)[j] = __float2half(p);
            __syncwarp();
        }
    }
    const half* weight = (const half*)(scores + row * pitch) + two;
    float sums[HEAD / 8][4] = {};
    for (int j = 0; j < whole; j += 16) {
        const unsigned a[4] = {
            *(const unsigned*)(weight + j), *(const unsigned*)(weight + 16 * pitch + j),
            *(const unsigned*)(weight + j + 8), *(const unsigned*)(weight + 16 * pitch + j + 8)};
        const half* value = v + j * k_row;
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            // Four numbers of each of four values; those of a column belong together.
            const uint2 x = *(const uint2*)(value + part * 32);
            const uint2 y = *(const uint2*)(value + part * 32 + k_row);
            const uint2 z = *(const uint2*)(value + part * 32 + 8 * k_row);
            const uint2 w = *(const uint2*)(value + part * 32 + 9 * k_row);
            multiply(sums[part * 4], a, lower(x.x, y.x), lower(z.x, w.x));
            multiply(sums[part * 4 + 1], a, upper(x.x, y.x), upper(z.x, w.x));
            multiply(sums[part * 4 + 2], a, lower(x.y, y.y), lower(z.y, w.y));
            multiply(sums[part * 4 + 3], a, upper(x.y, y.y), upper(z.y, w.y));
        }
    }
    // Of 32 columns a lane has the same eight again: of column n in each four, the lane's two.
    out += blockIdx.z * out_recording + (first + row) * out_row + head * HEAD + eight;
#pragma unroll
    for (int below_first = 0; below_first < 2; below_first++) {
        if (first + row + below_first * 8 >= queries) continue;
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            Eight e;
#pragma unroll
            for (int n = 0; n < 4; n++) {
                const float* low = &sums[part * 4 + n % 2 * 2][below_first * 2 + n / 2];
                const float* high = &sums[part * 4 + n % 2 * 2 + 1][below_first * 2 + n / 2];
                e.v[n] = __floats2half2_rn(*low, *high);
            }
            *(Eight*)(out + below_first * 8 * out_row + part * 32) = e;
        }
    }
}

// --- Windows of the Q-Former.

// keys = frames + the positions in a window; x = learned query + mean of its frames.
extern "C" __global__ void window_inputs(
    const half* frames, const float* positions, const float* learned, int size, int queries,
    int width, half* keys, float* x) {
    const long long window = blockIdx.x;
    const int rate = size / queries;
    for (int n = threadIdx.x; n < width; n += blockDim.x)
        for (int asked = 0; asked < queries; asked++) {
            float sum = 0.0f;
            for (int row = asked * rate; row < (asked + 1) * rate; row++) {
                const long long at = (window * size + row) * width + n;
                const float f = __half2float(frames[at]);
                sum += f;
                keys[at] = __float2half(f + positions[row * width + n]);
            }
            x[(window * queries + asked) * width + n] = learned[asked * width + n] + sum / rate;
        }
}

// Queries of a window to its rows, head by head, each with its bias; a warp for each head.
extern "C" __global__ void attend_windows(
    const half* q, const half* k, const half* v, const float* q_bias, const float* k_bias,
    const float* v_bias, int queries, int size, int heads, int head, float scale, half* out,
    long long all) {
    const long long n = (blockIdx.x * (long long)blockDim.x + threadIdx.x) / WARP;
    const int lane = threadIdx.x % WARP;
    if (n >= all) return;
    const int width = heads * head, column = (int)(n % heads) * head;
    const long long window = n / heads;
    for (int asked = 0; asked < queries; asked++) {
        const half* query = q + (window * queries + asked) * width + column;
        float score[WARP];
        float most = LEAST, total = 0.0f;
        for (int row = 0; row < size; row++) {
            const half* key = k + (window * size + row) * width + column;
            float sum = 0.0f;
            for (int d = lane; d < head; d += WARP)
                sum += (__half2float(query[d]) + (q_bias ? q_bias[column + d] : 0.0f)) *
                       (__half2float(key[d]) + (k_bias ? k_bias[column + d] : 0.0f));
            score[row] = scale * sum_warp(sum);
            most = fmaxf(most, score[row]);
        }
        for (int row = 0; row < size; row++) total += score[row] = __expf(score[row] - most);
        for (int d = lane; d < head; d += WARP) {
            float sum = 0.0f;
            for (int row = 0; row < size; row++)
                sum += score[row] * __half2float(v[(window * size + row) * width + column + d]);
            sum = sum / total + (v_bias ? v_bias[column + d] : 0.0f);
            out[(window * queries + asked) * width + column + d] = __float2half(sum);
        }
    }
}
