"""doctor names what is missing and what to do, on machines made worse than this one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparse_compiler.doctor import Finding, examine


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_COMPILER_CACHE", str(tmp_path / "cache"))


def test_everything_asked_for_is_reported() -> None:
    found = by_name(examine())
    assert set(found) >= {
        "C++ compiler",
        "OpenMP",
        "ISA",
        "threads",
        "cache folder",
        "torch",
        "triton",
        "tvm",
    }
    assert found["torch"].ok and found["cache folder"].ok
    assert all(f.fix for f in found.values() if not f.ok)


def test_a_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nowhere/g++")
    found = by_name(examine())
    assert not found["C++ compiler"].ok and found["C++ compiler"].needed
    assert "CXX" in found["C++ compiler"].fix and not found["OpenMP"].ok


def test_a_compiler_without_openmp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = tmp_path / "cxx"
    fake.write_text(
        '#!/bin/sh\ncase "$*" in *--version*) echo fake 1.0;; *) echo no omp.h >&2; exit 1;; esac\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    found = by_name(examine())
    assert found["C++ compiler"].ok and "fake 1.0" in found["C++ compiler"].what
    assert not found["OpenMP"].ok and "no omp.h" in found["OpenMP"].what


def test_a_cache_folder_that_cannot_be_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SPARSE_COMPILER_CACHE", str(tmp_path / "file" / "cache"))
    finding = by_name(examine())["cache folder"]
    assert not finding.ok and finding.needed and "SPARSE_COMPILER_CACHE" in finding.fix


def test_a_bad_option_is_the_only_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARSE_COMPILER_VERIFY", "often")
    (finding,) = examine()
    assert not finding.ok and "SPARSE_COMPILER_VERIFY" in finding.what


def test_too_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    finding = by_name(examine())["threads"]
    assert not finding.ok and "OMP_NUM_THREADS" in finding.fix
