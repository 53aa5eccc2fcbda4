// CUDA's errors as statuses of the C interface.
#ifndef MRCNN_PLUGINS_COMMON_CUDA_CHECK_H_
#define MRCNN_PLUGINS_COMMON_CUDA_CHECK_H_

#include <cuda_runtime_api.h>

#include "common/error.h"

namespace mrcnn {

inline MrcnnStatus check_cuda(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return MRCNN_OK;
    return fail(MRCNN_CUDA_ERROR, "%s: %s (%s)", what, cudaGetErrorString(error), cudaGetErrorName(error));
}

// What a launch answers. Takes the error away, so that it is not reported by somebody else's next call.
inline MrcnnStatus check_launch(const char* what) { return check_cuda(cudaGetLastError(), what); }

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_COMMON_CUDA_CHECK_H_
