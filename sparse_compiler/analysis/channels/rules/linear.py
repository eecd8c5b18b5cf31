"""Layers with a weight: which rows and columns still matter, and what constants add to the bias.

y = W x + b. With x constant in the channels K, y = W' x' + (b + W_K x_K): the columns of constant
channels move into the bias. A row that reads constants alone is constant, with that bias for its
value. A constant that differs from place to place gives a bias for each place.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import cast

import torch

from sparse_compiler.ir.expr import Arg, Call, Expr, parse_expr, substitute
from sparse_compiler.ir.op import Op
from sparse_compiler.ir.refusal import No
from sparse_compiler.ops.embedding import Embedding
from sparse_compiler.ops.epilogue import TakesEpilogue
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.shape import Reshape, Slice
from sparse_compiler.ops.take import Take, ranges_of

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
    unknown,
    upright,
)
from . import channels_of
from .pointwise import elementwise_facts, expand_term, finite, tie_elementwise

_COMPUTED = No("weight_is_computed", "the weight changes from call to call")

FIRST = 16
"""Rows of a table that mostly show already that no column is constant."""


def take(site: Site, term: Term, dim: int, keep: Mask, suffix: str) -> Term:
    """The kept elements of a term along `dim`."""
    if bool(keep.all()):
        return term
    return site.terms.add(Take(dim, ranges_of(keep)), [term], site.name(suffix))


class Layer(ChannelRule):
    """A weight, perhaps a bias, perhaps an epilogue; the last is an elementwise op of its own."""

    def _op(self, site: Site) -> TakesEpilogue:
        return cast(TakesEpilogue, site.node.op)

    def applies(self, site: Site) -> bool:
        return all(f.fixed and f.term is not None for f in site.facts[1 : self._op(site).operands])

    def core(self, site: Site) -> Facts:
        """What is known of the layer without its epilogue; the term is the whole folded bias."""
        raise NotImplementedError(f"{type(self).__name__} does not say what is constant")

    def reads(self, site: Site, rows: Mask, x: Mask) -> Mask:
        """Which elements of the input, in its frame, the rows (in the result's) are made of."""
        raise NotImplementedError(f"{type(self).__name__} does not say what it reads")

    def facts(self, site: Site) -> Facts:
        if not self.applies(site):
            return unknown(site.result, (site.node.op.channel_dim % site.result.rank,))
        core = self.core(site)
        op = self._op(site)
        if op.epilogue == "x0":
            return core
        rest = list(zip(site.types[op.operands :], site.facts[op.operands :], strict=True))
        operands = [(site.result, core), *rest]
        return elementwise_facts(site, op.tree, Pointwise(op.epilogue), operands, "constant.end")

    def needs(self, site: Site, alive: Mask) -> Masks:
        none = torch.zeros((), dtype=torch.bool)  # spread out, for weights are large
        nothing = tuple(none.expand(f.frame) for f in site.facts)
        if not alive.any():
            return nothing
        if not self.applies(site):
            return tuple(torch.ones(f.frame, dtype=torch.bool) for f in site.facts)
        masks, alive = self._operands(site, nothing, alive)
        return (self.reads(site, alive, masks[0]), *masks[1:])

    def ties(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        if not self.applies(site):
            whole = bool(alive.any())
            return inputs, torch.full_like(alive, True) if whole and _bools(alive) else alive
        return self._operands(site, inputs, alive)

    def _operands(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        first = self._op(site).operands
        masks = list(inputs)
        if len(masks) > first:
            masks, alive = tie_elementwise(site, range(first, len(masks)), masks, alive)
        return tuple(masks), alive

    def reason(self, site: Site) -> No | None:
        return None if self.applies(site) else _COMPUTED


def _bools(mask: Mask) -> bool:
    return mask.dtype == torch.bool


def with_map(op: TakesEpilogue, operand: int) -> Op:
    """The layer with one more operand, added to its result before the rest of its epilogue."""
    number = 1 + operand - op.operands
    tree = parse_expr(op.epilogue)
    count = number + 1
    values: list[Expr] = [Call("add", (Arg(0), Arg(number))), *(Arg(i) for i in range(1, count))]
    return replace(op, epilogue=str(substitute(tree, values)))  # type: ignore[call-arg]


@channels_of(Linear)
class Linears(Layer):
    """y = epilogue(x W^T + b) along the last dimension."""

    def _shape(self, site: Site) -> tuple[int, int]:
        rows, columns = site.types[1].shape
        return int(rows), int(columns)

    def _pattern(self, site: Site) -> Mask:
        weight = site.facts[1].term
        if weight is None:
            return torch.ones(self._shape(site), dtype=torch.bool)
        return site.terms.pattern(weight, 1)[0]

    def _constant(self, site: Site, known: Mask) -> Mask:
        """Rows that read known columns alone."""
        weight = site.facts[1].term
        if weight is None or known.any():
            return ~(self._pattern(site) & ~known).any(1)
        return ~site.terms.reading(weight, 1)[0]

    def _read(self, site: Site, rows: Mask) -> Mask:
        """Columns that the rows read."""
        weight = site.facts[1].term
        if weight is None or not rows.all():
            return self._pattern(site)[rows].any(0)
        return site.terms.read(weight, 1)[0]

    def core(self, site: Site) -> Facts:
        rows, columns = self._shape(site)
        x, rank = site.facts[0], site.result.rank
        known = across(x.known, -1, columns)
        constant = self._constant(site, known)
        mask = constant.reshape((1,) * (rank - 1) + (rows,))
        if not constant.any():
            return Facts(mask)
        read = self._pattern(site)[constant].any(0) & known & ~across(x.zero, -1, columns)
        term = self.bias(site, read, torch.ones(rows, dtype=torch.bool))
        mask = finite(mask, term)
        return Facts(mask, term)

    def bias(self, site: Site, folded: Mask, kept: Mask) -> Term:
        """[.., M']: the bias of the rows kept, and what constant channels `folded` add to it."""
        _, columns = self._shape(site)
        op = cast(Linear, site.node.op)
        bias = site.facts[2].term if op.bias else None
        bias = bias and take(site, bias, 0, kept, "bias.rows")
        x, weight = site.facts[0].term, site.facts[1].term
        if x is None or weight is None or not folded.any():
            shape = (1,) * (site.result.rank - 1) + (int(kept.sum()),)
            if bias is None:
                return _zeros(site, shape)
            return site.terms.add(Reshape(shape), [bias], site.name("bias.constant"))
        missing = site.types[0].rank - len(x.shape)
        x = expand_term(site, x, (*((1,) * missing + x.shape)[:-1], columns), "input.spread")
        x = take(site, x, len(x.shape) - 1, folded, "input.constant")
        weight = take(site, weight, 0, kept, "weight.rows")
        weight = take(site, weight, 1, folded, "weight.constant")
        inputs = [x, weight] if bias is None else [x, weight, bias]
        return site.terms.add(Linear(bias=bias is not None), inputs, site.name("bias.folded"))

    def reads(self, site: Site, rows: Mask, x: Mask) -> Mask:
        count, columns = self._shape(site)
        known = across(site.facts[0].known, -1, columns)
        needed = self._read(site, along(rows, -1, count)) & ~known
        if not needed.any():  # a layer reads something, be it a constant
            needed = torch.arange(columns) == 0
        frame = site.facts[0].frame
        mask = fit(upright(needed, len(frame) - 1, len(frame)), _last(frame)).expand(frame)
        return torch.maximum(x, mask)

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        op = cast(Linear, site.node.op)
        if not self.applies(site):
            emit.result(op, [emit.input(i) for i in range(len(inputs))])
            return
        count, columns = self._shape(site)
        rows, kept = along(alive, -1, count), along(inputs[0], -1, columns)
        weight, facts = site.facts[1].term, site.facts[0]
        if weight is None:
            return
        left = take(site, take(site, weight, 0, rows, "weight.rows"), 1, kept, "weight.live")
        known = across(facts.known, -1, columns)
        folded = known & ~kept & ~across(facts.zero, -1, columns)
        operands = [emit.input(i, inputs[i]) for i in range(op.operands, len(inputs))]
        layer: list[str] = [emit.input(0), emit.term(left)]
        _count(emit, site, weight, left)
        if not folded.any():
            if op.bias and site.facts[2].term is not None:
                layer.append(emit.take(site.facts[2].term, 0, rows))
            emit.result(op, [*layer, *operands])
            return
        finish(site, emit, self.bias(site, folded, rows), layer, operands)


def finish(site: Site, emit: Emit, bias: Term, layer: list[str], operands: list[str]) -> None:
    """The layer with its folded bias: a vector, or a map that its epilogue adds."""
    op = cast(TakesEpilogue, site.node.op)
    rows = bias.shape[op.channel_dim % site.result.rank]
    if prod(bias.shape) == rows:
        vector = site.terms.add(Reshape((rows,)), [bias], site.name("bias.live"))
        emit.result(replace(op, bias=True), [*layer, emit.term(vector), *operands])  # type: ignore[call-arg]
        return
    plain = replace(op, bias=False)  # type: ignore[call-arg]
    inputs = [*layer, *operands]
    emit.result(with_map(plain, len(inputs)), [*inputs, emit.term(bias)])


def _count(emit: Emit, site: Site, weight: Term, left: Term) -> None:
    before = int(torch.count_nonzero(weight.tensor))
    after = before if left is weight else int(torch.count_nonzero(left.tensor))
    emit.count(weight.name, before, after)


count_weights = _count


def _last(frame: tuple[int, ...]) -> tuple[int, ...]:
    return (*(1,) * (len(frame) - 1), frame[-1])


def _zeros(site: Site, shape: tuple[int, ...]) -> Term:
    from sparse_compiler.ops.iota import Full

    return site.terms.add(Full(0.0, shape, site.result.dtype), (), site.name("bias.none"))


@channels_of(Embedding)
class Embeddings(ChannelRule):
    """Rows of a table: a column of equal numbers is constant."""

    def facts(self, site: Site) -> Facts:
        nothing = unknown(site.result, (site.result.rank - 1,))
        table = site.facts[0].term
        if table is None or not site.facts[0].fixed or nothing.frame[-1] == 1:
            return nothing
        numbers = table.tensor
        same = (numbers[:FIRST] == numbers[:1]).all(0)
        if not same.any():
            return nothing
        same = (numbers == numbers[:1]).all(0)
        if not same.any():
            return nothing
        row = site.terms.add(Slice(0, 0, 1), [table], site.name("row"))
        shape = (1,) * (site.result.rank - 1) + (numbers.shape[1],)
        term = site.terms.add(Reshape(shape), [row], site.name("constant"))
        return Facts(same.reshape(shape), term)

    def needs(self, site: Site, alive: Mask) -> Masks:
        table = site.facts[0]
        if not table.fixed:
            return super().needs(site, alive)
        columns = along(alive, -1, table.frame[1])[None].expand(table.frame)
        return columns, torch.full(site.facts[1].frame, bool(alive.any()))

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        table = site.facts[0].term
        if table is None or alive.shape[-1] == 1:
            emit.result(site.node.op, [emit.input(0), emit.input(1)])
            return
        columns = along(alive, -1, table.shape[1])
        emit.result(site.node.op, [emit.take(table, 1, columns), emit.input(1)])

    def reason(self, site: Site) -> No | None:
        return None if site.facts[0].fixed else _COMPUTED
