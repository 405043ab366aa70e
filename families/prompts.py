"""Prompts of any length, with weights, as the hidden states that a text encoder would give.

The syntax is A1111's: `(word)` counts 1.1 times, `(word:1.3)` 1.3 times, `[word]` 1/1.1 times, and
brackets inside brackets multiply. ComfyUI knows round brackets alone, and there a number inside
replaces what is around it: `((word:1.3))` is 1.43 here and 1.3 there. A weight holds for all that
is between its brackets, spaces and commas included. `\\(`, `\\)`, `\\[`, `\\]` and `\\\\` are
characters to draw, and so is a bracket without a partner.

What a weight does is ComfyUI's: each token's state moves away from, or towards, the state that an
empty prompt has in the same place, `empty + (state - empty) * weight`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LARGEST_WEIGHT = 100.0
"""Products of weights end here, of either sign: numbers beyond it would only become infinite."""

KEEP_TOGETHER = 8
"""A stretch of one weight with fewer tokens than this is not torn apart between two chunks."""

_BRACKET_WEIGHT = 1.1
_PIECES = re.compile(
    r"""
    \\(?P<escaped>[()\[\]\\])
    | (?P<open>[(\[])
    | (?P<close>(?: : \s* (?P<weight> [+-]? (?:\d+(?:\.\d*)?|\.\d+) ) \s* )? \) | \] )
    | (?P<text> [^\\()\[\]:]+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)

_log = logging.getLogger(__name__)

_skipped: ContextVar[int] = ContextVar("skipped layers", default=0)


@contextmanager
def skipping_layers(count: int) -> Iterator[None]:
    """Within the block, `clip_states` leaves `count` more layers out at the end of each encoder,
    and no prompt is plain.

    As `clip_skip` of diffusers' pipelines means it; theirs looks for a final norm that is elsewhere
    since transformers 5.6.
    """
    token = _skipped.set(count)
    try:
        yield
    finally:
        _skipped.reset(token)


def parse(prompt: str) -> list[tuple[str, float]]:
    """Stretches of text with their weights, in order, neighbours of equal weight joined.

    Never fails: what is not syntax is text. An empty prompt is one empty stretch of weight 1.
    `BREAK` is text.
    """
    pieces = list(_PIECES.finditer(prompt))
    factors, closing = _pairs(pieces)
    weights, stretches = [1.0], []
    for index, piece in enumerate(pieces):
        if index in factors:
            weights.append(_limited(weights[-1] * factors[index]))
        elif index in closing:
            weights.pop()
        else:
            stretches.append((piece["escaped"] or piece[0], weights[-1]))
    joined: list[tuple[list[str], float]] = []
    for text, weight in stretches:
        if joined and joined[-1][1] == weight:
            joined[-1][0].append(text)
        else:
            joined.append(([text], weight))
    return [("".join(texts), weight) for texts, weight in joined] or [("", 1.0)]


def _pairs(pieces: list[re.Match[str]]) -> tuple[dict[int, float], set[int]]:
    """Index of each opening bracket that has a partner → its factor, and the partners' indices."""
    factors: dict[int, float] = {}
    closing: set[int] = set()
    waiting: list[int] = []
    count = {"(": 0, "[": 0}
    for index, piece in enumerate(pieces):
        if piece["open"]:
            waiting.append(index)
            count[piece[0]] += 1
        elif piece["close"]:
            kind = "[" if piece[0] == "]" else "("
            if not count[kind]:
                continue
            while pieces[waiting[-1]][0] != kind:  # brackets of the other kind, never closed
                count[pieces[waiting.pop()][0]] -= 1
            count[kind] -= 1
            closing.add(index)
            bracket = _BRACKET_WEIGHT if kind == "(" else 1 / _BRACKET_WEIGHT
            given = piece["weight"]
            factors[waiting.pop()] = _limited(float(given)) if given else bracket
    return factors, closing


def _limited(weight: float) -> float:
    return max(-LARGEST_WEIGHT, min(LARGEST_WEIGHT, weight))


def is_plain(tokenizer: Any, prompt: str) -> bool:
    """Whether the prompt has no weights or escapes and fits `tokenizer.model_max_length`."""
    if _skipped.get() or parse(prompt) != [(prompt, 1.0)]:
        return False
    return len(tokenizer(prompt, verbose=False).input_ids) <= tokenizer.model_max_length


def clip_states(
    tokenizer: Any, text_encoder: Any, prompts: Sequence[str], layer: int | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What a CLIP text encoder says of weighted prompts of any length.

    A prompt is read in chunks of 77 tokens, marks of begin and end included; shorter prompts of the
    list are filled up with empty chunks, so that all have the same number k: pass prompts and
    negatives together.

    `layer`: None is the last hidden state after the final norm; -2 the one before the last layer,
    without the norm (SDXL).

    Returns:
        States [n, 77·k, width] and the pooled state [n, width] of each first chunk, which knows no
        weights; None if the encoder has none. Prompts of weight 1 that fit in one chunk have
        exactly the encoder's own states.
    """
    import torch

    length = min(tokenizer.model_max_length, text_encoder.config.max_position_embeddings)
    unique = list(dict.fromkeys(prompts))  # a batch of equal prompts is read as one of them
    chunked = [_chunks(tokenizer, prompt, length - 2) for prompt in unique]
    most = max(len(chunks) for chunks in chunked)
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    rows = [
        [(begin, 1.0), *chunk, (end, 1.0)]
        for chunks in chunked
        for chunk in (*chunks, *[[]] * (most - len(chunks)))
    ]

    def encode(rows: list[list[tuple[int, float]]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        return _encode_clip(tokenizer, text_encoder, rows, length, layer)

    states, pooled = encode(rows)
    if _weighted(rows):
        empty, _ = encode([[(begin, 1.0), (end, 1.0)]])
        states = _weigh(states, empty, rows)
    states = states.unflatten(0, (len(unique), most)).flatten(1, 2)
    order = torch.tensor([unique.index(prompt) for prompt in prompts], device=states.device)
    return states[order], None if pooled is None else pooled[::most][order]


def t5_states(
    tokenizer: Any, text_encoder: Any, prompts: Sequence[str], length: int
) -> torch.Tensor:
    """What a T5 encoder says of weighted prompts: states [n, `length`, width].

    As diffusers' pipelines do it: one end mark, filled up with padding that is not masked. Tokens
    beyond `length` are left out, with a line in the log.
    """
    import torch

    unique = list(dict.fromkeys(prompts))
    end = (tokenizer.eos_token_id, 1.0)
    rows = [[*_t5_tokens(tokenizer, prompt, length - 1), end] for prompt in unique]

    def encode(rows: list[list[tuple[int, float]]]) -> torch.Tensor:
        ids, _ = _ids(rows, length, tokenizer.pad_token_id, text_encoder.device)
        return text_encoder(ids)[0]

    states = encode(rows)
    if _weighted(rows):
        states = _weigh(states, encode([[end]]), rows)
    order = torch.tensor([unique.index(prompt) for prompt in prompts], device=states.device)
    return states[order]


def _t5_tokens(tokenizer: Any, prompt: str, room: int) -> list[tuple[int, float]]:
    tokens = [token for stretch in _tokens(tokenizer, prompt) for token in stretch]
    if len(tokens) > room:
        _log.warning(
            "a prompt has %d tokens and %d are read: shorten %r", len(tokens), room, prompt[:60]
        )
    return tokens[:room]


def _tokens(tokenizer: Any, prompt: str) -> list[list[tuple[int, float]]]:
    """Token ids and weights, stretch by stretch, without marks of begin and end."""
    stretches = []
    for text, weight in parse(prompt):
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        stretches.append([(token, weight) for token in ids])
    return stretches


def _chunks(tokenizer: Any, prompt: str, room: int) -> list[list[tuple[int, float]]]:
    """A prompt's tokens in chunks of at most `room`; an empty prompt is one empty chunk."""
    chunks: list[list[tuple[int, float]]] = [[]]
    for stretch in _tokens(tokenizer, prompt):
        if len(stretch) < KEEP_TOGETHER and len(chunks[-1]) + len(stretch) > room:
            chunks.append([])
        while stretch:
            if len(chunks[-1]) == room:
                chunks.append([])
            space = room - len(chunks[-1])
            chunks[-1] += stretch[:space]
            stretch = stretch[space:]
    return chunks


def _encode_clip(
    tokenizer: Any,
    text_encoder: Any,
    rows: list[list[tuple[int, float]]],
    length: int,
    layer: int | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    ids, mask = _ids(rows, length, tokenizer.pad_token_id, text_encoder.device)
    # Some 2.x encoders ask for the mask; diffusers' own pipeline decides the same way.
    wants_mask = getattr(text_encoder.config, "use_attention_mask", False)
    skipped = _skipped.get()
    whole = layer is None and not skipped
    output = text_encoder(
        ids, attention_mask=mask if wants_mask else None, output_hidden_states=not whole
    )
    if whole:
        states = output.last_hidden_state
    else:
        states = output.hidden_states[(-1 if layer is None else layer) - skipped]
    if layer is None and skipped:
        states = getattr(text_encoder, "text_model", text_encoder).final_layer_norm(states)
    pooled = getattr(output, "text_embeds", None)
    return states, getattr(output, "pooler_output", None) if pooled is None else pooled


def _ids(
    rows: list[list[tuple[int, float]]], length: int, padding: int, device: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids filled up to [n, length], and the mask of those that are not padding."""
    import torch

    ids = [[token for token, _ in row] + [padding] * (length - len(row)) for row in rows]
    mask = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _weighted(rows: list[list[tuple[int, float]]]) -> bool:
    return any(weight != 1 for row in rows for _, weight in row)


def _weigh(
    states: torch.Tensor, empty: torch.Tensor, rows: list[list[tuple[int, float]]]
) -> torch.Tensor:
    """States [n, tokens, width] moved away from `empty` [1, tokens, width] by each token's
    weight.
    """
    import torch

    count, length, _ = states.shape
    weights = torch.ones(count, length)
    for row, line in zip(weights, rows, strict=True):
        row[: len(line)] = torch.tensor([weight for _, weight in line])
    weights = weights[:, :, None].to(states.device)
    base = empty.float()
    moved = base + (states.float() - base) * weights
    return torch.where(weights == 1, states, moved.to(states.dtype))
