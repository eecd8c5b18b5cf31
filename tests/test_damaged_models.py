"""What cannot be saved or read: foreign operators, forged and damaged files, broken exports."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.errors import ArtifactError, UnsupportedError
from tests.test_saved_models import mlp

pytestmark = [
    pytest.mark.usefixtures("cached_kernels"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.scz"


@torch.library.custom_op("saved_models::shift", mutates_args=())
def shift(x: torch.Tensor) -> torch.Tensor:
    return x + 1


@shift.register_fake
def _(x: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


class Shifted(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return shift(x) * 2


def test_operators_of_others_are_not_saved(path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"saved_models\.shift"):
        sc.export(Shifted().eval(), (torch.ones(4),), path)
    assert not path.exists()


def test_no_built_code_is_taken_from_a_file(path: Path) -> None:
    sc.export(mlp(), (torch.ones(2, 64),), path)
    with pytest.raises(ArtifactError):
        sc.load(path, prebuilt=True)


def rewritten(path: Path, change: Callable[[dict[str, bytes]], None], *, sums: bool = True) -> None:
    """The file with other members; sums: with right hashes."""
    from sparse_compiler.runtime.artifact import write_members

    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    manifest = json.loads(members.pop("manifest.json"))
    if sums:
        write_members(path, {k: v for k, v in manifest.items() if k != "members"}, members)
        return
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"manifest.json": json.dumps(manifest).encode(), **members}.items():
            archive.writestr(name, data)


def edit(member: str, old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        text = members[member].decode()
        assert old in text, text
        members[member] = text.replace(old, new).encode()

    return change


def manifest(**values: Any) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        stored = json.loads(members["manifest.json"])
        members["manifest.json"] = json.dumps(stored | values).encode()

    return change


CALL = 'torch_call[target="aten.from_file.default", args=("/etc/hosts", false, 128)]('
FORGED = {
    "another graph": (edit("model.ir", "f32[8, 64]", "f32[8, 65]"), "model.ir"),
    "no graph": (lambda m: m.pop("model.ir"), "model.ir"),
    "a stranger": (lambda m: m.update({"../../evil.py": b""}), "no such member"),
    "an unknown op": (edit("model.ir", "= linear[", "= liner["), "model.ir"),
    "a newline in a name": (edit("model.ir", "return %", "return %\t"), "model.ir"),
    "a call into torch": (
        edit("model.ir", 'pointwise[expr="relu(x0)"](', CALL),
        "known to do nothing but compute",
    ),
    "a size for a flag": (
        edit("model.ir", "linear[bias=true", "linear[bias=s0"),
        "bias is no bool",
    ),
    "a huge parameter": (edit("model.ir", "f32[64, 64]", "f32[64000000, 64000000]"), "model.ir"),
    "a format": (edit("model.ir", "f32[64, 64]", "f32[64, 64]{csr}"), "model.ir"),
    "a wrong dtype": (edit("model.ir", "f32[64, 64]", "f64[64, 64]"), "model.ir"),
    "no parameters": (manifest(parameters={}), "parameter"),
    "parameters of another shape": (
        lambda m: edit("manifest.json", '"trained": true', '"shape": [1]')(m),
        "dtype or shape",
    ),
    "no call": (manifest(call=None), "called"),
    "a call of two arguments": (
        edit("manifest.json", '"inputs": [\n   0\n  ]', '"inputs": [0, 1]'),
        "arguments",
    ),
    "an odd option": (manifest(options={"mode": "reckless"}), "options"),
    "a size without a symbol": (manifest(sizes={"s7": 3}), "sizes"),
    "a weight header of the future": (
        lambda m: m.update({"weights.safetensors": b"\xff" * 64}),
        "header",
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_files_are_refused(name: str, path: Path) -> None:
    sc.export(mlp(0.2), (torch.ones(2, 64),), path)
    change, message = FORGED[name]
    rewritten(path, change)
    with pytest.raises(ArtifactError, match=message):
        sc.load(path)


def test_a_newer_file_says_so(path: Path) -> None:
    sc.export(mlp(), (torch.ones(2, 64),), path)
    rewritten(path, manifest(format=2), sums=False)
    with pytest.raises(ArtifactError, match=r"format 2.*\n.*newer sparse_compiler"):
        sc.load(path)


def test_hashes_are_compared(path: Path) -> None:
    sc.export(mlp(), (torch.ones(2, 64),), path)
    rewritten(path, edit("report.json", "linear", "LINEAR"), sums=False)
    with pytest.raises(ArtifactError, match=r"report\.json"):
        sc.load(path)


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "folder", "missing", "compressed"])
def test_what_is_no_saved_model(kind: str, path: Path) -> None:
    sc.export(mlp(), (torch.ones(2, 64),), path)
    data = path.read_bytes()
    path.unlink()
    match kind:
        case "empty":
            path.touch()
        case "text":
            path.write_text("not a model")
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "folder":
            path.mkdir()
        case "compressed":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("manifest.json", "{}" + " " * 10_000_000)
    with pytest.raises(ArtifactError) as caught:
        sc.load(path)
    assert caught.value.fix


# Interrupted exports.

EXPORT = """
import os, sys, torch
import sparse_compiler as sc
from torch import nn
{setup}
torch.manual_seed(1)
sc.export(nn.Linear(256, 256), (torch.ones(2, 256),), sys.argv[1])
"""


def exporting(path: Path, setup: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", EXPORT.format(setup=setup), str(path)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.system
def test_a_full_disk_leaves_the_old_file(path: Path) -> None:
    """A limit on the size of files stands for it."""
    sc.export(mlp(), (torch.ones(2, 64),), path)
    before = path.read_bytes()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (60000, 60000))"
    process = exporting(path, limit)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "ArtifactError" in err
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 60000


@pytest.mark.system
def test_a_kill_leaves_the_old_file(path: Path) -> None:
    sc.export(mlp(), (torch.ones(2, 64),), path)
    before = path.read_bytes()
    stop = (
        "os.fsync = lambda file: (open(sys.argv[1] + '.here', 'w'), __import__('time').sleep(60))"
    )
    process = exporting(path, stop)
    deadline = time.monotonic() + 60
    while not Path(f"{path}.here").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert path.read_bytes() == before
    torch.testing.assert_close(sc.load(path)(torch.ones(2, 64)), mlp()(torch.ones(2, 64)))
