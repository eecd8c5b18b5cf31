"""ATen operators of vision models -> our ops: convolutions, norms over channels, pools.

Images come with or without a batch; ours always have one, which a reshape adds. Where the sizes
that an op's type rule derives are not literally torch's own, the node stays with torch.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from ..ir.op import Op
from ..ir.types import TensorType, product, tensor_type
from ..ops.batch_norm import BatchNorm
from ..ops.conv import Conv
from ..ops.group_norm import GroupNorm
from ..ops.norm import LayerNorm
from ..ops.pad import Pad
from ..ops.pointwise import Pointwise
from ..ops.pool import AdaptivePool, Pool
from ..ops.shape import Permute, Reshape
from .importer import Importer, Result
from .rules import all_float, overload, rule

Tensor = tuple[str, TensorType]


def _numbers(imp: Importer, value: Any, count: int) -> tuple[int, ...] | None:
    """`count` plain ints from an int or a list, where one stands for all; None for symbols."""
    items = [imp.number(v) for v in (value if isinstance(value, (list, tuple)) else [value])]
    if len(items) == 1:
        items *= count
    found = tuple(item for item in items if isinstance(item, int))
    return found if len(found) == len(items) == count else None


def _first_type(node: fx.Node) -> TensorType | None:
    """Type of the node's tensor, or of the first of several."""
    value = node.meta.get("val")
    value = value[0] if isinstance(value, (list, tuple)) and value else value
    return tensor_type(value) if isinstance(value, torch.Tensor) else None


def _only_first(node: fx.Node) -> bool:
    """True where of several results only the first is read."""
    return all(
        user.target is operator.getitem and user.args[1] == 0 and user.op == "call_function"
        for user in node.users
    )


def over_images(
    imp: Importer, node: fx.Node, op: Op, x: Tensor, dims: int, others: Sequence[Tensor] = ()
) -> Result:
    """`op` on images over `dims` dimensions, with their channels and maybe a batch before them."""
    wanted = _first_type(node)
    batched = x[1].rank == dims + 2
    if wanted is None or x[1].rank not in (dims + 1, dims + 2):
        return None
    shape = x[1].shape if batched else (1, *x[1].shape)
    type_ = op.infer((TensorType(x[1].dtype, shape), *(t[1] for t in others)))
    full = wanted.shape if batched else (1, *wanted.shape)
    if not isinstance(type_, TensorType) or (type_.dtype, type_.shape) != (wanted.dtype, full):
        return None
    several = isinstance(node.meta["val"], (list, tuple))
    if several and not _only_first(node):
        return None
    name = x[0] if batched else imp.add(Reshape(shape), [x[0]])
    name = imp.add(op, [name, *(t[0] for t in others)])
    name = name if batched else imp.add(Reshape(wanted.shape), [name])
    return (name,) if several else name


# --- convolutions ----------------------------------------------------------------------------


@rule(
    *(f"conv{n}d.default" for n in (1, 2, 3)),
    *(f"conv_transpose{n}d.{'default' if n == 1 else 'input'}" for n in (1, 2, 3)),
    "convolution.default",
    "_convolution.default",
)
def _conv(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    transposed = args.get("transposed", overload(node).startswith("conv_transpose"))
    return _make_conv(imp, node, args, args["padding"], transposed=bool(transposed))


@rule(*(f"conv{n}d.padding" for n in (1, 2, 3)))
def _conv_named_padding(imp: Importer, node: fx.Node) -> Result:
    """padding="same" spreads d (k - 1) zeros over both sides; an odd one goes to the end."""
    args = imp.arguments()
    weight = imp.tensor(args["weight"])
    if weight is None or args["padding"] == "valid":
        return _make_conv(imp, node, args, 0, transposed=False)
    dims = weight[1].rank - 2
    dilation = _numbers(imp, args["dilation"], dims)
    if dilation is None or args["padding"] != "same":
        return None
    total = [d * (int(k) - 1) for d, k in zip(dilation, weight[1].shape[2:], strict=True)]
    x = imp.tensor(args["input"])
    if x is not None and any(size % 2 for size in total):
        x = _padded(imp, x, [size % 2 for size in total])
    padding = [size // 2 for size in total]
    return _make_conv(imp, node, args, padding, transposed=False, source=x)


def _padded(imp: Importer, x: Tensor, after: list[int]) -> Tensor:
    """Zeros at the ends of the last dimensions."""
    rank = x[1].rank
    op = Pad("constant", (0,) * rank, (0,) * (rank - len(after)) + tuple(after))
    return imp.add(op, [x[0]]), op.infer((x[1],))


def _make_conv(
    imp: Importer,
    node: fx.Node,
    args: dict[str, Any],
    padding: Any,
    *,
    transposed: bool,
    source: Tensor | None = None,
) -> Result:
    x, weight, bias = (imp.tensor(args[k]) for k in ("input", "weight", "bias"))
    x = source or x
    if x is None or weight is None or (args["bias"] is not None and bias is None):
        return None
    if weight[0] not in imp.weight_time or not all_float(x, weight, bias):
        return None
    dims = weight[1].rank - 2
    op = _conv_op(imp, args, padding, dims, transposed=transposed, bias=bias is not None)
    if op is None or not all(isinstance(size, int) for size in weight[1].shape):
        return None
    turned = _turned_type(weight[1], op.groups) if transposed else weight[1]
    vectors = [bias] if bias is not None else []
    name = weight[0]
    if transposed:
        name = _turned(imp, weight, op.groups)
    return over_images(imp, node, op, x, dims, [(name, turned), *vectors])


def _conv_op(
    imp: Importer, args: dict[str, Any], padding: Any, dims: int, *, transposed: bool, bias: bool
) -> Conv | None:
    """The op without its tensors; None where one of its numbers is a symbol."""
    lists = [
        _numbers(imp, value, dims)
        for value in (args["stride"], padding, args["dilation"], args.get("output_padding", 0))
    ]
    stride, border, dilation, extra = lists
    if stride is None or border is None or dilation is None or extra is None:
        return None
    if not transposed:
        extra = ()
    return Conv(stride, border, dilation, int(args["groups"]), transposed, extra, bias)


def _turned_type(weight: TensorType, groups: int) -> TensorType:
    """The type of `_turned`'s result."""
    c, m = int(weight.shape[0]), int(weight.shape[1])
    return TensorType(weight.dtype, (groups * m, c // groups, *weight.shape[2:]))


def _turned(imp: Importer, weight: Tensor, groups: int) -> str:
    """Torch's [C, M/groups, *k] of a transposed convolution -> [M, C/groups, *k]."""
    name, shape = weight[0], weight[1].shape
    if groups == 1:
        return imp.add(Permute((1, 0, *range(2, len(shape)))), [name])
    split = (groups, int(shape[0]) // groups, *shape[1:])
    name = imp.add(Reshape(split), [name])
    name = imp.add(Permute((0, 2, 1, *range(3, len(split)))), [name])
    return imp.add(Reshape(_turned_type(weight[1], groups).shape), [name])


# --- norms -----------------------------------------------------------------------------------


@rule(
    "batch_norm.default",
    "native_batch_norm.default",
    "_native_batch_norm_legit.default",
    "_native_batch_norm_legit_no_training.default",
)
def _batch_norm(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    if args.get("training", False):
        return None
    return _make_batch_norm(imp, node, args)


def _make_batch_norm(imp: Importer, node: fx.Node, args: dict[str, Any]) -> Result:
    x, wanted = imp.tensor(args["input"]), _first_type(node)
    names = ["running_mean", "running_var"]
    names += [name for name in ("weight", "bias") if args[name] is not None]
    vectors = [imp.tensor(args[name]) for name in names]
    known = [v for v in vectors if v is not None]
    if x is None or wanted is None or len(known) != len(vectors) or not all_float(x, *known):
        return None
    if x[1].rank < 2 or x[1].logical != wanted:
        return None
    several = isinstance(node.meta["val"], (list, tuple))
    if several and not _only_first(node):
        return None
    op = BatchNorm(float(args["eps"]), args["weight"] is not None, args["bias"] is not None)
    name = imp.add(op, [x[0], *(v[0] for v in known)])
    return (name,) if several else name


@rule("group_norm.default", "native_group_norm.default")
def _group_norm(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    groups = args.get("num_groups", args.get("group"))
    return _make_group_norm(imp, node, args, imp.number(groups))


@rule("instance_norm.default")
def _instance_norm(imp: Importer, node: fx.Node) -> Result:
    """A group for each channel; with running statistics in use it is a batch norm."""
    args = imp.arguments()
    x = imp.tensor(args["input"])
    if not args["use_input_stats"]:
        return _make_batch_norm(imp, node, args)
    if x is None or x[1].rank < 3 or args["running_mean"] is not None:
        return None
    return _make_group_norm(imp, node, args, x[1].shape[1])


def _make_group_norm(imp: Importer, node: fx.Node, args: dict[str, Any], groups: Any) -> Result:
    x, wanted = imp.tensor(args["input"]), _first_type(node)
    vectors = [imp.tensor(args[name]) for name in ("weight", "bias") if args[name] is not None]
    known = [v for v in vectors if v is not None]
    if x is None or wanted is None or len(known) != len(vectors) or not all_float(x, *known):
        return None
    if x[1].rank < 2 or not isinstance(groups, int) or x[1].logical != wanted:
        return None
    several = isinstance(node.meta["val"], (list, tuple))
    if several and not _only_first(node):
        return None
    scale, shift = args["weight"] is not None, args["bias"] is not None
    op = GroupNorm(groups, float(args["eps"]), scale, shift)
    name = imp.add(op, [x[0], *(v[0] for v in known)])
    return (name,) if several else name


def wide_layer_norm(imp: Importer, args: dict[str, Any]) -> Result:
    """Layer norm over several dimensions; over all but the batch it is a norm of one group."""
    x, count = imp.tensor(args["input"]), len(args["normalized_shape"])
    vectors = {k: imp.tensor(args[k]) for k in ("weight", "bias") if args[k] is not None}
    known = {k: v for k, v in vectors.items() if v is not None}
    if x is None or count < 2 or known.keys() != vectors.keys() or x[1].rank < count:
        return None
    if not all_float(x, *known.values()):
        return None
    shape, eps = x[1].shape, float(args["eps"])
    if count == x[1].rank - 1:
        name = imp.add(GroupNorm(1, eps, scale=False, shift=False), [x[0]])
        if not known:
            return name
        text = "mul(x0, x1)" if "weight" in known else "x0"
        text = f"add({text}, x{len(known)})" if "bias" in known else text
        return imp.add(Pointwise(text), [name, *(v[0] for v in known.values())])
    size = product(shape[-count:])
    name = imp.add(Reshape((*shape[:-count], size)), [x[0]])
    flat = [imp.add(Reshape((size,)), [v[0]]) for v in known.values()]
    name = imp.add(LayerNorm(eps, "weight" in known, "bias" in known), [name, *flat])
    return imp.add(Reshape(shape), [name])


# --- pools -----------------------------------------------------------------------------------


@rule(
    *(f"{kind}_pool{n}d.default" for kind in ("max", "avg") for n in (1, 2, 3)),
    *(f"max_pool{n}d_with_indices.default" for n in (2, 3)),
)
def _pool(imp: Importer, node: fx.Node) -> Result:
    args, name = imp.arguments(), overload(node)
    kind, dims = name[:3], int(name.split("_pool")[1][0])
    x = imp.tensor(args["self"])
    kernel = _numbers(imp, args["kernel_size"], dims)
    strides = args["stride"] or args["kernel_size"]
    windows = [_numbers(imp, v, dims) for v in (strides, args["padding"], args.get("dilation", 1))]
    stride, padding, dilation = windows
    if x is None or kernel is None or stride is None or padding is None or dilation is None:
        return None
    if not all_float(x):
        return None
    include, divisor = args.get("count_include_pad", True), args.get("divisor_override")
    ceil_mode = bool(args["ceil_mode"])
    op = Pool(kind, kernel, stride, padding, dilation, ceil_mode, bool(include), divisor)
    return over_images(imp, node, op.within(x[1].shape[-dims:]), x, dims)


@rule(
    *(f"adaptive_{kind}_pool{n}d.default" for kind in ("max", "avg") for n in (1, 2, 3)),
    *(f"_adaptive_avg_pool{n}d.default" for n in (2, 3)),
)
def _adaptive_pool(imp: Importer, node: fx.Node) -> Result:
    x, wanted, name = imp.tensor(imp.arguments()["self"]), _first_type(node), overload(node)
    if x is None or wanted is None or not all_float(x):
        return None
    dims = int(name.split("_pool")[1][0])
    kind = "max" if "max" in name else "avg"
    return over_images(imp, node, AdaptivePool(kind, wanted.shape[-dims:]), x, dims)
