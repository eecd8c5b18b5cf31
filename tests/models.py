"""Tiny models of the kinds that people compile, seeded: for the tests of numbers.

`zoo()` gives for each name a function that builds (model in eval mode, args, kwargs) for a batch;
`models()` a dozen of them, one of each kind. At most two layers, 128 wide, 64 pixels.
"""

from collections.abc import Callable

import torch

from tests.zoo import others, sequences, vision
from tests.zoo.base import TOKENS, VOCABULARY, Built

BATCH = 2
Builder = Callable[..., Built]

SAMPLE = (
    "bert",
    "convnext",
    "distilbert",
    "efficientnet",
    "gpt2",
    "llama",
    "lstm",
    "mixer",
    "mlp",
    "mobilenet_v2",
    "resnet",
    "unet",
    "vit",
)


def zoo() -> dict[str, Builder]:
    """Name -> builder(batch=2). The same weights at every call; no random state is touched."""

    def seeded(build: Callable[[int], Built]) -> Builder:
        def run(batch: int = BATCH) -> Built:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model, args, kwargs = build(batch)
            return model.eval().requires_grad_(False), args, kwargs

        return run

    builders = (*sequences.BUILDERS, *vision.BUILDERS, *others.BUILDERS)
    return {build.__name__: seeded(build) for build in builders}


def models() -> dict[str, Builder]:
    """One model of each kind, for tests that cannot afford them all."""
    everything = zoo()
    return {name: everything[name] for name in SAMPLE}


__all__ = ["BATCH", "TOKENS", "VOCABULARY", "Built", "models", "zoo"]
