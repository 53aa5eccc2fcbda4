#include "common/radix_sort.h"

#include <cub/device/device_radix_sort.cuh>

#include "common/cuda_check.h"

namespace mrcnn {

std::size_t radix_sort_scratch(std::int64_t count) {
    // CUB keeps a table of 256 counters of 4 bytes per block and one per pass; its blocks sort over 1024
    // pairs. radix_sort asks CUB before each sort and refuses to work with less than that.
    const std::size_t blocks = static_cast<std::size_t>(count) / 1024 + 1;
    return blocks * 1024 + (std::size_t{128} << 10);
}

MrcnnStatus radix_sort(SortBuffers* buffers, std::int64_t count, int bits, void* scratch,
                       cudaStream_t stream) {
    const int now = buffers->current;
    cub::DoubleBuffer<std::uint64_t> keys(buffers->keys[now], buffers->keys[1 - now]);
    cub::DoubleBuffer<std::uint32_t> values(buffers->values[now], buffers->values[1 - now]);
    const int items = static_cast<int>(count);  // NMS allows fewer than 2^30
    std::size_t needed = 0;
    MRCNN_RETURN_IF_FAILED(
        check_cuda(cub::DeviceRadixSort::SortPairs(nullptr, needed, keys, values, items, 0, bits, stream),
                   "radix sort"));
    std::size_t bytes = radix_sort_scratch(count);
    MRCNN_REQUIRE(needed <= bytes,
                  "radix sort: this CUB needs %zu bytes of scratch for %d pairs, %zu are planned", needed,
                  items, bytes);
    MRCNN_RETURN_IF_FAILED(check_cuda(
        cub::DeviceRadixSort::SortPairs(scratch, bytes, keys, values, items, 0, bits, stream), "radix sort"));
    buffers->current = keys.selector == 0 ? now : 1 - now;
    return MRCNN_OK;
}

}  // namespace mrcnn
