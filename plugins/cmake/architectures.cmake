# Which GPUs the kernels are compiled for.
#
# mrcnn_architectures(native out)  those of this machine; without one, 75 as PTX, which the driver compiles on any
# mrcnn_architectures(all out)     every one from Turing on that this nvcc knows, and PTX for those to come
# mrcnn_architectures("87;90" out) as given
function(mrcnn_architectures wanted result)
    set(version "${CMAKE_CUDA_COMPILER_VERSION}")
    if(wanted STREQUAL "all")
        set(found 75-real 80-real 86-real 87-real 89-real 90-real)
        if(version VERSION_GREATER_EQUAL 12.8)
            list(APPEND found 100-real)
            # Thor's number changed.
            if(version VERSION_LESS 13.0)
                list(APPEND found 101-real)
            else()
                list(APPEND found 103-real 110-real)
            endif()
            list(APPEND found 120)
        else()
            list(APPEND found 90-virtual)
        endif()
    elseif(wanted STREQUAL "native")
        execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
            OUTPUT_VARIABLE capabilities ERROR_QUIET RESULT_VARIABLE status TIMEOUT 10)
        set(found "")
        if(status EQUAL 0)
            string(REGEX MATCHALL "[^\n]+" found "${capabilities}")
            list(FILTER found INCLUDE REGEX "^[0-9][0-9]?\\.[0-9]$")
            list(TRANSFORM found REPLACE "\\." "")
            list(REMOVE_DUPLICATES found)
        endif()
        if(NOT found)
            set(found 75)
        endif()
    else()
        set(found ${wanted})
    endif()
    set(${result} ${found} PARENT_SCOPE)
endfunction()
