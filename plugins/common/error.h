// How the functions of the C interface fail: a status, and a line for mrcnnLastError.
#ifndef MRCNN_PLUGINS_COMMON_ERROR_H_
#define MRCNN_PLUGINS_COMMON_ERROR_H_

#include "common/status.h"

namespace mrcnn {

// Stores the formatted line for mrcnnLastError and returns `status`.
__attribute__((format(printf, 2, 3))) MrcnnStatus fail(MrcnnStatus status, const char* format, ...);

}  // namespace mrcnn

// Returns MRCNN_INVALID_ARGUMENT with the formatted line unless `condition` holds.
#define MRCNN_REQUIRE(condition, ...)                                                \
    do {                                                                             \
        if (!(condition)) return ::mrcnn::fail(MRCNN_INVALID_ARGUMENT, __VA_ARGS__); \
    } while (false)

// Passes on the status of a call that failed.
#define MRCNN_RETURN_IF_FAILED(call)                            \
    do {                                                        \
        if (const MrcnnStatus status_ = (call)) return status_; \
    } while (false)

#endif  // MRCNN_PLUGINS_COMMON_ERROR_H_
