/* Convolution by look-up, and what follows it, 32 pixels at a time. The file that includes this has defined the vector
 * types and the few operations that the compiler's notation lacks: x86_avx2_lookup.c in AVX2's instructions, and
 * tests/native/lookup_portable.c in plain C.
 */
#ifndef FRACBNN_LOOKUP_KERNEL_H
#define FRACBNN_LOOKUP_KERNEL_H

#include "lookup.h"

#include <string.h>

#ifndef FB_INLINE /* else what includes this wants quick compilation */
#define FB_INLINE static inline __attribute__((always_inline))
#define FB_UNROLL(i, count) _Pragma("GCC unroll 16") for (int i = 0; i < (count); i++)
#endif

enum {
    FB_MOST_VECTORS = 3, /* of a block: with two planes and two output channels, twelve of the sixteen registers */
    FB_BYTE_SUMS = 63,   /* look-ups of at most 4 that fit a byte */
    FB_COUNTS = 2 * FB_MOST_VECTORS * FB_VECTOR_PIXELS, /* 16-bit counts of a block's output channel: both planes */
};

FB_INLINE fb_bytes fb_load(const void *from)
{
    fb_bytes v;
    memcpy(&v, from, sizeof v);
    return v;
}

FB_INLINE void fb_store(void *to, fb_bytes v)
{
    memcpy(to, &v, sizeof v);
}

FB_INLINE fb_shorts fb_even(fb_bytes v)
{
    return (fb_shorts)v & 0xff;
}

FB_INLINE fb_shorts fb_odd(fb_bytes v)
{
    return (fb_shorts)((fb_unsigned)v >> 8);
}

FB_INLINE fb_bytes fb_merge(fb_shorts even, fb_shorts odd)
{
    return (fb_bytes)(even | odd << 8);
}

/* ---- sums ------------------------------------------------------------------------------------------------------- */

/* What a block of sums is read from. */
struct fb_taps {
    const uint8_t *index; /* of the row group above the block's first */
    int64_t indices;      /* groups of four input channels */
    int64_t part;         /* of them at a time, whose sums fit a byte */
    int64_t step;         /* bytes from one to the next */
    int64_t parity;       /* bytes from one map of a layer with stride 2 to the next */
};

/* Bytes from the row group above to what tap `k` reads. */
FB_INLINE int64_t fb_tap(const struct fb_taps *from, int k, const int kernel, const int stride, const int rows,
                         const int64_t slot)
{
    const int down = k / 3, right = k % 3;
    if (kernel == 1)
        return 2 * slot;
    if (stride == 1)
        return down * 2 * slot + (right - 1) * rows;
    /* Odd rows and columns are the first and the last taps', even ones those in the middle. */
    return ((down != 1) * 2 + (right != 1)) * from->parity + (down != 0) * 2 * slot - (right == 0) * rows;
}

/* Even parts of `indices`, each as large as fits. */
FB_INLINE int64_t fb_part_of(int64_t indices, int64_t kernel)
{
    const int64_t most = FB_BYTE_SUMS / (kernel * kernel), parts = (indices + most - 1) / most;
    return (indices + parts - 1) / parts;
}

/* Add to `counts` [2][FB_COUNTS] how many products of two output channels are -1, for `vectors` row groups and both
 * planes; `weights` are at the two channels' first. All but `from`, `first` and the pointers are constants. */
FB_INLINE void fb_count_two(const struct fb_taps *from, const uint8_t *weights, int16_t *counts, int first,
                            const int kernel, const int stride, const int rows, const int64_t slot, const int vectors)
{
    const int taps = kernel * kernel, all = 2 * vectors;
    const int64_t part = from->part;
    const uint8_t *index = from->index;
    for (int64_t left = from->indices; left > 0; left -= part, first = 0) {
        fb_bytes one[2 * FB_MOST_VECTORS], two[2 * FB_MOST_VECTORS];
        FB_UNROLL(i, all) one[i] = two[i] = (fb_bytes){0};
        for (int64_t g = left < part ? left : part; g > 0; g--, index += from->step, weights += 2 * taps)
            FB_UNROLL(k, taps)
            {
                const uint8_t *at = index + fb_tap(from, k, kernel, stride, rows, slot);
                const fb_bytes first_table = fb_table(weights[2 * k]), second_table = fb_table(weights[2 * k + 1]);
                FB_UNROLL(i, all)
                {
                    fb_bytes v;
                    FB_LOAD_INDICES(v, at + i % vectors * 2 * slot + i / vectors * slot);
                    FB_ADD_TO(one[i], fb_look_up(first_table, v));
                    FB_ADD_TO(two[i], fb_look_up(second_table, v));
                }
            }
        FB_UNROLL(j, 2) FB_UNROLL(i, all)
        {
            int16_t *to = counts + j * FB_COUNTS + (i / vectors * FB_MOST_VECTORS + i % vectors) * FB_VECTOR_PIXELS;
            const fb_bytes sum = j ? two[i] : one[i];
            fb_shorts even = fb_even(sum), odd = fb_odd(sum);
            if (!first) {
                even += (fb_shorts)fb_load(to);
                odd += (fb_shorts)fb_load(to + 16);
            }
            fb_store(to, (fb_bytes)even);
            fb_store(to + 16, (fb_bytes)odd);
        }
    }
}

typedef void fb_count(const struct fb_taps *from, const uint8_t *weights, int16_t *counts, int first);

#define FB_DEFINE_COUNT(kernel, stride, rows, slot, vectors)                                                        \
    static __attribute__((noinline)) void fb_count_##kernel##_##stride##_##rows##_##slot##_##vectors(               \
        const struct fb_taps *from, const uint8_t *weights, int16_t *counts, int first)                             \
    {                                                                                                               \
        fb_count_two(from, weights, counts, first, kernel, stride, rows, slot, vectors);                            \
    }
#define FB_DEFINE_COUNTS(kernel, stride, rows, slot)                                                                \
    FB_DEFINE_COUNT(kernel, stride, rows, slot, 1)                                                                  \
    FB_DEFINE_COUNT(kernel, stride, rows, slot, 2)                                                                  \
    FB_DEFINE_COUNT(kernel, stride, rows, slot, 3)
/* Every kernel and stride in every geometry: rows of a row group, bytes of its slot. */
#define FB_GEOMETRIES(use, kernel, stride)                                                                          \
    use(kernel, stride, 4, 64) use(kernel, stride, 2, 64) use(kernel, stride, 1, 64) use(kernel, stride, 1, 96)     \
        use(kernel, stride, 1, 160)
FB_GEOMETRIES(FB_DEFINE_COUNTS, 3, 1)
FB_GEOMETRIES(FB_DEFINE_COUNTS, 3, 2)
FB_GEOMETRIES(FB_DEFINE_COUNTS, 1, 1)

#define FB_COUNTS_OF(kernel, stride, rows, slot)                                                                    \
    {fb_count_##kernel##_##stride##_##rows##_##slot##_1, fb_count_##kernel##_##stride##_##rows##_##slot##_2,        \
     fb_count_##kernel##_##stride##_##rows##_##slot##_3},
static fb_count *const fb_counts[3][5][FB_MOST_VECTORS] = {{FB_GEOMETRIES(FB_COUNTS_OF, 3, 1)},
                                                           {FB_GEOMETRIES(FB_COUNTS_OF, 3, 2)},
                                                           {FB_GEOMETRIES(FB_COUNTS_OF, 1, 1)}};

/* The counting functions of a layer, for one, two and three row groups. */
static fb_count *const *fb_counts_of(const struct fb_lookup_layer *l)
{
    const int narrow = l->out.rows == 4 ? 0 : l->out.rows == 2 ? 1 : 2;
    const int geometry = l->out.across == 1 ? narrow : l->out.across == 2 ? 3 : 4;
    return fb_counts[l->kernel == 1 ? 2 : l->stride == 2][geometry];
}

/* ---- sums to values and activations ----------------------------------------------------------------------------- */

/* Constants of one channel in every lane. */
struct fb_channel {
    fb_shorts gate_below, knee; /* compared with 2 M and with S */
    fb_ints slopes[2], beta[2];
    int32_t shift;
};

FB_INLINE struct fb_channel fb_channel_of(const struct fb_affine *a)
{
    return (struct fb_channel){
        .gate_below = a->gate_below - (fb_shorts){0},
        .knee = a->knee - (fb_shorts){0},
        .slopes = {a->slopes[0] - (fb_ints){0}, a->slopes[1] - (fb_ints){0}},
        .beta = {a->beta[0] - (fb_ints){0}, a->beta[1] - (fb_ints){0}},
        .shift = a->shift,
    };
}

/* Sixteen pixels' output from their totals S and shortcuts. */
FB_INLINE fb_shorts fb_affine_of(const struct fb_channel *c, fb_shorts total, fb_shorts shortcut)
{
    const fb_shorts below = c->knee > total;
    const fb_ints low_side = (fb_ints)fb_interleave_low(below, below);
    const fb_ints high_side = (fb_ints)fb_interleave_high(below, below);
    fb_ints low = fb_multiply_add(fb_interleave_low(total, shortcut),
                                  (fb_shorts)fb_select(low_side, c->slopes[1], c->slopes[0]));
    fb_ints high = fb_multiply_add(fb_interleave_high(total, shortcut),
                                   (fb_shorts)fb_select(high_side, c->slopes[1], c->slopes[0]));
    low += fb_select(low_side, c->beta[1], c->beta[0]);
    high += fb_select(high_side, c->beta[1], c->beta[0]);
    return fb_saturate(fb_shift_right(low, c->shift), fb_shift_right(high, c->shift));
}

/* S = 2 M + (gate ? L : 0) of sixteen pixels, from twice their products and how many of those are -1. */
FB_INLINE fb_shorts fb_total_of(const struct fb_channel *c, fb_shorts products, fb_shorts msb, fb_shorts lsb)
{
    msb = 2 * products - (msb << 2);
    lsb = products - (lsb + lsb);
    return msb + (lsb & (msb > c->gate_below));
}

/* Four channels' activations of one vector, bit by bit: [plane][even, odd pixels]. */
struct fb_indices {
    fb_shorts plane[2][2];
};

/* A 2-bit activation is at least 2, at least 1 or 3 above these values. */
FB_INLINE void fb_add_activation(struct fb_indices *to, int half, int channel, fb_shorts value, const int codes)
{
    const int16_t one = codes ? 2 : -342, two = codes ? 7 : -1, three = codes ? 12 : 341;
    const fb_shorts bit = (int16_t)(1 << channel) - (fb_shorts){0};
    const fb_shorts high = value > two, low = value > ((high & (int16_t)(one ^ three)) ^ one);
    to->plane[0][half] |= high & bit;
    to->plane[1][half] |= low & bit;
}

/* Write a vector's indices of one plane into its row group's slot, at `to`. Where it has several rows, the first row
 * group also lies below the last one, and the last one above the first, a row further: what leaves its column there is
 * outside the map. */
FB_INLINE void fb_put_plane(uint8_t *to, const struct fb_geometry *g, int64_t group, fb_bytes indices, const int rows)
{
    fb_store(to, indices);
    if (rows == 1)
        return;
    const fb_bytes first = rows == 2 ? (fb_bytes)((fb_shorts){0} + FB_OUTSIDE) : (fb_bytes)((fb_ints){0} + FB_OUTSIDE);
    const fb_bytes last = rows == 2 ? (fb_bytes)((fb_shorts)first << 8) : (fb_bytes)((fb_ints)first << 24);
    if (group == 0)
        fb_store(to + g->groups * 2 * g->slot - 1, indices | first);
    if (group == g->groups - 1)
        fb_store(to - g->groups * 2 * g->slot + 1, indices | last);
}

FB_INLINE void fb_put(uint8_t *to, const struct fb_geometry *g, int64_t group, const struct fb_indices *indices,
                      const uint8_t *outside, const int rows)
{
    const fb_bytes border = fb_load(outside);
    FB_UNROLL(p, 2)
    fb_put_plane(to + p * g->slot, g, group, fb_merge(indices->plane[p][0], indices->plane[p][1]) | border, rows);
}

/* Where four output channels of a block come from and go to, all at its first row group. */
struct fb_output {
    const struct fb_geometry *geometry;
    const struct fb_affine *affine;
    const int16_t *counts; /* [4][FB_COUNTS] */
    const int16_t *products;
    const uint8_t *outside;
    const int16_t *shortcut; /* `map_step` values from channel to channel */
    int16_t *map;
    int64_t map_step;
    uint8_t *index;
    int64_t group; /* the first */
};

/* Map values and activations of four output channels. All but `o` are constants. */
FB_INLINE void fb_finish_four(const struct fb_output *o, const int rows, const int codes, const int vectors)
{
    struct fb_indices indices[FB_MOST_VECTORS];
    FB_UNROLL(i, vectors) indices[i] = (struct fb_indices){0};
    for (int c = 0; c < FB_NIBBLE; c++) {
        const struct fb_channel channel = fb_channel_of(o->affine + c);
        const int16_t *counts = o->counts + c * FB_COUNTS;
        FB_UNROLL(i, vectors) FB_UNROLL(half, 2)
        {
            const int64_t at = i * FB_VECTOR_PIXELS + half * 16;
            const fb_shorts total =
                fb_total_of(&channel, (fb_shorts)fb_load(o->products + at), (fb_shorts)fb_load(counts + at),
                            (fb_shorts)fb_load(counts + FB_MOST_VECTORS * FB_VECTOR_PIXELS + at));
            const fb_shorts shortcut = (fb_shorts)fb_load(o->shortcut + c * o->map_step + at);
            fb_shorts value = fb_affine_of(&channel, total, shortcut);
            if (codes)
                value = fb_clamp_code(value);
            fb_store(o->map + c * o->map_step + at, (fb_bytes)value);
            fb_add_activation(&indices[i], half, c, value, codes);
        }
    }
    FB_UNROLL(i, vectors)
    fb_put(o->index + i * 2 * o->geometry->slot, o->geometry, o->group + i, &indices[i],
           o->outside + i * FB_VECTOR_PIXELS, rows);
}

typedef void fb_finish(const struct fb_output *o);

#define FB_DEFINE_FINISH(rows, codes, vectors)                                                                      \
    static __attribute__((noinline)) void fb_finish_##rows##_##codes##_##vectors(const struct fb_output *o)         \
    {                                                                                                               \
        fb_finish_four(o, rows, codes, vectors);                                                                    \
    }
#define FB_DEFINE_FINISHES(rows, codes)                                                                             \
    FB_DEFINE_FINISH(rows, codes, 1) FB_DEFINE_FINISH(rows, codes, 2) FB_DEFINE_FINISH(rows, codes, 3)
FB_DEFINE_FINISHES(1, 0) FB_DEFINE_FINISHES(1, 1)
FB_DEFINE_FINISHES(2, 0) FB_DEFINE_FINISHES(2, 1)
FB_DEFINE_FINISHES(4, 0) FB_DEFINE_FINISHES(4, 1)

#define FB_FINISHES(rows, codes)                                                                                    \
    {fb_finish_##rows##_##codes##_1, fb_finish_##rows##_##codes##_2, fb_finish_##rows##_##codes##_3}
static fb_finish *const fb_finishes[3][2][FB_MOST_VECTORS] = {{FB_FINISHES(1, 0), FB_FINISHES(1, 1)},
                                                              {FB_FINISHES(2, 0), FB_FINISHES(2, 1)},
                                                              {FB_FINISHES(4, 0), FB_FINISHES(4, 1)}};

static fb_finish *const *fb_finishes_of(const struct fb_lookup_layer *l)
{
    return fb_finishes[l->out.rows / 2][l->rule == FB_FAITHFUL_CODES];
}

#endif
