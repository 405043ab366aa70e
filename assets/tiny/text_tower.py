"""The text tower's shape, and how it keeps what an earlier one knew when the vocabulary grows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import CLIPTokenizer

WIDTH = 128


def text_shape(tokenizer: CLIPTokenizer) -> dict[str, int]:
    """Arguments of a CLIPTextConfig."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 3 * WIDTH,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "projection_dim": WIDTH,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def earlier_weights(
    base: Path, tokenizer: CLIPTokenizer, fresh: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The text encoder of `base` for the new vocabulary; words it lacked keep their fresh row."""
    import torch
    from transformers import CLIPTextModel, CLIPTokenizer

    old = CLIPTextModel.from_pretrained(base / "text_encoder", dtype=torch.float32).state_dict()
    old_ids = CLIPTokenizer.from_pretrained(base / "tokenizer").get_vocab()
    key = next(k for k in old if k.endswith("token_embedding.weight"))
    table = fresh[key].clone()
    for token, new_id in tokenizer.get_vocab().items():
        if token in old_ids:
            table[new_id] = old[key][old_ids[token]]
    return old | {key: table}
