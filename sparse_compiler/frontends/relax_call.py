"""One binding of a Relax function as a callable on torch tensors, compiled and run by TVM.

What `tvm_call` nodes hold. The binding becomes a function of its own, with every tensor that it
reads as a parameter; TVM compiles it at the first call. Tensors pass through DLPack: no copies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.dlpack import from_dlpack as torch_from_dlpack

from ..codegen.cpu.build import cpu_features
from ..errors import InputError, UnsupportedError
from ..ir.types import Dim

_ENTRY = "sparse_compiler_region"
_ALIGNMENT = 64  # bytes, which TVM's kernels rely on
_FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, KeyError)
"""What TVM raises for a function that it cannot build; its own errors derive from these."""

_LEVELS = {
    # Not v4: there TVM 0.27 compiles `x[i % 4]`, a tile, to reads beyond the tensor.
    "x86-64-v3": {"avx2", "fma", "bmi2"},
}


@dataclass(frozen=True)
class Region:
    """A binding for TVM to run.

    target: the operator, for people; inputs: the Relax variables that it reads, in the order in
    which `function` takes them; sizes: symbols that no input's shape gives; function: the callable.
    """

    target: str
    inputs: tuple[Any, ...]
    sizes: tuple[Dim, ...]
    function: RelaxFunction


def region(module: Any, value: Any, dim: Callable[[Any], Dim]) -> Region:
    """The region of one bound expression of `module`, a `tvm.IRModule`.

    value: the expression, calls of the module's other functions included; dim: a TIR expression ->
    our dimension. Raises `UnsupportedError` for what has effects, or reads what is no tensor.
    """
    from tvm import ir, relax

    target = target_of(value)
    free = relax.analysis.free_vars(value)
    symbols = [var for var in free if isinstance(var.ty, ir.PrimType)]
    inputs = tuple(var for var in free if var not in symbols)
    for var in inputs:
        if not _is_tensors(var.ty):
            raise UnsupportedError(
                f"TVM cannot be asked for {target} alone",
                node=f"{var.name}: {var.ty}",
                why="it reads what is neither a tensor nor a tuple of tensors",
                fix="replace the value in the TVM module before it is compiled",
            )
    params = [relax.Var(var.name, var.ty) for var in inputs]
    renamed = _rename(value, dict(zip(inputs, params, strict=True)))
    given = {v for p in params for v in relax.analysis.definable_tir_vars_in_type(p.ty)}
    read = dict.fromkeys(v for p in params for v in relax.analysis.tir_vars_in_type(p.ty))
    unknown = [v for v in (*dict.fromkeys(symbols), *read) if v not in given]
    if unknown:
        params.append(relax.Var("sizes", relax.ShapeType(unknown)))
    single = _with_entry(module, renamed, params, target)
    function = RelaxFunction(single, target, in_place=_writes(value))
    return Region(target, inputs, tuple(dim(v) for v in unknown), function)


class RelaxFunction:
    """A Relax module with one entry, called with torch tensors on the CPU."""

    def __init__(self, module: Any, target: str, *, in_place: bool = False) -> None:
        self.module, self.target, self.in_place = module, target, in_place
        self._call: Callable[..., Any] | None = None
        self._lock = threading.Lock()  # TVM's virtual machine runs one call at a time

    def __call__(self, inputs: Sequence[Any], sizes: Sequence[int] = ()) -> Any:
        """The result: a tensor, or a tuple of them. Raises `UnsupportedError`, `InputError`."""
        from tvm.runtime import ShapeTuple

        arguments = [to_tvm(value, fresh=self.in_place) for value in inputs]
        if sizes:
            arguments.append(ShapeTuple([int(size) for size in sizes]))
        with self._lock:
            if self._call is None:
                self._call = self._build()
            try:
                result = self._call(*arguments)
            except _FAILURES as error:
                raise InputError(f"TVM failed in {self.target}", why=tvm_message(error)) from error
        return from_tvm(result, inputs)

    def _build(self) -> Callable[..., Any]:
        import tvm
        from tvm import relax

        try:
            built = relax.build(self.module, host_target())
            machine = relax.VirtualMachine(built, tvm.cpu())
        except _FAILURES as error:
            raise UnsupportedError(
                f"TVM cannot build {self.target}",
                why=tvm_message(error),
                fix="try tvm.relax.build on the module itself",
            ) from error
        call: Callable[..., Any] = machine[_ENTRY]
        return call


def host_target() -> Any:
    """TVM's target for the vector instructions that this processor has.

    By level: LLVM's name for the processor counts on instructions that a virtual machine may hide.
    """
    from tvm.target import Target

    found = cpu_features()
    level = next((name for name, needs in _LEVELS.items() if needs <= found), None)
    return Target({"kind": "llvm", **({"mcpu": level} if level else {})})


def target_of(value: Any) -> str:
    """`relax.nn.relu`, `call_tir clip`: what a bound expression calls, for people."""
    from tvm import ir, relax

    if not isinstance(value, relax.Call):
        return type(value).__name__
    name = str(getattr(value.op, "name", None) or getattr(value.op, "name_hint", value.op))
    callee = value.args[0] if value.args else None
    if isinstance(callee, ir.GlobalVar):
        return f"{name.removeprefix('relax.')} {callee.name_hint}"
    if isinstance(callee, relax.ExternFunc):
        return f"{name.removeprefix('relax.')} {callee.global_symbol}"
    return name


def to_tvm(value: Any, *, fresh: bool = False) -> Any:
    """A tensor, or a tuple of them, for TVM; a copy only where it lies in no way TVM reads.

    fresh: copies all the same, for functions that write to what they are given.
    """
    from tvm.runtime import from_dlpack

    if isinstance(value, (tuple, list)):
        return [to_tvm(item, fresh=fresh) for item in value]
    tensor = value.detach().contiguous()
    copied = tensor is not value and tensor.data_ptr() != value.data_ptr()
    if not copied and (fresh or tensor.data_ptr() % _ALIGNMENT):
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    return from_dlpack(tensor)


def from_tvm(result: Any, inputs: Sequence[Any] = ()) -> Any:
    """TVM's result as torch tensors, tuples as tuples. What lies in an input is copied."""
    from tvm.runtime import Tensor

    if not isinstance(result, Tensor):
        return tuple(from_tvm(item, inputs) for item in result)
    tensor = torch_from_dlpack(result)
    held = {t.untyped_storage().data_ptr() for t in inputs if isinstance(t, torch.Tensor)}
    return tensor.clone() if tensor.untyped_storage().data_ptr() in held else tensor


def tvm_message(error: BaseException) -> str:
    """The sentence of TVM's message, without its own stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("File ", "Traceback", "at "))]
    return (told or lines or [type(error).__name__])[0]


def _is_tensors(type_: Any) -> bool:
    from tvm import relax

    if isinstance(type_, relax.TupleType):
        return all(map(_is_tensors, type_.fields))
    return isinstance(type_, relax.TensorType)


def _writes(value: Any) -> bool:
    """True for a TIR function that puts its result into one of its inputs."""
    return "inplace" in target_of(value)


def _rename(value: Any, new: dict[Any, Any]) -> Any:
    """`value` with other variables."""
    from tvm import relax

    class Renamer(relax.PyExprMutator):  # type: ignore[misc]
        def visit_var_(self, op: Any) -> Any:
            return new.get(op, op)

        def visit_dataflow_var_(self, op: Any) -> Any:
            return new.get(op, op)

    return relax.expr_functor.mutator(Renamer)().visit_expr(value)


def _reached(module: Any, value: Any) -> dict[Any, Any]:
    """The functions of `module` that an expression calls, those that they call included."""
    from tvm import relax

    found: dict[Any, Any] = {}
    waiting = [value]
    while waiting:
        for callee in relax.analysis.all_global_vars(waiting.pop()):
            if callee not in found:
                found[callee] = module[callee]
                if isinstance(found[callee], relax.Function):
                    waiting.append(found[callee])
    return found


def _with_entry(module: Any, value: Any, params: Sequence[Any], target: str) -> Any:
    """A module of the functions that `value` calls, and an entry that returns it."""
    import tvm
    from tvm import relax

    builder = relax.BlockBuilder(tvm.IRModule(_reached(module, value)))
    with builder.function(_ENTRY, list(params)):
        with builder.dataflow():
            result = builder.emit_output(builder.emit(value))
        builder.emit_func_output(result)
    made = builder.get()
    if relax.analysis.contains_impure_call(made[_ENTRY]):
        raise UnsupportedError(
            f"{target} has effects",
            why="the order of effects is not kept between kernels",
            fix="leave it out of the module, or call it on the results",
        )
    return made
