"""Single layers as models: `linear-3072x768`, `conv-64x64x3@56`, and MiniLM's real weights.

linear-OUTxIN, conv-OUTxINxK@SIZE[sSTRIDE][gGROUPS], minilm:MODULE.PATH of a linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from .case import Case

_LINEAR = re.compile(r"linear-(\d+)x(\d+)")
_CONV = re.compile(r"conv-(\d+)x(\d+)x(\d+)@(\d+)(?:s(\d+))?(?:g(\d+))?")
MINILM_SHAPES = {
    "attention.self.query": (384, 384),
    "attention.self.key": (384, 384),
    "attention.self.value": (384, 384),
    "attention.output.dense": (384, 384),
    "intermediate.dense": (1536, 384),
    "output.dense": (384, 1536),
}


@dataclass(frozen=True)
class Layer:
    """A linear (kernel 0) or a 2-D convolution with same padding; source: a path in MiniLM."""

    out: int
    into: int
    kernel: int = 0
    size: int = 0
    stride: int = 1
    groups: int = 1
    source: str = ""

    @property
    def is_convolution(self) -> bool:
        """Whether images go in, not tokens."""
        return self.kernel > 0

    def build(self, weights: Callable[[str], torch.Tensor] | None) -> nn.Module:
        """The layer alone in a Sequential; `weights(source)` replaces the random ones."""
        if not self.is_convolution:
            linear = nn.Linear(self.into, self.out)
            if weights is not None:
                linear.weight = nn.Parameter(weights(self.source))
            return nn.Sequential(linear)
        conv = nn.Conv2d(
            self.into,
            self.out,
            self.kernel,
            stride=self.stride,
            padding=self.kernel // 2,
            groups=self.groups,
        )
        return nn.Sequential(conv)


def parse_layer(name: str) -> Layer | None:
    """The layer that a model name speaks of, or None where it is no layer's name."""
    if found := _LINEAR.fullmatch(name):
        return Layer(int(found[1]), int(found[2]))
    if found := _CONV.fullmatch(name):
        out, into, kernel, size, stride, groups = (int(v or 1) for v in found.groups())
        return Layer(out, into, kernel, size, stride, groups)
    path = name.removeprefix("minilm:")
    found = re.fullmatch(r"encoder\.layer\.[0-5]\.(.+)", path)
    if path != name and found and found[1] in MINILM_SHAPES:
        out, into = MINILM_SHAPES[found[1]]
        return Layer(out, into, source=path)
    return None


def layer_inputs(layer: Layer, case: Case) -> dict[str, torch.Tensor]:
    """[batch, tokens, IN] or [batch, IN, SIZE, SIZE], standard normal, seeded."""
    generator = torch.Generator().manual_seed(case.seed + 1)
    if layer.is_convolution:
        shape: tuple[int, ...] = (case.batch, layer.into, layer.size, layer.size)
    else:
        shape = (case.batch, case.tokens or 1, layer.into)
    return {"x": torch.randn(shape, generator=generator)}
