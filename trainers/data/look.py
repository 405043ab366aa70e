"""What there is to know about a picture, found out by reading it once."""

from __future__ import annotations

import hashlib
import os
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, overload

from ...pipelines.images import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

_PACKED = struct.Struct("<IIQBBB32s")

Item = TypeVar("Item")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Look:
    """`size`: width and height in pixels, upright. `digest`: SHA-256 of size and pixels, the same
    for the same picture in another file format. `gradient`: 64 bits, which of two neighbours is
    brighter in the picture at 9x8 pixels (a difference hash): few bits differ between two sizes or
    qualities of one picture. `colour`: its mean, R, G and B in 0..255.
    """

    size: tuple[int, int]
    digest: str
    gradient: int
    colour: tuple[int, int, int]

    def packed(self) -> bytes:
        """As few bytes as it takes, for keeping many."""
        return _PACKED.pack(*self.size, self.gradient, *self.colour, bytes.fromhex(self.digest))

    @staticmethod
    def unpacked(packed: bytes) -> Look:
        """The inverse of `packed`."""
        width, height, gradient, red, green, blue, digest = _PACKED.unpack(packed)
        return Look((width, height), digest.hex(), gradient, (red, green, blue))


class Looks(Sequence[Look]):
    """Many of them, each in as few bytes as it takes."""

    def __init__(self) -> None:
        self._packed = bytearray()

    def append(self, look: Look) -> None:
        self._packed += look.packed()

    def __len__(self) -> int:
        return len(self._packed) // _PACKED.size

    @overload
    def __getitem__(self, index: int) -> Look: ...
    @overload
    def __getitem__(self, index: slice) -> list[Look]: ...
    def __getitem__(self, index: int | slice) -> Look | list[Look]:
        numbers = range(len(self))[index]
        if isinstance(numbers, range):
            return [self[number] for number in numbers]
        start = numbers * _PACKED.size
        return Look.unpacked(bytes(self._packed[start : start + _PACKED.size]))


def look_at(path: Path) -> Look:
    """The picture in a file, read again only when the file has changed.

    Raises:
        ValueError: it cannot be read; names it.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise ValueError(f"the picture {path} cannot be read ({error}); put it back") from error
    version = f"{path}\0{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
    key = hashlib.blake2b(version.encode(), digest_size=16).digest()
    packed = _known.get(key)
    if packed is None:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        packed = _known[key] = look_of(open_image(path)).packed()
    return Look.unpacked(packed)


_known: dict[bytes, bytes] = {}
"""File and version → `Look.packed`."""
_MOST_KNOWN = 1 << 12  # more take minutes to learn from anyway, and memory


def look_of(image: Image) -> Look:
    """A picture in memory, RGB."""
    from PIL import Image as Pillow

    digest = hashlib.sha256(f"{image.width}x{image.height}\0".encode())
    digest.update(image.tobytes())
    small = image.resize((9, 8), Pillow.Resampling.BOX, reducing_gap=2.0)
    grey = small.convert("L").tobytes()
    gradient = 0
    for row in range(8):
        for column in range(8):
            place = row * 9 + column
            gradient = gradient << 1 | (grey[place] < grey[place + 1])
    red, green, blue = small.resize((1, 1), Pillow.Resampling.BOX).tobytes()
    return Look(image.size, digest.hexdigest(), gradient, (red, green, blue))


def at_once(
    work: Callable[[Item], Found], items: Iterable[Item], threads: int = 0
) -> Iterator[Found]:
    """`work` on every item, in order, on a few threads: reading pictures is not Python's work.
    `threads` 0: one for each core. A few items are ahead at a time, however many there are.
    """
    count = threads or min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(max_workers=count) as pool:
        ahead: deque[Future[Found]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(work, item))
                if len(ahead) > 4 * count:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for left in ahead:
                left.cancel()
