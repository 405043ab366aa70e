"""A ControlNet with its pictures and settings becomes a description; checked as far as it can be
without the base model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..guidance import ControlNet, ControlUse, described
from .describe import count_outputs
from .fitting import check_uses
from .modes import mode_named

if TYPE_CHECKING:
    from PIL.Image import Image

EVEN, SOFT, OWN = "even", "soft", "own"
FALLOFF = 0.825
"""Of soft weights: what is known as "my prompt is more important"."""


def control_use(
    control: ControlNet,
    pictures: Sequence[Image],
    masks: Sequence[Image] = (),
    *,
    mode: str = "auto",
    weights: Mapping[str, Any] | None = None,
    **settings: Any,
) -> ControlUse:
    """`control` put on with these pictures (RGB) and at most one mask (L).

    `mode`: a word of a union's mode. `weights`: `{"weights": "even"}`, or `"soft"` with `falloff`,
    or `"own"` with `factors`. `settings`: further fields of `ControlUse`.

    Raises:
        ValueError: a setting out of its range, a picture too small, several masks, a mask of
            another size than a picture, or weights that cannot be read.
    """
    if len(masks) > 1:
        raise ValueError(
            f"{len(masks)} masks for one ControlNet cannot be used; connect one, or apply it once "
            "for each"
        )
    use = ControlUse(
        control,
        described(pictures, "to control with"),
        mode=mode_named(control, mode),
        mask=next(iter(described(masks, "as a mask")), None),
        blocks=_blocks(control, weights or {}),
        **settings,
    )
    check_uses([use])
    return use


def soft_weights(count: int, falloff: float = FALLOFF) -> tuple[float, ...]:
    """Factors for `count` outputs: 1 for the innermost, each further outwards `falloff` times the
    one before.
    """
    return tuple(falloff ** (count - 1 - index) for index in range(count))


def read_factors(text: str, count: int) -> tuple[float, ...]:
    """`count` numbers from text, separated by commas or spaces.

    Raises:
        ValueError: one is no number from -10 to 10, or there are more or fewer.
    """
    words = text.replace(",", " ").split()
    factors = tuple(_factor(word) for word in words)
    if len(factors) != count:
        raise ValueError(
            f"{len(factors)} factors are given and the ControlNet has {count} outputs; write "
            f"{count} numbers, from the outermost block inwards, such as "
            f"'{', '.join(['1'] * count)}'"
        )
    return factors


def _blocks(control: ControlNet, weights: Mapping[str, Any]) -> tuple[float, ...]:
    choice = weights.get("weights", EVEN)
    if choice == EVEN:
        return ()
    count = count_outputs(control)
    if choice == SOFT:
        return soft_weights(count, weights.get("falloff", FALLOFF))
    return read_factors(weights.get("factors", ""), count)


def _factor(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = float("nan")
    if not -10 <= value <= 10:
        raise ValueError(f"the factor {word!r} cannot be used; write a number from -10 to 10")
    return value
