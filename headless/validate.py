"""Checks a graph before anything runs, as ComfyUI does, and puts its nodes in order.

Where ComfyUI skips an output that cannot run and goes on with the others, nothing runs here: a
script wants all of its results or a clear error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from .errors import NodeError, shorten
from .graph import Graph, Link, Node
from .inputs import COMBO, DYNAMIC_COMBO, InputSpec, input_specs
from .packs import unknown_node

_ANY = frozenset({"*", "COMFY_MATCHTYPE_V3"})
_WIRES_ONLY = frozenset({"IMAGE", "MASK", "LATENT", "MODEL", "CLIP", "VAE", "CONDITIONING"})
"""Types that no widget can give a value."""

OwnCheck = Callable[[Node, Mapping[str, InputSpec]], "tuple[set[str], str | None]"]
"""A node's own check: the inputs that it looks at itself, and what is wrong, if anything."""


def _no_own_check(node: Node, specs: Mapping[str, InputSpec]) -> tuple[set[str], str | None]:
    return set(), None


def checked(
    graph: Graph, infos: Mapping[str, Any], own_check: OwnCheck = _no_own_check
) -> tuple[Graph, list[str]]:
    """The graph with its constants converted to their types, and the ids to run, in order.

    Args:
        infos: what `/object_info` says, by class.
        own_check: calls a node's `validate_inputs`.

    Raises:
        NodeError: the first thing that is wrong; `also` holds the rest.
    """
    errors = [
        error(node, unknown_node(node.class_type, node.pack, infos))
        for node in graph.nodes.values()
        if node.class_type not in infos
    ]
    if errors:
        raise _together(errors)
    order = run_order(graph, infos)
    nodes = dict(graph.nodes)
    for id in order:
        inputs, wrong = _check(nodes[id], graph, infos)
        if not wrong:
            nodes[id] = replace(nodes[id], inputs=inputs)
            wrong = _check_constants(nodes[id], infos[nodes[id].class_type], own_check)
        errors += wrong
    if errors:
        raise _together(errors)
    return replace(graph, nodes=nodes), order


def run_order(graph: Graph, infos: Mapping[str, Any]) -> list[str]:
    """The ids that the output nodes need, each after what it needs.

    Raises:
        NodeError: there is no output node, or nodes wait for each other.
    """
    outputs = [n.id for n in graph.nodes.values() if infos[n.class_type].get("output_node")]
    if not outputs:
        raise _nothing_to_do(graph)
    order: list[str] = []
    done: set[str] = set()
    for output in outputs:
        path = {output: _sources(graph, output)} if output not in done else {}
        while path:
            id, sources = next(reversed(path.items()))
            source = next((s for s in sources if s not in done), None)
            if source is None:
                path.popitem()
                done.add(id)
                order.append(id)
            elif source in path:
                raise _cycle(graph, [*list(path)[list(path).index(source) :], source])
            elif source not in graph.nodes:
                raise error(graph.nodes[id], f"there is no node {source} to take an input from.")
            else:
                path[source] = _sources(graph, source)
    return order


def error(node: Node, message: str, input: str | None = None, value: Any = None) -> NodeError:
    """A `NodeError` about this node."""
    return NodeError(node.id, node.class_type, node.title, message, input=input, value=value)


def connects(given: Any, wanted: Any) -> bool:
    """Whether an output's type fits an input's: `"IMAGE,MASK"` takes either, `"*"` anything."""
    if isinstance(given, list | tuple):
        given = COMBO
    if given == wanted:
        return True
    given_types = {t.strip() for t in str(given).split(",")}
    wanted_types = {t.strip() for t in str(wanted).split(",")}
    return bool((given_types | wanted_types) & _ANY or given_types & wanted_types)


def _sources(graph: Graph, id: str) -> list[str]:
    return [link.node for _, link in graph.nodes[id].links()]


def _together(errors: list[NodeError]) -> NodeError:
    errors[0].also = tuple(errors[1:])
    return errors[0]


def _cycle(graph: Graph, ids: list[str]) -> NodeError:
    names = " -> ".join(f"{id} ({graph.nodes[id].class_type})" for id in reversed(ids))
    return error(
        graph.nodes[ids[0]],
        f"these nodes wait for each other in a circle: {names}. Disconnect one of them.",
    )


def _nothing_to_do(graph: Graph) -> NodeError:
    muted = "; ".join(f"node {id} does not run: {why}" for id, why in graph.left_out.items())
    hint = f" ({muted})" if muted else ""
    return NodeError(
        "-",
        "workflow",
        "",
        f"there is no output node to run for{hint}. Add one that saves or shows something, such "
        "as SaveImage.",
    )


def _check(
    node: Node, graph: Graph, infos: Mapping[str, Any]
) -> tuple[dict[str, Any], list[NodeError]]:
    """Links checked and constants converted; bounds come later."""
    inputs = dict(node.inputs)
    errors = []
    for spec in input_specs(infos[node.class_type], node.inputs).values():
        if spec.name not in inputs:
            if spec.required:
                errors.append(error(node, _missing(spec), spec.name))
            continue
        value = inputs[spec.name]
        if isinstance(value, Link):
            wrong = _wrong_link(value, spec, graph, infos)
        else:
            inputs[spec.name], wrong = _converted(value, spec)
        if wrong:
            shown = list(value) if isinstance(value, Link) else value
            errors.append(error(node, wrong, spec.name, shown))
    return inputs, errors


def _missing(spec: InputSpec) -> str:
    if spec.type in (COMBO, DYNAMIC_COMBO) and not spec.choices:
        return "there is nothing to choose from. Put a file into the folder that it lists."
    if spec.widget:
        return f"it needs a value ({spec.type}), but has none."
    return f"it needs a connection ({spec.type}), but has none. Connect a node that gives one."


def _wrong_link(link: Link, spec: InputSpec, graph: Graph, infos: Mapping[str, Any]) -> str | None:
    source = graph.nodes[link.node]
    outputs = infos[source.class_type].get("output") or []
    where = f"output {link.slot} of node {link.node} ({source.class_type})"
    if link.slot >= len(outputs):
        return f"{where} does not exist; that node has {len(outputs)}. Connect it again."
    given = outputs[link.slot]
    if connects(given, spec.type):
        return None
    kind = given if isinstance(given, str) else COMBO
    return f"it takes {spec.type}, but {where} gives {kind}. Connect another output."


def _converted(value: Any, spec: InputSpec) -> tuple[Any, str | None]:
    """The value as the type says, or what is wrong with it."""
    if isinstance(value, float) and not math.isfinite(value):
        return value, f"{value} is not a number that can be used."
    try:
        if spec.type == "INT":
            return int(value), None
        if spec.type == "FLOAT":
            return float(value), None
        if spec.type == "BOOLEAN" and not isinstance(value, str):
            return bool(value), None
        if spec.type == "STRING":
            return str(value), None
    except (TypeError, ValueError, OverflowError):
        pass
    if spec.type in ("INT", "FLOAT", "BOOLEAN"):
        names = {"INT": "a whole number", "FLOAT": "a number", "BOOLEAN": "true or false"}
        return value, f"{shorten(value)} is not {names[spec.type]}."
    if spec.type in _WIRES_ONLY:
        return value, f"it takes a connection ({spec.type}), not the value {shorten(value)}."
    return value, None


def _check_constants(node: Node, info: Mapping[str, Any], own_check: OwnCheck) -> list[NodeError]:
    """Bounds and choices, except where the node looks itself."""
    specs = input_specs(info, node.inputs)
    own, wrong = own_check(node, specs)
    errors = []
    if wrong:
        name = next((n for n in own if n in specs), None)
        errors.append(error(node, wrong, name, node.inputs.get(name or "")))
    for spec in specs.values():
        value = node.inputs.get(spec.name)
        if value is None or isinstance(value, Link) or spec.name in own:
            continue
        wrong = _out_of_bounds(value, spec)
        if wrong:
            errors.append(error(node, wrong, spec.name, value))
    return errors


def _out_of_bounds(value: Any, spec: InputSpec) -> str | None:
    if spec.type in ("INT", "FLOAT"):
        low, high = spec.options.get("min"), spec.options.get("max")
        if low is not None and value < low:
            return f"{value} is too small; it must be at least {low}."
        if high is not None and value > high:
            return f"{value} is too large; it must be at most {high}."
    if spec.type in (COMBO, DYNAMIC_COMBO):
        many = value if spec.options.get("multiselect") and isinstance(value, list) else [value]
        strange = next((v for v in many if v not in spec.choices), None)
        if strange is not None:
            return f"{shorten(strange)} is not one of the choices: {_some(spec.choices)}."
    return None


def _some(choices: list[Any]) -> str:
    if not choices:
        return "there are none"
    shown = ", ".join(shorten(c) for c in choices[:12])
    return shown + (f" and {len(choices) - 12} more" if len(choices) > 12 else "")
