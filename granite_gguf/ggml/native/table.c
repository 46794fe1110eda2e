/* The kernels, and how a product is divided among threads and caches: the entry points. */

#include "arm.h"
#include "operands.h"
#include "x86.h"

extern const Kernel generic;
#ifdef HAS_X86
extern const Kernel avx512_vnni, avx512_bf16, avx512_fma, avx_vnni, avx2_int8, avx2_fma;
#ifdef __linux__
extern const Kernel amx_bf16;
#endif
#endif
#ifdef HAS_ARM
extern const Kernel neon_i8mm, neon_dotprod, neon_bf16, neon_fma;
#endif

/* The best first. */
static const Kernel *const table[] = {
#ifdef HAS_X86
#ifdef __linux__
    &amx_bf16,
#endif
    &avx512_vnni,
    &avx512_bf16,
    &avx512_fma,
    &avx_vnni,
    &avx2_int8,
    &avx2_fma,
#endif
#ifdef HAS_ARM
    &neon_i8mm,
    &neon_dotprod,
    &neon_bf16,
    &neon_fma,
#endif
    &generic,
};

enum {
    CACHED_BYTES = 1 << 20,   /* of packed x, that stay in a core's second cache */
    PANELS_BYTES = 128 << 10, /* of decoded panels that share it where it does not */
    PIECES = 64               /* of a thread's share, at most */
};

int64_t kernels_job_bytes(void) {
    return sizeof(Job) + sizeof(Attention) + sizeof(Together) + sizeof(Convolution) +
           sizeof(Norming) + sizeof(Concat);
}

int64_t kernels_count(void) { return sizeof table / sizeof *table; }

const char *kernels_name(int64_t index) { return table[index]->name; }

const char *kernels_words(int64_t index) { return table[index]->words; }

int kernels_available(int64_t index) { return table[index]->available(); }

int kernels_takes(int64_t index, int64_t type, int64_t exact, int64_t columns) {
    return table[index]->takes(type, exact, columns);
}

/* Products that a kernel makes of what is in registers, or 0 where that is not known. */
int64_t kernels_peak(int64_t index, int64_t rounds) {
    return table[index]->peak ? table[index]->peak(rounds) : 0;
}

/* Reads memory of whole lines, aligned to 8 bytes; the result keeps a compiler from leaving it out. */
int64_t kernels_read(const int64_t *from, int64_t bytes) {
    int64_t all = 0;
    for (int64_t i = 0; i < bytes / 8; i++) {
        all ^= from[i];
    }
    return all;
}

/* Plans what the caller has not told; the structure may move afterwards. */
void kernels_plan(int64_t index, Job *job) {
    job->kernel = table[index];
    job->direct = job->beside = job->in_place = 0;
    job->kernel->plan(job);
    job->panel_bytes = blocks_of(job->panel_bytes, ALIGNMENT) * ALIGNMENT;
    job->packed_bytes = blocks_of(job->packed_bytes, ALIGNMENT) * ALIGNMENT;
    job->all_packed_bytes = job->batches * job->packed_bytes;
    const int64_t share = blocks_of(job->rows, job->panel_rows * job->threads);
    job->panels_together = 1;
    if (!job->direct && job->batches == 1 && job->packed_bytes > CACHED_BYTES) {
        const int64_t bytes = at_least(PANELS_BYTES, job->kernel->panels_bytes);
        job->panels_together = at_least(1, at_most(share, bytes / job->panel_bytes));
    }
    job->panels_each =
        blocks_of(blocks_of(share, PIECES), job->panels_together) * job->panels_together;
    job->room_bytes = ALIGNMENT + job->threads * job->panels_together * job->panel_bytes;
}

void kernels_pack(void *result, int thread, int threads, const Job *job) {
    const char *x = operand(job->data_offset, job->source_offset, result, 0);
    char *packed = data_of(job->data_offset, result);
    const int64_t slices = blocks_of(job->width, job->pack_numbers);
    const int64_t each = slices * blocks_of(job->columns, job->pack_columns);
    const int64_t all = job->batches * each, end = all * (thread + 1) / threads;
    for (int64_t n = all * thread / threads; n < end; n++) {
        const int64_t batch = n / each, column = n % each / slices, slice = n % slices;
        const char *matrix =
            x + batch % job->inner * job->x_step + batch / job->inner * job->x_outer_step;
        job->kernel->pack(job, matrix, column * job->pack_columns, slice * job->pack_numbers,
                          packed + batch * job->packed_bytes);
    }
}

/* What a product reads and writes. */
typedef struct {
    const char *weight, *packed, *to;
    const float *bias;
    float *y;
} Operands;

/* Whether the panel from a row on is multiplied where it lies; behind the last row nothing may be read.
 */
static int stays(const Job *job, int64_t row) {
    return job->in_place && row + job->panel_rows <= job->rows;
}

/* Panels `first` to `end` of a weight times all of an x, some decoded at a time into `room`; those up to
 * `last` are likely to come next. */
static void multiply_panels(const Job *job, const Operands *of, char *room, int64_t first,
                            int64_t end, int64_t last) {
    const Kernel *kernel = job->kernel;
    const int64_t last_row = at_most(last * job->panel_rows, job->rows);
    if (job->direct) {
        const int64_t row = first * job->panel_rows;
        const Step step = {
            .panel = of->weight + row * job->row_bytes, .packed = of->packed, .bias = of->bias,
            .y = of->y, .row = row, .room = room,
        };
        kernel->few(job, &step, at_most(end * job->panel_rows, job->rows) - row);
        return;
    }
    const int64_t steps = blocks_of(job->columns, job->step_columns);
    for (; first < end; first += job->panels_together) {
        const int64_t count = at_most(job->panels_together, end - first);
        int64_t flags = 0;
        for (int64_t i = 0; i < count; i++) {
            /* What lies behind the last row comes into sums that are not stored. */
            const int64_t row = (first + i) * job->panel_rows;
            if (!stays(job, row)) {
                flags |= kernel->decode(job, of->weight + row * job->row_bytes,
                                        at_most(job->panel_rows, job->rows - row),
                                        room + i * job->panel_bytes);
            }
        }
        const int64_t next = at_most((first + count) * job->panel_rows, last_row);
        const int64_t after = at_most((first + 2 * count) * job->panel_rows, last_row);
        Ahead ahead = {of->weight + next * job->row_bytes, of->weight + after * job->row_bytes, 0};
        ahead.lines = blocks_of((ahead.end - ahead.from) / 64, steps * count * at_least(1, job->fetches));
        for (int64_t s = 0; s < steps; s++) {
            for (int64_t i = 0; i < count; i++) {
                const int64_t row = (first + i) * job->panel_rows;
                const int in_place = stays(job, row);
                const Step step = {
                    .panel = in_place ? of->weight + row * job->row_bytes : room + i * job->panel_bytes,
                    .in_place = in_place, .flags = flags, .packed = of->packed, .bias = of->bias,
                    .y = of->y, .row = row, .column = s * job->step_columns, .ahead = &ahead,
                };
                kernel->multiply(job, &step);
            }
        }
    }
}

/* Some rows of y are scaled and added to those of the last source. */
static void add_rows(const Job *job, const Operands *of, int64_t row, int64_t end) {
    for (int64_t c = 0; job->added && c < job->columns; c++) {
        add_scaled(of->y + c * job->rows + row,
                   (const float *)(const void *)(of->to + c * job->to_stride) + row,
                   (float)job->scale, end - row);
    }
}

/* A thread takes pieces of its own share of a weight's rows first, then what others have not come to:
 * processors are not equally fast, nor is one all the time. Rows are added when others do not follow
 * them, so that memory is read on and on, not a piece here and there. */
static void multiply_shares(const Job *job, const Operands *of, char *room, int64_t thread,
                            int64_t working) {
    const int64_t panels = blocks_of(job->rows, job->panel_rows);
    int64_t row = 0, end_row = 0; /* multiplied and not added yet */
    for (int64_t n = 0, piece; n < working; n++) {
        const int64_t share = (thread + n) % working;
        const int64_t first = panels * share / working, last = panels * (share + 1) / working;
        const int64_t pieces = blocks_of(last - first, job->panels_each);
        while ((piece = next_piece(job->shares, share, working, pieces)) >= 0) {
            const int64_t from = first + piece * job->panels_each;
            const int64_t end = at_most(from + job->panels_each, last);
            if (from * job->panel_rows != end_row) {
                add_rows(job, of, row, end_row);
                row = from * job->panel_rows;
            }
            multiply_panels(job, of, room, from, end, last);
            end_row = at_most(end * job->panel_rows, job->rows);
        }
    }
    add_rows(job, of, row, end_row);
}

/* A single product is divided among the threads by rows of the weight, several are dealt out. */
void kernels_multiply(void *result, int thread, int threads, const Job *job) {
    const int64_t working = at_most(threads, job->threads);
    if (thread >= working) {
        return;
    }
    const Kernel *kernel = job->kernel;
    const Operands all = {
        .weight = operand(job->data_offset, job->source_offset, result, 0),
        .packed = operand(job->data_offset, job->source_offset, result, 1),
        .bias = job->biased ? operand(job->data_offset, job->source_offset, result, 2) : NULL,
        .to = job->added ? operand(job->data_offset, job->source_offset, result, job->biased ? 3 : 2) : NULL,
        .y = (float *)(void *)data_of(job->data_offset, result),
    };
    const int64_t y_step = job->rows * job->columns;
    char *room = (char *)aligned(all.y + job->batches * y_step) +
                 thread * job->panels_together * job->panel_bytes;
    char saved[2 * ALIGNMENT];
    if (kernel->begin) {
        kernel->begin(aligned(saved));
    }
    if (job->batches == 1) {
        multiply_shares(job, &all, room, thread, working);
    } else {
        const int64_t panels = blocks_of(job->rows, job->panel_rows);
        const int64_t end = job->batches * (thread + 1) / working;
        for (int64_t n = job->batches * thread / working; n < end; n++) {
            const int64_t step = n % job->inner / job->group, outer_step = n / job->inner;
            Operands one = all;
            one.weight += step * job->weight_step + outer_step * job->weight_outer_step;
            one.packed += n * job->packed_bytes;
            one.y += n * y_step;
            multiply_panels(job, &one, room, 0, panels, panels);
        }
    }
    if (kernel->end) {
        kernel->end(aligned(saved));
    }
}

/* The best kernel from one of the table on that has attention, or NULL. */
const Kernel *kernels_attention(int64_t from) {
    for (int64_t n = from; n < kernels_count(); n++) {
        if (table[n]->attend && table[n]->available()) {
            return table[n];
        }
    }
    return NULL;
}

/* Plans attention of many queries by a kernel of the table, or the next one to which it leaves that;
 * returns whether there is one. */
int kernels_attention_many(int64_t from, Attention *job) {
    for (int64_t n = from; n < kernels_count(); n++) {
        const Kernel *kernel = table[n];
        if (!kernel->available()) {
            continue;
        }
        if (kernel->attend_many) {
            job->kernel = kernel;
            job->room_bytes = blocks_of(kernel->attend_room(job), ALIGNMENT) * ALIGNMENT;
            return 1;
        }
        if (!kernel->attend_next) {
            break;
        }
    }
    return 0;
}

/* Panels of queries are dealt out, those of a head to one thread as far as may be. */
void kernels_attend_many(void *result, int thread, int threads, const Attention *job) {
    const int64_t working = at_most(threads, job->threads);
    if (thread >= working) {
        return;
    }
    AttentionOf all = {
        .q = operand(job->data_offset, job->source_offset, result, 0),
        .keys = operand(job->data_offset, job->source_offset, result, 1),
        .values = operand(job->data_offset, job->source_offset, result, 2),
        .y = (float *)(void *)data_of(job->data_offset, result),
    };
    int next = 3;
    if (job->distances) {
        all.distances = operand(job->data_offset, job->source_offset, result, next++);
    }
    if (job->masked) {
        all.mask = operand(job->data_offset, job->source_offset, result, next);
    }
    const int64_t heads = job->batches * job->heads;
    const int64_t panels = heads * blocks_of(job->queries, job->kernel->attend_panel);
    char *room = (char *)aligned(all.y + job->head_dim * heads * job->queries);
    job->kernel->attend_many(job, &all, room + thread * job->room_bytes, panels * thread / working,
                             panels * (thread + 1) / working);
}

/* The heads of one query that share keys. */
static void attend_shared(const Attention *job, const char *const from[], float *y, int64_t query,
                          int64_t shared) {
    float *scores = y + job->head_dim * job->heads * job->queries;
    const int64_t first = shared * job->group, together = job->group % 4 == 0 ? 4 : 1;
    for (int64_t head = first; head < first + job->group; head += together) {
        const AttentionOf of = {
            .q = from[0] + query * job->q_row + head * job->q_head,
            .keys = from[1] + shared * job->k_head,
            .values = from[2] + shared * job->v_head,
            .mask = job->masked ? (const uint16_t *)(const void *)from[3] + query * job->keys : NULL,
            .y = y + (query * job->heads + head) * job->head_dim,
            .scores = scores + (query * job->heads + head) * job->score_stride,
        };
        job->kernel->attend(job, &of, together);
    }
}

/* New keys and values of one head go to the positions of their queries. */
static void keep_shared(const Attention *job, char *const from[], int64_t shared) {
    const int32_t *at = (const int32_t *)(const void *)from[6];
    for (int64_t n = 0; n < job->queries; n++) {
        job->kernel->keep(
            (const float *)(const void *)(from[4] + n * job->new_k_row + shared * job->new_k_head),
            job->head_dim, job->type, from[1] + at[n] * job->k_row + shared * job->k_head);
        job->kernel->keep(
            (const float *)(const void *)(from[5] + n * job->new_v_row + shared * job->new_v_head),
            job->head_dim, job->type, from[2] + at[n] * job->v_row + shared * job->v_head);
    }
}

/* Queries are dealt out, the heads that share keys together; where some of these are new, all queries
 * of such heads, so that nobody waits for keys. */
void kernels_attend(void *result, int thread, int threads, const Attention *job) {
    char *from[7];
    for (int i = 0; i < (job->keeps ? 7 : 3 + (job->masked != 0)); i++) {
        from[i] = data_of(job->data_offset, source_of(job->source_offset, result, i));
    }
    float *y = (float *)(void *)data_of(job->data_offset, result);
    const int64_t shared = job->heads / job->group;
    if (job->keeps) {
        for (int64_t n = shared * thread / threads; n < shared * (thread + 1) / threads; n++) {
            keep_shared(job, from, n);
            for (int64_t query = 0; query < job->queries; query++) {
                attend_shared(job, (const char *const *)from, y, query, n);
            }
        }
        return;
    }
    const int64_t all = job->queries * shared, end = all * (thread + 1) / threads;
    for (int64_t n = all * thread / threads; n < end; n++) {
        attend_shared(job, (const char *const *)from, y, n / shared, n % shared);
    }
}

/* Plans a convolution by the best kernel from one of the table on that has it. */
void kernels_convolution(int64_t from, Convolution *job) {
    while (!(table[from]->convolve && table[from]->available())) {
        from++; /* the last one has it */
    }
    job->kernel = table[from];
}

/* Stretches of frames are dealt out, of all channels. */
void kernels_convolve(void *result, int thread, int threads, const Convolution *job) {
    const int64_t working = at_most(threads, job->threads);
    if (thread >= working) {
        return;
    }
    const ConvolutionOf all = {
        .x = operand(job->data_offset, job->source_offset, result, 0),
        .taps = operand(job->data_offset, job->source_offset, result, 1),
        .shift = operand(job->data_offset, job->source_offset, result, 2),
        .y = (float *)(void *)data_of(job->data_offset, result),
    };
    const int64_t stretches = job->batches * blocks_of(job->frames, job->kernel->convolve_frames) *
                              blocks_of(job->channels, job->kernel->convolve_channels);
    job->kernel->convolve(job, &all, stretches * thread / working,
                          stretches * (thread + 1) / working);
}

/* Plans norms by the best kernel from one of the table on that has them. */
void kernels_norming(int64_t from, Norming *job) {
    while (!(table[from]->norm && table[from]->available())) {
        from++; /* the last one has them */
    }
    job->kernel = table[from];
}

/* Columns are dealt out. */
void kernels_norm(void *result, int thread, int threads, const Norming *job) {
    const int64_t working = at_most(threads, job->threads);
    if (thread >= working) {
        return;
    }
    const char *x = operand(job->data_offset, job->source_offset, result, 0);
    const float *weight = operand(job->data_offset, job->source_offset, result, 1);
    const float *shift = job->shifted ? operand(job->data_offset, job->source_offset, result, 2) : NULL;
    float *y = (float *)(void *)data_of(job->data_offset, result);
    for (int64_t c = job->columns * thread / working; c < job->columns * (thread + 1) / working; c++) {
        job->kernel->norm(job, (const float *)(const void *)(x + c * job->x_stride), weight, shift,
                          y + c * job->width);
    }
}
