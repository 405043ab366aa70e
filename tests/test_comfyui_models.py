"""One checkpoint, drawn with by ComfyUI's own nodes and by ours, in turns, in one process."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from .comfyui_process import shared_server
from .tiny_unets import TOKENIZER, original_checkpoint

PROMPT = "a photo of a red house"


@pytest.fixture(scope="module")
def comfyui(tmp_path_factory):
    """A server with a checkpoint that its own loader takes for Stable Diffusion 1.5: all that it
    looks at is there, the UNet is shallow.
    """
    from safetensors.torch import save_file

    server = shared_server()
    folder = tmp_path_factory.mktemp("comfyui-models")
    tensors = original_checkpoint(_pipeline(folder / "model"), "stable-diffusion")
    place = server.base / "models" / "checkpoints"
    place.mkdir(parents=True, exist_ok=True)
    halves = {name: tensor.half().contiguous() for name, tensor in tensors.items()}
    save_file(halves, place / "shallow.safetensors")
    return server


def _pipeline(folder):
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    with torch.random.fork_rng():
        torch.manual_seed(3)
        pipeline = StableDiffusionPipeline(
            unet=UNet2DConditionModel(
                sample_size=8,
                block_out_channels=(320, 320),
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                layers_per_block=2,
                cross_attention_dim=768,
                attention_head_dim=8,
            ),
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    hidden_size=768,
                    intermediate_size=3072,
                    num_hidden_layers=12,
                    num_attention_heads=12,
                    vocab_size=49408,
                )
            ),
            vae=AutoencoderKL(
                block_out_channels=(128, 256, 512, 512),
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                latent_channels=4,
            ),
            tokenizer=CLIPTokenizer.from_pretrained(TOKENIZER),
            scheduler=DDIMScheduler(
                beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.save_pretrained(folder)
    return folder


def ours(seed):
    """Load the checkpoint and draw two steps with our nodes."""
    return {
        "1": {
            "class_type": "LikenessFromCheckpoint",
            "inputs": {"file": "shallow.safetensors"},
        },
        "2": {
            "class_type": "LikenessGenerate",
            "inputs": {"pipeline": ["1", 0], "prompt": PROMPT, "negative": "", "steps": 2}
            | {
                "guidance": 5.0,
                "seed": seed,
                "count": 1,
                "width": 64,
                "height": 64,
                "scheduler": "model",
            },
        },
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


def cores(seed):
    """The same with ComfyUI's own nodes, as far as latents."""
    return {
        "1": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": "shallow.safetensors"},
        },
        "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": PROMPT}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
        "4": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 64, "height": 64, "batch_size": 1},
        },
        "5": {
            "class_type": "KSampler",
            "inputs": {"model": ["1", 0], "positive": ["2", 0], "negative": ["3", 0]}
            | {"latent_image": ["4", 0], "seed": seed, "steps": 2, "cfg": 5.0, "denoise": 1.0}
            | {"sampler_name": "euler", "scheduler": "normal"},
        },
        "6": {
            "class_type": "SaveLatent",
            "inputs": {"samples": ["5", 0], "filename_prefix": "core"},
        },
    }


def need(gigabytes):
    """ComfyUI asks for more memory than there is, as before a model of its own on a small card."""
    inputs = {"action": "need", "arguments": f"[{gigabytes}]"}
    return {"1": {"class_type": "LikenessProbe", "inputs": inputs}}


def draw(comfyui, seed):
    (shown,) = [
        shown["images"][0] for shown in comfyui.run(ours(seed), 300).values() if "images" in shown
    ]
    with Image.open(comfyui.base / shown["type"] / shown["subfolder"] / shown["filename"]) as image:
        return np.asarray(image.convert("RGB")).copy()


def test_core_and_we_take_turns_on_one_checkpoint(comfyui):
    first = draw(comfyui, 1)
    assert comfyui.run(cores(1), 300), "core samples between two of our generations"
    second = draw(comfyui, 2)
    assert (first != second).any()
    comfyui.run(need(10**6))
    comfyui.run(cores(2), 300)
    comfyui.free()
    again = draw(comfyui, 1)
    assert (first == again).all(), "what was evicted comes back bit for bit"
    # Drawn anew, not shown from ComfyUI's cache of outputs, which `free` has emptied.
    assert comfyui.log().count("Requested to load ModuleList") >= 2
