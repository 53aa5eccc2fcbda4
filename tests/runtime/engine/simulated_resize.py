"""The resize on the simulated GPU: the CPU's function, in the order of a stream."""

from typing import Any

from mrcnn.plugins.interface import ResizeParams
from mrcnn.plugins.kernels import Kernels, installed_kernels
from tests.runtime.engine.simulated_device import SimulatedDevice

_ITEM_BYTES = {0: 4, 2: 1}  # float32, uint8


def simulated_resize(device: SimulatedDevice, *, fault: int = 0, kernels: Kernels | None = None) -> Any:
    """What stands in for `Kernels.resize_cuda`; `fault` is added to the first byte of what it gives."""
    cpu = (kernels or installed_kernels()).resize_cpu

    def resize(params: ResizeParams, source: int, output: int, stream: int) -> None:
        kept = ResizeParams.from_buffer_copy(params)

        def kernel() -> None:
            cpu(kept, source, output)
            first = device.view(output, (1,), "uint8")
            first += fault

        read = (params.source_height - 1) * params.source_pitch + 3 * params.source_width
        written = params.padded_height * params.padded_width * 3 * _ITEM_BYTES[params.output_type]
        device.run_on_stream(stream, kernel, touches=[(source, read), (output, written)])

    return resize
