"""One trace of a module against the public road, which traces twice."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sparse_compiler.errors import UnsupportedError
from sparse_compiler.frontends.export import export_module, import_program


class Tied(nn.Module):
    """Shared weights, writes in place, an attention that stays whole, a block without gradients."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(16, 8)
        self.head = nn.Linear(8, 16, bias=False)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.full((8,), 0.5), persistent=False)

    def forward(self, ids, bias=None):
        x = self.table(ids)
        x.mul_(self.scale)
        with torch.no_grad():
            x = F.scaled_dot_product_attention(x, x, x)
        x[:, 0] = 0
        return self.head(x) if bias is None else self.head(x) + bias


IDS = torch.arange(6).view(2, 3)


def text(exported):
    """The graph without source lines, of which one trace knows more."""
    return re.sub(r" +#.*", "", str(exported.imported.graph))


@pytest.mark.parametrize("dynamic", (False, True))
def test_same_graph_as_the_public_road(dynamic):
    model = Tied().eval()
    shapes = {"ids": {0: torch.export.Dim("batch", min=2, max=8)}} if dynamic else None
    found = export_module(model, (IDS,), None, shapes)
    program = torch.export.export(model, (IDS,), dynamic_shapes=shapes)
    expected = import_program(program)
    assert text(found) == text(expected)
    assert found.call == expected.call
    assert found.imported.params["head.weight"] is model.table.weight
    reads = [name for node in found.imported.graph.nodes for name in node.inputs]
    assert reads.count("head.weight") == 2 and "table.weight" not in reads


def test_a_program_of_a_file_is_traced_again(tmp_path):
    path = tmp_path / "program.pt2"
    torch.export.save(torch.export.export(Tied().eval(), (IDS,)), path)
    loaded = torch.export.load(path)
    found = export_module(loaded.module(), (IDS,))
    assert len(found.imported.graph.nodes) == len(import_program(loaded).imported.graph.nodes)


def test_torchscript_is_refused_with_what_to_do():
    scripted = torch.jit.trace(nn.Linear(2, 2), (torch.zeros(1, 2),))
    with pytest.raises(UnsupportedError, match="TorchScript") as caught:
        export_module(scripted, (torch.zeros(1, 2),))
    assert "compile the module" in str(caught.value)
