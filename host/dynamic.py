"""Inputs that bring further inputs along; part of our stand-in for `io`.

An API workflow names those inputs with a dot (`"method.rank": 16`); `execute` receives them as a
dictionary (`method={"method": "lora", "rank": 16}`).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from .inputs import ComfyType, DynamicInput, Input, WidgetInput, describe


class DynamicCombo(ComfyType, io_type="COMFY_DYNAMICCOMBO_V3"):
    """A drop-down whose every choice shows its own inputs below."""

    @dataclass
    class Option:
        key: str
        inputs: list[Input]

    @dataclass
    class Input(DynamicInput):
        options: list[DynamicCombo.Option]

        def as_dict(self) -> dict[str, Any]:
            options = [{"key": o.key, "inputs": describe(o.inputs)} for o in self.options]
            return super().as_dict() | {"options": options}


class Autogrow(ComfyType, io_type="COMFY_AUTOGROW_V3"):
    """A row of equal sockets that grows as they are filled; the node receives a dictionary."""

    class Template:
        """What the sockets look like; the first `min` of them must be filled."""

        def __init__(self, input: Input, min: int, **names: Any) -> None:
            self.input = copy.copy(input)
            if isinstance(self.input, WidgetInput):
                self.input.force_input = True
            self.min = min
            self.names = names

        def as_dict(self) -> dict[str, Any]:
            return {"input": describe([self.input]), "min": self.min, **self.names}

    class TemplatePrefix(Template):
        """Sockets named `prefix0`, `prefix1`, ... up to `max` of them (100 at most)."""

        def __init__(self, input: Input, prefix: str, min: int = 1, max: int = 10) -> None:
            assert min >= 0 and 1 <= max <= 100, (min, max)
            super().__init__(input, min, prefix=prefix, max=max)

    class TemplateNames(Template):
        """Sockets with names of their own (the first 100 count)."""

        def __init__(self, input: Input, names: list[str], min: int = 1) -> None:
            super().__init__(input, min, names=names[:100])

    @dataclass
    class Input(DynamicInput):
        template: Autogrow.Template

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | {"template": self.template.as_dict()}
