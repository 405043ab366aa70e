"""Every node keeps the contract: an id for ever, a tooltip everywhere, a thin body, a help page."""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest
from likeness.nodes import NODES
from likeness.nodes.training import BASIC
from likeness.trainers.methods import METHODS
from likeness.trainers.settings import (
    EXPERT_GROUPS,
    PriorSettings,
    TrainingSettings,
    WatchSettings,
    describe,
)

from .conftest import ROOT

IDS = {
    "LikenessLoadPipeline",
    "LikenessFromCheckpoint",
    "LikenessLoadParts",
    "LikenessLoadFromHub",
    "LikenessLoadLora",
    "LikenessLoadControlNet",
    "LikenessFuseLora",
    "LikenessUnfuseLora",
    "LikenessApplyControlNet",
    "LikenessLoadIPAdapter",
    "LikenessApplyIPAdapter",
    "LikenessSaveImageEmbeddings",
    "LikenessLoadImageEmbeddings",
    "LikenessPreprocess",
    "LikenessSketch",
    "LikenessGenerate",
    "LikenessImageSet",
    "LikenessImageFolder",
    "LikenessEncodedSet",
    "LikenessClassImages",
    "LikenessTrainingSettings",
    "LikenessTrainLora",
    "LikenessTrainDreamBooth",
    "LikenessSaveLora",
    "LikenessSavePipeline",
    "LikenessPlotLoss",
}
"""Shared workflows rely on these: an id may be added here, never changed or removed."""

nodes = pytest.mark.parametrize("node", NODES, ids=lambda node: node.GET_SCHEMA().node_id)


TRAINING_NODES = [n for n in NODES if n.GET_SCHEMA().node_id.startswith("LikenessTrain")]
TRAINING_NODES = [n for n in TRAINING_NODES if n.GET_SCHEMA().is_output_node]


def inputs_of(node):
    """Name and description of every input, those included that a choice shows."""
    return list(_inputs(node.GET_NODE_INFO_V1()["input"]))


def _inputs(described):
    for group in ("required", "optional"):
        for name, (kind, options) in described.get(group, {}).items():
            yield name, options
            if kind == "COMFY_DYNAMICCOMBO_V3":
                for option in options["options"]:
                    yield from _inputs(option["inputs"])


def node_of(node_id):
    return next(node for node in NODES if node.GET_SCHEMA().node_id == node_id)


def test_ids_never_change():
    assert {node.GET_SCHEMA().node_id for node in NODES} == IDS


@nodes
def test_everything_is_explained(node):
    info = node.GET_NODE_INFO_V1()
    assert info["category"].startswith("Likeness/")
    assert len(info["description"]) > 30
    for name, options in inputs_of(node):
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
    for name, _ in inputs_of(node):
        assert f"`{name}`" in text, f"{page.name} does not explain {name}"


def missing_widgets(node, settings, names=None):
    """Those of `settings` that have no widget of `node` with their default, bounds and help."""
    widgets = inputs_of(node)
    return [
        setting.name
        for setting in describe(settings)
        if (names is None or setting.name in names)
        and not any(_says(options, setting) for name, options in widgets if name == setting.name)
    ]


def _says(options, setting):
    return (
        options.get("default") == setting.default
        and options["tooltip"] == setting.help
        and (setting.low is None or (options["min"], options["max"]) == (setting.low, setting.high))
        and (not setting.choices or tuple(options["options"]) == setting.choices)
        and bool(options.get("advanced")) == setting.advanced
    )


@pytest.mark.parametrize("node", TRAINING_NODES, ids=lambda node: node.GET_SCHEMA().node_id)
def test_every_training_node_has_the_basic_settings_and_those_of_watching(node):
    assert missing_widgets(node, TrainingSettings, BASIC) == []
    assert missing_widgets(node, WatchSettings) == []


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_every_setting_of_a_method_is_a_widget_of_one_training_node(method):
    missing = [missing_widgets(node, method.settings_type) for node in TRAINING_NODES]
    assert [] in missing, min(missing, key=len)


def test_the_settings_node_has_all_others_in_the_order_of_their_groups():
    node = node_of("LikenessTrainingSettings")
    names = [setting.name for group in EXPERT_GROUPS for setting in describe(group)]
    assert [name for name, _ in inputs_of(node)] == names
    assert set(names) | set(BASIC) == {setting.name for setting in describe(TrainingSettings)}
    for group in EXPERT_GROUPS:
        assert missing_widgets(node, group) == []


def test_class_images_offers_the_prior_settings():
    names = {setting.name for setting in describe(PriorSettings)} - {"folder", "source"}
    assert missing_widgets(node_of("LikenessClassImages"), PriorSettings, names) == []


def test_a_learning_rate_is_not_rounded_away():
    """ComfyUI rounds what is typed to the widget's step: 2e-6 must not become 0, which is auto."""
    for node in TRAINING_NODES:
        steps = [o["step"] for name, o in inputs_of(node) if name.endswith("learning_rate")]
        assert steps and max(steps) <= 1e-7
