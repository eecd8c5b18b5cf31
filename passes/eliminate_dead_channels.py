"""Takes out what is constant or read by nobody, and puts what it contributed into biases.

A zero filter behind a batch norm still emits act(bias). That constant is folded into the bias of
whoever reads it, as a map of one number per place where a border of zeros makes it differ, so the
results stay those of the masked model. The smaller weights are nodes on the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from sparse_compiler.analysis.channels.facts import Mask, Site, Term
from sparse_compiler.analysis.channels.flow import Channels, WeightTerms, analyse
from sparse_compiler.analysis.sparsity import sparsity_facts
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.op import Op
from sparse_compiler.ir.types import TensorType, Type
from sparse_compiler.ops.take import Take, ranges_of
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.structure import Removed, Structure


@dataclass(frozen=True)
class EliminateDeadChannels(Pass):
    """linear(relu(linear(x, w, b)), v, c)  =>  the same without rows of w that are zero, with their
    relu(b) in c, and without rows that v does not read."""

    name: ClassVar[str] = "eliminate-dead-channels"

    def run(self, graph: Graph, context: Context) -> Graph:
        if context.params is None or any(_is_empty(type_) for type_ in graph.types.values()):
            return graph
        channels = analyse(graph, context.params, context.pinned, context.facts)
        for name, reason in channels.reasons().items():
            context.refuse(name, reason)
        if not _worth(channels) or not context.spend():
            return graph
        narrower = Narrower(channels)
        result = narrower.run()
        if result is graph:
            return graph
        context.structure = Structure(graph, result, tuple(narrower.counts))
        add_facts(result, channels.terms, context)
        return result


def _is_empty(type_: Type) -> bool:
    """True for a tensor without elements: it has no channels to reckon with."""
    return isinstance(type_, TensorType) and 0 in type_.shape


def _worth(channels: Channels) -> bool:
    """True where an element of a value is left out, or a whole node."""
    return any(channels.dead(name) for name in channels.sites)


def add_facts(graph: Graph, terms: WeightTerms, context: Context) -> None:
    """Facts of the smaller weights, for the choice of their formats."""
    facts = dict(context.facts)
    for node in graph.nodes:
        place = node.op.weight_input
        if place is None or node.name in graph.weight_time:
            continue
        weight = node.inputs[place]
        if weight in terms.made and weight not in facts:
            value = terms.made_value(weight)
            if value.numel() and value.is_floating_point():
                facts[weight] = sparsity_facts(value)
    context.facts = facts


class Narrower:
    """Writes the graph anew without the dead; the `Emit` of channel rules."""

    def __init__(self, channels: Channels) -> None:
        self.channels, self.terms = channels, channels.terms
        self.graph = channels.graph
        self.nodes: list[Node] = []
        self.types = dict(self.graph.types)
        self.counts: list[Removed] = []
        self._entered: set[str] = set()
        self._site: Site

    def run(self) -> Graph:
        """The narrow graph; weight-time nodes that nobody reads any more are left out."""
        graph, channels = self.graph, self.channels
        for node in graph.nodes:
            if node.name in graph.weight_time:
                self.nodes.append(node)
                continue
            site = channels.sites.get(node.name)
            if site is None:
                self.nodes.append(node)
                continue
            alive = channels.alive[node.name]
            if not alive.any():
                continue
            self._site = site
            masks = tuple(
                channels.uses[node.name][i] if f.fixed else channels.alive[name]
                for i, (name, f) in enumerate(zip(node.inputs, site.facts, strict=True))
            )
            channels.rule(node).narrow(site, masks, alive, self)
        return graph.with_nodes(self._read(self.nodes))

    def _read(self, nodes: Sequence[Node]) -> list[Node]:
        """Nodes that something reads, of those that depend on weights."""
        wanted = set(self.graph.results)
        kept = []
        for node in reversed(nodes):
            fixed = node.name in self.graph.weight_time or node.name in self.terms.made
            if fixed and node.name not in wanted:
                continue
            kept.append(node)
            wanted.update(node.inputs)
        return kept[::-1]

    def input(self, index: int, mask: Mask | None = None) -> str:
        """Input number `index` of the node at hand; one of weights cut down to the mask."""
        name = self._site.node.inputs[index]
        fact = self._site.facts[index]
        if not fact.fixed or mask is None or fact.term is None:
            return name
        term = fact.term
        for d in range(mask.dim()):
            if mask.shape[d] == 1 or term.shape[d] == 1:
                continue
            keep = mask.amax([o for o in range(mask.dim()) if o != d]) if mask.dim() > 1 else mask
            term = self._taken(term, d, keep)
        return self.term(term)

    def take(self, term: Term, dim: int, keep: Mask) -> str:
        """The elements along `dim` that are kept."""
        return self.term(self._taken(term, dim, keep))

    def _taken(self, term: Term, dim: int, keep: Mask) -> Term:
        if bool(keep.all()):
            return term
        return self.terms.add(Take(dim, ranges_of(keep)), [term], f"{term.name}.live")

    def term(self, term: Term) -> str:
        """A weight-time value, with all that it is made of."""
        stack = [term.name]
        while stack:
            name = stack[-1]
            node = self.terms.made.get(name)
            missing = [] if node is None else [i for i in node.inputs if self._absent(i)]
            if node is None or name in self._entered or not missing:
                stack.pop()
                if node is not None and name not in self._entered:
                    self._enter(node)
                continue
            stack += reversed(missing)
        return term.name

    def _absent(self, name: str) -> bool:
        return name in self.terms.made and name not in self._entered

    def _enter(self, node: Node) -> None:
        self._entered.add(node.name)
        self.nodes.append(node)
        self.types[node.name] = node.type

    def add(self, op: Op, inputs: Sequence[str], name: str) -> str:
        """A node beside the one at hand."""
        unique = self.terms.free(name)
        type_ = op.infer(tuple(self.types[i] for i in inputs))
        if type_ is None:
            raise TypeError(f"{op.name} infers no type")
        self.nodes.append(Node(op, tuple(inputs), type_, unique, self._site.node.loc))
        self.types[unique] = type_
        return unique

    def count(self, weight: str, nonzero: int, effective: int) -> None:
        """Notes what is left of a layer's weight."""
        self.counts.append(Removed(self._site.node.name, weight, nonzero, effective))

    def result(self, op: Op, inputs: Sequence[str]) -> None:
        """The node at hand, narrow."""
        node = self._site.node
        type_ = op.infer(tuple(self.types[i] for i in inputs))
        if type_ is None:
            type_ = node.type
        new = replace(node, op=op, inputs=tuple(inputs), type=type_)
        self.nodes.append(node if new == node else new)
        self.types[node.name] = type_
