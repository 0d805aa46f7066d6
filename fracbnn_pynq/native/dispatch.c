/* Which engines this processor can run. */
#include "lookup.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* What the processor has and the operating system saves. By hand, because the compilers' __builtin_cpu_supports() needs
 * a runtime library that not every one of them links, and then says that there is nothing. */
static struct {
    bool popcnt, avx2, avx512;
} cpu;

static void ask_cpu(void)
{
    const uint32_t avx_state = 0x06, avx512_state = 0xe6; /* of XCR0: XMM and YMM; opmasks and ZMM as well */
    const uint32_t avx512_b = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    const uint32_t avx512_c = bit_AVX512BITALG | bit_AVX512VPOPCNTDQ | bit_AVX512VNNI;
    uint32_t a, b, c, d, saved = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return;
    cpu.popcnt = c & bit_POPCNT;
    if (c & bit_OSXSAVE)
        __asm__("xgetbv" : "=a"(saved), "=d"(d) : "c"(0));
    if (!(c & bit_AVX) || (saved & avx_state) != avx_state || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return;
    cpu.avx2 = (b & bit_AVX2) && (b & bit_BMI2);
    cpu.avx512 = cpu.avx2 && (saved & avx512_state) == avx512_state && (b & avx512_b) == avx512_b &&
                 (c & avx512_c) == avx512_c;
}
#endif

static struct fb_engine found[5]; /* four engines at most, and the end */
static fb_fit *best_fit;
static pthread_once_t looked = PTHREAD_ONCE_INIT;

static void look(void)
{
    int count = 0;
    best_fit = fb_fit_portable;
#if defined(__x86_64__)
    ask_cpu();
    if (cpu.avx512)
        found[count++] = (struct fb_engine){"avx512", fb_run_avx512, fb_one_avx512, "lanes", NULL, NULL};
    if (cpu.avx2) {
        found[count++] = (struct fb_engine){"avx2",  fb_run_avx2,    fb_one_avx2,
                                           "lanes", fb_lookup_size, fb_lookup_prepare};
        best_fit = fb_fit_avx2;
    }
    if (cpu.popcnt)
        found[count++] = (struct fb_engine){"popcnt", fb_run_popcnt, fb_one_popcnt, "rows", NULL, NULL};
#elif defined(__aarch64__)
    found[count++] = (struct fb_engine){"neon", fb_run_neon, fb_one_neon, "lanes", NULL, NULL};
#endif
    found[count] = (struct fb_engine){"portable", fb_run_portable, fb_one_portable, "rows", NULL, NULL};
}

const struct fb_engine *fb_engines(void)
{
    pthread_once(&looked, look);
    return found;
}

fb_fit *fb_best_fit(void)
{
    pthread_once(&looked, look);
    return best_fit;
}
