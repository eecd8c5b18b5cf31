"""Relax's products and norms: linear, matmul, layer and other norms, softmax, attention."""

from __future__ import annotations

from typing import Any

from ..errors import VerifyError
from ..ir.types import TensorType
from ..ops.attention import Attention
from ..ops.group_norm import GroupNorm
from ..ops.linear import Linear
from ..ops.norm import LayerNorm, RmsNorm
from ..ops.shape import Permute
from ..ops.softmax import Softmax
from .aten_sequence import matrix_product
from .aten_shape import permuted, reshaped
from .relax_importer import RelaxImporter, Value
from .relax_rules import FLOATS, operator, rule
from .relax_shape import axes_of


@rule("matmul")
def _matmul(imp: RelaxImporter, call: Any) -> Value | None:
    """A product with a matrix of weights is a linear; a bias joins it in a pass."""
    a, b = (imp.tensor(arg) for arg in call.args)
    result = imp.result_type()
    if a is None or b is None or result is None or a[1].dtype != result.dtype:
        return None
    if b[0] in imp.weight_time and b[1].rank == 2 and a[1].rank > 1 and one_float(a, b):
        turned = imp.add(Permute((1, 0)), [b[0]])
        return imp.add(Linear(), [a[0], turned])
    product = matrix_product(imp, a, b)
    return None if product is None else product[0]


def one_float(*tensors: tuple[str, TensorType] | None) -> bool:
    """True where the tensors share one floating dtype."""
    dtypes = {t[1].dtype for t in tensors if t is not None}
    return None not in tensors and len(dtypes) == 1 and dtypes.pop() in FLOATS


@rule("nn.layer_norm", "nn.rms_norm")
def _norm(imp: RelaxImporter, call: Any) -> Value | None:
    """Relax multiplies by gamma and adds beta where `scale` and `center` say so."""
    attrs, x = call.attrs, imp.tensor(call.args[0])
    rms = operator(call) == "nn.rms_norm"
    if x is None or axes_of(attrs.axes, x[1].rank) != (x[1].rank - 1,):
        return None
    scale, shift = rms or bool(attrs.scale), not rms and bool(attrs.center)
    wanted = [call.args[1]] * scale + [call.args[2] for _ in range(shift)]
    vectors = [imp.tensor(arg) for arg in wanted]
    known = [v for v in vectors if v is not None]
    if len(known) != len(vectors) or not one_float(x, *known):
        return None
    if any(v[1].shape != x[1].shape[-1:] for v in known):
        return None
    eps = float(attrs.epsilon)
    op = RmsNorm(eps, scale) if rms else LayerNorm(eps, scale, shift)
    return imp.add(op, [x[0], *(v[0] for v in known)])


@rule("nn.group_norm")
def _group_norm(imp: RelaxImporter, call: Any) -> Value | None:
    x, gamma, beta = (imp.tensor(arg) for arg in call.args)
    attrs = call.attrs
    if x is None or gamma is None or beta is None or not one_float(x, gamma, beta):
        return None
    if not (attrs.scale and attrs.center) or int(attrs.channel_axis) % x[1].rank != 1:
        return None
    if axes_of(attrs.axes, x[1].rank) != tuple(range(2, x[1].rank)):
        return None
    op = GroupNorm(int(attrs.num_groups), float(attrs.epsilon), True, True)
    return imp.add(op, [x[0], gamma[0], beta[0]])


@rule("nn.softmax", "nn.log_softmax")
def _softmax(imp: RelaxImporter, call: Any) -> Value | None:
    x = imp.tensor(call.args[0])
    if x is None or x[1].rank == 0 or x[1].dtype not in FLOATS:
        return None
    dim = int(call.attrs.axis) % x[1].rank
    log = operator(call) == "nn.log_softmax"
    return imp.add(Softmax(log, -1 if dim == x[1].rank - 1 else dim), [x[0]])


@rule("nn.attention", "nn.attention_bias")
def _attention(imp: RelaxImporter, call: Any) -> Value | None:
    """Relax has heads behind tokens, [B, S, H, D]; our op before them."""
    tensors = [imp.tensor(arg) for arg in call.args]
    known = [t for t in tensors if t is not None]
    attrs = call.attrs
    causal = {"": False, "None": False, "TopLeft": True}.get(str(attrs.causal_mask or ""))
    if len(known) != len(tensors) or causal is None or attrs.window_size is not None:
        return None
    turned = [permuted(imp, t, (0, 2, 1, 3)) for t in known[:3]]
    masks = known[3:]
    op = Attention(bool(masks), causal, None if attrs.scale is None else float(attrs.scale))
    operands = [*turned, *masks]
    try:
        op.infer(tuple(t[1] for t in operands))
    except VerifyError:  # sizes that only TVM knows to be equal
        return None
    result = imp.result_type()
    found = imp.tensor(imp.add(op, [t[0] for t in operands]))
    if found is None or result is None:
        return None
    back = permuted(imp, found, (0, 2, 1, 3))
    return reshaped(imp, back, result.shape)[0]
