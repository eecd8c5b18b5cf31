"""Ops that move elements: a channel keeps its identity under another index.

A reshape maps runs of dimensions onto runs of equal size. A run of channels and positions becomes
channels where the channels stand outermost (an image flattened), else positions (a pixel shuffle's
new rows), so that a channel there stays or goes with all of its positions.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import cast

import torch

from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Dim
from sparse_compiler.ops.shape import Expand, Permute, Reshape, Slice, reshape_groups
from sparse_compiler.ops.take import Spread, ranges_of

from ..facts import (
    MAX_FACTS,
    ChannelRule,
    Emit,
    Facts,
    Frame,
    Mask,
    Masks,
    Site,
    Term,
    channel_dims,
    count_along,
    fit,
    ragged,
    rectangular,
    whole,
)
from . import channels_of
from .pointwise import expand_term


class View(ChannelRule):
    """One input, whose elements `push` carries to the result and `pull` back."""

    def push(self, site: Site, mask: Mask) -> Mask:
        raise NotImplementedError(f"{type(self).__name__} does not say where elements go")

    def pull(self, site: Site, mask: Mask) -> Mask:
        raise NotImplementedError(f"{type(self).__name__} does not say where elements come from")

    def term(self, site: Site) -> Term | None:
        """The input's constants where the op puts them; None where that takes too much."""
        raise NotImplementedError(f"{type(self).__name__} does not say where constants go")

    def facts(self, site: Site) -> Facts:
        x = site.facts[0]
        # An all-or-nothing view of `known`: an element counts where all that it stands for is.
        known = ~self.push(site, ~x.known)
        if not known.any() or x.term is None:
            return Facts(torch.zeros_like(known))
        term = self.term(site)
        return Facts(torch.zeros_like(known)) if term is None else Facts(known, term)

    def needs(self, site: Site, alive: Mask) -> Masks:
        return (self.pull(site, alive),)

    def ties(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        (x,) = inputs
        if not site.facts[0].fixed:
            x = self.even(site, x)
            alive = torch.maximum(alive, self.push(site, x))
        x = torch.maximum(x, self.pull(site, alive))
        return (x,), alive

    def even(self, site: Site, mask: Mask) -> Mask:
        return mask

    def reason(self, site: Site) -> No | None:
        return None


@channels_of(Permute)
class Permutes(View):
    """Dimensions in another order."""

    def push(self, site: Site, mask: Mask) -> Mask:
        return mask.permute(cast(Permute, site.node.op).dims)

    def pull(self, site: Site, mask: Mask) -> Mask:
        dims = cast(Permute, site.node.op).dims
        return mask.permute([dims.index(d) for d in range(len(dims))])

    def term(self, site: Site) -> Term | None:
        term = site.facts[0].term
        if term is None:
            return None
        return site.terms.add(site.node.op, [full_rank(site, term)], site.name("constant"))

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        emit.result(site.node.op, [emit.input(0, inputs[0])])


def full_rank(site: Site, term: Term) -> Term:
    """A term with as many dimensions as the node's first input."""
    missing = site.types[0].rank - len(term.shape)
    if not missing:
        return term
    shape = (1,) * missing + tuple(term.shape)
    return site.terms.add(Reshape(shape), [term], site.name("constant.full"))


FILL_PER_ROWS = 16
"""At least one channel in so many must be constant for a split into heads to fill them in."""

Runs = list[tuple[tuple[int, ...], tuple[int, ...]]]


@channels_of(Reshape)
class Reshapes(View):
    """Runs of dimensions, each by itself."""

    def _runs(self, site: Site) -> Runs:
        shape = cast(Reshape, site.node.op).shape
        found = reshape_groups(site.types[0].shape, shape)
        if found is None:
            return [(tuple(range(site.types[0].rank)), tuple(range(len(shape))))]
        return found

    def _frame(self, site: Site) -> tuple[Frame, Frame]:
        """The shapes over which elements are renamed: of the input, and of the result."""
        old, new = site.types[0].shape, cast(Reshape, site.node.op).shape
        frame = site.facts[0].frame
        before, after = [1] * len(old), [1] * len(new)
        total = 1
        for left, right in self._runs(site):
            numbers = [old[d] for d in left] + [new[d] for d in right]
            long = [d for d in left if old[d] != 1]
            if not long or not all(isinstance(n, int) for n in numbers):
                continue
            size = prod(int(old[d]) for d in left)
            if frame[long[0]] == 1 or total * size > MAX_FACTS:
                continue  # positions outermost: what they become is a position
            total *= size
            for d in left:
                before[d] = int(old[d])
            for d in right:
                after[d] = int(new[d])
        return tuple(before), tuple(after)

    def push(self, site: Site, mask: Mask) -> Mask:
        before, after = self._frame(site)
        return fit(mask, _reach(mask, before)).expand(before).reshape(after)

    def pull(self, site: Site, mask: Mask) -> Mask:
        before, after = self._frame(site)
        return _back(mask.expand(after).reshape(before), site.facts[0].frame)

    def even(self, site: Site, mask: Mask) -> Mask:
        """Heads may keep features of their own where they are split or joined."""
        dims = channel_dims(tuple(mask.shape))
        if len(dims) < 2:
            return mask
        for left, _ in self._runs(site):
            if set(dims) <= set(left):
                return ragged(mask, dims[-1])
        return rectangular(mask)

    def _filled(self, site: Site) -> Mask:
        """Channels of the input that are filled in where a layer's channels are split into heads.

        They are constant, so that the layer needs no row for them even where a head keeps them.
        A handful is not worth the copy.
        """
        x, none = site.facts[0], torch.zeros((), dtype=torch.bool)
        size = x.frame[-1] if x.frame else 1
        if x.fixed or x.term is None or size == 1 or x.known.numel() != size:
            return none
        split = [right for left, right in self._runs(site) if len(x.frame) - 1 in left]
        shape = x.term.shape
        if len(split) != 1 or len(split[0]) < 2 or shape[-1:] != (size,) or prod(shape) != size:
            return none
        count = int(x.known.sum())
        return x.known if FILL_PER_ROWS * count >= size > count else none

    def needs(self, site: Site, alive: Mask) -> Masks:
        needed = self.pull(site, alive)
        return (needed & ~self._filled(site),)

    def ties(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        dims = channel_dims(tuple(alive.shape))
        inside = any(set(dims) <= set(right) for _, right in self._runs(site))
        alive = ragged(alive, dims[-1]) if inside and len(dims) == 2 else rectangular(alive)
        filled = self._filled(site)
        if alive.dtype != torch.bool or not filled.any():
            return super().ties(site, inputs, alive)
        (x,) = inputs
        alive = alive | self.push(site, x)
        computed = x | (self.pull(site, alive) & ~filled)
        return (computed if computed.any() else x | self.pull(site, alive),), alive

    def term(self, site: Site) -> Term | None:
        term = site.facts[0].term
        if term is None:
            return None
        term = full_rank(site, term)
        old, new = site.types[0].shape, cast(Reshape, site.node.op).shape
        held = term.shape
        before, after = [1] * len(old), [1] * len(new)
        for left, right in self._runs(site):
            if all(held[d] == 1 for d in left):
                continue
            numbers = [old[d] for d in left] + [new[d] for d in right]
            if not all(isinstance(n, int) for n in numbers):
                return None
            for d in left:
                before[d] = int(old[d])
            for d in right:
                after[d] = int(new[d])
        if prod(before) > MAX_FACTS:
            return None
        spread = expand_term(site, term, before, "constant.spread")
        return site.terms.add(Reshape(tuple(after)), [spread], site.name("constant"))

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        op = cast(Reshape, site.node.op)
        shape = tuple(count_along(alive, d, size) for d, size in enumerate(op.shape))
        source, term = emit.input(0, inputs[0]), site.facts[0].term
        wanted = self.pull(site, alive)
        if term is not None and not site.facts[0].fixed and (wanted & ~inputs[0]).any():
            kept, wanted = inputs[0].reshape(-1), wanted.reshape(-1)
            base = emit.take(term, len(term.shape) - 1, wanted)
            inside = Spread(ranges_of(kept[wanted]))
            source = emit.add(inside, [source, base], site.name("filled"))
        emit.result(replace(op, shape=shape), [source])


def _reach(mask: Mask, before: Frame) -> Frame:
    """The frame of a mask where its dimensions take part, 1 elsewhere."""
    return tuple(m if m == b else 1 for m, b in zip(mask.shape, before, strict=True))


def _back(mask: Mask, frame: Frame) -> Mask:
    return fit(
        mask, tuple(f if m != 1 else 1 for f, m in zip(frame, mask.shape, strict=True))
    ).expand(frame)


@channels_of(Slice)
class Slices(View):
    """A range of channels, or the same channels at fewer positions."""

    def _cuts(self, site: Site) -> bool:
        """True for a range of channels that is the same at every call."""
        op = cast(Slice, site.node.op)
        known = isinstance(op.start, int) and isinstance(op.stop, int)
        return known and site.facts[0].frame[op.dim] > 1

    def push(self, site: Site, mask: Mask) -> Mask:
        op = cast(Slice, site.node.op)
        if not self._cuts(site):
            return mask.amax(op.dim, keepdim=True)
        index = torch.arange(int(op.start), int(op.stop), op.step)
        return mask.index_select(op.dim, index)

    def pull(self, site: Site, mask: Mask) -> Mask:
        op = cast(Slice, site.node.op)
        shape = [*mask.shape]
        shape[op.dim] = site.facts[0].frame[op.dim]
        if op.step != 1 or not self._cuts(site):
            return mask.amax(op.dim, keepdim=True).expand(shape)
        result = torch.zeros(shape, dtype=mask.dtype)
        result.narrow(op.dim, int(op.start), mask.shape[op.dim]).copy_(mask)
        return result

    def ties(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        if self._cuts(site):
            inputs, alive = (rectangular(inputs[0]),), rectangular(alive)
        return super().ties(site, inputs, alive)

    def even(self, site: Site, mask: Mask) -> Mask:
        """A range that changes from call to call counts in all channels."""
        op = cast(Slice, site.node.op)
        return mask if self._cuts(site) else whole(mask, [op.dim])

    def term(self, site: Site) -> Term | None:
        op, term = cast(Slice, site.node.op), site.facts[0].term
        if term is None:
            return None
        term = full_rank(site, term)
        if term.shape[op.dim] == 1:
            return term
        if not (isinstance(op.start, int) and isinstance(op.stop, int)):
            return None
        return site.terms.add(op, [term], site.name("constant"))

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        op = cast(Slice, site.node.op)
        if self._cuts(site) and op.step == 1:
            mask = inputs[0]
            vector = mask.amax([d for d in range(mask.dim()) if d != op.dim])
            start = int(vector[: int(op.start)].sum())
            kept = int(vector[int(op.start) : int(op.stop)].sum())
            op = replace(op, start=start, stop=start + kept)
        emit.result(op, [emit.input(0, inputs[0])])


@channels_of(Expand)
class Expands(View):
    """One element for many along the dimensions that the input lacks."""

    def _own(self, site: Site) -> tuple[bool, ...]:
        """For each dimension of the result, whether the input has it in full."""
        shape: tuple[Dim, ...] = site.types[0].shape
        missing = site.result.rank - len(shape)
        full = (1,) * missing + shape
        return tuple(
            a == b and d >= missing
            for d, (a, b) in enumerate(zip(full, site.result.shape, strict=True))
        )

    def push(self, site: Site, mask: Mask) -> Mask:
        missing = site.result.rank - mask.dim()
        return mask.reshape((1,) * missing + tuple(mask.shape))

    def pull(self, site: Site, mask: Mask) -> Mask:
        missing = site.result.rank - site.types[0].rank
        frame = site.facts[0].frame
        return fit(mask, (1,) * missing + frame).reshape(frame)

    def term(self, site: Site) -> Term | None:
        return site.facts[0].term

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        op = cast(Expand, site.node.op)
        shape = tuple(count_along(alive, d, size) for d, size in enumerate(op.shape))
        emit.result(replace(op, shape=shape), [emit.input(0, inputs[0])])
