// What the CPU and the CUDA function check first.
#ifndef MRCNN_PLUGINS_RESIZE_RESIZE_CHECK_H_
#define MRCNN_PLUGINS_RESIZE_RESIZE_CHECK_H_

#include "resize/resize.h"

namespace mrcnn {

// MRCNN_OK, or MRCNN_INVALID_ARGUMENT with a message that names what is wrong.
MrcnnStatus check_call(const MrcnnResizeParams* params, const void* source, const void* output);

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_RESIZE_RESIZE_CHECK_H_
