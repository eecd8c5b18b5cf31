"""Architectures that transformers lacks, as plain modules: MobileNetV3, U-Net, a YOLO-like net.

Widths and depths are arguments: the benchmarks build them whole, the tests small.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

# (output channels, kernel, stride, hidden channels, squeeze and excitation, activation)
Block = tuple[int, int, int, int, bool, str]

MOBILENET_V3_LARGE: tuple[Block, ...] = (
    (16, 3, 1, 16, False, "relu"),
    (24, 3, 2, 64, False, "relu"),
    (24, 3, 1, 72, False, "relu"),
    (40, 5, 2, 72, True, "relu"),
    (40, 5, 1, 120, True, "relu"),
    (40, 5, 1, 120, True, "relu"),
    (80, 3, 2, 240, False, "hardswish"),
    (80, 3, 1, 200, False, "hardswish"),
    (80, 3, 1, 184, False, "hardswish"),
    (80, 3, 1, 184, False, "hardswish"),
    (112, 3, 1, 480, True, "hardswish"),
    (112, 3, 1, 672, True, "hardswish"),
    (160, 5, 2, 672, True, "hardswish"),
    (160, 5, 1, 960, True, "hardswish"),
    (160, 5, 1, 960, True, "hardswish"),
)
"""Table 1 of arXiv:1905.02244."""

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "hardswish": nn.Hardswish,
    "silu": nn.SiLU,
}


class ConvNormAct(nn.Sequential):
    """Convolution that keeps the size at stride 1, batch norm, and an activation ("" for none)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: str = "relu",
    ) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(
                inputs, outputs, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False
            ),
            nn.BatchNorm2d(outputs),
        ]
        super().__init__(*layers, *([_ACTIVATIONS[activation]()] if activation else []))


class SqueezeExcite(nn.Module):
    """Channels weighed by what all of the image holds (arXiv:1709.01507), with a hard sigmoid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(8, (channels // 4 + 4) // 8 * 8)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.excite = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights = self.excite(self.squeeze(self.pool(x)).relu())
        return x * nn.functional.hardsigmoid(weights)


class MobileBlock(nn.Module):
    """Widen, filter each channel by itself, weigh the channels, narrow."""

    def __init__(self, inputs: int, block: Block) -> None:
        super().__init__()
        outputs, kernel, stride, hidden, excites, activation = block
        self.adds = stride == 1 and inputs == outputs
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(ConvNormAct(inputs, hidden, 1, activation=activation))
        layers.append(
            ConvNormAct(hidden, hidden, kernel, stride, groups=hidden, activation=activation)
        )
        if excites:
            layers.append(SqueezeExcite(hidden))
        layers.append(ConvNormAct(hidden, outputs, 1, activation=""))
        self.body = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.body(x)
        return x + y if self.adds else y


class MobileNetV3(nn.Module):
    """Images [B, 3, H, W] -> [B, labels]. last: channels before the pool; hidden: of the head."""

    def __init__(
        self,
        blocks: Sequence[Block] = MOBILENET_V3_LARGE,
        last: int = 960,
        hidden: int = 1280,
        labels: int = 1000,
    ) -> None:
        super().__init__()
        widths = [16, *(block[0] for block in blocks)]
        self.enter = ConvNormAct(3, 16, 3, 2, activation="hardswish")
        self.blocks = nn.Sequential(
            *(MobileBlock(w, b) for w, b in zip(widths, blocks, strict=False))
        )
        self.leave = ConvNormAct(widths[-1], last, 1, activation="hardswish")
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Sequential(
            nn.Linear(last, hidden), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(hidden, labels)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.pool(self.leave(self.blocks(self.enter(x))))
        answer: torch.Tensor = self.head(y.flatten(1))
        return answer


class UNet(nn.Module):
    """Down `levels` times and up again, joined by concatenation (arXiv:1505.04597), padded.

    Images [B, 3, H, W], H and W multiples of 2**levels -> [B, labels, H, W].
    """

    def __init__(
        self, width: int = 64, levels: int = 4, labels: int = 2, bilinear: bool = False
    ) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(levels + 1)]
        self.enter = self._double(3, width)
        self.down = nn.ModuleList(self._double(a, b) for a, b in pairwise(widths))
        pairs = list(pairwise(widths))[::-1]
        self.up = nn.ModuleList(self._up(b, a, bilinear) for a, b in pairs)
        self.merge = nn.ModuleList(self._double(2 * a, a) for a, _ in pairs)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(width, labels, 1)

    @staticmethod
    def _double(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(ConvNormAct(inputs, outputs), ConvNormAct(outputs, outputs))

    @staticmethod
    def _up(inputs: int, outputs: int, bilinear: bool) -> nn.Module:
        if not bilinear:
            return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
        upsample = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        return nn.Sequential(upsample, nn.Conv2d(inputs, outputs, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = [self.enter(x)]
        for down in self.down:
            kept.append(down(self.pool(kept[-1])))
        y = kept.pop()
        for up, merge in zip(self.up, self.merge, strict=True):
            y = merge(torch.cat([kept.pop(), up(y)], 1))
        answer: torch.Tensor = self.head(y)
        return answer


class CrossStage(nn.Module):
    """Half of the channels pass by, the others go through bottlenecks, all are joined."""

    def __init__(self, inputs: int, outputs: int, depth: int = 1) -> None:
        super().__init__()
        half = outputs // 2
        self.enter = ConvNormAct(inputs, outputs, 1, activation="silu")
        self.steps = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(half, half, activation="silu"),
                ConvNormAct(half, half, activation="silu"),
            )
            for _ in range(depth)
        )
        self.leave = ConvNormAct(half * (2 + depth), outputs, 1, activation="silu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for step in self.steps:
            parts.append(parts[-1] + step(parts[-1]))
        answer: torch.Tensor = self.leave(torch.cat(parts, 1))
        return answer


class PyramidPool(nn.Module):
    """Three max pools of 5x5 in a row, all four stages joined (SPPF)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enter = ConvNormAct(channels, channels // 2, 1, activation="silu")
        self.pool = nn.MaxPool2d(5, stride=1, padding=2)
        self.leave = ConvNormAct(2 * channels, channels, 1, activation="silu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        stages = [self.enter(x)]
        for _ in range(3):
            stages.append(self.pool(stages[-1]))
        answer: torch.Tensor = self.leave(torch.cat(stages, 1))
        return answer


class YoloNeck(nn.Module):
    """Two scales, a path down and up between them, and an anchor-free head with bins (YOLOv8).

    Images [B, 3, H, W], H and W multiples of 16 -> [B, 4 + labels, H*W/64 + H*W/256]: four
    distances in pixels of the scale, then the classes' probabilities.
    """

    bins = 8
    values: torch.Tensor

    def __init__(self, width: int = 32, labels: int = 80, depth: int = 1) -> None:
        super().__init__()
        self.labels = labels
        a, b = 4 * width, 8 * width
        self.stem = nn.Sequential(
            ConvNormAct(3, width, 3, 2, activation="silu"),
            ConvNormAct(width, 2 * width, 3, 2, activation="silu"),
            ConvNormAct(2 * width, a, 3, 2, activation="silu"),
            CrossStage(a, a, depth),
        )
        self.deep = nn.Sequential(
            ConvNormAct(a, b, 3, 2, activation="silu"), CrossStage(b, b, depth), PyramidPool(b)
        )
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.fine = CrossStage(a + b, a, depth)
        self.down = ConvNormAct(a, a, 3, 2, activation="silu")
        self.coarse = CrossStage(a + b, b, depth)
        outputs = 4 * self.bins + labels
        self.heads = nn.ModuleList(nn.Conv2d(c, outputs, 1) for c in (a, b))
        self.register_buffer("values", torch.arange(float(self.bins)).view(1, 1, -1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = self.stem(x)
        far = self.deep(near)
        near = self.fine(torch.cat([self.upsample(far), near], 1))
        far = self.coarse(torch.cat([self.down(near), far], 1))
        found = torch.cat(
            [head(y).flatten(2) for head, y in zip(self.heads, (near, far), strict=True)], 2
        )
        boxes, classes = torch.split(found, [4 * self.bins, self.labels], 1)
        spread = boxes.view(boxes.shape[0], 4, self.bins, -1).softmax(2)
        return torch.cat([(spread * self.values).sum(2), classes.sigmoid()], 1)
