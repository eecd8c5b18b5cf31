"""The whole pipeline on real architectures: every pass verified and every number compared."""

import pytest
import torch

from sparse_compiler.analysis.sparsity import sparsity_facts
from sparse_compiler.frontends.export import export_module
from sparse_compiler.options import Options
from sparse_compiler.passes.base import Context
from sparse_compiler.passes.compare import Sample
from sparse_compiler.passes.pipeline import PASSES, run_passes
from tests.models import models


def pruned(model, density):
    """The model with zeros at random places of every matrix; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() >= 2:
            parameter.mul_(torch.rand(parameter.shape, generator=generator) < density)
    return model


@pytest.mark.parametrize("name", ["bert", "efficientnet", "llama", "lstm", "mixer", "unet"])
def test_passes_keep_the_numbers_and_find_nothing_the_second_time(name):
    model, args, kwargs = models()[name]()
    exported = export_module(pruned(model, 0.1), args, kwargs)
    graph, params = exported.imported.graph, exported.imported.params
    sample = Sample(exported.call.flatten(args, kwargs), params)
    facts = {
        name: sparsity_facts(tensor)
        for name, tensor in params.items()
        if tensor.dim() >= 2 and tensor.is_floating_point()
    }

    def run(graph):
        return run_passes(graph, Context(facts=facts), Options(verify=2), sample=sample)

    after, records = run(graph)
    assert [record.name for record in records] == [pass_.name for pass_ in PASSES]
    again, records = run(after)
    assert again is after, [record.name for record in records if record.changed]
