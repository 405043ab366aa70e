"""Life without ComfyUI: plain folders, a bar on the terminal, the device that torch finds."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import folders
from .contract import Answer, Interrupted

_SYNONYMS = {
    "diffusion_models": ("diffusion_models", "unet"),
    "text_encoders": ("text_encoders", "clip"),
    "controlnet": ("controlnet", "t2i_adapter"),
}
"""Kinds for which a ComfyUI `models` folder has more than one sub-folder."""


class StandaloneHost:
    """Answers from plain folders.

    `models`: a folder with `checkpoints`, `diffusers`, `loras`, ... below it; a ComfyUI `models`
    folder works as it is. Default: the environment variable `LIKENESS_MODELS`, else `./models`.
    `output`: where results go; `<output>/loras` and so on are searched as well. Default `./output`.
    `input`: where pictures come from. Default `./input`.
    `quiet`: no progress bars; they are also left out when standard error is not a terminal.
    `device`: as torch names it. Default: the best one that there is.
    """

    name = "standalone"

    def __init__(
        self,
        models: Path | None = None,
        output: Path | None = None,
        input: Path | None = None,
        *,
        quiet: bool = False,
        device: str | None = None,
    ) -> None:
        self._models = Path(models or os.environ.get("LIKENESS_MODELS") or "models").absolute()
        self._output = Path(output or "output").absolute()
        self._input = Path(input or "input").absolute()
        self._temp: tempfile.TemporaryDirectory[str] | None = None
        self._quiet = quiet
        self._device = device
        self._stop = threading.Event()
        self._kept: list[KeptModel] = []

    def model_names(self, kind: str) -> list[str]:
        marker = folders.MARKED_BY.get(kind)
        suffixes = () if kind == "diffusers" else folders.MODEL_SUFFIXES
        names = folders.model_names(self.model_folders(kind), suffixes, marker)
        return sorted(names | set(folders.bundled_models(kind)))

    def model_path(self, kind: str, name: str) -> Path:
        return folders.find_model(kind, name, self.model_folders(kind), self.model_names(kind))

    def model_folders(self, kind: str) -> list[Path]:
        subfolders = _SYNONYMS.get(kind, (kind,))
        return [self._models / s for s in subfolders] + [self._output / kind]

    def image_folder_names(self) -> list[str]:
        return folders.image_folder_names(self._input)

    def image_folder(self, name: str) -> Path:
        return folders.image_folder(name, self._input)

    def input_directory(self) -> Path:
        return self._input

    def output_directory(self) -> Path:
        return self._output

    def temp_directory(self) -> Path:
        """Made when first asked for, gone when the program ends."""
        if self._temp is None:
            self._temp = tempfile.TemporaryDirectory(prefix="likeness-")
        return Path(self._temp.name)

    def comfyui_folder(self) -> Path | None:
        """`COMFYUI_PATH`, else the ComfyUI in whose `custom_nodes` we lie, else the folder around
        `models`, else `~/comfy/ComfyUI`.
        """
        told = os.environ.get("COMFYUI_PATH")
        usual = [self._models.parent, Path.home() / "comfy" / "ComfyUI"]
        pack = Path(__file__).absolute().parent.parent
        if pack.parent.name == "custom_nodes":
            usual.insert(0, pack.parent.parent)
        places = [Path(told)] if told else usual
        return next((place for place in places if (place / "comfy").is_dir()), None)

    def device(self) -> str:
        if self._device is None:
            import torch

            if torch.cuda.is_available():
                self._device = "cuda:0"
            else:
                self._device = "mps" if torch.backends.mps.is_available() else "cpu"
        return self._device

    def progress(self, total: int) -> TerminalBar:
        return TerminalBar(self, total, visible=not self._quiet and sys.stderr.isatty())

    def request_stop(self) -> None:
        """Stop at the next step, as ComfyUI's stop button does; a signal handler may call this."""
        self._stop.set()

    def throw_if_interrupted(self) -> None:
        """Raise once per request, so that what is saved on the way out is not stopped again."""
        if self._stop.is_set():
            self._stop.clear()
            raise Interrupted("Stopped at your request.")

    def on_request(self, subject: str, answer: Answer) -> None:
        """There is no browser."""

    def is_interruption(self, error: BaseException) -> bool:
        return isinstance(error, Interrupted | KeyboardInterrupt)

    def keep(
        self, modules: list[Any], bring: Callable[[], None], evict: Callable[[], None]
    ) -> KeptModel:
        """Nobody else's models are here, so nothing is evicted but by `free`."""
        return KeptModel(self._kept, bring, evict)

    def free(self) -> None:
        """Do what ComfyUI's `/free` does: let every model go."""
        for kept in list(self._kept):
            kept.let_go()


class KeptModel:
    """A live model that only `StandaloneHost.free` evicts."""

    def __init__(
        self, kept: list[KeptModel], bring: Callable[[], None], evict: Callable[[], None]
    ) -> None:
        self._kept, self._bring, self._evict = kept, bring, evict

    def use(self) -> None:
        if self not in self._kept:
            self._kept.append(self)
            self._bring()

    def forget(self) -> None:
        if self in self._kept:
            self._kept.remove(self)

    def let_go(self) -> None:
        self.forget()
        self._evict()


class TerminalBar:
    """A progress bar on standard error that also carries the stop request."""

    node_id = ""

    def __init__(self, host: StandaloneHost, total: int, *, visible: bool) -> None:
        self._host, self._total, self._visible = host, total, visible
        self._text = ""
        self._bar: Any = None

    def update(self, value: int, total: int | None = None, preview: Any = None) -> None:
        self._total = total or self._total
        if self._visible:
            self._draw(value)
        self._host.throw_if_interrupted()

    def tell(self, text: str) -> None:
        """The first line, beside the bar."""
        self._text = text.partition("\n")[0]

    def _draw(self, value: int) -> None:
        """Each stretch of the work, such as preparing and training, has a line of its own."""
        from tqdm import tqdm

        if self._bar is None or self._bar.total != self._total or value < self._bar.n:
            if self._bar is not None:
                self._bar.close()
            self._bar = tqdm(total=self._total, initial=value, file=sys.stderr)
        self._bar.n = value
        self._bar.set_postfix_str(self._text)
        if value >= self._total:
            self._bar.close()
