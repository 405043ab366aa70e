"""ControlNets at work, for the length of one drawing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..guidance import ControlUse, in_order
from .arguments import Net, arguments_for
from .describe import TITLES
from .fitting import check_together, check_uses, kind_of
from .load import Plan, loaded, plan
from .views import Limits, for_every_row, view

if TYPE_CHECKING:
    from ..loading import LivePipeline, Pipelines

__all__ = ["TITLES", "Controls", "controlled"]


@dataclass(frozen=True)
class Controls:
    """What is beside the denoiser.

    `kind`: one of `guidance.CONTROL_KINDS`, "" for nothing. `components`: what the diffusers
    pipeline is built with besides the base model (`{"controlnet": module}`). `nets`: what these
    are made of.
    """

    kind: str = ""
    components: Mapping[str, Any] = field(default_factory=dict)
    nets: tuple[Net, ...] = ()

    def arguments(
        self, pipeline: Any, size: tuple[int, int], rows: int, count: int
    ) -> dict[str, Any]:
        """What `pipeline` is called with besides the rest: control pictures fitted to `size`
        (width, height), one for each of `rows * count` drawn pictures, and how strong they are.

        Raises:
            ValueError: another number of control pictures than `rows`, or what this pipeline has no
                switch for.
        """
        if not self.kind:
            return {}
        # What is here belongs to no pipeline: one that offloads its models would change it.
        pipeline._exclude_from_cpu_offload = [
            *type(pipeline)._exclude_from_cpu_offload,
            *self.components,
        ]
        return arguments_for(self.nets, pipeline, size, rows, count)


@contextmanager
def controlled(
    pipelines: Pipelines, live: LivePipeline, uses: Sequence[ControlUse]
) -> Iterator[Controls]:
    """The ControlNets of `uses` in memory; `live` and what is kept of them stay as they are.

    Raises:
        ValueError: one that does not fit the base model, or kinds that cannot work together.
    """
    if not uses:
        yield Controls()
        return
    kind = kind_of(uses, live)
    check_uses(uses)
    ordered = in_order(uses)
    plans = {use.control.identity: plan(pipelines, use.control, live) for use in ordered}
    check_together(ordered, list(plans.values()))
    with ExitStack() as opened:
        opened.enter_context(_own_randomness(live.device))
        modules = {
            identity: opened.enter_context(loaded(pipelines, found))
            for identity, found in plans.items()
        }
        nets = tuple(
            _net(group, plans[group[0].control.identity], modules[group[0].control.identity])
            for group in _groups(ordered, plans)
        )
        name = "adapter" if kind == "t2i-adapter" else "controlnet"
        yield Controls(kind, {name: _together(nets)}, nets)


def _groups(uses: Sequence[ControlUse], plans: Mapping[str, Plan]) -> list[tuple[ControlUse, ...]]:
    """Uses that go through a ControlNet at once: all of one union's, where they are limited alike;
    otherwise each for itself.
    """
    together = {(use.control.identity, use.mask, use.blocks) for use in uses}
    merges = all(found.class_name == "ControlNetUnionModel" for found in plans.values())
    return [tuple(uses)] if merges and len(together) == 1 else [(use,) for use in uses]


def _net(uses: tuple[ControlUse, ...], found: Plan, module: Any) -> Net:
    """A module for these uses; a view where anything has to be put on it."""
    first = uses[0]
    borrows = found.config.get("use_pos_embed") is False  # diffusers puts the base's positions on
    mode = found.class_name == "FluxControlNetModel" and bool(first.control.modes)
    limits = Limits(first.blocks) if first.blocks or first.mask else None
    if limits or borrows or mode:
        module = view(module)
    if limits:
        module.register_forward_hook(limits)
    if mode:
        module.register_forward_pre_hook(for_every_row, with_kwargs=True)
    return Net(uses, found, module, limits)


def _together(nets: tuple[Net, ...]) -> Any:
    """One module for the pipeline, or a list, which it makes one of itself."""
    modules = [net.module for net in nets]
    if len(modules) == 1:
        return modules[0]
    if nets[0].found.class_name == "T2IAdapter":  # SDXL's pipeline takes no list
        from diffusers import MultiAdapter

        return MultiAdapter(modules)
    return modules


@contextmanager
def _own_randomness(device: str) -> Iterator[None]:
    """torch's global random numbers as they were when the block ends: making modules uses some, and
    so does SD 3's pipeline.
    """
    import torch

    devices = [device] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices):
        yield
