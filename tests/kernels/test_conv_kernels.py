"""Convolutions of every format against torch, for each vector width: shapes by hand and any.

Planes hold NaN after their last column and end where their row ends, so a kernel that reads across
a border or a row shows it; conv_sanitize.cpp does the same under the sanitizers.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_compiler.formats.bands import bands_of
from sparse_compiler.formats.base import FORMATS, Format
from sparse_compiler.runtime.packing import Layer, Matrix, Tiles
from tests.kernels.native import EACH_WIDTH, NATIVE, Libraries

OTHERS = [
    (2, name)
    for name in (
        "block_4x1",
        "sorted_8x1",
        "nm_2_4",
        "bitmap",
        "rows",
        "columns",
        "rows_csr",
        "columns_csr",
        "nm_2_4_csr",
    )
]


@dataclass(frozen=True)
class Conv:
    """size: the input's spatial dims; density: of the weight. k_tile 0: the default tiles."""

    batch: int = 1
    channels: int = 4
    rows: int = 6
    size: tuple[int, ...] = (9, 11)
    kernel: tuple[int, ...] = (3, 3)
    stride: int = 1
    padding: int = 1
    dilation: int = 1
    groups: int = 1
    transposed: bool = False
    output_padding: int = 0
    density: float = 0.4
    k_tile: int = 0
    panel: int = 0
    by_columns: bool = False  # csr by columns of its 3 x 3 kernels, in tiles of k_tile

    @property
    def out(self) -> tuple[int, ...]:
        """The output's spatial dims, by torch's formulas."""
        found = []
        for size, kernel in zip(self.size, self.kernel, strict=True):
            reach = self.dilation * (kernel - 1)
            if self.transposed:
                grown = (size - 1) * self.stride - 2 * self.padding + reach + 1
                found.append(grown + self.output_padding)
            else:
                found.append((size + 2 * self.padding - reach - 1) // self.stride + 1)
        return tuple(found)

    def weight(self) -> Tensor:
        shape = (self.rows, self.channels // self.groups, *self.kernel)
        return torch.randn(shape) * (torch.rand(shape) < self.density)

    def by_torch(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """In double precision. torch's transposed weight is [C, M/groups, *kernel]."""
        x, weight, bias = x.double(), weight.double(), bias.double()
        options = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        rank = len(self.size)
        if not self.transposed:
            plain = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
            return plain(x, weight, bias, groups=self.groups, **options)
        turned = weight.unflatten(0, (self.groups, -1)).transpose(1, 2).flatten(0, 1)
        back = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[rank - 1]
        more = {"groups": self.groups, "output_padding": self.output_padding}
        return back(x, turned, bias, **options, **more)

    def numbers(self) -> ctypes.Array[ctypes.c_int64]:
        def three(values: Sequence[int], missing: int = 1) -> list[int]:
            return [missing] * (3 - len(values)) + list(values)

        rank = len(self.size)
        flat = [self.batch, *three(self.size), *three(self.out), *three(self.kernel)]
        flat += three([self.stride] * rank) + three([self.dilation] * rank)
        flat += [*three([self.padding] * rank, 0), int(self.transposed)]
        return (ctypes.c_int64 * len(flat))(*flat)


def suited(format_: Format, case: Conv, width: int) -> Conv:
    """The case with as many channels as the format's columns need, and tiles it takes."""
    _, columns = format_.parameters
    if (
        format_.family in ("block", "sorted")
        and case.channels // case.groups * math.prod(case.kernel) % columns
    ):
        case = replace(case, channels=case.groups * columns)
    unit = 64 if format_.family == "bitmap" else max(1, columns)
    return replace(case, k_tile=-(-case.k_tile // unit) * unit)


def patterned(format_: Format, weight: Tensor) -> Tensor:
    """Its first N non-zeros of each M columns, for N:M."""
    if format_.family != "nm":
        return weight
    n, m = format_.parameters
    flat = weight.flatten(1)
    padded = F.pad(flat, (0, -flat.shape[1] % m)).unflatten(1, (-1, m))
    kept = padded * ((padded != 0).cumsum(2) <= n)
    return kept.flatten(1)[:, : flat.shape[1]].reshape(weight.shape).contiguous()


def pack(lib: ctypes.CDLL, format_: Format, width: int, case: Conv, matrix: Tensor) -> Tensor:
    m, k = matrix.shape
    taps, n = math.prod(case.kernel), case.batch * math.prod(case.out)
    nnz = int(matrix.count_nonzero()) // case.groups
    tiles = Tiles(0, 0, 0, *format_.parameters, 0)
    layer = Layer(m // case.groups, k, nnz, n, taps, width, case.by_columns)
    family = format_.family
    lib[f"sc_{family}_tiles"](ctypes.byref(layer), ctypes.byref(tiles))
    if case.k_tile:
        tiles.k_tile, tiles.panel_vectors = case.k_tile, max(1, case.panel)
    if family == "csr" and case.k_tile:
        tiles.p = 3 if case.by_columns else 0
    weight = Matrix(matrix.data_ptr(), m, k, k, case.groups)
    bytes_of = lib[f"sc_{family}_bytes"]
    bytes_of.restype = ctypes.c_int64
    size = bytes_of(ctypes.byref(weight), ctypes.byref(tiles))
    assert size > 0
    memory = torch.full((size + 64,), 0xA5, dtype=torch.uint8)
    blob = memory[-memory.data_ptr() % 64 :][:size]
    out = ctypes.c_void_p(blob.data_ptr())
    assert lib[f"sc_{family}_pack"](ctypes.byref(weight), ctypes.byref(tiles), out)
    return blob


def planes(x: Tensor, ld: int) -> Tensor:
    """[B, C, *size] as [C, ld] with NaN after the last column."""
    rows = x.transpose(0, 1).flatten(1)
    out = torch.full((rows.shape[0], ld), math.nan)
    out[:, : rows.shape[1]] = rows
    return out


def padded(n: int) -> int:
    return -(-n // 16) * 16


def check(
    lib: ctypes.CDLL, width: int, case: Conv, threads: int = 2, seed: int = 0, format_: str = "csr"
) -> Tensor:
    """Compares with torch; what the kernel computed."""
    torch.manual_seed(seed)
    stored = FORMATS[format_]
    case = suited(stored, case, width)
    weight, bias = patterned(stored, case.weight()), torch.randn(case.rows)
    x = torch.randn(case.batch, case.channels, *case.size)
    want = case.by_torch(x, weight, bias)
    assert tuple(want.shape[2:]) == case.out
    tolerance = 2e-6 * case.by_torch(x.abs(), weight.abs(), bias.abs()) + 1e-7
    ldx, ldy = (padded(case.batch * math.prod(size)) for size in (case.size, case.out))
    px = planes(x, ldx)
    blob = pack(lib, stored, width, case, weight.flatten(1))
    y = torch.full((case.rows, ldy), 77.0)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (px, y, bias)]
    lib.conv(
        threads, ctypes.c_void_p(blob.data_ptr()), case.numbers(),
        pointers[0], ctypes.c_int64(ldx), pointers[1], ctypes.c_int64(ldy), pointers[2],
    )  # fmt: skip
    n = case.batch * math.prod(case.out)
    got = y[:, :n].reshape(case.rows, case.batch, *case.out).transpose(0, 1)
    assert ((got - want).abs() <= tolerance).all(), f"{format_} of {case}"
    assert (y[:, -(-n // width) * width :] == 77).all(), "columns after the last vector"
    return got


@pytest.fixture(scope="session")
def conv_libraries(kernel_cache: Path) -> dict[int, ctypes.CDLL]:
    return Libraries("conv_kernels.cpp", kernel_cache, packs=True)


IMAGE = Conv()
CASES = {
    "3x3": IMAGE,
    "3x3, an image of 7": replace(IMAGE, size=(7, 7), channels=19, rows=30),
    "3x3, an image of 14": replace(IMAGE, size=(14, 14), channels=33, rows=70),
    "3x3, an image of 56": replace(IMAGE, size=(56, 56), channels=5, rows=20),
    "3x3, rows as wide as two vectors": replace(IMAGE, size=(5, 32)),
    "no padding": replace(IMAGE, padding=0),
    "more padding than needed": replace(IMAGE, padding=4),
    "padding beyond the image": replace(IMAGE, size=(2, 3), padding=6, kernel=(3, 5)),
    "batch": replace(IMAGE, batch=3, size=(5, 7)),
    "stride 2": replace(IMAGE, stride=2, size=(56, 56)),
    "stride 2, an odd image": replace(IMAGE, stride=2, size=(15, 13), batch=2),
    "stride 2, 14 to 7": replace(IMAGE, stride=2, size=(14, 14)),
    "stride 3, 5x5": replace(IMAGE, stride=3, kernel=(5, 5), padding=2, size=(40, 37)),
    "stride 16 patches": replace(IMAGE, stride=16, kernel=(16, 16), padding=0, size=(48, 64)),
    "stem": replace(IMAGE, kernel=(7, 7), stride=2, padding=3, channels=3, size=(32, 32)),
    "dilation": replace(IMAGE, dilation=3, padding=3),
    "dilation beyond the image": replace(IMAGE, dilation=12, padding=12),
    "1x1": replace(IMAGE, kernel=(1, 1), padding=0, channels=40, rows=50, size=(14, 14)),
    "1x1, rows read often": replace(
        IMAGE, kernel=(1, 1), padding=0, channels=40, rows=100, size=(9, 13), density=0.9
    ),
    "1x1, few rows of many channels": replace(
        IMAGE,
        kernel=(1, 1),
        padding=0,
        channels=150,
        rows=80,
        batch=2,
        density=0.08,
        k_tile=40,
        panel=3,
    ),
    "1x1, padded": replace(IMAGE, kernel=(1, 1), padding=1),
    "1x1, stride 2": replace(IMAGE, kernel=(1, 1), padding=0, stride=2, size=(28, 28)),
    "groups": replace(IMAGE, channels=12, rows=18, groups=3),
    "groups of a narrow image": replace(IMAGE, channels=12, rows=24, groups=4, size=(3, 3)),
    "1x1 groups": replace(
        IMAGE, channels=12, rows=18, groups=3, kernel=(1, 1), padding=0, size=(8, 8)
    ),
    "depthwise": replace(IMAGE, channels=10, rows=10, groups=10),
    "depthwise, two rows each": replace(IMAGE, channels=5, rows=10, groups=5, stride=2),
    "1-D": replace(IMAGE, size=(100,), kernel=(5,), padding=2),
    "1-D, audio": replace(IMAGE, size=(400,), kernel=(10,), stride=5, padding=0, channels=1),
    "1-D, a kernel longer than a tile": replace(
        IMAGE, size=(900,), kernel=(500,), padding=3, k_tile=64, panel=2
    ),
    "3-D": replace(IMAGE, size=(4, 5, 6), kernel=(3, 3, 3), batch=2),
    "3-D, stride 2": replace(IMAGE, size=(7, 5, 9), kernel=(3, 3, 3), stride=2),
    "transposed": replace(IMAGE, transposed=True),
    "transposed 2x2 stride 2": replace(
        IMAGE, transposed=True, kernel=(2, 2), stride=2, padding=0, size=(14, 14)
    ),
    "transposed, output padding": replace(IMAGE, transposed=True, stride=3, output_padding=2),
    "transposed groups": replace(
        IMAGE, transposed=True, stride=2, groups=2, channels=8, rows=12, kernel=(4, 4)
    ),
    "transposed, dilation": replace(IMAGE, transposed=True, stride=2, dilation=3, batch=2),
    "transposed 1-D": replace(IMAGE, transposed=True, size=(37,), kernel=(8,), stride=4, padding=2),
    "transposed 3-D": replace(
        IMAGE, transposed=True, size=(3, 4, 5), kernel=(3, 3, 3), stride=2, output_padding=1
    ),
    "all zero": replace(IMAGE, density=0.0),
    "mostly empty rows": replace(IMAGE, density=0.02, rows=100),
    "one pixel": replace(IMAGE, size=(1, 1), padding=1),
    "tiles that cut channels": replace(IMAGE, channels=30, k_tile=16, panel=3, size=(20, 30)),
    "wide panels": replace(IMAGE, channels=7, k_tile=40, panel=8, size=(20, 30)),
}


@pytest.mark.parametrize("width", EACH_WIDTH)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_agrees_with_torch(conv_libraries: dict[int, ctypes.CDLL], case: Conv, width: int) -> None:
    for threads, format_ in ((1, "csr"), (2, "csr"), (1, "dense"), (2, "dense"), *OTHERS):
        check(conv_libraries[width], width, case, threads, 0, format_)


COLUMNS = replace(IMAGE, channels=8, rows=37, k_tile=36, panel=3, by_columns=True)
BANDS = {
    "7": replace(COLUMNS, size=(7, 7)),
    "7, batch": replace(COLUMNS, size=(7, 7), batch=3, channels=20),
    "14": replace(COLUMNS, size=(14, 14), channels=24, k_tile=144),
    "14, all weights": replace(COLUMNS, size=(14, 14), density=1.0),
    "15": replace(COLUMNS, size=(15, 15)),
    "28, batch": replace(COLUMNS, size=(28, 28), batch=2),
    "56": replace(COLUMNS, size=(56, 56)),
    "one row less than bands": replace(COLUMNS, size=(13, 14)),
    "no padding": replace(COLUMNS, size=(16, 30), padding=0),
    "more padding than needed": replace(COLUMNS, size=(12, 10), padding=2),
    "not in bands: stride 2": replace(COLUMNS, size=(29, 57), stride=2, batch=2),
    "not in bands: dilation": replace(COLUMNS, size=(14, 14), dilation=2, padding=2),
    "not in bands: transposed": replace(COLUMNS, size=(9, 9), transposed=True, stride=2),
    "not in bands: groups": replace(COLUMNS, size=(9, 9), channels=16, rows=38, groups=2),
    "not in bands: one row": replace(COLUMNS, size=(1, 9)),
    "nearly empty": replace(COLUMNS, size=(14, 14), density=0.01),
}


@pytest.mark.parametrize("width", EACH_WIDTH)
@pytest.mark.parametrize("case", BANDS.values(), ids=BANDS.keys())
def test_by_columns_of_the_kernel(
    conv_libraries: dict[int, ctypes.CDLL], case: Conv, width: int
) -> None:
    for threads in (1, 2, 3):
        check(conv_libraries[width], width, case, threads)


@pytest.mark.parametrize("rows", [64, 2048])
def test_bands_are_expected_where_they_run(
    conv_libraries: dict[int, ctypes.CDLL], rows: int
) -> None:
    """What the packer and the cost model are told is what conv_bands.h does."""
    library, width = conv_libraries[NATIVE], NATIVE
    case = replace(COLUMNS, rows=rows, channels=4)
    blob = pack(library, FORMATS["csr"], width, case, case.weight().flatten(1))
    packed, found = ctypes.c_void_p(blob.data_ptr()), set()
    for size in ((h, w) for h in (1, 5, 7, 14, 30, 200) for w in range(1, 260)):
        runs = bool(library.runs_in_bands(packed, replace(case, size=size).numbers()))
        assert runs or bands_of(rows, size, width) is None, size
        assert width != 16 or runs == (bands_of(rows, size, width) is not None), size
        found.add(runs)
    assert len(found) == 2


@pytest.mark.parametrize("banded", [False, True])
def test_only_what_runs_in_bands_is_packed_by_columns(
    conv_libraries: dict[int, ctypes.CDLL], banded: bool
) -> None:
    tiles, layer = Tiles(), Layer(64, 64 * 9, 64 * 173, 196, 9, 16, banded)
    conv_libraries[NATIVE].sc_csr_tiles(ctypes.byref(layer), ctypes.byref(tiles))
    assert tiles.p == (3 if banded else 0)


FLAT = replace(IMAGE, channels=8, rows=37, k_tile=36, panel=3)
FLATS = {
    "7": replace(FLAT, size=(7, 7)),
    "7, batch": replace(FLAT, size=(7, 7), batch=3, channels=20, k_tile=0),
    "14, a last vector of one pixel": replace(FLAT, size=(14, 14), channels=24, k_tile=72),
    "14, one tile": replace(FLAT, size=(14, 14), density=1.0, k_tile=0),
    "28, batch": replace(FLAT, size=(28, 28), batch=2),
    "56": replace(FLAT, size=(56, 56)),
    "rows of a whole vector": replace(FLAT, size=(9, 16), rows=3),
    "many bands": replace(FLAT, size=(40, 90), channels=20, k_tile=0),
    "no padding": replace(FLAT, size=(16, 30), padding=0),
    "more padding than needed": replace(FLAT, size=(12, 10), padding=2),
    "5x5": replace(FLAT, size=(13, 15), kernel=(5, 5), padding=2, k_tile=50),
    "dilation": replace(FLAT, size=(14, 21), dilation=2, padding=2),
    "1-D": replace(FLAT, size=(100,), kernel=(5,), padding=2, k_tile=10),
    "windows: stride 2": replace(FLAT, size=(29, 57), stride=2, batch=2),
    "windows: tiles that cut channels": replace(FLAT, size=(14, 14), k_tile=16),
    "windows: a narrow image": replace(FLAT, size=(30, 2)),
    "nearly empty": replace(FLAT, size=(14, 14), density=0.01, rows=70),
}


@pytest.mark.parametrize("width", EACH_WIDTH)
@pytest.mark.parametrize("case", FLATS.values(), ids=FLATS.keys())
def test_blocks_over_flat_images(
    conv_libraries: dict[int, ctypes.CDLL], case: Conv, width: int
) -> None:
    for threads, format_ in (
        *((t, "block_4x1") for t in (1, 2, 3)),
        *((2, name) for name in ("block_8x1", "block_16x1", "block_4x4", "sorted_8x1")),
    ):
        check(conv_libraries[width], width, case, threads, 0, format_)


@pytest.mark.parametrize("size", [(256, 64, 0.1), (256, 1024, 0.3), (256, 1024, 0.1)])
def test_panels_of_short_or_dense_rows_are_wide(
    conv_libraries: dict[int, ctypes.CDLL], size: tuple[int, int, float]
) -> None:
    """1 x 1, 16 floats: seven vectors within L1, or five in longer tiles out of L2."""
    rows, channels, density = size
    tiles, layer = Tiles(), Layer(rows, channels, int(rows * channels * density), 784, 1, 16, False)
    conv_libraries[NATIVE].sc_csr_tiles(ctypes.byref(layer), ctypes.byref(tiles))
    wide = channels == 64 or density > 0.15
    assert tiles.panel_vectors == (7 if wide else 5)
    assert (tiles.k_tile * tiles.panel_vectors * 64 <= 42 << 10) == wide


@pytest.mark.parametrize("change", ["count", "index", "channels"])
def test_check_refuses_wrong_columns(conv_libraries: dict[int, ctypes.CDLL], change: str) -> None:
    """A count of one dx, an index under another dx, and tiles that cut four channels."""
    library, case = conv_libraries[NATIVE], replace(COLUMNS, density=1.0)
    torch.manual_seed(0)
    blob = pack(library, FORMATS["csr"], NATIVE, case, case.weight().flatten(1))

    def accepts() -> bool:
        size = ctypes.c_int64(blob.numel())
        return bool(library.sc_csr_check(ctypes.c_void_p(blob.data_ptr()), size, NATIVE))

    assert accepts()
    numbers = blob.view(torch.int64)
    rows_at, index_at = int(numbers[9]), int(numbers[10])
    counts_at = rows_at + -(-2 * case.rows * 4 // 64) * 64
    if change == "count":
        blob[counts_at : counts_at + 4].view(torch.int16)[:] += torch.tensor([4, -4]).to(
            torch.int16
        )
    elif change == "index":
        blob[index_at : index_at + 2].view(torch.int16)[0] = 3 * 5
    else:
        blob[12:16].view(torch.int32)[0] = 40
    assert not accepts()


SEEDS = st.integers(0, 2**31)


@st.composite
def convs(draw: st.DrawFn) -> Conv:
    """Any conv whose output is not empty."""
    rank = draw(st.integers(1, 3))
    most = (70, 24, 9)[rank - 1]
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    transposed = draw(st.booleans())
    stride = draw(st.integers(1, 4))
    dilation = draw(st.integers(1, 3))
    limit = max(stride, dilation) - 1 if transposed else 0
    case = Conv(
        batch=draw(st.integers(1, 3)),
        channels=groups * draw(st.integers(1, 8)),
        rows=groups * draw(st.integers(1, 15)),
        size=tuple(draw(st.lists(st.integers(1, most), min_size=rank, max_size=rank))),
        kernel=tuple(draw(st.lists(st.integers(1, 5), min_size=rank, max_size=rank))),
        stride=stride,
        padding=draw(st.integers(0, 5)),
        dilation=dilation,
        groups=groups,
        transposed=transposed,
        output_padding=draw(st.integers(0, limit)),
        density=draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        k_tile=draw(st.sampled_from([0, 0, 5, 9, 64])),
        panel=draw(st.integers(1, 8)),
    )
    if min(case.out) >= 1:
        return case
    return replace(case, padding=0, kernel=(1,) * rank)


@pytest.mark.parametrize("width", EACH_WIDTH)
@settings(max_examples=40, deadline=None)
@given(
    case=convs(), threads=st.integers(1, 3), seed=SEEDS, format_=st.sampled_from(sorted(FORMATS))
)
def test_any_conv(
    conv_libraries: dict[int, ctypes.CDLL],
    case: Conv,
    width: int,
    threads: int,
    seed: int,
    format_: str,
) -> None:
    check(conv_libraries[width], width, case, threads, seed, format_)


def test_groups_must_divide_rows(conv_libraries: dict[int, ctypes.CDLL]) -> None:
    weight = torch.ones(6, 8)
    for format_ in map(FORMATS.__getitem__, FORMATS):
        if format_.family == "nm" or 8 % max(1, format_.parameters[1]):
            continue
        bytes_of = conv_libraries[NATIVE][f"sc_{format_.family}_bytes"]
        bytes_of.restype = ctypes.c_int64
        tiles = Tiles(64, 4, 64, *format_.parameters, 0)
        for groups, allowed in ((3, True), (4, False), (0, False)):
            matrix = Matrix(weight.data_ptr(), 6, 8, 8, groups)
            assert (bytes_of(ctypes.byref(matrix), ctypes.byref(tiles)) > 0) == allowed
