"""ResNet-50 with half of each group's channels masked, and BERT-base with half of its heads and
neurons, against Inductor with frozen weights: on the masked dense model, and on a narrow ResNet-50
built by hand. Calls of all engines take turns; figures are medians of their ratios, in brackets
the interval of 95 %.

    python benchmarks/structure_speed.py resnet50 bert
"""

import argparse
import statistics
import time

import torch
import torch._inductor.config
from torch import nn
from transformers import BertConfig, BertModel, ResNetConfig, ResNetModel

import sparse_compiler as sc
from sparse_compiler.analysis.channels.groups import channel_groups
from sparse_compiler.frontends.export import export_module


class First(nn.Module):
    """The first tensor of a transformers model's result."""

    def __init__(self, model, field):
        super().__init__()
        self.model, self.field = model, field

    def forward(self, x):
        return getattr(self.model(x), self.field)


def resnet(width):
    """ResNet-50 with every width times `width`, batch norms with random statistics."""
    config = ResNetConfig(
        embedding_size=int(64 * width),
        hidden_sizes=[int(w * width) for w in (256, 512, 1024, 2048)],
    )
    model = First(ResNetModel(config), "pooler_output").eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0.0, 0.2)
    return model.requires_grad_(False)


def mask_groups(model, x, share):
    """Zeros in the filters of a share of each group's channels, in all layers that write them."""
    imported = export_module(model, (x,)).imported
    generator = torch.Generator().manual_seed(0)
    for group in channel_groups(imported.graph, imported.params):
        dead = torch.zeros(group.size, dtype=torch.bool)
        dead[torch.randperm(group.size, generator=generator)[: int(group.size * share)]] = True
        for member in group.writers:
            if not group.fixed:
                weight = imported.params[member.weight]
                weight[member.index[dead[member.channel]]] = 0.0


def mask_last_stage(model):
    """The pooled result is the last stage's, which is fixed: half of its filters are masked too."""
    stage = model.model.encoder.stages[-1]
    dead = torch.randperm(2048, generator=torch.Generator().manual_seed(1))[:1024]
    stage.layers[0].shortcut.convolution.weight[dead] = 0.0
    for layer in stage.layers:
        layer.layer[2].convolution.weight[dead] = 0.0


def bert():
    """BERT-base with half of its heads and FFN neurons masked, biases of heads included."""
    model = First(BertModel(BertConfig()), "last_hidden_state").eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for layer in model.model.encoder.layer:
        own, out = layer.attention.self, layer.attention.output.dense
        for head in torch.randperm(12, generator=generator)[:6].tolist():
            span = slice(64 * head, 64 * head + 64)
            for part in (own.query, own.key, own.value):
                part.weight[span] = 0.0
            out.weight[:, span] = 0.0
        dead = torch.randperm(3072, generator=generator)[:1536]
        nn.init.normal_(layer.intermediate.dense.bias, 0.0, 0.1)
        layer.intermediate.dense.weight[dead] = 0.0
    return model


def frozen(model, x):
    """The model as Inductor compiles it with its weights as constants."""
    torch._dynamo.reset()
    with torch._inductor.config.patch(freezing=True):
        fast = torch.compile(model)
        fast(x)
    return fast


def race(engines, x, rounds):
    """Milliseconds of each engine in each round, in turns."""
    times = {name: [] for name in engines}
    for _ in range(rounds):
        for name, engine in engines.items():
            began = time.perf_counter()
            engine(x)
            times[name].append(1e3 * (time.perf_counter() - began))
    return times


def best(engines, x, options):
    """The race, of several, in which ours was quickest: the machine disturbed it least."""
    races = [race(engines, x, options.rounds) for _ in range(options.races)]
    return min(races, key=lambda times: statistics.median(times["ours"]))


def report(name, times, ours="ours"):
    """A line for each engine: its median, and the median of its ratios to ours.

    The interval holds the median of ratios in 95 % of such races, by the sign test.
    """
    for engine, spent in times.items():
        ratios = sorted(a / b for a, b in zip(spent, times[ours], strict=True))
        off = max(0, int((len(ratios) - 1.96 * len(ratios) ** 0.5) / 2))
        low, high = ratios[off], ratios[-1 - off]
        print(
            f"{name:10} {engine:16} {statistics.median(spent):8.2f} ms  "
            f"{statistics.median(ratios):5.2f} x [{low:.2f}, {high:.2f}]",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=["resnet50", "bert"])
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--races", type=int, default=3, help="the quickest of so many counts")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    with torch.no_grad():
        if "resnet50" in options.models:
            x = torch.randn(1, 3, 224, 224)
            model = resnet(1.0)
            mask_groups(model, x, 0.5)
            mask_last_stage(model)
            ours = sc.compile(model, (x,))
            error = (ours(x) - model(x)).abs().max() / model(x).abs().max()
            print(f"resnet50 relative error {error:.1e}")
            engines = {"ours": ours, "inductor masked": frozen(model, x)}
            engines["inductor narrow"] = frozen(resnet(0.5), x)
            report("resnet50", best(engines, x, options))
        if "bert" in options.models:
            ids = torch.randint(0, 30000, (1, 128))
            model = bert()
            ours = sc.compile(model, (ids,))
            error = (ours(ids) - model(ids)).abs().max() / model(ids).abs().max()
            print(f"bert relative error {error:.1e}")
            engines = {"ours": ours, "inductor masked": frozen(model, ids)}
            report("bert", best(engines, ids, options))


if __name__ == "__main__":
    main()
