// RoIPool of one feature map: C interface.
//
// Equal to torchvision.ops.roi_pool. Source: Girshick, "Fast R-CNN", section 2.1. See README.md beside this
// file for the definition of every case.
#ifndef MRCNN_PLUGINS_ROI_POOL_ROI_POOL_H_
#define MRCNN_PLUGINS_ROI_POOL_ROI_POOL_H_

#include "common/status.h"

#define MRCNN_MAX_BINS 32

#ifdef __cplusplus
extern "C" {
#endif

typedef struct MrcnnRoIPoolParams {
    int32_t batch;           // images, >= 0
    int32_t channels;        // 1 … 2^17
    int32_t height;          // of the map, 1 … 2^24; height * width < 2^31
    int32_t width;           // 1 … 2^24
    int32_t rois_per_image;  // >= 0
    int32_t output_height;   // bins from top to bottom, 1 … MRCNN_MAX_BINS
    int32_t output_width;    // bins from left to right, 1 … MRCNN_MAX_BINS
    int32_t type;            // MrcnnType of features and output
    float spatial_scale;     // size of the map relative to the image, as 0.0625; > 0
} MrcnnRoIPoolParams;

// Pools on the CPU, in the calling thread.
//
//   features  (batch, channels, height, width) of the parameters' type, linear
//   rois      float32 (batch, rois_per_image, 4), xyxy in pixels of the image
//   output    (batch * rois_per_image, channels, output_height, output_width) of the parameters' type, linear
//
// Returns MRCNN_OK, or MRCNN_INVALID_ARGUMENT with a message and an untouched output.
MRCNN_API MrcnnStatus mrcnnRoIPoolCpu(const MrcnnRoIPoolParams* params, const void* features,
                                      const float* rois, void* output);

// The same on a GPU: features, rois (aligned to 16 bytes) and output are device memory; the launch is on
// `stream` (a cudaStream_t) and the call does not wait for it. No workspace, no allocation, capturable in a
// CUDA graph.
//
// Returns also MRCNN_CUDA_ERROR, and MRCNN_NOT_BUILT.
MRCNN_API MrcnnStatus mrcnnRoIPoolCuda(const MrcnnRoIPoolParams* params, const void* features,
                                       const float* rois, void* output, void* stream);

#ifdef __cplusplus
}
#endif

#endif  // MRCNN_PLUGINS_ROI_POOL_ROI_POOL_H_
