"""What a call costs beside the native code: at most 30 us for 10 inputs, 10 outputs, 50 parameters.

Where Python is so slow that torch takes more than a fifth of that to make ten empty tensors, five
times as long as these: a third of the call is making its results.
The native function's own time is taken by entering the library again with the same addresses.
Best of three tries, since anything else on the machine only lengthens a call.
"""

import time
from collections.abc import Callable

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.runtime.entry import Frame
from sparse_compiler.runtime.native import NativeSegment

pytestmark = pytest.mark.speed

LIMIT_US = 30.0
LIMIT_RESULTS = 5.0  # times what torch takes to make the ten results
TRIES = 3
CALLS = 1000
ROUNDS = 7
WIDTH = 16


class TenByTen(nn.Module):
    """Ten inputs that meet in a sum, ten outputs, fifty parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(10))
        self.after = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(10))
        self.scales = nn.ParameterList(nn.Parameter(torch.randn(WIDTH)) for _ in range(10))

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        total = torch.stack(inputs).sum(0)
        layers = zip(inputs, self.before, self.scales, self.after, strict=True)
        return tuple(d(torch.relu(a(x + total)) * s) for x, a, s, d in layers)


def shortest_us(run: Callable[[], object]) -> float:
    """Microseconds of a call, in the fastest of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(CALLS):
            run()
        best = min(best, time.perf_counter() - began)
    return best / CALLS * 1e6


def entered(segment: NativeSegment, run: Callable[[], object]) -> tuple[object, ...]:
    """The arguments with which `run` enters the library, and what keeps their memory alive."""
    seen: list[tuple[object, ...]] = []
    library = segment._run

    def note(*arguments: object) -> int:
        seen.append(arguments)
        return int(library(*arguments))

    segment._run = note  # type: ignore[assignment]
    kept = run()
    segment._run = library
    frame: Frame = segment._frames._free.pop()  # no later call may write to its addresses
    return (*seen[-1], kept, frame)


@pytest.mark.parametrize("grad", [False, True], ids=["no_grad", "grad mode"])
def test_call_overhead(grad: bool) -> None:
    torch.manual_seed(0)
    model = TenByTen().eval().requires_grad_(False)
    assert len(list(model.parameters())) == 50
    inputs = [torch.randn(4, WIDTH) for _ in range(10)]
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # waits of threads for one another are no overhead of the call
    try:
        fast = sc.compile(model, tuple(inputs), options={"force_native": True})
        (segment,) = fast.pipeline.segments
        with torch.set_grad_enabled(grad):
            for got, want in zip(fast(*inputs), model(*inputs), strict=True):
                assert torch.allclose(got, want, atol=1e-5)
            arguments = entered(segment, lambda: fast(*inputs))
            seen, limit = [], LIMIT_US
            for _ in range(TRIES):
                made = shortest_us(lambda: [torch.empty(4, WIDTH) for _ in inputs])
                limit = max(limit, LIMIT_RESULTS * made)
                native = shortest_us(lambda: segment._run(*arguments[:7]))
                seen.append(shortest_us(lambda: fast(*inputs)) - native)
                if seen[-1] <= limit:
                    return
    finally:
        torch.set_num_threads(before)
    pytest.fail(f"{', '.join(f'{us:.1f}' for us in seen)} us; {limit:.1f} allowed")
