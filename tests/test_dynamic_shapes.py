"""One compiled object for many shapes: batch, tokens, samples, height and width stay symbolic.

A new shape binds again what was compiled; no kernel is built for it, and a shape seen before
gives the same numbers as at first.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.export import Dim

import sparse_compiler as sc
from sparse_compiler.codegen.cpu import build
from sparse_compiler.compiled import Compiled
from sparse_compiler.errors import InputError
from tests.models import VOCABULARY, zoo
from tests.test_numbers import agree

ZOO = zoo()
BATCH = Dim("batch", min=1, max=64)
TOKENS = Dim("tokens", min=2, max=32)
HEIGHT, WIDTH = Dim("height", min=9, max=256), Dim("width", min=9, max=256)
HALF_HEIGHT, HALF_WIDTH = Dim("half_height", min=4, max=64), Dim("half_width", min=4, max=64)
STEPS, SAMPLES = Dim("steps", min=16, max=4000), Dim("samples", min=50, max=4000)

pytestmark = [
    pytest.mark.system,
    pytest.mark.usefixtures("cached_kernels"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@dataclass(frozen=True)
class Case:
    """dims: which dimensions of every tensor argument vary; sizes: shapes, the first compiled."""

    dims: Mapping[int, Any]
    sizes: tuple[tuple[int, ...], ...]


WORDS = Case({0: BATCH, 1: TOKENS}, ((2, 12), (1, 5), (3, 17), (2, 32), (5, 2)))
IMAGES = Case(
    {0: BATCH, 2: HEIGHT, 3: WIDTH},
    ((2, 3, 32, 32), (1, 3, 40, 24), (3, 3, 33, 47), (1, 3, 9, 64)),
)
FOURS = Case(
    {0: BATCH, 2: 4 * HALF_HEIGHT, 3: 4 * HALF_WIDTH},
    ((2, 3, 32, 32), (1, 3, 40, 24), (3, 3, 16, 48)),
)
BATCHES = Case({0: BATCH}, ((2, 3, 32, 32), (1, 3, 32, 32), (5, 3, 32, 32)))
CASES = {
    "bert": WORDS,
    "distilbert": WORDS,
    "gpt2": WORDS,
    "llama": WORDS,
    "resnet": IMAGES,
    "mobilenet_v3": IMAGES,
    "group_norms": IMAGES,
    "unet": FOURS,
    "unet_bilinear": FOURS,
    "vit": BATCHES,
    "swin": BATCHES,
    "tcn": Case({0: BATCH, 2: STEPS}, ((2, 8, 40), (1, 8, 16), (3, 8, 101))),
    "wav2vec2": Case({0: BATCH, 1: SAMPLES}, ((2, 600), (1, 401), (3, 1234))),
}
QUICK = ("bert", "unet")  # those that the tests below compile too


def example(name: str, size: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
    """Arguments of that size, of the kinds that the model takes; padding in the last sample."""
    generator = torch.Generator().manual_seed(sum(size))
    found = []
    for at, tensor in enumerate(ZOO[name]()[1]):
        if tensor.is_floating_point():
            found.append(torch.randn(size, generator=generator))
        elif at == 0:
            found.append(torch.randint(1, VOCABULARY, size, generator=generator))
        else:
            mask = torch.ones(size, dtype=tensor.dtype)
            mask[-1, size[1] // 2 + 1 :] = 0
            found.append(mask)
    return tuple(found)


def call(name: str, kwargs: Mapping[str, Any]) -> Any:
    """`dynamic_shapes` for the model: the same dimensions of every tensor, none of the rest."""
    model, args, _ = ZOO[name]()
    names = list(inspect.signature(model.forward).parameters)[: len(args)]
    if names == ["args"]:
        return {"args": tuple(CASES[name].dims for _ in args)}
    return dict.fromkeys(names, CASES[name].dims) | dict.fromkeys(kwargs)


def compiled(name: str, **options: Any) -> tuple[Compiled, torch.nn.Module, dict[str, Any]]:
    """The model at 70 % zeros, compiled for the case's first size with symbolic dimensions."""
    model, _, kwargs = ZOO[name]()
    model = sc.sparsify(model, sc.Magnitude(0.7, min_weights=64))
    fast = sc.compile(
        model,
        example(name, CASES[name].sizes[0]),
        kwargs,
        dynamic_shapes=call(name, kwargs),
        options={"force_native": True, **options},
    )
    return fast, model, kwargs


def no_compiler(*_: object) -> None:
    pytest.fail("a kernel was compiled for a shape")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in CASES]
)
def test_shapes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, model, kwargs = compiled(name)
    monkeypatch.setattr(build, "run_compiler", no_compiler)
    sizes = CASES[name].sizes
    with torch.no_grad():
        for size in (*sizes, *sizes[::-1]):
            args = example(name, size)
            agree(fast(*args, **kwargs), model(*args, **kwargs))


def test_a_shape_outside_the_range() -> None:
    fast, model, _ = compiled("bert")
    for size, said in (((2, 33), "= 33 lies outside"), ((65, 4), "= 65 lies outside")):
        with pytest.raises(InputError, match=said):
            fast(*example("bert", size))
    args = example("bert", (64, 2))
    agree(fast(*args), model(*args))


def test_sizes_that_are_no_multiple() -> None:
    """The dimension was declared as 4 times something."""
    fast, model, _ = compiled("unet")
    for size in ((2, 3, 30, 32), (2, 3, 32, 33), (1, 3, 12, 32), (1, 4, 32, 32)):
        with pytest.raises(InputError, match=r"wrong shape|lies outside"):
            fast(torch.randn(size))
    args = example("unet", (1, 3, 20, 36))
    agree(fast(*args), model(*args))


def test_a_mask_of_another_length() -> None:
    fast, model, _ = compiled("bert")
    ids, mask = example("bert", (3, 9))
    for wrong in (mask[:, :8], mask[:2], mask[None], torch.ones(3, 10, dtype=torch.long)):
        with pytest.raises(InputError, match="wrong shape"):
            fast(ids, wrong)
    with pytest.raises(InputError, match="float32"):
        fast(ids, mask.float())
    agree(fast(ids, mask), model(ids, mask))
