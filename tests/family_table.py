"""What the tests of the family contract share: tiny models by name, files that lie in memory."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest

from .tiny_models import (
    ORIGINAL,
    TINY,
    VARIANTS,
    family_of,
)
from .tiny_unets import PREFIXES


def known_families() -> set[str]:
    from likeness.families import FAMILIES

    return {family.name for family in FAMILIES}


ALL = sorted(name for name in (*TINY, *VARIANTS) if family_of(name) in known_families())
WITH_ORIGINAL = [name for name in ALL if name in ORIGINAL or name in PREFIXES]


@pytest.fixture(name="model")
def model_fixture(request, tiny_models):
    """(family, folder, pipeline) of the tiny model that a test is parametrised with."""
    from likeness.families import family_named

    family = family_named(family_of(request.param))
    folder = tiny_models(request.param)
    return family, folder, open_tiny(str(folder), family.name)


@cache
def open_tiny(folder: str, family: str, kind: str = ""):
    import diffusers
    import torch
    from likeness.families import family_named

    family = family_named(family)
    cls = getattr(diffusers, kind or family.pipeline_class)
    index = json.loads((Path(folder) / "model_index.json").read_text())
    absent = {part: None for part, entry in index.items() if entry == [None, None]}
    options = {**absent, **family.load_options}
    pipeline = cls.from_pretrained(folder, dtype=torch.float32, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def over(names):
    return pytest.mark.parametrize("model", names, indirect=True)


class File:
    """A file of tensors that lies in memory."""

    def __init__(self, tensors):
        self.tensors = tensors

    def shapes(self):
        return {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}

    def tensor(self, name):
        return self.tensors[name]


def layers_of(module):
    import torch

    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return {path: layer for path, layer in module.named_modules() if isinstance(layer, kinds)}


def components_of(family, pipeline):
    parts = (family.denoiser, *family.text_encoders)
    return [part for part in parts if getattr(pipeline, part.attribute, None) is not None]
