"""Each kernel for a layer, by triton's interpreter, against torch: odd sizes, empty rows.

`test_layers.py` runs it in a process of its own: `TRITON_INTERPRET` is for all that a process does.
"""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

import sparse_compiler as sc
from sparse_compiler.codegen.gpu import weight_calls
from sparse_compiler.codegen.gpu.layer_kernels import FAMILIES, function
from sparse_compiler.formats.gpu_kernels import CHUNK, ranked

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TOLERANCES = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 2e-2}
FEW = settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
SIZES = st.tuples(
    st.integers(1, 5), st.sampled_from([1, 7, 19, 300]), st.sampled_from([1, 3, 16, 21])
)
DTYPE = st.sampled_from(sorted(TYPES))
SEED = st.integers(0, 99)


def run(name: str, grid, arguments, part: bool = False, **constants) -> None:
    """The kernel of that format and name on CPU tensors, with constants in place of the tile's."""
    format_, _, function_ = name.rpartition(" ")
    family = next(f for f in FAMILIES if (f.format, f.function) == (format_, function_))
    taken = {"GROUP_ROWS": 1 << 20, "GROUP_LINES": 0, **arguments, **constants}
    made = function(family, part)
    names = made.__code__.co_varnames[: made.__code__.co_argcount]
    InterpretedFunction(made)[grid](**{key: taken[key] for key in names})


def planes(out: Tensor, x: Tensor, bias: Tensor, P: int) -> dict:
    """What every kernel takes."""
    sizes = {"P": P, "M": out.shape[0], "LINES": x.shape[0]}
    return {"out": out, "ldo": out.stride(0), "x": x, "ldx": x.stride(0), "bias": bias, **sizes}


def layer(rows: int, depth: int, P: int, dtype: str, seed: int, density: float = 0.3):
    """A weight with an empty row, activations with lines longer than P, a bias, room for out."""
    torch.manual_seed(seed)
    weight = torch.randn(rows, depth) * (torch.rand(rows, depth) < density)
    weight[0] = 0.0
    x, bias = torch.randn(depth, P + 5), torch.randn(rows)
    return *(t.to(TYPES[dtype]) for t in (weight, x, bias)), torch.full(
        (rows, P + 3), 7.0, dtype=TYPES[dtype]
    )


def check(out: Tensor, weight: Tensor, x: Tensor, bias: Tensor, P: int, dtype: str) -> None:
    wanted = torch.relu(weight.float() @ x[:, :P].float() + bias.float()[:, None])
    error = (out[:, :P].float() - wanted).abs().max() / wanted.abs().max().clamp_min(1.0)
    assert error <= TOLERANCES[dtype]
    assert bool((out[:, P:] == 7.0).all()), "it wrote behind its columns"


def csr(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    packed = weight.float().to_sparse_csr()
    index, starts = packed.col_indices().int(), packed.crow_indices().int()
    return starts, index, packed.values().to(weight.dtype)


def packed_csr(weight: Tensor) -> dict[str, Tensor]:
    """As kernels read it: the rows in an order of their own."""
    arrays = dict(zip(("starts", "index", "number"), csr(weight), strict=True))
    return {**arrays, "order": torch.randperm(weight.shape[0]).int()}


@FEW
@given(SIZES, DTYPE, SEED)
def test_csr_linear(sizes, dtype, seed) -> None:
    rows, depth, P = sizes
    weight, x, bias, out = layer(rows, depth, P, dtype, seed)
    high = 1 + seed % 3
    grid = (-(-rows // high), -(-P // 16))
    arguments = planes(out, x, bias, P) | packed_csr(weight)
    run("csr csr_linear", grid, arguments, HIGH=high, WIDE=16)
    check(out, weight, x, bias, P, dtype)


@FEW
@given(SIZES, DTYPE, SEED)
def test_csr_decode(sizes, dtype, seed) -> None:
    rows, depth, P = sizes
    weight, x, bias, out = layer(rows, depth, P, dtype, seed)
    decode("csr csr_decode", weight, x, bias, out, P, dtype, seed, packed_csr(weight), WIDE=8)


def decode(name, weight, x, bias, out, P, dtype, seed, packed, **constants) -> None:
    """By one program for each few rows, then split along K with a second pass."""
    rows, high = out.shape[0], (1, 2, 4)[seed % 3]
    arguments, bands = planes(out, x, bias, P) | packed, -(-rows // high)
    run(name, (bands, P, 1), arguments, **constants, HIGH=high, PARTS=1)
    check(out, weight, x, bias, P, dtype)
    parts, partial = 3, torch.full((3 * rows * P,), float("nan"))
    split = {**arguments, "out": partial}
    run(name, (bands, P, parts), split, **constants, part=True, HIGH=high, PARTS=parts)
    again = {**arguments, "out": torch.full_like(out, 7.0), "partial": partial}
    run("split rows sum_parts", (bands, P), again, HIGH=high, PARTS=parts)
    check(again["out"], weight, x, bias, P, dtype)


@FEW
@given(SIZES, DTYPE, SEED)
def test_bitmap_decode(sizes, dtype, seed) -> None:
    rows, depth, P = sizes
    weight, x, bias, out = layer(rows, depth, P, dtype, seed)
    chunks = -(-depth // CHUNK)
    words = chunks * CHUNK // 32
    bits = np.zeros((rows, words * 32), dtype=bool)
    bits[:, :depth] = (weight != 0).numpy()
    counts = torch.from_numpy(bits.reshape(-1, CHUNK).sum(1))
    starts = torch.cat([torch.zeros(1), counts.cumsum(0)]).int()
    stored = torch.from_numpy(np.packbits(bits, axis=1, bitorder="little").view(np.int32).copy())
    packed = {"starts": starts, "bits": stored, "number": csr(weight)[2]}
    packed |= {"WORDS": words, "CHUNKS": chunks}
    decode("bitmap bitmap_decode", weight, x, bias, out, P, dtype, seed, packed, WIDE=CHUNK)


@FEW
@given(SIZES, DTYPE, SEED)
def test_nm_linear(sizes, dtype, seed) -> None:
    rows, runs, P = sizes
    weight, x, bias, out = layer(rows, 4 * runs, P, dtype, seed, density=1.0)
    fours = weight.view(rows, runs, 4)
    place = torch.rand(fours.shape).argsort(-1)[..., :2]
    number = fours.gather(-1, place)
    weight = torch.zeros_like(fours).scatter(-1, place, number).view(rows, -1)
    packed = {"place": place.to(torch.int8).contiguous(), "number": number.contiguous()}
    arguments = planes(out, x, bias, P) | packed | {"RUNS": runs}
    run("nm_2_4 nm_linear", (rows, -(-P // 16)), arguments, KEPT=2, OF=4, WIDE=16)
    check(out, weight, x, bias, P, dtype)


@FEW
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 4), st.sampled_from([1, 16, 21])),
    st.sampled_from(["fp32", "fp16"]),  # the interpreter's dot takes bf16 for integers
    SEED,
)
def test_block_linear(sizes, dtype, seed) -> None:
    high, deep, P = sizes
    weight, x, bias, out = layer(16 * high, 16 * deep, P, dtype, seed, density=1.0)
    kept = torch.rand(high, deep) < 0.5
    kept[0] = False
    blocks = weight.view(high, 16, deep, 16).transpose(1, 2)
    weight = (blocks * kept[..., None, None]).transpose(1, 2).reshape(weight.shape)
    starts, index, _ = csr(kept.float())
    packed = {"starts": starts, "index": index, "number": blocks[kept].contiguous()}
    sides = {"HIGH": 16, "DEEP": 16, "WIDE": 16, "PRECISION": "ieee"}
    arguments = planes(out, x, bias, P) | packed
    run("block_16x16 block_linear", (high, -(-P // 16)), arguments, **sides)
    check(out, weight, x, bias, P, dtype)


@FEW
@given(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(3, 6)), DTYPE, SEED)
@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (1, 2)])
def test_csr_conv(side, stride, sizes, dtype, seed) -> None:
    rows, channels, height = sizes
    batch, width, pad = 2, height + 1, side // 2
    weight, _, bias, _ = layer(rows, channels * side**2, 1, dtype, seed, density=0.5)
    images = torch.randn(batch, channels, height, width).to(TYPES[dtype])
    kernels = weight.float().view(rows, channels, side, side)
    wanted = torch.conv2d(images.float(), kernels, bias.float(), stride, pad).relu()
    ho, wo = wanted.shape[2:]
    P, x = batch * ho * wo, images.transpose(0, 1).reshape(channels, -1).contiguous()
    out = torch.full((rows, P + 3), 7.0, dtype=TYPES[dtype])
    image = {"D": 1, "H": height, "W": width, "DO": 1, "HO": ho, "WO": wo}
    taps = {"KD": 1, "KH": side, "KW": side, "ED": 1, "EH": 1, "EW": 1}
    steps = {"SD": 1, "SH": stride, "SW": stride, "PD": 0, "PH": pad, "PW": pad}
    arguments = planes(out, x, bias, P) | packed_csr(weight) | image | taps | steps
    run("csr csr_conv", (-(-rows // 2), -(-P // 16)), arguments, HIGH=2, WIDE=16)
    found = out[:, :P].float().view(rows, batch, ho, wo).transpose(0, 1)
    assert (found - wanted).abs().max() <= TOLERANCES[dtype] * wanted.abs().max().clamp_min(1.0)
    assert bool((out[:, P:] == 7.0).all())


@pytest.mark.parametrize("format_", ["csr", "bitmap"])
@pytest.mark.parametrize("columns", [1, 3])
def test_rows_split_along_k_inside_a_program(format_, columns, monkeypatch) -> None:
    """The tiles in parts put first: two launches, with memory between them."""

    def split_first(*arguments):
        return tuple(sorted(ranked(*arguments), key=lambda choice: -choice.tile.parts))

    monkeypatch.setattr(weight_calls, "ranked", split_first)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(1300, 33), torch.nn.GELU()).eval()
    model[0].weight.data *= torch.rand(33, 1300) < 0.2
    model[0].weight.data[5] = 0.0
    x = torch.randn(columns, 1300)
    options = {"format": format_, "force_native": True, "calibrate": False}
    fast = sc.compile(model, (x,), target="cuda", options=options)
    launches = [x for s in fast._pipeline.segments for x in s.module.launches]
    names = [getattr(launch, "kernel", "").rpartition("_")[0] for launch in launches]
    assert {f"{format_}_decode_part", "sum_parts"} <= set(names)
    with torch.no_grad():
        assert (fast(x) - model(x)).abs().max() <= 1e-5
