"""The canvas format, as ComfyUI's "Save" writes it, turned into a `Graph` as its frontend does.

What is only there to look at or to wire up disappears: notes, groups, reroutes, primitive nodes,
bypassed and muted nodes. Native reroutes need nothing: every link names its true origin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .errors import WorkflowError, shorten
from .graph import Graph, Link, Node
from .inputs import input_specs
from .widgets import widget_inputs

NEVER, BYPASS = 2, 4
"""Values of `mode`. (0 is normal; 1 and 3 are left-overs that run as well.)"""

_VIRTUAL = frozenset({"Reroute", "PrimitiveNode", "Note", "MarkdownNote"})
"""Nodes that exist in the browser only."""


def read_canvas(data: Mapping[str, Any], infos: Mapping[str, Any]) -> Graph:
    """Build the graph.

    Args:
        data: the file's content.
        infos: what `/object_info` says, by class; classes that are not there keep only their links.

    Raises:
        WorkflowError: the file contradicts itself, or holds a subgraph that would have to run.
    """
    canvas = _Canvas(_nodes(data), _links(data), infos)
    _refuse_subgraphs(canvas.nodes, data)
    nodes = {id: canvas.node(id) for id in canvas.nodes if canvas.runs(id)}
    left_out = _left_out(nodes, canvas)
    kept = {id: _without(node, left_out) for id, node in nodes.items() if id not in left_out}
    return Graph(kept, canvas=data, left_out=left_out)


@dataclass
class _Canvas:
    """The file's nodes and links while they are being resolved."""

    nodes: Mapping[str, Mapping[str, Any]]
    links: Mapping[str, Link]
    infos: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.cut: dict[str, dict[str, str]] = {}
        """Inputs that lost their link to a muted node: id -> {input: the muted node's id}."""

    def runs(self, id: str) -> bool:
        """Whether the node itself is executed."""
        node = self.nodes[id]
        return node.get("mode") not in (NEVER, BYPASS) and node["type"] not in _VIRTUAL

    def node(self, id: str) -> Node:
        saved = self.nodes[id]
        info = self.infos.get(saved["type"])
        inputs = widget_inputs(info, saved) if info else {}
        for slot in _slots(saved, "inputs"):
            if slot.get("link") is None:
                continue
            name = str(slot.get("name"))
            source = self.source(id, slot)
            if isinstance(source, Link):
                inputs[name] = source
            elif source is not None and self.nodes[source]["type"] == "PrimitiveNode":
                values = self.nodes[source].get("widgets_values")
                direct = self.links[str(slot["link"])].node == source
                if direct and isinstance(values, list) and values:
                    inputs[name] = values[0]
            elif source is not None:
                self.cut.setdefault(id, {})[name] = source
        properties = saved.get("properties")
        properties = properties if isinstance(properties, dict) else {}
        return Node(
            id=id,
            class_type=saved["type"],
            inputs=inputs,
            title=str(saved.get("title") or (info or {}).get("display_name") or saved["type"]),
            pack=str(properties.get("cnr_id") or properties.get("aux_id") or ""),
        )

    def source(self, id: str, slot: Mapping[str, Any]) -> Link | str | None:
        """Where an input's value comes from, through reroutes and bypassed nodes.

        Returns:
            the link; or the id of the muted node or primitive node at its other end; or None.
        """
        wanted = slot.get("type")
        seen: dict[Link, None] = {}  # in order
        while slot.get("link") is not None:
            link = self.links.get(str(slot["link"]))
            if link is None or link.node not in self.nodes:
                raise WorkflowError(
                    f"Node {id} ({self.nodes[id]['type']}), input {slot.get('name')!r}: link "
                    f"{shorten(slot['link'])} leads to nothing. The file is damaged or was edited "
                    "by hand: open it in ComfyUI, connect the input again and save."
                )
            if link in seen:
                raise WorkflowError(
                    f"Nodes {', '.join(dict.fromkeys(node for node, _ in seen))} are bypassed or "
                    "reroutes that only lead back to each other. Connect one of them to a source."
                )
            seen[link] = None
            origin = self.nodes[link.node]
            if origin.get("mode") == NEVER or origin["type"] == "PrimitiveNode":
                return link.node
            inputs = _slots(origin, "inputs")
            if origin.get("mode") == BYPASS:
                through = _bypass(origin, link.slot, wanted)
                wanted = through.get("type") if through else wanted
            elif origin["type"] == "Reroute":
                through = inputs[0] if inputs else None
            else:
                return None if origin["type"] in _VIRTUAL else link
            if through is None:
                return None
            id, slot = link.node, through
        return None


def _bypass(origin: Mapping[str, Any], index: int, wanted: Any) -> Mapping[str, Any] | None:
    """The input that a bypassed node passes on as its output `index`."""
    inputs, outputs = _slots(origin, "inputs"), _slots(origin, "outputs")
    if not inputs or index >= len(outputs):
        return None
    if wanted in ("*", "", None):
        return inputs[index if index < len(inputs) else 0]
    has = outputs[index].get("type")

    def fits(slot: Mapping[str, Any]) -> bool:
        return _connects(slot.get("type"), has) and _connects(slot.get("type"), wanted)

    if index < len(inputs) and fits(inputs[index]):
        return inputs[index]
    same = (slot for slot in inputs if slot.get("type") == wanted)
    return next(same, None) or next((slot for slot in inputs if fits(slot)), None)


def _connects(one: Any, other: Any) -> bool:
    """Whether the frontend lets two types be connected."""
    if one in ("*", "", 0, None) or other in ("*", "", 0, None):
        return True
    return bool(set(str(one).lower().split(",")) & set(str(other).lower().split(",")))


def _left_out(nodes: Mapping[str, Node], canvas: _Canvas) -> dict[str, str]:
    """Nodes that cannot run because they need a muted node, directly or through others."""
    left_out: dict[str, str] = {}
    users: dict[str, list[tuple[str, str]]] = {}
    for node in nodes.values():
        for name, link in node.links():
            users.setdefault(link.node, []).append((node.id, name))
    needs = [(id, name, muted) for id, cut in canvas.cut.items() for name, muted in cut.items()]
    while needs:
        id, name, source = needs.pop()
        if id in left_out or not _required(nodes[id], name, canvas.infos):
            continue
        left_out[id] = f"it needs node {source} ({canvas.nodes[source]['type']}), which is muted"
        needs += [(user, input, source) for user, input in users.get(id, ())]
    return left_out


def _required(node: Node, name: str, infos: Mapping[str, Any]) -> bool:
    info = infos.get(node.class_type)
    spec = input_specs(info, node.inputs).get(name) if info else None
    if spec is None:
        return info is None
    return spec.required and not spec.widget


def _without(node: Node, left_out: Mapping[str, str]) -> Node:
    """The node without its links to nodes that do not run."""
    inputs = {
        name: value
        for name, value in node.inputs.items()
        if not (isinstance(value, Link) and value.node in left_out)
    }
    return replace(node, inputs=inputs)


def _nodes(data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    nodes: dict[str, Mapping[str, Any]] = {}
    for saved in data["nodes"]:
        if not isinstance(saved, dict) or not isinstance(saved.get("type"), str):
            raise WorkflowError(f"This is not a node: {shorten(saved)}. It has no type.")
        if isinstance(saved.get("id"), bool) or not isinstance(saved.get("id"), int | str):
            raise WorkflowError(
                f"A {saved['type']} node has the id {shorten(saved.get('id'))}; "
                "it must be a number or a text."
            )
        id = str(saved["id"])
        if id in nodes:
            raise WorkflowError(
                f"Two nodes have the id {id}: {nodes[id]['type']} and {saved['type']}. "
                "Give one of them another id."
            )
        nodes[id] = saved
    return nodes


def _links(data: Mapping[str, Any]) -> dict[str, Link]:
    """Link id -> where it comes from. Links are lists up to format 0.4, objects in format 1."""
    links: dict[str, Link] = {}
    saved_links = data.get("links") or []
    if isinstance(saved_links, dict):
        saved_links = list(saved_links.values())
    for saved in saved_links:
        try:
            if isinstance(saved, dict):
                id, node, slot = saved["id"], saved["origin_id"], saved["origin_slot"]
            else:
                id, node, slot = saved[:3]
            if int(slot) < 0:
                raise ValueError(slot)
            links[str(id)] = Link(str(node), int(slot))
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise WorkflowError(
                f"This is not a link: {shorten(saved)}. Expected [id, from node, from slot, "
                "to node, to slot, type]."
            ) from error
    return links


def _slots(node: Mapping[str, Any], which: str) -> list[Mapping[str, Any]]:
    slots = node.get(which) or []
    if not isinstance(slots, list) or not all(isinstance(slot, dict) for slot in slots):
        raise WorkflowError(
            f"Node {node['id']} ({node['type']}): {which} must be a list of objects, "
            f"not {shorten(slots)}."
        )
    return slots


def _refuse_subgraphs(nodes: Mapping[str, Mapping[str, Any]], data: Mapping[str, Any]) -> None:
    definitions = data.get("definitions")
    subgraphs = definitions.get("subgraphs") if isinstance(definitions, dict) else None
    names = {
        subgraph.get("id"): subgraph.get("name")
        for subgraph in (subgraphs if isinstance(subgraphs, list) else [])
        if isinstance(subgraph, dict)
    }
    for id, node in nodes.items():
        if node["type"] in names and node.get("mode") not in (NEVER, BYPASS):
            raise WorkflowError(
                f"Node {id} is the subgraph {names[node['type']]!r}, which the canvas format "
                "cannot be read with yet. In ComfyUI, unpack it (right-click, Unpack Subgraph) "
                'or use "Export (API)" and run that file.'
            )
