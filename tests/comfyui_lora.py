"""Run by ComfyUI's own Python in its folder: what core's LoRA loader makes of files.

`python comfyui_lora.py IN OUT`: IN holds weights (`<layer>.W0`) and a LoRA's tensors. OUT gets each
weight as patched at each of the strengths in the metadata (`<layer>@<strength>`) and, as metadata,
core's log, its key map for every model class that we write for, and how its trainer names things.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

arguments = sys.argv[1:]
sys.argv = ["main.py", "--cpu"]
sys.path.insert(0, str(Path.cwd()))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

import comfy.lora  # noqa: E402
import comfy.model_base  # noqa: E402
import comfy.supported_models  # noqa: E402
import safetensors  # noqa: E402
import safetensors.torch  # noqa: E402
import torch  # noqa: E402
from comfy.weight_adapter import adapter_maps  # noqa: E402


def main(source, target):
    with safetensors.safe_open(source, "pt") as file:
        strengths = json.loads(file.metadata()["strengths"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    bases = {k.removesuffix(".W0"): v for k, v in tensors.items() if k.endswith(".W0")}
    lora = {key: tensor for key, tensor in tensors.items() if not key.endswith(".W0")}
    messages = []
    logging.getLogger().addHandler(Note(messages))
    done = {}
    for strength in strengths:
        patches = comfy.lora.load_lora(lora, {layer: f"{layer}.weight" for layer in bases})
        for layer, weight in bases.items():
            if (patch := patches.get(f"{layer}.weight")) is not None:
                entry = (strength, patch, 1.0, None, None)
                patched = comfy.lora.calculate_weight([entry], weight.clone(), layer)
                done[f"{layer}@{strength}"] = patched.contiguous()
    said = {"messages": list(messages), "names": names(), "trainer": trainer_names()}
    metadata = {name: json.dumps(value) for name, value in said.items()}
    safetensors.torch.save_file(done, target, metadata=metadata)


def trainer_names():
    """What TrainLoraNode writes after a layer's path, by algorithm."""
    return {
        name: [
            parameter
            for parameter, _ in adapter.create_train(
                torch.zeros(32, 32), rank=4, alpha=1.0
            ).named_parameters()
        ]
        for name, adapter in adapter_maps.items()
    }


class Note(logging.Handler):
    def __init__(self, messages):
        super().__init__()
        self.messages = messages

    def emit(self, record):
        self.messages.append(record.getMessage())


CONFIGS = {
    "stable-diffusion": ("SD15", {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
        "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "num_heads": 8,
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "context_dim": 768,
        "use_spatial_transformer": True, "use_linear_in_transformer": False, "legacy": False,
        "adm_in_channels": None,
    }),
    "sdxl": ("SDXL", {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 320,
        "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "num_head_channels": 64,
        "num_heads": -1, "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "context_dim": 2048,
        "use_spatial_transformer": True, "use_linear_in_transformer": True, "legacy": False,
        "adm_in_channels": 2816, "num_classes": "sequential",
    }),
    "sd3": ("SD3", {
        "in_channels": 16, "patch_size": 2, "depth": 24, "num_patches": 36864,
        "pos_embed_max_size": 192,
        "adm_in_channels": 2048, "context_embedder_config": {
            "target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}},
    }),
    "flux": ("Flux", {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2,
        "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072, "mlp_ratio": 4.0,
        "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56],
        "txt_ids_dims": [], "theta": 10000, "qkv_bias": True, "guidance_embed": True,
    }),
    "z-image": ("ZImage", {
        "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 3840,
        "cap_feat_dim": 2560, "n_layers": 30, "n_refiner_layers": 2, "qk_norm": True,
        "n_heads": 30, "n_kv_heads": 30, "axes_dims": [32, 48, 48],
        "axes_lens": [1536, 512, 512], "rope_theta": 256.0, "ffn_dim_multiplier": 8.0 / 3.0,
        "z_image_modulation": True, "time_scale": 1000.0,
    }),
}  # fmt: skip
CLIPS = {
    "stable-diffusion": {"clip_l": 12},
    "sdxl": {"clip_l": 12, "clip_g": 32},
    "sd3": {"clip_l": 12, "clip_g": 32},
    "flux": {"clip_l": 12},
    "z-image": {},
}


def names():
    found = {}
    for family, (kind, unet) in CONFIGS.items():
        config = getattr(comfy.supported_models, kind)(dict(unet))
        config.set_inference_dtype(torch.float32, None)
        with torch.device("meta"):
            model = config.get_model({}, "")
        keys = dict(comfy.lora.model_lora_keys_unet(model, {}))
        comfy.lora.model_lora_keys_clip(Clip(CLIPS[family]), keys)
        found[family] = sorted(keys)
    return found


class Clip:
    """The text encoders' layers by their names in core."""

    def __init__(self, encoders):
        layer = "{}.transformer.text_model.encoder.layers.{}.{}.weight"
        self.keys = {
            layer.format(name, number, part): 0
            for name, count in encoders.items()
            for number in range(count)
            for part in comfy.lora.LORA_CLIP_MAP
        }

    def state_dict(self):
        return self.keys


main(*arguments)
