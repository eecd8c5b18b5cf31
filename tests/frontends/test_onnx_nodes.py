"""ONNX's own tests of its operators: our results are theirs, or the file is refused by name.

Graphs are run by the references of their ops, and by TVM where they stay TVM's: this is about
meaning, not kernels. Inputs that only say sizes or axes are stored in the file.
"""

import contextlib
import io
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from sparse_compiler.errors import InputError, UnsupportedError
from sparse_compiler.frontends.onnx import import_onnx
from sparse_compiler.frontends.onnx_read import NEWEST, OLDEST
from sparse_compiler.runtime.plain import PlainModule

SAMPLE = (
    "add", "argmax", "batchnorm_example", "clip", "concat_1d", "cumsum_1d", "div",
    "expand_dim", "gather_0", "gelu", "gemm_all", "group_normalization", "hardsigmoid",
    "leakyrelu", "logsoftmax_axis", "matmul_2d", "pow", "prelu", "reduce_mean",
    "resize_upsample_scales_nearest", "softmax", "split_equal", "tile", "where",
)  # fmt: skip


@cache
def cases() -> Mapping[str, Any]:
    """The operator tests of opsets that we read, by name."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    return {
        case.name.removeprefix("test_"): case
        for case in found
        if case.model is not None and OLDEST <= _opset(case.model) <= NEWEST
    }


def _opset(model: onnx.ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain == ""), 0)


def stored(model: onnx.ModelProto, inputs: list[Any]) -> tuple[onnx.ModelProto, list[Any]]:
    """The model with small whole-number inputs behind the first, and empty ones, as constants."""
    made, kept = onnx.ModelProto(), []
    made.CopyFrom(model)
    for position, (value, array) in enumerate(zip(model.graph.input, inputs, strict=True)):
        small = isinstance(array, np.ndarray) and array.ndim <= 1 and array.size <= 8
        sizes = small and (array.dtype.kind in "ib" or value.name in ("scales", "roi"))
        if position and sizes:
            made.graph.initializer.append(numpy_helper.from_array(array, value.name))
        else:
            kept.append(array)
    names = {tensor.name for tensor in made.graph.initializer}
    for value in [v for v in made.graph.input if v.name in names]:
        made.graph.input.remove(value)
    return made, kept


def outcome(name: str, folder: Path) -> str:
    """ "right", or why the case is refused. Anything else fails."""
    case = cases()[name]
    inputs, wanted = case.data_sets[0]
    if not all(isinstance(array, np.ndarray | np.generic) for array in (*inputs, *wanted)):
        return "no tensors"
    made, kept = stored(case.model, [np.asarray(array) for array in inputs])
    path = folder / "node.onnx"
    onnx.save(made, str(path))
    try:
        args = tuple(torch.from_numpy(np.array(array)) for array in kept)
        found = import_onnx(path, args, {}, {})
    except (UnsupportedError, InputError, TypeError) as error:
        return str(error)
    imported = found.imported
    with torch.no_grad():
        results = PlainModule(imported.graph, imported.params, found.call)(*args)
    given = [results] if isinstance(results, torch.Tensor) else list(results)
    assert [tuple(t.shape) for t in given] == [np.shape(a) for a in wanted], name
    for tensor, array in zip(given, wanted, strict=True):
        numbers = tensor.double().numpy()
        right = np.allclose(numbers, np.float64(array), 1e-3, 1e-5, equal_nan=True)
        assert right, f"{name}: off by {np.abs(numbers - np.float64(array)).max()}"
    return "right"


@pytest.mark.system
def test_one_of_each(tmp_path: Path) -> None:
    """The first case of each family of the sample. One test: collecting the cases takes seconds."""
    names = [next(n for n in sorted(cases()) if n.startswith(start)) for start in SAMPLE]
    found = {name: outcome(name, tmp_path) for name in names}
    assert found == dict.fromkeys(names, "right")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all(tmp_path: Path) -> None:
    found = {name: outcome(name, tmp_path) for name in cases()}
    right = [name for name, what in found.items() if what == "right"]
    print(f"{len(right)} of {len(found)} operator tests are right, the others are refused")
    assert len(right) > 400
