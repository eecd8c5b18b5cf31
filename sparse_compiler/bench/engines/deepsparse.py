"""DeepSparse 1.8.0, the closed peer, in an environment of its own: it needs numpy < 2.

Made once under the cache folder, with the newest Python of 3.8 to 3.11 that is found; fed the
same ONNX file; analytics off. Neural Magic's community licence covers non-production use only.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path

from filelock import FileLock

from sparse_compiler.bench.engine import ENGINES, Engine, EngineRunner, Job
from sparse_compiler.bench.host import WorkerError

VERSION = "1.8.0"
PYTHONS = ("python3.11", "python3.10", "python3.9", "python3.8")
INSTALL_LIMIT_S = 600


@ENGINES.register("deepsparse")
class DeepSparse(Engine):
    """deepsparse.Engine(model.onnx, batch_size, num_cores)."""

    name = "deepsparse"
    takes = "onnx"
    packages = ()

    def command(self, cache: Path) -> list[str]:
        """The guest worker in its environment; WorkerError "missing" where that cannot be made."""
        home = cache / f"deepsparse-{VERSION}"
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(str(home) + ".lock"):
            if not (home / "complete").is_file():
                _make_environment(home)
        script = resources.files("sparse_compiler.bench.guest").joinpath("deepsparse_guest.py")
        return [str(home / "bin" / "python"), "-I", str(script)]

    def prepare(self, job: Job) -> EngineRunner:
        raise NotImplementedError("the guest worker prepares")


def _python() -> str:
    if sys.version_info[:2] <= (3, 11):
        return sys.executable
    found = next(filter(None, map(shutil.which, PYTHONS)), None)
    if found is None:
        raise WorkerError("missing", f"DeepSparse {VERSION} needs Python 3.8 to 3.11, none found")
    return found


def _make_environment(home: Path) -> None:
    python = _python()
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q"]
    for command in (
        [python, "-m", "venv", "--clear", str(home)],
        [*pip, "--disable-pip-version-check", f"deepsparse=={VERSION}", "numpy<2"],
    ):
        try:
            subprocess.run(
                command, check=True, capture_output=True, text=True, timeout=INSTALL_LIMIT_S
            )
        except subprocess.CalledProcessError as error:
            last = [line for line in error.stderr.splitlines() if "ERROR" in line] or [error.stderr]
            reason = f"its environment cannot be made: {last[-1].strip()[:200]}"
            raise WorkerError("missing", reason) from error
        except subprocess.TimeoutExpired as error:
            reason = f"its environment was not made within {INSTALL_LIMIT_S} s"
            raise WorkerError("missing", reason) from error
    (home / "complete").write_text("made by sparse-compiler bench\n")
