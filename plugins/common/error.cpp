#include "common/error.h"

#include <cstdarg>
#include <cstdio>

namespace {

thread_local char last_error[512] = "";

}  // namespace

MrcnnStatus mrcnn::fail(MrcnnStatus status, const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(last_error, sizeof last_error, format, arguments);
    va_end(arguments);
    return status;
}

const char* mrcnnLastError(void) { return last_error; }

// Both are written by CMakeLists.txt.
const char* mrcnnBuildInfo(void) { return MRCNN_BUILD_INFO; }
