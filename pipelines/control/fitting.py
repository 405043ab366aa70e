"""What can be asked of ControlNets, together and beside a base model; told before any is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...families import family_named
from ...families.family import CONTROLNET, UNION
from ..guidance import ControlUse
from .describe import TITLES
from .load import Plan
from .pictures import check_mask

if TYPE_CHECKING:
    from ..loading import LivePipeline


def kind_of(uses: Sequence[ControlUse], live: LivePipeline) -> str:
    """The kind of all of them, which decides on the pipeline.

    Raises:
        ValueError: one is for another family, they are of kinds that do not mix, or this base model
            cannot be steered by them.
    """
    for use in uses:
        if use.control.family != live.family.name:
            made_for = family_named(use.control.family).title
            raise ValueError(
                f"the {TITLES[use.control.kind]} {use.control.name!r} is for {made_for} and the "
                f"base model is {live.family.title}; choose one that is made for it"
            )
    kinds = sorted({use.control.kind for use in uses})
    ways = {kind: live.family.guided_tasks(live.pipeline, kind) for kind in kinds}
    if len(kinds) > 1 and not (kinds == [CONTROLNET, UNION] and ways[CONTROLNET] == ways[UNION]):
        names = ", ".join(f"{use.control.name!r} ({TITLES[use.control.kind]})" for use in uses)
        raise ValueError(
            f"{names} cannot work together: diffusers has a pipeline for either kind alone; use "
            "one kind, or draw with one and start the next picture from that"
        )
    if not ways[kinds[0]]:
        raise ValueError(
            f"this {live.family.title} model cannot be steered by a {TITLES[kinds[0]]}; leave "
            f"{uses[0].control.name!r} out, or choose another base model"
        )
    return kinds[0]


def check_uses(uses: Sequence[ControlUse]) -> None:
    """Raises:
    ValueError: a mask that does not fit its picture, or a span that a T2I-Adapter cannot have.
    """
    for use in uses:
        check_mask(use)
        if use.control.kind == "t2i-adapter" and use.start > 0:
            raise ValueError(
                f"start {use.start:g} cannot be used with the T2I-Adapter {use.control.name!r}: "
                "it acts from the first step on; use 0"
            )


def check_together(uses: Sequence[ControlUse], plans: Sequence[Plan]) -> None:
    """Raises:
    ValueError: settings that diffusers has one switch for, and that differ.
    """
    for entry in plans[0].architecture.alike:
        values = {found.control.name: found.config.get(entry) for found in plans}
        if len({repr(value) for value in values.values()}) > 1:
            each = ", ".join(f"{value} in {name!r}" for name, value in values.items())
            raise ValueError(
                f"these ControlNets cannot work together: diffusers asks the first one for "
                f"{entry} and takes it for all, which is {each}; use one of them"
            )
    by_identity = {found.control.identity: found for found in plans}
    guesses = [(use, use.guess or by_identity[use.control.identity].pools) for use in uses]
    if len({on for _, on in guesses}) > 1:
        each = ", ".join(f"{'on' if on else 'off'} for {u.control.name!r}" for u, on in guesses)
        raise ValueError(
            f"guess mode is {each}, and diffusers has one switch for all (one that tells of the "
            "whole picture at once, as shuffle does, has it on by itself); set all alike"
        )
    for use in uses:
        count = by_identity[use.control.identity].outputs
        if use.blocks and len(use.blocks) != count:
            raise ValueError(
                f"{len(use.blocks)} factors for the blocks of {use.control.name!r}, which has "
                f"{count} outputs; give as many"
            )
