"""IP-Adapters (arXiv 2308.06721) at work, for the length of one drawing."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import sha256_of
from ..guidance import IPAdapter, ReferenceUse, in_order
from ..spec import LoraUse
from .attention import (
    build,
    check_fits,
    denoiser_of,
    hearing,
    hearing_layers,
    layout_of,
    structure_of,
)
from .embeddings import read_embeddings
from .encode import Encoded, encode_pictures, nothing_to_see
from .faces import face_lora
from .files import AdapterFile, Traits, open_adapter, traits_of
from .presets import layer_factors

if TYPE_CHECKING:
    import torch

    from ..loading import LivePipeline, Pipelines

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Heard:
    """One use of an adapter: what it says, and how much of it each layer hears."""

    use: ReferenceUse
    said: Encoded
    weights: tuple[float, ...]

    def scale(self, layer: int, active: bool) -> float | list[float]:
        """What diffusers' processors want. Under a mask each picture is heard by itself, and their
        effects are averaged so that the weight means the same for any number of them.
        """
        weight = self.weights[layer] if active else 0.0
        count = len(self.said.rows)
        return [weight / count] * count if self.use.mask and count > 1 else weight

    def is_active(self, step: int, total: int) -> bool:
        return not (step / total < self.use.start or (step + 1) / total > self.use.end)


class References:
    """IP-Adapters that are on the denoiser right now.

    `guided`: whether the pipeline draws with classifier-free guidance, two halves at once. `size`:
    width and height of what is drawn, in pixels.
    """

    def __init__(
        self,
        layout: str = "",
        processors: Sequence[Any] = (),
        heard: Sequence[Heard] = (),
        guided: bool = False,
        size: tuple[int, int] = (0, 0),
    ) -> None:
        self._layout, self._processors, self._heard = layout, processors, heard
        self._guided, self._size = guided, size

    def arguments(self, pipeline: Any) -> dict[str, Any]:
        """What `pipeline` is called with besides the rest: embeddings of the pictures, masks.

        Raises:
            ValueError: this pipeline draws without IP-Adapters.
        """
        if not self._heard:
            return {}
        if "ip_adapter_image_embeds" not in inspect.signature(type(pipeline).__call__).parameters:
            raise ValueError(
                f"diffusers' {type(pipeline).__name__}, which draws this, takes no IP-Adapter; "
                "leave the IP-Adapter out, or what asks for that pipeline: a T2I-Adapter (a "
                "ControlNet works beside an IP-Adapter), or a model made for one task"
            )
        if self._layout == "sd3":
            return {"ip_adapter_image_embeds": self._halves(self._heard[0].said)}
        if self._layout == "flux":
            return {
                "ip_adapter_image_embeds": [one.said.rows[None] for one in self._heard],
                "negative_ip_adapter_image_embeds": [_nothing(one)[None] for one in self._heard],
            }
        masks = self._masks()
        told = {"cross_attention_kwargs": {"ip_adapter_masks": masks}} if masks else {}
        return {"ip_adapter_image_embeds": [self._halves(one.said) for one in self._heard], **told}

    def before_step(self, step: int, total: int) -> None:
        """Be told that step `step` of `total`, counted from 0, comes next."""
        active = [one.is_active(step, total) for one in self._heard]
        for layer, processor in enumerate(self._processors):
            pairs = zip(self._heard, active, strict=True)
            scales = [one.scale(layer, on) for one, on in pairs]
            processor.scale = scales[0] if self._layout == "sd3" else scales

    def _halves(self, said: Encoded) -> torch.Tensor:
        """[1 or 2, pictures, ...]; of SD 3, which looks at one picture, [1 or 2, ...]."""
        import torch

        assert said.nothing is not None
        halves = [said.nothing, said.rows] if self._guided else [said.rows]
        return torch.cat(halves) if self._layout == "sd3" else torch.stack(halves)

    def _masks(self) -> list[torch.Tensor | None]:
        """[1, pictures, height, width] for each use that has a mask; nothing if none has."""
        from diffusers.image_processor import IPAdapterMaskProcessor

        if not any(one.use.mask for one in self._heard):
            return []
        processor = IPAdapterMaskProcessor(vae_scale_factor=1)
        width, height = self._size
        masks: list[torch.Tensor | None] = []
        for one in self._heard:
            mask = None
            if one.use.mask is not None:
                image = one.use.mask.image().convert("L")
                mask = processor.preprocess(image, height=height, width=width)
                mask = mask.expand(1, len(one.said.rows), height, width)
            masks.append(mask)
        return masks


def reference_loras(live: LivePipeline, uses: Sequence[ReferenceUse]) -> tuple[LoraUse, ...]:
    """The LoRAs that adapters bring along (FaceID), each once and as trained.

    Raises:
        ValueError: one that does not fit the base model.
    """
    adapters = {use.adapter.sha256: use.adapter for use in in_order(uses) if use.weight}
    loras = []
    for adapter in adapters.values():
        if adapter.kind.startswith("faceid"):
            _read(live, adapter)
            loras.append(face_lora(live, adapter))
    return tuple(LoraUse(lora) for lora in loras if lora is not None)


@contextmanager
def referenced(
    pipelines: Pipelines,
    live: LivePipeline,
    uses: Sequence[ReferenceUse],
    size: tuple[int, int],
    guidance: float,
) -> Iterator[References]:
    """The adapters of `uses` on the denoiser of `live`, which is as before when the block ends.

    Processors and projections are kept for the next drawing, and so is what encoders said of
    pictures: no encoder is loaded for those that were seen before.

    Raises:
        ValueError: an adapter that does not fit the base model, or a file that cannot be used.
    """
    from ..loading import resolve_dtype

    uses = [use for use in in_order(uses) if use.weight]
    if not uses:
        yield References()
        return
    opened = [_read(live, use.adapter) for use in uses]
    layout, denoiser = layout_of(live), denoiser_of(live)
    _check_together(uses, layout)
    guided = layout != "flux" and guidance > 1
    guided = guided and getattr(denoiser.config, "time_cond_proj_dim", None) is None
    dtype = resolve_dtype(live.base.dtype, live.device)
    layers = hearing_layers(denoiser)
    heard = []
    for use, (_, traits) in zip(uses, opened, strict=True):
        factor = layer_factors(use.blocks, live.family, denoiser, layers)
        said = _said(pipelines, use, traits, dtype, guided)
        heard.append(Heard(use, said, tuple(use.weight * factor(layer) for layer in layers)))
    _check_pictures(heard, layout)
    files = [file for file, _ in opened]
    shas = tuple(use.adapter.sha256 for use in uses)
    key = ("ip-adapter", shas, str(dtype), structure_of(denoiser))
    room = sum(Path(use.adapter.path).stat().st_size for use in uses)
    with ExitStack() as stack:
        parts: Any = stack.enter_context(
            pipelines.open_helper(key, lambda: build(live, files, dtype), room)
        )
        stack.enter_context(hearing(live, parts))
        for one, projection in zip(heard, parts[1], strict=True):
            if one.said.clip is not None:
                stack.enter_context(_beside_faces(projection, one, guided))
        references = References(layout, list(parts[0]), heard, guided, size)
        references.before_step(0, 1)
        yield references


def _read(live: LivePipeline, adapter: IPAdapter) -> tuple[AdapterFile, Traits]:
    path = Path(adapter.path)
    if not path.is_file() or sha256_of(path) != adapter.sha256:
        raise ValueError(
            f"the IP-Adapter {path} is gone or changed since it was loaded; queue again"
        )
    file = open_adapter(path)
    traits = traits_of(file)
    check_fits(live, file, traits, adapter.name)
    return file, traits


def _said(
    pipelines: Pipelines, use: ReferenceUse, traits: Traits, dtype: torch.dtype, guided: bool
) -> Encoded:
    """What the adapter is told: of the pictures or from the file, combined as the use says."""
    if use.embeddings is not None:
        device = pipelines.device
        said = read_embeddings(use.embeddings, use.adapter, traits, dtype, device)
        said = nothing_to_see(pipelines, use.adapter, said)
    else:
        said = encode_pictures(pipelines, use.adapter, use.images, dtype)
    if use.combine == "average":
        said = said.averaged()
    if use.negatives and guided:
        said = said.away_from(encode_pictures(pipelines, use.adapter, use.negatives, dtype))
    elif use.negatives:
        _log.warning("without classifier-free guidance a negative picture has no effect")
    return said


def _check_together(uses: Sequence[ReferenceUse], layout: str) -> None:
    if layout != "unet" and any(use.mask for use in uses):
        raise ValueError(
            "masks for IP-Adapters work with Stable Diffusion and SDXL alone: diffusers' attention "
            "of this model has no place for them; leave the mask out"
        )
    if layout == "sd3" and len(uses) > 1:
        names = " and ".join(repr(use.adapter.name) for use in uses)
        raise ValueError(
            f"SD 3 takes one IP-Adapter at a time and gets {names}; leave all but one out, or "
            "give one of them several pictures, combined by average"
        )


def _check_pictures(heard: Sequence[Heard], layout: str) -> None:
    count = len(heard[0].said.rows)
    if layout == "sd3" and count > 1:
        raise ValueError(
            f"SD 3 looks at one reference picture and gets {count}; combine them by average"
        )


def _nothing(one: Heard) -> torch.Tensor:
    assert one.said.nothing is not None
    return one.said.nothing


@contextmanager
def _beside_faces(projection: Any, one: Heard, guided: bool) -> Iterator[None]:
    """Show the projection of FaceID Plus what CLIP says of the faces, for as many rows as come."""
    import torch

    clip = one.said.clip
    assert clip is not None and clip.nothing is not None
    halves = [clip.nothing, clip.rows] if guided else [clip.rows]

    def show(module: Any, given: tuple[torch.Tensor, ...]) -> None:
        times = given[0].shape[0] // sum(map(len, halves))
        module.clip_embeds = torch.cat([half for half in halves for _ in range(times)])[None]

    handle = projection.register_forward_pre_hook(show)
    projection.shortcut = one.use.adapter.kind.endswith("-v2")
    try:
        yield
    finally:
        handle.remove()
        projection.clip_embeds, projection.shortcut = None, False
