#include "roi_pool/roi_pool_check.h"

#include <cstdint>

#include "common/error.h"

namespace mrcnn {

MrcnnStatus check_attributes(const MrcnnRoIPoolParams& p) {
    MRCNN_REQUIRE(p.output_height >= 1 && p.output_height <= MRCNN_MAX_BINS && p.output_width >= 1 &&
                      p.output_width <= MRCNN_MAX_BINS,
                  "RoIPool: pooled_shape must be 1 to %d bins a side (got %d, %d)", MRCNN_MAX_BINS,
                  p.output_height, p.output_width);
    // No image needs a scale outside the bounds; false for NaN.
    MRCNN_REQUIRE(p.spatial_scale >= 1e-6f && p.spatial_scale <= 1e6f,
                  "RoIPool: spatial_scale must be between 1e-6 and 1e6 (got %g)", p.spatial_scale);
    return MRCNN_OK;
}

MrcnnStatus check_call(const MrcnnRoIPoolParams* params, const void* features, const void* rois,
                       const void* output) {
    MRCNN_REQUIRE(params != nullptr, "RoIPool: params is null");
    const MrcnnRoIPoolParams& p = *params;
    MRCNN_RETURN_IF_FAILED(check_attributes(p));
    MRCNN_REQUIRE(p.type == MRCNN_FLOAT32 || p.type == MRCNN_FLOAT16,
                  "RoIPool: features must be float32 or float16 (got type %d)", p.type);
    MRCNN_REQUIRE(p.batch >= 0, "RoIPool: batch must not be negative (got %d)", p.batch);
    MRCNN_REQUIRE(p.channels >= 1 && p.channels <= 1 << 17, "RoIPool: expected 1 to 2^17 channels (got %d)",
                  p.channels);
    MRCNN_REQUIRE(p.rois_per_image >= 0, "RoIPool: rois_per_image must not be negative (got %d)",
                  p.rois_per_image);
    const std::int64_t rois_in_all = static_cast<std::int64_t>(p.batch) * p.rois_per_image;
    MRCNN_REQUIRE(rois_in_all <= INT32_MAX, "RoIPool: at most 2^31 - 1 RoIs in a batch (got %lld)",
                  static_cast<long long>(rois_in_all));
    if (nothing_to_pool(p)) return MRCNN_OK;
    MRCNN_REQUIRE(p.height >= 1 && p.width >= 1,
                  "RoIPool: features must have at least one pixel (got height %d, width %d)", p.height,
                  p.width);
    MRCNN_REQUIRE(p.height <= 1 << 24 && p.width <= 1 << 24,
                  "RoIPool: features have a side of more than 2^24 pixels (height %d, width %d)", p.height,
                  p.width);
    MRCNN_REQUIRE(static_cast<std::int64_t>(p.height) * p.width <= INT32_MAX,
                  "RoIPool: features have more than 2^31 - 1 pixels (height %d, width %d)", p.height,
                  p.width);
    MRCNN_REQUIRE(features != nullptr, "RoIPool: features is null");
    MRCNN_REQUIRE(rois != nullptr, "RoIPool: rois is null");
    MRCNN_REQUIRE(output != nullptr, "RoIPool: output is null");
    return MRCNN_OK;
}

}  // namespace mrcnn
