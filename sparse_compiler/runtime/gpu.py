"""A segment on a GPU: its printed Triton kernels launched in order on buffers of one arena.

Sizes are bound once for each set of shapes; on CUDA the launches are then recorded as a graph and
replayed. With triton's interpreter on, the same kernels run on CPU tensors.
"""

from __future__ import annotations

import hashlib
import linecache
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ..codegen.gpu.calls import print_segment
from ..codegen.gpu.source import Launch
from ..codegen.gpu.static import Kernel, require_triton
from ..codegen.gpu.weight_calls import weight_kinds
from ..codegen.program import Segment
from ..errors import InputError, UnsupportedError
from ..ir.interpret import bind_shape
from .clock import SegmentClock
from .gpu_binding import Binder, Bound, kernel_of
from .gpu_clock import Step, step_seconds
from .gpu_graphs import Turns, recording
from .gpu_packing import OnDevice, pack, settled
from .gpu_place import Place, interpreting
from .weights import WeightTimeValues

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
"""How planes and weights lie on the device, by the dtype of the products."""
Constants = Callable[[Mapping[str, int]], Mapping[str, torch.Tensor]]


def load_kernels(text: str) -> dict[str, Any]:
    """The plain functions of a printed module; their source stays readable for triton."""
    require_triton()
    name = f"<sparse_compiler {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space: dict[str, Any] = {"__name__": "sparse_compiler_gpu_kernels"}
    exec(compile(text, name, "exec"), space)
    return {key: value for key, value in space.items() if callable(value)}


class GpuSegment:
    """Runs one segment at `place`; used by the executor as `NativeSegment` is.

    dtype: of products and planes, one of `DTYPES`; sums are of fp32. graphs: whether launches are
    recorded as a CUDA graph; profile: to time each call; bench: milliseconds of a launch, to take
    the fastest of those that compute the same, None to take the first.
    """

    def __init__(
        self,
        segment: Segment,
        place: Place,
        constants: Constants | None = None,
        dtype: str = "fp32",
        *,
        graphs: bool = True,
        profile: bool = False,
        bench: Callable[[Step], float] | None = None,
    ) -> None:
        self.segment, self.place, self.constants = segment, place, constants
        self.device, self.products = place.device, dtype
        self.dtype = DTYPES[dtype]
        self.bench = bench
        self.graphs = graphs and not profile and self.device.type == "cuda"
        self.inputs = tuple(name for name, _ in segment.inputs)
        self.outputs = tuple(name for name, _ in segment.outputs)
        self.module = print_segment(segment, dtype, place.arch)
        self.kernels = {n: _wrapped(f) for n, f in load_kernels(self.module.text).items()}
        self.clock = SegmentClock(len(segment.calls)) if profile else None
        self.packed: dict[int, OnDevice] = {}
        self.raw: dict[int, torch.Tensor] = {}
        self.values: Mapping[str, torch.Tensor] = {}
        self.fastest: dict[tuple[Any, ...], int] = {}
        """Which of its alternatives won, by sizes and number of the launch."""
        self._bound: dict[tuple[Any, ...], Bound] = {}
        self._turns, self._lock = Turns(self.device), threading.RLock()

    # --- weights ----------------------------------------------------------------------------------

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weights."""
        return sum(packed.bytes for packed in self.packed.values())

    def weight_work(self, index: int) -> tuple[float, int]:
        """(share of non-zeros, bytes as kernels read them) of a constant."""
        packed = self.packed.get(index)
        return (packed.density, packed.bytes) if packed else (1.0, 0)

    def load_weights(
        self, values: WeightTimeValues, hints: Mapping[str, int] | None = None
    ) -> None:
        """Packs this segment's weights and puts them on the device; graphs of others are dropped.

        hints: as `NativeSegment` takes them; packings for GPUs do not depend on sizes.
        """
        arch = self.place.arch
        kinds = weight_kinds(self.segment, self.products, arch)
        packed, raw = dict[int, OnDevice](), dict[int, torch.Tensor]()
        for i, entry in enumerate(self.segment.weights):
            if entry.per_shape:
                continue
            value = values.take(entry.name)
            if i in kinds:
                packed[i] = pack(value, kinds[i], self.dtype, self.device, arch)
            else:
                raw[i] = settled(value, self.device)
        with self._lock:
            self.packed, self.raw, self.values = packed, raw, values.kept
            self._bound.clear()

    def share_weights(self, other: GpuSegment) -> None:
        """Takes the packed weights of another one for the same segment, and what it found out."""
        self.packed, self.raw, self.values = other.packed, other.raw, other.values
        self.fastest = other.fastest
        self._bound.clear()

    def offline(self, symbols: Mapping[str, int]) -> list[tuple[Launch, Kernel]]:
        """Each kernel as `codegen/gpu/static.py` compiles it for a GPU that is elsewhere, once for
        each set of constants that the launches for these sizes have."""
        binder = Binder(self, symbols)
        functions = load_kernels(self.module.text)
        found: dict[Any, tuple[Launch, Kernel]] = {}
        for launch in self.module.launches:
            if isinstance(launch, Launch):
                args = {name: binder.value(arg) for name, arg in launch.args.items()}
                made = kernel_of(functions[launch.kernel], launch, args)
                key = (launch.kernel, made.types, made.constants, made.aligned, made.warps)
                found.setdefault(key, (launch, made))
        return list(found.values())

    # --- calls ------------------------------------------------------------------------------------

    def run(
        self, tensors: Sequence[torch.Tensor], symbols: Mapping[str, int] | None = None
    ) -> list[torch.Tensor]:
        """Results for inputs in the order of `inputs`. Raises `InputError` if they do not fit."""
        known = dict(symbols or {})
        for (name, type_), tensor in zip(self.segment.inputs, tensors, strict=True):
            self.place.check(tensor, f"input %{name}")
            problem = bind_shape(type_, tensor.shape, known)
            if problem:
                raise InputError(f"%{name} has shape {tuple(tensor.shape)}", why=problem)
        return self.call(self.bind(known), tensors)

    def call(self, bound: Bound, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """As `run`, for inputs known to have the shapes that `bound` is for.

        The segment's memory is its own: calls from several threads and streams take turns.
        """
        for (name, _), tensor in zip(self.segment.inputs, tensors, strict=True):
            self.place.check(tensor, f"input %{name}")
        outside = recording(self.device)
        if outside and self.segment.checked:
            raise UnsupportedError(
                f"%{self.segment.name} cannot become a part of a CUDA graph",
                why="it looks up indices, and each call must wait to see whether they were valid",
                fix="call the model outside of torch.cuda.graph",
            )
        with self._lock, self._on_device():
            if not outside:
                self._turns.begin()
            for to, tensor in zip(bound.inputs, tensors, strict=True):
                to.copy_(tensor)
            bound.error.zero_()
            self._launch(bound, outside)
            if self.segment.checked:
                self._check(bound.error)
            results = [result.clone() for result in bound.outputs]
            if not outside:
                self._turns.end()
        return results

    def _launch(self, bound: Bound, outside: bool) -> None:
        """Runs the kernels; outside: while somebody else records them."""
        if self.clock is not None and not outside:
            self._timed(bound)
        elif bound.graph is not None and not outside:
            bound.graph.replay()
        else:
            for step in bound.steps:
                step()

    def _timed(self, bound: Bound) -> None:
        """With an event after each launch; enters the seconds of each call of the segment."""
        if self.clock is None:
            return
        began, counters = time.perf_counter(), self.clock.counters()
        seconds = step_seconds(bound.steps, self.device)
        for call, spent in zip(self.module.calls, seconds, strict=True):
            counters[call] += spent
        self.clock.add(bound.symbols, 1, counters, time.perf_counter() - began)

    def _on_device(self) -> AbstractContextManager[Any]:
        """Triton launches on the current device."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _check(self, error: torch.Tensor) -> None:
        for name, place in zip(self.segment.checked, error.tolist(), strict=True):
            if place:
                raise InputError(
                    "an index is out of range",
                    node=f"%{name}",
                    why=f"index number {place - 1} lies outside of what it indexes",
                    fix="check the ids, and the size of the table",
                )

    # --- sizes ------------------------------------------------------------------------------------

    def bind(self, symbols: Mapping[str, int]) -> Bound:
        """What follows from the sizes of symbols.

        Raises `UnsupportedError` where an index would not fit 32 bits.
        """
        key = tuple(sorted(symbols.items()))
        with self._lock, self._on_device():
            if key not in self._bound:
                self._bound[key] = Binder(self, symbols).bound()
            return self._bound[key]


def _wrapped(function: Any) -> Any:
    """A kernel as triton launches it: interpreted, where its interpreter is on."""
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    return InterpretedFunction(function) if interpreting() else JITFunction(function)


__all__ = ["DTYPES", "GpuSegment", "load_kernels"]
