// The geometry of RoIPool, written once for CPU and GPU; torchvision's to the last bit.
#ifndef MRCNN_PLUGINS_ROI_POOL_ROI_POOL_MATH_H_
#define MRCNN_PLUGINS_ROI_POOL_ROI_POOL_MATH_H_

#include <cfloat>
#include <cmath>

#include "common/host_device.h"

namespace mrcnn {

// Corners further out than this, which no image has, are taken for this: their distance still fits an int.
constexpr float kFarthest = 1 << 28;

// The pixels [first, last) of a bin along one axis; none where last <= first.
struct Span {
    int first, last;
};

// A corner in whole pixels of the map, halves away from zero. The position is finite.
MRCNN_HOST_DEVICE int rounded_corner(float position, float spatial_scale) {
    return static_cast<int>(fmaxf(-kFarthest, fminf(roundf(mul(position, spatial_scale)), kFarthest)));
}

// The pixels of one bin of a RoI from `low` to `high`, in pixels of the image, on a map of `size` pixels.
MRCNN_HOST_DEVICE Span bin_span(float low, float high, float spatial_scale, int bin, int bins, int size) {
    if (!(fabsf(low) <= FLT_MAX && fabsf(high) <= FLT_MAX)) return {0, 0};
    const int start = rounded_corner(low, spatial_scale);
    const int extent = rounded_corner(high, spatial_scale) - start + 1;  // both corners belong to the RoI
    const float step = divide(static_cast<float>(extent < 1 ? 1 : extent), static_cast<float>(bins));
    const int first = start + static_cast<int>(floorf(mul(static_cast<float>(bin), step)));
    const int last = start + static_cast<int>(ceilf(mul(static_cast<float>(bin + 1), step)));
    const auto inside = [size](int pixel) { return pixel < 0 ? 0 : pixel > size ? size : pixel; };
    return {inside(first), inside(last)};
}

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_ROI_POOL_ROI_POOL_MATH_H_
