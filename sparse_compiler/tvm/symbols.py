"""Layers whose rows are an expression in symbols: `s * 16` becomes a symbol of its own.

torch.export makes one matrix of all leading dimensions, so a symbolic batch reaches a linear as a
product, which no input of the layer's function gives the factors of; nor does the layer need them.
"""

from __future__ import annotations

from typing import Any

from tvm import relax, tirx


def has_known_reshape(found: Any) -> bool:
    """True where no reshape inside of a match gives a symbolic shape."""
    return not any(
        getattr(getattr(value, "op", None), "name", "") == "relax.reshape"
        and relax.analysis.tir_vars_in_type(value.ty)
        for value in found.matched_bindings.values()
    )


def with_free_rows(function: Any) -> Any:
    """The function of a layer without the sizes that TVM passes to it; itself where it has none."""
    if all(isinstance(param.ty, relax.TensorType) for param in function.params):
        return function
    params = [p for p in function.params if isinstance(p.ty, relax.TensorType)]
    fresh = {param: relax.Var(param.name, _free(param.ty)) for param in params}
    builder = relax.BlockBuilder()
    with builder.function("main", list(fresh.values())):
        with builder.dataflow():
            for block in function.body.blocks:
                for binding in block.bindings:
                    call = binding.value
                    arguments = [fresh.get(argument, argument) for argument in call.args]
                    again = relax.Call(call.op, arguments, call.attrs, call.ty_args)
                    fresh[binding.var] = builder.emit(again)
            result = builder.emit_output(fresh[function.body.body])
        builder.emit_func_output(result)
    return builder.get()["main"]


def _free(type_: Any) -> Any:
    """The type with a symbol for each size that is an expression in symbols."""
    sizes = [
        size if isinstance(size, tirx.IntImm) else tirx.Var(f"rows{i}", "int64")
        for i, size in enumerate(type_.shape.values)
    ]
    return relax.TensorType(sizes, type_.dtype)
