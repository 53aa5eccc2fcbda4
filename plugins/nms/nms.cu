// NMS on the GPU, without a word to the host in between.
//
//   rank      all candidates of a batch are sorted by image and score               (CUB, stable)
//   bucket    ranks are sorted by image and bucket, the group's remainder            (CUB, stable)
//   overlap   of the first kTile boxes of each bucket, who suppresses whom, as bits  (all multiprocessors)
//   resolve   one block per bucket goes through its boxes and marks those kept
//   select    one block per image collects the first max_output marks in order of rank
//
// A bucket may hold several groups; boxes of different groups do not see each other. So the number of buckets
// is fixed while groups may have any values. A bucket of more than kTile boxes goes on tile by tile, compared
// with what it has kept: no limit on candidates, and memory that grows with them linearly.

#include <algorithm>
#include <cstdint>

#include "common/cuda_check.h"
#include "common/error.h"
#include "common/radix_sort.h"
#include "nms/nms.h"
#include "nms/nms_check.h"
#include "nms/nms_math.h"

namespace mrcnn {
namespace {

constexpr int kBucketBits = 8;
constexpr int kBuckets = 1 << kBucketBits;
constexpr int kRefused = kBuckets - 1;  // the bucket of candidates that do not take part
constexpr int kTile = 1024;             // boxes that a block resolves at a time, one per thread
constexpr int kWord = 32;               // boxes whose verdicts fit a word, and threads of a warp
constexpr int kWords = kTile / kWord;
constexpr int kThreads = 256;
constexpr int kFlags = 16;  // flags of kept boxes that a thread loads at a time
constexpr unsigned kAll = 0xffffffffu;

// Where things lie in the workspace. `n` below is batch * candidates.
struct Workspace {
    SortBuffers sort;      // keys and values, n each
    std::uint32_t* order;  // (n,) index of the candidate of each rank
    std::uint32_t* rank;   // (n,) rank of the box at each position of the buckets
    float4* boxes;         // (n,) boxes by position
    std::int32_t* group;   // (n,) their groups
    std::int32_t* begin;   // (batch, kBuckets) first position of each bucket
    std::int32_t* end;     // (batch, kBuckets) one past its last
    std::uint32_t*
        suppressed;       // (kWords, n) bit i of word w of a box: box kWord * w + i of its bucket overlaps it
    std::int32_t* kept;   // (n,) positions that a bucket has kept, from its first position on
    std::uint8_t* flags;  // (batch, flag_stride) whether each rank is kept
    void* scratch;
};

// Cuts pieces off a block of memory; with a null pointer it only counts.
class Carver {
  public:
    explicit Carver(void* memory) : memory_(static_cast<char*>(memory)) {}

    template <typename T>
    T* take(std::int64_t count) {
        void* piece = memory_ == nullptr ? nullptr : memory_ + used_;
        used_ += (static_cast<std::size_t>(count) * sizeof(T) + 255) / 256 * 256;
        return static_cast<T*>(piece);
    }

    std::size_t used() const { return used_; }

  private:
    char* memory_;
    std::size_t used_ = 0;
};

std::int64_t flag_stride(const MrcnnNMSParams& params) {
    return (static_cast<std::int64_t>(params.candidates) + kFlags - 1) / kFlags * kFlags;
}

Workspace carve(const MrcnnNMSParams& params, Carver* carver) {
    const std::int64_t n = static_cast<std::int64_t>(params.batch) * params.candidates;
    const std::int64_t buckets = static_cast<std::int64_t>(params.batch) * kBuckets;
    Workspace w = {};
    for (int i = 0; i < 2; ++i) {
        w.sort.keys[i] = carver->take<std::uint64_t>(n);
        w.sort.values[i] = carver->take<std::uint32_t>(n);
    }
    w.order = carver->take<std::uint32_t>(n);
    w.rank = carver->take<std::uint32_t>(n);
    w.boxes = carver->take<float4>(n);
    w.group = carver->take<std::int32_t>(n);
    w.begin = carver->take<std::int32_t>(buckets);
    w.end = carver->take<std::int32_t>(buckets);
    w.suppressed = carver->take<std::uint32_t>(kWords * n);
    w.kept = carver->take<std::int32_t>(n);
    w.flags = carver->take<std::uint8_t>(params.batch * flag_stride(params));
    w.scratch = carver->take<char>(static_cast<std::int64_t>(radix_sort_scratch(n)));
    return w;
}

__device__ __forceinline__ int global_thread() {
    return static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
}

__device__ __forceinline__ Box to_box(float4 v) { return {v.x, v.y, v.z, v.w}; }

// Key (image, descending score); value the candidate's number in the batch.
__global__ void make_score_keys(MrcnnNMSParams params, int n, const float* scores, std::uint64_t* keys,
                                std::uint32_t* values) {
    const int i = global_thread();
    if (i >= n) return;
    const float score = scores[i];
    const std::uint32_t key = takes_part(score, params.score_threshold) ? descending_key(score) : kNoScore;
    keys[i] = static_cast<std::uint64_t>(i / params.candidates) << 32 | key;
    values[i] = static_cast<std::uint32_t>(i);
}

// Key (image, bucket); value the rank.
__global__ void make_bucket_keys(int n, const std::uint64_t* score_keys, const std::uint32_t* by_rank,
                                 const std::int32_t* group, Workspace w, std::uint64_t* keys,
                                 std::uint32_t* values) {
    const int rank = global_thread();
    if (rank >= n) return;
    const std::uint32_t candidate = by_rank[rank];
    const std::uint64_t key = score_keys[rank];
    const bool present = static_cast<std::uint32_t>(key) != kNoScore;
    const std::uint32_t bucket = present ? static_cast<std::uint32_t>(group[candidate]) % kRefused : kRefused;
    w.order[rank] = candidate;
    keys[rank] = (key >> 32) << kBucketBits | bucket;
    values[rank] = static_cast<std::uint32_t>(rank);
}

// Brings the boxes in the order of the buckets and notes where these begin and end.
__global__ void fill_buckets(int n, const std::uint64_t* keys, const std::uint32_t* rank, const float4* boxes,
                             const std::int32_t* group, Workspace w) {
    const int position = global_thread();
    if (position >= n) return;
    const std::uint32_t candidate = w.order[rank[position]];
    w.rank[position] = rank[position];
    w.boxes[position] = boxes[candidate];
    w.group[position] = group[candidate];
    const std::uint64_t key = keys[position];
    if (position == 0 || keys[position - 1] != key) w.begin[key] = position;
    if (position == n - 1 || keys[position + 1] != key) w.end[key] = position + 1;
}

__device__ __forceinline__ bool suppresses(const Workspace& w, int better, const Box& box, int group,
                                           float threshold) {
    return w.group[better] == group && overlap(to_box(w.boxes[better]), box, threshold);
}

// Grid: (positions, words). Only words that say something of better boxes are written, and read.
__global__ void find_overlaps(MrcnnNMSParams params, int n, const std::uint64_t* keys, Workspace w) {
    const int position = global_thread();
    if (position >= n) return;
    const std::uint64_t key = keys[position];
    if ((key & kRefused) == kRefused) return;
    const int begin = w.begin[key];
    const int place = position - begin, word = static_cast<int>(blockIdx.y);
    if (place >= kTile || word > place / kWord) return;
    const Box box = to_box(w.boxes[position]);
    const int group = w.group[position];
    const int first = begin + word * kWord, count = min(kWord, position - first);
    std::uint32_t bits = 0;
    for (int i = 0; i < count; ++i) {
        bits |= static_cast<std::uint32_t>(suppresses(w, first + i, box, group, params.iou_threshold)) << i;
    }
    w.suppressed[static_cast<std::int64_t>(word) * n + position] = bits;
}

// Which lanes of a warp are kept, if bit i of a lane's `better` says that lane i (a lower one) would suppress
// it. A lane is decided once all its better ones are: as many rounds as the longest chain of overlaps.
__device__ __forceinline__ std::uint32_t resolve_warp(std::uint32_t better, bool alive) {
    std::uint32_t kept = 0, undecided = __ballot_sync(kAll, alive);
    while (undecided != 0) {
        const bool dead = (better & kept) != 0;
        const bool free = alive && !dead && (better & undecided) == 0;
        kept |= __ballot_sync(kAll, free);
        alive = alive && !dead && !free;
        undecided = __ballot_sync(kAll, alive);
    }
    return kept;
}

// Grid: (buckets, images); kTile threads. Thread t holds box t of the current tile.
__global__ void __launch_bounds__(kTile)
    resolve(MrcnnNMSParams params, int n, std::int64_t flags_per_image, Workspace w) {
    __shared__ std::uint32_t kept_words[kWords];
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kWord, own_word = thread / kWord;
    const int image = static_cast<int>(blockIdx.y);
    const std::int64_t key = static_cast<std::int64_t>(image) * kBuckets + blockIdx.x;
    const int begin = w.begin[key], end = w.end[key];
    const float threshold = params.iou_threshold;
    int total = 0;  // kept so far; all threads count alike

    for (int tile = begin; tile < end && total < params.max_output; tile += kTile) {
        const int position = tile + thread;
        const bool first_tile = tile == begin;
        bool alive = position < end;
        const Box box = alive ? to_box(w.boxes[position]) : Box{};
        const int group = alive ? w.group[position] : 0;
        for (int k = 0; k < (first_tile ? 0 : total) && alive; ++k) {
            alive = !suppresses(w, w.kept[begin + k], box, group, threshold);
        }
        // Those of a word's boxes, out of `candidates`, that suppress this thread's box.
        const auto better = [&](int word, std::uint32_t candidates) -> std::uint32_t {
            if (!alive) return 0;
            if (first_tile) {
                return w.suppressed[static_cast<std::int64_t>(word) * n + position] & candidates;
            }
            std::uint32_t bits = 0;
            for (std::uint32_t rest = candidates; rest != 0; rest &= rest - 1) {
                const int i = __ffs(static_cast<int>(rest)) - 1;
                const bool hit = suppresses(w, tile + word * kWord + i, box, group, threshold);
                bits |= static_cast<std::uint32_t>(hit) << i;
            }
            return bits;
        };
        const int words = (min(end - tile, kTile) + kWord - 1) / kWord;
        for (int word = 0; word < words && total < params.max_output; ++word) {
            if (own_word == word) {
                const std::uint32_t kept = resolve_warp(better(word, (1u << lane) - 1), alive);
                if ((kept >> lane & 1) != 0) {
                    w.kept[begin + total + __popc(kept & ((1u << lane) - 1))] = position;
                    w.flags[image * flags_per_image + w.rank[position] -
                            static_cast<std::int64_t>(image) * params.candidates] = 1;
                }
                if (lane == 0) kept_words[word] = kept;
            }
            // The one barrier of a word: its slot of kept_words is not written again before a whole tile is
            // through.
            __syncthreads();
            const std::uint32_t kept = kept_words[word];
            total += __popc(kept);
            if (own_word > word && better(word, kept) != 0) alive = false;
        }
    }
}

// Grid: (images,); kTile threads.
__global__ void __launch_bounds__(kTile) select(MrcnnNMSParams params, std::int64_t flags_per_image,
                                                Workspace w, std::int32_t* indices, std::int32_t* count) {
    __shared__ int warp_sums[kWords];
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kWord, warp = thread / kWord;
    const std::int64_t image = blockIdx.x;
    const std::uint8_t* flags = w.flags + image * flags_per_image;
    const std::uint32_t* order = w.order + image * params.candidates;
    std::int32_t* own = indices + image * params.max_output;
    int total = 0;
    for (std::int64_t tile = 0; tile < flags_per_image && total < params.max_output; tile += kTile * kFlags) {
        const std::int64_t first = tile + static_cast<std::int64_t>(thread) * kFlags;
        uint4 loaded = {};
        if (first < flags_per_image) loaded = *reinterpret_cast<const uint4*>(flags + first);
        const std::uint32_t parts[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
        // Flags are bytes of 0 or 1, so that their bits can be counted.
        const int mine = __popc(parts[0]) + __popc(parts[1]) + __popc(parts[2]) + __popc(parts[3]);
        int sum = mine;  // inclusive over the lanes, then over the warps
        for (int step = 1; step < kWord; step *= 2) {
            const int below = __shfl_up_sync(kAll, sum, static_cast<unsigned>(step));
            if (lane >= step) sum += below;
        }
        if (lane == kWord - 1) warp_sums[warp] = sum;
        __syncthreads();
        int place = total + sum - mine;
        for (int i = 0; i < kWords; ++i) {
            if (i < warp) place += warp_sums[i];
            total += warp_sums[i];
        }
        for (int i = 0; i < kFlags && place < params.max_output && mine != 0; ++i) {
            if ((parts[i / 4] >> (8 * (i % 4)) & 1) == 0) continue;
            own[place++] = static_cast<std::int32_t>(order[first + i] - image * params.candidates);
        }
        __syncthreads();  // before warp_sums is written again
    }
    total = min(total, params.max_output);
    for (std::int64_t i = total + thread; i < params.max_output; i += kTile) own[i] = 0;
    if (thread == 0) count[image] = total;
}

// Bits that hold the numbers below `count`.
int bits_for(int count) {
    int bits = 0;
    while ((std::int64_t{1} << bits) < count) ++bits;
    return bits;
}

MrcnnStatus run(const MrcnnNMSParams& params, const float* boxes, const float* scores,
                const std::int32_t* group, std::int32_t* indices, std::int32_t* count, void* workspace,
                cudaStream_t stream) {
    Carver carver(workspace);
    Workspace w = carve(params, &carver);
    const int n = params.batch * params.candidates;
    const int image_bits = bits_for(params.batch);
    const unsigned blocks = static_cast<unsigned>((n + kThreads - 1) / kThreads);
    const auto images = static_cast<unsigned>(params.batch);
    const std::int64_t flags_per_image = flag_stride(params);

    // begin and end lie side by side; buckets without boxes keep 0 and 0.
    const std::size_t bounds =
        static_cast<std::size_t>(reinterpret_cast<char*>(w.suppressed) - reinterpret_cast<char*>(w.begin));
    MRCNN_RETURN_IF_FAILED(check_cuda(cudaMemsetAsync(w.begin, 0, bounds, stream), "NMS: memset"));
    const auto flag_bytes = static_cast<std::size_t>(params.batch * flags_per_image);
    MRCNN_RETURN_IF_FAILED(check_cuda(cudaMemsetAsync(w.flags, 0, flag_bytes, stream), "NMS: memset"));

    SortBuffers sort = w.sort;
    const auto* box_vectors = reinterpret_cast<const float4*>(boxes);
    make_score_keys<<<blocks, kThreads, 0, stream>>>(params, n, scores, sort.keys[0], sort.values[0]);
    MRCNN_RETURN_IF_FAILED(check_launch("NMS: score keys"));
    MRCNN_RETURN_IF_FAILED(radix_sort(&sort, n, 32 + image_bits, w.scratch, stream));

    const int sorted = sort.current, other = 1 - sorted;
    make_bucket_keys<<<blocks, kThreads, 0, stream>>>(n, sort.keys[sorted], sort.values[sorted], group, w,
                                                      sort.keys[other], sort.values[other]);
    MRCNN_RETURN_IF_FAILED(check_launch("NMS: bucket keys"));
    sort.current = other;
    MRCNN_RETURN_IF_FAILED(radix_sort(&sort, n, kBucketBits + image_bits, w.scratch, stream));

    const std::uint64_t* keys = sort.keys[sort.current];
    fill_buckets<<<blocks, kThreads, 0, stream>>>(n, keys, sort.values[sort.current], box_vectors, group, w);
    MRCNN_RETURN_IF_FAILED(check_launch("NMS: buckets"));
    const auto words = static_cast<unsigned>(std::min(kWords, (params.candidates + kWord - 1) / kWord));
    find_overlaps<<<dim3(blocks, words), kThreads, 0, stream>>>(params, n, keys, w);
    MRCNN_RETURN_IF_FAILED(check_launch("NMS: overlaps"));
    resolve<<<dim3(kRefused, images), kTile, 0, stream>>>(params, n, flags_per_image, w);
    MRCNN_RETURN_IF_FAILED(check_launch("NMS: resolve"));
    select<<<images, kTile, 0, stream>>>(params, flags_per_image, w, indices, count);
    return check_launch("NMS: select");
}

}  // namespace
}  // namespace mrcnn

MrcnnStatus mrcnnNMSCudaWorkspace(const MrcnnNMSParams* params, size_t* bytes) {
    MRCNN_RETURN_IF_FAILED(mrcnn::check_sizes(params));
    MRCNN_REQUIRE(bytes != nullptr, "NMS: bytes is null");
    mrcnn::Carver carver(nullptr);
    mrcnn::carve(*params, &carver);
    *bytes = carver.used();
    return MRCNN_OK;
}

MrcnnStatus mrcnnNMSCuda(const MrcnnNMSParams* params, const float* boxes, const float* scores,
                         const int32_t* group, int32_t* indices, int32_t* count, void* workspace,
                         size_t workspace_bytes, void* stream) {
    MRCNN_RETURN_IF_FAILED(mrcnn::check_call(params, boxes, scores, group, indices, count));
    if (params->batch == 0) return MRCNN_OK;
    const auto cuda_stream = static_cast<cudaStream_t>(stream);
    if (params->candidates == 0) {
        const std::size_t images = static_cast<std::size_t>(params->batch);
        const std::size_t rows = images * static_cast<std::size_t>(params->max_output);
        MRCNN_RETURN_IF_FAILED(mrcnn::check_cuda(
            cudaMemsetAsync(indices, 0, rows * sizeof(int32_t), cuda_stream), "NMS: memset"));
        return mrcnn::check_cuda(cudaMemsetAsync(count, 0, images * sizeof(int32_t), cuda_stream),
                                 "NMS: memset");
    }
    std::size_t needed = 0;
    MRCNN_RETURN_IF_FAILED(mrcnnNMSCudaWorkspace(params, &needed));
    MRCNN_REQUIRE(workspace != nullptr, "NMS: workspace is null");
    MRCNN_REQUIRE(workspace_bytes >= needed, "NMS: the workspace must have %zu bytes (got %zu)", needed,
                  workspace_bytes);
    const auto is_aligned = [](const void* pointer) {
        return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0;
    };
    MRCNN_REQUIRE(is_aligned(boxes), "NMS: boxes is not aligned to 16 bytes");
    MRCNN_REQUIRE(is_aligned(workspace), "NMS: the workspace is not aligned to 16 bytes");
    return mrcnn::run(*params, boxes, scores, group, indices, count, workspace, cuda_stream);
}
