"""Twenty architectures of the benchmarks, narrow and shallow: a forward pass takes 0.1 to 5 ms."""

from __future__ import annotations

from typing import Any

from torch import nn

from .architectures import MobileNetV3, UNet, YoloNeck
from .case import Case
from .models import Model, _floats, _hidden, _image, _text, _vision

_WIDTH = 128
_TEXT: dict[str, Any] = {
    "hidden_size": _WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 4 * _WIDTH,
}
_IMAGE = _image(64)


def _whisper(case: Case) -> nn.Module:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    from .models import Field

    config = WhisperConfig(
        d_model=_WIDTH,
        encoder_layers=2,
        encoder_attention_heads=4,
        encoder_ffn_dim=4 * _WIDTH,
        max_source_positions=100,
    )
    return Field(WhisperEncoder(config), "last_hidden_state")


def _images(architecture: str, **settings: Any) -> Model:
    build = _vision(architecture, num_labels=100, **settings)
    return Model(build, _IMAGE, has_convolutions=True)


def _tokens(architecture: str, *, pooler: bool | None = None, **settings: Any) -> Model:
    return Model(_hidden(architecture, pooler=pooler, **settings), _text, tokens=32)


SMALL: dict[str, Model] = {
    "bert": _tokens("Bert", pooler=False, **_TEXT),
    "distilbert": _tokens("DistilBert", dim=_WIDTH, n_layers=2, n_heads=4, hidden_dim=4 * _WIDTH),
    "roberta": _tokens("Roberta", pooler=False, **_TEXT),
    "gpt2": _tokens("GPT2", use_cache=False, n_embd=_WIDTH, n_layer=2, n_head=4),
    "llama-small": _tokens("Llama", use_cache=False, num_key_value_heads=2, **_TEXT),
    "whisper": Model(_whisper, _floats("input_features", 80, 200), has_convolutions=True),
    "resnet50": _images("ResNet", embedding_size=32, hidden_sizes=[64, 128, 256], depths=[1, 2, 2]),
    "resnet18": _images(
        "ResNet",
        layer_type="basic",
        embedding_size=32,
        hidden_sizes=[32, 64, 128, 256],
        depths=[1, 1, 1, 1],
    ),
    "mobilenetv1": _images("MobileNetV1", tf_padding=False, depth_multiplier=0.5, image_size=64),
    "mobilenetv2": _images("MobileNetV2", tf_padding=False, depth_multiplier=0.5, image_size=64),
    "mobilenetv3": Model(lambda case: MobileNetV3(labels=100), _IMAGE, has_convolutions=True),
    "efficientnet": _images(
        "EfficientNet",
        width_coefficient=0.5,
        depth_coefficient=0.4,
        hidden_dim=640,
        image_size=64,
    ),
    "convnext": _images("ConvNext", hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 2, 1]),
    "regnet": _images(
        "RegNet", hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 2, 1], groups_width=16
    ),
    "vit": _images("ViT", image_size=64, patch_size=8, **_TEXT),
    "deit": _images("DeiT", image_size=64, patch_size=8, **_TEXT),
    "swin": _images(
        "Swin",
        image_size=64,
        window_size=4,
        embed_dim=48,
        depths=[1, 1, 2],
        num_heads=[2, 4, 8],
    ),
    "segformer": Model(
        _vision(
            "Segformer",
            "ForSemanticSegmentation",
            num_labels=20,
            hidden_sizes=[16, 32, 64, 128],
            depths=[1, 1, 1, 1],
            decoder_hidden_size=64,
        ),
        _image(128),
        has_convolutions=True,
    ),
    "unet": Model(lambda case: UNet(width=16, levels=3), _IMAGE, has_convolutions=True),
    "yolo": Model(lambda case: YoloNeck(width=16), _image(128), has_convolutions=True),
}
