"""Reads a workflow file: JSON in canvas or API format, or a picture or model that carries one."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import embedded
from .canvas import read_canvas
from .errors import WorkflowError, shorten
from .graph import Graph, Link, Node

LARGEST = 50_000_000
"""Bytes. The largest workflows that people share have a few megabytes."""
DEEPEST = 100
"""Levels of lists and objects. Subgraphs within subgraphs reach 20."""


def read(path: Path, infos: Mapping[str, Any]) -> Graph:
    """Read a workflow.

    Args:
        path: `.json` in canvas or API format, or a `.png` or `.safetensors` with a workflow inside.
        infos: what `/object_info` says, by class; needed to name the values of canvas nodes.

    Raises:
        WorkflowError: it cannot be read; says why and what to do.
    """
    try:
        if path.suffix.lower() == ".png":
            texts = embedded.png_texts(path, LARGEST)
        elif path.suffix.lower() in (".safetensors", ".sft"):
            texts = embedded.safetensors_texts(path, LARGEST)
        else:
            return from_data(_parse(_text(path), str(path)), infos)
    except OSError as error:
        reason = error.strerror or str(error)
        raise WorkflowError(f"The workflow {path} cannot be read: {reason}.") from error
    return _from_texts(texts, path, infos)


def from_data(data: Any, infos: Mapping[str, Any]) -> Graph:
    """The graph in a parsed JSON file, whichever format it has.

    Raises:
        WorkflowError: it is neither.
    """
    if isinstance(data, dict) and isinstance(data.get("prompt"), dict):
        data = data["prompt"]  # as it was posted to /prompt
    if isinstance(data, dict) and isinstance(data.get("nodes"), list):
        return read_canvas(data, infos)
    if isinstance(data, dict) and any(map(_has_class, data.values())):
        return read_api(data)
    raise WorkflowError(
        f"This JSON is not a workflow: {shorten(data)}. Expected what ComfyUI's Save or "
        "Export (API) writes."
    )


def read_api(data: Mapping[str, Any]) -> Graph:
    """The API format: `{id: {"class_type": ..., "inputs": {name: value or [id, slot]}}}`."""
    nodes = {str(id): _api_node(str(id), saved) for id, saved in data.items()}
    for node in nodes.values():
        for name, link in node.links():
            if link.node not in nodes:
                raise WorkflowError(
                    f"Node {node.id} ({node.class_type}), input {name!r}: there is no node "
                    f"{link.node!r} to take it from. Add it, or connect the input to another node."
                )
    return Graph(nodes)


def _api_node(id: str, saved: Any) -> Node:
    if not isinstance(saved, dict) or not isinstance(saved.get("class_type"), str):
        raise WorkflowError(f"Node {id} has no class_type: {shorten(saved)}.")
    inputs = saved.get("inputs", {})
    if not isinstance(inputs, dict):
        raise WorkflowError(
            f"Node {id} ({saved['class_type']}): inputs must be an object, not {shorten(inputs)}."
        )
    meta = saved.get("_meta")
    title = meta.get("title") if isinstance(meta, dict) else None
    return Node(
        id=id,
        class_type=saved["class_type"],
        inputs={n: _api_value(id, saved["class_type"], n, v) for n, v in inputs.items()},
        title=str(title or saved["class_type"]),
    )


def _api_value(id: str, class_type: str, name: str, value: Any) -> Any:
    if isinstance(value, dict) and "__value__" in value:
        return value["__value__"]
    if not isinstance(value, list):
        return value
    link = len(value) == 2 and isinstance(value[0], str | int) and _is_slot(value[1])
    if not link:
        raise WorkflowError(
            f"Node {id} ({class_type}), input {name!r}: a list means a link, [node id, slot], but "
            f'this is {shorten(value)}. Wrap a list that is meant as one: {{"__value__": [...]}}.'
        )
    return Link(str(value[0]), int(value[1]))


def _is_slot(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e6


def _from_texts(texts: Mapping[str, str], path: Path, infos: Mapping[str, Any]) -> Graph:
    """Prefer `prompt`, which is what really ran, and keep `workflow` for the pictures to come."""
    found = {key: _parse(texts[key], f"{path} ({key})") for key in texts}
    canvas = found.get("workflow")
    if isinstance(found.get("prompt"), dict):
        graph = from_data(found["prompt"], infos)
        return Graph(graph.nodes, canvas=canvas if isinstance(canvas, dict) else None)
    if canvas is not None:
        return from_data(canvas, infos)
    raise WorkflowError(
        f"{path} carries no workflow. Pictures and models saved by ComfyUI or Likeness do, unless "
        "another program wrote them again without it."
    )


def _text(path: Path) -> str:
    if path.stat().st_size > LARGEST:
        raise WorkflowError(
            f"The workflow {path} has {path.stat().st_size:,} bytes; more than {LARGEST:,} cannot "
            "be a workflow. Check that this is the right file."
        )
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise WorkflowError(f"The workflow {path} is not a text file in UTF-8: {error}.") from error


def _parse(text: str, what: str) -> Any:
    try:
        # Python writes NaN where JSON has nothing; the frontend reads it as null, too.
        data = json.loads(text, parse_constant=lambda _: None, object_pairs_hook=_once)
        if _deeper_than(data, DEEPEST):
            raise RecursionError
        return data
    except RecursionError as error:
        raise WorkflowError(f"{what} is nested too deeply to be a workflow.") from error
    except WorkflowError:
        raise
    except ValueError as error:
        raise WorkflowError(
            f"{what} is not valid JSON: {error}. It may be cut off; save or download it again."
        ) from error


def _deeper_than(data: Any, levels: int) -> bool:
    level = [data]
    for _ in range(levels + 1):
        level = [item for item in level if isinstance(item, dict | list)]
        if not level:
            return False
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        level = [item for items in inner for item in items]
    return True


def _has_class(value: Any) -> bool:
    return isinstance(value, dict) and "class_type" in value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, unless it names the same node twice."""
    found = dict(pairs)
    if len(found) != len(pairs) and any(_has_class(value) for _, value in pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise WorkflowError(f"Two nodes have the id {twice}. Give one of them another id.")
    return found
