"""Draws the picture of the README from figures that the demo measured.

    python examples/demo.py --json docs/images/demo.json
    python benchmarks/plot_readme.py docs/images/demo.json docs/images/demo.svg

Bars in one colour with their numbers written beside them: readable in print and without colour.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import matplotlib
import typer
from matplotlib.figure import Figure

matplotlib.rcParams["svg.hashsalt"] = "sparse-compiler"  # same figures, same bytes


def main(
    figures: Annotated[Path, typer.Argument(help="JSON written by the demo.")],
    picture: Annotated[Path, typer.Argument(help="Where to write; .svg or .png.")],
) -> None:
    """One bar per engine: milliseconds, and the speed over frozen Inductor."""
    found: dict[str, Any] = json.loads(figures.read_text())
    rows = [row for row in found["engines"] if "ms" in row][::-1]
    figure = Figure(figsize=(7.5, 2.8), layout="constrained")
    axes = figure.subplots()
    ours = [row["engine"].startswith("ours") for row in rows]
    axes.barh(
        [row["engine"] for row in rows],
        [row["ms"] for row in rows],
        color=["0.15" if own else "0.8" for own in ours],
        edgecolor="0.15",
    )
    for i, row in enumerate(rows):
        axes.text(
            row["ms"], i, f"  {row['ms']:.1f} ms, {row['ratio']:.2f}×", va="center", fontsize=9
        )
    axes.set_xlim(0, 1.25 * max(row["ms"] for row in rows))
    axes.set_xlabel("ms for one sentence (median); speed over frozen Inductor", fontsize=9)
    machine = found["machine"]
    axes.set_title(
        f"all-MiniLM-L6-v2, {found['sparsity']:.0%} zeros, 128 tokens, fp32\n"
        f"{machine['cpu']}, {found['threads']} threads, torch {machine['versions']['torch']}",
        fontsize=10,
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None, dpi=150)


if __name__ == "__main__":
    typer.run(main)
