"""Files whose weights are stored in float8 with a scale beside each, read as ordinary weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from .tensor_file import MappedTensors, PickledTensors

_SCALES = (".scale_weight", ".weight_scale")
_HINTS = (".scale_input", ".input_scale", ".comfy_quant", "scaled_fp8")
"""Facts for programs that multiply in float8; the weights do not need them."""
_FOREIGN = (".weight_scale_2", ".weight.absmax", ".quant_map", ".qweight", ".qzeros")
"""Traces of formats with less than 8 bits per weight."""


class PlainWeights:
    """A file's tensors without scales: `weight · scale` in `dtype` where the file says so.

    A view of the file for every other tensor.

    Raises:
        ValueError: weights are stored in a format other than float8 with one scale per tensor or
            per row.
    """

    def __init__(self, file: MappedTensors | PickledTensors, dtype: torch.dtype) -> None:
        self.path = file.path
        self._file = file
        self._dtype = dtype
        names = file.shapes()
        self._scales = {
            f"{name.removesuffix(ending)}.weight": name
            for name in names
            for ending in _SCALES
            if name.endswith(ending)
        }
        for name in names:
            if name.endswith(_FOREIGN):
                self._refuse(name, name.rsplit(".", 1)[-1])
        for layer in _layers_of(file.metadata):
            if not layer[1].startswith("float8"):
                self._refuse(*layer)
        hidden = (*_SCALES, *_HINTS)
        self._shapes = {name: shape for name, shape in names.items() if not name.endswith(hidden)}

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return self._shapes

    def dtypes(self) -> Mapping[str, str]:
        return {name: kind for name, kind in self._file.dtypes().items() if name in self._shapes}

    def tensor(self, name: str) -> torch.Tensor:
        from .tensor_file import release_pages

        tensor = self._file.tensor(name)
        if name not in self._scales:
            return tensor
        scale = self._file.tensor(self._scales[name]).float()
        if not str(tensor.dtype).startswith("torch.float8"):
            self._refuse(name, str(tensor.dtype))
        if scale.numel() not in (1, tensor.shape[0]):
            self._refuse(name, f"{scale.numel()} scales for {tensor.shape[0]} rows")
        plain = tensor.float() * scale.reshape(-1, *[1] * (tensor.dim() - 1))
        release_pages(tensor)
        return plain.to(self._dtype)

    def _refuse(self, name: str, what: str) -> None:
        raise ValueError(
            f"{self.path} stores {name!r} in a compressed form ({what}) that Likeness cannot read; "
            "use a copy of the model in float16, bfloat16, float32 or float8"
        )


def _layers_of(metadata: Mapping[str, str]) -> list[tuple[str, str]]:
    """(layer, format) of what the file's metadata says about compressed layers."""
    try:
        told = json.loads(metadata.get("_quantization_metadata", "{}"))
        return [(name, str(layer["format"])) for name, layer in told.get("layers", {}).items()]
    except (ValueError, TypeError, KeyError, AttributeError):
        return []  # a scale that does not fit its weight is refused all the same
