#include "roi_align/roi_align_trt.h"

#include <algorithm>

#include "common/error.h"
#include "common/trt_tensors.h"
#include "roi_align/roi_align_check.h"

namespace mrcnn {
namespace {

using nvinfer1::DataType;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

// What the attributes say; sizes, types and data are left at zero.
MrcnnRoIAlignParams base_params(const RoIAlignOp::Attributes& attributes) {
    MrcnnRoIAlignParams params = {};
    params.output_size = attributes.output_size;
    params.sampling_ratio = attributes.sampling_ratio;
    params.aligned = attributes.aligned;
    params.mode = attributes.mode == "max" ? MRCNN_MAX : MRCNN_AVG;
    params.canonical_size = attributes.canonical_size;
    params.canonical_level = attributes.canonical_level;
    params.num_levels = static_cast<std::int32_t>(attributes.spatial_scales.size());
    for (std::size_t i = 0; i < attributes.spatial_scales.size(); ++i) {
        params.levels[i].spatial_scale = attributes.spatial_scales[i];
    }
    return params;
}

// The channels-last format that TensorRT has for each type.
TensorFormat channels_last(DataType type) {
    return type == DataType::kHALF ? TensorFormat::kHWC8 : TensorFormat::kHWC;
}

bool is_feature_type(DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF; }

bool is_feature_format(const PluginTensorDesc& tensor) {
    return tensor.format == TensorFormat::kLINEAR || tensor.format == channels_last(tensor.type);
}

void require_equal(const char* what, const nvinfer1::IDimensionExpr* a, const nvinfer1::IDimensionExpr* b) {
    if (differ(a, b)) {
        throw PluginError(std::string(what) + " differ: " + std::to_string(a->getConstantValue()) + " and " +
                          std::to_string(b->getConstantValue()));
    }
}

constexpr const char* kLevelNames[] = {"feature level 0", "feature level 1", "feature level 2",
                                       "feature level 3", "feature level 4", "feature level 5",
                                       "feature level 6", "feature level 7"};
static_assert(sizeof kLevelNames / sizeof kLevelNames[0] == MRCNN_MAX_LEVELS, "each level has a name");

// One level, compared with the finest in what is the same at build time and at execution.
void check_level(const char* name, const PluginTensorDesc& level, const PluginTensorDesc& first) {
    require_dims(name, level.dims, {-1, -1, -1, -1});
    if (!is_feature_type(level.type)) throw PluginError(std::string(name) + " must be FP32 or FP16");
    if (!is_feature_format(level)) throw PluginError(std::string(name) + " must be linear or channels last");
    if (level.type != first.type || level.format != first.format) {
        throw PluginError(std::string(name) + " must have the type and format of level 0");
    }
}

MrcnnLayout layout_of(const PluginTensorDesc& tensor) {
    return tensor.format == TensorFormat::kLINEAR ? MRCNN_LINEAR : MRCNN_CHANNELS_LAST;
}

// A call with features of these sizes, still without data, and with linear output. The batch is the same in
// all inputs, its bounds need not be: then the tightest holds for all.
MrcnnRoIAlignParams params_of(const RoIAlignOp::Attributes& attributes, const PluginTensorDesc* inputs) {
    MrcnnRoIAlignParams params = base_params(attributes);
    const PluginTensorDesc &first = inputs[0], &rois = inputs[params.num_levels];
    std::int64_t batch = rois.dims.d[0];
    for (std::int32_t i = 0; i < params.num_levels; ++i) {
        const nvinfer1::Dims& dims = inputs[i].dims;
        batch = std::min(batch, dims.d[0]);
        params.levels[i].height = static_cast<std::int32_t>(dims.d[2]);
        params.levels[i].width = static_cast<std::int32_t>(dims.d[3]);
    }
    params.batch = static_cast<std::int32_t>(batch);
    params.channels = static_cast<std::int32_t>(first.dims.d[1]);
    params.rois_per_image = static_cast<std::int32_t>(rois.dims.d[1]);
    params.type = first.type == DataType::kHALF ? MRCNN_FLOAT16 : MRCNN_FLOAT32;
    params.feature_layout = layout_of(first);
    return params;
}

// The limits of the C interface, before there is any data.
void check_limits(MrcnnRoIAlignParams params) {
    alignas(16) static const char somewhere[16] = {};  // looked at for its address only
    for (MrcnnFeatureLevel& level : params.levels) level.data = somewhere;
    if (check_call(&params, somewhere, somewhere) != MRCNN_OK) throw PluginError(mrcnnLastError());
}

}  // namespace

Fields RoIAlignOp::field_names() {
    return {{"output_size", nullptr, PluginFieldType::kINT32, 1},
            {"sampling_ratio", nullptr, PluginFieldType::kINT32, 1},
            {"aligned", nullptr, PluginFieldType::kINT32, 1},
            {"mode", nullptr, PluginFieldType::kCHAR, 1},
            {"spatial_scales", nullptr, PluginFieldType::kFLOAT32, 1},
            {"canonical_size", nullptr, PluginFieldType::kFLOAT32, 1},
            {"canonical_level", nullptr, PluginFieldType::kINT32, 1}};
}

RoIAlignOp::Attributes RoIAlignOp::read(FieldReader& reader) {
    Attributes attributes;
    attributes.output_size = reader.integer("output_size");
    attributes.sampling_ratio = reader.integer("sampling_ratio");
    attributes.aligned = reader.integer("aligned");
    attributes.mode = reader.text("mode");
    attributes.spatial_scales = reader.reals("spatial_scales", MRCNN_MAX_LEVELS);
    attributes.canonical_size = reader.real("canonical_size");
    attributes.canonical_level = reader.integer("canonical_level");
    if (attributes.mode != "avg" && attributes.mode != "max") {
        throw PluginError("attribute 'mode' must be avg or max (got '" + attributes.mode.substr(0, 40) +
                          "')");
    }
    if (check_attributes(base_params(attributes)) != MRCNN_OK) throw PluginError(mrcnnLastError());
    return attributes;
}

Fields RoIAlignOp::fields(const Attributes& attributes) {
    return {field("output_size", &attributes.output_size),
            field("sampling_ratio", &attributes.sampling_ratio),
            field("aligned", &attributes.aligned),
            field("mode", &attributes.mode),
            field("spatial_scales", &attributes.spatial_scales),
            field("canonical_size", &attributes.canonical_size),
            field("canonical_level", &attributes.canonical_level)};
}

std::int32_t RoIAlignOp::inputs(const Attributes& attributes) {
    return static_cast<std::int32_t>(attributes.spatial_scales.size()) + 1;
}

std::vector<DataType> RoIAlignOp::output_types(const Attributes& attributes, const DataType* inputs) {
    const std::size_t levels = attributes.spatial_scales.size();
    for (std::size_t i = 0; i < levels; ++i) {
        if (!is_feature_type(inputs[i]) || inputs[i] != inputs[0]) {
            throw PluginError("the feature levels must all be FP32, or all FP16");
        }
    }
    require_type("rois", inputs[levels], DataType::kFLOAT, "FP32");
    return {inputs[0]};
}

void RoIAlignOp::output_shapes(const Attributes& attributes, const nvinfer1::DimsExprs* inputs,
                               nvinfer1::DimsExprs* outputs, nvinfer1::IExprBuilder& builder) {
    const std::size_t levels = attributes.spatial_scales.size();
    const nvinfer1::DimsExprs& rois = inputs[levels];
    require_rank("rois", rois, 3);
    for (std::size_t i = 0; i < levels; ++i) require_rank(kLevelNames[i], inputs[i], 4);
    require_equal("the last dimension of rois and the coordinates of a box", rois.d[2], builder.constant(4));
    for (std::size_t i = 0; i < levels; ++i) {
        require_equal("the batches of features and rois", inputs[i].d[0], rois.d[0]);
        require_equal("the channels of the feature levels", inputs[i].d[1], inputs[0].d[1]);
    }
    outputs[0].nbDims = 4;
    outputs[0].d[0] = builder.operation(nvinfer1::DimensionOperation::kPROD, *rois.d[0], *rois.d[1]);
    outputs[0].d[1] = inputs[0].d[1];
    outputs[0].d[2] = outputs[0].d[3] = builder.constant(attributes.output_size);
}

bool RoIAlignOp::supports(const Attributes& attributes, std::int32_t position,
                          const nvinfer1::DynamicPluginTensorDesc* tensors) {
    const auto levels = static_cast<std::int32_t>(attributes.spatial_scales.size());
    const PluginTensorDesc& tensor = tensors[position].desc;
    const PluginTensorDesc& first = tensors[0].desc;
    if (position == levels) return is_linear(tensor, DataType::kFLOAT);
    if (!is_feature_type(first.type) || !is_feature_format(first) || tensor.type != first.type) return false;
    return tensor.format == first.format || (position > levels && tensor.format == TensorFormat::kLINEAR);
}

void RoIAlignOp::check_bounds(const Attributes& attributes, const PluginTensorDesc* inputs) {
    const std::size_t levels = attributes.spatial_scales.size();
    const PluginTensorDesc& rois = inputs[levels];
    require_linear("rois", rois, DataType::kFLOAT, "FP32");
    require_dims("rois", rois.dims, {-1, -1, 4});
    for (std::size_t i = 0; i < levels; ++i) check_level(kLevelNames[i], inputs[i], inputs[0]);
    check_limits(params_of(attributes, inputs));
}

void RoIAlignOp::check(const Attributes& attributes, const PluginTensorDesc* inputs,
                       const PluginTensorDesc* outputs) {
    check_bounds(attributes, inputs);
    const std::size_t levels = attributes.spatial_scales.size();
    const PluginTensorDesc &first = inputs[0], &rois = inputs[levels];
    for (std::size_t i = 1; i < levels; ++i) {
        require_dims(kLevelNames[i], inputs[i].dims, {first.dims.d[0], first.dims.d[1], -1, -1});
    }
    require_dims("rois", rois.dims, {first.dims.d[0], -1, 4});
    const std::int64_t size = attributes.output_size;
    require_dims("the output", outputs[0].dims,
                 {rois.dims.d[0] * rois.dims.d[1], first.dims.d[1], size, size});
    if (outputs[0].type != first.type) throw PluginError("the output must have the type of the features");
    if (outputs[0].format != first.format && outputs[0].format != TensorFormat::kLINEAR) {
        throw PluginError("the output must be linear, or channels last where the features are");
    }
}

MrcnnStatus RoIAlignOp::enqueue(const Attributes& attributes, const PluginTensorDesc* input_descs,
                                const PluginTensorDesc* output_descs, const void* const* inputs,
                                void* const* outputs, void*, cudaStream_t stream) {
    MrcnnRoIAlignParams params = params_of(attributes, input_descs);
    params.output_layout = layout_of(output_descs[0]);
    for (std::int32_t i = 0; i < params.num_levels; ++i) params.levels[i].data = inputs[i];
    return mrcnnRoIAlignCuda(&params, static_cast<const float*>(inputs[params.num_levels]), outputs[0],
                             stream);
}

}  // namespace mrcnn
