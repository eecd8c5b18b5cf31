"""Elementwise ops: a channel goes with its operands' channels; what is constant in all, stays so.

A product with a known zero is a known zero whatever the other factor: a closed gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from sparse_compiler.ir.expr import Arg, Call, Const, Expr, fold
from sparse_compiler.ir.op import Op
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import TensorType
from sparse_compiler.ops import scalar
from sparse_compiler.ops.batch_norm import BatchNorm
from sparse_compiler.ops.iota import Full
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.take import Take, ranges_of

from ..facts import (
    ChannelRule,
    Emit,
    Facts,
    Frame,
    Mask,
    Masks,
    Site,
    Term,
    along,
    channel_dims,
    fit,
    fit_all,
    rectangular,
    upright,
)
from . import channels_of

_Part = tuple[Mask, Mask, Any]
"""Of a part of an expression: where it is known, where known to be 0, and its numbers there."""


def aligned(mask: Mask, rank: int) -> Mask:
    """A mask with leading dimensions of 1 up to `rank`."""
    return mask.reshape((1,) * (rank - mask.dim()) + tuple(mask.shape))


def joint_frame(result: TensorType, operands: Sequence[tuple[TensorType, Facts]]) -> Frame:
    """The frame of an elementwise result: channels where an activation that has them all does."""
    frame = [1] * result.rank
    for type_, facts in operands:
        for d in range(1, 1 + (0 if facts.fixed else type_.rank)):
            frame[-d] = max(frame[-d], facts.frame[-d])
    return tuple(frame)


def elementwise_facts(
    site: Site, tree: Expr, op: Op, operands: Sequence[tuple[TensorType, Facts]], suffix: str
) -> Facts:
    """What is known of `op`, whose expression on `operands` is `tree`."""
    rank = site.result.rank
    frame = joint_frame(site.result, operands)
    nothing = Facts(torch.zeros(frame, dtype=torch.bool))
    known = [fit_all(aligned(f.known, rank), _widest(f, frame)) for _, f in operands]
    zero = [fit_all(aligned(f.zero, rank), _widest(f, frame)) for _, f in operands]

    values = [None if f.term is None else f.term.tensor for _, f in operands]

    def call(fn: str, args: list[_Part]) -> _Part:
        found = args[0][0]
        for part, _, _ in args[1:]:
            found = found & part
        numbers = [value for _, _, value in args]
        value, null = None, found & False
        computed = all(number is not None for number in numbers)
        if computed and found.any() and any(isinstance(n, torch.Tensor) for n in numbers):
            value = scalar.evaluate(Call(fn, tuple(map(Arg, range(len(args))))), tuple(numbers))
            null = found & fit_all(value == 0, tuple(found.shape))
        if fn == "mul":
            null = null | args[0][1] | args[1][1]
        return found | null, null, value

    def leaf(item: Any) -> _Part:
        if isinstance(item, Arg):
            return known[item.index], zero[item.index], values[item.index]
        one = torch.ones((1,) * rank, dtype=torch.bool)
        return one, one & (isinstance(item, Const) and item.value == 0), item.value

    all_known, _, _ = fold(tree, call, leaf)
    mask = fit_all(all_known, frame)
    if not mask.any():
        return nothing
    terms = [
        f.term if f.term is not None else _one(site, t, k) for k, (t, f) in enumerate(operands)
    ]
    term = site.terms.add(op, terms, site.name(suffix))
    mask = finite(mask, term)
    return Facts(mask, term) if mask.any() else nothing


def _widest(facts: Facts, frame: Frame) -> Frame:
    """The operand's own frame where it has dimensions that the result's frame has."""
    own = aligned(facts.known, len(frame)).shape
    return tuple(o if o == f else 1 for o, f in zip(own, frame, strict=True))


def _one(site: Site, type_: TensorType, index: int) -> Term:
    """Stands for what is not known, where its number does not matter."""
    op = Full(1.0 if type_.dtype.startswith(("f", "b")) else 1, (1,) * type_.rank, type_.dtype)
    return site.terms.add(op, (), site.name(f"any{index}"))


def finite(mask: Mask, term: Term) -> Mask:
    """Only constants that are numbers: NaN and infinities stay where they come up."""
    if not term.tensor.is_floating_point():
        return mask
    good = term.tensor.isfinite()
    return mask if bool(good.all()) else mask & fit_all(good, tuple(mask.shape))


def _spread(type_: TensorType, result: TensorType, d: int) -> bool:
    """True where an operand has one element for all of the result's dimension -d."""
    return d > type_.rank or (type_.shape[-d] == 1 and result.shape[-d] != 1)


def operand_mask(alive: Mask, type_: TensorType, facts: Facts) -> Mask:
    """What an operand must hold for the elements of the result that are alive."""
    mask = alive
    while mask.dim() > type_.rank:
        mask = mask.amax(0)
    if facts.fixed:  # cut down where it has all channels
        frame = tuple(
            m if size == m else 1 for m, size in zip(mask.shape, type_.shape, strict=True)
        )
        return fit(mask, frame)
    return fit(mask, facts.frame)


def result_mask(mask: Mask, type_: TensorType, result: TensorType, alive: Mask) -> Mask:
    """The elements of the result that must be there since an operand's are."""
    if any(_spread(type_, result, d) and alive.shape[-d] > 1 for d in range(1, 1 + result.rank)):
        return alive
    return torch.maximum(alive, fit(aligned(mask, result.rank), tuple(alive.shape)))


def tie_elementwise(
    site: Site, operands: Sequence[int], masks: list[Mask], alive: Mask
) -> tuple[list[Mask], Mask]:
    """Masks of the inputs number `operands`, and the result's, made to agree."""
    for i in operands:
        if not site.facts[i].fixed:
            alive = result_mask(masks[i], site.types[i], site.result, alive)
    if _needs_rectangle(site, operands, alive):
        alive = rectangular(alive)
    for i in operands:
        wanted = operand_mask(alive, site.types[i], site.facts[i])
        masks[i] = wanted if site.facts[i].fixed else torch.maximum(masks[i], wanted)
    return masks, alive


def _needs_rectangle(site: Site, operands: Sequence[int], alive: Mask) -> bool:
    """True where an operand lacks some of the dimensions along which channels lie."""
    dims = channel_dims(tuple(alive.shape))
    if len(dims) < 2:
        return False
    for i in operands:
        own = aligned(site.facts[i].known, alive.dim()).shape
        plain = site.facts[i].fixed and site.types[i].numel == 1
        if not plain and any(own[d] != alive.shape[d] for d in dims):
            return True
        if site.facts[i].fixed and not plain:
            return True
    return False


def _constants(site: Site, alive: Mask) -> frozenset[int]:
    """Operands that are the same at every call, such as the result of an expert of zeros.

    Their numbers take their place, where the others alone have the result's shape.
    """
    if alive.dtype != torch.bool:
        return frozenset()
    found = frozenset(
        i
        for i, f in enumerate(site.facts)
        if not f.fixed and f.term is not None and bool(f.known.all())
    )
    others = [t.shape for i, t in enumerate(site.types) if i not in found]
    for d in range(1, 1 + site.result.rank):
        if all(len(shape) < d or shape[-d] != site.result.shape[-d] for shape in others):
            return frozenset()
    return found


def _kept(site: Site, index: int, alive: Mask) -> Term:
    """The numbers of a constant operand at the channels that are alive."""
    term = site.facts[index].term
    if term is None:
        raise TypeError(f"operand {index} of {site.node.name} is no constant")
    for d in range(1, 1 + len(term.shape)):
        size = term.shape[-d]
        if size == 1 or alive.shape[-d] != size:
            continue
        keep = along(alive, -d, size)
        if not keep.all():
            op = Take(len(term.shape) - d, ranges_of(keep))
            term = site.terms.add(op, [term], site.name("constant.live"))
    return term


@channels_of(Pointwise)
class Elementwise(ChannelRule):
    """expr(x0, x1, ...): all operands that have all channels keep the same."""

    def facts(self, site: Site) -> Facts:
        op = cast(Pointwise, site.node.op)
        operands = list(zip(site.types, site.facts, strict=True))
        return elementwise_facts(site, op.tree, op, operands, "constant")

    def needs(self, site: Site, alive: Mask) -> Masks:
        wanted = [operand_mask(alive, t, f) for t, f in zip(site.types, site.facts, strict=True)]
        for i in _constants(site, alive):
            wanted[i] = torch.zeros_like(wanted[i])
        return tuple(wanted)

    def ties(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        constants = _constants(site, alive)
        alive = rectangular(alive) if constants else alive
        rest = [i for i in range(len(inputs)) if i not in constants]
        masks, alive = tie_elementwise(site, rest, list(inputs), alive)
        return tuple(masks), alive

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        constants = _constants(site, alive)
        names = [
            emit.term(_kept(site, i, alive)) if i in constants else emit.input(i, mask)
            for i, mask in enumerate(inputs)
        ]
        emit.result(site.node.op, names)

    def reason(self, site: Site) -> No | None:
        return None


@channels_of(BatchNorm)
class PerChannelAffine(ChannelRule):
    """A batch norm with running statistics: a channel by itself, constant where gamma is 0."""

    def facts(self, site: Site) -> Facts:
        op = cast(BatchNorm, site.node.op)
        x, result = site.facts[0], site.result
        channels = int(result.shape[1]) if isinstance(result.shape[1], int) else 1
        frame = tuple(max(s, channels if d == 1 else 1) for d, s in enumerate(x.frame))
        mask = x.known.expand(frame)
        if not all(f.fixed for f in site.facts[1:]) or channels == 1:
            return Facts(torch.zeros(frame, dtype=torch.bool))
        if op.scale:
            gamma = site.facts[3].term
            if gamma is not None:
                mask = mask | upright(gamma.tensor == 0, 1, len(frame))
        if not mask.any():
            return Facts(torch.zeros(frame, dtype=torch.bool))
        vectors = [f.term for f in site.facts[1:] if f.term is not None]
        shape = (1, channels, *(1 for _ in frame[2:]))
        start = x.term if x.term is not None else _one(site, site.types[0], 0)
        if start.shape[1] != channels:
            spread = (*start.shape[:1], channels, *start.shape[2:])
            start = expand_term(site, start, spread or shape, "spread")
        term = site.terms.add(op, [start, *vectors], site.name("constant"))
        mask = finite(mask, term)
        return Facts(mask, term)

    def needs(self, site: Site, alive: Mask) -> Masks:
        return self.ties(
            site, tuple(torch.zeros(f.frame, dtype=torch.bool) for f in site.facts), alive
        )[0]

    def ties(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        alive = torch.maximum(alive, fit(inputs[0], tuple(alive.shape)))
        x = torch.maximum(inputs[0], fit(alive, tuple(inputs[0].shape)))
        if site.facts[0].frame != tuple(alive.shape):
            alive = torch.maximum(alive, x.expand(alive.shape))
        size = alive.shape[1]
        vector = (alive.amax([d for d in range(alive.dim()) if d != 1])).expand(size)
        if not all(f.fixed for f in site.facts[1:]):
            return (x, *(torch.ones(f.frame, dtype=torch.bool) for f in site.facts[1:])), alive
        return (x, *(vector for _ in inputs[1:])), alive

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        emit.result(site.node.op, [emit.input(i, m) for i, m in enumerate(inputs)])

    def reason(self, site: Site) -> No | None:
        return None


def expand_term(site: Site, term: Term, shape: Sequence[int], suffix: str) -> Term:
    """A term spread over `shape`."""
    from sparse_compiler.ops.shape import Expand

    if tuple(term.shape) == tuple(shape):
        return term
    return site.terms.add(Expand(tuple(shape)), [term], site.name(suffix))
