"""The Sketch node: in a graph, with a language model, and in a shared workflow."""

from __future__ import annotations

import pytest
from likeness.headless import workflow
from likeness.headless.errors import NodeError
from likeness.headless.executor import Executor
from likeness.host import io
from likeness.nodes.sketch import EXAMPLE, Sketch
from likeness.pipelines.sketch.ask import forget_answers

from .conftest import ROOT
from .sketch_server import GOOD, Model

SEEN = []
WIDGETS = {"width": 64, "height": 48, "style": "scribble", "line_width": 2.0, "object": ""}


class Look(io.ComfyNode):
    """Keeps what it is given, once for each item of a list."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Look",
            inputs=[io.Mask.Input("mask"), io.String.Input("phrase", force_input=True)],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, mask, phrase):
        SEEN.append((tuple(mask.shape), float(mask.sum()), phrase))
        return io.NodeOutput()


def run(inputs, mask_slot=1, phrase_slot=2, executor=None):
    SEEN.clear()
    graph = workflow.read_api(
        {
            "1": {
                "class_type": "LikenessSketch",
                "inputs": {"program": EXAMPLE, **WIDGETS, **inputs},
            },
            "2": {
                "class_type": "Look",
                "inputs": {"mask": ["1", mask_slot], "phrase": ["1", phrase_slot]},
            },
        }
    )
    result = (executor or Executor([Sketch, Look])).run(graph)
    return result


def test_the_example_goes_through_a_graph_object_by_object():
    result = run({})
    assert [phrase for _, _, phrase in SEEN] == ["a wooden table", "a red cup", "a green apple"]
    assert all(shape == (1, 48, 64) and area > 20 for shape, area, _ in SEEN)
    (text,) = result.ui["1"]["text"]
    assert text.splitlines()[1].startswith("2. a red cup: ")


def test_one_object_by_words():
    run({"object": "cup"}, 4, 5)
    ((_, area, phrase),) = SEEN
    assert phrase == "a red cup"
    run({}, 4, 5)
    ((_, everything, phrases),) = SEEN
    assert phrases == "a wooden table, a red cup, a green apple" and everything > area


def test_an_object_that_is_not_there():
    with pytest.raises(NodeError, match="no object 'dog'"):
        run({"object": "dog"})


def test_what_it_gives():
    image, masks, phrases, program, mask, phrase = Sketch.execute(EXAMPLE, **WIDGETS).args
    assert tuple(image.shape) == (1, 48, 64, 3) and image.min() == 0 and image.max() == 1
    assert len(masks) == len(phrases) == 3
    assert program == EXAMPLE
    assert tuple(mask.shape) == (1, 48, 64)
    assert (mask >= masks[0]).all() and phrase == ", ".join(phrases)


def test_an_error_of_the_program_reaches_the_user():
    with pytest.raises(NodeError, match=r"line 2, column 1: \\drow is not known"):
        run({"program": "\n\\drow (0,0);"})


def test_nothing_is_asked_without_an_endpoint():
    with pytest.raises(NodeError, match="write a program, or name a scene and an endpoint"):
        run({"program": " ", "scene": "a cup"})


@pytest.fixture
def model():
    forget_answers()
    model = Model()
    yield model
    model.close()
    forget_answers()


def test_a_language_model_is_asked_once(model):
    asking = {"program": "", "scene": "a cup", "endpoint": model.url, "model": "tiny", "seed": 3}
    executor = Executor([Sketch, Look])
    assert run(asking, executor=executor).executed == ["1", "2"]
    assert SEEN[0][2] == "a cup"
    assert run(asking, executor=executor).executed == []
    assert run({**asking, "style": "colour"}, executor=executor).executed == ["1", "2"]
    assert len(model.requests) == 1, "only the drawing was made again"
    assert Sketch.execute(**WIDGETS, **asking).args[3] == GOOD
    run({**asking, "program": EXAMPLE}, executor=executor)
    assert len(model.requests) == 1, "a program that is given is drawn as it is"


def test_stop_is_looked_at_while_waiting(model, monkeypatch):
    from likeness.host import Interrupted, host

    def stop(self):
        if model.requests:
            raise Interrupted("stopped")

    model.script = [lambda handler: __import__("time").sleep(5)]
    monkeypatch.setattr(type(host()), "throw_if_interrupted", stop)
    with pytest.raises(Interrupted):
        Sketch.execute("", **WIDGETS, scene="a cup", endpoint=model.url, model="tiny")


def test_braces_of_a_program_are_not_a_choice_of_prompts():
    """The browser would replace {0,1|2} by one of its parts."""
    inputs = Sketch.GET_NODE_INFO_V1()["input"]
    assert inputs["required"]["program"][1]["dynamicPrompts"] is False


def test_a_shared_workflow_cannot_name_any_secret(model, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    asking = {"program": "", "scene": "a cup", "endpoint": model.url, "model": "tiny"}
    with pytest.raises(NodeError, match="must begin with LIKENESS_"):
        run({**asking, "key_variable": "HF_TOKEN"})
    assert not model.requests


def test_the_help_page_says_what_is_understood():
    from likeness.pipelines.sketch.arithmetic import CONSTANTS, FUNCTIONS, UNITS
    from likeness.pipelines.sketch.path import _OPERATIONS
    from likeness.pipelines.sketch.reader import _COMMANDS, PATHS
    from likeness.pipelines.sketch.state import _MAPS
    from PIL import Image

    text = (ROOT / "web" / "docs" / "LikenessSketch.md").read_text(encoding="utf-8")
    assert EXAMPLE.strip() in text
    page = text.replace("\\|", "|")
    words = {*FUNCTIONS, *CONSTANTS, *UNITS, *_OPERATIONS, *_MAPS, *(f"\\{c}" for c in PATHS)}
    words |= {f"\\{c}" for c in _COMMANDS} - {"\\renewcommand"}
    assert [word for word in sorted(words) if word not in page] == []
    picture = ROOT / "web" / "docs" / "LikenessSketch" / "sketch.jpg"
    assert "(LikenessSketch/sketch.jpg)" in text and picture.stat().st_size < 80_000
    with Image.open(picture) as image:
        assert image.width > 800
