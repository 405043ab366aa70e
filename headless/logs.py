"""What the pack logs while a workflow runs, as lines above the progress bar."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PACK = logging.getLogger(__name__.partition(".")[0])
"""The logger above those of all our modules."""


@contextmanager
def logged_lines(say: Callable[[str], None], warn: Callable[[str], None]) -> Iterator[None]:
    """For the length of the block: `say` gets what is told, such as what "auto" became in a
    training; `warn` the warnings.
    """
    handler, level = _Lines(say, warn), PACK.level
    PACK.addHandler(handler)
    PACK.setLevel(logging.INFO)
    try:
        yield
    finally:
        PACK.setLevel(level)
        PACK.removeHandler(handler)


class _Lines(logging.Handler):
    def __init__(self, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
        super().__init__()
        self._say, self._warn = say, warn

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tell = self._warn if record.levelno >= logging.WARNING else self._say
        with tqdm.external_write_mode(file=sys.stderr):  # the bar makes room and comes back
            tell(self.format(record))
