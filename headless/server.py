"""Has a running ComfyUI execute a graph: uploads what it lacks, waits, brings the results home.

Only the standard library is used; progress is polled.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ..host import Interrupted, host
from ..host.folders import safe_name
from .errors import NodeError, ServerError
from .executor import Result
from .graph import Graph, Node
from .http_api import Http
from .inputs import input_specs
from .packs import unknown_node
from .results import PREVIEWS
from .validate import error

POLL_SECONDS = 0.3
LOST_AFTER = 20
"""Polls in which the server knows nothing of the job before we give up."""


class Server:
    """A ComfyUI at some address.

    Args:
        url: `http://127.0.0.1:8188`; without `http://` it is added.
        report: called with one line whenever the state of the job changes.
    """

    def __init__(self, url: str, report: Callable[[str], None] = lambda line: None) -> None:
        self._http = Http(url)
        self._report = report

    def infos(self) -> dict[str, Any]:
        """The server's `/object_info`."""
        infos = self._http.json("/object_info")
        if not isinstance(infos, dict) or not infos:
            raise ServerError(
                f"{self._http.url} does not answer like a ComfyUI. Check the address."
            )
        return infos

    def run(self, graph: Graph, infos: Mapping[str, Any]) -> Result:
        """Run the graph there and wait for it.

        Raises:
            NodeError: a node cannot run, or failed.
            ServerError: the server is gone or does not answer as expected.
            Interrupted: stopped here, and then there, or by someone else.
        """
        start = time.perf_counter()
        for node in graph.nodes.values():
            if node.class_type not in infos:
                raise error(node, unknown_node(node.class_type, node.pack, infos))
        graph = self._upload_pictures(graph, infos)
        job = self._submit(graph)
        try:
            entry = self._wait(job)
        except (Interrupted, KeyboardInterrupt):
            self._cancel(job)
            raise
        self._raise_failure(entry, graph)
        cached = _messages(entry).get("execution_cached", {}).get("nodes", [])
        executed = [id for id in graph.nodes if id not in cached]
        return Result(entry.get("outputs") or {}, executed, time.perf_counter() - start)

    def fetch(self, saved: Mapping[str, Any]) -> Path:
        """Download one file that a node saved; returns where it is now.

        An existing file with other content is kept: the new one gets a number.
        """
        name, subfolder = str(saved["filename"]), str(saved.get("subfolder") or "")
        place = {"filename": name, "subfolder": subfolder, "type": saved.get("type", "output")}
        content = self._http.get(f"/view?{urlencode(place)}")
        folder = host().output_directory()
        if place["type"] == "temp":
            folder, subfolder = folder / PREVIEWS, ""
        path = folder / safe_name(f"{subfolder}/{name}" if subfolder else name)
        path.parent.mkdir(parents=True, exist_ok=True)
        first, number = path, 1
        while path.exists() and path.read_bytes() != content:
            path = first.with_name(f"{first.stem} ({number}){first.suffix}")
            number += 1
        unfinished = path.with_name(f".{path.name}.part")
        unfinished.write_bytes(content)
        unfinished.replace(path)
        return path

    def _upload_pictures(self, graph: Graph, infos: Mapping[str, Any]) -> Graph:
        """Give the server the pictures that it lacks and that lie in our input folder."""
        for node in graph.nodes.values():
            for name, spec in input_specs(infos[node.class_type], node.inputs).items():
                value = node.inputs.get(name)
                if not spec.options.get("image_upload") or not isinstance(value, str):
                    continue
                if value in spec.choices or value.endswith("]"):
                    continue
                there = self._upload(value)
                if there and there != value:
                    graph = graph.with_inputs(node.id, {**node.inputs, name: there})
        return graph

    def _upload(self, name: str) -> str | None:
        """Upload one picture; returns its name there, or None if we do not have it or they do."""
        relative = safe_name(name)
        path = host().input_directory() / relative
        subfolder = "" if str(relative.parent) == "." else str(relative.parent)
        place = {"filename": relative.name, "subfolder": subfolder, "type": "input"}
        if not path.is_file() or self._http.exists(f"/view?{urlencode(place)}"):
            return None
        self._report(f"Uploading {name}")
        fields = {"type": "input", "subfolder": subfolder}
        answer = self._http.upload("/upload/image", fields, relative.name, path.read_bytes())
        folder = f"{answer['subfolder']}/" if answer.get("subfolder") else ""
        return f"{folder}{answer['name']}"

    def _submit(self, graph: Graph) -> str:
        """Queue the job; returns its id."""
        body: dict[str, Any] = {"prompt": graph.as_api(), "client_id": uuid.uuid4().hex}
        if graph.canvas is not None:
            body["extra_data"] = {"extra_pnginfo": graph.extra_pnginfo()}
        answer = self._http.json("/prompt", body, accept=(400,))
        job = answer.get("prompt_id")
        problems = _node_errors(answer.get("node_errors") or {}, graph)
        if problems and job:
            # ComfyUI would run the outputs that are fine; a script wants all of them or none.
            self._cancel(job)
        if problems:
            problems[0].also = tuple(problems[1:])
            raise problems[0]
        if not job:
            reason = answer.get("error")
            if isinstance(reason, dict):
                reason = f"{reason.get('message')} {reason.get('details') or ''}".strip()
            raise ServerError(f"{self._http.url} refused the workflow: {reason}")
        return str(job)

    def _wait(self, job: str) -> dict[str, Any]:
        """Poll until the job is in the history; returns its entry."""
        said, lost = "", 0
        while True:
            host().throw_if_interrupted()
            entry = self._http.json(f"/history/{job}").get(job)
            if entry:
                return entry
            state = self._state(job)
            lost = 0 if state else lost + 1
            if lost > LOST_AFTER:
                raise ServerError(f"{self._http.url} lost the job {job}. Was it restarted?")
            if state and state != said:
                self._report(state)
                said = state
            time.sleep(POLL_SECONDS)

    def _state(self, job: str) -> str:
        queue = self._http.json("/queue")
        if any(item[1] == job for item in queue.get("queue_running", [])):
            return "Running"
        waiting = sorted(queue.get("queue_pending", []), key=lambda item: item[0])
        before = [item[1] for item in waiting]
        return f"Waiting, {before.index(job)} before us" if job in before else ""

    def _cancel(self, job: str) -> None:
        """Take the job out of the queue or interrupt it; other people's jobs go on."""
        self._http.json("/queue", {"delete": [job]}, empty=True)
        if self._state(job) == "Running":
            self._http.json("/interrupt", {"prompt_id": job}, empty=True)

    def _raise_failure(self, entry: Mapping[str, Any], graph: Graph) -> None:
        messages = _messages(entry)
        if "execution_interrupted" in messages:
            raise Interrupted("Stopped on the server.")
        failed = messages.get("execution_error")
        if failed:
            id = str(failed.get("node_id"))
            node = graph.nodes.get(id) or Node(id, str(failed.get("node_type")), {})
            kind = str(failed.get("exception_type") or "").rpartition(".")[2]
            prefix = "" if kind in ("", "ValueError") else f"{kind}: "
            raise error(node, prefix + str(failed.get("exception_message")).strip())
        if (entry.get("status") or {}).get("status_str") == "error":
            raise ServerError(f"{self._http.url} failed without saying why. Look at its log.")


def _messages(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What was reported while the job ran, by kind."""
    return dict((entry.get("status") or {}).get("messages") or [])


def _node_errors(errors: Mapping[str, Any], graph: Graph) -> list[NodeError]:
    """The server's complaints in our words' order: place, then what is wrong."""
    found = []
    for id, problem in errors.items():
        node = graph.nodes.get(id) or Node(id, str(problem.get("class_type")), {})
        for one in problem.get("errors") or []:
            extra = one.get("extra_info") or {}
            name = extra.get("input_name")
            details = str(one.get("details") or "")
            text = str(one.get("message"))
            if details and details != name:
                text += f": {details}"
            value = extra.get("received_value", node.inputs.get(name or ""))
            found.append(error(node, text, name, value))
    return found
