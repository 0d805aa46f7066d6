/* The first layer: sums (thermometer.h) to output. Part of network.h. */
#include "thermometer.h"

/* A row of 16 stem channels: sums to output. */
static void FB_T(finish_stem)(const struct fb_plan *p, const int32_t *t, const int32_t *sums, int64_t count,
                              const struct FB_T(row) *at)
{
    const int64_t n = p->stem_channels;
#ifndef FB_WIDE
    if (p->stem_rule == FB_FAITHFUL_MAP || p->stem_rule == FB_FAITHFUL_CODES) {
        struct fb_constants constants;
        fb_load_constants(&constants, t, n);
        fb_finish_faithful(&constants, count, p->stem_rule, 0, sums, at);
        return;
    }
#endif
    const int32_t *weight = t + FB_BN1_WEIGHT * n, *bias = t + FB_BN1_BIAS * n;
    const struct fb_steps steps = fb_steps_of(p->stem_rule);
    struct FB_T(row) row = *at;
    for (int64_t x = 0; x < count; x++, sums += FB_LANES, FB_T(next)(&row)) {
        int32_t value[FB_LANES];
#ifdef FB_WIDE
        FB_EACH(i)
        {
            int64_t product = (int64_t)weight[i] * sums[i] + bias[i];
            value[i] = (int32_t)cifar10_2020_saturate(FB_RND(int64_t, product, 1));
        }
#else
        if (p->stem_rule == FB_CIFAR10_2021)
            FB_EACH(i) value[i] = cifar10_2021_saturate(FB_RND(int32_t, weight[i] * sums[i] + bias[i], 1));
        else
            FB_EACH(i)
            {
                int32_t v = imagenet_2021_saturate(fb_wrap(sums[i], (int)p->stem_sum_bits) * 16);
                value[i] = imagenet_2021_code(imagenet_2021_batch_norm(v, weight[i], bias[i]));
            }
#endif
        FB_T(put)(value, steps, row.map, row.bits);
    }
}

static void FB_T(run_stem)(const struct fb_plan *p, struct FB_T(workspace) *w)
{
    const int64_t size = p->image_size / p->stem_stride, n = p->stem_channels, groups = n / FB_LANES;
    const int64_t padded = p->image_size + 2;
    const int8_t *lookup = FB_POINTER(const int8_t, p->stem_lookup);
    const int32_t *table = FB_POINTER(const int32_t, p->stem_table);
    FB_T(clear_border)(w->bits[0], size, groups);
    for (int64_t y = 0; y < size; y++)
        for (int64_t tile = 0; tile < groups; tile++) {
            const uint64_t *levels = w->levels + y * p->stem_stride * padded;
            struct FB_T(row) row = {
                .map = w->map[0] + y * size * n + tile * FB_LANES,
                .bits = w->bits[0] + ((y + 1) * (size + 2) + 1) * groups + tile,
                .shortcut = w->map[0], /* not read: the stem has none */
                .map_stride = n,
                .bits_stride = groups,
            };
            for (int64_t x = 0; x < size; x++, levels += p->stem_stride) {
                int16_t totals[FB_LANES];
                if (n == 16)
                    fb_stem_totals(lookup, 16, levels, padded, totals);
                else
                    fb_stem_totals(lookup + tile * FB_LANES, 32, levels, padded, totals);
                FB_EACH(i) w->sums[x * FB_LANES + i] = totals[i];
            }
            FB_T(finish_stem)(p, table + tile * FB_LANES, w->sums, size, &row);
        }
}
