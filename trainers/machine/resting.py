"""Parts of the pipeline that a training does not need go out of the device's memory meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ...pipelines.tensor_file import is_mapped, open_tensors, release_pages

if TYPE_CHECKING:
    from torch import Tensor

    from ...pipelines.loading import LivePipeline


WORTH_PUTTING_ASIDE = 64 << 20
"""Bytes; smaller parts stay in memory."""


class Resting:
    """Components that rest until `with` ends, and can be woken in between.

    On the CPU, weights that lie in their file are forgotten until they are used again; others,
    which were converted when they were loaded, wait in a temporary file in `folder`.
    """

    def __init__(self, live: LivePipeline, folder: Path) -> None:
        self._live = live
        self._folder = folder
        self._parts: list[_Part] = []

    def __enter__(self) -> Resting:
        return self

    def __exit__(self, *_: object) -> None:
        self._wake()
        self._live.at_rest.difference_update(name for part in self._parts for name in part.names)
        self._parts.clear()

    def send(self, components: Sequence[str]) -> None:
        """These components rest from now on; those that the pipeline lacks are passed over."""
        there = [name for name in components if self._live.component(name) is not None]
        part = _Part(self._live, there, self._folder)
        self._parts.append(part)
        self._live.at_rest.update(there)
        self._rest([part])

    @contextmanager
    def awake(self) -> Iterator[None]:
        """Back on the device for the length of the block."""
        self._wake()
        try:
            yield
        finally:
            self._rest(self._parts)

    def _wake(self) -> None:
        for part in self._parts:
            part.wake()

    def _rest(self, parts: Sequence[_Part]) -> None:
        from diffusers.training_utils import free_memory

        for part in parts:
            part.rest()
        free_memory()
        _give_back()


class _Part:
    """Components that are sent to rest together."""

    def __init__(self, live: LivePipeline, names: list[str], folder: Path) -> None:
        self.names = names
        self._device = live.device
        self._modules = [live.component(name) for name in names]
        self._folder = folder
        self._waiting: Any = None

    def rest(self) -> None:
        if self._device == "cpu":
            self._put_aside()
        else:
            for module in self._modules:
                module.to("cpu")

    def wake(self) -> None:
        if self._device == "cpu":
            self._bring_back()
        else:
            for module in self._modules:
                module.to(self._device)

    @property
    def _weights(self) -> list[Tensor]:
        """Every tensor once, however many modules share it."""
        weights = [weight for module in self._modules for weight in module.parameters()]
        return list({id(weight): weight for weight in weights}.values())

    def _put_aside(self) -> None:
        from safetensors import SafetensorError

        converted = {}
        for index, weight in enumerate(self._weights):
            if is_mapped(weight.data):
                release_pages(weight.data)
            elif weight.data.is_contiguous():
                converted[str(index)] = weight.data
        if sum(tensor.nbytes for tensor in converted.values()) < WORTH_PUTTING_ASIDE:
            return
        try:
            self._waiting = _aside(converted, self._folder)
        except (OSError, SafetensorError):  # no room on that disk: they stay where they are
            return
        for index, weight in enumerate(self._weights):
            if str(index) in converted:
                weight.data = weight.data.new_empty(0)

    def _bring_back(self) -> None:
        if self._waiting is None:
            return
        _give_back()  # room for them, where a step has just been computed
        weights = self._weights
        for name in self._waiting.shapes():
            waiting = self._waiting.tensor(name)
            weights[int(name)].data = waiting.clone()
            release_pages(waiting)
        self._waiting = None


def _aside(tensors: dict[str, Tensor], folder: Path) -> Any:
    """An open file that holds `tensors`. Where the system allows it, the file has no name any more:
    nothing is left of it, however the process ends.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    place = TemporaryDirectory(prefix=".resting-", dir=folder, ignore_cleanup_errors=True)
    file = Path(place.name) / "weights.safetensors"
    try:
        save_file(tensors, file)
        opened = open_tensors(file)
    finally:
        if os.name != "nt":
            place.cleanup()
    return opened if os.name != "nt" else _Held(opened, place)


class _Held:
    """An open file and the folder that goes with it: Windows cannot take the name alone."""

    def __init__(self, opened: Any, place: TemporaryDirectory[str]) -> None:
        self.shapes, self.tensor, self._place = opened.shapes, opened.tensor, place


def _give_back() -> None:
    """Give freed memory to the system: glibc keeps what lies between blocks that are still in use,
    as it does with weights of less than 32 MB.
    """
    import ctypes

    with suppress(OSError, AttributeError, TypeError):  # another C library, or Windows
        ctypes.CDLL(None).malloc_trim(0)


def idle_after_captions(live: LivePipeline, *, trains_text: bool) -> tuple[str, ...]:
    """What nothing looks at any more once captions are encoded."""
    known = {"text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder"}
    ours = {part.attribute for part in live.family.text_encoders}
    there = {name for name in known | ours if getattr(live.pipeline, name, None) is not None}
    return tuple(sorted(there - ours if trains_text else there))


IDLE_AFTER_PICTURES = ("vae",)
"""And once pictures are."""
