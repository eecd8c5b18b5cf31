"""An exported program as a module of standard layers, so that what prunes modules prunes it too.

torch.export leaves calls of `aten.linear` and `aten.convolution` on tensors; here each is a call of
an `nn.Linear` or `nn.Conv2d` that stands where the tensors stood.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx

from .layers import layer_call


def module_of_layers(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """The program as a module, in eval mode, on `nn.Linear`, `nn.Conv2d` and other layers.

    Paths are those of the model that was exported. Its parameters are copies; a call whose weight
    is computed, or shared under another path, stays as it is.
    """
    table = torch.export.default_decompositions()
    for op in [op for op in table if not op.name().startswith("aten::conv")]:
        del table[op]  # the others stay calls of a layer's function
    traced = program.run_decompositions(table).module(check_guards=False)
    for node in list(traced.graph.nodes):
        if node.op == "call_function":
            layer_call(traced, node)
    traced.graph.eliminate_dead_code()
    traced.graph._tracer_cls = None  # export's own cannot be made again when copied
    return fx.GraphModule(traced, traced.graph, "Program").eval()


def with_weights(
    program: torch.export.ExportedProgram, weights: Mapping[str, torch.Tensor]
) -> torch.export.ExportedProgram:
    """`program` with other values in these of its parameters, in place."""
    with torch.no_grad():
        for name, weight in weights.items():
            program.state_dict[name].copy_(weight)
    return program
