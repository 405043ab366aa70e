"""The one place where live weights exist: a cache of base models with a memory budget.

Nobody holds a live pipeline outside of `with pipelines.open(base) as live:`; what is put on inside
must come off before the block ends.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from . import memory
from .model_files import base_identity, file_versions
from .quiet import quiet_loading
from .remembered import Remembered
from .spec import BaseModel

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from ..families import Family
    from .lora.fused_weights import FusedWeights

__all__ = [
    "LivePipeline",
    "Pipelines",
    "base_identity",
    "file_versions",
    "resolve_dtype",
]


class Kept(Protocol):
    """What `Host.keep` returns: the host's side of a live model."""

    def use(self) -> None: ...

    def forget(self) -> None: ...


@dataclass(eq=False)
class LivePipeline:
    """A base model in memory: every module on `device`, in eval mode, frozen, exactly as in its
    files.
    """

    base: BaseModel
    family: Family
    pipeline: DiffusionPipeline
    device: str
    size_bytes: int
    in_use: int = field(default=0)
    on_device: bool = field(default=False)
    kept: Kept | None = field(default=None)
    fused: FusedWeights | None = field(default=None)
    """Weights with LoRAs in them, for the next use."""
    at_rest: set[str] = field(default_factory=set)
    """Components whose weights are elsewhere while something trains."""

    def component(self, attribute: str) -> torch.nn.Module:
        return getattr(self.pipeline, attribute)

    def to_device(self) -> None:
        memory.place(self.pipeline, self.base.memory, self.device)
        self.on_device = True

    @property
    def bytes_held(self) -> int:
        return self.size_bytes + (self.fused.size_bytes if self.fused else 0)

    @property
    def modules(self) -> list[torch.nn.Module]:
        return [part for part in self.pipeline.components.values() if hasattr(part, "parameters")]


@dataclass(eq=False)
class LiveHelper:
    """A model beside the base model (a ControlNet, an image encoder, a detector), in memory: on
    `device`, in eval mode, frozen. Whoever uses it leaves it exactly as it is.
    """

    module: torch.nn.Module
    device: str
    size_bytes: int
    in_use: int = field(default=0)
    on_device: bool = field(default=False)
    kept: Kept | None = field(default=None)
    fused: None = None

    def to_device(self) -> None:
        if self.device != "cpu":
            self.module.to(self.device)
        self.on_device = True

    @property
    def bytes_held(self) -> int:
        return self.size_bytes

    @property
    def modules(self) -> list[torch.nn.Module]:
        return [self.module]


class Pipelines:
    """A cache of live base models and of the models beside them, least recently used out first.

    `device`: where modules live, as torch names it.
    `budget_bytes`: weights kept at most; None is half of the device's memory. The model in use is
    always kept.
    `keep`: puts a live model under the memory manager of the program around us, as `Host.keep`
    says; None when there is none.
    `comfyui_folder`: ComfyUI's own folder, where tokenizers for single files may be.
    """

    def __init__(
        self,
        device: str = "cpu",
        budget_bytes: int | None = None,
        keep: Callable[[list[Any], Callable[[], None], Callable[[], None]], Kept] | None = None,
        comfyui_folder: Path | None = None,
    ) -> None:
        self.device = device
        self.loads = 0  # how often weights were read from disk; tests look at it
        self._budget = budget_bytes
        self._keep = keep
        self.comfyui_folder = comfyui_folder
        self._live: OrderedDict[tuple[object, ...], LivePipeline | LiveHelper] = OrderedDict()
        self.remembered = Remembered()
        self._lock = threading.RLock()

    @contextmanager
    def open(self, base: BaseModel) -> Iterator[LivePipeline]:
        """The live model of `base`, loaded if need be; other threads wait until the block ends.

        Leaves `torch.inference_mode`, under which ComfyUI runs nodes: weights made inside it could
        never train.

        Raises:
            ValueError: the model is missing, truncated, or not what its description says.
        """
        import torch

        with self._lock, torch.inference_mode(False):
            live = self._get(base)
            with self._used(live):
                yield live

    @contextmanager
    def open_helper(
        self,
        key: tuple[object, ...],
        load: Callable[[], torch.nn.Module],
        size_bytes: int = 0,
    ) -> Iterator[torch.nn.Module]:
        """A model beside the base model, under the same budget: loaded by `load` (in eval mode and
        frozen, on the CPU or the device) unless one with this `key` is there.

        `key`: what it is made from (kind, path, identity of its files, dtype). Nothing that is in
        use goes, so it may be opened inside `open` and several at once. `size_bytes`: what it will
        take, to make room beforehand; 0: not known.

        Raises:
            whatever `load` raises; the cache is as it was then.
        """
        import torch

        with self._lock, torch.inference_mode(False):
            key = ("helper", *key, self.device)
            live = self._live.get(key)
            if live is None:
                self._make_fit(incoming=size_bytes)
                module = load()
                size = sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
                live = self._live[key] = LiveHelper(module, self.device, size)
                self.loads += 1
            assert isinstance(live, LiveHelper)
            self._live.move_to_end(key)
            with self._used(live):
                yield live.module

    @contextmanager
    def _used(self, live: LivePipeline | LiveHelper) -> Iterator[None]:
        live.in_use += 1  # first, so that nothing evicts it while it is brought
        try:
            self._bring(live)
            yield
        finally:
            live.in_use -= 1
            self._make_fit(keep=live)

    def free(self) -> None:
        """Forget every model that is not in use right now, and all that was remembered."""
        with self._lock:
            self.remembered.clear()
            for live in list(self._live.values()):
                self._evict(live)

    @property
    def bytes_held(self) -> int:
        return sum(live.bytes_held for live in self._live.values())

    def _get(self, base: BaseModel) -> LivePipeline:
        versions = file_versions(base)
        key = (base, self.device, *versions)
        live = self._live.get(key)
        if live is None:
            for stale in [live for old, live in self._live.items() if old[0] == base]:
                self._evict(stale)  # the files on disk have changed since
            self._make_fit(incoming=sum(size for _, size, _ in versions))
            live = self._live[key] = _load(base, self.device, self.comfyui_folder)
            self.loads += 1
        assert isinstance(live, LivePipeline)
        self._live.move_to_end(key)
        return live

    def _make_fit(self, incoming: int = 0, keep: LivePipeline | LiveHelper | None = None) -> None:
        """Forget idle models, the longest unused first, until the rest and `incoming` bytes fit the
        budget.
        """
        budget = self._budget if self._budget is not None else _half_of_memory(self.device)
        by_age = list(self._live.values())
        for live in by_age:  # weights with LoRAs in them go first: they are soon computed again
            if self.bytes_held + incoming <= budget:
                return
            if live.fused is not None and not live.in_use:
                live.fused.drop()
        for live in by_age:
            if self.bytes_held + incoming <= budget:
                return
            if live is not keep:
                self._evict(live)

    def _bring(self, live: LivePipeline | LiveHelper) -> None:
        """Have it on the device: the host makes room for it first, if there is one."""
        if self._keep is None:
            if not live.on_device:
                live.to_device()
            return
        if live.kept is None:
            live.kept = self._keep(live.modules, live.to_device, lambda: self._evict(live))
        live.kept.use()

    def _evict(self, live: LivePipeline | LiveHelper) -> None:
        """Let an idle model go; one in use stays, whoever asks."""
        from diffusers.training_utils import free_memory

        with self._lock:
            if live.in_use:
                return
            for key in [key for key, held in self._live.items() if held is live]:
                del self._live[key]
            if live.kept is not None:
                live.kept.forget()
                live.kept = None
            free_memory()


def resolve_dtype(dtype: str, device: str) -> torch.dtype:
    """The torch dtype behind a `BaseModel.dtype`; `"auto"` as said there."""
    import torch

    if dtype != "auto":
        return getattr(torch, dtype)
    if device.startswith("cuda"):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.float16 if device.startswith("mps") else torch.float32


def _load(base: BaseModel, device: str, comfyui: Path | None) -> LivePipeline:
    from ..families import family_named
    from .assemble import assemble

    family = family_named(base.family)
    memory.check(base.memory, device)
    try:
        with quiet_loading():
            pipeline = assemble(base, family, resolve_dtype(base.dtype, device), comfyui)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the model {base.path} cannot be loaded as {family.name}: {error}; "
            "if a file is missing or cut short, copy the model again"
        ) from error
    memory.prepare(pipeline, family, base.memory)
    pipeline.set_progress_bar_config(disable=True)
    modules = [part for part in pipeline.components.values() if hasattr(part, "parameters")]
    size = sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
    return LivePipeline(base, family, pipeline, device, size)


def _half_of_memory(device: str) -> int:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_properties(device).total_memory // 2
    import psutil

    return psutil.virtual_memory().total // 2
