"""What a fresh machine would find out first: links, version, pins, data files, cost of import."""

import json
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import sparse_compiler

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    *PROJECT["dependencies"],
    *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
]
IMPORT_BUDGET_S = 0.2

# Imports torch first, so that what is counted is ours alone.
PROBE = """
import json, sys, time
import torch
before = set(sys.modules)
start = time.perf_counter()
import sparse_compiler
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted(set(sys.modules) - before)]))
"""


def pins() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = {}
    for requirement in (Requirement(line) for line in lines if line and not line.startswith("#")):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", f"{requirement} is not an exact pin"
        found[canonical(requirement.name)] = Version(specifier.version)
    return found


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def import_ours() -> tuple[float, set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    seconds, modules = json.loads(done.stdout.splitlines()[-1])
    return seconds, set(modules)


@pytest.mark.parametrize("name", ["passes", "codegen"])
def test_subpackage_is_a_link_to_the_folder_at_the_root(name: str) -> None:
    link = ROOT / "sparse_compiler" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"
    assert (ROOT / name).is_dir() and not (ROOT / name).is_symlink()


def test_versions_agree() -> None:
    assert PROJECT["version"] == sparse_compiler.__version__


@pytest.mark.parametrize("line", REQUIREMENTS)
def test_constraints_pin_each_direct_dependency_within_its_range(line: str) -> None:
    requirement = Requirement(line)
    pinned = pins()[canonical(requirement.name)]
    assert pinned in requirement.specifier
    assert pinned.local is None, "a local tag such as +cpu installs nowhere else"


def test_every_folder_with_sources_is_a_package() -> None:
    """setuptools leaves a folder without __init__.py out of the wheel, and says nothing."""
    folders = {
        path.parent
        for top in ("sparse_compiler", "passes", "codegen")
        for suffix in ("py", "h", "cpp")
        for path in (ROOT / top).rglob(f"*.{suffix}")
    }
    assert folders
    assert [str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").exists()] == []


def test_kernel_headers_are_package_data() -> None:
    in_tree = {path.name: path.read_text() for path in (ROOT / "codegen" / "cpu").glob("*.h")}
    folder = resources.files("sparse_compiler.codegen.cpu")
    assert in_tree
    assert {name: folder.joinpath(name).read_text() for name in in_tree} == in_tree


def test_import_is_cheap_beyond_torch() -> None:
    assert min(import_ours()[0] for _ in range(3)) < IMPORT_BUDGET_S


def test_import_brings_no_optional_or_heavy_package() -> None:
    unwanted = {"matplotlib", "onnx", "onnxruntime", "onnxscript", "openvino", "rich"}
    unwanted |= {"transformers", "triton", "tvm", "typer"}
    _, modules = import_ours()
    assert "sparse_compiler" in modules
    assert {name.partition(".")[0] for name in modules} & unwanted == set()
