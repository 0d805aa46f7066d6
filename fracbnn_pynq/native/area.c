/* The mean of an area, for pictures that are made smaller. The reference is resizing.py, the integers are the same. */
#include "fracbnn.h"

#include <stdlib.h>
#include <string.h>

enum { FB_COLOURS = 3 };

/* The part of a line that falls to pixel i of a result `size` long: whole elements first..last-1, without `head` of the
 * first one and with `tail` of the one after, in units of 1/size element. */
struct stretch {
    int64_t first, last;
    uint32_t head, tail;
};

static struct stretch stretch_of(int64_t i, int64_t edge, int64_t size)
{
    const int64_t from = i * edge, to = from + edge;
    return (struct stretch){from / size, to / size, (uint32_t)(from % size), (uint32_t)(to % size)};
}

/* sums[x] = the weighted sum of a stretch of rows: at most 255 edge, and unsigned arithmetic wraps on the way. */
static void add_rows(const uint8_t *rows, int64_t row_bytes, const struct stretch *s, uint32_t size, int64_t width,
                     uint32_t *restrict sums)
{
    memset(sums, 0, (size_t)width * sizeof *sums);
    for (int64_t y = s->first; y < s->last; y++) {
        const uint8_t *row = rows + y * row_bytes;
        for (int64_t x = 0; x < width; x++)
            sums[x] += row[x];
    }
    const uint8_t *first = rows + s->first * row_bytes;
    for (int64_t x = 0; x < width; x++)
        sums[x] = sums[x] * size - s->head * first[x];
    if (s->tail == 0) /* the row after the last one need not exist */
        return;
    const uint8_t *after = rows + s->last * row_bytes;
    for (int64_t x = 0; x < width; x++)
        sums[x] += s->tail * after[x];
}

int fb_area_mean(const uint8_t *picture, int64_t row_bytes, int64_t edge, int64_t size, uint8_t *result)
{
    const int64_t width = edge * FB_COLOURS;
    const uint64_t area = (uint64_t)edge * (uint64_t)edge;
    uint32_t *sums = malloc((size_t)width * sizeof *sums);
    if (sums == NULL)
        return -1;
    for (int64_t i = 0; i < size; i++) {
        const struct stretch rows = stretch_of(i, edge, size);
        add_rows(picture, row_bytes, &rows, (uint32_t)size, width, sums);
        for (int64_t j = 0; j < size; j++) {
            const struct stretch columns = stretch_of(j, edge, size);
            const uint32_t *from = sums + columns.first * FB_COLOURS;
            uint64_t total[FB_COLOURS] = {0};
            for (int64_t x = columns.first * FB_COLOURS; x < columns.last * FB_COLOURS; x += FB_COLOURS)
                for (int c = 0; c < FB_COLOURS; c++)
                    total[c] += sums[x + c];
            for (int c = 0; c < FB_COLOURS; c++) {
                total[c] = total[c] * (uint64_t)size - (uint64_t)columns.head * from[c];
                if (columns.tail)
                    total[c] += (uint64_t)columns.tail * sums[columns.last * FB_COLOURS + c];
                *result++ = (uint8_t)((total[c] + area / 2) / area);
            }
        }
    }
    free(sums);
    return 0;
}
