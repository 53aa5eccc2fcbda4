// Attributes of a TensorRT plugin: reading them from the fields that a parser or a plan gives, and writing
// them.
#ifndef MRCNN_PLUGINS_COMMON_TRT_FIELDS_H_
#define MRCNN_PLUGINS_COMMON_TRT_FIELDS_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace mrcnn {

// Something that the caller of a plugin got wrong; its text goes to the user as it is.
class PluginError : public std::invalid_argument {
  public:
    using std::invalid_argument::invalid_argument;
};

// Reads attributes by name. Each has one type only; a missing, repeated, unknown or ill-typed one is an error
// that names it. The values are copied, since fields live no longer than the call that passes them.
class FieldReader {
  public:
    // Throws PluginError where the collection cannot be read or a name stands twice.
    explicit FieldReader(const nvinfer1::PluginFieldCollection* collection);

    std::int32_t integer(const char* name);
    float real(const char* name);
    std::vector<float> reals(const char* name, std::int32_t most);             // 1 to `most` values
    std::vector<std::int32_t> integers(const char* name, std::int32_t count);  // exactly so many
    std::string text(const char* name);

    // Throws PluginError if there are fields that nobody asked for.
    void finish() const;

  private:
    const nvinfer1::PluginField& find(const char* name, nvinfer1::PluginFieldType type);
    const void* single(const char* name, nvinfer1::PluginFieldType type);

    std::vector<nvinfer1::PluginField> fields_;
    std::set<std::string> read_;
};

// Fields that point to the values of an object, which must neither move nor be copied with them.
using Fields = std::vector<nvinfer1::PluginField>;

inline nvinfer1::PluginField field(const char* name, const std::int32_t* value) {
    return {name, value, nvinfer1::PluginFieldType::kINT32, 1};
}
inline nvinfer1::PluginField field(const char* name, const float* value) {
    return {name, value, nvinfer1::PluginFieldType::kFLOAT32, 1};
}
inline nvinfer1::PluginField field(const char* name, const std::vector<float>* values) {
    return {name, values->data(), nvinfer1::PluginFieldType::kFLOAT32,
            static_cast<std::int32_t>(values->size())};
}
inline nvinfer1::PluginField field(const char* name, const std::vector<std::int32_t>* values) {
    return {name, values->data(), nvinfer1::PluginFieldType::kINT32,
            static_cast<std::int32_t>(values->size())};
}
inline nvinfer1::PluginField field(const char* name, const std::string* value) {
    return {name, value->c_str(), nvinfer1::PluginFieldType::kCHAR,
            static_cast<std::int32_t>(value->size() + 1)};  // with the closing zero, as the ONNX parser does
}

}  // namespace mrcnn

#endif  // MRCNN_PLUGINS_COMMON_TRT_FIELDS_H_
