"""Likeness: teach a diffusion model your subject or your style, inside one ComfyUI graph.

This file is ComfyUI's door and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .host import ComfyExtension

__all__ = ["WEB_DIRECTORY", "__version__", "comfy_entrypoint"]

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> ComfyExtension:
    """Called by ComfyUI: the extension that lists our nodes."""
    from .host import ComfyExtension
    from .nodes import NODES

    class Likeness(ComfyExtension):
        async def get_node_list(self) -> list[type]:
            return list(NODES)

    return Likeness()
