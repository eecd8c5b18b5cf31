"""Arithmetic on sizes while an ONNX graph is imported: shapes are known as expressions there.

`Reshape(x, Concat(Shape(x)[0] * 4, -1))` => a shape in the symbols of the inputs. Without this such
a size is a tensor for TVM's importer, and the result of the reshape has no known shape.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Sizes = NDArray[np.object_]  # of ints and of TVM's expressions
_MOST = 64  # numbers in a tensor that can be a list of sizes


class UnknownSizeError(Exception):
    """A value that is not known in terms of sizes."""


def as_sizes(values: Any) -> Sizes:
    """An array of objects with the shape of `values`."""
    array = np.asarray(values)
    found = np.empty(array.shape, object)
    for index in np.ndindex(array.shape):
        found[index] = int(array[index])
    return found


def evaluate(
    op: str, inputs: Sequence[Sizes | None], attributes: dict[str, Any], simplify: Any
) -> Sizes | None:
    """The result of an ONNX operator on sizes; None where it is not known."""
    function = _FUNCTIONS.get(op)
    if function is None or any(value is None for value in inputs):
        return None
    try:
        found = function([np.asarray(v, object) for v in inputs], attributes)
    except (UnknownSizeError, IndexError, TypeError, ValueError):
        return None
    if found.size > _MOST:
        return None
    simplified = np.empty(found.shape, object)
    for index in np.ndindex(found.shape):
        simplified[index] = simplify(found[index])
    return simplified


def is_number(value: Any) -> bool:
    """True for a size that is known now."""
    return isinstance(value, int)


def _binary(function: Callable[[Any, Any], Any]) -> Callable[..., Sizes]:
    def apply(inputs: list[Sizes], _: dict[str, Any]) -> Sizes:
        left, right = np.broadcast_arrays(*inputs)
        found = np.empty(left.shape, object)
        for index in np.ndindex(left.shape):
            found[index] = function(left[index], right[index])
        return found

    return apply


def _divide(a: Any, b: Any) -> Any:
    if not is_number(b) or b <= 0 or (is_number(a) and a < 0):
        raise UnknownSizeError  # ONNX rounds towards zero
    return a // b


def _equal(a: Any, b: Any) -> int:
    if is_number(a) and is_number(b):
        return int(a == b)
    numbers = [v for v in (a, b) if is_number(v)]
    if numbers and numbers[0] < 0:
        return 0  # a size is not negative
    raise UnknownSizeError


def _numbers_only(function: Callable[[int, int], int]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        if not (is_number(a) and is_number(b)):
            raise UnknownSizeError
        return function(a, b)

    return apply


def _gather(inputs: list[Sizes], attributes: dict[str, Any]) -> Sizes:
    if attributes.get("axis", 0) not in (0, -1) or inputs[0].ndim != 1:
        raise UnknownSizeError
    picked = np.empty(inputs[1].shape, object)
    for index in np.ndindex(inputs[1].shape):
        if not is_number(inputs[1][index]):
            raise UnknownSizeError
        picked[index] = inputs[0][inputs[1][index]]
    return picked


def _slice(inputs: list[Sizes], _: dict[str, Any]) -> Sizes:
    if inputs[0].ndim != 1:
        raise UnknownSizeError
    numbers = [list(i.reshape(-1)) for i in inputs[1:]]
    if not all(is_number(v) for some in numbers for v in some):
        raise UnknownSizeError
    start, end = numbers[0][0], numbers[1][0]
    step = numbers[3][0] if len(numbers) > 3 else 1
    return inputs[0][slice(start, end, step)] if step > 0 else inputs[0][start:end:step]


def _concat(inputs: list[Sizes], _: dict[str, Any]) -> Sizes:
    if any(i.ndim != 1 for i in inputs):
        raise UnknownSizeError
    return np.concatenate(inputs)


def _reshape(inputs: list[Sizes], _: dict[str, Any]) -> Sizes:
    shape = [int(v) for v in inputs[1].reshape(-1)]
    if 0 in shape:
        raise UnknownSizeError
    return inputs[0].reshape(shape)


def _unsqueeze(inputs: list[Sizes], attributes: dict[str, Any]) -> Sizes:
    axes = list(inputs[1].reshape(-1)) if len(inputs) > 1 else list(attributes["axes"])
    return np.expand_dims(inputs[0], tuple(int(a) for a in axes))


def _squeeze(inputs: list[Sizes], attributes: dict[str, Any]) -> Sizes:
    axes = list(inputs[1].reshape(-1)) if len(inputs) > 1 else list(attributes.get("axes", ()))
    return np.squeeze(inputs[0], tuple(int(a) for a in axes) or None)


def _constant_of_shape(inputs: list[Sizes], attributes: dict[str, Any]) -> Sizes:
    from onnx import numpy_helper

    shape = [int(v) if is_number(v) else _unknown() for v in inputs[0]]
    if np.prod(shape, initial=1) > _MOST:
        raise UnknownSizeError
    tensor = attributes.get("value")
    value = numpy_helper.to_array(tensor) if tensor is not None else np.zeros(1)
    if value.dtype.kind not in "iub":
        raise UnknownSizeError
    return np.full(shape, int(value.reshape(-1)[0]), object)


def _unknown() -> int:
    raise UnknownSizeError


def _product(inputs: list[Sizes], attributes: dict[str, Any]) -> Sizes:
    if inputs[0].ndim != 1:
        raise UnknownSizeError
    found: Any = 1
    for value in inputs[0]:
        found = found * value
    return np.array([found] if attributes.get("keepdims", 1) else found, object)


def _where(inputs: list[Sizes], _: dict[str, Any]) -> Sizes:
    if not all(is_number(v) for v in inputs[0].reshape(-1)):
        raise UnknownSizeError
    return np.asarray(np.where(inputs[0].astype(bool), inputs[1], inputs[2]), object)


_FUNCTIONS: dict[str, Callable[[list[Sizes], dict[str, Any]], Sizes]] = {
    "Add": _binary(lambda a, b: a + b),
    "Sub": _binary(lambda a, b: a - b),
    "Mul": _binary(lambda a, b: a * b),
    "Div": _binary(_divide),
    "Equal": _binary(_equal),
    "Min": _binary(_numbers_only(min)),
    "Max": _binary(_numbers_only(max)),
    "Identity": lambda inputs, _: inputs[0],
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "ConstantOfShape": _constant_of_shape,
    "ReduceProd": _product,
    "Where": _where,
}
