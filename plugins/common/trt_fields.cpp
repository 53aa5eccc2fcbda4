#include "common/trt_fields.h"

#include <cstring>

namespace mrcnn {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

std::string type_name(PluginFieldType type) {
    switch (type) {
        case PluginFieldType::kINT32:
            return "an int32";
        case PluginFieldType::kFLOAT32:
            return "a float32";
        case PluginFieldType::kCHAR:
            return "a string";
        default:
            return "field type " + std::to_string(static_cast<std::int32_t>(type));
    }
}

std::string quoted(const char* name) { return "attribute '" + std::string(name) + "'"; }

}  // namespace

FieldReader::FieldReader(const nvinfer1::PluginFieldCollection* collection) {
    if (collection == nullptr) throw PluginError("no attributes: the field collection is null");
    if (collection->nbFields < 0 || (collection->nbFields > 0 && collection->fields == nullptr)) {
        throw PluginError("the field collection is damaged: " + std::to_string(collection->nbFields) +
                          " fields");
    }
    std::set<std::string> names;
    for (std::int32_t i = 0; i < collection->nbFields; ++i) {
        const PluginField& field = collection->fields[i];
        if (field.name == nullptr) throw PluginError("an attribute has no name");
        if (!names.insert(field.name).second) throw PluginError(quoted(field.name) + " is given twice");
        fields_.push_back(field);
    }
}

const PluginField& FieldReader::find(const char* name, PluginFieldType type) {
    for (const PluginField& field : fields_) {
        if (std::strcmp(field.name, name) != 0) continue;
        if (field.type != type) {
            throw PluginError(quoted(name) + " must be " + type_name(type) + " (got " +
                              type_name(field.type) + ")");
        }
        if (field.data == nullptr || field.length < 1) throw PluginError(quoted(name) + " has no value");
        read_.insert(name);
        return field;
    }
    throw PluginError(quoted(name) + " is missing");
}

const void* FieldReader::single(const char* name, PluginFieldType type) {
    const PluginField& field = find(name, type);
    if (field.length != 1) {
        throw PluginError(quoted(name) + " must be one number (got " + std::to_string(field.length) + ")");
    }
    return field.data;
}

// The data need not be aligned where a plan was read from a file.
std::int32_t FieldReader::integer(const char* name) {
    std::int32_t value;
    std::memcpy(&value, single(name, PluginFieldType::kINT32), sizeof value);
    return value;
}

float FieldReader::real(const char* name) {
    float value;
    std::memcpy(&value, single(name, PluginFieldType::kFLOAT32), sizeof value);
    return value;
}

std::vector<float> FieldReader::reals(const char* name, std::int32_t most) {
    const PluginField& field = find(name, PluginFieldType::kFLOAT32);
    if (field.length > most) {
        throw PluginError(quoted(name) + " must be 1 to " + std::to_string(most) + " numbers (got " +
                          std::to_string(field.length) + ")");
    }
    std::vector<float> values(static_cast<std::size_t>(field.length));
    std::memcpy(values.data(), field.data, values.size() * sizeof(float));
    return values;
}

std::vector<std::int32_t> FieldReader::integers(const char* name, std::int32_t count) {
    const PluginField& field = find(name, PluginFieldType::kINT32);
    if (field.length != count) {
        throw PluginError(quoted(name) + " must be " + std::to_string(count) + " numbers (got " +
                          std::to_string(field.length) + ")");
    }
    std::vector<std::int32_t> values(static_cast<std::size_t>(count));
    std::memcpy(values.data(), field.data, values.size() * sizeof(std::int32_t));
    return values;
}

std::string FieldReader::text(const char* name) {
    const PluginField& field = find(name, PluginFieldType::kCHAR);
    const auto* characters = static_cast<const char*>(field.data);
    return {characters, strnlen(characters, static_cast<std::size_t>(field.length))};
}

void FieldReader::finish() const {
    for (const PluginField& field : fields_) {
        if (read_.count(field.name) == 0) throw PluginError(quoted(field.name) + " is not known");
    }
}

}  // namespace mrcnn
