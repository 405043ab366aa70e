"""The one file that knows ComfyUI.

Everything of ComfyUI's is imported inside functions, so this module can be imported anywhere.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from . import folders
from .contract import Interrupted

log = logging.getLogger(__name__)


def inside_comfyui() -> bool:
    """Whether this process is a ComfyUI.

    It has loaded these two long before it loads us; trying to import them instead would also find a
    ComfyUI that merely lies in the current folder.
    """
    return "folder_paths" in sys.modules and "comfy_api.latest" in sys.modules


def node_api() -> tuple[Any, Any, Any]:
    """ComfyUI's own `io`, `ui` and `ComfyExtension`."""
    from comfy_api.latest import ComfyExtension, io, ui

    return io, ui, ComfyExtension


class ComfyHost:
    """Answers from the running ComfyUI."""

    name = "comfyui"

    def __init__(self) -> None:
        self._free_callbacks: list[Callable[[], None]] = []
        self._asking = False
        """While we ask ComfyUI for room, it must not ask us."""

    def model_names(self, kind: str) -> list[str]:
        import folder_paths

        searched = self.model_folders(kind)
        names = set(folders.bundled_models(kind))
        if kind in folder_paths.folder_names_and_paths and kind not in folders.MARKED_BY:
            # ComfyUI remembers its listing until a folder changes: thousands of files on a network
            # drive are not listed again for each drop-down. Only the folders that we add are walked
            # here.
            names |= {n.replace("\\", "/") for n in folder_paths.get_filename_list(kind)}
            known = folder_paths.get_folder_paths(kind)
            searched = [f for f in searched if str(f) not in known]
        suffixes = () if kind == "diffusers" else folders.MODEL_SUFFIXES
        names |= folders.model_names(searched, suffixes, folders.MARKED_BY.get(kind))
        return sorted(names)

    def model_path(self, kind: str, name: str) -> Path:
        return folders.find_model(kind, name, self.model_folders(kind), self.model_names(kind))

    def model_folders(self, kind: str) -> list[Path]:
        """ComfyUI's folders for `kind`, then `output/<kind>`, where our own results are saved.

        A kind that ComfyUI does not know (`"ipadapter"`) lives in `models/<kind>`.
        """
        import folder_paths

        if kind in folder_paths.folder_names_and_paths:
            searched = folder_paths.get_folder_paths(kind)
        else:
            searched = [str(Path(folder_paths.models_dir) / kind)]
        own = str(self.output_directory() / kind)
        return [Path(f) for f in dict.fromkeys([*searched, own])]

    def image_folder_names(self) -> list[str]:
        return folders.image_folder_names(self.input_directory())

    def image_folder(self, name: str) -> Path:
        return folders.image_folder(name, self.input_directory())

    def input_directory(self) -> Path:
        import folder_paths

        return Path(folder_paths.get_input_directory())

    def output_directory(self) -> Path:
        import folder_paths

        return Path(folder_paths.get_output_directory())

    def temp_directory(self) -> Path:
        import folder_paths

        return Path(folder_paths.get_temp_directory())

    def device(self) -> str:
        from comfy import model_management

        return str(model_management.get_torch_device())

    def progress(self, total: int) -> NodeBar:
        return NodeBar(total)

    def throw_if_interrupted(self) -> None:
        from comfy import model_management

        model_management.throw_exception_if_processing_interrupted()

    def is_interruption(self, error: BaseException) -> bool:
        """ComfyUI's own class is a `BaseException`: `except Exception` never sees it."""
        from comfy import model_management

        stopped = model_management.InterruptProcessingException
        return isinstance(error, (Interrupted, stopped))

    def make_room(self, bytes_needed: int) -> None:
        from comfy import model_management

        self._asking = True
        try:
            model_management.free_memory(bytes_needed, model_management.get_torch_device())
        finally:
            self._asking = False

    def on_free(self, callback: Callable[[], None]) -> None:
        """Call `callback` when ComfyUI unloads all models (`/free`, the menu, out of memory), and
        when it needs more memory for a model of its own than our device has left.

        It runs on the thread that executes nodes, between two nodes or in one that is not ours, so
        nothing of ours is in use at that time.
        """
        if callback not in self._free_callbacks:
            self._free_callbacks.append(callback)
        self._watch_memory()

    def _watch_memory(self) -> None:
        """Wrap `model_management.free_memory`, through which ComfyUI makes room in all these cases.

        ComfyUI has no event for it. The wrapper passes everything on unchanged; all callers look
        the function up in its module at the time of the call; and a failing callback is logged,
        never raised, since an error here would end the thread that executes nodes. (The
        alternative, an object of ours among `current_loaded_models`, would have to imitate a dozen
        methods that change from release to release.)
        """
        from comfy import model_management

        original = model_management.free_memory
        if getattr(original, "likeness_host", None) is self:
            return

        @wraps(original)
        def free_memory(memory_required: float, device: Any, *args: Any, **kwargs: Any) -> Any:
            here = model_management.get_torch_device()
            asked = device in (None, here) and not self._asking
            if asked and memory_required > model_management.get_free_memory(here):
                self._release()
            return original(memory_required, device, *args, **kwargs)

        free_memory.likeness_host = self  # type: ignore[attr-defined]
        model_management.free_memory = free_memory

    def _release(self) -> None:
        for callback in self._free_callbacks:
            try:
                callback()
            except Exception:
                log.exception("Likeness could not release its models")


class NodeBar:
    """The bar on the node that is being executed; each update also carries the stop button.

    The node is remembered here because updates may come from another thread, where ComfyUI cannot
    tell.
    """

    def __init__(self, total: int) -> None:
        from comfy.utils import ProgressBar
        from comfy_execution.utils import get_executing_context

        context = get_executing_context()
        self._bar = ProgressBar(total, node_id=context.node_id if context else None)

    def update(self, value: int, total: int | None = None, preview: Any = None) -> None:
        from comfy import model_management
        from comfy.cli_args import args

        shown = ("JPEG", preview.convert("RGB"), args.preview_size) if preview is not None else None
        self._bar.update_absolute(value, total, shown)
        # ComfyUI's bar leaves out updates that come too quickly, and the stop button with them.
        model_management.throw_exception_if_processing_interrupted()
