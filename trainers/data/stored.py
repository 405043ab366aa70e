"""The pictures of a run in its folder, and the entries of `images.jsonl` that tell of them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from sys import intern
from typing import Any

from ...pipelines.images import is_image_file
from .encoded_samples import EncodedPicture
from .look import at_once
from .sample import Content, Sample


def store_samples(folder: Path, samples: Sequence[Sample]) -> Iterator[dict[str, Any]]:
    """Write every picture into a new `folder`, and tell one JSON-ready entry for each. A picture
    that comes from a file is stored as that file, any other as PNG. All are on the disk when the
    last entry was taken.
    """
    folder.mkdir()
    numbered = enumerate(samples, start=1)
    yield from at_once(lambda pair: _store(folder, f"{pair[0]:04d}", pair[1]), numbered)
    with os.scandir(folder) as inside:
        for _ in at_once(lambda entry: _flush_to_disk(Path(entry.path)), inside, threads=16):
            pass


def stored_samples(folder: Path, entries: Iterable[dict[str, Any]]) -> tuple[Sample, ...]:
    """The samples again.

    Raises:
        ValueError: a picture or mask is gone or has changed.
    """
    return tuple(at_once(lambda entry: _stored(folder, entry), entries))


def _store(folder: Path, name: str, sample: Sample) -> dict[str, Any]:
    file = _store_picture(folder, name, sample)
    mask = _store_mask(folder, name, sample, file)
    (folder / f"{name}.txt").write_text(sample.caption, encoding="utf-8")
    return {
        "file": file,
        "sha256": _sha256(folder / file),
        "name": sample.name,
        "caption": sample.caption,
        "repeats": sample.repeats,
        "mask": mask,
        "mask_sha256": _sha256(folder / mask) if mask else "",
        "content": sample.known().facts(),
        "digest": sample.digest,
    }


def _store_picture(folder: Path, name: str, sample: Sample) -> str:
    """→ the name of the file. A copy, not a link: people edit pictures in place."""
    if sample.encoded is not None:
        file = f"{name}.safetensors"
        sample.encoded.save(folder / file)
    elif sample.path is not None and is_image_file(sample.path):
        file = name + sample.path.suffix.lower()
        shutil.copyfile(sample.path, folder / file)
    else:
        file = f"{name}.png"
        sample.open().save(folder / file, format="PNG")
    return file


def _store_mask(folder: Path, name: str, sample: Sample, picture: str) -> str:
    """→ the name of the file, "" without a mask; the picture's own if the mask is in it."""
    mask = sample.open_mask()
    if mask is None:
        return ""
    if sample.mask == sample.path:
        return picture
    file = f"{name}-mask.png"
    mask.save(folder / file, format="PNG")
    return file


def _stored(folder: Path, entry: dict[str, Any]) -> Sample:
    path = folder / entry["file"]
    _check(path, entry["sha256"])
    mask = folder / entry["mask"] if entry["mask"] else None
    if mask is not None:
        _check(mask, entry["mask_sha256"])
    encoded = EncodedPicture(file=path) if path.suffix == ".safetensors" else None
    return Sample(
        entry["name"],
        entry["caption"],
        file=entry["file"] if encoded is None else None,
        folder=intern(str(folder)),
        mask=mask,
        repeats=entry["repeats"],
        encoded=encoded,
        content=Content.of(entry["content"]),
    )


def _check(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise ValueError(f"the picture {path} of this run is gone; start a new run")
    if _sha256(path) != sha256:
        raise ValueError(f"the picture {path} of this run has changed since; start a new run")


def _sha256(path: Path) -> str:
    """Of a file's bytes; not remembered, since there may be many files."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _flush_to_disk(path: Path) -> None:
    """After all were written and on several threads: many times faster than one by one."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())
