"""From an IP-Adapter file (arXiv 2308.06721) to its description, with the encoder that fits it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..files import sha256_of
from ..guidance import IPAdapter
from .encoders import Encoder, find_encoder, identity_of, read_encoder, title_of
from .files import AdapterFile, Traits, open_adapter, traits_of

FACEID_PLUS = ("v2", "v1")
"""FaceID Plus files of the two versions hold tensors of the same names and shapes; version 2 adds
the face itself to what the layers hear. What is asked for here is written into `IPAdapter.kind`.
"""


def describe_adapter(
    path: str | Path,
    encoder: str | Path | None = None,
    encoder_folders: Sequence[str | Path] = (),
    name: str | None = None,
    faceid_plus: str = "v2",
) -> IPAdapter:
    """Describe an IP-Adapter by names and shapes of its tensors, never by its file's name.

    `path`: `.safetensors`, `.bin`, `.pt`, or a folder that holds one of them. `encoder`: folder or
    file of its image encoder; `""`: none, since embeddings from a file will be used; None: the
    first in `encoder_folders`, or beside the adapter, whose widths fit. `faceid_plus`: one of
    `FACEID_PLUS`, for files of that kind.

    Raises:
        ValueError: the file cannot be used, no encoder fits, or the one given does not.
    """
    if faceid_plus not in FACEID_PLUS:
        raise ValueError(f"faceid_plus {faceid_plus!r} is unknown; use one of v2, v1")
    path = Path(path).absolute()  # not resolved: the hub's cache links to files without suffix
    file = open_adapter(path)
    traits = traits_of(file)
    found = _encoder(file, traits, encoder, encoder_folders)
    kind = traits.kind + ("-v2" if (traits.kind, faceid_plus) == ("faceid-plus", "v2") else "")
    return IPAdapter(
        path=str(file.path),
        family=traits.family,
        kind=kind,
        sha256=sha256_of(file.path),
        name=name or (path.name if path.is_dir() else path.stem),
        encoder=str(found.path) if found else "",
        encoder_identity=identity_of(found) if found else "",
    )


def about(adapter: IPAdapter) -> str:
    """A few lines for the user: what it is, for which models, with which encoder."""
    from ...families import family_named

    traits = traits_of(open_adapter(adapter.path))
    lines = [
        f"kind: {adapter.kind}",
        f"made for: {family_named(adapter.family).title}, text states {traits.context} wide",
    ]
    if traits.wanted is not None:
        lines.append(f"needs: {title_of(traits.wanted)}")
        lines.append(f"image encoder: {adapter.encoder or 'none, for saved embeddings alone'}")
    if traits.face_width:
        lines.append("needs: face embeddings, from insightface or from a file")
    return "\n".join(lines)


def _encoder(
    file: AdapterFile,
    traits: Traits,
    given: str | Path | None,
    folders: Sequence[str | Path],
) -> Encoder | None:
    if traits.wanted is None or given == "":
        return None
    if given is None:
        beside = [file.path.parent / "image_encoder", *_neighbours(file.path.parent.parent)]
        places = [Path(folder) for folder in folders]
        return find_encoder(traits.wanted, [*places, *(p for p in beside if p.is_dir())], file.path)
    encoder = read_encoder(given)
    if not encoder.fits(traits.wanted):
        raise ValueError(
            f"{encoder} is not the image encoder of {file.path}, which needs "
            f"{title_of(traits.wanted)}; choose another, or let it be found"
        )
    return encoder


def _neighbours(folder: Path) -> list[Path]:
    """`models/image_encoder` beside `sdxl_models`, as h94/IP-Adapter has them."""
    return [folder / "models" / "image_encoder", folder / "sdxl_models" / "image_encoder"]
