// A stable sort of 64-bit keys with 32-bit values on the GPU, which CUB does.
#ifndef MRCNN_PLUGINS_COMMON_RADIX_SORT_H_
#define MRCNN_PLUGINS_COMMON_RADIX_SORT_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "common/status.h"

namespace mrcnn {

// Scratch memory for `count` pairs. Depends on nothing else: not on the GPU, nor on whether there is one.
std::size_t radix_sort_scratch(std::int64_t count);

// Two buffers of keys and of values, each `count` long. `current` (0 or 1) holds the input, then the result.
struct SortBuffers {
    std::uint64_t* keys[2];
    std::uint32_t* values[2];
    int current;
};

// Sorts by the lowest `bits` bits of the keys, ascending; equal keys keep their order. Does not wait.
MrcnnStatus radix_sort(SortBuffers* buffers, std::int64_t count, int bits, void* scratch,
                       cudaStream_t stream);

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_COMMON_RADIX_SORT_H_
