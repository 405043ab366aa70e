"""Keys of what is encoded once, next to one another: there may be as many as there are pictures."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import ndarray

KEY_BYTES = 16
_DTYPE = f"S{KEY_BYTES}"
"""Such strings end at their last byte that is not zero; as all are of one length, none is lost."""


class Keys:
    """The distinct ones among many texts, numbered as they first came; 30,000 take two megabytes.

    `first`: which text each distinct one first was. `place`: of each text, the number of its
    distinct one.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        import numpy

        packed = bytearray()
        for text in texts:
            packed += _key(text)
        self._every = numpy.frombuffer(packed, _DTYPE)
        self._sorted, first, place = numpy.unique(
            self._every, return_index=True, return_inverse=True
        )
        came = numpy.argsort(first)
        self._number = numpy.empty_like(came)
        self._number[came] = numpy.arange(len(came))
        self.first = _packed(first[came])
        self.place = _packed(self._number[place])

    def __len__(self) -> int:
        """How many distinct ones there are."""
        return len(self.first)

    def __getitem__(self, number: int) -> bytes:
        """A distinct one."""
        return bytes(self._every[self.first[number]]).ljust(KEY_BYTES, b"\0")

    def number_of(self, text: str) -> int:
        """Of the distinct one that `text` is.

        Raises:
            KeyError: it is none of them.
        """
        number = self._find(_key(text))
        if number < 0:
            raise KeyError(text)
        return number

    def numbers_of(self, keys: Sequence[bytes]) -> list[int]:
        """Of each of `keys`, the number of the distinct one that it is; -1 for none."""
        return [self._find(key) for key in keys]

    def _find(self, key: bytes) -> int:
        near = int(self._sorted.searchsorted(key))
        number = int(self._number[near]) if near < len(self) else -1
        return number if number >= 0 and self[number] == key else -1


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:KEY_BYTES]


def _packed(numbers: ndarray) -> array[int]:
    return array("q", numbers.astype("int64").tobytes())
