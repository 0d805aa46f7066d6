/* The last map to logits in every arithmetic but the CIFAR-10 cores'. */
#ifndef FRACBNN_LINEAR_H
#define FRACBNN_LINEAR_H

#include "fracbnn.h"

#include <string.h>

/* Exact integer products, then one float64 operation each for mean and bias. */
static void fb_classify(const struct fb_plan *p, const struct fb_layer *last, const int16_t *map, int64_t *totals,
                        float *logits)
{
    const int64_t features = last->out_channels, positions = last->out_size * last->out_size;
    const int16_t *weight = FB_POINTER(const int16_t, p->fc_weight);
    const double *bias = FB_POINTER(const double, p->fc_bias), *step = FB_POINTER(const double, p->fc_step);
    const int64_t *offset = FB_POINTER(const int64_t, p->fc_offset);
    int32_t *sums = (int32_t *)totals; /* at most 64 positions of 16 bits */
    memset(sums, 0, (size_t)features * sizeof *sums);
    for (int64_t i = 0; i < positions; i++)
        for (int64_t c = 0; c < features; c++)
            sums[c] += map[i * features + c];
    for (int64_t k = 0; k < p->classes; k++, weight += features) {
        int64_t product = 0;
        for (int64_t c = 0; c < features; c++)
            product += (int64_t)(int32_t)weight[c] * sums[c];
        double exact = (double)(p->fc_scale * product + offset[k]) * step[k];
        logits[k] = (float)(exact / (double)p->fc_divisor + bias[k]);
    }
}

#endif
