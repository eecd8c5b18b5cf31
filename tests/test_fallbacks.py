"""Nothing of the models on the list is left to torch: `fallback_calls` is 0, layers are native."""

import pytest

import sparse_compiler as sc
from tests.models import zoo
from tests.zoo import others

ZOO = zoo()
LISTED = (
    "bert",
    "minilm",
    "distilbert",
    "roberta",
    "vit",
    "deit",
    "swin",
    "gpt2",
    "llama",
    "resnet18",
    "resnet",
    "mobilenet_v1",
    "mobilenet_v2",
    "mobilenet_v3",
    "efficientnet",
    "convnext",
    "regnet",
    "segformer",
    "unet",
    "unet_bilinear",
    "yolo",
    "whisper_encoder",
    "wav2vec2",
    "wav2vec2_stable",
)
UNLISTED = (
    "albert",
    "t5_encoder",
    "clip_text",
    "llama_masked",
    "mlp",
    "tcn",
    *(build.__name__ for build in others.BUILDERS),
)

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def check(name: str, sparsity: float) -> None:
    """With the options as they are by default, by the report: steps of torch, and each layer."""
    model, args, kwargs = ZOO[name]()
    if sparsity:
        model = sc.sparsify(model, sc.Magnitude(sparsity, min_weights=64))
    report = sc.inspect(model, args, kwargs)
    elsewhere = [f"{layer.name}: {layer.reason}" for layer in report.layers if not layer.native]
    assert not elsewhere
    assert report.fallback_calls == 0, report.program
    assert report.json()["fallback_calls"] == 0


@pytest.mark.system
@pytest.mark.parametrize("name", LISTED)
def test_listed(name: str) -> None:
    check(name, 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("name", LISTED)
def test_listed_dense(name: str) -> None:
    check(name, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", UNLISTED)
def test_unlisted(name: str) -> None:
    check(name, 0.9)
