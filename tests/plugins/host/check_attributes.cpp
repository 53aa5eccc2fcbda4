// What createPlugin accepts and refuses. Each row of a table names the rule that it breaks and what the line
// in mrcnnLastError must say.

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "cases.h"
#include "host.h"

namespace host {
namespace {

using nvinfer1::PluginFieldType;
using nvinfer1::TensorRTPhase;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int32_t kMost = std::numeric_limits<std::int32_t>::max();
constexpr std::int32_t kLeast = std::numeric_limits<std::int32_t>::min();

struct Row {
    const char* rule;
    std::function<void(FieldList&)> change;
    const char* message = "";  // what a refusal must say
};

// Both phases read the same fields, so that a plan cannot hold what a graph may not.
void expect_refused_rows(const std::string& op, const std::vector<Row>& rows) {
    for (const Row& row : rows) {
        const Note note(row.rule);
        FieldList fields = fields_of(op);
        row.change(fields);
        EXPECT_REFUSED(try_create(op, fields, TensorRTPhase::kBUILD) != nullptr, row.message);
        EXPECT_REFUSED(try_create(op, fields, TensorRTPhase::kRUNTIME) != nullptr, row.message);
        EXPECT(library().last_error().find(op) == 0);
    }
}

void expect_accepted_rows(const std::string& op, const std::vector<Row>& rows) {
    for (const Row& row : rows) {
        const Note note(row.rule);
        FieldList fields = fields_of(op);
        row.change(fields);
        for (const TensorRTPhase phase : {TensorRTPhase::kBUILD, TensorRTPhase::kRUNTIME}) {
            const Plugin plugin = create(op, fields, phase);
            EXPECT(plugin.runtime().getFieldsToSerialize() != nullptr);
        }
    }
}

// The ways in which any attribute can be wrong, whatever it means.
void expect_structure_refused(const std::string& op) {
    for (const std::string& name : fields_of(op).names()) {
        const Note note(op + "." + name);
        const std::string quoted = "'" + name + "'";
        std::vector<Row> rows = {
            {"missing", [&](FieldList& f) { f.remove(name); }, quoted.c_str()},
            {"null data", [&](FieldList& f) { f.at(name).data = nullptr; }, quoted.c_str()},
            {"length 0", [&](FieldList& f) { f.at(name).length = 0; }, quoted.c_str()},
            {"length -1", [&](FieldList& f) { f.at(name).length = -1; }, quoted.c_str()},
            {"least length", [&](FieldList& f) { f.at(name).length = kLeast; }, quoted.c_str()},
            {"null name", [&](FieldList& f) { f.at(name).name = nullptr; }, "no name"},
            {"another case of letters",
             [&](FieldList& f) {
                 f.remove(name);
                 std::string other = name;
                 other[0] = static_cast<char>(std::toupper(other[0]));
                 f.integer(other, 1);
             },
             quoted.c_str()},
            {"twice",
             [&](FieldList& f) {
                 const nvinfer1::PluginField field = f.at(name);
                 const std::size_t bytes = size_of(field.type) * static_cast<std::size_t>(field.length);
                 f.add(name, field.type, field.data, bytes, field.length);
             },
             quoted.c_str()},
        };
        const PluginFieldType right = fields_of(op).at(name).type;
        if (right != PluginFieldType::kCHAR && name != "spatial_scales" && name != "pooled_shape") {
            rows.push_back({"two numbers",
                            [&](FieldList& f) {
                                const float values[2] = {1.0f, 1.0f};
                                f.remove(name);
                                f.add(name, right, values, sizeof values, 2);
                            },
                            quoted.c_str()});
        }
        expect_refused_rows(op, rows);
        for (std::int32_t type = -1; type <= 20; ++type) {
            if (static_cast<PluginFieldType>(type) == right) continue;
            const Note type_note("type " + std::to_string(type));
            // As many bytes as the widest type has, so that a reader of the wrong type would not be seen
            // by the sanitizer alone.
            const char bytes[sizeof(nvinfer1::Dims)] = {1};
            FieldList fields = fields_of(op);
            fields.remove(name);
            fields.add(name, static_cast<PluginFieldType>(type), bytes, sizeof bytes, 1);
            EXPECT_REFUSED(try_create(op, fields) != nullptr, quoted);
        }
    }
    expect_refused_rows(
        op, {{"unknown name", [](FieldList& f) { f.integer("pooled_size", 7); }, "'pooled_size'"},
             {"empty name", [](FieldList& f) { f.integer("", 7); }, "''"},
             {"very long name", [](FieldList& f) { f.integer(std::string(5000, 'x'), 7); }, "'xxx"}});
}

}  // namespace

CHECK(roi_align_structure_refused, "RoIAlign refuses missing, repeated, unknown and ill-typed attributes") {
    expect_structure_refused(kRoIAlign);
}

CHECK(roi_pool_structure_refused, "RoIPool refuses missing, repeated, unknown and ill-typed attributes") {
    expect_structure_refused(kRoIPool);
}

CHECK(roi_pool_values, "RoIPool takes two numbers of bins and a scale within their ranges, and no others") {
    expect_refused_rows(
        kRoIPool,
        {{"one number of bins", [](FieldList& f) { f.integers("pooled_shape", {7}); }, "pooled_shape"},
         {"three numbers", [](FieldList& f) { f.integers("pooled_shape", {7, 7, 7}); }, "pooled_shape"},
         {"no bins", [](FieldList& f) { f.integers("pooled_shape", {0, 7}); }, "pooled_shape"},
         {"negative bins", [](FieldList& f) { f.integers("pooled_shape", {7, -7}); }, "pooled_shape"},
         {"more than 32 bins", [](FieldList& f) { f.integers("pooled_shape", {7, 33}); }, "pooled_shape"},
         {"most bins", [](FieldList& f) { f.integers("pooled_shape", {kMost, kMost}); }, "pooled_shape"},
         {"scale 0", [](FieldList& f) { f.real("spatial_scale", 0.0f); }, "spatial_scale"},
         {"negative scale", [](FieldList& f) { f.real("spatial_scale", -0.25f); }, "spatial_scale"},
         {"scale is not a number", [](FieldList& f) { f.real("spatial_scale", kNaN); }, "spatial_scale"},
         {"infinite scale", [](FieldList& f) { f.real("spatial_scale", kInfinity); }, "spatial_scale"}});
    expect_accepted_rows(
        kRoIPool, {{"the exporter's", [](FieldList&) {}},
                   {"one bin", [](FieldList& f) { f.integers("pooled_shape", {1, 1}); }},
                   {"32 by 1 bins", [](FieldList& f) { f.integers("pooled_shape", {32, 1}); }},
                   {"a scale that is no power of two", [](FieldList& f) { f.real("spatial_scale", 0.3f); }},
                   {"the reverse order", [](FieldList& f) { f.reverse(); }}});
}

CHECK(nms_structure_refused, "NMS refuses missing, repeated, unknown and ill-typed attributes") {
    expect_structure_refused(kNMS);
}

CHECK(roi_align_values_refused, "RoIAlign refuses values outside their ranges and names them") {
    using Scales = std::vector<float>;
    expect_refused_rows(
        kRoIAlign,
        {{"no bins", [](FieldList& f) { f.integer("output_size", 0); }, "output_size"},
         {"negative bins", [](FieldList& f) { f.integer("output_size", -7); }, "output_size"},
         {"more than 32 bins", [](FieldList& f) { f.integer("output_size", 33); }, "output_size"},
         {"most bins", [](FieldList& f) { f.integer("output_size", kMost); }, "output_size"},
         {"least bins", [](FieldList& f) { f.integer("output_size", kLeast); }, "output_size"},
         {"negative samples", [](FieldList& f) { f.integer("sampling_ratio", -1); }, "sampling_ratio"},
         {"more than 64 samples", [](FieldList& f) { f.integer("sampling_ratio", 65); }, "sampling_ratio"},
         {"most samples", [](FieldList& f) { f.integer("sampling_ratio", kMost); }, "sampling_ratio"},
         {"aligned is no truth value", [](FieldList& f) { f.integer("aligned", 2); }, "aligned"},
         {"aligned is negative", [](FieldList& f) { f.integer("aligned", -1); }, "aligned"},
         {"unknown mode", [](FieldList& f) { f.text("mode", "mean"); }, "mode"},
         {"capital mode", [](FieldList& f) { f.text("mode", "AVG"); }, "mode"},
         {"mode is a prefix", [](FieldList& f) { f.text("mode", "av"); }, "mode"},
         {"mode is longer", [](FieldList& f) { f.text("mode", "avg "); }, "mode"},
         {"empty mode", [](FieldList& f) { f.text("mode", ""); }, "mode"},
         {"very long mode", [](FieldList& f) { f.text("mode", std::string(100000, 'a')); }, "mode"},
         {"nine levels", [](FieldList& f) { f.reals("spatial_scales", Scales(9, 0.25f)); }, "spatial_scales"},
         {"a million levels", [](FieldList& f) { f.reals("spatial_scales", Scales(1000000, 0.25f)); },
          "spatial_scales"},
         // No honest caller has that length; reading as much would run past any block.
         {"absurd number of levels", [](FieldList& f) { f.at("spatial_scales").length = kMost; },
          "spatial_scales"},
         {"scale of 0", [](FieldList& f) { f.reals("spatial_scales", {0.25f, 0.0f}); }, "spatial_scales[1]"},
         {"negative scale", [](FieldList& f) { f.reals("spatial_scales", {-0.25f}); }, "spatial_scales[0]"},
         {"infinite scale", [](FieldList& f) { f.reals("spatial_scales", {kInfinity}); },
          "spatial_scales[0]"},
         {"scale is not a number", [](FieldList& f) { f.reals("spatial_scales", {0.5f, kNaN}); },
          "spatial_scales[1]"},
         {"tiny scale", [](FieldList& f) { f.reals("spatial_scales", {1e-30f}); }, "spatial_scales[0]"},
         {"no canonical size", [](FieldList& f) { f.real("canonical_size", 0.0f); }, "canonical_size"},
         {"negative canonical size", [](FieldList& f) { f.real("canonical_size", -224.0f); },
          "canonical_size"},
         {"infinite canonical size", [](FieldList& f) { f.real("canonical_size", kInfinity); },
          "canonical_size"},
         {"canonical size is not a number", [](FieldList& f) { f.real("canonical_size", kNaN); },
          "canonical_size"},
         {"negative canonical level", [](FieldList& f) { f.integer("canonical_level", -1); },
          "canonical_level"},
         {"canonical level above 32", [](FieldList& f) { f.integer("canonical_level", 33); },
          "canonical_level"}});
}

CHECK(nms_values_refused, "NMS refuses values outside their ranges and names them") {
    expect_refused_rows(
        kNMS,
        {{"IoU below 0", [](FieldList& f) { f.real("iou_threshold", -0.01f); }, "iou_threshold"},
         {"IoU above 1", [](FieldList& f) { f.real("iou_threshold", 1.01f); }, "iou_threshold"},
         {"IoU in percent", [](FieldList& f) { f.real("iou_threshold", 50.0f); }, "iou_threshold"},
         {"IoU is not a number", [](FieldList& f) { f.real("iou_threshold", kNaN); }, "iou_threshold"},
         {"infinite IoU", [](FieldList& f) { f.real("iou_threshold", kInfinity); }, "iou_threshold"},
         {"score is not a number", [](FieldList& f) { f.real("score_threshold", kNaN); }, "score_threshold"},
         {"nothing to keep", [](FieldList& f) { f.integer("max_output", 0); }, "max_output"},
         {"negative number to keep", [](FieldList& f) { f.integer("max_output", -1); }, "max_output"},
         {"least number to keep", [](FieldList& f) { f.integer("max_output", kLeast); }, "max_output"}});
}

CHECK(roi_align_values_accepted, "RoIAlign accepts the ends of every range") {
    expect_accepted_rows(
        kRoIAlign,
        {{"the exporter's", [](FieldList&) {}},
         {"one bin", [](FieldList& f) { f.integer("output_size", 1); }},
         {"32 bins", [](FieldList& f) { f.integer("output_size", 32); }},
         {"adaptive sampling", [](FieldList& f) { f.integer("sampling_ratio", 0); }},
         {"64 samples", [](FieldList& f) { f.integer("sampling_ratio", 64); }},
         {"aligned", [](FieldList& f) { f.integer("aligned", 1); }},
         {"mode max", [](FieldList& f) { f.text("mode", "max"); }},
         {"mode without its zero", [](FieldList& f) { f.text("mode", "avg", false); }},
         {"mode max without its zero", [](FieldList& f) { f.text("mode", "max", false); }},
         {"mode with zeros after it", [](FieldList& f) { f.text("mode", std::string("max\0\0\0\0", 7)); }},
         {"one level", [](FieldList& f) { f.reals("spatial_scales", {0.0625f}); }},
         {"eight levels", [](FieldList& f) { f.reals("spatial_scales", std::vector<float>(8, 0.25f)); }},
         {"a scale that is no power of two", [](FieldList& f) { f.reals("spatial_scales", {0.3f, 0.16f}); }},
         {"canonical level 0", [](FieldList& f) { f.integer("canonical_level", 0); }},
         {"canonical level 32", [](FieldList& f) { f.integer("canonical_level", 32); }},
         {"small canonical size", [](FieldList& f) { f.real("canonical_size", 1e-3f); }},
         {"the reverse order", [](FieldList& f) { f.reverse(); }}});
}

CHECK(nms_values_accepted, "NMS accepts the ends of every range") {
    expect_accepted_rows(kNMS, {{"the exporter's", [](FieldList&) {}},
                                {"IoU 0", [](FieldList& f) { f.real("iou_threshold", 0.0f); }},
                                {"IoU 1", [](FieldList& f) { f.real("iou_threshold", 1.0f); }},
                                {"every score", [](FieldList& f) { f.real("score_threshold", -kInfinity); }},
                                {"negative score", [](FieldList& f) { f.real("score_threshold", -10.0f); }},
                                {"one box", [](FieldList& f) { f.integer("max_output", 1); }},
                                {"all boxes", [](FieldList& f) { f.integer("max_output", kMost); }},
                                {"the reverse order", [](FieldList& f) { f.reverse(); }}});
}

CHECK(collections_refused, "a collection that cannot be read is refused") {
    const FieldList fields = nms_fields();
    for (const char* op : kOps) {
        nvinfer1::IPluginCreatorV3One& creator = library().creator(op);
        const auto creates = [&](const nvinfer1::PluginFieldCollection* collection) {
            return std::unique_ptr<nvinfer1::IPluginV3>(
                       creator.createPlugin("layer", collection, TensorRTPhase::kBUILD)) != nullptr;
        };
        EXPECT_REFUSED(creates(nullptr), "null");
        nvinfer1::PluginFieldCollection empty = {0, nullptr};
        EXPECT_REFUSED(creates(&empty), "is missing");
        nvinfer1::PluginFieldCollection without_fields = {3, nullptr};
        EXPECT_REFUSED(creates(&without_fields), "damaged");
        for (const std::int32_t count : {-1, kLeast}) {
            nvinfer1::PluginFieldCollection negative = {count, fields.collection().fields};
            EXPECT_REFUSED(creates(&negative), "damaged");
        }
    }
}

CHECK(layer_names, "the name of the layer and the phase do not matter") {
    const FieldList fields = roi_align_fields();
    const nvinfer1::PluginFieldCollection collection = fields.collection();
    const std::string long_name(100000, 'n');
    for (const char* name :
         {static_cast<const char*>(nullptr), "", "roi_heads/box_roi_pool", long_name.c_str()}) {
        for (const int phase : {0, 1, 2, -1}) {
            const Plugin plugin(library().creator(kRoIAlign).createPlugin(name, &collection,
                                                                          static_cast<TensorRTPhase>(phase)));
            EXPECT_EQUAL(std::string(plugin.core().getPluginName()), kRoIAlign);
        }
    }
}

CHECK(values_unaligned, "values may lie at any address, as in a plan that was read from a file") {
    const FieldList aligned = roi_align_fields();
    const Plugin expected = create(kRoIAlign, aligned);
    std::vector<nvinfer1::PluginField> fields;
    std::vector<char> bytes(1024);
    std::size_t place = 0;
    const nvinfer1::PluginFieldCollection given = aligned.collection();
    for (std::int32_t i = 0; i < given.nbFields; ++i) {
        nvinfer1::PluginField field = given.fields[i];
        const std::size_t size = size_of(field.type) * static_cast<std::size_t>(field.length);
        place = place + 4 - place % 4 + 1;  // never divisible by 4
        std::memcpy(bytes.data() + place, field.data, size);
        field.data = bytes.data() + place;
        place += size;
        fields.push_back(field);
    }
    const nvinfer1::PluginFieldCollection collection = {given.nbFields, fields.data()};
    const Plugin plugin(
        library().creator(kRoIAlign).createPlugin("layer", &collection, TensorRTPhase::kRUNTIME));
    EXPECT_EQUAL(std::string(plugin.build().getTimingCacheID()), expected.build().getTimingCacheID());
}

}  // namespace host
