"""Settings: bounds, JSON, and that what nodes make widgets of is complete."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, replace

import pytest
from likeness.trainers.settings import (
    LoraSettings,
    PriorSettings,
    TrainingSettings,
    describe,
    from_dict,
    to_dict,
)

EXAMPLES = (TrainingSettings(), LoraSettings(), PriorSettings(class_prompt="a photo of a dog"))


@pytest.mark.parametrize("settings", EXAMPLES, ids=lambda each: type(each).__name__)
def test_settings_survive_json(settings):
    again = from_dict(type(settings), json.loads(json.dumps(to_dict(settings))))
    assert again == settings


@pytest.mark.parametrize("settings", EXAMPLES, ids=lambda each: type(each).__name__)
def test_every_field_can_become_a_widget(settings):
    described = {each.name: each for each in describe(settings)}
    assert list(described) == [each.name for each in fields(settings)]
    for each in described.values():
        assert each.help.endswith((".", "'")), each
        assert each.kind in (int, float, bool, str)
        assert type(each.default) is each.kind
        if each.kind in (int, float):
            assert each.low is not None and each.high is not None, each
            assert each.low <= each.default <= each.high
        if each.choices:
            assert each.default in each.choices


@pytest.mark.parametrize("settings", EXAMPLES, ids=lambda each: type(each).__name__)
def test_every_bound_is_kept_and_named(settings):
    for each in describe(settings):
        bad = []
        if each.kind in (int, float):
            bad = [each.kind(each.low - 1), each.kind(each.high + 1), "many"]
        if each.kind is float:
            bad += [math.nan, math.inf]
        if each.kind is bool:
            bad = ["yes", 1]
        if each.choices:
            bad = ["no such choice"]
        for value in bad:
            with pytest.raises(ValueError, match=each.name) as error:
                replace(settings, **{each.name: value})
            assert str(value) in str(error.value)


def test_an_unknown_setting_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'learning_rat'.*known: .*learning_rate"):
        from_dict(TrainingSettings, {"learning_rat": 1e-4})


def test_one_and_one_point_zero_are_the_same_setting():
    assert repr(LoraSettings(alpha=8)) == repr(LoraSettings(alpha=8.0))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"steps": 10, "warmup_steps": 10}, "warmup_steps"),
        ({"resolution": 500}, "496"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, named):
    with pytest.raises(ValueError, match=named):
        TrainingSettings(**settings)


def test_class_pictures_need_a_class():
    with pytest.raises(ValueError, match="class_prompt is empty"):
        PriorSettings()


def test_alpha_is_the_rank_unless_given():
    assert LoraSettings(rank=8).strength == 8
    assert LoraSettings(rank=8, alpha=4.0).strength == 4
    assert asdict(LoraSettings(rank=8))["alpha"] == 0
