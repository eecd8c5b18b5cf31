"""Tensors joined: along channels, each part keeps its own; along positions, all keep the same."""

from __future__ import annotations

from math import prod
from typing import cast

import torch

from sparse_compiler.ir.refusal import No
from sparse_compiler.ops.cat import Cat
from sparse_compiler.ops.iota import Full

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
    fit,
    fit_all,
    rectangular,
)
from . import channels_of
from .pointwise import expand_term


@channels_of(Cat)
class Joins(ChannelRule):
    """Tensors one after another, along their channels or along positions."""

    def _cuts(self, site: Site) -> bool:
        dim = cast(Cat, site.node.op).dim
        along = [t.shape[dim] for t in site.types]
        return all(isinstance(size, int) for size in along) and any(
            not f.fixed and f.frame[dim] > 1 for f in site.facts
        )

    def _frame(self, site: Site) -> Frame:
        dim, rank = cast(Cat, site.node.op).dim, site.result.rank
        moving = [f.frame for f in site.facts if not f.fixed]
        frame = [max((f[d] for f in moving), default=1) for d in range(rank)]
        frame[dim] = int(site.result.shape[dim]) if self._cuts(site) else 1
        return tuple(frame)

    def _part(self, site: Site, index: int) -> Frame:
        """The frame of one input as a part of the result's."""
        dim, frame = cast(Cat, site.node.op).dim, list(self._frame(site))
        if self._cuts(site):
            frame[dim] = int(site.types[index].shape[dim])
        return tuple(frame)

    def _split(self, site: Site, mask: Mask) -> list[Mask]:
        dim = cast(Cat, site.node.op).dim
        if not self._cuts(site):
            return [mask] * len(site.types)
        return list(
            torch.split(mask, [self._part(site, i)[dim] for i in range(len(site.types))], dim)
        )

    def facts(self, site: Site) -> Facts:
        op = cast(Cat, site.node.op)
        parts = []
        for i, facts in enumerate(site.facts):
            frame = self._part(site, i)
            reach = tuple(a if a == b else 1 for a, b in zip(facts.frame, frame, strict=True))
            parts.append(fit_all(facts.known, reach).expand(frame))
        known = torch.cat(parts, op.dim) if self._cuts(site) else torch.stack(parts).all(0)
        term = self._term(site, known) if known.any() else None
        return Facts(known & (term is not None), term)

    def _term(self, site: Site, known: Mask) -> Term | None:
        op = cast(Cat, site.node.op)
        whole = [f.term for f in site.facts if f.term is not None]
        if not self._cuts(site) and len(whole) == len(site.facts):
            first = whole[0].tensor
            flat = all(len(t.shape) == first.dim() and t.shape[op.dim] == 1 for t in whole)
            if flat and all(torch.equal(t.tensor, first) for t in whole):
                return whole[0]
        known_terms = [f.term.shape for f in site.facts if f.term is not None]
        rank = site.result.rank
        full = [(1,) * (rank - len(shape)) + shape for shape in known_terms]
        shape = [max(column) for column in zip(*full, strict=True)]
        if not all(isinstance(t.shape[op.dim], int) for t in site.types):
            return None
        terms = []
        for i, facts in enumerate(site.facts):
            part = list(shape)
            part[op.dim] = int(site.types[i].shape[op.dim])
            if prod(part) > MAX_FACTS:
                return None
            term = facts.term or _nothing(site, i)
            terms.append(expand_term(site, term, part, f"constant.part{i}"))
        return site.terms.add(op, terms, site.name("constant"))

    def needs(self, site: Site, alive: Mask) -> Masks:
        return tuple(
            fit(part, f.frame) if not f.fixed else part
            for part, f in zip(self._split(site, alive), site.facts, strict=True)
        )

    def ties(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        alive = rectangular(alive)
        parts = self._split(site, alive)
        grown = []
        for i, part in enumerate(parts):
            if site.facts[i].fixed:
                grown.append(part)
                continue
            reach = self._part(site, i)
            own = inputs[i].shape
            held = fit(
                inputs[i], tuple(a if a == b else 1 for a, b in zip(own, reach, strict=True))
            )
            grown.append(torch.maximum(part, held.expand(reach)))
        dim = cast(Cat, site.node.op).dim
        if self._cuts(site):
            alive = torch.cat(grown, dim)
        else:
            for part in grown:
                alive = torch.maximum(alive, part)
        alive = rectangular(alive)
        masks = []
        for i, part in enumerate(self._split(site, alive)):
            facts = site.facts[i]
            masks.append(part if facts.fixed else torch.maximum(inputs[i], fit(part, facts.frame)))
        return tuple(masks), alive

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        """Parts of which nothing is left go, unless all would."""
        dim = cast(Cat, site.node.op).dim
        parts = self._split(site, alive)
        kept = [i for i, part in enumerate(parts) if bool(part.any()) or not self._cuts(site)]
        emit.result(Cat(dim), [emit.input(i, inputs[i]) for i in kept or [0]])

    def reason(self, site: Site) -> No | None:
        return None


def _nothing(site: Site, index: int) -> Term:
    op = Full(0.0, (1,) * site.result.rank, site.types[index].dtype)
    return site.terms.add(op, (), site.name(f"nothing{index}"))
