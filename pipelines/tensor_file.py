"""Files of tensors, opened without reading them: names and shapes cost nothing, weights are views.

A `.safetensors` file is mapped into memory here, not by its library: the mapping is private
(writing to a tensor never reaches the file) and its pages can be given back one tensor at a time,
so that a model rests in its file and costs no memory of its own. Pickled files (`.ckpt`, `.pt`,
`.pth`, `.bin`) are read through `torch.load(weights_only=True)` alone: code in them never runs.
"""

from __future__ import annotations

import itertools
import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from weakref import WeakValueDictionary

if TYPE_CHECKING:
    import torch

SAFETENSORS = (".safetensors", ".sft")
PICKLED = (".ckpt", ".pt", ".pth", ".bin")
MAX_HEADER = 100_000_000  # bytes, the limit of the safetensors library

_DTYPES = {
    "BOOL": ("bool", 1),
    "U8": ("uint8", 1),
    "I8": ("int8", 1),
    "U16": ("uint16", 2),
    "I16": ("int16", 2),
    "U32": ("uint32", 4),
    "I32": ("int32", 4),
    "U64": ("uint64", 8),
    "I64": ("int64", 8),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E4M3FNUZ": ("float8_e4m3fnuz", 1),
    "F8_E5M2": ("float8_e5m2", 1),
    "F8_E5M2FNUZ": ("float8_e5m2fnuz", 1),
    "F8_E8M0": ("float8_e8m0fnu", 1),
    "F16": ("float16", 2),
    "BF16": ("bfloat16", 2),
    "F32": ("float32", 4),
    "F64": ("float64", 8),
    "C64": ("complex64", 8),
}
"""The file's name of a type → torch's, and bytes of one number."""

_MAPPINGS: WeakValueDictionary[int, mmap.mmap] = WeakValueDictionary()
"""Address of the first byte → mapping, for as long as a tensor lies in it."""


def open_tensors(path: str | Path) -> MappedTensors | PickledTensors:
    """Open a file of tensors; the weights themselves are not read yet.

    Raises:
        ValueError: the file is missing, cut short, damaged, of an unknown kind, or a pickle with
            more than tensors in it.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        raise ValueError(f"the file {path} is not there; choose the file again")
    if suffix in SAFETENSORS:
        return MappedTensors(path)
    if suffix in PICKLED:
        return PickledTensors(path)
    known = ", ".join((*SAFETENSORS, *PICKLED))
    raise ValueError(f"{path} is no file of tensors that Likeness reads; it reads {known}")


class MappedTensors:
    """A `.safetensors` file. The tensors it gives are views of the mapped file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as stream:
            size = path.stat().st_size
            if size < 8:
                _refuse(path, f"it has {size} bytes")
            self._map = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        self._entries, self.metadata, self._start = _read_header(path, self._map)
        _MAPPINGS[_address(self._map)] = self._map

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: shape for name, (_, shape, _) in self._entries.items()}

    def dtypes(self) -> Mapping[str, str]:
        """Name → type as torch names it (`"float16"`)."""
        return {name: dtype for name, (dtype, _, _) in self._entries.items()}

    def tensor(self, name: str) -> torch.Tensor:
        """A view of the file; a copy where the file leaves it out of step with its type's size."""
        import torch

        dtype_name, shape, offset = self._entries[name]
        dtype = getattr(torch, dtype_name)
        count = math.prod(shape)
        if count == 0:
            return torch.empty(shape, dtype=dtype)
        begin = self._start + offset
        if begin % dtype.itemsize:
            length = count * dtype.itemsize
            whole = torch.frombuffer(self._map, dtype=torch.uint8, count=length, offset=begin)
            return whole.clone().view(dtype).view(shape)
        return torch.frombuffer(self._map, dtype=dtype, count=count, offset=begin).view(shape)


class PickledTensors:
    """A `.ckpt` or `.pt` file; tensors nested in `state_dict` are taken out of it."""

    def __init__(self, path: Path) -> None:
        import torch

        self.path = path
        self.metadata: Mapping[str, str] = {}
        content = unpickle(path)
        if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
            content = content["state_dict"]
        if not isinstance(content, dict):
            raise ValueError(
                f"{path} holds a {type(content).__name__}, not tensors with names; choose a model"
            )
        self._tensors: dict[str, torch.Tensor] = {
            name: value.detach()
            for name, value in content.items()
            if isinstance(name, str) and isinstance(value, torch.Tensor)
        }

    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def dtypes(self) -> Mapping[str, str]:
        return {name: str(t.dtype).removeprefix("torch.") for name, t in self._tensors.items()}

    def tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def is_mapped(tensor: torch.Tensor) -> bool:
    """Whether the tensor is a view of a file opened here, and so costs no memory of its own."""
    return _mapping_of(tensor) is not None


def release_pages(tensor: torch.Tensor) -> None:
    """Give back the memory in which a mapped tensor's file is mirrored; the next use reads it
    again.

    Whole pages inside of the tensor alone, so that neighbours are untouched. Does nothing for other
    tensors, or where the system cannot do it. A mapped tensor that was written to falls back to
    what the file says: weights here never are.
    """
    found = _mapping_of(tensor)
    if found is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    address, mapping = found
    begin = tensor.data_ptr() - address
    first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    span = zip(tensor.shape, tensor.stride(), strict=True)
    extent = (sum((size - 1) * stride for size, stride in span) + 1) * tensor.element_size()
    last = (begin + extent) // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first:
        mapping.madvise(mmap.MADV_DONTNEED, first, last - first)


def _mapping_of(tensor: torch.Tensor) -> tuple[int, mmap.mmap] | None:
    if tensor.device.type != "cpu" or tensor.numel() == 0:
        return None
    pointer = tensor.data_ptr()
    for address, mapping in list(_MAPPINGS.items()):
        if address <= pointer < address + len(mapping):
            return address, mapping
    return None


def _address(mapping: mmap.mmap) -> int:
    import torch

    return torch.frombuffer(mapping, dtype=torch.uint8, count=1).data_ptr()


_Entries = dict[str, tuple[str, tuple[int, ...], int]]
"""Tensor name → type as torch names it, shape, offset in bytes behind the header."""


def _read_header(path: Path, data: mmap.mmap) -> tuple[_Entries, Mapping[str, str], int]:
    """The file's entries, its metadata, and where the tensors begin.

    A safetensors file is: length of the header (8 bytes, little-endian), header (JSON), tensors one
    after the other without gaps, each at the offsets that the header says.
    """
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER, len(data) - 8):
        _refuse(path, f"its header is said to have {length} bytes")
    try:
        header = json.loads(data[8 : 8 + length].decode("utf-8"), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"its header cannot be read ({error})")
    if not isinstance(header, dict):
        _refuse(path, "its header is no list of tensors")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict):
        _refuse(path, "its metadata is no table")
    spans: list[tuple[int, int, str]] = []
    entries: _Entries = {}
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(path, name, entry)
        entries[name] = (dtype, shape, begin)
        spans.append((begin, end, name))
    _check_spans(path, spans, len(data) - 8 - length)
    return entries, {str(k): str(v) for k, v in metadata.items()}, 8 + length


def _entry(path: Path, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    try:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (KeyError, TypeError, ValueError):
        _refuse(path, f"its entry for {name!r} is incomplete")
    if not all(type(number) is int and number >= 0 for number in numbers):
        _refuse(path, f"its entry for {name!r} has impossible sizes")
    if kind not in _DTYPES:
        raise ValueError(
            f"{path} stores {name!r} as {kind!r}, which Likeness cannot read; "
            "use a copy of the model in float16, bfloat16, float32 or float8"
        )
    dtype, size = _DTYPES[kind]
    if math.prod(shape) * size != end - begin:
        _refuse(path, f"its entry for {name!r} has offsets that do not fit its shape {shape}")
    return dtype, tuple(shape), begin, end


def _check_spans(path: Path, spans: list[tuple[int, int, str]], available: int) -> None:
    spans.sort()
    for (_, end, name), (begin, _, following) in itertools.pairwise([(0, 0, "header"), *spans]):
        if begin != end:
            what = "overlaps" if begin < end else "leaves a gap after"
            _refuse(path, f"{following!r} {what} {name!r}")
    needed = max((end for _, end, _ in spans), default=0)
    if needed != available:
        _refuse(path, f"its header tells of {needed} bytes of tensors and {available} follow")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands there twice")
    return table


def unpickle(path: Path) -> Any:
    """What a pickled file holds: tensors and plain containers of them, nothing that would run.

    Raises:
        ValueError: it holds more, or is damaged.
    """
    import pickle

    import torch

    with path.open("rb") as stream:
        is_zip = stream.read(4) == b"PK\x03\x04"
    try:
        # Files from before torch 1.6 are no zip archives and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} is a pickle that holds more than tensors, and Likeness runs no code from "
            "files; use the model's .safetensors, or convert it where you trust it"
        ) from error
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        _refuse(path, first_line)


def _refuse(path: Path, why: str) -> NoReturn:
    raise ValueError(f"{path} is damaged or cut short: {why}; copy or download the file again")
