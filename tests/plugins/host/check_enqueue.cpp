// enqueue where there is nothing to run on, nothing to do, or something wrong. check_gpu.cpp runs it for
// real.

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "cases.h"
#include "host.h"

namespace host {
namespace {

using nvinfer1::DataType;
using nvinfer1::TensorFormat;

// A call of enqueue over memory of the host, which no kernel can reach.
struct Call {
    explicit Call(const Tensors& described)
        : tensors(described),
          memory(4096),
          inputs(described.inputs.size(), memory.data()),
          outputs(described.outputs.size(), memory.data()),
          workspace(memory.data()) {}

    std::int32_t run(const Plugin& plugin) const {
        return plugin.runtime().enqueue(tensors.inputs.data(), tensors.outputs.data(), inputs.data(),
                                        outputs.data(), workspace, nullptr);
    }

    Tensors tensors;
    std::vector<double> memory;  // aligned for whatever is said to be in it
    std::vector<const void*> inputs;
    std::vector<void*> outputs;
    void* workspace;
};

template <typename Change>
void for_levels(Call& call, Change change) {
    for (std::size_t i = 0; i + 1 < call.tensors.inputs.size(); ++i) change(call.tensors.inputs[i]);
}

struct Row {
    const char* rule;
    std::string op;
    std::function<void(Call&)> change;
    const char* message;
};

}  // namespace

CHECK(enqueue_without_gpu, "without a GPU enqueue answers an error that names CUDA, at every call") {
    if (has_gpu()) throw Skipped("there is a GPU, and the memory is the host's");
    for (int round = 0; round < 3; ++round) {
        for (const TensorFormat format : {TensorFormat::kLINEAR, TensorFormat::kHWC8}) {
            const Tensors tensors = roi_align_tensors({}, DataType::kHALF, format);
            const Plugin plugin = create(kRoIAlign, roi_align_fields(), nvinfer1::TensorRTPhase::kRUNTIME);
            EXPECT_EQUAL(change_shape(plugin, tensors), 0);
            EXPECT_REFUSED(Call(tensors).run(plugin) == 0, "cuda");
        }
        const Plugin pool = create(kRoIPool, roi_pool_fields(), nvinfer1::TensorRTPhase::kRUNTIME);
        EXPECT_REFUSED(Call(roi_pool_tensors()).run(pool) == 0, "cuda");
        for (const std::int64_t candidates : {1000, 0}) {
            const Plugin plugin = create(kNMS, nms_fields(), nvinfer1::TensorRTPhase::kRUNTIME);
            EXPECT_EQUAL(change_shape(plugin, nms_tensors(2, candidates)), 0);
            EXPECT_REFUSED(Call(nms_tensors(2, candidates)).run(plugin) == 0, "cuda");
        }
    }
}

CHECK(enqueue_nothing,
      "with no RoIs, or no images, there is nothing to run: success, also over null pointers") {
    const Plugin roi_align = create(kRoIAlign, roi_align_fields()), nms = create(kNMS, nms_fields());
    std::vector<Call> calls;
    RoIAlignSizes sizes;
    sizes.rois = 0;
    calls.emplace_back(roi_align_tensors(sizes));
    sizes.rois = 5, sizes.batch = 0;
    calls.emplace_back(roi_align_tensors(sizes));
    for (Call& call : calls) {
        EXPECT_EQUAL(change_shape(roi_align, call.tensors), 0);
        EXPECT_EQUAL(call.run(roi_align), 0);
        call.inputs.assign(call.inputs.size(), nullptr);
        call.outputs.assign(call.outputs.size(), nullptr);
        call.workspace = nullptr;
        EXPECT_EQUAL(call.run(roi_align), 0);
    }
    for (const auto& [batch, rois] : {std::pair{2, 0}, std::pair{0, 5}}) {
        Call call(roi_pool_tensors(batch, rois));
        call.inputs.assign(2, nullptr);
        call.outputs.assign(1, nullptr);
        EXPECT_EQUAL(call.run(create(kRoIPool, roi_pool_fields())), 0);
    }
    for (const std::int64_t candidates : {1000, 0}) {
        Call call(nms_tensors(0, candidates));
        EXPECT_EQUAL(change_shape(nms, call.tensors), 0);
        EXPECT_EQUAL(call.run(nms), 0);
        call.inputs.assign(3, nullptr);
        call.outputs.assign(2, nullptr);
        call.workspace = nullptr;
        EXPECT_EQUAL(call.run(nms), 0);
    }
}

CHECK(enqueue_refused,
      "enqueue refuses null tensors and descriptions that do not fit before it launches anything") {
    const std::vector<Row> rows = {
        {"null level", kRoIAlign, [](Call& c) { c.inputs[1] = nullptr; }, "level 1"},
        {"null RoIs", kRoIAlign, [](Call& c) { c.inputs[4] = nullptr; }, "rois"},
        {"null output", kRoIAlign, [](Call& c) { c.outputs[0] = nullptr; }, "output"},
        {"RoIs at an odd address", kRoIAlign,
         [](Call& c) { c.inputs[4] = reinterpret_cast<const char*>(c.memory.data()) + 4; }, "16 bytes"},
        {"unknown sizes", kRoIAlign, [](Call& c) { c.tensors.inputs[0].dims.d[0] = -1; }, "feature level 0"},
        {"another batch of RoIs", kRoIAlign, [](Call& c) { c.tensors.inputs[4].dims.d[0] = 7; }, "rois"},
        {"a format that was never accepted", kRoIAlign,
         [](Call& c) { for_levels(c, [](auto& level) { level.format = TensorFormat::kCHW32; }); },
         "feature level 0"},
        {"a type that was never accepted", kRoIAlign,
         [](Call& c) { for_levels(c, [](auto& level) { level.type = DataType::kINT8; }); },
         "feature level 0"},
        {"an output of another size", kRoIAlign, [](Call& c) { c.tensors.outputs[0].dims.d[0] = 1; },
         "output"},
        {"null features", kRoIPool, [](Call& c) { c.inputs[0] = nullptr; }, "features"},
        {"null RoIs", kRoIPool, [](Call& c) { c.inputs[1] = nullptr; }, "rois"},
        {"null output", kRoIPool, [](Call& c) { c.outputs[0] = nullptr; }, "output"},
        {"RoIs at an odd address", kRoIPool,
         [](Call& c) { c.inputs[1] = reinterpret_cast<const char*>(c.memory.data()) + 4; }, "16 bytes"},
        {"another batch of RoIs", kRoIPool, [](Call& c) { c.tensors.inputs[1].dims.d[0] = 7; }, "rois"},
        {"features of a type that was never accepted", kRoIPool,
         [](Call& c) { c.tensors.inputs[0].type = DataType::kINT8; }, "features"},
        {"null boxes", kNMS, [](Call& c) { c.inputs[0] = nullptr; }, "boxes"},
        {"null scores", kNMS, [](Call& c) { c.inputs[1] = nullptr; }, "scores"},
        {"null groups", kNMS, [](Call& c) { c.inputs[2] = nullptr; }, "group"},
        {"null indices", kNMS, [](Call& c) { c.outputs[0] = nullptr; }, "indices"},
        {"null counts", kNMS, [](Call& c) { c.outputs[1] = nullptr; }, "count"},
        {"no workspace", kNMS, [](Call& c) { c.workspace = nullptr; }, "workspace"},
        {"fewer scores", kNMS, [](Call& c) { c.tensors.inputs[1].dims.d[1] = 5; }, "scores"},
        {"fewer indices", kNMS, [](Call& c) { c.tensors.outputs[0].dims.d[1] = 5; }, "indices"},
    };
    for (const Row& row : rows) {
        const Note note(row.rule);
        const Plugin plugin = create(row.op, fields_of(row.op));
        Call call(tensors_of(row.op));
        row.change(call);
        EXPECT_REFUSED(call.run(plugin) == 0, row.message);
    }
}

CHECK(enqueue_null, "enqueue refuses null lists") {
    for (const char* op : kOps) {
        const Note note(op);
        const Plugin plugin = create(op, fields_of(op));
        const Call call(tensors_of(op));
        const auto run = [&](int missing) {
            return plugin.runtime().enqueue(missing == 0 ? nullptr : call.tensors.inputs.data(),
                                            missing == 1 ? nullptr : call.tensors.outputs.data(),
                                            missing == 2 ? nullptr : call.inputs.data(),
                                            missing == 3 ? nullptr : call.outputs.data(), call.workspace,
                                            nullptr) == 0;
        };
        for (int missing = 0; missing < 4; ++missing) EXPECT_REFUSED(run(missing), "null");
    }
}

}  // namespace host
