// Functions that the CPU and the GPU compile from one source.
#ifndef MRCNN_PLUGINS_COMMON_HOST_DEVICE_H_
#define MRCNN_PLUGINS_COMMON_HOST_DEVICE_H_

#ifdef __CUDACC__
#define MRCNN_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define MRCNN_HOST_DEVICE inline
#endif

namespace mrcnn {

// Arithmetic that is rounded after each operation. nvcc would fuse a * b + c, which rounds once; positions
// and overlaps would then differ from the CPU's in the last bit, and with them the side of a threshold.
#ifdef __CUDA_ARCH__
MRCNN_HOST_DEVICE float add(float a, float b) { return __fadd_rn(a, b); }
MRCNN_HOST_DEVICE float sub(float a, float b) { return __fsub_rn(a, b); }
MRCNN_HOST_DEVICE float mul(float a, float b) { return __fmul_rn(a, b); }
MRCNN_HOST_DEVICE float divide(float a, float b) { return __fdiv_rn(a, b); }
#else  // The CPU files are compiled with -ffp-contract=off.
MRCNN_HOST_DEVICE float add(float a, float b) { return a + b; }
MRCNN_HOST_DEVICE float sub(float a, float b) { return a - b; }
MRCNN_HOST_DEVICE float mul(float a, float b) { return a * b; }
MRCNN_HOST_DEVICE float divide(float a, float b) { return a / b; }
#endif

// A box in pixels, laid out as four floats in memory.
struct Box {
    float x1, y1, x2, y2;
};

MRCNN_HOST_DEVICE float area(const Box& box) { return mul(sub(box.x2, box.x1), sub(box.y2, box.y1)); }

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_COMMON_HOST_DEVICE_H_
