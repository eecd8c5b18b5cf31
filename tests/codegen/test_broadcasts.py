"""Operands of every shape that broadcasts, constant and computed, beside images and beside tokens
whose columns threads may hold: the machine code against the interpreter."""

import itertools
from pathlib import Path

import pytest
import torch

from sparse_compiler.ir.graph import Builder, Range
from sparse_compiler.ir.types import Dim, TensorType, symbol
from sparse_compiler.ops.attention import Attention
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.norm import LayerNorm
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.reduce import Reduce
from sparse_compiler.ops.shape import Permute, Reshape
from tests.codegen.random_graphs import RandomGraph
from tests.codegen.test_native import check

SYMBOLIC = (1, 3, 5)
"""Sizes with which the graphs of a symbolic batch run."""


def images(builder: Builder, batch: Dim) -> tuple[str, dict[str, torch.Tensor]]:
    """A convolution of [B, 3, 5, 6] images: [B, 4, 5, 6]."""
    builder.input("x", TensorType("f32", (batch, 3, 5, 6)))
    builder.param("w", TensorType("f32", (4, 3, 3, 3)))
    op = Conv((1, 1), (1, 1), (1, 1))
    return builder.add(op, ["x", "w"], "y"), {"w": torch.randn(4, 3, 3, 3)}


def tokens(builder: Builder, batch: Dim) -> tuple[str, dict[str, torch.Tensor]]:
    """An attention of [B, 40, 6] tokens, long enough for two threads to hold a part each."""
    builder.input("x", TensorType("f32", (batch, 40, 6)))
    builder.param("w", TensorType("f32", (6, 6)))
    x = builder.add(Linear(), ["x", "w"], "q")
    heads = builder.add(Reshape((batch, 40, 2, 3)), [x], "parts")
    heads = builder.add(Permute((0, 2, 1, 3)), [heads], "heads")
    mixed = builder.add(Attention(), [heads] * 3, "mixed")
    mixed = builder.add(Permute((0, 2, 1, 3)), [mixed], "by_token")
    return builder.add(Reshape((batch, 40, 6)), [mixed], "y"), {"w": torch.randn(6, 6)}


def shapes(shape: tuple[Dim, ...]) -> list[tuple[Dim, ...]]:
    """All that broadcast to `shape`, of one dimension or more."""
    found = []
    for rank in range(1, len(shape) + 1):
        kept = shape[len(shape) - rank :]
        found += [
            tuple(d if full else 1 for d, full in zip(kept, choice, strict=True))
            for choice in itertools.product((False, True), repeat=rank)
        ]
    return found


def graph_of(base, batch: Dim, *, constant: bool, chosen: slice) -> RandomGraph:
    """One sum with the base's result for each shape of an operand."""
    builder = Builder()
    y, params = base(builder, batch)
    outputs = []
    for i, shape in enumerate(shapes(builder.types[y].shape)[chosen]):
        if constant and any(not isinstance(d, int) for d in shape):
            continue
        if constant:
            name = builder.param(f"p{i}", TensorType("f32", shape))
            params[name] = torch.randn(shape)
        else:
            given = builder.input(f"i{i}", TensorType("f32", shape))
            name = builder.add(Pointwise("tanh(x0)"), [given], f"t{i}")
        outputs.append(builder.add(Pointwise("add(x0, mul(x1, 2.0))"), [y, name], f"y{i}"))
    symbols = {} if isinstance(batch, int) else {"B": Range(1, 64)}
    graph = builder.build(outputs, (), symbols)
    sizes = SYMBOLIC if symbols else (batch,)
    inputs = tuple(
        tuple(
            torch.randn([size if not isinstance(d, int) else d for d in v.type.shape])
            for v in graph.inputs
        )
        for size in sizes
    )
    return RandomGraph(graph, params, inputs, {"B": 3} if symbols else {})


@pytest.mark.system
@pytest.mark.parametrize("base", [images, tokens])
@pytest.mark.parametrize("constant", [False, True], ids=["computed", "constant"])
def test_some_operands(kernel_cache: Path, base, constant: bool) -> None:
    batch = 3 if constant else symbol("B")
    check(graph_of(base, batch, constant=constant, chosen=slice(None, None, 3)), kernel_cache)


@pytest.mark.slow
@pytest.mark.parametrize("base", [images, tokens])
@pytest.mark.parametrize("constant", [False, True], ids=["computed", "constant"])
@pytest.mark.parametrize("batch", [1, 3, symbol("B")], ids=str)
def test_operands_of_every_shape(kernel_cache: Path, base, batch: Dim, constant: bool) -> None:
    check(graph_of(base, batch, constant=constant, chosen=slice(None)), kernel_cache)


def test_a_result_is_not_written_over_an_operand_of_fewer_columns(kernel_cache: Path) -> None:
    builder = Builder()
    builder.input("x", TensorType("f32", (symbol("B"), 1, 20, 4)))
    rows = builder.add(Reduce("mean", (3,), True), ["x"], "rows")
    whole = builder.add(Reduce("sum", (2,), True), [rows], "whole")
    y = builder.add(Pointwise("add(x0, x1)"), [whole, rows], "y")
    norm = builder.add(LayerNorm(1e-3, False, False), ["x"], "norm")  # its features are planes
    z = builder.add(Pointwise("add(x0, x1)"), [norm, y], "z")
    graph = builder.build([z], (), {"B": Range(1, 64)})
    inputs = tuple((torch.randn(size, 1, 20, 4),) for size in SYMBOLIC)
    check(RandomGraph(graph, {}, inputs, {"B": 3}), kernel_cache)
