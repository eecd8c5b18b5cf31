"""Norms: statistics read every channel that they are taken over, and so keep it.

Where a channel's gamma is 0 the result is its beta. An RMS norm of C channels, of which all but C'
are zero, is one of C' channels: sum / C + eps = (sum / C' + eps C / C') C' / C.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import cast

import torch

from sparse_compiler.ir.refusal import No
from sparse_compiler.ops.epilogue import TakesEpilogue
from sparse_compiler.ops.group_norm import GroupNorm
from sparse_compiler.ops.iota import Full
from sparse_compiler.ops.norm import LayerNorm, RmsNorm
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.shape import Reshape

from ..facts import (
    ChannelRule,
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
    rectangular,
    upright,
    whole,
)
from . import channels_of
from .pointwise import elementwise_facts, tie_elementwise

_STATISTICS = No("norm_statistics", "the norm's statistics are taken over every channel")


class Norm(ChannelRule):
    """Vectors along dimension `_dim` of the input, then an epilogue."""

    def _dim(self, site: Site) -> int:
        return site.node.op.channel_dim % site.result.rank

    def _size(self, site: Site) -> int:
        size = site.types[0].shape[self._dim(site)]
        return size if isinstance(size, int) else 1

    def _vectors(self, site: Site) -> tuple[Term | None, Term | None]:
        """gamma and beta."""
        op = cast(LayerNorm, site.node.op)
        gamma = site.facts[1].term if op.scale else None
        shift = getattr(op, "shift", False)
        return gamma, site.facts[1 + op.scale].term if shift else None

    def _fixed(self, site: Site) -> bool:
        last = cast(TakesEpilogue, site.node.op).operands
        return all(f.fixed for f in site.facts[1:last])

    def constant(self, site: Site) -> Mask:
        """Channels whose result is beta."""
        gamma, _ = self._vectors(site)
        if gamma is None or not self._fixed(site):
            return torch.zeros(self._size(site), dtype=torch.bool)
        return gamma.tensor == 0

    def core(self, site: Site) -> Facts:
        dim, size = self._dim(site), self._size(site)
        frame = tuple(size if d == dim else 1 for d in range(site.result.rank))
        joint = tuple(max(a, b) for a, b in zip(frame, site.facts[0].frame, strict=True))
        constant = self.constant(site)
        if not constant.any() or size == 1:
            return Facts(torch.zeros(joint, dtype=torch.bool))
        _, beta = self._vectors(site)
        known = upright(constant, dim, len(frame)).expand(joint)
        if beta is None:
            term = site.terms.add(Full(0.0, frame, site.result.dtype), (), site.name("constant"))
        else:
            term = site.terms.add(Reshape(frame), [beta], site.name("constant"))
        return Facts(known, term)

    def facts(self, site: Site) -> Facts:
        core = self.core(site)
        op = cast(TakesEpilogue, site.node.op)
        if op.epilogue == "x0":
            return core
        rest = list(zip(site.types[op.operands :], site.facts[op.operands :], strict=True))
        operands = [(site.result, core), *rest]
        return elementwise_facts(site, op.tree, Pointwise(op.epilogue), operands, "constant.end")

    def needs(self, site: Site, alive: Mask) -> Masks:
        start = tuple(torch.zeros(f.frame, dtype=torch.bool) for f in site.facts)
        return self.ties(site, start, alive)[0] if alive.any() else start

    def together(self, site: Site, alive: Mask) -> Mask:
        """The mask with all that the statistics of what is alive are taken over."""
        return rectangular(whole(alive, [self._dim(site)]))

    def ties(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        masks = list(inputs)
        first = cast(TakesEpilogue, site.node.op).operands
        if len(masks) > first:
            masks, alive = tie_elementwise(site, range(first, len(masks)), masks, alive)
        alive = torch.maximum(alive, masks[0].expand(alive.shape))
        alive = self.together(site, alive)
        masks[0] = torch.maximum(masks[0], fit(alive, tuple(masks[0].shape)))
        vector = along(alive, self._dim(site), self._size(site))
        for i in range(1, first):
            masks[i] = vector if site.facts[i].fixed else torch.ones_like(masks[i])
        if len(masks) > first:
            masks, alive = tie_elementwise(site, range(first, len(masks)), masks, alive)
        return tuple(masks), alive

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        emit.result(site.node.op, [emit.input(i, m) for i, m in enumerate(inputs)])

    def reason(self, site: Site) -> No | None:
        return _STATISTICS


@channels_of(LayerNorm)
class LayerNorms(Norm):
    """Over the last dimension, all of it."""


@channels_of(RmsNorm)
class RmsNorms(Norm):
    """Over the last dimension; channels that are known to be zero add nothing to the sum."""

    def _droppable(self, site: Site) -> Mask:
        size = self._size(site)
        return across(site.facts[0].zero, self._dim(site), size) & self._fixed(site)

    def core(self, site: Site) -> Facts:
        core, dim = super().core(site), self._dim(site)
        zero = self._droppable(site)
        if not zero.any():
            return core
        known = core.known | upright(zero, dim, core.known.dim())
        constant = self.constant(site)
        if core.term is not None and bool((constant & ~zero).any()):
            return core  # both kinds at once: only what gamma says
        shape = tuple(self._size(site) if d == dim else 1 for d in range(site.result.rank))
        term = site.terms.add(Full(0.0, shape, site.result.dtype), (), site.name("zeros"))
        return Facts(known, term)

    def together(self, site: Site, alive: Mask) -> Mask:
        if alive.dtype != torch.bool:
            return super().together(site, alive)
        dim = self._dim(site)
        needed = upright(~self._droppable(site), dim, alive.dim()) & alive.any()
        return rectangular(torch.maximum(alive, needed.expand(alive.shape)))

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        op = cast(RmsNorm, site.node.op)
        kept, size = along(alive, self._dim(site), self._size(site)), self._size(site)
        left = int(kept.sum())
        gamma = self._vectors(site)[0]
        if left == size or (op.scale and gamma is None):
            super().narrow(site, inputs, alive, emit)
            return
        if gamma is None:
            gamma = site.terms.add(Full(1.0, (size,), site.result.dtype), (), site.name("gamma"))
        scaled = site.terms.add(
            Pointwise(f"mul(x0, {sqrt(size / left)!r})"), [gamma], site.name("gamma.scaled")
        )
        rest = [emit.input(i, inputs[i]) for i in range(op.operands, len(inputs))]
        names = [emit.input(0), emit.take(scaled, 0, kept), *rest]
        epilogue = op.epilogue
        emit.result(replace(op, scale=True, eps=op.eps * size / left, epilogue=epilogue), names)


@channels_of(GroupNorm)
class GroupNorms(Norm):
    """Over the channels of a group: a group stays or goes as a whole."""

    def _groups(self, site: Site) -> int:
        return cast(GroupNorm, site.node.op).groups

    def core(self, site: Site) -> Facts:
        core = super().core(site)
        if self._groups(site) != self._size(site) or not self._fixed(site):
            return core
        x = site.facts[0]  # a channel by itself: a constant less its mean is 0
        dim = self._dim(site)
        if x.term is None or any(s != 1 for s in x.term.shape[2:]):
            return core
        known = across(x.known, dim, self._size(site)) | along(core.known, dim, self._size(site))
        if not known.any():
            return core
        _, beta = self._vectors(site)
        frame = tuple(core.known.shape)
        flat = tuple(self._size(site) if d == dim else 1 for d in range(len(frame)))
        if beta is None:
            term = site.terms.add(Full(0.0, flat, site.result.dtype), (), site.name("constant"))
        else:
            term = site.terms.add(Reshape(flat), [beta], site.name("constant"))
        return Facts(upright(known, dim, len(frame)).expand(frame), term)

    def together(self, site: Site, alive: Mask) -> Mask:
        groups, size = self._groups(site), self._size(site)
        flat = along(alive, 1, size).reshape(groups, size // groups)
        if alive.dtype == torch.bool:
            flat = ragged(flat.amax(1, keepdim=True).expand(flat.shape), 1)
        else:
            flat = flat.amax(1, keepdim=True).expand(flat.shape)
        return torch.maximum(alive, upright(flat.reshape(-1), 1, alive.dim()).expand(alive.shape))

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        op = cast(GroupNorm, site.node.op)
        size = self._size(site)
        flat = along(alive, 1, size).reshape(op.groups, size // op.groups)
        names = [emit.input(i, m) for i, m in enumerate(inputs)]
        emit.result(replace(op, groups=int(flat.any(1).sum())), names)

    def reason(self, site: Site) -> No | None:
        return None if self._groups(site) == self._size(site) else _STATISTICS
