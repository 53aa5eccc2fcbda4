// RoIPool on the CPU: the pixels of a RoI's bins are found once and used for all its channels.

#include <cstdint>

#include "common/error.h"
#include "common/half.h"
#include "roi_pool/roi_pool.h"
#include "roi_pool/roi_pool_check.h"
#include "roi_pool/roi_pool_math.h"

namespace mrcnn {
namespace {

// The largest value of a bin; NaN is passed over.
template <typename T>
float largest(const T* plane, int width, const Span& rows, const Span& columns) {
    if (rows.last <= rows.first || columns.last <= columns.first) return 0.0f;
    float found = -FLT_MAX;
    for (int y = rows.first; y < rows.last; ++y) {
        const T* row = plane + static_cast<std::int64_t>(y) * width;
        for (int x = columns.first; x < columns.last; ++x) {
            const float value = to_float(row[x]);
            if (value > found) found = value;
        }
    }
    return found;
}

template <typename T>
void pool_all(const MrcnnRoIPoolParams& p, const T* features, const float* rois, T* output) {
    const std::int64_t plane = static_cast<std::int64_t>(p.height) * p.width;
    const std::int64_t count = static_cast<std::int64_t>(p.batch) * p.rois_per_image;
    for (std::int64_t n = 0; n < count; ++n) {
        const Box roi{rois[4 * n], rois[4 * n + 1], rois[4 * n + 2], rois[4 * n + 3]};
        Span rows[MRCNN_MAX_BINS], columns[MRCNN_MAX_BINS];
        for (int bin = 0; bin < p.output_height; ++bin)
            rows[bin] = bin_span(roi.y1, roi.y2, p.spatial_scale, bin, p.output_height, p.height);
        for (int bin = 0; bin < p.output_width; ++bin)
            columns[bin] = bin_span(roi.x1, roi.x2, p.spatial_scale, bin, p.output_width, p.width);
        const T* image = features + n / p.rois_per_image * p.channels * plane;
        for (int c = 0; c < p.channels; ++c) {
            for (int y = 0; y < p.output_height; ++y) {
                for (int x = 0; x < p.output_width; ++x)
                    *output++ = from_float<T>(largest(image + c * plane, p.width, rows[y], columns[x]));
            }
        }
    }
}

}  // namespace
}  // namespace mrcnn

MrcnnStatus mrcnnRoIPoolCpu(const MrcnnRoIPoolParams* params, const void* features, const float* rois,
                            void* output) {
    MRCNN_RETURN_IF_FAILED(mrcnn::check_call(params, features, rois, output));
    if (mrcnn::nothing_to_pool(*params)) return MRCNN_OK;
    if (params->type == MRCNN_FLOAT16) {
        mrcnn::pool_all(*params, static_cast<const mrcnn::Half*>(features), rois,
                        static_cast<mrcnn::Half*>(output));
    } else {
        mrcnn::pool_all(*params, static_cast<const float*>(features), rois, static_cast<float*>(output));
    }
    return MRCNN_OK;
}
