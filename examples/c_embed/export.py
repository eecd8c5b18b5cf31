"""Exports a pruned model as a library for C, with an example input and what torch makes of it.

python export.py small build/small-native [--target native|x86-64-v3|x86-64-v4|aarch64]
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import sparse_compiler as sc


class Small(nn.Module):
    """A few convolutions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, stride=2, padding=1)
        self.conv = nn.Conv2d(32, 64, 3, padding=1)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(torch.relu(self.stem(x))))
        return self.head(x.mean((2, 3)))


def resnet50() -> nn.Module:
    """Untrained, as an image classifier gives its logits."""
    from transformers import ResNetConfig, ResNetForImageClassification

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = ResNetForImageClassification(ResNetConfig(num_labels=1000))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).logits

    return Logits()


MODELS = {"small": (Small, 64), "resnet50": (resnet50, 224)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--target", default="native")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    make, side = MODELS[chosen.model]
    model = sc.sparsify(make().eval(), sc.Magnitude(0.9)).requires_grad_(False)
    x = torch.randn(1, 3, side, side)
    sc.export(model, (x,), chosen.folder, library=True, target=chosen.target)
    (chosen.folder / "input0.bin").write_bytes(x.numpy().tobytes())
    (chosen.folder / "output0.bin").write_bytes(model(x).numpy().tobytes())


if __name__ == "__main__":
    main()
