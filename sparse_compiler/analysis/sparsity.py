"""Where the zeros of a weight lie: counts, block fill, N:M-ness, spread of row lengths, a name.

The weight is viewed as a matrix [rows = dim 0, columns = the rest] and turned into one bit per
element, 64 columns to a word. Every fact is then a few word-wide operations on 1/32 of the bytes:
blocks of r rows are an OR of r words, blocks of c columns an OR within lanes of c bits, and group
counts a popcount by lanes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from sparse_compiler.errors import UnsupportedError

Words: TypeAlias = npt.NDArray[np.uint64]

BLOCK_SIDES = (4, 8, 16, 32)
BLOCK_SHAPES = tuple(
    shape for side in BLOCK_SIDES for shape in ((side, 1), (1, side), (side, side))
)
SORTED_SHAPES = ((4, 1), (8, 1))
GROUP_SIZES = (4, 8, 16)
SPLIT_GROUPS = ((1, 4), (2, 4), (4, 8))
"""N:M patterns whose exceptions are counted."""
MOST_BEYOND = 0.05
"""Exceptions are worth counting where at most about this share of the non-zeros are."""

HIGH_FILL = 0.75
"""A block shape counts only if at least this share of what it stores is non-zero ..."""
MIN_COVER = 0.5
"""... and at least this share of the zeros lies outside the stored blocks. A random matrix meets
the first only at a density near `HIGH_FILL` and above, where it has next to no empty blocks."""
NEARLY_ALL = 0.99
"""Density from which a matrix, or its live part, is dense with a few incidental zeros."""
TIGHT_GROUPS = 0.9
"""N:M is a name only where the groups hold at least this share of their N·(groups) places;
a matrix may well be so sparse that no group happens to exceed N."""


@dataclass(frozen=True)
class BlockFill:
    """How a weight would sit in aligned blocks of `rows` x `columns`.

    `fill` = nnz / elements stored when every block that holds a non-zero is stored whole, padding
    at ragged edges included; `blocks` is the number of stored blocks.
    """

    rows: int
    columns: int
    blocks: int
    fill: float

    @property
    def shape(self) -> str:
        return f"{self.rows}x{self.columns}"

    @property
    def stored(self) -> int:
        """Elements stored, padding included."""
        return self.blocks * self.rows * self.columns


@dataclass(frozen=True)
class SparsityFacts:
    """The facts about one weight, viewed as a matrix [`rows` = dim 0, `columns` = the rest].

    zero_rows, zero_columns: counts of all-zero rows and columns of that matrix.
    zero_inputs: all-zero slices along dim 1; for a convolution its dead input channels (within a
        group), for a 2-D weight the same as `zero_columns`.
    block_fills: every shape of `BLOCK_SHAPES`.
    sorted_fills: of `SORTED_SHAPES`, were rows sorted by their patterns.
    block: the shape that saves most, or None. Rule: among the shapes with fill >= `HIGH_FILL` and
        at least `MIN_COVER` of the zeros outside the stored blocks, the one with the fewest
        stored elements + indices (one index per block); on a tie the larger block.
    groups: (M, N) for M in `GROUP_SIZES`: the smallest N such that every aligned group of M in a
        row has at most N non-zeros; None where M does not divide the width or N = M.
    beyond: (N, M, non-zeros beyond the first N of their aligned group of M) for those patterns of
        `SPLIT_GROUPS` that the density speaks for.
    full_*: rows and columns that are at least half full, and the non-zeros in them.
    row_*: non-zeros per row; `row_cv` is the coefficient of variation, standard deviation / mean.
    nonfinite: NaN and infinities, which all count as non-zeros. -0.0 counts as a zero.
    pattern: a name, see `name_pattern`.
    """

    shape: tuple[int, ...]
    rows: int
    columns: int
    nnz: int
    density: float
    zero_rows: int
    zero_columns: int
    zero_inputs: int
    block_fills: tuple[BlockFill, ...]
    sorted_fills: tuple[BlockFill, ...]
    block: BlockFill | None
    groups: tuple[tuple[int, int | None], ...]
    beyond: tuple[tuple[int, int, int], ...]
    full_rows: int
    full_row_nnz: int
    full_columns: int
    full_column_nnz: int
    row_min: int
    row_max: int
    row_mean: float
    row_cv: float
    nonfinite: int
    pattern: str

    @property
    def numel(self) -> int:
        return self.rows * self.columns

    @property
    def sparsity(self) -> float:
        """Share of zeros; 0 for a weight without elements."""
        return 1.0 - self.density if self.numel else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, ready for `json.dumps`."""
        return {
            "shape": list(self.shape),
            "nnz": self.nnz,
            "density": self.density,
            "zero_rows": self.zero_rows,
            "zero_columns": self.zero_columns,
            "zero_inputs": self.zero_inputs,
            "block": self.block.shape if self.block else None,
            "block_fill": self.block.fill if self.block else None,
            "block_fills": {b.shape: b.fill for b in self.block_fills},
            "n_of_m": {str(m): n for m, n in self.groups},
            "row_length": {
                "min": self.row_min,
                "max": self.row_max,
                "mean": self.row_mean,
                "cv": self.row_cv,
            },
            "nonfinite": self.nonfinite,
            "pattern": self.pattern,
        }


def sparsity_facts(weight: torch.Tensor) -> SparsityFacts:
    """The facts about `weight`: any strided tensor of one dimension or more, any dtype.

    Raises UnsupportedError for a tensor without dimensions, without storage (meta, lazy) or in a
    sparse layout.
    """
    _check(weight)
    weight = weight.detach()
    shape = tuple(weight.shape)
    rows, columns = shape[0], math.prod(shape[1:])
    nonzero = (weight != 0).reshape(rows, columns).contiguous().cpu().numpy()
    words = _pack_bits(nonzero)

    lengths = np.bitwise_count(words).sum(axis=1, dtype=np.int64)[:rows]
    nnz = int(lengths.sum())
    heights = _column_counts(nonzero)
    live = heights > 0
    full_rows, full_columns = 2 * lengths >= max(columns, 1), 2 * heights >= max(rows, 1)
    inputs = live.reshape(shape[1], -1).any(axis=1) if columns and len(shape) > 2 else live
    fills = tuple(_block_fills(words, nnz))
    block = _best_block(fills, nnz, rows * columns)
    groups = tuple(_groups(words, columns))
    zero_rows = int((lengths == 0).sum())
    zero_columns = int((~live).sum())
    mean = nnz / rows if rows else 0.0
    return SparsityFacts(
        shape=shape,
        rows=rows,
        columns=columns,
        nnz=nnz,
        density=nnz / (rows * columns) if rows * columns else 0.0,
        zero_rows=zero_rows,
        zero_columns=zero_columns,
        zero_inputs=int((~inputs).sum()),
        block_fills=fills,
        sorted_fills=tuple(_sorted_fills(words, rows, nnz)),
        block=block,
        groups=groups,
        beyond=tuple(_beyond(words, columns, nnz, rows * columns)),
        full_rows=int(full_rows.sum()),
        full_row_nnz=int(lengths[full_rows].sum()),
        full_columns=int(full_columns.sum()),
        full_column_nnz=int(heights[full_columns].sum()),
        row_min=int(lengths.min()) if rows else 0,
        row_max=int(lengths.max()) if rows else 0,
        row_mean=mean,
        row_cv=float(lengths.std()) / mean if nnz else 0.0,
        nonfinite=_nonfinite(weight),
        pattern=name_pattern(rows, columns, nnz, zero_rows, zero_columns, block, groups),
    )


def name_pattern(
    rows: int,
    columns: int,
    nnz: int,
    zero_rows: int,
    zero_columns: int,
    block: BlockFill | None,
    groups: tuple[tuple[int, int | None], ...],
) -> str:
    """The first that holds:

    "empty": no non-zero. "channel (...)": there are zero rows or columns, and what they leave is
    dense (`NEARLY_ALL`). "dense": density >= `NEARLY_ALL`. "N:M": for the smallest such M, groups
    hold at most N < M non-zeros and nearly N on average (`TIGHT_GROUPS`). "RxC block": `block` was
    found. Otherwise "unstructured".
    """
    if nnz == 0:
        return "empty"
    live = (rows - zero_rows) * (columns - zero_columns)
    if live < rows * columns and nnz >= NEARLY_ALL * live:
        parts = [
            f"{zero} of {count} {what}"
            for zero, count, what in ((zero_rows, rows, "rows"), (zero_columns, columns, "columns"))
            if zero
        ]
        return f"channel ({' and '.join(parts)} zero)"
    if nnz >= NEARLY_ALL * rows * columns:
        return "dense"
    for m, n in groups:
        if n is not None and nnz * m >= TIGHT_GROUPS * n * rows * columns:
            return f"{n}:{m}"
    return f"{block.shape} block" if block else "unstructured"


def _check(weight: torch.Tensor) -> None:
    if torch.nn.parameter.is_lazy(weight) or weight.is_meta:  # first: a lazy one has no shape
        why, fix = "it has no values yet (lazy or meta)", "initialise or load the model first"
    elif weight.dim() == 0:
        why, fix = "it has no dimensions", "give a weight of one dimension or more"
    elif weight.layout != torch.strided:
        why, fix = f"its layout is {weight.layout}", "call .to_dense() first"
    else:
        return
    what = f"no sparsity facts for a weight of dtype {weight.dtype}"
    raise UnsupportedError(what, why=why, fix=fix)


def _nonfinite(weight: torch.Tensor) -> int:
    if weight.numel() == 0 or not (weight.is_floating_point() or weight.is_complex()):
        return 0
    if weight.is_floating_point():  # one cheap pass settles the usual case: aminmax keeps NaN
        low, high = torch.aminmax(weight)
        if math.isfinite(low.item()) and math.isfinite(high.item()):
            return 0
    return int((~torch.isfinite(weight)).sum())


def _pack_bits(nonzero: npt.NDArray[np.bool_]) -> Words:
    """One bit per element, [rows padded to the tallest block, words of 64 columns]."""
    rows, columns = nonzero.shape
    tallest = BLOCK_SIDES[-1]
    width = max(1, -(-columns // 64)) * 8  # bytes
    padded = np.zeros((-(-rows // tallest) * tallest, width), dtype=np.uint8)
    padded[:rows, : -(-columns // 8)] = np.packbits(nonzero, axis=1, bitorder="little")
    return padded.view(np.uint64)


def _column_counts(nonzero: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Non-zeros of each column; summed as bytes, 255 rows at a time, which vectorises."""
    found = np.zeros(nonzero.shape[1], np.int64)
    for row in range(0, len(nonzero), 255):
        found += np.add.reduce(nonzero[row : row + 255].view(np.uint8), axis=0, dtype=np.uint8)
    return found


def _every(lane: int, bits: int) -> np.uint64:
    """A word with the lowest `bits` bits of every lane of `lane` bits set."""
    return np.uint64(sum(((1 << bits) - 1) << at for at in range(0, 64, lane)))


def _count_live_lanes(words: Words, lane: int) -> int:
    """Number of aligned lanes of `lane` bits (a power of two up to 64) that are not all zero."""
    step = 1
    while step < lane:  # the lowest bit of each lane becomes the OR of its lane
        words = words | (words >> np.uint64(step))
        step *= 2
    if lane > 1:
        words = words & _every(lane, 1)
    return int(np.bitwise_count(words).sum(dtype=np.int64))


def _block_fills(words: Words, nnz: int) -> Iterator[BlockFill]:
    by_height = {1: words}
    height = 1
    for side in BLOCK_SIDES:
        tiles = by_height[height].reshape(-1, side // height, words.shape[1])
        by_height[side] = np.bitwise_or.reduce(tiles, axis=1)
        height = side
    for r, c in BLOCK_SHAPES:
        blocks = _count_live_lanes(by_height[r], c)
        yield BlockFill(r, c, blocks, nnz / (blocks * r * c) if blocks else 0.0)


def _sorted_fills(words: Words, rows: int, nnz: int) -> Iterator[BlockFill]:
    """Of rows in the order of the packer: by their bits, the first column's first, empty ones
    first."""
    turned = np.packbits(
        np.unpackbits(words[:rows].view(np.uint8), axis=1, bitorder="little"), axis=1
    )
    order = np.argsort(turned.view(f"V{turned.shape[1]}").ravel(), kind="stable")
    padded = np.zeros_like(words)
    padded[:rows] = words[:rows][order]
    for r, c in SORTED_SHAPES:
        tiles = padded.reshape(-1, r, padded.shape[1])
        blocks = _count_live_lanes(np.bitwise_or.reduce(tiles, axis=1), c)
        yield BlockFill(r, c, blocks, nnz / (blocks * r * c) if blocks else 0.0)


def _best_block(fills: tuple[BlockFill, ...], nnz: int, numel: int) -> BlockFill | None:
    fit = [
        b
        for b in fills
        if b.fill >= HIGH_FILL and nnz < numel and numel - b.stored >= MIN_COVER * (numel - nnz)
    ]
    return min(fit, key=lambda b: (b.stored + b.blocks, -b.rows * b.columns), default=None)


def _groups(words: Words, columns: int) -> Iterator[tuple[int, int | None]]:
    """(M, largest number of non-zeros in an aligned group of M), by adding neighbouring lanes."""
    counts, lane = words, 1
    for m in GROUP_SIZES:
        while lane < m:  # m <= 16: a count of up to 16 fits its lane of 16 bits, 8 one of 8 ...
            low = _every(2 * lane, lane)
            counts = (counts & low) + ((counts >> np.uint64(lane)) & low)
            lane *= 2
        usable = columns % m == 0 and words.size > 0
        n = _largest_lane(counts, lane) if usable else m
        yield m, (n if n < m else None)


def _beyond(words: Words, columns: int, nnz: int, numel: int) -> Iterator[tuple[int, int, int]]:
    plausible = [
        (n, m)
        for n, m in SPLIT_GROUPS
        if numel
        and columns % m == 0
        and HIGH_FILL <= nnz * m / (n * numel) <= 1 / (1 - MOST_BEYOND)
    ]
    if not plausible:
        return
    of_each_byte = np.bincount(words.view(np.uint8).ravel(), minlength=256)
    for n, m in plausible:
        over = [sum(max(0, c - n) for c in _lane_counts(byte, m)) for byte in range(256)]
        yield n, m, int(of_each_byte @ np.array(over))


def _lane_counts(byte: int, lane: int) -> list[int]:
    return [(byte >> at & ((1 << lane) - 1)).bit_count() for at in range(0, 8, lane)]


def _largest_lane(counts: Words, lane: int) -> int:
    if lane == 4:  # numpy has no 4-bit integers: even and odd lanes apart
        low = _every(8, 4)
        return max(_largest_lane(counts & low, 8), _largest_lane(counts >> np.uint64(4) & low, 8))
    return int(counts.view(np.dtype(f"uint{lane}")).max())
