"""Weights that rest in a file are not in memory twice, and the file stays what it was."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MB = 1 << 20

SCRIPT = """
import json, sys, time
import torch
from likeness.pipelines.lora.fused_weights import FusedWeights
from likeness.pipelines.lora.changes import LoraPair
from likeness.pipelines.lora.layers import Layer, Part
from likeness.pipelines.tensor_file import is_mapped, open_tensors
from likeness.pipelines.lora.weight_targets import targets_of

torch.set_num_threads(1)


def memory():
    found = {}
    for line in open("/proc/self/smaps_rollup"):
        name, _, rest = line.partition(":")
        if rest.strip().endswith("kB"):
            found[name] = int(rest.split()[0]) * 1024
    return {"all": found["Rss"], "own": found["Anonymous"]}


file = open_tensors(sys.argv[1])
root = torch.nn.Module()
layers = []
draw = torch.Generator().manual_seed(0)
for name, (out, width) in sorted(file.shapes().items()):
    with torch.device("meta"):
        module = torch.nn.Linear(width, out, bias=False)
    module.weight = torch.nn.Parameter(file.tensor(name), requires_grad=False)
    assert is_mapped(module.weight)
    root.add_module(name.replace(".", "_"), module)
    pair = LoraPair(torch.randn(8, width, generator=draw), torch.randn(out, 8, generator=draw), 8.0)
    layers.append((name, module, pair))
size = sum(module.weight.numel() * 4 for _, module, _ in layers)


def targets(scale):
    return targets_of([Layer(n, m, (Part("0" * 64, scale, p),)) for n, m, p in layers])


told = {"size": size}
kept = FusedWeights()
with kept.put_on(targets(0.01), [root]):
    pass
kept.drop()
told["start"] = memory()  # the libraries are all there now
checks = [float(module.weight.sum()) for _, module, _ in layers]
told["base"] = memory()
for scale in (0.5, 0.25):
    with kept.put_on(targets(scale), [root]):
        assert not is_mapped(layers[0][1].weight)
        told[f"fused at {scale}"] = memory()
assert checks == [float(module.weight.sum()) for _, module, _ in layers]
assert all(is_mapped(module.weight) for _, module, _ in layers)
with kept.put_on(targets(0.25), [root]):
    told["again"] = memory()
kept.drop()
told["dropped"] = memory()
print(json.dumps(told))
"""


@pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell it"
)
def test_fused_weights_take_the_place_of_those_in_the_file(tmp_path):
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file({f"layer.{i}": torch.full((1280, 2560), 0.5 + i) for i in range(15)}, path)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    script = tmp_path / "measure.py"
    script.write_text(SCRIPT)
    quiet = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [sys.executable, str(script), str(path)], capture_output=True, text=True, env=quiet
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    size, start = told["size"], told["start"]
    assert size > 180 * MB

    def more(when, what):
        return told[when][what] - start[what]

    assert more("base", "own") < 8 * MB  # the base costs no memory of its own
    for when in ("fused at 0.5", "fused at 0.25", "again"):
        assert abs(more(when, "own") - size) < 16 * MB
        assert more(when, "all") < size + 16 * MB  # the pristine weights are not in memory as well
    assert more("dropped", "own") < 16 * MB
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
