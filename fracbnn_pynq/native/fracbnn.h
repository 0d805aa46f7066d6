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
    int64_t prepared;  /* what the engine has made of this plan beforehand; 0: nothing */
};

#define FB_POINTER(type, address) ((type *)(intptr_t)(address))

struct fb_team;

/* Run pictures, uint8 [count][size][size][3]: all, or those that `team` leaves to the calling thread (team.h; it may be
 * null). The 256-entry table `levels` gives their thermometer levels. Writes float32 logits [count][classes] and, where
 * `codes` is not null, the last map's low bytes [count][size][size][channels]. Returns 0, or -1 if memory ran out. */
typedef int fb_run(const struct fb_plan *plan, const uint8_t *levels, const uint8_t *pictures, int64_t count,
                   float *logits, uint8_t *codes, struct fb_team *team);

fb_run fb_run_portable, fb_run_popcnt, fb_run_avx2, fb_run_avx512, fb_run_neon;
fb_run fb_run_avx2_lookup; /* plans with look-up data (lookup.h) */

/* Run one layer alone on `count` maps of 4-bit codes, [count][size][size][channels]. Where they are not null, writes
 * the halved sums of every output, `sums` [count][size][size][channels], and its codes, `output`, of the same shape. A
 * "rows" engine leaves out the LSB sum where the gate is closed. Returns as fb_run. */
typedef int fb_one(const struct fb_layer *layer, const uint8_t *codes, int64_t count, int32_t *sums, uint8_t *output);

fb_one fb_one_portable, fb_one_popcnt, fb_one_avx2, fb_one_avx512, fb_one_neon;

struct fb_engine {
    const char *name;
    fb_run *run;
    fb_one *one;
    const char *layout; /* of the weights it reads: "rows" or "lanes" */
    /* Bytes it wants for what it makes of a plan, once, when a model is loaded, and the making of it, in a block that
     * is aligned to 64 bytes; the plan's `prepared` is its address. Null: nothing; size 0: nothing for this plan. */
    int64_t (*prepared_size)(const struct fb_plan *plan);
    void (*prepare)(const struct fb_plan *plan, void *block);
};

/* Engines that this processor can run, best first, ending with a null name. */
const struct fb_engine *fb_engines(void);

/* Samples of a layer's channels, and where to write the parameters that fit them best (fit.c). */
struct fb_fit_layer {
    int64_t samples;       /* per channel */
    int64_t first_samples; /* how many to search on from several starts, before the best is refined on all */
    int64_t positions;  /* of the last layer's map, whose samples are picture by picture; 0: another layer */
    int64_t closed;     /* int16 [channels][samples]: feature number of 2/3 M */
    int64_t open;       /* the same plus 1/3 L */
    int64_t shortcut;   /* int16: its code */
    int64_t target;     /* int16: the wanted code in 1/16; last layer: the wanted value in 1/256 */
    int64_t activation; /* int16: the wanted activation; last layer: unused */
    int64_t starts;     /* int32 [channels][start_count][8]: where to start; the first is what to compare with */
    int64_t start_count, kept, passes; /* at most FB_FIT_STARTS; from how many to search; how often */
    int64_t best;   /* int32 [channels][8] */
    int64_t losses; /* double [channels][2]: of the first start, of the best */
    int64_t affine; /* double [channels][2]; last layer: value per code, and offset */
};

enum { FB_FIT_STARTS = 64 };

/* Fit channels `first` to `stop` - 1. */
typedef void fb_fit(const struct fb_fit_layer *layer, int64_t first, int64_t stop);

fb_fit fb_fit_portable, fb_fit_avx2;

/* The fastest for this processor; all find the same. */
fb_fit *fb_best_fit(void);

/* At least `size` bytes, 64-byte aligned, for the calling thread until its next call; null if there are none. The block
 * is kept for the thread's next picture, because fresh pages cost more than the small network's whole run. */
void *fb_reserve(int64_t size);

/* The picture [edge][edge][3], rows `row_bytes` apart, averaged over equal areas to `result` [size][size][3], rounded half
 * up; 1 <= size <= edge <= 2^24. Returns 0, or -1 if memory ran out. */
int fb_area_mean(const uint8_t *picture, int64_t row_bytes, int64_t edge, int64_t size, uint8_t *result);

enum { FB_SLOTS = 2 };

/* Pictures to become words for an accelerator: each value's entry of a table, colour by colour. */
struct fb_words {
    int64_t pictures; /* uint8 [count][pixels][3] */
    int64_t count, pixels;
    int64_t table; /* [256] of words */
    int64_t word_bytes; /* 4 or 8 */
    int64_t slots; /* at most FB_SLOTS */
    int64_t buffers[FB_SLOTS]; /* words [3][pixels] each */
};

/* Write the words of a picture into a slot's buffer. */
void fb_encode_words(const struct fb_words *plan, int64_t slot, int64_t index);

#endif
