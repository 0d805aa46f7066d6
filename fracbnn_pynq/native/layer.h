/* A gated layer: its pooled shortcut, its tiles row by row, and the one that overwrites its own shortcut. Part of
 * network.h.
 */

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

enum { FB_T(PIECE_ROWS) = 28 };

/* What a layer's pieces of work share. */
struct FB_T(layer) {
    const struct fb_layer *layer;
    const FB_MAP *shortcut;
    const uint32_t *bits, *triples;
    FB_MAP *map;
    uint32_t *next;
};

/* Some rows of a tile. */
static void FB_T(layer_piece)(void *context, int64_t piece)
{
    const struct FB_T(layer) *w = context;
    const struct fb_layer *l = w->layer;
    const int64_t tiles = l->out_channels / FB_LANES, tile = piece % tiles;
    const int64_t first_row = piece / tiles * FB_T(PIECE_ROWS);
    const int64_t end = first_row + FB_T(PIECE_ROWS), stop = end < l->out_size ? end : l->out_size;
    int32_t sums[l->out_size * FB_LANES];
    struct fb_tile weights;
    struct fb_constants constants;
    fb_begin_tile(&weights, l, tile);
    if (l->rule == FB_FAITHFUL_MAP || l->rule == FB_FAITHFUL_CODES)
        fb_load_constants(&constants, FB_POINTER(const int32_t, l->table) + tile * FB_LANES, l->out_channels);
    int64_t first = tile * FB_LANES % l->in_channels; /* the shortcut's channels repeat where a layer adds some */
    for (int64_t y = first_row; y < stop; y++) {
        struct FB_T(row) row = FB_T(row_of)(l, tile, y, w->map, w->next);
        row.shortcut = w->shortcut + y * l->out_size * l->in_channels + first;
        row.shortcut_stride = l->in_channels;
        fb_sums_of_row(l, &weights, w->bits, w->triples, tile, y, sums);
        FB_T(finish_row)(l, tile, &constants, sums, &row);
    }
}

static void FB_T(run_layer)(const struct fb_layer *l, struct FB_T(workspace) *w, int from, struct fb_team *team)
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
    fb_begin_layer(l, w->bits[from], w->triples);
    struct FB_T(layer) shared = {l, shortcut, w->bits[from], w->triples, w->map[!from], w->bits[!from]};
    const int64_t parts = (l->out_size + FB_T(PIECE_ROWS) - 1) / FB_T(PIECE_ROWS);
    fb_share(team, l->out_channels / FB_LANES * parts, FB_T(layer_piece), &shared);
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
