"""Dynamo's graph -> our graph, by AOTAutograd with every composite operator kept whole.

AOTAutograd makes the graph functional and wraps what it compiles, so mutated, aliased and repeated
inputs are its business and not ours. Parameters arrive as inputs; Dynamo marks them, hands over
the live tensors, and knows the path of each, which gives our graph its names and its guards.
"""

from __future__ import annotations

import inspect
import operator
import re
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.guards import GuardBuilder, install_guard
from torch._dynamo.source import LocalSource
from torch._functorch._aot_autograd.descriptors import PlainAOTInput
from torch._subclasses.fake_tensor import FakeTensor
from torch.export.exported_program import (
    _override_composite_implicit_decomp,
    _split_decomp_table_to_cia_and_python_decomp,
)
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from ..errors import UnsupportedError
from ..ir.graph import Graph
from ..ir.refusal import No
from ..ir.types import dim_of, tensor_type
from .aten import RULES
from .importer import Imported, Importer, clean_path, home_of, symbol_ranges


@dataclass(frozen=True)
class StaticInput:
    """An input that holds still between calls: a parameter or a buffer.

    path: its module path, "fc.weight"; tensor: the live one; source: Dynamo's, to guard it.
    """

    path: str
    tensor: torch.Tensor
    source: Any


def static_inputs(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> dict[int, StaticInput]:
    """Parameters and buffers among the inputs of Dynamo's graph, by position."""
    placeholders = gm.graph.find_nodes(op="placeholder")
    found: dict[int, StaticInput] = {}
    for i, (node, value) in enumerate(zip(placeholders, example_inputs, strict=True)):
        source = getattr(node, "_dynamo_source", None)
        if source is None or not isinstance(value, torch.Tensor):
            continue
        if getattr(value, "_dynamo_static_input_type", None) is not None:
            found[i] = StaticInput(_value_name(clean_path(source.name)), value, source)
    return found


def guard_identity(statics: Iterable[StaticInput]) -> None:
    """Recompiles when another tensor takes the place of one. Call while Dynamo compiles.

    The module that holds them is guarded too: Dynamo then counts recompilations per module, so a
    class of which a model has many blocks does not run into the limit.
    """
    sources = {s.name: s for static in statics for s in (static.source, *_module_of(static.source))}
    for source in sources.values():
        install_guard(source.make_guard(GuardBuilder.ID_MATCH))


def _module_of(source: Any) -> list[Any]:
    """The source of the local variable that is the module around a weight; none for other roots."""
    root = source
    while getattr(root, "base", None) is not None:
        root = root.base
    if isinstance(root, LocalSource) and source.name.startswith(f"{root.name}._"):
        return [root]
    return []


def refuse_training(gm: fx.GraphModule, example_inputs: Sequence[Any]) -> No | None:
    """Why this graph is for training, or None: we compile for inference alone."""
    learning = [x for x in example_inputs if isinstance(x, torch.Tensor) and x.requires_grad]
    if torch.is_grad_enabled() and learning:
        return No(
            "training",
            f"gradients are on and {len(learning)} of the {len(example_inputs)} inputs need them;"
            " call the model under torch.no_grad()",
        )
    for node in gm.graph.nodes:
        if _trains(node):
            name = getattr(node.target, "__name__", node.target)
            return No("training", f"{node.name} calls {name} in training mode; use model.eval()")
    return None


def _trains(node: fx.Node) -> bool:
    """True for dropout, batch norm and the like with their `training` switch on."""
    if node.op != "call_function" or not isinstance(node.target, types.FunctionType):
        return False
    signature = inspect.signature(node.target)
    if "training" not in signature.parameters:
        return False
    arguments = signature.bind_partial(*node.args, **node.kwargs)
    arguments.apply_defaults()
    if arguments.arguments["training"] is not True:
        return False
    # A batch norm without running statistics uses those of the batch in inference too.
    return arguments.arguments.get("running_mean", node) is not None


@dataclass
class Deferred:
    """What AOTAutograd wraps: the captured graph now, its compiled form as `target` later.

    gm: the functional ATen graph; fake_inputs: its inputs in AOTAutograd's fake mode.
    """

    gm: fx.GraphModule
    fake_inputs: list[Any]
    target: Callable[[list[Any]], Sequence[Any]] | None = None
    _boxed_call: bool = True  # AOTAutograd's mark of a callable that takes one list

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        if self.target is None:
            raise UnsupportedError("the graph is called before it is compiled")
        return self.target(args)


def capture(
    gm: fx.GraphModule, example_inputs: Sequence[Any]
) -> tuple[Callable[..., Any], Deferred]:
    """Traces to a functional ATen graph with composites whole: (what to call, what to compile).

    The compilation is deferred because Inductor must not run while the decompositions of
    composites are switched off. Call it with gradients off, or with inputs that need none.
    """
    captured: list[Deferred] = []

    def inference(graph: fx.GraphModule, fake_inputs: Sequence[Any]) -> Deferred:
        captured.append(Deferred(graph, list(fake_inputs)))
        return captured[-1]

    composites, _ = _split_decomp_table_to_cia_and_python_decomp({})
    with _override_composite_implicit_decomp(composites):
        call = aot_autograd(
            fw_compiler=inference,
            inference_compiler=inference,
            decompositions={},
            keep_inference_input_mutations=True,
        )(gm, example_inputs)
    if len(captured) != 1:
        raise UnsupportedError(f"AOTAutograd compiled {len(captured)} graphs where one is expected")
    return call, captured[0]


def import_aot_graph(gm: fx.GraphModule, statics: Mapping[int, StaticInput]) -> Imported:
    """AOTAutograd's graph as ours. statics: by position among the inputs of Dynamo's graph.

    A static input that the graph writes to is an input here, since its numbers change per call.
    The graph's outputs are the tensors among the fx outputs, its updates the inputs written to.
    """
    _guard_equal_keys(gm)
    importer = Importer(RULES, home_of(gm.graph))
    params: dict[str, torch.Tensor] = {}
    updates = {node.args[0]: node for node in gm.graph.nodes if _is_update(node)}
    outputs: list[Any] = []
    for node in gm.graph.nodes:
        match node.op:
            case "placeholder":
                static = None if node in updates else _static(node, statics)
                _enter_placeholder(importer, node, static, params)
            case "get_attr":
                _enter_attribute(importer, gm, node, params)
            case "call_function" if node.target is operator.getitem:
                importer.getitem(node)
            case "call_function" if node in updates.values():
                pass
            case "call_function":
                importer.call(node)
            case "output":
                outputs = [importer.values.get(o) for o in node.args[0] if isinstance(o, fx.Node)]
    pairs = [(importer.values[n.args[1]], importer.values[t]) for t, n in updates.items()]
    ranges = symbol_ranges([v.type for v in importer.builder.inputs], _ranges(gm))
    names = [o for o in outputs if isinstance(o, str)]
    graph = importer.builder.build(names, pairs, ranges, importer.objects)
    return Imported(graph, params, importer.origin)


def _guard_equal_keys(gm: fx.GraphModule) -> None:
    """Lets Dynamo guard that an attention has as many keys as values and masked scores.

    Caches that grow have a symbol for each tensor, and torch's attention compares none of them.
    """
    for node in gm.graph.find_nodes(
        op="call_function", target=torch.ops.aten.scaled_dot_product_attention.default
    ):
        tensors = [arg.meta.get("val") for arg in node.args[1:4] if isinstance(arg, fx.Node)]
        dims = (2, 2, 3)
        sizes = [
            t.shape[d]
            for t, d in zip(tensors, dims, strict=False)
            if isinstance(t, torch.Tensor) and t.dim() == 4
        ]
        for size in sizes[1:]:
            if isinstance(size, torch.SymInt) or isinstance(sizes[0], torch.SymInt):
                bool(size == sizes[0])  # comparing is what makes the guard


def size_hints(fake_inputs: Sequence[Any]) -> dict[str, int]:
    """The example's sizes, by the symbols that stand for them."""
    sizes: list[Any] = [x for x in fake_inputs if isinstance(x, torch.SymInt)]
    sizes += [
        size
        for x in fake_inputs
        if isinstance(x, torch.Tensor)
        for size in x.shape
        if isinstance(size, torch.SymInt)
    ]
    return {
        str(size.node.expr): int(size.node.hint)
        for size in sizes
        if size.node.expr.is_Symbol and size.node.hint is not None
    }


def captured_params(graph: Graph, inputs: Iterable[str], outputs: Iterable[str]) -> set[str]:
    """Parameters that computing `outputs` from `inputs` reads."""
    seen = set(inputs)
    params = {value.name for value in graph.params}
    found: set[str] = set()
    pending = [name for name in outputs if name not in seen]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in params:
            found.add(name)
        elif name in graph.producers:
            pending += graph.producers[name].inputs
    return found


def _is_update(node: fx.Node) -> bool:
    """True for the copies into inputs with which AOTAutograd ends a graph."""
    target = node.args[0] if node.args else None
    return (
        node.target is torch.ops.aten.copy_.default
        and isinstance(target, fx.Node)
        and target.op == "placeholder"
    )


def _static(node: fx.Node, statics: Mapping[int, StaticInput]) -> StaticInput | None:
    description = node.meta.get("desc")
    return statics.get(description.idx) if isinstance(description, PlainAOTInput) else None


def _enter_placeholder(
    importer: Importer, node: fx.Node, static: StaticInput | None, params: dict[str, torch.Tensor]
) -> None:
    example = node.meta.get("val")
    if isinstance(example, torch.SymInt):
        importer.values[node] = dim_of(example)
    elif isinstance(example, torch.SymFloat):
        importer.values[node] = example.node.expr
    elif not isinstance(example, torch.Tensor):
        importer.values[node] = example
    elif static is None:
        importer.enter(node, importer.builder.input(node.name, tensor_type(example)))
    else:
        name = importer.builder.fresh(static.path)
        _enter_param(importer, node, name, static.tensor, params)


def _enter_attribute(
    importer: Importer, gm: fx.GraphModule, node: fx.Node, params: dict[str, torch.Tensor]
) -> None:
    """A constant tensor of the graph, or a sub-graph of control flow."""
    value = operator.attrgetter(str(node.target))(gm)
    if isinstance(value, FakeTensor):
        raise UnsupportedError(f"the constant {node.target} of the traced graph has no numbers")
    if not isinstance(value, torch.Tensor):
        importer.object(node, value)
        return
    name = importer.builder.fresh(_value_name(str(node.target)))
    _enter_param(importer, node, name, value, params)


def _enter_param(
    importer: Importer,
    node: fx.Node,
    name: str,
    tensor: torch.Tensor,
    params: dict[str, torch.Tensor],
) -> None:
    importer.builder.param(name, tensor_type(tensor))
    importer.weight_time.add(name)
    importer.enter(node, name)
    params[name] = tensor


def _ranges(gm: fx.GraphModule) -> Mapping[Any, Any]:
    """Torch's ranges of the symbols, from the shape environment of any fake input."""
    for node in gm.graph.find_nodes(op="placeholder"):
        example = node.meta.get("val")
        if isinstance(example, FakeTensor):
            env = example.fake_mode.shape_env
            return env.var_to_range if isinstance(env, ShapeEnv) else {}
    return {}


def _value_name(path: str) -> str:
    """A path as the graph's text can hold it; closures and globals bring other characters."""
    return re.sub(r"[^\w.]+", "_", path).strip("_.") or "constant"
