// getOutputShapes and getOutputDataTypes: what the network learns about the outputs.

#include <cstdint>
#include <string>
#include <vector>

#include "cases.h"
#include "host.h"
#include "mocks.h"

namespace host {
namespace {

using nvinfer1::DataType;
using nvinfer1::DimsExprs;

// A dimension of an input: a size that the network knows, or one that only the execution knows.
struct Size {
    std::int64_t value;
    bool known;
};

Size known(std::int64_t value) { return {value, true}; }
Size unknown(std::int64_t value) { return {value, false}; }

using Sizes = std::vector<Size>;

struct Shapes {
    std::int32_t status;
    std::vector<Sizes> outputs;
};

constexpr std::int32_t kUnset = -99;

// Calls getOutputShapes with blocks of exactly the needed size.
Shapes shapes_of(const Plugin& plugin, const std::vector<Sizes>& inputs) {
    ExprBuilder builder;
    std::vector<DimsExprs> in(inputs.size()), out(static_cast<std::size_t>(plugin.build().getNbOutputs()));
    for (std::size_t i = 0; i < inputs.size(); ++i) {
        in[i] = {};
        in[i].nbDims = static_cast<std::int32_t>(inputs[i].size());
        for (std::size_t d = 0; d < inputs[i].size(); ++d) {
            const Size size = inputs[i][d];
            in[i].d[d] = size.known ? builder.known(size.value) : builder.unknown(size.value);
        }
    }
    for (DimsExprs& dims : out) {
        dims = {};
        dims.nbDims = kUnset;
    }
    Shapes result;
    result.status =
        plugin.build().getOutputShapes(in.data(), static_cast<std::int32_t>(in.size()), nullptr, 0,
                                       out.data(), static_cast<std::int32_t>(out.size()), builder);
    if (result.status != 0) return result;
    EXPECT_EQUAL(builder.size_tensors(),
                 0);  // no output of a size that depends on data: CUDA graphs need that
    for (const DimsExprs& dims : out) {
        Sizes sizes;
        for (std::int32_t d = 0; d < dims.nbDims; ++d) {
            EXPECT(dims.d[d] != nullptr);
            sizes.push_back({expr(dims.d[d]).value(), dims.d[d]->isConstant()});
        }
        result.outputs.push_back(sizes);
    }
    return result;
}

void expect_shapes(const Plugin& plugin, const std::vector<Sizes>& inputs,
                   const std::vector<Sizes>& expected) {
    const Shapes found = shapes_of(plugin, inputs);
    EXPECT_EQUAL(found.status, 0);
    EXPECT_EQUAL(found.outputs.size(), expected.size());
    for (std::size_t i = 0; i < expected.size(); ++i) {
        const Note output_note("output " + std::to_string(i));
        EXPECT_EQUAL(found.outputs[i].size(), expected[i].size());
        for (std::size_t d = 0; d < expected[i].size(); ++d) {
            const Note note("dimension " + std::to_string(d));
            EXPECT_EQUAL(found.outputs[i][d].value, expected[i][d].value);
            EXPECT_EQUAL(found.outputs[i][d].known, expected[i][d].known);
        }
    }
}

Sizes all_known(std::initializer_list<std::int64_t> values) {
    Sizes sizes;
    for (const std::int64_t value : values) sizes.push_back(known(value));
    return sizes;
}

struct Row {
    const char* rule;
    std::vector<Sizes> inputs;
    const char* message;
};

void expect_refused_rows(const Plugin& plugin, const std::vector<Row>& rows) {
    for (const Row& row : rows) {
        const Note note(row.rule);
        EXPECT_REFUSED(shapes_of(plugin, row.inputs).status == 0, row.message);
    }
}

// The types that the plugin answers, or an empty list where it refuses.
std::vector<DataType> types_of(const Plugin& plugin, const std::vector<DataType>& inputs) {
    std::vector<DataType> outputs(static_cast<std::size_t>(plugin.build().getNbOutputs()), DataType::kBOOL);
    const std::int32_t status =
        plugin.build().getOutputDataTypes(outputs.data(), static_cast<std::int32_t>(outputs.size()),
                                          inputs.data(), static_cast<std::int32_t>(inputs.size()));
    return status == 0 ? outputs : std::vector<DataType>();
}

}  // namespace

CHECK(roi_align_shapes, "RoIAlign's output is (batch * rois, channels, bins, bins)") {
    const Plugin plugin = create(kRoIAlign, roi_align_fields(2));
    const Sizes fine = all_known({2, 256, 200, 272}), coarse = all_known({2, 256, 100, 136});
    expect_shapes(plugin, {fine, coarse, all_known({2, 1000, 4})}, {all_known({2000, 256, 7, 7})});
    expect_shapes(plugin, {fine, coarse, all_known({2, 0, 4})}, {all_known({0, 256, 7, 7})});
    const Sizes empty = all_known({0, 256, 200, 272});
    expect_shapes(plugin, {empty, empty, all_known({0, 1000, 4})}, {all_known({0, 256, 7, 7})});
    for (const int levels : {1, 3, 4, 5, kMaxLevels}) {
        const Note note(std::to_string(levels) + " levels");
        const Plugin pyramid = create(kRoIAlign, roi_align_fields(levels).integer("output_size", 14));
        std::vector<Sizes> inputs;
        for (int level = 0; level < levels; ++level) inputs.push_back(all_known({3, 5, 1 + level, 9}));
        inputs.push_back(all_known({3, 11, 4}));
        expect_shapes(pyramid, inputs, {all_known({33, 5, 14, 14})});
    }
}

CHECK(roi_align_shapes_unknown, "dimensions that only the execution knows go into the output's expression") {
    const Plugin plugin = create(kRoIAlign, roi_align_fields(1));
    const Sizes dynamic = {unknown(3), known(256), unknown(50), unknown(68)};
    expect_shapes(plugin, {dynamic, {unknown(3), known(5), known(4)}},
                  {{unknown(15), known(256), known(7), known(7)}});
    expect_shapes(plugin, {dynamic, {unknown(3), unknown(5), unknown(4)}},
                  {{unknown(15), known(256), known(7), known(7)}});
    // One of two equal dimensions may be known.
    expect_shapes(plugin, {dynamic, {known(3), known(5), known(4)}},
                  {{known(15), known(256), known(7), known(7)}});
    expect_shapes(plugin, {{known(1), unknown(32), known(8), known(8)}, {known(1), unknown(0), known(4)}},
                  {{unknown(0), unknown(32), known(7), known(7)}});
}

CHECK(roi_align_shapes_refused, "RoIAlign refuses inputs of wrong rank or that do not fit together") {
    const Plugin plugin = create(kRoIAlign, roi_align_fields(2));
    const Sizes level = all_known({2, 256, 50, 68}), rois = all_known({2, 1000, 4});
    expect_refused_rows(
        plugin,
        {{"features without a batch", {all_known({256, 50, 68}), level, rois}, "feature level 0"},
         {"features with five dimensions", {level, all_known({2, 1, 256, 50, 68}), rois}, "feature level 1"},
         {"features without dimensions", {{}, level, rois}, "feature level 0"},
         {"RoIs without a batch", {level, level, all_known({1000, 4})}, "rois"},
         {"RoIs with four dimensions", {level, level, all_known({2, 1000, 4, 1})}, "rois"},
         {"RoIs with their image's number", {level, level, all_known({2, 1000, 5})}, "5 and 4"},
         {"another batch of RoIs", {level, level, all_known({3, 1000, 4})}, "2 and 3"},
         {"another batch of a level", {level, all_known({1, 256, 50, 68}), rois}, "1 and 2"},
         {"other channels of a level", {level, all_known({2, 128, 50, 68}), rois}, "128 and 256"},
         {"one level too few", {level, rois}, "expected 3 inputs"},
         {"one level too many", {level, level, level, rois}, "expected 3 inputs"}});
}

CHECK(roi_pool_shapes, "RoIPool's output is (batch * rois, channels, bins, bins)") {
    FieldList fields = roi_pool_fields();
    const Plugin plugin = create(kRoIPool, fields.integers("pooled_shape", {3, 5}));
    for (const std::int64_t rois : {300, 1, 0}) {
        expect_shapes(plugin, {all_known({2, 512, 50, 68}), all_known({2, rois, 4})},
                      {all_known({2 * rois, 512, 3, 5})});
    }
    expect_shapes(plugin,
                  {{unknown(3), known(512), unknown(50), unknown(68)}, {unknown(3), unknown(5), unknown(4)}},
                  {{unknown(15), known(512), known(3), known(5)}});
}

CHECK(roi_pool_shapes_refused, "RoIPool refuses inputs of wrong rank or that do not fit together") {
    const Plugin plugin = create(kRoIPool, roi_pool_fields());
    const Sizes features = all_known({2, 512, 50, 68}), rois = all_known({2, 300, 4});
    expect_refused_rows(plugin,
                        {{"features without a batch", {all_known({512, 50, 68}), rois}, "features"},
                         {"RoIs without a batch", {features, all_known({300, 4})}, "rois"},
                         {"RoIs of five numbers", {features, all_known({2, 300, 5})}, "4 coordinates"},
                         {"another batch of RoIs", {features, all_known({3, 300, 4})}, "same batch"},
                         {"no RoIs", {features}, "expected 2 inputs"},
                         {"a third input", {features, rois, rois}, "expected 2 inputs"}});
}

CHECK(roi_pool_types, "RoIPool's output has the type of its features, FP32 or FP16; RoIs are FP32") {
    const Plugin plugin = create(kRoIPool, roi_pool_fields());
    for (const DataType type : all_types()) {
        const Note note("type " + std::to_string(static_cast<int>(type)));
        const bool right = type == DataType::kFLOAT || type == DataType::kHALF;
        EXPECT(types_of(plugin, {type, DataType::kFLOAT}) ==
               (right ? std::vector<DataType>{type} : std::vector<DataType>{}));
        EXPECT_EQUAL(!types_of(plugin, {DataType::kHALF, type}).empty(), type == DataType::kFLOAT);
    }
}

CHECK(nms_shapes, "NMS's outputs are (batch, max_output) and (batch,)") {
    const Plugin plugin = create(kNMS, nms_fields().integer("max_output", 77));
    for (const std::int64_t candidates : {1000, 1, 0}) {
        expect_shapes(plugin,
                      {all_known({2, candidates, 4}), all_known({2, candidates}), all_known({2, candidates})},
                      {all_known({2, 77}), all_known({2})});
    }
    expect_shapes(plugin, {all_known({0, 9, 4}), all_known({0, 9}), all_known({0, 9})},
                  {all_known({0, 77}), all_known({0})});
    expect_shapes(plugin,
                  {{unknown(3), unknown(9), known(4)}, {unknown(3), unknown(9)}, {unknown(3), known(9)}},
                  {{unknown(3), known(77)}, {unknown(3)}});
}

CHECK(nms_shapes_refused, "NMS refuses inputs of wrong rank or that do not fit together") {
    const Plugin plugin = create(kNMS, nms_fields());
    const Sizes boxes = all_known({2, 9, 4}), each = all_known({2, 9});
    expect_refused_rows(plugin,
                        {{"boxes without a batch", {all_known({9, 4}), each, each}, "boxes"},
                         {"boxes per class", {all_known({2, 9, 80, 4}), each, each}, "boxes"},
                         {"scores per class", {boxes, all_known({2, 9, 80}), each}, "scores"},
                         {"groups without a batch", {boxes, each, all_known({9})}, "group"},
                         {"boxes of five numbers", {all_known({2, 9, 5}), each, each}, "4 coordinates"},
                         {"another batch of scores", {boxes, all_known({3, 9}), each}, "same batch"},
                         {"fewer scores", {boxes, all_known({2, 8}), each}, "same batch"},
                         {"more groups", {boxes, each, all_known({2, 10})}, "same batch"},
                         {"no groups", {boxes, each}, "expected 3 inputs"},
                         {"a fourth input", {boxes, each, each, each}, "expected 3 inputs"}});
}

CHECK(shapes_null, "getOutputShapes refuses null lists, null dimensions and wrong counts of outputs") {
    const Plugin plugin = create(kNMS, nms_fields());
    ExprBuilder builder;
    std::vector<DimsExprs> in(3), out(2);
    const auto call = [&](const DimsExprs* inputs, std::int32_t input_count, DimsExprs* outputs,
                          std::int32_t output_count) {
        return plugin.build().getOutputShapes(inputs, input_count, nullptr, 0, outputs, output_count,
                                              builder) == 0;
    };
    EXPECT_REFUSED(call(nullptr, 3, out.data(), 2), "null");
    EXPECT_REFUSED(call(in.data(), 3, nullptr, 2), "null");
    for (const std::int32_t count : {-1, 0, 1, 3})
        EXPECT_REFUSED(call(in.data(), 3, out.data(), count), "2 outputs");
    for (const std::int32_t count : {-1, 0, 2, 4})
        EXPECT_REFUSED(call(in.data(), count, out.data(), 2), "3 inputs");
    for (DimsExprs& dims : in) dims = {};
    in[0].nbDims = 3;
    in[1].nbDims = in[2].nbDims = 2;
    EXPECT_REFUSED(call(in.data(), 3, out.data(), 2), "null");
    const Plugin roi_align = create(kRoIAlign, roi_align_fields(1));
    in[0].nbDims = 4;
    in[1].nbDims = 3;
    EXPECT_REFUSED(roi_align.build().getOutputShapes(in.data(), 2, nullptr, 0, out.data(), 1, builder) == 0,
                   "null");
}

CHECK(roi_align_types,
      "RoIAlign's output has the type of its features; nothing but FP32 and FP16 is accepted") {
    for (const int levels : {1, 4, kMaxLevels}) {
        const Plugin plugin = create(kRoIAlign, roi_align_fields(levels));
        const auto count = static_cast<std::size_t>(levels);
        for (const DataType type : all_types()) {
            const Note note(std::to_string(levels) + " levels of type " +
                            std::to_string(static_cast<int>(type)));
            std::vector<DataType> types(count, type);
            types.push_back(DataType::kFLOAT);
            if (type == DataType::kFLOAT || type == DataType::kHALF) {
                EXPECT(types_of(plugin, types) == std::vector<DataType>{type});
            } else {
                EXPECT_REFUSED(!types_of(plugin, types).empty(), "FP16");
            }
            // RoIs stay FP32 whatever the features are: FP16 has no half pixels from 1024 on.
            types.assign(count, DataType::kHALF);
            types.push_back(type);
            EXPECT_EQUAL(!types_of(plugin, types).empty(), type == DataType::kFLOAT);
        }
        if (levels == 1) continue;
        std::vector<DataType> mixed(count, DataType::kFLOAT);
        mixed.back() = DataType::kHALF;
        mixed.push_back(DataType::kFLOAT);
        EXPECT_REFUSED(!types_of(plugin, mixed).empty(), "feature levels");
    }
}

CHECK(nms_types, "NMS takes FP32 boxes and scores and INT32 groups, and answers INT32 twice") {
    const Plugin plugin = create(kNMS, nms_fields());
    const std::vector<DataType> right = {DataType::kFLOAT, DataType::kFLOAT, DataType::kINT32};
    EXPECT(types_of(plugin, right) == (std::vector<DataType>{DataType::kINT32, DataType::kINT32}));
    const std::vector<std::string> names = {"boxes", "scores", "group"};
    for (std::size_t i = 0; i < right.size(); ++i) {
        for (const DataType type : all_types()) {
            if (type == right[i]) continue;
            const Note note(names[i] + " of type " + std::to_string(static_cast<int>(type)));
            std::vector<DataType> types = right;
            types[i] = type;
            EXPECT_REFUSED(!types_of(plugin, types).empty(), names[i]);
        }
    }
}

CHECK(types_null, "getOutputDataTypes refuses null lists and wrong counts") {
    for (const char* op : kOps) {
        const Plugin plugin = create(op, fields_of(op));
        const std::int32_t outputs = plugin.build().getNbOutputs();
        const auto inputs = static_cast<std::int32_t>(tensors_of(op).inputs.size());
        std::vector<DataType> in(16, DataType::kFLOAT), out(16);
        const auto call = [&](DataType* o, std::int32_t output_count, const DataType* i,
                              std::int32_t input_count) {
            return plugin.build().getOutputDataTypes(o, output_count, i, input_count) == 0;
        };
        EXPECT_REFUSED(call(nullptr, outputs, in.data(), inputs), "null");
        EXPECT_REFUSED(call(out.data(), outputs, nullptr, inputs), "null");
        for (const std::int32_t wrong : {-1, 0, inputs - 1, inputs + 1}) {
            EXPECT_REFUSED(call(out.data(), outputs, in.data(), wrong), "expected");
        }
        for (const std::int32_t wrong : {-1, 0, outputs + 1}) {
            EXPECT_REFUSED(call(out.data(), wrong, in.data(), inputs), "expected");
        }
    }
}

}  // namespace host
