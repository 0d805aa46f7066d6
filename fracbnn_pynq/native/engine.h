/* Both forms of the network walk for one engine, and its entry points. The engine's file has defined fb_conv_row,
 * fb_narrow_pack16 and what FB_OWN_FAITHFUL and FB_OWN_3X3 stand for, if it has its own (see network.h); FB_ENGINE(name)
 * is a name with the engine's.
 */
#ifdef FB_OWN_3X3
static inline void fb_begin_layer(const struct fb_layer *l, const uint32_t *bits, uint32_t *triples)
{
    if (l->kernel == 3)
        fb_xor_triples(l, bits, triples);
}

static inline void fb_begin_tile(struct fb_tile *weights, const struct fb_layer *l, int64_t tile)
{
    if (l->kernel == 3)
        fb_load_tile(weights, l, tile);
}
#else
struct fb_tile {
    char unused;
};

static inline void fb_begin_layer(const struct fb_layer *l, const uint32_t *bits, uint32_t *triples)
{
    (void)l, (void)bits, (void)triples;
}

static inline void fb_begin_tile(struct fb_tile *weights, const struct fb_layer *l, int64_t tile)
{
    (void)weights, (void)l, (void)tile;
}
#endif

/* Sums of 16 channels of one output row, after fb_begin_layer and fb_begin_tile. */
static inline void fb_sums_of_row(const struct fb_layer *l, const struct fb_tile *weights, const uint32_t *bits,
                                  const uint32_t *triples, int64_t tile, int64_t y, int32_t *sums)
{
#ifdef FB_OWN_3X3
    if (l->kernel == 3) {
        fb_conv_row_3x3(l, weights, tile, y, bits, triples, sums);
        return;
    }
#else
    (void)weights, (void)triples;
#endif
    fb_conv_row(l, bits, tile, y, sums);
}

#define FB_MAP int16_t
#define FB_T(name) fb_narrow_##name
#include "network.h"
#undef FB_MAP
#undef FB_T

#define FB_WIDE
#define FB_MAP int32_t
#define FB_T(name) fb_wide_##name

FB_DEFINE_PACK16(fb_wide_pack16, int32_t)

#include "network.h"

int FB_ENGINE(fb_run)(const struct fb_plan *plan, const uint8_t *levels, const uint8_t *pictures, int64_t count,
                      float *logits, uint8_t *codes, struct fb_team *team)
{
#ifdef FB_RUN_PREPARED /* the engine's own walk through a plan it has prepared */
    if (plan->prepared)
        return FB_RUN_PREPARED(plan, levels, pictures, count, logits, codes, team);
#endif
    return (plan->stem_rule == FB_CIFAR10_2020 ? fb_wide_run : fb_narrow_run)(plan, levels, pictures, count, logits,
                                                                            codes, team);
}

int FB_ENGINE(fb_one)(const struct fb_layer *layer, const uint8_t *codes, int64_t count, int32_t *sums, uint8_t *output)
{
    return fb_narrow_one(layer, codes, count, sums, output);
}
