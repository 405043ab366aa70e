"""Running graphs in this process: checks, order, cache, lists, errors, and ComfyUI's own nodes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zlib

import pytest
from likeness.headless import workflow
from likeness.headless.core_nodes import CORE_NODES
from likeness.headless.errors import NodeError
from likeness.headless.executor import Executor
from likeness.headless.graph import Graph
from likeness.headless.inputs import input_specs, nest
from likeness.headless.overrides import override
from likeness.headless.replacements import fill_in_prefixes
from likeness.host import Interrupted, StandaloneHost, io, use
from PIL import Image, PngImagePlugin

CALLS: list[str] = []
"""What ran, in order."""

WORD = io.Custom("WORD")


class Say(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Say",
            inputs=[
                io.String.Input("text", default="hi"),
                io.Int.Input("times", default=1, min=1, max=5),
                io.Combo.Input("case", options=["lower", "upper"]),
                io.Float.Input("weight", default=1.0, min=0.0, optional=True),
                io.Boolean.Input("loud", default=False, optional=True),
            ],
            outputs=[WORD.Output()],
        )

    @classmethod
    def execute(cls, text, times, case, weight=1.0, loud=False):
        CALLS.append(f"say {text}")
        return io.NodeOutput(getattr(text, case)() * times + ("!" if loud else ""))


class Join(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Join",
            inputs=[WORD.Input("a"), WORD.Input("b", optional=True)],
            outputs=[WORD.Output()],
        )

    @classmethod
    def execute(cls, a, b="?"):
        CALLS.append(f"join {a} {b}")
        return io.NodeOutput(f"{a}+{b}")


class Show(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.MultiType.Input("word", [WORD, io.String, io.Int])]
        return io.Schema(node_id="Show", inputs=inputs, outputs=[], is_output_node=True)

    @classmethod
    def execute(cls, word):
        CALLS.append(f"show {word}")
        return io.NodeOutput(ui={"text": [str(word)]})


class Split(io.ComfyNode):
    """One text, many items."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Split",
            inputs=[io.String.Input("text")],
            outputs=[io.String.Output(is_output_list=True), io.Int.Output()],
        )

    @classmethod
    def execute(cls, text):
        return io.NodeOutput(text.split(), len(text))


class Gather(io.ComfyNode):
    """Many items, one text."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Gather",
            inputs=[io.String.Input("words", force_input=True), io.String.Input("glue")],
            outputs=[io.String.Output()],
            is_input_list=True,
        )

    @classmethod
    def execute(cls, words, glue):
        return io.NodeOutput(glue[0].join(words))


class Counted(io.ComfyNode):
    """Runs again when `MARK` changes; NaN means always."""

    MARK = 1.0

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="Counted", inputs=[], outputs=[WORD.Output()])

    @classmethod
    def fingerprint_inputs(cls):
        return cls.MARK

    @classmethod
    def execute(cls):
        CALLS.append("counted")
        return io.NodeOutput("one")


class Fails(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.Combo.Input("how", options=["user", "bug", "stop", "wrong count"])]
        outputs = [WORD.Output()]
        return io.Schema(node_id="Fails", display_name="It fails", inputs=inputs, outputs=outputs)

    @classmethod
    def execute(cls, how):
        if how == "wrong count":
            return io.NodeOutput(1, 2)
        raise {
            "user": ValueError("steps is 0. Use at least 1."),
            "bug": KeyError("missing"),
            "stop": Interrupted(),
        }[how]


class Choosy(io.ComfyNode):
    """Checks its own inputs."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Choosy",
            inputs=[io.Combo.Input("name", options=["a"]), io.Int.Input("count", max=3)],
            outputs=[WORD.Output()],
        )

    @classmethod
    def validate_inputs(cls, name):
        return True if name in ("a", "late") else f"{name!r} is gone."

    @classmethod
    def execute(cls, name, count):
        return io.NodeOutput(name * count)


class Method(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        rank = io.Int.Input("rank", default=8, min=1)
        note = io.String.Input("note", optional=True)
        options = [
            io.DynamicCombo.Option("full", []),
            io.DynamicCombo.Option("lora", [rank, note]),
        ]
        row = io.Autogrow.TemplatePrefix(WORD.Input("word"), prefix="word", min=1, max=3)
        return io.Schema(
            node_id="Method",
            inputs=[
                io.DynamicCombo.Input("method", options=options),
                io.Autogrow.Input("words", template=row),
            ],
            outputs=[WORD.Output()],
        )

    @classmethod
    def execute(cls, method, words):
        return io.NodeOutput(json.dumps([method, words]))


class Asks(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Asks", inputs=[], outputs=[WORD.Output()], hidden=[io.Hidden.unique_id]
        )

    @classmethod
    def execute(cls):
        CALLS.append(f"asks {cls.hidden.unique_id}")
        return io.NodeOutput(cls.hidden.unique_id)


class Tells(io.ComfyNode):
    """An output node that shows what it was told about the workflow."""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="Tells", inputs=[], outputs=[], is_output_node=True)

    @classmethod
    def execute(cls):
        told = {"prompt": cls.hidden.prompt, "extra": cls.hidden.extra_pnginfo}
        return io.NodeOutput(ui={"text": [json.dumps(told)]})


class Torchy(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="Torchy", inputs=[], outputs=[io.Image.Output()])

    @classmethod
    def execute(cls):
        import torch

        assert torch.is_inference_mode_enabled()
        return io.NodeOutput(torch.zeros(1, 4, 4, 3))


NODES = [Say, Join, Show, Split, Gather, Counted, Fails, Choosy, Method, Asks, Tells, Torchy]


@pytest.fixture(autouse=True)
def here(tmp_path):
    CALLS.clear()
    folders = {name: tmp_path / name for name in ("models", "output", "input")}
    for folder in folders.values():
        folder.mkdir()
    here = StandaloneHost(**folders, quiet=True)
    before = use(here)
    yield here
    use(before)


@pytest.fixture
def executor():
    return Executor([*NODES, *CORE_NODES])


def graph_of(**nodes) -> Graph:
    """`graph_of(a=("Say", {"text": "x"}))`; a link is `["a", 0]`."""
    api = {id: {"class_type": kind, "inputs": inputs} for id, (kind, inputs) in nodes.items()}
    return workflow.from_data(api, {})


def say(text="x", **more):
    return ("Say", {"text": text, "times": 1, "case": "lower", **more})


CHAIN = {
    "a": say("x"),
    "b": say("y"),
    "j": ("Join", {"a": ["a", 0], "b": ["b", 0]}),
    "s": ("Show", {"word": ["j", 0]}),
}


def texts(result) -> list[str]:
    return [text for shown in result.ui.values() for text in shown["text"]]


class TestRunning:
    def test_a_graph_runs_in_order(self, executor):
        result = executor.run(graph_of(**CHAIN))
        assert CALLS == ["say x", "say y", "join x y", "show x+y"]
        assert result.ui == {"s": {"text": ["x+y"]}}
        assert result.executed == ["a", "b", "j", "s"]

    def test_only_what_outputs_need_runs(self, executor):
        executor.run(graph_of(**CHAIN, spare=say("spare")))
        assert "say spare" not in CALLS

    def test_a_long_chain(self, executor):
        nodes = {"n0": say()}
        for i in range(1, 1500):
            nodes[f"n{i}"] = ("Join", {"a": [f"n{i - 1}", 0]})
        result = executor.run(graph_of(s=("Show", {"word": ["n1499", 0]}), **nodes))
        assert len(result.executed) == 1501

    def test_a_node_is_told_what_it_asks_for(self, executor):
        graph = graph_of(t=("Tells", {}), a=("Asks", {}), s=("Show", {"word": ["a", 0]}))
        graph = Graph(graph.nodes, canvas={"nodes": []})
        result = executor.run(graph)
        told = json.loads(result.ui["t"]["text"][0])
        assert told["prompt"]["s"]["inputs"] == {"word": ["a", 0]}
        assert told["extra"] == {"workflow": {"nodes": []}}
        assert result.ui["s"]["text"] == ["a"]

    def test_a_choice_and_a_growing_row_arrive_as_dictionaries(self, executor):
        inputs = {"method": "lora", "method.rank": 16, "words.word0": ["a", 0]}
        graph = graph_of(a=say(), m=("Method", inputs), s=("Show", {"word": ["m", 0]}))
        (text,) = texts(executor.run(graph))
        assert json.loads(text) == [{"method": "lora", "rank": 16, "note": None}, {"word0": "x"}]

    def test_nodes_run_in_inference_mode(self, executor):
        graph = graph_of(t=("Torchy", {}), s=("PreviewImage", {"images": ["t", 0]}))
        assert len(executor.run(graph).ui["s"]["images"]) == 1

    def test_plain_nodes_run_without_torch(self, tmp_path):
        code = (
            "import sys; from likeness.headless.core_nodes import CORE_NODES;"
            "from likeness.headless.executor import Executor;"
            "from likeness.headless import workflow, server, canvas, doctor;"
            "import likeness.cli; assert 'torch' not in sys.modules;"
            "assert 'numpy' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


class TestLists:
    def test_a_node_is_called_for_each_item(self, executor):
        graph = graph_of(
            p=("Split", {"text": "a b c"}),
            s=("Show", {"word": ["p", 0]}),
            n=("Show", {"word": ["p", 1]}),
        )
        result = executor.run(graph)
        assert result.ui == {"s": {"text": ["a", "b", "c"]}, "n": {"text": ["5"]}}

    def test_a_node_that_takes_lists_is_called_once(self, executor):
        graph = graph_of(
            p=("Split", {"text": "a b c"}),
            g=("Gather", {"words": ["p", 0], "glue": "-"}),
            s=("Show", {"word": ["g", 0]}),
        )
        assert texts(executor.run(graph)) == ["a-b-c"]

    def test_a_shorter_list_repeats_its_last_item(self, executor):
        graph = graph_of(
            p=("Split", {"text": "a b c"}),
            q=("Split", {"text": "x y"}),
            g=("Gather", {"words": ["p", 0], "glue": ["q", 0]}),
            h=("Say", {"text": ["p", 0], "times": 1, "case": ["q", 0]}),
            s=("Show", {"word": ["g", 0]}),
        )
        assert texts(executor.run(graph)) == ["axbxc"]

    def test_an_empty_list_is_an_error_that_names_the_input(self, executor):
        graph = graph_of(p=("Split", {"text": " "}), s=("Show", {"word": ["p", 0]}))
        with pytest.raises(NodeError, match=r"Node s .Show., input 'word': it received an empty"):
            executor.run(graph)


class TestCache:
    def test_the_same_graph_again_runs_nothing(self, executor):
        first = executor.run(graph_of(**CHAIN))
        again = executor.run(graph_of(**CHAIN))
        assert again.executed == []
        assert again.ui == first.ui

    def test_a_changed_value_runs_what_depends_on_it(self, executor):
        executor.run(graph_of(**CHAIN))
        again = executor.run(graph_of(**{**CHAIN, "b": say("z")}))
        assert again.executed == ["b", "j", "s"]

    def test_ids_do_not_matter(self, executor):
        executor.run(graph_of(**CHAIN))
        renamed = graph_of(one=say("x"), s=("Show", {"word": ["one", 0]}))
        assert executor.run(renamed).executed == ["s"]

    def test_they_do_for_a_node_that_asks_for_its_id(self, executor):
        executor.run(graph_of(a=("Asks", {}), s=("Show", {"word": ["a", 0]})))
        executor.run(graph_of(b=("Asks", {}), s=("Show", {"word": ["b", 0]})))
        assert [call for call in CALLS if call.startswith("asks")] == ["asks a", "asks b"]

    def test_the_other_branch_stays_when_one_fails(self, executor):
        broken = {**CHAIN, "f": ("Fails", {"how": "user"}), "t": ("Show", {"word": ["f", 0]})}
        with pytest.raises(NodeError):
            executor.run(graph_of(**broken))
        assert executor.run(graph_of(**CHAIN)).executed == []

    def test_what_the_last_run_did_not_use_is_forgotten(self, executor):
        executor.run(graph_of(**CHAIN))
        executor.run(graph_of(b=say("other"), s=("Show", {"word": ["b", 0]})))
        assert executor.run(graph_of(**CHAIN)).executed == ["a", "b", "j", "s"]

    @pytest.mark.parametrize(
        ("first", "second", "runs"), [(1.0, 1.0, 1), (1.0, 2.0, 2), (float("nan"),) * 2 + (2,)]
    )
    def test_fingerprints(self, executor, monkeypatch, first, second, runs):
        graph = graph_of(c=("Counted", {}), s=("Show", {"word": ["c", 0]}))
        for mark in (first, second):
            monkeypatch.setattr(Counted, "MARK", mark)
            executor.run(graph)
        assert CALLS.count("counted") == runs

    def test_a_picture_that_changed_is_loaded_again(self, executor, here):
        path = here.input_directory() / "a.png"
        graph = graph_of(
            l=("LoadImage", {"image": "a.png"}), s=("PreviewImage", {"images": ["l", 0]})
        )
        Image.new("RGB", (4, 4)).save(path)
        executor.run(graph)
        assert executor.run(graph).executed == []
        Image.new("RGB", (4, 4), "red").save(path)
        assert executor.run(graph).executed == ["l", "s"]


BAD = {
    "a cycle": (
        {
            "a": ("Join", {"a": ["b", 0]}),
            "b": ("Join", {"a": ["a", 0]}),
            "s": ("Show", {"word": ["a", 0]}),
        },
        r"Node a \(Join\): these nodes wait for each other in a circle: "
        r"a \(Join\) -> b \(Join\) -> a \(Join\)\. Disconnect",
    ),
    "a node that feeds itself": (
        {"a": ("Join", {"a": ["a", 0]}), "s": ("Show", {"word": ["a", 0]})},
        r"a \(Join\) -> a \(Join\)",
    ),
    "a missing link": (
        {"a": ("Join", {}), "s": ("Show", {"word": ["a", 0]})},
        r"Node a \(Join\), input 'a': it needs a connection \(WORD\)",
    ),
    "a missing value": (
        {"a": ("Say", {"text": "x", "case": "lower"}), "s": ("Show", {"word": ["a", 0]})},
        r"input 'times': it needs a value \(INT\)",
    ),
    "a missing choice": (
        {"m": ("Method", {"words.word0": ["a", 0]}), "a": say(), "s": ("Show", {"word": ["m", 0]})},
        "input 'method': it needs a value",
    ),
    "a missing value of a choice": (
        {
            "m": ("Method", {"method": "lora", "words.word0": ["a", 0]}),
            "a": say(),
            "s": ("Show", {"word": ["m", 0]}),
        },
        "input 'method.rank': it needs a value",
    ),
    "a missing row": (
        {"m": ("Method", {"method": "full"}), "s": ("Show", {"word": ["m", 0]})},
        "input 'words.word0': it needs a connection",
    ),
    "a link of the wrong type": (
        {"t": ("Torchy", {}), "j": ("Join", {"a": ["t", 0]}), "s": ("Show", {"word": ["j", 0]})},
        r"input 'a': it takes WORD, but output 0 of node t \(Torchy\) gives IMAGE",
    ),
    "a link of none of several types": (
        {"t": ("Torchy", {}), "s": ("Show", {"word": ["t", 0]})},
        "it takes WORD,STRING,INT, but",
    ),
    "an output that does not exist": (
        {"a": say(), "s": ("Show", {"word": ["a", 3]})},
        r"output 3 of node a \(Say\) does not exist; that node has 1",
    ),
    "too small": (
        {"a": say(times=0), "s": ("Show", {"word": ["a", 0]})},
        "input 'times': 0 is too small; it must be at least 1",
    ),
    "too large": (
        {"a": say(times=6), "s": ("Show", {"word": ["a", 0]})},
        "input 'times': 6 is too large; it must be at most 5",
    ),
    "no number": (
        {"a": say(times="many"), "s": ("Show", {"word": ["a", 0]})},
        "'many' is not a whole number",
    ),
    "an infinite number": (
        {"a": say(weight=1e999), "s": ("Show", {"word": ["a", 0]})},
        "inf is not a number that can be used",
    ),
    "no switch": (
        {"a": say(loud="yes"), "s": ("Show", {"word": ["a", 0]})},
        "'yes' is not true or false",
    ),
    "no such choice": (
        {"a": say(case="middle"), "s": ("Show", {"word": ["a", 0]})},
        "input 'case': 'middle' is not one of the choices: 'lower', 'upper'",
    ),
    "no such method": (
        {"m": ("Method", {"method": "x", "words.word0": ["a", 0]}), "a": say(), "s": CHAIN["s"]}
        | {"s": ("Show", {"word": ["m", 0]})},
        "'x' is not one of the choices: 'full', 'lora'",
    ),
    "a value where only a wire fits": (
        {"p": ("PreviewImage", {"images": "a.png"})},
        r"it takes a connection \(IMAGE\), not the value 'a.png'",
    ),
    "what the node itself refuses": (
        {"c": ("Choosy", {"name": "b", "count": 1}), "s": ("Show", {"word": ["c", 0]})},
        "input 'name': 'b' is gone",
    ),
    "no output": ({"a": say()}, "there is no output node"),
    "an unknown node": ({"a": ("Unheard", {})}, r"there is no node 'Unheard' here. Find out"),
    "a node of ComfyUI": ({"a": ("KSampler", {})}, "ComfyUI's own.*--server URL"),
    "a node of a known pack": ({"a": ("VHS_LoadVideo", {})}, "comfyui-videohelpersuite"),
    "a misspelt node": ({"a": ("Shows", {})}, "Did you mean Show?"),
    "a picture elsewhere": (
        {"l": ("LoadImage", {"image": "../a.png"}), "p": ("PreviewImage", {"images": ["l", 0]})},
        r"Node l .Load\w*., input 'image': .*'../a.png'",
    ),
    "an absolute picture": (
        {"l": ("LoadImage", {"image": "/etc/hosts"}), "p": ("PreviewImage", {"images": ["l", 0]})},
        "'/etc/hosts'",
    ),
    "no such picture": (
        {"l": ("LoadImage", {"image": "no.png"}), "p": ("PreviewImage", {"images": ["l", 0]})},
        "There is no picture 'no.png' in .*input",
    ),
    "a prefix that climbs out": (
        {
            "t": ("Torchy", {}),
            "s": ("SaveImage", {"images": ["t", 0], "filename_prefix": "../../x"}),
        },
        r"Node s \(SaveImage\), input 'filename_prefix': .*'../../x'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_graph_is_one_clear_error_and_nothing_runs(executor, here, case):
    nodes, says = BAD[case]
    with pytest.raises(NodeError, match=says) as caught:
        executor.run(graph_of(**nodes))
    assert "\n" not in str(caught.value)
    assert CALLS == []
    assert not list(here.output_directory().iterdir())


def test_all_errors_are_found_at_once(executor):
    graph = graph_of(**{**CHAIN, "a": say(times=0, case="middle"), "b": say(times=9)})
    with pytest.raises(NodeError) as caught:
        executor.run(graph)
    found = [caught.value, *caught.value.also]
    assert [(e.node, e.input, e.value) for e in found] == [
        ("a", "times", 0),
        ("a", "case", "middle"),
        ("b", "times", 9),
    ]


def test_the_pack_that_the_file_names_is_in_the_message(executor):
    canvas = {"nodes": [{"id": 3, "type": "X", "title": "T", "properties": {"cnr_id": "a-pack"}}]}
    with pytest.raises(NodeError, match=r"Node 3 \"T\" \(X\): .*'a-pack': install"):
        executor.run(workflow.from_data(canvas, executor.infos()))


def test_a_cycle_that_nothing_needs_does_not_matter(executor):
    cycle = {"c": ("Join", {"a": ["d", 0]}), "d": ("Join", {"a": ["c", 0]})}
    assert texts(executor.run(graph_of(**CHAIN, **cycle))) == ["x+y"]


def test_a_node_that_looks_itself_may_accept_more(executor):
    graph = graph_of(c=("Choosy", {"name": "late", "count": 1}), s=("Show", {"word": ["c", 0]}))
    assert texts(executor.run(graph)) == ["late"]
    with pytest.raises(NodeError, match="4 is too large"):
        executor.run(graph.with_inputs("c", {"name": "late", "count": 4}))


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("user", r'^Node f "It fails" \(Fails\): steps is 0. Use at least 1.$'),
        ("bug", "KeyError: 'missing'"),
        ("wrong count", "declares 1 outputs, but returned 2"),
    ],
)
def test_a_node_that_fails(executor, how, says):
    canvas = {"nodes": [{"id": "f", "type": "Fails", "widgets_values": [how]}], "links": []}
    graph = workflow.from_data(canvas, executor.infos())
    nodes = {**graph.nodes, **graph_of(s=("Show", {"word": ["f", 0]}), f=("Fails", {})).nodes}
    nodes["f"] = graph.nodes["f"]
    with pytest.raises(NodeError, match=says):
        executor.run(Graph(nodes))


def test_stopping_is_no_error(executor, here):
    graph = graph_of(f=("Fails", {"how": "stop"}), s=("Show", {"word": ["f", 0]}))
    with pytest.raises(Interrupted):
        executor.run(graph)
    here.request_stop()
    with pytest.raises(Interrupted):
        executor.run(graph_of(**CHAIN))
    assert CALLS == []


class TestOverrides:
    @pytest.mark.parametrize("target", ["a.text", "Say.text", "My. title.text"])
    def test_a_node_is_found_by_id_class_and_title(self, executor, target):
        infos = executor.infos()
        canvas = {"nodes": [{"id": "a", "type": "Say", "title": "My. title"}]}
        graph = workflow.from_data(canvas, infos)
        graph = override(graph, infos, f"{target}=a=b")
        assert graph.nodes["a"].inputs["text"] == "a=b"

    @pytest.mark.parametrize(
        ("setting", "value"),
        [("times=3", 3), ("weight=2", 2), ("loud=true", True), ("case=upper", "upper")],
    )
    def test_values_have_the_type_of_their_input(self, executor, setting, value):
        graph = override(graph_of(**CHAIN), executor.infos(), f"a.{setting}")
        assert graph.nodes["a"].inputs[setting.split("=")[0]] == value

    def test_a_choice_brings_its_inputs_along(self, executor):
        infos = executor.infos()
        graph = graph_of(m=("Method", {"method": "full", "words.word0": ["a", 0]}), a=say())
        graph = override(graph, infos, "m.method=lora")
        graph = override(graph, infos, "m.method.rank=4")
        assert graph.nodes["m"].inputs["method.rank"] == 4
        assert "method.rank" not in override(graph, infos, "m.method=full").nodes["m"].inputs

    @pytest.mark.parametrize(
        ("setting", "says"),
        [
            ("Say.text=x", r"more than one node is meant: a \(Say\); b \(Say\)"),
            ("Nobody.text=x", "there is no node 'Nobody'. There are: a"),
            ("a.colour=x", "no such value to set. It has: text, times, case, weight, loud"),
            ("j.a=x", "no such value to set. It has: none"),
            ("a.times=many", "'many' is not a whole number"),
            ("a.times", "not of the form"),
            ("times=1", "not of the form"),
        ],
    )
    def test_what_cannot_be_set(self, executor, setting, says):
        with pytest.raises((ValueError, NodeError), match=says):
            override(graph_of(**CHAIN), executor.infos(), setting)


def test_an_unset_row_is_an_empty_dictionary(executor):
    info = executor.infos()["Method"]
    specs = input_specs(info, {"method": "full"})
    assert nest({"method": "full"}, specs) == {"method": {"method": "full"}, "words": {}}


class TestCoreNodes:
    def load(self, executor, here, picture, name="a.png", **options):
        picture.save(here.input_directory() / name, **options)
        return executor.nodes["LoadImage"].execute(image=name)

    def test_transparency_becomes_the_mask(self, executor, here):
        image, mask = self.load(executor, here, Image.new("RGBA", (3, 2), (255, 0, 0, 51))).args
        assert image.shape == (1, 2, 3, 3) and mask.shape == (1, 2, 3)
        assert image[0, 0, 0].tolist() == [1, 0, 0]
        assert mask[0, 0, 0].item() == pytest.approx(0.8)

    def test_without_transparency_the_mask_is_64_zeros(self, executor, here):
        image, mask = self.load(executor, here, Image.new("L", (3, 2), 255)).args
        assert image.min() == 1 and mask.shape == (1, 64, 64) and mask.max() == 0

    def test_a_picture_is_turned_as_the_camera_was_held(self, executor, here):
        exif = Image.Exif()
        exif[0x0112] = 6
        image, _ = self.load(executor, here, Image.new("RGB", (3, 2)), "a.jpg", exif=exif).args
        assert image.shape == (1, 3, 2, 3)

    def test_frames_become_a_batch(self, executor, here):
        frames = [Image.new("RGB", (3, 2), (i * 80, 0, 0)) for i in range(3)]
        options = {"save_all": True, "append_images": frames[1:], "lossless": True}
        image, mask = self.load(executor, here, frames[0], "a.webp", **options).args
        assert image.shape == (3, 2, 3, 3) and mask.shape[0] == 3

    def test_sixteen_bits(self, executor, here):
        image, _ = self.load(executor, here, Image.new("I;16", (3, 2), 65535)).args
        assert image.shape == (1, 2, 3, 3) and image.min() == 1

    @pytest.mark.parametrize("size", [(20_000, 20_000), (10_001, 10_000)])
    def test_an_absurd_picture_is_refused(self, executor, here, size):
        path = here.input_directory() / "a.png"
        Image.new("1", (8, 8)).save(path)
        content = bytearray(path.read_bytes())
        content[16:24] = b"".join(n.to_bytes(4, "big") for n in size)
        content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
        path.write_bytes(content)
        save = {"images": ["l", 0], "filename_prefix": "x"}
        graph = graph_of(l=("LoadImage", {"image": "a.png"}), s=("SaveImage", save))
        with pytest.raises(NodeError, match="pixels"):
            executor.run(graph)
        assert not list(here.output_directory().iterdir())

    def test_a_damaged_picture_is_one_clear_error(self, executor, here):
        (here.input_directory() / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
        graph = graph_of(
            l=("LoadImage", {"image": "a.png"}), s=("PreviewImage", {"images": ["l", 0]})
        )
        with pytest.raises(NodeError, match=r"Node l .*a.png cannot be read as a picture"):
            executor.run(graph)

    def save(self, executor, prefix="x"):
        graph = graph_of(
            t=("Torchy", {}), s=("SaveImage", {"images": ["t", 0], "filename_prefix": prefix})
        )
        return executor.run(fill_in_prefixes(graph)).ui["s"]["images"]

    def test_pictures_are_numbered_on_from_what_is_there(self, executor, here):
        (here.output_directory() / "x_00041_.png").touch()
        (here.output_directory() / "xy_00099_.png").touch()
        assert self.save(executor)[0]["filename"] == "x_00042_.png"

    def test_a_prefix_may_name_folders_sizes_and_dates(self, executor, here):
        (shown,) = self.save(executor, "a/b_%width%x%height%_%date:yyyy-MM%_%year%_%Torchy.x%")
        now = time.strftime("%Y-%m")
        name = f"b_4x4_{now}_{now[:4]}_%Torchy.x%_00001_.png"
        assert shown == {"filename": name, "subfolder": "a", "type": "output"}
        assert (here.output_directory() / "a" / name).is_file()

    def test_a_prefix_may_quote_another_nodes_value(self):
        graph = graph_of(a=say("p/q"), s=("SaveImage", {"filename_prefix": "x_%Say.text%"}))
        assert fill_in_prefixes(graph).nodes["s"].inputs["filename_prefix"] == "x_p_q"

    def test_a_link_out_of_the_output_folder_is_not_followed(self, executor, here, tmp_path):
        (here.output_directory() / "away").symlink_to(tmp_path, target_is_directory=True)
        with pytest.raises(NodeError, match=r"leads out of"):
            self.save(executor, "away/x")

    def test_pictures_carry_the_workflow_and_run_again(self, executor, here):
        (shown,) = self.save(executor)
        path = here.output_directory() / shown["filename"]
        with Image.open(path) as picture:
            assert isinstance(picture, PngImagePlugin.PngImageFile)
            assert json.loads(picture.text["prompt"])["t"]["class_type"] == "Torchy"
        again = executor.run(workflow.read(path, executor.infos()))
        assert again.executed == []

    @pytest.mark.parametrize(
        ("value", "text"),
        [("a", "a"), (1.5, "1.5"), (None, "None"), ({"a": 1}, '{\n    "a": 1\n}'), ({1}, "{1}")],
    )
    def test_preview_any(self, executor, value, text):
        assert executor.nodes["PreviewAny"].execute(source=value).args == (text,)

    def test_primitives_hand_on_their_value(self, executor):
        graph = graph_of(
            i=("PrimitiveInt", {"value": 5}),
            a=say(times=["i", 0]),
            s=("Show", {"word": ["a", 0]}),
        )
        assert texts(executor.run(graph)) == ["xxxxx"]

    def test_a_seed_of_primitive_int_has_a_control_value(self, executor):
        canvas = {"nodes": [{"id": 1, "type": "PrimitiveInt", "widgets_values": [5, "fixed"]}]}
        graph = workflow.from_data(canvas, executor.infos())
        assert graph.nodes["1"].inputs == {"value": 5}
