"""A masked model -> a plain module of smaller standard layers with the same results.

The graph without its dead channels is traced by torch.export, and what comes out is rewritten to
call `nn.Linear`, `nn.Conv2d` and the like under the paths they had. The module is a
`torch.fx.GraphModule`: its code is Python over torch alone, so it is saved, loaded, fine-tuned and
exported as any module, without this package.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import sympy
import torch
from torch import fx, nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from ..errors import UnsupportedError
from ..ir.attrs import Object, map_attr
from ..ir.graph import Graph, Node
from ..ir.types import TensorType
from ..ops.conv import Conv, transpose_weight
from ..ops.epilogue import apply_epilogue
from ..options import Options
from ..passes.base import Context
from ..passes.eliminate_dead_channels import EliminateDeadChannels
from ..passes.fold_batch_norm import FoldBatchNorm
from ..passes.pipeline import PASSES, run_passes
from ..runtime.weights import WeightTimeValues
from .export import CallSpec, Constant, ExportedModel, export_module
from .layers import layer_call, place
from .plan import Plan, Roots, plan_of

_STOP = FoldBatchNorm.name
MADE = "constants"
"""Where tensors stand that the model did not have, such as a bias for each place."""


def shrink_module(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None,
    dynamic_shapes: Any,
) -> fx.GraphModule:
    """See `sparse_compiler.shrink`."""
    exported = _trace(model, args, kwargs, dynamic_shapes)
    graph = exported.imported.graph
    if graph.updates:
        raise UnsupportedError(
            f"cannot shrink {type(model).__name__}",
            why=f"it writes to {graph.updates[0][1]} when it is called",
            fix="put it in eval mode, or switch its cache off",
        )
    params = {name: t.detach() for name, t in exported.imported.params.items()}
    narrow = _narrow(graph, params)
    holder = _Holder(narrow, params)
    inputs = exported.call.flatten(args, dict(kwargs or {}))
    module = _as_module(holder, inputs)
    _restore_call(module, exported.call)
    module.__dict__["plan"] = plan_of(narrow, holder.roots, holder.names, params)
    return module.eval()


def _trace(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None, dynamic_shapes: Any
) -> ExportedModel:
    """Exported with any batch where that works; with the example's otherwise, or as asked."""
    if not isinstance(model, nn.Module):
        raise UnsupportedError(
            f"cannot shrink a {type(model).__name__}", fix="give a torch.nn.Module in eval mode"
        )
    if model.training:
        raise UnsupportedError(
            f"cannot shrink {type(model).__name__}",
            why="it is in training mode, where batch norms and dropout change from call to call",
            fix="call model.eval() first",
        )
    if dynamic_shapes is not None:
        return export_module(model, args, kwargs, dynamic_shapes)

    def batch(value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.dim() and value.shape[0] > 1:
            return {0: torch.export.Dim.AUTO}
        return None

    shapes = torch.utils._pytree.tree_map(batch, (tuple(args), dict(kwargs or {})))
    try:
        return export_module(model, args, kwargs, _as_signature(shapes))
    except UnsupportedError:
        return export_module(model, args, kwargs)


def _as_signature(shapes: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
    positional, named = shapes
    return positional if not named else None


def _narrow(graph: Graph, params: Mapping[str, torch.Tensor]) -> Graph:
    """The graph without its dead; batch norms stay what they are."""
    context = Context(params=params)
    names = [pass_.name for pass_ in PASSES]
    before = PASSES[: names.index(_STOP)]
    passes = (*before, EliminateDeadChannels())
    return run_passes(graph, context, replace(Options(), verify=1), passes=passes)[0]


@dataclass
class _Names:
    """Module paths given so far."""

    taken: set[str]

    def free(self, name: str) -> str:
        unique, count = name, 2
        while unique in self.taken:
            unique, count = f"{name}_{count}", count + 1
        self.taken.add(unique)
        return unique


def _renamed(path: str, suffix: str) -> str:
    """`fc.weight` of the second `fc` -> `fc_2.weight`."""
    owner, _, leaf = path.rpartition(".")
    return f"{owner}{suffix}.{leaf}" if owner else f"{leaf}{suffix}"


class _Holder(nn.Module):
    """Runs a graph by the references of its ops, with its weights as parameters of its own."""

    def __init__(self, graph: Graph, params: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.graph = graph
        self.roots = Roots(graph)
        self.names: dict[str, str] = {}
        fixed = [n for n in graph.nodes if n.name in graph.weight_time]
        steps = [n for n in graph.nodes if n.name not in graph.weight_time]
        reads = [i for n in steps for i in n.inputs if i in graph.weight_time]
        reads += [o for o in graph.outputs if o in graph.weight_time]
        values = WeightTimeValues(graph, fixed, params, (), dict.fromkeys(reads))
        paths = _Names(set())
        for node in steps:
            for index, path in self._paths(node, paths).items():
                name = node.inputs[index]
                self.names[name] = path
                value = _as_torch_has_it(node, index, values.kept[name])
                place(self, path, value, name in params)
        for name in graph.outputs:
            if name in graph.weight_time and name not in self.names:
                self.names[name] = paths.free(f"{MADE}.{name.replace('.', '_')}")
                place(self, self.names[name], values.kept[name], name in params)

    def _paths(self, node: Node, paths: _Names) -> dict[int, str]:
        """Where the weights that `node` is the first to read go, by input.

        A layer that the model calls twice may be left with other channels each time: two layers.
        """
        wanted: dict[int, str] = {}
        for index, name in enumerate(node.inputs):
            if name in self.graph.weight_time and name not in {*self.names, *wanted.values()}:
                wanted[index] = self.roots.path(node, index)
        suffix, count = "", 2
        while any(_renamed(path, suffix) in paths.taken for path in wanted.values()):
            suffix, count = f"_{count}", count + 1
        found: dict[int, str] = {}
        for index, path in wanted.items():
            if node.inputs[index] not in [node.inputs[i] for i in found]:
                found[index] = paths.free(_renamed(path, suffix))
        return found

    def forward(self, *inputs: torch.Tensor) -> tuple[Any, ...]:
        graph = self.graph
        values: dict[str, Any] = {}
        symbols: dict[str, Any] = {}
        for value, tensor in zip(graph.inputs, inputs, strict=True):
            values[value.name] = tensor
            for dim, size in zip(value.type.shape, tensor.shape, strict=True):
                if isinstance(dim, sympy.Symbol):
                    symbols.setdefault(dim.name, size)
        for name, path in self.names.items():
            *owner, leaf = path.split(".")
            values[name] = getattr(self.get_submodule(".".join(owner)), leaf)
        for node in graph.nodes:
            if node.name not in graph.weight_time:
                args = [values[i] for i in node.inputs]
                values[node.name] = _run(_bound(graph, node, symbols), args)
        return tuple(values[name] for name in graph.outputs)


def _as_torch_has_it(node: Node, index: int, tensor: torch.Tensor) -> torch.Tensor:
    """A weight as a standard layer holds it; ours of a transposed convolution is turned round."""
    if index == node.op.weight_input and isinstance(node.op, Conv) and node.op.transposed:
        return transpose_weight(tensor, node.op.groups)
    return tensor


def _run(op: Any, args: list[Any]) -> Any:
    """The op's reference, on weights as `_as_torch_has_it` gives them."""
    if not isinstance(op, Conv) or not op.transposed:
        return op.reference(*args)
    bias = args[2] if op.bias else None
    places = (op.stride, op.padding, op.dilation, True, op.output_padding, op.groups)
    result = torch.convolution(args[0], args[1], bias, *places)
    return apply_epilogue(op, result, tuple(args))


def _bound(graph: Graph, node: Node, symbols: Mapping[str, Any]) -> Any:
    """The op with torch's sizes for its symbols."""

    def leaf(value: Any) -> Any:
        if isinstance(value, sympy.Expr):
            env = {s: symbols[s.name] for s in value.free_symbols}
            return sympy_interp(PythonReferenceAnalysis, env, value)
        return graph.objects[value.name] if isinstance(value, Object) else value

    changes = {f.name: map_attr(getattr(node.op, f.name), leaf) for f in fields(node.op)}
    changed = {k: v for k, v in changes.items() if v is not getattr(node.op, k)}
    return replace(node.op, **changed) if changed else node.op


def _as_module(holder: _Holder, inputs: list[torch.Tensor]) -> fx.GraphModule:
    """The traced graph with a call of a standard layer wherever it calls one's function."""
    shapes = tuple(_dynamic(value.type) for value in holder.graph.inputs)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            holder, tuple(inputs), dynamic_shapes=(shapes,) if inputs else None, strict=False
        )
        traced = program.run_decompositions({}).module(check_guards=False)
    for node in list(traced.graph.nodes):
        if node.op == "call_function":
            layer_call(traced, node)
    traced.graph.eliminate_dead_code()
    traced.graph._tracer_cls = None  # export's own cannot be made again when unpickling
    return fx.GraphModule(traced, traced.graph, "Shrunk")  # of what the graph reads, and no more


def _dynamic(type_: TensorType) -> dict[int, Any] | None:
    auto = torch.export.Dim.AUTO
    found = {d: auto for d, size in enumerate(type_.shape) if not isinstance(size, int)}
    return found or None


def _restore_call(module: fx.GraphModule, call: CallSpec) -> None:
    """The model's own arguments and structure of results."""
    graph = module.graph
    if any(not isinstance(o, (int, Constant)) for o in call.outputs):
        raise UnsupportedError("cannot shrink a model that returns a size")
    places = [n for n in graph.nodes if n.op == "placeholder"]
    names = [f"arg{i}" for i in range(call.in_spec.num_leaves)]
    first = places[0] if places else next(iter(graph.nodes))
    with graph.inserting_before(first):
        new = [graph.placeholder(name) for name in names]
    for old, position in zip(places, call.inputs, strict=True):
        old.replace_all_uses_with(new[position])
        graph.erase_node(old)
    (end,) = [n for n in graph.nodes if n.op == "output"]
    found = end.args[0]
    results = found if isinstance(found, (list, tuple)) else (found,)
    leaves = [results[o] if isinstance(o, int) else o.value for o in call.outputs]
    end.args = (leaves,)
    positional, named = call.in_spec.children()
    info = _PyTreeInfo(
        [f"a{i}" for i in range(positional.num_children)] + list(named.context or ()),
        call.in_spec,
        call.out_spec,
    )
    graph.set_codegen(_PyTreeCodeGen(info))
    module.recompile()


__all__ = ["Plan", "shrink_module"]
