// The ops as the exporter writes them: legal attributes and tensors, from which checks depart.
#ifndef MRCNN_TESTS_PLUGINS_HOST_CASES_H_
#define MRCNN_TESTS_PLUGINS_HOST_CASES_H_

#include <NvInferRuntime.h>

#include <cstdint>
#include <vector>

#include "host.h"

namespace host {

constexpr const char* kRoIAlign = "MrcnnRoIAlign";
constexpr const char* kRoIPool = "MrcnnRoIPool";
constexpr const char* kNMS = "MrcnnNMS";
constexpr const char* kOps[] = {kRoIAlign, kRoIPool, kNMS};
constexpr int kMaxLevels = 8;

// 7 bins a side, 2 samples, torchvision's levels; the scales are 1/4, 1/8, …
FieldList roi_align_fields(int levels = 4);

// 7 bins a side, scale 1/16.
FieldList roi_pool_fields();

// IoU 0.5, score 0.05, at most 100 boxes.
FieldList nms_fields();

// The fields of an op.
FieldList fields_of(const std::string& op);

struct RoIAlignSizes {
    std::int64_t batch = 2, channels = 16, rois = 5;
    int levels = 4;
    std::int64_t bins = 7;  // a side
    // The finest level is 100 by 136; each next one has half of that.
    std::int64_t height(int level) const { return 100 >> level > 1 ? 100 >> level : 1; }
    std::int64_t width(int level) const { return 136 >> level > 1 ? 136 >> level : 1; }
};

// The tensors that belong to roi_align_fields(sizes.levels).
Tensors roi_align_tensors(const RoIAlignSizes& sizes = {},
                          nvinfer1::DataType type = nvinfer1::DataType::kFLOAT,
                          nvinfer1::TensorFormat features = nvinfer1::TensorFormat::kLINEAR,
                          nvinfer1::TensorFormat output = nvinfer1::TensorFormat::kLINEAR);

// The tensors that belong to roi_pool_fields(), but for the number of bins; the map is 20 by 27.
Tensors roi_pool_tensors(std::int64_t batch = 2, std::int64_t rois = 5,
                         nvinfer1::DataType type = nvinfer1::DataType::kFLOAT, std::int64_t bins = 7);

// The tensors that belong to nms_fields().
Tensors nms_tensors(std::int64_t batch = 2, std::int64_t candidates = 1000, std::int64_t max_output = 100);

// The tensors of an op, and how it calls the first of them.
Tensors tensors_of(const std::string& op);
const char* first_input(const std::string& op);

// Every type and format that the headers know, and one beyond each.
std::vector<nvinfer1::DataType> all_types();
std::vector<nvinfer1::TensorFormat> all_formats();

}  // namespace host

#endif  // MRCNN_TESTS_PLUGINS_HOST_CASES_H_
