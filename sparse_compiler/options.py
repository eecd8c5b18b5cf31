"""All options in one frozen dataclass; the only reader of `os.environ` in the package.

A value comes from the caller, else from the option's environment variable, else from its default.
Each field carries its own variable, its choices and its sentence, so that checking, reading the
environment and the table in the documentation are all loops over the fields.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import platformdirs

from . import logs
from .errors import OptionError

COMPILERS = ("g++", "c++", "clang++")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def find_compiler() -> str | None:
    """The first of `COMPILERS` on the PATH, or None."""
    return next((path for name in COMPILERS if (path := shutil.which(name))), None)


def _cache_dir() -> Path:
    return Path(platformdirs.user_cache_dir("sparse_compiler", appauthor=False))


def _about(
    doc: str,
    kind: type,
    *,
    env: tuple[str, ...] = (),
    choices: tuple[Any, ...] = (),
    later: tuple[str, ...] = (),
    optional: bool = False,
    shown: str = "",
) -> dict[str, Any]:
    """Metadata of a field. later: values refused as not yet supported rather than as unknown."""
    return {
        "doc": doc,
        "kind": kind,
        "env": env,
        "choices": choices,
        "later": later,
        "optional": optional,
        "shown": shown,
    }


@dataclass(frozen=True)
class OptionDoc:
    """One row of the documentation's table; env is empty where no variable sets the option."""

    name: str
    values: str
    default: str
    env: str
    doc: str


@dataclass(frozen=True)
class Options:
    """Everything that changes what is compiled or how. Raises `OptionError` when impossible."""

    mode: str = field(
        default="default",
        metadata=_about(
            "How formats are chosen: `default` asks the cost model; `max-autotune` measures.",
            str,
            choices=("default", "max-autotune"),
        ),
    )
    weights: str = field(
        default="fp32",
        metadata=_about(
            "Precision in which weights are stored; computed in fp32.",
            str,
            choices=("fp32", "fp16", "bf16"),
            later=("int8",),
        ),
    )
    target: str = field(
        default="cpu",
        metadata=_about(
            "What the code runs on; left out, where the model lies. A number names a kind of GPU.",
            str,
            choices=("cpu", "cuda", "cuda:80", "cuda:90", "cuda:100", "hip:gfx942"),
        ),
    )
    isa: str = field(
        default="native",
        metadata=_about(
            "Instruction set: vectors of 4 (v2), 8 (v3) or 16 (v4) floats; or this machine's.",
            str,
            env=("SPARSE_COMPILER_ISA",),
            choices=("native", "x86-64-v2", "x86-64-v3", "x86-64-v4"),
        ),
    )
    calibrate: bool = field(
        default=True,
        metadata=_about(
            "Measure this machine once, for the cost model; else assume a usual one. For tests.",
            bool,
            env=("SPARSE_COMPILER_CALIBRATE",),
        ),
    )
    format: str | None = field(
        default=None,
        metadata=_about(
            "Storage format of all weights, or of some as `fc1=csr,fc2=dense`, where it fits.",
            str,
            optional=True,
        ),
    )
    verify: int = field(
        default=1,
        metadata=_about(
            "0: trust the passes; 1: check the graph after each; 2: also compare the numbers.",
            int,
            env=("SPARSE_COMPILER_VERIFY",),
            choices=(0, 1, 2),
        ),
    )
    dump: Path | None = field(
        default=None,
        metadata=_about(
            "Folder for the graph after each pass, with diffs.",
            Path,
            env=("SPARSE_COMPILER_DUMP",),
            optional=True,
        ),
    )
    stop_after: str | None = field(
        default=None, metadata=_about("Name of the last pass that runs.", str, optional=True)
    )
    disable: tuple[str, ...] = field(
        default=(), metadata=_about("Names of passes that do not run.", tuple)
    )
    fuel: int | None = field(
        default=None,
        metadata=_about(
            "Make only the first N rewrites, to find the one that miscompiles.",
            int,
            env=("SPARSE_COMPILER_FUEL",),
            optional=True,
        ),
    )
    cache_dir: Path = field(
        default_factory=_cache_dir,
        metadata=_about(
            "Folder of compiled kernels.",
            Path,
            env=("SPARSE_COMPILER_CACHE",),
            shown="the user's cache folder",
        ),
    )
    timing_lock: Path | None = field(
        default=None,
        metadata=_about(
            "File that a process holds locked while it times something, so that none times at once "
            "with another.",
            Path,
            env=("SPARSE_COMPILER_TIMING_LOCK",),
            optional=True,
        ),
    )
    compiler: str | None = field(
        default_factory=find_compiler,
        metadata=_about(
            "Command of the C++ compiler, arguments allowed.",
            str,
            env=("SPARSE_COMPILER_CXX", "CXX"),
            optional=True,
            shown=f"the first of {', '.join(COMPILERS)} found",
        ),
    )
    cuda_graphs: bool = field(
        default=True,
        metadata=_about(
            "On a GPU, replay the launches of a segment as one CUDA graph.",
            bool,
            env=("SPARSE_COMPILER_CUDA_GRAPHS",),
        ),
    )
    force_native: bool = field(
        default=False,
        metadata=_about(
            "Run natively whatever can be, also where the cost model predicts a loss. For tests.",
            bool,
            env=("SPARSE_COMPILER_FORCE_NATIVE",),
        ),
    )
    profile: bool = field(
        default=False,
        metadata=_about(
            "Time every kernel call; the table is printed at the end of the process.",
            bool,
            env=("SPARSE_COMPILER_PROFILE",),
        ),
    )
    log: str | None = field(
        default=None,
        metadata=_about(
            "What is logged: a level as `info`, or channels as `passes,+codegen`.",
            str,
            env=("SPARSE_COMPILER_LOG",),
            optional=True,
        ),
    )

    def __post_init__(self) -> None:
        for option in fields(self):
            object.__setattr__(self, option.name, _checked(option, getattr(self, option.name)))
        if self.fuel is not None and self.fuel < 0:
            raise OptionError(f"option fuel is {self.fuel}", fix="give a number of 0 or more")
        logs.levels(self.log or "")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """`values`, then the environment for what they leave out. Raises `OptionError`."""
        known = {option.name: option for option in fields(cls)}
        for name in values:
            if name not in known:
                raise OptionError(f"no option is named {name!r}", fix=nearest(str(name), known))
        found = {name: read for name, option in known.items() if (read := _from_env(option))}
        return cls(**{name: value for name, (value,) in found.items()} | dict(values))

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """The environment's options, with `overrides` going before them."""
        return cls.from_dict(overrides)

    @classmethod
    def docs(cls) -> tuple[OptionDoc, ...]:
        """All options in order, for the documentation and `doctor`."""
        return tuple(
            OptionDoc(
                option.name,
                _values(option),
                option.metadata["shown"] or _plain(option.default),
                ", ".join(option.metadata["env"]),
                option.metadata["doc"],
            )
            for option in fields(cls)
        )

    def configure_logging(self) -> None:
        """Lets the loggers that `log` names speak."""
        logs.configure(self.log)


def nearest(name: str, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """A "did you mean", or the list of all that is known."""
    near = get_close_matches(name, list(known), n=3)
    return f"did you mean {', '.join(near)}?" if near else f"one of {', '.join(map(str, known))}"


def _from_env(option: Field[Any]) -> tuple[Any] | None:
    """The value of the first of the option's variables that is set and not empty."""
    for variable in option.metadata["env"]:
        text = os.environ.get(variable, "").strip()
        if text:
            return (_parsed(option, variable, text),)
    return None


def _parsed(option: Field[Any], variable: str, text: str) -> Any:
    kind = option.metadata["kind"]
    if kind is int:
        try:
            return int(text)
        except ValueError:
            raise OptionError(
                f"{variable} is {text!r}", why="it must be a whole number", fix=_fix(option)
            ) from None
    if kind is bool:
        if text.lower() not in _TRUE + _FALSE:
            raise OptionError(f"{variable} is {text!r}", fix="1 or 0")
        return text.lower() in _TRUE
    return Path(text).expanduser() if kind is Path else text


def _checked(option: Field[Any], value: Any) -> Any:
    """The value in its field's type. Raises `OptionError`."""
    about = option.metadata
    if value is None and about["optional"]:
        return None
    if about["kind"] is Path and isinstance(value, str) and value:
        value = Path(value)
    if about["kind"] is tuple and isinstance(value, list):
        value = tuple(value)
    # bool is an int to Python, and True would pass for verify=1
    fits = isinstance(value, about["kind"]) and isinstance(value, bool) == (about["kind"] is bool)
    if not fits or (about["kind"] is tuple and not all(isinstance(v, str) for v in value)):
        raise OptionError(
            f"option {option.name} is {value!r}, a {type(value).__name__}", fix=_fix(option)
        )
    if value in about["later"]:
        raise OptionError(
            f"option {option.name} is {value!r}", why="it is not yet supported", fix=_fix(option)
        )
    if about["choices"] and value not in about["choices"]:
        raise OptionError(f"option {option.name} is {value!r}", fix=_fix(option, value))
    return value


def _fix(option: Field[Any], value: Any = None) -> str:
    near = get_close_matches(str(value), list(map(str, option.metadata["choices"])), n=1)
    return f"did you mean {near[0]}?" if near else f"give {_values(option)}"


_KINDS = {
    str: "a name",
    int: "a whole number",
    Path: "a path",
    bool: "a bool",
    tuple: "a tuple of names",
}


def _values(option: Field[Any]) -> str:
    about = option.metadata
    text = " | ".join(map(str, about["choices"])) or _KINDS[about["kind"]]
    return f"{text} | none" if about["optional"] else text


def _plain(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return "none" if default in (None, ()) else str(default)
