// What the CPU and the CUDA function check first.
#ifndef MRCNN_PLUGINS_NMS_NMS_CHECK_H_
#define MRCNN_PLUGINS_NMS_NMS_CHECK_H_

#include "nms/nms.h"

namespace mrcnn {

// MRCNN_OK, or MRCNN_INVALID_ARGUMENT with a message that names the attribute.
MrcnnStatus check_attributes(const MrcnnNMSParams& params);

// The same for the sizes too.
MrcnnStatus check_sizes(const MrcnnNMSParams* params);

// The same for everything that a call needs; pointers to nothing may be null.
MrcnnStatus check_call(const MrcnnNMSParams* params, const void* boxes, const void* scores, const void* group,
                       const void* indices, const void* count);

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_NMS_NMS_CHECK_H_
