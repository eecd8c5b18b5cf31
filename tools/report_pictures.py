"""Screenshots of the report's page for docs/, both widths and both themes: MiniLM at 90 % zeros.

python tools/report_pictures.py      # needs Chromium
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

import sparse_compiler as sc
from sparse_compiler.bench.case import Case
from sparse_compiler.bench.models import build_model, model_named

IMAGES = Path(__file__).parents[1] / "docs" / "images"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def report() -> str:
    """The page of a model that was compiled and profiled here."""
    entry = model_named("minilm")
    case = Case("minilm", sparsity=0.9, batch=1, tokens=entry.tokens, threads=2)
    model = build_model(case).eval()
    recipe = sc.Magnitude(0.9, include="*encoder*")
    model = sc.sparsify(model, recipe).requires_grad_(False)
    args = tuple(entry.inputs(case).values())
    with torch.no_grad():
        fast = sc.compile(model, args)
        return fast.inspect().html(profile=fast.profile(*args))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder) / "report.html"
        page.write_text(report(), "utf-8")
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=ARGUMENTS
        )
        for width in (1280, 390):
            for theme in ("light", "dark"):
                size = {"width": width, "height": 900}
                tab = browser.new_page(viewport=size, color_scheme=theme)
                tab.goto(page.as_uri())
                tab.wait_for_selector("html[data-ready=yes]")
                tab.locator("#layers td.name button").nth(1).click()
                tab.screenshot(path=IMAGES / f"report_{width}_{theme}.png")
        browser.close()


if __name__ == "__main__":
    main()
