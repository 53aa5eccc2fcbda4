// mrcnn_sanitize
//
// Runs all CUDA kernels on small inputs, along every path through them, and compares with the CPU functions.
// It is made for compute-sanitizer: no framework, every buffer an allocation of its own and exactly as large
// as the contract says, so that a byte too far is found.
//
// Exit status: 0, 1 if a result is wrong or CUDA complains, 77 if there is no GPU.

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "common/half.h"
#include "common/status.h"
#include "nms/nms.h"
#include "resize/resize.h"
#include "roi_align/roi_align.h"

namespace {

constexpr int kNoGpu = 77;

// Features are about N(0, 1); see compare.py for the reasons of both.
constexpr float kTolerance = 1e-5f, kHalfTolerance = 1e-2f;

void check(cudaError_t error, const char* what) {
    if (error == cudaSuccess) return;
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

void check(MrcnnStatus status) {
    if (status != MRCNN_OK) throw std::runtime_error(mrcnnLastError());
}

// Memory on the GPU, exactly as large as asked for; poisoned.
template <typename T>
class DeviceArray {
  public:
    explicit DeviceArray(std::size_t count) : count_(count) {
        check(cudaMalloc(&data_, bytes() == 0 ? 1 : bytes()), "cudaMalloc");
        check(cudaMemset(data_, 0xff, bytes()), "cudaMemset");
    }
    explicit DeviceArray(const std::vector<T>& host) : DeviceArray(host.size()) {
        check(cudaMemcpy(data_, host.data(), bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
    }
    DeviceArray(const DeviceArray&) = delete;
    DeviceArray& operator=(const DeviceArray&) = delete;
    DeviceArray(DeviceArray&& other) noexcept : count_(other.count_), data_(other.data_) {
        other.data_ = nullptr;
    }
    ~DeviceArray() { cudaFree(data_); }

    T* data() { return static_cast<T*>(data_); }
    std::size_t bytes() const { return count_ * sizeof(T); }
    std::vector<T> download() const {
        std::vector<T> host(count_);
        check(cudaMemcpy(host.data(), data_, bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
        return host;
    }

  private:
    std::size_t count_;
    void* data_ = nullptr;
};

// RoIAlign -----------------------------------------------------------------------------------------------

struct PoolCase {
    const char* name;
    MrcnnType type;
    MrcnnLayout features, output;
    int channels, output_size, sampling_ratio, aligned;
    MrcnnPoolMode mode;
};

constexpr int kBatch = 2, kRois = 9, kLevels = 3;
constexpr int kHeights[kLevels] = {40, 20, 10}, kWidths[kLevels] = {52, 26, 13};

std::size_t stored(const PoolCase& c, MrcnnLayout layout) {
    const bool padded = layout == MRCNN_CHANNELS_LAST && c.type == MRCNN_FLOAT16;
    return static_cast<std::size_t>(padded ? (c.channels + 7) / 8 * 8 : c.channels);
}

// Small, large, outside, gigantic (which is pooled without tables), inverted and NaN RoIs in an image of
// 160x208.
std::vector<float> make_rois() {
    const float boxes[kRois][4] = {{3, 4, 30, 40},       {0, 0, 208, 160},   {100, 20, 190, 150},
                                   {-50, -60, 20, 30},   {5, 5, 5.5f, 5.5f}, {-3e3f, -3e3f, 4e3f, 4e3f},
                                   {300, 300, 400, 400}, {80, 90, 20, 10},   {NAN, 0, 10, 10}};
    std::vector<float> rois;
    for (int image = 0; image < kBatch; ++image) rois.insert(rois.end(), boxes[0], boxes[0] + kRois * 4);
    return rois;
}

template <typename T>
T to_type(float value) {
    return mrcnn::from_float<T>(value);
}

template <typename T>
float largest_difference(const std::vector<T>& a, const std::vector<T>& b) {
    float largest = 0.0f;
    for (std::size_t i = 0; i < a.size(); ++i) {
        const float difference = std::fabs(mrcnn::to_float(a[i]) - mrcnn::to_float(b[i]));
        if (!(difference <= largest)) largest = difference;  // a NaN stays
    }
    return largest;
}

template <typename T>
bool pool(const PoolCase& c) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    MrcnnRoIAlignParams host = {};
    host.batch = kBatch;
    host.channels = c.channels;
    host.rois_per_image = kRois;
    host.output_size = c.output_size;
    host.sampling_ratio = c.sampling_ratio;
    host.aligned = c.aligned;
    host.mode = c.mode;
    host.type = c.type;
    host.feature_layout = c.features;
    host.output_layout = c.output;
    host.canonical_size = 56;  // so that all levels have RoIs
    host.canonical_level = 3;
    host.num_levels = kLevels;
    MrcnnRoIAlignParams device = host;
    std::vector<std::vector<T>> levels;
    std::vector<DeviceArray<T>> device_levels;
    for (int i = 0; i < kLevels; ++i) {
        const std::size_t pixels = static_cast<std::size_t>(kBatch * kHeights[i] * kWidths[i]);
        levels.emplace_back(pixels * stored(c, c.features));
        for (T& value : levels.back()) value = to_type<T>(normal(random));
        device_levels.emplace_back(levels.back());
        host.levels[i] = {levels.back().data(), kHeights[i], kWidths[i], 0.25f / static_cast<float>(1 << i)};
        device.levels[i] = host.levels[i];
        device.levels[i].data = device_levels.back().data();
    }
    const std::vector<float> rois = make_rois();
    const std::size_t bins = static_cast<std::size_t>(c.output_size * c.output_size);
    std::vector<T> expected(kBatch * kRois * bins * stored(c, c.output));
    check(mrcnnRoIAlignCpu(&host, rois.data(), expected.data()));

    DeviceArray<float> device_rois(rois);
    DeviceArray<T> output(expected.size());
    check(mrcnnRoIAlignCuda(&device, device_rois.data(), output.data(), nullptr));
    check(cudaDeviceSynchronize(), "RoIAlign");
    const float difference = largest_difference(output.download(), expected);
    const bool right = difference <= (c.type == MRCNN_FLOAT16 ? kHalfTolerance : kTolerance);
    std::printf("%s RoIAlign %s: off by %g\n", right ? "ok" : "WRONG", c.name,
                static_cast<double>(difference));
    return right;
}

constexpr PoolCase kPoolCases[] = {
    {"float32 linear", MRCNN_FLOAT32, MRCNN_LINEAR, MRCNN_LINEAR, 5, 7, 2, 0, MRCNN_AVG},
    {"float32 linear, adaptive max", MRCNN_FLOAT32, MRCNN_LINEAR, MRCNN_LINEAR, 3, 7, 0, 1, MRCNN_MAX},
    {"float16 linear", MRCNN_FLOAT16, MRCNN_LINEAR, MRCNN_LINEAR, 7, 5, 2, 0, MRCNN_MAX},
    {"float32 channels last to linear", MRCNN_FLOAT32, MRCNN_CHANNELS_LAST, MRCNN_LINEAR, 12, 7, 2, 0,
     MRCNN_AVG},
    {"float32 channels last to linear, no vectors", MRCNN_FLOAT32, MRCNN_CHANNELS_LAST, MRCNN_LINEAR, 6, 5, 2,
     1, MRCNN_AVG},
    {"float32 channels last, adaptive", MRCNN_FLOAT32, MRCNN_CHANNELS_LAST, MRCNN_CHANNELS_LAST, 8, 7, 0, 0,
     MRCNN_AVG},
    {"float16 channels last to linear", MRCNN_FLOAT16, MRCNN_CHANNELS_LAST, MRCNN_LINEAR, 13, 7, 2, 0,
     MRCNN_AVG},
    {"float16 channels last to linear, max", MRCNN_FLOAT16, MRCNN_CHANNELS_LAST, MRCNN_LINEAR, 16, 7, 3, 1,
     MRCNN_MAX},
    {"float16 channels last", MRCNN_FLOAT16, MRCNN_CHANNELS_LAST, MRCNN_CHANNELS_LAST, 13, 7, 2, 0,
     MRCNN_AVG},
    {"float16 channels last, adaptive max", MRCNN_FLOAT16, MRCNN_CHANNELS_LAST, MRCNN_CHANNELS_LAST, 9, 3, 0,
     0, MRCNN_MAX},
    {"float16 in several slabs", MRCNN_FLOAT16, MRCNN_CHANNELS_LAST, MRCNN_LINEAR, 83, 14, 1, 0, MRCNN_AVG},
    {"32 bins", MRCNN_FLOAT32, MRCNN_CHANNELS_LAST, MRCNN_LINEAR, 8, 32, 2, 0, MRCNN_AVG},
};

// NMS ----------------------------------------------------------------------------------------------------

struct KeepCase {
    const char* name;
    int batch, candidates, max_output, groups;
    float iou_threshold, score_threshold;
    bool chain;  // each box overlaps its neighbours in the order of scores, else boxes lie anywhere
};

bool keep(const KeepCase& c) {
    std::mt19937 random(11);
    std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
    const std::size_t count = static_cast<std::size_t>(c.batch) * static_cast<std::size_t>(c.candidates);
    std::vector<float> boxes, scores;
    std::vector<std::int32_t> group;
    for (std::size_t i = 0; i < count; ++i) {
        const float place = static_cast<float>(i % static_cast<std::size_t>(c.candidates));
        const float x = c.chain ? 25.0f * place : 200.0f * uniform(random),
                    y = c.chain ? 0 : 200.0f * uniform(random);
        const float width = c.chain ? 100.0f : 60.0f * uniform(random),
                    height = c.chain ? 9 : 60.0f * uniform(random);
        boxes.insert(boxes.end(), {x, y, x + width, y + height});
        // Ties among the scores, and some that are no numbers.
        const float score = std::floor(64.0f * uniform(random)) / 64.0f;
        scores.push_back(c.chain ? 1.0f - place / 1e5f : i % 97 == 5 ? NAN : score);
        group.push_back(
            c.groups == 1 ? -5 : static_cast<std::int32_t>(random() % static_cast<unsigned>(c.groups)) - 3);
    }
    const MrcnnNMSParams params = {c.batch, c.candidates, c.max_output, c.iou_threshold, c.score_threshold};
    std::vector<std::int32_t> indices(static_cast<std::size_t>(c.batch) *
                                      static_cast<std::size_t>(c.max_output));
    std::vector<std::int32_t> kept(static_cast<std::size_t>(c.batch));
    check(mrcnnNMSCpu(&params, boxes.data(), scores.data(), group.data(), indices.data(), kept.data()));

    std::size_t bytes = 0;
    check(mrcnnNMSCudaWorkspace(&params, &bytes));
    DeviceArray<float> device_boxes(boxes), device_scores(scores);
    DeviceArray<std::int32_t> device_group(group), device_indices(indices.size()), device_kept(kept.size());
    DeviceArray<unsigned char> workspace(bytes);
    check(mrcnnNMSCuda(&params, device_boxes.data(), device_scores.data(), device_group.data(),
                       device_indices.data(), device_kept.data(), workspace.data(), bytes, nullptr));
    check(cudaDeviceSynchronize(), "NMS");
    const bool right = device_indices.download() == indices && device_kept.download() == kept;
    std::printf("%s NMS %s: %d kept in the first image\n", right ? "ok" : "WRONG", c.name,
                kept.empty() ? 0 : kept[0]);
    return right;
}

constexpr KeepCase kKeepCases[] = {
    {"of one box", 1, 1, 3, 1, 0.5f, 0.0f, false},
    {"of 33 boxes", 2, 33, 10, 4, 0.5f, 0.1f, false},
    {"of 1025 boxes in one group", 1, 1025, 100, 1, 0.5f, -1.0f, false},
    {"of 3000 boxes in 91 groups", 2, 3000, 300, 91, 0.3f, 0.2f, false},
    {"of 2500 boxes in 1203 groups", 1, 2500, 2500, 1203, 0.5f, -1.0f, false},
    {"of a chain of 2100 boxes", 1, 2100, 2000, 1, 0.5f, -1.0f, true},
    {"with all below the threshold", 2, 500, 20, 3, 0.5f, 2.0f, false},
    {"without candidates", 2, 0, 20, 1, 0.5f, 0.0f, false},
};

// Resize -------------------------------------------------------------------------------------------------

struct ResizeCase {
    const char* name;
    int source_height, source_width, gap, target_height, target_width, padded_height, padded_width, swap;
};

template <typename T>
bool resize(const ResizeCase& c, MrcnnType type, const char* type_name) {
    std::mt19937 random(13);
    const std::int64_t pitch = 3 * c.source_width + c.gap;
    // The last row needs no gap behind it.
    std::vector<std::uint8_t> source(static_cast<std::size_t>(c.source_height * pitch - c.gap));
    for (std::uint8_t& value : source) value = static_cast<std::uint8_t>(random());
    const MrcnnResizeParams params = {c.source_height, c.source_width, pitch,
                                      c.target_height, c.target_width, c.padded_height,
                                      c.padded_width,  c.swap,         type};
    std::vector<T> expected(3 * static_cast<std::size_t>(c.padded_height) *
                            static_cast<std::size_t>(c.padded_width));
    check(mrcnnResizeCpu(&params, source.data(), expected.data()));

    DeviceArray<std::uint8_t> device_source(source);
    DeviceArray<T> output(expected.size());
    check(mrcnnResizeCuda(&params, device_source.data(), output.data(), nullptr));
    check(cudaDeviceSynchronize(), "Resize");
    const bool right = output.download() == expected;
    std::printf("%s Resize %s, %s\n", right ? "ok" : "WRONG", type_name, c.name);
    return right;
}

constexpr ResizeCase kResizeCases[] = {
    {"of one pixel", 1, 1, 0, 1, 1, 1, 1, 0},
    {"larger, rows that begin anywhere", 37, 41, 5, 61, 70, 63, 75, 1},
    {"smaller, more than one block a row", 301, 703, 0, 150, 351, 160, 352, 0},
};

int run_all() {
    int checks = 0, wrong = 0;
    for (const PoolCase& c : kPoolCases) {
        ++checks;
        wrong += !(c.type == MRCNN_FLOAT16 ? pool<mrcnn::Half>(c) : pool<float>(c));
    }
    for (const KeepCase& c : kKeepCases) {
        ++checks;
        wrong += !keep(c);
    }
    for (const ResizeCase& c : kResizeCases) {
        checks += 2;
        wrong += !resize<float>(c, MRCNN_FLOAT32, "float32");
        wrong += !resize<std::uint8_t>(c, MRCNN_UINT8, "uint8");
    }
    std::printf("%d checks, %d wrong\n", checks, wrong);
    return wrong == 0 ? 0 : 1;
}

}  // namespace

int main() {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    int gpus = 0;
    if (cudaGetDeviceCount(&gpus) != cudaSuccess || gpus == 0) {
        std::puts("no GPU");
        return kNoGpu;
    }
    try {
        return run_all();
    } catch (const std::exception& error) {
        std::printf("WRONG %s\n", error.what());
        return 1;
    }
}
