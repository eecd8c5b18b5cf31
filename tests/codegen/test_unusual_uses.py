"""Uses that random cases meet rarely and that once went wrong; the GPU's tests found them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import sparse_compiler as sc
from sparse_compiler.ir.types import Layout, TensorType
from sparse_compiler.ops.linear import Linear
from sparse_compiler.ops.reduce import Reduce
from sparse_compiler.ops.upsample import Upsample
from tests.codegen.native_modes import Mode, Use, Uses, modes, use
from tests.ops.cases import Case


def first(case: Case, layout: Layout | None = None) -> Use:
    """The case in its first mode, or with its only input in that layout."""
    mode = modes(case)[0] if layout is None else Mode((False,), (layout,))
    made = use(case, mode, symbolic=False)
    assert made is not None
    return made


@pytest.mark.system
def test_they_agree_with_the_interpreter(kernel_cache: Path) -> None:
    torch.manual_seed(0)
    line, image = torch.randn(1, 2, 3), torch.randn(2, 5, 13, 3)
    uses = [
        first(Case(Upsample("linear", (3,), False, (1.3,)), (line,))),  # a scale, the same size
        first(Case(Upsample("nearest", (13, 6), False, (1.02, 2.0)), (image,))),
        first(Case(Reduce("mean", (2, 3)), (image,)), Layout((0, 1, 2, 3), 1)),  # planes of samples
    ]
    assert not list(Uses(uses, kernel_cache).problems())


@torch.no_grad()
@pytest.mark.parametrize("select", [False, True])
def test_an_index_without_dimensions(select: bool) -> None:
    class Picking(nn.Module):
        def forward(self, x: Tensor, i: Tensor) -> Tensor:
            y = torch.cumsum(x, 0)
            return torch.index_select(y, 0, i) if select else torch.ops.aten.index.Tensor(y, [i])

    model, x = Picking().eval(), torch.arange(5.0)
    fast = sc.compile(model, (x, torch.tensor(1)), options={"force_native": True})
    assert fast.inspect().fallback_calls == 0
    for i in (0, 3) if select else (0, 3, -2):
        assert torch.equal(fast(x, torch.tensor(i)), model(x, torch.tensor(i)))


def test_a_number_may_stand_beside_one_column() -> None:
    row, number = (TensorType("f32", shape) for shape in ((1, 4), ()))
    weight = TensorType("f32", (4, 4))
    assert Linear(epilogue="mul(x0, x1)").row_major((row, weight, number)) is None
