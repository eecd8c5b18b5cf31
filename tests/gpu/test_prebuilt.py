"""Kernels compiled where no GPU is: found by triton under its own key, and only where asked for."""

import json
import subprocess
from pathlib import Path

import pytest
import triton

from sparse_compiler.codegen.gpu import prebuilt, static
from sparse_compiler.errors import ArtifactError
from sparse_compiler.formats.gpu_arch import A100, H100
from tests.gpu.small_kernels import small_kernel


@pytest.fixture
def assembled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The assemblers that triton started, with a cache of its own that is empty."""
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "cache"))
    monkeypatch.setattr(triton.knobs.cache, "manager_class", None)
    started: list[str] = []
    run = subprocess.run

    def watched(command, *args, **options):
        if any(str(part).startswith("--gpu-name") for part in command):
            started.append(Path(command[0]).name)
        return run(command, *args, **options)

    monkeypatch.setattr(subprocess, "run", watched)
    return started


def test_a_carried_kernel_is_not_compiled_again(assembled, monkeypatch, tmp_path) -> None:
    found = prebuilt.prebuild(small_kernel("row"), H100)
    assert assembled == ["ptxas"] and found.kind == "cubin"
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "elsewhere"))
    carried = prebuilt.members([found])
    assert prebuilt.read_members(carried) == (found,)
    prebuilt.use(prebuilt.read_members(carried))
    assert static.build(small_kernel("row"), H100).kernel == found.binary
    assert assembled == ["ptxas"], "it was compiled again"
    for other, arch in ((small_kernel("row", wide=256), H100), (small_kernel("row"), A100)):
        assert static.build(other, arch).kernel != found.binary
    assert assembled == ["ptxas"] * 3, "another kernel was taken from the file"


def test_a_carried_kernel_is_not_used_unless_asked_for(assembled, monkeypatch, tmp_path) -> None:
    prebuilt.members([prebuilt.prebuild(small_kernel("row"), H100)])
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path / "elsewhere"))
    static.build(small_kernel("row"), H100)
    assert assembled == ["ptxas", "ptxas"]


KEY = "0123456789abcdef" * 4
NOTES = json.dumps({"hash": KEY}).encode()


@pytest.mark.parametrize(
    "members",
    [
        {f"{KEY}.row.cubin": b"x"},
        {f"{KEY}.row.so": b"x", f"{KEY}.row.json": NOTES},
        {f"{KEY[1:]}.row.cubin": b"x", f"{KEY[1:]}.row.json": NOTES},
        {f"{KEY[1:]}z.row.cubin": b"x", f"{KEY[1:]}z.row.json": NOTES},
        {f"{KEY}.row.cubin": b"x", f"{KEY}.row.json": b"{"},
        {f"{KEY}.row.cubin": b"x", f"{KEY}.row.json": b"[]"},
        {f"{KEY}.row.cubin": b"x", f"{KEY}.row.json": NOTES.replace(b"0", b"1")},
    ],
    ids=["no notes", "a library", "short key", "no hex", "no JSON", "a list", "another's notes"],
)
def test_members_that_we_never_write_are_refused(members) -> None:
    with pytest.raises(ArtifactError):
        prebuilt.read_members(members)
    assert prebuilt.read_members({f"{KEY}.row.cubin": b"x", f"{KEY}.row.json": NOTES})
