"""Writes docs/accuracy.md's tables and pictures from the figures of `accuracy.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sparse_compiler.pruning import parameter_slack

matplotlib.rcParams["svg.hashsalt"] = "sparse-compiler"  # same figures, same bytes

Row = dict[str, Any]
NAMES = {
    "second_order": "SecondOrder",
    "wanda": "Wanda",
    "wood_fisher": "WoodFisher",
    "magnitude": "Magnitude",
    "taylor": "Taylor",
    "movement": "Movement",
    "batch_norm_scale": "BatchNormScale",
    "random": "Random",
}
STYLES = dict(
    zip(NAMES, ("o-", "s-", "^-", "D-", "v--", "x--", "*--", "+:"), strict=True)
)  # readable without colour
COLOURS = {name: f"C{at}" for at, name in enumerate(NAMES)}
MINILM = "movie snippets"
COLUMNS = {
    "movie snippets": "movies",
    "movie snippets, dense head": "movies, dense head",
    "movie snippets, cosine": "cosine",
    "SMS spam": "SMS",
    "SMS spam, dense head": "SMS, dense head",
}


def write_page(folder: Path, results: list[Row]) -> None:
    """Replaces what stands between the page's markers, and the pictures under images/."""
    page = folder / "accuracy.md"
    text = page.read_text()
    for task, table in (("minilm", _minilm), ("digits", _digits)):
        rows = [row for row in results if row["case"]["task"] == task]
        if not rows:
            continue
        block = "\n".join(["", *table(rows), "", ""])
        pattern = rf"(?<=<!-- {task} -->\n).*?(?=<!-- /{task} -->)"
        text = re.sub(pattern, block.replace("\\", r"\\"), text, flags=re.DOTALL)
        _plot(task, rows, folder / "images" / f"accuracy_{task}.svg")
        _plot_patterns(task, rows, folder / "images" / f"accuracy_{task}_patterns.svg")
    page.write_text(text)


def _dense(rows: Iterable[Row]) -> Row:
    return next(row for row in rows if row["case"]["criterion"] == "dense")


def _patterns(rows: Iterable[Row]) -> Iterator[tuple[str, float | None, list[Row]]]:
    """(pattern, sparsity, its rows in the order of NAMES), patterns in the order of the run."""
    order = ["unstructured", "2:4", "4x1", "channel", "neuron", "head"]
    keys = {(row["case"]["pattern"], row["case"]["sparsity"]) for row in rows} - {("", 0.0)}
    for pattern, sparsity in sorted(keys, key=lambda k: (order.index(k[0]), k[1] or 0.5)):
        found = [
            row
            for row in rows
            if (row["case"]["pattern"], row["case"]["sparsity"]) == (pattern, sparsity)
        ]
        yield pattern, sparsity, sorted(found, key=lambda r: [*NAMES].index(r["case"]["criterion"]))


def _label(pattern: str, sparsity: float | None) -> str:
    return pattern if sparsity is None else f"{pattern} {sparsity:.0%}".replace("%", " %")


def _minilm(rows: list[Row]) -> Iterator[str]:
    dense = _dense(rows)
    yield "| pattern | criterion | zeros | " + " | ".join(COLUMNS.values()) + " | density |"
    yield "| --- | --- |" + " --- |" * (len(COLUMNS) + 2)
    yield f"| none | dense | 0 % | {_cells(dense)} |"
    for pattern, sparsity, found in _patterns(rows):
        for row in found:
            name = NAMES[row["case"]["criterion"]]
            zeros = f"{row['direct_sparsity']:.0%}".replace("%", " %")
            yield f"| {_label(pattern, sparsity)} | {name} | {zeros} | {_cells(row)} |"


def _cells(row: Row) -> str:
    accuracy = row["accuracy"]
    density = 1e6 * accuracy[MINILM] / row["nonzeros"]
    return " | ".join([*(f"{accuracy[key]:.3f}" for key in COLUMNS), f"{density:.3f}"])


def _digits(rows: list[Row]) -> Iterator[str]:
    dense = _dense(rows)
    present = {row["case"]["criterion"] for row in rows}
    names = [name for name in NAMES if name in present]
    yield f"Dense: {dense['accuracy']['digits']:.3f}. Each cell: as pruned, then after training."
    yield ""
    yield "| pattern | " + " | ".join(NAMES[name] for name in names) + " |"
    yield "| --- |" + " --- |" * len(names)
    for pattern, sparsity, found in _patterns(rows):
        by_name = {row["case"]["criterion"]: row for row in found}
        cells = [_pair(by_name.get(name)) for name in names]
        yield f"| {_label(pattern, sparsity)} | {' | '.join(cells)} |"
    yield ""
    yield from _slack(rows, dense, names)


def _pair(row: Row | None) -> str:
    if row is None:
        return ""
    return f"{row['accuracy']['digits']:.3f}, {row['tuned']['digits']:.3f}"


def _slack(rows: list[Row], dense: Row, names: list[str]) -> Iterator[str]:
    """Parameter slack of unstructured pruning at a loss of one point."""
    yield "Parameter slack at a loss of 0.01 of accuracy, unstructured:"
    yield ""
    yield "| criterion | as pruned | after training |"
    yield "| --- | --- | --- |"
    start = (dense["nonzeros"], dense["accuracy"]["digits"])
    for name in names:
        own = [
            row
            for row in rows
            if row["case"]["criterion"] == name and row["case"]["pattern"] == "unstructured"
        ]
        if not own:
            continue
        slack = [
            parameter_slack([(row["nonzeros"], row[key]["digits"]) for row in own], start, 0.01)
            for key in ("accuracy", "tuned")
        ]
        yield f"| {NAMES[name]} | {slack[0]:.2f} | {slack[1]:.2f} |"


PANELS = {
    "minilm": (
        ("accuracy", MINILM, "accuracy, movie snippets"),
        ("accuracy", f"{MINILM}, cosine", "cosine to the dense embedding"),
    ),
    "digits": (
        ("accuracy", "digits", "accuracy as pruned"),
        ("tuned", "digits", "after training"),
    ),
}
"""(field, key, title) of the two panels of a task's plots."""


def _plot(task: str, rows: list[Row], path: Path) -> None:
    """Accuracy against sparsity, unstructured, a line for each criterion."""
    dense = _dense(rows)
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (field, key, title) in zip(figure.subplots(1, 2), PANELS[task], strict=True):
        for name, style in STYLES.items():
            points = sorted(
                (row["case"]["sparsity"], row[field][key])
                for row in rows
                if row["case"]["criterion"] == name and row["case"]["pattern"] == "unstructured"
            )
            if points:
                axes.plot(
                    *zip(*points, strict=True),
                    style,
                    color=COLOURS[name],
                    label=NAMES[name],
                    markersize=4,
                )
        axes.set_xlabel("share of zeros in the pruned layers")
        _finish(axes, title, dense["accuracy"][key])
    _save(figure, path)


def _plot_patterns(task: str, rows: list[Row], path: Path) -> None:
    """Accuracy of each pattern that is not unstructured, a mark for each criterion."""
    dense = _dense(rows)
    found = [p for p in _patterns(rows) if p[0] != "unstructured"]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for axes, (field, key, title) in zip(figure.subplots(1, 2), PANELS[task], strict=True):
        for name, style in STYLES.items():
            points = [
                (at, row[field][key])
                for at, (_, _, those) in enumerate(found)
                for row in those
                if row["case"]["criterion"] == name
            ]
            if points:
                mark = style.rstrip("-:")
                axes.plot(
                    *zip(*points, strict=True),
                    mark,
                    color=COLOURS[name],
                    label=NAMES[name],
                    markersize=5,
                )
        labels = [_label(pattern, sparsity) for pattern, sparsity, _ in found]
        axes.set_xticks(range(len(found)), labels, fontsize=8)
        axes.margins(x=0.1)
        _finish(axes, title, dense["accuracy"][key])
    _save(figure, path)


def _finish(axes: Axes, title: str, dense: float) -> None:
    axes.axhline(dense, color="0.6", linewidth=0.8)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, frameon=False, loc="outside right center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
