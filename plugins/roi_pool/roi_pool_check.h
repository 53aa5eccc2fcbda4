// What the CPU and the CUDA function check first.
#ifndef MRCNN_PLUGINS_ROI_POOL_ROI_POOL_CHECK_H_
#define MRCNN_PLUGINS_ROI_POOL_ROI_POOL_CHECK_H_

#include "roi_pool/roi_pool.h"

namespace mrcnn {

// MRCNN_OK, or MRCNN_INVALID_ARGUMENT with a message that names the parameter. Sizes are not looked at.
MrcnnStatus check_attributes(const MrcnnRoIPoolParams& params);

// The same for everything that a call needs; where there is nothing to pool, null pointers are allowed.
MrcnnStatus check_call(const MrcnnRoIPoolParams* params, const void* features, const void* rois,
                       const void* output);

inline bool nothing_to_pool(const MrcnnRoIPoolParams& params) {
    return params.batch == 0 || params.rois_per_image == 0;
}

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_ROI_POOL_ROI_POOL_CHECK_H_
