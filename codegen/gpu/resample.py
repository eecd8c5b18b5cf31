"""Images at another resolution, in planes: the nearest pixel, or between two along each axis.

Positions as `ops/upsample.py` defines them; the steps are rounded to fp32 as torch has them, on the
host, since a division on a GPU may be off by a unit in the last place and meet another pixel.
"""

from __future__ import annotations

from typing import Any

from sparse_compiler.codegen.gpu.rules import rule
from sparse_compiler.codegen.gpu.source import Printer, planes_args, source_args
from sparse_compiler.codegen.gpu.weight_calls import arguments
from sparse_compiler.codegen.operands import Columns, Struct
from sparse_compiler.codegen.program import Call
from sparse_compiler.ir.types import as_dim

_HEAD = """\
    row = tl.program_id(0)
    at = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    pixel = at % (DO * HO * WO)
    first = row * ldx + at // (DO * HO * WO) * (D * H * W)
    oz, oy, ox = pixel // (HO * WO), pixel // WO % HO, pixel % WO
"""

NEAREST = f"""\
def $name(
    out, ldo, P, x, ldx, D, H, W, DO, HO, WO, STEP_Z, STEP_Y, STEP_X,
    EXACT: tl.constexpr, WIDE: tl.constexpr,
):
    # EXACT: the nearest centre; else torch's older rule, floor(o * step)
{_HEAD}    half = 0.5 if EXACT else 0.0
    z = tl.minimum(tl.floor((oz.to(tl.float32) + half) * STEP_Z).to(tl.int32), D - 1)
    y = tl.minimum(tl.floor((oy.to(tl.float32) + half) * STEP_Y).to(tl.int32), H - 1)
    left = tl.minimum(tl.floor((ox.to(tl.float32) + half) * STEP_X).to(tl.int32), W - 1)
    value = tl.load(x + first + (z * H + y) * W + left, mask=at < P, other=0.0)
    tl.store(out + row * ldo + at, value.to(out.dtype.element_ty), mask=at < P)
"""


def _between(place: str, result: str, step: str, size: str) -> str:
    """Lines for the two pixels around each result along an axis, and the share of the second."""
    return f"""\
    {place} = {result}.to(tl.float32) * {step}
    if not CORNERS:
        {place} = tl.maximum(({result}.to(tl.float32) + 0.5) * {step} - 0.5, 0.0)
    {place}0 = tl.minimum(tl.floor({place}).to(tl.int32), {size} - 1)
    {place}1 = tl.minimum({place}0 + 1, {size} - 1)
    {place} = tl.minimum({place} - {place}0.to(tl.float32), 1.0)
"""


def _pixel(line: str, column: str) -> str:
    place = f"x + first + {line} * W + {column}"
    return f"tl.load({place}, mask=at < P, other=0.0).to(tl.float32)"


LINEAR = f"""\
def $name(
    out, ldo, P, x, ldx, D, H, W, DO, HO, WO, STEP_Z, STEP_Y, STEP_X,
    CORNERS: tl.constexpr, WIDE: tl.constexpr,
):
    # of lines and images, which are one slice: four pixels, blended along y, then along x
{_HEAD}{_between("v", "oy", "STEP_Y", "H")}{_between("u", "ox", "STEP_X", "W")}\
    left = (1.0 - v) * {_pixel("v0", "u0")} + v * {_pixel("v1", "u0")}
    right = (1.0 - v) * {_pixel("v0", "u1")} + v * {_pixel("v1", "u1")}
    value = (1.0 - u) * left + u * right
    tl.store(out + row * ldo + at, value.to(out.dtype.element_ty), mask=at < P)
"""


@rule("upsample_nearest", "upsample_bilinear")
def _upsample(printer: Printer, call: Call) -> None:
    rows, geometry, flag, x, to, *_ = arguments(call)
    _, before, after, scales = geometry.fields
    columns, linear = Columns(to.planes.space), call.kernel == "upsample_bilinear"
    args: dict[str, Any] = {**planes_args(to), **source_args(x), "P": columns}
    args |= dict(zip("DHW", before.fields, strict=True))
    args |= dict(zip(("DO", "HO", "WO"), after.fields, strict=True))
    for axis, size, result, scale in zip(
        "ZYX", before.fields, after.fields, scales.fields, strict=True
    ):
        step: Any = Struct("ratio", (size, result))
        if linear and flag:
            step = Struct("ratio", (as_dim(size - 1), as_dim(result - 1)))
        elif scale > 0:
            step = 1.0 / scale
        args[f"STEP_{axis}"] = step
    args |= {"CORNERS" if linear else "EXACT": bool(flag), "WIDE": 128}
    grid = ((rows, 1), (columns, 128))
    template, name = (LINEAR, "linear") if linear else (NEAREST, "nearest")
    printer.launch(template, f"upsample_{name}", args, grid, call.label)
