"""What an engine is: name, versions, supports, prepare, run; and the table of those we know.

An engine is one file in `engines/`, or any file of yours: `--against path/to/mine.py` takes
the one subclass of Engine that the file defines.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from sparse_compiler.errors import OptionError
from sparse_compiler.options import nearest
from sparse_compiler.registry import Registry

from .case import Case
from .isa import HELD, without_avx512

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Job:
    """What an engine gets: one model with one set of inputs.

    module and inputs are None for an engine that takes "onnx"; onnx, the path of the exported
    file, is None for one that takes "module". feed: the same inputs by name, as arrays.
    """

    case: Case
    threads: int
    cache: Path
    feed: dict[str, Array]
    module: torch.nn.Module | None
    inputs: tuple[torch.Tensor, ...]
    onnx: Path | None


class EngineRunner(ABC):
    """A model made ready, with its inputs bound; see guest/serve.py for the protocol."""

    @abstractmethod
    def run(self) -> Any:
        """Run the model once on the bound inputs; what is timed."""

    def outputs(self, result: Any) -> Sequence[Array]:
        """What `run` returned as arrays; not timed."""
        return [np.asarray(a) for a in result]

    def weight_bytes(self) -> int | None:
        """Bytes of weights held for running, or None where the engine does not tell."""
        return None


class Engine(ABC):
    """One way of running a model.

    takes: a live module or an ONNX file; dense: may be the baseline that others are compared
    with; disk_cache: a second process compiles faster, so its compile time is measured too;
    told_by_copy: only in an altered copy of its package is it held to an instruction set.
    """

    name: ClassVar[str]
    takes: ClassVar[Literal["module", "onnx"]] = "module"
    dense: ClassVar[bool] = False
    disk_cache: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    told_by_copy: ClassVar[bool] = False
    file: str = ""

    @property
    def origin(self) -> str:
        """What `load_engine` in the worker must be given to find this engine again."""
        return self.file or self.name

    def missing(self) -> str | None:
        """Why the engine cannot run here at all and what to do about it, or None."""
        absent = [p for p in self.packages if importlib.util.find_spec(p) is None]
        return f"not installed: pip install {' '.join(absent)}" if absent else None

    def versions(self) -> dict[str, str]:
        """Package name -> version of what the engine is made of."""
        return {p: metadata.version(p) for p in self.packages}

    def load(self) -> None:
        """Import what the engine is made of, before any clock runs."""
        for package in self.packages:
            importlib.import_module(package)

    def supports(self, case: Case) -> str | None:
        """Why this case cannot be run, or None."""
        return None if case.dtype == "float32" or self.takes == "module" else "float32 only"

    def command(self, cache: Path) -> list[str]:
        """The command line of the worker; a guest environment overrides it."""
        return [sys.executable, "-m", "sparse_compiler.bench.worker"]

    def environment(self, isa: str, cache: Path) -> dict[str, str]:
        """Variables that hold the engine to an instruction set of isa.py's table.

        cache: for what an engine must make first. WorkerError where it cannot be held to it.
        """
        held = dict(HELD[isa])
        if held and self.told_by_copy:
            held["PYTHONPATH"] = str(without_avx512(self.name, cache))
        return held

    @abstractmethod
    def prepare(self, job: Job) -> EngineRunner:
        """Compile the model; the time it takes, with a first call, is the compile time."""


ENGINES: Registry[type[Engine]] = Registry("engine", "sparse_compiler.bench.engines")


def load_engine(name: str) -> Engine:
    """The engine of that name, or the one defined in the file `name` (ending in .py).

    Errors: OptionError with the nearest names, or saying what the file lacks.
    """
    if name.endswith(".py"):
        return _engine_from_file(Path(name))
    if name in ENGINES:
        return ENGINES[name]()
    raise OptionError(f"no engine is named {name!r}", fix=nearest(name, tuple(ENGINES)))


def _engine_from_file(path: Path) -> Engine:
    if not path.is_file():
        raise OptionError(f"no engine file at {path}", fix="give the path of a Python file")
    spec = importlib.util.spec_from_file_location(f"bench_engine_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise OptionError(f"{path} cannot be imported", fix="give the path of a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = [
        v
        for v in vars(module).values()
        if isinstance(v, type) and issubclass(v, Engine) and v.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise OptionError(
            f"{path} defines {len(found)} engines",
            why="a file given as an engine defines one subclass of Engine",
            fix="split it, one file for each engine",
        )
    engine = found[0]()
    engine.file = str(path.resolve())
    return engine
