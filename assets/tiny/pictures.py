"""The training pictures on disk: drawn once, then read by every stage."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from draw import Picture, paint, random_picture
from monsters import Monster

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

COUNT = 24_000
HELD_OUT = 1_000  # the last ones: no stage trains on them
CHUNK = 500


def draw_chunk(seed: int) -> tuple[np.ndarray, list[dict]]:
    """CHUNK pictures (CHUNK, 64, 64, 3) and what they show."""
    import numpy as np

    rng = random.Random(seed)
    shown = [random_picture(rng) for _ in range(CHUNK)]
    return np.stack([np.asarray(paint(p, rng)) for p in shown]), [asdict(p) for p in shown]


def draw_all(work: Path) -> None:
    """Writes pictures.npy and pictures.json; seeds 1000, 1001, ..., one per chunk."""
    import multiprocessing

    import numpy as np

    if (work / "pictures.json").exists():
        return
    with multiprocessing.Pool(2) as pool:
        chunks = pool.map(draw_chunk, range(1000, 1000 + COUNT // CHUNK), chunksize=1)
    np.save(work / "pictures.npy", np.concatenate([pixels for pixels, _ in chunks]))
    (work / "pictures.json").write_text(json.dumps([shown for _, part in chunks for shown in part]))


def pixels(work: Path) -> Tensor:
    """All pictures, uint8 (COUNT, 3, 64, 64)."""
    import numpy as np
    import torch

    return torch.from_numpy(np.load(work / "pictures.npy")).permute(0, 3, 1, 2)


def signed(pictures: Tensor) -> Tensor:
    """uint8 0..255 to float -1..1."""
    return pictures.float() / 127.5 - 1


def shown(work: Path) -> list[Picture]:
    """What each picture shows."""
    records = json.loads((work / "pictures.json").read_text())
    return [Picture(**r | {"look": Monster(**r["look"]) if r["look"] else None}) for r in records]
