"""How a call enters a segment's library: memory of its own, and one buffer of addresses.

Calls in several threads each hold a frame, and give it back. Allocation of results and every
check that can be made once per shape is left out of the call, which Python's own cost dominates.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ..errors import InputError
from .packing import aligned_bytes

_CPU = torch.device("cpu")

Maker = Callable[[], torch.Tensor]
"""Makes one result, uninitialised."""


def maker_of(shape: tuple[int, ...], dtype: torch.dtype) -> Maker:
    """On the CPU whatever the default device is; sizes by position cost half of a tuple's time."""
    sizes: tuple[Any, ...] = shape or ((),)
    return partial(torch.empty, *sizes, dtype=dtype, device=_CPU)


class Frame:
    """What one call at a time uses.

    numbers: addresses of inputs and results, then a place for each kind of index that is checked,
    which holds -1, or the number of the first that lies out of range. memory: address of `floats`
    floats.
    """

    __slots__ = ("_held", "errors", "floats", "inputs", "memory", "numbers", "outputs", "pointers")

    def __init__(self, inputs: int, outputs: int, checked: int) -> None:
        self.pointers = inputs + outputs
        self.numbers = (ctypes.c_int64 * (self.pointers + max(1, checked)))()
        self.inputs = ctypes.addressof(self.numbers)
        self.outputs = self.inputs + 8 * inputs
        self.errors = self.outputs + 8 * outputs
        self.floats = -1
        self.memory = 0
        self.forget_errors()

    def grow(self, floats: int) -> None:
        """Makes room for that many floats; what was there is lost."""
        self._held = None  # first, so that both never exist together
        self._held = aligned_bytes(4 * floats)
        self.memory, self.floats = self._held.data_ptr(), floats

    def forget_errors(self) -> None:
        """Before the first call, and after one that found an index out of range."""
        for i in range(self.pointers, len(self.numbers)):
            self.numbers[i] = -1


class Frames:
    """The frames of a segment with so many inputs, outputs and kinds of checked indices."""

    def __init__(self, inputs: int, outputs: int, checked: int) -> None:
        self._sizes = inputs, outputs, checked
        self._fill = struct.Struct(f"{inputs + outputs}P").pack_into
        self._free: list[Frame] = []

    def take(
        self, floats: int, inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor]
    ) -> Frame:
        """A frame that no other call is using, with these tensors' addresses.

        Raises `InputError` on a tensor without memory.
        """
        addresses = [*map(_ADDRESS, inputs), *map(_ADDRESS, outputs)]
        if not all(addresses):
            _check_memory((*inputs, *outputs))
        try:
            frame = self._free.pop()
        except IndexError:  # none left; asking first would race with other threads
            frame = Frame(*self._sizes)
        if frame.floats < floats:
            frame.grow(floats)
        self._fill(frame.numbers, 0, *addresses)
        return frame

    def give_back(self, frame: Frame) -> None:
        """For a later call."""
        self._free.append(frame)


_ADDRESS = torch.Tensor.data_ptr


def _check_memory(tensors: Sequence[torch.Tensor]) -> None:
    for tensor in tensors:
        if tensor.numel() and not tensor.data_ptr():
            raise InputError(
                f"a {type(tensor).__name__} of shape {tuple(tensor.shape)} has no memory",
                why="native kernels compute with numbers, not with the shapes of tensors alone",
                fix="trace the model itself rather than the compiled one",
            )
