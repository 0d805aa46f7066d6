/* The index maps and the shortcut of a layer with stride 2. Part of lookup_walk.h. */
#include "lookup_kernel.h"

/* A layer with stride 2 reads four maps, by odd row and odd column, in its output's geometry. This is one plane of four
 * channels where a row group is a row in both geometries. What lies outside the map in the input does in the output. */
static void fb_halve_single_rows(const struct fb_geometry *in, const struct fb_geometry *out, const uint8_t *from,
                                 uint8_t *to)
{
    for (int64_t y = 0; y < in->size; y++) {
        const uint8_t *row = from + fb_index_at(in, 0, y);
        uint8_t *even = to + y % 2 * 2 * out->parity + fb_index_at(out, 0, y / 2);
        for (int64_t x = 0; x < out->size; x += 16) {
            uint8_t columns[FB_VECTOR_PIXELS];
            fb_store(columns, fb_split_columns(fb_load(row + 2 * x)));
            memcpy(even + x, columns, 16);
            memcpy(even + out->parity + x, columns + 16, 16);
        }
    }
}

/* The same, pixel by pixel, where a row group has four rows in both. */
static void fb_halve_rows(const struct fb_geometry *in, const struct fb_geometry *out, const uint8_t *from, uint8_t *to)
{
    const int64_t rows = 4;
    for (int64_t y = 0; y < in->size; y++) {
        const uint8_t *row = from + fb_index_at(in, 0, y);
        uint8_t *even = to + y % 2 * 2 * out->parity + fb_index_at(out, 0, y / 2), *odd = even + out->parity;
        for (int64_t x = 0; x < out->size; x++) {
            even[x * rows] = row[2 * x * rows];
            odd[x * rows] = row[(2 * x + 1) * rows];
        }
        if (y / 2 % out->groups == out->groups - 1 && y / 2 / out->groups + 1 < rows) /* also above the first group */
            for (int64_t x = 0; x < out->size; x++) {
                const int64_t above = x * rows - out->groups * 2 * out->slot + 1;
                even[above] = row[2 * x * rows];
                odd[above] = row[(2 * x + 1) * rows];
            }
    }
}

/* The same, vector by vector, where a row group has twice as many rows in the output's geometry: a vector of the input
 * has two pixels' bytes where one of the output has one pixel's, row for row. */
FB_INLINE void fb_halve_vectors(const struct fb_geometry *in, const struct fb_geometry *out, const uint8_t *from,
                                uint8_t *to, const int rows)
{
    for (int64_t group = -1; group < out->groups; group++)
        for (int parity = 0; parity < 4; parity++) {
            fb_bytes pixels = {0};
            FB_UNROLL(f, 2 * rows)
            {
                const int64_t y = 2 * (group + f * out->groups) + parity / 2;
                fb_bytes row = (fb_bytes){0} + FB_OUTSIDE;
                int shift = 0;
                if (y >= 0 && y < in->size) {
                    row = fb_load(from + (y % in->groups + 1) * 2 * in->slot + FB_EDGE);
                    shift = 8 * (int)(parity % 2 * rows + y / in->groups);
                }
                if (rows == 1)
                    pixels |= (fb_bytes)(((fb_unsigned)row >> shift & 0xff) << 8 * f);
                else
                    pixels |= (fb_bytes)(((fb_words)row >> shift & 0xff) << 8 * f);
            }
            fb_store(to + parity * out->parity + (group + 1) * 2 * out->slot + FB_EDGE, pixels);
        }
}

static void fb_halve_index(const struct fb_lookup_layer *l, const uint8_t *from, uint8_t *to)
{
    const struct fb_geometry *in = &l->in, *out = &l->out;
    for (int64_t plane = 0; plane < 2; plane++, from += in->slot, to += out->slot)
        if (in->rows == 1 && out->rows == 1)
            fb_halve_single_rows(in, out, from, to);
        else if (in->rows == 1)
            fb_halve_vectors(in, out, from, to, 1);
        else if (in->rows == 2)
            fb_halve_vectors(in, out, from, to, 2);
        else
            fb_halve_rows(in, out, from, to);
}

/* Sums of the 2x2 values of rows y and y + 1 of a channel. */
FB_INLINE void fb_sum_pairs(const struct fb_geometry *g, const int16_t *map, int64_t y, const int rows,
                            int32_t *restrict sums)
{
    const int16_t *upper = map + fb_value_at(g, 0, y), *lower = map + fb_value_at(g, 0, y + 1);
    if (rows > 1) { /* a pixel's bytes, even and odd, are as far from the next one's as half its rows */
        for (int64_t x = 0; x < g->size / 2; x++)
            sums[x] = upper[x * rows] + upper[x * rows + rows / 2] + lower[x * rows] + lower[x * rows + rows / 2];
        return;
    }
    const int64_t next = g->groups * FB_VECTOR_PIXELS; /* a vector's halves are the even and the odd columns */
    for (int64_t x = 0; x < g->size / 2; x += 16, upper += next, lower += next)
        for (int64_t i = 0; i < 16; i++)
            sums[x + i] = upper[i] + upper[i + 16] + lower[i] + lower[i + 16];
}

/* A row of a channel from sums of four codes, or as means of four values. */
FB_INLINE void fb_put_pooled(const struct fb_geometry *g, int16_t *map, int64_t y, const int rows, const int codes,
                             const int32_t *restrict sums)
{
    int16_t *row = map + fb_value_at(g, 0, y);
    if (rows > 1)
        for (int64_t x = 0; x < g->size; x++)
            row[x * (rows / 2)] = (int16_t)(codes ? sums[x] : (sums[x] + 2) >> 2);
    else
        for (int64_t x = 0; x < g->size; x += FB_VECTOR_PIXELS, row += g->groups * FB_VECTOR_PIXELS)
            for (int64_t i = 0; i < FB_VECTOR_PIXELS; i++) {
                const int32_t sum = sums[x + i % 16 * 2 + i / 16];
                row[i] = (int16_t)(codes ? sum : (sum + 2) >> 2);
            }
}

/* The shortcut of a layer with stride 2, four channels; from and to how many rows in a row group. */
FB_INLINE void fb_halve_rows_of_map(const struct fb_lookup_layer *l, const int codes, const int16_t *from, int16_t *to,
                                    const int in_rows, const int out_rows)
{
    int32_t sums[FB_WIDEST] = {0}; /* a vector's last pixels may lie outside the map */
    for (int64_t c = 0; c < FB_NIBBLE; c++, from += fb_channel_values(&l->in), to += fb_channel_values(&l->out))
        for (int64_t y = 0; y < l->out.size; y++) {
            fb_sum_pairs(&l->in, from, 2 * y, in_rows, sums);
            fb_put_pooled(&l->out, to, y, out_rows, codes, sums);
        }
}

static void fb_halve_map(const struct fb_lookup_layer *l, int codes, const int16_t *from, int16_t *to)
{
    if (l->in.rows == 1 && l->out.rows == 1)
        fb_halve_rows_of_map(l, codes, from, to, 1, 1);
    else if (l->in.rows == 1)
        fb_halve_rows_of_map(l, codes, from, to, 1, 2);
    else if (l->in.rows == 2)
        fb_halve_rows_of_map(l, codes, from, to, 2, 4);
    else
        fb_halve_rows_of_map(l, codes, from, to, 4, 4);
}
