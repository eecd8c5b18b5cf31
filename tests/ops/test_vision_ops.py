"""Ops on images: references by their formulas, layouts, symbols, and what their types refuse."""

import math

import pytest
import torch
import torch.nn.functional as F

from sparse_compiler.errors import VerifyError
from sparse_compiler.ir.refusal import No
from sparse_compiler.ir.text import print_type
from sparse_compiler.ir.types import Layout, TensorType, symbol
from sparse_compiler.ops.batch_norm import BatchNorm
from sparse_compiler.ops.conv import Conv
from sparse_compiler.ops.group_norm import GroupNorm
from sparse_compiler.ops.images import channel_planes, window_count
from sparse_compiler.ops.pad import Pad
from sparse_compiler.ops.pool import AdaptivePool, Pool
from sparse_compiler.ops.upsample import Upsample

S0, S1 = symbol("s0"), symbol("s1")
IMAGE = Layout((1, 0, 2, 3), 1)
PLAIN = Conv((1, 1), (0, 0), (1, 1))


def f32(*shape, layout=None):
    return TensorType("f32", shape, layout)


# --- references, written out ------------------------------------------------------------------


@pytest.mark.parametrize("groups", [1, 2])
def test_conv_by_its_sum(groups):
    """Every output as the sum over its window, in f64."""
    stride, padding, dilation = (2, 1), (1, 2), (1, 2)
    x = torch.randn(2, 2 * groups, 6, 7).double()
    w = torch.randn(4, 2, 3, 2).double()
    b = torch.randn(4).double()
    wide = F.pad(x, (2, 2, 1, 1))
    out = torch.empty(2, 4, 3, 9).double()
    for m in range(4):
        first = m // (4 // groups) * 2
        for i in range(3):
            for j in range(9):
                window = wide[:, first : first + 2, 2 * i : 2 * i + 3, j : j + 4 : 2]
                out[:, m, i, j] = (window * w[m]).sum((1, 2, 3)) + b[m]
    op = Conv(stride, padding, dilation, groups, bias=True)
    assert torch.allclose(op.reference(x, w, b), out)
    r = torch.randn(4, 1, 1).double()
    fused = Conv(stride, padding, dilation, groups, bias=True, epilogue="mul(relu(x0), x1)")
    assert torch.allclose(fused.reference(x, w, b, r), out.relu() * r)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_conv_spreads_each_input_over_its_taps(groups):
    stride, padding, extra = 2, 1, 1
    x = torch.randn(2, 2 * groups, 5).double()
    w = torch.randn(3 * groups, 2, 4).double()  # [M, C/groups, k], not torch's order
    full = torch.zeros(2, 3 * groups, 4 * stride + 4 + extra).double()
    for m in range(3 * groups):
        for c in range(2):
            source = x[:, m // 3 * 2 + c]
            for i in range(5):
                for t in range(4):
                    full[:, m, i * stride + t] += source[:, i] * w[m, c, t]
    op = Conv((stride,), (padding,), (1,), groups, True, (extra,))
    result = op.reference(x, w)
    assert result.shape == op.infer((f32(2, 2 * groups, 5), f32(3 * groups, 2, 4))).shape
    assert torch.allclose(result, full[:, :, padding : full.shape[2] - padding])


def test_batch_norm_by_its_formula():
    x = torch.randn(2, 3, 4, 5).double()
    mean, gamma, beta = (torch.randn(3).double() for _ in range(3))
    var = torch.rand(3).double() + 0.1
    vector = [v.view(3, 1, 1) for v in (mean, var, gamma, beta)]
    normal = (x - vector[0]) / torch.sqrt(vector[1] + 0.1)
    assert torch.allclose(BatchNorm(0.1, False, False).reference(x, mean, var), normal)
    only_shift = BatchNorm(0.1, False, True).reference(x, mean, var, beta)
    assert torch.allclose(only_shift, normal + vector[3])
    only_scale = BatchNorm(0.1, True, False).reference(x, mean, var, gamma)
    assert torch.allclose(only_scale, normal * vector[2])
    both = BatchNorm(0.1).reference(x, mean, var, gamma, beta)
    assert torch.allclose(both, normal * vector[2] + vector[3])


def test_group_norm_by_its_formula():
    x, gamma, beta = torch.randn(2, 6, 4).double(), torch.randn(6).double(), torch.randn(6).double()
    parts = x.view(2, 3, 8)
    mean = parts.mean(2, keepdim=True)
    normal = (parts - mean) / torch.sqrt(((parts - mean) ** 2).mean(2, keepdim=True) + 0.1)
    normal = normal.view(2, 6, 4)
    assert torch.allclose(GroupNorm(3, 0.1, False, False).reference(x), normal)
    assert torch.allclose(
        GroupNorm(3, 0.1, True, True, "relu(x0)").reference(x, gamma, beta),
        (normal * gamma.view(6, 1) + beta.view(6, 1)).relu(),
    )


@pytest.mark.parametrize(("include", "divisor"), [(True, None), (False, None), (True, 7)])
def test_what_an_average_divides_by(include, divisor):
    """Windows of 3 at stride 2 over 5 ones and a border of 1; the last hangs over the end."""
    x = torch.ones(1, 1, 4, 1)
    op = Pool("avg", (3, 1), (2, 1), (1, 0), (1, 1), True, include, divisor)
    # rows -1 0 1 | 1 2 3 | 3 4 (5): the last window has one row, one of padding, one of nothing
    sums, counts = [2, 3, 1], [3, 3, 2] if include else [2, 3, 1]
    expected = [s / (divisor or n) for s, n in zip(sums, counts, strict=True)]
    assert op.reference(x).flatten().tolist() == pytest.approx(expected)
    assert op.infer((f32(1, 1, 4, 1),)).shape == (1, 1, 3, 1)


def test_a_max_pool_ignores_its_border_and_keeps_nan():
    x = torch.tensor([[[-3.0, -2.0, -5.0, math.nan]]])
    op = Pool("max", (3,), (2,), (1,), (1,))
    result = op.reference(x)[0, 0]
    assert result[0] == -2 and result[1].isnan()
    assert Pool("max", (2,), (1,), (0,), (2,)).reference(x[:, :, :3])[0, 0].tolist() == [-3.0]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_adaptive_windows(size):
    x = torch.arange(5.0).view(1, 1, 5)
    windows = [(i * 5 // size, -(-(i + 1) * 5 // size)) for i in range(size)]
    mean = [sum(range(a, b)) / (b - a) for a, b in windows]
    assert AdaptivePool("avg", (size,)).reference(x).flatten().tolist() == pytest.approx(mean)
    top = [b - 1 for _, b in windows]
    assert AdaptivePool("max", (size,)).reference(x).flatten().tolist() == top


@pytest.mark.parametrize("scales", [(), (1.6,), (1.5,)])
@pytest.mark.parametrize("mode", ["nearest", "nearest-exact", "linear", "corners"])
def test_upsample_by_its_positions(mode, scales):
    n, size = 6, 9
    x = torch.randn(1, 1, n).double()
    step = 1 / scales[0] if scales else n / size
    expected = []
    for i in range(size):
        if mode in ("nearest", "nearest-exact"):
            place = math.floor((i + (0.5 if mode == "nearest-exact" else 0)) * step + 1e-7)
            expected.append(x[0, 0, min(place, n - 1)].item())
            continue
        place = max(0.0, (i + 0.5) * step - 0.5)
        if mode == "corners":
            place = i * (n - 1) / (size - 1)
        place = min(place, n - 1)
        low = math.floor(place)
        high, part = min(low + 1, n - 1), place - low
        expected.append((x[0, 0, low] * (1 - part) + x[0, 0, high] * part).item())
    op = Upsample("linear" if mode == "corners" else mode, (size,), mode == "corners", scales)
    assert op.reference(x).flatten().tolist() == pytest.approx(expected, abs=1e-6)


def test_pads_by_their_indices():
    x = torch.arange(4.0)
    cases = {
        "constant": [9, 9, 9, 0, 1, 2, 3, 9],
        "reflect": [3, 2, 1, 0, 1, 2, 3, 2],
        "replicate": [0, 0, 0, 0, 1, 2, 3, 3],
        "circular": [1, 2, 3, 0, 1, 2, 3, 0],
    }
    for mode, expected in cases.items():
        assert Pad(mode, (3,), (1,), 9.0).reference(x).tolist() == expected
    assert Pad("constant", (-1,), (-2,)).reference(x).tolist() == [1]
    assert Pad("constant", (0,), (2,), 1.0).reference(torch.tensor([4, 5])).tolist() == [4, 5, 1, 1]
    image = torch.randn(2, 3, 4, 5)
    for mode in ("reflect", "replicate", "circular"):
        op = Pad(mode, (0, 0, 2, 1), (0, 0, 3, 4))
        assert torch.equal(op.reference(image), F.pad(image, (1, 4, 2, 3), mode=mode))


# --- types ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_windows_are_counted_as_torch_counts_them(ceil_mode):
    for size in range(1, 12):
        for kernel in (1, 2, 3, 5):
            for stride in (1, 2, 3, 4):
                for dilation in (1, 2):
                    for padding in range(kernel // 2 + 1):
                        if size + 2 * padding < dilation * (kernel - 1) + 1:
                            continue
                        x = torch.zeros(1, 1, size)
                        y = F.max_pool1d(x, kernel, stride, padding, dilation, ceil_mode)
                        found = window_count(
                            size, kernel, stride, padding, dilation, ceil_mode=ceil_mode
                        )
                        assert found == y.shape[2]
                        dim = window_count(
                            S0, kernel, stride, padding, dilation, ceil_mode=ceil_mode
                        )
                        number = dim if isinstance(dim, int) else dim.xreplace({S0: size})
                        assert int(number) == found


@pytest.mark.parametrize(
    ("op", "shapes", "result"),
    [
        (Conv((2, 1), (1, 0), (1, 2)), [(S0, 3, S1, 9), (8, 3, 3, 3)],
         "f32[s0, 8, (FloorDiv(s1 - 1, 2)) + 1, 5]"),
        (Conv((2,), (1,), (1,), 1, True, (1,)), [(S0, 3, S1), (8, 3, 3)], "f32[s0, 8, 2*s1]"),
        (BatchNorm(1e-5, False, False), [(S0, 3, S1), (3,), (3,)], "f32[s0, 3, s1]"),
        (Pool("max", (2, 2), (2, 2), (0, 0), (1, 1)), [(S0, 3, S1, 4)],
         "f32[s0, 3, FloorDiv(s1, 2), 2]"),
        (AdaptivePool("avg", (1, S1)), [(S0, 3, 8, S1)], "f32[s0, 3, 1, s1]"),
        (GroupNorm(2, 1e-5, False, False), [(S0, 4, S1)], "f32[s0, 4, s1]"),
        (Upsample("nearest", (2 * S1,)), [(S0, 4, S1)], "f32[s0, 4, 2*s1]"),
        (Pad("constant", (0, S0), (0, -1)), [(4, S1)], "f32[4, s0 + s1 - 1]"),
    ],
)  # fmt: skip
def test_symbolic_shapes(op, shapes, result):
    assert print_type(op.infer(tuple(f32(*s) for s in shapes))) == result


@pytest.mark.parametrize(
    ("op", "shapes"),
    [
        (PLAIN, [(1, 3, 5, 5), (8, 2, 3, 3)]),
        (PLAIN, [(1, 3, 5, 5), (8, 3, 3)]),
        (PLAIN, [(3, 5, 5), (8, 3, 3, 3)]),
        (PLAIN, [(1, 3, 1, 5), (8, 3, 3, 3)]),
        (Conv((1, 1), (0, 0), (1, 1), 2), [(1, 4, 5, 5), (3, 2, 1, 1)]),
        (Conv((0, 1), (0, 0), (1, 1)), [(1, 3, 5, 5), (8, 3, 3, 3)]),
        (Conv((1, 1), (0,), (1, 1)), [(1, 3, 5, 5), (8, 3, 3, 3)]),
        (Conv((1, 1), (0, 0), (1, 1), output_padding=(1, 1)), [(1, 3, 5, 5), (8, 3, 3, 3)]),
        (Conv((1, 1), (0, 0), (1, 1), 1, True), [(1, 3, 5, 5), (8, 3, 3, 3)]),
        (Conv((1, 1), (0, 0), (1, 1), bias=True), [(1, 3, 5, 5), (8, 3, 3, 3), (3,)]),
        (Conv((1, 1), (0, 0), (1, 1), epilogue="add(x0, x1)"),
         [(1, 3, 5, 5), (8, 3, 3, 3), (2, 8, 3, 3)]),
        (BatchNorm(1e-5, False, False), [(2, 3), (3,), (2,)]),
        (BatchNorm(1e-5, False, False), [(3,), (3,), (3,)]),
        (GroupNorm(2, 1e-5, False, False), [(2, 3, 4)]),
        (GroupNorm(1, 1e-5, True, False), [(2, 3, 4), (4,)]),
        (Pool("min", (2,), (2,), (0,), (1,)), [(1, 1, 4)]),
        (Pool("avg", (2,), (2,), (0,), (2,)), [(1, 1, 4)]),
        (Pool("avg", (2,), (2,), (0,), (1,), divisor=3), [(1, 1, 4)]),
        (Pool("max", (2,), (2,), (0,), (1,)), [(1, 4)]),
        (Pool("max", (2, 2), (2,), (0,), (1,)), [(1, 1, 4, 4)]),
        (Pool("max", (), (), (), ()), [(1, 4)]),
        (AdaptivePool("avg", (2, 2)), [(1, 1, 4)]),
        (AdaptivePool("sum", (2,)), [(1, 1, 4)]),
        (Upsample("cubic", (2,)), [(1, 1, 4)]),
        (Upsample("nearest", (2,), True), [(1, 1, 4)]),
        (Upsample("nearest", (2,), False, (1.0, 2.0)), [(1, 1, 4)]),
        (Upsample("nearest", (2,), False, (0.0,)), [(1, 1, 4)]),
        (Pad("mirror", (1,), (1,)), [(4,)]),
        (Pad("constant", (1,), (1,)), [(4, 4)]),
        (Pad("constant", (-3,), (-2,)), [(4,)]),
        (Pad("reflect", (4,), (0,)), [(4,)]),
        (Pad("circular", (0,), (5,)), [(4,)]),
        (Pad("replicate", (-1,), (0,)), [(4,)]),
        (Pad("replicate", (1,), (0,)), [(0,)]),
    ],
)  # fmt: skip
def test_types_that_do_not_fit(op, shapes):
    with pytest.raises(VerifyError):
        op.infer(tuple(f32(*s) for s in shapes))


# --- layouts ----------------------------------------------------------------------------------

VECTOR = f32(4)
UNARY = [
    (Conv((1, 1), (1, 1), (1, 1)), (f32(8, 4, 3, 3),)),
    (BatchNorm(), (VECTOR,) * 4),
    (GroupNorm(2), (VECTOR,) * 2),
    (Pool("max", (2, 2), (2, 2), (0, 0), (1, 1)), ()),
    (AdaptivePool("avg", (1, 1)), ()),
    (Upsample("nearest", (8, 8)), ()),
    (Pad("reflect", (0, 0, 1, 1), (0, 0, 1, 1)), ()),
]
IDS = [op.name for op, _ in UNARY]


@pytest.mark.parametrize(("op", "others"), UNARY, ids=IDS)
def test_channels_count_planes(op, others):
    x = f32(2, 4, 6, 6, layout=IMAGE)
    fixed = (False, *(True for _ in others))
    assert op.planar((x, *others), fixed) == (IMAGE, *(None for _ in others))
    assert op.infer((x, *others)).layout == IMAGE
    assert op.infer((f32(2, 4, 6, 6), *others)).layout is None
    rows = op.infer((f32(2, 4, 6, 6, layout=Layout.rows(4)), *others))
    assert rows.layout == Layout.rows(4)
    double = TensorType("f64", (2, 4, 6, 6), IMAGE)
    refused = op.planar((double, *others), fixed)
    assert isinstance(refused, No) and refused.code == "dtype_unsupported"


@pytest.mark.parametrize(("op", "others"), UNARY[:3], ids=IDS[:3])
def test_vectors_that_change_are_refused(op, others):
    x = f32(2, 4, 6, 6, layout=IMAGE)
    refused = op.planar((x, *others), (False,) * (1 + len(others)))
    assert isinstance(refused, No) and refused.code == "weight_is_computed"


def test_operands_of_an_epilogue():
    op = Conv((1, 1), (1, 1), (1, 1), epilogue="mul(add(x0, x1), x2)")
    x, w = f32(2, 4, 6, 6, layout=IMAGE), f32(8, 4, 3, 3)
    whole, scale = f32(2, 8, 6, 6), f32(8, 1, 1)
    fixed = (False, True, False, True)
    assert op.planar((x, w, whole, scale), fixed) == (IMAGE, None, IMAGE, None)
    refused = op.planar((x, w, whole, f32(6, 6)), fixed)
    assert isinstance(refused, No) and refused.code == "broadcast"
    norm = GroupNorm(2, 1e-5, False, False, "add(x0, x1)")
    assert norm.planar((x, x), (False, False)) == (IMAGE, IMAGE)


def test_ranks_of_channel_planes():
    assert str(channel_planes(2)) == "1|0"
    assert str(channel_planes(3)) == "1|0,2"
    assert str(channel_planes(5)) == "1|0,2,3,4"
    tokens = f32(2, 9, 4, layout=Layout((1, 2, 0), 1))
    norm = BatchNorm(1e-5, False, False)
    assert norm.planar((tokens, f32(9), f32(9)), (False, True, True))[0] == tokens.layout
    refused = Upsample("linear", (8, 8, 8)).planar((f32(1, 1, 4, 4, 4),), (False,))
    assert isinstance(refused, No) and refused.code == "rank_unsupported"
