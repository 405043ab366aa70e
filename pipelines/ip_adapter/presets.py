"""Which attention layers an IP-Adapter acts on: named presets, or factors for blocks.

InstantStyle (arXiv 2404.02733) found that in SDXL the transformer `up_blocks.0.attentions.1`
carries style and `down_blocks.2.attentions.1` layout. For Stable Diffusion 1.x its code names
blocks instead, as an experiment with less to show: `up_blocks.1` for style, `down_blocks.2` and the
middle besides for layout. The same is done here. For FLUX and SD 3 nothing of the kind is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ...families import Family
    from ..lora.blocks import Blocks

_PLACE = re.compile(r"((?:\w*_blocks|mid_block)(?:\.\w+)*)\s*=\s*([+-]?\d*\.?\d+)")
PRESETS = ("all", "style only", "layout only", "style and layout")

_STYLE: Mapping[str, tuple[str, ...]] = {
    "sdxl": ("up_blocks.0.attentions.1",),
    "stable-diffusion": ("up_blocks.1",),
}
_LAYOUT: Mapping[str, tuple[str, ...]] = {
    "sdxl": ("down_blocks.2.attentions.1",),
    "stable-diffusion": ("down_blocks.2", "mid_block"),
}


def preset_blocks(preset: str, family: str) -> tuple[tuple[str, float], ...]:
    """A preset as `ReferenceUse.blocks` for a family of base models: module path → factor.

    Raises:
        ValueError: an unknown preset, or one that says nothing about this family.
    """
    if preset not in PRESETS:
        raise ValueError(f"blocks {preset!r} is unknown; use one of {', '.join(PRESETS)}")
    if preset == "all":
        return ()
    if family not in _STYLE:
        raise ValueError(
            f"blocks {preset!r}: which layers of {family} carry style or layout is not known; use "
            "'all', or 'own' with factors such as double.0-9=0.5"
        )
    places = (_STYLE[family] if "style" in preset else ()) + (
        _LAYOUT[family] if "layout" in preset else ()
    )
    return (*((place, 1.0) for place in places), ("*", 0.0))


def own_blocks(text: str) -> tuple[tuple[str, float], ...]:
    """`"down=0.5, mid=1, up_blocks.0.attentions.1=0, *=0"` → pairs of pattern or module path and
    factor. Patterns are those of `parse_blocks`.

    Raises:
        ValueError: an entry is not `name=number`, or stands there twice.
    """
    from ..lora.blocks import parse_blocks

    places: dict[str, float] = {}
    rest = []
    for entry in re.split(r"[,;\n]", text):
        match = _PLACE.fullmatch(entry.strip())
        if match is None:
            rest.append(entry)
        elif match[1] in places:
            raise ValueError(f"the layer {match[1]!r} stands there twice; give it one factor")
        else:
            places[match[1]] = float(match[2])
    return (*places.items(), *parse_blocks(",".join(rest)))


def layer_factors(
    blocks: Blocks, family: Family, root: torch.nn.Module, layers: Sequence[str]
) -> Callable[[str], float]:
    """A function from an attention layer's path in the denoiser `root` to the factor on the weight
    there. `blocks`: module paths (`"up_blocks.0.attentions.1"`), of which the longest that a layer
    lies in counts, before patterns as `parse_blocks` reads them.

    Raises:
        ValueError: this model has nothing of that name.
    """
    from ..lora.blocks import block_factors

    places = {pattern: factor for pattern, factor in blocks if "block" in pattern}
    rest = block_factors([pair for pair in blocks if pair[0] not in places], family, root)
    for place in places:
        if not any(_inside(layer, place) for layer in layers):
            raise ValueError(
                f"blocks: this {family.title} model has no attention to pictures in {place!r}, as "
                "the models that the preset is known for have; use 'all', or 'own' with its blocks"
            )

    def factor(layer: str) -> float:
        fitting = [place for place in places if _inside(layer, place)]
        return places[max(fitting, key=len)] if fitting else rest(layer)

    return factor


def _inside(layer: str, place: str) -> bool:
    return layer == place or layer.startswith(f"{place}.")
