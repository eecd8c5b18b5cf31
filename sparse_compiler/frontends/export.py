"""torch.export -> our graph: for `sc.compile`, `sc.inspect` and saved `.pt2` programs.

The program is functionalised with an empty decomposition table, so linear, layer norm and
attention arrive whole and what stays with torch runs the same kernels as eager does.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

import sympy
import torch
from torch import fx
from torch.export.graph_signature import InputKind, OutputKind

from ..errors import InputError, UnsupportedError
from ..ir.graph import Graph, attr_symbols
from ..ir.interpret import bind_shape
from ..ir.text import print_node
from ..ir.types import ScalarType, TensorType, symbols_in, symbols_of, tensor_type
from .aten import RULES
from .importer import Imported, Importer, home_of, symbol_ranges
from .trace import trace


@dataclass(frozen=True)
class Constant:
    """A result that is no tensor and never changes: a number, a string or None."""

    value: Any


@dataclass(frozen=True)
class Size:
    """A result that is a size, or a comparison of sizes, in the symbols of the inputs."""

    value: sympy.Basic

    def of(self, symbols: Mapping[str, int]) -> Any:
        """Its value as a Python number."""
        free = self.value.free_symbols
        number = self.value.xreplace({s: sympy.Integer(symbols[s.name]) for s in free})
        return bool(number) if number in (sympy.true, sympy.false) else int(number)


@dataclass(frozen=True)
class CallSpec:
    """How a model is called: the tree of its arguments and results.

    inputs: position in the flat arguments of each graph input; fixed: flat arguments that were
    compiled in; outputs: for each leaf of the result its index among graph outputs, a constant or a
    size; types: of the graph inputs, which determine the sizes.
    """

    in_spec: Any
    out_spec: Any
    inputs: tuple[int, ...]
    fixed: Mapping[int, Any]
    outputs: tuple[int | Constant | Size, ...]
    types: tuple[TensorType, ...]

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        """The graph inputs among a call's arguments. Raises `InputError` on another structure."""
        flat = self._flat_already(args, kwargs)
        if flat is None:
            flat, spec = torch.utils._pytree.tree_flatten((args, dict(kwargs)))
            if spec != self.in_spec:
                flat = self._reordered(args, kwargs)
        if self._takes_all:
            return flat
        for position, expected in self.fixed.items():
            if not _same_constant(flat[position], expected):
                raise InputError(
                    f"argument {position} is {flat[position]!r}",
                    why=f"the model was compiled for {expected!r}",
                    fix="compile once for each value of a non-tensor argument",
                )
        return [flat[position] for position in self.inputs]

    def unflatten(self, results: Sequence[Any], inputs: Sequence[torch.Tensor]) -> Any:
        """Graph outputs, and the inputs they came from -> the model's own structure of results."""
        if self._gives_all:
            return self._rebuild(list(results))
        symbols: dict[str, int] = {}
        if any(isinstance(o, Size) for o in self.outputs):
            for type_, tensor in zip(self.types, inputs, strict=True):
                bind_shape(type_, tensor.shape, symbols)
        leaves: list[Any] = []
        for output in self.outputs:
            match output:
                case Constant(value=value):
                    leaves.append(value)
                case Size():
                    leaves.append(output.of(symbols))
                case index:
                    leaves.append(results[index])
        return self._rebuild(leaves)

    # What a call needs of the structures, found out once: flattening takes 2 us an argument.

    @cached_property
    def _flat_names(self) -> tuple[int, list[str]] | None:
        """How many arguments by position, and names of the others; None if any has a structure."""
        if self.in_spec.num_children != 2:
            return None
        positional, named = self.in_spec.children()
        if not all(child.is_leaf() for child in (*positional.children(), *named.children())):
            return None
        return positional.num_children, list(named.context or ())

    @cached_property
    def _takes_all(self) -> bool:
        return not self.fixed and self.inputs == tuple(range(self.in_spec.num_leaves))

    @cached_property
    def _gives_all(self) -> bool:
        return self.outputs == tuple(range(len(self.outputs)))

    @cached_property
    def _rebuild(self) -> Callable[[list[Any]], Any]:
        """Leaves of the result -> the result."""
        spec = self.out_spec
        if spec.is_leaf():
            return itemgetter(0)
        if spec.type in (tuple, list) and all(child.is_leaf() for child in spec.children()):
            constructor: Callable[[list[Any]], Any] = spec.type
            return constructor
        return lambda leaves: torch.utils._pytree.tree_unflatten(leaves, spec)

    def _flat_already(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any] | None:
        """The arguments in order, where none was, or is, more than a leaf; else None."""
        if self._flat_names is None:
            return None
        count, names = self._flat_names
        if len(args) != count or len(kwargs) != len(names):
            return None
        try:
            flat = [*args, *[kwargs[name] for name in names]]
        except KeyError:
            return None
        return flat if _LEAVES.issuperset(map(type, flat)) else None

    def _reordered(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Keyword arguments in another order still fit."""
        names = self.in_spec.child(1).context if self.in_spec.num_children == 2 else []
        if set(names) == set(kwargs):
            ordered = {name: kwargs[name] for name in names}
            flat, spec = torch.utils._pytree.tree_flatten((args, ordered))
            if spec == self.in_spec:
                return flat
        raise InputError(
            "the arguments have another structure than those compiled for",
            why=f"{len(args)} positional and {sorted(kwargs)} by name; expected {self.in_spec}",
            fix="call with the arguments given to compile",
        )


_LEAVES = frozenset((torch.Tensor, torch.nn.Parameter, type(None), bool, int, float, str))


def _same_constant(given: Any, expected: Any) -> bool:
    return type(given) is type(expected) and bool(given == expected)


@dataclass(frozen=True)
class ExportedModel:
    """What the front end hands on: the graph, live parameters, how to call it, and torch's own.

    program: None of what comes from TVM.
    """

    imported: Imported
    call: CallSpec
    program: torch.export.ExportedProgram | None


def export_module(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
) -> ExportedModel:
    """Traces a module in inference. Raises `UnsupportedError` with torch's own reason."""
    try:
        with torch.no_grad(), _collector_paused(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = trace(model, args, kwargs or {}, dynamic_shapes)
            return _imported(program, dict(model.state_dict(keep_vars=True)))
    except (RuntimeError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        if isinstance(error, (UnsupportedError, InputError)):
            raise
        raise UnsupportedError(
            f"torch.export cannot trace {type(model).__name__}",
            why=str(error).strip().split("\n\n")[0],
            fix="use torch.compile(model, backend='sparse_compiler'), which may break the graph",
        ) from error


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Without garbage collection: a trace makes objects by the million and keeps them (BERT-base:
    a tenth of the time of a compile)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def import_program(program: torch.export.ExportedProgram) -> ExportedModel:
    """An exported program as a graph."""
    return _imported(program.run_decompositions({}), {})


def _imported(
    program: torch.export.ExportedProgram, live: Mapping[str, torch.Tensor]
) -> ExportedModel:
    """A functional program as a graph. live: the module's own tensors, preferred over copies."""
    importer = Importer(RULES, home_of(program.graph))
    params: dict[str, torch.Tensor] = {}
    positions: list[int] = []
    fixed: dict[int, Any] = {}
    outputs: list[Any] = []
    specs = {s.arg.name: s for s in program.graph_signature.input_specs}
    user = 0
    for node in program.graph.nodes:
        match node.op:
            case "placeholder":
                spec = specs[node.name]
                if spec.kind is InputKind.USER_INPUT:
                    _user_input(importer, node, spec, user, positions, fixed)
                    user += 1
                else:
                    tensor = _live_tensor(program, spec, live)
                    params[_enter_param(importer, node, spec.target or node.name, tensor)] = tensor
            case "get_attr":
                value = getattr(program.graph_module, str(node.target))
                if isinstance(value, torch.Tensor):
                    params[_enter_param(importer, node, str(node.target), value)] = value
                else:
                    importer.object(node, value)
            case "call_function" if getattr(node.target, "__name__", "") == "getitem":
                importer.getitem(node)
            case "call_function":
                importer.call(node)
            case "output":
                outputs = list(node.args[0])
    return _finish(program, importer, params, positions, fixed, outputs)


def _user_input(
    importer: Importer,
    node: fx.Node,
    spec: Any,
    position: int,
    positions: list[int],
    fixed: dict[int, Any],
) -> None:
    example = node.meta.get("val")
    if isinstance(example, torch.Tensor):
        importer.enter(
            node, importer.builder.input(importer.builder.fresh(node.name), tensor_type(example))
        )
        positions.append(position)
        return
    if isinstance(example, (torch.SymInt, torch.SymFloat)):
        raise UnsupportedError(
            f"argument {node.name} is a number that may change from call to call",
            fix="pass it as a tensor, or leave it out of dynamic_shapes to compile its value in",
        )
    fixed[position] = getattr(spec.arg, "value", example)
    importer.values[node] = fixed[position]


def _enter_param(importer: Importer, node: fx.Node, name: str, tensor: torch.Tensor) -> str:
    name = importer.builder.fresh(name)
    importer.builder.param(name, tensor_type(tensor))
    importer.weight_time.add(name)
    importer.enter(node, name)
    return name


def _live_tensor(
    program: torch.export.ExportedProgram, spec: Any, live: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    found = live.get(spec.target)
    if found is None:
        found = program.state_dict.get(spec.target, program.constants.get(spec.target))
    if not isinstance(found, torch.Tensor):
        raise UnsupportedError(
            f"input {spec.arg.name} of the exported program is no tensor",
            why=f"it is a {type(found).__name__}",
        )
    return found


def _finish(
    program: torch.export.ExportedProgram,
    importer: Importer,
    params: dict[str, torch.Tensor],
    positions: list[int],
    fixed: dict[int, Any],
    outputs: list[Any],
) -> ExportedModel:
    signature = program.graph_signature
    results: list[str] = []
    leaves: list[int | Constant | Size] = []
    types = tuple(v.type for v in importer.builder.inputs)
    updates: list[tuple[str, str]] = []
    targets = _mutation_targets(program, importer)
    for spec, out in zip(signature.output_specs, outputs, strict=True):
        value = importer.values.get(out) if isinstance(out, fx.Node) else out
        if spec.kind is OutputKind.USER_OUTPUT:
            if isinstance(out, fx.Node) and isinstance(value, str):
                leaves.append(len(results))
                results.append(value)
            elif isinstance(value, sympy.Basic):
                leaves.append(_size(value, types))
            else:
                leaves.append(Constant(value))
        elif spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.USER_INPUT_MUTATION):
            updates.append((str(value), targets[spec.kind, str(spec.target)]))
        else:
            raise UnsupportedError(f"the exported program returns a {spec.kind.name.lower()}")
    graph = importer.builder.build(
        results, updates, symbol_ranges(types, program.range_constraints), importer.objects
    )
    _refuse_numbers_of_tensors(graph, types)
    call = CallSpec(
        program.call_spec.in_spec,
        program.call_spec.out_spec,
        tuple(positions),
        fixed,
        tuple(leaves),
        types,
    )
    return ExportedModel(Imported(graph, params, importer.origin), call, program)


def _refuse_numbers_of_tensors(graph: Graph, types: Sequence[TensorType]) -> None:
    """Ops may be told numbers that shapes decide, but no number out of a tensor.

    The shapes are those of the inputs, and of the values before an op: how many rows `nonzero`
    found is known once it ran.
    """
    known = {name for type_ in types for name in symbols_of(type_.shape)}
    for node in graph.nodes:
        if attr_symbols(node.op) - known:
            raise UnsupportedError(
                f"{node.op.name} needs a number that depends on numbers inside tensors",
                node=print_node(node),
                why="all numbers but those in tensors must be known before a call runs",
                fix="index with a tensor (torch.index_select), or use torch.compile(model, backend="
                '"sparse_compiler"), which cuts the model there',
            )
        if not isinstance(node.type, ScalarType):
            known |= symbols_in(node.type)


def _size(value: sympy.Basic, types: Sequence[TensorType]) -> Size:
    known = {name for type_ in types for name in symbols_of(type_.shape)}
    if {s.name for s in value.free_symbols} - known:
        raise UnsupportedError(
            f"the model returns the size {value}, which depends on numbers inside tensors",
            fix="return it as a tensor",
        )
    return Size(value)


def _mutation_targets(
    program: torch.export.ExportedProgram, importer: Importer
) -> dict[tuple[OutputKind, str], str]:
    """Graph value behind each buffer, by its path, or input, by its name, that is written to."""
    values = {node.name: importer.values.get(node) for node in program.graph.nodes}
    found: dict[tuple[OutputKind, str], str] = {}
    for spec in program.graph_signature.input_specs:
        value = values.get(spec.arg.name)
        if isinstance(value, str):
            found[OutputKind.USER_INPUT_MUTATION, spec.arg.name] = value
            found[OutputKind.BUFFER_MUTATION, str(spec.target)] = value
    return found
