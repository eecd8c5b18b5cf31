"""The inputs of an ONNX model: dynamic axes and their sizes, numbers that are compiled in.

A dynamic axis keeps its name; one without is called after its input, as `images_2`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..errors import InputError, OptionError
from ..ir.graph import Range
from ..options import nearest

Number = int | float | bool
Limits = tuple[int, int | None] | tuple[int, int | None, int] | None
"""Least and largest size of an axis, and of what its sizes are multiples; None: any size."""


@dataclass(frozen=True)
class OnnxInput:
    """One input. shape: sizes, and names of dynamic axes; None where the file gives no rank."""

    name: str
    dtype: torch.dtype
    shape: tuple[int | str, ...] | None

    def __str__(self) -> str:
        shape = "?" if self.shape is None else ", ".join(map(str, self.shape))
        return f"{self.name}: {str(self.dtype).removeprefix('torch.')}[{shape}]"


_DTYPES = {
    1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32,
    7: torch.int64, 9: torch.bool, 10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
}  # fmt: skip


def inputs_of(model: Any) -> tuple[OnnxInput, ...]:
    """What a model takes, in order. Raises `InputError` for what is no tensor of numbers."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return tuple(_input(value) for value in model.graph.input if value.name not in stored)


def _input(value: Any) -> OnnxInput:
    kind = value.type.WhichOneof("value")
    tensor = value.type.tensor_type
    if kind != "tensor_type" or tensor.elem_type not in _DTYPES:
        raise InputError(
            f"the model's input {value.name} is no tensor of numbers",
            why=f"it is a {kind or 'value of no type'}, element type {tensor.elem_type}",
            fix="export the model with tensors as inputs",
        )
    if not tensor.HasField("shape"):
        return OnnxInput(value.name, _DTYPES[tensor.elem_type], None)
    shape = tuple(_dim(value.name, i, dim) for i, dim in enumerate(tensor.shape.dim))
    return OnnxInput(value.name, _DTYPES[tensor.elem_type], shape)


def _dim(name: str, position: int, dim: Any) -> int | str:
    if dim.dim_value > 0:
        return int(dim.dim_value)
    given = str(dim.dim_param)
    return given if given not in ("", "?", "-1", "None") else f"{name}_{position}"


def dynamic_axes(inputs: tuple[OnnxInput, ...]) -> tuple[str, ...]:
    """Names of the dynamic axes, in order of appearance."""
    found = [d for i in inputs for d in i.shape or () if isinstance(d, str)]
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Axis:
    """A dynamic axis: its sizes are `step` times a symbol in `range`."""

    symbol: str
    range: Range
    step: int = 1

    def admits(self, size: int) -> bool:
        """True for a size that it may have."""
        times, rest = divmod(size, self.step)
        high = self.range.high
        return rest == 0 and self.range.low <= times and (high is None or times <= high)


@dataclass(frozen=True)
class Bound:
    """Inputs after what a caller fixed. numbers: values compiled in, by input; axes: by name, those
    that stay dynamic."""

    inputs: tuple[OnnxInput, ...]
    numbers: Mapping[str, Number]
    axes: Mapping[str, Axis]

    @property
    def ranges(self) -> dict[str, Range]:
        """Of the symbols in the shapes, by name."""
        return {axis.symbol: axis.range for axis in self.axes.values()}


def bind_arguments(
    inputs: tuple[OnnxInput, ...],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    axes: Mapping[str, Limits] | None,
) -> Bound:
    """Fits example arguments to the inputs.

    axes: the dynamic axes that stay so, with limits; all others get the size of the arguments.
    None: every axis that the file declares dynamic stays so. Raises `InputError`, `OptionError`.
    """
    known = dynamic_axes(inputs)
    for name in axes or ():
        if name not in known:
            raise OptionError(
                f"the model has no dynamic axis {name!r}", fix=nearest(name, known) if known else ""
            )
    given = _by_name(inputs, args, kwargs)
    numbers = {n: v for n, v in given.items() if isinstance(v, (int, float))}
    tensors = {n: v for n, v in given.items() if n not in numbers}
    sizes = _sizes(inputs, tensors)
    kept = set(known if axes is None else axes)
    bound = []
    for value in inputs:
        if value.name in numbers:
            _check_number(value, numbers[value.name])
            bound.append(value)
            continue
        shape = value.shape
        if shape is None:
            if value.name not in tensors:
                raise InputError(
                    f"the file does not say how many dimensions {value.name} has",
                    fix="give example arguments",
                )
            shape = tuple(tensors[value.name].shape)
        fixed = tuple(d if d in kept else sizes.get(d, d) for d in shape)
        left = [d for d in fixed if isinstance(d, str) and d not in kept]
        if left:
            raise InputError(
                f"the size of the axis {left[0]} of {value.name} is not known",
                fix="give example arguments, or let the axis be dynamic",
            )
        bound.append(replace(value, shape=fixed))
    dynamic = [name for name in known if name in kept]
    found = {
        name: _axis_of(f"s{i}", name, (axes or {}).get(name), sizes.get(name))
        for i, name in enumerate(dynamic)
    }
    return Bound(tuple(bound), numbers, found)


def _by_name(
    inputs: tuple[OnnxInput, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    names = [value.name for value in inputs]
    wanted = "; ".join(map(str, inputs))
    if not args and not kwargs:
        return {}
    unknown = sorted(set(kwargs) - set(names))
    if unknown or len(args) > len(names):
        raise InputError(
            f"the model takes no input {unknown[0]!r}"
            if unknown
            else f"the model takes {len(names)} inputs; {len(args)} were given",
            why=f"its inputs are {wanted}",
            fix="give them in this order, or by name",
        )
    given = dict(zip(names, args, strict=False))
    twice = sorted(set(given) & set(kwargs))
    missing = [name for name in names if name not in given and name not in kwargs]
    if twice or missing:
        raise InputError(
            f"the input {(twice or missing)[0]} is given {'twice' if twice else 'not at all'}",
            why=f"the model's inputs are {wanted}",
            fix="give each once",
        )
    given |= kwargs
    return {name: given[name] for name in names}


def _sizes(inputs: tuple[OnnxInput, ...], tensors: Mapping[str, Any]) -> dict[int | str, int]:
    """Size of each dynamic axis in the arguments; each argument fits what the file declares."""
    found: dict[int | str, int] = {}
    for value in inputs:
        tensor = tensors.get(value.name)
        if tensor is None:
            continue
        if not isinstance(tensor, torch.Tensor):
            raise InputError(
                f"the argument {value.name} is a {type(tensor).__name__}",
                why=f"the model takes {value}",
                fix="give a torch.Tensor, or a number that is to be compiled in",
            )
        if tensor.dtype != value.dtype:
            raise InputError(
                f"the argument {value.name} is {str(tensor.dtype).removeprefix('torch.')}",
                why=f"the model takes {value}",
                fix=f"convert it with .to({value.dtype})",
            )
        if value.shape is None:
            continue
        fits = tensor.dim() == len(value.shape)
        for size, dim in zip(tensor.shape, value.shape, strict=fits) if fits else ():
            fits &= size == (found.setdefault(dim, size) if isinstance(dim, str) else dim)
        if not fits:
            raise InputError(
                f"the argument {value.name} has the shape {list(tensor.shape)}",
                why=f"the model takes {value}, where a name is one size for all inputs",
                fix="give example arguments of these shapes",
            )
    return found


def _check_number(value: OnnxInput, number: Number) -> None:
    if value.shape not in ((), (1,)):
        raise InputError(
            f"the argument {value.name} is the number {number}",
            why=f"the model takes {value}",
            fix="only an input of one number can be compiled in; give a torch.Tensor",
        )


def _axis_of(symbol: str, name: str, limits: Limits, size: int | None) -> Axis:
    low, high, step = (*(limits or (1, None)), 1)[:3]
    if low < 1 or step < 1 or (high is not None and high // step < -(-low // step)):
        raise OptionError(
            f"the axis {name} cannot have {low} to {high} in steps of {step} as its sizes",
            fix="give (least, largest) or (least, largest, step); None for no largest",
        )
    axis = Axis(symbol, Range(-(-low // step), None if high is None else high // step), step)
    if size is not None and not axis.admits(size):
        steps = f" in steps of {step}" if step > 1 else ""
        raise InputError(
            f"the axis {name} has the size {size} in the arguments",
            why=f"it was declared as {low} to {high}{steps}",
            fix="give example arguments of a size that it may have",
        )
    return axis
