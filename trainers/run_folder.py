"""A run is a folder: `run.json`, `images/`, `images.jsonl`, `checkpoints/`, `samples/`,
`log.jsonl`, `result/`.

The same job asked for again is found here, not trained again; a stopped or killed one goes on.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..pipelines.files import atomic_write, flush_to_disk
from ..pipelines.spec import PipelineSpec
from ..version import __version__
from .data.stored import store_samples, stored_samples
from .failures import explaining
from .job import FORMAT, TrainingJob, describe_job, fingerprint, model_identity
from .machine.leftovers import OLD, clear_half_written, clear_making, making_name
from .machine.lock import held, owner_of
from .methods import method_named
from .settings import PriorSettings, TrainingSettings, WatchSettings, from_dict, to_dict

_RESERVED = {
    "con",
    "prn",
    "aux",
    "nul",
    *(f"{port}{n}" for port in ("com", "lpt") for n in range(10)),
}


IMAGES = "images.jsonl"
"""One line for each picture: `run.json` stays small, however many there are."""


@dataclass(frozen=True)
class RunFolder:
    """One run on disk. `facts`: what `run.json` holds."""

    path: Path
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        return self.facts["name"]

    @property
    def fingerprint(self) -> str:
        return self.facts["fingerprint"]

    @property
    def root(self) -> Path:
        """Where runs lie side by side, and the class pictures that they share."""
        return self.path.parent

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def result(self) -> Path:
        return self.path / "result"

    @property
    def outcome(self) -> dict[str, Any] | None:
        """`result/result.json` (steps, stopped, files), or None while there is no result."""
        file = self.result / "result.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    @property
    def has_result(self) -> bool:
        """Whether something was learned, perhaps not to its last step, and its files are there."""
        outcome = self.outcome
        return outcome is not None and all((self.path / file).exists() for file in outcome["files"])

    @property
    def is_finished(self) -> bool:
        """Whether it was trained to its last step, and its files are still there."""
        outcome = self.outcome
        return outcome is not None and not outcome["stopped"] and self.has_result

    def write_outcome(
        self, steps: int, stopped: bool, files: Sequence[Path], class_images: Sequence[Path]
    ) -> None:
        """Written last, after the files that it names, relative to the run folder."""
        outcome = {
            "steps": steps,
            "stopped": stopped,
            "files": [self._relative(file) for file in files],
            "class_images": [self._relative(file) for file in class_images],
        }
        _write_json(self.result / "result.json", outcome)

    def _relative(self, file: Path) -> str:
        return Path(os.path.relpath(file, self.path)).as_posix()

    def job(self) -> TrainingJob:
        """The job as it was asked for, with the pictures of this folder.

        Raises:
            ValueError: `run.json` was changed by hand into something that cannot be, or a
                picture changed.
        """
        facts = self.facts
        method = method_named(facts["method"])
        job = TrainingJob(
            spec=PipelineSpec.from_dict(facts["spec"]),
            samples=stored_samples(self.path / "images", _entries(self.path)),
            method=method.name,
            method_settings=from_dict(method.settings_type, facts["method_settings"]),
            training=from_dict(TrainingSettings, facts["training"]),
            prior=tuple(from_dict(PriorSettings, prior) for prior in facts["prior"]),
            watch=from_dict(WatchSettings, facts["watch"]),
            trigger=facts["trigger"],
            workflow=facts["workflow"],
        )
        if fingerprint(job) != self.fingerprint:
            raise ValueError(
                f"{self.path} is not what its fingerprint says: settings, pictures or the base "
                f"model ({job.spec.base.path}) have changed since; start a new run"
            )
        return job

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else trains this folder meanwhile. The lock of a process that died is no lock.

        Raises:
            ValueError: somebody else does; names the process.
        """
        file = self.path / "lock"
        with held(file) as mine:
            if not mine:
                owner = owner_of(file) or "another process"
                raise ValueError(f"{self.path} is being trained by {owner}; wait for it or stop it")
            self._clear()
            yield

    def _clear(self) -> None:
        """Without what processes that were killed had begun to write."""
        own = (".log.*", "checkpoints/.*", "samples/.*", "result/**/.*")
        clear_half_written(self.path, *own)
        clear_half_written(self.root, "class_images/*/.*", "cache/**/.*", older_than=OLD)


def open_run_folder(path: str | Path) -> RunFolder:
    """The run in that folder.

    Raises:
        ValueError: it holds no run, or one of another version of the format.
    """
    path = Path(path).resolve()
    file = path / "run.json"
    if not file.is_file():
        raise ValueError(f"{path} is not a run folder: it has no run.json")
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        version = facts["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} cannot be read ({error}); start a new run") from error
    if version != FORMAT:
        raise ValueError(f"{path} has run format {version}; this Likeness reads format {FORMAT}")
    return RunFolder(path, facts)


def create_or_find(root: str | Path, name: str, job: TrainingJob) -> RunFolder:
    """The run folder of `job` under `root`: the one that is there already, finished or not, else a
    new one.

    Raises:
        ValueError: `name` is no plain folder name.
        DiskFull: it does not fit on the disk; nothing is left of it.
    """
    mark = fingerprint(job)
    path = Path(root).resolve() / f"{plain_name(name)}-{mark[:12]}"
    if (path / "run.json").is_file():
        return _as_wished(open_run_folder(path), job)
    temporary = path.with_name(making_name(path.name))
    shutil.rmtree(temporary, ignore_errors=True)
    clear_making(path.parent)
    try:
        with explaining("making the run folder", job.training):
            temporary.mkdir(parents=True)
            _fill(temporary, plain_name(name), job, mark)
            _take_place(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_run_folder(path)


def _as_wished(run: RunFolder, job: TrainingJob) -> RunFolder:
    """A run that was there already, watched and computed as is wished now: none of that changes
    what it learns.
    """
    facts = {**run.facts, "watch": to_dict(job.watch), "training": to_dict(job.training)}
    if facts == run.facts:
        return run
    _write_json(run.path / "run.json", facts)
    return RunFolder(run.path, facts)


def plain_name(name: str) -> str:
    """`name`, if it can be the name of a file in the run folder on every system.

    Raises:
        ValueError: empty, with a path in it, or a name that Windows keeps for itself.
    """
    name = name.strip()
    if not name:
        raise ValueError("the run has no name; give it one, such as 'my dog'")
    if (
        re.search(r'[<>:"/\\|?*\x00-\x1f]', name)
        or name.startswith(".")
        or name.endswith(".")
        or name.split(".")[0].strip().lower() in _RESERVED
        or len(name.encode()) > 100
    ):
        raise ValueError(
            f"{name!r} cannot be the name of a run; use letters, digits, spaces, '-' and '_', "
            "at most 100 of them"
        )
    return name


def _fill(folder: Path, name: str, job: TrainingJob, mark: str) -> None:
    with (
        atomic_write(folder / IMAGES) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as lines,
    ):
        for entry in store_samples(folder / "images", job.samples):
            lines.write(json.dumps(entry) + "\n")
    facts = {
        "format": FORMAT,
        "name": name,
        "fingerprint": mark,
        **describe_job(job),
        "model_identity": model_identity(job.spec),
        "watch": to_dict(job.watch),
        "versions": _versions(),
        "workflow": job.workflow,
    }
    _write_json(folder / "run.json", facts)


def _take_place(temporary: Path, path: Path) -> None:
    """Rename the finished folder; the same one, made by somebody else meanwhile, is as good."""
    try:
        temporary.rename(path)
    except OSError:
        if not (path / "run.json").is_file():
            raise
    flush_to_disk(path.parent)


def _entries(folder: Path) -> Iterator[dict[str, Any]]:
    """What is told of each picture.

    Raises:
        ValueError: the file is gone or broken.
    """
    try:
        with (folder / IMAGES).open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / IMAGES} cannot be read ({error}); start a new run") from error


def _write_json(path: Path, value: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    versions = {"likeness": __version__}
    for package in ("torch", "diffusers", "transformers", "peft"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions
