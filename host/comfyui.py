"""The one file that knows ComfyUI.

Everything of ComfyUI's is imported inside functions, so this module can be imported anywhere.
"""

# pyright: reportMissingImports=false

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from . import folders
from .contract import Answer, Interrupted

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

    def comfyui_folder(self) -> Path | None:
        import folder_paths

        return Path(str(folder_paths.__file__)).parent

    def device(self) -> str:
        from comfy import model_management

        return str(model_management.get_torch_device())

    def progress(self, total: int) -> NodeBar:
        return NodeBar(total)

    def throw_if_interrupted(self) -> None:
        from comfy import model_management

        model_management.throw_exception_if_processing_interrupted()

    def on_request(self, subject: str, answer: Answer) -> None:
        """`GET /likeness/<subject>[/<id>]`, `POST /likeness/<subject>/<id>/<request>`."""
        from aiohttp import web
        from server import PromptServer

        async def reply(asked: web.Request) -> web.Response:
            told = asked.match_info
            try:
                said, status = answer(told.get("id", ""), told.get("request", "")), 200
            except LookupError as error:
                said, status = {"error": str(error)}, 404
            except ValueError as error:
                said, status = {"error": str(error)}, 400
            return web.json_response(said, status=status)

        routes = PromptServer.instance.routes
        routes.get(f"/likeness/{subject}")(reply)
        routes.get(f"/likeness/{subject}/{{id}}")(reply)
        routes.post(f"/likeness/{subject}/{{id}}/{{request}}")(reply)

    def is_interruption(self, error: BaseException) -> bool:
        """ComfyUI's own class is a `BaseException`: `except Exception` never sees it."""
        from comfy import model_management

        stopped = model_management.InterruptProcessingException
        return isinstance(error, (Interrupted, stopped))

    def keep(
        self, modules: list[Any], bring: Callable[[], None], evict: Callable[[], None]
    ) -> KeptModel:
        return KeptModel(modules, bring, evict)


_gone: list[Any] = []
"""Emptied patchers. ComfyUI looks at one again after unloading it, so it must outlive that."""


class KeptModel:
    """A live model of ours in ComfyUI's list of loaded models, beside its own.

    ComfyUI moves its own models layer by layer; ours come and go whole, by our own functions, since
    diffusers' modules know nothing of ComfyUI's casting.
    """

    def __init__(
        self, modules: list[Any], bring: Callable[[], None], evict: Callable[[], None]
    ) -> None:
        import torch
        from comfy import model_management

        here = model_management.get_torch_device()
        rest = model_management.unet_offload_device()
        self._patcher: Any = _patcher_class()(torch.nn.ModuleList(modules), here, rest)
        self._patcher.bring, self._patcher.evict = bring, evict

    def use(self) -> None:
        from comfy import model_management

        _gone.clear()
        model_management.load_models_gpu([self._patcher])

    def forget(self) -> None:
        from comfy import model_management

        self._patcher.bring = self._patcher.evict = None
        self._patcher.model._modules.clear()
        _gone.append(self._patcher)
        if not self._patcher.loaded_size():
            return  # not in the list, or ComfyUI is taking it out right now
        # No public way out of the list: a model leaves it when it is unloaded, or found dead.
        listed = model_management.current_loaded_models
        for index in [i for i, loaded in enumerate(listed) if loaded.model is self._patcher]:
            listed.pop(index).model_unload()


@cache
def _patcher_class() -> type:
    """ComfyUI's own `ModelPatcher`, with the two ends replaced that move weights."""
    from comfy.model_patcher import ModelPatcher

    class WholeModel(ModelPatcher):
        bring: Callable[[], None] | None = None
        evict: Callable[[], None] | None = None

        def partially_load(self, device_to: Any, *_: Any, **__: Any) -> int:
            if self.model.model_loaded_weight_memory:
                return 0
            if self.bring is not None:
                self.bring()
            self.model.device = device_to
            self.model.model_loaded_weight_memory = self.model_size()
            return self.model_size()

        def partially_unload(self, *_: Any, **__: Any) -> int:
            return 0  # nothing by halves: ComfyUI then unloads the whole

        def detach(self, unpatch_all: bool = True) -> Any:
            if not unpatch_all:  # ComfyUI changes its list only, the model stays where it is
                return self.model
            loaded = self.model.model_loaded_weight_memory
            self.model.model_loaded_weight_memory = 0
            if loaded and self.evict is not None:
                try:
                    self.evict()
                except Exception:  # here it would end the thread that executes nodes
                    log.exception("Likeness could not release a model")
            return self.model

    return WholeModel


class NodeBar:
    """The bar on the node that is being executed; each update also carries the stop button.

    The node is remembered here because updates may come from another thread, where ComfyUI cannot
    tell.
    """

    def __init__(self, total: int) -> None:
        from comfy_execution.utils import get_executing_context

        context = get_executing_context()
        self.node_id = str(context.node_id) if context else ""
        self._begin(total)

    def update(self, value: int, total: int | None = None, preview: Any = None) -> None:
        from comfy import model_management
        from comfy.cli_args import args

        total = total or self._bar.total
        if total != self._bar.total or value < self._bar.current:
            self._begin(total)  # ComfyUI's bar shows nothing below what it showed
        shown = ("JPEG", preview.convert("RGB"), args.preview_size) if preview is not None else None
        self._bar.update_absolute(value, total, shown)
        # ComfyUI's bar leaves out updates that come too quickly, and the stop button with them.
        model_management.throw_exception_if_processing_interrupted()

    def tell(self, text: str) -> None:
        from server import PromptServer

        PromptServer.instance.send_progress_text(text, self.node_id)

    def _begin(self, total: int) -> None:
        from comfy.utils import ProgressBar

        self._bar = ProgressBar(total, node_id=self.node_id or None)
