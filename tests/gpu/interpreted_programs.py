"""Programs for target "cuda", each kernel by triton's interpreter in order, against eager.

`test_programs.py` runs it in a process of its own: `TRITON_INTERPRET` is for a whole process.
"""

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.errors import InputError, UnsupportedError
from sparse_compiler.formats.base import FORMATS
from sparse_compiler.runtime import gpu_binding, gpu_packing, pipeline
from sparse_compiler.runtime.machine import machine_for

TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2}


def masked(weight: torch.Tensor, format_: str) -> torch.Tensor:
    """A weight whose zeros the format fits; its second third of rows is empty."""
    torch.manual_seed(1)
    found = FORMATS[format_]
    rows, columns = weight.shape[0], weight[0].numel()
    matrix = weight.detach().reshape(rows, columns).clone()
    high, deep = found.parameters
    if found.family == "nm":
        keep = torch.rand(rows, -(-columns // deep), deep).argsort(2).argsort(2) < high
        return (matrix * keep.flatten(1)[:, :columns]).reshape(weight.shape)
    if found.family == "dense":
        return weight.detach()
    high, deep = max(high, 1), max(deep, 1)
    keep = torch.rand(-(-rows // high), -(-columns // deep)) < 0.3
    keep[len(keep) // 3 : 2 * len(keep) // 3] = False
    keep[0, 0] = True
    whole = keep.repeat_interleave(high, 0).repeat_interleave(deep, 1)[:rows, :columns]
    return (matrix * whole).reshape(weight.shape)


@pytest.fixture(autouse=True)
def any_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's cost model, which refuses no format that fits: kernels are tested, no choice."""
    monkeypatch.setattr(pipeline, "_machine", lambda options, _: machine_for(options))


def compiled(model, x, format_=None, **options):
    """For target "cuda", whatever the cost model thinks of it."""
    chosen = {"force_native": True, "calibrate": False, "format": format_}
    return sc.compile(model.eval(), x, target="cuda", options={**chosen, **options})


def kernels(fast) -> set[str]:
    return {
        launch.kernel.rpartition("_")[0]
        for segment in fast._pipeline.segments
        for launch in segment.module.launches
        if hasattr(launch, "kernel")
    }


def close(fast, model, x, tolerance=1e-5) -> None:
    with torch.no_grad():
        want, got = model(*x), fast(*x)
    assert (got - want).abs().max() <= tolerance * (want.abs().max() + 1)


KERNELS = {
    "dense": "dense_linear",
    "csr": "blocks_linear",
    "bitmap": "bitmap_decode",
    "nm": "nm_linear",
    "block": "blocks_linear",
}


@pytest.mark.parametrize("format_", [*FORMATS, "block_16x16", "block_32x32"])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_linear_in_every_format_and_dtype(format_: str, dtype: str) -> None:
    model = nn.Sequential(nn.Linear(64, 96), nn.GELU())
    model[0].weight.data = masked(model[0].weight, format_)
    family = FORMATS[format_].family
    if dtype == "bf16" and (family == "dense" or min(FORMATS[format_].parameters) >= 16):
        pytest.skip("triton's interpreter multiplies the bits of bf16 in a dot")
    x = (torch.randn(3 if family == "bitmap" else 21, 64),)
    fast = compiled(model, x, format_, weights=dtype)
    assert KERNELS[family] in kernels(fast)
    close(fast, model, x, TOLERANCES[dtype])


@pytest.mark.parametrize("format_", ["csr", "dense", "bitmap"])
@pytest.mark.parametrize("columns", [1, 3])
def test_a_linear_on_few_columns(format_: str, columns: int) -> None:
    model = nn.Sequential(nn.Linear(64, 33), nn.GELU())
    model[0].weight.data = masked(model[0].weight, format_)
    x = (torch.randn(columns, 64),)
    close(compiled(model, x, format_), model, x)


@pytest.mark.parametrize("format_", ["csr", "dense", "block_4x1", "nm_2_4"])
@pytest.mark.parametrize(
    "window",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 2), "stride": 2, "dilation": (1, 2)},
        {"kernel_size": 1, "stride": 2},
        {"kernel_size": 3, "groups": 2},
    ],
)
def test_a_convolution_in_formats_strides_and_groups(format_: str, window) -> None:
    model = nn.Sequential(nn.Conv2d(8, 16, **window), nn.ReLU())
    model[0].weight.data = masked(model[0].weight, format_)
    x = (torch.randn(2, 8, 7, 9),)
    close(compiled(model, x, format_), model, x)


def test_a_depthwise_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.Hardswish())
    x = (torch.randn(2, 6, 7, 5),)
    fast = compiled(model, x)
    assert "depthwise" in kernels(fast)
    close(fast, model, x)


OTHERS = {
    "layer_norm": (nn.LayerNorm(24), (3, 5, 24)),
    "rms_norm": (nn.RMSNorm(24), (3, 5, 24)),
    "group_norm": (nn.GroupNorm(2, 8), (2, 8, 3, 5)),
    "batch_norm": (nn.BatchNorm2d(8), (2, 8, 3, 5)),
    "softmax": (nn.Softmax(-1), (3, 5, 24)),
    "log_softmax": (nn.LogSoftmax(-1), (3, 24)),
    "max_pool": (nn.MaxPool2d(3, 2, 1), (2, 8, 7, 9)),
    "avg_pool": (nn.AvgPool2d(3, 2, 1), (2, 8, 7, 9)),
    "adaptive": (nn.AdaptiveAvgPool2d((2, 3)), (2, 8, 7, 9)),
    "activations": (nn.Sequential(nn.SiLU(), nn.Tanh(), nn.Hardswish(), nn.ELU()), (3, 24)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_stands_beside_the_layers(name: str) -> None:
    layer, shape = OTHERS[name]
    before = nn.Linear(24, 24) if shape[-1] == 24 else nn.Conv2d(8, 8, 1)
    model = nn.Sequential(before, layer)
    x = (torch.randn(shape),)
    fast = compiled(model, x)
    assert fast._pipeline.segments
    close(fast, model, x)


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


def sparse(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() >= 2:
                p.mul_(torch.rand_like(p) > 0.8)
    return model.eval()


def test_three_blocks_of_resnet() -> None:
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 7, 2, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
        *(Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )
    x = (torch.randn(1, 3, 16, 16),)
    close(compiled(sparse(model), x, "csr"), model, x, 1e-3)


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
    fast = compiled(model, (ids, mask), "csr")
    close(fast, model, (ids, mask), 1e-3)
    with pytest.raises(InputError, match="an index is out of range"):
        fast._pipeline.executor([ids + 50, mask])


def test_bad_input_is_told() -> None:
    model, x = sparse(nn.Sequential(nn.Linear(64, 64))), torch.randn(21, 64)
    with pytest.raises(UnsupportedError, match="a model of fp64 cannot be compiled for a GPU"):
        compiled(nn.Sequential(nn.Linear(64, 64)).double(), (x.double(),))
    fast = compiled(model, (x,), "csr")
    with pytest.raises(InputError, match="on meta"):
        fast._pipeline.executor([x.to("meta")])


def test_a_value_beyond_32_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = sparse(nn.Sequential(nn.Linear(64, 64))), torch.randn(21, 64)
    fast = compiled(model, (x,), "csr")
    monkeypatch.setattr(gpu_binding, "INT32", 1000)
    with pytest.raises(UnsupportedError, match="too large for the GPU's kernels"):
        fast._pipeline.executor([x])
    monkeypatch.setattr(gpu_packing, "INT32", 1000)
    with pytest.raises(UnsupportedError, match="is too large for the GPU's kernels"):
        compiled(model, (x,), "csr")
