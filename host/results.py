"""Our stand-in for ComfyUI's `ui`: what a node shows on itself, for life without ComfyUI."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

from .inputs import FolderType


class SavedResult(dict[str, str]):
    """Where a file was saved, as the frontend asks for it."""

    def __init__(self, filename: str, subfolder: str, type: FolderType) -> None:
        super().__init__(filename=filename, subfolder=subfolder, type=type.value)


class SavedImages:
    """Pictures that a node has saved."""

    def __init__(self, results: list[SavedResult], is_animated: bool = False) -> None:
        self.results = results
        self.is_animated = is_animated

    def as_dict(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"images": self.results}
        return shown | {"animated": (True,)} if self.is_animated else shown


class PreviewImage:
    """Pictures to look at, kept in the temporary folder.

    Args:
        image: float tensor or array [batch, height, width, 3], 0 to 1.
        cls: the node; its `hidden` workflow is written into the pictures.
    """

    def __init__(self, image: Any, animated: bool = False, cls: Any = None) -> None:
        from . import host

        self.animated = animated
        self.values = save_pngs(image, host().temp_directory(), FolderType.temp, cls)

    def as_dict(self) -> dict[str, Any]:
        return {"images": self.values, "animated": (self.animated,)}


class PreviewText:
    """A text to read."""

    def __init__(self, value: str) -> None:
        self.value = value

    def as_dict(self) -> dict[str, Any]:
        return {"text": (self.value,)}


def save_pngs(images: Any, folder: Path, type: FolderType, cls: Any) -> list[SavedResult]:
    """Write each picture of a batch into `folder` under a fresh name."""
    import numpy as np
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    hidden = getattr(cls, "hidden", None)
    for key, value in {
        "prompt": getattr(hidden, "prompt", None),
        **(getattr(hidden, "extra_pnginfo", None) or {}),
    }.items():
        if value:
            info.add_text(key, json.dumps(value))

    folder.mkdir(parents=True, exist_ok=True)
    results: list[SavedResult] = []
    for picture in images:
        if hasattr(picture, "cpu"):
            picture = picture.cpu().numpy()
        name = f"preview_{uuid.uuid4().hex[:12]}.png"
        pixels = np.clip(np.asarray(picture) * 255.0, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name, pnginfo=info, compress_level=1)
        results.append(SavedResult(name, "", type))
    return results
