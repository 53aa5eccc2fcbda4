// Stands in for CUDA's header: what the kernels' sources use of it, on the CPU.
#ifndef MRCNN_EMULATION_CUDA_RUNTIME_API_H_
#define MRCNN_EMULATION_CUDA_RUNTIME_API_H_

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <cstddef>

#include "emulation.h"

#define __global__
#define __device__
#define __shared__ static  // one block runs at a time
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
using dim3 = mrcnn::emulation::Dim3;

static auto& threadIdx = mrcnn::emulation::thread_index;
static auto& blockIdx = mrcnn::emulation::block_index;
static auto& blockDim = mrcnn::emulation::block_size;

inline void __syncthreads() { mrcnn::emulation::sync_block(); }
inline unsigned __ballot_sync(unsigned, bool vote) {
    const auto votes = mrcnn::emulation::exchange(vote ? 1u : 0u);
    unsigned bits = 0;
    for (unsigned lane = 0; lane < 32; ++lane) bits |= votes[lane] << lane;
    return bits;
}
inline int __shfl_up_sync(unsigned, int value, unsigned delta) {
    const auto values = mrcnn::emulation::exchange(static_cast<unsigned>(value));
    const unsigned lane = threadIdx.x % 32;
    return lane < delta ? value : static_cast<int>(values[lane - delta]);
}
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
template <typename T>
T __ldg(const T* address) {
    return *address;
}
inline int min(int a, int b) { return a < b ? a : b; }
inline int max(int a, int b) { return a > b ? a : b; }

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return ""; }
inline const char* cudaGetErrorName(cudaError_t) { return ""; }
inline cudaError_t cudaMemsetAsync(void* memory, int value, std::size_t bytes, cudaStream_t) {
    memset(memory, value, bytes);
    return cudaSuccess;
}

#endif  // MRCNN_EMULATION_CUDA_RUNTIME_API_H_
