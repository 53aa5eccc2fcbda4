"""Runs an engine with TensorRT: several runs at once, each in a slot of its own."""

import sys
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn.errors import MissingRequirementError, MrcnnError
from mrcnn.plugins.kernels import plugins_path
from mrcnn.runtime.backend import CLOSED, Batch, Outputs
from mrcnn.runtime.engine.arrays import device_image
from mrcnn.runtime.engine.checks import check_machine, check_plan, installed_plugins, read_plan, read_sidecar
from mrcnn.runtime.engine.device import Device, DeviceError
from mrcnn.runtime.engine.pixels import (
    GpuPicture,
    HostBatch,
    Inputs,
    Pictures,
    Ready,
    Resize,
    find_resize,
)
from mrcnn.runtime.engine.plan import Plan, open_plan
from mrcnn.runtime.engine.pool import Pool
from mrcnn.runtime.engine.slot import Layout, Slot
from mrcnn.runtime.engine.tensorrt import import_tensorrt
from mrcnn.runtime.images import check_color
from mrcnn.runtime.outputs import keep_contract
from mrcnn.runtime.preprocess import make_batch
from mrcnn.runtime.sizes import InputRange


class EngineBackend:
    """One engine on one GPU: the `Backend` of machines with TensorRT.

    Args:
        path: the `.engine` file, with its `.engine.json` beside it.
        device: the GPU; None for CUDA's first.
        trt: NVIDIA's module; None for the installed one.
        contexts: runs at once, each with its own memory.
        resize: the kernel that resizes images on `device`; None to resize on the CPU. Without a device, the
            one that was built is taken.

    Attributes:
        deployment: the sidecar's.
        device: "cuda".
        ranges: one per profile of the engine.

    Raises:
        MrcnnError: the file is missing, damaged, or none of ours; in `start` and in `outputs` of what it
            gives: the run fails, its outputs break the contract, or the backend is closed.
        MissingRequirementError: no GPU or TensorRT is here, or other ones than the engine was built for, or
            the GPU's memory is too small.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: Device | None = None,
        trt: Any = None,
        contexts: int = 2,
        resize: Resize | None = None,
    ) -> None:
        self._closed = True  # until there is something to close
        self._path = path
        sidecar = read_sidecar(path)
        check_plan(path, sidecar)
        self._gpu = _open_gpu() if device is None else device
        self._gpu.enter()
        self._resize = find_resize(self._gpu) if device is None else resize
        if trt is None:
            trt = import_tensorrt(version=sidecar.tensorrt, version_compatible=sidecar.version_compatible)
        library = plugins_path()
        check_machine(
            path,
            sidecar,
            gpu=self._gpu.name,
            capability=self._gpu.capability,
            tensorrt=trt.__version__,
            plugins=None if sidecar.plugins_embedded else installed_plugins(library),
        )
        self.deployment = sidecar.deployment
        self.device = "cuda"
        self.ranges = tuple(InputRange(profile.least, profile.most) for profile in sidecar.profiles)
        free, _ = self._gpu.memory()  # before the weights are there
        self._plan = open_plan(path, read_plan(path, sidecar), sidecar, trt=trt, plugins=library)
        self._slots: list[Slot] = []
        try:
            self._needs = Needs.of(self._plan, contexts=contexts)
            if self._needs.total(contexts) > free:
                raise self._needs.shortage(path, free)
            self._make_slots(contexts, free)
        except BaseException:
            self._free()
            raise
        self._pool = Pool(self._slots)
        self._runs: weakref.WeakSet[_Run] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._closing = threading.Lock()
        self._closed = False

    @property
    def memory_bytes(self) -> dict[str, int]:
        """What it holds on the GPU: "weights" (about the plan's length), "activations", "buffers", "staging".

        The last is for images before they are resized, and as large as the largest so far.
        """
        if self._closed:
            return {}
        return {
            "weights": self._needs.weights,
            "activations": self._needs.contexts * self._needs.activations,
            "buffers": self._needs.contexts * self._needs.buffers,
            "staging": sum(slot.staging_bytes for slot in self._slots),
        }

    def take(self, image: object, *, color: str) -> GpuPicture | None:
        """An image that is on the GPU, to be read from there; None for others."""
        found = device_image(image, index=self._gpu.index)
        if found is None:
            return None
        check_color(color)
        if self._resize is None:
            raise MissingRequirementError(
                "images on the GPU need the kernels with CUDA, which are not built for it: `mrcnn doctor` "
                "says what they need; or copy the image to the host"
            )
        self._gpu.enter()
        ready = None if found.stream is None else Ready(self._gpu, found.stream)
        return GpuPicture(found, swap_channels=color == "bgr", ready=ready)

    def prepare(self, batch: Batch) -> Inputs:
        """What a run starts with: images as they are where the GPU resizes them, else the network's input."""
        if self._resize is None:
            images, image_sizes = make_batch(
                batch.images,
                resized=batch.resized,
                padded=batch.padded,
                batch=batch.rows,
                dtype=self.deployment.input_dtype,
            )
            return HostBatch(images, image_sizes)
        return Pictures(
            images=batch.images,
            resized=batch.resized,
            padded=batch.padded,
            rows=batch.rows,
            dtype=np.dtype(self.deployment.input_dtype),
            resize=self._resize,
        )

    def start(self, prepared: Inputs) -> "_Run":
        """Copies the inputs and starts a run; waits while all slots are taken, in the order of the calls.

        A run keeps its slot until its outputs are taken, or nobody holds what this returns. A slot's second
        run of a shape is over when this returns, since it is recorded.
        """
        if not self._closed:
            self._plan.profile_of(prepared.shape)
        self._gpu.enter()
        run = self._new_run(self._pool.take())
        run.launch(prepared)
        return run

    def close(self) -> None:
        """Waits for what was started, whose outputs can still be taken afterwards, and frees everything."""
        with self._closing:  # the second caller waits for the first
            if self._closed:
                return
            with suppress(DeviceError):  # a GPU that is lost is no reason to keep anything
                self._gpu.enter()
            with self._lock:
                self._closed = True
                runs = list(self._runs)
            self._pool.refuse(lambda: MrcnnError(CLOSED))
            for run in runs:
                run.finish()
            del runs
            self._pool.wait_for_all()
            self._free()

    def __del__(self) -> None:
        # Nobody holds a run, as runs hold the backend. When Python ends, the driver frees what is left.
        if not self._closed and not sys.is_finalizing():
            with suppress(MrcnnError):
                self.close()

    def collect(self, slot: Slot, *, rows: int) -> Outputs:
        """For `_Run`: the outputs of a slot's run, after which the slot is free, whatever happens.

        Raises:
            MrcnnError: the run failed, or its outputs break the contract.
        """
        try:
            self._gpu.enter()
            outputs = slot.collect()
        except BaseException as error:
            self.recover(slot, error)
            raise
        self._pool.give(slot)
        if not keep_contract(outputs, rows=rows, deployment=self.deployment):
            raise MrcnnError(f"{self._path}: the engine's outputs break the contract: build it again")
        return outputs

    def recover(self, slot: Slot, error: BaseException) -> None:
        """For `_Run`: gives back a slot after an error, and the whole backend up where the GPU is lost."""
        if isinstance(error, DeviceError) and error.sticky:
            line = f"{self._path}: nothing runs on the GPU since: {error}: start the program again"
            name = error.name
            self._pool.refuse(lambda: DeviceError(line, name=name, sticky=True))
        self._pool.give(slot)

    def abandon(self, slot: Slot) -> None:
        """For `_Run`: gives back a slot whose run may not be over; does not wait."""
        self._pool.give(slot)

    def _make_slots(self, contexts: int, free: int) -> None:
        try:
            for _ in range(contexts):
                self._slots.append(Slot(self._plan, self._gpu))
        except DeviceError as error:
            if error.out_of_memory:  # the weights needed more than was thought, or somebody else took some
                raise self._needs.shortage(self._path, free) from error
            raise

    def _new_run(self, slot: Slot) -> "_Run":
        with self._lock:
            if not self._closed:
                run = _Run(self, slot)
                self._runs.add(run)
                return run
        self._pool.give(slot)
        raise MrcnnError(CLOSED)

    def _free(self) -> None:
        """In the order that TensorRT asks for: contexts, engine, memory."""
        for slot in self._slots:
            slot.drop_contexts()
        self._plan.close()
        for slot in self._slots:
            slot.free()


class _Run:
    """A run that was started: the `Pending` of `EngineBackend`."""

    def __init__(self, backend: EngineBackend, slot: Slot) -> None:
        self._backend = backend
        self._slot: Slot | None = slot
        self._lock = threading.Lock()
        self._rows = 0
        self._launched = False
        self._taken = False
        self._result: Outputs | None = None
        self._error: MrcnnError | None = None

    def launch(self, inputs: Inputs) -> None:
        """Starts it."""
        with self._lock:
            if self._slot is None:  # somebody closed the backend first
                raise MrcnnError(CLOSED)
            self._rows = inputs.shape[0]
            try:
                self._slot.launch(inputs)
                self._launched = True
            except BaseException as error:
                slot, self._slot = self._slot, None
                self._backend.recover(slot, error)
                raise

    def outputs(self) -> Outputs:
        """Waits for its end, once."""
        with self._lock:
            if self._taken:
                raise RuntimeError("the outputs of this run were taken already")
            self._taken = True
            self._finish()
            result, self._result = self._result, None
        if result is None:
            assert self._error is not None
            raise self._error
        return result

    def finish(self) -> None:
        """For `close`: waits for its end, and keeps the outputs for who asks later."""
        with self._lock:
            self._finish()

    def _finish(self) -> None:
        if self._slot is None:
            return
        slot, self._slot = self._slot, None
        if not self._launched:  # `close` was faster
            self._backend.abandon(slot)
            return
        try:
            self._result = self._backend.collect(slot, rows=self._rows)
        except MrcnnError as error:
            self._error = error

    def __del__(self) -> None:
        if self._slot is not None:
            self._backend.abandon(self._slot)


@dataclass(frozen=True)
class Needs:
    """Bytes on the GPU: `weights` in all, `activations` and `buffers` for each of `contexts`."""

    weights: int
    activations: int
    buffers: int
    contexts: int

    @classmethod
    def of(cls, plan: Plan, *, contexts: int) -> "Needs":
        """What runs of a plan need; a plan is little more than its weights."""
        return cls(plan.plan_bytes, plan.activation_bytes, Layout.of(plan.tensors).size, contexts)

    def total(self, contexts: int) -> int:
        """With that many contexts."""
        return self.weights + contexts * (self.activations + self.buffers)

    def shortage(self, path: Path, free: int) -> MissingRequirementError:
        """The line for what is not enough; `free` was there before the engine was loaded."""
        remedy = "build it with smaller profiles, or end other programs that use the GPU"
        if self.contexts > 1 and self.total(1) <= free:
            remedy = f"open it with contexts=1, which needs {_megabytes(self.total(1))}, or {remedy}"
        count = "1 context needs" if self.contexts == 1 else f"{self.contexts} contexts need"
        return MissingRequirementError(
            f"{path}: {count} {_megabytes(self.total(self.contexts))} on the GPU, "
            f"{_megabytes(free)} are free: {remedy}"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


def _open_gpu() -> Device:
    from mrcnn.runtime.engine.cuda import open_cuda

    return open_cuda()
