"""Runs a Program: native segments and torch steps between the values that stay row-major.

The steps become one straight-line Python function, so a torch step costs what it costs in eager.
Symbolic attributes are numbers in it: one function per set of input shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import torch

from ..codegen.program import Program, Segment, TorchStep
from ..errors import InputError
from ..ir.attrs import Slot
from ..ir.graph import Graph, Node
from ..ir.interpret import bind_inputs, run_node
from ..ir.types import symbols_in, torch_dtype
from ..ops.torch_call import TorchCall, resolve_target
from .clock import StepClock
from .constants import BoundConstants
from .gpu_place import Place

_SHAPES_KEPT = 64
Runner = Callable[[Sequence[torch.Tensor]], tuple[Any, ...]]

_FACTS = attrgetter("shape", "dtype", "is_cpu", "layout")
"""What an input must fit in; also the key under which its runner is remembered."""


class Executor:
    """Calls a program. values: what depends on weights alone, by name; clock: times each step;
    place: where inputs and values lie, None for the CPU."""

    def __init__(
        self,
        graph: Graph,
        program: Program,
        segments: Sequence[Any],
        values: Mapping[str, torch.Tensor],
        clock: StepClock | None = None,
        place: Place | None = None,
    ) -> None:
        self.graph, self.program, self.clock = graph, program, clock
        self.place = place
        self.device = place.device if place else torch.device("cpu")
        self.segments, self.values = list(segments), values
        self.constants = BoundConstants(graph, program.bind, values, self.device)
        self._dtypes = [torch_dtype(t.dtype) for _, t in program.inputs]
        self._runners: dict[tuple[Any, ...], Runner] = {}
        known = set(graph.symbols)
        steps = [s.node for s in program.steps if isinstance(s, TorchStep)]
        self.params = {value.name for value in graph.params}
        self._data_dependent = any(symbols_in(node.type) - known for node in steps)
        self.native = not steps and not program.updates
        """No torch op ever runs, so it does not matter whether gradients are on."""

    def restart_clock(self) -> None:
        """Forgets what the clocks, if any, have measured."""
        if self.clock is not None:
            self.clock.clear()
        for segment in self.segments:
            if segment.clock is not None:
                segment.clock.spent.clear()

    def forget_first_call(self) -> None:
        """Before each timed call: leaves out the first of several, which bound shapes."""
        if self.clock is not None and self.clock.runs == 1 and not self.clock.warm:
            self.restart_clock()
            self.clock.warm = True

    def __call__(self, inputs: Sequence[torch.Tensor]) -> tuple[Any, ...]:
        """Outputs, then the values of updates. Raises `InputError` on inputs that do not fit."""
        try:
            key = tuple(map(_FACTS, inputs))
        except AttributeError:  # a number, an array
            self._check(inputs)
            raise
        runner = self._runners.get(key)
        if runner is None:
            self._check(inputs)
            runner = self._bind(inputs, key)
        return runner(inputs)

    def _check(self, inputs: Sequence[Any]) -> None:
        """Raises `InputError` where the inputs are not what the graph takes, shapes apart."""
        for (name, _), dtype, tensor in zip(
            self.program.inputs, self._dtypes, inputs, strict=False
        ):
            if not isinstance(tensor, torch.Tensor):
                raise InputError(f"input %{name} is a {type(tensor).__name__}, no tensor")
            if self.place is not None:
                self.place.check(tensor, f"input %{name}")
            elsewhere = tensor.device != self.device
            if tensor.dtype != dtype or elsewhere or tensor.layout != torch.strided:
                stored = "" if tensor.layout == torch.strided else f", stored as {tensor.layout}"
                raise InputError(
                    f"input %{name} is {tensor.dtype} on {tensor.device}{stored}",
                    why=f"the model was compiled for {dtype} on {self.device}",
                    fix="convert the input, or compile for it",
                )

    def _bind(self, inputs: Sequence[torch.Tensor], key: tuple[Any, ...]) -> Runner:
        symbols = bind_inputs(self.graph, inputs)
        if self._data_dependent:
            return self._stepwise
        runner = _straight_line(self, symbols)
        if len(self._runners) >= _SHAPES_KEPT:
            self._runners.pop(next(iter(self._runners)), None)
        self._runners[key] = runner
        return runner

    def _stepwise(self, inputs: Sequence[torch.Tensor]) -> tuple[Any, ...]:
        """Step by step, for graphs whose shapes depend on numbers inside tensors."""
        symbols = bind_inputs(self.graph, inputs)
        values: dict[str, Any] = dict(self.constants(symbols))
        values |= dict(zip((n for n, _ in self.program.inputs), inputs, strict=True))
        native = iter(self.segments)
        if self.clock:
            self.clock.start()
        for i, step in enumerate(self.program.steps):
            if isinstance(step, Segment):
                segment = next(native)
                results = segment.run([values[name] for name in segment.inputs], symbols)
                values |= dict(zip(segment.outputs, results, strict=True))
            else:
                node = step.node
                arguments = [values[name] for name in node.inputs]
                values[node.name] = run_node(node, arguments, symbols, self.graph.objects)
            if self.clock:
                self.clock.tick(i)
        return tuple(values[name] for name in _results(self.program))


def _results(program: Program) -> list[str]:
    return [*program.outputs, *(value for value, _ in program.updates)]


class _Writer:
    """Writes the function's source; constants stand in its namespace under short names."""

    def __init__(self, executor: Executor, symbols: Mapping[str, int]) -> None:
        self.executor, self.symbols = executor, symbols
        self.fixed = {name for name, _ in executor.program.inputs}  # in the sizes of the key
        self.space: dict[str, Any] = {}
        self.known = self.constant(dict(symbols))
        self.names: dict[str, str] = {}
        self.variables: set[str] = set()
        self.lines: list[str] = []

    def constant(self, value: Any) -> str:
        """The name of a constant."""
        name = f"c{len(self.space)}"
        self.space[name] = value
        return name

    def read(self, value: str) -> str:
        """The variable of a graph value; weight-time values are constants."""
        if value not in self.names:
            self.names[value] = self.constant(self.weight_time(value))
        return self.names[value]

    def weight_time(self, value: str) -> Any:
        """What depends on weights and sizes; computed for what torch steps or the caller read."""
        found = self.executor.values.get(value)
        return self.executor.constants(self.symbols)[value] if found is None else found

    def result(self, value: str) -> str:
        """As `read`; a copy of what was computed from weights, since the caller may write to it."""
        computed = value not in self.variables and value not in self.executor.params
        name = self.read(value)
        return f"{name}.clone()" if computed else name

    def define(self, value: str) -> str:
        """A new variable for a graph value."""
        self.names[value] = f"v{len(self.names)}"
        self.variables.add(value)
        return self.names[value]

    def torch_step(self, node: Node) -> None:
        """One node run in torch."""
        op = node.op.bind(self.symbols, self.executor.graph.objects)
        reads = [self.read(name) for name in node.inputs]
        if isinstance(op, TorchCall):
            function = self.constant(resolve_target(op.target))
            parts = [self.argument(a, reads) for a in op.args]
            parts += [f"{k}={self.argument(v, reads)}" for k, v in op.kwargs]
            call = f"{function}({', '.join(parts)})"
        else:
            call = f"{self.constant(op.reference)}({', '.join(reads)})"
        self.lines.append(f"{self.define(node.name)} = {call}")

    def argument(self, value: Any, reads: list[str]) -> str:
        """An argument as source."""
        if isinstance(value, Slot):
            return reads[value.index]
        if isinstance(value, tuple):
            return f"[{', '.join(self.argument(v, reads) for v in value)}]"
        return self.constant(value)

    def segment(self, segment: Any) -> None:
        """One native call; shapes are looked up only where a torch step decides them."""
        reads = ", ".join(self.read(name) for name in segment.inputs)
        targets = "".join(f"{self.define(name)}, " for name in segment.outputs)
        if self.fixed.issuperset(segment.inputs):
            bound = self.constant(segment.bind(self.symbols))
            call = f"{self.constant(segment.call)}({bound}, [{reads}])"
            self.fixed.update(segment.outputs)
        else:
            call = f"{self.constant(segment.run)}([{reads}], {self.known})"
        self.lines.append(f"{targets}= {call}")


def _straight_line(executor: Executor, symbols: Mapping[str, int]) -> Runner:
    """The program as one Python function for fixed sizes; values die after their last use."""
    writer = _Writer(executor, symbols)
    arguments = [writer.define(name) for name, _ in executor.program.inputs]
    if arguments:
        writer.lines.append(f"{', '.join(arguments)}, = inputs")
    native = iter(executor.segments)
    last = _last_reads(executor.program)
    clock = writer.constant(executor.clock) if executor.clock else ""
    if clock:
        writer.lines.append(f"{clock}.start()")
    for i, step in enumerate(executor.program.steps):
        if isinstance(step, Segment):
            writer.segment(next(native))
        else:
            writer.torch_step(step.node)
        dead = [writer.names[name] for name in last.get(i, ()) if name in writer.names]
        if dead:
            writer.lines.append(f"del {', '.join(dead)}")
        if clock:
            writer.lines.append(f"{clock}.tick({i})")
    results = "".join(f"{writer.result(name)}, " for name in _results(executor.program))
    writer.lines.append(f"return ({results})")
    source = "def run(inputs):\n" + "".join(f"    {line}\n" for line in writer.lines)
    exec(compile(source, "<sparse_compiler program>", "exec"), writer.space)
    runner: Runner = writer.space["run"]
    return runner


def _last_reads(program: Program) -> dict[int, list[str]]:
    """Per step, the row-major values that it is the last to read."""
    kept = set(_results(program)) | {name for name, _ in program.inputs}
    computed = set()
    last: dict[str, int] = {}
    for i, step in enumerate(program.steps):
        if isinstance(step, Segment):
            reads = [name for name, _ in step.inputs]
            computed |= {name for name, _ in step.outputs}
        else:
            reads = list(step.node.inputs)
            computed.add(step.node.name)
        last |= dict.fromkeys(reads, i)
    found: dict[int, list[str]] = {}
    for name, i in last.items():
        if name in computed and name not in kept:
            found.setdefault(i, []).append(name)
    return found
