"""Which ControlNet is this? A file or folder becomes a frozen description, by its tensors alone."""

from __future__ import annotations

from pathlib import Path

from ...families import family_named
from ..guidance import ControlNet
from ..sources import best_weights
from .source import identity_of, open_control

TITLES = {
    "controlnet": "ControlNet",
    "union": "ControlNet-Union",
    "t2i-adapter": "T2I-Adapter",
}
"""Kind → what users call it."""

AUTO = "auto"


def describe_control(path: str | Path, name: str | None = None, kind: str = AUTO) -> ControlNet:
    """Describe the ControlNet at `path`: a diffusers folder or a single file, in the names of any
    of the programs that write them. Its weights are hashed, not loaded.

    `name`: what to call it in messages; by itself the name of file or folder. `kind`: what it must
    be, one of `guidance.CONTROL_KINDS`.

    Raises:
        ValueError: missing, damaged, or nothing that Likeness knows.
    """
    source = open_control(path)
    found = source.found
    if kind not in (AUTO, found.kind):
        raise ValueError(f"{path} is a {TITLES[found.kind]} and no {TITLES.get(kind, kind)}")
    return ControlNet(
        path=str(Path(path).absolute()),  # not resolved: the hub's cache links to nameless files
        family=found.family,
        kind=found.kind,
        identity=identity_of(path),
        name=name or _name(Path(path)),
        modes=found.modes,
    )


def count_outputs(control: ControlNet) -> int:
    """How many residuals it gives to the base model, from the outermost block inwards."""
    source = open_control(control.path)
    return source.architecture.outputs(source.shapes)


def control_facts(control: ControlNet) -> str:
    """What there is to know about a ControlNet, a line each."""
    lines = [
        f"{TITLES[control.kind]} for {family_named(control.family).title}",
        f"outputs: {count_outputs(control)}",
    ]
    if control.modes:
        lines.append(f"modes: {', '.join(control.modes)}")
    return "\n".join(lines)


def _name(path: Path) -> str:
    if path.is_file() and best_weights([path.name]):  # all of them are called alike
        return path.absolute().parent.name
    return path.name if path.is_dir() else path.stem
