"""Encodings of tensors: exact for every dtype, the smallest wins, forged parts are refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_compiler.errors import ArtifactError
from sparse_compiler.runtime.encoding import DECODERS, Encoded, decode, encode

DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
    torch.complex64,
)


def sparse(shape: tuple[int, ...], density: float, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randint(1, 100, shape, generator=generator)
    keep = torch.rand(shape, generator=generator) < density
    return (values * keep).to(dtype)


@given(
    shape=st.lists(st.integers(0, 40), max_size=3).map(tuple),
    density=st.sampled_from((0.0, 0.001, 0.01, 0.1, 0.5, 1.0)),
    dtype=st.sampled_from(DTYPES),
)
@settings(max_examples=60, deadline=None)
def test_what_is_read_is_what_was_written(
    shape: tuple[int, ...], density: float, dtype: torch.dtype
) -> None:
    tensor = sparse(shape, density, dtype)
    encoded = encode(tensor)
    found = decode(encoded, dtype, shape)
    assert found.dtype == dtype
    assert torch.equal(found, tensor)
    assert encoded.nbytes <= tensor.nbytes


@pytest.mark.parametrize(
    ("density", "kind", "share"),
    [
        (1.0, "dense", 1.0),
        (0.5, "bitmap", 0.5 + 1 / 32),
        (0.1, "deltas", 0.125),
        (0.0, "deltas", 0),
    ],
)
def test_the_smallest_encoding_wins(density: float, kind: str, share: float) -> None:
    tensor = sparse((300, 300), density, torch.float32)
    encoded = encode(tensor)
    assert encoded.kind == kind
    assert encoded.nbytes / tensor.nbytes == pytest.approx(share, rel=0.03, abs=0.001)


def test_gaps_longer_than_a_delta() -> None:
    tensor = torch.zeros(5000)
    tensor[[0, 255, 256, 513, 1025, 4999]] = torch.arange(1.0, 7.0)
    encoded = encode(tensor)
    assert encoded.kind == "deltas"
    assert len(encoded.parts["values"]) == 6 + 1 + 1 + 3973 // 256
    assert torch.equal(decode(encoded, torch.float32, (5000,)), tensor)


def test_not_a_number_is_kept_and_negative_zero_is_a_zero() -> None:
    tensor = torch.zeros(100)
    tensor[3], tensor[7], tensor[50] = float("nan"), float("-inf"), -0.0
    encoded = encode(tensor)
    assert len(encoded.parts["values"]) == 2
    assert torch.equal(decode(encoded, torch.float32, (100,)).nan_to_num(9), tensor.nan_to_num(9))


def test_a_dense_tensor_is_a_view_of_its_part() -> None:
    encoded = encode(torch.ones(8))
    assert decode(encoded, torch.float32, (2, 4)).data_ptr() == encoded.parts["values"].ctypes.data


values = np.ones(3, np.int32)
FORGED = {
    "unknown encoding": Encoded("huffman", {"values": values}),
    "no values": Encoded("dense", {}),
    "values of another width": Encoded("dense", {"values": np.ones(10, np.int16)}),
    "too few values": Encoded("dense", {"values": values}),
    "no mask": Encoded("bitmap", {"values": values}),
    "a short mask": Encoded("bitmap", {"values": values, "mask": np.full(1, 7, np.uint8)}),
    "a mask of other counts": Encoded("bitmap", {"values": values, "mask": np.array([3, 0], "u1")}),
    "bits behind the end": Encoded("bitmap", {"values": values, "mask": np.array([3, 128], "u1")}),
    "no deltas": Encoded("deltas", {"values": values}),
    "fewer deltas": Encoded("deltas", {"values": values, "deltas": np.ones(2, np.uint8)}),
    "a delta behind the end": Encoded("deltas", {"values": values, "deltas": np.full(3, 3, "u1")}),
    "a matrix of values": Encoded("dense", {"values": np.ones((2, 5), np.int32)}),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_parts_are_refused(name: str) -> None:
    with pytest.raises(ArtifactError):
        decode(FORGED[name], torch.float32, (10,))


def test_every_encoding_is_tested_here() -> None:
    assert {encoded.kind for encoded in FORGED.values()} >= set(DECODERS)
