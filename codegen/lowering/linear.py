"""Linear layers and convolutions: a packed weight on planes, with an epilogue before the store."""

from __future__ import annotations

from dataclasses import replace

from sparse_compiler.codegen.lowering import always, lowers
from sparse_compiler.codegen.lowering.context import Lowering
from sparse_compiler.codegen.lowering.dense_conv import (
    POINTS,
    as_stem,
    by_winograd,
    products_weight,
)
from sparse_compiler.codegen.lowering.one_column import in_rows, linear_row
from sparse_compiler.codegen.operands import (
    Arg,
    Columns,
    Functor,
    Operand,
    Planes,
    Read,
    Samples,
    Scratch,
    Struct,
    Vector,
    Weight,
    Written,
)
from sparse_compiler.errors import CodegenError
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.ir.expr import Arg as ExprArg
from sparse_compiler.ir.expr import Call as ExprCall
from sparse_compiler.ir.expr import Expr, addends_of
from sparse_compiler.ir.graph import Node
from sparse_compiler.ir.text import print_node
from sparse_compiler.ir.types import Dim, as_dim, product
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.epilogue import TakesEpilogue
from sparse_compiler.ops.linear import Linear


@lowers(Linear, columnwise=always)
def _linear(low: Lowering, node: Node) -> None:
    if in_rows(low, node):
        linear_row(low, node, *_biased(node))
        return
    functor = biased_epilogue(low, node)
    weight = low.type(node.inputs[1])
    index = Weight(low.weight(node.inputs[1], "packed"))
    x = low.planes(node.inputs[0], node)
    to, functor = _sums_onto(low, node, functor, x)
    scratch = Scratch("linear_scratch_floats", (index,))
    args = (index, x, Written(to), Columns(to.space), scratch, functor)
    columns = low.per_sample(product(low.type(node.name).shape[:-1]), node.name)
    flops = as_dim(2 * weight.shape[0] * weight.shape[1] * columns)
    kernel = f"linear_{FORMATS[weight.format].kernel}"
    low.emit(kernel, "linear.h", args, node.name, tokens=low.tokens(node), flops=flops)


@lowers(Conv)
def _conv(low: Lowering, node: Node) -> None:
    op, weight = node.op, low.type(node.inputs[1])
    if not isinstance(op, Conv):
        raise CodegenError("not a convolution", node=print_node(node))
    functor = biased_epilogue(low, node)
    x = low.planes(node.inputs[0], node)
    if op.keeps_places(weight) and not is_depthwise(op, weight.shape[1]):
        to, functor = _sums_onto(low, node, functor, x)
    else:
        to = low.result(node)
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
        name, sizes = depthwise_kernel(op, tuple(kernel))
        scratch = Scratch(f"{name}_scratch_floats", (window,))
        args: tuple[Arg, ...] = (index, outputs, multiplier, window, x, Written(to), scratch)
        low.emit(f"{name}{sizes}", f"{name}.h", (*args, functor), node.name, flops=flops)
        return
    if by_winograd(op, weight, _sizes(low, node.name)):
        type_ = products_weight(weight)
        products = low.weight(node.inputs[1], "winograd", groups=POINTS, taps=1, type_=type_)
        packed = Weight(products)
        scratch = Scratch("winograd_scratch_floats", (packed, window))
        args = (packed, window, x, Written(to), scratch, functor)
        low.emit("conv_winograd", "winograd.h", args, node.name, flops=flops)
        return
    image = op.plain_image(weight, low.type(node.name))
    packed = Weight(
        low.weight(node.inputs[1], "packed", groups=op.groups, taps=int(taps), image=image)
    )
    if as_stem(op, weight, _sizes(low, node.name)):
        scratch = Scratch("stem_scratch_floats", (packed, window))
        args = (packed, window, x, Written(to), scratch, functor)
        low.emit("conv_stem", "stem.h", args, node.name, flops=flops)
        return
    scratch = Scratch("conv_scratch_floats", (packed, window))
    args = (packed, window, x, Written(to), scratch, functor)
    low.emit(f"conv_{FORMATS[weight.format].kernel}", "conv.h", args, node.name, flops=flops)


def _sums_onto(low: Lowering, node: Node, functor: Functor, x: Planes) -> tuple[Planes, Functor]:
    """Where a linear's result goes, and its epilogue: over what is added to the sums (a residual),
    if nothing reads that afterwards. Kernels that keep sums in y between tiles then begin there."""
    _, names = _biased(node)
    planes = [_planes_of(operand) for operand in functor.operands]
    buffers = [place.buffer for place in planes if place] + [x.buffer]
    for index in sorted(addends_of(functor.expr, 0)):
        place = planes[index - 1]
        if not place or functor.operands[index - 1] != Read(place):
            continue  # a bias, or broadcast
        if buffers.count(place.buffer) == 1:
            to = low.result(node, over=(names[index - 1],))
            return to, replace(functor, onto=index) if to == place else functor
    return low.result(node), functor


def _planes_of(operand: Operand) -> Planes | None:
    """Where an operand lies, if in planes of the segment."""
    planes = operand.planes if isinstance(operand, Read) else None
    return planes if isinstance(planes, Planes) else None


def is_depthwise(op: Conv, channels: Dim) -> bool:
    """True where each output channel reads one input channel."""
    return channels == 1 and op.groups > 1


def depthwise_kernel(op: Conv, kernel: tuple[Dim, ...]) -> tuple[str, str]:
    """The kernel for a depthwise convolution, and its template arguments."""
    plain = not op.transposed and set(op.dilation) == {1} and len(set(op.stride)) == 1
    if plain and len(kernel) == 2 and kernel[0] in (3, 5, 7) and op.stride[0] in (1, 2):
        return "depthwise_direct", f"<{kernel[0]}, {op.stride[0]}>"
    return "depthwise", ""


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
    expr, names = _biased(node)
    return Functor(expr, tuple(low.operand(name, node) for name in names), accumulator=True)


def _biased(node: Node) -> tuple[Expr, list[str]]:
    """The epilogue with the bias in it, of the sums x0, and the values that it reads as x1, ..."""
    op = node.op
    if not isinstance(op, TakesEpilogue) or not isinstance(op, Linear | Conv):
        raise CodegenError("no epilogue to lower", node=print_node(node))
    names = list(node.inputs[op.operands :])
    if not op.bias:
        return op.tree, names
    names.append(node.inputs[2])
    first = ExprCall("add", (ExprArg(0), ExprArg(len(names))))
    return replace_first(op.tree, first), names


def replace_first(expr: Expr, value: Expr) -> Expr:
    """`expr` with x0 replaced and every other input kept."""
    if isinstance(expr, ExprArg):
        return value if expr.index == 0 else expr
    if isinstance(expr, ExprCall):
        return ExprCall(expr.fn, tuple(replace_first(a, value) for a in expr.args))
    return expr
