"""Calls: inputs of all kinds, results of their own, threads, forks, dynamic and empty batches."""

import os
import signal
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.errors import InputError
from tests.runtime.nets import NATIVE, agrees, check, compiled, mlp

pytestmark = pytest.mark.usefixtures("cached_kernels")

X = torch.randn(9, 24, generator=torch.Generator().manual_seed(1))
BATCH = torch.export.Dim("batch", min=0, max=512)  # a plain DYNAMIC starts at 2


def dynamic(model: nn.Module, x: torch.Tensor = X) -> sc.Compiled:
    return compiled(model, x, dynamic_shapes=({0: BATCH},))


@pytest.mark.system
def test_dynamic_batch() -> None:
    model = mlp()
    fast = dynamic(model)
    for batch in (1, 7, 3, 300, 64, 1):
        agrees(fast, model, torch.randn(batch, 24))
    assert len(fast.pipeline.segments) == 1


def test_empty_batch() -> None:
    model = mlp()
    fast = dynamic(model)
    assert fast(torch.empty(0, 24)).shape == (0, 5)
    agrees(fast, model, X)
    static = compiled(model, torch.empty(0, 24))
    assert static(torch.empty(0, 24)).shape == (0, 5)


def test_strided_inputs() -> None:
    model = mlp()
    fast = compiled(model, X)
    agrees(fast, model, torch.randn(24, 9).T)
    agrees(fast, model, torch.randn(1, 24).expand(9, 24))
    agrees(fast, model, torch.randn(18, 48)[::2, ::2])
    agrees(fast, model, torch.randn(9, 25)[:, 1:])  # rows that start anywhere


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (
            (X.double(),),
            r"input %input is torch.float64 on cpu\n  why: .*torch.float32 on cpu\n  fix",
        ),
        ((X.int(),), "torch.int32"),
        ((X[:5],), r"wrong shape\n  why: dimension 0 is 5 where 9"),
        ((X[None],), "3 dimensions where 2 are expected"),
        ((torch.randn(9, 25),), "dimension 1 is 25 where 24"),
        ((X, X), r"another structure.*\n  why: 2 positional(.|\n)*\n  fix: call with"),
        (((X,),), "another structure"),
        ((), "another structure"),
        (([[1.0]],), "another structure"),
        ((None,), "is a NoneType, no tensor|another structure"),
        ((3,), "is a int, no tensor"),
    ],
    ids=["f64", "int", "batch", "rank", "width", "two", "tuple", "none", "list", "None", "number"],
)
def test_wrong_arguments(args: tuple, said: str) -> None:
    fast = compiled(mlp(), X)
    with pytest.raises(InputError, match=said):
        fast(*args)
    agrees(fast, mlp(), X)


def test_wrong_keyword() -> None:
    fast = compiled(mlp(), X)
    with pytest.raises(InputError, match=r"\['y'\] by name"):
        fast(X, y=1)


def test_out_of_range() -> None:
    dim = torch.export.Dim("batch", min=2, max=16)
    fast = compiled(mlp(), X, dynamic_shapes=({0: dim},))
    with pytest.raises(InputError, match=r"17 lies outside \[2, 16\]\n  fix: compile with a range"):
        fast(torch.randn(17, 24))


def test_double_precision_runs_in_torch() -> None:
    model, x = mlp().double(), X.double()
    fast = compiled(model, x)
    assert not fast.pipeline.segments
    (entry, *_) = sc.inspect(fast).layers
    assert "dtype_unsupported" in str(entry.reason)
    agrees(fast, model, x)


@pytest.mark.system
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_natively(dtype: torch.dtype) -> None:
    """Results have the model's dtype and are as near to the exact ones as torch's, or nearer."""
    model, x = mlp().to(dtype), X.to(dtype)
    fast = compiled(model, x)
    assert fast.inspect().fallback_calls == 0
    got, eager = fast(x), model(x)
    assert got.dtype == dtype
    exact = model.double()(x.double())
    assert (got.double() - exact).abs().max() <= (eager.double() - exact).abs().max()


class Structures(nn.Module):
    """Nested results, a keyword, a constant, None, an input and a parameter handed through."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()
        self.scale = nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, x: torch.Tensor, *, pair: tuple, double: bool = False) -> dict:
        y = self.net(x) + pair[0]
        if double:
            y = 2 * y
        return {"y": y, "rest": (y.sum(), [None, 7, "name"], x), "doubled": self.scale * 2}


@pytest.mark.system
def test_structures_and_constants() -> None:
    model = Structures().eval()
    pair = (torch.randn(5), torch.randn(2))
    fast = sc.compile(model, (X,), {"pair": pair, "double": True}, options=NATIVE)
    agrees(fast, model, X, pair=pair, double=True)
    agrees(fast, model, X, double=True, pair=pair)  # keywords in another order
    with pytest.raises(InputError, match="is False\n  why: the model was compiled for True"):
        fast(X, pair=pair, double=False)


def test_results_belong_to_the_caller() -> None:
    model = Structures().eval()
    pair = (torch.randn(5), torch.randn(2))
    fast = sc.compile(model, (X,), {"pair": pair}, options=NATIVE)
    first = fast(X, pair=pair)
    kept = {"y": first["y"].clone(), "doubled": first["doubled"].clone()}
    fast(X + 1, pair=pair)
    check(first["y"], kept["y"])
    for result in (first["y"], first["doubled"], first["rest"][0]):
        result.fill_(99)  # also what depends on weights alone
    again = fast(X, pair=pair)
    check({"y": again["y"], "doubled": again["doubled"]}, kept)


def test_nonfinite_weights_and_inputs() -> None:
    """As torch, but for structural zeros: 0 x inf and 0 x nan do not propagate from them."""
    model = mlp()
    with torch.no_grad():
        model[0].weight[:, 5] = 0
        model[0].weight[2, 1] = torch.nan
        model[0].weight[4, 2] = torch.inf
        model[2].weight[:, :6] = 0
        model[2].weight[3, 2] = 1
    fast = compiled(model, X, options={"format": "csr"})
    assert [layer.format for layer in sc.inspect(fast).layers] == ["csr", "csr"]
    got = fast(X)
    assert got[:, 3].isnan().all(), "row 2 is read by output 3 alone"
    assert got[:, [0, 1, 2, 4]].isfinite().all(), "zeros of the second weight keep row 4's inf out"
    x = X.clone()
    x[4, 5] = torch.inf  # read by zeros only
    check(fast(x), got)
    x[4, 1] = torch.nan
    assert fast(x)[4].isnan().any()


@pytest.mark.parametrize("shape", [(0, 24), (9, 0)])
def test_weights_of_no_elements(shape: tuple[int, int]) -> None:
    m, k = shape
    model = nn.Sequential(nn.Linear(k, m), nn.ReLU(), nn.Linear(m, 5)).eval().requires_grad_(False)
    x = torch.randn(4, k)
    agrees(compiled(model, x), model, x)


def test_thread_count_may_change() -> None:
    model, before = mlp(), torch.get_num_threads()
    fast = dynamic(model)
    x = torch.randn(300, 24)
    try:
        for threads in (1, 2, 5, 1, 3):
            torch.set_num_threads(threads)
            agrees(fast, model, x)
    finally:
        torch.set_num_threads(before)


def test_calls_from_many_threads() -> None:
    model = mlp()
    fast = dynamic(model)
    inputs = [torch.randn(batch, 24) for batch in (1, 40, 300, 5)]
    expected = [model(x) for x in inputs]
    errors: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for i in range(60):
                which = (index + i) % len(inputs)
                check(fast(inputs[which]), expected[which])
        except BaseException as error:  # noqa: BLE001, a thread's failure must reach the test
            errors.append(error)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not errors, errors[0]


def test_weights_changed_while_threads_call() -> None:
    """Every result is that of the old or the new weights, and what comes afterwards is new."""
    model, new = mlp(), mlp(seed=2)
    fast = compiled(model, X)
    old_result, new_result = fast(X), new(X)
    errors: list[str] = []
    changed = threading.Event()

    def work() -> None:
        for _ in range(100):
            settled = changed.is_set()
            got = fast(X)
            is_new = torch.allclose(got, new_result, atol=1e-5)
            if not is_new and (settled or not torch.allclose(got, old_result, atol=1e-5)):
                errors.append("stale" if settled else "mixed")

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    model.load_state_dict(new.state_dict(), assign=True)  # one step a parameter, not all at once
    changed.set()
    for worker in workers:
        worker.join()
    assert "stale" not in errors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_child() -> None:
    """OpenMP's threads do not survive a fork; a child runs our code on one thread."""
    model = mlp()
    fast = compiled(model, X)
    want = fast(X)
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # instead of a hang
        same = torch.allclose(fast(X), want, atol=1e-5)
        os._exit(0 if same else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_an_exported_program_gives_gradients_too(cached_kernels: Path) -> None:
    model = torch.nn.Linear(8, 4).eval()
    x = torch.randn(3, 8)
    fast = sc.compile(torch.export.export(model, (x,)), options={"force_native": True})
    assert fast(x).requires_grad
    with torch.no_grad():
        assert torch.allclose(fast(x), model(x), atol=1e-5)
