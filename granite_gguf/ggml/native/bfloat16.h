/* How the kernels with bfloat16 products have x and a panel in memory.
 *
 *   panel  [part][width / 32][32 rows][32 numbers]
 *   x      [part][columns / 16][width / 32][16 pairs of the width][16 columns][2]
 *
 * so that 16 rows of either are a tile of 64 bytes a row.
 *
 * A float with more bits than bfloat16 is the sum of two parts, the nearest bfloat16 and the nearest
 * to what that leaves: 16 bits of significand together. Products of two second parts are left out.
 */

#ifndef GRANITE_GGUF_BFLOAT16_H
#define GRANITE_GGUF_BFLOAT16_H

#include "job.h"

/* Elements of two bytes, rows, and columns. */
enum { TILE = 512, PANEL_ROWS = 32, PANEL = 2 * TILE, TILE_COLUMNS = 16, TILE_NUMBERS = 32 };

/* The packing and the panel, with so many parts; a kernel plans the rest. */
void bfloat16_plan(Job *job, int64_t parts);

void bfloat16_pack(const Job *job, const char *x, int64_t column, int64_t start, char *packed);

/* Returns whether any second part is other than zero. */
int64_t bfloat16_decode(const Job *job, const char *rows, int64_t count, char *panel);

#endif
