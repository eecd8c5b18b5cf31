"""Products and transposes of what was joined into one batch for them alone.

TVM's front ends, and models written for bmm, fold batch and heads into one dimension and split them
again behind the product. With the dimensions as they were, attention is found in one form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.types import Dim
from sparse_compiler.ops.matmul import Matmul
from sparse_compiler.ops.shape import Permute, Reshape
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.eliminate_dead_nodes import EliminateDeadNodes
from sparse_compiler.passes.rewriter import Rewriter


@dataclass(frozen=True)
class UnflattenBatches(Pass):
    """reshape(matmul(reshape(a), reshape(b)))  =>  matmul(a, b);  likewise permute.

    Where the inner reshapes join leading dimensions into one, and the outer splits it again.
    """

    name: ClassVar[str] = "unflatten-batches"

    def run(self, graph: Graph, context: Context) -> Graph:
        rw = Rewriter(graph)
        for node in graph.nodes:
            found = _product(rw, node) or _transpose(rw, node)
            if found is None or not context.spend():
                rw.keep(node)
                continue
            op, inputs = found
            rw.replace(node, op, inputs)
        after = rw.finish()  # a dead view would count as another reader
        return graph if after is graph else EliminateDeadNodes().run(after, Context())


def _product(rw: Rewriter, node: Node) -> tuple[Matmul, tuple[str, ...]] | None:
    inner = _inside(rw, node)
    if inner is None or not isinstance(inner.op, Matmul):
        return None
    sources = [_joined(rw, name) for name in inner.inputs]
    a, b = sources
    if a is None or b is None:
        return None
    left, right, result = rw.tensor(a).shape, rw.tensor(b).shape, rw.tensor(node.name).shape
    if left[:-2] != right[:-2] or result != (*left[:-1], right[-1]):
        return None
    return Matmul(), (a, b)


def _transpose(rw: Rewriter, node: Node) -> tuple[Permute, tuple[str, ...]] | None:
    inner = _inside(rw, node)
    if inner is None or not isinstance(inner.op, Permute) or inner.op.dims[0] != 0:
        return None
    source = _joined(rw, inner.inputs[0])
    if source is None:
        return None
    x = rw.tensor(source).shape
    joined = len(x) - len(inner.op.dims) + 1
    dims = (*range(joined), *(d + joined - 1 for d in inner.op.dims[1:]))
    if rw.tensor(node.name).shape != tuple(x[d] for d in dims):
        return None
    return Permute(dims), (source,)


def _inside(rw: Rewriter, node: Node) -> Node | None:
    """What a reshape is of, if nothing else reads that."""
    if not isinstance(node.op, Reshape) or not rw.only_reader(node.inputs[0]):
        return None
    return rw.producers.get(node.inputs[0])


def _joined(rw: Rewriter, name: str) -> str | None:
    """x of reshape(x), where the reshape makes one dimension of some leading ones."""
    node = rw.producers.get(name)
    if node is None or not isinstance(node.op, Reshape):
        return None
    before, after = rw.tensor(node.inputs[0]).shape, rw.tensor(name).shape
    rest = len(after) - 1
    same: tuple[Dim, ...] = before[len(before) - rest :]
    return node.inputs[0] if rest > 0 and len(before) > len(after) and same == after[1:] else None
