"""Pooling and resampling of images in planes."""

from __future__ import annotations

from sparse_compiler.codegen.lowering import lowers
from sparse_compiler.codegen.lowering.context import Lowering
from sparse_compiler.codegen.lowering.linear import three, window_of
from sparse_compiler.codegen.operands import Arg, Samples, Scratch, Struct, Written
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.graph import Node
from sparse_compiler.ir.text import print_node
from sparse_compiler.ops.pool import AdaptivePool, Pool
from sparse_compiler.ops.upsample import Upsample

SAME = Struct("Same", ())


@lowers(Pool)
def _pool(low: Lowering, node: Node) -> None:
    op = node.op
    if not isinstance(op, Pool):
        raise CodegenError("not a pool", node=print_node(node))
    x, to = low.planes(node.inputs[0], node), low.result(node)
    window = window_of(low, node, op.kernel, op.stride, op.padding, op.dilation)
    args: tuple[Arg, ...] = (x.rows, window, x, Written(to))
    args += (Scratch("pool_scratch_floats", (window,)),)
    if op.kind == "avg":
        args += (op.count_include_pad, op.divisor or 0)
    low.emit(f"{op.kind}_pool", "pool.h", (*args, SAME), node.name)


def _geometry(low: Lowering, node: Node, name: str) -> Struct:
    """Samples and sizes before and after."""
    source, result = low.type(node.inputs[0]), low.type(node.name)
    samples = Samples(low.per_sample(source.shape[0], node.inputs[0]))
    return Struct(name, (samples, three(source.shape[2:], 1), three(result.shape[2:], 1)))


@lowers(AdaptivePool)
def _adaptive_pool(low: Lowering, node: Node) -> None:
    op = node.op
    if not isinstance(op, AdaptivePool):
        raise CodegenError("not an adaptive pool", node=print_node(node))
    x, to = low.planes(node.inputs[0], node), low.result(node)
    geometry = _geometry(low, node, "Adaptive")
    scratch = Scratch("adaptive_scratch_floats", (geometry,))
    args = (x.rows, geometry, x, Written(to), scratch, SAME)
    low.emit(f"adaptive_{op.kind}_pool", "pool.h", args, node.name)


@lowers(Upsample)
def _upsample(low: Lowering, node: Node) -> None:
    op = node.op
    if not isinstance(op, Upsample):
        raise CodegenError("not an upsample", node=print_node(node))
    x, to = low.planes(node.inputs[0], node), low.result(node)
    sizes = _geometry(low, node, "Resample")
    # where a size stays, torch copies whatever the scale: always between pixels, else of images
    copied = op.mode == "linear" or (op.mode == "nearest" and len(op.size) == 2)
    scales = tuple(
        0.0 if copied and before == after else float(scale)
        for scale, before, after in zip(
            op.scales or (0.0,) * len(op.size),
            low.type(node.inputs[0]).shape[2:],
            op.size,
            strict=True,
        )
    )
    padded = Struct("", ((0.0,) * (3 - len(scales)) + scales))
    geometry = Struct("Resample", (*sizes.fields, padded))
    linear = op.mode == "linear"
    kind = "bilinear" if linear else "nearest"
    flag = op.align_corners if linear else op.mode == "nearest-exact"
    scratch = Scratch(f"{kind}_scratch_floats", (geometry,))
    args = (x.rows, geometry, flag, x, Written(to), scratch, SAME)
    low.emit(f"upsample_{kind}", "upsample.h", args, node.name)
