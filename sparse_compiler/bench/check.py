"""Ratios that must hold: `benchmarks/expected.toml`, one [[ratio]] table each, and [[limit]]s.

A ratio of times is missed only if the whole 95 % interval lies below `at_least` by more than the
tolerance, so that noise alone does not turn a check red. Other figures are single measurements.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from sparse_compiler.errors import InputError, OptionError
from sparse_compiler.options import nearest

from .case import Case, check_sparsity
from .models import model_named
from .results import Results, Row, ratio_between

FASTEST = "fastest"
RIVALS = ("inductor-frozen", "onnxruntime", "openvino")
"""What "fastest" stands for: whichever of these is, in the case."""

FIGURES = {"time": "median_ms", "cold": "cold_s", "warm": "warm_s", "memory": "peak_bytes"}
UNITS = {"time": "ms", "cold": "s", "warm": "s", "memory": "bytes"}


@dataclass(frozen=True, kw_only=True)
class Where:
    """The case a figure is taken from. tokens 0: the model's; threads 0: those of the run."""

    model: str
    sparsity: float = 0.0
    pattern: str = "unstructured"
    batch: int = 1
    tokens: int = 0
    threads: int = 0
    of: str = "time"
    tolerance: float = 0.1

    def case(self, threads: int) -> Case:
        """What must be measured for it. OptionError for an unknown model, pattern or figure."""
        model = model_named(self.model)
        check_sparsity(self.sparsity, self.pattern)
        if self.of not in FIGURES:
            raise OptionError(f"no figure is named {self.of!r}", fix=nearest(self.of, FIGURES))
        tokens = (self.tokens or model.tokens) if model.tokens else None
        count = self.threads or threads
        return Case(self.model, self.sparsity, self.pattern, self.batch, tokens, "float32", count)

    def rows(self, results: Results) -> dict[str, Row]:
        """The rows of its case by engine."""
        return {r.engine: r for r in results.rows if r.case == self.case(r.case.threads)}

    @property
    def title(self) -> str:
        """The case in few words."""
        alone = f", threads {self.threads}" if self.threads else ""
        batch = f", batch {self.batch}" if self.batch > 1 else ""
        what = "" if self.of == "time" else f" {self.of} of"
        return f"{self.model} {self.pattern} {100 * self.sparsity:g} %{batch}{alone}:{what}"


@dataclass(frozen=True, kw_only=True)
class Expectation(Where):
    """figure(slow) ÷ figure(fast) ≥ at_least, less a share `tolerance` of it.

    slow may be "fastest"; of: "time", "cold" or "warm" compile time, or "memory" at its peak.
    """

    fast: str
    slow: str
    at_least: float

    @property
    def engines(self) -> tuple[str, ...]:
        """Those that must be measured."""
        return (*(RIVALS if self.slow == FASTEST else (self.slow,)), self.fast)


@dataclass(frozen=True, kw_only=True)
class Limit(Where):
    """figure(engine) ≤ at_most: ms, s or bytes. More than that by a share `tolerance` is missed."""

    engine: str
    at_most: float

    @property
    def engines(self) -> tuple[str, ...]:
        """Those that must be measured."""
        return (self.engine,)


Check = Expectation | Limit


@dataclass(frozen=True)
class Verdict:
    """Whether it holds, and a sentence with the figures."""

    holds: bool
    text: str


def read_expectations(path: Path) -> list[Check]:
    """The [[ratio]] and [[limit]] tables of a TOML file. InputError naming a wrong one."""
    try:
        tables = tomllib.loads(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read {path}", why=str(error)) from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} has no [[ratio]] tables", why=str(error)) from error
    found: list[Check] = []
    for name, kind in (("ratio", Expectation), ("limit", Limit)):
        for i, table in enumerate(tables.get(name, ())):
            where = f"{path}, {name} {i + 1}"
            found += [_expectation(kind, one, where) for one in _each_sparsity(table, where)]
    if not found:
        raise InputError(f"{path} has no [[ratio]] tables", why=f"its keys: {', '.join(tables)}")
    return found


def _each_sparsity(table: Mapping[str, Any], where: str) -> Iterator[Mapping[str, Any]]:
    """`sparsity = [0, 0.9]` with `at_least = [1, 4]`, or with one value for all, is two tables."""
    lists = {key: value for key, value in table.items() if isinstance(value, list)}
    lengths = {len(value) for value in lists.values()}
    if not lists:
        yield table
    elif "sparsity" not in lists or len(lengths) > 1:
        raise InputError(
            f"{where}: {', '.join(lists)}: lists of {sorted(lengths)} values",
            fix="give as many values of at_least as of sparsity",
        )
    else:
        for values in zip(*lists.values(), strict=True):
            yield {**table, **dict(zip(lists, values, strict=True))}


_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}


def _expectation(
    kind: type[Expectation] | type[Limit], table: Mapping[str, Any], where: str
) -> Check:
    known = {f.name: f for f in fields(kind)}
    for key, value in table.items():
        if key not in known:
            raise InputError(f"{where}: no field is named {key!r}", fix=nearest(key, known))
        wanted = str(known[key].type)
        if isinstance(value, bool) or not isinstance(value, _KINDS[wanted]):
            raise InputError(f"{where}: {key} is {value!r}, not a value of type {wanted}")
    missing = [n for n, f in known.items() if f.default is MISSING and n not in table]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing")
    return kind(**table)


def judge(check: Check, results: Results) -> Verdict:
    """Compare with the rows of its case; a row without the figure counts as missed."""
    return _judge_limit(check, results) if isinstance(check, Limit) else _judge(check, results)


def _judge(e: Expectation, results: Results) -> Verdict:
    name, rows, figure = f"{e.title} {e.fast} against {e.slow}", e.rows(results), FIGURES[e.of]
    slow = e.slow
    if slow == FASTEST:
        timed = [rows[r] for r in RIVALS if r in rows and rows[r].counts]
        slow = (
            min(timed, key=lambda row: getattr(row, figure) or 0.0).engine if timed else RIVALS[0]
        )
        name += f" ({slow})"
    if missing := _without_figure(e, rows, (e.fast, slow)):
        return Verdict(False, f"{name}: {missing}")
    floor = e.at_least * (1 - e.tolerance)
    if e.of == "time":
        ratio = ratio_between(rows[slow], rows[e.fast])
        high, figures = ratio.high, f"{ratio.median:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}]"
    else:
        high = getattr(rows[slow], figure) / getattr(rows[e.fast], figure)
        figures = f"{high:.2f}×"
    text = f"{name}: {figures}, expected ≥ {e.at_least:g}× (tolerance {100 * e.tolerance:g} %)"
    return Verdict(high >= floor, text)


def _judge_limit(limit: Limit, results: Results) -> Verdict:
    name, rows = f"{limit.title} {limit.engine}", limit.rows(results)
    if missing := _without_figure(limit, rows, (limit.engine,)):
        return Verdict(False, f"{name}: {missing}")
    value = float(getattr(rows[limit.engine], FIGURES[limit.of]))
    text = f"{name}: {value:.4g} {UNITS[limit.of]}, expected ≤ {limit.at_most:g}"
    return Verdict(value <= limit.at_most * (1 + limit.tolerance), text)


def _without_figure(check: Check, rows: Mapping[str, Row], engines: Iterable[str]) -> str:
    """Which of the engines has no such figure and why, or "" if all have."""
    for engine in engines:
        row = rows.get(engine)
        if row is None or not row.counts:
            why = f"{row.status} {row.reason}".strip() if row else "not measured"
            return f"{engine} has no time ({why})"
        if getattr(row, FIGURES[check.of]) is None:
            return f"{engine} has no figure of that kind"
    return ""
