// supportsFormatCombination, asked for every combination there is.

#include <cstdint>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cases.h"
#include "host.h"

namespace host {
namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::TensorFormat;

using Choice = std::pair<DataType, TensorFormat>;
using Combination = std::vector<Choice>;

constexpr Choice kFloatLinear = {DataType::kFLOAT, TensorFormat::kLINEAR};
constexpr Choice kFloatLast = {DataType::kFLOAT, TensorFormat::kHWC};
constexpr Choice kHalfLinear = {DataType::kHALF, TensorFormat::kLINEAR};
constexpr Choice kHalfLast = {DataType::kHALF, TensorFormat::kHWC8};
constexpr Choice kInt = {DataType::kINT32, TensorFormat::kLINEAR};

std::vector<Choice> every_choice() {
    std::vector<Choice> result;
    for (const DataType type : all_types()) {
        for (const TensorFormat format : all_formats()) result.emplace_back(type, format);
    }
    return result;
}

std::vector<DynamicPluginTensorDesc> describe(const Combination& combination) {
    std::vector<DynamicPluginTensorDesc> result(combination.size());
    for (std::size_t i = 0; i < combination.size(); ++i) {
        std::memset(&result[i], 0x5a, sizeof result[i]);  // dimensions are not known at this point
        result[i].desc.type = combination[i].first;
        result[i].desc.format = combination[i].second;
    }
    return result;
}

bool supports(const Plugin& plugin, std::int32_t position, const DynamicPluginTensorDesc* tensors,
              std::size_t inputs) {
    return plugin.build().supportsFormatCombination(position, tensors, static_cast<std::int32_t>(inputs),
                                                    plugin.build().getNbOutputs());
}

// Asks as TensorRT does: for each tensor after those before it were accepted, with nothing behind it. Here
// "nothing" is the end of the block, so that the sanitizer sees a plugin that looks further.
void extend(const Plugin& plugin, std::size_t inputs, std::size_t total, const Combination& accepted,
            std::set<Combination>& found) {
    if (accepted.size() == total) {
        found.insert(accepted);
        return;
    }
    for (const Choice& choice : every_choice()) {
        Combination longer = accepted;
        longer.push_back(choice);
        const std::vector<DynamicPluginTensorDesc> tensors = describe(longer);
        if (supports(plugin, static_cast<std::int32_t>(accepted.size()), tensors.data(), inputs)) {
            extend(plugin, inputs, total, longer, found);
        }
    }
}

std::set<Combination> supported(const Plugin& plugin, std::size_t inputs) {
    std::set<Combination> found;
    extend(plugin, inputs, inputs + static_cast<std::size_t>(plugin.build().getNbOutputs()), {}, found);
    return found;
}

// What RoIAlign is to accept: levels alike, RoIs FP32 linear, output linear or as the features.
std::set<Combination> roi_align_combinations(int levels) {
    std::set<Combination> result;
    for (const Choice& features : {kFloatLinear, kFloatLast, kHalfLinear, kHalfLast}) {
        for (const TensorFormat output : {TensorFormat::kLINEAR, features.second}) {
            Combination combination(static_cast<std::size_t>(levels), features);
            combination.push_back(kFloatLinear);
            combination.emplace_back(features.first, output);
            result.insert(combination);
        }
    }
    return result;
}

const Combination kNMSCombination = {kFloatLinear, kFloatLinear, kInt, kInt, kInt};

}  // namespace

CHECK(roi_align_formats, "RoIAlign accepts FP32 linear and kHWC, FP16 linear and kHWC8, and nothing else") {
    for (const int levels : {1, 2, 4, kMaxLevels}) {
        const Note note(std::to_string(levels) + " levels");
        const Plugin plugin = create(kRoIAlign, roi_align_fields(levels));
        const std::set<Combination> found = supported(plugin, static_cast<std::size_t>(levels) + 1);
        EXPECT_EQUAL(found.size(), std::size_t{6});
        EXPECT(found == roi_align_combinations(levels));
        EXPECT(static_cast<std::int32_t>(found.size()) <= plugin.build().getFormatCombinationLimit());
    }
}

CHECK(roi_pool_formats, "RoIPool accepts linear FP32 and linear FP16, and nothing else") {
    const Plugin plugin = create(kRoIPool, roi_pool_fields());
    EXPECT(supported(plugin, 2) == (std::set<Combination>{{kFloatLinear, kFloatLinear, kFloatLinear},
                                                          {kHalfLinear, kFloatLinear, kHalfLinear}}));
}

CHECK(nms_formats,
      "NMS accepts linear FP32 boxes and scores, linear INT32 groups and outputs, and nothing else") {
    const Plugin plugin = create(kNMS, nms_fields());
    EXPECT(supported(plugin, 3) == std::set<Combination>{kNMSCombination});
}

CHECK(formats_any_order,
      "positions may be asked in any order and as often as one likes, with garbage behind them") {
    for (const int levels : {1, 4}) {
        const Plugin plugin = create(kRoIAlign, roi_align_fields(levels));
        const std::size_t inputs = static_cast<std::size_t>(levels) + 1;
        for (const Combination& combination : roi_align_combinations(levels)) {
            for (std::size_t i = combination.size(); i-- > 0;) {
                std::vector<DynamicPluginTensorDesc> tensors = describe(combination);
                for (std::size_t k = i + 1; k < tensors.size(); ++k)
                    std::memset(&tensors[k], 0xff, sizeof tensors[k]);
                EXPECT(supports(plugin, static_cast<std::int32_t>(i), tensors.data(), inputs));
                EXPECT(supports(plugin, static_cast<std::int32_t>(i), tensors.data(), inputs));
            }
        }
    }
}

CHECK(formats_independent,
      "a plugin remembers no answer: asking for one combination changes none of the next") {
    const Plugin plugin = create(kRoIAlign, roi_align_fields(2));
    const std::vector<Choice> choices = {kFloatLinear, kFloatLast, kHalfLinear, kHalfLast, kInt};
    const std::set<Combination> expected = roi_align_combinations(2);
    // Every position is asked, also behind one that was refused.
    for (const Choice& a : choices) {
        for (const Choice& b : choices) {
            for (const Choice& rois : choices) {
                for (const Choice& output : choices) {
                    const Combination combination = {a, b, rois, output};
                    const std::vector<DynamicPluginTensorDesc> tensors = describe(combination);
                    bool all = true;
                    for (const std::int32_t i : {3, 0, 2, 1}) {
                        const bool answer = supports(plugin, i, tensors.data(), 3);
                        all = answer && all;
                    }
                    EXPECT_EQUAL(all, expected.count(combination) == 1);
                }
            }
        }
    }
}

CHECK(formats_behind_refused, "nothing is supported behind features of a type that is not") {
    const Plugin plugin = create(kRoIAlign, roi_align_fields(2));
    for (const Choice& choice : every_choice()) {
        if (choice == kFloatLinear || choice == kFloatLast || choice == kHalfLinear || choice == kHalfLast)
            continue;
        const std::vector<DynamicPluginTensorDesc> tensors = describe({choice, choice, kFloatLinear, choice});
        for (const std::int32_t i : {0, 1, 3}) EXPECT(!supports(plugin, i, tensors.data(), 3));
    }
}

CHECK(formats_null, "wrong positions, counts and null lists are answered with no") {
    for (const char* op : kOps) {
        const Note note(op);
        const Plugin plugin = create(op, fields_of(op));
        const Combination combination = op == std::string(kNMS) ? kNMSCombination
                                        : op == std::string(kRoIPool)
                                            ? Combination{kFloatLinear, kFloatLinear, kFloatLinear}
                                            : *roi_align_combinations(4).begin();
        const std::vector<DynamicPluginTensorDesc> tensors = describe(combination);
        const auto total = static_cast<std::int32_t>(tensors.size());
        const std::int32_t outputs = plugin.build().getNbOutputs(), inputs = total - outputs;
        const auto ask = [&](std::int32_t position, const DynamicPluginTensorDesc* list, std::int32_t in,
                             std::int32_t out) {
            return plugin.build().supportsFormatCombination(position, list, in, out);
        };
        EXPECT(ask(0, tensors.data(), inputs, outputs));
        EXPECT(!ask(0, nullptr, inputs, outputs));
        EXPECT(!ask(-1, tensors.data(), inputs, outputs));
        EXPECT(!ask(total, tensors.data(), inputs, outputs));
        EXPECT(!ask(1 << 30, tensors.data(), inputs, outputs));
        for (const std::int32_t wrong : {-1, 0, inputs - 1, inputs + 1, 1 << 30}) {
            EXPECT(!ask(0, tensors.data(), wrong, outputs));
        }
        for (const std::int32_t wrong : {-1, 0, outputs + 1}) EXPECT(!ask(0, tensors.data(), inputs, wrong));
    }
}

}  // namespace host
