"""Kernels and whole generated models on other instruction sets than this machine's own.

The programs compare kernels with plain loops; the models are recorded calls of segments compiled
here for the same vector width, run by the unit compiled there.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

import sparse_compiler as sc
from sparse_compiler.codegen.cpu.build import Toolchain, kernel_folder
from sparse_compiler.codegen.cpu.source import print_segment
from tests.kernels.native import HERE as KERNEL_TESTS
from tests.kernels.native import PROGRAMS, make, object_file, packers
from tests.portable.recording import native_for, record
from tests.portable.targets import TARGETS, X86, Target

pytestmark = [
    pytest.mark.portable,
    pytest.mark.skipif(not X86, reason="records on x86"),
    pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name),
]


# Vectors of 16 floats need no AVX-512: the compiler splits them.
HERE = {4: "-march=x86-64-v2", 16: "-march=x86-64-v3"}
REPLAY = (Path(__file__).with_name("replay.cpp"), kernel_folder() / "pack_decode.cpp")


@pytest.fixture
def ready(target: Target) -> Target:
    if target.missing:
        pytest.skip(target.missing)
    return target


@pytest.mark.parametrize("name", PROGRAMS)
def test_kernels(ready: Target, name: str, tmp_path: Path, kernel_cache: Path) -> None:
    command = ready.command("-O2", "-Wall", "-Wextra", "-Werror")
    sources = [KERNEL_TESTS / PROGRAMS[name], packers(command, kernel_cache)]
    ready.execute(make(command, sources, tmp_path / "kernels"))


class Images(nn.Module):
    """Convolutions of each kind, pooling, resampling, concatenation, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(12)
        self.deep = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.point = nn.Conv2d(12, 20, 1)
        self.grouped = nn.Conv2d(20, 20, 3, padding=1, groups=2)
        self.turned = nn.ConvTranspose2d(20, 8, 2, stride=2)
        self.head = nn.Linear(20, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.silu(self.point(F.hardswish(self.deep(x))))
        low = self.turned(F.max_pool2d(x, 2))
        x = torch.cat([self.grouped(x), F.interpolate(low, x.shape[2:])], 1)[:, :20]
        return self.head(x.mean((2, 3)))


class Tokens(nn.Module):
    """Embedding, attention with a mask, norms, a feed-forward block."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 48)
        self.qkv, self.out = nn.Linear(48, 144), nn.Linear(48, 48)
        self.up, self.down = nn.Linear(48, 96), nn.Linear(96, 48)
        self.first, self.second = nn.LayerNorm(48), nn.LayerNorm(48)

    def forward(self, ids: Tensor, visible: Tensor) -> Tensor:
        x = self.words(ids)
        parts = self.qkv(x).chunk(3, -1)
        q, k, v = (p.unflatten(-1, (4, 12)).transpose(1, 2) for p in parts)
        a = F.scaled_dot_product_attention(q, k, v, visible[:, None, None])
        x = self.first(x + self.out(a.transpose(1, 2).flatten(2)))
        return self.second(x + self.down(F.gelu(self.up(x))))


def image(samples: int) -> tuple[Tensor, ...]:
    return (torch.randn(samples, 3, 20, 18),)


def tokens(samples: int) -> tuple[Tensor, ...]:
    visible = torch.rand(samples, 75) < 0.8
    visible[:, 0] = True
    return torch.randint(0, 50, (samples, 75)), visible


MODELS = {"images": (Images, image), "tokens": (Tokens, tokens)}


@lru_cache(maxsize=8)
def recorded(name: str, width: int, cache: Path) -> tuple[str, tuple[str, ...]]:
    """(the generated unit, files of calls) of a model whose batch is symbolic."""
    torch.manual_seed(0)
    make, inputs = MODELS[name]
    model = make().eval()
    folder = cache / f"{name}{width}"
    folder.mkdir(exist_ok=True)
    batch = Dim("B", min=1, max=8)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight *= torch.rand_like(weight) < 0.4
        example = inputs(3)
        compiled = sc.compile(
            model,
            example,
            dynamic_shapes=tuple({0: batch} for _ in example),
            options={"force_native": True, "cache_dir": cache, "isa": "x86-64-v2"},
        )
        assert compiled.inspect().fallback_calls == 0
        native = native_for(compiled, Toolchain(("g++",), cache, width, HERE[width]))
        order = [value.name for value in compiled.graph.inputs]
        calls = []
        for samples, threads in ((1, 1), (1, 2), (5, 2), (4, 3)):
            given = inputs(samples)
            chosen = [given[order.index(name)] for name in native.inputs]
            calls.append(str(folder / f"{samples}-{threads}"))
            record(native, chosen, [model(*given)], threads, Path(calls[-1]))
    return print_segment(native.segment), tuple(calls)


def replay(target: Target, unit: Path, cache: Path) -> Path:
    """The program that runs a generated unit on recorded calls."""
    command = target.command("-O2")
    sources = [unit, *(object_file(source, command, cache) for source in REPLAY)]
    return make(command, sources, unit.with_suffix(""))


@pytest.mark.parametrize("name", MODELS)
def test_models(ready: Target, name: str, tmp_path: Path, kernel_cache: Path) -> None:
    text, calls = recorded(name, ready.width, kernel_cache)
    source = tmp_path / "unit.cpp"
    source.write_text(text)
    said = ready.execute(replay(ready, source, kernel_cache), *calls)
    assert said.count("relative error") == len(calls)


def test_a_wrong_result_is_found(ready: Target, tmp_path: Path, kernel_cache: Path) -> None:
    x = torch.randn(3, 8)
    with torch.no_grad():
        model = nn.Linear(8, 5).eval()
        compiled = sc.compile(model, (x,), options={"force_native": True})
        wrong = model(x)
        wrong[2, 4] += 0.01
    native = native_for(compiled, Toolchain(("g++",), kernel_cache, ready.width, HERE[ready.width]))
    record(native, [x], [wrong], 1, tmp_path / "call")
    source = tmp_path / "unit.cpp"
    source.write_text(print_segment(native.segment))
    program = replay(ready, source, kernel_cache)
    with pytest.raises(AssertionError, match="relative error"):
        ready.execute(program, str(tmp_path / "call"))
