/* The parameter search: every compilation of it finds the same, bit for bit, on random samples. The samples end where
 * their blocks do, so that a sanitizer sees what is read beyond. Prints a line; exits 1 on a difference.
 */
#include "../../fracbnn_pynq/native/fracbnn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHANNELS = 5, STARTS = 4, PARAMETERS = 8, POSITIONS = 9, ARRAYS = 5 };

static uint64_t state = 1;

static int32_t between(int32_t low, int32_t high)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return low + (int32_t)(state % (uint64_t)(high - low + 1));
}

static void *block(size_t size)
{
    void *memory = calloc(1, size);
    if (memory == NULL) {
        fputs("out of memory\n", stderr);
        exit(2);
    }
    return memory;
}

/* 1 where the compilations differ. */
static int differs(int64_t samples, int64_t first, int64_t positions)
{
    static const int32_t low[ARRAYS] = {-4096, -4096, 0, 0, 0}, high[ARRAYS] = {4095, 4095, 15, 240, 3};
    int16_t *array[ARRAYS];
    int32_t *starts = block(CHANNELS * STARTS * PARAMETERS * sizeof *starts);
    for (int k = 0; k < ARRAYS; k++) {
        array[k] = block((size_t)(CHANNELS * samples) * sizeof **array);
        for (int64_t i = 0; i < CHANNELS * samples; i++)
            array[k][i] = (int16_t)between(low[k], high[k]);
    }
    for (int i = 0; i < CHANNELS * STARTS * PARAMETERS; i++)
        starts[i] = between(-8192, 8191);
    int32_t best[2][CHANNELS * PARAMETERS];
    double losses[2][CHANNELS * 2], affine[2][CHANNELS * 2];
    memset(best, 0, sizeof best), memset(losses, 0, sizeof losses), memset(affine, 0, sizeof affine);
    fb_fit *fits[2] = {fb_fit_portable, fb_best_fit()};
    for (int i = 0; i < 2; i++) {
        const struct fb_fit_layer l = {
            .samples = samples,
            .first_samples = first,
            .positions = positions,
            .closed = (int64_t)(intptr_t)array[0],
            .open = (int64_t)(intptr_t)array[1],
            .shortcut = (int64_t)(intptr_t)array[2],
            .target = (int64_t)(intptr_t)array[3],
            .activation = (int64_t)(intptr_t)array[4],
            .starts = (int64_t)(intptr_t)starts,
            .start_count = STARTS,
            .kept = 2,
            .passes = 2,
            .best = (int64_t)(intptr_t)best[i],
            .losses = (int64_t)(intptr_t)losses[i],
            .affine = (int64_t)(intptr_t)affine[i],
        };
        fits[i](&l, 0, CHANNELS);
    }
    free(starts);
    for (int k = 0; k < ARRAYS; k++)
        free(array[k]);
    return memcmp(best[0], best[1], sizeof best[0]) != 0 || memcmp(losses[0], losses[1], sizeof losses[0]) != 0 ||
           memcmp(affine[0], affine[1], sizeof affine[0]) != 0;
}

int main(void)
{
    int failures = differs(1, 1, 0) + differs(37, 20, 0) + differs(9001, 1003, 0) + differs(41 * POSITIONS, 41 * POSITIONS, POSITIONS);
    printf("parameter search: 4 layers, %d differ\n", failures);
    return failures > 0;
}
