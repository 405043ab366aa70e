"""A tiny CLIP: its image encoder serves IP-Adapter, and both towers together can score pictures.

A contrastive loss alone learns colours and backgrounds and stays blind to shape, so both towers
must also name what is in the picture (noun, colour, background, a monster's details).
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING

from draw import NOUNS
from judge import QUESTIONS, right_indices, split
from palette import COLORS
from pictures import HELD_OUT, pixels, shown, signed
from text_tower import WIDTH, earlier_weights, text_shape
from training import note, train
from words import caption

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import CLIPModel, CLIPTokenizer

BATCH = 64
CAPTIONS = 3
LONGEST = 32  # tokens, of a caption of ours; shorter is faster
NAMING_WEIGHT = 0.5


def new_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "image_size": 64,
        "patch_size": 8,
        "hidden_size": 96,
        "intermediate_size": 288,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
    }
    config = CLIPConfig(
        text_config=text_shape(tokenizer), vision_config=vision, projection_dim=WIDTH
    )
    model = CLIPModel(config)
    for part in (model.config, model.config.text_config, model.config.vision_config):
        part._attn_implementation = "eager"  # its backward pass is faster on a CPU
    return model


def go_on_from(start: Path, clip: CLIPModel, tokenizer: CLIPTokenizer) -> None:
    """Takes an earlier image encoder, and the text encoder of the base beside it."""
    import torch
    from transformers import CLIPVisionModelWithProjection

    encoder = CLIPVisionModelWithProjection.from_pretrained(
        start / "image_encoder", dtype=torch.float32
    )
    text = earlier_weights(start / "base", tokenizer, clip.text_model.state_dict())
    clip.load_state_dict(encoder.state_dict(), strict=False)
    clip.text_model.load_state_dict(text)


def of_pictures(clip: CLIPModel, pictures: Tensor) -> Tensor:
    """(N, 128), unit length."""
    from torch.nn import functional

    return functional.normalize(
        clip.visual_projection(clip.vision_model(pictures).pooler_output), dim=-1
    )


def of_words(clip: CLIPModel, ids: Tensor) -> Tensor:
    """(N, 128), unit length."""
    from torch.nn import functional

    return functional.normalize(
        clip.text_projection(clip.text_model(input_ids=ids).pooler_output), dim=-1
    )


def train_clip(
    work: Path, *, steps: int = 3000, minutes: float | None = None, start: Path | None = None
) -> None:
    import torch
    from torch.nn import functional
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer")
    data, pictures = pixels(work), shown(work)
    right, rng = right_indices(pictures), random.Random(11)
    texts = [caption(p, rng, full=i == 0) for p in pictures for i in range(CAPTIONS)]
    ids = tokenizer(texts, padding="max_length", max_length=LONGEST, return_tensors="pt").input_ids
    ids = ids.view(-1, CAPTIONS, LONGEST)

    def loss(modules: nn.ModuleDict, generator: torch.Generator) -> Tensor:
        clip = modules["clip"]
        chosen = torch.randint(len(data) - HELD_OUT, (BATCH,), generator=generator)
        words = ids[chosen, torch.randint(CAPTIONS, (BATCH,), generator=generator)]
        shift = tuple(torch.randint(-3, 4, (2,), generator=generator).tolist())
        seen = signed(data[chosen]).roll(shift, (2, 3))
        seen = seen + 0.03 * torch.randn(seen.shape, generator=generator)
        image, text = of_pictures(clip, seen), of_words(clip, words)
        likeness = clip.logit_scale.exp().clamp(max=100) * image @ text.T
        same = (
            (words[:, None] == words[None]).all(-1).float()
        )  # equal captions are each other's positives
        target = same / same.sum(1, keepdim=True)
        value = (
            functional.cross_entropy(likeness, target)
            + functional.cross_entropy(likeness.T, target)
        ) / 2
        named = split(modules["names"](10 * image))
        for i, part in enumerate(named.values()):
            wrong = (
                functional.cross_entropy(part, right[chosen, i], ignore_index=-100, reduction="sum")
                / BATCH
            )
            value = value + NAMING_WEIGHT * wrong
        return value + NAMING_WEIGHT * functional.cross_entropy(
            modules["nouns"](10 * text), right[chosen, 0]
        )

    clip = new_clip(tokenizer)
    if start:
        go_on_from(start, clip, tokenizer)
    answers = sum(len(options) for options in QUESTIONS.values())
    names, nouns = torch.nn.Linear(WIDTH, answers), torch.nn.Linear(WIDTH, len(NOUNS))
    modules = torch.nn.ModuleDict({"clip": clip, "names": names, "nouns": nouns})
    modules.train()
    made = train(work, "clip", modules, loss, steps=steps, rate=1e-3, minutes=minutes, warm_up=200)
    made["clip"].save_pretrained(work / "clip")
    save_image_encoder(work, made["clip"])
    note(
        work,
        "clip",
        started_from_earlier=start is not None,
        **facts(
            made["clip"], tokenizer, data[-HELD_OUT:], ids[-HELD_OUT:, 0], pictures[-HELD_OUT:]
        ),
    )


def save_image_encoder(work: Path, clip: CLIPModel) -> None:
    """The vision tower alone, as IP-Adapter wants it, and the matching preprocessor."""
    from transformers import CLIPImageProcessor, CLIPVisionModelWithProjection

    encoder = CLIPVisionModelWithProjection(clip.config.vision_config)
    known = clip.state_dict()
    encoder.load_state_dict({k: known[k] for k in encoder.state_dict()})
    encoder.save_pretrained(work / "image_encoder")
    half = [0.5, 0.5, 0.5]
    processor = CLIPImageProcessor(
        size={"shortest_edge": 64},
        crop_size={"height": 64, "width": 64},
        image_mean=half,
        image_std=half,
    )
    processor.save_pretrained(work / "feature_extractor")


def facts(
    clip: CLIPModel, tokenizer: CLIPTokenizer, data: Tensor, ids: Tensor, pictures: list
) -> dict[str, float]:
    """Held-out: a picture's own caption among 500; noun and colour named by prompts alone."""
    import torch

    def prompts(texts: list[str]) -> Tensor:
        return of_words(
            clip,
            tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt").input_ids,
        )

    with torch.no_grad():
        image, text = of_pictures(clip, signed(data)), of_words(clip, ids)
        found = (image[:500] @ text[:500].T).argmax(1) == torch.arange(500)
        guess = (image @ prompts([f"a photo of a {noun}" for noun in NOUNS]).T).argmax(1).tolist()
        noun = sum(NOUNS[g] == p.noun for g, p in zip(guess, pictures, strict=True)) / len(pictures)
        colors, seen = list(COLORS), 0
        for i, p in enumerate(pictures[:300]):
            asked = prompts([f"a photo of a {c} {p.noun}" for c in colors])
            seen += colors[int((asked @ image[i]).argmax())] == p.color
    return {
        "caption_of_500": round(found.float().mean().item(), 3),
        "noun": round(noun, 3),
        "color": round(seen / 300, 3),
    }
