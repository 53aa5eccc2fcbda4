#include "host.h"

#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "common/status.h"
#include "mocks.h"
#include "nms/nms.h"

namespace host {
namespace {

std::vector<std::string>& notes() {
    thread_local std::vector<std::string> texts;
    return texts;
}

std::unique_ptr<Library> opened;

std::unique_ptr<char[]> block(const void* data, std::size_t bytes) {
    std::unique_ptr<char[]> copy(new char[bytes]);
    if (bytes > 0) std::memcpy(copy.get(), data, bytes);
    return copy;
}

}  // namespace

std::vector<Check>& checks() {
    static std::vector<Check> all;
    return all;
}

Note::Note(std::string text) { notes().push_back(std::move(text)); }

Note::~Note() { notes().pop_back(); }

void fail(const char* file, int line, const std::string& what) {
    std::string text;
    for (const std::string& note : notes()) text += note + ": ";
    const char* name = std::strrchr(file, '/');
    throw Failure(text + what + " (" + (name == nullptr ? file : name + 1) + ":" + std::to_string(line) +
                  ")");
}

bool has_gpu() {
    int count = 0;
    const bool found = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
    cudaGetLastError();
    return found;
}

// ---- The library

Library::Library(std::string path) : path_(std::move(path)) { load(); }

Library::~Library() { dlclose(handle_); }

void Library::load() {
    handle_ = dlopen(path_.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle_ == nullptr) throw std::runtime_error(dlerror());
    LoggerFinder finder;
    function<void(nvinfer1::ILoggerFinder*)>("setLoggerFinder")(&finder);
    std::int32_t count = -1;
    using GetCreators = nvinfer1::IPluginCreatorInterface* const*(std::int32_t&);
    nvinfer1::IPluginCreatorInterface* const* found = function<GetCreators>("getCreators")(count);
    if (found == nullptr || count < 1) throw std::runtime_error("getCreators answers no creators");
    creators_.assign(found, found + count);
}

void Library::reload() {
    creators_.clear();
    dlclose(handle_);
    // A symbol that is unique in the process (STB_GNU_UNIQUE) would keep it, and a newer file unread.
    EXPECT(dlopen(path_.c_str(), RTLD_LAZY | RTLD_NOLOAD) == nullptr);
    load();
}

void* Library::symbol(const char* name) const {
    void* found = dlsym(handle_, name);
    if (found == nullptr) throw std::runtime_error(dlerror());
    return found;
}

nvinfer1::IPluginCreatorV3One& Library::creator(const std::string& name) const {
    for (nvinfer1::IPluginCreatorInterface* creator : creators_) {
        // TensorRT decides by the same text what it may cast to.
        if (std::string(creator->getInterfaceInfo().kind) != "PLUGIN CREATOR_V3ONE") continue;
        auto* found = static_cast<nvinfer1::IPluginCreatorV3One*>(creator);
        if (name == found->getPluginName()) return *found;
    }
    throw Failure("no creator of " + name);
}

std::string Library::last_error() const { return function<decltype(mrcnnLastError)>("mrcnnLastError")(); }

void Library::forget_errors() const {
    function<decltype(mrcnnNMSCpu)>("mrcnnNMSCpu")(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr);
    if (last_error() != "NMS: params is null") throw Failure("a null struct is not refused: " + last_error());
}

Library& library() { return *opened; }

void open_library(const std::string& path) { opened = std::make_unique<Library>(path); }

void expect_refused(const char* file, int line, const std::function<bool()>& call, const std::string& text) {
    library().forget_errors();
    if (call()) fail(file, line, "was not refused");
    const std::string error = library().last_error();
    if (error.find(text) == std::string::npos) fail(file, line, "\"" + error + "\" lacks \"" + text + "\"");
}

// ---- Fields

FieldList::FieldList(const nvinfer1::PluginFieldCollection& fields) {
    for (std::int32_t i = 0; i < fields.nbFields; ++i) {
        const nvinfer1::PluginField& field = fields.fields[i];
        EXPECT(field.name != nullptr && field.data != nullptr && field.length >= 0);
        add(field.name, field.type, field.data, size_of(field.type) * static_cast<std::size_t>(field.length),
            field.length);
    }
}

void FieldList::add(const std::string& name, nvinfer1::PluginFieldType type, const void* data,
                    std::size_t bytes, std::int32_t length) {
    Field field = {block(name.c_str(), name.size() + 1), block(data, bytes), {}};
    field.field = {field.name.get(), field.data.get(), type, length};
    fields_.push_back(std::move(field));
}

FieldList& FieldList::set(const std::string& name, nvinfer1::PluginFieldType type, const void* data,
                          std::size_t bytes, std::int32_t length) {
    for (Field& field : fields_) {
        if (name != field.name.get()) continue;
        field.data = block(data, bytes);
        field.field = {field.name.get(), field.data.get(), type, length};
        return *this;
    }
    add(name, type, data, bytes, length);
    return *this;
}

FieldList& FieldList::integer(const std::string& name, std::int32_t value) {
    return set(name, nvinfer1::PluginFieldType::kINT32, &value, sizeof value, 1);
}

FieldList& FieldList::real(const std::string& name, float value) {
    return set(name, nvinfer1::PluginFieldType::kFLOAT32, &value, sizeof value, 1);
}

FieldList& FieldList::integers(const std::string& name, const std::vector<std::int32_t>& values) {
    return set(name, nvinfer1::PluginFieldType::kINT32, values.data(), values.size() * sizeof(std::int32_t),
               static_cast<std::int32_t>(values.size()));
}

FieldList& FieldList::reals(const std::string& name, const std::vector<float>& values) {
    return set(name, nvinfer1::PluginFieldType::kFLOAT32, values.data(), values.size() * sizeof(float),
               static_cast<std::int32_t>(values.size()));
}

FieldList& FieldList::text(const std::string& name, const std::string& value, bool closing_zero) {
    const std::size_t bytes = value.size() + (closing_zero ? 1 : 0);
    return set(name, nvinfer1::PluginFieldType::kCHAR, value.c_str(), bytes,
               static_cast<std::int32_t>(bytes));
}

void FieldList::remove(const std::string& name) {
    fields_.remove_if([&](const Field& field) { return name == field.name.get(); });
}

nvinfer1::PluginField& FieldList::at(const std::string& name) {
    for (Field& field : fields_) {
        if (name == field.name.get()) return field.field;
    }
    throw std::logic_error("no field " + name);
}

std::vector<std::string> FieldList::names() const {
    std::vector<std::string> result;
    for (const Field& field : fields_) result.emplace_back(field.name.get());
    return result;
}

nvinfer1::PluginFieldCollection FieldList::collection() const {
    view_.clear();
    for (const Field& field : fields_) view_.push_back(field.field);
    view_.shrink_to_fit();
    return {static_cast<std::int32_t>(view_.size()), view_.data()};
}

std::size_t size_of(nvinfer1::PluginFieldType type) {
    using nvinfer1::PluginFieldType;
    switch (type) {
        case PluginFieldType::kINT32:
        case PluginFieldType::kFLOAT32:
            return 4;
        case PluginFieldType::kFLOAT16:
        case PluginFieldType::kINT16:
        case PluginFieldType::kBF16:
            return 2;
        case PluginFieldType::kFLOAT64:
        case PluginFieldType::kINT64:
            return 8;
        case PluginFieldType::kDIMS:
            return sizeof(nvinfer1::Dims);
        default:
            return 1;
    }
}

std::string difference(const nvinfer1::PluginFieldCollection& a, const nvinfer1::PluginFieldCollection& b) {
    if (a.nbFields != b.nbFields) return "the number of fields";
    for (std::int32_t i = 0; i < a.nbFields; ++i) {
        const nvinfer1::PluginField &x = a.fields[i], &y = b.fields[i];
        if (std::strcmp(x.name, y.name) != 0) return std::string("the name of ") + x.name;
        if (x.type != y.type || x.length != y.length) return std::string("type or length of ") + x.name;
        const std::size_t bytes = size_of(x.type) * static_cast<std::size_t>(x.length);
        if (std::memcmp(x.data, y.data, bytes) != 0) return std::string("the value of ") + x.name;
    }
    return "";
}

// ---- Plugins

Plugin::Plugin(nvinfer1::IPluginV3* object) : object_(object) {
    using nvinfer1::PluginCapabilityType;
    if (object == nullptr) throw Failure("no plugin: " + library().last_error());
    const auto find = [&](PluginCapabilityType type) {
        nvinfer1::IPluginCapability* found = object->getCapabilityInterface(type);
        if (found == nullptr) throw Failure("a plugin lacks an interface");
        return found;
    };
    core_ = static_cast<nvinfer1::IPluginV3OneCore*>(find(PluginCapabilityType::kCORE));
    build_ = static_cast<nvinfer1::IPluginV3OneBuild*>(find(PluginCapabilityType::kBUILD));
    runtime_ = static_cast<nvinfer1::IPluginV3OneRuntime*>(find(PluginCapabilityType::kRUNTIME));
}

std::unique_ptr<nvinfer1::IPluginV3> try_create(const std::string& op, const FieldList& fields,
                                                nvinfer1::TensorRTPhase phase) {
    const nvinfer1::PluginFieldCollection collection = fields.collection();
    return std::unique_ptr<nvinfer1::IPluginV3>(
        library().creator(op).createPlugin("layer", &collection, phase));
}

Plugin create(const std::string& op, const FieldList& fields, nvinfer1::TensorRTPhase phase) {
    return Plugin(try_create(op, fields, phase).release());
}

// ---- Tensors

nvinfer1::Dims dims(std::initializer_list<std::int64_t> sizes) {
    nvinfer1::Dims result = {};
    // What lies past the rank must not matter.
    std::fill(std::begin(result.d), std::end(result.d), -7);
    result.nbDims = static_cast<std::int32_t>(sizes.size());
    std::copy(sizes.begin(), sizes.end(), result.d);
    return result;
}

nvinfer1::PluginTensorDesc tensor(const nvinfer1::Dims& sizes, nvinfer1::DataType type,
                                  nvinfer1::TensorFormat format) {
    nvinfer1::PluginTensorDesc result = {};
    result.dims = sizes;
    result.type = type;
    result.format = format;
    result.scale = -1.0f;  // TensorRT's value where there is none
    return result;
}

namespace {

std::vector<nvinfer1::DynamicPluginTensorDesc> between(const std::vector<nvinfer1::PluginTensorDesc>& min,
                                                       const std::vector<nvinfer1::PluginTensorDesc>& opt,
                                                       const std::vector<nvinfer1::PluginTensorDesc>& max) {
    std::vector<nvinfer1::DynamicPluginTensorDesc> result;
    for (std::size_t i = 0; i < max.size(); ++i) {
        result.push_back({max[i], min[i].dims, max[i].dims, opt[i].dims});
        nvinfer1::Dims& sizes = result.back().desc.dims;
        for (std::int32_t d = 0; d < std::min(sizes.nbDims, nvinfer1::Dims::MAX_DIMS); ++d) {
            if (min[i].dims.d[d] != max[i].dims.d[d]) sizes.d[d] = -1;
        }
    }
    return result;
}

template <typename T>
std::int32_t count_of(const std::vector<T>& list) {
    return static_cast<std::int32_t>(list.size());
}

}  // namespace

Bounds between(const Tensors& min, const Tensors& opt, const Tensors& max) {
    return {between(min.inputs, opt.inputs, max.inputs), between(min.outputs, opt.outputs, max.outputs)};
}

Bounds exactly(const Tensors& tensors) { return between(tensors, tensors, tensors); }

std::int32_t configure(const Plugin& plugin, const Bounds& bounds) {
    return plugin.build().configurePlugin(bounds.inputs.data(), count_of(bounds.inputs),
                                          bounds.outputs.data(), count_of(bounds.outputs));
}

std::int32_t change_shape(const Plugin& plugin, const Tensors& tensors) {
    return plugin.runtime().onShapeChange(tensors.inputs.data(), count_of(tensors.inputs),
                                          tensors.outputs.data(), count_of(tensors.outputs));
}

std::size_t workspace(const Plugin& plugin, const Bounds& bounds) {
    return plugin.build().getWorkspaceSize(bounds.inputs.data(), count_of(bounds.inputs),
                                           bounds.outputs.data(), count_of(bounds.outputs));
}

}  // namespace host
