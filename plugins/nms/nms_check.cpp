#include "nms/nms_check.h"

#include <cmath>
#include <cstdint>

#include "common/error.h"

namespace mrcnn {

MrcnnStatus check_attributes(const MrcnnNMSParams& p) {
    MRCNN_REQUIRE(p.iou_threshold >= 0.0f && p.iou_threshold <= 1.0f,
                  "NMS: iou_threshold must be between 0 and 1 (got %g)", p.iou_threshold);
    MRCNN_REQUIRE(!std::isnan(p.score_threshold), "NMS: score_threshold is not a number");
    MRCNN_REQUIRE(p.max_output >= 1, "NMS: max_output must be at least 1 (got %d)", p.max_output);
    return MRCNN_OK;
}

MrcnnStatus check_sizes(const MrcnnNMSParams* params) {
    MRCNN_REQUIRE(params != nullptr, "NMS: params is null");
    const MrcnnNMSParams& p = *params;
    MRCNN_RETURN_IF_FAILED(check_attributes(p));
    MRCNN_REQUIRE(p.batch >= 0 && p.batch <= 65535, "NMS: batch must be 0 to 65535 images (got %d)", p.batch);
    MRCNN_REQUIRE(p.candidates >= 0, "NMS: candidates must not be negative (got %d)", p.candidates);
    const std::int64_t boxes = static_cast<std::int64_t>(p.batch) * p.candidates;
    MRCNN_REQUIRE(boxes < (std::int64_t{1} << 30), "NMS: a batch of at most 2^30 - 1 boxes (got %lld)",
                  static_cast<long long>(boxes));
    const std::int64_t rows = static_cast<std::int64_t>(p.batch) * p.max_output;
    MRCNN_REQUIRE(rows <= INT32_MAX, "NMS: batch times max_output must be below 2^31 (got %lld)",
                  static_cast<long long>(rows));
    return MRCNN_OK;
}

MrcnnStatus check_call(const MrcnnNMSParams* params, const void* boxes, const void* scores, const void* group,
                       const void* indices, const void* count) {
    MRCNN_RETURN_IF_FAILED(check_sizes(params));
    if (params->batch == 0) return MRCNN_OK;
    MRCNN_REQUIRE(indices != nullptr, "NMS: indices is null");
    MRCNN_REQUIRE(count != nullptr, "NMS: count is null");
    if (params->candidates == 0) return MRCNN_OK;
    MRCNN_REQUIRE(boxes != nullptr, "NMS: boxes is null");
    MRCNN_REQUIRE(scores != nullptr, "NMS: scores is null");
    MRCNN_REQUIRE(group != nullptr, "NMS: group is null");
    return MRCNN_OK;
}

}  // namespace mrcnn
