// getWorkspaceSize: enough for the largest sizes of the profile, and for every smaller one.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "cases.h"
#include "host.h"
#include "nms/nms.h"

namespace host {
namespace {

// What the C interface asks for at these sizes.
std::size_t needed(std::int64_t batch, std::int64_t candidates) {
    MrcnnNMSParams params = {};
    params.batch = static_cast<std::int32_t>(batch);
    params.candidates = static_cast<std::int32_t>(candidates);
    params.max_output = 100;
    params.iou_threshold = 0.5f;
    std::size_t bytes = 0;
    EXPECT_EQUAL(
        library().function<decltype(mrcnnNMSCudaWorkspace)>("mrcnnNMSCudaWorkspace")(&params, &bytes),
        MRCNN_OK);
    return bytes;
}

const std::vector<std::int64_t> kBatches = {0, 1, 2, 3, 8, 64};
const std::vector<std::int64_t> kCandidates = {0, 1, 31, 32, 33, 1000, 1024, 1025, 4819, 16384, 268569};

}  // namespace

CHECK(workspace_roi_align, "RoIAlign needs no workspace") {
    for (const std::int64_t batch : {0, 1, 16}) {
        const Plugin plugin = create(kRoIAlign, roi_align_fields());
        RoIAlignSizes sizes;
        sizes.batch = batch;
        EXPECT_EQUAL(workspace(plugin, exactly(roi_align_tensors(sizes))), std::size_t{0});
    }
}

CHECK(workspace_roi_pool, "RoIPool needs no workspace") {
    EXPECT_EQUAL(workspace(create(kRoIPool, roi_pool_fields()), exactly(roi_pool_tensors())), std::size_t{0});
}

CHECK(workspace_nms, "NMS asks for what its C interface needs, and works without a GPU") {
    const Plugin plugin = create(kNMS, nms_fields());
    for (const std::int64_t batch : kBatches) {
        for (const std::int64_t candidates : kCandidates) {
            const Note note(std::to_string(batch) + " x " + std::to_string(candidates));
            EXPECT_EQUAL(workspace(plugin, exactly(nms_tensors(batch, candidates))),
                         needed(batch, candidates));
        }
    }
    EXPECT(needed(1, 1) > 0);
}

CHECK(workspace_monotone, "more images or more candidates never need less") {
    const Plugin plugin = create(kNMS, nms_fields());
    const auto bytes = [&](std::int64_t batch, std::int64_t candidates) {
        return workspace(plugin, exactly(nms_tensors(batch, candidates)));
    };
    for (const std::int64_t batch : kBatches) {
        for (const std::int64_t candidates : kCandidates) {
            const std::size_t most = bytes(batch, candidates);
            for (const std::int64_t fewer_images : kBatches) {
                for (const std::int64_t fewer : kCandidates) {
                    if (fewer_images <= batch && fewer <= candidates)
                        EXPECT(bytes(fewer_images, fewer) <= most);
                }
            }
        }
    }
    // Also from one to the next, where padding may play in.
    for (std::int64_t candidates = 0; candidates < 3000; ++candidates) {
        EXPECT(bytes(3, candidates) <= bytes(3, candidates + 1));
        EXPECT(bytes(candidates, 17) <= bytes(candidates + 1, 17));
    }
}

CHECK(workspace_from_maximum, "the maximum of the profile counts, whatever the dimensions are at the time") {
    const Plugin plugin = create(kNMS, nms_fields());
    Bounds bounds = between(nms_tensors(1, 10), nms_tensors(2, 100), nms_tensors(8, 4819));
    EXPECT_EQUAL(bounds.inputs[0].desc.dims.d[0], -1);
    EXPECT_EQUAL(workspace(plugin, bounds), needed(8, 4819));
    // A host may put the optimum, the minimum or zeros in place of -1.
    for (const Tensors& tensors : {nms_tensors(2, 100), nms_tensors(1, 10), nms_tensors(0, 0)}) {
        for (std::size_t i = 0; i < 3; ++i) bounds.inputs[i].desc.dims = tensors.inputs[i].dims;
        EXPECT_EQUAL(workspace(plugin, bounds), needed(8, 4819));
    }
}

CHECK(workspace_loose_bounds, "where bounds differ between tensors, the workspace is still enough") {
    const Plugin plugin = create(kNMS, nms_fields());
    for (std::size_t i = 0; i < 3; ++i) {
        const Note note("input " + std::to_string(i));
        Bounds bounds = between(nms_tensors(1, 10), nms_tensors(2, 100), nms_tensors(4, 1000));
        bounds.inputs[i].max.d[0] = 40;
        bounds.inputs[i].max.d[1] = 5000;
        EXPECT(workspace(plugin, bounds) >= needed(4, 1000));
        // A bound beyond all limits is not a size.
        bounds.inputs[i].max.d[0] = bounds.inputs[i].max.d[1] = 1 << 30;
        EXPECT(workspace(plugin, bounds) >= needed(4, 1000));
        EXPECT_EQUAL(configure(plugin, bounds), 0);
    }
}

CHECK(workspace_outputs_unknown, "the descriptions of the outputs are not needed") {
    const Plugin plugin = create(kNMS, nms_fields());
    Bounds bounds = exactly(nms_tensors(2, 1000));
    for (nvinfer1::DynamicPluginTensorDesc& output : bounds.outputs) output = {};
    EXPECT_EQUAL(workspace(plugin, bounds), needed(2, 1000));
    EXPECT_EQUAL(plugin.build().getWorkspaceSize(bounds.inputs.data(), 3, nullptr, 2), needed(2, 1000));
}

CHECK(workspace_same_in_copies, "clones and recreated plugins ask for as much") {
    const Plugin plugin = create(kNMS, nms_fields());
    const Plugin clone(plugin.object().clone());
    const Plugin recreated =
        create(kNMS, FieldList(*plugin.runtime().getFieldsToSerialize()), nvinfer1::TensorRTPhase::kRUNTIME);
    const Bounds bounds = exactly(nms_tensors(2, 4819));
    EXPECT_EQUAL(workspace(clone, bounds), needed(2, 4819));
    EXPECT_EQUAL(workspace(recreated, bounds), needed(2, 4819));
}

CHECK(workspace_refused, "0, with a line, where the inputs are such that configurePlugin refuses them too") {
    const Plugin plugin = create(kNMS, nms_fields());
    const Bounds bounds = exactly(nms_tensors());
    EXPECT_REFUSED(plugin.build().getWorkspaceSize(nullptr, 3, bounds.outputs.data(), 2) != 0, "null");
    for (const std::int32_t wrong : {-1, 0, 2, 4}) {
        EXPECT_REFUSED(
            plugin.build().getWorkspaceSize(bounds.inputs.data(), wrong, bounds.outputs.data(), 2) != 0,
            "3 inputs");
    }
    EXPECT_REFUSED(workspace(plugin, exactly(nms_tensors(1024, 1 << 20))) != 0, "2^30");
    Bounds unknown = bounds;
    for (auto& input : unknown.inputs) input.desc.dims.d[1] = -1, input.max.d[1] = -1;
    EXPECT_REFUSED(workspace(plugin, unknown) != 0, "boxes");
    EXPECT_REFUSED(configure(plugin, unknown) == 0, "boxes");
}

}  // namespace host
