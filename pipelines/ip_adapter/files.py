"""IP-Adapter files as they lie on disk, whatever program wrote them, and what their tensors tell.

Two parts: `image_proj` makes what an image encoder says of a picture into words for the denoiser,
`ip_adapter` holds what its attention layers hear them with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..sources import glimpse
from ..tensor_file import PICKLED, SAFETENSORS, open_tensors, unpickle

if TYPE_CHECKING:
    import torch

    from ...families.family import TensorFile

PROJECTION, LAYERS = "image_proj", "ip_adapter"
SUFFIXES = (*SAFETENSORS, *PICKLED)

_PREFIXES: Mapping[str, tuple[str, ...]] = {
    PROJECTION: ("image_proj.", "image_proj_model.", "ip_adapter_proj_model."),
    LAYERS: ("ip_adapter.", "adapter_modules.", "double_blocks."),
}
"""Published files, checkpoints of the original training code, XLabs' for FLUX."""
_XLABS = re.compile(r"^(\d+)\.processor\.ip_adapter_double_stream_([kv])_proj\.")


@dataclass(frozen=True)
class Wanted:
    """What an adapter asks of an image encoder.

    `architecture`: `"clip"` or `"siglip"`. `layer`: `"projected"`, one row of numbers for each
    picture, or `"hidden"`, the last hidden states but one, a row for each patch. `width`: of a row.
    """

    architecture: str
    layer: str
    width: int


@dataclass(frozen=True)
class Traits:
    """What an adapter's tensors tell.

    `layout`: how it is put on: `"unet"`, `"flux"` or `"sd3"`. `kind`: as in `guidance.IPAdapter`.
    `context`: width of the words that it gives, which is that of the text states. `wanted`: the
    image encoder; None where it reads nothing but faces.
    """

    layout: str
    family: str
    kind: str
    context: int
    wanted: Wanted | None

    @property
    def face_width(self) -> int:
        """Numbers of a face embedding that it reads; 0 if none."""
        return 512 if self.kind.startswith("faceid") else 0


@dataclass(frozen=True, eq=False)
class AdapterFile:
    """`keys`: part → name in that part → the file's key."""

    path: Path
    file: TensorFile
    keys: Mapping[str, Mapping[str, str]]

    def shapes(self, part: str) -> dict[str, tuple[int, ...]]:
        shapes = self.file.shapes()
        return {name: shapes[key] for name, key in self.keys[part].items()}

    def tensors(self, part: str) -> dict[str, torch.Tensor]:
        """The tensors of a part.

        Raises:
            ValueError: one of them holds NaN or infinity.
        """
        found = {name: self.file.tensor(key) for name, key in self.keys[part].items()}
        for name, tensor in found.items():
            if not bool(tensor.isfinite().all()):
                raise ValueError(
                    f"{self.path} holds NaN or infinity in {name!r}: it is damaged, or its "
                    "training failed; copy or download the file again"
                )
        return found

    def state(self) -> dict[str, dict[str, torch.Tensor]]:
        """Both parts, as diffusers' converters want them; without the LoRA of a FaceID."""
        layers = self.tensors(LAYERS)
        plain = {name: tensor for name, tensor in layers.items() if "_lora." not in name}
        return {PROJECTION: self.tensors(PROJECTION), LAYERS: plain}


def open_adapter(path: str | Path) -> AdapterFile:
    """Open an adapter's file, or the only one in a folder; its weights are not read yet.

    Raises:
        ValueError: missing, cut short, of another kind, or no IP-Adapter.
    """
    path = _only_file(Path(path))
    file = _Nested(unpickle(path)) if path.suffix.lower() in PICKLED else open_tensors(path)
    keys: dict[str, dict[str, str]] = {PROJECTION: {}, LAYERS: {}}
    for key in file.shapes():
        for part, prefixes in _PREFIXES.items():
            prefix = next((prefix for prefix in prefixes if key.startswith(prefix)), None)
            if prefix is not None:
                name = _XLABS.sub(r"\1.to_\2_ip.", key[len(prefix) :])
                keys[part][name] = key
    if not all(keys.values()):
        raise ValueError(
            f"{path} is no IP-Adapter: {glimpse(file)}; choose a file with image_proj and "
            "ip_adapter in it, such as ip-adapter_sd15.safetensors"
        )
    return AdapterFile(path, file, keys)


def traits_of(file: AdapterFile) -> Traits:
    """What the tensors tell, never the file's name.

    Raises:
        ValueError: no layout that can be put on.
    """
    projection, layers = file.shapes(PROJECTION), file.shapes(LAYERS)
    numbers = sorted(int(name.split(".")[0]) for name in layers if name.endswith("to_k_ip.weight"))
    try:
        if "0.norm_ip.linear.weight" in layers:
            wanted = Wanted("siglip", "hidden", projection["proj_in.weight"][1])
            traits = Traits("sd3", "sd3", "plus", layers["0.to_k_ip.weight"][1], wanted)
        elif "0.to_k_ip.bias" in layers:
            wanted = Wanted("clip", "projected", projection["proj.weight"][1])
            traits = Traits("flux", "flux", "base", layers["0.to_k_ip.weight"][1], wanted)
        elif numbers == list(range(1, 2 * len(numbers), 2)) and numbers:
            traits = _unet_traits(projection, layers["1.to_k_ip.weight"][1])
        else:
            raise KeyError("to_k_ip")
        given = _words(projection)
    except (KeyError, IndexError) as missing:
        raise ValueError(
            f"{file.path} is an IP-Adapter of a layout that is not known here ({missing} is not "
            f"where it is looked for; {glimpse(file.file)}); known are those of h94/IP-Adapter and "
            "h94/IP-Adapter-FaceID, XLabs' for FLUX and InstantX's for SD 3.5"
        ) from missing
    if given != traits.context:
        raise ValueError(
            f"{file.path} gives words of width {given} to layers that hear {traits.context}: it "
            "was put together from two files; copy or download it again"
        )
    return traits


def _unet_traits(projection: Mapping[str, tuple[int, ...]], context: int) -> Traits:
    family = "sdxl" if context == 2048 else "stable-diffusion"
    if "proj.weight" in projection:
        kind, wanted = "base", Wanted("clip", "projected", projection["proj.weight"][1])
    elif "proj.3.weight" in projection:
        kind, wanted = "full-face", Wanted("clip", "hidden", projection["proj.0.weight"][1])
    elif "perceiver_resampler.proj_in.weight" in projection:
        width = projection["perceiver_resampler.proj_in.weight"][1]
        kind, wanted = "faceid-plus", Wanted("clip", "hidden", width)
    elif "norm.weight" in projection and "proj.0.weight" in projection:
        kind, wanted = "faceid", None
    else:
        kind, wanted = "plus", Wanted("clip", "hidden", projection["proj_in.weight"][1])
    return Traits("unet", family, kind, context, wanted)


def _words(projection: Mapping[str, tuple[int, ...]]) -> int:
    """The width of what comes out of the projection: its last norm's."""
    last = ("perceiver_resampler.norm_out.weight", "norm_out.weight", "proj.3.weight")
    return projection[next((name for name in last if name in projection), "norm.weight")][0]


def _only_file(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"the IP-Adapter {path} is not there; choose it again")
    if not path.is_dir():
        return path
    found = sorted(each for each in path.iterdir() if each.suffix.lower() in SUFFIXES)
    found = [each for each in found if each.suffix.lower() in SAFETENSORS] or found
    if len(found) != 1:
        names = ", ".join(each.name for each in found) or "none"
        raise ValueError(f"{path} should hold one IP-Adapter file; it holds {names}: choose one")
    return found[0]


class _Nested:
    """What was pickled, the names of tables inside of tables joined by dots."""

    def __init__(self, content: Any) -> None:
        self._tensors: dict[str, torch.Tensor] = {}
        self._collect("", content)

    def _collect(self, prefix: str, content: Any) -> None:
        import torch

        if isinstance(content, torch.Tensor):
            self._tensors[prefix.removeprefix("state_dict.").removesuffix(".")] = content.detach()
        elif isinstance(content, dict):
            for name, value in content.items():
                self._collect(f"{prefix}{name}.", value)

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]
