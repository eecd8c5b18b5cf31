"""ATen operators -> our ops, one small rule each: products, norms, softmax, attention.

A rule that returns None leaves a torch_call. Rules keep meaning exactly: dtypes, broadcasting, and
promotion, which they write out. A missing rule costs speed and never a wrong number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ..errors import VerifyError
from ..ir.types import torch_dtype
from ..ops.attention import Attention
from ..ops.linear import Linear
from ..ops.norm import LayerNorm, RmsNorm
from ..ops.shape import Permute
from ..ops.softmax import Softmax
from . import aten_constants, aten_pointwise, aten_resize  # they register their rules
from .aten_sequence import converted_to, matrix_product
from .aten_vision import wide_layer_norm
from .importer import Importer, Result
from .rules import FLOATS, RULES, all_float, overload, pointwise, rule

__all__ = ["RULES", "aten_constants", "aten_pointwise", "aten_resize"]


@rule("linear.default")
def _linear(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    return _make_linear(imp, args["input"], args["weight"], args["bias"], transposed=False)


@rule("addmm.default", "baddbmm.default")
def _addmm(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    names = ("mat1", "mat2") if "mat1" in args else ("batch1", "batch2")
    left, right = (args[name] for name in names)
    if args["alpha"] == 1 and args["beta"] == 1:
        linear = _make_linear(imp, left, right, args["self"], transposed=True)
        if linear is not None:
            return linear
    a, b = imp.tensor(left), imp.tensor(right)
    alpha, beta = imp.number(args["alpha"]), imp.number(args["beta"])
    if a is None or b is None or not all(isinstance(n, (int, float)) for n in (alpha, beta)):
        return None
    product = matrix_product(imp, a, b)
    if product is None:
        return None
    terms = [x if n == 1 else f"mul({x}, {float(n)!r})" for x, n in (("x0", beta), ("x1", alpha))]
    text = "mul(x1, 1.0)" if beta == 0 else f"add({terms[0]}, {terms[1]})"  # a NaN times 0 is none
    return pointwise(imp, text.replace("mul(x1, 1.0)", terms[1]), [args["self"], product[0]])


@rule("mm.default", "matmul.default", "bmm.default")
def _matmul(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    left, right = args["self"], args.get("mat2", args.get("other"))
    linear = _make_linear(imp, left, right, None, transposed=True)
    if linear is not None:
        return linear
    a, b = imp.tensor(left), imp.tensor(right)
    product = None if a is None or b is None else matrix_product(imp, a, b)
    return None if product is None else product[0]


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
    if not all_float(data, matrix, vector):
        return None
    name = imp.add(Permute((1, 0)), [matrix[0]]) if transposed else matrix[0]
    operands = [data[0], name] + ([vector[0]] if vector is not None else [])
    return imp.add(Linear(bias=vector is not None), operands)


@rule("layer_norm.default")
def _layer_norm(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    x = imp.tensor(args["input"])
    vectors = [imp.tensor(args[k]) for k in ("weight", "bias") if args[k] is not None]
    if len(args["normalized_shape"]) != 1:
        return wide_layer_norm(imp, args)
    if x is None or None in vectors or not all_float(x, *vectors):
        return None
    op = LayerNorm(args["eps"], args["weight"] is not None, args["bias"] is not None)
    return imp.add(op, [x[0], *(v[0] for v in vectors if v is not None)])


@rule("rms_norm.default")
def _rms_norm(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    x, gamma = imp.tensor(args["input"]), imp.tensor(args["weight"])
    if x is None or len(args["normalized_shape"]) != 1:
        return None
    if (args["weight"] is not None and gamma is None) or not all_float(x, gamma):
        return None
    eps = args["eps"]
    if eps is None:
        eps = torch.finfo(torch_dtype(x[1].dtype)).eps
    return imp.add(RmsNorm(eps, gamma is not None), [x[0], *([gamma[0]] if gamma else [])])


@rule(
    "softmax.int",
    "log_softmax.int",
    "special_softmax.int",
    "special_log_softmax.int",
    "_softmax.default",
    "_log_softmax.default",
)
def _softmax(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    x, result = imp.tensor(args["self"]), imp.result_type()
    if x is None or result is None or x[1].rank == 0 or result.dtype not in FLOATS:
        return None
    if x[1].dtype != result.dtype:
        converted = converted_to(imp, x, result.dtype)
        if converted is None:
            return None
        x = converted
    dim = args["dim"] % x[1].rank
    return imp.add(Softmax("log" in overload(node), -1 if dim == x[1].rank - 1 else dim), [x[0]])


@rule("scaled_dot_product_attention.default")
def _attention(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    tensors = [imp.tensor(args[k]) for k in ("query", "key", "value")]
    mask = imp.tensor(args["attn_mask"])
    if args["dropout_p"] or (args["attn_mask"] is not None and mask is None):
        return None
    known = [t for t in tensors if t is not None and t[1].rank == 4]
    if len(known) != 3 or not all_float(*known):
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
    operands = [*known, *([mask] if mask is not None else [])]
    try:
        op.infer(tuple(t[1] for t in operands))
    except VerifyError:  # sizes that only torch knows to be equal
        return None
    return imp.add(op, [t[0] for t in operands])
