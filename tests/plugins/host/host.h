// The side of TensorRT in the tests: loads the plugin library, makes plugins from fields, describes tensors.
//
// Nothing here links TensorRT. What its library would hand to a plugin (expressions, a resource context, a
// logger finder) is in mocks.h. A check is written
//
//   CHECK(plugin_identity, "a plugin has the name of its creator") { EXPECT(…); }
//
// and is found by its name in the list that the program prints with --list.
#ifndef MRCNN_TESTS_PLUGINS_HOST_HOST_H_
#define MRCNN_TESTS_PLUGINS_HOST_HOST_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <list>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace host {

// ---- Checks ----------------------------------------------------------------------------------------------

// Thrown where a check does not hold.
class Failure : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

// Thrown where a check cannot be made on this machine.
class Skipped : public std::runtime_error {
  public:
    using std::runtime_error::runtime_error;
};

struct Check {
    const char* name;
    const char* rule;
    bool needs_gpu;
    void (*body)();
};

// All checks, in the order of the files and of the lines.
std::vector<Check>& checks();

struct Registration {
    explicit Registration(const Check& check) { checks().push_back(check); }
};

#define HOST_CHECK(name, rule, needs_gpu)                                                        \
    static void check_##name();                                                                  \
    static const ::host::Registration registered_##name({#name, rule, needs_gpu, check_##name}); \
    static void check_##name()

#define CHECK(name, rule) HOST_CHECK(name, rule, false)
#define GPU_CHECK(name, rule) HOST_CHECK(name, rule, true)

// Says in the message of a failure which row of a table it was about.
class Note {
  public:
    explicit Note(std::string text);
    ~Note();
    Note(const Note&) = delete;
    Note& operator=(const Note&) = delete;
};

[[noreturn]] void fail(const char* file, int line, const std::string& what);

#define EXPECT(condition)                                                      \
    do {                                                                       \
        if (!(condition)) ::host::fail(__FILE__, __LINE__, "not " #condition); \
    } while (false)

template <typename Actual, typename Expected>
void expect_equal(const char* file, int line, const char* what, const Actual& actual,
                  const Expected& expected) {
    if (actual == expected) return;
    std::ostringstream text;
    text << what << " is " << actual << ", expected " << expected;
    fail(file, line, text.str());
}

#define EXPECT_EQUAL(actual, expected) ::host::expect_equal(__FILE__, __LINE__, #actual, actual, expected)

// Whether CUDA has a device here.
bool has_gpu();

// ---- The library -----------------------------------------------------------------------------------------

// libmrcnn_plugins.so, loaded as TensorRT's registry loads it.
class Library {
  public:
    explicit Library(std::string path);
    ~Library();
    Library(const Library&) = delete;
    Library& operator=(const Library&) = delete;

    // Unloads the library and loads it again.
    void reload();

    // What getCreators answered at the last load.
    const std::vector<nvinfer1::IPluginCreatorInterface*>& creators() const { return creators_; }

    // The creator of that name; a Failure where there is none.
    nvinfer1::IPluginCreatorV3One& creator(const std::string& name) const;

    // An exported function, as function<decltype(mrcnnNMSCpu)>("mrcnnNMSCpu").
    template <typename Function>
    Function* function(const char* name) const {
        return reinterpret_cast<Function*>(symbol(name));
    }

    std::string last_error() const;

    // Makes last_error say something that no plugin says.
    void forget_errors() const;

  private:
    void load();
    void* symbol(const char* name) const;

    std::string path_;
    void* handle_ = nullptr;
    std::vector<nvinfer1::IPluginCreatorInterface*> creators_;
};

// The library under test, which main() opens.
Library& library();
void open_library(const std::string& path);

// Expects that a call failed and left a line with `text`. `call` answers whether it succeeded.
void expect_refused(const char* file, int line, const std::function<bool()>& call, const std::string& text);

#define EXPECT_REFUSED(call, text) ::host::expect_refused(__FILE__, __LINE__, [&] { return call; }, text)

// ---- Fields ----------------------------------------------------------------------------------------------

// Attributes as fields. Names and values lie in blocks of exactly their size, so that the address sanitizer
// sees whoever reads past one or keeps a pointer.
class FieldList {
  public:
    FieldList() = default;
    FieldList(const FieldList& other) : FieldList(other.collection()) {}
    FieldList& operator=(const FieldList&) = delete;

    // A deep copy. Refuses null names and values.
    explicit FieldList(const nvinfer1::PluginFieldCollection& fields);

    // Adds a field, or gives the one of that name another value.
    FieldList& integer(const std::string& name, std::int32_t value);
    FieldList& real(const std::string& name, float value);
    FieldList& integers(const std::string& name, const std::vector<std::int32_t>& values);
    FieldList& reals(const std::string& name, const std::vector<float>& values);
    FieldList& text(const std::string& name, const std::string& value, bool closing_zero = true);

    // Adds a field even where the name is taken.
    void add(const std::string& name, nvinfer1::PluginFieldType type, const void* data, std::size_t bytes,
             std::int32_t length);

    void remove(const std::string& name);
    void reverse() { fields_.reverse(); }

    // The field itself, to make it wrong.
    nvinfer1::PluginField& at(const std::string& name);

    std::vector<std::string> names() const;

    // Points into this object and is good until it changes.
    nvinfer1::PluginFieldCollection collection() const;

  private:
    struct Field {
        std::unique_ptr<char[]> name, data;
        nvinfer1::PluginField field;
    };

    FieldList& set(const std::string& name, nvinfer1::PluginFieldType type, const void* data,
                   std::size_t bytes, std::int32_t length);

    std::list<Field> fields_;
    mutable std::vector<nvinfer1::PluginField> view_;
};

std::size_t size_of(nvinfer1::PluginFieldType type);

// What two collections differ in, or "".
std::string difference(const nvinfer1::PluginFieldCollection& a, const nvinfer1::PluginFieldCollection& b);

// ---- Plugins ---------------------------------------------------------------------------------------------

// A plugin and its three interfaces. Owns it.
class Plugin {
  public:
    // A Failure where `object` is null or lacks an interface.
    explicit Plugin(nvinfer1::IPluginV3* object);

    nvinfer1::IPluginV3& object() const { return *object_; }
    nvinfer1::IPluginV3OneCore& core() const { return *core_; }
    nvinfer1::IPluginV3OneBuild& build() const { return *build_; }
    nvinfer1::IPluginV3OneRuntime& runtime() const { return *runtime_; }

  private:
    std::unique_ptr<nvinfer1::IPluginV3> object_;
    nvinfer1::IPluginV3OneCore* core_;
    nvinfer1::IPluginV3OneBuild* build_;
    nvinfer1::IPluginV3OneRuntime* runtime_;
};

// Null where the creator refuses.
std::unique_ptr<nvinfer1::IPluginV3> try_create(
    const std::string& op, const FieldList& fields,
    nvinfer1::TensorRTPhase phase = nvinfer1::TensorRTPhase::kBUILD);

Plugin create(const std::string& op, const FieldList& fields,
              nvinfer1::TensorRTPhase phase = nvinfer1::TensorRTPhase::kBUILD);

// ---- Tensors ---------------------------------------------------------------------------------------------

nvinfer1::Dims dims(std::initializer_list<std::int64_t> sizes);

nvinfer1::PluginTensorDesc tensor(const nvinfer1::Dims& sizes,
                                  nvinfer1::DataType type = nvinfer1::DataType::kFLOAT,
                                  nvinfer1::TensorFormat format = nvinfer1::TensorFormat::kLINEAR);

// The tensors of a call at execution.
struct Tensors {
    std::vector<nvinfer1::PluginTensorDesc> inputs, outputs;
};

// The tensors of a call at build time.
struct Bounds {
    std::vector<nvinfer1::DynamicPluginTensorDesc> inputs, outputs;
};

// Fixed sizes: minimum, optimum and maximum alike.
Bounds exactly(const Tensors& tensors);

// A profile; dimensions that differ are -1 in the descriptions, as in a network.
Bounds between(const Tensors& min, const Tensors& opt, const Tensors& max);

// The calls of the interfaces on whole lists, each in a block of exactly its size.
std::int32_t configure(const Plugin& plugin, const Bounds& bounds);
std::int32_t change_shape(const Plugin& plugin, const Tensors& tensors);
std::size_t workspace(const Plugin& plugin, const Bounds& bounds);

}  // namespace host

#endif  // MRCNN_TESTS_PLUGINS_HOST_HOST_H_
