"""ControlNets in memory: as modules of diffusers, shared by all drawings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..guidance import ControlNet
from ..loading import file_versions, resolve_dtype
from ..modules import build_from
from .architecture import Architecture
from .sd3 import CONTROL_TYPE
from .source import Source, identity_of, open_control

if TYPE_CHECKING:
    import torch

    from ..loading import LivePipeline, Pipelines

_EDGES = 1


@dataclass(frozen=True)
class Plan:
    """A ControlNet that fits the base model, found and checked but not loaded.

    `config`: its whole diffusers configuration. `numbers`: in all its tensors. `outputs`: how many
    residuals it gives. `edges`: whether it is Stability's for edges, whose pictures are not scaled
    to -1..1.
    """

    control: ControlNet
    architecture: Architecture
    class_name: str
    config: dict[str, Any]
    dtype: torch.dtype
    numbers: int
    outputs: int
    edges: bool

    @property
    def pools(self) -> bool:
        """Whether it tells one thing of the whole picture, which is guess mode in diffusers."""
        return bool(self.config.get("global_pool_conditions"))


def plan(pipelines: Pipelines, control: ControlNet, live: LivePipeline) -> Plan:
    """Find the files of `control` and compare it with the base model; no weight is read, and the
    second time nothing is.

    Raises:
        ValueError: it does not fit, or its files are gone or others than when it was chosen.
    """
    if identity_of(control.path) != control.identity:
        raise ValueError(
            f"the files of the ControlNet {control.name!r} have changed since it was chosen "
            f"({control.path}); run the graph again"
        )
    key = ("control", control, live.base, file_versions(live.base))
    return pipelines.remembered.get(key, lambda: _plan(control, live))


@contextmanager
def loaded(pipelines: Pipelines, found: Plan) -> Iterator[torch.nn.Module]:
    """The ControlNet on the device; nobody may change it.

    Raises:
        ValueError: its tensors are not those of its class.
    """
    kind = ("diffusers", found.class_name)
    config = json.dumps(found.config, sort_keys=True, default=list)
    key = ("control", found.control.identity, found.class_name, config, found.dtype)

    def load() -> torch.nn.Module:
        source = open_control(found.control.path, found.dtype)
        where = f"the ControlNet {source.path}"
        return build_from(kind, found.config, source.tensors(), where, found.dtype)

    with pipelines.open_helper(key, load, found.numbers * found.dtype.itemsize) as module:
        yield module


def _plan(control: ControlNet, live: LivePipeline) -> Plan:
    dtype = resolve_dtype(live.base.dtype, live.device)
    source = open_control(control.path, dtype)
    denoiser: Any = live.component(live.family.denoiser.attribute)
    config = source.config(denoiser.config)
    source.architecture.check(control.name, config, live)
    return Plan(
        control,
        source.architecture,
        source.found.class_name,
        config,
        dtype,
        numbers=sum(math.prod(shape) for shape in source.shapes.values()),
        outputs=source.architecture.outputs(source.shapes),
        edges=_reads_edges_anew(source),
    )


def _reads_edges_anew(source: Source) -> bool:
    name = source.found.prefix + CONTROL_TYPE
    told = [file.tensor(name) for file in source.files if name in file.shapes()]
    return any(round(value.float().max().item()) == _EDGES for value in told)
