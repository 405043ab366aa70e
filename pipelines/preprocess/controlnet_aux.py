"""controlnet-aux, one detector at a time.

Importing that package imports every detector there is, with all that each of them wants; one that
cannot be imported takes all others with it. Its detectors unpickle their weights by themselves, in
ways that depend on an environment variable (TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD) and fail on a machine
without the GPU they were saved on. So its modules are imported here without the package around
them, and weights are read by us and put into the networks that it defines.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ..tensor_file import SAFETENSORS, open_tensors, unpickle
from .undisturbed import quiet_import

if TYPE_CHECKING:
    import numpy as np
    import torch

_SHELL = "likeness_controlnet_aux"
"""Under this name lies its folder as a package without contents, beside the package itself."""

_SHOWN = 3
"""How many names of tensors a message gives."""


def part(name: str) -> Any:
    """A module of controlnet-aux (`"hed"`, `"pidi.model"`).

    Raises:
        ValueError: it is not installed, or does not work with what else is.
    """
    if _SHELL not in sys.modules:
        found = importlib.util.find_spec("controlnet_aux")
        if found is None or not found.submodule_search_locations:
            raise ValueError(
                "the package controlnet-aux is missing; install it with pip install controlnet-aux"
            )
        shell = ModuleType(_SHELL)
        shell.__path__ = list(found.submodule_search_locations)
        sys.modules[_SHELL] = shell
    try:
        with quiet_import():
            return importlib.import_module(f"{_SHELL}.{name}")
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"the part {name} of controlnet-aux does not work here ({error}); update it with "
            "pip install -U controlnet-aux timm scipy"
        ) from error


def call(detector: Any, picture: np.ndarray, **options: Any) -> np.ndarray:
    """One of its detectors on a picture whose sides are multiples of 64, without scaling."""
    side = min(picture.shape[:2])
    if not _takes(detector, "image_resolution"):
        return detector(picture, detect_resolution=side, output_type="np", **options)
    sides = {"detect_resolution": side, "image_resolution": side}
    return detector(picture, output_type="np", **sides, **options)


def _takes(detector: Any, argument: str) -> bool:
    import inspect

    return argument in inspect.signature(type(detector).__call__).parameters


def held(detector: Any, **networks: torch.nn.Module) -> torch.nn.Module:
    """One of its detectors and the networks that it uses as one module, in eval mode and frozen:
    what moves or lets go of the module does so to both.
    """
    import torch

    module = torch.nn.ModuleDict(networks).eval().requires_grad_(False)
    module.detector = detector
    return module


def fill(
    network: torch.nn.Module, state: Mapping[str, Any], path: Path, unused: str = "-"
) -> torch.nn.Module:
    """The network with these weights.

    `unused`: pattern of names that may be missing or too many, of a part that nothing depends on.

    Raises:
        ValueError: names or shapes do not fit; counts them and names some.
    """
    import torch

    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    own = network.state_dict()
    counters = "num_batches_tracked"  # not in files from before torch 0.4.1, and never used here
    missing = [n for n in own if n not in tensors and not n.endswith(counters)]
    strange = [n for n in tensors if n not in own]
    missing, strange = (
        [n for n in names if not re.match(unused, n)] for names in (missing, strange)
    )
    unlike = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(value.shape)}"
        for name, value in own.items()
        if name in tensors and tensors[name].shape != value.shape
    ]
    told = [
        f"{len(names)} {what} ({', '.join(names[:_SHOWN])}{', ...' * (len(names) > _SHOWN)})"
        for names, what in ((missing, "missing"), (strange, "too many"), (unlike, "of other shape"))
        if names
    ]
    if told:
        raise ValueError(
            f"{path} does not hold the weights of {type(network).__name__}: tensors "
            f"{'; '.join(told)}; choose another file"
        )
    network.load_state_dict(tensors, strict=False)
    return network


def state(path: Path, nested: str = "", prefix: str = "") -> dict[str, Any]:
    """The tensors in a file by name; those of its table `nested` when it has one of that name.

    `prefix`: taken off the names that begin with it.

    Raises:
        ValueError: the file is damaged, or a pickle that holds more than tensors.
    """
    if path.suffix.lower() in SAFETENSORS:
        opened = open_tensors(path)
        found: Any = {name: opened.tensor(name) for name in opened.shapes()}
    else:
        found = unpickle(path)
    if isinstance(found, dict) and isinstance(found.get(nested), dict):
        found = found[nested]
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no tensors with names; choose another file")
    return {str(name).removeprefix(prefix): value for name, value in found.items()}
