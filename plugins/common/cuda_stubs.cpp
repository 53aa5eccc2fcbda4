// What the CUDA functions answer in a library that was built without nvcc.

#include "common/error.h"
#include "nms/nms.h"
#include "resize/resize.h"
#include "roi_align/roi_align.h"
#include "roi_pool/roi_pool.h"

namespace {

MrcnnStatus not_built() {
    return mrcnn::fail(MRCNN_NOT_BUILT,
                       "this library has no CUDA part: install nvcc (the CUDA toolkit) and build it again");
}

}  // namespace

MrcnnStatus mrcnnRoIAlignCuda(const MrcnnRoIAlignParams*, const float*, void*, void*) { return not_built(); }

MrcnnStatus mrcnnRoIPoolCuda(const MrcnnRoIPoolParams*, const void*, const float*, void*, void*) {
    return not_built();
}

MrcnnStatus mrcnnNMSCudaWorkspace(const MrcnnNMSParams*, size_t*) { return not_built(); }

MrcnnStatus mrcnnNMSCuda(const MrcnnNMSParams*, const float*, const float*, const int32_t*, int32_t*,
                         int32_t*, void*, size_t, void*) {
    return not_built();
}

MrcnnStatus mrcnnResizeCuda(const MrcnnResizeParams*, const void*, void*, void*) { return not_built(); }
