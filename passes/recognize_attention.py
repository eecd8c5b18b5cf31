"""Finds attention that a model writes out with two products and a softmax (arXiv:1706.03762).

The scale may stand anywhere, masks may be added or filled in, heads may be folded into the batch,
and keys and values repeated for grouped queries (arXiv:2305.13245). A query that a mask of -inf
hides from every key stays NaN, which torch's own fused attention would give as zeros; the graph may
do that too, see `guarded_softmax`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from sparse_compiler.ir.graph import Graph, Node
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.types import Dim, product
from sparse_compiler.ops.attention import Attention
from sparse_compiler.ops.matmul import Matmul
from sparse_compiler.ops.shape import Expand, Permute, Reshape
from sparse_compiler.ops.softmax import Softmax
from sparse_compiler.passes.base import Context, Pass
from sparse_compiler.passes.guarded_softmax import probabilities, read_besides
from sparse_compiler.passes.rewriter import Rewriter
from sparse_compiler.passes.scores import Scores, fits, make_mask, read_scores, without_scale


@dataclass(frozen=True)
class RecognizeAttention(Pass):
    """softmax(matmul(q, k^T) * scale + mask) v  =>  attention[scale](q, k, v, mask)."""

    name: ClassVar[str] = "recognize-attention"

    def run(self, graph: Graph, context: Context) -> Graph:
        rw = Rewriter(graph)
        for node in graph.nodes:
            found = _parts(rw, node)
            if isinstance(found, No):
                context.refuse(node.name, found)
            if isinstance(node.op, Attention):
                _group(rw, node, context)
            elif isinstance(found, Scores) and context.spend():
                _emit(rw, node, found)
            else:
                rw.keep(node)
        return rw.finish()


def _parts(rw: Rewriter, node: Node) -> Scores | No | None:
    """The scores whose softmax the node multiplies with values; None for other nodes."""
    if not isinstance(node.op, Matmul):
        return None
    found = probabilities(rw, node.inputs[0])
    if found is None or not isinstance(found.softmax.op, Softmax) or found.softmax.op.log:
        return None
    softmax, op = found.softmax, found.softmax.op
    rank = rw.tensor(softmax.name).rank
    if op.dim not in (-1, rank - 1):
        return No("softmax", f"%{softmax.name} runs over another dimension than the keys")
    guard = found.guard
    if not rw.only_reader(node.inputs[0]) or (guard and read_besides(rw, softmax.name, guard)):
        return No("shared_value", f"the probabilities %{softmax.name} are read elsewhere too")
    scores = read_scores(rw, found.scores, guard | {softmax.name})
    if isinstance(scores, No):
        return scores
    scores = replace(scores, nan_rows=not guard)
    if rw.tensor(scores.name).shape != rw.tensor(softmax.name).shape:
        return No("rank", f"%{softmax.name} has another shape than the product %{scores.name}")
    return _unfit(rw, node, scores) or scores


def _unfit(rw: Rewriter, node: Node, scores: Scores) -> No | None:
    """Why the shapes or dtypes are not those of attention."""
    names = (*rw.producers[scores.name].inputs, node.inputs[1])
    q, k, v = (rw.tensor(name) for name in names)
    if not (q.rank == k.rank == v.rank and q.rank in (3, 4)):
        return No("rank", f"queries of {q.shape}, keys of {k.shape} and values of {v.shape}")
    if {q.dtype, k.dtype, v.dtype} != {"f32"}:
        return No("dtype_unsupported", f"masks are made in f32, these queries are {q.dtype}")
    heads = q.shape[:-2]
    if k.shape[:-2] != v.shape[:-2] or k.shape[:-2] not in (heads, (*heads[:-1], 1)):
        return No("rank", f"queries of {q.shape}, keys of {k.shape} and values of {v.shape}")
    if q.rank == 3 and k.shape[0] != q.shape[0]:
        return No("broadcast", f"keys of {k.shape} are shared by queries of {q.shape}")
    shape = (*_heads(rw, node, scores), *rw.tensor(scores.name).shape[-2:])
    for mask in scores.masks:
        if not fits(mask, shape):
            return No("mask", f"%{mask.name} masks scores of {mask.shape}, not of {shape}")
    return None


def _heads(rw: Rewriter, node: Node, scores: Scores) -> tuple[Dim, ...]:
    """(batch, heads), also where the product folds them: as masks or views tell, else no heads."""
    batch = rw.tensor(scores.name).shape[:-2]
    if len(batch) == 2:
        return batch
    known: list[tuple[Dim, ...]] = [mask.shape[:2] for mask in scores.masks if len(mask.shape) == 4]
    for name in (*rw.producers[scores.name].inputs, node.inputs[1]):
        source = rw.producers.get(name)
        if source is not None and isinstance(source.op, Permute):
            source = rw.producers.get(source.inputs[0])
        if source is not None and isinstance(source.op, Reshape):
            known.append(rw.tensor(source.inputs[0]).shape[:2])
    fitting = [heads for heads in known if len(heads) == 2 and product(heads) == batch[0]]
    return fitting[0] if fitting else (batch[0], 1)


def _emit(rw: Rewriter, node: Node, scores: Scores) -> None:
    """The attention in the place of `node`, with the views that bring its inputs into heads."""
    name = node.name
    heads = _heads(rw, node, scores)
    left, right = rw.producers[scores.name].inputs
    query, factor = without_scale(rw, left, f"{name}.query")
    turned, other = without_scale(rw, right, f"{name}.key")
    operands = [query, _turned_back(rw, turned, f"{name}.key"), node.inputs[1]]
    if rw.tensor(name).rank == 3:
        operands = [_split(rw, operand, heads) for operand in operands]
    operands[1:] = _grouped(rw, operands[1:])
    shape = (*heads, *rw.tensor(scores.name).shape[-2:])
    mask = make_mask(rw, scores.masks, shape, f"{name}.mask")
    scale = _default(scores.scale * factor * other, rw.tensor(operands[0]).shape[-1])
    op = Attention(mask is not None, scale=scale, nan_rows=scores.nan_rows and mask is not None)
    inputs = (*operands, *([mask] if mask is not None else []))
    if rw.tensor(name).rank == 4:
        rw.replace(node, op, inputs)
        return
    found = rw.add(op, inputs, f"{name}.heads", node.loc)
    rw.replace(node, Reshape(rw.tensor(name).shape), (found,))


def _default(scale: float, size: object) -> float | None:
    """None where the scale is 1 / sqrt(size) to the last bits."""
    usual = size**-0.5 if isinstance(size, int) else math.nan
    return None if abs(scale - usual) <= 1e-7 * usual else scale


def _turned_back(rw: Rewriter, name: str, new: str) -> str:
    """The keys [..., S, D] of their transpose [..., D, S]."""
    rank = rw.tensor(name).rank
    swap = (*range(rank - 2), rank - 1, rank - 2)
    node = rw.producers.get(name)
    if node is not None and isinstance(node.op, Permute):
        dims = tuple(node.op.dims[d] for d in swap)
        if dims == tuple(range(rank)):
            return node.inputs[0]
        return rw.add(Permute(dims), node.inputs, new)
    return rw.add(Permute(swap), (name,), new)


def _split(rw: Rewriter, name: str, heads: tuple[Dim, ...]) -> str:
    """[B*H, S, D] as [B, H, S, D]: what it was made of, or a view."""
    shape = (*heads, *rw.tensor(name).shape[1:])
    node = rw.producers.get(name)
    view = node is not None and isinstance(node.op, Reshape)
    if node is not None and view and rw.tensor(node.inputs[0]).shape == shape:
        return node.inputs[0]
    return rw.add(Reshape(shape), (name,), f"{name}.heads")


def _grouped(rw: Rewriter, operands: list[str]) -> list[str]:
    """Keys and values before they were repeated for every query head, where both were alike."""
    sources = [_before_repeat(rw, operand) for operand in operands]
    groups = {rw.tensor(source).shape[1] for source in sources if source is not None}
    if None in sources or len(groups) != 1:
        return operands
    return [source for source in sources if source is not None]


def _before_repeat(rw: Rewriter, name: str) -> str | None:
    """x [B, G, S, D] of x expanded to [B, G, r, S, D] and reshaped to [B, G*r, S, D]."""
    shape = rw.tensor(name).shape
    node = rw.producers.get(name)
    if node is not None and isinstance(node.op, Expand):  # of one head
        before = rw.tensor(node.inputs[0]).shape
        return node.inputs[0] if before == (shape[0], 1, *shape[2:]) else None
    if node is None or not isinstance(node.op, Reshape):
        return None
    spread = rw.producers.get(node.inputs[0])
    if spread is None or not isinstance(spread.op, Expand) or len(spread.op.shape) != 5:
        return None
    batch, groups, repeats, *rest = spread.op.shape
    narrow = rw.producers.get(spread.inputs[0])
    if rw.tensor(spread.inputs[0]).shape != (batch, groups, 1, *rest) or narrow is None:
        return None
    if shape != (batch, product((groups, repeats)), *rest) or not isinstance(narrow.op, Reshape):
        return None
    before = rw.tensor(narrow.inputs[0]).shape
    return narrow.inputs[0] if before == (batch, groups, *rest) else None


def _group(rw: Rewriter, node: Node, context: Context) -> None:
    """attention(q, repeat(k), repeat(v)), which torch wrote, without the repeats."""
    grouped = _grouped(rw, list(node.inputs[1:3]))
    if tuple(grouped) != node.inputs[1:3] and context.spend():
        node = replace(node, inputs=(node.inputs[0], *grouped, *node.inputs[3:]))
    rw.keep(node)
