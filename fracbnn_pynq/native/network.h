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

#include "linear.h"
#include "team.h"
#include "finish.h"
#include "layer.h"
#include "stem.h"
#include "classifier.h"

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
                     float *logits, uint8_t *codes, struct fb_team *team)
{
    const struct fb_layer *layers = FB_POINTER(const struct fb_layer, p->layers), *last = &layers[p->layer_count - 1];
    const int64_t outputs = last->out_size * last->out_size * last->out_channels;
    struct FB_T(workspace) w;
    if (FB_T(make_workspace)(p, &w) < 0)
        return -1;
    for (int64_t n = fb_next_picture(team, -1); n < count; n = fb_next_picture(team, n)) {
        int from = 0;
        fb_load_levels(p, levels, pictures + n * p->image_size * p->image_size * 3, w.levels);
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
            FB_T(run_layer)(l, &w, from, team);
        }
        for (int64_t i = 0; codes != NULL && i < outputs; i++)
            codes[n * outputs + i] = (uint8_t)w.map[from][i];
#ifndef FB_WIDE
        if (last->rule != FB_CIFAR10_2021) {
            fb_classify(p, last, w.map[from], w.totals, logits + n * p->classes);
            continue;
        }
#endif
        FB_T(classify_core)(p, last, w.map[from], logits + n * p->classes);
    }
    return 0;
}

#ifndef FB_WIDE
#include "one_layer.h"
#endif
