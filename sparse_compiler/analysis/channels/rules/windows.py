"""Ops that mix positions and leave each channel to itself: pools, resampling, sums over positions.

A constant that is the same at all positions stays the same under most of them; where it does not,
at a border of zeros or in a sum, the op itself says what it becomes.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch

from sparse_compiler.ir.op import Op
from sparse_compiler.ir.refusal import No
from sparse_compiler.ops.pad import Pad
from sparse_compiler.ops.pool import AdaptivePool, Pool
from sparse_compiler.ops.reduce import Reduce
from sparse_compiler.ops.roll import Flip, Roll
from sparse_compiler.ops.scan import Cumsum
from sparse_compiler.ops.shape import Relayout, Reshape
from sparse_compiler.ops.softmax import Softmax
from sparse_compiler.ops.upsample import Upsample

from ..facts import (
    MAX_FACTS,
    ChannelRule,
    Emit,
    Facts,
    Mask,
    Masks,
    Site,
    Term,
    fit,
    rectangular,
    whole,
)
from . import channels_of
from .pointwise import expand_term, finite
from .views import full_rank


def _spatial(op: Any, rank: int) -> tuple[int, ...]:
    return tuple(range(2, rank))


_TOUCHED: dict[type[Op], Callable[[Any, int], tuple[int, ...]]] = {
    Pool: _spatial,
    AdaptivePool: _spatial,
    Upsample: _spatial,
    Pad: lambda op, rank: tuple(d for d in range(rank) if (op.before[d], op.after[d]) != (0, 0)),
    Reduce: lambda op, rank: op.dims,
    Softmax: lambda op, rank: (op.dim % rank,),
    Cumsum: lambda op, rank: (op.dim,),
    Roll: lambda op, rank: op.dims,
    Flip: lambda op, rank: op.dims,
    Relayout: lambda op, rank: (),
}

_EVEN: dict[type[Op], Callable[[Any], bool]] = {
    Pool: lambda op: (
        op.kind == "max" or (op.divisor is None and not (any(op.padding) and op.count_include_pad))
    ),
    AdaptivePool: lambda op: True,
    Upsample: lambda op: True,
    Pad: lambda op: op.mode != "constant",
    Reduce: lambda op: op.fn in ("mean", "amax", "amin", "any", "all"),
    Softmax: lambda op: False,
    Cumsum: lambda op: False,
    Roll: lambda op: True,
    Flip: lambda op: True,
    Relayout: lambda op: True,
}


@channels_of(*_TOUCHED)
class MixesPositions(ChannelRule):
    """Channels along the dimensions that an op does not touch; those it touches are positions."""

    def _dims(self, site: Site) -> tuple[int, ...]:
        return _TOUCHED[type(site.node.op)](site.node.op, site.types[0].rank)

    def _dropped(self, site: Site) -> tuple[int, ...]:
        """Dimensions that the result lacks."""
        op = site.node.op
        return op.dims if isinstance(op, Reduce) and not op.keepdim else ()

    def _push(self, site: Site, mask: Mask) -> Mask:
        """To the result's frame: the touched dimensions give 1 element, or none."""
        for d in self._dims(site):
            mask = mask.amax(d, keepdim=True)
        for d in sorted(self._dropped(site), reverse=True):
            mask = mask.squeeze(d)
        return mask

    def _pull(self, site: Site, mask: Mask) -> Mask:
        for d in sorted(self._dropped(site)):
            mask = mask.unsqueeze(d)
        return fit(mask, tuple(mask.shape)).expand(site.facts[0].frame)

    def facts(self, site: Site) -> Facts:
        x = site.facts[0]
        known = ~self._push(site, ~x.known)
        if not known.any() or x.term is None:
            return Facts(torch.zeros_like(known))
        term = self._term(site, full_rank(site, x.term))
        if term is None:
            return Facts(torch.zeros_like(known))
        return Facts(finite(known, term), term)

    def _term(self, site: Site, term: Term) -> Term | None:
        dims, op = self._dims(site), site.node.op
        held = term.shape
        if all(held[d] == 1 for d in dims) and _EVEN[type(op)](op):
            if not self._dropped(site):
                return term
            shape = tuple(s for d, s in enumerate(held) if d not in self._dropped(site))
            return site.terms.add(Reshape(shape), [term], site.name("constant"))
        wanted = [site.types[0].shape[d] if d in dims else s for d, s in enumerate(held)]
        if not all(isinstance(size, int) for size in wanted):
            return None
        shape = tuple(int(size) for size in wanted)
        if prod(shape) > MAX_FACTS:
            return None
        spread = expand_term(site, term, shape, "constant.spread")
        return site.terms.add(op, [spread], site.name("constant"))

    def needs(self, site: Site, alive: Mask) -> Masks:
        return (self._pull(site, alive),)

    def ties(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        x = inputs[0]
        if site.facts[0].fixed:
            return inputs, alive
        touched = [d for d in self._dims(site) if x.shape[d] > 1]
        if touched:
            x = rectangular(whole(x, touched))
        alive = torch.maximum(alive, self._push(site, x))
        return (torch.maximum(x, self._pull(site, alive)),), alive

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        emit.result(site.node.op, [emit.input(0)])

    def reason(self, site: Site) -> No | None:
        if isinstance(site.node.op, Softmax) and site.facts[0].frame[site.node.op.dim] > 1:
            return No("softmax_statistics", "every channel is part of the softmax's sum")
        if any(site.facts[0].frame[d] > 1 for d in self._dims(site)):
            return No("mixes_channels", f"{site.node.op.name} computes one channel from others")
        return None
