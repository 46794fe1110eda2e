/* How the bytes of each type become numbers of 8 bits, scales and minima: blocks of as many rows as
 * there are lanes, at these offsets, go into a sink. Part of int8_decode.h. */

/* Byte n of each lane, with or without a sign. */
INLINE FLOATS OF(_byte)(WORDS words, int n) {
    return __builtin_convertvector((INTEGERS)(words >> 8 * n & 0xff), FLOATS);
}

INLINE FLOATS OF(_signed_byte)(WORDS words, int n) {
    return __builtin_convertvector((INTEGERS)(words << (24 - 8 * n)) >> 24, FLOATS);
}

/* Scale (F16), 32 signed bytes. */
INLINE void OF(_q8_0)(const char *from, const int64_t *offsets, OF(_sink) *sink) {
    WORDS words[8];
    OF(_take_two)(sink, from + 2, offsets, words);
#pragma GCC unroll 8
    for (int n = 0; n < 8; n++) {
        OF(_put)(sink, 0, n, words[n] ^ 0x80808080);
    }
    const FLOATS factors[] = {OF(_halves_at)(sink, from, offsets)};
    OF(_put_factors)(sink, 0, factors);
}

/* Four bits of each byte; or what they stand for. */
INLINE WORDS OF(_nibbles)(WORDS words, int shift, int in_table) {
    const WORDS numbers = words >> shift & 0x0f0f0f0f;
    return in_table ? (WORDS)LOOK_UP(numbers) : numbers;
}

/* Some bits of each byte from bit n on: those of `mask`, moved to bit `to`. */
INLINE WORDS OF(_moved)(WORDS words, int n, int to, uint32_t mask) {
    const WORDS there = n > to ? words >> (n - to) : words << (to - n);
    return there & mask;
}

/* What a number's bits from bit n on are, as they stand where sums have room for that: then 2^n times
 * the number, which `OF(_part_of)` of its scale makes up for. */
INLINE WORDS OF(_standing)(WORDS words, int n, uint32_t mask) {
    const WORDS moved = ROOM_FOR_BYTES ? words : words >> n;
    return moved & (ROOM_FOR_BYTES ? mask << n : mask);
}

INLINE FLOATS OF(_part_of)(FLOATS scale, int n) {
    return scale * (ROOM_FOR_BYTES ? 1.0f / (float)(1 << n) : 1.0f);
}

/* Four bits from bit n on, one in each byte: bit n comes to 8 n by the product with 1 << 7 n. */
INLINE WORDS OF(_fifth_bits)(WORDS bits, int n) {
    return ((bits >> n & 15) * 0x204081 & 0x01010101) << 4;
}

/* Scale (F16), then a minimum (F16, negative) or none, the fifth bits (4 bytes) or none: bit n is
 * that of number n. Then 16 bytes of two numbers, n and n + 16. */
INLINE void OF(_q45)(const char *from, const int64_t *offsets, OF(_sink) *sink, int fifth,
                     int in_table) {
    WORDS head[4], words[4];
    OF(_take)(sink, from, offsets, head);
    OF(_take)(sink, from + 2 + 2 * sink->minima + 4 * fifth, offsets, words);
    const WORDS bits = sink->minima ? head[1] : (WORDS)(head[0] >> 16 | head[1] << 16);
#pragma GCC unroll 8
    for (int n = 0; n < 8; n++) {
        WORDS numbers = OF(_nibbles)(words[n % 4], n / 4 * 4, in_table);
        if (fifth) {
            numbers |= OF(_fifth_bits)(bits, 4 * n);
        }
        OF(_put)(sink, 0, n, numbers);
    }
    const FLOATS factors[] = {HALVES(head[0]), -(FLOATS)HALVES(head[0] >> 16)};
    OF(_put_factors)(sink, 0, factors);
}

/* Factor (F16), upper two bits of the eight scales (2 bytes), lower four (4 bytes); less 32. Then
 * nibbles of each group. */
INLINE void OF(_iq4_xs)(const char *from, const int64_t *offsets, OF(_sink) *sink) {
    WORDS head[4];
    OF(_take)(sink, from, offsets, head);
    const FLOATS factor = HALVES(head[0]);
#pragma GCC unroll 8
    for (int group = 0; group < 8; group++) {
        WORDS words[4];
        OF(_take)(sink, from + 8 + 16 * group, offsets, words);
#pragma GCC unroll 8
        for (int n = 0; n < 8; n++) {
            OF(_put)(sink, group, n, OF(_nibbles)(words[n % 4], n / 4 * 4, 1));
        }
        const WORDS scale = (head[1] >> 4 * group & 15) | (head[0] >> (16 + 2 * group) & 3) << 4;
        const FLOATS factors[] = {factor * (OF(_byte)(scale, 0) - 32)};
        OF(_put_factors)(sink, group, factors);
    }
}

/* Factors of scales and minima (F16), 12 bytes of them, six bits each, for Q5_K the fifth bits (32
 * bytes, bit g of byte n is that of number n in group g), the lower four bits (128 bytes: groups 2j
 * and 2j + 1 share 32 bytes).
 * The 12 bytes are three words: lower six bits of scales 0 to 3, the same of minima 0 to 3, lower
 * four bits of scales and minima 4 to 7; the upper two bits of these are those of the first words. */
INLINE void OF(_q45_k)(const char *from, const int64_t *offsets, OF(_sink) *sink, int fifth) {
    WORDS head[4], high[8];
    OF(_take)(sink, from, offsets, head);
    const FLOATS scale = HALVES(head[0]), minimum = HALVES(head[0] >> 16);
    const WORDS scales[] = {head[1] & 0x3f3f3f3f,
                            (head[3] & 0x0f0f0f0f) | (head[1] >> 2 & 0x30303030)};
    const WORDS minima[] = {head[2] & 0x3f3f3f3f,
                            (head[3] >> 4 & 0x0f0f0f0f) | (head[2] >> 2 & 0x30303030)};
    if (fifth) {
        OF(_take_two)(sink, from + 16, offsets, high);
    }
#pragma GCC unroll 4
    for (int pair = 0; pair < 8; pair += 2) {
        WORDS low[8];
        OF(_take_two)(sink, from + (fifth ? 48 : 16) + 16 * pair, offsets, low);
#pragma GCC unroll 2
        for (int group = pair; group < pair + 2; group++) {
#pragma GCC unroll 8
            for (int n = 0; n < 8; n++) {
                const int from_bit = group % 2 * 4;
                WORDS numbers = OF(_standing)(low[n], from_bit, 0x0f0f0f0f);
                if (fifth) {
                    numbers = OF(_nibbles)(low[n], from_bit, 0) |
                              OF(_moved)(high[n], group, 4, 0x10101010);
                }
                OF(_put)(sink, group, n, numbers);
            }
            const FLOATS part = OF(_part_of)(scale, fifth ? 0 : group % 2 * 4);
            const FLOATS factors[] = {part * OF(_byte)(scales[group / 4], group % 4),
                                      minimum * OF(_byte)(minima[group / 4], group % 4)};
            OF(_put_factors)(sink, group, factors);
        }
    }
}

/* 16 scales with a sign, two of a group. */
INLINE void OF(_put_scales)(OF(_sink) *sink, int group, const WORDS scales[4], FLOATS factor) {
    FLOATS factors[2];
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
        const int n = 2 * group + half;
        factors[half] = factor * OF(_signed_byte)(scales[n / 4], n % 4);
    }
    OF(_put_factors)(sink, group, factors);
}

/* The lower four bits (128 bytes), the upper two (64), 16 signed scales, their factor (F16).
 * Each half of 128 numbers has 64 bytes of lower and 32 of upper bits, and four groups. */
INLINE void OF(_q6_k)(const char *from, const int64_t *offsets, OF(_sink) *sink) {
    WORDS scales[4], tail[4];
    OF(_take)(sink, from + 192, offsets, scales);
    OF(_take)(sink, from + 194, offsets, tail);
    const FLOATS factor = HALVES(tail[3] >> 16);
#pragma GCC unroll 2
    for (int first = 0; first < 8; first += 4, from += 64) {
        WORDS high[8], low[2][8];
        OF(_take_two)(sink, from + 128 - 8 * first, offsets, high);
        OF(_take_two)(sink, from, offsets, low[0]);
        OF(_take_two)(sink, from + 32, offsets, low[1]);
#pragma GCC unroll 4
        for (int group = 0; group < 4; group++) {
#pragma GCC unroll 8
            for (int n = 0; n < 8; n++) {
                OF(_put)(sink, first + group, n,
                         OF(_nibbles)(low[group % 2][n], group / 2 * 4, 0) |
                             OF(_moved)(high[n], 2 * group, 4, 0x30303030));
            }
        }
#pragma GCC unroll 4
        for (int group = first; group < first + 4; group++) {
            OF(_put_scales)(sink, group, scales, factor);
        }
    }
}

/* The third bits (32 bytes, bit g of byte n is that of number n in group g), the lower two (64
 * bytes; each half of 128 numbers has 32, and four groups), 16 scales of six bits less 32 (12
 * bytes: the lower four of 0 to 7 and 8 to 15, the upper two of 0 to 3, 4 to 7 and so on), their
 * factor (F16). */
INLINE void OF(_q3_k)(const char *from, const int64_t *offsets, OF(_sink) *sink) {
    WORDS tail[4], third[8]; /* two bytes, the scales, the factor */
    OF(_take)(sink, from + 94, offsets, tail);
    const FLOATS factor = HALVES(tail[3] >> 16);
    const WORDS a = tail[0] >> 16 | tail[1] << 16, b = tail[1] >> 16 | tail[2] << 16;
    const WORDS upper = tail[2] >> 16 | tail[3] << 16;
    const WORDS lower[4] = {a, b, a >> 4, b >> 4};
    WORDS scales[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        const WORDS six = (lower[i] & 0x0f0f0f0f) | (upper >> 2 * i & 0x03030303) << 4;
        scales[i] = ((six | 0x80808080) - 0x20202020) ^ 0x80808080; /* no byte borrows */
    }
    OF(_take_two)(sink, from, offsets, third);
#pragma GCC unroll 2
    for (int first = 0; first < 8; first += 4) {
        WORDS low[8];
        OF(_take_two)(sink, from + 32 + 8 * first, offsets, low);
#pragma GCC unroll 4
        for (int group = first; group < first + 4; group++) {
#pragma GCC unroll 8
            for (int n = 0; n < 8; n++) {
                OF(_put)(sink, group, n,
                         (low[n] >> group % 4 * 2 & 0x03030303) |
                             OF(_moved)(third[n], group, 2, 0x04040404));
            }
            OF(_put_scales)(sink, group, scales, factor);
        }
    }
}

/* 16 bytes of a scale and a minimum of four bits each, the numbers (64 bytes; each half of 128 has
 * 32, and four groups), factors of scales and minima (F16). */
INLINE void OF(_q2_k)(const char *from, const int64_t *offsets, OF(_sink) *sink) {
    WORDS both[4], tail[4];
    OF(_take)(sink, from, offsets, both);
    OF(_take)(sink, from + 68, offsets, tail);
    const FLOATS scale = HALVES(tail[3]), minimum = HALVES(tail[3] >> 16);
#pragma GCC unroll 2
    for (int first = 0; first < 8; first += 4) {
        WORDS low[8];
        OF(_take_two)(sink, from + 16 + 8 * first, offsets, low);
#pragma GCC unroll 4
        for (int group = first; group < first + 4; group++) {
#pragma GCC unroll 8
            for (int n = 0; n < 8; n++) {
                OF(_put)(sink, group, n, OF(_standing)(low[n], group % 4 * 2, 0x03030303));
            }
            const FLOATS part = OF(_part_of)(scale, group % 4 * 2);
            FLOATS factors[4];
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const WORDS word = both[group / 2];
                const int n = 2 * (group % 2) + half;
                factors[half] = part * OF(_byte)(word & 0x0f0f0f0f, n);
                factors[2 + half] = minimum * OF(_byte)(word >> 4 & 0x0f0f0f0f, n);
            }
            OF(_put_factors)(sink, group, factors);
        }
    }
}

#ifdef ROUND_ROW
/* 256 floats, rounded like those of x: row by row, then groups two and two. Rows lie apart so that
 * their numbers do not meet in the same lines of a cache. */
INLINE void OF(_rounded)(const char *from, const int64_t *offsets, OF(_sink) *sink, const int type) {
    enum { APART = INT8_SPAN + 64, GROUPS_OF = INT8_SPAN / INT8_GROUP };
    char bytes[LANES * APART] __attribute__((aligned(64)));
    float scales[LANES * GROUPS_OF] __attribute__((aligned(64)));
    int64_t places[LANES], scales_at[LANES];
    WORDS factors[GROUPS_OF];
    for (int i = 0; i < LANES; i++) {
        places[i] = i * APART;
        scales_at[i] = i * (int64_t)sizeof(float) * GROUPS_OF;
        ROUND_ROW(type, from + offsets[i], bytes + places[i], scales + i * GROUPS_OF);
    }
    TAKE_TWO((const char *)scales, scales_at, factors);
#pragma GCC unroll 1
    for (int group = 0; group < GROUPS_OF; group += 2) {
        WORDS words[16];
        TAKE_LINE(bytes + group * INT8_GROUP, places, words);
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
#pragma GCC unroll 8
            for (int n = 0; n < 8; n++) {
                OF(_put)(sink, group + half, n, words[ROUNDED_AT(type, half, n)] ^ 0x80808080);
            }
            OF(_put_factors)(sink, group + half, (const FLOATS *)&factors[group + half]);
        }
    }
}
#else
/* 32 floats, rounded like those of x. */
INLINE void OF(_rounded)(const char *from, const int64_t *offsets, OF(_sink) *sink,
                         const int type) {
    WORDS lines[32];
    TAKE_NUMBERS(type, from, offsets, lines);
    /* What is not finite makes the scale so, whatever the numbers. */
    const FLOATS scale = (FLOATS)GREATEST_OF(type, lines) / 127, inverse = 1 / scale;
    const INTEGERS there = (scale >= FLT_MIN) & (scale <= FLT_MAX);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) {
        FLOATS four[4];
#pragma GCC unroll 4
        for (int n = 0; n < 4; n++) {
            four[n] = (FLOATS)NUMBER_OF(type, lines, 4 * i + n) * inverse;
        }
        OF(_put)(sink, 0, i, (WORDS)TO_BYTES(four, there) ^ 0x80808080);
    }
    OF(_put_factors)(sink, 0, &scale);
}
#endif
