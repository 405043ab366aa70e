"""Other people's code, called so that nothing outside of it changes."""

from __future__ import annotations

import io
import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

_TOP_LEVEL = ("geffnet", "midas")
"""What parts of controlnet-aux import as if it were a package of its own."""


@contextmanager
def seeded(seed: int, device: str) -> Iterator[None]:
    """Every generator that belongs to the process starts at `seed`, and is as before afterwards.

    No gradients are kept and no warnings shown in between. `device`: where torch draws as well.
    """
    import numpy as np
    import torch

    before = random.getstate(), np.random.get_state()
    cards = [device] if device.startswith("cuda") else []
    try:
        with torch.random.fork_rng(cards), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            random.seed(seed)
            np.random.seed(seed)
            torch.default_generator.manual_seed(seed)  # not those of other devices
            for card in cards:
                with torch.cuda.device(card):
                    torch.cuda.manual_seed(seed)
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


@contextmanager
def quiet_import() -> Iterator[None]:
    """Without what is printed or warned about on the way, and without what importing sets up beside
    the modules themselves: environment variables, search paths, and packages under common names.
    """
    environment, path, modules = dict(os.environ), list(sys.path), set(sys.modules)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for name in [name for name in os.environ if name not in environment]:
            del os.environ[name]
        os.environ.update(environment)
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if name.partition(".")[0] in _TOP_LEVEL:
                del sys.modules[name]
