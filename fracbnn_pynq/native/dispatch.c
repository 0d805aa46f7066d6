/* Which engines this processor can run. */
#include "lookup.h"

#include <pthread.h>
#include <stddef.h>

static struct fb_engine found[5]; /* four engines at most, and the end */
static pthread_once_t looked = PTHREAD_ONCE_INIT;

static void look(void)
{
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bitalg") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("bmi2"))
        found[count++] = (struct fb_engine){"avx512", fb_run_avx512, fb_one_avx512, "lanes", NULL, NULL};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"))
        found[count++] = (struct fb_engine){"avx2",  fb_run_avx2,    fb_one_avx2,
                                           "lanes", fb_lookup_size, fb_lookup_prepare};
    if (__builtin_cpu_supports("popcnt"))
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
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2"))
        return fb_fit_avx2;
#endif
    return fb_fit_portable;
}
