"""What `sc.compile` returns: called as the model is, right also after its weights changed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch

from .codegen.program import TorchStep
from .errors import InputError
from .inspector.report import Report, report_of
from .ir.graph import Graph
from .runtime.pipeline import Pipeline

log = logging.getLogger("sparse_compiler")


class Call(Protocol):
    """How a front end flattens arguments and rebuilds results."""

    def flatten(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        """The graph inputs among the arguments."""

    def unflatten(self, results: tuple[Any, ...], inputs: list[torch.Tensor]) -> Any:
        """The model's own structure of results."""


class Compiled:
    """A compiled model. `eager` is the model itself, which runs while training.

    Call it with the model's own arguments; results are new tensors that no later call overwrites.
    """

    def __init__(self, pipeline: Pipeline, call: Call, eager: Callable[..., Any]) -> None:
        self._pipeline, self._call, self._eager = pipeline, call, eager
        self._warned = False
        self._lock = threading.Lock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's result. Raises `InputError` on arguments that do not fit."""
        inputs = self._call.flatten(args, kwargs)
        if self._training(inputs):
            self._warn()
            return self._eager(*args, **kwargs)
        with self._lock:  # a thread that finds the weights changed makes the others wait
            self._pipeline.refresh_if_changed()
        with torch.no_grad():
            results = self._pipeline.executor(inputs)
            count = len(self.graph.outputs)
            for (_, target), value in zip(self.graph.updates, results[count:], strict=True):
                self._destination(target, inputs).copy_(value)
        if self.graph.updates:
            self._pipeline.weights.mark()
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
        return sum(s.weight_bytes for s in self._pipeline.segments) + sum(held.values())

    def inspect(self) -> Report:
        """What became of each layer, and why."""
        return report_of(self._pipeline.lowered)

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
        self._pipeline.refresh()

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
        tensors = (t for t in inputs if isinstance(t, torch.Tensor))
        return self._pipeline.weights.needs_grad() or any(t.requires_grad for t in tensors)

    def _warn(self) -> None:
        if self._warned:
            return
        self._warned = True
        log.warning(
            "running the model itself, since it is training or gradients are wanted; "
            "call model.eval() and use torch.no_grad() for the compiled one"
        )
