"""Few columns: the program picks its kernels by the number of columns at each call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.backend import last_reports

pytestmark = [pytest.mark.system, pytest.mark.usefixtures("cached_kernels")]
FORCED: dict[str, Any] = {"force_native": True}


def pruned(model: nn.Module, density: float = 0.3) -> Any:
    for parameter in model.parameters():
        if parameter.dim() == 2:
            parameter.data *= torch.rand_like(parameter) < density
    return model.eval()


@torch.no_grad()
def test_columns_decide_at_run_time() -> None:
    torch.manual_seed(0)
    model = pruned(nn.Sequential(nn.Linear(70, 90), nn.GELU(), nn.Linear(90, 50)))
    rows = torch.export.Dim("rows", min=1, max=64)
    fast = sc.compile(model, (torch.randn(20, 70),), dynamic_shapes=({0: rows},), options=FORCED)
    held = fast.pipeline.segments[0]._weights
    assert held is not None
    for n in (20, 1, 3, 8, 9, 64):
        x = torch.randn(n, 70)
        torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)
        assert len(held.others) == (2 if n != 20 else 0) or n > 8
    model[0].weight.mul_(2)
    model[2].weight[3] = 0
    for n in (1, 20):
        x = torch.randn(n, 70)
        torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_one_column_is_computed_in_rows() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(70, 90), nn.LayerNorm(90), nn.SiLU(), nn.Linear(90, 50), nn.RMSNorm(50)]
    model, x = pruned(nn.Sequential(*layers)), torch.randn(1, 70)
    fast = sc.compile(model, (x,), options=FORCED)
    assert [call.kernel for call in fast.pipeline.segments[0].segment.calls].count(
        "decode_row"
    ) == 2
    assert fast.inspect().fallback_calls == 0
    torch.testing.assert_close(fast(x), model(x), atol=1e-5, rtol=1e-4)


def small_llama(groups: int = 2) -> tuple[Any, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=groups,
        max_position_embeddings=64,
    )
    return pruned(LlamaForCausalLM(config)), config


def decoded(run: Any, cache: Any, steps: int) -> tuple[list[int], torch.Tensor]:
    """Greedy tokens after a prompt, and the last logits."""
    ids, place, found = torch.arange(6)[None], 0, []
    for _ in range(steps):
        places = torch.arange(place, place + ids.shape[1])[None]
        out = run(input_ids=ids, position_ids=places, past_key_values=cache, use_cache=True)
        place += ids.shape[1]
        ids = out.logits[:, -1:].argmax(-1)
        found.append(int(ids))
    return found, out.logits[:, -1]


@pytest.mark.system
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@torch.no_grad()
def test_hugging_face_caches_under_torch_compile(kind: str) -> None:
    from transformers import DynamicCache, StaticCache

    torch.manual_seed(0)
    torch._dynamo.reset()
    model, config = small_llama()

    def cache() -> Any:
        if kind == "dynamic":
            return DynamicCache()
        return StaticCache(config=config, max_cache_len=32)

    want, logits = decoded(model, cache(), 8)
    last_reports.clear()
    fast = torch.compile(model, backend="sparse_compiler", options=FORCED)
    got, ours = decoded(fast, cache(), 8)
    assert got == want
    torch.testing.assert_close(ours, logits, atol=1e-5, rtol=1e-4)
    assert all(report.segments for report in last_reports)


class Step(nn.Module):
    """One token, with the keys and values of those before it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, ids: torch.Tensor, keys: list[torch.Tensor], values: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        from transformers import DynamicCache

        cache: Any = DynamicCache()
        for layer, (k, v) in enumerate(zip(keys, values, strict=True)):
            cache.update(k, v, layer)
        past = keys[0].shape[2]
        places = torch.arange(past, past + 1).unsqueeze(0)
        out = self.model(ids, position_ids=places, past_key_values=cache, use_cache=True)
        return out.logits, [x.keys for x in cache.layers], [x.values for x in cache.layers]


@pytest.mark.system
@torch.no_grad()
def test_an_exported_step_with_a_growing_cache() -> None:
    torch.manual_seed(0)
    model, _ = small_llama(groups=4)
    step = Step(model).eval()
    dim = torch.export.Dim("past", min=2, max=60)
    keys, values = ([torch.randn(1, 4, 5, 16) for _ in range(2)] for _ in range(2))
    ids = torch.tensor([[3]])
    shapes = (None, [{2: dim}] * 2, [{2: dim}] * 2)
    fast = sc.compile(step, (ids, keys, values), dynamic_shapes=shapes, options=FORCED)
    assert fast.inspect().fallback_calls == 0
    ours: Any = (None, keys, values)
    theirs: Any = ours
    for _ in range(6):
        ours, theirs = fast(ids, *ours[1:]), step(ids, *theirs[1:])
        for a, b in zip(
            ours[1] + ours[2] + [ours[0]], theirs[1] + theirs[2] + [theirs[0]], strict=True
        ):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
