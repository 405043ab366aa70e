"""What a single file of the UNet families (Stable Diffusion, SDXL) holds: components, shapes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .clip_names import clip_changes, is_open_clip
from .unet_names import diffusers_shapes, our_names, unet_changes
from .vae_names import vae_changes

Shapes = Mapping[str, tuple[int, ...]]

UNET_PREFIXES = (
    "model.diffusion_model.",
    "diffusion_model.",
    "unet.",
    "",
    "model_ema.diffusion_model",  # averaged weights, whose names have no dots; the last resort
)
VAE_PREFIXES = ("first_stage_model.", "vae.")

_CONFIGS = Path(__file__).parent / "configs"
_EVERY_UNET = (
    "conv_in.weight",
    "conv_out.weight",
    "time_embedding.linear_1.weight",
    "down_blocks.0.resnets.0.conv1.weight",
    "up_blocks.0.resnets.0.conv1.weight",
)
_OTHER_KINDS = ("time_stack", "motion_modules", "encoder_hid_proj", "class_embedding")
_FIRST_ATTENTION = "down_blocks.0.attentions.0.proj_in.weight"


@dataclass(frozen=True)
class FoundUnet:
    """The UNet in a file. `shapes`: by our names; `names`: our name → the name in the file."""

    prefix: str
    shapes: Shapes
    names: Mapping[str, str]

    @property
    def in_channels(self) -> int:
        return self.shapes["conv_in.weight"][1]

    @property
    def context_width(self) -> int:
        """Width of the text states that it attends to; 0 without cross-attention."""
        widths = (s[1] for name, s in self.shapes.items() if name.endswith("attn2.to_k.weight"))
        return next(widths, 0)

    @property
    def added_width(self) -> int:
        """Width of what is told beside the timestep (pooled text and sizes); 0 if nothing is."""
        return self.shapes.get("add_embedding.linear_1.weight", (0, 0))[1]

    @property
    def attends_first(self) -> bool:
        """Whether the first block has attention: in Stable Diffusion it has, in SDXL not."""
        return _FIRST_ATTENTION in self.shapes


def find_unet(shapes: Shapes) -> FoundUnet | None:
    """The UNet of an image model in a file of these shapes, if there is one.

    Where averaged (EMA) weights lie beside the plain ones, the plain ones are meant.
    """
    for prefix in UNET_PREFIXES:
        inside = _below(shapes, prefix)
        ours = diffusers_shapes(inside)
        if any(name not in ours for name in _EVERY_UNET) or len(ours["conv_in.weight"]) != 4:
            continue
        if any(piece in name for name in ours for piece in _OTHER_KINDS):
            return None
        if "label_emb.weight" in ours:  # an upscaler
            return None
        names = {our: prefix + name for name, our in our_names(inside).items()}
        return FoundUnet(prefix, ours, names)
    return None


def find_vae(shapes: Shapes) -> dict[str, str]:
    """`{"vae": prefix}`, or nothing when the file holds none."""
    for prefix in VAE_PREFIXES:
        if prefix + "decoder.conv_in.weight" in shapes:
            return {"vae": prefix}
    return {}


def find_text_encoder(shapes: Shapes, attribute: str, prefixes: tuple[str, ...]) -> dict[str, str]:
    """`{attribute: prefix}` of the first of `prefixes` that has a text encoder below it."""
    for prefix in prefixes:
        if any(
            name.startswith(prefix) and name.endswith("token_embedding.weight") for name in shapes
        ):
            return {attribute: prefix}
    return {}


def changed_entries(
    variant: str, unet: FoundUnet, prefixes: Mapping[str, str], shapes: Shapes
) -> dict[str, dict[str, Any]]:
    """Component → configuration entries of what the file holds that differ from `variant`'s.

    Raises:
        ValueError: a component is cut short.
    """
    found = {"unet": unet_changes(unet.shapes)}
    if isinstance(_entries(variant, "unet").get("attention_head_dim"), list):
        channels = found["unet"]["block_out_channels"]  # heads are 64 wide
        found["unet"]["attention_head_dim"] = [max(1, width // 64) for width in channels]
    for attribute, prefix in prefixes.items():
        inside = _below(shapes, prefix)
        if attribute == "vae":
            found["vae"] = vae_changes(inside)
        elif attribute.startswith("text_encoder"):
            found[attribute] = clip_changes(inside, unused_layers(variant, inside))
            if attribute == "text_encoder":  # without projection, whatever the file holds
                found[attribute].pop("projection_dim", None)
    changes = {part: _different(variant, part, entries) for part, entries in found.items()}
    return {part: entries for part, entries in changes.items() if entries}


def unused_layers(variant: str, names: Iterable[str]) -> int:
    """How many of the last layers of a text encoder with these tensors are never looked at.

    Stable Diffusion 2 leaves out the last of its OpenCLIP encoder's 24; files that were converted
    from diffusers do not have it, nor the projection.
    """
    inside = set(names)
    if not variant.startswith("sd2") or not is_open_clip(inside):
        return 0
    used = _entries(variant, "text_encoder")["num_hidden_layers"]
    layers = len({name.split(".")[2] for name in inside if ".resblocks." in name})
    if layers >= used:
        return layers - used
    return int("text_projection" in inside)


def _different(variant: str, part: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    known = _entries(variant, part)
    return {key: value for key, value in entries.items() if known.get(key) != value}


def _entries(variant: str, part: str) -> dict[str, Any]:
    path = _CONFIGS / variant / part / "config.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    start = len(prefix)
    return {name[start:]: tuple(s) for name, s in shapes.items() if name.startswith(prefix)}
