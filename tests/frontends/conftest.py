"""`install(grouping)` puts segments run by torch in place of the compiler, for one test."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator

import pytest
import torch

from sparse_compiler.backend import last_reports
from tests.frontends.segments import Grouping, Pipeline


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Grouping], Pipeline]]:
    def put(grouping: Grouping) -> Pipeline:
        pipeline = Pipeline(grouping)
        module = types.ModuleType("sparse_compiler.runtime.hosted")
        module.build_segments = pipeline.build_segments  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return pipeline

    torch._dynamo.reset()
    last_reports.clear()
    with torch.no_grad():
        yield put
    torch._dynamo.reset()
