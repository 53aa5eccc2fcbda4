// RoIAlign over the levels of a feature pyramid: C interface.
//
// Equal to torchvision.ops.MultiScaleRoIAlign with aligned = 0, and to detectron2's ROIPooler with aligned
// = 1. Source: He et al., "Mask R-CNN", section 3; the level of a RoI by Eqn. 1 of Lin et al., "Feature
// Pyramid Networks". See README.md beside this file for the definition of every case.
#ifndef MRCNN_PLUGINS_ROI_ALIGN_ROI_ALIGN_H_
#define MRCNN_PLUGINS_ROI_ALIGN_ROI_ALIGN_H_

#include "common/status.h"

#define MRCNN_MAX_LEVELS 8

#ifdef __cplusplus
extern "C" {
#endif

typedef enum MrcnnPoolMode {
    MRCNN_AVG = 0,  // mean of the interpolated samples of a bin
    MRCNN_MAX = 1,  // their maximum; a sample outside the map counts as 0
} MrcnnPoolMode;

// One level: a tensor (batch, channels, height, width) of the type and layout that the parameters name.
typedef struct MrcnnFeatureLevel {
    const void* data;     // aligned to 16 bytes where the layout is channels last
    int32_t height;       // 1 … 2^24; height * width < 2^31
    int32_t width;        // 1 … 2^24
    float spatial_scale;  // size of the level relative to the image, as 0.25; > 0
} MrcnnFeatureLevel;

typedef struct MrcnnRoIAlignParams {
    int32_t batch;            // images, >= 0
    int32_t channels;         // 1 … 2^17
    int32_t rois_per_image;   // >= 0
    int32_t output_size;      // bins a side, 1 … 32
    int32_t sampling_ratio;   // samples a bin and side; 0: ceil(bin size), as the papers have it
    int32_t aligned;          // 0 or 1; 1 moves RoIs by half a pixel, as detectron2 does
    int32_t mode;             // MrcnnPoolMode
    int32_t type;             // MrcnnType of features and output
    int32_t feature_layout;   // MrcnnLayout
    int32_t output_layout;    // MrcnnLayout; channels last only where the features are
    float canonical_size;     // side of a RoI of the canonical level in pixels, as 224; > 0
    int32_t canonical_level;  // as 4; counted so that the level of scale 1/2^k is k
    int32_t num_levels;       // 1 … MRCNN_MAX_LEVELS
    MrcnnFeatureLevel levels[MRCNN_MAX_LEVELS];  // finest first; those past num_levels are not looked at
} MrcnnRoIAlignParams;

// Pools on the CPU, in the calling thread.
//
//   rois    float32 (batch, rois_per_image, 4), xyxy in pixels of the image
//   output  (batch * rois_per_image, channels, output_size, output_size) of the parameters' type and layout;
//           aligned to 16 bytes where that is channels last
//
// Returns MRCNN_OK; MRCNN_INVALID_ARGUMENT with a message and an untouched output; or MRCNN_OUT_OF_MEMORY.
MRCNN_API MrcnnStatus mrcnnRoIAlignCpu(const MrcnnRoIAlignParams* params, const float* rois, void* output);

// The same on a GPU: data, rois (aligned to 16 bytes) and output are device memory; the launch is on `stream`
// (a cudaStream_t) and the call does not wait for it. No workspace, no allocation, capturable in a CUDA
// graph.
//
// Returns also MRCNN_CUDA_ERROR, and MRCNN_NOT_BUILT.
MRCNN_API MrcnnStatus mrcnnRoIAlignCuda(const MrcnnRoIAlignParams* params, const float* rois, void* output,
                                        void* stream);

// Writes num_levels - 1 floats: a RoI belongs to level i + 1 or a coarser one from sqrt(area) = thresholds[i]
// on. Of the parameters it reads only levels[0].spatial_scale, num_levels, aligned and the canonical ones.
MRCNN_API MrcnnStatus mrcnnRoIAlignLevelThresholds(const MrcnnRoIAlignParams* params, float* thresholds);

#ifdef __cplusplus
}
#endif

#endif  // MRCNN_PLUGINS_ROI_ALIGN_ROI_ALIGN_H_
