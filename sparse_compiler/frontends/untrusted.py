"""A graph from a file of unknown origin: parsed, verified, and held to what a front end makes.

What passes is a graph of our ops and of torch's core operators, which compute and do nothing else,
with names, sizes and memory within bounds. No text of the file reaches the C++ compiler but names,
and those are letters, digits, dots, dashes and dollar signs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import fields

import sympy
import torch

from ..errors import ArtifactError, SparseCompilerError
from ..ir.graph import Graph, Node, attr_symbols
from ..ir.text import parse_graph, print_node
from ..ir.types import TensorType, symbols_in, torch_dtype
from ..ir.verify import tensor_items, verify
from ..ops.torch_call import TorchCall, resolve_target
from ..runtime.artifact import memory_bytes

_NAME = re.compile(r"[\w.$-]+\Z", re.ASCII)
_SYMBOL = re.compile(r"[a-z]+\d+\Z")  # torch's: s0, u3
_UNBACKED = re.compile(r"u\d+\Z")  # a size that an operator finds out
_PLAIN = {"bool": bool, "str": str}
_LARGEST_EXPRESSION = 64  # operations of a size
_ALSO_PURE = frozenset(
    (
        "aten.lstm.input",
        "aten.gru.input",
        "aten.rnn_tanh.input",
        "aten.rnn_relu.input",
        "aten.linear.default",
        "aten.matmul.default",
        "aten.einsum.default",
        "aten.bilinear.default",
        "aten.conv1d.default",
        "aten.conv2d.default",
        "aten.conv3d.default",
        "aten.batch_norm.default",
        "aten.layer_norm.default",
        "aten.group_norm.default",
        "aten.instance_norm.default",
        "aten.scaled_dot_product_attention.default",
        "aten.embedding_bag.default",
        "aten.upsample_bicubic2d.vec",
        "aten.upsample_trilinear3d.vec",
        "aten.grid_sampler.default",
        "aten.pixel_shuffle.default",
        "aten.glu.default",
        "aten.one_hot.default",
        "aten.bincount.default",
        "aten.searchsorted.Tensor",
        "aten.stft.default",
    )
)
"""Beside those that torch tags as core: what the front ends keep whole."""


def parse_untrusted(text: str) -> Graph:
    """The graph. Raises `ArtifactError` on anything that our front ends do not make."""
    try:
        graph = parse_graph(text)
        _check_names(graph)
        _check_nodes(graph)
        verify(graph)
    except ArtifactError:
        raise
    except (
        SparseCompilerError, ArithmeticError, AttributeError, IndexError, KeyError, MemoryError,
        NotImplementedError, RecursionError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        raise ArtifactError("the graph is not valid", why=_first_lines(error)) from error
    return graph


def is_pure(target: str) -> bool:
    """True for an operator of torch that computes its result and does nothing else."""
    if not target.startswith("aten."):
        return False
    operator = resolve_target(target)
    if not isinstance(operator, torch._ops.OpOverload) or operator._schema.is_mutable:
        return False
    return torch.Tag.core in operator.tags or target in _ALSO_PURE


def _check_names(graph: Graph) -> None:
    names = [v.name for v in (*graph.inputs, *graph.params)] + [n.name for n in graph.nodes]
    for name in names:
        if not _NAME.match(name) or len(name) > 500:
            raise ArtifactError(f"{name[:60]!r} is no name of a value")
    for name in graph.symbols:
        if not _SYMBOL.match(name):
            raise ArtifactError(f"{name[:60]!r} is no name of a size")
    if graph.objects:
        raise ArtifactError(f"the graph needs the object {min(graph.objects)}, which has no text")


def _check_nodes(graph: Graph) -> None:
    room, inputs = memory_bytes(), {value.name for value in graph.inputs}
    for name, type_ in _tensor_types(graph):
        if type_.layout is not None or type_.format != "dense":
            raise ArtifactError(f"%{name} has a layout or format, which only the compiler gives")
        for dim in type_.shape:
            if isinstance(dim, sympy.Expr) and dim.count_ops() > _LARGEST_EXPRESSION:
                raise ArtifactError(f"a size of %{name} is too long an expression")
            if isinstance(dim, int) and dim < 0:
                raise ArtifactError(f"a size of %{name} is negative")
        sizes = [dim for dim in type_.shape if isinstance(dim, int)]
        if math.prod(sizes) * torch_dtype(type_.dtype).itemsize > room:
            raise ArtifactError(f"%{name} is larger than the memory of this machine")
        unknown = symbols_in(type_) - set(graph.symbols)
        if name in inputs and unknown:
            raise ArtifactError(f"%{name} uses the size {min(unknown)}, which has no range")
    for node in graph.nodes:
        _check_call(node)
        _check_attributes(node, frozenset(graph.symbols))


def _tensor_types(graph: Graph) -> Iterator[tuple[str, TensorType]]:
    for value in (*graph.inputs, *graph.params):
        yield value.name, value.type
    for node in graph.nodes:
        for type_ in tensor_items(node.type):
            yield node.name, type_


def _check_call(node: Node) -> None:
    if isinstance(node.op, TorchCall) and not is_pure(node.op.target):
        raise ArtifactError(
            f"the graph calls {node.op.target}",
            node=print_node(node),
            why="only torch operators that are known to do nothing but compute may be called",
            fix="compile the model in process with sc.compile",
        )


def _check_attributes(node: Node, known: frozenset[str]) -> None:
    """Sizes among the attributes are the graph's or torch's; flags and words are just that."""
    for field in fields(node.op):
        value = getattr(node.op, field.name)
        if type(value) is not _PLAIN.get(str(field.type), type(value)):
            raise ArtifactError(f"{field.name} is no {field.type}", node=print_node(node))
    unknown = {n for n in attr_symbols(node.op) - known if not _UNBACKED.match(n)}
    if unknown:
        raise ArtifactError(f"the size {min(unknown)} has no range", node=print_node(node))


def _first_lines(error: Exception) -> str:
    return "; ".join(str(error).strip().split("\n")[:3]) or type(error).__name__
