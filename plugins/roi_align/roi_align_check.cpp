#include "roi_align/roi_align_check.h"

#include <cmath>
#include <cstring>

#include "common/error.h"

namespace mrcnn {
namespace {

// Eqn. 1 of the FPN paper in the arithmetic of float32, where `side` is sqrt(area). The logarithm is taken in
// double and rounded, so that every machine gives the same level.
float level_number(float side, const MrcnnRoIAlignParams& params) {
    const float ratio = side / params.canonical_size;
    const auto base = static_cast<float>(params.canonical_level);
    if (params.aligned != 0) {  // detectron2: poolers.assign_boxes_to_levels
        return std::floor(base + static_cast<float>(std::log2(static_cast<double>(ratio + 1e-8f))));
    }
    // torchvision: poolers.LevelMapper
    return std::floor(base + static_cast<float>(std::log2(static_cast<double>(ratio))) + 1e-6f);
}

// The least side whose level is `level` or a coarser one, 0 where every side has that. The rule grows with
// the side; the float where it steps is found by halving.
float threshold_of(int level, const MrcnnRoIAlignParams& params) {
    const float nominal = std::ldexp(params.canonical_size, level - params.canonical_level);
    // Positive floats are ordered as their bits are.
    const auto bits_of = [](float value) {
        std::uint32_t bits;
        std::memcpy(&bits, &value, sizeof bits);
        return bits;
    };
    const auto side_of = [](std::uint32_t bits) {
        float side;
        std::memcpy(&side, &bits, sizeof side);
        return side;
    };
    if (level_number(0.0f, params) >= static_cast<float>(level)) return 0.0f;
    std::uint32_t below = 0, above = bits_of(nominal * (1.0f + 1e-5f));
    while (above - below > 1) {
        const std::uint32_t middle = below + (above - below) / 2;
        (level_number(side_of(middle), params) < static_cast<float>(level) ? below : above) = middle;
    }
    return side_of(above);
}

int first_level(const MrcnnRoIAlignParams& params) {
    return static_cast<int>(-std::lround(std::log2(params.levels[0].spatial_scale)));
}

bool is_aligned(const void* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; }

bool is_positive(float value) { return std::isfinite(value) && value > 0.0f; }

MrcnnStatus check_levels(const MrcnnRoIAlignParams& p) {
    MRCNN_REQUIRE(p.num_levels >= 1 && p.num_levels <= MRCNN_MAX_LEVELS,
                  "RoIAlign: expected 1 to %d feature levels (got %d)", MRCNN_MAX_LEVELS, p.num_levels);
    for (int i = 0; i < p.num_levels; ++i) {
        // The bounds keep the level numbers small; no image needs a scale outside them.
        const float scale = p.levels[i].spatial_scale;
        MRCNN_REQUIRE(scale >= 1e-6f && scale <= 1e6f,
                      "RoIAlign: spatial_scales[%d] must be between 1e-6 and 1e6 (got %g)", i, scale);
    }
    return MRCNN_OK;
}

}  // namespace

MrcnnStatus check_attributes(const MrcnnRoIAlignParams& p) {
    MRCNN_RETURN_IF_FAILED(check_levels(p));
    MRCNN_REQUIRE(p.output_size >= 1 && p.output_size <= 32,
                  "RoIAlign: output_size must be 1 to 32 bins (got %d)", p.output_size);
    MRCNN_REQUIRE(p.sampling_ratio >= 0 && p.sampling_ratio <= 64,
                  "RoIAlign: sampling_ratio must be 0 (adaptive) to 64 (got %d)", p.sampling_ratio);
    MRCNN_REQUIRE(p.aligned == 0 || p.aligned == 1, "RoIAlign: aligned must be 0 or 1 (got %d)", p.aligned);
    MRCNN_REQUIRE(p.mode == MRCNN_AVG || p.mode == MRCNN_MAX, "RoIAlign: mode must be avg or max (got %d)",
                  p.mode);
    MRCNN_REQUIRE(is_positive(p.canonical_size) && p.canonical_size <= 1e6f,
                  "RoIAlign: canonical_size must be a side in pixels, above 0, at most 1e6 (got %g)",
                  p.canonical_size);
    MRCNN_REQUIRE(p.canonical_level >= 0 && p.canonical_level <= 32,
                  "RoIAlign: canonical_level must be 0 to 32 (got %d)", p.canonical_level);
    return MRCNN_OK;
}

MrcnnStatus check_call(const MrcnnRoIAlignParams* params, const void* rois, const void* output) {
    MRCNN_REQUIRE(params != nullptr, "RoIAlign: params is null");
    const MrcnnRoIAlignParams& p = *params;
    MRCNN_RETURN_IF_FAILED(check_attributes(p));
    MRCNN_REQUIRE(p.type == MRCNN_FLOAT32 || p.type == MRCNN_FLOAT16,
                  "RoIAlign: features must be float32 or float16 (got type %d)", p.type);
    MRCNN_REQUIRE(p.feature_layout == MRCNN_LINEAR || p.feature_layout == MRCNN_CHANNELS_LAST,
                  "RoIAlign: feature_layout must be linear or channels last (got %d)", p.feature_layout);
    MRCNN_REQUIRE(p.output_layout == MRCNN_LINEAR || p.output_layout == p.feature_layout,
                  "RoIAlign: output_layout must be linear, or channels last where the features are (got %d)",
                  p.output_layout);
    MRCNN_REQUIRE(p.batch >= 0, "RoIAlign: batch must not be negative (got %d)", p.batch);
    MRCNN_REQUIRE(p.channels >= 1 && p.channels <= 1 << 17, "RoIAlign: expected 1 to 2^17 channels (got %d)",
                  p.channels);
    MRCNN_REQUIRE(p.rois_per_image >= 0, "RoIAlign: rois_per_image must not be negative (got %d)",
                  p.rois_per_image);
    const std::int64_t rois_in_all = static_cast<std::int64_t>(p.batch) * p.rois_per_image;
    MRCNN_REQUIRE(rois_in_all <= INT32_MAX, "RoIAlign: at most 2^31 - 1 RoIs in a batch (got %lld)",
                  static_cast<long long>(rois_in_all));
    if (nothing_to_pool(p)) return MRCNN_OK;
    MRCNN_REQUIRE(rois != nullptr, "RoIAlign: rois is null");
    MRCNN_REQUIRE(output != nullptr, "RoIAlign: output is null");
    MRCNN_REQUIRE(p.output_layout == MRCNN_LINEAR || is_aligned(output),
                  "RoIAlign: channels-last output is not aligned to 16 bytes");
    for (int i = 0; i < p.num_levels; ++i) {
        const MrcnnFeatureLevel& level = p.levels[i];
        MRCNN_REQUIRE(level.height >= 1 && level.width >= 1,
                      "RoIAlign: feature level %d must have at least one pixel (got height %d, width %d)", i,
                      level.height, level.width);
        // Beyond, float32 positions do not resolve pixels.
        MRCNN_REQUIRE(level.height <= 1 << 24 && level.width <= 1 << 24,
                      "RoIAlign: feature level %d has a side of more than 2^24 pixels (height %d, width %d)",
                      i, level.height, level.width);
        MRCNN_REQUIRE(static_cast<std::int64_t>(level.height) * level.width <= INT32_MAX,
                      "RoIAlign: feature level %d has more than 2^31 - 1 pixels (height %d, width %d)", i,
                      level.height, level.width);
        MRCNN_REQUIRE(level.data != nullptr, "RoIAlign: the data of feature level %d is null", i);
        MRCNN_REQUIRE(p.feature_layout == MRCNN_LINEAR || is_aligned(level.data),
                      "RoIAlign: channels-last feature level %d is not aligned to 16 bytes", i);
    }
    return MRCNN_OK;
}

}  // namespace mrcnn

MrcnnStatus mrcnnRoIAlignLevelThresholds(const MrcnnRoIAlignParams* params, float* thresholds) {
    MRCNN_REQUIRE(params != nullptr, "RoIAlign: params is null");
    MRCNN_RETURN_IF_FAILED(mrcnn::check_attributes(*params));
    MRCNN_REQUIRE(thresholds != nullptr, "RoIAlign: thresholds is null");
    const int first = mrcnn::first_level(*params);
    for (int i = 0; i + 1 < params->num_levels; ++i)
        thresholds[i] = mrcnn::threshold_of(first + 1 + i, *params);
    return MRCNN_OK;
}
