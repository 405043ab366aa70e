"""A small memory for what is the same the next time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any


class Remembered:
    """What was computed from pictures and costs more than it weighs (embeddings of reference
    pictures), least recently used out first.
    """

    def __init__(self, entries: int = 64) -> None:
        self.computed = 0  # how often something was not there yet; tests look at it
        self._entries = entries
        self._kept: OrderedDict[tuple[object, ...], Any] = OrderedDict()

    def get(self, key: tuple[object, ...], compute: Callable[[], Any]) -> Any:
        """What `compute` once answered for `key`; nobody may change it."""
        if key not in self._kept:
            self._kept[key] = compute()
            self.computed += 1
        self._kept.move_to_end(key)
        while len(self._kept) > self._entries:
            self._kept.popitem(last=False)
        return self._kept[key]

    def clear(self) -> None:
        self._kept.clear()
