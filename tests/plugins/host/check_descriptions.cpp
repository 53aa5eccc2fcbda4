// configurePlugin and onShapeChange: which descriptions of tensors a plugin takes.

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "cases.h"
#include "host.h"

namespace host {
namespace {

using nvinfer1::DataType;
using nvinfer1::TensorFormat;

constexpr std::int64_t kHuge = std::numeric_limits<std::int64_t>::max();

struct Row {
    const char* rule;
    std::function<void(Tensors&)> change;
    const char* message;
};

void expect_shapes_refused(const std::string& op, const std::vector<Row>& rows) {
    const Plugin plugin = create(op, fields_of(op));
    for (const Row& row : rows) {
        const Note note(row.rule);
        Tensors tensors = tensors_of(op);
        row.change(tensors);
        EXPECT_REFUSED(change_shape(plugin, tensors) == 0, row.message);
        // A refusal leaves nothing behind.
        EXPECT_EQUAL(change_shape(plugin, tensors_of(op)), 0);
    }
}

void expect_configuration_refused(const std::string& op, const std::vector<Row>& rows) {
    const Plugin plugin = create(op, fields_of(op));
    for (const Row& row : rows) {
        const Note note(row.rule);
        Tensors tensors = tensors_of(op);
        row.change(tensors);
        EXPECT_REFUSED(configure(plugin, exactly(tensors)) == 0, row.message);
        EXPECT_EQUAL(configure(plugin, exactly(tensors_of(op))), 0);
    }
}

void set_channels(Tensors& tensors, std::int64_t channels) {
    for (std::size_t level = 0; level < 4; ++level) tensors.inputs[level].dims.d[1] = channels;
}

// What no profile can have, so that the build stops; levels are inputs 0 to 3, RoIs input 4.
const std::vector<Row> kRoIAlignNeverFits = {
    {"features of rank 3", [](Tensors& t) { t.inputs[1].dims = dims({16, 50, 68}); }, "feature level 1"},
    {"features of rank 5", [](Tensors& t) { t.inputs[0].dims.nbDims = 5; }, "feature level 0"},
    {"features of rank 8", [](Tensors& t) { t.inputs[0].dims.nbDims = 8; }, "feature level 0"},
    {"features of impossible rank", [](Tensors& t) { t.inputs[0].dims.nbDims = 1000000; }, "feature level 0"},
    {"features of negative rank", [](Tensors& t) { t.inputs[0].dims.nbDims = -1; }, "feature level 0"},
    {"no channels", [](Tensors& t) { set_channels(t, 0); }, "channels"},
    {"more than 2^20 channels", [](Tensors& t) { set_channels(t, (1 << 20) + 1); }, "channels"},
    {"no rows", [](Tensors& t) { t.inputs[2].dims.d[2] = 0; }, "feature level 2"},
    {"no columns", [](Tensors& t) { t.inputs[3].dims.d[3] = 0; }, "feature level 3"},
    {"more rows than an int holds", [](Tensors& t) { t.inputs[1].dims.d[2] = std::int64_t{1} << 40; },
     "feature level 1"},
    {"most columns", [](Tensors& t) { t.inputs[1].dims.d[3] = kHuge; }, "feature level 1"},
    {"more pixels than an int holds", [](Tensors& t) { t.inputs[1].dims = dims({2, 16, 65536, 65536}); },
     "feature level 1"},
    {"features of INT8", [](Tensors& t) { t.inputs[0].type = DataType::kINT8; }, "feature level 0"},
    {"features of BF16", [](Tensors& t) { t.inputs[2].type = DataType::kBF16; }, "feature level 2"},
    {"mixed types", [](Tensors& t) { t.inputs[3].type = DataType::kHALF; }, "feature level 3"},
    {"mixed formats", [](Tensors& t) { t.inputs[3].format = TensorFormat::kHWC; }, "feature level 3"},
    {"FP32 in the format of FP16", [](Tensors& t) { t.inputs[0].format = TensorFormat::kHWC8; },
     "feature level 0"},
    {"an unknown format", [](Tensors& t) { t.inputs[0].format = static_cast<TensorFormat>(99); },
     "feature level 0"},
    {"RoIs of FP16", [](Tensors& t) { t.inputs[4].type = DataType::kHALF; }, "rois"},
    {"RoIs in another format", [](Tensors& t) { t.inputs[4].format = TensorFormat::kHWC; }, "rois"},
    {"RoIs of rank 2", [](Tensors& t) { t.inputs[4].dims = dims({10, 4}); }, "rois"},
    {"RoIs of five numbers", [](Tensors& t) { t.inputs[4].dims.d[2] = 5; }, "rois"},
    {"more RoIs than an int holds", [](Tensors& t) { t.inputs[4].dims.d[1] = std::int64_t{1} << 40; },
     "rois"},
    {"more RoIs in the batch than an int holds", [](Tensors& t) { t.inputs[4].dims.d[1] = 2147483647; },
     "RoIs"},
};

const std::vector<Row> kRoIPoolNeverFits = {
    {"features of rank 3", [](Tensors& t) { t.inputs[0].dims = dims({70, 20, 27}); }, "features"},
    {"features of INT8", [](Tensors& t) { t.inputs[0].type = DataType::kINT8; }, "features"},
    {"features of BF16", [](Tensors& t) { t.inputs[0].type = DataType::kBF16; }, "features"},
    {"features in another format", [](Tensors& t) { t.inputs[0].format = TensorFormat::kHWC; }, "features"},
    {"no channels", [](Tensors& t) { t.inputs[0].dims.d[1] = 0; }, "channels"},
    {"no rows", [](Tensors& t) { t.inputs[0].dims.d[2] = 0; }, "features"},
    {"most columns", [](Tensors& t) { t.inputs[0].dims.d[3] = kHuge; }, "features"},
    {"more pixels than an int holds", [](Tensors& t) { t.inputs[0].dims = dims({2, 70, 65536, 65536}); },
     "features"},
    {"RoIs of FP16", [](Tensors& t) { t.inputs[1].type = DataType::kHALF; }, "rois"},
    {"RoIs in another format", [](Tensors& t) { t.inputs[1].format = TensorFormat::kHWC; }, "rois"},
    {"RoIs of rank 2", [](Tensors& t) { t.inputs[1].dims = dims({10, 4}); }, "rois"},
    {"RoIs of five numbers", [](Tensors& t) { t.inputs[1].dims.d[2] = 5; }, "rois"},
    {"more RoIs in the batch than an int holds", [](Tensors& t) { t.inputs[1].dims.d[1] = 2147483647; },
     "RoIs"},
};

const std::vector<Row> kNMSNeverFits = {
    {"boxes of rank 2", [](Tensors& t) { t.inputs[0].dims = dims({1000, 4}); }, "boxes"},
    {"boxes of five numbers", [](Tensors& t) { t.inputs[0].dims.d[2] = 5; }, "boxes"},
    {"boxes of FP16", [](Tensors& t) { t.inputs[0].type = DataType::kHALF; }, "boxes"},
    {"boxes in another format", [](Tensors& t) { t.inputs[0].format = TensorFormat::kHWC; }, "boxes"},
    {"scores of rank 3", [](Tensors& t) { t.inputs[1].dims = dims({2, 1000, 1}); }, "scores"},
    {"scores of FP16", [](Tensors& t) { t.inputs[1].type = DataType::kHALF; }, "scores"},
    {"groups of rank 1", [](Tensors& t) { t.inputs[2].dims = dims({1000}); }, "group"},
    {"groups of FP32", [](Tensors& t) { t.inputs[2].type = DataType::kFLOAT; }, "group"},
    {"groups of INT64", [](Tensors& t) { t.inputs[2].type = DataType::kINT64; }, "group"},
    {"2^30 boxes", [](Tensors& t) { t = nms_tensors(1024, 1 << 20); }, "2^30"},
    {"more boxes than an int holds", [](Tensors& t) { t = nms_tensors(1, std::int64_t{1} << 32); }, "boxes"},
    {"most boxes", [](Tensors& t) { t = nms_tensors(1, kHuge); }, "boxes"},
};

}  // namespace

CHECK(configure_static, "fixed sizes are accepted in every format, without RoIs, boxes or images too") {
    for (const TensorFormat format : {TensorFormat::kLINEAR, TensorFormat::kHWC}) {
        const Plugin plugin = create(kRoIAlign, roi_align_fields());
        EXPECT_EQUAL(configure(plugin, exactly(roi_align_tensors({}, DataType::kFLOAT, format))), 0);
    }
    for (const TensorFormat output : {TensorFormat::kLINEAR, TensorFormat::kHWC8}) {
        const Plugin plugin = create(kRoIAlign, roi_align_fields());
        EXPECT_EQUAL(
            configure(plugin, exactly(roi_align_tensors({}, DataType::kHALF, TensorFormat::kHWC8, output))),
            0);
    }
    for (const std::int64_t batch : {0, 1, 16}) {
        for (const std::int64_t count : {0, 1, 1000}) {
            RoIAlignSizes sizes;
            sizes.batch = batch;
            sizes.rois = count;
            const Plugin roi_align = create(kRoIAlign, roi_align_fields()), nms = create(kNMS, nms_fields());
            EXPECT_EQUAL(configure(roi_align, exactly(roi_align_tensors(sizes))), 0);
            EXPECT_EQUAL(change_shape(roi_align, roi_align_tensors(sizes)), 0);
            EXPECT_EQUAL(configure(nms, exactly(nms_tensors(batch, count))), 0);
            EXPECT_EQUAL(change_shape(nms, nms_tensors(batch, count)), 0);
        }
    }
}

CHECK(configure_dynamic, "dimensions may be -1 where the profile bounds them") {
    RoIAlignSizes min, opt, max;
    min.batch = 0, min.rois = 0, opt.batch = 4, opt.rois = 500, max.batch = 8, max.rois = 1000;
    const Plugin roi_align = create(kRoIAlign, roi_align_fields());
    const Bounds bounds = between(roi_align_tensors(min), roi_align_tensors(opt), roi_align_tensors(max));
    EXPECT_EQUAL(bounds.inputs[0].desc.dims.d[0], -1);
    EXPECT_EQUAL(configure(roi_align, bounds), 0);
    const Plugin nms = create(kNMS, nms_fields());
    EXPECT_EQUAL(configure(nms, between(nms_tensors(0, 0), nms_tensors(4, 500), nms_tensors(8, 1000))), 0);
}

CHECK(configure_loose_bounds,
      "the bounds of one tensor may be wider than those of another: only sizes must agree") {
    // TensorRT derives bounds through the graph, tensor by tensor, and not always as tightly.
    const Plugin roi_align = create(kRoIAlign, roi_align_fields());
    const auto batch_of = [](std::int64_t batch) {
        RoIAlignSizes sizes;
        sizes.batch = batch;
        return roi_align_tensors(sizes);
    };
    Bounds bounds = between(batch_of(1), batch_of(2), batch_of(4));
    bounds.inputs[4].max.d[0] = 40;
    bounds.inputs[2].max.d[0] = 12;
    EXPECT_EQUAL(configure(roi_align, bounds), 0);
    const Plugin nms = create(kNMS, nms_fields());
    bounds = between(nms_tensors(1, 10), nms_tensors(2, 100), nms_tensors(4, 1000));
    bounds.inputs[1].max.d[0] = 40;
    bounds.inputs[2].max.d[1] = 5000;
    EXPECT_EQUAL(configure(nms, bounds), 0);
    // The sizes at execution are equal and may not differ.
    EXPECT_EQUAL(change_shape(nms, nms_tensors(4, 1000)), 0);
}

CHECK(configure_outputs_unknown, "configurePlugin does not need the descriptions of the outputs") {
    for (const char* op : kOps) {
        const Note note(op);
        const Plugin plugin = create(op, fields_of(op));
        Bounds bounds = exactly(tensors_of(op));
        for (nvinfer1::DynamicPluginTensorDesc& output : bounds.outputs) output = {};
        EXPECT_EQUAL(configure(plugin, bounds), 0);
        for (nvinfer1::DynamicPluginTensorDesc& output : bounds.outputs) output.desc.dims.nbDims = -1;
        EXPECT_EQUAL(configure(plugin, bounds), 0);
    }
}

CHECK(configure_without_bounds, "where a host leaves the bounds out, the dimensions themselves count") {
    for (const char* op : kOps) {
        const Note note(op);
        const Plugin plugin = create(op, fields_of(op));
        Bounds bounds = exactly(tensors_of(op));
        for (nvinfer1::DynamicPluginTensorDesc& input : bounds.inputs) input.min = input.opt = input.max = {};
        EXPECT_EQUAL(configure(plugin, bounds), 0);
        EXPECT_EQUAL(workspace(plugin, bounds), workspace(plugin, exactly(tensors_of(op))));
        bounds.inputs[0].desc.dims.d[0] = -1;
        EXPECT_REFUSED(configure(plugin, bounds) == 0, first_input(op));
    }
}

CHECK(calls_in_any_order,
      "configurePlugin, onShapeChange, getWorkspaceSize and setTactic do not depend on each other") {
    for (const char* op : kOps) {
        const Note note(op);
        const Plugin plugin = create(op, fields_of(op), nvinfer1::TensorRTPhase::kRUNTIME);
        const Tensors tensors = tensors_of(op);
        EXPECT_EQUAL(change_shape(plugin, tensors), 0);
        const std::size_t bytes = workspace(plugin, exactly(tensors));
        EXPECT_EQUAL(plugin.runtime().setTactic(0), 0);
        EXPECT_EQUAL(configure(plugin, exactly(tensors)), 0);
        EXPECT_EQUAL(change_shape(plugin, tensors), 0);
        EXPECT_EQUAL(configure(plugin, exactly(tensors)), 0);
        EXPECT_EQUAL(workspace(plugin, exactly(tensors)), bytes);
    }
}

CHECK(roi_align_configuration_refused, "RoIAlign refuses at build time what it could never pool") {
    expect_configuration_refused(kRoIAlign, kRoIAlignNeverFits);
}

CHECK(roi_pool_configuration, "RoIPool takes fixed and dynamic sizes, and refuses what it could never pool") {
    const Plugin plugin = create(kRoIPool, roi_pool_fields());
    for (const DataType type : {DataType::kFLOAT, DataType::kHALF}) {
        for (const std::int64_t rois : {0, 1, 300}) {
            EXPECT_EQUAL(configure(plugin, exactly(roi_pool_tensors(2, rois, type))), 0);
            EXPECT_EQUAL(change_shape(plugin, roi_pool_tensors(2, rois, type)), 0);
        }
    }
    Bounds bounds = between(roi_pool_tensors(0, 0), roi_pool_tensors(1, 100), roi_pool_tensors(4, 300));
    bounds.inputs[1].max.d[0] = 40;  // bounds may be wider than those of the features
    EXPECT_EQUAL(configure(plugin, bounds), 0);
    expect_configuration_refused(kRoIPool, kRoIPoolNeverFits);
}

CHECK(nms_configuration_refused, "NMS refuses at build time what it could never suppress") {
    expect_configuration_refused(kNMS, kNMSNeverFits);
}

CHECK(roi_align_shape_change_refused, "RoIAlign refuses at execution what does not fit together") {
    expect_shapes_refused(kRoIAlign, kRoIAlignNeverFits);
    expect_shapes_refused(
        kRoIAlign,
        {{"unknown batch", [](Tensors& t) { t.inputs[0].dims.d[0] = -1; }, "feature level 0"},
         {"unknown RoIs", [](Tensors& t) { t.inputs[4].dims.d[1] = -1; }, "rois"},
         {"another batch of a level", [](Tensors& t) { t.inputs[1].dims.d[0] = 3; }, "feature level 1"},
         {"other channels of a level", [](Tensors& t) { t.inputs[1].dims.d[1] = 8; }, "feature level 1"},
         {"another batch of RoIs", [](Tensors& t) { t.inputs[4].dims.d[0] = 1; }, "rois"},
         {"fewer rows of the output", [](Tensors& t) { t.outputs[0].dims.d[0] = 9; }, "output"},
         {"other channels of the output", [](Tensors& t) { t.outputs[0].dims.d[1] = 8; }, "output"},
         {"more bins of the output", [](Tensors& t) { t.outputs[0].dims.d[3] = 14; }, "output"},
         {"output of rank 5", [](Tensors& t) { t.outputs[0].dims = dims({2, 5, 16, 7, 7}); }, "output"},
         {"output of another type", [](Tensors& t) { t.outputs[0].type = DataType::kHALF; }, "output"},
         {"output in another format", [](Tensors& t) { t.outputs[0].format = TensorFormat::kHWC; }, "output"},
         {"output in a third format", [](Tensors& t) { t.outputs[0].format = TensorFormat::kCHW32; },
          "output"}});
}

CHECK(roi_pool_shape_change_refused, "RoIPool refuses at execution what does not fit together") {
    expect_shapes_refused(kRoIPool, kRoIPoolNeverFits);
    expect_shapes_refused(
        kRoIPool,
        {{"unknown batch", [](Tensors& t) { t.inputs[0].dims.d[0] = -1; }, "features"},
         {"unknown RoIs", [](Tensors& t) { t.inputs[1].dims.d[1] = -1; }, "rois"},
         {"another batch of RoIs", [](Tensors& t) { t.inputs[1].dims.d[0] = 1; }, "rois"},
         {"fewer rows of the output", [](Tensors& t) { t.outputs[0].dims.d[0] = 9; }, "output"},
         {"more bins of the output", [](Tensors& t) { t.outputs[0].dims.d[3] = 14; }, "output"},
         {"output of another type", [](Tensors& t) { t.outputs[0].type = DataType::kHALF; }, "output"},
         {"output in another format", [](Tensors& t) { t.outputs[0].format = TensorFormat::kHWC; },
          "output"}});
}

CHECK(nms_shape_change_refused, "NMS refuses at execution what does not fit together") {
    expect_shapes_refused(kNMS, kNMSNeverFits);
    expect_shapes_refused(
        kNMS, {{"unknown batch", [](Tensors& t) { t.inputs[0].dims.d[0] = -1; }, "boxes"},
               {"unknown candidates", [](Tensors& t) { t.inputs[1].dims.d[1] = -1; }, "scores"},
               {"fewer scores", [](Tensors& t) { t.inputs[1].dims.d[1] = 999; }, "scores"},
               {"another batch of groups", [](Tensors& t) { t.inputs[2].dims.d[0] = 1; }, "group"},
               {"fewer indices", [](Tensors& t) { t.outputs[0].dims.d[1] = 99; }, "indices"},
               {"indices of INT64", [](Tensors& t) { t.outputs[0].type = DataType::kINT64; }, "indices"},
               {"counts of rank 2", [](Tensors& t) { t.outputs[1].dims = dims({2, 1}); }, "count"},
               {"counts of FP32", [](Tensors& t) { t.outputs[1].type = DataType::kFLOAT; }, "count"},
               {"counts of another batch", [](Tensors& t) { t.outputs[1].dims.d[0] = 1; }, "count"}});
}

CHECK(descriptions_null, "configurePlugin and onShapeChange refuse null lists and wrong counts") {
    for (const char* op : kOps) {
        const Note note(op);
        const Plugin plugin = create(op, fields_of(op));
        const Tensors tensors = tensors_of(op);
        const Bounds bounds = exactly(tensors);
        const auto in = static_cast<std::int32_t>(tensors.inputs.size());
        const auto out = static_cast<std::int32_t>(tensors.outputs.size());
        const auto configures = [&](bool has_inputs, std::int32_t inputs, bool has_outputs,
                                    std::int32_t outputs) {
            return plugin.build().configurePlugin(has_inputs ? bounds.inputs.data() : nullptr, inputs,
                                                  has_outputs ? bounds.outputs.data() : nullptr,
                                                  outputs) == 0;
        };
        const auto changes = [&](bool has_inputs, std::int32_t inputs, bool has_outputs,
                                 std::int32_t outputs) {
            return plugin.runtime().onShapeChange(has_inputs ? tensors.inputs.data() : nullptr, inputs,
                                                  has_outputs ? tensors.outputs.data() : nullptr,
                                                  outputs) == 0;
        };
        EXPECT_REFUSED(configures(false, in, true, out), "null");
        EXPECT_REFUSED(changes(false, in, true, out), "null");
        EXPECT_REFUSED(changes(true, in, false, out), "null");
        for (const std::int32_t wrong : {-1, 0, in - 1, in + 1}) {
            EXPECT_REFUSED(configures(true, wrong, true, out), "expected");
            EXPECT_REFUSED(changes(true, wrong, true, out), "expected");
        }
        for (const std::int32_t wrong : {-1, 0, out + 1}) {
            EXPECT_REFUSED(configures(true, in, true, wrong), "expected");
            EXPECT_REFUSED(changes(true, in, true, wrong), "expected");
        }
    }
}

}  // namespace host
