"""What is encoded once and looked at in every epoch: in memory, or on disk for all runs."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...pipelines.files import atomic_write
from ..machine.team import Team
from .shards import Record, Shard, ShardWriter, bytes_of, find

if TYPE_CHECKING:
    from torch import Tensor

MEMORY_BYTES = 32 << 20
"""What `cache="auto"` keeps in memory at most, all in all: sixty pictures of SDXL's size. Reading
them from disk costs next to nothing beside a step.
"""

Make = Callable[[int], Record]
Tell = Callable[[int, int], None]


class Records:
    """Entries by number, in memory or, two numbers for each, in files."""

    def __init__(self, places: Sequence[Record] | Sequence[tuple[Shard, int]]) -> None:
        self._held = [place for place in places if not isinstance(place, tuple)]
        filed = [place for place in places if isinstance(place, tuple)]
        assert not (self._held and filed), "all lie in memory, or all in files"
        self._shards = list({id(shard): shard for shard, _ in filed}.values())
        number = {id(shard): index for index, shard in enumerate(self._shards)}
        self._shard = array("L", [number[id(shard)] for shard, _ in filed])
        self._row = array("L", [row for _, row in filed])

    def __len__(self) -> int:
        return len(self._held) + len(self._row)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        if self._held:
            return dict(self._held[number])
        return self._shards[self._shard[number]].read(self._row[number])


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
        self, kind: str, identity: Any, keys: Sequence[str], make: Make, tell: Tell
    ) -> Records:
        """An entry for each of `keys`, by number; equal keys share one.

        `identity`: the JSON-ready facts that the entries of this `kind` depend on besides their
        key. `make(number)` makes what is missing, and `tell(done, total)` is called after each; it
        may raise to stop, and what was made is kept.
        """
        first = {}
        for number, key in enumerate(keys):
            first.setdefault(key, number)
        if self.wish != "disk":
            kept = self._in_memory(list(first.values()), make, tell)
            if kept is not None:
                by_key = dict(zip(first, kept, strict=True))
                return Records([by_key[key] for key in keys])
        found = self._on_disk(_folder(self.root, kind, identity), first, make, tell)
        return Records([found[key] for key in keys])

    def _in_memory(self, numbers: Sequence[int], make: Make, tell: Tell) -> list[Record] | None:
        """All of them, or None when they are better kept on disk."""
        if self.wish == "auto" and self.team.size > 1:
            return None  # so that each is made once
        made: list[Record] = []
        for done, number in enumerate(numbers, start=1):
            made.append(make(number))
            if self.wish == "auto" and bytes_of(made[:1]) * len(numbers) > self.left:
                return None
            tell(done, len(numbers))
        self.left -= bytes_of(made)
        return made

    def _on_disk(
        self, folder: Path, first: dict[str, int], make: Make, tell: Tell
    ) -> dict[str, tuple[Shard, int]]:
        """Each process makes its share; what then is still missing, as on a disk that is not
        shared, each makes for itself.
        """
        team = self.team
        for mine in (slice(team.rank, None, team.size), slice(None)):
            found = find(folder, first)
            missing = [key for key in first if key not in found]
            done = len(found)
            tell(done, len(first))
            if not team.any(bool(missing)):  # all have looked before any adds to it
                return found
            with ShardWriter(folder) as writer:
                for key in missing[mine]:
                    writer.add(key, make(first[key]))
                    done += 1
                    tell(done, len(first))
            team.wait()
        return find(folder, first)


def _folder(root: Path, kind: str, identity: Any) -> Path:
    text = json.dumps(identity, sort_keys=True)
    folder = root / "cache" / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    about = folder / "about.json"
    if not about.is_file():
        with atomic_write(about) as temporary:
            temporary.write_text(json.dumps(identity, indent=2), encoding="utf-8")
    return folder
