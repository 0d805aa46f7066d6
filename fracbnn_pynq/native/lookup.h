/* The look-up engine's data: where pixels lie in vectors, and what is made of a plan when its model is loaded.
 *
 * A byte shuffle looks 32 indices up in a table of sixteen bytes at once. So a lane is a pixel, an index is four
 * channels' bits of one bit plane, and the table, chosen by four weight bits, has how many of the four products are -1.
 * There are only sixteen tables, whatever the network.
 *
 * Vectors (struct fb_geometry). A vector is 32 pixels of one channel. Maps narrower than 32 have `rows` rows in one
 * vector, interleaved: pixel x of row y is byte x * rows + y / groups of row group y % groups. So a tap to the left or
 * right is `rows` bytes away and a tap above or below is another row group, in every size. Wider maps have `across`
 * vectors to a row.
 *
 * Index map of a layer's input: [channels / 4][groups + 2][2 planes: most, least significant bits][slot] bytes, a row
 * group's pixels from byte FB_EDGE on. Bytes outside the map are FB_OUTSIDE, which looks up nothing; the row groups
 * before the first and behind the last hold the other row groups' rows, a byte further. Where the layer has stride 2
 * there are four maps, one behind the other, by odd row and odd column, in the output's geometry.
 *
 * Maps of 16-bit values: [channels][across][groups][32], in a vector the pixels of even bytes first, then those of odd
 * ones: that is how bytes widen to 16 bits without being moved.
 */
#ifndef FRACBNN_LOOKUP_H
#define FRACBNN_LOOKUP_H

#include "fracbnn.h"

enum {
    FB_VECTOR_PIXELS = 32,
    FB_NIBBLE = 4,       /* channels of an index */
    FB_EDGE = 16,        /* bytes before and behind a row group's pixels */
    FB_OUTSIDE = 0x80,   /* an index that looks up 0 */
    FB_WIDEST = 128,     /* pixels of a row */
    FB_MOST_ACROSS = 4,
};

struct fb_geometry {
    int64_t size;    /* pixels of a row, rows of the map */
    int64_t rows;    /* in a row group: 1, 2 or 4 */
    int64_t groups;  /* of rows */
    int64_t across;  /* vectors of a row group: 1, 2 or 4 */
    int64_t slot;    /* bytes of a row group's plane in the index map */
    int64_t vectors; /* of a channel */
    int64_t parity;  /* bytes of four channels' index map */
};

static inline struct fb_geometry fb_geometry_of(int64_t size)
{
    struct fb_geometry g = {.size = size, .rows = size > 16 ? 1 : size > 8 ? 2 : 4};
    g.groups = (size + g.rows - 1) / g.rows;
    g.across = size * g.rows <= 32 ? 1 : size <= 64 ? 2 : FB_MOST_ACROSS;
    g.slot = g.across * FB_VECTOR_PIXELS + 2 * FB_EDGE;
    g.vectors = g.across * g.groups;
    g.parity = (g.groups + 2) * 2 * g.slot;
    return g;
}

/* Where a pixel's 16-bit value lies in its channel. */
static inline int64_t fb_value_at(const struct fb_geometry *g, int64_t x, int64_t y)
{
    const int64_t byte = x * g->rows + y / g->groups, lane = byte % FB_VECTOR_PIXELS;
    return (byte / FB_VECTOR_PIXELS * g->groups + y % g->groups) * FB_VECTOR_PIXELS + lane / 2 + lane % 2 * 16;
}

/* Where a pixel's index lies in its four channels' map of one plane. */
static inline int64_t fb_index_at(const struct fb_geometry *g, int64_t x, int64_t y)
{
    return (y % g->groups + 1) * 2 * g->slot + FB_EDGE + x * g->rows + y / g->groups;
}

/* 16-bit values of a channel's map. */
static inline int64_t fb_channel_values(const struct fb_geometry *g)
{
    return g->vectors * FB_VECTOR_PIXELS;
}

/* A channel's part of the faithful arithmetic; [0] at or above the knee, [1] below. */
struct fb_affine {
    int16_t gate_below, knee; /* the gate is open where 2 M is above gate_below */
    int32_t slopes[2];        /* alpha in the low half, gamma in the high */
    int32_t beta[2];
    int32_t shift;
};

struct fb_lookup_layer {
    struct fb_geometry in, out;
    int64_t in_channels, out_channels, kernel, stride, rule;
    const struct fb_affine *affine; /* [out_channels] */
    const uint8_t *weights;         /* [out/2][in/4][k][k][2]: four weight bits times 16, the offset of a table */
    const int16_t *products;        /* [vectors][32]: how many products a pixel's sum has, at the border fewer */
    const uint8_t *outside;         /* [vectors][32]: FB_OUTSIDE where a byte is no pixel, else 0 */
};

struct fb_lookup {
    struct fb_lookup_layer stem; /* geometry and affine only */
    int64_t index_bytes, map_values; /* the largest index map and map */
    struct fb_lookup_layer layers[];
};

/* Bytes that a plan needs for look-up; 0 where it must do without: another arithmetic than faithful, maps wider than
 * FB_WIDEST, or constants that do not fit 16 bits. */
int64_t fb_lookup_size(const struct fb_plan *plan);

/* Fill in `block`, of that size, 64-byte aligned: a struct fb_lookup with all that it points to. */
void fb_lookup_prepare(const struct fb_plan *plan, void *block);

#endif
