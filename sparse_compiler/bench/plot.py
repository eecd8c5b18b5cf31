"""Speed-up against sparsity, one line per engine, as PNG and SVG.

Readable without colour: each engine has its own pair of marker and line style.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparse_compiler.errors import UnsupportedError

from .results import Results, Row

_STYLES: dict[str, tuple[str, str, str]] = {
    "sparse_compiler": ("o", "-", "black"),
    "sparse_compiler-jit": ("o", "--", "0.35"),
    "eager": ("s", ":", "tab:brown"),
    "inductor": ("^", "--", "tab:orange"),
    "inductor-frozen": ("v", "-.", "tab:red"),
    "onnxruntime": ("D", "--", "tab:blue"),
    "openvino": ("P", "-.", "tab:purple"),
    "deepsparse": ("X", ":", "tab:green"),
    "torch-csr": ("<", (0, (1, 3)), "tab:pink"),  # type: ignore[dict-item]
    "torch-bsr": (">", (0, (3, 3)), "tab:olive"),  # type: ignore[dict-item]
}


def plot_results(results: Results, folder: Path) -> list[Path]:
    """One figure for each setting that has two sparsities or more; the SVG files written."""
    try:
        import matplotlib
    except ImportError as error:
        raise UnsupportedError("--plot needs matplotlib", fix="pip install matplotlib") from error
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "sparse-compiler"  # same figures, same bytes
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for setting in dict.fromkeys(row.case.setting for row in results.rows):
        rows = [r for r in results.rows if r.case.setting == setting and r.ratio is not None]
        if len({row.case.sparsity for row in rows}) > 1:
            written.append(_figure(setting, rows, folder))
    return written


def file_stem(setting: str) -> str:
    """A file name for a setting: letters, digits and hyphens."""
    kept = [c if c.isalnum() else "-" for c in setting.lower()]
    return "-".join(part for part in "".join(kept).split("-") if part)


def _figure(setting: str, rows: Sequence[Row], folder: Path) -> Path:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for engine in dict.fromkeys(row.engine for row in rows):
        line = sorted((r for r in rows if r.engine == engine), key=lambda r: r.case.sparsity)
        marker, style, colour = _STYLES.get(engine, ("*", "-", "tab:gray"))
        x = [100 * row.case.sparsity for row in line]
        y = [row.ratio or 0.0 for row in line]
        low = [value - (row.ratio_low or value) for value, row in zip(y, line, strict=True)]
        high = [(row.ratio_high or value) - value for value, row in zip(y, line, strict=True)]
        axes.errorbar(
            x,
            y,
            yerr=[[max(0.0, v) for v in low], [max(0.0, v) for v in high]],
            marker=marker,
            linestyle=style,
            color=colour,
            capsize=2,
            label=engine,
        )
    axes.axhline(1.0, color="0.6", linewidth=0.8)
    axes.set_xlabel("zeros among the pruned weights (%)")
    axes.set_ylabel("speed-up over the fastest dense engine")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter("{x:g}×")
    axes.set_title(setting, fontsize=10)
    axes.grid(axis="y", color="0.9")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False, handlelength=4)
    stem = folder / file_stem(setting)
    figure.savefig(stem.with_suffix(".png"), dpi=150)
    figure.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
    plt.close(figure)
    return stem.with_suffix(".svg")
