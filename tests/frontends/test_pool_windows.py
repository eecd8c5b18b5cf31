"""A window that hangs over the image counts for nothing outside, and no kernel visits it there."""

from typing import Any

import pytest
import torch
from torch import nn

from sparse_compiler.frontends.export import export_module
from sparse_compiler.ir.interpret import interpret
from sparse_compiler.ops.pool import Pool

AVG: list[dict[str, Any]] = [
    {},
    {"padding": 1},
    {"padding": 1, "count_include_pad": False},
    {"divisor_override": 7},
]


@pytest.mark.parametrize(
    ("pool", "kernel"),
    [(nn.AvgPool2d(640, ceil_mode=True, **kwargs), kwargs) for kwargs in AVG]
    + [(nn.MaxPool2d(640, ceil_mode=True), {})],
)
def test_what_hangs_over_is_cut_off(pool: nn.Module, kernel: dict[str, Any]) -> None:
    x = torch.randn(1, 5, 3, 2)
    graph = export_module(pool, (x,)).imported.graph
    (op,) = [node.op for node in graph.nodes if isinstance(node.op, Pool)]
    border = 2 * kernel.get("padding", 0)
    assert op.kernel == (3 + border, 2 + border)
    (got,) = interpret(graph, [x], {})
    torch.testing.assert_close(got, pool(x))


def test_windows_inside_stay() -> None:
    x = torch.randn(1, 5, 7, 8)
    graph = export_module(nn.AvgPool2d((3, 2), 2, ceil_mode=True), (x,)).imported.graph
    assert [node.op.kernel for node in graph.nodes if isinstance(node.op, Pool)] == [(3, 2)]
    dilated = export_module(nn.MaxPool2d(4, 2, dilation=2, ceil_mode=True), (x,)).imported.graph
    assert [node.op.kernel for node in dilated.nodes if isinstance(node.op, Pool)] == [(4, 4)]
