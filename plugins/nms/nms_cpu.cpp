// NMS on the CPU: candidates in order of score, each compared with what its group has kept.

#include <algorithm>
#include <cstdint>
#include <new>
#include <unordered_map>
#include <vector>

#include "common/error.h"
#include "nms/nms.h"
#include "nms/nms_check.h"
#include "nms/nms_math.h"

namespace mrcnn {
namespace {

Box box_at(const float* boxes, std::int32_t index) {
    const float* box = boxes + 4 * static_cast<std::int64_t>(index);
    return {box[0], box[1], box[2], box[3]};
}

// The candidates that take part, best first, ties by lower index.
std::vector<std::int32_t> in_order(const MrcnnNMSParams& params, const float* scores) {
    std::vector<std::int32_t> order;
    for (std::int32_t i = 0; i < params.candidates; ++i) {
        if (takes_part(scores[i], params.score_threshold)) order.push_back(i);
    }
    std::stable_sort(order.begin(), order.end(),
                     [scores](std::int32_t a, std::int32_t b) { return scores[a] > scores[b]; });
    return order;
}

// One image; returns the number of indices written.
std::int32_t suppress(const MrcnnNMSParams& params, const float* boxes, const float* scores,
                      const std::int32_t* group, std::int32_t* indices) {
    std::unordered_map<std::int32_t, std::vector<Box>> kept;
    std::int32_t count = 0;
    for (const std::int32_t candidate : in_order(params, scores)) {
        if (count == params.max_output) break;
        const Box box = box_at(boxes, candidate);
        std::vector<Box>& better = kept[group[candidate]];
        const bool suppressed = std::any_of(better.begin(), better.end(), [&](const Box& other) {
            return overlap(other, box, params.iou_threshold);
        });
        if (suppressed) continue;
        better.push_back(box);
        indices[count++] = candidate;
    }
    return count;
}

}  // namespace
}  // namespace mrcnn

MrcnnStatus mrcnnNMSCpu(const MrcnnNMSParams* params, const float* boxes, const float* scores,
                        const int32_t* group, int32_t* indices, int32_t* count) {
    MRCNN_RETURN_IF_FAILED(mrcnn::check_call(params, boxes, scores, group, indices, count));
    const std::int64_t candidates = params->candidates, rows = params->max_output;
    try {
        for (std::int64_t image = 0; image < params->batch; ++image) {
            std::int32_t* own = indices + image * rows;
            count[image] = mrcnn::suppress(*params, boxes + 4 * image * candidates,
                                           scores + image * candidates, group + image * candidates, own);
            std::fill(own + count[image], own + rows, 0);
        }
    } catch (const std::bad_alloc&) {
        return mrcnn::fail(MRCNN_OUT_OF_MEMORY, "NMS: not enough memory for %d candidates",
                           params->candidates);
    }
    return MRCNN_OK;
}
