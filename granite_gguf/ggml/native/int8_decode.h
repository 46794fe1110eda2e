/* A panel of numbers of 8 bits from the rows of a weight, for vectors of one length; see int8.h.
 *
 * A lane holds four bytes of a row: what a type does to the bytes of a block it does to as many rows
 * at once, and the numbers come out as the panel has them. What includes this defines NAME and
 * TARGET; LANES; and on vectors of so many words or floats
 *
 *   TAKE(from, offsets, words)  four vectors: 16 bytes of the rows at these offsets
 *   HALVES(words)               floats of the lower two bytes
 *   LOOK_UP(words)              the numbers of IQ4 for bytes below 16, with an offset of 128
 *   GREATEST(a, b)              of integers with sign
 *   ROUND(floats)               to the nearest integers, ties to even
 */

#define JOIN(a, b) a##b
#define NAMED(a, b) JOIN(a, b)
#define OF(part) NAMED(NAME, part)
#define INLINE TARGET static inline __attribute__((always_inline))

typedef uint32_t OF(_words) __attribute__((vector_size(4 * LANES), may_alias));
typedef int32_t OF(_integers) __attribute__((vector_size(4 * LANES), may_alias));
typedef float OF(_floats) __attribute__((vector_size(4 * LANES), may_alias));
#define WORDS OF(_words)
#define INTEGERS OF(_integers)
#define FLOATS OF(_floats)

enum { OF(_line) = 4 * INT8_ROWS, OF(_factors) = INT8_ROWS * INT8_GROUP };
#define LINE OF(_line)
#define FACTORS OF(_factors)

INLINE void OF(_put)(char *group, int four, WORDS numbers) {
    *(WORDS *)(void *)(group + four * LINE) = numbers;
}

INLINE void OF(_put_factor)(char *group, int line, FLOATS factors) {
    *(FLOATS *)(void *)(group + FACTORS + line * LINE) = factors;
}

/* Byte n of each lane, with or without a sign. */
INLINE FLOATS OF(_byte)(WORDS words, int n) {
    return __builtin_convertvector((INTEGERS)(words >> 8 * n & 0xff), FLOATS);
}

INLINE FLOATS OF(_signed_byte)(WORDS words, int n) {
    return __builtin_convertvector((INTEGERS)(words << (24 - 8 * n)) >> 24, FLOATS);
}

/* Scale (F16), 32 signed bytes. */
INLINE void OF(_q8_0)(const char *from, const int64_t *offsets, char *to) {
    WORDS head[4];
    TAKE(from, offsets, head);
    OF(_put_factor)(to, 0, HALVES(head[0]));
    for (int i = 0; i < 8; i += 4) {
        WORDS words[4];
        TAKE(from + 2 + 4 * i, offsets, words);
        for (int n = 0; n < 4; n++) {
            OF(_put)(to, i + n, words[n] ^ 0x80808080);
        }
    }
}

/* 16 bytes of two numbers, n and n + 16. */
INLINE void OF(_nibbles)(const char *from, const int64_t *offsets, char *to, int in_table) {
    WORDS words[4];
    TAKE(from, offsets, words);
    for (int n = 0; n < 4; n++) {
        const WORDS low = words[n] & 0x0f0f0f0f, high = words[n] >> 4 & 0x0f0f0f0f;
        OF(_put)(to, n, in_table ? (WORDS)LOOK_UP(low) : low);
        OF(_put)(to, n + 4, in_table ? (WORDS)LOOK_UP(high) : high);
    }
}

/* Bit n of a word is the fifth of number n. */
INLINE void OF(_fifth_bits)(WORDS bits, char *to) {
    for (int i = 0; i < 8; i++) {
        /* Four bits, one in each byte: bit n comes to 8 n by the product with 1 << 7 n. */
        const WORDS four = (bits >> 4 * i & 15) * 0x204081 & 0x01010101;
        WORDS *numbers = (WORDS *)(void *)(to + i * LINE);
        *numbers |= four << 4;
    }
}

/* Scale (F16), then a minimum (F16, negative) or none, the fifth bits (4 bytes) or none, nibbles. */
INLINE void OF(_q45)(const char *from, const int64_t *offsets, char *to, int minimum, int fifth) {
    WORDS head[4];
    TAKE(from, offsets, head);
    OF(_put_factor)(to, 0, HALVES(head[0]));
    if (minimum) {
        OF(_put_factor)(to, 1, -(FLOATS)HALVES(head[0] >> 16));
    }
    OF(_nibbles)(from + 2 + 2 * minimum + 4 * fifth, offsets, to, 0);
    if (fifth) {
        const WORDS bits = head[0] >> 16 | head[1] << 16;
        OF(_fifth_bits)(minimum ? head[1] : bits, to);
    }
}

/* Scale (F16), nibbles. */
INLINE void OF(_iq4_nl)(const char *from, const int64_t *offsets, char *to) {
    WORDS head[4];
    TAKE(from, offsets, head);
    OF(_put_factor)(to, 0, HALVES(head[0]));
    OF(_nibbles)(from + 2, offsets, to, 1);
}

/* Factor (F16), upper two bits of the eight scales (2 bytes), lower four (4 bytes); less 32. Then
 * nibbles of each group. */
INLINE void OF(_iq4_xs)(const char *from, const int64_t *offsets, char *to, int64_t step) {
    WORDS head[4];
    TAKE(from, offsets, head);
    const FLOATS factor = HALVES(head[0]);
    for (int group = 0; group < 8; group++, to += step) {
        const WORDS scale = (head[1] >> 4 * group & 15) | (head[0] >> (16 + 2 * group) & 3) << 4;
        OF(_put_factor)(to, 0, factor * (OF(_byte)(scale, 0) - 32));
        OF(_nibbles)(from + 8 + 16 * group, offsets, to, 1);
    }
}

/* Factors of scales and minima (F16), 12 bytes of them, six bits each, for Q5_K the fifth bits (32
 * bytes, bit g of byte n is that of number n in group g), the lower four bits (128 bytes: groups 2j
 * and 2j + 1 share 32 bytes).
 * The 12 bytes are three words: lower six bits of scales 0 to 3, the same of minima 0 to 3, lower
 * four bits of scales and minima 4 to 7; the upper two bits of these are those of the first words. */
INLINE void OF(_q45_k)(const char *from, const int64_t *offsets, char *to, int64_t step, int fifth) {
    WORDS head[4];
    TAKE(from, offsets, head);
    const FLOATS scale = HALVES(head[0]), minimum = HALVES(head[0] >> 16);
    const WORDS scales[] = {head[1] & 0x3f3f3f3f,
                            (head[3] & 0x0f0f0f0f) | (head[1] >> 2 & 0x30303030)};
    const WORDS minima[] = {head[2] & 0x3f3f3f3f,
                            (head[3] >> 4 & 0x0f0f0f0f) | (head[2] >> 2 & 0x30303030)};
    for (int group = 0; group < 8; group++) {
        const int word = group / 4, byte = group % 4;
        OF(_put_factor)(to + group * step, 0, scale * OF(_byte)(scales[word], byte));
        OF(_put_factor)(to + group * step, 1, minimum * OF(_byte)(minima[word], byte));
    }
    for (int i = 0; i < 8; i += 4) {
        WORDS high[4];
        if (fifth) {
            TAKE(from + 16 + 4 * i, offsets, high);
        }
        for (int group = 0; group < 8; group += 2) {
            WORDS low[4];
            TAKE(from + (fifth ? 48 : 16) + 16 * group + 4 * i, offsets, low);
            for (int n = 0; n < 4; n++) {
                WORDS a = low[n] & 0x0f0f0f0f, b = low[n] >> 4 & 0x0f0f0f0f;
                if (fifth) {
                    a |= (high[n] >> group & 0x01010101) << 4;
                    b |= (high[n] >> (group + 1) & 0x01010101) << 4;
                }
                OF(_put)(to + group * step, i + n, a);
                OF(_put)(to + (group + 1) * step, i + n, b);
            }
        }
    }
}

/* 16 scales with a sign, two of a group. */
INLINE void OF(_put_scales)(const WORDS scales[4], FLOATS factor, char *to, int64_t step) {
    for (int i = 0; i < 16; i++) {
        OF(_put_factor)(to + i / 2 * step, i % 2, factor * OF(_signed_byte)(scales[i / 4], i % 4));
    }
}

/* The lower four bits (128 bytes), the upper two (64), 16 signed scales, their factor (F16).
 * Each half of 128 numbers has 64 bytes of lower and 32 of upper bits, and four groups. */
INLINE void OF(_q6_k)(const char *from, const int64_t *offsets, char *to, int64_t step) {
    WORDS scales[4], tail[4];
    TAKE(from + 192, offsets, scales);
    TAKE(from + 194, offsets, tail);
    OF(_put_scales)(scales, HALVES(tail[3] >> 16), to, step);
    for (int half = 0; half < 2; half++, from += 64, to += 4 * step) {
        for (int i = 0; i < 8; i += 4) {
            WORDS high[4], low[2][4];
            TAKE(from + 128 - 32 * half + 4 * i, offsets, high);
            TAKE(from + 4 * i, offsets, low[0]);
            TAKE(from + 4 * i + 32, offsets, low[1]);
            for (int group = 0; group < 4; group++) {
                for (int n = 0; n < 4; n++) {
                    const WORDS lower = low[group % 2][n] >> group / 2 * 4 & 0x0f0f0f0f;
                    const WORDS upper = high[n] >> 2 * group & 0x03030303;
                    OF(_put)(to + group * step, i + n, lower | upper << 4);
                }
            }
        }
    }
}

/* The third bits (32 bytes, bit g of byte n is that of number n in group g), the lower two (64
 * bytes; each half of 128 numbers has 32, and four groups), 16 scales of six bits less 32 (12
 * bytes: the lower four of 0 to 7 and 8 to 15, the upper two of 0 to 3, 4 to 7 and so on), their
 * factor (F16). */
INLINE void OF(_q3_k)(const char *from, const int64_t *offsets, char *to, int64_t step) {
    WORDS tail[4]; /* two bytes, the scales, the factor */
    TAKE(from + 94, offsets, tail);
    const WORDS a = tail[0] >> 16 | tail[1] << 16, b = tail[1] >> 16 | tail[2] << 16;
    const WORDS upper = tail[2] >> 16 | tail[3] << 16;
    const WORDS lower[4] = {a, b, a >> 4, b >> 4};
    WORDS scales[4];
    for (int i = 0; i < 4; i++) {
        const WORDS six = (lower[i] & 0x0f0f0f0f) | (upper >> 2 * i & 0x03030303) << 4;
        scales[i] = ((six | 0x80808080) - 0x20202020) ^ 0x80808080; /* no byte borrows */
    }
    OF(_put_scales)(scales, HALVES(tail[3] >> 16), to, step);
    for (int i = 0; i < 8; i += 4) {
        WORDS third[4];
        TAKE(from + 4 * i, offsets, third);
        for (int half = 0; half < 2; half++) {
            WORDS low[4];
            TAKE(from + 32 + 32 * half + 4 * i, offsets, low);
            for (int group = 4 * half; group < 4 * half + 4; group++) {
                for (int n = 0; n < 4; n++) {
                    const WORDS two = low[n] >> group % 4 * 2 & 0x03030303;
                    const WORDS bit = third[n] >> group & 0x01010101;
                    OF(_put)(to + group * step, i + n, two | bit << 2);
                }
            }
        }
    }
}

/* 16 bytes of a scale and a minimum of four bits each, the numbers (64 bytes; each half of 128 has
 * 32, and four groups), factors of scales and minima (F16). */
INLINE void OF(_q2_k)(const char *from, const int64_t *offsets, char *to, int64_t step) {
    WORDS both[4], tail[4];
    TAKE(from, offsets, both);
    TAKE(from + 68, offsets, tail);
    const FLOATS scale = HALVES(tail[3]), minimum = HALVES(tail[3] >> 16);
    for (int i = 0; i < 16; i++) {
        char *group = to + i / 2 * step;
        const WORDS word = both[i / 4];
        OF(_put_factor)(group, i % 2, scale * OF(_byte)(word & 0x0f0f0f0f, i % 4));
        OF(_put_factor)(group, 2 + i % 2, minimum * OF(_byte)(word >> 4 & 0x0f0f0f0f, i % 4));
    }
    for (int half = 0; half < 2; half++) {
        for (int i = 0; i < 8; i += 4) {
            WORDS low[4];
            TAKE(from + 16 + 32 * half + 4 * i, offsets, low);
            for (int group = 0; group < 4; group++) {
                for (int n = 0; n < 4; n++) {
                    OF(_put)(to + (4 * half + group) * step, i + n,
                             low[n] >> 2 * group & 0x03030303);
                }
            }
        }
    }
}

/* 32 floats, rounded like those of x. */
INLINE void OF(_rounded)(FLOATS numbers[32], char *to) {
    INTEGERS most = {0};
    for (int i = 0; i < 32; i++) { /* as integers, so that NaN is the greatest */
        most = GREATEST(most, (INTEGERS)numbers[i] & 0x7fffffff);
    }
    const FLOATS scale = (FLOATS)most / 127;
    const INTEGERS usable = (scale >= FLT_MIN) & (scale <= FLT_MAX);
    const FLOATS divisor = (FLOATS)(((INTEGERS)scale & usable) | (0x3f800000 & ~usable));
    OF(_put_factor)(to, 0, scale);
    for (int i = 0; i < 8; i++) {
        WORDS bytes = {0};
        for (int n = 0; n < 4; n++) {
            const FLOATS number = (FLOATS)((INTEGERS)numbers[4 * i + n] & usable) / divisor;
            bytes |= ((WORDS)ROUND(number) & 0xff) << 8 * n;
        }
        OF(_put)(to, i, bytes ^ 0x80808080);
    }
}

INLINE void OF(_f32)(const char *from, const int64_t *offsets, char *to) {
    WORDS words[32];
    for (int i = 0; i < 32; i += 4) {
        TAKE(from + 4 * i, offsets, words + i);
    }
    OF(_rounded)((FLOATS *)words, to);
}

INLINE void OF(_f16)(const char *from, const int64_t *offsets, char *to, int bfloat16) {
    FLOATS numbers[32];
    for (int i = 0; i < 16; i += 4) {
        WORDS words[4];
        TAKE(from + 4 * i, offsets, words);
        for (int n = 0; n < 4; n++) {
            FLOATS *two = numbers + 2 * (i + n);
            two[0] = bfloat16 ? (FLOATS)(words[n] << 16) : (FLOATS)HALVES(words[n]);
            two[1] = bfloat16 ? (FLOATS)(words[n] & 0xffff0000) : (FLOATS)HALVES(words[n] >> 16);
        }
    }
    OF(_rounded)(numbers, to);
}

/* 32 or 256 numbers of as many rows as there are lanes. */
#define BLOCK(name, call)                                                                         \
    TARGET static void OF(name)(const char *from, const int64_t *offsets, char *to, int64_t step) { \
        (void)step;                                                                               \
        call;                                                                                     \
    }
BLOCK(_block_q8_0, OF(_q8_0)(from, offsets, to))
BLOCK(_block_q5_1, OF(_q45)(from, offsets, to, 1, 1))
BLOCK(_block_q5_0, OF(_q45)(from, offsets, to, 0, 1))
BLOCK(_block_q4_1, OF(_q45)(from, offsets, to, 1, 0))
BLOCK(_block_q4_0, OF(_q45)(from, offsets, to, 0, 0))
BLOCK(_block_iq4_nl, OF(_iq4_nl)(from, offsets, to))
BLOCK(_block_iq4_xs, OF(_iq4_xs)(from, offsets, to, step))
BLOCK(_block_q6_k, OF(_q6_k)(from, offsets, to, step))
BLOCK(_block_q5_k, OF(_q45_k)(from, offsets, to, step, 1))
BLOCK(_block_q4_k, OF(_q45_k)(from, offsets, to, step, 0))
BLOCK(_block_q3_k, OF(_q3_k)(from, offsets, to, step))
BLOCK(_block_q2_k, OF(_q2_k)(from, offsets, to, step))
BLOCK(_block_f32, OF(_f32)(from, offsets, to))
BLOCK(_block_f16, OF(_f16)(from, offsets, to, 0))
BLOCK(_block_bf16, OF(_f16)(from, offsets, to, 1))

typedef void (*OF(_block))(const char *, const int64_t *, char *, int64_t);

static OF(_block) OF(_block_of)(int64_t type) {
    switch (type) {
    case Q8_0: return OF(_block_q8_0);
    case Q6_K: return OF(_block_q6_k);
    case Q5_K: return OF(_block_q5_k);
    case Q4_K: return OF(_block_q4_k);
    case Q3_K: return OF(_block_q3_k);
    case Q2_K: return OF(_block_q2_k);
    case Q5_1: return OF(_block_q5_1);
    case Q5_0: return OF(_block_q5_0);
    case Q4_1: return OF(_block_q4_1);
    case Q4_0: return OF(_block_q4_0);
    case IQ4_NL: return OF(_block_iq4_nl);
    case IQ4_XS: return OF(_block_iq4_xs);
    case F16: return OF(_block_f16);
    case BF16: return OF(_block_bf16);
    default: return OF(_block_f32);
    }
}

/* Numbers `start` to `end`, which are whole spans but at the end of a row. */
TARGET static void OF(_decode_span)(const Job *job, const char *rows, int64_t count, int64_t start,
                                    int64_t end, char *panel) {
    const OF(_block) block = OF(_block_of)(job->weight_type);
    const int64_t numbers = at_least(job->block_numbers, INT8_GROUP);
    const int64_t bytes = numbers / job->block_numbers * job->block_bytes;
    const int64_t span = INT8_SPAN / job->block_numbers * job->block_bytes;
    const int64_t step = int8_group_bytes(job->weight_type), whole = end / numbers * numbers;
    for (int64_t first = 0; first < INT8_ROWS && first < count; first += LANES) {
        /* Where there are no more rows, the last one stands in for them. */
        int64_t offsets[LANES], padded[LANES];
        for (int64_t i = 0; i < LANES; i++) {
            offsets[i] = at_most(first + i, count - 1) * job->row_bytes;
            padded[i] = i * 4 * INT8_GROUP;
        }
        const char *from = rows + start / INT8_SPAN * span;
        char *to = panel + 4 * first;
        for (int64_t k = start; k < whole; k += numbers, from += bytes) {
            if (k % INT8_SPAN == 0) {
                const char *next = rows + (INT8_ROWS + first) * job->row_bytes;
                int8_fetch(next + LANES * (from - rows), next + LANES * (from - rows + span));
            }
            block(from, offsets, to, step);
            to += numbers / INT8_GROUP * step;
        }
        if (whole < end) {
            char tail[LANES * 4 * INT8_GROUP] = {0};
            for (int64_t i = 0; i < LANES; i++) {
                memcpy(tail + padded[i], from + offsets[i],
                       (size_t)((end - whole) * job->block_bytes));
            }
            block(tail, padded, to, step);
        }
    }
}

TARGET static int64_t OF(_decode)(const Job *job, const char *rows, int64_t count, char *panel) {
    OF(_decode_span)(job, rows, count, 0, job->width, panel);
    return 0;
}

#undef BLOCK
#undef LINE
#undef FACTORS
#undef WORDS
#undef INTEGERS
#undef FLOATS
#undef INLINE
#undef OF
#undef NAMED
#undef JOIN
