/* Which engines this processor can run. */
#include "fracbnn.h"

#include <stddef.h>

const struct fb_engine *fb_engines(void)
{
    static struct fb_engine found[5]; /* four engines at most, and the end */;
    int count = 0;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512bitalg") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512vnni") &&
        __builtin_cpu_supports("bmi2"))
        found[count++] = (struct fb_engine){"avx512", fb_run_avx512, "lanes"};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2"))
        found[count++] = (struct fb_engine){"avx2", fb_run_avx2, "lanes"};
    if (__builtin_cpu_supports("popcnt"))
        found[count++] = (struct fb_engine){"popcnt", fb_run_popcnt, "rows"};
#elif defined(__aarch64__)
    found[count++] = (struct fb_engine){"neon", fb_run_neon, "lanes"};
#endif
    found[count++] = (struct fb_engine){"portable", fb_run_portable, "rows"};
    found[count].name = NULL;
    return found;
}
