"""Runs a graph in this process, with ComfyUI's rules and its cache.

A node runs again only when its constants, its `fingerprint_inputs` or anything upstream changed
since the last run of the same `Executor`. Nodes run under `torch.inference_mode()`, as in ComfyUI,
so that what works here works there.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ..host import Interrupted, host, io
from .errors import NodeError
from .graph import Graph, Link, Node
from .inputs import InputSpec, input_specs, nest
from .mapping import merge, per_call
from .validate import checked, error

_PLAIN = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "*"})
"""Types that a node can handle without torch, when all nodes of the graph have only these."""


@dataclass(frozen=True)
class Done:
    """What a node gave the last time it ran."""

    outputs: list[list[Any]]
    """One list per output, as ComfyUI hands them on."""
    ui: dict[str, list[Any]]


@dataclass(frozen=True)
class Result:
    ui: dict[str, dict[str, list[Any]]]
    """What output nodes (and others that show something) showed, by node id."""
    executed: list[str]
    """The nodes that really ran, in order; the others came from the cache."""
    seconds: float


class Executor:
    """Runs graphs one after the other and remembers what the last one computed.

    Args:
        nodes: the node classes there are.
        on_start: called with each node before it runs.
    """

    def __init__(
        self,
        nodes: Iterable[type[io.ComfyNode]],
        on_start: Callable[[Node], None] = lambda node: None,
    ) -> None:
        self.nodes = {node.GET_SCHEMA().node_id: node for node in nodes}
        self._on_start = on_start
        self._cache: dict[str, Done] = {}

    def infos(self) -> dict[str, Any]:
        """What `/object_info` would say now; drop-downs list folders, so it changes."""
        return {id: node.GET_NODE_INFO_V1() for id, node in self.nodes.items()}

    def run(self, graph: Graph, infos: Mapping[str, Any] | None = None) -> Result:
        """Check the graph, then execute what its output nodes need.

        Raises:
            NodeError: nothing ran, or a node failed; what was computed stays in the cache.
            Interrupted: the user pressed stop.
        """
        start = time.perf_counter()
        infos = infos or self.infos()
        used = {n.class_type for n in graph.nodes.values()} & infos.keys()
        with _inference_mode(infos[class_type] for class_type in used):
            graph, order = checked(graph, infos, self._own_check)
            run = _Run(self, graph, infos)
            for id in order:
                run.node(id)
        self._cache = {key: self._cache[key] for key in run.keys.values()}
        shown = {id: run.done[id].ui for id in order if run.done[id].ui}
        return Result(shown, run.executed, time.perf_counter() - start)

    def _own_check(self, node: Node, specs: Mapping[str, InputSpec]) -> tuple[set[str], str | None]:
        """Call the node's `validate_inputs`, if it has one, with the constants; links are None."""
        node_class = self.nodes[node.class_type]
        if not node_class.overrides("validate_inputs"):
            return set(), None
        parameters = inspect.signature(node_class.validate_inputs).parameters.values()
        everything = any(p.kind is p.VAR_KEYWORD for p in parameters)
        names = {p.name for p in parameters if p.kind is not p.VAR_KEYWORD}
        own = {s.name for s in specs.values() if everything or s.path[0] in names}
        specs = {name: spec for name, spec in specs.items() if name in own}
        try:
            answer = node_class.validate_inputs(**_constants(node_class, node, specs))
        except Exception as problem:
            answer = f"{_kind(problem)}{problem}"
        if answer is True:
            return own, None
        return own, answer if isinstance(answer, str) else "the node does not accept it."


class _Run:
    """One pass over a graph."""

    def __init__(self, executor: Executor, graph: Graph, infos: Mapping[str, Any]) -> None:
        self.executor = executor
        self.graph = graph
        self.infos = infos
        self.prompt = graph.as_api()
        self.keys: dict[str, str] = {}
        self.done: dict[str, Done] = {}
        self.executed: list[str] = []

    def node(self, id: str) -> None:
        """Take the node's outputs from the cache, or execute it."""
        host().throw_if_interrupted()
        node = self.graph.nodes[id]
        specs = input_specs(self.infos[node.class_type], node.inputs)
        key = self.keys[id] = self._key(node, specs)
        cache = self.executor._cache
        if key not in cache:
            self.executor._on_start(node)
            cache[key] = self._guarded(node, specs)
            self.executed.append(id)
        self.done[id] = cache[key]

    def _guarded(self, node: Node, specs: Mapping[str, InputSpec]) -> Done:
        try:
            return self._execute(node, specs)
        except NodeError:
            raise
        except (Exception, KeyboardInterrupt) as problem:
            if host().is_interruption(problem):
                raise Interrupted(str(problem)) from problem
            raise error(node, f"{_kind(problem)}{problem}") from problem

    def _execute(self, node: Node, specs: Mapping[str, InputSpec]) -> Done:
        node_class = self.executor.nodes[node.class_type]
        info = self.infos[node.class_type]
        values = {}
        for name, value in node.inputs.items():
            if name in specs:
                values[name] = (
                    self.done[value.node].outputs[value.slot]
                    if isinstance(value, Link)
                    else [value]
                )
        as_lists = bool(info.get("is_input_list"))
        empty = next((name for name, items in values.items() if not items), None)
        if empty and not as_lists:
            raise error(node, "it received an empty list, so there is nothing to do.", empty)
        hidden = self._hidden(node, info)
        returned = []
        for arguments in per_call(values, as_lists=as_lists):
            result = node_class.run(hidden, **nest(arguments, specs))
            if result.block_execution is not None:
                raise error(node, result.block_execution or "it stopped everything after it.")
            returned.append(result)
        return self._merged(node, info, returned)

    def _merged(self, node: Node, info: Mapping[str, Any], returned: list[Any]) -> Done:
        are_lists = list(info.get("output_is_list") or [])
        results = [r.result for r in returned if r.result is not None]
        if any(len(r) != len(are_lists) for r in results) or (are_lists and not results):
            given = [len(r) for r in results] or [0]
            raise error(
                node,
                f"it declares {len(are_lists)} outputs, but returned {given[0]}. "
                "This is a mistake in the node.",
            )
        shown: dict[str, list[Any]] = {}
        for result in returned:
            ui = result.ui.as_dict() if hasattr(result.ui, "as_dict") else result.ui
            for name, items in (ui or {}).items():
                shown.setdefault(name, []).extend(items)
        return Done(merge(results, are_lists), shown)

    def _hidden(self, node: Node, info: Mapping[str, Any]) -> io.HiddenHolder:
        wanted = info.get("input", {}).get("hidden") or {}
        answers = {
            "unique_id": node.id,
            "prompt": self.prompt,
            "extra_pnginfo": self.graph.extra_pnginfo(),
        }
        return io.HiddenHolder(**{name: a for name, a in answers.items() if name in wanted})

    def _key(self, node: Node, specs: Mapping[str, InputSpec]) -> str:
        """Changes whenever the node's outputs may change."""
        parts: list[Any] = [node.class_type, self._fingerprint(node, specs)]
        schema = self.executor.nodes[node.class_type].GET_SCHEMA()
        asks_for_id = "unique_id" in (self.infos[node.class_type]["input"].get("hidden") or {})
        if schema.not_idempotent or asks_for_id:
            parts.append(node.id)
        for name in sorted(node.inputs):
            value = node.inputs[name]
            if isinstance(value, Link):
                value = (self.keys[value.node], value.slot)
            parts.append((name, value))
        return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()

    def _fingerprint(self, node: Node, specs: Mapping[str, InputSpec]) -> Any:
        node_class = self.executor.nodes[node.class_type]
        if not node_class.overrides("fingerprint_inputs"):
            return None
        try:
            mark = node_class.fingerprint_inputs(**_constants(node_class, node, specs))
        except Exception as problem:
            # ComfyUI goes on and runs the node, which will say what is wrong.
            return f"failed: {problem} {next(_never_the_same)}"
        changes_always = isinstance(mark, float) and mark != mark
        return next(_never_the_same) if changes_always else mark


_never_the_same = itertools.count()


def _constants(
    node_class: type[io.ComfyNode], node: Node, specs: Mapping[str, InputSpec]
) -> dict[str, Any]:
    """What is known before anything runs, as arguments; what comes through a link is None."""
    known = {
        name: None if isinstance(value, Link) else value
        for name, value in node.inputs.items()
        if name in specs
    }
    if node_class.GET_SCHEMA().is_input_list:
        known = {name: [value] for name, value in known.items()}
    return nest(known, specs)


def _kind(problem: BaseException) -> str:
    """The class of an error that was not written for users."""
    return "" if isinstance(problem, ValueError) else f"{type(problem).__name__}: "


def _inference_mode(infos: Iterable[Mapping[str, Any]]) -> AbstractContextManager[Any]:
    """ComfyUI's mode for nodes; without torch when all nodes only handle numbers and texts."""
    if all(_is_plain(info) for info in infos):
        return nullcontext()
    import torch

    return torch.inference_mode()


def _is_plain(info: Mapping[str, Any]) -> bool:
    types = {kind for kind in info.get("output") or [] if isinstance(kind, str)}
    types |= {spec.type for spec in input_specs(info, {}).values()}
    return types <= _PLAIN
