"""A ComfyUI node for the tests only: asks our host, inside the real ComfyUI, and shows the answer.

Loaded by the test server beside the pack (see `comfyui_process.py`); never by users.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from comfy_api.latest import ComfyExtension, io


def our_host():
    """ComfyUI names a pack's module by its path, so ours is found by how the name ends."""
    module = next(m for name, m in sys.modules.items() if name.endswith("/likeness.host"))
    return module.host()


def describe():
    import torch

    host = our_host()
    kinds = ("diffusers", "loras", "checkpoints", "controlnet", "ipadapter")
    return {
        "name": host.name,
        "device": host.device(),
        "input": str(host.input_directory()),
        "output": str(host.output_directory()),
        "temp": str(host.temp_directory()),
        "names": {kind: host.model_names(kind) for kind in kinds},
        "folders": {kind: [str(f) for f in host.model_folders(kind)] for kind in kinds},
        "image_folders": host.image_folder_names(),
        "inference_mode": torch.is_inference_mode_enabled(),
    }


def find(kind, name):
    host = our_host()
    try:
        return str(host.image_folder(name) if kind == "images" else host.model_path(kind, name))
    except ValueError as error:
        return f"ValueError: {error}"


def keep(file, megabytes=1):
    """Puts a model under ComfyUI's memory manager; whatever happens to it adds a line to `file`."""
    import torch

    def note(what):
        with Path(file).open("a") as notes:
            notes.write(f"{what}\n")

    model = torch.nn.Linear(512, 512 * megabytes, bias=False)
    KEPT[file] = our_host().keep([model], lambda: note("bring"), lambda: note("evict"))
    use(file)


def use(file):
    KEPT[file].use()


def forget(file):
    from comfy import model_management

    KEPT.pop(file).forget()
    return len(model_management.current_loaded_models)


def progress(steps, seconds):
    """Moves the bar; says how far it came before the stop button."""
    from PIL import Image

    host = our_host()
    bar = host.progress(steps)
    for step in range(1, steps + 1):
        bar.tell(f"{step} of {steps}")
        try:
            bar.update(step, preview=Image.new("RGBA", (64, 64)))
        except BaseException as error:
            if not host.is_interruption(error):
                raise
            Path(host.output_directory() / "stopped.json").write_text(json.dumps(step))
            raise
        time.sleep(seconds)
    return "done"


def stretches(totals):
    """One bar for several stretches of work, each to its end."""
    bar = our_host().progress(1)
    for total in totals:
        for step in range(1, total + 1):
            bar.update(step, total)
    return "done"


def need(gigabytes):
    """What ComfyUI does before it loads a model of its own."""
    from comfy import model_management

    model_management.free_memory(gigabytes * 2**30, model_management.get_torch_device())


KEPT = {}
ACTIONS = {f.__name__: f for f in (describe, find, keep, use, forget, progress, stretches, need)}


class Probe(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = [io.String.Input("action"), io.String.Input("arguments", default="[]")]
        return io.Schema(node_id="LikenessProbe", inputs=inputs, is_output_node=True)

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        return time.time()

    @classmethod
    def execute(cls, action, arguments):
        result = ACTIONS[action](*json.loads(arguments))
        return io.NodeOutput(ui={"text": (json.dumps(result),)})


class ProbeExtension(ComfyExtension):
    async def get_node_list(self):
        return [Probe]


async def comfy_entrypoint():
    return ProbeExtension()
