"""From the layers that a LoRA file names to changes of the modules of a live model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .changes import Change
from .keys import LayerNames, Target
from .parts import Broken, change_from
from .rows import assemble
from .signs import looks_like
from .source import LoraFile, open_lora, sort_keys

if TYPE_CHECKING:
    import torch

    from ..loading import LivePipeline

log = logging.getLogger(__name__)

ENOUGH = 0.9
"""The share of a file's weights that must fit, for it to be used at all."""

LoraWeights = dict[str, dict[str, Change]]
"""Pipeline component (`"unet"`, `"text_encoder"`) → module path in it → its change."""


@dataclass
class Match:
    """Which layers of a file are ours. `unmatched`: keys that nothing here is called by."""

    file: LoraFile
    places: dict[str, Target] = field(default_factory=dict)
    unmatched: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    @property
    def is_enough(self) -> bool:
        matched = sum(len(self.file.layers[layer]) for layer in self.places)
        return matched > 0 and matched >= ENOUGH * (matched + len(self.unmatched))


def read_lora(path: str | Path, live: LivePipeline) -> LoraWeights:
    """The changes of a LoRA file, matched to the modules of `live`, which stay as they are.

    Raises:
        ValueError: the file is unreadable, incomplete, holds NaN, or its layers do not fit this
            model; says how many and which.
    """
    file = open_lora(path)
    match = _match(file, live)
    if not match.is_enough:
        converted = _converted(file, live)
        match = converted if converted and converted.is_enough else match
    if not match.is_enough:
        _refuse(match, live)
    _tell(match)
    return _changes(match, live)


def _match(file: LoraFile, live: LivePipeline) -> Match:
    names = LayerNames(live)
    match = Match(file, unmatched=list(file.unknown))
    folder = file.path.parent.name  # PEFT's files of several components lie in folders
    hint = folder if file.path.stem == "adapter_model" and hasattr(live.pipeline, folder) else ""
    for layer, roles in file.layers.items():
        target = names.find(layer, hint)
        if target is not None:
            match.places[layer] = target
        elif names.is_absent(layer):
            match.absent += roles.values()
        else:
            match.unmatched += roles.values()
    return match


def _converted(file: LoraFile, live: LivePipeline) -> Match | None:
    """The file under the names that diffusers' own converters give it, for plain LoRAs that our
    names do not know. None if they do not know it either.
    """
    reader = getattr(type(live.pipeline), "lora_state_dict", None)
    if reader is None or set(file.methods()) != {"LoRA"}:
        return None
    tensors = {key: file.file.tensor(key) for key in file.file.shapes()}
    try:
        converted = reader(dict(tensors))
    except Exception as error:  # the converters promise no particular ones
        log.debug("diffusers' converters do not know %s: %s", file.path, error)
        return None
    state, alphas = converted if isinstance(converted, tuple) else (converted, None)
    if alphas or _alpha_matters(file):
        return None  # what the converters do with an alpha differs between them: never lose one
    source = sort_keys(file.path, _Converted(state), {})
    return _match(source, live) if source.layers else None


def _alpha_matters(file: LoraFile) -> bool:
    for roles in file.layers.values():
        if "alpha" in roles and "down" in roles:
            rank = file.file.shapes()[roles["down"]][0]
            if float(file.file.tensor(roles["alpha"])) != rank:
                return True
    return False


@dataclass(frozen=True)
class _Converted:
    """Tensors in memory, in the place of a file."""

    state: Mapping[str, torch.Tensor]

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {key: tuple(tensor.shape) for key, tensor in self.state.items()}

    def tensor(self, name: str) -> torch.Tensor:
        return self.state[name]


def _refuse(match: Match, live: LivePipeline) -> None:
    keys = match.unmatched or match.absent
    shapes = match.file.file.shapes()
    known = {key: shape for key, shape in shapes.items() if key in set(keys)}
    total = len(shapes) - len(match.file.aside)
    raise ValueError(
        f"{match.file.path} does not fit {live.base.path}: {len(keys)} of its {total} weights "
        f"match nothing in this {live.family.title} model, such as {keys[0]!r}; it looks made for "
        f"{looks_like(known)}"
    )


def _tell(match: Match) -> None:
    for what, keys in (
        ("match nothing", match.unmatched),
        ("are for a part that this model lacks", match.absent),
        ("are no weights of the model (load the embedding by itself)", match.file.aside),
    ):
        if keys:
            log.warning("%s: %d weights %s: %s", match.file.path, len(keys), what, list(keys[:10]))


def _changes(match: Match, live: LivePipeline) -> LoraWeights:
    """Every layer's change, cut and put together to fit our modules."""
    pieces: dict[tuple[str, str], list[tuple[str, Change, tuple[int, int] | None]]] = {}
    for layer, target in match.places.items():
        change = _change(match.file, layer, target, live)
        for rows in target.rows:
            part = change
            if rows.source is not None:
                cut = partial(change.rows, *rows.source)
                part = _explained(match.file, layer, cut)
            pieces.setdefault((target.attribute, rows.module), []).append(
                (layer, part, rows.target)
            )
    weights: LoraWeights = {}
    for (attribute, module), parts in pieces.items():
        weights.setdefault(attribute, {})[module] = _fitted(
            match.file, attribute, module, parts, live
        )
    return weights


def _change(file: LoraFile, layer: str, target: Target, live: LivePipeline) -> Change:
    """One layer as the file has it. Its shape is that of our module where it is one module."""
    scaling = file.scaling(target.attribute)
    configured = scaling.of(layer) if scaling else None
    parts = file.parts(layer)
    change = _explained(file, layer, lambda: change_from(parts, configured))
    rows = sum(r.source[1] - r.source[0] if r.source else 0 for r in target.rows)
    shape = _shape(live, target.attribute, target.rows[0].module)
    if rows:
        shape = (rows, *shape[1:])
    fitted = change.shaped(shape)
    if fitted is None:
        name = f"{target.attribute}.{target.rows[0].module}"
        raise ValueError(
            f"{file.path} does not fit {live.base.path}: {name} has the shape {shape} here, the "
            f"LoRA changes {change.shape}; it was trained on another model and looks made for "
            f"{looks_like(file.file.shapes())}"
        )
    _check_bias(file, layer, fitted, shape[0])
    return fitted


def _fitted(
    file: LoraFile,
    attribute: str,
    module: str,
    parts: list[tuple[str, Change, tuple[int, int] | None]],
    live: LivePipeline,
) -> Change:
    shape = _shape(live, attribute, module)
    kept: list[tuple[Change, int, int]] = []
    for layer, change, rows in parts:
        start, stop = rows or (0, shape[0])
        others = [other for other, a, b in kept if a < stop and start < b]
        if others and _same(others, change):
            log.info("%s holds %s.%s twice, with the same numbers", file.path, attribute, module)
            continue
        if others:
            raise ValueError(
                f"{file.path} changes {attribute}.{module} twice, as {parts[0][0]!r} and "
                f"{layer!r}; it was put together from two files, keep one of them"
            )
        kept.append((change, start, stop))
    whole = assemble(kept, shape)
    if whole.bias is not None and live.component(attribute).get_submodule(module).bias is None:
        raise ValueError(
            f"{file.path} does not fit {live.base.path}: it changes the bias of {attribute}."
            f"{module}, which has none here"
        )
    return whole


def _same(others: list[Change], change: Change) -> bool:
    """Whether a layer that a file has under two names is the same both times."""
    import torch

    if len(others) > 1 or others[0].needs_weight or change.needs_weight:
        return False
    if others[0].shape != change.shape:
        return False
    nothing = torch.zeros(1).expand(change.shape)
    return torch.equal(others[0].delta(nothing), change.delta(nothing))


def _explained(file: LoraFile, layer: str, make: Callable[[], Change]) -> Change:
    """`make()`, with the file and the layer named when it fails."""
    try:
        return make()
    except Broken as error:
        raise ValueError(f"{file.path} is incomplete: {layer} {error}") from error
    except ValueError as error:
        raise ValueError(f"{file.path} cannot be used here: {layer}: {error}") from error


def _shape(live: LivePipeline, attribute: str, module: str) -> tuple[int, ...]:
    weight = live.component(attribute).get_submodule(module).weight
    return tuple(cast("torch.Tensor", weight).shape)


def _check_bias(file: LoraFile, layer: str, change: Change, rows: int) -> None:
    if change.bias is not None and change.bias.shape != (rows,):
        raise ValueError(
            f"{file.path} does not fit: {layer} changes a bias of {tuple(change.bias.shape)} where "
            f"the model has {rows} outputs"
        )
