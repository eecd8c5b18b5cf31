"""Which weights of the model a layer's weight was made of, and what is known of their zeros.

Packing, views, a scale per row and joining rows keep every zero, so the facts about the weights
that went in hold for what came out, and the ledger names the layers that went in.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from sparse_compiler.analysis.sparsity import SparsityFacts
from sparse_compiler.ir.expr import Arg, Call
from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ops.cat import Cat
from sparse_compiler.ops.pack import Pack
from sparse_compiler.ops.pointwise import Pointwise, cast_of
from sparse_compiler.ops.shape import Reshape
from sparse_compiler.ops.take import Take


@dataclass(frozen=True)
class Counts:
    """A weight as a matrix [rows = dim 0, columns = the rest] with nnz non-zeros."""

    rows: int
    columns: int
    nnz: int

    @property
    def density(self) -> float:
        return self.nnz / max(1, self.rows * self.columns)


def weight_sources(graph: Graph, name: str, facts: Container[str]) -> tuple[str, ...]:
    """The values with `facts`, else the parameters, that a layer's weight was made of, in order."""
    node = graph.producers.get(name)
    if name in facts or node is None:
        return (name,)
    if isinstance(node.op, Cat):
        return tuple(s for part in node.inputs for s in weight_sources(graph, part, facts))
    kept = _kept(graph, node)
    return (name,) if kept is None else weight_sources(graph, kept, facts)


def uncut(graph: Graph, name: str, facts: Container[str]) -> str:
    """The value with `facts` that a weight was cut from where channels were taken out of it."""
    first, node = name, graph.producers.get(name)
    while node is not None and isinstance(node.op, Take | Reshape):
        name = node.inputs[0]
        node = graph.producers.get(name)
    sources = weight_sources(graph, name, facts)
    return sources[0] if len(sources) == 1 and sources[0] in facts else first


def _kept(graph: Graph, node: Node) -> str | None:
    """The input whose numbers a node keeps, moved or scaled; None where it does more."""
    if (node.op.view or isinstance(node.op, Pack)) and len(node.inputs) == 1:
        return node.inputs[0]
    if isinstance(node.op, Pointwise):
        match node.op.tree:
            case Call("mul", (Arg(index=index), Arg(index=other))) if index != other:
                same = graph.types[node.inputs[index]] == node.type
                smaller = graph.types[node.inputs[other]] != node.type
                return node.inputs[index] if same and smaller else None
        if cast_of(node.op) == "f32":
            return node.inputs[0]
    return None


def weight_facts(
    graph: Graph, name: str, facts: Mapping[str, SparsityFacts]
) -> tuple[SparsityFacts, ...]:
    """Facts of all that a layer's weight was made of, one below the other; empty where unknown."""
    found = [facts.get(source) for source in weight_sources(graph, name, facts)]
    known = tuple(f for f in found if f is not None)
    return known if len(known) == len(found) else ()


def weight_counts(graph: Graph, name: str, facts: Mapping[str, SparsityFacts]) -> Counts | None:
    """Non-zeros of a layer's weight, from the facts about what it was made of; None where unknown.

    A scale of zero makes more zeros, which are not counted: they are few, and cost only speed.
    """
    known = weight_facts(graph, name, facts)
    if not known:
        return None
    columns = known[0].columns
    return Counts(sum(f.rows for f in known), columns, sum(f.nnz for f in known))


def module_path(graph: Graph, value: str) -> str:
    """Path of the module that holds a weight-time value's parameter: `encoder.fc1`."""
    while value in graph.producers and graph.producers[value].inputs:
        value = graph.producers[value].inputs[0]
    path = value.split(".")
    for i, part in enumerate(path):
        last = i == len(path) - 1
        if part == "parametrizations" or (last and part.startswith("weight")):
            return ".".join(path[:i]) or value
    return value
