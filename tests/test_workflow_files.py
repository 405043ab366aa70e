"""Workflow files, good and hostile: canvas and API format, PNG and safetensors."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from likeness.headless import workflow
from likeness.headless.errors import WorkflowError
from likeness.headless.graph import Graph, Link
from likeness.host import io


def node_info(node_id: str, inputs: list[Any], outputs: list[Any], **options: Any) -> dict:
    class Toy(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            return io.Schema(node_id=node_id, inputs=inputs, outputs=outputs, **options)

        @classmethod
        def execute(cls, **kwargs):
            return io.NodeOutput()

    return Toy.GET_NODE_INFO_V1()


METHODS = io.DynamicCombo.Input(
    "method",
    options=[
        io.DynamicCombo.Option("full", []),
        io.DynamicCombo.Option(
            "lora",
            [
                io.Int.Input("rank", default=8),
                io.Float.Input("alpha", default=1.5),
                io.Mask.Input("where", optional=True),
            ],
        ),
    ],
)
WORD = io.Custom("WORD")

INFOS = {
    "Source": node_info(
        "Source",
        [
            io.Int.Input("seed"),
            io.Float.Input("strength", default=0.5),
            io.String.Input("text", default=""),
            io.Combo.Input("mode", options=["a", "b"]),
            io.Boolean.Input("on", default=True),
        ],
        [WORD.Output(), io.Image.Output()],
    ),
    "Change": node_info(
        "Change",
        [
            WORD.Input("word"),
            io.Int.Input("count", default=3, control_after_generate=True),
            io.Image.Input("picture", optional=True),
            io.Float.Input("factor", default=2.0),
            io.Float.Input("forced", optional=True, force_input=True),
        ],
        [WORD.Output()],
    ),
    "Train": node_info(
        "Train",
        [WORD.Input("word"), METHODS, io.String.Input("name", default="x")],
        [WORD.Output()],
    ),
    "Show": node_info("Show", [WORD.Input("word")], [], is_output_node=True),
    "LoadImage": node_info(
        "LoadImage",
        [io.Combo.Input("image", options=["a.png"], upload=io.UploadType.image)],
        [io.Image.Output(), io.Mask.Output()],
    ),
}


def canvas_node(id: Any, type: str, values: Any = None, inputs=(), outputs=(), **more) -> dict:
    """`inputs` and `outputs`: (name, type, link id) and (name, type)."""
    return {
        "id": id,
        "type": type,
        "mode": 0,
        "inputs": [{"name": n, "type": t, "link": link} for n, t, link in inputs],
        "outputs": [{"name": n, "type": t} for n, t in outputs],
        **({"widgets_values": values} if values is not None else {}),
        **more,
    }


def source(id: Any = 1, values: Any = (7, "randomize", 0.25, "hi", "b", False), **more) -> dict:
    outputs = [("WORD", "WORD"), ("IMAGE", "IMAGE")]
    values = list(values) if isinstance(values, tuple) else values
    return canvas_node(id, "Source", values, outputs=outputs, **more)


def show(id: Any, link: Any) -> dict:
    return canvas_node(id, "Show", inputs=[("word", "WORD", link)])


def read(nodes: list[dict], links: list[Any], **more: Any) -> Graph:
    return workflow.from_data({"nodes": nodes, "links": links, "version": 0.4, **more}, INFOS)


def inputs(graph: Graph, id: str) -> dict[str, Any]:
    return dict(graph.nodes[id].inputs)


SOURCE_INPUTS = {"seed": 7, "strength": 0.25, "text": "hi", "mode": "b", "on": False}


class TestCanvas:
    def test_values_go_to_their_inputs_and_links_to_theirs(self):
        graph = read([source(), show(2, 10)], [[10, 1, 0, 2, 0, "WORD"]])
        assert inputs(graph, "1") == SOURCE_INPUTS
        assert inputs(graph, "2") == {"word": Link("1", 0)}

    def test_links_may_be_objects(self):
        link = {"id": 10, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0}
        graph = read([source(), show(2, 10)], [link], version=1, reroutes=[{"id": 1}])
        assert inputs(graph, "2") == {"word": Link("1", 0)}

    def test_values_may_have_names(self):
        graph = read([source(values={"seed": 3, "mode": "b"}), show(2, 10)], [[10, 1, 0, 2, 0]])
        expected = {"seed": 3, "strength": 0.5, "text": "", "mode": "b", "on": True}
        assert inputs(graph, "1") == expected

    def test_what_the_list_lacks_gets_its_default(self):
        graph = read([source(values=[3])], [])
        expected = {"seed": 3, "strength": 0.5, "text": "", "mode": "a", "on": True}
        assert inputs(graph, "1") == expected

    def test_a_converted_widget_keeps_its_place_in_the_list(self):
        change = canvas_node(
            2,
            "Change",
            [5, "fixed", 0.75],
            inputs=[("word", "WORD", 10), ("count", "INT", 11)],
        )
        nodes = [source(), change, canvas_node(3, "Number")]
        graph = read(nodes, [[10, 1, 0, 2, 0], [11, 3, 0, 2, 1]])
        expected = {"word": Link("1", 0), "count": Link("3", 0), "factor": 0.75}
        assert inputs(graph, "2") == expected

    def test_values_that_old_frontends_saved_for_sockets_are_skipped(self):
        change = canvas_node(2, "Change", [5, "fixed", 0.75, 9.0], inputs=[("word", "WORD", 10)])
        graph = read([source(), change], [[10, 1, 0, 2, 0]])
        assert inputs(graph, "2") == {"word": Link("1", 0), "count": 5, "factor": 0.75}

    def test_named_values_help_when_positions_do_not_fit(self):
        named = {"new_widget": 1, "count": 5, "control_after_generate": "fixed", "factor": 0.75}
        change = canvas_node(
            2,
            "Change",
            list(named.values()),
            inputs=[("word", "WORD", 10)],
            widgets_values_named=named,
        )
        graph = read([source(), change], [[10, 1, 0, 2, 0]])
        assert inputs(graph, "2") == {"word": Link("1", 0), "count": 5, "factor": 0.75}

    def test_a_choice_is_followed_by_its_inputs(self):
        train = canvas_node(2, "Train", ["lora", 16, 2.5, "mine"], inputs=[("word", "WORD", 10)])
        graph = read([source(), train], [[10, 1, 0, 2, 0]])
        expected = {"method": "lora", "method.rank": 16, "method.alpha": 2.5, "name": "mine"}
        assert inputs(graph, "2") == {"word": Link("1", 0), **expected}

    def test_another_choice_has_other_inputs(self):
        train = canvas_node(2, "Train", ["full", "mine"], inputs=[("word", "WORD", 10)])
        graph = read([source(), train], [[10, 1, 0, 2, 0]])
        assert inputs(graph, "2") == {"word": Link("1", 0), "method": "full", "name": "mine"}

    def test_the_value_of_the_upload_button_is_nobodys(self):
        graph = read([canvas_node(1, "LoadImage", ["a.png", "image"])], [])
        assert inputs(graph, "1") == {"image": "a.png"}

    def test_notes_and_groups_disappear(self):
        notes = [canvas_node(8, "Note", ["hi"]), canvas_node(9, "MarkdownNote", ["# hi"])]
        graph = read([source(), *notes], [], groups=[{"title": "g"}])
        assert list(graph.nodes) == ["1"]

    def test_reroutes_disappear(self):
        reroutes = [
            canvas_node(id, "Reroute", inputs=[("", "*", link)], outputs=[("", "WORD")])
            for id, link in ((5, 10), (6, 11))
        ]
        links = [[10, 1, 0, 5, 0], [11, 5, 0, 6, 0], [12, 6, 0, 2, 0]]
        graph = read([source(), *reroutes, show(2, 12)], links)
        assert inputs(graph, "2") == {"word": Link("1", 0)}
        assert set(graph.nodes) == {"1", "2"}

    def test_a_long_chain_of_reroutes_is_no_problem(self):
        count = 5000
        chain = [canvas_node(i, "Reroute", inputs=[("", "*", i)]) for i in range(2, count)]
        links = [[i, i - 1, 0, i, 0] for i in range(2, count + 1)]
        graph = read([source(), *chain, show(count, count)], links)
        assert inputs(graph, str(count)) == {"word": Link("1", 0)}

    def test_a_primitive_node_gives_its_value(self):
        primitive = canvas_node(5, "PrimitiveNode", [42, "fixed"], outputs=[("INT", "INT")])
        node = source(inputs=[("seed", "INT", 3)])
        graph = read([node, primitive], [[3, 5, 0, 1, 0, "INT"]])
        assert inputs(graph, "1") == {**SOURCE_INPUTS, "seed": 42}

    def test_a_bypassed_node_passes_on_the_input_of_that_type(self):
        change = canvas_node(
            2,
            "Change",
            [5, "fixed", 0.75],
            inputs=[("picture", "IMAGE", 11), ("word", "WORD", 10)],
            outputs=[("WORD", "WORD")],
            mode=4,
        )
        links = [[10, 1, 0, 2, 1], [11, 1, 1, 2, 0], [12, 2, 0, 3, 0]]
        graph = read([source(), change, show(3, 12)], links)
        assert inputs(graph, "3") == {"word": Link("1", 0)}
        assert set(graph.nodes) == {"1", "3"}

    def test_a_bypassed_node_without_such_an_input_leaves_nothing(self):
        load = canvas_node(2, "LoadImage", ["a.png"], outputs=[("IMAGE", "IMAGE")], mode=4)
        change = canvas_node(
            3, "Change", [5, "fixed", 1.0], inputs=[("word", "WORD", 10), ("picture", "IMAGE", 12)]
        )
        graph = read([source(), load, change], [[10, 1, 0, 3, 0], [12, 2, 0, 3, 1]])
        assert "picture" not in graph.nodes["3"].inputs

    def test_what_needs_a_muted_node_is_left_out_and_says_so(self):
        change = canvas_node(2, "Change", [5, "fixed", 0.75], inputs=[("word", "WORD", 10)])
        nodes = [source(mode=2), change, show(3, 12), source(4), show(5, 13)]
        graph = read(nodes, [[10, 1, 0, 2, 0], [12, 2, 0, 3, 0], [13, 4, 0, 5, 0]])
        assert set(graph.nodes) == {"4", "5"}
        assert graph.left_out["3"] == "it needs node 1 (Source), which is muted"

    def test_an_optional_input_from_a_muted_node_is_just_not_there(self):
        change = canvas_node(
            2, "Change", [5, "fixed", 1.0], inputs=[("word", "WORD", 10), ("picture", "IMAGE", 11)]
        )
        nodes = [source(), source(4, mode=2), change]
        graph = read(nodes, [[10, 1, 0, 2, 0], [11, 4, 1, 2, 1]])
        assert inputs(graph, "2") == {"word": Link("1", 0), "count": 5, "factor": 1.0}

    def test_titles_and_packs_are_kept(self):
        node = source(title="Mine", properties={"aux_id": "someone/pack"})
        graph = read([node], [])
        assert (graph.nodes["1"].title, graph.nodes["1"].pack) == ("Mine", "someone/pack")

    def test_the_canvas_is_kept_for_the_pictures(self):
        graph = read([source()], [])
        assert graph.extra_pnginfo()["workflow"]["nodes"][0]["type"] == "Source"


TEXT = st.text(max_size=8)
NUMBER = st.floats(-100, 100)
VALUES = {
    "Source": st.fixed_dictionaries(
        {
            "seed": st.integers(0, 2**64),
            "strength": NUMBER,
            "text": TEXT,
            "mode": st.sampled_from("ab"),
            "on": st.booleans(),
        }
    ),
    "Change": st.fixed_dictionaries({"count": st.integers(0, 9), "factor": NUMBER}),
    "Train": st.one_of(
        st.fixed_dictionaries({"method": st.just("full"), "name": TEXT}),
        st.fixed_dictionaries(
            {
                "method": st.just("lora"),
                "method.rank": st.integers(1, 99),
                "method.alpha": NUMBER,
                "name": TEXT,
            }
        ),
    ),
    "Show": st.just({}),
}


@st.composite
def graphs(draw):
    """Nodes in API format, each linked to an earlier one that gives something."""
    nodes: dict[str, Any] = {}
    givers: list[str] = []
    for index in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(sorted(VALUES))) if givers else "Source"
        values = draw(VALUES[kind])
        if kind != "Source":
            values = {"word": [draw(st.sampled_from(givers)), 0], **values}
        if kind != "Show":
            givers.append(str(index))
        nodes[str(index)] = {"class_type": kind, "inputs": values}
    return nodes


ORDER = (
    *("word", "seed", "strength", "text", "mode", "on", "count", "factor"),
    *("method", "method.rank", "method.alpha", "name"),
)
CONTROL = {"seed": "randomize", "count": "fixed"}


def as_canvas(api: dict[str, Any], *, objects: bool) -> dict[str, Any]:
    """The same graph as ComfyUI would save it."""
    nodes, links = [], []
    for id, node in api.items():
        slots, values = [], []
        for name in sorted(node["inputs"], key=ORDER.index):
            value = node["inputs"][name]
            if isinstance(value, list):
                links.append([len(links) + 1, value[0], value[1], id, len(slots), "WORD"])
                slots.append((name, "WORD", len(links)))
            else:
                values += [value, CONTROL[name]] if name in CONTROL else [value]
        nodes.append(canvas_node(id, node["class_type"], values, inputs=slots))
    if objects:
        keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        links = [dict(zip(keys, link, strict=True)) for link in links]
    return {"nodes": nodes, "links": links, "version": 1 if objects else 0.4}


@settings(max_examples=60, deadline=None)
@given(graphs(), st.booleans())
def test_canvas_and_api_format_give_the_same_graph(api, objects):
    canvas = json.loads(json.dumps(as_canvas(api, objects=objects)))
    from_canvas = workflow.from_data(canvas, INFOS).nodes
    from_api = workflow.from_data(api, INFOS).nodes
    assert {i: (n.class_type, n.inputs) for i, n in from_canvas.items()} == {
        i: (n.class_type, n.inputs) for i, n in from_api.items()
    }


@settings(max_examples=60, deadline=None)
@given(graphs())
def test_api_format_survives_a_round_trip(api):
    graph = workflow.from_data(api, INFOS)
    again = workflow.from_data(json.loads(json.dumps(graph.as_api())), INFOS)
    assert again.nodes == graph.nodes


def test_a_list_that_is_a_value_is_wrapped():
    api = {"1": {"class_type": "X", "inputs": {"names": {"__value__": ["a", "b"]}}}}
    graph = workflow.from_data(api, {})
    assert graph.nodes["1"].inputs["names"] == ["a", "b"]
    assert graph.as_api()["1"]["inputs"]["names"] == {"__value__": ["a", "b"]}


def test_what_was_posted_to_prompt_can_be_read():
    graph = workflow.from_data({"prompt": {"1": {"class_type": "X", "inputs": {}}}}, {})
    assert graph.nodes["1"].class_type == "X"


API = {"1": {"class_type": "Source", "inputs": {"seed": 1}}}
CANVAS = {"nodes": [source()], "links": []}


def png_with(texts: dict[str, bytes], kind: bytes = b"tEXt") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IDAT", b"pixels" * 100)
    for key, text in texts.items():
        content += chunk(kind, key.encode() + b"\0" + text)
    return content + chunk(b"IEND", b"")


class TestCarriers:
    def test_a_png_of_comfyui(self, tmp_path):
        path = tmp_path / "a.png"
        texts = {"prompt": json.dumps(API).encode(), "workflow": json.dumps(CANVAS).encode()}
        path.write_bytes(png_with(texts))
        graph = workflow.read(path, INFOS)
        assert graph.nodes["1"].inputs == {"seed": 1}, "what ran counts, not what was on the canvas"
        assert graph.canvas == CANVAS

    def test_a_png_with_a_canvas_only(self, tmp_path):
        path = tmp_path / "a.PNG"
        path.write_bytes(png_with({"workflow": json.dumps(CANVAS).encode()}))
        assert workflow.read(path, INFOS).nodes["1"].inputs["seed"] == 7

    @pytest.mark.parametrize("kind", [b"zTXt", b"iTXt"])
    def test_compressed_texts(self, tmp_path, kind):
        packed = zlib.compress(json.dumps(API).encode())
        head = b"\0" if kind == b"zTXt" else b"\1\0\0\0"
        path = tmp_path / "a.png"
        path.write_bytes(png_with({"prompt": head + packed}, kind))
        assert workflow.read(path, INFOS).nodes["1"].inputs == {"seed": 1}

    def test_python_writes_nan_into_prompts(self, tmp_path):
        path = tmp_path / "a.png"
        text = '{"1": {"class_type": "Source", "inputs": {"seed": 1}, "is_changed": [NaN]}}'
        path.write_bytes(png_with({"prompt": text.encode()}))
        assert workflow.read(path, INFOS).nodes["1"].inputs == {"seed": 1}

    def test_a_safetensors_file(self, tmp_path):
        header = json.dumps({"__metadata__": {"workflow": json.dumps(CANVAS)}}).encode()
        path = tmp_path / "a.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header)
        assert workflow.read(path, INFOS).nodes["1"].inputs["seed"] == 7

    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            ("a.png", b"not a picture", "is not a PNG"),
            ("a.png", png_with({"prompt": b"{}"})[:-30], "cut off"),
            ("a.png", png_with({}), "carries no workflow"),
            ("a.png", png_with({"prompt": b'{"1": {"cl'}), "not valid JSON"),
            ("a.png", png_with({"prompt": b"\0no zlib"}, b"zTXt"), "damaged"),
            ("a.safetensors", b"\xff" * 100, "not a safetensors file"),
            ("a.safetensors", struct.pack("<Q", 5) + b"{nope", "damaged"),
            ("a.safetensors", struct.pack("<Q", 2) + b"{}", "carries no workflow"),
        ],
    )
    def test_a_broken_carrier_is_one_clear_error(self, tmp_path, name, content, says):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(WorkflowError, match=says):
            workflow.read(path, INFOS)

    def test_a_text_that_unfolds_to_gigabytes_is_not_unfolded(self, tmp_path, monkeypatch):
        monkeypatch.setattr(workflow, "LARGEST", 1000)
        path = tmp_path / "a.png"
        path.write_bytes(png_with({"prompt": b"\0" + zlib.compress(b" " * 100_000)}, b"zTXt"))
        with pytest.raises(WorkflowError, match="unfolds to more than 1,000 bytes"):
            workflow.read(path, INFOS)


def link_to(node: Any) -> dict[str, Any]:
    return {"1": {"class_type": "Show", "inputs": {"word": node}}}


HOSTILE = {
    "not JSON": ("hello", "not valid JSON"),
    "cut off": (json.dumps(CANVAS)[:-9], "cut off"),
    "empty": ("", "not valid JSON"),
    "a number": ("5", "not a workflow"),
    "a list": ("[1, 2]", "not a workflow"),
    "an empty object": ("{}", "not a workflow"),
    "another JSON": ('{"name": "x", "version": 1}', "not a workflow"),
    "deep lists": ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
    "deep objects": ('{"nodes": ' * 500 + "1" + "}" * 500, "nested too deeply"),
    "a node that is text": ('{"nodes": ["x"]}', "not a node: 'x'"),
    "a node without a type": ('{"nodes": [{"id": 1}]}', "not a node"),
    "a node without an id": ('{"nodes": [{"type": "Show"}]}', "has the id None"),
    "the same id twice": (
        json.dumps({"nodes": [source(), show("1", None)]}),
        "Two nodes have the id 1: Source and Show",
    ),
    "the same id twice, API": (
        '{"1": {"class_type": "A"}, "1": {"class_type": "B"}}',
        "Two nodes have the id 1",
    ),
    "a dangling link": (json.dumps({"nodes": [show(2, 99)], "links": []}), "link 99 leads to"),
    "a link from no node": (
        json.dumps({"nodes": [show(2, 1)], "links": [[1, 77, 0, 2, 0]]}),
        "Node 2 .Show., input 'word': link 1",
    ),
    "a link that is text": (json.dumps({"nodes": [], "links": ["xyzw"]}), "not a link: 'xyzw'"),
    "a link with a strange slot": (
        json.dumps({"nodes": [], "links": [[1, 2, -1, 3, 0]]}),
        "not a link",
    ),
    "inputs that are text": (
        json.dumps({"nodes": [{"id": 1, "type": "Show", "inputs": "x"}]}),
        "inputs must be a list",
    ),
    "reroutes in a circle": (
        json.dumps(
            {
                "nodes": [
                    canvas_node(5, "Reroute", inputs=[("", "*", 2)]),
                    canvas_node(6, "Reroute", inputs=[("", "*", 1)]),
                    show(7, 3),
                ],
                "links": [[1, 5, 0, 6, 0], [2, 6, 0, 5, 0], [3, 6, 0, 7, 0]],
            }
        ),
        "Nodes 6, 5 are .* lead back to each other",
    ),
    "a subgraph": (
        json.dumps(
            {
                "nodes": [{"id": 5, "type": "uuid"}],
                "definitions": {"subgraphs": [{"id": "uuid", "name": "My group"}]},
            }
        ),
        "Node 5 is the subgraph 'My group'.*Unpack",
    ),
    "API inputs that are a list": (
        '{"1": {"class_type": "A", "inputs": [1]}}',
        "must be an object",
    ),
    "an API node without a class": (
        '{"1": {"class_type": "A"}, "2": {"inputs": {}}}',
        "Node 2 has no class_type",
    ),
    "an API link to nowhere": (json.dumps(link_to(["8", 0])), "there is no node '8'"),
    "an API link of three": (json.dumps(link_to(["1", 0, 0])), "a list means a link"),
    "an API link with a strange slot": (json.dumps(link_to(["1", -1])), "a list means a link"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_one_clear_error(tmp_path: Path, case: str):
    text, says = HOSTILE[case]
    path = tmp_path / "workflow.json"
    path.write_text(text)
    with pytest.raises(WorkflowError, match=says) as caught:
        workflow.read(path, INFOS)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_huge_file_is_refused_without_reading_it(tmp_path):
    path = tmp_path / "workflow.json"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    with pytest.raises(WorkflowError, match="200,000,000 bytes"):
        workflow.read(path, INFOS)


def test_bytes_that_are_no_text(tmp_path):
    path = tmp_path / "workflow.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WorkflowError, match="not a text file"):
        workflow.read(path, INFOS)


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "nothing.json", tmp_path):
        with pytest.raises(WorkflowError, match="cannot be read"):
            workflow.read(path, INFOS)
