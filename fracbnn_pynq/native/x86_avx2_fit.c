/* The parameter search compiled for AVX2, which has the 32-bit products and clamps that the baseline lacks. */
#if defined(__x86_64__)

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC target("avx2")
#endif
#define FB_FIT fb_fit_avx2
#include "fit.c"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
