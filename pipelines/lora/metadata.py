"""What a LoRA file tells about itself: trigger words, base, steps, rank, method."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .signs import looks_like
from .source import LoraFile, open_lora

MANY = 8
"""So many tags of a tag list are shown, the most frequent first."""


@dataclass(frozen=True)
class LoraFacts:
    """Empty text, None where the file does not say. `words`: the tags it was trained with, the most
    frequent first. `rank`: the most frequent one. `base`: as the trainer called its base model.
    """

    title: str = ""
    trigger: str = ""
    words: tuple[str, ...] = ()
    base: str = ""
    made_for: str = ""
    steps: int | None = None
    rank: int | None = None
    alpha: float | None = None
    method: str = ""
    layers: int = 0

    def __str__(self) -> str:
        """One line for each thing that is known."""
        sizes = [f"rank {self.rank}" if self.rank else "", self._alpha()]
        method = ", ".join(text for text in (self.method, *sizes, f"{self.layers} layers") if text)
        lines = [
            ("Title", self.title),
            ("Trigger", self.trigger),
            ("Words", ", ".join(self.words)),
            ("Base", self.base),
            ("Looks made for", self.made_for),
            ("Steps", "" if self.steps is None else str(self.steps)),
            ("Method", method),
        ]
        return "\n".join(f"{name}: {text}" for name, text in lines if text)

    def _alpha(self) -> str:
        return "" if self.alpha is None else f"alpha {self.alpha:g}"


def lora_facts(path: str | Path) -> LoraFacts:
    """What a LoRA file tells about itself; its large tensors are not read.

    Raises:
        ValueError: the file is unreadable or no LoRA.
    """
    return facts_of(open_lora(path))


def facts_of(file: LoraFile) -> LoraFacts:
    """Our own metadata and `modelspec.*` first, then kohya's `ss_*`, then PEFT's, then shapes."""
    data = file.metadata
    words = _words(data)
    return LoraFacts(
        title=_first(data, "modelspec.title", "ss_output_name"),
        trigger=_first(data, "modelspec.trigger_phrase", "trigger_phrase", "ss_trigger_words"),
        words=words,
        base=_first(
            data,
            "ss_base_model_version",
            "ss_sd_model_name",
            "base_model",
            "modelspec.architecture",
        ),
        made_for=looks_like(file.file.shapes()),
        steps=_number(_first(data, "likeness.steps", "ss_steps", "ss_max_train_steps", "steps")),
        rank=_rank(file),
        alpha=_alpha(file),
        method=" + ".join(file.methods()),
        layers=len(file.layers),
    )


def _words(data: Mapping[str, str]) -> tuple[str, ...]:
    """The most frequent tags of kohya's `ss_tag_frequency`: folder → tag → how often."""
    counts: Counter[str] = Counter()
    for tags in _json(data.get("ss_tag_frequency", "")).values():
        if isinstance(tags, dict):
            counts.update({str(tag).strip(): n for tag, n in tags.items() if isinstance(n, int)})
    return tuple(tag for tag, _ in counts.most_common(MANY) if tag)


def _rank(file: LoraFile) -> int | None:
    shapes = file.file.shapes()
    ranks = [
        shapes[roles[role]][0]
        for roles in file.layers.values()
        for role in ("down", "hada_w1_b", "lokr_w2_b")
        if role in roles and shapes[roles[role]]
    ]
    if ranks:
        return Counter(ranks).most_common(1)[0][0]
    said = _first(file.metadata, "ss_network_dim")
    return _number(said)


def _alpha(file: LoraFile) -> float | None:
    """The alpha of the first layer that has one; a few bytes."""
    for layer, roles in file.layers.items():
        if "alpha" in roles:
            return float(file.file.tensor(roles["alpha"]))
        if (scaling := file.scaling(layer.partition(".")[0])) and (said := scaling.of(layer)):
            return said.alpha
    try:
        return float(_first(file.metadata, "ss_network_alpha"))
    except ValueError:
        return None


def _first(data: Mapping[str, str], *keys: str) -> str:
    return next(
        (data[key].strip() for key in keys if data.get(key, "").strip() not in ("", "None")), ""
    )


def _number(text: str) -> int | None:
    try:
        return int(float(text))
    except (ValueError, OverflowError):
        return None


def _json(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
