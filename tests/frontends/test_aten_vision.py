"""Vision models -> graph: no convolution, norm, pool or border is left with torch, and every graph
gives eager's numbers, from torch.export and from Dynamo alike.
"""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparse_compiler.frontends.dynamo import capture, import_aot_graph, static_inputs
from sparse_compiler.frontends.export import export_module
from sparse_compiler.ir.interpret import interpret
from sparse_compiler.ir.text import parse_graph, print_graph
from sparse_compiler.ir.verify import verify
from sparse_compiler.passes.compare import relative_error

LIMIT = 1e-6


def settled(model):
    """Norms with statistics and affine parts other than 0 and 1."""
    torch.manual_seed(0)
    for module in model.modules():
        for name in ("weight", "bias", "running_mean"):
            tensor = getattr(module, name, None)
            if "Norm" in type(module).__name__ and tensor is not None:
                nn.init.uniform_(tensor, -1, 1)
        if getattr(module, "running_var", None) is not None:
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def ops_of(graph):
    return Counter(n.op.target if n.op.name == "torch_call" else n.op.name for n in graph.nodes)


def check(model, *args, **options):
    """Exports, verifies, compares with eager; returns how often each op appears."""
    model = settled(model)
    exported = export_module(model, args, **options)
    graph = exported.imported.graph
    verify(graph)
    assert print_graph(parse_graph(str(graph))) == str(graph)
    with torch.no_grad():
        inputs = exported.call.flatten(args, {})
        results = interpret(graph, inputs, exported.imported.params)
        got = exported.call.unflatten(results, inputs)
        compare(got, model(*args))
    return ops_of(graph)


def compare(got, expected):
    assert type(got) is type(expected)
    if not isinstance(got, torch.Tensor):
        assert len(got) == len(expected)
    for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (got, expected)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert relative_error(a, b) <= LIMIT


def calls(ops):
    return {name: count for name, count in ops.items() if name.startswith("aten.")}


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, *args):
        return self.function(*self.parts, *args)


# --- models -----------------------------------------------------------------------------------


def conv_bn(inputs, outputs, kernel=3, stride=1, groups=1, act=nn.ReLU):
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), act())


class Residual(nn.Module):
    def __init__(self, body, short=None):
        super().__init__()
        self.body, self.short = body, short or nn.Identity()

    def forward(self, x):
        return F.relu(self.body(x) + self.short(x))


def resnet():
    block = nn.Sequential(conv_bn(16, 16), conv_bn(16, 16, act=nn.Identity))
    body = nn.Sequential(conv_bn(16, 24, 1), conv_bn(24, 32, 3, 2, act=nn.Identity))
    short = conv_bn(16, 32, 1, 2, act=nn.Identity)
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)]
    pool = nn.MaxPool2d(3, 2, 1)
    return nn.Sequential(conv_bn(3, 16, 7, 2), pool, Residual(block), Residual(body, short), *head)


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x):
        scale = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(scale)


def mobilenet():
    inverted = nn.Sequential(
        conv_bn(8, 32, 1, act=nn.Hardswish),
        conv_bn(32, 32, 5, 2, groups=32, act=nn.ReLU6),
        SqueezeExcite(32),
        conv_bn(32, 12, 1, act=nn.Identity),
    )
    head = [nn.AvgPool2d(8), nn.Flatten(1), nn.Linear(12, 5)]
    return nn.Sequential(conv_bn(3, 8, 3, 2, act=nn.Hardswish), inverted, *head)


class ChannelNorm(nn.LayerNorm):
    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm, self.scale = nn.LayerNorm(channels), nn.Parameter(torch.ones(channels))
        self.up, self.down = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x):
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


def convnext():
    down = [ChannelNorm(8), nn.Conv2d(8, 16, 2, 2), ConvNextBlock(16)]
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), ChannelNorm(8), ConvNextBlock(8), *down)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        norm = [nn.GroupNorm(2, 8), nn.SiLU()]
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *norm)
        self.inner = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, padding=1))
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.last = nn.Sequential(nn.InstanceNorm2d(16, affine=True), nn.Conv2d(16, 4, 1))

    def forward(self, x):
        first = self.first(x)
        up = self.up(self.inner(first))
        other = F.interpolate(self.inner(first), scale_factor=2, mode="bilinear")
        return self.last(torch.cat([first, up + other], 1)), F.pixel_shuffle(first, 2)


class YoloNeck(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.deep = conv_bn(3, 8, 3, 2, act=nn.SiLU), conv_bn(8, 8, 3, 2, act=nn.SiLU)
        self.fuse, self.up = conv_bn(32, 8, 1, act=nn.SiLU), nn.Upsample(scale_factor=2)
        self.out = nn.Conv2d(16, 6, 1)

    def forward(self, x):
        shallow = self.stem(x)
        y = self.deep(shallow)
        pools = [y]
        for _ in range(3):
            pools.append(F.max_pool2d(pools[-1], 5, 1, 2))
        y = self.up(self.fuse(torch.cat(pools, 1)))
        return self.out(torch.cat([y, shallow], 1))


MODELS = {
    "resnet": (resnet, {"conv": 6, "batch_norm": 6, "pool": 1, "adaptive_pool": 1, "linear": 1}),
    "mobilenet": (mobilenet, {"conv": 6, "batch_norm": 4, "pool": 1, "adaptive_pool": 1}),
    "convnext": (convnext, {"conv": 4, "layer_norm": 4, "linear": 4}),
    "unet": (UNet, {"conv": 5, "group_norm": 2, "pool": 2, "upsample": 1}),
    "yolo": (YoloNeck, {"conv": 4, "batch_norm": 3, "pool": 3, "upsample": 1}),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_leave_nothing_to_torch(name):
    build, expected = MODELS[name]
    ops = check(build(), torch.randn(2, 3, 32, 32))
    assert {op: ops[op] for op in expected} == expected
    assert not calls(ops)


@pytest.mark.parametrize("name", MODELS)
def test_dynamo_gives_the_same_ops(name):
    build, expected = MODELS[name]
    model, x = settled(build()), torch.randn(2, 3, 32, 32)
    found = []

    def backend(gm, example_inputs):
        statics = static_inputs(gm, example_inputs)
        call, deferred = capture(gm, example_inputs)
        imported = import_aot_graph(deferred.gm, statics)
        verify(imported.graph)
        found.append(ops_of(imported.graph))

        def run(args):
            return list(interpret(imported.graph, args[-1:], imported.params))

        def whole(*args):
            deferred.target = lambda flat: run([a for a in flat if a is x or a.shape == x.shape])
            return call(*args)

        return whole

    torch._dynamo.reset()
    with torch.no_grad():
        got = torch.compile(model, backend=backend)(x)
        compare(tuple(got) if isinstance(got, (tuple, list)) else got, model(x))
    assert {op: found[0][op] for op in expected} == expected


@pytest.mark.parametrize("name", MODELS)
def test_any_batch_and_size(name):
    build, expected = MODELS[name]
    if name in ("mobilenet",):
        pytest.skip("its last pool and flatten fix the size")
    batch = torch.export.Dim("batch", min=2, max=8)
    edge = torch.export.Dim("edge", min=2, max=8)
    model = settled(build())
    shapes = ({0: batch, 2: 8 * edge, 3: 8 * edge},)
    exported = export_module(model, (torch.randn(2, 3, 32, 32),), dynamic_shapes=shapes)
    graph = exported.imported.graph
    verify(graph)
    assert {op: ops_of(graph)[op] for op in expected} == expected
    x = torch.randn(3, 3, 48, 48)
    with torch.no_grad():
        results = interpret(graph, [x], exported.imported.params)
        compare(exported.call.unflatten(results, [x]), model(x))


# --- forms of one operator --------------------------------------------------------------------


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, 2, 1, 2, groups=2),
        nn.Conv2d(4, 6, (3, 2), padding=(0, 1), bias=False),
        nn.Conv2d(4, 6, 3, padding="same", dilation=2),
        nn.Conv2d(4, 6, (4, 3), padding="same"),
        nn.Conv2d(4, 6, 3, padding="valid"),
        nn.Conv2d(4, 6, 3, padding=2, padding_mode="circular"),
        nn.Conv2d(4, 6, (2, 4), padding="same", padding_mode="reflect"),
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="replicate"),
        nn.ConvTranspose2d(4, 6, 3, 2, 1, 1),
        nn.ConvTranspose2d(4, 6, (3, 2), (1, 3), groups=2, dilation=(2, 1), bias=False),
    ],
    ids=str,
)
@pytest.mark.parametrize("batched", [True, False])
def test_convs_over_two_dimensions(layer, batched):
    shape = (2, 4, 9, 8) if batched else (4, 9, 8)
    ops = check(layer, torch.randn(shape))
    assert ops["conv"] == 1 and not calls(ops)
    uneven = layer.padding == "same" and any(k % 2 == 0 for k in layer.kernel_size)
    assert ops["pad"] == (uneven or layer.padding_mode != "zeros")


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("dims", [1, 3])
def test_convs_over_other_dimensions(dims, batched):
    plain, transposed = (
        (nn.Conv1d, nn.ConvTranspose1d) if dims == 1 else (nn.Conv3d, nn.ConvTranspose3d)
    )
    x = torch.randn((*((2,) if batched else ()), 4, *(6,) * dims))
    assert not calls(check(nn.Sequential(plain(4, 6, 3, 2, 1), transposed(6, 4, 2, 2)), x))
    assert not calls(check(plain(4, 6, 4, padding="same"), x))


def test_the_general_operator_and_its_transposed_form():
    def both(conv, turned, x):
        y = torch.convolution(x, conv.weight, conv.bias, [2, 1], [1, 0], [1, 1], False, [0, 0], 2)
        return torch.convolution(y, turned.weight, None, [2], [0], [1], True, [1, 0], 2)

    model = Call(both, nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 4, 3, groups=2))
    ops = check(model, torch.randn(2, 4, 9, 8))
    assert ops["conv"] == 2 and not calls(ops)


def test_a_transposed_weight_is_turned_at_weight_time():
    model = settled(nn.ConvTranspose2d(4, 6, 3, groups=2))
    graph = export_module(model, (torch.randn(2, 4, 9, 8),)).imported.graph
    (conv,) = [node for node in graph.nodes if node.op.name == "conv"]
    assert graph.tensor(conv.inputs[1]).shape == (6, 2, 3, 3)
    assert conv.inputs[1] in graph.weight_time


def test_a_computed_weight_stays_with_torch():
    ops = check(Call(lambda x, w: F.conv2d(x, w)), torch.randn(1, 2, 5, 5), torch.randn(3, 2, 2, 2))
    assert calls(ops) == {"aten.conv2d.default": 1}


def test_integers_stay_with_torch():
    x = torch.randint(0, 9, (1, 2, 6, 6))
    assert calls(check(Call(lambda x: F.max_pool2d(x, 2)), x)) == {"aten.max_pool2d.default": 1}
    pad = check(Call(lambda x: F.pad(x, (1, 2), value=3)), x)
    assert pad["pad"] == 1 and not calls(pad)


NORMS = {
    "batch 1-D": (nn.BatchNorm1d(4), (2, 4, 5)),
    "batch vectors": (nn.BatchNorm1d(4), (3, 4)),
    "batch plain": (nn.BatchNorm2d(4, affine=False), (2, 4, 5, 3)),
    "group": (nn.GroupNorm(2, 4), (2, 4, 5, 3)),
    "group plain": (nn.GroupNorm(1, 4, affine=False), (2, 4, 5)),
    "instance": (nn.InstanceNorm2d(4, affine=True), (2, 4, 5, 3)),
    "instance unbatched": (nn.InstanceNorm1d(4), (4, 5)),
    "instance tracked": (nn.InstanceNorm2d(4, track_running_stats=True), (2, 4, 5, 3)),
    "layer over images": (nn.LayerNorm((4, 5, 3)), (2, 4, 5, 3)),
    "layer over images, plain": (nn.LayerNorm((4, 5, 3), elementwise_affine=False), (2, 4, 5, 3)),
    "layer over images, no bias": (nn.LayerNorm((4, 5), bias=False), (2, 4, 5)),
    "layer over two of four": (nn.LayerNorm((5, 3)), (2, 4, 5, 3)),
    "layer over everything": (nn.LayerNorm((5, 3)), (5, 3)),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms(name):
    layer, shape = NORMS[name]
    ops = check(layer, torch.randn(shape))
    assert not calls(ops)
    assert sum(ops[kind] for kind in ("batch_norm", "group_norm", "layer_norm")) == 1


def test_statistics_of_the_batch_stay_with_torch():
    ops = check(nn.BatchNorm2d(4, track_running_stats=False), torch.randn(2, 4, 3, 3))
    assert ops["batch_norm"] == ops["group_norm"] == 0


POOLS = {
    "max 1": lambda x: F.max_pool1d(x[:, :, 0], 2),
    "max 2": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max dilated": lambda x: F.max_pool2d(x, (2, 3), (1, 2), (1, 0), (3, 1)),
    "max unbatched": lambda x: F.max_pool2d(x[0], 2),
    "max first of two": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "max 3": lambda x: F.max_pool3d(x[None], 2),
    "avg 1": lambda x: F.avg_pool1d(x[:, :, 0], 3, 1, 1, count_include_pad=False),
    "avg 2": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, divisor_override=5),
    "avg not padded": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "avg 3": lambda x: F.avg_pool3d(x, 2, 1),
    "adaptive avg": lambda x: F.adaptive_avg_pool2d(x, (3, None)),
    "adaptive avg 1": lambda x: F.adaptive_avg_pool1d(x[0], 5),
    "adaptive avg 3": lambda x: F.adaptive_avg_pool3d(x[None], (2, 3, 1)),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, (3, 1)),
    "adaptive max unbatched": lambda x: F.adaptive_max_pool1d(x[0], 2),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools(name):
    ops = check(Call(POOLS[name]), torch.randn(2, 4, 7, 8))
    assert ops["pool"] + ops["adaptive_pool"] == 1
    assert not calls(ops)


def test_a_pool_whose_indices_are_read_stays_with_torch():
    class Both(nn.Module):
        def forward(self, x):
            y, where = F.max_pool2d(x, 2, return_indices=True)
            return F.max_unpool2d(y, where, 2)

    ops = check(Both(), torch.randn(1, 2, 4, 4))
    assert ops["aten.max_pool2d_with_indices.default"] == 1


@pytest.mark.parametrize("kernel", [2, 3])
def test_windows_that_hang_over_the_end_of_any_size(kernel):
    pool = nn.MaxPool2d(kernel, 2, ceil_mode=True)
    edge = torch.export.Dim.AUTO  # torch cannot prove its own guard for a named one
    exported = export_module(pool, (torch.randn(1, 2, 9, 8),), dynamic_shapes=({2: edge},))
    assert ops_of(exported.imported.graph) == {"pool": 1}
    for size in (4, 9, 10, 11):
        x = torch.randn(1, 2, size, 8)
        (got,) = interpret(exported.imported.graph, [x], {})
        compare(got, pool(x))


UPSAMPLES = {
    "nearest": {"scale_factor": 2},
    "nearest odd": {"scale_factor": 1.7},
    "nearest recomputed": {"scale_factor": 1.7, "recompute_scale_factor": True},
    "nearest to size": {"size": (5, 11)},
    "exact": {"scale_factor": 1.4, "mode": "nearest-exact"},
    "exact to size": {"size": 5, "mode": "nearest-exact"},
    "bilinear": {"scale_factor": (1.5, 2.1), "mode": "bilinear"},
    "bilinear to size": {"size": (5, 11), "mode": "bilinear"},
    "bilinear recomputed": {
        "scale_factor": 1.7,
        "mode": "bilinear",
        "recompute_scale_factor": True,
    },
    "corners": {"scale_factor": 1.7, "mode": "bilinear", "align_corners": True},
    "corners to size": {"size": (1, 11), "mode": "bilinear", "align_corners": True},
}


@pytest.mark.parametrize("name", UPSAMPLES)
def test_upsampling(name):
    ops = check(Call(lambda x: F.interpolate(x, **UPSAMPLES[name])), torch.randn(2, 3, 7, 6))
    assert ops["upsample"] == 1 and not calls(ops)


def test_upsampling_over_other_dimensions():
    def forward(x):
        line, cube = x[:, :, 0], x[None]
        return (
            F.interpolate(line, scale_factor=2),
            F.interpolate(line, size=9, mode="linear"),
            F.interpolate(line, scale_factor=1.5, mode="linear", align_corners=True),
            F.interpolate(line, scale_factor=1.5, mode="nearest-exact"),
            F.interpolate(cube, scale_factor=2),
            F.interpolate(cube, scale_factor=1.5, mode="trilinear"),
        )

    ops = check(Call(forward), torch.randn(2, 3, 7, 6))
    assert ops["upsample"] == 6 and not calls(ops)


def test_base_overloads_of_upsampling():
    aten = torch.ops.aten

    def forward(x):
        return (
            aten.upsample_nearest2d.default(x, [9, 5], 1.4, 0.9),
            aten.upsample_nearest2d.default(x, [9, 5]),
            aten._upsample_nearest_exact2d.default(x, [9, 5], 1.4, 0.9),
            aten.upsample_nearest1d.default(x[0], [9], 1.6),
        )

    ops = check(Call(forward), torch.randn(2, 3, 7, 6))
    assert ops["upsample"] == 4 and not calls(ops)


def test_cubic_and_antialiased_stay_with_torch():
    def forward(x):
        cubic = F.interpolate(x, scale_factor=2, mode="bicubic")
        return cubic, F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)

    assert len(calls(check(Call(forward), torch.randn(2, 3, 7, 6)))) == 2


PADS = {
    "constant": lambda x: F.pad(x, (1, 2), value=3.0),
    "crop": lambda x: F.pad(x, (1, -2, -1, 0)),
    "infinite": lambda x: F.pad(x, (1, 1, 0, 2), value=-torch.inf).relu(),
    "reflect": lambda x: F.pad(x, (1, 2, 3, 0), mode="reflect"),
    "replicate": lambda x: F.pad(x, (1, 2, 3, 0), mode="replicate"),
    "replicate 1": lambda x: F.pad(x[0], (1, 2), mode="replicate"),
    "circular": lambda x: F.pad(x, (1, 2, 3, 0), mode="circular"),
    "reflection": lambda x: torch.ops.aten.reflection_pad2d(x, [1, 2, 3, 0]),
    "replication 3": lambda x: torch.ops.aten.replication_pad3d(x, [1, 2, 3, 0, 1, 1]),
    "constant_pad_nd": lambda x: torch.ops.aten.constant_pad_nd(x, [0, 1, 2, 0, 1, 0], 2),
}


@pytest.mark.parametrize("name", PADS)
def test_pads(name):
    ops = check(Call(PADS[name]), torch.randn(2, 3, 5, 6))
    assert ops["pad"] == 1 and not calls(ops)


def test_a_pad_of_nothing_is_its_input():
    ops = check(Call(lambda x: F.pad(x, (0, 0)) + 1), torch.randn(2, 3))
    assert ops["pad"] == 0 and not calls(ops)


def test_pads_that_depend_on_the_size():
    def forward(x):
        return F.pad(x, (0, 0, 1, x.shape[2]))

    edge = torch.export.Dim("edge", min=3, max=64)
    model, x = Call(forward), torch.randn(1, 2, 12, 5)
    exported = export_module(model, (x,), dynamic_shapes={"args": ({2: edge},)})
    graph = exported.imported.graph
    assert ops_of(graph)["pad"] == 1
    for size in (12, 9, 31):
        x = torch.randn(1, 2, size, 5)
        (got,) = interpret(graph, [x], exported.imported.params)
        compare(got, model(x))


@pytest.mark.parametrize("shape", [(2, 12, 4, 6), (12, 4, 6), (2, 3, 12, 4, 6)])
def test_pixels_to_channels_and_back(shape):
    def forward(x):
        return F.pixel_shuffle(x, 2), F.pixel_unshuffle(x, 2), F.pixel_shuffle(x, 1)

    ops = check(Call(forward), torch.randn(shape))
    assert set(ops) == {"reshape", "permute"}


def test_channel_shuffle():
    ops = check(nn.ChannelShuffle(3), torch.randn(2, 12, 4, 6))
    assert ops == {"reshape": 2, "permute": 1}
    ops = check(Call(lambda x: torch.ops.aten.native_channel_shuffle(x, 2)), torch.randn(2, 4, 3))
    assert set(ops) == {"reshape", "permute"}
