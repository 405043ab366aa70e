"""Make pictures with a pipeline."""

from __future__ import annotations

from ..host import host, io
from ..pipelines.generate import MAX_SEED, MAX_SIDE, SCHEDULERS
from . import session
from .sockets import Pipeline


class Generate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessGenerate",
            display_name="Generate",
            category="Likeness/generate",
            description="Draw pictures from a prompt. The same seed gives the same pictures as "
            "the plain diffusers "
            "pipeline, on the CPU bit for bit.",
            search_aliases=["sampler", "text to image", "ksampler"],
            inputs=[
                Pipeline.Input("pipeline", tooltip="The base model and everything put on it."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    tooltip="What to draw. Use the LoRA's trigger words to call its subject.",
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
                    tooltip="Width in pixels; 0 is the size the model was trained at.",
                ),
                io.Int.Input(
                    "height",
                    default=0,
                    min=0,
                    max=MAX_SIDE,
                    step=8,
                    advanced=True,
                    tooltip="Height in pixels; 0 is the size the model was trained at.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(SCHEDULERS),
                    default="model",
                    advanced=True,
                    tooltip="The sampler; 'model' is the one saved with the base model.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images", tooltip="The pictures, [count, height, width, 3]."
                )
            ],
        )

    @classmethod
    def execute(cls, pipeline, **settings):
        from ..pipelines.generate import Sampling, generate
        from ..pipelines.images import to_tensor

        sampling = Sampling(**settings)
        bar = host().progress(sampling.steps)
        images = generate(session.pipelines(), pipeline, sampling, on_step=bar.update)
        return io.NodeOutput(to_tensor(images))
