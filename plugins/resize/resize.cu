// Resize on the GPU: one launch, each byte of the output is written once.
//
// A thread makes four values side by side, which it stores at once; they belong to two pixels at most. A row
// need not begin where such a vector does: its first and its last values are stored one by one then. What a
// vector's neighbours read of the source lies beside it, so that it comes out of the L1.

#include <cstdint>

#include "common/cuda_check.h"
#include "common/error.h"
#include "resize/resize.h"
#include "resize/resize_check.h"
#include "resize/resize_math.h"

namespace mrcnn {
namespace {

constexpr int kThreads = 128;
constexpr int kVector = 4;  // values of a thread

struct Arguments {
    const std::uint8_t* source;
    void* output;
    int source_height, source_width, source_pitch, target_height, target_width;
    int row_values;  // of the output
    float scale_y, scale_x;
    bool swap_channels;
};

__device__ __forceinline__ void store(float value, float* to) { *to = value; }
__device__ __forceinline__ void store(float value, std::uint8_t* to) { *to = round_to_byte(value); }

// All values of a thread in one access. (Given the vector's own address, nvcc 13.0 makes four of it.)
__device__ __forceinline__ void store_all(const float (&v)[kVector], float* vectors, int number) {
    const float4 vector = {v[0], v[1], v[2], v[3]};
    reinterpret_cast<float4*>(vectors)[number] = vector;
}
__device__ __forceinline__ void store_all(const float (&v)[kVector], std::uint8_t* vectors, int number) {
    std::uint32_t word = 0;
#pragma unroll
    for (int k = 0; k < kVector; ++k) word |= static_cast<std::uint32_t>(round_to_byte(v[k])) << (8 * k);
    reinterpret_cast<std::uint32_t*>(vectors)[number] = word;
}

__device__ __forceinline__ float load(const std::uint8_t* at) { return static_cast<float>(__ldg(at)); }

// The values of row y from number `first` on, which is at least -3; 0 right of the image. What is said of
// values left of it has no meaning, but costs no access outside of the source.
__device__ __forceinline__ void resized(const Arguments& a, int y, int first, float (&values)[kVector]) {
    const Taps rows = taps_of(y, a.source_height, a.scale_y);
    const auto pitch = static_cast<std::int64_t>(a.source_pitch);
    const std::uint8_t* above = a.source + rows.first * pitch;
    const std::uint8_t* below = a.source + rows.second * pitch;
    const int pixel = static_cast<int>(static_cast<unsigned>(first + 3) / 3u) - 1;
    const int channel = first - 3 * pixel;
    const Taps columns[2] = {taps_of(pixel, a.source_width, a.scale_x),
                             taps_of(pixel + 1, a.source_width, a.scale_x)};
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
        const bool next = channel + k >= 3;
        const int own = channel + k - (next ? 3 : 0);
        const int from = a.swap_channels ? 2 - own : own;
        const int left = 3 * (next ? columns[1].first : columns[0].first) + from;
        const int right = 3 * (next ? columns[1].second : columns[0].second) + from;
        const float weight = next ? columns[1].weight : columns[0].weight;
        const float high = blend(load(above + left), load(above + right), weight);
        const float low = blend(load(below + left), load(below + right), weight);
        const bool inside = first + k < 3 * a.target_width;
        values[k] = inside ? blend(high, low, rows.weight) : 0.0f;
    }
}

// Grid: (vectors of a row, rows).
template <typename T>
__global__ void __launch_bounds__(kThreads) resize_kernel(Arguments a) {
    const int y = static_cast<int>(blockIdx.y);
    T* row = static_cast<T*>(a.output) + static_cast<std::int64_t>(y) * a.row_values;
    // Values of the row's first vector that are of the row before it.
    const int lead = static_cast<int>(reinterpret_cast<std::uintptr_t>(row) / sizeof(T) % kVector);
    const int number = static_cast<int>(blockIdx.x * kThreads + threadIdx.x);
    const int first = kVector * number - lead;
    if (first >= a.row_values) return;
    float values[kVector] = {};
    if (y < a.target_height && first < 3 * a.target_width) resized(a, y, first, values);
    if (first >= 0 && first + kVector <= a.row_values) {
        store_all(values, row - lead, number);
        return;
    }
#pragma unroll
    for (int k = 0; k < kVector; ++k) {
        if (first + k >= 0 && first + k < a.row_values) store(values[k], row + first + k);
    }
}

template <typename T>
MrcnnStatus launch(const Arguments& arguments, int rows, cudaStream_t stream) {
    // A row that begins last in its first vector needs one more than its values fill.
    const int vectors = (arguments.row_values + kVector - 1 + kVector - 1) / kVector;
    const dim3 grid(static_cast<unsigned>((vectors + kThreads - 1) / kThreads), static_cast<unsigned>(rows));
    resize_kernel<T><<<grid, kThreads, 0, stream>>>(arguments);
    return check_launch("Resize: launch");
}

}  // namespace
}  // namespace mrcnn

MrcnnStatus mrcnnResizeCuda(const MrcnnResizeParams* params, const void* source, void* output, void* stream) {
    MRCNN_RETURN_IF_FAILED(mrcnn::check_call(params, source, output));
    const MrcnnResizeParams& p = *params;
    mrcnn::Arguments arguments = {};
    arguments.source = static_cast<const std::uint8_t*>(source);
    arguments.output = output;
    arguments.source_height = p.source_height;
    arguments.source_width = p.source_width;
    arguments.source_pitch = static_cast<int>(p.source_pitch);
    arguments.target_height = p.target_height;
    arguments.target_width = p.target_width;
    arguments.row_values = 3 * p.padded_width;
    arguments.scale_y = mrcnn::resize_scale(p.source_height, p.target_height);
    arguments.scale_x = mrcnn::resize_scale(p.source_width, p.target_width);
    arguments.swap_channels = p.swap_channels != 0;
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    if (p.output_type == MRCNN_FLOAT32) {
        return mrcnn::launch<float>(arguments, p.padded_height, cuda_stream);
    }
    return mrcnn::launch<std::uint8_t>(arguments, p.padded_height, cuda_stream);
}
