/* One layer alone, for calibration: codes in, sums and codes out. Part of network.h, for narrow maps only. */

static void FB_T(load_codes)(const struct fb_layer *l, const uint8_t *codes, struct FB_T(workspace) *w)
{
    const int64_t size = l->in_size, channels = l->in_channels, groups = channels / FB_LANES;
    const struct fb_steps steps = fb_steps_of(l->rule);
    FB_T(clear_border)(w->bits[0], size, groups);
    for (int64_t i = 0; i < size * size * channels; i++)
        w->map[0][i] = codes[i];
    for (int64_t y = 0; y < size; y++)
        for (int64_t x = 0; x < size; x++)
            for (int64_t g = 0; g < groups; g++)
                w->bits[0][((y + 1) * (size + 2) + x + 1) * groups + g] =
                    FB_T(pack16)(w->map[0] + (y * size + x) * channels + g * FB_LANES, steps);
}

static void FB_T(layer_sums)(const struct fb_layer *l, struct FB_T(workspace) *w, int32_t *result)
{
    struct fb_tile weights;
    fb_begin_layer(l, w->bits[0], w->triples);
    for (int64_t tile = 0; tile < l->out_channels / FB_LANES; tile++) {
        fb_begin_tile(&weights, l, tile);
        for (int64_t y = 0; y < l->out_size; y++) {
            int32_t *row = result + y * l->out_size * l->out_channels + tile * FB_LANES;
            fb_sums_of_row(l, &weights, w->bits[0], w->triples, tile, y, w->sums);
            for (int64_t x = 0; x < l->out_size; x++)
                memcpy(row + x * l->out_channels, w->sums + x * FB_LANES, FB_LANES * sizeof *row);
        }
    }
}

static int FB_T(one)(const struct fb_layer *l, const uint8_t *codes, int64_t count, int32_t *sums, uint8_t *output)
{
    const int64_t inputs = l->in_size * l->in_size * l->in_channels;
    const int64_t outputs = l->out_size * l->out_size * l->out_channels;
    /* A network without a stem, whose only layer this is: enough for the workspace. */
    const struct fb_plan p = {.image_size = l->in_size,
                              .stem_channels = l->in_channels,
                              .stem_stride = 1,
                              .layer_count = 1,
                              .layers = (int64_t)(intptr_t)l};
    struct FB_T(workspace) w;
    if (FB_T(make_workspace)(&p, &w) < 0)
        return -1;
    for (int64_t n = 0; n < count; n++) {
        FB_T(load_codes)(l, codes + n * inputs, &w);
        if (sums != NULL)
            FB_T(layer_sums)(l, &w, sums + n * outputs);
        if (output == NULL)
            continue;
        FB_T(clear_border)(w.bits[1], l->out_size, l->out_channels / FB_LANES);
        if (l->in_place)
            fb_run_layer_in_place(l, &w, 0);
        else
            FB_T(run_layer)(l, &w, 0, NULL);
        for (int64_t i = 0; i < outputs; i++)
            output[n * outputs + i] = (uint8_t)w.map[1][i];
    }
    return 0;
}
