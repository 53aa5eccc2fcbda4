"""The C interface of the kernels for ctypes: the structs and functions of the ops' headers.

The headers say what every field and function means; a test compares names, order and sizes with them.
"""

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_size_t, c_void_p

OK, INVALID_ARGUMENT, CUDA_ERROR, NOT_BUILT, OUT_OF_MEMORY = range(5)  # MrcnnStatus
FLOAT32, FLOAT16, UINT8 = range(3)  # MrcnnType
LINEAR, CHANNELS_LAST = range(2)  # MrcnnLayout
AVG, MAX = range(2)  # MrcnnPoolMode

MAX_LEVELS = 8
MAX_BINS = 32  # a side, of RoIPool


class FeatureLevel(Structure):
    """`MrcnnFeatureLevel`."""

    _fields_ = (
        ("data", c_void_p),
        ("height", c_int32),
        ("width", c_int32),
        ("spatial_scale", c_float),
    )


class RoIAlignParams(Structure):
    """`MrcnnRoIAlignParams`."""

    _fields_ = (
        ("batch", c_int32),
        ("channels", c_int32),
        ("rois_per_image", c_int32),
        ("output_size", c_int32),
        ("sampling_ratio", c_int32),
        ("aligned", c_int32),
        ("mode", c_int32),
        ("type", c_int32),
        ("feature_layout", c_int32),
        ("output_layout", c_int32),
        ("canonical_size", c_float),
        ("canonical_level", c_int32),
        ("num_levels", c_int32),
        ("levels", FeatureLevel * MAX_LEVELS),
    )


class RoIPoolParams(Structure):
    """`MrcnnRoIPoolParams`."""

    _fields_ = (
        ("batch", c_int32),
        ("channels", c_int32),
        ("height", c_int32),
        ("width", c_int32),
        ("rois_per_image", c_int32),
        ("output_height", c_int32),
        ("output_width", c_int32),
        ("type", c_int32),
        ("spatial_scale", c_float),
    )


class NMSParams(Structure):
    """`MrcnnNMSParams`."""

    _fields_ = (
        ("batch", c_int32),
        ("candidates", c_int32),
        ("max_output", c_int32),
        ("iou_threshold", c_float),
        ("score_threshold", c_float),
    )


class ResizeParams(Structure):
    """`MrcnnResizeParams`."""

    _fields_ = (
        ("source_height", c_int32),
        ("source_width", c_int32),
        ("source_pitch", c_int64),
        ("target_height", c_int32),
        ("target_width", c_int32),
        ("padded_height", c_int32),
        ("padded_width", c_int32),
        ("swap_channels", c_int32),
        ("output_type", c_int32),
    )


# Pointers to arrays are addresses, so that memory of a GPU can be passed as well as NumPy's.
_ROI_ALIGN, _ROI_POOL = POINTER(RoIAlignParams), POINTER(RoIPoolParams)
_NMS, _RESIZE = POINTER(NMSParams), POINTER(ResizeParams)
FUNCTIONS: dict[str, tuple[type, tuple[type, ...]]] = {
    "mrcnnLastError": (c_char_p, ()),
    "mrcnnBuildInfo": (c_char_p, ()),
    "mrcnnRoIAlignCpu": (c_int32, (_ROI_ALIGN, c_void_p, c_void_p)),
    "mrcnnRoIAlignCuda": (c_int32, (_ROI_ALIGN, c_void_p, c_void_p, c_void_p)),
    "mrcnnRoIAlignLevelThresholds": (c_int32, (_ROI_ALIGN, c_void_p)),
    "mrcnnRoIPoolCpu": (c_int32, (_ROI_POOL, *[c_void_p] * 3)),
    "mrcnnRoIPoolCuda": (c_int32, (_ROI_POOL, *[c_void_p] * 4)),
    "mrcnnNMSCpu": (c_int32, (_NMS, *[c_void_p] * 5)),
    "mrcnnNMSCudaWorkspace": (c_int32, (_NMS, POINTER(c_size_t))),
    "mrcnnNMSCuda": (c_int32, (_NMS, *[c_void_p] * 6, c_size_t, c_void_p)),
    "mrcnnResizeCpu": (c_int32, (_RESIZE, c_void_p, c_void_p)),
    "mrcnnResizeCuda": (c_int32, (_RESIZE, c_void_p, c_void_p, c_void_p)),
}


def declare(library: ctypes.CDLL) -> None:
    """Tells ctypes the functions' types.

    Raises:
        AttributeError: the library lacks one of them.
    """
    for name, (result, arguments) in FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments
