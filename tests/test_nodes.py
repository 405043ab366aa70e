"""Every node keeps the contract: an id for ever, a tooltip everywhere, a thin body, a help page."""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest
from likeness.nodes import NODES
from likeness.trainers.settings import (
    LoraSettings,
    PriorSettings,
    TrainingSettings,
    describe,
)

from .conftest import ROOT

IDS = {
    "LikenessLoadPipeline",
    "LikenessFromCheckpoint",
    "LikenessLoadParts",
    "LikenessLoadFromHub",
    "LikenessLoadLora",
    "LikenessFuseLora",
    "LikenessUnfuseLora",
    "LikenessGenerate",
    "LikenessImageSet",
    "LikenessImageFolder",
    "LikenessClassImages",
    "LikenessTrainLora",
    "LikenessSaveLora",
    "LikenessPlotLoss",
}
"""Shared workflows rely on these: an id may be added here, never changed or removed."""

nodes = pytest.mark.parametrize("node", NODES, ids=lambda node: node.GET_SCHEMA().node_id)


def inputs_of(node):
    info = node.GET_NODE_INFO_V1()
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def test_ids_never_change():
    assert {node.GET_SCHEMA().node_id for node in NODES} == IDS


@nodes
def test_everything_is_explained(node):
    info = node.GET_NODE_INFO_V1()
    assert info["category"].startswith("Likeness/")
    assert len(info["description"]) > 30
    for name, (_, options) in inputs_of(node).items():
        assert len(options.get("tooltip", "")) > 10, f"{name} has no tooltip"
    assert all(info["output_tooltips"]), "an output has no tooltip"


@nodes
def test_a_node_declares_translates_and_delegates(node):
    for function in (node.execute, getattr(node, "fingerprint_inputs", None)):
        if function is None:
            continue
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        statements = [step for step in ast.walk(tree) if isinstance(step, ast.stmt)]
        imports = [step for step in statements if isinstance(step, ast.ImportFrom)]
        assert len(statements) - len(imports) <= 16, f"{node.__name__} does too much itself"


@nodes
def test_every_node_has_a_help_page(node):
    info = node.GET_NODE_INFO_V1()
    page = ROOT / "web" / "docs" / f"{info['name']}.md"
    text = page.read_text(encoding="utf-8")
    for name in inputs_of(node):
        assert f"`{name}`" in text, f"{page.name} does not explain {name}"


@pytest.mark.parametrize(
    ("node_id", "settings"),
    [
        ("LikenessTrainLora", TrainingSettings),
        ("LikenessTrainLora", LoraSettings),
        ("LikenessClassImages", PriorSettings),
    ],
)
def test_every_setting_is_a_widget_with_its_default_bounds_and_help(node_id, settings):
    node = next(node for node in NODES if node.GET_SCHEMA().node_id == node_id)
    widgets = inputs_of(node)
    for setting in describe(settings):
        if (settings, setting.name) == (PriorSettings, "folder"):
            continue  # a drop-down of folders in the node
        options = widgets[setting.name][1]
        assert options["default"] == setting.default
        assert options["tooltip"] == setting.help
        if setting.low is not None:
            assert (options["min"], options["max"]) == (setting.low, setting.high)
        if setting.choices:
            assert tuple(options["options"]) == setting.choices
