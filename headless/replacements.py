"""`%date:yyyy-MM-dd%` and `%Node.widget%` in file names, which ComfyUI's frontend fills in."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

from .graph import Graph, Link, Node

_SAVERS = re.compile(r"Save\w+|CLIPSave|VAESave|ModelSave|LoraSave")
"""The nodes for which the frontend does it."""


def fill_in_prefixes(graph: Graph) -> Graph:
    """The graph with all prefixes filled in; what cannot be found stays as it is."""
    names = _search_names(graph)

    def replacement(match: re.Match[str]) -> str:
        name, _, widget = match[1].rpartition(".")
        if match[1].startswith("date:"):
            return _date(match[1].removeprefix("date:"))
        value = next((n.inputs.get(widget) for n in names(name)), None)
        if value is None or isinstance(value, Link):
            return match[0]
        return re.sub(r'[/?<>\\:*|"\x00-\x1f\x7f]', "_", str(value))

    for node in graph.nodes.values():
        prefix = node.inputs.get("filename_prefix")
        if isinstance(prefix, str) and _SAVERS.fullmatch(node.class_type):
            filled = re.sub(r"%([^%]+)%", replacement, prefix)
            graph = graph.with_inputs(node.id, {**node.inputs, "filename_prefix": filled})
    return graph


def _search_names(graph: Graph) -> Callable[[str], list[Node]]:
    """Finds nodes by their "Node name for S&R", else by title."""
    chosen = {}
    for saved in (graph.canvas or {}).get("nodes", []):
        properties = saved.get("properties")
        if isinstance(properties, dict):
            chosen[str(saved.get("id"))] = properties.get("Node name for S&R")

    def find(name: str) -> list[Node]:
        nodes = graph.nodes.values()
        exact = [n for n in nodes if (chosen.get(n.id) or n.class_type) == name]
        return exact or [n for n in nodes if n.title == name]

    return find


def _date(pattern: str) -> str:
    """Now, as the frontend writes it: `yyyy`, `yy`, `M`, `MM`, `d`, `dd`, `h`, `m`, `s`, ..."""
    now = time.localtime()
    parts = {"M": now.tm_mon, "d": now.tm_mday, "h": now.tm_hour, "m": now.tm_min, "s": now.tm_sec}

    def part(match: re.Match[str]) -> str:
        token = match[0]
        if token[0] == "y":
            return {2: str(now.tm_year)[-2:], 4: str(now.tm_year)}.get(len(token), token)
        return f"{parts[token[0]]:0{len(token)}}"

    return re.sub(r"yyy?y?|MM?|dd?|hh?|mm?|ss?", part, pattern)
