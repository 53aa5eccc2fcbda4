// The rules of the resize, written once for CPU and GPU. They are those of runtime/preprocess.py, and of
// ATen's upsample_bilinear2d without align_corners: positions in float32, columns first, then rows.
#ifndef MRCNN_PLUGINS_RESIZE_RESIZE_MATH_H_
#define MRCNN_PLUGINS_RESIZE_RESIZE_MATH_H_

#include <cstdint>
#include <cstring>

#include "common/host_device.h"

namespace mrcnn {

// The two source pixels along an axis that a pixel of the result lies between.
struct Taps {
    std::int32_t first, second;
    float weight;  // the second one's
};

// Source pixels per pixel of the result.
MRCNN_HOST_DEVICE float resize_scale(std::int32_t source, std::int32_t target) {
    return divide(static_cast<float>(source), static_cast<float>(target));
}

// Any `pixel` has taps inside the source, also one outside the result.
MRCNN_HOST_DEVICE Taps taps_of(std::int32_t pixel, std::int32_t source, float scale) {
    float position = sub(mul(scale, add(static_cast<float>(pixel), 0.5f)), 0.5f);
    if (position < 0.0f) position = 0.0f;
    const std::int32_t last = source - 1;
    std::int32_t first = static_cast<std::int32_t>(position);
    if (first > last) first = last;
    const float weight = sub(position, static_cast<float>(first));
    return {first, first < last ? first + 1 : last, weight < 1.0f ? weight : 1.0f};
}

MRCNN_HOST_DEVICE float blend(float first, float second, float weight) {
    return add(mul(sub(1.0f, weight), first), mul(weight, second));
}

// The nearest integer to a value of 0 … 255, halves to even. Adding 2^23 leaves no bits for a fraction, which
// is cheaper than a conversion on every machine.
MRCNN_HOST_DEVICE std::uint8_t round_to_byte(float value) {
    const float shifted = add(value, 8388608.0f);
    std::uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return static_cast<std::uint8_t>(bits);
}

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_RESIZE_RESIZE_MATH_H_
