"""A workflow ready to run: nodes by id, their constants and their links. Frozen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple


class Link(NamedTuple):
    """An input that comes from another node's output."""

    node: str
    slot: int


@dataclass(frozen=True)
class Node:
    id: str
    class_type: str
    inputs: Mapping[str, Any]
    """By API name (`"steps"`, `"method.rank"`): a constant, or a `Link`."""
    title: str = ""
    pack: str = ""
    """The pack that the file says the node comes from, if it does."""

    def links(self) -> Iterator[tuple[str, Link]]:
        """The inputs that come from other nodes."""
        return ((name, v) for name, v in self.inputs.items() if isinstance(v, Link))


@dataclass(frozen=True)
class Graph:
    nodes: Mapping[str, Node]
    canvas: Mapping[str, Any] | None = None
    """The canvas JSON, to be saved in pictures; None when the file was in API format."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Nodes that are on the canvas but do not run because of a muted node: id -> reason."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", MappingProxyType(dict(self.nodes)))

    def with_inputs(self, node: str, inputs: Mapping[str, Any]) -> Graph:
        """The same graph in which one node has other inputs."""
        return replace(
            self, nodes={**self.nodes, node: replace(self.nodes[node], inputs=dict(inputs))}
        )

    def as_api(self) -> dict[str, Any]:
        """The API format, as `/prompt` takes it; lists are wrapped, a bare list being a link."""
        return {
            node.id: {
                "class_type": node.class_type,
                "inputs": {name: _api_value(value) for name, value in node.inputs.items()},
                "_meta": {"title": node.title or node.class_type},
            }
            for node in self.nodes.values()
        }

    def extra_pnginfo(self) -> dict[str, Any] | None:
        """What nodes write into the files they save, besides the API format."""
        return None if self.canvas is None else {"workflow": self.canvas}


def _api_value(value: Any) -> Any:
    if isinstance(value, Link):
        return [value.node, value.slot]
    return {"__value__": value} if isinstance(value, list) else value
