"""Pictures as the denoiser sees them: encoded once, every way in which they are shown."""

from __future__ import annotations

import json
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ...families import PictureSize
from ...pipelines.loading import LivePipeline, base_identity, resolve_dtype
from ..settings import TrainingSettings
from .buckets import Size, bucket_sizes, nearest_bucket
from .cache import Cache, Records, Tell
from .fitting import View, pixels, shown, shown_mask, views_of
from .sample import Sample

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

NO_MASK = -1


@dataclass(frozen=True)
class Shown:
    """One picture as it is shown this time. `latents`: float32 [channels, height, width] on the
    CPU. `mask`: [1, height, width] in 0..1, None where all of it counts.
    """

    latents: Tensor
    size: PictureSize
    mask: Tensor | None


@dataclass(frozen=True)
class Pictures:
    """Samples, encoded. `views`: of each. `first`: of each, the number of its first view's record,
    which holds `mean` and `deviation`; latents are drawn anew each time: `mean + deviation *
    noise`. `masks`: records of `mask`, `first_mask`: of each sample, or `NO_MASK`.
    """

    samples: tuple[Sample, ...]
    views: tuple[tuple[View, ...], ...]
    first: Sequence[int]
    records: Records
    masks: Records
    first_mask: Sequence[int]

    @property
    def targets(self) -> list[Size]:
        """The size in pixels that each sample is shown at."""
        return [views[0].target for views in self.views]

    @property
    def is_masked(self) -> bool:
        """Whether any of them has a mask."""
        return len(self.masks) > 0

    def show(self, number: int, draw: torch.Generator) -> Shown:
        """Sample `number` in one of its views, as `draw` draws it."""
        import torch

        count = len(self.views[number])
        chosen = int(torch.randint(count, (), generator=draw)) if count > 1 else 0
        return self.show_view(number, chosen, draw)

    def show_view(self, number: int, chosen: int, draw: torch.Generator) -> Shown:
        import torch

        record = self.records[self.first[number] + chosen]
        mean, deviation = record["mean"], record["deviation"]
        latents = mean + deviation * torch.randn(mean.shape, generator=draw)
        masked = self.first_mask[number]
        mask = None if masked == NO_MASK else self.masks[masked + chosen]["mask"]
        return Shown(latents, self.views[number][chosen].size, mask)


def target_sizes(
    live: LivePipeline, samples: Sequence[Sample], size: Size, buckets: bool
) -> list[Size]:
    """The size in pixels at which each sample is trained; `size`: of a square one."""
    sizes = (size,)
    if buckets:
        sizes = bucket_sizes(size, live.family.size_multiple(live.pipeline))
    return [
        sample.encoded.pixel_size(live) if sample.encoded else nearest_bucket(sample.size, sizes)
        for sample in samples
    ]


def encode_pictures(
    live: LivePipeline,
    samples: Sequence[Sample],
    targets: Sequence[Size],
    settings: TrainingSettings,
    cache: Cache,
    tell: Tell,
) -> Pictures:
    """All views of the samples, each at its target size, and of their masks."""
    views = [
        _views(sample, target, settings) for sample, target in zip(samples, targets, strict=True)
    ]
    shown_views = _Numbered(samples, views)
    reader = _Reader()

    def make(number: int) -> dict[str, Tensor]:
        sample, view = shown_views[number]
        if sample.encoded is not None:
            return sample.encoded.latents(live)
        return _encode(live, shown(reader.picture(sample, view), view))

    keys = (_key(sample.picture_digest, view) for sample, view in shown_views)
    records = cache.collect("latents", _identity(live), keys, make, tell)
    masked = array("q", (index for index, sample in enumerate(samples) if sample.mask_digest))
    masked_views = _Numbered([samples[each] for each in masked], [views[each] for each in masked])
    first_mask = array("q", [NO_MASK]) * len(samples)
    for index, start in zip(masked, masked_views.first, strict=True):
        first_mask[index] = start
    masks = Records()
    if masked:
        factor = targets[0][0] // records[0]["mean"].shape[-1]

        def make_mask(number: int) -> dict[str, Tensor]:
            sample, view = masked_views[number]
            size = (view.target[0] // factor, view.target[1] // factor)
            return {"mask": shown_mask(reader.mask(sample), view, size)}

        keys = (_key(sample.mask_digest, view) for sample, view in masked_views)
        masks = cache.collect("masks", {"factor": factor}, keys, make_mask, lambda *_: None)
    return Pictures(tuple(samples), tuple(views), shown_views.first, records, masks, first_mask)


def _views(sample: Sample, target: Size, settings: TrainingSettings) -> tuple[View, ...]:
    if sample.encoded is not None:
        return (View(target, target, (0, 0), target),)
    return views_of(sample.size, target, crop=settings.crop, flip=settings.flip)


class _Numbered:
    """All views of all samples in a row. `first`: the number of each sample's first one."""

    def __init__(self, samples: Sequence[Sample], views: Sequence[tuple[View, ...]]) -> None:
        self._samples, self._views = samples, views
        self.first = array("q", (0, *accumulate(len(each) for each in views)))
        self.first.pop()

    def __iter__(self) -> Iterator[tuple[Sample, View]]:
        for sample, views in zip(self._samples, self._views, strict=True):
            for view in views:
                yield sample, view

    def __getitem__(self, number: int) -> tuple[Sample, View]:
        index = bisect_right(self.first, number) - 1
        return self._samples[index], self._views[index][number - self.first[index]]


class _Reader:
    """The picture that was opened last: its views follow one another."""

    def __init__(self) -> None:
        self._last: tuple[Any, Image] | None = None

    def picture(self, sample: Sample, view: View) -> Image:
        key = (id(sample), view.scaled)
        if self._last is None or self._last[0] != key:
            # Twice what is needed, so that the finer filter still has the last word.
            self._last = (key, sample.open(at_least=2 * min(view.scaled)))
        return self._last[1]

    def mask(self, sample: Sample) -> Image:
        if self._last is None or self._last[0] != ("mask", id(sample)):
            mask = sample.open_mask()
            assert mask is not None, "it has a digest"
            self._last = (("mask", id(sample)), mask)
        return self._last[1]


def _encode(live: LivePipeline, image: Image) -> dict[str, Tensor]:
    """One picture at a time: the last bits of a result depend on the size of its batch."""
    import torch

    with torch.no_grad():
        values = pixels(image)[None].to(live.device)
        mean, deviation = live.family.encode_pixels(live.pipeline, values)
    parts = {"mean": mean, "deviation": deviation}
    return {name: part[0].float().cpu().contiguous() for name, part in parts.items()}


def _key(digest: str, view: View) -> str:
    facts = [digest, view.scaled, view.corner, view.target, view.mirrored]
    return json.dumps(facts)


def _identity(live: LivePipeline) -> dict[str, str]:
    """What latents depend on besides the picture."""
    return {
        "base": base_identity(live.base),
        "dtype": str(resolve_dtype(live.base.dtype, live.device)),
        "device": live.device.partition(":")[0],
    }
