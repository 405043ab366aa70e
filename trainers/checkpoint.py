"""Checkpoints: folders `step-000500` that are whole or absent, from which a run goes on bit for
bit.

Nothing in them is executable: tensors are safetensors, and optimiser state is read with
`weights_only=True`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .report import Report

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 2
"""The newest that are kept: one more than needed, in case the newest turns out damaged."""


@dataclass(frozen=True)
class Checkpoint:
    """The state after `step`. `machinery`: optimiser, schedule and gradient scaler, as their
    `state_dict` gives it.
    """

    step: int
    learned: dict[str, Tensor]
    machinery: dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """The `checkpoints` folder of the run with that fingerprint."""

    folder: Path
    fingerprint: str

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint and drop those that are no longer kept."""
        import torch
        from safetensors.torch import save_file

        final = self.folder / f"step-{checkpoint.step:06d}"
        if final.is_dir():
            return  # the same step of the same run holds the same numbers
        temporary = self.folder / f".writing-{final.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        facts = {"step": checkpoint.step, "fingerprint": self.fingerprint}
        (temporary / "checkpoint.json").write_text(json.dumps(facts), encoding="utf-8")
        save_file(checkpoint.learned, temporary / "learned.safetensors")
        torch.save(checkpoint.machinery, temporary / "machinery.pt")
        for path in temporary.iterdir():
            with path.open("rb+") as stream:
                os.fsync(stream.fileno())
        temporary.replace(final)
        for old in self._folders()[:-KEPT]:
            shutil.rmtree(old)

    def newest(self, report: Report) -> Checkpoint | None:
        """The newest checkpoint that is whole and of this run, or None. A damaged one is reported
        and passed over.
        """
        from pickle import UnpicklingError

        from safetensors import SafetensorError

        for folder in reversed(self._folders()):
            try:
                return self._read(folder)
            except (
                OSError,
                ValueError,
                KeyError,
                RuntimeError,
                SafetensorError,
                UnpicklingError,
                EOFError,
            ) as error:
                report.message(f"the checkpoint {folder} cannot be used ({error}) and is removed")
                shutil.rmtree(folder)
        return None

    def _read(self, folder: Path) -> Checkpoint:
        import torch
        from safetensors.torch import load_file

        facts = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
        if facts["fingerprint"] != self.fingerprint:
            raise ValueError("it belongs to another run")
        learned = load_file(folder / "learned.safetensors")
        machinery = torch.load(folder / "machinery.pt", map_location="cpu", weights_only=True)
        return Checkpoint(facts["step"], learned, machinery)

    def _folders(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        pattern = re.compile(r"step-\d{6,}")
        found = [path for path in self.folder.iterdir() if pattern.fullmatch(path.name)]
        return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))
