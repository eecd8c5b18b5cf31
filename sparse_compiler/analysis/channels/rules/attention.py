"""Attention, rotary embeddings and products of activations: heads, and the features inside them.

Scores are sums over the features of queries and keys, so a feature that is 0 in one of them goes
from both. One that is the same for all keys adds one number to all scores of a query, which a
softmax does not see. Weights of a softmax add up to 1: a constant value comes out as it is.
"""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import cast

import torch

from sparse_compiler.ir.refusal import No
from sparse_compiler.ops.attention import Attention
from sparse_compiler.ops.iota import Full
from sparse_compiler.ops.matmul import Matmul
from sparse_compiler.ops.rotary import Rotary
from sparse_compiler.ops.shape import Expand, Reshape, Slice

from ..facts import (
    ChannelRule,
    Emit,
    Facts,
    Frame,
    Mask,
    Masks,
    Site,
    Term,
    across,
    along,
    fit,
    fit_all,
    ragged,
    upright,
    whole,
)
from . import channels_of
from .views import full_rank


@channels_of(Attention)
class Attentions(ChannelRule):
    """Heads [B, H, S, D]; each head may keep features of its own, but all as many."""

    def _sizes(self, site: Site) -> tuple[int, int, int, int] | None:
        """Heads of queries, heads of keys, features of keys, features of values."""
        q, k, v = site.types[:3]
        found = (q.shape[1], k.shape[1], q.shape[3], v.shape[3])
        whole = all(isinstance(size, int) for size in found)
        return cast("tuple[int, int, int, int]", found) if whole else None

    def _grid(self, mask: Mask, heads: int, features: int) -> Mask:
        """A mask as [heads, features]."""
        return mask.amax((0, 2)).expand(heads, features)

    def _all(self, mask: Mask, heads: int, features: int) -> Mask:
        return mask.amin(0).amin(1).expand(heads, features)

    def _frame(self, site: Site) -> Frame:
        sizes = self._sizes(site)
        return (1, sizes[0], 1, sizes[3]) if sizes else (1,) * 4

    def facts(self, site: Site) -> Facts:
        frame, sizes = self._frame(site), self._sizes(site)
        v = site.facts[2]
        nothing = Facts(torch.zeros(frame, dtype=torch.bool))
        op = cast(Attention, site.node.op)
        if sizes is None or v.term is None or op.nan_rows:
            return nothing
        heads, groups, _, features = sizes
        blind = op.mask  # a query that sees no key gives 0, whatever the values
        known = self._all(v.zero if blind else v.known, groups, features)
        term = full_rank(site, v.term)
        if any(term.shape[d] != 1 for d in (0, 2)):
            known = known & self._all(v.zero, groups, features)
        if not known.any():
            return nothing
        return Facts(self._per_query(known, heads).reshape(frame), self._term(site, term, heads))

    def _per_query(self, grid: Mask, heads: int) -> Mask:
        return grid.repeat_interleave(heads // grid.shape[0], 0)

    def _term(self, site: Site, term: Term, heads: int) -> Term:
        """Constants of keys' heads, once for each query head that reads them; positions first."""
        for d in (0, 2):
            if term.shape[d] != 1:
                term = site.terms.add(Slice(d, 0, 1), [term], site.name(f"value.{d}"))
        groups, features = term.shape[1], term.shape[3]
        if groups in (1, heads):
            return term
        split = site.terms.add(Reshape((1, groups, 1, features)), [term], site.name("value.split"))
        shape = (1, groups, heads // groups, features)
        spread = site.terms.add(Expand(shape), [split], site.name("value.spread"))
        return site.terms.add(Reshape((1, heads, 1, features)), [spread], site.name("constant"))

    def _even_keys(self, site: Site) -> Mask:
        """[groups, D]: features of keys that are the same for all keys of a sample."""
        sizes = self._sizes(site) or (1, 1, 1, 1)
        k = site.facts[1]
        if k.term is None:
            return torch.zeros(sizes[1], sizes[2], dtype=torch.bool)
        term = k.term.tensor
        along_keys = term.dim() >= 2 and term.shape[-2] != 1
        known = k.zero if along_keys else k.known
        return self._all(known, sizes[1], sizes[2])

    def needs(self, site: Site, alive: Mask) -> Masks:
        sizes = self._sizes(site)
        anything = bool(alive.any())
        if sizes is None:
            return tuple(torch.full(f.frame, anything) for f in site.facts)
        heads, groups, wide, features = sizes
        out = self._grid(alive, heads, features)
        grouped = out.reshape(groups, heads // groups, features)
        values = grouped.any(1)
        # A score needs the features that are 0 neither in the query nor in the key.
        dead = self._all(site.facts[0].zero, heads, wide)
        keys = self._even_keys(site)
        scores = out.any(1, keepdim=True) & ~dead & ~self._per_query(keys, heads)
        per_key = scores.reshape(groups, heads // groups, wide).any(1)
        masks = [self._per_query(per_key, heads) & out.any(1, keepdim=True), per_key, values]
        shaped = [_grid_mask(m, f.frame) for m, f in zip(masks, site.facts, strict=False)]
        return (*shaped, *(torch.full(f.frame, anything) for f in site.facts[3:]))

    def ties(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        sizes = self._sizes(site)
        if sizes is None or (alive.dtype == torch.bool and not alive.any()):
            return inputs, alive
        if any(f.fixed for f in site.facts[:3]):
            everything = tuple(torch.ones_like(m) for m in inputs), torch.ones_like(alive)
            return everything if alive.dtype == torch.bool else (inputs, alive)
        heads, groups, wide, features = sizes
        share = heads // groups
        q = self._grid(inputs[0], heads, wide).reshape(groups, share, wide)
        k = self._grid(inputs[1], groups, wide)
        v = self._grid(inputs[2], groups, features)
        out = self._grid(alive, heads, features).reshape(groups, share, features)
        k, v = torch.maximum(k, q.amax(1)), torch.maximum(v, out.amax(1))
        if alive.dtype == torch.bool:
            q, k, v, out = self._heads(site, q, k, v, out)
        else:
            q, out = torch.maximum(q, k[:, None]), torch.maximum(out, v[:, None])
        masks = [
            torch.maximum(m, _grid_mask(g, f.frame))
            for m, g, f in zip(inputs, (q.reshape(heads, wide), k, v), site.facts, strict=False)
        ]
        alive = torch.maximum(alive, out.reshape(1, heads, 1, features))
        return (*masks, *inputs[3:]), alive

    def _heads(self, site: Site, q: Mask, k: Mask, v: Mask, out: Mask) -> tuple[Mask, ...]:
        """[groups, (query heads,) features] each: as many of everything in all heads that stay."""
        present = q.any(2) | out.any(2)
        live = v.any(1) | k.any(1) | present.any(1)
        mask = site.types[3] if len(site.types) > 3 else None
        if mask is not None and mask.rank >= 3 and mask.shape[-3] != 1:
            present, live = torch.ones_like(present), torch.ones_like(live)  # one for each head
        k, v, present = k.clone(), v.clone(), present.clone()
        for grid in (k, v, present):
            grid[live & ~grid.any(1), 0] = True
        k, v, present = ragged(k, 1), ragged(v, 1), ragged(present, 1)
        return present[..., None] & k[:, None], k, v, present[..., None] & v[:, None]

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        op, sizes = cast(Attention, site.node.op), self._sizes(site)
        scale = op.scale
        if scale is None and sizes is not None:
            kept = int(self._grid(inputs[1], sizes[1], sizes[2]).sum(1).max())
            scale = None if kept == sizes[2] else 1 / sqrt(sizes[2])
        emit.result(replace(op, scale=scale), [emit.input(i) for i in range(len(inputs))])

    def reason(self, site: Site) -> No | None:
        if cast(Attention, site.node.op).mask:
            return No("mask_may_hide_all", "a query that sees no key gives 0 and no constant")
        return None


def _grid_mask(grid: Mask, frame: Frame) -> Mask:
    """[heads, features] as a mask of [B, H, S, D]."""
    return fit(grid.reshape(1, grid.shape[0], 1, grid.shape[1]), frame)


@channels_of(Rotary)
class Rotaries(ChannelRule):
    """Heads pass; features turn in pairs, so that a head keeps them all."""

    def facts(self, site: Site) -> Facts:
        x = site.facts[0]
        known = fit_all(x.zero, (1, x.frame[1], 1, 1)).expand(x.frame)
        if not known.any() or x.term is None:
            return Facts(torch.zeros_like(known))
        return Facts(known, x.term)

    def needs(self, site: Site, alive: Mask) -> Masks:
        start = tuple(torch.zeros(f.frame, dtype=torch.bool) for f in site.facts)
        return self.ties(site, start, alive)[0] if alive.any() else start

    def ties(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        x = inputs[0]
        alive = whole(torch.maximum(alive, x), [3]) if x.shape == alive.shape else alive
        x = torch.maximum(x, alive)
        anything = bool((alive != 0).any()) and alive.dtype == torch.bool
        rest = tuple(m | anything if m.dtype == torch.bool else m for m in inputs[1:])
        return (x, *rest), alive

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        emit.result(site.node.op, [emit.input(i) for i in range(len(inputs))])

    def reason(self, site: Site) -> No | None:
        return No("rotary_pairs", "features turn in pairs, which keeps those of a head together")


@channels_of(Matmul)
class Matmuls(ChannelRule):
    """a [.., M, K] b [.., K, N]: each dimension on its own keeps some of its elements.

    An element of K is needed where it is zero neither in all of a nor in all of b.
    """

    def _plain(self, site: Site) -> bool:
        """Same leading dimensions on both sides, and nothing of weights among them."""
        a, b = site.types
        return a.shape[:-2] == b.shape[:-2] and not any(f.fixed for f in site.facts)

    def facts(self, site: Site) -> Facts:
        a, b = site.facts
        if not self._plain(site):
            return Facts(torch.zeros((1,) * site.result.rank, dtype=torch.bool))
        lead = [max(x, y) for x, y in zip(a.frame[:-2], b.frame[:-2], strict=True)]
        frame = (*lead, a.frame[-2], b.frame[-1])
        rows = fit_all(a.zero, (*a.frame[:-1], 1))
        columns = fit_all(b.zero, (*b.frame[:-2], 1, b.frame[-1]))
        known = (rows | columns).expand(frame)
        if not known.any():
            return Facts(torch.zeros(frame, dtype=torch.bool))
        op = Full(0.0, (1,) * site.result.rank, site.result.dtype)
        return Facts(known, site.terms.add(op, (), site.name("constant")))

    def needs(self, site: Site, alive: Mask) -> Masks:
        start = tuple(torch.zeros(f.frame, dtype=torch.bool) for f in site.facts)
        if not alive.any():
            return start
        if not self._plain(site):
            return tuple(torch.ones_like(m) for m in start)
        return self._joined(site, start, alive, self._inner(site))[0]

    def _inner(self, site: Site) -> Mask:
        a, b = site.facts
        size = max(a.frame[-1], b.frame[-2])
        zero = across(a.zero, -1, a.frame[-1]) | across(b.zero, -2, b.frame[-2])
        return ~zero.expand(size)

    def ties(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        if not self._plain(site) or alive.dtype != torch.bool or not alive.any():
            return inputs, alive
        size = max(inputs[0].shape[-1], inputs[1].shape[-2])
        return self._joined(site, inputs, alive, torch.zeros(size, dtype=torch.bool))

    def _joined(self, site: Site, inputs: Masks, alive: Mask, inner: Mask) -> tuple[Masks, Mask]:
        a, b = inputs
        inner = inner | along(a, -1, len(inner)) | along(b, -2, len(inner))
        if not inner.any():
            inner = torch.arange(len(inner)) == 0
        rows = along(alive, -2, alive.shape[-2]) | along(a, -2, alive.shape[-2])
        columns = along(alive, -1, alive.shape[-1]) | along(b, -1, alive.shape[-1])
        lead = []
        for d, size in enumerate(alive.shape[:-2]):
            lead.append(along(alive, d, size) | along(a, d, size) | along(b, d, size))
        a = a | _outer((*lead, rows, inner), tuple(a.shape))
        b = b | _outer((*lead, inner, columns), tuple(b.shape))
        return (a, b), alive | _outer((*lead, rows, columns), tuple(alive.shape))

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        emit.result(site.node.op, [emit.input(0), emit.input(1)])

    def reason(self, site: Site) -> No | None:
        return None


def _outer(vectors: tuple[Mask, ...], frame: Frame) -> Mask:
    """The product of a vector for each dimension, in a frame."""
    result = torch.ones((1,) * len(frame), dtype=torch.bool)
    for d, vector in enumerate(vectors):
        held = vector if frame[d] != 1 else vector.any().reshape(1)
        result = result & upright(held, d, len(frame))
    return result.expand(frame)
