"""Which uses of ops the GPU's kernels are tested on: of every op in the registry, in all its modes.

Small ones as the CPU's kernels are tested on, and those of `wide_cases.py`; a layer in each format.
"""

import random
from collections.abc import Iterator

from sparse_compiler.codegen.gpu.calls import unprintable
from sparse_compiler.codegen.lower import lower
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.ir.op import OPS
from tests.codegen.native_modes import Mode, Use, modes, use
from tests.codegen.test_every_op import NATIVE
from tests.gpu.wide_cases import WIDE
from tests.ops.cases import CASES, Case, drawn

FAMILIES = {name: [CASES[name]] * (name in CASES) for name in [*NATIVE, *WIDE]}
for _name, _wide in WIDE.items():
    FAMILIES[_name] += _wide
BLOCKS = ("block_16x16", "block_32x32")
"""Formats of blocks that no registry lists, which have kernels with dots."""


def gpu_uses(name: str, count: int, number: int = 0) -> list[Use]:
    """`count` cases of each strategy that the GPU has kernels for, by turns in rows and planes."""
    chosen = random.Random(f"{name} {number}")
    found: list[Use] = []
    for strategy in FAMILIES[name]:
        own: list[Use] = []
        for case in reversed(drawn(strategy, 3 * count, number)):  # the first are the simplest
            made = _one_of(case, chosen, planes=len(own) % 2 == 1)
            own += [made] if made is not None and printable(made) else []
            if len(own) == count:
                break
        found += own
    return found


def _one_of(case: Case, chosen: random.Random, *, planes: bool) -> Use | None:
    """The case in one of its modes, in planes or not where there are both."""
    ways = [mode for mode in modes(case) if _fixed_weight(case, mode)]
    ways = [mode for mode in ways if _in_planes(mode) == planes] or ways
    return use(case, chosen.choice(ways), symbolic=chosen.random() < 0.3) if ways else None


def _in_planes(mode: Mode) -> bool:
    return any(layout is not None and layout.planes for layout in mode.layouts)


def uses_in(format_: str, count: int, number: int = 0) -> list[Use]:
    """Layers with a weight in that format, large and small."""
    chosen = random.Random(f"{format_} {number}")
    found = []
    for strategy in (*FAMILIES["linear"], *FAMILIES["conv"]):
        cases = drawn(strategy, 4 * count, number)
        found += [made for case in cases if (made := _stored(case, format_, chosen))][:count]
    return found


def _stored(case: Case, format_: str, chosen: random.Random) -> Use | None:
    ways = [m for m in modes(case) if m.format == "csr" and _fixed_weight(case, m)]
    if not ways:
        return None
    mode = chosen.choice(ways)
    return use(case, Mode(mode.constant, mode.layouts, format_), symbolic=False)


def _fixed_weight(case: Case, mode: Mode) -> bool:
    at = case.op.weight_input
    return at is None or mode.constant[at]


def printable(made: Use) -> bool:
    """False for elements of fp64, which torch gets; nothing else is refused."""
    refused = [no for s in lower(made.graph).segments for no in unprintable(s).values()]
    assert all(no.code == "dtype_unsupported" and "f64" in no.why for no in refused), refused
    return not refused


def all_uses(count: int) -> Iterator[Use]:
    """What `interpreted_ops.py` runs."""
    for name in FAMILIES:
        yield from gpu_uses(name, count)
    for format_ in (*FORMATS, *BLOCKS):
        yield from uses_in(format_, count)


__all__ = ["FAMILIES", "OPS", "all_uses", "gpu_uses", "uses_in"]
