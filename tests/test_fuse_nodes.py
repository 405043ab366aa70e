"""Fuse LoRA and Unfuse LoRA: what their inputs become, also in workflows from before."""

from __future__ import annotations

import pytest
from likeness.nodes import NODES
from likeness.pipelines.spec import LORA_MODES, Lora, LoraUse, PipelineSpec

FUSE, UNFUSE = (
    next(node for node in NODES if node.GET_SCHEMA().node_id == f"Likeness{name}Lora")
    for name in ("Fuse", "Unfuse")
)
ONE, TWO = (Lora(f"/loras/{name}.safetensors", name * 64, name) for name in "ab")


@pytest.fixture
def pipeline(tiny_base):
    return PipelineSpec(tiny_base)


def only(output) -> PipelineSpec:
    (spec,) = output.args
    return spec


def test_a_call_from_before_there_were_modes_means_what_it_meant(pipeline):
    assert only(FUSE.execute(pipeline, ONE, 0.8)).loras == (LoraUse(ONE, 0.8, 0.8),)
    assert only(FUSE.execute(pipeline, ONE, 0.5, 0.5)).loras == (LoraUse(ONE, 0.5, 0.25),)
    info = FUSE.GET_NODE_INFO_V1()
    assert set(info["input"]["required"]) == {"pipeline", "lora", "scale", "text_scale"}
    assert list(info["input"]["optional"]) == ["mode", "blocks"]


def test_mode_and_blocks_arrive(pipeline):
    spec = only(FUSE.execute(pipeline, ONE, 1.0, 1.0, "attach", "mid=0.5, up.0-2=0"))
    assert spec.loras == (LoraUse(ONE, 1.0, 1.0, "attach", (("mid", 0.5), ("up.0-2", 0.0))),)
    assert PipelineSpec.from_dict(spec.to_dict()) == spec
    assert pipeline.loras == ()


def test_the_modes_are_those_that_a_description_knows():
    options = FUSE.GET_NODE_INFO_V1()["input"]["optional"]["mode"][1]["options"]
    assert tuple(options) == LORA_MODES


def test_block_weights_that_cannot_be_read_are_refused_by_the_node(pipeline):
    with pytest.raises(ValueError, match="'mid' cannot be read"):
        FUSE.execute(pipeline, ONE, 1.0, blocks="mid")


def test_scale_goes_beyond_its_usual_range():
    options = FUSE.GET_NODE_INFO_V1()["input"]["required"]["scale"][1]
    assert (options["min"], options["max"], options["default"]) == (-10.0, 10.0, 1.0)


@pytest.mark.parametrize(("name", "left"), [("", ()), ("a", (TWO,)), (" b ", (ONE,))])
def test_unfusing_takes_off_one_by_name_or_all(pipeline, name, left):
    both = only(FUSE.execute(only(FUSE.execute(pipeline, ONE, 1.0)), TWO, 1.0, mode="attach"))
    assert tuple(use.lora for use in only(UNFUSE.execute(both, name)).loras) == left


def test_unfusing_what_is_not_there_names_what_is(pipeline):
    with pytest.raises(ValueError, match="'c' is fused here; fused: 'a'"):
        UNFUSE.execute(only(FUSE.execute(pipeline, ONE, 1.0)), "c")
