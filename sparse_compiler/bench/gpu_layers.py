"""The layers of BERT-base and ResNet-50 as matrices, and weights pruned at random for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import torch

from sparse_compiler.analysis.sparsity import SparsityFacts, sparsity_facts
from sparse_compiler.errors import OptionError
from sparse_compiler.formats.cost import ConvShape, LinearShape, Shape
from sparse_compiler.options import nearest

_STAGES = ((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7))
"""Of ResNet-50: width of the 3 x 3 convolutions, blocks, side of the image (arXiv:1512.03385)."""
PATTERNS = ("unstructured", "16x16", "32x32")
SEED = 0


@dataclass(frozen=True)
class GpuLayer:
    """A layer that occurs `count` times. channels: in; kernel: 0 for a linear; columns: of the
    result for one sample (tokens or pixels)."""

    name: str
    rows: int
    channels: int
    columns: int
    count: int
    kernel: int = 0
    strided: bool = False

    @property
    def depth(self) -> int:
        """Columns of the weight as a matrix."""
        return self.channels * max(1, self.kernel) ** 2

    @property
    def window(self) -> tuple[int, int] | None:
        """Side and stride of a convolution; None for what is a product of matrices."""
        stride = 2 if self.strided else 1
        return (self.kernel, stride) if self.kernel > 1 or self.strided else None

    def shape(self, batch: int, nnz: int, stored: int | None = None) -> Shape:
        """What costs are asked for; a 1 x 1 convolution of stride 1 is a linear."""
        n = batch * self.columns
        if self.window is not None:
            return ConvShape(
                *(self.rows, self.depth, nnz, n, self.kernel**2),
                strided=self.strided,
                stored=stored,
            )
        return LinearShape(self.rows, self.depth, nnz, n, stored)


def bert_layers(tokens: int) -> tuple[GpuLayer, ...]:
    """The 72 linears of BERT-base's encoder."""
    return (
        GpuLayer("query, key, value, output 768x768", 768, 768, tokens, 48),
        GpuLayer("intermediate 3072x768", 3072, 768, tokens, 12),
        GpuLayer("output 768x3072", 768, 3072, tokens, 12),
    )


def resnet50_layers() -> tuple[GpuLayer, ...]:
    """The 53 convolutions of ResNet-50 at 224 x 224 pixels, and its linear."""
    counts = Counter(_resnet50())
    found = []
    for (out, into, kernel, side, strided), count in counts.items():
        name = f"conv {out}x{into}x{kernel}x{kernel} at {side}x{side}" + " s2" * strided
        found.append(GpuLayer(name, out, into, side**2, count, kernel, strided))
    return (*found, GpuLayer("linear 1000x2048", 1000, 2048, 1, 1))


def _resnet50() -> Iterator[tuple[int, int, int, int, bool]]:
    """(out, in, kernel, side of the result, strided) of each convolution."""
    yield 64, 3, 7, 112, True
    into = 64
    for stage, (width, blocks, side) in enumerate(_STAGES):
        for block in range(blocks):
            halves = stage > 0 and block == 0
            yield width, into, 1, side * (2 if halves else 1), False
            yield width, width, 3, side, halves
            yield 4 * width, width, 1, side, False
            if block == 0:
                yield 4 * width, into, 1, side, halves
            into = 4 * width


MODELS = {
    "bert": bert_layers(128),
    "bert-one-token": bert_layers(1),
    "resnet50": resnet50_layers(),
}
"""BERT at 128 tokens a sample; its shapes with one token, as a decoder of that size has them."""


def layers_of(model: str) -> tuple[GpuLayer, ...]:
    """Raises `OptionError` for a model whose layers are not listed."""
    if model not in MODELS:
        raise OptionError(
            f"the static table knows no model {model!r}", fix=nearest(model, tuple(MODELS))
        )
    return MODELS[model]


@cache
def pruned_facts(rows: int, columns: int, sparsity: float, pattern: str) -> SparsityFacts:
    """Facts of a weight with this share of zeros, at random places; the same every time.

    pattern: "unstructured", or the size of the blocks that are zero or not as a whole.
    """
    high, wide = (1, 1) if pattern == "unstructured" else map(int, pattern.split("x"))
    generator = torch.Generator().manual_seed(SEED)
    down, across = -(-rows // high), -(-columns // wide)
    order = torch.rand(down * across, generator=generator).argsort()
    kept = torch.zeros(down * across)
    kept[order[: max(1, round(down * across * (1 - sparsity)))]] = 1.0
    blocks = kept.view(down, across)
    mask = blocks.repeat_interleave(high, 0).repeat_interleave(wide, 1)
    return sparsity_facts(mask[:rows, :columns].contiguous())
