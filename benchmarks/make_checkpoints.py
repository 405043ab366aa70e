"""Write single-file checkpoints of full size with random weights: Stable Diffusion 1.5 and SDXL in
the layout of their original code, float16, the same bytes for the same seed.

    python benchmarks/make_checkpoints.py FOLDER [--model sd15 sdxl] [--size full|small] [--seed 0]

Tensors are made one at a time, so that memory stays small. Beside each file lies a folder of
configurations and tokenizers (`sd15-full-config`), which plain diffusers needs. `small` has a UNet
of two short levels with the text encoders and the VAE as they are, for trying things out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from likeness.families import family_named
from likeness.host.standalone import StandaloneHost
from likeness.pipelines.modules import library_class
from likeness.pipelines.sources import CONFIGS
from likeness.pipelines.tokenizers import find_tokenizer

MODELS = {"sd15": ("stable-diffusion", "sd1"), "sdxl": ("sdxl", "sdxl-base")}
PREFIXES = {
    "sd15": {"text_encoder": "cond_stage_model.transformer.text_model."},
    "sdxl": {
        "text_encoder": "conditioner.embedders.0.transformer.text_model.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
}
SHARED = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}
SMALL = {
    "sd15": {
        "block_out_channels": [320, 640],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1,
    },
    "sdxl": {
        "block_out_channels": [320, 640],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2],
        "attention_head_dim": [5, 10],
        "layers_per_block": 1,
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--size", choices=["full", "small"], default="full")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for model in options.model:
        path = options.folder / f"{model}-{options.size}.safetensors"
        config = write_config(model, options.size, options.folder / f"{path.stem}-config")
        write_checkpoint(model, config, path, options.seed)
        print(f"{path}: {path.stat().st_size / 1e9:.2f} GB")


def write_config(model: str, size: str, folder: Path) -> Path:
    """A diffusers folder without weights."""
    family, variant = MODELS[model]
    shutil.copytree(CONFIGS / variant, folder, dirs_exist_ok=True)
    if size == "small":
        path = folder / "unet" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **SMALL[model]}, indent=2))
    comfyui = StandaloneHost().comfyui_folder()
    for name, source in family_named(family).tokenizers(variant).items():
        find_tokenizer(name, source, None, comfyui).save_pretrained(str(folder / name))
    return folder


def write_checkpoint(model: str, config: Path, path: Path, seed: int) -> None:
    entries = sorted(tensors_of(model, config))
    offset, header = 0, {}
    for name, shape in entries:
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name, shape in entries:
            stream.write(random_tensor(name, shape, seed).numpy().tobytes())


def random_tensor(name: str, shape: list[int], seed: int) -> Any:
    """Values with which the model computes ordinary numbers: norms 1, biases 0, the rest as large
    as keeps the size of what passes.
    """
    import torch

    if len(shape) == 1:
        is_scale = name.endswith("weight")
        return torch.full(shape, 1.0 if is_scale else 0.0, dtype=torch.float16)
    generator = torch.Generator().manual_seed(seed + zlib.crc32(name.encode()))
    fan_in = 1
    for length in shape[1:]:
        fan_in *= length
    return (torch.randn(shape, generator=generator) * fan_in**-0.5).half()


def tensors_of(model: str, config: Path) -> Iterator[tuple[str, list[int]]]:
    """Name in the original file and shape of every tensor."""
    family = family_named(MODELS[model][0])
    for attribute, prefix in {**SHARED, **PREFIXES[model]}.items():
        module = empty_module(config, attribute)
        shapes = {name: list(tensor.shape) for name, tensor in module.state_dict().items()}
        if prefix.endswith("text_model."):  # kept as transformers names it
            for name, shape in shapes.items():
                yield prefix + name.removeprefix("text_model."), shape
            continue
        names = family.original_names(SimpleNamespace(**{attribute: module}), attribute)
        renamed = open_clip if attribute.startswith("text_encoder") else renamed_layers
        for name, shape in renamed(shapes, names):
            is_flat = attribute == "vae" and ".attn_1." in name and len(shape) == 2
            yield prefix + name, [*shape, 1, 1] if is_flat else shape


def empty_module(config: Path, attribute: str) -> Any:
    from accelerate import init_empty_weights

    library, name = json.loads((config / "model_index.json").read_text())[attribute]
    cls = library_class((library, name))
    told = json.loads((config / attribute / "config.json").read_text())
    with init_empty_weights():
        return cls.from_config(told) if library == "diffusers" else cls(cls.config_class(**told))


def renamed_layers(shapes: dict[str, list[int]], names: Any) -> Iterator[tuple[str, list[int]]]:
    theirs = {rows[0].module: name for name, rows in names.items()}
    for key, shape in shapes.items():
        path, _, kind = key.rpartition(".")
        yield f"{theirs.get(path, path)}.{kind}", shape


def open_clip(shapes: dict[str, list[int]], names: Any) -> Iterator[tuple[str, list[int]]]:
    for name, rows in names.items():
        if name.startswith(("text_model.", "embeddings.", "encoder.", "final_layer_norm")):
            continue  # transformers' other spelling
        for kind in ("weight", "bias"):
            parts = [shapes.get(f"{part.module}.{kind}") for part in rows]
            if parts[0] is not None:
                whole = [sum(part[0] for part in parts if part), *parts[0][1:]]
                yield f"{name}{'_' if name.endswith('in_proj') else '.'}{kind}", whole
    yield "positional_embedding", shapes["text_model.embeddings.position_embedding.weight"]
    yield "text_projection", shapes["text_projection.weight"][::-1]


if __name__ == "__main__":
    sys.exit(main())
