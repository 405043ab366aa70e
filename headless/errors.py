"""What can go wrong with a workflow: one sentence that names the place, the value, the way out."""

from __future__ import annotations

import reprlib
from typing import Any


class WorkflowError(ValueError):
    """The file cannot be read as a workflow."""

    def as_dict(self) -> dict[str, Any]:
        return {"message": str(self)}


class ServerError(ValueError):
    """A server cannot be reached, or answers what a ComfyUI would not."""

    def as_dict(self) -> dict[str, Any]:
        return {"message": str(self)}


class NodeError(Exception):
    """One node cannot be run, or failed while it ran.

    Args:
        node: id in the workflow.
        class_type: the node's id in `/object_info`.
        title: what the user calls it.
        message: what is wrong and what to do.
        input: name of the input concerned, as in the API format.
        value: its value, if it is one that JSON can hold.
        also: further errors found at the same time.
    """

    def __init__(
        self,
        node: str,
        class_type: str,
        title: str,
        message: str,
        *,
        input: str | None = None,
        value: Any = None,
        also: tuple[NodeError, ...] = (),
    ) -> None:
        super().__init__(message)
        self.node = node
        self.class_type = class_type
        self.title = title
        self.message = message
        self.input = input
        self.value = value
        self.also = also

    def __str__(self) -> str:
        title = f' "{self.title}"' if self.title and self.title != self.class_type else ""
        place = f", input {self.input!r}" if self.input else ""
        return f"Node {self.node}{title} ({self.class_type}){place}: {self.message}"

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "node": self.node,
            "class_type": self.class_type,
            "title": self.title,
            "input": self.input,
            "value": self.value,
            "message": str(self),
        }


def shorten(value: Any, limit: int = 80) -> str:
    """`repr` of a value, cut so that a message stays one line; safe for huge and deep values."""
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxdict, brief.maxlist = 3, 4, 4
    brief.maxstring = brief.maxother = brief.maxlong = limit
    text = brief.repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
