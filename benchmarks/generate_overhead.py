"""What Generate costs beside the bare diffusers call: the same weights, seed and pixels, in turn.

    python benchmarks/generate_overhead.py                    # UNet as large as SD 1.5's, random
    python benchmarks/generate_overhead.py --model FOLDER     # any Stable Diffusion 1.x/2.x folder
    python benchmarks/generate_overhead.py --model assets/tiny/base --size 64 --repeats 20

One process, one copy of the weights. In each round both draw once, the first of the two in turn;
ours looks up the model, makes a pipeline and a scheduler, reports every step and makes a preview
after each. Prints the medians, their ratio, and the smallest and largest ratio of a round. The
pixels of both are compared in every round.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from in_turn import drawing, in_turn
from likeness.pipelines.base_models import base_model
from likeness.pipelines.generate import Sampling
from likeness.pipelines.loading import Pipelines
from likeness.pipelines.spec import PipelineSpec

ROOT = Path(__file__).parent.parent
PROMPT, NEGATIVE = "a red star in the snow", "blue"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--json", type=Path, help="where to write the numbers as well")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or random_model(Path(folder))
        result = measure(model, options)
    print(json.dumps(result, indent=1))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def random_model(folder: Path) -> Path:
    """A diffusers folder with a UNet of Stable Diffusion 1.5's size; text encoder and VAE are
    small, since both sides run them alike. The VAE makes latents an eighth of the picture's size.
    """
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    tiny = StableDiffusionPipeline.from_pretrained(
        ROOT / "assets" / "tiny" / "base", dtype=torch.bfloat16, safety_checker=None
    )
    config = UNet2DConditionModel.load_config(ROOT / "families" / "configs" / "sd1" / "unet")
    tiny.unet = UNet2DConditionModel.from_config(config).to(torch.bfloat16)
    tiny.vae = AutoencoderKL(
        block_out_channels=(32, 32, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=4,
    ).to(torch.bfloat16)
    text = CLIPTextConfig(**tiny.text_encoder.config.to_dict() | {"hidden_size": 768})
    tiny.text_encoder = CLIPTextModel(text).to(torch.bfloat16)
    tiny.save_pretrained(folder)
    return folder


def measure(model: Path, options: argparse.Namespace) -> dict[str, Any]:
    pipelines, spec = (
        Pipelines(options.device),
        PipelineSpec(base_model(model, dtype=options.dtype)),
    )
    sampling = Sampling(
        PROMPT, NEGATIVE, steps=options.steps, seed=7, width=options.size, height=options.size
    )
    ours = drawing(pipelines, spec, sampling)
    begun = time.perf_counter()
    ours()
    first = time.perf_counter() - begun
    bare_pipeline = plain(pipelines, spec)

    def bare() -> Any:
        return bare_pipeline(
            PROMPT,
            negative_prompt=NEGATIVE,
            num_inference_steps=options.steps,
            guidance_scale=sampling.guidance,
            width=options.size,
            height=options.size,
            generator=torch.Generator().manual_seed(7),
        ).images[0]

    told = in_turn(ours, bare, options.repeats)
    return {
        "median seconds": {name: round(told[name], 3) for name in ("likeness", "diffusers")},
        "ratio of medians": round(told["ratio"], 4),
        "ratio of a round": [round(told["smallest"], 4), round(told["largest"], 4)],
        "first call with loading, seconds": round(first, 2),
        "rounds": options.repeats,
        "steps": options.steps,
        "size": options.size,
        "device": options.device,
        "threads": torch.get_num_threads(),
    }


def plain(pipelines: Pipelines, spec: PipelineSpec) -> Any:
    """The bare pipeline around the same weights, with a scheduler of its own."""
    from diffusers import StableDiffusionPipeline

    with pipelines.open(spec.base) as live:
        parts = dict(live.pipeline.components)
        parts["scheduler"] = type(parts["scheduler"]).from_config(parts["scheduler"].config)
        pipeline = StableDiffusionPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


if __name__ == "__main__":
    main()
