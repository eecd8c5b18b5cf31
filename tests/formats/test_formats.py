"""Every format of the registry: its name, its sizes, what it fits, a packer that is exact."""

import ctypes
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparse_compiler.analysis.sparsity import sparsity_facts
from sparse_compiler.codegen.cpu.build import Toolchain, native_width
from sparse_compiler.errors import CodegenError, RegistryError
from sparse_compiler.formats.base import FORMATS, VALUE_TYPES, Format, candidates
from sparse_compiler.formats.split import Split
from sparse_compiler.options import Options, find_compiler
from sparse_compiler.runtime.packing import Matrix, Packer, Tiles, aligned_bytes, packer_for
from tests.formats.suited import BLOCKS, suited

NAMES = sorted(FORMATS)
MORE = [
    "sorted_4x1",
    "sorted_8x4",
    "block_1x16",
    "block_8x8",
    "block_12x5",
    "nm_1_2",
    "nm_3_7",
    "nm_8_16",
    "nm_5_32",
    "rows",
    "columns",
    "rows_csr",
    "columns_csr",
    "nm_2_4_csr",
    "nm_1_8_csr",
]
"""Names of families that are made when asked for."""
EXACT = settings(max_examples=60, deadline=None, derandomize=True, database=None)


@pytest.fixture(scope="module")
def packer(kernel_cache) -> Packer:
    compiler = find_compiler()
    assert compiler is not None
    return packer_for(Toolchain((compiler,), kernel_cache, native_width()))


def unpacked(packer: Packer, format_: Format, blob: Tensor, shape: torch.Size) -> Tensor:
    back = torch.full(shape, 7.0)
    unpack = packer.library[f"sc_{format_.family}_unpack"]
    unpack.argtypes = [ctypes.c_void_p] * 2
    unpack(blob.data_ptr(), back.data_ptr())
    return back


def test_dense_is_always_there() -> None:
    assert {"dense", "csr", "bitmap", "block_8x1", "block_1x4", "nm_2_4"} <= set(NAMES)


def test_names_are_read_back() -> None:
    for name in [*NAMES, *MORE]:
        for values in VALUE_TYPES:
            full = name if values == "fp32" else f"{name}_{values}"
            assert FORMATS[full].name == full
            assert full in FORMATS
    assert FORMATS["block_8x1_bf16"].kernel == "block<4, 1, Bf16>"
    assert FORMATS["nm_3_7"].parameters == (3, 7)


@pytest.mark.parametrize(
    "name",
    [
        "nm_5_4",
        "nm_0_4",
        "nm_1_33",
        "block_0x1",
        "block_6x1",
        "block_65x1",
        "csr_fp8",
        "_",
        "csr_csr",
        "rows_fp16_csr",
        "nm_5_4_csr",
        "rows_dense",
    ],
)
def test_no_such_format(name: str) -> None:
    assert name not in FORMATS
    with pytest.raises(RegistryError, match="no format is named"):
        FORMATS[name]


SIZES_BY_HAND = {
    # 4 x 8, 3 non-zeros of 32 bits: 3 values, 3 columns of 3 bits, 4 rows of 2 bits
    "csr": (4, 8, 3, 3 * 32 + 3 * 3 + 4 * 2),
    "dense": (4, 8, 3, 4 * 8 * 32),
    "bitmap": (4, 8, 3, 3 * 32 + 4 * 8),
    # 12 numbers in 3 blocks, whose columns take 3 bits; 2 block rows of 2 bits
    "block_4x1": (8, 8, 12, 12 * 32 + 3 * 3 + 2 * 2),
    # 32 numbers in 2 blocks, one of 2 in a row: a bit; 2 block rows of a bit
    "block_4x4": (8, 8, 32, 32 * 32 + 2 * 1 + 2 * 1),
    # 12 numbers in 3 blocks of 2 places each; 2 rows of 2 bits
    "block_1x4": (2, 8, 12, 12 * 32 + 3 * 1 + 2 * 2),
    # C(4, 2) = 6: 3 bits for each 2 numbers; C(4, 1) = 4: 2 bits for each
    "nm_2_4": (2, 8, 8, 8 * 32 + 8 / 2 * 3),
    "nm_1_4": (2, 8, 4, 4 * 32 + 4 * 2),
    "nm_3_7": (1, 7, 3, 3 * 32 + math.ceil(math.log2(35))),
    # 3 rows of 8: 24 numbers, each row one of 5: 3 bits; 2 columns of 5, each one of 8
    "rows": (5, 8, 24, 24 * 32 + 3 * 3),
    "columns": (5, 8, 10, 10 * 32 + 2 * 3),
}


@pytest.mark.parametrize("name", SIZES_BY_HAND)
def test_ideal_size_by_hand(name: str) -> None:
    rows, columns, stored, bits = SIZES_BY_HAND[name]
    assert FORMATS[name].ideal_bits(rows, columns, stored, 32) == bits


def test_the_size_of_a_split_is_that_of_its_parts() -> None:
    """A row of 8 in a weight of 4 x 8, and 2 numbers elsewhere."""
    weight = torch.zeros(4, 8)
    weight[1] = 1
    weight[3, ::5] = 2
    rest = 2 * 32 + 2 * 3 + 4 * 1
    assert FORMATS["rows_csr"].ideal_bits_of(sparsity_facts(weight), 32) == 8 * 32 + 2 + rest
    columns = FORMATS["columns_csr"].ideal_bits_of(sparsity_facts(weight.T.contiguous()), 32)
    assert columns == 8 * 32 + 2 + 2 * 32 + 2 * 2 + 8 * 1
    groups = torch.tensor([[1.0, 0.0, 0.0, 1.0] * 20])
    groups[0, 42] = 1
    split = FORMATS["nm_2_4_csr"].ideal_bits_of(sparsity_facts(groups), 32)
    assert split == 40 * 32 + 40 / 2 * 3 + 1 * 32 + 7


@pytest.mark.parametrize("name", NAMES)
@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0, 1), st.sampled_from([8, 16, 32]))
def test_ideal_size(name: str, rows: int, columns: int, share: float, bits: int) -> None:
    nnz = int(rows * columns * share)
    size = FORMATS[name].ideal_bits(rows, columns, nnz, bits)
    assert size >= nnz * bits
    if name == "csr" and nnz > 1 and columns > 1:
        index = nnz * math.ceil(math.log2(columns)) + rows * math.ceil(math.log2(nnz))
        assert size == nnz * bits + index


def test_which_is_smallest_at_which_density() -> None:
    """For 32-bit values bitmap beats dense above 1/32 zeros, csr beats bitmap where rows are long
    and nearly empty (Hoefler et al., section 2.2)."""
    rows, columns = 1024, 1024

    def size(name: str, zeros: float) -> float:
        nnz = round(rows * columns * (1 - zeros))
        return FORMATS[name].ideal_bits(rows, columns, nnz, 32)

    assert size("dense", 0.03) < size("bitmap", 0.03)
    assert size("bitmap", 0.032) < size("dense", 0.032)
    assert size("bitmap", 0.85) < size("csr", 0.85)
    assert size("csr", 0.95) < size("bitmap", 0.95)
    assert size("block_8x1", 0.9) < size("csr", 0.9)


VALUES = st.sampled_from([0.0, -0.0, 1.0, -2.5, math.nan, math.inf, -math.inf, 1e-40, 3e38])


@EXACT
@given(
    name=st.sampled_from([*NAMES, *MORE]),
    rows=st.integers(1, 80),
    columns=st.integers(1, 300),
    share=st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    empty=st.booleans(),
    special=st.lists(VALUES, max_size=6),
    n=st.sampled_from([1, 7, 128, 2000]),
    seed=st.integers(0, 99),
)
def test_packing_is_exact(
    packer: Packer,
    name: str,
    rows: int,
    columns: int,
    share: float,
    empty: bool,
    special: list[float],
    n: int,
    seed: int,
) -> None:
    """Unpacked again, the weight is the same to the bit, but for the sign of zeros; the size is as
    stated. Odd sizes, strides, empty rows, NaN and infinities among the values."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(columns, rows, generator=generator).T
    weight = weight * (torch.rand(rows, columns, generator=generator) < share)
    weight[:, -1] = -0.0
    if empty:
        weight[::2] = 0
    for i, value in enumerate(special):
        weight[i * 7 % rows, i * 13 % columns] = value
    format_ = FORMATS[name]
    weight = suited(format_, weight)
    if format_.family in BLOCKS and weight.shape[1] % format_.parameters[1]:
        with pytest.raises(CodegenError, match="refuses"):
            packer.pack(name, weight, n)
        return
    blob = packer.pack(name, weight, n)
    assert blob.data_ptr() % 64 == 0
    back = unpacked(packer, format_, blob, weight.shape)
    assert torch.equal((back + 0.0).view(torch.int32), (weight + 0.0).view(torch.int32))
    check = packer.library[f"sc_{format_.family}_check"]
    check.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    assert check(blob.data_ptr(), blob.numel(), packer.width)
    assert not check(blob.data_ptr(), blob.numel() - 1, packer.width)
    stored = int(blob[40:48].view(torch.int64))  # nnz of the header
    sizes = *weight.shape, stored, packer.tiles(name, weight, n)
    if isinstance(format_, Split):
        first = blob[int(blob[80:88].view(torch.int64)) :]  # index_at: where its first part lies
        apart = int(first[40:48].view(torch.int64))
        assert format_.stored_bytes(*sizes, apart) == blob.numel()
    else:
        assert format_.stored_bytes(*sizes) == blob.numel()


@EXACT
@given(
    name=st.sampled_from([*NAMES, *MORE]),
    groups=st.integers(1, 4),
    rows=st.integers(1, 20),
    channels=st.integers(1, 12),
    taps=st.sampled_from([1, 4, 9]),
)
def test_grouped_weights_of_convolutions(
    packer: Packer, name: str, groups: int, rows: int, channels: int, taps: int
) -> None:
    format_ = FORMATS[name]
    if format_.family in BLOCKS:
        channels *= format_.parameters[1]
    weight = torch.randn(groups * rows, channels * taps) * (torch.rand(channels * taps) < 0.4)
    weight = suited(format_, weight)
    blob = packer.pack(name, weight, 100, groups, taps)
    assert torch.equal(unpacked(packer, format_, blob, weight.shape), weight)
    check = packer.library[f"sc_{format_.family}_check"]
    check.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int]
    assert check(blob.data_ptr(), blob.numel(), packer.width)


@EXACT
@given(
    groups=st.integers(1, 3),
    rows=st.integers(1, 40),
    channels=st.integers(1, 8),
    tile=st.integers(1, 8),
    values=st.sampled_from(VALUE_TYPES),
    share=st.floats(0, 1),
)
def test_the_size_of_csr_by_columns(
    packer: Packer, groups: int, rows: int, channels: int, tile: int, values: str, share: float
) -> None:
    """Each group's, of 3 x 3 kernels whose non-zeros stand column by column, padded to fours."""
    weight = torch.randn(groups * rows, 36 * channels)
    weight = (weight * (torch.rand(weight.shape) < share)).contiguous()
    tiles = Tiles(36 * tile, 4, 16, 3, 0, VALUE_TYPES.index(values))
    matrix = Matrix(weight.data_ptr(), *weight.shape, weight.shape[1], groups)
    size_of = packer.library.sc_csr_bytes
    size_of.restype = ctypes.c_int64
    blob = aligned_bytes(size_of(ctypes.byref(matrix), ctypes.byref(tiles)))
    out = ctypes.c_void_p(blob.data_ptr())
    assert packer.library.sc_csr_pack(ctypes.byref(matrix), ctypes.byref(tiles), out)
    format_, at = FORMATS["csr" if values == "fp32" else f"csr_{values}"], 0
    for _ in range(groups):
        stored, size = blob[at + 40 : at + 56].view(torch.int64).tolist()  # of its header
        assert format_.stored_bytes(rows, weight.shape[1], stored, tiles) == size
        at += size
    assert at == blob.numel()


@given(st.sampled_from([*NAMES, *MORE]), st.integers(0, 60), st.integers(0, 70), st.floats(0, 1))
@settings(deadline=None)
def test_what_fits_can_be_packed(
    packer: Packer, name: str, rows: int, columns: int, share: float
) -> None:
    """And the numbers stored are those that the facts foretell."""
    weight = torch.randn(rows, columns) * (torch.rand(rows, columns) < share)
    facts = sparsity_facts(weight)
    format_ = FORMATS[name]
    if min(rows, columns) == 0 or format_.fits(facts) is not None:
        return
    blob = packer.pack(name, weight, 128)
    padded = int(blob[40:48].view(torch.int64))
    assert padded == format_.stored(facts)


def test_the_candidates_of_patterns() -> None:
    """Facts suggest what is entered and what they name; unstructured weights few."""
    torch.manual_seed(0)
    random = torch.randn(64, 128) * (torch.rand(64, 128) < 0.2)
    assert set(candidates(sparsity_facts(random))) == {"bitmap", "csr", "dense"}
    tall = (torch.rand(8, 128) < 0.2).repeat_interleave(8, 0) * torch.randn(64, 128)
    assert {"block_4x1", "block_8x1"} <= set(candidates(sparsity_facts(tall)))
    square = (torch.rand(4, 8) < 0.4).repeat_interleave(16, 0).repeat_interleave(16, 1)
    assert "block_16x16" in candidates(sparsity_facts(square * torch.randn(64, 128)))
    one = F.one_hot(torch.randint(0, 8, (64, 16)), 8).flatten(1) * torch.randn(64, 128)
    assert "nm_1_8" in candidates(sparsity_facts(one))


def test_what_stands_out_is_suggested() -> None:
    """Zero rows or columns, full ones, and groups with few exceptions; not in random weights."""
    torch.manual_seed(0)
    sparse = torch.randn(256, 128) * (torch.rand(256, 128) < 0.1)
    found = {}
    for name, place in (("rows", slice(0, 40)), ("columns", (slice(None), slice(0, 20)))):
        weight, dead = sparse.clone(), torch.ones(256, 128)
        weight[place], dead[place] = 1, 0
        found[f"{name}_csr"], found[name] = weight, dead
    groups = (torch.rand(256, 32, 4).argsort(2) < 2).flatten(1).float()
    found["nm_2_4_csr"] = groups.clone()
    found["nm_2_4_csr"][::50, ::40] = 1
    for name, weight in found.items():
        facts = sparsity_facts(weight)
        assert name in candidates(facts)
        counts = FORMATS[name].apart(facts), FORMATS[name].stored(facts)
        assert counts[0] <= counts[1] <= weight.numel()
    for density in (0.1, 0.5, 0.9):
        random = sparsity_facts(torch.rand(256, 128) < density)
        assert not {*found} & {*candidates(random)}


def test_rows_of_like_patterns_need_not_be_neighbours(packer: Packer) -> None:
    """Shuffled blocks, and what is left between dead rows and columns, fill blocks when sorted."""
    torch.manual_seed(0)
    shuffled = (torch.rand(16, 96) < 0.2).repeat_interleave(8, 0)[torch.randperm(128)]
    alive = torch.zeros(128, 96)
    alive[torch.randperm(128)[:40], :] = 1
    alive[:, torch.randperm(96)[:30]] = 0
    for pattern in (shuffled, alive):
        weight = torch.randn(128, 96) * pattern
        facts = sparsity_facts(weight)
        assert {"sorted_4x1", "sorted_8x1"} <= set(candidates(facts))
        assert FORMATS["sorted_8x1"].stored(facts) == int((weight != 0).sum())
        blob = packer.pack("sorted_8x1", weight, 64)
        assert torch.equal(unpacked(packer, FORMATS["sorted_8x1"], blob, weight.shape), weight)
    random = sparsity_facts(torch.randn(128, 96) * (torch.rand(128, 96) < 0.2))
    assert not any(name.startswith("sorted") for name in candidates(random))


def test_why_a_format_does_not_fit() -> None:
    def code(name: str, weight: Tensor) -> str:
        reason = FORMATS[name].fits(sparsity_facts(weight))
        return "" if reason is None else reason.code

    assert code("nm_2_4", torch.ones(4, 10)) == "width"
    assert code("nm_2_4", torch.ones(4, 8)) == "not_n_of_m"
    assert code("nm_2_4", torch.zeros(4, 8)) == "no_nonzeros"
    assert code("nm_2_4", torch.eye(8)) == "slack"
    assert code("nm_3_7", torch.ones(4, 7)) == "no_facts"
    assert code("block_1x4", torch.ones(4, 10)) == "width"
    assert code("block_8x1", torch.eye(8)) == "low_fill"
    assert code("block_8x1", torch.zeros(8, 8)) == "no_nonzeros"
    assert code("block_12x5", torch.ones(12, 5)) == "no_facts"
    assert code("bitmap", torch.zeros(8, 8)) == "no_nonzeros"
    assert code("rows", torch.zeros(8, 8)) == code("columns", torch.zeros(8, 8)) == "no_nonzeros"
    assert code("rows", torch.eye(8)) == code("columns", torch.eye(8)) == "none_dead"
    assert code("rows", torch.eye(9)[:, :8].contiguous()) == "low_fill"
    assert code("rows_csr", torch.eye(8)) == code("columns_csr", torch.ones(8, 8)) == "no_split"
    assert code("nm_2_4_csr", torch.ones(8, 10)) == "width"
    assert code("nm_2_4_csr", torch.eye(8)) == "no_facts"
    assert code("csr", torch.zeros(8, 8)) == code("dense", torch.zeros(8, 8)) == ""
    assert code("csr", torch.full((1, 1), math.nan)) == ""


def test_a_weight_beyond_its_pattern_is_refused(packer: Packer) -> None:
    weight = torch.tensor([[1.0, 1.0, math.nan, 0.0]])
    with pytest.raises(CodegenError, match="nm_2_4 packer refuses"):
        packer.pack("nm_2_4", weight, 8)
    assert packer.pack("nm_3_4", weight, 8).numel() > 0


def test_default_options_name_this_machine() -> None:
    assert Options().isa == "native"
    assert native_width() in (4, 8, 16)
