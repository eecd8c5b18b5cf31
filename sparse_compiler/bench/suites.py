"""The named lists of cases: layers, models, engine, decode, structured, and `make bench`'s short.

A suite is (model, pattern, sparsities) lines; batch 1, the model's own length and the threads
asked for unless said.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparse_compiler.errors import OptionError
from sparse_compiler.options import nearest

from .case import Case, check_sparsity
from .models import model_named

ALL = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)
SOME = (0.0, 0.7, 0.9)


@dataclass(frozen=True)
class Line:
    """Cases of one model and pattern. tokens None: the model's; threads None: those asked for."""

    model: str
    sparsities: tuple[float, ...] = ALL
    pattern: str = "unstructured"
    batch: int = 1
    tokens: int | None = None
    threads: int | None = None


_BERT_LAYERS = ("linear-768x768", "linear-3072x768", "linear-768x3072")
_MINILM_LAYERS = (
    "minilm:encoder.layer.0.attention.self.query",
    "minilm:encoder.layer.2.intermediate.dense",
    "minilm:encoder.layer.5.output.dense",
)
_LLAMA_LAYERS = ("linear-2048x2048", "linear-8192x2048", "linear-2048x8192")
_RESNET_LAYERS = (
    "conv-64x64x1@56",
    "conv-64x64x3@56",
    "conv-256x64x1@56",
    "conv-128x128x3@28",
    "conv-256x256x3@14",
    "conv-1024x256x1@14",
    "conv-512x512x3@7",
    "conv-512x256x1@56s2",
)
_GROUPED_LAYERS = (
    "conv-128x128x3@56g32",  # ResNeXt
    "conv-192x192x3@28g3",  # RegNet
    "conv-512x512x3@14g8",
    "conv-512x512x3@28s2g8",
)
_MOBILENET_LAYERS = ("conv-128x64x1@56", "conv-512x512x1@14", "conv-1024x1024x1@7")
_MODELS = ("minilm", "bert", "resnet50", "mobilenetv1", "mobilenetv2", "vit")
_ENGINE = ("bert", "minilm", "vit", "resnet50", "mobilenetv1")
_ZOO = (
    "distilbert",
    "roberta",
    "gpt2",
    "llama-small",
    "whisper",
    "wav2vec2",
    "resnet18",
    "mobilenetv2",
    "mobilenetv3",
    "efficientnet",
    "convnext",
    "regnet",
    "deit",
    "swin",
    "segformer",
    "unet",
    "yolo",
)
_PATTERNS = ("4x1", "8x1", "16x1", "4x4", "channel")

SUITES: dict[str, tuple[Line, ...]] = {
    "short": (
        Line("minilm", (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)),
        Line("bert", (0.0, 0.8, 0.9)),
        Line("resnet50", (0.0, 0.8, 0.9)),
        Line("mobilenetv1", (0.0, 0.8, 0.9)),
    ),
    "layers": tuple(
        Line(layer, SOME if pattern == "unstructured" else (0.7, 0.9), pattern)
        for layer in (
            *_BERT_LAYERS,
            *_MINILM_LAYERS,
            *_LLAMA_LAYERS,
            *_RESNET_LAYERS,
            *_MOBILENET_LAYERS,
            *_GROUPED_LAYERS,
        )
        for pattern in ("unstructured", "4x1")
    ),
    "models": tuple(Line(model) for model in _MODELS),
    "engine": tuple(Line(model) for model in _ENGINE),
    "engine-batch": tuple(
        Line(model, batch=batch) for model in ("resnet50", "minilm") for batch in (8, 32)
    ),
    "engine-one-thread": tuple(Line(model, threads=1) for model in _ENGINE),
    "zoo": tuple(Line(model, SOME) for model in _ZOO),
    "decode": (
        *(Line(layer, SOME, tokens=t) for layer in _LLAMA_LAYERS for t in (1, 4)),
        Line("llama-decode", SOME, tokens=1),
    ),
    "structured": (
        *(Line(model, (0.0, 0.5), "2:4") for model in ("minilm", "resnet50")),
        *(
            Line(model, (0.0, 0.5, 0.7, 0.9), pattern)
            for model in ("minilm", "resnet50")
            for pattern in _PATTERNS
        ),
    ),
}


def suite_cases(names: str, threads: int) -> list[Case]:
    """The cases of a suite, or of several as "a,b". OptionError with the nearest names."""
    wanted = names.split(",")
    for name in wanted:
        if name not in SUITES:
            raise OptionError(f"no suite is named {name!r}", fix=nearest(name, SUITES))
    return expand([line for name in wanted for line in SUITES[name]], threads)


def expand(lines: Sequence[Line], threads: int, dtype: str = "float32") -> list[Case]:
    """Every line's cases, each checked: model, pattern, and whether it can have the sparsity."""
    cases = []
    for line in lines:
        model = model_named(line.model)
        tokens = (line.tokens or model.tokens) if model.tokens else None
        for value in line.sparsities:
            cases.append(
                Case(
                    line.model,
                    check_sparsity(value, line.pattern),
                    line.pattern,
                    line.batch,
                    tokens,
                    dtype,
                    line.threads or threads,
                )
            )
    return list(dict.fromkeys(cases))
