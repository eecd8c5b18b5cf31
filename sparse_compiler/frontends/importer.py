"""An ATen-level fx graph -> our graph: what both torch front ends share.

Every node becomes one of our ops where a rule of `aten.py` fits, and a `torch_call` otherwise.
Symbolic sizes turn into expressions inside attributes, so size arithmetic leaves no nodes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import sympy
import torch
from torch import fx

from ..errors import UnsupportedError
from ..ir.attrs import Object, Slot
from ..ir.graph import Builder, Graph, Range, is_weight_time
from ..ir.op import Op
from ..ir.types import (
    Dim,
    ScalarType,
    TensorType,
    TupleType,
    Type,
    as_dim,
    dim_of,
    symbols_of,
    tensor_type,
)
from ..ops.torch_call import GetItem, TorchCall

# What a rule returns: the name of its result, several for a list of results, None for "not mine".
Result: TypeAlias = "str | tuple[str, ...] | None"
Rule: TypeAlias = "Callable[[Importer, fx.Node], Result]"

_IGNORED = ("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_constrain_range")


@dataclass(frozen=True)
class Imported:
    """A graph with what ties it to its source.

    params: the live tensor behind every graph parameter. origin: fx node behind a value, by name.
    """

    graph: Graph
    params: Mapping[str, torch.Tensor]
    origin: Mapping[str, fx.Node] = field(default_factory=dict)


class Adds(Protocol):
    """What adds nodes to a graph: every importer."""

    builder: Builder

    def add(self, op: Op, inputs: Iterable[str], *, type_: Type | None = None) -> str:
        """Adds a node; returns its name."""


def home_of(graph: fx.Graph) -> torch.device:
    """Where the parameters and inputs of a traced graph lie: on a GPU if any of them does."""
    values = (node.meta.get("val") for node in graph.find_nodes(op="placeholder"))
    devices = (v.device for v in values if isinstance(v, torch.Tensor))
    return next((d for d in devices if d.type == "cuda"), torch.device("cpu"))


class Importer:
    """Walks an fx graph once; `values` maps each fx node to the value or number it became.

    home: where the model lies. What torch computes elsewhere is left to it.
    """

    def __init__(self, rules: Mapping[str, Rule], home: torch.device | None = None) -> None:
        self.rules, self.home = rules, home or torch.device("cpu")
        self.builder = Builder()
        self.values: dict[fx.Node, Any] = {}
        self.origin: dict[str, fx.Node] = {}
        self.objects: dict[str, Any] = {}
        self.weight_time: set[str] = set()
        self.node: fx.Node | None = None

    def call(self, node: fx.Node) -> None:
        """Imports one call_function node."""
        self.node = node
        example = node.meta.get("val")
        if isinstance(example, (torch.SymInt, int)) and not isinstance(example, bool):
            self.values[node] = dim_of(example)
            if target_name(node).startswith("aten.sym_") or not _brings_symbol(self):
                return
        if isinstance(example, (torch.SymBool, torch.SymFloat)) and not _brings_symbol(self):
            self.values[node] = as_dim(example.node.expr)  # arithmetic on sizes, for their checks
            return
        if target_name(node).split(".")[-2:-1] and _short_target(node) in _IGNORED:
            return
        rule = self.rules.get(target_name(node))
        result = rule(self, node) if rule is not None else None
        if result is None:
            result = self.torch_call(node)
        self.enter(node, result)

    def enter(self, node: fx.Node, result: Any) -> None:
        """Ties an fx node to the value it became."""
        if not isinstance(self.values.get(node), (int, sympy.Expr)):
            self.values[node] = result
        if isinstance(result, str):
            self.origin.setdefault(result, node)

    def torch_call(self, node: fx.Node) -> str:
        """The node as it stands, to be run by torch."""
        inputs: list[str] = []
        op = TorchCall(
            target_name(node),
            tuple(self._argument(a, inputs) for a in node.args),
            tuple((k, self._argument(v, inputs)) for k, v in sorted(node.kwargs.items())),
        )
        return self.add(op, inputs, type_=example_type(node.meta.get("val")))

    def add(self, op: Op, inputs: Iterable[str], *, type_: Type | None = None) -> str:
        """Adds a node named after the module and operator that are being imported."""
        node = self._current()
        names = tuple(inputs)
        wanted = f"{module_path(node)}.{_short_target(node)}".lstrip(".")
        name = self.builder.fresh(wanted)
        self.builder.add(op, names, name, type_=type_, loc=location(node))
        if is_weight_time(op, names, self.builder.types[name], self.weight_time):
            self.weight_time.add(name)
        return name

    def tensor(self, arg: Any) -> tuple[str, TensorType] | None:
        """Name and type of an argument that is one of the graph's tensors; else None."""
        name = self.values.get(arg) if isinstance(arg, fx.Node) else None
        if not isinstance(name, str):
            return None
        type_ = self.builder.types[name]
        return (name, type_) if isinstance(type_, TensorType) else None

    def number(self, arg: Any) -> Any:
        """An argument that is a number or a size, as int, float, bool or expression; else None."""
        if isinstance(arg, fx.Node):
            value = self.values.get(arg)
            return value if isinstance(value, (int, float, sympy.Expr)) else None
        if isinstance(arg, torch.SymInt):
            return dim_of(arg)
        return arg if isinstance(arg, (int, float)) else None

    def result_type(self) -> TensorType | None:
        """Type of the single tensor that the node being imported gives; else None."""
        value = self._current().meta.get("val")
        return tensor_type(value) if isinstance(value, torch.Tensor) else None

    def arguments(self, *names_and_defaults: Any) -> dict[str, Any]:
        """The node's arguments by their schema names, defaults filled in."""
        node = self._current()
        schema = node.target._schema  # type: ignore[union-attr]
        found = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
        found |= {a.name: v for a, v in zip(schema.arguments, node.args, strict=False)}
        return found | dict(node.kwargs)

    def _current(self) -> fx.Node:
        if self.node is None:
            raise UnsupportedError("no node is being imported")
        return self.node

    def _argument(self, arg: Any, inputs: list[str]) -> Any:
        if isinstance(arg, fx.Node):
            value = self.values.get(arg)
            if value is None and arg not in self.values:
                raise UnsupportedError(
                    f"{arg} is used before it has a value", node=location(self._current())
                )
            if isinstance(value, str):
                if value not in inputs:
                    inputs.append(value)
                return Slot(inputs.index(value))
            if isinstance(value, tuple):
                return tuple(self._slot(v, inputs) for v in value)
            return value
        if isinstance(arg, (list, tuple)):
            return tuple(self._argument(a, inputs) for a in arg)
        if isinstance(arg, torch.SymInt):
            return dim_of(arg)
        return arg

    def _slot(self, name: str, inputs: list[str]) -> Slot:
        if name not in inputs:
            inputs.append(name)
        return Slot(inputs.index(name))

    def getitem(self, node: fx.Node) -> None:
        """`operator.getitem` on a node with several results."""
        self.node = node
        source, index = node.args
        value = self.values[source] if isinstance(source, fx.Node) else None
        if isinstance(value, tuple) and isinstance(index, int):
            self.enter(node, value[index])
        elif isinstance(value, str) and isinstance(index, int):
            example = node.meta.get("val")
            if isinstance(example, torch.SymInt):
                self.values[node] = dim_of(example)
                return
            self.enter(node, self.add(GetItem(index), [value]))
        else:
            self.enter(node, self.torch_call(node))

    def object(self, node: fx.Node, value: Any) -> None:
        """A sub-graph of control flow, or anything else without a text form."""
        name = str(node.target)
        self.objects[name] = value
        self.values[node] = Object(name)


def _brings_symbol(importer: Importer) -> bool:
    """True where a number comes out of a tensor at run time (`item`), not out of sizes."""
    node = importer._current()
    return any(
        isinstance(a, fx.Node) and isinstance(importer.values.get(a), str)
        for a in node.all_input_nodes
    )


def example_type(value: Any) -> Type:
    """The type of a node's example value, fake tensors and symbolic numbers included."""
    if isinstance(value, torch.Tensor):
        return tensor_type(value)
    if isinstance(value, (list, tuple)):
        return TupleType(tuple(None if v is None else example_type(v) for v in value))
    if isinstance(value, (torch.SymInt, int)):
        return ScalarType("i64", dim_of(value))
    if isinstance(value, (torch.SymFloat, float, torch.SymBool)):
        return ScalarType("f64", 0)
    if value is None:
        return TupleType(())
    raise UnsupportedError(f"a node gives a {type(value).__name__}, which has no type here")


def target_name(node: fx.Node) -> str:
    """`aten.add.Tensor`, `higher_order.cond`, `operator.getitem`."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return f"{target.namespace}.{target._schema.name.split('::')[1]}.{target._overloadname}"
    if isinstance(target, torch._ops.HigherOrderOperator):
        return f"higher_order.{target._name}"
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__name__', target)}"


def _short_target(node: fx.Node) -> str:
    name = target_name(node)
    return name.split(".")[1] if name.count(".") >= 1 else name


_PATH_NOISE = re.compile(
    r"L\['(?:self|fn)'\]|L__self__|_modules|_parameters|_buffers|_orig_mod|[\[\]'\"]+"
)


def clean_path(path: str) -> str:
    """`L['self']._modules['fc']._parameters['weight']` -> `fc.weight`."""
    return re.sub(r"\.+", ".", _PATH_NOISE.sub(".", path)).strip(".")


def module_path(node: fx.Node) -> str:
    """Dotted path of the module whose forward made this node; empty for the root."""
    stack = node.meta.get("nn_module_stack") or {}
    return clean_path(list(stack.values())[-1][0]) if stack else ""


_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def location(node: fx.Node) -> str:
    """`modeling_bert.py:175` of the user's innermost line outside of torch, where known."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    frames = [f for f in frames if not f[0].startswith("<")]  # `<eval_with_key>.7` has a counter
    own = [f for f in frames if "/torch/" not in f[0]] or frames
    return f"{own[-1][0].rsplit('/', 1)[-1]}:{own[-1][1]}" if own else ""


def symbol_ranges(graph_types: Sequence[TensorType], ranges: Mapping[Any, Any]) -> dict[str, Range]:
    """Declared ranges of the symbols in the inputs. ranges: torch's `range_constraints`."""
    names = {name for t in graph_types for name in symbols_of(t.shape)}
    found = {name: Range(0, None) for name in names}
    for key, limits in ranges.items():
        if isinstance(key, sympy.Symbol) and key.name in names:
            found[key.name] = Range(_low(limits.lower), _high(limits.upper))
    return found


def _low(bound: Any) -> int:
    return int(bound) if getattr(bound, "is_Integer", False) or isinstance(bound, int) else 0


def _high(bound: Any) -> int | None:
    number = int(bound) if getattr(bound, "is_Integer", False) or isinstance(bound, int) else None
    return None if number is None or number >= 2**31 else number


__all__ = ["Adds", "Dim", "Imported", "Importer", "Result", "Rule", "as_dim", "target_name"]
