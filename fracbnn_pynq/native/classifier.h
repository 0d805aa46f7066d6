/* The last map to logits: the CIFAR-10 cores; linear.h has the others. Part of network.h. */

/* The CIFAR-10 cores' classifier: mean in <32,10>, then a sum that is rounded and saturated at every step. */
#ifdef FB_WIDE
#define FB_CORE_FRACTION 15
#define FB_CORE_SATURATE cifar10_2020_saturate
#else
#define FB_CORE_FRACTION 7
#define FB_CORE_SATURATE cifar10_2021_saturate
#endif

static void FB_T(classify_core)(const struct fb_plan *p, const struct fb_layer *last, const FB_MAP *map, float *logits)
{
    enum { FRACTION = 22, FINER = FRACTION - FB_CORE_FRACTION };
    const int64_t features = last->out_channels, positions = last->out_size * last->out_size;
    const int32_t *weight = FB_POINTER(const int32_t, p->fc_weight), *bias = FB_POINTER(const int32_t, p->fc_bias);
    int64_t mean[FB_CORE_FEATURES];
    for (int64_t c = 0; c < features; c++) {
        int64_t total = 0;
        for (int64_t i = 0; i < positions; i++)
            total = fb_clamp64(total + map[i * features + c] * ((int64_t)1 << FINER), INT32_MIN, INT32_MAX);
        mean[c] = FB_CORE_SATURATE((FB_MAP)FB_RND(int64_t, total / positions, FINER));
    }
    for (int64_t k = 0; k < p->classes; k++) {
        int64_t sum = bias[k];
        for (int64_t c = 0; c < features; c++) {
            int64_t product = sum * ((int64_t)1 << FB_CORE_FRACTION) + mean[c] * weight[k * features + c];
            int64_t rounded = FB_RND(int64_t, product, FB_CORE_FRACTION);
            sum = fb_clamp64(rounded, FB_CORE_SATURATE(INT32_MIN), FB_CORE_SATURATE(INT32_MAX));
        }
        logits[k] = (float)((double)sum / ((int64_t)1 << FB_CORE_FRACTION));
    }
}

#undef FB_CORE_FRACTION
#undef FB_CORE_SATURATE
