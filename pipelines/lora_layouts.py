"""How LoRA weights are called in files: kohya's and diffusers' names, and the way between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from ..families import LoraComponent
    from .lora_files import LoraPair

LAYOUTS = ("kohya", "diffusers")
"""`kohya`: read by ComfyUI, A1111 and diffusers; `diffusers`: the names that diffusers and PEFT
write themselves.
"""

_SUFFIXES = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".alpha": "alpha",
}
TEXT_MODEL = "text_model."
"""transformers dropped this prefix from CLIPTextModel in 5.6; files everywhere still carry it."""


def split_key(key: str) -> tuple[str, str] | None:
    """A file's key → (module name, "down" | "up" | "alpha"), or None if it is no LoRA weight."""
    for suffix, role in _SUFFIXES.items():
        if key.endswith(suffix):
            return key.removesuffix(suffix), role
    return None


def file_path(component: LoraComponent, module: str) -> str:
    """The module's path as files spell it."""
    if component.attribute.startswith("text_encoder") and module.startswith("encoder."):
        return TEXT_MODEL + module
    return module


def name_tensors(
    component: LoraComponent, module: str, pair: LoraPair, layout: str
) -> dict[str, torch.Tensor]:
    """One layer as the tensors of a file in `layout`."""
    import torch

    path = file_path(component, module)
    down = pair.down.detach().cpu().contiguous()
    up = pair.up.detach().cpu().contiguous()
    if layout == "kohya":
        name = component.kohya_prefixes[0] + path.replace(".", "_")
        alpha = torch.tensor(float(pair.alpha))
        return {
            f"{name}.lora_down.weight": down,
            f"{name}.lora_up.weight": up,
            f"{name}.alpha": alpha,
        }
    # This layout has no alpha of its own, so the factor goes into the weights.
    up = (up.float() * (pair.alpha / pair.rank)).to(up.dtype)
    name = f"{component.attribute}.{path}"
    return {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}


def to_kohya(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """diffusers names → kohya names.

    Raises:
        ValueError: a key that is no LoRA weight of a family we know.
    """
    import torch

    from ..families import FAMILIES

    prefixes = {
        component.attribute: component.kohya_prefixes[0]
        for family in FAMILIES
        for component in (family.denoiser, *family.text_encoders)
    }
    converted: dict[str, torch.Tensor] = {}
    for key, tensor in tensors.items():
        module, role = split_key(key) or (key, "")
        attribute, _, path = module.partition(".")
        if not role or attribute not in prefixes:
            raise ValueError(f"this LoRA cannot be written in the kohya layout: {key!r} is unknown")
        name = prefixes[attribute] + path.replace(".", "_")
        if role == "alpha":
            converted[f"{name}.alpha"] = tensor
            continue
        converted[f"{name}.lora_{role}.weight"] = tensor
        if role == "down" and f"{module}.alpha" not in tensors:
            converted[f"{name}.alpha"] = torch.tensor(float(tensor.shape[0]))
    return converted


def to_diffusers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """kohya names → diffusers names, by diffusers' own converters; alpha goes into the weights.

    Raises:
        ValueError: the converters do not know some of the names.
    """
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import convert_state_dict_to_peft, convert_unet_state_dict_to_peft

    baked = {}
    for key, tensor in tensors.items():
        module, role = split_key(key) or (key, "")
        if role == "up" and (alpha := tensors.get(f"{module}.alpha")) is not None:
            tensor = (tensor.float() * (float(alpha) / tensor.shape[1])).to(tensor.dtype)
        if role != "alpha":
            baked[key] = tensor
    old_names = StableDiffusionPipeline.lora_state_dict(dict(baked))[0]  # it empties what it gets
    unet = {key: tensor for key, tensor in old_names.items() if key.startswith("unet.")}
    text = {key: tensor for key, tensor in old_names.items() if key not in unet}
    converted = convert_unet_state_dict_to_peft(unet) | convert_state_dict_to_peft(text)
    if len(converted) != len(baked) or any(not split_key(name) for name in converted):
        raise ValueError("this LoRA cannot be written in the diffusers layout; keep kohya")
    return {name: tensor.contiguous() for name, tensor in converted.items()}


def looks_like(keys: Sequence[str]) -> str:
    """Which kind of model these keys were probably made for, for a message."""
    text = " ".join(keys)
    signs = {
        "lora_te2_": "SDXL",
        "double_blocks": "FLUX.1",
        "single_transformer_blocks": "FLUX.1",
        "joint_blocks": "Stable Diffusion 3",
        "transformer": "a transformer model (SD 3, FLUX or newer)",
        "lora_unet_": "another UNet model",
        "unet.": "another UNet model",
    }
    return next((family for sign, family in signs.items() if sign in text), "an unknown model")
