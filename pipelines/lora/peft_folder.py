"""PEFT's own folders: what `adapter_config.json` has to say about tensors that we wrote."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .changes import Change
from .dora import Dora
from .layouts import Inexpressible
from .lycoris import LoHa, LoKr

if TYPE_CHECKING:
    from peft import PeftConfig


def write_config(folder: Path, changes: Mapping[str, Change]) -> None:
    """`adapter_config.json` for one component: module path → change. Factors are in the weights, so
    alpha is the rank everywhere.

    Raises:
        Inexpressible: one PEFT adapter cannot be all of these at once.
    """
    kinds = {_kind(change) for change in changes.values()}
    if len(kinds) > 1:
        raise Inexpressible(
            f"one PEFT adapter is of one method, and this holds {' and '.join(sorted(kinds))}; "
            "choose the layout 'kohya'"
        )
    folder.mkdir(parents=True, exist_ok=True)
    config(kinds.pop(), changes).save_pretrained(str(folder))


def config(kind: str, changes: Mapping[str, Change]) -> PeftConfig:
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    ranks = {module: _rank(change) for module, change in changes.items()}
    common = Counter(ranks.values()).most_common(1)[0][0]
    patterns = {f"^{re.escape(m)}": rank for m, rank in ranks.items() if rank != common}
    modules = "|".join(map(re.escape, changes))
    shared: dict[str, Any] = {"r": common, "rank_pattern": patterns, "target_modules": modules}
    alphas: dict[str, Any] = {"alpha_pattern": dict(patterns)}
    if kind == "LoHa":
        tucker = _all_or_none(changes, "hada_t1")
        return LoHaConfig(**shared, **alphas, alpha=common, use_effective_conv2d=tucker)
    if kind == "LoKr":
        return LoKrConfig(
            **shared,
            **alphas,
            alpha=common,
            use_effective_conv2d=_all_or_none(changes, "lokr_t2"),
            decompose_both=any("lokr_w1_a" in _tensors(c) for c in changes.values()),
            decompose_factor=_decompose_factor(changes),
        )
    return LoraConfig(**shared, **alphas, lora_alpha=common, use_dora=kind == "DoRA")


def _kind(change: Change) -> str:
    if isinstance(change, (LoHa, LoKr)):
        return type(change).__name__
    return "DoRA" if isinstance(change, Dora) else "LoRA"


def _rank(change: Change) -> int:
    if isinstance(change, LoKr):
        # PEFT keeps a factor whole where the rank would not make it smaller.
        return change.rank or max(max(change.tensors["lokr_w2"].shape[:2]), 1)
    if isinstance(change, LoHa):
        return change.rank
    plain = change.inner if isinstance(change, Dora) else change
    parts = plain.low_rank()
    assert parts is not None, "name_tensors refused it before"
    return parts[0].shape[0]


def _tensors(change: Change) -> Mapping[str, Any]:
    return change.tensors if isinstance(change, (LoHa, LoKr)) else {}


def _all_or_none(changes: Mapping[str, Change], name: str) -> bool:
    """Whether convolutions are kept as Tucker products: PEFT knows one answer for all of them."""
    answers = {
        name in _tensors(change)
        for change in changes.values()
        if len(change.shape) == 4
        and change.shape[2:] != (1, 1)
        and "lokr_w2" not in _tensors(change)
    }
    if len(answers) > 1:
        raise Inexpressible(
            "PEFT keeps all convolutions as Tucker products or none; choose the layout 'kohya'"
        )
    return answers.pop() if answers else False


def _decompose_factor(changes: Mapping[str, Change]) -> int:
    """The setting from which PEFT finds the same sizes of w1 and w2 for every layer."""
    from peft.tuners.lokr.layer import factorization

    sizes = []
    for change in changes.values():
        tensors = _tensors(change)
        one = tensors.get("lokr_w1")
        left = (
            one.shape
            if one is not None
            else (
                tensors["lokr_w1_a"].shape[0],
                tensors["lokr_w1_b"].shape[1],
            )
        )
        sizes += [(change.shape[0], left[0]), (change.shape[1], left[1])]
    for candidate in [-1, *sorted({left for _, left in sizes})]:
        if all(factorization(size, candidate)[0] == left for size, left in sizes):
            return candidate
    raise Inexpressible(
        "PEFT would divide the layers of this LoKr otherwise than they are; "
        "choose the layout 'kohya'"
    )
