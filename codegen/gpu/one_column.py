"""One column of activations, row-major: norms, rotary embeddings and one query, beside the linears.

Threads lie along the features; a kernel of planes does it, whose planes have one column.
"""

from __future__ import annotations

from sparse_compiler.codegen.gpu.planes import NORM
from sparse_compiler.codegen.gpu.rotary import ROTATE
from sparse_compiler.codegen.gpu.rules import place_of, rule
from sparse_compiler.codegen.gpu.source import Printer, row_reads
from sparse_compiler.codegen.gpu.weight_calls import arguments
from sparse_compiler.codegen.program import Call

_LANES = 1024


@rule("norm_row")
def _norm(printer: Printer, call: Call) -> None:
    size, eps, centred, x, to, functor, *reads = arguments(call)
    lines, own = row_reads(functor, reads)
    own = {"x": place_of(x), **own}
    args = {"out": place_of(to), "ldo": 1, "P": 1, "M": size, "EPS": eps, "CENTRED": centred}
    args |= {"HIGH": _LANES, "WIDE": 1}
    holes = {
        "params": "".join(f"{name}, " for name in own),
        "source": "value = tl.load(x + row, mask=mask, other=0.0).to(tl.float32)",
        "epilogue": "\n".join(lines),
    }
    printer.launch(NORM, "norm_row", args | own, ((1, 1),), call.label, holes=holes)


@rule("rotate_row")
def _rotate(printer: Printer, call: Call) -> None:
    heads, size, turned, *places, interleaved = arguments(call)
    x, cos, sin, out = (place_of(place) for place in places)
    rows = heads * size
    args = {"out": out, "ldo": 1, "x": x, "ldx": 1, "cos": cos, "ldc": 1, "sin": sin, "lds": 1}
    args |= {"P": 1, "M": rows, "SIZE": size, "TURNED": turned, "INTERLEAVED": interleaved}
    args |= {"HIGH": 256, "WIDE": 1}
    printer.launch(ROTATE, "rotate", args, ((rows, 256), (1, 1)), call.label)
