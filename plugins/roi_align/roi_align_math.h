// The geometry of RoIAlign, written once for CPU and GPU.
//
// Names and order of the arithmetic follow torchvision/csrc/ops/cpu/roi_align_common.h, so that positions are
// equal to its bit by bit.
#ifndef MRCNN_PLUGINS_ROI_ALIGN_ROI_ALIGN_MATH_H_
#define MRCNN_PLUGINS_ROI_ALIGN_ROI_ALIGN_MATH_H_

#include <cmath>

#include "common/host_device.h"

namespace mrcnn {

// More samples a bin and side than this come only from RoIs that no image can have; those give 0.
constexpr float kMaxAdaptiveGrid = 1 << 16;

// Grids up to this many samples, the largest sampling_ratio, are walked whole. Of larger ones, which are
// adaptive and have steps of about a pixel, the part outside the map is skipped.
constexpr int kWholeGrid = 64;

// The level (0 = finest) of a RoI; `thresholds` are those of mrcnnRoIAlignLevelThresholds. NaN: level 0.
MRCNN_HOST_DEVICE int level_of(const Box& roi, const float* thresholds, int num_levels) {
    const float side = sqrtf(area(roi));
    int level = 0;
    for (int i = 0; i + 1 < num_levels; ++i) level += side >= thresholds[i];
    return level;
}

// One side of a RoI on its level, cut into bins.
struct Axis {
    float start;     // in pixels of the level
    float bin_size;  // may be negative where aligned and the RoI is inverted
    int grid;        // samples per bin
};

MRCNN_HOST_DEVICE Axis make_axis(float low, float high, float spatial_scale, bool aligned, int bins,
                                 int sampling_ratio) {
    const float offset = aligned ? 0.5f : 0.0f;
    Axis axis;
    axis.start = sub(mul(low, spatial_scale), offset);
    float extent = sub(sub(mul(high, spatial_scale), offset), axis.start);
    if (!aligned && extent < 1.0f) extent = 1.0f;
    axis.bin_size = divide(extent, static_cast<float>(bins));
    const float adaptive = ceilf(axis.bin_size);
    const bool usable = adaptive >= 1.0f && adaptive <= kMaxAdaptiveGrid;  // false for NaN
    axis.grid = sampling_ratio > 0 ? sampling_ratio : usable ? static_cast<int>(adaptive) : 0;
    return axis;
}

// Where sample i of a bin lies, in pixels of the level.
MRCNN_HOST_DEVICE float sample_position(const Axis& axis, int bin, int i) {
    const float origin = add(axis.start, mul(static_cast<float>(bin), axis.bin_size));
    const float steps = mul(add(static_cast<float>(i), 0.5f), axis.bin_size);
    return add(origin, divide(steps, static_cast<float>(axis.grid)));
}

// The samples [first, last) of a bin among which all lie that are inside a map of `size` pixels.
struct SampleRange {
    int first, last;
};

MRCNN_HOST_DEVICE SampleRange sample_range(const Axis& axis, int bin, int size) {
    if (axis.grid <= kWholeGrid) return {0, axis.grid};
    const float step = divide(axis.bin_size, static_cast<float>(axis.grid));
    const float origin = add(axis.start, mul(static_cast<float>(bin), axis.bin_size));
    // Two samples of slack on each side are more than rounding can move them.
    const float first = fmaxf(sub(floorf(divide(sub(-1.0f, origin), step)), 2.0f), 0.0f);
    const float last = fminf(add(ceilf(divide(sub(static_cast<float>(size), origin), step)), 2.0f),
                             static_cast<float>(axis.grid));
    if (!(first < last)) return {0, 0};
    return {static_cast<int>(first), static_cast<int>(last)};
}

// The two pixels beside a position, and their shares.
struct Neighbours {
    int low, high;
    float low_weight, high_weight;
};

// False where the position is more than one pixel outside the map, or NaN: the sample counts as 0.
MRCNN_HOST_DEVICE bool find_neighbours(float position, int size, Neighbours* result) {
    if (!(position >= -1.0f && position <= static_cast<float>(size))) return false;
    if (position <= 0.0f) position = 0.0f;
    result->low = static_cast<int>(position);
    if (result->low >= size - 1) {
        result->low = result->high = size - 1;
        position = static_cast<float>(result->low);
    } else {
        result->high = result->low + 1;
    }
    result->high_weight = sub(position, static_cast<float>(result->low));
    result->low_weight = sub(1.0f, result->high_weight);
    return true;
}

// What the sum of a bin's samples is multiplied by. 0 samples: 1, as torchvision's max(count, 1).
MRCNN_HOST_DEVICE float inverse_count(const Axis& y, const Axis& x) {
    const float count = mul(static_cast<float>(y.grid), static_cast<float>(x.grid));
    return count > 1.0f ? divide(1.0f, count) : 1.0f;
}

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_ROI_ALIGN_ROI_ALIGN_MATH_H_
