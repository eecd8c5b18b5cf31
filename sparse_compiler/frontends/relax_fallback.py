"""What no rule takes, as a `tvm_call`: the call as it stands, on tensors, to be run by TVM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tvm import relax, tirx

from ..errors import UnsupportedError
from ..ir.attrs import Object
from ..ir.types import Dim, TupleType, Type
from ..ops.torch_call import GetItem
from ..ops.tvm_call import TvmCall
from .relax_call import region, target_of
from .relax_values import Sizes, Value, is_size

if TYPE_CHECKING:
    from .relax_importer import RelaxImporter


def tvm_call(imp: RelaxImporter, call: Any) -> Value:
    """The call as it stands, to be run by TVM."""
    given, value = _tensors_only(imp, call)
    found = region(imp.module, value, imp.dim)
    inputs = [given.get(var) or _name(imp, var) for var in found.inputs]
    name = imp.builder.fresh(imp.wanted or target_of(call).replace(" ", "."))
    imp.objects[name] = found.function
    type_ = imp.type_of(call)
    imp.builder.add(TvmCall(found.target, Object(name), found.sizes), inputs, name, type_=type_)
    return _taken_apart(imp, name, type_)


def _taken_apart(imp: RelaxImporter, name: str, type_: Type | None) -> Value:
    if not isinstance(type_, TupleType):
        return name
    return tuple(
        _taken_apart(imp, imp.add(GetItem(i), [name]), item) for i, item in enumerate(type_.items)
    )


def _tensors_only(imp: RelaxImporter, call: Any) -> tuple[dict[Any, str], Any]:
    """The call on variables of tensors alone, and the graph values of those that are new."""
    given: dict[Any, str] = {}

    def tensors(expr: Any) -> Any:
        if isinstance(expr, relax.Tuple):
            return relax.Tuple([tensors(field) for field in expr.fields])
        if not isinstance(expr, relax.Var) or is_size(expr):
            return expr
        value = imp.values.get(expr)
        if isinstance(value, Sizes) and not value.tensor:
            return relax.ShapeExpr([_prim(imp, d) for d in value.dims])
        if not isinstance(value, tuple):
            return expr
        parts = [relax.Var(f"{expr.name}_{i}", t) for i, t in enumerate(expr.ty.fields)]
        for part, item in zip(parts, value, strict=True):
            imp.values[part] = item
            given[part] = _name(imp, part)
        return relax.Tuple(parts)

    args = [tensors(arg) for arg in call.args]
    if all(new is old for new, old in zip(args, call.args, strict=True)):
        return given, call
    made = relax.Call(call.op, args, call.attrs, call.ty_args)
    relax.expr._update_type(made, call.ty)
    return given, made


def _prim(imp: RelaxImporter, dim: Dim) -> Any:
    """A dimension as TVM's expression: a number, or the variable that it came from."""
    if isinstance(dim, int):
        return tirx.IntImm("int64", dim)
    known = next((var for var, value in imp.symbols.items() if value == dim), None)
    if known is None:
        raise UnsupportedError(
            f"TVM cannot be asked for {target_of(imp.call)} alone",
            why=f"it reads the size {dim}, which no variable of the module names",
            fix="replace the call in the TVM module before it is compiled",
        )
    return known


def _name(imp: RelaxImporter, var: Any) -> str:
    found = imp.tensor(var)
    if found is None:
        raise UnsupportedError(f"%{var.name} is no tensor", node=f"%{var.name}")
    return found[0]
