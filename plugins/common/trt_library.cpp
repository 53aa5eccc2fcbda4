// The two functions by which TensorRT's registry finds the plugins of a library.

#include <NvInferRuntime.h>

#include <cstdint>

#include "common/status.h"
#include "common/trt_plugin.h"
#include "nms/nms_trt.h"
#include "roi_align/roi_align_trt.h"
#include "roi_pool/roi_pool_trt.h"

// Both must be there. The finder is not kept: the logger's interface is another one in TensorRT 11.
extern "C" MRCNN_API void setLoggerFinder(nvinfer1::ILoggerFinder*);
extern "C" MRCNN_API nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count);

void setLoggerFinder(nvinfer1::ILoggerFinder*) {}

nvinfer1::IPluginCreatorInterface* const* getCreators(std::int32_t& count) {
    static mrcnn::PluginCreator<mrcnn::RoIAlignOp> roi_align;
    static mrcnn::PluginCreator<mrcnn::RoIPoolOp> roi_pool;
    static mrcnn::PluginCreator<mrcnn::NMSOp> nms;
    static nvinfer1::IPluginCreatorInterface* const creators[] = {&roi_align, &roi_pool, &nms};
    count = 3;
    return creators;
}
