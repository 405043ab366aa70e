"""Block weights: what can be written, which pattern counts, and what a model does not have."""

from __future__ import annotations

import pytest
import torch
from likeness.pipelines.lora import applied
from likeness.pipelines.lora.blocks import block_factors, parse_blocks
from likeness.pipelines.spec import LoraUse

from .fuse_cases import state


class Transformer:
    """What `pipelines.lora.blocks` asks of a family, for a model with many blocks."""

    title = "big transformer"

    def block_of(self, module):
        kind, _, number = module.partition("_blocks.")
        return f"{kind}.{number}" if number else kind if kind == "mid" else ""


@pytest.fixture
def root():
    model = torch.nn.Module()
    for kind, count in (("double", 19), ("single", 38)):
        blocks = torch.nn.ModuleList(torch.nn.Identity() for _ in range(count))
        model.add_module(f"{kind}_blocks", blocks)
    model.add_module("mid", torch.nn.Identity())
    model.add_module("proj_out", torch.nn.Identity())
    return model


def test_every_way_to_write_it():
    text = " down.0=0.5, mid = 1;up=0\n double.0-9=.3, *=-1,  "
    assert parse_blocks(text) == (
        ("down.0", 0.5),
        ("mid", 1.0),
        ("up", 0.0),
        ("double.0-9", 0.3),
        ("*", -1.0),
    )
    assert parse_blocks("") == parse_blocks(" \n ") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("down", r"'down' cannot be read.*block=factor"),
        ("down.0=0.5 mid=1", r"cannot be read"),
        ("down.a=1", r"'down\.a=1' cannot be read"),
        ("double.9-3=1", r"'double\.9-3=1' cannot be read"),
        ("=1", "cannot be read"),
        ("mid=strong", r"'mid=strong' has no number after =; write mid=0\.5"),
        ("mid=nan", "has no number"),
        ("mid=1, mid=0.5", "'mid' stands there twice"),
    ],
)
def test_what_cannot_be_read_is_quoted(text, message):
    with pytest.raises(ValueError, match=message):
        parse_blocks(text)


@pytest.mark.parametrize(
    "text",
    [
        "*=0.1, double=0.2, double.3-12=0.3, double.5-6=0.4, double.5=0.5",
        "double.5=0.5, double.5-6=0.4, double.3-12=0.3, double=0.2, *=0.1",
    ],
)
def test_the_pattern_that_names_the_fewest_blocks_counts(text, root):
    factor = block_factors(parse_blocks(text), Transformer(), root)
    assert [factor(f"double_blocks.{i}") for i in (5, 6, 12, 13)] == [0.5, 0.4, 0.3, 0.2]
    assert [factor(path) for path in ("single_blocks.5", "mid", "proj_out")] == [0.1] * 3


def test_of_two_ranges_as_wide_as_each_other_the_later_counts(root):
    factor = block_factors(parse_blocks("double.2-3=0.1, double.3-4=0.2"), Transformer(), root)
    assert [factor(f"double_blocks.{i}") for i in range(1, 6)] == [1.0, 0.1, 0.2, 0.2, 1.0]


def test_what_nothing_names_keeps_the_scale(root):
    assert block_factors((), Transformer(), root)("double_blocks.1") == 1.0
    factor = block_factors(parse_blocks("single=0"), Transformer(), root)
    paths = ("single_blocks.1", "double_blocks.1", "proj_out")
    assert [factor(path) for path in paths] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("pattern", ["down", "double.19", "double.30-40", "mid.0", "doub"])
def test_blocks_that_the_model_lacks_are_refused_with_those_it_has(pattern, root):
    wanted = (
        r"matches no block of this big transformer model; it has: double\.0-18, mid, single\.0-"
    )
    with pytest.raises(ValueError, match=wanted):
        block_factors(((pattern, 0.5),), Transformer(), root)


@pytest.mark.parametrize("mode", ["fuse", "attach"])
def test_factors_arrive_in_the_layers_of_their_blocks(pipelines, tiny_base, make_lora, mode):
    lora = make_lora(1)
    blocks = parse_blocks("*=0, mid=1, up.0=-0.5")
    with pipelines.open(tiny_base) as live:
        plain = state(live)
        with applied(live, [LoraUse(lora)]):
            whole = state(live)
        with applied(live, [LoraUse(lora, blocks=blocks, mode=mode)]):
            some = state(live)
            unet = live.component("unet")
            touched = {path for path, part in unet.named_modules() if "forward" in vars(part)}
    if mode == "attach":
        assert touched and all(path.startswith(("mid_block.", "up_blocks.0.")) for path in touched)
        return
    order = [type(module).__name__ for module in live.modules]
    unet = f"{order.index('UNet2DConditionModel')}."
    changed = [key for key, value in whole.items() if not torch.equal(value, plain[key])]
    for key in changed:
        full, part = whole[key] - plain[key], some[key] - plain[key]
        if not key.startswith(unet) or ".mid_block." in f".{key.removeprefix(unet)}":
            factor = 1.0  # the text encoder follows its own scale alone
        else:
            factor = -0.5 if "up_blocks.0." in key else 0.0
        torch.testing.assert_close(part, factor * full, rtol=1e-4, atol=1e-5)
    assert any("up_blocks.0." in key for key in changed)


def test_a_block_that_is_not_there_changes_nothing(pipelines, tiny_base, make_lora):
    use = LoraUse(make_lora(1), blocks=(("double", 0.5),))
    with pipelines.open(tiny_base) as live:
        before = state(live)
        with pytest.raises(ValueError, match=r"'double' matches no block.*down\.0-\d, mid, up\.0-"):
            applied(live, [use]).__enter__()
        after = state(live)
    assert all(torch.equal(after[key], value) for key, value in before.items())
