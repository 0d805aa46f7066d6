/* The plain C engine with the processor's POPCNT instruction (x86 since 2008), which the compiler's baseline lacks. */
#if defined(__x86_64__)

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("popcnt"))), apply_to = function)
#else
#pragma GCC target("popcnt")
#endif
#define FB_ENGINE(name) name##_popcnt
#include "portable.c"

#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
