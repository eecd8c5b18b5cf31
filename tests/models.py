"""Tiny models of the kinds that people compile, seeded: for the tests of numbers.

`models()` gives for each name a function that builds (model in eval mode, args, kwargs). At most
two layers, about 128 wide, 64 pixels; the architectures are transformers' where it has them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
BATCH, TOKENS, VOCABULARY = 2, 12, 96


def _ids() -> torch.Tensor:
    return torch.randint(1, VOCABULARY, (BATCH, TOKENS))


def _image(size: int = 32) -> torch.Tensor:
    return torch.randn(BATCH, 3, size, size)


def bert() -> Built:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        num_hidden_layers=2,
        hidden_size=64,
        num_attention_heads=4,
        intermediate_size=128,
        vocab_size=VOCABULARY,
        max_position_embeddings=32,
    )
    mask = torch.ones(BATCH, TOKENS, dtype=torch.long)
    mask[1, TOKENS // 2 :] = 0
    return BertModel(config), (_ids(), mask), {}


def distilbert() -> Built:
    from transformers import DistilBertConfig, DistilBertModel

    config = DistilBertConfig(
        n_layers=1,
        dim=64,
        n_heads=4,
        hidden_dim=128,
        vocab_size=VOCABULARY,
        max_position_embeddings=32,
    )
    return DistilBertModel(config), (_ids(),), {}


def gpt2() -> Built:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=1,
        n_embd=64,
        n_head=4,
        vocab_size=VOCABULARY,
        n_positions=32,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config), (_ids(),), {"use_cache": False}


def llama() -> Built:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=1,
        hidden_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=VOCABULARY,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config), (_ids(),), {"use_cache": False}


def vit() -> Built:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        num_hidden_layers=1,
        hidden_size=64,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=32,
        patch_size=8,
    )
    return ViTForImageClassification(config), (_image(),), {}


def resnet() -> Built:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(depths=[1, 1], hidden_sizes=[32, 64], embedding_size=16)
    return _settled(ResNetForImageClassification(config)), (_image(),), {}


def efficientnet() -> Built:
    from transformers import EfficientNetConfig, EfficientNetForImageClassification

    config = EfficientNetConfig(
        width_coefficient=0.25,
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
    return _settled(EfficientNetForImageClassification(config)), (_image(),), {}


def convnext() -> Built:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(depths=[1, 1], hidden_sizes=[32, 64], num_stages=2)
    return ConvNextForImageClassification(config), (_image(),), {}


def _settled(model: nn.Module) -> nn.Module:
    """Batch norms with running statistics and affine parts other than 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0.0, 0.2)
    return model


class Tagger(nn.Module):
    """Embedding, a two-way LSTM, a label for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 32)
        self.lstm = nn.LSTM(32, 32, batch_first=True, bidirectional=True)
        self.label = nn.Linear(64, 9)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.label(self.lstm(self.embed(ids))[0])


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


def mobilenet_v2() -> Built:
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        InvertedResidual(16, 16, 1),
        InvertedResidual(16, 24, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(24, 10),
    )
    return _settled(layers), (_image(),), {}


class UNet(nn.Module):
    """Two levels down, two up, joined by concatenation (arXiv:1505.04597)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.enter = self._block(3, width)
        self.down = self._block(width, 2 * width)
        self.bottom = self._block(2 * width, 4 * width)
        self.up_bottom = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.merge = self._block(4 * width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.leave = self._block(2 * width, width)
        self.head = nn.Conv2d(width, 2, 1)
        self.pool = nn.MaxPool2d(2)

    @staticmethod
    def _block(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.enter(x)
        second = self.down(self.pool(first))
        third = self.bottom(self.pool(second))
        second = self.merge(torch.cat([self.up_bottom(third), second], 1))
        return self.head(self.leave(torch.cat([self.up(second), first], 1)))


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


def mlp() -> Built:
    layers = nn.Sequential(
        nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)
    )
    return layers, (torch.randn(7, 32),), {}


def lstm() -> Built:
    return Tagger(), (_ids(),), {}


def unet() -> Built:
    return _settled(UNet()), (_image(),), {}


def mixer() -> Built:
    return Mixer(), (_image(),), {}


_BUILDERS = (
    bert,
    convnext,
    distilbert,
    efficientnet,
    gpt2,
    llama,
    lstm,
    mixer,
    mlp,
    mobilenet_v2,
    resnet,
    unet,
    vit,
)


def models() -> dict[str, Callable[[], Built]]:
    """Name -> builder. The same numbers at every call; the caller's random state is kept."""

    def seeded(build: Callable[[], Built]) -> Callable[[], Built]:
        def run() -> Built:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model, args, kwargs = build()
            return model.eval().requires_grad_(False), args, kwargs

        return run

    return {build.__name__: seeded(build) for build in _BUILDERS}
