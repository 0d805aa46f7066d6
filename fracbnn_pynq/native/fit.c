/* Parameters for one channel of the ImageNet core, by coordinate search on samples: what calibration/ fits a layer with.
 *
 * A channel has eight parameters (rows of LAYER_PARAMETERS, raw numbers with 8 fraction bits). From the best of its
 * starts the search walks along single parameters and along four combinations that leave the output roughly where it
 * is, in halving steps, and keeps what lowers the loss. Losses are made of exact integer sums, so that every processor
 * finds the same parameters. The twin in NumPy is tests/calibration_twin.py.
 */
#define FB_OWN_FAITHFUL /* not needed here */
#include "published.h"

#include <stddef.h>

enum { THRESHOLD, WEIGHT1, BIAS1, SHIFT_X, SLOPE, SHIFT_Y, WEIGHT2, BIAS2, PARAMETERS };
enum { LOWEST = -8192, HIGHEST = 8191 }; /* <14,6> */
enum {
    BLOCK = 4096,           /* samples whose losses fit 32 bits together */
    CODE_UNIT = 16,         /* targets are in sixteenths of a code */
    ACTIVATION_COST = 3840, /* 3.75 squared codes for an activation that is off by one, in the loss's unit of 1/1024 */
    SHIFT_STEP = 16,        /* the core rounds shifts to feature numbers */
};

/* One channel's samples. */
struct samples {
    const struct fb_fit_layer *layer;
    int64_t count; /* how many to look at, from the first */
    const int16_t *closed, *open, *shortcut, *target, *activation;
    int64_t closed_sum;
};

typedef double loss_function(const struct samples *s, const int32_t *p, double *scale, double *offset);

static inline int32_t code_of(int32_t closed, int32_t open, int32_t shortcut, const int32_t *p)
{
    /* Not a choice between the two: a load that depends on a condition keeps compilers from vectorising. */
    int32_t v = closed + ((open - closed) & -(closed * 16 > p[THRESHOLD]));
    v = imagenet_2021_batch_norm(v, p[WEIGHT1], p[BIAS1]);
    v = imagenet_2021_rprelu(v, p[SHIFT_X], p[SLOPE], p[SHIFT_Y]);
    v = imagenet_2021_shift(v, shortcut * FB_CODE_STEP - 256);
    return imagenet_2021_code(imagenet_2021_batch_norm(v, p[WEIGHT2], p[BIAS2]));
}

/* Sum over the samples of 1024 (code - target)^2 + 3840 (activation - target's)^2, codes counted in whole ones. */
static double code_loss(const struct samples *s, const int32_t *given, double *scale, double *offset)
{
    const int16_t *restrict closed = s->closed, *restrict open = s->open, *restrict shortcut = s->shortcut;
    const int16_t *restrict target = s->target, *restrict wanted = s->activation;
    int32_t p[PARAMETERS];
    int64_t total = 0;
    (void)scale, (void)offset;
    memcpy(p, given, sizeof p);
    for (int64_t start = 0; start < s->count; start += BLOCK) {
        const int64_t stop = start + BLOCK < s->count ? start + BLOCK : s->count;
        int32_t part = 0;
        for (int64_t i = start; i < stop; i++) {
            const int32_t code = code_of(closed[i], open[i], shortcut[i], p);
            const int32_t activation = (code >= 3) + (code >= 8) + (code >= 13);
            const int32_t error = CODE_UNIT * code - target[i], other = activation - wanted[i];
            part += 4 * error * error + ACTIVATION_COST * other * other;
        }
        total += part;
    }
    return (double)total;
}

/* The last layer: `target` is the real value in 1/256, and what counts is its mean over a picture's positions after an
 * affine map of the codes' mean, the least squares one, which is written to `scale` (per code) and `offset`. Single
 * positions count as well, with a small share, so that few pictures suffice. */
static double pooled_loss(const struct samples *s, const int32_t *given, double *scale, double *offset)
{
    const int16_t *restrict closed = s->closed, *restrict open = s->open, *restrict shortcut = s->shortcut;
    const int16_t *restrict value = s->target;
    const int64_t positions = s->layer->positions, pictures = s->count / positions;
    int64_t codes = 0, squares = 0, mixed = 0, pooled_squares = 0, pooled_mixed = 0;
    int64_t targets = 0, target_squares = 0, pooled_target_squares = 0;
    int32_t p[PARAMETERS];
    memcpy(p, given, sizeof p);
    for (int64_t picture = 0; picture < pictures; picture++) {
        int32_t sum = 0, square = 0, product = 0, target = 0;
        int64_t target_square = 0;
        for (int64_t i = picture * positions; i < (picture + 1) * positions; i++) {
            const int32_t code = code_of(closed[i], open[i], shortcut[i], p);
            sum += code;
            square += code * code;
            product += code * value[i];
            target += value[i];
            target_square += value[i] * value[i];
        }
        codes += sum, squares += square, mixed += product, targets += target, target_squares += target_square;
        pooled_squares += (int64_t)sum * sum;
        pooled_mixed += (int64_t)sum * target;
        pooled_target_squares += (int64_t)target * target;
    }
    const double n = (double)(pictures * positions), area = (double)positions;
    const double mean = (double)codes / n, wanted = (double)targets / n;
    const double variance = (double)pooled_squares / n / area - mean * mean;
    const double covariance = (double)pooled_mixed / n / area - mean * wanted;
    const double spread = (double)pooled_target_squares / n / area - wanted * wanted;
    const double slope = variance > 0 ? covariance / variance : 0;
    const double own_variance = (double)squares / n - mean * mean, own_covariance = (double)mixed / n - mean * wanted;
    const double own_spread = (double)target_squares / n - wanted * wanted;
    *scale = slope;
    *offset = wanted - slope * mean;
    return spread - slope * covariance + (own_spread - 2 * slope * own_covariance + slope * slope * own_variance) / area;
}

static int32_t limited(int64_t value)
{
    return (int32_t)fb_clamp64(value, LOWEST, HIGHEST);
}

/* value / divisor, rounded to nearest, ties up; divisor not zero. */
static int64_t quotient(int64_t value, int64_t divisor)
{
    if (divisor < 0)
        value = -value, divisor = -divisor;
    value = 2 * value + divisor, divisor *= 2;
    return value / divisor - (value % divisor < 0);
}

/* Directions of the search: the single parameters, then combinations. */
enum { STEEPER = PARAMETERS, STRONGER, SHIFTED, RAISED, DIRECTIONS };
static const int first_steps[DIRECTIONS] = {64, 2, 64, 64, 32, 64, 32, 64, 2, 8, 8, 8};

/* The parameters `amount` further in a direction; 0 where they would not change or the direction means nothing. */
static int moved(const struct samples *s, const int32_t *p, int direction, int amount, int32_t *result)
{
    memcpy(result, p, PARAMETERS * sizeof *p);
    switch (direction) {
    case STEEPER: /* the first batch norm's weight, the output kept at the mean sum and on the negative side */
        result[WEIGHT1] = limited(p[WEIGHT1] + amount);
        if (result[WEIGHT1] == 0)
            return 0;
        result[BIAS1] = limited(p[BIAS1] - quotient(amount * s->closed_sum, 16 * s->count));
        result[SLOPE] = limited(quotient((int64_t)p[SLOPE] * p[WEIGHT1], result[WEIGHT1]));
        break;
    case STRONGER: /* the second batch norm's weight, the value that becomes zero kept */
        if (p[WEIGHT2] == 0)
            return 0;
        result[WEIGHT2] = limited(p[WEIGHT2] + amount);
        result[BIAS2] = limited(quotient((int64_t)p[BIAS2] * result[WEIGHT2], p[WEIGHT2]));
        break;
    case SHIFTED: /* the knee, the positive side kept */
        result[SHIFT_X] = limited(p[SHIFT_X] + SHIFT_STEP * amount);
        result[SHIFT_Y] = limited(p[SHIFT_Y] - SHIFT_STEP * amount);
        break;
    case RAISED: /* the same in finer steps */
        result[BIAS1] = limited(p[BIAS1] + 4 * amount);
        result[SHIFT_Y] = limited(p[SHIFT_Y] - 4 * amount);
        break;
    default:
        result[direction] = limited(p[direction] + amount);
    }
    return memcmp(result, p, PARAMETERS * sizeof *p) != 0;
}

/* A gain that counts: losses are sums of thousands of samples, and crumbs are not worth a step. */
static int better(double found, double best)
{
    return found < best - best * (1.0 / (1 << 17));
}

/* Walk from `p` until nothing gains or `passes` are over; returns the loss. */
static double descend(const struct samples *s, loss_function *loss, double best, int32_t *p)
{
    int steps[DIRECTIONS];
    double scale, offset;
    memcpy(steps, first_steps, sizeof steps);
    for (int64_t pass = 0; pass < s->layer->passes; pass++) {
        const double before = best;
        for (int direction = 0; direction < DIRECTIONS; direction++) {
            const int shift = direction == SHIFT_X || direction == SHIFT_Y, least = shift ? SHIFT_STEP : 1;
            for (int step = steps[direction]; step >= least; step /= 2)
                for (int sign = -1; sign <= 1; sign += 2)
                    for (;;) {
                        int32_t next[PARAMETERS];
                        if (!moved(s, p, direction, sign * step, next))
                            break;
                        const double found = loss(s, next, &scale, &offset);
                        if (!better(found, best))
                            break;
                        best = found;
                        memcpy(p, next, sizeof next);
                    }
            if (direction < PARAMETERS) /* later passes start with smaller steps */
                steps[direction] = steps[direction] / 4 > least ? steps[direction] / 4 : least;
        }
        if (before - best < before / 1024)
            break;
    }
    return best;
}

/* Look at the first `count` samples only. */
static void look_at(struct samples *s, int64_t count)
{
    s->count = count;
    s->closed_sum = 0;
    for (int64_t i = 0; i < count; i++)
        s->closed_sum += s->closed[i];
}

/* The best end of walks from the `kept` best starts, into `best`. */
static void explore(const struct samples *s, loss_function *loss, const int32_t *starts, int32_t *best)
{
    const struct fb_fit_layer *l = s->layer;
    double found[FB_FIT_STARTS], scale, offset, least = 0;
    int walked[FB_FIT_STARTS] = {0};
    for (int64_t k = 0; k < l->start_count; k++)
        found[k] = loss(s, starts + k * PARAMETERS, &scale, &offset);
    for (int64_t rank = 0; rank < l->kept && rank < l->start_count; rank++) {
        int64_t k = -1;
        int32_t p[PARAMETERS];
        for (int64_t j = 0; j < l->start_count; j++)
            if (!walked[j] && (k < 0 || found[j] < found[k]))
                k = j;
        memcpy(p, starts + k * PARAMETERS, sizeof p);
        walked[k] = 1;
        const double reached = descend(s, loss, found[k], p);
        if (rank == 0 || reached < least) {
            least = reached;
            memcpy(best, p, sizeof p);
        }
    }
}

static void fit_channel(const struct fb_fit_layer *l, int64_t channel)
{
    const int64_t at = channel * l->samples;
    struct samples s = {l,
                        0,
                        FB_POINTER(const int16_t, l->closed) + at,
                        FB_POINTER(const int16_t, l->open) + at,
                        FB_POINTER(const int16_t, l->shortcut) + at,
                        FB_POINTER(const int16_t, l->target) + at,
                        l->positions ? NULL : FB_POINTER(const int16_t, l->activation) + at,
                        0};
    loss_function *loss = l->positions ? pooled_loss : code_loss;
    const int32_t *starts = FB_POINTER(const int32_t, l->starts) + channel * l->start_count * PARAMETERS;
    int32_t *best = FB_POINTER(int32_t, l->best) + channel * PARAMETERS;
    double *losses = FB_POINTER(double, l->losses) + 2 * channel, *affine = FB_POINTER(double, l->affine) + 2 * channel;
    look_at(&s, l->first_samples);
    explore(&s, loss, starts, best);
    look_at(&s, l->samples);
    losses[0] = loss(&s, starts, &affine[0], &affine[1]);
    losses[1] = loss(&s, best, &affine[0], &affine[1]);
    if (l->first_samples < l->samples)
        losses[1] = descend(&s, loss, losses[1], best);
    if (losses[0] < losses[1]) { /* few samples misled the search */
        losses[1] = losses[0];
        memcpy(best, starts, PARAMETERS * sizeof *best);
    }
    loss(&s, best, &affine[0], &affine[1]);
}

#ifndef FB_FIT /* x86_avx2_fit.c includes this file under another name */
#define FB_FIT fb_fit_portable
#endif

void FB_FIT(const struct fb_fit_layer *layer, int64_t first, int64_t stop)
{
    for (int64_t channel = first; channel < stop; channel++)
        fit_channel(layer, channel);
}
