"""A graph compiled by Inductor with its weights frozen: the dense rival of our own program.

Frozen weights are constants of the code. What holds a `Frozen` must drop it at the first change
of one: `freezing` looks at them once, while it compiles, and never again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from ..errors import first_line

log = logging.getLogger(__name__)

_FAILURES = (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError, KeyError)
"""What Inductor raises on a graph that it cannot compile; its exceptions share no base."""


@dataclass(frozen=True)
class Frozen:
    """run: graph inputs -> results, flat. shapes: of the inputs that it was compiled for."""

    run: Callable[..., Sequence[Any]]
    shapes: tuple[tuple[torch.Size, torch.dtype], ...]

    def fits(self, inputs: Sequence[torch.Tensor]) -> bool:
        """True for inputs of the shapes and dtypes that it was compiled for."""
        return self.shapes == _shapes(inputs)


def _shapes(inputs: Sequence[torch.Tensor]) -> tuple[tuple[torch.Size, torch.dtype], ...]:
    return tuple((x.shape, x.dtype) for x in inputs)


def freeze(gm: fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Frozen | None:
    """Inductor's code for a graph whose weights are attributes; None where it cannot compile it.

    Takes as long as `torch.compile(model, mode="max-autotune")` does: minutes for a large model.
    """
    import torch._inductor.config as config
    from torch._inductor import list_mode_options
    from torch._inductor.compile_fx import compile_fx

    patches: dict[str, Any] = {**list_mode_options("max-autotune"), "freezing": True}
    real = [x.detach() for x in inputs]
    try:
        with torch.no_grad(), config.patch(patches):
            run = cast(Callable[..., Sequence[Any]], compile_fx(gm, list(real)))
            run(*real)
    except _FAILURES as error:
        log.info("Inductor cannot compile the model: %s", first_line(error))
        return None
    return Frozen(run, _shapes(inputs))


def flat_module(
    program: ExportedProgram, live: Mapping[str, torch.Tensor]
) -> fx.GraphModule | None:
    """An exported program as a graph of its tensor inputs alone, weights as attributes.

    live: the tensors behind parameters and buffers, by name. None where the program writes to any
    of them, or gives what is no tensor: then nothing can stand for it.
    """
    signature = program.graph_signature
    if any(s.kind is not OutputKind.USER_OUTPUT for s in signature.output_specs):
        return None
    root = torch.nn.Module()
    graph = fx.Graph()
    values: dict[fx.Node, Any] = {}
    specs = {s.arg.name: s for s in signature.input_specs}
    for node in program.graph.nodes:
        spec = specs.get(node.name) if node.op == "placeholder" else None
        if node.op == "output":
            results = node.args[0]
            if not all(isinstance(r, fx.Node) and _is_tensor(r) for r in results):
                return None
            graph.output(tuple(values[r] for r in results))
        elif spec is None:
            if node.op == "get_attr":
                setattr(root, node.target, getattr(program.graph_module, node.target))
            values[node] = graph.node_copy(node, lambda n: values[n])
        elif spec.kind is InputKind.USER_INPUT:
            values[node] = graph.placeholder(node.name) if _is_tensor(node) else node.meta["val"]
        else:
            tensor = _tensor(program, spec, live)
            if tensor is None:
                return None
            name = f"weight_{len(root._buffers)}"
            root.register_buffer(name, tensor.detach(), persistent=False)
            values[node] = graph.get_attr(name)
    graph.lint()
    return fx.GraphModule(root, graph)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.Tensor)


def _tensor(
    program: ExportedProgram, spec: Any, live: Mapping[str, torch.Tensor]
) -> torch.Tensor | None:
    found = live.get(spec.target)
    if found is None:
        found = program.state_dict.get(spec.target, program.constants.get(spec.target))
    return found if isinstance(found, torch.Tensor) else None


def with_attributes(
    gm: fx.GraphModule, static: Mapping[int, torch.Tensor]
) -> tuple[fx.GraphModule, list[int]]:
    """A copy of a graph in which some placeholders are attributes; positions of the others.

    static: the tensors by position among the placeholders.
    """
    copy = fx.GraphModule(gm, fx.Graph())
    values: dict[fx.Node, fx.Node] = {}
    result = copy.graph.graph_copy(gm.graph, values)
    output = copy.graph.output(result)
    output.meta = dict(gm.graph.output_node().meta)
    kept: list[int] = []
    for i, node in enumerate(list(copy.graph.find_nodes(op="placeholder"))):
        if i not in static:
            kept.append(i)
            continue
        name = f"frozen_{i}"
        copy.register_buffer(name, static[i].detach(), persistent=False)
        with copy.graph.inserting_before(node):
            attribute = copy.graph.get_attr(name)
        attribute.meta = {k: v for k, v in node.meta.items() if k in ("example_value", "val")}
        node.replace_all_uses_with(attribute)
        copy.graph.erase_node(node)
    copy.recompile()
    return copy, kept


__all__ = ["Frozen", "flat_module", "freeze", "with_attributes"]
