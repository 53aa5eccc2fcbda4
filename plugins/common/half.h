// IEEE half precision on the CPU, where no standard type is at hand.
#ifndef MRCNN_PLUGINS_COMMON_HALF_H_
#define MRCNN_PLUGINS_COMMON_HALF_H_

#include <cmath>
#include <cstdint>
#include <cstring>

namespace mrcnn {

// Storage only; arithmetic is done in float.
struct Half {
    std::uint16_t bits;
};

inline float to_float(float value) { return value; }

inline float to_float(Half value) {
    const int sign = value.bits >> 15, exponent = (value.bits >> 10) & 31, fraction = value.bits & 1023;
    float magnitude;
    if (exponent == 31) {
        magnitude = fraction == 0 ? INFINITY : NAN;
    } else if (exponent == 0) {
        magnitude = std::ldexp(static_cast<float>(fraction), -24);  // zero and subnormals
    } else {
        const std::uint32_t bits =
            static_cast<std::uint32_t>(exponent + 112) << 23 | static_cast<std::uint32_t>(fraction) << 13;
        std::memcpy(&magnitude, &bits, sizeof bits);
    }
    return sign == 0 ? magnitude : -magnitude;
}

template <typename T>
T from_float(float value);

template <>
inline float from_float<float>(float value) {
    return value;
}

// Rounds to nearest, ties to even, as the GPU does; too large becomes infinity.
template <>
inline Half from_float<Half>(float value) {
    const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
    const float magnitude = std::fabs(value);
    if (std::isnan(value)) return Half{static_cast<std::uint16_t>(sign | 0x7e00)};
    if (magnitude >= 65520.0f) return Half{static_cast<std::uint16_t>(sign | 0x7c00)};
    // In units of the last place of the result, which nearbyint rounds. Zero and subnormals share one unit.
    int exponent = -13;
    if (magnitude >= 6.103515625e-5f) std::frexp(magnitude, &exponent);
    const int unit = exponent - 11;
    const auto steps = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(magnitude, -unit)));
    // Adding instead of or-ing lets a carry of the rounding run into the exponent.
    const std::uint32_t biased = static_cast<std::uint32_t>(unit + 24) << 10;
    return Half{static_cast<std::uint16_t>(sign | (biased + steps))};
}

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_COMMON_HALF_H_
