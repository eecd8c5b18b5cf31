"""A Relax function -> our graph: walks its bindings once, in order.

Each call becomes our ops where a rule of `relax_rules.py` fits, and a `tvm_call` otherwise. Numbers
and sizes are followed as such: arithmetic on constants of rank 0 and on shapes leaves no nodes.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import sympy
import torch
import tvm
from tvm import relax, tirx

from ..errors import UnsupportedError
from ..ir.graph import Builder, is_weight_time
from ..ir.op import Op
from ..ir.types import Dim, TensorType, TupleType, Type, as_dim, symbol
from ..ops.cat import Cat
from ..ops.iota import Full
from .relax_call import from_tvm, target_of
from .relax_fallback import tvm_call
from .relax_names import apart, cleaned, layer_of
from .relax_values import ARITHMETIC, DTYPES, Number, Sizes, Value, dtype_of, is_size

_SYMBOL = re.compile(r"s\d{1,6}")
_DEEPEST = 16  # calls of Relax functions inside each other

Rule: TypeAlias = "Callable[[RelaxImporter, Any], Value | None]"
"""(importer, call) -> the call's value; None: not mine, TVM is to run it."""


class RelaxImporter:
    """`values` maps each Relax variable to what it became; `params`: the tensors of parameters."""

    def __init__(self, module: Any, rules: Mapping[str, Rule]) -> None:
        self.module, self.rules = module, rules
        self.builder = Builder()
        self.values: dict[Any, Value] = {}
        self.params: dict[str, torch.Tensor] = {}
        self.objects: dict[str, Any] = {}
        self.weight_time: set[str] = set()
        self.symbols: dict[Any, Dim] = {}
        self.call: Any = None
        self._constants: dict[Any, Value] = {}
        self.wanted = ""
        self._depth = 0

    # --- the function ----------------------------------------------------------------------------

    def body(self, function: Any) -> Value:
        """Imports the bindings of a function whose parameters have values; gives its result."""
        self._check_pure(function)
        if not isinstance(function.body, relax.SeqExpr):
            return self.value(function.body)
        for block in function.body.blocks:
            for binding in block.bindings:
                self._binding(binding)
        return self.value(function.body.body)

    def _check_pure(self, function: Any) -> None:
        if not function.is_pure:
            raise UnsupportedError(
                "the Relax module has effects",
                node=_effect(function),
                why="kernels are reordered and joined, and effects have an order",
                fix="take the call out of the module, or make it call_pure_packed if it has none",
            )

    def _binding(self, binding: Any) -> None:
        var, value = binding.var, binding.value
        if isinstance(binding, relax.MatchCast):
            self.values[var] = self._match_cast(binding)
            return
        self.wanted = var.name
        if isinstance(value, relax.If):
            raise UnsupportedError(
                f"%{var.name} is an if",
                why="which branch is taken is known at run time only, and a graph has no branches",
                fix="fold the condition in TVM, or compile each branch as a module of its own",
            )
        if isinstance(value, relax.Function):
            raise UnsupportedError(
                f"%{var.name} is a function inside a function",
                fix="lift it with tvm.relax.transform.LambdaLift",
            )
        self.values[var] = self._call(value) if isinstance(value, relax.Call) else self.value(value)

    def _match_cast(self, binding: Any) -> Value:
        """The value as it is; names that the cast gives to sizes stand for the sizes it has."""
        value = self.value(binding.value)
        shape = getattr(binding.ty, "shape", None)
        if not isinstance(value, str) or not isinstance(shape, relax.ShapeExpr):
            return value
        type_ = self.builder.types[value]
        if not isinstance(type_, TensorType) or type_.rank != len(shape.values):
            raise self._unknown_shape(binding.var)
        for size, known in zip(shape.values, type_.shape, strict=True):
            if is_size(size) and size not in self.symbols:
                self.symbols[size] = known
            elif self.dim(size) != known:
                raise self._unknown_shape(binding.var)
        return value

    def _unknown_shape(self, var: Any) -> UnsupportedError:
        return UnsupportedError(
            f"the sizes of %{var.name} are known at run time only",
            node=f"%{var.name}: {var.ty}",
            why="sizes must follow from those of the inputs",
            fix="compute it outside of the module, or give it a shape in the inputs' symbols",
        )

    def _call(self, call: Any) -> Value:
        if isinstance(call.op, tvm.ir.GlobalVar):
            return self._inlined(call)
        previous, self.call = self.call, call
        rule = self.rules.get(rule_key(call))
        found = rule(self, call) if rule is not None else None
        result = tvm_call(self, call) if found is None else found
        self.call = previous
        return result

    def _inlined(self, call: Any) -> Value:
        """A call of another Relax function of the module: its bindings, in this graph."""
        function = self.module[call.op]
        if not isinstance(function, relax.Function) or self._depth >= _DEEPEST:
            raise UnsupportedError(
                f"cannot take in the function {call.op.name_hint}",
                why="it calls itself" if self._depth else f"it is a {type(function).__name__}",
                fix="inline it in the TVM module first",
            )
        self._depth += 1
        for param, argument in zip(function.params, call.args, strict=True):
            self.values[param] = self.value(argument)
            self._bind_sizes(param, self.values[param])
        result = self.body(function)
        self._depth -= 1
        return result

    def _bind_sizes(self, param: Any, value: Value) -> None:
        shape = getattr(param.ty, "shape", None)
        type_ = self.builder.types[value] if isinstance(value, str) else None
        if isinstance(type_, TensorType) and isinstance(shape, relax.ShapeExpr):
            for size, known in zip(shape.values, type_.shape, strict=True):
                if is_size(size):
                    self.symbols[size] = known

    # --- values ----------------------------------------------------------------------------------

    def value(self, expr: Any) -> Value:
        """What an expression became. Raises `UnsupportedError` for what has no value here."""
        if isinstance(expr, relax.Var) and not is_size(expr):
            return self._known(expr)
        if isinstance(expr, tvm.ir.GenericConst):
            return self._constant(expr)
        if isinstance(expr, relax.Tuple):
            return tuple(self.value(field) for field in expr.fields)
        if isinstance(expr, relax.TupleGetItem):
            whole = self.value(expr.tuple_value)
            if isinstance(whole, tuple):
                return whole[int(expr.index)]
        if isinstance(expr, relax.ShapeExpr):
            return Sizes(tuple(self.dim(d) for d in expr.values))
        if isinstance(expr, relax.Call):
            return self._call(expr)
        number = self.plain(expr)
        if number is not None:
            return Number(number, "f32" if isinstance(number, float) else "i64")
        raise UnsupportedError(
            f"the Relax module holds a {type(expr).__name__}, which is no tensor",
            node=str(expr).splitlines()[0][:200],
            fix="replace it in the TVM module",
        )

    def _known(self, var: Any) -> Value:
        if var not in self.values:
            raise UnsupportedError(
                f"%{var.name} is used before it has a value",
                fix="check the module with tvm.relax.analysis.well_formed",
            )
        return self.values[var]

    def tensor(self, expr: Any) -> tuple[str, TensorType] | None:
        """Name and type of an expression or value that is a tensor; numbers become one."""
        value = expr if isinstance(expr, (str, Number, Sizes)) else self.value(expr)
        if isinstance(value, Number):
            value = self.add(Full(value.value, (), value.dtype), [])
        if isinstance(value, Sizes) and value.tensor:
            parts = [self.add(Full(d, (1,), "i64"), []) for d in value.dims]
            value = self.add(Cat(0), parts)
        if not isinstance(value, str):
            return None
        type_ = self.builder.types[value]
        return (value, type_) if isinstance(type_, TensorType) else None

    def tensors(self, expr: Any) -> list[tuple[str, TensorType]] | None:
        """The tensors of a tuple; None where it holds anything else."""
        value = self.value(expr)
        found = [self.tensor(item) for item in value] if isinstance(value, tuple) else [None]
        known = [t for t in found if t is not None]
        return known if len(known) == len(found) else None

    def number(self, expr: Any) -> Any:
        """An expression that is a number or a size; None for a tensor."""
        plain = self.plain(expr)
        if plain is not None or not isinstance(expr, tvm.ir.Expr):
            return plain
        value = self.value(expr)
        return value.value if isinstance(value, Number) else None

    def sizes(self, expr: Any) -> tuple[Dim, ...] | None:
        """The dimensions of an expression that is a shape; None for others."""
        value = self.value(expr)
        return value.dims if isinstance(value, Sizes) else None

    def array(self, expr: Any) -> torch.Tensor | None:
        """The numbers of an expression that never changes: a constant of the module."""
        value = self.value(expr)
        if isinstance(value, Number) and not isinstance(value.value, sympy.Expr):
            return torch.tensor(value.value)
        if isinstance(value, Sizes) and all(isinstance(d, int) for d in value.dims):
            return torch.tensor([int(d) for d in value.dims])
        return self.params.get(value) if isinstance(value, str) else None

    def plain(self, value: Any) -> Any:
        """A number of Python's or TVM's own, or an expression of sizes; None for what is none."""
        if isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, (tirx.IntImm, tirx.FloatImm)):
            return bool(value.value) if str(value.ty.dtype) == "bool" else value.value
        if is_size(value):
            return self.symbols.get(value)
        if isinstance(value, (tirx.Add, tirx.Sub, tirx.Mul, tirx.FloorDiv, tirx.FloorMod)):
            return self.dim(value)
        return None

    def dim(self, size: Any) -> Dim:
        """A TIR expression as a dimension. Raises `UnsupportedError` for what sizes cannot be."""
        if isinstance(size, (int, tirx.IntImm)):
            return int(size)
        if is_size(size):
            if size not in self.symbols:
                raise UnsupportedError(
                    f"the size {size} is known at run time only",
                    why="no input of the module has it in its shape",
                    fix="give sizes in the symbols of the inputs' shapes",
                )
            return self.symbols[size]
        function = ARITHMETIC.get(type(size))
        if function is None:
            raise UnsupportedError(f"the size {size} is no arithmetic on sizes")
        found = function(self.dim(size.a), self.dim(size.b))
        return found if isinstance(found, int) else as_dim(found)

    def symbol(self, var: Any) -> Dim:
        """Declares the symbol of a size in the inputs' shapes, named as torch and saved models do:
        s0, s1, ..."""
        taken = {str(known) for known in self.symbols.values()}
        free = (name for count in itertools.count() if (name := f"s{count}") not in taken)
        own = _SYMBOL.fullmatch(var.name) is not None and var.name not in taken
        return self.symbols.setdefault(var, symbol(var.name if own else next(free)))

    # --- types -----------------------------------------------------------------------------------

    def result_type(self) -> TensorType | None:
        """Type of the single tensor that the call being imported gives; else None."""
        type_ = self.type_of(self.call)
        return type_ if isinstance(type_, TensorType) else None

    def type_of(self, expr: Any) -> Type | None:
        """The type of an expression. Raises `UnsupportedError` where its shape is unknown."""
        type_ = expr.ty
        if not isinstance(type_, (relax.TensorType, relax.TupleType)) and expr.ty_args:
            type_ = expr.ty_args[0]
        return self._type(type_)

    def _type(self, type_: Any) -> Type | None:
        if isinstance(type_, relax.TupleType):
            return TupleType(tuple(self._type(field) for field in type_.fields))
        if not isinstance(type_, relax.TensorType):
            return None
        if not isinstance(type_.shape, relax.ShapeExpr):
            raise UnsupportedError(
                f"the shape of %{self.wanted} is unknown",
                node=f"%{self.wanted}: {type_}",
                why="shapes must follow from those of the inputs",
                fix="give it one with match_cast, in the symbols of the inputs",
            )
        return TensorType(dtype_of(type_), tuple(self.dim(d) for d in type_.shape.values))

    # --- nodes -----------------------------------------------------------------------------------

    def add(self, op: Op, inputs: Iterable[str], *, type_: Type | None = None) -> str:
        """Adds a node named after the layer whose weight it reads, or after its variable."""
        names = tuple(inputs)
        weights = [i for i in names if i in self.params and self.params[i].dim() > 1]
        layer = layer_of(weights[0]) if weights else ""
        name = self.builder.fresh(f"{layer}.{op.name}" if layer else self.wanted or op.name)
        self.builder.add(op, names, name, type_=type_)
        if is_weight_time(op, names, self.builder.types[name], self.weight_time):
            self.weight_time.add(name)
        return name

    def parameter(self, wanted: str, tensor: torch.Tensor) -> Value:
        """A graph parameter with the numbers of `tensor`; a number where it has rank 0."""
        dtype = DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        if tensor.dim() == 0 and dtype is not None:
            return Number(tensor.item(), dtype)
        name = self.builder.fresh(apart(cleaned(wanted), self.params))
        shape = tuple(int(size) for size in tensor.shape)
        self.builder.param(name, TensorType(dtype or str(tensor.dtype), shape))
        self.params[name] = tensor
        self.weight_time.add(name)
        return name

    def _constant(self, const: Any) -> Value:
        if const not in self._constants:
            tensor = from_tvm(const.value)
            self._constants[const] = self.parameter(f"{self.wanted}.constant", tensor)
        return self._constants[const]


def rule_key(call: Any) -> str:
    """Under what a call's rule is registered: `relax.nn.relu`, or `extern.name`."""
    name = str(getattr(call.op, "name", ""))
    if name in ("relax.call_pure_packed", "relax.call_dps_packed"):
        callee = call.args[0]
        return f"extern.{getattr(callee, 'global_symbol', '')}"
    return name


def _effect(function: Any) -> str:
    """The first binding of a function that calls something with effects."""
    for block in getattr(function.body, "blocks", ()):
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call) and relax.analysis.contains_impure_call(
                relax.Function([], binding.value, is_pure=False)
            ):
                return f"%{binding.var.name} = {target_of(binding.value)}"
    return ""


__all__ = ["Number", "RelaxImporter", "Rule", "Sizes", "Value", "rule_key"]
