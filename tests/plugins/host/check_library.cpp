// Entry points, creators, and what a plugin says of itself.

#include <cstring>
#include <iterator>
#include <set>
#include <string>

#include "cases.h"
#include "common/status.h"
#include "host.h"
#include "mocks.h"

namespace host {
namespace {

using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginFieldType;

struct FieldName {
    const char* name;
    PluginFieldType type;
};

const std::vector<FieldName> kRoIAlignFields = {
    {"output_size", PluginFieldType::kINT32},      {"sampling_ratio", PluginFieldType::kINT32},
    {"aligned", PluginFieldType::kINT32},          {"mode", PluginFieldType::kCHAR},
    {"spatial_scales", PluginFieldType::kFLOAT32}, {"canonical_size", PluginFieldType::kFLOAT32},
    {"canonical_level", PluginFieldType::kINT32}};

const std::vector<FieldName> kRoIPoolFields = {{"pooled_shape", PluginFieldType::kINT32},
                                               {"spatial_scale", PluginFieldType::kFLOAT32}};

const std::vector<FieldName> kNMSFields = {{"iou_threshold", PluginFieldType::kFLOAT32},
                                           {"score_threshold", PluginFieldType::kFLOAT32},
                                           {"max_output", PluginFieldType::kINT32}};

void expect_fields(const std::string& op, const std::vector<FieldName>& expected) {
    const Note note(op);
    const nvinfer1::PluginFieldCollection* names = library().creator(op).getFieldNames();
    EXPECT(names != nullptr);
    EXPECT_EQUAL(names->nbFields, static_cast<std::int32_t>(expected.size()));
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const Note field_note(expected[i].name);
        const nvinfer1::PluginField& field = names->fields[i];
        EXPECT_EQUAL(std::string(field.name), expected[i].name);
        EXPECT(field.type == expected[i].type);
    }
    // The same object at each call, as TensorRT expects of a creator.
    EXPECT(library().creator(op).getFieldNames() == names);
}

}  // namespace

CHECK(library_creators, "getCreators answers the same three creators at every call") {
    EXPECT_EQUAL(library().creators().size(), std::size_t{3});
    std::set<std::string> names;
    for (nvinfer1::IPluginCreatorInterface* creator : library().creators()) {
        EXPECT(creator != nullptr);
        EXPECT_EQUAL(std::string(creator->getInterfaceInfo().kind), "PLUGIN CREATOR_V3ONE");
        EXPECT_EQUAL(creator->getInterfaceInfo().major, 1);
        EXPECT(creator->getAPILanguage() == nvinfer1::APILanguage::kCPP);
        names.insert(static_cast<nvinfer1::IPluginCreatorV3One*>(creator)->getPluginName());
    }
    EXPECT(names == (std::set<std::string>(std::begin(kOps), std::end(kOps))));
    using GetCreators = nvinfer1::IPluginCreatorInterface* const*(std::int32_t&);
    for (int call = 0; call < 3; ++call) {
        std::int32_t count = 99;
        nvinfer1::IPluginCreatorInterface* const* again =
            library().function<GetCreators>("getCreators")(count);
        EXPECT_EQUAL(count, 3);
        for (int i = 0; i < count; ++i) EXPECT(again[i] == library().creators()[static_cast<std::size_t>(i)]);
    }
}

CHECK(library_logger_finder,
      "setLoggerFinder takes any finder and asks none, since ILogger changed in 11.0") {
    const auto set_finder = library().function<void(nvinfer1::ILoggerFinder*)>("setLoggerFinder");
    set_finder(nullptr);
    LoggerFinder finder;
    set_finder(&finder);
    EXPECT(try_create(kNMS, nms_fields()) != nullptr);
    EXPECT(try_create(kNMS, FieldList()) == nullptr);
    EXPECT_EQUAL(finder.asked, 0);
}

CHECK(library_reload, "the library can be unloaded and loaded again") {
    for (int round = 0; round < 3; ++round) {
        {
            const Plugin roi_align = create(kRoIAlign, roi_align_fields());
            const Plugin nms = create(kNMS, nms_fields());
            EXPECT_EQUAL(configure(nms, exactly(nms_tensors())), 0);
        }
        library().reload();
        EXPECT_EQUAL(library().creators().size(), std::size_t{3});
    }
}

CHECK(library_build_info, "mrcnnBuildInfo names the headers that the library was built with") {
    const std::string info = library().function<decltype(mrcnnBuildInfo)>("mrcnnBuildInfo")();
    EXPECT(info.find("CUDA ") != std::string::npos);
    EXPECT(info.find(", TensorRT ") != std::string::npos);
}

CHECK(creator_identity, "creators are found by name, version 1 and namespace mrcnn") {
    for (const char* op : kOps) {
        nvinfer1::IPluginCreatorV3One& creator = library().creator(op);
        EXPECT_EQUAL(std::string(creator.getPluginName()), op);
        EXPECT_EQUAL(std::string(creator.getPluginVersion()), "1");
        EXPECT_EQUAL(std::string(creator.getPluginNamespace()), "mrcnn");
    }
}

CHECK(creator_fields_roi_align, "RoIAlign's creator names its attributes and their types") {
    expect_fields(kRoIAlign, kRoIAlignFields);
}

CHECK(creator_fields_roi_pool, "RoIPool's creator names its attributes and their types") {
    expect_fields(kRoIPool, kRoIPoolFields);
}

CHECK(creator_fields_nms, "NMS's creator names its attributes and their types") {
    expect_fields(kNMS, kNMSFields);
}

CHECK(plugin_identity, "a plugin has the name, version and namespace of its creator") {
    for (const char* op : kOps) {
        const Plugin plugin = create(op, fields_of(op));
        EXPECT_EQUAL(std::string(plugin.core().getPluginName()), op);
        EXPECT_EQUAL(std::string(plugin.core().getPluginVersion()), "1");
        EXPECT_EQUAL(std::string(plugin.core().getPluginNamespace()), "mrcnn");
        EXPECT_EQUAL(plugin.build().getNbOutputs(), std::string(op) == kNMS ? 2 : 1);
    }
}

CHECK(plugin_capabilities, "a plugin has exactly the three interfaces, each as TensorRT casts it") {
    for (const char* op : kOps) {
        const Plugin plugin = create(op, fields_of(op));
        EXPECT_EQUAL(std::string(plugin.object().getInterfaceInfo().kind), "PLUGIN");
        EXPECT(plugin.object().getAPILanguage() == nvinfer1::APILanguage::kCPP);
        EXPECT_EQUAL(std::string(plugin.core().getInterfaceInfo().kind), "PLUGIN_V3ONE_CORE");
        EXPECT_EQUAL(std::string(plugin.build().getInterfaceInfo().kind), "PLUGIN_V3ONE_BUILD");
        EXPECT_EQUAL(std::string(plugin.runtime().getInterfaceInfo().kind), "PLUGIN_V3ONE_RUNTIME");
        for (const auto type :
             {PluginCapabilityType::kCORE, PluginCapabilityType::kBUILD, PluginCapabilityType::kRUNTIME}) {
            nvinfer1::IPluginCapability* found = plugin.object().getCapabilityInterface(type);
            EXPECT(found != nullptr && found == plugin.object().getCapabilityInterface(type));
        }
        for (const int other : {-1, 3, 1000}) {
            EXPECT(plugin.object().getCapabilityInterface(static_cast<PluginCapabilityType>(other)) ==
                   nullptr);
        }
    }
}

CHECK(plugin_tactics, "there is one way to run, tactic 0, and few enough formats to time them all") {
    for (const char* op : kOps) {
        const Plugin plugin = create(op, fields_of(op));
        EXPECT_EQUAL(plugin.build().getNbTactics(), 0);
        EXPECT_EQUAL(plugin.build().getValidTactics(nullptr, 0), 0);
        EXPECT_EQUAL(plugin.runtime().setTactic(0), 0);
        EXPECT(plugin.build().getFormatCombinationLimit() >= 1);
    }
}

CHECK(plugin_aliases, "no output lies in the memory of an input") {
    for (const char* op : kOps) {
        const Plugin plugin = create(op, fields_of(op));
        // TensorRT asks only where the interface is the second one.
        if (plugin.build().getInterfaceInfo().major < 2) continue;
        auto& build = static_cast<nvinfer1::IPluginV3OneBuildV2&>(plugin.build());
        for (std::int32_t output = 0; output < build.getNbOutputs(); ++output) {
            EXPECT_EQUAL(build.getAliasedInput(output), -1);
        }
    }
}

}  // namespace host
