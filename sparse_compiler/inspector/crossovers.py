"""From how many columns on a layer's format beats dense weights: in closed form, and as text."""

from __future__ import annotations

import sympy

from ..formats.base import FORMATS
from ..formats.cost import crossover
from ..ir.graph import Graph, Node
from ..ir.types import Dim
from ..passes.base import Context
from ..passes.choose_formats import columns_of, layer_shape, stored_shape
from ..passes.provenance import weight_facts

LARGEST = 1 << 20


def crossover_text(graph: Graph, node: Node, format_: str, context: Context) -> str | None:
    """As "csr for B*S >= 4"; None for a layer without facts, or whose weight is stored dense.

    The number of columns is what the layer has beside its channels: tokens, pixels, samples.
    """
    weight = node.inputs[node.op.weight_input or 0]
    facts = weight_facts(graph, weight, context.facts)
    if format_ == "dense" or not facts:
        return None
    shape = layer_shape(graph, node, context)
    if context.machine.ideal_ns(shape) is not None:
        return None  # a GPU's roofs have no closed form in the number of columns
    found = FORMATS[format_]
    vector = context.machine.vector
    cost, dense = found.cost_of(shape, vector), FORMATS["dense"].cost_of(shape, vector)
    if cost is None or dense is None:
        return None
    ours = stored_shape(shape, found, facts)
    first = crossover(cost, dense, ours, shape, context.machine, context.threads)
    columns = _columns_text(columns_of(graph, node))
    if first is None:
        return f"dense for any {columns}"
    return f"{format_} for any {columns}" if first <= 1 else f"{format_} for {columns} >= {first}"


def _columns_text(columns: Dim) -> str:
    if isinstance(columns, int) or not sympy.sympify(columns).free_symbols:
        return "columns"
    return str(columns)
