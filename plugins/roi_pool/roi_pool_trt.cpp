#include "roi_pool/roi_pool_trt.h"

#include <algorithm>

#include "common/error.h"
#include "common/trt_tensors.h"
#include "roi_pool/roi_pool_check.h"

namespace mrcnn {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;

enum Input { kFeatures, kRois };

MrcnnRoIPoolParams base_params(const RoIPoolOp::Attributes& attributes) {
    MrcnnRoIPoolParams params = {};
    params.output_height = attributes.pooled_shape[0];
    params.output_width = attributes.pooled_shape[1];
    params.spatial_scale = attributes.spatial_scale;
    return params;
}

bool is_feature_type(DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF; }

// The batch is the same in both inputs, its bounds need not be: then the tightest holds.
MrcnnRoIPoolParams params_of(const RoIPoolOp::Attributes& attributes, const PluginTensorDesc* inputs) {
    const nvinfer1::Dims &features = inputs[kFeatures].dims, &rois = inputs[kRois].dims;
    MrcnnRoIPoolParams params = base_params(attributes);
    params.batch = static_cast<std::int32_t>(std::min(features.d[0], rois.d[0]));
    params.channels = static_cast<std::int32_t>(features.d[1]);
    params.height = static_cast<std::int32_t>(features.d[2]);
    params.width = static_cast<std::int32_t>(features.d[3]);
    params.rois_per_image = static_cast<std::int32_t>(rois.d[1]);
    params.type = inputs[kFeatures].type == DataType::kHALF ? MRCNN_FLOAT16 : MRCNN_FLOAT32;
    return params;
}

}  // namespace

Fields RoIPoolOp::field_names() {
    return {{"pooled_shape", nullptr, PluginFieldType::kINT32, 1},
            {"spatial_scale", nullptr, PluginFieldType::kFLOAT32, 1}};
}

RoIPoolOp::Attributes RoIPoolOp::read(FieldReader& reader) {
    Attributes attributes;
    attributes.pooled_shape = reader.integers("pooled_shape", 2);
    attributes.spatial_scale = reader.real("spatial_scale");
    if (check_attributes(base_params(attributes)) != MRCNN_OK) throw PluginError(mrcnnLastError());
    return attributes;
}

Fields RoIPoolOp::fields(const Attributes& attributes) {
    return {field("pooled_shape", &attributes.pooled_shape),
            field("spatial_scale", &attributes.spatial_scale)};
}

std::vector<DataType> RoIPoolOp::output_types(const Attributes&, const DataType* inputs) {
    if (!is_feature_type(inputs[kFeatures])) throw PluginError("features must be FP32 or FP16");
    require_type("rois", inputs[kRois], DataType::kFLOAT, "FP32");
    return {inputs[kFeatures]};
}

void RoIPoolOp::output_shapes(const Attributes& attributes, const nvinfer1::DimsExprs* inputs,
                              nvinfer1::DimsExprs* outputs, nvinfer1::IExprBuilder& builder) {
    const nvinfer1::DimsExprs &features = inputs[kFeatures], &rois = inputs[kRois];
    require_rank("features", features, 4);
    require_rank("rois", rois, 3);
    if (differ(rois.d[2], builder.constant(4))) throw PluginError("rois must have 4 coordinates");
    if (differ(features.d[0], rois.d[0])) throw PluginError("features and rois must have the same batch");
    outputs[0].nbDims = 4;
    outputs[0].d[0] = builder.operation(nvinfer1::DimensionOperation::kPROD, *rois.d[0], *rois.d[1]);
    outputs[0].d[1] = features.d[1];
    outputs[0].d[2] = builder.constant(attributes.pooled_shape[0]);
    outputs[0].d[3] = builder.constant(attributes.pooled_shape[1]);
}

bool RoIPoolOp::supports(const Attributes&, std::int32_t position,
                         const nvinfer1::DynamicPluginTensorDesc* tensors) {
    if (position == kRois) return is_linear(tensors[kRois].desc, DataType::kFLOAT);
    const DataType type = tensors[kFeatures].desc.type;
    return is_feature_type(type) && is_linear(tensors[position].desc, type);
}

void RoIPoolOp::check_bounds(const Attributes& attributes, const PluginTensorDesc* inputs) {
    const PluginTensorDesc& features = inputs[kFeatures];
    if (!is_feature_type(features.type)) throw PluginError("features must be FP32 or FP16");
    require_linear("features", features, features.type, "FP32 or FP16");
    require_linear("rois", inputs[kRois], DataType::kFLOAT, "FP32");
    require_dims("features", features.dims, {-1, -1, -1, -1});
    require_dims("rois", inputs[kRois].dims, {-1, -1, 4});
    const MrcnnRoIPoolParams params = params_of(attributes, inputs);
    static const char somewhere = 0;  // looked at for its address only: there is no data yet
    if (check_call(&params, &somewhere, &somewhere, &somewhere) != MRCNN_OK) {
        throw PluginError(mrcnnLastError());
    }
}

void RoIPoolOp::check(const Attributes& attributes, const PluginTensorDesc* inputs,
                      const PluginTensorDesc* outputs) {
    check_bounds(attributes, inputs);
    const nvinfer1::Dims &features = inputs[kFeatures].dims, &rois = inputs[kRois].dims;
    require_dims("rois", rois, {features.d[0], -1, 4});
    require_linear("the output", outputs[0], inputs[kFeatures].type, "of the features' type");
    require_dims(
        "the output", outputs[0].dims,
        {rois.d[0] * rois.d[1], features.d[1], attributes.pooled_shape[0], attributes.pooled_shape[1]});
}

MrcnnStatus RoIPoolOp::enqueue(const Attributes& attributes, const PluginTensorDesc* input_descs,
                               const PluginTensorDesc*, const void* const* inputs, void* const* outputs,
                               void*, cudaStream_t stream) {
    const MrcnnRoIPoolParams params = params_of(attributes, input_descs);
    return mrcnnRoIPoolCuda(&params, inputs[kFeatures], static_cast<const float*>(inputs[kRois]), outputs[0],
                            stream);
}

}  // namespace mrcnn
