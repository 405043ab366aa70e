"""What inputs a node has, read from its `/object_info` entry: names, types, choices.

Three kinds of input bring others along (ComfyUI's names in brackets): a drop-down whose choice
shows its own inputs (COMFY_DYNAMICCOMBO_V3), a row of sockets that grows (COMFY_AUTOGROW_V3), and
a socket that shows more inputs once it is connected (COMFY_DYNAMICSLOT_V3). Their API names are
joined with dots: `method`, `method.rank`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

COMBO = "COMBO"
DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"
AUTOGROW = "COMFY_AUTOGROW_V3"
DYNAMIC_SLOT = "COMFY_DYNAMICSLOT_V3"

WIDGET_TYPES = frozenset(
    (
        *("INT", "FLOAT", "BOOLEAN", "STRING", "TEXTAREA", "MARKDOWN", COMBO, DYNAMIC_COMBO),
        *("COLOR", "COLORS", "BOUNDING_BOX", "BOUNDING_BOXES", "CURVE", "RANGE", "CHART"),
        *("GALLERIA", "PAINTER", "COMPOSITOR", "VIDEO_EDIT", "IMAGECOMPARE"),
    )
)
"""Types that ComfyUI's frontend 1.49 gives a widget."""


@dataclass(frozen=True)
class InputSpec:
    """One input."""

    name: str
    """The API name."""
    type: str
    """`"INT"`, `"IMAGE,MASK"`, `"*"`, ...; always `"COMBO"` for a drop-down."""
    options: Mapping[str, Any]
    """min, max, default, ...; for a drop-down, `options` holds the choices."""
    required: bool
    path: tuple[str, ...]
    """Where its value goes in the arguments of `execute`: `("method", "rank")`."""
    from_choice: bool = False
    """Shown because of the choice in a drop-down."""
    in_row: bool = False
    """One of a row of sockets that grows."""

    @property
    def widget(self) -> bool:
        """Whether the user can fill it in on the node."""
        kind = self.options.get("widgetType") or self.type
        return kind in WIDGET_TYPES and not self.options.get("forceInput")

    @property
    def choices(self) -> list[Any]:
        """What a drop-down offers."""
        options = self.options.get("options") or []
        if self.type == DYNAMIC_COMBO:
            return [option["key"] for option in options]
        return list(options)

    @property
    def default(self) -> Any:
        """What the frontend fills in; None when a drop-down has nothing to offer."""
        if self.type in (COMBO, DYNAMIC_COMBO):
            first = self.choices[0] if self.choices else None
            return first if self.type == DYNAMIC_COMBO else self.options.get("default", first)
        empty = {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False, "IMAGECOMPARE": ["", ""]}
        kind = self.options.get("widgetType") or self.type
        return self.options.get("default", empty.get(kind, ""))


def input_specs(info: Mapping[str, Any], live: Mapping[str, Any]) -> dict[str, InputSpec]:
    """All inputs of a node by API name, in the order in which the frontend shows them.

    Args:
        info: the node's entry in `/object_info`.
        live: the node's present inputs; the choices among them decide which others there are.
    """
    described = info.get("input", {})
    order = info.get("input_order") or {}
    found: dict[str, InputSpec] = {}
    for group in ("required", "optional"):
        inputs = described.get(group) or {}
        names = [n for n in order.get(group, inputs) if n in inputs]
        names += [n for n in inputs if n not in names]
        for name in names:
            for spec in _expand(name, inputs[name], group == "required", live):
                found[spec.name] = spec
    return found


def nest(values: Mapping[str, Any], specs: Mapping[str, InputSpec]) -> dict[str, Any]:
    """Values by API name as `execute` receives them: `{"method": {"method": "lora", "rank": 16}}`.

    As in ComfyUI, a row without a connection is an empty dictionary, and an input that a choice
    shows is None when it has no value; any other input without a value is left out.
    """
    nested: dict[str, Any] = {}
    for spec in specs.values():
        given = spec.name in values
        if not (given or spec.from_choice or spec.in_row):
            continue
        place = nested
        for part in spec.path[:-1]:
            place = place.setdefault(part, {})
        if given or not spec.in_row:
            place[spec.path[-1]] = values.get(spec.name)
    return nested


def _expand(
    name: str,
    spec: Any,
    required: bool,
    live: Mapping[str, Any],
    path: tuple[str, ...] = (),
    from_choice: bool = False,
    in_row: bool = False,
) -> Iterator[InputSpec]:
    kind = COMBO if isinstance(spec[0], list | tuple) else str(spec[0])
    options = dict(spec[1]) if len(spec) > 1 else {}
    if kind == COMBO and kind != spec[0]:
        options["options"] = list(spec[0])
    path = (*path, name.rsplit(".", 1)[-1] if path else name)

    if kind == AUTOGROW:
        yield from _rows(name, options["template"], required, live, path)
        return
    if kind in (DYNAMIC_COMBO, DYNAMIC_SLOT):
        shown = {}
        if kind == DYNAMIC_SLOT:
            shown = options["inputs"] if name in live else {}
        for option in options.get("options") or []:
            if option["key"] == live.get(name):
                shown = option["inputs"]
        slot_type = str(options.get("slotType", kind))
        yield InputSpec(name, slot_type, options, required, (*path, path[-1]), from_choice)
        for group in ("required", "optional"):
            for child, child_spec in (shown.get(group) or {}).items():
                needed = group == "required"
                yield from _expand(f"{name}.{child}", child_spec, needed, live, path, True)
        return
    yield InputSpec(name, kind, options, required, path, from_choice, in_row)


def _rows(
    name: str,
    template: Mapping[str, Any],
    required: bool,
    live: Mapping[str, Any],
    path: tuple[str, ...],
) -> Iterator[InputSpec]:
    """One input per name of an Autogrow; the first `min` of them are required."""
    names = template.get("names") or [f"{template['prefix']}{i}" for i in range(template["max"])]
    group, inputs = next((g, i) for g, i in template["input"].items() if i)
    row = next(iter(inputs.values()))
    for index, row_name in enumerate(names):
        needed = group == "required" and index < template["min"]
        yield from _expand(f"{name}.{row_name}", row, needed, live, path, in_row=True)
