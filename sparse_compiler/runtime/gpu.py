"""A segment on a GPU: its printed Triton kernels launched in order on buffers of one arena.

Sizes are bound once for each set of shapes; on CUDA the launches are then captured as a graph and
replayed. With triton's interpreter on, the same kernels run on CPU tensors.
"""

from __future__ import annotations

import hashlib
import linecache
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..codegen.gpu.calls import print_segment
from ..codegen.gpu.source import Launch
from ..codegen.gpu.static import Kernel, require_triton
from ..codegen.gpu.weight_calls import weight_kinds
from ..codegen.program import Segment
from ..errors import InputError, OptionError
from ..ir.interpret import bind_shape
from .gpu_binding import Binder, Bound, kernel_of
from .gpu_packing import OnDevice, pack
from .weights import WeightTimeValues

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}
"""How planes and weights lie on the device, by the dtype of the products."""
Constants = Callable[[Mapping[str, int]], Mapping[str, torch.Tensor]]


def interpreting() -> bool:
    """True where triton's interpreter is on: TRITON_INTERPRET=1."""
    triton = require_triton()
    return bool(triton.knobs.runtime.interpret)


def gpu_device() -> torch.device:
    """Where kernels for target "cuda" run: a GPU, or the CPU by triton's interpreter.

    Raises `OptionError` where there is neither.
    """
    if interpreting():
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    raise OptionError(
        'option target is "cuda", and there is no GPU',
        why="torch.cuda.is_available() says no",
        fix="compile for the cpu, or set TRITON_INTERPRET=1 to run the kernels slowly, for tests",
    )


def load_kernels(text: str) -> dict[str, Any]:
    """The plain functions of a printed module; their source stays readable for triton."""
    require_triton()
    name = f"<sparse_compiler {hashlib.sha256(text.encode()).hexdigest()[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    space: dict[str, Any] = {"__name__": "sparse_compiler_gpu_kernels"}
    exec(compile(text, name, "exec"), space)
    return {key: value for key, value in space.items() if callable(value)}


class GpuSegment:
    """Runs one segment on `device`; used by the executor as `NativeSegment` is.

    dtype: of products and planes, one of `DTYPES`; sums are of fp32.
    """

    clock = None

    def __init__(
        self,
        segment: Segment,
        device: torch.device,
        constants: Constants | None = None,
        dtype: str = "fp32",
    ) -> None:
        from triton.runtime.interpreter import InterpretedFunction
        from triton.runtime.jit import JITFunction

        self.segment, self.device, self.constants = segment, device, constants
        self.dtype = DTYPES[dtype]
        self.inputs = tuple(name for name, _ in segment.inputs)
        self.outputs = tuple(name for name, _ in segment.outputs)
        self.module = print_segment(segment, dtype)
        wrap = JITFunction if device.type == "cuda" else InterpretedFunction
        self.kernels = {n: wrap(f) for n, f in load_kernels(self.module.text).items()}
        self.packed: dict[int, OnDevice] = {}
        self.raw: dict[int, torch.Tensor] = {}
        self.values: Mapping[str, torch.Tensor] = {}
        self._bound: dict[tuple[Any, ...], Bound] = {}

    # --- weights ----------------------------------------------------------------------------------

    @property
    def weight_bytes(self) -> int:
        """Bytes of the packed weights."""
        return sum(packed.bytes for packed in self.packed.values())

    def weight_work(self, index: int) -> tuple[float, int]:
        """(share of non-zeros, bytes as kernels read them) of a constant."""
        packed = self.packed.get(index)
        return (packed.density, packed.bytes) if packed else (1.0, 0)

    def load_weights(self, values: WeightTimeValues) -> None:
        """Packs this segment's weights and puts them on the device."""
        kinds = weight_kinds(self.segment)
        for i, entry in enumerate(self.segment.weights):
            if entry.per_shape:
                continue
            value = values.take(entry.name)
            if i in kinds:
                self.packed[i] = pack(value, kinds[i], self.dtype, self.device)
            else:
                self.raw[i] = value.detach().contiguous().to(self.device)
        self.values = values.kept
        self._bound.clear()

    def share_weights(self, other: GpuSegment) -> None:
        """Takes the packed weights of another one for the same segment."""
        self.packed, self.raw, self.values = other.packed, other.raw, other.values
        self._bound.clear()

    def offline(self, symbols: Mapping[str, int]) -> list[Kernel]:
        """Each kernel as `codegen/gpu/static.py` compiles it for a GPU that is elsewhere, once for
        each set of constants that the launches for these sizes have."""
        binder = Binder(self, symbols)
        functions = load_kernels(self.module.text)
        found: dict[Any, Kernel] = {}
        for launch in self.module.launches:
            if isinstance(launch, Launch):
                args = {name: binder.value(arg) for name, arg in launch.args.items()}
                made = kernel_of(functions[launch.kernel], launch, args)
                found.setdefault((launch.kernel, made.types, made.constants), made)
        return list(found.values())

    # --- calls ------------------------------------------------------------------------------------

    def run(
        self, tensors: Sequence[torch.Tensor], symbols: Mapping[str, int] | None = None
    ) -> list[torch.Tensor]:
        """Results for inputs in the order of `inputs`. Raises `InputError` if they do not fit."""
        known = dict(symbols or {})
        for (name, type_), tensor in zip(self.segment.inputs, tensors, strict=True):
            problem = bind_shape(type_, tensor.shape, known)
            if problem:
                raise InputError(f"%{name} has shape {tuple(tensor.shape)}", why=problem)
        return self.call(self.bind(known), tensors)

    def call(self, bound: Bound, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """As `run`, for inputs known to have the shapes that `bound` is for."""
        for (name, _), to, tensor in zip(self.segment.inputs, bound.inputs, tensors, strict=True):
            if tensor.device.type != self.device.type:
                raise InputError(
                    f"input %{name} lies on {tensor.device}",
                    why=f"the model was compiled for {self.device}",
                    fix=f'move it there: x.to("{self.device}")',
                )
            to.copy_(tensor)
        bound.error.zero_()
        if bound.graph is not None:
            bound.graph.replay()
        else:
            for step in bound.steps:
                step()
        if self.segment.checked:
            self._check(bound.error)
        return [result.clone() for result in bound.outputs]

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
        key = tuple(symbols.items())
        if key not in self._bound:
            self._bound[key] = Binder(self, symbols).bound()
        return self._bound[key]


__all__ = ["DTYPES", "GpuSegment", "gpu_device", "interpreting", "load_kernels"]
