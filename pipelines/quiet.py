"""Libraries that draw their own progress bars, kept quiet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Without the libraries' own progress bars, which would tear the host's apart."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    switches = [
        module
        for module in (diffusers_logging, transformers_logging)
        if module.is_progress_bar_enabled()
    ]
    for module in switches:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in switches:
            module.enable_progress_bar()
