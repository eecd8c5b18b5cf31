"""Hard use of whole compiled models: threads, forks, odd shapes, borders wider than the image.

Each call gives eager's numbers or a clear error; never a crash, never a wrong number.
"""

import os
import signal
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import sparse_compiler as sc
from sparse_compiler.compiled import Compiled
from sparse_compiler.errors import InputError, SparseCompilerError
from tests.models import zoo
from tests.test_numbers import agree, threads

pytestmark = [
    pytest.mark.system,
    pytest.mark.usefixtures("cached_kernels"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
BATCH = Dim("batch", min=0, max=64)


class Small(nn.Module):
    """A convolution of each kind between norms, a pool, a head; images f32[B, 3, H, W]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.Conv2d(16, 24, 1),
            nn.GroupNorm(4, 24),
            nn.SiLU(),
            nn.MaxPool2d(3, 1, 1),
        )
        self.head = nn.Linear(24, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).mean((2, 3)))


def small() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Small().eval().requires_grad_(False)
    return sc.sparsify(model, sc.Magnitude(0.5, min_weights=64))


def compiled(model: nn.Module, *args: Any, **settings: Any) -> Compiled:
    return sc.compile(model, args, options={"force_native": True}, **settings)


def agrees(fast: Compiled, model: nn.Module, *args: torch.Tensor) -> None:
    with torch.no_grad():
        agree(fast(*args), model(*args))


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, 20, 20, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def dynamic(kernel_cache: Path, images: torch.Tensor) -> Compiled:
    """`small()` with a symbolic batch, compiled once for this file."""
    options = {"force_native": True, "cache_dir": kernel_cache}
    return sc.compile(small(), (images,), dynamic_shapes=({0: BATCH},), options=options)


# --- threads and processes ------------------------------------------------------------------------


def test_thread_counts_between_calls(dynamic: Compiled, images: torch.Tensor) -> None:
    """More and fewer than it was compiled with, and more than there are cores."""
    model = small()
    for count in (1, 2, 5, 1, 3, 2):
        with threads(count):
            agrees(dynamic, model, images)
            agrees(dynamic, model, images[:1])


def run_together(work: Callable[[int], None], count: int = 3) -> None:
    """Calls work(0), work(1), ... at the same time; the first failure is raised here."""
    errors: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as error:  # noqa: BLE001, a thread's failure must reach the test
            errors.append(error)

    workers = [threading.Thread(target=guarded, args=(i,)) for i in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]


def test_calls_at_once_with_other_shapes(dynamic: Compiled) -> None:
    """Each call has buffers and a shape of its own."""
    model = small()
    inputs = [torch.randn(batch, 3, 20, 20) for batch in (1, 7, 2, 16)]
    expected = [model(x) for x in inputs]

    def work(index: int) -> None:
        for i in range(25):
            which = (index + i) % len(inputs)
            agree(dynamic(inputs[which]), expected[which])

    run_together(work)


def test_calls_at_once_while_the_thread_count_changes(
    dynamic: Compiled, images: torch.Tensor
) -> None:
    expected = small()(images)

    def work(index: int) -> None:
        for i in range(25):
            if index == 0:
                torch.set_num_threads(1 + i % 3)
            agree(dynamic(images), expected)

    with threads(2):
        run_together(work)


def test_two_models_at_once(dynamic: Compiled, images: torch.Tensor) -> None:
    """Their threads and arenas do not meet."""
    other, (x,), _ = zoo()["mlp"]()
    pairs = [(dynamic, small(), images), (compiled(other, x), other, x)]
    expected = [model(x) for _, model, x in pairs]

    def work(index: int) -> None:
        fast, _, x = pairs[index % 2]
        for _ in range(20):
            agree(fast(x), expected[index % 2])

    run_together(work, 4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("called_before", [False, True])
def test_fork(called_before: bool, images: torch.Tensor) -> None:
    """Compiled in the parent, called in the child, and in the parent again."""
    model = small()
    fast, want = compiled(model, images), model(images)
    if called_before:
        agree(fast(images), want)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest-timeout has put its own there
        signal.alarm(30)  # instead of a hang
        right = all(torch.allclose(fast(images), want, atol=1e-5) for _ in range(3))
        os._exit(0 if right else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    agree(fast(images), want)


# --- arguments ------------------------------------------------------------------------------------


def test_no_samples(dynamic: Compiled, images: torch.Tensor) -> None:
    assert dynamic(images[:0]).shape == (0, 5)
    agrees(dynamic, small(), images)


@pytest.mark.parametrize(
    "shape", [(65, 3, 20, 20), (2, 3, 20, 21), (2, 4, 20, 20), (3, 20, 20), (2, 3, 0, 20)]
)
def test_other_shapes_are_refused(dynamic: Compiled, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"wrong shape|lies outside"):
        dynamic(torch.randn(shape))


def test_strides_of_all_kinds(dynamic: Compiled, images: torch.Tensor) -> None:
    """Channels last, transposed, expanded, every second pixel, and data that start anywhere."""
    model = small()
    agrees(dynamic, model, images.contiguous(memory_format=torch.channels_last))
    agrees(dynamic, model, images.transpose(2, 3))
    agrees(dynamic, model, images[:1].expand(4, 3, 20, 20))
    agrees(dynamic, model, torch.randn(2, 3, 40, 60)[:, :, ::2, ::3])
    agrees(dynamic, model, torch.randn(2 * 3 * 400 + 3)[3:].view(2, 3, 20, 20))
    agrees(dynamic, model, images.flip(0))


def test_infinities_and_nans_pass_through(dynamic: Compiled, images: torch.Tensor) -> None:
    for value in (float("inf"), float("-inf"), float("nan")):
        spoilt = images.clone()
        spoilt[1, 2, 7, 9] = value
        got = dynamic(spoilt)
        assert not got[1].isfinite().any()
        agree(got[::2], small()(spoilt)[::2])  # the other samples share planes with it


def test_a_sample_without_any_token() -> None:
    """Its mask forbids all keys: eager's answer, finite or not, is ours too."""

    class Attend(nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            heads = x.view(2, 6, 4, 16).transpose(1, 2)
            return F.scaled_dot_product_attention(heads, heads, heads, attn_mask=mask)

    x = torch.randn(2, 6, 64)
    mask = torch.ones(2, 1, 6, 6, dtype=torch.bool)
    mask[1] = False
    model = Attend()
    agrees(compiled(model, x, mask), model, x, mask)


def test_results_are_the_callers(dynamic: Compiled, images: torch.Tensor) -> None:
    first = dynamic(images)
    kept = first.clone()
    second = dynamic(images + 1)
    assert torch.equal(first, kept)
    first.zero_()
    agree(dynamic(images + 1), second)


def test_results_that_share() -> None:
    """An input, a view of it, the same result twice, and a view of a result."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = self.conv(x)
            return y, x, x[:, 1:], y, y.flatten(2).transpose(1, 2), y[:, :, 0]

    model, x = Shared().eval().requires_grad_(False), torch.randn(2, 3, 9, 9)
    agrees(compiled(model, x), model, x)


# --- borders --------------------------------------------------------------------------------------

WIDE_BORDERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "zeros beyond the image": (nn.Conv2d(4, 6, 3, padding=5), (2, 4, 2, 3)),
    "windows of zeros only": (nn.Conv2d(4, 6, 2, stride=4, padding=6), (1, 4, 1, 1)),
    "dilation beyond the image": (nn.Conv2d(4, 6, 3, padding=9, dilation=9), (2, 4, 4, 5)),
    "stride beyond the image": (nn.Conv2d(4, 6, 3, stride=50, padding=1), (2, 4, 7, 7)),
    "kernel of the whole image": (nn.Conv2d(4, 6, (7, 9)), (3, 4, 7, 9)),
    "depthwise": (nn.Conv2d(8, 8, 5, padding=7, groups=8), (2, 8, 3, 2)),
    "grouped": (nn.Conv2d(8, 4, 3, padding=4, groups=2), (2, 8, 2, 2)),
    "transposed, cropped": (nn.ConvTranspose2d(4, 6, 5, stride=2, padding=4), (2, 4, 6, 7)),
    "transposed, dilated": (
        nn.ConvTranspose2d(4, 6, 3, stride=3, padding=1, output_padding=2, dilation=4),
        (2, 4, 5, 1),
    ),
    "one-dimensional": (nn.Conv1d(4, 6, 3, padding=20), (2, 4, 3)),
    "three-dimensional": (nn.Conv3d(2, 4, 3, padding=(3, 0, 5)), (2, 2, 1, 4, 2)),
    "circular": (nn.Conv2d(4, 6, 3, padding=3, padding_mode="circular"), (1, 4, 3, 4)),
    "max pool": (nn.MaxPool2d(4, stride=3, padding=2, ceil_mode=True), (2, 4, 3, 5)),
    "average pool": (nn.AvgPool2d(4, 3, 2, ceil_mode=True, count_include_pad=False), (2, 4, 3, 5)),
    "adaptive pool that grows": (nn.AdaptiveAvgPool2d((7, 5)), (2, 4, 3, 2)),
    "zero pad that crops": (nn.ZeroPad2d((-1, 6, 8, -2)), (2, 4, 5, 4)),
}


QUICK_BORDERS = ("zeros beyond the image", "depthwise", "transposed, dilated", "max pool")


class Borders(nn.Module):
    """Every layer on an input of its own, arithmetic before and after: all inside one program."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(WIDE_BORDERS[name][0] for name in names)

    def forward(self, *inputs: torch.Tensor) -> list[torch.Tensor]:
        pairs = zip(self.layers, inputs, strict=True)
        return [layer(x * 2 + 1).relu() for layer, x in pairs]


@cache
def bordered(names: tuple[str, ...]) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Name -> (ours, eager's); compiled together, since a compile for each would take long."""
    model = Borders(names).eval().requires_grad_(False)
    inputs = [torch.randn(WIDE_BORDERS[name][1]) for name in names]
    fast = compiled(model, *inputs)
    return dict(zip(names, zip(fast(*inputs), model(*inputs), strict=True), strict=True))


@pytest.mark.parametrize("name", QUICK_BORDERS)
def test_borders_wider_than_the_input(name: str) -> None:
    agree(*bordered(QUICK_BORDERS)[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", WIDE_BORDERS)
def test_all_borders_wider_than_the_input(name: str) -> None:
    agree(*bordered(tuple(WIDE_BORDERS))[name])


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_borders_that_no_pixels_fill(mode: str) -> None:
    """Eager refuses it; so does the compiler, at compile time or for such a shape."""

    class Padded(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.pad(x * 2, (5, 5, 5, 5), mode=mode)

    narrow, wide = torch.randn(1, 2, 4, 4), torch.randn(1, 2, 9, 8)
    with pytest.raises(RuntimeError):
        Padded()(narrow)
    with pytest.raises(SparseCompilerError):
        compiled(Padded(), narrow)
    sizes = {2: Dim("height", min=6, max=64), 3: Dim("width", min=6, max=64)}
    fast = compiled(Padded(), wide, dynamic_shapes=(sizes,))
    agrees(fast, Padded(), wide)
    with pytest.raises((SparseCompilerError, RuntimeError)):
        fast(narrow)


def test_an_image_smaller_than_the_kernel() -> None:
    """No output is left: eager's error at compile time, ours for a shape outside the range."""
    model = nn.Conv2d(2, 3, 5).eval().requires_grad_(False)
    with pytest.raises(SparseCompilerError):
        compiled(model, torch.randn(1, 2, 4, 4))
    sizes = {2: Dim("height", min=6, max=64)}
    fast = compiled(model, torch.randn(1, 2, 9, 9), dynamic_shapes=(sizes,))
    agrees(fast, model, torch.randn(1, 2, 6, 9))
    with pytest.raises(InputError, match="lies outside"):
        fast(torch.randn(1, 2, 4, 9))


# --- size -----------------------------------------------------------------------------------------

GIGABYTES = 12  # input 2.7, its planes, what eager needs beside


def free_gigabytes() -> float:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30


@pytest.mark.slow
@pytest.mark.skipif(free_gigabytes() < GIGABYTES, reason=f"needs {GIGABYTES} GB of free memory")
@pytest.mark.parametrize("kernel", [1, 3])
def test_planes_beyond_two_gigabytes(kernel: int) -> None:
    """Offsets of the last channels do not fit 32 bits, in bytes."""
    conv = nn.Conv2d(40, 4, kernel, padding=kernel // 2).eval().requires_grad_(False)
    conv.weight[:, ::2] = 0
    x = torch.randn(1, 40, 4096, 4096)
    fast = compiled(conv, x)
    agrees(fast, conv, x)
