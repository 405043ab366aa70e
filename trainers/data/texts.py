"""Captions as the denoiser sees them: where the text side does not learn, each is encoded once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...pipelines.loading import LivePipeline, resolve_dtype
from ...pipelines.spec import PipelineSpec
from ..job import model_identity
from ..settings import PriorSettings, TrainingSettings
from .cache import Cache, Records, Tell
from .captions import tag_orders
from .keys import Keys
from .sample import Sample

if TYPE_CHECKING:
    from torch import Tensor

    from ...families import Conditioning


class EncodedTexts:
    """The conditioning of single captions, batch of one, on the CPU; read when it is asked for.

    `records`: one for each of `texts`, which are distinct.
    """

    def __init__(self, texts: Iterable[str], records: Records) -> None:
        self._texts, self._records = Keys(texts), records

    def __getitem__(self, text: str) -> Conditioning:
        return _conditioning(self._records[self._texts.number_of(text)])


def texts_of(
    yours: Iterable[Sample], priors: Sequence[PriorSettings], settings: TrainingSettings
) -> dict[str, Sample | None]:
    """Every text that a training on these samples may ask for; with the sample that brings its
    conditioning along, if one does.
    """
    texts: dict[str, Sample | None] = {}
    for sample in yours:
        if sample.encoded is not None:
            texts[sample.lookup] = sample
            continue
        texts[sample.caption] = None
        if settings.shuffle_tags:
            texts |= dict.fromkeys(tag_orders(sample.caption))
    texts |= dict.fromkeys(prior.class_prompt for prior in priors)
    if settings.caption_dropout:
        texts[""] = None
    return texts


def encode_texts(
    live: LivePipeline,
    spec: PipelineSpec,
    texts: Mapping[str, Sample | None],
    cache: Cache,
    tell: Tell,
) -> EncodedTexts:
    """Each text once, alone. `spec`: what is on `live` right now."""
    names = list(texts)
    template = _template(live, texts) if any(texts.values()) else None

    def make(number: int) -> dict[str, Tensor]:
        sample = texts[names[number]]
        if sample is not None and sample.encoded is not None:
            assert template is not None
            return _record(sample.encoded.conditioning(template, live.family.title))
        return _record(_encode(live, names[number]))

    identity = {
        **model_identity(spec),
        "computed in": str(resolve_dtype(spec.base.dtype, live.device)),
        "device": live.device.partition(":")[0],
    }
    keys = (_key(live, name) for name in names)
    return EncodedTexts(names, cache.collect("texts", identity, keys, make, tell))


def _encode(live: LivePipeline, text: str) -> Conditioning:
    import torch

    with torch.no_grad():
        return live.family.encode_text(live.pipeline, [text])


def _template(live: LivePipeline, texts: Mapping[str, Sample | None]) -> Conditioning:
    """A text as the family encodes it.

    Raises:
        ValueError: it is of another length than those encoded already, and both are asked for.
    """
    template = _encode(live, "")
    given = [each.encoded.tensors() for each in texts.values() if each and each.encoded]
    lengths = {len(tensors["embeddings"]) for tensors in given}
    ours = template.embeddings.shape[1]
    if lengths != {ours} and not all(texts.values()):
        raise ValueError(
            f"the encoded captions are {sorted(lengths)} tokens long and those that "
            f"{live.family.title} encodes here {ours}, which cannot share a batch: train without "
            "class images and with a caption_dropout of 0"
        )
    return template


def _key(live: LivePipeline, text: str) -> str:
    """Also by the tokens, since a tokenizer can be taught words without any change of the model."""
    tokens = [
        list(part(text)["input_ids"])
        for name, part in sorted(live.pipeline.components.items())
        if name.startswith("tokenizer") and part is not None
    ]
    return json.dumps([text, tokens])


def _record(conditioning: Conditioning) -> dict[str, Tensor]:
    """One row's tensors; extras keep their place by a number, names their order."""
    record = {"embeddings": conditioning.embeddings}
    record |= {f"{place} {name}": part for place, (name, part) in enumerate(conditioning.extra)}
    return {name: part[0].detach().cpu().contiguous() for name, part in record.items()}


def _conditioning(record: dict[str, Tensor]) -> Conditioning:
    from ...families import Conditioning

    extra: list[tuple[Any, str, Tensor]] = []
    for key, part in record.items():
        place, _, name = key.partition(" ")
        if name:
            extra.append((int(place), name, part[None]))
    extra.sort(key=lambda each: each[0])
    return Conditioning(record["embeddings"][None], tuple((name, part) for _, name, part in extra))
