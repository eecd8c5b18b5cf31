"""Norms, softmax and elementwise ops on planes: one sweep with a functor before and after."""

from __future__ import annotations

from sparse_compiler.codegen.lowering import always, lowers
from sparse_compiler.codegen.lowering.context import Lowering
from sparse_compiler.codegen.lowering.linear import replace_first
from sparse_compiler.codegen.lowering.one_column import in_rows, norm_row
from sparse_compiler.codegen.operands import (
    Arg,
    Columns,
    Functor,
    Planes,
    Read,
    Samples,
    Scratch,
    Strided,
    Word,
    Written,
)
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.expr import Arg as ExprArg
from sparse_compiler.ir.expr import Expr, parse_expr
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.text import print_node
from sparse_compiler.ir.types import TensorType, as_dim, product
from sparse_compiler.ops.group_norm import GroupNorm
from sparse_compiler.ops.norm import LayerNorm, RmsNorm
from sparse_compiler.ops.softmax import Softmax


def source(planes: Planes) -> Functor:
    """The functor that loads planes as they are."""
    return Functor(ExprArg(0), (Read(planes),), accumulator=False)


def in_planes(graph: Graph, node: Node) -> bool:
    """True for a result in planes, not a row-major one."""
    type_ = node.type
    return isinstance(type_, TensorType) and type_.layout is not None and type_.layout.planes > 0


def _finish(low: Lowering, node: Node, text: str, vectors: int) -> Functor:
    """The affine part `text` over the norm's vectors, inside the op's epilogue."""
    tree, names = _affine(node, text, vectors)
    operands = tuple(low.operand(name, node) for name in names)
    return Functor(tree, operands, accumulator=True)


def _affine(node: Node, text: str, vectors: int) -> tuple[Expr, list[str]]:
    """As `_finish`: the expression, and what it reads as x1, x2, ..."""
    op = node.op
    tree = getattr(op, "tree", ExprArg(0))
    first = 1 + vectors
    names = [*node.inputs[first:], *node.inputs[1:first]]
    extra = len(node.inputs) - first
    affine = parse_expr(text.format(*(f"x{extra + 1 + i}" for i in range(vectors))))
    return replace_first(tree, affine), names


@lowers(LayerNorm, columnwise=always)
def _layer_norm(low: Lowering, node: Node) -> None:
    op = node.op
    if not isinstance(op, LayerNorm):
        raise CodegenError("not a layer norm", node=print_node(node))
    text = "mul(x0, {0})" if op.scale else "x0"
    text = f"add({text}, {{{int(op.scale)}}})" if op.shift else text
    if in_rows(low, node):
        norm_row(low, node, op.eps, *_affine(node, text, op.scale + op.shift), centred=True)
        return
    _norm(low, node, "layer_norm", op.eps, _finish(low, node, text, op.scale + op.shift))


@lowers(RmsNorm, columnwise=always)
def _rms_norm(low: Lowering, node: Node) -> None:
    op = node.op
    if not isinstance(op, RmsNorm):
        raise CodegenError("not an RMS norm", node=print_node(node))
    text = "mul(x0, {0})" if op.scale else "x0"
    if in_rows(low, node):
        norm_row(low, node, op.eps, *_affine(node, text, int(op.scale)), centred=False)
        return
    _norm(low, node, "rms_norm", op.eps, _finish(low, node, text, int(op.scale)))


def _norm(low: Lowering, node: Node, kernel: str, eps: float, finish: Functor) -> None:
    x = low.planes(node.inputs[0], node)
    to = low.result(node, over=node.inputs[:1])
    args = (x.rows, Columns(to.space), float(eps), Word("nullptr"), 0, Written(to), source(x))
    low.emit(kernel, "norm.h", (*args, finish), node.name, tokens=low.tokens(node))


@lowers(GroupNorm)
def _group_norm(low: Lowering, node: Node) -> None:
    op = node.op
    if not isinstance(op, GroupNorm):
        raise CodegenError("not a group norm", node=print_node(node))
    text = "mul(x0, {0})" if op.scale else "x0"
    text = f"add({text}, {{{int(op.scale)}}})" if op.shift else text
    finish = _finish(low, node, text, op.scale + op.shift)
    x = low.planes(node.inputs[0], node)
    to = low.result(node)
    type_ = low.type(node.name)
    samples = Samples(low.per_sample(type_.shape[0], node.name))
    columns = product(type_.shape[2:])
    scratch = Scratch("group_norm_scratch_floats", (samples,))
    args = (x.rows, op.groups, samples, columns, float(op.eps), Written(to), scratch)
    low.emit("group_norm", "group_norm.h", (*args, source(x), finish), node.name)


@lowers(Softmax, columnwise=in_planes)
def _softmax(low: Lowering, node: Node) -> None:
    op, type_ = node.op, low.type(node.name)
    if not isinstance(op, Softmax):
        raise CodegenError("not a softmax", node=print_node(node))
    if in_planes(low.graph, node):
        x = low.planes(node.inputs[0], node)
        to = low.result(node, over=node.inputs[:1])
        kernel = "log_softmax" if op.log else "softmax"
        args: tuple[Arg, ...] = (x.rows, Columns(to.space), Written(to), source(x))
        low.emit(kernel, "softmax.h", args, node.name, tokens=low.tokens(node))
        return
    dim = op.dim % type_.rank
    place, out = low.elements(node.inputs[0]), low.result_elements(node)
    outer: Arg = product(type_.shape[:dim])
    if low.holds_samples(node.name):
        samples = low.per_sample(type_.shape[0], node.name)
        outer = Samples(as_dim(samples * product(type_.shape[1:dim])))
    sizes = (outer, type_.shape[dim], product(type_.shape[dim + 1 :]))
    pointers = (Strided(place, ()), Strided(out, (), written=True))
    low.emit("softmax_along", "scan.h", (*sizes, *pointers, op.log), node.name)
