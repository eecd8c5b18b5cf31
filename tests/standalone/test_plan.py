"""The library's own binding of sizes against Python's: the same numbers, at any sizes."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest
import sympy
from torch.utils._sympy.functions import FloorDiv

from sparse_compiler.codegen.cpu.build import kernel_folder
from sparse_compiler.codegen.cpu.standalone.sizes import size_code
from sparse_compiler.codegen.plan import arrange, share
from sparse_compiler.codegen.program import Buffer, Segment, Space, Wait
from sparse_compiler.errors import UnsupportedError
from sparse_compiler.ir.types import evaluate, symbol

S, T = symbol("s"), symbol("t")
NAMES = {"s": "s", "t": "t"}
HERE = Path(__file__).parent


@pytest.mark.parametrize(
    "dim",
    [
        7,
        S * T * 3 + 5,
        S**2 - S,
        S * (S + 1) / 2,
        FloorDiv(S + 1, 2) * T,
        sympy.floor(S / 2 + sympy.Rational(1, 3)),
        16 * sympy.ceiling((S + T) / 16),
        sympy.Max(S, T) + sympy.Min(S, 9),
        sympy.Mod(S, 5),
    ],
    ids=str,
)
def test_sizes_are_those_of_sympy(dim) -> None:
    # What is written is Python too.
    functions = {
        "T": int,
        "floor_div": lambda a, b: a // b,
        "modulo": lambda a, b: a % b,
        "most": max,
        "least": min,
    }
    for s, t in ((0, 1), (1, 1), (2, 9), (31, 4), (197, 64)):
        code = size_code(dim if isinstance(dim, int) else sympy.sympify(dim), NAMES)
        assert eval(code, {**functions, "s": s, "t": t}) == evaluate(dim, {"s": s, "t": t})


def test_a_size_that_nothing_determines_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="u0"):
        size_code(symbol("u0") + 1, NAMES)
    with pytest.raises(UnsupportedError, match="no form"):
        size_code(sympy.sin(S), NAMES)


def drawn(rng: random.Random) -> tuple[Segment, int, list[int], int, list[int]]:
    """(segment, samples, columns, threads, floats of buffers)."""
    spaces = [Space(0, rng.random() < 0.5) for _ in range(rng.randint(0, 4))]
    calls = rng.randint(1, 12)
    buffers = []
    for _ in range(rng.randint(0, 9)):
        first = rng.randrange(calls)
        space = rng.choice([None, *range(len(spaces))])
        flags = {"shared": rng.random() < 0.15, "foreign": rng.random() < 0.3}
        rows = rng.choice([1, 16, 64, 512, 3072])
        buffers.append(Buffer(rows, space, first=first, last=rng.randrange(first, calls), **flags))
    waits = {
        call: Wait(rng.choice([None, *range(len(spaces))]), rng.random() < 0.5)
        for call in sorted(rng.sample(range(calls), rng.randint(0, calls)))
    }
    segment = Segment(
        "x", (), (), (frozenset(), frozenset()), (), tuple(spaces), tuple(buffers),
        (None,) * calls, 1, waits, (),
    )  # type: ignore[arg-type]  # fmt: skip
    columns = [rng.choice([1, 7, 16, 49, 197, 128, 3136, rng.randint(1, 600)]) for _ in spaces]
    samples = rng.choice([1, 1, 2, 3, 8, 17, 64, 1000])
    floats = [rng.randint(0, 5000) for _ in buffers]
    return segment, samples, columns, rng.choice([1, 2, 3, 4, 8, 64]), floats


def as_text(case: tuple[Segment, int, list[int], int, list[int]]) -> str:
    """What plan_program.cpp reads."""
    segment, samples, columns, threads, floats = case
    numbers = [len(segment.calls), samples, threads, len(columns)]
    for space, count in zip(segment.spaces, columns, strict=True):
        numbers += [int(space.tokens), count]
    numbers.append(len(floats))
    for buffer, size in zip(segment.buffers, floats, strict=True):
        space = -1 if buffer.space is None else buffer.space
        flags = [int(buffer.shared), int(buffer.foreign)]
        rows = 0 if buffer.space is None else int(buffer.size)
        numbers += [space, rows, *flags, buffer.first, buffer.last, size]
    numbers.append(len(segment.waits))
    for call, wait in segment.waits.items():
        numbers += [call, -1 if wait.space is None else wait.space, int(wait.given)]
    return " ".join(map(str, numbers))


def expected(case: tuple[Segment, int, list[int], int, list[int]]) -> str:
    segment, samples, columns, threads, floats = case
    sharing = share(segment, samples, columns, threads)
    arena = arrange(segment, sharing, floats)
    numbers = [sharing.per, int(sharing.alone), *sharing.part, *sharing.rest, *sharing.ld]
    numbers += [*map(int, arena.local), *arena.offsets, arena.local_floats, arena.shared_floats]
    return " ".join(map(str, numbers))


@pytest.mark.system
def test_threads_share_and_buffers_lie_as_python_says(tmp_path: Path) -> None:
    program, folder = tmp_path / "plan", kernel_folder() / "standalone"
    subprocess.run(
        ["g++", "-std=c++17", "-Wall", "-Wextra", f"-iquote{folder}", HERE / "plan_program.cpp",
         "-o", program], check=True,
    )  # fmt: skip
    rng = random.Random(0)
    cases = [drawn(rng) for _ in range(3000)]
    done = subprocess.run(
        [program], input="\n".join(map(as_text, cases)), capture_output=True, text=True, check=True
    )
    found = done.stdout.splitlines()
    assert len(found) == len(cases)
    for case, line in zip(cases, found, strict=True):
        assert line == expected(case), case
    assert sum(any(share(s, n, c, t).rest) for s, n, c, t, _ in cases) > 20  # all ways occur
