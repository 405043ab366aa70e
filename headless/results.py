"""What a run leaves behind, in one shape for local and remote runs: paths, texts, numbers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..host import host

PREVIEWS = "previews"
"""Folder below the output folder for pictures that were only shown; a temporary one goes away."""


Outputs = dict[str, dict[str, list[Any]]]
"""`{node id: {"images": [path], "files": [path], "text": [...]}}`"""


def collected(
    ui: Mapping[str, Mapping[str, Any]], locate: Callable[[Mapping[str, Any]], Path]
) -> Outputs:
    """What each node showed; things such as scores stand there under their own name.

    Args:
        locate: gives the path of a saved file from its `filename`, `subfolder` and `type`.
    """
    outputs: Outputs = {}
    for id, shown in ui.items():
        found: dict[str, list[Any]] = {"images": [], "files": [], "text": []}
        for name, items in shown.items():
            if name == "animated" or not isinstance(items, list | tuple):
                continue
            for item in items:
                if isinstance(item, Mapping) and isinstance(item.get("filename"), str):
                    kind = "images" if name == "images" else "files"
                    found[kind].append(str(locate(item)))
                else:
                    found.setdefault(name, []).append(item)
        outputs[id] = found
    return outputs


def locate_here(saved: Mapping[str, Any]) -> Path:
    """Path of a file that a node in this process saved; previews are kept in the output folder."""
    subfolder = str(saved.get("subfolder") or "")
    if saved.get("type") != "temp":
        return host().output_directory() / subfolder / saved["filename"]
    kept = host().output_directory() / PREVIEWS / saved["filename"]
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(host().temp_directory() / subfolder / saved["filename"], kept)
    return kept
