"""Relax's operators on images: convolutions, pools, batch norm. Channels stand first: NCHW."""

from __future__ import annotations

from typing import Any

from ..errors import VerifyError
from ..ir.op import Op
from ..ir.types import TensorType, as_dim
from ..ops.batch_norm import BatchNorm
from ..ops.conv import Conv
from ..ops.pad import Pad
from ..ops.pool import AdaptivePool, Pool
from ..ops.shape import Permute, Reshape
from .aten_shape import Named, typed
from .relax_importer import RelaxImporter, Value
from .relax_linear import one_float
from .relax_rules import operator, rule
from .relax_shape import ints

_IMAGES = ("NCW", "NCHW", "NCDHW")
_KERNELS = ("OIW", "OIHW", "OIDHW")
_TURNED_KERNELS = ("IOW", "IOHW", "IODHW")


@rule("nn.conv1d", "nn.conv2d", "nn.conv3d")
def _conv(imp: RelaxImporter, call: Any) -> Value | None:
    return _make_conv(imp, call, _KERNELS, transposed=False)


@rule("nn.conv1d_transpose", "nn.conv2d_transpose", "nn.conv3d_transpose")
def _conv_transpose(imp: RelaxImporter, call: Any) -> Value | None:
    return _make_conv(imp, call, _TURNED_KERNELS, transposed=True)


def _make_conv(
    imp: RelaxImporter, call: Any, kernels: tuple[str, ...], *, transposed: bool
) -> Value | None:
    x, weight = (imp.tensor(arg) for arg in call.args[:2])
    attrs, result = call.attrs, imp.result_type()
    if x is None or weight is None or result is None or not one_float(x, weight):
        return None
    dims = weight[1].rank - 2
    out = str(attrs.out_layout) or str(attrs.data_layout)
    layouts = (str(attrs.data_layout), str(attrs.kernel_layout), out)
    if layouts != (_IMAGES[dims - 1], kernels[dims - 1], _IMAGES[dims - 1]):
        return None
    if weight[0] not in imp.weight_time or result.dtype != x[1].dtype:
        return None
    before, after = _sides(attrs.padding, dims)
    if not transposed and before != after:
        x = _zeros_around(imp, x, before, after)
        before = (0,) * dims
    elif before != after:
        return None
    groups, extra = int(attrs.groups), ints(attrs.output_padding) if transposed else ()
    name = _turned(imp, weight, groups) if transposed else weight[0]
    stride, dilation = ints(attrs.strides), ints(attrs.dilation)
    op = Conv(stride, before, dilation, groups, transposed, extra)
    return _fitting(imp, op, [x, typed(imp, name)], result)


def _fitting(imp: RelaxImporter, op: Op, operands: list[Named], result: TensorType) -> str | None:
    """The node, if its type is the one that TVM gives."""
    try:
        type_ = op.infer(tuple(t[1] for t in operands))
    except VerifyError:  # sizes that only TVM knows to be equal
        return None
    if not isinstance(type_, TensorType) or type_.dtype != result.dtype:
        return None
    differing = [a for a, b in zip(type_.shape, result.shape, strict=True) if a != b]
    if any(isinstance(size, int) for size in differing):
        return None
    return imp.add(op, [t[0] for t in operands])


def _sides(padding: Any, dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Padding before and after each dimension; Relax gives one number, one a side, or both."""
    given = ints(padding)
    if len(given) == 2 * dims:
        return given[:dims], given[dims:]
    whole = given * dims if len(given) == 1 else given
    return whole, whole


def _zeros_around(
    imp: RelaxImporter, x: Named, before: tuple[int, ...], after: tuple[int, ...]
) -> Named:
    op = Pad("constant", (0, 0, *before), (0, 0, *after))
    return typed(imp, imp.add(op, [x[0]]))


def _turned(imp: RelaxImporter, weight: Named, groups: int) -> str:
    """[C, M/groups, *k] of a transposed convolution -> [M, C/groups, *k]."""
    name, shape = weight[0], weight[1].shape
    if groups == 1:
        return imp.add(Permute((1, 0, *range(2, len(shape)))), [name])
    split = (groups, as_dim(shape[0] // groups), *shape[1:])
    name = imp.add(Reshape(split), [name])
    name = imp.add(Permute((0, 2, 1, *range(3, len(split)))), [name])
    return imp.add(Reshape((groups * int(shape[1]), split[1], *shape[2:])), [name])


@rule("nn.batch_norm")
def _batch_norm(imp: RelaxImporter, call: Any) -> Value | None:
    """A tuple in Relax: the result, and the running statistics as they were."""
    attrs = call.attrs
    tensors = [imp.tensor(arg) for arg in call.args]
    x, gamma, beta, mean, variance = tensors
    if x is None or not one_float(*tensors) or int(attrs.axis) % x[1].rank != 1:
        return None
    if bool(getattr(attrs, "training", False)):
        return None
    scale, shift = bool(attrs.scale), bool(attrs.center)
    vectors = [mean, variance, *([gamma] if scale else []), *([beta] if shift else [])]
    op = BatchNorm(float(attrs.epsilon), scale, shift)
    found = imp.add(op, [x[0], *(v[0] for v in vectors if v is not None)])
    return (found, *(v[0] for v in (mean, variance) if v is not None))


@rule("nn.max_pool1d", "nn.max_pool2d", "nn.max_pool3d")
@rule("nn.avg_pool1d", "nn.avg_pool2d", "nn.avg_pool3d")
def _pool(imp: RelaxImporter, call: Any) -> Value | None:
    x, attrs, result = imp.tensor(call.args[0]), call.attrs, imp.result_type()
    kernel, kind = ints(attrs.pool_size), operator(call)[3:6]
    dims = len(kernel)
    layouts = (str(attrs.layout), str(attrs.out_layout) or str(attrs.layout))
    if x is None or result is None or layouts != (_IMAGES[dims - 1],) * 2:
        return None
    before, after = _sides(attrs.padding, dims)
    included = bool(attrs.count_include_pad)
    if before != after:
        outside = 0.0 if kind == "avg" else float("-inf")
        if kind == "avg" and not included:
            return None
        x = typed(imp, imp.add(Pad("constant", (0, 0, *before), (0, 0, *after), outside), [x[0]]))
        before = (0,) * dims
    strides, dilation = ints(attrs.strides), ints(attrs.dilation)
    op = Pool(kind, kernel, strides, before, dilation, bool(attrs.ceil_mode), included)
    return _fitting(imp, op.within(x[1].shape[2:]), [x], result)


@rule("nn.adaptive_avg_pool1d", "nn.adaptive_avg_pool2d", "nn.adaptive_avg_pool3d")
def _adaptive_pool(imp: RelaxImporter, call: Any) -> Value | None:
    x, attrs, result = imp.tensor(call.args[0]), call.attrs, imp.result_type()
    if x is None or result is None or str(attrs.layout) not in _IMAGES:
        return None
    sizes = result.shape[2:]
    if not all(isinstance(size, int) for size in sizes):
        return None
    return _fitting(imp, AdaptivePool("avg", tuple(int(s) for s in sizes)), [x], result)
