/* Sums of 16 channels of one output row to map values and activations, in every arithmetic. Part of network.h. */

/* A row's surroundings: where its shortcut, map and activations lie. Strides count elements from pixel to pixel. */
struct FB_T(row) {
    const FB_MAP *shortcut;
    FB_MAP *map;
    uint32_t *bits;
    int64_t shortcut_stride, map_stride, bits_stride;
};

static inline void FB_T(next)(struct FB_T(row) *row)
{
    row->shortcut += row->shortcut_stride, row->map += row->map_stride, row->bits += row->bits_stride;
}

static inline void FB_T(split)(const struct fb_layer *l, const int32_t *table, const int32_t *sums, int32_t *msb,
                               int32_t *added)
{
    const int32_t *gate_at = table + FB_GATE_AT * l->out_channels;
    FB_EACH(i)
    {
        int32_t low = 2 * (int32_t)(int16_t)sums[i];
        msb[i] = 2 * (sums[i] >> 16);
        if (l->sum_bits) {
            msb[i] = fb_wrap(msb[i], (int)l->sum_bits);
            low = fb_wrap(low, (int)l->sum_bits);
        }
        added[i] = msb[i] >= gate_at[i] ? low : 0;
    }
}

#ifdef FB_WIDE

static void FB_T(finish_row)(const struct fb_layer *l, int64_t tile, const struct fb_constants *constants,
                             const int32_t *sums, const struct FB_T(row) *at)
{
    (void)constants; /* the faithful arithmetic's */
    struct FB_T(row) row = *at;
    const struct fb_steps steps = fb_steps_of(FB_CIFAR10_2020);
    const int64_t n = l->out_channels;
    const int32_t *t = FB_POINTER(const int32_t, l->table) + tile * FB_LANES;
    for (int64_t x = 0; x < l->out_size; x++, sums += FB_LANES, FB_T(next)(&row)) {
        int32_t msb[FB_LANES], added[FB_LANES], value[FB_LANES];
        FB_T(split)(l, t, sums, msb, added);
        FB_EACH(i)
        {
            int64_t v = cifar10_2020_scaled_sum(msb[i], 43691);
            v = cifar10_2020_add_third(v, added[i], 21845);
            v = cifar10_2020_batch_norm(v, t[FB_BN1_WEIGHT * n + i], t[FB_BN1_BIAS * n + i]);
            v = cifar10_2020_rprelu(v, t[FB_SHIFT_X * n + i], t[FB_SLOPE * n + i], t[FB_SHIFT_Y * n + i]);
            v = cifar10_2020_saturate(row.shortcut[i] + v);
            value[i] = (int32_t)cifar10_2020_batch_norm(v, t[FB_BN2_WEIGHT * n + i], t[FB_BN2_BIAS * n + i]);
        }
        FB_T(put)(value, steps, row.map, row.bits);
    }
}

#else

static void FB_T(finish_cifar10_2021)(const struct fb_layer *l, const int32_t *t, const int32_t *sums,
                                      const struct FB_T(row) *at)
{
    struct FB_T(row) row = *at;
    const struct fb_steps steps = fb_steps_of(FB_CIFAR10_2021);
    const int64_t n = l->out_channels;
    for (int64_t x = 0; x < l->out_size; x++, sums += FB_LANES, FB_T(next)(&row)) {
        int32_t msb[FB_LANES], added[FB_LANES], value[FB_LANES];
        FB_T(split)(l, t, sums, msb, added);
        FB_EACH(i)
        {
            int32_t v = cifar10_2021_add_third(cifar10_2021_scaled_sum(msb[i], 171), added[i], 85);
            v = cifar10_2021_batch_norm(v, t[FB_BN1_WEIGHT * n + i], t[FB_BN1_BIAS * n + i]);
            v = cifar10_2021_rprelu(v, t[FB_SHIFT_X * n + i], t[FB_SLOPE * n + i], t[FB_SHIFT_Y * n + i]);
            v = cifar10_2021_saturate(row.shortcut[i] + v);
            value[i] = cifar10_2021_batch_norm(v, t[FB_BN2_WEIGHT * n + i], t[FB_BN2_BIAS * n + i]);
        }
        FB_T(put)(value, steps, row.map, row.bits);
    }
}

static void FB_T(finish_imagenet_2021)(const struct fb_layer *l, const int32_t *t, const int32_t *sums,
                                       const struct FB_T(row) *at)
{
    struct FB_T(row) row = *at;
    const struct fb_steps steps = fb_steps_of(FB_IMAGENET_2021);
    const int64_t n = l->out_channels;
    for (int64_t x = 0; x < l->out_size; x++, sums += FB_LANES, FB_T(next)(&row)) {
        int32_t msb[FB_LANES], added[FB_LANES], value[FB_LANES];
        FB_T(split)(l, t, sums, msb, added);
        FB_EACH(i)
        {
            int32_t v = imagenet_2021_shift(imagenet_2021_scaled_sum(msb[i], 171), added[i] * 85);
            v = imagenet_2021_batch_norm(v, t[FB_BN1_WEIGHT * n + i], t[FB_BN1_BIAS * n + i]);
            v = imagenet_2021_rprelu(v, t[FB_SHIFT_X * n + i], t[FB_SLOPE * n + i], t[FB_SHIFT_Y * n + i]);
            v = imagenet_2021_shift(v, row.shortcut[i] * FB_CODE_STEP - 256);
            v = imagenet_2021_batch_norm(v, t[FB_BN2_WEIGHT * n + i], t[FB_BN2_BIAS * n + i]);
            value[i] = imagenet_2021_code(v);
        }
        FB_T(put)(value, steps, row.map, row.bits);
    }
}

/* The faithful arithmetic, `count` pixels. Sums of a gated layer are halved pairs; the stem's are plain totals, and the
 * stem has no shortcut. */
#ifdef FB_OWN_FAITHFUL
static void fb_finish_faithful(const struct fb_constants *c, int64_t count, int64_t rule, int gated,
                               const int32_t *sums, const struct FB_T(row) *at);
#else
static void fb_finish_faithful(const struct fb_constants *c, int64_t count, int64_t rule, int gated,
                               const int32_t *sums, const struct FB_T(row) *at)
{
    struct FB_T(row) row = *at;
    const int codes = rule == FB_FAITHFUL_CODES;
    const struct fb_steps steps = fb_steps_of(rule);
    for (int64_t x = 0; x < count; x++, sums += FB_LANES, FB_T(next)(&row)) {
        int16_t value[FB_LANES];
        for (int part = 0; part < FB_PARTS; part++)
            fb_faithful_part(c, part, sums, gated ? row.shortcut : NULL, codes, value);
        memcpy(row.map, value, sizeof value);
        *row.bits = FB_T(pack16)(value, steps);
    }
}
#endif

static void FB_T(finish_row)(const struct fb_layer *l, int64_t tile, const struct fb_constants *constants,
                             const int32_t *sums, const struct FB_T(row) *at)
{
    const int32_t *table = FB_POINTER(const int32_t, l->table) + tile * FB_LANES;
    if (l->rule == FB_CIFAR10_2021)
        FB_T(finish_cifar10_2021)(l, table, sums, at);
    else if (l->rule == FB_IMAGENET_2021)
        FB_T(finish_imagenet_2021)(l, table, sums, at);
    else
        fb_finish_faithful(constants, l->out_size, l->rule, 1, sums, at);
}

#endif /* FB_WIDE */
