/* A few columns times several weights, with what stands before and behind these products, in one
 * operation: between operations ggml's threads wait for one another, which takes as long as a small
 * one. Every thread norms and packs all of x for itself, and takes pieces of the weights' rows: those
 * of its own share first, then what others have not come to yet.
 *
 * All numbers are what the same operations one by one make of them.
 */

#include "operands.h"

enum { FIRST_BYTES = 32 << 10 }; /* of a share, fetched while x is packed */

static void pack(const Together *job, const char *x, const float *weight, char *normed,
                 char *packed) {
    const Job *first = job->jobs[0];
    if (job->norming) {
        for (int64_t c = 0; c < job->columns; c++) {
            job->norming->kernel->norm(job->norming, (const float *)(const void *)(x + c * job->x_stride),
                                       weight, NULL, (float *)(void *)normed + c * job->width);
        }
        x = normed;
    }
    for (int64_t c = 0; c < job->columns; c += first->pack_columns) {
        for (int64_t start = 0; start < job->width; start += first->pack_numbers) {
            first->kernel->pack(first, x, c, start, packed);
        }
    }
}

/* Rows of results become what is wanted of them. */
static void finish(const Together *job, const char *to, float *y, int64_t row, int64_t rows) {
    for (int64_t c = 0; c < job->columns; c++) {
        float *numbers = y + c * job->all_rows + row;
        if (job->then == GATED) {
            const float *gates = numbers + job->all_rows / 2;
            for (int64_t i = 0; i < rows; i++) {
                numbers[i] *= gates[i];
            }
        } else if (job->then == ADDED) {
            add_scaled(numbers, (const float *)(const void *)(to + c * job->to_stride) + row,
                       (float)job->scale, rows);
        }
    }
}

void kernels_together(void *result, int thread, int threads, const Together *job) {
    const int64_t working = at_most(threads, job->threads);
    if (thread >= working) {
        return;
    }
    const char *from[MOST_TOGETHER + 3];
    const int64_t count = job->weights;
    for (int64_t i = 0; i < count + 1 + (job->norming != NULL) + (job->then == ADDED); i++) {
        from[i] = operand(job->data_offset, job->source_offset, result, i);
    }
    const char *x = from[count], *more = from[count + 1];
    float *y = (float *)(void *)data_of(job->data_offset, result);
    char *room = (char *)aligned(y + job->all_rows * job->columns) + thread * job->thread_bytes;
    char *packed = room + job->few_bytes, *normed = packed + job->jobs[0]->packed_bytes;

    /* Pieces are numbered through; those of gates go with the numbers that they are for. */
    const int64_t parts = job->then == GATED ? 1 : count;
    int64_t pieces[MOST_TOGETHER + 1] = {0};
    for (int64_t i = 0; i < parts; i++) {
        pieces[i + 1] = pieces[i] + blocks_of(job->rows[i], job->piece_rows);
    }
    const int64_t all = pieces[parts];

    int64_t part = 0, piece = all * thread / working;
    while (part + 1 < parts && piece >= pieces[part + 1]) {
        part++;
    }
    const char *begins = from[part] + (piece - pieces[part]) * job->piece_rows * job->jobs[part]->row_bytes;
    Ahead ahead = {begins, begins + FIRST_BYTES, FIRST_BYTES / 64};
    fetch(&ahead);
    pack(job, x, (const float *)(const void *)more, normed, packed);

    char saved[2 * ALIGNMENT];
    const Kernel *kernel = job->jobs[0]->kernel;
    if (kernel->begin) {
        kernel->begin(aligned(saved));
    }
    for (int64_t n = 0; n < working; n++) {
        const int64_t share = (thread + n) % working;
        const int64_t first = all * share / working, end = all * (share + 1) / working;
        while ((piece = next_piece(job->shares, share, working, end - first)) >= 0) {
            piece += first;
            for (part = 0; piece >= pieces[part + 1]; part++) {
            }
            const int64_t row = (piece - pieces[part]) * job->piece_rows;
            const int64_t rows = at_most(job->piece_rows, job->rows[part] - row);
            int64_t place = row;
            for (int64_t i = 0; i < part; i++) {
                place += job->rows[i];
            }
            for (int64_t i = part; i < (job->then == GATED ? count : part + 1); i++) {
                const Step step = {
                    .panel = from[i] + row * job->jobs[i]->row_bytes, .packed = packed, .y = y,
                    .row = place + (i - part) * job->rows[part], .room = room,
                };
                kernel->few(job->jobs[i], &step, rows);
            }
            finish(job, job->norming ? from[count + 2] : more, y, place, rows);
        }
    }
    if (kernel->end) {
        kernel->end(aligned(saved));
    }
}
