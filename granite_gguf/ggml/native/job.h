/* What every kernel of this folder is told, and what it has to offer.
 *
 *   x (F32) -> kernels_pack -> packed x -> kernels_multiply(weight, packed x) -> y (F32)
 *
 * Two custom operations of a ggml graph. Packing is one of its own because ggml's threads meet
 * between operations, and because several weights multiply the same x. A weight is read as it lies
 * in its file: each thread decodes some rows at a time, a panel, into room behind the result and
 * multiplies them with all of x, so that decoding costs little and nothing is kept. Rows that hold
 * what is multiplied need no decoding.
 *
 * A kernel is a row of the table in table.c, which divides the work; the row knows how x and a panel
 * lie in memory and multiplies them. A kernel may also take rows as they come: with few columns what
 * is read of the weight takes the time, and panels may be decoded a span at a time. Nothing here depends on Python or on ggml's headers: the places
 * of a tensor's fields are given.
 */

#ifndef GRANITE_GGUF_JOB_H
#define GRANITE_GGUF_JOB_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11,
    Q4_K = 12, Q5_K = 13, Q6_K = 14, IQ4_NL = 20, IQ4_XS = 23, BF16 = 30
};

enum { NO_ACTIVATION = 0, SIGMOID = 1, SILU = 2 };

typedef void (*to_float_fn)(const void *, float *, int64_t);

typedef struct Kernel Kernel;
typedef struct Attention Attention;
typedef struct AttentionOf AttentionOf;
typedef struct Norming Norming;
typedef struct Convolution Convolution;
typedef struct ConvolutionOf ConvolutionOf;

/* One product, or a batch of them; the same structure in ../products.py. */
typedef struct {
    /* Told by the caller. */
    int64_t data_offset;       /* of a tensor's data and sources within its structure */
    int64_t source_offset;
    int64_t width;             /* of a row of the weight and of x */
    int64_t rows;              /* of the weight */
    int64_t columns;           /* of y */
    int64_t batches;           /* products, each with a weight, an x and a y of its own */
    int64_t inner;             /* how many of them are a step apart; the next ones, an outer step */
    int64_t group;             /* that share a weight */
    int64_t x_stride;          /* bytes from a row of x to the next */
    int64_t x_step;            /* and from an x to the next, in either way */
    int64_t x_outer_step;
    int64_t weight_type;
    int64_t weight_step;
    int64_t weight_outer_step;
    int64_t row_bytes;         /* from a row of the weight to the next */
    int64_t block_numbers;     /* of the weight's type: numbers of a block, and their bytes */
    int64_t block_bytes;
    int64_t threads;           /* the most that will work */
    int64_t biased;            /* whether there is another source, added to every column of y */
    int64_t activation;
    int64_t active_from;       /* the row of y from which on that applies */
    int64_t exact;             /* whether numbers may not be rounded further than their type says */
    int64_t added;             /* whether there is a last source, to which y is added when scaled */
    int64_t to_stride;         /* bytes from a column of that to the next */
    double scale;
    to_float_fn to_float;      /* decodes a row of the weight's type to floats */
    char *shares;              /* as next_piece has them */
    /* Planned by the kernel. */
    int64_t packing;           /* x that is packed alike, for the same kernel, has the same number */
    int64_t pack_columns;      /* that are packed at a time, and numbers of each */
    int64_t pack_numbers;
    int64_t packed_bytes;      /* of one x of the batch */
    int64_t parts;             /* that make up a number of x and of the weight */
    int64_t panel_rows;        /* of the weight, decoded and multiplied together */
    int64_t panel_bytes;       /* or what a thread needs that multiplies rows directly */
    int64_t step_columns;      /* of y, multiplied with a panel at a time */
    int64_t fetches;           /* times that such a step calls `fetch` */
    int64_t direct;            /* whether rows are multiplied by `few`, without a panel */
    int64_t in_place;          /* whether whole panels are multiplied as they lie in the weight */
    int64_t beside;            /* columns of x that lie side by side, where few.h reads it */
    /* Planned from these by the table. */
    int64_t panels_together;   /* that a thread decodes before it multiplies them with all of x */
    int64_t panels_each;       /* that a thread takes of a share at a time */
    int64_t all_packed_bytes;
    int64_t room_bytes;        /* behind the result, for the panels of all threads */
    const Kernel *kernel;
} Job;

/* Weights that come next, fetched from memory while others are multiplied. */
typedef struct {
    const char *from, *end;
    int64_t lines; /* at each step */
} Ahead;

/* A panel times some columns of x. */
typedef struct {
    const char *panel;  /* as `decode` left it, aligned to 64 bytes, or in place */
    int in_place;       /* whether it is rows of the weight, as the file has them */
    int64_t flags;      /* what it returned, of all panels that are together */
    const char *packed; /* the whole x, as `pack` left it */
    const float *bias;  /* of the weight's rows, or NULL */
    float *y;           /* the whole y, a column after the other */
    int64_t row;        /* the first of the panel */
    int64_t column;     /* the first of `step_columns`; those that x has not are left out */
    Ahead *ahead;
    char *room; /* where rows are multiplied directly: panel_bytes, aligned to 64 */
} Step;

/* What a kernel puts back when a thread has worked; its place is a multiple of 64. */
typedef struct {
    char bytes[64];
} Saved;

struct Kernel {
    const char *name;
    const char *words; /* what it is, for people */
    int (*available)(void);
    /* Whether it multiplies weights of a type with so many columns; `exact` as in a job. */
    int (*takes)(int64_t type, int64_t exact, int64_t columns);
    /* Fills in what the kernel plans. */
    void (*plan)(Job *job);
    /* Packs `pack_numbers` numbers of `pack_columns` columns of one x, from these on; what x has not
     * counts as zeros. */
    void (*pack)(const Job *job, const char *x, int64_t column, int64_t start, char *packed);
    /* Bytes of panels that are decoded together where x does not stay in a cache; 0 leaves it to the
     * table. */
    int64_t panels_bytes;
    /* Decodes up to `panel_rows` rows of the weight. */
    int64_t (*decode)(const Job *job, const char *rows, int64_t count, char *panel);
    /* Writes panel_rows x step_columns numbers of y, what lies outside left out. */
    void (*multiply)(const Job *job, const Step *step);
    /* Writes some rows of y, of all columns; the rows of the weight lie at `panel` as in the file.
     * NULL where no job is planned to be direct. */
    void (*few)(const Job *job, const Step *step, int64_t rows);
    /* Attention of one head or of four. NULL where another kernel of the table has it. */
    void (*attend)(const Attention *job, const AttentionOf *of, int64_t heads);
    /* Stores numbers as keys and values are; where there is `attend`. */
    void (*keep)(const float *from, int64_t count, int64_t type, char *to);
    /* Attention of many queries: panels of `attend_panel` of them, those of one head after those of
     * another, and the bytes of the room that a thread has for it. NULL where products and a softmax
     * in between do it, or with `attend_next` the next kernel that is available. */
    void (*attend_many)(const Attention *job, const AttentionOf *all, char *room, int64_t first,
                        int64_t end);
    int64_t (*attend_room)(const Attention *job);
    int64_t attend_panel;
    int attend_next;
    /* Convolves `convolve_frames` frames of `convolve_channels` channels, again and again. NULL where
     * another kernel of the table does. */
    void (*convolve)(const Convolution *job, const ConvolutionOf *all, int64_t first, int64_t end);
    int64_t convolve_frames, convolve_channels;
    /* Norms a row, with a shift by its variance, without one by its mean square. NULL as above. */
    void (*norm)(const Norming *job, const float *x, const float *weight, const float *shift,
                 float *y);
    /* Makes products of what is in registers, over and over; returns how many. Or NULL. */
    int64_t (*peak)(int64_t rounds);
    /* Around a thread's work, or NULL. */
    void (*begin)(Saved *saved);
    void (*end)(const Saved *saved);
};

/* Attention; the same structure in ../kernels.py. Steps are of bytes. */
struct Attention {
    int64_t data_offset, source_offset; /* as in a job */
    int64_t head_dim, queries, heads, group, keys; /* `group` heads share one of keys and values */
    int64_t type;                       /* of keys and values, F16 or F32 */
    int64_t q_row, q_head, k_row, k_head, v_row, v_head;
    int64_t masked; /* whether there is a mask: F16, of each query all keys; 2 for one of each batch */
    int64_t score_stride;               /* of few: keys, rounded up; scores lie behind the result */
    int64_t keeps;                      /* whether new keys and values are put among them before */
    int64_t new_k_row, new_k_head, new_v_row, new_v_head;
    /* Of many. */
    int64_t batches, q_batch, k_batch, v_batch;
    int64_t distances;                  /* rows that are scored by distance, or 0 */
    int64_t threads;                    /* the most that will work */
    int64_t room_bytes;                 /* planned: of a thread, behind the result */
    double scale;
    const Kernel *kernel;
};

/* A few columns times several weights; the same structure in ../kernels.py. All jobs are direct, have
 * the same kernel and the same x; of y they have rows one after another, in columns of all rows. */
enum { MOST_TOGETHER = 3 };
enum { NOTHING = 0, GATED = 1, ADDED = 2 };

typedef struct {
    int64_t data_offset, source_offset; /* as in a job */
    int64_t weights;                    /* the first sources; x is the next one */
    int64_t rows[MOST_TOGETHER];        /* of each, multiples of 32 but for the last */
    int64_t all_rows;
    int64_t width, columns, x_stride;
    int64_t then;         /* GATED: the first half of y times the second; ADDED: to a last source */
    int64_t to_stride;    /* bytes from a column of that to the next */
    int64_t threads;      /* the most that will work */
    int64_t piece_rows;   /* a multiple of 32 */
    int64_t few_bytes;    /* of room for a kernel; packed and normed x follow */
    int64_t thread_bytes; /* of all of these, for each thread */
    double scale;
    const Norming *norming; /* of x, with another source for its weight; or NULL */
    const Job *jobs[MOST_TOGETHER];
    char *shares; /* as next_piece has them */
} Together;

/* Tensors one beside the other; the same structure in ../kernels.py. Each has as many pieces; of these,
 * all first ones follow one another, then all second ones. */
enum { MOST_CONCATENATED = 8 };

typedef struct {
    int64_t data_offset, source_offset; /* as in a job */
    int64_t count, pieces;
    int64_t bytes[MOST_CONCATENATED];   /* of a piece, and from one to the next */
    int64_t strides[MOST_CONCATENATED];
} Concat;

/* A query's heads, next to one another, that share keys; or where all queries and heads begin. */
struct AttentionOf {
    const char *q, *keys, *values, *distances;
    const uint16_t *mask; /* 0 where a key is seen; or NULL */
    float *y, *scores;
};

/* Norms of the columns of a matrix; the same structure in ../kernels.py. */
struct Norming {
    int64_t data_offset, source_offset; /* as in a job */
    int64_t width, columns;
    int64_t x_stride; /* bytes from a column of x to the next */
    int64_t shifted;  /* whether there is a third source, see `norm` of a kernel */
    int64_t threads;  /* the most that will work */
    double eps;
    const Kernel *kernel;
};

/* The same structure in ../kernels.py. x and y are [batches][frames][channels], taps [taps][channels]. */
struct Convolution {
    int64_t data_offset, source_offset; /* as in a job */
    int64_t channels, frames, batches, taps;
    int64_t threads; /* the most that will work */
    const Kernel *kernel;
};

struct ConvolutionOf {
    const float *x, *taps, *shift;
    float *y;
};

static inline int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

static inline int64_t at_least(int64_t a, int64_t b) { return a > b ? a : b; }

static inline int64_t blocks_of(int64_t count, int64_t size) { return (count + size - 1) / size; }

/* Of so many numbers of a row, whole blocks but at its end. */
static inline int64_t bytes_of(const Job *job, int64_t numbers) {
    return blocks_of(numbers, job->block_numbers) * job->block_bytes;
}

#ifdef __GNUC__
#define FETCH(place, write) __builtin_prefetch(place, write, (write) ? 3 : 2)
#else
#define FETCH(place, write) ((void)(place))
#endif

/* The lines of y where so many rows of some columns will go, from `to` on: they lie far apart. */
static inline void fetch_places(const Job *job, const float *to, int64_t rows, int64_t columns) {
    for (int64_t c = 0; c < columns; c++, to += job->rows) {
        for (int64_t r = 0; r < rows; r += 16) {
            FETCH(to + r, 1);
        }
    }
}

static inline void fetch(Ahead *ahead) {
    for (int64_t i = 0; i < ahead->lines && ahead->from < ahead->end; i++, ahead->from += 64) {
        FETCH(ahead->from, 0);
    }
}

#endif
