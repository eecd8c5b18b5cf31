"""Reads attention scores backwards from their softmax to the product q k^T.

scores = scale * (q k^T) + masks, with the scale before or after the masks, masks added or filled
in, and views between. Each mask remembers the shape that the scores had where it came in.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from sparse_compiler.ir.expr import Arg, Call, Const, Expr
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Dim, product
from sparse_compiler.ops.matmul import Matmul
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.shape import Expand, Permute, Reshape
from sparse_compiler.passes.guarded_softmax import read_besides
from sparse_compiler.passes.rewriter import Rewriter

FILL = -1e9
"""A score that is this low or lower is no score: next to any other its exponential is 0."""


@dataclass(frozen=True)
class Mask:
    """tree of the value `name` as x0, added to scores of `shape`."""

    name: str
    tree: Expr
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class Scores:
    """scale * name + masks, `name` being the product of queries and keys.

    nan_rows: their softmax is NaN, and not 0, for a query that may attend to nothing.
    """

    name: str
    scale: float = 1.0
    masks: tuple[Mask, ...] = ()
    nan_rows: bool = True

    def scaled(self, factor: float) -> Scores:
        """factor * self."""
        masks = [
            m if factor == 1 else replace(m, tree=Call("mul", (m.tree, Const(factor))))
            for m in self.masks
        ]
        return replace(self, scale=self.scale * factor, masks=tuple(masks))


def read_scores(rw: Rewriter, name: str, readers: Collection[str] = ()) -> Scores | No:
    """What the value `name` is made of; each value on the way may have one reader only.

    readers: nodes that may read `name` itself, where they are several.
    """
    node = rw.producers.get(name)
    if node is None or not isinstance(node.op, (Matmul, Pointwise, Reshape)):
        return No("no_scores", f"%{name} is no product of queries and keys")
    if not rw.only_reader(name) and (not readers or read_besides(rw, name, readers)):
        return No("shared_value", f"the scores %{name} are read elsewhere too")
    if isinstance(node.op, Matmul):
        return Scores(name)
    if isinstance(node.op, Reshape):
        return read_scores(rw, node.inputs[0])
    return _read(rw, node.op.tree, node.inputs, rw.tensor(name).shape)


def _read(rw: Rewriter, tree: Expr, names: tuple[str, ...], shape: tuple[Dim, ...]) -> Scores | No:
    refusal = No("no_scores", f"{tree} is no sum of scores and masks")
    match tree:
        case Arg(index=index):
            if rw.tensor(names[index]).numel != product(shape):
                return No("broadcast", f"the scores %{names[index]} are broadcast")
            return read_scores(rw, names[index])
        case Call("mul", (inner, Const(value=factor))) | Call("mul", (Const(value=factor), inner)):
            found = _read(rw, inner, names, shape)
            return found if isinstance(found, No) else found.scaled(factor)
        case Call("div", (inner, Const(value=divisor))) if divisor:
            found = _read(rw, inner, names, shape)
            return found if isinstance(found, No) else found.scaled(1 / divisor)
        case Call("add", (left, right)):
            for inner, other in ((left, right), (right, left)):
                if isinstance(other, Arg):
                    found = _read(rw, inner, names, shape)
                    if isinstance(found, Scores):
                        mask = Mask(names[other.index], Arg(0), shape)
                        return replace(found, masks=(*found.masks, mask))
        case Call("where", (Arg(index=index), Const(value=fill), inner)):
            return _filled(rw, inner, names, shape, names[index], (Const(fill), Const(0.0)))
        case Call("where", (Arg(index=index), inner, Const(value=fill))):
            return _filled(rw, inner, names, shape, names[index], (Const(0.0), Const(fill)))
    return refusal


def _filled(
    rw: Rewriter,
    inner: Expr,
    names: tuple[str, ...],
    shape: tuple[Dim, ...],
    condition: str,
    values: tuple[Const, Const],
) -> Scores | No:
    fill = min(values[0].value, values[1].value)
    if fill > FILL:
        return No("mask", f"scores filled with {fill} still count beside others")
    found = _read(rw, inner, names, shape)
    if isinstance(found, No):
        return found
    tree = Call("where", (Arg(0), *values))
    return replace(found, masks=(*found.masks, Mask(condition, tree, shape)))


def make_mask(rw: Rewriter, masks: Sequence[Mask], shape: tuple[Dim, ...], name: str) -> str | None:
    """One mask for scores [B, H, Sq, Sk] of `shape`; None for none. The nodes it takes are added.

    A single filling with -inf becomes a mask of bools, everything else a sum of f32.
    """
    if not masks:
        return None
    inputs = [_fitted(rw, mask, shape, name) for mask in masks]
    if len(masks) == 1:
        match masks[0].tree:
            case Arg():
                return inputs[0]
            case Call("where", (Arg(), Const(value=0.0), Const(value=fill))) if fill == -math.inf:
                return inputs[0]
            case Call("where", (Arg(), Const(value=fill), Const())) if fill == -math.inf:
                return rw.add(Pointwise("logical_not(x0)"), inputs, name)
    trees: list[Expr] = [_renumbered(mask.tree, i) for i, mask in enumerate(masks)]
    total = trees[0]
    for tree in trees[1:]:
        total = Call("add", (total, tree))
    return rw.add(Pointwise(str(total)), inputs, name)


def _renumbered(tree: Expr, index: int) -> Expr:
    match tree:
        case Arg():
            return Arg(index)
        case Call(fn=fn, args=args):
            return Call(fn, tuple(_renumbered(a, index) for a in args))
    return tree


def _fitted(rw: Rewriter, mask: Mask, shape: tuple[Dim, ...], name: str) -> str:
    """The mask's value as one that broadcasts to `shape`, from the shape where it came in."""
    value, rank = mask.name, len(mask.shape)
    have = rw.tensor(value).shape
    if mask.shape == shape or len(have) <= 2:
        return value
    full: tuple[Dim, ...] = (1,) * (rank - len(have)) + have
    batch, heads = shape[:2]
    if rank == 3:  # heads folded into the batch
        target = (batch, heads) if full[0] != 1 else (1, 1)
        return rw.add(Reshape((*target, *full[1:])), (value,), f"{name}.heads")
    # windows split off the batch: [samples, windows, H, Sq, Sk]
    if full[0] != 1 or full[1] != 1:
        spread = (*mask.shape[:2], *full[2:])
        if spread != have:
            value = rw.add(Expand(spread), (value,), f"{name}.samples")
        full = (1, batch, *full[2:])
    return rw.add(Reshape(full[1:]), (value,), f"{name}.windows")


def fits(mask: Mask, shape: tuple[Dim, ...]) -> bool:
    """True where `make_mask` can bring the mask to scores [B, H, Sq, Sk] of `shape`."""
    if mask.shape[-2:] != shape[-2:]:
        return False
    match mask.shape[:-2]:
        case (batch, heads):
            return (batch, heads) == shape[:2]
        case (folded,):
            return bool(folded == product(shape[:2]))
        case (samples, windows, heads):
            return (product((samples, windows)), heads) == shape[:2]
    return False


def without_scale(rw: Rewriter, name: str, new: str) -> tuple[str, float]:
    """A value before the number that it is multiplied with, and that number; 1 for none.

    Looks through views, which are applied again to the value before the product.
    """
    views = []
    node = rw.producers.get(name)
    while node is not None and isinstance(node.op, (Reshape, Permute)):
        if not rw.only_reader(node.name):
            return name, 1.0
        views.append(node)
        node = rw.producers.get(node.inputs[0])
    if node is None or not isinstance(node.op, Pointwise) or not rw.only_reader(node.name):
        return name, 1.0
    match node.op.tree:
        case Call("mul", (Arg(index=index), Const(value=factor))):
            pass
        case Call("mul", (Const(value=factor), Arg(index=index))):
            pass
        case Call("div", (Arg(index=index), Const(value=divisor))) if divisor:
            factor = 1 / divisor
        case _:
            return name, 1.0
    source = node.inputs[index]
    if rw.tensor(source) != rw.tensor(node.name):
        return name, 1.0
    for view in reversed(views):
        source = rw.add(view.op, (source,), f"{new}.unscaled")
    return source, factor
