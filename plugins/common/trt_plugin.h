// A TensorRT plugin (IPluginV3) and its creator, made from the description of an op.
//
// What every plugin must do alike stands here: pointers are checked, nothing is thrown across the interface,
// a failure is a line on stderr and in mrcnnLastError, and copies share nothing. An op brings
//
//   static constexpr const char* kName;
//   struct Attributes;                                   its values, copyable
//   static Fields field_names();                         names and types of the attributes
//   static Attributes read(FieldReader&);                throws PluginError
//   static Fields fields(const Attributes&);             the same as fields that point into it
//   static std::int32_t inputs(const Attributes&);       how many inputs it has
//   static constexpr std::int32_t kOutputs;
//   static std::vector<DataType> output_types(const Attributes&, const DataType* inputs);
//   static void output_shapes(const Attributes&, const DimsExprs* inputs, DimsExprs* outputs, IExprBuilder&);
//   static bool supports(const Attributes&, std::int32_t position, const DynamicPluginTensorDesc* tensors);
//   static void check_bounds(const Attributes&, const PluginTensorDesc* inputs);
//                                                        types, formats, and each tensor's dimensions
//   static void check(const Attributes&, const PluginTensorDesc* inputs, const PluginTensorDesc* outputs);
//                                                        the same, the outputs, and whether all fit together
//   static std::size_t workspace(const Attributes&, const PluginTensorDesc* inputs);
//   static MrcnnStatus enqueue(const Attributes&, const PluginTensorDesc* input_descs,
//                              const PluginTensorDesc* output_descs, const void* const* inputs,
//                              void* const* outputs, void* workspace, cudaStream_t);
//
// `check` and `enqueue` get the sizes of an execution. `check_bounds` and `workspace` get the largest ones of
// a profile, which TensorRT derives tensor by tensor: equal sizes may have unequal bounds. Neither the
// registry nor a logger of TensorRT is used: their interfaces changed between 10 and 11, and a library may be
// loaded by either.
#ifndef MRCNN_PLUGINS_COMMON_TRT_PLUGIN_H_
#define MRCNN_PLUGINS_COMMON_TRT_PLUGIN_H_

#include <NvInferRuntime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <locale>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "common/error.h"
#include "common/trt_fields.h"

namespace mrcnn {

constexpr const char* kPluginVersion = "1";
constexpr const char* kPluginNamespace = "mrcnn";

// Makes a line of an error known, without throwing.
inline void report(const char* op, const char* what) noexcept {
    fail(MRCNN_INVALID_ARGUMENT, "%s: %s", op, what);
    std::fprintf(stderr, "mrcnn plugin: %s\n", mrcnnLastError());
}

// Calls `body`; answers `failure` and reports where it throws.
template <typename Result, typename Body>
Result guarded(const char* op, Result failure, Body body) noexcept {
    try {
        return body();
    } catch (const std::exception& error) {
        report(op, error.what());
    } catch (...) {
        report(op, "unknown error");
    }
    return failure;
}

inline void require(bool condition, const char* what) {
    if (!condition) throw PluginError(what);
}

template <typename Op>
class Plugin final : public nvinfer1::IPluginV3,
                     public nvinfer1::IPluginV3OneCore,
                     public nvinfer1::IPluginV3OneBuild,
                     public nvinfer1::IPluginV3OneRuntime {
  public:
    using Attributes = typename Op::Attributes;

    explicit Plugin(Attributes attributes)
        : attributes_(std::move(attributes)),
          fields_(Op::fields(attributes_)),
          collection_{static_cast<std::int32_t>(fields_.size()), fields_.data()},
          timing_cache_id_(describe(fields_)) {}

    Plugin(const Plugin&) = delete;
    Plugin& operator=(const Plugin&) = delete;

    // IPluginV3
    nvinfer1::IPluginCapability* getCapabilityInterface(
        nvinfer1::PluginCapabilityType type) noexcept override {
        switch (type) {  // each exactly the base class that TensorRT casts back to
            case nvinfer1::PluginCapabilityType::kCORE:
                return static_cast<nvinfer1::IPluginV3OneCore*>(this);
            case nvinfer1::PluginCapabilityType::kBUILD:
                return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
            case nvinfer1::PluginCapabilityType::kRUNTIME:
                return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
        }
        return nullptr;
    }

    nvinfer1::IPluginV3* clone() noexcept override {
        return guarded<nvinfer1::IPluginV3*>(Op::kName, nullptr, [this] { return new Plugin(attributes_); });
    }

    // IPluginV3OneCore
    const char* getPluginName() const noexcept override { return Op::kName; }
    const char* getPluginVersion() const noexcept override { return kPluginVersion; }
    const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

    // IPluginV3OneBuild
    std::int32_t getNbOutputs() const noexcept override { return Op::kOutputs; }

    const char* getTimingCacheID() noexcept override { return timing_cache_id_.c_str(); }

    std::int32_t getOutputDataTypes(nvinfer1::DataType* outputs, std::int32_t output_count,
                                    const nvinfer1::DataType* inputs,
                                    std::int32_t input_count) const noexcept override {
        return guarded(Op::kName, -1, [&] {
            check_counts(inputs, input_count, output_count);
            require(outputs != nullptr, "the list of outputs is null");
            const std::vector<nvinfer1::DataType> types = Op::output_types(attributes_, inputs);
            for (std::int32_t i = 0; i < Op::kOutputs; ++i) outputs[i] = types[static_cast<std::size_t>(i)];
            return 0;
        });
    }

    std::int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, std::int32_t input_count,
                                 const nvinfer1::DimsExprs*, std::int32_t, nvinfer1::DimsExprs* outputs,
                                 std::int32_t output_count,
                                 nvinfer1::IExprBuilder& builder) noexcept override {
        return guarded(Op::kName, -1, [&] {
            check_counts(inputs, input_count, output_count);
            require(outputs != nullptr, "the list of outputs is null");
            Op::output_shapes(attributes_, inputs, outputs, builder);
            return 0;
        });
    }

    bool supportsFormatCombination(std::int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                   std::int32_t input_count, std::int32_t output_count) noexcept override {
        if (tensors == nullptr || position < 0 || input_count != Op::inputs(attributes_) ||
            output_count != Op::kOutputs || position >= input_count + output_count) {
            return false;
        }
        return guarded(Op::kName, false, [&] { return Op::supports(attributes_, position, tensors); });
    }

    // Outputs follow from the inputs, and are not always known at build time.
    std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t input_count,
                                 const nvinfer1::DynamicPluginTensorDesc*,
                                 std::int32_t output_count) noexcept override {
        return guarded(Op::kName, -1, [&] {
            check_counts(inputs, input_count, output_count);
            Op::check_bounds(attributes_, largest(inputs, input_count).data());
            return 0;
        });
    }

    // 0 also where configurePlugin refuses the inputs, which ends the build.
    std::size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, std::int32_t input_count,
                                 const nvinfer1::DynamicPluginTensorDesc*,
                                 std::int32_t output_count) const noexcept override {
        return guarded(Op::kName, std::size_t{0}, [&] {
            check_counts(inputs, input_count, output_count);
            return Op::workspace(attributes_, largest(inputs, input_count).data());
        });
    }

    // IPluginV3OneRuntime
    std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, std::int32_t input_count,
                               const nvinfer1::PluginTensorDesc* outputs,
                               std::int32_t output_count) noexcept override {
        return guarded(Op::kName, -1, [&] {
            check_counts(inputs, input_count, output_count);
            require(outputs != nullptr, "the list of outputs is null");
            Op::check(attributes_, inputs, outputs);
            return 0;
        });
    }

    std::int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs,
                         const nvinfer1::PluginTensorDesc* output_descs, const void* const* inputs,
                         void* const* outputs, void* workspace, cudaStream_t stream) noexcept override {
        return guarded(Op::kName, -1, [&] {
            require(input_descs != nullptr && output_descs != nullptr, "enqueue: descriptions are null");
            require(inputs != nullptr && outputs != nullptr, "enqueue: the lists of tensors are null");
            Op::check(attributes_, input_descs, output_descs);
            const MrcnnStatus status =
                Op::enqueue(attributes_, input_descs, output_descs, inputs, outputs, workspace, stream);
            if (status != MRCNN_OK) throw PluginError(std::string(mrcnnLastError()));
            return 0;
        });
    }

    // A plugin has no state but its attributes, so that every context gets a copy.
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override {
        return clone();
    }

    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override { return &collection_; }

  private:
    template <typename Input>
    void check_counts(const Input* inputs, std::int32_t input_count, std::int32_t output_count) const {
        const std::int32_t expected = Op::inputs(attributes_);
        if (input_count != expected || output_count != Op::kOutputs) {
            throw PluginError("expected " + std::to_string(expected) + " inputs and " +
                              std::to_string(Op::kOutputs) + " outputs (got " + std::to_string(input_count) +
                              " and " + std::to_string(output_count) + ")");
        }
        require(inputs != nullptr, "the list of inputs is null");
    }

    // The descriptions with the largest dimensions of the profile, which are what must fit.
    static std::vector<nvinfer1::PluginTensorDesc> largest(const nvinfer1::DynamicPluginTensorDesc* tensors,
                                                           std::int32_t count) {
        std::vector<nvinfer1::PluginTensorDesc> result;
        for (std::int32_t i = 0; i < count; ++i) {
            result.push_back(tensors[i].desc);
            nvinfer1::Dims& dims = result.back().dims;
            if (tensors[i].max.nbDims != dims.nbDims) continue;
            const std::int32_t rank = std::min<std::int32_t>(dims.nbDims, nvinfer1::Dims::MAX_DIMS);
            for (std::int32_t d = 0; d < rank; ++d) dims.d[d] = std::max(dims.d[d], tensors[i].max.d[d]);
        }
        return result;
    }

    // All attributes, so that two plugins share timings only if they do the same.
    static std::string describe(const Fields& fields) {
        std::ostringstream text;
        text.imbue(std::locale::classic());  // the application's may group digits
        text.precision(9);
        text << Op::kName << kPluginVersion;
        for (const nvinfer1::PluginField& field : fields) {
            text << ' ' << field.name;
            for (std::int32_t i = 0; i < field.length; ++i) {
                if (field.type == nvinfer1::PluginFieldType::kINT32) {
                    text << ' ' << static_cast<const std::int32_t*>(field.data)[i];
                } else if (field.type == nvinfer1::PluginFieldType::kFLOAT32) {
                    text << ' ' << static_cast<const float*>(field.data)[i];
                }
            }
            if (field.type == nvinfer1::PluginFieldType::kCHAR)
                text << ' ' << static_cast<const char*>(field.data);
        }
        return text.str();
    }

    // In this order: each is made from the one before it. The fields point into this object, which is
    // therefore never copied; a clone makes its own.
    Attributes attributes_;
    Fields fields_;
    nvinfer1::PluginFieldCollection collection_;
    std::string timing_cache_id_;
};

template <typename Op>
class PluginCreator final : public nvinfer1::IPluginCreatorV3One {
  public:
    PluginCreator() : fields_(Op::field_names()) {
        collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
    }

    // A plan holds the same fields as a graph, so that both phases read them alike.
    nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* collection,
                                      nvinfer1::TensorRTPhase) noexcept override {
        return guarded<nvinfer1::IPluginV3*>(Op::kName, nullptr, [&] {
            FieldReader reader(collection);
            auto attributes = Op::read(reader);
            reader.finish();
            return new Plugin<Op>(std::move(attributes));
        });
    }

    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
    const char* getPluginName() const noexcept override { return Op::kName; }
    const char* getPluginVersion() const noexcept override { return kPluginVersion; }
    const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  private:
    Fields fields_;
    nvinfer1::PluginFieldCollection collection_ = {};
};

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_COMMON_TRT_PLUGIN_H_
