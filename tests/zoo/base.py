"""What the files of the zoo share: sizes, inputs, batch norms that do something."""

from typing import Any

import torch
from torch import nn

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
TOKENS, VOCABULARY = 12, 96


def ids(batch: int, tokens: int = TOKENS) -> torch.Tensor:
    """Token numbers, i64[batch, tokens], none of them the padding's."""
    return torch.randint(1, VOCABULARY, (batch, tokens))


def padding_mask(batch: int, tokens: int = TOKENS) -> torch.Tensor:
    """i64[batch, tokens] of ones; the last sample's second half is padding."""
    mask = torch.ones(batch, tokens, dtype=torch.long)
    mask[-1, tokens // 2 :] = 0
    return mask


def image(batch: int, size: int = 32, channels: int = 3) -> torch.Tensor:
    """f32[batch, channels, size, size]."""
    return torch.randn(batch, channels, size, size)


def settled(model: nn.Module) -> nn.Module:
    """Batch norms with running statistics and affine parts other than 0 and 1."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0.0, 0.2)
    return model
