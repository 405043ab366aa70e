"""An IP-Adapter for the base (arXiv 2308.06721): four words that the image encoder says of a
picture, and cross-attention that listens to them; base and encoder stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from frozen_base import HERE, FrozenBase
from pictures import pixels, signed
from training import note, save_whole, train
from vae import ENCODED

if TYPE_CHECKING:
    import torch
    from diffusers import UNet2DConditionModel
    from torch import Tensor, nn

BATCH = 32
TOKENS = 4
EMPTY_SHARE = 0.6  # of captions dropped: then the picture alone tells what is there
UNSEEN_SHARE = 0.1  # of pictures dropped, for classifier-free guidance
CHECKPOINT_EVERY = 150  # steps: about a minute


def seen(work: Path) -> Tensor:
    """What the bundled image encoder says of the first ENCODED pictures, (ENCODED, 128)."""
    import torch
    from transformers import CLIPVisionModelWithProjection

    encoder = CLIPVisionModelWithProjection.from_pretrained(
        HERE / "image_encoder", dtype=torch.float32
    )
    with torch.no_grad():
        parts = pixels(work)[:ENCODED].split(100)
        return torch.cat([encoder(signed(part)).image_embeds for part in parts])


def cross_attentions(unet: UNet2DConditionModel) -> dict[str, str]:
    """Number in published files → name of the processor: every second one is a cross-attention."""
    return {
        str(number): name
        for number, name in enumerate(unet.attn_processors)
        if name.endswith("attn2.processor")
    }


def new_adapter(unet: UNet2DConditionModel, width: int) -> dict[str, dict[str, Tensor]]:
    """A fresh adapter as published files lay it out, for an encoder of this width: it begins by
    listening to the picture as the base listens to words.
    """
    import torch

    cross = unet.config.cross_attention_dim
    projection = torch.nn.Linear(width, TOKENS * cross)
    layers = {}
    for number, name in cross_attentions(unet).items():
        attention = unet.get_submodule(name.removesuffix(".processor"))
        layers[f"{number}.to_k_ip.weight"] = attention.to_k.weight.detach().clone()
        layers[f"{number}.to_v_ip.weight"] = attention.to_v.weight.detach().clone()
    projected = {"proj.weight": projection.weight.detach(), "proj.bias": projection.bias.detach()}
    norm = {"norm.weight": torch.ones(cross), "norm.bias": torch.zeros(cross)}
    return {"image_proj": projected | norm, "ip_adapter": layers}


def put_on(unet: UNet2DConditionModel, adapter: Mapping[str, Any]) -> nn.ModuleDict:
    """The adapter on the UNet; returns the parts that learn."""
    import torch

    unet._load_ip_adapter_weights([adapter], low_cpu_mem_usage=False)
    processors = unet.attn_processors
    layers = {number: processors[name] for number, name in cross_attentions(unet).items()}
    modules = torch.nn.ModuleDict(
        {
            "image_proj": unet.encoder_hid_proj.image_projection_layers[0],
            "ip_adapter": torch.nn.ModuleDict(layers),
        }
    )
    return modules.requires_grad_(True).train()


def as_published(modules: nn.ModuleDict) -> dict[str, Tensor]:
    """The learned parts under the names that diffusers and ComfyUI's nodes read."""
    projection = modules["image_proj"]
    tensors = {
        "image_proj.proj.weight": projection.image_embeds.weight,
        "image_proj.proj.bias": projection.image_embeds.bias,
        "image_proj.norm.weight": projection.norm.weight,
        "image_proj.norm.bias": projection.norm.bias,
    }
    for number, layer in modules["ip_adapter"].items():
        tensors[f"ip_adapter.{number}.to_k_ip.weight"] = layer.to_k_ip[0].weight
        tensors[f"ip_adapter.{number}.to_v_ip.weight"] = layer.to_v_ip[0].weight
    return {name: tensor.detach().contiguous() for name, tensor in tensors.items()}


def train_reference(
    work: Path, base: Path, *, steps: int = 850, minutes: float | None = None
) -> None:
    """Writes `<work>/ip_adapter.safetensors`, float32."""
    import torch
    from safetensors.torch import save_file
    from torch.nn.attention import SDPBackend, sdpa_kernel

    frozen = FrozenBase(work, base)
    embeddings = seen(work)

    def loss(modules: nn.ModuleDict, generator: torch.Generator) -> Tensor:
        batch = frozen.batch(BATCH, EMPTY_SHARE, generator)
        shown = embeddings[batch.chosen]
        shown[torch.rand(BATCH, generator=generator) < UNSEEN_SHARE] = 0
        with sdpa_kernel(SDPBackend.MATH):  # the others go backward slowly on a CPU
            guess = frozen.unet(
                batch.noisy,
                batch.times,
                batch.states,
                added_cond_kwargs={"image_embeds": [shown[:, None]]},
            ).sample
        return frozen.error(guess, batch)

    modules = put_on(frozen.unet, new_adapter(frozen.unet, embeddings.shape[1]))
    made = train(
        work,
        "reference",
        modules,
        loss,
        steps=steps,
        rate=1.5e-3,
        minutes=minutes,
        warm_up=50,
        averaging=0.995,
        checkpoint_every=CHECKPOINT_EVERY,
    )
    tensors = as_published(made)
    save_whole(work / "ip_adapter.safetensors", lambda path: save_file(tensors, path))
    note(work, "reference", batch=BATCH, tokens=TOKENS)
