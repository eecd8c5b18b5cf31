"""Elementwise ATen operators -> expressions of `pointwise`, with torch's promotion written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..ir.types import torch_dtype
from ..ops.scalar import CASTS
from .aten_shape import reshaped
from .importer import Importer, Result
from .rules import FLOATS, at_home, common_dtype, overload, pointwise, rule

# Of one tensor. The result has the dtype of the input where that is a float, else torch's own
# result says; then the input is converted to it first.
_UNARY = {
    "relu": "relu(x0)",
    "relu6": "clamp(x0, 0.0, 6.0)",
    "silu": "silu(x0)",
    "sigmoid": "sigmoid(x0)",
    "log_sigmoid": "neg(softplus(neg(x0)))",
    "tanh": "tanh(x0)",
    "exp": "exp(x0)",
    "exp2": "exp2(x0)",
    "expm1": "expm1(x0)",
    "log": "log(x0)",
    "log2": "log2(x0)",
    "log10": "mul(log(x0), 0.4342944819032518)",
    "log1p": "log1p(x0)",
    "erf": "erf(x0)",
    "sin": "sin(x0)",
    "cos": "cos(x0)",
    "sqrt": "sqrt(x0)",
    "rsqrt": "rsqrt(x0)",
    "reciprocal": "reciprocal(x0)",
    "neg": "neg(x0)",
    "abs": "abs(x0)",
    "sign": "sign(x0)",
    "floor": "floor(x0)",
    "ceil": "ceil(x0)",
    "round": "round(x0)",
    "trunc": "trunc(x0)",
    "fix": "trunc(x0)",
    "frac": "sub(x0, trunc(x0))",
    "hardswish": "hardswish(x0)",
    "hardsigmoid": "hardsigmoid(x0)",
    "mish": "mish(x0)",
    "softsign": "div(x0, add(1.0, abs(x0)))",
    "tanhshrink": "sub(x0, tanh(x0))",
    "selu": "mul(elu(x0, 1.6732632423543772), 1.0507009873554805)",
    "square": "mul(x0, x0)",
    "bitwise_not": "bitwise_not(x0)",
    "deg2rad": "mul(x0, 0.017453292519943295)",
}
_TESTS_OF_ONE = {
    "logical_not": "logical_not(x0)",
    "isnan": "isnan(x0)",
    "isinf": "isinf(x0)",
    "isfinite": "logical_not(logical_or(isnan(x0), isinf(x0)))",
}
_BINARY = {
    "mul": "mul(x0, x1)",
    "maximum": "maximum(x0, x1)",
    "minimum": "minimum(x0, x1)",
    "max": "maximum(x0, x1)",
    "min": "minimum(x0, x1)",
    "pow": "pow(x0, x1)",
    "remainder": "remainder(x0, x1)",
    "fmod": "fmod(x0, x1)",
    "floor_divide": "floor_div(x0, x1)",
    "div": "div(x0, x1)",
    "true_divide": "div(x0, x1)",
    "bitwise_and": "bitwise_and(x0, x1)",
    "bitwise_or": "bitwise_or(x0, x1)",
    "bitwise_xor": "bitwise_xor(x0, x1)",
    "__and__": "bitwise_and(x0, x1)",
    "__or__": "bitwise_or(x0, x1)",
    "__xor__": "bitwise_xor(x0, x1)",
    "bitwise_left_shift": "shift_left(x0, x1)",
    "bitwise_right_shift": "shift_right(x0, x1)",
    "__lshift__": "shift_left(x0, x1)",
    "__rshift__": "shift_right(x0, x1)",
}
_TESTS_OF_TWO = ("eq", "ne", "lt", "le", "gt", "ge", "logical_and", "logical_or", "logical_xor")
_SPELLINGS = ("Tensor", "Scalar", "default", "other", "Tensor_Scalar", "Tensor_Tensor")


def _spelled(names: Any, spellings: tuple[str, ...] = _SPELLINGS) -> list[str]:
    """The overloads that torch has of these operators."""
    return [
        f"{name}.{spelling}"
        for name in names
        for spelling in spellings
        if spelling in getattr(torch.ops.aten, name).overloads()
        and not (name in ("max", "min") and spelling != "other")  # reductions
    ]


@rule(*(f"{name}.default" for name in _UNARY))
def _unary(imp: Importer, node: fx.Node) -> Result:
    return pointwise(imp, _UNARY[overload(node)], [node.args[0]])


@rule(*(f"{name}.default" for name in _TESTS_OF_ONE))
def _test_of_one(imp: Importer, node: fx.Node) -> Result:
    text = _TESTS_OF_ONE[overload(node)]
    return pointwise(imp, text, [node.args[0]], compute=common_dtype(node.args[0]))


@rule(*_spelled(_BINARY), "pow.Scalar")
def _binary(imp: Importer, node: fx.Node) -> Result:
    args = list(imp.arguments().values())
    return pointwise(imp, _BINARY[overload(node)], args[:2])


@rule("div.Tensor_mode", "div.Scalar_mode")
def _rounded_quotient(imp: Importer, node: fx.Node) -> Result:
    args, result = imp.arguments(), imp.result_type()
    texts = {None: "div(x0, x1)", "floor": "floor_div(x0, x1)", "trunc": "trunc(div(x0, x1))"}
    if args["rounding_mode"] == "trunc" and (result is None or result.dtype not in FLOATS):
        return None
    return pointwise(imp, texts[args["rounding_mode"]], [args["self"], args["other"]])


@rule(*_spelled(_TESTS_OF_TWO))
def _test_of_two(imp: Importer, node: fx.Node) -> Result:
    a, b = list(imp.arguments().values())[:2]
    return pointwise(imp, f"{overload(node)}(x0, x1)", [a, b], compute=common_dtype(a, b))


@rule("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Scalar", "rsub.Tensor")
def _additive(imp: Importer, node: fx.Node) -> Result:
    args, name = imp.arguments(), overload(node)
    alpha = imp.number(args.get("alpha", 1))
    if not isinstance(alpha, (int, float)):
        return None
    operands = [args["self"], args["other"]]
    if name == "rsub":
        operands.reverse()
    function = "add" if name == "add" else "sub"
    result = imp.result_type()
    whole = result is not None and result.dtype not in FLOATS  # in floats -0.0 + 0 is 0.0
    if type(args["other"]) is int and args["other"] == 0 and name != "rsub" and whole:
        return _converted(imp, args["self"])
    right = "x1" if alpha == 1 else f"mul(x1, {float(alpha)!r})"
    return pointwise(imp, f"{function}(x0, {right})", operands)


@rule("addcmul.default", "addcdiv.default")
def _add_product(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    function = "mul" if overload(node) == "addcmul" else "div"
    value = imp.number(args["value"])
    if not isinstance(value, (int, float)):
        return None
    product = f"{function}(x1, x2)" if value == 1 else f"mul({function}(x1, x2), {float(value)!r})"
    operands = [args["self"], args["tensor1"], args["tensor2"]]
    return pointwise(imp, f"add(x0, {product})", operands)


@rule("lerp.Scalar", "lerp.Tensor")
def _lerp(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    operands = [args["self"], args["end"], args["weight"]]
    return pointwise(imp, "add(x0, mul(x2, sub(x1, x0)))", operands)


@rule("gelu.default")
def _gelu(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    name = {"none": "gelu", "tanh": "gelu_tanh"}[args["approximate"]]
    return pointwise(imp, f"{name}(x0)", [args["self"]])


@rule("hardtanh.default")
def _hardtanh(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    return _between(imp, args["self"], args["min_val"], args["max_val"])


@rule("clamp.default", "clamp.Tensor", "clip.default", "clip.Tensor")
def _clamp(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    return _between(imp, args["self"], args["min"], args["max"])


@rule("clamp_min.default", "clamp_min.Tensor")
def _clamp_min(imp: Importer, node: fx.Node) -> Result:
    return _between(imp, imp.arguments()["self"], imp.arguments()["min"], None)


@rule("clamp_max.default", "clamp_max.Tensor")
def _clamp_max(imp: Importer, node: fx.Node) -> Result:
    return _between(imp, imp.arguments()["self"], None, imp.arguments()["max"])


def _between(imp: Importer, x: Any, low: Any, high: Any) -> Result:
    result = imp.result_type()
    numbers = [imp.number(bound) for bound in (low, high) if bound is not None]
    floating = result is not None and result.dtype in FLOATS
    if floating and all(isinstance(n, (int, float)) for n in numbers):
        text = f"clamp(x0, {_bound(imp, low, '-inf')}, {_bound(imp, high, 'inf')})"
        return pointwise(imp, text, [x])
    text, operands = "x0", [x]
    for bound, function in ((low, "maximum"), (high, "minimum")):
        if bound is not None:
            text = f"{function}({text}, x{len(operands)})"
            operands.append(bound)
    return pointwise(imp, text, operands)


def _bound(imp: Importer, bound: Any, default: str) -> str:
    return default if bound is None else repr(float(imp.number(bound)))


@rule("leaky_relu.default")
def _leaky_relu(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    return pointwise(imp, f"leaky_relu(x0, {float(args['negative_slope'])!r})", [args["self"]])


@rule("elu.default")
def _elu(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    alpha, scale, inner = (float(args[k]) for k in ("alpha", "scale", "input_scale"))
    text = f"elu(x0, {alpha!r})"
    if inner != 1:
        text = f"where(gt(x0, 0.0), x0, mul(expm1(mul(x0, {inner!r})), {alpha!r}))"
    return pointwise(imp, text if scale == 1 else f"mul({text}, {scale!r})", [args["self"]])


@rule("celu.default")
def _celu(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    alpha = float(args["alpha"])
    text = f"where(gt(x0, 0.0), x0, mul(expm1(div(x0, {alpha!r})), {alpha!r}))"
    return pointwise(imp, "elu(x0, 1.0)" if alpha == 1 else text, [args["self"]])


@rule("softplus.default")
def _softplus(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    beta, threshold = float(args["beta"]), float(args["threshold"])
    if (beta, threshold) == (1, 20):
        return pointwise(imp, "softplus(x0)", [args["self"]])
    scaled = f"mul(x0, {beta!r})"
    smooth = f"div(softplus({scaled}), {beta!r})"
    return pointwise(imp, f"where(gt({scaled}, {threshold!r}), x0, {smooth})", [args["self"]])


@rule("threshold.default")
def _threshold(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    operands = [args["self"], args["threshold"], args["value"]]
    return pointwise(imp, "where(le(x0, x1), x2, x0)", operands)


@rule("hardshrink.default", "softshrink.default")
def _shrink(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    size = float(args["lambd"])
    shrunk = "x0" if overload(node) == "hardshrink" else f"sub(x0, mul(sign(x0), {size!r}))"
    return pointwise(imp, f"where(le(abs(x0), {size!r}), 0.0, {shrunk})", [args["self"]])


@rule("prelu.default", "_prelu_kernel.default")
def _prelu(imp: Importer, node: fx.Node) -> Result:
    """A slope for each channel, which is dimension 1."""
    x, slope = (imp.tensor(arg) for arg in node.args[:2])
    if x is None or slope is None:
        return None
    if slope[1].rank == 1 and x[1].rank > 2:
        shape = (*slope[1].shape, *(1 for _ in range(x[1].rank - 2)))
        slope = reshaped(imp, slope, shape)
    return pointwise(imp, "where(gt(x0, 0.0), x0, mul(x1, x0))", [node.args[0], slope[0]])


@rule("nan_to_num.default")
def _nan_to_num(imp: Importer, node: fx.Node) -> Result:
    """Without limits of its own: infinities become the largest numbers of the dtype."""
    args, result = imp.arguments(), imp.result_type()
    if (
        result is None
        or result.dtype not in FLOATS
        or (args["posinf"], args["neginf"]) != (None,) * 2
    ):
        return None
    limit = torch.finfo(torch_dtype(result.dtype)).max
    text = f"where(isnan(x0), {float(args['nan'] or 0)!r}, clamp(x0, {-limit!r}, {limit!r}))"
    return pointwise(imp, text, [args["self"]])


@rule("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def _where(imp: Importer, node: fx.Node) -> Result:
    return _chosen(imp, *list(imp.arguments().values())[:3])


@rule("masked_fill.Scalar", "masked_fill.Tensor")
def _masked_fill(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    return _chosen(imp, args["mask"], args["value"], args["self"])


def _chosen(imp: Importer, condition: Any, a: Any, b: Any) -> Result:
    """a where the condition holds, else b."""
    mask = imp.tensor(condition)
    if mask is None or mask[1].dtype not in ("bool", "u8"):
        return None
    return pointwise(imp, "where(x2, x0, x1)", [a, b, condition], plain=(2,))


@rule("_to_copy.default", "to.dtype", "to.dtype_layout", "to.device", "to.other", "type_as.default")
def _convert(imp: Importer, node: fx.Node) -> Result:
    return _converted(imp, node.args[0])


def _converted(imp: Importer, source: Any) -> Result:
    """The tensor in the dtype and shape of the result."""
    x, result = imp.tensor(source), imp.result_type()
    if x is None or result is None or x[1].shape != result.shape:
        return None
    if not (at_home(imp, source) or x[0] in imp.weight_time) or not at_home(imp, imp.node):
        return x[0] if _same_device(source, imp.node) and x[1].logical == result else None
    if x[1].dtype == result.dtype:
        return x[0]
    if x[1].dtype not in CASTS or result.dtype not in CASTS:
        return None
    return pointwise(imp, f"{result.dtype}(x0)", [source], compute=x[1].dtype)


def _same_device(a: Any, b: Any) -> bool:
    values = [node.meta.get("val") for node in (a, b) if isinstance(node, fx.Node)]
    return len({v.device for v in values if isinstance(v, torch.Tensor)}) == 1
