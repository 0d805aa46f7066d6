/* The walk through a network. An engine's file includes this once per map type, after defining
 *
 *   FB_MAP         int16_t, or int32_t for the one arithmetic whose maps need it
 *   FB_T(name)     the functions' names for that type
 *   fb_conv_row    the engine's convolution: sums of 16 channels of one output row
 *   fb_pack16      16 values (FB_MAP) and steps to one word of activations
 *
 * and, if the engine has its own, FB_OWN_FAITHFUL (the faithful arithmetic) and FB_OWN_3X3 (a convolution that prepares
 * activations per layer and weights per tile).
 *
 * Maps are [size * size][channels]. Layers are worked off 16 output channels (a tile) at a time, so that a tile's
 * weights stay in the first-level cache, and row by row, so that a row's sums do.
 */

struct FB_T(workspace) {
    uint64_t *levels;     /* [size + 2][size + 2]: where the stem looks up a pixel's colours, 16 bits each */
    uint32_t *bits[2];    /* activations, padded */
    uint32_t *triples;    /* what an engine's own 3x3 convolution derives from them, as large */
    FB_MAP *map[2];       /* maps */
    FB_MAP *pooled;       /* pooled shortcut of a layer with stride 2 */
    int32_t *sums;        /* sums of one row */
    int64_t *totals;      /* sums of the last map over its positions */
};

/* Activations of one pixel's 16 channels and their map values, from `value`. */
static inline void FB_T(put)(const int32_t *value, struct fb_steps steps, FB_MAP *map, uint32_t *bits)
{
    FB_EACH(i) map[i] = (FB_MAP)value[i];
    *bits = FB_T(pack16)(map, steps);
}

/* ---- one row of 16 channels: sums to output ------------------------------------------------------------------ */

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

/* ---- layers ---------------------------------------------------------------------------------------------------- */

/* Zero the border of a padded activation map. */
static void FB_T(clear_border)(uint32_t *bits, int64_t size, int64_t groups)
{
    int64_t row = (size + 2) * groups;
    memset(bits, 0, (size_t)row * sizeof *bits);
    memset(bits + (size + 1) * row, 0, (size_t)row * sizeof *bits);
    for (int64_t y = 1; y <= size; y++) {
        memset(bits + y * row, 0, (size_t)groups * sizeof *bits);
        memset(bits + (y + 1) * row - groups, 0, (size_t)groups * sizeof *bits);
    }
}

/* One row of the pooled shortcut from two rows of `channels` values a pixel; `pool` makes one value of four. */
#define FB_POOL_ROW(pool)                                                                                          \
    for (int64_t x = 0; x < l->out_size; x++, upper += 2 * channels, lower += 2 * channels, out += channels)      \
        for (int64_t c = 0; c < channels; c++)                                                                     \
            out[c] = (FB_MAP)pool(upper[c], upper[c + channels], lower[c], lower[c + channels]);
#define FB_SUM(a, b, c, d) (a + b + c + d)
#define FB_MEAN(a, b, c, d) ((a + b + c + d + 2) >> 2)

static void FB_T(pool_row)(const struct fb_layer *l, const FB_MAP *upper, const FB_MAP *lower, const int64_t channels,
                           FB_MAP *restrict out)
{
#ifdef FB_WIDE
    FB_POOL_ROW(cifar10_2020_mean_of_four)
#else
    if (l->rule == FB_CIFAR10_2021)
        FB_POOL_ROW(cifar10_2021_mean_of_four)
    else if (l->rule == FB_IMAGENET_2021)
        FB_POOL_ROW(imagenet_2021_pool)
    else if (l->codes_in)
        FB_POOL_ROW(FB_SUM)
    else
        FB_POOL_ROW(FB_MEAN)
#endif
}

#undef FB_POOL_ROW
#undef FB_SUM
#undef FB_MEAN

static struct FB_T(row) FB_T(row_of)(const struct fb_layer *l, int64_t tile, int64_t y, FB_MAP *map, uint32_t *bits)
{
    int64_t groups = l->out_channels / FB_LANES;
    return (struct FB_T(row)){
        .map = map + y * l->out_size * l->out_channels + tile * FB_LANES,
        .bits = bits + ((y + 1) * (l->out_size + 2) + 1) * groups + tile,
        .map_stride = l->out_channels,
        .bits_stride = groups,
    };
}

static void FB_T(run_layer)(const struct fb_layer *l, struct FB_T(workspace) *w, int from)
{
    FB_MAP *input = w->map[from];
    const FB_MAP *shortcut = input;
    if (l->stride == 1 && l->in_channels == l->out_channels) {
        /* A pixel's output is the only one that needs its shortcut, and takes its place: a map less in the cache. */
        w->map[from] = w->map[!from];
        w->map[!from] = input;
    }
    if (l->stride == 2) {
        int64_t width = l->in_size * l->in_channels;
        for (int64_t y = 0; y < l->out_size; y++) {
            const FB_MAP *upper = shortcut + 2 * y * width;
            FB_T(pool_row)(l, upper, upper + width, l->in_channels, w->pooled + y * l->out_size * l->in_channels);
        }
        shortcut = w->pooled;
    }
#ifdef FB_OWN_3X3
    struct fb_tile weights;
    if (l->kernel == 3)
        fb_xor_triples(l, w->bits[from], w->triples);
#endif
    for (int64_t tile = 0; tile < l->out_channels / FB_LANES; tile++) {
#ifdef FB_OWN_3X3
        if (l->kernel == 3)
            fb_load_tile(&weights, l, tile);
#endif
        struct fb_constants constants;
        if (l->rule == FB_FAITHFUL_MAP || l->rule == FB_FAITHFUL_CODES)
            fb_load_constants(&constants, FB_POINTER(const int32_t, l->table) + tile * FB_LANES, l->out_channels);
        int64_t first = tile * FB_LANES % l->in_channels; /* the shortcut's channels repeat where a layer adds some */
        for (int64_t y = 0; y < l->out_size; y++) {
            struct FB_T(row) row = FB_T(row_of)(l, tile, y, w->map[!from], w->bits[!from]);
            row.shortcut = shortcut + y * l->out_size * l->in_channels + first;
            row.shortcut_stride = l->in_channels;
#ifdef FB_OWN_3X3
            if (l->kernel == 3)
                fb_conv_row_3x3(l, &weights, tile, y, w->bits[from], w->triples, w->sums);
            else
#endif
                fb_conv_row(l, w->bits[from], tile, y, w->sums);
            FB_T(finish_row)(l, tile, &constants, w->sums, &row);
        }
    }
}

#ifndef FB_WIDE

enum { FB_TILE = 32, FB_COLUMNS = 4 }; /* the ImageNet core's memory: channels of a tile, columns of a word */

/* Block 12's 3x3 of the ImageNet core, which overwrites part of its own shortcut: see _finish_in_place in published.py.
 * `memory` is [tiles * size][columns, a multiple of 4][32]; an output tile's rows lie end to end from
 * word 32 * 7 * 2. */
static void fb_run_layer_in_place(const struct fb_layer *l, struct FB_T(workspace) *w, int from)
{
    static const struct {
        int first_row, start, stop;
    } passes[] = {{0, 0, 4}, {7, 4, 7}};
    const int64_t size = l->in_size, half = l->out_size, tiles = l->in_channels / FB_TILE;
    const int64_t columns = (size + FB_COLUMNS - 1) / FB_COLUMNS * FB_COLUMNS, line = columns * FB_TILE;
    const int64_t out_line = (half + FB_COLUMNS - 1) / FB_COLUMNS * FB_COLUMNS * FB_TILE;
    FB_MAP *memory = w->pooled, *output = memory + FB_TILE * half * out_line;
    FB_MAP pooled[7][7 * FB_TILE], stale[7][FB_TILE];
    const FB_MAP *map = w->map[from];

    for (int64_t tile = 0; tile < tiles; tile++)
        for (int64_t y = 0; y < size; y++)
            for (int64_t x = 0; x < columns; x++)
                for (int64_t c = 0; c < FB_TILE; c++)
                    memory[(tile * size + y) * line + x * FB_TILE + c] =
                        x < size ? map[(y * size + x) * l->in_channels + tile * FB_TILE + c] : 0;
    for (int64_t tile = 0; tile < tiles; tile++) {
        const FB_MAP *own = memory + tile * size * line;
        for (int pass = 0; pass < 2; pass++) {
            for (int64_t y = passes[pass].start; y < passes[pass].stop; y++) {
                const FB_MAP *kept = own + (passes[pass].first_row + y - passes[pass].start) * line + half * FB_TILE;
                FB_T(pool_row)(l, own + 2 * y * line, own + (2 * y + 1) * line, FB_TILE, pooled[y]);
                memcpy(stale[y], kept, sizeof stale[y]);
            }
            for (int64_t y = passes[pass].start; y < passes[pass].stop; y++) {
                for (int64_t part = 2 * tile; part < 2 * tile + 2; part++) {
                    struct FB_T(row) row = FB_T(row_of)(l, part, y, w->map[!from], w->bits[!from]);
                    row.shortcut = pooled[y] + part % 2 * FB_LANES;
                    row.shortcut_stride = FB_TILE;
                    fb_conv_row(l, w->bits[from], part, y, w->sums);
                    FB_T(finish_row)(l, part, NULL, w->sums, &row);
                }
                FB_MAP *written = output + (tile * half + y) * out_line;
                const FB_MAP *codes = w->map[!from] + y * half * l->out_channels + tile * FB_TILE;
                for (int64_t x = 0; x < half; x++)
                    memcpy(written + x * FB_TILE, codes + x * l->out_channels, FB_TILE * sizeof *codes);
                memcpy(written + half * FB_TILE, stale[y], sizeof stale[y]);
            }
        }
    }
}

#endif

/* ---- first and last layer -------------------------------------------------------------------------------------- */

/* Levels times the stem's channels: how far into a table of look-ups they lead. The border's level is the last. */
static void FB_T(load_levels)(const struct fb_plan *p, const uint8_t *table, const uint8_t *picture, uint64_t *levels)
{
    const int64_t size = p->image_size, padded = size + 2, channels = p->stem_channels;
    const uint64_t border = (FB_LEVELS - 1) * channels * UINT64_C(0x100010001);
    for (int64_t x = 0; x < padded; x++)
        levels[x] = levels[(size + 1) * padded + x] = border;
    for (int64_t y = 0; y < size; y++) {
        levels += padded;
        levels[0] = levels[size + 1] = border;
        for (int64_t x = 1; x <= size; x++, picture += 3) {
            uint64_t red = table[picture[0]], green = table[picture[1]], blue = table[picture[2]];
            levels[x] = (red | green << 16 | blue << 32) * channels;
        }
    }
}

/* Sums of one pixel's 16 stem channels: 27 look-ups. Three parts of at most 32 each fit a byte. `channels` is a
 * constant where this is inlined. */
static inline __attribute__((always_inline)) void FB_T(stem_sums)(const int8_t *lookup, const int64_t channels,
                                                                  const uint64_t *levels, int64_t padded,
                                                                  int32_t *restrict sums)
{
    typedef int8_t bytes __attribute__((vector_size(FB_LANES)));
    typedef int16_t shorts __attribute__((vector_size(2 * FB_LANES)));
    shorts total = {0};
#pragma GCC unroll 9
    for (int tap = 0; tap < 9; tap++) {
        const uint64_t level = levels[tap / 3 * padded + tap % 3];
        const int8_t *part = lookup + tap * 3 * FB_LEVELS * channels;
        bytes red, green, blue;
        memcpy(&red, part + (uint16_t)level, sizeof red);
        memcpy(&green, part + FB_LEVELS * channels + (uint16_t)(level >> 16), sizeof green);
        memcpy(&blue, part + 2 * FB_LEVELS * channels + (level >> 32), sizeof blue);
        total += FB_WIDEN(red + green + blue);
    }
    FB_EACH(i) sums[i] = total[i];
}

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
                if (n == 16)
                    FB_T(stem_sums)(lookup, 16, levels, padded, w->sums + x * FB_LANES);
                else
                    FB_T(stem_sums)(lookup + tile * FB_LANES, 32, levels, padded, w->sums + x * FB_LANES);
            }
            FB_T(finish_stem)(p, table + tile * FB_LANES, w->sums, size, &row);
        }
}

/* The CIFAR-10 cores' classifier: mean in <32,10>, then a sum that is rounded and saturated at every step. */
#ifdef FB_WIDE
#define FB_CORE_FRACTION 15
#define FB_CORE_SATURATE cifar10_2020_saturate
#else
#define FB_CORE_FRACTION 7
#define FB_CORE_SATURATE cifar10_2021_saturate
#endif

static void FB_T(classify_core)(const struct fb_plan *p, const struct fb_layer *last, const FB_MAP *map, float *logits)
{
    enum { FRACTION = 22, FINER = FRACTION - FB_CORE_FRACTION };
    const int64_t features = last->out_channels, positions = last->out_size * last->out_size;
    const int32_t *weight = FB_POINTER(const int32_t, p->fc_weight), *bias = FB_POINTER(const int32_t, p->fc_bias);
    int64_t mean[FB_CORE_FEATURES];
    for (int64_t c = 0; c < features; c++) {
        int64_t total = 0;
        for (int64_t i = 0; i < positions; i++)
            total = fb_clamp64(total + map[i * features + c] * ((int64_t)1 << FINER), INT32_MIN, INT32_MAX);
        mean[c] = FB_CORE_SATURATE((FB_MAP)FB_RND(int64_t, total / positions, FINER));
    }
    for (int64_t k = 0; k < p->classes; k++) {
        int64_t sum = bias[k];
        for (int64_t c = 0; c < features; c++) {
            int64_t product = sum * ((int64_t)1 << FB_CORE_FRACTION) + mean[c] * weight[k * features + c];
            int64_t rounded = FB_RND(int64_t, product, FB_CORE_FRACTION);
            sum = fb_clamp64(rounded, FB_CORE_SATURATE(INT32_MIN), FB_CORE_SATURATE(INT32_MAX));
        }
        logits[k] = (float)((double)sum / ((int64_t)1 << FB_CORE_FRACTION));
    }
}

#undef FB_CORE_FRACTION
#undef FB_CORE_SATURATE

#ifndef FB_WIDE
/* All other arithmetics: exact integer products, then one float64 operation each for mean and bias. */
static void fb_classify(const struct fb_plan *p, const struct fb_layer *last, const FB_MAP *map, int64_t *totals,
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
            product += (int64_t)weight[c] * sums[c];
        double exact = (double)(p->fc_scale * product + offset[k]) * step[k];
        logits[k] = (float)(exact / (double)p->fc_divisor + bias[k]);
    }
}
#endif

/* ---- the whole network ------------------------------------------------------------------------------------------- */

static int64_t FB_T(most)(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* One block of memory for everything a picture needs, cut into 64-byte aligned pieces. */
static int FB_T(make_workspace)(const struct fb_plan *p, struct FB_T(workspace) *w)
{
    const struct fb_layer *layers = FB_POINTER(const struct fb_layer, p->layers);
    int64_t size = p->image_size / p->stem_stride;
    int64_t bits = (size + 2) * (size + 2) * p->stem_channels / FB_LANES, map = size * size * p->stem_channels;
    int64_t pooled = 0, sums = size * FB_LANES, features = 0;
    for (int64_t i = 0; i < p->layer_count; i++) {
        const struct fb_layer *l = &layers[i];
        int64_t edge = l->out_size + 2;
        bits = FB_T(most)(bits, edge * edge * l->out_channels / FB_LANES);
        map = FB_T(most)(map, l->out_size * l->out_size * l->out_channels);
        /* The in-place layer keeps the whole input map there, rows padded to full words. */
        pooled = FB_T(most)(pooled, l->in_place ? l->in_size * (l->in_size + 3) * l->in_channels
                                                : l->out_size * l->out_size * l->in_channels);
        sums = FB_T(most)(sums, l->out_size * FB_LANES);
        features = l->out_channels;
    }
    int64_t sizes[] = {(p->image_size + 2) * (p->image_size + 2) * 8,
                       bits * 4,
                       bits * 4,
                       bits * 4,
                       map * (int64_t)sizeof(FB_MAP),
                       map * (int64_t)sizeof(FB_MAP),
                       pooled * (int64_t)sizeof(FB_MAP),
                       sums * 4,
                       features * 8};
    char *piece[9];
    int64_t total = 0;
    for (int i = 0; i < 9; i++)
        total += sizes[i] = (sizes[i] + 127) & ~(int64_t)63; /* a vector's width to spare at each end */
    char *memory = fb_reserve(total);
    if (memory == NULL)
        return -1;
    piece[0] = memory;
    for (int i = 1; i < 9; i++)
        piece[i] = piece[i - 1] + sizes[i - 1];
    *w = (struct FB_T(workspace)){(uint64_t *)piece[0],
                                  {(uint32_t *)piece[1], (uint32_t *)piece[2]},
                                  (uint32_t *)piece[3],
                                  {(FB_MAP *)piece[4], (FB_MAP *)piece[5]},
                                  (FB_MAP *)piece[6],
                                  (int32_t *)piece[7],
                                  (int64_t *)piece[8]};
    return 0;
}

static int FB_T(run)(const struct fb_plan *p, const uint8_t *levels, const uint8_t *pictures, int64_t count,
                     float *logits, uint8_t *codes)
{
    const struct fb_layer *layers = FB_POINTER(const struct fb_layer, p->layers), *last = &layers[p->layer_count - 1];
    const int64_t outputs = last->out_size * last->out_size * last->out_channels;
    struct FB_T(workspace) w;
    if (FB_T(make_workspace)(p, &w) < 0)
        return -1;
    for (int64_t n = 0; n < count; n++, logits += p->classes) {
        int from = 0;
        FB_T(load_levels)(p, levels, pictures + n * p->image_size * p->image_size * 3, w.levels);
        FB_T(run_stem)(p, &w);
        for (int64_t i = 0; i < p->layer_count; i++, from = !from) {
            const struct fb_layer *l = &layers[i];
            FB_T(clear_border)(w.bits[!from], l->out_size, l->out_channels / FB_LANES);
#ifndef FB_WIDE
            if (l->in_place) {
                fb_run_layer_in_place(l, &w, from);
                continue;
            }
#endif
            FB_T(run_layer)(l, &w, from);
        }
        for (int64_t i = 0; codes != NULL && i < outputs; i++)
            *codes++ = (uint8_t)w.map[from][i];
#ifndef FB_WIDE
        if (last->rule != FB_CIFAR10_2021) {
            fb_classify(p, last, w.map[from], w.totals, logits);
            continue;
        }
#endif
        FB_T(classify_core)(p, last, w.map[from], logits);
    }
    return 0;
}
