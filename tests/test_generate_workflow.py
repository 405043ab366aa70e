"""The example workflow from words, from a picture and inside a mask: here and on a real ComfyUI."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from .comfyui_process import shared_server
from .conftest import ROOT

WORKFLOW = ROOT / "example_workflows" / "image_to_image.json"
SMALL = {"2.steps": 8, "2.count": 2, "3.steps": 8, "7.steps": 8}
WORDS, PICTURE, MASK = "8", "9", "10"


def run(capsys, *options):
    from likeness.cli import main
    from likeness.host import use

    sets = [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    code = main(["run", str(WORKFLOW), "--json", "--quiet", *sets, *map(str, options)])
    use(None)
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert code == 0, answer
    shown = answer["outputs"]
    return {node: [pixels(path) for path in shown[node]["images"]] for node in shown}


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


def test_it_runs_here(capsys, tmp_path):
    drawn = run(capsys, "--output", tmp_path)
    assert [len(drawn[node]) for node in (WORDS, PICTURE, MASK)] == [2, 2, 2]
    for words, picture, mask in zip(drawn[WORDS], drawn[PICTURE], drawn[MASK], strict=True):
        assert np.abs(words - picture).mean() > 20, "grass and snow"
        around = np.abs(words - mask)[58:]
        inside = np.abs(words - mask)[20:40, 20:40]
        assert around.mean() < 8 < 20 < inside.mean(), "the mask keeps the beach"
    assert (ROOT / "example_workflows" / "image_to_image.jpg").is_file()


def test_a_real_comfyui_draws_the_same(capsys, tmp_path):
    import torch

    server = shared_server()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the server: sums in another order are other sums
    try:
        here = run(capsys, "--output", tmp_path / "here")
    finally:
        torch.set_num_threads(threads)
    there = run(capsys, "--output", tmp_path / "there", "--server", server.url)
    for node in (WORDS, PICTURE, MASK):
        for mine, theirs in zip(here[node], there[node], strict=True):
            assert (mine == theirs).all()
