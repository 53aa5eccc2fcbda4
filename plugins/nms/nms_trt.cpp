#include "nms/nms_trt.h"

#include <algorithm>

#include "common/error.h"
#include "common/trt_tensors.h"
#include "nms/nms_check.h"

namespace mrcnn {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

enum Input { kBoxes, kScores, kGroup };
enum Output { kIndices, kCount };

MrcnnNMSParams base_params(const NMSOp::Attributes& attributes) {
    MrcnnNMSParams params = {};
    params.max_output = attributes.max_output;
    params.iou_threshold = attributes.iou_threshold;
    params.score_threshold = attributes.score_threshold;
    return params;
}

// The sizes are equal in all inputs, their bounds need not be: then the tightest holds for all.
MrcnnNMSParams params_of(const NMSOp::Attributes& attributes, const PluginTensorDesc* inputs) {
    const auto least = [inputs](int d) {
        const std::int64_t others = std::min(inputs[kScores].dims.d[d], inputs[kGroup].dims.d[d]);
        return static_cast<std::int32_t>(std::min(inputs[kBoxes].dims.d[d], others));
    };
    MrcnnNMSParams params = base_params(attributes);
    params.batch = least(0);
    params.candidates = least(1);
    return params;
}

std::size_t workspace_bytes(const MrcnnNMSParams& params) {
    std::size_t bytes = 0;
    if (mrcnnNMSCudaWorkspace(&params, &bytes) != MRCNN_OK) throw PluginError(mrcnnLastError());
    return bytes;
}

}  // namespace

Fields NMSOp::field_names() {
    return {{"iou_threshold", nullptr, PluginFieldType::kFLOAT32, 1},
            {"score_threshold", nullptr, PluginFieldType::kFLOAT32, 1},
            {"max_output", nullptr, PluginFieldType::kINT32, 1}};
}

NMSOp::Attributes NMSOp::read(FieldReader& reader) {
    Attributes attributes;
    attributes.iou_threshold = reader.real("iou_threshold");
    attributes.score_threshold = reader.real("score_threshold");
    attributes.max_output = reader.integer("max_output");
    if (check_attributes(base_params(attributes)) != MRCNN_OK) throw PluginError(mrcnnLastError());
    return attributes;
}

Fields NMSOp::fields(const Attributes& attributes) {
    return {field("iou_threshold", &attributes.iou_threshold),
            field("score_threshold", &attributes.score_threshold),
            field("max_output", &attributes.max_output)};
}

std::vector<DataType> NMSOp::output_types(const Attributes&, const DataType* inputs) {
    require_type("boxes", inputs[kBoxes], DataType::kFLOAT, "FP32");
    require_type("scores", inputs[kScores], DataType::kFLOAT, "FP32");
    require_type("group", inputs[kGroup], DataType::kINT32, "INT32");
    return {DataType::kINT32, DataType::kINT32};
}

void NMSOp::output_shapes(const Attributes& attributes, const nvinfer1::DimsExprs* inputs,
                          nvinfer1::DimsExprs* outputs, nvinfer1::IExprBuilder& builder) {
    const nvinfer1::DimsExprs& boxes = inputs[kBoxes];
    require_rank("boxes", boxes, 3);
    require_rank("scores", inputs[kScores], 2);
    require_rank("group", inputs[kGroup], 2);
    if (differ(boxes.d[2], builder.constant(4))) throw PluginError("boxes must have 4 coordinates");
    for (std::int32_t d = 0; d < 2; ++d) {
        if (differ(boxes.d[d], inputs[kScores].d[d]) || differ(boxes.d[d], inputs[kGroup].d[d])) {
            throw PluginError("boxes, scores and group must have the same batch and number of candidates");
        }
    }
    outputs[kIndices].nbDims = 2;
    outputs[kIndices].d[0] = boxes.d[0];
    outputs[kIndices].d[1] = builder.constant(attributes.max_output);
    outputs[kCount].nbDims = 1;
    outputs[kCount].d[0] = boxes.d[0];
}

bool NMSOp::supports(const Attributes&, std::int32_t position,
                     const nvinfer1::DynamicPluginTensorDesc* tensors) {
    const bool is_real = position == kBoxes || position == kScores;
    return is_linear(tensors[position].desc, is_real ? DataType::kFLOAT : DataType::kINT32);
}

void NMSOp::check_bounds(const Attributes& attributes, const PluginTensorDesc* inputs) {
    require_linear("boxes", inputs[kBoxes], DataType::kFLOAT, "FP32");
    require_linear("scores", inputs[kScores], DataType::kFLOAT, "FP32");
    require_linear("group", inputs[kGroup], DataType::kINT32, "INT32");
    require_dims("boxes", inputs[kBoxes].dims, {-1, -1, 4});
    require_dims("scores", inputs[kScores].dims, {-1, -1});
    require_dims("group", inputs[kGroup].dims, {-1, -1});
    const MrcnnNMSParams params = params_of(attributes, inputs);
    if (check_sizes(&params) != MRCNN_OK) throw PluginError(mrcnnLastError());
}

void NMSOp::check(const Attributes& attributes, const PluginTensorDesc* inputs,
                  const PluginTensorDesc* outputs) {
    check_bounds(attributes, inputs);
    const std::int64_t batch = inputs[kBoxes].dims.d[0], candidates = inputs[kBoxes].dims.d[1];
    require_dims("scores", inputs[kScores].dims, {batch, candidates});
    require_dims("group", inputs[kGroup].dims, {batch, candidates});
    require_linear("indices", outputs[kIndices], DataType::kINT32, "INT32");
    require_linear("count", outputs[kCount], DataType::kINT32, "INT32");
    require_dims("indices", outputs[kIndices].dims, {batch, attributes.max_output});
    require_dims("count", outputs[kCount].dims, {batch});
}

std::size_t NMSOp::workspace(const Attributes& attributes, const PluginTensorDesc* inputs) {
    check_bounds(attributes, inputs);
    return workspace_bytes(params_of(attributes, inputs));
}

MrcnnStatus NMSOp::enqueue(const Attributes& attributes, const PluginTensorDesc* input_descs,
                           const PluginTensorDesc*, const void* const* inputs, void* const* outputs,
                           void* workspace, cudaStream_t stream) {
    const MrcnnNMSParams params = params_of(attributes, input_descs);
    return mrcnnNMSCuda(
        &params, static_cast<const float*>(inputs[kBoxes]), static_cast<const float*>(inputs[kScores]),
        static_cast<const std::int32_t*>(inputs[kGroup]), static_cast<std::int32_t*>(outputs[kIndices]),
        static_cast<std::int32_t*>(outputs[kCount]), workspace, workspace_bytes(params), stream);
}

}  // namespace mrcnn
