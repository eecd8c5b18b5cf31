"""Networks that no list names: other norms, branches, groups, dimensions and ways to upsample."""

import torch
from torch import nn

from .base import Built, image, settled


def _conv(inputs: int, outputs: int, kernel: int, **settings: int) -> nn.Sequential:
    padding = settings.pop("padding", kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=False, **settings)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def _classifier(width: int, labels: int = 10) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, labels)


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, *body: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class Mixing(nn.Module):
    """One layer of an MLP-Mixer (arXiv:2105.01601): across the patches, then across channels."""

    def __init__(self, patches: int, width: int) -> None:
        super().__init__()
        self.norm_patches, self.norm_channels = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across_patches = self._mlp(patches, 2 * patches)
        self.across_channels = self._mlp(width, 2 * width)

    @staticmethod
    def _mlp(width: int, hidden: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.across_patches(self.norm_patches(x).transpose(1, 2)).transpose(1, 2)
        return x + self.across_channels(self.norm_channels(x))


class Mixer(nn.Module):
    """Patches of 8 by 8 pixels of a 32 by 32 image."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, stride=8)
        self.layers = nn.Sequential(Mixing(16, width), Mixing(16, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.layers(tokens)).mean(1))


def mixer(batch: int) -> Built:
    return Mixer(), (image(batch),), {}


class DenseLayer(nn.Module):
    """Norm before convolution, the result joined to the input (DenseNet, arXiv:1608.06993)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet(batch: int) -> Built:
    layers = nn.Sequential(
        _conv(3, 16, 7, stride=2),
        nn.MaxPool2d(3, 2, 1),
        DenseLayer(16, 8),
        DenseLayer(24, 8),
        nn.Sequential(nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 1), nn.AvgPool2d(2)),
        DenseLayer(16, 8),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        *_classifier(24),
    )
    return settled(layers), (image(batch),), {}


def resnext(batch: int) -> Built:
    """Bottlenecks whose middle convolution has 8 groups (arXiv:1611.05431)."""
    block = Residual(_conv(32, 32, 1), _conv(32, 32, 3, groups=8), _conv(32, 32, 1))
    layers = nn.Sequential(
        _conv(3, 32, 3, stride=2), block, _conv(32, 48, 3, groups=4), *_classifier(48)
    )
    return settled(layers), (image(batch),), {}


class Inception(nn.Module):
    """Four branches of other kernels and a pool, joined (arXiv:1409.4842, 1x7 and 7x1 of v3)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        tall = nn.Conv2d(12, 16, (7, 1), padding=(3, 0))
        wide = nn.Conv2d(8, 12, (1, 7), padding=(0, 3))
        self.branches = nn.ModuleList(
            [
                _conv(inputs, 8, 1),
                nn.Sequential(_conv(inputs, 8, 1), _conv(8, 12, 5)),
                nn.Sequential(_conv(inputs, 8, 1), wide, nn.ReLU(), tall, nn.ReLU()),
                nn.Sequential(nn.AvgPool2d(3, 1, 1, count_include_pad=False), _conv(inputs, 8, 1)),
            ]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


def inception(batch: int) -> Built:
    layers = nn.Sequential(
        _conv(3, 16, 3, stride=2, padding=0),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        Inception(16),
        *_classifier(44),
    )
    return settled(layers), (image(batch, 33),), {}


def group_norms(batch: int) -> Built:
    """Group norms before every convolution, and a pool at the end (BiT, arXiv:1912.11370)."""
    layers = nn.Sequential(
        nn.Conv2d(3, 32, 7, 2, 3, bias=False),
        nn.MaxPool2d(3, 2, 1),
        Residual(
            nn.GroupNorm(8, 32),
            nn.ReLU(),
            nn.Conv2d(32, 16, 1),
            nn.GroupNorm(4, 16),
            nn.SiLU(),
            nn.Conv2d(16, 32, 3, padding=1),
        ),
        nn.GroupNorm(1, 32),
        nn.LeakyReLU(0.1),
        *_classifier(32),
    )
    for norm in layers.modules():
        if isinstance(norm, nn.GroupNorm):
            nn.init.normal_(norm.weight, 1.0, 0.2)
            nn.init.normal_(norm.bias, 0.0, 0.2)
    return layers, (image(batch),), {}


def style_transfer(batch: int) -> Built:
    """Instance norms, reflected borders, nearest upsampling (arXiv:1603.08155)."""

    def step(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
        return nn.Sequential(
            nn.ReflectionPad2d(kernel // 2),
            nn.Conv2d(inputs, outputs, kernel, stride),
            nn.InstanceNorm2d(outputs, affine=True),
            nn.ReLU(),
        )

    layers = nn.Sequential(
        step(3, 8, 9),
        step(8, 16, 3, 2),
        Residual(step(16, 16, 3), nn.ReplicationPad2d(1), nn.Conv2d(16, 16, 3)),
        nn.Upsample(scale_factor=2, mode="nearest"),
        step(16, 8, 3),
        nn.Conv2d(8, 3, 9, padding=4, padding_mode="circular"),
        nn.Tanh(),
    )
    return layers, (image(batch, 24),), {}


def autoencoder(batch: int) -> Built:
    """Strided convolutions down, transposed ones up, some with output padding."""
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1),
        nn.ELU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.PReLU(32),
        nn.Conv2d(32, 8, 1),
        nn.ConvTranspose2d(8, 32, 3, 2, 1, output_padding=1),
        nn.ELU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, groups=4, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 3, 1, 1, dilation=1),
        nn.Sigmoid(),
    )
    return settled(layers), (image(batch),), {}


def super_resolution(batch: int) -> Built:
    """Sub-pixel convolution (arXiv:1609.05158), on top of a bicubic-free bilinear skip."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(3, 24, 5, padding=2),
                nn.Tanh(),
                nn.Conv2d(24, 16, 3, padding=2, dilation=2),
                nn.Tanh(),
                nn.Conv2d(16, 12, 3, padding=1),
                nn.PixelShuffle(2),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            skip = nn.functional.interpolate(x, scale_factor=2, mode="bilinear")
            return (skip + self.body(x)).clamp(0.0, 1.0)

    return Network(), (image(batch, 20),), {}


class Shuffled(nn.Module):
    """Half of the channels filtered, both halves interleaved (ShuffleNetV2, arXiv:1807.11164)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.shuffle = nn.ChannelShuffle(2)
        self.branch = nn.Sequential(
            _conv(half, half, 1),
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False),
            nn.BatchNorm2d(half),
            _conv(half, half, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept, filtered = x.chunk(2, 1)
        return self.shuffle(torch.cat([kept, self.branch(filtered)], 1))


def shufflenet(batch: int) -> Built:
    layers = nn.Sequential(_conv(3, 32, 3, stride=2), Shuffled(32), Shuffled(32), *_classifier(32))
    return settled(layers), (image(batch),), {}


def volumes(batch: int) -> Built:
    """A 3-D network over 8 frames of 16 by 16 pixels."""
    layers = nn.Sequential(
        nn.Conv3d(3, 16, 3, (1, 2, 2), 1, bias=False),
        nn.BatchNorm3d(16),
        nn.ReLU(),
        nn.MaxPool3d(2),
        nn.Conv3d(16, 32, (3, 1, 1), padding=(1, 0, 0)),
        nn.ReLU(),
        nn.Conv3d(32, 32, 3, padding=1, groups=4),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    return settled(layers), (torch.randn(batch, 3, 8, 16, 16),), {}


def vgg(batch: int) -> Built:
    """Convolutions with biases, a 7x7 adaptive pool of a smaller map, a wide head."""
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2, 2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d((7, 5)),
        nn.Flatten(),
        nn.Linear(32 * 35, 64),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(64, 10),
        nn.LogSoftmax(1),
    )
    return layers, (image(batch, 24),), {}


BUILDERS = (
    mixer,
    densenet,
    resnext,
    inception,
    group_norms,
    style_transfer,
    autoencoder,
    super_resolution,
    shufflenet,
    volumes,
    vgg,
)
