"""Thousands of damaged and forged model files: each is refused, or loaded and right.

    python tools/mutate_artifacts.py --count 10000 --log docs/mutations.json

Every case is a seed, so a failure can be run again alone (`--first SEED --count 1 --jobs 1`). Cases
run in processes of some hundred with a clock over each case: a crash or a hang is noticed, named,
and the rest go on. The log is kept as it goes; started again with the same log, it goes on.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mutations import mutate
from torch import nn

import sparse_compiler as sc
from sparse_compiler.errors import ArtifactError, InputError

CASES, SECONDS = 100, 300
"""Cases of a process, and the longest that one may take: on a busy machine, compiling included."""
GOOD = ("refused", "loaded and right", "loaded, takes other inputs")


class Attended(nn.Module):
    """Tokens, attention, norms and a recurrent layer, which torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.query, self.norm = nn.Linear(16, 48), nn.LayerNorm(16)
        self.rest = nn.GRU(16, 8, batch_first=True)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.table(ids)
        q, k, v = self.query(x).view(*ids.shape, 3, 2, 8).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        result: torch.Tensor = self.rest(self.norm(x + y))[0]
        return result


@dataclass(frozen=True)
class Original:
    """A model whose file is mutated, and how it is pruned, exported and loaded."""

    model: nn.Module
    x: torch.Tensor
    recipe: sc.Magnitude
    dynamic: bool = False
    shrunk: bool = False
    weights: str = "fp32"
    format: str | None = None

    def export(self, path: Path) -> None:
        """Writes the file."""
        model = sc.sparsify(self.model.eval(), self.recipe).requires_grad_(False)
        if self.shrunk:
            model = sc.shrink(model, (self.x,))
        batch = {0: torch.export.Dim("batch", min=1, max=8)}
        shapes = (batch,) if self.dynamic else None
        sc.export(model, (self.x,), path, dynamic_shapes=shapes, weights=self.weights)

    @property
    def tolerance(self) -> float:
        """Largest error in units of the largest result."""
        return 1e-3 if self.weights == "fp32" else 2e-2


def originals() -> dict[str, Original]:
    """Images, tokens, sizes that vary, every storage format, half precision, a shrunk model."""
    torch.manual_seed(0)
    images = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, stride=2, groups=2), nn.Flatten(1), nn.Linear(72, 5),
    )  # fmt: skip
    channels = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(16, 4),
    )  # fmt: skip

    def layers() -> nn.Module:
        return nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 32))

    some, rows = sc.Magnitude(0.8, min_weights=64), torch.randn(4, 32)
    blocks = sc.Magnitude(0.8, "4x1", min_weights=64)
    two_of_four = sc.Magnitude(pattern="2:4", min_weights=64)
    rows_off = sc.Magnitude(0.5, "channel", min_weights=16)
    return {
        "images": Original(images, torch.randn(2, 3, 16, 16), some),
        "tokens": Original(Attended(), torch.randint(0, 20, (2, 6)), some),
        "dynamic": Original(layers(), rows, some, dynamic=True, format="csr"),
        "blocks": Original(layers(), rows, blocks, format="block_4x1"),
        "nm": Original(layers(), rows, two_of_four, format="nm_2_4"),
        "bitmap": Original(layers(), rows[:1], some, format="bitmap"),
        "half": Original(layers(), rows, some, weights="fp16", format="csr"),
        "shrunk": Original(
            channels, torch.randn(2, 3, 12, 12), rows_off, dynamic=True, shrunk=True
        ),
    }


def outcome(path: Path, original: Original) -> str:
    """ "refused", "loaded and right", or what is wrong."""
    options = {"format": original.format, "calibrate": False}
    try:
        loaded = sc.load(path, options=options)
    except ArtifactError as error:
        return "refused" if str(error) else "refused without a reason"
    try:
        found = loaded(original.x)
    except InputError:
        return "loaded, takes other inputs"
    plain = loaded.to_module()(original.x)
    ours, theirs = (torch.utils._pytree.tree_leaves(result) for result in (found, plain))
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(b, torch.Tensor) and not _agree(a, b, original.tolerance):
            return "loaded and wrong"
    return "loaded and right"


def _agree(a: torch.Tensor, b: torch.Tensor, tolerance: float) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = a.double(), b.double()
    finite = a.isfinite() & b.isfinite()
    scale = b[finite].abs().max().item() if finite.any() else 0.0
    if scale > 1e30:  # fp32 sums of forged weights overflow here or there
        return True
    return bool(((a - b)[finite].abs() <= tolerance * max(scale, 1e-30)).all())


def run(folder: Path, seeds: Sequence[int]) -> None:
    """Prints a line for each case before and after it. folder: of the originals' files."""
    known = sorted(originals().items())
    with tempfile.TemporaryDirectory() as name:
        work = Path(name, "deep", "work")
        work.mkdir(parents=True)
        os.chdir(work)  # what a file writes by a relative name appears here
        for seed in seeds:
            rng = random.Random(seed)
            kept, original = known[seed % len(known)]
            print(f"{seed} begins", flush=True)
            kind = mutate(folder / f"{kept}.scz", work / "mutated.scz", rng)
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            result = outcome(work / "mutated.scz", original)
            faulthandler.cancel_dump_traceback_later()
            (work / "mutated.scz").unlink()
            if any(path.is_file() for path in Path(name).rglob("*")) or _intruded():
                result = "wrote a file"
            print(f"{seed} {kind} of {kept}: {result}", flush=True)


def _intruded() -> bool:
    """True if the file was written that a forged member names by an absolute path."""
    return Path("/tmp/intruded-abs").exists()


def outcomes(folder: Path, seeds: Sequence[int]) -> Iterator[tuple[str, str]]:
    """(seed and kind, outcome) of each case, from processes of their own."""
    rest = list(seeds)
    while rest:
        command = [sys.executable, __file__, "--run", str(folder)]
        command += ["--first", str(rest[0]), "--count", str(len(rest))]
        done = subprocess.run(command, capture_output=True, text=True)
        lines = done.stdout.splitlines()
        yield from (
            (case, result) for case, _, result in (x.partition(": ") for x in lines) if result
        )
        if done.returncode == 0:
            return
        case = next((x.split()[0] for x in reversed(lines) if x.endswith("begins")), str(rest[0]))
        yield f"{case} ?", f"ended with {done.returncode}: {done.stderr[-800:]}"
        rest = [seed for seed in rest if seed > int(case)]


def count_all(given: argparse.Namespace, state: dict[str, Any], folder: Path) -> None:
    """Runs the cases that are not yet in the log, and keeps it."""
    last = given.first + given.count
    batches = [range(at, min(at + CASES, last)) for at in range(state["done"], last, CASES)]
    with ThreadPoolExecutor(given.jobs) as pool:
        for batch, found in zip(
            batches, pool.map(lambda seeds: list(outcomes(folder, seeds)), batches), strict=True
        ):
            kinds = Counter(
                f"{case.split()[1]}: {result}" for case, result in found if result in GOOD
            )
            state["done"] = batch.stop
            state["outcomes"] = dict(sorted((Counter(state["outcomes"]) + kinds).items()))
            state["failures"] += [f"{c}: {result}" for c, result in found if result not in GOOD]
            print(f"{state['done']} cases, {len(state['failures'])} failures", flush=True)
            if given.log:
                given.log.write_text(json.dumps(state, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--log", type=Path)
    parser.add_argument("--run", type=Path, help="in this process, on the files of this folder")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.run:
        torch.set_num_threads(1)
        run(given.run, range(given.first, given.first + given.count))
        return 0
    state: dict[str, Any] = {"done": given.first, "outcomes": {}, "failures": []}
    if given.log and given.log.exists():
        state = json.loads(given.log.read_text())
    with tempfile.TemporaryDirectory() as name:
        for kept, original in originals().items():
            original.export(Path(name, f"{kept}.scz"))
        count_all(given, state, Path(name))
    print(json.dumps(state, indent=1))
    return 1 if state["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
