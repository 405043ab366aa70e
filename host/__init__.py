"""The program we live in: ComfyUI, or none.

    from . import host, io, ui

`io`, `ui` and `ComfyExtension` are ComfyUI's own inside ComfyUI, our stand-in elsewhere. `host()`
is the one `Host` of this process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .comfyui import ComfyHost, inside_comfyui, node_api
from .contract import Host, Interrupted, ProgressBar
from .standalone import StandaloneHost

if TYPE_CHECKING or not inside_comfyui():
    from . import results as ui
    from . import schema as io
    from .schema import ComfyExtension
else:
    io, ui, ComfyExtension = node_api()

__all__ = [
    "ComfyExtension",
    "Host",
    "Interrupted",
    "ProgressBar",
    "StandaloneHost",
    "host",
    "io",
    "ui",
    "use",
]

_current: Host | None = None


def host() -> Host:
    """The host of this process."""
    global _current
    if _current is None:
        _current = ComfyHost() if inside_comfyui() else StandaloneHost()
    return _current


def use(new: Host | None) -> Host | None:
    """Make `new` the host (`None`: decide again when next asked); returns the one before, to be put
    back.
    """
    global _current
    previous, _current = _current, new
    return previous
