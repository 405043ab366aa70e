"""What a setting is: a dataclass field that knows its default, bounds and help.

Node widgets, `run.json` and the command line's help are all made from these fields (`describe`),
and whoever works by them is handed the whole object: nothing is copied by hand.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, TypeVar, get_type_hints

SettingsType = TypeVar("SettingsType")


@dataclass(frozen=True)
class Setting:
    """One setting as a widget needs it: its Python type, or `choices` for a drop-down. `decides`:
    whether it changes a bit of what comes out.
    """

    name: str
    kind: type
    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    advanced: bool = False
    multiline: bool = False
    decides: bool = True


def setting(
    default: Any,
    *,
    help: str,
    low: float | None = None,
    high: float | None = None,
    step: float | None = None,
    choices: tuple[str, ...] = (),
    advanced: bool = False,
    multiline: bool = False,
    decides: bool = True,
) -> Any:
    """A dataclass field that knows its bounds and its help."""
    facts = {
        "help": help,
        "low": low,
        "high": high,
        "step": step,
        "choices": choices,
        "advanced": advanced,
        "multiline": multiline,
        "decides": decides,
    }
    return field(default=default, metadata=facts)


def describe(settings: Any) -> tuple[Setting, ...]:
    """The settings of a settings class (or object), in order."""
    kinds = get_type_hints(settings if isinstance(settings, type) else type(settings))
    return tuple(
        Setting(name=each.name, kind=kinds[each.name], default=each.default, **each.metadata)
        for each in fields(settings)
        if each.default is not MISSING
    )


def to_dict(settings: Any) -> dict[str, Any]:
    """The settings as JSON-ready values."""
    return asdict(settings)


def from_dict(settings_type: type[SettingsType], values: dict[str, Any]) -> SettingsType:
    """The inverse of `to_dict`; settings that are absent take their default.

    Raises:
        ValueError: an unknown setting, or a value out of bounds.
    """
    known = [each.name for each in fields(settings_type)]  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(
            f"unknown {settings_type.__name__} {', '.join(map(repr, unknown))}; "
            f"known: {', '.join(known)}"
        )
    return settings_type(**values)


def check(settings: Any) -> None:
    """Types and bounds of every field. An int given for a float becomes one, so that 1 and 1.0 are
    the same run.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    for each in describe(settings):
        value = getattr(settings, each.name)
        if each.kind is float and type(value) is int:
            value = float(value)
            object.__setattr__(settings, each.name, value)
        if type(value) is not each.kind:
            raise ValueError(
                f"{each.name} is {value!r} ({type(value).__name__}); give it a {each.kind.__name__}"
            )
        if each.choices and value not in each.choices:
            raise ValueError(f"{each.name} is {value!r}; choose one of {', '.join(each.choices)}")
        if each.kind in (int, float):
            _check_bounds(each, value)


def _check_bounds(each: Setting, value: float) -> None:
    low, high = each.low, each.high
    if not math.isfinite(value) or (low is not None and value < low):
        raise ValueError(f"{each.name} is {value}; it must be a number of at least {low}")
    if high is not None and value > high:
        raise ValueError(f"{each.name} is {value}; it may be at most {high}")
