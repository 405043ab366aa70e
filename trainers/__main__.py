"""`python -m likeness.trainers RUN_FOLDER`: train, or go on training, a run folder by hand."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from .report import QuietReport
from .run import train_folder


class LineReport(QuietReport):
    """One line that counts up, on the error stream."""

    def step(
        self,
        step: int,
        total: int,
        loss: float,
        parts: Mapping[str, float],
        lr: float,
        seconds_left: float,
    ) -> None:
        end = "\n" if step == total else "\r"
        sys.stderr.write(f"step {step}/{total}  loss {loss:.4f}  {seconds_left:.0f} s left   {end}")

    def preparing(self, what: str, done: int, total: int) -> None:
        sys.stderr.write(f"{what}: {done} of {total}   " + ("\n" if done == total else "\r"))

    def message(self, text: str) -> None:
        sys.stderr.write(text + "\n")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="likeness train", description=__doc__)
    parser.add_argument(
        "folder", help="a run folder, as a training node or `create_or_find` makes it"
    )
    parser.add_argument(
        "--device", default="", help="such as cpu or cuda:1; default: the best there is"
    )
    parser.add_argument(
        "--comfyui",
        type=Path,
        default=os.environ.get("COMFYUI_PATH"),
        help="a ComfyUI folder, for tokenizers that a single-file base model does not bring; "
        "default: the environment variable COMFYUI_PATH",
    )
    options = parser.parse_args(arguments)
    try:
        result = train_folder(options.folder, options.device, LineReport(), options.comfyui)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(f"{result.lora_path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
