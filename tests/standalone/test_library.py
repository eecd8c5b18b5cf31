"""Standalone libraries end to end: results, sizes, threads, files that are damaged, refusals."""

from __future__ import annotations

import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

import sparse_compiler as sc
from sparse_compiler.cli import app
from sparse_compiler.errors import ArtifactError, OptionError, UnsupportedError
from tests.standalone.library import (
    BAD_CALL,
    BAD_FILE,
    BAD_INDEX,
    BAD_SIZE,
    Library,
    LibraryError,
)

SYSTEM = pytest.mark.system
ALLOWED = {
    "linux-vdso.so.1", "libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "libgomp.so.1",
}  # fmt: skip


class Mixed(nn.Module):
    """Ids and a table, a position of each token, attention, several results of several dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 48), nn.Embedding(64, 48)
        self.norm, self.qkv = nn.LayerNorm(48), nn.Linear(48, 144)
        self.up, self.down = nn.Linear(48, 96), nn.Linear(96, 48)
        self.register_buffer("range", torch.arange(64)[None])

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        x = self.norm(self.words(ids) + self.places(self.range[:, : ids.shape[1]]))
        q, k, v = (p.unflatten(-1, (4, 12)).transpose(1, 2) for p in self.qkv(x).chunk(3, -1))
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        pooled = self.down(F.gelu(self.up(x.mean(1))))
        return {"hidden": self.down(F.gelu(self.up(x + a))), "pooled": pooled, "next": ids + 1}


def pruned(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight *= torch.rand_like(weight) < 0.3
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Library]:
    model = pruned(Mixed())
    sizes = ({0: Dim("B", min=1, max=64), 1: Dim("S", min=2, max=64)},)
    folder = tmp_path_factory.mktemp("library") / "mixed"
    example = (torch.randint(0, 50, (3, 10)),)
    sc.export(model, example, folder, dynamic_shapes=sizes, library=True)
    return model, Library(folder)


def ids_of(batch: int, tokens: int) -> Tensor:
    return torch.randint(0, 50, (batch, tokens))


def compare(got: list[Tensor], want: dict[str, Tensor]) -> None:
    for a, b in zip(got, want.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@SYSTEM
def test_results_at_any_sizes_and_threads(mixed) -> None:
    model, library = mixed
    assert [d.name for d in library.inputs] == [b"ids"]
    assert [d.name for d in library.outputs] == [b"hidden", b"pooled", b"next"]
    described = [(d.low, d.high) for d in library.inputs[0].dims[:2]]
    assert described == [(1, 64), (2, 64)]
    for threads in (1, 2, 3):
        handle = library.open(threads)
        for batch, tokens in ((1, 2), (1, 63), (3, 10), (5, 33), (64, 64)):
            ids = ids_of(batch, tokens)
            handle.set_sizes([ids.shape])
            assert handle.shape(0) == (batch, tokens, 48)
            compare(handle.run([ids]), model(ids))
        handle.close()


@SYSTEM
def test_a_dense_layer_for_few_and_for_many_columns(tmp_path: Path) -> None:
    """Packed in both forms, neither of which refers to memory of the process that exported."""
    torch.manual_seed(0)
    layers = nn.Linear(512, 768), nn.ReLU(), nn.Linear(768, 512)
    model = nn.Sequential(*layers).eval().requires_grad_(False)
    sizes = ({0: Dim("B", min=1, max=256)},)
    sc.export(model, (torch.randn(64, 512),), tmp_path, dynamic_shapes=sizes, library=True)
    handle = Library(tmp_path).open(2)
    for batch in (1, 3, 64, 200):
        x = torch.randn(batch, 512)
        handle.set_sizes([x.shape])
        torch.testing.assert_close(handle.run([x])[0], model(x), rtol=1e-5, atol=1e-5)
    handle.close()


@SYSTEM
def test_handles_run_side_by_side_and_one_in_turns(mixed) -> None:
    model, library = mixed
    handles = [library.open(1) for _ in range(2)]
    for i, handle in enumerate(handles):
        handle.set_sizes([(2 + i, 20)])

    def work(i: int) -> None:
        ids = ids_of(2 + i % 2, 20)
        compare(handles[i % 2].run([ids]), model(ids))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(80)))


@SYSTEM
def test_wrong_calls_are_errors(mixed) -> None:
    model, library = mixed
    handle = library.open()
    with pytest.raises(LibraryError, match="sc_set_sizes") as found:
        handle.run([ids_of(1, 8)])
    assert found.value.status == BAD_CALL and handle.shape(0) is None
    for shape, why in (((65, 8), "65"), ((1, 1), "1"), ((0, 8), "0"), ((1, 2**60), "1152")):
        with pytest.raises(LibraryError, match=why) as found:
            handle.set_sizes([shape])
        assert found.value.status == BAD_SIZE
    with pytest.raises(LibraryError):  # the sizes of a failure are none
        handle.run([ids_of(1, 8)])
    handle.set_sizes([(1, 8)])
    for bad in (50, -1, 2**40):
        ids = ids_of(1, 8)
        ids[0, 3] = bad
        with pytest.raises(LibraryError, match="index number 3") as found:
            handle.run([ids])
        assert found.value.status == BAD_INDEX
    ids = ids_of(1, 8)
    compare(handle.run([ids]), model(ids))
    assert library.c.sc_run(handle.model, None, None) == BAD_CALL
    assert library.c.sc_set_sizes(None, None) == BAD_CALL
    assert library.c.sc_create(None, 1, None) == BAD_CALL
    with pytest.raises(LibraryError, match="threads"):
        library.open(-1)
    library.c.sc_destroy(None)
    handle.close()


def resealed(data: bytes) -> bytes:
    """With the right checksum, as `weights.h` has it."""
    crc = zlib.crc32(data[64:], zlib.crc32(data[:60]))
    return data[:60] + struct.pack("<I", crc) + data[64:]


DAMAGE = {
    "empty": (lambda d: b"", "cut short"),
    "header only": (lambda d: d[:64], "cut short"),
    "truncated": (lambda d: d[:-64], "cut short"),
    "longer": (lambda d: d + bytes(64), "longer"),
    "another file": (lambda d: b"PK" + d[2:], "no file of weights"),
    "a flipped bit": (lambda d: d[:-9] + bytes([d[-9] ^ 4]) + d[-8:], "checksum"),
    "newer": (lambda d: resealed(d[:8] + b"\x02" + d[9:]), "version"),
    "another model": (lambda d: resealed(d[:24] + b"\x00" + d[25:]), "another model"),
    "another target": (lambda d: resealed(d[:32] + b"vax\0" + d[36:]), "another target"),
    "fewer weights": (lambda d: resealed(d[:12] + b"\x01" + d[13:]), "another number"),
    "a weight outside": (lambda d: resealed(d[:64] + b"\xff" * 7 + d[71:]), "lies outside"),
}


@SYSTEM
def test_damaged_weights_are_errors(mixed, tmp_path: Path) -> None:
    _, library = mixed
    whole = (library.folder / "model.weights").read_bytes()
    path = tmp_path / "model.weights"
    for name, (damage, why) in DAMAGE.items():
        path.write_bytes(damage(whole))
        with pytest.raises(LibraryError, match=why) as found:
            library.open(weights=path)
        assert found.value.status == BAD_FILE, name
    for place, why in ((tmp_path, "regular|directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(LibraryError, match=why):
            library.open(weights=place)


@SYSTEM
def test_the_files_stand_alone(mixed) -> None:
    _, library = mixed
    built = library.folder / "model.so"
    needed = subprocess.run(["ldd", built], capture_output=True, text=True, check=True).stdout
    names = {line.split()[0] for line in needed.splitlines()}
    assert {name for name in names if not name.startswith("/lib")} <= ALLOWED
    for path in (built, library.folder / "model.weights"):
        data = path.read_bytes()
        assert b"/tmp" not in data and str(Path.cwd()).encode() not in data
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", built], capture_output=True, text=True, check=True
    ).stdout
    header = (library.folder / "model.h").read_text()
    exported = [line.split()[-1] for line in symbols.splitlines()]
    assert len(exported) == 9 and all(f"{name}(" in header for name in exported)


@SYSTEM
def test_the_c_example(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "c_embed"
    out = tmp_path / "out"
    done = subprocess.run(
        ["make", "-C", example, f"OUT={out}", f"PYTHON={sys.executable}", "THREADS=2"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "relative error" in done.stdout and "median" in done.stdout


def test_what_needs_torch_is_refused_by_name(tmp_path: Path) -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sort(x).values

    with pytest.raises(UnsupportedError, match="sort"):
        sc.export(Sorted(), (torch.randn(4, 8),), tmp_path / "out", library=True)
    assert not (tmp_path / "out").exists()


def test_an_unknown_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="vax"):
        sc.export(nn.Linear(4, 4), (torch.randn(2, 4),), tmp_path, library=True, target="vax")


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    from sparse_compiler.runtime.standalone import Replacing

    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot write"), Replacing(tmp_path / "file", ("a",)):
        pass


def test_an_export_that_fails_leaves_the_old_files(tmp_path: Path) -> None:
    from sparse_compiler.runtime.standalone import Replacing

    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    with pytest.raises(ArtifactError), Replacing(tmp_path, ("a", "b")) as place:
        place["a"].write_text("new")
        raise OSError(28, "No space left on device")
    assert [p.read_text() for p in sorted(tmp_path.iterdir())] == ["old", "old"]
    with Replacing(tmp_path, ("a", "b")) as place:
        for path in place.values():
            path.write_text("new")
    assert [p.read_text() for p in sorted(tmp_path.iterdir())] == ["new", "new"]


def test_the_command_line_names_the_options() -> None:
    from typer.testing import CliRunner

    said = CliRunner().invoke(app, ["compile", "x.pt2", "-o", "out", "--target", "aarch64"])
    assert said.exit_code == 2 and "--library" in said.output
