"""The real frontend of a real ComfyUI in a real browser: drop, queue, look, drop the LoRA."""

from __future__ import annotations

import base64
import json
import shutil
import time

import pytest

from .comfyui_process import shared_server
from .conftest import ROOT
from .test_quickstart import QUICKSTART, SMALL

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]

DROP = """async ([name, type, content]) => {
  const bytes = Uint8Array.from(atob(content), c => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const canvas = document.getElementById("graph-canvas");
  const box = canvas.getBoundingClientRect();
  const at = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 };
  const options = { dataTransfer: transfer, bubbles: true, cancelable: true, ...at };
  canvas.dispatchEvent(new DragEvent("dragover", options));
  canvas.dispatchEvent(new DragEvent("drop", options));
}"""
"""Dropping a file on the canvas, as the browser reports it."""

NODES = """() => window.app.graph.nodes.map(node => ({
  type: node.type,
  title: node.title,
  errors: !!node.has_errors,
  widgets: Object.fromEntries((node.widgets ?? []).map(widget => [widget.name, widget.value])),
  images: (node.imgs ?? []).length,
}))"""

SET = """changes => {
  for (const [target, value] of Object.entries(changes)) {
    const [title, name] = target.split(".");
    const node = window.app.graph.nodes.find(node => node.title === title || node.type === title);
    node.widgets.find(widget => widget.name === name).value = value;
  }
}"""


@pytest.fixture(scope="module")
def comfyui():
    return shared_server()


@pytest.fixture(scope="module")
def page(comfyui):
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        page.goto(comfyui.url)
        page.wait_for_function(
            "() => window.app?.graph && !document.querySelector('#splash-loader')"
        )
        page.wait_for_timeout(1500)
        page.keyboard.press("Escape")  # the gallery of templates opens for a new user
        yield page
        browser.close()


def drop(page, path, type):
    page.evaluate("() => window.app.graph.clear()")
    content = base64.b64encode(path.read_bytes()).decode()
    page.evaluate(DROP, [path.name, type, content])
    page.wait_for_function("() => window.app.graph.nodes.length > 5", timeout=20_000)
    return page.evaluate(NODES)


def expected_nodes():
    graph = json.loads(QUICKSTART.read_text(encoding="utf-8"))
    return sorted(node["type"] for node in graph["nodes"])


def test_the_quickstart_opens_runs_and_its_lora_opens_it_again(page, comfyui, tmp_path):
    nodes = drop(page, QUICKSTART, "application/json")
    assert sorted(node["type"] for node in nodes) == expected_nodes()
    train = next(node for node in nodes if node["type"] == "LikenessTrainLora")
    saved = json.loads(QUICKSTART.read_text(encoding="utf-8"))
    values = next(n for n in saved["nodes"] if n["type"] == train["type"])["widgets_values"]
    assert list(train["widgets"].values()) == values, "every value sits in its own widget"
    page.screenshot(path=str(tmp_path / "opened.png"))

    page.evaluate(SET, SMALL)
    earlier = set(comfyui.get("/history"))  # other tests use this server as well
    page.evaluate("() => window.app.queuePrompt(0)")
    until = time.monotonic() + 240
    while set(history := comfyui.get("/history")) == earlier and time.monotonic() < until:
        time.sleep(0.5)
    (entry,) = [entry for key, entry in history.items() if key not in earlier]
    assert entry["status"]["status_str"] == "success", entry["status"]
    page.wait_for_timeout(2000)
    shown = {node["title"]: node["images"] for node in page.evaluate(NODES)}
    assert (shown["After"], shown["Before"], shown["Loss"]) == (1, 1, 1)
    page.screenshot(path=str(tmp_path / "done.png"))

    lora = comfyui.base / "output" / "loras" / "orange-monster.safetensors"
    nodes = drop(page, lora, "application/octet-stream")
    assert sorted(node["type"] for node in nodes) == expected_nodes()
    assert not any(node["errors"] for node in nodes)


def test_the_template_browser_lists_the_quickstart(page, comfyui):
    templates = comfyui.get("/api/workflow_templates")
    assert "quickstart" in templates["likeness"]
    assert (ROOT / "example_workflows" / "quickstart.jpg").is_file()


def test_the_help_page_is_served(page, comfyui):
    import urllib.request

    address = f"{comfyui.url}/extensions/likeness/docs/LikenessTrainLora.md"
    with urllib.request.urlopen(address, timeout=20) as answer:
        assert b"# " in answer.read()
