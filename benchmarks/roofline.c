/* Highest rate of binary multiply-accumulates (xor, popcount, add) that one core reaches, per instruction set.
 *
 * Every kernel runs four or eight independent accumulators. Its operands are either loop-carried registers ("registers") or
 * one of the two is loaded from a buffer that fits the first-level cache ("l1"). Empty assembler statements make the
 * register operands opaque in every step, so that nothing can be hoisted out of the loop or folded away; they emit no
 * instructions. One step of one accumulator over B bits counts as B multiply-accumulates.
 *
 * The clock comes from a chain of dependent register-to-register additions, one cycle each on all cores in question
 * (an addition of a constant would not do: some cores execute it while renaming).
 *
 * Usage: roofline SECONDS_PER_KERNEL; prints one JSON object.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#define REGISTER(x) __asm__ volatile("" : "+v"(x))
#define GENERAL(x) __asm__ volatile("" : "+r"(x))
#elif defined(__aarch64__)
#include <arm_neon.h>
#define REGISTER(x) __asm__ volatile("" : "+w"(x))
#define GENERAL(x) __asm__ volatile("" : "+r"(x))
#else
#define GENERAL(x) __asm__ volatile("" : "+r"(x))
#endif

enum { L1_BYTES = 8192 };

static _Alignas(64) uint8_t buffer[L1_BYTES];
static volatile uint64_t sink;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A kernel performs at least `steps` steps and returns the number of multiply-accumulates it performed. */
typedef double (*kernel_fn)(long steps);

#if defined(__x86_64__) || defined(__aarch64__)
static double add_chain(long steps)
{
    uint64_t x = 1, y = (uint64_t)steps;
    long i;
    for (i = 0; i < steps; i += 64) {
#if defined(__x86_64__)
#define ADD "add %1, %0\n\t"
#else
#define ADD "add %0, %0, %1\n\t"
#endif
#define ADD8 ADD ADD ADD ADD ADD ADD ADD ADD
        __asm__ volatile(ADD8 ADD8 ADD8 ADD8 ADD8 ADD8 ADD8 ADD8 : "+r"(x) : "r"(y));
    }
    sink = x;
    return (double)i;
}
#endif

/* Accumulators are separate variables, not an array, so that every compiler keeps them in registers. */
#define EACH4(DO) DO(0) DO(1) DO(2) DO(3)
#define EACH8(DO) EACH4(DO) DO(4) DO(5) DO(6) DO(7)
#define SUM4(x) (x##0 + x##1 + x##2 + x##3)

#if defined(__x86_64__)

#define TARGET_POPCNT __attribute__((target("popcnt")))
#define TARGET_AVX2 __attribute__((target("avx2")))
#define TARGET_BITALG __attribute__((target("avx512f,avx512bw,avx512bitalg")))
#define TARGET_VPOPCNTDQ __attribute__((target("avx512f,avx512vpopcntdq")))
#define TARGET_VBMI __attribute__((target("avx512f,avx512bw,avx512vbmi")))

#define LOAD256(p) _mm256_load_si256((const void *)(p))
#define LOAD512(p) _mm512_load_si512((const void *)(p))
#define FOLD512(x) ((uint64_t)_mm512_reduce_add_epi64(x))

/* The loop shared by the kernels over 512-bit registers: STEP on each of the eight accumulators. */
#define DECLARE512(n) __m512i acc##n = _mm512_setzero_si512();
#define FOLD_ACC512(n) sink += FOLD512(acc##n);
#define KERNEL512(NAME, TARGET, MACS, STEP)                                                             \
    TARGET static double NAME(long steps)                                                               \
    {                                                                                                   \
        const uint8_t *p = buffer;                                                                      \
        __m512i w = LOAD512(buffer), kept = LOAD512(buffer + 64), upper = LOAD512(buffer + 128);        \
        size_t at = 0;                                                                                  \
        EACH8(DECLARE512)                                                                               \
        for (long i = 0; i < steps; i++) {                                                              \
            EACH8(STEP)                                                                                 \
            at = (at + 8 * 64) & (L1_BYTES - 1);                                                        \
            p = buffer + at;                                                                            \
        }                                                                                               \
        (void)kept, (void)upper, (void)p;                                                               \
        EACH8(FOLD_ACC512)                                                                              \
        return (double)steps * 8.0 * (MACS);                                                            \
    }
#define COUNT_W(n, a) REGISTER(w); acc##n = _mm512_add_epi16(acc##n, _mm512_popcnt_epi16(_mm512_xor_si512(a, w)));
#define COUNT_Q(n, a) REGISTER(w); acc##n = _mm512_add_epi64(acc##n, _mm512_popcnt_epi64(_mm512_xor_si512(a, w)));
#define COUNT_W_REGISTERS(n) COUNT_W(n, kept)
#define COUNT_W_L1(n) COUNT_W(n, LOAD512(p + 64 * n))
#define COUNT_Q_REGISTERS(n) COUNT_Q(n, kept)
#define COUNT_Q_L1(n) COUNT_Q(n, LOAD512(p + 64 * n))
KERNEL512(vpopcntw_registers, TARGET_BITALG, 512, COUNT_W_REGISTERS)
KERNEL512(vpopcntw_l1, TARGET_BITALG, 512, COUNT_W_L1)
KERNEL512(vpopcntq_registers, TARGET_VPOPCNTDQ, 512, COUNT_Q_REGISTERS)
KERNEL512(vpopcntq_l1, TARGET_VPOPCNTDQ, 512, COUNT_Q_L1)

/* Carry-save: two products p = a ^ w and q = b ^ v at a time, with a running bit-sliced sum. The operands are kept as
 * (a, a ^ b) and (w, w ^ v): the new sum is sum ^ (a ^ b) ^ (w ^ v), and its carry, worth two, is the old sum where
 * p != q, which is where the sum changed, and p elsewhere. Only carries are counted: five instructions for two steps
 * of xor + popcount + add, which take six. */
/* Truth table of the carry over (p, new sum, old sum), p being the highest bit of the index: 001, 100, 101 and 111. */
enum { MAJORITY = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 7 };

#define DECLARE_SUM(n) __m512i sum##n = _mm512_setzero_si512();
#define FOLD_SUM(n) sink += FOLD512(sum##n);
/* The old sums are copied ahead of the steps: interleaved copies cost almost a fifth of the rate on a Zen 4 core. */
#define KEEP_SUM(n) __m512i old##n = sum##n; REGISTER(old##n);
#define CARRY_SAVE(n, w, w_pair)                                                            \
    {                                                                                       \
        sum##n = _mm512_ternarylogic_epi64(sum##n, a_pair, w_pair, 0x96);                   \
        const __m512i product = _mm512_xor_si512(a, w);                                     \
        const __m512i carry = _mm512_ternarylogic_epi64(product, sum##n, old##n, MAJORITY); \
        acc##n = _mm512_add_epi16(acc##n, _mm512_popcnt_epi16(carry));                      \
    }
#define CARRY_SAVE_REGISTERS(n) REGISTER(kept); REGISTER(kept_pair); CARRY_SAVE(n, kept, kept_pair)
#define CARRY_SAVE_L1(n) CARRY_SAVE(n, LOAD512(p + 128 * n), LOAD512(p + 128 * n + 64))
#define KERNEL_CARRY_SAVE(NAME, STEP)                                                                  \
    TARGET_BITALG static double NAME(long steps)                                                       \
    {                                                                                                  \
        const uint8_t *p = buffer;                                                                     \
        __m512i kept = LOAD512(buffer), kept_pair = LOAD512(buffer + 64), a = LOAD512(buffer + 128);   \
        __m512i a_pair = LOAD512(buffer + 192);                                                        \
        size_t at = 0;                                                                                 \
        EACH8(DECLARE512)                                                                              \
        EACH8(DECLARE_SUM)                                                                             \
        for (long i = 0; i < steps; i++) {                                                             \
            REGISTER(a);                                                                               \
            REGISTER(a_pair);                                                                          \
            EACH8(KEEP_SUM)                                                                            \
            EACH8(STEP)                                                                                \
            at = (at + 8 * 128) & (L1_BYTES - 1);                                                      \
            p = buffer + at;                                                                           \
        }                                                                                              \
        (void)kept, (void)kept_pair, (void)p;                                                          \
        EACH8(FOLD_ACC512)                                                                             \
        EACH8(FOLD_SUM)                                                                                \
        return (double)steps * 8 * 2 * 512;                                                            \
    }
KERNEL_CARRY_SAVE(carry_save_registers, CARRY_SAVE_REGISTERS)
KERNEL_CARRY_SAVE(carry_save_l1, CARRY_SAVE_L1)

/* Not a popcount: the sums of all 2^n combinations of n weights in a table, indexed by n activation bits a byte.
 * Measured for context, because it is the other way in which vector units compute binary sums. */
#define LOOK_UP_6(n) REGISTER(kept); acc##n = _mm512_add_epi8(acc##n, _mm512_permutexvar_epi8(kept, w));
#define LOOK_UP_7(n) REGISTER(kept); acc##n = _mm512_add_epi8(acc##n, _mm512_permutex2var_epi8(w, kept, upper));
KERNEL512(vpermb_registers, TARGET_VBMI, 64 * 6, LOOK_UP_6)
KERNEL512(vpermt2b_registers, TARGET_VBMI, 64 * 7, LOOK_UP_7)

/* Byte counters gain at most 8 a step, so they are widened (vpsadbw) before the 32nd. */
enum { AVX2_BLOCK = 31 };

TARGET_AVX2 static inline __m256i byte_popcounts(__m256i x, __m256i table, __m256i low)
{
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
    return _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(x, low)), _mm256_shuffle_epi8(table, high));
}

#define DECLARE256(n) __m256i acc##n = zero;
#define WIDEN256(n) total = _mm256_add_epi64(total, _mm256_sad_epu8(acc##n, zero));
#define KERNEL_AVX2(NAME, OPERAND)                                                                      \
    TARGET_AVX2 static double NAME(long steps)                                                          \
    {                                                                                                   \
        const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, \
                                               2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);                  \
        const __m256i low = _mm256_set1_epi8(15), zero = _mm256_setzero_si256();                        \
        __m256i w = LOAD256(buffer), kept = LOAD256(buffer + 64), total = zero;                         \
        long i;                                                                                         \
        for (i = 0; i < steps; i += AVX2_BLOCK) {                                                       \
            const uint8_t *p = buffer;                                                                  \
            EACH4(DECLARE256)                                                                           \
            for (int step = 0; step < AVX2_BLOCK; step++, p += 4 * 32) {                                \
                EACH4(OPERAND)                                                                          \
            }                                                                                           \
            (void)kept, (void)p;                                                                        \
            EACH4(WIDEN256)                                                                             \
        }                                                                                               \
        sink += (uint64_t)_mm256_extract_epi64(total, 0);                                               \
        return (double)i * 4 * 256;                                                                     \
    }
#define COUNT_256(n, a) REGISTER(w); acc##n = _mm256_add_epi8(acc##n, byte_popcounts(_mm256_xor_si256(a, w), table, low));
#define COUNT_256_REGISTERS(n) COUNT_256(n, kept)
#define COUNT_256_L1(n) COUNT_256(n, LOAD256(p + 32 * n))
KERNEL_AVX2(avx2_registers, COUNT_256_REGISTERS)
KERNEL_AVX2(avx2_l1, COUNT_256_L1)

#define SCALAR_TARGET TARGET_POPCNT
#elif defined(__aarch64__)

/* Byte counters gain at most 8 a step, so they are widened (uadalp) before the 32nd. */
enum { NEON_BLOCK = 31 };

#define DECLARE_NEON(n) uint8x16_t acc##n = vdupq_n_u8(0);
#define DECLARE_NEON_TOTAL(n) uint16x8_t total##n = vdupq_n_u16(0);
#define WIDEN_NEON(n) total##n = vpadalq_u8(total##n, acc##n);
#define FOLD_NEON(n) sink += vaddvq_u16(total##n);
#define KERNEL_NEON(NAME, OPERAND)                                           \
    static double NAME(long steps)                                           \
    {                                                                        \
        uint8x16_t w = vld1q_u8(buffer), kept = vld1q_u8(buffer + 64);       \
        long i;                                                              \
        EACH8(DECLARE_NEON_TOTAL)                                            \
        for (i = 0; i < steps; i += NEON_BLOCK) {                            \
            const uint8_t *p = buffer;                                       \
            EACH8(DECLARE_NEON)                                              \
            for (int step = 0; step < NEON_BLOCK; step++, p += 8 * 16) {     \
                EACH8(OPERAND)                                               \
            }                                                                \
            (void)kept, (void)p;                                             \
            EACH8(WIDEN_NEON)                                                \
        }                                                                    \
        EACH8(FOLD_NEON)                                                     \
        return (double)i * 8 * 128;                                          \
    }
#define COUNT_NEON(n, a) REGISTER(w); acc##n = vaddq_u8(acc##n, vcntq_u8(veorq_u8(a, w)));
#define COUNT_NEON_REGISTERS(n) COUNT_NEON(n, kept)
#define COUNT_NEON_L1(n) COUNT_NEON(n, vld1q_u8(p + 16 * n))
KERNEL_NEON(neon_registers, COUNT_NEON_REGISTERS)
KERNEL_NEON(neon_l1, COUNT_NEON_L1)

#define SCALAR_TARGET
#else
#define SCALAR_TARGET
#endif

/* The second barrier keeps the compiler from turning the row of counters into vectors. */
#define COUNT_SCALAR(n) GENERAL(w); acc##n += (uint64_t)__builtin_popcountll(kept ^ w); GENERAL(acc##n);

SCALAR_TARGET static double scalar_registers(long steps)
{
    uint64_t acc0 = 0, acc1 = 0, acc2 = 0, acc3 = 0, kept, w;
    memcpy(&kept, buffer, 8);
    memcpy(&w, buffer + 8, 8);
    for (long i = 0; i < steps; i++) {
        EACH4(COUNT_SCALAR)
    }
    sink += SUM4(acc);
    return (double)steps * 4 * 64;
}

/* Methods: "direct" is xor, popcount and add for every step, the usual roofline; "carry-save" and "table" need fewer
 * instructions and prepared operands. */
struct kernel {
    const char *name, *isa, *operands;
    const char *method;
    int supported;
    kernel_fn run;
};

/* Best rate over several short trials: interruptions and other load can only make a trial slower. */
static double best_rate(kernel_fn run, double seconds)
{
    const int trials = 20;
    long steps = 1000;
    double best = 0.0;
    for (;;) {
        double start = now();
        run(steps);
        if (now() - start > seconds / trials) break;
        steps *= 2;
    }
    for (int t = 0; t < trials; t++) {
        double start = now(), done = run(steps), rate = done / (now() - start);
        if (rate > best) best = rate;
    }
    return best;
}

int main(int argc, char **argv)
{
    const double seconds = argc > 1 ? atof(argv[1]) : 0.2;
    double clock_hz = 0.0;
    struct kernel kernels[] = {
#if defined(__x86_64__)
#define HAS(feature) (__builtin_cpu_supports(feature) != 0)
        {"vpopcntw zmm", "avx512bitalg", "registers", "direct", HAS("avx512bitalg"), vpopcntw_registers},
        {"vpopcntw zmm", "avx512bitalg", "l1", "direct", HAS("avx512bitalg"), vpopcntw_l1},
        {"vpopcntq zmm", "avx512vpopcntdq", "registers", "direct", HAS("avx512vpopcntdq"), vpopcntq_registers},
        {"vpopcntq zmm", "avx512vpopcntdq", "l1", "direct", HAS("avx512vpopcntdq"), vpopcntq_l1},
        {"vpopcntw, carry-save", "avx512bitalg", "registers", "carry-save", HAS("avx512bitalg"), carry_save_registers},
        {"vpopcntw, carry-save", "avx512bitalg", "l1", "carry-save", HAS("avx512bitalg"), carry_save_l1},
        {"vpshufb ymm nibbles", "avx2", "registers", "direct", HAS("avx2"), avx2_registers},
        {"vpshufb ymm nibbles", "avx2", "l1", "direct", HAS("avx2"), avx2_l1},
        {"popcnt r64", "popcnt", "registers", "direct", HAS("popcnt"), scalar_registers},
        {"vpermb zmm, 6 bits", "avx512vbmi", "registers", "table", HAS("avx512vbmi"), vpermb_registers},
        {"vpermt2b zmm, 7 bits", "avx512vbmi", "registers", "table", HAS("avx512vbmi"), vpermt2b_registers},
#elif defined(__aarch64__)
        {"cnt v16b", "neon", "registers", "direct", 1, neon_registers},
        {"cnt v16b", "neon", "l1", "direct", 1, neon_l1},
        {"popcount of 64 bits", "builtin", "registers", "direct", 1, scalar_registers},
#else
        {"popcount of 64 bits", "builtin", "registers", "direct", 1, scalar_registers},
#endif
    };
    enum { KERNELS = sizeof kernels / sizeof kernels[0] };
    double rates[KERNELS] = {0};
    const char *separator = "";

    for (int i = 0; i < L1_BYTES; i++) buffer[i] = (uint8_t)(i * 37 + (i >> 3));
    for (int i = 0; i < KERNELS; i++) {
        if (!kernels[i].supported) continue;
#if defined(__x86_64__) || defined(__aarch64__)
        double clock_now = best_rate(add_chain, seconds / 4);
        if (clock_now > clock_hz) clock_hz = clock_now;
#endif
        rates[i] = best_rate(kernels[i].run, seconds);
    }
    printf("{\"clock_hz\": %.6g, \"kernels\": [", clock_hz);
    for (int i = 0; i < KERNELS; i++) {
        const struct kernel *k = &kernels[i];
        if (!k->supported) continue;
        printf("%s{\"name\": \"%s\", \"isa\": \"%s\", \"operands\": \"%s\", \"method\": \"%s\", "
               "\"macs_per_second\": %.6g}",
               separator, k->name, k->isa, k->operands, k->method, rates[i]);
        separator = ", ";
    }
    printf("]}\n");
    return 0;
}
