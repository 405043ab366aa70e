"""Widgets made from settings, whose default, bounds and help are written once."""

from __future__ import annotations

from typing import Any

from ..host import io
from ..trainers.settings import Setting, describe


def widgets(
    settings_type: type, *, skip: tuple[str, ...] = (), only: tuple[str, ...] = ()
) -> list[Any]:
    """One widget for each field of a settings class, in order: without `skip`, or of `only`."""
    settings = [each for each in describe(settings_type) if each.name not in skip]
    return [_widget(each) for each in settings if not only or each.name in only]


def pick(settings_type: type, values: dict[str, Any]) -> dict[str, Any]:
    """Those of a node's `values` that belong to `settings_type`."""
    return {each.name: values[each.name] for each in describe(settings_type) if each.name in values}


def _widget(setting: Setting) -> Any:
    shared = {
        "default": setting.default,
        "tooltip": setting.help,
        "advanced": True if setting.advanced else None,
    }
    if setting.choices:
        return io.Combo.Input(setting.name, options=list(setting.choices), **shared)
    if setting.kind is bool:
        return io.Boolean.Input(setting.name, **shared)
    if setting.kind is str:
        return io.String.Input(setting.name, multiline=setting.multiline, **shared)
    bounds = {"min": setting.low, "max": setting.high}
    if setting.kind is float:
        return io.Float.Input(setting.name, step=setting.step or 0.01, **bounds, **shared)
    extra = {"control_after_generate": False} if setting.name == "seed" else {}
    return io.Int.Input(setting.name, step=int(setting.step or 1), **bounds, **extra, **shared)
