"""Build sdist and wheel, install the wheel into an empty environment, use it from elsewhere.

The wheel is built from the sdist, so one run checks both. What counts as complete is read off the
tree: each file under sparse_compiler/, through its symlinks, must be installed byte for byte, so
a new kind of data file that pyproject.toml does not name is found here.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "sparse_compiler"

PROBE = """
import importlib.metadata, pathlib, sparse_compiler
backend, = importlib.metadata.entry_points(group="torch_dynamo_backends", name="sparse_compiler")
assert callable(backend.load()), backend
print(pathlib.Path(sparse_compiler.__file__).parent)
"""


def sources(package: Path) -> dict[str, bytes]:
    """Map each file under `package`, by relative path, to its bytes; caches are left out."""
    found = {}
    for folder, folders, names in os.walk(package, followlinks=True):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(folder, name)
            found[path.relative_to(package).as_posix()] = path.read_bytes()
    return found


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command outside of the repository's reach; print its output only when it fails."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def install(wheel: Path, folder: Path) -> Path:
    """Make an empty environment in `folder`, install `wheel` into it, return its bin folder."""
    venv.create(folder, with_pip=True)
    bin_folder = folder / "bin"
    run(
        *(bin_folder / "python", "-m", "pip", "install", "-qq", "--disable-pip-version-check"),
        *("-c", ROOT / "constraints.txt", wheel),
        cwd=folder,
    )
    return bin_folder


def main() -> None:
    expected = sources(ROOT / PACKAGE)
    if not any(name.endswith(".h") for name in expected):
        sys.exit(f"no kernel header found under {ROOT / PACKAGE}: are the symlinks whole?")
    with tempfile.TemporaryDirectory(prefix="check-wheel-") as temporary:
        work = Path(temporary)
        # A copy without build leftovers: setuptools would pack stale files out of build/.
        tree = work / "tree"
        ignore = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__")
        shutil.copytree(ROOT, tree, symlinks=True, ignore=ignore)
        run(sys.executable, "-m", "build", "--outdir", work / "dist", tree, cwd=work)
        (wheel,) = (work / "dist").glob("*.whl")
        size = wheel.stat().st_size
        bin_folder = install(wheel, work / "venv")
        installed = Path(run(bin_folder / "python", "-I", "-c", PROBE, cwd=work).strip())
        if not installed.is_relative_to(work / "venv"):
            sys.exit(f"imported {installed}, not the installed wheel")
        actual = sources(installed)
        wrong = sorted(k for k in expected | actual if expected.get(k) != actual.get(k))
        if wrong:
            sys.exit(f"{wheel.name} differs from the tree in: {', '.join(wrong)}")
        run(bin_folder / "sparse-compiler", "--help", cwd=work)
        print(f"{wheel.name}: {size / 1024:.0f} KiB, {len(actual)} files, imports on its own")


if __name__ == "__main__":
    main()
