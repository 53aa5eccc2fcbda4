// What the CPU and the CUDA function check first, and the levels' thresholds.
#ifndef MRCNN_PLUGINS_ROI_ALIGN_ROI_ALIGN_CHECK_H_
#define MRCNN_PLUGINS_ROI_ALIGN_ROI_ALIGN_CHECK_H_

#include <cstdint>

#include "roi_align/roi_align.h"

namespace mrcnn {

// MRCNN_OK, or MRCNN_INVALID_ARGUMENT with a message that names the parameter. Data pointers are not looked
// at.
MrcnnStatus check_attributes(const MrcnnRoIAlignParams& params);

// The same for everything that a call needs; where there is nothing to pool, null pointers are allowed.
MrcnnStatus check_call(const MrcnnRoIAlignParams* params, const void* rois, const void* output);

inline bool nothing_to_pool(const MrcnnRoIAlignParams& params) {
    return params.batch == 0 || params.rois_per_image == 0;
}

// Channels that a pixel occupies in memory.
inline std::int64_t stored_channels(const MrcnnRoIAlignParams& params, std::int32_t layout) {
    const std::int64_t channels = params.channels;
    const bool padded = layout == MRCNN_CHANNELS_LAST && params.type == MRCNN_FLOAT16;
    return padded ? (channels + 7) / 8 * 8 : channels;
}

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_ROI_ALIGN_ROI_ALIGN_CHECK_H_
