#include "resize/resize_check.h"

#include <cstdint>

#include "common/error.h"

namespace mrcnn {
namespace {

// Beyond, float32 positions do not resolve pixels.
constexpr std::int32_t kMostSource = 1 << 24;

// Rows that one launch can have.
constexpr std::int32_t kMostOutput = 65535;

bool is_within(std::int32_t size, std::int32_t least, std::int32_t most) {
    return size >= least && size <= most;
}

}  // namespace

MrcnnStatus check_call(const MrcnnResizeParams* params, const void* source, const void* output) {
    MRCNN_REQUIRE(params != nullptr, "Resize: params is null");
    const MrcnnResizeParams& p = *params;
    MRCNN_REQUIRE(is_within(p.source_height, 1, kMostSource) && is_within(p.source_width, 1, kMostSource),
                  "Resize: the source must have 1 to 2^24 rows and columns (got height %d, width %d)",
                  p.source_height, p.source_width);
    const std::int64_t row_bytes = std::int64_t{3} * p.source_width;
    MRCNN_REQUIRE(p.source_pitch >= row_bytes && p.source_pitch <= INT32_MAX,
                  "Resize: source_pitch must be at least the %lld bytes of a row, and below 2^31 (got %lld)",
                  static_cast<long long>(row_bytes), static_cast<long long>(p.source_pitch));
    MRCNN_REQUIRE(is_within(p.target_height, 1, kMostOutput) && is_within(p.target_width, 1, kMostOutput),
                  "Resize: the target must have 1 to 65535 rows and columns (got height %d, width %d)",
                  p.target_height, p.target_width);
    MRCNN_REQUIRE(
        is_within(p.padded_height, p.target_height, kMostOutput) &&
            is_within(p.padded_width, p.target_width, kMostOutput),
        "Resize: the padded size must be at least the target's, and at most 65535 (got height %d for "
        "%d, width %d for %d)",
        p.padded_height, p.target_height, p.padded_width, p.target_width);
    MRCNN_REQUIRE(is_within(p.swap_channels, 0, 1), "Resize: swap_channels must be 0 or 1 (got %d)",
                  p.swap_channels);
    MRCNN_REQUIRE(p.output_type == MRCNN_FLOAT32 || p.output_type == MRCNN_UINT8,
                  "Resize: the output must be float32 or uint8 (got type %d)", p.output_type);
    MRCNN_REQUIRE(source != nullptr, "Resize: source is null");
    MRCNN_REQUIRE(output != nullptr, "Resize: output is null");
    MRCNN_REQUIRE(
        p.output_type != MRCNN_FLOAT32 || reinterpret_cast<std::uintptr_t>(output) % sizeof(float) == 0,
        "Resize: float32 output is not aligned to 4 bytes");
    return MRCNN_OK;
}

}  // namespace mrcnn
