"""Thousands of damaged and forged model files: each is refused, or loaded and right.

    python tools/mutate_artifacts.py --count 10000 --log docs/mutations.json

Every case is a seed, so a failure can be run again alone (`--first SEED --count 1`). Cases run in
processes of fifty, so that a crash or a hang is noticed and named. The log is kept as it goes;
started again with the same log, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.errors import ArtifactError, InputError
from sparse_compiler.runtime.artifact import write_members

CASES, SECONDS = 50, 900
Members = dict[str, bytes]


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
        return self.rest(self.norm(x + y))[0]


def originals(folder: Path) -> list[tuple[Path, torch.Tensor]]:
    """The files that are mutated, with an input for each."""
    torch.manual_seed(0)
    images = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, stride=2, groups=2), nn.Flatten(1), nn.Linear(72, 5),
    )  # fmt: skip
    batch = {0: torch.export.Dim("batch", min=1, max=8)}
    chosen = (
        ("images", images, torch.randn(2, 3, 16, 16), None),
        ("tokens", Attended(), torch.randint(0, 20, (2, 6)), None),
        ("layers", nn.Sequential(nn.Linear(24, 24), nn.GELU(), nn.Linear(24, 3)),
         torch.randn(4, 24), (batch,)),
    )  # fmt: skip
    found = []
    for name, model, x, shapes in chosen:
        model = sc.sparsify(model.eval(), sc.Magnitude(0.8, min_weights=64))
        path = folder / f"{name}.scz"
        sc.export(model.requires_grad_(False), (x,), path, dynamic_shapes=shapes)
        found.append((path, x))
    return found


def flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 4, 64))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def splice(data: bytes, rng: random.Random) -> bytes:
    """A piece removed, repeated or replaced."""
    at, end = sorted(rng.randrange(len(data)) for _ in range(2))
    piece = rng.choice((b"", data[at:end] * 2, rng.randbytes(min(end - at, 4096))))
    return data[:at] + piece + data[end:]


def zipped(members: Members, **options: Any) -> bytes:
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", **options) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return memory.getvalue()


def odd_members(members: Members, rng: random.Random) -> bytes:
    """Members removed, renamed, doubled, compressed or out of the folder; hashes as they were."""
    name = rng.choice(sorted(members))
    kind = rng.randrange(6)
    if kind == 0:
        del members[name]
    elif kind == 1:
        members[rng.choice(("../../etc/x", "/abs", "sources/../x", "a\x00b", "\\x"))] = b"import os"
    elif kind == 2:
        members[name + rng.choice("x./ ")] = members.pop(name)
    elif kind == 3:
        members["sources/bomb.cpp"] = bytes(1 << 22)
        return zipped(members, compression=zipfile.ZIP_DEFLATED)
    elif kind == 4:
        other = rng.choice(sorted(members))
        members[name], members[other] = members[other], members[name]
    else:
        return zipped(members) + zipped(members)
    return zipped(members)


def number(rng: random.Random) -> int:
    return rng.choice((0, 1, 2, 3, 7, 16, 255, 65536, -1, 2**31, 2**31 - 1, 2**63, 10**18))


def odd_text(text: str, rng: random.Random) -> str:
    """One number, word or line of the graph changed."""
    lines = text.split("\n")
    at = rng.randrange(len(lines) - 1)
    kind = rng.randrange(6)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(rng.randrange(len(lines)), lines[at])
    elif kind == 2:
        other = rng.randrange(len(lines) - 1)
        lines[at], lines[other] = lines[other], lines[at]
    else:
        words = _pieces(lines[at])
        places = [i for i, word in enumerate(words) if word.isalnum()]
        if places:
            place = rng.choice(places)
            same = [w for w in _pieces(text) if w.isdigit() == words[place].isdigit()]
            odd = str(number(rng)) if words[place].isdigit() else rng.choice(("f64", "none", "s0"))
            words[place] = rng.choice((odd, *rng.sample(same, min(3, len(same)))))
        lines[at] = "".join(words)
    return "\n".join(lines)


def _pieces(text: str) -> list[str]:
    """Words and what stands between them."""
    found, word = [], ""
    for character in text:
        if character.isalnum() or character == "_":
            word += character
            continue
        found += [word, character] if word else [character]
        word = ""
    return [*found, word] if word else found


def odd_value(value: Any, rng: random.Random) -> Any:
    """A JSON value with one of its parts changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        changed = {**value, key: odd_value(value[key], rng)}
        if rng.random() < 0.1:
            del changed[key]
        return changed
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        return [*value[:at], odd_value(value[at], rng), *value[at + (rng.random() < 0.9) :]]
    return rng.choice((None, True, "", "f64", [], {}, [0], 0.5, "x" * 1000, number(rng)))


def forged(members: Members, rng: random.Random) -> tuple[dict[str, Any], Members]:
    """Another graph, call or weights, with the right hash."""
    manifest = json.loads(members.pop("manifest.json"))
    manifest.pop("members")
    kind = rng.randrange(5)
    if kind < 2:
        members["model.ir"] = odd_text(members["model.ir"].decode(), rng).encode()
    elif kind == 2:
        manifest = odd_value(manifest, rng)
    else:
        weights = members["weights.safetensors"]
        length = int.from_bytes(weights[:8], "little")
        header, body = weights[8 : 8 + length], weights[8 + length :]
        if kind == 3:
            header = json.dumps(odd_value(json.loads(header), rng)).encode()
        else:
            body = flip(body, rng) if rng.random() < 0.7 else splice(body, rng)
        members["weights.safetensors"] = len(header).to_bytes(8, "little") + header + body
    return manifest if isinstance(manifest, dict) else {"format": manifest}, members


def mutate(source: Path, target: Path, rng: random.Random) -> str:
    """Writes a mutated copy; returns what was done."""
    raw: tuple[Callable[[bytes, random.Random], bytes], ...] = (flip, cut, splice)
    kind = rng.choice((*raw, odd_members, forged, forged, forged))
    if kind in raw:
        target.write_bytes(kind(source.read_bytes(), rng))
        return kind.__name__
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    if kind is odd_members:
        target.write_bytes(odd_members(members, rng))
    else:
        manifest, members = forged(members, rng)
        write_members(target, manifest, members)
    return kind.__name__


def outcome(path: Path, x: torch.Tensor) -> str:
    """ "refused", "loaded and right", or what is wrong."""
    try:
        loaded = sc.load(path)
    except ArtifactError as error:
        return "refused" if str(error) else "refused without a reason"
    try:
        found = loaded(x)
    except InputError:
        return "loaded, takes other inputs"
    plain = loaded._eager(x)
    ours, theirs = (torch.utils._pytree.tree_leaves(result) for result in (found, plain))
    for a, b in zip(ours, theirs, strict=True):
        if isinstance(b, torch.Tensor) and not _agree(a, b):
            return "loaded and wrong"
    return "loaded and right"


def _agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    a, b = a.double(), b.double()
    finite = a.isfinite() & b.isfinite()
    scale = b[finite].abs().max().item() if finite.any() else 0.0
    if scale > 1e30:  # fp32 sums of forged weights overflow here or there
        return True
    return bool(((a - b)[finite].abs() <= 1e-3 * max(scale, 1e-30)).all())


def run(first: int, count: int) -> None:
    """Prints a line for each case before and after it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = originals(folder)
        before = sorted(folder.iterdir())
        for seed in range(first, first + count):
            rng = random.Random(seed)
            source, x = files[seed % len(files)]
            target = folder / "mutated.scz"
            kind = mutate(source, target, rng)
            print(f"{seed} {kind}", flush=True)
            result = outcome(target, x)
            target.unlink()
            if sorted(folder.iterdir()) != before:
                result = "wrote a file"
            print(f"{seed} {kind}: {result}", flush=True)


GOOD = ("refused", "loaded and right", "loaded, takes other inputs")


def batch(first: int, count: int) -> tuple[Counter[str], list[str]]:
    """Outcomes of some cases in a process of their own, and the failures among them."""
    command = [sys.executable, __file__, "--run", "--first", str(first), "--count", str(count)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        out, end = done.stdout, f"ended with {done.returncode}: {done.stderr[-500:]}"
        crashed = done.returncode != 0
    except subprocess.TimeoutExpired as error:
        out = (error.stdout or b"").decode()
        end, crashed = f"no end after {SECONDS} s", True
    lines = [line.split(": ", 1) for line in out.splitlines() if ": " in line]
    outcomes = Counter(f"{case.split(' ')[1]}: {result}" for case, result in lines)
    failures = [f"{case}: {result}" for case, result in lines if result not in GOOD]
    if crashed:
        failures.append(f"after {out.splitlines()[-1:]}: {end}")
    return outcomes, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--run", action="store_true", help="in this process")
    given = parser.parse_args()
    if given.run:
        run(given.first, given.count)
        return 0
    state: dict[str, Any] = {"done": given.first, "outcomes": {}, "failures": []}
    if given.log and given.log.exists():
        state = json.loads(given.log.read_text())
    while state["done"] < given.first + given.count:
        count = min(CASES, given.first + given.count - state["done"])
        outcomes, failures = batch(state["done"], count)
        state["done"] += count
        state["outcomes"] = dict(sorted((Counter(state["outcomes"]) + outcomes).items()))
        state["failures"] += failures
        print(f"{state['done']} cases, {len(state['failures'])} failures", flush=True)
        if given.log:
            given.log.write_text(json.dumps(state, indent=1) + "\n")
    print(json.dumps(state, indent=1))
    return 1 if state["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
