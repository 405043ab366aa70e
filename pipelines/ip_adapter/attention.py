"""Attention that hears pictures: diffusers' own processors and projections, built once, put on for
the length of a block, and taken off so that nothing of them is left.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from .files import LAYERS, AdapterFile, Traits

if TYPE_CHECKING:
    import torch

    from ..loading import LivePipeline

DENOISERS: Mapping[str, str] = {
    "UNet2DConditionModel": "unet",
    "FluxTransformer2DModel": "flux",
    "SD3Transformer2DModel": "sd3",
}
"""Class of the denoiser → the layout of adapters that it takes."""

_ABSENT = object()


def denoiser_of(live: LivePipeline) -> Any:
    return live.component(live.family.denoiser.attribute)


def layout_of(live: LivePipeline) -> str:
    """The layout of adapters that fit the base model; `""` if none do."""
    return DENOISERS.get(type(denoiser_of(live)).__name__, "")


def hearing_layers(denoiser: Any) -> list[str]:
    """Paths of the attention layers that hear pictures, in the order in which files count them."""
    names = [name.removesuffix(".processor") for name in denoiser.attn_processors]
    layout = DENOISERS[type(denoiser).__name__]
    if layout == "unet":
        return [name for name in names if name.endswith("attn2")]
    return [name for name in names if not name.startswith("single_")]


def check_fits(live: LivePipeline, file: AdapterFile, traits: Traits, name: str) -> None:
    """Compare every layer's shape with the model's.

    Raises:
        ValueError: the adapter is made for another model; says for which.
    """
    from ...families import family_named

    denoiser, here = denoiser_of(live), live.family.title
    made_for = f"{family_named(traits.family).title} (text states {traits.context} wide)"
    layout = layout_of(live)
    if not layout:
        raise ValueError(
            f"IP-Adapters cannot be used with {here}: no way to put one on is known; they work "
            "with Stable Diffusion, SDXL, SD 3 and FLUX.1. Leave it out"
        )
    wrong = f"the IP-Adapter {name!r} is made for {made_for} and this model is {here}"
    if layout != traits.layout:
        raise ValueError(f"{wrong}; choose one that is made for it")
    step, first = (2, 1) if layout == "unet" else (1, 0)
    layers, shapes = hearing_layers(denoiser), file.shapes(LAYERS)
    heard = sum(key.endswith("to_k_ip.weight") for key in shapes)
    if heard != len(layers):
        raise ValueError(f"{wrong}: it has {heard} layers for {len(layers)}; choose another")
    context = _context(denoiser, layout)
    for index, path in enumerate(layers):
        out = denoiser.get_submodule(path).to_k.weight.shape[0]
        for role in ("to_k_ip", "to_v_ip"):
            shape = shapes.get(f"{first + step * index}.{role}.weight")
            if shape != (out, context):
                raise ValueError(
                    f"{wrong}, with text states {context} wide: {path} wants {role} of shape "
                    f"{[out, context]} and gets {list(shape or ())}; choose another"
                )


def _context(denoiser: Any, layout: str) -> int:
    config = denoiser.config
    if layout == "unet":
        return config.cross_attention_dim
    if layout == "flux":
        return config.joint_attention_dim
    return config.num_attention_heads * config.attention_head_dim


def structure_of(denoiser: Any) -> str:
    """What decides how processors are built: the same for models of one architecture."""
    config = {name: value for name, value in denoiser.config.items() if not name.startswith("_")}
    return json.dumps(config, default=str, sort_keys=True)


def build(
    live: LivePipeline, files: Sequence[AdapterFile], dtype: torch.dtype
) -> torch.nn.ModuleList:
    """Processors for every layer of `hearing_layers` and a projection for each adapter, as a pair
    of lists, in eval mode and frozen. An adapter that is there twice has its weights once.

    Raises:
        ValueError: a file is incomplete.
    """
    import torch

    with torch.random.fork_rng(devices=[]):  # new modules draw random numbers, soon overwritten
        return _built(live, files).to(dtype=dtype).eval().requires_grad_(False)


def _built(live: LivePipeline, files: Sequence[AdapterFile]) -> torch.nn.ModuleList:
    import torch

    denoiser, layout = denoiser_of(live), layout_of(live)
    states = {file.path: file.state() for file in files}
    try:
        if layout == "sd3":
            (state,) = states.values()
            processors = denoiser._convert_ip_adapter_attn_to_diffusers(state["ip_adapter"])
        else:
            each = [states[file.path] for file in files]
            processors = denoiser._convert_ip_adapter_attn_to_diffusers(each)
        convert = denoiser._convert_ip_adapter_image_proj_to_diffusers
        projections = [convert(states[file.path]["image_proj"]) for file in files]
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        names = " and ".join(str(path) for path in states)
        raise ValueError(
            f"{names} cannot be put on ({type(error).__name__}: {error}); copy or download the "
            "file again"
        ) from error
    heard = [processors[f"{layer}.processor"] for layer in hearing_layers(denoiser)]
    if layout != "sd3":
        _share(heard, [file.path for file in files])
    whole = torch.nn.ModuleList([torch.nn.ModuleList(heard), torch.nn.ModuleList(projections)])
    missing = [name for name, tensor in whole.state_dict().items() if tensor.is_meta]
    if missing:
        names = " and ".join(str(path) for path in states)
        raise ValueError(f"{names} lack {len(missing)} tensors; copy or download the file again")
    return whole


def _share(processors: Sequence[Any], paths: Sequence[object]) -> None:
    for index, path in enumerate(paths):
        first = paths.index(path)
        for processor in processors:
            processor.to_k_ip[index] = processor.to_k_ip[first]
            processor.to_v_ip[index] = processor.to_v_ip[first]


@contextmanager
def hearing(live: LivePipeline, parts: torch.nn.ModuleList) -> Iterator[None]:
    """The denoiser with what `build` made. Afterwards it has the very objects of before."""
    from diffusers.models.embeddings import MultiIPAdapterImageProjection

    denoiser: Any = denoiser_of(live)
    processors: Any = parts[0]
    projections: Any = parts[1]
    with ExitStack() as undo:
        for path, processor in zip(hearing_layers(denoiser), processors, strict=True):
            layer = denoiser.get_submodule(path)
            backend = getattr(layer.processor, "_attention_backend", None)
            if backend is not None:
                processor._attention_backend = backend
            undo.callback(_put(layer, "processor", processor))
        if layout_of(live) == "sd3":
            undo.callback(_put(denoiser, "image_proj", projections[0]))
        else:
            whole = MultiIPAdapterImageProjection(list(projections)).eval()
            undo.callback(_put(denoiser, "encoder_hid_proj", whole))
            undo.callback(_tell(denoiser.config, "encoder_hid_dim_type", "ip_image_proj"))
        yield


def _put(owner: torch.nn.Module, name: str, value: torch.nn.Module) -> Callable[[], None]:
    """Set an attribute; what is returned makes it what it was, down to where torch keeps it."""
    plain: dict[str, Any] = owner.__dict__
    modules: dict[str, Any] = owner._modules
    before, module = plain.get(name, _ABSENT), modules.get(name, _ABSENT)
    setattr(owner, name, value)

    def undo() -> None:
        modules.pop(name, None)
        for table, kept in ((plain, before), (modules, module)):
            if kept is not _ABSENT:
                table[name] = kept

    return undo


def _tell(config: Any, name: str, value: str) -> Callable[[], None]:
    """As `_put`, of a configuration, whose attributes diffusers looks at and not its entries."""
    before = vars(config).get(name, _ABSENT)
    setattr(config, name, value)

    def undo() -> None:
        delattr(config, name) if before is _ABSENT else setattr(config, name, before)

    return undo
