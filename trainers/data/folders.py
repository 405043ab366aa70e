"""What lies in a folder of pictures, whichever of the usual ways it is laid out in."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...pipelines.images import IMAGE_SUFFIXES, is_image_file
from .captions import caption_beside, words
from .packed import CAPTION_COLUMNS, PackedPicture, packed_files, packed_pictures

METADATA_FILES = ("metadata.jsonl", "metadata.csv")
MASK_COLUMNS = ("mask", "mask_file_name")
MASK_ENDINGS = ("-masklabel", "-mask")
MASK_FOLDER = "masks"

_REPEATED = re.compile(r"(\d+)_(.+)")


@dataclass(frozen=True)
class Entry:
    """A picture of a folder. `caption`: what lies beside it, "" for nothing. `words`: the name of
    the sub-folder it is in, if that says what it shows. `mask`: the file that a metadata file
    names.
    """

    picture: Path | PackedPicture
    name: str
    caption: str = ""
    words: str = ""
    mask: Path | None = None
    repeats: int = 1


def folder_kind(folder: Path) -> str:
    """How a folder is laid out: `"metadata"` (a metadata.jsonl or metadata.csv names the
    pictures), `"packed"` (tables of the Hugging Face `datasets` library), `"pictures"` (in the
    folder itself, perhaps with `N_name` folders beside, as kohya's scripts want them), or
    `"sub-folders"` (each with a class of pictures).

    Raises:
        ValueError: there is no folder, or nothing in it that is known.
    """
    if not folder.is_dir():
        raise ValueError(f"the image folder {folder} does not exist")
    if any((folder / name).is_file() for name in METADATA_FILES):
        return "metadata"
    if packed_files(folder):
        return "packed"
    if any(_image_names(folder)):
        return "pictures"
    if any(_sub_folders(folder)):
        return "sub-folders"
    raise ValueError(
        f"the image folder {folder} holds no pictures; put some in it, "
        f"as {', '.join(IMAGE_SUFFIXES)}"
    )


def entries_of(folder: Path) -> Iterator[Entry]:
    """Every picture of the folder, by name. Of a dataset with a `train` part, that part.

    Raises:
        ValueError: as `folder_kind`; a metadata file, caption or table that cannot be read.
    """
    kind = folder_kind(folder)
    if kind == "metadata":
        yield from _from_metadata(folder)
    elif kind == "packed":
        for number, (picture, caption) in enumerate(packed_pictures(folder), start=1):
            yield Entry(picture, f"{number:05d}", caption)
    elif kind == "sub-folders" and (folder / "train").is_dir():
        yield from entries_of(folder / "train")
    else:
        yield from _from_folders(folder, kind)


def mask_beside(picture: Path) -> Path | None:
    """The picture's mask: a file named after it, beside it or in a folder `masks`."""
    places = [picture.with_name(picture.stem + ending) for ending in MASK_ENDINGS]
    places.append(picture.parent / MASK_FOLDER / picture.stem)
    for place in places:
        for suffix in IMAGE_SUFFIXES:
            path = place.with_name(place.name + suffix)
            if path.is_file():
                return path
    return None


def _from_folders(folder: Path, kind: str) -> Iterator[Entry]:
    yield from (_entry(folder, name) for name in _pictures(folder))
    for place in _sub_folders(folder):
        repeated = _REPEATED.fullmatch(place.name)
        if kind == "pictures" and repeated is None:
            continue  # a folder for something else, as long as pictures lie beside it
        repeats, name = (int(repeated[1]), repeated[2]) if repeated else (1, place.name)
        if repeats < 1:
            raise ValueError(f"the folder {place} is to be repeated {repeats} times; rename it")
        for file in _pictures(place):
            yield _entry(place, file, words=words(name), repeats=repeats)


def _sub_folders(folder: Path) -> list[Path]:
    """Those that hold pictures or, of a dataset cut into parts, further such folders."""
    with os.scandir(folder) as inside:  # no paths of what may be many pictures
        names = sorted(entry.name for entry in inside if entry.is_dir())
    return [
        place
        for name in names
        if not name.startswith(".")
        and name != MASK_FOLDER
        and (_pictures(place := folder / name) or (name == "train" and any(_sub_folders(place))))
    ]


def _pictures(folder: Path) -> list[str]:
    """The names of the files, without the masks among them; no paths, as there may be many."""
    names = sorted(_image_names(folder))
    masked = {name: stem for name in names if (stem := _masked_stem(Path(name).stem))}
    pictures = set(masked.values()).intersection(Path(name).stem for name in names)
    return [name for name in names if masked.get(name) not in pictures]


def _image_names(folder: Path) -> Iterator[str]:
    with os.scandir(folder) as inside:
        yield from (entry.name for entry in inside if is_image_file(Path(entry.name)))


def _masked_stem(stem: str) -> str | None:
    """The picture that a file is the mask of, by its name."""
    for ending in MASK_ENDINGS:
        if stem.endswith(ending):
            return stem.removesuffix(ending)
    return None


def _entry(folder: Path, name: str, **facts: Any) -> Entry:
    path = folder / name
    return Entry(path, path.stem, caption_beside(path), **facts)


def _from_metadata(folder: Path) -> Iterator[Entry]:
    named = False
    for where, row in _rows(folder):
        file = row.get("file_name")
        if not isinstance(file, str) or not file:
            raise ValueError(f"{where} has no file_name; name the picture that it tells of")
        picture = _inside(folder, file, where)
        texts = [row[column] for column in CAPTION_COLUMNS if row.get(column)]
        masks = [row[column] for column in MASK_COLUMNS if row.get(column)]
        mask = _inside(folder, str(masks[0]), where) if masks else None
        caption = str(texts[0]).strip() if texts else caption_beside(picture)
        repeats = int(row.get("repeats") or 1)
        yield Entry(picture, picture.stem, caption, mask=mask, repeats=repeats)
        named = True
    if not named:
        raise ValueError(f"the metadata file of {folder} names no pictures; add a line for each")


def _rows(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where it stands, columns by name) of every line."""
    file = next(folder / name for name in METADATA_FILES if (folder / name).is_file())
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            if file.suffix == ".csv":
                for number, row in enumerate(csv.DictReader(stream), start=2):
                    yield f"{file}, line {number},", row
                return
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield f"{file}, line {number},", dict(json.loads(line))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, TypeError, csv.Error) as error:
        raise ValueError(
            f"{file} cannot be read ({error}); it needs one "
            '{"file_name": "...", "text": "..."} in each line, as UTF-8'
        ) from error


def _inside(folder: Path, name: str, where: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise ValueError(f"{where} names {name!r}, which is outside of {folder}; copy it there")
    if not path.is_file():
        raise ValueError(f"{where} names {name!r}, which is not there; correct the name")
    return path
