"""Rows as a rich table, for the terminal: live while it runs, whole at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .results import Row

Column = tuple[str, Callable[[Row], str]]


def number(value: float | None, scale: float = 1.0, digits: int = 3) -> str:
    """`value` × `scale` with that many significant digits and no exponent; "–" for None."""
    if value is None:
        return "–"
    scaled = value * scale
    if scaled == 0:
        return "0"
    if abs(scaled) >= 10 ** (digits - 1):
        return f"{scaled:.0f}"
    return f"{scaled:#.{digits}g}".rstrip(".") if abs(scaled) >= 1e-3 else f"{scaled:.1e}"


def ratio_text(row: Row) -> str:
    """The ratio and its interval, as `1.52 [1.48, 1.55]`."""
    if row.ratio is None:
        return "–"
    if row.baseline == row.engine:
        return "1 (baseline)"
    return f"{row.ratio:.2f} [{row.ratio_low:.2f}, {row.ratio_high:.2f}]"


def roofline_text(row: Row) -> str:
    """Percent of peak arithmetic / percent of peak bandwidth."""
    if row.arithmetic_share is None or row.bandwidth_share is None:
        return "–"
    return f"{100 * row.arithmetic_share:.0f} / {100 * row.bandwidth_share:.0f}"


COLUMNS: tuple[Column, ...] = (
    ("ms", lambda r: number(r.median_ms)),
    ("speed-up [95 %]", ratio_text),
    ("cold compile s", lambda r: number(r.cold_s)),
    ("warm compile s", lambda r: number(r.warm_s)),
    ("peak MB", lambda r: number(r.peak_bytes, 1e-6)),
    ("call µs", lambda r: number(r.overhead_us)),
    ("weights MB", lambda r: number(r.weight_bytes, 1e-6)),
    ("max rel. error", lambda r: "–" if r.max_rel_error is None else f"{r.max_rel_error:.1e}"),
    ("% peak FLOP/s / bytes/s", roofline_text),
)
NARROW = 2  # columns that always show; the rest need a terminal of WIDE characters
WIDE = 118


def render(rows: Sequence[Row], status: str = "", width: int = WIDE) -> RenderableType:
    """One table for each setting, a section for each sparsity; below it who has no time and why.

    width: the terminal's; a narrow one gets the times and ratios only.
    """
    columns = COLUMNS if width >= WIDE else COLUMNS[:NARROW]
    parts: list[RenderableType] = []
    for setting in dict.fromkeys(row.case.setting for row in rows):
        group = [row for row in rows if row.case.setting == setting]
        parts.append(_table(setting, group, columns))
        parts += [Text(line, style="yellow") for line in refusals(group)]
    if status:
        parts.append(Text(status, style="dim"))
    return Group(*parts)


def refusals(rows: Sequence[Row]) -> list[str]:
    """A line for each engine and reason without a time, with the sparsities it holds for."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.status != "ok":
            reason = f": {row.reason}" if row.reason else ""
            found.setdefault(f"{row.engine}: {row.status}{reason}", []).append(
                f"{100 * row.case.sparsity:g} %"
            )
    return [f"{text} ({', '.join(zeros)})" for text, zeros in found.items()]


def _table(setting: str, rows: Sequence[Row], columns: Sequence[Column]) -> Table:
    table = Table(title=setting, title_justify="left", header_style="bold")
    table.add_column("zeros", justify="right", no_wrap=True)
    table.add_column("engine", no_wrap=True)
    for title, _ in columns:
        table.add_column(title, justify="right", min_width=max(map(len, title.split())))
    for before, row in zip([None, *rows], rows, strict=False):
        new_case = before is None or before.case != row.case
        if new_case and before is not None:
            table.add_section()
        zeros = f"{100 * row.case.sparsity:g} %" if new_case else ""
        if row.status == "ok":
            style = "bold" if row.engine.startswith("sparse_compiler") else ""
            table.add_row(zeros, row.engine, *(get(row) for _, get in columns), style=style)
        else:
            table.add_row(zeros, row.engine, row.status, style="dim")
    return table
