"""The memory of the simulated GPU: the host's, with guards around it and an eye on what was freed."""

import ctypes
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 256
FRESH_BYTE = 0xFF  # of memory that nobody wrote yet: floats are NaN, signed integers -1
FREED_BYTE = 0xDD

_GUARD = 256  # bytes before and behind, which nobody may write
_GUARD_BYTE = 0xFD
_QUARANTINE = 64 << 20  # freed bytes that stay, so that who writes to them is found and hurts nobody


@dataclass(frozen=True, eq=False)
class Block:
    """Memory, alive or freed; without a buffer where it is somebody else's."""

    kind: str
    address: int
    size: int
    buffer: Any = None

    def holds(self, address: int) -> bool:
        return self.address <= address < self.address + self.size

    def guards(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return bytes_at(self.address - _GUARD, _GUARD), bytes_at(self.address + self.size, _GUARD)

    def intact(self) -> bool:
        return all((guard == _GUARD_BYTE).all() for guard in self.guards())

    def __str__(self) -> str:
        return f"{self.kind} of {self.size} bytes at {self.address:#x}"


class Memory:
    """Blocks of one device. Not thread-safe.

    Args:
        misuse: is told what was wrong, and raises.
    """

    def __init__(self, misuse: Callable[[str], NoReturn]) -> None:
        self._misuse = misuse
        self._blocks: dict[int, Block] = {}
        self._freed: deque[Block] = deque()

    def used(self, kind: str) -> int:
        """Bytes of a kind that are allocated."""
        return sum(block.size for block in self._blocks.values() if block.kind == kind)

    def allocate(self, kind: str, size: int) -> int:
        """The address of new memory, full of FRESH_BYTE."""
        if size <= 0:
            self._misuse(f"{size} bytes of {kind}")
        buffer = ctypes.create_string_buffer(ALIGNMENT + size + 2 * _GUARD)
        address = -(-(ctypes.addressof(buffer) + _GUARD) // ALIGNMENT) * ALIGNMENT
        block = self._blocks[address] = Block(kind, address, size, buffer)
        bytes_at(address, size)[:] = FRESH_BYTE
        for guard in block.guards():
            guard[:] = _GUARD_BYTE
        return address

    def free(self, address: int, kind: str) -> None:
        """Fills it with FREED_BYTE and keeps it for a while, to see whether somebody writes to it."""
        block = self._take(address, kind)
        if not block.intact():
            self._misuse(f"somebody wrote beside {block}")
        bytes_at(address, block.size)[:] = FREED_BYTE
        self._freed.append(block)
        while sum(freed.size for freed in self._freed) > _QUARANTINE:
            if problem := _written_after_free(self._freed.popleft()):
                self._misuse(problem)

    def adopt(self, address: int, size: int) -> None:
        """Makes somebody else's memory known."""
        if address in self._blocks:
            self._misuse(f"{self._blocks[address]} is known already")
        self._blocks[address] = Block("adopted memory", address, size)

    def forget(self, address: int) -> None:
        """Undoes `adopt`."""
        self._take(address, "adopted memory")

    def block(self, address: int) -> Block | None:
        """The one that begins at an address."""
        return self._blocks.get(address)

    def check(self, address: int, size: int) -> None:
        """Complains unless the bytes lie within one block that is alive."""
        for block in self._blocks.values():
            if block.holds(address):
                if size <= 0 or address + size > block.address + block.size:
                    self._misuse(f"{size} bytes at {address:#x} go past the end of {block}")
                return
        for block in self._freed:
            if block.holds(address):
                self._misuse(f"{block} is used after it was freed")
        self._misuse(f"{address:#x} is no address of an allocation")

    def problems(self) -> list[str]:
        """What was never freed, and what was written to when it should not."""
        own = [block for block in self._blocks.values() if block.buffer is not None]
        problems = [f"{block} was never freed" for block in own]
        problems += [f"somebody wrote beside {block}" for block in own if not block.intact()]
        return problems + [problem for block in self._freed if (problem := _written_after_free(block))]

    def _take(self, address: int, kind: str) -> Block:
        block = self._blocks.get(address)
        if block is None:
            twice = any(freed.address == address for freed in self._freed)
            self._misuse(f"{kind} at {address:#x} " + ("is freed twice" if twice else "was never allocated"))
        if block.kind != kind:
            self._misuse(f"{block} is freed as {kind}")
        return self._blocks.pop(address)


def bytes_at(address: int, size: int) -> NDArray[np.uint8]:
    """The memory itself, not a copy; nobody checks the address."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))


def _written_after_free(block: Block) -> str | None:
    if block.intact() and (bytes_at(block.address, block.size) == FREED_BYTE).all():
        return None
    return f"somebody wrote to {block} after it was freed"
