"""Hub repositories: the cache first, a real download from a hub on this machine, clear words when
offline.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from likeness.pipelines.base_models import base_model, from_hub, hub_folder
from likeness.pipelines.sources import best_weights

from .loading_files import differences, weights

REPOSITORY, COMMIT = "somebody/tiny", "0123456789abcdef0123456789abcdef01234567"

HALVES = [f"model.fp16-0000{part}-of-00002.safetensors" for part in (1, 2)]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache, offline."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def put_in_cache(hub: Path, folder: Path) -> Path:
    """The layout of huggingface_hub's own cache."""
    home = hub / f"models--{REPOSITORY.replace('/', '--')}"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(COMMIT)
    return shutil.copytree(folder, home / "snapshots" / COMMIT)


def test_a_cached_model_loads_offline(hub, tiny_models):
    from likeness.pipelines.loading import Pipelines

    snapshot = put_in_cache(hub, tiny_models("stable-diffusion"))
    base = from_hub(REPOSITORY, dtype="float32")
    assert base.path == str(snapshot)
    assert from_hub(REPOSITORY, revision=COMMIT, dtype="float32") == base
    cache = Pipelines()
    with cache.open(base) as live, cache.open(base_model(tiny_models("stable-diffusion"))) as same:
        assert not differences(weights(live.pipeline), weights(same.pipeline))


def test_offline_and_not_cached_says_so(hub, tiny_models):
    with pytest.raises(ValueError, match=r"not in the local hub cache .*HF_HUB_OFFLINE.*unset it"):
        from_hub(REPOSITORY)
    snapshot = put_in_cache(hub, tiny_models("stable-diffusion"))
    with pytest.raises(ValueError, match=r"somebody/tiny@other is not in the local hub cache"):
        from_hub(REPOSITORY, revision="other")
    with pytest.raises(ValueError, match="not in the local hub cache"):
        from_hub(REPOSITORY, variant="fp16")
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match="not in the local hub cache"):
        from_hub(REPOSITORY)  # a download that was broken off
    with pytest.raises(ValueError, match="not in the local hub cache"):
        hub_folder(REPOSITORY, download=False)


@pytest.mark.parametrize("name", ["", "tiny", "a/b/c", "../secrets", "/etc/passwd", "a b/c"])
def test_names_that_are_no_repositories(hub, name):
    with pytest.raises(ValueError, match="is no repository of the hub; write owner/name"):
        from_hub(name)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("", ["model.safetensors"]),
        (
            "fp16",
            ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"],
        ),
        ("bf16", ["model.safetensors"]),
    ],
)
def test_one_set_of_weights_is_chosen(variant, expected):
    names = [
        "config.json",
        "model.safetensors",
        *HALVES,
        "model.safetensors.index.fp16.json",
        "pytorch_model.bin",
        "flax_model.msgpack",
        "openvino_model.safetensors",
    ]
    assert best_weights(names, variant) == expected


class Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that a download needs."""

    folder: Path
    asked: list[str]

    def do_GET(self):
        self.answer(body=True)

    def do_HEAD(self):
        self.answer(body=False)

    def answer(self, body):
        path = self.path.split("?")[0]
        if path.startswith(f"/api/models/{REPOSITORY}"):
            files = sorted(file for file in self.folder.rglob("*") if file.is_file())
            names = [file.relative_to(self.folder).as_posix() for file in files]
            siblings = [{"rfilename": name} for name in names]
            told = {"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}
            if "/tree/" in path:
                sizes = [file.stat().st_size for file in files]
                told = [
                    {"type": "file", "path": name, "size": size, "oid": "0" * 40}
                    for name, size in zip(names, sizes, strict=True)
                ]
            return self.send(json.dumps(told).encode(), "application/json", body)
        name = path.split(f"/{REPOSITORY}/resolve/", 1)[-1].partition("/")[2]
        file = self.folder / name
        if not path.startswith(f"/{REPOSITORY}/resolve/") or not file.is_file():
            return self.send(b"", "text/plain", body, 404)
        if body:
            self.asked.append(name)
        return self.send(file.read_bytes(), "application/octet-stream", body)

    def send(self, content, kind, body, status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models("stable-diffusion"), tmp_path / "served")
    for name in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model"):
        shutil.copy(folder / f"{name}.safetensors", folder / f"{name}.fp16.safetensors")
    for junk in (
        "unet/diffusion_pytorch_model.bin",
        "v1-5-pruned.ckpt",
        "README.md",
        "unet/run.py",
    ):
        (folder / junk).write_bytes(b"junk")
    handler = type("Handler", (Hub,), {"folder": folder, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()


def run(code, endpoint, home, **environment):
    """In a process of its own: the hub's library reads its environment when it is imported."""
    told = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environment}
    code = f"from likeness.pipelines.base_models import from_hub\n{code}"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **told}
    )


def test_a_download_takes_what_is_needed_and_only_once(server, tmp_path):
    endpoint, asked = server
    code = f"base = from_hub({REPOSITORY!r}, variant='fp16'); print(base.family, base.path)"
    done = run(code, endpoint, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    family, _, folder = done.stdout.strip().partition(" ")
    assert family == "stable-diffusion"
    got = {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.*")}
    assert "unet/diffusion_pytorch_model.fp16.safetensors" in got
    assert "text_encoder/model.safetensors" in got, "a component without that variant"
    assert {"model_index.json", "unet/config.json", "tokenizer/tokenizer_config.json"} <= got
    left = ("unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin")
    assert not got & {*left, "v1-5-pruned.ckpt", "README.md", "unet/run.py"}
    first = len(asked)
    assert len(set(asked)) == first
    again = run(code, endpoint, tmp_path / "home", HF_HUB_OFFLINE="1")
    assert again.stdout == done.stdout, again.stderr
    assert len(asked) == first, "nothing was fetched again"


def test_an_unreachable_hub_and_a_missing_repository_are_told(server, tmp_path):
    endpoint, _ = server
    code = "try: from_hub({!r})\nexcept ValueError as error: print(error)"
    missing = run(code.format("somebody/else"), endpoint, tmp_path / "home")
    assert "somebody/else cannot be fetched from the hub" in missing.stdout, missing.stderr
    dead = run(code.format(REPOSITORY), "http://127.0.0.1:9", tmp_path / "home")
    assert "somebody/tiny cannot be fetched from the hub" in dead.stdout, dead.stderr
    assert "check the name and the network" in dead.stdout
    code = (
        f"try: from_hub({REPOSITORY!r}, variant='int8')\nexcept ValueError as error: print(error)"
    )
    assert "no files of the variant 'int8'" in run(code, endpoint, tmp_path / "home").stdout
