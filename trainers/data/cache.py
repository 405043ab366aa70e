"""What is encoded once and looked at in every epoch: in memory, or on disk for all runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...pipelines.files import atomic_write
from ..machine.team import Team
from .keys import Keys
from .shards import Found, Record, ShardWriter, bytes_of, find

if TYPE_CHECKING:
    from torch import Tensor

MEMORY_BYTES = 32 << 20
"""What `cache="auto"` keeps in memory at most, all in all: sixty pictures of SDXL's size. Reading
them from disk costs next to nothing beside a step.
"""

Make = Callable[[int], Record]
Tell = Callable[[int, int], None]


class Records:
    """Entries by number. `entries`: the distinct ones, in memory or in files; `place`: of each
    number, which of them.
    """

    def __init__(self, entries: Sequence[Record] | Found = (), place: Sequence[int] = ()) -> None:
        self._entries, self._place = entries, place

    def __len__(self) -> int:
        return len(self._place)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        return dict(self._entries[self._place[number]])


@dataclass
class Cache:
    """The cache of one training, kept as `wish` (`"memory"`, `"disk"` or `"auto"`) says.

    `root`: the folder of all runs, which share `root/cache`. `left`: bytes that `"auto"` may still
    keep in memory.
    """

    root: Path
    wish: str
    team: Team
    left: int = MEMORY_BYTES

    def collect(
        self, kind: str, identity: Any, keys: Iterable[str], make: Make, tell: Tell
    ) -> Records:
        """An entry for each of `keys`, by number; equal keys share one. They are not kept.

        `identity`: the JSON-ready facts that the entries of this `kind` depend on besides their
        key. `make(number)` makes what is missing, and `tell(done, total)` is called after each; it
        may raise to stop, and what was made is kept.
        """
        packed = Keys(keys)
        kept = None if self.wish == "disk" else self._in_memory(packed, make, tell)
        if kept is None:
            kept = self._on_disk(_folder(self.root, kind, identity), packed, make, tell)
        return Records(kept, packed.place)

    def _in_memory(self, keys: Keys, make: Make, tell: Tell) -> list[Record] | None:
        """All of them, or None when they are better kept on disk."""
        if self.wish == "auto" and self.team.size > 1:
            return None  # so that each is made once
        made: list[Record] = []
        for done, number in enumerate(keys.first, start=1):
            made.append(make(number))
            if self.wish == "auto" and bytes_of(made[:1]) * len(keys) > self.left:
                return None
            tell(done, len(keys))
        self.left -= bytes_of(made)
        return made

    def _on_disk(self, folder: Path, keys: Keys, make: Make, tell: Tell) -> Found:
        """Each process makes its share; what then is still missing, as on a disk that is not
        shared, each makes for itself.
        """
        team = self.team
        for mine in (slice(team.rank, None, team.size), slice(None)):
            found = find(folder, keys)
            missing = found.missing
            done = len(keys) - len(missing)
            tell(done, len(keys))
            if not team.any(bool(missing)):  # all have looked before any adds to it
                return found
            with ShardWriter(folder) as writer:
                for number in missing[mine]:
                    writer.add(keys[number], make(keys.first[number]))
                    done += 1
                    tell(done, len(keys))
            team.wait()
        return find(folder, keys)


def _folder(root: Path, kind: str, identity: Any) -> Path:
    text = json.dumps(identity, sort_keys=True)
    folder = root / "cache" / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    about = folder / "about.json"
    if not about.is_file():
        with atomic_write(about) as temporary:
            temporary.write_text(json.dumps(identity, indent=2), encoding="utf-8")
    return folder
