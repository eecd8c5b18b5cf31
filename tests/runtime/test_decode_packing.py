"""The decode packer reads memory that is held while it reads."""

import gc
import weakref
from typing import Any

import pytest
import torch

from sparse_compiler.runtime import decode


class Library:
    """Stands for the native packer: notes whether the matrix it reads still exists."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[torch.Tensor]] = []
        self.alive: list[bool] = []

    def sc_decode_pack(self, *_: Any) -> int:
        gc.collect()
        self.alive = [found() is not None for found in self.made]
        return 1


def test_a_transposed_weight_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packing one makes a copy; freed before it was read, it gave wrong numbers."""
    library, whole = Library(), decode._matrix

    def watched(weight: torch.Tensor) -> torch.Tensor:
        matrix = whole(weight)
        library.made.append(weakref.ref(matrix))
        return matrix

    monkeypatch.setattr(decode, "_matrix", watched)
    packer = object.__new__(decode.DecodePacker)
    object.__setattr__(packer, "library", library)
    packer.pack(torch.randn(8, 6).t(), 0, 0, torch.empty(64, dtype=torch.uint8))
    assert library.alive == [True]
