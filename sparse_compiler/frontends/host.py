"""Native segments inside a graph that Inductor compiles.

Each segment becomes one call of the operator `sparse_compiler::run_segment`, which Inductor does
not look into; the operators it replaces die, and the rest is decomposed and fused by Inductor
as ever. A segment takes contiguous tensors and gives contiguous ones; where the original value
had another order of strides, a copy that Inductor fuses restores it.
"""

from __future__ import annotations

import contextlib
import hashlib
import operator
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, cast

import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..errors import CodegenError
from ..ir.text import print_type
from ..ir.types import Type, symbols_in
from .importer import Imported


class Segment(Protocol):
    """A piece of the graph that runs natively: values by name, see `Imported.origin`. device: where
    its inputs and results lie."""

    @property
    def inputs(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    @property
    def run(self) -> Callable[..., list[torch.Tensor]]:
        """`run(tensors)`: contiguous inputs -> contiguous, freshly allocated outputs.

        Where the inputs' shapes do not determine every symbol of the outputs' (`[s0*s1, 768]`),
        it is called as `run(tensors, {"s0": 8, "s1": 16})`.
        """


@dataclass(frozen=True)
class _Entry:
    """symbols: those that are passed by value; examples: fake tensors like the results."""

    run: Callable[..., list[torch.Tensor]]
    symbols: tuple[str, ...]
    examples: tuple[torch.Tensor, ...]


_entries: dict[int, _Entry] = {}

# `Library.impl` costs a quarter of what `torch.library.custom_op` does, per call.
_LIBRARY: Any = torch.library.Library(  # type: ignore[no-untyped-call]
    "sparse_compiler", "FRAGMENT"
)
_LIBRARY.define("run_segment(Tensor[] inputs, SymInt[] sizes, int segment) -> Tensor[]")


def _run_segment(inputs: list[torch.Tensor], sizes: list[int], segment: int) -> list[torch.Tensor]:
    entry = _entries[segment]
    if not sizes:
        return entry.run(inputs)
    return entry.run(inputs, dict(zip(entry.symbols, sizes, strict=True)))


def _fake_segment(inputs: list[torch.Tensor], sizes: list[int], segment: int) -> list[torch.Tensor]:
    """Empty results in the sizes, possibly symbolic, that tracing found for the same values."""
    examples = _entries[segment].examples
    return [torch.empty(e.shape, dtype=e.dtype, device=e.device) for e in examples]


_LIBRARY.impl("run_segment", _run_segment, "CompositeExplicitAutograd")
torch.library.register_fake("sparse_compiler::run_segment", _fake_segment, lib=_LIBRARY)


def _new_handle(signature: str) -> int:
    """A number for a segment that is equal in every process for equal models.

    Inductor caches on the graph's text, in which the number stands: equal numbers must mean equal
    types of the results.
    """
    for ordinal in range(len(_entries) + 1):
        digest = hashlib.sha256(f"{ordinal}:{signature}".encode()).digest()
        handle = int.from_bytes(digest[:7])
        if handle not in _entries:
            return handle
    raise CodegenError("no free handle for a segment")


@dataclass
class Hosted:
    """gm: the fx graph with segments called in it; handles: to be released with it."""

    gm: fx.GraphModule
    handles: list[int] = field(default_factory=list)

    def release_with(self, owner: object) -> None:
        """Forgets the segments when `owner`, the compiled code, is collected."""
        for handle in self.handles:
            weakref.finalize(owner, _entries.pop, handle, None)


def host(gm: fx.GraphModule, imported: Imported, segments: Sequence[Segment]) -> Hosted:
    """A copy of `gm` in which each segment is one call. segments: in an order that can run."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    result = graph.graph_copy(gm.graph, copies)
    output = graph.output(result)
    output.meta = dict(gm.graph.output_node().meta)
    values = {name: copies[node] for name, node in imported.origin.items()}
    hosted = Hosted(fx.GraphModule(gm, graph))
    for segment in segments:
        hosted.handles.append(_insert(graph, imported, values, segment))
    _order(graph)
    graph.eliminate_dead_code()
    graph.lint()
    hosted.gm.recompile()
    return hosted


def _insert(
    graph: fx.Graph, imported: Imported, values: dict[str, fx.Node], segment: Segment
) -> int:
    """Calls one segment behind the last of its inputs and lets all users read its results."""
    types = imported.graph.types
    inputs = [values[name] for name in segment.inputs]
    old = [values[name] for name in segment.outputs]
    sizes = _size_nodes(graph, _undetermined(types, segment))
    taken, given = [
        [print_type(types[n]) for n in names] for names in (segment.inputs, segment.outputs)
    ]
    handle = _new_handle(f"{taken}, {list(sizes)} -> {given}")
    examples = tuple(node.meta["val"] for node in old)
    _entries[handle] = _Entry(segment.run, tuple(sizes), examples)
    operands = [*inputs, *sizes.values()]
    with graph.inserting_after(_last(graph, operands)):
        call = graph.call_function(torch.ops.sparse_compiler.run_segment.default)
    with graph.inserting_before(call):
        ready = [_contiguous(graph, node) for node in inputs]
        call.args = (ready, list(sizes.values()), handle)
    with graph.inserting_before(call.next):
        for i, (name, node) in enumerate(zip(segment.outputs, old, strict=True)):
            values[name] = _restore_strides(
                graph, graph.call_function(operator.getitem, (call, i)), node.meta["val"]
            )
            node.replace_all_uses_with(values[name])
    return handle


def _undetermined(types: Mapping[str, Type], segment: Segment) -> list[str]:
    """Symbols of the results that no dimension of an input is by itself, in order."""
    given = [types[name] for name in segment.inputs]
    plain = {str(d) for t in given for d in getattr(t, "shape", ()) if getattr(d, "is_Symbol", 0)}
    needed = {s for name in (*segment.inputs, *segment.outputs) for s in symbols_in(types[name])}
    return sorted(needed - plain)


def _size_nodes(graph: fx.Graph, symbols: Sequence[str]) -> dict[str, fx.Node]:
    """The nodes that hold these symbols at run time: placeholders, or results of `item`."""
    found: dict[str, fx.Node] = {}
    for node in graph.nodes if symbols else ():
        value = node.meta.get("val")
        if isinstance(value, torch.SymInt):
            found.setdefault(str(value.node.expr), node)
    missing = [name for name in symbols if name not in found]
    if missing:
        raise CodegenError(f"no input of the traced graph gives the size {missing[0]}")
    return {name: found[name] for name in symbols}


def _last(graph: fx.Graph, nodes: Sequence[fx.Node]) -> fx.Node:
    """The last of `nodes` and of the placeholders."""
    wanted = set(nodes)
    last: fx.Node = next(iter(graph.nodes))
    for node in graph.nodes:
        if node in wanted or node.op == "placeholder":
            last = node
    return last


def _contiguous(graph: fx.Graph, node: fx.Node) -> fx.Node:
    value = node.meta["val"]
    if torch._prims_common.is_contiguous_or_false(value):
        return node
    return _copy(graph, node)


def _copy(graph: fx.Graph, node: fx.Node) -> fx.Node:
    options: dict[str, Any] = {"memory_format": torch.contiguous_format}
    return graph.call_function(torch.ops.aten.clone.default, (node,), options)


def _restore_strides(graph: fx.Graph, node: fx.Node, example: torch.Tensor) -> fx.Node:
    """`node`, contiguous, in the order of strides of `example`, where that is dense."""
    order = dense_order(example)
    if order is None or order == sorted(order):
        node.meta["val"] = torch.empty_like(example, memory_format=torch.contiguous_format)
        return node
    permute = torch.ops.aten.permute.default
    back = [order.index(d) for d in range(len(order))]
    moved = _copy(graph, graph.call_function(permute, (node, order)))
    restored = graph.call_function(permute, (moved, back))
    restored.meta["val"] = example
    return restored


def dense_order(example: torch.Tensor) -> list[int] | None:
    """Dimensions from the largest stride to the smallest, where together they leave no gap."""

    def hint(stride: int | torch.SymInt) -> int:
        return stride.node.hint if isinstance(stride, torch.SymInt) else stride

    strides = example.stride()
    if any(hint(s) is None for s in strides):
        return None
    order = sorted(range(example.dim()), key=lambda d: -hint(strides[d]))
    expected: int | torch.SymInt = 1
    for dim in reversed(order):
        if not statically_known_true(strides[dim] == expected):
            return None
        expected = expected * example.shape[dim]
    return order


def _order(graph: fx.Graph) -> None:
    """Puts every node behind its inputs again and else keeps the order."""
    ready: set[fx.Node] = set()
    waiting: dict[fx.Node, list[fx.Node]] = {}
    pending = list(reversed(list(graph.nodes)))
    ordered: list[fx.Node] = []
    while pending:
        node = pending.pop()
        missing = next((n for n in node.all_input_nodes if n not in ready), None)
        if missing is not None:
            waiting.setdefault(missing, []).append(node)
            continue
        ready.add(node)
        ordered.append(node)
        pending += reversed(waiting.pop(node, []))
    if waiting:
        raise CodegenError(
            "the segments of a graph wait for one another",
            node=", ".join(str(n) for n in list(waiting)[:4]),
        )
    for before, after in pairwise(ordered):
        if before.next is not after:
            before.append(after)


def compile_hosted(hosted: Hosted, fake_inputs: Sequence[Any]) -> Callable[[list[Any]], Any]:
    """Inductor's code for the graph around the segments, from fake inputs of the same trace."""
    from torch._inductor.compile_fx import compile_fx_forward, create_compiler_config_extra
    from torch._inductor.virtualized import V

    fake_mode = detect_fake_mode(fake_inputs)
    with fake_mode or contextlib.nullcontext():
        gm = decompose(hosted.gm, fake_inputs)
    with V.set_fake_mode(fake_mode):
        code = compile_fx_forward(
            gm,
            fake_inputs,
            num_orig_model_outputs=len(cast(Sequence[Any], gm.graph.output_node().args[0])),
            num_example_inputs=len(fake_inputs),
            compiler_config_extra=create_compiler_config_extra(gm),
            is_inference=True,
        )
    hosted.release_with(code)
    return cast(Callable[[list[Any]], Any], code)


def decompose(gm: fx.GraphModule, fake_inputs: Sequence[Any]) -> fx.GraphModule:
    """The graph in the operators that Inductor lowers: its own decompositions, composites too."""
    from torch._dispatch.python import enable_python_dispatcher
    from torch._inductor.decomposition import select_decomp_table
    from torch.fx.experimental.proxy_tensor import make_fx

    for node in gm.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default):
        # A segment's result may have other strides than tracing saw: where a view no longer
        # fits them, reshape copies.
        node.target = torch.ops.aten.reshape.default
    with fx.traceback.preserve_node_meta(), enable_python_dispatcher(), torch.no_grad():
        return make_fx(
            fx.Interpreter(gm).run,
            decomposition_table=select_decomp_table(),
            tracing_mode="real",  # the inputs are fake already, with the symbols of this trace
            _allow_non_fake_inputs=True,
        )(*fake_inputs)


__all__ = ["Hosted", "Segment", "compile_hosted", "decompose", "host"]
