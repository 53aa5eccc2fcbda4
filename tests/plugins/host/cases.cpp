#include "cases.h"

#include <cmath>
#include <string>

namespace host {

using nvinfer1::DataType;
using nvinfer1::TensorFormat;

FieldList roi_align_fields(int levels) {
    std::vector<float> scales;
    for (int level = 0; level < levels; ++level) scales.push_back(std::ldexp(0.25f, -level));
    FieldList fields;
    fields.integer("output_size", 7)
        .integer("sampling_ratio", 2)
        .integer("aligned", 0)
        .text("mode", "avg")
        .reals("spatial_scales", scales)
        .real("canonical_size", 224.0f)
        .integer("canonical_level", 4);
    return fields;
}

FieldList roi_pool_fields() {
    FieldList fields;
    fields.integers("pooled_shape", {7, 7}).real("spatial_scale", 0.0625f);
    return fields;
}

FieldList nms_fields() {
    FieldList fields;
    fields.real("iou_threshold", 0.5f).real("score_threshold", 0.05f).integer("max_output", 100);
    return fields;
}

FieldList fields_of(const std::string& op) {
    return op == kNMS ? nms_fields() : op == kRoIPool ? roi_pool_fields() : roi_align_fields();
}

Tensors roi_align_tensors(const RoIAlignSizes& sizes, DataType type, TensorFormat features,
                          TensorFormat output) {
    Tensors result;
    for (int level = 0; level < sizes.levels; ++level) {
        const nvinfer1::Dims size =
            dims({sizes.batch, sizes.channels, sizes.height(level), sizes.width(level)});
        result.inputs.push_back(tensor(size, type, features));
    }
    result.inputs.push_back(tensor(dims({sizes.batch, sizes.rois, 4})));
    const nvinfer1::Dims pooled = dims({sizes.batch * sizes.rois, sizes.channels, sizes.bins, sizes.bins});
    result.outputs.push_back(tensor(pooled, type, output));
    return result;
}

Tensors roi_pool_tensors(std::int64_t batch, std::int64_t rois, DataType type, std::int64_t bins) {
    constexpr std::int64_t kChannels = 70;
    return {{tensor(dims({batch, kChannels, 20, 27}), type), tensor(dims({batch, rois, 4}))},
            {tensor(dims({batch * rois, kChannels, bins, bins}), type)}};
}

Tensors nms_tensors(std::int64_t batch, std::int64_t candidates, std::int64_t max_output) {
    return {{tensor(dims({batch, candidates, 4})), tensor(dims({batch, candidates})),
             tensor(dims({batch, candidates}), DataType::kINT32)},
            {tensor(dims({batch, max_output}), DataType::kINT32), tensor(dims({batch}), DataType::kINT32)}};
}

Tensors tensors_of(const std::string& op) {
    return op == kNMS ? nms_tensors() : op == kRoIPool ? roi_pool_tensors() : roi_align_tensors();
}

const char* first_input(const std::string& op) {
    return op == kNMS ? "boxes" : op == kRoIPool ? "features" : "feature level 0";
}

std::vector<DataType> all_types() {
    std::vector<DataType> result;
    for (std::int32_t i = 0; i <= nvinfer1::EnumMax<DataType>(); ++i)
        result.push_back(static_cast<DataType>(i));
    return result;
}

std::vector<TensorFormat> all_formats() {
    std::vector<TensorFormat> result;
    const std::int32_t count = nvinfer1::EnumMax<TensorFormat>();
    for (std::int32_t i = 0; i <= count; ++i) result.push_back(static_cast<TensorFormat>(i));
    return result;
}

}  // namespace host
