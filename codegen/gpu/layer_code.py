"""The code of a model's sparse layers for a GPU that is elsewhere: which kernels, compiled.

A layer whose format has a kernel gets the tile that the cost model puts first; the others, dense
ones among them, are left to cuBLAS and cuDNN.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from sparse_compiler.codegen.gpu.layer_kernels import Family, kernel, ranked, source
from sparse_compiler.codegen.gpu.prebuilt import Prebuilt, prebuild
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.formats.gpu_arch import Arch
from sparse_compiler.formats.gpu_cost import Tile
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.pack import is_packed
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.choose_formats import layer_shape, stored_shape
from sparse_compiler.passes.provenance import weight_facts

_HALVES = {torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class LayerCode:
    """A sparse layer and its kernel. binary: the key under which triton looks for it."""

    layer: str
    format: str
    family: Family
    tile: Tile
    predicted_ns: float
    compiled: Prebuilt

    def json(self) -> dict[str, Any]:
        """As the manifest of a saved model has it."""
        return {
            "layer": self.layer,
            "format": self.format,
            "kernel": self.family.function,
            "columns": self.tile.columns,
            "warps": self.tile.warps,
            "predicted_us": round(self.predicted_ns / 1e3, 3),
            "binary": self.compiled.key,
        }


def dtype_of(params: Mapping[str, torch.Tensor], weights: str) -> str:
    """How products are computed: as the option `weights` says, else as the parameters are.

    Raises `UnsupportedError` for fp64, which no kernel computes in.
    """
    dtypes = {p.dtype for p in params.values() if p.is_floating_point() and p.ndim >= 2}
    if torch.float64 in dtypes:
        raise UnsupportedError(
            "a model of fp64 cannot be compiled for a GPU",
            why="its kernels compute in fp32, tf32, fp16 and bf16",
            fix="model.float()",
        )
    if weights != "fp32":
        return weights
    return _HALVES.get(next(iter(dtypes)), "fp32") if len(dtypes) == 1 else "fp32"


def code_of(graph: Graph, context: Context, arch: Arch, dtype: str) -> Iterator[LayerCode]:
    """The kernel of every layer that has one. Raises as `static.compile_kernel`."""
    for node in graph.nodes:
        place = node.op.weight_input
        if place is None or not is_packed(graph, node.inputs[place]):
            continue
        name = graph.tensor(node.inputs[place]).format
        facts = weight_facts(graph, node.inputs[place], context.facts)
        shape = stored_shape(layer_shape(graph, node, context), FORMATS[name], facts)
        window = _window(graph, node)
        if window == _NONE or name == "dense":
            continue
        found = ranked(name, shape, window, dtype, arch)
        if found:
            ns, family, tile = found[0]
            compiled = prebuild(kernel(family, dtype, tile), arch)
            yield LayerCode(node.name, name, family, tile, ns, compiled)


_NONE = (0, 0)
"""A convolution that no kernel takes."""


def _window(graph: Graph, node: Node) -> tuple[int, int] | None:
    """Side and stride of a convolution; None for a product of matrices."""
    if not isinstance(node.op, Conv):
        return None
    sides = graph.tensor(node.inputs[node.op.weight_input or 0]).shape[2:]
    side, stride = sides[0], node.op.stride[0]
    plain = node.op.groups == 1 and set(node.op.dilation) == {1} and not node.op.transposed
    even = set(sides) == {side} and set(node.op.stride) == {stride} and len(sides) == 2
    if not plain or not even or not isinstance(side, int):
        return _NONE
    if set(node.op.padding) != {side // 2}:
        return _NONE
    return None if (side, stride) == (1, 1) else (side, stride)


def sources(found: list[LayerCode]) -> dict[str, bytes]:
    """The Triton source of the kernels in use, by file name."""
    families = {one.family.function: one.family for one in found}
    return {f"{name}.py": source(family).encode() for name, family in sorted(families.items())}
