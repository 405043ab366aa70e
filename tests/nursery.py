"""A process that imports everything once and computes nothing; what it is told to run, it forks.

A real process for the price of a fork: to be killed, limited, signalled, or put into a team.
"""

from __future__ import annotations

import gc
import importlib
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NEEDED = (
    "likeness.cli",
    "likeness.trainers.run",
    "accelerate",
    "diffusers.optimization",
    "diffusers.training_utils",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "peft",
    "PIL.PngImagePlugin",
    "psutil",
    "torch.distributed",
    "torch.utils.serialization",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "transformers.optimization",
)
PATIENCE = 300.0
"""Seconds after which a child counts as hanging, on however busy a machine."""


class Nursery:
    """Seen from outside. `place`: a byte that children share with us."""

    def __init__(self, folder: Path) -> None:
        shared = folder / "place"
        shared.write_bytes(b"\0")
        self._file = shared.open("rb+")
        self.place = mmap.mmap(self._file.fileno(), 1)
        self.complaints = folder / "complaints.txt"
        self._errors = self.complaints.open("w")
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(shared)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
        )
        assert self._answer() == "ready"

    def start(self, what: str, **told: Any) -> int:
        """Fork a child that runs `what` (`"module:function"`, given `told`) → its process id."""
        self.place[0] = 0
        return self._ask("start", {"what": what, "told": told})

    def start_command(
        self,
        *arguments: str,
        output: Path,
        input: Path = Path(os.devnull),
        memory: int = 0,
        **environment: str,
    ) -> int:
        """A child that runs `likeness` with these arguments, its words in the file `output`.

        `input`: what it reads as standard input. `memory`: bytes of address space that it may take
        on top; 0: no limit.
        """
        return self.start(
            "nursery:command",
            arguments=arguments,
            output=str(output),
            input=str(input),
            memory=memory,
            environment=environment,
        )

    def ended(self, process: int) -> int | None:
        """The child's exit code, minus the signal that ended it; None while it lives."""
        return self._ask("ended", process)

    def wait(self, process: int) -> int:
        end = time.monotonic() + PATIENCE
        while (code := self.ended(process)) is None:
            assert time.monotonic() < end, "it hangs"
            time.sleep(0.005)
        return code

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()
        self.place.close()
        self._file.close()

    def _ask(self, request: str, value: Any) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([request, value]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, self.complaints.read_text()
        return json.loads(line)


@contextmanager
def a_nursery() -> Iterator[Nursery]:
    with tempfile.TemporaryDirectory() as name:
        nursery = Nursery(Path(name))
        try:
            yield nursery
        finally:
            nursery.close()


# --- inside ---------------------------------------------------------------------------------------


def serve(shared: str) -> None:
    for module in NEEDED:
        importlib.import_module(module)
    with Path(shared).open("rb+") as stream:
        place = mmap.mmap(stream.fileno(), 1)
    gc.collect()
    gc.freeze()  # or every child would look through all of that again
    _say("ready")
    for line in sys.stdin:
        request, value = json.loads(line)
        if request == "ended":
            process, status = os.waitpid(value, os.WNOHANG)
            _say(os.waitstatus_to_exitcode(status) if process else None)
        elif process := os.fork():
            _say(process)
        else:
            os._exit(_run(value["what"], value["told"], place))


def _say(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def _run(what: str, told: dict[str, Any], place: mmap.mmap) -> int:
    """In the child → its exit code."""
    import traceback

    os.dup2(2, 1)  # the nursery alone answers
    module, _, function = what.partition(":")
    try:
        return getattr(importlib.import_module(module), function)(place, **told) or 0
    except BaseException:
        traceback.print_exc()
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def command(
    place: mmap.mmap,
    arguments: list[str],
    output: str,
    input: str,
    memory: int,
    environment: dict[str, str],
) -> int:
    """Run `likeness` with these arguments."""
    from likeness.cli import main

    os.environ.update(environment)
    with Path(output).open("w") as stream:
        for number in (1, 2):
            os.dup2(stream.fileno(), number)
    with Path(input).open("rb") as stream:
        os.dup2(stream.fileno(), 0)
    if memory:
        import resource

        import psutil

        most = psutil.Process().memory_info().vms + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return main(arguments)


if __name__ == "__main__":
    serve(sys.argv[1])
