"""The report's page: self-contained, what it shows is never markup; in Chromium, it all works."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import sparse_compiler as sc
from sparse_compiler.compiled import Compiled
from sparse_compiler.inspector.html import drawing, spy

pytestmark = [
    pytest.mark.system,
    pytest.mark.usefixtures("cached_kernels"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Branches(nn.Module):
    """Two convolutions that meet again, a linear layer, and a layer that stays with torch."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(3, 16, 1)
        self.head = nn.Linear(16, 32)
        self.rest = nn.GRU(32, 8, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.left(x) + self.right(x)).flatten(2).transpose(1, 2)
        return self.rest(torch.relu(self.head(y)))[0]


def compiled() -> tuple[Compiled, torch.Tensor]:
    torch.manual_seed(0)
    model = sc.sparsify(Branches().eval(), sc.Magnitude(0.8, min_weights=64, keep_first_conv=False))
    x = torch.randn(1, 3, 16, 16)
    return sc.compile(model.requires_grad_(False), (x,), options={"force_native": True}), x


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, kernel_cache: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSE_COMPILER_CACHE", str(kernel_cache))
        fast, x = compiled()
        path = tmp_path_factory.mktemp("page") / "report.html"
        text = fast.inspect().html(path, profile=fast.profile(x))
    assert path.read_text("utf-8") == text
    return path


def data_of(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">\n(.*?)\n</script>', text, re.S)
    assert found is not None
    return json.loads(found[1])


def test_the_page_holds_what_the_ledger_holds(page: Path) -> None:
    data = data_of(page.read_text())
    names = [layer["name"] for layer in data["layers"]]
    assert names == ["left", "right", "head", "rest"]
    assert {"left", "right", "head"} <= set(data["pictures"])
    assert data["profile"]["rows"]
    assert sum(layer["share"] or 0 for layer in data["layers"]) > 0
    assert any(p["name"] == "fuse-pointwise" and p["added"] > 0 for p in data["passes"])
    assert any("#include" in source for _, source in data["sources"])


def test_the_first_look(page: Path) -> None:
    facts = {what: figure for figure, what in data_of(page.read_text("utf-8"))["facts"]}
    assert facts["layers in our kernels"] == "3 of 4"
    assert any(what.startswith("of weights, which take") for what in facts)
    assert facts["a call, measured"].endswith(" ms")
    assert 0 < int(facts["of that in layers with weights"].rstrip("%")) <= 100


def test_it_asks_for_nothing(page: Path) -> None:
    text = page.read_text()
    markup = text.split('id="data"')[0]
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", markup)
    assert "default-src 'none'" in text


def test_what_is_shown_is_never_markup(page: Path) -> None:
    text = page.read_text()
    assert any("<omp.h>" in source for _, source in data_of(text)["sources"])
    assert "<" not in text.split('id="data">')[1].split("</script>")[0]


def test_pictures_show_where_the_zeros_are() -> None:
    weight = torch.zeros(128, 256)
    weight[:64, :128] = 1
    found = spy(weight)
    assert found is not None
    assert (found["rows"], found["columns"], found["shape"]) == (64, 64, "128 x 256")
    assert spy(torch.ones(3)) is None
    assert spy(torch.ones(0, 3)) is None
    small = spy(torch.eye(2))
    assert small is not None
    assert small["shades"] == "/wAA/w=="


def test_every_operation_is_drawn_below_what_it_reads() -> None:
    fast, _ = compiled()
    found = drawing(fast.graph)
    running = [node for node in fast.graph.nodes if node.name not in fast.graph.weight_time]
    assert len(found["nodes"]) == len(running) > 3
    assert found["edges"]
    for a, b in found["edges"]:
        assert found["nodes"][a]["y"] < found["nodes"][b]["y"]
    rows: dict[float, list[tuple[float, float]]] = {}
    for node in found["nodes"]:
        left, right = node["x"] - node["width"] / 2, node["x"] + node["width"] / 2
        assert 0 <= left <= right <= found["width"]
        assert all(right <= a or left >= b for a, b in rows.get(node["y"], []))
        rows.setdefault(node["y"], []).append((left, right))


# In a browser.

chromium = shutil.which("chromium") or shutil.which("google-chrome")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
in_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium is None, reason="no Chromium here"),
]
SIZES = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Each of its pages has a profile of its own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(params=SIZES, ids=[f"{width}-{theme}" for width, theme in SIZES])
def tab(page: Path, browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The opened page; anything on the console or asked of the network fails the test."""
    width, theme = request.param
    complaints: list[str] = []
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=theme)
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda r: r.url.startswith("file:") or complaints.append(r.url))
    tab.goto(page.as_uri())
    tab.wait_for_selector("html[data-ready=yes]")
    yield tab
    tab.close()
    assert complaints == []


def names(tab: Any) -> list[str]:
    return [button.inner_text() for button in tab.locator("#layers td.name button").all()]


class TestInTheBrowser:
    pytestmark = in_browser

    def test_it_fits_the_width(self, tab: Any) -> None:
        width = tab.evaluate("document.documentElement.scrollWidth")
        assert width <= tab.viewport_size["width"]

    def test_layers_sort_and_filter(self, tab: Any) -> None:
        assert names(tab) == ["left", "right", "head", "rest"]
        heading = tab.locator("#columns th", has_text="layer")
        heading.locator("button").click()
        assert names(tab) == ["head", "left", "rest", "right"]
        assert heading.get_attribute("aria-sort") == "ascending"
        heading.locator("button").click()
        assert names(tab) == ["right", "rest", "left", "head"]
        tab.fill("#filter", "gru")
        assert names(tab) == ["rest"]
        assert tab.inner_text("#count") == "1 of 4 layers"
        tab.fill("#filter", "")
        tab.select_option("#kind", "torch")
        assert names(tab) == ["rest"]

    def test_a_layer_opens_by_the_keyboard(self, tab: Any) -> None:
        tab.locator("#layers td.name button", has_text="head").focus()
        tab.keyboard.press("Enter")
        assert tab.locator("tr.more canvas.spy").count() == 1
        assert "predicted ms" in tab.inner_text("tr.more")
        assert tab.evaluate("document.activeElement.textContent") == "head"
        tab.keyboard.press("Enter")
        assert tab.locator("tr.more").count() == 0

    def test_everything_is_reached_by_tab(self, tab: Any) -> None:
        seen = set()
        for _ in range(120):
            tab.keyboard.press("Tab")
            seen.add(tab.evaluate("document.activeElement.textContent"))
        assert {"Layers", "Light or dark", "head"} <= seen
        assert any(text.startswith("fuse-pointwise") for text in seen)

    def test_passes_drawing_and_code_unfold(self, tab: Any) -> None:
        tab.locator("#stages summary", has_text="fuse-pointwise").click()
        tab.wait_for_selector("#stages pre .add")
        tab.locator("#stages details details summary").first.click()
        tab.wait_for_selector("#stages details details pre .add")
        tab.locator("#drawing summary").click()
        tab.wait_for_selector("svg.graph rect")
        assert tab.locator("svg.graph rect").count() > 3
        tab.locator("#sources summary").first.click()
        tab.wait_for_selector("#sources pre")
        assert "#include" in tab.inner_text("#sources pre")

    def test_the_graph_after_each_pass_is_made_of_the_differences(self, tab: Any) -> None:
        last = tab.evaluate("data.passes.findLastIndex((pass) => pass.diff)")
        assert last > 3
        text = tab.evaluate(f"kept(whole({last})).join('\\n')")
        assert text == tab.evaluate("data.after")

    def test_the_theme_follows_the_system_and_the_button(self, tab: Any) -> None:
        def back() -> str:
            return str(tab.evaluate("getComputedStyle(document.body).backgroundColor"))

        before = back()
        tab.click("#theme")
        assert back() != before
        tab.click("#theme")
        assert back() == before
