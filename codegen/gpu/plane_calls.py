"""Calls on planes beside the layers' own: norms, softmax, reductions, pools, copies, look-ups."""

from __future__ import annotations

from typing import Any

from sparse_compiler.codegen.gpu import planes as P
from sparse_compiler.codegen.gpu.rules import place_of, planes_of, rule
from sparse_compiler.codegen.gpu.source import Printer, each_element, planes_args, source_args
from sparse_compiler.codegen.gpu.weight_calls import arguments, window_args
from sparse_compiler.codegen.gpu.weights import WINDOW
from sparse_compiler.codegen.operands import Columns, Functor, Read, Written
from sparse_compiler.codegen.program import Call
from sparse_compiler.ir.expr import Arg as ExprArg

_HIGH, _WIDE = 16, 64  # rows and columns of a tile that is walked along rows


@rule("pointwise")
def _pointwise(printer: Printer, call: Call) -> None:
    rows, columns, to, functor = arguments(call)
    tile, grid = each_element(rows, columns)
    args = {**planes_args(to), **tile}
    printer.launch(P.POINTWISE, "pointwise", args, grid, call.label, functors={"epilogue": functor})


@rule("move_columns")
def _move(printer: Printer, call: Call) -> None:
    rows, columns, source, to = (planes_of(arg) for arg in arguments(call))
    same = Functor(ExprArg(0), (Read(source),), accumulator=False)
    tile, grid = each_element(rows, columns)
    args = {**planes_args(to), **tile}
    printer.launch(P.POINTWISE, "move", args, grid, call.label, functors={"epilogue": same})


@rule("layer_norm", "rms_norm")
def _norm(printer: Printer, call: Call) -> None:
    rows, columns, eps, _, _, to, source, finish = arguments(call)
    args = {**planes_args(to), "P": columns, "M": rows, "EPS": eps}
    args |= {"CENTRED": call.kernel == "layer_norm", "HIGH": _HIGH, "WIDE": _WIDE}
    functors = {"source": source, "epilogue": finish}
    printer.launch(P.NORM, "norm", args, ((columns, _WIDE),), call.label, functors=functors)


@rule("softmax", "log_softmax")
def _softmax(printer: Printer, call: Call) -> None:
    rows, columns, to, source = arguments(call)
    args = {**planes_args(to), "P": columns, "M": rows}
    args |= {"LOG": call.kernel == "log_softmax", "HIGH": _HIGH, "WIDE": _WIDE}
    grid = ((columns, _WIDE),)
    printer.launch(P.SOFTMAX, "softmax", args, grid, call.label, functors={"source": source})


@rule("group_norm")
def _group_norm(printer: Printer, call: Call) -> None:
    rows, groups, samples, columns, eps, to, _, source, finish = arguments(call)
    args = {**planes_args(to), "EACH": columns, "ROWS": rows // groups, "EPS": eps}
    args |= {"HIGH": 4, "WIDE": 128}
    functors = {"source": source, "epilogue": finish}
    grid = ((groups, 1), (samples, 1))
    printer.launch(P.GROUP_NORM, "group_norm", args, grid, call.label, functors=functors)


_MOST = {"PlaneSum": 0, "PlaneMax": 1, "PlaneMin": -1}


@rule("reduce_rows")
def _reduce_rows(printer: Printer, call: Call) -> None:
    _, rows, _, columns, to, source, finish = arguments(call)
    args = {"out": _first(to), "P": columns, "M": rows, "MOST": _MOST[_template(call)]}
    args |= {"MEAN": finish.name == "Divided", "HIGH": _HIGH, "WIDE": _WIDE}
    grid = ((columns, _WIDE),)
    printer.launch(
        P.REDUCE_ROWS, "reduce_rows", args, grid, call.label, functors={"source": source}
    )


@rule("reduce_columns")
def _reduce_columns(printer: Printer, call: Call) -> None:
    rows, samples, columns, to, source, finish = arguments(call)
    step: Any = planes_args(to)["ldo"] if isinstance(to, Written) else to.fields[1]
    args = {"out": _first(to), "ldo": step, "EACH": columns, "SAMPLES": samples}
    args |= {"MOST": _MOST[_template(call)], "MEAN": finish.name == "Divided", "WIDE": 128}
    grid = ((rows, 1), (samples, 1))
    printer.launch(
        P.REDUCE_COLUMNS, "reduce_columns", args, grid, call.label, functors={"source": source}
    )


def _template(call: Call) -> str:
    return call.kernel.partition("<")[2].rstrip(">")


def _first(to: Any) -> Any:
    return to.planes if isinstance(to, Written) else place_of(to.fields[0])


@rule("max_pool", "avg_pool")
def _pool(printer: Printer, call: Call) -> None:
    rows, window, x, to, _, *rest, _ = arguments(call)
    whole, divisor = (bool(rest[0]), float(rest[1])) if rest else (False, 0.0)
    columns = Columns(to.planes.space)
    args = {**planes_args(to), **source_args(x), **window_args(window), "LINES": 1, "P": columns}
    args |= {"DIVISOR": divisor, "MAX": call.kernel == "max_pool", "WHOLE": whole, "WIDE": 128}
    grid = ((rows, 1), (columns, 128))
    printer.launch(P.POOL, "pool", args, grid, call.label, holes=WINDOW)


@rule("adaptive_avg_pool", "adaptive_max_pool")
def _adaptive_pool(printer: Printer, call: Call) -> None:
    rows, geometry, x, to, *_ = arguments(call)
    columns = Columns(to.planes.space)
    args = {**planes_args(to), **source_args(x), "P": columns}
    for names, sizes in (("DHW", geometry.fields[1]), (("DO", "HO", "WO"), geometry.fields[2])):
        args |= dict(zip(names, sizes.fields, strict=True))
    args |= {"MAX": "max" in call.kernel, "WIDE": 64}
    printer.launch(P.ADAPTIVE_POOL, "adaptive", args, ((columns, 1), (rows, 1)), call.label)


@rule("rows_to_planes")
def _rows_to_planes(printer: Printer, call: Call) -> None:
    source, ld, columns, rows, to = arguments(call)
    args = {
        **planes_args(to),
        "x": place_of(source),
        "ldx": ld,
        "P": columns,
        "M": rows,
        "SIDE": 32,
    }
    printer.launch(P.TRANSPOSE, "transpose", args, ((rows, 32), (columns, 32)), call.label)


@rule("planes_to_rows")
def _planes_to_rows(printer: Printer, call: Call) -> None:
    planes, columns, rows, to, ld = arguments(call)
    args = {"out": place_of(to), "ldo": ld, **source_args(planes), "P": rows, "M": columns}
    args |= {"SIDE": 32}
    printer.launch(P.TRANSPOSE, "transpose", args, ((columns, 32), (rows, 32)), call.label)


@rule("gather_rows_to_planes")
def _gather_planes(printer: Printer, call: Call) -> None:
    table, rows, width, ids, columns, to, error = arguments(call)
    out = planes_args(to)
    args = {"out": out["out"], "ROW_STEP": out["ldo"], "COLUMN_STEP": 1, "table": place_of(table)}
    args |= {"ids": place_of(ids), "error": error, "ROWS": rows, "WIDTH": width, "P": columns}
    grid = ((columns, 1), (width, 256))
    printer.launch(P.GATHER, "gather", {**args, "WIDE": 256}, grid, call.label)


@rule("gather_rows")
def _gather_rows(printer: Printer, call: Call) -> None:
    table, rows, width, ids, count, out, ld, error = arguments(call)
    args = {"out": place_of(out), "ROW_STEP": 1, "COLUMN_STEP": ld, "table": place_of(table)}
    args |= {"ids": place_of(ids), "error": error, "ROWS": rows, "WIDTH": width, "P": count}
    grid = ((count, 1), (width, 256))
    printer.launch(P.GATHER, "gather", {**args, "WIDE": 256}, grid, call.label)


@rule("spread")
def _spread(printer: Printer, call: Call) -> None:
    rows, columns, to, x, runs, fill = arguments(call)
    lines, begin = ["source = row * 0 - 1"], 0
    for run in runs.fields[0].fields:
        first, last = run.fields
        lines.append(
            f"source = tl.where((row >= {first}) & (row < {last}), row - {first - begin}, source)"
        )
        begin += last - first
    tile, grid = each_element(rows, columns)
    args = {**planes_args(to), **source_args(x), **tile}
    holes, functors = {"runs": "\n".join(lines)}, {"epilogue": fill}
    printer.launch(P.SPREAD, "spread", args, grid, call.label, holes=holes, functors=functors)
