"""ComfyUI's rules for lists: a node is called once per item, unless it asks for whole lists."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def per_call(values: Mapping[str, Sequence[Any]], *, as_lists: bool) -> Iterator[dict[str, Any]]:
    """The arguments of each call.

    Args:
        values: for each input the items that arrived, at least one; a constant is one item.
        as_lists: the node takes all items of an input at once (`is_input_list`).

    Shorter lists repeat their last item; a node without inputs is called once.
    """
    if as_lists:
        yield {name: list(items) for name, items in values.items()}
        return
    calls = max((len(items) for items in values.values()), default=1)
    for i in range(calls):
        yield {name: items[min(i, len(items) - 1)] for name, items in values.items()}


def merge(results: Sequence[Sequence[Any]], are_lists: Sequence[bool]) -> list[list[Any]]:
    """The items of each output, over all calls.

    Args:
        results: what each call returned, one value per output.
        are_lists: outputs whose value is itself a list of items (`output_is_list`).
    """
    merged: list[list[Any]] = []
    for slot, is_list in enumerate(are_lists):
        given = [result[slot] for result in results]
        merged.append([item for items in given for item in items] if is_list else given)
    return merged
