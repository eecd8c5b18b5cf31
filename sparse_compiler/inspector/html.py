"""The report as one page that needs nothing else: layers, passes, weights, time and code.

The page is a fixed template (`page/`); all that is a model's own goes in as JSON, which the page's
script puts into text nodes, so no name in a model can become markup.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import unified_diff
from importlib import resources
from typing import TYPE_CHECKING, Any

import torch

from ..analysis.cost import Sizes
from ..codegen.cpu.source import print_segment
from ..ir.graph import Graph, Node
from ..ir.types import TensorType
from ..runtime.pipeline import Lowered
from ..runtime.weights import WeightTimeValues
from .profile import Profile

if TYPE_CHECKING:
    import networkx as nx

_PIXELS = 64  # of a side of a weight's picture
_ROW, _LETTER, _GAP = 58, 7.3, 16  # of the drawing, in pixels
_LONGEST = 44  # letters of a label


@dataclass(frozen=True)
class Details:
    """What a page shows beside the ledger. tensors: parameters; profile: None if not taken."""

    lowered: Lowered
    tensors: Mapping[str, torch.Tensor]
    profile: Profile | None = None


def page(layers: list[dict[str, Any]], summary: str, details: Details) -> str:
    """The page. layers: entries of the report's JSON; beside them "value", the graph value that the
    layer computes, and "source", the one that is its weight."""
    folder = resources.files("sparse_compiler.inspector") / "page"
    parts = {name: (folder / f"page.{name}").read_text("utf-8") for name in ("html", "css", "js")}
    data = json.dumps(page_data(layers, summary, details), separators=(",", ":"))
    data = data.replace("<", "\\u003c")  # no end of the script element inside it
    filled = parts["html"]
    for name, text in (("css", parts["css"]), ("js", parts["js"]), ("data", data)):
        before, after = filled.split(f"@{name}@\n", 1)
        filled = before + text.rstrip("\n") + "\n" + after
    return filled


def page_data(layers: list[dict[str, Any]], summary: str, details: Details) -> dict[str, Any]:
    """Plain values for the page's script."""
    lowered, profile = details.lowered, details.profile
    shares = _shares(profile)
    shown = [{**layer, "share": shares.get(layer.get("value", ""))} for layer in layers]
    return {
        "summary": summary,
        "facts": _facts(layers, details),
        "layers": shown,
        "pictures": _pictures(layers, details),
        "passes": list(_passes(lowered)),
        "before": str(lowered.source),
        "after": str(lowered.graph),
        "drawing": drawing(lowered.graph),
        "profile": _profile(profile) if profile is not None else None,
        "sources": [[s.name, print_segment(s)] for s in lowered.program.segments],
    }


def _facts(layers: list[dict[str, Any]], details: Details) -> list[tuple[str, str]]:
    """(figure, what it is): the first look."""
    elements = sum(t.numel() for t in details.tensors.values())
    live = sum(int(torch.count_nonzero(t)) for t in details.tensors.values())
    native = sum(bool(layer["native"]) for layer in layers)
    facts = [
        (f"{native} of {len(layers)}", "layers in our kernels"),
        (f"{1 - live / max(elements, 1):.1%}", f"zeros in {elements:,} parameters"),
    ]
    gains = [_gain(layer) for layer in layers]
    ours, dense = (sum(g[i] for g in gains if g is not None) for i in (0, 1))
    if ours:
        facts.append((f"{dense / ours:.1f}x", "predicted against torch's dense layers"))
    facts += _sizes(layers, details.lowered.graph)
    if details.profile is not None:
        facts.append((f"{details.profile.total_ms:.3f} ms", "a call, measured"))
        shares, values = _shares(details.profile), {layer.get("value", "") for layer in layers}
        spent = sum(shares.get(value, 0.0) for value in values)  # merged layers have one value
        facts.append((f"{spent:.0%}", "of that in layers with weights"))
    return facts


def _sizes(layers: list[dict[str, Any]], graph: Graph) -> list[tuple[str, str]]:
    """Bytes of the packed weights, where they are packed, against the same ones dense."""
    packed = {e["source"]: e["stored_bytes"] for e in layers if e["stored_bytes"] and "source" in e}
    types = [graph.types[name] for name in packed]
    dense = sum(Sizes({}).nbytes(type_) for type_ in types if isinstance(type_, TensorType))
    if not dense:
        return []
    stored = sum(packed.values())
    return [(f"{stored / 2**20:.1f} MiB", f"of weights, which take {dense / 2**20:.1f} MiB dense")]


def _gain(layer: Mapping[str, Any]) -> tuple[float, float] | None:
    times = {c["format"]: c["predicted_ms"] for c in layer["candidates"]}
    ours, dense = times.get(layer["format"]), times.get("torch")
    return (ours, dense) if layer["native"] and ours and dense else None


def _pictures(layers: list[dict[str, Any]], details: Details) -> dict[str, Any]:
    """By layer: how dense each part of its weight is, one byte a pixel."""
    graph = details.lowered.graph
    known = {layer["name"]: layer.get("source") for layer in layers}
    wanted = {name: source for name, source in known.items() if source in graph.weight_time}
    nodes = [node for node in graph.nodes if node.name in graph.weight_time]
    values = WeightTimeValues(graph, nodes, details.tensors, wanted.values())
    found = {}
    for name, source in wanted.items():
        picture = spy(values.take(source))
        if picture is not None:
            found[name] = picture
    return found


def spy(weight: torch.Tensor) -> dict[str, Any] | None:
    """A weight as a matrix [rows = dim 0, columns = the rest], shrunk to at most 64 x 64 pixels of
    the density below them; None for what is no matrix."""
    if weight.dim() < 2 or weight.numel() == 0:
        return None
    live = (weight != 0).reshape(1, 1, weight.shape[0], -1).float()
    rows, columns = (min(_PIXELS, size) for size in live.shape[2:])
    density = torch.nn.functional.adaptive_avg_pool2d(live, (rows, columns))
    shades = density / density.max().clamp(min=1e-9) * 255
    shape = " x ".join(map(str, weight.shape))
    encoded = base64.b64encode(shades.to(torch.uint8).numpy().tobytes()).decode()
    return {"rows": rows, "columns": columns, "shape": shape, "shades": encoded}


def _passes(lowered: Lowered) -> Iterator[dict[str, Any]]:
    before = str(lowered.source)
    for record in lowered.records:
        after = str(record.graph) if record.changed else before
        lines = list(unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=1))
        yield {
            "name": record.name,
            "ms": record.seconds * 1e3,
            "diff": "\n".join(lines),
            "added": sum(line.startswith("+") for line in lines[2:]),
            "removed": sum(line.startswith("-") for line in lines[2:]),
        }
        before = after


def _shares(profile: Profile | None) -> dict[str, float]:
    """Share of a call's time by the graph value that is computed."""
    found: dict[str, float] = {}
    if profile is not None and profile.total_ms > 0:
        for row in profile.rows:
            found[row.layer] = found.get(row.layer, 0.0) + row.ms / profile.total_ms
    return found


def _profile(profile: Profile) -> dict[str, Any]:
    roofs = profile.roofs
    rows = [
        {
            "kernel": row.kernel,
            "layer": row.layer,
            "ms": row.ms,
            "gflops": row.gflops,
            "gbytes": row.gbytes,
            "roofline": row.roofline(roofs) if roofs and (row.flops or row.bytes) else None,
        }
        for row in profile.rows
    ]
    return {"rows": rows, "note": profile.notes[-1]}


def drawing(graph: Graph) -> dict[str, Any]:
    """Places of the nodes that run at each call, in layers from inputs to outputs, and their edges.

    nodes: x, y, width in pixels, label, text, layer: whether it has a weight. edges: pairs of
    numbers of nodes.
    """
    import networkx as nx  # 0.1 s that only a page should take

    running = [node for node in graph.nodes if node.name not in graph.weight_time]
    order = nx.DiGraph()
    order.add_nodes_from(node.name for node in running)
    order.add_edges_from((i, node.name) for node in running for i in node.inputs if i in order)
    for level, names in enumerate(nx.topological_generations(order)):
        nx.set_node_attributes(order, dict.fromkeys(names, level), "level")
    if not running:
        return {"nodes": [], "edges": [], "width": 0, "height": 0}
    places = nx.multipartite_layout(order, subset_key="level", align="horizontal")
    widths = {node.name: _GAP + _LETTER * len(_label(node)) for node in running}
    across, step = _across(order, places, widths), {n.name: i for i, n in enumerate(running)}
    left = min(across[name] - widths[name] / 2 for name in across) - _GAP
    nodes = [
        {
            "x": round(across[node.name] - left, 1),
            "y": _ROW * (order.nodes[node.name]["level"] + 0.5),
            "width": widths[node.name],
            "label": _label(node),
            "text": f"{node}: {node.type}",
            "layer": node.op.weight_input is not None,
        }
        for node in running
    ]
    return {
        "nodes": nodes,
        "edges": [[step[a], step[b]] for a, b in order.edges],
        "width": round(max(n["x"] + n["width"] / 2 for n in nodes) + _GAP),
        "height": round(max(n["y"] for n in nodes) + _ROW / 2),
    }


def _across(
    order: nx.DiGraph, places: Mapping[str, Any], widths: Mapping[str, float]
) -> dict[str, float]:
    """Middles of the boxes: those of a level side by side, in the layout's order, centred."""
    levels: dict[int, list[str]] = {}
    for name in sorted(order, key=lambda name: float(places[name][0])):
        levels.setdefault(order.nodes[name]["level"], []).append(name)
    found: dict[str, float] = {}
    for names in levels.values():
        at = -(sum(widths[name] for name in names) + _GAP * (len(names) - 1)) / 2
        for name in names:
            found[name] = at + widths[name] / 2
            at += widths[name] + _GAP
    return found


def _label(node: Node) -> str:
    text = f"{node.op.name} {node.name}"
    return text if len(text) <= _LONGEST else f"{node.op.name} ...{text[-(_LONGEST - 20) :]}"
