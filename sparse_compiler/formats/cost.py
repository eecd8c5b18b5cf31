"""Time of a kernel as a formula: max(sum of c_i * term_i(shape), bytes / bandwidth), nanoseconds.

The terms are sympy expressions over the shape, so two costs can be solved for the number of columns
at which one overtakes the other. The c_i are fitted to measured kernels, per vector width, on one
reference core (`coefficients.py`); a machine scales them by what calibration measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol, TypeAlias

import sympy

from ..ir.refusal import No
from .bands import bands_of
from .coefficients import COEFFICIENTS

m, k, nnz, stored, apart, P, taps, groups, strided, sums, panels, T, W = SYMBOLS = sympy.symbols(
    "m k nnz stored apart P taps groups strided sums panels T W", nonnegative=True
)
"""Rows and columns of the weight (channels of a group times taps), its non-zeros, the elements that
the format stores with padding, those of them in the first part of a split, columns of activations,
taps of a kernel (1 for a linear), groups, 1 where neighbours in the output are not neighbours in
the input, vectors of sums and panels where bands of image rows serve the layer (bands.py; else 0),
threads, floats per vector."""

Terms: TypeAlias = tuple[tuple[str, sympy.Expr], ...]
"""Names, and expressions over `SYMBOLS`."""

REFERENCE_NS = 0.125
"""Time of a vector multiply-add on the core on which coefficients were fitted."""

LEAST_NS = 1.0
"""No call is for nothing."""


@dataclass(frozen=True)
class Machine:
    """vector: floats per vector; flops_per_ns: peak of one core; bytes_per_ns: of all memory.

    cache_bytes, cache_bytes_per_ns: the same for what stays in the shared cache between calls.
    torch_vector: floats per vector in torch's own kernels, 0 for the same. scale: measured time
    over the reference core's, by kernel ("linear_csr"); torch: coefficients of `TORCH_LINEAR` and
    its like. The figures that stand here are for tests: the same everywhere, and of no machine.
    """

    vector: int = 8
    flops_per_ns: float = 100.0
    bytes_per_ns: float = 28.0
    cache_bytes: int = 16 << 20
    cache_bytes_per_ns: float = 64.0
    torch_vector: int = 0
    scale: tuple[tuple[str, float], ...] = ()
    torch: tuple[tuple[str, tuple[float, ...]], ...] = ()

    @cached_property
    def _scales(self) -> Mapping[str, float]:
        return dict(self.scale)

    @cached_property
    def _torch(self) -> Mapping[str, tuple[float, ...]]:
        return dict(self.torch)

    def format_ns(self, format_: Timed, shape: Shape, threads: int) -> float:
        """Predicted nanoseconds of a layer in a format; infinite where it has no kernel for it."""
        if isinstance(shape, ConvShape):
            return format_.conv_ns(shape, self, threads)
        return format_.linear_ns(shape, self, threads)

    def ideal_ns(self, shape: Shape) -> float | None:
        """What torch's dense layer takes by public figures alone; None where it is measured."""
        return None

    def limit(self, format_: Timed, shape: Shape) -> No | None:
        """Why the better of a format's kernels cannot run a layer, where it has two."""
        return None

    def dense_flops_per_ns(self, threads: int) -> float:
        """The peak at which a dense layer is computed."""
        return self.flops_per_ns * threads

    def without_memory(self) -> Machine:
        """The same with memory that costs nothing."""
        return replace(self, bytes_per_ns=1e9, cache_bytes_per_ns=1e9)

    def stream_ns(self, size: float) -> float:
        """Reading `size` bytes of weights once."""
        cached = size <= self.cache_bytes
        return size / (self.cache_bytes_per_ns if cached else self.bytes_per_ns)

    @property
    def slowness(self) -> float:
        """Time of one vector multiply-add relative to the core on which costs were fitted."""
        return 2 * self.vector / self.flops_per_ns / REFERENCE_NS

    def scale_of(self, kernel: str) -> float:
        """Time of a kernel relative to the reference core: measured, else that of a multiply-add.

        A kernel that was not measured takes after csr's for such layers, so that an error in it
        changes no choice between sparse formats; or after the mean of all.
        """
        layer = kernel.partition("_")[0]
        keys = (kernel, f"{layer}_csr", "")
        return next((self._scales[key] for key in keys if key in self._scales), self.slowness)

    def torch_coefficients(self, kernel: str) -> tuple[float, ...] | None:
        """What calibration measured for a kernel of torch's."""
        return self._torch.get(kernel)


@dataclass(frozen=True)
class LinearShape:
    """A [rows, columns] weight with nnz non-zeros applied to n columns of activations.

    stored: elements with the format's padding; nnz where it is not said. apart: those of them in
    the first part of a split.
    """

    rows: int
    columns: int
    nnz: int
    n: int
    stored: int | None = None
    apart: int = 0

    def numbers(self, vector: int, threads: int) -> tuple[float, ...]:
        """The values of `SYMBOLS`."""
        stored = self.nnz if self.stored is None else self.stored
        sizes = self.rows, self.columns, self.nnz, stored, self.apart
        return (*sizes, self.n, 1, 1, 0, 0, 0, threads, vector)


@dataclass(frozen=True)
class ConvShape:
    """A [rows, columns] weight with nnz non-zeros, of all groups, applied to n output columns.

    columns: channels of a group times taps. strided: neighbours in the output are not neighbours in
    the input (any stride above 1, or an output of another width). stored, apart: as in
    `LinearShape`. image: as `Conv.plain_image` gives it.
    """

    rows: int
    columns: int
    nnz: int
    n: int
    taps: int
    groups: int = 1
    strided: bool = False
    stored: int | None = None
    apart: int = 0
    image: tuple[int, ...] = ()

    @property
    def depthwise(self) -> bool:
        """One input channel to each group."""
        return self.columns == self.taps and self.groups > 1

    def numbers(self, vector: int, threads: int) -> tuple[float, ...]:
        """The values of `SYMBOLS`."""
        stored = self.nnz if self.stored is None else self.stored
        bands = bands_of(self.rows, self.image, vector, self.groups)
        samples = self.n / math.prod(self.image)
        cut = (bands.sums * samples, bands.panels * samples) if bands else (0, 0)
        return (
            *(self.rows, self.columns, self.nnz, stored, self.apart, self.n),
            *(self.taps, self.groups, int(self.strided), *cut, threads, vector),
        )


Shape = LinearShape | ConvShape


class Timed(Protocol):
    """A format, as a machine asks it for its times."""

    def linear_ns(self, shape: LinearShape, machine: Machine, threads: int) -> float: ...
    def conv_ns(self, shape: ConvShape, machine: Machine, threads: int) -> float: ...


@dataclass(frozen=True)
class Cost:
    """The formula of one kernel.

    kernel: its name, under which `COEFFICIENTS` holds the fitted c_i per vector width. terms: name
    and expression over `SYMBOLS`. bytes: read from memory at every call. guess: c_i until the
    kernel is fitted, in nanoseconds for 16 floats per vector. floor: any further lower bound, as
    an expression with its coefficient in it.
    """

    kernel: str
    terms: Terms
    bytes: sympy.Expr
    guess: tuple[float, ...] = field(default=(), compare=False)

    def ns(self, shape: Shape, machine: Machine, threads: int) -> float:
        """Predicted nanoseconds of one call."""
        width = self.width(machine)
        *found, size = self.values(shape, width, threads)
        parts = zip(self._in_force(machine), found, strict=True)
        busy = sum(c * value for c, value in parts)
        return max(busy, machine.stream_ns(size), LEAST_NS)

    def width(self, machine: Machine) -> int:
        """Floats per vector in this kernel."""
        torch_ = self.kernel.startswith("torch_") and machine.torch_vector
        return machine.torch_vector if torch_ else machine.vector

    def _in_force(self, machine: Machine) -> Sequence[float]:
        """The c_i on this machine."""
        measured = machine.torch_coefficients(self.kernel)
        if measured is not None:
            return measured
        scale = machine.scale_of(self.kernel)
        return [scale * c for c in self.coefficients(self.width(machine))]

    def values(self, shape: Shape, width: int, threads: int) -> list[float]:
        """The terms, then the bytes."""
        return _compiled(tuple(e for _, e in self.terms), self.bytes)(
            *shape.numbers(width, threads)
        )

    def coefficients(self, width: int) -> Sequence[float]:
        """The c_i for a vector width: fitted for it or the nearest, a vector taking about the same
        time at any width; guessed where the kernel was never measured."""
        fitted = COEFFICIENTS.get(self.kernel, {})
        near = min(fitted, key=lambda w: abs(w - width), default=None)
        if near is not None and len(fitted[near]) == len(self.terms):
            return fitted[near]
        return self.guess or (1.0,) * len(self.terms)

    def expression(self, machine: Machine) -> sympy.Expr:
        """The compute part in nanoseconds as one expression over `SYMBOLS`, for documents."""
        parts = zip(self._in_force(machine), self.terms, strict=True)
        return sympy.Add(*(c * e for c, (_, e) in parts))

    def line(self, shape: Shape, machine: Machine, threads: int) -> tuple[float, float, float]:
        """(a, b, s) with cost(P) = max(a + b*P, s) where P is a multiple of what is rounded up to.

        The compute part is linear in P beyond its rounding: two places give the line.
        """
        free = replace(machine, bytes_per_ns=math.inf, cache_bytes_per_ns=math.inf)
        first = 1680 * self.width(machine)
        near, far = (self.ns(replace(shape, n=n), free, threads) for n in (first, 2 * first))
        size = self.values(replace(shape, n=1), self.width(machine), threads)[-1]
        return 2 * near - far, (far - near) / first, machine.stream_ns(size)


@dataclass(frozen=True)
class SumOfCosts(Cost):
    """Two kernels one after the other; its terms are theirs, and so are its coefficients."""

    parts: tuple[Cost, ...] = ()

    def coefficients(self, width: int) -> Sequence[float]:
        return [c for part in self.parts for c in part.coefficients(width)]


@lru_cache(maxsize=512)
def _compiled(terms: tuple[sympy.Expr, ...], size: sympy.Expr) -> Callable[..., list[float]]:
    """The expressions as one Python function of `SYMBOLS`."""
    function: Callable[..., list[float]] = sympy.lambdify(
        SYMBOLS, [*terms, size], modules=["math", {"Max": max, "Min": min}], cse=True
    )
    return function


def ceil_div(a: Any, b: Any) -> sympy.Expr:
    """ceil(a / b)."""
    return sympy.ceiling(sympy.sympify(a) / b)


VECTORS = ceil_div(P, W)
"""Vectors of activations."""
DENSITY = nnz / (m * k)
ONE = sympy.Integer(1)


_SHARE = sympy.Max(VECTORS / T, sympy.Min(VECTORS, 16))
"""Vectors of a plane that a thread copies; as in `divide_conv` of conv.h, wide ones are shared."""
_COPIED = sympy.Piecewise(
    (sympy.Min(_SHARE, VECTORS / sympy.Min(T, groups)), groups > 1), (_SHARE, True)
)


def _when(condition: Any, value: sympy.Expr) -> sympy.Expr:
    return sympy.Piecewise((value, condition), (0, True))


CONV_COPIES: tuple[tuple[str, sympy.Expr], ...] = (
    ("rows", _when(sympy.Eq(taps, 1) & (strided < 1), _COPIED * k * groups)),
    ("windows", _when((taps > 1) & (strided < 1), _COPIED * k * groups)),
    ("strided", _when(strided > 0, _COPIED * k * groups)),
    ("mask", _when(taps > 1, _COPIED * taps)),
)
"""Making the vectors of all panels of a convolution, by how they lie in the input; the masks."""


def crossover(
    left: Cost, right: Cost, one: Shape, other: Shape, machine: Machine, threads: int
) -> int | None:
    """The smallest number of columns from which `left` stays faster than `right`; None for never.

    one, other: their shapes, whose `n` does not matter. Both costs are max(a + b*P, s): the places
    where two such lines meet are the candidates, in closed form; which side is faster between them
    is asked of the costs themselves, with all their rounding.
    """
    a, b, s = left.line(one, machine, threads)
    c, d, u = right.line(other, machine, threads)
    pairs = ((a - c, d - b), (u - a, b), (s - c, d))
    meets = sorted({math.ceil(x / y) for x, y in pairs if y and 1 < x / y < _FAR})
    starts = [1, *meets]
    found: int | None = None
    for start, end in zip(starts, [*meets, 4 * starts[-1] + 64 * machine.vector], strict=True):
        middle = (start + end) // 2
        wins = left.ns(replace(one, n=middle), machine, threads) < right.ns(
            replace(other, n=middle), machine, threads
        )
        found = None if not wins else start if found is None else found
    return found


_FAR = 1e6
