"""Where a node that we do not have may come from, for the message that says so."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

CORE = "comfy-core"

_KNOWN = (
    (r"K?Sampler\w*|CheckpointLoader\w*|CLIP\w+|VAE\w+|Empty\w*Latent\w*|Latent\w+", CORE),
    (r"Lora\w+|ControlNet\w+|UNETLoader|DualCLIPLoader|Image\w+|Mask\w+|Train\w+", CORE),
    (r"IPAdapter\w*|PrepImageForClipVision", "comfyui_ipadapter_plus"),
    (r"\w*Preprocessor\w*", "comfyui_controlnet_aux"),
    (r"SetNode|GetNode|\w+KJ", "comfyui-kjnodes"),
    (r"VHS_\w+", "comfyui-videohelpersuite"),
    (r".*\(rgthree\)", "rgthree-comfy"),
    (r"\w*Detailer\w*|Impact\w+|SAMLoader", "comfyui-impact-pack"),
    (r"CR .+", "ComfyUI_Comfyroll_CustomNodes"),
    (r"easy .+", "comfyui-easy-use"),
    (r"UltimateSDUpscale\w*", "comfyui_ultimatesdupscale"),
)
"""Class names and the pack that they are known from; first match wins."""


def unknown_node(class_type: str, pack: str, known: Collection[str]) -> str:
    """The message for a node whose class is not among `known`.

    Args:
        pack: the pack that the file names, or an empty text.
    """
    message = f"there is no node {class_type!r} here."
    close = difflib.get_close_matches(class_type, known, n=2, cutoff=0.8)
    if close:
        return f"{message} Did you mean {' or '.join(close)}? Or update Likeness."
    pack = pack or next((p for pattern, p in _KNOWN if re.fullmatch(pattern, class_type)), "")
    if pack == CORE:
        return (
            f"{message} It is one of ComfyUI's own, which run only inside it: start ComfyUI and "
            "add --server URL."
        )
    if pack:
        return (
            f"{message} It comes from the pack {pack!r}: install that in ComfyUI, start it and "
            "add --server URL."
        )
    return (
        f"{message} Find out which pack it comes from (ComfyUI Manager, Install Missing Custom "
        "Nodes), install that in ComfyUI, start it and add --server URL."
    )
