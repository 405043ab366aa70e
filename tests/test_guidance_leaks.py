"""Whatever steers a drawing leaves nothing behind, and the order of nodes does not matter.

Random graphs of one to six nodes (ControlNets, IP-Adapters, LoRAs, in any order and with any of
their settings) are drawn, some of them stopped in the middle; the plain picture drawn after each of
them is the one that a fresh process draws.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from likeness.pipelines.control.describe import describe_control
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.guidance import ControlUse, Picture, ReferenceUse
from likeness.pipelines.ip_adapter.describe import describe_adapter
from likeness.pipelines.lora.blocks import parse_blocks
from likeness.pipelines.spec import LoraUse, PipelineSpec
from PIL import Image

from .conftest import ROOT, TINY

ASSETS = ROOT / "assets" / "tiny"
PLAIN = Sampling("a red star on the beach", steps=2, seed=5, width=32, height=32)
FRESH = f"""
import hashlib
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling, generate
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.spec import PipelineSpec
import torch
torch.set_num_threads(1)
spec = PipelineSpec(base_model({str(TINY)!r}))
picture = generate(Pipelines("cpu"), spec, {PLAIN!r})[0]
print(hashlib.sha256(picture.tobytes()).hexdigest())
"""
windows = st.sampled_from([(0.0, 1.0), (0.0, 0.5), (0.5, 1.0)])
which = st.integers(0, 2)
control = st.tuples(
    st.just("control"),
    which,
    st.sampled_from([0.0, 0.4, 1.0, 2.0]),
    windows,
    st.sampled_from(["crop", "resize", "pad"]),
    st.booleans(),  # a mask
    st.booleans(),  # factors for its outputs
)
reference = st.tuples(
    st.just("reference"),
    which,
    st.sampled_from([-0.5, 0.0, 0.5, 1.0]),
    windows,
    st.sampled_from(["concatenate", "average"]),
    st.booleans(),  # a mask
    st.booleans(),  # two pictures
    st.booleans(),  # a negative picture
    st.sampled_from(["", "up=1, *=0", "mid=0.5"]),
)
lora = st.tuples(
    st.just("lora"), which, st.sampled_from([0.5, -1.0]), st.sampled_from(["fuse", "attach"])
)
graphs = st.lists(st.one_of(control, reference, lora), min_size=1, max_size=6)
ends = st.sampled_from(["drawn", "drawn", "drawn", "stopped", "freed"])


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The number of threads changes last bits, and a fresh process chooses its own."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def fresh():
    """SHA-256 of the plain picture in a process that has drawn nothing else."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout.split()[-1]


@pytest.fixture(scope="module")
def parts(make_lora):
    """What graphs are made of: pictures, a ControlNet, an IP-Adapter, LoRAs."""
    draw = random.Random(1)
    pictures = []
    for width, height in ((32, 32), (48, 32), (40, 64)):
        image = Image.new("RGB", (width, height), "black")
        for _ in range(4):
            box = sorted((draw.randrange(width), draw.randrange(width)))
            colour = tuple(draw.randrange(256) for _ in range(3))
            image.paste(colour, (box[0], draw.randrange(height), box[1] + 1, height))
        pictures.append(Picture.of(image))
    adapter = describe_adapter(
        ASSETS / "ip_adapter" / "ip_adapter.safetensors", ASSETS / "image_encoder"
    )
    return {
        "pictures": pictures,
        "control": describe_control(ASSETS / "controlnet"),
        "adapter": adapter,
        "loras": [make_lora(seed) for seed in range(3)],
    }


def half(picture):
    mask = Image.new("L", picture.size)
    mask.paste(255, (0, 0, picture.size[0] // 2, picture.size[1]))
    return Picture.of(mask)


def put_on(spec, parts, node):
    """The description after one node."""
    kind, index, strength, *rest = node
    picture = parts["pictures"][index]
    if kind == "lora":
        return spec.with_lora(LoraUse(parts["loras"][index], strength, strength, rest[0]))
    if kind == "control":
        (start, end), fit, masked, uneven = rest
        mask = half(picture) if masked else None
        blocks = (0.5, 1.0) * 8 if uneven else ()
        blocks = blocks[: outputs_of(parts)]
        use = ControlUse(
            parts["control"], (picture,), strength, start, end, fit, mask=mask, blocks=blocks
        )
        return spec.with_control(use)
    (start, end), combine, masked, two, negative, blocks = rest
    images = (picture, parts["pictures"][0]) if two else (picture,)
    use = ReferenceUse(
        parts["adapter"],
        images,
        strength,
        start,
        end,
        parse_blocks(blocks),
        combine,
        (parts["pictures"][1],) if negative else (),
        mask=half(picture) if masked else None,
    )
    return spec.with_reference(use)


def outputs_of(parts):
    from diffusers import ControlNetModel

    module = ControlNetModel.from_config(ControlNetModel.load_config(parts["control"].path))
    return len(module.controlnet_down_blocks) + 1


def described_by(nodes, parts, tiny_base):
    spec = PipelineSpec(tiny_base)
    for node in nodes:
        spec = put_on(spec, parts, node)
    return spec


def digest(image):
    import hashlib

    return hashlib.sha256(image.tobytes()).hexdigest()


class Stop(Exception):
    pass


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(nodes=graphs, end=ends, guidance=st.sampled_from([1.0, 3.0]))
def test_after_any_graph_a_plain_picture_is_that_of_a_fresh_process(
    pipelines, tiny_base, parts, fresh, nodes, end, guidance
):
    spec = described_by(nodes, parts, tiny_base)
    sampling = Sampling("a blue cup", steps=2, guidance=guidance, width=32, height=32)

    def on_step(done, _):
        if end == "stopped" and done == 1:
            raise Stop

    if end == "stopped":
        with pytest.raises(Stop):
            generate(pipelines, spec, sampling, on_step)
    else:
        generate(pipelines, spec, sampling, on_step)
    if end == "freed":
        pipelines.free()
    assert digest(generate(pipelines, PipelineSpec(tiny_base), PLAIN)[0]) == fresh


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(nodes=graphs.filter(lambda nodes: len(nodes) > 1), shuffle=st.randoms())
def test_the_order_of_nodes_does_not_matter(pipelines, tiny_base, parts, nodes, shuffle):
    # Attached LoRAs are computed one after the other, so that their order changes last bits.
    nodes = [(*node[:3], "fuse") if node[0] == "lora" else node for node in nodes]
    others = shuffle.sample(nodes, len(nodes))
    sampling = Sampling("a blue cup", steps=2, guidance=3.0, width=32, height=32)
    first, second = (
        generate(pipelines, described_by(order, parts, tiny_base), sampling)[0].tobytes()
        for order in (nodes, others)
    )
    assert first == second
