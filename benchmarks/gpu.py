"""Dense against sparse on a GPU: layers of BERT-base and ResNet-50, and whole models.

    python benchmarks/gpu.py --json build/gpu.json --write docs/gpu_figures.md    # needs a GPU
    python benchmarks/gpu.py --check                                              # needs none

Every engine's result is compared with fp32 on the same weights before its time counts, and every
time with the least that the hardware needs: what is wrong or impossible is said, and exits with 1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from gpu_cases import DTYPES, TOLERANCES, Case, all_cases, build, half
from gpu_check import check
from gpu_engines import (
    ENGINES,
    Call,
    NotApplicableError,
    Setup,
    median,
    relative_error,
    time_all,
)
from rich.console import Console
from torch import nn

from sparse_compiler.errors import SparseCompilerError, first_line
from sparse_compiler.files import replacing
from sparse_compiler.formats.gpu_arch import Arch, arch_of_device, find_arch

EXIT_WRONG, EXIT_NO_GPU = 1, 2


@dataclass
class Row:
    """What was seen of a case. ms, errors: by engine. refused: why an engine did not run."""

    case: Case
    ms: dict[str, float]
    errors: dict[str, float]
    refused: dict[str, str]
    wrong: list[str]


@torch.no_grad()
def measure(case: Case, arch: Arch, rounds: int) -> Row:
    """One row of the table: errors first, then times of the engines that are right."""
    row, dtype = Row(case, {}, {}, {}, []), DTYPES[case.dtype]
    module, inputs = build(case, "cuda")
    module = module.to(dtype)
    rounded = tuple(half(x, dtype) for x in inputs)
    # The reference is of fp32 itself, whatever is compared.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        wanted = module.float()(*(half(x, torch.float32) for x in rounded))
    setup = Setup(module.to(dtype), rounded, arch, case.block, case.pattern == "2:4")
    calls: dict[str, Call] = {}
    for name, engine in ENGINES.items():
        try:
            call = engine(setup)
            row.errors[name] = relative_error(call(), wanted)
        except (NotApplicableError, SparseCompilerError, RuntimeError, *triton_errors()) as error:
            row.refused[name] = first_line(error)
            continue
        if row.errors[name] <= TOLERANCES[case.dtype]:
            calls[name] = call
        else:
            row.wrong.append(f"{name} is off by {row.errors[name]:.1e}")
    row.ms = {name: median(samples) for name, samples in time_all(calls, rounds).items()}
    least = least_ms(module, arch)
    row.wrong += [
        f"{name} took {ms:.4f} ms, less than reading the weights needs ({least:.4f} ms)"
        for name, ms in row.ms.items()
        if ms < least
    ]
    if refused := row.refused.get("sparse_compiler"):
        row.wrong.append(f"sparse_compiler refused: {refused}")
    return row


def triton_errors() -> tuple[type[Exception], ...]:
    """What triton raises for a kernel that it or the GPU refuses; no RuntimeError."""
    try:
        import triton
    except ImportError:
        return ()
    return (triton.TritonError,)


def least_ms(module: nn.Module, arch: Arch) -> float:
    """Reading each non-zero of the weights once from memory, without any index."""
    weights = [p for p in module.parameters() if p.ndim >= 2]
    size = sum(int((p != 0).sum()) * p.element_size() for p in weights)
    embedded = sum(
        int((m.weight != 0).sum()) * m.weight.element_size()
        for m in module.modules()
        if isinstance(m, nn.Embedding)  # of which a call reads few rows
    )
    return 1e3 * (size - embedded) / arch.memory


def table(rows: list[Row]) -> Iterator[str]:
    """The table in markdown: milliseconds, and ours against the fastest dense engine."""
    yield "| case | " + " | ".join(ENGINES) + " | ours against the fastest dense |"
    yield "| --- |" + " --: |" * (len(ENGINES) + 1)
    for row in rows:
        cells = [f"{row.ms[name]:.4f}" if name in row.ms else "–" for name in ENGINES]
        dense = [row.ms[name] for name in ("eager", "inductor") if name in row.ms]
        mine = row.ms.get("sparse_compiler")
        ratio = f"{min(dense) / mine:.2f}" if dense and mine else "–"
        yield f"| {row.case.title} | " + " | ".join(cells) + f" | {ratio} |"
    notes = dict.fromkeys(f"{e}: {why}" for row in rows for e, why in row.refused.items())
    yield ""
    yield from (f"- {note}" for note in notes)


def main(
    dtype: Annotated[str, typer.Option(help="fp16, bf16 or fp32.")] = "fp16",
    rounds: Annotated[int, typer.Option(min=5)] = 50,
    json_: Annotated[Path | None, typer.Option("--json", help="All figures.")] = None,
    write: Annotated[Path | None, typer.Option(help="The table as markdown.")] = None,
    only: Annotated[str, typer.Option(help="Cases whose title holds this text.")] = "",
    check_: Annotated[bool, typer.Option("--check", help="Run what needs no GPU.")] = False,
    target: Annotated[str, typer.Option(help="With --check: what to compile for.")] = "cuda:90",
) -> None:
    """Measure on the GPU at hand; with --check, check what can be checked without one."""
    console = Console(soft_wrap=True)
    if dtype not in DTYPES:
        console.print(f"no dtype is named {dtype}: one of {', '.join(DTYPES)}", style="red")
        raise typer.Exit(EXIT_NO_GPU)
    if check_:
        try:
            arch = find_arch(target)
        except SparseCompilerError as error:
            console.print(str(error), style="red", markup=False)
            raise typer.Exit(EXIT_NO_GPU) from error
        finish(check(arch, dtype, console), console)
    if not torch.cuda.is_available():
        console.print("there is no GPU that torch can use: run this on one, or give --check")
        raise typer.Exit(EXIT_NO_GPU)
    arch = arch_of_device(
        *torch.cuda.get_device_capability(),
        gcn=getattr(torch.cuda.get_device_properties(0), "gcnArchName", "")
        if torch.version.hip
        else "",
    )
    rows: list[Row] = []
    for case in all_cases(dtype, small=False):
        if only in case.title:
            rows.append(measure(case, arch, rounds))
            console.print(f"{case.title}: {rows[-1].ms} {rows[-1].wrong or ''}")
            save(rows, json_, write, arch)
    finish([f"{row.case.title}: {text}" for row in rows for text in row.wrong], console)


def save(rows: list[Row], json_: Path | None, write: Path | None, arch: Arch) -> None:
    """Both files after every case, so that an interrupted run keeps what it has."""
    if json_ is not None:
        with replacing(json_) as file:
            file.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    if write is not None:
        head = f"# Measured on {torch.cuda.get_device_name()} ({arch.label})\n\nMilliseconds.\n\n"
        with replacing(write) as file:
            file.write_text(head + "\n".join(table(rows)) + "\n")


def finish(wrong: list[str], console: Console) -> None:
    """Says what is wrong and leaves with the exit code."""
    for text in wrong:
        console.print(f"WRONG  {text}", style="red")
    console.print("all results are right" if not wrong else f"{len(wrong)} are wrong")
    raise typer.Exit(EXIT_WRONG if wrong else 0)


if __name__ == "__main__":
    typer.run(main)
