"""Random graphs of what can run in planes, with torch steps between: for tests of whole pipelines.

A value pool grows by linears, pointwise ops, norms, views, attention and torch calls on earlier
values, so residuals, shared values, dead ends and regions with several entries all occur.
"""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from sparse_compiler.ir.attrs import Slot
from sparse_compiler.ir.graph import Builder, Graph, Range
from sparse_compiler.ir.types import Dim, TensorType, as_dim, evaluate, product, symbol
from sparse_compiler.ops.attention import Attention
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.norm import LayerNorm, RmsNorm
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.shape import Permute, Reshape, Slice
from sparse_compiler.ops.softmax import Softmax
from sparse_compiler.ops.torch_call import TorchCall

WIDTHS = (1, 3, 5, 8, 17, 33)
UNARY = ("gelu(x0)", "relu(x0)", "tanh(add(x0, 0.5))", "mul(sigmoid(x0), x0)", "neg(x0)")
BINARY = ("add(x0, x1)", "mul(x1, tanh(x0))", "maximum(x0, x1)")


@dataclass(frozen=True)
class RandomGraph:
    """graph, and tensors to run it on: two sets of inputs where sizes are symbols."""

    graph: Graph
    params: dict[str, torch.Tensor]
    inputs: tuple[tuple[torch.Tensor, ...], ...]
    hints: dict[str, int]

    def __repr__(self) -> str:
        return f"{self.graph}\nhints = {self.hints}"


class _Grower:
    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.builder = Builder()
        self.params: dict[str, torch.Tensor] = {}
        self.generator = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
        self.count = 0

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def add(self, op: object, inputs: list[str], kind: str, type_: TensorType | None = None) -> str:
        return self.builder.add(op, inputs, self.name(kind), type_=type_)

    def param(self, *shape: int, sparse: bool = False) -> str:
        value = torch.randn(shape, generator=self.generator) / max(1, shape[-1]) ** 0.5
        if sparse:
            kept = self.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
            value *= torch.rand(shape, generator=self.generator) < kept
        name = self.name("w")
        self.params[name] = value
        return self.builder.param(name, TensorType("f32", tuple(shape)))

    def shape(self, name: str) -> tuple[Dim, ...]:
        return self.builder.types[name].shape

    def pick(self) -> str:
        """An earlier floating point value, the newest more often than others."""
        pool = [n for n in self.builder.types if n not in self.params and n != "mask"]
        return pool[-1] if self.draw(st.booleans()) else self.draw(st.sampled_from(pool))

    # --- steps: each returns None where it does not fit -----------------------------------------

    def linear(self, x: str, width: int | None = None) -> str | None:
        shape = self.shape(x)
        if len(shape) < 2 or not isinstance(shape[-1], int) or not shape[-1]:
            return None
        m = width or self.draw(st.sampled_from(WIDTHS))
        weight = self.param(m, shape[-1], sparse=True)
        if self.draw(st.booleans()):
            return self.add(Linear(True), [x, weight, self.param(m)], "linear")
        return self.add(Linear(False), [x, weight], "linear")

    def pointwise(self, x: str) -> str | None:
        return self.add(Pointwise(self.draw(st.sampled_from(UNARY))), [x], "unary")

    def combine(self, x: str) -> str | None:
        same = [n for n, t in self.builder.types.items() if t.shape == self.shape(x)]
        others = [n for n in same if n not in self.params]
        other = self.draw(st.sampled_from(others))
        return self.add(Pointwise(self.draw(st.sampled_from(BINARY))), [x, other], "binary")

    def scale(self, x: str) -> str | None:
        last = self.shape(x)[-1]
        if not isinstance(last, int):
            return None
        vector = self.param(self.draw(st.sampled_from([1, last])))
        return self.add(Pointwise("mul(x0, x1)"), [x, vector], "scaled")

    def norm(self, x: str) -> str | None:
        last = self.shape(x)[-1]
        if not isinstance(last, int) or last < 2:
            return None
        kind = self.draw(st.sampled_from(["layer", "rms", "softmax", "log"]))
        if kind in ("softmax", "log"):
            return self.add(Softmax(kind == "log"), [x], kind)
        scale, shift = self.draw(st.booleans()), self.draw(st.booleans())
        if kind == "rms":
            return self.add(RmsNorm(1e-3, scale), [x, *[self.param(last)] * scale], "rms")
        vectors = [self.param(last) for _ in range(scale + shift)]
        return self.add(LayerNorm(1e-3, scale, shift), [x, *vectors], "norm")

    def permute(self, x: str) -> str | None:
        order = self.draw(st.permutations(range(len(self.shape(x)))))
        return self.add(Permute(tuple(order)), [x], "permute")

    def reshape(self, x: str) -> str | None:
        shape = self.shape(x)
        at = self.draw(st.integers(0, len(shape) - 1))
        if self.draw(st.booleans()) and len(shape) > 1:
            at = min(at, len(shape) - 2)
            new = (*shape[:at], product(shape[at : at + 2]), *shape[at + 2 :])
        else:
            size = shape[at]
            if not isinstance(size, int) or len(shape) > 4:
                return None
            factor = self.draw(st.sampled_from([f for f in range(1, size + 1) if size % f == 0]))
            new = (*shape[:at], factor, size // factor, *shape[at + 1 :])
        return self.add(Reshape(tuple(map(as_dim, new))), [x], "reshape")

    def slice(self, x: str) -> str | None:
        shape = self.shape(x)
        dim = self.draw(st.integers(0, len(shape) - 1))
        size = shape[dim]
        if not isinstance(size, int):
            return None
        start = self.draw(st.integers(0, size - 1))
        return self.add(Slice(dim, start, self.draw(st.integers(start + 1, size))), [x], "slice")

    def torch_step(self, x: str) -> str | None:
        type_ = self.builder.types[x]
        op = TorchCall("aten.flip.default", (Slot(0), (0,)))
        return self.add(op, [x], "flip", TensorType(type_.dtype, type_.shape))

    def attention(self, x: str) -> str | None:
        """Heads made by linears on a [B, S, C] value, with grouped keys and any mask."""
        shape = self.shape(x)
        if len(shape) != 3 or not isinstance(shape[-1], int):
            return None
        heads = self.draw(st.sampled_from([1, 2, 4]))
        groups = self.draw(st.sampled_from([g for g in (1, 2, 4) if heads % g == 0]))
        size, value = self.draw(st.sampled_from([1, 4, 9])), self.draw(st.sampled_from([4, 9]))
        parts = []
        for count, width in ((heads, size), (groups, size), (groups, value)):
            part = self.linear(x, count * width)
            part = self.add(Reshape((*shape[:2], count, width)), [part], "heads")
            parts.append(self.add(Permute((0, 2, 1, 3)), [part], "by_head"))
        masks = [n for n in ("mask",) if n in self.builder.types]
        fits = [n for n in masks if self._fits(n, (shape[0], heads, shape[1], shape[1]))]
        op = Attention(bool(fits), not fits and self.draw(st.booleans()))
        result = self.add(op, [*parts, *fits], "attention")
        result = self.add(Permute((0, 2, 1, 3)), [result], "by_token")
        return self.add(Reshape((*shape[:2], heads * value)), [result], "joined")

    def _fits(self, mask: str, scores: tuple[Dim, ...]) -> bool:
        shape = self.shape(mask)
        return shape[-1] == scores[-1] and all(
            a in (1, b) for a, b in zip(shape, scores, strict=True)
        )


STEPS = (
    "linear",
    "linear",
    "linear",
    "pointwise",
    "pointwise",
    "combine",
    "combine",
    "scale",
    "norm",
    "permute",
    "reshape",
    "slice",
    "torch_step",
    "attention",
    "attention",
)


@st.composite
def random_graphs(draw: st.DrawFn, steps: int = 10) -> RandomGraph:
    """Batch 1 to 40, 1 to 70 tokens, widths that are no multiples of a vector."""
    grower = _Grower(draw)
    symbolic = draw(st.booleans())
    sizes = [
        (
            draw(st.one_of(st.integers(1, 5), st.integers(1, 40))),
            draw(st.one_of(st.integers(1, 7), st.integers(1, 70))),
        )
        for _ in range(2 if symbolic else 1)
    ]
    batch: Dim = symbol("B") if symbolic else sizes[0][0]
    tokens: Dim = symbol("S") if symbolic else sizes[0][1]
    width = draw(st.sampled_from(WIDTHS))
    rank = draw(st.sampled_from([2, 3, 3]))
    x = (batch, tokens, width) if rank == 3 else (batch, width)
    grower.builder.input("x", TensorType("f32", x))
    if rank == 3 and draw(st.booleans()):
        dims = ((1, batch), (1,), (1, tokens), (tokens,))
        mask = tuple(draw(st.sampled_from(options)) for options in dims)
        grower.builder.input("mask", TensorType(draw(st.sampled_from(["f32", "bool"])), mask))
    for _ in range(draw(st.integers(steps // 2, steps))):
        step = draw(st.sampled_from(STEPS))
        getattr(grower, step)(grower.pick())
    outputs = list(dict.fromkeys([grower.pick() for _ in range(draw(st.integers(1, 3)))]))
    ranges = {"B": Range(1, 64), "S": Range(1, 128)}
    used = {s.name for t in grower.builder.types.values() for d in t.shape for s in _symbols(d)}
    graph = grower.builder.build(outputs, (), {n: r for n, r in ranges.items() if n in used})
    samples = [{"B": b, "S": s} for b, s in sizes]
    inputs = tuple(
        tuple(_tensor(v.type, sample, grower.generator) for v in graph.inputs) for sample in samples
    )
    hints = {n: samples[0][n] for n in graph.symbols}
    return RandomGraph(graph, grower.params, inputs, hints)


def _symbols(dim: Dim) -> set[object]:
    return set() if isinstance(dim, int) else dim.free_symbols


def _tensor(type_: TensorType, sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    shape = [evaluate(d, sizes) for d in type_.shape]
    if type_.dtype == "bool":
        mask = torch.rand(shape, generator=generator) < 0.7
        mask[..., 0] = True  # a row that masks everything is NaN or 0, by torch's choice of kernel
        return mask
    return torch.randn(shape, generator=generator)
