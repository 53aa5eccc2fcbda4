// The rules of NMS, written once for CPU and GPU.
#ifndef MRCNN_PLUGINS_NMS_NMS_MATH_H_
#define MRCNN_PLUGINS_NMS_NMS_MATH_H_

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace mrcnn {

// Whether IoU(a, b) > threshold, where 0 <= threshold, in the arithmetic of
// torchvision/csrc/ops/cpu/nms_kernel.cpp. Boxes with a NaN, and pairs of boxes without area, do not overlap.
MRCNN_HOST_DEVICE bool overlap(const Box& a, const Box& b, float threshold) {
    const float left = a.x1 > b.x1 ? a.x1 : b.x1, right = a.x2 < b.x2 ? a.x2 : b.x2;
    const float top = a.y1 > b.y1 ? a.y1 : b.y1, bottom = a.y2 < b.y2 ? a.y2 : b.y2;
    const float width = sub(right, left), height = sub(bottom, top);
    if (!(width > 0.0f && height > 0.0f)) return false;  // an IoU of 0, or NaN
    const float intersection = mul(width, height);
    const float together = sub(add(area(a), area(b)), intersection);
    return divide(intersection, together) > threshold;
}

MRCNN_HOST_DEVICE bool takes_part(float score, float threshold) {
    return score > threshold;
}  // false for NaN

// A key that no score has; it sorts last.
constexpr std::uint32_t kNoScore = 0xffffffffu;

// Keys in ascending order are scores in descending order; equal scores, -0 and 0 too, have equal keys.
MRCNN_HOST_DEVICE std::uint32_t descending_key(float score) {
    const float positive_zero = add(score, 0.0f);
    std::uint32_t bits;
    memcpy(&bits, &positive_zero, sizeof bits);
    const std::uint32_t ascending = (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
    return ~ascending;
}

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_NMS_NMS_MATH_H_
