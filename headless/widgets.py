"""From the `widgets_values` of a canvas node to named inputs, as ComfyUI's frontend does it.

The list holds one value for each widget in the order of the inputs. Widgets that were turned into
sockets keep their place. Some widgets are followed by values that are not inputs: what happens to
a seed after each run, and for drop-downs with that feature also a filter text. What comes after
the last known widget (an upload button, a panel of a web extension) is nobody's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .inputs import COMBO, InputSpec, input_specs

_MISSING = object()

_NOT_SAVED = frozenset({"IMAGECOMPARE"})
"""Types whose widget has no value in the file, but is sent to the server."""


def widget_inputs(info: Mapping[str, Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """The widgets' values by API name; what the file does not hold gets its default.

    Args:
        info: the node's entry in `/object_info`.
        saved: the node as it stands in the canvas file.
    """
    values = saved.get("widgets_values")
    named = saved.get("widgets_values_named")
    if isinstance(values, Mapping):
        return fill_in(info, values)
    if not isinstance(values, list):
        return fill_in(info, named if isinstance(named, Mapping) else {})

    values = _without_forced(info, values)
    places = _places(info, values)
    if isinstance(named, Mapping):
        order = {name: place for place, name in enumerate(named)}
        if any(order.get(name, place) != place for name, place in places.items()):
            # A widget that we do not know, or another version of the pack: names are certain.
            return fill_in(info, named)
    return fill_in(info, {n: values[place] for n, place in places.items() if place < len(values)})


def fill_in(info: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Values for all widgets: the given one by name, else the default.

    Goes round again while a choice shows further inputs.
    """
    found: dict[str, Any] = {}
    while True:
        new = [s for s in input_specs(info, found).values() if s.widget and s.name not in found]
        if not new:
            # A drop-down with nothing to offer has no value at all.
            return {name: value for name, value in found.items() if value is not None}
        for spec in new:
            found[spec.name] = given.get(spec.name, spec.default)


def _places(info: Mapping[str, Any], values: Sequence[Any]) -> dict[str, int]:
    """Where in the list the value of each widget stands; may point behind its end."""
    places: dict[str, int] = {}
    found: dict[str, Any] = {}
    place = 0
    while True:
        # A choice brings its inputs in right behind itself, so look again after every value.
        specs = input_specs(info, found).values()
        spec = next((s for s in specs if s.widget and s.name not in places), None)
        if spec is None:
            return places
        if spec.type in _NOT_SAVED:
            places[spec.name] = len(values)
            continue
        places[spec.name] = place
        found[spec.name] = values[place] if place < len(values) else spec.default
        place += 1 + _extra_values(spec)


def _extra_values(spec: InputSpec) -> int:
    """How many values follow that belong to the widget but are no inputs."""
    control = spec.options.get("control_after_generate", _MISSING)
    kind = spec.options.get("widgetType") or spec.type
    if control is _MISSING or control is None:
        return int(kind == "INT" and spec.name in ("seed", "noise_seed"))
    if not control:
        return 0
    return {"INT": 1, "FLOAT": 1, COMBO: 2}.get(kind, 0)


def _without_forced(info: Mapping[str, Any], values: list[Any]) -> list[Any]:
    """Old frontends saved a value for inputs that are always sockets; the length gives it away."""
    forced: list[bool] = []
    for spec in input_specs(info, {}).values():
        if spec.widget or spec.options.get("forceInput"):
            forced.append(bool(spec.options.get("forceInput")))
            if spec.options.get("control_after_generate"):
                forced.append(False)
    if len(forced) != len(values):
        return values
    return [value for value, drop in zip(values, forced, strict=True) if not drop]
