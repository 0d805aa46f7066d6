/* The walk through a network by look-up: first layer, gated layers, classifier. Part of an engine's file, after
 * lookup_kernel.h's operations.
 */
#include "lookup_halve.h"
#include "linear.h"
#include "team.h"
#include "thermometer.h"

enum {
    FB_PART_CHANNELS = 64, /* output channels of a piece of work: their counts stay in the first-level cache */
    FB_PART_GROUPS = 12,   /* and row groups, four blocks */
    FB_CHUNK = 21,         /* groups of four input channels whose indices stay there, too, with a 3x3 kernel */
    FB_CHUNK_HALVED = 14,
    FB_CHUNK_1X1 = 42,
};

/* What a picture is worked on in. */
struct fb_planar {
    const struct fb_plan *plan;
    const struct fb_lookup *lookup;
    uint64_t *levels;  /* as in network.h */
    uint8_t *index[2]; /* index maps, a vector's width to spare at each end */
    uint8_t *halved;   /* index maps of a layer with stride 2 */
    int16_t *map[2], *pooled, *last; /* the last map: pixel by pixel, as the classifier reads it */
    int64_t *totals;
    const struct fb_geometry *filled[2]; /* whose borders the index maps have, in the first picture none's */
    int64_t filled_channels[2];
};

/* ---- first layer ------------------------------------------------------------------------------------------------ */

/* 32 pixels of sixteen channels: totals, transposed to a vector a channel half. */
static void fb_stem_vector(const struct fb_planar *s, int64_t across, int64_t group, int64_t tile,
                           fb_shorts totals[2][FB_LANES])
{
    const struct fb_plan *p = s->plan;
    const struct fb_geometry *g = &s->lookup->stem.out;
    const int64_t padded = p->image_size + 2, n = p->stem_channels;
    const int8_t *lookup = FB_POINTER(const int8_t, p->stem_lookup) + tile * FB_LANES;
    fb_shorts pixels[2][FB_LANES];
    for (int64_t lane = 0; lane < FB_VECTOR_PIXELS; lane++) {
        const int64_t byte = across * FB_VECTOR_PIXELS + lane;
        const int64_t x = byte / g->rows, y = group + byte % g->rows * g->groups;
        const int inside = x < g->size && y < g->size;
        const uint64_t *levels = s->levels + (inside ? (y * padded + x) * p->stem_stride : 0);
        int16_t *to = (int16_t *)&pixels[lane % 2][lane / 2];
        if (n == 16)
            fb_stem_totals(lookup, 16, levels, padded, to);
        else
            fb_stem_totals(lookup, 32, levels, padded, to);
    }
    fb_transpose(pixels[0], totals[0]);
    fb_transpose(pixels[1], totals[1]);
}

FB_INLINE void fb_stem_four(const struct fb_planar *s, int64_t across, int64_t group, int64_t first,
                            fb_shorts totals[2][FB_LANES], const int codes)
{
    const struct fb_lookup_layer *l = &s->lookup->stem;
    const struct fb_geometry *g = &l->out;
    const int64_t vector = across * g->groups + group;
    struct fb_indices indices = {0};
    for (int c = 0; c < FB_NIBBLE; c++) {
        const struct fb_channel channel = fb_channel_of(l->affine + first + c);
        int16_t *map = s->map[0] + (first + c) * fb_channel_values(g) + vector * FB_VECTOR_PIXELS;
        for (int half = 0; half < 2; half++) {
            fb_shorts value = fb_affine_of(&channel, totals[half][(first + c) % FB_LANES], (fb_shorts){0});
            if (codes)
                value = fb_clamp_code(value);
            fb_store(map + half * 16, (fb_bytes)value);
            fb_add_activation(&indices, half, c, value, codes);
        }
    }
    uint8_t *to = s->index[0] + first / FB_NIBBLE * g->parity + (group + 1) * 2 * g->slot + FB_EDGE +
                  across * FB_VECTOR_PIXELS;
    const uint8_t *outside = l->outside + vector * FB_VECTOR_PIXELS;
    if (g->rows == 1)
        fb_put(to, g, group, &indices, outside, 1);
    else if (g->rows == 2)
        fb_put(to, g, group, &indices, outside, 2);
    else
        fb_put(to, g, group, &indices, outside, 4);
}

/* A row group, a piece of work. */
static void fb_stem_group(void *context, int64_t group)
{
    const struct fb_planar *s = context;
    const int codes = s->lookup->stem.rule == FB_FAITHFUL_CODES;
    for (int64_t across = 0; across < s->lookup->stem.out.across; across++)
        for (int64_t tile = 0; tile < s->plan->stem_channels / FB_LANES; tile++) {
            fb_shorts totals[2][FB_LANES];
            fb_stem_vector(s, across, group, tile, totals);
            for (int64_t first = tile * FB_LANES; first < (tile + 1) * FB_LANES; first += FB_NIBBLE)
                if (codes)
                    fb_stem_four(s, across, group, first, totals, 1);
                else
                    fb_stem_four(s, across, group, first, totals, 0);
        }
}

/* ---- gated layers ----------------------------------------------------------------------------------------------- */

/* What a layer's pieces of work share. */
struct fb_planar_layer {
    const struct fb_lookup_layer *layer;
    int codes_in;
    const uint8_t *index; /* of the input */
    uint8_t *halved;
    const int16_t *map; /* of the input */
    int16_t *pooled;
    const int16_t *shortcut;
    int16_t *output;
    uint8_t *next; /* index map of the output */
};

/* Four channels, a piece of work. */
static void fb_halve_four(void *context, int64_t four)
{
    const struct fb_planar_layer *w = context;
    const struct fb_lookup_layer *l = w->layer;
    memset(w->halved + four * 4 * l->out.parity, FB_OUTSIDE, (size_t)(4 * l->out.parity));
    fb_halve_index(l, w->index + four * l->in.parity, w->halved + four * 4 * l->out.parity);
    fb_halve_map(l, w->codes_in, w->map + four * FB_NIBBLE * fb_channel_values(&l->in),
                 w->pooled + four * FB_NIBBLE * fb_channel_values(&l->out));
}

/* Output channels `first` to `stop` - 1 of one to three row groups. */
static void fb_layer_block(const struct fb_planar_layer *w, int64_t first, int64_t stop, int64_t across, int64_t group,
                           int64_t vectors)
{
    const struct fb_lookup_layer *l = w->layer;
    const struct fb_geometry *g = &l->out;
    const int64_t indices = l->in_channels / FB_NIBBLE, taps = l->kernel * l->kernel, values = fb_channel_values(g);
    const int64_t chunk = l->kernel == 1 ? FB_CHUNK_1X1 : l->stride == 2 ? FB_CHUNK_HALVED : FB_CHUNK;
    const int64_t vector = across * g->groups + group;
    fb_count *count = fb_counts_of(l)[vectors - 1];
    fb_finish *finish = fb_finishes_of(l)[vectors - 1];
    int16_t room[FB_PART_CHANNELS * FB_COUNTS] __attribute__((aligned(FB_VECTOR_PIXELS)));
    struct fb_taps from = {.step = g->parity * (l->stride == 2 ? 4 : 1), .parity = g->parity};
    struct fb_output to = {.geometry = g,
                           .products = l->products + vector * FB_VECTOR_PIXELS,
                           .outside = l->outside + vector * FB_VECTOR_PIXELS,
                           .map_step = values,
                           .group = group};
    for (int64_t i = 0; i < indices; i += from.indices) {
        from.indices = indices - i < chunk ? indices - i : chunk;
        from.part = fb_part_of(from.indices, l->kernel);
        from.index = (l->stride == 2 ? w->halved : w->index) + i * from.step + group * 2 * g->slot + FB_EDGE +
                     across * FB_VECTOR_PIXELS;
        for (int64_t o = first; o < stop; o += FB_NIBBLE) {
            const uint8_t *weights = l->weights + (o * indices + 2 * i) * taps;
            int16_t *counts = room + (indices > chunk ? o - first : 0) * FB_COUNTS;
            count(&from, weights, counts, i == 0);
            count(&from, weights + 2 * indices * taps, counts + 2 * FB_COUNTS, i == 0);
            if (i + from.indices < indices)
                continue;
            to.affine = l->affine + o;
            to.counts = counts;
            to.shortcut = w->shortcut + o % l->in_channels * values + vector * FB_VECTOR_PIXELS;
            to.map = w->output + o * values + vector * FB_VECTOR_PIXELS;
            to.index = w->next + o / FB_NIBBLE * g->parity + (group + 1) * 2 * g->slot + FB_EDGE +
                       across * FB_VECTOR_PIXELS;
            finish(&to);
        }
    }
}

static int64_t fb_parts(int64_t whole, int64_t part)
{
    return (whole + part - 1) / part;
}

static int64_t fb_layer_parts(const struct fb_lookup_layer *l)
{
    return fb_parts(l->out_channels, FB_PART_CHANNELS) * l->out.across * fb_parts(l->out.groups, FB_PART_GROUPS);
}

/* A piece of work. */
static void fb_layer_part(void *context, int64_t part)
{
    const struct fb_planar_layer *w = context;
    const struct fb_lookup_layer *l = w->layer;
    const int64_t runs = fb_parts(l->out.groups, FB_PART_GROUPS), across = part / runs % l->out.across;
    const int64_t first = part / runs / l->out.across * FB_PART_CHANNELS;
    const int64_t stop = first + FB_PART_CHANNELS < l->out_channels ? first + FB_PART_CHANNELS : l->out_channels;
    int64_t group = part % runs * FB_PART_GROUPS, vectors;
    const int64_t end = group + FB_PART_GROUPS < l->out.groups ? group + FB_PART_GROUPS : l->out.groups;
    for (; group < end; group += vectors) { /* threes, and twos where a one would be left */
        const int64_t left = end - group;
        vectors = left == 3 || left >= 5 ? 3 : left >= 2 ? 2 : 1;
        fb_layer_block(w, first, stop, across, group, vectors);
    }
}

/* ---- the network ------------------------------------------------------------------------------------------------ */

/* Make an index map's bytes lie outside wherever a map of this shape has no pixels. */
static void fb_set_border(struct fb_planar *s, int which, const struct fb_geometry *g, int64_t channels)
{
    const struct fb_geometry *before = s->filled[which];
    if (before != NULL && before->size == g->size && s->filled_channels[which] == channels)
        return;
    memset(s->index[which], FB_OUTSIDE, (size_t)(channels / FB_NIBBLE * g->parity));
    s->filled[which] = g;
    s->filled_channels[which] = channels;
}

static void fb_run_planar_layer(struct fb_planar *s, int64_t i, int from, struct fb_team *team)
{
    const struct fb_lookup_layer *l = &s->lookup->layers[i];
    const int in_place = l->stride == 1 && l->in_channels == l->out_channels;
    struct fb_planar_layer w = {.layer = l, .index = s->index[from], .map = s->map[from],
                                .halved = s->halved, .pooled = s->pooled, .next = s->index[!from],
                                .codes_in = (int)FB_POINTER(const struct fb_layer, s->plan->layers)[i].codes_in};
    if (in_place) { /* only an output needs its shortcut, and takes its place: a map less in the cache */
        s->map[from] = s->map[!from];
        s->map[!from] = (int16_t *)w.map;
    }
    w.output = s->map[!from];
    w.shortcut = l->stride == 2 ? s->pooled : w.map;
    fb_set_border(s, !from, &l->out, l->out_channels);
    if (l->stride == 2)
        fb_share(team, l->in_channels / FB_NIBBLE, fb_halve_four, &w);
    fb_share(team, fb_layer_parts(l), fb_layer_part, &w);
}

/* The last map pixel by pixel. */
static void fb_gather_last(struct fb_planar *s, const struct fb_lookup_layer *l, const int16_t *map)
{
    const struct fb_geometry *g = &l->out;
    for (int64_t y = 0; y < g->size; y++)
        for (int64_t x = 0; x < g->size; x++) {
            const int16_t *from = map + fb_value_at(g, x, y);
            int16_t *to = s->last + (y * g->size + x) * l->out_channels;
            for (int64_t c = 0; c < l->out_channels; c++)
                to[c] = from[c * fb_channel_values(g)];
        }
}

static int fb_make_planar(struct fb_planar *s)
{
    const struct fb_plan *p = s->plan;
    const struct fb_lookup_layer *last = &s->lookup->layers[p->layer_count - 1];
    const int64_t index = s->lookup->index_bytes, map = s->lookup->map_values * (int64_t)sizeof(int16_t);
    const int64_t sizes[] = {(p->image_size + 2) * (p->image_size + 2) * 8,
                             index,
                             index,
                             index,
                             map,
                             map,
                             map,
                             last->out.size * last->out.size * last->out_channels * (int64_t)sizeof(int16_t),
                             last->out_channels * 8};
    enum { PIECES = sizeof sizes / sizeof *sizes };
    int64_t total = 0;
    for (int i = 0; i < PIECES; i++)
        total += (sizes[i] + 191) & ~(int64_t)63;
    char *piece[PIECES], *memory = fb_reserve(total);
    if (memory == NULL)
        return -1;
    for (int i = 0; i < PIECES; memory += (sizes[i] + 191) & ~(int64_t)63, i++)
        piece[i] = memory + 64;
    s->levels = (uint64_t *)piece[0];
    s->index[0] = (uint8_t *)piece[1];
    s->index[1] = (uint8_t *)piece[2];
    s->halved = (uint8_t *)piece[3];
    s->map[0] = (int16_t *)piece[4];
    s->map[1] = (int16_t *)piece[5];
    s->pooled = (int16_t *)piece[6];
    s->last = (int16_t *)piece[7];
    s->totals = (int64_t *)piece[8];
    return 0;
}

static int fb_run_lookup(const struct fb_plan *p, const uint8_t *levels, const uint8_t *pictures, int64_t count,
                         float *logits, uint8_t *codes, struct fb_team *team)
{
    struct fb_planar s = {.plan = p, .lookup = FB_POINTER(const struct fb_lookup, p->prepared)};
    const struct fb_layer *last = FB_POINTER(const struct fb_layer, p->layers) + p->layer_count - 1;
    const int64_t outputs = last->out_size * last->out_size * last->out_channels;
    if (fb_make_planar(&s) < 0)
        return -1;
    for (int64_t n = fb_next_picture(team, -1); n < count; n = fb_next_picture(team, n)) {
        int from = 0;
        fb_load_levels(p, levels, pictures + n * p->image_size * p->image_size * 3, s.levels);
        fb_set_border(&s, 0, &s.lookup->stem.out, p->stem_channels);
        fb_share(team, s.lookup->stem.out.groups, fb_stem_group, &s);
        for (int64_t i = 0; i < p->layer_count; i++, from = !from)
            fb_run_planar_layer(&s, i, from, team);
        fb_gather_last(&s, &s.lookup->layers[p->layer_count - 1], s.map[from]);
        for (int64_t i = 0; codes != NULL && i < outputs; i++)
            codes[n * outputs + i] = (uint8_t)s.last[i];
        fb_classify(p, last, s.last, s.totals, logits + n * p->classes);
    }
    return 0;
}
