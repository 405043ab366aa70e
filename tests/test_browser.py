"""The real frontend of a real ComfyUI in a real browser: drop, queue, look, drop the LoRA."""

from __future__ import annotations

import base64
import json
import re
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
    const [title, ...rest] = target.split("."); // the input of a choice has a dot in its name
    const name = rest.join(".");
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


PANEL = ".likeness-training"
TRAIN_NODE = "window.app.graph.nodes.find(node => node.type === 'LikenessTrainLora')"


def opened(page):
    """The page as it is after a reload."""
    page.reload()
    page.wait_for_function("() => window.app?.graph && !document.querySelector('#splash-loader')")
    page.wait_for_function(f"() => {TRAIN_NODE}", timeout=30_000)


def test_stop_and_keep_while_it_trains_also_after_a_reload(page, comfyui, tmp_path):
    drop(page, QUICKSTART, "application/json")
    long = {"LikenessTrainLora.steps": 2000, "LikenessTrainLora.sample_every": 5}
    mine = {"LikenessTrainLora.seed": 77, "LikenessTrainLora.sample_prompt": "a star\na house"}
    page.evaluate(SET, {**SMALL, **long, **mine})
    earlier = set(comfyui.get("/history"))
    page.evaluate("() => window.app.queuePrompt(0)")
    page.wait_for_selector(f"{PANEL} polyline", state="attached", timeout=120_000)
    page.wait_for_function(f"() => {TRAIN_NODE}.imgs?.length", timeout=120_000)
    names = page.evaluate(f"() => {TRAIN_NODE}.widgets.map(widget => widget.name)")
    assert "likeness_training" in names
    shown = page.evaluate(
        f"() => {TRAIN_NODE}.widgets.find(widget => widget.name.includes('text-preview')).value"
    )
    assert re.match(r"step \d+/2000 · loss \d\.\d+ · rate 0\.01 · .* left", shown)
    prompt, saved = page.evaluate(
        """async () => {
          const { output, workflow } = await window.app.graphToPrompt();
          const ours = node => (node.class_type ?? node.type) === "LikenessTrainLora";
          return [Object.values(output).find(ours), workflow.nodes.find(ours)];
        }"""
    )
    assert "likeness_training" not in prompt["inputs"], "it would be part of the cache key"
    file = json.loads(QUICKSTART.read_text(encoding="utf-8"))
    before = next(node for node in file["nodes"] if node["type"] == "LikenessTrainLora")
    assert len(saved["widgets_values"]) == len(before["widgets_values"])
    page.screenshot(path=str(tmp_path / "training.png"))

    opened(page)
    page.wait_for_selector(f"{PANEL} polyline", state="attached", timeout=30_000)
    page.wait_for_function(f"() => {TRAIN_NODE}.imgs?.length", timeout=60_000)
    page.screenshot(path=str(tmp_path / "reloaded.png"))
    page.get_by_role("button", name="Save now").click()
    page.wait_for_selector(f"{PANEL} button:has-text('Save now'):enabled", timeout=60_000)
    assert list(comfyui.base.glob("output/likeness/runs/*/result/result.json"))
    assert set(comfyui.get("/history")) == earlier, "it goes on"

    page.get_by_role("button", name="Stop and keep").click()
    until = time.monotonic() + 240
    while set(history := comfyui.get("/history")) == earlier and time.monotonic() < until:
        time.sleep(0.5)
    (entry,) = [entry for key, entry in history.items() if key not in earlier]
    assert entry["status"]["status_str"] == "success", "the graph went on with what was learned"
    (text,) = next(
        out["text"] for out in entry["outputs"].values() if {"text", "images"} <= set(out)
    )
    assert re.match(r"stopped at step \d+ of 2000, loss", text)
    page.wait_for_selector(f"{PANEL}[data-running='false']", state="attached", timeout=30_000)
    assert not page.get_by_role("button", name="Stop and keep").is_visible()
    page.screenshot(path=str(tmp_path / "kept.png"))


def test_the_panel_shows_the_curve_of_the_training_it_belongs_to(page):
    """Of one that was found, and not of another graph that was made from the same example."""
    shows = f"() => document.querySelector('{PANEL} title')?.textContent.includes('%s steps')"

    def train(steps):
        change = {**SMALL, "LikenessTrainLora.steps": steps, "LikenessTrainLora.seed": 78}
        page.evaluate(SET, change)
        page.evaluate("() => window.app.queuePrompt(0)")
        page.wait_for_function(shows % steps, timeout=120_000)

    drop(page, QUICKSTART, "application/json")
    train(3)
    train(4)
    train(3)  # found at once
    one = page.evaluate("() => window.app.graph.id")
    drop(page, QUICKSTART, "application/json")
    other = page.evaluate("() => window.app.graph.id")
    assert one and other and one != other
    page.wait_for_timeout(3000)
    assert page.locator(PANEL).count() == 0, "this graph has trained nothing"


def test_the_template_browser_lists_the_examples(page, comfyui):
    templates = comfyui.get("/api/workflow_templates")
    for name in (
        "quickstart",
        "dreambooth",
        "prior_prediction",
        "image_to_image",
        "control",
        "pose_and_style",
    ):
        assert name in templates["likeness"]
        assert (ROOT / "example_workflows" / f"{name}.jpg").is_file()


def test_the_help_page_is_served(page, comfyui):
    import urllib.request

    address = f"{comfyui.url}/extensions/likeness/docs/LikenessTrainLora.md"
    with urllib.request.urlopen(address, timeout=20) as answer:
        assert b"# " in answer.read()
