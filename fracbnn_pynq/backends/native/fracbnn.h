/* The plan of a network, as Python hands it over, and the engines that run it.
 *
 * Every field is an int64, so that a plan is a plain array of 64-bit words on the Python side (plan.py); pointers are
 * addresses of arrays that Python keeps alive and has checked.
 *
 * Activations travel as one 32-bit word per pixel and group of 16 channels: most significant bits in the high half,
 * least significant bits in the low half, bit c of a half is channel c of the group. A map of them is
 * [size + 2][size + 2][groups], its border zero.
 *
 * Convolution sums are kept halved (they are always even): a 32-bit lane holds M/2 in its high and L/2 in its low
 * half. `start` is the sum with nothing subtracted; every popcount of activation xor weight is subtracted from it.
 */
#ifndef FRACBNN_H
#define FRACBNN_H

#include <stdint.h>

enum {
    FB_LANES = 16,
    FB_LEVELS = 34,        /* 0..32 and one for the border, which adds nothing */
    FB_CORE_FEATURES = 64, /* inputs of the CIFAR-10 cores' classifier */
};

/* How a layer's sums become its output. */
enum fb_rule {
    FB_FAITHFUL_MAP,   /* faithful, 16-bit map values */
    FB_FAITHFUL_CODES, /* faithful, 4-bit codes */
    FB_CIFAR10_2021,
    FB_CIFAR10_2020, /* the one arithmetic whose maps need more than 16 bits */
    FB_IMAGENET_2021,
};

/* Rows of a layer's table, int32 [8][out channels]; the first in every arithmetic is the smallest M that opens the
 * gate. The stem's table has the same rows where the layer is faithful, else the two batch norm rows first. */
enum { FB_GATE_AT, FB_KNEE, FB_ALPHA0, FB_ALPHA1, FB_GAMMA, FB_BETA0, FB_BETA1, FB_SHIFT };
enum { FB_BN1_WEIGHT = 1, FB_BN1_BIAS, FB_SHIFT_X, FB_SLOPE, FB_SHIFT_Y, FB_BN2_WEIGHT, FB_BN2_BIAS };

struct fb_layer {
    int64_t in_channels, out_channels, in_size, out_size, kernel, stride; /* channels: multiples of 16, up to 1024 */
    int64_t rule;
    int64_t codes_in;  /* the input map holds 4-bit codes */
    int64_t sum_bits;  /* sums wrap to this many bits; 0: exact */
    int64_t tile_wrap; /* a full match of a 32-channel tile counts as none (1x1 of the ImageNet core) */
    int64_t in_place;  /* the output overwrites part of the shortcut (block 12 of the ImageNet core) */
    int64_t weights;   /* lanes: uint32 [out/16][k][k][groups][16], the 16 weight bits in both halves;
                          rows: uint64 [out][words], the bits of (k, k, channel) end to end */
    int64_t start;     /* int32 [3][3][out]: by vertical and horizontal border class, M/2 and L/2 */
    int64_t table;     /* int32 [8][out] */
};

struct fb_plan {
    int64_t image_size;
    int64_t stem_channels; /* 16 or 32 */
    int64_t stem_stride, stem_rule, stem_sum_bits;
    int64_t stem_lookup; /* int8 [27][34][channels]: what (tap, colour) adds to a sum at each level; last: nothing */
    int64_t stem_table;  /* int32 [8][channels] */
    int64_t layer_count;
    int64_t layers; /* struct fb_layer [layer_count] */
    int64_t classes;
    int64_t fc_weight; /* int16 [classes][features]; CIFAR-10 cores: int32, raw feature-format numbers */
    int64_t fc_bias;   /* double [classes]; CIFAR-10 cores: int32, raw */
    /* All but the CIFAR-10 cores: logit = (fc_scale * sum(weight * sum of map) + offset) * step / divisor + bias. */
    int64_t fc_scale, fc_divisor;
    int64_t fc_offset; /* int64 [classes] */
    int64_t fc_step;   /* double [classes], powers of two */
};

#define FB_POINTER(type, address) ((type *)(intptr_t)(address))

/* Run `count` pictures, uint8 [count][size][size][3]; the 256-entry table `levels` gives their thermometer levels.
 * Writes float32 logits [count][classes] and, where `codes` is not null, the last map's low bytes
 * [count][size][size][channels]. Returns 0, or -1 if memory ran out. */
typedef int fb_run(const struct fb_plan *plan, const uint8_t *levels, const uint8_t *pictures, int64_t count,
                   float *logits, uint8_t *codes);

fb_run fb_run_portable, fb_run_popcnt, fb_run_avx2, fb_run_avx512, fb_run_neon;

struct fb_engine {
    const char *name;
    fb_run *run;
    const char *layout; /* of the weights it reads: "rows" or "lanes" */
};

/* Engines that this processor can run, best first, ending with a null name. */
const struct fb_engine *fb_engines(void);

/* At least `size` bytes, 64-byte aligned, for the calling thread until its next call; null if there are none. The block
 * is kept for the thread's next picture, because fresh pages cost more than the small network's whole run. */
void *fb_reserve(int64_t size);

/* The picture [edge][edge][3], rows `row_bytes` apart, averaged over equal areas to `result` [size][size][3], rounded half
 * up; 1 <= size <= edge <= 2^24. Returns 0, or -1 if memory ran out. */
int fb_area_mean(const uint8_t *picture, int64_t row_bytes, int64_t edge, int64_t size, uint8_t *result);

#endif
