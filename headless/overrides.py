"""`--set NODE.INPUT=VALUE`: changes one value of a workflow from the command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .errors import WorkflowError, shorten
from .graph import Graph, Node
from .inputs import COMBO, DYNAMIC_COMBO, InputSpec, input_specs
from .validate import error
from .widgets import fill_in


def override(graph: Graph, infos: Mapping[str, Any], setting: str) -> Graph:
    """The graph with one value changed. A choice that shows other inputs gives them defaults.

    Args:
        setting: `5.seed=7`, `KSampler.seed=7`, `My title.method.rank=4`: a node's id, or its title
            or class if only one node has it.

    Raises:
        WorkflowError: there is no such node, or more than one.
        NodeError: the node has no such input, or it takes no such value.
    """
    target, equals, text = setting.partition("=")
    if not equals or "." not in target:
        raise WorkflowError(f"--set {setting!r} is not of the form NODE.INPUT=VALUE.")
    node, spec = _find(graph, infos, target)
    inputs = {**node.inputs, spec.name: _value(node, spec, text)}
    if spec.type == DYNAMIC_COMBO:
        info = infos[node.class_type]
        own = input_specs(info, inputs)
        defaults = fill_in(info, inputs)
        shown = {n: v for n, v in defaults.items() if n.startswith(f"{spec.name}.")}
        inputs = {n: v for n, v in (shown | inputs).items() if n in own or n not in node.inputs}
    return graph.with_inputs(node.id, inputs)


def _find(graph: Graph, infos: Mapping[str, Any], target: str) -> tuple[Node, InputSpec]:
    """Node and input meant by `NODE.INPUT`; both may contain dots."""
    pieces = target.split(".")
    named = None
    for cut in range(1, len(pieces)):
        candidates = _named(graph, ".".join(pieces[:cut]))
        if not candidates:
            continue
        name = ".".join(pieces[cut:])
        having = [(node, spec) for node in candidates if (spec := _spec(node, infos, name))]
        if len(having) == 1:
            return having[0]
        if having:
            raise WorkflowError(
                f"--set {target}: more than one node is meant: "
                f"{'; '.join(_described(node) for node, _ in having)}. Use the node's number."
            )
        named = named or (candidates[0], name)
    if named is None:
        raise WorkflowError(
            f"--set {target}: there is no node {pieces[0]!r}. There are: "
            f"{'; '.join(_described(node) for node in graph.nodes.values())}."
        )
    node, name = named
    info = infos.get(node.class_type, {})
    settable = [s.name for s in input_specs(info, node.inputs).values() if s.widget]
    raise error(
        node, f"it has no such value to set. It has: {', '.join(settable) or 'none'}.", name
    )


def _named(graph: Graph, name: str) -> list[Node]:
    """Nodes with that id, else with that title, else of that class."""
    if name in graph.nodes:
        return [graph.nodes[name]]
    nodes = graph.nodes.values()
    return [n for n in nodes if n.title == name] or [n for n in nodes if n.class_type == name]


def _spec(node: Node, infos: Mapping[str, Any], name: str) -> InputSpec | None:
    spec = input_specs(infos.get(node.class_type, {}), node.inputs).get(name)
    return spec if spec and spec.widget else None


def _described(node: Node) -> str:
    title = f' "{node.title}"' if node.title not in ("", node.class_type) else ""
    return f"{node.id}{title} ({node.class_type})"


def _value(node: Node, spec: InputSpec, text: str) -> Any:
    kind = spec.options.get("widgetType") or spec.type
    if kind in (COMBO, DYNAMIC_COMBO):
        return next((choice for choice in spec.choices if str(choice) == text), text)
    if kind == "STRING":
        return text
    try:
        return json.loads(text)
    except ValueError as problem:
        if kind in ("INT", "FLOAT", "BOOLEAN"):
            names = {"INT": "a whole number", "FLOAT": "a number", "BOOLEAN": "true or false"}
            raise error(
                node, f"{shorten(text)} is not {names[kind]}.", spec.name, text
            ) from problem
        return text
