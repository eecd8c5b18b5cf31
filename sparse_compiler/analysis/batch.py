"""Which values of a native segment are made of independent samples, so that it may run in chunks.

A value is *carried* if one of its dimensions is `samples` equal stretches, one per sample, and that
dimension is the outermost of its columns (in planes) or of the whole value (in rows). Nodes are
visited in order by the rules of `batch_rules`; whatever mixes samples, or cannot tell, is a No.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, product

from sparse_compiler.analysis.batch_rules import RULES, SHARED, Found, Reading, divided
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Dim, TensorType

TRIES = 16
"""Assumptions about ambiguous inputs that are tried before giving up."""


@dataclass(frozen=True)
class Batch:
    """samples: how many there are; carried: values made of them, inputs and constants included.

    Everything else that the segment reads or computes is the same for every sample.
    """

    samples: Dim
    carried: frozenset[str]


def batch_of(graph: Graph, nodes: Sequence[Node]) -> Batch | No:
    """The batch of a segment `nodes` of a laid-out graph, or why there is none.

    The number of samples is the leading dimension of the first input that enters planes, or of the
    one of most dimensions where none does; a single sample needs no telling apart.
    """
    entering = list(_entering(graph, nodes))
    if not entering:
        return No("no_input", "nothing that the segment reads has a dimension")
    first: No | None = None
    for samples in _candidates(graph, nodes, entering):
        if samples == 1:
            return Batch(1, frozenset())
        for carried in _assumptions(graph, entering, samples):
            flow = _Flow(graph, samples, dict(carried))
            reason = flow.run(nodes)
            if reason is None:
                return Batch(samples, frozenset(n for n, d in flow.dims.items() if d is not None))
            first = first or reason
    return first or No("no_batch", "no input has the number of samples as its leading dimension")


def _entering(graph: Graph, nodes: Sequence[Node]) -> Iterator[str]:
    """What the segment reads from outside and is no constant.

    First what goes into planes, then what has most dimensions: a lone vector holds no samples.
    """
    inside = {node.name for node in nodes}
    found: dict[str, bool] = {}
    for node in nodes:
        for name in node.inputs:
            type_ = graph.types[name]
            if name in inside or name in graph.bind_time or not isinstance(type_, TensorType):
                continue
            if type_.rank:
                planar = isinstance(node.type, TensorType) and _planes(node.type) > 0
                found[name] = found.get(name, False) or planar
    return iter(sorted(found, key=lambda name: (not found[name], -graph.tensor(name).rank)))


def _planes(type_: TensorType) -> int:
    return type_.layout.planes if type_.layout is not None else 0


def _candidates(graph: Graph, nodes: Sequence[Node], entering: Sequence[str]) -> Iterator[Dim]:
    """The leading dimension of the first input, then divisors of it that lead inside."""
    whole = graph.tensor(entering[0]).shape[0]
    yield whole
    seen = {whole, 1}
    for node in nodes:
        type_ = graph.tensor(node.name)
        dim = outermost(type_)
        size = type_.shape[dim] if dim is not None else 1
        if size not in seen and divided(whole, size) is not None:
            seen.add(size)
            yield size


def outermost(type_: TensorType) -> int | None:
    """The dimension outermost among the columns (in planes) or in all (in rows), sizes of 1 aside.

    None where all are 1, or nothing runs inside the planes.
    """
    inner = type_.layout.inner if type_.layout is not None else tuple(range(type_.rank))
    return next((d for d in inner if type_.shape[d] != 1), None)


def _assumptions(
    graph: Graph, entering: Sequence[str], samples: Dim
) -> Iterator[Mapping[str, int | None]]:
    """Ways in which the inputs may hold the samples; most likely first.

    An input of as many elements as samples may still be something else (8 tokens, 8 samples).
    """
    options: list[tuple[int | None, ...]] = []
    for name in entering:
        parts = divided(graph.tensor(name).shape[0], samples)
        options.append((SHARED,) if parts is None else (0, SHARED) if parts == 1 else (SHARED, 0))
    options[0] = (0,)  # the number of samples was taken from it
    for choice in islice(product(*options), TRIES):
        yield dict(zip(entering, choice, strict=True))


@dataclass
class _Flow:
    """dims: which dimension of a value holds the samples; without, or `SHARED`: none does.

    constants: the same, as the first reader of each constant had it.
    """

    graph: Graph
    samples: Dim
    dims: dict[str, int | None] = field(default_factory=dict)
    constants: dict[str, int | None] = field(default_factory=dict)

    def run(self, nodes: Sequence[Node]) -> No | None:
        """Follows the samples through all nodes; returns what stops it."""
        for node in nodes:
            reason = self._visit(node)
            if reason is not None:
                return reason
        for node in nodes:
            if self.graph.tensor(node.name).layout is None and self._shared(node.name):
                return No("no_batch", f"%{node.name} is the same for all samples")
        return None

    def _shared(self, name: str) -> bool:
        return self.dims.get(name) is SHARED and name not in self.graph.bind_time

    def _visit(self, node: Node) -> No | None:
        if all(self._shared(name) or name in self.graph.bind_time for name in node.inputs):
            return None
        rule = RULES.get(type(node.op))
        if rule is None:
            return No("batch_unknown", f"{node.op.name} does not say whether it mixes samples")
        known = [(name, name in self.graph.bind_time) for name in node.inputs]
        read = Reading(
            node.op,
            tuple(self.graph.tensor(name) for name in node.inputs),
            tuple(SHARED if fixed else self.dims.get(name) for name, fixed in known),
            tuple(fixed for _, fixed in known),
            self.graph.tensor(node.name),
            self.samples,
        )
        found = rule(read)
        if isinstance(found, str):
            return No("mixes_samples", f"%{node.name}: {found}")
        return self._settle(node, found) or self._place(node.name, found.dim)

    def _settle(self, node: Node, found: Found) -> No | None:
        """A constant holds samples for all of its readers in the same dimension, or for none."""
        for position, name in enumerate(node.inputs):
            if name not in self.graph.bind_time:
                continue
            dim = found.constants.get(position, SHARED)
            if self.constants.setdefault(name, dim) != dim:
                return No("mixes_samples", f"%{name} is read in two ways")
            reason = self._place(name, dim) if dim is not SHARED else None
            if reason is not None:
                return reason
        return None

    def _place(self, name: str, dim: int) -> No | None:
        type_ = self.graph.tensor(name)
        outer = type_.layout.outer if type_.layout is not None else ()
        inner = dim in outer or outermost(type_) not in (dim, None)
        if inner or (dim != 0 and type_.layout is not None and not outer):
            return No("batch_inside", f"%{name} does not have its samples outermost")
        self.dims[name] = dim
        return None
