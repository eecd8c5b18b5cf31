"""Padding: the middle copied, the borders filled or copied from the tensor's own elements.

Each dimension falls into at most three runs (before, inside, after), so a padded tensor is a box
for each combination of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from sparse_compiler.codegen.lowering import lowers
from sparse_compiler.codegen.lowering.context import Lowering
from sparse_compiler.codegen.lowering.places import strides_of
from sparse_compiler.codegen.lowering.shape import batch_dim, copy, ordered_box, read, write
from sparse_compiler.codegen.operands import Element, Strided
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.graph import Node
from sparse_compiler.ir.text import print_node
from sparse_compiler.ir.types import Dim, as_dim
from sparse_compiler.ops.pad import Pad


@dataclass(frozen=True)
class Run:
    """`length` elements of the result from `to` on, read from `source` on in steps of `step`.

    step: 1 forward, -1 mirrored, 0 one element again and again; None: filled with the value.
    """

    length: Dim
    to: Dim
    source: Dim
    step: int | None


def runs_of(mode: str, size: Dim, before: Dim, after: Dim) -> Iterator[Run]:
    """The runs of one dimension of `size` elements."""
    if before == 0 and after == 0:
        yield Run(size, 0, 0, 1)
        return
    cut_before, cut_after = _cut(before), _cut(after)
    yield Run(as_dim(size - cut_before - cut_after), as_dim(before + cut_before), cut_before, 1)
    end = as_dim(before + size)
    first: dict[str, tuple[Dim, int | None]] = {
        "constant": (0, None),
        "reflect": (before, -1),
        "replicate": (0, 0),
        "circular": (as_dim(size - before), 1),
    }
    last: dict[str, tuple[Dim, int | None]] = {
        "constant": (0, None),
        "reflect": (as_dim(size - 2), -1),
        "replicate": (as_dim(size - 1), 0),
        "circular": (0, 1),
    }
    if not _none(before):
        yield Run(before, 0, *first[mode])
    if not _none(after):
        yield Run(after, end, *last[mode])


def _cut(end: Dim) -> Dim:
    """Elements that a negative count cuts off."""
    return -end if isinstance(end, int) and end < 0 else 0


def _none(end: Dim) -> bool:
    return isinstance(end, int) and end <= 0


@lowers(Pad)
def _pad(low: Lowering, node: Node) -> None:
    op = node.op
    if not isinstance(op, Pad):
        raise CodegenError("no padding to lower", node=print_node(node))
    source, type_ = low.type(node.inputs[0]), low.type(node.name)
    place, to = read(low, node.inputs[0], node), write(low, node)
    from_strides, to_strides = strides_of(source, place), strides_of(type_, to)
    dims = zip(source.shape, op.before, op.after, strict=True)
    for runs in product(*(list(runs_of(op.mode, *dim)) for dim in dims)):
        sizes = [run.length for run in runs]
        target: Dim = 0
        for run, stride in zip(runs, to_strides, strict=True):
            target = as_dim(target + run.to * stride)
        if any(run.step is None for run in runs):
            box, strides = ordered_box(low, node.name, sizes, to_strides, batch_dim(type_))
            value = Element(op.value, type_.dtype)
            args = (box, Strided(to, strides, target, written=True), value)
            low.emit("fill", "sweep.h", args, node.name)
            continue
        begin: Dim = 0
        steps: list[Dim] = []
        for run, stride in zip(runs, from_strides, strict=True):
            begin = as_dim(begin + run.source * stride)
            steps.append(as_dim((run.step or 0) * stride))
        copy(
            low, node.name, sizes, (to, to_strides, target), (place, steps, begin), batch_dim(type_)
        )
