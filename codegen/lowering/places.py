"""Facts of places in memory: strides of stored values, rows that broadcasts read, lifetimes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from sparse_compiler.codegen.operands import Elements, Planes, ld_of
from sparse_compiler.codegen.program import Buffer, Call
from sparse_compiler.errors import CodegenError
from sparse_compiler.ir.types import Dim, TensorType, as_dim, product

Place: TypeAlias = Planes | Elements


def row_map(full: list[bool], sizes: list[Dim], name: str) -> tuple[Dim, Dim]:
    """(div, mod) of the row that a broadcast operand is read at: its dims left or right are 1."""
    if all(full):
        return 1, 0
    first = full.index(True) if True in full else len(full)
    last = len(full) - full[::-1].index(True) if True in full else 0
    if first == len(full):
        return product(sizes), 0
    if not all(full[first:last]):
        raise CodegenError(f"%{name} is broadcast along planes in the middle")
    div = product(sizes[last:])
    mod = 0 if first == 0 else product(sizes[first:last])
    return div, mod


def strides_of(type_: TensorType, place: Place) -> tuple[Dim, ...]:
    """Elements from one index to the next of each logical dimension of a stored value."""
    strides: list[Dim] = [0] * type_.rank
    step: Dim = 1
    if isinstance(place, Elements) or type_.layout is None:
        for d in reversed(range(type_.rank)):
            strides[d] = step
            step = as_dim(step * type_.shape[d])
        return tuple(strides)
    for d in reversed(type_.layout.inner):
        strides[d] = step
        step = as_dim(step * type_.shape[d])
    step = ld_of(place.space)
    for d in reversed(type_.layout.outer):
        strides[d] = step
        step = as_dim(step * type_.shape[d])
    return tuple(strides)


def with_lifetimes(buffers: Sequence[Buffer], calls: Sequence[Call]) -> list[Buffer]:
    """Buffers with the calls between which they are in use."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    foreign: set[int] = set()
    for i, call in enumerate(calls):
        for place, mode in call.places:
            if isinstance(place, Elements) and place.kind != "buffer":
                continue
            index = place.buffer if isinstance(place, Planes) else place.index
            first.setdefault(index, i)
            last[index] = i
            if mode == "foreign" or not keeps_to_columns(call, place, mode):
                foreign.add(index)
    return [
        replace(b, first=first.get(i, 0), last=last.get(i, 0), foreign=i in foreign)
        for i, b in enumerate(buffers)
    ]


def keeps_to_columns(call: Call, place: Place, mode: str) -> bool:
    """True where each thread touches only columns of its own, if threads hold columns."""
    return mode != "foreign" and isinstance(place, Planes) and place.space == call.tokens
