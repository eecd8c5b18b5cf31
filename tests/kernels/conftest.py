"""`lib`: vector_kernels.cpp built for each vector width, once per session."""

from __future__ import annotations

import ctypes

import pytest
import torch

from tests.kernels.native import WIDTHS, finish_build, start_build


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[int, ctypes.CDLL]:
    folder = tmp_path_factory.mktemp("kernels")
    out = {w: folder / f"kernels{w}.so" for w in WIDTHS}
    builds = [
        start_build("vector_kernels.cpp", out[w], w, "-O2", "-shared", "-fPIC") for w in WIDTHS
    ]
    for build in builds:
        finish_build(build)
    return {w: ctypes.CDLL(str(path)) for w, path in out.items()}


@pytest.fixture(params=WIDTHS, ids=lambda w: f"W{w}")
def lib(request: pytest.FixtureRequest, libraries: dict[int, ctypes.CDLL]) -> ctypes.CDLL:
    return libraries[request.param]
