"""ATen operators -> our ops, one small rule each. A rule that returns None leaves a torch_call.

Rules keep meaning exactly: same dtypes, same broadcasting, no promotion. What does not fit stays
with torch, so a missing rule costs speed and never a wrong number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sympy
import torch
from torch import fx

from ..ir.types import TensorType, torch_dtype
from ..ops.attention import Attention
from ..ops.linear import Linear
from ..ops.norm import LayerNorm, RmsNorm
from ..ops.pointwise import Pointwise
from ..ops.shape import Permute, Reshape, Slice
from ..ops.softmax import Softmax
from .importer import Importer, Result, Rule

FLOATS = ("f32", "f64", "f16", "bf16")
RULES: dict[str, Rule] = {}


def rule(*targets: str) -> Callable[[Rule], Rule]:
    """Registers a function for these ATen overloads."""

    def enter(function: Rule) -> Rule:
        RULES.update({f"aten.{target}": function for target in targets})
        return function

    return enter


@rule("linear.default")
def _linear(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    return _make_linear(imp, args["input"], args["weight"], args["bias"], transposed=False)


@rule("addmm.default")
def _addmm(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    if args["alpha"] != 1 or args["beta"] != 1:
        return None
    return _make_linear(imp, args["mat1"], args["mat2"], args["self"], transposed=True)


@rule("mm.default", "matmul.default")
def _matmul(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    left, right = args["self"], args.get("mat2", args.get("other"))
    return _make_linear(imp, left, right, None, transposed=True)


def _make_linear(imp: Importer, x: Any, weight: Any, bias: Any, *, transposed: bool) -> Result:
    data, matrix = imp.tensor(x), imp.tensor(weight)
    vector = imp.tensor(bias)
    if data is None or matrix is None or (bias is not None and vector is None):
        return None
    if matrix[1].rank != 2 or data[1].rank < 2 or matrix[0] not in imp.weight_time:
        return None
    if vector is not None and (
        vector[1].rank != 1 or vector[1].shape[0] != matrix[1].shape[1 if transposed else 0]
    ):
        return None
    if not _all_float(data, matrix, vector):
        return None
    name = imp.add(Permute((1, 0)), [matrix[0]]) if transposed else matrix[0]
    operands = [data[0], name] + ([vector[0]] if vector is not None else [])
    return imp.add(Linear(bias=vector is not None), operands)


def _all_float(*tensors: tuple[str, TensorType] | None) -> bool:
    dtypes = {t[1].dtype for t in tensors if t is not None}
    return len(dtypes) == 1 and dtypes.pop() in FLOATS


@rule("layer_norm.default")
def _layer_norm(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    x = imp.tensor(args["input"])
    vectors = [imp.tensor(args[k]) for k in ("weight", "bias") if args[k] is not None]
    if x is None or len(args["normalized_shape"]) != 1 or None in vectors:
        return None
    if not _all_float(x, *vectors):
        return None
    op = LayerNorm(args["eps"], args["weight"] is not None, args["bias"] is not None)
    return imp.add(op, [x[0], *(v[0] for v in vectors if v is not None)])


@rule("rms_norm.default")
def _rms_norm(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    x, gamma = imp.tensor(args["input"]), imp.tensor(args["weight"])
    if x is None or len(args["normalized_shape"]) != 1:
        return None
    if (args["weight"] is not None and gamma is None) or not _all_float(x, gamma):
        return None
    eps = args["eps"]
    if eps is None:
        eps = torch.finfo(torch_dtype(x[1].dtype)).eps
    return imp.add(RmsNorm(eps, gamma is not None), [x[0], *([gamma[0]] if gamma else [])])


@rule("softmax.int", "log_softmax.int", "_softmax.default", "_log_softmax.default")
def _softmax(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    x, result = imp.tensor(args["self"]), imp.result_type()
    if x is None or result is None or x[1].rank == 0 or not _all_float(x):
        return None
    if args["dim"] % x[1].rank != x[1].rank - 1 or result.dtype != x[1].dtype:
        return None
    return imp.add(Softmax("log" in _overload(node)), [x[0]])


@rule("scaled_dot_product_attention.default")
def _attention(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    tensors = [imp.tensor(args[k]) for k in ("query", "key", "value")]
    mask = imp.tensor(args["attn_mask"])
    if args["dropout_p"] or (args["attn_mask"] is not None and mask is None):
        return None
    known = [t for t in tensors if t is not None and t[1].rank == 4]
    if len(known) != 3 or not _all_float(*known):
        return None
    q, k = known[0][1].shape, known[1][1].shape
    if q[0] != k[0] or (q[1] != k[1] and not args["enable_gqa"]):
        return None
    scale = imp.number(args["scale"]) if args["scale"] is not None else None
    if args["scale"] is not None and not isinstance(scale, (int, float)):
        return None
    op = Attention(
        mask is not None, bool(args["is_causal"]), None if scale is None else float(scale)
    )
    return imp.add(op, [*(t[0] for t in known), *([mask[0]] if mask is not None else [])])


# --- elementwise -----------------------------------------------------------------------------

_UNARY = {
    "relu": "relu(x0)",
    "relu6": "clamp(x0, 0.0, 6.0)",
    "silu": "silu(x0)",
    "sigmoid": "sigmoid(x0)",
    "tanh": "tanh(x0)",
    "exp": "exp(x0)",
    "log": "log(x0)",
    "erf": "erf(x0)",
    "sqrt": "sqrt(x0)",
    "rsqrt": "rsqrt(x0)",
    "reciprocal": "reciprocal(x0)",
    "neg": "neg(x0)",
    "abs": "abs(x0)",
    "hardswish": "hardswish(x0)",
    "hardsigmoid": "hardsigmoid(x0)",
    "mish": "mish(x0)",
    "square": "mul(x0, x0)",
}
_BINARY = {
    "mul.Tensor": "mul(x0, x1)",
    "mul.Scalar": "mul(x0, x1)",
    "maximum.default": "maximum(x0, x1)",
    "minimum.default": "minimum(x0, x1)",
    "pow.Tensor_Scalar": "pow(x0, x1)",
}


@rule(*(f"{name}.default" for name in _UNARY))
def _unary(imp: Importer, node: fx.Node) -> Result:
    return _pointwise(imp, _UNARY[_overload(node)], [node.args[0]])


@rule(*_BINARY)
def _binary(imp: Importer, node: fx.Node) -> Result:
    args = list(imp.arguments().values())
    return _pointwise(imp, _BINARY[_overload(node, full=True)], args[:2])


@rule("add.Tensor", "add.Scalar", "sub.Tensor", "sub.Scalar", "rsub.Scalar", "rsub.Tensor")
def _additive(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    alpha = args.get("alpha", 1)
    if not isinstance(alpha, (int, float)):
        return None
    name = _overload(node)
    right = "x1" if alpha == 1 else f"mul(x1, {float(alpha)!r})"
    text = {
        "add": f"add(x0, {right})",
        "sub": f"sub(x0, {right})",
        "rsub": f"sub(x1, {'x0' if alpha == 1 else f'mul(x0, {float(alpha)!r})'})",
    }[name]
    return _pointwise(imp, text, [args["self"], args["other"]])


@rule("div.Tensor", "div.Scalar", "true_divide.Tensor")
def _divide(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    return _pointwise(imp, "div(x0, x1)", [args["self"], args["other"]])


@rule("gelu.default")
def _gelu(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    name = {"none": "gelu", "tanh": "gelu_tanh"}[args["approximate"]]
    return _pointwise(imp, f"{name}(x0)", [args["self"]])


@rule("hardtanh.default")
def _hardtanh(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    return _clamp_between(imp, args["self"], args["min_val"], args["max_val"])


@rule("clamp.default")
def _clamp(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    return _clamp_between(imp, args["self"], args["min"], args["max"])


def _clamp_between(imp: Importer, x: Any, low: Any, high: Any) -> Result:
    low = float("-inf") if low is None else imp.number(low)
    high = float("inf") if high is None else imp.number(high)
    if not isinstance(low, (int, float)) or not isinstance(high, (int, float)):
        return None
    return _pointwise(imp, f"clamp(x0, {float(low)!r}, {float(high)!r})", [x])


@rule("leaky_relu.default")
def _leaky_relu(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    return _pointwise(imp, f"leaky_relu(x0, {float(args['negative_slope'])!r})", [args["self"]])


@rule("elu.default")
def _elu(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    if args["scale"] != 1 or args["input_scale"] != 1:
        return None
    return _pointwise(imp, f"elu(x0, {float(args['alpha'])!r})", [args["self"]])


@rule("softplus.default")
def _softplus(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    if args["beta"] != 1 or args["threshold"] != 20:
        return None
    return _pointwise(imp, "softplus(x0)", [args["self"]])


def _pointwise(imp: Importer, text: str, operands: list[Any]) -> Result:
    """The expression `text` over operands; numbers are written into it."""
    result = imp.result_type()
    if result is None or result.dtype not in FLOATS:
        return None
    inputs: list[str] = []
    for i, operand in enumerate(operands):
        tensor = imp.tensor(operand)
        if tensor is not None:
            if tensor[1].dtype != result.dtype:
                return None
            if tensor[0] not in inputs:
                inputs.append(tensor[0])
            text = text.replace(f"x{i}", f"@{inputs.index(tensor[0])}")
            continue
        number = imp.number(operand)
        if number is None or isinstance(number, sympy.Expr):
            return None
        text = text.replace(f"x{i}", repr(float(number)))
    return imp.add(Pointwise(text.replace("@", "x")), inputs) if inputs else None


def _overload(node: fx.Node, *, full: bool = False) -> str:
    name = str(node.target).removeprefix("aten.")
    return name if full else name.split(".")[0]


# --- views -----------------------------------------------------------------------------------


@rule(
    "view.default",
    "reshape.default",
    "_unsafe_view.default",
    "flatten.using_ints",
    "unflatten.int",
    "unsqueeze.default",
    "squeeze.default",
    "squeeze.dim",
    "squeeze.dims",
    "view_copy.default",
)
def _reshape(imp: Importer, node: fx.Node) -> Result:
    x, result = imp.tensor(node.args[0]), imp.result_type()
    if x is None or result is None or x[1].dtype != result.dtype:
        return None
    return x[0] if x[1].shape == result.shape else imp.add(Reshape(result.shape), [x[0]])


@rule("permute.default")
def _permute(imp: Importer, node: fx.Node) -> Result:
    x = imp.tensor(node.args[0])
    return None if x is None else _permuted(imp, x, list(imp.arguments()["dims"]))


@rule("transpose.int", "t.default", "numpy_T.default", "mT.default")
def _transpose(imp: Importer, node: fx.Node) -> Result:
    x, args = imp.tensor(node.args[0]), imp.arguments()
    if x is None or x[1].rank < 2:
        return None if x is None else x[0]
    dims = list(range(x[1].rank))
    a, b = args.get("dim0", -2), args.get("dim1", -1)
    dims[a], dims[b] = dims[b], dims[a]
    return _permuted(imp, x, dims)


def _permuted(imp: Importer, x: tuple[str, TensorType], dims: list[int]) -> Result:
    order = tuple(d % x[1].rank for d in dims)
    return x[0] if order == tuple(range(x[1].rank)) else imp.add(Permute(order), [x[0]])


@rule("slice.Tensor")
def _slice(imp: Importer, node: fx.Node) -> Result:
    x, result, args = imp.tensor(node.args[0]), imp.result_type(), imp.arguments()
    start = 0 if args["start"] is None else imp.number(args["start"])
    if x is None or result is None or args["step"] != 1 or start is None:
        return None
    dim = args["dim"] % x[1].rank
    if x[1].shape == result.shape:
        return x[0]
    if isinstance(start, sympy.Expr) or (start < 0 and not isinstance(x[1].shape[dim], int)):
        return None
    start = start if start >= 0 else max(0, start + int(x[1].shape[dim]))
    return imp.add(Slice(dim, start, start + result.shape[dim]), [x[0]])


@rule("select.int")
def _select(imp: Importer, node: fx.Node) -> Result:
    x, result, args = imp.tensor(node.args[0]), imp.result_type(), imp.arguments()
    index = imp.number(args["index"])
    if x is None or result is None or not isinstance(index, int):
        return None
    dim = args["dim"] % x[1].rank
    if index < 0 and not isinstance(x[1].shape[dim], int):
        return None
    index = index if index >= 0 else index + int(x[1].shape[dim])
    return imp.add(Reshape(result.shape), [imp.add(Slice(dim, index, index + 1), [x[0]])])


@rule("split.Tensor", "split_with_sizes.default", "chunk.default", "split.sizes")
def _split(imp: Importer, node: fx.Node) -> Result:
    x, parts = imp.tensor(node.args[0]), node.meta.get("val")
    if x is None or not isinstance(parts, (list, tuple)):
        return None
    dim = imp.arguments().get("dim", 0) % x[1].rank
    sizes = [part.shape[dim] for part in parts]
    if not all(isinstance(size, int) for size in sizes):
        return None
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(
        imp.add(Slice(dim, start, start + size), [x[0]])
        for start, size in zip(starts, sizes, strict=True)
    )


@rule(
    "clone.default",
    "contiguous.default",
    "alias.default",
    "detach.default",
    "lift_fresh_copy.default",
    "dropout.default",
    "_to_copy.default",
    "to.dtype",
    "to.dtype_layout",
    "expand.default",
    "type_as.default",
)
def _identity(imp: Importer, node: fx.Node) -> Result:
    """What changes no number: same shape, dtype and device; dropout only outside training."""
    x, result = imp.tensor(node.args[0]), imp.result_type()
    args = imp.arguments()
    if x is None or result is None or x[1].logical != result or args.get("train", False):
        return None
    source, value = node.args[0], node.meta["val"]
    if isinstance(source, fx.Node) and source.meta["val"].device != value.device:
        return None
    return x[0]
