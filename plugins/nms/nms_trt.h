// MrcnnNMS as a TensorRT plugin; see common/trt_plugin.h for what each member is for.
//
// Inputs: boxes (B, N, 4) FP32, scores (B, N) FP32, group (B, N) INT32.
// Outputs: indices (B, K) INT32, count (B,) INT32, with K = max_output.
#ifndef MRCNN_PLUGINS_NMS_NMS_TRT_H_
#define MRCNN_PLUGINS_NMS_NMS_TRT_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <vector>

#include "common/trt_fields.h"
#include "nms/nms.h"

namespace mrcnn {

struct NMSOp {
    struct Attributes {
        float iou_threshold, score_threshold;
        std::int32_t max_output;
    };

    static constexpr const char* kName = "MrcnnNMS";
    static constexpr std::int32_t kOutputs = 2;

    static Fields field_names();
    static Attributes read(FieldReader& reader);
    static Fields fields(const Attributes& attributes);
    static std::int32_t inputs(const Attributes&) { return 3; }
    static std::vector<nvinfer1::DataType> output_types(const Attributes& attributes,
                                                        const nvinfer1::DataType* inputs);
    static void output_shapes(const Attributes& attributes, const nvinfer1::DimsExprs* inputs,
                              nvinfer1::DimsExprs* outputs, nvinfer1::IExprBuilder& builder);
    static bool supports(const Attributes& attributes, std::int32_t position,
                         const nvinfer1::DynamicPluginTensorDesc* tensors);
    static void check_bounds(const Attributes& attributes, const nvinfer1::PluginTensorDesc* inputs);
    static void check(const Attributes& attributes, const nvinfer1::PluginTensorDesc* inputs,
                      const nvinfer1::PluginTensorDesc* outputs);
    static std::size_t workspace(const Attributes& attributes, const nvinfer1::PluginTensorDesc* inputs);
    static MrcnnStatus enqueue(const Attributes& attributes, const nvinfer1::PluginTensorDesc* input_descs,
                               const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs,
                               void* const* outputs, void* workspace, cudaStream_t stream);
};

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_NMS_NMS_TRT_H_
