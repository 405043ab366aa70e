"""Settings reach the optimiser as they are, and the learning rate goes the way it should."""

from __future__ import annotations

import pytest
import torch
from likeness.trainers.method import ParameterGroup
from likeness.trainers.optimizers import OPTIMIZERS, make_optimizer, make_schedule
from likeness.trainers.precision import resolve_precision
from likeness.trainers.settings import TrainingSettings, describe


def groups() -> list[ParameterGroup]:
    sides = ("denoiser", "text", "nothing")
    counts = (2, 1, 0)
    return [
        ParameterGroup(side, tuple(torch.nn.Parameter(torch.ones(3)) for _ in range(count)))
        for side, count in zip(sides, counts, strict=True)
    ]


def test_every_optimizer_in_the_list_can_be_chosen():
    (setting,) = (each for each in describe(TrainingSettings) if each.name == "optimizer")
    assert setting.choices == tuple(OPTIMIZERS)


def test_each_side_has_its_own_learning_rate_and_all_the_weight_decay():
    settings = TrainingSettings(learning_rate=3e-4, text_learning_rate=5e-5, weight_decay=0.07)
    made = make_optimizer(groups(), settings)
    assert isinstance(made, torch.optim.AdamW)
    assert [group["lr"] for group in made.param_groups] == [3e-4, 5e-5]
    assert [len(group["params"]) for group in made.param_groups] == [2, 1]
    for group in made.param_groups:
        assert (group["weight_decay"], group["betas"], group["eps"]) == (0.07, (0.9, 0.999), 1e-8)


def test_the_text_side_follows_unless_told_otherwise():
    made = make_optimizer(groups(), TrainingSettings(learning_rate=3e-4))
    assert [group["lr"] for group in made.param_groups] == [3e-4, 3e-4]


def way(**settings) -> list[float]:
    """The learning rate of each step."""
    settings = TrainingSettings(steps=10, learning_rate=1.0, **settings)
    optimizer = make_optimizer(groups(), settings)
    schedule = make_schedule(optimizer, settings)
    rates = []
    for _ in range(settings.steps):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return [round(rate, 3) for rate in rates]


def test_the_way_of_the_learning_rate():
    assert way() == [1.0] * 10
    assert way(warmup_steps=2) == [0.0, 0.5] + [1.0] * 8
    assert way(schedule="linear") == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    cosine = way(schedule="cosine")
    assert cosine[0] == 1.0 and cosine[5] == 0.5 and cosine == sorted(cosine, reverse=True)
    assert way(schedule="linear", warmup_steps=5)[4:7] == [0.8, 1.0, 0.8]


def test_precision_is_what_the_device_can_do():
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert resolve_precision("auto", "cpu") == (torch.bfloat16 if fast else torch.float32)
    assert resolve_precision("bfloat16", "cpu") == torch.bfloat16
    assert resolve_precision("float16", "cuda:1") == torch.float16
    with pytest.raises(ValueError, match=r"'float16'.*'cpu'.*float32"):
        resolve_precision("float16", "cpu")
