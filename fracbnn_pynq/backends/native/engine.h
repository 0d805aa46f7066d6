/* Both forms of the network walk for one engine, and its entry point. The engine's file has defined fb_conv_row,
 * fb_narrow_pack16 and what FB_OWN_FAITHFUL and FB_OWN_3X3 stand for, if it has its own (see network.h); FB_ENGINE is
 * its entry point's name.
 */
#ifndef FB_WIDEN /* 16 signed bytes to 16-bit numbers */
#define FB_WIDEN(bytes) __builtin_convertvector(bytes, shorts)
#endif

#define FB_MAP int16_t
#define FB_T(name) fb_narrow_##name
#include "network.h"
#undef FB_MAP
#undef FB_T

#define FB_WIDE
#define FB_MAP int32_t
#define FB_T(name) fb_wide_##name

FB_DEFINE_PACK16(fb_wide_pack16, int32_t)

#include "network.h"

int FB_ENGINE(const struct fb_plan *plan, const uint8_t *levels, const uint8_t *pictures, int64_t count, float *logits,
              uint8_t *codes)
{
    return (plan->stem_rule == FB_CIFAR10_2020 ? fb_wide_run : fb_narrow_run)(plan, levels, pictures, count, logits,
                                                                            codes);
}
