"""The kernels from Python: NumPy arrays on the CPU, addresses on a GPU."""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.plugins import interface

LIBRARIES = Path(__file__).resolve().parent / "lib"

Layout = Literal["linear", "channels_last"]
_LAYOUTS = {"linear": interface.LINEAR, "channels_last": interface.CHANNELS_LAST}
_TYPES = {np.dtype(np.float32): interface.FLOAT32, np.dtype(np.float16): interface.FLOAT16}
_IMAGE_TYPES = {np.dtype(np.float32): interface.FLOAT32, np.dtype(np.uint8): interface.UINT8}
_MODES = {"avg": interface.AVG, "max": interface.MAX}


class KernelError(MrcnnError):
    """A kernel refused its arguments, or the GPU refused the kernel; the message is the library's."""


def kernels_path() -> Path:
    """Where the library of the kernels is, or would be if it had been built."""
    return LIBRARIES / "libmrcnn_kernels.so"


def plugins_path() -> Path:
    """Where the library of TensorRT plugins is, or would be if it had been built."""
    return LIBRARIES / "libmrcnn_plugins.so"


class Kernels:
    """The functions of one library, `libmrcnn_kernels.so` or `libmrcnn_plugins.so`; may be shared by threads.

    Args:
        path: the library; None for the one that was installed with this package.

    Raises:
        MissingRequirementError: it was not built, or cannot be loaded on this machine.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = path or kernels_path()
        if not path.is_file():
            raise MissingRequirementError(
                f"the native kernels are not built ({path} is missing): `mrcnn doctor` says what they need"
            )
        try:
            self._library = ctypes.CDLL(str(path))
            interface.declare(self._library)
        except (OSError, AttributeError) as error:
            raise MissingRequirementError(
                f"{path} cannot be loaded here: build it again ({' '.join(str(error).split())})"
            ) from error

    @property
    def build_info(self) -> str:
        """The library's version and what it was compiled for: "mrcnn 0.1.0, CPU, CUDA 13.0 sm_90"."""
        return str(self._library.mrcnnBuildInfo().decode())

    def roi_align(
        self,
        features: Sequence[NDArray[Any]],
        rois: NDArray[np.float32],
        *,
        output_size: int,
        spatial_scales: Sequence[float],
        sampling_ratio: int = 2,
        aligned: bool = False,
        mode: Literal["avg", "max"] = "avg",
        canonical_size: float = 224,
        canonical_level: int = 4,
    ) -> NDArray[Any]:
        """Pools RoIs from the levels of a pyramid, on the CPU; see `roi_align/README.md`.

        Args:
            features: per level (B, C, H, W) float32 or float16, finest first.
            rois: (B, R, 4) float32 xyxy in pixels of the image.
            spatial_scales: per level, its size relative to the image.

        Returns:
            (B * R, C, output_size, output_size) of the features' type.

        Raises:
            KernelError: an argument that the contract forbids.
        """
        arrays = [np.ascontiguousarray(level) for level in features]
        rois = np.ascontiguousarray(rois, np.float32)
        params = roi_align_params(
            shapes=[array.shape for array in arrays],
            rois_shape=rois.shape,
            dtype=arrays[0].dtype if arrays else np.dtype(np.float32),
            addresses=[array.ctypes.data for array in arrays],
            output_size=output_size,
            spatial_scales=spatial_scales,
            sampling_ratio=sampling_ratio,
            aligned=aligned,
            mode=mode,
            canonical_size=canonical_size,
            canonical_level=canonical_level,
        )
        if any(array.dtype != arrays[0].dtype for array in arrays):
            raise KernelError("RoIAlign: the feature levels must have one type")
        self.level_thresholds(params)  # refuses wrong attributes before memory is taken for them
        rows = params.batch * params.rois_per_image
        output = np.empty((rows, params.channels, output_size, output_size), arrays[0].dtype)
        self.roi_align_cpu(params, rois.ctypes.data, output.ctypes.data)
        return output

    def roi_pool(
        self,
        features: NDArray[Any],
        rois: NDArray[np.float32],
        *,
        output_size: tuple[int, int],
        spatial_scale: float,
    ) -> NDArray[Any]:
        """Pools RoIs as Fast R-CNN does, on the CPU; see `roi_pool/README.md`.

        Args:
            features: (B, C, H, W) float32 or float16.
            rois: (B, R, 4) float32 xyxy in pixels of the image.
            output_size: bins from top to bottom, and from left to right.
            spatial_scale: size of the features relative to the image.

        Returns:
            (B * R, C, *output_size) of the features' type.

        Raises:
            KernelError: an argument that the contract forbids.
        """
        features, rois = np.ascontiguousarray(features), np.ascontiguousarray(rois, np.float32)
        params = roi_pool_params(
            shape=features.shape,
            rois_shape=rois.shape,
            dtype=features.dtype,
            output_size=output_size,
            spatial_scale=spatial_scale,
        )
        # What the library refuses below needs no room.
        size = tuple(bins if 0 < bins <= interface.MAX_BINS else 0 for bins in output_size)
        output = np.empty((params.batch * params.rois_per_image, params.channels, *size), features.dtype)
        self.roi_pool_cpu(params, features.ctypes.data, rois.ctypes.data, output.ctypes.data)
        return output

    def nms(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        group: NDArray[np.int32],
        *,
        iou_threshold: float,
        score_threshold: float,
        max_output: int,
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Non-maximum suppression per image and group, on the CPU; see `nms/README.md`.

        Args:
            boxes: (B, N, 4) float32 xyxy; scores: (B, N) float32; group: (B, N) int32.

        Returns:
            indices (B, max_output) int32, best first and 0 past the count, and count (B,) int32.

        Raises:
            KernelError: an argument that the contract forbids.
        """
        boxes = np.ascontiguousarray(boxes, np.float32)
        scores = np.ascontiguousarray(scores, np.float32)
        group = _as_int32(group)
        _require_int32("NMS", max_output=max_output)
        if boxes.ndim != 3 or boxes.shape[2] != 4 or not boxes.shape[:2] == scores.shape == group.shape:
            raise KernelError(
                f"NMS: boxes, scores and group must be (B, N, 4), (B, N) and (B, N) "
                f"(got {boxes.shape}, {scores.shape} and {group.shape})"
            )
        params = interface.NMSParams(*boxes.shape[:2], max_output, iou_threshold, score_threshold)
        # What the library refuses below needs no room.
        rows = max_output if 0 < max_output <= 2**31 // max(params.batch, 1) else 0
        indices = np.empty((params.batch, rows), np.int32)
        count = np.empty(params.batch, np.int32)
        self.nms_cpu(params, *(array.ctypes.data for array in (boxes, scores, group, indices, count)))
        return indices, count

    def resize(
        self,
        image: NDArray[np.uint8],
        *,
        target: tuple[int, int],
        padded: tuple[int, int],
        swap_channels: bool = False,
        dtype: DTypeLike = np.float32,
    ) -> NDArray[Any]:
        """Resizes an image bilinearly and pads it with zeros, on the CPU; see `resize/README.md`.

        Args:
            image: (h, w, 3) uint8; rows may have gaps between them, anything else is copied first.
            target: (height, width) of the resized image; padded: of the result.
            swap_channels: BGR becomes RGB.
            dtype: float32, or uint8 for rounded values.

        Returns:
            (*padded, 3) of `dtype`, 0…255.

        Raises:
            KernelError: an argument that the contract forbids.
        """
        if image.dtype != np.uint8:
            raise KernelError(f"Resize: the image must be uint8 (got {image.dtype})")
        if image.ndim != 3 or image.strides[1:] != (3, 1) or image.strides[0] < 3 * image.shape[1]:
            image = np.ascontiguousarray(image)
        params = resize_params(
            shape=image.shape,
            pitch=image.strides[0],
            target=target,
            padded=padded,
            swap_channels=swap_channels,
            dtype=dtype,
        )
        # What the library refuses below needs no room.
        size = (params.padded_height, params.padded_width)
        try:
            output = np.empty((*(size if all(0 < side < 2**16 for side in size) else (0, 0)), 3), dtype)
        except MemoryError as error:
            raise KernelError(f"Resize: not enough memory for an output of {size}") from error
        self.resize_cpu(params, image.ctypes.data, output.ctypes.data)
        return output

    # The functions of the C interface; addresses instead of arrays. Each raises KernelError.

    def roi_align_cpu(self, params: interface.RoIAlignParams, rois: int, output: int) -> None:
        """`mrcnnRoIAlignCpu`."""
        self._check(self._library.mrcnnRoIAlignCpu(params, rois, output))

    def roi_align_cuda(self, params: interface.RoIAlignParams, rois: int, output: int, stream: int) -> None:
        """`mrcnnRoIAlignCuda`; `stream` is a cudaStream_t."""
        self._check(self._library.mrcnnRoIAlignCuda(params, rois, output, stream))

    def level_thresholds(self, params: interface.RoIAlignParams) -> NDArray[np.float32]:
        """`mrcnnRoIAlignLevelThresholds`: (num_levels - 1,)."""
        thresholds = np.zeros(interface.MAX_LEVELS, np.float32)
        self._check(self._library.mrcnnRoIAlignLevelThresholds(params, thresholds.ctypes.data))
        return thresholds[: params.num_levels - 1]

    def roi_pool_cpu(self, params: interface.RoIPoolParams, features: int, rois: int, output: int) -> None:
        """`mrcnnRoIPoolCpu`."""
        self._check(self._library.mrcnnRoIPoolCpu(params, features, rois, output))

    def roi_pool_cuda(
        self, params: interface.RoIPoolParams, features: int, rois: int, output: int, stream: int
    ) -> None:
        """`mrcnnRoIPoolCuda`; `stream` is a cudaStream_t."""
        self._check(self._library.mrcnnRoIPoolCuda(params, features, rois, output, stream))

    def nms_cpu(
        self, params: interface.NMSParams, boxes: int, scores: int, group: int, indices: int, count: int
    ) -> None:
        """`mrcnnNMSCpu`."""
        self._check(self._library.mrcnnNMSCpu(params, boxes, scores, group, indices, count))

    def nms_cuda_workspace(self, params: interface.NMSParams) -> int:
        """`mrcnnNMSCudaWorkspace`: bytes."""
        size = ctypes.c_size_t()
        self._check(self._library.mrcnnNMSCudaWorkspace(params, size))
        return size.value

    def nms_cuda(
        self,
        params: interface.NMSParams,
        boxes: int,
        scores: int,
        group: int,
        indices: int,
        count: int,
        workspace: int,
        workspace_bytes: int,
        stream: int,
    ) -> None:
        """`mrcnnNMSCuda`; `stream` is a cudaStream_t."""
        self._check(
            self._library.mrcnnNMSCuda(
                params, boxes, scores, group, indices, count, workspace, workspace_bytes, stream
            )
        )

    def resize_cpu(self, params: interface.ResizeParams, source: int, output: int) -> None:
        """`mrcnnResizeCpu`."""
        self._check(self._library.mrcnnResizeCpu(params, source, output))

    def resize_cuda(self, params: interface.ResizeParams, source: int, output: int, stream: int) -> None:
        """`mrcnnResizeCuda`; `stream` is a cudaStream_t."""
        self._check(self._library.mrcnnResizeCuda(params, source, output, stream))

    def _check(self, status: int) -> None:
        if status != interface.OK:
            raise KernelError(self._library.mrcnnLastError().decode(errors="replace"))


@lru_cache(maxsize=1)
def installed_kernels() -> Kernels:
    """The kernels that were built with this package, loaded once.

    Raises:
        MissingRequirementError: they were not built.
    """
    return Kernels()


def roi_align_params(
    *,
    shapes: Sequence[tuple[int, ...]],
    rois_shape: tuple[int, ...],
    dtype: "np.dtype[Any]",
    addresses: Sequence[int],
    output_size: int,
    spatial_scales: Sequence[float],
    sampling_ratio: int,
    aligned: bool,
    mode: Literal["avg", "max"],
    canonical_size: float,
    canonical_level: int,
    feature_layout: Layout = "linear",
    output_layout: Layout = "linear",
) -> interface.RoIAlignParams:
    """The parameters of a call.

    Args:
        shapes: per level the logical (B, C, H, W), whatever the layout.
        addresses: per level where its data begins, in the memory of the CPU or the GPU.

    Raises:
        KernelError: shapes that do not belong together.
    """
    if not 1 <= len(shapes) <= interface.MAX_LEVELS or not len(shapes) == len(addresses) == len(
        spatial_scales
    ):
        raise KernelError(
            f"RoIAlign: expected 1 to {interface.MAX_LEVELS} levels, and a scale for each "
            f"(got {len(shapes)} levels and {len(spatial_scales)} scales)"
        )
    if dtype not in _TYPES:
        raise KernelError(f"RoIAlign: features must be float32 or float16 (got {dtype})")
    if mode not in _MODES:
        raise KernelError(f"RoIAlign: mode must be avg or max (got {mode!r})")
    _require_int32(
        "RoIAlign",
        output_size=output_size,
        sampling_ratio=sampling_ratio,
        aligned=aligned,
        canonical_level=canonical_level,
    )
    batch, channels = shapes[0][:2] if len(shapes[0]) == 4 else (0, 0)
    if any(len(shape) != 4 or shape[:2] != (batch, channels) for shape in shapes):
        raise KernelError(f"RoIAlign: the levels must be (B, C, H, W) with one B and C (got {list(shapes)})")
    if len(rois_shape) != 3 or rois_shape[0] != batch or rois_shape[2] != 4:
        raise KernelError(f"RoIAlign: rois must be (B, R, 4) with B = {batch} (got {rois_shape})")
    params = interface.RoIAlignParams(
        batch=batch,
        channels=channels,
        rois_per_image=rois_shape[1],
        output_size=output_size,
        sampling_ratio=sampling_ratio,
        aligned=int(aligned),
        mode=_MODES[mode],
        type=_TYPES[dtype],
        feature_layout=_LAYOUTS[feature_layout],
        output_layout=_LAYOUTS[output_layout],
        canonical_size=canonical_size,
        canonical_level=canonical_level,
        num_levels=len(shapes),
    )
    for i, ((_, _, height, width), address, scale) in enumerate(
        zip(shapes, addresses, spatial_scales, strict=True)
    ):
        params.levels[i] = interface.FeatureLevel(address, height, width, scale)
    return params


def roi_pool_params(
    *,
    shape: tuple[int, ...],
    rois_shape: tuple[int, ...],
    dtype: "np.dtype[Any]",
    output_size: tuple[int, int],
    spatial_scale: float,
) -> interface.RoIPoolParams:
    """The parameters of a call.

    Args:
        shape: (B, C, H, W) of the features.

    Raises:
        KernelError: shapes that do not belong together.
    """
    if dtype not in _TYPES:
        raise KernelError(f"RoIPool: features must be float32 or float16 (got {dtype})")
    if len(shape) != 4 or len(rois_shape) != 3 or rois_shape[::2] != (shape[0], 4):
        raise KernelError(
            f"RoIPool: features and rois must be (B, C, H, W) and (B, R, 4) (got {shape} and {rois_shape})"
        )
    if len(output_size) != 2:
        raise KernelError(f"RoIPool: output_size must be (height, width) (got {output_size})")
    return interface.RoIPoolParams(*shape, rois_shape[1], *output_size, _TYPES[dtype], spatial_scale)


def resize_params(
    *,
    shape: tuple[int, ...],
    target: tuple[int, int],
    padded: tuple[int, int],
    swap_channels: bool = False,
    dtype: DTypeLike = np.float32,
    pitch: int | None = None,
) -> interface.ResizeParams:
    """The parameters of a call.

    Args:
        shape: (h, w, 3) of the image; pitch: bytes from row to row, None where rows have no gaps.
        target, padded: (height, width) of the resized image, and of the output.
        dtype: of the output, float32 or uint8.

    Raises:
        KernelError: an image of other channels, a type that is not allowed, or numbers that do not fit.
    """
    if len(shape) != 3 or shape[2] != 3:
        raise KernelError(f"Resize: the image must be (h, w, 3) (got {shape})")
    if len(target) != 2 or len(padded) != 2:
        raise KernelError(f"Resize: target and padded must be (height, width) (got {target} and {padded})")
    if np.dtype(dtype) not in _IMAGE_TYPES:
        raise KernelError(f"Resize: the output must be float32 or uint8 (got {np.dtype(dtype)})")
    fields = {
        "source_height": shape[0],
        "source_width": shape[1],
        "source_pitch": 3 * shape[1] if pitch is None else pitch,
        "target_height": target[0],
        "target_width": target[1],
        "padded_height": padded[0],
        "padded_width": padded[1],
        "swap_channels": swap_channels,
    }
    _require_int32("Resize", **fields)
    return interface.ResizeParams(**fields, output_type=_IMAGE_TYPES[np.dtype(dtype)])


def _require_int32(op: str, **values: int) -> None:
    """ctypes would cut an integer that is too large to the lower half of its bits."""
    for name, value in values.items():
        if not isinstance(value, int | np.integer) or not -(2**31) <= value < 2**31:
            raise KernelError(f"{op}: {name} must be a whole number of 32 bits (got {value!r})")


def _as_int32(group: NDArray[Any]) -> NDArray[np.int32]:
    """The groups as the kernel reads them; a value that a conversion would change is refused."""
    given = np.asarray(group)
    if given.size and (given.dtype.kind not in "iu" or given.max() >= 2**31 or given.min() < -(2**31)):
        raise KernelError(f"NMS: group must be whole numbers of 32 bits (got {given.dtype})")
    return np.ascontiguousarray(given, np.int32)


def stored_channels(channels: int, dtype: "np.dtype[Any]", layout: Layout) -> int:
    """Channels that a pixel occupies in memory: float16 channels-last is padded to a multiple of 8."""
    return -(-channels // 8) * 8 if layout == "channels_last" and dtype == np.float16 else channels
