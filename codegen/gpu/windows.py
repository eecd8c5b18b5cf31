"""How kernels of convolutions read x: a window that slides over it, or one that spreads it."""

from __future__ import annotations

from collections.abc import Mapping

from sparse_compiler.codegen.gpu.weights import WINDOW
from sparse_compiler.codegen.operands import Struct

TRANSPOSED: Mapping[str, str] = {
    "params": WINDOW["params"],
    "prepare": """\
    pixel = at % (DO * HO * WO)
    depth, top = pixel // (HO * WO) + PD, pixel // WO % HO + PH
    left = pixel % WO + PW
    corner = at // (DO * HO * WO) * (D * H * W)""",
    "load": """\
channel, tap = k // (KD * KH * KW), k % (KD * KH * KW)
dz = depth - tap // (KH * KW) * ED
dy = top - tap // KW % KH * EH
dx = left - tap % KW * EW
seen = inside & (channel < LINES) & (dz >= 0) & (dy >= 0) & (dx >= 0)
seen = seen & (dz % SD == 0) & (dy % SH == 0) & (dx % SW == 0)
seen = seen & (dz // SD < D) & (dy // SH < H) & (dx // SW < W)
pixels = (first_line + channel) * ldx + (dz // SD * H + dy // SH) * W + dx // SW + corner
line = tl.load(x + pixels, mask=seen, other=0.0)""",
}
"""Result o reads input (o + padding - tap * dilation) / stride, where that is whole and inside."""


def reads_of(window: Struct) -> Mapping[str, str]:
    """The holes of a kernel that reads x through this window."""
    return TRANSPOSED if window.fields[7] else WINDOW
