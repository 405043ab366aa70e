"""Training nodes: what is set on them arrives in the job; what they show while it is learned."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from likeness.headless.inputs import input_specs, nest
from likeness.headless.widgets import fill_in
from likeness.host import StandaloneHost, io, use
from likeness.nodes import NODES, training, training_watch
from likeness.nodes.training_report import NodeReport, grid, in_words
from likeness.nodes.training_watch import MOST_POINTS, MOST_TRAININGS, Curve, answer, watched
from likeness.pipelines.spec import PipelineSpec
from likeness.trainers.job import describe_job
from likeness.trainers.settings import EXPERT_GROUPS, ExpertSettings, WatchSettings, describe

from .conftest import SUBJECT

NODE = "7"
TRAINING = {"LikenessTrainLora": "lora", "LikenessTrainDreamBooth": "dreambooth"}
WATCHED = {setting.name for setting in describe(WatchSettings)}


def asked(request):
    """The newest training, asked for something."""
    return answer(list(answer("", ""))[-1], request)


class Bar:
    """Remembers what a node would show; `after` is called with each step that was told."""

    node_id = NODE

    def __init__(self, after=lambda step: None):
        self.texts, self.values, self.previews = [], [], []
        self._after = after

    def update(self, value, total=None, preview=None):
        self.values.append((value, total))
        if preview is not None:
            self.previews.append(preview)
        if answer("", ""):
            self._after(asked("")["step"])

    def tell(self, text):
        self.texts.append(text)


class Place(StandaloneHost):
    """A program without ComfyUI whose nodes have an id, as ComfyUI's do."""

    def __init__(self, folder):
        super().__init__(folder / "models", folder / "output", folder / "input", quiet=True)
        self.bars, self.after = [], lambda step: None

    def progress(self, total):
        self.bars.append(Bar(lambda step: self.after(step)))
        return self.bars[-1]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(training_watch, "_trainings", {})
    here = Place(tmp_path)
    before = use(here)
    yield here
    use(before)


@pytest.fixture(scope="module")
def spec(tiny_base):
    return PipelineSpec(tiny_base)


@pytest.fixture(scope="module")
def samples():
    from likeness.trainers.data.samples import samples_from_folder

    return samples_from_folder(SUBJECT, "a photo of sks monster")


def node_of(node_id):
    return next(node for node in NODES if node.GET_SCHEMA().node_id == node_id)


def queue(node_id, sockets, **values):
    """Execute a node with `values` in its widgets and all others as they come."""
    node = node_of(node_id)
    given = fill_in(node.GET_NODE_INFO_V1(), values)
    assert set(values) <= set(given), set(values) - set(given)
    specs = input_specs(node.GET_NODE_INFO_V1(), given)
    hidden = io.HiddenHolder(unique_id=NODE, extra_pnginfo={"workflow": {"id": "graph", "v": 1}})
    arguments = {**nest(given, specs), **sockets}
    if node.GET_SCHEMA().is_input_list:
        arguments = {name: _listed(value) for name, value in arguments.items()}
    return node.run(hidden, **arguments)


def _listed(value):
    return value if isinstance(value, list) else [value]


@pytest.fixture
def job_of(place, spec, samples, monkeypatch):
    """What a training node would train, without training it."""
    from likeness.trainers import run_folder

    class Asked(Exception):
        pass

    def remember(root, name, job):
        raise Asked(job)

    def job_of(node_id, settings=None, **values):
        monkeypatch.setattr(run_folder, "create_or_find", remember)
        sockets = {"pipeline": spec, "images": samples}
        if settings is not None:
            sockets["settings"] = settings
        with pytest.raises(Asked) as asked:
            queue(node_id, sockets, **values)
        return asked.value.args[0]

    return job_of


def other_value(spec):
    """Something that this widget can be set to, and is not."""
    if spec.choices:
        return next(choice for choice in spec.choices if choice != spec.default)
    if spec.type == "BOOLEAN":
        return not spec.default
    if spec.type == "STRING":
        return "something else"
    step = spec.options.get("step") or 1
    low, high = spec.options.get("min"), spec.options.get("max")
    value = max(low or 0, min(high, {"FLOAT": 0.25}.get(spec.type, 8 * step)))
    return value if value != spec.default else value + step


def widget_cases():
    """Every widget of every training node, in every choice that shows it."""
    for node_id in TRAINING:
        try:
            info = node_of(node_id).GET_NODE_INFO_V1()
        except StopIteration:
            continue
        top = input_specs(info, fill_in(info, {}))
        dynamic = [s for s in top.values() if s.type == "COMFY_DYNAMICCOMBO_V3"]
        bases = [{}] + [{s.name: choice} for s in dynamic for choice in s.choices]
        seen = set()
        for base in bases:
            for spec in input_specs(info, fill_in(info, base)).values():
                key = (spec.name, *(base.items() if spec.from_choice else ()))
                if spec.widget and spec.name not in ("name", *base) and key not in seen:
                    seen.add(key)
                    shown = base if spec.from_choice else {}
                    words = "-".join([node_id, *shown.values(), spec.name])
                    yield pytest.param(node_id, shown, spec, id=words)


NEEDS = {"early_stop": {"validate_every": 5}}
"""Settings that a setting does not go without."""


@pytest.mark.parametrize(("node_id", "shown", "widget"), widget_cases())
def test_every_widget_changes_the_job(job_of, node_id, shown, widget):
    before = job_of(node_id, **shown)
    value = other_value(widget)
    after = job_of(node_id, **shown, **{widget.name: value})
    if widget.name in WATCHED:
        assert getattr(after.watch, widget.name) == value
        assert describe_job(after) == describe_job(before), "watching changes nothing"
    else:
        assert describe_job(after) != describe_job(before), "it is part of the fingerprint"


@pytest.mark.parametrize("node_id", TRAINING)
@pytest.mark.parametrize(
    "setting", [s for group in EXPERT_GROUPS for s in describe(group)], ids=lambda s: s.name
)
def test_every_expert_setting_arrives_through_its_node(job_of, node_id, setting):
    node = node_of("LikenessTrainingSettings")
    widget = input_specs(node.GET_NODE_INFO_V1(), {})[setting.name]
    value = other_value(widget)
    (settings,) = queue(
        "LikenessTrainingSettings", {}, **{setting.name: value, **NEEDS.get(setting.name, {})}
    ).result
    assert getattr(job_of(node_id, settings).training, setting.name) == value


def test_the_settings_node_left_alone_is_as_if_it_were_not_there(job_of):
    (settings,) = queue("LikenessTrainingSettings", {}).result
    assert settings == ExpertSettings()
    assert job_of("LikenessTrainLora", settings) == job_of("LikenessTrainLora")


@pytest.mark.parametrize(("node_id", "method"), TRAINING.items())
def test_a_training_node_shows_how_it_goes_and_what_came_out(place, spec, samples, node_id, method):
    sockets = {"pipeline": spec, "images": samples}
    values = {"steps": 2, "sample_every": 1, "sample_prompt": "a monster\na star", "name": "m"}
    shown = queue(node_id, sockets, **values)
    (bar,) = place.bars
    assert bar.values[-1] == (2, None) or bar.values[-1][0] == 2
    assert [preview.size for preview in bar.previews] == [(128, 64)] * 2, "two prompts, one grid"
    (text,) = shown.ui["text"]
    assert text.startswith("trained 2 steps, loss 0.")
    assert "auto: " in text and "learning_rate" in text, "what auto became"
    assert bar.texts[-1] == text
    assert any("step 1/2 · loss " in told and " left" in told for told in bar.texts)
    pictures = [picture["filename"] for picture in shown.ui["images"]]
    assert pictures == [f"step-00000{step}-{n}.png" for step in (1, 2) for n in (0, 1)]
    for picture in shown.ui["images"]:
        assert (place.output_directory() / picture["subfolder"] / picture["filename"]).is_file()
    assert len(shown.result[1]["loss"]) == 2

    again = queue(node_id, sockets, **values)
    assert again.ui["text"][0].startswith("found: trained before, 2 steps, loss 0.")
    assert again.result[1] == shown.result[1]


@pytest.mark.parametrize("node_id", TRAINING)
def test_stop_and_keep_hands_on_what_was_learned_and_goes_on_next_time(
    place, spec, samples, node_id
):
    sockets = {"pipeline": spec, "images": samples}
    place.after = lambda step: step == 2 and asked("stop")
    stopped = queue(node_id, sockets, steps=4, name="m")
    assert stopped.ui["text"][0].startswith("stopped at step 2 of 4, loss ")
    assert len(stopped.result[1]["loss"]) == 2
    assert [*answer("", "").values()] == [{"node": NODE, "workflow": "graph", "running": False}]

    place.after = lambda step: None
    done = queue(node_id, sockets, steps=4, name="m")
    assert done.ui["text"][0].startswith("trained 4 steps")
    assert "went on from step 2" in done.ui["text"][0]
    points = asked("")["points"]
    assert [step for step, _, _ in points] == [1, 2, 3, 4], "the curve goes on, too"


def test_stop_and_keep_while_it_is_prepared_anew_shows_what_was_learned_before(
    place, spec, samples
):
    sockets = {"pipeline": spec, "images": samples}
    place.after = lambda step: step == 2 and asked("stop")
    queue("LikenessTrainLora", sockets, steps=4, name="m")
    place.after = lambda step: asked("stop")
    shown = queue("LikenessTrainLora", sockets, steps=4, name="m")
    assert shown.ui["text"][0].startswith("stopped at step 2, loss 0.")
    assert len(shown.result[1]["loss"]) == 2 and len(asked("")["points"]) == 2


def test_save_now_leaves_a_result_and_goes_on(place, spec, samples):
    from likeness.trainers.run_folder import RunFolder

    seen = []

    def look(step):
        if step == 2:
            asked("save")
        if step == 3:
            (path,) = place.output_directory().glob("likeness/runs/m-*")
            seen.append(RunFolder(path, {}).outcome)

    place.after = look
    done = queue("LikenessTrainLora", {"pipeline": spec, "images": samples}, steps=4, name="m")
    assert (seen[0]["steps"], seen[0]["stopped"]) == (2, True)
    assert done.ui["text"][0].startswith("trained 4 steps")


def test_the_stop_button_of_the_host_stops_it_with_everything_saved(place, spec, samples):
    from likeness.host import Interrupted

    def stop(step):
        if step == 2:
            raise Interrupted("stopped")

    place.after = stop
    sockets = {"pipeline": spec, "images": samples}
    with pytest.raises(Interrupted):
        queue("LikenessTrainLora", sockets, steps=3, name="m")
    assert asked("")["running"] is False
    place.after = lambda step: None
    done = queue("LikenessTrainLora", sockets, steps=3, name="m")
    assert "went on from step" in done.ui["text"][0]


def test_only_trainings_of_this_process_can_be_asked(place, tmp_path):
    with watched(NODE, tmp_path, "graph") as training:
        assert [*answer("", "").values()] == [{"node": NODE, "workflow": "graph", "running": True}]
        for stranger in (NODE, "..", "../..", str(tmp_path)):
            with pytest.raises(LookupError, match="there is no training"):
                answer(stranger, "stop")
        for request in ("delete", "../stop", "stop/../../x"):
            with pytest.raises(ValueError, match="cannot be asked"):
                asked(request)
        assert list(tmp_path.iterdir()) == []
        assert asked("stop")["asked"] == ["stop"]
        assert [path.name for path in tmp_path.iterdir()] == ["request-stop"]
        assert training.asked == {"stop"}
    with pytest.raises(ValueError, match="has ended"):
        asked("save")
    assert asked("")["running"] is False, "its curve can still be looked at"


def test_a_node_without_an_id_cannot_be_asked_and_few_are_remembered(place, tmp_path):
    with watched("", tmp_path, ""):
        assert answer("", "") == {}
    for number in range(MOST_TRAININGS + 5):
        with watched(str(number), tmp_path, ""):
            pass
    nodes = [training["node"] for training in answer("", "").values()]
    assert nodes == [str(number) for number in range(5, MOST_TRAININGS + 5)]


def test_the_same_node_of_two_graphs_and_a_new_training_of_one_are_told_apart(place, tmp_path):
    for workflow in ("dog", "cat"):
        with watched(NODE, tmp_path, workflow):
            pass
    dog, cat = answer("", "")
    assert answer(dog, "")["workflow"] == "dog" and answer(cat, "")["workflow"] == "cat"
    with watched(NODE, tmp_path, "dog"):
        pass
    assert [training["workflow"] for training in answer("", "").values()] == ["cat", "dog"]
    assert dog not in answer("", ""), "a panel that still shows the old curve has to see that"


def test_a_name_out_of_another_node_goes_on_after_a_stop_as_well(monkeypatch):
    """ComfyUI tells `fingerprint_inputs` nothing of it."""
    monkeypatch.setattr(training, "_stopped", {"dog": 1})
    for node_id in TRAINING:
        mark = node_of(node_id).fingerprint_inputs
        assert mark(name="cat") != mark(name="dog")
        assert mark(name="cat") != mark(name=None) == mark()
        training._stopped["dog"] += 1
        assert mark(name=None) == 2
        training._stopped["dog"] -= 1


def test_previews_are_shown_where_the_output_folder_is_a_link(place, tmp_path):
    from types import SimpleNamespace

    (tmp_path / "disk").mkdir()
    place.output_directory().symlink_to(tmp_path / "disk")
    path = (place.output_directory() / "runs" / "samples" / "step-1.png").resolve()
    shown = training.shown(SimpleNamespace(samples=[path]), "done")
    expected = {"filename": "step-1.png", "subfolder": "runs/samples", "type": "output"}
    assert shown["images"] == [expected]


def test_a_page_that_is_loaded_anew_gets_the_newest_pictures_again(place, tmp_path):
    from PIL import Image

    bar = Bar()
    with watched(NODE, tmp_path, "") as training:
        report = NodeReport(bar, training)
        report.started(9, 0)
        report.sample(1, [Image.new("RGB", (8, 8))])
        report.step(2, 9, 1.0, {}, 1e-4, 1.0)
        assert len(bar.previews) == 1
        asked("show")
        for step in (3, 4):
            report.step(step, 9, 1.0, {}, 1e-4, 1.0)
    assert len(bar.previews) == 2, "once for each time it was asked"


def test_a_curve_stays_small_and_covers_everything():
    curve = Curve()
    for step in range(1, 30_001):
        curve.add(step, 1 / step)
    assert MOST_POINTS / 2 <= len(curve.points) <= MOST_POINTS
    steps = [step for step, _, _ in curve.points]
    assert steps[0] < 200 and steps[-1] > 29_800
    assert len({b - a for a, b in pairwise(steps)}) == 1


def test_texts_are_told_a_few_times_a_second_and_all_lines_of_importance(place, tmp_path):
    bar = Bar()
    with watched(NODE, tmp_path, "") as training:
        report = NodeReport(bar, training)
        report.message("auto: steps: 500")
        report.message("needs about 6 GB")
        assert bar.texts[-1] == "needs about 6 GB\n· auto: steps: 500"
        for step in range(1, 501):
            report.step(step, 500, 0.5, {}, 1e-4, 130.0)
        assert len(bar.texts) < 50
        line, message, auto = bar.texts[-1].splitlines()
        assert line == "step 500/500 · loss 0.5000 · rate 0.0001 · 2 min left"
        assert (message, auto) == ("· needs about 6 GB", "· auto: steps: 500")
        assert asked("")["text"] == bar.texts[-1]


def test_time_in_words_and_pictures_in_a_grid():
    from PIL import Image

    assert [in_words(s) for s in (8.4, 179, 4800)] == ["8 s", "3 min", "1 h 20 min"]
    small, large = Image.new("RGB", (32, 64)), Image.new("L", (64, 32))
    assert grid([small]).size == (32, 64)
    assert grid([small, large]).size == (128, 64)
    assert grid([small, large, small]).size == (128, 128)
    assert grid([small] * 5).size == (96, 128)


def test_a_process_of_its_own_shows_the_same_and_is_stopped_the_same(place, spec, samples):
    place.after = lambda step: step == 2 and asked("stop")
    shown = queue(
        "LikenessTrainLora",
        {"pipeline": spec, "images": samples},
        steps=500,
        sample_every=1,
        name="m",
        place="in a process of its own",
    )
    (bar,) = place.bars
    assert re.match(r"stopped at step \d+ of 500, loss 0\.", shown.ui["text"][0])
    assert shown.ui["images"], "preview pictures"
    assert [preview.size for preview in bar.previews][:1] == [(64, 64)]
    assert any(told.startswith("step 1/500 · loss ") for told in bar.texts)
    assert len(shown.result[1]["loss"]) < 100
