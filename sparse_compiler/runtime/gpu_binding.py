"""The launches of a GPU segment bound to sizes: arguments resolved, buffers laid in an arena."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from ..codegen.gpu.source import Host, Launch, Part, Scratch
from ..codegen.gpu.sparse_dots import SparseProduct
from ..codegen.gpu.static import Kernel
from ..codegen.operands import (
    Columns,
    ConstantPlanes,
    Elements,
    First,
    Held,
    Own,
    Planes,
    Samples,
    Strided,
    Struct,
    Vector,
    Word,
    Written,
    ld_of,
)
from ..codegen.plan import Sharing, arrange
from ..errors import CodegenError, UnsupportedError
from ..ir.interpret import dim_values
from ..ir.types import evaluate, torch_dtype
from .gpu_clock import Step, fastest
from .gpu_graphs import recorded, recording
from .gpu_host import HOST
from .gpu_packing import INT32, settled
from .packing import additive_mask, in_planes

if TYPE_CHECKING:
    from .gpu import GpuSegment

_LINE = 16  # numbers to which planes are rounded up: loads of 32 bytes and more stay aligned


@dataclass
class Bound:
    """What one set of shapes determines. inputs, outputs: tensors that kernels read and write in
    place; steps: the launches, ready; error: a place for each checked call."""

    symbols: dict[str, int]
    inputs: list[torch.Tensor]
    outputs: list[torch.Tensor]
    steps: list[Step]
    error: torch.Tensor
    graph: Any = None
    keep: list[Any] = field(default_factory=list)


class Binder:
    """Resolves the arguments of launches for one set of sizes."""

    def __init__(self, owner: GpuSegment, symbols: Mapping[str, int]) -> None:
        self.owner, self.segment = owner, owner.segment
        segment, device = owner.segment, owner.device
        self.samples = evaluate(segment.samples, symbols)
        self.columns = [evaluate(space.columns, symbols) for space in segment.spaces]
        self.known = dict(symbols)
        ld = [-(-max(1, c * self.samples) // _LINE) * _LINE for c in self.columns]
        self.known |= {str(ld_of(i)): n for i, n in enumerate(ld)}
        self.inputs = [self.tensor(type_) for _, type_ in segment.inputs]
        self.outputs = [self.tensor(type_) for _, type_ in segment.outputs]
        self.error = torch.zeros(max(1, len(segment.checked)), dtype=torch.int64, device=device)
        self.buffers = self.arena(ld)
        self.constants = self.constant_tensors()
        self.scratch: dict[str, torch.Tensor] = {}

    def tensor(self, type_: Any) -> torch.Tensor:
        """Memory of an input or a result."""
        shape = dim_values(type_.shape, self.known)
        self.fits(math.prod(shape))
        return torch.empty(shape, dtype=torch_dtype(type_.dtype), device=self.owner.device)

    def fits(self, numel: int) -> None:
        """Raises `UnsupportedError` where an index would not fit 32 bits."""
        if numel > INT32:
            raise UnsupportedError(
                f"a value of {numel} numbers is too large for the GPU's kernels",
                why=f"they count inside a value with 32 bits, up to {INT32}",
                fix="call with fewer samples or smaller images",
            )

    def arena(self, ld: Sequence[int]) -> list[torch.Tensor]:
        """A flat tensor for each buffer, in one allocation shared by liveness."""
        dtypes, sizes = [], []
        for buffer in self.segment.buffers:
            size = evaluate(buffer.size, self.known)
            planes = buffer.space is not None
            dtypes.append(self.owner.dtype if planes else torch_dtype(buffer.dtype))
            if buffer.space is not None:
                size *= ld[buffer.space]
            elif not buffer.shared:
                size *= self.samples
            self.fits(size)
            sizes.append(size)
        zeros = (0,) * len(ld)
        sharing = Sharing(
            self.samples, self.samples, False, 1, tuple(self.columns), zeros, zeros, tuple(ld)
        )
        words = [-(-n * d.itemsize // 4) for n, d in zip(sizes, dtypes, strict=True)]
        places = arrange(self.segment, sharing, words)
        memory = torch.zeros(
            max(1, places.shared_floats) * 4, dtype=torch.uint8, device=self.owner.device
        )
        return [
            memory[4 * at : 4 * at + n * d.itemsize].view(d)
            for at, n, d in zip(places.offsets, sizes, dtypes, strict=True)
        ]

    def constant_tensors(self) -> dict[int, torch.Tensor]:
        """Constants that are no packed weights, as kernels read them."""
        owner, found = self.owner, dict(self.owner.raw)
        values = owner.values
        entries = self.segment.weights
        if owner.constants is not None and any(e.per_shape for e in entries):
            values = owner.constants(self.known)
        for i, entry in enumerate(entries):
            if i in owner.packed or i in found:
                continue
            value = values[entry.name].to("cpu")
            if entry.kind == "planes":
                shape = dim_values(entry.type.shape, self.known)
                repeats = 1 if entry.carried else self.samples
                value, ld = in_planes(value.expand(shape), entry.type, repeats)
                self.known[f"ld.w{i}"] = ld
            elif entry.kind == "mask":
                value = additive_mask(value)
            found[i] = settled(value, owner.device)
        return found

    # --- arguments --------------------------------------------------------------------------------

    def value(self, arg: Any) -> Any:
        """An argument of a launch: a flat tensor that begins at its place, or a number."""
        match arg:
            case bool() | float() | str():
                return arg
            case Planes(buffer=buffer, first=first, space=space):
                offset = self.number(first) * self.known[str(ld_of(space))]
                return self.buffers[buffer][offset:]
            case Written(planes=planes):
                return self.value(planes)
            case Own(place=place):
                return self.value(place)
            case Strided(place=place, offset=offset):
                return self.value(place)[self.number(offset) :]
            case Elements():
                return self.elements(arg)
            case ConstantPlanes(index=index) | Vector(weight=index):
                return self.constants[index].reshape(-1)
            case Columns(space=space):
                return self.columns[space] * self.samples
            case Samples(factor=factor):
                return self.samples * self.number(factor)
            case Held(space=space):
                return self.columns[space]
            case First():
                return 0
            case Word(text=text):
                return self.word(text)
            case Struct(name="product", fields=fields):
                return math.prod(self.value(part) for part in fields)
            case Struct(name="sum", fields=fields):
                return self.value(fields[0])
            case Struct(name="ratio", fields=(part, whole)):
                return self.ratio(part, whole)
            case SparseProduct():  # as it will be: of this type, and aligned
                return torch.empty(16, dtype=self.owner.dtype, device=self.owner.device)
            case Scratch(name=name):
                if name not in self.scratch:
                    size = arg.factor * int(self.value(arg.columns))
                    self.fits(size)
                    self.scratch[name] = torch.empty(size, device=self.owner.device)
                return self.scratch[name]
            case Part(weight=weight, name=name):
                packed = self.owner.packed[weight]
                return packed.arrays[name] if name in packed.arrays else packed.sizes[name]
        return self.number(arg)

    def ratio(self, part: Any, whole: Any) -> float:
        """A quotient rounded to fp32; 0 by 0."""
        by = float(evaluate(whole, self.known))
        exact = float(evaluate(part, self.known)) / by if by else 0.0
        return torch.tensor(exact, dtype=torch.float32).item()

    def word(self, text: str) -> Any:
        """The place of an error, or a null pointer."""
        head, _, place = text.partition(" + ")
        if head == "error":
            return self.error[int(place) :]
        return None

    def elements(self, place: Elements) -> torch.Tensor:
        """Row-major memory, flat."""
        tensors: Mapping[str, Any] = {
            "buffer": self.buffers,
            "in": self.inputs,
            "out": self.outputs,
            "weight": self.constants,
        }
        flat: torch.Tensor = tensors[place.kind][place.index].reshape(-1)
        return flat[self.number(place.offset) :]

    def number(self, value: Any) -> int:
        """A size."""
        return int(evaluate(value, self.known))

    # --- steps ------------------------------------------------------------------------------------

    def bound(self) -> Bound:
        """All launches with their arguments; captured as a CUDA graph where there is a GPU."""
        owner = self.owner
        steps = [self.step(n, launch) for n, launch in enumerate(owner.module.launches)]
        bound = Bound(dict(self.known), self.inputs, self.outputs, steps, self.error)
        if owner.graphs and not recording(owner.device):
            bound.graph = recorded(steps, owner.device, self.segment.name)
        return bound

    def step(self, number: int, launch: Launch | Host) -> Step:
        """One launch, ready to be called; the fastest of those that compute the same."""
        if isinstance(launch, Host):
            return HOST[launch.function](self, launch.args)
        same = (launch, *launch.others)
        if self.owner.bench is None or len(same) == 1:
            return self.launch(launch)
        key = (number, *sorted(self.known.items()))
        if key not in self.owner.fastest:
            self.owner.fastest[key] = fastest([self.launch(s) for s in same], self.owner.bench)
        return self.launch(same[self.owner.fastest[key]])

    def launch(self, launch: Launch) -> Step:
        """One launch with its arguments, ready to be called."""
        args = {name: self.value(arg) for name, arg in launch.args.items()}
        products = {
            name: self.product(arg)
            for name, arg in launch.args.items()
            if isinstance(arg, SparseProduct)
        }
        grid = tuple(-(-int(self.value(count)) // each) for count, each in launch.grid)
        if min(grid) <= 0:
            return lambda: None
        if max(grid[1:], default=0) > 65535:
            raise UnsupportedError(
                f"%{launch.label} has too many columns for one launch",
                fix="call with fewer samples or smaller images",
            )
        kernel = self.owner.kernels[launch.kernel]
        run = kernel[grid]
        options = {"num_warps": launch.warps, "num_stages": launch.stages}
        if products:
            return lambda: run(**args | {n: make() for n, make in products.items()}, **options)
        return lambda: run(**args, **options)

    def product(self, arg: SparseProduct) -> Callable[[], torch.Tensor]:
        """What torch computes before a launch."""
        matrix = self.owner.packed[arg.weight].matrix
        if matrix is None:
            raise CodegenError(f"weight {arg.weight} of %{self.segment.name} is not packed as 2:4")
        apart = self.known[str(ld_of(arg.x.space))]
        x = self.value(arg.x)[: arg.depth * apart].view(arg.depth, apart)
        return lambda: torch.mm(matrix, x)


_TRITON_TYPES = {
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}


def kernel_of(function: Any, launch: Launch, args: Mapping[str, Any]) -> Kernel:
    """One launch as it is compiled off-line; types and alignment as triton would find them."""
    from triton.runtime.jit import JITFunction

    compiled = JITFunction(function)
    fixed = {p.name for p in compiled.params if p.is_constexpr}
    types, constants, aligned = [], [], []
    for name in compiled.arg_names:
        value = args[name]
        constant = name in fixed or value is None or (isinstance(value, int) and value == 1)
        if constant:
            constants.append((name, value))
            types.append((name, "constexpr"))
        elif isinstance(value, torch.Tensor):
            types.append((name, _TRITON_TYPES[value.dtype]))
            aligned += [name] if value.data_ptr() % 16 == 0 else []
        else:
            types.append((name, "fp32" if isinstance(value, float) else "i32"))
            aligned += [name] if isinstance(value, int) and value % 16 == 0 else []
    return Kernel(
        compiled, tuple(types), tuple(constants), tuple(aligned), launch.warps, launch.stages
    )
