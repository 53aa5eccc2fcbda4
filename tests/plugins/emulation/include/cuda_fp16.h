// Stands in for CUDA's header.
#ifndef MRCNN_EMULATION_CUDA_FP16_H_
#define MRCNN_EMULATION_CUDA_FP16_H_

#include "common/half.h"
#include "cuda_runtime_api.h"

struct __half {
    mrcnn::Half value;
};
inline float __half2float(__half half) { return mrcnn::to_float(half.value); }
inline __half __float2half_rn(float value) { return {mrcnn::from_float<mrcnn::Half>(value)}; }

#endif  // MRCNN_EMULATION_CUDA_FP16_H_
