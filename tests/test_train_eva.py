"""A LoRA that starts from what goes through its layers (`start="eva"`)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from likeness.pipelines.spec import PipelineSpec
from likeness.trainers.data.samples import samples_from_folder
from likeness.trainers.errors import NothingLearned
from likeness.trainers.job import TrainingJob
from likeness.trainers.methods import directions as file
from likeness.trainers.methods.directions import directions, rows_of, start_from
from likeness.trainers.methods.lora import LoraMethod, LoraSettings
from likeness.trainers.report import QuietReport, read_log
from likeness.trainers.run import train
from likeness.trainers.run_folder import create_or_find
from likeness.trainers.settings import TrainingSettings, WatchSettings

from .conftest import SUBJECT
from .methods_table import ground, made, snapshot


class Small(torch.nn.Module):
    """Layers as an attention block has them, one convolution, one that nothing goes through."""

    def __init__(self):
        super().__init__()
        self.query, self.key = torch.nn.Linear(24, 24), torch.nn.Linear(24, 24)
        self.out = torch.nn.Linear(24, 8)
        self.conv = torch.nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.unused = torch.nn.Linear(24, 24)

    def forward(self, x, image):
        self.conv(image)
        return self.out(self.query(x) * self.key(x).tanh())


@pytest.fixture
def small():
    torch.manual_seed(3)
    return Small().requires_grad_(False)


def data(number, rows=40):
    """Inputs that vary in some directions much more than in others, around a mean far from zero."""
    draw = torch.Generator().manual_seed(number)
    basis = torch.linalg.qr(torch.randn(24, 24, generator=torch.Generator().manual_seed(99))).Q
    spread = 0.5 ** torch.arange(24)
    x = torch.randn(rows, 24, generator=draw) * spread @ basis.t() + 5
    return x[None], torch.randn(1, 4, 9, 8, generator=draw)


def studied(model, names, rank, rows=40):
    layers = {model.get_submodule(name): rank for name in names}
    passes = []

    def forward(number, most):
        passes.append(number)
        with torch.no_grad():
            model(*data(number, rows))

    found = directions(layers, forward)
    return {name: found.get(model.get_submodule(name)) for name in names}, passes


def test_the_directions_are_those_of_all_inputs_together(small):
    found, passes = studied(small, ["query", "key", "out", "conv", "unused"], 4)
    assert 2 <= len(passes) < file.PASSES, "it ends when nothing changes any more"
    x = torch.cat([data(number)[0][0] for number in passes])
    exact = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[:4]
    cosines = (found["query"] * exact).sum(1).abs()
    assert cosines[:3].min() > 0.98, cosines
    assert found["query"] is not found["key"] and torch.equal(found["query"], found["key"])
    for name in ("query", "out", "conv"):
        rows = found[name]
        torch.testing.assert_close(rows @ rows.t(), torch.eye(4), rtol=0, atol=1e-4)
    assert found["conv"].shape == (4, 4 * 9)
    assert found["unused"] is None
    assert not any(module._forward_pre_hooks for module in small.modules())


def test_layers_with_one_input_are_looked_at_once(small, monkeypatch):
    looked = []
    monkeypatch.setattr(file, "rows_of", lambda layer, x: looked.append(layer) or rows_of(layer, x))
    monkeypatch.setattr(file, "PASSES", 2)
    studied(small, ["query", "key", "out"], 4)
    assert looked == [small.query, small.out] * 2


def test_few_rows_are_collected_and_a_rank_beyond_the_inputs_is_cut(small):
    found, passes = studied(small, ["query"], 12, rows=3)
    assert len(passes) >= 8 and found["query"].shape == (12, 24)
    found, _ = studied(small, ["query"], 64, rows=60)
    assert found["query"].shape == (24, 24)
    found, passes = studied(small, ["query"], 24, rows=1)
    assert found["query"] is None and len(passes) == file.PASSES, "too few in all"


def test_an_error_leaves_no_hook_behind(small):
    def forward(number, most):
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError, match="no memory"):
        directions({small.query: 4}, forward)
    assert not small.query._forward_pre_hooks


@pytest.mark.parametrize("name", ["query", "conv"])
def test_the_rows_are_what_the_weight_is_multiplied_with(small, name):
    x, image = data(1)
    layer, given = small.get_submodule(name), x if name == "query" else image
    y = layer(given)
    y = y.flatten(2).transpose(1, 2) if name == "conv" else y
    weight = layer.weight.flatten(1)
    torch.testing.assert_close(rows_of(layer, given) @ weight.t() + layer.bias, y[0])
    many = rows_of(layer, given.repeat(200, *[1] * (given.dim() - 1)))
    assert file.ROWS / 2 < len(many) <= file.ROWS


def test_what_is_not_found_stays_random():
    down = torch.full((4, 2, 3, 3), 7.0)
    start_from(down, torch.arange(36.0).view(2, 18))
    assert torch.equal(down[:2].flatten(), torch.arange(36.0))
    assert (down[2:] == 7).all()


# -- in a training ---------------------------------------------------------------------------------


@pytest.fixture
def job(tiny_base) -> TrainingJob:
    return TrainingJob(
        PipelineSpec(tiny_base),
        samples_from_folder(SUBJECT, "a photo of sks monster")[:3],
        "lora",
        LoraSettings(rank=4, targets="attention", start="eva"),
        TrainingSettings(steps=4, learning_rate=1e-3, resolution=32, batch_size=2),
        watch=WatchSettings(checkpoint_every=0),
    )


class Watch(QuietReport):
    def __init__(self, stop_at=-1, stop_while=""):
        self.stop_at, self.stop_while = stop_at, stop_while
        self.last, self.told = 0, []

    def step(self, step, *_):
        self.last = step

    def preparing(self, what, done, total):
        self.told.append(what)

    def should_stop(self):
        return self.last == self.stop_at or self.stop_while in self.told


def done(result):
    log = [{**line, "seconds": 0} for line in read_log(result.log)]
    return result.path.read_bytes(), log


def test_a_run_is_repeatable_and_goes_on_bit_for_bit(job, pipelines, tmp_path):
    straight = done(train(create_or_find(tmp_path / "one", "monster", job), pipelines))
    assert done(train(create_or_find(tmp_path / "two", "monster", job), pipelines)) == straight
    folder = create_or_find(tmp_path / "three", "monster", job)
    stopped = train(folder, pipelines, Watch(stop_at=2))
    assert (stopped.stopped, stopped.steps_done) == (True, 2)
    assert done(train(folder, pipelines)) == straight
    random = replace(job, method_settings=replace(job.method_settings, start="kaiming"))
    assert done(train(create_or_find(tmp_path, "monster", random), pipelines)) != straight


def test_a_stop_while_it_looks_ends_it_and_leaves_the_base_alone(job, pipelines, tmp_path):
    with pipelines.open(job.spec.base) as live:
        before = snapshot(live)
        watch = Watch(stop_while="passes through the model")
        with pytest.raises(NothingLearned):
            train(create_or_find(tmp_path, "monster", job), pipelines, watch)
        assert watch.told[-1] == "passes through the model"
        assert snapshot(live) == before


def test_it_hears_more_of_what_goes_through_the_model(pipelines, tiny_base):
    """The share of the inputs' variance that the first layers' `down` lets through."""
    with pipelines.open(tiny_base) as live:
        on = ground(live)
        before, plain = snapshot(live), on.answer()
        shares = {}
        for start in ("kaiming", "eva"):
            method = made("lora", rank=4, targets="attention", start=start)
            try:
                method.attach(live, 5)
                with torch.no_grad():
                    changed = method.study(lambda *_: on.denoising.answer(on.batch))
                assert bool(changed) == (start == "eva")
                assert torch.equal(on.answer(), plain), "it starts as no change"
                shares[start] = heard(method, on)
            finally:
                method.detach()
        assert snapshot(live) == before
    assert len(shares["eva"]) > 10
    better = [shares["eva"][name] > shares["kaiming"][name] for name in shares["eva"]]
    assert all(better), shares
    assert sum(shares["eva"].values()) > 2 * sum(shares["kaiming"].values())


def heard(method: LoraMethod, on) -> dict[str, float]:
    seen, handles = {}, []
    layers = method.layers()
    names = {layer.module: name for name, layer in layers.items()}

    def look(module, arguments):
        seen.setdefault(names[module], rows_of(module, arguments[0]))

    for module in names:
        handles.append(module.register_forward_pre_hook(look))
    on.answer()
    for handle in handles:
        handle.remove()
    shares = {}
    for name, x in seen.items():
        x = x - x.mean(0)
        basis = torch.linalg.qr(layers[name].learner.parameters["down"].detach().flatten(1).t()).Q
        shares[name] = float((x @ basis).square().sum() / x.square().sum())
    return shares
