/* The plain C engine with the processor's POPCNT instruction (x86 since 2008), which the compiler's baseline lacks. */
#if defined(__x86_64__)

#pragma GCC target("popcnt")
#define FB_ENGINE fb_run_popcnt
#include "portable.c"

#endif
