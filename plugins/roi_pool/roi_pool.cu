// RoIPool on the GPU. A block pools one RoI for a slab of channels, a thread one bin of one channel at a
// time; the pixels of the bins depend on a row and a column only, so that they are found once per block.

#include <cuda_fp16.h>

#include <cstdint>

#include "common/cuda_check.h"
#include "common/error.h"
#include "roi_pool/roi_pool.h"
#include "roi_pool/roi_pool_check.h"
#include "roi_pool/roi_pool_math.h"

namespace mrcnn {
namespace {

constexpr int kThreads = 256;
constexpr int kSlab = 64;  // channels of a block

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ void store(float value, float* to) { *to = value; }
__device__ __forceinline__ void store(float value, __half* to) { *to = __float2half_rn(value); }

// The largest value of a bin; NaN is passed over.
template <typename T>
__device__ __forceinline__ float largest(const T* plane, int width, const Span& rows, const Span& columns) {
    if (rows.last <= rows.first || columns.last <= columns.first) return 0.0f;
    float found = -FLT_MAX;
    for (int y = rows.first; y < rows.last; ++y) {
        const T* row = plane + static_cast<std::int64_t>(y) * width;
        for (int x = columns.first; x < columns.last; ++x) {
            const float value = to_float(__ldg(row + x));
            if (value > found) found = value;
        }
    }
    return found;
}

// Grid: (RoIs, slabs of channels).
template <typename T>
__global__ void __launch_bounds__(kThreads)
    roi_pool_kernel(const MrcnnRoIPoolParams p, const T* features, const float4* rois, T* output) {
    __shared__ Span rows[MRCNN_MAX_BINS], columns[MRCNN_MAX_BINS];
    const std::int64_t n = blockIdx.x;
    const float4 roi = __ldg(rois + n);
    const int thread = static_cast<int>(threadIdx.x);
    if (thread < p.output_height) {
        rows[thread] = bin_span(roi.y, roi.w, p.spatial_scale, thread, p.output_height, p.height);
    }
    if (thread < p.output_width) {
        columns[thread] = bin_span(roi.x, roi.z, p.spatial_scale, thread, p.output_width, p.width);
    }
    __syncthreads();

    const std::int64_t plane = static_cast<std::int64_t>(p.height) * p.width;
    const int bins = p.output_height * p.output_width;
    const int first = static_cast<int>(blockIdx.y) * kSlab, channels = min(kSlab, p.channels - first);
    const T* slab = features + (n / p.rois_per_image * p.channels + first) * plane;
    T* pooled = output + (n * p.channels + first) * bins;
    for (int item = thread; item < channels * bins; item += kThreads) {
        const int bin = item % bins;
        store(largest(slab + item / bins * plane, p.width, rows[bin / p.output_width],
                      columns[bin % p.output_width]),
              pooled + item);
    }
}

template <typename T>
MrcnnStatus launch(const MrcnnRoIPoolParams& p, const void* features, const float* rois, void* output,
                   cudaStream_t stream) {
    const std::int64_t count = static_cast<std::int64_t>(p.batch) * p.rois_per_image;
    const dim3 grid(static_cast<unsigned>(count), static_cast<unsigned>((p.channels + kSlab - 1) / kSlab));
    const T* const given = static_cast<const T*>(features);
    const float4* const boxes = reinterpret_cast<const float4*>(rois);
    T* const pooled = static_cast<T*>(output);
    roi_pool_kernel<T><<<grid, kThreads, 0, stream>>>(p, given, boxes, pooled);
    return check_launch("RoIPool: launch");
}

}  // namespace
}  // namespace mrcnn

MrcnnStatus mrcnnRoIPoolCuda(const MrcnnRoIPoolParams* params, const void* features, const float* rois,
                             void* output, void* stream) {
    MRCNN_RETURN_IF_FAILED(mrcnn::check_call(params, features, rois, output));
    if (mrcnn::nothing_to_pool(*params)) return MRCNN_OK;
    MRCNN_REQUIRE(reinterpret_cast<std::uintptr_t>(rois) % 16 == 0,
                  "RoIPool: rois is not aligned to 16 bytes");
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    if (params->type == MRCNN_FLOAT16) {
        return mrcnn::launch<__half>(*params, features, rois, output, cuda_stream);
    }
    return mrcnn::launch<float>(*params, features, rois, output, cuda_stream);
}
