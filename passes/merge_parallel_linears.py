"""Makes one linear of several that read the same input: queries, keys and values as one matrix.

The kernel copies a panel of its input once for all of them, and threads split one long matrix
better than three short ones. In planes the results are ranges of rows, which cost nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ops.cat import Cat
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.pointwise import Pointwise
from sparse_compiler.ops.shape import Slice
from sparse_compiler.ops.torch_call import TorchCall
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.choose_formats import best_format, pattern_of, predicted_times
from sparse_compiler.passes.rewriter import Rewriter


@dataclass(frozen=True)
class MergeParallelLinears(Pass):
    """linear(x, v), linear(x, w)  =>  slices of linear(x, cat(v, w)), where one format suits both.

    A result that goes into arithmetic is left alone: that is fused into its own linear.
    """

    name: ClassVar[str] = "merge-parallel-linears"

    def run(self, graph: Graph, context: Context) -> Graph:
        groups: dict[tuple[object, ...], list[Node]] = {}
        linears = [n for n in graph.nodes if isinstance(n.op, Linear)]
        shared = Counter(node.inputs[0] for node in linears)
        for node in linears:
            if shared[node.inputs[0]] == 1 or node.name in graph.weight_time:
                continue
            reason = _refusal(graph, node, context)
            if reason is not None:
                context.refuse(node.name, reason)
                continue
            best = pattern_of(best_format(predicted_times(graph, node, context)))
            groups.setdefault((node.inputs[0], node.op, best), []).append(node)
        merged = [group for group in groups.values() if len(group) > 1 and context.spend()]
        return _Merger(graph, merged).run() if merged else graph


def _refusal(graph: Graph, node: Node, context: Context) -> No | None:
    """Why a linear stays by itself, whatever others there are."""
    op, weight = node.op, node.inputs[1]
    if not isinstance(op, Linear) or op.epilogue != "x0":
        return No("epilogue", "it has an epilogue of its own")
    if not all(name in graph.weight_time for name in node.inputs[1:]):
        return No("weight_is_computed", "the weight or bias changes from call to call")
    if len(graph.users[weight]) > 1 or weight in graph.results:
        return No("shared_weight", f"%{weight} is read elsewhere too")
    if node.name in graph.results:
        return No("graph_output", f"%{node.name} leaves the graph")
    if any(isinstance(user.op, (Pointwise, TorchCall)) for user in graph.users[node.name]):
        return No("not_in_planes", f"%{node.name} goes into arithmetic or to torch")
    if not predicted_times(graph, node, context):
        return No("no_facts", f"the numbers of %{weight} are not known")
    return None


class _Merger(Rewriter):
    """Weight-time nodes go first, so that every weight stands before the first of its group."""

    def __init__(self, graph: Graph, groups: list[list[Node]]) -> None:
        super().__init__(graph)
        self.first = {group[0].name: group for group in groups}
        self.slices: dict[str, tuple[str, int, int]] = {}

    def run(self) -> Graph:
        """The graph with every group as one linear and its slices."""
        fixed = [node for node in self.graph.nodes if node.name in self.graph.weight_time]
        for node in fixed:
            self.keep(node)
        for node in self.graph.nodes:
            if node.name in self.graph.weight_time:
                continue
            if node.name in self.first:
                self._merge(self.first[node.name])
            if node.name not in self.slices:
                self.keep(node)
                continue
            source, start, stop = self.slices[node.name]
            self.replace(node, Slice(self.tensor(source).rank - 1, start, stop), (source,))
        return self.finish()

    def _merge(self, group: list[Node]) -> None:
        first = group[0]
        parts = zip(*(node.inputs[1:] for node in group), strict=True)
        joined = [self.add(Cat(0), names, f"{names[0]}.merged") for names in parts]
        name = self.add(first.op, (first.inputs[0], *joined), f"{first.name}.merged", first.loc)
        stops = list(accumulate(int(self.tensor(n.inputs[1]).shape[0]) for n in group))
        for node, start, stop in zip(group, [0, *stops], stops, strict=False):
            self.slices[node.name] = (name, start, stop)
