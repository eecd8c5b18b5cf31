"""Image models of the issue's list: transformers' where it has them, else by hand."""

from typing import Any

import torch
from torch import nn

from sparse_compiler.bench.architectures import MobileNetV3, UNet, YoloNeck

from .base import Built, image, settled


def vit(batch: int) -> Built:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        num_hidden_layers=1,
        hidden_size=64,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
    )
    return ViTForImageClassification(config), (image(batch),), {}


def deit(batch: int) -> Built:
    """A second token beside the class's; the answer is the mean of two heads."""
    from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

    config = DeiTConfig(
        num_hidden_layers=1,
        hidden_size=64,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
    )
    return DeiTForImageClassificationWithTeacher(config), (image(batch),), {}


def swin(batch: int) -> Built:
    """Windows of 4x4 on 8x8 patches: the second layer of the first stage is shifted and masked."""
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        image_size=32,
        patch_size=4,
        embed_dim=32,
        depths=[2, 1],
        num_heads=[2, 4],
        window_size=4,
        mlp_ratio=2.0,
    )
    return SwinForImageClassification(config), (image(batch),), {}


def _resnet(batch: int, **settings: Any) -> Built:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(depths=[1, 1], embedding_size=16, **settings)
    return settled(ResNetForImageClassification(config)), (image(batch),), {}


def resnet(batch: int) -> Built:
    """ResNet-50's bottlenecks."""
    return _resnet(batch, hidden_sizes=[32, 64])


def resnet18(batch: int) -> Built:
    return _resnet(batch, hidden_sizes=[16, 32], layer_type="basic")


class Separable(nn.Sequential):
    """Each channel by itself, then all of them at each pixel (MobileNetV1, arXiv:1704.04861)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.ReLU6(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU6(),
        )


class InvertedResidual(nn.Module):
    """Widen, filter each channel by itself, narrow (MobileNetV2, arXiv:1801.04381)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        hidden = 4 * inputs
        self.adds = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            nn.Conv2d(inputs, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU6(),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.adds else self.body(x)


def _mobile(*blocks: nn.Module, width: int) -> nn.Module:
    enter = (nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
    leave = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(width, 10))
    return settled(nn.Sequential(*enter, *blocks, *leave))


def mobilenet_v1(batch: int) -> Built:
    return _mobile(Separable(16, 32, 1), Separable(32, 48, 2), width=48), (image(batch),), {}


def mobilenet_v2(batch: int) -> Built:
    blocks = InvertedResidual(16, 16, 1), InvertedResidual(16, 24, 2)
    return _mobile(*blocks, width=24), (image(batch),), {}


def mobilenet_v3(batch: int) -> Built:
    """Squeeze and excitation, hard swish, hard sigmoid."""
    blocks = ((16, 3, 1, 16, True, "relu"), (24, 5, 2, 64, True, "hardswish"))
    return settled(MobileNetV3(blocks, last=96, hidden=128, labels=10)), (image(batch),), {}


def efficientnet(batch: int) -> Built:
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(
        width_coefficient=0.25,
        depth_coefficient=1.0,
        image_size=32,
        hidden_dim=320,
        in_channels=[32, 16],
        out_channels=[16, 24],
        kernel_sizes=[3, 5],
        strides=[1, 2],
        num_block_repeats=[1, 1],
        expand_ratios=[1, 6],
        depthwise_padding=[],
    )
    return settled(EfficientNetForImageClassification(config)), (image(batch),), {}


def convnext(batch: int) -> Built:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(depths=[1, 1], hidden_sizes=[32, 64], num_stages=2)
    return ConvNextForImageClassification(config), (image(batch),), {}


def regnet(batch: int) -> Built:
    """RegNetY: grouped convolutions with squeeze and excitation."""
    from transformers import RegNetConfig, RegNetForImageClassification

    config = RegNetConfig(
        depths=[1, 1], hidden_sizes=[32, 64], embedding_size=16, groups_width=8, layer_type="y"
    )
    return settled(RegNetForImageClassification(config)), (image(batch),), {}


def segformer(batch: int) -> Built:
    """Keys and values of fewer pixels, a depthwise convolution between linears, upsampling."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[7, 3],
        strides=[4, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=32,
    )
    return settled(SegformerForSemanticSegmentation(config)), (image(batch, 64),), {}


def unet(batch: int) -> Built:
    """Two levels down and up, with transposed convolutions."""
    return settled(UNet(width=8, levels=2, labels=2)), (image(batch),), {}


def unet_bilinear(batch: int) -> Built:
    """The same with bilinear upsampling."""
    return settled(UNet(width=8, levels=2, labels=2, bilinear=True)), (image(batch),), {}


def yolo(batch: int) -> Built:
    """Two scales, spatial pyramid pooling, upsample and concatenate, boxes and classes."""
    return settled(YoloNeck(width=8, labels=3)), (image(batch, 64),), {}


BUILDERS = (
    vit,
    deit,
    swin,
    resnet,
    resnet18,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    efficientnet,
    convnext,
    regnet,
    segformer,
    unet,
    unet_bilinear,
    yolo,
)
