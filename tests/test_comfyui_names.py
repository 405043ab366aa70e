"""Every name that we write for a Stable Diffusion 1.5 LoRA is one that ComfyUI's loader knows."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from .comfyui_process import comfyui_path, comfyui_python

ASK = """
import json, sys
sys.argv = ["main.py", "--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
from comfy import lora, utils
unet = {
    "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth_middle": 1,
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
}
names = {
    "lora_unet_" + key.removesuffix(".weight").replace(".", "_")
    for key in utils.unet_to_diffusers(unet) if key.endswith(".weight")
}
class Clip:
    def state_dict(self):
        layer = "clip_l.transformer.text_model.encoder.layers.{}.{}.weight"
        return {layer.format(n, part): 0 for n in range(12) for part in lora.LORA_CLIP_MAP}
print(json.dumps(sorted(names | set(lora.model_lora_keys_clip(Clip(), {})))))
"""


def test_comfyuis_loader_knows_every_layer_of_stable_diffusion_15():
    import torch
    from diffusers import UNet2DConditionModel
    from likeness.families import FAMILIES
    from likeness.pipelines.lora.files import LoraPair
    from likeness.pipelines.lora.layouts import name_tensors
    from transformers import CLIPTextConfig, CLIPTextModel

    path = comfyui_path()
    if path is None:
        pytest.skip("no ComfyUI here: set COMFYUI_PATH to a checkout")
    command = [str(comfyui_python(path)), "-c", ASK]
    asked = subprocess.run(command, cwd=path, capture_output=True, text=True, check=True)
    known = set(json.loads(asked.stdout.splitlines()[-1]))

    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        text = CLIPTextModel(CLIPTextConfig(num_hidden_layers=12))
    family = FAMILIES[0]
    pair = LoraPair(torch.zeros(1, 1), torch.zeros(1, 1), 1.0)
    written = set()
    for component, root in ((family.denoiser, unet), (family.text_encoders[0], text)):
        for _, pattern in component.targets:
            for module, _ in root.named_modules():
                if re.fullmatch(pattern, module):
                    for key in name_tensors(component, module, pair, "kohya"):
                        written.add(key.partition(".")[0])
    assert len(written) > 250
    assert not written - known
