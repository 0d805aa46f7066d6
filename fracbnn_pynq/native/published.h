/* The published cores' arithmetic for one lane; the reference is published.py, the names are the same.
 *
 * One macro makes the functions of one core: its number type (wide enough for every product) and clamp, the fraction
 * bits of its feature (f) and parameter (w) formats, and the largest raw feature number. A left shift is written as a
 * multiplication, because shifting a negative number is undefined in C.
 */
#ifndef FRACBNN_PUBLISHED_H
#define FRACBNN_PUBLISHED_H

#include "lanes.h"

#define FB_RND(num, value, bits) (((value) + ((num)1 << ((bits)-1))) >> (bits))

#define FB_DEFINE_CORE(core, num, clamp, f, w, high)                                                  \
    static inline num core##_saturate(num value)                                                      \
    {                                                                                                 \
        return clamp(value, -(high)-1, high);                                                         \
    }                                                                                                 \
    static inline num core##_batch_norm(num value, num weight, num bias)                              \
    {                                                                                                 \
        return core##_saturate(FB_RND(num, weight *value + bias * ((num)1 << (f)), w));               \
    }                                                                                                 \
    static inline num core##_shift(num value, num offset)                                             \
    {                                                                                                 \
        return core##_saturate(FB_RND(num, value * ((num)1 << ((w) - (f))) + offset, (w) - (f)));     \
    }                                                                                                 \
    static inline num core##_rprelu(num value, num shift_x, num slope, num shift_y)                   \
    {                                                                                                 \
        value = core##_shift(value, shift_x);                                                         \
        num negative = core##_saturate(FB_RND(num, value * slope, w));                                \
        return core##_shift(value < 0 ? negative : value, shift_y);                                   \
    }                                                                                                 \
    /* 2/3 of an integer sum; `two_thirds` has w fraction bits */                                     \
    static inline num core##_scaled_sum(num sum, num two_thirds)                                      \
    {                                                                                                 \
        return core##_saturate(FB_RND(num, core##_saturate(sum * ((num)1 << (f))) * two_thirds, w));  \
    }                                                                                                 \
    /* CIFAR-10 cores: add 1/3 of the saturated LSB sum */                                            \
    static inline num core##_add_third(num value, num sum, num third)                                 \
    {                                                                                                 \
        num added = core##_saturate(sum * ((num)1 << (f))) * third;                                   \
        return core##_saturate(FB_RND(num, value * ((num)1 << (w)) + added, w));                      \
    }                                                                                                 \
    static inline num core##_mean_of_four(num a, num b, num c, num d)                                 \
    {                                                                                                 \
        num total = core##_saturate(core##_saturate(core##_saturate(a + b) + c) + d);                 \
        return total / 4; /* C truncates toward zero, as the cores do */                              \
    }

FB_DEFINE_CORE(cifar10_2021, int32_t, fb_clamp32, 7, 8, 32767)
FB_DEFINE_CORE(cifar10_2020, int64_t, fb_clamp64, 15, 16, 8388607)
FB_DEFINE_CORE(imagenet_2021, int32_t, fb_clamp32, 4, 8, 4095)

enum { FB_CODE_STEP = 34 }; /* 2/15 with 8 fraction bits */

/* The ImageNet core: 4-bit code of a feature number, ties down. */
static inline int32_t imagenet_2021_code(int32_t raw)
{
    return fb_clamp32(((raw + 16) * 30 + 31) >> 6, 0, 15);
}

/* The ImageNet core: feature number of a code, and the code of the mean of four. */
static inline int32_t imagenet_2021_decode(int32_t code)
{
    return imagenet_2021_saturate(FB_RND(int32_t, code * FB_CODE_STEP - 256, 4));
}

static inline int32_t imagenet_2021_pool(int32_t a, int32_t b, int32_t c, int32_t d)
{
    return imagenet_2021_code(imagenet_2021_mean_of_four(imagenet_2021_decode(a), imagenet_2021_decode(b),
                                                         imagenet_2021_decode(c), imagenet_2021_decode(d)));
}

#endif
