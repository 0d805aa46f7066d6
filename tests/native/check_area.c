/* The native area mean against its definition, on random pictures whose rows lie further apart than they are long.
 *
 * The definition: with every pixel cut into size x size equal parts, a pixel of the result is the mean of the edge x edge
 * parts it covers, rounded half up. Prints a line; exits 1 on a difference.
 */
#include "../../fracbnn_pynq/native/fracbnn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COLOURS = 3, GAP = 5, LARGEST = 61 };

static uint64_t state = 1;

static uint8_t random8(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint8_t)state;
}

static uint8_t defined(const uint8_t *picture, int64_t row_bytes, int64_t edge, int64_t size, int64_t i, int64_t j, int c)
{
    uint64_t sum = 0, parts = (uint64_t)(edge * edge);
    for (int64_t y = i * edge; y < (i + 1) * edge; y++)
        for (int64_t x = j * edge; x < (j + 1) * edge; x++)
            sum += picture[y / size * row_bytes + x / size * COLOURS + c];
    return (uint8_t)((2 * sum + parts) / (2 * parts));
}

/* 1 where a pixel differs. The block ends with the picture's last pixel, so that a sanitizer sees what is read beyond. */
static int differs(int64_t edge, int64_t size, int white)
{
    const int64_t row_bytes = edge * COLOURS + GAP;
    const size_t bytes = (size_t)(row_bytes * (edge - 1) + edge * COLOURS);
    uint8_t *picture = malloc(bytes), *result = malloc((size_t)(size * size * COLOURS));
    if (picture == NULL || result == NULL) {
        fputs("out of memory\n", stderr);
        exit(2);
    }
    for (size_t k = 0; k < bytes; k++)
        picture[k] = white ? 255 : random8();
    int found = fb_area_mean(picture, row_bytes, edge, size, result) != 0;
    for (int64_t k = 0; k < size * size * COLOURS && !found; k++)
        found = result[k] != defined(picture, row_bytes, edge, size, k / COLOURS / size, k / COLOURS % size, k % COLOURS);
    free(picture);
    free(result);
    return found;
}

int main(void)
{
    static const int64_t sizes[] = {1, 7, 16};
    int failures = 0, cases = 0;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (int64_t edge = sizes[s]; edge <= LARGEST; edge++, cases += 2)
            failures += differs(edge, sizes[s], 0) + differs(edge, sizes[s], 1);
    /* The networks' own size, and a sum of more than 32 bits. */
    failures += differs(70, 32, 0) + differs(4200, 1, 1);
    printf("area mean: %d pictures, %d differ\n", cases + 2, failures);
    return failures > 0;
}
