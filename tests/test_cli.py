"""The command line: run, nodes, doctor, train; here, from a bare checkout, and on a server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from likeness.cli import main
from likeness.headless.core_nodes import CORE_NODES
from likeness.host import use
from PIL import Image

from .comfyui_process import shared_server

ROOT = Path(__file__).parent.parent


def text(id: str = "1", value: str = "hi") -> dict:
    """A node that gives a text, and one that shows it."""
    return {
        id: {"class_type": "PrimitiveString", "inputs": {"value": value}},
        f"show {id}": {"class_type": "PreviewAny", "inputs": {"source": [id, 0]}},
    }


LOAD_AND_SAVE = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "a.png"}},
    "2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "sub/x"},
        "_meta": {"title": "Keep it"},
    },
    "3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder to work in, with one picture to load."""
    monkeypatch.chdir(tmp_path)
    Path("input").mkdir()
    Image.new("RGB", (4, 3), "red").save("input/a.png")
    before = use(None)
    yield tmp_path
    use(before)


@pytest.fixture
def likeness(capsys, folder):
    """Run a command; returns exit code, the JSON at the end (or the lines), and what was said."""

    def run(command: str, workflow=None, *more: str):
        arguments = [command]
        if workflow is not None:
            path = folder / "workflow.json"
            path.write_text(workflow if isinstance(workflow, str) else json.dumps(workflow))
            arguments.append(str(path))
        code = main([*arguments, *more])
        said = capsys.readouterr()
        lines = said.out.splitlines()
        return code, json.loads(lines[-1]) if "--json" in more else lines, said.err

    return run


class TestRun:
    def test_results_are_the_last_line_as_json(self, likeness, folder):
        code, answer, said = likeness("run", LOAD_AND_SAVE | text("5", "hello"), "--json")
        assert code == 0
        saved = folder / "output" / "sub" / "x_00001_.png"
        assert answer["outputs"]["2"] == {"images": [str(saved)], "files": [], "text": []}
        assert answer["outputs"]["show 5"]["text"] == ["hello"]
        (shown,) = answer["outputs"]["3"]["images"]
        assert saved.is_file() and Path(shown).is_file()
        assert answer["seconds"] >= 0
        assert "[2] Keep it" in said

    def test_and_lines_for_people(self, likeness):
        code, lines, _ = likeness("run", text())
        assert code == 0 and lines[0] == "hi" and lines[-1].startswith("Done in")

    def test_quiet_says_nothing(self, likeness):
        assert likeness("run", text(), "--quiet")[2] == ""

    def test_what_nodes_tell_is_a_line_each_and_warnings_come_through_quiet(
        self, likeness, monkeypatch
    ):
        import logging

        from likeness.headless import core_nodes

        class Tells(core_nodes.PreviewAny):
            @classmethod
            def execute(cls, source):
                log = logging.getLogger(core_nodes.__name__)
                log.info("auto: %s", source)
                log.warning("beware")
                return super().execute(source)

        others = [node for node in CORE_NODES if node is not core_nodes.PreviewAny]
        monkeypatch.setattr(core_nodes, "CORE_NODES", (*others, Tells))
        said = likeness("run", text())[2].splitlines()
        assert {"auto: hi", "beware"} <= set(said)
        assert likeness("run", text(value="ho"), "--quiet")[2].splitlines() == ["beware"]
        assert not logging.getLogger("likeness").handlers

    def test_folders_can_be_chosen(self, likeness, folder):
        (folder / "input").rename(folder / "pictures")
        options = ["--input", "pictures", "--output", "results", "--json"]
        _, answer, _ = likeness("run", LOAD_AND_SAVE, *options)
        assert answer["outputs"]["2"]["images"] == [str(folder / "results/sub/x_00001_.png")]

    def test_values_can_be_set(self, likeness):
        both = {**text("1"), **text("2")}
        both["1"]["_meta"] = {"title": "My text"}
        options = ["--set", "My text.value=one", "--set", "2.value=a=b.c", "--json"]
        _, answer, _ = likeness("run", both, *options)
        assert [shown["text"] for shown in answer["outputs"].values()] == [["one"], ["a=b.c"]]

    def test_an_ambiguous_name_lists_the_candidates(self, likeness):
        both = {**text("1"), **text("2")}
        code, answer, _ = likeness("run", both, "--set", "PrimitiveString.value=x", "--json")
        assert code == 1
        assert "1 (PrimitiveString); 2 (PrimitiveString)" in answer["error"]["message"]

    def test_what_nodes_print_does_not_disturb_the_results(self, likeness, monkeypatch):
        show = next(node for node in CORE_NODES if node.__name__ == "PreviewAny")
        original = show.execute.__func__

        def chatty(cls, source):
            sys.stdout.write("noise\n")
            return original(cls, source)

        monkeypatch.setattr(show, "execute", classmethod(chatty))
        _, lines, said = likeness("run", text())
        assert "noise" not in lines and "noise" in said

    def test_a_saved_picture_runs_again(self, likeness, folder):
        likeness("run", LOAD_AND_SAVE)
        assert main(["run", str(folder / "output/sub/x_00001_.png"), "--quiet"]) == 0
        assert (folder / "output/sub/x_00002_.png").is_file()

    def test_what_is_muted_is_mentioned(self, likeness):
        nodes = [
            {"id": 1, "type": "LoadImage", "mode": 2, "widgets_values": ["a.png", "image"]},
            {"id": 2, "type": "PreviewImage", "inputs": [{"name": "images", "link": 1}]},
            {"id": 3, "type": "PrimitiveString", "widgets_values": ["hi"]},
            {"id": 4, "type": "PreviewAny", "inputs": [{"name": "source", "link": 2}]},
        ]
        canvas = {"nodes": nodes, "links": [[1, 1, 0, 2, 0], [2, 3, 0, 4, 0]]}
        code, answer, said = likeness("run", canvas, "--json")
        assert code == 0 and list(answer["outputs"]) == ["4"]
        assert "[2] left out: it needs node 1 (LoadImage), which is muted" in said


SAVE = LOAD_AND_SAVE["2"]["inputs"]
HOSTILE = {
    "cut off": ('{"1": {"class_type": "Prev', None, "workflow.json is not valid JSON"),
    "a cycle": (
        {
            "1": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        },
        "1",
        "2 (PreviewImage) -> 1 (PreviewImage)",
    ),
    "a missing link": (
        {"2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}},
        "2",
        "input 'images': it needs a connection (IMAGE)",
    ),
    "a link of the wrong type": (
        {**LOAD_AND_SAVE, "2": {"class_type": "SaveImage", "inputs": {**SAVE, "images": ["1", 1]}}},
        "2",
        "it takes IMAGE, but output 1 of node 1 (LoadImage) gives MASK",
    ),
    "an unknown node": (
        {**LOAD_AND_SAVE, "9": {"class_type": "KSampler", "inputs": {}}},
        "9",
        "there is no node 'KSampler' here.",
    ),
    "a picture outside": (
        {**LOAD_AND_SAVE, "1": {"class_type": "LoadImage", "inputs": {"image": "../b.png"}}},
        "1",
        "'../b.png'",
    ),
    "an output outside": (
        {
            **LOAD_AND_SAVE,
            "2": {"class_type": "SaveImage", "inputs": {**SAVE, "filename_prefix": "../x"}},
        },
        "2",
        "'../x'",
    ),
    "half a surrogate": (
        {**LOAD_AND_SAVE, "1": {"class_type": "LoadImage", "inputs": {"image": "\ud800.png"}}},
        "1",
        "There is no picture",
    ),
    "a null byte": (
        {**LOAD_AND_SAVE, "1": {"class_type": "LoadImage", "inputs": {"image": "a\0.png"}}},
        "1",
        "'a\\x00.png'",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_workflow_is_one_clear_message_and_leaves_nothing(likeness, folder, case):
    content, node, says = HOSTILE[case]
    code, answer, said = likeness("run", content, "--json")
    assert code == 1
    assert says in answer["error"]["message"]
    assert answer["error"].get("node") == node
    assert "Traceback" not in said
    assert said.strip().splitlines()[-1].startswith("Error: ")
    assert not (folder / "output").exists()
    assert not list(folder.parent.glob("*.png"))


def test_a_traceback_only_when_asked_for(likeness):
    assert "Traceback" in likeness("run", "{", "--verbose")[2]


@pytest.mark.parametrize(
    ("chosen", "heeded"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_share_the_machine_unless_told_otherwise(likeness, monkeypatch, chosen, heeded):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that what it was comes back
        monkeypatch.delenv(name)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    likeness("nodes")
    assert os.environ.get("GOMP_SPINCOUNT") == heeded


def test_nodes_are_described_as_comfyui_does(likeness):
    _, infos, _ = likeness("nodes", None, "--json")
    assert infos["LoadImage"]["input"]["required"]["image"][1]["options"] == ["a.png"]
    assert "LikenessLoadPipeline" in infos
    assert any(line.startswith("SaveImage") for line in likeness("nodes")[1])


def test_doctor_says_what_is_there(likeness, folder):
    loras = folder / "models" / "loras"
    loras.mkdir(parents=True)
    (loras / "mine.safetensors").touch()
    code, found, _ = likeness("doctor", None, "--json")
    assert code == 0
    assert found["packages"]["torch"] and found["device"]
    assert found["models"]["loras"]["names"] == ["mine.safetensors"]
    assert str(loras) in found["models"]["loras"]["folders"]
    lines = likeness("doctor")[1]
    assert "  loras: mine.safetensors" in lines


def test_doctor_says_where_tokenizers_may_come_from(likeness, folder, monkeypatch):
    comfyui = folder / "elsewhere"
    (comfyui / "comfy").mkdir(parents=True)
    monkeypatch.setenv("COMFYUI_PATH", str(comfyui))
    assert likeness("doctor", None, "--json")[1]["comfyui"] == str(comfyui)
    monkeypatch.setenv("COMFYUI_PATH", str(folder / "nowhere"))
    assert any("must then be in the hub cache" in line for line in likeness("doctor")[1])


def test_training_needs_a_run_folder(capsys, folder):
    assert main(["train", str(folder)]) == 1
    assert "run.json" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["run"], ["dance"], ["run", "x.json", "--server"]])
def test_a_command_that_makes_no_sense(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_from_a_bare_checkout_of_any_name(folder):
    checkout = folder / "some folder-1.0"
    ignored = shutil.ignore_patterns("tests", ".*", "__pycache__", "assets", "web", "*.safetensors")
    shutil.copytree(ROOT, checkout, ignore=ignored)
    (folder / "w.json").write_text(json.dumps(text()))
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    for command in ([checkout / "cli.py"], ["-m", "likeness"]):
        done = subprocess.run(
            [sys.executable, *map(str, command), "run", "w.json", "--json"],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1])["outputs"]["show 1"]["text"] == ["hi"]


SLOW = """
import sys, time
from likeness import cli
from likeness.host import host, io

class Slow(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="Slow", inputs=[], outputs=[], is_output_node=True)

    @classmethod
    def execute(cls):
        bar = host().progress(1000)
        print("started", flush=True)
        for i in range(1000):
            time.sleep(0.01)
            bar.update(i)

cli._all_nodes = lambda: [Slow]
sys.exit(cli.main(["run", "w.json", "--json"]))
"""


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent differently there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_politely(folder, number):
    (folder / "w.json").write_text('{"1": {"class_type": "Slow", "inputs": {}}}')
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.stderr.readline().strip() != "started":
        pass
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Stopping after this step" in err and "Traceback" not in err
    assert json.loads(out) == {"error": {"message": "Stopped at your request."}}


class FakeComfyUI(ThreadingHTTPServer):
    """Answers like a ComfyUI whose only work is to remember what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.infos = {n.GET_SCHEMA().node_id: n.GET_NODE_INFO_V1() for n in CORE_NODES}
        self.infos["LoadImage"]["input"]["required"]["image"][1]["options"] = []
        self.answer = {"prompt_id": "job", "number": 1, "node_errors": {}}
        self.messages: list = []
        self.status = "success"
        self.polls_until_done = 2
        self.asked: list[tuple[str, object]] = []
        self.files: set[str] = set()
        self.finished = True
        image = {"filename": "x_00007_.png", "subfolder": "sub", "type": "output"}
        self.outputs = {"2": {"images": [image]}, "4": {"text": ["hi"]}}

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def posted(self, path: str) -> list:
        return [body for asked, body in self.asked if asked == path]


class FakeHandler(BaseHTTPRequestHandler):
    server: FakeComfyUI

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/object_info":
            self.reply(self.server.infos)
        elif url.path == "/history/job":
            self.server.polls_until_done -= 1
            done = self.server.polls_until_done < 0 and self.server.finished
            status = {"status_str": self.server.status, "messages": self.server.messages}
            entry = {"outputs": self.server.outputs, "status": status}
            self.reply({"job": entry} if done else {})
        elif url.path == "/queue":
            self.reply({"queue_running": [[1, "job", {}]], "queue_pending": []})
        elif url.path == "/view":
            name = parse_qs(url.query)["filename"][0]
            kind = parse_qs(url.query)["type"][0]
            there = kind != "input" or name in self.server.files
            self.reply(f"content of {name}".encode() if there else b"", 200 if there else 404)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/upload/image":
            self.server.asked.append((self.path, body))
            self.reply({"name": "a (1).png", "subfolder": "", "type": "input"})
            return
        self.server.asked.append((self.path, json.loads(body)))
        if self.path == "/prompt":
            self.reply(self.server.answer, 200 if "prompt_id" in self.server.answer else 400)
        else:
            self.reply(b"")

    def reply(self, answer, code: int = 200) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def comfyui(monkeypatch):
    monkeypatch.setattr("likeness.headless.server.POLL_SECONDS", 0.01)
    server = FakeComfyUI()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


class TestServer:
    def test_a_run_brings_its_results_home(self, likeness, comfyui, folder):
        options = ["--server", comfyui.url, "--json"]
        code, answer, said = likeness("run", LOAD_AND_SAVE, *options)
        assert code == 0, said
        path = folder / "output" / "sub" / "x_00007_.png"
        assert answer["outputs"]["2"]["images"] == [str(path)]
        assert path.read_text() == "content of x_00007_.png"
        assert answer["outputs"]["4"]["text"] == ["hi"]
        assert "Running" in said

    def test_another_file_of_that_name_is_kept(self, likeness, comfyui, folder):
        path = folder / "output" / "sub" / "x_00007_.png"
        path.parent.mkdir(parents=True)
        path.write_text("mine")
        _, answer, _ = likeness("run", LOAD_AND_SAVE, "--server", comfyui.url, "--json")
        assert path.read_text() == "mine"
        assert answer["outputs"]["2"]["images"] == [str(path.with_name("x_00007_ (1).png"))]

    def test_pictures_that_the_server_lacks_are_uploaded(self, likeness, comfyui):
        likeness("run", LOAD_AND_SAVE, "--server", comfyui.url)
        (uploaded,) = comfyui.posted("/upload/image")
        assert Path("input/a.png").read_bytes() in uploaded and b'filename="a.png"' in uploaded
        (queued,) = comfyui.posted("/prompt")
        assert queued["prompt"]["1"]["inputs"]["image"] == "a (1).png"

    def test_others_are_not(self, likeness, comfyui):
        comfyui.files.add("a.png")
        likeness("run", LOAD_AND_SAVE, "--server", comfyui.url)
        assert not comfyui.posted("/upload/image")

    def test_the_canvas_goes_along(self, likeness, comfyui):
        canvas = {"nodes": [{"id": 3, "type": "PrimitiveString", "widgets_values": ["hi"]}]}
        likeness("run", canvas, "--server", comfyui.url, "--set", "3.value=ho")
        (queued,) = comfyui.posted("/prompt")
        assert queued["prompt"]["3"]["inputs"] == {"value": "ho"}
        assert queued["extra_data"]["extra_pnginfo"]["workflow"] == canvas

    def test_a_refused_workflow_names_node_and_value(self, likeness, comfyui):
        extra = {"input_name": "filename_prefix", "received_value": "../x"}
        one = {"message": "Value not in list", "details": "a not in []", "extra_info": extra}
        comfyui.answer = {"error": {}, "node_errors": {"2": {"errors": [one]}}}
        code, answer, _ = likeness("run", LOAD_AND_SAVE, "--server", comfyui.url, "--json")
        assert code == 1
        assert answer["error"]["value"] == "../x"
        assert answer["error"]["message"] == (
            "Node 2 \"Keep it\" (SaveImage), input 'filename_prefix': "
            "Value not in list: a not in []"
        )

    def test_a_half_accepted_workflow_is_taken_back(self, likeness, comfyui):
        one = {"message": "bad", "extra_info": {}}
        comfyui.answer = {"prompt_id": "job", "node_errors": {"2": {"errors": [one]}}}
        assert likeness("run", LOAD_AND_SAVE, "--server", comfyui.url)[0] == 1
        assert comfyui.posted("/queue") == [{"delete": ["job"]}]
        assert comfyui.posted("/interrupt") == [{"prompt_id": "job"}]

    def test_a_node_that_fails_there(self, likeness, comfyui):
        failure = {
            "node_id": "2",
            "exception_type": "builtins.OSError",
            "exception_message": "disk full\n",
        }
        comfyui.status, comfyui.messages = "error", [["execution_error", failure]]
        code, answer, _ = likeness("run", LOAD_AND_SAVE, "--server", comfyui.url, "--json")
        assert code == 1
        assert answer["error"]["message"] == 'Node 2 "Keep it" (SaveImage): OSError: disk full'

    def test_stopped_by_someone_else(self, likeness, comfyui):
        comfyui.messages = [["execution_interrupted", {}]]
        assert likeness("run", LOAD_AND_SAVE, "--server", comfyui.url)[0] == 130

    def test_stopping_here_stops_it_there(self, likeness, comfyui, monkeypatch):
        comfyui.finished = False

        def stop_soon() -> None:
            while not comfyui.posted("/prompt"):
                time.sleep(0.01)
            signal.raise_signal(signal.SIGINT)

        threading.Thread(target=stop_soon).start()
        assert likeness("run", LOAD_AND_SAVE, "--server", comfyui.url)[0] == 130
        assert comfyui.posted("/interrupt") == [{"prompt_id": "job"}]

    def test_an_unknown_node_is_not_even_queued(self, likeness, comfyui):
        nodes = {"1": {"class_type": "Nope", "inputs": {}}}
        code, answer, _ = likeness("run", nodes, "--server", comfyui.url, "--json")
        assert code == 1 and answer["error"]["node"] == "1"
        assert not comfyui.posted("/prompt")

    def test_a_hostile_file_name_stays_inside(self, likeness, comfyui, folder):
        comfyui.outputs["2"]["images"][0]["subfolder"] = "../.."
        code, answer, _ = likeness("run", LOAD_AND_SAVE, "--server", comfyui.url, "--json")
        assert code == 1 and "'../../x_00007_.png'" in answer["error"]["message"]

    @pytest.mark.parametrize(
        ("url", "says"),
        [
            ("127.0.0.1:1", "No ComfyUI answers at http://127.0.0.1:1"),
            ("ftp://x", "is not an address such as"),
            ("http://", "is not an address such as"),
        ],
    )
    def test_no_server_there(self, likeness, url, says):
        code, answer, _ = likeness("run", text(), "--server", url, "--json")
        assert code == 1 and says in answer["error"]["message"]


class TestRealComfyUI:
    """The same workflow gives the same pixels, and our core nodes look like the real ones."""

    def test_the_same_pixels_here_and_there(self, likeness, folder):
        server = shared_server()
        picture = Image.effect_mandelbrot((24, 16), (-2, -1, 1, 1), 50).convert("RGBA")
        picture.putalpha(Image.linear_gradient("L").resize((24, 16)))
        picture.save("input/from_likeness.png")
        options = ["--set", "1.image=from_likeness.png", "--json"]
        here = likeness("run", LOAD_AND_SAVE, *options)[1]["outputs"]["2"]["images"]
        options += ["--server", server.url, "--output", "there"]
        there = likeness("run", LOAD_AND_SAVE, *options)[1]["outputs"]["2"]["images"]
        with Image.open(here[0]) as a, Image.open(there[0]) as b:
            assert a.tobytes() == b.tobytes()
            assert a.text["prompt"] and b.text["prompt"]

    def test_our_core_nodes_have_the_same_sockets(self):
        real = shared_server().object_info()
        for node in CORE_NODES:
            ours = node.GET_NODE_INFO_V1()
            theirs = real[ours["name"]]
            for key in ("output", "output_is_list", "output_name", "output_node"):
                assert list_or(ours[key]) == list_or(theirs[key]), (ours["name"], key)
            for key in ("display_name", "category", "is_input_list"):
                assert ours[key] == theirs[key], (ours["name"], key)
            assert sockets(ours) == sockets(theirs), ours["name"]


def list_or(value):
    return list(value) if isinstance(value, list | tuple) else value


def sockets(info) -> dict:
    """Inputs by name: type and the options that count. Old nodes give choices as the type."""
    counted = ("default", "min", "max", "step", "multiline", "image_upload")
    counted += ("control_after_generate",)
    found = {}
    for name, spec in info["input"]["required"].items():
        options = spec[1] if len(spec) > 1 else {}
        kind = spec[0] if isinstance(spec[0], str) else "COMBO"
        kept = {k: options[k] for k in counted if options.get(k) not in (None, False)}
        found[name] = (kind, kept)
    return found
