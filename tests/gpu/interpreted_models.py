"""Whole models for target "cuda", each kernel by triton's interpreter in order, against eager.

`test_programs.py` runs it in a process of its own: `TRITON_INTERPRET` is for a whole process.
"""

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.bench.architectures import UNet
from sparse_compiler.errors import InputError, UnsupportedError
from sparse_compiler.runtime import gpu_binding, gpu_packing
from tests.gpu import interpreter
from tests.models import zoo
from tests.test_decode import Step, small_llama
from tests.test_fallbacks import LISTED, UNLISTED
from tests.zoo.base import settled
from tests.zoo.vision import InvertedResidual

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
interpreter.mend()
ZOO = zoo()
HELD = 1e-3
"""Relative error that a program is held to."""


def sparse(model: nn.Module) -> nn.Module:
    """Four fifths of every weight zero."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() >= 2:
                p.mul_(torch.rand_like(p) > 0.8)
    return model.eval().requires_grad_(False)


def compiled(model: nn.Module, args, kwargs=None, format="csr", **settings):
    """For target "cuda", every layer in a format and nothing left out because it would not pay."""
    options = {"force_native": True, "calibrate": False, "format": format}
    return sc.compile(model, args, kwargs, target="cuda", options=options, **settings)


def kernels(fast) -> set[str]:
    """Kernels of the CPU's names that a model was printed from."""
    return interpreter.kernels_of(fast.pipeline.lowered.program)


def agree(fast, model: nn.Module, *args, **kwargs) -> None:
    leaves = torch.utils._pytree.tree_leaves
    for got, want in zip(
        leaves(fast(*args, **kwargs)), leaves(model(*args, **kwargs)), strict=True
    ):
        assert (got - want).abs().max() <= HELD * (want.abs().max() + 1)


class Block(nn.Module):
    """A residual block of ResNet."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.side = nn.Conv2d(inputs, outputs, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x):
        return torch.relu(self.body(x) + self.side(x))


@torch.no_grad()
def test_three_blocks_of_resnet() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )
    x = torch.randn(1, 3, 16, 16)
    agree(compiled(sparse(settled(model)), (x,)), model, x)


@torch.no_grad()
def test_two_layers_of_bert() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        vocab_size=50,
        max_position_embeddings=32,
    )

    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = transformers.BertModel(config)

        def forward(self, ids, mask):
            return self.bert(ids, attention_mask=mask).last_hidden_state

    model = sparse(Bert())
    ids, mask = torch.randint(0, 50, (2, 11)), torch.ones(2, 11, dtype=torch.long)
    mask[1, 7:] = 0
    fast = compiled(model, (ids, mask))
    agree(fast, model, ids, mask)
    with pytest.raises(InputError, match="an index is out of range"):
        fast(ids + 50, mask)


@torch.no_grad()
def test_two_layers_of_llama() -> None:
    """A prompt, and one token after five others."""
    model = sparse(small_llama(groups=4)[0])
    ids = torch.arange(9)[None] % 5
    fast = compiled(model, (ids,), {"use_cache": False})
    assert "rotate" in kernels(fast)
    want = model(ids, use_cache=False).logits
    assert (fast(ids, use_cache=False).logits - want).abs().max() <= HELD * want.abs().max()

    step, past = Step(model).eval(), torch.export.Dim("past", min=2, max=60)
    keys, values = ([torch.randn(1, 4, 5, 16) for _ in range(2)] for _ in range(2))
    shapes = (None, [{2: past}] * 2, [{2: past}] * 2)
    one = torch.tensor([[3]])
    fast = compiled(step, (one, keys, values), dynamic_shapes=shapes)
    assert {"decode_row", "norm_row", "rotate_row", "attend_row"} <= kernels(fast)
    agree(fast, step, one, keys, values)


@pytest.mark.parametrize("bilinear", [False, True])
@torch.no_grad()
def test_a_unet(bilinear: bool) -> None:
    model = sparse(settled(UNet(width=4, levels=1, bilinear=bilinear)))
    x = torch.randn(1, 3, 12, 12)
    fast = compiled(model, (x,))
    assert not bilinear or "upsample_bilinear" in kernels(fast)
    agree(fast, model, x)


@torch.no_grad()
def test_a_mobilenet() -> None:
    blocks = InvertedResidual(8, 8, 1), InvertedResidual(8, 12, 2)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.Upsample(scale_factor=2), *blocks, nn.AdaptiveAvgPool2d(1)
    )
    x = torch.randn(1, 3, 12, 12)
    fast = compiled(sparse(settled(model)), (x,))
    assert {"depthwise_direct", "upsample_nearest"} <= kernels(fast)
    agree(fast, model, x)


class InDouble(nn.Module):
    """Two layers, and between them a running sum in fp64."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, x):
        h = self.first(x)
        return self.last(torch.relu(h + (h.double() * 2.0).cumsum(0).float()))


@torch.no_grad()
def test_what_has_no_kernel_is_torchs_and_the_ledger_says_so() -> None:
    model, x = sparse(InDouble()), torch.randn(21, 64)
    fast = compiled(model, (x,))
    agree(fast, model, x)
    report = fast.inspect()
    left = [layer for layer in report.layers if not layer.native]
    assert [layer.op for layer in left] == ["pointwise", "cumsum", "pointwise"]
    assert {layer.reason for layer in left} == {
        "dtype_unsupported: the GPU has no kernels for elements of f64"
    }
    assert len(fast.pipeline.segments) == 2 and report.fallback_calls == 3
    assert all(layer.native for layer in report.layers if layer.op == "linear")


def refused_nothing(name: str) -> None:
    """A model of the zoo: no part is left to torch, whatever the CPU's engine runs."""
    model, args, kwargs = ZOO[name](1)
    model = sc.sparsify(model, sc.Magnitude(0.9, min_weights=64))
    fast = compiled(model, args, kwargs)
    assert not fast.pipeline.lowered.context.lacks
    assert fast.inspect().fallback_calls == 0


SAMPLE = ("yolo", "llama", "unet", "mobilenet_v3", "segformer")


@pytest.mark.parametrize("name", SAMPLE)
def test_a_sample_of_the_zoo_is_compiled(name: str) -> None:
    refused_nothing(name)


@pytest.mark.parametrize("name", [n for n in (*LISTED, *UNLISTED) if n not in SAMPLE])
def test_the_zoo_is_compiled(name: str) -> None:
    refused_nothing(name)


@pytest.mark.parametrize("format_", ["dense", "csr", "nm_2_4", "block_16x16"])
@torch.no_grad()
def test_a_format_that_is_asked_for(format_: str) -> None:
    """The whole road, from the option over the packing to the kernel."""
    model, x = nn.Sequential(nn.Linear(64, 96), nn.GELU()), torch.randn(21, 64)
    kept = torch.rand(6, 4) < 0.5
    model[0].weight *= kept.repeat_interleave(16, 0).repeat_interleave(16, 1)
    if format_ == "nm_2_4":
        model[0].weight *= torch.rand(96, 16, 4).argsort(2).argsort(2).flatten(1) < 2
    model.eval().requires_grad_(False)
    fast = compiled(model, (x,), format=format_)
    (layer,) = fast.inspect().layers
    assert layer.native and layer.format == format_
    agree(fast, model, x)


@torch.no_grad()
def test_a_weight_without_non_zeros_has_a_kernel() -> None:
    model, x = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 8)), torch.randn(21, 64)
    model[2].weight.zero_()
    fast = compiled(sparse(model), (x,))
    assert all(layer.native for layer in fast.inspect().layers)
    agree(fast, model, x)


def test_bad_input_is_told() -> None:
    model, x = sparse(nn.Sequential(nn.Linear(64, 64))), torch.randn(21, 64)
    with pytest.raises(UnsupportedError, match="a model of fp64 cannot be compiled for a GPU"):
        compiled(nn.Sequential(nn.Linear(64, 64)).double(), (x.double(),))
    fast = compiled(model, (x,))
    with pytest.raises(InputError, match="on meta"):
        fast.pipeline.executor([x.to("meta")])
    with pytest.raises(InputError, match="float64"):
        fast.pipeline.executor([x.double()])


def test_a_value_beyond_32_bits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = sparse(nn.Sequential(nn.Linear(64, 64))), torch.randn(21, 64)
    fast = compiled(model, (x,))
    monkeypatch.setattr(gpu_binding, "INT32", 1000)
    with pytest.raises(UnsupportedError, match="too large for the GPU's kernels"):
        fast.pipeline.executor([x])
    monkeypatch.setattr(gpu_packing, "INT32", 1000)
    with pytest.raises(UnsupportedError, match="is too large for the GPU's kernels"):
        compiled(model, (x,))
