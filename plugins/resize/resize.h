// Pre-processing of one image: bilinear resize, then zeros at the right and the bottom. C interface.
//
// Equal to resize_bilinear and make_batch of runtime/preprocess.py, bit by bit. See README.md beside this
// file.
#ifndef MRCNN_PLUGINS_RESIZE_RESIZE_H_
#define MRCNN_PLUGINS_RESIZE_RESIZE_H_

#include "common/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct MrcnnResizeParams {
    int32_t source_height, source_width;  // 1 … 2^24
    int64_t source_pitch;                 // bytes from row to row, 3 * source_width … 2^31 - 1
    int32_t target_height, target_width;  // of the resized image, 1 … 65535
    int32_t padded_height, padded_width;  // of the output, target … 65535
    int32_t swap_channels;                // 0, or 1: the first and the last channel change places
    int32_t output_type;                  // MRCNN_FLOAT32, or MRCNN_UINT8: rounded, halves to even
} MrcnnResizeParams;

// Resizes on the CPU, in the calling thread.
//
//   source  uint8 (source_height, source_width, 3), rows source_pitch bytes apart
//   output  (padded_height, padded_width, 3) of output_type, 0…255, no gaps; aligned to its type
//
// Returns MRCNN_OK; MRCNN_INVALID_ARGUMENT with a message and untouched output; or MRCNN_OUT_OF_MEMORY.
MRCNN_API MrcnnStatus mrcnnResizeCpu(const MrcnnResizeParams* params, const void* source, void* output);

// The same on a GPU, to the last bit: both pointers are device memory, the work is one launch on `stream` (a
// cudaStream_t), nothing is allocated or waited for, and it can be captured in a CUDA graph.
//
// Returns also MRCNN_CUDA_ERROR, and MRCNN_NOT_BUILT.
MRCNN_API MrcnnStatus mrcnnResizeCuda(const MrcnnResizeParams* params, const void* source, void* output,
                                      void* stream);

#ifdef __cplusplus
}
#endif

#endif  // MRCNN_PLUGINS_RESIZE_RESIZE_H_
