/* What the look-up engine makes of a plan when its model is loaded. */
#include "lookup.h"

#include <string.h>

/* Sums of at most 3 * 9 * 1024 products and every constant beside them fit 16 bits; this checks the constants. */
static int fits_16_bits(const int32_t *table, int64_t channels)
{
    static const int rows[] = {FB_GATE_AT, FB_KNEE, FB_ALPHA0, FB_ALPHA1, FB_GAMMA};
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
        for (int64_t i = 0; i < channels; i++)
            if (table[rows[r] * channels + i] > INT16_MAX || table[rows[r] * channels + i] < -INT16_MAX)
                return 0;
    return 1;
}

static int is_faithful(int64_t rule)
{
    return rule == FB_FAITHFUL_MAP || rule == FB_FAITHFUL_CODES;
}

static int is_suited(const struct fb_plan *p)
{
    const struct fb_layer *layers = FB_POINTER(const struct fb_layer, p->layers);
    if (!is_faithful(p->stem_rule) || p->image_size / p->stem_stride > FB_WIDEST ||
        !fits_16_bits(FB_POINTER(const int32_t, p->stem_table), p->stem_channels))
        return 0;
    for (int64_t i = 0; i < p->layer_count; i++) {
        const struct fb_layer *l = &layers[i];
        if (!is_faithful(l->rule) || (l->kernel == 1 && l->stride != 1) ||
            !fits_16_bits(FB_POINTER(const int32_t, l->table), l->out_channels))
            return 0;
    }
    return 1;
}

/* Hands out pieces of a block; of no block, it counts what they need. */
struct pieces {
    char *block;
    int64_t used;
};

static void *take(struct pieces *from, int64_t size)
{
    void *piece = from->block == NULL ? NULL : from->block + from->used;
    from->used += (size + 63) & ~(int64_t)63;
    return piece;
}

static const struct fb_affine *prepare_affine(struct pieces *pieces, const int32_t *t, int64_t n)
{
    struct fb_affine *affine = take(pieces, n * (int64_t)sizeof *affine);
    for (int64_t i = 0; affine != NULL && i < n; i++) {
        const int32_t gate_at = t[FB_GATE_AT * n + i], sure = INT16_MAX / 2; /* beyond every sum */
        const int32_t bounded = gate_at > sure ? sure : gate_at < -sure ? -sure : gate_at;
        const uint32_t gamma = (uint32_t)t[FB_GAMMA * n + i] << 16;
        affine[i] = (struct fb_affine){
            .gate_below = (int16_t)(2 * (bounded - 1)),
            .knee = (int16_t)t[FB_KNEE * n + i],
            .slopes = {(int32_t)(gamma | (uint16_t)t[FB_ALPHA0 * n + i]),
                       (int32_t)(gamma | (uint16_t)t[FB_ALPHA1 * n + i])},
            .beta = {t[FB_BETA0 * n + i], t[FB_BETA1 * n + i]},
            .shift = t[FB_SHIFT * n + i],
        };
    }
    return affine;
}

/* From the "lanes" layout. */
static const uint8_t *prepare_weights(struct pieces *pieces, const struct fb_layer *l)
{
    const int64_t taps = l->kernel * l->kernel, indices = l->in_channels / FB_NIBBLE, words = l->in_channels / FB_LANES;
    const uint32_t *lanes = FB_POINTER(const uint32_t, l->weights);
    uint8_t *weights = take(pieces, l->out_channels * taps * indices);
    for (int64_t o = 0; weights != NULL && o < l->out_channels; o++)
        for (int64_t g = 0; g < indices; g++)
            for (int64_t k = 0; k < taps; k++) {
                const uint32_t word =
                    lanes[((o / FB_LANES * taps + k) * words + g * FB_NIBBLE / FB_LANES) * FB_LANES + o % FB_LANES];
                const uint32_t bits = word >> g * FB_NIBBLE % FB_LANES & 15;
                weights[((o / 2 * indices + g) * taps + k) * 2 + o % 2] = (uint8_t)(bits * 16);
            }
    return weights;
}

static int64_t taps_inside(const struct fb_layer *l, int64_t x, int64_t y)
{
    const int64_t reach = l->kernel / 2;
    int64_t count = 0;
    for (int64_t v = y * l->stride - reach; v <= y * l->stride + reach; v++)
        for (int64_t h = x * l->stride - reach; h <= x * l->stride + reach; h++)
            count += v >= 0 && h >= 0 && v < l->in_size && h < l->in_size;
    return count;
}

static void prepare_pixels(struct pieces *pieces, const struct fb_layer *l, struct fb_lookup_layer *to)
{
    const struct fb_geometry *g = &to->out;
    const int64_t lanes = g->vectors * FB_VECTOR_PIXELS;
    int16_t *products = take(pieces, lanes * (int64_t)sizeof *products);
    uint8_t *outside = take(pieces, lanes);
    to->products = products;
    to->outside = outside;
    if (products == NULL)
        return;
    memset(products, 0, (size_t)lanes * sizeof *products);
    memset(outside, FB_OUTSIDE, (size_t)lanes);
    for (int64_t y = 0; y < g->size; y++)
        for (int64_t x = 0; x < g->size; x++) {
            const int64_t at = fb_value_at(g, x, y), lane = at % FB_VECTOR_PIXELS;
            products[at] = (int16_t)(taps_inside(l, x, y) * l->in_channels);
            outside[at - lane + lane % 16 * 2 + lane / 16] = 0;
        }
}

static void grow(int64_t *most, int64_t value)
{
    if (value > *most)
        *most = value;
}

static int64_t prepare(const struct fb_plan *p, char *block)
{
    const struct fb_layer *layers = FB_POINTER(const struct fb_layer, p->layers);
    struct pieces pieces = {block, 0};
    struct fb_lookup counted = {0}; /* where there is no block */
    const size_t size = sizeof(struct fb_lookup) + (size_t)p->layer_count * sizeof(struct fb_lookup_layer);
    struct fb_lookup *lookup = take(&pieces, (int64_t)size);
    if (lookup == NULL)
        lookup = &counted;
    /* The first layer's sums come otherwise: only which bytes are pixels is read of it. */
    const struct fb_layer stem = {.in_channels = FB_LANES,
                                  .in_size = p->image_size / p->stem_stride,
                                  .kernel = 1,
                                  .stride = 1};
    *lookup = (struct fb_lookup){.stem = {.out = fb_geometry_of(stem.in_size),
                                          .out_channels = p->stem_channels,
                                          .rule = p->stem_rule}};
    lookup->stem.affine = prepare_affine(&pieces, FB_POINTER(const int32_t, p->stem_table), p->stem_channels);
    prepare_pixels(&pieces, &stem, &lookup->stem);
    grow(&lookup->index_bytes, p->stem_channels / FB_NIBBLE * lookup->stem.out.parity);
    grow(&lookup->map_values, p->stem_channels * lookup->stem.out.vectors * FB_VECTOR_PIXELS);
    for (int64_t i = 0; i < p->layer_count; i++) {
        const struct fb_layer *l = &layers[i];
        struct fb_lookup_layer to = {.in = fb_geometry_of(l->in_size),
                                     .out = fb_geometry_of(l->out_size),
                                     .in_channels = l->in_channels,
                                     .out_channels = l->out_channels,
                                     .kernel = l->kernel,
                                     .stride = l->stride,
                                     .rule = l->rule};
        to.affine = prepare_affine(&pieces, FB_POINTER(const int32_t, l->table), l->out_channels);
        to.weights = prepare_weights(&pieces, l);
        prepare_pixels(&pieces, l, &to);
        grow(&lookup->index_bytes, l->out_channels / FB_NIBBLE * to.out.parity);
        grow(&lookup->index_bytes, l->in_channels / FB_NIBBLE * to.out.parity * (l->stride == 2 ? 4 : 1));
        grow(&lookup->map_values, l->out_channels * to.out.vectors * FB_VECTOR_PIXELS);
        if (block != NULL)
            lookup->layers[i] = to;
    }
    return pieces.used;
}

int64_t fb_lookup_size(const struct fb_plan *plan)
{
    return is_suited(plan) ? prepare(plan, NULL) : 0;
}

void fb_lookup_prepare(const struct fb_plan *plan, void *block)
{
    prepare(plan, block);
}
