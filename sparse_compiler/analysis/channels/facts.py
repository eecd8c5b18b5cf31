"""What an op does to channels: which are constant, which must stay, and how to do without the rest.

Facts about a tensor are tensors themselves, of its rank. Their shape is its *frame*: full along
dimensions that hold channels, 1 along the others, on which all elements share the fact. A mask is
a frame of bools; labels of channels are a frame of whole numbers, joined by maximum as masks are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, TypeAlias

import torch

from ...ir.graph import Node
from ...ir.op import Op
from ...ir.refusal import No
from ...ir.types import Dim, TensorType, Type

Mask: TypeAlias = torch.Tensor
Masks: TypeAlias = tuple[Mask, ...]
Frame: TypeAlias = tuple[int, ...]

MAX_FACTS = 1 << 24
"""Elements of a frame, or of a map of constants; what is larger is not looked into."""


@dataclass(frozen=True)
class Term:
    """A value that depends on weights alone. load: computes its numbers as they are now."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], torch.Tensor] = field(compare=False, repr=False)

    @property
    def tensor(self) -> torch.Tensor:
        """The numbers, computed once."""
        return self.load()


@dataclass(frozen=True)
class Facts:
    """known: mask of what is the same at every call; term: its numbers there, in a shape that
    broadcasts to the value's; elsewhere they mean nothing. fixed: the value is one of weights."""

    known: Mask
    term: Term | None = None
    fixed: bool = False

    @property
    def frame(self) -> Frame:
        return tuple(self.known.shape)

    @cached_property
    def zero(self) -> Mask:
        """Where the value is known to be 0 at every position."""
        if self.term is None:
            return torch.zeros_like(self.known)
        return self.known & fit_all(self.term.tensor == 0, self.frame)


class Terms(Protocol):
    """Makes values of weights out of such values."""

    def fixed(self, name: str) -> Term:
        """The weight-time value `name` of the graph."""

    def add(self, op: Op, inputs: Sequence[Term], name: str) -> Term:
        """`op` on `inputs`; it is put into the graph only where it is read."""

    def pattern(self, weight: Term, groups: int) -> Mask:
        """[groups, outputs, inputs]: which outputs of a layer read which inputs of their group."""

    def reading(self, weight: Term, groups: int) -> Mask:
        """[groups, outputs]: which outputs read any input; from facts alone where they say all."""

    def read(self, weight: Term, groups: int) -> Mask:
        """[groups, inputs]: which inputs of their group any output reads; from facts likewise."""


@dataclass(frozen=True)
class Site:
    """A node with what is known of its inputs. types, facts: of the inputs; result: the type."""

    node: Node
    types: tuple[TensorType, ...]
    facts: tuple[Facts, ...]
    result: TensorType
    terms: Terms

    def name(self, suffix: str) -> str:
        return f"{self.node.name}.{suffix}"


class Emit(Protocol):
    """Writes the narrow graph."""

    def input(self, index: int, mask: Mask | None = None) -> str:
        """Input number `index` as it is now; a value of weights cut down to `mask` (a product)."""

    def take(self, term: Term, dim: int, keep: Mask) -> str:
        """The elements of a value of weights along one dimension that a vector of bools keeps."""

    def term(self, term: Term) -> str:
        """A value of weights, put into the graph."""

    def add(self, op: Op, inputs: Sequence[str], name: str) -> str:
        """A new node."""

    def count(self, weight: str, nonzero: int, effective: int) -> None:
        """Notes how many of a layer's non-zeros still read and feed something."""

    def result(self, op: Op, inputs: Sequence[str]) -> None:
        """The node that takes this node's place."""


class ChannelRule:
    """The safe rule, of an op that says nothing: nothing is known of its result, all is needed."""

    known_rule = False

    def facts(self, site: Site) -> Facts:
        """What is known of the result, and its frame."""
        return unknown(site.result, ())

    def needs(self, site: Site, alive: Mask) -> Masks:
        """Which elements of each input decide those of the result that are alive."""
        return tuple(torch.full(f.frame, bool(alive.any())) for f in site.facts)

    def ties(self, site: Site, inputs: Masks, alive: Mask) -> tuple[Masks, Mask]:
        """The masks enlarged until narrow inputs give a narrow result; again with labels."""
        return inputs, alive

    def narrow(self, site: Site, inputs: Masks, alive: Mask, emit: Emit) -> None:
        """Emits the op on inputs of which only these elements are left."""
        emit.result(site.node.op, [emit.input(i) for i in range(len(inputs))])

    def reason(self, site: Site) -> No | None:
        """Why the op keeps channels alive that its readers do not need."""
        return No("unknown_channel_rule", f"{site.node.op.name} is taken to read every channel")


def sizes(type_: Type) -> tuple[Dim, ...]:
    return type_.shape if isinstance(type_, TensorType) else ()


def unknown(type_: TensorType, dims: Sequence[int]) -> Facts:
    """Nothing known of a tensor with channels along `dims`, those of fixed size among them."""
    frame = tuple(
        size if d in dims and isinstance(size, int) else 1 for d, size in enumerate(type_.shape)
    )
    total = 1
    for size in frame:
        total *= size
    return Facts(torch.zeros(frame if total <= MAX_FACTS else (1,) * type_.rank, dtype=torch.bool))


def fit(mask: Mask, frame: Frame) -> Mask:
    """A mask in another frame of the same rank: an element stands if any of its part does."""
    for d, size in enumerate(frame):
        if size == 1 and mask.shape[d] > 1:
            mask = mask.amax(d, keepdim=True)
    return mask.expand(frame)


def fit_all(mask: Mask, frame: Frame) -> Mask:
    """The same, where an element stands only if all of its part does."""
    while mask.dim() < len(frame):
        mask = mask.unsqueeze(0)
    for d, size in enumerate(frame):
        if size == 1 and mask.shape[d] > 1:
            mask = mask.amin(d, keepdim=True)
    return mask.expand(frame)


def along(mask: Mask, dim: int, size: int) -> Mask:
    """The mask as a vector along one dimension, of `size` elements."""
    dim %= mask.dim()
    others = [d for d in range(mask.dim()) if d != dim]
    return (mask.amax(others) if others else mask).reshape(-1).expand(size)


def across(mask: Mask, dim: int, size: int) -> Mask:
    """The same, true only where the whole rest is."""
    dim %= mask.dim()
    others = [d for d in range(mask.dim()) if d != dim]
    return (mask.amin(others) if others else mask).reshape(-1).expand(size)


def upright(vector: Mask, dim: int, rank: int) -> Mask:
    """A vector as a mask of that rank along dimension `dim`."""
    shape = [1] * rank
    shape[dim] = -1
    return vector.reshape(shape)


def channel_dims(frame: Frame) -> tuple[int, ...]:
    return tuple(d for d, size in enumerate(frame) if size > 1)


def whole(mask: Mask, dims: Sequence[int]) -> Mask:
    """The mask with everything along `dims` alive where anything is."""
    for d in dims:
        mask = mask.amax(d, keepdim=True).expand(mask.shape)
    return mask


def rectangular(mask: Mask) -> Mask:
    """The smallest product of ranges of channels that holds the mask."""
    dims = channel_dims(tuple(mask.shape))
    if len(dims) < 2:
        return mask
    result = torch.ones((), dtype=torch.int64)
    for d in dims:
        kept = mask.amax([o for o in range(mask.dim()) if o != d], keepdim=True)
        result = result * (kept != 0)
    return torch.maximum(mask, _like(result.expand(mask.shape), mask))


def ragged(mask: Mask, minor: int) -> Mask:
    """As many elements along `minor` for each of the other channels that has any, each its own.

    Heads may keep different features, but each as many. What is filled up are the first.
    """
    dims = channel_dims(tuple(mask.shape))
    if minor not in dims or len(dims) < 2:
        return mask
    if len(dims) > 2:
        return rectangular(mask)
    (major,) = (d for d in dims if d != minor)
    flat = (mask != 0).movedim((major, minor), (0, 1)).reshape(mask.shape[major], mask.shape[minor])
    counts = flat.sum(1)
    wanted = int(counts.max())
    if wanted == 0:
        return mask
    rows = flat.clone()
    for row in torch.nonzero((counts > 0) & (counts < wanted)).flatten().tolist():
        free = torch.nonzero(~rows[row]).flatten()[: wanted - int(counts[row])]
        rows[row, free] = True
    shape = [1] * mask.dim()
    shape[major], shape[minor] = flat.shape
    filled = rows if major < minor else rows.t()
    return torch.maximum(mask, _like(filled.reshape(shape), mask))


def _like(filled: Mask, mask: Mask) -> Mask:
    """What is filled up, as bools, or as labels: the greatest one where there is none yet."""
    if mask.dtype == torch.bool:
        return filled.bool()
    return torch.where((mask == 0) & (filled != 0), mask.max(), mask)


def count_along(mask: Mask, dim: int, size: Dim) -> Dim:
    """How many elements the dimension has once only the mask is left, which is even (`ragged`)."""
    if mask.shape[dim] == 1:
        return size
    flat = mask.movedim(dim, 0).reshape(mask.shape[dim], -1)
    last = dim == channel_dims(tuple(mask.shape))[-1]
    return int(flat.sum(0).max()) if last else int(flat.any(1).sum())
