"""What `sc.compile` returns: called as the model is, right also after its weights changed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .codegen.program import TorchStep
from .errors import InputError
from .frontends.contest import EAGER, OURS, Outcome
from .inspector.profile import (
    Profile,
    fastest_of,
    machine_roofs,
    print_at_exit,
    profile_of_pipeline,
)
from .inspector.report import Report, report_of
from .ir.graph import Graph
from .runtime.executor import Executor
from .runtime.pipeline import Pipeline
from .runtime.plain import Call, PlainModule, example_arguments, plain_torch
from .runtime.weights import wants_grad

log = logging.getLogger(__name__)


class Compiled:
    """A compiled model. `eager` is the model itself, which runs while training.

    Call it with the model's own arguments; results are new tensors that no later call overwrites.
    """

    def __init__(self, pipeline: Pipeline, call: Call, eager: Callable[..., Any]) -> None:
        self._pipeline, self._call, self._eager = pipeline, call, eager
        self._warned = False
        self._outcome: Outcome | None = None
        self._lock = threading.Lock()
        if pipeline.options.profile:
            print_at_exit(self, lambda: profile_of_pipeline(pipeline))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's result. Raises `InputError` on arguments that do not fit."""
        inputs = self._call.flatten(args, kwargs)
        if self._training(inputs):
            self._warn()
            return self._eager(*args, **kwargs)
        if self._pipeline.outdated:
            with self._lock:  # a thread that finds the weights changed makes the others wait
                self._outcome = None  # what won did so with other weights, or has them frozen
                self._pipeline.refresh_if_changed()
        if self._outcome is not None and self._outcome.winner != OURS:
            if self._outcome.winner == EAGER:
                return self._eager(*args, **kwargs)
            frozen = self._outcome.frozen
            if frozen is not None and frozen.fits(inputs):
                with torch.no_grad():
                    return self._call.unflatten(tuple(frozen.run(*inputs)), inputs)
        executor = self._pipeline.executor
        if executor.clock is None:
            return self._run(executor, inputs)
        executor.forget_first_call()
        began = time.perf_counter()
        result = self._run(executor, inputs)
        executor.clock.finish(time.perf_counter() - began)
        return result

    def settle(self, outcome: Outcome) -> None:
        """Lets the winner of a contest take over, until a weight changes."""
        self._outcome = outcome

    def _run(self, executor: Executor, inputs: list[torch.Tensor]) -> Any:
        """The model's result by a program of the pipeline; buffers it updates are written."""
        if executor.native:
            return self._call.unflatten(executor(inputs), inputs)
        with torch.no_grad():
            results = executor(inputs)
            count, updates = len(self.graph.outputs), self.graph.updates
            for (_, target), value in zip(updates, results[count:], strict=True):
                self._destination(target, inputs).copy_(value)
        self._pipeline.weights.mark_written(target for _, target in updates)
        return self._call.unflatten(results[:count], inputs)

    @property
    def graph(self) -> Graph:
        """The laid-out graph; `str()` of it is its text."""
        return self._pipeline.lowered.graph

    @property
    def pipeline(self) -> Pipeline:
        """Everything the compiler decided and built, for reports."""
        return self._pipeline

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights held for running: packed ones, and those that torch reads."""
        lowered = self._pipeline.lowered
        read = {
            name
            for step in lowered.program.steps
            if isinstance(step, TorchStep)
            for name in step.node.inputs
        }
        values = self._pipeline.executor.values
        stored = [values[name].untyped_storage() for name in read if name in values]
        held = {s.data_ptr(): s.nbytes() for s in stored}
        return int(sum(s.weight_bytes for s in self._pipeline.segments)) + sum(held.values())

    def inspect(self) -> Report:
        """What became of each layer, and why."""
        pipeline = self._pipeline
        return report_of(
            pipeline.lowered, self._outcome, pipeline.stored_bytes, pipeline.weights.tensors
        )

    def profile(self, *args: Any, **kwargs: Any) -> Profile:
        """Where the time of a call with these arguments goes: a line for each kernel call.

        Runs the model some ten times, on kernels compiled anew with a clock around each call, and
        shows the fastest run. Buffers that the model updates are updated by each.
        """
        inputs = self._call.flatten(args, kwargs)
        with self._lock:
            self._pipeline.refresh_if_changed()
        options = self._pipeline.options
        roofs = machine_roofs(options, torch.get_num_threads())
        return fastest_of(self._pipeline, lambda executor: self._run(executor, inputs), roofs)

    def refit(self, state_dict: Mapping[str, torch.Tensor] | None = None) -> None:
        """Takes over changed weights, also those written through `.data`.

        state_dict: copied into the parameters of the same names first; an unknown name or another
        shape raises `InputError` and changes nothing.
        """
        tensors = self._pipeline.weights.tensors
        for name, value in (state_dict or {}).items():
            if not isinstance(value, torch.Tensor):
                raise InputError(f"refit cannot take {name}", why=f"it is a {type(value).__name__}")
            if name not in tensors or tensors[name].shape != value.shape:
                shape = tuple(tensors[name].shape) if name in tensors else "no such parameter"
                raise InputError(
                    f"refit cannot take {name} of shape {tuple(value.shape)}", why=f"here: {shape}"
                )
        with torch.no_grad():
            for name, value in (state_dict or {}).items():
                tensors[name].copy_(value)
        self._outcome = None
        self._pipeline.refresh()

    def example_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments that the model takes: zeros, in the sizes that it was compiled with."""
        return example_arguments(
            self._pipeline.graph, self._call, self._pipeline.lowered.context.hints
        )

    def to_module(self) -> torch.nn.Module:
        """The model as a module of torch's own operators, with zeros in dense weights.

        Its parameters are copies and keep their names; sizes that are symbols stay so. It needs
        this package no more. Raises `UnsupportedError` where torch.export cannot trace the graph.
        """
        pipeline = self._pipeline
        copies = {name: _copy(t) for name, t in pipeline.weights.tensors.items()}
        module = PlainModule(pipeline.graph, copies, self._call)
        return plain_torch(module, pipeline.lowered.context.hints)

    def _destination(self, target: str, inputs: list[torch.Tensor]) -> torch.Tensor:
        for value, tensor in zip(self.graph.inputs, inputs, strict=True):
            if value.name == target:
                return tensor
        return self._pipeline.weights.tensors[target]

    def _training(self, inputs: list[torch.Tensor]) -> bool:
        module = self._pipeline.weights.module
        if module is not None and module.training:
            return True
        if not torch.is_grad_enabled():
            return False
        return self._pipeline.weights.needs_grad() or wants_grad(inputs)

    def _warn(self) -> None:
        if self._warned:
            return
        self._warned = True
        log.warning(
            "running the model itself, since it is training or gradients are wanted; "
            "call model.eval() and use torch.no_grad() for the compiled one"
        )


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    copied = tensor.detach().clone()
    return torch.nn.Parameter(copied, False) if isinstance(tensor, torch.nn.Parameter) else copied
