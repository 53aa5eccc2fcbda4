// What every function of the C interface shares: status, message, element types and memory layouts.
//
// The interface is plain C, so that ctypes, C++ and TensorRT adapters use the same functions. Nothing here or
// in the ops' headers names a framework; a CUDA stream is passed as `void*`.
#ifndef MRCNN_PLUGINS_COMMON_STATUS_H_
#define MRCNN_PLUGINS_COMMON_STATUS_H_

#include <stddef.h>
#include <stdint.h>

#define MRCNN_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef enum MrcnnStatus {
    MRCNN_OK = 0,
    MRCNN_INVALID_ARGUMENT = 1,  // a pointer, size or attribute that the contract forbids
    MRCNN_CUDA_ERROR = 2,        // the driver refused a launch or a call
    MRCNN_NOT_BUILT = 3,         // this library has no CUDA part
    MRCNN_OUT_OF_MEMORY = 4,     // of the CPU; outputs may have been written in part
} MrcnnStatus;

typedef enum MrcnnType {
    MRCNN_FLOAT32 = 0,
    MRCNN_FLOAT16 = 1,
    MRCNN_UINT8 = 2,  // of images alone
} MrcnnType;

// How a tensor (N, C, H, W) lies in memory.
typedef enum MrcnnLayout {
    // N, C, H, W; the last index runs fastest. TensorRT's kLINEAR.
    MRCNN_LINEAR = 0,
    // N, H, W, C'. FP16: C' is C rounded up to a multiple of 8 (TensorRT's kHWC8). FP32: C' = C (kHWC).
    MRCNN_CHANNELS_LAST = 1,
} MrcnnLayout;

// One line that says what was wrong with the last call of this thread that did not return MRCNN_OK, and ""
// before any. Valid until the thread's next failing call. Never NULL.
MRCNN_API const char* mrcnnLastError(void);

// What the library is: "mrcnn 0.1.0, CPU" or "mrcnn 0.1.0, CPU, CUDA 13.0 sm_87 sm_90". Static storage.
MRCNN_API const char* mrcnnBuildInfo(void);

#ifdef __cplusplus
}
#endif

#endif  // MRCNN_PLUGINS_COMMON_STATUS_H_
