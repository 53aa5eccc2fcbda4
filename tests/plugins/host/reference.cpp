#include "reference.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "common/half.h"
#include "nms/nms.h"
#include "roi_align/roi_align.h"
#include "roi_pool/roi_pool.h"

namespace host {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Uniform between two numbers, the same with every standard library.
class Random {
  public:
    explicit Random(std::uint32_t seed) : engine_(seed) {}
    float between(float low, float high) {
        return low + (high - low) * static_cast<float>(engine_() >> 8) * (1.0f / 16777216.0f);
    }
    std::uint32_t below(std::uint32_t count) { return static_cast<std::uint32_t>(engine_()) % count; }

  private:
    std::mt19937 engine_;
};

// N, C, H, W; absent dimensions are 1.
std::array<std::int64_t, 4> sizes_of(const PluginTensorDesc& tensor) {
    std::array<std::int64_t, 4> sizes = {1, 1, 1, 1};
    std::copy(tensor.dims.d, tensor.dims.d + tensor.dims.nbDims, sizes.begin());
    return sizes;
}

std::int64_t stored_channels(const PluginTensorDesc& tensor) {
    const std::int64_t channels = sizes_of(tensor)[1];
    return tensor.format == TensorFormat::kHWC8 ? (channels + 7) / 8 * 8 : channels;
}

std::size_t size_of(DataType type) { return type == DataType::kHALF ? 2 : 4; }

// Calls `visit(number in linear order, number of the element in memory)` for every element.
template <typename Visit>
void for_each(const PluginTensorDesc& tensor, Visit visit) {
    const auto [n, c, h, w] = sizes_of(tensor);
    const std::int64_t stored = stored_channels(tensor);
    std::size_t linear = 0;
    for (std::int64_t i = 0; i < n; ++i) {
        for (std::int64_t k = 0; k < c; ++k) {
            for (std::int64_t pixel = 0; pixel < h * w; ++pixel, ++linear) {
                const bool last = tensor.format != TensorFormat::kLINEAR;
                visit(linear, last ? static_cast<std::size_t>((i * h * w + pixel) * stored + k) : linear);
            }
        }
    }
}

void put(Bytes& bytes, std::size_t element, float value, DataType type) {
    if (type == DataType::kHALF) {
        const mrcnn::Half half = mrcnn::from_float<mrcnn::Half>(value);
        std::memcpy(&bytes[element * sizeof half], &half, sizeof half);
    } else {
        std::memcpy(&bytes[element * sizeof value], &value, sizeof value);
    }
}

float get(const Bytes& bytes, std::size_t element, DataType type) {
    if (type == DataType::kHALF) {
        mrcnn::Half half;
        std::memcpy(&half, &bytes[element * sizeof half], sizeof half);
        return mrcnn::to_float(half);
    }
    float value;
    std::memcpy(&value, &bytes[element * sizeof value], sizeof value);
    return value;
}

// The distance of neighbouring FP16 numbers at that size.
float unit_of_half(float value) {
    const float magnitude = std::max(std::fabs(value), 6.103515625e-5f);  // below, all have one distance
    return std::ldexp(1.0f, std::ilogb(magnitude) - 10);
}

MrcnnRoIAlignParams params_of(const RoIAlignCase& which) {
    MrcnnRoIAlignParams params = {};
    params.batch = static_cast<std::int32_t>(which.sizes.batch);
    params.channels = static_cast<std::int32_t>(which.sizes.channels);
    params.rois_per_image = static_cast<std::int32_t>(which.sizes.rois);
    params.output_size = static_cast<std::int32_t>(which.sizes.bins);
    params.sampling_ratio = which.sampling_ratio;
    params.aligned = which.aligned;
    params.mode = which.mode == "max" ? MRCNN_MAX : MRCNN_AVG;
    params.type = which.type == DataType::kHALF ? MRCNN_FLOAT16 : MRCNN_FLOAT32;
    params.feature_layout = which.features == TensorFormat::kLINEAR ? MRCNN_LINEAR : MRCNN_CHANNELS_LAST;
    params.output_layout = which.output == TensorFormat::kLINEAR ? MRCNN_LINEAR : MRCNN_CHANNELS_LAST;
    params.canonical_size = 224.0f;
    params.canonical_level = 4;
    params.num_levels = which.sizes.levels;
    return params;
}

}  // namespace

std::size_t stored_bytes(const PluginTensorDesc& tensor) {
    const auto [n, c, h, w] = sizes_of(tensor);
    (void)c;
    return static_cast<std::size_t>(n * stored_channels(tensor) * h * w) * size_of(tensor.type);
}

Bytes pack(const std::vector<float>& values, const PluginTensorDesc& tensor) {
    Bytes bytes(stored_bytes(tensor));
    const std::size_t elements = bytes.size() / size_of(tensor.type);
    for (std::size_t i = 0; i < elements; ++i) put(bytes, i, kNaN, tensor.type);
    for_each(tensor,
             [&](std::size_t linear, std::size_t place) { put(bytes, place, values[linear], tensor.type); });
    return bytes;
}

std::vector<float> unpack(const Bytes& bytes, const PluginTensorDesc& tensor) {
    std::vector<float> values;
    for_each(tensor,
             [&](std::size_t, std::size_t place) { values.push_back(get(bytes, place, tensor.type)); });
    return values;
}

FieldList RoIAlignCase::fields() const {
    FieldList result = roi_align_fields(sizes.levels);
    result.integer("output_size", static_cast<std::int32_t>(sizes.bins))
        .integer("sampling_ratio", sampling_ratio)
        .integer("aligned", aligned)
        .text("mode", mode);
    return result;
}

Tensors RoIAlignCase::tensors() const { return roi_align_tensors(sizes, type, features, output); }

std::string RoIAlignCase::text() const {
    return std::to_string(sizes.batch) + " images, " + std::to_string(sizes.rois) + " RoIs, " +
           std::to_string(sizes.channels) + " channels, " + std::to_string(sizes.levels) + " levels, " +
           std::to_string(sizes.bins) + " bins, sampling " + std::to_string(sampling_ratio) + ", aligned " +
           std::to_string(aligned) + ", " + mode;
}

namespace {

// RoIs of 1 to 1024 pixels a side in and around an image, some of them without area.
std::vector<float> random_rois(Random& random, std::int64_t count, float height, float width) {
    std::vector<float> rois;
    for (std::int64_t i = 0; i < count; ++i) {
        const float x = random.between(-0.2f * width, 1.2f * width),
                    y = random.between(-0.2f * height, 1.2f * height);
        const float right = x + std::exp2(random.between(0.0f, 10.0f)),
                    below = y + std::exp2(random.between(0.0f, 10.0f));
        const bool flat = i % 11 == 10;
        rois.insert(rois.end(), {x, y, right, flat ? y : below});
    }
    return rois;
}

}  // namespace

RoIAlignData::RoIAlignData(const RoIAlignCase& which, std::uint32_t seed) {
    Random random(seed);
    const RoIAlignSizes& sizes = which.sizes;
    for (int level = 0; level < sizes.levels; ++level) {
        std::vector<float> values(static_cast<std::size_t>(sizes.batch * sizes.channels *
                                                           sizes.height(level) * sizes.width(level)));
        for (float& value : values) value = random.between(-1.0f, 1.0f);
        levels.push_back(values);
    }
    const float height = 4.0f * static_cast<float>(sizes.height(0)),
                width = 4.0f * static_cast<float>(sizes.width(0));
    rois = random_rois(random, sizes.batch * sizes.rois, height, width);
}

std::vector<Bytes> RoIAlignData::inputs(const RoIAlignCase& which) const {
    const Tensors tensors = which.tensors();
    std::vector<Bytes> result;
    for (std::size_t i = 0; i < levels.size(); ++i) result.push_back(pack(levels[i], tensors.inputs[i]));
    result.push_back(bytes_of(rois));
    return result;
}

std::vector<float> pooled_on_cpu(const RoIAlignCase& which, const RoIAlignData& data) {
    MrcnnRoIAlignParams params = params_of(which);
    const std::vector<Bytes> inputs = data.inputs(which);
    for (int level = 0; level < which.sizes.levels; ++level) {
        params.levels[level] = {inputs[static_cast<std::size_t>(level)].data(),
                                static_cast<std::int32_t>(which.sizes.height(level)),
                                static_cast<std::int32_t>(which.sizes.width(level)),
                                std::ldexp(0.25f, -level)};
    }
    const PluginTensorDesc output = which.tensors().outputs[0];
    Bytes pooled(stored_bytes(output));
    const auto function = library().function<decltype(mrcnnRoIAlignCpu)>("mrcnnRoIAlignCpu");
    EXPECT_EQUAL(function(&params, data.rois.data(), pooled.data()), MRCNN_OK);
    return unpack(pooled, output);
}

void expect_close(const std::vector<float>& found, const std::vector<float>& expected, DataType type) {
    constexpr float kFloatTolerance = 1e-5f;  // sums of up to 64 * 64 samples, in any order
    EXPECT_EQUAL(found.size(), expected.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
        const float half = type == DataType::kHALF ? 2.0f * unit_of_half(expected[i]) : 0.0f;
        const float difference = std::fabs(found[i] - expected[i]);
        if (difference <= std::max(kFloatTolerance, half)) continue;  // false for NaN
        const Note note("element " + std::to_string(i));
        EXPECT_EQUAL(found[i], expected[i]);
    }
}

RoIPoolData::RoIPoolData(const Tensors& tensors, std::uint32_t seed) {
    Random random(seed);
    const auto [batch, channels, height, width] = sizes_of(tensors.inputs[0]);
    std::vector<float> features(static_cast<std::size_t>(batch * channels * height * width));
    for (float& value : features) value = random.between(-1.0f, 1.0f);
    const std::vector<float> rois =
        random_rois(random, batch * tensors.inputs[1].dims.d[1], 16.0f * static_cast<float>(height),
                    16.0f * static_cast<float>(width));
    inputs = {pack(features, tensors.inputs[0]), bytes_of(rois)};
}

Bytes RoIPoolData::pooled_on_cpu(const Tensors& tensors) const {
    const auto [batch, channels, height, width] = sizes_of(tensors.inputs[0]);
    const PluginTensorDesc& output = tensors.outputs[0];
    MrcnnRoIPoolParams params = {};
    params.batch = static_cast<std::int32_t>(batch);
    params.channels = static_cast<std::int32_t>(channels);
    params.height = static_cast<std::int32_t>(height);
    params.width = static_cast<std::int32_t>(width);
    params.rois_per_image = static_cast<std::int32_t>(tensors.inputs[1].dims.d[1]);
    params.output_height = static_cast<std::int32_t>(output.dims.d[2]);
    params.output_width = static_cast<std::int32_t>(output.dims.d[3]);
    params.type = output.type == DataType::kHALF ? MRCNN_FLOAT16 : MRCNN_FLOAT32;
    params.spatial_scale = 0.0625f;
    Bytes pooled(stored_bytes(output));
    const std::vector<float> rois = unpack(inputs[1], tensors.inputs[1]);
    const auto function = library().function<decltype(mrcnnRoIPoolCpu)>("mrcnnRoIPoolCpu");
    EXPECT_EQUAL(function(&params, inputs[0].data(), rois.data(), pooled.data()), MRCNN_OK);
    return pooled;
}

NMSData::NMSData(std::int64_t batch, std::int64_t candidates, std::uint32_t seed) {
    Random random(seed);
    for (std::int64_t i = 0; i < batch * candidates; ++i) {
        const float x = random.between(0.0f, 300.0f), y = random.between(0.0f, 300.0f);
        const float right = x + random.between(0.0f, 100.0f), below = y + random.between(0.0f, 100.0f);
        boxes.insert(boxes.end(), {x, y, right, below});
        // 64 values, so that ties are frequent.
        scores.push_back(i % 97 == 96 ? kNaN : static_cast<float>(random.below(64)) / 64.0f);
        group.push_back(static_cast<std::int32_t>(random.below(7)) - 3);
    }
}

NMSResult suppressed_on_cpu(std::int64_t batch, std::int64_t candidates, std::int32_t max_output,
                            const NMSData& data) {
    MrcnnNMSParams params = {};
    params.batch = static_cast<std::int32_t>(batch);
    params.candidates = static_cast<std::int32_t>(candidates);
    params.max_output = max_output;
    params.iou_threshold = 0.5f;
    params.score_threshold = 0.05f;
    NMSResult result;
    result.indices.resize(static_cast<std::size_t>(batch * max_output));
    result.count.resize(static_cast<std::size_t>(batch));
    const auto function = library().function<decltype(mrcnnNMSCpu)>("mrcnnNMSCpu");
    EXPECT_EQUAL(function(&params, data.boxes.data(), data.scores.data(), data.group.data(),
                          result.indices.data(), result.count.data()),
                 MRCNN_OK);
    return result;
}

CHECK(reference_formats, "the CPU function, which the GPU is compared with, pools alike in every format") {
    for (const std::int64_t channels : {8, 5}) {
        RoIAlignCase linear;
        linear.sizes.channels = channels;
        const Note note(std::to_string(channels) + " channels");
        for (const DataType type : {DataType::kFLOAT, DataType::kHALF}) {
            linear.type = type;
            const RoIAlignData data(linear, 7);
            const std::vector<float> expected = pooled_on_cpu(linear, data);
            EXPECT(*std::max_element(expected.begin(), expected.end()) > 0.1f);
            RoIAlignCase other = linear;
            other.features = type == DataType::kHALF ? TensorFormat::kHWC8 : TensorFormat::kHWC;
            EXPECT(pooled_on_cpu(other, data) == expected);
            other.output = other.features;
            EXPECT(pooled_on_cpu(other, data) == expected);
        }
    }
}

}  // namespace host
