"""Tiny live models of every family for the LoRA tests, and random adapters made by independent
mathematics.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from likeness.families import FAMILIES, family_named
from likeness.pipelines.loading import LivePipeline
from likeness.pipelines.lora.files import LoraPair
from likeness.pipelines.lora.keys import components_of
from likeness.pipelines.spec import BaseModel

from .tiny_models import TINY, family_of

ALL = tuple(TINY)
"""One tiny model for each family."""


@pytest.fixture(scope="session")
def live_models(tiny_models) -> Callable[[str], LivePipeline]:
    """A function from a tiny model's name to it, alive in float32, loaded by diffusers alone."""
    alive: dict[str, LivePipeline] = {}

    def live(name: str) -> LivePipeline:
        if name not in alive:
            folder = tiny_models(name)
            pipeline = load(folder)
            family = family_named(family_of(name))
            base = BaseModel(str(folder), family.name)
            alive[name] = LivePipeline(base, family, pipeline, "cpu", 0)
        return alive[name]

    return live


def load(folder):
    """A pipeline by diffusers alone; SD 3 asks to be told that its T5 is missing on purpose."""
    from diffusers import DiffusionPipeline

    index = json.loads((Path(folder) / "model_index.json").read_text("utf-8"))
    options = {}
    if "StableDiffusion3" in index["_class_name"] and not index.get("text_encoder_3", [None])[0]:
        options = {"text_encoder_3": None, "tokenizer_3": None}
    return DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **options)


def layers(live: LivePipeline) -> Iterator[tuple[object, str, torch.nn.Module]]:
    """Component, module path, module: all that a LoRA may change."""
    for component in components_of(live.family):
        root = getattr(live.pipeline, component.attribute, None)
        if root is None:
            continue
        for path, module in root.named_modules():
            if any(re.fullmatch(pattern, path) for _, pattern in component.targets):
                yield component, path, module


def random_lora(live, seed=0, rank=4, alpha=2.0, dtype=torch.float32, parts=None):
    """A LoRA on every target of `live`: component → module path → pair."""
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, dict[str, LoraPair]] = {}
    for component, path, module in layers(live):
        if parts is not None and component.attribute not in parts:
            continue
        shape = module.weight.shape
        down = torch.randn(rank, *shape[1:], generator=generator)
        up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=generator) * 0.1
        pair = LoraPair(down.to(dtype), up.to(dtype), alpha)
        weights.setdefault(component.attribute, {})[path] = pair
    return weights


def deltas(weights, live):
    """`component.module` → ΔW on the real weight."""
    return {
        f"{attribute}.{path}": change.delta(live.component(attribute).get_submodule(path).weight)
        for attribute, changes in weights.items()
        for path, change in changes.items()
    }


def diffusers_deltas(live, path, parts=None):
    """What diffusers makes of a file: load, fuse, and the difference to `live`'s weights, of all
    layers that a LoRA may change."""
    pipeline = load(live.base.path)
    pipeline.load_lora_weights(str(path))
    able = [c.attribute for c in components_of(live.family)]
    able = [name for name in able if name in pipeline._lora_loadable_modules]
    pipeline.fuse_lora(components=able)
    pipeline.unload_lora_weights()
    found = {}
    for component, module, layer in layers(live):
        if component.attribute in able and (parts is None or component.attribute in parts):
            fused = getattr(pipeline, component.attribute).get_submodule(module).weight
            found[f"{component.attribute}.{module}"] = (fused - layer.weight).detach()
    return found


def weights_of(live) -> dict[str, torch.Tensor]:
    """A copy of every weight, to see that nothing changed."""
    return {
        f"{component.attribute}.{name}": tensor.clone()
        for component in components_of(live.family)
        if (root := getattr(live.pipeline, component.attribute, None)) is not None
        for name, tensor in root.state_dict().items()
    }


def off(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest difference as a share of the largest number."""
    size = theirs.abs().max().item()
    return (ours - theirs).abs().max().item() / size if size else ours.abs().max().item()


def assert_same(ours, theirs, tolerance=1e-6):
    assert ours.keys() == theirs.keys()
    assert ours, "nothing to compare"
    worst = max((off(ours[name], theirs[name]), name) for name in theirs)
    assert worst[0] <= tolerance, worst


__all__ = ["ALL", "FAMILIES", "live_models"]
