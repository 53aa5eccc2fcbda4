// Checks of tensors that TensorRT describes.
#ifndef MRCNN_PLUGINS_COMMON_TRT_TENSORS_H_
#define MRCNN_PLUGINS_COMMON_TRT_TENSORS_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "common/trt_fields.h"

namespace mrcnn {

inline std::string to_string(const nvinfer1::Dims& dims) {
    std::string text = "(";
    for (std::int32_t i = 0; i < dims.nbDims && i < nvinfer1::Dims::MAX_DIMS; ++i) {
        text += (i == 0 ? "" : ", ") + std::to_string(dims.d[i]);
    }
    return text + ")";
}

// Whether two dimensions of the network are known to be unequal.
inline bool differ(const nvinfer1::IDimensionExpr* a, const nvinfer1::IDimensionExpr* b) {
    return a->isConstant() && b->isConstant() && a->getConstantValue() != b->getConstantValue();
}

// Throws PluginError unless a tensor of the network has that many dimensions.
inline void require_rank(const char* name, const nvinfer1::DimsExprs& dims, std::int32_t rank) {
    if (dims.nbDims != rank) {
        throw PluginError(std::string(name) + " must have " + std::to_string(rank) + " dimensions (got " +
                          std::to_string(dims.nbDims) + ")");
    }
    for (std::int32_t i = 0; i < rank; ++i) {
        if (dims.d[i] == nullptr) throw PluginError("a dimension of " + std::string(name) + " is null");
    }
}

// Throws PluginError unless the tensor has these dimensions; -1 stands for any size from 0 on. It is called
// in every enqueue: text is made only where there is something to say.
inline void require_dims(const char* name, const nvinfer1::Dims& dims,
                         std::initializer_list<std::int64_t> expected) {
    bool fits = dims.nbDims == static_cast<std::int32_t>(expected.size());
    std::int32_t i = 0;
    for (const std::int64_t size : expected) {
        fits = fits && (size < 0 ? dims.d[i] >= 0 && dims.d[i] <= INT32_MAX : dims.d[i] == size);
        ++i;
    }
    if (fits) return;
    std::string wanted;
    for (const std::int64_t size : expected) {
        wanted += (wanted.empty() ? "" : ", ") + (size < 0 ? std::string("any") : std::to_string(size));
    }
    throw PluginError(std::string(name) + " must have the shape (" + wanted + ") (got " + to_string(dims) +
                      ")");
}

inline void require_type(const char* name, nvinfer1::DataType type, nvinfer1::DataType expected,
                         const char* expected_name) {
    if (type != expected) {
        throw PluginError(std::string(name) + " must be " + expected_name + " (got TensorRT type " +
                          std::to_string(static_cast<std::int32_t>(type)) + ")");
    }
}

// A tensor of one type in linear format.
inline void require_linear(const char* name, const nvinfer1::PluginTensorDesc& tensor,
                           nvinfer1::DataType expected, const char* expected_name) {
    require_type(name, tensor.type, expected, expected_name);
    if (tensor.format != nvinfer1::TensorFormat::kLINEAR) {
        throw PluginError(std::string(name) + " must be in linear format (got TensorRT format " +
                          std::to_string(static_cast<std::int32_t>(tensor.format)) + ")");
    }
}

inline bool is_linear(const nvinfer1::PluginTensorDesc& tensor, nvinfer1::DataType type) {
    return tensor.type == type && tensor.format == nvinfer1::TensorFormat::kLINEAR;
}

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_COMMON_TRT_TENSORS_H_
