// Serialising, cloning, attaching, deleting: no plugin depends on another one's life.

#include <malloc.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cases.h"
#include "host.h"
#include "mocks.h"

namespace host {
namespace {

using nvinfer1::PluginFieldCollection;
using nvinfer1::TensorRTPhase;

struct Variant {
    const char* what;
    std::string op;
    std::function<void(FieldList&)> change;

    FieldList fields() const {
        FieldList result = fields_of(op);
        change(result);
        return result;
    }
};

// Each does something else.
const std::vector<Variant> kVariants = {
    {"RoIAlign", kRoIAlign, [](FieldList&) {}},
    {"14 bins", kRoIAlign, [](FieldList& f) { f.integer("output_size", 14); }},
    {"adaptive", kRoIAlign, [](FieldList& f) { f.integer("sampling_ratio", 0); }},
    {"aligned", kRoIAlign, [](FieldList& f) { f.integer("aligned", 1); }},
    {"max", kRoIAlign, [](FieldList& f) { f.text("mode", "max"); }},
    {"three levels", kRoIAlign, [](FieldList& f) { f.reals("spatial_scales", {0.25f, 0.125f, 0.0625f}); }},
    {"one level", kRoIAlign, [](FieldList& f) { f.reals("spatial_scales", {0.25f}); }},
    {"one other level", kRoIAlign, [](FieldList& f) { f.reals("spatial_scales", {0.125f}); }},
    {"a level's scale in its last bit", kRoIAlign,
     [](FieldList& f) { f.reals("spatial_scales", {std::nextafter(0.25f, 1.0f)}); }},
    {"levels in another order", kRoIAlign,
     [](FieldList& f) { f.reals("spatial_scales", {0.125f, 0.25f, 0.0625f}); }},
    {"canonical size", kRoIAlign, [](FieldList& f) { f.real("canonical_size", 112.0f); }},
    {"canonical size in its last bit", kRoIAlign,
     [](FieldList& f) { f.real("canonical_size", std::nextafter(224.0f, 1000.0f)); }},
    {"canonical level", kRoIAlign, [](FieldList& f) { f.integer("canonical_level", 3); }},
    {"RoIPool", kRoIPool, [](FieldList&) {}},
    {"6 by 7 bins", kRoIPool, [](FieldList& f) { f.integers("pooled_shape", {6, 7}); }},
    {"7 by 6 bins", kRoIPool, [](FieldList& f) { f.integers("pooled_shape", {7, 6}); }},
    {"RoIPool's scale in its last bit", kRoIPool,
     [](FieldList& f) { f.real("spatial_scale", std::nextafter(0.0625f, 1.0f)); }},
    {"NMS", kNMS, [](FieldList&) {}},
    {"IoU", kNMS, [](FieldList& f) { f.real("iou_threshold", 0.7f); }},
    {"IoU in its last bit", kNMS, [](FieldList& f) { f.real("iou_threshold", std::nextafter(0.5f, 1.0f)); }},
    {"score", kNMS, [](FieldList& f) { f.real("score_threshold", 0.0f); }},
    {"score in its last bit", kNMS,
     [](FieldList& f) { f.real("score_threshold", std::nextafter(0.05f, 0.0f)); }},
    {"least score", kNMS, [](FieldList& f) { f.real("score_threshold", 1e-45f); }},
    {"every score", kNMS, [](FieldList& f) { f.real("score_threshold", -INFINITY); }},
    {"more output", kNMS, [](FieldList& f) { f.integer("max_output", 1000); }},
};

const PluginFieldCollection& serialised(const Plugin& plugin) {
    const PluginFieldCollection* fields = plugin.runtime().getFieldsToSerialize();
    EXPECT(fields != nullptr);
    return *fields;
}

std::string cache_id(const Plugin& plugin) {
    const char* id = plugin.build().getTimingCacheID();
    EXPECT(id != nullptr);
    return id;
}

// Everything by which two plugins could be told apart without a GPU.
void expect_same(const Plugin& plugin, const FieldList& fields, const std::string& op) {
    EXPECT_EQUAL(difference(serialised(plugin), fields.collection()), "");
    EXPECT_EQUAL(cache_id(plugin), cache_id(create(op, fields)));
    EXPECT_EQUAL(std::string(plugin.core().getPluginName()), op);
    const Plugin reference = create(op, fields);
    const Tensors tensors = tensors_of(op);
    EXPECT_EQUAL(configure(plugin, exactly(tensors)), configure(reference, exactly(tensors)));
    EXPECT_EQUAL(change_shape(plugin, tensors), change_shape(reference, tensors));
    EXPECT_EQUAL(workspace(plugin, exactly(tensors)), workspace(reference, exactly(tensors)));
}

// Runs `body` on many rounds and expects that the process holds no more memory after them.
void expect_no_growth(const std::function<void()>& body) {
    constexpr int kRounds = 1000;
    for (int i = 0; i < 10; ++i) body();
    const auto before = mallinfo2().uordblks;
    for (int i = 0; i < kRounds; ++i) body();
    const auto after = mallinfo2().uordblks;
    // One pointer lost each round would show; a buffer of the C library that grows once does not.
    EXPECT(after < before + kRounds * sizeof(void*));
}

}  // namespace

CHECK(serialise_recreate,
      "what a plan stores of a plugin recreates it after the original and its fields are gone") {
    for (const Variant& variant : kVariants) {
        const Note note(variant.what);
        auto original = std::make_unique<Plugin>(create(variant.op, variant.fields()));
        auto stored = std::make_unique<FieldList>(serialised(*original));
        EXPECT_EQUAL(difference(stored->collection(), variant.fields().collection()), "");
        original.reset();
        const Plugin recreated = create(variant.op, *stored, TensorRTPhase::kRUNTIME);
        stored.reset();
        expect_same(recreated, variant.fields(), variant.op);
        // And once more from the copy, as an engine that is loaded and saved again.
        const FieldList again(serialised(recreated));
        expect_same(create(variant.op, again, TensorRTPhase::kRUNTIME), variant.fields(), variant.op);
    }
}

CHECK(serialise_lives,
      "the fields to serialise stay readable while the plugin lives, and can be asked for again") {
    for (const Variant& variant : kVariants) {
        const Note note(variant.what);
        const Plugin plugin = create(variant.op, variant.fields());
        const PluginFieldCollection first = serialised(plugin);
        EXPECT_EQUAL(difference(first, variant.fields().collection()), "");
        EXPECT_EQUAL(configure(plugin, Bounds()), -1);  // other calls, failing ones too
        EXPECT(!cache_id(plugin).empty());
        EXPECT_EQUAL(difference(first, variant.fields().collection()), "");
        for (int i = 0; i < 3; ++i)
            EXPECT_EQUAL(difference(serialised(plugin), variant.fields().collection()), "");
    }
}

CHECK(clone_outlives_original, "a clone is whole, and stays so when the original is deleted") {
    for (const Variant& variant : kVariants) {
        const Note note(variant.what);
        auto original = std::make_unique<Plugin>(create(variant.op, variant.fields()));
        serialised(*original);  // what was asked before must not be copied: it points into the original
        const Plugin clone(original->object().clone());
        EXPECT(&clone.object() != &original->object());
        original.reset();
        expect_same(clone, variant.fields(), variant.op);
        const Plugin second(clone.object().clone());
        expect_same(second, variant.fields(), variant.op);
    }
}

CHECK(original_outlives_clone, "deleting a clone leaves the original as it was") {
    for (const Variant& variant : kVariants) {
        const Note note(variant.what);
        const Plugin original = create(variant.op, variant.fields());
        const PluginFieldCollection before = serialised(original);
        {
            const Plugin clone(original.object().clone());
            EXPECT(serialised(clone).fields != before.fields);
        }
        EXPECT_EQUAL(difference(before, variant.fields().collection()), "");
        expect_same(original, variant.fields(), variant.op);
    }
}

CHECK(attach_outlives_original,
      "attachToContext gives a whole plugin of its own, whatever the context lends") {
    for (const Variant& variant : kVariants) {
        const Note note(variant.what);
        auto context = std::make_unique<ResourceContext>();
        auto original =
            std::make_unique<Plugin>(create(variant.op, variant.fields(), TensorRTPhase::kRUNTIME));
        auto attached = std::make_unique<Plugin>(original->runtime().attachToContext(context.get()));
        auto other = std::make_unique<Plugin>(original->runtime().attachToContext(context.get()));
        const Plugin without_context(original->runtime().attachToContext(nullptr));
        EXPECT(&attached->object() != &original->object() && &attached->object() != &other->object());
        original.reset();
        other.reset();
        expect_same(*attached, variant.fields(), variant.op);
        attached.reset();
        context.reset();
        expect_same(without_context, variant.fields(), variant.op);
    }
}

CHECK(timing_cache_ids, "two plugins have one timing cache id if and only if their attributes are equal") {
    std::map<std::string, std::string> seen;
    for (const Variant& variant : kVariants) {
        const Note note(variant.what);
        const std::string id = cache_id(create(variant.op, variant.fields()));
        EXPECT_EQUAL(seen.count(id) == 0 ? std::string() : seen[id], "");
        seen[id] = variant.what;
        FieldList reversed = variant.fields();
        reversed.reverse();
        EXPECT_EQUAL(cache_id(create(variant.op, reversed)), id);
        EXPECT_EQUAL(cache_id(create(variant.op, variant.fields(), TensorRTPhase::kRUNTIME)), id);
        const Plugin plugin = create(variant.op, variant.fields());
        EXPECT_EQUAL(cache_id(Plugin(plugin.object().clone())), id);
        // Shapes and formats are TensorRT's part of the key.
        configure(plugin, exactly(tensors_of(variant.op)));
        change_shape(plugin, tensors_of(variant.op));
        EXPECT_EQUAL(cache_id(plugin), id);
        for (const char c : id) EXPECT(c >= ' ' && c <= '~');
    }
    const FieldList with_zero = FieldList(roi_align_fields().text("mode", "avg", true));
    const FieldList without = FieldList(roi_align_fields().text("mode", "avg", false));
    EXPECT_EQUAL(cache_id(create(kRoIAlign, with_zero)), cache_id(create(kRoIAlign, without)));
}

CHECK(plugins_share_nothing, "two plugins of one creator keep their own attributes") {
    std::vector<Plugin> plugins;
    for (const Variant& variant : kVariants) plugins.push_back(create(variant.op, variant.fields()));
    std::vector<PluginFieldCollection> collections;
    for (const Plugin& plugin : plugins) collections.push_back(serialised(plugin));
    for (std::size_t i = 0; i < plugins.size(); ++i) {
        const Note note(kVariants[i].what);
        EXPECT_EQUAL(difference(collections[i], kVariants[i].fields().collection()), "");
    }
    while (plugins.size() > 1) {  // the first ones go first
        plugins.erase(plugins.begin());
        const std::size_t left = kVariants.size() - plugins.size();
        expect_same(plugins.front(), kVariants[left].fields(), kVariants[left].op);
    }
}

CHECK(no_leak, "a thousand plugins are created, used, copied and deleted without a trace") {
    for (const char* op : kOps) {
        const Note note(op);
        const FieldList fields = fields_of(op);
        const Tensors tensors = tensors_of(op);
        const Bounds bounds = exactly(tensors);
        ResourceContext context;
        expect_no_growth([&] {
            const Plugin plugin = create(op, fields);
            configure(plugin, bounds);
            workspace(plugin, bounds);
            cache_id(plugin);
            const Plugin clone(plugin.object().clone());
            serialised(clone);
            const Plugin attached(clone.runtime().attachToContext(&context));
            change_shape(attached, tensors);
        });
    }
}

CHECK(no_leak_when_refused, "what is refused leaves no memory behind either") {
    FieldList wrong = roi_align_fields();
    wrong.integer("output_size", 1000);
    const Plugin plugin = create(kNMS, nms_fields());
    const Bounds other = exactly(roi_align_tensors());
    expect_no_growth([&] {
        EXPECT(try_create(kRoIAlign, wrong) == nullptr);
        EXPECT(try_create(kNMS, wrong) == nullptr);
        EXPECT(configure(plugin, other) != 0);
    });
}

CHECK(threads,
      "plugins may be made, used and deleted by several threads at once, each with its own last error") {
    std::vector<std::thread> threads;
    std::vector<std::string> failures(4);
    for (std::size_t number = 0; number < failures.size(); ++number) {
        threads.emplace_back([number, &failures] {
            try {
                const std::int32_t bins = 33 + static_cast<std::int32_t>(number);
                for (int i = 0; i < 100; ++i) {
                    const Variant& variant =
                        kVariants[(static_cast<std::size_t>(i) + number) % kVariants.size()];
                    expect_same(create(variant.op, variant.fields()), variant.fields(), variant.op);
                    FieldList wrong = roi_align_fields();
                    wrong.integer("output_size", bins);
                    EXPECT_REFUSED(try_create(kRoIAlign, wrong) != nullptr, "got " + std::to_string(bins));
                }
            } catch (const std::exception& error) {
                failures[number] = error.what();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::string& failure : failures) EXPECT_EQUAL(failure, "");
}

}  // namespace host
