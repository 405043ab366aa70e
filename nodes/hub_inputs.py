"""A file out of a repository of the Hugging Face hub, as all nodes that load one ask for it."""

from __future__ import annotations

from ..host import io


def hub_inputs(what: str, file: str) -> list[io.Input]:
    """The widgets `hub` and `hub_file`. `what`: is taken from there; `file`: what to say of the
    file in the repository.
    """
    return [
        io.String.Input(
            "hub",
            default="",
            optional=True,
            advanced=True,
            tooltip=f"Take {what} from this repository of the Hugging Face hub (owner/name) and "
            "not from a file here. Downloaded once, when it is not in the local cache.",
        ),
        io.String.Input(
            "hub_file",
            default="",
            optional=True,
            advanced=True,
            tooltip=f"The file in that repository{file}",
        ),
    ]
