// Data for the ops in any type and format, and what the CPU functions of the library under test make of it.
#ifndef MRCNN_TESTS_PLUGINS_HOST_REFERENCE_H_
#define MRCNN_TESTS_PLUGINS_HOST_REFERENCE_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <string>
#include <vector>

#include "cases.h"
#include "host.h"

namespace host {

using Bytes = std::vector<char>;

// Bytes that a tensor of four or fewer dimensions occupies in its format.
std::size_t stored_bytes(const nvinfer1::PluginTensorDesc& tensor);

// Values in the order of linear format as the tensor stores them, and back. What pads channels is filled with
// NaN, which must not get into any result.
Bytes pack(const std::vector<float>& values, const nvinfer1::PluginTensorDesc& tensor);
std::vector<float> unpack(const Bytes& bytes, const nvinfer1::PluginTensorDesc& tensor);

template <typename T>
Bytes bytes_of(const std::vector<T>& values) {
    const char* begin = reinterpret_cast<const char*>(values.data());
    return Bytes(begin, begin + values.size() * sizeof(T));
}

struct RoIAlignCase {
    RoIAlignSizes sizes;
    nvinfer1::DataType type = nvinfer1::DataType::kFLOAT;
    nvinfer1::TensorFormat features = nvinfer1::TensorFormat::kLINEAR,
                           output = nvinfer1::TensorFormat::kLINEAR;
    std::int32_t sampling_ratio = 2, aligned = 0;
    std::string mode = "avg";

    FieldList fields() const;
    Tensors tensors() const;
    std::string text() const;
};

// Features from -1 to 1, and RoIs of all sizes, some beyond the image, some without area.
struct RoIAlignData {
    RoIAlignData(const RoIAlignCase& which, std::uint32_t seed);
    std::vector<std::vector<float>> levels;
    std::vector<float> rois;  // (batch, rois, 4)

    // The inputs as the case stores them.
    std::vector<Bytes> inputs(const RoIAlignCase& which) const;
};

// mrcnnRoIAlignCpu in the types and formats of the case; the result in linear order.
std::vector<float> pooled_on_cpu(const RoIAlignCase& which, const RoIAlignData& data);

// Compares with tolerances by type: FP32 1e-5 for values up to 1, FP16 two units in the last place.
void expect_close(const std::vector<float>& found, const std::vector<float>& expected,
                  nvinfer1::DataType type);

// Features from -1 to 1, and RoIs of all sizes as RoIAlign's, for roi_pool_tensors().
struct RoIPoolData {
    RoIPoolData(const Tensors& tensors, std::uint32_t seed);
    std::vector<Bytes> inputs;

    // mrcnnRoIPoolCpu of roi_pool_fields() but for the number of bins, as the output lies in memory.
    Bytes pooled_on_cpu(const Tensors& tensors) const;
};

struct NMSData {
    NMSData(std::int64_t batch, std::int64_t candidates, std::uint32_t seed);
    std::vector<float> boxes, scores;  // with ties, and with scores that are no number
    std::vector<std::int32_t> group;   // negative ones too

    std::vector<Bytes> inputs() const { return {bytes_of(boxes), bytes_of(scores), bytes_of(group)}; }
};

struct NMSResult {
    std::vector<std::int32_t> indices, count;
};

// mrcnnNMSCpu with the attributes of nms_fields() but for the number of boxes to keep.
NMSResult suppressed_on_cpu(std::int64_t batch, std::int64_t candidates, std::int32_t max_output,
                            const NMSData& data);

}  // namespace host

#endif  // MRCNN_TESTS_PLUGINS_HOST_REFERENCE_H_
