/* Every engine of this processor, with a helping thread, against the portable one, bit for bit, on random networks.
 *
 * Plans are made here rather than in Python, so that the engines of another processor can be checked under an emulator.
 * Weights, tables and pictures are random; the networks are small, and between them have every rule, kernel, stride,
 * number of channel groups and remainder of a row's width that the engines treat differently.
 *
 * Prints a line per network and engine; exits 1 on a difference.
 */
#include "../../fracbnn_pynq/native/lookup.h"
#include "../../fracbnn_pynq/native/team.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LAYERS = 8, CLASSES = 7, PICTURES = 2, TABLE_ROWS = 8, BORDER_CLASSES = 9, IMAGENET_SUM_BITS = 10 };

struct shape {
    int out_channels, kernel, stride, in_place;
};

struct network {
    const char *name;
    int image_size, stem_channels, stem_stride;
    enum fb_rule rule;
    struct shape layers[MOST_LAYERS]; /* ends with a layer of no channels */
};

#define CIFAR10_LIKE {{16, 3, 1, 0}, {16, 3, 1, 0}, {32, 3, 2, 0}, {32, 3, 1, 0}, {64, 3, 2, 0}, {64, 3, 1, 0}, {0}}
#define IMAGENET_LIKE \
    {{32, 3, 1, 0}, {64, 1, 1, 0}, {64, 3, 2, 0}, {128, 1, 1, 0}, {128, 3, 2, 0}, {256, 1, 1, 0}, {0}}
#define ODD_LIKE {{48, 1, 1, 0}, {48, 3, 2, 0}, {48, 3, 1, 0}, {96, 3, 2, 0}, {0}}

static const struct network networks[] = {
    {"faithful, CIFAR-10 like", 32, 16, 1, FB_FAITHFUL_MAP, CIFAR10_LIKE},
    {"faithful, odd widths", 20, 16, 1, FB_FAITHFUL_MAP, ODD_LIKE},
    {"faithful, widths of 4 and 6", 24, 16, 2, FB_FAITHFUL_MAP, {{16, 3, 1, 0}, {128, 3, 2, 0}, {128, 3, 1, 0}, {0}}},
    {"faithful, 4-bit codes", 56, 32, 2, FB_FAITHFUL_CODES, IMAGENET_LIKE},
    {"faithful, 4-bit codes, widths of 8", 32, 32, 2, FB_FAITHFUL_CODES, IMAGENET_LIKE},
    {"cifar10-2021", 32, 16, 1, FB_CIFAR10_2021, CIFAR10_LIKE},
    {"cifar10-2020", 32, 16, 1, FB_CIFAR10_2020, CIFAR10_LIKE},
    {"imagenet-2021", 56, 32, 2, FB_IMAGENET_2021, IMAGENET_LIKE},
    {"imagenet-2021, in place", 28, 32, 2, FB_IMAGENET_2021, {{512, 1, 1, 0}, {512, 3, 2, 1}, {0}}},
};

fb_run run_lookup_portable; /* lookup_portable.c */

static uint64_t state = 1;

static uint64_t random64(void)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state;
}

static int32_t between(int32_t low, int32_t high)
{
    return low + (int32_t)(random64() % (uint64_t)((int64_t)high - low + 1));
}

/* Zeroed, 64-byte aligned as the engines expect. The program ends before memory matters. */
static void *block(size_t size)
{
    void *memory = aligned_alloc(64, (size + 63) & ~(size_t)63);
    if (memory == NULL) {
        fputs("out of memory\n", stderr);
        exit(2);
    }
    return memset(memory, 0, size);
}

static int64_t address(const void *memory)
{
    return (int64_t)(intptr_t)memory;
}

static int is_faithful(enum fb_rule rule)
{
    return rule == FB_FAITHFUL_MAP || rule == FB_FAITHFUL_CODES;
}

/* The faithful table's rows, so that the outputs of sums of about `products` products spread over their range. */
static void fill_faithful(int32_t *table, int64_t n, int codes, int64_t products)
{
    int shift = 10, scale = codes ? 8 : 400; /* the output's spread */
    while ((int64_t)shift < 20 && ((int64_t)scale << shift) / products < 400)
        shift++;
    int32_t alpha = (int32_t)(((int64_t)scale << shift) / products / 2) + 1;
    if (alpha > 30000)
        alpha = 30000;
    for (int64_t i = 0; i < n; i++) {
        table[FB_GATE_AT * n + i] = between(0, 15) ? between(-20, 20) : between(0, 1) ? INT16_MAX : -INT16_MAX;
        table[FB_KNEE * n + i] = between(-60, 60);
        table[FB_ALPHA0 * n + i] = between(-alpha, alpha);
        table[FB_ALPHA1 * n + i] = between(-alpha, alpha);
        table[FB_GAMMA * n + i] = between(0, shift > 14 ? 16383 : 1 << shift);
        table[FB_BETA0 * n + i] = between(-scale * (1 << (shift - 1)), scale * (1 << shift));
        table[FB_BETA1 * n + i] = between(-scale * (1 << (shift - 1)), scale * (1 << shift));
        table[FB_SHIFT * n + i] = shift;
    }
}

static void fill_published(int32_t *table, int64_t n, enum fb_rule rule)
{
    const int fraction = rule == FB_CIFAR10_2020 ? 16 : 8; /* of weights */
    const int32_t one = 1 << fraction;
    for (int64_t i = 0; i < n; i++) {
        table[FB_GATE_AT * n + i] = between(-20, 20);
        table[FB_BN1_WEIGHT * n + i] = between(-one / 8, one / 8);
        table[FB_BN1_BIAS * n + i] = between(-one, one);
        table[FB_SHIFT_X * n + i] = between(-one, one);
        table[FB_SLOPE * n + i] = between(-one, one);
        table[FB_SHIFT_Y * n + i] = between(-one, one);
        table[FB_BN2_WEIGHT * n + i] = between(one / 2, one);
        table[FB_BN2_BIAS * n + i] = between(-one / 4, one / 4);
    }
}

static int32_t *make_table(enum fb_rule rule, int64_t n, int64_t products)
{
    int32_t *table = block(TABLE_ROWS * (size_t)n * sizeof *table);
    if (is_faithful(rule))
        fill_faithful(table, n, rule == FB_FAITHFUL_CODES, products);
    else
        fill_published(table, n, rule);
    return table;
}

/* Random weights in both layouts: bit c of channel `out` at tap t is 16 * groups * t + c of a row. */
static void make_weights(const struct fb_layer *l, int64_t *lanes, int64_t *rows)
{
    const int64_t taps = l->kernel * l->kernel, groups = l->in_channels / FB_LANES;
    const int64_t words = (taps * l->in_channels + 63) / 64;
    uint32_t *lane = block((size_t)(l->out_channels * taps * groups) * sizeof *lane);
    uint64_t *row = block((size_t)(l->out_channels * words) * sizeof *row);
    for (int64_t out = 0; out < l->out_channels; out++)
        for (int64_t piece = 0; piece < taps * groups; piece++) {
            uint32_t bits = (uint32_t)random64() & 0xffff;
            lane[(out / FB_LANES * taps * groups + piece) * FB_LANES + out % FB_LANES] = bits << 16 | bits;
            row[out * words + piece / 4] |= (uint64_t)bits << piece % 4 * 16;
        }
    *lanes = address(lane);
    *rows = address(row);
}

/* Where halved sums start, by border class: half the products inside the map, and the popcounts of the weights outside,
 * where activation bits read as zero. */
static int64_t make_start(const struct fb_layer *l)
{
    const int64_t taps = l->kernel * l->kernel, groups = l->in_channels / FB_LANES;
    const uint64_t words = (uint64_t)(taps * l->in_channels + 63) / 64;
    const uint64_t *rows = FB_POINTER(const uint64_t, l->weights);
    int32_t *start = block(BORDER_CLASSES * (size_t)l->out_channels * sizeof *start);
    for (int64_t i = 0; i < BORDER_CLASSES * l->out_channels; i++) {
        const int64_t down = i / l->out_channels / 3, right = i / l->out_channels % 3;
        uint32_t half = 0;
        for (int64_t piece = 0; piece < taps * groups; piece++) {
            const int64_t tap = piece / groups, v = tap / l->kernel, h = tap % l->kernel;
            const int outside = l->kernel == 3 && ((v == 0 && down == 0) || (v == 2 && down == 2) ||
                                                   (h == 0 && right == 0) || (h == 2 && right == 2));
            const uint64_t row = rows[(uint64_t)(i % l->out_channels) * words + (uint64_t)piece / 4];
            half += outside ? (uint32_t)__builtin_popcount((uint32_t)(row >> piece % 4 * 16 & 0xffff)) : FB_LANES / 2;
        }
        start[i] = (int32_t)(half << 16 | half);
    }
    return address(start);
}

static void make_classifier(struct fb_plan *p, int64_t features, enum fb_rule rule)
{
    const int core = rule == FB_CIFAR10_2021 || rule == FB_CIFAR10_2020;
    int32_t *core_weight = block(CLASSES * (size_t)features * sizeof *core_weight), *core_bias = block(CLASSES * 4);
    int16_t *weight = block(CLASSES * (size_t)features * sizeof *weight);
    double *bias = block(CLASSES * sizeof *bias), *step = block(CLASSES * sizeof *step);
    int64_t *offset = block(CLASSES * sizeof *offset);
    for (int64_t i = 0; i < CLASSES * features; i++)
        core_weight[i] = weight[i] = (int16_t)between(-100, 100);
    for (int k = 0; k < CLASSES; k++) {
        core_bias[k] = between(-100, 100);
        bias[k] = between(-1000, 1000) / 7.0;
        step[k] = 1.0 / 1024;
        offset[k] = between(-100, 100);
    }
    p->classes = CLASSES;
    p->fc_weight = core ? address(core_weight) : address(weight);
    p->fc_bias = core ? address(core_bias) : address(bias);
    p->fc_scale = 3;
    p->fc_divisor = 49;
    p->fc_offset = address(offset);
    p->fc_step = address(step);
}

static int64_t make_stem_lookup(int64_t channels)
{
    const int64_t tables = 27;
    int8_t *lookup = block((size_t)(tables * FB_LEVELS * channels));
    for (int64_t i = 0; i < tables * FB_LEVELS * channels; i++)
        if (i / channels % FB_LEVELS != FB_LEVELS - 1)
            lookup[i] = (int8_t)between(-32, 32);
    return address(lookup);
}

/* The plans of one random network for engines that read the "lanes" and the "rows" layout. */
static void make_plans(const struct network *network, struct fb_plan *lanes, struct fb_plan *rows)
{
    const enum fb_rule rule = network->rule;
    struct fb_layer *first = block(MOST_LAYERS * sizeof *first), *second = block(MOST_LAYERS * sizeof *second);
    int64_t channels = network->stem_channels, size = network->image_size / network->stem_stride, count = 0;
    const int64_t sum_bits = rule == FB_IMAGENET_2021 ? IMAGENET_SUM_BITS : 0;
    struct fb_plan p = {.image_size = network->image_size,
                        .stem_channels = channels,
                        .stem_stride = network->stem_stride,
                        .stem_rule = rule,
                        .stem_sum_bits = sum_bits,
                        .stem_lookup = make_stem_lookup(channels),
                        .stem_table = address(make_table(rule, channels, 27 * 32))};
    for (const struct shape *s = network->layers; s->out_channels; s++, count++) {
        const int last = s[1].out_channels == 0;
        struct fb_layer l = {.in_channels = channels,
                             .out_channels = s->out_channels,
                             .in_size = size,
                             .out_size = size / s->stride,
                             .kernel = s->kernel,
                             .stride = s->stride,
                             .rule = last && rule == FB_FAITHFUL_CODES ? FB_FAITHFUL_MAP : rule,
                             .codes_in = rule == FB_FAITHFUL_CODES || rule == FB_IMAGENET_2021,
                             .sum_bits = sum_bits,
                             .tile_wrap = sum_bits > 0 && s->kernel == 1,
                             .in_place = s->in_place};
        l.table = address(make_table((enum fb_rule)l.rule, l.out_channels, l.kernel * l.kernel * channels));
        int64_t lane_weights;
        make_weights(&l, &lane_weights, &l.weights);
        l.start = make_start(&l);
        first[count] = second[count] = l;
        first[count].weights = lane_weights;
        channels = l.out_channels, size = l.out_size;
    }
    p.layer_count = count;
    make_classifier(&p, channels, rule);
    *lanes = *rows = p;
    lanes->layers = address(first);
    rows->layers = address(second);
}

struct result {
    float logits[PICTURES * CLASSES];
    uint8_t *codes;
    size_t size; /* of codes, all pictures */
};

static void *help(void *team)
{
    fb_help(team);
    return NULL;
}

/* Run an engine with a helper at every layer. */
static struct result run(fb_run *engine, const struct fb_plan *p, const uint8_t *levels, const uint8_t *pictures)
{
    struct fb_team *team = fb_new_team(1);
    pthread_t helper;
    if (team == NULL || pthread_create(&helper, NULL, help, team) != 0) {
        fputs("no helper\n", stderr);
        exit(2);
    }
    const struct fb_layer *last = FB_POINTER(const struct fb_layer, p->layers) + p->layer_count - 1;
    struct result r;
    r.size = PICTURES * (size_t)(last->out_size * last->out_size * last->out_channels);
    r.codes = block(r.size);
    memset(r.logits, 0, sizeof r.logits);
    if (engine(p, levels, pictures, PICTURES, r.logits, r.codes, team) != 0) {
        fputs("out of memory\n", stderr);
        exit(2);
    }
    fb_dismiss(team);
    pthread_join(helper, NULL);
    fb_free_team(team);
    return r;
}

/* The layer with every gate open, so that every engine computes both sums. */
static struct fb_layer with_open_gates(struct fb_layer l)
{
    int32_t *table = block(TABLE_ROWS * (size_t)l.out_channels * sizeof *table);
    memcpy(table, FB_POINTER(const int32_t, l.table), TABLE_ROWS * (size_t)l.out_channels * sizeof *table);
    for (int64_t i = 0; i < l.out_channels; i++)
        table[FB_GATE_AT * l.out_channels + i] = INT16_MIN;
    l.table = address(table);
    return l;
}

/* Sums and output of one layer alone on random codes; -1 where memory ran out. */
static int one(fb_one *engine, const struct fb_layer *l, const uint8_t *codes, int32_t *sums, uint8_t *output)
{
    const struct fb_layer open = with_open_gates(*l);
    const int status = engine(&open, codes, PICTURES, sums, NULL);
    return status == 0 ? engine(l, codes, PICTURES, NULL, output) : status;
}

/* Every layer of the ImageNet core's networks alone, every engine against the portable one. */
static int check_layers(const struct network *network)
{
    struct fb_plan lanes, rows;
    int failures = 0;
    make_plans(network, &lanes, &rows);
    for (int64_t i = 0; i < rows.layer_count; i++) {
        const struct fb_layer *l = FB_POINTER(const struct fb_layer, rows.layers) + i;
        const size_t inputs = PICTURES * (size_t)(l->in_size * l->in_size * l->in_channels);
        const size_t outputs = PICTURES * (size_t)(l->out_size * l->out_size * l->out_channels);
        uint8_t *codes = block(inputs), *expected = block(outputs), *found = block(outputs);
        int32_t *expected_sums = block(outputs * 4), *sums = block(outputs * 4);
        for (size_t k = 0; k < inputs; k++)
            codes[k] = (uint8_t)between(0, 15);
        failures += one(fb_one_portable, l, codes, expected_sums, expected) != 0;
        for (const struct fb_engine *e = fb_engines(); e->name != NULL; e++) {
            const struct fb_plan *p = strcmp(e->layout, "lanes") ? &rows : &lanes;
            const struct fb_layer *own = FB_POINTER(const struct fb_layer, p->layers) + i;
            const int differs = one(e->one, own, codes, sums, found) != 0 || memcmp(found, expected, outputs) != 0 ||
                                memcmp(sums, expected_sums, outputs * 4) != 0;
            if (differs)
                printf("%s, layer %d alone: %s DIFFERS\n", network->name, (int)i, e->name);
            failures += differs;
        }
        free(codes), free(expected), free(found), free(expected_sums), free(sums);
    }
    printf("%s: %d layers alone compared\n", network->name, (int)rows.layer_count);
    return failures;
}

/* Different values among the last map's bytes: few of them would make the comparison weak. */
static int variety(const struct result *r)
{
    int seen[256] = {0}, count = 0;
    for (size_t i = 0; i < r->size; i++)
        count += !seen[r->codes[i]]++;
    return count;
}

/* Whether an engine's results are others than expected; prints which. */
static int differs(const char *name, fb_run *engine, const struct fb_plan *p, const uint8_t *levels,
                   const uint8_t *pictures, const struct result *expected)
{
    const struct result found = run(engine, p, levels, pictures);
    const int same = memcmp(found.logits, expected->logits, sizeof found.logits) == 0 &&
                     memcmp(found.codes, expected->codes, expected->size) == 0;
    printf(", %s %s", name, same ? "equal" : "DIFFERS");
    free(found.codes);
    return !same;
}

static int check(const struct network *network, const uint8_t *levels)
{
    const size_t size = PICTURES * 3 * (size_t)network->image_size * (size_t)network->image_size;
    uint8_t *pictures = block(size);
    struct fb_plan lanes, rows;
    int failures = 0;
    for (size_t i = 0; i < size; i++)
        pictures[i] = (uint8_t)random64();
    make_plans(network, &lanes, &rows);
    const struct result expected = run(fb_run_portable, &rows, levels, pictures);
    const int values = variety(&expected);
    printf("%s: %d different bytes", network->name, values);
    failures += values < 8;
    for (const struct fb_engine *e = fb_engines(); e->name != NULL; e++)
        failures += differs(e->name, e->run, strcmp(e->layout, "lanes") ? &rows : &lanes, levels, pictures, &expected);
    const int64_t prepared = fb_lookup_size(&lanes);
    if (prepared != 0) {
        lanes.prepared = address(block((size_t)prepared));
        fb_lookup_prepare(&lanes, FB_POINTER(void, lanes.prepared));
        failures += differs("look-up in C", run_lookup_portable, &lanes, levels, pictures, &expected);
        for (const struct fb_engine *e = fb_engines(); e->name != NULL; e++)
            if (e->prepare == fb_lookup_prepare) {
                char name[32];
                snprintf(name, sizeof name, "%s by look-up", e->name);
                failures += differs(name, e->run, &lanes, levels, pictures, &expected);
            }
    }
    putchar('\n');
    free(expected.codes);
    free(pictures);
    return failures;
}

int main(void)
{
    uint8_t levels[256];
    int failures = 0;
    for (int i = 0; i < 256; i++)
        levels[i] = (uint8_t)((i + 4) / 8);
    for (size_t i = 0; i < sizeof networks / sizeof *networks; i++)
        failures += check(&networks[i], levels);
    for (size_t i = 0; i < sizeof networks / sizeof *networks; i++)
        if (networks[i].rule == FB_IMAGENET_2021)
            failures += check_layers(&networks[i]);
    return failures > 0;
}
