"""The table of the contract: every family × every format that LoRAs come in. Each is read from a
file, fused and attached, taken off again, and saved and read once more.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from likeness.families import FAMILIES
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.lora.files import describe_lora, read_lora, save_copy
from likeness.pipelines.spec import LoraUse, PipelineSpec
from safetensors.torch import save_file

from .lora_models import deltas, layers

SAMPLING = Sampling("a photo of a red star", steps=2, guidance=3.0, seed=5)
NOTICEABLE = 2
"""Levels of 255 that fused and attached may differ by: one rounds the sum, one the parts."""


def low_rank(weight, g):
    rank, shape = 4, weight.shape
    return {
        "lora_down.weight": torch.randn(rank, *shape[1:], generator=g) * 0.1,
        "lora_up.weight": torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=g) * 0.1,
        "alpha": torch.tensor(2.0),
    }


def hadamard(weight, g):
    out, inner = weight.shape[0], weight[0].numel()
    sizes = {"hada_w1_a": (out, 3), "hada_w1_b": (3, inner)}
    sizes |= {"hada_w2_a": (out, 3), "hada_w2_b": (3, inner)}
    parts = {name: torch.randn(size, generator=g) * 0.3 for name, size in sizes.items()}
    return parts | {"alpha": torch.tensor(1.5)}


def kronecker(weight, g):
    out, inner, *kernel = weight.shape
    rows, columns = math.gcd(out, 4), math.gcd(inner, 4)
    return {
        "lokr_w1": torch.randn(rows, columns, generator=g) * 0.1,
        "lokr_w2": torch.randn(out // rows, inner // columns, *kernel, generator=g) * 0.1,
    }


def decomposed(dim):
    def parts(weight, g):
        others = [d for d in range(weight.ndim) if d != dim]
        norm = weight.float().square().sum(others, keepdim=True).sqrt()
        noise = torch.rand(norm.shape, generator=g) * 0.1
        return low_rank(weight, g) | {"dora_scale": norm * (1 + noise)}

    return parts


def difference(weight, g):
    return {"diff": torch.randn(weight.shape, generator=g) * 0.02}


FORMATS = {
    "lora": low_rank,
    "loha": hadamard,
    "lokr": kronecker,
    "dora by input": decomposed(1),
    "dora by output": decomposed(0),
    "diff": difference,
}


@pytest.fixture
def lora_file(request, tiny_models, pipelines, tmp_path):
    """(base model, path) of a file in the named format that changes every target layer."""
    family, kind = request.param
    base = base_model(tiny_models(family))
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    with pipelines.open(base) as live:
        for component, path, module in layers(live):
            name = component.kohya_prefixes[0] + path.replace(".", "_")
            parts = FORMATS[kind](module.weight.detach(), generator)
            tensors |= {f"{name}.{part}": tensor.contiguous() for part, tensor in parts.items()}
    path = tmp_path / f"{family}-{kind.replace(' ', '-')}.safetensors"
    save_file(tensors, path)
    return base, path


def draw(pipelines, spec):
    return np.asarray(generate(pipelines, spec, SAMPLING)[0], int)


def weights(live):
    return {
        (component.attribute, name): (parameter.data_ptr(), parameter.detach().clone())
        for component in (live.family.denoiser, *live.family.text_encoders)
        if live.component(component.attribute) is not None
        for name, parameter in live.component(component.attribute).named_parameters()
    }


TABLE = [(family.name, kind) for family in FAMILIES for kind in FORMATS]


@pytest.mark.parametrize("lora_file", TABLE, indirect=True, ids=lambda row: f"{row[0]}-{row[1]}")
def test_on_off_saved_and_on_again(lora_file, pipelines, tmp_path):
    base, path = lora_file
    plain = PipelineSpec(base)
    lora = describe_lora(path)
    before = draw(pipelines, plain)
    with pipelines.open(base) as live:
        pristine = weights(live)
        learned = read_lora(path, live)
        assert sum(map(len, learned.values())) == len(list(layers(live)))
        wanted = deltas(learned, live)

    use = LoraUse(lora)
    fused = draw(pipelines, plain.with_lora(use))
    attached = draw(pipelines, plain.with_lora(replace(use, mode="attach")))
    assert np.abs(fused - before).max() > 3 * NOTICEABLE, "it changes the picture"
    assert np.abs(fused - attached).max() <= NOTICEABLE
    assert (draw(pipelines, plain) == before).all(), "and leaves no trace"
    with pipelines.open(base) as live:
        for key, (pointer, value) in weights(live).items():
            assert pristine[key][0] == pointer
            assert torch.equal(pristine[key][1], value), key
        saved = save_copy(lora, tmp_path / "saved" / "copy.safetensors", "kohya", live=live)
        again = deltas(read_lora(saved, live), live)
    assert again.keys() == wanted.keys()
    assert all(torch.equal(again[name], wanted[name]) for name in wanted)
