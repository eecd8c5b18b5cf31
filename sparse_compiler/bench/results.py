"""What a run leaves behind: rows and their surroundings, as dataclasses and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sparse_compiler.errors import InputError
from sparse_compiler.files import replacing

from .case import Case
from .isa import NATIVE
from .measure import clean_rounds
from .stats import Ratio, paired_ratio

SCHEMA = 1


@dataclass(frozen=True)
class Row:
    """One engine on one case.

    status: "ok", or why there is no figure: "missing", "unsupported", "wrong", "failed",
    "crashed", "timeout", "interrupted"; reason says more. Times in ms and s, memory in bytes,
    ratio = baseline's time ÷ this one's (median of the rounds' ratios) with its 95 % interval.
    Rounds in which something else took the cores are left out while five clean ones are there.
    """

    case: Case
    engine: str
    status: str = "ok"
    reason: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    dense: bool = False
    median_ms: float | None = None
    low_ms: float | None = None
    high_ms: float | None = None
    baseline: str = ""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    cold_s: float | None = None
    warm_s: float | None = None
    peak_bytes: int | None = None
    overhead_us: float | None = None
    weight_bytes: int | None = None
    max_rel_error: float | None = None
    arithmetic_share: float | None = None
    bandwidth_share: float | None = None
    idle_share: float | None = None
    disturbed_share: float | None = None
    samples_ns: tuple[int, ...] = ()
    disturbed: tuple[bool, ...] = ()

    @property
    def counts(self) -> bool:
        """Whether the row has a time that may be compared."""
        return self.status == "ok" and self.median_ms is not None


@dataclass(frozen=True)
class Results:
    """A whole run. partial: it was interrupted, and what is here is what was done by then."""

    rows: tuple[Row, ...]
    machine: dict[str, Any]
    command: str
    method: dict[str, Any]
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    started: str = ""
    partial: bool = False

    @property
    def isa(self) -> str:
        """What every engine was held to."""
        held: str = self.method.get("isa", NATIVE)
        return held

    def of_case(self, case: Case) -> list[Row]:
        """The rows of one case, in the order of the engines."""
        return [row for row in self.rows if row.case == case]

    def case_list(self) -> list[Case]:
        """Every case once, in the order of their first row."""
        return list(dict.fromkeys(row.case for row in self.rows))

    def finished(self, case: Case, engines: Iterable[str]) -> bool:
        """Whether each of these engines has its row for the case, and none was interrupted."""
        states = {row.engine: row.status for row in self.of_case(case)}
        return set(states) == set(engines) and "interrupted" not in states.values()

    def keep(self, cases: Sequence[Case], engines: Sequence[str]) -> Results:
        """Only those of the cases that are finished with these engines."""
        kept = {c for c in cases if self.finished(c, engines)}
        return replace(
            self,
            rows=tuple(row for row in self.rows if row.case in kept),
            cases={c.key: self.cases[c.key] for c in kept},
        )

    def in_order(self, cases: Sequence[Case]) -> Results:
        """The rows in the order of the cases."""
        place = {case: at for at, case in enumerate(cases)}
        return replace(self, rows=tuple(sorted(self.rows, key=lambda row: place[row.case])))

    def save(self, path: Path) -> None:
        """Write JSON, beside the target and then renamed."""
        with replacing(path) as beside:
            beside.write_text(self.text() + "\n")

    def text(self) -> str:
        """All of it as JSON."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote; InputError where it is something else."""
        try:
            data = json.loads(path.read_text())
            if data.pop("schema") != SCHEMA:
                raise InputError(f"{path}: results of another version of this tool")
            rows = tuple(_row(r) for r in data.pop("rows"))
            return cls(rows=rows, **data)
        except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"{path} is no results file", why=repr(error)) from error


def _row(data: dict[str, Any]) -> Row:
    case, samples = Case(**data.pop("case")), tuple(data.pop("samples_ns"))
    disturbed = tuple(data.pop("disturbed"))
    return Row(case=case, samples_ns=samples, disturbed=disturbed, **data)


def check_same_machine(before: Results, now: Results) -> None:
    """InputError where results cannot be continued: other processor, versions, commit or ISA."""
    keys = ("cpu", "usable_cores", "versions", "commit")
    pairs = {key: (before.machine[key], now.machine[key]) for key in keys}
    pairs["isa"] = (before.isa, now.isa)
    for key, (then, today) in pairs.items():
        if then != today:
            raise InputError(
                f"the results to resume were measured with another {key}",
                why=f"{then} then, {today} now",
                fix="start anew: remove the file, or leave --resume out",
            )


def ratio_between(baseline: Row, other: Row) -> Ratio:
    """baseline's time ÷ other's, round by round, over rounds in which neither was disturbed."""
    rounds = clean_rounds(baseline.disturbed, other.disturbed)
    return paired_ratio(
        [baseline.samples_ns[i] for i in rounds], [other.samples_ns[i] for i in rounds]
    )


def interrupted(rows: Iterable[Row]) -> list[Row]:
    """The rows of a case that was under way, marked; those without a time say so."""
    return [
        row if row.counts or row.status != "ok" else replace(row, status="interrupted")
        for row in rows
    ]
