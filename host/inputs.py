"""Our stand-in for the types, sockets and widgets of ComfyUI's `io`, for life without ComfyUI.

Names, parameters and the dictionaries they turn into are ComfyUI's; a test compares them with the
real thing. Parameters after the first one or two are keyword-only here, which ComfyUI accepts as
well. What the nodes of this pack do not use is left out: add a type when a node needs it.
"""

from __future__ import annotations

import copy
import types
from dataclasses import KW_ONLY, dataclass, field, fields
from enum import Enum
from typing import Any, ClassVar


class FolderType(str, Enum):
    """Which of the program's folders a file lies in."""

    input = "input"
    output = "output"
    temp = "temp"


class UploadType(str, Enum):
    """The upload button that a drop-down gets."""

    image = "image_upload"
    audio = "audio_upload"
    video = "video_upload"
    model = "file_upload"


class NumberDisplay(str, Enum):
    """How a number is shown."""

    number = "number"
    slider = "slider"
    gradient_slider = "gradientslider"


_SENT_AS = {
    "raw_link": "rawLink",
    "widget_type": "widgetType",
    "force_input": "forceInput",
    "dynamic_prompts": "dynamicPrompts",
    "display_mode": "display",
}
_NOT_SENT = {"id", "optional", "extra_dict"}


@dataclass
class Input:
    """A socket: something another node hands over."""

    io_type: ClassVar[str] = "*"
    id: str
    _: KW_ONLY
    display_name: str | None = None
    optional: bool = False
    tooltip: str | None = None
    lazy: bool | None = None
    extra_dict: dict[str, Any] | None = None
    raw_link: bool | None = None
    advanced: bool | None = None

    def get_io_type(self) -> str:
        return self.io_type

    def as_dict(self) -> dict[str, Any]:
        """The options that the frontend receives: every field that is set, under the frontend's
        name for it.
        """
        sent = {k: v for k, v in (self.extra_dict or {}).items() if v is not None}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in _NOT_SENT and value is not None:
                sent[_SENT_AS.get(f.name, f.name)] = (
                    value.value if isinstance(value, Enum) else value
                )
        return sent


@dataclass(kw_only=True)
class WidgetInput(Input):
    """An input that the user can also fill in on the node."""

    default: Any = None
    socketless: bool | None = None
    widget_type: str | None = field(default=None, init=False)
    force_input: bool | None = field(default=None, init=False)

    def get_io_type(self) -> str:
        return self.widget_type or self.io_type


@dataclass(kw_only=True)
class ValueInput(WidgetInput):
    """A number, a text or a switch; `force_input` shows only the socket."""

    force_input: bool | None = None


@dataclass
class DynamicInput(Input):
    """An input that brings further inputs along; ComfyUI cannot hide those among the advanced."""

    raw_link: bool | None = field(default=None, init=False)
    advanced: bool | None = field(default=None, init=False)


@dataclass(kw_only=True)
class Output:
    """A socket that hands something on."""

    io_type: ClassVar[str] = "*"
    id: str | None = field(default=None, kw_only=False)
    display_name: str | None = None
    tooltip: str | None = None
    is_output_list: bool = False

    def __post_init__(self) -> None:
        self.display_name = self.display_name or self.id

    def get_io_type(self) -> str:
        return self.io_type


class ComfyType:
    """A kind of value; `Image.Input("image")` and `Image.Output()` are the sockets for it."""

    io_type: ClassVar[str] = "*"

    class Output(Output):
        pass

    def __init_subclass__(cls, io_type: str) -> None:
        cls.io_type = io_type
        for name in ("Input", "Output"):
            if socket := getattr(cls, name, None):
                # A class of its own for each type, so that a socket knows what it carries.
                own = {"io_type": io_type, "__module__": cls.__module__, "__doc__": socket.__doc__}
                setattr(cls, name, type(name, (socket,), own))


class SocketType(ComfyType, io_type="*"):
    """A kind of value that only other nodes provide."""

    class Input(Input):
        pass


def Custom(io_type: str) -> type[SocketType]:
    """A type of our own: only sockets of the same name connect to it."""
    return types.new_class("Custom", (SocketType,), {"io_type": io_type})


class AnyType(SocketType, io_type="*"):
    """Anything."""


class Image(SocketType, io_type="IMAGE"):
    """Float tensor [batch, height, width, 3], 0 to 1."""


class Mask(SocketType, io_type="MASK"):
    """Float tensor [batch, height, width], 0 to 1."""


class Latent(SocketType, io_type="LATENT"):
    """A dictionary with `samples`."""


class Conditioning(SocketType, io_type="CONDITIONING"):
    """A list of (tensor, options)."""


class Model(SocketType, io_type="MODEL"):
    """ComfyUI's `ModelPatcher`."""


class Clip(SocketType, io_type="CLIP"):
    """ComfyUI's text encoder."""


class Vae(SocketType, io_type="VAE"):
    """ComfyUI's VAE."""


class ControlNet(SocketType, io_type="CONTROL_NET"):
    """ComfyUI's ControlNet."""


class ClipVision(SocketType, io_type="CLIP_VISION"):
    """ComfyUI's image encoder."""


class LoraModel(SocketType, io_type="LORA_MODEL"):
    """LoRA weights: a dictionary of tensors."""


class LossMap(SocketType, io_type="LOSS_MAP"):
    """`{"loss": [one number per step]}`."""


class Boolean(ComfyType, io_type="BOOLEAN"):
    @dataclass(kw_only=True)
    class Input(ValueInput):
        label_on: str | None = None
        label_off: str | None = None


class Int(ComfyType, io_type="INT"):
    @dataclass(kw_only=True)
    class Input(ValueInput):
        min: int | None = None
        max: int | None = None
        step: int | None = None
        control_after_generate: bool | None = None
        display_mode: NumberDisplay | None = None


class Float(ComfyType, io_type="FLOAT"):
    @dataclass(kw_only=True)
    class Input(ValueInput):
        min: float | None = None
        max: float | None = None
        step: float | None = None
        round: float | None = None
        display_mode: NumberDisplay | None = None


class String(ComfyType, io_type="STRING"):
    @dataclass(kw_only=True)
    class Input(ValueInput):
        multiline: bool = False
        placeholder: str | None = None
        dynamic_prompts: bool | None = None


class Combo(ComfyType, io_type="COMBO"):
    @dataclass
    class Input(WidgetInput):
        options: Any = None
        """A list of strings or numbers, or an `Enum` class."""
        _: KW_ONLY
        control_after_generate: bool | None = None
        upload: UploadType | None = None
        image_folder: FolderType | None = None

        def __post_init__(self) -> None:
            if isinstance(self.options, type) and issubclass(self.options, Enum):
                self.options = [member.value for member in self.options]

        def as_dict(self) -> dict[str, Any]:
            sent: dict[str, Any] = super().as_dict() | {"multiselect": False}
            if button := sent.pop("upload", None):
                sent[button] = True
            return sent


class MultiCombo(ComfyType, io_type="COMBO"):
    @dataclass(kw_only=True)
    class Input(Combo.Input):
        upload: UploadType | None = field(default=None, init=False)
        image_folder: FolderType | None = field(default=None, init=False)
        placeholder: str | None = None
        chip: bool | None = None

        def as_dict(self) -> dict[str, Any]:
            sent = super().as_dict() | {"multiselect": True}
            sent["multi_select"] = {k: sent.pop(k) for k in ("placeholder", "chip") if k in sent}
            return sent


class MultiType(ComfyType, io_type="COMFY_MULTITYPED_V3"):
    class Input(Input):
        """A socket that takes any of several types; with a widget as `id`, it shows that one."""

        def __init__(
            self, id: str | WidgetInput, types: list[type[ComfyType]], **options: Any
        ) -> None:
            self._widget = copy.copy(id) if isinstance(id, WidgetInput) else None
            self._types = types
            super().__init__(id.id if isinstance(id, WidgetInput) else id, **options)
            if self._widget:
                self._widget.widget_type = self._widget.get_io_type()
                self.optional = self.optional or self._widget.optional

        def get_io_type(self) -> str:
            own = [self._widget.get_io_type()] if self._widget else []
            return ",".join(dict.fromkeys(own + [t.io_type for t in self._types]))

        def as_dict(self) -> dict[str, Any]:
            return super().as_dict() | (self._widget.as_dict() if self._widget else {})


def describe(inputs: list[Input]) -> dict[str, dict[str, Any]]:
    """Inputs as the frontend receives them: `{"required": {id: (type, options)}, ...}`."""
    described: dict[str, dict[str, Any]] = {"required": {}}
    for i in inputs:
        group = described.setdefault("optional" if i.optional else "required", {})
        group[i.id] = (i.get_io_type(), i.as_dict())
    return described
