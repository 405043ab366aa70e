"""Our stand-in for ComfyUI's `io`: how a node describes itself, for life without ComfyUI.

Inside ComfyUI this file is never used; `from ..host import io` gives ComfyUI's own. The types and
widgets are in `inputs.py`, the pictures and texts shown on a node in `results.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from .dynamic import Autogrow, DynamicCombo
from .inputs import (
    AnyType,
    Boolean,
    Clip,
    ClipVision,
    Combo,
    ComfyType,
    Conditioning,
    ControlNet,
    Custom,
    DynamicInput,
    Float,
    FolderType,
    Image,
    Input,
    Int,
    Latent,
    LoraModel,
    LossMap,
    Mask,
    Model,
    MultiCombo,
    MultiType,
    NumberDisplay,
    Output,
    String,
    UploadType,
    Vae,
    WidgetInput,
    describe,
)

__all__ = [
    "AnyType",
    "Autogrow",
    "Boolean",
    "Clip",
    "ClipVision",
    "Combo",
    "ComfyExtension",
    "ComfyNode",
    "ComfyType",
    "Conditioning",
    "ControlNet",
    "Custom",
    "DynamicCombo",
    "DynamicInput",
    "Float",
    "FolderType",
    "Hidden",
    "HiddenHolder",
    "Image",
    "Input",
    "Int",
    "Latent",
    "LoraModel",
    "LossMap",
    "Mask",
    "Model",
    "MultiCombo",
    "MultiType",
    "NodeOutput",
    "NumberDisplay",
    "Output",
    "Schema",
    "String",
    "UploadType",
    "Vae",
    "WidgetInput",
]


class Hidden(str, Enum):
    """What a node may ask to be told besides its inputs; found in `cls.hidden` while it runs."""

    unique_id = "UNIQUE_ID"
    prompt = "PROMPT"
    extra_pnginfo = "EXTRA_PNGINFO"


@dataclass
class HiddenHolder:
    """The answers. `None` for what the node did not ask for."""

    unique_id: str | None = None
    """The node's id, a string such as `"7"` or, inside subgraphs, `"1:2:3"`."""
    prompt: dict[str, Any] | None = None
    """The whole workflow in API format."""
    extra_pnginfo: dict[str, Any] | None = None
    """What is written into saved pictures, above all `workflow`."""


@dataclass
class Schema:
    """A node's description of itself; ids never change once released.

    ComfyUI refuses fields that it does not know: one that is newer than our floor must not be here.
    """

    node_id: str
    display_name: str | None = None
    category: str = "sd"
    inputs: list[Input] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    hidden: list[Hidden] = field(default_factory=list)
    description: str = ""
    search_aliases: list[str] = field(default_factory=list)
    """Other words under which the node is found (ComfyUI 0.11)."""
    is_input_list: bool = False
    is_output_node: bool = False
    is_deprecated: bool = False
    is_experimental: bool = False
    not_idempotent: bool = False

    def validate(self) -> None:
        """Check that ids are unique among the inputs, among the outputs and within each choice.

        Raises:
            ValueError: names the node and the ids.
        """
        groups = {"input": self.inputs, "output": self.outputs}
        for i in self.inputs:
            if isinstance(i, DynamicCombo.Input):
                groups |= {f'"{i.id}.{option.key}" input': option.inputs for option in i.options}
        for what, group in groups.items():
            twice = [id for id, count in Counter(i.id for i in group).items() if count > 1]
            if twice:
                raise ValueError(f"{self.node_id}: {what} ids must be unique, but {twice} are not.")

    def finalize(self) -> None:
        """Give outputs without an id one; let a node that saves something know the workflow."""
        if self.is_output_node:
            wanted = (Hidden.prompt, Hidden.extra_pnginfo)
            self.hidden = [*self.hidden, *(h for h in wanted if h not in self.hidden)]
        for index, output in enumerate(self.outputs):
            if output.id is None:
                output.id = f"_{index}_{output.io_type}_"

    def describe(self) -> dict[str, dict[str, Any]]:
        """All inputs as ComfyUI's `INPUT_TYPES` gives them."""
        described = describe(self.inputs)
        if self.hidden:
            described["hidden"] = {h.name: (h.value,) for h in self.hidden}
        return described

    def node_info(self, python_module: str | None) -> dict[str, Any]:
        """What ComfyUI's `/object_info` says about the node."""
        described = self.describe()
        return {
            "input": described,
            "input_order": {group: list(inputs) for group, inputs in described.items()},
            "is_input_list": self.is_input_list,
            "output": [o.io_type for o in self.outputs],
            "output_is_list": [o.is_output_list for o in self.outputs],
            "output_name": [o.display_name or o.io_type for o in self.outputs],
            "output_tooltips": [o.tooltip or None for o in self.outputs],
            "output_matchtypes": None,
            "name": self.node_id,
            "display_name": self.display_name,
            "description": self.description,
            "python_module": python_module,
            "category": self.category,
            "output_node": self.is_output_node,
            "has_intermediate_output": False,
            "deprecated": self.is_deprecated,
            "experimental": self.is_experimental,
            "dev_only": False,
            "api_node": False,
            "price_badge": None,
            "search_aliases": self.search_aliases or None,
            "essentials_category": None,
        }


class NodeOutput:
    """What a node returns: one value per output, and what to show on the node."""

    def __init__(self, *args: Any, ui: Any = None, block_execution: str | None = None) -> None:
        self.args = args
        self.ui = ui
        """A dictionary of lists, or something from `ui` that has `as_dict()`."""
        self.block_execution = block_execution
        """Set to stop everything downstream; a non-empty text is shown to the user."""

    @property
    def result(self) -> tuple[Any, ...] | None:
        return self.args or None

    def __getitem__(self, index: int) -> Any:
        return self.args[index]


class ComfyNode:
    """Base of all nodes: class methods only, no instances."""

    RELATIVE_PYTHON_MODULE: ClassVar[str | None] = None
    hidden: ClassVar[HiddenHolder] = HiddenHolder()

    @classmethod
    def define_schema(cls) -> Schema:
        """Describe the node; called often, so it must be quick."""
        raise NotImplementedError(f"{cls.__name__} has no define_schema.")

    @classmethod
    def execute(cls, **kwargs: Any) -> NodeOutput:
        """Do the work."""
        raise NotImplementedError(f"{cls.__name__} has no execute.")

    @classmethod
    def validate_inputs(cls, **kwargs: Any) -> bool | str:
        """True, or what is wrong.

        ComfyUI does not check bounds and choices of the inputs named here: that is up to you then.
        """
        raise NotImplementedError

    @classmethod
    def fingerprint_inputs(cls, **kwargs: Any) -> Any:
        """The node runs again when this differs from the last time."""
        raise NotImplementedError

    @classmethod
    def overrides(cls, method: str) -> bool:
        """Whether this class has its own `validate_inputs`, `fingerprint_inputs`, ..."""
        return getattr(cls, method).__func__ is not getattr(ComfyNode, method).__func__

    @classmethod
    def GET_SCHEMA(cls) -> Schema:
        """The finished, checked schema."""
        schema = cls.define_schema()
        schema.finalize()
        schema.validate()
        return schema

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, dict[str, Any]]:
        return cls.GET_SCHEMA().describe()

    @classmethod
    def GET_NODE_INFO_V1(cls) -> dict[str, Any]:
        return cls.GET_SCHEMA().node_info(cls.RELATIVE_PYTHON_MODULE)

    @classmethod
    def with_hidden(cls, hidden: HiddenHolder) -> type[ComfyNode]:
        """This node for one execution; the class itself stays untouched, so runs cannot mix."""
        return type(cls.__name__, (cls,), {"hidden": hidden, "__module__": cls.__module__})

    @classmethod
    def run(cls, hidden: HiddenHolder, **inputs: Any) -> NodeOutput:
        """Execute once.

        Raises:
            TypeError: `execute` did not return a `NodeOutput`.
        """
        returned: Any = cls.with_hidden(hidden).execute(**inputs)
        if not isinstance(returned, NodeOutput):
            kind = type(returned).__name__
            raise TypeError(f"{cls.__name__}.execute returned a {kind} instead of io.NodeOutput.")
        return returned


class ComfyExtension(ABC):
    """What `comfy_entrypoint` hands to ComfyUI."""

    async def on_load(self) -> None:  # noqa: B027
        """Called once, before the nodes are asked for."""

    @abstractmethod
    async def get_node_list(self) -> list[type[ComfyNode]]:
        """All nodes of the pack."""
