"""What a storage format states: its ideal size, and a cost for each kernel that reads it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol

import sympy

from ..ir.refusal import No
from ..registry import Registry
from .cost import (
    CONV_COPIES,
    ONE,
    VECTORS,
    ConvShape,
    Cost,
    LinearShape,
    Machine,
    P,
    Shape,
    T,
    Terms,
    W,
    ceil_div,
    groups,
    k,
    m,
    taps,
)

_FIRST_LAYER = 4
"""Channels up to which oneDNN does not pad them to whole vectors."""

_CHANNELS = sympy.Piecewise((k / taps, k <= _FIRST_LAYER * taps), (W * ceil_div(k, taps * W), True))

TORCH_LINEAR = Cost(
    "torch_linear",
    (("call", ONE), ("macs", m * k * P / (W * T)), ("rows", (m + k) * P)),
    bytes=4 * m * k,
    guess=(4000.0, 0.17, 0.01),
)
"""torch's dense linear: a call, every weight times every column, the activations."""

TORCH_CONV = Cost(
    "torch_conv",
    (
        ("call", ONE),
        ("macs", groups * ceil_div(m, groups * W) * _CHANNELS * taps * P / T),
        ("reorder", m * k),
        ("rows", (m + k / taps * groups) * P),
    ),
    bytes=4 * m * k,
    guess=(20_000.0, 0.15, 0.115, 0.0),
)
"""torch's dense convolution: on whole vectors of channels, and bringing the weight and the images
into oneDNN's order, which happens at every call."""

TORCH_DEPTHWISE = Cost(
    "torch_depthwise",
    (("call", ONE), ("macs", m * k * P / (W * T))),
    bytes=4 * m * k,
    guess=(20_000.0, 1.2),
)
"""torch's convolution with one input channel to each group: bound by memory."""


def torch_conv_ns(shape: ConvShape, machine: Machine, threads: int) -> float:
    """What torch's dense convolution takes."""
    cost = TORCH_DEPTHWISE if shape.depthwise else TORCH_CONV
    return cost.ns(shape, machine, threads)


def torch_linear_ns(shape: LinearShape, machine: Machine, threads: int) -> float:
    """What torch's dense linear takes."""
    return TORCH_LINEAR.ns(shape, machine, threads)


VALUE_TYPES = ("fp32", "fp16", "bf16")
"""How numbers may be stored, in the order of `ValueType` in pack.h."""
_C_TYPES = {"fp32": "", "fp16": "F16", "bf16": "Bf16"}


class Tiling(Protocol):
    """How the packer cuts a weight: columns of a tile, rows of a block; p: as in pack.h."""

    k_tile: int
    row_block: int
    p: int


def lines(*sizes: int) -> int:
    """Bytes of a header and arrays that begin at cache lines."""
    return 128 + sum(-(-size // 64) * 64 for size in sizes)


@dataclass(frozen=True)
class Format:
    """One way to store a weight; the target has a packer and kernels for its family.

    values: one of `VALUE_TYPES`. family: names the packer's functions and the kernels. decode: the
    cost of the kernel for linears on up to `decode_columns` columns, None where `linear` runs them
    too.
    """

    values: str = "fp32"

    family: ClassVar[str]
    decode: ClassVar[Cost | None] = None
    decode_columns: ClassVar[int] = 8

    @property
    def linear(self) -> Cost:
        """The cost of its kernel for linears."""
        raise NotImplementedError(f"the format {self.name} has no kernel")

    @property
    def conv(self) -> Cost | None:
        """The cost of its kernel for convolutions; None where there is none."""
        return None

    @property
    def parameters(self) -> tuple[int, int]:
        """p and q of the packer: rows and columns of a block, N and M, or zeros."""
        return 0, 0

    @property
    def name(self) -> str:
        """The family, its parameters, the type of its values unless that is fp32."""
        return self.stem + ("" if self.values == "fp32" else f"_{self.values}")

    @property
    def stem(self) -> str:
        """The name without the type of the values."""
        return "_".join([self.family, *map(str, self._sizes)])

    @property
    def kernel(self) -> str:
        """What linear_ and conv_ are called for it: a name and its template arguments."""
        arguments = [*map(str, self._template), *filter(None, [_C_TYPES[self.values]])]
        return self._kernels + (f"<{', '.join(arguments)}>" if arguments else "")

    @property
    def value_bytes(self) -> int:
        """Bytes of a stored number."""
        return 4 if self.values == "fp32" else 2

    @property
    def _kernels(self) -> str:
        return self.family

    @property
    def _sizes(self) -> tuple[int | str, ...]:
        return ()

    @property
    def _template(self) -> tuple[int, ...]:
        return ()

    def ideal_bits(self, rows: int, columns: int, nnz: int, bits: int) -> float:
        """Size of values of `bits` bits and their index, without padding (Hoefler et al., 2.2)."""
        raise NotImplementedError(f"the format {self.name} has no size")

    def stored_bytes(self, rows: int, columns: int, stored: int, tiles: Tiling) -> int:
        """Size of the packed weight of one group, its arrays padded to cache lines."""
        raise NotImplementedError(f"the format {self.name} has no size")

    def ideal_bits_of(self, facts: Any, bits: int) -> float:
        """`ideal_bits` of a weight with these `SparsityFacts`."""
        return self.ideal_bits(facts.rows, facts.columns, self.stored(facts), bits)

    def fits(self, facts: Any) -> No | None:
        """Why a weight with these `SparsityFacts` cannot be stored so; None where it can."""
        return None

    def stored(self, facts: Any) -> int:
        """Elements that the kernel walks, with padding."""
        return int(facts.nnz)

    def apart(self, facts: Any) -> int:
        """Those of them in the first part of a split."""
        return 0

    def cost_of(self, shape: Shape, vector: int) -> Cost | None:
        """The cost of the kernel that runs this shape with so many floats per vector; None where
        there is none."""
        if isinstance(shape, ConvShape):
            return self.conv
        small = self.decode is not None and shape.n <= self.decode_columns
        return self.decode if small else self.linear

    def linear_ns(self, shape: LinearShape, machine: Machine, threads: int) -> float:
        """Predicted time of a linear in nanoseconds."""
        cost = self.cost_of(shape, machine.vector)
        return math.inf if cost is None else cost.ns(shape, machine, threads)

    def conv_ns(self, shape: ConvShape, machine: Machine, threads: int) -> float:
        """Predicted time of a convolution in nanoseconds; infinite where no kernel can run it."""
        cost = self.cost_of(shape, machine.vector)
        return math.inf if cost is None else cost.ns(shape, machine, threads)


class PanelFormat(Format):
    """A format whose linears and convolutions are one kernel over panels of activations.

    Its costs have the same terms, and those of making the panels.
    """

    @cached_property
    def linear(self) -> Cost:
        """The cost of its kernel for linears."""
        return Cost(
            f"linear_{self._timed_as}",
            (*self._terms, ("copy", k * VECTORS)),
            bytes=self._bytes,
            guess=(*self._guess, 1.51),
        )

    @cached_property
    def conv(self) -> Cost:
        """The cost of its kernel for convolutions."""
        return Cost(
            f"conv_{self._timed_as}",
            (*self._terms, *CONV_COPIES),
            bytes=self._bytes,
            guess=(*self._guess, 1.04, 0.81, 2.1, 2.9),
        )

    @property
    def _timed_as(self) -> str:
        """The kernel, as coefficients name it."""
        return self.family

    @property
    def _terms(self) -> Terms:
        raise NotImplementedError(f"the format {self.name} has no cost")

    @property
    def _guess(self) -> tuple[float, ...]:
        """c_i of these terms until they are fitted."""
        raise NotImplementedError(f"the format {self.name} has no cost")

    @property
    def _bytes(self) -> sympy.Expr:
        """Bytes read at every call, over `SYMBOLS`."""
        raise NotImplementedError(f"the format {self.name} has no cost")


class FormatRegistry(Registry[Format]):
    """Formats by name. Those entered are asked for every weight; a family's others, such as
    `nm_3_7` or `csr_fp16`, are made when they are named."""

    def __init__(self) -> None:
        super().__init__("format", "sparse_compiler.formats")
        self._families: list[Callable[[str], Format | None]] = []
        self._suggest: list[Callable[[Any], Iterable[str]]] = []

    def family(
        self, parse: Callable[[str], Format | None], suggest: Callable[[Any], Iterable[str]]
    ) -> None:
        """Enters a family. parse: reads names, None for what is none of its own; suggest: names
        that the facts about a weight speak for, beside those entered."""
        self._families.append(parse)
        self._suggest.append(suggest)

    def candidates(self, facts: Any) -> tuple[str, ...]:
        """Names of the formats that fit a weight with these facts; dense is always one."""
        names = [*self, *(name for suggest in self._suggest for name in suggest(facts))]
        return tuple(n for n in dict.fromkeys(names) if self[n].fits(facts) is None)

    def __getitem__(self, name: str) -> Format:
        return self._made(name) or super().__getitem__(name)

    def __contains__(self, name: str) -> bool:
        return self._made(name) is not None or super().__contains__(name)

    def _made(self, name: str) -> Format | None:
        self._load()
        if name in self._entries:
            return self._entries[name]
        stem, _, values = name.rpartition("_")
        if values in VALUE_TYPES[1:]:
            format_ = self._made(stem)
            return None if format_ is None else replace(format_, values=values)
        return next(filter(None, (parse(name) for parse in self._families)), None)


FORMATS = FormatRegistry()


def candidates(facts: Any) -> tuple[str, ...]:
    """Names of the formats worth predicting for a weight with these `SparsityFacts`."""
    return FORMATS.candidates(facts)
