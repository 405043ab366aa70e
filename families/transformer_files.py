"""What a single file of the transformer families (SD 3, FLUX, Z-Image) holds besides its denoiser,
and how its configuration differs from the published one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]
Changes = dict[str, dict[str, Any]]
Told = Callable[[Shapes], dict[str, Any]]

ORIGINAL_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
"""What stands before the names of a denoiser in the original code's spelling."""

DIFFUSERS_PREFIXES = ("transformer.", "model.diffusion_model.", "diffusion_model.", "")
"""The same for diffusers' spelling."""

VAE_PREFIXES = ("first_stage_model.", "vae.")
CLIP_L_PREFIXES = ("text_encoders.clip_l.transformer.", "text_encoder.")
CLIP_G_PREFIXES = ("text_encoders.clip_g.transformer.", "text_encoder_2.")
T5_PREFIXES = ("text_encoders.t5xxl.transformer.", "text_encoder_2.", "text_encoder_3.")

VAE_ANCHORS = ("decoder.conv_in.weight",)
CLIP_ANCHORS = ("text_model.encoder.layers.0.mlp.fc1.weight", "encoder.layers.0.mlp.fc1.weight")
T5_ANCHORS = ("encoder.block.0.layer.0.SelfAttention.q.weight",)

_CONFIGS = Path(__file__).parent / "configs"


def prefix_with_all(shapes: Shapes, prefixes: Iterable[str], anchors: Iterable[str]) -> str | None:
    """The first prefix below which all of these tensors lie; None if there is none."""
    anchors = tuple(anchors)
    return next((p for p in prefixes if all(p + anchor in shapes for anchor in anchors)), None)


def prefixes_with_any(
    shapes: Shapes, parts: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
) -> dict[str, str]:
    """Component → the first of its prefixes below which one of its anchors lies, for components
    that are there. `parts`: component → (prefixes, anchors).
    """
    found: dict[str, str] = {}
    for part, (prefixes, anchors) in parts.items():
        places = (p for p in prefixes if any(p + anchor in shapes for anchor in anchors))
        if (prefix := next(places, None)) is not None:
            found[part] = prefix
    return found


def below(shapes: Shapes, prefix: str) -> dict[str, tuple[int, ...]]:
    """The shapes whose names begin with `prefix`, by what follows it."""
    start = len(prefix)
    return {name[start:]: tuple(s) for name, s in shapes.items() if name.startswith(prefix)}


def shape_of(shapes: Shapes, *names: str) -> tuple[int, ...]:
    """The shape of a tensor under whichever of its names the file uses.

    Raises:
        ValueError: the file has none of them.
    """
    for name in names:
        if name in shapes:
            return shapes[name]
    raise ValueError(
        f"the file has no tensor {names[0]!r}; it is cut short or of a kind that Likeness does not "
        "know: copy or download it again"
    )


def count_layers(shapes: Shapes, *beginnings: str) -> int:
    """How many numbered layers there are below the first of these beginnings that occurs."""
    for beginning in beginnings:
        numbers = {
            int(number)
            for name in shapes
            if name.startswith(beginning)
            and (number := name[len(beginning) :].partition(".")[0]).isdigit()
        }
        if numbers:
            return max(numbers) + 1
    return 0


def t5_changes(shapes: Shapes) -> dict[str, Any]:
    """The entries of a `T5Config` that tensor shapes tell; `shapes` without prefix.

    Raises:
        ValueError: these are not the tensors of such an encoder.
    """
    first = "encoder.block.0.layer"
    tokens = shape_of(shapes, "shared.weight", "encoder.embed_tokens.weight")
    buckets, heads = shape_of(shapes, f"{first}.0.SelfAttention.relative_attention_bias.weight")
    return {
        "vocab_size": tokens[0],
        "d_model": tokens[1],
        "num_heads": heads,
        "d_kv": shape_of(shapes, f"{first}.0.SelfAttention.q.weight")[0] // heads,
        "d_ff": shape_of(shapes, f"{first}.1.DenseReluDense.wi_0.weight")[0],
        "num_layers": count_layers(shapes, "encoder.block."),
        "relative_attention_num_buckets": buckets,
    }


def changed_entries(
    variant: str, shapes: Shapes, prefixes: Mapping[str, str], told: Mapping[str, Told]
) -> Changes:
    """Component → configuration entries of what the file holds that differ from `variant`'s.

    `told`: component → what its shapes, without prefix, tell.

    Raises:
        ValueError: a component is cut short.
    """
    found = {
        part: differing(variant, part, told[part](below(shapes, prefix)))
        for part, prefix in prefixes.items()
    }
    return {part: entries for part, entries in found.items() if entries}


def differing(variant: str, part: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `entries` that are not the published configuration's."""
    path = _CONFIGS / variant / part / "config.json"
    known = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in entries.items() if known.get(key) != value}
