"""Max-autotune's end: who wins, and that frozen code goes at the first change of a weight."""

import time

import pytest
import torch
from filelock import FileLock, Timeout

import sparse_compiler as sc
from sparse_compiler import tuned as tuned_module
from sparse_compiler.frontends import contest as module
from sparse_compiler.frontends.contest import EAGER, INDUCTOR, OURS, Outcome, contest
from sparse_compiler.frontends.frozen import Frozen, flat_module, with_attributes
from sparse_compiler.frontends.rival import Guarded
from sparse_compiler.ir.refusal import No
from sparse_compiler.runtime.weights import LiveWeights

X = torch.randn(4, 24)


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = torch.nn.Linear(24, 33), torch.nn.ReLU(), torch.nn.Linear(33, 5)
    return torch.nn.Sequential(*layers).eval().requires_grad_(False)


def sleeper(ms: float):
    return lambda *_: time.sleep(ms / 1e3)


def frozen(run) -> Frozen:
    return Frozen(run, ((X.shape, X.dtype),))


@pytest.fixture
def few_rounds(monkeypatch) -> None:
    monkeypatch.setattr(module, "_ROUNDS", 3)


@pytest.mark.parametrize(
    ("ours", "eager", "inductor", "winner"),
    [(1, 30, 30, OURS), (30, 1, 30, EAGER), (30, 40, 1, INDUCTOR)],
)
def test_the_fastest_wins(few_rounds, ours, eager, inductor, winner) -> None:
    outcome = contest(
        sleeper(ours), sleeper(eager), lambda: frozen(sleeper(inductor)), [X], least_ms=0
    )
    assert outcome.winner == winner
    assert set(outcome.ms) == {OURS, EAGER, INDUCTOR}
    assert (outcome.frozen is not None) == (winner == INDUCTOR)
    code = None if outcome.reason is None else outcome.reason.code
    assert code == (None if winner == OURS else f"{winner}_faster")


def test_a_clear_winner_ends_the_contest_early() -> None:
    """Six rounds; all of them where two are about as fast."""
    calls: dict[str, int] = {"clear": 0, "close": 0}

    def counted(name: str, ms: float):
        calls[name] += 1
        time.sleep(ms / 1e3)

    contest(lambda: counted("clear", 1), sleeper(30), lambda: None, [X], least_ms=50.0)
    contest(lambda: counted("close", 2), sleeper(2), lambda: None, [X], least_ms=50.0)
    assert calls["clear"] < calls["close"] == module._ROUNDS + 2


def test_inductor_is_not_compiled_where_it_cannot_win(few_rounds) -> None:
    outcome = contest(sleeper(1), sleeper(30), lambda: pytest.fail("compiled"), [X], least_ms=50.0)
    assert outcome.winner == OURS
    assert outcome.reason is not None
    assert outcome.reason.code == "dense_bound"


def test_inductor_is_compiled_outside_of_the_lock(few_rounds, tmp_path) -> None:
    lock, states = FileLock(tmp_path / "lock", timeout=0), []

    def note(*_: object) -> Frozen:
        try:
            with lock:
                states.append("free")
        except Timeout:
            states.append("held")
        return frozen(sleeper(1))

    contest(note, None, note, [X], 0, tmp_path / "lock")
    assert states == ["held"] * 5 + ["free"] + ["held"] * 5


def test_inductor_may_fail(few_rounds) -> None:
    outcome = contest(sleeper(1), None, lambda: None, [X], least_ms=0)
    assert outcome.winner == OURS
    assert outcome.reason is not None
    assert outcome.reason.code == "inductor_failed"


# --- sc.compile -----------------------------------------------------------------------------------


@pytest.fixture
def inductor_wins(monkeypatch, cached_kernels):
    """`freeze` without Inductor: weights as constants, run by torch; it always wins."""
    calls = []

    def freeze(gm, inputs):
        held = torch.fx.GraphModule(gm, gm.graph)
        for name, value in list(held.named_buffers()):
            setattr(held, name, value.clone())

        def run(*args):
            calls.append(len(args))
            return held(*args)

        return Frozen(run, tuple((x.shape, x.dtype) for x in inputs))

    def decided(ours, eager, make_frozen, inputs, least_ms, lock):
        ms = {OURS: 2.0, EAGER: 3.0, INDUCTOR: 1.0}
        return Outcome(INDUCTOR, ms, No("inductor_faster", "measured"), make_frozen())

    monkeypatch.setattr(tuned_module, "freeze", freeze)
    monkeypatch.setattr(tuned_module, "contest", decided)
    monkeypatch.setattr(tuned_module, "tune", lambda *args: {})
    return calls


def changes(model):
    """(name, change) of everything that may happen to a weight."""
    return {
        "written": lambda: model[0].weight.mul_(2),
        "replaced": lambda: setattr(model[2], "weight", torch.nn.Parameter(torch.randn(5, 33))),
        "loaded": lambda: model.load_state_dict({k: v + 1 for k, v in model.state_dict().items()}),
        "bias": lambda: model[2].bias.add_(1),
    }


@pytest.mark.parametrize("change", ["written", "replaced", "loaded", "bias"])
def test_frozen_code_is_dropped_at_the_first_change(inductor_wins, change) -> None:
    model = net()
    with torch.no_grad():
        fast = sc.compile(model, (X,), mode="max-autotune")
        assert torch.allclose(fast(X), model(X), atol=1e-5)
        assert inductor_wins, "frozen code runs"
        count = len(inductor_wins)
        changes(model)[change]()
        model.requires_grad_(False)
        assert torch.allclose(fast(X), model(X), atol=1e-5)
        assert len(inductor_wins) == count, "frozen code runs no more"


def test_other_shapes_run_our_program(inductor_wins) -> None:
    model = net()
    rows = torch.export.Dim("rows", min=2, max=64)
    with torch.no_grad():
        fast = sc.compile(model, (X,), dynamic_shapes=({0: rows},), mode="max-autotune")
        fast(X)
        count = len(inductor_wins)
        other = torch.randn(9, 24)
        assert torch.allclose(fast(other), model(other), atol=1e-5)
        assert len(inductor_wins) == count


def test_the_ledger_says_who_runs_the_model(inductor_wins) -> None:
    with torch.no_grad():
        report = sc.compile(net(), (X,), mode="max-autotune").inspect()
    data = report.json()
    assert data["whole_model"]["runs"] == INDUCTOR
    assert data["whole_model"]["ms"] == {OURS: 2.0, EAGER: 3.0, INDUCTOR: 1.0}
    assert data["fallback_calls"] == 1
    assert not any(layer["native"] for layer in data["layers"])
    assert all(layer["reason"].startswith("inductor_faster") for layer in data["layers"])
    assert "1.00 ms in inductor" in report.summary()


def test_a_model_that_writes_to_a_buffer_is_never_frozen(inductor_wins) -> None:
    class Counts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(24, 5)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls.add_(1)
            return self.layer(x)

    model = Counts().eval().requires_grad_(False)
    with torch.no_grad():
        fast = sc.compile(model, (X,), mode="max-autotune")
        before = float(model.calls)
        fast(X)
    assert not inductor_wins
    assert float(model.calls) == before + 1


# --- torch.compile --------------------------------------------------------------------------------


def test_guarded_code_is_dropped_for_good() -> None:
    weight = torch.ones(3)
    frozen_runs, our_runs = [], []
    guarded = Guarded(
        frozen(lambda x: frozen_runs.append(x) or [x]),
        lambda *args: our_runs.append(args) or ["ours"],
        [1],
        LiveWeights({"w": weight}),
    )
    guarded(weight, X)
    assert len(frozen_runs) == 1
    guarded(weight, torch.randn(5, 24))
    assert len(frozen_runs) == 1, "another shape"
    weight.add_(1)
    guarded(weight, X)
    guarded(weight, X)
    assert len(frozen_runs) == 1
    assert len(our_runs) == 3


def test_placeholders_become_attributes() -> None:
    gm = torch.fx.symbolic_trace(lambda w, x, b: x @ w + b)
    w, b = torch.randn(24, 5), torch.randn(5)
    copy, kept = with_attributes(gm, {0: w, 2: b})
    assert kept == [1]
    assert torch.equal(copy(X), X @ w + b)
    assert len(gm.graph.find_nodes(op="placeholder")) == 3, "the original is left alone"


def test_an_exported_program_by_its_inputs_alone() -> None:
    model = net()
    program = torch.export.export(model, (X,)).run_decompositions({})
    module_ = flat_module(program, dict(model.state_dict(keep_vars=True)))
    assert module_ is not None
    with torch.no_grad():
        assert torch.allclose(module_(X)[0], model(X))


@pytest.mark.system
@pytest.mark.parametrize("zeros", [0.0, 0.9])
def test_under_torch_compile(cached_kernels, zeros) -> None:
    """The real Inductor: right before and after a change, whoever won."""
    from sparse_compiler.backend import last_reports, sparse_compiler

    model = net()
    for parameter in model.parameters():
        parameter.data *= torch.rand_like(parameter) >= zeros
    with torch.no_grad():
        fast = torch.compile(
            model, backend=lambda gm, x: sparse_compiler(gm, x, mode="max-autotune")
        )
        assert torch.allclose(fast(X), model(X), atol=1e-5)
        model[0].weight.mul_(2)
        assert torch.allclose(fast(X), model(X), atol=1e-5)
    assert last_reports
