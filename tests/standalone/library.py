"""A standalone library as Python sees it through ctypes: what `model.h` declares, no more."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool,
)  # fmt: skip
OK, BAD_CALL, BAD_FILE, BAD_CPU, BAD_SIZE, BAD_INDEX, NO_MEMORY = range(7)


class Dim(ctypes.Structure):
    _fields_: ClassVar = [
        ("low", ctypes.c_int64),
        ("high", ctypes.c_int64),
        ("symbol", ctypes.c_char_p),
    ]


class Described(ctypes.Structure):
    _fields_: ClassVar = [
        ("name", ctypes.c_char_p),
        ("dtype", ctypes.c_int),
        ("rank", ctypes.c_int32),
        ("dims", ctypes.POINTER(Dim)),
    ]


class LibraryError(Exception):
    """A status other than SC_OK, and what sc_last_error says."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(status, why)
        self.status, self.why = status, why


class Library:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.c = ctypes.CDLL(str(folder / "model.so"))
        self.c.sc_inputs.restype = self.c.sc_outputs.restype = ctypes.POINTER(Described)
        self.c.sc_last_error.restype = ctypes.c_char_p
        self.c.sc_output_shape.restype = ctypes.POINTER(ctypes.c_int64)
        self.inputs = self._described(self.c.sc_inputs)
        self.outputs = self._described(self.c.sc_outputs)

    def _described(self, function: Any) -> list[Any]:
        count = ctypes.c_int32()
        found = function(ctypes.byref(count))
        return [found[i] for i in range(count.value)]

    def check(self, status: int) -> None:
        if status:
            raise LibraryError(status, self.c.sc_last_error().decode())

    def open(self, threads: int = 2, weights: Path | None = None) -> Handle:
        model = ctypes.c_void_p()
        path = str(weights or self.folder / "model.weights").encode()
        self.check(self.c.sc_create(path, threads, ctypes.byref(model)))
        return Handle(self, model)


class Handle:
    def __init__(self, library: Library, model: ctypes.c_void_p) -> None:
        self.library, self.model = library, model

    def set_sizes(self, shapes: Sequence[Sequence[int]]) -> None:
        arrays = [(ctypes.c_int64 * max(1, len(s)))(*s) for s in shapes]
        pointers = (ctypes.POINTER(ctypes.c_int64) * max(1, len(arrays)))(
            *(ctypes.cast(a, ctypes.POINTER(ctypes.c_int64)) for a in arrays)
        )
        self.library.check(self.library.c.sc_set_sizes(self.model, pointers))

    def shape(self, output: int) -> tuple[int, ...] | None:
        found = self.library.c.sc_output_shape(self.model, output)
        return tuple(found[: self.library.outputs[output].rank]) if found else None

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Results in memory whose ends are watched: a write beyond them fails."""
        shapes = [self.shape(i) for i in range(len(self.library.outputs))]
        guard, memory, results = 64, [], []
        for described, shape in zip(self.library.outputs, shapes, strict=True):
            dtype = DTYPES[described.dtype]
            size = torch.Size(shape or ()).numel() * dtype.itemsize
            memory.append(torch.full((size + 2 * guard,), 0x5A, dtype=torch.uint8))
            results.append(memory[-1][guard : guard + size].view(dtype).view(shape or ()))
        held = [t.contiguous() for t in inputs]
        given = (ctypes.c_void_p * max(1, len(held)))(*(t.data_ptr() for t in held))
        out = (ctypes.c_void_p * len(results))(*(t.data_ptr() for t in results))
        self.library.check(self.library.c.sc_run(self.model, given, out))
        for whole in memory:
            assert (whole[:guard] == 0x5A).all() and (whole[-guard:] == 0x5A).all()
        return results

    def close(self) -> None:
        self.library.c.sc_destroy(self.model)
