"""ATen operators that give images other sizes -> our ops: upsampling, borders, shuffles."""

from __future__ import annotations

from typing import Any

from torch import fx

from ..ir.types import Dim
from ..ops.pad import Pad
from ..ops.shape import Permute, Reshape
from ..ops.upsample import Upsample
from .aten_vision import over_images
from .importer import Importer, Result
from .rules import all_float, overload, rule

_UPSAMPLES = {
    **{f"upsample_nearest{n}d": ("nearest", n) for n in (1, 2, 3)},
    **{f"_upsample_nearest_exact{n}d": ("nearest-exact", n) for n in (1, 2, 3)},
    "upsample_linear1d": ("linear", 1),
    "upsample_bilinear2d": ("linear", 2),
    "upsample_trilinear3d": ("linear", 3),
}


@rule(*(f"{name}.{form}" for name in _UPSAMPLES for form in ("default", "vec")))
def _upsample(imp: Importer, node: fx.Node) -> Result:
    """The `vec` forms know a size or factors, the others a size and maybe factors."""
    args, wanted = imp.arguments(), imp.result_type()
    mode, dims = _UPSAMPLES[overload(node)]
    x = imp.tensor(args.get("input", args.get("self")))
    if x is None or wanted is None or not all_float(x):
        return None
    factors = args.get("scale_factors", [args[k] for k in args if k.startswith("scales")])
    scales = [imp.number(factor) for factor in factors or () if factor is not None]
    numbers = tuple(float(s) for s in scales if isinstance(s, (int, float)))
    if len(numbers) not in (0, dims) or len(numbers) != len(scales):
        return None
    op = Upsample(mode, wanted.shape[-dims:], bool(args.get("align_corners", False)), numbers)
    return over_images(imp, node, op, x, dims)


@rule("pad.default", "constant_pad_nd.default", "_pad_circular.default")
def _pad(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    mode = "circular" if "circular" in overload(node) else args.get("mode", "constant")
    return _make_pad(imp, mode, args["pad"], args.get("value"))


@rule(*(f"{kind}_pad{n}d.default" for kind in ("reflection", "replication") for n in (1, 2, 3)))
def _pad_by_mode(imp: Importer, node: fx.Node) -> Result:
    mode = "reflect" if overload(node).startswith("reflection") else "replicate"
    return _make_pad(imp, mode, imp.arguments()["padding"], None)


def _make_pad(imp: Importer, mode: str, pads: Any, value: Any) -> Result:
    """torch lists the ends of the last dimension first: (before, after, before, after, ...)."""
    args = imp.arguments()
    x, wanted = imp.tensor(args["self"]), imp.result_type()
    ends = [imp.number(end) for end in pads]
    number = 0.0 if value is None else imp.number(value)
    if x is None or wanted is None or not isinstance(number, (int, float)) or None in ends:
        return None
    if mode != "constant" and not all(isinstance(end, int) and end >= 0 for end in ends):
        return None
    left: tuple[Dim, ...] = (0,) * (x[1].rank - len(ends) // 2)
    before, after = left + tuple(ends[-2::-2]), left + tuple(ends[::-2])
    op = Pad(mode, before, after, float(number))
    type_ = op.infer((x[1].logical,))
    if float(number) != number or type_ != wanted:
        return None
    return x[0] if type_.shape == x[1].shape else imp.add(op, [x[0]])


@rule("pixel_shuffle.default", "pixel_unshuffle.default")
def _pixel_shuffle(imp: Importer, node: fx.Node) -> Result:
    """[.., C r r, H, W] <-> [.., C, H r, W r], with r x r pixels in the order of the channels."""
    args, wanted = imp.arguments(), imp.result_type()
    x = imp.tensor(args["self"])
    r = imp.number(args.get("upscale_factor", args.get("downscale_factor")))
    if x is None or wanted is None or not isinstance(r, int):
        return None
    lead, rank = x[1].shape[:-3], x[1].rank - 3
    inward = overload(node) == "pixel_unshuffle"
    channels, small = (x[1], wanted) if inward else (wanted, x[1])
    c, (h, w) = channels.shape[-3], small.shape[-2:]
    split, order = ((c, h, r, w, r), (0, 2, 4, 1, 3)) if inward else ((c, r, r, h, w), _SHUFFLED)
    name = imp.add(Reshape((*lead, *split)), [x[0]])
    name = imp.add(Permute((*range(rank), *(rank + d for d in order))), [name])
    return imp.add(Reshape(wanted.shape), [name])


_SHUFFLED = (0, 3, 1, 4, 2)


@rule("channel_shuffle.default", "native_channel_shuffle.default")
def _channel_shuffle(imp: Importer, node: fx.Node) -> Result:
    args = imp.arguments()
    x, groups = imp.tensor(args["self"]), imp.number(args["groups"])
    if x is None or not isinstance(groups, int) or not isinstance(x[1].shape[1], int):
        return None
    b, c, *sizes = x[1].shape
    name = imp.add(Reshape((b, groups, int(c) // groups, *sizes)), [x[0]])
    name = imp.add(Permute((0, 2, 1, *range(3, len(sizes) + 3))), [name])
    return imp.add(Reshape(x[1].shape), [name])
