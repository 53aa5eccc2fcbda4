// Non-maximum suppression per image and group, with score threshold and top-k: C interface.
//
// Keeps what torchvision.ops.batched_nms keeps: highest score first, ties by lower index, a box is dropped if
// its IoU with a kept one of its group exceeds the threshold. See README.md beside this file.
#ifndef MRCNN_PLUGINS_NMS_NMS_H_
#define MRCNN_PLUGINS_NMS_NMS_H_

#include "common/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct MrcnnNMSParams {
    int32_t batch;          // images, 0 … 65535
    int32_t candidates;     // boxes per image, >= 0; batch * candidates < 2^30
    int32_t max_output;     // most boxes to keep per image, >= 1; batch * max_output < 2^31
    float iou_threshold;    // 0 … 1; suppressed if IoU > iou_threshold
    float score_threshold;  // a candidate takes part if score > score_threshold; NaN scores never do
} MrcnnNMSParams;

// Suppresses on the CPU, in the calling thread.
//
//   boxes    float32 (batch, candidates, 4), xyxy
//   scores   float32 (batch, candidates)
//   group    int32 (batch, candidates), any values: class or pyramid level
//   indices  int32 (batch, max_output), candidates kept, best first; 0 past the count
//   count    int32 (batch,)
//
// Returns MRCNN_OK; MRCNN_INVALID_ARGUMENT with a message and untouched outputs; or MRCNN_OUT_OF_MEMORY.
MRCNN_API MrcnnStatus mrcnnNMSCpu(const MrcnnNMSParams* params, const float* boxes, const float* scores,
                                  const int32_t* group, int32_t* indices, int32_t* count);

// Bytes of device memory that mrcnnNMSCuda needs; grows with batch and candidates and depends on nothing
// else.
MRCNN_API MrcnnStatus mrcnnNMSCudaWorkspace(const MrcnnNMSParams* params, size_t* bytes);

// The same on a GPU: all pointers are device memory (boxes and workspace aligned to 16 bytes), the work is on
// `stream` (a cudaStream_t), nothing is allocated or waited for, and it can be captured in a CUDA graph. The
// result is the same in every run.
//
// Returns also MRCNN_CUDA_ERROR, and MRCNN_NOT_BUILT.
MRCNN_API MrcnnStatus mrcnnNMSCuda(const MrcnnNMSParams* params, const float* boxes, const float* scores,
                                   const int32_t* group, int32_t* indices, int32_t* count, void* workspace,
                                   size_t workspace_bytes, void* stream);

#ifdef __cplusplus
}
#endif

#endif  // MRCNN_PLUGINS_NMS_NMS_H_
