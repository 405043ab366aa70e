"""What a step of training costs, in seconds and memory, beside the bare loop, diffusers' example
script and ComfyUI core's node; and whether it depends on how many pictures there are.

    python benchmarks/training.py --work DIR                      # everything; hours on two cores
    python benchmarks/training.py --work DIR --quick              # the tiny base, a minute
    python benchmarks/training.py --work DIR --models sd15 --precision float32 --only ours core

`tiny` is the bundled base at 64 pixels, `sd15` a checkpoint of Stable Diffusion 1.5's size with
random weights at 256 pixels (made once in DIR). LoRA of rank 8, batch of one, AdamW.

ours    a run folder, trained as a node trains it, log and result written
bare    forward, backward, clip, step on prepared tensors: same layers, precision, attention as ours
peft    the same with the layers of the PEFT library
paired  a step of ours and a bare one in turns in one process: the exact ratio, also on a machine
        that has other things to do
script  as diffusers' train_dreambooth_lora.py: pictures decoded, VAE and text encoder in each step
core    ComfyUI core's TrainLoraNode through a running server (`COMFYUI_PATH`, else
        ~/comfy/ComfyUI, with the Python of its .venv). It adapts every layer, ours then
        "everything", and by default computes everything twice to save memory, which ours does not
flat    ours on the tiny base with 30 and, once, with 30,000 pictures, each with its own caption

Each is measured in a process of its own, in turns, the first two steps left out; medians over the
repeats. s/step: wall clock. CPU s: processor time, all threads. job: from loaded to saved; whole:
with starting and loading (core: without starting the server). peak: the most memory that the
process ever held, mapped files included; stepping: while the counted steps ran. In brackets: how
many times ours.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from likeness.cli import share_the_machine
from training_tables import print_flat, print_table

HERE = Path(__file__).parent
TINY = HERE.parent / "assets" / "tiny"
WAYS = ("ours", "bare", "peft", "paired", "script", "core", "flat")
SIDE = {"tiny": 64, "sd15": 256}
STEPS = {"tiny": 200, "sd15": 14}
CORE_STEPS = 6
FLAT = (30, 30_000)
NOT_WRITTEN = ("script", "everything")
"""The example script adapts attention alone."""
Row = dict[str, Any]


def main() -> None:
    options = parsed()
    options.work.mkdir(parents=True, exist_ok=True)
    share_the_machine()  # without it what shares the machine decides who looks fast
    os.environ["HF_HUB_OFFLINE"] = "1"
    if options.threads:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    report: dict[str, Any] = {"machine": machine(options), "tables": [], "flat": []}
    print(json.dumps(report["machine"]))
    for model in options.models if set(options.only) != {"flat"} else ():
        for precision in options.precision:
            rows = measured(model, precision, options)
            report["tables"].append({"model": model, "precision": precision, "rows": rows})
            print_table(model, precision, rows)
    if "flat" in options.only:
        report["flat"] = flat_rows(options)
        print_flat(report["flat"])
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="where models and runs are put")
    parser.add_argument("--models", nargs="+", choices=list(SIDE), help="default: both")
    parser.add_argument("--only", nargs="+", choices=WAYS, help="default: all of them")
    parser.add_argument("--precision", nargs="+", default=["float32", "auto"])
    parser.add_argument("--learns", nargs="+", default=["attention", "everything"])
    parser.add_argument("--attention", default="auto", help="as the training setting of that name")
    parser.add_argument("--cache", default="auto", help="as the training setting of that name")
    parser.add_argument("--steps", type=int, default=0, help="default: 200 tiny, 14 sd15")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="default: as torch likes it")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep-activations", action="store_true", help="core: compute them once")
    parser.add_argument("--quick", action="store_true", help="one short round of small models")
    parser.add_argument("--json", type=Path, help="where to write every measurement")
    options = parser.parse_args()
    options.only = options.only or (["ours", "bare", "script"] if options.quick else list(WAYS))
    options.models = options.models or (["tiny"] if options.quick else list(SIDE))
    options.repeats = 1 if options.quick else options.repeats
    if options.quick:
        options.precision, options.steps = options.precision[:1], options.steps or 8
        options.learns = options.learns[:1] if options.models == ["tiny"] else options.learns
    return options


def measured(model: str, precision: str, options: argparse.Namespace) -> dict[str, list[Row]]:
    """Every row's measurements, by "way learns". Ours comes first: the others do as it did."""
    rows: dict[str, list[Row]] = {}
    seen: dict[str, Any] = {}
    for _ in range(options.repeats):
        for learns in options.learns if model == "sd15" else options.learns[:1]:
            for way in WAYS[:5]:
                first = way == "ours" and learns not in seen
                if not (way in options.only or first) or (way, learns) == NOT_WRITTEN:
                    continue
                told = task(model, precision, learns, options) | {"seen": seen.get(learns, {})}
                row = alone(way, told, options)
                rows.setdefault(f"{way} {learns}", []).append(row)
                if way == "ours" and "error" not in row:
                    seen[learns] = row["seen"]
        if "core" in options.only and model == "sd15" and "everything" in options.learns:
            rows.setdefault("core everything", []).append(core_row(precision, options))
    return rows


def task(model: str, precision: str, learns: str, options: argparse.Namespace) -> Row:
    steps = options.steps or STEPS[model]
    if model == "tiny":
        path, config, pictures = TINY / "base", "", TINY / "subject"
    else:
        path, config = checkpoint(options)
        pictures = large_pictures(options.work / "pictures")
    return {
        "model": str(path.resolve()),
        "config": str(config),
        "pictures": str(pictures.resolve()),
        "size": side(model, options),
        "steps": steps,
        "learns": learns,
        "precision": precision,
        "attention": options.attention,
        "cache": options.cache,
        "device": options.device,
        "folder": str(options.work.resolve()),
    }


def side(model: str, options: argparse.Namespace) -> int:
    return 128 if options.quick and model == "sd15" else SIDE[model]


def checkpoint(options: argparse.Namespace) -> tuple[Path, Path]:
    """The file with random weights and its folder of configurations."""
    size = "small" if options.quick else "full"
    path = options.work / f"sd15-{size}.safetensors"
    if not path.is_file():
        command = [sys.executable, HERE / "make_checkpoints.py", options.work]
        subprocess.run([*command, "--model", "sd15", "--size", size], check=True)
    return path, path.with_name(f"sd15-{size}-config")


def large_pictures(folder: Path) -> Path:
    """The bundled pictures as large as a camera's might be cropped to: 1024 pixels, JPEG."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for source in (TINY / "subject").glob("*.png"):
        with Image.open(source) as picture:
            large = picture.convert("RGB").resize((1024, 1024), Image.Resampling.LANCZOS)
            large.save(folder / f"{source.stem}.jpg", quality=95)
    return folder


def alone(way: str, told: Row, options: argparse.Namespace) -> Row:
    """Measure in a process of its own, without what an earlier one left in caches on disk."""
    shutil.rmtree(options.work / "runs", ignore_errors=True)
    command = [sys.executable, __file__, "--one", json.dumps({"way": way, **told})]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    whole = time.perf_counter() - began
    for line in done.stdout.splitlines():
        if line.startswith("RESULT"):
            return {"whole": whole, **json.loads(line.removeprefix("RESULT"))}
    return {"error": (done.stderr.strip() or "no output")[-2000:]}


def core_row(precision: str, options: argparse.Namespace) -> Row:
    from PIL import Image
    from training_core import comfyui, core
    from training_work import PROMPT, RANK

    if comfyui() is None or options.device != "cpu":
        return {"error": "no ComfyUI here: set COMFYUI_PATH to a checkout (measured on the CPU)"}
    path, _ = checkpoint(options)
    pixels = side("sd15", options)
    picture = options.work / f"picture-{pixels}.png"
    with Image.open(TINY / "subject" / "01.png") as small:
        small.convert("RGB").resize((pixels, pixels), Image.Resampling.LANCZOS).save(picture)
    wishes = {"steps": min(options.steps or CORE_STEPS, CORE_STEPS), "rank": RANK}
    wishes["gradient_checkpointing"] = not options.keep_activations
    try:
        return core(path, picture, PROMPT, precision, options.work / "comfyui", **wishes)
    except RuntimeError as error:
        return {"error": str(error)}


def flat_rows(options: argparse.Namespace) -> dict[str, list[Row]]:
    """Ours on the tiny base, with few pictures and with many."""
    rows: dict[str, list[Row]] = {}
    counts = (30, 300) if options.quick else FLAT
    for number in range(options.repeats):
        for count in counts if number == 0 else counts[:1]:  # many are slow to prepare
            told = task("tiny", "float32", "attention", options)
            told["pictures"] = str(many_pictures(options.work / f"pictures-{count}", count))
            rows.setdefault(str(count), []).append(alone("ours", told, options))
    return rows


def many_pictures(folder: Path, count: int) -> Path:
    """`count` different pictures of 64 x 64 pixels, each with a caption of its own."""
    import numpy as np
    from PIL import Image

    if len(list(folder.glob("*.png"))) < count:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        draw = np.random.default_rng(0)
        for index in range(count):
            picture = np.empty((64, 64, 3), np.uint8)
            picture[:] = draw.integers(0, 256, 3)
            for _ in range(3):
                top, left = draw.integers(0, 48, 2)
                height, width = draw.integers(8, 32, 2)
                picture[top : top + height, left : left + width] = draw.integers(0, 256, 3)
            (folder / f"{index:05d}.txt").write_text(f"three boxes, picture {index}")
            Image.fromarray(picture).save(folder / f"{index:05d}.png", compress_level=1)
    return folder.resolve()


def machine(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    gpu = torch.cuda.get_device_name() if options.device.startswith("cuda") else ""
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": options.threads or torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "system": platform.platform(),
        "arguments": sys.argv[1:],
    }


def process(told: Row) -> None:
    """One measurement, in the process that was started for it."""
    from importlib import import_module

    from training_work import Work

    way = told.pop("way")
    modules = {"bare": "bare", "peft": "bare", "script": "script"}
    module = f"training_{modules.get(way, 'ours')}"
    print("RESULT" + json.dumps(getattr(import_module(module), way)(Work(**told))))


if __name__ == "__main__":
    process(json.loads(sys.argv[2])) if sys.argv[1:2] == ["--one"] else main()
