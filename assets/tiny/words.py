"""Captions of pictures, and a CLIP tokenizer that knows their words."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

from draw import NOUNS, Picture
from palette import COLORS

RARE_WORDS = ("sks", "ohwx", "zwx", "shs", "hta")  # without a meaning, until a user gives them one
OPENINGS = (
    *("a photo of ", "a photo of ", "a photo of "),
    *("a picture of ", "a drawing of ", "an image of ", ""),
)
OTHER_WORDS = """
    a an the of on in at and with to by for from is photo picture drawing image painting small big
    background striped checkered gradient sky grass meadow night beach snow left right top bottom
    style creature animal object thing icon shape toy person one two three many his her its large
    tiny bright dark light pattern texture eye eyes horns ears antennae teeth smile mouth round
    tall wide belly feet body no
"""
WORDS = (*NOUNS, *COLORS, *RARE_WORDS, *OTHER_WORDS.split())
START, END = "<|startoftext|>", "<|endoftext|>"

# ---------------------------------------------------------------- captions


def caption(
    picture: Picture, rng: random.Random, full: bool = False, rare: str | None = None
) -> str:
    """One way to describe the picture; `full` names everything but a monster's details.

    A rare word stands where DreamBooth puts it: 'a photo of sks monster', 'sks red fish'.
    """
    words = []
    if picture.size and (full or rng.random() < 0.7):
        words.append(picture.size)
    details = rng.random() < 0.5 and picture.look and not full
    if details and rng.random() < 0.4:
        words.append(picture.look.body)
    if full or rng.random() < 0.88:
        words.append(picture.color)
    words.append(picture.noun)
    if rare:
        words.insert(rng.choice([0, len(words) - 1]), rare)
    text = " ".join(words)
    if not rare or rng.random() < 0.3:
        text = ("an " if text[0] in "aeiou" else "a ") + text
    if details:
        text += monster_details(picture, rng)
    if picture.place and (full or rng.random() < 0.7):
        upright = picture.place in ("top", "bottom")
        text += f" {rng.choice(['on', 'at']) if upright else 'on'} the {picture.place}"
    if full or rng.random() < 0.8:
        text += " " + where(picture, rng)
    return ("a photo of " if full else rng.choice(OPENINGS)) + text


def monster_details(picture: Picture, rng: random.Random) -> str:
    """' with two eyes, horns and teeth', or a part of that."""
    look = picture.look
    mouth = {"smile": "a smile", "teeth": "teeth", "round": "a round mouth"}[look.mouth]
    eyes = {1: "one eye", 2: "two eyes", 3: "three eyes"}[look.eyes]
    known = [eyes, *([look.top] if look.top != "nothing" else []), mouth]
    named = sorted(rng.sample(range(len(known)), rng.randint(1, len(known))))
    parts = [known[i] for i in named]
    return " with " + (", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0])


def where(picture: Picture, rng: random.Random) -> str:
    if picture.scene == "plain":
        return f"on a {picture.ground} background"
    if picture.scene in ("striped", "checkered", "gradient"):
        return f"on a {picture.ground} and {picture.ground2} {picture.scene} background"
    grass = rng.choice(["on the grass", "in a meadow"])
    outside = {
        "sky": "in the sky",
        "night": "at night",
        "beach": "on the beach",
        "snow": "in the snow",
    }
    return outside.get(picture.scene, grass)


# ---------------------------------------------------------------- tokenizer


def make_tokenizer(work: Path) -> None:
    """A byte-level CLIP tokenizer: each of WORDS is one token, other words are spelled in bytes."""
    from transformers import CLIPTokenizer

    merges = merges_for(WORDS)
    letters = [chr(c) for c in byte_letters()]
    tokens = [*letters, *(c + "</w>" for c in letters), *(a + b for a, b in merges), START, END]
    folder = work / "tokenizer"
    folder.mkdir(exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    tokenizer = CLIPTokenizer.from_pretrained(
        folder, model_max_length=77, pad_token=END, unk_token=END
    )
    tokenizer.save_pretrained(folder)
    split_up = [word for word in WORDS if len(tokenizer.tokenize(word)) != 1]
    assert not split_up, f"not one token: {split_up}"


def byte_letters() -> list[int]:
    """The printable letter that stands for each byte, in CLIP's order."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    return printable + [256 + i for i in range(256 - len(printable))]


def merges_for(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Merges in order of rank; a later one may split an earlier word again, hence the loop."""
    merges: list[tuple[str, str]] = []
    ranks: dict[tuple[str, str], int] = {}
    while pending := [word for word in words if len(merged(word, ranks)) > 1]:
        for word in pending:
            while len(parts := merged(word, ranks)) > 1:
                ranks[parts[0], parts[1]] = len(merges)
                merges.append((parts[0], parts[1]))
    return merges


def merged(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """The word's parts after all merges, lowest rank first: byte pair encoding."""
    parts = [*word[:-1], word[-1] + "</w>"]
    while pairs := [p for p in pairwise(parts) if p in ranks]:
        a, b = min(pairs, key=ranks.__getitem__)
        joined: list[str] = []
        for part in parts:
            if joined and (joined[-1], part) == (a, b):
                joined[-1] = a + b
            else:
                joined.append(part)
        parts = joined
    return parts
