"""Where a value belongs inside a concatenation, so that it can be computed there."""

from __future__ import annotations

from sparse_compiler.codegen.lowering.context import Lowering
from sparse_compiler.ir.graph import Node
from sparse_compiler.ir.types import Dim, as_dim, product
from sparse_compiler.ops.cat import Cat


def row_in_concatenation(low: Lowering, node: Node) -> tuple[Node, Dim] | None:
    """The concatenation along the outermost planes that alone reads the node, and the first row."""
    readers = low.graph.users[node.name]
    if len(readers) != 1 or node.name in low.graph.results or readers[0].name not in low.names:
        return None
    cat = readers[0]
    layout = low.type(cat.name).layout
    if not isinstance(cat.op, Cat) or layout is None or layout.planes == 0:
        return None
    if cat.inputs.count(node.name) != 1:
        return None
    dim = cat.op.dim
    shape = low.type(cat.name).shape
    if dim not in layout.outer:
        return None
    place = layout.outer.index(dim)
    if any(shape[d] != 1 for d in layout.outer[:place]):
        return None
    below = product(shape[d] for d in layout.outer[place + 1 :])
    row: Dim = 0
    for name in cat.inputs[: cat.inputs.index(node.name)]:
        row = as_dim(row + low.type(name).shape[dim] * below)
    return cat, row
