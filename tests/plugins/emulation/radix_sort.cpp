// Stands in for common/radix_sort.cu, whose work CUB does.

#include "common/radix_sort.h"

#include <algorithm>
#include <vector>

namespace mrcnn {

std::size_t radix_sort_scratch(std::int64_t) { return 256; }

MrcnnStatus radix_sort(SortBuffers* buffers, std::int64_t count, int bits, void*, cudaStream_t) {
    struct Pair {
        std::uint64_t key;
        std::uint32_t value;
    };
    std::vector<Pair> pairs(static_cast<std::size_t>(count));
    const int from = buffers->current, to = 1 - from;
    for (std::size_t i = 0; i < pairs.size(); ++i)
        pairs[i] = {buffers->keys[from][i], buffers->values[from][i]};
    const std::uint64_t mask = bits >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1;
    std::stable_sort(pairs.begin(), pairs.end(),
                     [mask](const Pair& a, const Pair& b) { return (a.key & mask) < (b.key & mask); });
    for (std::size_t i = 0; i < pairs.size(); ++i) {
        buffers->keys[to][i] = pairs[i].key;
        buffers->values[to][i] = pairs[i].value;
        buffers->keys[from][i] = buffers->values[from][i] = 0xabababab;  // what a sort may leave there
    }
    buffers->current = to;
    return MRCNN_OK;
}

}  // namespace mrcnn
