"""Every op of the registry, in every mode that it has, against the interpreter: machine code of one
op, drawn from the cases in tests/ops, alone in its graph."""

import random
from collections import Counter
from pathlib import Path

import pytest

from sparse_compiler.codegen.lowering import rule_of
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.ir.op import OPS
from tests.codegen.native_modes import Use, Uses, modes, use
from tests.ops.cases import CASES, drawn

IN_TORCH = {
    "batch_norm": "folded into its layer; one that stands alone is torch's",
    "full": "depends on sizes only, so it is computed when shapes are bound",
    "getitem": "takes apart what a torch op gave",
    "iota": "depends on sizes only, so it is computed when shapes are bound",
    "take": "weight-time: torch cuts a weight down before it is packed",
    "pack": "weight-time: the packer of the target does it",
    "torch_call": "an op of torch's",
    "tvm_call": "an op of TVM's",
}
NATIVE = sorted(set(OPS) - set(IN_TORCH))
SLOW_TO_COMPILE = {"matmul", "reduce"}


def uses(name: str, count: int, per_case: int, number: int = 0) -> list[Use]:
    """Cases in some of their modes, those of rarer formats first; every other one with a symbol for
    its first dimension."""
    chosen = random.Random(f"{name} {number}")
    found: list[Use] = []
    formats: Counter[str] = Counter()
    for case in drawn(CASES[name], count, number):
        ways = modes(case)
        ways = chosen.sample(ways, len(ways))
        for mode in sorted(ways, key=lambda m: formats[m.format])[:per_case]:
            made = use(case, mode, symbolic=chosen.random() < 0.5)
            if made is not None:
                found.append(made)
                formats[mode.format] += 1
    return found


def differing(items: list[Use], count: int) -> list[Use]:
    """Some uses whose modes differ most: planes and rows, formats, constants; the largest first."""
    found: dict[tuple[object, ...], Use] = {}
    for item in sorted(items, key=lambda u: -sum(t.numel() for t in u.inputs)):
        planes = any(layout is not None and layout.planes for layout in item.mode.layouts)
        found.setdefault((planes, item.mode.format, item.symbolic), item)
    return list(found.values())[:count]


def test_every_op_is_native_or_says_why_not() -> None:
    native = {name for name in OPS if rule_of(OPS[name]()) is not None}
    assert native == set(NATIVE), "lower the op, or say in IN_TORCH why torch runs it"


@pytest.mark.parametrize("name", NATIVE)
def test_op_agrees_with_the_interpreter(kernel_cache: Path, name: str) -> None:
    made = differing(uses(name, 12, 3), 1)
    assert made
    assert not list(Uses(made, kernel_cache).problems())


@pytest.mark.system
@pytest.mark.parametrize("name", sorted(set(NATIVE) - SLOW_TO_COMPILE))
def test_op_agrees_in_another_mode(kernel_cache: Path, name: str) -> None:
    made = differing(uses(name, 12, 3), 2)[1:]
    assert not list(Uses(made, kernel_cache).problems())


@pytest.mark.slow
@pytest.mark.parametrize("name", NATIVE)
def test_op_agrees_in_all_modes(kernel_cache: Path, name: str) -> None:
    made = uses(name, 60, 2, number=1)
    assert len(made) > 10
    if OPS[name].weight_input is not None:
        assert {u.mode.format for u in made} == set(FORMATS)
    for start in range(0, len(made), 30):
        assert not list(Uses(made[start : start + 30], kernel_cache).problems())
