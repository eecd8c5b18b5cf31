"""Convolutions: a layer over channels, in groups, whose zero padding shows at the borders.

A constant channel adds the same number at every place but near a border of zeros, where some taps
read the padding. What it adds there is the convolution of the constant itself: a map.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import prod
from typing import cast

import torch

from sparse_compiler.ir.op import Op
from sparse_compiler.ops.cat import Cat
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.iota import Full
from sparse_compiler.ops.shape import Reshape, Slice

from ..facts import (
    MAX_FACTS,
    Emit,
    Facts,
    Mask,
    Masks,
    Site,
    Term,
    across,
    along,
    fit,
    ragged,
    upright,
)
from . import channels_of
from .linear import Layer, _zeros, count_weights, finish, take
from .pointwise import expand_term, finite
from .views import full_rank


@channels_of(Conv)
class Convs(Layer):
    """Groups keep as many channels each, every one its own; a group goes where it feeds nobody."""

    def _sizes(self, site: Site) -> tuple[int, int, int]:
        """Groups, inputs of a group, outputs of a group."""
        op, weight = cast(Conv, site.node.op), site.types[1].shape
        return op.groups, int(weight[1]), int(weight[0]) // op.groups

    def _pattern(self, site: Site) -> Mask:
        """[groups, outputs, inputs]: which outputs read which inputs of their group."""
        groups, inputs, outputs = self._sizes(site)
        weight = site.facts[1].term
        if weight is None:
            return torch.ones(groups, outputs, inputs, dtype=torch.bool)
        return site.terms.pattern(weight, groups)

    def _known(self, site: Site) -> tuple[Mask, Mask]:
        """Channels of the input whose constants can be folded, and those of them that are 0."""
        groups, inputs, _ = self._sizes(site)
        x = site.facts[0]
        known, zero = (across(m, 1, groups * inputs) for m in (x.known, x.zero))
        return (known if self._foldable(site) else zero), zero

    def _foldable(self, site: Site) -> bool:
        term = site.facts[0].term
        if term is None:
            return False
        if self._even(site, full_rank(site, term)):
            return True
        sizes = (*site.types[0].shape[2:], *site.result.shape[2:])
        if not all(isinstance(s, int) for s in sizes):
            return False
        wide = prod(int(s) for s in sizes[: len(sizes) // 2])
        return wide * int(site.types[0].shape[1]) <= MAX_FACTS

    def _even(self, site: Site, term: Term) -> bool:
        """True where constants add the same at every place."""
        op = cast(Conv, site.node.op)
        return not op.transposed and not any(op.padding) and all(s == 1 for s in term.shape[2:])

    def _constant(self, site: Site, known: Mask) -> Mask:
        """[groups, outputs]: outputs that read known channels alone."""
        groups, inputs, _ = self._sizes(site)
        weight = site.facts[1].term
        if weight is None or known.any():
            return ~(self._pattern(site) & ~known.reshape(groups, 1, inputs)).any(2)
        return ~site.terms.reading(weight, groups)

    def _read(self, site: Site, rows: Mask) -> Mask:
        """[groups, inputs]: channels that the rows [groups, outputs] read."""
        weight = site.facts[1].term
        if weight is None or not rows.all():
            return (self._pattern(site) & rows[..., None]).any(1)
        return site.terms.read(weight, cast(Conv, site.node.op).groups)

    def core(self, site: Site) -> Facts:
        known, zero = self._known(site)
        constant = self._constant(site, known)
        mask = upright(constant.reshape(-1), 1, site.result.rank)
        if not constant.any():
            return Facts(mask)
        read = (self._pattern(site) & constant[..., None]).any(1).reshape(-1) & known & ~zero
        term = self.bias(site, read, torch.ones(constant.numel(), dtype=torch.bool))
        mask = finite(mask, term)
        return Facts(mask, term)

    def bias(self, site: Site, folded: Mask, kept: Mask) -> Term:
        """[1, M', ...]: the bias of the rows kept, and what constant channels `folded` add."""
        op = cast(Conv, site.node.op)
        groups, inputs, _ = self._sizes(site)
        bias = site.facts[2].term if op.bias else None
        x, weight = site.facts[0].term, site.facts[1].term
        if x is None or weight is None or not folded.any():
            shape = (1, int(kept.sum()), *(1,) * (site.result.rank - 2))
            if bias is None:
                return _zeros(site, shape)
            short = take(site, bias, 0, kept, "bias.rows")
            return site.terms.add(Reshape(shape), [short], site.name("bias.constant"))
        x = full_rank(site, x)
        kernel = weight.shape[2:]
        if self._even(site, x):
            places = [d * (k - 1) + 1 for d, k in zip(op.dilation, kernel, strict=True)]
        else:
            places = [int(s) for s in site.types[0].shape[2:]]
        x = expand_term(site, x, (1, groups * inputs, *places), "input.spread")
        if groups == 1:
            x = take(site, x, 1, folded, "input.constant")
            weight = take(site, weight, 0, kept, "weight.rows")
            weight = take(site, weight, 1, folded, "weight.constant")
            bias = bias and take(site, bias, 0, kept, "bias.rows")
        elif inputs > 1:
            x = _only(site, x, folded)
        plain = replace(op, bias=bias is not None, epilogue="x0")
        terms = [x, weight] if bias is None else [x, weight, bias]
        found = site.terms.add(plain, terms, site.name("bias.folded"))
        return found if groups == 1 else take(site, found, 1, kept, "bias.kept")

    def reads(self, site: Site, rows: Mask, x: Mask) -> Mask:
        groups, inputs, outputs = self._sizes(site)
        kept = along(rows, 1, groups * outputs).reshape(groups, outputs)
        known, _ = self._known(site)
        needed = self._read(site, kept) & ~known.reshape(groups, inputs)
        idle = kept.any(1) & ~needed.any(1)
        needed[idle, 0] = True  # a group that stays reads something, be it a constant
        frame = site.facts[0].frame
        mask = upright(needed.reshape(-1), 1, len(frame))
        held = tuple(f if d == 1 else 1 for d, f in enumerate(frame))
        return torch.maximum(x, fit(mask, held).expand(frame))

    def ties(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        inputs, alive = super().ties(site, inputs, alive)
        groups = cast(Conv, site.node.op).groups
        if groups == 1 or not self.applies(site) or inputs[0].shape[1] == 1:
            return inputs, alive
        return self._tie_groups(site, inputs, alive)

    def _tie_groups(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        """A group stays with at least an input and an output, and all with as many."""
        groups, wide, high = self._sizes(site)
        x = along(inputs[0], 1, groups * wide).reshape(groups, wide)
        y = along(alive, 1, groups * high).reshape(groups, high)
        if x.dtype != torch.bool and wide == 1:  # labels: an input goes with its outputs
            joint = torch.maximum(x.amax(1, keepdim=True), y.amax(1, keepdim=True))
            x, y = joint.expand(x.shape), joint.expand(y.shape)
        elif x.dtype == torch.bool:
            x, y = x.clone(), y.clone()
            live = x.any(1) | y.any(1)
            x[live & ~x.any(1), 0] = True
            y[live & ~y.any(1), 0] = True
            x, y = ragged(x, 1), ragged(y, 1)
        frame, result = tuple(inputs[0].shape), tuple(alive.shape)
        first = torch.maximum(inputs[0], upright(x.reshape(-1), 1, len(frame)).expand(frame))
        alive = torch.maximum(alive, upright(y.reshape(-1), 1, len(result)).expand(result))
        return (first, *inputs[1:]), alive

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        op = cast(Conv, site.node.op)
        weight = site.facts[1].term
        if not self.applies(site) or weight is None:
            emit.result(op, [emit.input(i) for i in range(len(inputs))])
            return
        groups, wide, high = self._sizes(site)
        rows, kept = along(alive, 1, groups * high), along(inputs[0], 1, groups * wide)
        left = self._weight(site, weight, rows, kept)
        known, zero = self._known(site)
        used = kept.reshape(groups, wide).any(1, keepdim=True).expand(groups, wide).reshape(-1)
        folded = known & ~kept & ~zero & used
        count_weights(emit, site, weight, left)
        if groups > 1:
            op = replace(op, groups=int(kept.reshape(groups, wide).any(1).sum()))
            site = replace(site, node=replace(site.node, op=op))
        operands = [emit.input(i, inputs[i]) for i in range(op.operands, len(inputs))]
        layer = [emit.input(0), emit.term(left)]
        if not folded.any():
            if op.bias and site.facts[2].term is not None:
                layer.append(emit.take(site.facts[2].term, 0, rows))
            emit.result(op, [*layer, *operands])
            return
        whole = replace(site, node=replace(site.node, op=replace(op, groups=groups)))
        finish(site, emit, self.bias(whole, folded, rows), layer, operands)

    def _weight(self, site: Site, weight: Term, rows: Mask, kept: Mask) -> Term:
        groups, wide, high = self._sizes(site)
        if groups == 1:
            return take(site, take(site, weight, 0, rows, "weight.rows"), 1, kept, "weight.live")
        if bool(rows.all()) and bool(kept.all()):
            return weight
        taps = tuple(weight.shape[2:])
        grid = rows.reshape(groups, high, 1) & kept.reshape(groups, 1, wide)
        count = int(grid.sum(2).max())
        flat = site.terms.add(
            Reshape((groups * high * wide, *taps)), [weight], site.name("weight.flat")
        )
        picked = take(site, flat, 0, grid.reshape(-1), "weight.picked")
        shape = (int(rows.sum()), count, *taps)
        return site.terms.add(Reshape(shape), [picked], site.name("weight.live"))


def _only(site: Site, x: Term, folded: Mask) -> Term:
    """The term with zeros in the channels that are not folded."""
    if bool(folded.all()):
        return x
    shape = x.shape
    edges = [0, *(torch.nonzero(folded.diff()).flatten() + 1).tolist(), len(folded)]
    parts = []
    for start, stop in pairwise(edges):
        if folded[start]:
            op: Op = Slice(1, start, stop)
            parts.append(site.terms.add(op, [x], site.name(f"input.{start}")))
        else:
            op = Full(0.0, (shape[0], stop - start, *shape[2:]), site.result.dtype)
            parts.append(site.terms.add(op, (), site.name(f"input.{start}")))
    return site.terms.add(Cat(1), parts, site.name("input.constant"))
