"""Tiny IP-Adapters with random weights in the layouts of the published files, and image encoders.

Tensors come from diffusers' own projection classes, under the names that the published files have.
"""

from __future__ import annotations

import random
import re
from functools import cache
from pathlib import Path

import torch
from likeness.pipelines.guidance import Picture
from PIL import Image

from .conftest import ROOT

ENCODER = ROOT / "assets" / "tiny" / "image_encoder"
HIDDEN, PROJECTED = 96, 128
FACE = 512


def generator(seed):
    return torch.Generator().manual_seed(seed)


def photo(seed=0, size=(72, 56)):
    """Stripes in random colours."""
    draw = random.Random(seed)
    image = Image.new("RGB", size)
    for left in range(0, size[0], 8):
        image.paste(tuple(draw.randrange(256) for _ in range(3)), (left, 0, left + 8, size[1]))
    return image


def picture(seed=0, size=(72, 56)):
    return Picture.of(photo(seed, size))


def half(size=(64, 64), right=False):
    mask = Image.new("L", size)
    box = (size[0] // 2, 0, *size) if right else (0, 0, size[0] // 2, size[1])
    mask.paste(255, box)
    return mask


def _random(state, seed):
    numbers = generator(seed)
    return {
        name: torch.randn(tensor.shape, generator=numbers) * 0.2 + (1.0 if is_norm(name) else 0.0)
        for name, tensor in state.items()
    }


def is_norm(name):
    return bool(re.search(r"(norm\w*|ln\d|proj\.3)\.weight$", name)) and "linear" not in name


# -- what a picture becomes ------------------------------------------------------------------------


def base_projection(context, seed, width=PROJECTED, tokens=4):
    from diffusers.models.embeddings import ImageProjection

    state = ImageProjection(width, context, tokens).state_dict()
    return {k.replace("image_embeds", "proj"): v for k, v in _random(state, seed).items()}


def full_face_projection(context, seed, width=HIDDEN):
    shapes = {
        "proj.0.weight": (width, width),
        "proj.0.bias": (width,),
        "proj.2.weight": (context, width),
        "proj.2.bias": (context,),
        "proj.3.weight": (context,),
        "proj.3.bias": (context,),
    }
    return _random({name: torch.empty(shape) for name, shape in shapes.items()}, seed)


def plus_projection(context, seed, width=HIDDEN, inner=64, queries=3):
    """The resampler as h94/IP-Adapter's files spell it: attention in `0`, feed-forward in `1`."""
    shapes = {"latents": (1, queries, inner), **_resampler(context, inner, width)}
    return _random({name: torch.empty(shape) for name, shape in shapes.items()}, seed)


def _resampler(context, inner, width):
    shapes = {
        "proj_in.weight": (inner, width),
        "proj_in.bias": (inner,),
        "proj_out.weight": (context, inner),
        "proj_out.bias": (context,),
        "norm_out.weight": (context,),
        "norm_out.bias": (context,),
    }
    for layer in range(4):
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in _block(inner).items()}
    return shapes


def _block(inner):
    return {
        "0.norm1.weight": (inner,),
        "0.norm1.bias": (inner,),
        "0.norm2.weight": (inner,),
        "0.norm2.bias": (inner,),
        "0.to_q.weight": (64, inner),
        "0.to_kv.weight": (128, inner),
        "0.to_out.weight": (inner, 64),
        "1.0.weight": (inner,),
        "1.0.bias": (inner,),
        "1.1.weight": (4 * inner, inner),
        "1.3.weight": (inner, 4 * inner),
    }


def faceid_projection(context, seed, tokens=4):
    shapes = {
        "proj.0.weight": (2 * FACE, FACE),
        "proj.0.bias": (2 * FACE,),
        "proj.2.weight": (tokens * context, 2 * FACE),
        "proj.2.bias": (tokens * context,),
        "norm.weight": (context,),
        "norm.bias": (context,),
    }
    return _random({name: torch.empty(shape) for name, shape in shapes.items()}, seed)


def faceid_plus_projection(context, seed, width=HIDDEN):
    inner = context
    shapes = {
        "proj.0.weight": (2 * FACE, FACE),
        "proj.0.bias": (2 * FACE,),
        "proj.2.weight": (4 * inner, 2 * FACE),
        "proj.2.bias": (4 * inner,),
        "norm.weight": (inner,),
        "norm.bias": (inner,),
    }
    resampler = _resampler(context, inner, width)
    shapes |= {f"perceiver_resampler.{name}": shape for name, shape in resampler.items()}
    return _random({name: torch.empty(shape) for name, shape in shapes.items()}, seed)


def sd3_projection(output, seed, width=HIDDEN, inner=64, queries=3, timestep=32):
    """InstantX's resampler, which is told the timestep."""
    shapes = {
        "latents": (1, queries, inner),
        "proj_in.weight": (inner, width),
        "proj_in.bias": (inner,),
        "proj_out.weight": (output, inner),
        "proj_out.bias": (output,),
        "norm_out.weight": (output,),
        "norm_out.bias": (output,),
        "time_embedding.linear_1.weight": (inner, timestep),
        "time_embedding.linear_1.bias": (inner,),
        "time_embedding.linear_2.weight": (inner, inner),
        "time_embedding.linear_2.bias": (inner,),
    }
    for layer in range(4):
        block = {**_block(inner), "2.1.weight": (4 * inner, inner), "2.1.bias": (4 * inner,)}
        shapes |= {f"layers.{layer}.{name}": shape for name, shape in block.items()}
    return _random({name: torch.empty(shape) for name, shape in shapes.items()}, seed)


UNET_PROJECTIONS = {
    "base": base_projection,
    "full-face": full_face_projection,
    "plus": plus_projection,
    "faceid": faceid_projection,
    "faceid-plus": faceid_plus_projection,
}


# -- whole adapters --------------------------------------------------------------------------------


def unet_adapter(unet, kind="base", seed=0, lora=False):
    numbers, context = generator(seed + 100), unet.config.cross_attention_dim
    layers = {}
    for index, name in enumerate(unet.attn_processors):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        inner = attention.to_q.weight.shape[0]
        if name.endswith("attn2.processor"):
            for role in ("to_k_ip", "to_v_ip"):
                layers[f"{index}.{role}.weight"] = torch.randn(inner, context, generator=numbers)
        if lora:
            for role in ("to_q", "to_k", "to_v", "to_out"):
                linear = attention.to_out[0] if role == "to_out" else getattr(attention, role)
                out, width = linear.weight.shape
                for part, shape in (("down", (2, width)), ("up", (out, 2))):
                    tensor = torch.randn(shape, generator=numbers) * 0.2
                    layers[f"{index}.{role}_lora.{part}.weight"] = tensor
    return {"image_proj": UNET_PROJECTIONS[kind](context, seed), "ip_adapter": layers}


def flux_adapter(transformer, seed=0, width=PROJECTED):
    numbers, context = generator(seed + 100), transformer.config.joint_attention_dim
    inner = transformer.inner_dim
    layers = {}
    for index in range(transformer.config.num_layers):
        for role in ("to_k_ip", "to_v_ip"):
            layers[f"{index}.{role}.weight"] = torch.randn(inner, context, generator=numbers) * 0.3
            layers[f"{index}.{role}.bias"] = torch.randn(inner, generator=numbers) * 0.3
    return {"image_proj": base_projection(context, seed, width), "ip_adapter": layers}


def sd3_adapter(transformer, seed=0, width=HIDDEN):
    from diffusers.models.attention_processor import SD3IPAdapterJointAttnProcessor2_0

    config = transformer.config
    inner = config.num_attention_heads * config.attention_head_dim
    layers = {}
    for index in range(len(transformer.attn_processors)):
        processor = SD3IPAdapterJointAttnProcessor2_0(inner, inner, config.attention_head_dim, 64)
        for name, tensor in _random(processor.state_dict(), seed + index).items():
            layers[f"{index}.{name}"] = tensor
    return {"image_proj": sd3_projection(inner, seed, width), "ip_adapter": layers}


def save(state, path, xlabs=False):
    """Write an adapter: `.safetensors` with dotted names, else pickled tables as published."""
    from safetensors.torch import save_file

    path = Path(path)
    if path.suffix != ".safetensors":
        torch.save(state, path)
        return path
    tensors = {
        f"{part}.{name}": each for part, named in state.items() for name, each in named.items()
    }
    if xlabs:
        tensors = {xlabs_name(name): tensor for name, tensor in tensors.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def xlabs_name(name):
    name = name.replace("image_proj.", "ip_adapter_proj_model.")
    name = re.sub(r"^ip_adapter\.(\d+)\.", r"double_blocks.\1.processor.", name)
    return re.sub(r"to_([kv])_ip", r"ip_adapter_double_stream_\1_proj", name)


# -- image encoders --------------------------------------------------------------------------------


def clip_config(hidden=HIDDEN, projected=PROJECTED, size=64, heads=4):
    from transformers import CLIPVisionConfig

    return CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=heads,
        image_size=size,
        patch_size=16,
        projection_dim=projected,
    )


@cache
def _siglip_config():
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=64,
        patch_size=16,
    )


def siglip():
    from transformers import SiglipVisionModel

    with torch.random.fork_rng():
        torch.manual_seed(9)
        return SiglipVisionModel(_siglip_config()).eval()


def clip(**changes):
    from transformers import CLIPVisionModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(8)
        return CLIPVisionModelWithProjection(clip_config(**changes)).eval()
