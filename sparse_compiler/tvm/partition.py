"""Relax module => the same module, in which layers whose zeros pay call our kernels.

Layers are found by TVM's own pattern matcher, imported by the front end, and judged by the cost
model that `sc.compile` uses. What is left alone stays TVM's, byte for byte; `report` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import tvm
from tvm import relax

from ..errors import UnsupportedError
from ..frontends.importer import Imported
from ..frontends.relax import import_relax
from ..inspector.entries import LayerEntry
from ..options import Options
from ..runtime.pipeline import Lowered, Pipeline, environment_refusal, lower_graph
from ..runtime.weights import LiveWeights
from .kernels import registered
from .ledger import Ledger, entry_of, left_alone
from .patterns import PREFIX, Pattern, convolutions, linears
from .symbols import has_known_reshape, with_free_rows


class _SparseLayers:
    """What both passes do. `report`: the decisions about the module that was seen last.

    hints: expected sizes of symbols by name, for the cost model. options: as `sc.compile`'s.
    """

    patterns: Callable[[], list[Pattern]]

    def __init__(
        self, *, hints: Mapping[str, int] | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self.hints, self.options = dict(hints or {}), Options.from_dict(options or {})
        self.report = Ledger(())

    def transform_module(self, module: tvm.IRModule, _: Any) -> tvm.IRModule:
        """Called by TVM. Raises `OptionError`, `ToolchainError`."""
        names: dict[Any, str] = {}

        def note(found: Any) -> bool:
            var = found.value_to_bound_var.get(found.matched_expr)
            names.setdefault(found.annotated_expr["weight"], "" if var is None else var.name)
            return True

        every = self._fused(module, note)
        entries: list[LayerEntry] = []
        chosen: set[Any] = set()
        for callee in _called_layers(every):
            weights = [constant for constant in _constants(every[callee]) if constant in names]
            where = next((names[weight] for weight in weights), callee.name_hint)
            entries.append(self._judged(every, callee, where))
            if entries[-1].native:
                chosen.update(weights)
        self.report = Ledger(tuple(entries))
        if not chosen:
            return module
        return self._replaced(
            self._fused(module, lambda found: found.annotated_expr["weight"] in chosen)
        )

    def _fused(self, module: tvm.IRModule, check: Callable[[Any], bool]) -> tvm.IRModule:
        """The module with each layer that `check` accepts as a function of its own."""

        def accepted(found: Any) -> bool:
            return _is_closed(found) and has_known_reshape(found) and check(found)

        patterns = [(*pattern, accepted) for pattern in type(self).patterns()]
        return relax.transform.FuseOpsByPattern(patterns, bind_constants=True)(module)

    def _judged(self, module: tvm.IRModule, callee: Any, where: str) -> LayerEntry:
        try:
            return entry_of(self._lowered(module, callee), where)
        except UnsupportedError as error:
            return left_alone(where, f"op_unsupported: {error.what}")

    def _lowered(self, module: tvm.IRModule, callee: Any) -> Lowered:
        found = _imported(module, callee)
        weights = LiveWeights(found.params)
        refusal = environment_refusal(self.options, weights)
        return lower_graph(found.graph, weights, self.options, self.hints, refusal=refusal)

    def _replaced(self, module: tvm.IRModule) -> tvm.IRModule:
        """The module with calls of our kernels instead of the functions of layers."""
        names = {}
        for callee in _called_layers(module):
            found = _imported(module, callee)
            pipeline = Pipeline(found.graph, LiveWeights(found.params), self.options, self.hints)
            names[callee] = registered(pipeline)
        return _with_calls(module, names)


def _is_closed(found: Any) -> bool:
    """True where nothing outside of a match reads what is computed inside of it."""
    inside = set(found.matched_bindings.keys())
    last = found.value_to_bound_var.get(found.matched_expr)
    return all(
        user in inside
        for var in inside
        if last is None or not var.same_as(last)
        for user in found.var_usages.get(var, ())
    )


def _imported(module: tvm.IRModule, callee: Any) -> Imported:
    single = tvm.IRModule({"main": with_free_rows(module[callee])})
    return _anonymous(import_relax(single).imported)


def _anonymous(imported: Imported) -> Imported:
    """The same graph with names that say nothing: equal layers then share their kernel."""
    graph = imported.graph
    names = {value.name: f"x{i}" for i, value in enumerate(graph.inputs)}
    names |= {value.name: f"w{i}" for i, value in enumerate(graph.params)}
    names |= {node.name: f"v{i}" for i, node in enumerate(graph.nodes)}
    renamed = replace(
        graph,
        inputs=tuple(replace(v, name=names[v.name]) for v in graph.inputs),
        params=tuple(replace(v, name=names[v.name]) for v in graph.params),
        nodes=tuple(
            replace(n, name=names[n.name], inputs=tuple(names[i] for i in n.inputs))
            for n in graph.nodes
        ),
        outputs=tuple(names[name] for name in graph.outputs),
    )
    return Imported(renamed, {names[name]: value for name, value in imported.params.items()})


def _is_layer(function: Any) -> bool:
    attrs = getattr(function, "attrs", None) or {}
    return "Composite" in attrs and str(attrs["Composite"]).startswith(PREFIX)


def _callers(module: tvm.IRModule) -> dict[Any, Any]:
    """The Relax functions that may call layers."""
    return {
        var: function
        for var, function in module.functions.items()
        if isinstance(function, relax.Function) and not _is_layer(function)
    }


def _called_layers(module: tvm.IRModule) -> list[Any]:
    """The functions of layers in the order of their calls, those of branches included."""
    found: dict[Any, None] = {}

    def visit(expr: Any) -> None:
        callee = expr.op if isinstance(expr, relax.Call) else None
        if isinstance(callee, tvm.ir.GlobalVar) and _is_layer(module[callee]):
            found[callee] = None

    for function in _callers(module).values():
        relax.analysis.post_order_visit(function, visit)
    return list(found)


def _constants(function: Any) -> list[Any]:
    """The constants that a layer's function reads."""
    found: list[Any] = []

    def visit(expr: Any) -> None:
        if isinstance(expr, tvm.ir.GenericConst):
            found.append(expr)

    relax.analysis.post_order_visit(function, visit)
    return found


def _with_calls(module: tvm.IRModule, names: Mapping[Any, str]) -> tvm.IRModule:
    """The module with a call of a packed function for each call of a function in `names`."""

    @relax.expr_functor.mutator
    class Caller(relax.PyExprMutator):  # type: ignore[misc]
        def visit_call_(self, op: Any) -> Any:
            call = super().visit_call_(op)
            if op.op not in names:
                return call
            tensors = [x for x in call.args if isinstance(x.ty, relax.TensorType)]
            return relax.call_dps_packed(names[op.op], relax.Tuple(tensors), out_ty=op.ty)

    caller = Caller(module)
    for var, function in _callers(module).items():
        caller.builder_.update_func(var, caller.visit_expr(function))
    changed = caller.builder_.get()
    for callee in names:
        del changed[callee]
    return changed.with_attrs(module.attrs) if module.attrs else changed


@tvm.transform.module_pass(opt_level=0, name="SparseLinear")
class SparseLinear(_SparseLayers):
    """linear(x, constant) with bias and activation  =>  a call of our kernel, where zeros pay."""

    patterns = staticmethod(linears)


@tvm.transform.module_pass(opt_level=0, name="SparseConv2d")
class SparseConv2d(_SparseLayers):
    """conv2d(x, constant) with bias and activation  =>  a call of our kernel, where zeros pay."""

    patterns = staticmethod(convolutions)
