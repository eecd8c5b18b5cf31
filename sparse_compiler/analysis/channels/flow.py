"""Two analyses over the channels of all values: what is constant, forwards; what stays, backwards.

An element stays if a result of the graph depends on it in a way that its reader cannot fold, or if
shapes must agree with one that stays. Both are least fixed points over the masks of `facts.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sparse_compiler.analysis.sparsity import SparsityFacts
from sparse_compiler.errors import VerifyError
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.interpret import run_node
from sparse_compiler.ir.op import Op
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import TensorType, Type

from .facts import MAX_FACTS, ChannelRule, Facts, Mask, Masks, Site, Term
from .rules import rule_of

MAX_SWEEPS = 400


class WeightTerms:
    """The weight-time values of a graph, and those that rules make of them, computed when asked.

    made: the nodes of the latter, in order. sparsity: facts of values of the graph; where they
    say that nothing is zero throughout, the numbers are not looked at.
    """

    def __init__(
        self,
        graph: Graph,
        params: Mapping[str, torch.Tensor],
        sparsity: Mapping[str, SparsityFacts] | None = None,
    ) -> None:
        self.graph, self._sparsity = graph, sparsity or {}
        self.made: dict[str, Node] = {}
        self._values: dict[str, Any] = {name: t.detach() for name, t in params.items()}
        self._taken = set(graph.types)
        self._patterns: dict[tuple[str, int], Mask] = {}
        self._reading: dict[tuple[str, int], Mask] = {}
        self._read: dict[tuple[str, int], Mask] = {}

    def fixed(self, name: str) -> Term:
        """A weight-time value of the graph."""
        return self._term(name)

    def _term(self, name: str) -> Term:
        type_ = self.type(name)
        shape = tuple(int(size) for size in type_.shape)
        return Term(name, shape, lambda: self._value(name))

    def pattern(self, weight: Term, groups: int) -> Mask:
        """Which outputs of a layer read which inputs of their group; looked at once."""
        key = weight.name, groups
        if key not in self._patterns:
            taps = weight.tensor != 0
            found = taps.flatten(2).any(-1) if taps.dim() > 2 else taps
            self._patterns[key] = found.reshape(groups, weight.shape[0] // groups, weight.shape[1])
        return self._patterns[key]

    def reading(self, weight: Term, groups: int) -> Mask:
        """Which outputs of a layer read any input."""
        key, facts = (weight.name, groups), self._sparsity.get(weight.name)
        if key not in self._reading:
            whole = facts is not None and facts.zero_rows == 0
            shape = (groups, weight.shape[0] // groups)
            every = torch.ones(shape, dtype=torch.bool)
            self._reading[key] = every if whole else self.pattern(weight, groups).any(2)
        return self._reading[key]

    def read(self, weight: Term, groups: int) -> Mask:
        """Which inputs of its group any output of a layer reads."""
        key, facts = (weight.name, groups), self._sparsity.get(weight.name)
        if key not in self._read:
            whole = groups == 1 and facts is not None and facts.zero_inputs == 0
            every = torch.ones(1, weight.shape[1], dtype=torch.bool)
            self._read[key] = every if whole else self.pattern(weight, groups).any(1)
        return self._read[key]

    def add(self, op: Op, inputs: Sequence[Term], name: str) -> Term:
        """`op` on terms; the same op on the same terms is the same term."""
        names = tuple(term.name for term in inputs)
        types = tuple(self.type(n) for n in names)
        inferred = op.infer(types)
        if inferred is None:
            raise TypeError(f"{op.name} infers no type")
        for node in self._named(name):
            if node.op == op and node.inputs == names:
                return self._term(node.name)
        unique, count = name, 2
        while unique in self._taken:
            unique, count = f"{name}_{count}", count + 1
        self._taken.add(unique)
        self.made[unique] = Node(op, names, inferred, unique)
        return self._term(unique)

    def type(self, name: str) -> Any:
        return self.made[name].type if name in self.made else self.graph.types[name]

    def free(self, name: str) -> str:
        """`name`, or `name_2`, ... where a value has it already; taken from now on."""
        unique, count = name, 2
        while unique in self._taken:
            unique, count = f"{name}_{count}", count + 1
        self._taken.add(unique)
        return unique

    def made_value(self, name: str) -> torch.Tensor:
        """The numbers of a value that rules made."""
        value: torch.Tensor = self._value(name)
        return value

    def _named(self, name: str) -> list[Node]:
        found, count, unique = [], 2, name
        while unique in self._taken:
            if unique in self.made:
                found.append(self.made[unique])
            unique, count = f"{name}_{count}", count + 1
        return found

    def _value(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        node = self.made.get(name) or self.graph.producers[name]
        inputs = [self._value(i) for i in node.inputs]
        with torch.no_grad():
            self._values[name] = run_node(node, inputs, {}, self.graph.objects)
        return self._values[name]


@dataclass
class Channels:
    """What is known of a graph's channels, and which stay. sites: the nodes that run at each call
    and give one tensor, not an empty one; alive: masks by value, as the sites' results have them;
    uses: for a node, the masks of its inputs that are weights."""

    graph: Graph
    terms: WeightTerms
    facts: dict[str, Facts] = field(default_factory=dict)
    sites: dict[str, Site] = field(default_factory=dict)
    alive: dict[str, Mask] = field(default_factory=dict)
    uses: dict[str, Masks] = field(default_factory=dict)

    def rule(self, node: Node) -> ChannelRule:
        """The rule for a node; the safe one for what is no tensor or reads what is none."""
        return rule_of(node.op) if node.name in self.sites else _SAFE

    def dead(self, name: str) -> int:
        """How many channels of a value are left out."""
        mask = self.alive[name]
        return int(mask.numel() - torch.count_nonzero(mask))

    def reasons(self) -> dict[str, No]:
        """For each node that keeps channels which are constant or unread elsewhere, why it does."""
        found = {}
        for name, site in self.sites.items():
            reason = self.rule(site.node).reason(site)
            if reason is None or not bool(self.alive[name].any()):
                continue
            kept = any(
                bool((f.known & self.alive[i]).any())
                for i, f in zip(site.node.inputs, site.facts, strict=True)
                if not f.fixed and i in self.alive and f.known.shape == self.alive[i].shape
            )
            if kept:
                found[name] = reason
        return found


_SAFE = ChannelRule()


def analyse(
    graph: Graph,
    params: Mapping[str, torch.Tensor],
    pinned: frozenset[str] = frozenset(),
    sparsity: Mapping[str, SparsityFacts] | None = None,
) -> Channels:
    """Constants and live channels of all values. pinned: values that must stay as they are.
    sparsity: facts of weights, as far as they are known; they only save work."""
    channels = Channels(graph, WeightTerms(graph, params, sparsity))
    find_constants(channels)
    find_live(channels, frozenset(graph.results) | pinned)
    return channels


def find_constants(channels: Channels) -> None:
    """Facts of every value, in the order of execution."""
    graph = channels.graph
    changing = [p for p in graph.params if p.name not in graph.weight_time]
    for value in (*graph.inputs, *changing):  # a parameter that the model itself writes changes
        channels.facts[value.name] = _nothing_known(value.type)
    for node in graph.nodes:
        if node.name in graph.weight_time or not isinstance(node.type, TensorType):
            continue
        types = tuple(graph.types[i] for i in node.inputs)
        tensors = tuple(t for t in types if isinstance(t, TensorType))
        empty = any(0 in t.shape for t in (node.type, *tensors))
        if empty or len(tensors) != len(types):
            channels.facts[node.name] = _nothing_known(node.type)
            continue
        facts = tuple(_input_facts(channels, i) for i in node.inputs)
        site = Site(node, tensors, facts, node.type, channels.terms)
        channels.sites[node.name] = site
        channels.facts[node.name] = rule_of(node.op).facts(site)


def _nothing_known(type_: Type) -> Facts:
    rank = type_.rank if isinstance(type_, TensorType) else 0
    return Facts(torch.zeros((1,) * rank, dtype=torch.bool))


def _input_facts(channels: Channels, name: str) -> Facts:
    if name in channels.facts:
        return channels.facts[name]
    graph = channels.graph
    type_ = graph.types[name]
    if name not in graph.weight_time or not isinstance(type_, TensorType):
        return _nothing_known(type_)
    term = channels.terms.fixed(name)
    shape = term.shape
    known = torch.ones((), dtype=torch.bool).expand(shape)
    if known.numel() > MAX_FACTS * 64:
        known = torch.ones((1,) * len(shape), dtype=torch.bool)
    return Facts(known, term, fixed=True)


def find_live(channels: Channels, wanted: frozenset[str]) -> None:
    """Masks of what stays, from the `wanted` values back."""
    for name in channels.facts:
        frame = channels.facts[name].frame
        channels.alive[name] = torch.full(frame, name in wanted)
    sweep(channels, lambda c, node: _spread(c, node))


def tie_all(channels: Channels) -> None:
    """Spreads masks or labels over what must stay or go together, and nothing else."""
    sweep(channels, _tie)


Step = Callable[[Channels, Node], "set[str]"]


def sweep(channels: Channels, step: Step) -> None:
    """Runs `step`, which says what values it changed, on nodes until nothing changes.

    Backwards and forwards by turns: needs flow one way, ties both.
    """
    graph = channels.graph
    nodes = [n for n in graph.nodes if n.name not in graph.weight_time]
    place = {node.name: i for i, node in enumerate(nodes)}
    dirty = set(range(len(nodes)))
    backwards = True
    for _ in range(MAX_SWEEPS):
        if not dirty:
            return
        todo = sorted(dirty, reverse=backwards)
        later: set[int] = set()
        queue = set(todo)
        for i in range(len(nodes) - 1, -1, -1) if backwards else range(len(nodes)):
            if i not in queue:
                continue
            queue.discard(i)
            changed = step(channels, nodes[i])
            for name in changed:
                touched = {place[u.name] for u in graph.users[name] if u.name in place}
                if name in place:
                    touched.add(place[name])
                for j in touched - {i}:
                    ahead = j < i if backwards else j > i
                    (queue if ahead else later).add(j)
            if changed:
                later.add(i)
        dirty, backwards = later, not backwards
    raise VerifyError(f"the channels of {len(nodes)} nodes still change after {MAX_SWEEPS} sweeps")


def _spread(channels: Channels, node: Node) -> set[str]:
    """What a node needs for the elements of its result that stay, and what they are tied to."""
    site = channels.sites.get(node.name)
    if site is None:
        return _keep_inputs(channels, node)
    rule = rule_of(node.op)
    alive = channels.alive[node.name]
    if not alive.any() and not _any_input(channels, site):
        return set()
    needed = rule.needs(site, alive)
    masks = tuple(
        need if fact.fixed else torch.maximum(channels.alive[i], need)
        for i, need, fact in zip(node.inputs, needed, site.facts, strict=True)
    )
    return _apply(channels, site, masks, alive)


def _tie(channels: Channels, node: Node) -> set[str]:
    site = channels.sites.get(node.name)
    if site is None:
        return set()
    masks = tuple(
        torch.zeros(f.frame, dtype=channels.alive[node.name].dtype)
        if f.fixed
        else channels.alive[i]
        for i, f in zip(node.inputs, site.facts, strict=True)
    )
    return _apply(channels, site, masks, channels.alive[node.name])


def _any_input(channels: Channels, site: Site) -> bool:
    return any(
        bool(channels.alive[i].any())
        for i, f in zip(site.node.inputs, site.facts, strict=True)
        if not f.fixed
    )


def _apply(channels: Channels, site: Site, masks: Masks, alive: Mask) -> set[str]:
    """Ties the masks, notes them, and says which changed."""
    node = site.node
    rule = rule_of(node.op)
    if alive.dtype == torch.bool and not alive.any():
        return set()  # nobody reads the node: its inputs are free
    masks, alive = rule.ties(site, masks, alive)
    changed = set()
    for name, mask, fact in zip(node.inputs, masks, site.facts, strict=True):
        if not fact.fixed:
            changed |= _grow(channels, name, mask)
    channels.uses[node.name] = masks
    return changed | _grow(channels, node.name, alive)


def _grow(channels: Channels, name: str, mask: Mask) -> set[str]:
    old = channels.alive[name]
    new = torch.maximum(old, mask)
    if torch.equal(old, new):
        return set()
    channels.alive[name] = new
    return {name}


def _keep_inputs(channels: Channels, node: Node) -> set[str]:
    """A node that is no tensor, reads what is none, or has no elements: its inputs stay whole."""
    changed: set[str] = set()
    for name in node.inputs:
        if name in channels.alive:
            changed |= _grow(channels, name, torch.ones_like(channels.alive[name]))
    return changed
