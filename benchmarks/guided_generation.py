"""What Generate costs beside the plain diffusers call when something steers it: the same weights,
seed and pixels, in turn.

    python benchmarks/guided_generation.py                         # tiny base, and one like SD 1.5
    python benchmarks/guided_generation.py --models tiny --quick   # a try, under a minute

For each model: with a ControlNet, with an IP-Adapter, with both. One process; in each round both
draw once, the first of the two in turn; ours looks everything up by its description, makes a
pipeline and a scheduler, reports every step and makes a preview after each. Both are given
pictures, not embeddings. Prints medians, their ratio and the smallest and largest ratio of a
round; the pixels of both are compared in every round.

Then ours draws with another prompt: what was loaded and what was computed from pictures for that.

"sd15" is a UNet of Stable Diffusion 1.5's size with a ControlNet to match, random weights; the
text encoder, VAE and image encoder are small, since both sides run them alike.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from generate_overhead import random_model
from guidance_use import Guides
from in_turn import drawing, in_turn
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling
from likeness.pipelines.images import open_image
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.spec import PipelineSpec
from likeness_metrics import TINY
from PIL import Image, ImageDraw
from safetensors.torch import save_file

PROMPT, NEGATIVE, NEXT_PROMPT = "a red star in the snow", "blue", "a green heart on the grass"
STRENGTH, WEIGHT, SEED = 0.9, 0.7, 7
WAYS = ("ControlNet", "IP-Adapter", "both")


@dataclass(frozen=True)
class Model:
    """Where everything lies. `size`: side of the drawn picture in pixels."""

    name: str
    base: Path
    controlnet: Path
    adapter: Path
    size: int
    dtype: str


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=("tiny", "sd15"), default=["tiny", "sd15"])
    parser.add_argument("--size", type=int, default=256, help="of the large model's pictures")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="3 rounds of 4 steps")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="where to write the numbers as well")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.repeats = 4, 3
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            model = tiny_model() if name == "tiny" else large_model(Path(folder), options.size)
            results += measure(model, options)
    print_table(results, options)
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def tiny_model() -> Model:
    adapter = TINY / "ip_adapter" / "ip_adapter.safetensors"
    return Model("tiny", TINY / "base", TINY / "controlnet", adapter, 64, "float32")


def large_model(folder: Path, size: int) -> Model:
    """A base as `generate_overhead.py` makes it, with a ControlNet and an IP-Adapter."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    base = random_model(folder / "base")
    unet = UNet2DConditionModel.from_pretrained(base / "unet", dtype=torch.bfloat16)
    controlnet = ControlNetModel.from_unet(unet)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in controlnet.named_parameters():
            if "controlnet_" in name and parameter.ndim > 1:  # they begin as zero
                parameter.copy_(0.01 * torch.randn(parameter.shape, generator=generator))
    controlnet.to(torch.bfloat16).save_pretrained(folder / "controlnet")
    tensors = {}
    for number, name in enumerate(unet.attn_processors):
        if name.endswith("attn2.processor"):
            shape = unet.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
            for layer in ("to_k_ip", "to_v_ip"):
                drawn = torch.randn(shape, generator=generator) * shape[1] ** -0.5
                tensors[f"ip_adapter.{number}.{layer}.weight"] = drawn.bfloat16()
    cross, width = unet.config.cross_attention_dim, 128  # of the bundled image encoder
    projection = torch.randn(4 * cross, width, generator=generator) * width**-0.5
    tensors["image_proj.proj.weight"] = projection.bfloat16()
    tensors["image_proj.proj.bias"] = torch.zeros(4 * cross, dtype=torch.bfloat16)
    tensors["image_proj.norm.weight"] = torch.ones(cross, dtype=torch.bfloat16)
    tensors["image_proj.norm.bias"] = torch.zeros(cross, dtype=torch.bfloat16)
    save_file(tensors, folder / "adapter.safetensors")
    where = (base, folder / "controlnet", folder / "adapter.safetensors")
    return Model("sd15", *where, size, "bfloat16")


def measure(model: Model, options: argparse.Namespace) -> list[dict[str, Any]]:
    pipelines = Pipelines(options.device)
    guides = Guides(model.controlnet, model.adapter)
    edges, picture = drawn_edges(model.size), open_image(TINY / "subject" / "03.png")
    control, reference = guides.control(edges, STRENGTH), guides.reference(picture, WEIGHT)
    base = PipelineSpec(base_model(model.base, dtype=model.dtype))
    specs = {
        "ControlNet": base.with_control(control),
        "IP-Adapter": base.with_reference(reference),
        "both": base.with_control(control).with_reference(reference),
    }
    plain = Plain(model, edges, picture, options)
    sampling = Sampling(
        PROMPT, NEGATIVE, steps=options.steps, seed=SEED, width=model.size, height=model.size
    )
    results = []
    for way in WAYS:
        ours = drawing(pipelines, specs[way], sampling)
        row = in_turn(ours, plain.drawing(way, sampling), options.repeats)
        loads, computed = pipelines.loads, pipelines.remembered.computed
        drawing(pipelines, specs[way], replace(sampling, prompt=NEXT_PROMPT))()
        again = (pipelines.loads - loads, pipelines.remembered.computed - computed)
        results.append(
            {"model": model.name, "way": way, **row, "loaded": again[0], "computed": again[1]}
        )
    return results


class Plain:
    """The plain pipelines around one further copy of the weights; "ControlNet" has to be drawn
    first, since an IP-Adapter changes the UNet for good.
    """

    def __init__(
        self, model: Model, edges: Image.Image, picture: Image.Image, options: argparse.Namespace
    ) -> None:
        from diffusers import ControlNetModel, StableDiffusionPipeline
        from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

        dtype = getattr(torch, model.dtype)
        self.model, self.edges, self.picture = model, edges, picture
        self.controlnet = ControlNetModel.from_pretrained(model.controlnet, dtype=dtype)
        encoder = CLIPVisionModelWithProjection.from_pretrained(TINY / "image_encoder", dtype=dtype)
        self.pipeline = StableDiffusionPipeline.from_pretrained(
            model.base,
            dtype=dtype,
            safety_checker=None,
            requires_safety_checker=False,
            image_encoder=encoder,
            feature_extractor=CLIPImageProcessor.from_pretrained(TINY / "feature_extractor"),
        )
        self.pipeline.to(options.device)
        self.controlnet.to(options.device)
        self.has_adapter = False

    def drawing(self, way: str, sampling: Sampling) -> Callable[[], Any]:
        from diffusers import StableDiffusionControlNetPipeline, StableDiffusionPipeline

        if way != "ControlNet" and not self.has_adapter:
            adapter = self.model.adapter
            self.pipeline.load_ip_adapter(
                adapter.parent, "", adapter.name, image_encoder_folder=None
            )
            self.pipeline.set_ip_adapter_scale(WEIGHT)
            self.has_adapter = True
        parts = {**self.pipeline.components, "requires_safety_checker": False}
        arguments: dict[str, Any] = {}
        if way == "IP-Adapter":
            pipeline = StableDiffusionPipeline(**parts)
        else:
            pipeline = StableDiffusionControlNetPipeline(**parts, controlnet=self.controlnet)
            arguments |= {"image": self.edges, "controlnet_conditioning_scale": STRENGTH}
        if way != "ControlNet":
            arguments["ip_adapter_image"] = self.picture
        pipeline.set_progress_bar_config(disable=True)

        def draw() -> Any:
            return pipeline(
                PROMPT,
                negative_prompt=NEGATIVE,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance,
                width=sampling.width,
                height=sampling.height,
                generator=torch.Generator().manual_seed(SEED),
                **arguments,
            ).images[0]

        return draw


def drawn_edges(side: int) -> Image.Image:
    """White lines on black."""
    edges = Image.new("RGB", (side, side))
    drawing = ImageDraw.Draw(edges)
    drawing.ellipse([side // 4, side // 4, side * 3 // 4, side * 3 // 4], outline="white")
    drawing.line([0, side * 3 // 4, side, side * 3 // 4], fill="white")
    return edges


def print_table(results: list[dict[str, Any]], options: argparse.Namespace) -> None:
    print(
        f"\n{options.steps} steps, {options.repeats} rounds, {options.device}, "
        f"{torch.get_num_threads()} threads\n"
    )
    columns = ("diffusers s", "likeness s", "ratio (rounds)", "processor", "loaded", "computed")
    print(f"| model | guided by | {' | '.join(columns)} |")
    print("|---" * (2 + len(columns)) + "|")
    for row in results:
        print(
            f"| {row['model']} | {row['way']} | {row['diffusers']:.3f} | {row['likeness']:.3f} "
            f"| {row['ratio']:.3f} ({row['smallest']:.3f} to {row['largest']:.3f}) "
            f"| {row['processor']:.3f} | {row['loaded']} | {row['computed']} |"
        )
    print("\nprocessor: the ratio of processor time, which other programs disturb less")
    print("loaded, computed: for the next picture, with another prompt")


if __name__ == "__main__":
    main()
