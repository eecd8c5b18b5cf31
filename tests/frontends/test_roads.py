"""A model is the same to the compiler whether it comes from torch.export, from TVM or from ONNX."""

import importlib.util
import logging
import sys
import warnings
from pathlib import Path

import pytest
import torch

pytest.importorskip("tvm")
pytest.importorskip("onnxscript")

from sparse_compiler.frontends.export import import_program
from sparse_compiler.frontends.foreign import import_foreign, is_relax
from sparse_compiler.inspector.report import report_of
from sparse_compiler.options import Options
from sparse_compiler.runtime.pipeline import lower_graph
from sparse_compiler.runtime.plain import PlainModule
from sparse_compiler.runtime.weights import LiveWeights

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "roads.py"
SAMPLE = ("gpt2", "mobilenetv2", "vit")


@pytest.fixture(scope="module")
def script():
    """benchmarks/roads.py as a module."""
    spec = importlib.util.spec_from_file_location("roads_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.WARNING)  # torch.onnx tells of every operator that it does not need
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def lowered_look(script, source, args, expected):
    """What `look` says of a graph that is lowered and interpreted, but not compiled."""
    exported = import_foreign(source) if is_relax(source) else import_program(source)
    weights = LiveWeights(exported.imported.params)
    lowered = lower_graph(exported.imported.graph, weights, Options.from_dict({}), {})
    result = PlainModule(script.normalised(lowered), weights.tensors, exported.call)(*args)
    return script.look(lowered, report_of(lowered, tensors=weights.tensors), result, expected)


def check(script, looks):
    assert set(looks) == {"torch", "relax", "onnx"}
    for road, seen in looks.items():
        assert seen.form == looks["torch"].form, road
        assert seen.error <= script.LIMIT and seen.calls == 0, road
    assert looks["torch"].counts["linear"] and looks["torch"].choices


@pytest.mark.system
@pytest.mark.parametrize("name", SAMPLE)
@torch.no_grad()
def test_three_roads_lead_to_one_graph(script, name):
    module, args = script.small_model(name)
    expected = module(*args)
    looks = {
        road: lowered_look(script, source(), args, expected)
        for road, source in script.roads(module, args).items()
    }
    check(script, looks)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "minilm", *SAMPLE, "resnet50", "efficientnet"])
def test_three_roads_compiled(script, name):
    module, args = script.small_model(name)
    check(script, {k: seen for k, (_, seen) in script.compiled_roads(module, args).items()})
