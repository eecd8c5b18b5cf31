"""Relax operators that give images other sizes, and running sums -> our ops.

A resize keeps TVM's coordinates: where torch's upsampling has the same for these sizes it becomes
ours, else TVM runs it.
"""

from __future__ import annotations

from typing import Any

import sympy

from ..ir.types import Dim
from ..ops.scan import Cumsum
from ..ops.upsample import Upsample
from .relax_importer import RelaxImporter, Value
from .relax_rules import FLOATS, rule

_HALF_PIXEL = ("half_pixel", "pytorch_half_pixel")
_TO_NEAREST = ("round_prefer_floor", "round_prefer_ceil", "round", "")


@rule("image.resize2d")
def _resize(imp: RelaxImporter, call: Any) -> Value | None:
    """Of planes, by nearest pixel or linearly."""
    x, wanted, attrs = imp.tensor(call.args[0]), imp.result_type(), call.attrs
    if x is None or wanted is None or x[1].dtype not in FLOATS or attrs.layout != "NCHW":
        return None
    factors = [_factor(a, b) for a, b in zip(wanted.shape[2:], x[1].shape[2:], strict=True)]
    mode = str(attrs.method)
    place = str(attrs.coordinate_transformation_mode)
    if mode == "nearest_neighbor":
        if not _takes_floor(place, str(attrs.rounding_method), factors):
            return None
        op = Upsample("nearest", wanted.shape[2:], False, ())
    elif mode == "linear" and (place in _HALF_PIXEL or place == "align_corners"):
        if place == "pytorch_half_pixel" and 1 in wanted.shape[2:]:
            return None
        op = Upsample("linear", wanted.shape[2:], place == "align_corners", ())
    else:
        return None
    return imp.add(op, [x[0]]) if op.infer((x[1],)) == wanted else None


def _takes_floor(place: str, rounding: str, factors: list[int | None]) -> bool:
    """True where the pixel of place i is i // factor, as torch has it."""
    if place == "asymmetric":
        return rounding == "floor" or (
            rounding == "round_prefer_floor" and all(f in (1, 2) for f in factors)
        )
    return place in _HALF_PIXEL and rounding in _TO_NEAREST and None not in factors


def _factor(large: Dim, small: Dim) -> int | None:
    """By how much an axis grows, if that is a whole number."""
    ratio = sympy.simplify(sympy.sympify(large) / sympy.sympify(small))
    return int(ratio) if ratio.is_Integer and ratio >= 1 else None


@rule("cumsum")
def _cumsum(imp: RelaxImporter, call: Any) -> Value | None:
    x, wanted, attrs = imp.tensor(call.args[0]), imp.result_type(), call.attrs
    if x is None or wanted is None or attrs.axis is None or attrs.exclusive:
        return None
    if x[1].dtype != wanted.dtype or x[1].dtype not in FLOATS:
        return None
    return imp.add(Cumsum(int(attrs.axis) % x[1].rank), [x[0]])
