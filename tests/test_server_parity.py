"""The same quickstart here and on a real ComfyUI: the same pixels for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .comfyui_process import shared_server
from .test_quickstart import QUICKSTART, SMALL


@pytest.fixture(scope="module")
def comfyui():
    return shared_server()


def run(capsys, *options):
    from likeness.cli import main
    from likeness.host import use

    sets = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    code = main(["run", str(QUICKSTART), "--json", "--quiet", *sets, *map(str, options)])
    use(None)
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0, answer
    return answer["outputs"]


def test_a_server_draws_the_same_pixels(comfyui, capsys, tmp_path, monkeypatch):
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the server: sums in another order are other sums
    try:
        here = run(capsys, "--output", tmp_path / "here")
    finally:
        torch.set_num_threads(threads)
    there = run(capsys, "--output", tmp_path / "there", "--server", comfyui.url)
    assert here.keys() == there.keys()
    compared = 0
    for node, shown in here.items():
        assert len(shown["images"]) == len(there[node]["images"])
        for mine, theirs in zip(shown["images"], there[node]["images"], strict=True):
            with Image.open(mine) as first, Image.open(theirs) as second:
                assert (np.asarray(first) == np.asarray(second)).all(), f"{mine} and {theirs}"
            compared += 1
    assert compared == 8  # five pictures, before, after, loss
    (file,) = [path for shown in there.values() for path in shown["files"]]
    assert Path(file).suffix == ".safetensors"
