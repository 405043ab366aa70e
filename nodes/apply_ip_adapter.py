"""Let a drawing take after pictures, through an IP-Adapter."""

from __future__ import annotations

from typing import Any

from ..host import io
from ..pipelines.guidance import COMBINE
from ..pipelines.ip_adapter.presets import PRESETS
from .sockets import ImageEmbeddings, IPAdapter, Pipeline

OWN = "own"


class ApplyIPAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="LikenessApplyIPAdapter",
            display_name="Apply IP-Adapter",
            category="Likeness/guide",
            description="Let everything drawn with the pipeline take after one or several "
            "pictures. Several of these nodes add up, whatever their order; a ControlNet and LoRAs "
            "work beside them.",
            search_aliases=["ipadapter", "image prompt", "style transfer", "faceid", "reference"],
            inputs=[
                Pipeline.Input("pipeline", tooltip="The pipeline to put the adapter on."),
                IPAdapter.Input("adapter", tooltip="The IP-Adapter, with its image encoder."),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="The picture to take after; a batch is several pictures. For FaceID: "
                    "portraits. Not needed where embeddings are connected.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=-10.0,
                    max=10.0,
                    step=0.05,
                    tooltip="How much the pictures count beside the prompt: 0 nothing, 1 as "
                    "trained. 0.5 to 0.8 leaves the prompt its say.",
                ),
                _share("start", 0.0, "From which share of the steps on it acts: 0 is the first."),
                _share("end", 1.0, "Up to which share of the steps it acts: 1 is the last."),
                _blocks(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the drawn picture it acts (white); stretched to its size. "
                    "One node for each person or region. Stable Diffusion and SDXL.",
                ),
                io.Image.Input(
                    "negative",
                    optional=True,
                    advanced=True,
                    tooltip="A picture to stay away from, such as noise, or a style not wanted. "
                    "Needs a guidance above 1.",
                ),
                ImageEmbeddings.Input(
                    "embeddings",
                    optional=True,
                    advanced=True,
                    tooltip="Saved embeddings in the place of the picture: no image encoder is "
                    "needed.",
                ),
                io.Combo.Input(
                    "combine",
                    options=list(COMBINE),
                    default=COMBINE[0],
                    optional=True,
                    advanced=True,
                    tooltip="Several pictures. concatenate: all are looked at, each with its own "
                    "details. average: what they have in common, as one picture.",
                ),
            ],
            outputs=[
                Pipeline.Output(
                    display_name="pipeline", tooltip="The pipeline with the adapter on."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        pipeline,
        adapter,
        image=None,
        weight=1.0,
        start=0.0,
        end=1.0,
        blocks=None,
        mask=None,
        negative=None,
        embeddings=None,
        combine="concatenate",
    ):
        from ..pipelines.guidance import ReferenceUse, described
        from ..pipelines.source_pictures import read_masks, read_pictures

        masks = described(read_masks(mask), "for a mask")
        use = ReferenceUse(
            adapter,
            described(read_pictures(image), "to take after"),
            weight,
            start,
            end,
            _chosen(blocks or {}, pipeline.base.family),
            combine,
            described(read_pictures(negative), "to stay away from"),
            embeddings,
            _only(masks),
        )
        return io.NodeOutput(pipeline.with_reference(use))


def _only(masks: tuple[Any, ...]) -> Any:
    if len(masks) > 1:
        raise ValueError(
            f"{len(masks)} masks cannot be used in one node; use one node for each region"
        )
    return masks[0] if masks else None


def _share(name: str, default: float, tooltip: str) -> Any:
    return io.Float.Input(
        name, default=default, min=0.0, max=1.0, step=0.01, optional=True, tooltip=tooltip
    )


def _blocks() -> Any:
    own = io.String.Input(
        "factors",
        default="",
        tooltip="How much of the weight each block of the denoiser gets, such as "
        "'down=0.5, mid=1, up.0-1=0, *=0'.",
    )
    return io.DynamicCombo.Input(
        "blocks",
        options=[
            *(io.DynamicCombo.Option(preset, []) for preset in PRESETS),
            io.DynamicCombo.Option(OWN, [own]),
        ],
        optional=True,
        tooltip="Where in the denoiser the pictures are heard. style only: colours and manner, "
        "layout only: what is where (InstantStyle; SDXL, and as an experiment Stable Diffusion "
        "1.x). own: factors for its blocks.",
    )


def _chosen(blocks: dict[str, Any], family: str) -> tuple[tuple[str, float], ...]:
    from ..pipelines.ip_adapter.presets import own_blocks, preset_blocks

    chosen = blocks.get("blocks", PRESETS[0])
    return own_blocks(blocks["factors"]) if chosen == OWN else preset_blocks(chosen, family)
