"""Makes the tiny base model: `python assets/tiny/make.py --work DIR STAGE... [--minutes N]`.

Each stage reads what the stages before it left in the work folder, goes on from its own checkpoint
if it was stopped, and notes its steps, seconds and measurements in `<stage>.json`. It uses one
thread; two stages can run side by side.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

STAGES = {
    "pictures": "draw the training pictures",
    "tokenizer": "a CLIP tokenizer that knows the words of the captions",
    "vae": "encoder and decoder",
    "decoder": "the decoder alone, a while longer",
    "judge": "a small network that reads noun, colour and background off a picture",
    "clip": "the image encoder, and the text tower that shaped it",
    "denoiser": "text encoder and UNet together",
    "measure": "how well prompts are followed",
    "teach": "the creature as a LoRA, and what that does to the class",
    "ship": "the diffusers folder, fp16",
    "control": "a ControlNet that follows edges, beside a finished base",
    "reference": "an IP-Adapter that takes after a picture, beside a finished base",
    "ship_guides": "the ControlNet and the IP-Adapter, fp16",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = "; ".join(f"{name}: {what}" for name, what in STAGES.items())
    parser.add_argument("stages", nargs="+", metavar="STAGE", choices=STAGES, help=known)
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for checkpoints and results"
    )
    parser.add_argument(
        "--minutes", type=float, help="stop each stage after this long; run it again to go on"
    )
    parser.add_argument(
        "--steps", type=int, help="train for this many steps instead of the stage's own number"
    )
    parser.add_argument(
        "--start",
        type=Path,
        help="a folder with base and image_encoder to go on from, not from noise",
    )
    parser.add_argument(
        "--base",
        type=Path,
        help="measure, teach, control, reference: this base instead of the one made here",
    )
    asked = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    asked.work.mkdir(parents=True, exist_ok=True)
    for stage in asked.stages:
        run(stage, asked)


def run(stage: str, asked: argparse.Namespace) -> None:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    base = asked.base or asked.work / "shipped" / "base"
    length = {"minutes": asked.minutes} | ({"steps": asked.steps} if asked.steps else {})
    if stage == "pictures":
        from pictures import draw_all

        draw_all(asked.work)
    elif stage == "tokenizer":
        from words import make_tokenizer

        make_tokenizer(asked.work)
    elif stage == "vae":
        from vae import train_vae

        train_vae(asked.work, start=asked.start, **length)
    elif stage == "decoder":
        from vae import train_decoder

        train_decoder(asked.work, **length)
    elif stage == "judge":
        from judge import train_judge

        train_judge(asked.work, **length)
    elif stage == "clip":
        from clip import train_clip

        train_clip(asked.work, start=asked.start, **length)
    elif stage == "denoiser":
        from denoiser import train_denoiser

        train_denoiser(asked.work, start=asked.start, **length)
    elif stage == "measure":
        from measure import measure

        measure(asked.work, base)
    elif stage == "teach":
        from teach import teach

        teach(asked.work, base)
    elif stage == "ship":
        from ship import ship

        ship(asked.work)
    elif stage == "control":
        from control import train_control

        train_control(asked.work, base, **length)
    elif stage == "reference":
        from reference import train_reference

        train_reference(asked.work, base, **length)
    elif stage == "ship_guides":
        from ship_guides import ship_guides

        ship_guides(asked.work)


if __name__ == "__main__":
    main()
