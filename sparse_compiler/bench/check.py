"""Ratios that must hold: `benchmarks/expected.toml`, one [[ratio]] table each.

A ratio is missed only if the whole 95 % interval lies below `at_least` by more than the tolerance,
so that noise alone does not turn a check red.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from sparse_compiler.errors import InputError
from sparse_compiler.options import nearest

from .case import Case, check_sparsity
from .models import model_named
from .results import Results, ratio_between


@dataclass(frozen=True)
class Expectation:
    """time(slow) ÷ time(fast) ≥ at_least, less a share `tolerance` of it. tokens 0: the model's."""

    model: str
    fast: str
    slow: str
    at_least: float
    sparsity: float = 0.0
    pattern: str = "unstructured"
    batch: int = 1
    tokens: int = 0
    tolerance: float = 0.1

    def case(self, threads: int) -> Case:
        """What must be measured for it. OptionError for an unknown model or pattern."""
        model = model_named(self.model)
        check_sparsity(self.sparsity, self.pattern)
        tokens = (self.tokens or model.tokens) if model.tokens else None
        return Case(self.model, self.sparsity, self.pattern, self.batch, tokens, "float32", threads)


@dataclass(frozen=True)
class Verdict:
    """Whether it holds, and a sentence with the figures."""

    holds: bool
    text: str


def read_expectations(path: Path) -> list[Expectation]:
    """The [[ratio]] tables of a TOML file. InputError naming the table that is wrong."""
    try:
        tables = tomllib.loads(path.read_text())["ratio"]
    except OSError as error:
        raise InputError(f"cannot read {path}", why=str(error)) from error
    except (tomllib.TOMLDecodeError, KeyError) as error:
        raise InputError(f"{path} has no [[ratio]] tables", why=repr(error)) from error
    return [_expectation(table, f"{path}, ratio {i + 1}") for i, table in enumerate(tables)]


_KINDS: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}


def _expectation(table: Mapping[str, Any], where: str) -> Expectation:
    known = {f.name: f for f in fields(Expectation)}
    for key, value in table.items():
        if key not in known:
            raise InputError(f"{where}: no field is named {key!r}", fix=nearest(key, known))
        kind = str(known[key].type)
        if isinstance(value, bool) or not isinstance(value, _KINDS[kind]):
            raise InputError(f"{where}: {key} is {value!r}, not a value of type {kind}")
    missing = [n for n, f in known.items() if f.default is MISSING and n not in table]
    if missing:
        raise InputError(f"{where}: {', '.join(missing)} missing")
    return Expectation(**table)


def judge(expectation: Expectation, results: Results) -> Verdict:
    """Compare with the rows of its case; a row without a time counts as missed."""
    e = expectation
    name = f"{e.model} {e.pattern} {100 * e.sparsity:g} %: {e.fast} against {e.slow}"
    rows = {
        row.engine: row
        for row in results.rows
        if row.case == e.case(row.case.threads) and row.engine in (e.fast, e.slow)
    }
    for engine in (e.fast, e.slow):
        row = rows.get(engine)
        if row is None or not row.counts:
            why = f"{row.status} {row.reason}".strip() if row else "not measured"
            return Verdict(False, f"{name}: {engine} has no time ({why})")
    ratio = ratio_between(rows[e.slow], rows[e.fast])
    floor = e.at_least * (1 - e.tolerance)
    figures = f"{ratio.median:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}]"
    text = f"{name}: {figures}, expected ≥ {e.at_least:g}× (tolerance {100 * e.tolerance:g} %)"
    return Verdict(ratio.high >= floor, text)
