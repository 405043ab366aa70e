"""Make pictures with a pipeline."""

from __future__ import annotations

from ..host import host, io
from ..pipelines.generate import MAX_SEED, MAX_SIDE
from ..pipelines.schedulers import NOISE_SCHEDULES, SCHEDULERS
from . import session
from .sockets import Pipeline


class Generate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessGenerate",
            display_name="Generate",
            category="Likeness/generate",
            description="Draw pictures from a prompt, from another picture, or inside a mask. The "
            "same seed gives the same pictures as the plain diffusers pipeline, on the CPU bit for "
            "bit.",
            search_aliases=["sampler", "text to image", "ksampler", "img2img", "inpaint"],
            inputs=[
                Pipeline.Input("pipeline", tooltip="The base model and everything put on it."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="What to draw, of any length. Use the LoRA's trigger words to call its "
                    "subject. (word) counts 1.1 times, (word:1.3) 1.3 times, [word] 1/1.1 times.",
                ),
                io.String.Input(
                    "negative",
                    multiline=True,
                    default="",
                    tooltip="What to stay away from. Has no effect at a guidance of 1 or less.",
                ),
                io.Int.Input(
                    "steps",
                    default=25,
                    min=1,
                    max=1000,
                    tooltip="Denoising steps: more is slower and finer.",
                ),
                io.Float.Input(
                    "guidance",
                    default=5.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    tooltip="How closely to follow the prompt (classifier-free guidance scale); "
                    "1 or less switches guidance off and halves the time.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    tooltip="The start of all randomness. Picture n of a batch uses seed + n.",
                ),
                io.Int.Input(
                    "count",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Pictures in one batch; memory grows with it.",
                ),
                io.Int.Input(
                    "width",
                    default=0,
                    min=0,
                    max=MAX_SIDE,
                    step=8,
                    advanced=True,
                    tooltip="Width in pixels; 0 is the size the model was trained at, or that of "
                    "the picture to start from.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=MAX_SIDE,
                    step=8,
                    advanced=True,
                    tooltip="Height in pixels; 0 is the size the model was trained at, or that of "
                    "the picture to start from.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(SCHEDULERS),
                    default="model",
                    advanced=True,
                    tooltip="The sampler; 'model' is the one chosen in the load node, else its "
                    "own. A model refuses those that cannot sample it, and names the others.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="A picture to start from (image to image); each of a batch is drawn "
                    "'count' times.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where to draw anew (white) and what to keep (black), as large as the "
                    "picture.",
                ),
                io.Float.Input(
                    "denoise",
                    optional=True,
                    default=1.0,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of a given picture is drawn anew: 0.3 changes details, 1 "
                    "nearly everything. Without a picture it has no effect.",
                ),
                io.Combo.Input(
                    "noise_schedule",
                    optional=True,
                    options=list(NOISE_SCHEDULES),
                    default="model",
                    advanced=True,
                    tooltip="Which noise levels the sampler visits; 'model': those of the base "
                    "model's own sampler.",
                ),
                io.Float.Input(
                    "eta",
                    optional=True,
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    advanced=True,
                    tooltip="Fresh noise in each step of the sampler 'ddim': 0 is none, 1 as much "
                    "as 'ddpm'.",
                ),
                io.Float.Input(
                    "shift",
                    optional=True,
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    advanced=True,
                    tooltip="Flow-matching models (SD 3, FLUX, Z-Image): how far the noise levels "
                    "move towards noise; 0 is the model's own.",
                ),
                io.Int.Input(
                    "clip_skip",
                    optional=True,
                    default=0,
                    min=0,
                    max=11,
                    advanced=True,
                    tooltip="Layers of the CLIP text encoder left out at its end. 'Clip skip 2' of "
                    "other programs is 1 here.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", tooltip="The pictures, [count, height, width, 3]."
                )
            ],
        )

    @classmethod
    def execute(cls, pipeline, image=None, mask=None, **settings):
        from ..pipelines.generate import Sampling, generate
        from ..pipelines.images import to_tensor
        from ..pipelines.source_pictures import read_masks, read_pictures

        sampling = Sampling(**settings)
        bar = host().progress(sampling.steps)
        previews = []
        images = generate(
            session.pipelines(),
            pipeline,
            sampling,
            on_step=lambda done, total: bar.update(done, total, previews.pop()),
            image=read_pictures(image),
            mask=read_masks(mask),
            on_preview=previews.append,
        )
        return io.NodeOutput(to_tensor(images))
