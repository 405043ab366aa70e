"""Load one single-file checkpoint with Likeness, plain diffusers and ComfyUI, each in a process of
its own, in one run: time until the weights are ready on the device, and peak memory.

    python benchmarks/make_checkpoints.py /some/folder
    python benchmarks/loading.py /some/folder/sd15-full.safetensors --dtype float16 float32

`ready`: from the call until every page of every weight has been touched, so that a file which is
only mapped is not called loaded. `load`: until the call returns. `peak`: the most resident memory
of the process, mapped files included; `own`: what of it is private to the process at the end. Both
without what the imports took. Imports are not timed. The file is in the page cache for all.
ComfyUI runs under `COMFYUI_PATH` (else `~/comfy/ComfyUI`) with the Python of its `.venv`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from likeness.cli import share_the_machine

MEASURE = """
import gc, json, re, sys, time

def kilobytes(field):
    text = open("/proc/self/status").read()
    return int(re.search(field + r":\\s+(\\d+)", text)[1])

def measured(load, path):
    import torch
    gc.collect()
    with open("/proc/self/clear_refs", "w") as stream:
        stream.write("5")  # the peak starts anew
    before = kilobytes("VmRSS"), kilobytes("RssAnon")
    start = time.perf_counter()
    kept, modules = load(path)
    loaded = time.perf_counter() - start
    total = 0
    for module in modules:
        for tensor in module.parameters():
            step = max(1, 4096 // tensor.element_size())
            tensor.detach().reshape(-1)[::step].float().sum()
            total += tensor.numel() * tensor.element_size()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    ready = time.perf_counter() - start
    kinds = sorted({str(p.dtype).removeprefix("torch.") for m in modules for p in m.parameters()})
    print("RESULT" + json.dumps({
        "load": loaded, "ready": ready, "weights": total / 1e6, "dtypes": kinds,
        "peak": (kilobytes("VmHWM") - before[0]) / 1e3,
        "own": (kilobytes("RssAnon") - before[1]) / 1e3,
    }))
"""

LIKENESS = """
from pathlib import Path
import torch, diffusers, transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
from likeness.host.standalone import StandaloneHost
from likeness.pipelines.base_models import base_model
from likeness.pipelines.loading import Pipelines

def load(path):
    cache = Pipelines(DEVICE, comfyui_folder=StandaloneHost().comfyui_folder())
    with cache.open(base_model(path, dtype=DTYPE)) as live:
        return cache, live.modules
"""

DIFFUSERS = """
import torch, diffusers, transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer
import diffusers.utils.logging
diffusers.utils.logging.disable_progress_bar()

def load(path):
    kind = json.load(open(CONFIG + "/model_index.json"))["_class_name"]
    told = {"safety_checker": None} if kind == "StableDiffusionPipeline" else {}
    pipeline = getattr(diffusers, kind).from_single_file(
        path, config=CONFIG, local_files_only=True, torch_dtype=getattr(torch, DTYPE), **told
    ).to(DEVICE)
    return pipeline, [p for p in pipeline.components.values() if hasattr(p, "parameters")]
"""

COMFYUI = """
import os
short = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}[DTYPE]
sys.argv = ["main.py", f"--{short}-unet", f"--{short}-vae", f"--{short}-text-enc"]
sys.argv += ["--cpu"] * (DEVICE == "cpu")
sys.path.insert(0, COMFY)
import comfy.options
comfy.options.enable_args_parsing()
import torch, folder_paths, nodes
from comfy import model_management

def load(path):
    folder, name = os.path.split(path)
    folder_paths.add_model_folder_path("checkpoints", folder)
    with torch.inference_mode():
        model, clip, vae = nodes.CheckpointLoaderSimple().load_checkpoint(name)[:3]
        model_management.load_models_gpu([model, clip.patcher, vae.patcher], force_full_load=True)
    return (model, clip, vae), [model.model, clip.patcher.model, vae.first_stage_model]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--dtype", nargs="+", default=["float16", "float32"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write every measurement here")
    options = parser.parse_args()
    read_once(options.checkpoint)
    everything = []
    for dtype in options.dtype:
        runs: dict[str, list[dict[str, Any]]] = {}
        for _ in range(options.repeats):  # in turns, so that a slow minute hits all
            for name, (python, code) in contenders(options.checkpoint).items():
                runs.setdefault(name, []).append(run(python, code, options, dtype))
        print_table(options.checkpoint, dtype, options.device, runs)
        everything.append({"dtype": dtype, "runs": runs})
    if options.json:
        options.json.write_text(json.dumps(everything, indent=1))


def contenders(checkpoint: Path) -> dict[str, tuple[str, str]]:
    """Name → the Python that runs it, and its code."""
    comfyui = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI")
    config = checkpoint.with_name(f"{checkpoint.stem}-config")
    found = {"likeness": (sys.executable, LIKENESS)}
    if config.is_dir():
        found["diffusers"] = (sys.executable, f"CONFIG = {str(config)!r}\n{DIFFUSERS}")
    python = comfyui / ".venv" / "bin" / "python"
    if python.is_file():
        found["ComfyUI"] = (str(python), f"COMFY = {str(comfyui)!r}\n{COMFYUI}")
    return found


def run(python: str, code: str, options: argparse.Namespace, dtype: str) -> dict[str, Any]:
    told = f"DTYPE, DEVICE = {dtype!r}, {options.device!r}\n"
    script = f"{MEASURE}\n{told}{code}\nmeasured(load, {str(options.checkpoint.resolve())!r})"
    share_the_machine()  # without it what shares the machine decides who looks fast
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, "-c", script], capture_output=True, text=True, env=environment, cwd="/"
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT"):
            return json.loads(line.removeprefix("RESULT"))
    last = (done.stderr.strip() or "no output").splitlines()[-1]
    return {"error": last}


def read_once(path: Path) -> None:
    with path.open("rb") as stream:
        while stream.read(1 << 24):
            pass


def print_table(
    checkpoint: Path, dtype: str, device: str, runs: dict[str, list[dict[str, Any]]]
) -> None:
    print(f"\n{checkpoint.name}, {dtype} on {device}; medians, in brackets against likeness")
    print(f"{'':12}{'load s':>16}{'ready s':>16}{'peak MB':>18}{'own MB':>18}  weights")
    first: dict[str, float] = {}
    for name, results in runs.items():
        good = [result for result in results if "error" not in result]
        if not good:
            print(f"{name:12}failed: {results[0]['error'][:150]}")
            continue
        cells = []
        for key, width, digits in (
            ("load", 9, 2),
            ("ready", 9, 2),
            ("peak", 11, 0),
            ("own", 11, 0),
        ):
            value = statistics.median(result[key] for result in good)
            ratio = value / first.setdefault(key, max(value, 1e-9))
            cells.append(f"{value:{width}.{digits}f} ({ratio:4.1f})")
        kinds = ", ".join(good[0]["dtypes"])
        print(
            f"{name:12}{''.join(f'{cell:>16}' for cell in cells)}  "
            f"{good[0]['weights']:.0f} MB {kinds}"
        )


if __name__ == "__main__":
    main()
