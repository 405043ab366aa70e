"""Our stand-in for ComfyUI's `io` says exactly what ComfyUI says, for our nodes and for probes.

Run by ComfyUI's own Python, this file prints how ComfyUI describes the probes.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from enum import Enum
from pathlib import Path


class Fruit(Enum):
    apple = "apple"
    pear = "pear"


def probes(io):
    """Nodes that together use everything of `io` that we have a stand-in for."""
    text = {"tooltip": "help", "display_name": "Shown", "advanced": True, "lazy": True}

    class Numbers(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            slider = io.NumberDisplay.slider
            return io.Schema(
                node_id="Numbers",
                display_name="All numbers",
                category="a/b",
                description="Numbers.",
                search_aliases=["count"],
                inputs=[
                    io.Int.Input("bare"),
                    io.Int.Input("i", default=0, min=-1, max=9, step=2, **text),
                    io.Int.Input("shown", default=1, display_mode=slider, optional=True),
                    io.Int.Input("seed", control_after_generate=True),
                    io.Int.Input("seed2", control_after_generate=False),
                    io.Float.Input("f", default=0.0, min=0.0, max=1.0, step=0.01, round=0.001),
                    io.Float.Input("shown2", display_mode=slider, **text),
                    io.Boolean.Input("b", default=False, label_on="yes", label_off="no"),
                    io.Boolean.Input("socket", force_input=True, optional=True),
                ],
                outputs=[io.Int.Output(), io.Float.Output("ratio", tooltip="0 to 1")],
            )

        @classmethod
        def execute(cls, **inputs):
            return io.NodeOutput(1, 2.0)

    class Texts(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            upload, folder = io.UploadType.image, io.FolderType.input
            return io.Schema(
                node_id="Texts",
                inputs=[
                    io.String.Input("line"),
                    io.String.Input("page", multiline=True, default="", placeholder="write"),
                    io.String.Input(
                        "prompt", dynamic_prompts=True, extra_dict={"rows": 3, "x": None}
                    ),
                    io.String.Input("private", socketless=True, raw_link=True),
                    io.Combo.Input("fruit", options=Fruit, default="pear"),
                    io.Combo.Input("list", ["a", "b"], default="b", **text),
                    io.Combo.Input("number", options=[1, 2], control_after_generate=True),
                    io.Combo.Input("picture", options=[], upload=upload, image_folder=folder),
                    io.MultiCombo.Input("many", options=["a", "b"], default=["a"], chip=True),
                    io.MultiCombo.Input("more", ["a"], placeholder="pick", optional=True),
                ],
                outputs=[io.String.Output(is_output_list=True), io.Combo.Output("choice")],
                hidden=[io.Hidden.unique_id],
                is_output_node=True,
                is_input_list=True,
                is_deprecated=True,
                is_experimental=True,
                not_idempotent=True,
            )

        @classmethod
        def execute(cls, **inputs):
            return io.NodeOutput("a", ui={"text": ("a",)})

    class Sockets(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            own = io.Custom("LIKENESS_PROBE")
            plain = "AnyType Image Mask Latent Conditioning Model Clip Vae ControlNet ClipVision"
            kinds = [getattr(io, n) for n in f"{plain} LoraModel LossMap".split()]
            widget = io.Float.Input("amount", default=1.0, tooltip="widget")
            return io.Schema(
                node_id="Sockets",
                inputs=[
                    *(kind.Input(f"in_{n}", **text) for n, kind in enumerate(kinds)),
                    own.Input("own", optional=True),
                    io.MultiType.Input("either", types=[io.Image, io.Mask], tooltip="one of two"),
                    io.MultiType.Input(widget, [io.Float, io.Int, own], advanced=True),
                ],
                outputs=[
                    own.Output(display_name="own", tooltip="ours"),
                    *(kind.Output(f"out_{n}") for n, kind in enumerate(kinds)),
                ],
                hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            )

        @classmethod
        def execute(cls, **inputs):
            return io.NodeOutput()

    class Growing(io.ComfyNode):
        @classmethod
        def define_schema(cls):
            rank = io.Int.Input("rank", default=16, min=1, tooltip="rank")
            image = io.Image.Input("image", optional=True)
            grow = io.Autogrow
            lora = [rank, io.Combo.Input("kind", options=["lora", "loha"], optional=True)]
            deep = io.DynamicCombo.Input("deep", [io.DynamicCombo.Option("x", [image])])
            return io.Schema(
                node_id="Growing",
                inputs=[
                    io.DynamicCombo.Input(
                        "method",
                        options=[
                            io.DynamicCombo.Option("lora", lora),
                            io.DynamicCombo.Option("full", []),
                            io.DynamicCombo.Option("deep", [deep]),
                        ],
                        tooltip="how",
                    ),
                    grow.Input(
                        "images", template=grow.TemplatePrefix(image, "image", min=0, max=7)
                    ),
                    grow.Input("ranks", grow.TemplatePrefix(rank, prefix="rank_"), optional=True),
                    grow.Input("named", template=grow.TemplateNames(image, ["a", "b"], min=2)),
                ],
                outputs=[],
            )

        @classmethod
        def execute(cls, **inputs):
            return io.NodeOutput()

    return (Numbers, Texts, Sockets, Growing)


def parameters(io):
    """The parameters of everything that nodes call, by name."""
    sockets = ("AnyType", "Int", "Float", "String", "Boolean", "Combo", "MultiCombo", "MultiType")
    sockets += ("DynamicCombo", "Autogrow")
    named = {f"{s}.Input": getattr(io, s).Input for s in sockets}
    grow = io.Autogrow
    named |= {"Output": io.Image.Output, "Option": io.DynamicCombo.Option}
    named |= {"prefix": grow.TemplatePrefix, "names": grow.TemplateNames}
    named |= {"Schema": io.Schema, "NodeOutput": io.NodeOutput, "Custom": io.Custom}
    signatures = {name: inspect.signature(call).parameters for name, call in named.items()}
    return {
        name: sorted(p.name for p in parameters.values() if p.kind is not p.VAR_KEYWORD)
        for name, parameters in signatures.items()
    }


def described(io):
    info = {node.__name__: node.GET_NODE_INFO_V1() for node in probes(io)}
    return json.loads(json.dumps({"probes": info, "parameters": parameters(io)}))


if __name__ == "__main__":
    from comfy_api.latest import io as comfy_io

    Path(sys.argv[1]).write_text(json.dumps(described(comfy_io)))
    sys.exit()

import pytest  # noqa: E402

from .comfyui_process import comfyui_path, comfyui_python, shared_server  # noqa: E402


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    path = comfyui_path()
    if path is None:
        pytest.skip(
            "no ComfyUI here: set COMFYUI_PATH to a checkout, or put one in ~/comfy/ComfyUI"
        )
    answer = tmp_path_factory.mktemp("conformance") / "theirs.json"
    code = f"import sys, runpy; sys.path.insert(0, {str(path)!r}); sys.argv = ['', {str(answer)!r}]"
    code += f"; runpy.run_path({__file__!r}, run_name='__main__')"
    done = subprocess.run(
        [comfyui_python(path), "-c", code], capture_output=True, text=True, timeout=180, cwd=path
    )
    assert done.returncode == 0, done.stderr
    return json.loads(answer.read_text())


@pytest.fixture(scope="module")
def ours():
    from likeness.host import schema

    return described(schema)


@pytest.mark.parametrize("name", ["Numbers", "Texts", "Sockets", "Growing"])
def test_probe_is_described_alike(name, ours, theirs):
    assert ours["probes"][name] == theirs["probes"][name]
    for group, names in ours["probes"][name]["input_order"].items():
        assert names == theirs["probes"][name]["input_order"][group]


def test_every_parameter_of_ours_exists_in_comfyui(ours, theirs):
    """Else a node would run without ComfyUI and fail to load inside it."""
    for call, names in ours["parameters"].items():
        known = set(theirs["parameters"][call])
        assert set(names) <= known, f"{call} has parameters that ComfyUI does not know"


def test_our_nodes_are_described_alike():
    """ComfyUI's `/object_info` against the stand-in, which looks into the same folders."""
    server = shared_server()
    from likeness.host import StandaloneHost, use
    from likeness.nodes import NODES

    base = server.base
    before = use(StandaloneHost(base / "models", base / "output", base / "input"))
    try:
        described = {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in NODES}
        theirs = {node_id: server.object_info(node_id) for node_id in described}
    finally:
        use(before)
    ours = json.loads(json.dumps(described))
    for node_id, info in ours.items():
        theirs[node_id].pop("python_module")
        info.pop("python_module")
        assert info == theirs[node_id], node_id
