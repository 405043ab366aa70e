"""Pictures packed into tables, as the Hugging Face `datasets` library saves and shares them:
Parquet files, and the Arrow files of `save_to_disk`. Read through `pyarrow`, if it is there.
"""

from __future__ import annotations

import importlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

CAPTION_COLUMNS = ("text", "caption", "prompt")


@dataclass(frozen=True)
class PackedPicture:
    """The picture in one row of a table. `block`: which row group or batch of the file."""

    file: Path
    column: str
    block: int
    row: int

    def __str__(self) -> str:
        return f"{self.file.name}, block {self.block}, row {self.row}"

    def bytes(self) -> bytes:
        """The picture's file.

        Raises:
            ValueError: the row holds none, or the table cannot be read.
        """
        cell = _block(self.file, self.block, (self.column,))[self.column][self.row].as_py()
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(data, bytes):
            raise ValueError(
                f"{self.file} holds no picture in row {self.row} of block {self.block}, only its "
                "name; save the dataset with its pictures in it"
            )
        return data

    def stream(self) -> io.BytesIO:
        return io.BytesIO(self.bytes())


def packed_files(folder: Path) -> list[Path]:
    """The tables in a folder, those of its `train` part if it has parts; none in most folders."""
    for place in (folder, folder / "train", folder / "data"):
        if not place.is_dir():
            continue
        arrow = (place / "dataset_info.json").is_file() or (place / "state.json").is_file()
        found = _ending(place, ".parquet") or (_ending(place, ".arrow") if arrow else [])
        train = [path for path in found if path.name.startswith("train")]
        if found:
            return train or found
    return []


def _ending(folder: Path, suffix: str) -> list[Path]:
    """Files of that name; `glob` would list all the pictures of a folder in memory."""
    with os.scandir(folder) as inside:
        return sorted(folder / entry.name for entry in inside if entry.name.endswith(suffix))


def packed_pictures(folder: Path) -> Iterator[tuple[PackedPicture, str]]:
    """Every picture with its caption ("" without one).

    Raises:
        ValueError: `pyarrow` is not installed, or there is no column of pictures.
    """
    for file in packed_files(folder):
        picture, caption = _columns(file)
        for block in range(_blocks(file)):
            table = _block(file, block, (caption,) if caption else (picture,))
            texts = table[caption].to_pylist() if caption else [""] * len(table)
            for row, text in enumerate(texts):
                yield PackedPicture(file, picture, block, row), str(text or "").strip()


def _columns(file: Path) -> tuple[str, str]:
    """The columns of pictures and of captions ("" without one)."""
    reader = _reader(file)
    schema = reader.schema if file.suffix == ".arrow" else reader.schema_arrow
    types = _pyarrow("types")
    pictures = [
        field.name
        for field in schema
        if (types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0)
        or (types.is_binary(field.type) and "image" in field.name)
    ]
    if not pictures:
        raise ValueError(
            f"{file} has no column of pictures, only {', '.join(schema.names)}; "
            "choose a dataset of images"
        )
    captions = [name for name in CAPTION_COLUMNS if name in schema.names]
    return pictures[0], captions[0] if captions else ""


def _blocks(file: Path) -> int:
    reader = _reader(file)
    return _count(file) if file.suffix == ".arrow" else reader.num_row_groups


@lru_cache(maxsize=2)
def _block(file: Path, block: int, columns: tuple[str, ...]) -> Any:
    """Some columns of one block; pictures are asked for in order, so the last one is kept."""
    if file.suffix == ".arrow":
        for number, batch in enumerate(_reader(file)):
            if number == block:
                return _table(batch).select(list(columns))
        raise ValueError(f"{file} is cut short; copy the dataset again")
    return _reader(file).read_row_group(block, columns=list(columns))


def _table(batch: Any) -> Any:
    return _pyarrow().Table.from_batches([batch])


def _count(file: Path) -> int:
    return sum(1 for _ in _reader(file))


def _reader(file: Path) -> Any:
    """The opened file; nothing of its rows is read yet."""
    try:
        pyarrow, parquet, ipc = _pyarrow(), _pyarrow("parquet"), _pyarrow("ipc")
    except ImportError as error:
        raise ValueError(
            f"{file} is a table of pictures, and reading it takes the package pyarrow; install it "
            "with 'pip install pyarrow', or save the pictures as files"
        ) from error
    try:
        if file.suffix == ".parquet":
            return parquet.ParquetFile(file)
        return ipc.open_stream(pyarrow.memory_map(str(file)))
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise ValueError(f"{file} cannot be read ({error}); copy the dataset again") from error


def _pyarrow(part: str = "") -> Any:
    return importlib.import_module(f"pyarrow.{part}" if part else "pyarrow")
