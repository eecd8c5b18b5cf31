"""Decoding one token at a time: matrix-vector products, and a Llama with its cache.

    python benchmarks/decode.py matvec --out decode.jsonl
    python benchmarks/decode.py llama --sparsity 0.9 --out decode.jsonl

Engines take turns within one process, so that they meet the same machine; a ratio is
the median of those of the turns, with the interval that holds 95 % of medians resampled from them.
Each finished case is a line of the file, and is not measured again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.runtime.measure import machine_to_itself

ROWS, COLUMNS = 4096, 11008
LAYERS, WIDTH, INNER, HEADS, WORDS = 8, 2048, 5632, 32, 32000
PROMPT, TOKENS = 32, 64
SPARSITIES = (0.5, 0.7, 0.9)

Engine = Callable[[], float]
"""Runs once; gives the seconds that count."""


def main() -> None:
    """Measures the cases that the file lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Plain)
    parser.add_argument("case", choices=("matvec", "llama"))
    parser.add_argument("--sparsity", type=float, action="append")
    parser.add_argument("--turns", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engines", default="eager,inductor,ours,ours_step")
    parser.add_argument("--out", type=Path, default=Path("decode.jsonl"))
    parser.add_argument("--lock", type=Path, help="file locked during each turn")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    known = {line["name"] for line in _lines(options.out)}
    for sparsity in options.sparsity or SPARSITIES:
        name = f"{options.case} {sparsity:.0%}"
        if name in known:
            continue
        torch.manual_seed(0)
        if options.case == "matvec":
            engines, turns = matvec(sparsity), options.turns or 40
        else:
            engines, turns = llama(sparsity, options.engines.split(",")), options.turns or 3
        found = {"name": name, **measured(engines, turns, options.lock)}
        with options.out.open("a") as file:
            file.write(json.dumps(found) + "\n")
    for line in _lines(options.out):
        print(_text(line))


class _Plain(argparse.RawDescriptionHelpFormatter):
    pass


def measured(engines: Mapping[str, Engine], turns: int, lock: Path | None) -> dict[str, Any]:
    """Milliseconds of each engine, and how many times faster than the first it is."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for turn in range(turns + 1):
        with machine_to_itself(lock):
            for name, engine in engines.items():
                spent = engine()
                if turn:  # the first one warms up
                    seconds[name].append(spent)
    base = next(iter(seconds))
    return {
        "ms": {name: statistics.median(s) * 1e3 for name, s in seconds.items()},
        "faster": {
            name: _interval([b / s for b, s in zip(seconds[base], own, strict=True)])
            for name, own in seconds.items()
        },
    }


def _interval(ratios: list[float]) -> tuple[float, float, float]:
    """(median, lower, upper): bounds of 95 % of the medians of 1,000 resamplings."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(1000))
    return statistics.median(ratios), medians[25], medians[974]


def _timed(run: Callable[[], Any]) -> Engine:
    def engine() -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return engine


def matvec(sparsity: float) -> dict[str, Engine]:
    """torch's dense linear, and ours on the same pruned weight, in three precisions."""
    model = nn.Sequential(nn.Linear(COLUMNS, ROWS, bias=False)).eval()
    model = _pruned(model, sparsity)
    x = torch.randn(1, COLUMNS)
    engines = {"torch dense": _timed(lambda: model(x))}
    want = model(x)
    for weights in ("fp32", "fp16", "bf16"):
        fast = sc.compile(model, (x,), weights=weights)
        error = float((fast(x) - want).abs().max() / want.abs().max())
        assert error < {"fp32": 1e-5, "fp16": 2e-3, "bf16": 2e-2}[weights], error
        engines[f"ours {weights}"] = _timed(lambda fast=fast: fast(x))
    return engines


def _pruned(model: nn.Module, sparsity: float) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            weight = module.weight
            sample = weight.detach().abs().flatten()[::17]
            least = sample.kthvalue(max(1, int(sample.numel() * sparsity))).values
            weight.data *= weight.abs() > least
    return model


class Step(nn.Module):
    """One token: ids [1, 1], keys and values per layer [1, heads, past, size] -> logits [1, 1,
    words], and the keys and values with this token's."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, ids: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
            cache.update(k, v, layer)
        past = keys[0].shape[2]
        places = torch.arange(past, past + 1).unsqueeze(0)
        out = self.model(ids, position_ids=places, past_key_values=cache, use_cache=True)
        return out.logits, [x.keys for x in cache.layers], [x.values for x in cache.layers]


def llama(sparsity: float, wanted: list[str]) -> dict[str, Engine]:
    """Seconds a token of the same greedy decoding by each engine."""
    from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

    config = LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
    )
    model = _pruned(LlamaForCausalLM(config).eval(), sparsity)
    prompt = torch.randint(WORDS, (1, PROMPT))

    def generate(run: Callable[..., Any], *, static: bool) -> tuple[list[int], float]:
        cache: Any = DynamicCache()
        if static:
            cache = StaticCache(config=config, max_cache_len=PROMPT + TOKENS + 1)
        out = model(prompt, past_key_values=cache, use_cache=True)
        token, found = out.logits[:, -1:].argmax(-1), []
        began = time.perf_counter()
        for i in range(TOKENS):
            places = torch.tensor([[PROMPT + i]])
            out = run(token, position_ids=places, past_key_values=cache, use_cache=True)
            token = out.logits[:, -1:].argmax(-1)
            found.append(int(token))
        return found, (time.perf_counter() - began) / TOKENS

    def by_steps(step: Callable[..., Any]) -> tuple[list[int], float]:
        cache = DynamicCache()
        out = model(prompt, past_key_values=cache, use_cache=True)
        token, found = out.logits[:, -1:].argmax(-1), []
        keys, values = [x.keys for x in cache.layers], [x.values for x in cache.layers]
        began = time.perf_counter()
        for _ in range(TOKENS):
            logits, keys, values = step(token, keys, values)
            token = logits[:, -1:].argmax(-1)
            found.append(int(token))
        return found, (time.perf_counter() - began) / TOKENS

    def exported(weights: str) -> Callable[..., Any]:
        size = WIDTH // HEADS
        past = [torch.randn(1, HEADS, PROMPT, size) for _ in range(LAYERS)]
        dim = torch.export.Dim("past", min=2, max=4095)
        shapes = (None, [{2: dim}] * LAYERS, [{2: dim}] * LAYERS)
        args = (prompt[:, :1], past, [x + 1 for x in past])
        return sc.compile(Step(model).eval(), args, dynamic_shapes=shapes, weights=weights)

    expected, _ = generate(model, static=False)
    engines: dict[str, Engine] = {}
    for name in wanted:
        if name == "eager":
            run = lambda: generate(model, static=False)  # noqa: E731
        elif name.startswith("ours_step"):
            fast = exported(name.removeprefix("ours_step").strip("_") or "fp32")
            run = lambda fast=fast: by_steps(fast)  # noqa: E731
        else:
            static = name.endswith("static")
            backend = "inductor" if name.startswith("inductor") else "sparse_compiler"
            compiled = torch.compile(model, backend=backend, dynamic=None)
            run = lambda c=compiled, s=static: generate(c, static=s)  # noqa: E731
        found, _ = run()
        same = sum(a == b for a, b in zip(found, expected, strict=True))
        print(f"{name}: {same} of {TOKENS} tokens as eager's", flush=True)
        engines[name] = lambda run=run: run()[1]
    return engines


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _text(line: Mapping[str, Any]) -> str:
    parts = []
    for name, ms in line["ms"].items():
        median, low, high = line["faster"][name]
        parts.append(f"  {name:<18} {ms:8.3f} ms  {median:5.2f}x [{low:.2f}, {high:.2f}]")
    return "\n".join([line["name"], *parts])


if __name__ == "__main__":
    main()
