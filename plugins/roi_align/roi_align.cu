// RoIAlign on the GPU: all levels and images in one launch.
//
// A block pools one RoI for a slab of channels, a thread one bin for the channels of a 16-byte vector. Where
// a RoI's samples lie depends on its row and column only, so that they are found once per block, into tables.

#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>

#include "common/cuda_check.h"
#include "common/error.h"
#include "roi_align/roi_align.h"
#include "roi_align/roi_align_check.h"
#include "roi_align/roi_align_math.h"

namespace mrcnn {
namespace {

constexpr int kThreads = 256;
// Entries of a table; a RoI with more rows or columns of samples is pooled without.
constexpr int kTable = 128;
// Bytes of a slab's output, which is put in order in shared memory. With the tables it stays below the 48 KB
// that a block has everywhere without asking.
constexpr int kTileBytes = 28 * 1024;

// How features are read and pooled values written.
enum class Path {
    kStrided,         // element by element: linear, or channels that do not fill up vectors
    kVectors,         // channels last to channels last
    kVectorsToLinear  // channels last to linear, turned around in shared memory
};

struct Level {
    const void* data;
    int height, width;
    float spatial_scale;
};

struct Arguments {
    Level levels[MRCNN_MAX_LEVELS];
    float thresholds[MRCNN_MAX_LEVELS];
    const float4* rois;
    void* output;
    std::int64_t output_bin_stride, output_channel_stride;  // in elements
    int num_levels, channels, stored_channels, output_stored_channels, slab, rois_per_image, output_size,
        sampling_ratio;
    bool aligned, channels_last;
};

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ void store(float value, float* to) { *to = value; }
__device__ __forceinline__ void store(float value, __half* to) { *to = __float2half_rn(value); }

// The elements that one 16-byte access moves.
template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

template <typename T>
union Vector {
    uint4 raw;
    T elements[kVector<T>];
    __device__ Vector() {}
};

// Channels that a thread pools together.
template <typename T, Path path>
constexpr int kChannels = path == Path::kStrided ? 4 : kVector<T>;

// The channels of one thread in the image of its RoI. Addresses are counted in bytes: a product of two
// unsigned numbers of 32 bits and a sum of 64 are one instruction.
template <typename T, Path path>
struct FeatureMap {
    static constexpr int kCount = kChannels<T, path>;
    const char* data;  // pixel 0 of the thread's first channel
    std::int64_t channel_bytes;
    unsigned pixel_bytes;
    int channels;  // of kCount, how many exist

    __device__ __forceinline__ const char* move(const char* from, int pixels) const {
        return from + static_cast<std::uint64_t>(static_cast<unsigned>(pixels)) * pixel_bytes;
    }

    __device__ __forceinline__ void load(const char* at, float (&values)[kCount]) const {
        if constexpr (path == Path::kStrided) {
#pragma unroll
            for (int k = 0; k < kCount; ++k) {
                const char* element = at + k * channel_bytes;
                values[k] = k < channels ? to_float(__ldg(reinterpret_cast<const T*>(element))) : 0.0f;
            }
        } else {
            Vector<T> vector;
            vector.raw = __ldg(reinterpret_cast<const uint4*>(at));
#pragma unroll
            for (int k = 0; k < kCount; ++k) values[k] = to_float(vector.elements[k]);
        }
    }
};

// The RoI of a block, on its level.
struct Region {
    Axis y, x;
    int height, width;
    float scale;  // of a bin's sum
};

// Neighbours of all samples along one axis; where a sample is outside the map, `low` is -1. Pixels are
// counted in steps of `step`, so that a row and a column add up to a place in the plane. All threads of the
// block fill the table; they must meet before it is read.
__device__ __forceinline__ void fill_table(const Axis& axis, int bins, int size, int step,
                                           Neighbours* table) {
    for (int i = static_cast<int>(threadIdx.x); i < bins * axis.grid; i += kThreads) {
        Neighbours found;
        if (find_neighbours(sample_position(axis, i / axis.grid, i % axis.grid), size, &found)) {
            found.low *= step;
            found.high *= step;
        } else {
            found.low = -1;
        }
        table[i] = found;
    }
}

// Takes one more sample into the sum or the maximum of a bin.
template <bool kMax>
__device__ __forceinline__ void gather(float value, float* pooled) {
    *pooled = kMax ? (value > *pooled ? value : *pooled) : *pooled + value;
}

// The value of a bin after `inside` of its samples were gathered; those outside count as 0.
template <bool kMax>
__device__ __forceinline__ float finish(float pooled, int inside, const Region& region) {
    if (!kMax) return pooled * region.scale;
    // As floats, since the product may exceed an int.
    const float expected = static_cast<float>(region.y.grid) * static_cast<float>(region.x.grid);
    const bool complete = inside > 0 && static_cast<float>(inside) >= expected;
    return complete || pooled > 0.0f ? pooled : 0.0f;
}

template <typename T, Path path, bool kMax>
__device__ __forceinline__ void pool_bin(const FeatureMap<T, path>& map, const Region& region,
                                         const Neighbours* rows, const Neighbours* columns,
                                         float (&pooled)[kChannels<T, path>]) {
    constexpr int kCount = kChannels<T, path>;
#pragma unroll
    for (int k = 0; k < kCount; ++k) pooled[k] = kMax ? -INFINITY : 0.0f;
    int inside = 0;
#pragma unroll 1
    for (int i = 0; i < region.y.grid; ++i) {
        const Neighbours y = rows[i];
        if (y.low < 0) continue;
        const char* const above = map.move(map.data, y.low);
        const char* const below = map.move(map.data, y.high);
#pragma unroll 1
        for (int j = 0; j < region.x.grid; ++j) {
            const Neighbours x = columns[j];
            if (x.low < 0) continue;
            ++inside;
            float corner[4][kCount];
            map.load(map.move(above, x.low), corner[0]);
            map.load(map.move(above, x.high), corner[1]);
            map.load(map.move(below, x.low), corner[2]);
            map.load(map.move(below, x.high), corner[3]);
            const float weight[4] = {y.low_weight * x.low_weight, y.low_weight * x.high_weight,
                                     y.high_weight * x.low_weight, y.high_weight * x.high_weight};
#pragma unroll
            for (int k = 0; k < kCount; ++k) {
                gather<kMax>(weight[0] * corner[0][k] + weight[1] * corner[1][k] + weight[2] * corner[2][k] +
                                 weight[3] * corner[3][k],
                             &pooled[k]);
            }
        }
    }
#pragma unroll
    for (int k = 0; k < kCount; ++k) pooled[k] = finish<kMax>(pooled[k], inside, region);
}

// One bin of one channel without tables, for RoIs with more samples than these hold.
template <typename T, bool kMax>
__device__ float pool_large(const T* map, int pixel_stride, const Region& region, int bin_y, int bin_x) {
    const SampleRange rows = sample_range(region.y, bin_y, region.height);
    const SampleRange columns = sample_range(region.x, bin_x, region.width);
    float pooled = kMax ? -INFINITY : 0.0f;
    int inside = 0;
#pragma unroll 1
    for (int i = rows.first; i < rows.last; ++i) {
        Neighbours y;
        if (!find_neighbours(sample_position(region.y, bin_y, i), region.height, &y)) continue;
#pragma unroll 1
        for (int j = columns.first; j < columns.last; ++j) {
            Neighbours x;
            if (!find_neighbours(sample_position(region.x, bin_x, j), region.width, &x)) continue;
            ++inside;
            const auto at = [&](int row, int column) {
                return to_float(
                    __ldg(map + static_cast<std::int64_t>(row * region.width + column) * pixel_stride));
            };
            gather<kMax>(y.low_weight * x.low_weight * at(y.low, x.low) +
                             y.low_weight * x.high_weight * at(y.low, x.high) +
                             y.high_weight * x.low_weight * at(y.high, x.low) +
                             y.high_weight * x.high_weight * at(y.high, x.high),
                         &pooled);
        }
    }
    return finish<kMax>(pooled, inside, region);
}

// Copies a slab from shared memory to where it lies in the output, without a gap.
template <typename T>
__device__ __forceinline__ void copy_tile(const T* tile, T* output, int elements) {
    constexpr int kCount = kVector<T>;
    const bool whole = reinterpret_cast<std::uintptr_t>(output) % 16 == 0 && elements % kCount == 0;
    if (whole) {
#pragma unroll 2
        for (int i = static_cast<int>(threadIdx.x); i < elements / kCount; i += kThreads) {
            reinterpret_cast<uint4*>(output)[i] = reinterpret_cast<const uint4*>(tile)[i];
        }
    } else {
#pragma unroll 2
        for (int i = static_cast<int>(threadIdx.x); i < elements; i += kThreads) output[i] = tile[i];
    }
}

// What a block has to do: its RoI, and where the features and the output of its slab lie.
template <typename T>
struct Work {
    Region region;
    const T* image;                              // pixel 0 of channel 0 of the RoI's image, on its level
    std::int64_t channel_stride;                 // in elements
    int pixel_stride;                            // in elements
    T* output;                                   // bin 0 of channel 0 of the RoI
    std::int64_t bin_step, output_channel_step;  // in elements
    int first_channel, slab;

    __device__ __forceinline__ T* place(int channel, int bin) const {
        return output + bin * bin_step + channel * output_channel_step;
    }
};

// `limit`: channels to write in all.
template <typename T>
__device__ __forceinline__ Work<T> make_work(const Arguments& arguments, int limit) {
    const std::int64_t n = blockIdx.x;
    const float4 corners = __ldg(arguments.rois + n);
    const Box roi = {corners.x, corners.y, corners.z, corners.w};
    const Level& level = arguments.levels[level_of(roi, arguments.thresholds, arguments.num_levels)];
    const int size = arguments.output_size;
    const auto axis = [&](float low, float high) {
        return make_axis(low, high, level.spatial_scale, arguments.aligned, size, arguments.sampling_ratio);
    };
    const std::int64_t plane = static_cast<std::int64_t>(level.height) * level.width;
    Work<T> work;
    work.region.y = axis(roi.y1, roi.y2);
    work.region.x = axis(roi.x1, roi.x2);
    work.region.height = level.height;
    work.region.width = level.width;
    work.region.scale = inverse_count(work.region.y, work.region.x);
    work.image =
        static_cast<const T*>(level.data) + n / arguments.rois_per_image * plane * arguments.stored_channels;
    work.channel_stride = arguments.channels_last ? 1 : plane;
    work.pixel_stride = arguments.channels_last ? arguments.stored_channels : 1;
    work.output = static_cast<T*>(arguments.output) + n * size * size * arguments.output_stored_channels;
    work.bin_step = arguments.output_bin_stride;
    work.output_channel_step = arguments.output_channel_stride;
    work.first_channel = static_cast<int>(blockIdx.y) * arguments.slab;
    work.slab = min(arguments.slab, limit - work.first_channel);
    return work;
}

// Element by element, for RoIs whose samples do not fit the tables.
template <typename T, bool kMax>
__device__ __forceinline__ void pool_without_tables(const Arguments& arguments, const Work<T>& work) {
    const int size = arguments.output_size, bins = size * size;
    for (int item = static_cast<int>(threadIdx.x); item < bins * work.slab; item += kThreads) {
        const int bin = item % bins, channel = work.first_channel + item / bins;
        float value = 0.0f;  // also what fills up the channels of a padded layout
        if (channel < arguments.channels) {
            value = pool_large<T, kMax>(work.image + channel * work.channel_stride, work.pixel_stride,
                                        work.region, bin / size, bin % size);
        }
        store(value, work.place(channel, bin));
    }
}

// Grid: (RoIs, slabs of channels).
template <typename T, Path path, bool kMax>
__global__ void __launch_bounds__(kThreads, 4) roi_align_kernel(const __grid_constant__ Arguments arguments) {
    constexpr int kCount = kChannels<T, path>;
    __shared__ Neighbours rows[kTable], columns[kTable];
    extern __shared__ uint4 tile_memory[];
    T* const tile = reinterpret_cast<T*>(tile_memory);

    // Channels-last output is written up to its padding, linear output up to the last channel.
    const Work<T> work = make_work<T>(
        arguments, path == Path::kVectors ? arguments.output_stored_channels : arguments.channels);
    const Region& region = work.region;
    const int size = arguments.output_size, bins = size * size;
    if (max(region.y.grid, region.x.grid) > kTable / size) {
        pool_without_tables<T, kMax>(arguments, work);
        return;
    }
    fill_table(region.y, size, region.height, region.width, rows);
    fill_table(region.x, size, region.width, 1, columns);
    __syncthreads();

    const int vectors = (work.slab + kCount - 1) / kCount;
    for (int item = static_cast<int>(threadIdx.x); item < bins * vectors; item += kThreads) {
        // Neighbouring threads read what lies side by side: channels, or bins of one plane.
        const int bin = path == Path::kStrided ? item % bins : item / vectors;
        const int in_slab = kCount * (path == Path::kStrided ? item / bins : item % vectors);
        const int channel = work.first_channel + in_slab, present = arguments.channels - channel;
        constexpr int kBytes = static_cast<int>(sizeof(T));
        const FeatureMap<T, path> map = {
            reinterpret_cast<const char*>(work.image + channel * work.channel_stride),
            work.channel_stride * kBytes, static_cast<unsigned>(work.pixel_stride * kBytes), present};
        float pooled[kCount];
        pool_bin<T, path, kMax>(map, region, rows + bin / size * region.y.grid,
                                columns + bin % size * region.x.grid, pooled);
        Vector<T> vector;
#pragma unroll
        for (int k = 0; k < kCount; ++k) {
            if constexpr (path == Path::kVectors) {
                store(k < present ? pooled[k] : 0.0f, &vector.elements[k]);
            } else if constexpr (path == Path::kVectorsToLinear) {
                // The tile has room for whole vectors; what lies past the last channel is not copied.
                store(pooled[k], tile + (in_slab + k) * bins + bin);
            } else if (k < present) {
                store(pooled[k], work.place(channel + k, bin));
            }
        }
        if constexpr (path == Path::kVectors) {
            *reinterpret_cast<uint4*>(work.place(channel, bin)) = vector.raw;
        }
    }
    if constexpr (path == Path::kVectorsToLinear) {
        __syncthreads();
        copy_tile(tile, work.place(work.first_channel, 0), work.slab * bins);
    }
}

int divide_up(int a, int b) { return (a + b - 1) / b; }

template <typename T, Path path, bool kMax>
MrcnnStatus launch(Arguments arguments, std::int64_t rois, cudaStream_t stream) {
    constexpr int kElements = kVector<T>;
    const int bins = arguments.output_size * arguments.output_size;
    const int limit = path == Path::kVectors ? arguments.output_stored_channels : arguments.channels;
    // As few slabs as tiles can hold, of nearly equal size. One vector always fits, see check_attributes.
    const int vectors = divide_up(limit, kElements);
    const int fitting = std::max(1, kTileBytes / (bins * 16));
    const int per_slab = divide_up(vectors, divide_up(vectors, fitting));
    const int slabs = divide_up(vectors, per_slab);
    // check_call limits the channels, so that slabs fit the grid.
    arguments.slab = per_slab * kElements;
    const std::size_t tile_bytes =
        path == Path::kVectorsToLinear ? static_cast<std::size_t>(arguments.slab) * bins * sizeof(T) : 0;
    const dim3 grid(static_cast<unsigned>(rois), static_cast<unsigned>(slabs));
    roi_align_kernel<T, path, kMax><<<grid, kThreads, tile_bytes, stream>>>(arguments);
    return check_launch("RoIAlign: launch");
}

template <typename T>
MrcnnStatus choose_path(const MrcnnRoIAlignParams& params, const Arguments& arguments, std::int64_t rois,
                        cudaStream_t stream) {
    const bool take_max = params.mode == MRCNN_MAX;
    const auto run = [&](auto average, auto largest) { return take_max ? largest() : average(); };
    const bool vectors = arguments.channels_last && arguments.stored_channels % kVector<T> == 0;
    if (!vectors) {
        return run([&] { return launch<T, Path::kStrided, false>(arguments, rois, stream); },
                   [&] { return launch<T, Path::kStrided, true>(arguments, rois, stream); });
    }
    if (params.output_layout == MRCNN_CHANNELS_LAST) {
        return run([&] { return launch<T, Path::kVectors, false>(arguments, rois, stream); },
                   [&] { return launch<T, Path::kVectors, true>(arguments, rois, stream); });
    }
    return run([&] { return launch<T, Path::kVectorsToLinear, false>(arguments, rois, stream); },
               [&] { return launch<T, Path::kVectorsToLinear, true>(arguments, rois, stream); });
}

Arguments make_arguments(const MrcnnRoIAlignParams& params, const float* rois, void* output) {
    Arguments arguments = {};
    for (int i = 0; i < params.num_levels; ++i) {
        const MrcnnFeatureLevel& level = params.levels[i];
        arguments.levels[i] = {level.data, level.height, level.width, level.spatial_scale};
    }
    mrcnnRoIAlignLevelThresholds(&params, arguments.thresholds);
    arguments.rois = reinterpret_cast<const float4*>(rois);
    arguments.output = output;
    arguments.num_levels = params.num_levels;
    arguments.channels = params.channels;
    arguments.stored_channels = static_cast<int>(stored_channels(params, params.feature_layout));
    arguments.output_stored_channels = static_cast<int>(stored_channels(params, params.output_layout));
    arguments.rois_per_image = params.rois_per_image;
    arguments.output_size = params.output_size;
    arguments.sampling_ratio = params.sampling_ratio;
    arguments.aligned = params.aligned != 0;
    arguments.channels_last = params.feature_layout == MRCNN_CHANNELS_LAST;
    const std::int64_t bins = static_cast<std::int64_t>(params.output_size) * params.output_size;
    const bool output_last = params.output_layout == MRCNN_CHANNELS_LAST;
    arguments.output_bin_stride = output_last ? arguments.output_stored_channels : 1;
    arguments.output_channel_stride = output_last ? 1 : bins;
    return arguments;
}

}  // namespace
}  // namespace mrcnn

MrcnnStatus mrcnnRoIAlignCuda(const MrcnnRoIAlignParams* params, const float* rois, void* output,
                              void* stream) {
    MRCNN_RETURN_IF_FAILED(mrcnn::check_call(params, rois, output));
    if (mrcnn::nothing_to_pool(*params)) return MRCNN_OK;
    MRCNN_REQUIRE(reinterpret_cast<std::uintptr_t>(rois) % 16 == 0,
                  "RoIAlign: rois is not aligned to 16 bytes");
    const mrcnn::Arguments arguments = mrcnn::make_arguments(*params, rois, output);
    const std::int64_t count = static_cast<std::int64_t>(params->batch) * params->rois_per_image;
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    if (params->type == MRCNN_FLOAT16) {
        return mrcnn::choose_path<__half>(*params, arguments, count, cuda_stream);
    }
    return mrcnn::choose_path<float>(*params, arguments, count, cuda_stream);
}
