"""Example inputs for models that bring none: ONNX files and Relax modules on the command line.

Floats are drawn from N(0, 1); integers are 0 or 1, which every table of embeddings and every mask
takes. What an axis is called in the file can be set, as `width=320` or `width=32..640..32`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..errors import OptionError
from ..ir.types import Dim, evaluate, symbols_of, torch_dtype
from ..options import nearest
from .tvm_version import require_tvm


@dataclass(frozen=True)
class ForeignExample:
    """Arguments of `sc.compile` for a file. args: tensors, and numbers that are compiled in."""

    args: tuple[Any, ...]
    dynamic_shapes: Any = None


def example_for(path: Path, given: Sequence[str], batch: int, tokens: int) -> ForeignExample:
    """Inputs in the shapes that a file declares.

    given: `NAME=SIZE` fixes a dynamic axis, `NAME=LEAST..LARGEST` or `..STEP` after it keeps it
    dynamic within limits, `NAME=NUMBER` is the value of an input of one number. batch, tokens: size
    of a dynamic axis that is not given, where it stands first, and elsewhere.

    Raises `OptionError` for a name that is neither an axis nor such an input, `UnsupportedError`.
    """
    require_tvm(str(path))
    settings = dict(_pair(text) for text in given)
    if path.suffix == ".onnx":
        return _for_onnx(path, settings, batch, tokens)
    return _for_relax(path, settings, batch, tokens)


def _pair(text: str) -> tuple[str, str]:
    name, sign, value = text.rpartition("=")
    if not sign or not name or not value:
        raise OptionError(
            f"--set {text} says nothing", fix="give NAME=VALUE, as batch=8 or width=32..640..32"
        )
    return name, value


def _for_onnx(path: Path, settings: dict[str, str], batch: int, tokens: int) -> ForeignExample:
    from .onnx_inputs import dynamic_axes, inputs_of
    from .onnx_read import read_onnx

    inputs = inputs_of(read_onnx(path))
    axes = dynamic_axes(inputs)
    scalars = [value.name for value in inputs if value.shape in ((), (1,))]
    _check_names(settings, (*axes, *scalars))
    usual = {d: batch if i == 0 else tokens for v in reversed(inputs) for i, d in _names(v.shape)}
    limits = {n: _limits(n, settings[n]) for n in axes if ".." in settings.get(n, "")}
    sizes = {n: _within(usual[n], limits.get(n)) for n in axes}
    sizes |= {n: _whole(n, settings[n]) for n in axes if n in settings and n not in limits}
    args = [
        _number(value.name, settings[value.name], value.dtype)
        if value.name in scalars and value.name in settings
        else _drawn([sizes[d] if isinstance(d, str) else d for d in value.shape or ()], value.dtype)
        for value in inputs
    ]
    fixed = any(n in settings and n not in limits for n in axes)
    kept = {n: limits.get(n) for n in axes if n not in settings or n in limits}
    return ForeignExample(tuple(args), kept if fixed or limits else None)


def _for_relax(path: Path, settings: dict[str, str], batch: int, tokens: int) -> ForeignExample:
    from .relax import import_relax, read_relax

    call = import_relax(read_relax(path)).call
    names = sorted({name for type_ in call.types for name in symbols_of(type_.shape)})
    _check_names(settings, tuple(names))
    first = {n for type_ in call.types if type_.shape for n in symbols_of(type_.shape[:1])}
    sizes = {name: batch if name in first else tokens for name in names}
    sizes |= {name: _whole(name, text) for name, text in settings.items()}
    shapes = [[_size(dim, sizes) for dim in type_.shape] for type_ in call.types]
    dtypes = [torch_dtype(type_.dtype) for type_ in call.types]
    return ForeignExample(tuple(_drawn(s, d) for s, d in zip(shapes, dtypes, strict=True)))


def _size(dim: Dim, sizes: Mapping[str, int]) -> int:
    return int(evaluate(dim, sizes))


def _names(shape: tuple[int | str, ...] | None) -> list[tuple[int, str]]:
    return [(i, d) for i, d in reversed(list(enumerate(shape or ()))) if isinstance(d, str)]


def _check_names(settings: Mapping[str, str], known: tuple[str, ...]) -> None:
    for name in settings:
        if name not in known:
            raise OptionError(
                f"the model has neither an axis nor a number {name!r} to set",
                fix=nearest(name, known) if known else "leave out --set: all its sizes are fixed",
            )


def _limits(name: str, text: str) -> tuple[int, int | None, int]:
    low, high, step = (*text.split(".."), "1")[:3]
    return _whole(name, low), _whole(name, high) if high else None, _whole(name, step)


def _within(size: int, limits: tuple[int, int | None, int] | None) -> int:
    """The size nearest to `size` that an axis may have."""
    if limits is None:
        return size
    low, high, step = limits
    size = max(low, size if high is None else min(size, high))
    up = -(-size // step) * step
    return up if high is None or up <= high else size // step * step


def _whole(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise OptionError(
            f"{text!r} is no size for the axis {name}",
            fix="give a whole number from 1 on, or a range as 1..64",
        )
    return int(text)


def _number(name: str, text: str, dtype: torch.dtype) -> int | float:
    try:
        return float(text) if dtype.is_floating_point else int(text)
    except ValueError as error:
        raise OptionError(f"{text!r} is no number for the input {name}") from error


def _drawn(shape: Sequence[Any], dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    if dtype.is_floating_point:
        return torch.randn(list(shape), generator=generator).to(dtype)
    return torch.randint(0, 2, list(shape), generator=generator).to(dtype)
