"""torch.compile of whole models, at three batch sizes, with segments that torch itself runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from sparse_compiler.backend import sparse_compiler
from tests.frontends.segments import Grouping, assert_equal, each_linear, long_runs
from tests.models import models

MODELS = models()


def batched(args: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """The first sample of every tensor, `batch` times."""
    return tuple(
        a[:1].repeat(batch, *[1] * (a.dim() - 1)) if isinstance(a, torch.Tensor) else a
        for a in args
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit", "resnet"])
@pytest.mark.parametrize("grouping", [each_linear, long_runs])
def test_three_batch_sizes(install: Any, name: str, grouping: Grouping) -> None:
    pipeline = install(grouping)
    model, args, kwargs = MODELS[name]()
    compiled = torch.compile(model, backend=sparse_compiler, dynamic=True)
    for batch in (1, 7, 3):
        given = batched(args, batch)
        assert_equal(compiled(*given, **kwargs), model(*given, **kwargs))
    assert len(pipeline.graphs) == 2, "batch 1 is its own case, as it is for Inductor"


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(50, 16), nn.Linear(32, 5)
        self.lstm = nn.LSTM(16, 16, batch_first=True, bidirectional=True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.lstm(self.embed(ids))[0])


def test_lstm_tagger(install: Any) -> None:
    pipeline = install(each_linear)
    model = Tagger().eval()
    compiled = torch.compile(model, backend=sparse_compiler)
    ids = torch.randint(0, 50, (2, 6))
    assert_equal(compiled(ids), model(ids))  # Dynamo leaves a module with an LSTM to eager
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        assert_equal(compiled(ids), model(ids))
    assert sum(segment.calls for segment in pipeline.built) >= 1
