"""Linear layers and convolutions: a packed weight on planes, with an epilogue before the store."""

from __future__ import annotations

from sparse_compiler.codegen.lowering import always, lowers
from sparse_compiler.codegen.lowering.context import Lowering
from sparse_compiler.codegen.operands import (
    Arg,
    Columns,
    Functor,
    Read,
    Samples,
    Scratch,
    Struct,
    Vector,
    Weight,
    Written,
)
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.expr import Arg as ExprArg
from sparse_compiler.ir.expr import Call as ExprCall
from sparse_compiler.ir.expr import Expr
from sparse_compiler.ir.graph import Node
from sparse_compiler.ir.text import print_node
from sparse_compiler.ir.types import Dim, as_dim, product
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.epilogue import TakesEpilogue
from sparse_compiler.ops.linear import Linear


@lowers(Linear, columnwise=always)
def _linear(low: Lowering, node: Node) -> None:
    functor = biased_epilogue(low, node)
    weight = low.type(node.inputs[1])
    index = Weight(low.weight(node.inputs[1], "packed"))
    x, to = low.planes(node.inputs[0], node), low.result(node)
    scratch = Scratch("linear_scratch_floats", (index,))
    args = (index, x, Written(to), Columns(to.space), scratch, functor)
    columns = low.per_sample(product(low.type(node.name).shape[:-1]), node.name)
    flops = as_dim(2 * weight.shape[0] * weight.shape[1] * columns)
    kernel = f"linear_{weight.format}"
    low.emit(kernel, "linear.h", args, node.name, tokens=low.tokens(node), flops=flops)


@lowers(Conv)
def _conv(low: Lowering, node: Node) -> None:
    op, weight = node.op, low.type(node.inputs[1])
    if not isinstance(op, Conv):
        raise CodegenError("not a convolution", node=print_node(node))
    functor = biased_epilogue(low, node)
    x, to = low.planes(node.inputs[0], node), low.result(node)
    window = window_of(
        low, node, weight.shape[2:], op.stride, op.padding, op.dilation, transposed=op.transposed
    )
    outputs, channels, *kernel = weight.shape
    taps = product(kernel)
    columns = low.per_sample(
        product((low.type(node.name).shape[0], *_sizes(low, node.name))), node.name
    )
    flops = as_dim(2 * outputs * channels * taps * columns)
    if is_depthwise(op, channels):
        index = Vector(low.weight(node.inputs[1], "raw"))
        multiplier = as_dim(outputs // op.groups)
        scratch = Scratch("depthwise_scratch_floats", (window,))
        args: tuple[Arg, ...] = (index, outputs, multiplier, window, x, Written(to), scratch)
        low.emit("depthwise", "depthwise.h", (*args, functor), node.name, flops=flops)
        return
    packed = Weight(low.weight(node.inputs[1], "packed", groups=op.groups, taps=int(taps)))
    scratch = Scratch("conv_scratch_floats", (packed, window))
    args = (packed, window, x, Written(to), scratch, functor)
    low.emit(f"conv_{weight.format}", "conv.h", args, node.name, flops=flops)


def is_depthwise(op: Conv, channels: Dim) -> bool:
    """True where each output channel reads one input channel."""
    return channels == 1 and op.groups > 1


def _sizes(low: Lowering, name: str) -> tuple[Dim, ...]:
    return low.type(name).shape[2:]


def window_of(
    low: Lowering,
    node: Node,
    kernel: tuple[Dim, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    *,
    transposed: bool = False,
) -> Struct:
    """The geometry of a sliding window from the node's first input to its result."""
    source, result = low.type(node.inputs[0]), low.type(node.name)
    samples = Samples(low.per_sample(source.shape[0], node.inputs[0]))
    return Struct(
        "Window",
        (
            samples,
            three(source.shape[2:], 1),
            three(result.shape[2:], 1),
            three(kernel, 1),
            three(stride, 1),
            three(dilation, 1),
            three(padding, 0),
            transposed,
        ),
    )


def three(values: tuple[Dim, ...], fill: int) -> Struct:
    """The sizes of up to three dimensions, absent leading ones filled."""
    return Struct("", ((fill,) * (3 - len(values)) + tuple(values)))


def epilogue(low: Lowering, node: Node, expr: Expr, names: tuple[str, ...]) -> Functor:
    """x0 is what the kernel computed; names: what the expression reads as x1, x2, ..."""
    operands = tuple(low.operand(name, node) for name in names)
    return Functor(expr, operands, accumulator=True)


def biased_epilogue(low: Lowering, node: Node) -> Functor:
    """The epilogue of a linear or convolution, its bias added first."""
    op = node.op
    if not isinstance(op, TakesEpilogue) or not isinstance(op, Linear | Conv):
        raise CodegenError("no epilogue to lower", node=print_node(node))
    operands: list[Read | Vector] = [low.operand(n, node) for n in node.inputs[op.operands :]]
    expr = op.tree
    if op.bias:
        operands.append(low.operand(node.inputs[2], node))
        expr = replace_first(expr, ExprCall("add", (ExprArg(0), ExprArg(len(operands)))))
    return Functor(expr, tuple(operands), accumulator=True)


def replace_first(expr: Expr, value: Expr) -> Expr:
    """`expr` with x0 replaced and every other input kept."""
    if isinstance(expr, ExprArg):
        return value if expr.index == 0 else expr
    if isinstance(expr, ExprCall):
        return ExprCall(expr.fn, tuple(replace_first(a, value) for a in expr.args))
    return expr
