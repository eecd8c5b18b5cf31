"""Calls of a Program as launches: a rule for each kernel's name, found by `print_segment`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparse_compiler.codegen.gpu import planes as P
from sparse_compiler.codegen.gpu.expressions import code_of, literal
from sparse_compiler.codegen.gpu.source import Host, Module, Printer, planes_args, source_args
from sparse_compiler.codegen.gpu.weight_calls import WEIGHT_RULES, arguments, window_args
from sparse_compiler.codegen.gpu.weights import WINDOW
from sparse_compiler.codegen.operands import (
    Box,
    Columns,
    Element,
    Functor,
    Own,
    Planes,
    Read,
    Samples,
    ScalarFunctor,
    Strided,
    Struct,
    Written,
)
from sparse_compiler.codegen.program import Call, Segment
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.ir.expr import Arg as ExprArg

Rule = Callable[[Printer, Call], None]
RULES: dict[str, Rule] = dict(WEIGHT_RULES)
"""By the name of the kernel, template arguments apart."""

_HIGH, _WIDE = 16, 64  # rows and columns of a tile that is walked along rows


def print_segment(segment: Segment, dtype: str = "fp32") -> Module:
    """The kernels and launches of a segment.

    Raises `UnsupportedError` naming the node whose kernel the GPU lacks, `CodegenError` for fp64.
    """
    printer = Printer(segment, dtype)
    for call in segment.calls:
        rule = RULES.get(_name(call.kernel))
        if rule is None:
            raise UnsupportedError(
                f"the GPU has no kernel for {call.kernel.partition('<')[0]}",
                node=f"%{call.label}",
                why="the op is known to the CPU only",
                fix="leave the layer out of the compiled part, or compile for the cpu",
            )
        rule(printer, call)
    return Module(printer.text(), tuple(printer.launches))


def _name(kernel: str) -> str:
    """A kernel's name without template arguments; of a weight's, without the format either."""
    name = kernel.partition("<")[0]
    first = name.partition("_")[0]
    return first if first in ("linear", "conv") else name


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def enter(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return enter


def _place(arg: Any) -> Any:
    """What a thread's own columns are columns of: here, all of them."""
    return arg.place if isinstance(arg, Own | Strided) else arg


@_rule("pointwise")
def _pointwise(printer: Printer, call: Call) -> None:
    rows, columns, to, functor = arguments(call)
    args = {**planes_args(to), "P": columns, "M": rows, "HIGH": 4, "WIDE": 256}
    grid = ((rows, 4), (columns, 256))
    printer.launch(P.POINTWISE, "pointwise", args, grid, call.label, functors={"epilogue": functor})


@_rule("move_columns")
def _move(printer: Printer, call: Call) -> None:
    rows, columns, source, to = (_planes(arg) for arg in arguments(call))
    same = Functor(ExprArg(0), (Read(source),), accumulator=False)
    args = {**planes_args(to), "P": columns, "M": rows, "HIGH": 4, "WIDE": 256}
    grid = ((rows, 4), (columns, 256))
    printer.launch(P.POINTWISE, "move", args, grid, call.label, functors={"epilogue": same})


def _planes(arg: Any) -> Any:
    inner = _place(arg)
    return inner.planes if isinstance(inner, Written) else inner


@_rule("layer_norm", "rms_norm")
def _norm(printer: Printer, call: Call) -> None:
    rows, columns, eps, _, _, to, source, finish = arguments(call)
    args = {**planes_args(to), "P": columns, "M": rows, "EPS": eps}
    args |= {"CENTRED": call.kernel == "layer_norm", "HIGH": _HIGH, "WIDE": _WIDE}
    functors = {"source": source, "epilogue": finish}
    printer.launch(P.NORM, "norm", args, ((columns, _WIDE),), call.label, functors=functors)


@_rule("softmax", "log_softmax")
def _softmax(printer: Printer, call: Call) -> None:
    rows, columns, to, source = arguments(call)
    args = {**planes_args(to), "P": columns, "M": rows}
    args |= {"LOG": call.kernel == "log_softmax", "HIGH": _HIGH, "WIDE": _WIDE}
    grid = ((columns, _WIDE),)
    printer.launch(P.SOFTMAX, "softmax", args, grid, call.label, functors={"source": source})


@_rule("group_norm")
def _group_norm(printer: Printer, call: Call) -> None:
    rows, groups, samples, columns, eps, to, _, source, finish = arguments(call)
    args = {**planes_args(to), "EACH": columns, "ROWS": rows // groups, "EPS": eps}
    args |= {"HIGH": 4, "WIDE": 128}
    functors = {"source": source, "epilogue": finish}
    grid = ((groups, 1), (samples, 1))
    printer.launch(P.GROUP_NORM, "group_norm", args, grid, call.label, functors=functors)


_MOST = {"PlaneSum": 0, "PlaneMax": 1, "PlaneMin": -1}


@_rule("reduce_rows")
def _reduce_rows(printer: Printer, call: Call) -> None:
    _, rows, _, columns, to, source, finish = arguments(call)
    args = {"out": _first(to), "P": columns, "M": rows, "MOST": _MOST[_template(call)]}
    args |= {"MEAN": finish.name == "Divided", "HIGH": _HIGH, "WIDE": _WIDE}
    grid = ((columns, _WIDE),)
    printer.launch(
        P.REDUCE_ROWS, "reduce_rows", args, grid, call.label, functors={"source": source}
    )


@_rule("reduce_columns")
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
    return to.planes if isinstance(to, Written) else _place(to.fields[0])


@_rule("max_pool", "avg_pool")
def _pool(printer: Printer, call: Call) -> None:
    rows, window, x, to, _, *rest, _ = arguments(call)
    whole, divisor = (bool(rest[0]), float(rest[1])) if rest else (False, 0.0)
    columns = Columns(to.planes.space)
    args = {**planes_args(to), **source_args(x), **window_args(window), "LINES": 1, "P": columns}
    args |= {"DIVISOR": divisor, "MAX": call.kernel == "max_pool", "WHOLE": whole, "WIDE": 128}
    grid = ((rows, 1), (columns, 128))
    printer.launch(P.POOL, "pool", args, grid, call.label, holes=WINDOW)


@_rule("adaptive_avg_pool", "adaptive_max_pool")
def _adaptive_pool(printer: Printer, call: Call) -> None:
    rows, geometry, x, to, *_ = arguments(call)
    columns = Columns(to.planes.space)
    args = {**planes_args(to), **source_args(x), "P": columns}
    for names, sizes in (("DHW", geometry.fields[1]), (("DO", "HO", "WO"), geometry.fields[2])):
        args |= dict(zip(names, sizes.fields, strict=True))
    args |= {"MAX": "max" in call.kernel, "WIDE": 64}
    printer.launch(P.ADAPTIVE_POOL, "adaptive", args, ((rows, 1), (columns, 1)), call.label)


@_rule("rows_to_planes")
def _rows_to_planes(printer: Printer, call: Call) -> None:
    source, ld, columns, rows, to = arguments(call)
    args = {**planes_args(to), "x": _place(source), "ldx": ld, "P": columns, "M": rows, "SIDE": 32}
    printer.launch(P.TRANSPOSE, "transpose", args, ((rows, 32), (columns, 32)), call.label)


@_rule("planes_to_rows")
def _planes_to_rows(printer: Printer, call: Call) -> None:
    planes, columns, rows, to, ld = arguments(call)
    args = {"out": _place(to), "ldo": ld, **source_args(planes), "P": rows, "M": columns}
    args |= {"SIDE": 32}
    printer.launch(P.TRANSPOSE, "transpose", args, ((columns, 32), (rows, 32)), call.label)


@_rule("gather_rows_to_planes")
def _gather_planes(printer: Printer, call: Call) -> None:
    table, rows, width, ids, columns, to, error = arguments(call)
    out = planes_args(to)
    args = {"out": out["out"], "ROW_STEP": out["ldo"], "COLUMN_STEP": 1, "table": _place(table)}
    args |= {"ids": _place(ids), "error": error, "ROWS": rows, "WIDTH": width, "P": columns}
    grid = ((columns, 1), (width, 256))
    printer.launch(P.GATHER, "gather", {**args, "WIDE": 256}, grid, call.label)


@_rule("gather_rows")
def _gather_rows(printer: Printer, call: Call) -> None:
    table, rows, width, ids, count, out, ld, error = arguments(call)
    args = {"out": _place(out), "ROW_STEP": 1, "COLUMN_STEP": ld, "table": _place(table)}
    args |= {"ids": _place(ids), "error": error, "ROWS": rows, "WIDTH": width, "P": count}
    grid = ((count, 1), (width, 256))
    printer.launch(P.GATHER, "gather", {**args, "WIDE": 256}, grid, call.label)


# --- boxes ----------------------------------------------------------------------------------------


@_rule("copy")
def _copy(printer: Printer, call: Call) -> None:
    box, to, source = arguments(call)
    functor = ScalarFunctor(ExprArg(0), (_dtype(source),), _dtype(to))
    _sweep(printer, call, box, to, functor, (source,))


@_rule("map")
def _map(printer: Printer, call: Call) -> None:
    box, to, functor, *sources = arguments(call)
    _sweep(printer, call, box, to, functor, tuple(sources))


@_rule("fill")
def _fill(printer: Printer, call: Call) -> None:
    box, to, value = arguments(call)
    if not isinstance(value, Element):
        raise UnsupportedError("a fill with no number", node=f"%{call.label}")
    _sweep(printer, call, box, to, literal(value.value), ())


def _dtype(strided: Any) -> str:
    return "f32" if isinstance(strided.place, Planes) else str(strided.place.dtype)


def _sweep(
    printer: Printer,
    call: Call,
    box: Box,
    to: Strided,
    functor: ScalarFunctor | str,
    sources: tuple[Strided, ...],
) -> None:
    """One element a thread, its place in each operand from the box's sizes and strides."""
    dims, sides = len(box.sizes), {"to": to, **{f"s{i}": s for i, s in enumerate(sources)}}
    sizes: list[Any] = list(box.sizes)
    if box.samples:
        sizes[0] = Samples(box.sizes[0])
    args: dict[str, Any] = {"out": to.place, "COUNT": Struct("product", tuple(sizes))}
    names = [f"SIZE{d}" for d in range(1, dims)]
    args |= dict(zip(names, sizes[1:], strict=True))
    places = [f"{side} = i * 0" for side in sides]
    for d in reversed(range(dims)):
        places.append(f"at{d} = rest % SIZE{d}" if d else f"at{d} = rest")
        places += [f"rest = rest // SIZE{d}"] if d else []
        for side, strided in sides.items():
            places.append(f"{side} += at{d} * {side}_step{d}")
            names.append(f"{side}_step{d}")
            args[names[-1]] = strided.strides[d]
    args["offset_out"] = to.offset
    lines = [f"value = tl.full([WIDE], {functor}, tl.float32)"]
    if isinstance(functor, ScalarFunctor):
        lines = []
        for i, (strided, dtype) in enumerate(zip(sources, functor.dtypes, strict=True)):
            args |= {f"in{i}": strided.place, f"offset{i}": strided.offset}
            names += [f"in{i}", f"offset{i}"]
            load = f"tl.load(in{i} + offset{i} + s{i}, mask=mask, other=0)"
            lines.append(f"x{i} = {load}{_converted(dtype)}")
        lines += code_of(functor.expr, functor.dtypes)
        lines.append("value = value + tl.zeros([WIDE], tl.int8)" if not sources else "")
    args["WIDE"] = 512
    holes = {"sizes": "".join(f"{n}, " for n in names), "places": "\n".join(places)}
    holes["epilogue"] = "\n".join(line for line in lines if line)
    printer.launch(P.SWEEP, "sweep", args, ((args["COUNT"], 512),), call.label, holes=holes)


def _converted(dtype: str) -> str:
    """How a loaded tile gets the type that it is computed in."""
    if dtype == "bool":
        return " != 0"
    return ".to(tl.float32)" if dtype in ("f32", "f16", "bf16") else ""


# --- left to torch --------------------------------------------------------------------------------


def _host(printer: Printer, call: Call) -> None:
    printer.launches.append(Host(call.kernel, call.args, call.label))


RULES |= dict.fromkeys(("attend", "mask_to_planes", "matmul", "softmax_along"), _host)

__all__ = ["RULES", "print_segment"]
