"""A broken environment: no compiler, one that fails, cache folders that cannot be used, interrupts.

Each either still gives right numbers, and says what it did, or raises an error of ours with the
cause and what to do.
"""

import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sparse_compiler as sc
from sparse_compiler.codegen.cpu import build
from sparse_compiler.errors import CodegenError, OptionError, ToolchainError, UnsupportedError
from sparse_compiler.runtime import pipeline
from sparse_compiler.runtime.native import packer_for
from tests.runtime.nets import check, compiled, mlp

ROOT = Path(__file__).parents[1]
X = torch.randn(9, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """An empty cache folder: everything is compiled anew."""
    return tmp_path / "cache"


@pytest.fixture
def fake_compiler(tmp_path: Path) -> Callable[[str], str]:
    """A shell script that answers --version and otherwise runs the given lines."""

    def write(lines: str) -> str:
        path = tmp_path / "fake c++"  # a space, as paths may have
        path.write_text(
            f'#!/bin/sh\nif [ "$1" = --version ]; then echo fake 1.0; exit; fi\n{lines}\n'
        )
        path.chmod(0o755)
        return shlex.quote(str(path))

    return write


def leftovers(cache: Path) -> list[str]:
    """Files that a finished or a failed compile must not leave."""
    return [p.name for p in cache.iterdir() if p.suffix not in (".so", ".cpp", ".lock")]


# --- the compiler ---------------------------------------------------------------------------------


def test_no_compiler(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CXX", "SPARSE_COMPILER_CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", "")
    with caplog.at_level(logging.WARNING, "sparse_compiler"):
        fast = compiled(mlp(), X)
    assert "there is no C++ compiler" in caplog.text
    assert "everything runs in torch" in caplog.text
    assert not fast.pipeline.segments
    for layer in sc.inspect(fast).layers:
        assert not layer.native
        assert str(layer.reason).startswith("no_compiler: there is no C++ compiler; install g++")
    check(fast(X), mlp()(X))


def test_option_without_a_compiler() -> None:
    fast = compiled(mlp(), X, options={"compiler": None})
    assert "no_compiler" in sc.inspect(fast).text()
    check(fast(X), mlp()(X))


def test_a_compiler_that_is_not_there(cache: Path) -> None:
    with pytest.raises(ToolchainError, match=r"cannot be run\n  why: .*\n  fix: install g\+\+"):
        compiled(mlp(), X, options={"compiler": "/no/such/compiler", "cache_dir": cache})


def test_a_compiler_that_fails(cache: Path, fake_compiler: Callable[[str], str]) -> None:
    compiler = fake_compiler("echo the moon is wrong >&2; exit 1")
    with pytest.raises(CodegenError) as caught:
        compiled(mlp(), X, options={"compiler": compiler, "cache_dir": cache})
    error = caught.value
    assert "refused generated source" in error.what
    assert "the moon is wrong" in error.why
    assert "-fopenmp" in error.why, "the whole command"
    assert Path(error.fix.split()[-1]).read_text(), "the source stays, to be looked at"
    assert not leftovers(cache)


def test_a_compiler_that_is_killed(cache: Path, fake_compiler: Callable[[str], str]) -> None:
    compiler = fake_compiler("kill -9 $$")
    with pytest.raises(ToolchainError, match=r"killed by SIGKILL(.|\n)*fix: .*memory"):
        compiled(mlp(), X, options={"compiler": compiler, "cache_dir": cache})
    assert not leftovers(cache)


def test_a_compiler_that_writes_nothing(cache: Path, fake_compiler: Callable[[str], str]) -> None:
    with pytest.raises(ToolchainError, match=r"wrote no library"):
        compiled(mlp(), X, options={"compiler": fake_compiler("exit 0"), "cache_dir": cache})


def test_a_compiler_that_writes_rubbish(cache: Path, fake_compiler: Callable[[str], str]) -> None:
    compiler = fake_compiler('for last; do :; done; echo rubbish > "$last"')
    with pytest.raises(ToolchainError, match=r"cannot load .*\n  why: (.|\n)*\n  fix: "):
        compiled(mlp(), X, options={"compiler": compiler, "cache_dir": cache})


# --- the cache folder -----------------------------------------------------------------------------


@pytest.mark.system
def test_cache_folder_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file stands in its place. (To root no folder is read-only.)"""
    place = tmp_path / "file"
    place.write_text("")
    with caplog.at_level(logging.WARNING, "sparse_compiler"):
        fast = compiled(mlp(), X, options={"cache_dir": place / "cache"})
    assert f"cache folder {place / 'cache'}" in caplog.text
    assert "instead" in caplog.text
    assert fast.pipeline.segments
    check(fast(X), mlp()(X))


@pytest.mark.system
def test_unwritable_folder(caplog: pytest.LogCaptureFixture) -> None:
    """/proc takes no files, not even from root."""
    with caplog.at_level(logging.WARNING, "sparse_compiler"):
        fast = compiled(mlp(), X, options={"cache_dir": "/proc/self/fdinfo"})
    assert "compiling into" in caplog.text
    check(fast(X), mlp()(X))


@pytest.mark.system
def test_equal_models_share_a_library(cache: Path) -> None:
    compiled(mlp(), X, options={"cache_dir": cache})
    before = {p: p.stat().st_mtime_ns for p in cache.glob("*.so")}
    assert len(before) == 2  # the unit, and the packers
    compiled(mlp(seed=4), X, options={"cache_dir": cache})
    assert {p: p.stat().st_mtime_ns for p in cache.glob("*.so")} == before
    assert not leftovers(cache)


@pytest.mark.system
def test_damaged_library_is_compiled_again(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"cache_dir": cache}
    compiled(mlp(), X, options=options)
    good = {path: path.read_bytes() for path in cache.glob("*.so")}
    for damage in (b"rubbish", next(iter(good.values()))[:5000]):
        for path in good:
            path.unlink()  # writing into a mapped library would crash this process
            path.write_bytes(damage)
        build.load_library.cache_clear()
        packer_for.cache_clear()
        caplog.clear()
        with caplog.at_level(logging.WARNING, "sparse_compiler"):
            fast = compiled(mlp(), X, options=options)
        check(fast(X), mlp()(X))
        assert all(path.stat().st_size > 5000 for path in good)
        assert all(f"{path} is damaged; compiling it again" in caplog.text for path in good)


@pytest.mark.system
def test_stale_lock_file(cache: Path) -> None:
    """A lock is the kernel's, and dies with its owner: a file left behind locks nothing."""
    compiled(mlp(), X, options={"cache_dir": cache})
    for library in cache.glob("*.so"):
        library.unlink()
        library.with_suffix(".lock").write_text("from a process long gone")
    build.load_library.cache_clear()
    packer_for.cache_clear()
    check(compiled(mlp(), X, options={"cache_dir": cache})(X), mlp()(X))


# --- other processes ------------------------------------------------------------------------------

SCRIPT = """
import os, resource, sys, torch
sys.path.insert(0, {root!r})
from tests.runtime.nets import check, compiled, mlp, X
{before}
print("ready", flush=True)
fast = compiled(mlp(), torch.ones(9, 24), options={{"cache_dir": {cache!r}, **{options!r}}})
check(fast(torch.ones(9, 24)), mlp()(torch.ones(9, 24)))
print("right", len(fast.pipeline.segments))
"""


def start(cache: Path, before: str = "", **options: object) -> "subprocess.Popen[str]":
    """A process that compiles the MLP and compares its numbers."""
    text = SCRIPT.format(root=str(ROOT), cache=str(cache), before=before, options=options)
    text = text.replace(", X\n", "\n")
    return subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.system
def test_two_processes_compile_the_same_kernel(
    cache: Path, fake_compiler: Callable[[str], str], tmp_path: Path
) -> None:
    count = tmp_path / "count"
    compiler = fake_compiler(f'echo x >> {count}; sleep 0.3; exec g++ "$@"')
    both = [start(cache, compiler=compiler) for _ in range(2)]
    for process in both:
        out, err = process.communicate(timeout=120)
        assert "right 1" in out, err
    assert count.read_text() == "x\nx\n", "one compile for the packers, one for the unit"
    assert not leftovers(cache)


@pytest.mark.system
def test_full_disk(cache: Path) -> None:
    """A limit on the size of files stands for it: the compiler cannot write its output."""
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))"
    process = start(cache, limit)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1, out
    assert "sparse_compiler.errors.ToolchainError" in err
    assert "fix:" in err
    assert "SPARSE_COMPILER_CACHE" in err
    assert not leftovers(cache)
    assert not list(cache.glob("*.so"))
    out, err = start(cache).communicate(timeout=120)
    assert "right 1" in out, err


@pytest.mark.system
def test_interrupt_during_a_compile(
    cache: Path, fake_compiler: Callable[[str], str], tmp_path: Path
) -> None:
    started = tmp_path / "started"
    compiler = fake_compiler(
        f'for last; do :; done; echo half > "$last"; touch {started}; sleep 60'
    )
    process = start(cache, compiler=compiler)
    deadline = time.monotonic() + 60
    while not started.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    assert not leftovers(cache)
    assert not list(cache.glob("*.so"))
    out, err = start(cache).communicate(timeout=120)
    assert "right 1" in out, err


# --- models and options ---------------------------------------------------------------------------


def test_what_is_no_model() -> None:
    with pytest.raises(UnsupportedError, match=r"cannot compile a int\n  fix: give a torch.nn"):
        sc.compile(3)
    with pytest.raises(UnsupportedError, match=r"cannot read a model from nothing.pt2"):
        sc.compile("nothing.pt2")


class Branching(torch.nn.Module):
    """Chooses by a number inside a tensor: nothing that export can trace."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_traced() -> None:
    with pytest.raises(UnsupportedError) as caught:
        sc.compile(Branching(), (X,))
    assert "torch.export cannot trace Branching" in caught.value.what
    assert caught.value.why
    assert "torch.compile(model" in caught.value.fix


def test_file_that_is_no_program(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(UnsupportedError, match=r"cannot read a model from .*model.pt2\n  why: "):
        sc.compile(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"force_nativ": True}, "did you mean force_native"),
        ({"weights": "int8"}, "weights is 'int8'\n  why: it is not yet supported"),
        ({"target": "cudo"}, "target is 'cudo'\n  fix: did you mean cuda"),
        ({"verify": 3}, "verify is 3"),
        ({"disable": ("choose-formts",)}, "no pass is named 'choose-formts'\n  fix: did you mean"),
        ({"isa": "x86-64-v9"}, "isa is"),
    ],
)
def test_options(options: dict, said: str) -> None:
    with pytest.raises(OptionError, match=said):
        sc.compile(mlp(), (X,), options=options)


def test_an_instruction_set_that_this_cpu_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "cpu_features", lambda: frozenset({"sse4_2", "avx2"}))
    with pytest.raises(OptionError, match=r"isa is 'x86-64-v4'\n  why: this CPU lacks avx512bw"):
        compiled(mlp(), X, options={"isa": "x86-64-v4"})


def test_dump_into_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptionError, match=r"option dump(.|\n)*fix: name a folder"):
        sc.compile(mlp(), (X,), options={"dump": tmp_path / "file"})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_cache_folder(cache: Path) -> None:
    cache.mkdir(mode=0o500)
    check(compiled(mlp(), X, options={"cache_dir": cache})(X), mlp()(X))
