"""Steer a pipeline with a ControlNet and a control picture."""

from __future__ import annotations

from ..host import io
from ..pipelines.control.modes import WORDS
from ..pipelines.guidance import FITS
from .sockets import ControlNet, Pipeline


class ApplyControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessApplyControlNet",
            display_name="Apply ControlNet",
            category="Likeness/guide",
            description="Let a control picture (edges, a pose, depth, ...) say where things are in "
            "what is drawn. Chain as many as you like, in any order.",
            search_aliases=["controlnet", "control image", "t2i adapter", "union", "soft weights"],
            inputs=[
                Pipeline.Input("pipeline", tooltip="The pipeline to steer."),
                ControlNet.Input("controlnet", tooltip="What steers it, made for its base model."),
                io.Image.Input(
                    "image",
                    tooltip="The control picture, as the ControlNet was trained on: edges, a pose, "
                    "depth. One for all that is drawn, or one for each picture to start from.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    tooltip="0 has no effect, 1 is as it was trained. Click and type any number "
                    "from 0 to 10.",
                ),
                io.Float.Input(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="From which share of the steps on it acts: 0 is the first step.",
                ),
                io.Float.Input(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Until which share of the steps it acts: 1 is the last step. Lower "
                    "leaves the details to the prompt.",
                ),
                io.Combo.Input(
                    "mode",
                    options=["auto", *WORDS],
                    default="auto",
                    tooltip="What the picture shows, for a ControlNet-Union: it must be told. "
                    "Leave auto for all others.",
                ),
                io.Combo.Input(
                    "fit",
                    options=list(FITS),
                    default="crop",
                    advanced=True,
                    tooltip="How a picture of another size comes to the size that is drawn. crop: "
                    "scaled to cover it, cut evenly. resize: stretched. pad: scaled to lie inside, "
                    "black around.",
                ),
                io.Boolean.Input(
                    "guess_mode",
                    default=False,
                    advanced=True,
                    tooltip="Let it guess what the picture shows, without a prompt: it acts on the "
                    "prompted half of guidance alone, weaker in the outer blocks.",
                ),
                _weights(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where it acts: white. As large as the control picture, and fitted in "
                    "the same way.",
                ),
            ],
            outputs=[
                Pipeline.Output(display_name="pipeline", tooltip="The pipeline, steered."),
            ],
        )

    @classmethod
    def execute(
        cls,
        pipeline,
        controlnet,
        image,
        strength=1.0,
        start=0.0,
        end=1.0,
        mode="auto",
        fit="crop",
        guess_mode=False,
        weights=None,
        mask=None,
    ):
        from ..pipelines.control.uses import control_use
        from ..pipelines.source_pictures import read_masks, read_pictures

        use = control_use(
            controlnet,
            read_pictures(image),
            read_masks(mask),
            mode=mode,
            weights=weights,
            strength=strength,
            start=start,
            end=end,
            fit=fit,
            guess=guess_mode,
        )
        return io.NodeOutput(pipeline.with_control(use))


def _weights():
    """How much of the strength each of its outputs gets."""
    falloff = io.Float.Input(
        "falloff",
        default=0.825,
        min=0.0,
        max=1.0,
        step=0.005,
        tooltip="Each output further out gets this much of the next one inwards: 1 is even, lower "
        "leaves more to the prompt.",
    )
    factors = io.String.Input(
        "factors",
        default="",
        tooltip="A number for each output, from the outermost block to the innermost, such as '0, "
        "0, 0.5, 1'. Load ControlNet says how many there are.",
    )
    return io.DynamicCombo.Input(
        "weights",
        tooltip="How much of strength each of its outputs gets. even: all of it. soft: less "
        "towards the outer blocks, so that the prompt counts more. own: numbers of yours.",
        options=[
            io.DynamicCombo.Option("even", []),
            io.DynamicCombo.Option("soft", [falloff]),
            io.DynamicCombo.Option("own", [factors]),
        ],
    )
