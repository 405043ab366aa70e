"""What Likeness asks of the program it lives in.

`comfyui.py` answers from a running ComfyUI, `standalone.py` from plain folders. Nodes and the
headless runner talk to a `Host` and never learn which of the two it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol


class Interrupted(Exception):
    """The user pressed stop. ComfyUI raises its own class; `Host.is_interruption` knows both."""


class ProgressBar(Protocol):
    """A bar on one node.

    `update` raises when the user pressed stop: save first, then let it pass. Inside ComfyUI what
    is raised is a `BaseException`, which `except Exception` does not see.
    """

    node_id: str
    """The node that it is on, such as `"7"` or `"1:2:3"`; "" where nobody knows."""

    def update(self, value: int, total: int | None = None, preview: Any = None) -> None:
        """Move the bar to `value` of `total` and show `preview`, a `PIL.Image.Image`, if given."""
        ...

    def tell(self, text: str) -> None:
        """Show a few lines of text on the node, instead of what was told before."""
        ...


Answer = Callable[[str, str], Any]
"""From a thing's id and a request, both "" where the question names none, to something JSON-ready.
`LookupError`: there is no such thing; `ValueError`: it cannot be asked that.
"""


class Kept(Protocol):
    """A live model that the host knows of."""

    def use(self) -> None:
        """Have room made and the model brought to the device, if it is not there. Before each use.

        It can be evicted at any time between two uses, and in one: the owner then keeps it until
        the use ends.
        """
        ...

    def forget(self) -> None:
        """The owner let the model go; the host must too. Calls nothing back."""
        ...


class Host(Protocol):
    """Folders, device, progress and memory of the surrounding program."""

    name: str
    """`"comfyui"` or `"standalone"`."""

    def model_names(self, kind: str) -> list[str]:
        """Names to offer in a drop-down for `kind` (`"checkpoints"`, `"diffusers"`, ...), sorted.

        For `"diffusers"`: every folder that holds a `model_index.json`, the bundled tiny base
        included. `"controlnet"` and `"clip_vision"` list files, and folders with a `config.json`.
        """
        ...

    def model_path(self, kind: str, name: str) -> Path:
        """The file or folder behind a name; never outside the folders of its kind.

        Raises:
            ValueError: the name leaves its folder or nothing is there; says where it looked.
        """
        ...

    def model_folders(self, kind: str) -> list[Path]:
        """The folders searched for `kind`, first match wins; the last one is `output/<kind>`,
        where nodes save what they made.
        """
        ...

    def image_folder_names(self) -> list[str]:
        """Folders with pictures below the input directory, and the bundled ones, sorted."""
        ...

    def image_folder(self, name: str) -> Path:
        """The folder behind a name; never outside the input directory or the bundled pictures.

        Raises:
            ValueError: the name leaves its folder or nothing is there; says where it looked.
        """
        ...

    def input_directory(self) -> Path: ...

    def output_directory(self) -> Path: ...

    def temp_directory(self) -> Path: ...

    def comfyui_folder(self) -> Path | None:
        """ComfyUI's own folder, the one that holds `comfy/`, if there is one on this machine."""
        ...

    def device(self) -> str:
        """Where to compute, as torch names it: `"cpu"`, `"cuda:0"`, `"mps"`."""
        ...

    def progress(self, total: int) -> ProgressBar:
        """A progress bar on the node that is being executed."""
        ...

    def throw_if_interrupted(self) -> None:
        """Raise if the user pressed stop."""
        ...

    def on_request(self, subject: str, answer: Answer) -> None:
        """Let a browser ask about `subject`: for all there is, about a node, or something of a
        node. Before the host is up; one without a server ignores it.
        """
        ...

    def is_interruption(self, error: BaseException) -> bool:
        """Whether `error` means that the user pressed stop."""
        ...

    def keep(
        self, modules: list[Any], bring: Callable[[], None], evict: Callable[[], None]
    ) -> Kept:
        """Put a live model under the host's memory manager.

        `modules`: its `torch.nn.Module`s. `bring` moves them to the device, `evict` lets them go;
        both are ours, the host decides when: `evict` on the user's wish (`/free` in ComfyUI) or
        because something else needs the memory, `bring` inside `Kept.use`.
        """
        ...
