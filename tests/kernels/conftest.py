"""`lib`: vector_kernels.cpp built for each vector width, once per session."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from tests.kernels.native import EACH_WIDTH, Libraries


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def vector_libraries(kernel_cache: Path) -> dict[int, ctypes.CDLL]:
    return Libraries("vector_kernels.cpp", kernel_cache)


@pytest.fixture(params=EACH_WIDTH, ids=lambda w: f"W{w}")
def lib(request: pytest.FixtureRequest, vector_libraries: dict[int, ctypes.CDLL]) -> ctypes.CDLL:
    return vector_libraries[request.param]
