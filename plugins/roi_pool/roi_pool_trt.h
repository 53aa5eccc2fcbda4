// MrcnnRoIPool as a TensorRT plugin; see common/trt_plugin.h for what each member is for.
//
// Inputs: features (B, C, H, W), FP32 or FP16; rois (B, R, 4), FP32. Output: (B * R, C, S, T) of the
// features' type. All linear.
#ifndef MRCNN_PLUGINS_ROI_POOL_ROI_POOL_TRT_H_
#define MRCNN_PLUGINS_ROI_POOL_ROI_POOL_TRT_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <vector>

#include "common/trt_fields.h"
#include "roi_pool/roi_pool.h"

namespace mrcnn {

struct RoIPoolOp {
    struct Attributes {
        std::vector<std::int32_t> pooled_shape;  // bins from top to bottom, and from left to right
        float spatial_scale;
    };

    static constexpr const char* kName = "MrcnnRoIPool";
    static constexpr std::int32_t kOutputs = 1;

    static Fields field_names();
    static Attributes read(FieldReader& reader);
    static Fields fields(const Attributes& attributes);
    static std::int32_t inputs(const Attributes&) { return 2; }
    static std::vector<nvinfer1::DataType> output_types(const Attributes& attributes,
                                                        const nvinfer1::DataType* inputs);
    static void output_shapes(const Attributes& attributes, const nvinfer1::DimsExprs* inputs,
                              nvinfer1::DimsExprs* outputs, nvinfer1::IExprBuilder& builder);
    static bool supports(const Attributes& attributes, std::int32_t position,
                         const nvinfer1::DynamicPluginTensorDesc* tensors);
    static void check_bounds(const Attributes& attributes, const nvinfer1::PluginTensorDesc* inputs);
    static void check(const Attributes& attributes, const nvinfer1::PluginTensorDesc* inputs,
                      const nvinfer1::PluginTensorDesc* outputs);
    static std::size_t workspace(const Attributes&, const nvinfer1::PluginTensorDesc*) { return 0; }
    static MrcnnStatus enqueue(const Attributes& attributes, const nvinfer1::PluginTensorDesc* input_descs,
                               const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs,
                               void* const* outputs, void* workspace, cudaStream_t stream);
};

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_ROI_POOL_ROI_POOL_TRT_H_
